//! What PostgreSQL's bytes and names mean, for majors 14 to 18.
//!
//! Bytes in, values out: nothing here does I/O, waits, reads the clock or the environment, or knows
//! about backups and repositories. Every parser takes any bytes and returns a value or an [`Error`];
//! none panics. Facts about PostgreSQL carry the place in its source that they come from.
//!
//! Paths inside a data directory are bytes relative to it, without a leading `./`, because file names
//! need not be UTF-8. Only little-endian clusters are read.

#![warn(clippy::indexing_slicing)]

mod archived_ranges;
pub mod archived_wal;
pub mod auth_file;
pub mod backup_label;
pub mod checked_file;
pub mod config_file;
pub mod control_file;
pub mod error;
pub mod isolation;
pub mod layout;
pub mod lsn;
pub mod manifest;
mod needed;
pub mod page;
pub mod recovery;
pub mod relation;
pub mod segment;
pub mod tablespace_map;
pub mod timeline;
pub mod version;
pub mod wal;

mod number_ranges;
mod read;

pub use archived_wal::{ArchivedWal, Run, Start, Stretch};
pub use backup_label::{BackupHistory, BackupLabel};
pub use checked_file::CheckedFile;
pub use control_file::ControlFile;
pub use error::{Error, Result};
pub use layout::{EntryKind, Layout, Rule};
pub use lsn::Lsn;
pub use needed::needed_segments;
pub use relation::{Fork, RelationFile};
pub use segment::{SegmentName, SegmentNo, SegmentSize, WalFileName};
pub use timeline::{History, TimelineId};
pub use version::MajorVersion;

#[cfg(test)]
mod fixture;
