//! Each rule by itself, and each thing that went wrong in other tools.

use super::*;

const BEGUN: &str = "2026-11-01T00:00:00Z";

fn week() -> Told {
    let told = ["20261101", "20261102", "20261103", "20261104", "20261105"];
    let told = told.iter().fold(Told::from(BEGUN), |told, day| told.full(day));
    told.archived_until(1, "2026-11-05T12:00:00Z")
}

#[test]
fn f087_the_last_good_full_stays_whatever_the_rules_are() {
    let told = week().change("20261105-020000F", |full| full.is_sound = false);
    let decision = decided(&nothing(), "2031-01-01T00:00:00Z", &told);
    let kept: Vec<_> =
        shown(&decision).into_iter().filter(|line| !line.ends_with("removed")).collect();
    // The window, of no length, reaches to the newest moment that there is.
    assert_eq!(
        kept,
        [
            "20261104-020000F: last good full, start of the window",
            "20261105-020000F: newest full, with invalid pages or without its WAL"
        ]
    );
    assert_eq!(removed_wal(&decision), [(1, 1, 74)]);
}

#[test]
fn f079_the_first_backup_removes_no_older_wal() {
    let told = Told::from(BEGUN).full("20261105").archived_until(1, "2026-11-05T12:00:00Z");
    let policy = Policy { window: days(14), ..nothing() };
    assert_eq!(removed_wal(&decided(&policy, "2026-11-05T12:00:00Z", &told)), []);
    let told = told.full("20261122").archived_until(1, "2026-11-22T12:00:00Z");
    assert_eq!(removed_wal(&decided(&policy, "2026-11-22T12:00:00Z", &told)), [(1, 1, 98)]);
}

#[test]
fn f077_f078_kept_backups_outside_the_window_keep_their_own_wal_and_their_parents() {
    let told = Told::from(BEGUN)
        .full("20261101")
        .backup("20261101-020000F_20261102-020000D", Some("20261101-020000F"))
        .backup("20261101-020000F_20261102-080000I", Some("20261101-020000F_20261102-020000D"))
        .full("20261103")
        .full("20261110")
        .full("20261120")
        .archived_until(1, "2026-11-20T12:00:00Z");
    let mut told = told;
    let pin = super::super::Pinned { reason: "audit".into(), until: None };
    told.facts.pins.insert("20261101-020000F_20261102-080000I".parse().unwrap(), pin);
    let policy = Policy { window: days(2), ..nothing() };
    let decision = decided(&policy, "2026-11-20T12:00:00Z", &told);
    assert_eq!(
        shown(&decision),
        [
            "20261101-020000F: parent of 20261101-020000F_20261102-020000D",
            "20261101-020000F_20261102-020000D: parent of 20261101-020000F_20261102-080000I",
            "20261101-020000F_20261102-080000I: pinned: audit",
            "20261103-020000F: removed",
            "20261110-020000F: start of the window",
            "20261120-020000F: last good full, window",
        ]
    );
    // One segment each for the three of the chain; all from the start of the window on.
    assert_eq!(removed_wal(&decision), [(1, 1, 2), (1, 4, 26), (1, 28, 32), (1, 34, 218)]);
}

#[test]
fn f076_after_an_upgrade_the_newest_are_those_that_were_completed_last() {
    let old = week();
    let mut new = Told::from("2026-11-06T00:00:00Z");
    new.facts.name = "6-1".into();
    let new = new.full("20261106").full("20261107").archived_until(1, "2026-11-07T12:00:00Z");
    let policy = Policy { daily: 3, ..nothing() };
    let now = at("2026-11-07T12:00:00Z");
    let decisions = decide(&policy, now, &[old.facts.clone(), new.facts.clone()]);
    assert_eq!(shown(&decisions[1]).iter().filter(|line| line.contains("daily")).count(), 2);
    assert_eq!(decisions[0].removed().count(), 4);
    assert_eq!(removed_wal(&decisions[0]), [(1, 1, 98), (1, 100, 109)]);
    // One that goes on beside the new one is another server of that name, and is counted alone.
    let old = old.full("20261107").archived_until(1, "2026-11-07T12:00:00Z");
    let decisions = decide(&policy, now, &[old.facts, new.facts]);
    assert_eq!(shown(&decisions[0]).iter().filter(|line| line.contains("daily")).count(), 3);
}

#[test]
fn f087_a_backup_of_the_future_pushes_nothing_out() {
    let told = week().full("20310101");
    let decision = decided(&Policy { daily: 2, ..nothing() }, "2026-11-05T12:00:00Z", &told);
    let kept: Vec<_> =
        shown(&decision).into_iter().filter(|line| !line.ends_with("removed")).collect();
    assert_eq!(
        kept,
        [
            "20261104-020000F: daily 2026-11-04",
            "20261105-020000F: daily 2026-11-05, last good full, start of the window",
            "20310101-020000F: finished in the future: a clock is wrong",
        ]
    );
}

#[test]
fn a_dead_branch_keeps_nothing_when_the_window_has_passed_it() {
    let told = Told::from(BEGUN).full("20261101").archived_until(1, "2026-11-04T00:00:00Z");
    let told = told.promoted(2, 1, "2026-11-03T00:00:00Z").full("20261103");
    let mut told =
        told.backup_on(2, "20261105-020000F", None).archived_until(2, "2026-11-20T00:00:00Z");
    // Timeline 1 goes on behind the point where it was left.
    let history = told.facts.wal.history(TimelineId::FIRST).unwrap();
    told.facts.ends.push(End { history, newest: Some(at("2026-11-04T00:00:00Z")) });
    let decision = |days_: u64| {
        let policy = Policy { window: days(days_), ..nothing() };
        decided(&policy, "2026-11-20T00:00:00Z", &told)
    };
    // The window begins on the 4th: both ways are in it, each from its own backup.
    let wide = decision(16);
    assert_eq!(
        shown(&wide),
        [
            "20261101-020000F: start of the window",
            "20261103-020000F: start of the window",
            "20261105-020000F: last good full, window",
        ]
    );
    assert_eq!(removed_wal(&wide), [(1, 1, 2)]);
    let narrow = decision(5);
    assert_eq!(narrow.removed().count(), 2);
    assert_eq!(removed_wal(&narrow), [(1, 1, 73), (2, 49, 98)]);
}

#[test]
fn what_cannot_be_told_stays() {
    let mut told = week();
    told.facts.unreadable.push(("20261102-090000F".into(), Lsn(0)));
    assert_eq!(removed_wal(&decided(&nothing(), "2026-11-05T12:00:00Z", &told)), []);
    let mut told = week();
    let timeline = TimelineId::new(7).unwrap();
    told.facts.wal.add_stretch(Stretch { timeline, first: SegmentNo(1), last: SegmentNo(9) });
    let removed = removed_wal(&decided(&nothing(), "2026-11-05T12:00:00Z", &told));
    assert_eq!(removed, [(1, 1, 98)]);
    let none = Told::from(BEGUN).archived_until(1, "2026-11-05T12:00:00Z");
    assert_eq!(removed_wal(&decided(&nothing(), "2026-11-05T12:00:00Z", &none)), []);
}

#[test]
fn f081_running_backups_and_restores_keep_what_they_use() {
    let mut told = week();
    let id = |text: &str| -> BackupId { text.parse().unwrap() };
    told.facts.running.push(super::super::Running {
        id: id("20261102-020000F_20261105-100000D"),
        parent: Some(id("20261102-020000F")),
        attempts: Vec::new(),
        timeline: Some(TimelineId::FIRST),
        wal_from: Lsn(0x5000_0028),
    });
    let by = "restore on db2".to_owned();
    told.facts.in_use.push(super::super::InUse { id: id("20261103-020000F"), by });
    let decision = decided(&nothing(), "2026-11-05T12:00:00Z", &told);
    let text = shown(&decision).join("\n");
    assert!(
        text.contains("20261102-020000F: parent of 20261102-020000F_20261105-100000D, which is")
    );
    assert!(text.contains("20261103-020000F: in use by restore on db2"), "{text}");
    // The segment of the parent's own backup, and all from the one that is in use on.
    assert_eq!(removed_wal(&decision), [(1, 1, 26), (1, 28, 50)]);
}
