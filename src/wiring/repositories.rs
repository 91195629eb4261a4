//! Stores, repositories and a cluster's places in them.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::{Error, Result, at};
use crate::archive::Destination;
use crate::base::Ctx;
use crate::config::{self, Location, RepositorySettings, Warning};
use crate::crypt::Unlock;
use crate::pg;
use crate::repo::{self, KeyCache, Place, Registration, Repository, layout};
use crate::storage::{self, KeptStore, Lasting, LocalStore, ObjectStore, ReadOnlyStore, S3Store};

/// What a command may do to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every change is refused.
    ReadOnly,
    /// Objects are added and removed.
    ReadWrite,
    /// As [`Access::ReadWrite`], for one file: what is read to open the repository may be as old as
    /// [`storage::KEPT_FOR`].
    Push,
    /// As [`Access::ReadOnly`], likewise: enough to deliver a file, not to call one absent.
    Fetch,
    /// As [`Access::ReadOnly`]; what is read is kept for others.
    FetchAnew,
}

/// An open repository, and what should be looked at.
#[derive(Debug)]
pub struct Opened {
    /// The repository.
    pub repository: Repository,
    /// What opened it.
    pub unlock: Unlock,
    /// About its secret.
    pub warnings: Vec<Warning>,
}

/// The store of a repository that is there.
///
/// # Errors
/// [`Error::Config`] for credentials that cannot be read, [`Error::Repository`].
pub fn store(
    ctx: &Ctx,
    settings: &RepositorySettings,
    access: Access,
) -> Result<Arc<dyn ObjectStore>> {
    let store: Arc<dyn ObjectStore> = match &settings.url {
        Location::File(folder) => match LocalStore::open(folder) {
            // To an operator, a folder that is not there is a repository that is not there.
            Err(storage::Error::NoStore { .. }) => {
                let location = settings.url.to_string();
                return Err(at(&settings.name)(repo::Error::NoRepository { location }));
            }
            other => Arc::new(other.map_err(at(&settings.name))?),
        },
        Location::S3(_) => Arc::new(bucket(ctx, settings)?),
    };
    let may_be_kept = matches!(access, Access::Push | Access::Fetch | Access::FetchAnew);
    let store: Arc<dyn ObjectStore> = match opening_cache(settings).filter(|_| may_be_kept) {
        None => store,
        Some(path) => {
            let lasting = Lasting { object: layout::is_read_first, list: layout::is_listed_first };
            let now = ctx.clock.now();
            Arc::new(match access {
                Access::FetchAnew => KeptStore::anew(store, path, lasting, now),
                _ => KeptStore::new(store, path, lasting, now),
            })
        }
    };
    Ok(match access {
        Access::ReadWrite | Access::Push => store,
        _ => Arc::new(ReadOnlyStore::new(store)),
    })
}

/// Whether something is kept that opens one of the repositories, young or old.
#[must_use]
pub fn has_openings(repositories: &[RepositorySettings]) -> bool {
    repositories.iter().filter_map(opening_cache).any(|path| path.exists())
}

fn opening_cache(settings: &RepositorySettings) -> Option<PathBuf> {
    settings.s3.as_ref().and_then(config::S3Settings::opening_cache)
}

/// Lets the next archive-push on this host, of this account, read again what opens the repositories.
pub fn forget_openings(repositories: &[RepositorySettings]) {
    repositories.iter().filter_map(opening_cache).for_each(|path| storage::kept::forget(&path));
}

/// The store of a repository that may still have to be made: in a bucket with as many requests at a time
/// as trying it takes, whatever the configuration allows.
///
/// # Errors
/// As [`store`].
pub fn create_store(ctx: &Ctx, settings: &RepositorySettings) -> Result<Arc<dyn ObjectStore>> {
    Ok(match &settings.url {
        Location::File(folder) => Arc::new(LocalStore::create(folder).map_err(at(&settings.name))?),
        Location::S3(_) => Arc::new(bucket_with(ctx, settings, repo::RACERS)?),
    })
}

/// The bucket of a repository that is in one.
///
/// # Errors
/// As [`store`].
///
/// # Panics
/// When it is in a folder.
pub fn bucket(ctx: &Ctx, settings: &RepositorySettings) -> Result<S3Store> {
    bucket_with(ctx, settings, 1)
}

fn bucket_with(ctx: &Ctx, settings: &RepositorySettings, requests_min: usize) -> Result<S3Store> {
    let s3 = settings.s3.as_ref().expect("a url of a bucket comes with its settings");
    let (mut options, warnings) = s3.options()?;
    options.requests_max = options.requests_max.max(requests_min);
    warnings.iter().for_each(|warning| ctx.warn(warning.to_string()));
    S3Store::open(ctx, options).map_err(at(&settings.name))
}

/// Whether a repository is there, without its key.
///
/// # Errors
/// As [`store`], but absence is an answer.
pub fn exists(ctx: &Ctx, settings: &RepositorySettings) -> Result<bool> {
    let store = match store(ctx, settings, Access::ReadOnly) {
        Err(Error::Repository { source: repo::Error::NoRepository { .. }, .. }) => {
            return Ok(false);
        }
        other => other?,
    };
    match store.head(&layout::descriptor()) {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(at(&settings.name)(error)),
    }
}

/// Opens a repository: secret, descriptor, cipher.
///
/// # Errors
/// [`Error::Config`], [`Error::NoKey`], [`Error::Repository`].
pub fn open(ctx: &Ctx, settings: &RepositorySettings, access: Access) -> Result<Opened> {
    let store = store(ctx, settings, access)?;
    open_in(store, settings, None)
}

/// As [`open`]; what a passphrase opens is kept, where the configuration names a folder for it.
pub(super) fn open_in(
    store: Arc<dyn ObjectStore>,
    settings: &RepositorySettings,
    ctx: Option<&Ctx>,
) -> Result<Opened> {
    let unlocked = match settings.secret.unlock() {
        Err(missing @ config::Error::MissingKeyFile { .. }) => {
            return Err(without_key(settings, store, missing));
        }
        other => other?,
    };
    let cache = settings.cache_directory.as_ref().map(KeyCache::new);
    let cache = ctx.zip(cache.as_ref());
    let repository =
        Repository::open_with(store, &unlocked.unlock, cache).map_err(at(&settings.name))?;
    repository.require_cipher(settings.cipher).map_err(at(&settings.name))?;
    Ok(Opened { repository, unlock: unlocked.unlock, warnings: unlocked.warnings })
}

/// The clear secret opens nothing here and tells which slots there are.
fn without_key(
    settings: &RepositorySettings,
    store: Arc<dyn ObjectStore>,
    missing: config::Error,
) -> Error {
    let repository = settings.name.clone();
    match Repository::open(store, &Unlock::Clear) {
        Err(repo::Error::WrongKey { slots, .. }) => {
            Error::NoKey { repository, source: Box::new(missing), slots }
        }
        Err(source @ repo::Error::NoRepository { .. }) => Error::Repository { repository, source },
        _ => missing.into(),
    }
}

/// Finds the cluster in an open repository, by system identifier where it is known, else the only
/// one of that name; of several epochs the one that is named, else the newest.
///
/// # Errors
/// [`Error::UnknownSystem`], [`Error::Repository`].
pub fn find_cluster(
    name: &str,
    repository: &Repository,
    cluster: &str,
    system: Option<u64>,
    epoch: Option<u32>,
) -> Result<(Place, Registration)> {
    let system = match system {
        Some(system) => system,
        None => only_system(name, repository, cluster)?,
    };
    let found = match epoch {
        Some(epoch) => repository.find_epoch(cluster, system, epoch),
        None => repository.find_cluster(cluster, system),
    };
    found.map_err(at(name))
}

fn only_system(name: &str, repository: &Repository, cluster: &str) -> Result<u64> {
    let mut systems: Vec<u64> = repository
        .places()
        .map_err(at(name))?
        .iter()
        .filter(|place| place.cluster() == cluster)
        .map(Place::system)
        .collect();
    systems.sort_unstable();
    systems.dedup();
    match systems.as_slice() {
        [only] => Ok(*only),
        [] => Err(at(name)(repo::Error::NoCluster { cluster: cluster.into(), system: 0 })),
        several => {
            let several: Vec<_> = several.iter().map(ToString::to_string).collect();
            let why = format!("repository {name} keeps {}", several.join(" and "));
            Err(Error::UnknownSystem { cluster: cluster.into(), why })
        }
    }
}

/// One repository as a place of WAL.
///
/// # Errors
/// As [`open`] and [`find_cluster`].
pub fn destination(
    ctx: &Ctx,
    settings: &RepositorySettings,
    cluster: &str,
    system: Option<u64>,
    epoch: Option<u32>,
    access: Access,
) -> Result<(Destination, Vec<Warning>)> {
    let store = store(ctx, settings, access)?;
    let Opened { repository, warnings, .. } = open_in(store, settings, Some(ctx))?;
    let (place, registration) = find_cluster(&settings.name, &repository, cluster, system, epoch)?;
    let name = settings.name.clone();
    Ok((Destination { name, repository, place, registration }, warnings))
}

/// The segment size that a registration records.
///
/// # Errors
/// [`Error::Repository`] for a size that PostgreSQL does not have.
pub fn segment_size(name: &str, registration: &Registration) -> Result<pg::SegmentSize> {
    pg::SegmentSize::new(registration.wal_segment_size.into())
        .map_err(|error| at(name)(repo::Error::Limit(error.to_string())))
}
