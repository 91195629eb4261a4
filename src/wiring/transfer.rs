//! What a target's rules would keep of what a source has, as a copy takes it: the rooms are strangers.

use std::collections::{BTreeSet, HashMap};

use crate::base::Ctx;
use crate::repo::{self, Place, Repository};
use crate::retention::{Gathered, Looks, PlaceFacts, Policy, decide, gather};
use crate::transfer::Kept;

/// What the rules of `to` would keep of all that both have: what they would remove at once need not be copied.
///
/// # Errors
/// As the stores'.
pub fn target_rules(
    ctx: &Ctx,
    (from, to): (&Repository, &Repository),
    cluster: &str,
    policy: &Policy,
) -> repo::Result<HashMap<Place, Kept>> {
    let own = gather(ctx, from, cluster, Looks::Listing)?;
    let theirs = gather(ctx, to, cluster, Looks::Summaries)?;
    let is_new = |place: &&Gathered| !own.iter().any(|own| own.place == place.place);
    let only_there = theirs.iter().filter(is_new).map(|place| place.facts.clone());
    let both = own.iter().map(|place| {
        let there = theirs.iter().find(|there| there.place == place.place);
        merged(&place.facts, there.map(|there| &there.facts))
    });
    let facts: Vec<PlaceFacts> = both.chain(only_there).collect();
    let decisions = decide(policy, ctx.clock.now(), &facts);
    let kept = own.iter().zip(decisions).map(|(place, decision)| {
        let wal = decision.kept_wal(place.segment_size());
        let kept = decision.backups.into_iter().filter(|(_, reasons)| !reasons.is_empty());
        let backups: BTreeSet<_> = kept.map(|(id, _)| id).collect();
        (place.place.clone(), Kept { backups, wal })
    });
    Ok(kept.collect())
}

/// What both have together. Who is at work in the source keeps nothing in the target.
fn merged(own: &PlaceFacts, there: Option<&PlaceFacts>) -> PlaceFacts {
    let mut facts = own.clone();
    facts.running.clear();
    facts.in_use.clear();
    facts.unreadable.clear();
    let Some(there) = there else { return facts };
    let is_new =
        |backup: &&crate::retention::Candidate| !own.backups.iter().any(|own| own.id == backup.id);
    facts.backups.extend(there.backups.iter().filter(is_new).cloned());
    facts.wal.add_listed(&there.wal);
    facts.pins.extend(there.pins.iter().map(|(id, pin)| (id.clone(), pin.clone())));
    facts
}
