//! The pages of one segment: each is checked when it is entered.
//!
//! Checks as `XLogReaderValidatePageHeader` in `xlogreader.c`. Pages must be entered in order: timelines
//! may only grow, and of a segment that comes piece by piece the pieces before are gone.

use super::page_header::{LONG_HEADER, PageHeader, SegmentHeader, long_fields};
use super::source::Source;
use super::{Format, Invalid, Stop};

/// A segment as a run of pages.
#[derive(Debug)]
pub(super) struct Pages<S> {
    source: S,
    header: SegmentHeader,
    format: Format,
    timeline_max: u32,
    timeline: u32,
}

impl<S: Source> Pages<S> {
    /// The pages of a segment; its name says `timeline_max`.
    pub(super) fn new(
        source: S,
        header: &SegmentHeader,
        format: Format,
        timeline_max: u32,
    ) -> Self {
        Pages { source, header: *header, format, timeline_max, timeline: header.timeline }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// The timeline of the last page that was entered.
    pub(super) fn timeline(&self) -> u32 {
        self.timeline
    }

    /// What is at hand from the offset `start` on, which lies in the page that was entered last.
    pub(super) fn from(&self, start: usize) -> &[u8] {
        let (begin, bytes) = self.source.piece();
        start.checked_sub(begin).and_then(|start| bytes.get(start..)).unwrap_or_default()
    }

    /// `length` bytes from the offset `start` on, if they are at hand.
    pub(super) fn range(&self, start: usize, length: usize) -> Option<&[u8]> {
        self.from(start).get(..length)
    }

    pub(super) fn lsn(&self, offset: usize) -> u64 {
        // SegmentHeader::parse has made sure that the segment's end is an address.
        self.header.address.saturating_add(offset as u64)
    }

    pub(super) fn segment_bytes(&self) -> usize {
        self.header.segment_bytes as usize
    }

    pub(super) fn block_bytes(&self) -> usize {
        self.header.block_bytes as usize
    }

    /// How far into its page an offset is. SegmentHeader::parse has made sure that pages are a power of
    /// two; a division would show in the time that a record takes.
    pub(super) fn page_offset(&self, offset: usize) -> usize {
        offset & (self.block_bytes() - 1)
    }

    /// Checks the header of the page at the offset `page`, as `XLogReaderValidatePageHeader`.
    pub(super) fn enter(&mut self, page: usize) -> Result<PageHeader, Stop> {
        let at = self.lsn(page);
        while self.from(page).is_empty() && self.source.advance() {}
        let bytes = self.from(page);
        let invalid = |what| Err(Stop::Invalid(what));
        let Ok(header) = PageHeader::parse(bytes) else {
            return invalid(Invalid::Short { page: at });
        };
        if header.is_zeros() {
            return invalid(Invalid::Zeros);
        }
        if header.magic != self.format.magic() {
            return invalid(Invalid::PageMagic { page: at, found: header.magic });
        }
        if header.has_unknown_flags() || !self.has_right_long_header(&header, page, bytes) {
            return invalid(Invalid::PageHeader { page: at });
        }
        if header.address != at {
            return invalid(Invalid::PageAddress { page: at, found: header.address });
        }
        // Children's numbers are higher than their parents', so timelines only grow; the highest that
        // can be here is the one in the segment's name.
        if header.timeline < self.timeline || header.timeline > self.timeline_max {
            return invalid(Invalid::PageTimeline { page: at, found: header.timeline });
        }
        self.timeline = header.timeline;
        Ok(header)
    }

    /// The first page must have a long header; any long header must be this cluster's.
    fn has_right_long_header(&self, header: &PageHeader, page: usize, bytes: &[u8]) -> bool {
        if !header.has(LONG_HEADER) {
            return page != 0;
        }
        let ours = (self.header.system_id, self.header.segment_bytes, self.header.block_bytes);
        long_fields(bytes).is_ok_and(|fields| fields == ours)
    }

    pub(super) fn check_whole(&self, page: usize) -> Result<(), Stop> {
        if self.from(page).len() >= self.block_bytes() {
            return Ok(());
        }
        Err(Stop::Invalid(Invalid::Short { page: self.lsn(page) }))
    }
}
