//! Whether a file that no repository has is absent, or missing.
//!
//! PostgreSQL takes "absent" for the end of the WAL. It is said when nothing shows that the file is needed:
//! neither what lies behind it, nor the restore's plan, nor the lack of everything else.

use std::collections::BTreeMap;

use super::Destination;
use super::error::{Error, Result};
use crate::base::Ctx;
use crate::pg::{History, Lsn, SegmentName, SegmentSize, TimelineId, WalFileName};
use crate::repo;
use crate::storage;

/// Every repository said that it does not have the file: an error where anything shows that it is needed.
/// A restore's plan counts on WAL up to `through`.
pub(super) fn prove_absence(
    ctx: &Ctx,
    destinations: &[Destination],
    through: Option<Lsn>,
    name: &WalFileName,
) -> Result<()> {
    if let WalFileName::Segment(segment) = name
        && is_counted_on(destinations, through, *segment)?
    {
        let evidence = "the restore's plan counts on it".into();
        return Err(Error::Hole { name: name.to_string(), evidence });
    }
    for from in destinations {
        ctx.cancel.check()?;
        let evidence = match name {
            WalFileName::Segment(segment) => needed_segment(from, *segment)?,
            // The first timeline has no history, ever; a server that leaves it asks all the same.
            WalFileName::History(TimelineId::FIRST) => None,
            WalFileName::History(timeline) => later_history(from, *timeline)?,
            WalFileName::BackupHistory { .. } | WalFileName::Partial(_) => None,
        };
        if let Some(evidence) = evidence {
            return Err(Error::Hole { name: name.to_string(), evidence });
        }
    }
    if has_any_wal(destinations)? { Ok(()) } else { Err(Error::NoWal { name: name.to_string() }) }
}

/// Recovery from an archive begins with WAL that is in it. One without any is a new one in the place of
/// another (an empty mount point, say), and knows nothing of what that one has.
fn has_any_wal(destinations: &[Destination]) -> Result<bool> {
    for from in destinations {
        let found = from.repository.store().list(&from.place.all_wal_prefix(), None, 1);
        let failed = |source: storage::Error| Error::Repository {
            repository: from.name.clone(),
            source: source.into(),
        };
        if !found.map_err(failed)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a segment begins and ends; nothing for a name that does not fit the cluster's segment size.
fn bounds(from: &Destination, segment: SegmentName) -> Option<(Lsn, Lsn)> {
    let size = SegmentSize::new(from.registration.wal_segment_size.into()).ok()?;
    let number = segment.number(size).ok()?;
    Some((number.begin(size)?, number.end(size)?))
}

/// Whether the restore's plan has seen WAL behind the segment's beginning, and no repository has that
/// part of it as an ancestor's.
fn is_counted_on(
    destinations: &[Destination],
    through: Option<Lsn>,
    segment: SegmentName,
) -> Result<bool> {
    let Some(through) = through else { return Ok(false) };
    for from in destinations {
        let Some((begin, end)) = bounds(from, segment) else { continue };
        if begin >= through {
            return Ok(false);
        }
        let failed = |source| Error::Repository { repository: from.name.clone(), source };
        let histories = from.repository.histories(&from.place).map_err(failed)?;
        let failed = |source| Error::Repository { repository: from.name.clone(), source };
        if is_in_ancestor(from, &histories, segment, (begin, end)).map_err(failed)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What in a repository shows that recovery needs the segment.
pub(super) fn needed_segment(from: &Destination, segment: SegmentName) -> Result<Option<String>> {
    let failed = |source: repo::Error| Error::Repository { repository: from.name.clone(), source };
    let Some((_, end)) = bounds(from, segment) else {
        let why = "its name does not fit the cluster's segment size".to_owned();
        return Ok(Some(why));
    };
    let histories = from.repository.histories(&from.place).map_err(failed)?;
    let own = from.place.wal(&segment.to_string()).expect("a segment's name is 24 digits");
    let prefix = from.place.wal_prefix(segment.timeline().get());
    let later = from.repository.store().list(&prefix, Some(own.as_str()), 1);
    if let Some(later) = later.map_err(|error| failed(error.into()))?.first() {
        return Ok(Some(format!("{} is there", later.key)));
    }
    let next = segment.timeline().get().saturating_add(1);
    if let Some(evidence) = without_history(from, next, &histories)? {
        return Ok(Some(evidence));
    }
    // A later timeline that left this one after the segment needs all of it. Where the switch lies
    // inside the segment, the descendant has a copy under its own name.
    for (timeline, content) in histories {
        let Some(id) = TimelineId::new(timeline).filter(|id| *id > segment.timeline()) else {
            continue;
        };
        let history = History::parse(id, &content).map_err(|error| {
            failed(repo::Error::Corrupt {
                object: from.place.history(timeline).to_string(),
                place: "content".into(),
                why: error.to_string(),
            })
        })?;
        if history.switch_point(segment.timeline()).is_some_and(|switch| switch >= end) {
            return Ok(Some(format!("timeline {timeline} left this one after it")));
        }
    }
    Ok(None)
}

/// Whether a timeline begins in this segment, and the ancestor's own copy of it is in the archive:
/// recovery asks for the newest timeline's name first, and takes the older one.
fn is_in_ancestor(
    from: &Destination,
    histories: &BTreeMap<u32, Vec<u8>>,
    segment: SegmentName,
    (begin, end): (Lsn, Lsn),
) -> repo::Result<bool> {
    let timeline = segment.timeline();
    let Some(content) = histories.get(&timeline.get()) else { return Ok(false) };
    let Ok(history) = History::parse(timeline, content) else { return Ok(false) };
    // One that begins with the segment has nothing of it in common with its ancestor.
    if !history.begin(timeline).is_some_and(|lsn| begin < lsn && lsn < end) {
        return Ok(false);
    }
    let digits = segment.to_string();
    let Some(number) = digits.get(8..) else { return Ok(false) };
    for ancestor in history.ancestors() {
        let name = format!("{}{number}", ancestor.timeline.hex());
        let Some(key) = from.place.wal(&name) else { continue };
        match from.repository.store().head(&key) {
            Ok(_) => return Ok(true),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

fn later_history(from: &Destination, timeline: TimelineId) -> Result<Option<String>> {
    let own = from.place.history(timeline.get());
    let later = from.repository.store().list(&from.place.histories_prefix(), Some(own.as_str()), 1);
    let later = later.map_err(|error| Error::Repository {
        repository: from.name.clone(),
        source: error.into(),
    })?;
    if let Some(later) = later.first() {
        return Ok(Some(format!("{} is there", later.key)));
    }
    without_history(from, timeline.get(), &BTreeMap::new())
}

/// WAL of a timeline, from `first` on, that has no history any more: what it began from, nobody knows.
fn without_history(
    from: &Destination,
    first: u32,
    histories: &BTreeMap<u32, Vec<u8>>,
) -> Result<Option<String>> {
    // Names that are of no segment, which pgkeep did not put, are passed over many at a time.
    const STRANGERS: usize = 1000;
    let store = from.repository.store();
    let mut after = from.place.wal_prefix(first);
    let mut count = 1;
    loop {
        let page = store.list(&from.place.all_wal_prefix(), Some(&after), count);
        let page = page.map_err(|error| Error::Repository {
            repository: from.name.clone(),
            source: error.into(),
        })?;
        if page.is_empty() {
            return Ok(None);
        }
        count = 1;
        for meta in page {
            if meta.key.as_str() <= after.as_str() {
                continue;
            }
            after = match SegmentName::parse(meta.key.last_component().as_bytes()) {
                Ok(segment) if histories.contains_key(&segment.timeline().get()) => {
                    // Behind everything that the timeline has, and never back.
                    let behind = from.place.wal_prefix(segment.timeline().get());
                    format!("{behind}~").max(meta.key.to_string())
                }
                Ok(_) => return Ok(Some(format!("{} is there without its history", meta.key))),
                Err(_) => {
                    count = STRANGERS;
                    meta.key.to_string()
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::Timestamp;
    use crate::storage::{MemoryStore, MeteredStore, ObjectKey, ObjectStore as _};

    /// Names that nobody here put cost a request each, and one below another folder than its own sent the
    /// look back to where it had been, for ever.
    #[test]
    fn d2026_11_28_strangers_among_the_wal_cost_little_and_end() {
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let store = MeteredStore::new(MemoryStore::new());
        let from = Destination::of_a_test(&ctx, Arc::new(store.clone()));
        let wal = from.place.all_wal_prefix();
        let put = |name: &str| store.put(&ObjectKey::new(format!("{wal}{name}")).unwrap(), b"");
        (0..2500).for_each(|i| put(&format!("00000003/stranger/{i}")).unwrap());
        put("00000002/00000000/000000020000000000000001").unwrap();
        put("strangers/000000020000000000000002").unwrap();
        let histories = BTreeMap::from([(2, b"1\t0/1000000\twhy\n".to_vec())]);
        store.reset();
        assert_eq!(without_history(&from, 2, &histories).unwrap(), None);
        assert!(store.requests().list < 10, "{:?}", store.requests());
        put("00000004/00000000/000000040000000000000001").unwrap();
        let evidence = without_history(&from, 2, &histories).unwrap().unwrap();
        assert!(evidence.contains("000000040000000000000001"), "{evidence}");
    }
}
