//! Expiry: plan, then execute.
//!
//! Order, per place: the record of what was decided; a second look at what is in use; manifests, children before what
//! they stand on; WAL from the oldest on; then packs and what belongs to them. Whatever dies in between is gone on with
//! by the next expiry: what was decided is in the record, and what is left of a backup is found by its names.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::decide::{Decision, decide};
use super::facts::Moving;
use super::freed::Freed;
use super::gather::{Gathered, Looks, gather};
use super::policy::Policy;
use super::remains::{self, Left, Remains};
use crate::base::{Ctx, Timestamp};
use crate::pg::{ArchivedWal, SegmentNo, Stretch};
use crate::repo::{
    BackupId, Error, KEEPS_MAX, Keep, KeepHead, KeptUp, Place, Repository, Result, Summary,
};
use crate::storage::{ObjectKey, list_all};

/// How many numbers of records that others claimed are passed over.
const NUMBERS_TRIED: usize = 64;

/// What would be done with a cluster in a repository.
#[derive(Debug)]
pub struct ExpirePlan {
    /// The rules.
    pub policy: Policy,
    /// Each of its histories.
    pub places: Vec<PlacePlan>,
}

/// What would be done with one history.
#[derive(Debug)]
pub struct PlacePlan {
    /// What was found.
    pub gathered: Gathered,
    /// What stays and what goes.
    pub decision: Decision,
    /// What is left of backups that are not there.
    pub remains: Vec<Remains>,
    /// Backups whose manifests vanished without expiry: nothing of them is touched.
    pub vanished: BTreeSet<BackupId>,
}

/// Plans expiry of a cluster. Changes nothing.
///
/// # Errors
/// As the store's.
pub fn plan_expiry(
    ctx: &Ctx,
    repository: &Repository,
    cluster: &str,
    policy: &Policy,
) -> Result<ExpirePlan> {
    // Whoever removes goes by what is there, not by what summaries say.
    let gathered = gather(ctx, repository, cluster, Looks::Listing)?;
    let facts: Vec<_> = gathered.iter().map(|place| place.facts.clone()).collect();
    let decisions = decide(policy, ctx.clock.now(), &facts);
    let mut places = Vec::new();
    for (gathered, decision) in gathered.into_iter().zip(decisions) {
        let (remains, vanished) = remains::find(ctx, repository, &gathered)?;
        places.push(PlacePlan { gathered, decision, remains, vanished });
    }
    Ok(ExpirePlan { policy: policy.clone(), places })
}

impl ExpirePlan {
    /// How many backups go, of how many.
    #[must_use]
    pub fn removed_of(&self) -> (usize, usize) {
        let removed = self.places.iter().map(|place| place.decision.removed().count()).sum();
        (removed, self.places.iter().map(|place| place.decision.backups.len()).sum())
    }

    /// How many segments go, of how many.
    #[must_use]
    pub fn removed_wal_of(&self) -> (u64, u64) {
        let removed = self.places.iter().flat_map(|place| &place.decision.wal_removed);
        let archived = self.places.iter().flat_map(|place| place.gathered.facts.wal.stretches());
        (removed.map(Stretch::count).sum(), archived.map(|stretch| stretch.count()).sum())
    }

    /// Whether the rules are others than those of the last expiry, or there was none.
    #[must_use]
    pub fn is_policy_new(&self) -> bool {
        let rules = self.policy.to_string();
        let newest = self.places.iter().filter_map(|place| place.gathered.kept.newest.as_ref());
        newest.max_by_key(|keep| keep.head.time).is_none_or(|keep| keep.head.policy != rules)
    }
}

impl ExpirePlan {
    /// Decides again, now that it is known what another repository has.
    pub fn set_moving(&mut self, now: Timestamp, mut moving: impl FnMut(&PlacePlan) -> Moving) {
        for place in &mut self.places {
            place.gathered.facts.moving = moving(place);
        }
        let facts: Vec<_> = self.places.iter().map(|place| place.gathered.facts.clone()).collect();
        for (place, decision) in self.places.iter_mut().zip(decide(&self.policy, now, &facts)) {
            place.decision = decision;
        }
    }
}

impl PlacePlan {
    /// The summary of a backup.
    #[must_use]
    pub fn summary(&self, id: &BackupId) -> Option<&Summary> {
        self.gathered.backups.complete.iter().find(|backup| backup.id == *id)
    }

    /// What is given up of the WAL: all that nothing keeps, there or not, up to the newest segment of each timeline.
    fn expired(&self) -> ArchivedWal {
        let wal = &self.gathered.facts.wal;
        let size = wal.segment_size();
        let kept = self.decision.kept_wal(size);
        let mut expired = wal.given_up();
        let known = expired.timelines().into_iter().chain(wal.timelines());
        for timeline in known.collect::<BTreeSet<_>>() {
            let Some(last) = wal.last(timeline) else { continue };
            let all = Stretch { timeline, first: SegmentNo(0), last };
            kept.missing(all).into_iter().for_each(|gone| expired.add_stretch(gone));
        }
        // What came back and stays is not given up any more.
        let mut goes = ArchivedWal::new(size);
        for stretch in self.gathered.returned.stretches() {
            kept.missing(stretch).into_iter().for_each(|gone| goes.add_stretch(gone));
        }
        let mut stays = self.gathered.returned.clone();
        stays.give_up(&goes);
        expired.give_up(&stays);
        expired
    }

    /// The record of all that, as the `number`th.
    fn keep(&self, ctx: &Ctx, number: u64, policy: &Policy, host: &str) -> Keep {
        let head = KeepHead {
            number,
            time: ctx.clock.now(),
            host: host.into(),
            policy: policy.to_string(),
        };
        let left = |left: Left| {
            let remains = self.remains.iter().filter(move |remains| remains.left == left);
            remains.map(|remains| remains.id.clone())
        };
        let mut keep = Keep {
            number,
            head,
            removed: self.decision.removed().cloned().chain(left(Left::Removed)).collect(),
            swept: left(Left::Died).chain(left(Left::Orphaned)).collect(),
            vanished: self.vanished.clone(),
            expired: Vec::new(),
        };
        keep.set_expired(&self.expired());
        keep
    }

    /// Whether a record says what the last one says.
    fn is_known(&self, keep: &Keep) -> bool {
        let Some(last) = &self.gathered.kept.newest else {
            return keep.removed.is_empty()
                && keep.swept.is_empty()
                && keep.vanished.is_empty()
                && keep.expired.is_empty();
        };
        // One that was to go and stays after all, or its children could not stand on it.
        let is_spared = |id: &BackupId| !keep.removed.contains(id) && self.summary(id).is_some();
        last.head.policy == keep.head.policy
            && !last.removed.iter().any(is_spared)
            && keep.removed.is_subset(&last.removed)
            && keep.swept.is_subset(&last.swept)
            // What came back goes by a record that is newer than it.
            && self.decision.wal_removed.is_empty()
            && last.vanished == keep.vanished
            && last.expired == keep.expired
            && self.gathered.kept.unreadable.is_empty()
    }
}

/// What a plan would free. Lists the WAL that goes, a thousand segments at a time.
///
/// # Errors
/// As the store's.
pub fn estimate(ctx: &Ctx, repository: &Repository, plan: &ExpirePlan) -> Result<Freed> {
    let mut freed = Freed::default();
    for place in &plan.places {
        for id in place.decision.removed() {
            let Some(summary) = place.summary(id) else { continue };
            freed.backups += 1;
            freed.objects += summary.counts.objects + 2;
            freed.bytes += summary.totals.stored;
        }
        for remains in &place.remains {
            freed.objects += remains.objects;
            freed.bytes += remains.bytes;
        }
        let (gathered, size) = (&place.gathered, place.gathered.segment_size());
        for stretch in &place.decision.wal_removed {
            repository.each_page(ctx, &gathered.place, size, *stretch, |page| {
                freed.segments += page.len() as u64;
                freed.objects += page.len() as u64;
                freed.bytes += page.iter().map(|(_, meta)| meta.size).sum::<u64>();
                Ok(())
            })?;
        }
    }
    Ok(freed)
}

/// Carries a plan out.
///
/// # Errors
/// As the store's; [`Error::LeaseLost`]; [`Error::Decided`] where somebody else decided meanwhile.
pub fn execute_expiry(
    ctx: &Ctx,
    repository: &Repository,
    plan: &mut ExpirePlan,
    host: &str,
    lease: &KeptUp,
) -> Result<Freed> {
    let mut freed = Freed::default();
    record(ctx, repository, plan, host, lease)?;
    if let Some(place) = plan.places.first() {
        repository.sweep_leases(ctx, place.gathered.place.cluster())?;
    }
    for place in &plan.places {
        remove_manifests(ctx, repository, place, lease, &mut freed)?;
    }
    for place in &plan.places {
        remove_wal(ctx, repository, place, lease, &mut freed)?;
    }
    for place in &plan.places {
        remove_remains(ctx, repository, place, lease, &mut freed)?;
    }
    Ok(freed)
}

/// Puts the records, looks again, and spares what has come into use: then the plan is what may be done.
fn record(
    ctx: &Ctx,
    repository: &Repository,
    plan: &mut ExpirePlan,
    host: &str,
    lease: &KeptUp,
) -> Result<()> {
    lease.require(ctx)?;
    let policy = plan.policy.clone();
    let mut recorded = Vec::new();
    for place in &plan.places {
        let number = place.gathered.kept.last_number.map_or(0, |number| number + 1);
        let mut keep = place.keep(ctx, number, &policy, host);
        let is_new = !place.is_known(&keep);
        if is_new {
            put(ctx, repository, &place.gathered.place, &mut keep)?;
        }
        recorded.push((keep, is_new));
    }
    for place in &mut plan.places {
        place.gathered.refresh(ctx, repository)?;
    }
    let now: Vec<_> = plan.places.iter().map(|place| place.gathered.facts.clone()).collect();
    let decisions = decide(&policy, ctx.clock.now(), &now);
    for (place, again) in plan.places.iter_mut().zip(decisions) {
        spare(repository, place, again)?;
    }
    for (place, (mut keep, is_new)) in plan.places.iter_mut().zip(recorded) {
        let mut spared = place.keep(ctx, keep.number + u64::from(is_new), &policy, host);
        let is_same = keep.removed == spared.removed
            && keep.swept == spared.swept
            && keep.expired == spared.expired;
        if !is_same {
            put(ctx, repository, &place.gathered.place, &mut spared)?;
            keep = spared;
        }
        if is_new || !is_same {
            let kept = &mut place.gathered.kept;
            kept.last_number = Some(keep.number);
            kept.numbers.push(keep.number);
            kept.unreadable.clear();
            kept.newest = Some(keep);
        }
    }
    Ok(())
}

/// On a store without conditional puts a number may be claimed by one that died: the next is as good.
fn put(ctx: &Ctx, repository: &Repository, place: &Place, keep: &mut Keep) -> Result<()> {
    for _ in 0..NUMBERS_TRIED {
        match repository.put_keep(ctx, place, keep) {
            Err(Error::Storage(error)) if error.is_already_exists() => return Err(Error::Decided),
            Err(Error::Claimed { .. }) => {
                keep.number += 1;
                keep.head.number = keep.number;
            }
            other => return other,
        }
    }
    Err(Error::Decided)
}

/// That nobody has decided since: a process may have been paused for longer than its lease.
fn require_newest(repository: &Repository, place: &Place, keep: &Keep) -> Result<()> {
    let own = place.keep(keep.number);
    let newer = repository.store().list(&place.keeps_prefix(), Some(own.as_str()), 1)?;
    if newer.is_empty() { Ok(()) } else { Err(Error::Decided) }
}

/// Takes out of a plan what a second look keeps, and what the first look did not see.
fn spare(repository: &Repository, place: &mut PlacePlan, again: Decision) -> Result<()> {
    let planned: BTreeSet<BackupId> = place.decision.removed().cloned().collect();
    let removed: BTreeSet<BackupId> = again.removed().cloned().collect();
    let mut decision = again;
    for (id, reasons) in &mut decision.backups {
        if removed.contains(id) && !planned.contains(id) {
            // New since the plan: the next expiry decides.
            reasons.insert(super::Reason::Window);
        }
    }
    // What was planned with what is kept now taken out of it.
    let kept = decision.kept_wal(place.gathered.segment_size());
    let planned = place.decision.wal_removed.iter();
    decision.wal_removed = planned.flat_map(|stretch| kept.missing(*stretch)).collect();
    decision.wal_kept.extend(place.decision.wal_kept.iter().cloned());
    place.decision = decision;
    let used = place.gathered.used_attempts(repository)?;
    let running: BTreeSet<&BackupId> =
        place.gathered.facts.running.iter().map(|running| &running.id).collect();
    place.remains.retain(|remains| !used.contains(&remains.id) && !running.contains(&remains.id));
    Ok(())
}

/// Children before what they stand on: a crash in between leaves no backup without its parent. What one request
/// removes has no order, so there is one for each depth.
fn remove_manifests(
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
            if let Some(keep) = &plan.gathered.kept.newest {
                require_newest(repository, place, keep)?;
            }
            repository.store().delete_many(batch)?;
            freed.backups += batch.len() as u64;
            freed.objects += batch.len() as u64;
        }
    }
    Ok(())
}

/// How many backups it stands on. Each is asked once.
fn depth<'a>(
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

/// Removes all that was given up and is there, but what was stored since: it is decided upon by the next expiry.
fn remove_wal(
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
fn is_older(stored: Option<Timestamp>, decided: Option<Timestamp>) -> bool {
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
        let mut after: Option<String> = None;
        loop {
            ctx.cancel.check()?;
            let page = store.list(&prefix, after.as_deref(), 1000)?;
            let is_gone = |key: &ObjectKey| {
                let segment = key.last_component().get(..24).unwrap_or_default();
                let parsed = crate::pg::SegmentName::parse(segment.as_bytes()).ok();
                let number =
                    parsed.and_then(|name| Some((name.timeline(), name.number(size).ok()?)));
                number.is_some_and(|(timeline, number)| {
                    // The partial segment of a timeline that was left lies behind its last whole one.
                    let is_behind =
                        number.previous().is_some_and(|last| expired.has(timeline, last))
                            && !kept.has(timeline, number)
                            && !plan.gathered.facts.wal.has(timeline, number);
                    expired.has(timeline, number) || is_behind
                })
            };
            let gone = page.iter().filter(|meta| is_gone(&meta.key) && is_old(meta.stored));
            freed.remove(store.as_ref(), gone)?;
            match page.last() {
                Some(last) if page.len() == 1000 => after = Some(last.key.to_string()),
                _ => break,
            }
        }
    }
    Ok(())
}

fn remove_remains(
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
    });
    for remains in removed.chain(plan.remains.iter().cloned()) {
        let between = || lease.require(ctx);
        remains::sweep(ctx, repository, &plan.gathered, &remains, between, freed)?;
    }
    remove_old_records(repository, plan)
}

/// Of the records the newest stay; of the summaries those that readers may still have in their hands.
fn remove_old_records(repository: &Repository, plan: &PlacePlan) -> Result<()> {
    let (place, store) = (&plan.gathered.place, repository.store());
    let numbers = &plan.gathered.kept.numbers;
    let old = numbers.get(..numbers.len().saturating_sub(KEEPS_MAX)).unwrap_or_default();
    let keys: Vec<ObjectKey> = old.iter().map(|number| place.keep(*number)).collect();
    store.delete_many(&keys)?;
    let catalogues = list_all(store.as_ref(), &place.catalogues_prefix())?;
    let old = catalogues.get(..catalogues.len().saturating_sub(KEEPS_MAX)).unwrap_or_default();
    let mut keys: Vec<ObjectKey> = old.iter().map(|meta| meta.key.clone()).collect();
    let ranges = list_all(store.as_ref(), &place.ranges_prefix())?;
    let timeline = |key: &ObjectKey| key.last_component().get(..8).map(str::to_owned);
    for of_one in ranges.chunk_by(|a, b| timeline(&a.key) == timeline(&b.key)) {
        let old = of_one.get(..of_one.len().saturating_sub(KEEPS_MAX)).unwrap_or_default();
        keys.extend(old.iter().map(|meta| meta.key.clone()));
    }
    store.delete_many(&keys).map_err(Error::from)
}
