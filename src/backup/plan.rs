//! What a backup will do, as a value: printed by `--dry-run`, then executed.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::copy::read_control_file;
use super::error::{Error, Result};
use super::options::Options;
use super::parent::{Parent, Server, Standing, choose, history_of};
use super::scan::{Found, walk};
use super::stands::Stands;
use crate::base::{ByteSize, Ctx};
use crate::pg::control_file::ClusterState;
use crate::pg::{ControlFile, Layout, MajorVersion};
use crate::pgconn::{ServerFacts, Session};
use crate::repo::{BackupId, BackupType, Backups, Base, Place, Registration, Repository};

/// What a backup will do.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Plan {
    /// The type; a full where there is nothing to stand on.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// The backup that it stands on.
    #[serde(rename = "parent")]
    pub parent_id: Option<BackupId>,
    /// The cluster's configured name.
    pub cluster: String,
    /// The system identifier.
    pub system: String,
    /// The server's version, such as 150018.
    pub server_version: i32,
    /// Whether it is a standby.
    pub standby: bool,
    /// The data directory that will be read.
    pub data_directory: PathBuf,
    /// Files in it now that will be copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Tablespaces outside the data directory: oid and location.
    pub tablespaces: Vec<(u32, String)>,
    /// Whether page checksums will be checked.
    pub checksums: bool,
    /// Workers.
    pub jobs: usize,
    /// What the operator should know first.
    pub warnings: Vec<String>,
    /// Interrupted backups that it uses, and how much they have stored.
    pub interrupted: Vec<(BackupId, u64)>,
    #[serde(skip)]
    pub(super) stands: Stands,
}

/// Looks at server, directory and registration and says what a backup would do. Changes nothing.
///
/// # Errors
/// What would make the backup fail and can be seen now.
pub fn plan(
    ctx: &Ctx,
    options: &Options,
    repository: &Repository,
    place: &Place,
    registration: &Registration,
) -> Result<Plan> {
    let control = options.data_directory.join("global/pg_control");
    let (_, _, control) = read_control_file(ctx, &control)?;
    let session = Session::connect(ctx, &options.connection)?;
    let facts = ServerFacts::read(ctx, &session)?;
    let layout = check_server(&facts, &control, place, registration)?;
    let mut warnings = warnings(&facts, options);
    let backups = repository.backups(ctx, place)?;
    let stored = (repository, place, &backups);
    let parent = parent(ctx, options, stored, &facts, &mut warnings)?;
    let stands = Stands::find(ctx, options, stored, &facts, parent)?;
    let parent = &stands.parent;
    let backup_type = if parent.is_some() { options.backup_type } else { BackupType::Full };
    let (mut files, mut bytes, mut tablespaces) = (0, 0, Vec::new());
    walk(ctx, &options.data_directory, &layout, &mut |entry| {
        match entry.what {
            Found::File | Found::ControlFile => {
                files += 1;
                bytes += entry.metadata.len();
            }
            Found::Tablespace { oid, location } => {
                tablespaces.push((oid, String::from_utf8_lossy(&location).into_owned()));
            }
            Found::Directory => {}
        }
        Ok(())
    })?;
    Ok(Plan {
        backup_type,
        parent_id: parent.as_ref().map(|parent| parent.summary().id.clone()),
        cluster: place.cluster().into(),
        system: place.system().to_string(),
        server_version: facts.server_version,
        standby: facts.in_recovery,
        data_directory: options.data_directory.clone(),
        files,
        bytes,
        tablespaces,
        checksums: facts.data_checksums,
        jobs: options.jobs,
        warnings,
        interrupted: stands
            .attempts()
            .iter()
            .map(|dead| (dead.id().clone(), dead.stored()))
            .collect(),
        stands,
    })
}

/// The backup that this one stands on: none of a full, or where there is none, or where none fits and a full may be
/// taken instead.
fn parent(
    ctx: &Ctx,
    options: &Options,
    (repository, place, backups): (&Repository, &Place, &Backups),
    facts: &ServerFacts,
    warnings: &mut Vec<String>,
) -> Result<Option<Arc<Parent>>> {
    if options.backup_type == BackupType::Full {
        return Ok(None);
    }
    let found = (|| {
        let history = history_of(repository, place, &options.data_directory, facts)?;
        let server = Server::of(facts, history);
        match choose(options.backup_type, backups, &server)? {
            Standing::Alone(why) => {
                warnings.extend(why);
                Ok(None)
            }
            Standing::On(id) => {
                // Names begin with the time, so that what comes later is greater.
                let later =
                    backups.unreadable.iter().filter(|(name, _)| *name > id.root().to_string());
                warnings.extend(later.map(|(name, error)| {
                    format!("{name} cannot be read, so that this one may stand on an older backup: {error}")
                }));
                let is_differential = options.backup_type == BackupType::Differential;
                if is_differential
                    && let Some(due) = full_due(repository, place, backups, &id, options)?
                {
                    if options.auto_full {
                        warnings.push(format!("{due}: this one is a full (auto_full)"));
                        return Ok(None);
                    }
                    warnings.push(format!("{due}: a full would make the next ones smaller"));
                }
                Parent::open(ctx, repository, place, &id).map(Some)
            }
        }
    })();
    match found {
        Err(Error::Parent { what }) if options.auto_full => {
            warnings.push(format!("{what}; this one is a full (auto_full)"));
            Ok(None)
        }
        other => other,
    }
}

/// Whether so much has changed since a full that the next one is due: by what the newest backup that stands on it
/// still uses of it.
fn full_due(
    repository: &Repository,
    place: &Place,
    backups: &Backups,
    full: &BackupId,
    options: &Options,
) -> Result<Option<String>> {
    let Some(root) = backups.complete.iter().find(|backup| backup.id == *full) else {
        return Ok(None);
    };
    let newest = backups.complete.iter().rev().find(|backup| backup.id.root() == *full);
    let Some(newest) = newest.filter(|newest| newest.id != *full) else { return Ok(None) };
    let bases_of = |id: &BackupId| match repository.bases(place, id) {
        Err(error) if error.is_of_content() => Ok(None),
        other => other.map(Some),
    };
    // What a full has of an interrupted one is its own.
    let is_of_full = |base: &&Base| base.id == *full || root.attempts.contains(&base.id);
    let used_of = |bases: &[Base]| bases.iter().filter(is_of_full).map(|base| base.used).sum();
    let Some(bases) = bases_of(&newest.id)? else { return Ok(None) };
    let used: u64 = used_of(&bases);
    let mut all = root.own_bytes();
    if !root.attempts.is_empty() {
        let Some(bases) = bases_of(full)? else { return Ok(None) };
        all += used_of(&bases);
    }
    let share = used.saturating_mul(100).checked_div(all).unwrap_or(100);
    let is_due = share < u64::from(options.auto_full_below);
    Ok(is_due.then(|| format!("{} uses only {share} % of {full}", newest.id)))
}

/// Refuses what cannot become a good backup; returns the rules of what is copied.
pub(super) fn check_server(
    facts: &ServerFacts,
    control: &ControlFile,
    place: &Place,
    registration: &Registration,
) -> Result<Layout> {
    let refuse = |what: String| Err(Error::Refused { what });
    if facts.system_identifier != place.system() {
        return refuse(format!(
            "the server's system identifier is {}, the repository's cluster {} is {}",
            facts.system_identifier,
            place.cluster(),
            place.system()
        ));
    }
    if control.system_identifier != place.system() {
        return refuse(format!(
            "the data directory's system identifier is {}, the server's is {}",
            control.system_identifier, facts.system_identifier
        ));
    }
    let expected = if facts.in_recovery {
        ClusterState::InArchiveRecovery
    } else {
        ClusterState::InProduction
    };
    if control.state != expected {
        let role = if facts.in_recovery { "a standby" } else { "a primary" };
        return refuse(format!(
            "the server is {role}, the data directory's control file says {:?}: the server runs on \
             another directory, or is being promoted",
            control.state
        ));
    }
    if (facts.block_size, facts.wal_segment_size)
        != (registration.block_size, registration.wal_segment_size)
    {
        let what = format!(
            "the server has blocks of {} and WAL segments of {} bytes, it was registered with {} \
             and {}",
            facts.block_size,
            facts.wal_segment_size,
            registration.block_size,
            registration.wal_segment_size
        );
        return Err(Error::Sizes { what });
    }
    if !facts.in_recovery {
        check_archiving(facts)?;
    }
    let version = u32::try_from(facts.server_version).unwrap_or_default();
    let major = MajorVersion::from_server_version_num(version)
        .map_err(|error| Error::Refused { what: error.to_string() })?;
    Ok(Layout::new(major, control.catalog_version))
}

/// Whether a primary archives. A standby need not: the WAL of its backup is the primary's, and the
/// backup waits until it has come.
fn check_archiving(facts: &ServerFacts) -> Result<()> {
    let refuse = |what: String| Err(Error::Refused { what });
    let mode = facts.archive_mode.as_str();
    if mode == "off" {
        return refuse(format!(
            "archive_mode is {mode}: without archived WAL a backup cannot be restored"
        ));
    }
    if has_library(facts) {
        return refuse("archive_library is set, so archive_command is never run".into());
    }
    Ok(())
}

fn has_library(facts: &ServerFacts) -> bool {
    facts.archive_library.as_deref().is_some_and(|library| !library.is_empty())
}

fn warnings(facts: &ServerFacts, options: &Options) -> Vec<String> {
    let mut warnings = Vec::new();
    if !facts.full_page_writes && options.skips && options.backup_type != BackupType::Full {
        warnings.push(
            "full_page_writes is off: after a crash, files can differ from what their times say, so              that every file is read where the file system writes over its blocks"
                .into(),
        );
    }
    if facts.in_recovery && (facts.archive_mode == "off" || has_library(facts)) {
        warnings.push(
            "this standby does not run archive_command: its primary must archive the backup's WAL, \
             and after a promotion nobody does"
                .into(),
        );
    }
    if !facts.data_checksums {
        warnings.push("data checksums are off: damaged pages cannot be told from good ones".into());
    }
    if !facts.logical_slots.is_empty() {
        let slots = facts.logical_slots.join(", ");
        warnings.push(format!("logical replication slots are not part of a backup: {slots}"));
    }
    // A standby ends no segments.
    if facts.archive_timeout == 0 && !facts.in_recovery {
        warnings.push(
            "archive_timeout is 0: on a quiet cluster the newest changes stay unarchived".into(),
        );
    }
    warnings
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.standby { "standby" } else { "primary" };
        writeln!(
            f,
            "{} backup of cluster {} (system {})",
            self.backup_type, self.cluster, self.system
        )?;
        if let Some(parent) = &self.parent_id {
            writeln!(f, "  stands on     {parent}")?;
        }
        for (id, stored) in &self.interrupted {
            let stored = ByteSize(*stored);
            writeln!(f, "  uses          {id}, which was interrupted and has {stored} stored")?;
        }
        writeln!(f, "  server        PostgreSQL {}, {role}", self.server_version / 10_000)?;
        writeln!(f, "  reads         {}", self.data_directory.display())?;
        for (oid, location) in &self.tablespaces {
            writeln!(f, "  tablespace    {oid} in {location}")?;
        }
        writeln!(f, "  size          {} files, {}", self.files, ByteSize(self.bytes))?;
        let checksums = if self.checksums { "checked" } else { "off" };
        writeln!(f, "  checksums     {checksums}")?;
        write!(f, "  workers       {}", self.jobs)
    }
}
