//! The pass over a segment while it is in memory: what a restore can aim at in it, and where it ends.
//!
//! The findings are stored with the archived segment, so that "which times can be reached" never means
//! reading WAL. Every record's checksum is verified on the way. What belongs to a record that crosses
//! into another segment is in neither segment's findings; [`Ending::Cut`] says what is known of it.
//!
//! It never fails: of a segment of an unknown format the findings say that it was not read, of a
//! damaged one they hold what comes before the damage.

use super::page_header::{Begins, SegmentHeader};
use super::reader::Reader;
use super::record::{RM_XACT, RM_XLOG, Record};
use super::source::Source;
use super::tblspc::{RM_TBLSPC, TablespaceCreation};
use super::xact::{Outcome, Xact};
use super::xlog::{
    BackupEnd, Checkpoint, EndOfRecovery, Overwrite, ParameterChange, RestorePoint, XlogEvent,
};
use super::{CutRecord, Error, Format, Invalid, Magic, Stop};
use crate::base::Timestamp;

/// How many entries a list in the findings holds at most: they are kept in memory and in the header
/// of an archived segment, and a script can make restore points without end.
pub const LIST_MAX: usize = 64;

/// A list that keeps its first [`LIST_MAX`] entries and counts the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounded<T> {
    /// The first entries.
    pub items: Vec<T>,
    /// How many more there were.
    pub omitted: u64,
}

impl<T> Bounded<T> {
    fn push(&mut self, item: T) {
        if self.items.len() < LIST_MAX {
            self.items.push(item);
        } else {
            self.omitted += 1;
        }
    }
}

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Bounded { items: Vec::new(), omitted: 0 }
    }
}

/// A commit or an abort, as recovery meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionEnd {
    /// How the transaction ended.
    pub outcome: Outcome,
    /// Its number.
    pub xid: u32,
    /// When, by the server's clock.
    pub time: Timestamp,
    /// Where the record ends.
    pub end_lsn: u64,
}

/// The smallest and the largest number of the transactions that ended, in the circular order of
/// `TransactionIdPrecedes` (`transam.c`): after a wraparound the smallest is the larger number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XidRange {
    /// The oldest.
    pub smallest: u32,
    /// The newest.
    pub largest: u32,
}

/// How a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Records fill it to the last byte.
    Full,
    /// Its last record goes on in the next segment.
    Cut(CutRecord),
    /// It is the middle of one record.
    Within,
    /// It was left early by a switch.
    Switched,
    /// Its valid records stop before its end: it was never completed, or it is damaged.
    Partial(Invalid),
    /// Its format is unknown, or its header was never one.
    NotRead,
}

impl Ending {
    /// Whether the log goes on in the next segment of the same timeline. A segment that was not read
    /// is not known to be whole.
    pub fn is_whole(&self) -> bool {
        matches!(self, Ending::Full | Ending::Cut(_) | Ending::Within | Ending::Switched)
    }
}

/// What one pass found in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// The segment's format; the rest is empty when it is unknown.
    pub magic: Magic,
    /// What the segment begins with.
    pub begins: Begins,
    /// The timeline of the first page.
    pub first_timeline: u32,
    /// The timeline of the last page that was read: another one in a switch segment.
    pub last_timeline: u32,
    /// Records that lie whole in the segment.
    pub records: u64,
    /// Transactions that committed.
    pub commits: u64,
    /// Rollbacks: of transactions, and of savepoints that had a number of their own
    /// (`RecordTransactionAbort` in `xact.c` writes the same record for both; recovery can stop at
    /// either).
    pub aborts: u64,
    /// The first commit or abort in the log's order, of those with a sensible time.
    pub first_end: Option<TransactionEnd>,
    /// The last commit or abort in the log's order.
    pub last_end: Option<TransactionEnd>,
    /// The earliest time of any commit or abort: times are not quite in the log's order.
    pub earliest: Option<Timestamp>,
    /// The latest one.
    pub latest: Option<Timestamp>,
    /// Numbers of the transactions that ended, rolled back savepoints included.
    pub xids: Option<XidRange>,
    /// Restore points.
    pub restore_points: Bounded<RestorePoint>,
    /// How many checkpoint records.
    pub checkpoints: u64,
    /// The first one.
    pub first_checkpoint: Option<Checkpoint>,
    /// The last one.
    pub last_checkpoint: Option<Checkpoint>,
    /// Promotions.
    pub ends_of_recovery: Bounded<EndOfRecovery>,
    /// Ends of backups.
    pub backup_ends: Bounded<BackupEnd>,
    /// Where settings changed that recovery must be able to follow.
    pub parameters: Bounded<ParameterChange>,
    /// Tablespaces that replay would make.
    pub tablespaces: Bounded<TablespaceCreation>,
    /// Records that were lost in a crash, here or at the end of the segment before.
    pub overwrites: Bounded<Overwrite>,
    /// Records of these kinds with a right checksum whose content could not be understood: a sign of a
    /// format that is not what its magic says.
    pub not_understood: u64,
    /// Where the valid records end: the next one begins here, or begins here and is cut. What a switch
    /// skips is not counted. Of a segment within a record: its end.
    pub end: u64,
    /// How the segment ends.
    pub ending: Ending,
}

/// Reads a segment whose header is `header` and whose name says `timeline`; not always to its end.
pub fn scan_segment(source: impl Source, header: &SegmentHeader, timeline: u32) -> Findings {
    let mut findings = Findings::empty(header);
    let Ok(mut reader) = Reader::new(source, header, timeline) else {
        return findings;
    };
    let format = reader.format();
    while let Some(record) = reader.read_next() {
        findings.records += 1;
        if findings.take(&record, format).is_err() {
            findings.not_understood += 1;
        }
    }
    findings.last_timeline = reader.page_timeline();
    findings.end = reader.position();
    findings.ending = match reader.stop() {
        Some(Stop::Full) => Ending::Full,
        Some(Stop::Cut(cut)) => Ending::Cut(cut),
        Some(Stop::Within) => Ending::Within,
        Some(Stop::Switched) => Ending::Switched,
        Some(Stop::Invalid(why)) => Ending::Partial(why),
        None => Ending::NotRead,
    };
    findings
}

impl Findings {
    fn empty(header: &SegmentHeader) -> Findings {
        Findings {
            magic: header.magic,
            begins: header.begins,
            first_timeline: header.timeline,
            last_timeline: header.timeline,
            records: 0,
            commits: 0,
            aborts: 0,
            first_end: None,
            last_end: None,
            earliest: None,
            latest: None,
            xids: None,
            restore_points: Bounded::default(),
            checkpoints: 0,
            first_checkpoint: None,
            last_checkpoint: None,
            ends_of_recovery: Bounded::default(),
            backup_ends: Bounded::default(),
            parameters: Bounded::default(),
            tablespaces: Bounded::default(),
            overwrites: Bounded::default(),
            not_understood: 0,
            end: header.address,
            ending: Ending::NotRead,
        }
    }

    fn take(&mut self, record: &Record<'_>, format: Format) -> Result<(), Error> {
        match record.header.resource_manager {
            RM_XACT => {
                if let Some(xact) = Xact::parse(record, format)? {
                    self.take_xact(&xact, record.end_lsn);
                }
            }
            RM_XLOG => {
                if let Some(event) = XlogEvent::parse(record, format)? {
                    self.take_event(event);
                }
            }
            RM_TBLSPC => {
                if let Some(creation) = TablespaceCreation::parse(record, format)? {
                    self.tablespaces.push(creation);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn take_xact(&mut self, xact: &Xact, end_lsn: u64) {
        match xact.outcome {
            Outcome::Commit => self.commits += 1,
            Outcome::Abort => self.aborts += 1,
        }
        self.xids = match self.xids {
            None => Some(XidRange { smallest: xact.xid, largest: xact.xid }),
            Some(range) => Some(range.with(xact.xid)),
        };
        let Some(time) = xact.time else { return };
        let end = TransactionEnd { outcome: xact.outcome, xid: xact.xid, time, end_lsn };
        self.first_end.get_or_insert(end);
        self.last_end = Some(end);
        self.earliest = Some(self.earliest.map_or(time, |earliest| earliest.min(time)));
        self.latest = Some(self.latest.map_or(time, |latest| latest.max(time)));
    }

    fn take_event(&mut self, event: XlogEvent) {
        match event {
            XlogEvent::Checkpoint(checkpoint) => {
                self.checkpoints += 1;
                self.first_checkpoint.get_or_insert(checkpoint);
                self.last_checkpoint = Some(checkpoint);
            }
            XlogEvent::RestorePoint(point) => self.restore_points.push(point),
            XlogEvent::BackupEnd(end) => self.backup_ends.push(end),
            XlogEvent::ParameterChange(change) => {
                self.not_understood += u64::from(change.wal_level.is_none());
                self.parameters.push(change);
            }
            XlogEvent::EndOfRecovery(end) => self.ends_of_recovery.push(end),
            XlogEvent::Overwrite(overwrite) => self.overwrites.push(overwrite),
        }
    }
}

impl XidRange {
    /// The range with one more number.
    fn with(self, xid: u32) -> XidRange {
        XidRange {
            smallest: if precedes(xid, self.smallest) { xid } else { self.smallest },
            largest: if precedes(self.largest, xid) { xid } else { self.largest },
        }
    }
}

/// `TransactionIdPrecedes`. Numbers below 3 are special and never end; within one segment the others
/// are far less than half the circle apart.
fn precedes(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}
