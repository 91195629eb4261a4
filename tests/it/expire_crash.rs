//! Expiry dies at every operation: what stays is whole at each moment, and the next expiry brings the same end.

use std::time::Duration;

use chrono::TimeDelta;
use pgkeep::base::Timestamp;
use pgkeep::repo::{BackupType, LEASE_FOR};
use pgkeep::retention::Policy;
use pgkeep::storage::faulty::Effect;

use crate::support::World;

pub fn policy(daily: u32, weekly: u32, window_days: u64) -> Policy {
    Policy {
        daily,
        weekly,
        monthly: 0,
        yearly: 0,
        last: 0,
        min_full: 1,
        window: Duration::from_secs(window_days * 86_400),
        zone: chrono_tz::Tz::UTC,
    }
}

/// Some weeks: a full each day, a differential or incremental each twelve hours, a segment each six; one failover,
/// one backup that died, one that stands on nothing that is known.
pub fn weeks(days: u32) -> World {
    weeks_of(World::begin(5), days)
}

pub fn weeks_of(mut world: World, days: u32) -> World {
    for day in 0..days {
        world.backup(BackupType::Full);
        world.pass(TimeDelta::hours(6));
        world.push();
        world.pass(TimeDelta::hours(6));
        let kind = if day % 2 == 0 { BackupType::Differential } else { BackupType::Incremental };
        world.backup(kind);
        world.pass(TimeDelta::hours(6));
        world.push();
        if day == 2 {
            let died = world.begin_backup(BackupType::Full);
            world.store_packs(&died);
        }
        if day == days / 2 {
            world.fail_over();
        }
        world.pass(TimeDelta::hours(6));
    }
    world
}

fn in_window(moments: &[Timestamp], from: Timestamp) -> Vec<Timestamp> {
    moments.iter().filter(|moment| **moment >= from).copied().collect()
}

#[test]
fn f080_expiry_that_dies_at_any_operation_is_finished_by_the_next() {
    dies_everywhere(|| weeks(11));
}

/// Names are claimed before they are taken, and a claim whose owner died stays.
#[test]
fn f080_f090_where_conditions_are_ignored_too() {
    dies_everywhere(|| weeks_of(World::by_claims(5), 8));
}

/// What is left; where names are claimed without the seal on the backup that died, which may be a claim only.
fn content(world: &World) -> std::collections::BTreeMap<String, u64> {
    let mut content = world.content();
    if !world.repository.descriptor().conditional_put {
        content.retain(|name, _| !name.ends_with("backup/20260103-180000F"));
    }
    content
}

/// `expire` took 57 times as long in a folder for ten times as many backups: of each it listed the file tables and the
/// pins of all, and made two removals durable. What lies beside each other is looked for, and removed, for many backups
/// at once.
#[test]
fn d2026_12_01_what_is_left_of_many_backups_goes_together() {
    let policy = policy(2, 0, 2);
    let swept = |days: u32| {
        let world = weeks(days);
        let repository = world.through_faults();
        let mut plan = world.plan(&repository, &policy).unwrap();
        let begun = world.faulty.log().len();
        let freed = world.execute(&repository, &mut plan).unwrap();
        world.assert_sound("after expiry");
        let log = world.faulty.log().split_off(begun);
        let count = |what: &dyn Fn(&str, &str) -> bool| {
            log.iter().filter(|operation| what(operation.name, &operation.key)).count()
        };
        let lists_of_all = count(&|name, key| {
            name == "list" && ["/files/", "/pin/"].iter().any(|p| key.contains(p))
        });
        let removals = count(&|name, key| {
            let is_of_backup =
                ["begin", "files", "pin"].iter().any(|f| key.contains(&format!("/{f}/")));
            name.starts_with("delete") && is_of_backup
        });
        (freed.backups, lists_of_all, removals)
    };
    let (few, many) = (swept(8), swept(16));
    assert!(few.0 > 4 && many.0 > 2 * few.0, "{few:?} {many:?}");
    assert_eq!((few.1, few.2), (many.1, many.2), "{few:?} {many:?}");
}

fn dies_everywhere(made: impl Fn() -> World) {
    let policy = policy(2, 2, 2);
    let clean = made();
    let repository = clean.through_faults();
    let plan = clean.plan(&repository, &policy).unwrap();
    let from = plan.places[0].decision.window_from;
    let before = in_window(&clean.restorable(), from);
    assert!(before.len() > 5, "{before:?}");
    let begun = clean.faulty.operations();
    let freed = clean.expire(&repository, &policy).unwrap();
    assert!(freed.backups > 6 && freed.segments > 12, "{freed:?}");
    let operations = clean.faulty.operations() - begun;
    let end = content(&clean);
    clean.assert_sound("the clean run");
    assert_eq!(in_window(&clean.restorable(), from), before);
    // Again: nothing changes.
    let again = clean.expire(&repository, &policy).unwrap();
    assert_eq!((again.backups, again.objects, content(&clean) == end), (0, 0, true), "{again:?}");
    eprintln!("{operations} operations");
    for number in 1..=operations {
        for effect in [Effect::None, Effect::Full] {
            let what = format!("operation {number}, {effect:?}");
            let world = made();
            let repository = world.through_faults();
            world.faulty.die_at(world.faulty.operations() + number, effect);
            let died = world.expire(&repository, &policy);
            if number < operations - 4 {
                assert!(died.is_err(), "{what}");
            }
            world.faulty.heal();
            world.assert_sound(&what);
            assert_eq!(in_window(&world.restorable(), from), before, "{what}");
            world.pass(TimeDelta::from_std(LEASE_FOR).unwrap());
            let next = world.expire(&world.repository, &policy);
            next.unwrap_or_else(|error| panic!("{what}: {error}"));
            world.assert_sound(&what);
            assert_eq!(in_window(&world.restorable(), from), before, "{what}");
            // A name that was claimed by one who died is left alone for a week.
            if !world.repository.descriptor().conditional_put {
                world.pass(TimeDelta::days(8));
                world.expire(&world.repository, &policy).unwrap();
            }
            let left = content(&world);
            let differ: Vec<_> = left.keys().filter(|name| !end.contains_key(*name)).collect();
            assert!(differ.is_empty(), "{what}: left: {differ:?}");
            assert_eq!(left.len(), end.len(), "{what}");
        }
    }
}
