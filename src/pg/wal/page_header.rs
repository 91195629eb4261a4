//! Page headers, and the identity of a segment that its first page holds.
//!
//! Layouts: `XLogPageHeaderData` and `XLogLongPageHeaderData` in
//! `src/include/access/xlog_internal.h`, the same from 14 to 18. Checks: as
//! `XLogReaderValidatePageHeader` in `xlogreader.c`. The layout of the long header has not changed in
//! many majors, so that the identity is read under an unknown magic too; whether to trust it is the
//! caller's decision ([`Expected::accept_unknown_magic`]).

use super::little_endian::{u16_at, u32_at, u64_at};
use super::{Error, Magic};

/// `xlp_info`: the page begins with the rest of a record.
pub(super) const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// `xlp_info`: the header is the long one.
pub(super) const LONG_HEADER: u16 = 0x0002;
/// `xlp_info`: the record that should continue here was abandoned, another one begins.
pub(super) const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
/// `XLP_ALL_FLAGS`; 0x0004 is `XLP_BKP_REMOVABLE`, which says nothing to us.
const ALL_FLAGS: u16 = 0x000F;

/// `SizeOfXLogShortPHD`: 20 bytes, aligned.
pub(super) const SHORT_HEADER_BYTES: usize = 24;
/// `SizeOfXLogLongPHD`: so much of a segment [`SegmentHeader::parse`] needs.
pub const LONG_HEADER_BYTES: usize = 40;

/// The header of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// `xlp_magic`, as it stands there.
    pub magic: u16,
    /// `xlp_info`.
    pub flags: u16,
    /// `xlp_tli`: of the first record on the page, which may be older than the segment's name.
    pub timeline: u32,
    /// `xlp_pageaddr`.
    pub address: u64,
    /// `xlp_rem_len`: bytes that are left of the record that continues here.
    pub remaining_bytes: u32,
}

impl PageHeader {
    /// Reads the header at the start of `page`; no value is judged.
    pub fn parse(page: &[u8]) -> Result<PageHeader, Error> {
        let header = || {
            Some(PageHeader {
                magic: u16_at(page, 0)?,
                flags: u16_at(page, 2)?,
                timeline: u32_at(page, 4)?,
                address: u64_at(page, 8)?,
                remaining_bytes: u32_at(page, 16)?,
            })
        };
        header().ok_or(Error::Short {
            field: "page header",
            need: SHORT_HEADER_BYTES,
            have: page.len(),
        })
    }

    /// Whether `flag` is set.
    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Whether nothing was written here.
    pub(super) fn is_zeros(&self) -> bool {
        (self.magic, self.flags, self.timeline, self.address) == (0, 0, 0, 0)
    }

    /// Whether flags are set that no version knows.
    pub(super) fn has_unknown_flags(&self) -> bool {
        self.flags & !ALL_FLAGS != 0
    }

    /// Where records begin on the page (`XLogPageHeaderSize`).
    pub(super) fn header_bytes(&self) -> usize {
        if self.has(LONG_HEADER) { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES }
    }
}

/// What a segment begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// A record.
    Record,
    /// The rest of a record that begins in an earlier segment.
    Continuation {
        /// Bytes that are left of it, in this and later segments.
        bytes: u32,
    },
    /// A record in the place of the rest of one that was lost in a crash.
    Overwrite,
}

/// The identity of a segment, from its first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The format of the segment.
    pub magic: Magic,
    /// The timeline of the first page. In the first segment of a new timeline this is an older one.
    pub timeline: u32,
    /// Where the segment begins in the log.
    pub address: u64,
    /// The cluster's system identifier.
    pub system_id: u64,
    /// Size of a segment.
    pub segment_bytes: u32,
    /// Size of a page (`XLOG_BLCKSZ`).
    pub block_bytes: u32,
    /// What comes first.
    pub begins: Begins,
}

/// What a segment should be, by its name and its cluster.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The cluster's system identifier; `None` before it is known.
    pub system_id: Option<u64>,
    /// Where the name says that the segment begins.
    pub address: u64,
    /// The cluster's segment size.
    pub segment_bytes: u32,
    /// The timeline of the name.
    pub timeline: u32,
    /// Timelines that the first page may be on instead: ancestors of `timeline` that were left within
    /// this very segment. A promoted server copies that segment and goes on in it, so that its first
    /// pages keep the old timeline (`XLogInitNewTimeline` in `xlog.c`).
    pub ancestors: &'a [u32],
    /// Take a segment whose format is unknown, if everything else fits.
    pub accept_unknown_magic: bool,
}

impl SegmentHeader {
    /// How many bytes [`SegmentHeader::parse`] needs.
    pub const BYTES: usize = LONG_HEADER_BYTES;

    /// Reads the identity of a segment from its first bytes and refuses what no server writes.
    pub fn parse(bytes: &[u8]) -> Result<SegmentHeader, Error> {
        let first = PageHeader::parse(bytes)?;
        let magic = Magic::from_u16(first.magic).ok_or(Error::BadMagic { found: first.magic })?;
        if first.has_unknown_flags() && matches!(magic, Magic::Known(_)) {
            return Err(Error::UnknownFlags { flags: first.flags });
        }
        if !first.has(LONG_HEADER) {
            return Err(Error::NotLongHeader { flags: first.flags });
        }
        let (system_id, segment_bytes, block_bytes) = long_fields(bytes)?;
        check_sizes(first.address, segment_bytes, block_bytes)?;
        Ok(SegmentHeader {
            magic,
            timeline: first.timeline,
            address: first.address,
            system_id,
            segment_bytes,
            block_bytes,
            begins: begins(&first),
        })
    }

    /// Whether this is the segment that `expected` describes; `file_bytes` is the file's length.
    ///
    /// The cluster comes first, so that a stranger's segment is called just that.
    pub fn check(&self, expected: &Expected<'_>, file_bytes: u64) -> Result<(), Error> {
        if let Magic::Unknown(found) = self.magic
            && !expected.accept_unknown_magic
        {
            return Err(Error::UnknownMagic { found, major: self.magic.major() });
        }
        if let Some(system_id) = expected.system_id
            && system_id != self.system_id
        {
            return Err(Error::WrongSystem { expected: system_id, found: self.system_id });
        }
        if expected.segment_bytes != self.segment_bytes {
            return Err(Error::WrongSegmentSize {
                expected: expected.segment_bytes,
                found: self.segment_bytes,
            });
        }
        if u64::from(self.segment_bytes) != file_bytes {
            let expected = u64::from(self.segment_bytes);
            return Err(Error::WrongLength { expected, found: file_bytes });
        }
        if expected.address != self.address {
            return Err(Error::WrongAddress { expected: expected.address, found: self.address });
        }
        if self.timeline != expected.timeline && !expected.ancestors.contains(&self.timeline) {
            return Err(Error::WrongTimeline { expected: expected.timeline, found: self.timeline });
        }
        Ok(())
    }
}

/// `xlp_sysid`, `xlp_seg_size` and `xlp_xlog_blcksz`.
pub(super) fn long_fields(bytes: &[u8]) -> Result<(u64, u32, u32), Error> {
    let fields = || Some((u64_at(bytes, 24)?, u32_at(bytes, 32)?, u32_at(bytes, 36)?));
    fields().ok_or(Error::Short {
        field: "long page header",
        need: LONG_HEADER_BYTES,
        have: bytes.len(),
    })
}

/// Sizes as `IsValidWalSegSize` (`xlog_internal.h`) and configure's `--with-wal-blocksize` allow them.
pub(super) fn check_sizes(address: u64, segment_bytes: u32, block_bytes: u32) -> Result<(), Error> {
    if !segment_bytes.is_power_of_two() || !(1 << 20..=1 << 30).contains(&segment_bytes) {
        return Err(Error::BadSegmentSize { found: segment_bytes });
    }
    if !block_bytes.is_power_of_two() || !(1 << 10..=1 << 16).contains(&block_bytes) {
        return Err(Error::BadBlockSize { found: block_bytes });
    }
    // The end of the segment must be an address too: sums of both are taken without a check.
    let size = u64::from(segment_bytes);
    if !address.is_multiple_of(size) || address.checked_add(size).is_none() {
        return Err(Error::BadAddress { address, segment_bytes });
    }
    Ok(())
}

fn begins(first: &PageHeader) -> Begins {
    if first.has(FIRST_IS_CONTRECORD) {
        Begins::Continuation { bytes: first.remaining_bytes }
    } else if first.has(FIRST_IS_OVERWRITE_CONTRECORD) {
        Begins::Overwrite
    } else {
        Begins::Record
    }
}
