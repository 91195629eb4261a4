//! One WAL record: its header, its checksum, and where its main data lies.
//!
//! Layout: `XLogRecord` and the block and data headers in `src/include/access/xlogrecord.h`; checksum
//! as `ValidXLogRecord`, structure as `DecodeXLogRecord` in `xlogreader.c`. Block references are
//! stepped over, not decoded: only the main data of a few kinds is of interest here.

use super::little_endian::{u8_at, u16_at, u32_at, u64_at};
use super::{Error, Format};

/// `RM_XLOG_ID` in `rmgrlist.h`: checkpoints, switches, restore points.
pub const RM_XLOG: u8 = 0;
/// `RM_XACT_ID`: commits and aborts.
pub const RM_XACT: u8 = 1;
/// The last built-in resource manager, `RM_LOGICALMSG_ID`, in 14 to 18.
const RM_MAX_BUILTIN: u8 = 21;
/// `RM_MIN_CUSTOM_ID` in `rmgr.h`.
const RM_MIN_CUSTOM: u8 = 128;

/// `SizeOfXLogRecord`.
pub(super) const RECORD_HEADER_BYTES: usize = 24;
/// Offset of `xl_crc`, the header's last field: what the checksum covers ends here.
const CRC_AT: usize = 20;
/// No server reads a longer record: it could not allocate it (`MaxAllocSize`; from 16 on the limit on
/// writing, `XLogRecordMaxSize`, is a little lower).
pub(super) const RECORD_BYTES_MAX: u32 = 0x3FFF_FFFF;

/// `XLR_INFO_MASK`: the low bits of `xl_info` are not the resource manager's.
const XLR_INFO_MASK: u8 = 0x0F;
/// `XLR_BLOCK_ID_DATA_SHORT`, and the other special block ids, downwards.
const ID_DATA_SHORT: u8 = 255;
const ID_DATA_LONG: u8 = 254;
const ID_ORIGIN: u8 = 253;
const ID_TOPLEVEL_XID: u8 = 252;
/// `XLR_MAX_BLOCK_ID`.
const ID_BLOCK_MAX: u8 = 32;
/// `fork_flags`: an image, data, and no relation because it is the previous block's.
const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_HAS_DATA: u8 = 0x20;
const BLOCK_SAME_REL: u8 = 0x80;
/// `BKPIMAGE_HAS_HOLE`.
const IMAGE_HAS_HOLE: u8 = 0x01;

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// `xl_tot_len`: with the header.
    pub total_bytes: u32,
    /// `xl_xid`: of the transaction that wrote it, 0 for none.
    pub xid: u32,
    /// `xl_prev`: where the record before this one begins.
    pub previous: u64,
    /// `xl_info`.
    pub info: u8,
    /// `xl_rmid`.
    pub resource_manager: u8,
    /// `xl_crc`.
    pub crc: u32,
}

impl RecordHeader {
    /// Reads a header; `None` when it is not whole.
    pub fn parse(bytes: &[u8]) -> Option<RecordHeader> {
        let header: &[u8; RECORD_HEADER_BYTES] = bytes.first_chunk()?;
        Some(RecordHeader {
            total_bytes: u32_at(header, 0)?,
            xid: u32_at(header, 4)?,
            previous: u64_at(header, 8)?,
            info: u8_at(header, 16)?,
            resource_manager: u8_at(header, 17)?,
            crc: u32_at(header, CRC_AT)?,
        })
    }

    /// The resource manager's own bits of `xl_info`: which kind of record this is.
    pub fn operation(&self) -> u8 {
        self.info & !XLR_INFO_MASK
    }

    /// Whether the format knows the resource manager (`RmgrIdIsValid`).
    pub(super) fn has_valid_resource_manager(&self, format: Format) -> bool {
        self.resource_manager <= RM_MAX_BUILTIN
            || (self.resource_manager >= RM_MIN_CUSTOM && format.has_custom_resource_managers())
    }

    /// Whether the checksum is that of `record`, which is the whole record: data first, then the
    /// header up to the checksum itself.
    pub(super) fn checksum_matches(&self, record: &[u8]) -> bool {
        let (Some(header), Some(data)) = (record.get(..CRC_AT), record.get(RECORD_HEADER_BYTES..))
        else {
            return false;
        };
        crc32c::crc32c_append(crc32c::crc32c(data), header) == self.crc
    }
}

/// A record whose checksum has been verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it begins.
    pub lsn: u64,
    /// Where the next one may begin: PostgreSQL's `EndRecPtr`, so before the page header when the
    /// record ends with its page.
    pub end_lsn: u64,
    /// Its header.
    pub header: RecordHeader,
    /// The whole record, header included, without the page headers inside it.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The main data, which comes last in a record, after all block data.
    pub fn main_data(&self, format: Format) -> Result<&'a [u8], Error> {
        let wrong = |what| Error::Record { lsn: self.lsn, what };
        let headers = self.bytes.get(RECORD_HEADER_BYTES..).unwrap_or_default();
        let (used, block_bytes, main_bytes) = walk(headers, format).map_err(wrong)?;
        let data = headers.get(used..).unwrap_or_default();
        if data.len() != block_bytes.saturating_add(main_bytes) {
            return Err(wrong("lengths do not add up"));
        }
        data.get(block_bytes..).ok_or(wrong("lengths do not add up"))
    }
}

/// Steps over the headers of blocks and data: bytes of headers, of block data, of main data.
fn walk(headers: &[u8], format: Format) -> Result<(usize, usize, usize), &'static str> {
    const SHORT: &str = "a header is cut short";
    let (mut at, mut block_bytes) = (0_usize, 0_usize);
    // As DecodeXLogRecord: headers go on as long as there is more than the data announced so far.
    while headers.len().saturating_sub(at) > block_bytes {
        let id = u8_at(headers, at).ok_or(SHORT)?;
        at += 1;
        match id {
            ID_DATA_SHORT => {
                let main_bytes = u8_at(headers, at).ok_or(SHORT)?;
                return Ok((at + 1, block_bytes, usize::from(main_bytes)));
            }
            ID_DATA_LONG => {
                let main_bytes = u32_at(headers, at).ok_or(SHORT)?;
                return Ok((at + 4, block_bytes, main_bytes as usize));
            }
            ID_ORIGIN => at += 2,
            ID_TOPLEVEL_XID => at += 4,
            0..=ID_BLOCK_MAX => {
                let (header, data) = walk_block(headers, at, format).ok_or(SHORT)?;
                at += header;
                block_bytes = block_bytes.saturating_add(data);
            }
            _ => return Err("a block has an impossible number"),
        }
    }
    Ok((at, block_bytes, 0))
}

/// `XLogRecordBlockHeader` after its id, with what follows it: bytes of headers, bytes of data.
fn walk_block(headers: &[u8], at: usize, format: Format) -> Option<(usize, usize)> {
    let fork_flags = u8_at(headers, at)?;
    let mut data = 0;
    if fork_flags & BLOCK_HAS_DATA != 0 {
        data += usize::from(u16_at(headers, at + 1)?);
    }
    let mut next = at + 3;
    if fork_flags & BLOCK_HAS_IMAGE != 0 {
        data += usize::from(u16_at(headers, next)?);
        let image_info = u8_at(headers, next + 4)?;
        next += 5;
        let compressed = image_info & format.image_compressed_bits() != 0;
        if compressed && image_info & IMAGE_HAS_HOLE != 0 {
            next += 2;
        }
    }
    if fork_flags & BLOCK_SAME_REL == 0 {
        // Tablespace, database, relation.
        next += 12;
    }
    // The block number.
    next += 4;
    Some((next - at, data))
}
