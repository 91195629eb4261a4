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
    let mut backups = repository.backups(ctx, place)?;
    // A catalogue is not enough to archive by: the last manifest itself, or all of them.
    let told = backups.complete.last();
    let is_true = told.is_some_and(|told| {
        repository.summary(place, &told.id).is_ok_and(|summary| summary == *told)
    });
    if !is_true {
        backups = repository.backups_by_manifest(ctx, place)?;
    }
    let Some(last) = backups.complete.last() else { return Ok(Some("there is no backup".into())) };
    if let Some(why) = lives_elsewhere((&last.server.host, &last.server.data_directory), &name, to)
    {
        return Ok(Some(why));
    }
    let elsewhere = writes_elsewhere(repository, place, last, &name, to)?;
    Ok(elsewhere.or_else(|| (!host.has_identity()).then(|| NO_IDENTITY.into())))
}

/// Whether the last backup was taken of another host or directory than `to` on `host`.
fn lives_elsewhere(
    (own_host, own_directory): (&str, &str),
    host: &str,
    to: &Path,
) -> Option<String> {
    if own_host != host {
        return Some(format!("the last backup was taken on another host, {own_host}"));
    }
    (Path::new(own_directory) != to)
        .then(|| format!("the cluster's own directory is {own_directory}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f025_the_same_path_on_another_host_is_a_copy() {
        let own = ("db1 0123456789abcdef", "/var/lib/postgresql/15/main");
        let to = Path::new(own.1);
        assert_eq!(lives_elsewhere(own, own.0, to), None);
        // Another name, another machine of the same name (a clone in a test network), no id at all.
        for host in ["db2 0123456789abcdef", "db1 fedcba9876543210", "db1", ""] {
            let why = lives_elsewhere(own, host, to).unwrap();
            assert!(why.contains("on another host, db1 0123"), "{why}");
        }
        for other in ["/var/lib/postgresql/15/main2", "/var/lib/postgresql/15", "/"] {
            let why = lives_elsewhere(own, own.0, Path::new(other)).unwrap();
            assert!(why.contains("own directory is /var/lib/postgresql/15/main"), "{why}");
        }
    }
}
