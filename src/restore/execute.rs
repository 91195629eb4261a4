//! Carrying the plan out.
//!
//! Order of durability: the marks of a restore in progress; then directories, links and all files but
//! `global/pg_control`, the settings, `backup_label`, signal file and manifest; then every file system
//! involved is synced; then `pg_control` is written, synced and named; then its directory is synced; then
//! the marks go, the data directory's last. Whatever stops it: without `pg_control` the directory cannot
//! be started and its mark lets the same command go on; with it, everything is there and durable.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};

use super::adopt::MARKER;
use super::aside;
use super::conf_file::AUTO_CONF;
use super::control::{CONTROL_PATH, control_content, control_file};
use super::error::{Error, Result};
use super::external;
use super::fetch::{Batch, Batcher, Scratch, Turns, workers, write_batch};
use super::in_progress::{Claim, make_place};
use super::options::{Archiving, Options};
use super::plan::Plan;
use super::recovery::{marker, own_settings, settings, signal_file};
use super::survey::{Ground, check, each_entry, is_mark, is_whole, shown, survey};
use super::tree::{Attributes, Tree};
use crate::base::{Ctx, Event, Stage, durable};
use crate::pg::manifest::{ManifestWriter, Row as ManifestRow, WalRange, wal_ranges};
use crate::pg::{MajorVersion, TimelineId};
use crate::repo::{OpenedBackup, Row, RowKind};

const CONTROL_TEMPORARY: &[u8] = b"global/pg_control.pgkeep-tmp";
const MANIFEST: &[u8] = b"backup_manifest";

/// Of a data directory that its group may read (`PG_DIR_MODE_GROUP`, `src/include/common/file_perm.h`).
const GROUP_READS: u32 = 0o750;

/// Batches in the queue between the table's reader and the workers.
const QUEUE: usize = 4;

/// What a restore made.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Restored {
    /// The data directory.
    pub data_directory: PathBuf,
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// Carries a plan out.
///
/// # Errors
/// Any; without `global/pg_control` the directory cannot be started then, and the same call with the
/// same options goes on from there.
pub fn execute(ctx: &Ctx, plan: &Plan, options: &Options) -> Result<Restored> {
    let ctx = &ctx.with_child_cancel();
    let begun = ctx.clock.monotonic();
    aside::move_all(&plan.to, &plan.ground.moved)?;
    let (claim, ground) = claim(ctx, plan)?;
    let tree = Tree::open(plan.places())?;
    let mut done = (plan.files, plan.bytes);
    if !ground.is_complete {
        let (bytes_total, files_total) = (plan.bytes, plan.files);
        ctx.observer.event(Event::Begin { stage: Stage::Restore, bytes_total, files_total });
        let continues = ground.continues.is_some();
        if continues {
            // What the earlier run wrote reaches the disk before it is read back and believed.
            tree.sync()?;
        }
        let mut writing = Writing::new(ctx, plan, options, &tree, continues)?;
        writing.all()?;
        writing.recovery()?;
        if continues {
            writing.refuse_strangers()?;
        }
        ctx.observer.event(Event::End { stage: Stage::Restore });
        writing.make_durable()?;
        done = (writing.files, writing.bytes);
    }
    let global = plan.to.join("global");
    // An earlier run may have been stopped between the name and this.
    durable::sync_dir(&global).map_err(Error::file("sync", &global))?;
    claim.release(ctx)?;
    let seconds = ctx.clock.monotonic().saturating_sub(begun).as_secs_f64();
    let data_directory = plan.to.clone();
    Ok(Restored { data_directory, files: done.0, bytes: done.1, seconds })
}

/// Takes the data directory's lock, looks at all places again under it, and marks them.
fn claim(ctx: &Ctx, plan: &Plan) -> Result<(Claim, Ground)> {
    let places = plan.places();
    // Looked at before anything is made.
    check(places, plan.wanted())?;
    make_place(&plan.to)?;
    let mut claim = Claim::take(&plan.to)?;
    let ground = match survey(places, plan.wanted(), || control_file(&plan.opened)) {
        Ok(ground) => ground,
        Err(error) => {
            claim.withdraw();
            return Err(error);
        }
    };
    let mark = match check(places, plan.wanted())? {
        Some(mark) => mark,
        None => claim.begin(ctx, plan.wanted())?,
    };
    ctx.step("the data directory is marked");
    for place in places.others() {
        if ground.is_complete {
            claim.adopt_place(&mark, place)?;
            continue;
        }
        claim.mark_place(&mark, place)?;
        ctx.step("another place is marked");
    }
    Ok((claim, ground))
}

struct Writing<'a> {
    ctx: &'a Ctx,
    plan: &'a Plan,
    options: &'a Options,
    tree: &'a Tree,
    /// Of files that this restore makes itself: the data directory's owner, and a mode for its group too
    /// where that may read the directory.
    own: Attributes,
    manifest: ManifestWriter,
    manifest_file: BufWriter<File>,
    manifest_text: Vec<u8>,
    control: Option<(Vec<u8>, Row)>,
    /// Goes on from what an interrupted run has left.
    continues: bool,
    /// Those of the table's `postgresql.auto.conf`, to whose end the settings go.
    auto_conf: Option<Attributes>,
    /// A tablespace is a plain directory in `pg_tblspc`.
    has_tablespace_in_place: bool,
    /// Everything that was made or found, but the control file: nothing else may be there.
    entries: u64,
    files: u64,
    bytes: u64,
}

impl<'a> Writing<'a> {
    fn new(
        ctx: &'a Ctx,
        plan: &'a Plan,
        options: &'a Options,
        tree: &'a Tree,
        continues: bool,
    ) -> Result<Self> {
        let failed = |source| Error::Postgres { what: "the backup's server", source };
        let version = plan.summary.server.version_num;
        let major = MajorVersion::from_server_version_num(version).map_err(failed)?;
        let mut manifest_text = Vec::new();
        let manifest = ManifestWriter::begin(major, plan.summary.system, &mut manifest_text);
        let (root, path) = tree.find(MANIFEST);
        if continues {
            root.remove(path)?;
            // The last run may have been stopped just before the name was changed.
            root.remove(CONTROL_TEMPORARY)?;
        }
        let own = Attributes::of_this_process();
        let file = root.create(path, own)?;
        Ok(Self {
            ctx,
            plan,
            options,
            tree,
            own,
            manifest,
            manifest_file: BufWriter::new(file),
            manifest_text,
            control: None,
            continues,
            auto_conf: None,
            has_tablespace_in_place: false,
            // The manifest.
            entries: 1,
            files: 0,
            bytes: 0,
        })
    }

    /// Every row of the table; files by workers.
    fn all(&mut self) -> Result<()> {
        let opened = &self.plan.opened;
        let ctx = self.ctx;
        let (sender, receiver) = sync_channel::<Batch>(QUEUE);
        let receiver = Mutex::new(receiver);
        let failure = Mutex::new(None);
        let turns = Turns::new(self.options.jobs);
        let fed = std::thread::scope(|scope| {
            for _ in 0..workers(self.options.jobs) {
                scope.spawn(|| work((ctx, opened, &turns), &receiver, &failure));
            }
            let fed = self.feed(opened, &mut |batch| {
                let hung_up = |_| Error::Cancelled(crate::base::Cancelled);
                sender.send(batch).map_err(hung_up)
            });
            if fed.is_err() {
                ctx.cancel.cancel();
            }
            drop(sender);
            fed
        });
        let failure = failure.into_inner().expect("no holder of this lock panics");
        match (failure, fed) {
            (Some(error), _) if !error.is_cancelled() => Err(error),
            (_, Err(error)) => Err(error),
            (Some(error), Ok(())) => Err(error),
            // After an interrupt the workers throw batches away.
            (None, Ok(())) => Ok(ctx.cancel.check()?),
        }
    }

    fn feed(
        &mut self,
        opened: &OpenedBackup,
        send: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        let mut rows = opened.rows()?;
        let in_flight = QUEUE + workers(self.options.jobs) + 1;
        let mut batcher = Batcher::new(self.plan.summary.server.block_size, in_flight);
        while let Some(row) = rows.next_row()? {
            self.ctx.cancel.check()?;
            // The source was a copy itself, or restored; whether this one is, its own restore says.
            // A file outside the data directory is never restored in place.
            if row.path == MARKER.as_bytes() || is_mark(&row.path) || row.is_external() {
                continue;
            }
            let path = self.local(&row)?;
            self.entries += u64::from(!row.path.is_empty() && row.path != CONTROL_PATH);
            match row.kind {
                RowKind::Directory => self.directory(&row, &path)?,
                RowKind::Link => self.link(&row, &path)?,
                RowKind::File if row.path == CONTROL_PATH => self.keep_control(row)?,
                RowKind::File => {
                    let file = self.file(&row, &path)?;
                    self.files += 1;
                    self.bytes += row.size;
                    if row.path == AUTO_CONF {
                        self.auto_conf = Some(attributes(&row));
                    } else {
                        self.note(&row.path, row.size, &row)?;
                    }
                    match file {
                        Some(file) => batcher.add(&row, file, send)?,
                        None => {
                            let event = Event::Advance { bytes: row.size, files: 1 };
                            self.ctx.observer.event(event);
                        }
                    }
                }
            }
        }
        batcher.flush(send)
    }

    /// Where a row goes. Its path was authenticated, and still must not lead out of the directory.
    fn local(&self, row: &Row) -> Result<PathBuf> {
        let is_safe = row.path.is_empty()
            || row.path.split(|&byte| byte == b'/').all(|part| {
                !part.is_empty() && part != b"." && part != b".." && !part.contains(&0)
            });
        if is_safe {
            Ok(path_in(self.plan, &row.path))
        } else {
            let why = "it leads out of the data directory".into();
            Err(Error::Content { path: row.path.clone(), why })
        }
    }

    /// A file to write; `None` where an interrupted run has left it whole. One that is not is made anew,
    /// never written to: it may be a link, or have another name elsewhere. Our settings are added to
    /// `postgresql.auto.conf`, so that one is always made anew.
    fn file(&self, row: &Row, path: &Path) -> Result<Option<File>> {
        let (root, rest) = self.tree.find(&row.path);
        if self.continues && row.path != AUTO_CONF && is_whole(path, row)? {
            root.own(rest, attributes(row))?;
            return Ok(None);
        }
        if self.continues {
            if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                return Err(self.stranger(&row.path, "is a directory"));
            }
            root.remove(rest)?;
        }
        root.create(rest, attributes(row)).map(Some)
    }

    fn directory(&mut self, row: &Row, path: &Path) -> Result<()> {
        let in_tablespaces = row.path.strip_prefix(b"pg_tblspc/");
        self.has_tablespace_in_place |= in_tablespaces.is_some_and(|rest| !rest.contains(&b'/'));
        let (root, rest) = self.tree.find(&row.path);
        if row.path.is_empty() {
            let mode = if row.mode & GROUP_READS == GROUP_READS { 0o640 } else { 0o600 };
            self.own = Attributes { mode, ..attributes(row) };
        } else if !root.make_directory(rest)? {
            let found = path.symlink_metadata().map_err(Error::file("stat", path))?;
            if !found.is_dir() {
                return Err(self.stranger(&row.path, "is no directory"));
            }
        }
        root.own(rest, attributes(row))
    }

    /// A tablespace's link goes where the plan says, never where the source's went.
    fn link(&self, row: &Row, path: &Path) -> Result<()> {
        let wrong = |why: &str| Error::Content { path: row.path.clone(), why: why.into() };
        let oid = row
            .path
            .strip_prefix(b"pg_tblspc/")
            .and_then(|oid| std::str::from_utf8(oid).ok()?.parse::<u32>().ok())
            .ok_or_else(|| wrong("a link that is no tablespace's"))?;
        let planned = self.plan.tablespaces.iter().find(|(planned, ..)| *planned == oid);
        let (_, _, location) = planned.ok_or_else(|| wrong("a tablespace outside the manifest"))?;
        if let Some(place) = self.tree.tablespace(&row.path) {
            place.own(b"", attributes(row))?;
        }
        let (root, rest) = self.tree.find(&row.path);
        if root.make_link(rest, location)?
            || fs::read_link(path).is_ok_and(|leads_to| leads_to == *location)
        {
            return Ok(());
        }
        Err(self.stranger(&row.path, "does not lead to its tablespace"))
    }

    fn stranger(&self, path: &[u8], why: &str) -> Error {
        let why = format!("holds what is not of this restore: {} {why}", shown(path));
        Error::Occupied { path: self.plan.to.clone(), why }
    }

    /// Everything of this restore was made or found, so another number of entries means that something
    /// else lies there: it would be part of the cluster that starts.
    fn refuse_strangers(&self) -> Result<()> {
        let mut found = 0;
        let places = self.plan.places();
        each_entry(places, &mut |_, _| {
            found += 1;
            Ok(())
        })?;
        if found == self.entries {
            return Ok(());
        }
        let own = ["backup_label", MARKER, "backup_manifest", signal_file(self.options)];
        each_entry(places, &mut |path, _| {
            let is_own = own.iter().any(|own| own.as_bytes() == path) || path == AUTO_CONF;
            let is_known = is_own || self.plan.opened.find_row(path)?.is_some();
            if is_known { Ok(()) } else { Err(self.stranger(path, "is not in the backup")) }
        })?;
        let why = "was changed by somebody else while it was being restored".into();
        Err(Error::Occupied { path: self.plan.to.clone(), why })
    }

    /// Reads the control file and keeps it for the end, with a checkpoint that cannot be used
    /// without `backup_label`.
    fn keep_control(&mut self, row: Row) -> Result<()> {
        let content = control_content(&self.plan.opened, &row)?;
        self.files += 1;
        self.bytes += row.size;
        let changed = Row { crc: Some(crc32c::crc32c(&content)), ..row };
        self.note(CONTROL_PATH, changed.size, &changed)?;
        self.control = Some((content, changed));
        Ok(())
    }

    /// Adds a file to PostgreSQL's manifest.
    fn note(&mut self, path: &[u8], size: u64, row: &Row) -> Result<()> {
        let crc32c = row.crc.unwrap_or_default();
        let modified = row.mtime;
        self.manifest.row(&ManifestRow { path, size, modified, crc32c }, &mut self.manifest_text);
        if self.manifest_text.len() >= 1 << 16 {
            self.flush_manifest()?;
        }
        Ok(())
    }

    fn flush_manifest(&mut self) -> Result<()> {
        let failed = Error::file("write", self.plan.to.join("backup_manifest"));
        self.manifest_file.write_all(&self.manifest_text).map_err(failed)?;
        self.manifest_text.clear();
        Ok(())
    }

    /// The files that make the server recover. `tablespace_map` is never written: it would link the
    /// tablespaces to the source's.
    fn recovery(&mut self) -> Result<()> {
        let label = self.plan.summary.backup_label.clone();
        self.own_file("backup_label", label.as_bytes(), true)?;
        if self.options.archiving == Archiving::Off {
            self.own_file(MARKER, marker(self.ctx, self.plan).as_bytes(), true)?;
        } else {
            // An interrupted run may have made a copy by default.
            let (root, path) = self.tree.find(MARKER.as_bytes());
            root.remove(path)?;
        }
        let in_place = self.has_tablespace_in_place;
        let settings = settings(self.ctx, self.plan, self.options, in_place)?;
        self.write_auto_conf(&settings)?;
        self.own_file(signal_file(self.options), b"", false)?;
        let ranges = self.wal_ranges()?;
        let manifest = std::mem::replace(
            &mut self.manifest,
            ManifestWriter::begin(MajorVersion::V15, 0, &mut Vec::new()),
        );
        manifest.finish(&ranges, &mut self.manifest_text);
        self.flush_manifest()?;
        let failed = Error::file("write", self.plan.to.join("backup_manifest"));
        self.manifest_file.flush().map_err(failed)?;
        let (root, path) = self.tree.find(MANIFEST);
        root.own(path, self.own)?;
        if let Some(root) = &self.tree.configuration {
            external::write(&self.plan.external, &self.plan.opened, root, self.own)?;
        }
        self.ctx.step("what makes the server recover is written");
        Ok(())
    }

    /// The backup's own settings, then those of this restore.
    fn write_auto_conf(&mut self, settings: &str) -> Result<()> {
        let path = self.plan.to.join("postgresql.auto.conf");
        let (root, rest) = self.tree.find(AUTO_CONF);
        let mut content = Vec::new();
        if self.auto_conf.is_some() {
            // The workers have written it.
            let mut there = root.open_there(rest)?;
            there.read_to_end(&mut content).map_err(Error::file("read", &path))?;
            content = own_settings(self.plan, self.options, content)?;
        } else {
            self.entries += 1;
        }
        content.extend_from_slice(settings.as_bytes());
        // One that an interrupted run has made would get the settings twice.
        root.remove(rest)?;
        let mut file = root.create(rest, self.auto_conf.unwrap_or(self.own))?;
        file.write_all(&content).map_err(Error::file("write", &path))
    }

    /// A standby's backup may span a switch of timelines: one range for each.
    fn wal_ranges(&self) -> Result<Vec<WalRange>> {
        let summary = &self.plan.summary;
        let timeline = |number| TimelineId::new(number).unwrap_or(TimelineId::FIRST);
        let start = (timeline(summary.timeline), summary.start_lsn);
        let stop = (timeline(summary.timeline_stop), summary.stop_lsn);
        wal_ranges(&self.plan.history, start, stop).ok_or_else(|| Error::Refused {
            what: format!(
                "the history of timeline {} does not lead from the backup's start on timeline {} to \
                 its stop on timeline {}",
                self.plan.timeline, summary.timeline, summary.timeline_stop
            ),
        })
    }

    /// Writes a file that is this restore's own.
    fn own_file(&mut self, name: &str, content: &[u8], in_manifest: bool) -> Result<()> {
        let (root, path) = self.tree.find(name.as_bytes());
        if self.continues {
            root.remove(path)?;
        }
        self.entries += 1;
        let mut file = root.create(path, self.own)?;
        file.write_all(content).map_err(Error::file("write", self.plan.to.join(name)))?;
        if in_manifest {
            let row = Row {
                path: name.as_bytes().to_vec(),
                kind: RowKind::File,
                size: content.len() as u64,
                mode: self.own.mode,
                uid: self.own.uid,
                gid: self.own.gid,
                mtime: self.ctx.clock.now(),
                identity: None,
                crc: Some(crc32c::crc32c(content)),
                target: None,
                layers: Vec::new(),
                gone: false,
            };
            self.note(name.as_bytes(), row.size, &row)?;
        }
        Ok(())
    }

    /// Everything else first, then the control file.
    fn make_durable(&mut self) -> Result<()> {
        let event = Event::Begin { stage: Stage::Sync, bytes_total: 0, files_total: 0 };
        self.ctx.observer.event(event);
        self.tree.sync()?;
        self.ctx.step("everything but the control file is durable");
        let Some((content, row)) = self.control.take() else {
            let why = "the backup does not hold it".into();
            return Err(Error::Content { path: CONTROL_PATH.to_vec(), why });
        };
        let path = path_in(self.plan, CONTROL_PATH);
        let temporary = path_in(self.plan, CONTROL_TEMPORARY);
        let (root, rest) = self.tree.find(CONTROL_TEMPORARY);
        let mut file = root.create(rest, attributes(&row))?;
        file.write_all(&content).map_err(Error::file("write", &temporary))?;
        file.sync_all().map_err(Error::file("sync", &temporary))?;
        self.ctx.step("the control file is written");
        durable::rename(&temporary, &path).map_err(Error::file("rename", &path))?;
        self.ctx.step("the control file has its name");
        self.ctx.observer.event(Event::End { stage: Stage::Sync });
        Ok(())
    }
}

fn path_in(plan: &Plan, path: &[u8]) -> PathBuf {
    plan.to.join(std::ffi::OsStr::from_bytes(path))
}

fn attributes(row: &Row) -> Attributes {
    Attributes { mode: row.mode, uid: row.uid, gid: row.gid }
}

fn work(
    (ctx, opened, turns): (&Ctx, &OpenedBackup, &Turns),
    receiver: &Mutex<Receiver<Batch>>,
    failure: &Mutex<Option<Error>>,
) {
    let mut scratch = Scratch::default();
    loop {
        let batch = receiver.lock().expect("no holder of this lock panics").recv();
        let Ok(batch) = batch else { return };
        // After a failure the queue is emptied, so that the reader of the table does not block.
        if ctx.cancel.is_cancelled() {
            continue;
        }
        // A panic must not leave the reader of the table waiting.
        let written = AssertUnwindSafe(|| write_batch((ctx, opened, turns), batch, &mut scratch));
        let written = catch_unwind(written).unwrap_or_else(|_| {
            let what = "an internal error stopped a worker (see the log)".into();
            Err(Error::Refused { what })
        });
        if let Err(error) = written {
            let mut first = failure.lock().expect("no holder of this lock panics");
            if first.as_ref().is_none_or(|known: &Error| known.is_cancelled()) {
                *first = Some(error);
            }
            ctx.cancel.cancel();
        }
    }
}
