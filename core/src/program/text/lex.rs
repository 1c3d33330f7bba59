//! One line as tokens with their columns.

/// What a token is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    /// A word or a number.
    Word(&'a str),
    /// `[`
    Open,
    /// `]`
    Close,
    /// `=`
    Equals,
    /// `..`
    Dots,
    /// `->`
    Arrow,
    /// `#` and a number, in an `at` line.
    Nth(&'a str),
}

impl Token<'_> {
    /// The token as it stands in the text.
    pub(super) fn text(&self) -> String {
        match self {
            Token::Word(w) => (*w).to_string(),
            Token::Open => "[".to_string(),
            Token::Close => "]".to_string(),
            Token::Equals => "=".to_string(),
            Token::Dots => "..".to_string(),
            Token::Arrow => "->".to_string(),
            Token::Nth(n) => format!("#{n}"),
        }
    }
}

/// The tokens of a line, each with its column in characters from 1.
pub(super) struct Lexed<'a> {
    pub(super) tokens: Vec<(Token<'a>, usize)>,
    /// What follows the `#` of a comment.
    pub(super) comment: Option<&'a str>,
    /// Column after the last token.
    pub(super) end: usize,
}

/// Splits a line. Every line can be split.
pub(super) fn lex(line: &str) -> Lexed<'_> {
    let mut out = Lexed { tokens: Vec::new(), comment: None, end: 1 };
    let (mut rest, mut column) = (line, 1);
    while let Some(c) = rest.chars().next() {
        if c.is_whitespace() {
            rest = &rest[c.len_utf8()..];
            column += 1;
            continue;
        }
        let Some((token, len)) = token(rest, &out.tokens) else {
            out.comment = Some(rest[1..].trim_end());
            break;
        };
        out.tokens.push((token, column));
        column += rest[..len].chars().count();
        out.end = column;
        rest = &rest[len..];
    }
    out
}

/// The token that `rest`, which is not empty, begins with, and its length in bytes. `None`: a comment.
fn token<'a>(rest: &'a str, before: &[(Token<'a>, usize)]) -> Option<(Token<'a>, usize)> {
    let fixed =
        [("[", Token::Open), ("]", Token::Close), ("=", Token::Equals), ("..", Token::Dots), ("->", Token::Arrow)];
    for (text, token) in fixed {
        if rest.starts_with(text) {
            return Some((token, text.len()));
        }
    }
    if let Some(after) = rest.strip_prefix('#') {
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let interrupt = matches!(before.first(), Some((Token::Word("at"), _)))
            && !before.iter().any(|(t, _)| matches!(t, Token::Arrow | Token::Nth(_)));
        return (digits > 0 && interrupt).then(|| (Token::Nth(&after[..digits]), 1 + digits));
    }
    let ends = |at: usize, c: char| {
        c.is_whitespace()
            || matches!(c, '[' | ']' | '=' | '#')
            || rest[at..].starts_with("..")
            || rest[at..].starts_with("->")
    };
    let len = rest.char_indices().find(|(at, c)| ends(*at, *c)).map_or(rest.len(), |(at, _)| at);
    Some((Token::Word(&rest[..len]), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_comments_are_set_apart() {
        let l = lex("\t\u{e9}\u{e9} heap[0..4]# why \r");
        let columns: Vec<usize> = l.tokens.iter().map(|t| t.1).collect();
        assert_eq!(columns, [2, 5, 9, 10, 11, 13, 14]);
        assert_eq!((l.comment, l.end), (Some(" why"), 15));
    }

    #[test]
    fn a_number_sign_is_a_count_only_in_an_at_line_before_the_arrow() {
        assert_eq!(lex("A read heap[0] #1 first").comment, Some("1 first"));
        let l = lex("at cpu0 op:start #12->cpu1 #1 x");
        assert_eq!(l.tokens[3].0, Token::Nth("12"));
        assert_eq!(l.comment, Some("1 x"));
        assert_eq!(lex("at cpu0 op:start # none").comment, Some(" none"));
    }
}
