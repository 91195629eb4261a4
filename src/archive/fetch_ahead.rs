//! Fetching ahead: while recovery replays one segment, the ones that follow are fetched, opened and
//! authenticated, several at once, into files without names, or into memory where a file system has none
//! (`O_TMPFILE`, open(2)). When recovery asks for one, it only gets its name.
//!
//! What has no name is not there after a crash, at whatever byte: nothing is left that recovery could
//! mistake for a segment. Only what was found is kept, and only until it is asked for. That a segment is not
//! there is never remembered, and a segment of a repository is given under its own name in that repository
//! alone.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Destination;
use super::asking::{Ahead, BEGINNING, Fetched, Kept};
use super::folders::ServerFolders;
use super::temporary::Temporary;
use crate::base::{Crew, Ctx};
use crate::crypt::RepositoryId;
use crate::pg::{SegmentName, SegmentNo, SegmentSize, TimelineId, WalFileName};
use crate::repo::{Kind, Place, Repository, WAL_READ_PIECE};
use crate::storage::ObjectKey;

/// For how long a segment that nobody asks for is kept.
const IDLE: Duration = Duration::from_secs(60);
/// Likewise where the server has stopped.
const ACTIVE: Duration = Duration::from_secs(10);
/// How many are held at most, however small they are.
const HELD_MAX: u64 = 64;
/// How long one that is on its way is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many are fetched behind one that came by itself: a standby that streams asks for one now and then.
const FIRST: u64 = 2;

/// How much is fetched ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// How many segments are fetched at a time.
    pub jobs: usize,
    /// How many bytes of segments are held at most, those on their way included.
    pub bytes: u64,
}

/// What is going on.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct FetchStatus {
    /// Segments that are asked for or on their way.
    pub under_way: usize,
    /// Segments that are held.
    pub held: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Fetches ahead for one cluster; ends its threads when it is dropped.
#[derive(Debug)]
pub struct FetchAhead {
    shared: Arc<Shared>,
    /// Joined after [`Shared::stop`].
    #[allow(dead_code, reason = "its threads end with it")]
    crew: Crew,
}

#[derive(Debug)]
struct Shared {
    ctx: Ctx,
    limits: FetchLimits,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<Name, Held>,
    /// Of `held`.
    bytes: u64,
    /// What was delivered last, along each timeline.
    last: BTreeMap<Along, SegmentNo>,
    /// What is not held any more. Those that fetch close it without the lock: a file system may keep who
    /// closes a file waiting.
    gone: Vec<Part>,
    /// Until then everything is kept in memory: a file could not be written.
    in_memory_until: Duration,
    is_stopping: bool,
}

/// An object: which repository, which name.
type Name = (RepositoryId, String);
/// A timeline of a cluster in a repository.
type Along = (RepositoryId, String, TimelineId);

#[derive(Debug)]
struct Held {
    bytes: u64,
    since: Duration,
    /// Of the server that will ask for it.
    folders: Arc<ServerFolders>,
    content: Part,
}

#[derive(Debug)]
enum Part {
    Wanted(Repository, ObjectKey),
    UnderWay,
    Ready(Box<Fetched>),
}

/// One that is to be fetched now.
#[derive(Debug)]
struct Wanted {
    repository: Repository,
    object: ObjectKey,
    folders: Arc<ServerFolders>,
    /// How many bytes it has at most.
    bytes: u64,
}

/// What is fetched ahead, for one request of a server whose folders these are.
#[derive(Debug)]
pub struct AheadOf {
    shared: Arc<Shared>,
    folders: Arc<ServerFolders>,
    delivered: Mutex<Option<(Destination, WalFileName)>>,
}

impl FetchAhead {
    /// Begins, for one cluster.
    #[must_use]
    pub fn begin(ctx: &Ctx, limits: FetchLimits) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { ctx: ctx.clone(), limits, state, changed });
        let crew = Crew::begin(limits.jobs, &shared, Shared::work);
        Self { shared, crew }
    }

    /// What is going on.
    #[must_use]
    pub fn status(&self) -> FetchStatus {
        let state = self.shared.state();
        let is_ready = |held: &&Held| matches!(held.content, Part::Ready(_));
        let held = state.held.values().filter(is_ready).count();
        FetchStatus { under_way: state.held.len() - held, held, bytes: state.bytes }
    }

    /// Forgets what nobody has asked for in a while, sooner where the server has stopped: a file that is held
    /// keeps its file system mounted.
    pub fn tidy(&self) {
        let now = self.shared.ctx.clock.monotonic();
        let known: Vec<(Name, Arc<ServerFolders>, Duration)> = {
            let state = self.shared.state();
            let held = state.held.iter().filter(|(_, held)| !held.is_under_way());
            let aged = held.map(|(name, held)| {
                (name.clone(), Arc::clone(&held.folders), now.saturating_sub(held.since))
            });
            aged.filter(|(_, _, age)| *age > ACTIVE).collect()
        };
        // A folder may keep who looks into it waiting: no lock is held.
        let is_over = |(_, folders, age): &(Name, Arc<ServerFolders>, Duration)| {
            *age > IDLE || !folders.data().join("postmaster.pid").exists()
        };
        let over: Vec<Name> = known.into_iter().filter(is_over).map(|(name, _, _)| name).collect();
        let mut state = self.shared.state();
        // It may have been taken meanwhile, and be on its way again.
        let is_old = |held: &Held| now.saturating_sub(held.since) > ACTIVE && !held.is_under_way();
        for name in over {
            if state.held.get(&name).is_some_and(is_old) {
                state.forget(&name);
            }
        }
        if state.held.is_empty() {
            state.last.clear();
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Fetches nothing more.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// What is fetched ahead, for one request of a server that has these folders.
    #[must_use]
    pub fn of(&self, folders: &Arc<ServerFolders>) -> AheadOf {
        let (shared, folders) = (Arc::clone(&self.shared), Arc::clone(folders));
        AheadOf { shared, folders, delivered: Mutex::default() }
    }
}

impl Drop for FetchAhead {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Ahead for AheadOf {
    fn find(&self, repository: &Repository, object: &ObjectKey) -> Option<Fetched> {
        let name = (repository.descriptor().repository, object.to_string());
        let clock = &self.shared.ctx.clock;
        let deadline = clock.monotonic() + PATIENCE;
        let mut state = self.shared.state();
        loop {
            match &state.held.get(&name)?.content {
                // Whoever asks does so himself, when it takes long.
                Part::UnderWay if clock.monotonic() >= deadline => return None,
                Part::UnderWay => {
                    let waited = self.shared.changed.wait_timeout(state, PATIENCE);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                // Whoever asks is quicker than a thread that is not there yet.
                Part::Wanted(..) => {
                    state.forget(&name);
                    return None;
                }
                Part::Ready(_) => {
                    let Part::Ready(fetched) = state.remove(&name)? else { return None };
                    return Some(*fetched);
                }
            }
        }
    }

    fn delivered(&self, from: &Destination, name: &WalFileName) {
        let delivered = Some((from.clone(), *name));
        *self.delivered.lock().unwrap_or_else(PoisonError::into_inner) = delivered;
    }
}

impl AheadOf {
    /// Has what follows fetched, if a segment was delivered: said when recovery has it, which is not to
    /// share its processor with those that fetch before that.
    pub fn go_on(&self) {
        let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((from, name)) = delivered.take() {
            self.follow(&from, &name);
        }
    }

    fn follow(&self, from: &Destination, name: &WalFileName) {
        let WalFileName::Segment(segment) = name else { return };
        let Ok(size) = SegmentSize::new(from.registration.wal_segment_size.into()) else { return };
        let Ok(number) = segment.number(size) else { return };
        let mut state = self.shared.state();
        let id = from.repository.descriptor().repository;
        if let Some(object) = from.place.wal(&segment.to_string()) {
            state.forget(&(id, object.to_string()));
        }
        let along = (id, from.place.prefix(), segment.timeline());
        if state.last.get(&along).is_some_and(|last| last.0 == number.0 + 1) {
            // Recovery has the next one already, and that has been followed.
            return;
        }
        let before = state.last.insert(along, number);
        let follows = before.is_some_and(|before| before.0 + 1 == number.0);
        let bytes = u64::from(size.bytes());
        let prefix = (id, from.place.wal_prefix(segment.timeline().get()));
        // Each may be an open file.
        let most = (self.shared.limits.bytes / bytes).min(HELD_MAX);
        let depth = if follows { most } else { FIRST };
        let now = self.shared.ctx.clock.monotonic();
        for next in (1..=depth).map(|i| SegmentNo(number.0.saturating_add(i))) {
            let Some(object) = object_of(&from.place, segment.timeline(), next, size) else {
                break;
            };
            let name = (id, object.to_string());
            if state.held.contains_key(&name) {
                continue;
            }
            if state.bytes + bytes > self.shared.limits.bytes {
                state.give_way(&prefix);
            }
            if state.bytes + bytes > self.shared.limits.bytes {
                break;
            }
            state.bytes += bytes;
            let content = Part::Wanted(from.repository.clone(), object);
            let folders = Arc::clone(&self.folders);
            state.held.insert(name, Held { bytes, since: now, folders, content });
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

fn object_of(
    place: &Place,
    timeline: TimelineId,
    number: SegmentNo,
    size: SegmentSize,
) -> Option<ObjectKey> {
    place.wal(&SegmentName::new(timeline, number, size).ok()?.to_string())
}

impl Held {
    fn is_under_way(&self) -> bool {
        matches!(self.content, Part::UnderWay)
    }
}

impl State {
    fn remove(&mut self, name: &Name) -> Option<Part> {
        let held = self.held.remove(name)?;
        self.bytes -= held.bytes;
        Some(held.content)
    }

    fn forget(&mut self, name: &Name) {
        let removed = self.remove(name);
        self.gone.extend(removed);
    }

    /// Lets go of one that lies along another timeline, or in another repository: recovery has left that.
    fn give_way(&mut self, prefix: &Name) {
        let is_along = |name: &Name| name.0 == prefix.0 && name.1.starts_with(&prefix.1);
        let other = self.held.iter().find(|(name, held)| !is_along(name) && !held.is_under_way());
        if let Some(name) = other.map(|(name, _)| name.clone()) {
            self.forget(&name);
        }
    }

    /// What lies behind one that is not there is not looked for: it is the end, or a hole.
    fn forget_behind(&mut self, name: &Name) {
        let (id, object) = name;
        let folder = object.rsplit_once('/').map_or("", |(folder, _)| folder);
        let behind = self.held.iter().filter(|((other, key), held)| {
            let is_wanted = matches!(held.content, Part::Wanted(..));
            other == id && key > object && key.starts_with(folder) && is_wanted
        });
        let behind: Vec<Name> = behind.map(|(name, _)| name.clone()).collect();
        behind.iter().for_each(|name| self.forget(name));
    }

    /// The first one that is wanted: names are in the order of the WAL.
    fn take(&mut self) -> Option<(Name, Wanted)> {
        self.held.iter_mut().find_map(|(name, held)| {
            let Part::Wanted(repository, object) = &held.content else { return None };
            let (repository, object) = (repository.clone(), object.clone());
            let (folders, bytes) = (Arc::clone(&held.folders), held.bytes);
            held.content = Part::UnderWay;
            Some((name.clone(), Wanted { repository, object, folders, bytes }))
        })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held is let go of: it would keep room and file systems until the last request has ended.
    fn stop(&self) {
        let mut state = self.state();
        state.is_stopping = true;
        let held = state.held.iter().filter(|(_, held)| !held.is_under_way());
        let names: Vec<Name> = held.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| state.forget(name));
        drop(state);
        self.changed.notify_all();
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            let gone = std::mem::take(&mut state.gone);
            if !gone.is_empty() {
                drop(state);
                drop(gone);
                state = self.state();
                continue;
            }
            if state.is_stopping {
                return;
            }
            let is_for_memory = self.ctx.clock.monotonic() < state.in_memory_until;
            let room = (!is_for_memory).then(|| self.limits.bytes.saturating_mul(2));
            let Some((name, wanted)) = state.take() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let fetching = Fetching { shared: self, name: &name };
            let fetch = || wanted.fetch(room);
            // One that panicked has said so; the next one is not its concern.
            let Ok(fetched) = catch_unwind(AssertUnwindSafe(fetch)) else {
                drop(fetching);
                state = self.state();
                continue;
            };
            match &fetched {
                // The end of what is archived, or a hole: whoever asks finds out for himself.
                Err(error) if error.is_not_found() => self.state().forget_behind(&name),
                Err(error) => self.ctx.note(wanted.ahead(error)),
                Ok(Err(error)) => {
                    self.ctx.note(wanted.ahead(error));
                    self.state().in_memory_until = self.ctx.clock.monotonic() + IDLE;
                }
                Ok(Ok(_)) => {}
            }
            fetching.end(fetched.ok().and_then(io::Result::ok));
            // It takes the lock, too.
            drop(fetching);
            state = self.state();
        }
    }
}

/// One that is on its way: whatever happens, nobody waits for it afterwards.
struct Fetching<'a> {
    shared: &'a Shared,
    name: &'a Name,
}

impl Fetching<'_> {
    fn end(&self, fetched: Option<Fetched>) {
        let now = self.shared.ctx.clock.monotonic();
        let mut state = self.shared.state();
        if let Some(fetched) = fetched
            && !state.is_stopping
            && let Some(held) = state.held.get_mut(self.name)
        {
            (held.content, held.since) = (Part::Ready(Box::new(fetched)), now);
        }
    }
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(Part::UnderWay) = state.held.get(self.name).map(|held| &held.content) {
            state.forget(self.name);
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Wanted {
    /// Fetches it, into a file where that much room is free, or into memory; why the file cannot be written.
    fn fetch(&self, room: Option<u64>) -> crate::repo::Result<io::Result<Fetched>> {
        let mut reader = self.repository.open_wal(Kind::Wal, &self.object)?;
        let facts = reader.facts().clone();
        if facts.size > self.bytes {
            let why = format!("it holds {} bytes, more than this cluster's segments", facts.size);
            return Err(crate::repo::Error::Limit(format!("{}: {why}", self.object)));
        }
        let Some(file) = room.and_then(|room| self.file(room)) else {
            let content = Kept::Memory(reader.content()?);
            return Ok(Ok(Fetched { facts, content }));
        };
        let mut space = vec![0; WAL_READ_PIECE];
        let mut beginning = Vec::new();
        for piece in reader.pieces()? {
            let (offset, length) = (piece.offset, piece.length);
            piece.open(&mut space)?;
            let content = space.get(..length).unwrap_or_default();
            if offset == 0 {
                beginning = content.iter().take(BEGINNING).copied().collect();
            }
            if let Err(error) = file.write_all_at(content, offset) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(Fetched { facts, content: Kept::File { file, beginning } }))
    }

    /// A file for it, where there is room enough that the server does not miss it.
    fn file(&self, room: u64) -> Option<File> {
        let file = Temporary::unnamed(self.folders.wal())?;
        let free = rustix::fs::fstatvfs(&file).ok()?;
        (free.f_bavail.saturating_mul(free.f_frsize) >= room).then_some(file)
    }

    fn ahead(&self, error: impl fmt::Display) -> String {
        format!("{}, ahead of its request: {error}", self.object)
    }
}
