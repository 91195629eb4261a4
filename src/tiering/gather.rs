//! Which packs there are, and in which class each lies: by listing, a request for a thousand. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{Error, Result};
use super::facts::{Going, InUse, Member, PlaceFacts, Running, StoreFacts};
use super::plan::{TierPlan, plan_place};
use super::policy::TierPolicy;
use crate::base::{Ctx, Timestamp, side_by_side};
use crate::repo::{BackupId, Backups, Place, Repository};
use crate::storage::ObjectMeta;

/// One history of a cluster, as whoever decides on retention found it.
#[derive(Debug)]
pub struct Found<'a> {
    /// Where it lies.
    pub place: &'a Place,
    /// Its backups.
    pub backups: &'a Backups,
    /// Those that may still be completed.
    pub running: Vec<Running>,
    /// Those that are read.
    pub in_use: Vec<InUse>,
    /// Fulls that are kept for a month.
    pub monthly: BTreeSet<BackupId>,
    /// Fulls that are kept for a year.
    pub yearly: BTreeSet<BackupId>,
    /// Backups that are on their way out.
    pub going: BTreeMap<BackupId, Going>,
}

/// Plans for a cluster. Changes nothing.
///
/// # Errors
/// [`Error::NoClasses`]; as the store's.
pub fn plan_tiering(
    ctx: &Ctx,
    repository: &Repository,
    policy: &TierPolicy,
    found: Vec<Found<'_>>,
) -> Result<TierPlan> {
    let store = repository.store();
    if !store.has_classes() {
        return Err(Error::NoClasses { location: store.location() });
    }
    let has_locks = store.lock_rule().is_some();
    let store = StoreFacts { has_versions: store.has_versions()?, has_locks };
    let fulls = found.iter().map(|found| newest_full(found.backups)).collect::<Vec<_>>();
    let mut places = Vec::new();
    for (index, found) in found.into_iter().enumerate() {
        let others = fulls.iter().enumerate().filter(|(other, _)| *other != index);
        let newer = others.filter_map(|(_, full)| *full).max();
        let facts = facts(ctx, repository, found, newer)?;
        places.push(plan_place(policy, ctx.clock.now(), store, &facts));
    }
    Ok(TierPlan { policy: policy.clone(), places })
}

fn newest_full(backups: &Backups) -> Option<Timestamp> {
    let fulls = backups.complete.iter().filter(|backup| backup.parent.is_none());
    fulls.map(|full| full.finished).max()
}

fn facts(
    ctx: &Ctx,
    repository: &Repository,
    found: Found<'_>,
    newer_elsewhere: Option<Timestamp>,
) -> Result<PlaceFacts> {
    let Found { place, backups, running, in_use, monthly, yearly, going } = found;
    let members: Vec<Member> = backups.complete.iter().map(Member::of).collect();
    let unreadable = backups.unreadable.iter().filter_map(|(name, _)| name.parse().ok());
    let unreadable: BTreeSet<BackupId> = unreadable.collect();
    let of_members = members.iter().map(|member| &member.id);
    let known = of_members.chain(&backups.unfinished).chain(&backups.abandoned).chain(&unreadable);
    let known: BTreeSet<BackupId> = known.cloned().collect();
    let packs = packs(ctx, repository, place, &members)?;
    Ok(PlaceFacts {
        place: place.clone(),
        backups: members,
        unreadable,
        running,
        known,
        in_use,
        monthly,
        yearly,
        going,
        newer_elsewhere,
        packs,
    })
}

/// The packs of backups, and of dead attempts that they use.
fn packs(
    ctx: &Ctx,
    repository: &Repository,
    place: &Place,
    members: &[Member],
) -> Result<BTreeMap<BackupId, Vec<ObjectMeta>>> {
    let owners: BTreeSet<&BackupId> = members
        .iter()
        .flat_map(|member| std::iter::once(&member.id).chain(&member.attempts))
        .collect();
    let owners: Vec<&BackupId> = owners.into_iter().collect();
    let listed = side_by_side(&owners, |owner| {
        ctx.cancel.check()?;
        Ok::<_, Error>(list_packs(repository, place, owner)?)
    })?;
    Ok(owners.into_iter().cloned().zip(listed).collect())
}

/// The packs that backups or attempts stored, for what it costs to remove them. A list for each.
///
/// # Errors
/// As the store's.
pub fn packs_of(
    ctx: &Ctx,
    repository: &Repository,
    place: &Place,
    owners: &[BackupId],
) -> Result<Vec<ObjectMeta>> {
    let listed = side_by_side(owners, |owner| {
        ctx.cancel.check()?;
        Ok::<_, Error>(list_packs(repository, place, owner)?)
    })?;
    Ok(listed.into_iter().flatten().collect())
}

/// The packs that a backup or attempt stored.
pub(super) fn list_packs(
    repository: &Repository,
    place: &Place,
    owner: &BackupId,
) -> crate::storage::Result<Vec<ObjectMeta>> {
    let [prefix, ..] = place.backup_prefixes(owner);
    let mut listed = crate::storage::list_all(repository.store().as_ref(), &prefix)?;
    // Anything else under this prefix was not put by pgkeep.
    listed.retain(|meta| {
        let number = meta.key.last_component().parse().ok();
        number.is_some_and(|number| place.pack(owner, number) == meta.key)
    });
    Ok(listed)
}
