//! The records of an expiry: an announcement, a second look, and the final record, by which it removes.
//!
//! Why that order keeps what is needed stands in `repo/keep.rs`. Where two numbers of records are taken at the same time,
//! which only happens where names are claimed instead of being taken by a condition, whoever looks last gives way.

use std::collections::BTreeSet;

use super::decide::{Decision, decide};
use super::expire::{ExpirePlan, PlacePlan};
use super::policy::Policy;
use super::reason::Reason;
use super::remains;
use crate::base::Ctx;
use crate::repo::{BackupId, Error, KeepHead, KeptUp, Repository, Result};

/// How many numbers of records that others claimed are passed over.
const NUMBERS_TRIED: usize = 64;

/// By whom and by which rules something is decided.
struct Deciding<'a> {
    repository: &'a Repository,
    policy: Policy,
    host: &'a str,
}

/// Puts the records, looks again, and spares what has come into use: then the plan is what may be done.
pub(super) fn record(
    ctx: &Ctx,
    repository: &Repository,
    plan: &mut ExpirePlan,
    host: &str,
    lease: &KeptUp,
) -> Result<()> {
    lease.require(ctx)?;
    let deciding = Deciding { repository, policy: plan.policy.clone(), host };
    let announced = plan.places.iter_mut().map(|place| deciding.announce(ctx, place));
    let mut is_open: Vec<bool> = announced.collect::<Result<_>>()?;
    let mut looked = vec![true; is_open.len()];
    for _ in 0..NUMBERS_TRIED {
        // What is final already stays as it was decided.
        deciding.look_again(ctx, plan, &looked, lease)?;
        let places = plan.places.iter_mut().zip(&mut is_open).filter(|(_, is_open)| **is_open);
        for (place, is_open) in places {
            *is_open = !deciding.conclude(ctx, place)?;
            if *is_open {
                deciding.put_announcement(ctx, place)?;
            }
        }
        if !is_open.contains(&true) {
            return Ok(());
        }
        looked.clone_from(&is_open);
    }
    Err(Error::Decided)
}

impl Deciding<'_> {
    fn head(&self, ctx: &Ctx, place: &PlacePlan, is_final: bool) -> KeepHead {
        KeepHead {
            number: place.gathered.kept.last_number.map_or(0, |number| number + 1),
            time: ctx.clock.now(),
            host: self.host.into(),
            policy: self.policy.to_string(),
            is_final,
        }
    }

    /// Announces what is to go, where the newest record does not; whether a final record is to follow.
    fn announce(&self, ctx: &Ctx, place: &mut PlacePlan) -> Result<bool> {
        if place.is_known(&place.keep(self.head(ctx, place, false))) {
            let newest = place.gathered.kept.newest.as_ref();
            return Ok(newest.is_some_and(|newest| !newest.head.is_final));
        }
        self.put_announcement(ctx, place)?;
        Ok(true)
    }

    /// A number that somebody has claimed who died is passed over.
    fn put_announcement(&self, ctx: &Ctx, place: &mut PlacePlan) -> Result<()> {
        let before = place.gathered.kept.last_number;
        let mut keep = place.keep(self.head(ctx, place, false));
        for _ in 0..NUMBERS_TRIED {
            match self.repository.put_keep(ctx, &place.gathered.place, &keep) {
                Err(Error::Storage(error)) if error.is_already_exists() => {
                    return Err(Error::Decided);
                }
                Err(Error::Claimed { .. }) => {
                    keep.number += 1;
                    keep.head.number = keep.number;
                }
                other => {
                    other?;
                    self.require_alone(place, before, keep.number)?;
                    place.gathered.kept.add(keep);
                    return Ok(());
                }
            }
        }
        Err(Error::Decided)
    }

    /// Puts the final record, immediately behind the announcement; whether that was possible: a number that is claimed is
    /// not passed over, because whoever claimed it may have decided.
    fn conclude(&self, ctx: &Ctx, place: &mut PlacePlan) -> Result<bool> {
        let before = place.gathered.kept.last_number;
        let keep = place.keep(self.head(ctx, place, true));
        match self.repository.put_keep(ctx, &place.gathered.place, &keep) {
            Err(Error::Storage(error)) if error.is_already_exists() => Err(Error::Decided),
            Err(Error::Claimed { .. }) => Ok(false),
            other => {
                other?;
                self.require_alone(place, before, keep.number)?;
                place.gathered.kept.add(keep);
                Ok(true)
            }
        }
    }

    /// That behind the record on which a decision rests there is no other than its own.
    fn require_alone(&self, place: &PlacePlan, before: Option<u64>, own: u64) -> Result<()> {
        let place = &place.gathered.place;
        let after = before.map(|number| place.keep(number));
        let after = after.as_ref().map(|key| key.as_str());
        let listed = self.repository.store().list(&place.keeps_prefix(), after, 2)?;
        match listed.as_slice() {
            [only] if only.key == place.keep(own) => Ok(()),
            _ => Err(Error::Decided),
        }
    }

    /// Looks for what has come into use since the announcement, and takes it out of the plan.
    fn look_again(
        &self,
        ctx: &Ctx,
        plan: &mut ExpirePlan,
        looked: &[bool],
        lease: &KeptUp,
    ) -> Result<()> {
        let is_looked = |(_, is_looked): &(_, &bool)| **is_looked;
        for (place, _) in plan.places.iter_mut().zip(looked).filter(is_looked) {
            let between = || lease.require(ctx);
            let (gathered, remains) = (&place.gathered, &mut place.remains);
            remains::seal_all(ctx, self.repository, gathered, remains, between)?;
            let taken = place.remains.iter().filter(|remains| remains.is_sealed);
            place.gathered.taken = taken.map(|remains| remains.id.clone()).collect();
            place.gathered.refresh(ctx, self.repository)?;
        }
        let now: Vec<_> = plan.places.iter().map(|place| place.gathered.facts.clone()).collect();
        let decisions = decide(&self.policy, ctx.clock.now(), &now);
        for ((place, is_looked), again) in plan.places.iter_mut().zip(looked).zip(decisions) {
            if *is_looked {
                spare(self.repository, place, again)?;
            }
        }
        Ok(())
    }
}

/// Takes out of a plan what a second look keeps, and what the first look did not see.
fn spare(repository: &Repository, place: &mut PlacePlan, again: Decision) -> Result<()> {
    let planned: BTreeSet<BackupId> = place.decision.removed().cloned().collect();
    let removed: BTreeSet<BackupId> = again.removed().cloned().collect();
    let mut decision = again;
    for (id, reasons) in &mut decision.backups {
        if removed.contains(id) && !planned.contains(id) {
            // New since the plan: the next expiry decides.
            reasons.insert(Reason::Window);
        }
    }
    // What was planned with what is kept now taken out of it.
    let kept = decision.kept_wal(place.gathered.segment_size());
    let planned = place.decision.wal_removed.iter();
    decision.wal_removed = planned.flat_map(|stretch| kept.missing(*stretch)).collect();
    let again: BTreeSet<_> = decision.wal_kept.iter().cloned().collect();
    let before = place.decision.wal_kept.iter().filter(|span| !again.contains(span));
    decision.wal_kept.extend(before.cloned());
    place.decision = decision;
    let used = place.gathered.used_attempts(repository)?;
    let running: BTreeSet<&BackupId> =
        place.gathered.facts.running.iter().map(|running| &running.id).collect();
    place.remains.retain(|remains| !used.contains(&remains.id) && !running.contains(&remains.id));
    Ok(())
}
