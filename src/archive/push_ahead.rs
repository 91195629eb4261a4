//! Pushing ahead: while the server waits for one file, the files that it has ready behind it are stored,
//! several at once, and when it asks for one of those the answer is there.
//!
//! A request is answered only when its file is durable in every required repository. What is known of a
//! file is bound to the open folders it lies in, the system identifier, the repositories' ids and epochs,
//! and the file's content: whatever of it has changed, the file is pushed as if nothing were known. Nothing
//! that failed is remembered against a request. Nothing is kept on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Destination;
use super::error::{Error, Result};
use super::folders::{FoldersId, ServerFolders};
use super::identity::digest_of;
use super::openings::{Asked, Openings, Purpose};
use super::pgdata::{read_control_file, refuse_copy};
use super::push::Pushed;
use super::ready::ready;
use super::submission::{PushLimits, PushStatus, Submission};
use super::submit::archive;
use crate::base::{Crew, Ctx};
use crate::pg::ControlFile;

/// Between two looks for files that are ready.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After that long without a look, a full window is looked into.
const STUCK: Duration = Duration::from_secs(1);
/// For how long after a request the server counts as archiving.
const ACTIVE: Duration = Duration::from_secs(10);
/// For how long a server's folders are held open without a request.
const IDLE: Duration = Duration::from_secs(600);
/// For how long an object in a bucket is sure to be where it was put.
const SURE_FOR: Duration = Duration::from_secs(5);
/// How many names one look brings.
const NAMES_MAX: usize = 1024;
/// How many servers are known at a time: each is one data directory.
const SERVERS_MAX: usize = 16;
/// How long nothing is pushed ahead after a failure, at first and at most; and one file not, after its own.
const REST_FIRST: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(30);
const FAILED_FOR: Duration = Duration::from_secs(60);

/// Stores files of the servers of one cluster; ends its threads when it is dropped.
#[derive(Debug)]
pub struct PushAhead {
    shared: Arc<Shared>,
    /// Joined after [`Shared::stop`].
    #[allow(dead_code, reason = "its threads end with it")]
    crew: Crew,
}

#[derive(Debug)]
struct Shared {
    ctx: Ctx,
    openings: Arc<dyn Openings>,
    limits: PushLimits,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The one that asked last is the last one.
    servers: Vec<Server>,
    ahead_jobs: usize,
    ahead_bytes: u64,
    is_stopping: bool,
}

type ServerId = (FoldersId, u64);

#[derive(Debug)]
struct Server {
    id: ServerId,
    /// What it asked for last.
    submission: Submission,
    segment_bytes: u64,
    files: BTreeMap<String, Known>,
    /// Ready, by the last look.
    queue: VecDeque<String>,
    requests: usize,
    asked: Duration,
    looked: Duration,
    is_looking: bool,
    rests_until: Duration,
    failures: u32,
    /// The last file that was asked for and is stored. While there is none, nothing is stored ahead: where
    /// history has forked (a rolled-back disk), the server goes back to an earlier name, that file conflicts
    /// with the archive's, and those behind it must not take the free names.
    trusted: Option<String>,
}

/// What is known of a file.
#[derive(Debug, Clone)]
enum Known {
    UnderWay,
    Stored {
        pushed: Arc<Pushed>,
        at: Duration,
        is_answered: bool,
    },
    /// Ahead of a request, which would try it all the same.
    Failed {
        until: Duration,
    },
}

/// A file to be stored ahead.
struct Job {
    server: ServerId,
    submission: Submission,
    bytes: u64,
}

impl PushAhead {
    /// Begins, for one cluster.
    #[must_use]
    pub fn begin(ctx: &Ctx, openings: Arc<dyn Openings>, limits: PushLimits) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { ctx: ctx.clone(), openings, limits, state, changed });
        let crew = Crew::begin(limits.jobs.saturating_sub(1), &shared, Shared::work);
        Self { shared, crew }
    }

    /// Archives a file: from what is known, or now. `Ok` means durable in every required repository.
    ///
    /// # Errors
    /// As [`archive`].
    pub fn archive(&self, submission: &Submission) -> Result<Pushed> {
        self.shared.archive(submission)
    }

    /// What is going on.
    #[must_use]
    pub fn status(&self) -> PushStatus {
        let state = self.shared.state();
        let mut status = PushStatus { bytes: state.ahead_bytes, ..PushStatus::default() };
        for known in state.servers.iter().flat_map(|server| server.files.values()) {
            match known {
                Known::UnderWay => status.under_way += 1,
                Known::Stored { is_answered: false, .. } => status.ahead += 1,
                Known::Stored { .. } | Known::Failed { .. } => {}
            }
        }
        status
    }

    /// What servers of this system asked for last, the last one first.
    pub(super) fn submissions(&self, system: u64) -> Vec<Submission> {
        let state = self.shared.state();
        let servers = state.servers.iter().rev().filter(|server| server.id.1 == system);
        servers.map(|server| server.submission.clone()).collect()
    }

    /// The folders of the servers that have asked, the last one first.
    #[must_use]
    pub fn folders(&self) -> Vec<Arc<ServerFolders>> {
        let state = self.shared.state();
        let servers = state.servers.iter().rev();
        servers.map(|server| Arc::clone(&server.submission.folders)).collect()
    }

    /// Lets go of the folders of servers that have stopped, or not asked for long: an open folder keeps
    /// its file system mounted.
    pub fn tidy(&self) {
        let now = self.shared.ctx.clock.monotonic();
        let known: Vec<(ServerId, Arc<ServerFolders>, bool)> = {
            let mut state = self.shared.state();
            let servers = state.servers.iter_mut().filter(|server| !server.is_busy());
            let each = servers.map(|server| {
                server.is_looking = true;
                (server.id, Arc::clone(&server.submission.folders), server.is_idle(now, IDLE))
            });
            each.collect()
        };
        for (id, folders, is_idle) in known {
            // A folder that hangs must not stop the others: no lock is held.
            self.shared.look(id);
            let has_stopped = !folders.data().join("postmaster.pid").exists();
            let mut state = self.shared.state();
            state.servers.retain(|server| {
                server.id != id
                    || server.is_busy()
                    || !(is_idle || (has_stopped && server.is_idle(now, ACTIVE)))
            });
        }
    }

    /// Begins nothing more ahead; what is under way goes on.
    pub fn stop(&self) {
        self.shared.stop();
    }
}

impl Drop for PushAhead {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.state().is_stopping = true;
        self.changed.notify_all();
    }

    fn archive(&self, submission: &Submission) -> Result<Pushed> {
        let Submission { folders, name, .. } = submission;
        let control = read_control_file(folders.data())?;
        let id = (folders.id(), control.system_identifier);
        let path = folders.wal().join(name);
        loop {
            let mut state = self.state();
            let now = self.ctx.clock.monotonic();
            let server = state.server(id, submission, &control, now);
            let (pushed, at) = match server.files.get(name) {
                Some(Known::UnderWay) => {
                    drop(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
                    continue;
                }
                Some(Known::Stored { pushed, at, .. }) => (Arc::clone(pushed), *at),
                Some(Known::Failed { .. }) | None => {
                    // An older one than before: the server may have gone back.
                    server.trusted = server.trusted.take().filter(|last| last < name);
                    server.files.insert(name.clone(), Known::UnderWay);
                    server.requests += 1;
                    break;
                }
            };
            drop(state);
            let age = now.saturating_sub(at);
            let is_same = self.is_stored(&pushed, age, folders.data(), &path, id.1)?;
            let mut state = self.state();
            let Some(server) = state.find(id) else { continue };
            server.trusted = Some(name.clone()).filter(|_| is_same);
            if is_same {
                let known = Known::Stored { pushed: Arc::clone(&pushed), at, is_answered: true };
                server.files.insert(name.clone(), known);
                drop(state);
                // There is room for one more ahead.
                self.changed.notify_all();
                return Ok(Arc::unwrap_or_clone(pushed));
            }
            if !matches!(server.files.get(name), Some(Known::UnderWay)) {
                server.files.remove(name);
            }
        }
        // What is behind it may begin.
        self.changed.notify_all();
        let mut under_way = UnderWay { shared: self, server: id, name, asked: true, bytes: 0 };
        let done = self.store(submission);
        under_way.end(&done);
        done
    }

    fn store(&self, submission: &Submission) -> Result<Pushed> {
        let path = submission.folders.wal().join(&submission.name);
        let files = self.state().under_way();
        archive(&self.ctx, &self.openings, &submission.options(files < 2), &path, true)
    }

    /// Whether what was stored, so long ago, is what would be stored now, and is still there.
    fn is_stored(
        &self,
        pushed: &Pushed,
        age: Duration,
        data_directory: &Path,
        path: &Path,
        system: u64,
    ) -> Result<bool> {
        refuse_copy(data_directory)?;
        let Ok(file) = File::open(path) else { return Ok(false) };
        let is_unchanged = pushed.read.is_unchanged(&file);
        let asked = Asked { system: Some(system), epoch: None, purpose: Purpose::Push };
        let repositories = self.openings.repositories();
        let any_required = repositories.iter().any(|each| each.is_required);
        for (at, each) in repositories.iter().enumerate() {
            if any_required && !each.is_required {
                continue;
            }
            let Destination { repository, place, .. } =
                self.openings.open(&self.ctx, at, &asked)?;
            let id = repository.descriptor().repository;
            let stored = pushed.stored.iter().find(|stored| {
                stored.repository == each.name && stored.id == id && stored.place == place
            });
            let Some(stored) = stored else { return Ok(false) };
            // A disk may have been put in another one's place, or been rolled back.
            if (each.is_local || age > SURE_FOR) && repository.store().head(&stored.object).is_err()
            {
                return Ok(false);
            }
            let is_same = || digest_of(&file, &repository).is_ok_and(|own| own == stored.digest);
            if !is_unchanged && !is_same() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What each thread does.
    fn work(&self) {
        while let Some(job) = self.next_job() {
            let Job { server, submission, bytes } = job;
            let name = &submission.name;
            let mut under_way = UnderWay { shared: self, server, name, asked: false, bytes };
            let store = || self.store(&submission);
            // One that panicked has said so; the next one is not its concern.
            let Ok(done) = catch_unwind(AssertUnwindSafe(store)) else { continue };
            if let Err(error) = &done
                && !error.is_not_found()
            {
                self.ctx.note(format!("{name}, ahead of its request: {error}"));
            }
            under_way.end(&done);
        }
    }

    /// Looks what a server has ready, and forgets what it has not any more: that was answered, by whomever.
    fn look(&self, id: ServerId) {
        let mut state = self.state();
        let Some(server) = state.find(id) else { return };
        let folders = Arc::clone(&server.submission.folders);
        let known: BTreeSet<String> = server.files.keys().cloned().collect();
        drop(state);
        let looked = ready(folders.wal(), NAMES_MAX, |name| known.contains(name));
        let mut state = self.state();
        let now = self.ctx.clock.monotonic();
        let Some(server) = state.find(id) else { return };
        server.is_looking = false;
        server.looked = now;
        if let Ok(found) = looked {
            server.queue = found.first.into();
            server.files.retain(|name, kept| {
                matches!(kept, Known::UnderWay)
                    || !known.contains(name)
                    || found.known.contains(name)
            });
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if state.is_stopping {
                return None;
            }
            let now = self.ctx.clock.monotonic();
            if let Some(job) = state.take_job(now, &self.limits) {
                return Some(job);
            }
            let mut servers = state.servers.iter_mut();
            if let Some(server) = servers.find(|server| server.wants_look(now, self.limits.window))
            {
                server.is_looking = true;
                let id = server.id;
                drop(state);
                self.look(id);
                state = self.state();
                continue;
            }
            let is_active = state.servers.iter().any(|server| server.is_active(now));
            state = match is_active {
                true => {
                    let waited = self.changed.wait_timeout(state, LOOK_EVERY);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                false => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl State {
    /// How many files are being stored.
    fn under_way(&self) -> usize {
        let known = self.servers.iter().flat_map(|server| server.files.values());
        known.filter(|known| matches!(known, Known::UnderWay)).count()
    }

    fn find(&mut self, id: ServerId) -> Option<&mut Server> {
        self.servers.iter_mut().find(|server| server.id == id)
    }

    /// The server that asks; of too many, the one that has asked for nothing for the longest time goes.
    fn server(
        &mut self,
        id: ServerId,
        submission: &Submission,
        control: &ControlFile,
        now: Duration,
    ) -> &mut Server {
        let known = self.servers.iter().position(|server| server.id == id);
        let mut server = match known {
            Some(at) => self.servers.remove(at),
            None => Server {
                id,
                submission: submission.clone(),
                segment_bytes: control.wal_segment_size.bytes().into(),
                files: BTreeMap::new(),
                queue: VecDeque::new(),
                requests: 0,
                asked: now,
                looked: now.saturating_sub(LOOK_EVERY),
                is_looking: false,
                rests_until: Duration::ZERO,
                failures: 0,
                trusted: None,
            },
        };
        server.asked = now;
        server.segment_bytes = control.wal_segment_size.bytes().into();
        server.submission = submission.clone();
        if self.servers.len() >= SERVERS_MAX
            && let Some(idle) = self.servers.iter().position(|server| !server.is_busy())
        {
            self.servers.remove(idle);
        }
        self.servers.push(server);
        self.servers.last_mut().expect("it was put there")
    }

    fn take_job(&mut self, now: Duration, limits: &PushLimits) -> Option<Job> {
        let (ahead_jobs, ahead_bytes) = (self.ahead_jobs, self.ahead_bytes);
        let has_room =
            |bytes: u64| ahead_jobs == 0 || ahead_bytes.saturating_add(bytes) <= limits.bytes;
        let mut servers = self.servers.iter_mut().rev();
        let job = servers.find_map(|server| {
            if !server.is_active(now)
                || server.trusted.is_none()
                || now < server.rests_until
                || !has_room(server.segment_bytes)
                || server.ahead() >= limits.window
            {
                return None;
            }
            server.take_job(now)
        })?;
        self.ahead_jobs += 1;
        self.ahead_bytes += job.bytes;
        Some(job)
    }
}

impl Server {
    fn is_active(&self, now: Duration) -> bool {
        self.requests > 0 || now.saturating_sub(self.asked) < ACTIVE
    }

    fn is_idle(&self, now: Duration, limit: Duration) -> bool {
        now.saturating_sub(self.asked) > limit
    }

    fn is_busy(&self) -> bool {
        let is_storing = |known: &Known| matches!(known, Known::UnderWay);
        self.requests > 0 || self.is_looking || self.files.values().any(is_storing)
    }

    fn wants_look(&self, now: Duration, window: usize) -> bool {
        let age = now.saturating_sub(self.looked);
        // A window that stays full is full of what was archived by somebody else.
        let is_stuck = age >= STUCK && self.ahead() >= window;
        self.is_active(now)
            && !self.is_looking
            && now >= self.rests_until
            && (is_stuck || (self.queue.is_empty() && age >= LOOK_EVERY))
    }

    /// How many files are stored, or being stored, that nobody has been told of.
    fn ahead(&self) -> usize {
        let known = self.files.values();
        let is_ahead = |known: &&Known| {
            matches!(known, Known::UnderWay | Known::Stored { is_answered: false, .. })
        };
        known.filter(is_ahead).count()
    }

    fn take_job(&mut self, now: Duration) -> Option<Job> {
        loop {
            let name = self.queue.pop_front()?;
            match self.files.get(&name) {
                None => {}
                Some(Known::Failed { until }) if now >= *until => {}
                Some(_) => continue,
            }
            // Ready again, or never asked for although a later one was: it is for the server to ask first.
            if self.trusted.as_ref().is_none_or(|last| name < *last) {
                self.trusted = None;
                return None;
            }
            self.files.insert(name.clone(), Known::UnderWay);
            let submission = Submission { name, ..self.submission.clone() };
            return Some(Job { server: self.id, submission, bytes: self.segment_bytes });
        }
    }
}

/// Whether the archive has another file under this name.
fn is_conflict(error: &Error) -> bool {
    use crate::repo::Error::{Claimed, Conflict};
    matches!(error, Error::Repository { source: Conflict { .. } | Claimed { .. }, .. })
}

/// A file that is being stored: whatever happens, it is not left so.
struct UnderWay<'a> {
    shared: &'a Shared,
    server: ServerId,
    name: &'a str,
    /// Somebody waits for it.
    asked: bool,
    bytes: u64,
}

impl UnderWay<'_> {
    fn end(&mut self, done: &Result<Pushed>) {
        let now = self.shared.ctx.clock.monotonic();
        let mut state = self.shared.state();
        let Some(server) = state.find(self.server) else { return };
        match done {
            Ok(pushed) => {
                let (pushed, is_answered) = (Arc::new(pushed.clone()), self.asked);
                let known = Known::Stored { pushed, at: now, is_answered };
                server.files.insert(self.name.to_owned(), known);
                if self.asked {
                    server.trusted = Some(self.name.to_owned());
                }
                (server.failures, server.rests_until) = (0, Duration::ZERO);
            }
            Err(error) => {
                if is_conflict(error) {
                    server.trusted = None;
                }
                // A request tries it in any case; what nobody asked for is left alone for a while.
                server.files.remove(self.name);
                if !self.asked && !error.is_not_found() {
                    let failed = Known::Failed { until: now + FAILED_FOR };
                    server.files.insert(self.name.to_owned(), failed);
                }
                if error.may_pass() || matches!(error, Error::Unopened(_)) {
                    let rest = REST_FIRST.saturating_mul(1 << server.failures.min(6));
                    server.rests_until = now + rest.min(REST_MAX);
                    server.failures += 1;
                }
            }
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if !self.asked {
            state.ahead_jobs -= 1;
            state.ahead_bytes -= self.bytes;
        }
        if let Some(server) = state.find(self.server) {
            server.requests -= usize::from(self.asked);
            if let Some(Known::UnderWay) = server.files.get(self.name) {
                server.files.remove(self.name);
            }
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}
