//! Names of mapping windows.

use crate::config::MAX_REGIONS;

/// What the windows are called when nobody says otherwise.
pub const DEFAULT_NAMES: [&str; MAX_REGIONS] = ["heap", "data", "stack", "map"];

/// Longest name, in bytes.
const MAX_NAME: usize = 32;

/// Names that a document gives to mapping windows.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Names([Option<String>; MAX_REGIONS]);

impl Names {
    /// Name of a window, the default one included. Windows that do not exist are `?`.
    pub fn get(&self, region: u8) -> &str {
        let region = usize::from(region);
        match self.0.get(region) {
            Some(Some(name)) => name,
            Some(None) => self.free_default(region),
            None => "?",
        }
    }

    /// Names a window. False, and nothing happens, when the window does not exist, the name is not one
    /// (a letter or `_`, then letters, digits, `_` and `-`) or another window has it.
    pub fn set(&mut self, region: u8, name: &str) -> bool {
        let region = usize::from(region);
        let taken = (0..MAX_REGIONS).any(|r| r != region && self.0[r].as_deref() == Some(name));
        if region >= MAX_REGIONS || taken || !is_name(name) {
            return false;
        }
        self.0[region] = (name != DEFAULT_NAMES[region]).then(|| name.to_string());
        true
    }

    /// The name that the document gave, if it did.
    pub(super) fn given(&self, region: u8) -> Option<&str> {
        self.0.get(usize::from(region))?.as_deref()
    }

    /// The window's default name or, when another window was given that, the first default name that is free.
    fn free_default(&self, region: usize) -> &'static str {
        let taken = |name: &str| self.0.iter().flatten().any(|n| n == name);
        if !taken(DEFAULT_NAMES[region]) {
            return DEFAULT_NAMES[region];
        }
        // Windows whose own default is taken share what is left over, in order.
        let nth = (0..region).filter(|r| self.0[*r].is_none() && taken(DEFAULT_NAMES[*r])).count();
        let spare = |r: &usize| self.0[*r].is_some() && !taken(DEFAULT_NAMES[*r]);
        (0..MAX_REGIONS).filter(spare).nth(nth).map_or(DEFAULT_NAMES[region], |r| DEFAULT_NAMES[r])
    }
}

/// True when the word can be the name of a window.
pub(super) fn is_name(word: &str) -> bool {
    let mut chars = word.chars();
    word.len() <= MAX_NAME
        && chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// Why a name has no window.
pub(super) enum NoWindow {
    /// Nobody said what it means.
    Unknown,
    /// Every window has another name.
    Full,
}

/// Which names stand for which windows, as a text is read from top to bottom.
#[derive(Clone, Default)]
pub(super) struct Bindings([Option<String>; MAX_REGIONS]);

impl Bindings {
    /// Gives a window a name; false when the window or the name is in use.
    pub(super) fn bind(&mut self, region: u8, name: &str) -> bool {
        let free = !self.0.iter().flatten().any(|n| n == name);
        match self.0.get_mut(usize::from(region)) {
            Some(slot @ None) if free => {
                *slot = Some(name.to_string());
                true
            }
            _ => false,
        }
    }

    /// The window of a name. A default name brings its window with it; any other name gets a window only
    /// where it may be new.
    pub(super) fn resolve(&mut self, name: &str, may_be_new: bool) -> Result<u8, NoWindow> {
        if let Some(r) = self.0.iter().position(|n| n.as_deref() == Some(name)) {
            return Ok(r as u8);
        }
        let own = DEFAULT_NAMES.iter().position(|d| *d == name).filter(|r| self.0[*r].is_none());
        let region = match own {
            Some(r) => r,
            None if may_be_new => self.0.iter().position(Option::is_none).ok_or(NoWindow::Full)?,
            None => return Err(NoWindow::Unknown),
        };
        self.0[region] = Some(name.to_string());
        Ok(region as u8)
    }

    /// Names that mean something here.
    pub(super) fn known(&self) -> Vec<&str> {
        (0..MAX_REGIONS).map(|r| self.0[r].as_deref().unwrap_or(DEFAULT_NAMES[r])).collect()
    }

    /// The names, as a document keeps them.
    pub(super) fn names(&self) -> Names {
        let mut names = Names::default();
        for (r, name) in self.0.iter().enumerate() {
            if let Some(name) = name {
                names.set(r as u8, name);
            }
        }
        names
    }
}
