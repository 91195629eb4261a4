//! What the archive holds beside the history that recovery follows: timelines that go on, and what an
//! ancestor wrote after it was left.
//!
//! The newest timeline may be a dead side branch (a copy that was promoted with its archiving on), and
//! PostgreSQL follows it all the same. So what lies elsewhere is told and counted, never passed over.

use super::error::Result;
use super::lost::{Lost, is_after, may_be_cut};
use super::reach::{Archive, Mark, What};
use crate::base::{Ctx, Timestamp};
use crate::pg::{History, Lsn, SegmentNo, Stretch, TimelineId};
use crate::repo::Summary;

/// How many segments of another history are asked at most.
const SEGMENTS_MAX: usize = 1_000;

/// How many segments are asked for the last commit of a history, from its end back.
const LATEST_SEGMENTS_MAX: usize = 256;

/// How many segments of another history are read at most.
const READ_SEGMENTS_MAX: usize = 4;

/// The archive beside a history.
pub(super) struct Elsewhere<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) archive: &'a Archive<'a>,
    /// What recovery follows.
    pub(super) chosen: &'a History,
    /// Where else the archive ends.
    pub(super) others: &'a [History],
}

/// Commits of another history, from where it parts on.
#[derive(Debug, Clone, Copy)]
struct Commits {
    at_least: u64,
    /// Unknown when not all was looked at.
    at_most: Option<u64>,
}

/// A moment up to which commits count, and whether also those at it.
type Until = Option<(Timestamp, bool)>;

impl Elsewhere<'_> {
    /// Warns of every history that goes on later than the chosen one, and of the newest backup if it is
    /// of another; their commits count as lost, where recovery is to go to the end.
    pub(super) fn later(
        &self,
        newest: Option<&Summary>,
        reaches: Option<Timestamp>,
        mut lost: Option<&mut Option<Lost>>,
    ) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for other in self.others {
            let parted = self.chosen.parts_from(other);
            let Some(latest) = self.latest(other, parted)? else { continue };
            if self.latest(self.chosen, parted)?.is_some_and(|here| here >= latest) {
                continue;
            }
            let commits = self.count(other, parted, None)?;
            let (timeline, chosen) = (other.timeline(), self.chosen.timeline());
            warnings.push(format!(
                "timeline {timeline} goes on later than timeline {chosen}: {commits}, the last at \
                 {latest}, since they parted at {parted}, are not in what is restored; \
                 --target-timeline {timeline} follows it instead",
                commits = commits.text(),
                latest = super::choose::shown(latest),
            ));
            if let Some(lost) = lost.as_deref_mut() {
                add(lost, commits, latest, reaches);
            }
        }
        if let Some(newest) = newest.filter(|newest| !newest.is_on(self.chosen)) {
            let (id, timeline) = (&newest.id, newest.timeline_stop);
            warnings.push(format!(
                "the newest backup, {id}, is of timeline {timeline}, which does not lead to timeline \
                 {}: --target-timeline {timeline} follows it instead",
                self.chosen.timeline()
            ));
        }
        Ok(warnings)
    }

    /// Warns of commits up to a moment that only another history has: PostgreSQL goes to the moment
    /// along the chosen one, without a word. `all` also looks at those that are no ancestors of it.
    pub(super) fn earlier(
        &self,
        time: Timestamp,
        inclusive: bool,
        all: bool,
    ) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let meant = |other: &&History| all || self.chosen.is_ancestor(other.timeline());
        for other in self.others.iter().filter(meant) {
            let parted = self.chosen.parts_from(other);
            let commits = self.count(other, parted, Some((time, inclusive)))?;
            if commits.at_most == Some(0) {
                continue;
            }
            let (timeline, chosen) = (other.timeline(), self.chosen.timeline());
            warnings.push(format!(
                "{commits} up to the target {verb} on timeline {timeline} only, after timeline \
                 {chosen} parted from it at {parted}, and not in what is restored; \
                 --target-timeline {timeline} has them",
                commits = commits.text(),
                verb = if commits.at_most == Some(1) { "is" } else { "are" },
            ));
        }
        Ok(warnings)
    }

    /// Counts the commits of a history that begin at `from` or later, the oldest first.
    fn count(&self, history: &History, from: Lsn, until: Until) -> Result<Commits> {
        let size = self.archive.segment_size();
        let mut counted = Commits { at_least: 0, at_most: Some(0) };
        let mut read = 0;
        let stretches = self.archived(history, from);
        let segments = stretches.iter().flat_map(Stretch::segments).take(SEGMENTS_MAX + 1);
        for (asked, segment) in self.archive.ahead(segments).enumerate() {
            self.ctx.cancel.check()?;
            let found = self.archive.found(&self.archive.wal().name(segment.0, segment.1))?;
            let Some(found) = found.filter(|_| asked < SEGMENTS_MAX) else {
                counted.at_most = None;
                break;
            };
            let is_later =
                |at: Timestamp| until.is_some_and(|(time, also)| is_after(at, time, also));
            if found.earliest.is_some_and(is_later) {
                break;
            }
            let is_behind = segment.1.begin(size).is_some_and(|begin| begin >= from);
            let is_whole = is_behind && !found.latest.is_some_and(is_later);
            let seen = match is_whole {
                true => Some(found.commits),
                false if read < READ_SEGMENTS_MAX => {
                    read += 1;
                    self.read(segment, from, is_later)?
                }
                false => None,
            };
            counted.at_least += seen.unwrap_or(0);
            let most = seen.unwrap_or(found.commits) + may_be_cut(&found);
            counted.at_most = counted.at_most.map(|counted| counted + most);
        }
        Ok(counted)
    }

    /// Commits in a segment that begin at `from` or later and are not too late.
    fn read(
        &self,
        segment: (TimelineId, SegmentNo),
        from: Lsn,
        is_later: impl Fn(Timestamp) -> bool,
    ) -> Result<Option<u64>> {
        let mut commits = 0;
        let is_known = self.archive.each_mark(segment, |mark| {
            let time = commit_from(mark, from);
            commits += u64::from(time.is_some_and(|time| !time.is_some_and(&is_later)));
        })?;
        Ok(is_known.then_some(commits))
    }

    /// The last commit of a history that begins at `from` or later.
    fn latest(&self, history: &History, from: Lsn) -> Result<Option<Timestamp>> {
        let size = self.archive.segment_size();
        let stretches = self.archived(history, from);
        let segments = stretches.iter().flat_map(Stretch::segments);
        for segment in self.archive.ahead(segments.rev().take(LATEST_SEGMENTS_MAX)) {
            self.ctx.cancel.check()?;
            let found = self.archive.found(&self.archive.wal().name(segment.0, segment.1))?;
            let Some(found) = found.filter(|found| found.commits > 0) else { continue };
            if segment.1.begin(size).is_some_and(|begin| begin >= from) {
                return Ok(found.latest);
            }
            let mut latest = None;
            self.archive.each_mark(segment, |mark| {
                latest = latest.max(commit_from(mark, from).flatten());
            })?;
            return Ok(latest);
        }
        Ok(None)
    }

    /// What is archived of a history from a position on.
    fn archived(&self, history: &History, from: Lsn) -> Vec<Stretch> {
        let wal = self.archive.wal();
        wal.archived_along(history, SegmentNo::of(from, wal.segment_size()))
    }
}

/// The time of a commit that begins at `from` or later.
fn commit_from(mark: &Mark, from: Lsn) -> Option<Option<Timestamp>> {
    match mark.what {
        What::End { is_commit: true, time, .. } if mark.begin >= from => Some(time),
        _ => None,
    }
}

impl Commits {
    fn text(&self) -> String {
        match self.at_most {
            None => format!("at least {} commits", self.at_least),
            Some(1) if self.at_least == 1 => "1 commit".into(),
            Some(most) if most == self.at_least => format!("{most} commits"),
            Some(most) => format!("{} to {most} commits", self.at_least),
        }
    }
}

/// Adds what lies elsewhere to what is lost.
fn add(lost: &mut Option<Lost>, commits: Commits, latest: Timestamp, reaches: Option<Timestamp>) {
    let nothing = Lost {
        from: reaches,
        until: latest,
        commits_at_least: 0,
        commits_at_most: Some(0),
        seconds: None,
    };
    let lost = lost.get_or_insert(nothing);
    lost.commits_at_least += commits.at_least;
    lost.commits_at_most =
        lost.commits_at_most.zip(commits.at_most).map(|(here, there)| here + there);
    lost.until = lost.until.max(latest);
    lost.seconds = lost.from.map(|from| (lost.until - from).num_seconds().max(0));
}
