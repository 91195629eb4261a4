//! Why the records of a segment come to an end: all the ways, as values.
//!
//! Most of them are normal: a segment that was being written when it was copied ends in zeros or in the
//! old content of a recycled file.

use super::RecordHeader;

/// Why there is no further record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The last record ends with the segment.
    Full,
    /// The last record goes on in the next segment.
    Cut(CutRecord),
    /// The whole segment is the middle of a record that began earlier and ends later.
    Within,
    /// A switch: the rest of the segment is padding.
    Switched,
    /// The segment is not filled, or damaged.
    Invalid(Invalid),
}

/// A record of which the segment holds the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutRecord {
    /// Where it begins.
    pub lsn: u64,
    /// Its length, which nothing has verified.
    pub total_bytes: u32,
    /// Its header, if that is whole, with a link that was verified and a checksum that was not.
    pub header: Option<RecordHeader>,
}

/// What is wrong where the valid records end. On a segment that was being written this is normal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Nothing was written here: a length of zero.
    #[error("zeros")]
    Zeros,
    /// No record has this length.
    #[error("record length {0}")]
    Length(u32),
    /// No such resource manager.
    #[error("resource manager {0}")]
    ResourceManager(u8),
    /// The record does not follow the one before it.
    #[error("link to {found:#x}, expected {expected:#x}")]
    Link {
        /// Where the record before this one begins.
        expected: u64,
        /// `xl_prev`.
        found: u64,
    },
    /// Wrong checksum.
    #[error("wrong checksum")]
    Checksum,
    /// The rest of a record does not follow where it must, or does where it must not.
    #[error("page at {page:#x} does not continue the record")]
    Continuation {
        /// The page.
        page: u64,
    },
    /// A page of another format, or no page.
    #[error("page at {page:#x} has magic {found:#06x}")]
    PageMagic {
        /// The page.
        page: u64,
        /// `xlp_magic`.
        found: u16,
    },
    /// A page header that no server writes, or of another cluster.
    #[error("page at {page:#x} has an impossible header")]
    PageHeader {
        /// The page.
        page: u64,
    },
    /// A page of another place in the log: the file was recycled.
    #[error("page at {page:#x} says that it is at {found:#x}")]
    PageAddress {
        /// The page.
        page: u64,
        /// `xlp_pageaddr`.
        found: u64,
    },
    /// A page of a timeline older than the page before it, or newer than the segment's name.
    #[error("page at {page:#x} is on timeline {found}")]
    PageTimeline {
        /// The page.
        page: u64,
        /// `xlp_tli`.
        found: u32,
    },
    /// The record after a lost one does not name it.
    #[error("{found:#x} is said to be lost, not {expected:#x}")]
    Overwrite {
        /// The record that is lost.
        expected: u64,
        /// The one that is named.
        found: u64,
    },
    /// The bytes end before the segment does.
    #[error("the file ends at {page:#x}")]
    Short {
        /// The page that is not whole.
        page: u64,
    },
}
