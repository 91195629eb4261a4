//! Keeps expiry, wherever it runs, from removing a backup that is read.

use chrono::TimeDelta;

use super::error::Failure;
use super::invocation::Invocation;
use crate::config::RepositorySettings;
use crate::repo::{self, BackupId, Keep, KeptUp, LeaseRequest, Place, Scope};
use crate::tiering::{self, Way};
use crate::wiring::{self, Access};

/// Says in the repository that a backup is used; what expiry decided last. No lease where the repository cannot be
/// written to: that is told, and whoever may only read goes on.
pub fn hold(
    run: &Invocation,
    settings: &RepositorySettings,
    place: &Place,
    id: &BackupId,
    purpose: &str,
) -> Result<(Option<KeptUp>, Option<Keep>), Failure> {
    let ctx = &run.ctx;
    let opened = wiring::open(ctx, settings, Access::ReadWrite)?;
    let host = wiring::host().to_string();
    let request = LeaseRequest {
        scope: Scope::Use,
        cluster: place.cluster(),
        host: &host,
        pid: std::process::id(),
        purpose,
        backup: Some((place.system(), place.epoch(), id.clone())),
        server: None,
        is_gone: wiring::is_gone,
    };
    let failed = |source| Failure::from(wiring::Error::of_repository(&settings.name, source));
    let lease = match opened.repository.take_lease(ctx, &request) {
        Ok(lease) => lease,
        // What may only read restores as well.
        Err(error @ (repo::Error::Storage(_) | repo::Error::ClockSkew { .. })) => {
            ctx.warn(format!(
                "the repository was not told of the {purpose} of {id} ({error}): see to it that expire does not \
                 run until it has ended, and after a restore until recovery has"
            ));
            return Ok((None, None));
        }
        Err(error) => return Err(failed(error)),
    };
    let lease = lease.beside(ctx);
    // Expiry records what it removes and then looks for uses; here it is the other way round.
    let kept = opened.repository.kept(ctx, place).map_err(failed)?;
    for unreadable in &kept.unreadable {
        ctx.warn(format!("whether expire is removing {id} cannot be told: {unreadable}"));
    }
    if kept.is_removing(id) {
        return Err(failed(repo::Error::Expiring { id: id.to_string() }));
    }
    let summary = opened.repository.summary(place, id).map_err(failed)?;
    let tiering = settings.tiering.as_ref().filter(|tiering| tiering.way == Way::Tag);
    let is_old = |after| {
        TimeDelta::from_std(after).is_ok_and(|after| summary.finished + after <= ctx.clock.now())
    };
    // The bucket knows nothing of leases.
    if tiering.is_some_and(|tiering| is_old(tiering.after))
        && let Err(error) = tiering::take_back_tags(ctx, &opened.repository, place, id)
    {
        ctx.warn(format!("{id} may be tagged for colder storage, and its tags cannot be taken back ({error}): it may get cold meanwhile"));
    }
    Ok((Some(lease), kept.newest))
}
