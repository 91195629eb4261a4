//! The files of relations: from a path in the data directory to relation, fork and segment.
//!
//! Matching is anchored: a path is a relation's only under `global/`, `base/<database>/` or
//! `pg_tblspc/<tablespace>/PG_<major>_<catalog>/<database>/`. What a name looks like elsewhere does
//! not matter. These files, all forks, and no others consist of pages with checksums
//! (`basebackup.c`: `noChecksumFiles` up to 16, the parsed name since 17).

use std::fmt;

use super::read;

/// The tablespace of `base/` (`DEFAULTTABLESPACE_OID`, `src/include/catalog/pg_tablespace.dat`).
pub const DEFAULT_TABLESPACE: u32 = 1663;
/// The tablespace of `global/` (`GLOBALTABLESPACE_OID`).
pub const GLOBAL_TABLESPACE: u32 = 1664;

/// A fork of a relation (`ForkNumber`, `src/common/relpath.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    /// The relation's data.
    Main,
    /// `_fsm`: where there is room.
    FreeSpaceMap,
    /// `_vm`: what needs no vacuum.
    VisibilityMap,
    /// `_init`: what an unlogged relation becomes after a crash.
    Init,
}

impl Fork {
    fn from_suffix(suffix: &[u8]) -> Option<Self> {
        match suffix {
            b"fsm" => Some(Self::FreeSpaceMap),
            b"vm" => Some(Self::VisibilityMap),
            b"init" => Some(Self::Init),
            _ => None,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::FreeSpaceMap => "_fsm",
            Self::VisibilityMap => "_vm",
            Self::Init => "_init",
        }
    }
}

/// One file of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFile {
    /// Object id of the tablespace.
    pub tablespace: u32,
    /// Object id of the database; zero for shared relations.
    pub database: u32,
    /// The relation's file number: not its object id, though often equal to it.
    pub number: u32,
    /// Which fork.
    pub fork: Fork,
    /// Which file of the fork; each but the last has the cluster's full count of blocks.
    pub segment: u32,
    /// The backend that owns it, for a temporary relation.
    pub temporary: Option<u32>,
}

impl RelationFile {
    /// Reads a path relative to the data directory; `None` for every file that is not a relation's.
    #[must_use]
    pub fn parse(path: &[u8]) -> Option<Self> {
        let (directory, name) = split_last(path)?;
        let (tablespace, database) = database_directory(directory)?;
        let shared = database == 0;
        Self::parse_name(name)
            .filter(|file| !(shared && file.temporary.is_some()))
            .map(|file| Self { tablespace, database, ..file })
    }

    /// Reads a name alone, with tablespace and database zero
    /// (`src/backend/storage/file/reinit.c`, `parse_filename_for_nontemp_relation`;
    /// `src/backend/storage/file/fd.c`, `looks_like_temp_rel_name`).
    fn parse_name(name: &[u8]) -> Option<Self> {
        let (name, segment) = match split_at(name, b'.') {
            Some((name, segment)) => (name, Some(read::decimal(segment).filter(|no| *no > 0)?)),
            None => (name, None),
        };
        let (temporary, name) = match name.strip_prefix(b"t") {
            Some(rest) => {
                let (backend, name) = split_at(rest, b'_')?;
                (Some(read::decimal(backend)?), name)
            }
            None => (None, name),
        };
        let (number, fork) = match split_at(name, b'_') {
            Some((number, suffix)) => (number, Fork::from_suffix(suffix)?),
            None => (name, Fork::Main),
        };
        Some(Self {
            tablespace: 0,
            database: 0,
            number: read::decimal(number).filter(|number| *number > 0)?,
            fork,
            segment: segment.unwrap_or(0),
            temporary,
        })
    }

    /// The number of the file's first block in its fork: what page checksums count from. `None` when
    /// PostgreSQL could not have such a file.
    #[must_use]
    pub fn first_block(&self, relation_segment_blocks: u32) -> Option<u32> {
        self.segment.checked_mul(relation_segment_blocks)
    }
}

/// The file's name without its directory.
impl fmt::Display for RelationFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(backend) = self.temporary {
            write!(f, "t{backend}_")?;
        }
        write!(f, "{}{}", self.number, self.fork.suffix())?;
        match self.segment {
            0 => Ok(()),
            segment => write!(f, ".{segment}"),
        }
    }
}

/// Tablespace and database of a directory that holds relations: `global`, `base/<database>`, and the
/// databases inside a tablespace's directory for one version.
#[must_use]
pub fn database_directory(directory: &[u8]) -> Option<(u32, u32)> {
    if directory == b"global" {
        return Some((GLOBAL_TABLESPACE, 0));
    }
    let (parent, database) = split_last(directory)?;
    let database = read::decimal(database).filter(|oid| *oid > 0)?;
    if parent == b"base" {
        return Some((DEFAULT_TABLESPACE, database));
    }
    let (location, version) = split_last(parent)?;
    let tablespace = read::decimal(location.strip_prefix(b"pg_tblspc/")?)?;
    is_version_directory(version).then_some((tablespace, database))
}

/// Whether a name is `PG_<major>_<catalog version>` (`TABLESPACE_VERSION_DIRECTORY`,
/// `src/include/common/relpath.h`), of any version.
#[must_use]
pub fn is_version_directory(name: &[u8]) -> bool {
    name.strip_prefix(b"PG_").and_then(|rest| split_at(rest, b'_')).is_some_and(
        |(major, catalog)| read::decimal(major).is_some() && read::decimal(catalog).is_some(),
    )
}

/// What is before and after the first `separator`.
fn split_at(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == separator)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// A path's directory and last component.
fn split_last(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.iter().rposition(|byte| *byte == b'/')?;
    Some((path.get(..at)?, path.get(at + 1..)?))
}

#[cfg(test)]
mod tests;
