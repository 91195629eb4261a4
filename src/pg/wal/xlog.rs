//! Records of the log about itself: checkpoints, restore points, ends of backups and of recovery.
//!
//! Kinds: `XLOG_*` in `src/include/catalog/pg_control.h`; layouts: `CheckPoint` there, `xl_*` in
//! `src/include/access/xlog_internal.h`. The offsets hold for 14 to 18: when 17 added `wal_level` to
//! `CheckPoint`, it went into a gap.

use std::borrow::Cow;

use super::little_endian::{i64_at, u8_at, u32_at, u64_at};
use super::{Error, Format, RM_XLOG, Record};
use crate::base::Timestamp;

const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;
/// The rest of the segment is padding.
pub(super) const XLOG_SWITCH: u8 = 0x40;
const XLOG_BACKUP_END: u8 = 0x50;
const XLOG_PARAMETER_CHANGE: u8 = 0x60;
const XLOG_RESTORE_POINT: u8 = 0x70;
const XLOG_END_OF_RECOVERY: u8 = 0x90;
/// 14.1 and later.
const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;

/// How long the record of a restore point is: `SizeOfXLogRecord`, the header of its data, and
/// `xl_restore_point`; 5 bytes more in a subtransaction that no record has named yet
/// (`XLR_BLOCK_ID_TOPLEVEL_XID`, `XLogRecordAssemble` in `xloginsert.c`).
pub const RESTORE_POINT_BYTES: [u32; 2] = [24 + 2 + 72, 24 + 2 + 72 + 5];

/// Seconds from 1970 to 2000, where PostgreSQL's timestamps begin (`POSTGRES_EPOCH_JDATE`).
const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;
/// 9999-12-31 23:59:59 UTC. A later time, or one before 1970, is a broken clock's or no time at all,
/// and would pass for the end of everything that can be restored.
const LATEST_SECONDS: i64 = 253_402_300_799;

/// What the server logs for recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Crash recovery only: neither archiving nor backups.
    Minimal,
    /// Archiving and standbys.
    Replica,
    /// Logical decoding too.
    Logical,
}

impl WalLevel {
    /// `WalLevel` in `xlog.h`.
    fn from_u32(level: u32) -> Option<WalLevel> {
        match level {
            0 => Some(WalLevel::Minimal),
            1 => Some(WalLevel::Replica),
            2 => Some(WalLevel::Logical),
            _ => None,
        }
    }
}

/// A checkpoint record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where the record begins.
    pub lsn: u64,
    /// Where it ends.
    pub end_lsn: u64,
    /// Where replay from this checkpoint begins.
    pub redo: u64,
    /// The timeline.
    pub timeline: u32,
    /// The timeline before, where the record begins a new one; else the same.
    pub previous_timeline: u32,
    /// When the checkpoint began.
    pub time: Option<Timestamp>,
    /// At shutdown (or the end of recovery), not while running.
    pub is_shutdown: bool,
    /// From 17 on.
    pub wal_level: Option<WalLevel>,
}

/// A named point to which recovery can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// The name, in the database's encoding: recovery compares bytes.
    pub name: Vec<u8>,
    /// When it was made.
    pub time: Option<Timestamp>,
    /// Where its record ends: recovery to it includes it.
    pub end_lsn: u64,
}

impl RestorePoint {
    /// The name for people.
    pub fn name(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.name)
    }
}

/// The end of an online backup on a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupEnd {
    /// Where the backup began.
    pub start_lsn: u64,
    /// Where the record ends: from here on that backup is consistent.
    pub end_lsn: u64,
}

/// A server was promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndOfRecovery {
    /// Where the record ends.
    pub end_lsn: u64,
    /// The new timeline.
    pub timeline: u32,
    /// The one that it left.
    pub previous_timeline: u32,
    /// When.
    pub time: Option<Timestamp>,
    /// From 17 on.
    pub wal_level: Option<WalLevel>,
}

/// Settings that recovery must be able to follow; written where a server starts with others than
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterChange {
    /// Where the record begins.
    pub lsn: u64,
    /// `wal_level`; `None` where it is none that is known.
    pub wal_level: Option<WalLevel>,
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
}

/// A record was lost in a crash and another one written over its rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overwrite {
    /// Where the lost record begins.
    pub lost_lsn: u64,
    /// Where the record that says so ends.
    pub end_lsn: u64,
    /// When the server noticed.
    pub time: Option<Timestamp>,
}

/// What a record of the log about itself says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XlogEvent {
    /// A checkpoint.
    Checkpoint(Checkpoint),
    /// A restore point.
    RestorePoint(RestorePoint),
    /// The end of a backup.
    BackupEnd(BackupEnd),
    /// The settings that a standby must know have changed.
    ParameterChange(ParameterChange),
    /// The end of recovery.
    EndOfRecovery(EndOfRecovery),
    /// A lost record.
    Overwrite(Overwrite),
}

impl XlogEvent {
    /// Reads `record`; `None` when it is of another kind.
    pub fn parse(record: &Record<'_>, format: Format) -> Result<Option<XlogEvent>, Error> {
        if record.header.resource_manager != RM_XLOG {
            return Ok(None);
        }
        let parse = match record.header.operation() {
            XLOG_CHECKPOINT_SHUTDOWN | XLOG_CHECKPOINT_ONLINE => checkpoint,
            XLOG_RESTORE_POINT => restore_point,
            XLOG_BACKUP_END => backup_end,
            XLOG_PARAMETER_CHANGE => parameter_change,
            XLOG_END_OF_RECOVERY => end_of_recovery,
            XLOG_OVERWRITE_CONTRECORD => overwrite,
            _ => return Ok(None),
        };
        let data = record.main_data(format)?;
        let what = "its content is too short for its kind";
        let event = parse(record, data, format);
        event.map(Some).ok_or(Error::Record { lsn: record.lsn, what })
    }
}

fn checkpoint(record: &Record<'_>, data: &[u8], format: Format) -> Option<XlogEvent> {
    Some(XlogEvent::Checkpoint(Checkpoint {
        lsn: record.lsn,
        end_lsn: record.end_lsn,
        redo: u64_at(data, 0)?,
        timeline: u32_at(data, 8)?,
        previous_timeline: u32_at(data, 12)?,
        // Eight numbers lie between: nextXid at 24 to oldestMultiDB at 56, then 4 bytes of padding.
        time: seconds(i64_at(data, 64)?),
        is_shutdown: record.header.operation() == XLOG_CHECKPOINT_SHUTDOWN,
        wal_level: if format.checkpoint_has_wal_level() {
            WalLevel::from_u32(u32_at(data, 20)?)
        } else {
            None
        },
    }))
}

fn restore_point(record: &Record<'_>, data: &[u8], _: Format) -> Option<XlogEvent> {
    // rp_name is MAXFNAMELEN, 64 bytes, ended by a zero.
    let name = data.get(8..72)?.split(|byte| *byte == 0).next()?;
    Some(XlogEvent::RestorePoint(RestorePoint {
        name: name.to_vec(),
        time: timestamp(i64_at(data, 0)?),
        end_lsn: record.end_lsn,
    }))
}

fn backup_end(record: &Record<'_>, data: &[u8], _: Format) -> Option<XlogEvent> {
    let start_lsn = u64_at(data, 0)?;
    Some(XlogEvent::BackupEnd(BackupEnd { start_lsn, end_lsn: record.end_lsn }))
}

fn parameter_change(record: &Record<'_>, data: &[u8], _: Format) -> Option<XlogEvent> {
    // Two booleans follow.
    u8_at(data, 25)?;
    Some(XlogEvent::ParameterChange(ParameterChange {
        lsn: record.lsn,
        max_connections: u32_at(data, 0)?,
        max_worker_processes: u32_at(data, 4)?,
        max_wal_senders: u32_at(data, 8)?,
        max_prepared_transactions: u32_at(data, 12)?,
        max_locks_per_transaction: u32_at(data, 16)?,
        wal_level: WalLevel::from_u32(u32_at(data, 20)?),
    }))
}

fn end_of_recovery(record: &Record<'_>, data: &[u8], format: Format) -> Option<XlogEvent> {
    Some(XlogEvent::EndOfRecovery(EndOfRecovery {
        end_lsn: record.end_lsn,
        time: timestamp(i64_at(data, 0)?),
        timeline: u32_at(data, 8)?,
        previous_timeline: u32_at(data, 12)?,
        wal_level: if format.checkpoint_has_wal_level() {
            WalLevel::from_u32(u32_at(data, 16)?)
        } else {
            None
        },
    }))
}

fn overwrite(record: &Record<'_>, data: &[u8], _: Format) -> Option<XlogEvent> {
    Some(XlogEvent::Overwrite(Overwrite {
        lost_lsn: u64_at(data, 0)?,
        end_lsn: record.end_lsn,
        time: timestamp(i64_at(data, 8)?),
    }))
}

/// A `TimestampTz`, microseconds since 2000; `None` when it is no sensible time.
pub(super) fn timestamp(micros: i64) -> Option<Timestamp> {
    let unix = micros.checked_add(POSTGRES_EPOCH_SECONDS * 1_000_000)?;
    let is_sensible = (0..=LATEST_SECONDS).contains(&unix.div_euclid(1_000_000));
    is_sensible.then(|| Timestamp::from_timestamp_micros(unix))?
}

/// A `pg_time_t`, seconds since 1970.
fn seconds(unix: i64) -> Option<Timestamp> {
    let is_sensible = (0..=LATEST_SECONDS).contains(&unix);
    is_sensible.then(|| Timestamp::from_timestamp(unix, 0))?
}
