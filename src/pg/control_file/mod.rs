//! `global/pg_control`: what a cluster says about itself.
//!
//! The layout is `ControlFileData` and `CheckPoint` of `src/include/catalog/pg_control.h` as 64-bit
//! compilers lay them out. Versions 1300 (14 to 16) and 1700 have every field that is read here at the
//! same place; 1800 has one byte more before the nonce, which moves the nonce and the CRC.
//!
//! The CRC is checked before anything else is believed, apart from the version that says where it is.
//! A file that was read while the server wrote it fails the check: read again.

use crate::base::Timestamp;

use super::{Error, Lsn, MajorVersion, Result, SegmentSize, TimelineId, read};

/// Bytes of the file (`PG_CONTROL_FILE_SIZE`); the rest after the structure is zeros.
pub const FILE_SIZE: usize = 8192;

/// A checkpoint that no WAL holds: a server that finds it without a `backup_label` refuses to start.
pub const INVALID_CHECKPOINT: Lsn = Lsn(0xDEAD);

const CHECKPOINT_OFFSET: usize = 32;

/// What the cluster was doing when the file was last written (`DBState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ClusterState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

/// How much the server writes into its WAL (`WalLevel`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum WalLevel {
    Minimal,
    Replica,
    Logical,
}

/// The last checkpoint (`CheckPoint`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where its record is.
    pub lsn: Lsn,
    /// Where replay from it begins.
    pub redo: Lsn,
    /// The timeline that it is on.
    pub timeline: TimelineId,
    /// The timeline before, when the checkpoint began a timeline; otherwise the same.
    pub previous_timeline: TimelineId,
    /// Whether whole pages were logged.
    pub full_page_writes: bool,
    /// The next transaction: epoch in the upper half, number in the lower.
    pub next_xid: u64,
    /// The next object.
    pub next_oid: u32,
    /// When it began, in whole seconds.
    pub time: Timestamp,
}

/// How far an archive recovery must go before the cluster is consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Replay must reach this; 0/0 outside of archive recovery.
    pub minimum: Lsn,
    /// On this timeline.
    pub minimum_timeline: Option<TimelineId>,
    /// Where the backup that is being recovered from began; 0/0 when its end was reached.
    pub backup_start: Lsn,
    /// Where a backup from a standby ends; 0/0 otherwise.
    pub backup_end: Lsn,
    /// Whether the end of the backup is marked by a WAL record.
    pub backup_end_required: bool,
}

/// Settings that a hot standby must match or exceed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
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
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}

/// The content of `pg_control`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// What makes this cluster this cluster.
    pub system_identifier: u64,
    /// The version of this file's layout.
    pub control_version: u32,
    /// The version of the system catalogs.
    pub catalog_version: u32,
    /// What the cluster was doing.
    pub state: ClusterState,
    /// When the file was last written, in whole seconds.
    pub time: Timestamp,
    /// The last checkpoint.
    pub checkpoint: Checkpoint,
    /// Where recovery stands.
    pub recovery: Recovery,
    /// Settings that standbys depend on.
    pub settings: Settings,
    /// Alignment of tuples.
    pub max_align: u32,
    /// Bytes of a data page.
    pub block_size: u32,
    /// Blocks of one file of a relation.
    pub relation_segment_blocks: u32,
    /// Bytes of a WAL page.
    pub wal_block_size: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: SegmentSize,
    /// Zero when data pages have no checksums.
    pub data_checksum_version: u32,
    /// Random bytes that login attempts of unknown users are answered with.
    pub mock_authentication_nonce: [u8; 32],
}

impl ControlFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Short`] below 8192 bytes, [`Error::ByteOrder`], [`Error::UnknownVersion`],
    /// [`Error::Corrupt`] when the CRC does not fit or a value is impossible.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let control_version = check(file)?;
        let u32_at = |offset, field| read::u32_at(file, offset, field);
        Ok(Self {
            system_identifier: read::u64_at(file, 0, "system_identifier")?,
            control_version,
            catalog_version: u32_at(12, "catalog_version_no")?,
            state: state(u32_at(16, "state")?)?,
            time: time(file, 24, "time")?,
            checkpoint: checkpoint(file)?,
            recovery: recovery(file)?,
            settings: settings(file)?,
            max_align: u32_at(204, "maxAlign")?,
            block_size: power_of_two(u32_at(216, "blcksz")?, "block size", 15)?,
            relation_segment_blocks: u32_at(220, "relseg_size").and_then(at_least_one)?,
            wal_block_size: power_of_two(u32_at(224, "xlog_blcksz")?, "WAL block size", 16)?,
            wal_segment_size: SegmentSize::new(u32_at(228, "xlog_seg_size")?.into())?,
            data_checksum_version: u32_at(252, "data_checksum_version")?,
            mock_authentication_nonce: read::array(
                file,
                nonce_offset(control_version)?,
                "mock_authentication_nonce",
            )?,
        })
    }

    /// The major version that the two version fields stand for.
    ///
    /// # Errors
    /// As [`MajorVersion::from_control_file`].
    pub fn major(&self) -> Result<MajorVersion> {
        MajorVersion::from_control_file(self.control_version, self.catalog_version)
    }

    /// Whether data pages have checksums.
    #[must_use]
    pub fn has_data_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }
}

/// Points the checkpoint at [`INVALID_CHECKPOINT`] and renews the CRC; nothing else changes. With
/// `backup_label` in place the server does not look at the pointer; without it the server stops with
/// a PANIC instead of starting from the wrong checkpoint.
///
/// # Errors
/// As [`ControlFile::parse`]; the bytes are unchanged then.
pub fn invalidate_checkpoint(file: &mut [u8]) -> Result<()> {
    let version = ControlFile::parse(file)?.control_version;
    let crc_offset = crc_offset(version)?;
    put(file, CHECKPOINT_OFFSET, &INVALID_CHECKPOINT.0.to_le_bytes())?;
    let crc = crc(file, crc_offset)?;
    put(file, crc_offset, &crc.to_le_bytes())?;
    let changed = ControlFile::parse(file)?;
    assert_eq!(changed.checkpoint.lsn, INVALID_CHECKPOINT);
    Ok(())
}

/// Size, byte order, version and CRC. Returns the version.
fn check(file: &[u8]) -> Result<u32> {
    if file.len() < FILE_SIZE {
        return Err(Error::Short { field: "pg_control", need: FILE_SIZE, have: file.len() });
    }
    let version = read::u32_at(file, 8, "pg_control_version")?;
    if version.is_multiple_of(65_536) && version != 0 {
        return Err(Error::ByteOrder { what: "pg_control" });
    }
    let offset = crc_offset(version)?;
    let stored = read::u32_at(file, offset, "crc")?;
    let computed = crc(file, offset)?;
    if stored != computed {
        let (expected, found) = (format!("{computed:08x}"), format!("{stored:08x}"));
        return Err(Error::corrupt("CRC of pg_control", expected, found));
    }
    // The same constant for every version: proof that the machine's floating point is ours.
    let float = f64::from_bits(read::u64_at(file, 208, "floatFormat")?);
    if float.to_bits() != 1_234_567.0_f64.to_bits() {
        return Err(Error::corrupt("float format in pg_control", "1234567", float));
    }
    Ok(version)
}

fn nonce_offset(version: u32) -> Result<usize> {
    match version {
        1300 | 1700 => Ok(256),
        // After the flag for the signedness of `char`.
        1800 => Ok(257),
        _ => Err(Error::UnknownVersion { what: "pg_control version", found: version.to_string() }),
    }
}

/// The CRC follows the nonce, aligned to four bytes.
fn crc_offset(version: u32) -> Result<usize> {
    Ok((nonce_offset(version)? + 32).next_multiple_of(4))
}

fn crc(file: &[u8], offset: usize) -> Result<u32> {
    let covered = file.get(..offset).ok_or(Error::Short {
        field: "pg_control",
        need: offset,
        have: file.len(),
    })?;
    Ok(crc32c::crc32c(covered))
}

fn put(file: &mut [u8], offset: usize, value: &[u8]) -> Result<()> {
    let have = file.len();
    let need = offset + value.len();
    let target =
        file.get_mut(offset..need).ok_or(Error::Short { field: "pg_control", need, have })?;
    target.copy_from_slice(value);
    Ok(())
}

fn checkpoint(file: &[u8]) -> Result<Checkpoint> {
    Ok(Checkpoint {
        lsn: lsn(file, CHECKPOINT_OFFSET, "checkPoint")?,
        redo: lsn(file, 40, "redo")?,
        timeline: timeline(file, 48, "ThisTimeLineID")?,
        previous_timeline: timeline(file, 52, "PrevTimeLineID")?,
        full_page_writes: flag(file, 56, "fullPageWrites")?,
        next_xid: read::u64_at(file, 64, "nextXid")?,
        next_oid: read::u32_at(file, 72, "nextOid")?,
        time: time(file, 104, "time of the checkpoint")?,
    })
}

fn recovery(file: &[u8]) -> Result<Recovery> {
    Ok(Recovery {
        minimum: lsn(file, 136, "minRecoveryPoint")?,
        minimum_timeline: TimelineId::new(read::u32_at(file, 144, "minRecoveryPointTLI")?),
        backup_start: lsn(file, 152, "backupStartPoint")?,
        backup_end: lsn(file, 160, "backupEndPoint")?,
        backup_end_required: flag(file, 168, "backupEndRequired")?,
    })
}

fn settings(file: &[u8]) -> Result<Settings> {
    Ok(Settings {
        wal_level: wal_level(read::u32_at(file, 172, "wal_level")?)?,
        wal_log_hints: flag(file, 176, "wal_log_hints")?,
        max_connections: read::u32_at(file, 180, "MaxConnections")?,
        max_worker_processes: read::u32_at(file, 184, "max_worker_processes")?,
        max_wal_senders: read::u32_at(file, 188, "max_wal_senders")?,
        max_prepared_transactions: read::u32_at(file, 192, "max_prepared_xacts")?,
        max_locks_per_transaction: read::u32_at(file, 196, "max_locks_per_xact")?,
        track_commit_timestamp: flag(file, 200, "track_commit_timestamp")?,
    })
}

fn lsn(file: &[u8], offset: usize, field: &'static str) -> Result<Lsn> {
    read::u64_at(file, offset, field).map(Lsn)
}

fn flag(file: &[u8], offset: usize, field: &'static str) -> Result<bool> {
    let [byte] = read::array(file, offset, field)?;
    Ok(byte != 0)
}

fn timeline(file: &[u8], offset: usize, field: &'static str) -> Result<TimelineId> {
    TimelineId::new(read::u32_at(file, offset, field)?)
        .ok_or_else(|| Error::corrupt("timeline in pg_control", "above 0", 0))
}

fn time(file: &[u8], offset: usize, field: &'static str) -> Result<Timestamp> {
    let seconds = i64::from_le_bytes(read::array(file, offset, field)?);
    Timestamp::from_timestamp(seconds, 0)
        .ok_or_else(|| Error::corrupt("time in pg_control", "seconds since 1970", seconds))
}

fn power_of_two(value: u32, what: &'static str, log2_max: u32) -> Result<u32> {
    if value.is_power_of_two() && (10..=log2_max).contains(&value.trailing_zeros()) {
        return Ok(value);
    }
    let expected = format!("a power of two from 1024 to {}", 1_u32 << log2_max);
    Err(Error::corrupt(what, expected, value))
}

fn at_least_one(blocks: u32) -> Result<u32> {
    match blocks {
        0 => Err(Error::corrupt("blocks per relation file", "above 0", blocks)),
        _ => Ok(blocks),
    }
}

fn state(value: u32) -> Result<ClusterState> {
    Ok(match value {
        0 => ClusterState::StartingUp,
        1 => ClusterState::ShutDown,
        2 => ClusterState::ShutDownInRecovery,
        3 => ClusterState::ShuttingDown,
        4 => ClusterState::InCrashRecovery,
        5 => ClusterState::InArchiveRecovery,
        6 => ClusterState::InProduction,
        _ => return Err(Error::corrupt("cluster state", "0 to 6", value)),
    })
}

fn wal_level(value: u32) -> Result<WalLevel> {
    Ok(match value {
        0 => WalLevel::Minimal,
        1 => WalLevel::Replica,
        2 => WalLevel::Logical,
        _ => return Err(Error::corrupt("wal_level", "0 to 2", value)),
    })
}

#[cfg(test)]
mod tests;
