//! Names and numbers at the edges of every segment size.

use super::*;
use proptest::prelude::*;

fn mib(size: u64) -> SegmentSize {
    SegmentSize::new(size << 20).unwrap()
}

#[test]
fn f016_rollover_at_every_size() {
    for (size, last) in [(1, "00000FFF"), (16, "000000FF"), (64, "0000003F"), (1024, "00000003")] {
        let name = SegmentName::parse(format!("0000000A00000001{last}").as_bytes()).unwrap();
        let number = name.number(mib(size)).unwrap();
        let next = SegmentName::new(name.timeline(), number.next().unwrap(), mib(size)).unwrap();
        assert_eq!(next.to_string(), "0000000A0000000200000000", "{size} MiB");
        assert_eq!(number.end(mib(size)), Some(Lsn(0x2_0000_0000)));
        let mut over = name;
        over.segment += 1;
        assert!(over.number(mib(size)).is_err(), "{size} MiB");
    }
}

#[test]
fn only_powers_of_two_in_range_are_sizes() {
    for wrong in [0, 1, 1 << 19, (1 << 20) + 1, 3 << 20, 1 << 31, 1 << 32, u64::MAX] {
        assert!(SegmentSize::new(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_stop_segment_is_that_of_the_byte_before() {
    let size = SegmentSize::DEFAULT;
    assert_eq!(SegmentNo::of(Lsn(0x300_0000), size), SegmentNo(3));
    assert_eq!(SegmentNo::of_end(Lsn(0x300_0000), size), Some(SegmentNo(2)));
    assert_eq!(SegmentNo::of_end(Lsn(0x300_0001), size), Some(SegmentNo(3)));
    assert_eq!(SegmentNo::of_end(Lsn::INVALID, size), None);
    assert_eq!(offset(Lsn(0x5_0300_0028), size), 0x28);
    let last = SegmentNo::of(Lsn(u64::MAX), size);
    assert_eq!(last.end(size), None);
    assert_eq!(last.next().unwrap().begin(size), None);
    assert!(SegmentName::new(TimelineId::FIRST, last.next().unwrap(), size).is_err());
    assert_eq!(SegmentNo(0).previous(), None);
}

#[test]
fn what_the_archiver_can_be_handed() {
    let segment = SegmentName::parse(b"0000000100000016000000B3").unwrap();
    let offset = 0x28;
    for (name, expected) in [
        ("0000000100000016000000B3", WalFileName::Segment(segment)),
        ("0000000100000016000000B3.partial", WalFileName::Partial(segment)),
        ("0000001A.history", WalFileName::History(TimelineId::new(26).unwrap())),
        (
            "0000000100000016000000B3.00000028.backup",
            WalFileName::BackupHistory { segment, offset },
        ),
    ] {
        assert_eq!(WalFileName::parse(name.as_bytes()), Ok(expected));
        assert_eq!(expected.to_string(), name);
    }
    for wrong in [
        "",
        "RECOVERYXLOG",
        "RECOVERYHISTORY",
        "xlogtemp.12",
        "00000000.history",
        "1.history",
        "0000000000000016000000B3",
        "0000000100000016000000b3",
        "000000010000001600001000",
        "0000000100000016000000B3.0000028.backup",
        "0000000100000016000000B3.partial.backup",
        "0000000100000016000000B3.backup",
        "0000000100000016000000B3 ",
        "../0000000100000016000000B3",
    ] {
        assert!(WalFileName::parse(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken(name: Vec<u8>) {
        WalFileName::parse(&name).ok();
    }

    #[test]
    fn names_round_trip(timeline in 1u32.., lsn: u64, log2 in 20u32..=30) {
        let size = SegmentSize::new(1 << log2).unwrap();
        let number = SegmentNo::of(Lsn(lsn), size);
        let name = SegmentName::new(TimelineId::new(timeline).unwrap(), number, size).unwrap();
        prop_assert_eq!(SegmentName::parse(name.to_string().as_bytes()), Ok(name));
        prop_assert_eq!(name.number(size), Ok(number));
        let begin = number.begin(size).unwrap();
        prop_assert_eq!(Lsn(lsn).bytes_since(begin), Some(u64::from(offset(Lsn(lsn), size))));
    }
}
