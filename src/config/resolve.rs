//! From all sources to the cluster and the repository that are meant.

use std::path::{Path, PathBuf};

use super::env::Environment;
use super::error::{Error, Result, Warning};
use super::file;
use super::layers::{FlagValue, Layer, Layered, Origin, SectionName};
use super::schema::Section;
use super::secret_source::SecretFolders;
use super::sections::{
    ClusterSettings, DaemonSettings, RepositoryDraft, RepositorySettings, ScheduleSettings,
    read_cluster, read_daemon, read_repository, read_schedule,
};

/// Where the configuration file is unless somebody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/pgkeep/pgkeep.toml";

/// Where settings come from.
#[derive(Debug)]
pub struct Sources<'s> {
    /// The file that `--config` names.
    pub config: Option<&'s Path>,
    /// The environment.
    pub environment: &'s Environment,
    /// What the flags set.
    pub flags: &'s [FlagValue],
}

/// The whole configuration, right in every value that it has.
///
/// A repository may still lack something; that is an error where it is asked for.
#[derive(Debug)]
pub struct Settings {
    layered: Layered,
    clusters: Vec<(String, ClusterSettings)>,
    repositories: Vec<RepositoryDraft>,
    schedule: ScheduleSettings,
    daemon: DaemonSettings,
    warnings: Vec<Warning>,
}

impl Settings {
    /// Reads file and environment.
    ///
    /// Without a file at the default path the environment is enough, if it names a cluster or a
    /// repository; a file that `--config` or `PGKEEP_CONFIG` names must exist.
    ///
    /// # Errors
    /// Everything that [`Error`] has, except what selecting and unlocking add.
    pub fn load(sources: &Sources<'_>) -> Result<Self> {
        let named = sources.config.map(Path::to_owned).or_else(|| sources.environment.config());
        Self::load_from(named, Path::new(DEFAULT_PATH), sources)
    }

    pub(super) fn load_from(
        named: Option<PathBuf>,
        default: &Path,
        sources: &Sources<'_>,
    ) -> Result<Self> {
        let path = named.as_deref().unwrap_or(default);
        match file::read(path) {
            Ok(text) => Self::build(path, Some(file::parse(path, &text)?), sources),
            Err(missing @ Error::MissingFile { .. }) if named.is_none() => {
                let (environment, _) = sources.environment.layer(&Layer::default())?;
                if environment.sections.iter().all(|name| !name.section.is_named()) {
                    return Err(missing);
                }
                Self::build(path, None, sources)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the text of a file that is called `path` in messages.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn parse(path: &Path, text: &str, sources: &Sources<'_>) -> Result<Self> {
        Self::build(path, Some(file::parse(path, text)?), sources)
    }

    fn build(path: &Path, file: Option<Layer>, sources: &Sources<'_>) -> Result<Self> {
        let is_file = file.is_some();
        let file = file.unwrap_or_default();
        let (environment, warnings) = sources.environment.layer(&file)?;
        let layered = Layered::new(path, is_file, file, environment, sources.flags);
        let credentials = sources.environment.credentials();
        let folders = SecretFolders {
            credentials: credentials.as_deref(),
            beside: path.parent().unwrap_or(Path::new("")),
        };
        let clusters = layered.sections(Section::Cluster);
        let clusters = clusters.map(|name| Ok((name.name.clone(), read_cluster(&layered, name)?)));
        let clusters = clusters.collect::<Result<_>>()?;
        let repositories = layered.sections(Section::Repository);
        let repositories = repositories.map(|name| read_repository(&layered, name, &folders));
        let repositories: Vec<_> = repositories.collect::<Result<_>>()?;
        check_defaults(&layered, &repositories)?;
        check_required(&layered, &repositories)?;
        check_moves(&layered, &repositories)?;
        let schedule = read_schedule(&layered, &SectionName::new(Section::Schedule, ""))?;
        let daemon = read_daemon(&layered, &SectionName::new(Section::Daemon, ""))?;
        Ok(Self { layered, clusters, repositories, schedule, daemon, warnings })
    }

    /// What should be looked at.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Every value with its origin.
    #[must_use]
    pub fn layered(&self) -> &Layered {
        &self.layered
    }

    /// `[schedule]`
    #[must_use]
    pub fn schedule(&self) -> &ScheduleSettings {
        &self.schedule
    }

    /// `[daemon]`
    #[must_use]
    pub fn daemon(&self) -> &DaemonSettings {
        &self.daemon
    }

    /// Every cluster with its name, in the order of the file.
    pub fn clusters(&self) -> impl Iterator<Item = (&str, &ClusterSettings)> {
        self.clusters.iter().map(|(name, cluster)| (name.as_str(), cluster))
    }

    /// The cluster of that name, or the only one.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::Unselected`], [`Error::MissingKey`] when there is none.
    pub fn cluster(&self, name: Option<&str>) -> Result<(&str, &ClusterSettings)> {
        let names: Vec<&str> = self.clusters().map(|(name, _)| name).collect();
        let at = self.choose(Section::Cluster, &names, name, None)?;
        let (name, cluster) = &self.clusters[at];
        Ok((name, cluster))
    }

    /// Every repository, in the order of the file.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::Conflict`] when one of them lacks something.
    pub fn repositories(&self) -> Result<Vec<RepositorySettings>> {
        self.repositories.iter().map(|draft| draft.complete(&self.layered)).collect()
    }

    /// The cluster and the repositories of a run. `None` means the only one, or, of repositories,
    /// the one that is marked.
    ///
    /// That none of several repositories is marked is an error only where one is needed:
    /// [`Resolved::repository`].
    ///
    /// # Errors
    /// As [`Settings::cluster`] and [`Settings::repositories`].
    pub fn resolve(&self, cluster: Option<&str>, repository: Option<&str>) -> Result<Resolved> {
        let (cluster_name, settings) = self.cluster(cluster)?;
        let names: Vec<&str> =
            self.repositories.iter().map(|draft| draft.name.name.as_str()).collect();
        let marked = self.repositories.iter().position(|draft| draft.is_default);
        let choice = self.choose(Section::Repository, &names, repository, marked);
        let (selected, file) = match choice {
            Ok(at) => (Some(at), String::new()),
            Err(Error::Unselected { file, .. }) => (None, file),
            Err(error) => return Err(error),
        };
        Ok(Resolved {
            cluster_name: cluster_name.to_owned(),
            cluster: settings.clone(),
            timezone: self.schedule.timezone,
            repositories: self.repositories()?,
            selected,
            file,
        })
    }

    fn choose(
        &self,
        section: Section,
        names: &[&str],
        wanted: Option<&str>,
        marked: Option<usize>,
    ) -> Result<usize> {
        let (file, kind) = (self.layered.describe_source(), section.name());
        let candidates = || names.iter().map(ToString::to_string).collect();
        match (wanted, marked, names) {
            (_, _, []) => {
                let example = match section {
                    Section::Cluster => "[cluster.main]",
                    _ => "[repository.local] with its url",
                };
                let hint = format!("there is none yet; write a section {example}");
                Err(Error::MissingKey { file, key: kind.to_owned(), hint })
            }
            (Some(wanted), _, _) => {
                names.iter().position(|name| *name == wanted).ok_or_else(|| Error::UnknownName {
                    file,
                    kind,
                    name: wanted.to_owned(),
                    candidates: candidates(),
                })
            }
            (None, _, [_]) => Ok(0),
            (None, Some(marked), _) => Ok(marked),
            (None, None, _) => Err(Error::Unselected { file, kind, candidates: candidates() }),
        }
    }
}

fn check_defaults(layered: &Layered, repositories: &[RepositoryDraft]) -> Result<()> {
    let marked = repositories.iter().filter(|draft| draft.is_default);
    let marked: Vec<String> = marked.map(|draft| draft.name.to_string()).collect();
    if marked.len() < 2 {
        return Ok(());
    }
    let why = format!("{} are marked default = true; mark one", marked.join(" and "));
    let file = layered.describe_source();
    Err(Error::Conflict { file, section: Section::Repository.to_string(), why })
}

/// Chains move to another repository that there is, and not round in a circle.
fn check_moves(layered: &Layered, repositories: &[RepositoryDraft]) -> Result<()> {
    let find = |name: &str| repositories.iter().find(|draft| draft.name.name == name);
    for draft in repositories {
        let Some(first) = &draft.moves else { continue };
        let mut way = vec![draft.name.name.as_str()];
        let mut next = Some(first.to.as_str());
        while let Some(to) = next {
            let target = find(to);
            let why = match target {
                None => format!("tiering.to names repository {to}, and there is none"),
                Some(_) if way.contains(&to) => {
                    format!("tiering.to leads back to repository {to}")
                }
                Some(_) => String::new(),
            };
            if !why.is_empty() {
                let file = layered.describe_source();
                return Err(Error::Conflict { file, section: draft.name.to_string(), why });
            }
            way.push(to);
            next = target.and_then(|target| Some(target.moves.as_ref()?.to.as_str()));
        }
    }
    Ok(())
}

/// Where no repository is required, nothing says when WAL is archived.
fn check_required(layered: &Layered, repositories: &[RepositoryDraft]) -> Result<()> {
    let all: Option<Vec<&Origin>> =
        repositories.iter().map(|draft| draft.not_required.as_ref()).collect();
    let Some(first) = all.as_ref().and_then(|all| all.first()) else { return Ok(()) };
    let file = layered.describe_source();
    let why = format!(
        "no repository is required ({first} has required = false): WAL would count as archived when \
         it is nowhere; take it out of one of them"
    );
    Err(Error::Conflict { file, section: Section::Repository.to_string(), why })
}

/// What one run works with.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The cluster's name.
    pub cluster_name: String,
    /// The cluster.
    pub cluster: ClusterSettings,
    /// The zone in which days begin, and times of the schedule are meant.
    pub timezone: chrono_tz::Tz,
    /// All repositories, in the order of the file: WAL goes to each of them.
    pub repositories: Vec<RepositorySettings>,
    selected: Option<usize>,
    file: String,
}

impl Resolved {
    /// The one repository that is meant.
    ///
    /// # Errors
    /// [`Error::Unselected`] when there are several and none is named or marked.
    pub fn repository(&self) -> Result<&RepositorySettings> {
        let selected = self.selected.and_then(|at| self.repositories.get(at));
        selected.ok_or_else(|| Error::Unselected {
            file: self.file.clone(),
            kind: Section::Repository.name(),
            candidates: self.repositories.iter().map(|each| each.name.clone()).collect(),
        })
    }
}
