//! The findings of whole segments, compared with what the server said when they were made.

use super::sample::{self, MAJORS, Sample};
use crate::base::Timestamp;
use crate::pg::wal::{Begins, Ending, Findings, Invalid, Outcome, WalLevel};

fn check_work(sample: &Sample, findings: &Findings) {
    let switch_end = sample.lsn("switch_end");
    assert_eq!((findings.end, findings.ending), (switch_end, Ending::Switched));
    assert_eq!((findings.first_timeline, findings.last_timeline), (1, 1));
    assert_eq!(findings.not_understood, 0);

    let first = findings.first_end.expect("a commit");
    assert_eq!((first.outcome, first.xid), (Outcome::Commit, sample.xid("first_xid")));
    assert_eq!(first.time, sample.time("first_commit_micros"));
    let last = findings.last_end.expect("a commit");
    assert_eq!((last.outcome, last.xid), (Outcome::Commit, sample.xid("last_xid")));
    assert_eq!(last.time, sample.time("last_commit_micros"));
    assert!(first.end_lsn < last.end_lsn && last.end_lsn < switch_end);
    assert_eq!((findings.earliest, findings.latest), (Some(first.time), Some(last.time)));
    let xids = findings.xids.expect("transactions");
    assert_eq!((xids.smallest, xids.largest), (first.xid, last.xid));

    let points: Vec<(String, u64)> = findings
        .restore_points
        .items
        .iter()
        .map(|point| (point.name().into_owned(), point.end_lsn))
        .collect();
    let expected = [
        ("before the checkpoint".to_owned(), sample.lsn("restore_point_1")),
        ("after the checkpoint".to_owned(), sample.lsn("restore_point_2")),
    ];
    assert_eq!(points, expected);
    let times: Vec<Timestamp> =
        findings.restore_points.items.iter().filter_map(|point| point.time).collect();
    assert!(times.is_sorted() && first.time < times[0] && times[1] < last.time);
}

fn check_checkpoint(sample: &Sample, findings: &Findings) {
    let words: Vec<&str> = sample.fact("checkpoint").split(' ').collect();
    assert_eq!(findings.checkpoints, 1);
    let found = findings.last_checkpoint.expect("a checkpoint");
    assert_eq!(findings.first_checkpoint, Some(found));
    assert_eq!(found.lsn, sample::lsn(words[0]));
    assert_eq!(found.redo, sample::lsn(words[1]));
    assert_eq!(found.timeline.to_string(), words[2]);
    assert_eq!(found.previous_timeline, 1);
    assert_eq!(found.time.map(|time| time.timestamp().to_string()).as_deref(), Some(words[3]));
    assert!(!found.is_shutdown);
    let level = (sample.major >= 17).then_some(WalLevel::Logical);
    assert_eq!(found.wal_level, level);
}

#[test]
fn a_segment_of_ordinary_work() {
    for major in MAJORS {
        let sample = sample::load(major, "work");
        let findings = sample.findings();
        check_work(&sample, &findings);
        check_checkpoint(&sample, &findings);
        // Rolled back: one transaction, one savepoint, one prepared transaction.
        assert_eq!((findings.commits, findings.aborts), (5, 3), "{major}");
    }
}

#[test]
fn a_prepared_transaction_ends_under_its_own_number() {
    for major in MAJORS {
        let sample = sample::load(major, "work");
        let mut reader = sample.reader();
        let format = reader.format();
        let mut ends = vec![];
        while let Some(record) = reader.read_next() {
            if let Some(xact) = super::super::Xact::parse(&record, format).expect("valid") {
                ends.push((xact.xid, xact.outcome, xact.time));
            }
        }
        let time = Some(sample.time("prepared_commit_micros"));
        assert!(ends.contains(&(sample.xid("prepared_xid"), Outcome::Commit, time)), "{major}");
        let find = |xid| ends.iter().find(|(found, ..)| *found == sample.xid(xid));
        assert_eq!(find("lost_xid").expect("rolled back").1, Outcome::Abort, "{major}");
        assert_eq!(find("abort_xid").expect("rolled back").1, Outcome::Abort, "{major}");
    }
}

#[test]
fn a_record_lost_in_a_crash_is_written_over() {
    for major in MAJORS {
        let sample = sample::load(major, "overwrite");
        let findings = sample.findings();
        assert_eq!(findings.ending, Ending::Switched, "{major}");
        assert_eq!(findings.end, sample.lsn("switch_end"));
        let overwrite = findings.overwrites.items[0];
        assert!(overwrite.lost_lsn > sample.address && overwrite.lost_lsn < overwrite.end_lsn);
        assert!(overwrite.time.is_some());
        // What committed before and after the crash, and nothing of what was lost.
        assert_eq!(findings.commits, 2, "{major}");
    }
}

#[test]
fn a_record_lost_with_the_next_segment_is_written_over_there() {
    let cut = sample::load(15, "cut");
    let Ending::Cut(record) = cut.findings().ending else { panic!("{:?}", cut.findings()) };
    let first = sample::load(15, "overwrite_first").findings();
    assert_eq!(first.begins, Begins::Overwrite);
    assert_eq!(first.overwrites.items[0].lost_lsn, record.lsn);
    assert_eq!(first.ending, Ending::Switched);
}

#[test]
fn a_record_that_is_cut_by_the_end_of_its_segment_goes_on_in_the_next() {
    let cut = sample::load(15, "cut").findings();
    let Ending::Cut(record) = cut.ending else { panic!("{cut:?}") };
    let next = sample::load(15, "continued");
    let header = record.header.expect("a whole header");
    // RM_LOGICALMSG_ID.
    assert_eq!((header.resource_manager, header.total_bytes), (21, record.total_bytes));
    assert_eq!(cut.end, record.lsn);
    assert!(cut.ending.is_whole());

    // What is left of it: all but what fitted into the rest of the first page and the last pages.
    let findings = next.findings();
    let Begins::Continuation { bytes } = findings.begins else { panic!("{findings:?}") };
    let pages = (next.address - record.lsn) / 8192;
    let held = next.address - record.lsn - pages * 24;
    assert_eq!(u64::from(bytes), u64::from(record.total_bytes) - held);
    assert_eq!((findings.records, findings.commits), (3, 1));
}

#[test]
fn the_old_content_of_a_recycled_file_is_not_read() {
    for major in MAJORS {
        let sample = sample::load(major, "partial");
        let findings = sample.findings();
        assert_eq!(findings.end, sample.lsn("switch_point"), "{major}");
        assert!(matches!(findings.ending, Ending::Partial(_)), "{major} {:?}", findings.ending);
        assert!(!findings.ending.is_whole());
    }
    let continued = sample::load(15, "continued").findings();
    assert!(matches!(continued.ending, Ending::Partial(Invalid::Zeros)));
}

#[test]
fn a_promoted_server_goes_on_in_a_copy_of_the_old_segment() {
    for major in MAJORS {
        let (old, new) = (sample::load(major, "partial"), sample::load(major, "promoted"));
        let (left, findings) = (old.findings(), new.findings());
        assert_eq!((findings.first_timeline, findings.last_timeline), (1, 2), "{major}");
        assert_eq!(findings.ending, Ending::Switched);
        assert_eq!(findings.end, new.lsn("switch_end"));
        let end = findings.ends_of_recovery.items[0];
        assert_eq!((end.timeline, end.previous_timeline), (2, 1));
        assert!(end.end_lsn > left.end && end.time.is_some());
        assert_eq!(end.wal_level, (major >= 17).then_some(WalLevel::Logical));
        assert_eq!(findings.last_checkpoint.map(|checkpoint| checkpoint.timeline), Some(2));
        assert_eq!(findings.first_end, left.first_end);
        assert!(findings.commits > left.commits);
        assert!(findings.records > left.records);
    }
}

#[test]
fn under_the_old_name_the_new_timelines_pages_do_not_count() {
    let new = sample::load(16, "promoted");
    let findings = super::super::scan_segment(new.bytes.as_slice(), &new.header(), 1);
    assert!(matches!(findings.ending, Ending::Partial(Invalid::PageTimeline { found: 2, .. })));
}
