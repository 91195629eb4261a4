//! The rows of a backup's table, written: directories and links by the reader of the table, the content of files
//! by workers. What a place holds already stays where its content is the backup's.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};

use rustix::fs::Advice;

use super::adopt::MARKER;
use super::compare::{hasher, with_what_differs};
use super::conf_file::AUTO_CONF;
use super::control::{CONTROL_PATH, CONTROL_TEMPORARY, control_content};
use super::error::{Error, Result};
use super::fetch::{Batch, Batcher, Bench, Open, Scratch, Turns, workers, write_batch};
use super::options::Options;
use super::plan::Plan;
use super::strangers;
use super::survey::{each_entry, is_lost_and_found, is_mark, is_own_file, shown};
use super::tally::{Amount, Tally};
use super::tree::{Attributes, Tree};
use crate::base::Ctx;
use crate::pg::MajorVersion;
use crate::pg::manifest::{ManifestWriter, Row as ManifestRow};
use crate::repo::{OpenedBackup, Row, RowKind};

pub(super) const MANIFEST: &[u8] = b"backup_manifest";

/// Of a data directory that its group may read (`PG_DIR_MODE_GROUP`, `src/include/common/file_perm.h`).
const GROUP_READS: u32 = 0o750;

/// Batches in the queue between the table's reader and the workers.
const QUEUE: usize = 4;

/// A restore at work.
pub(super) struct Writing<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) plan: &'a Plan,
    pub(super) options: &'a Options,
    pub(super) tree: &'a Tree,
    /// Of files that this restore makes itself: the data directory's owner, and a mode for its group too
    /// where that may read the directory.
    pub(super) own: Attributes,
    pub(super) manifest: ManifestWriter,
    pub(super) manifest_file: BufWriter<File>,
    pub(super) manifest_text: Vec<u8>,
    pub(super) control: Option<(Vec<u8>, Row)>,
    /// What the places hold already.
    pub(super) ground: Found,
    tally: Arc<Tally>,
    /// Those of the table's `postgresql.auto.conf`, to whose end the settings go.
    pub(super) auto_conf: Option<Attributes>,
    /// A tablespace is a plain directory in `pg_tblspc`.
    pub(super) has_tablespace_in_place: bool,
    /// Everything that was made or found, but the control file: nothing else may be there.
    pub(super) entries: u64,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// What a restore finds where it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// What an interrupted run of this very restore has left.
    Interrupted,
    /// Files to keep as far as their content is right; what is not in the backup has been removed.
    /// `is_interrupted` where a restore that was killed has written some of them.
    Over { is_interrupted: bool },
}

impl Found {
    /// Whether files may be there.
    pub(super) fn is_something(self) -> bool {
        self != Self::Nothing
    }

    /// Whether a restore that was killed has written some of it: what it wrote may be in the cache only.
    pub(super) fn is_interrupted(self) -> bool {
        matches!(self, Self::Interrupted | Self::Over { is_interrupted: true })
    }
}

impl<'a> Writing<'a> {
    pub(super) fn new(
        ctx: &'a Ctx,
        plan: &'a Plan,
        options: &'a Options,
        tree: &'a Tree,
        ground: Found,
    ) -> Result<Self> {
        let failed = |source| Error::Postgres { what: "the backup's server", source };
        let version = plan.summary.server.version_num;
        let major = MajorVersion::from_server_version_num(version).map_err(failed)?;
        let mut manifest_text = Vec::new();
        let manifest = ManifestWriter::begin(major, plan.summary.system, &mut manifest_text);
        let (root, path) = tree.find(MANIFEST);
        if ground.is_something() {
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
            ground,
            tally: Arc::default(),
            auto_conf: None,
            has_tablespace_in_place: false,
            // The manifest.
            entries: 1,
            files: 0,
            bytes: 0,
        })
    }

    /// Every row of the table; files by workers.
    pub(super) fn all(&mut self) -> Result<()> {
        let opened = &self.plan.opened;
        let ctx = self.ctx;
        let turns = Turns::new(self.options.jobs);
        let hasher = hasher(opened);
        let block_size = self.plan.summary.server.block_size.into();
        let (hasher, unknown) = (hasher.as_ref(), Mutex::default());
        let bench = Bench { ctx, opened, turns: &turns, hasher, block_size, unknown };
        let (sender, receiver) = sync_channel::<Batch>(QUEUE);
        let receiver = Mutex::new(receiver);
        let failure = Mutex::new(None);
        let fed = std::thread::scope(|scope| {
            for _ in 0..workers(self.options.jobs) {
                scope.spawn(|| work(&bench, &receiver, &failure));
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
        let block_size = self.plan.summary.server.block_size;
        let mut batcher = Batcher::new(block_size, in_flight, Arc::clone(&self.tally));
        while let Some(row) = rows.next_row()? {
            self.ctx.cancel.check()?;
            // The source was a copy itself, or restored; whether this one is, its own restore says.
            // A file outside the data directory is never restored in place.
            if row.path == MARKER.as_bytes() || is_mark(&row.path) || row.is_external() {
                continue;
            }
            let path = self.local(&row)?;
            let is_counted =
                !row.path.is_empty() && row.path != CONTROL_PATH && !is_lost_and_found(&row.path);
            self.entries += u64::from(is_counted);
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
                    batcher.add(&row, file, send)?;
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

    /// A file to write, or one that is there and is written to where its blocks are not the backup's. Anything
    /// else in its place is made anew, never written to: it may be a link, or have another name elsewhere. Our
    /// settings are added to `postgresql.auto.conf`, so that one is always made anew.
    fn file(&self, row: &Row, path: &Path) -> Result<Open> {
        let (root, rest) = self.tree.find(&row.path);
        if self.ground.is_something() {
            if row.path != AUTO_CONF
                && let Some((file, length)) = root.open_to_write(rest, attributes(row))?
            {
                let is_longer = length > row.size;
                if is_longer {
                    file.set_len(row.size).map_err(Error::file("shorten", path))?;
                }
                if self.ground.is_interrupted() {
                    // The file system was synced: what the disk then has counts, not what the cache has.
                    // Advice only: where it is not taken, the cache is believed.
                    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).ok();
                }
                return Ok(Open { file, is_there: true, is_changed: is_longer });
            }
            if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                return Err(self.stranger(&row.path, "is a directory"));
            }
            root.remove(rest)?;
        }
        let file = root.create(rest, attributes(row))?;
        Ok(Open { file, is_there: false, is_changed: true })
    }

    fn directory(&mut self, row: &Row, path: &Path) -> Result<()> {
        let in_tablespaces = row.path.strip_prefix(b"pg_tblspc/");
        self.has_tablespace_in_place |= in_tablespaces.is_some_and(|rest| !rest.contains(&b'/'));
        let (root, rest) = self.tree.find(&row.path);
        if row.path.is_empty() {
            let mode = if row.mode & GROUP_READS == GROUP_READS { 0o640 } else { 0o600 };
            self.own = Attributes { mode, ..attributes(row) };
        } else if let Some(behind) = self.tree.linked(&row.path) {
            // WAL behind a link: what that leads to is the directory.
            return behind.own(b"", attributes(row));
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
        if let Some(place) = self.tree.linked(&row.path) {
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
    pub(super) fn refuse_strangers(&self) -> Result<()> {
        if let Found::Over { .. } = self.ground {
            return strangers::refuse(self.ctx, self.plan, self.options, self.tree);
        }
        let mut found = 0;
        let places = self.plan.places();
        each_entry(places, &mut |_, _| {
            found += 1;
            Ok(())
        })?;
        if found == self.entries {
            return Ok(());
        }
        each_entry(places, &mut |path, _| {
            let is_known =
                is_own_file(self.options, path) || self.plan.opened.find_row(path)?.is_some();
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
        self.tally.add_file(false);
        self.tally.add_bytes(false, row.size);
        let changed = Row { crc: Some(crc32c::crc32c(&content)), ..row };
        self.note(CONTROL_PATH, changed.size, &changed)?;
        self.control = Some((content, changed));
        Ok(())
    }

    /// Adds a file to PostgreSQL's manifest.
    pub(super) fn note(&mut self, path: &[u8], size: u64, row: &Row) -> Result<()> {
        let crc32c = row.crc.unwrap_or_default();
        let modified = row.mtime;
        self.manifest.row(&ManifestRow { path, size, modified, crc32c }, &mut self.manifest_text);
        if self.manifest_text.len() >= 1 << 16 {
            self.flush_manifest()?;
        }
        Ok(())
    }

    pub(super) fn flush_manifest(&mut self) -> Result<()> {
        let failed = Error::file("write", self.plan.to.join("backup_manifest"));
        self.manifest_file.write_all(&self.manifest_text).map_err(failed)?;
        self.manifest_text.clear();
        Ok(())
    }

    /// How much stayed, and how much was written.
    pub(super) fn tally(&self) -> (Amount, Amount) {
        self.tally.amounts()
    }
}

pub(super) fn path_in(plan: &Plan, path: &[u8]) -> PathBuf {
    plan.to.join(std::ffi::OsStr::from_bytes(path))
}

pub(super) fn attributes(row: &Row) -> Attributes {
    Attributes { mode: row.mode, uid: row.uid, gid: row.gid }
}

fn work(bench: &Bench<'_>, receiver: &Mutex<Receiver<Batch>>, failure: &Mutex<Option<Error>>) {
    let mut scratch = Scratch::default();
    loop {
        let batch = receiver.lock().expect("no holder of this lock panics").recv();
        let Ok(batch) = batch else { return };
        // After a failure the queue is emptied, so that the reader of the table does not block.
        if bench.ctx.cancel.is_cancelled() {
            continue;
        }
        // A panic must not leave the reader of the table waiting.
        let written = AssertUnwindSafe(|| {
            let batch = with_what_differs(bench, batch, &mut scratch)?;
            write_batch(bench, batch, &mut scratch)
        });
        let written = catch_unwind(written).unwrap_or_else(|_| {
            let what = "an internal error stopped a worker (see the log)".into();
            Err(Error::Refused { what })
        });
        if let Err(error) = written {
            let mut first = failure.lock().expect("no holder of this lock panics");
            if first.as_ref().is_none_or(|known: &Error| known.is_cancelled()) {
                *first = Some(error);
            }
            bench.ctx.cancel.cancel();
        }
    }
}
