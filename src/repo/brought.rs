//! Archived files of one repository brought to another: first write wins there as everywhere, and each repository
//! tells contents apart by a key of its own.

use super::error::{Error, Result};
use super::layout::{Kind, Place};
use super::repository::Repository;
use super::wal_object::{WalFacts, WalPut};
use crate::base::Ctx;
use crate::storage::ObjectKey;

impl Repository {
    /// Stores an archived file that was read from another repository, where the cluster has the same place; a segment
    /// after its note.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name holds other content here.
    pub fn bring(
        &self,
        ctx: &Ctx,
        place: &Place,
        (kind, object): (Kind, &ObjectKey),
        (facts, content): (WalFacts, &[u8]),
    ) -> Result<WalPut> {
        let facts = WalFacts { digest: self.content_digest(content), ..facts };
        match kind {
            Kind::Partial => self.bring_partial(ctx, object, &facts, content),
            Kind::Wal => {
                self.put_note(ctx, place, &facts)?;
                self.put_wal(ctx, kind, object, &facts, content)
            }
            _ => self.put_wal(ctx, kind, object, &facts, content),
        }
    }

    /// What lies behind the records of a partial segment differs between the servers that have it.
    fn bring_partial(
        &self,
        ctx: &Ctx,
        object: &ObjectKey,
        facts: &WalFacts,
        content: &[u8],
    ) -> Result<WalPut> {
        let sealed = self.seal_wal(ctx, Kind::Partial, object, content)?;
        let records = so_far(facts, content);
        match self.put_sealed_partial(sealed, facts, &self.content_digest(records)) {
            Err(conflict @ Error::Conflict { .. }) => {
                let (other, stored) = self.get_wal(Kind::Partial, object)?;
                match so_far(&other, &stored) == records {
                    true => Ok(WalPut::Same),
                    false => Err(conflict),
                }
            }
            other => other,
        }
    }
}

/// A partial segment up to the end of its records; all of it where they end with it, or nobody looked.
fn so_far<'a>(facts: &WalFacts, content: &'a [u8]) -> &'a [u8] {
    let found = facts.found.as_ref().filter(|found| found.ending == "partial");
    let end = found.and_then(|found| found.end).zip(facts.address);
    let length = end.and_then(|(end, begin)| usize::try_from(end.bytes_since(begin)?).ok());
    length.and_then(|length| content.get(..length)).unwrap_or(content)
}
