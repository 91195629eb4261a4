//! Small files that carry a checksum of their own and that no WAL mends when a reading was torn: the
//! relation maps and the states of prepared transactions.
//!
//! A server with a bad one does not start, or not recover: it is worth knowing when it is copied.

use super::{Error, Result, read, relation};

/// `RELMAPPER_FILEMAGIC` (`src/backend/utils/cache/relmapper.c`), the same in 14 to 18.
const MAP_MAGIC: u32 = 0x0059_2717;

/// `TWOPHASE_MAGIC` (`src/backend/access/transam/twophase.c`), the same in 14 to 18.
const STATE_MAGIC: u32 = 0x57F9_4534;

/// Which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckedFile {
    /// `pg_filenode.map`: the file numbers of a database's first catalogs. Overwritten in place up
    /// to 15, replaced by a rename since.
    RelationMap,
    /// A file of `pg_twophase`: a prepared transaction that a checkpoint has met. Created under its
    /// final name.
    PreparedTransaction,
}

impl CheckedFile {
    /// Which one a path relative to the data directory is, if any.
    #[must_use]
    pub fn of(path: &[u8]) -> Option<Self> {
        let at = path.iter().rposition(|byte| *byte == b'/')?;
        let (directory, name) = (path.get(..at)?, path.get(at + 1..)?);
        match (directory, name) {
            (b"pg_twophase", name) => is_transaction(name).then_some(Self::PreparedTransaction),
            (_, b"pg_filenode.map") => {
                relation::database_directory(directory).map(|_| Self::RelationMap)
            }
            _ => None,
        }
    }

    /// Checks what the server checks when it reads the file.
    ///
    /// # Errors
    /// [`Error::Short`], [`Error::Corrupt`].
    pub fn check(self, content: &[u8]) -> Result<()> {
        match self {
            Self::RelationMap => check_map(content),
            Self::PreparedTransaction => check_state(content),
        }
    }
}

/// `TwoPhaseFilePath`: the transaction's number, since 17 with its epoch.
fn is_transaction(name: &[u8]) -> bool {
    let (halves, rest) = name.as_chunks::<8>();
    let is_hex = halves.iter().all(|half| read::hex8(half).is_some());
    is_hex && rest.is_empty() && matches!(halves.len(), 1 | 2)
}

/// Magic, count, mappings, CRC of all before. Up to 15 there are 62 mappings and four bytes of
/// padding behind the CRC, since 16 there are 64 and none.
fn check_map(content: &[u8]) -> Result<()> {
    let crc_offset = match content.len() {
        512 => 504,
        524 => 520,
        found => return Err(Error::corrupt("size of pg_filenode.map", "512 or 524", found)),
    };
    expect("magic of pg_filenode.map", MAP_MAGIC, read::u32_at(content, 0, "magic")?)?;
    check_crc("CRC of pg_filenode.map", content, crc_offset)
}

/// A header that begins with magic and total length, records, CRC of all before; everything aligned
/// to eight bytes but the end (`ReadTwoPhaseFile`).
fn check_state(content: &[u8]) -> Result<()> {
    expect("magic of a prepared transaction", STATE_MAGIC, read::u32_at(content, 0, "magic")?)?;
    let length = read::u32_at(content, 4, "total_len")?;
    if usize::try_from(length) != Ok(content.len()) {
        return Err(Error::corrupt("size of a prepared transaction", length, content.len()));
    }
    let crc_offset = content.len().saturating_sub(4);
    if !crc_offset.is_multiple_of(8) {
        let expected = "four bytes more than a multiple of eight";
        return Err(Error::corrupt("size of a prepared transaction", expected, content.len()));
    }
    check_crc("CRC of a prepared transaction", content, crc_offset)
}

fn check_crc(what: &'static str, content: &[u8], offset: usize) -> Result<()> {
    let found = read::u32_at(content, offset, what)?;
    let covered = content.get(..offset).unwrap_or_default();
    expect(what, crc32c::crc32c(covered), found)
}

fn expect(what: &'static str, expected: u32, found: u32) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::corrupt(what, format!("{expected:08x}"), format!("{found:08x}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(mut content: Vec<u8>, padding: usize) -> Vec<u8> {
        let crc = crc32c::crc32c(&content);
        content.extend(crc.to_le_bytes());
        content.resize(content.len() + padding, 0);
        content
    }

    fn map(mappings: usize, padding: usize) -> Vec<u8> {
        let mut content = MAP_MAGIC.to_le_bytes().to_vec();
        content.extend(17u32.to_le_bytes());
        content.resize(8 + mappings * 8, 7);
        sealed(content, padding)
    }

    fn state(length: usize) -> Vec<u8> {
        let mut content = STATE_MAGIC.to_le_bytes().to_vec();
        content.extend(u32::try_from(length).unwrap().to_le_bytes());
        content.resize(length - 4, 7);
        sealed(content, 0)
    }

    #[test]
    fn they_are_known_by_their_place() {
        let map = Some(CheckedFile::RelationMap);
        let prepared = Some(CheckedFile::PreparedTransaction);
        for (path, expected) in [
            (&b"global/pg_filenode.map"[..], map),
            (b"base/5/pg_filenode.map", map),
            (b"pg_tblspc/16384/PG_15_202209061/5/pg_filenode.map", map),
            (b"pg_filenode.map", None),
            (b"extras/pg_filenode.map", None),
            (b"base/5/pg_filenode.map.tmp", None),
            (b"pg_twophase/000002E1", prepared),
            (b"pg_twophase/00000000000002E1", prepared),
            (b"pg_twophase/000002E1.old", None),
            (b"pg_twophase/000002e1", None),
            (b"pg_twophase/", None),
            (b"pg_twophase", None),
        ] {
            assert_eq!(CheckedFile::of(path), expected, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_shows() {
        let samples = [
            (CheckedFile::RelationMap, map(62, 4), 508),
            (CheckedFile::RelationMap, map(64, 0), 524),
            (CheckedFile::PreparedTransaction, state(300), 300),
        ];
        for (kind, good, covered) in samples {
            kind.check(&good).unwrap();
            for bit in 0..covered * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(kind.check(&bad).is_err(), "{kind:?} bit {bit}");
            }
            for end in 0..good.len() {
                assert!(kind.check(&good[..end]).is_err(), "{kind:?} cut at {end}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(content: Vec<u8>) {
            prop_assert!(CheckedFile::RelationMap.check(&content).is_err());
            prop_assert!(CheckedFile::PreparedTransaction.check(&content).is_err());
        }
    }
}
