//! What moves and what stays, one rule at a time.

use super::super::costs::{MinimumStay, OldVersions, early_removal};
use super::super::facts::{Going, InUse, PlaceFacts, Running, StoreFacts};
use super::super::plan::{ChainPlan, PlacePlan, Stays, Stuck, Tally, TierPlan, plan_place};
use super::super::policy::{KeptAs, TierPolicy, Way};
use super::told::{chains, child, full, in_class, noon, policy, store, use_attempt};
use crate::repo::BackupId;
use crate::storage::StorageClass::{
    self, DeepArchive, Glacier, GlacierIr, OnezoneIa, Other, Standard, StandardIa,
};

fn planned(policy: &TierPolicy, day: i64, facts: &PlaceFacts) -> PlacePlan {
    plan_place(policy, noon(day), StoreFacts::default(), facts)
}

fn chain(plan: &PlacePlan, root: i64) -> &ChainPlan {
    plan.chains.iter().find(|chain| chain.root == full(root)).unwrap()
}

/// Why each chain stays, by the plan of that day.
fn stays(day: i64, facts: &PlaceFacts) -> Vec<Option<Stays>> {
    let plan = planned(&policy(10, Glacier), day, facts);
    plan.chains.into_iter().map(|chain| chain.stays).collect()
}

#[test]
fn a_chain_moves_whole_when_its_last_member_is_old_and_never_the_last_one() {
    let facts = chains(&[&[0, 1, 5], &[6]]);
    let until = noon(15);
    assert_eq!(stays(14, &facts), [Some(Stays::Young { until }), Some(Stays::Last)]);
    assert_eq!(stays(15, &facts), [None, Some(Stays::Last)]);
    assert_eq!(stays(1000, &facts), [None, Some(Stays::Last)]);
    let plan = planned(&policy(10, Glacier), 15, &facts);
    let moved = chain(&plan, 0);
    assert_eq!((moved.moves.len(), plan.moves().count()), (6, 6));
    assert!(moved.moves.iter().all(|each| (&each.from, &each.to) == (&Standard, &Glacier)));
    // Ages count from the end, the order of chains too.
    let facts = chains(&[&[0, 40], &[6], &[50]]);
    let roots: Vec<_> =
        planned(&policy(10, Glacier), 16, &facts).chains.into_iter().map(|c| c.root).collect();
    assert_eq!(roots, [full(6), full(0), full(50)]);
}

/// After an upgrade nobody adds to the old history; one that a newer full elsewhere does not follow is not left yet.
#[test]
fn the_last_chain_of_a_history_that_was_left_moves() {
    let mut facts = chains(&[&[0], &[3, 4]]);
    facts.newer_elsewhere = Some(noon(4));
    assert_eq!(stays(1000, &facts), [None, Some(Stays::Last)]);
    facts.newer_elsewhere = Some(noon(5));
    assert_eq!(stays(1000, &facts), [None, None]);
}

#[test]
fn what_somebody_is_at_stays() {
    let old = || chains(&[&[0, 1], &[5]]);
    let running = |id, parent, attempts| Running { id, parent, attempts };
    let mut facts = old();
    facts.running.push(running(child(0, 90), Some(full(0)), Vec::new()));
    assert_eq!(stays(99, &facts)[0], Some(Stays::Running(child(0, 90))));
    // One that nothing is known of but its name.
    let mut facts = old();
    facts.running.push(running(child(0, 90), None, Vec::new()));
    assert_eq!(stays(99, &facts)[0], Some(Stays::Running(child(0, 90))));
    // A full that may use packs of an attempt that the chain uses.
    let mut facts = old();
    use_attempt(&mut facts, &full(0), &full(-1));
    facts.running.push(running(full(90), None, vec![full(-1)]));
    assert_eq!(stays(99, &facts)[0], Some(Stays::Running(full(90))));
    let mut facts = old();
    facts.running.push(running(full(90), None, vec![full(-2)]));
    assert_eq!(stays(99, &facts)[0], None);
    let mut facts = old();
    facts.in_use.push(InUse { id: child(0, 1), by: "restore".into() });
    assert_eq!(stays(99, &facts)[0], Some(Stays::InUse("restore".into())));
}

#[test]
fn what_is_not_whole_or_not_kept_stays() {
    let mut facts = chains(&[&[0, 1], &[5]]);
    facts.unreadable.insert(child(0, 2));
    assert_eq!(stays(99, &facts)[0], Some(Stays::Unreadable(child(0, 2))));
    let mut facts = chains(&[&[0, 1], &[5]]);
    facts.backups.retain(|member| member.id != full(0));
    assert_eq!(stays(99, &facts)[0], Some(Stays::Rootless));
    let mut facts = chains(&[&[0, 1], &[5]]);
    facts.going.insert(child(0, 1), Going::Removed);
    let plan = planned(&policy(10, Glacier), 99, &facts);
    assert_eq!((chain(&plan, 0).moves.len(), &chain(&plan, 0).stays), (2, &None));
    facts.going.insert(full(0), Going::Unkept);
    assert_eq!(stays(99, &facts)[0], Some(Stays::Going));
    // A manifest of no complete full: nothing is closed.
    let mut facts = chains(&[&[0, 1]]);
    facts.unreadable.insert(full(5));
    assert_eq!(stays(99, &facts), [Some(Stays::Last)]);
    assert!(stays(99, &chains(&[])).is_empty());
}

#[test]
fn months_and_years_have_classes_of_their_own() {
    let mut facts = chains(&[&[0], &[1], &[2], &[3], &[9]]);
    facts.monthly.extend([full(1), full(3)]);
    facts.yearly.extend([full(2), full(3)]);
    let classes = |policy: &TierPolicy| -> Vec<StorageClass> {
        let plan = planned(policy, 99, &facts);
        plan.moves().map(|each| each.to.clone()).step_by(2).collect()
    };
    let plain = policy(10, StandardIa);
    assert_eq!(classes(&plain), [StandardIa, StandardIa, StandardIa, StandardIa]);
    let monthly = TierPolicy { monthly: Some(Glacier), ..plain.clone() };
    assert_eq!(classes(&monthly), [StandardIa, Glacier, Glacier, Glacier]);
    let both = TierPolicy { yearly: Some(DeepArchive), ..monthly };
    assert_eq!(classes(&both), [StandardIa, Glacier, DeepArchive, DeepArchive]);
    let plan = planned(&both, 99, &facts);
    let kept: Vec<_> = plan.chains.iter().map(|chain| chain.kept_as).collect();
    use KeptAs::{Monthly, Plain, Yearly};
    assert_eq!(kept, [Plain, Monthly, Yearly, Yearly, Plain]);
}

/// What becomes of packs of a class: how many move, are there, and are stuck for which reason.
fn from(class: &StorageClass, to: StorageClass) -> (usize, u64, Vec<Stuck>) {
    let mut facts = chains(&[&[0], &[5]]);
    in_class(&mut facts, &full(0), class);
    let plan = planned(&policy(10, to), 99, &facts);
    let chain = chain(&plan, 0);
    (chain.moves.len(), chain.there.packs, chain.stuck.keys().cloned().collect())
}

#[test]
fn nothing_gets_warmer_and_nothing_cold_moves() {
    assert_eq!(from(&Standard, StandardIa), (2, 0, vec![]));
    assert_eq!(from(&StandardIa, Glacier), (2, 0, vec![]));
    assert_eq!(from(&Glacier, Glacier), (0, 2, vec![]));
    assert_eq!(from(&Glacier, DeepArchive), (0, 0, vec![Stuck::Cold(Glacier)]));
    assert_eq!(from(&DeepArchive, Glacier), (0, 0, vec![Stuck::Colder(DeepArchive)]));
    assert_eq!(from(&OnezoneIa, StandardIa), (0, 0, vec![Stuck::Colder(OnezoneIa)]));
    let other = Other("SNOW".into());
    assert_eq!(from(&other, Glacier), (0, 0, vec![Stuck::Unknown(other.clone())]));
    // A run that died half-way: the rest moves.
    let mut facts = chains(&[&[0, 1], &[5]]);
    in_class(&mut facts, &full(0), &Glacier);
    let plan = planned(&policy(10, Glacier), 99, &facts);
    assert_eq!((chain(&plan, 0).moves.len(), chain(&plan, 0).there.packs), (2, 2));
}

#[test]
fn packs_of_attempts_move_with_those_who_use_them() {
    let attempt: BackupId = full(-1);
    let mut facts = chains(&[&[0], &[5, 6], &[9]]);
    store(&mut facts, &attempt, noon(-1));
    let unused = full(-2);
    store(&mut facts, &unused, noon(-2));
    use_attempt(&mut facts, &full(0), &attempt);
    let owners = |facts: &PlaceFacts, day| {
        let plan = planned(&policy(10, Glacier), day, facts);
        let owners = plan.moves().map(|each| each.owner.clone()).step_by(2);
        (owners.collect::<Vec<_>>(), chain(&plan, 0).stuck.clone())
    };
    assert_eq!(owners(&facts, 12).0, [full(0), attempt.clone()]);
    // Another chain uses it too, and stays for now.
    use_attempt(&mut facts, &child(5, 6), &attempt);
    let (moved, stuck) = owners(&facts, 12);
    assert_eq!(moved, [full(0)]);
    assert_eq!(stuck[&Stuck::Shared(full(5))], Tally { packs: 2, bytes: 2000 });
    assert_eq!(owners(&facts, 99).0, [full(0), attempt.clone(), full(5), child(5, 6)]);
    // The warmest of the classes.
    facts.monthly.insert(full(0));
    let policy = TierPolicy { monthly: Some(DeepArchive), ..policy(10, GlacierIr) };
    let plan = planned(&policy, 99, &facts);
    let to = |owner: &BackupId| plan.moves().find(|each| each.owner == *owner).unwrap().to.clone();
    assert_eq!((to(&full(0)), to(&attempt)), (DeepArchive, GlacierIr));
}

#[test]
fn the_plan_says_what_it_costs() {
    let mut facts = chains(&[&[0], &[1], &[5]]);
    in_class(&mut facts, &full(0), &StandardIa);
    let store = StoreFacts { has_versions: true, has_locks: true };
    let plan = plan_place(&policy(10, Glacier), noon(11), store, &facts);
    let costs = &plan.costs;
    assert_eq!(costs.requests, 4);
    let stay = MinimumStay { class: Glacier, days: 90, packs: 4, bytes: 4000 };
    assert_eq!(costs.minimum, [stay]);
    assert_eq!(
        (costs.early.len(), costs.early[0].days_max, costs.early[0].byte_days),
        (1, 19, 38_000)
    );
    assert_eq!(costs.old_versions, Some(OldVersions { objects: 4, bytes: 4000, locked: true }));
    let text = TierPlan { policy: policy(10, Glacier), places: vec![plan] }.to_string();
    let expected = "tiering: after 10 d to GLACIER\n7-1:\n  \
        20260101-120000F: 2 packs (2.0 KiB) from STANDARD_IA to GLACIER: closed, complete since 2026-01-01\n  \
        20260102-120000F: 2 packs (2.0 KiB) from STANDARD to GLACIER: closed, complete since 2026-01-02\n  \
        20260106-120000F: stays: last chain: the next backup may stand on it\n  \
        costs 4 copies within the store\n  \
        4 packs (3.9 KiB) in GLACIER are charged for 90 days at least\n  \
        2 objects (2.0 KiB) leave STANDARD_IA early: up to 19 days, 0 GiB days in all, are charged for nothing\n  \
        the bucket keeps versions: 4 old versions (3.9 KiB) stay, and are charged for, until their locks end and \
        they are removed\nmoves: 4 packs (3.9 KiB)";
    assert_eq!(text, expected);
    let plan = planned(&policy(10, Glacier), 5, &facts);
    assert_eq!((plan.costs.requests, plan.costs.old_versions), (0, None));
}

#[test]
fn early_removal_counts_begun_days_whole() {
    let mut facts = chains(&[&[0]]);
    in_class(&mut facts, &full(0), &DeepArchive);
    let packs = facts.packs.get_mut(&full(0)).unwrap();
    packs[1].stored = None;
    let half = noon(0) + chrono::TimeDelta::hours(12);
    let early = early_removal(&*packs, half, Way::Copy);
    assert_eq!((early[0].objects, early[0].days_max), (2, 180));
    assert_eq!(early_removal(&packs[..1], noon(1), Way::Copy)[0].days_max, 179);
    assert!(early_removal(&packs[..1], noon(180), Way::Copy).is_empty());
    assert_eq!(early_removal(&packs[..1], noon(-9), Way::Copy)[0].days_max, 180, "clocks differ");
    let by_rule = early_removal(&packs[..1], noon(100), Way::Tag);
    assert_eq!(by_rule[0].days_max, 180, "since when it is there, nobody tells");
}

#[test]
fn a_plan_can_be_read_by_machines() {
    let facts = chains(&[&[0], &[5]]);
    let places = vec![planned(&policy(10, Glacier), 99, &facts)];
    let plan = TierPlan { policy: policy(10, Glacier), places };
    let json = serde_json::to_value(&plan).unwrap();
    let chain = &json["places"][0]["chains"][0];
    assert_eq!(chain["moves"][0]["to"], "GLACIER");
    assert_eq!(chain["moves"][0]["pack"], "c/main/7-1/data/20260101-120000F/000000");
    assert!(json["places"][0]["chains"][1]["stays"].as_str().unwrap().starts_with("last chain"));
}
