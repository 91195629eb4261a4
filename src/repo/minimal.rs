//! WAL that archive recovery cannot pass: where a server was started with `wal_level = minimal`.
//!
//! The facts of the segment say so (FORMAT.md, section 7). A summary beside them says in one request
//! which segments these are, so that windows need not ask each. It is derived and may be missing: a
//! plan looks at the facts all the same.

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::found::Found;
use super::layout::{Kind, Place};
use super::repository::Repository;
use crate::base::Ctx;
use crate::pg::{ArchivedWal, Lsn, SegmentName};
use crate::storage;

/// What the summary says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Minimal {
    /// The segment's name.
    segment: String,
    /// Where the records begin at which archive recovery stops.
    lsns: Vec<Lsn>,
}

impl Found {
    /// Where records begin at which archive recovery stops.
    pub fn minimals(&self) -> impl Iterator<Item = Lsn> + '_ {
        self.parameters.iter().filter(|change| change.is_minimal()).map(|change| change.lsn)
    }
}

impl Repository {
    /// Puts the summary of a segment, where its facts ask for one; the segment is in the repository.
    ///
    /// # Errors
    /// As the store's.
    pub fn summarise_minimal(
        &self,
        ctx: &Ctx,
        place: &Place,
        segment: &str,
        found: &Found,
    ) -> Result<()> {
        let line = Minimal { segment: segment.into(), lsns: found.minimals().collect() };
        let Some(key) = place.minimal(segment).filter(|_| !line.lsns.is_empty()) else {
            return Ok(());
        };
        match self.put_line(ctx, Kind::Summary, &key, &line) {
            Err(Error::Storage(error)) if error.is_already_exists() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Tells `wal` which positions recovery does not pass. One request, and one for each of them; what
    /// cannot be read, in words.
    ///
    /// # Errors
    /// As the store's.
    pub(super) fn add_minimals(&self, place: &Place, wal: &mut ArchivedWal) -> Result<Vec<String>> {
        let mut unreadable = Vec::new();
        for meta in storage::list_all(self.store().as_ref(), &place.minimals_prefix())? {
            let name = meta.key.last_component();
            let Ok(segment) = SegmentName::parse(name.as_bytes()) else { continue };
            if place.minimal(name).as_ref() != Some(&meta.key) {
                continue;
            }
            match self.read_line::<Minimal>(Kind::Summary, &meta.key) {
                Ok(summary) => {
                    summary.lsns.iter().for_each(|lsn| wal.add_barrier(segment.timeline(), *lsn));
                }
                Err(error @ (Error::Corrupt { .. } | Error::UnknownKey { .. })) => {
                    unreadable.push(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(unreadable)
    }
}
