//! Records at the edges of pages and segments, and findings at the edges of their ranges.

use super::forge::{ADDRESS, Forge, SEGMENT_BYTES};
use crate::pg::wal::{
    Begins, Ending, Findings, Format, Invalid, LIST_MAX, RM_XACT, RM_XLOG, SegmentHeader, WalLevel,
    scan_segment,
};

const END: u64 = ADDRESS + SEGMENT_BYTES as u64;

fn commit(micros: i64) -> [u8; 8] {
    micros.to_le_bytes()
}

fn check_end(findings: &Findings, records: u64, why: Invalid) {
    assert_eq!((findings.records, findings.ending), (records, Ending::Partial(why)));
}

#[test]
fn a_record_header_may_be_split_between_pages() {
    for left in [0, 8, 16, 24] {
        let mut forge = Forge::new(Format::V16, 0);
        forge.fill(left, 8192);
        forge.record(RM_XACT, 0, 700, &commit(1));
        forge.record(RM_XACT, 0, 701, &commit(2));
        let findings = forge.findings();
        check_end(&findings, 3, Invalid::Zeros);
        assert_eq!((findings.commits, findings.end), (2, ADDRESS + forge.position as u64));
    }
}

#[test]
fn a_segment_may_end_with_a_record_or_within_one() {
    for left in [0_usize, 8, 16, 24, 32] {
        let mut forge = Forge::new(Format::V17, 0);
        forge.fill(left, SEGMENT_BYTES);
        let last = forge.record(RM_XACT, 0, 9, &commit(3));
        let findings = forge.findings();
        assert_eq!(findings.records, 1);
        assert!(findings.ending.is_whole());
        match findings.ending {
            Ending::Full => assert_eq!((left, findings.end), (0, END)),
            Ending::Cut(cut) => {
                assert_eq!((cut.lsn, cut.total_bytes), (last, 34));
                assert_eq!((last, findings.end), (END - left as u64, last));
                assert_eq!(cut.header.map(|header| header.xid), (left >= 24).then_some(9));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_segment_may_be_the_middle_of_a_record() {
    let whole = Forge::new(Format::V18, 3 << 20).findings();
    assert_eq!((whole.begins, whole.ending), {
        (Begins::Continuation { bytes: 3 << 20 }, Ending::Within)
    });
    assert_eq!((whole.records, whole.end), (0, END));

    let mut ends_here = Forge::new(Format::V18, 20_000);
    ends_here.record(RM_XACT, 0, 5, &commit(0));
    let findings = ends_here.findings();
    check_end(&findings, 1, Invalid::Zeros);
    assert_eq!(findings.commits, 1);

    // All that fits into the segment, to the byte: the next page would begin with a record.
    let room = SEGMENT_BYTES - 128 * 24 - 16;
    let exact = Forge::new(Format::V18, room).findings();
    assert_eq!((exact.ending, exact.end), (Ending::Full, END));
    assert_eq!(Forge::new(Format::V18, room + 1).findings().ending, Ending::Within);
}

#[test]
fn a_continuation_that_breaks_off_ends_the_valid_records() {
    let mut forge = Forge::new(Format::V15, 20_000);
    forge.bytes[8192..].fill(0);
    check_end(&forge.findings(), 0, Invalid::Zeros);
    let mut forge = Forge::new(Format::V15, 20_000);
    // xlp_rem_len of the second page.
    forge.bytes[8192 + 16] ^= 1;
    let page = ADDRESS + 8192;
    check_end(&forge.findings(), 0, Invalid::Continuation { page });
}

#[test]
fn a_record_with_a_right_checksum_must_also_follow_its_predecessor() {
    let mut forge = Forge::new(Format::V14, 0);
    let first = forge.record(RM_XACT, 0, 5, &commit(0));
    forge.previous = 4711;
    forge.record(RM_XACT, 0, 6, &commit(0));
    check_end(&forge.findings(), 1, Invalid::Link { expected: first, found: 4711 });
}

#[test]
fn timelines_only_grow_and_stay_below_the_name() {
    let mut forge = Forge::new(Format::V16, 0);
    forge.fill(0, 8192);
    forge.timeline = 2;
    forge.fill(0, 8192);
    forge.fill(0, 8192);
    let findings = forge.findings();
    assert_eq!((findings.first_timeline, findings.last_timeline, findings.records), (1, 2, 3));
    // xlp_tli of the third page.
    forge.bytes[2 * 8192 + 4] = 1;
    let page = ADDRESS + 2 * 8192;
    check_end(&forge.findings(), 2, Invalid::PageTimeline { page, found: 1 });
}

#[test]
fn custom_resource_managers_exist_from_15_on() {
    for format in Format::ALL {
        let mut forge = Forge::new(format, 0);
        forge.record(128, 0, 0, b"custom");
        let findings = forge.findings();
        if format == Format::V14 {
            check_end(&findings, 0, Invalid::ResourceManager(128));
        } else {
            check_end(&findings, 1, Invalid::Zeros);
        }
        forge.record(22, 0, 0, b"no such");
        let why = if format == Format::V14 { 128 } else { 22 };
        assert_eq!(forge.findings().ending, Ending::Partial(Invalid::ResourceManager(why)));
    }
}

#[test]
fn a_record_that_names_another_lost_record_ends_the_valid_ones() {
    for (named, is_right) in [(0_u64, true), (8, false)] {
        let mut forge = Forge::new(Format::V15, 0);
        forge.record(RM_XACT, 0, 5, &commit(0));
        let before = forge.previous;
        let lost = forge.record(21, 0, 0, &[1; 20_000]);
        // The crash: all from the second page on is gone.
        forge.bytes[8192..].fill(0);
        (forge.position, forge.previous) = (8192, before);
        let mut main = (lost + named).to_le_bytes().to_vec();
        main.extend(commit(5));
        forge.record(RM_XLOG, 0xD0, 0, &main);
        forge.bytes[8192 + 2] = 8;
        let findings = forge.findings();
        if is_right {
            check_end(&findings, 2, Invalid::Zeros);
            assert_eq!(findings.overwrites.items[0].lost_lsn, lost);
        } else {
            let why = Invalid::Overwrite { expected: lost, found: lost + named };
            check_end(&findings, 1, why);
            assert_eq!(findings.end, lost);
        }
    }
}

#[test]
fn absurd_times_are_dropped_but_the_transactions_count() {
    let mut forge = Forge::new(Format::V18, 0);
    for micros in [i64::MIN, -946_684_800_000_001, i64::MAX, i64::MAX / 2] {
        forge.record(RM_XACT, 0, 10, &commit(micros));
    }
    let findings = forge.findings();
    assert_eq!((findings.commits, findings.first_end, findings.latest), (4, None, None));
    // Microsecond 0 is 2000-01-01; the two times are out of the log's order.
    forge.record(RM_XACT, 0, 11, &commit(2_000_000));
    forge.record(RM_XACT, 0x20, 12, &commit(0));
    let findings = forge.findings();
    let text = |time: crate::base::Timestamp| time.to_rfc3339();
    assert_eq!(findings.latest.map(text).as_deref(), Some("2000-01-01T00:00:02+00:00"));
    assert_eq!(findings.earliest.map(text).as_deref(), Some("2000-01-01T00:00:00+00:00"));
    assert_eq!(findings.last_end.map(|end| end.time), findings.earliest);
}

#[test]
fn transaction_numbers_are_compared_on_their_circle() {
    let mut forge = Forge::new(Format::V18, 0);
    for xid in [u32::MAX - 1, 3, u32::MAX, 5] {
        forge.record(RM_XACT, 0, xid, &commit(0));
    }
    let xids = forge.findings().xids.expect("transactions");
    assert_eq!((xids.smallest, xids.largest), (u32::MAX - 1, 5));
}

#[test]
fn lists_are_bounded_and_count_what_they_omit() {
    let mut forge = Forge::new(Format::V14, 0);
    for number in 0..LIST_MAX + 3 {
        let mut main = commit(0).to_vec();
        main.extend(format!("point {number}").as_bytes());
        main.resize(72, 0);
        forge.record(RM_XLOG, 0x70, 0, &main);
    }
    let points = forge.findings().restore_points;
    assert_eq!((points.items.len(), points.omitted), (LIST_MAX, 3));
    assert_eq!(points.items[1].name(), "point 1");
}

#[test]
fn rarer_records_are_read_too() {
    let mut forge = Forge::new(Format::V16, 0);
    let start = 0xABCD_u64;
    forge.record(RM_XLOG, 0x50, 0, &start.to_le_bytes());
    let mut parameters = [0; 28];
    for (offset, value) in [(0, 200), (4, 9), (8, 11), (12, 3), (16, 65), (20, 1)] {
        parameters[offset] = value;
    }
    forge.record(RM_XLOG, 0x60, 0, &parameters);
    // Content that its kind does not have.
    forge.record(RM_XLOG, 0x50, 0, b"short");
    forge.record(RM_XACT, 0x30, 1, &commit(0));
    let findings = forge.findings();
    assert_eq!(findings.backup_ends.items[0].start_lsn, start);
    let change = findings.parameters.items[0];
    assert_eq!(change.wal_level, Some(WalLevel::Replica));
    let numbers = [
        change.max_connections,
        change.max_worker_processes,
        change.max_wal_senders,
        change.max_prepared_transactions,
        change.max_locks_per_transaction,
    ];
    assert_eq!(numbers, [200, 9, 11, 3, 65]);
    assert_eq!((findings.not_understood, findings.records), (2, 4));
}

#[test]
fn a_header_that_nobody_parsed_is_checked_again() {
    let forge = Forge::new(Format::V16, 100);
    let good = forge.header();
    let bad = [
        SegmentHeader { block_bytes: 0, ..good },
        SegmentHeader { segment_bytes: 8192, ..good },
        SegmentHeader { address: u64::MAX, ..good },
    ];
    for header in bad {
        assert_eq!(scan_segment(forge.bytes.as_slice(), &header, 1).ending, Ending::NotRead);
    }
}

#[test]
fn an_impossible_length_at_the_end_is_no_cut_record() {
    let mut forge = Forge::new(Format::V16, 0);
    forge.fill(8, SEGMENT_BYTES);
    forge.bytes[SEGMENT_BYTES - 8..SEGMENT_BYTES - 4].fill(0xFF);
    check_end(&forge.findings(), 1, Invalid::Length(u32::MAX));
    forge.bytes[SEGMENT_BYTES - 8..SEGMENT_BYTES - 4].copy_from_slice(&[23, 0, 0, 0]);
    check_end(&forge.findings(), 1, Invalid::Length(23));
}
