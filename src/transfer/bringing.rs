//! Archived files on their way: read, authenticated, sealed by the target's key, put; several at a time.

use super::error::Result;
use super::sides::Side;
use crate::base::{Ctx, Event, few_side_by_side};
use crate::pg::SegmentSize;
use crate::repo::{self, Kind, Place, WalPut};
use crate::storage::ObjectKey;

/// So much WAL is in memory at a time, as a rule.
const MEMORY: u64 = 256 << 20;

/// From where to where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bringing<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) from: Side<'a>,
    pub(super) to: Side<'a>,
    pub(super) place: &'a Place,
    pub(super) size: SegmentSize,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Brought {
    Stored,
    Same,
    /// The source has it no more.
    Gone,
}

impl Bringing<'_> {
    /// Brings files, of which several are under way at a time.
    pub(super) fn all(&self, files: &[(Kind, ObjectKey)]) -> Result<Vec<Brought>> {
        let each = u64::from(self.size.bytes()).max(1);
        let count =
            usize::try_from(MEMORY / each).unwrap_or(usize::MAX).clamp(1, crate::base::AT_ONCE);
        few_side_by_side(count, files, |(kind, object)| {
            self.ctx.cancel.check()?;
            self.one(*kind, object)
        })
    }

    fn one(&self, kind: Kind, object: &ObjectKey) -> Result<Brought> {
        let Self { from, to, .. } = self;
        let (facts, content) = match from.repository.get_wal(kind, object) {
            Err(error) if error.is_not_found() => return Ok(Brought::Gone),
            other => from.at(other)?,
        };
        let bytes = facts.size;
        let brought = to.repository.bring(self.ctx, self.place, (kind, object), (facts, &content));
        self.ctx.observer.event(Event::Advance { bytes, files: 1 });
        Ok(match to.at(brought)? {
            WalPut::Stored => Brought::Stored,
            WalPut::Same => Brought::Same,
        })
    }

    /// As [`Bringing::all`], of segments that the target may have: what says the same of itself is not read.
    pub(super) fn needed(&self, names: &[String]) -> Result<Vec<Brought>> {
        let keys: Vec<ObjectKey> = names.iter().filter_map(|name| self.place.wal(name)).collect();
        let missing = few_side_by_side(crate::base::AT_ONCE, &keys, |key| {
            self.ctx.cancel.check()?;
            let Self { from, to, .. } = self;
            let theirs = match to.repository.wal_facts(Kind::Wal, key) {
                Err(error) if error.is_not_found() => return Ok(true),
                other => to.at(other)?,
            };
            let own = from.at(from.repository.wal_facts(Kind::Wal, key))?;
            // Each repository has digests of its own; whoever archived it there may have been another server.
            let alike =
                repo::WalFacts { digest: theirs.digest.clone(), by: theirs.by.clone(), ..own };
            Ok::<_, super::Error>(alike != theirs)
        })?;
        let files = keys.into_iter().zip(missing).filter(|(_, is_missing)| *is_missing);
        let files: Vec<_> = files.map(|(key, _)| (Kind::Wal, key)).collect();
        self.all(&files)
    }
}
