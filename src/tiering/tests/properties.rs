//! What holds for every plan.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::facts::{Going, InUse, PlaceFacts, Running, StoreFacts};
use super::super::plan::{PlacePlan, plan_place};
use super::super::policy::TierPolicy;
use super::told::{chains, child, full, noon, policy, store, use_attempt};
use crate::repo::BackupId;
use crate::storage::StorageClass;

fn class() -> impl Strategy<Value = StorageClass> {
    let classes = ["STANDARD", "STANDARD_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE", "SNOW"];
    prop::sample::select(classes.to_vec()).prop_map(StorageClass::parse)
}

fn target() -> impl Strategy<Value = StorageClass> {
    class().prop_filter("nothing moves there", |class| {
        class.coldness().is_some_and(|coldness| coldness > 0)
    })
}

fn rules() -> impl Strategy<Value = TierPolicy> {
    let other = || prop::option::of(target());
    (0..40_u64, target(), other(), other()).prop_map(|(days, class, monthly, yearly)| TierPolicy {
        monthly,
        yearly,
        ..policy(days, class)
    })
}

prop_compose! {
    /// Up to eight chains, four days apart, of up to three backups.
    fn places()(
        lengths in prop::collection::vec(1..4_i64, 0..8),
        classes in prop::collection::vec(class(), 64),
        marks in prop::collection::vec(0..12_u8, 32),
        attempts in prop::collection::vec((0..24_usize, 0..3_i64), 0..4),
    ) -> PlaceFacts {
        let days = |(at, length): (i64, &i64)| (0..*length).map(|n| at * 4 + n).collect::<Vec<_>>();
        let told: Vec<Vec<i64>> = (0..).zip(&lengths).map(days).collect();
        let mut facts = chains(&told.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let ids: Vec<BackupId> = facts.backups.iter().map(|member| member.id.clone()).collect();
        for (id, mark) in ids.iter().zip(&marks) {
            let id = id.clone();
            match mark {
                0 => facts.in_use.push(InUse { id, by: "restore".into() }),
                1 => facts.running.push(Running {
                    id: child(500, 500), parent: Some(id), attempts: Vec::new(),
                }),
                2 => drop(facts.going.insert(id, Going::Unkept)),
                3 => drop(facts.monthly.insert(id)),
                4 => drop(facts.yearly.insert(id)),
                5 => drop(facts.unreadable.insert(id.clone())),
                _ => {}
            }
        }
        for (user, attempt) in attempts {
            let attempt = full(-1 - attempt);
            store(&mut facts, &attempt, noon(-9));
            if let Some(user) = ids.get(user) {
                use_attempt(&mut facts, user, &attempt);
            }
        }
        for (meta, class) in facts.packs.values_mut().flatten().zip(classes) {
            meta.class = Some(class);
        }
        facts
    }
}

fn planned(rules: &TierPolicy, day: i64, facts: &PlaceFacts) -> PlacePlan {
    plan_place(rules, noon(day), StoreFacts::default(), facts)
}

/// What a plan leaves when it is done, to the last pack or up to one of them.
fn done(facts: &PlaceFacts, plan: &PlacePlan, count: usize) -> PlaceFacts {
    let mut facts = facts.clone();
    for each in plan.moves().take(count) {
        let packs = facts.packs.get_mut(&each.owner).unwrap();
        let pack = packs.iter_mut().find(|meta| meta.key == each.meta.key).unwrap();
        pack.class = Some(each.to.clone());
    }
    facts
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn moves_are_of_closed_old_chains_and_only_colder(
        facts in places(), rules in rules(), day in 0..80_i64,
    ) {
        let plan = planned(&rules, day, &facts);
        let newest = facts.backups.iter().filter(|b| b.parent.is_none()).map(|b| b.finished).max();
        let held: BTreeSet<BackupId> = facts.in_use.iter().map(|used| used.id.root())
            .chain(facts.running.iter().filter_map(|r| Some(r.parent.as_ref()?.root())))
            .chain(facts.unreadable.iter().map(BackupId::root)).collect();
        for chain in &plan.chains {
            prop_assert!(chain.stays.is_none() || chain.moves.is_empty());
            if chain.stays.is_none() {
                let age = (noon(day) - chain.finished).num_seconds();
                prop_assert!(age >= i64::try_from(rules.after.as_secs()).unwrap());
                prop_assert!(!held.contains(&chain.root));
                let own = facts.backups.iter().find(|b| b.id == chain.root).unwrap();
                prop_assert!(Some(own.finished) < newest);
            }
            for each in &chain.moves {
                prop_assert!(each.from.coldness() < each.to.coldness());
                prop_assert!(!each.from.needs_thaw() && each.from.coldness().is_some());
                prop_assert!(!facts.going.contains_key(&each.owner));
            }
        }
        let keys: BTreeSet<_> = plan.moves().map(|each| &each.meta.key).collect();
        prop_assert_eq!(keys.len(), plan.moves().count(), "a pack moves twice");
    }

    /// Of a chain that moves, every pack is moved, there, or told of.
    #[test]
    fn no_pack_of_a_moving_chain_is_forgotten(facts in places(), rules in rules(), day in 0..80_i64) {
        let plan = planned(&rules, day, &facts);
        for chain in plan.chains.iter().filter(|chain| chain.stays.is_none()) {
            let own = |id: &&BackupId| !facts.going.contains_key(*id);
            let packs: usize = chain.members.iter().filter(own).map(|id| facts.packs[id].len()).sum();
            let stuck: u64 = chain.stuck.values().map(|tally| tally.packs).sum();
            let told = chain.moves.len() as u64 + chain.there.packs + stuck;
            prop_assert!(told >= packs as u64, "{told} of {packs}");
        }
    }

    /// Whatever a run got done, the next one does the rest, and the one after that nothing.
    #[test]
    fn a_run_that_was_interrupted_is_finished_by_the_next(
        facts in places(), rules in rules(), day in 0..80_i64, count in 0..40_usize,
    ) {
        let plan = planned(&rules, day, &facts);
        let whole = done(&facts, &plan, usize::MAX);
        let partly = done(&facts, &plan, count);
        let next = planned(&rules, day, &partly);
        prop_assert_eq!(next.moves().count(), plan.moves().count().saturating_sub(count));
        prop_assert_eq!(&done(&partly, &next, usize::MAX).packs, &whole.packs);
        prop_assert_eq!(planned(&rules, day, &whole).moves().count(), 0);
    }

    /// Time only adds to what moves, while nothing else changes.
    #[test]
    fn later_no_less_moves(facts in places(), rules in rules(), day in 0..80_i64, more in 0..80_i64) {
        let before = planned(&rules, day, &facts);
        let after = planned(&rules, day + more, &facts);
        let later: BTreeSet<_> = after.moves().map(|each| &each.meta.key).collect();
        prop_assert!(before.moves().all(|each| later.contains(&each.meta.key)));
    }
}
