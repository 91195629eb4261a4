//! Whether a target can be reached, from which backup, and what the server is told so that it stops
//! exactly there.
//!
//! The server dies of a target that it does not meet ("recovery ended before configured recovery
//! target was reached"), also when nothing is missing: a moment after the last commit, a position
//! after the last record. Then it is given the record after which nothing that counts follows.

use super::error::{Error, Result};
use super::lost::Stop;
use super::options::Options;
use super::position::{SEARCH_SEGMENTS_MAX, Search, Spot, search};
use super::reach::Archive;
use super::server_now::archived_up_to;
use super::target::Target;
use crate::base::{Ctx, Timestamp};
use crate::pg::recovery::TargetAction;
use crate::pg::{History, Lsn, Run, SegmentNo, TimelineId};
use crate::repo::Summary;

/// How many segments are read at most to find a record; one record seldom fills several.
const READ_SEGMENTS_MAX: usize = 4;

/// The way to a target.
#[derive(Debug)]
pub(super) struct Way {
    pub backup: Summary,
    pub run: Run,
    /// Where the valid records of the run end.
    pub end: Lsn,
    /// What the server is told.
    pub effective: Target,
    /// Whether what equals that is still replayed.
    pub inclusive: bool,
    /// What it does there.
    pub action: TargetAction,
    /// What is lost lies behind this.
    pub stop: Stop,
    /// The target's moment, where it is known.
    pub at: Option<Timestamp>,
    /// The last moment that is proven.
    pub reaches: Option<Timestamp>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

impl Way {
    /// As [`Plan::at_target`](super::Plan::at_target).
    pub(super) fn at_target(&self) -> Option<TargetAction> {
        (self.effective != Target::Latest).then_some(self.action)
    }
}

/// Finds the way to the target along a history; `candidates` are backups on it, oldest first.
pub(super) fn choose(
    ctx: &Ctx,
    options: &Options,
    archive: &Archive<'_>,
    history: &History,
    candidates: &[&Summary],
) -> Result<Way> {
    let (backup, spot) = begin_with(ctx, options, archive, history, candidates)?;
    let run = archive.wal().run(history, backup.start_lsn);
    let end = archive.end_of(&run)?;
    if end < backup.stop_lsn {
        let missing = match &run.hole {
            Some(hole) => archive.describe(hole),
            None => "the segment after it".into(),
        };
        return Err(Error::unreachable(format!(
            "WAL that backup {} itself needs is missing: the archive ends at {end}, the backup is \
             consistent at {} ({missing})",
            backup.id, backup.stop_lsn
        )));
    }
    let reaches = archive.last_moment(ctx, &run)?;
    // Nothing of the run is lost, and all that is behind a hole.
    let stop = Stop::Before(run.end);
    let way = Way {
        backup: backup.clone(),
        run,
        end,
        effective: options.target.clone(),
        inclusive: options.inclusive,
        action: options.action,
        stop,
        at: None,
        reaches,
        notes: Vec::new(),
    };
    let choosing = Choosing { ctx, options, archive, history };
    match &options.target {
        Target::Latest => choosing.latest(way),
        Target::Immediate => {
            // A standby's WAL may be any time behind its clock.
            let at = (!backup.server.standby).then_some(backup.finished);
            Ok(Way { stop: Stop::Before(backup.stop_lsn), at, ..way })
        }
        Target::Time(time) => choosing.time(way, *time),
        Target::Lsn(lsn) => choosing.lsn(way, *lsn),
        Target::Name(_) | Target::Xid(_) => Ok(choosing.spot(way, spot)),
    }
}

/// The backup to begin with: the newest that leads to the target, as far as positions and times tell.
fn begin_with<'b>(
    ctx: &Ctx,
    options: &Options,
    archive: &Archive<'_>,
    history: &History,
    candidates: &[&'b Summary],
) -> Result<(&'b Summary, Option<Spot>)> {
    let newest = |fits: &dyn Fn(&Summary) -> bool| {
        candidates.iter().rev().find(|backup| fits(backup)).copied()
    };
    let mut spot = None;
    let backup = match &options.target {
        Target::Latest | Target::Immediate => newest(&|_| true),
        Target::Time(time) => newest(&|backup| backup.finished <= *time),
        Target::Lsn(lsn) => newest(&|backup| backup.stop_lsn <= *lsn),
        Target::Name(_) | Target::Xid(_) => {
            match search(ctx, archive, history, candidates, options)? {
                Search::Found(i, found) => {
                    spot = Some(found);
                    candidates.get(i).copied()
                }
                Search::TooEarly(_) => None,
                Search::Nowhere => {
                    let what = format!("the archive holds no {}", options.target);
                    return Err(Error::unreachable(what));
                }
                Search::GaveUp => {
                    return Err(Error::Unreachable {
                        what: format!(
                            "{} was not found in what a plan looks at: {SEARCH_SEGMENTS_MAX} segments, \
                             and some records that lie in two of them",
                            options.target
                        ),
                        hint: Some(
                            "Name the backup before it with --backup, or a time with --target-time."
                                .into(),
                        ),
                        nearest: Vec::new(),
                        windows: Vec::new(),
                    });
                }
            }
        }
    };
    let Some(backup) = backup else {
        return Err(Error::unreachable(format!(
            "{} lies before the first consistent point of every backup on timeline {}",
            options.target,
            history.timeline()
        )));
    };
    Ok((backup, spot))
}

pub(super) struct Choosing<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) options: &'a Options,
    pub(super) archive: &'a Archive<'a>,
    pub(super) history: &'a History,
}

/// A search for the first record at or after a position.
enum First {
    At(Lsn),
    /// There is none; the last one before begins here.
    None(Option<Lsn>),
    Unknown,
}

impl Choosing<'_> {
    fn latest(&self, mut way: Way) -> Result<Way> {
        if way.run.is_barred {
            let what = format!("recovery ends at {}, and later WAL exists", way.run.end);
            return Err(Error::unreachable(what));
        }
        // The server would replay an ancestor's last segment to its end, and so what this history
        // has left behind (XLogFileReadAnyTLI in xlogrecovery.c takes the file of either timeline).
        let last = way.run.segments().next_back();
        let size = self.archive.segment_size();
        if let Some(segment) = last
            && segment.1.end(size).is_some_and(|end| way.run.end < end)
        {
            let mut beyond = None;
            let is_known = self.archive.each_mark(segment, |mark| {
                if mark.begin >= way.run.end {
                    beyond.get_or_insert(mark.begin);
                }
            })?;
            if !is_known {
                // Its facts say whether anything is there; then any record behind the switch is met.
                let found = self.archive.found(&self.archive.wal().name(segment.0, segment.1))?;
                let is_whole =
                    found.and_then(|found| found.end).is_some_and(|at| at <= way.run.end);
                beyond = (!is_whole).then_some(way.run.end);
            }
            if let (Some(_), true) = (beyond, self.options.standby) {
                let timeline = self.history.timeline();
                let needed = self.archive.wal().name(timeline, segment.1);
                return Err(Error::Refused {
                    what: format!(
                        "{needed} is not archived yet: a standby would replay its ancestor's, and \
                         with it what timeline {timeline} has left behind; wait until it is archived"
                    ),
                });
            }
            if let Some(begin) = beyond {
                way.effective = Target::Lsn(begin);
                way.inclusive = false;
                // As at the end of all WAL.
                way.action = TargetAction::Promote;
                way.notes.push(format!(
                    "no WAL of timeline {} is archived yet: recovery ends at {}, where it begins",
                    self.history.timeline(),
                    way.run.end
                ));
            }
        }
        let timeline = self.history.timeline();
        if let Some(begin) = self.history.begin(timeline).filter(|begin| way.run.end < *begin)
            && way.run.hole.is_none()
        {
            way.notes.push(format!(
                "timeline {timeline} begins at {begin}, and the archive ends at {} before it: what was \
                 written in between is lost, unless a server still has it to archive",
                way.run.end
            ));
        }
        match &way.run.hole {
            Some(hole) if !self.options.standby => {
                let missing = self.archive.describe(hole);
                let is_damaged = self.archive.wal().is_damaged(hole.timeline, hole.first);
                let later = if is_damaged { "" } else { ", and later WAL exists" };
                let what = format!("{missing}{later}: name a target before it");
                Err(Error::unreachable(what))
            }
            _ => Ok(way),
        }
    }

    fn spot(&self, way: Way, spot: Option<Spot>) -> Way {
        let Some(spot) = spot else { return way };
        let stop = match (&self.options.target, spot.is_exact) {
            (Target::Name(_), _) => Stop::Before(spot.end),
            (_, false) => Stop::Between(spot.begin, spot.end),
            (_, true) if self.options.inclusive => Stop::Before(Lsn(spot.begin.0 + 1)),
            (_, true) => Stop::Before(spot.begin),
        };
        Way { stop, at: spot.time, ..way }
    }

    /// In which hole, or behind which, a target lies.
    pub(super) fn hole_text(&self, way: &Way) -> Option<String> {
        let hole = way.run.hole.as_ref()?;
        Some(self.archive.describe(hole))
    }

    fn lsn(&self, mut way: Way, lsn: Lsn) -> Result<Way> {
        let size = self.archive.segment_size();
        let reach = archived_up_to(&way.run, way.end, lsn, size, way.backup.server.wal_block_size);
        if !reach {
            let what = match self.hole_text(&way) {
                Some(missing) => format!(
                    "LSN {lsn} lies in or behind a hole: WAL is archived to {}, and {missing}",
                    way.end
                ),
                None => format!("LSN {lsn} lies after the end of the archive, {}", way.end),
            };
            return Err(Error::unreachable(what));
        }
        match self.first_from(&way, lsn)? {
            First::At(begin) if self.options.inclusive => {
                way.stop = Stop::Before(Lsn(begin.0 + 1));
            }
            First::At(begin) => way.stop = Stop::Before(begin),
            First::None(last) => self.stop_at_last(&mut way, last),
            First::Unknown => {
                let later = lsn.checked_add(size.bytes().into()).unwrap_or(lsn);
                way.stop = Stop::Between(lsn, later);
                way.notes.push(format!(
                    "whether a record begins at {lsn} or later could not be read: if none does, the \
                     server ends with \"recovery ended before configured recovery target was \
                     reached\""
                ));
            }
        }
        Ok(way)
    }

    /// All of the run is replayed, and the server stops at its last record instead of the target.
    pub(super) fn stop_at_last(&self, way: &mut Way, last: Option<Lsn>) {
        way.inclusive = true;
        way.stop = Stop::Before(way.run.end);
        way.effective = match last.filter(|last| *last >= way.backup.stop_lsn) {
            Some(last) => Target::Lsn(last),
            None => Target::Immediate,
        };
    }

    fn first_from(&self, way: &Way, lsn: Lsn) -> Result<First> {
        let holding = SegmentNo::of(lsn, self.archive.segment_size());
        let last = way.run.segments().next_back();
        // Behind the last segment's end there is nothing: its own last record counts then.
        let from = last.map_or(holding, |(_, last)| holding.min(last));
        let segments = way.run.segments().rev().take_while(|(_, number)| *number >= from);
        let mut segments: Vec<_> = segments.collect();
        segments.reverse();
        let mut before = None;
        for segment in segments.into_iter().take(READ_SEGMENTS_MAX) {
            self.ctx.cancel.check()?;
            let mut first = None;
            let is_known = self.archive.each_mark(segment, |mark| {
                if mark.begin >= lsn && mark.begin < way.run.end {
                    first.get_or_insert(mark.begin);
                } else if mark.begin < way.run.end {
                    before = Some(mark.begin);
                }
            })?;
            if !is_known {
                return Ok(First::Unknown);
            }
            // The record that goes on in the next segment is none of these.
            let name = self.archive.wal().name(segment.0, segment.1);
            let cut = self.archive.found(&name)?.and_then(|found| found.cut);
            let cut = cut.filter(|_| Some(segment) != last).map(|cut| cut.lsn);
            if let Some(begin) = first.or(cut.filter(|cut| *cut >= lsn)) {
                return Ok(First::At(begin));
            }
            before = cut.or(before);
        }
        match last {
            Some((_, number)) if number.0 >= from.0 + READ_SEGMENTS_MAX as u64 => {
                Ok(First::Unknown)
            }
            _ => Ok(First::None(before)),
        }
    }
}

/// A moment in a sentence, so that it can be typed back.
pub(super) fn shown(time: Timestamp) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.6f UTC").to_string()
}

/// The timeline that a target means, when nobody says it by number.
pub(super) fn timeline_of(
    options: &Options,
    archive: &Archive<'_>,
    newest: &Summary,
) -> TimelineId {
    use crate::pg::recovery::TargetTimeline;
    let current = TimelineId::new(newest.timeline_stop).unwrap_or(TimelineId::FIRST);
    match (options.timeline, &options.target) {
        (TargetTimeline::Number(number), _) => number,
        (TargetTimeline::Current, _) | (_, Target::Immediate) => current,
        (TargetTimeline::Latest, _) => archive.newest_timeline().unwrap_or(current),
    }
}
