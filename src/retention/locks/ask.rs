//! Until when things are locked: by what was written down, else by asking for each object.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;

use super::spans::Spans;
use crate::base::{Ctx, Timestamp, side_by_side};
use crate::pg::{SegmentNo, Stretch};
use crate::repo::{
    BackupId, Error, KnownBackup, KnownLocks, LockSpan, Place, Repository, Result, layout,
};
use crate::retention::facts::Locked;
use crate::retention::gather::Gathered;
use crate::storage::{self, ObjectKey, ObjectMeta, ObjectStore};

/// Where the objects of a backup lie.
const FAMILIES: [&str; 7] = ["begin", "backup", "files", "data", "meta", "hash", "pin"];

/// Where those lie that belong to no backup and no segment, and are locked for the full time.
const REST: [&str; 4] = ["history", "label", "keep", "sum/found"];

/// Backups whose objects are looked at together.
const TOGETHER: usize = 32;

/// The store's clock, and this one.
const APART: TimeDelta = TimeDelta::minutes(10);

/// What is known of a place's locks after everything was asked that was not known.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Backups and WAL.
    pub known: KnownLocks,
    /// Every other object that is locked for the full time, and until when.
    pub rest: Vec<(ObjectKey, Timestamp)>,
    /// Those that were stored before are among them.
    pub rest_before: Timestamp,
}

/// What cannot be removed before its lock ends.
pub(in crate::retention) fn locked(known: &KnownLocks) -> Locked {
    let backups = known.backups.iter().map(|(id, known)| (id.clone(), known.span.most));
    let wal = known.wal.iter().map(|(stretch, span)| (*stretch, span.most));
    Locked { backups: backups.collect(), wal: wal.collect() }
}

/// Asks for all that is not known. Changes nothing.
///
/// # Errors
/// As the store's.
pub(in crate::retention) fn ask(
    ctx: &Ctx,
    repository: &Repository,
    gathered: &Gathered,
) -> Result<Asked> {
    let known = gathered.locks.clone().unwrap_or_default();
    let backups = ask_backups(ctx, repository, gathered, &known)?;
    let spans = Spans(known.wal.clone()).within(&gathered.facts.wal);
    let mut found = Vec::new();
    for stretch in spans.unknown(&gathered.facts.wal) {
        ask_wal(ctx, repository, gathered, stretch, &mut found)?;
    }
    let wal = spans.with(found).0;
    let rest_before = ctx.clock.now() - APART;
    let rest = ask_rest(ctx, repository, &gathered.place, &known)?;
    Ok(Asked { known: KnownLocks { backups, wal, rest: known.rest }, rest, rest_before })
}

fn ask_backups(
    ctx: &Ctx,
    repository: &Repository,
    gathered: &Gathered,
    known: &KnownLocks,
) -> Result<BTreeMap<BackupId, KnownBackup>> {
    let complete = gathered.backups.complete.iter().map(|backup| backup.id.clone());
    let ids: BTreeSet<BackupId> = complete.chain(gathered.used_attempts(repository)?).collect();
    let counted = count(ctx, repository, &gathered.place)?;
    let (mut backups, mut unknown) = (BTreeMap::new(), Vec::new());
    for id in ids {
        let objects = counted.get(&id).copied().unwrap_or_default();
        match known.backups.get(&id).filter(|known| known.objects == objects) {
            Some(known) => drop(backups.insert(id, *known)),
            None => unknown.push(id),
        }
    }
    for some in unknown.chunks(TOGETHER) {
        let spans = each_object(ctx, repository, &gathered.place, some, |_, key| {
            lock_of(repository.store().as_ref(), key)
        })?;
        for (id, span) in some.iter().zip(spans) {
            let objects = counted.get(id).copied().unwrap_or_default();
            if let Some(span) = span {
                backups.insert(id.clone(), KnownBackup { objects, span });
            }
        }
    }
    Ok(backups)
}

/// The lock of one object; nothing where it is gone meanwhile.
fn lock_of(store: &dyn ObjectStore, key: &ObjectKey) -> Result<Option<LockSpan>> {
    match store.locked_until(key) {
        Ok(until) => Ok(Some(LockSpan::of(until))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// How many objects there are of each id.
fn count(ctx: &Ctx, repository: &Repository, place: &Place) -> Result<BTreeMap<BackupId, u64>> {
    let parts = side_by_side(&FAMILIES, |family| {
        let prefix = place.family_prefix(family);
        let mut counted = BTreeMap::<BackupId, u64>::new();
        storage::each_page(repository.store().as_ref(), &prefix, |page| {
            ctx.cancel.check()?;
            for meta in &page {
                let inner = meta.key.as_str().strip_prefix(&prefix).unwrap_or_default();
                let id = inner.split(['/', '.']).next().unwrap_or_default();
                if let Ok(id) = id.parse() {
                    *counted.entry(id).or_default() += 1;
                }
            }
            Ok::<_, Error>(())
        })?;
        Ok::<_, Error>(counted)
    })?;
    let mut counted = BTreeMap::new();
    for (id, objects) in parts.into_iter().flatten() {
        *counted.entry(id).or_default() += objects;
    }
    Ok(counted)
}

/// Every object of one id, and a few names that may have none.
fn names_of(repository: &Repository, place: &Place, id: &BackupId) -> Result<Vec<ObjectKey>> {
    let mut names = vec![place.begin(id), place.manifest(id), place.files(id)];
    let pins = format!("{}{id}.", place.pins_prefix());
    for prefix in place.backup_prefixes(id).iter().chain([&pins]) {
        let listed = storage::list_all(repository.store().as_ref(), prefix)?;
        names.extend(listed.into_iter().map(|meta| meta.key));
    }
    Ok(names)
}

/// Does something with each object of some ids, side by side, and puts what comes of it together for each id.
pub(super) fn each_object(
    ctx: &Ctx,
    repository: &Repository,
    place: &Place,
    ids: &[BackupId],
    work: impl Fn(usize, &ObjectKey) -> Result<Option<LockSpan>> + Sync,
) -> Result<Vec<Option<LockSpan>>> {
    let names = side_by_side(ids, |id| {
        ctx.cancel.check()?;
        names_of(repository, place, id)
    })?;
    let each = names.into_iter().enumerate();
    let all: Vec<(usize, ObjectKey)> =
        each.flat_map(|(index, keys)| keys.into_iter().map(move |key| (index, key))).collect();
    let done = side_by_side(&all, |(index, key)| {
        ctx.cancel.check()?;
        work(*index, key)
    })?;
    let mut spans: Vec<Option<LockSpan>> = vec![None; ids.len()];
    for ((index, _), span) in all.iter().zip(done) {
        if let (Some(sum), Some(span)) = (spans.get_mut(*index), span) {
            *sum = Some(sum.map_or(span, |sum| sum.and(span)));
        }
    }
    Ok(spans)
}

fn ask_wal(
    ctx: &Ctx,
    repository: &Repository,
    gathered: &Gathered,
    stretch: Stretch,
    found: &mut Vec<(Stretch, LockSpan)>,
) -> Result<()> {
    let (place, size) = (&gathered.place, gathered.segment_size());
    repository.each_page(ctx, place, size, stretch, |page: Vec<(SegmentNo, ObjectMeta)>| {
        let spans = side_by_side(&page, |(_, meta)| {
            ctx.cancel.check()?;
            lock_of(repository.store().as_ref(), &meta.key)
        })?;
        for ((number, _), span) in page.iter().zip(spans) {
            let one = Stretch { first: *number, last: *number, ..stretch };
            found.extend(span.map(|span| (one, span)));
        }
        Ok(())
    })
}

fn ask_rest(
    ctx: &Ctx,
    repository: &Repository,
    place: &Place,
    known: &KnownLocks,
) -> Result<Vec<(ObjectKey, Timestamp)>> {
    let store = repository.store();
    let prefixes = REST.map(|family| match family {
        // The mark beside the notes has a name of its own.
        "sum/found" => format!("{}{family}", place.prefix()),
        _ => place.family_prefix(family),
    });
    let single = [layout::descriptor(), place.registration(), place.announcement()];
    let single = single.map(|key| key.to_string());
    let prefixes: Vec<String> =
        prefixes.into_iter().chain(single).chain([layout::SLOT_PREFIX.to_owned()]).collect();
    let listed = side_by_side(&prefixes, |prefix| {
        ctx.cancel.check()?;
        Ok::<_, Error>(storage::list_all(store.as_ref(), prefix)?)
    })?;
    let listed: Vec<ObjectMeta> = listed.into_iter().flatten().collect();
    let asked = side_by_side(&listed, |meta| {
        ctx.cancel.check()?;
        let old = known.rest.filter(|rest| meta.stored.is_some_and(|at| at < rest.before));
        match old {
            Some(rest) if layout::is_read_first(meta.key.as_str()) => Ok(Some(rest.first)),
            Some(rest) => Ok(Some(rest.least)),
            None => Ok::<_, Error>(lock_of(store.as_ref(), &meta.key)?.map(|span| span.least)),
        }
    })?;
    let there = listed.into_iter().zip(asked);
    Ok(there.filter_map(|(meta, until)| Some((meta.key, until?))).collect())
}
