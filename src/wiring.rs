//! Assembles stores, repositories, destinations and options from the configuration: no logic.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::archive::{self, Destination};
use crate::base::{Ctx, Host};
use crate::config::{
    self, Environment, Location, RepositorySettings, Resolved, Settings, Sources, Warning,
};
use crate::crypt::Unlock;
use crate::pgconn::{ConnectOptions, Session};
use crate::repo::{
    self, BackupType, KeyCache, Origin, Place, Registration, Repository, SlotSummary, layout,
};
use crate::restore::{ProgramPlaces, ServerNow};
use crate::storage::{self, KeptStore, Lasting, LocalStore, ObjectStore, ReadOnlyStore, S3Store};
use crate::{backup, pg};

/// Why nothing could be assembled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration or a secret.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The configured key file is missing, and the repository is there.
    #[error("repository {repository}: {source}")]
    NoKey {
        /// Its name in the configuration.
        repository: String,
        /// What the configuration room said.
        #[source]
        source: Box<config::Error>,
        /// The slots that the repository has.
        slots: Vec<SlotSummary>,
    },
    /// A repository refused or failed.
    #[error("repository {repository}: {source}")]
    Repository {
        /// Its name in the configuration.
        repository: String,
        /// What it said.
        #[source]
        source: repo::Error,
    },
    /// Nothing says which system identifier the cluster has.
    #[error("cannot tell the system identifier of cluster {cluster}: {why}")]
    UnknownSystem {
        /// The configured name.
        cluster: String,
        /// What was tried.
        why: String,
    },
    /// The configuration names no data directory.
    #[error("cluster.{cluster}.data_directory is not set")]
    NoDataDirectory {
        /// The configured name.
        cluster: String,
    },
}

impl Error {
    /// What one repository said.
    #[must_use]
    pub fn of_repository(name: &str, source: repo::Error) -> Self {
        at(name)(source)
    }

    /// Whether the same may succeed a moment later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Repository { source, .. } if source.may_pass())
    }

    /// Whether the repository is in order and does not know the cluster, or this epoch of it.
    #[must_use]
    pub fn is_unregistered(&self) -> bool {
        use repo::Error::{EpochAnnounced, NoCluster, NoEpoch};
        let Self::Repository { source, .. } = self else { return false };
        matches!(source, NoCluster { .. } | NoEpoch { .. } | EpochAnnounced { .. })
    }

    /// The epoch that has begun, and that the repository has not come to.
    #[must_use]
    pub fn announced_epoch(&self) -> Option<u32> {
        match self {
            Self::Repository { source: repo::Error::EpochAnnounced { epoch, .. }, .. } => {
                Some(*epoch)
            }
            _ => None,
        }
    }
}

/// The room's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What a command may do to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every change is refused.
    ReadOnly,
    /// Objects are added and removed.
    ReadWrite,
    /// As [`Access::ReadWrite`], for one file: what is read to open the repository may be as old as
    /// [`storage::KEPT_FOR`].
    Push,
    /// As [`Access::ReadOnly`], likewise: enough to deliver a file, not to call one absent.
    Fetch,
    /// As [`Access::ReadOnly`]; what is read is kept for others.
    FetchAnew,
}

/// An open repository, and what should be looked at.
#[derive(Debug)]
pub struct Opened {
    /// The repository.
    pub repository: Repository,
    /// What opened it.
    pub unlock: Unlock,
    /// About its secret.
    pub warnings: Vec<Warning>,
}

fn at<E: Into<repo::Error>>(name: &str) -> impl FnOnce(E) -> Error {
    let repository = name.to_owned();
    move |source| Error::Repository { repository, source: source.into() }
}

/// Reads file and environment.
///
/// # Errors
/// [`Error::Config`].
pub fn settings(config: Option<&Path>) -> Result<Settings> {
    let environment = Environment::of_process();
    Ok(Settings::load(&Sources { config, environment: &environment, flags: &[] })?)
}

/// Whether the environment allows colours.
#[must_use]
pub fn environment_allows_color() -> bool {
    Environment::of_process().allows_color()
}

/// The store of a repository that is there.
///
/// # Errors
/// [`Error::Config`] for credentials that cannot be read, [`Error::Repository`].
pub fn store(
    ctx: &Ctx,
    settings: &RepositorySettings,
    access: Access,
) -> Result<Arc<dyn ObjectStore>> {
    let store: Arc<dyn ObjectStore> = match &settings.url {
        Location::File(folder) => match LocalStore::open(folder) {
            // To an operator, a folder that is not there is a repository that is not there.
            Err(storage::Error::NoStore { .. }) => {
                let location = settings.url.to_string();
                return Err(at(&settings.name)(repo::Error::NoRepository { location }));
            }
            other => Arc::new(other.map_err(at(&settings.name))?),
        },
        Location::S3(_) => Arc::new(bucket(ctx, settings)?),
    };
    let may_be_kept = matches!(access, Access::Push | Access::Fetch | Access::FetchAnew);
    let store: Arc<dyn ObjectStore> = match opening_cache(settings).filter(|_| may_be_kept) {
        None => store,
        Some(path) => {
            let lasting = Lasting { object: layout::is_read_first, list: layout::is_listed_first };
            let now = ctx.clock.now();
            Arc::new(match access {
                Access::FetchAnew => KeptStore::anew(store, path, lasting, now),
                _ => KeptStore::new(store, path, lasting, now),
            })
        }
    };
    Ok(match access {
        Access::ReadWrite | Access::Push => store,
        _ => Arc::new(ReadOnlyStore::new(store)),
    })
}

/// Whether something is kept that opens one of the repositories, young or old.
#[must_use]
pub fn has_openings(repositories: &[RepositorySettings]) -> bool {
    repositories.iter().filter_map(opening_cache).any(|path| path.exists())
}

fn opening_cache(settings: &RepositorySettings) -> Option<PathBuf> {
    settings.s3.as_ref().and_then(config::S3Settings::opening_cache)
}

/// Lets the next archive-push on this host, of this account, read again what opens the repositories.
pub fn forget_openings(repositories: &[RepositorySettings]) {
    repositories.iter().filter_map(opening_cache).for_each(|path| storage::kept::forget(&path));
}

/// The store of a repository that may still have to be made: in a bucket with as many requests at a time
/// as trying it takes, whatever the configuration allows.
///
/// # Errors
/// As [`store`].
pub fn create_store(ctx: &Ctx, settings: &RepositorySettings) -> Result<Arc<dyn ObjectStore>> {
    Ok(match &settings.url {
        Location::File(folder) => Arc::new(LocalStore::create(folder).map_err(at(&settings.name))?),
        Location::S3(_) => Arc::new(bucket_with(ctx, settings, repo::RACERS)?),
    })
}

/// The bucket of a repository that is in one.
///
/// # Errors
/// As [`store`].
///
/// # Panics
/// When it is in a folder.
pub fn bucket(ctx: &Ctx, settings: &RepositorySettings) -> Result<S3Store> {
    bucket_with(ctx, settings, 1)
}

fn bucket_with(ctx: &Ctx, settings: &RepositorySettings, requests_min: usize) -> Result<S3Store> {
    let s3 = settings.s3.as_ref().expect("a url of a bucket comes with its settings");
    let (mut options, warnings) = s3.options()?;
    options.requests_max = options.requests_max.max(requests_min);
    warnings.iter().for_each(|warning| ctx.warn(warning.to_string()));
    S3Store::open(ctx, options).map_err(at(&settings.name))
}

/// Whether a repository is there, without its key.
///
/// # Errors
/// As [`store`], but absence is an answer.
pub fn exists(ctx: &Ctx, settings: &RepositorySettings) -> Result<bool> {
    let store = match store(ctx, settings, Access::ReadOnly) {
        Err(Error::Repository { source: repo::Error::NoRepository { .. }, .. }) => {
            return Ok(false);
        }
        other => other?,
    };
    match store.head(&layout::descriptor()) {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(at(&settings.name)(error)),
    }
}

/// Opens a repository: secret, descriptor, cipher.
///
/// # Errors
/// [`Error::Config`], [`Error::NoKey`], [`Error::Repository`].
pub fn open(ctx: &Ctx, settings: &RepositorySettings, access: Access) -> Result<Opened> {
    let store = store(ctx, settings, access)?;
    open_in(store, settings, None)
}

/// As [`open`]; what a passphrase opens is kept, where the configuration names a folder for it.
fn open_in(
    store: Arc<dyn ObjectStore>,
    settings: &RepositorySettings,
    ctx: Option<&Ctx>,
) -> Result<Opened> {
    let unlocked = match settings.secret.unlock() {
        Err(missing @ config::Error::MissingKeyFile { .. }) => {
            return Err(without_key(settings, store, missing));
        }
        other => other?,
    };
    let cache = settings.cache_directory.as_ref().map(KeyCache::new);
    let cache = ctx.zip(cache.as_ref());
    let repository =
        Repository::open_with(store, &unlocked.unlock, cache).map_err(at(&settings.name))?;
    repository.require_cipher(settings.cipher).map_err(at(&settings.name))?;
    Ok(Opened { repository, unlock: unlocked.unlock, warnings: unlocked.warnings })
}

/// The clear secret opens nothing here and tells which slots there are.
fn without_key(
    settings: &RepositorySettings,
    store: Arc<dyn ObjectStore>,
    missing: config::Error,
) -> Error {
    let repository = settings.name.clone();
    match Repository::open(store, &Unlock::Clear) {
        Err(repo::Error::WrongKey { slots, .. }) => {
            Error::NoKey { repository, source: Box::new(missing), slots }
        }
        Err(source @ repo::Error::NoRepository { .. }) => Error::Repository { repository, source },
        _ => missing.into(),
    }
}

/// The system identifier of the cluster whose data directory this is.
///
/// # Errors
/// As [`archive::read_control_file`].
pub fn system_of(data_directory: &Path) -> archive::Result<u64> {
    Ok(archive::read_control_file(data_directory)?.system_identifier)
}

/// The data directory that the archive commands work for: the one that `path` lies in (PostgreSQL
/// gives `pg_wal/...` and runs them there), else the configured one. So a restored copy or a
/// standby elsewhere is seen as what it is.
#[must_use]
pub fn data_directory_of(path: &Path, configured: Option<&Path>) -> Option<PathBuf> {
    let around = path.parent().and_then(Path::parent).map(|folder| match folder.as_os_str() {
        empty if empty.is_empty() => PathBuf::from("."),
        _ => folder.to_owned(),
    });
    let around = around.filter(|folder| folder.join("global/pg_control").exists());
    around.or_else(|| configured.map(Path::to_owned))
}

/// Finds the cluster in an open repository, by system identifier where it is known, else the only
/// one of that name; of several epochs the one that is named, else the newest.
///
/// # Errors
/// [`Error::UnknownSystem`], [`Error::Repository`].
pub fn find_cluster(
    name: &str,
    repository: &Repository,
    cluster: &str,
    system: Option<u64>,
    epoch: Option<u32>,
) -> Result<(Place, Registration)> {
    let system = match system {
        Some(system) => system,
        None => only_system(name, repository, cluster)?,
    };
    let found = match epoch {
        Some(epoch) => repository.find_epoch(cluster, system, epoch),
        None => repository.find_cluster(cluster, system),
    };
    found.map_err(at(name))
}

fn only_system(name: &str, repository: &Repository, cluster: &str) -> Result<u64> {
    let mut systems: Vec<u64> = repository
        .places()
        .map_err(at(name))?
        .iter()
        .filter(|place| place.cluster() == cluster)
        .map(Place::system)
        .collect();
    systems.sort_unstable();
    systems.dedup();
    match systems.as_slice() {
        [only] => Ok(*only),
        [] => Err(at(name)(repo::Error::NoCluster { cluster: cluster.into(), system: 0 })),
        several => {
            let several: Vec<_> = several.iter().map(ToString::to_string).collect();
            let why = format!("repository {name} keeps {}", several.join(" and "));
            Err(Error::UnknownSystem { cluster: cluster.into(), why })
        }
    }
}

/// One repository as a place of WAL.
///
/// # Errors
/// As [`open`] and [`find_cluster`].
pub fn destination(
    ctx: &Ctx,
    settings: &RepositorySettings,
    cluster: &str,
    system: Option<u64>,
    epoch: Option<u32>,
    access: Access,
) -> Result<(Destination, Vec<Warning>)> {
    let store = store(ctx, settings, access)?;
    let Opened { repository, warnings, .. } = open_in(store, settings, Some(ctx))?;
    let (place, registration) = find_cluster(&settings.name, &repository, cluster, system, epoch)?;
    let name = settings.name.clone();
    Ok((Destination { name, repository, place, registration }, warnings))
}

/// How to reach the cluster's server.
#[must_use]
pub fn connect_options(resolved: &Resolved, purpose: &str) -> ConnectOptions {
    let connection = resolved.cluster.connection.expose();
    ConnectOptions::new(connection.as_str(), format!("pgkeep {purpose}"))
}

/// The role that the cluster's connection string names.
#[must_use]
pub fn connection_user(resolved: &Resolved) -> Option<String> {
    connect_options(resolved, "restore").user()
}

/// Where the server's programs are looked for.
#[must_use]
pub fn program_places(resolved: &Resolved) -> ProgramPlaces {
    ProgramPlaces {
        configured: resolved.cluster.bin_directory.clone(),
        root: "/".into(),
        path: Environment::of_process().program_folders(),
    }
}

/// What the cluster's server says about its last moments, if it can be asked without waiting long.
#[must_use]
pub fn server_now(ctx: &Ctx, resolved: &Resolved) -> Option<ServerNow> {
    let mut options = connect_options(resolved, "restore");
    options.connect_timeout = Duration::from_secs(3);
    options.statement_timeout = Duration::from_secs(5);
    let session = Session::connect(ctx, &options).ok()?;
    let now = session.last_moment(ctx).ok()?;
    Some(ServerNow {
        system: now.system_identifier,
        in_recovery: now.wal.in_recovery,
        timeline: now.wal.timeline,
        clock: now.clock,
        running: now.running,
        insert: pg::Lsn(now.wal.lsn?),
        wal_directory: resolved.cluster.data_directory.as_ref().map(|data| data.join("pg_wal")),
    })
}

/// What a backup is told.
///
/// # Errors
/// [`Error::NoDataDirectory`].
pub fn backup_options(
    resolved: &Resolved,
    backup_type: BackupType,
    jobs: Option<usize>,
    max_rate: Option<u64>,
) -> Result<backup::Options> {
    let cluster = resolved.cluster_name.clone();
    let settings = &resolved.cluster;
    let data_directory = settings.data_directory.clone();
    Ok(backup::Options {
        backup_type,
        data_directory: data_directory.ok_or(Error::NoDataDirectory { cluster })?,
        connection: connect_options(resolved, "backup"),
        jobs: jobs.unwrap_or(settings.jobs),
        max_rate: max_rate.or(settings.max_rate.map(|rate| rate.0)),
        fast_checkpoint: true,
        wal_wait: settings.wal_wait,
        host: host().to_string(),
        pid: std::process::id(),
    })
}

/// The segment size that a registration records.
///
/// # Errors
/// [`Error::Repository`] for a size that PostgreSQL does not have.
pub fn segment_size(name: &str, registration: &Registration) -> Result<pg::SegmentSize> {
    pg::SegmentSize::new(registration.wal_segment_size.into())
        .map_err(|error| at(name)(repo::Error::Limit(error.to_string())))
}

/// This host by name and, where there is one, by an id that does not change with it.
#[must_use]
pub fn host() -> Host {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Host::new(name, &std::fs::read_to_string("/etc/machine-id").unwrap_or_default())
}

/// The server of a data directory on this host, for records.
#[must_use]
pub fn origin(data_directory: &Path) -> Origin {
    let real = data_directory.canonicalize();
    let directory = real.unwrap_or_else(|_| data_directory.to_owned());
    Origin { host: host().to_string(), directory: directory.display().to_string() }
}

/// The configuration file that counts.
#[must_use]
pub fn config_path(flag: Option<&Path>) -> PathBuf {
    let named = flag.map(Path::to_owned).or_else(|| Environment::of_process().config());
    named.unwrap_or_else(|| config::DEFAULT_PATH.into())
}

/// The words that call this very pgkeep with this configuration, up to the command.
///
/// # Errors
/// When the system does not tell where the program is.
pub fn own_command(config: Option<&Path>, cluster: Option<&str>) -> std::io::Result<Vec<PathBuf>> {
    let mut words = vec![std::env::current_exe()?];
    let config = std::path::absolute(config_path(config))?;
    // The one that is read without being named.
    if config.exists() && config != Path::new(config::DEFAULT_PATH) {
        words.extend(["--config".into(), config]);
    }
    if let Some(cluster) = cluster {
        words.extend(["--cluster".into(), cluster.into()]);
    }
    Ok(words)
}
