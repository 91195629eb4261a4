//! The walk beside the parent's rows: what is new, what is gone, and what is not even read.
//!
//! A file is unchanged without being read only when file system, inode, size, modification and change time all
//! equal the parent's record, and the change time lies safely before the parent's start, on a file system that is
//! known to be honest. Whatever else there is, is read.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use chrono::TimeDelta;

use super::error::{Error, Result};
use super::parent::{Parent, ParentRows};
use super::read::{file_system, stat_identity, time};
use super::scan::Entry;
use crate::base::Timestamp;
use crate::repo::{Row, RowKind};

/// How much older than the parent's start a change must be. A write gets its time first and its data later,
/// and kernels before 6.13 know the time by ticks.
const MARGIN: TimeDelta = TimeDelta::seconds(60);

/// The parent's rows beside the walk.
pub(super) struct Comparison<'a> {
    parent: &'a Parent,
    rows: ParentRows<'a>,
    next: Option<Row>,
    /// Files outside the data directory that the parent had: the walk does not meet them.
    external: Vec<Vec<u8>>,
    file_systems: HashMap<u64, Option<String>>,
    skips: bool,
}

/// What the parent says of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing.
    New,
    /// It was this, and has to be looked at.
    Was(Row),
    /// It is this still: nothing has touched it.
    Is(Row),
}

impl<'a> Comparison<'a> {
    pub(super) fn new(parent: &'a Parent, skips: bool) -> Result<Self> {
        let mut rows = parent.rows()?;
        let next = rows.next_row()?;
        let (external, file_systems) = (Vec::new(), HashMap::new());
        Ok(Self { parent, rows, next, external, file_systems, skips })
    }

    /// What the parent says of the walk's next entry; `gone` gets the paths that the walk has passed.
    pub(super) fn meet(
        &mut self,
        entry: &Entry,
        gone: &mut dyn FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<Before> {
        self.pass(Some(&entry.path), gone)?;
        let Some(row) = self.next.take_if(|row| row.path == entry.path) else {
            return Ok(Before::New);
        };
        self.next = self.rows.next_row()?;
        let is_untouched =
            self.skips && row.kind == RowKind::File && self.is_untouched(entry, &row)?;
        Ok(if is_untouched { Before::Is(row) } else { Before::Was(row) })
    }

    /// What the parent has behind the walk's last entry is gone; its files outside the data directory.
    pub(super) fn finish(
        mut self,
        gone: &mut dyn FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<Vec<Vec<u8>>> {
        self.pass(None, gone)?;
        Ok(self.external)
    }

    fn pass(
        &mut self,
        until: Option<&[u8]>,
        gone: &mut dyn FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        while let Some(row) = self.next.take_if(|row| until.is_none_or(|until| *row.path < *until))
        {
            self.next = self.rows.next_row()?;
            if row.is_external() {
                self.external.push(row.path);
            } else {
                gone(row.path)?;
            }
        }
        Ok(())
    }

    fn is_untouched(&mut self, entry: &Entry, row: &Row) -> Result<bool> {
        if row.identity.is_none() || row.crc.is_none() {
            return Ok(false);
        }
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
        Ok(is_untouched(&entry.metadata, file_system, row, self.parent.started()))
    }
}

/// Whether nothing has changed a file since a backup that began at `started` read it.
fn is_untouched(metadata: &Metadata, file_system: &str, row: &Row, started: Timestamp) -> bool {
    let changed = time(metadata.ctime(), metadata.ctime_nsec());
    metadata.len() == row.size
        && time(metadata.mtime(), metadata.mtime_nsec()) == row.mtime
        && row.identity.as_ref() == Some(&stat_identity(file_system, metadata))
        && changed.checked_add_signed(MARGIN).is_some_and(|settled| settled <= started)
}
