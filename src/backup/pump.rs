//! The walk feeds workers through a bounded queue; rows come back in the order of the walk, into a
//! temporary file.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};

use super::copy::{Job, LargeFile, Shared, Worker};
use super::error::{Error, Result};
use super::read::time;
use super::scan::{Entry, Found, became_unlogged, walk};
use crate::base::Ctx;
use crate::pg::Layout;
use crate::repo::file_table::RowSpill;
use crate::repo::manifest::TablespaceRecord;
use crate::repo::{PackPlan, PackWriter, Repository, Row, RowKind};

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
    rows: BTreeMap<u64, Option<Row>>,
    spill: RowSpill,
    files: u64,
    others: u64,
    bytes: u64,
    failed: Option<Error>,
}

/// What the copying gave.
pub(super) struct Copied<'a> {
    pub(super) spill: RowSpill,
    pub(super) tablespaces: Vec<TablespaceRecord>,
    pub(super) files: u64,
    pub(super) others: u64,
    pub(super) bytes: u64,
    /// The workers' packs, still open.
    pub(super) packs: Vec<PackWriter<'a>>,
}

impl Collector {
    /// Takes rows by their place; `None` for what has vanished.
    fn complete(&self, rows: impl IntoIterator<Item = (u64, Option<Row>)>) {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        state.rows.extend(rows);
        loop {
            let next = state.next;
            let Some(row) = state.rows.remove(&next) else { break };
            state.next += 1;
            let Some(row) = row else { continue };
            if row.kind == RowKind::File {
                state.files += 1;
                state.bytes += row.size;
            } else {
                state.others += 1;
            }
            if let Err(error) = state.spill.push(&row) {
                let error = Error::file("write", std::env::temp_dir())(error);
                state.failed.get_or_insert(error);
            }
        }
        self.moved.notify_all();
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

/// Copies everything but `global/pg_control`.
pub(super) fn copy_all<'a>(
    ctx: &'a Ctx,
    repository: &'a Repository,
    plan: &'a PackPlan,
    shared: &'a Shared<'a>,
    data_directory: &std::path::Path,
    layout: &Layout,
    jobs: usize,
) -> Result<Copied<'a>> {
    let spill = RowSpill::new().map_err(Error::file("create a file in", std::env::temp_dir()))?;
    let waiting = Waiting {
        next: 0,
        rows: BTreeMap::new(),
        spill,
        files: 0,
        others: 0,
        bytes: 0,
        failed: None,
    };
    let collector = Collector { state: Mutex::new(waiting), moved: Condvar::new() };
    let (sender, receiver) = sync_channel(QUEUE);
    let receiver = Mutex::new(receiver);
    let mut tablespaces = Vec::new();
    let packs = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1))
            .map(|_| {
                let packs = PackWriter::new(repository, ctx, plan);
                let worker = Worker { ctx, shared, packs };
                let (receiver, collector) = (&receiver, &collector);
                scope.spawn(move || work(worker, receiver, collector))
            })
            .collect();
        let mut feed = Feed {
            ctx,
            collector: &collector,
            sender,
            sequence: 0,
            together: Vec::new(),
            bytes: 0,
        };
        let walked =
            walk(ctx, data_directory, layout, &mut |entry| feed.entry(entry, &mut tablespaces))
                .and_then(|()| feed.flush());
        if let Err(error) = walked {
            collector.fail(error);
            ctx.cancel.cancel();
        }
        drop(feed);
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
    let Waiting { spill, files, others, bytes, .. } = state;
    Ok(Copied { spill, tablespaces, files, others, bytes, packs })
}

struct Feed<'a> {
    ctx: &'a Ctx,
    collector: &'a Collector,
    sender: SyncSender<Task>,
    sequence: u64,
    /// Small files that are not sent yet: the newest in the order of rows, so that nobody waits for
    /// them (`ROWS_WAITING_MAX` is far above `TOGETHER_FILES`).
    together: Vec<Job>,
    bytes: u64,
}

impl Feed<'_> {
    fn entry(&mut self, entry: Entry, tablespaces: &mut Vec<TablespaceRecord>) -> Result<()> {
        let sequence = self.sequence;
        self.collector.wait_for_room(self.ctx, sequence)?;
        match &entry.what {
            // Its row is made at the end, and finds its place then.
            Found::ControlFile => return Ok(()),
            Found::File => {
                let size = entry.metadata.len();
                let job = Job { sequence, path: entry.path, source: entry.source };
                if size >= LARGE { self.large(job, size)? } else { self.small(job, size)? }
            }
            Found::Directory => self.other(sequence, other(&entry, None))?,
            Found::Tablespace { oid, location } => {
                let text = String::from_utf8_lossy(location).into_owned();
                tablespaces.push(TablespaceRecord { oid: *oid, location: text });
                let target = Some(location.clone());
                self.other(sequence, other(&entry, target))?;
            }
        }
        self.sequence += 1;
        Ok(())
    }

    fn other(&mut self, sequence: u64, row: Row) -> Result<()> {
        self.flush()?;
        self.collector.complete([(sequence, Some(row))]);
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
            let rows = jobs.iter().map(|job| Ok((job.sequence, worker.file(job)?)));
            collector.complete(rows.collect::<Result<Vec<_>>>()?);
        }
        Task::Run { file, begin, end } => {
            let part = worker.large(&file, begin, end)?;
            if let Some(row) = file.finish_part(part, worker.shared.block_size) {
                worker.advance(0, 1);
                let job = &file.job;
                let is_left_out = row.is_some() && became_unlogged(&job.path, &job.source)?;
                collector.complete([(job.sequence, row.filter(|_| !is_left_out))]);
            }
        }
    }
    Ok(())
}
