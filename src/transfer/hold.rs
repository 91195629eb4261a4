//! Keeps expiry from removing what is being copied, on both sides.

use super::error::Result;
use super::sides::{Side, Who};
use crate::base::Ctx;
use crate::repo::{self, BackupId, KeptUp, LeaseRequest, Place, Scope};

/// Keeps a backup, and the WAL behind it, while it is read.
///
/// # Errors
/// [`repo::Error::Expiring`], [`repo::Error::NoBackup`] for one that goes or is gone.
pub(super) fn hold(
    ctx: &Ctx,
    side: &Side<'_>,
    place: &Place,
    id: &BackupId,
    who: &Who<'_>,
) -> Result<Option<KeptUp>> {
    let held = match lease(ctx, side, place, id, (who, "repository copy from here")) {
        Ok(lease) => Some(lease),
        // What may only be read is copied as well.
        Err(error @ repo::Error::Storage(_)) if !error.may_pass() => {
            ctx.warn(format!(
                "{} was not told that {id} is being copied ({error}): see to it that expire does not run there \
                 meanwhile",
                side.name
            ));
            None
        }
        Err(error) => return side.at(Err(error)),
    };
    // Expiry records what it removes and then looks for uses; here it is the other way round.
    side.at(side.repository.require_kept(ctx, place, id))?;
    side.at(side.repository.summary(place, id))?;
    Ok(held)
}

/// A lease on a backup that is, or will be, in a repository.
pub(super) fn lease(
    ctx: &Ctx,
    side: &Side<'_>,
    place: &Place,
    id: &BackupId,
    (who, purpose): (&Who<'_>, &str),
) -> repo::Result<KeptUp> {
    let request = LeaseRequest {
        scope: Scope::Use,
        cluster: place.cluster(),
        host: who.host,
        pid: who.pid,
        purpose,
        backup: Some((place.system(), place.epoch(), id.clone())),
        server: None,
        is_gone: who.is_gone,
    };
    Ok(side.repository.take_lease(ctx, &request)?.beside(ctx))
}
