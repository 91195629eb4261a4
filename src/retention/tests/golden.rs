//! Calendars of two years: table in, table with reasons out, compared byte for byte.
//!
//! Each is decided in one go, and day by day, where what was removed stays removed: both must end alike, and each
//! day's answer must be that of the rules as the oracle says them. `PGKEEP_WRITE_GOLDEN=1` writes the answers.
#![allow(clippy::disallowed_methods, reason = "tests read the environment and files")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use chrono::TimeDelta;

use super::case::{Case, case, ends, without};
use super::{oracle, shown};
use crate::base::Timestamp;
use crate::pg::{ArchivedWal, SegmentNo, SegmentSize, Stretch};
use crate::repo::{BackupId, BackupType};
use crate::retention::facts::NO_END;
use crate::retention::{Decision, PlaceFacts, WalReason, decide};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/retention")
}

fn kept(decision: &Decision) -> BTreeSet<BackupId> {
    let kept = decision.backups.iter().filter(|(_, reasons)| !reasons.is_empty());
    kept.map(|(id, _)| id.clone()).collect()
}

fn decided(name: &str, case: &Case, now: Timestamp, facts: &[PlaceFacts]) -> Vec<Decision> {
    let decisions = decide(&case.policy, now, facts);
    let expected = oracle::kept(&case.policy, now, facts);
    for (decision, expected) in decisions.iter().zip(expected) {
        let found = kept(decision);
        let differ: Vec<_> = found.symmetric_difference(&expected).collect();
        assert!(differ.is_empty(), "{name}, {now}: {differ:?}\n{}", shown(decision).join("\n"));
    }
    decisions
}

/// What was removed so far.
struct Removed {
    backups: BTreeSet<BackupId>,
    wal: ArchivedWal,
}

/// Every full is followed by an expiry. The last decisions, what is left then, and the most that were kept.
fn day_by_day(name: &str, case: &Case) -> (Vec<Decision>, Vec<PlaceFacts>, (usize, Timestamp)) {
    let nothing =
        || Removed { backups: BTreeSet::new(), wal: ArchivedWal::new(SegmentSize::DEFAULT) };
    let mut removed: Vec<Removed> = case.places.iter().map(|_| nothing()).collect();
    let taken = case.places.iter().flat_map(|place| &place.taken);
    let fulls = taken.filter(|taken| taken.candidate.backup_type == BackupType::Full);
    let moments: BTreeSet<Timestamp> =
        fulls.map(|full| full.complete).filter(|c| *c <= case.now).chain([case.now]).collect();
    let mut most = (0, case.now);
    let (mut decisions, mut left) = (Vec::new(), Vec::new());
    for moment in moments {
        let begun = case.places.iter().filter(|place| place.begun <= moment);
        left = begun.map(|place| place.facts_at(moment)).collect();
        for (facts, removed) in left.iter_mut().zip(&removed) {
            facts.backups.retain(|backup| !removed.backups.contains(&backup.id));
            facts.wal = without(&facts.wal, &removed.wal);
            let known = facts.ends.iter();
            let known = known.filter_map(|end| Some((end.history.timeline(), end.newest?)));
            facts.ends = ends(&facts.wal, &known.collect());
        }
        decisions = decided(name, case, moment, &left);
        for (decision, removed) in decisions.iter().zip(&mut removed) {
            removed.backups.extend(decision.removed().cloned());
            decision.wal_removed.iter().for_each(|stretch| removed.wal.add_stretch(*stretch));
        }
        let count = decisions.iter().map(|decision| kept(decision).len()).sum();
        assert!(count <= case.most, "{name}: {count} are kept on {moment}");
        if count > most.0 {
            most = (count, moment);
        }
    }
    (decisions, left, most)
}

fn remaining(facts: &PlaceFacts, decision: &Decision) -> Vec<Stretch> {
    let mut removed = ArchivedWal::new(SegmentSize::DEFAULT);
    decision.wal_removed.iter().for_each(|stretch| removed.add_stretch(*stretch));
    without(&facts.wal, &removed).stretches().collect()
}

/// The hour in which a segment is written.
fn hour(facts: &PlaceFacts, number: SegmentNo) -> String {
    let hours = i64::try_from(number.0).unwrap_or(i64::MAX) - 1;
    let moment =
        TimeDelta::try_hours(hours).and_then(|since| facts.registered.checked_add_signed(since));
    moment.map_or("the end".into(), |moment| moment.format("%Y-%m-%d %H:%M").to_string())
}

fn table(facts: &PlaceFacts, decision: &Decision) -> String {
    let mut text = String::new();
    let count = |is_removed: bool, is_full: bool| {
        let all = decision.backups.iter();
        let all = all.filter(|(id, reasons)| {
            reasons.is_empty() == is_removed && (id.backup_type() == BackupType::Full) == is_full
        });
        all.count()
    };
    writeln!(text, "\nplace {}", facts.name).unwrap();
    for line in shown(decision).iter().filter(|line| !line.ends_with(": removed")) {
        writeln!(text, "  {line}").unwrap();
    }
    let (fulls, others) = (count(false, true), count(false, false));
    writeln!(text, "  kept: {fulls} fulls, {others} others").unwrap();
    let (fulls, others) = (count(true, true), count(true, false));
    writeln!(text, "  removed: {fulls} fulls, {others} others").unwrap();
    for (stretch, reason) in &decision.wal_kept {
        let end = match stretch.last {
            NO_END => "on".to_owned(),
            last => format!("to {}", hour(facts, SegmentNo(last.0 + 1))),
        };
        let (timeline, begin) = (stretch.timeline, hour(facts, stretch.first));
        let begin = if stretch.first == SegmentNo(0) { "the first".into() } else { begin };
        let reason: &WalReason = reason;
        writeln!(text, "  wal kept, timeline {timeline}: from {begin} {end}: {reason}").unwrap();
    }
    for stretch in &decision.wal_removed {
        let (begin, end) = (stretch.first, SegmentNo(stretch.last.0 + 1));
        let (begin, end) = (hour(facts, begin), hour(facts, end));
        let (timeline, count) = (stretch.timeline, stretch.count());
        writeln!(
            text,
            "  wal removed, timeline {timeline}: from {begin} to {end}: {count} segments"
        )
        .unwrap();
    }
    text
}

fn answer(name: &str, case: &Case) -> String {
    let facts: Vec<PlaceFacts> = case.places.iter().map(|place| place.facts_at(case.now)).collect();
    let decisions = decided(name, case, case.now, &facts);
    let (last, left, (most, when)) = day_by_day(name, case);
    for ((once, daily), (facts, left)) in decisions.iter().zip(&last).zip(facts.iter().zip(&left)) {
        assert_eq!(once.window_from, daily.window_from, "{name}");
        let kept = |decision: &Decision| {
            let lines = shown(decision).into_iter();
            lines.filter(|line| !line.ends_with(": removed")).collect::<Vec<_>>()
        };
        assert_eq!(kept(once), kept(daily), "{name}, {}", facts.name);
        assert_eq!(remaining(facts, once), remaining(left, daily), "{name}, {}", facts.name);
    }
    let mut text = format!("now {}\n", case.now);
    if let Some(first) = decisions.first() {
        writeln!(text, "window from {}", first.window_from).unwrap();
    }
    writeln!(text, "most on one day: {most}, first on {when}").unwrap();
    text.extend(facts.iter().zip(&decisions).map(|(facts, decision)| table(facts, decision)));
    text
}

#[test]
fn f087_calendars_of_two_years() {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".in.txt").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() >= 14, "{names:?}");
    let mut differ = Vec::new();
    for name in names {
        let text = std::fs::read_to_string(folder().join(format!("{name}.in.txt"))).unwrap();
        let answer = answer(&name, &case(&text));
        let path = folder().join(format!("{name}.out.txt"));
        if std::env::var_os("PGKEEP_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, answer).unwrap();
        } else if std::fs::read_to_string(&path).unwrap_or_default() != answer {
            differ.push((name, answer));
        }
    }
    let told: Vec<String> =
        differ.iter().map(|(name, answer)| format!("{name}:\n{answer}")).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}
