//! Writes segments record by record, for what no real server can be made to write on demand.

use crate::pg::wal::{Findings, Format, SegmentHeader, scan_segment};

pub const SEGMENT_BYTES: usize = 1 << 20;
pub const ADDRESS: u64 = 7 << 20;
const PAGE_BYTES: usize = 8192;

/// A segment that is being written, on timeline 1 unless told otherwise.
pub struct Forge {
    pub bytes: Vec<u8>,
    /// Offset of the next record.
    pub position: usize,
    pub previous: u64,
    pub timeline: u32,
    format: Format,
    address: u64,
    /// What did not fit.
    rest: Vec<u8>,
}

impl Forge {
    /// `continued` bytes of an earlier record come first.
    pub fn new(format: Format, continued: usize) -> Forge {
        let mut forge = Forge::at(format, ADDRESS);
        if continued > 0 {
            forge.write(&vec![0xCC; continued], true);
        }
        forge
    }

    fn at(format: Format, address: u64) -> Forge {
        Forge {
            bytes: vec![0; SEGMENT_BYTES],
            position: 0,
            previous: address - 64,
            timeline: 1,
            format,
            address,
            rest: vec![],
        }
    }

    /// The next segment, which begins with what did not fit into this one.
    pub fn next(&self) -> Forge {
        let mut next = Forge::at(self.format, self.address + SEGMENT_BYTES as u64);
        next.write(&self.rest, true);
        next.previous = self.previous;
        next
    }

    pub fn header(&self) -> SegmentHeader {
        SegmentHeader::parse(&self.bytes).expect("a good header")
    }

    pub fn findings(&self) -> Findings {
        scan_segment(self.bytes.as_slice(), &self.header(), self.timeline)
    }

    /// Appends a record with a right checksum and says where it begins.
    pub fn record(&mut self, resource_manager: u8, info: u8, xid: u32, main: &[u8]) -> u64 {
        let mut content = vec![];
        match u8::try_from(main.len()) {
            Ok(_) if main.is_empty() => {}
            Ok(length) => content.extend([255, length]),
            Err(_) => {
                content.push(254);
                content.extend(u32::try_from(main.len()).expect("short").to_le_bytes());
            }
        }
        content.extend(main);
        self.append(resource_manager, info, xid, &content)
    }

    /// Appends a record whose headers of blocks and data are `content` too.
    pub fn raw_record(&mut self, resource_manager: u8, info: u8, content: &[u8]) -> u64 {
        self.append(resource_manager, info, 0, content)
    }

    fn append(&mut self, resource_manager: u8, info: u8, xid: u32, content: &[u8]) -> u64 {
        let mut record = vec![0; 24];
        record.extend(content);
        let total = u32::try_from(record.len()).expect("short");
        record[..4].copy_from_slice(&total.to_le_bytes());
        record[4..8].copy_from_slice(&xid.to_le_bytes());
        record[8..16].copy_from_slice(&self.previous.to_le_bytes());
        record[16..18].copy_from_slice(&[info, resource_manager]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        let lsn = self.write(&record, false);
        self.previous = lsn;
        lsn
    }

    /// A record of no interest that ends `left` bytes before the end of its page, or of the segment.
    pub fn fill(&mut self, left: usize, of: usize) {
        if self.position.is_multiple_of(PAGE_BYTES) {
            self.page_header(0, false);
        }
        let mut rest = of - self.position % of;
        // Headers of the pages that the record runs into.
        rest -= (rest - 1) / PAGE_BYTES * 24;
        let header = if rest - left > 24 + 2 + 255 { 24 + 5 } else { 24 + 2 };
        self.record(21, 0, 0, &vec![0xAB; rest - left - header]);
    }

    fn page_header(&mut self, remaining: usize, is_continued: bool) {
        let at = self.position;
        let is_first = at == 0;
        let flags = u16::from(is_continued) | if is_first { 2 } else { 0 };
        let mut header = vec![];
        header.extend(self.format.magic().to_le_bytes());
        header.extend(flags.to_le_bytes());
        header.extend(self.timeline.to_le_bytes());
        header.extend((self.address + at as u64).to_le_bytes());
        header.extend(u32::try_from(remaining).expect("short").to_le_bytes());
        header.extend([0; 4]);
        if is_first {
            header.extend(77_u64.to_le_bytes());
            header.extend(u32::try_from(SEGMENT_BYTES).expect("short").to_le_bytes());
            header.extend(u32::try_from(PAGE_BYTES).expect("short").to_le_bytes());
        }
        self.bytes[at..at + header.len()].copy_from_slice(&header);
        self.position += header.len();
    }

    /// Writes across pages until the segment is full; what does not fit is lost.
    fn write(&mut self, mut data: &[u8], mut is_continued: bool) -> u64 {
        let mut lsn = None;
        while !data.is_empty() && self.position < SEGMENT_BYTES {
            if self.position.is_multiple_of(PAGE_BYTES) {
                let remaining = if is_continued { data.len() } else { 0 };
                self.page_header(remaining, is_continued);
            }
            lsn.get_or_insert(self.address + self.position as u64);
            let room = PAGE_BYTES - self.position % PAGE_BYTES;
            let (here, rest) = data.split_at(room.min(data.len()));
            self.bytes[self.position..self.position + here.len()].copy_from_slice(here);
            self.position = (self.position + here.len()).next_multiple_of(8);
            data = rest;
            is_continued = true;
        }
        self.rest = data.to_vec();
        lsn.unwrap_or(self.address + self.position as u64)
    }
}
