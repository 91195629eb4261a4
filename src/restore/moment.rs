//! The way to a moment: whether the archive proves that all that was committed up to it is there, and
//! after which record the server is to stop.

use super::choose::{Choosing, Way, shown};
use super::error::{Error, Result};
use super::lost::{Stop, is_after};
use super::reach::{Crossing, Mark, What};
use super::server_now::{ServerNow, archived_up_to};
use super::target::Target;
use crate::base::Timestamp;
use crate::pg::wal::RM_XACT;
use crate::pg::{Lsn, SegmentNo, TimelineId};
use crate::repo::Found;

/// How many segments at the end of a run are asked for the last commit.
const LAST_SEGMENTS_MAX: usize = 4096;

/// How many segments before the last commit are asked whether the clock was set back.
const SET_BACK_SEGMENTS_MAX: usize = 1_000;

/// The last ends of transactions in a run, none of them after the target.
#[derive(Debug, Default)]
struct LastEnds {
    /// Whether one is, or may be, after the target.
    is_met: bool,
    /// The last one, where it crosses into another segment.
    end: Option<Lsn>,
    /// The segment that holds the last one.
    segment: Option<(TimelineId, SegmentNo)>,
    /// A checkpoint after the target.
    proof: Option<Lsn>,
    /// How many segments were asked.
    asked: usize,
}

/// What crosses into the next segment.
#[derive(Debug, PartialEq, Eq)]
enum Across {
    /// No end of a transaction.
    Nothing,
    /// One that begins here and ended then.
    End(Lsn, Timestamp),
    /// Perhaps one.
    Open,
}

impl Choosing<'_> {
    pub(super) fn time(&self, mut way: Way, time: Timestamp) -> Result<Way> {
        way.stop = Stop::Time { time, inclusive: self.options.inclusive };
        // The backup's end is where a moment can begin to be reached: its clock is the server's, not the
        // archive's, and says nothing about WAL.
        if way.reaches.is_none_or(|last| time > last) {
            let clock = self.server_proves(&way, time)?;
            way.reaches = Some(clock);
            way.notes.push(format!(
                "the server says that nothing was committed up to {} that is not archived",
                shown(clock)
            ));
        }
        self.effective(way, time)
    }

    /// The moment up to which the cluster's own server proves that all is archived.
    fn server_proves(&self, way: &Way, time: Timestamp) -> Result<Timestamp> {
        let (size, block) = (self.archive.segment_size(), way.backup.server.wal_block_size);
        let Some(server) = &self.options.server else {
            return Err(self.too_late(way, time, None));
        };
        let system = way.backup.system;
        let proof = server.proves(system, self.history.timeline(), time, |insert| {
            way.run.hole.is_none()
                && (archived_up_to(&way.run, way.end, insert, size, block)
                    || self.tail_is_quiet(way, server))
        });
        proof.map_err(|why| self.too_late(way, time, Some(why)))
    }

    /// Whether nothing ended in the WAL that the server has and the archive has not.
    fn tail_is_quiet(&self, way: &Way, server: &ServerNow) -> bool {
        let size = self.archive.segment_size();
        // A record that goes on in the server's segment would be read by nobody.
        let last = way.run.segments().next_back().and_then(|(timeline, number)| {
            self.archive.found(&self.archive.wal().name(timeline, number)).ok().flatten()
        });
        let is_whole = way.end == way.run.end
            && !way.run.is_barred
            && last.is_some_and(|last| last.cut.is_none());
        let (timeline, block) = (self.history.timeline(), way.backup.server.wal_block_size);
        is_whole && server.is_quiet_from(way.run.end, timeline, size, block)
    }

    fn too_late(&self, way: &Way, time: Timestamp, why: Option<String>) -> Error {
        let target = &self.options.target;
        let finished = way.backup.finished;
        let last = way.reaches.filter(|last| *last >= finished);
        if time > self.ctx.clock.now().max(last.unwrap_or(finished)) {
            return Error::unreachable(format!(
                "{target} lies in the future; {}",
                proven(way, last)
            ));
        }
        if let Some(missing) = self.hole_text(way) {
            let after = shown(last.unwrap_or(finished));
            return Error::unreachable(format!(
                "{target} lies in or behind a hole: after {after} {missing}"
            ));
        }
        let mut what = match last {
            Some(last) => format!(
                "{target} lies after the last moment that the archive proves, {}",
                shown(last)
            ),
            None => format!("{target} is not proven to be archived: {}", proven(way, None)),
        };
        if let Some(why) = why {
            what.push_str(&format!("; {why}"));
        }
        let hint = "If the cluster's server still runs: SELECT pg_switch_wal() on it, wait for the \
                    archiver, and ask again. Without a target, recovery goes to the end.";
        let (hint, nearest, windows) = (Some(hint.into()), Vec::new(), Vec::new());
        Error::Unreachable { what, hint, nearest, windows }
    }

    /// What the server is told for a moment after which no transaction ended in the run.
    fn effective(&self, mut way: Way, time: Timestamp) -> Result<Way> {
        let ends = self.last_ends(&mut way, time)?;
        if ends.is_met {
            // The server meets it and stops before.
            return Ok(way);
        }
        if let Some(stop) = self.set_back(&way, time, ends.asked)? {
            way.stop = stop;
            way.notes.push(
                "the clock was set back: recovery stops before the first commit that is later than \
                 the target, also where earlier times follow"
                    .into(),
            );
            return Ok(way);
        }
        let LastEnds { mut end, proof, segment, .. } = ends;
        let is_found = end.is_some() || segment.is_some() || proof.is_some();
        if !is_found && way.run.count() > LAST_SEGMENTS_MAX as u64 {
            way.notes.push(format!(
                "no transaction ended in the last {LAST_SEGMENTS_MAX} segments: if none ended after \
                 the target, the server ends with \"recovery ended before configured recovery \
                 target was reached\""
            ));
            return Ok(way);
        }
        if let Some(segment) = segment {
            let keep = |mark: &Mark| {
                if matches!(mark.what, What::End { .. }) && mark.begin < way.run.end {
                    end = Some(mark.begin);
                }
            };
            if !self.archive.each_mark(segment, keep)? && proof.is_none() {
                return self.to_the_end(way);
            }
        }
        let stop = way.stop;
        self.stop_at_last(&mut way, end.max(proof));
        way.stop = stop;
        way.notes.push(match &way.effective {
            Target::Lsn(lsn) => format!(
                "nothing was committed between {lsn} and {}: recovery ends at {lsn}, which is the \
                 same state",
                self.options.target
            ),
            _ => "nothing was committed after the backup: recovery ends where the backup is \
                  consistent, which is the same state"
                .into(),
        });
        Ok(way)
    }

    /// Looks for the last end of a transaction, from the end of the run back.
    fn last_ends(&self, way: &mut Way, time: Timestamp) -> Result<LastEnds> {
        let is_after = |at: Timestamp| is_after(at, time, self.options.inclusive);
        let mut ends = LastEnds::default();
        let mut behind = None;
        for segment in self.archive.ahead(way.run.segments().rev().take(LAST_SEGMENTS_MAX)) {
            self.ctx.cancel.check()?;
            ends.asked += 1;
            let found = self.archive.found_in(&way.run, segment)?;
            let across = self.across(found.as_ref(), segment, behind.replace(segment))?;
            let is_open = across == Across::Open;
            let is_later = found.as_ref().is_none_or(|found| found.latest.is_some_and(is_after))
                || matches!(across, Across::End(_, at) if is_after(at));
            if is_open && !is_later {
                way.notes.push(format!(
                    "a transaction may end on the boundary after {}: if nothing ended after the \
                     target, the server ends with \"recovery ended before configured recovery \
                     target was reached\"; a target a little earlier does not",
                    self.archive.wal().name(segment.0, segment.1)
                ));
            }
            ends.is_met = is_open || is_later;
            let Some(found) = found.filter(|_| !ends.is_met) else { break };
            if let Across::End(begin, _) = across {
                ends.end = Some(begin);
                break;
            }
            // The oldest checkpoint after the moment: nothing ended between the two.
            let checkpoint = found.last_checkpoint.filter(|at| *at >= time);
            ends.proof = checkpoint.and(found.last_checkpoint_lsn).or(ends.proof);
            if found.latest.is_some() {
                ends.segment = Some(segment);
                break;
            }
        }
        Ok(ends)
    }

    /// Whether a transaction ends on the boundary behind a segment. `next` is the segment behind it in the
    /// run.
    fn across(
        &self,
        found: Option<&Found>,
        segment: (TimelineId, SegmentNo),
        next: Option<(TimelineId, SegmentNo)>,
    ) -> Result<Across> {
        let Some(next) = next.filter(|_| found.is_some_and(may_cut_an_end)) else {
            return Ok(Across::Nothing);
        };
        Ok(match self.archive.crossing(segment, next)? {
            Crossing::Mark(Mark { begin, what: What::End { time: Some(time), .. }, .. }) => {
                Across::End(begin, time)
            }
            Crossing::Mark(Mark { what: What::End { .. }, .. }) | Crossing::Unknown => Across::Open,
            Crossing::Mark(_) | Crossing::Lost => Across::Nothing,
        })
    }

    /// Where recovery stops if the clock was set back: a transaction that ended later than the target,
    /// before others that ended earlier. The last `skip` segments hold none.
    fn set_back(&self, way: &Way, time: Timestamp, skip: usize) -> Result<Option<Stop>> {
        let size = self.archive.segment_size();
        let consistent = way.backup.stop_lsn;
        let is_after = |at: Timestamp| is_after(at, time, self.options.inclusive);
        let first_after = |segment| {
            let mut first = None;
            self.archive.each_mark(segment, |mark| {
                if mark.begin >= consistent && ended(mark).is_some_and(is_after) {
                    first.get_or_insert(mark.begin);
                }
            })?;
            Ok::<_, Error>(first)
        };
        let mut oldest = None;
        let before = way.run.segments().rev().skip(skip).take(SET_BACK_SEGMENTS_MAX);
        for segment in self.archive.ahead(before) {
            self.ctx.cancel.check()?;
            let (begin, end) = segment.1.begin(size).zip(segment.1.end(size)).unwrap_or_default();
            if end <= consistent {
                break;
            }
            let found = self.archive.found(&self.archive.wal().name(segment.0, segment.1))?;
            let is_later = found.and_then(|found| found.latest).is_some_and(is_after);
            if is_later && begin >= consistent {
                oldest = Some((segment, begin, end));
            } else if is_later && let Some(first) = first_after(segment)? {
                return Ok(Some(Stop::Before(first)));
            }
        }
        let Some((segment, begin, end)) = oldest else { return Ok(None) };
        Ok(Some(first_after(segment)?.map_or(Stop::Between(begin, end), Stop::Before)))
    }

    /// Where the last commit is cannot be told: recovery would have to read on to know that nothing
    /// follows, and `archive-get` does not call a hole the end.
    fn to_the_end(&self, mut way: Way) -> Result<Way> {
        if let Some(missing) = self.hole_text(&way) {
            return Err(Error::unreachable(format!(
                "{} is the last commit before a hole ({missing}): recovery can stop before that \
                 commit, not after it",
                self.options.target
            )));
        }
        way.effective = Target::Latest;
        way.notes.push(
            "the target is the last commit in the archive: recovery goes to its end, and opens for \
             writing there"
                .into(),
        );
        Ok(way)
    }
}

/// What the archive proves, in words.
fn proven(way: &Way, last: Option<Timestamp>) -> String {
    match last {
        Some(last) => format!("the last moment that the archive proves is {}", shown(last)),
        None => format!(
            "no commit or checkpoint is archived that is later than the end of backup {}, {}",
            way.backup.id,
            shown(way.backup.finished)
        ),
    }
}

/// When a transaction ended.
fn ended(mark: &Mark) -> Option<Timestamp> {
    match mark.what {
        What::End { time, .. } => time,
        _ => None,
    }
}

/// A record that is cut by the segment's end may be the commit that recovery must stop before.
fn may_cut_an_end(found: &Found) -> bool {
    found.cut.as_ref().is_some_and(|cut| cut.rmgr.is_none_or(|id| id == RM_XACT))
}
