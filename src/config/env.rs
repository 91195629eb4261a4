//! The environment: the only place that reads it.
//!
//! Any key of the file may come as `PGKEEP_<SECTION>__<KEY>`, two underscores between the parts:
//! `PGKEEP_CLUSTER__MAIN__CONNECTION`, `PGKEEP_REPOSITORY__OFFSITE__ENCRYPTION__KEY_FILE`. Names of
//! clusters and repositories are matched to those of the file without regard to case and with `-`
//! and `.` as `_`; a name that the file does not have makes a new section, in lower case. An empty
//! variable counts as none.
//!
//! What begins with `PGKEEP_` but has no two underscores is left alone, because Kubernetes makes
//! such variables for services (`PGKEEP_SERVICE_HOST`, `PGKEEP_PORT`).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use super::error::{Error, Result, Warning};
use super::file::{check_name, unknown_key, unknown_section};
use super::layers::{Address, Layer, Origin, SectionName, Setting};
use super::nearest::nearest;
use super::schema::{Key, Section};

const PREFIX: &str = "PGKEEP_";
const SEPARATOR: &str = "__";
/// Names the configuration file.
pub const CONFIG: &str = "PGKEEP_CONFIG";
/// Names the folder into which systemd puts a unit's credentials.
pub const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The variables that concern pgkeep, as they were when it began.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
}

impl Environment {
    /// The process's own.
    #[allow(clippy::disallowed_methods, reason = "this is the only reader of the environment")]
    #[must_use]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os();
        variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
    }

    fn find(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// The configuration file that `PGKEEP_CONFIG` names.
    #[must_use]
    pub fn config(&self) -> Option<PathBuf> {
        self.find(CONFIG).map(PathBuf::from)
    }

    /// systemd's folder of credentials.
    #[must_use]
    pub fn credentials(&self) -> Option<PathBuf> {
        self.find(CREDENTIALS).map(PathBuf::from)
    }

    /// Where programs are looked for: the folders of `PATH`.
    #[must_use]
    pub fn program_folders(&self) -> Vec<PathBuf> {
        let folders = self.find("PATH").map(|path| std::env::split_paths(path).collect::<Vec<_>>());
        let mut folders = folders.unwrap_or_default();
        folders.retain(|folder| folder.is_absolute());
        folders
    }

    /// Whether colours are welcome as far as the environment tells: `NO_COLOR` and `TERM=dumb`
    /// forbid them.
    #[must_use]
    pub fn allows_color(&self) -> bool {
        self.find("NO_COLOR").is_none() && self.find("TERM").is_none_or(|term| term != "dumb")
    }

    /// What the variables say, names matched to the sections of the file.
    ///
    /// # Errors
    /// [`Error::UnknownKey`], [`Error::InvalidValue`], [`Error::AmbiguousVariable`].
    pub fn layer(&self, file: &Layer) -> Result<(Layer, Vec<Warning>)> {
        let mut reader = Reader { file, layer: Layer::default(), warnings: Vec::new() };
        for (variable, value) in &self.variables {
            if let Some(rest) = variable.strip_prefix(PREFIX)
                && variable != CONFIG
                && !value.is_empty()
            {
                reader.variable(variable, rest, value)?;
            }
        }
        Ok((reader.layer, reader.warnings))
    }
}

impl<K: Into<String>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let is_ours = |name: &str| {
            name.starts_with(PREFIX) || [CREDENTIALS, "NO_COLOR", "PATH", "TERM"].contains(&name)
        };
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self { variables: variables.filter(|(name, _): &(String, _)| is_ours(name)).collect() }
    }
}

impl fmt::Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// The variable that stands for a key.
#[must_use]
pub fn variable_name(address: &Address) -> String {
    let SectionName { section, name } = &address.section;
    let parts = [section.name(), name, address.key];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let path = parts.join(SEPARATOR).replace('-', "_").to_ascii_uppercase();
    // The dot of a key below a section separates parts; the dot of a name does not.
    let (head, key) = path.split_at(path.len() - address.key.len());
    format!("{PREFIX}{}{}", head.replace('.', "_"), key.replace('.', SEPARATOR))
}

struct Reader<'r> {
    file: &'r Layer,
    layer: Layer,
    warnings: Vec<Warning>,
}

impl Reader<'_> {
    fn variable(&mut self, variable: &str, rest: &str, value: &OsStr) -> Result<()> {
        let origin = Origin::Variable(variable.to_owned());
        let rest = rest.to_ascii_lowercase();
        let Some((word, path)) = rest.split_once(SEPARATOR) else {
            self.warn_if_meant(variable, &rest);
            return Ok(());
        };
        let Some(section) = Section::find(word) else {
            return Err(unknown_section(origin, word));
        };
        let Some((name, key)) = split_path(section, path) else {
            return Err(unknown_path(origin, section, path));
        };
        let section = self.section(variable, section, name)?;
        let address = Address { section, key: key.name };
        let Some(text) = value.to_str() else {
            let why = "the value is not UTF-8".to_owned();
            return Err(Error::InvalidValue { origin, key: address.to_string(), why });
        };
        let setting = Setting::new(key, text.to_owned(), origin.clone());
        match self.layer.settings.insert(address, setting) {
            None => Ok(()),
            Some(other) => {
                let candidates = vec![variable.to_owned(), other.origin.to_string()];
                Err(Error::AmbiguousVariable { origin, candidates })
            }
        }
    }

    /// The section of that name: one of the file, one that a variable made already, or a new one.
    fn section(&mut self, variable: &str, section: Section, name: &str) -> Result<SectionName> {
        if !section.is_named() {
            return Ok(SectionName::new(section, ""));
        }
        let origin = || Origin::Variable(variable.to_owned());
        let known = self.file.sections.iter().chain(&self.layer.sections);
        let same_kind = known.filter(|known| known.section == section);
        let mut meant: Vec<_> =
            same_kind.filter(|known| folded(&known.name) == folded(name)).cloned().collect();
        meant.dedup();
        if meant.len() > 1 {
            let candidates = meant.iter().map(ToString::to_string).collect();
            return Err(Error::AmbiguousVariable { origin: origin(), candidates });
        }
        let found = meant.pop();
        let is_new = found.is_none();
        let own = found.unwrap_or_else(|| SectionName::new(section, name));
        if is_new {
            let key = own.to_string();
            check_name(name).map_err(|why| Error::InvalidValue { origin: origin(), key, why })?;
            self.warn_if_misspelled(variable, &own);
        }
        self.layer.add_section(&own);
        Ok(own)
    }

    fn warn_if_misspelled(&mut self, variable: &str, own: &SectionName) {
        let same_kind = self.file.sections.iter().filter(|known| known.section == own.section);
        if let Some(near) = nearest(&own.name, same_kind.map(|known| known.name.as_str())) {
            self.warnings.push(Warning::NewSection {
                variable: variable.to_owned(),
                section: own.to_string(),
                nearest: SectionName::new(own.section, near).to_string(),
            });
        }
    }

    /// One underscore where two are needed looks like a section's name; Kubernetes' own do not.
    fn warn_if_meant(&mut self, variable: &str, rest: &str) {
        let is_kubernetes = rest.contains("service_host")
            || rest.contains("service_port")
            || rest.split('_').any(|part| part == "port");
        let is_section = |section: Section| rest.starts_with(&format!("{section}_"));
        if !is_kubernetes && Section::ALL.into_iter().any(is_section) {
            self.warnings.push(Warning::UnusedVariable { variable: variable.to_owned() });
        }
    }
}

fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace(['-', '.'], "_")
}

/// A key in the spelling of variables, without case.
fn spelled(key: &Key) -> String {
    key.name.replace('.', SEPARATOR)
}

/// Name and key of `main__connection` or, where there is only one section, `timezone`.
///
/// The key is what the path ends with, so that names with two underscores can be reached.
fn split_path(section: Section, path: &str) -> Option<(&str, &'static Key)> {
    if !section.is_named() {
        return Some(("", section.keys().find(|key| spelled(key) == path)?));
    }
    let name_before = |key: &Key| {
        let name = path.strip_suffix(&spelled(key))?.strip_suffix(SEPARATOR)?;
        (!name.is_empty()).then_some(name)
    };
    let possible = section.keys().filter_map(|key| Some((name_before(key)?, key)));
    possible.min_by_key(|(name, _)| name.len())
}

fn unknown_path(origin: Origin, section: Section, path: &str) -> Error {
    let (name, key) = match path.split_once(SEPARATOR) {
        Some((name, key)) if section.is_named() => (name, key),
        _ if section.is_named() => {
            let why = format!(
                "between {section} and a key comes a name, as in {}",
                variable_name(&Address {
                    section: SectionName::new(section, "main"),
                    key: section.keys().next().map_or("", |key| key.name),
                })
            );
            return Error::InvalidValue { origin, key: format!("{section}.{path}"), why };
        }
        _ => ("", path),
    };
    unknown_key(origin, &SectionName::new(section, name), &key.replace(SEPARATOR, "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(names: &[(Section, &str)]) -> Layer {
        let mut layer = Layer::default();
        for (section, name) in names {
            layer.add_section(&SectionName::new(*section, *name));
        }
        layer
    }

    fn read(file: &Layer, variables: &[(&str, &str)]) -> Result<(Vec<String>, Vec<Warning>)> {
        let environment: Environment = variables.iter().copied().collect();
        let (layer, warnings) = environment.layer(file)?;
        let lines = layer.settings.iter().map(|(address, s)| format!("{address}={}", s.shown()));
        Ok((lines.collect(), warnings))
    }

    #[test]
    fn names_are_matched_without_case_and_punctuation() {
        let file = file(&[(Section::Cluster, "Prod-EU.1"), (Section::Repository, "off__site")]);
        let (lines, warnings) = read(
            &file,
            &[
                ("PGKEEP_CLUSTER__PROD_EU_1__RPO", "1m"),
                ("PGKEEP_REPOSITORY__OFF__SITE__ENCRYPTION__KEY_FILE", "/k"),
                ("PGKEEP_REPOSITORY__OTHER__URL", "file:///x"),
                ("PGKEEP_SCHEDULE__TIMEZONE", "Europe/Berlin"),
                ("PGKEEP_CLUSTER__PROD_EU_1__JOBS", ""),
                ("HOME", "/nobody"),
            ],
        )
        .unwrap();
        assert_eq!(
            lines,
            [
                "cluster.\"Prod-EU.1\".rpo=1m",
                "repository.off__site.encryption.key_file=/k",
                "repository.other.url=file:///x",
                "schedule.timezone=Europe/Berlin",
            ]
        );
        assert_eq!(warnings, []);
    }

    #[test]
    fn every_key_has_a_variable_that_leads_back_to_it() {
        for key in super::super::schema::KEYS {
            let name = if key.section.is_named() { "a-b.c" } else { "" };
            let section = SectionName::new(key.section, name);
            let file = file(&[(key.section, name)]);
            let address = Address { section, key: key.name };
            let environment: Environment = [(variable_name(&address), "x")].into_iter().collect();
            let (layer, _) = environment.layer(&file).unwrap();
            assert!(layer.settings.contains_key(&address), "{}", variable_name(&address));
        }
    }

    #[test]
    fn unknown_variables_are_refused_with_the_nearest_known() {
        for (variable, message) in [
            (
                "PGKEEP_CLUSTER__MAIN__CONECTION",
                "environment variable PGKEEP_CLUSTER__MAIN__CONECTION: unknown key \
                 cluster.main.conection; did you mean connection?",
            ),
            ("PGKEEP_CLUSTERS__MAIN__RPO", "unknown key clusters; did you mean cluster?"),
            ("PGKEEP_REPOSITORY__X__ENCRYPTION__KEYFILE", "did you mean encryption.key_file?"),
            ("PGKEEP_DAEMON__SOKET", "unknown key daemon.soket; did you mean socket?"),
            ("PGKEEP_CLUSTER__RPO", "as in PGKEEP_CLUSTER__MAIN__CONNECTION"),
            ("PGKEEP_CLUSTER__-X__RPO", "not an allowed name"),
        ] {
            let wrong = read(&file(&[]), &[(variable, "x")]).unwrap_err().to_string();
            assert!(wrong.contains(message), "{wrong}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        let two = file(&[(Section::Cluster, "a-b"), (Section::Cluster, "a_b")]);
        let wrong = read(&two, &[("PGKEEP_CLUSTER__A_B__RPO", "1m")]).unwrap_err();
        assert!(wrong.to_string().contains("cluster.a-b or cluster.a_b"), "{wrong}");
        let twice = [("PGKEEP_CLUSTER__A__RPO", "1m"), ("PGKEEP_cluster__a__rpo", "2m")];
        let wrong = read(&file(&[]), &twice).unwrap_err();
        assert!(matches!(wrong, Error::AmbiguousVariable { .. }), "{wrong}");
    }

    #[test]
    fn likely_slips_are_told() {
        let main = file(&[(Section::Cluster, "main")]);
        let of_kubernetes = [
            ("PGKEEP_SERVICE_HOST", "10.0.0.1"),
            ("PGKEEP_PORT", "tcp://10.0.0.1:9187"),
            ("PGKEEP_DAEMON_SERVICE_PORT_METRICS", "9187"),
            ("PGKEEP_DAEMON_PORT_9187_TCP_ADDR", "10.0.0.1"),
            ("PGKEEP_CONFIG", "/x"),
        ];
        assert_eq!(read(&main, &of_kubernetes).unwrap(), (vec![], vec![]));
        let (lines, warnings) = read(&main, &[("PGKEEP_CLUSTER_MAIN_RPO", "1m")]).unwrap();
        assert!(lines.is_empty() && matches!(warnings[..], [Warning::UnusedVariable { .. }]));
        let (_, warnings) = read(&main, &[("PGKEEP_CLUSTER__MIAN__RPO", "1m")]).unwrap();
        assert!(warnings[0].to_string().ends_with("did you mean cluster.main?"), "{}", warnings[0]);
    }

    #[test]
    fn secrets_and_other_variables_are_not_kept_or_shown() {
        let name = "PGKEEP_REPOSITORY__A__ENCRYPTION__PASSPHRASE";
        let environment: Environment =
            [(name, "hunter2"), ("AWS_SECRET", "x")].into_iter().collect();
        let shown = format!("{environment:?} {:?}", environment.layer(&file(&[])).unwrap());
        assert!(shown.contains(name) && !shown.contains("hunter2") && !shown.contains("AWS"));
    }

    #[test]
    fn colours_follow_the_conventions() {
        let allows = |variables: &[(&str, &str)]| {
            variables.iter().copied().collect::<Environment>().allows_color()
        };
        assert!(allows(&[]) && allows(&[("NO_COLOR", ""), ("TERM", "xterm")]));
        assert!(!allows(&[("NO_COLOR", "1")]) && !allows(&[("TERM", "dumb")]));
    }
}
