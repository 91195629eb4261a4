//! What is in the archive and will not be in the restored cluster, in commits and seconds.
//!
//! Counted from the newest segment back: those that lie wholly after the target by their facts, the
//! one in which it lies by reading it. What is not looked at makes the count a lower bound, and a hole
//! makes the true number unknown.

use super::error::Result;
use super::reach::{Archive, Mark, What};
use crate::base::{Ctx, Timestamp};
use crate::pg::wal::RM_XACT;
use crate::pg::{History, Lsn, Run, SegmentNo, TimelineId};
use crate::repo::Found;

/// How many segments are asked at most.
const SEGMENTS_MAX: usize = 1_000;

/// How many segments are read at most because the target may lie in them.
const READ_SEGMENTS_MAX: usize = 4;

/// How many segments are asked at most for the last commit before the target.
const BEFORE_SEGMENTS_MAX: usize = 256;

/// What is in the archive and will not be in the restored cluster.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Lost {
    /// The target's moment, or the last one before it that is proven.
    pub from: Option<Timestamp>,
    /// The last moment that the archive proves.
    pub until: Timestamp,
    /// How many commits are lost at least.
    pub commits_at_least: u64,
    /// How many at most; unknown when WAL is missing or not all was looked at.
    pub commits_at_most: Option<u64>,
    /// Seconds between the two moments.
    pub seconds: Option<i64>,
}

/// Where recovery stops: what comes after is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Before the first transaction that ended after this moment, or also at it.
    Time { time: Timestamp, inclusive: bool },
    /// Before the first record that begins here or later.
    Before(Lsn),
    /// Somewhere between two positions.
    Between(Lsn, Lsn),
}

/// Counts what lies after `stop`.
pub(super) fn count(
    ctx: &Ctx,
    archive: &Archive<'_>,
    history: &History,
    run: &Run,
    stop: Stop,
    known: Option<Timestamp>,
) -> Result<Option<Lost>> {
    let later = run.hole.and_then(|hole| hole.last.next());
    let later = later.map_or(Vec::new(), |later| archive.wal().archived_along(history, later));
    let behind = later.iter().rev().flat_map(|stretch| stretch.segments().rev());
    let mut counting = Counting::new(archive, run, stop);
    counting.is_open = run.hole.is_some();
    counting.walk(ctx, behind.chain(run.segments().rev()))?;
    let Some(until) = counting.until else { return Ok(None) };
    if counting.at_least == 0 && counting.at_most == 0 && !counting.is_open {
        return Ok(None);
    }
    let known = match stop {
        Stop::Time { time, .. } => Some(time),
        _ => known.or(counting.before),
    };
    let from = match (known, stop) {
        (None, Stop::Before(lsn) | Stop::Between(lsn, _)) => last_before(ctx, archive, run, lsn)?,
        (known, _) => known,
    };
    Ok(Some(Lost {
        from,
        until,
        commits_at_least: counting.at_least,
        commits_at_most: (!counting.is_open).then_some(counting.at_most),
        seconds: from.map(|from| (until - from).num_seconds().max(0)),
    }))
}

struct Counting<'a> {
    archive: &'a Archive<'a>,
    run: &'a Run,
    stop: Stop,
    at_least: u64,
    at_most: u64,
    /// Commits of the last segment that was read, before its first record after the target.
    slack: u64,
    /// There may be any number more.
    is_open: bool,
    until: Option<Timestamp>,
    /// The last end of a transaction before the stop.
    before: Option<Timestamp>,
    read: usize,
}

impl<'a> Counting<'a> {
    fn new(archive: &'a Archive<'a>, run: &'a Run, stop: Stop) -> Self {
        Self {
            archive,
            run,
            stop,
            at_least: 0,
            at_most: 0,
            slack: 0,
            is_open: false,
            until: None,
            before: None,
            read: 0,
        }
    }

    fn walk(
        &mut self,
        ctx: &Ctx,
        segments: impl Iterator<Item = (TimelineId, SegmentNo)>,
    ) -> Result<()> {
        let size = self.archive.segment_size();
        let segments = self.archive.ahead(segments.take(SEGMENTS_MAX + 1));
        for (asked, (timeline, number)) in segments.enumerate() {
            ctx.cancel.check()?;
            if asked >= SEGMENTS_MAX {
                self.is_open = true;
                return Ok(());
            }
            let Some(mut found) = self.archive.found_in(self.run, (timeline, number))? else {
                self.is_open = true;
                continue;
            };
            if asked == 0 {
                // What the end of the archive cuts was never archived whole.
                found.cut = None;
            }
            self.until = self.until.max(found.latest.max(found.last_checkpoint));
            let (begin, end) = number.begin(size).zip(number.end(size)).unwrap_or_default();
            match place(&found, (begin, end), self.stop) {
                Place::Before => return Ok(()),
                Place::After => {
                    self.at_least += found.commits;
                    self.at_most += found.commits + may_be_cut(&found);
                }
                Place::Within => self.within((timeline, number), &found)?,
            }
        }
        Ok(())
    }

    /// The segment in which recovery stops.
    fn within(&mut self, segment: (TimelineId, SegmentNo), found: &Found) -> Result<()> {
        let (mut after, mut before, mut is_after) = (0, None, false);
        // Behind a hole, positions are greater all the same.
        let is_last = self.run.segments().next_back() == Some(segment);
        let limit = if is_last { self.run.end } else { Lsn(u64::MAX) };
        let stop = self.stop;
        let can_tell = !matches!(stop, Stop::Between(..)) && self.read < READ_SEGMENTS_MAX;
        let is_read = can_tell
            && self.archive.each_mark(segment, |mark| {
                if mark.begin >= limit {
                    return;
                }
                is_after |= stops_before(mark, stop);
                if let What::End { is_commit, time, .. } = mark.what {
                    after += u64::from(is_after && is_commit);
                    before = if is_after { before } else { time.or(before) };
                }
            })?;
        self.read += 1;
        let cut = may_be_cut(found);
        // When the target lies in an older segment too, all of this one is lost.
        self.at_most += std::mem::take(&mut self.slack);
        if is_read {
            self.at_least += after;
            self.at_most += after + cut;
            self.slack = found.commits.saturating_sub(after);
            self.before = before.or(self.before);
        } else {
            self.at_most += found.commits + cut;
        }
        Ok(())
    }
}

pub(super) fn stops_before(mark: &Mark, stop: Stop) -> bool {
    match (stop, &mark.what) {
        (Stop::Before(lsn), _) => mark.begin >= lsn,
        (Stop::Time { time, inclusive }, What::End { time: Some(at), .. }) => {
            is_after(*at, time, inclusive)
        }
        _ => false,
    }
}

/// Whether recovery to `time` stops before what ended at `at`.
pub(super) fn is_after(at: Timestamp, time: Timestamp, inclusive: bool) -> bool {
    if inclusive { at > time } else { at >= time }
}

/// A commit that crosses into the next segment is in the findings of neither.
pub(super) fn may_be_cut(found: &Found) -> u64 {
    u64::from(found.cut.as_ref().is_some_and(|cut| cut.rmgr.is_none_or(|id| id == RM_XACT)))
}

/// Where a segment lies.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Before,
    Within,
    After,
}

fn place(found: &Found, (begin, end): (Lsn, Lsn), stop: Stop) -> Place {
    match stop {
        Stop::Before(lsn) | Stop::Between(lsn, _) if end <= lsn => Place::Before,
        Stop::Before(lsn) | Stop::Between(_, lsn) if begin >= lsn => Place::After,
        Stop::Before(_) | Stop::Between(..) => Place::Within,
        Stop::Time { time, inclusive } => match (found.earliest, found.latest) {
            (Some(earliest), _) if is_after(earliest, time, inclusive) => Place::After,
            (_, Some(latest)) if is_after(latest, time, inclusive) => Place::Within,
            (_, Some(_)) => Place::Before,
            // Nothing ended in it: what came before it decides.
            (_, None) => Place::After,
        },
    }
}

/// The last moment at which a transaction ended in the segments before the one that holds `lsn`.
fn last_before(ctx: &Ctx, archive: &Archive<'_>, run: &Run, lsn: Lsn) -> Result<Option<Timestamp>> {
    let holding = SegmentNo::of(lsn, archive.segment_size());
    let before = run.segments().rev().skip_while(|(_, number)| *number >= holding);
    for (timeline, number) in archive.ahead(before.take(BEFORE_SEGMENTS_MAX)) {
        ctx.cancel.check()?;
        let found = archive.found(&archive.wal().name(timeline, number))?;
        if let Some(latest) = found.and_then(|found| found.latest) {
            return Ok(Some(latest));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(earliest: Option<&str>, latest: Option<&str>) -> Found {
        let mut found: Found =
            serde_json::from_str(r#"{"read":true,"commits":3,"ending":"full"}"#).unwrap();
        let time = |text: &str| format!("2026-11-20T03:00:{text}Z").parse().unwrap();
        (found.earliest, found.latest) = (earliest.map(time), latest.map(time));
        found
    }

    #[test]
    fn a_segment_lies_before_after_or_around_a_moment() {
        let at = |text: &str, inclusive| Stop::Time {
            time: format!("2026-11-20T03:00:{text}Z").parse().unwrap(),
            inclusive,
        };
        let segment = found(Some("10"), Some("20"));
        let bounds = (Lsn(0), Lsn(1 << 20));
        for (stop, expected) in [
            (at("09", true), Place::After),
            (at("10", true), Place::Within),
            (at("10", false), Place::After),
            (at("15", true), Place::Within),
            (at("20", true), Place::Before),
            (at("20", false), Place::Within),
            (at("21", true), Place::Before),
        ] {
            assert_eq!(place(&segment, bounds, stop), expected, "{stop:?}");
        }
        let empty = found(None, None);
        assert_eq!(place(&empty, bounds, at("15", true)), Place::After, "older ones decide");
    }

    #[test]
    fn a_segment_lies_before_after_or_around_a_position() {
        let segment = found(Some("10"), Some("20"));
        let bounds = (Lsn(0x100000), Lsn(0x200000));
        for (stop, expected) in [
            (Stop::Before(Lsn(0x200000)), Place::Before),
            (Stop::Before(Lsn(0x1FFFFF)), Place::Within),
            (Stop::Before(Lsn(0x100000)), Place::After),
            (Stop::Between(Lsn(0x80000), Lsn(0x100000)), Place::After),
            (Stop::Between(Lsn(0x80000), Lsn(0x180000)), Place::Within),
            (Stop::Between(Lsn(0x200000), Lsn(0x300000)), Place::Before),
        ] {
            assert_eq!(place(&segment, bounds, stop), expected, "{stop:?}");
        }
    }

    #[test]
    fn only_what_may_be_a_commit_counts_as_cut() {
        let mut segment = found(None, None);
        assert_eq!(may_be_cut(&segment), 0);
        for (rmgr, expected) in [(None, 1), (Some(RM_XACT), 1), (Some(RM_XACT + 9), 0)] {
            segment.cut = Some(crate::repo::Cut { lsn: Lsn(1), xid: None, rmgr, bytes: None });
            assert_eq!(may_be_cut(&segment), expected, "{rmgr:?}");
        }
    }
}
