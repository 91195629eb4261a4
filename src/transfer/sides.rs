//! Who copies what from where to where.

use std::collections::{BTreeSet, HashMap};

use super::error::{Error, Result};
use crate::pg::ArchivedWal;
use crate::repo::{self, BackupId, Place, Repository};

/// One of the two repositories.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// Its configured name.
    pub name: &'a str,
    /// The legal area in which its data must stay; nothing where it may go anywhere.
    pub jurisdiction: Option<&'a str>,
    /// The repository.
    pub repository: &'a Repository,
}

impl Side<'_> {
    /// Its failures by its name.
    pub(super) fn at<T>(&self, result: repo::Result<T>) -> Result<T> {
        result.map_err(Error::of(self.name))
    }
}

/// What is to be copied.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// What is read.
    pub from: Side<'a>,
    /// What is written.
    pub to: Side<'a>,
    /// The cluster's configured name.
    pub cluster: &'a str,
    /// Its system identifier; all that go by the name without.
    pub system: Option<u64>,
    /// One of its epochs; all of them without.
    pub epoch: Option<u32>,
    /// These backups, with what they stand on and need; everything where none is named.
    pub backups: BTreeSet<BackupId>,
    /// Whether it is an error that one which is named cannot be copied, whatever the target's rules say of it.
    pub is_strict: bool,
    /// What the target's own rules keep, by place; without, all of it.
    pub rules: HashMap<Place, Kept>,
}

/// What rules keep of one history.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Backups.
    pub backups: BTreeSet<BackupId>,
    /// WAL.
    pub wal: ArchivedWal,
}

/// Who copies, for leases and records.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// The host.
    pub host: &'a str,
    /// The process.
    pub pid: u32,
    /// Whether a process, by host and number, is surely gone.
    pub is_gone: fn(&str, u32) -> bool,
    /// How many packs are copied at a time.
    pub jobs: usize,
}

impl Request<'_> {
    /// Whether backups are named.
    pub(super) fn is_named(&self) -> bool {
        !self.backups.is_empty()
    }

    /// That the data may go there at all.
    ///
    /// # Errors
    /// [`Error::Jurisdiction`], [`Error::Same`].
    pub fn require_allowed(&self) -> Result<()> {
        let Self { from, to, .. } = self;
        let (own, other) = (from.repository.descriptor(), to.repository.descriptor());
        if own.repository == other.repository {
            return Err(Error::Same { from: from.name.into(), to: to.name.into() });
        }
        let Some(jurisdiction) = from.jurisdiction else { return Ok(()) };
        if to.jurisdiction.is_some_and(|other| other.eq_ignore_ascii_case(jurisdiction)) {
            return Ok(());
        }
        Err(Error::Jurisdiction {
            from: from.name.into(),
            to: to.name.into(),
            jurisdiction: jurisdiction.into(),
            other: to.jurisdiction.map(str::to_owned),
        })
    }
}
