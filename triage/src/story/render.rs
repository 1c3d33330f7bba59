//! A story as text for a terminal and as Markdown.

use std::fmt::Write;

use super::{Count, MOST_LINES, Row, Story};

/// Longest line of the text form, in characters.
const WIDTH: usize = 118;

/// Terminal colours; empty strings when there are none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Palette {
    bold: &'static str,
    wrong: &'static str,
    dim: &'static str,
    off: &'static str,
}

impl Palette {
    /// With colours or without.
    pub fn new(colour: bool) -> Palette {
        match colour {
            true => Palette { bold: "\x1b[1m", wrong: "\x1b[31m", dim: "\x1b[2m", off: "\x1b[0m" },
            false => Palette::default(),
        }
    }
}

/// A line and whether it is a note.
struct Line {
    text: String,
    note: bool,
}

impl Story {
    /// The story in at most [`MOST_LINES`] lines; the middle is left out when it is longer.
    pub fn to_text(&self, palette: Palette) -> String {
        let Palette { bold, wrong: red, dim, off } = palette;
        let mut out = String::new();
        for (i, line) in wrap(&self.title(), WIDTH, "  ").iter().enumerate() {
            let _infallible = if i == 0 { writeln!(out, "{bold}{line}{off}") } else { writeln!(out, "{line}") };
        }
        for line in wrap(&format!("   {}", self.setting), WIDTH, "     ") {
            let _infallible = writeln!(out, "{dim}{line}{off}");
        }
        let wrong: Vec<String> = self
            .wrong
            .iter()
            .enumerate()
            .flat_map(|(i, text)| wrap(&format!("{}{text}", if i == 0 { " ! " } else { "   " }), WIDTH, "     "))
            .collect();
        let room = MOST_LINES.saturating_sub(out.lines().count() + wrong.len());
        for line in elide(self.table(), room) {
            let text = line.text.trim_end();
            let _infallible = match line.note {
                true => writeln!(out, "{dim}{text}{off}"),
                false => writeln!(out, "{text}"),
            };
        }
        for line in wrong {
            let _infallible = writeln!(out, "{red}{line}{off}");
        }
        out
    }

    /// The story as Markdown: a heading, a table and a list.
    pub fn to_markdown(&self) -> String {
        let mut out = format!("## {}\n\n", escape(&self.title()));
        let _infallible = write!(out, "On {}.\n\n", escape(&self.setting));
        let mut columns = vec!["#".to_owned(), "cpu".to_owned(), "op".to_owned()];
        columns.extend(self.pages.iter().cloned());
        if let Some(folio) = &self.folio {
            columns.extend([format!("{folio}: mapcount"), "refcount".to_owned()]);
        }
        let cells =
            |cells: &[String]| format!("| {} |\n", cells.iter().map(|c| escape(c)).collect::<Vec<_>>().join(" | "));
        out.push_str(&cells(&columns));
        out.push_str(&format!("|{}\n", " --- |".repeat(columns.len())));
        for row in &self.rows {
            let mut line = vec![
                row.op.map(|n| n.to_string()).unwrap_or_default(),
                row.cpu.map(|c| format!("cpu{c}")).unwrap_or_default(),
                op_text(row),
            ];
            let notes: String = row.notes.iter().map(|n| format!("; {n}")).collect();
            line[2].push_str(&notes);
            line.extend(self.entries_of(row));
            if self.folio.is_some() {
                line.extend(counts(row));
            }
            out.push_str(&cells(&line));
        }
        out.push('\n');
        for text in &self.wrong {
            let _infallible = writeln!(out, "- {}", escape(text));
        }
        out
    }

    fn title(&self) -> String {
        match self.id {
            Some(id) => format!("{id}: {}", self.headline),
            None => self.headline.clone(),
        }
    }

    fn entries_of(&self, row: &Row) -> Vec<String> {
        let mut cells: Vec<String> = row.entries.iter().map(|e| e.clone().unwrap_or_default()).collect();
        cells.resize(self.pages.len(), String::new());
        cells
    }

    /// Header, rows and notes as lines of equal columns.
    fn table(&self) -> Vec<Line> {
        let mut header = vec![String::new()];
        header.extend(self.pages.iter().cloned());
        if let Some(folio) = &self.folio {
            header.extend([format!("{folio}: mapcount"), "refcount".to_owned()]);
        }
        let mut grid: Vec<Vec<String>> = vec![header];
        for row in &self.rows {
            let number = row.op.map(|n| n.to_string()).unwrap_or_default();
            let cpu = row.cpu.filter(|_| row.skipped.is_none()).map(|c| format!("cpu{c}")).unwrap_or_default();
            let number = if row.skipped.is_some() { String::new() } else { number };
            let mut line = vec![format!("{number:>2} {cpu:<4} {}", op_text(row))];
            line.extend(self.entries_of(row));
            if self.folio.is_some() {
                line.extend(counts(row));
            }
            grid.push(line);
        }
        let columns = grid[0].len();
        let widths: Vec<usize> =
            (0..columns).map(|c| grid.iter().map(|l| l[c].chars().count()).max().unwrap_or(0)).collect();
        let narrow = widths.iter().map(|w| w + 2).sum::<usize>() <= WIDTH;
        let mut lines = Vec::new();
        for (i, cells) in grid.iter().enumerate() {
            lines.extend(
                lay_out(&grid[0], cells, narrow.then_some(&widths)).into_iter().map(|text| Line { text, note: false }),
            );
            let notes = i.checked_sub(1).map_or(&[][..], |r| &self.rows[r].notes);
            for note in notes {
                lines.extend(
                    wrap(&format!("{:11}{note}", ""), WIDTH, &" ".repeat(13))
                        .into_iter()
                        .map(|text| Line { text, note: true }),
                );
            }
        }
        lines
    }
}

/// One row as a line of columns with these widths; without widths the cells stand below the op, each with the name
/// of its column.
fn lay_out(header: &[String], cells: &[String], widths: Option<&Vec<usize>>) -> Vec<String> {
    let pad = |text: &str, width: usize| format!("{text:<width$}  ");
    if let Some(widths) = widths {
        return vec![cells.iter().zip(widths).map(|(c, w)| pad(c, *w)).collect()];
    }
    if header == cells {
        return Vec::new();
    }
    let named = |(name, cell): (&String, &String)| match name.ends_with("count") {
        true => format!("{name} {cell}"),
        false => format!("{name}: {cell}"),
    };
    let rest: Vec<String> = header.iter().zip(cells).skip(1).filter(|(_, cell)| !cell.is_empty()).map(named).collect();
    let mut lines = vec![cells[0].clone()];
    if !rest.is_empty() {
        lines.extend(wrap(&format!("{:8}{}", "", rest.join("; ")), WIDTH, &" ".repeat(10)));
    }
    lines
}

fn op_text(row: &Row) -> String {
    match (row.skipped, row.resumed) {
        (Some(n), _) => format!("... {n} ops that touch nothing of this ..."),
        (None, true) => format!("... {}", row.text),
        (None, false) => row.text.clone(),
    }
}

fn counts(row: &Row) -> [String; 2] {
    let mut mapcount = row.mapcount.map(count).unwrap_or_default();
    if row.parted {
        mapcount.push_str(" !");
    }
    [mapcount, row.refcount.map(count).unwrap_or_default()]
}

fn count(c: Count) -> String {
    match c.before {
        Some(before) if before != c.after => format!("{before} -> {}", c.after),
        _ => c.after.to_string(),
    }
}

/// Leaves out the middle of what does not fit into `room` lines.
fn elide(mut lines: Vec<Line>, room: usize) -> Vec<Line> {
    if lines.len() > room && room > 2 {
        let left_out = lines.len() - (room - 1);
        let start = room / 3;
        let text = format!("{:8}... {left_out} lines left out ...", "");
        lines.splice(start..start + left_out, [Line { text, note: true }]);
    }
    lines
}

/// Breaks a line at spaces so that no part is longer than `width`; later parts begin with `indent`.
fn wrap(text: &str, width: usize, indent: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text.to_owned();
    while rest.chars().count() > width {
        let limit = rest.char_indices().nth(width).map_or(rest.len(), |(at, _)| at);
        let lead = rest.len() - rest.trim_start().len();
        let Some(cut) = rest[..limit].rfind(' ').filter(|at| *at > lead.max(indent.len())) else { break };
        let tail = rest.split_off(cut);
        lines.push(std::mem::replace(&mut rest, format!("{indent}{}", tail.trim_start())));
    }
    lines.push(rest);
    lines
}

/// Text that Markdown shows as it is.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside_word = false;
    for c in text.chars() {
        // An underscore inside a word, as in most names of the kernel, is not taken for emphasis.
        if matches!(c, '|' | '*' | '<' | '`' | '\\') || (c == '_' && !inside_word) {
            out.push('\\');
        }
        out.push(c);
        inside_word = c.is_alphanumeric() || (c == '_' && inside_word);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_break_at_spaces_and_nothing_is_lost() {
        let text = format!(" ! {}", "word ".repeat(60).trim_end());
        let lines = wrap(&text, 40, "   ");
        assert!(lines.iter().all(|l| l.chars().count() <= 40), "{lines:?}");
        assert_eq!(lines.join(" ").split_whitespace().count(), 61);
        assert_eq!(wrap(&"x".repeat(50), 40, ""), ["x".repeat(50)]);
    }

    #[test]
    fn what_is_too_wide_for_columns_stands_below_its_op_with_names() {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let header = words(&["", "A heap[0]", "B heap[0]", "f1: mapcount", "refcount"]);
        let cells = words(&[" 1 cpu0 A fork B", "x -> y", "", "1 -> 2", "2"]);
        assert_eq!(
            lay_out(&header, &cells, None),
            [" 1 cpu0 A fork B", "        A heap[0]: x -> y; f1: mapcount 1 -> 2; refcount 2"]
        );
        assert!(lay_out(&header, &header, None).is_empty());
    }

    #[test]
    fn the_middle_of_many_lines_is_left_out_with_their_number() {
        let lines = (0..100).map(|i| Line { text: i.to_string(), note: false }).collect();
        let kept = elide(lines, 10);
        assert_eq!(kept.len(), 10);
        assert_eq!(kept[3].text.trim(), "... 91 lines left out ...");
        assert_eq!(kept[9].text, "99");
    }
}
