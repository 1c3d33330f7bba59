//! Words for an unknown word: the nearest known one, or all of them when they are few, or the command that lists them.

/// Longest list of known words that is shown whole.
const FEW: usize = 8;
/// Words that `ptefuzz list` lists, and under which topic.
const LISTED: [(&str, &str); 5] =
    [("op", "ops"), ("verdict", "rules"), ("defect", "defects"), ("design", "designs"), ("site", "sites")];
/// Longest part of a found word that a message repeats, in characters.
const SHOWN: usize = 40;

/// The found word as messages quote it: bounded, and without control characters.
pub(super) fn quote(word: &str) -> String {
    let mut shown: String = word.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if word.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}

/// "unknown `what` `found`" and what it may have been meant to be.
pub(super) fn unknown(what: &str, found: &str, known: &[&str]) -> String {
    let mut message = format!("unknown {what} {}", quote(found));
    if let Some(near) = nearest(found, known) {
        message.push_str(&format!("; did you mean `{near}`?"));
    } else if known.len() <= FEW && !known.is_empty() {
        message.push_str(&format!("; expected {}", list(known)));
    } else if let Some((_, topic)) = LISTED.iter().find(|(listed, _)| *listed == what) {
        message.push_str(&format!("; `ptefuzz list {topic}` prints the known ones"));
    }
    message
}

/// "`a`, `b` or `c`".
pub(super) fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The known word that is a typing mistake or two away from `found`.
fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let found: Vec<char> = found.chars().take(SHOWN).collect();
    known
        .iter()
        .map(|k| (distance(&found, &k.chars().collect::<Vec<_>>()), *k))
        .filter(|(d, k)| *d <= (k.len() / 3).max(1))
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = [vec![0; b.len() + 1], (0..=b.len()).collect::<Vec<_>>(), vec![0; b.len() + 1]];
    for i in 1..=a.len() {
        let [before, last, row] = &mut rows;
        row[0] = i;
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        rows.rotate_left(1);
    }
    rows[1][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(a: &str, b: &str) -> usize {
        distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>())
    }

    #[test]
    fn a_swap_of_neighbours_is_one_mistake() {
        assert_eq!((d("raed", "read"), d("", "abc"), d("abc", ""), d("same", "same")), (1, 3, 3, 0));
        assert_eq!(d("kitten", "sitting"), 3);
    }

    #[test]
    fn a_far_word_gets_the_list_when_it_is_short_and_else_the_way_to_it() {
        assert_eq!(unknown("page", "zzz", &["a1", "b1"]), "unknown page `zzz`; expected `a1` or `b1`");
        assert_eq!(unknown("op", "wirte", &["read", "write"]), "unknown op `wirte`; did you mean `write`?");
        let many = ["a1"; 20];
        assert_eq!(unknown("site", "zzz", &many), "unknown site `zzz`; `ptefuzz list sites` prints the known ones");
    }
}
