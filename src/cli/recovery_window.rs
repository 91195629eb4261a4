//! Which moments can be restored: backups and archived WAL, taken together.

use std::collections::BTreeMap;

use super::error::Failure;
use crate::archive::{ArchivedWal, Start, Stretch};
use crate::base::{Ctx, Timestamp};
use crate::pg::{History, Lsn, SegmentNo, SegmentSize, TimelineId};
use crate::repo::{self, Backups, Kind, Place, Registration, Repository, Summary};

/// How many segments are asked for their newest moment, from the last one back.
const WALK_BACK_MAX: u64 = 256;

/// Moments that can be restored, without a hole in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// From the end of this backup.
    pub from: Timestamp,
    /// To the newest moment that its WAL reaches.
    pub to: Timestamp,
    /// The first backup of the window.
    pub backup: repo::BackupId,
    /// The last segment that can be replayed.
    pub last_segment: String,
}

/// Lists what is archived. The second value is histories that cannot be read, in words.
///
/// # Errors
/// As the store's.
pub fn survey(
    ctx: &Ctx,
    repository: &Repository,
    place: &Place,
    registration: &Registration,
) -> Result<(ArchivedWal, Vec<String>), Failure> {
    let size = SegmentSize::new(registration.wal_segment_size.into())
        .map_err(|error| Failure::failed(error.to_string()))?;
    let segments: BTreeMap<u32, Vec<String>> = repository.segments(ctx, place)?;
    let (mut histories, mut unreadable) = (Vec::new(), Vec::new());
    for (number, content) in repository.histories(place)? {
        let Some(timeline) = TimelineId::new(number) else { continue };
        match History::parse(timeline, &content) {
            Ok(history) => histories.push(history),
            Err(error) => unreadable.push(format!("history of timeline {number}: {error}")),
        }
    }
    let names = segments.values().flatten().map(String::as_str);
    Ok((ArchivedWal::survey(names, histories, size), unreadable))
}

/// Where recovery from a backup begins.
#[must_use]
pub fn start_of(summary: &Summary) -> Option<Start> {
    let size = SegmentSize::new(summary.server.wal_segment_size.into()).ok()?;
    Some((TimelineId::new(summary.timeline)?, SegmentNo::of(summary.start_lsn, size)))
}

/// A stretch by its names.
#[must_use]
pub fn stretch_text(wal: &ArchivedWal, stretch: &Stretch) -> String {
    let first = wal.name(stretch.timeline, stretch.first);
    if stretch.first == stretch.last {
        return first;
    }
    let last = wal.name(stretch.timeline, stretch.last);
    format!("{first} to {last} ({} segments)", stretch.count())
}

/// The windows, oldest first. A backup whose own WAL is not whole opens none.
///
/// # Errors
/// As the store's.
pub fn windows(
    ctx: &Ctx,
    repository: &Repository,
    place: &Place,
    backups: &Backups,
    wal: &ArchivedWal,
) -> Result<Vec<Window>, Failure> {
    let mut windows: Vec<Window> = Vec::new();
    for summary in &backups.complete {
        ctx.cancel.check().map_err(repo::Error::from)?;
        let Some((timeline, last)) = start_of(summary).and_then(|start| wal.reach(start)) else {
            continue;
        };
        if !covers(summary, last) {
            continue;
        }
        let last_segment = wal.name(timeline, last);
        // The same end is the same window: the older backup's WAL leads past this one.
        if let Some(window) = windows.last_mut().filter(|w| w.last_segment == last_segment) {
            window.to = window.to.max(summary.finished);
            continue;
        }
        let newest = newest_moment(repository, place, wal, timeline, last)?;
        let to = newest.map_or(summary.finished, |newest| newest.max(summary.finished));
        let backup = summary.id.clone();
        windows.push(Window { from: summary.finished, to, backup, last_segment });
    }
    Ok(windows)
}

/// Whether the WAL reaches the point where the backup is consistent.
fn covers(summary: &Summary, last: SegmentNo) -> bool {
    let size = SegmentSize::new(summary.server.wal_segment_size.into()).ok();
    let stop = size.and_then(|size| SegmentNo::of_end(Lsn(summary.stop_lsn.0), size));
    stop.is_some_and(|stop| last >= stop)
}

/// The newest commit or checkpoint in the last segments, from the facts that they carry.
fn newest_moment(
    repository: &Repository,
    place: &Place,
    wal: &ArchivedWal,
    timeline: TimelineId,
    last: SegmentNo,
) -> Result<Option<Timestamp>, Failure> {
    for back in 0..WALK_BACK_MAX.min(last.0 + 1) {
        let name = wal.name(timeline, SegmentNo(last.0 - back));
        let Some(key) = place.wal(&name) else { break };
        let facts = match repository.wal_facts(Kind::Wal, &key) {
            // The timeline begins here, or older WAL has expired.
            Err(error) if error.is_not_found() => break,
            other => other?,
        };
        let Some(found) = facts.found else { continue };
        if let Some(newest) = found.latest.max(found.last_checkpoint) {
            return Ok(Some(newest));
        }
    }
    Ok(None)
}
