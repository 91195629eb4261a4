//! What no rule keeps and nobody can remove yet: it waits, with what it stands on and its WAL.

use super::*;
use crate::retention::{Locked, Reason, WalReason};

const OLD: &str = "20260101-020000F";
const CHILD: &str = "20260101-020000F_20260101-140000D";
const NEW: &str = "20260110-020000F";
const LAST: &str = "20260120-020000F";

fn told() -> Told {
    let told = Told::from("2026-01-01T00:00:00Z").archived_until(1, "2026-01-20T06:00:00Z");
    let told = told.backup(OLD, None).backup(CHILD, Some(OLD));
    told.backup(NEW, None).backup(LAST, None)
}

fn locked(backups: &[(&str, &str)], wal: &[(u64, u64, &str)]) -> Told {
    let mut told = told();
    told.facts.locked = Locked {
        backups: backups.iter().map(|(id, until)| (id.parse().unwrap(), at(until))).collect(),
        wal: wal.iter().map(|(first, last, until)| (stretch(*first, *last), at(until))).collect(),
    };
    told
}

fn stretch(first: u64, last: u64) -> Stretch {
    Stretch { timeline: TimelineId::FIRST, first: SegmentNo(first), last: SegmentNo(last) }
}

fn decided_on(now: &str, told: &Told) -> Decision {
    decided(&nothing(), now, told)
}

const NOW: &str = "2026-01-20T12:00:00Z";

#[test]
fn f088_what_no_rule_keeps_waits_for_its_lock_with_what_it_stands_on() {
    let free = decided_on(NOW, &told());
    let gone: Vec<_> = free.removed().map(ToString::to_string).collect();
    assert_eq!(gone, [OLD, CHILD, NEW]);
    let told = locked(&[(CHILD, "2026-02-01T00:00:00Z"), (NEW, "2026-01-20T11:59:59Z")], &[]);
    let decision = decided_on(NOW, &told);
    let lines = shown(&decision);
    let waits = "no rule keeps it, and it waits: locked until 2026-02-01 00:00:00 UTC";
    assert_eq!(lines[0], format!("{OLD}: parent of {CHILD}"));
    assert_eq!(lines[1], format!("{CHILD}: {waits}"));
    assert_eq!(lines[2], format!("{NEW}: removed"), "its lock has ended");
    // They can be restored as long as they are there: their own WAL stays too.
    let kept = decision.kept_wal(SegmentSize::DEFAULT);
    for id in [OLD, CHILD] {
        let backup = told.facts.backups.iter().find(|backup| backup.id.as_str() == id).unwrap();
        for stretch in told.facts.wal_of(backup) {
            assert!(kept.missing(stretch).is_empty(), "{id} lacks {stretch:?}");
        }
    }
    let ruled: Vec<_> = decision.ruled().iter().map(ToString::to_string).collect();
    assert_eq!(ruled, [LAST], "what only waits is not kept by a rule");
    let needed = decision.needed_wal(&decision.ruled(), SegmentSize::DEFAULT);
    let first = needed.stretches().map(|stretch| stretch.first).min();
    assert_eq!(first, Some(told.segment_at(at("2026-01-20T02:00:00Z"))));
    // Afterwards they go.
    let after = decided_on("2026-02-01T00:00:00Z", &told);
    assert_eq!(after.removed().count(), 3);
}

#[test]
fn f088_what_a_rule_keeps_needs_no_lock_as_a_reason() {
    let policy = Policy { daily: 3, ..nothing() };
    let told = locked(&[(OLD, "2026-02-01T00:00:00Z"), (LAST, "2026-02-01T00:00:00Z")], &[]);
    let decision = decided(&policy, NOW, &told);
    for (id, reasons) in &decision.backups {
        assert!(!reasons.iter().any(|reason| matches!(reason, Reason::Locked(_))), "{id}");
    }
    assert_eq!(decision.ruled().len(), 3);
}

#[test]
fn f088_wal_waits_where_it_is_locked_and_only_there() {
    let free = decided_on(NOW, &told());
    let [(1, first, last)] = removed_wal(&free)[..] else { panic!("{:?}", free.wal_removed) };
    let (until, over) = ("2026-01-25T00:00:00Z", "2026-01-20T12:00:00Z");
    let told = locked(&[], &[(first, first + 9, over), (first + 10, last + 40, until)]);
    let decision = decided_on(NOW, &told);
    assert_eq!(removed_wal(&decision), [(1, first, first + 9)]);
    let waits: Vec<_> = decision
        .wal_kept
        .iter()
        .filter(|(_, reason)| matches!(reason, WalReason::Locked(_)))
        .collect();
    assert_eq!(waits, [&(stretch(first + 10, last), WalReason::Locked(at(until)))]);
    let needed = decision.needed_wal(&decision.ruled(), SegmentSize::DEFAULT);
    assert!(!needed.has(TimelineId::FIRST, SegmentNo(last)), "it only waits");
    assert!(decision.kept_wal(SegmentSize::DEFAULT).has(TimelineId::FIRST, SegmentNo(last)));
}
