//! The server's configuration files in a backup: their names, and how they are read.

use super::error::Result;
use crate::pg::config_file::ConfigFile;
use crate::repo::OpenedBackup;

/// The settings that `ALTER SYSTEM` writes.
pub(super) const AUTO_CONF: &[u8] = b"postgresql.auto.conf";

/// Those that people do, where the file lies in the data directory.
pub(super) const CONF: &[u8] = b"postgresql.conf";

/// A configuration file is text that people write; a backup stores no longer one (`backup::external`).
pub(super) const FILE_BYTES_MAX: u64 = 16 << 20;

/// A configuration file of the backup, read; nothing where it lies outside the data directory.
pub(super) fn configuration(opened: &OpenedBackup, path: &[u8]) -> Result<Option<ConfigFile>> {
    let Some(row) = opened.find_row(path)? else { return Ok(None) };
    Ok(Some(ConfigFile::parse(&opened.read_whole(&row, FILE_BYTES_MAX)?)))
}
