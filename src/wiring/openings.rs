//! How the archive commands open repositories.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::Error;
use super::repositories::{self, Access};
use crate::archive::{Asked, Destination, Openings, Purpose, RepositoryUse, Unopened};
use crate::base::{Ctx, detached};
use crate::config::{RepositorySettings, Resolved};
use crate::repo;
use crate::storage::{self, ObjectStore, ReadOnlyStore};

/// Opens each repository for one file, as a process does that lives for one.
#[derive(Debug)]
pub struct Direct {
    cluster: String,
    settings: Vec<RepositorySettings>,
    uses: Vec<RepositoryUse>,
}

impl Direct {
    /// Those of a configured cluster.
    #[must_use]
    pub fn openings(resolved: &Resolved) -> Arc<dyn Openings> {
        let settings = resolved.repositories.clone();
        let uses = uses(&settings);
        Arc::new(Self { cluster: resolved.cluster_name.clone(), settings, uses })
    }
}

pub(super) fn uses(settings: &[RepositorySettings]) -> Vec<RepositoryUse> {
    let each = settings.iter();
    each.map(|each| RepositoryUse { name: each.name.clone(), is_required: each.is_required })
        .collect()
}

pub(super) fn unopened(repository: &str, error: Error) -> Unopened {
    Unopened {
        repository: repository.to_owned(),
        is_unregistered: error.is_unregistered(),
        announced_epoch: error.announced_epoch(),
        may_pass: error.may_pass(),
        source: Box::new(error),
    }
}

impl Openings for Direct {
    fn repositories(&self) -> &[RepositoryUse] {
        &self.uses
    }

    fn open(&self, ctx: &Ctx, at: usize, asked: &Asked) -> Result<Destination, Unopened> {
        let settings = self.settings.get(at).expect("it is one of these repositories");
        let access = match asked.purpose {
            Purpose::Push => Access::Push,
            Purpose::Fetch => Access::Fetch,
            Purpose::FetchAnew => Access::FetchAnew,
        };
        let (cluster, Asked { system, epoch, .. }) = (&self.cluster, *asked);
        let opened = repositories::destination(ctx, settings, cluster, system, epoch, access);
        let (destination, warnings) = opened.map_err(|error| unopened(&settings.name, error))?;
        warnings.iter().for_each(|warning| ctx.warn(warning.to_string()));
        Ok(destination)
    }

    fn has_kept(&self) -> bool {
        repositories::has_openings(&self.settings)
    }

    fn forget(&self) {
        repositories::forget_openings(&self.settings);
    }
}

/// What opened a repository for one purpose, and when that was read.
#[derive(Debug, Clone)]
struct Opened {
    born: Duration,
    /// It led to something that went wrong: only its keys count.
    is_forgotten: bool,
    destination: Destination,
}

type Slot = Arc<Mutex<Option<Opened>>>;

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
    slots: Mutex<BTreeMap<Meant, Slot>>,
}

/// A repository, which cluster in it, and whether for reading only.
type Meant = (usize, Option<u64>, Option<u32>, bool);

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
        let (ctx, cluster, slots) = (ctx.clone(), cluster.to_owned(), Mutex::default());
        let shared = Arc::new(Shared { ctx, cluster, settings, stores, slots });
        Arc::new(Self { shared, uses })
    }
}

/// How many places in repositories are kept: each cluster has one or two for each repository.
const SLOTS_MAX: usize = 64;

impl Openings for Lasting {
    fn repositories(&self) -> &[RepositoryUse] {
        &self.uses
    }

    fn open(&self, _: &Ctx, at: usize, asked: &Asked) -> Result<Destination, Unopened> {
        let shared = &self.shared;
        let is_reading = asked.purpose != Purpose::Push;
        let meant = (at, asked.system, asked.epoch, is_reading);
        let slot = shared.slot(meant);
        let mut opened = lock(&slot);
        let now = shared.ctx.clock.monotonic();
        if asked.purpose != Purpose::FetchAnew
            && let Some(kept) = opened.as_ref().filter(|kept| !kept.is_forgotten)
            && now.saturating_sub(kept.born) < storage::KEPT_FOR
        {
            let destination = kept.destination.clone();
            // Nobody waits for the next one, as long as somebody asks.
            if now.saturating_sub(kept.born) > storage::KEPT_FOR / 2 {
                let shared = Arc::clone(shared);
                detached(move || shared.renew(meant));
            }
            return Ok(destination);
        }
        let name = shared.settings.get(at).map_or("", |settings| settings.name.as_str());
        let renewed = shared.open(meant, opened.as_ref()).map_err(|error| unopened(name, error))?;
        let destination = renewed.destination.clone();
        *opened = Some(renewed);
        Ok(destination)
    }

    fn has_kept(&self) -> bool {
        true
    }

    fn forget(&self) {
        // Connections stay: they find out by themselves. Keys are needed to open without a secret.
        for slot in lock(&self.shared.slots).values() {
            if let Ok(mut opened) = slot.try_lock()
                && let Some(kept) = opened.as_mut()
            {
                kept.is_forgotten = true;
            }
        }
    }
}

impl Shared {
    fn slot(&self, meant: Meant) -> Slot {
        let mut slots = lock(&self.slots);
        if slots.len() >= SLOTS_MAX && !slots.contains_key(&meant) {
            slots.clear();
        }
        Arc::clone(slots.entry(meant).or_default())
    }

    /// Opens anew what half its time is over of, unless somebody is at it.
    fn renew(&self, meant: Meant) {
        let slot = self.slot(meant);
        let before = match slot.try_lock() {
            Ok(opened) => opened.clone(),
            Err(_) => return,
        };
        let now = self.ctx.clock.monotonic();
        let is_old = |kept: &Opened| now.saturating_sub(kept.born) > storage::KEPT_FOR / 2;
        if !before.as_ref().is_some_and(is_old) {
            return;
        }
        // Without the lock: those who ask meanwhile have the old one as long as it counts.
        if let Ok(renewed) = self.open(meant, before.as_ref()) {
            let mut opened = lock(&slot);
            if opened.as_ref().is_none_or(|kept| kept.born < renewed.born) {
                *opened = Some(renewed);
            }
        }
    }

    /// Reads everything anew; `before` has keys, and a connection to the store where one may be kept.
    fn open(&self, meant: Meant, before: Option<&Opened>) -> Result<Opened, Error> {
        let (at, system, epoch, is_reading) = meant;
        let settings = self.settings.get(at).expect("it is one of these repositories");
        let born = self.ctx.clock.monotonic();
        let store = self.store(at, settings)?;
        let store: Arc<dyn ObjectStore> =
            if is_reading { Arc::new(ReadOnlyStore::new(store)) } else { store };
        let kept = match before {
            Some(before) => {
                let reopened = before.destination.repository.reopened(Arc::clone(&store));
                reopened.map_err(at_repository(&settings.name))?
            }
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
        let is_forgotten = false;
        Ok(Opened {
            born,
            is_forgotten,
            destination: Destination { name, repository, place, registration },
        })
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

fn at_repository(name: &str) -> impl FnOnce(repo::Error) -> Error {
    let name = name.to_owned();
    move |source| Error::of_repository(&name, source)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
