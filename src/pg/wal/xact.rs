//! Records that end transactions: commit and abort, also of prepared transactions.
//!
//! Layout: `src/include/access/xact.h`, `ParseCommitRecord` and `ParseAbortRecord` in
//! `src/backend/access/rmgrdesc/xactdesc.c`. Recovery stops at a time or a transaction at exactly these
//! records, and takes a prepared transaction's own number, not that of the session that ended it
//! (`recoveryStopsBefore` in `xlogrecovery.c`).

use super::little_endian::{i64_at, u32_at};
use super::{Error, Format, RM_XACT, Record, xlog};
use crate::base::Timestamp;

/// `XLOG_XACT_OPMASK`, and the kinds under it.
const OPERATION_MASK: u8 = 0x70;
const COMMIT: u8 = 0x00;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
/// `XLOG_XACT_HAS_INFO`: a word of flags follows the time.
const HAS_INFO: u8 = 0x80;

/// `XACT_XINFO_HAS_*`, in the order in which what they announce follows.
const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_DROPPED_STATS: u32 = 1 << 8;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWOPHASE: u32 = 1 << 4;

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Committed.
    Commit,
    /// Rolled back.
    Abort,
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xact {
    /// How it ended.
    pub outcome: Outcome,
    /// The top-level transaction, or a rolled back savepoint's; of a prepared one, the number it had
    /// when it was prepared.
    pub xid: u32,
    /// When, by the server's clock; `None` where the record holds no sensible time.
    pub time: Option<Timestamp>,
}

impl Xact {
    /// Reads `record`; `None` when it does not end a transaction.
    pub fn parse(record: &Record<'_>, format: Format) -> Result<Option<Xact>, Error> {
        if record.header.resource_manager != RM_XACT {
            return Ok(None);
        }
        let operation = record.header.info & OPERATION_MASK;
        let outcome = match operation {
            COMMIT | COMMIT_PREPARED => Outcome::Commit,
            ABORT | ABORT_PREPARED => Outcome::Abort,
            _ => return Ok(None),
        };
        let data = record.main_data(format)?;
        let wrong = |what| Error::Record { lsn: record.lsn, what };
        let time = i64_at(data, 0).ok_or(wrong("the end of a transaction without a time"))?;
        let mut xid = record.header.xid;
        if matches!(operation, COMMIT_PREPARED | ABORT_PREPARED) {
            xid = prepared_xid(data, record.header.info, outcome, format)
                .ok_or(wrong("the end of a prepared transaction without its number"))?;
        }
        Ok(Some(Xact { outcome, xid, time: xlog::timestamp(time) }))
    }
}

/// Steps over what comes before `xl_xact_twophase` and reads it.
fn prepared_xid(data: &[u8], info: u8, outcome: Outcome, format: Format) -> Option<u32> {
    if info & HAS_INFO == 0 {
        return None;
    }
    let flags = u32_at(data, 8)?;
    if flags & HAS_TWOPHASE == 0 {
        return None;
    }
    let mut at = 12_usize;
    if flags & HAS_DATABASE != 0 {
        at += 8;
    }
    let stats_bytes = format.dropped_stats_item_bytes();
    let lists = [
        (HAS_SUBTRANSACTIONS, Some(4)),
        (HAS_RELATIONS, Some(12)),
        (HAS_DROPPED_STATS, stats_bytes),
        // ParseAbortRecord knows no invalidations; an abort never sets the flag.
        (HAS_INVALIDATIONS, (outcome == Outcome::Commit).then_some(16)),
    ];
    for (flag, item_bytes) in lists {
        if flags & flag != 0
            && let Some(item_bytes) = item_bytes
        {
            let items = u32_at(data, at)?;
            let list_bytes = items.checked_mul(item_bytes)?.checked_add(4)?;
            at = at.checked_add(list_bytes as usize)?;
        }
    }
    u32_at(data, at)
}
