//! Whether a directory to restore into is the cluster's own, and the cluster nobody else's.
//!
//! Only there does the restored cluster archive by itself: anywhere else it is a copy beside its
//! source, as far as anybody can know.

use std::path::Path;

use super::error::Failure;
use crate::base::Ctx;
use crate::pg::{SegmentName, TimelineId};
use crate::repo::{Kind, Origin, Place, Repository, Summary};
use crate::storage;

/// Why a restored cluster must not archive by itself; `None` when it may.
///
/// # Errors
/// As the repository's.
pub fn why_not_own(
    ctx: &Ctx,
    repository: &Repository,
    place: &Place,
    host: &str,
    to: &Path,
) -> Result<Option<String>, Failure> {
    let backups = repository.backups(ctx, place)?;
    let Some(last) = backups.complete.last() else { return Ok(Some("there is no backup".into())) };
    let server = &last.server;
    if server.host != host {
        return Ok(Some(format!("the last backup was taken on another host, {}", server.host)));
    }
    if Path::new(&server.data_directory) != to {
        return Ok(Some(format!("the cluster's own directory is {}", server.data_directory)));
    }
    writes_elsewhere(repository, place, last, host, to)
}

/// Whether another server wrote the newest timeline last: then that one is the cluster now.
fn writes_elsewhere(
    repository: &Repository,
    place: &Place,
    last: &Summary,
    host: &str,
    to: &Path,
) -> Result<Option<String>, Failure> {
    let store = repository.store().as_ref();
    let histories = storage::list_all(store, &place.histories_prefix())?;
    let numbers = histories.iter().filter_map(|meta| {
        TimelineId::new(u32::from_str_radix(meta.key.last_component(), 16).ok()?)
    });
    let newest = numbers.max().unwrap_or(TimelineId::FIRST);
    let segments = storage::list_all(store, &place.wal_prefix(newest.get()))?;
    let last_segment = segments
        .iter()
        .rev()
        .find(|meta| SegmentName::parse(meta.key.last_component().as_bytes()).is_ok());
    let facts = match last_segment {
        Some(meta) => Some(repository.wal_facts(Kind::Wal, &meta.key)?),
        None if newest == TimelineId::FIRST => None,
        None => Some(repository.wal_facts(Kind::History, &place.history(newest.get()))?),
    };
    Ok(match facts.and_then(|facts| facts.by) {
        Some(Origin { host: other, directory }) => {
            // The one of the directory itself is stored without links.
            let real = to.canonicalize().unwrap_or_else(|_| to.to_owned());
            let directory_of = Path::new(&directory);
            let is_own = other == host && (directory_of == to || directory_of == real);
            (!is_own).then(|| {
                format!("timeline {newest} is written by another server, {directory} on {other}")
            })
        }
        None => (newest.get() > last.timeline_stop)
            .then(|| format!("timeline {newest} is newer than the last backup's")),
    })
}
