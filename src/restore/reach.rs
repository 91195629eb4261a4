//! What the archive reaches: timelines, runs of segments, and the moments that their facts prove.
//!
//! Facts come from `archive-push`, which looked when the segment was in its hands: one small request
//! each. Only the segment in which a target lies is read itself, to know exactly what comes after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use super::error::{Error, Result};
use crate::base::{Ctx, Timestamp, ahead};
use crate::pg::wal::{
    Format, Joined, Outcome, Reader, Record, SegmentHeader, Xact, XlogEvent, joined,
};
use crate::pg::{
    ArchivedWal, History, Lsn, Run, SegmentName, SegmentNo, SegmentSize, Stretch, TimelineId,
};
use crate::repo::{self, Found, Kind, NewestMoment, Notes, Place, Registration, Repository};

/// Segments up to this size are read whole; of larger ones the facts must do.
const READ_BYTES_MAX: u32 = 64 << 20;

/// The facts of how many segments are kept: those of all that a plan asks, as a rule.
const FACTS_KEPT: usize = 32_768;

/// How many segments at the end of a run are asked for the last moment that they prove.
const MOMENT_SEGMENTS_MAX: usize = 4096;

/// The WAL of a cluster, as a restore's plan sees it.
#[derive(Debug)]
pub struct Archive<'a> {
    repository: &'a Repository,
    place: &'a Place,
    wal: ArchivedWal,
    /// Segments that summaries say are there.
    claimed: Vec<Stretch>,
    /// Which segments hold what is rare.
    notes: Notes,
    /// What was found in segments, by their names.
    facts: Mutex<BTreeMap<String, Option<Found>>>,
    /// Those of the claimed segments that were listed since, there or not.
    proven: Mutex<ArchivedWal>,
    /// Segments that turned out not to be there.
    vanished: Mutex<BTreeSet<(TimelineId, SegmentNo)>>,
    /// What could not be read, in words, and which segment it is.
    damaged: Mutex<BTreeMap<String, Option<(TimelineId, SegmentNo)>>>,
}

/// A record at which recovery can stop, or that it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Where the record begins.
    pub begin: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// What it is.
    pub what: What,
}

/// What a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A transaction ended.
    End {
        /// Its number.
        xid: u32,
        /// Whether it committed.
        is_commit: bool,
        /// When.
        time: Option<Timestamp>,
    },
    /// A restore point.
    Point {
        /// Its name.
        name: String,
        /// When it was made.
        time: Option<Timestamp>,
    },
    /// Anything else.
    Other,
}

/// What becomes of a record that is cut by its segment's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Crossing {
    /// It is whole with the next segment.
    Mark(Mark),
    /// It was lost in a crash.
    Lost,
    /// One of the segments does not tell.
    Unknown,
}

impl Mark {
    fn of(record: &Record<'_>, format: Format) -> Self {
        let what = match (Xact::parse(record, format), XlogEvent::parse(record, format)) {
            (Ok(Some(xact)), _) => What::End {
                xid: xact.xid,
                is_commit: xact.outcome == Outcome::Commit,
                time: xact.time,
            },
            (_, Ok(Some(XlogEvent::RestorePoint(point)))) => {
                What::Point { name: point.name().into_owned(), time: point.time }
            }
            _ => What::Other,
        };
        Self { begin: Lsn(record.lsn), end: Lsn(record.end_lsn), what }
    }
}

/// A reader of a segment of the archive, if its format is known.
fn reader(content: &[u8], timeline: TimelineId) -> Option<Reader<&[u8]>> {
    let header = SegmentHeader::parse(content).ok()?;
    Reader::new(content, &header, timeline.get()).ok()
}

impl<'a> Archive<'a> {
    /// Lists the archive.
    ///
    /// # Errors
    /// As the repository's.
    pub fn read(
        ctx: &Ctx,
        repository: &'a Repository,
        place: &'a Place,
        registration: &Registration,
    ) -> Result<Self> {
        let survey = repository.survey(ctx, place, registration)?;
        let unreadable = survey.unreadable.into_iter().map(|what| (what, None));
        let damaged = Mutex::new(unreadable.collect());
        let proven = Mutex::new(ArchivedWal::new(survey.wal.segment_size()));
        let (wal, claimed, notes) = (survey.wal, survey.claimed, survey.notes);
        let (facts, vanished) = (Mutex::default(), Mutex::default());
        Ok(Self { repository, place, wal, claimed, notes, facts, proven, vanished, damaged })
    }

    /// Which segments hold what is rare.
    #[must_use]
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Hands on segments whose facts will be asked for, and reads those of a few ahead, side by side.
    pub(super) fn ahead<'s>(
        &'s self,
        segments: impl Iterator<Item = (TimelineId, SegmentNo)> + 's,
    ) -> impl Iterator<Item = (TimelineId, SegmentNo)> + 's {
        // What cannot be read is asked for again by whoever comes to it, and told then.
        let read = |(timeline, number): &(TimelineId, SegmentNo)| {
            let name = self.wal.name(*timeline, *number);
            if !self.facts().contains_key(&name)
                && let Some(key) = self.place.wal(&name)
                && let Ok(facts) = self.repository.wal_facts(Kind::Wal, &key)
            {
                self.keep(name, facts.found);
            }
        };
        ahead(segments, read).map(|(segment, ())| segment)
    }

    fn facts(&self) -> MutexGuard<'_, BTreeMap<String, Option<Found>>> {
        self.facts.lock().expect("no holder of this lock panics")
    }

    fn keep(&self, name: String, found: Option<Found>) {
        let mut facts = self.facts();
        if facts.len() >= FACTS_KEPT {
            facts.clear();
        }
        facts.insert(name, found);
    }

    /// Lists the segments of a run of which only a summary says that they are there. False when some are
    /// not.
    ///
    /// # Errors
    /// As the repository's.
    pub(super) fn prove(&self, ctx: &Ctx, run: &Run) -> Result<bool> {
        let mut proven = self.proven.lock().expect("no holder of this lock panics");
        let pairs = run.stretches.iter().flat_map(|needed| {
            self.claimed.iter().filter_map(|claim| {
                let (first, last) = (needed.first.max(claim.first), needed.last.min(claim.last));
                let is_common = needed.timeline == claim.timeline && first <= last;
                is_common.then_some(Stretch { first, last, ..*claim })
            })
        });
        let asked: Vec<Stretch> = pairs.flat_map(|common| proven.missing(common)).collect();
        let truth = self.repository.list_stretches(ctx, self.place, self.segment_size(), &asked)?;
        asked.iter().for_each(|stretch| proven.add_stretch(*stretch));
        let missing = asked.iter().flat_map(|stretch| truth.missing(*stretch));
        let missing: Vec<Stretch> = missing.collect();
        let mut vanished = self.vanished.lock().expect("no holder of this lock panics");
        vanished.extend(missing.iter().flat_map(Stretch::segments));
        Ok(missing.is_empty())
    }

    /// What is archived.
    #[must_use]
    pub fn wal(&self) -> &ArchivedWal {
        &self.wal
    }

    /// Adds a record that recovery does not pass, in a segment of this timeline.
    pub fn add_barrier(&mut self, timeline: TimelineId, lsn: Lsn) {
        self.wal.add_barrier(timeline, lsn);
    }

    /// The size of the segments.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        self.wal.segment_size()
    }

    /// The newest timeline that the archive knows.
    #[must_use]
    pub fn newest_timeline(&self) -> Option<TimelineId> {
        self.wal.timelines().last().copied()
    }

    /// The history of a timeline.
    ///
    /// # Errors
    /// [`Error::Refused`] when the archive does not have it.
    pub fn history(&self, timeline: TimelineId) -> Result<History> {
        self.wal.history(timeline).ok_or_else(|| Error::Refused {
            what: format!(
                "the archive has no {}: recovery would end on an older timeline",
                timeline.history_file_name()
            ),
        })
    }

    /// Where the valid records of a run end.
    ///
    /// # Errors
    /// As the repository's.
    pub fn end_of(&self, run: &Run) -> Result<Lsn> {
        Ok(self.repository.end_of(self.place, run)?)
    }

    /// What `archive-push` found in a segment. One small request, once.
    ///
    /// # Errors
    /// As the repository's.
    pub fn found(&self, name: &str) -> Result<Option<Found>> {
        if let Some(found) = self.facts().get(name) {
            return Ok(found.clone());
        }
        let key = self.place.wal(name).ok_or_else(|| Error::Refused {
            what: format!("{name} is not the name of a segment"),
        })?;
        match self.repository.wal_facts(Kind::Wal, &key) {
            Ok(facts) => {
                self.keep(name.into(), facts.found.clone());
                Ok(facts.found)
            }
            Err(error) => self.unless_damaged(error, name),
        }
    }

    /// What was found in a segment of a run, of this history only: an ancestor's last segment is read
    /// up to the switch, where the facts speak of all of it.
    ///
    /// # Errors
    /// As the repository's.
    pub fn found_in(
        &self,
        run: &Run,
        (timeline, number): (TimelineId, SegmentNo),
    ) -> Result<Option<Found>> {
        let found = self.found(&self.wal.name(timeline, number))?;
        let is_last = run.segments().next_back() == Some((timeline, number));
        let goes_on = found.as_ref().and_then(|found| found.end).is_some_and(|end| end > run.end);
        if !(is_last && goes_on) {
            return Ok(found);
        }
        let Some(mut found) = found else { return Ok(None) };
        (found.commits, found.aborts, found.cut) = (0, 0, None);
        (found.earliest, found.latest) = (None, None);
        let is_known = self.each_mark((timeline, number), |mark| {
            if let What::End { is_commit, time, .. } = mark.what
                && mark.begin < run.end
            {
                found.commits += u64::from(is_commit);
                found.aborts += u64::from(!is_commit);
                found.earliest =
                    found.earliest.map_or(time, |earliest| time.map(|t| t.min(earliest)));
                found.latest = found.latest.max(time);
            }
        })?;
        if found.last_checkpoint_lsn.is_none_or(|lsn| lsn >= run.end) {
            (found.last_checkpoint, found.last_checkpoint_lsn) = (None, None);
        }
        found.restore_points.retain(|point| point.lsn <= run.end);
        found.end = Some(run.end);
        Ok(is_known.then_some(found))
    }

    /// One damaged or vanished object must not stand in the way of targets that do not need it; recovery
    /// stops at it if it does.
    fn unless_damaged<T>(&self, error: repo::Error, name: &str) -> Result<Option<T>> {
        let segment = || {
            let name = SegmentName::parse(name.as_bytes()).ok()?;
            Some((name.timeline(), name.number(self.segment_size()).ok()?))
        };
        match error {
            error if error.is_not_found() => {
                let mut vanished = self.vanished.lock().expect("no holder of this lock panics");
                vanished.extend(segment());
                Ok(None)
            }
            error @ (repo::Error::Corrupt { .. } | repo::Error::UnknownKey { .. }) => {
                let mut damaged = self.damaged.lock().expect("no holder of this lock panics");
                damaged.insert(error.to_string(), segment());
                Ok(None)
            }
            error => Err(error.into()),
        }
    }

    /// Reads a segment and calls `each` with every record that lies whole in it. False when nobody
    /// knows what is in it: it is damaged, of an unknown format, or too large to be read for a plan.
    ///
    /// # Errors
    /// As the repository's.
    pub fn each_mark(
        &self,
        segment: (TimelineId, SegmentNo),
        mut each: impl FnMut(&Mark),
    ) -> Result<bool> {
        let Some(content) = self.content(segment)? else { return Ok(false) };
        let Some(mut reader) = reader(&content, segment.0) else { return Ok(false) };
        let format = reader.format();
        while let Some(record) = reader.read_next() {
            each(&Mark::of(&record, format));
        }
        Ok(true)
    }

    /// The record that begins in a segment and ends in the next, which is in the facts of neither.
    ///
    /// # Errors
    /// As the repository's.
    pub fn crossing(
        &self,
        segment: (TimelineId, SegmentNo),
        next: (TimelineId, SegmentNo),
    ) -> Result<Crossing> {
        let (Some(first), Some(second)) = (self.content(segment)?, self.content(next)?) else {
            return Ok(Crossing::Unknown);
        };
        let Some(mut reader) = reader(&first, segment.0) else { return Ok(Crossing::Unknown) };
        while reader.read_next().is_some() {}
        let header = SegmentHeader::parse(&second).ok();
        let joined = header.and_then(|header| joined(&reader, &second, &header, next.0.get()));
        Ok(match joined {
            None => Crossing::Unknown,
            Some(Joined::Lost) => Crossing::Lost,
            Some(Joined::Record(joined)) => {
                Crossing::Mark(Mark::of(&joined.record(), joined.format()))
            }
        })
    }

    /// A segment, where it can be read for a plan.
    fn content(&self, segment: (TimelineId, SegmentNo)) -> Result<Option<Vec<u8>>> {
        if self.segment_size().bytes() > READ_BYTES_MAX {
            return Ok(None);
        }
        let name = self.wal.name(segment.0, segment.1);
        let Some(key) = self.place.wal(&name) else { return Ok(None) };
        match self.repository.get_wal(Kind::Wal, &key) {
            Ok((_, content)) => Ok(Some(content)),
            Err(error) => self.unless_damaged(error, &name),
        }
    }

    /// The latest moment that a run of segments proves, by a commit or a checkpoint, walking back
    /// from its end; `None` when none of them names one.
    ///
    /// # Errors
    /// As the repository's.
    pub fn last_moment(&self, ctx: &Ctx, run: &Run) -> Result<Option<Timestamp>> {
        let mut newest = NewestMoment::default();
        for segment in self.ahead(run.segments().rev().take(MOMENT_SEGMENTS_MAX)) {
            ctx.cancel.check()?;
            let Some(found) = self.found_in(run, segment)? else { continue };
            if !newest.goes_on_before(&found) {
                break;
            }
        }
        Ok(newest.moment())
    }

    /// Takes what was found damaged or vanished for missing from here on; whether that changes anything.
    pub(super) fn set_aside(&mut self) -> bool {
        let vanished = self.vanished.get_mut().expect("no holder of this lock panics");
        let mut is_new = false;
        for (timeline, number) in std::mem::take(vanished) {
            is_new |= self.wal.has(timeline, number);
            self.wal.set_missing(timeline, number);
        }
        let damaged = self.damaged.get_mut().expect("no holder of this lock panics");
        for (timeline, number) in damaged.values().flatten() {
            if self.wal.has(*timeline, *number) {
                self.wal.set_damaged(*timeline, *number);
                is_new = true;
            }
        }
        is_new
    }

    /// What stops recovery at a hole, in words.
    pub(super) fn describe(&self, hole: &Stretch) -> String {
        if self.wal.is_damaged(hole.timeline, hole.first) {
            return format!("{} is damaged", self.wal.name(hole.timeline, hole.first));
        }
        let what = self.wal.describe(hole);
        match self.wal.is_given_up(hole.timeline, hole.first) {
            true => format!("{what} was removed by expire"),
            false => format!("{what} is missing"),
        }
    }

    /// What was found damaged on the way.
    #[must_use]
    pub fn damaged(&self) -> Vec<String> {
        self.damaged.lock().expect("no holder of this lock panics").keys().cloned().collect()
    }
}
