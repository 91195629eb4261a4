//! Layers of settings: defaults, file, environment, flags; the later wins, and its origin is kept.
//!
//! A value is text here, whatever its form, and counts as a secret until its key says otherwise:
//! [`Setting::shown`] is the only way to print one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::schema::{Key, Section};
use crate::base::Secret;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// The configuration file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// A variable of the environment.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One section: its kind and, where there may be several, its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SectionName {
    /// The kind.
    pub section: Section,
    /// The name; empty where there is only one.
    pub name: String,
}

impl SectionName {
    /// A section by kind and name.
    #[must_use]
    pub fn new(section: Section, name: impl Into<String>) -> Self {
        Self { section, name: name.into() }
    }
}

impl fmt::Display for SectionName {
    /// As the file spells it: `cluster.main`, `cluster."prod.eu"`, `schedule`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.section.name())?;
        match self.name.as_str() {
            "" => Ok(()),
            name if name.contains('.') => write!(f, ".\"{name}\""),
            name => write!(f, ".{name}"),
        }
    }
}

/// One key of one section.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The section.
    pub section: SectionName,
    /// The key's name within it.
    pub key: &'static str,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.section, self.key)
    }
}

/// One value with its origin.
#[derive(Debug, Clone)]
pub struct Setting {
    text: Secret<String>,
    is_secret: bool,
    /// Where it came from.
    pub origin: Origin,
}

impl Setting {
    /// A value of a key.
    #[must_use]
    pub fn new(key: &Key, text: String, origin: Origin) -> Self {
        Self { text: Secret::new(text), is_secret: key.form.is_secret(), origin }
    }

    /// The value, for whoever gives it its type.
    pub(super) fn expose(&self) -> &str {
        self.text.expose()
    }

    /// The value for people: stars for what may hold a secret.
    #[must_use]
    pub fn shown(&self) -> &str {
        if self.is_secret { "***" } else { self.text.expose() }
    }
}

/// What one source says.
#[derive(Debug, Default)]
pub struct Layer {
    /// The sections that it names, also without any key, in its order.
    pub sections: Vec<SectionName>,
    /// Its values.
    pub settings: BTreeMap<Address, Setting>,
}

impl Layer {
    /// Notes that a section exists.
    pub(super) fn add_section(&mut self, section: &SectionName) {
        if !self.sections.contains(section) {
            self.sections.push(section.clone());
        }
    }
}

/// A value from the command line, for whichever section of its kind is used.
#[derive(Debug, Clone)]
pub struct FlagValue {
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// Which kind of section.
    pub section: Section,
    /// Which key of it.
    pub key: &'static str,
    /// The value as typed.
    pub value: String,
}

/// All layers as one.
#[derive(Debug)]
pub struct Layered {
    source: PathBuf,
    is_file: bool,
    sections: Vec<SectionName>,
    settings: BTreeMap<Address, Setting>,
}

impl Layered {
    /// Lays the file over the defaults, the environment over the file, the flags over all.
    ///
    /// `source` is the path of the configuration file, `is_file` whether there is one.
    #[must_use]
    pub fn new(
        source: &Path,
        is_file: bool,
        file: Layer,
        environment: Layer,
        flags: &[FlagValue],
    ) -> Self {
        let mut sections = file.sections;
        let only = Section::ALL.into_iter().filter(|section| !section.is_named());
        let only = only.map(|section| SectionName::new(section, ""));
        for section in environment.sections.into_iter().chain(only) {
            if !sections.contains(&section) {
                sections.push(section);
            }
        }
        let mut settings: BTreeMap<Address, Setting> =
            sections.iter().flat_map(defaults_of).collect();
        settings.extend(file.settings);
        settings.extend(environment.settings);
        settings.extend(sections.iter().flat_map(|section| flags_of(section, flags)));
        Self { source: source.to_owned(), is_file, sections, settings }
    }

    /// The configuration file's path, whether or not there is one.
    #[must_use]
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// The source for messages.
    #[must_use]
    pub fn describe_source(&self) -> String {
        if self.is_file {
            self.source.display().to_string()
        } else {
            format!("the environment (there is no {})", self.source.display())
        }
    }

    /// The sections of a kind, in the order of the file.
    pub fn sections(&self, section: Section) -> impl Iterator<Item = &SectionName> {
        self.sections.iter().filter(move |name| name.section == section)
    }

    /// A value, if anybody gave one or the key has a default.
    #[must_use]
    pub fn find(&self, section: &SectionName, key: &'static str) -> Option<&Setting> {
        self.settings.get(&Address { section: section.clone(), key })
    }

    /// Every value with its origin.
    pub fn iter(&self) -> impl Iterator<Item = (&Address, &Setting)> {
        self.settings.iter()
    }
}

fn defaults_of(section: &SectionName) -> impl Iterator<Item = (Address, Setting)> {
    section.section.keys().filter_map(|key| {
        let setting = Setting::new(key, key.default?.to_owned(), Origin::Default);
        Some((Address { section: section.clone(), key: key.name }, setting))
    })
}

fn flags_of(section: &SectionName, flags: &[FlagValue]) -> Vec<(Address, Setting)> {
    let own = flags.iter().filter(|flag| flag.section == section.section);
    own.map(|flag| {
        let key = section.section.find_key(flag.key).expect("flags name keys of the table");
        let setting = Setting::new(key, flag.value.clone(), Origin::Flag(flag.flag.into()));
        (Address { section: section.clone(), key: key.name }, setting)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(section: &SectionName, key: &'static str, text: &str, origin: Origin) -> Layer {
        let mut layer = Layer::default();
        layer.add_section(section);
        let known = section.section.find_key(key).unwrap();
        let address = Address { section: section.clone(), key };
        layer.settings.insert(address, Setting::new(known, text.into(), origin));
        layer
    }

    #[test]
    fn later_layers_win_and_say_so() {
        let main = SectionName::new(Section::Cluster, "main");
        let file = || layer(&main, "jobs", "1", Origin::File { path: "p".into(), line: 3 });
        let variable = || layer(&main, "jobs", "2", Origin::Variable("V".into()));
        let flag =
            FlagValue { flag: "--jobs", section: Section::Cluster, key: "jobs", value: "3".into() };
        let shown = |layered: Layered| {
            let setting = layered.find(&main, "jobs").unwrap();
            format!("{} from {}", setting.shown(), setting.origin)
        };
        let merge = |file, environment, flags: &[FlagValue]| {
            shown(Layered::new(Path::new("p"), true, file, environment, flags))
        };
        let mut nothing = Layer::default();
        nothing.add_section(&main);
        assert_eq!(merge(nothing, Layer::default(), &[]), "2 from default");
        assert_eq!(merge(file(), Layer::default(), &[]), "1 from p line 3");
        assert_eq!(merge(file(), variable(), &[]), "2 from environment variable V");
        assert_eq!(merge(file(), variable(), &[flag]), "3 from flag --jobs");
    }

    #[test]
    fn secrets_are_not_shown() {
        let main = SectionName::new(Section::Cluster, "main");
        let layer = layer(&main, "connection", "password=hunter2", Origin::Default);
        assert!(!format!("{layer:?}").contains("hunter2"));
        assert_eq!(layer.settings.values().next().unwrap().shown(), "***");
    }

    #[test]
    fn names_are_spelled_as_in_the_file() {
        let dotted = SectionName::new(Section::Cluster, "prod.eu");
        assert_eq!(Address { section: dotted, key: "rpo" }.to_string(), "cluster.\"prod.eu\".rpo");
        assert_eq!(SectionName::new(Section::Daemon, "").to_string(), "daemon");
    }
}
