//! What the daemon serves.

use super::host::connect_options;
use super::openings::Lasting;
use crate::archive::{FetchLimits, PushLimits};
use crate::base::Ctx;
use crate::config::{self, Settings};
use crate::daemon::Cluster;

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
        let server = connect_options(&resolved, "daemon");
        let openings = Lasting::openings(ctx, &name, resolved.repositories);
        Ok(Cluster {
            name,
            data_directory: resolved.cluster.data_directory,
            openings,
            push,
            fetch,
            wait: resolved.cluster.archive_get_wait,
            server,
            rpo: resolved.cluster.rpo,
        })
    });
    each.collect()
}
