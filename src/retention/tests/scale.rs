//! Ten thousand backups, a million segments, ten thousand holes: twice as many must not take four times as long.
//! Times are told (`--nocapture`), not asserted: machines differ.
#![allow(clippy::disallowed_methods, reason = "it is time itself that is measured")]
#![allow(clippy::print_stderr, reason = "the measured times are for people")]

use std::time::{Duration, Instant};

use chrono::TimeDelta;

use super::{Told, at, days, nothing};
use crate::pg::{SegmentNo, Stretch, TimelineId};
use crate::repo::{BackupId, BackupType};
use crate::retention::{Candidate, PlaceFacts, Policy, decide};

/// A hundred segments between two backups, of which one is missing.
const SEGMENTS: u64 = 100;

/// How the backups stand on one another.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Fulls only.
    Fulls,
    /// A full, and differentials on it.
    Differentials,
    /// Each on the one before it.
    OneChain,
    /// The same, and the full is gone.
    BrokenChain,
    /// Each without the WAL that it needs.
    WithoutWal,
}

fn facts(shape: Shape, count: u64) -> PlaceFacts {
    let begun = at("2020-01-01T00:00:00Z");
    let mut facts = Told::from("2020-01-01T00:00:00Z").facts;
    let size = facts.wal.segment_size();
    let lsn = |number: u64, offset| SegmentNo(number).begin(size).unwrap().checked_add(offset);
    let mut parent: Option<BackupId> = None;
    for number in 0..count {
        let moment = begun + TimeDelta::hours(i64::try_from(number).unwrap() * 4);
        let first = number * SEGMENTS + 1;
        let id = match (shape, &parent) {
            (Shape::Differentials, Some(_)) => {
                BackupId::of(BackupType::Differential, parent.as_ref(), moment)
            }
            (Shape::OneChain | Shape::BrokenChain, Some(_)) => {
                BackupId::of(BackupType::Incremental, parent.as_ref(), moment)
            }
            _ => BackupId::full(moment),
        };
        let stands = parent.clone().filter(|_| id.backup_type() != BackupType::Full);
        facts.backups.push(Candidate {
            backup_type: id.backup_type(),
            id: id.clone(),
            parent: stands,
            finished: moment + TimeDelta::minutes(30),
            timeline: TimelineId::FIRST,
            timeline_stop: TimelineId::FIRST,
            start: lsn(first, 0x28).unwrap(),
            stop: lsn(first, 0x5000).unwrap(),
            is_sound: number % 7 != 0,
            stored: 1 << 30,
        });
        if !matches!(shape, Shape::Differentials) || parent.is_none() {
            parent = Some(id);
        }
        let missing = u64::from(matches!(shape, Shape::WithoutWal));
        let (first, last) = (SegmentNo(first + missing), SegmentNo(first + SEGMENTS - 2));
        facts.wal.add_stretch(Stretch { timeline: TimelineId::FIRST, first, last });
    }
    if matches!(shape, Shape::BrokenChain) {
        facts.backups.remove(0);
    }
    let history = facts.wal.history(TimelineId::FIRST).unwrap();
    let newest = facts.backups.last().map(|backup| backup.finished);
    facts.ends.push(crate::retention::End { history, newest });
    // Whoever lists them finds them in any order.
    facts.backups.reverse();
    facts
}

fn took(facts: &PlaceFacts, policy: &Policy) -> (Duration, usize) {
    let begun = Instant::now();
    let decisions = decide(policy, at("2030-01-01T00:00:00Z"), std::slice::from_ref(facts));
    (begun.elapsed(), decisions[0].removed().count())
}

#[test]
fn ten_thousand_backups_and_as_many_holes() {
    let all = [u32::MAX; 4];
    let [daily, weekly, monthly, yearly] = all;
    let few = Policy { daily: 7, weekly: 4, monthly: 12, window: days(14), ..nothing() };
    let many = Policy { daily, weekly, monthly, yearly, last: u32::MAX, ..few.clone() };
    let shapes = [
        Shape::Fulls,
        Shape::Differentials,
        Shape::OneChain,
        Shape::BrokenChain,
        Shape::WithoutWal,
    ];
    for shape in shapes {
        let (half, whole) = (facts(shape, 5_000), facts(shape, 10_000));
        for (name, policy) in [("few", &few), ("all", &many)] {
            let ((first, _), (second, removed)) = (took(&half, policy), took(&whole, policy));
            let ratio = second.as_secs_f64() / first.as_secs_f64();
            eprintln!(
                "{shape:?}, {name} kept: {first:.0?}, {second:.0?}, {ratio:.1} times as long"
            );
            if name == "all" {
                assert_eq!(removed, 0);
            }
        }
    }
}
