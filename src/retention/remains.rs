//! What is left of backups that are not there: removed ones, and attempts that died.
//!
//! A removed backup loses its manifest first. Of the rest, the file table goes late, so that nobody takes it for an
//! attempt whose packs may be used, and the begin record last, because by it the rest is found again. Of an attempt the
//! seal on its name tells, so that its begin record goes first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::freed::Freed;
use super::gather::{Dead, Gathered, began_by_name};
use crate::base::{Ctx, Timestamp, side_by_side};
use crate::repo::{BackupId, Error, Place, Repository, Result};
use crate::storage::{ObjectKey, ObjectMeta, ObjectStore, each_page};

/// Nothing younger is swept: somebody may be at it.
const YOUNG: Duration = Duration::from_hours(24);

/// How long what has a file table and no manifest stays, and is told of.
const TOLD_FOR: Duration = Duration::from_hours(30 * 24);

/// How long whoever has claimed a name may take to put its object.
const CLAIMED_FOR: Duration = Duration::from_hours(7 * 24);

/// How long the seal on an attempt stays, so that its writer, however long it was paused, finds its name taken.
const SEALED_FOR: Duration = Duration::from_hours(366 * 24);

/// In this order they are removed: an attempt's pack counts while its meta object is there.
const FAMILIES: [&str; 4] = ["meta", "hash", "data", "files"];

/// How many objects are removed at once, and how many ids are swept side by side.
pub(super) const BATCH: usize = 1000;

/// Why something is swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Left {
    /// Of a backup that was removed.
    Removed,
    /// Of an attempt that died.
    Died,
    /// Of nothing that is known: a late writer's.
    Orphaned,
}

/// What is swept of one id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remains {
    /// The id.
    pub id: BackupId,
    /// Why.
    pub left: Left,
    /// Whether its manifest's name is taken already.
    #[serde(skip)]
    pub is_sealed: bool,
    /// How many objects, as they were listed.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Until when some of it is locked, by the store's rule; where that is ahead, it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
}

/// What the store holds of ids that have no complete manifest.
type Counted = BTreeMap<BackupId, Of>;

/// Objects, bytes, and until when they are locked.
type Of = (u64, u64, Option<Timestamp>);

/// Finds what may be swept. Lists every object of every backup, a thousand at a time.
///
/// # Errors
/// As the store's.
pub(super) fn find(
    ctx: &Ctx,
    repository: &Repository,
    gathered: &Gathered,
) -> Result<(Vec<Remains>, BTreeSet<BackupId>)> {
    let complete: BTreeSet<&BackupId> =
        gathered.backups.complete.iter().map(|backup| &backup.id).collect();
    let mut counted = Counted::new();
    let mut has_table = BTreeSet::new();
    let parts = side_by_side(&FAMILIES, |family| {
        let mut counted = Counted::new();
        count(ctx, repository, gathered, family, &complete, &mut counted)?;
        Ok::<_, Error>((*family, counted))
    })?;
    for (family, part) in parts {
        if family == "files" {
            has_table.extend(part.keys().cloned());
        }
        for (id, (objects, bytes, locked)) in part {
            let sum: &mut Of = counted.entry(id).or_default();
            *sum = (sum.0 + objects, sum.1 + bytes, sum.2.max(locked));
        }
    }
    let vanished = repository.vanished(ctx, &gathered.place, &gathered.backups)?;
    let now = ctx.clock.now();
    // What was told once is told until nothing of it is left: catalogues forget.
    let told = gathered.kept.newest.iter().flat_map(|keep| keep.vanished.iter().cloned());
    let dead: BTreeMap<&BackupId, &Dead> =
        gathered.dead.iter().map(|dead| (&dead.id, dead)).collect();
    let unfinished: BTreeSet<&BackupId> = gathered.backups.unfinished.iter().collect();
    let running = gathered.facts.running.iter().map(|running| &running.id);
    let running: BTreeSet<&BackupId> = running.collect();
    let sealed = |id: &BackupId| dead.get(id).is_some_and(|dead| dead.is_sealed);
    // One with a file table was complete but for its manifest, or about to be: it gets a month to be told of.
    let tabled = has_table.into_iter().filter(|id| {
        let is_late = began_by_name(id).is_some_and(|began| began + YOUNG < now);
        let is_recent = began_by_name(id).is_some_and(|began| began + TOLD_FOR > now);
        // Of a copy the source has all.
        let is_copied = dead.get(id).is_some_and(|dead| dead.is_copied) || running.contains(id);
        is_late && is_recent && unfinished.contains(id) && !is_copied
    });
    let vanished: BTreeSet<BackupId> = vanished
        .into_iter()
        .chain(told)
        .chain(tabled)
        .filter(|id| {
            let is_there = complete.contains(id) || sealed(id) || gathered.kept.is_removing(id);
            !is_there && counted.contains_key(id)
        })
        .collect();
    let vanished = still_gone(repository, gathered, vanished)?;
    let used = gathered.used_attempts(repository)?;
    let unreadable = gathered.backups.unreadable.iter();
    let unreadable: BTreeSet<&str> = unreadable.map(|(name, _)| name.as_str()).collect();
    let mut ids: BTreeSet<&BackupId> = counted.keys().collect();
    ids.extend(dead.keys());
    // Of a removed backup nothing may be left but its begin record.
    let keep = gathered.kept.newest.as_ref();
    let is_removed = |id: &&BackupId| keep.is_some_and(|keep| keep.removed.contains(*id));
    ids.extend(gathered.backups.unfinished.iter().filter(is_removed));
    let mut remains = Vec::new();
    for id in ids {
        let (objects, bytes, locked) = counted.get(id).copied().unwrap_or_default();
        if running.contains(id)
            || used.contains(id)
            || vanished.contains(id)
            || unreadable.contains(id.as_str())
        {
            continue;
        }
        let attempt = dead.get(id);
        let is_sealed = attempt.is_some_and(|attempt| attempt.is_sealed);
        let began = attempt.and_then(|attempt| attempt.began).or_else(|| began_by_name(id));
        // What was begun is ended: what is left of it is hidden, and removed for good when its lock has ended.
        let is_begun = is_sealed || gathered.kept.is_removing(id);
        let locked_until = locked.filter(|until| *until > now && !is_begun);
        let left = if keep.is_some_and(|keep| keep.removed.contains(id)) {
            Left::Removed
        } else if attempt.is_some() {
            let is_copied = attempt.is_some_and(|attempt| attempt.is_copied);
            if !gathered.is_swept(id, (began, is_copied), now) {
                continue;
            }
            Left::Died
        } else if began.is_some_and(|began| began + YOUNG <= now) {
            Left::Orphaned
        } else {
            continue;
        };
        // Of a sealed attempt nothing may be left but the seal, which is looked at below.
        if objects > 0 || !is_sealed || is_seal_old(began, now) {
            let id = id.clone();
            remains.push(Remains { id, left, is_sealed, objects, bytes, locked_until });
        }
    }
    Ok((remains, vanished))
}

/// Those of which there is no manifest now: one may have been put since they were listed.
fn still_gone(
    repository: &Repository,
    gathered: &Gathered,
    vanished: BTreeSet<BackupId>,
) -> Result<BTreeSet<BackupId>> {
    let mut gone = BTreeSet::new();
    for id in vanished {
        match repository.store().head(&gathered.place.manifest(&id)) {
            Err(error) if error.is_not_found() => drop(gone.insert(id)),
            other => drop(other?),
        }
    }
    Ok(gone)
}

fn is_seal_old(began: Option<Timestamp>, now: Timestamp) -> bool {
    began.is_none_or(|began| began + SEALED_FOR < now)
}

fn count(
    ctx: &Ctx,
    repository: &Repository,
    gathered: &Gathered,
    family: &str,
    complete: &BTreeSet<&BackupId>,
    counted: &mut Counted,
) -> Result<()> {
    let (prefix, rule) = (gathered.place.family_prefix(family), repository.store().lock_rule());
    each_page(repository.store().as_ref(), &prefix, |page| {
        ctx.cancel.check()?;
        for meta in &page {
            let inner = meta.key.as_str().strip_prefix(&prefix).unwrap_or_default();
            let id = inner.split('/').next().unwrap_or_default();
            // Anything else under these names was not put by pgkeep.
            let Ok(id) = id.parse::<BackupId>() else { continue };
            if !complete.contains(&id) {
                let (objects, bytes, locked) = counted.entry(id).or_default();
                *objects += 1;
                *bytes += meta.size;
                let until = rule.zip(meta.stored);
                let until = until.and_then(|(rule, at)| rule.until(meta.key.as_str(), at));
                *locked = until.max(*locked);
            }
        }
        Ok(())
    })
}

/// Takes the names of attempts that will be swept, before anything goes that they would need if they were completed.
/// Those that are left are taken when they are swept.
///
/// # Errors
/// As the store's.
pub(super) fn seal_all(
    ctx: &Ctx,
    repository: &Repository,
    gathered: &Gathered,
    remains: &mut [Remains],
    mut between: impl FnMut() -> Result<()>,
) -> Result<()> {
    let is_open = |remains: &&mut Remains| remains.left == Left::Died && !remains.is_sealed;
    for each in remains.iter_mut().filter(is_open) {
        // A seal that is as old as that goes with what it is on.
        if !is_seal_old(began_by_name(&each.id), ctx.clock.now()) {
            between()?;
            each.is_sealed = seal(ctx, repository, gathered, &each.id)?;
        }
    }
    Ok(())
}

/// Sweeps some ids side by side, and counts that: for each of them in its order, and what lies beside each other in a
/// folder at once. A request for each id would have all file tables, and all pins, listed anew for each. A manifest's name
/// is taken first where a late commit is possible; nothing is swept where it cannot be.
///
/// # Errors
/// As the store's.
pub(super) fn sweep(
    ctx: &Ctx,
    repository: &Repository,
    gathered: &Gathered,
    remains: &[Remains],
    mut between: impl FnMut() -> Result<()>,
    freed: &mut Freed,
) -> Result<()> {
    let (place, store) = (&gathered.place, repository.store().as_ref());
    let mut swept = Vec::with_capacity(remains.len());
    for each in remains {
        let is_safe = each.left == Left::Removed || each.is_sealed;
        if is_safe || seal(ctx, repository, gathered, &each.id)? {
            swept.push(each);
        }
    }
    let begins = |of: &dyn Fn(&Remains) -> bool| -> Vec<ObjectKey> {
        let some = swept.iter().filter(|each| of(each));
        some.map(|each| place.begin(&each.id)).collect()
    };
    // The seal tells of them, and no backup uses an attempt without its record.
    store.delete_many(&begins(&|each| each.left != Left::Removed))?;
    for family in FAMILIES {
        let mut batch = Vec::new();
        for each in &swept {
            each_page_of(store, place, family, &each.id, |page| {
                batch.extend(page);
                if batch.len() < BATCH {
                    return Ok(());
                }
                between()?;
                freed.remove(store, std::mem::take(&mut batch).iter()).map(drop)
            })?;
        }
        between()?;
        freed.remove(store, batch.iter())?;
    }
    store.delete_many(&pins_of(store, place, &swept)?)?;
    between()?;
    store.delete_many(&begins(&|_| true))?;
    let now = ctx.clock.now();
    let is_old = |each: &&&Remains| each.is_sealed && is_seal_old(began_by_name(&each.id), now);
    let old = swept.iter().filter(is_old).map(|each| place.manifest(&each.id));
    store.delete_many(&old.collect::<Vec<_>>())?;
    Ok(())
}

/// What a family holds of an id. Of file tables there is one, in a folder with all others.
fn each_page_of(
    store: &dyn ObjectStore,
    place: &Place,
    family: &str,
    id: &BackupId,
    mut work: impl FnMut(Vec<ObjectMeta>) -> Result<()>,
) -> Result<()> {
    if family != "files" {
        return each_page(store, &format!("{}{id}/", place.family_prefix(family)), work);
    }
    match store.head(&place.files(id)) {
        Ok(table) => work(vec![table]),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// All that was said of whether they are pinned.
fn pins_of(store: &dyn ObjectStore, place: &Place, swept: &[&Remains]) -> Result<Vec<ObjectKey>> {
    let ids: BTreeSet<&str> = swept.iter().map(|each| each.id.as_str()).collect();
    let mut pins = Vec::new();
    each_page(store, &place.pins_prefix(), |page| {
        let keys = page.into_iter().map(|meta| meta.key);
        pins.extend(keys.filter(|key| {
            let id = key.last_component().split_once('.').map(|(id, _)| id);
            id.is_some_and(|id| ids.contains(id))
        }));
        Ok::<_, Error>(())
    })?;
    Ok(pins)
}

/// Takes the name of a manifest that will not be put any more; whether nobody gets it now.
fn seal(ctx: &Ctx, repository: &Repository, gathered: &Gathered, id: &BackupId) -> Result<bool> {
    let name = gathered.place.manifest(id);
    let long_ago = ctx.clock.now() - CLAIMED_FOR;
    let claims = repository.claims(&name)?;
    if !claims.is_empty() {
        // One died between claim and object: whoever comes now sees the claim and is refused, and who has claimed it
        // before is given time. Another try would be one more claim.
        let is_old = claims.iter().all(|claim| claim.stored.is_some_and(|at| at < long_ago));
        if !is_old {
            ctx.note(format!("{id} is not swept yet: its name is claimed"));
        }
        return Ok(is_old);
    }
    match repository.abandon(ctx, &gathered.place, id, "it was interrupted, and is swept") {
        Ok(()) => Ok(true),
        // Completed after all, or sealed by a backup that uses it: whoever looks next decides.
        Err(Error::Storage(error)) if error.is_already_exists() => {
            ctx.note(format!("{id} is not swept: its name was taken meanwhile"));
            Ok(false)
        }
        Err(Error::Claimed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
