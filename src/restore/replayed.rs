//! What replay up to the target does beside replaying data: settings that it asks for, tablespaces that
//! it makes, records that it does not pass.
//!
//! `archive-push` noted which segments have any. On a short way the facts of each are asked all the same; on
//! a long one of those that are noted, and of all up to the last of them where only the facts tell whether
//! recovery gets there. What lies behind the target in its own segment is told apart by reading that one.

use super::choose::Way;
use super::error::Result;
use super::lost::{Stop, is_after, stops_before};
use super::reach::Archive;
use super::target::Target;
use crate::base::Ctx;
use crate::pg::{Lsn, SegmentNo, TimelineId};
use crate::repo::{Found, FoundParameters, FoundTablespace};

/// How many segments are asked at most.
const SEGMENTS_MAX: usize = 20_000;

/// Up to as many segments, each is asked whatever the notes say of it: a note may be lost.
pub(super) const ALL_ASKED_MAX: u64 = 1_024;

/// What is replayed up to the target, in the log's order.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Changes of settings that recovery must be able to follow.
    pub parameters: Vec<FoundParameters>,
    /// Tablespaces that are made.
    pub tablespaces: Vec<FoundTablespace>,
    /// Tablespaces that the last segment makes behind the target: `archive-get` looks at whole segments.
    pub not_replayed: Vec<FoundTablespace>,
    /// The segment behind makes some, too: the server must not read ahead of what it replays.
    pub is_followed: bool,
    /// Where a record about a tablespace begins whose content nobody has read.
    pub unread_tablespace: Option<Lsn>,
    /// The first record that recovery does not pass, and the timeline of its segment.
    pub minimal: Option<(TimelineId, Lsn)>,
    /// Segments of which nobody knows all of this.
    pub unknown: u64,
}

impl Replayed {
    /// Asks the segments on the way.
    pub(super) fn of(ctx: &Ctx, archive: &Archive<'_>, way: &Way) -> Result<Self> {
        let mut replayed = Self::default();
        let (size, until) = (archive.segment_size(), until(way));
        let noted = archive.notes().effects().filter(|_| way.run.count() > ALL_ASKED_MAX);
        let is_noted = |segment: &(TimelineId, SegmentNo)| {
            noted.is_none_or(|noted| noted.has(segment.0, segment.1))
        };
        // Behind the last that is noted, there is nothing to find.
        let count = way.run.segments().rev().position(|segment| is_noted(&segment));
        let count = count.map_or(0, |behind| way.run.count().saturating_sub(behind as u64));
        // Only facts tell which segment recovery to a moment does not pass.
        let is_asked = |segment: &(TimelineId, SegmentNo)| {
            let is_behind = segment.1.begin(size).is_some_and(|begin| begin >= until);
            is_noted(segment) || is_moment(way) || is_behind
        };
        let first = way.run.segments().take(usize::try_from(count).unwrap_or(usize::MAX));
        let asked = archive.ahead(first.filter(is_asked).take(SEGMENTS_MAX + 1));
        let mut is_behind = false;
        for (i, segment) in asked.enumerate() {
            ctx.cancel.check()?;
            is_behind |= segment.1.begin(size).is_some_and(|begin| begin >= until);
            if i >= SEGMENTS_MAX {
                replayed.unknown += count.saturating_sub(i as u64);
                break;
            }
            let found = archive.found(&archive.wal().name(segment.0, segment.1))?;
            if is_behind {
                replayed.is_followed = found.is_some_and(|found| makes_tablespaces(&found));
                break;
            }
            let Some(found) = found.filter(|found| found.read) else {
                replayed.unknown += 1;
                continue;
            };
            let stop = stop_within(archive, way, segment, &found)?;
            replayed.add(segment.0, &found, way.backup.start_lsn, stop.unwrap_or(until));
            is_behind = stop.is_some();
        }
        Ok(replayed)
    }

    /// Adds what begins between two positions.
    fn add(&mut self, timeline: TimelineId, found: &Found, from: Lsn, until: Lsn) {
        let is_replayed = |lsn: Lsn| from <= lsn && lsn < until;
        let changes = found.parameters.iter().filter(|change| is_replayed(change.lsn));
        if let Some(change) = changes.clone().find(|change| change.is_minimal()) {
            self.minimal.get_or_insert((timeline, change.lsn));
        }
        self.parameters.extend(changes.cloned());
        for made in found.tablespaces.iter().filter(|made| made.lsn >= from) {
            let list = match is_replayed(made.lsn) {
                true => &mut self.tablespaces,
                false => &mut self.not_replayed,
            };
            list.push(made.clone());
        }
        let untold = found.untold_tablespace().filter(|lsn| *lsn >= from);
        self.unread_tablespace = self.unread_tablespace.or(untold);
        self.unknown += u64::from(found.parameters_more + found.tablespaces_more > 0);
    }

    /// What the operator must know of what is not known.
    pub(super) fn warning(&self) -> Option<String> {
        (self.unknown > 0).then(|| {
            format!(
                "of {} segments on the way it is not known whether they make tablespaces or change \
                 settings that recovery must follow (max_connections and the like)",
                self.unknown
            )
        })
    }
}

fn makes_tablespaces(found: &Found) -> bool {
    !found.tablespaces.is_empty() || found.untold_tablespace().is_some()
}

/// Records that begin here or later are not replayed, as far as positions tell.
fn until(way: &Way) -> Lsn {
    let until = match (&way.effective, way.stop) {
        (Target::Latest, _) => way.run.end,
        (Target::Immediate, _) => way.backup.stop_lsn,
        (Target::Lsn(lsn), Stop::Time { .. }) if way.inclusive => Lsn(lsn.0 + 1),
        (Target::Lsn(lsn), Stop::Time { .. }) => *lsn,
        (_, Stop::Before(lsn) | Stop::Between(_, lsn)) => lsn,
        (_, Stop::Time { .. }) => way.run.end,
    };
    until.min(way.run.end)
}

fn is_moment(way: &Way) -> bool {
    matches!((&way.effective, way.stop), (Target::Time(_), Stop::Time { .. }))
}

/// Where recovery to a moment stops, if it does in this segment.
fn stop_within(
    archive: &Archive<'_>,
    way: &Way,
    segment: (TimelineId, SegmentNo),
    found: &Found,
) -> Result<Option<Lsn>> {
    let (Target::Time(_), Stop::Time { time, inclusive }) = (&way.effective, way.stop) else {
        return Ok(None);
    };
    if !found.latest.is_some_and(|latest| is_after(latest, time, inclusive)) {
        return Ok(None);
    }
    let all = segment.1.end(archive.segment_size()).unwrap_or(way.run.end).min(way.run.end);
    if found.parameters.is_empty() && found.tablespaces.is_empty() {
        return Ok(Some(all));
    }
    let mut stop = None;
    archive.each_mark(segment, |mark| {
        if stops_before(mark, way.stop) {
            stop.get_or_insert(mark.begin);
        }
    })?;
    // What could not be read is taken for replayed.
    Ok(Some(stop.unwrap_or(all).min(all)))
}
