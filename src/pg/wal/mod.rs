//! Write-ahead log of PostgreSQL 14 to 18, read from memory, whole or piece by piece: what a segment is
//! and what it holds.
//!
//! - [`SegmentHeader`]: whose segment this is (`page_header.rs`), and whether it is the one that its
//!   name promises.
//! - [`Reader`]: the records of one segment, each with its checksum verified (`reader.rs`).
//! - [`scan_segment`]: one pass that says which times, transactions, restore points and checkpoints a
//!   segment holds and where its valid records end (`pass.rs`).
//!
//! Guarantees: no bytes make this room panic, allocate more than the segment's own size or loop; a
//! record whose checksum is wrong is never handed out. It follows
//! `src/backend/access/transam/xlogreader.c` in what it takes for the end of WAL.
//!
//! It does no I/O, does not decide about archiving, knows one segment at a time (a record that crosses
//! into the next one is reported; [`joined`] puts it together from both), and reads little-endian files only: on a big-endian
//! machine's files the magic is unknown, which is an error, not a wrong answer.

#![deny(clippy::indexing_slicing)]

mod error;
mod format;
mod joined;
mod little_endian;
mod page_header;
mod pages;
mod pass;
mod reader;
mod record;
mod source;
mod stop;
mod tblspc;
mod xact;
mod xlog;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use format::{Format, Magic};
pub use joined::{Joined, JoinedRecord, joined};
pub use page_header::{Begins, Expected, LONG_HEADER_BYTES, PageHeader, SegmentHeader};
pub use pass::{Bounded, Ending, Findings, LIST_MAX, TransactionEnd, XidRange, scan_segment};
pub use reader::Reader;
pub use record::{RM_XACT, RM_XLOG, Record, RecordHeader};
pub use source::Source;
pub use stop::{CutRecord, Invalid, Stop};
pub use tblspc::{RM_TBLSPC, TablespaceCreation};
pub use xact::{Outcome, Xact};
pub use xlog::{
    BackupEnd, Checkpoint, EndOfRecovery, Overwrite, ParameterChange, RESTORE_POINT_BYTES,
    RestorePoint, WalLevel, XlogEvent,
};
