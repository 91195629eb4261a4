//! Expiry: plan, then execute.
//!
//! Order, per place: the announcement of what goes; the names of dead backups, so that nobody completes one late; a
//! second look at what is in use; the final record; manifests, children before what they stand on; WAL from the oldest on;
//! then packs and what belongs to them. Whatever dies in between is gone on with by the next expiry: what was decided is in
//! the record, and what is left of a backup is found by its names.

use std::collections::BTreeSet;

use super::decide::{Decision, decide};
use super::facts::Moving;
use super::freed::Freed;
use super::gather::{Gathered, Looks, gather};
use super::locks::{self, Asked, Extension, Hidden};
use super::policy::Policy;
use super::record::record;
use super::remains::{self, Left, Remains};
use super::removal::{remove_manifests, remove_remains, remove_wal};
use crate::base::{Ctx, Timestamp};
use crate::pg::{ArchivedWal, SegmentNo, Stretch};
use crate::repo::{BackupId, Error, Keep, KeepHead, KeptUp, Repository, Result, Summary};
use crate::storage::{self, LockRule};

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
    /// The same, of which something is locked still: it waits.
    pub waiting: Vec<Remains>,
    /// Backups whose manifests vanished without expiry: nothing of them is touched.
    pub vanished: BTreeSet<BackupId>,
    /// Until when what is there is locked; nothing in a store without locks.
    pub locks: Option<Asked>,
    /// What deletions have only hidden.
    pub hidden: Hidden,
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
    let mut gathered = gather(ctx, repository, cluster, Looks::Listing)?;
    let mut locks = Vec::new();
    for place in &mut gathered {
        let asked = match &place.locks {
            Some(_) => Some(locks::ask(ctx, repository, place)?),
            None => None,
        };
        place.facts.locked =
            asked.as_ref().map(|asked| locks::locked(&asked.known)).unwrap_or_default();
        locks.push(asked);
    }
    let facts: Vec<_> = gathered.iter().map(|place| place.facts.clone()).collect();
    let decisions = decide(policy, ctx.clock.now(), &facts);
    let mut places = Vec::new();
    for ((gathered, decision), locks) in gathered.into_iter().zip(decisions).zip(locks) {
        let (remains, vanished) = remains::find(ctx, repository, &gathered)?;
        let (waiting, remains) = remains.into_iter().partition(|left| left.locked_until.is_some());
        let hidden = Hidden::default();
        let mut place = PlacePlan { gathered, decision, remains, waiting, vanished, locks, hidden };
        place.hidden = locks::find_hidden(ctx, repository, &place)?;
        places.push(place);
    }
    Ok(ExpirePlan { policy: policy.clone(), places })
}

impl ExpirePlan {
    /// How many backups go, of how many that have not been given up before.
    #[must_use]
    pub fn removed_of(&self) -> (usize, usize) {
        // What only waits for its lock is decided about now.
        let removed =
            |place: &PlacePlan| place.gathered.facts.backups.len() - place.decision.ruled().len();
        let all = self.places.iter().map(|place| place.gathered.facts.backups.len()).sum();
        (self.places.iter().map(removed).sum(), all)
    }

    /// How many segments go, of how many.
    #[must_use]
    pub fn removed_wal_of(&self) -> (u64, u64) {
        let removed = self.places.iter().flat_map(PlacePlan::unneeded_wal);
        let archived = self.places.iter().flat_map(|place| place.gathered.facts.wal.stretches());
        (removed.map(|gone| gone.count()).sum(), archived.map(|stretch| stretch.count()).sum())
    }

    /// What would be locked for longer in each place.
    #[must_use]
    pub fn extensions(
        &self,
        rule: Option<LockRule>,
        now: Timestamp,
        keeps_all: bool,
    ) -> Vec<Extension> {
        let each = self.places.iter();
        each.filter_map(|place| locks::extension(place, rule.as_ref()?, now, keeps_all)).collect()
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

    /// Archived WAL that goes, and what an expiry that died has left of it.
    #[must_use]
    pub fn removed_wal(&self) -> Vec<Stretch> {
        let mut removed = self.gathered.left.clone();
        self.decision.wal_removed.iter().for_each(|stretch| removed.add_stretch(*stretch));
        removed.stretches().collect()
    }

    /// Archived WAL that goes, or only waits for its lock.
    fn unneeded_wal(&self) -> Vec<Stretch> {
        let needed = self.decision.needed_wal(&self.decision.ruled(), self.gathered.segment_size());
        self.gathered.facts.wal.stretches().flat_map(|stretch| needed.missing(stretch)).collect()
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

    /// The record of all that.
    pub(super) fn keep(&self, head: KeepHead) -> Keep {
        let left = |left: Left| {
            let remains = self.remains.iter().filter(move |remains| remains.left == left);
            remains.map(|remains| remains.id.clone())
        };
        // What is hidden is found by this record.
        let hidden = |of: fn(&Keep) -> &BTreeSet<BackupId>| {
            let last = self.gathered.kept.newest.as_ref().map(of);
            let hidden = self.hidden.ids.iter().cloned();
            hidden.filter(move |id| last.is_some_and(|last| last.contains(id)))
        };
        let removed = self.decision.removed().cloned().chain(left(Left::Removed));
        let swept = left(Left::Died).chain(left(Left::Orphaned));
        let mut keep = Keep {
            number: head.number,
            head,
            stored: None,
            removed: removed.chain(hidden(|keep| &keep.removed)).collect(),
            swept: swept.chain(hidden(|keep| &keep.swept)).collect(),
            vanished: self.vanished.clone(),
            expired: Vec::new(),
        };
        keep.set_expired(&self.expired());
        keep
    }

    /// Whether a record says what the last one says.
    pub(super) fn is_known(&self, keep: &Keep) -> bool {
        let Some(last) = &self.gathered.kept.newest else {
            return keep.removed.is_empty()
                && keep.swept.is_empty()
                && keep.vanished.is_empty()
                && keep.expired.is_empty();
        };
        // One whose removal was only announced, and that stays after all.
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
        for stretch in place.removed_wal() {
            repository.each_page(ctx, &gathered.place, size, stretch, |page| {
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
    for place in &plan.places {
        remove_hidden(ctx, repository, place, lease, &mut freed)?;
    }
    extend(ctx, repository, plan, lease, false, &mut freed)?;
    Ok(freed)
}

/// Locks all that is there for longer, where no rules say what is kept.
///
/// # Errors
/// As the store's; [`Error::LeaseLost`].
pub fn extend_locks(
    ctx: &Ctx,
    repository: &Repository,
    plan: &ExpirePlan,
    lease: &KeptUp,
) -> Result<Freed> {
    let mut freed = Freed::default();
    extend(ctx, repository, plan, lease, true, &mut freed)?;
    Ok(freed)
}

fn extend(
    ctx: &Ctx,
    repository: &Repository,
    plan: &ExpirePlan,
    lease: &KeptUp,
    keeps_all: bool,
    freed: &mut Freed,
) -> Result<()> {
    let Some(rule) = repository.store().lock_rule() else { return Ok(()) };
    for place in &plan.places {
        if let Some(extension) = locks::extension(place, &rule, ctx.clock.now(), keeps_all) {
            freed.locked += locks::extend(ctx, repository, place, &extension, lease)?;
        }
    }
    Ok(())
}

/// What stays hidden is paid for, and no more than that: who may not remove it for good is told.
fn remove_hidden(
    ctx: &Ctx,
    repository: &Repository,
    place: &PlacePlan,
    lease: &KeptUp,
    freed: &mut Freed,
) -> Result<()> {
    match locks::remove_hidden(ctx, repository, place, lease, freed) {
        Err(Error::Storage(error @ storage::Error::Forbidden { .. })) => {
            ctx.warn(format!("what was removed stays as hidden versions: {error}"));
            Ok(())
        }
        other => other,
    }
}
