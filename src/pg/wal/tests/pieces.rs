//! A segment that comes piece by piece is read as one in memory is.

use super::sample::{self, Sample};
use crate::pg::wal::{Reader, Source, scan_segment};

/// Pieces of one length; what was before is gone.
struct Pieces<'a> {
    bytes: &'a [u8],
    begin: usize,
    length: usize,
    is_begun: bool,
}

impl Source for Pieces<'_> {
    fn piece(&self) -> (usize, &[u8]) {
        let length = if self.is_begun { self.length } else { 0 };
        let rest = self.bytes.get(self.begin..).unwrap_or_default();
        (self.begin, rest.get(..length).unwrap_or(rest))
    }

    fn advance(&mut self) -> bool {
        let (_, current) = self.piece();
        self.begin += current.len();
        self.is_begun = true;
        self.begin < self.bytes.len()
    }
}

fn pieces(sample: &Sample, length: usize) -> Pieces<'_> {
    Pieces { bytes: &sample.bytes, begin: 0, length, is_begun: false }
}

#[test]
fn pieces_of_any_number_of_pages_are_read_as_the_whole_is() {
    for sample in sample::all() {
        let whole = sample.findings();
        let mut reader = sample.reader();
        let mut records = Vec::new();
        while let Some(record) = reader.read_next() {
            records.push((record.lsn, record.end_lsn, record.bytes.to_vec()));
        }
        for pages in [1, 2, 3, 7, 64, 1000] {
            let length = pages * 8192;
            let header = sample.header();
            let found = scan_segment(pieces(&sample, length), &header, sample.timeline);
            assert_eq!(found, whole, "pieces of {pages} pages");
            let mut reader =
                Reader::new(pieces(&sample, length), &header, sample.timeline).expect("known");
            let mut expected = records.iter();
            while let Some(record) = reader.read_next() {
                let (lsn, end, bytes) = expected.next().expect("no more than in the whole");
                assert_eq!((record.lsn, record.end_lsn, record.bytes), (*lsn, *end, &bytes[..]));
            }
            assert!(expected.next().is_none());
        }
    }
}
