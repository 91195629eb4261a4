//! What the daemon serves.

use super::lasting::Lasting;
use crate::archive::{FetchLimits, PushLimits};
use crate::base::Ctx;
use crate::config::{self, RepositorySettings, S3Settings, Settings};
use crate::daemon::Cluster;

/// What tells the repositories of one configuration from those of another: their names, where they are, and
/// whether they are required.
#[must_use]
pub fn identities(repositories: &[RepositorySettings]) -> Vec<String> {
    let each = repositories.iter().map(|each| {
        let endpoint = each.s3.as_ref().and_then(S3Settings::endpoint).unwrap_or_default();
        format!("{} {} {endpoint} {}", each.name, each.url, each.is_required)
    });
    each.collect()
}

/// Every cluster of the configuration.
///
/// # Errors
/// As [`Settings::resolve`].
pub fn clusters(ctx: &Ctx, settings: &Settings) -> config::Result<Vec<Cluster>> {
    let daemon = settings.daemon();
    let push =
        PushLimits { jobs: daemon.push_jobs, bytes: daemon.push_memory, window: daemon.push_ahead };
    let fetch = FetchLimits { jobs: daemon.fetch_jobs, bytes: daemon.fetch_memory };
    let names = settings.clusters().map(|(name, _)| name.to_owned());
    let names: Vec<String> = names.collect();
    let each = names.into_iter().map(|name| {
        let resolved = settings.resolve(Some(&name), None)?;
        let repositories = identities(&resolved.repositories);
        let openings = Lasting::openings(ctx, &name, resolved.repositories);
        Ok(Cluster {
            name,
            data_directory: resolved.cluster.data_directory,
            openings,
            push,
            fetch,
            wait: resolved.cluster.archive_get_wait,
            repositories,
            rpo: resolved.cluster.rpo,
        })
    });
    each.collect()
}
