//! Repositories that are not required: what the required ones have is brought to them afterwards, from the
//! server's own files as long as they are there, else from another repository.
//!
//! What is missing is found by comparing what the repositories hold, at the beginning, now and then, and
//! after a failure; nothing of it is kept on disk. First write wins there as everywhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Destination;
use super::error::{Error, Result};
use super::identity::digest_of;
use super::openings::{Asked, Openings, Purpose};
use super::push::push;
use super::push_ahead::PushAhead;
use crate::base::{Crew, Ctx};
use crate::pg::{TimelineId, WalFileName};
use crate::repo::{self, Kind};
use crate::storage::ObjectKey;

/// How many names are remembered; what is more is found by the next comparison.
const NAMES_MAX: usize = 10_000;
/// Between two comparisons when nothing fails.
const COMPARE_EVERY: Duration = Duration::from_secs(600);
/// After a failure, at first and at most.
const REST_FIRST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(60);

/// How far one repository lags behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lagging {
    /// Its name.
    pub repository: String,
    /// Files that it lacks, as far as is known.
    pub files: u64,
    /// Why it did not take the last one.
    pub why: Option<String>,
}

/// Brings the repositories of one cluster that are not required up to the others; ends its threads when it
/// is dropped.
#[derive(Debug)]
pub struct CatchUp {
    lanes: Vec<Arc<Lane>>,
    /// Joined after [`Lane::stop`].
    #[allow(dead_code, reason = "its threads end with it")]
    crews: Vec<Crew>,
}

/// One repository that may lag.
#[derive(Debug)]
struct Lane {
    ctx: Ctx,
    at: usize,
    name: String,
    openings: Arc<dyn Openings>,
    /// The servers whose files are looked for first.
    servers: Arc<PushAhead>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Of which system; nothing is known before a server has asked, or the configuration has said.
    system: Option<u64>,
    queue: VecDeque<String>,
    /// More is missing than is in the queue.
    more: u64,
    is_stopping: bool,
    compared: Option<Duration>,
    rests_until: Duration,
    failures: u32,
    why: Option<String>,
}

impl CatchUp {
    /// Begins, for one cluster; `system` where it is known.
    #[must_use]
    pub fn begin(
        ctx: &Ctx,
        openings: &Arc<dyn Openings>,
        servers: &Arc<PushAhead>,
        system: Option<u64>,
    ) -> Self {
        let each = openings.repositories().iter().enumerate().filter(|(_, each)| !each.is_required);
        let lanes: Vec<Arc<Lane>> = each
            .map(|(at, each)| {
                Arc::new(Lane {
                    ctx: ctx.clone(),
                    at,
                    name: each.name.clone(),
                    openings: Arc::clone(openings),
                    servers: Arc::clone(servers),
                    state: Mutex::new(State { system, ..State::default() }),
                    changed: Condvar::new(),
                })
            })
            .collect();
        let crews = lanes.iter().map(|lane| Crew::begin(1, lane, Lane::work)).collect();
        Self { lanes, crews }
    }

    /// A file of this system is durable in every required repository.
    pub fn archived(&self, system: u64, name: &str) {
        for lane in &self.lanes {
            let mut state = lane.state();
            state.system = Some(system);
            if state.queue.len() < NAMES_MAX && state.more == 0 {
                state.queue.push_back(name.to_owned());
            } else {
                state.more += 1;
            }
            drop(state);
            lane.changed.notify_all();
        }
    }

    /// How far each lags behind.
    #[must_use]
    pub fn lagging(&self) -> Vec<Lagging> {
        let each = self.lanes.iter().map(|lane| {
            let state = lane.state();
            let files = state.queue.len() as u64 + state.more;
            Lagging { repository: lane.name.clone(), files, why: state.why.clone() }
        });
        each.collect()
    }

    /// Begins nothing more.
    pub fn stop(&self) {
        self.lanes.iter().for_each(|lane| lane.stop());
    }
}

impl Drop for CatchUp {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a lane does next.
enum Next {
    Compare(u64),
    Bring(u64, String),
}

impl State {
    /// What was brought, or is given up for now, goes from the front.
    fn take_front(&mut self, done: &Next) {
        if let Next::Bring(_, name) = done
            && self.queue.front() == Some(name)
        {
            self.queue.pop_front();
        }
    }
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.state().is_stopping = true;
        self.changed.notify_all();
    }

    fn work(&self) {
        while let Some(next) = self.next() {
            let work = || match &next {
                Next::Compare(system) => self.compare(*system),
                Next::Bring(system, name) => self.bring(*system, name),
            };
            let done = catch_unwind(AssertUnwindSafe(work));
            let now = self.ctx.clock.monotonic();
            let mut state = self.state();
            match done {
                // It has said so. What it was at is left to the next comparison.
                Err(_) => {
                    state.rests_until = now + REST_MAX;
                    state.take_front(&next);
                }
                Ok(Ok(())) => {
                    state.take_front(&next);
                    (state.failures, state.why) = (0, None);
                }
                Ok(Err(error)) => {
                    let is_told = state.why.is_some();
                    let why = error.to_string();
                    if !is_told {
                        self.ctx.warn(format!("{} lags behind: {why}", self.name));
                    }
                    state.why = Some(why);
                    let rest = REST_FIRST.saturating_mul(1 << state.failures.min(6));
                    state.rests_until = now + rest.min(REST_MAX);
                    state.failures += 1;
                    // One that can never be stored must not stand before the others. The next comparison
                    // finds it again.
                    let may_pass = error.may_pass() || matches!(error, Error::Unopened(_));
                    if !may_pass {
                        state.take_front(&next);
                    }
                }
            }
        }
    }

    fn next(&self) -> Option<Next> {
        let mut state = self.state();
        loop {
            if state.is_stopping {
                return None;
            }
            let now = self.ctx.clock.monotonic();
            let is_due = state.compared.is_none_or(|compared| {
                now.saturating_sub(compared) >= COMPARE_EVERY
                    || (state.more > 0 && state.queue.is_empty())
            });
            let wait = match state.system {
                _ if now < state.rests_until => state.rests_until - now,
                None => COMPARE_EVERY,
                Some(system) if is_due => return Some(Next::Compare(system)),
                Some(system) => match state.queue.front() {
                    Some(name) => return Some(Next::Bring(system, name.clone())),
                    None => COMPARE_EVERY,
                },
            };
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn open(&self, at: usize, system: u64, purpose: Purpose) -> Result<Destination> {
        let asked = Asked { system: Some(system), epoch: None, purpose };
        Ok(self.openings.open(&self.ctx, at, &asked)?)
    }

    /// The first required repository that can be used, of the newest epoch.
    fn source(&self, system: u64) -> Result<Destination> {
        let all = self.openings.repositories().iter().enumerate();
        let mut failed = None;
        for (at, _) in all.filter(|(_, each)| each.is_required) {
            match self.open(at, system, Purpose::Fetch) {
                Ok(source) => return Ok(source),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or(Error::NoRepository))
    }

    /// Its place, which must be of the epoch of what is brought there.
    fn target(&self, system: u64, source: &Destination) -> Result<Destination> {
        let target = self.open(self.at, system, Purpose::Push)?;
        if target.place == source.place {
            return Ok(target);
        }
        let (cluster, epoch) = (target.place.cluster().to_owned(), target.place.epoch());
        Err(Error::OlderEpoch { repository: self.name.clone(), cluster, epoch })
    }

    /// Finds what a required repository has and this one has not: histories first, then segments in order.
    fn compare(&self, system: u64) -> Result<()> {
        let source = self.source(system)?;
        let target = self.target(system, &source)?;
        let survey = |of: &Destination| {
            let found = of.repository.survey(&self.ctx, &of.place, &of.registration);
            found.map_err(|error| at(of, error))
        };
        let histories =
            |of: &Destination| of.repository.histories(&of.place).map_err(|error| at(of, error));
        // The target first: what is archived meanwhile is missing by mistake rather than unseen. What was
        // archived after the source was looked at is in the queue.
        let before = self.state().more;
        let (known, had): (_, BTreeMap<u32, Vec<u8>>) = (survey(&target)?.wal, histories(&target)?);
        let (wal, has) = (survey(&source)?.wal, histories(&source)?);
        let mut missing = VecDeque::new();
        let mut more = 0;
        for timeline in has.keys().filter(|timeline| !had.contains_key(timeline)) {
            missing.extend(TimelineId::new(*timeline).map(TimelineId::history_file_name));
        }
        for stretch in wal.stretches().flat_map(|stretch| known.lost(stretch)) {
            let room = NAMES_MAX.saturating_sub(missing.len());
            let names = stretch.segments().map(|(timeline, number)| wal.name(timeline, number));
            missing.extend(names.take(room));
            more += stretch.count().saturating_sub(room as u64);
        }
        let mut state = self.state();
        state.compared = Some(self.ctx.clock.monotonic());
        state.more = more + state.more.saturating_sub(before);
        append(&mut missing, std::mem::take(&mut state.queue));
        state.queue = missing;
        Ok(())
    }

    /// Brings one file: from the server's folder, or from a required repository.
    fn bring(&self, system: u64, name: &str) -> Result<()> {
        let source = self.source(system)?;
        let target = self.target(system, &source)?;
        for submission in self.servers.submissions(system) {
            let path = submission.folders.wal().join(name);
            if !self.is_archived(&source, &path, name)? {
                continue;
            }
            let destinations = std::slice::from_ref(&target);
            match push(&self.ctx, destinations, &submission.options(false), &path) {
                // Recycled meanwhile, say: another place has it.
                Err(Error::File { .. } | Error::Content { .. }) => {}
                other => return other.map(drop),
            }
        }
        self.copy(&source, &target, name)
    }

    /// Whether the file at `path` is the one that was archived under its name: another server of the same
    /// system may have another one, and an old one may have been recycled.
    fn is_archived(&self, source: &Destination, path: &Path, name: &str) -> Result<bool> {
        let Ok(file) = File::open(path) else { return Ok(false) };
        let Some((kind, object)) = object_of(source, name)? else { return Ok(false) };
        let stored = match source.repository.wal_facts(kind, &object) {
            Err(error) if error.is_not_found() => return Ok(false),
            other => other.map_err(|error| at(source, error))?,
        };
        Ok(digest_of(&file, &source.repository).is_ok_and(|digest| digest == stored.digest))
    }

    fn copy(&self, source: &Destination, target: &Destination, name: &str) -> Result<()> {
        let Some((kind, object)) = object_of(source, name)? else { return Ok(()) };
        let (facts, content) = match source.repository.get_wal(kind, &object) {
            // It was stored as a partial segment.
            Err(error) if error.is_not_found() => return Ok(()),
            other => other.map_err(|error| at(source, error))?,
        };
        let (repository, place) = (&target.repository, &target.place);
        let put = repository.bring(&self.ctx, place, (kind, &object), (facts, &content));
        put.map(drop).map_err(|error| at(target, error))
    }
}

/// Appends names that are not there yet.
fn append(names: &mut VecDeque<String>, more: VecDeque<String>) {
    let there: BTreeSet<String> = names.iter().cloned().collect();
    names.extend(more.into_iter().filter(|name| !there.contains(name)));
}

fn at(of: &Destination, source: repo::Error) -> Error {
    Error::Repository { repository: of.name.clone(), source }
}

/// The object of a file; nothing for a partial segment, whose object's name says where its records end.
fn object_of(from: &Destination, name: &str) -> Result<Option<(Kind, ObjectKey)>> {
    let parsed = WalFileName::parse(name.as_bytes())
        .map_err(|source| Error::Name { name: name.into(), source })?;
    let place = &from.place;
    let (kind, object) = match parsed {
        WalFileName::Segment(segment) => (Kind::Wal, place.wal(&segment.to_string())),
        WalFileName::History(timeline) => (Kind::History, Some(place.history(timeline.get()))),
        WalFileName::BackupHistory { .. } => (Kind::Label, place.label(name)),
        WalFileName::Partial(_) => return Ok(None),
    };
    Ok(object.map(|object| (kind, object)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was archived while the repositories were compared was forgotten for ten minutes.
    #[test]
    fn d2026_11_28_what_was_archived_during_a_comparison_is_kept() {
        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<VecDeque<String>>();
        let mut missing = names("1 2 5");
        append(&mut missing, names("2 5 6"));
        assert_eq!(missing, names("1 2 5 6"));
    }
}
