//! What is missing in the repositories of a cluster, in words: for a log that somebody reads.

use std::sync::Arc;

use super::error::Error;
use super::openings::{Asked, Openings, Purpose};
use crate::base::Ctx;
use crate::repo;

/// What is missing in each repository, across switches of timelines: of what its backups need, or of all of
/// it where there is no backup. A repository that cannot be asked says why.
#[must_use]
pub fn continuity(
    ctx: &Ctx,
    openings: &Arc<dyn Openings>,
    system: Option<u64>,
) -> Vec<(String, Result<Vec<String>, Error>)> {
    let asked = Asked { system, epoch: None, purpose: Purpose::FetchAnew };
    let each = openings.repositories().iter().enumerate().map(|(at, each)| {
        let name = each.name.clone();
        let look = || {
            let from = openings.open(ctx, at, &asked)?;
            let failed = |source| Error::Repository { repository: name.clone(), source };
            missing(ctx, &from.repository, &from.place, &from.registration).map_err(failed)
        };
        (name.clone(), look())
    });
    each.collect()
}

fn missing(
    ctx: &Ctx,
    repository: &repo::Repository,
    place: &repo::Place,
    registration: &repo::Registration,
) -> repo::Result<Vec<String>> {
    let backups = repository.backups(ctx, place)?;
    let wal = repository.survey(ctx, place, registration)?.wal;
    let missing = backups.missing(&wal);
    let gaps = missing
        .gaps
        .iter()
        .map(|gap| format!("{}, on timeline {}", wal.describe(&gap.hole), gap.hole.timeline));
    let mut found: Vec<String> = gaps.collect();
    let lost = missing.histories.iter();
    found.extend(lost.map(|timeline| format!("the history of timeline {timeline}")));
    Ok(found)
}
