//! Records of tablespaces being made. Replayed, they make the location as it is written, and the link
//! to it (`tblspc_redo`, `create_tablespace_directories` in `src/backend/commands/tablespace.c`): on the
//! host of the cluster that wrote them, that is the live cluster's own.

use super::little_endian::u32_at;
use super::{Error, Format, Record};

/// `RM_TBLSPC_ID` in `rmgrlist.h`.
pub const RM_TBLSPC: u8 = 5;
/// `XLOG_TBLSPC_CREATE`.
const XLOG_TBLSPC_CREATE: u8 = 0x00;

/// A tablespace that replay would make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceCreation {
    /// Where the record begins.
    pub lsn: u64,
    /// Its oid.
    pub oid: u32,
    /// Its location; empty for one in the data directory.
    pub location: Vec<u8>,
}

impl TablespaceCreation {
    /// Reads `record`; `None` when it is of another kind.
    ///
    /// # Errors
    /// [`Error::Record`] for a content that is too short.
    pub fn parse(record: &Record<'_>, format: Format) -> Result<Option<Self>, Error> {
        if record.header.resource_manager != RM_TBLSPC
            || record.header.operation() != XLOG_TBLSPC_CREATE
        {
            return Ok(None);
        }
        let data = record.main_data(format)?;
        let what = "its content is too short for its kind";
        let short = || Error::Record { lsn: record.lsn, what };
        // xl_tblspc_create_rec: the oid, then the path with its zero.
        let oid = u32_at(data, 0).ok_or_else(short)?;
        let path = data.get(4..).ok_or_else(short)?;
        let location = path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        Ok(Some(Self { lsn: record.lsn, oid, location }))
    }
}
