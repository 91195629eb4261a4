//! The control file as it is restored, and as it lies in a data directory.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::error::{Error, Result};
use crate::pg::ControlFile;
use crate::pg::control_file::{FILE_SIZE, invalidate_checkpoint};
use crate::repo::{OpenedBackup, Row};

pub(super) const CONTROL_PATH: &[u8] = b"global/pg_control";

/// Its name while it is written.
pub(super) const CONTROL_TEMPORARY: &[u8] = b"global/pg_control.pgkeep-tmp";

/// Far more than a control file ever has.
const BYTES_MAX: u64 = 1 << 20;

/// The control file as it is restored: with a checkpoint that cannot be used without `backup_label`.
pub(super) fn control_file(opened: &OpenedBackup) -> Result<Vec<u8>> {
    let missing = "the backup does not hold it";
    let wrong = |why: &str| Error::Content { path: CONTROL_PATH.to_vec(), why: why.into() };
    let row = opened.find_row(CONTROL_PATH)?.ok_or_else(|| wrong(missing))?;
    control_content(opened, &row)
}

/// As [`control_file`], of a row that is known.
pub(super) fn control_content(opened: &OpenedBackup, row: &Row) -> Result<Vec<u8>> {
    let mut content = opened.read_whole(row, BYTES_MAX)?;
    invalidate_checkpoint(&mut content)
        .map_err(|source| Error::Postgres { what: "pg_control", source })?;
    Ok(content)
}

/// The control file of a data directory; nothing where there is none, or none that can be understood.
pub(super) fn control_in(data: &Path) -> Result<Option<ControlFile>> {
    let path = data.join(OsStr::from_bytes(CONTROL_PATH));
    match fs::read(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Error::file("read", &path)(error)),
        Ok(content) => Ok(ControlFile::parse(content.get(..FILE_SIZE).unwrap_or(&content)).ok()),
    }
}
