//! What expiry removes, in its order: manifests, WAL, the rest.
//!
//! Only what a final record of expiry names is removed, and only while the lease holds: what is removed after that all the
//! same, by a process that was stopped, nobody has taken back.

use std::collections::{BTreeMap, HashMap};

use super::expire::PlacePlan;
use super::freed::Freed;
use super::remains::{self, Left, Remains};
use crate::base::{Ctx, Timestamp};
use crate::pg::ArchivedWal;
use crate::repo::{BackupId, Error, KEEPS_MAX, KeptUp, Repository, Result};
use crate::storage::{ObjectKey, ObjectMeta, each_page, list_all};

/// How many records of locks stay: they are for the next expiry only.
const LOCKS_MAX: usize = 4;

/// Children before what they stand on: a crash in between leaves no backup without its parent. What one request
/// removes has no order, so there is one for each depth.
pub(super) fn remove_manifests(
    ctx: &Ctx,
    repository: &Repository,
    plan: &PlacePlan,
    lease: &KeptUp,
    freed: &mut Freed,
) -> Result<()> {
    let place = &plan.gathered.place;
    let complete = plan.gathered.backups.complete.iter();
    let parents: HashMap<&BackupId, Option<&BackupId>> =
        complete.map(|backup| (&backup.id, backup.parent.as_ref())).collect();
    let (mut known, mut depths) = (HashMap::new(), BTreeMap::<usize, Vec<ObjectKey>>::new());
    for id in plan.decision.removed() {
        depths.entry(depth(&parents, &mut known, id)).or_default().push(place.manifest(id));
    }
    for keys in depths.values().rev() {
        for batch in keys.chunks(1000) {
            lease.require(ctx)?;
            repository.store().delete_many(batch)?;
            freed.backups += batch.len() as u64;
            freed.objects += batch.len() as u64;
        }
    }
    Ok(())
}

/// How many backups it stands on. Each is asked once.
pub(super) fn depth<'a>(
    parents: &HashMap<&'a BackupId, Option<&'a BackupId>>,
    known: &mut HashMap<&'a BackupId, usize>,
    id: &'a BackupId,
) -> usize {
    let (mut way, mut next) = (vec![id], parents.get(id).copied().flatten());
    // A chain that is a circle is nobody's, and must not be gone round for ever.
    while let Some(parent) = next.filter(|_| way.len() <= parents.len()) {
        if known.contains_key(parent) {
            break;
        }
        way.push(parent);
        next = parents.get(parent).copied().flatten();
    }
    let mut depth = next.and_then(|parent| known.get(parent)).map_or(0, |depth| depth + 1);
    for id in way.into_iter().rev() {
        known.insert(id, depth);
        depth += 1;
    }
    depth - 1
}

/// Removes all that was given up and is there, but for what was stored since: the next expiry decides upon it.
pub(super) fn remove_wal(
    ctx: &Ctx,
    repository: &Repository,
    plan: &PlacePlan,
    lease: &KeptUp,
    freed: &mut Freed,
) -> Result<()> {
    let gathered = &plan.gathered;
    let Some(keep) = &gathered.kept.newest else { return Ok(()) };
    let (place, size) = (&gathered.place, gathered.segment_size());
    let store = repository.store();
    let decided = store.head(&place.keep(keep.number))?.stored;
    let expired = keep.expired_wal(size);
    for stretch in expired.stretches() {
        repository.each_page(ctx, place, size, stretch, |page| {
            lease.require(ctx)?;
            let old = page.iter().map(|(_, meta)| meta);
            let old = old.filter(|meta| is_older(meta.stored, decided));
            freed.segments += freed.remove(store.as_ref(), old)?;
            Ok(())
        })?;
    }
    remove_beside(ctx, repository, plan, (&expired, decided), freed)
}

/// Whether something was stored before that was decided. Stores tell whole seconds.
pub(super) fn is_older(stored: Option<Timestamp>, decided: Option<Timestamp>) -> bool {
    let times = stored.zip(decided);
    times.is_none_or(|(stored, decided)| stored.timestamp() <= decided.timestamp())
}

/// Notes, labels and partial segments of what was given up. Timeline histories stay.
fn remove_beside(
    ctx: &Ctx,
    repository: &Repository,
    plan: &PlacePlan,
    (expired, decided): (&ArchivedWal, Option<Timestamp>),
    freed: &mut Freed,
) -> Result<()> {
    let (place, size) = (&plan.gathered.place, plan.gathered.segment_size());
    let store = repository.store();
    let kept = plan.decision.kept_wal(size);
    let is_old = |stored: Option<Timestamp>| is_older(stored, decided);
    let prefixes =
        [place.notes_prefix(), place.family_prefix("label"), place.all_partials_prefix()];
    for prefix in prefixes {
        each_page(store.as_ref(), &prefix, |page| {
            ctx.cancel.check()?;
            let wal = &plan.gathered.facts.wal;
            let is_gone = |key: &ObjectKey| is_of_given_up(key, expired, &kept, wal);
            let gone = page.iter().filter(|meta| is_gone(&meta.key) && is_old(meta.stored));
            freed.remove(store.as_ref(), gone)?;
            Ok::<_, Error>(())
        })?;
    }
    Ok(())
}

/// Whether an object is of a segment, by its name, that was given up.
pub(super) fn is_of_given_up(
    key: &ObjectKey,
    expired: &ArchivedWal,
    kept: &ArchivedWal,
    wal: &ArchivedWal,
) -> bool {
    let segment = key.last_component().get(..24).unwrap_or_default();
    let parsed = crate::pg::SegmentName::parse(segment.as_bytes()).ok();
    let size = expired.segment_size();
    let number = parsed.and_then(|name| Some((name.timeline(), name.number(size).ok()?)));
    number.is_some_and(|(timeline, number)| {
        // The partial segment of a timeline that was left lies behind its last whole one.
        let is_behind = number.previous().is_some_and(|last| expired.has(timeline, last))
            && !kept.has(timeline, number)
            && !wal.has(timeline, number);
        expired.has(timeline, number) || is_behind
    })
}

pub(super) fn remove_remains(
    ctx: &Ctx,
    repository: &Repository,
    plan: &PlacePlan,
    lease: &KeptUp,
    freed: &mut Freed,
) -> Result<()> {
    let removed = plan.decision.removed().map(|id| Remains {
        id: id.clone(),
        left: Left::Removed,
        is_sealed: false,
        objects: 0,
        bytes: 0,
        locked_until: None,
    });
    let all: Vec<Remains> = removed.chain(plan.remains.iter().cloned()).collect();
    for some in all.chunks(remains::BATCH) {
        let between = || lease.require(ctx);
        remains::sweep(ctx, repository, &plan.gathered, some, between, freed)?;
    }
    remove_old_records(ctx, repository, plan)
}

/// Of the records the newest stay; of the summaries those that readers may still have in their hands. What is locked
/// by the store's rule stays longer: a deletion would only hide it.
fn remove_old_records(ctx: &Ctx, repository: &Repository, plan: &PlacePlan) -> Result<()> {
    let (place, store) = (&plan.gathered.place, repository.store());
    let (now, rule) = (ctx.clock.now(), store.lock_rule());
    let mut keys: Vec<ObjectKey> = Vec::new();
    let mut leave_newest = |listed: &[ObjectMeta], count: usize| {
        let old = listed.get(..listed.len().saturating_sub(count)).unwrap_or_default();
        let free = old.iter().filter(|meta| {
            let until = rule.zip(meta.stored);
            let until = until.and_then(|(rule, at)| rule.until(meta.key.as_str(), at));
            until.is_none_or(|until| until <= now)
        });
        keys.extend(free.map(|meta| meta.key.clone()));
    };
    // An expiry puts two.
    leave_newest(&list_all(store.as_ref(), &place.keeps_prefix())?, 2 * KEEPS_MAX);
    leave_newest(&list_all(store.as_ref(), &place.catalogues_prefix())?, KEEPS_MAX);
    leave_newest(&list_all(store.as_ref(), &place.locks_prefix())?, LOCKS_MAX);
    let ranges = list_all(store.as_ref(), &place.ranges_prefix())?;
    let timeline = |key: &ObjectKey| key.last_component().get(..8).map(str::to_owned);
    for of_one in ranges.chunk_by(|a, b| timeline(&a.key) == timeline(&b.key)) {
        leave_newest(of_one, KEEPS_MAX);
    }
    store.delete_many(&keys).map_err(Error::from)
}
