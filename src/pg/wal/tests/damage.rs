//! Damaged segments: no bytes make the reader panic, and no damaged record is handed out.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::sample::{self, Sample};
use crate::pg::wal::{Ending, Reader, SegmentHeader, scan_segment};

/// Small ones of each kind, so that a case takes little time.
static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let mut samples: Vec<Sample> =
        sample::MAJORS.iter().map(|major| sample::load(*major, "overwrite")).collect();
    samples.extend([
        sample::load(14, "work"),
        sample::load(15, "continued"),
        sample::load(18, "promoted"),
    ]);
    samples
});

/// Records of a segment: where each begins, where the next may, and its bytes.
type Records = Vec<(u64, u64, Vec<u8>)>;

fn read(sample: &Sample, bytes: &[u8]) -> (Records, u64) {
    let mut reader = Reader::new(bytes, &sample.header(), sample.timeline).expect("known");
    let mut records = vec![];
    while let Some(record) = reader.read_next() {
        records.push((record.lsn, record.end_lsn, record.bytes.to_vec()));
    }
    (records, reader.position())
}

/// Whether no checksum covers the byte: a page header, padding, or the rest of an earlier record.
fn is_uncovered(records: &Records, offset: usize, address: u64) -> bool {
    let at = address + offset as u64;
    let header = if offset < 8192 { 40 } else { 24 };
    let Some((lsn, end, bytes)) = records.iter().find(|(lsn, end, _)| (*lsn..*end).contains(&at))
    else {
        return true;
    };
    let is_one_page = lsn / 8192 == (end - 1) / 8192;
    let is_padding = is_one_page && at >= lsn + bytes.len() as u64;
    // The padding after a record of several pages is in its last eight bytes.
    offset % 8192 < header || is_padding || (!is_one_page && at >= end - 8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_flipped_byte_ends_the_valid_records_before_it(
        which in 0..SAMPLES.len(),
        place in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let sample = &SAMPLES[which];
        let (records, end) = read(sample, &sample.bytes);
        let offset = place.index(usize::try_from(end - sample.address).expect("1 MiB"));
        let mut bytes = sample.bytes.clone();
        bytes[offset] ^= flip;
        let (found, found_end) = read(sample, &bytes);
        // Whatever was hit, nothing is handed out that the server did not write.
        prop_assert!(found.iter().all(|record| records.contains(record)));
        prop_assert!(found_end <= end);
        if !is_uncovered(&records, offset, sample.address) {
            let at = sample.address + offset as u64;
            prop_assert!(found_end <= at, "{found_end:#x} is past {at:#x}");
            prop_assert!(found.iter().all(|(_, end, _)| *end <= at));
        }
    }

    #[test]
    fn a_truncated_segment_is_partial(
        which in 0..SAMPLES.len(),
        place in any::<prop::sample::Index>(),
    ) {
        let sample = &SAMPLES[which];
        let (records, end) = read(sample, &sample.bytes);
        // Up to the start of the last page that holds records: without it they cannot be whole.
        let last_page = usize::try_from(end - sample.address).expect("1 MiB") / 8192 * 8192;
        let bytes = &sample.bytes[..place.index(last_page + 1)];
        let (found, _) = read(sample, bytes);
        prop_assert!(found.len() < records.len() && records.starts_with(&found));
        let findings = scan_segment(bytes, &sample.header(), sample.timeline);
        prop_assert!(matches!(findings.ending, Ending::Partial(_)));
    }

    #[test]
    fn many_flips_never_panic(
        which in 0..SAMPLES.len(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        pages in prop::collection::vec((0..8_usize, 0..40_usize, any::<u8>()), 0..6),
    ) {
        let sample = &SAMPLES[which];
        let mut bytes = sample.bytes.clone();
        for (place, value) in flips {
            bytes[place.index(200_000)] ^= value;
        }
        // Page headers decide most: hit them on purpose.
        for (page, at, value) in pages {
            bytes[page * 8192 + at] = value;
        }
        let (_, end) = read(sample, &bytes);
        prop_assert!(end <= sample.address + bytes.len() as u64);
        scan(&bytes, sample.timeline);
    }

    #[test]
    fn random_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..40_000),
        which in 0..SAMPLES.len(),
        keep in 0..64_usize,
    ) {
        scan(&bytes, 1);
        // Behind a good header the rest is looked at too.
        let kept = keep.min(bytes.len());
        bytes[..kept].copy_from_slice(&SAMPLES[which].bytes[..kept]);
        scan(&bytes, 1);
        let (found, _) = read(&SAMPLES[which], &bytes);
        prop_assert!(found.is_empty());
    }

    #[test]
    fn records_of_random_content_never_panic(
        kind in 0..2_u8,
        info in any::<u8>(),
        main in prop::collection::vec(any::<u8>(), 0..120),
        headers in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        for format in crate::pg::wal::Format::ALL {
            let mut forge = super::forge::Forge::new(format, 0);
            forge.record(kind, info, 7, &main);
            // Without a data header the content is taken for block headers.
            forge.raw_record(kind, info, &headers);
            let findings = forge.findings();
            prop_assert!(findings.records >= 1);
        }
    }
}

fn scan(bytes: &[u8], timeline: u32) {
    if let Ok(header) = SegmentHeader::parse(bytes) {
        let findings = scan_segment(bytes, &header, timeline);
        assert!(findings.end >= header.address);
    }
}

/// A damaged length made a good record look as if it were the one that was lost in the crash, and the
/// valid records seemed to reach to the page where reading went on.
#[test]
fn a_damaged_length_does_not_make_a_record_a_lost_one() {
    let sample = &SAMPLES[0];
    let (records, _) = read(sample, &sample.bytes);
    for (lsn, ..) in records.iter().take_while(|(lsn, ..)| *lsn < sample.address + 8192) {
        let mut bytes = sample.bytes.clone();
        bytes[usize::try_from(lsn - sample.address).expect("1 MiB") + 1] ^= 32;
        let (found, end) = read(sample, &bytes);
        // The first record of a segment begins after the page header, the valid part before it.
        assert!(end == *lsn || end == sample.address, "{end:#x} {lsn:#x}");
        assert!(found.iter().all(|record| records.contains(record)));
    }
}
