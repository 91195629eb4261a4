//! Taking the backup.
//!
//! Order: prove the server, reserve the id, start, prove that the directory has reached the start,
//! copy, prove again, control file, stop, wait for WAL, file table, manifest. Whatever fails before
//! the manifest leaves nothing visible, and the server ends the backup with the session. The session
//! is held to the end: no other backup of this server takes this one for dead. The file table comes
//! late, because an attempt that has one counts as a backup whose manifest was removed, and is left alone.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::Duration as TimeDelta;

use super::compare::{Comparison, Skips};
use super::copy::{Job, Shared, Worker, read_control_file};
use super::error::{Error, Result};
use super::external::each_external;
use super::motion::Motion;
use super::options::Options;
use super::parent::{history, off_the_way};
use super::plan::{Plan, check_server};
use super::pump::{Copied, Walk, copy_all};
use super::read::{Uncached, directory_identity};
use super::stands::Stands;
use super::throttle::Throttle;
use crate::base::{Ctx, Event, Stage, Timestamp, entropy};
use crate::crypt::BlockHasher;
use crate::pg::{ControlFile, Layout, Lsn, SegmentSize};
use crate::pgconn::{BackupSession, Known, ServerFacts, Session, StartOptions, StoppedBackup};
use crate::repo::file_table::RowSpill;
use crate::repo::manifest::{Configuration, Counts, ServerRecord, Totals};
use crate::repo::{
    self, BackupId, BackupType, Base, Begin, FileTableWriter, HashScheme, Kind, Manifest,
    ObjectRecord, PackPlan, Place, Registration, Repository, Reused, Row, Summary,
};

/// Where `global/pg_control` stands among the rows.
const CONTROL_PATH: &[u8] = b"global/pg_control";

/// How many seconds an id may move on when its name is taken.
const ID_TRIES: i64 = 60;

/// A backup that exists.
#[derive(Debug)]
pub struct Finished {
    /// Its summary, as it is in the manifest.
    pub summary: Summary,
    /// Pages that were invalid, listed.
    pub damage: Vec<repo::manifest::Damage>,
    /// What it stands on.
    pub bases: Vec<Base>,
    /// Configuration files that could not be saved.
    pub warnings: Vec<String>,
}

impl Finished {
    /// Bytes of content that dead attempts had stored.
    #[must_use]
    pub fn reused(&self) -> u64 {
        let attempts = &self.summary.attempts;
        self.bases.iter().filter(|base| attempts.contains(&base.id)).map(|base| base.used).sum()
    }
}

/// Takes the backup that was planned.
///
/// # Errors
/// Any; nothing is visible then.
pub fn execute(
    ctx: &Ctx,
    plan: &Plan,
    options: &Options,
    repository: &Repository,
    place: &Place,
    registration: &Registration,
) -> Result<Finished> {
    // A failing worker stops its siblings without stopping the program.
    let ctx = &ctx.with_child_cancel();
    let control_path = options.data_directory.join(std::str::from_utf8(CONTROL_PATH).unwrap_or(""));
    let (_, _, control) = read_control_file(ctx, &control_path)?;
    let session = Session::connect(ctx, &options.connection)?;
    let facts = ServerFacts::read(ctx, &session)?;
    let layout = check_server(&facts, &control, place, registration)?;
    session.prove_not_pooled(ctx)?;
    prove_directory(ctx, &session, &options.data_directory)?;
    let mut stands = plan.stands.clone();
    let lease = lease(ctx, options, repository, place)?;
    let begin = reserve(ctx, options, (repository, place), &facts, &stands, &lease)?;
    stands.require_kept(ctx, (repository, place), &begin)?;
    ctx.observer.event(Event::Begin {
        stage: Stage::StartCheckpoint,
        bytes_total: 0,
        files_total: 0,
    });
    let start =
        StartOptions { fast: options.fast_checkpoint, ..StartOptions::new(begin.id.as_str()) };
    let held = BackupSession::start(ctx, session, start)?;
    ctx.observer.event(Event::End { stage: Stage::StartCheckpoint });
    // Of a server one backup is taken at a time, to its end, so whoever read this directory before is dead.
    if let Err(error) = stands.settle_attempts(ctx, (repository, place), &begin.id) {
        return give_up(ctx, held, error);
    }
    let (bytes_total, files_total) = (plan.bytes, plan.files);
    ctx.observer.event(Event::Begin { stage: Stage::Copy, bytes_total, files_total });
    let (begin, facts, layout, stands) = (&begin, &facts, &layout, &stands);
    // A standby's own setting says nothing of the WAL that it replays; the checkpoint does.
    let pages_are_whole = facts.full_page_writes && control.checkpoint.full_page_writes;
    let taking =
        Taking { ctx, options, repository, place, begin, facts, layout, stands, pages_are_whole };
    match taking.copy(&held, &control_path) {
        Ok(copied) => {
            let finished = taking.finish(&held, copied);
            held.release();
            finished
        }
        Err(error) => give_up(ctx, held, error),
    }
}

/// Of one server one backup is taken at a time, which it sees to itself; of several servers of a cluster too.
fn lease(
    ctx: &Ctx,
    options: &Options,
    repository: &Repository,
    place: &Place,
) -> Result<repo::KeptUp> {
    let host = options.host.to_string();
    let directory = directory_identity(&options.data_directory);
    let server =
        directory.unwrap_or_else(|| format!("{host}:{}", options.data_directory.display()));
    let purpose = format!("backup --type {}", options.backup_type);
    let request = repo::LeaseRequest {
        scope: repo::Scope::Backup,
        cluster: place.cluster(),
        host: &host,
        pid: options.pid,
        purpose: &purpose,
        backup: None,
        server: Some(&server),
        is_gone: options.is_gone,
    };
    Ok(repository.take_lease(ctx, &request)?.beside(ctx))
}

/// An orderly end; without it the server ends the backup with the session.
fn give_up<T>(ctx: &Ctx, held: BackupSession, error: Error) -> Result<T> {
    if let Err(abort) = held.abort() {
        ctx.note(format!("the server was not told that the backup is given up: {abort}"));
    }
    Err(error)
}

/// Where the server's configuration is, as far as the role may know.
fn configuration(facts: &ServerFacts) -> Configuration {
    let known = |value: &Known<String>| value.value().cloned().unwrap_or_default();
    Configuration {
        config_file: known(&facts.config_file),
        hba_file: known(&facts.hba_file),
        ident_file: known(&facts.ident_file),
    }
}

fn prove_directory(ctx: &Ctx, session: &Session, data_directory: &Path) -> Result<()> {
    let path = data_directory.join("postmaster.pid");
    let local = std::fs::read(&path).map_err(Error::file("read", &path))?;
    Ok(session.prove_directory(ctx, &local)?)
}

/// Puts the begin record: the id is ours from here on, and the parent is kept.
fn reserve(
    ctx: &Ctx,
    options: &Options,
    (repository, place): (&Repository, &Place),
    facts: &ServerFacts,
    stands: &Stands,
    lease: &repo::KeptUp,
) -> Result<Begin> {
    let started = ctx.clock.now();
    let parent = stands.parent.as_ref();
    let backup_type = if parent.is_some() { options.backup_type } else { BackupType::Full };
    let below = parent.map(|parent| parent.summary().id.clone());
    let hash = stands.hash().unwrap_or_else(|| {
        let key = entropy::random(ctx.entropy.as_ref());
        HashScheme { algorithm: BlockHasher::ALGORITHM.into(), key }
    });
    let mut begin = Begin {
        id: BackupId::of(backup_type, below.as_ref(), started),
        backup_type,
        parent: below,
        started,
        host: options.host.to_string(),
        pid: options.pid,
        tool: env!("CARGO_PKG_VERSION").into(),
        timeline: facts.checkpoint_timeline,
        wal_from: Lsn(facts.redo_lsn),
        hash,
        directory: options.data_directory.display().to_string(),
        directory_identity: directory_identity(&options.data_directory),
        standby: facts.in_recovery,
        attempts: stands.attempts().iter().map(|attempt| attempt.id().clone()).collect(),
        lease: Some(lease.holder()),
        copied: false,
    };
    let kept = repository.kept(ctx, place)?;
    for later in 0..ID_TRIES {
        let begun = started + TimeDelta::seconds(later);
        begin.id = BackupId::of(backup_type, begin.parent.as_ref(), begun);
        // After a clock that begins at the same second again: names are not used twice.
        if kept.is_removing(&begin.id) {
            continue;
        }
        match repository.put_begin(ctx, place, &begin) {
            Err(repo::Error::Storage(error)) if error.is_already_exists() => {}
            // Somebody was killed before he had it: it is nobody's for good.
            Err(repo::Error::Claimed { .. }) => {}
            other => {
                other?;
                return Ok(begin);
            }
        }
    }
    Err(Error::Refused { what: "sixty backups began within this minute".into() })
}

/// The lower bound of the times that the backup can reach. A clock that was set back during the
/// backup has given its WAL times behind the one of the stop.
fn latest(stopped: &StoppedBackup) -> Timestamp {
    stopped.stopped_at.max(stopped.started_at).max(stopped.called_at)
}

pub(super) struct Taking<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) options: &'a Options,
    pub(super) repository: &'a Repository,
    pub(super) place: &'a Place,
    pub(super) begin: &'a Begin,
    pub(super) facts: &'a ServerFacts,
    pub(super) layout: &'a Layout,
    stands: &'a Stands,
    pages_are_whole: bool,
}

/// Everything that was read, before the stop.
struct Content {
    spill: RowSpill,
    /// Rows that the walk did not make, sorted: `global/pg_control`, and files outside.
    more_rows: Vec<Row>,
    warnings: Vec<String>,
    control: ControlFile,
    manifest: Parts,
}

struct Parts {
    objects: Vec<ObjectRecord>,
    bases: Vec<Base>,
    reused: (Vec<Reused>, Vec<BackupId>),
    tablespaces: Vec<repo::manifest::TablespaceRecord>,
    damage: Vec<repo::manifest::Damage>,
    totals: Totals,
}

impl Taking<'_> {
    fn copy(&self, held: &BackupSession, control_path: &Path) -> Result<Content> {
        self.check_start(held, control_path)?;
        // Of a standby that follows another timeline already the checkpoint may be of the one before.
        let now = held.session().wal_position(self.ctx)?.timeline;
        self.check_way(now.unwrap_or_default().max(held.start_timeline()))?;
        let hasher = BlockHasher::new(&self.begin.hash.key);
        let (place, id) = (self.place.clone(), self.begin.id.clone());
        let mut plan = PackPlan::new(place, id, self.facts.block_size as usize, hasher);
        plan.stored_target = self.options.pack_size;
        let shared = Shared {
            session: held,
            block_size: plan.block_size,
            relation_segment_blocks: self.facts.blocks_per_segment,
            checksums: self.facts.data_checksums,
            uncached: Uncached::default(),
            throttle: Throttle::new(self.options.max_rate),
            damage: Mutex::default(),
            damaged_pages: AtomicU64::new(0),
            motion: Motion::new(held.start_lsn()),
            stands: self.stands,
        };
        let directory = &self.options.data_directory;
        let (ctx, skips) = (self.ctx, self.options.skips);
        let skips = Skips { wanted: skips, pages_are_whole: self.pages_are_whole };
        let comparison = Comparison::new(self.stands, skips, self.facts.block_size.into())?;
        let walk = Walk { directory, layout: self.layout, jobs: self.options.jobs, comparison };
        let copied = copy_all(ctx, self.repository, &plan, &shared, walk)?;
        self.check_tablespaces(held, &copied.tablespaces)?;
        // The server is asked again, now that everything was read from this directory.
        prove_directory(ctx, held.session(), directory)?;
        let content = self.control_last(&shared, copied, control_path)?;
        held.check_alive(ctx)?;
        Ok(content)
    }

    /// The timeline may have been switched since the plan was made, and may be while the backup runs.
    fn check_way(&self, timeline: u32) -> Result<()> {
        let Some(parent) = &self.stands.parent else { return Ok(()) };
        let directory = &self.options.data_directory;
        let history = history(self.repository, self.place, directory, timeline)?;
        match off_the_way(parent.summary(), &history) {
            None => Ok(()),
            Some(why) => {
                let what = format!("{} cannot be the parent: {why}", parent.summary().id);
                Err(Error::Parent { what })
            }
        }
    }

    /// A tablespace that the server had all the time and the walk did not meet is not "vanished": its
    /// file system is not mounted here.
    fn check_tablespaces(
        &self,
        held: &BackupSession,
        copied: &[repo::manifest::TablespaceRecord],
    ) -> Result<()> {
        for now in held.session().tablespaces(self.ctx)? {
            let is_link = Path::new(&now.location).is_absolute();
            let was_there = self.facts.tablespaces.iter().any(|before| before.oid == now.oid);
            let is_copied = copied.iter().any(|copied| copied.oid == now.oid);
            if is_link && was_there && !is_copied {
                let (name, location) = (now.name, now.location);
                return Err(Error::Refused {
                    what: format!("tablespace {name} was not found in {location}"),
                });
            }
            if is_link && !was_there {
                // CREATE TABLESPACE is replayed with the path as it was given.
                self.ctx.warn(format!(
                    "tablespace {} was made during the backup: recovery makes it in {} again, \
                     wherever it is to be restored; take another backup",
                    now.name, now.location
                ));
            }
        }
        Ok(())
    }

    /// A directory that was copied with its `postmaster.pid` looks like the server's; but its control
    /// file does not follow the server's checkpoints.
    fn check_start(&self, held: &BackupSession, control_path: &Path) -> Result<()> {
        for _ in 0..50 {
            let (_, _, control) = read_control_file(self.ctx, control_path)?;
            if control.checkpoint.redo.0 >= held.start_lsn() {
                return Ok(());
            }
            // pg_control is written right after the checkpoint that the start waited for.
            self.ctx.clock.sleep(Duration::from_millis(100));
        }
        Err(Error::Refused {
            what: format!(
                "{} does not follow the server's checkpoints: the server runs on another directory",
                self.options.data_directory.display()
            ),
        })
    }

    fn control_last(
        &self,
        shared: &Shared<'_>,
        copied: Copied<'_>,
        control_path: &Path,
    ) -> Result<Content> {
        let Copied { spill, tablespaces, mut counted, external_before, packs } = copied;
        let (content, stat, control) = read_control_file(self.ctx, control_path)?;
        let mut packs = packs.into_iter();
        let Some(first) = packs.next() else {
            return Err(Error::Cancelled(crate::base::Cancelled));
        };
        // What is read at the end is stored as it is, whatever the parent has of it.
        let job = |path: &[u8], source: &Path| {
            let (path, source) = (path.to_vec(), source.to_owned());
            Job { sequence: 0, path, source, before: None, salvaged: Vec::new(), seems_same: false }
        };
        let mut worker = Worker { ctx: self.ctx, shared, packs: first };
        let control_job = job(CONTROL_PATH, control_path);
        let mut more_rows = vec![worker.bytes(&control_job, &stat, &content)?];
        let directory = &self.options.data_directory;
        let files_outside = configuration(self.facts);
        let mut warnings =
            each_external(self.ctx, directory, &files_outside, &mut |path, stat, content| {
                let job = job(path.as_os_str().as_bytes(), path);
                more_rows.push(worker.bytes(&job, stat, content)?);
                Ok(())
            })?;
        if let Known::Withheld { reason } = &self.facts.config_file
            && !directory.join("postgresql.conf").exists()
        {
            warnings.push(format!("configuration files are not saved: {reason}"));
        }
        more_rows.iter().for_each(|row| counted.row(row));
        let mut outside = external_before;
        outside.retain(|path| more_rows.iter().all(|row| row.path != *path));
        more_rows.extend(outside.into_iter().map(Row::gone));
        more_rows.sort_by(|a, b| a.path.cmp(&b.path));
        let mut objects = Vec::new();
        let mut zeros = 0;
        for packs in std::iter::once(worker.packs).chain(packs) {
            zeros += packs.zeros();
            objects.extend(packs.finish()?);
        }
        let bases = self.stands.bases(&counted.used);
        let reused = self.stands.reused(&counted.reused);
        let totals = Totals {
            files: counted.files,
            others: counted.others,
            bytes: counted.bytes,
            own: counted.own,
            unread_files: counted.unread_files,
            unread_bytes: counted.unread_bytes,
            zeros,
            stored: 0,
            invalid_pages: shared.damaged_pages.load(Ordering::SeqCst),
        };
        let mut damage =
            std::mem::take(&mut *shared.damage.lock().expect("no holder of this lock panics"));
        damage.sort_by(|a, b| (&a.path, a.block).cmp(&(&b.path, b.block)));
        let manifest = Parts { objects, bases, reused, tablespaces, damage, totals };
        Ok(Content { spill, more_rows, warnings, control, manifest })
    }

    fn finish(&self, held: &BackupSession, content: Content) -> Result<Finished> {
        let stopped = held.stop(self.ctx)?;
        let Content { spill, more_rows, warnings, control, manifest: mut parts } = content;
        self.ctx.observer.event(Event::End { stage: Stage::Copy });
        let (wal_first, wal_last) = self.wait_for_wal(&stopped)?;
        self.check_way(stopped.stop_timeline)?;
        let (table, index) = self.file_table(spill, more_rows)?;
        parts.objects.push(table);
        let mut summary = self.summary(&stopped, &control, parts.totals, wal_first, wal_last);
        let (reused, attempts) = parts.reused;
        summary.attempts = attempts;
        let mut manifest = Manifest {
            summary,
            objects: parts.objects,
            bases: parts.bases,
            reused,
            tablespaces: parts.tablespaces,
            damage: parts.damage,
            index,
        };
        // The commit: until here nothing is visible.
        self.repository.commit(self.ctx, self.place, &mut manifest)?;
        self.summarise();
        let Manifest { summary, damage, bases, .. } = manifest;
        Ok(Finished { summary, damage, bases, warnings })
    }

    /// Keeps the summaries up to date, which make listing quick. The backup exists without them, and
    /// whoever reads does without them.
    fn summarise(&self) {
        let Ok(size) = SegmentSize::new(self.facts.wal_segment_size.into()) else { return };
        if let Err(error) = self.repository.summarise(self.ctx, self.place, size) {
            self.ctx
                .note(format!("summaries were not written, the next backup tries again: {error}"));
        }
    }

    fn file_table(
        &self,
        spill: RowSpill,
        more_rows: Vec<Row>,
    ) -> Result<(ObjectRecord, Vec<repo::file_table::IndexEntry>)> {
        let key = self.place.files(&self.begin.id);
        let mut table =
            FileTableWriter::new(self.repository.stream(self.ctx, Kind::Files, &key)?);
        let mut more_rows = more_rows.into_iter().peekable();
        let failed = |error| Error::file("read back rows from", std::env::temp_dir())(error);
        spill.drain(failed, |row| {
            while let Some(more) = more_rows.next_if(|more| more.path < row.path) {
                table.push(&more)?;
            }
            Ok(table.push(&row)?)
        })?;
        for more in more_rows {
            table.push(&more)?;
        }
        let (sink, summary, index, _) = table.finish()?;
        sink.finish().map_err(repo::Error::from)?;
        Ok((ObjectRecord::new("files", &summary), index))
    }

    fn summary(
        &self,
        stopped: &StoppedBackup,
        control: &ControlFile,
        totals: Totals,
        wal_first: String,
        wal_last: String,
    ) -> Summary {
        let facts = self.facts;
        let known = |value: &Known<String>| value.value().cloned().unwrap_or_default();
        Summary {
            id: self.begin.id.clone(),
            backup_type: self.begin.backup_type,
            parent: self.begin.parent.clone(),
            cluster: self.place.cluster().into(),
            system: self.place.system(),
            epoch: self.place.epoch(),
            started: self.begin.started,
            finished: latest(stopped),
            timeline: stopped.start_timeline,
            timeline_stop: stopped.stop_timeline,
            start_lsn: Lsn(stopped.start_lsn),
            stop_lsn: Lsn(stopped.stop_lsn),
            wal_first,
            wal_last,
            backup_label: String::from_utf8_lossy(&stopped.backup_label).into_owned(),
            server: ServerRecord {
                version_num: u32::try_from(facts.server_version).unwrap_or_default(),
                catalog_version: control.catalog_version,
                block_size: facts.block_size,
                wal_block_size: facts.wal_block_size,
                wal_segment_size: facts.wal_segment_size,
                relation_segment_blocks: facts.blocks_per_segment,
                checksums: facts.data_checksums,
                standby: stopped.in_recovery,
                data_directory: self.options.data_directory.display().to_string(),
                host: self.options.host.to_string(),
                preload_libraries: known(&facts.shared_preload_libraries),
                logical_slots: facts.logical_slots.clone(),
                configuration: configuration(facts),
            },
            hash: self.begin.hash.clone(),
            totals,
            attempts: Vec::new(),
            counts: Counts::default(),
            tool: self.begin.tool.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_does_not_move_the_lower_bound_before_the_wal() {
        let at = |seconds| Timestamp::from_timestamp(seconds, 0).unwrap();
        let bound = |called, started, stopped| {
            latest(&StoppedBackup {
                start_lsn: 1,
                stop_lsn: 2,
                start_timeline: 1,
                stop_timeline: 1,
                backup_label: Vec::new(),
                tablespace_map: Vec::new(),
                in_recovery: false,
                called_at: at(called),
                started_at: at(started),
                stopped_at: at(stopped),
            })
        };
        assert_eq!(bound(100, 110, 500), at(500));
        assert_eq!(bound(100, 4000, 500), at(4000), "set back after the start");
        assert_eq!(bound(4000, 110, 500), at(4000), "set back during the start");
    }
}
