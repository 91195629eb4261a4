//! LZ4 blocks: the compression of one frame's content, with bounded output on both sides; and checksums of
//! what is joined.
//!
//! Bytes in, bytes out: no framing, no lengths, no I/O. What a frame says about itself is `repo`'s.

#![warn(clippy::indexing_slicing)]

mod crc;
mod lz4;

pub use crc::crc32c_join;
pub use lz4::{Compressor, compressed_size_max, decompress_exact};

/// Why bytes could not be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not an LZ4 block, or one that does not fit the announced size.
    #[error("not a valid LZ4 block: {0}")]
    Corrupt(String),
    /// A valid block of another size than announced.
    #[error("the LZ4 block holds {found} bytes, {expected} were announced")]
    Size {
        /// What was announced.
        expected: usize,
        /// What came out.
        found: usize,
    },
}
