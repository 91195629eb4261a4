//! The identity of a segment, and every way in which it can be another's.

use super::sample;
use crate::pg::wal::{Begins, Error, Expected, Magic, SegmentHeader};

#[test]
fn every_sample_is_the_segment_that_its_name_says() {
    for sample in sample::all() {
        let header = sample.header();
        assert_eq!(header.magic.major(), Some(sample.major));
        assert!(matches!(header.magic, Magic::Known(_)));
        assert_eq!((header.segment_bytes, header.block_bytes), (1 << 20, 8192));
        let expected = Expected { ancestors: &[1], ..sample.expected() };
        assert_eq!(header.check(&expected, 1 << 20), Ok(()), "{}", sample.fact("segment"));
    }
}

#[test]
fn only_a_switch_segment_may_begin_on_an_ancestor() {
    let sample = sample::load(15, "promoted");
    let header = sample.header();
    assert_eq!((header.timeline, sample.timeline), (1, 2));
    let found = header.check(&sample.expected(), 1 << 20);
    assert_eq!(found, Err(Error::WrongTimeline { expected: 2, found: 1 }));
}

#[test]
fn each_difference_has_its_own_error() {
    let sample = sample::load(16, "work");
    let (header, right) = (sample.header(), sample.expected());
    let check = |expected: Expected<'_>| header.check(&expected, 1 << 20).expect_err("wrong");
    assert_eq!(
        check(Expected { system_id: Some(7), ..right }),
        Error::WrongSystem { expected: 7, found: header.system_id }
    );
    assert_eq!(
        check(Expected { address: 0, ..right }),
        Error::WrongAddress { expected: 0, found: sample.address }
    );
    assert_eq!(
        check(Expected { segment_bytes: 16 << 20, ..right }),
        Error::WrongSegmentSize { expected: 16 << 20, found: 1 << 20 }
    );
    assert_eq!(
        check(Expected { timeline: 9, ..right }),
        Error::WrongTimeline { expected: 9, found: 1 }
    );
    let found = header.check(&right, 8192);
    assert_eq!(found, Err(Error::WrongLength { expected: 1 << 20, found: 8192 }));
    assert_eq!(header.check(&Expected { system_id: None, ..right }, 1 << 20), Ok(()));
}

#[test]
fn impossible_headers_are_refused() {
    let good = sample::load(17, "work").bytes;
    let with = |at: usize, bytes: &[u8]| {
        let mut page = good[..SegmentHeader::BYTES].to_vec();
        page[at..at + bytes.len()].copy_from_slice(bytes);
        SegmentHeader::parse(&page).expect_err("impossible")
    };
    assert_eq!(with(0, b"PK"), Error::BadMagic { found: 0x4B50 });
    assert_eq!(with(2, &[0]), Error::NotLongHeader { flags: 0 });
    assert_eq!(with(2, &[0x12]), Error::UnknownFlags { flags: 0x12 });
    assert_eq!(
        with(8, &[1]),
        Error::BadAddress { address: sample::load(17, "work").address + 1, segment_bytes: 1 << 20 }
    );
    assert_eq!(with(8, &[0, 0, 0xF0, 255, 255, 255, 255, 255]), {
        let address = u64::MAX - 0xF_FFFF;
        Error::BadAddress { address, segment_bytes: 1 << 20 }
    });
    assert_eq!(with(32, &[0, 0, 8, 0]), Error::BadSegmentSize { found: 512 << 10 });
    assert_eq!(with(32, &[0, 0, 0, 128]), Error::BadSegmentSize { found: 1 << 31 });
    assert_eq!(with(36, &[0, 0, 2, 0]), Error::BadBlockSize { found: 1 << 17 });
    for length in 0..SegmentHeader::BYTES {
        assert!(matches!(SegmentHeader::parse(&good[..length]), Err(Error::Short { .. })));
    }
}

#[test]
fn an_unknown_magic_is_taken_only_when_asked_for() {
    for (magic, major) in [(0xD121_u16, Some(19)), (0xD106, Some(13)), (0xD1F0, None)] {
        let mut sample = sample::load(18, "work");
        sample.bytes[..2].copy_from_slice(&magic.to_le_bytes());
        let header = sample.header();
        let expected = sample.expected();
        let found = header.check(&expected, 1 << 20);
        assert_eq!(found, Err(Error::UnknownMagic { found: magic, major }));
        let accepting = Expected { accept_unknown_magic: true, ..expected };
        assert_eq!(header.check(&accepting, 1 << 20), Ok(()));
        let findings = sample.findings();
        assert_eq!(findings.ending, super::super::Ending::NotRead);
        assert!(!findings.ending.is_whole());
        assert_eq!(findings.records, 0);
    }
}

#[test]
fn a_segment_says_what_it_begins_with() {
    let begins = |name| sample::load(15, name).header().begins;
    assert!(matches!(begins("continued"), Begins::Continuation { bytes } if bytes > 8192));
    assert_eq!(begins("overwrite_first"), Begins::Overwrite);
    assert_eq!(begins("work"), Begins::Record);
}
