//! How the daemon opens repositories: kept for as long as what was read may count, and opened by one thread
//! for all that wait.
//!
//! Nobody holds a lock while a store is asked. Who waits looks whether he still should, so that a
//! repository that is away keeps one thread, whoever has asked for it and gone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::Error;
use super::openings::{unopened, uses};
use super::repositories::{self, Access};
use crate::archive::{Asked, Destination, Openings, Purpose, RepositoryUse, Unopened};
use crate::base::{Ctx, detached};
use crate::config::RepositorySettings;
use crate::repo;
use crate::storage::{self, ObjectStore, ReadOnlyStore};

/// How many places in repositories are kept: each cluster has one or two for each repository.
const PLACES_MAX: usize = 64;

/// How often somebody who waits looks whether he still should.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// After that long an opening that is under way counts as one that takes long.
const LONG: Duration = Duration::from_millis(500);

/// For how long a failure is an answer for whoever may do without.
const FAILED_FOR: Duration = Duration::from_secs(2);

/// Keeps repositories open, as a process does that lives longer: for [`storage::KEPT_FOR`] at a time, as an
/// epoch that begins counts on; connections and keys for as long as they last.
#[derive(Debug)]
pub struct Lasting {
    shared: Arc<Shared>,
    uses: Vec<RepositoryUse>,
}

#[derive(Debug)]
struct Shared {
    ctx: Ctx,
    cluster: String,
    settings: Vec<RepositorySettings>,
    /// Of each repository: the store, where one may be kept.
    stores: Vec<Mutex<Option<Arc<dyn ObjectStore>>>>,
    places: Mutex<BTreeMap<Meant, Kept>>,
    changed: Condvar,
}

/// A repository, which cluster in it, and whether for reading only.
type Meant = (usize, Option<u64>, Option<u32>, bool);

/// What is known of one.
#[derive(Debug, Default)]
struct Kept {
    /// The last one that was opened, and when its reading began.
    opened: Option<(Duration, Destination)>,
    /// When what opened it was found wanting: what was read before that does not count.
    forgotten: Option<Duration>,
    /// Since when somebody is opening it.
    opening: Option<Duration>,
    /// The last failure: when its try began, when it ended, and why.
    failed: Option<(Duration, Duration, Arc<Error>)>,
}

/// It is being opened, and takes long.
#[derive(Debug)]
struct NotYet(String);

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "repository {} has not answered", self.0)
    }
}

impl std::error::Error for NotYet {}

impl Lasting {
    /// Those of a configured cluster.
    #[must_use]
    pub fn openings(
        ctx: &Ctx,
        cluster: &str,
        settings: Vec<RepositorySettings>,
    ) -> Arc<dyn Openings> {
        let uses = uses(&settings);
        let stores = settings.iter().map(|_| Mutex::default()).collect();
        let (places, changed) = (Mutex::default(), Condvar::new());
        let (ctx, cluster) = (ctx.clone(), cluster.to_owned());
        let shared = Arc::new(Shared { ctx, cluster, settings, stores, places, changed });
        Arc::new(Self { shared, uses })
    }
}

impl Openings for Lasting {
    fn repositories(&self) -> &[RepositoryUse] {
        &self.uses
    }

    fn open(&self, ctx: &Ctx, at: usize, asked: &Asked) -> Result<Destination, Unopened> {
        let meant = (at, asked.system, asked.epoch, asked.purpose != Purpose::Push);
        let name = self.uses.get(at).map_or("", |each| each.name.as_str());
        self.shared.open(ctx, meant, name, asked.purpose)
    }

    fn has_kept(&self) -> bool {
        true
    }

    fn forget(&self) {
        // Connections stay: they find out by themselves. Keys are needed to open without a secret.
        let now = self.shared.ctx.clock.monotonic();
        lock(&self.shared.places).values_mut().for_each(|kept| kept.forgotten = Some(now));
    }
}

impl Kept {
    /// What was read since `since`, and has not been found wanting.
    fn since(&self, since: Duration) -> Option<&Destination> {
        let since = since.max(self.forgotten.unwrap_or_default());
        let (_, destination) = self.opened.as_ref().filter(|(born, _)| *born >= since)?;
        Some(destination)
    }
}

impl Shared {
    fn open(
        self: &Arc<Self>,
        ctx: &Ctx,
        meant: Meant,
        name: &str,
        purpose: Purpose,
    ) -> Result<Destination, Unopened> {
        let clock = &self.ctx.clock;
        let asked = clock.monotonic();
        // A folder is opened in no time, and nobody waits for those who know it as it was: an epoch, or
        // another repository in its place, counts at once.
        let is_local = self.settings.get(meant.0).is_some_and(|settings| settings.s3.is_none());
        let is_new = purpose == Purpose::FetchAnew || is_local;
        let mut places = lock(&self.places);
        loop {
            if places.len() >= PLACES_MAX && !places.contains_key(&meant) {
                places.retain(|_, kept| kept.opening.is_some());
            }
            let kept = places.entry(meant).or_default();
            let now = clock.monotonic();
            let since = if is_new { asked } else { now.saturating_sub(storage::KEPT_FOR) };
            if let Some(destination) = kept.since(since) {
                let destination = destination.clone();
                // Nobody waits for the next one, as long as somebody asks.
                let half = now.saturating_sub(storage::KEPT_FOR / 2);
                if !is_new && kept.since(half).is_none() && kept.opening.is_none() {
                    self.begin(meant, kept, now);
                }
                return Ok(destination);
            }
            if let Some((begun, ended, why)) = &kept.failed {
                // Others have it, perhaps; who must be heard, or must have the file, is tried.
                let is_fresh = purpose == Purpose::Fetch && now.saturating_sub(*ended) < FAILED_FOR;
                if is_fresh || *begun >= asked {
                    return Err(unopened(name, Arc::clone(why)));
                }
            }
            let not_yet = || Unopened {
                repository: name.to_owned(),
                is_unregistered: false,
                announced_epoch: None,
                may_pass: true,
                source: Arc::new(NotYet(name.to_owned())),
            };
            match kept.opening {
                None => self.begin(meant, kept, now),
                Some(begun) if purpose == Purpose::Fetch && now.saturating_sub(begun) > LONG => {
                    return Err(not_yet());
                }
                Some(_) => {}
            }
            // Nobody may wait for it any more.
            if ctx.cancel.is_cancelled() {
                return Err(not_yet());
            }
            let waited = self.changed.wait_timeout(places, LOOK_EVERY);
            places = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Begins to open it, for everybody who waits.
    fn begin(self: &Arc<Self>, meant: Meant, kept: &mut Kept, now: Duration) {
        kept.opening = Some(now);
        let before = kept.opened.as_ref().map(|(_, destination)| destination.clone());
        let shared = Arc::clone(self);
        let begun = detached(move || {
            let mut ending = Ending { shared: &shared, meant, begun: now, done: None };
            ending.done = Some(shared.read(meant, before.as_ref()));
        });
        if begun.is_err() {
            // No thread is left: whoever waits tries again.
            kept.opening = None;
        }
    }

    /// Reads everything anew; `before` has keys, and a connection to the store where one may be kept.
    fn read(&self, meant: Meant, before: Option<&Destination>) -> Result<Destination, Error> {
        let (at, system, epoch, is_reading) = meant;
        let settings = self.settings.get(at).expect("it is one of these repositories");
        let store = self.store(at, settings)?;
        let store: Arc<dyn ObjectStore> =
            if is_reading { Arc::new(ReadOnlyStore::new(store)) } else { store };
        let failed = |source: repo::Error| Error::of_repository(&settings.name, source);
        let kept = match before {
            Some(before) => before.repository.reopened(Arc::clone(&store)).map_err(failed)?,
            None => None,
        };
        let repository = match kept {
            Some(repository) => repository,
            None => {
                let opened = repositories::open_in(store, settings, Some(&self.ctx))?;
                for warning in &opened.warnings {
                    self.ctx.warn(warning.to_string());
                }
                opened.repository
            }
        };
        let name = settings.name.clone();
        let (place, registration) =
            repositories::find_cluster(&name, &repository, &self.cluster, system, epoch)?;
        Ok(Destination { name, repository, place, registration })
    }

    /// A bucket's store is kept, with its connections. A folder is opened anew: what is mounted there now
    /// is what counts.
    fn store(
        &self,
        at: usize,
        settings: &RepositorySettings,
    ) -> Result<Arc<dyn ObjectStore>, Error> {
        let open = || repositories::store(&self.ctx, settings, Access::ReadWrite);
        let Some(kept) = self.stores.get(at).filter(|_| settings.s3.is_some()) else {
            return open();
        };
        let mut kept = lock(kept);
        if let Some(store) = kept.as_ref() {
            return Ok(Arc::clone(store));
        }
        let store = open()?;
        *kept = Some(Arc::clone(&store));
        Ok(store)
    }
}

/// An opening's end: whatever happens, nobody waits for it afterwards.
struct Ending<'a> {
    shared: &'a Shared,
    meant: Meant,
    begun: Duration,
    done: Option<Result<Destination, Error>>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let now = self.shared.ctx.clock.monotonic();
        let mut places = lock(&self.shared.places);
        let kept = places.entry(self.meant).or_default();
        kept.opening = None;
        match self.done.take() {
            Some(Ok(destination)) => {
                kept.opened = Some((self.begun, destination));
                kept.failed = None;
            }
            Some(Err(error)) => kept.failed = Some((self.begun, now, Arc::new(error))),
            // It panicked, and has said so.
            None => {
                let why = repo::Error::Limit("an internal error; the log tells more".into());
                let error = Error::of_repository("", why);
                kept.failed = Some((self.begun, now, Arc::new(error)));
            }
        }
        drop(places);
        self.shared.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
