//! The configuration file: TOML text to a layer, each value with its line.
//!
//! Walks the parsed document instead of deserializing it, because a message needs the line of every
//! key, and a layer needs the values before they have their types. Unknown keys are refused here.

use std::io;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Error, Result};
use super::layers::{Address, Layer, Origin, SectionName, Setting};
use super::nearest::nearest;
use super::schema::{Form, Key, Section};
use crate::repo::Place;

/// The text of the file.
///
/// # Errors
/// [`Error::MissingFile`], [`Error::UnreadableFile`].
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::NotFound {
            Error::MissingFile { path }
        } else {
            Error::UnreadableFile { path, source }
        }
    })
}

/// What the text says; `path` is for messages.
///
/// # Errors
/// [`Error::Syntax`], [`Error::UnknownKey`], [`Error::InvalidValue`].
pub fn parse(path: &Path, text: &str) -> Result<Layer> {
    let document = DeTable::parse(text).map_err(|error| syntax(path, text, &error))?;
    let mut walk = Walk { path, text, layer: Layer::default() };
    for (word, value) in in_order(document.get_ref()) {
        walk.section(word, value)?;
    }
    Ok(walk.layer)
}

type Name<'i> = Spanned<toml::de::DeString<'i>>;
type Value<'i> = Spanned<DeValue<'i>>;

/// Entries as they stand in the file, not by name.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Name<'i>, &'t Value<'i>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

/// The parser's own message shows the line, which may hold a password: only its reason is taken.
fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let at = error.span().map_or(0, |span| span.start);
    let (line, column) = position(text, at);
    Error::Syntax { path: path.to_owned(), line, column, why: error.message().to_owned() }
}

fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

struct Walk<'w> {
    path: &'w Path,
    text: &'w str,
    layer: Layer,
}

impl Walk<'_> {
    fn origin(&self, name: &Name<'_>) -> Origin {
        let (line, _) = position(self.text, name.span().start);
        Origin::File { path: self.path.to_owned(), line }
    }

    fn invalid(&self, name: &Name<'_>, key: impl ToString, why: impl Into<String>) -> Error {
        Error::InvalidValue { origin: self.origin(name), key: key.to_string(), why: why.into() }
    }

    fn section(&mut self, word: &Name<'_>, value: &Value<'_>) -> Result<()> {
        let Some(section) = Section::find(word.get_ref()) else {
            return Err(unknown_section(self.origin(word), word.get_ref()));
        };
        let Some(table) = value.get_ref().as_table() else {
            let why = format!("this is a section: write [{}]", example(section));
            return Err(self.invalid(word, section, why));
        };
        if !section.is_named() {
            let only = SectionName::new(section, "");
            self.layer.add_section(&only);
            return self.keys(&only, "", table);
        }
        in_order(table).into_iter().try_for_each(|(name, value)| self.named(section, name, value))
    }

    fn named(&mut self, section: Section, name: &Name<'_>, value: &Value<'_>) -> Result<()> {
        let own = SectionName::new(section, name.get_ref().as_ref());
        let Some(table) = value.get_ref().as_table() else {
            let why = format!("each {section} has a name: write [{}]", example(section));
            return Err(self.invalid(name, own, why));
        };
        check_name(&own.name).map_err(|why| self.invalid(name, &own, why))?;
        self.layer.add_section(&own);
        self.keys(&own, "", table)
    }

    /// The keys of a section, or, with `below`, of a section below it.
    fn keys(&mut self, section: &SectionName, below: &str, table: &DeTable<'_>) -> Result<()> {
        for (word, value) in in_order(table) {
            let name = format!("{below}{}", word.get_ref());
            let is_below =
                below.is_empty() && section.section.sections_below().contains(&name.as_str());
            match (section.section.find_key(&name), value.get_ref()) {
                (None, DeValue::Table(table)) if is_below => {
                    self.keys(section, &format!("{name}."), table)?;
                }
                (None, _) if is_below => {
                    let why = format!("this is a section: write [{section}.{name}]");
                    return Err(self.invalid(word, format!("{section}.{name}"), why));
                }
                // A quoted key with a dot in it is not the dotted path that it looks like.
                (Some(key), value) if !word.get_ref().contains('.') => {
                    self.value(section, key, word, value)?;
                }
                _ => return Err(unknown_key(self.origin(word), section, &name)),
            }
        }
        Ok(())
    }

    fn value(
        &mut self,
        section: &SectionName,
        key: &'static Key,
        word: &Name<'_>,
        value: &DeValue<'_>,
    ) -> Result<()> {
        let address = Address { section: section.clone(), key: key.name };
        if key.form == Form::EnvironmentSecret {
            let why = "a secret does not belong in the configuration file; use a file or a command, \
                       or give it in the environment";
            return Err(self.invalid(word, address, why));
        }
        let text = match (key.form, value) {
            (Form::Integer, DeValue::Integer(number)) => {
                i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string())
            }
            (Form::Boolean, DeValue::Boolean(choice)) => Some(choice.to_string()),
            (Form::Integer | Form::Boolean, _) => None,
            (_, DeValue::String(text)) => Some(text.to_string()),
            _ => None,
        };
        let text = text.ok_or_else(|| {
            let why = format!("expects {}; this is {}", key.form.expected(), kind_of(value));
            self.invalid(word, &address, why)
        })?;
        let setting = Setting::new(key, text, self.origin(word));
        self.layer.settings.insert(address, setting);
        Ok(())
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text in quotes",
        DeValue::Integer(_) => "a bare number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn example(section: Section) -> &'static str {
    match section {
        Section::Cluster => "cluster.main",
        Section::Repository => "repository.local",
        Section::Schedule => "schedule",
        Section::Daemon => "daemon",
    }
}

/// Clusters' names become names of objects; repositories keep the same rules, so that there is one.
pub(super) fn check_name(name: &str) -> std::result::Result<(), String> {
    Place::new(name, 0, 0).map(|_| ()).map_err(|_| {
        format!(
            "{name:?} is not an allowed name: 1 to 64 of A-Z a-z 0-9 . _ - are, first a letter or \
             digit"
        )
    })
}

/// The error for a key that its section does not have.
pub(super) fn unknown_key(origin: Origin, section: &SectionName, name: &str) -> Error {
    let (below, word) = name.rsplit_once('.').map_or(("", name), |(below, word)| (below, word));
    // Keys of the same section come first, so that they win among equally near ones.
    let is_here = |key: &&Key| key.name.rsplit_once('.').map_or("", |(below, _)| below) == below;
    let here = section.section.keys().filter(is_here).map(|key| key.name);
    let elsewhere = section.section.keys().filter(|key| !is_here(key)).map(|key| key.name);
    let groups = section.section.sections_below().into_iter().filter(|_| below.is_empty());
    let hint = match nearest(word, here.clone().chain(groups).chain(elsewhere)) {
        Some(known) => format!("did you mean {known}?"),
        None => format!("known here are {}", here.collect::<Vec<_>>().join(", ")),
    };
    Error::UnknownKey { origin, key: format!("{section}.{name}"), hint }
}

/// The error for a section that does not exist, wherever it is named.
pub(super) fn unknown_section(origin: Origin, word: &str) -> Error {
    let known = Section::ALL.map(Section::name);
    let hint = match nearest(word, known) {
        Some(known) => format!("did you mean {known}?"),
        None => format!("the sections are {}", known.join(", ")),
    };
    Error::UnknownKey { origin, key: word.to_owned(), hint }
}
