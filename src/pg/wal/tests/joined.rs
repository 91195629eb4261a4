//! Records that lie in two segments.

use super::forge::{ADDRESS, Forge, SEGMENT_BYTES};
use super::sample;
use crate::pg::wal::{
    Ending, Format, Joined, RM_XACT, RM_XLOG, Reader, SegmentHeader, Xact, XlogEvent, joined,
};

const RESTORE_POINT: u8 = 0x70;

/// Two segments, and what becomes of the record that is cut by the end of the first.
fn join(first: &[u8], next: &[u8]) -> Option<Joined> {
    let header = SegmentHeader::parse(first).unwrap();
    let mut reader = Reader::new(first, &header, 1).unwrap();
    while reader.read_next().is_some() {}
    joined(&reader, next, &SegmentHeader::parse(next).unwrap(), 1)
}

/// A record that has `left` bytes in the first segment, and the segments.
fn cut(left: usize, resource_manager: u8, info: u8, main: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut first = Forge::new(Format::V16, 0);
    first.fill(left, SEGMENT_BYTES);
    first.record(resource_manager, info, 700, main);
    let mut next = first.next();
    next.record(RM_XACT, 0, 701, &0_i64.to_le_bytes());
    (first.bytes, next.bytes)
}

fn restore_point(name: &str) -> Vec<u8> {
    let mut main = 1_000_000_i64.to_le_bytes().to_vec();
    main.extend(name.as_bytes());
    main.resize(8 + 64, 0);
    main
}

#[test]
fn a_record_in_two_segments_is_read_wherever_it_is_cut() {
    let main = restore_point("on the boundary");
    for left in [8_usize, 16, 24, 32, 64, 96] {
        let (first, next) = cut(left, RM_XLOG, RESTORE_POINT, &main);
        let Some(Joined::Record(record)) = join(&first, &next) else { panic!("{left}") };
        let Ok(Some(XlogEvent::RestorePoint(point))) =
            XlogEvent::parse(&record.record(), record.format())
        else {
            panic!("{left}")
        };
        assert_eq!(point.name(), "on the boundary");
        let end = ADDRESS + SEGMENT_BYTES as u64;
        assert_eq!(record.record().lsn, end - left as u64);
        let rest = (24 + 2 + main.len() - left).next_multiple_of(8) as u64;
        assert_eq!(point.end_lsn, end + 40 + rest);
    }
    let (first, next) = cut(16, RM_XACT, 0, &7_i64.to_le_bytes());
    let Some(Joined::Record(record)) = join(&first, &next) else { panic!() };
    let xact = Xact::parse(&record.record(), record.format()).unwrap().unwrap();
    assert_eq!(xact.xid, 700);
}

#[test]
fn a_record_over_many_pages_is_read() {
    let main = vec![0x5A; 50_000];
    let (first, next) = cut(3000, RM_XLOG, 0xB0, &main);
    let Some(Joined::Record(record)) = join(&first, &next) else { panic!() };
    assert_eq!(record.record().main_data(Format::V16).unwrap(), main);
}

#[test]
fn no_changed_byte_of_either_half_is_accepted() {
    let (first, next) = cut(40, RM_XLOG, RESTORE_POINT, &restore_point("x"));
    assert!(join(&first, &next).is_some());
    for at in SEGMENT_BYTES - 40..SEGMENT_BYTES {
        let mut changed = first.clone();
        changed[at] ^= 1;
        assert_eq!(join(&changed, &next), None, "{at}");
    }
    for at in 40..40 + 24 + 2 + 72 - 40 {
        let mut changed = next.clone();
        changed[at] ^= 0x80;
        assert_eq!(join(&first, &changed), None, "{at}");
    }
    // A segment of elsewhere, or one that does not go on with a record.
    assert_eq!(join(&first, &first), None);
    let (_, other) = cut(48, RM_XLOG, RESTORE_POINT, &restore_point("x"));
    assert_eq!(join(&first, &other), None, "another rest");
}

#[test]
fn a_record_that_was_lost_in_a_crash_is_no_record() {
    let (cut, first) = (sample::load(15, "cut"), sample::load(15, "overwrite_first"));
    assert!(matches!(cut.findings().ending, Ending::Cut(_)));
    assert_eq!(join(&cut.bytes, &first.bytes), Some(Joined::Lost));
    let next = sample::load(15, "continued");
    let found = join(&cut.bytes, &next.bytes);
    let Some(Joined::Record(record)) = found else { panic!("{found:?}") };
    assert_eq!(record.record().header.resource_manager, 21);
}
