//! A record that begins in one segment and ends in the next, put together from both.
//!
//! Follows `XLogDecodeNextRecord` in `xlogreader.c`, as the reader does within a segment: the pages of
//! the next segment must say that they continue this very record, and the checksum is that of the
//! whole. A record that fills more than one segment besides is not looked at.

use super::page_header::{
    FIRST_IS_CONTRECORD, FIRST_IS_OVERWRITE_CONTRECORD, SegmentHeader, check_sizes,
};
use super::pages::Pages;
use super::reader::align;
use super::record::{Record, RecordHeader};
use super::{Format, Magic, Reader, Stop};

/// What became of a record that is cut by its segment's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// It goes on in the next segment, and its checksum is right.
    Record(JoinedRecord),
    /// It was lost in a crash: the next segment begins with another one in its place.
    Lost,
}

/// A record that lies in two segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedRecord {
    lsn: u64,
    end_lsn: u64,
    header: RecordHeader,
    bytes: Vec<u8>,
    format: Format,
}

impl JoinedRecord {
    /// The record.
    #[must_use]
    pub fn record(&self) -> Record<'_> {
        Record { lsn: self.lsn, end_lsn: self.end_lsn, header: self.header, bytes: &self.bytes }
    }

    /// Its format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }
}

/// Puts the record together that `reader` has come to the beginning of, with the segment behind it, whose
/// name says `timeline`. `None` when it is not cut there, or that segment does not tell.
#[must_use]
pub fn joined(
    reader: &Reader<&[u8]>,
    next: &[u8],
    next_header: &SegmentHeader,
    timeline: u32,
) -> Option<Joined> {
    let Some(Stop::Cut(cut)) = reader.stop() else { return None };
    let format = reader.format();
    check_sizes(next_header.address, next_header.segment_bytes, next_header.block_bytes).ok()?;
    if next_header.magic != Magic::Known(format) || next_header.address != reader.segment_end() {
        return None;
    }
    let mut pages = Pages::new(next, next_header, format, timeline);
    let mut bytes = reader.head().to_vec();
    let total_bytes = cut.total_bytes as usize;
    let mut page = 0;
    while page < pages.segment_bytes() {
        let header = pages.enter(page).ok()?;
        if page == 0 && header.has(FIRST_IS_OVERWRITE_CONTRECORD) {
            return Some(Joined::Lost);
        }
        let remaining = total_bytes.checked_sub(bytes.len())?;
        if !header.has(FIRST_IS_CONTRECORD) || header.remaining_bytes as usize != remaining {
            return None;
        }
        pages.check_whole(page).ok()?;
        let from = page + header.header_bytes();
        let here = remaining.min(pages.block_bytes() - header.header_bytes());
        bytes.extend_from_slice(pages.range(from, here)?);
        if here == remaining {
            let header = RecordHeader::parse(&bytes)?;
            let follows = reader.previous().is_none_or(|previous| previous == header.previous);
            let is_sound = follows
                && header.previous < cut.lsn
                && header.has_valid_resource_manager(format)
                && header.checksum_matches(&bytes);
            let end_lsn = pages.lsn(from + align(here));
            let record = JoinedRecord { lsn: cut.lsn, end_lsn, header, bytes, format };
            return is_sound.then_some(Joined::Record(record));
        }
        page += pages.block_bytes();
    }
    None
}
