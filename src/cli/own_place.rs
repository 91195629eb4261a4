//! Whether a directory to restore into is the cluster's own, and the cluster nobody else's.
//!
//! Only there does the restored cluster archive by itself: anywhere else it is a copy beside its
//! source, as far as anybody can know.

use std::path::Path;

use super::error::Failure;
use crate::base::{Ctx, Host};
use crate::pg::{SegmentName, TimelineId};
use crate::repo::{Kind, Origin, Place, Repository, Summary};
use crate::storage::{self, ObjectKey, ObjectStore};

/// Why a restored cluster must not archive by itself; `None` when it may.
///
/// # Errors
/// As the repository's.
pub fn why_not_own(
    ctx: &Ctx,
    repository: &Repository,
    place: &Place,
    host: &Host,
    to: &Path,
) -> Result<Option<String>, Failure> {
    let name = host.to_string();
    let backups = repository.backups(ctx, place)?;
    let Some(last) = backups.complete.last() else { return Ok(Some("there is no backup".into())) };
    let server = &last.server;
    if server.host != name {
        return Ok(Some(format!("the last backup was taken on another host, {}", server.host)));
    }
    if Path::new(&server.data_directory) != to {
        return Ok(Some(format!("the cluster's own directory is {}", server.data_directory)));
    }
    let elsewhere = writes_elsewhere(repository, place, last, &name, to)?;
    Ok(elsewhere.or_else(|| (!host.has_identity()).then(|| NO_IDENTITY.into())))
}

/// The records name this host and this path, and any number of containers may go by both.
const NO_IDENTITY: &str =
    "this host has no identity of its own (/etc/machine-id is empty or missing)";

/// The newest segment of a timeline. What lies before the last backup's end is not listed, and of the
/// rest one name is kept: the WAL may be long.
fn last_segment(
    store: &dyn ObjectStore,
    place: &Place,
    timeline: TimelineId,
    backup: &Summary,
) -> Result<Option<ObjectKey>, Failure> {
    const PAGE: usize = 1000;
    let is_segment = |name: &str| SegmentName::parse(name.as_bytes()).ok();
    let known = is_segment(&backup.wal_last).filter(|last| last.timeline() == timeline);
    let mut newest = known.and_then(|_| place.wal(&backup.wal_last));
    let mut after = newest.as_ref().map(ToString::to_string);
    loop {
        let page = store.list(&place.wal_prefix(timeline.get()), after.as_deref(), PAGE)?;
        let last = page.iter().rfind(|meta| is_segment(meta.key.last_component()).is_some());
        newest = last.map(|meta| meta.key.clone()).or(newest);
        match page.last() {
            Some(meta) if page.len() == PAGE => after = Some(meta.key.to_string()),
            _ => return Ok(newest),
        }
    }
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
    let facts = match last_segment(store, place, newest, last)? {
        Some(key) => Some(repository.wal_facts(Kind::Wal, &key)?),
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
