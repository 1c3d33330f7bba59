//! The words of one line, taken one after another.

use super::lex::{Lexed, Token};
use super::names::{Bindings, NoWindow};
use super::suggest::{list, quote, unknown};
use super::{DEVICES, PROCS, ParseError};
use crate::config::Config;

/// The result of reading a part of a line.
pub(super) type Result<T> = std::result::Result<T, ParseError>;

/// A place in a line.
pub(super) struct Words<'l, 'a> {
    line: usize,
    lexed: &'l Lexed<'a>,
    next: usize,
}

impl<'l, 'a> Words<'l, 'a> {
    pub(super) fn new(line: usize, lexed: &'l Lexed<'a>) -> Self {
        Words { line, lexed, next: 0 }
    }

    /// Column of the next token.
    pub(super) fn column(&self) -> usize {
        self.lexed.tokens.get(self.next).map_or(self.lexed.end, |t| t.1)
    }

    pub(super) fn error_at<T>(&self, column: usize, message: impl Into<String>) -> Result<T> {
        Err(ParseError { line: self.line, column, message: message.into() })
    }

    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.lexed.tokens.get(self.next).map(|t| t.0)
    }

    /// The token after the next one.
    pub(super) fn peek_second(&self) -> Option<Token<'a>> {
        self.lexed.tokens.get(self.next + 1).map(|t| t.0)
    }

    /// "expected `what`", and what is there instead.
    pub(super) fn expected<T>(&self, what: &str) -> Result<T> {
        let found = self.peek().map_or("the end of the line".to_string(), |t| quote(&t.text()));
        self.error_at(self.column(), format!("expected {what}, found {found}"))
    }

    /// Takes a word and its column.
    pub(super) fn word(&mut self, what: &str) -> Result<(&'a str, usize)> {
        let column = self.column();
        match self.peek() {
            Some(Token::Word(w)) => {
                self.next += 1;
                Ok((w, column))
            }
            _ => self.expected(what),
        }
    }

    /// Takes this token if it comes next.
    pub(super) fn accept(&mut self, token: Token<'_>) -> bool {
        let there = self.peek().is_some_and(|t| t == token);
        self.next += usize::from(there);
        there
    }

    pub(super) fn token(&mut self, token: Token<'_>) -> Result<()> {
        if self.accept(token) { Ok(()) } else { self.expected(&format!("`{}`", token.text())) }
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> Result<()> {
        if self.peek().is_none() { Ok(()) } else { self.expected("the end of the line") }
    }

    /// Takes a word and looks it up.
    pub(super) fn lookup<T>(
        &mut self,
        what: &str,
        find: impl FnOnce(&str) -> Option<T>,
        known: impl FnOnce() -> Vec<&'static str>,
    ) -> Result<T> {
        let (word, column) = self.word(&with_article(what))?;
        match find(word) {
            Some(found) => Ok(found),
            None => self.error_at(column, unknown(what, word, &known())),
        }
    }

    /// Takes this word.
    pub(super) fn keyword(&mut self, what: &str, word: &'static str) -> Result<()> {
        self.lookup(what, |w| (w == word).then_some(()), || vec![word])
    }

    /// Takes a number in `min..=max`.
    pub(super) fn number(&mut self, what: &str, min: u32, max: u32) -> Result<u32> {
        let (word, column) = self.word(&with_article(what))?;
        self.number_in(word, column, what, min, max)
    }

    pub(super) fn number_in(&self, word: &str, column: usize, what: &str, min: u32, max: u32) -> Result<u32> {
        if word.is_empty() || !word.bytes().all(|b| b.is_ascii_digit()) {
            return self.error_at(column, format!("expected {}, found {}", with_article(what), quote(word)));
        }
        match word.parse().ok().filter(|n| (min..=max).contains(n)) {
            Some(n) => Ok(n),
            None => self.error_at(column, format!("{what} {} is not in {min} to {max}", quote(word))),
        }
    }

    /// `#1`
    pub(super) fn nth(&mut self) -> Result<u8> {
        let column = self.column();
        match self.peek() {
            Some(Token::Nth(n)) => {
                self.next += 1;
                Ok(self.number_in(n, column, "count", 1, u32::from(u8::MAX))? as u8)
            }
            _ => self.expected("how many times, as in `#1`"),
        }
    }

    pub(super) fn proc(&mut self) -> Result<u8> {
        let index = |w: &str| PROCS.iter().position(|p| *p == w);
        Ok(self.lookup("process", index, || PROCS.to_vec())? as u8)
    }

    pub(super) fn device(&mut self) -> Result<u8> {
        let index = |w: &str| DEVICES.iter().position(|d| *d == w);
        Ok(self.lookup("device", index, || DEVICES.to_vec())? as u8)
    }

    /// `cpu1`
    pub(super) fn cpu(&mut self, config: &Config) -> Result<u8> {
        let (word, column) = self.word("a CPU, as in `cpu0`")?;
        match word.strip_prefix("cpu") {
            Some(n) => Ok(self.number_in(n, column, "CPU", 0, u32::from(config.cpus) - 1)? as u8),
            None => self.error_at(column, format!("expected a CPU, as in `cpu0`, found {}", quote(word))),
        }
    }

    pub(super) fn window(&mut self, bindings: &mut Bindings, may_be_new: bool) -> Result<u8> {
        let (word, column) = self.word("a mapping window")?;
        if !super::names::is_name(word) {
            return self.error_at(column, format!("expected a mapping window, found {}", quote(word)));
        }
        match bindings.resolve(word, may_be_new) {
            Ok(region) => Ok(region),
            Err(NoWindow::Unknown) => self.error_at(column, unknown("mapping window", word, &bindings.known())),
            Err(NoWindow::Full) => {
                let known = bindings.known();
                let message = format!("{} would be one mapping window too many beside {}", quote(word), list(&known));
                self.error_at(column, message.replace(" or ", " and "))
            }
        }
    }

    /// `[0..4]` or `[0]`: first page and number of pages.
    pub(super) fn range(&mut self, config: &Config) -> Result<(u32, u32)> {
        let pages = config.geometry.region_pages();
        self.token(Token::Open)?;
        let page = self.number("page", 0, pages - 1)?;
        let len = if self.accept(Token::Dots) { self.number("end of the range", page + 1, pages)? - page } else { 1 };
        self.token(Token::Close)?;
        Ok((page, len))
    }

    /// `[0]`
    pub(super) fn page(&mut self, config: &Config) -> Result<u32> {
        self.token(Token::Open)?;
        let page = self.number("page", 0, config.geometry.region_pages() - 1)?;
        self.token(Token::Close)?;
        Ok(page)
    }
}

fn with_article(what: &str) -> String {
    let article = if what.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {what}")
}
