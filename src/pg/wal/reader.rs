//! The records of one segment of WAL.
//!
//! Follows `XLogDecodeNextRecord` and `XLogFindNextRecord` in `xlogreader.c`: the rest of an earlier
//! record is stepped over, records are put together across pages, and reading ends where recovery would
//! end too: at a length of zero, a wrong checksum or link, or a page that is not this segment's (old
//! content of a recycled file). A record is borrowed from the segment where it lies within a page,
//! else from a buffer that never grows beyond the segment.
//!
//! What it cannot verify: the first record's link, the checksum of a record that begins or ends in
//! another segment, and bytes that no checksum covers (padding, some page header bits).

use super::little_endian::u32_at;
use super::page_header::{
    FIRST_IS_CONTRECORD, FIRST_IS_OVERWRITE_CONTRECORD, SegmentHeader, check_sizes,
};
use super::pages::Pages;
use super::record::{RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RM_XLOG, Record, RecordHeader};
use super::source::Source;
use super::xlog::{XLOG_SWITCH, XlogEvent};
use super::{CutRecord, Error, Format, Invalid, Magic, Stop};

/// Reads the records of one segment in order.
#[derive(Debug)]
pub struct Reader<S> {
    pages: Pages<S>,
    /// Offset of the next record, or of the page that it follows on.
    position: usize,
    /// Where the record before begins.
    previous: Option<u64>,
    /// A record that was lost in a crash, as it seems, until the record that took its place is read.
    lost: Option<Lost>,
    scratch: Vec<u8>,
    stop: Option<Stop>,
}

/// A record that has been found: where it is, not yet borrowed.
struct Found {
    start: usize,
    next: usize,
    header: RecordHeader,
    /// The record's length, if it lies within a page; else it is in the reader's buffer.
    in_page: Option<usize>,
}

/// A record whose rest was written over.
#[derive(Debug, Clone, Copy)]
struct Lost {
    lsn: u64,
    /// What [`Reader::position`] was when it was found.
    position: usize,
}

/// What putting a record together came to.
enum Assembled {
    Record(Found),
    /// The page at this offset holds another record instead of the rest.
    Overwritten(usize),
}

impl<S: Source> Reader<S> {
    /// A reader at the first record that begins in a segment whose header is `header` and whose name
    /// says `timeline`.
    pub fn new(source: S, header: &SegmentHeader, timeline: u32) -> Result<Self, Error> {
        let Magic::Known(format) = header.magic else {
            let (found, major) = (header.magic.as_u16(), header.magic.major());
            return Err(Error::UnknownMagic { found, major });
        };
        // The fields are public: sizes that nobody checked must not get as far as arithmetic.
        check_sizes(header.address, header.segment_bytes, header.block_bytes)?;
        let mut reader = Reader {
            pages: Pages::new(source, header, format, timeline),
            position: 0,
            previous: None,
            lost: None,
            scratch: Vec::new(),
            stop: None,
        };
        reader.stop = reader.skip_continuation().err();
        Ok(reader)
    }

    /// The next record. `None` once there is none: [`Reader::stop`] says why.
    pub fn read_next(&mut self) -> Option<Record<'_>> {
        if self.stop.is_some() {
            return None;
        }
        let found = match self.find_next() {
            Ok(found) => found,
            Err(stop) => return self.end(stop),
        };
        let header = found.header;
        let (lsn, end_lsn) = (self.pages.lsn(found.start), self.pages.lsn(found.next));
        let bytes = match found.in_page {
            Some(length) => self.pages.range(found.start, length).unwrap_or_default(),
            None => &self.scratch,
        };
        let record = Record { lsn, end_lsn, header, bytes };
        if let Some(lost) = self.lost.take()
            && let Err(why) = after_lost_record(lost.lsn, &record, self.pages.format())
        {
            self.position = lost.position;
            self.stop = Some(Stop::Invalid(why));
            return None;
        }
        if header.resource_manager == RM_XLOG && header.operation() == XLOG_SWITCH {
            self.stop = Some(Stop::Switched);
        }
        self.position = found.next;
        self.previous = Some(lsn);
        Some(record)
    }

    /// Why [`Reader::read_next`] returned `None`.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// Where the next record begins, or would: the end of what is known to be valid.
    pub fn position(&self) -> u64 {
        self.pages.lsn(self.position)
    }

    /// The timeline of the last page that was read.
    pub fn page_timeline(&self) -> u32 {
        self.pages.timeline()
    }

    /// What the segment holds of a record that is cut by its end.
    pub(super) fn head(&self) -> &[u8] {
        if matches!(self.stop, Some(Stop::Cut(_))) { &self.scratch } else { &[] }
    }

    /// Where the last record that was read begins.
    pub(super) fn previous(&self) -> Option<u64> {
        self.previous
    }

    /// Where the next segment begins.
    pub(super) fn segment_end(&self) -> u64 {
        self.pages.lsn(self.pages.segment_bytes())
    }

    /// The segment's format.
    pub fn format(&self) -> Format {
        self.pages.format()
    }

    /// Remembers why there are no more records. If nothing valid took the place of a record that seemed
    /// to be lost, then the valid records ended before it: recovery would end, and write on, there.
    fn end<T>(&mut self, stop: Stop) -> Option<T> {
        if let Some(lost) = self.lost.take() {
            self.position = lost.position;
        }
        self.stop = Some(stop);
        None
    }

    /// Steps over the rest of a record that began in an earlier segment.
    fn skip_continuation(&mut self) -> Result<(), Stop> {
        let mut page = 0;
        let mut expected = None;
        while page < self.pages.segment_bytes() {
            let header = self.pages.enter(page)?;
            let begins_record = !header.has(FIRST_IS_CONTRECORD);
            if begins_record {
                // Either the segment begins with a record, or what should continue was written over.
                let is_lost = expected.is_some() && !header.has(FIRST_IS_OVERWRITE_CONTRECORD);
                if is_lost {
                    return Err(self.bad_continuation(page));
                }
                return Ok(());
            }
            let remaining = header.remaining_bytes as usize;
            if remaining == 0 || expected.is_some_and(|expected| expected != remaining) {
                return Err(self.bad_continuation(page));
            }
            let room = self.pages.block_bytes() - header.header_bytes();
            if remaining <= room {
                self.pages.check_whole(page)?;
                self.position = page + header.header_bytes() + align(remaining);
                return Ok(());
            }
            expected = Some(remaining - room);
            page += self.pages.block_bytes();
            self.position = page;
        }
        Err(Stop::Within)
    }

    fn find_next(&mut self) -> Result<Found, Stop> {
        loop {
            let (start, room) = self.record_start()?;
            let total_bytes = self.length_at(start)?;
            let mut header = None;
            if room >= RECORD_HEADER_BYTES {
                header = RecordHeader::parse(self.pages.from(start));
                if let Some(header) = &header {
                    self.check_header(header, start)?;
                }
            }
            if let Some(header) = header
                && total_bytes <= room
            {
                let record = self.pages.range(start, total_bytes);
                if !record.is_some_and(|record| header.checksum_matches(record)) {
                    return Err(Stop::Invalid(Invalid::Checksum));
                }
                let next = start + align(total_bytes);
                return Ok(Found { start, next, header, in_page: Some(total_bytes) });
            }
            match self.assemble(start, total_bytes, header)? {
                Assembled::Record(found) => return Ok(found),
                Assembled::Overwritten(page) => {
                    let (lsn, position) = (self.pages.lsn(start), self.position);
                    self.lost.get_or_insert(Lost { lsn, position });
                    self.position = page;
                }
            }
        }
    }

    /// The offset of the next record, after the page header if it is the first of its page, and how
    /// many bytes of the page are left for it.
    fn record_start(&mut self) -> Result<(usize, usize), Stop> {
        let mut start = self.position;
        if start >= self.pages.segment_bytes() {
            return Err(Stop::Full);
        }
        if self.pages.page_offset(start) == 0 {
            let header = self.pages.enter(start)?;
            self.pages.check_whole(start)?;
            if header.has(FIRST_IS_CONTRECORD) {
                return Err(self.bad_continuation(start));
            }
            start += header.header_bytes();
        }
        Ok((start, self.pages.block_bytes() - self.pages.page_offset(start)))
    }

    /// `xl_tot_len`, which is always on the record's first page because records are aligned.
    fn length_at(&self, start: usize) -> Result<usize, Stop> {
        let length = u32_at(self.pages.from(start), 0).unwrap_or_default();
        if length == 0 {
            return Err(Stop::Invalid(Invalid::Zeros));
        }
        if (length as usize) < RECORD_HEADER_BYTES {
            return Err(Stop::Invalid(Invalid::Length(length)));
        }
        Ok(length as usize)
    }

    /// As `ValidXLogRecordHeader`. The link guards against stale records of the same file.
    fn check_header(&self, header: &RecordHeader, start: usize) -> Result<(), Stop> {
        if !header.has_valid_resource_manager(self.pages.format()) {
            return Err(Stop::Invalid(Invalid::ResourceManager(header.resource_manager)));
        }
        let found = header.previous;
        match self.previous {
            Some(expected) if expected != found => {
                Err(Stop::Invalid(Invalid::Link { expected, found }))
            }
            None if found >= self.pages.lsn(start) => {
                Err(Stop::Invalid(Invalid::Link { expected: 0, found }))
            }
            _ => Ok(()),
        }
    }

    /// Puts a record of `total_bytes` together whose first part ends with its page.
    fn assemble(
        &mut self,
        start: usize,
        total_bytes: usize,
        mut header: Option<RecordHeader>,
    ) -> Result<Assembled, Stop> {
        let mut page = start - self.pages.page_offset(start) + self.pages.block_bytes();
        self.scratch.clear();
        self.scratch.extend_from_slice(self.pages.range(start, page - start).unwrap_or_default());
        loop {
            if page >= self.pages.segment_bytes() {
                return Err(self.cut(start, total_bytes, header));
            }
            let next = self.pages.enter(page)?;
            if next.has(FIRST_IS_OVERWRITE_CONTRECORD) {
                return Ok(Assembled::Overwritten(page));
            }
            let remaining = total_bytes - self.scratch.len();
            if !next.has(FIRST_IS_CONTRECORD) || next.remaining_bytes as usize != remaining {
                return Err(self.bad_continuation(page));
            }
            self.pages.check_whole(page)?;
            let from = page + next.header_bytes();
            let here = remaining.min(self.pages.block_bytes() - next.header_bytes());
            self.scratch.extend_from_slice(self.pages.range(from, here).unwrap_or_default());
            if header.is_none() {
                header = RecordHeader::parse(&self.scratch);
                if let Some(header) = &header {
                    self.check_header(header, start)?;
                }
            }
            page += self.pages.block_bytes();
            if here == remaining {
                let header = header.filter(|header| header.checksum_matches(&self.scratch));
                let header = header.ok_or(Stop::Invalid(Invalid::Checksum))?;
                let next = from + align(here);
                return Ok(Assembled::Record(Found { start, next, header, in_page: None }));
            }
        }
    }

    /// A record that would go on in the next segment. An impossible length is looked at only here,
    /// because it may be the head of a record that was lost, which ends at a page that says so.
    fn cut(&self, start: usize, total_bytes: usize, header: Option<RecordHeader>) -> Stop {
        let lsn = self.pages.lsn(start);
        let total_bytes = u32::try_from(total_bytes).unwrap_or(u32::MAX);
        if total_bytes > RECORD_BYTES_MAX {
            return Stop::Invalid(Invalid::Length(total_bytes));
        }
        Stop::Cut(CutRecord { lsn, total_bytes, header })
    }

    fn bad_continuation(&self, page: usize) -> Stop {
        Stop::Invalid(Invalid::Continuation { page: self.pages.lsn(page) })
    }
}

/// In the place of a lost record comes one that names it; recovery panics when that names another
/// (`VerifyOverwriteContrecord` in `xlogrecovery.c`).
fn after_lost_record(lost: u64, record: &Record<'_>, format: Format) -> Result<(), Invalid> {
    match XlogEvent::parse(record, format) {
        Ok(Some(XlogEvent::Overwrite(overwrite))) if overwrite.lost_lsn != lost => {
            Err(Invalid::Overwrite { expected: lost, found: overwrite.lost_lsn })
        }
        _ => Ok(()),
    }
}

/// `MAXALIGN`.
pub(super) fn align(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}
