//! What the caller may choose about a backup.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::Host;
use crate::pgconn::ConnectOptions;
use crate::repo::BackupType;

/// What the caller may choose.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is stored: everything, or what changed since the last full or the last backup.
    pub backup_type: BackupType,
    /// Where a backup cannot stand on another, or should not, a full is taken instead.
    pub auto_full: bool,
    /// A full is due when a differential uses less than this many hundredths of the last one.
    pub auto_full_below: u8,
    /// Files that nobody seems to have touched are not read.
    pub skips: bool,
    /// What interrupted backups have stored is used.
    pub resumes: bool,
    /// The data directory that is read.
    pub data_directory: PathBuf,
    /// How to reach its server.
    pub connection: ConnectOptions,
    /// A pack is closed when it has stored that many bytes: what is not in a closed one, an interruption loses.
    pub pack_size: u64,
    /// How many workers copy.
    pub jobs: usize,
    /// Bytes of the data directory read in a second, all workers together.
    pub max_rate: Option<u64>,
    /// Checkpoint at once rather than spread.
    pub fast_checkpoint: bool,
    /// How long to wait for the last WAL segment in the repository.
    pub wal_wait: Duration,
    /// Identifies this host in records.
    pub host: Host,
    /// Identifies this process in records.
    pub pid: u32,
    /// Whether a process, by host and number, is surely gone.
    pub is_gone: fn(&str, u32) -> bool,
}
