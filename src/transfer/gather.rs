//! What two repositories hold of one history of a cluster. Reads, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{Error, Result, stored};
use super::sides::{Request, Side};
use crate::base::Ctx;
use crate::pg::{ArchivedWal, SegmentSize};
use crate::repo::{self, BackupId, Backups, Kept, Pin, Place, Registration, Repository};
use crate::storage::list_all;

/// One side's part of it.
#[derive(Debug)]
pub(super) struct Holds {
    pub(super) backups: Backups,
    pub(super) kept: Kept,
    pub(super) wal: ArchivedWal,
    /// Timelines whose histories are archived.
    pub(super) histories: BTreeSet<u32>,
    /// Names of backup history files.
    pub(super) labels: BTreeSet<String>,
    /// Names of partial segments, with the end of their records.
    pub(super) partials: BTreeSet<String>,
    pub(super) pins: BTreeMap<BackupId, Pin>,
    /// What of it cannot be read, in words.
    pub(super) unreadable: Vec<String>,
}

impl Holds {
    fn nothing(size: SegmentSize) -> Self {
        Self {
            backups: Backups::default(),
            kept: Kept::default(),
            wal: ArchivedWal::new(size),
            histories: BTreeSet::new(),
            labels: BTreeSet::new(),
            partials: BTreeSet::new(),
            pins: BTreeMap::new(),
            unreadable: Vec::new(),
        }
    }

    fn read(
        ctx: &Ctx,
        repository: &Repository,
        place: &Place,
        registration: &Registration,
    ) -> repo::Result<Self> {
        let survey = repository.survey_by_list(ctx, place, registration)?;
        let names = |prefix: String| -> repo::Result<BTreeSet<String>> {
            let listed = stored(list_all(repository.store().as_ref(), &prefix))?;
            Ok(listed.iter().map(|meta| meta.key.last_component().to_owned()).collect())
        };
        let histories = names(place.histories_prefix())?;
        let histories = histories.iter().filter_map(|name| u32::from_str_radix(name, 16).ok());
        Ok(Self {
            backups: repository.backups(ctx, place)?,
            kept: survey.kept,
            wal: survey.wal,
            histories: histories.collect(),
            labels: names(place.family_prefix("label"))?,
            partials: names(place.all_partials_prefix())?,
            pins: repository.pins(ctx, place)?,
            unreadable: survey.unreadable,
        })
    }
}

/// One history in both repositories.
#[derive(Debug)]
pub(super) struct Both {
    pub(super) place: Place,
    pub(super) registration: Registration,
    pub(super) is_registered: bool,
    pub(super) size: SegmentSize,
    pub(super) from: Holds,
    pub(super) to: Holds,
}

/// Every history that is asked for.
pub(super) fn gather(ctx: &Ctx, request: &Request<'_>) -> Result<Vec<Both>> {
    let from = &request.from;
    let places = from.at(from.repository.places())?;
    let meant = |place: &Place| {
        place.cluster() == request.cluster
            && request.system.is_none_or(|system| place.system() == system)
            && request.epoch.is_none_or(|epoch| place.epoch() == epoch)
    };
    let mut found = Vec::new();
    for place in places.into_iter().filter(meant) {
        let registration = match from.repository.registration(&place) {
            // There is nothing of it yet.
            Err(repo::Error::EpochAnnounced { .. } | repo::Error::NoCluster { .. }) => continue,
            other => from.at(other)?,
        };
        if !has_named(request, &place)? {
            continue;
        }
        found.push(gather_place(ctx, request, place, registration)?);
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let cluster = request.cluster.to_owned();
    from.at(Err(match request.backups.first() {
        Some(id) => repo::Error::NoBackup { id: id.to_string() },
        None => repo::Error::NoCluster { cluster, system: request.system.unwrap_or_default() },
    }))
}

/// Whether a place has one of the backups that are named, if any are.
fn has_named(request: &Request<'_>, place: &Place) -> Result<bool> {
    for id in &request.backups {
        match request.from.repository.summary(place, id) {
            Err(repo::Error::NoBackup { .. }) => {}
            other => return request.from.at(other).map(|_| true),
        }
    }
    Ok(!request.is_named())
}

fn gather_place(
    ctx: &Ctx,
    request: &Request<'_>,
    place: Place,
    registration: Registration,
) -> Result<Both> {
    let Request { from, to, .. } = request;
    let size = SegmentSize::new(registration.wal_segment_size.into());
    let size = from.at(size.map_err(|error| repo::Error::Limit(error.to_string())))?;
    let registered = registered(to, &place, &registration)?;
    let theirs = match &registered {
        None => Holds::nothing(size),
        Some(theirs) => to.at(Holds::read(ctx, to.repository, &place, theirs))?,
    };
    let own = from.at(Holds::read(ctx, from.repository, &place, &registration))?;
    let is_registered = registered.is_some();
    Ok(Both { place, registration, is_registered, size, from: own, to: theirs })
}

/// The target's registration of a place, which must be of the same cluster.
fn registered(
    to: &Side<'_>,
    place: &Place,
    registration: &Registration,
) -> Result<Option<Registration>> {
    let theirs = match to.repository.registration(place) {
        Err(repo::Error::EpochAnnounced { .. } | repo::Error::NoCluster { .. }) => return Ok(None),
        other => to.at(other)?,
    };
    let (to, cluster) = (to.name.to_owned(), place.cluster().to_owned());
    let is_same = theirs == Registration { created: theirs.created, ..registration.clone() };
    if is_same { Ok(Some(theirs)) } else { Err(Error::OtherCluster { to, cluster }) }
}
