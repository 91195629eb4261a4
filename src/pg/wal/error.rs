//! What makes bytes something other than the WAL segment that they should be.

/// Why bytes are not the WAL segment that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes end inside a field.
    #[error("{field}: {need} bytes are needed, {have} are there")]
    Short {
        /// What was being read.
        field: &'static str,
        /// Bytes that it takes.
        need: usize,
        /// Bytes that there are.
        have: usize,
    },
    /// Not a WAL file at all.
    #[error("not a WAL segment: it begins with {found:#06x}")]
    BadMagic {
        /// The first two bytes.
        found: u16,
    },
    /// A WAL file, as it seems, of a server that this version does not read.
    #[error("WAL of an unknown format: magic {found:#06x}")]
    UnknownMagic {
        /// The first two bytes.
        found: u16,
        /// The PostgreSQL major that is known to write this magic, if any.
        major: Option<u16>,
    },
    /// A segment's first page has a long header, this one has not.
    #[error("the first page has no long header (flags {flags:#06x})")]
    NotLongHeader {
        /// `xlp_info`.
        flags: u16,
    },
    /// Flags that no page header has.
    #[error("unknown page header flags {flags:#06x}")]
    UnknownFlags {
        /// `xlp_info`.
        flags: u16,
    },
    /// Not a power of two from 1 MiB to 1 GiB.
    #[error("impossible segment size {found}")]
    BadSegmentSize {
        /// `xlp_seg_size`.
        found: u32,
    },
    /// Not a power of two from 1 KiB to 64 KiB.
    #[error("impossible WAL block size {found}")]
    BadBlockSize {
        /// `xlp_xlog_blcksz`.
        found: u32,
    },
    /// A segment begins at a multiple of its size.
    #[error("address {address:#x} is not a multiple of the segment size {segment_bytes}")]
    BadAddress {
        /// `xlp_pageaddr`.
        address: u64,
        /// `xlp_seg_size`.
        segment_bytes: u32,
    },
    /// The segment belongs to another cluster.
    #[error("system identifier {found}, expected {expected}")]
    WrongSystem {
        /// The cluster's.
        expected: u64,
        /// The segment's.
        found: u64,
    },
    /// The segment's content belongs to another place in the log than its name says.
    #[error("address {found:#x}, expected {expected:#x}")]
    WrongAddress {
        /// By the name.
        expected: u64,
        /// By the first page.
        found: u64,
    },
    /// The first page is neither on the name's timeline nor on an ancestor that may end here.
    #[error("timeline {found}, expected {expected}")]
    WrongTimeline {
        /// By the name.
        expected: u32,
        /// By the first page.
        found: u32,
    },
    /// The cluster has another segment size.
    #[error("segment size {found}, expected {expected}")]
    WrongSegmentSize {
        /// The cluster's.
        expected: u32,
        /// By the first page.
        found: u32,
    },
    /// The file is shorter or longer than a segment.
    #[error("{found} bytes long, expected {expected}")]
    WrongLength {
        /// The segment size.
        expected: u64,
        /// The file's length.
        found: u64,
    },
    /// A record with a right checksum whose content makes no sense.
    #[error("record at {lsn:#x}: {what}")]
    Record {
        /// Where the record begins.
        lsn: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}
