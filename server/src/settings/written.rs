//! What is written for each key, and where: the text before anybody reads it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ffi::OsString,
    fmt,
    path::Path,
    sync::Arc,
};

use super::keys::Key;

/// One value as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Flags and variables may be no text at all.
    pub(crate) text: OsString,
    pub(crate) origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    Default,
    /// A line of a file.
    Line(Arc<Path>, usize),
    /// The environment variable of its key.
    Variable,
    /// The flag of its key.
    Flag,
}

/// A value with its name and its place, at the beginning of a message or in the middle of one.
pub(crate) struct Label<'a> {
    pub(crate) key: &'a Key,
    pub(crate) value: &'a str,
    pub(crate) origin: &'a Origin,
    pub(crate) is_first: bool,
}

/// All values that are written. What is stronger overrides what is weaker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    by_name: BTreeMap<&'static str, Vec<Item>>,
    /// Without effect. It is kept because it must be right all the same: somebody relies on it once
    /// what is stronger is gone.
    overridden: BTreeMap<&'static str, Vec<Item>>,
}

impl Written {
    /// Sets what is written for a key. No items leave it open.
    pub(crate) fn put(&mut self, key: &Key, items: Vec<Item>) {
        if !items.is_empty() {
            self.by_name.insert(key.name, items);
        }
    }

    /// Takes from `weaker` what is open here. The rest of it is overridden.
    pub(crate) fn or(mut self, weaker: Self) -> Self {
        for (name, items) in weaker.by_name {
            match self.by_name.entry(name) {
                Entry::Vacant(open) => {
                    open.insert(items);
                }
                Entry::Occupied(_) => self.overridden.entry(name).or_default().extend(items),
            }
        }
        self
    }

    /// Returns what is written for a key. Nothing if it is left open.
    pub(crate) fn of(&self, name: &str) -> &[Item] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns what is written for a key where something stronger is written, too.
    pub(crate) fn overridden(&self, name: &str) -> &[Item] {
        self.overridden.get(name).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn origin_of(&self, name: &str) -> Origin {
        self.of(name).first().map_or(Origin::Default, |item| item.origin.clone())
    }
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, origin, is_first } = self;
        let name = key.name;
        match origin {
            Origin::Default => write!(f, "--{name} {value} (the default)"),
            Origin::Flag => write!(f, "--{name} {value}"),
            Origin::Variable => write!(f, "{} {value}", key.variable()),
            Origin::Line(path, line) if *is_first => {
                write!(f, "{}:{line}: {name} {value}", path.display())
            }
            Origin::Line(path, line) => write!(f, "{name} {value} ({}:{line})", path.display()),
        }
    }
}
