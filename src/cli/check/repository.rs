//! What `check` looks at in each repository.

use super::bucket;
use super::findings::Findings;
use crate::cli::error::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::output::{counted, duration, moment, seconds_between};
use crate::config::{RepositorySettings, Resolved};
use crate::crypt::SlotKind;
use crate::pg::{ArchivedWal, WalFileName};
use crate::pgconn::ServerFacts;
use crate::repo::{Backups, Place, Registration, Repository, Summary};
use crate::wiring::{self, Access, Opened};

/// A last backup older than this is worth a word.
const BACKUP_AGE_SECONDS: u64 = 7 * 86_400;

/// Opens the repository and looks at it.
pub fn look(
    run: &Invocation,
    resolved: &Resolved,
    settings: &RepositorySettings,
    server: Option<&ServerFacts>,
    findings: &mut Findings,
) {
    let rights = match settings.s3 {
        None => None,
        Some(_) => match bucket::look(run, settings, server, findings) {
            None => return,
            rights => rights,
        },
    };
    let opened = match wiring::open(&run.ctx, settings, Access::ReadOnly) {
        Ok(opened) => opened,
        Err(error) => return findings.failure("repository", error.into()),
    };
    let cipher = settings.cipher.name();
    let location = &settings.url;
    findings.ok("repository", format!("{location} opens and is authentic, cipher {cipher}"));
    secret(&opened, findings);
    let repository = &opened.repository;
    if let Some(rights) = &rights {
        bucket::conditions(repository.descriptor().conditional_put, rights, findings);
    }
    bucket::leftovers(run, repository.store().as_ref(), findings);
    let cluster = &resolved.cluster_name;
    let system = server.map(|facts| facts.system_identifier).or_else(|| {
        let directory = resolved.cluster.data_directory.as_deref()?;
        wiring::system_of(directory).ok()
    });
    let (place, registration) =
        match wiring::find_cluster(&settings.name, repository, cluster, system, None) {
            Ok(found) => found,
            Err(error) => return findings.failure("registration", error.into()),
        };
    registered(&place, &registration, server, findings);
    if let Some(facts) = server {
        round_trip(repository, &place, facts, findings);
    }
    if let Err(failure) = contents(run, repository, &place, &registration, findings) {
        findings.failure("contents", failure);
    }
}

fn secret(opened: &Opened, findings: &mut Findings) {
    const CHECK: &str = "key";
    match opened.repository.slots(None) {
        Ok(slots) => slots.damaged.iter().for_each(|damaged| {
            let found = format!("key slot {} is damaged: {}", damaged.slot, damaged.why);
            let todo = "Its holder cannot open the repository: remove it with `pgkeep key remove`, and \
                        add it again.";
            findings.warn(CHECK, found, todo);
        }),
        Err(error) => findings.failure(CHECK, error.into()),
    }
    for warning in &opened.warnings {
        findings.warn(CHECK, warning.to_string(), "Others must not be able to read it.");
    }
    match opened.unlock.kind() {
        SlotKind::KeyFile => {
            findings.ok(CHECK, format!("key file, fingerprint {}", opened.unlock.fingerprint()));
        }
        SlotKind::Passphrase => findings.warn(
            CHECK,
            "a passphrase: each archived segment costs one scrypt, a third of a second and 128 MiB",
            "Run `pgkeep key add --key-file PATH` and configure key_file, or name a \
             cache_directory.",
        ),
        SlotKind::Clear => findings.warn(
            CHECK,
            "cipher none: whoever reads the place reads the data, and can change it unnoticed",
            "A new repository with cipher = \"aes-256-cbc\" is the way out.",
        ),
    }
}

fn registered(
    place: &Place,
    registration: &Registration,
    server: Option<&ServerFacts>,
    findings: &mut Findings,
) {
    const CHECK: &str = "registration";
    let sizes = (registration.block_size, registration.wal_segment_size);
    match server {
        Some(facts) if (facts.block_size, facts.wal_segment_size) != sizes => findings.fail(
            CHECK,
            format!("registered with block and segment sizes {sizes:?}, the server has others"),
            "`pgkeep init --new-epoch` begins a new archive with them; then take a full backup.",
        ),
        _ => {
            let (cluster, epoch) = (place.cluster(), place.epoch());
            findings.ok(CHECK, format!("{cluster}, system {}, epoch {epoch}", place.system()));
        }
    }
}

/// What the server calls archived must be here.
fn round_trip(
    repository: &Repository,
    place: &Place,
    facts: &ServerFacts,
    findings: &mut Findings,
) {
    const CHECK: &str = "WAL round trip";
    let Some(name) = facts.archiver.last_archived.as_deref() else { return };
    let key = match WalFileName::parse(name.as_bytes()) {
        Ok(WalFileName::Segment(_)) => place.wal(name),
        Ok(WalFileName::History(timeline)) => Some(place.history(timeline.get())),
        Ok(WalFileName::BackupHistory { .. }) => place.label(name),
        _ => None,
    };
    let Some(key) = key else { return };
    match repository.store().head(&key) {
        Ok(_) => findings.ok(CHECK, format!("{name}, the server's last archived, is here")),
        Err(error) if error.is_not_found() => findings.fail(
            CHECK,
            format!("the server archived {name}, and it is not here"),
            "archive_command writes somewhere else: compare its --config with this one. Then take \
             a full backup.",
        ),
        Err(error) => findings.failure(CHECK, error.into()),
    }
}

fn contents(
    run: &Invocation,
    repository: &Repository,
    place: &Place,
    registration: &Registration,
    findings: &mut Findings,
) -> Result<(), Failure> {
    // What the objects say, not the summaries.
    let backups = repository.backups_by_manifest(&run.ctx, place)?;
    for (name, error) in &backups.unreadable {
        let todo = "This backup cannot be restored. Take a full backup.";
        findings.fail("backup", format!("{name}: {error}"), todo);
    }
    last_backup(run, &backups, findings);
    let mut complaints = repository.catalogue_complaints(&run.ctx, place, &backups)?;
    let survey = repository.survey_by_list(&run.ctx, place, registration)?;
    complaints.extend(survey.complaints);
    summaries(complaints, findings);
    holes(&backups, &survey.wal, findings);
    Ok(())
}

/// Summaries are derived: what is wrong with them misleads `info` and costs time.
fn summaries(complaints: Vec<String>, findings: &mut Findings) {
    for complaint in complaints {
        let todo = "Objects below sum/backups/ and sum/wal/ may be removed: later backups write \
                    them again. Leave sum/found-first and sum/found/ alone.";
        findings.warn("summaries", complaint, todo);
    }
}

fn last_backup(run: &Invocation, backups: &Backups, findings: &mut Findings) {
    const CHECK: &str = "last backup";
    let Some(last) = backups.complete.last() else {
        return findings.fail(CHECK, "there is none", "Run `pgkeep backup --type full`.");
    };
    let age = seconds_between(last.finished, run.ctx.clock.now());
    let found = format!("{} of {}, {} old", last.id, moment(last.finished), duration(age));
    if age > BACKUP_AGE_SECONDS {
        let todo = "Recovery replays all WAL since then. Take backups at least every week.";
        findings.warn(CHECK, found, todo);
    } else {
        findings.ok(CHECK, found);
    }
    if last.totals.invalid_pages > 0 {
        let found = format!("{} pages were invalid in {}", last.totals.invalid_pages, last.id);
        findings.warn("invalid pages", found, "Look at the server's disk, and at older backups.");
    }
}

fn holes(backups: &Backups, wal: &ArchivedWal, findings: &mut Findings) {
    const CHECK: &str = "WAL";
    let Some(start) = backups.complete.first().and_then(Summary::start) else { return };
    let holes = wal.holes(start);
    let Some(first) = holes.first() else {
        return findings.ok(CHECK, "without holes since the oldest backup");
    };
    let names = wal.describe(first);
    let more = match holes.len() {
        1 => String::new(),
        several => format!(" and {}", counted(several - 1, "more hole")),
    };
    let todo = "Moments behind a hole need a backup taken behind it. `pgkeep wal gaps` shows each hole; if a \
                former primary or standby still has the segments, run `pgkeep wal backfill --from DIR` \
                there; otherwise take a backup.";
    // The newest backup decides whether the present is safe.
    let newest = backups.complete.last().and_then(Summary::start);
    let is_behind = newest.is_some_and(|newest| wal.holes(newest).is_empty());
    if is_behind {
        findings.warn(CHECK, format!("missing: {names}{more}; newer backups are whole"), todo);
    } else {
        findings.fail(CHECK, format!("missing: {names}{more}"), todo);
    }
}
