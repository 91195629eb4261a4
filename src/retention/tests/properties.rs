//! What holds for every history: nothing that is needed goes, and nothing goes twice.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;
use proptest::prelude::*;

use super::case::without;
use super::world::{Event, Truth, World, events};
use crate::base::Timestamp;
use crate::pg::{ArchivedWal, History, Lsn, SegmentNo, SegmentSize, Stretch, TimelineId};
use crate::repo::BackupId;
use crate::retention::{Candidate, Decision, PlaceFacts, Policy, decide};

fn policies() -> impl Strategy<Value = Policy> {
    let zone = prop_oneof![
        Just(chrono_tz::Tz::UTC),
        Just(chrono_tz::Europe::Berlin),
        Just(chrono_tz::Pacific::Auckland)
    ];
    let window = prop_oneof![3 => 0..2_000_000_u64, 1 => Just(0), 1 => Just(u64::MAX)];
    let counts = (0..4_u32, 0..3_u32, 0..3_u32, 0..2_u32, 0..3_u32, 0..3_u32);
    (counts, window, zone).prop_map(
        |((daily, weekly, monthly, yearly, last, min_full), s, zone)| {
            let window = Duration::from_secs(s);
            Policy { daily, weekly, monthly, yearly, last, min_full, window, zone }
        },
    )
}

/// Backups that stay, and WAL that stays of what is archived.
fn left(facts: &PlaceFacts, decision: &Decision) -> (Vec<Candidate>, ArchivedWal) {
    let removed: BTreeSet<&BackupId> = decision.removed().collect();
    let kept = facts.backups.iter().filter(|backup| !removed.contains(&backup.id));
    let mut gone = ArchivedWal::new(facts.wal.segment_size());
    decision.wal_removed.iter().for_each(|stretch| gone.add_stretch(*stretch));
    (kept.cloned().collect(), without(&facts.wal, &gone))
}

/// What must stay restorable: what was, in the window, unless a backup that ended behind it claims to be older.
/// Of a timeline without known moments, what lies behind a backup on it that is older may go.
fn must_stay(truth: &Truth, decision: &Decision, now: Timestamp) -> BTreeSet<(TimelineId, u64)> {
    let facts = &truth.facts;
    let before = truth.restorable(&facts.backups, &facts.wal);
    let size = facts.wal.segment_size();
    let older: Vec<&Candidate> =
        facts.backups.iter().filter(|b| b.finished <= decision.window_from.min(now)).collect();
    let in_window = before.into_iter().filter(|(timeline, number)| {
        let is_young = truth.written[&(*timeline, *number)] >= decision.window_from;
        let Some(history) = facts.wal.history(*timeline) else { return false };
        let is_told = facts
            .ends
            .iter()
            .all(|end| end.newest.is_some() || end.history.timeline() != *timeline);
        let begin = SegmentNo(*number).begin(size).unwrap_or(Lsn(u64::MAX));
        let is_older = |b: &&Candidate| {
            let is_behind = b.is_on(&history) && b.stop >= begin;
            let is_untold = !is_told && b.timeline_stop == *timeline;
            // Also where it ended on a way that left this one behind.
            let later = facts.wal.history(b.timeline_stop);
            let left = later.and_then(|way: History| way.switch_point(*timeline));
            is_behind || is_untold || left.is_some_and(|left| left >= begin)
        };
        is_young && !older.iter().any(is_older)
    });
    in_window.collect()
}

fn subset(small: &[Stretch], large: &ArchivedWal) -> bool {
    small.iter().all(|stretch| large.missing(*stretch).is_empty())
}

fn check(world: &World, policy: &Policy) -> Result<(), TestCaseError> {
    let places = world.facts();
    let decisions = decide(policy, world.now, &places);
    prop_assert_eq!(decisions.len(), places.len());
    for ((truth, facts), decision) in world.places.iter().zip(&places).zip(&decisions) {
        let (kept, wal) = left(facts, decision);
        prop_assert_eq!(decision.backups.len(), facts.backups.len());
        let ids: BTreeSet<&BackupId> = kept.iter().map(|backup| &backup.id).collect();
        let had: BTreeSet<&BackupId> = facts.backups.iter().map(|backup| &backup.id).collect();
        for backup in &kept {
            if let Some(parent) = backup.parent.as_ref().filter(|parent| had.contains(parent)) {
                prop_assert!(ids.contains(parent), "{} loses its parent", backup.id);
            }
            let own: Vec<Stretch> = facts.wal_of(backup);
            for stretch in &decision.wal_removed {
                let hit = own.iter().any(|o| {
                    o.timeline == stretch.timeline
                        && o.first <= stretch.last
                        && stretch.first <= o.last
                });
                prop_assert!(!hit, "{} loses its WAL", backup.id);
            }
        }
        let pinned = facts.pins.iter().filter(|(_, pin)| pin.until.is_none_or(|u| u > world.now));
        let used = facts.in_use.iter().map(|used| &used.id);
        let running = facts.running.iter().filter_map(|running| running.parent.as_ref());
        for id in pinned.map(|(id, _)| id).chain(used).chain(running) {
            prop_assert!(!had.contains(id) || ids.contains(id), "{} is wished for", id);
        }
        let after = truth.restorable(&kept, &wal);
        let lost: Vec<_> = must_stay(truth, decision, world.now)
            .into_iter()
            .filter(|moment| !after.contains(moment))
            .collect();
        prop_assert!(lost.is_empty(), "lost: {:?}\n{:?}\n{:#?}", lost, decision, facts);
    }
    last_good_full(world.now, &places, &decisions)
}

fn last_good_full(
    now: Timestamp,
    places: &[PlaceFacts],
    decisions: &[Decision],
) -> Result<(), TestCaseError> {
    let fulls = places.iter().zip(decisions).flat_map(|(facts, decision)| {
        let good = facts.backups.iter().filter(|b| {
            let is_believed = b.finished <= now + TimeDelta::hours(1);
            b.parent.is_none() && b.is_sound && is_believed && facts.has_wal_of(b)
        });
        good.map(move |full| (full, decision))
    });
    if let Some((full, decision)) = fulls.max_by_key(|(full, _)| (full.finished, &full.id)) {
        prop_assert!(decision.reasons(&full.id).is_some_and(|reasons| !reasons.is_empty()));
    }
    Ok(())
}

/// What is found after everything was carried out.
fn carried_out(world: &World, decisions: &[Decision]) -> Vec<PlaceFacts> {
    let each = world.places.iter().zip(decisions).map(|(truth, decision)| {
        let (backups, wal) = left(&truth.facts, decision);
        PlaceFacts { backups, ..truth.found(wal) }
    });
    each.collect()
}

/// Without what keeps something for good, and rightly so.
fn passing(events: Vec<Event>) -> Vec<Event> {
    let each = events.into_iter().filter_map(|event| match event {
        Event::Clock(hours) => Some(Event::Clock(hours.min(0))),
        Event::Promoted { hours_ago, own_hours, is_server, .. } => {
            Some(Event::Promoted { hours_ago, own_hours, is_server, is_told: true })
        }
        Event::Pin { .. } | Event::Running { .. } | Event::Use { .. } => None,
        Event::Unreadable { .. } => None,
        other => Some(other),
    });
    each.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_needed_stays(events in events(), policy in policies()) {
        check(&World::of(&events), &policy)?;
    }

    #[test]
    fn a_second_time_removes_nothing(events in events(), policy in policies()) {
        let world = World::of(&events);
        let decisions = decide(&policy, world.now, &world.facts());
        for decision in decide(&policy, world.now, &carried_out(&world, &decisions)) {
            prop_assert_eq!(decision.removed().next(), None);
            prop_assert_eq!(&decision.wal_removed, &[]);
        }
    }

    #[test]
    fn more_is_kept_by_larger_numbers(
        events in events(),
        policy in policies(),
        more in (0..3_u32, 0..3_u32, 0..3_u32, 0..3_u32, 0..3_u32, 0..3_u32, 0..2_000_000_u64),
    ) {
        let (daily, weekly, monthly, yearly, last, min_full, window) = more;
        let larger = Policy {
            daily: policy.daily + daily,
            weekly: policy.weekly + weekly,
            monthly: policy.monthly + monthly,
            yearly: policy.yearly + yearly,
            last: policy.last + last,
            min_full: policy.min_full + min_full,
            window: policy.window.saturating_add(Duration::from_secs(window)),
            zone: policy.zone,
        };
        let world = World::of(&events);
        let places = world.facts();
        let small = decide(&policy, world.now, &places);
        let large = decide(&larger, world.now, &places);
        for ((facts, small), large) in places.iter().zip(&small).zip(&large) {
            let ((kept, wal), (more, more_wal)) = (left(facts, small), left(facts, large));
            let more: BTreeSet<_> = more.iter().map(|backup| &backup.id).collect();
            for backup in &kept {
                prop_assert!(more.contains(&backup.id), "{}", backup.id);
            }
            prop_assert!(subset(&wal.stretches().collect::<Vec<_>>(), &more_wal));
        }
    }

    #[test]
    fn everything_goes_when_the_window_has_passed_it(events in events(), is_once: bool) {
        let mut world = World::of(&passing(events));
        let policy = Policy { window: Duration::from_secs(5 * 86_400), ..super::nothing() };
        let full =
            Event::Backup { kind: 0, parent: 0, hours: 3, is_sound: true, is_across: false };
        let day = [Event::Hours { count: 19, is_archived: true }, full];
        for number in 0..40 {
            world.play(&day);
            if !is_once || number == 39 {
                let decisions = decide(&policy, world.now, &world.facts());
                let left = carried_out(&world, &decisions);
                for (truth, facts) in world.places.iter_mut().zip(left) {
                    truth.facts = facts;
                }
            }
        }
        let old = world.now - TimeDelta::days(8);
        for truth in &world.places {
            for backup in &truth.facts.backups {
                prop_assert!(backup.finished > old, "{} stays: {:#?}", backup.id, truth.facts);
            }
            for (timeline, number) in truth.facts.wal.stretches().flat_map(|s| s.segments()) {
                let is_young = truth.written[&(timeline, number.0)] > old;
                prop_assert!(is_young, "{} of {} stays: {:#?}", number, timeline, truth.facts);
            }
        }
    }

    #[test]
    fn the_order_does_not_count(events in events(), policy in policies(), seed: u64) {
        let world = World::of(&events);
        let places = world.facts();
        let mut mixed: Vec<(usize, PlaceFacts)> = places.iter().cloned().enumerate().collect();
        let turn = |length: usize| usize::try_from(seed).unwrap_or(7) % length.max(1);
        mixed.rotate_left(turn(places.len()));
        for (_, facts) in &mut mixed {
            let (backups, ends) = (turn(facts.backups.len()), turn(facts.ends.len()));
            facts.backups.rotate_left(backups);
            facts.backups.reverse();
            facts.ends.rotate_left(ends);
            facts.running.reverse();
            facts.in_use.reverse();
            facts.unreadable.reverse();
        }
        let expected = decide(&policy, world.now, &places);
        let facts: Vec<PlaceFacts> = mixed.iter().map(|(_, facts)| facts.clone()).collect();
        for ((index, _), decision) in mixed.iter().zip(decide(&policy, world.now, &facts)) {
            prop_assert_eq!(&expected[*index], &decision);
        }
    }

    #[test]
    fn nothing_panics(
        events in events(),
        policy in policies(),
        now in prop_oneof![Just(Timestamp::MIN_UTC), Just(Timestamp::MAX_UTC), Just(Timestamp::UNIX_EPOCH)],
        odd in prop::collection::vec((any::<u8>(), any::<u64>(), any::<u64>(), any::<bool>()), 0..9),
        far in prop::collection::vec(any::<u64>(), 0..5),
    ) {
        let mut places = World::of(&events).facts();
        for facts in &mut places {
            let count = facts.backups.len().max(1);
            for (which, start, stop, is_late) in &odd {
                let Some(backup) = facts.backups.get_mut(usize::from(*which) % count) else { continue };
                let ends = [Timestamp::MIN_UTC, Timestamp::MAX_UTC];
                backup.finished = ends[usize::from(*is_late)];
                (backup.start, backup.stop) = (Lsn(*start), Lsn(u64::MAX - (stop % 9)));
                backup.parent = Some(backup.id.clone());
            }
            for number in &far {
                let timeline = TimelineId::new(u32::try_from(number % 5 + 1).unwrap()).unwrap();
                let (first, last) = (SegmentNo(*number), SegmentNo(number.saturating_add(9)));
                facts.wal.add_stretch(Stretch { timeline, first, last });
                facts.unreadable.push((number.to_string(), Lsn(*number)));
            }
        }
        let decisions = decide(&policy, now, &places);
        prop_assert_eq!(decisions.len(), places.len());
    }
}

#[test]
fn an_empty_place_is_no_trouble() {
    let world = World::of(&[Event::Clock(0)]);
    let mut facts = world.facts();
    facts[0].wal = ArchivedWal::new(SegmentSize::DEFAULT);
    facts[0].ends.clear();
    let policy = Policy { window: Duration::MAX, ..super::nothing() };
    let decisions = decide(&policy, Timestamp::MAX_UTC, &facts);
    assert_eq!((decisions[0].backups.len(), decisions[0].wal_removed.len()), (0, 0));
}
