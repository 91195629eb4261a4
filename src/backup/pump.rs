//! The walk feeds workers through a bounded queue; rows come back in the order of the walk, into a
//! temporary file.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};

use super::compare::{Before, Comparison};
use super::copy::{Job, LargeFile, Outcome, Shared, Worker};
use super::error::{Error, Result};
use super::read::time;
use super::scan::{Entry, Found, became_unlogged, walk};
use super::stands::Stands;
use crate::base::{Ctx, Event};
use crate::pg::Layout;
use crate::repo::file_table::RowSpill;
use crate::repo::manifest::TablespaceRecord;
use crate::repo::{PackPlan, PackWriter, Repository, Row, RowKind, Source};

/// Tasks in the queue between walk and workers.
const QUEUE: usize = 64;

/// Small files go to a worker together, so that the queue and the rows' order cost little for each: at
/// most this many, and none is added to this many bytes.
const TOGETHER_FILES: usize = 32;
const TOGETHER_BYTES: u64 = 1 << 20;

/// Rows that may wait for an earlier one before the walk pauses.
const ROWS_WAITING_MAX: u64 = 100_000;

/// Files at least this long are cut into runs for several workers.
const LARGE: u64 = 128 << 20;

/// The length of such a run; a multiple of every block size.
const RUN: u64 = 64 << 20;

enum Task {
    Files(Vec<Job>),
    Run { file: Arc<LargeFile>, begin: u64, end: Option<u64> },
}

/// Puts rows back into the order of the walk.
struct Collector {
    state: Mutex<Waiting>,
    moved: Condvar,
}

struct Waiting {
    next: u64,
    rows: BTreeMap<u64, Outcome>,
    spill: RowSpill,
    counted: Counted,
    failed: Option<Error>,
}

/// What the rows that hold come to, whether this backup's own or the parent's.
#[derive(Debug)]
pub(super) struct Counted {
    block_size: u64,
    /// The number of the first attempt among the bases.
    first_attempt: u32,
    pub(super) files: u64,
    pub(super) others: u64,
    pub(super) bytes: u64,
    /// Files that were not read, and their bytes.
    pub(super) unread_files: u64,
    pub(super) unread_bytes: u64,
    /// Bytes of content in this backup's own packs, and in each base.
    pub(super) own: u64,
    pub(super) used: Vec<u64>,
    /// Packs of those attempts that no other backup has used.
    pub(super) reused: BTreeSet<(u32, u32)>,
}

impl Counted {
    fn new(block_size: u64, stands: &Stands) -> Self {
        Self {
            block_size,
            first_attempt: stands.first_attempt(),
            files: 0,
            others: 0,
            bytes: 0,
            unread_files: 0,
            unread_bytes: 0,
            own: 0,
            used: vec![0; stands.base_count()],
            reused: BTreeSet::new(),
        }
    }

    pub(super) fn row(&mut self, row: &Row) {
        if row.kind != RowKind::File {
            self.others += 1;
            return;
        }
        self.files += 1;
        self.bytes += row.size;
        for layer in &row.layers {
            let Source::Pack { base, pack, .. } = layer.source else { continue };
            let begin = u64::from(layer.block) * self.block_size;
            let end = (begin + u64::from(layer.count) * self.block_size).min(row.size);
            let length = end.saturating_sub(begin);
            let Some(base) = base else {
                self.own += length;
                continue;
            };
            if base >= self.first_attempt {
                self.reused.insert((base, pack));
            }
            if let Some(used) = self.used.get_mut(base as usize) {
                *used += length;
            }
        }
    }

    /// Of a file that was not read; its row counts besides.
    fn unread(&mut self, size: u64) {
        self.unread_files += 1;
        self.unread_bytes += size;
    }
}

/// What the copying gave.
pub(super) struct Copied<'a> {
    pub(super) spill: RowSpill,
    pub(super) tablespaces: Vec<TablespaceRecord>,
    pub(super) counted: Counted,
    /// Files outside the data directory that the parent had.
    pub(super) external_before: Vec<Vec<u8>>,
    /// The workers' packs, still open.
    pub(super) packs: Vec<PackWriter<'a>>,
}

impl Collector {
    /// Takes what came of entries, by their places.
    fn complete(&self, outcomes: impl IntoIterator<Item = (u64, Outcome)>) {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        state.rows.extend(outcomes);
        loop {
            let next = state.next;
            let Some(outcome) = state.rows.remove(&next) else { break };
            state.next += 1;
            let pushed = match outcome {
                Outcome::Row(row) => {
                    state.counted.row(&row);
                    state.spill.push(&row)
                }
                Outcome::Kept(row) => {
                    state.counted.row(&row);
                    Ok(())
                }
                Outcome::Gone(path) => state.spill.push(&Row::gone(path)),
                Outcome::Nothing => Ok(()),
            };
            if let Err(error) = pushed {
                let error = Error::file("write", std::env::temp_dir())(error);
                state.failed.get_or_insert(error);
            }
        }
        self.moved.notify_all();
    }

    /// Counts an entry that makes no row.
    fn count(&self, count: impl FnOnce(&mut Counted)) {
        count(&mut self.state.lock().expect("no holder of this lock panics").counted);
    }

    /// Keeps the first real error; what follows from it is only its echo.
    fn fail(&self, error: Error) {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        if state.failed.as_ref().is_none_or(|known| known.is_cancelled() && !error.is_cancelled()) {
            state.failed = Some(error);
        }
        self.moved.notify_all();
    }

    fn wait_for_room(&self, ctx: &Ctx, sequence: u64) -> Result<()> {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        if state.failed.is_some() {
            // What failed is told at the end; going on copying would be in vain.
            ctx.cancel.cancel();
        }
        while sequence - state.next > ROWS_WAITING_MAX {
            ctx.cancel.check()?;
            let wait = self.moved.wait_timeout(state, std::time::Duration::from_millis(100));
            state = wait.expect("no holder of this lock panics").0;
        }
        Ok(())
    }
}

/// What is walked, by how many workers, beside what.
pub(super) struct Walk<'a> {
    pub(super) directory: &'a Path,
    pub(super) layout: &'a Layout,
    pub(super) jobs: usize,
    pub(super) comparison: Comparison<'a>,
}

/// Copies everything but `global/pg_control`.
pub(super) fn copy_all<'a>(
    ctx: &'a Ctx,
    repository: &'a Repository,
    plan: &'a PackPlan,
    shared: &'a Shared<'a>,
    what: Walk<'a>,
) -> Result<Copied<'a>> {
    let spill = RowSpill::new().map_err(Error::file("create a file in", std::env::temp_dir()))?;
    let waiting = Waiting {
        next: 0,
        rows: BTreeMap::new(),
        spill,
        counted: Counted::new(plan.block_size as u64, shared.stands),
        failed: None,
    };
    let collector = Collector { state: Mutex::new(waiting), moved: Condvar::new() };
    let (sender, receiver) = sync_channel(QUEUE);
    let receiver = Mutex::new(receiver);
    let (mut tablespaces, mut external_before) = (Vec::new(), Vec::new());
    let packs = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..what.jobs.max(1))
            .map(|_| {
                let packs = PackWriter::new(repository, ctx, plan);
                let worker = Worker { ctx, shared, packs };
                let (receiver, collector) = (&receiver, &collector);
                scope.spawn(move || work(worker, receiver, collector))
            })
            .collect();
        let mut feed = Feed {
            ctx,
            shared,
            collector: &collector,
            sender,
            comparison: Some(what.comparison),
            sequence: 0,
            together: Vec::new(),
            bytes: 0,
        };
        let walked = walk(ctx, what.directory, what.layout, &mut |entry| {
            feed.entry(entry, &mut tablespaces)
        })
        .and_then(|()| feed.finish());
        match walked {
            Ok(external) => external_before = external,
            Err(error) => {
                collector.fail(error);
                ctx.cancel.cancel();
            }
        }
        workers
            .into_iter()
            .filter_map(|worker| worker.join().expect("a worker does not panic"))
            .collect()
    });
    let state = collector.state.into_inner().expect("no holder of this lock panics");
    if let Some(error) = state.failed {
        return Err(error);
    }
    ctx.cancel.check()?;
    assert!(state.rows.is_empty(), "every row found its place");
    let Waiting { spill, counted, .. } = state;
    Ok(Copied { spill, tablespaces, counted, external_before, packs })
}

struct Feed<'a> {
    ctx: &'a Ctx,
    shared: &'a Shared<'a>,
    collector: &'a Collector,
    sender: SyncSender<Task>,
    /// Not there while it is asked, and at the end.
    comparison: Option<Comparison<'a>>,
    sequence: u64,
    /// Small files that are not sent yet: the newest in the order of rows, so that nobody waits for
    /// them (`ROWS_WAITING_MAX` is far above `TOGETHER_FILES`).
    together: Vec<Job>,
    bytes: u64,
}

impl Feed<'_> {
    fn entry(&mut self, entry: Entry, tablespaces: &mut Vec<TablespaceRecord>) -> Result<()> {
        let mut seems_same = false;
        let (before, salvaged) = match self.before(&entry)? {
            Before::Is(row) => {
                self.untouched(&row);
                return Ok(());
            }
            Before::Seems(row) => {
                seems_same = true;
                (Some(row), Vec::new())
            }
            Before::Stored(row) => return self.stored(row),
            Before::Was(row, salvaged) => (row, salvaged),
        };
        match &entry.what {
            // Its row is made at the end, and finds its place then.
            Found::ControlFile => Ok(()),
            Found::File => {
                let size = entry.metadata.len();
                let sequence = self.take_place()?;
                let Entry { path, source, .. } = entry;
                let job = Job { sequence, path, source, before, salvaged, seems_same };
                if size >= LARGE { self.large(job, size) } else { self.small(job, size) }
            }
            Found::Directory => self.other(other(&entry, None), before.as_ref()),
            Found::Tablespace { oid, location } => {
                let text = String::from_utf8_lossy(location).into_owned();
                tablespaces.push(TablespaceRecord { oid: *oid, location: text });
                let target = Some(location.clone());
                self.other(other(&entry, target), before.as_ref())
            }
        }
    }

    /// What the parent says of an entry; that what lies before it and was not met is gone.
    fn before(&mut self, entry: &Entry) -> Result<Before> {
        let Some(mut comparison) = self.comparison.take() else {
            return Ok(Before::Was(None, Vec::new()));
        };
        let before = comparison.meet(entry, &mut |path| self.gone(path));
        self.comparison = Some(comparison);
        before
    }

    /// Ends the walk; files outside the data directory that the parent had.
    fn finish(mut self) -> Result<Vec<Vec<u8>>> {
        let comparison = self.comparison.take();
        let external = match comparison {
            None => Vec::new(),
            Some(comparison) => comparison.finish(&mut |path| self.gone(path))?,
        };
        self.flush()?;
        Ok(external)
    }

    /// Takes the next place in the order of rows. Whoever has one must tell what came of it.
    fn take_place(&mut self) -> Result<u64> {
        let sequence = self.sequence;
        self.collector.wait_for_room(self.ctx, sequence)?;
        self.sequence += 1;
        Ok(sequence)
    }

    fn gone(&mut self, path: Vec<u8>) -> Result<()> {
        self.flush()?;
        let sequence = self.take_place()?;
        self.collector.complete([(sequence, Outcome::Gone(path))]);
        Ok(())
    }

    /// A file that nobody has touched since the parent.
    fn untouched(&self, row: &Row) {
        self.shared.repeat_damage(self.ctx, &row.path);
        self.collector.count(|counted| {
            counted.row(row);
            counted.unread(row.size);
        });
        self.ctx.observer.event(Event::Advance { bytes: row.size, files: 1 });
    }

    /// A file that nobody has touched since a dead attempt stored it: new to the parent, and not read.
    fn stored(&mut self, row: Row) -> Result<()> {
        self.flush()?;
        let size = row.size;
        self.collector.count(|counted| counted.unread(size));
        let sequence = self.take_place()?;
        self.collector.complete([(sequence, Outcome::Row(row))]);
        self.ctx.observer.event(Event::Advance { bytes: size, files: 1 });
        Ok(())
    }

    fn other(&mut self, row: Row, before: Option<&Row>) -> Result<()> {
        if before == Some(&row) {
            self.collector.count(|counted| counted.others += 1);
            return Ok(());
        }
        self.flush()?;
        let sequence = self.take_place()?;
        self.collector.complete([(sequence, Outcome::Row(row))]);
        Ok(())
    }

    fn small(&mut self, job: Job, size: u64) -> Result<()> {
        self.together.push(job);
        self.bytes += size;
        let full = self.together.len() >= TOGETHER_FILES || self.bytes >= TOGETHER_BYTES;
        if full { self.flush() } else { Ok(()) }
    }

    /// Sends the small files that wait for company.
    fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        if self.together.is_empty() {
            return Ok(());
        }
        let together = std::mem::take(&mut self.together);
        self.send(Task::Files(together))
    }

    fn large(&mut self, job: Job, size: u64) -> Result<()> {
        self.flush()?;
        let runs = usize::try_from(size.div_ceil(RUN)).unwrap_or(usize::MAX);
        let file = Arc::new(LargeFile::new(job, runs));
        for run in 0..runs as u64 {
            let begin = run * RUN;
            // The last run takes what was added between the walk and the fstat.
            let end = (run + 1 < runs as u64).then_some(begin + RUN);
            self.send(Task::Run { file: Arc::clone(&file), begin, end })?;
        }
        Ok(())
    }

    fn send(&self, task: Task) -> Result<()> {
        // Workers hang up only after an error, which the collector has.
        self.sender.send(task).map_err(|_| Error::Cancelled(crate::base::Cancelled))
    }
}

/// The row of a directory or a tablespace's link.
fn other(entry: &Entry, target: Option<Vec<u8>>) -> Row {
    let metadata = &entry.metadata;
    Row {
        path: entry.path.clone(),
        kind: if target.is_some() { RowKind::Link } else { RowKind::Directory },
        size: 0,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        identity: None,
        crc: None,
        target,
        layers: Vec::new(),
        gone: false,
    }
}

/// A worker's life; its packs, unless it failed.
fn work<'a>(
    mut worker: Worker<'a>,
    receiver: &Mutex<Receiver<Task>>,
    collector: &Collector,
) -> Option<PackWriter<'a>> {
    let mut healthy = true;
    loop {
        let task = receiver.lock().expect("no holder of this lock panics").recv();
        let Ok(task) = task else { break };
        // After a failure the queue is emptied, so that the walk does not block on it.
        if !healthy {
            continue;
        }
        // A panic must not leave the walk waiting for a row that never comes.
        let stepped = catch_unwind(AssertUnwindSafe(|| step(&mut worker, task, collector)));
        let stepped = stepped.unwrap_or_else(|_| {
            let what = "an internal error stopped a worker (see the log)".into();
            Err(Error::Refused { what })
        });
        if let Err(error) = stepped {
            collector.fail(error);
            worker.ctx.cancel.cancel();
            healthy = false;
        }
    }
    healthy.then_some(worker.packs)
}

fn step(worker: &mut Worker<'_>, task: Task, collector: &Collector) -> Result<()> {
    match task {
        Task::Files(jobs) => {
            let outcomes =
                jobs.iter().map(|job| Ok((job.sequence, job.outcome(worker.file(job)?))));
            collector.complete(outcomes.collect::<Result<Vec<_>>>()?);
        }
        Task::Run { file, begin, end } => {
            let part = worker.large(&file, begin, end)?;
            if let Some(row) = file.finish_part(part, worker.shared.block_size) {
                worker.advance(0, 1);
                let job = &file.job;
                let is_left_out = row.is_some() && became_unlogged(&job.path, &job.source)?;
                let outcome = job.outcome(row.filter(|_| !is_left_out));
                collector.complete([(job.sequence, outcome)]);
            }
        }
    }
    Ok(())
}
