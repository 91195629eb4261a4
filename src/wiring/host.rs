//! Settings, this host, and its servers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Error, Result};
use crate::base::{Ctx, Host};
use crate::config::{self, Environment, RepositorySettings, Resolved, Settings, Sources};
use crate::pgconn::{ConnectOptions, Session};
use crate::repo::{BackupType, Origin};
use crate::restore::{ProgramPlaces, ServerNow};
use crate::{archive, backup, pg};

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

/// The folders on this host that hold repositories of the configuration.
#[must_use]
pub fn repository_folders(resolved: &Resolved) -> Vec<PathBuf> {
    let folder = |settings: &config::RepositorySettings| match &settings.url {
        config::Location::File(folder) => Some(folder.clone()),
        config::Location::S3(_) => None,
    };
    resolved.repositories.iter().filter_map(folder).collect()
}

/// Files on this host without which no command of the configuration works: itself, and what opens repositories.
#[must_use]
pub fn own_files(resolved: &Resolved, config: Option<&Path>) -> Vec<PathBuf> {
    let file = config_path(config);
    let of = |settings: &config::RepositorySettings| {
        let secret = settings.secret.file().map(Path::to_owned);
        let of_bucket = settings.s3.iter().flat_map(config::S3Settings::files);
        secret.into_iter().chain(of_bucket).collect::<Vec<_>>()
    };
    std::iter::once(file).chain(resolved.repositories.iter().flat_map(of)).collect()
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

/// What a person may say of a backup.
#[derive(Debug, Clone, Copy)]
pub struct BackupFlags {
    /// What is stored.
    pub backup_type: BackupType,
    /// How many workers copy, unless the configuration's number.
    pub jobs: Option<usize>,
    /// Bytes read in a second, unless the configuration's rate.
    pub max_rate: Option<u64>,
    /// Files that nobody seems to have touched are not read.
    pub skips: bool,
    /// What interrupted backups have stored is used.
    pub resumes: bool,
}

/// What a backup is told.
///
/// # Errors
/// [`Error::NoDataDirectory`].
pub fn backup_options(
    resolved: &Resolved,
    repository: &RepositorySettings,
    flags: BackupFlags,
) -> Result<backup::Options> {
    let cluster = resolved.cluster_name.clone();
    let settings = &resolved.cluster;
    let data_directory = settings.data_directory.clone();
    Ok(backup::Options {
        backup_type: flags.backup_type,
        auto_full: settings.auto_full,
        auto_full_below: settings.auto_full_below,
        skips: flags.skips,
        resumes: flags.resumes,
        pack_size: repository.pack_size,
        data_directory: data_directory.ok_or(Error::NoDataDirectory { cluster })?,
        connection: connect_options(resolved, "backup"),
        jobs: flags.jobs.unwrap_or(settings.jobs),
        max_rate: flags.max_rate.or(settings.max_rate.map(|rate| rate.0)),
        fast_checkpoint: true,
        wal_wait: settings.wal_wait,
        host: host(),
        pid: std::process::id(),
        is_gone,
    })
}

/// The rules by which backups stay in a repository.
#[must_use]
pub fn policy(resolved: &Resolved, repository: &RepositorySettings) -> crate::retention::Policy {
    let crate::config::Retention { daily, weekly, monthly, yearly, last, min_full, window, .. } =
        repository.retention;
    let zone = resolved.timezone;
    crate::retention::Policy { daily, weekly, monthly, yearly, last, min_full, window, zone }
}

/// This host by name and, where there is one, by an id that does not change with it.
#[must_use]
pub fn host() -> Host {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Host::new(name, &std::fs::read_to_string("/etc/machine-id").unwrap_or_default())
}

/// Whether a process is surely gone: it ran on this very host, and does not any more.
#[must_use]
pub fn is_gone(of: &str, pid: u32) -> bool {
    let own = host();
    own.has_identity()
        && own.to_string() == of
        && Path::new("/proc/self").exists()
        && !Path::new(&format!("/proc/{pid}")).exists()
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
