//! What of a backup must be thawed before it is read, how long that takes, and asking for it.
//!
//! Lists tell classes, and only of an object in a class that may need a thaw the store is asked how far it is. A thaw
//! changes nothing but what can be read; to ask again does no harm, so whoever was interrupted asks again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use super::error::{Error, Result};
use super::gather::list_packs;
use super::policy::CLASS_TAG;
use crate::base::{Ctx, Event, Stage, Timestamp, side_by_side};
use crate::repo::{BackupId, Manifest, Place, Repository};
use crate::storage::{
    Availability, ObjectClass, ObjectKey, ObjectMeta, ObjectStore, StorageClass, Thaw, ThawSpeed,
};

/// A pack that cannot be read now, or only for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColdPack {
    /// Its name.
    pub key: ObjectKey,
    /// Its bytes.
    pub size: u64,
    /// Its class, and how far it is.
    pub state: ObjectClass,
}

impl Serialize for ColdPack {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let state = match self.state.availability {
            Availability::Online => "online",
            Availability::Cold => "cold",
            Availability::Thawing => "thawing",
            Availability::ThawedUntil(_) => "thawed",
        };
        let mut told = serializer.serialize_struct("ColdPack", 4)?;
        told.serialize_field("name", self.key.as_str())?;
        told.serialize_field("bytes", &self.size)?;
        told.serialize_field("class", &self.state.class)?;
        told.serialize_field("state", state)?;
        told.end()
    }
}

/// What of a backup is cold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cold {
    /// Packs that cannot be read now.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// By class, the warmest first.
    pub classes: Vec<ColdClass>,
    /// Packs that are thawed at the moment.
    pub thawed: u64,
    /// The first of those is cold again then.
    pub thawed_until: Option<Timestamp>,
    /// Every pack in a class that needs a thaw, also those that are thawed.
    pub packs: Vec<ColdPack>,
}

/// Packs of one class that cannot be read now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColdClass {
    /// The class.
    pub class: StorageClass,
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// For how many of them a thaw is under way.
    pub thawing: u64,
    /// How they can be thawed, the fastest first.
    pub speeds: Vec<Speed>,
}

/// One way to thaw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Speed {
    /// Which.
    pub speed: ThawSpeed,
    /// Rarely sooner.
    pub least: Duration,
    /// By then, as a rule.
    pub most: Duration,
    /// What it costs, in words: prices are the provider's.
    pub price: &'static str,
}

impl Speed {
    /// The ways that a class has, the fastest first.
    #[must_use]
    pub fn of(class: &StorageClass) -> Vec<Self> {
        let speeds = ThawSpeed::ALL.into_iter().filter_map(|speed| {
            let time = class.thaw_time(speed)?;
            let price = match speed {
                ThawSpeed::Expedited => {
                    "dearest by request and by GiB; refused where there is no capacity"
                }
                ThawSpeed::Standard => "charged by request and by GiB",
                ThawSpeed::Bulk => "the cheapest by request and by GiB",
            };
            Some(Self { speed, least: time.least, most: time.most, price })
        });
        speeds.collect()
    }
}

/// What is known of a pack whose class may need a thaw.
pub type PackState = (ObjectKey, u64, ObjectClass);

/// Adds up what is known of packs.
#[must_use]
pub fn cold_of(states: Vec<PackState>, now: Timestamp) -> Cold {
    let mut cold = Cold::default();
    let mut classes: BTreeMap<StorageClass, ColdClass> = BTreeMap::new();
    for (key, size, state) in states {
        match state.availability {
            Availability::Online => continue,
            Availability::ThawedUntil(until) if state.availability.is_readable(now) => {
                cold.thawed += 1;
                cold.thawed_until = earliest(cold.thawed_until, until);
            }
            _ => {
                let class = classes.entry(state.class.clone()).or_insert_with(|| ColdClass {
                    class: state.class.clone(),
                    objects: 0,
                    bytes: 0,
                    thawing: 0,
                    speeds: Speed::of(&state.class),
                });
                class.objects += 1;
                class.bytes += size;
                class.thawing += u64::from(state.availability == Availability::Thawing);
                cold.objects += 1;
                cold.bytes += size;
            }
        }
        cold.packs.push(ColdPack { key, size, state });
    }
    cold.classes = classes.into_values().collect();
    cold.classes.sort_by_key(|class| class.class.coldness());
    cold
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Finds what is cold of the packs of a backup's chain. A list for each backup of it, and a request for each pack
/// in a class that may need a thaw.
///
/// # Errors
/// As [`Repository::open_backup`].
pub fn find_cold(ctx: &Ctx, repository: &Repository, place: &Place, id: &BackupId) -> Result<Cold> {
    let named = packs_needed(ctx, repository, place, id)?;
    let may_be_cold = named.into_iter().filter(|meta| {
        let class = meta.class.clone().unwrap_or_default();
        class.needs_thaw() || class == StorageClass::IntelligentTiering
    });
    let may_be_cold: Vec<_> = may_be_cold.collect();
    let store = repository.store();
    let states = side_by_side(&may_be_cold, |meta| {
        ctx.cancel.check()?;
        Ok::<_, Error>((meta.key.clone(), meta.size, store.class(&meta.key)?))
    })?;
    Ok(cold_of(states, ctx.clock.now()))
}

/// The packs that a backup and what it stands on name, as they are listed.
fn packs_needed(
    ctx: &Ctx,
    repository: &Repository,
    place: &Place,
    id: &BackupId,
) -> Result<Vec<ObjectMeta>> {
    let opened = repository.open_backup(place, id)?;
    let named = named(place, opened.chain());
    let owners: Vec<&BackupId> = named.keys().collect();
    let listed = side_by_side(&owners, |owner| {
        ctx.cancel.check()?;
        Ok::<_, Error>(list_packs(repository, place, owner)?)
    })?;
    let listed = listed.into_iter().flatten();
    Ok(listed.filter(|meta| named.values().any(|keys| keys.contains(&meta.key))).collect())
}

/// Takes back the tags of packs that have not moved yet: whoever reads them must not meet them cold. How many. Two requests
/// for each. The next tiering tags them again.
///
/// # Errors
/// As the store's.
pub fn take_back_tags(
    ctx: &Ctx,
    repository: &Repository,
    place: &Place,
    id: &BackupId,
) -> Result<u64> {
    let packs = packs_needed(ctx, repository, place, id)?;
    let is_hot = |meta: &&ObjectMeta| !meta.class.clone().unwrap_or_default().needs_thaw();
    let hot: Vec<&ObjectMeta> = packs.iter().filter(is_hot).collect();
    side_by_side(&hot, |meta| {
        ctx.cancel.check()?;
        let none = StorageClass::Standard;
        Ok::<_, Error>(repository.store().tag(&meta.key, CLASS_TAG, none.name())?)
    })?;
    Ok(hot.len() as u64)
}

/// The packs that a chain names, by the backup or attempt that stored them.
fn named<'a>(
    place: &Place,
    chain: impl Iterator<Item = &'a Manifest>,
) -> BTreeMap<BackupId, BTreeSet<ObjectKey>> {
    let mut named: BTreeMap<BackupId, BTreeSet<ObjectKey>> = BTreeMap::new();
    for manifest in chain {
        let own = manifest.objects.iter().map(|object| (&manifest.summary.id, &object.name));
        let reused = manifest.reused.iter().filter_map(|reused| {
            let base = manifest.bases.get(reused.base as usize)?;
            Some((&base.id, &reused.object.name))
        });
        for (owner, name) in own.chain(reused).filter(|(_, name)| name.starts_with("data/")) {
            if let Some(key) = place.of_backup(owner, name) {
                named.entry(owner.clone()).or_default().insert(key);
            }
        }
    }
    named
}

/// How far a thaw is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Packs that can be read.
    pub readable: u64,
    /// Their bytes.
    pub readable_bytes: u64,
    /// Until when all of those can be; nothing where none ends.
    pub until: Option<Timestamp>,
    /// Packs that are being thawed.
    pub thawing: u64,
    /// Packs that are cold, and nobody asked for.
    pub cold: u64,
    /// Packs that are not there any more.
    pub gone: u64,
}

impl Readiness {
    /// Whether everything can be read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.thawing == 0 && self.cold == 0 && self.gone == 0
    }

    /// Adds up sizes and states; a pack without one is gone.
    #[must_use]
    pub fn of(states: &[(u64, Option<Availability>)], now: Timestamp) -> Self {
        let mut found = Self::default();
        for (size, state) in states {
            match state {
                None => found.gone += 1,
                Some(state) if state.is_readable(now) => {
                    found.readable += 1;
                    found.readable_bytes += size;
                    if let Availability::ThawedUntil(until) = state {
                        found.until = earliest(found.until, *until);
                    }
                }
                Some(Availability::Thawing) => found.thawing += 1,
                Some(_) => found.cold += 1,
            }
        }
        found
    }
}

/// That every class knows a thaw of that speed.
///
/// # Errors
/// [`Error::NoSpeed`].
pub fn require_speed(cold: &Cold, speed: ThawSpeed) -> Result<()> {
    for class in cold.classes.iter().filter(|class| class.class.needs_thaw()) {
        if !class.speeds.iter().any(|known| known.speed == speed) {
            let known = class.speeds.iter().map(|known| known.speed).collect();
            return Err(Error::NoSpeed { class: class.class.clone(), speed, known });
        }
    }
    Ok(())
}

/// Asks for everything that is cold, several at a time, and tells how far that is. What is thawed already stays at
/// least as long as is asked for now.
///
/// # Errors
/// [`Error::NoSpeed`] before anything is asked for; as the store's.
pub fn thaw(ctx: &Ctx, store: &dyn ObjectStore, cold: &Cold, thaw: Thaw) -> Result<Readiness> {
    require_speed(cold, thaw.speed)?;
    let (files_total, bytes_total) =
        (cold.packs.len() as u64, cold.packs.iter().map(|pack| pack.size).sum());
    ctx.observer.event(Event::Begin { stage: Stage::Thaw, bytes_total, files_total });
    let states = states(ctx, cold, |pack| {
        // A thawed pack of a class that lacks this speed is not asked for another.
        let state = match pack.state.class.thaw_time(thaw.speed) {
            None if pack.state.class.needs_thaw() => {
                store.class(&pack.key).map(|class| class.availability)
            }
            _ => store.thaw(&pack.key, thaw),
        }?;
        ctx.observer.event(Event::Advance { bytes: pack.size, files: 1 });
        Ok(state)
    })?;
    ctx.observer.event(Event::End { stage: Stage::Thaw });
    Ok(Readiness::of(&states, ctx.clock.now()))
}

/// How far a thaw is.
///
/// # Errors
/// As the store's.
pub fn poll(ctx: &Ctx, store: &dyn ObjectStore, cold: &Cold) -> Result<Readiness> {
    let states = states(ctx, cold, |pack| store.class(&pack.key).map(|class| class.availability))?;
    Ok(Readiness::of(&states, ctx.clock.now()))
}

pub(super) fn states(
    ctx: &Ctx,
    cold: &Cold,
    ask: impl Fn(&ColdPack) -> crate::storage::Result<Availability> + Sync,
) -> Result<Vec<(u64, Option<Availability>)>> {
    side_by_side(&cold.packs, |pack| {
        ctx.cancel.check()?;
        match ask(pack) {
            Ok(state) => Ok((pack.size, Some(state))),
            Err(error) if error.is_not_found() => Ok((pack.size, None)),
            Err(error) => Err(error.into()),
        }
    })
}
