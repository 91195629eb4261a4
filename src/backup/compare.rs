//! The walk beside the parent's rows, and beside what dead attempts have: what is new, what is gone, and what is not
//! even read.
//!
//! A file is unchanged without being read only when file system, inode, size, modification and change time all
//! equal the parent's record, and the change time lies safely before the parent's start, on a file system that is
//! known to be honest. Whatever else there is, is read.
//!
//! One thing changes a file and leaves its stat record as it was: a power cut, after a page came to the disk and
//! before the file's times did. Recovery writes every page anew that WAL has whole, and with it the times. It has
//! no whole pages with `full_page_writes = off`; and of the visibility map it clears bits that are set, by the
//! record of a change to the table (`visibilitymap_clear`): where the disk has the page without them already,
//! nothing is written. Offsets of multixacts are written only where they differ, too (`RecordNewMultiXact`). So
//! these are read, and without whole pages everything is, unless the file system itself never writes over anything.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use chrono::TimeDelta;

use super::error::{Error, Result};
use super::parent::{Parent, ParentRows};
use super::read::{file_system, stat_identity, time};
use super::scan::{Entry, Found};
use super::stands::{Salvage, Stands};
use crate::base::Timestamp;
use crate::pg::{Fork, RelationFile};
use crate::repo::{Row, RowKind};

/// How much older than the parent's start a change must be. A write gets its time first and its data later,
/// and kernels before 6.13 know the time by ticks.
const MARGIN: TimeDelta = TimeDelta::seconds(60);

/// What is known already, beside the walk.
pub(super) struct Comparison<'a> {
    stands: &'a Stands,
    /// The parent's rows, and the one that it has come to.
    rows: Option<ParentRows<'a>>,
    next: Option<Row>,
    salvage: Salvage<'a>,
    /// Files outside the data directory that the parent had: the walk does not meet them.
    external: Vec<Vec<u8>>,
    file_systems: HashMap<u64, Option<String>>,
    skips: Skips,
    block_size: u64,
}

/// What may be skipped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Skips {
    /// Files that nobody has touched.
    pub(super) wanted: bool,
    /// WAL has whole pages.
    pub(super) pages_are_whole: bool,
}

/// The file system that writes elsewhere and then switches over, data and times together. Btrfs does where nobody
/// has told it otherwise, as for databases one does (`nodatacow`, `chattr +C`).
const SWITCHING: &str = "zfs:";

/// What is known of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// It has to be looked at: what the parent says it was, and what dead attempts have of it.
    Was(Option<Row>, Vec<Row>),
    /// It is what the parent says: nothing has touched it.
    Is(Row),
    /// As [`Before::Is`], of a file that is read all the same.
    Seems(Row),
    /// It is what a dead attempt has stored.
    Stored(Row),
}

impl<'a> Comparison<'a> {
    pub(super) fn new(stands: &'a Stands, skips: Skips, block_size: u64) -> Result<Self> {
        let mut rows = stands.parent.as_deref().map(Parent::rows).transpose()?;
        let next = rows.as_mut().map_or(Ok(None), ParentRows::next_row)?;
        // Of a file that is not read nobody would know what of it is invalid.
        let is_told = stands.parent.as_deref().is_none_or(Parent::lists_all_damage);
        let skips = Skips { wanted: skips.wanted && is_told, ..skips };
        Ok(Self {
            stands,
            rows,
            next,
            salvage: stands.salvage(),
            external: Vec::new(),
            file_systems: HashMap::new(),
            skips,
            block_size,
        })
    }

    /// What is known of the walk's next entry; `gone` gets the parent's paths that the walk has passed.
    pub(super) fn meet(
        &mut self,
        entry: &Entry,
        gone: &mut dyn FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<Before> {
        self.pass(Some(&entry.path), gone)?;
        let row = self.next.take_if(|row| row.path == entry.path);
        if let Some(row) = row {
            self.advance()?;
            let is_file = self.skips.wanted && row.kind == RowKind::File;
            let started = self.stands.parent.as_ref().map(|parent| parent.started());
            if is_file && self.is_untouched(entry, &row, started)? {
                let before = if is_always_read(&row.path) { Before::Seems } else { Before::Is };
                return Ok(before(row));
            }
            return self.look(entry, Some(row));
        }
        self.look(entry, None)
    }

    /// What dead attempts have of a file.
    fn look(&mut self, entry: &Entry, row: Option<Row>) -> Result<Before> {
        if entry.what != Found::File {
            return Ok(Before::Was(row, Vec::new()));
        }
        let mut found = Vec::new();
        for salvaged in self.salvage.of(&entry.path, self.block_size)? {
            let started = self.stands.attempt(salvaged.base).map(|attempt| attempt.begin().started);
            if self.skips.wanted
                && salvaged.is_whole
                && !is_always_read(&entry.path)
                && self.is_untouched(entry, &salvaged.row, started)?
            {
                return Ok(Before::Stored(salvaged.row));
            }
            found.push(salvaged.row);
        }
        Ok(Before::Was(row, found))
    }

    /// What the parent has behind the walk's last entry is gone; its files outside the data directory.
    pub(super) fn finish(
        mut self,
        gone: &mut dyn FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<Vec<Vec<u8>>> {
        self.pass(None, gone)?;
        Ok(self.external)
    }

    fn advance(&mut self) -> Result<()> {
        self.next = self.rows.as_mut().map_or(Ok(None), ParentRows::next_row)?;
        Ok(())
    }

    fn pass(
        &mut self,
        until: Option<&[u8]>,
        gone: &mut dyn FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        while let Some(row) = self.next.take_if(|row| until.is_none_or(|until| *row.path < *until))
        {
            self.advance()?;
            if row.is_external() {
                self.external.push(row.path);
            } else {
                gone(row.path)?;
            }
        }
        Ok(())
    }

    fn is_untouched(
        &mut self,
        entry: &Entry,
        row: &Row,
        started: Option<Timestamp>,
    ) -> Result<bool> {
        let (Some(started), true) = (started, row.identity.is_some() && row.crc.is_some()) else {
            return Ok(false);
        };
        let device = entry.metadata.dev();
        let file_system = match self.file_systems.get(&device) {
            Some(known) => known,
            None => match file_system(&entry.source) {
                Ok(found) => self.file_systems.entry(device).or_insert(found),
                // It has vanished since.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
                Err(error) => {
                    return Err(Error::file("stat the file system of", &entry.source)(error));
                }
            },
        };
        let Some(file_system) = file_system else { return Ok(false) };
        if !(self.skips.pages_are_whole || file_system.starts_with(SWITCHING)) {
            return Ok(false);
        }
        Ok(is_untouched(&entry.metadata, file_system, row, started))
    }
}

/// Whether recovery may leave a page of a file as the disk has it, though a record changes it.
fn is_always_read(path: &[u8]) -> bool {
    path.starts_with(b"pg_multixact/offsets/")
        || RelationFile::parse(path).is_some_and(|file| file.fork == Fork::VisibilityMap)
}

/// Whether nothing has changed a file since a backup that began at `started` read it.
fn is_untouched(metadata: &Metadata, file_system: &str, row: &Row, started: Timestamp) -> bool {
    let changed = time(metadata.ctime(), metadata.ctime_nsec());
    metadata.len() == row.size
        && time(metadata.mtime(), metadata.mtime_nsec()) == row.mtime
        && row.identity.as_ref() == Some(&stat_identity(file_system, metadata))
        && changed.checked_add_signed(MARGIN).is_some_and(|settled| settled <= started)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::repo::StatIdentity;

    /// What is recorded of a file that is there, whatever its content.
    fn recorded(metadata: &Metadata, file_system: &str) -> Row {
        Row {
            path: b"base/5/16384".to_vec(),
            kind: RowKind::File,
            size: metadata.len(),
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: time(metadata.mtime(), metadata.mtime_nsec()),
            identity: Some(stat_identity(file_system, metadata)),
            crc: Some(0),
            target: None,
            layers: Vec::new(),
            gone: false,
        }
    }

    #[test]
    fn f044_a_file_is_untouched_only_when_all_is_equal_and_its_change_a_minute_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        File::create(&path).unwrap().set_len(100).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let changed = time(metadata.ctime(), metadata.ctime_nsec());
        let row = recorded(&metadata, "ext4:1");
        let settled = changed + MARGIN;
        let is_untouched_at = |started| is_untouched(&metadata, "ext4:1", &row, started);
        assert!(is_untouched_at(settled) && is_untouched_at(settled + TimeDelta::days(1)));
        let nanosecond = TimeDelta::nanoseconds(1);
        assert!(!is_untouched_at(settled - nanosecond) && !is_untouched_at(changed));
        // A change time from the future is no proof of rest.
        assert!(!is_untouched_at(changed - TimeDelta::days(1)));

        let StatIdentity(file_system, inode, at) = row.identity.clone().unwrap();
        for other in [
            Row { size: 101, ..row.clone() },
            Row { mtime: row.mtime + nanosecond, ..row.clone() },
            Row { identity: None, ..row.clone() },
            Row { identity: Some(StatIdentity("ext4:2".into(), inode, at.clone())), ..row.clone() },
            Row { identity: Some(StatIdentity(file_system.clone(), inode + 1, at)), ..row.clone() },
            Row {
                identity: Some(StatIdentity(file_system, inode, "1.000000000".into())),
                ..row.clone()
            },
        ] {
            assert!(!is_untouched(&metadata, "ext4:1", &other, settled), "{other:?}");
        }
    }
}
