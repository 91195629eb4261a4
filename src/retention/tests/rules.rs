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
            "20261105-020000F: newest full, with invalid pages or without its WAL, start of the \
             window"
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
    // Behind the switch timeline 1 is needed from its own backup on only.
    assert_eq!(removed_wal(&wide), [(1, 1, 2), (1, 50, 50)]);
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

/// Ends are as whoever looks at the archive finds them: timeline 1 was left, timeline 2 has no segment yet.
fn just_promoted(told: Told, when: &str) -> Told {
    let mut told = told.archived_until(1, when).promoted(2, 1, when);
    let history = told.facts.wal.history(TimelineId::new(2).unwrap()).unwrap();
    told.facts.ends = vec![End { history, newest: None }];
    told
}

#[test]
fn the_window_stays_when_a_promotion_has_archived_its_history_only() {
    let days_ = ["20261101", "20261105", "20261110", "20261119"];
    let told = days_.iter().fold(Told::from(BEGUN), |told, day| told.full(day));
    let told = just_promoted(told, "2026-11-19T12:00:00Z");
    let policy = Policy { window: days(10), ..nothing() };
    let decision = decided(&policy, "2026-11-19T13:00:00Z", &told);
    assert_eq!(
        shown(&decision),
        [
            "20261101-020000F: removed",
            "20261105-020000F: start of the window",
            "20261110-020000F: window",
            "20261119-020000F: last good full, window",
        ]
    );
    assert_eq!(removed_wal(&decision), [(1, 1, 98)]);
}

#[test]
fn a_history_without_wal_keeps_nothing_when_a_later_one_has_passed_the_window() {
    // Restored twice: first to timeline 2, then, further back, to timeline 3.
    let told =
        just_promoted(Told::from(BEGUN).full("20261101").full("20261103"), "2026-11-04T00:00:00Z");
    let mut told =
        told.promoted(3, 1, "2026-11-02T00:00:00Z").backup_on(3, "20261105-020000F", None);
    told = told.archived_until(3, "2026-11-20T00:00:00Z");
    let history = told.facts.wal.history(TimelineId::new(2).unwrap()).unwrap();
    told.facts.ends.push(End { history, newest: None });
    let removed = |window| {
        let policy = Policy { window: days(window), ..nothing() };
        let decision = decided(&policy, "2026-11-20T00:00:00Z", &told);
        decision.removed().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(removed(5), ["20261101-020000F", "20261103-020000F"]);
    assert_eq!(removed(16), ["20261101-020000F"; 0], "within the window both are needed");
}

#[test]
fn a_dead_branch_of_unknown_age_keeps_its_own_way_only() {
    let told = ["20261101", "20261105", "20261120"].iter();
    let told = told.fold(Told::from(BEGUN), |told, day| told.full(day));
    let told = told.archived_until(1, "2026-11-20T12:00:00Z");
    let mut told = told.promoted(2, 1, "2026-11-06T00:00:00Z");
    let timeline = TimelineId::new(2).unwrap();
    told.facts.wal.add_stretch(Stretch { timeline, first: SegmentNo(121), last: SegmentNo(122) });
    let history = told.facts.wal.history(timeline).unwrap();
    told.facts.ends.push(End { history, newest: None });
    let policy = Policy { window: days(0), ..nothing() };
    let decision = decided(&policy, "2026-11-20T12:00:00Z", &told);
    assert_eq!(
        shown(&decision),
        [
            "20261101-020000F: removed",
            "20261105-020000F: start of the window",
            "20261120-020000F: last good full, start of the window",
        ]
    );
    // From the backup of the 5th to where timeline 2 left, and from the last one on: not all between.
    assert_eq!(removed_wal(&decision), [(1, 1, 98), (1, 122, 458)]);
}

#[test]
fn f087_a_full_of_the_future_that_is_the_only_one_keeps_the_way_behind_it() {
    let told = Told::from(BEGUN).full("20261101").archived_until(1, "2026-11-04T00:00:00Z");
    let ahead = |full: &mut Candidate| full.finished = at("2027-11-01T02:30:00Z");
    let told = told.change("20261101-020000F", ahead).promoted(2, 1, "2026-11-03T00:00:00Z");
    let told = told.archived_until(2, "2026-11-20T00:00:00Z");
    let decision = decided(&nothing(), "2026-11-20T00:00:00Z", &told);
    // Timeline 1 is removed behind the switch at most.
    assert_eq!(removed_wal(&decision), [(1, 50, 73)]);
}

#[test]
fn f087_backups_of_a_clock_that_lagged_are_told_by_their_positions() {
    let told = ["20261101", "20261105", "20261108", "20261120"].iter();
    let told = told.fold(Told::from(BEGUN), |told, day| told.full(day));
    let told = told.archived_until(1, "2026-11-20T12:00:00Z");
    let lags = |full: &mut Candidate| full.finished = at("2026-11-02T02:30:00Z");
    let mut told = told.change("20261108-020000F", lags);
    // What is behind the hole is restored from the one that claims to be older only.
    told.facts.wal.set_damaged(TimelineId::FIRST, SegmentNo(120));
    let policy = Policy { window: days(14), ..nothing() };
    let decision = decided(&policy, "2026-11-20T12:00:00Z", &told);
    assert_eq!(
        shown(&decision),
        [
            "20261101-020000F: removed",
            "20261108-020000F: start of the window",
            "20261105-020000F: start of the window",
            "20261120-020000F: last good full, window",
        ]
    );
}

#[test]
fn an_unsound_backup_stays_that_alone_reaches_the_window() {
    let told = ["20261101", "20261105", "20261120"].iter();
    let told = told.fold(Told::from(BEGUN), |told, day| told.full(day));
    let told = told.archived_until(1, "2026-11-20T12:00:00Z");
    let mut told = told.change("20261105-020000F", |full| full.is_sound = false);
    told.facts.wal.set_damaged(TimelineId::FIRST, SegmentNo(50));
    let policy = Policy { window: days(14), ..nothing() };
    let decision = decided(&policy, "2026-11-20T12:00:00Z", &told);
    // The sound one does not get over the hole.
    assert_eq!(
        shown(&decision),
        [
            "20261101-020000F: start of the window",
            "20261105-020000F: start of the window",
            "20261120-020000F: last good full, window",
        ]
    );
}

#[test]
fn f080_wal_of_a_replaced_history_goes_also_when_its_backups_went_first() {
    let old = Told::from(BEGUN).archived_until(1, "2026-11-05T12:00:00Z");
    let mut new = Told::from("2026-11-06T00:00:00Z").full("20261106");
    new = new.full("20261120").archived_until(1, "2026-11-20T12:00:00Z");
    let removed = |window, places: &[PlaceFacts]| {
        let policy = Policy { window: days(window), ..nothing() };
        removed_wal(&decide(&policy, at("2026-11-20T12:00:00Z"), places)[0])
    };
    let both = [old.facts.clone(), new.facts.clone()];
    assert_eq!(removed(10, &both), [(1, 1, 109)]);
    assert_eq!(removed(16, &both), [], "the window has not passed it");
    new.facts.backups.clear();
    assert_eq!(removed(10, &[old.facts, new.facts]), [], "nothing has replaced it yet");
}

#[test]
fn f077_what_an_unreadable_backup_may_stand_on_stays() {
    let full = "20261101-020000F";
    let first = "20261101-020000F_20261101-080000I";
    let last = "20261101-020000F_20261101-200000I";
    let told = week().backup(first, Some(full)).backup(last, Some(first));
    let kept = |unreadable: &str| {
        let mut told = told.clone();
        told.facts.unreadable.push((unreadable.into(), Lsn(0x8000_0028)));
        let decision = decided(&nothing(), "2026-11-05T12:00:00Z", &told);
        let kept = decision.backups.into_iter().filter(|(_, reasons)| !reasons.is_empty());
        kept.map(|(id, _)| id.to_string()).collect::<Vec<_>>()
    };
    let newest = "20261105-020000F";
    assert_eq!(kept("20261101-020000F_20261101-140000I"), [full, first, newest]);
    assert_eq!(kept("20261101-020000F_20261101-140000D"), [full, newest]);
    assert_eq!(kept("no name of a backup"), [newest]);
}

#[test]
fn the_ends_of_time_and_of_wal_are_no_trouble() {
    let far = SegmentNo(u64::MAX);
    for (now, finished) in [
        (Timestamp::MAX_UTC, Timestamp::MAX_UTC),
        (Timestamp::MIN_UTC, Timestamp::MIN_UTC),
        (Timestamp::MAX_UTC, Timestamp::MIN_UTC),
        (Timestamp::MIN_UTC, Timestamp::MAX_UTC),
    ] {
        let mut told = week().change("20261103-020000F", |full| {
            (full.finished, full.start, full.stop) = (finished, Lsn(u64::MAX - 1), Lsn(u64::MAX));
        });
        let timeline = TimelineId::FIRST;
        told.facts.wal.add_stretch(Stretch { timeline, first: SegmentNo(far.0 - 1), last: far });
        for zone in [chrono_tz::Pacific::Auckland, chrono_tz::Pacific::Pago_Pago] {
            let policy =
                Policy { daily: u32::MAX, yearly: 9, window: Duration::MAX, zone, ..nothing() };
            let decision = decide(&policy, now, std::slice::from_ref(&told.facts)).remove(0);
            assert_eq!(decision.removed().count(), 0);
        }
        assert!(decide(&nothing(), now, &[]).is_empty());
    }
}

#[test]
fn an_empty_end_of_a_replaced_history_keeps_nothing_for_ever() {
    // Promoted and upgraded at once: of timeline 2 nothing but its history was ever archived.
    let old = just_promoted(Told::from(BEGUN).full("20261103"), "2026-11-05T12:00:00Z");
    let new = Told::from("2026-11-06T00:00:00Z").full("20261106").full("20261120");
    let places = [old.facts, new.archived_until(1, "2026-11-20T12:00:00Z").facts];
    let decision = |window| {
        let policy = Policy { window: days(window), ..nothing() };
        decide(&policy, at("2026-11-20T12:00:00Z"), &places).remove(0)
    };
    assert_eq!(shown(&decision(16)), ["20261103-020000F: start of the window"]);
    assert_eq!(removed_wal(&decision(16)), [(1, 1, 50)]);
    assert_eq!(shown(&decision(10)), ["20261103-020000F: removed"]);
    assert_eq!(removed_wal(&decision(10)), [(1, 1, 109)]);
}

#[test]
fn what_is_elsewhere_goes_and_what_is_to_go_there_stays() {
    let days_of = ["20261102", "20261103", "20261118", "20261120"];
    let mut told = days_of.iter().fold(Told::from(BEGUN), |told, day| told.full(day));
    told = told.archived_until(1, "2026-11-20T12:00:00Z");
    let policy = Policy { daily: 3, window: days(1), ..nothing() };
    let now = "2026-11-20T12:00:00Z";
    let decision = decided(&policy, now, &told);
    let id = |day: &str| format!("{day}-020000F").parse::<BackupId>().unwrap();
    let [gone, old, start, last] = days_of.map(id);
    let found = leaving(&told.facts, &decision, (days(14), at(now)));
    assert_eq!((found.old, found.going), ([old.clone()].into(), [gone.clone()].into()));
    // Too young, or somebody keeps it: it stays.
    assert!(leaving(&told.facts, &decision, (days(18), at(now))).old.is_empty());
    let reason = "audit".to_owned();
    let mut pinned = told.facts.clone();
    pinned.pins.insert(old.clone(), crate::retention::Pinned { reason, until: None });
    let kept = decide(&policy, at(now), std::slice::from_ref(&pinned)).remove(0);
    assert!(leaving(&pinned, &kept, (days(14), at(now))).old.is_empty());
    told.facts.moving = Moving {
        to: "offsite".into(),
        there: [old.clone(), start.clone(), last.clone()].into(),
        waiting: [gone.clone()].into(),
    };
    let after = decided(&policy, now, &told);
    assert!(after.reasons(&old).unwrap().is_empty(), "it is there");
    for stays in [&start, &last] {
        assert!(!after.reasons(stays).unwrap().is_empty(), "{stays}: more than the calendar");
    }
    assert_eq!(after.reasons(&gone).unwrap(), &[Reason::NotMoved("offsite".into())].into());
}

/// Another expiry has begun to remove it, by narrower rules: whatever the rules are now, nothing counts on it, and pins and
/// rules keep others.
#[test]
fn d2026_12_01_what_was_given_up_for_good_is_kept_by_nothing() {
    let mut told = week();
    let id: BackupId = "20261105-020000F".parse().unwrap();
    let (given_up, backups) = told.facts.backups.into_iter().partition(|each| each.id == id);
    (told.facts.given_up, told.facts.backups) = (given_up, backups);
    let pin = super::super::Pinned { reason: "audit".into(), until: None };
    told.facts.pins.insert(id, pin);
    let policy = Policy { daily: 2, last: 1, window: days(1), ..nothing() };
    let decision = decided(&policy, "2026-11-05T12:00:00Z", &told);
    assert_eq!(
        shown(&decision),
        [
            "20261101-020000F: removed",
            "20261102-020000F: removed",
            "20261103-020000F: daily 2026-11-03",
            "20261104-020000F: daily 2026-11-04, one of the newest, last good full, start of the window",
            "20261105-020000F: removed",
        ]
    );
}
