//! Which moments can be restored: backups and archived WAL, taken together.
//!
//! Nothing here reads WAL: `archive-push` looked when the segment was in its hands, and the facts of a
//! segment are one small request. How many are asked is bounded by the number of windows, never by the
//! number of segments.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::backup_id::BackupId;
use super::catalog::Backups;
use super::error::{Error, Result};
use super::found::{Found, NewestMoment};
use super::keep::Kept;
use super::layout::{Kind, Place};
use super::manifest::Summary;
use super::notes::Notes;
use super::ranges::correct;
use super::records::Registration;
use super::repository::Repository;
use crate::base::{Ctx, Timestamp, ahead, side_by_side};
use crate::pg::{
    ArchivedWal, History, Lsn, Run, SegmentNo, SegmentSize, Start, Stretch, TimelineId,
};

/// How many segments are asked for their newest moment, from the last one back.
const WALK_BACK_MAX: usize = 256;

/// Of how many runs the last segment is asked for side by side.
const KNOWN_MAX: usize = 1024;

/// How many damaged segments are met on the way of one backup, from the end back.
const DAMAGED_MAX: usize = 64;

/// Moments that can be restored, without a hole in between.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Window {
    /// From the end of this backup.
    pub from: Timestamp,
    /// To the newest moment that its WAL proves, by a commit or a checkpoint.
    pub to: Timestamp,
    /// Its WAL proves no moment after the backup's end: that can be restored, and the end of the WAL,
    /// but no time. Both moments are the end's then.
    pub only_end: bool,
    /// Along which timeline.
    pub timeline: TimelineId,
    /// The first backup of the window.
    pub backup: BackupId,
    /// Where that backup becomes consistent.
    pub from_lsn: Lsn,
    /// Where the WAL ends.
    pub to_lsn: Lsn,
    /// The last segment that can be replayed.
    pub last_segment: String,
}

/// What is archived, and what of it cannot be read.
#[derive(Debug)]
pub struct Survey {
    /// Segments and histories.
    pub wal: ArchivedWal,
    /// What expiry decided; what it gave up is not among the segments.
    pub kept: Kept,
    /// Histories, records of expiry and summaries that cannot be read, in words.
    pub unreadable: Vec<String>,
    /// Which segments hold what is rare.
    pub notes: Notes,
    /// Segments that were not listed: a summary says that they are there.
    pub claimed: Vec<Stretch>,
    /// What is wrong with the summaries of ranges, in words; what they say was found out otherwise.
    pub complaints: Vec<String>,
}

impl Summary {
    /// Where recovery from this backup begins.
    #[must_use]
    pub fn start(&self) -> Option<Start> {
        let size = SegmentSize::new(self.server.wal_segment_size.into()).ok()?;
        Some((TimelineId::new(self.timeline)?, SegmentNo::of(self.start_lsn, size)))
    }

    /// Whether recovery along a history can begin with this backup.
    #[must_use]
    pub fn is_on(&self, history: &History) -> bool {
        let timeline = TimelineId::new(self.timeline_stop);
        timeline.is_some_and(|timeline| history.contains_until(timeline, self.stop_lsn))
    }
}

impl Backups {
    /// The windows of every backup, along every end that the archive has.
    ///
    /// # Errors
    /// As the store's.
    pub fn windows(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        place: &Place,
        wal: &ArchivedWal,
    ) -> Result<Vec<Window>> {
        let backups: Vec<&Summary> = self.complete.iter().collect();
        let mut windows = Vec::new();
        for history in repository.tips(place, wal)? {
            windows.extend(repository.windows(ctx, place, &backups, wal, &history)?);
        }
        windows.sort_by_key(|window| (window.from, window.to));
        Ok(windows)
    }
}

impl Repository {
    /// Finds what is archived. One request for a thousand segments that no summary covers, one for each
    /// history.
    ///
    /// # Errors
    /// As the store's.
    pub fn survey(&self, ctx: &Ctx, place: &Place, registration: &Registration) -> Result<Survey> {
        let size = SegmentSize::new(registration.wal_segment_size.into())
            .map_err(|error| Error::Limit(error.to_string()))?;
        let listed = self.list_wal(ctx, place, size)?;
        let (mut wal, mut claimed, complaints) =
            (listed.wal, listed.claimed, listed.unreadable.told);
        let kept = self.kept(ctx, place)?;
        if let Some(keep) = &kept.newest {
            let expired = keep.expired_wal(size);
            // Summaries that were written before say that it is there.
            claimed = claimed.into_iter().flat_map(|claim| expired.missing(claim)).collect();
            wal.give_up(&expired);
        }
        let mut unreadable = kept.unreadable.clone();
        for (number, content) in self.histories(place)? {
            let Some(timeline) = TimelineId::new(number) else { continue };
            match History::parse(timeline, &content) {
                Ok(history) => wal.add_history(history),
                Err(error) => unreadable.push(format!("history of timeline {number}: {error}")),
            }
        }
        let (notes, hidden) = self.notes(ctx, place, &wal)?;
        unreadable.extend(hidden);
        unreadable.extend(self.add_minimals(ctx, place, &notes, &mut wal)?);
        Ok(Survey { wal, kept, unreadable, claimed, complaints, notes })
    }

    /// As [`Repository::survey`], but lists every segment, whatever summaries say of it.
    ///
    /// # Errors
    /// As the store's.
    pub fn survey_by_list(
        &self,
        ctx: &Ctx,
        place: &Place,
        registration: &Registration,
    ) -> Result<Survey> {
        let mut survey = self.survey(ctx, place, registration)?;
        let claimed = std::mem::take(&mut survey.claimed);
        let truth = self.list_stretches(ctx, place, survey.wal.segment_size(), &claimed)?;
        for missing in correct(&mut survey.wal, &claimed, &truth) {
            let what = survey.wal.describe(&missing);
            survey
                .complaints
                .push(format!("a summary says that {what} is archived, and it is not"));
        }
        Ok(survey)
    }

    /// The newest moment that WAL along a history proves, at its very end; nothing where none is known.
    ///
    /// # Errors
    /// As the store's.
    pub fn newest_on(
        &self,
        ctx: &Ctx,
        place: &Place,
        wal: &ArchivedWal,
        history: &History,
    ) -> Result<Option<Timestamp>> {
        let archived = wal.archived_along(history, SegmentNo(0));
        let last = archived.last().and_then(|last| last.first.begin(wal.segment_size()));
        let Some(begin) = last else { return Ok(None) };
        let run = wal.run_to_hole(history, begin);
        let mut damaged = None;
        self.newest_moment(ctx, (place, &Known::new()), wal, &run, &mut damaged)
    }

    /// The histories of every end that the archive has, ascending: of timelines that no other one left,
    /// and of those that have WAL behind the last switch.
    ///
    /// # Errors
    /// As the store's.
    pub fn tips(&self, place: &Place, wal: &ArchivedWal) -> Result<Vec<History>> {
        let timelines = wal.timelines();
        let go_on = side_by_side(&timelines, |timeline| self.goes_on(place, wal, *timeline))?;
        let tips = timelines.into_iter().zip(go_on).filter(|(_, goes_on)| *goes_on);
        Ok(tips.filter_map(|(timeline, _)| wal.history(timeline)).collect())
    }

    /// Whether a timeline has WAL that is on the way to no other one.
    fn goes_on(&self, place: &Place, wal: &ArchivedWal, timeline: TimelineId) -> Result<bool> {
        let Some(left) = wal.left_at(timeline) else { return Ok(true) };
        let Some(last) = wal.last(timeline) else { return Ok(false) };
        match last.cmp(&SegmentNo::of(left, wal.segment_size())) {
            Ordering::Less => Ok(false),
            Ordering::Greater => Ok(true),
            Ordering::Equal => {
                let found = self.proven(place, &wal.name(timeline, last))?;
                Ok(found.found().and_then(|found| found.end).is_some_and(|end| end > left))
            }
        }
    }

    /// The windows along one history, oldest first. A backup that is not on it, or whose own WAL is
    /// not whole, opens none.
    ///
    /// # Errors
    /// As the store's. A segment whose facts are damaged is a hole.
    pub fn windows(
        &self,
        ctx: &Ctx,
        place: &Place,
        backups: &[&Summary],
        wal: &ArchivedWal,
        history: &History,
    ) -> Result<Vec<Window>> {
        let known = self.last_segments(ctx, place, backups, wal, history)?;
        let mut wal = Cow::Borrowed(wal);
        let mut windows: Vec<Window> = Vec::new();
        let mut last_end = None;
        for summary in backups.iter().filter(|backup| backup.is_on(history)) {
            ctx.cancel.check()?;
            // The same end is the same window: the older backup's WAL leads past this one.
            let run = wal.run(history, summary.start_lsn);
            let last_segment = run.names().next_back();
            let is_same = |w: &Window| {
                Some(&w.last_segment) == last_segment.as_ref() && last_end == Some(run.end)
            };
            if windows.last().is_some_and(is_same) {
                continue;
            }
            let sound =
                self.sound_run(ctx, (place, &known), &mut wal, history, summary.start_lsn)?;
            let Some((run, newest)) = sound else { continue };
            let Some(last_segment) = run.names().next_back() else { continue };
            let end = match known.get(&last_segment).cloned() {
                Some(proven) => end_by(&run, proven),
                None => self.end_of(place, &run)?,
            };
            if end < summary.stop_lsn {
                continue;
            }
            last_end = Some(run.end);
            let proven = newest.filter(|newest| *newest >= summary.finished);
            windows.push(Window {
                from: summary.finished,
                to: proven.unwrap_or(summary.finished),
                only_end: proven.is_none(),
                timeline: history.timeline(),
                backup: summary.id.clone(),
                from_lsn: summary.stop_lsn,
                to_lsn: end,
                last_segment,
            });
        }
        Ok(windows)
    }

    /// Where the valid records of a run end: a last segment whose records stop early reaches no
    /// further than they do.
    ///
    /// # Errors
    /// As the store's.
    pub fn end_of(&self, place: &Place, run: &Run) -> Result<Lsn> {
        let Some(last) = run.names().next_back() else { return Ok(run.end) };
        Ok(end_by(run, self.proven(place, &last)?))
    }

    /// What is known of the last segments of the backups' runs. Each is one small request.
    fn last_segments(
        &self,
        ctx: &Ctx,
        place: &Place,
        backups: &[&Summary],
        wal: &ArchivedWal,
        history: &History,
    ) -> Result<Known> {
        let on_it = backups.iter().filter(|backup| backup.is_on(history));
        let last = |backup: &&Summary| wal.run(history, backup.start_lsn).names().next_back();
        let names: BTreeSet<String> = on_it.copied().filter_map(|backup| last(&backup)).collect();
        let names: Vec<String> = names.into_iter().take(KNOWN_MAX).collect();
        let proven = side_by_side(&names, |name| {
            ctx.cancel.check()?;
            self.proven(place, name)
        })?;
        Ok(names.into_iter().zip(proven).collect())
    }

    /// What recovery finds without a hole, and the newest moment that it proves. A damaged segment on the
    /// way is a hole, also for the backups that follow. `None` where too many are.
    fn sound_run(
        &self,
        ctx: &Ctx,
        (place, known): (&Place, &Known),
        wal: &mut Cow<'_, ArchivedWal>,
        history: &History,
        start: Lsn,
    ) -> Result<Option<(Run, Option<Timestamp>)>> {
        for _ in 0..DAMAGED_MAX {
            let run = wal.run(history, start);
            let mut damaged = None;
            let newest = self.newest_moment(ctx, (place, known), wal, &run, &mut damaged)?;
            match damaged {
                None => return Ok(Some((run, newest))),
                Some((timeline, number)) => wal.to_mut().set_damaged(timeline, number),
            }
        }
        Ok(None)
    }

    /// What `archive-push` found in a segment. One small request.
    fn proven(&self, place: &Place, name: &str) -> Result<Proven> {
        let Some(key) = place.wal(name) else { return Ok(Proven::Nothing) };
        match self.wal_facts(Kind::Wal, &key) {
            Ok(facts) => {
                Ok(facts.found.map_or(Proven::Nothing, |found| Proven::Found(Box::new(found))))
            }
            Err(Error::Corrupt { .. } | Error::UnknownKey { .. }) => Ok(Proven::Damaged),
            // Expired since the list was made.
            Err(error) if error.is_not_found() => Ok(Proven::Nothing),
            Err(error) => Err(error),
        }
    }

    /// The newest commit or checkpoint in the last segments of a run; the first damaged one of those that
    /// were asked.
    fn newest_moment(
        &self,
        ctx: &Ctx,
        (place, known): (&Place, &Known),
        wal: &ArchivedWal,
        run: &Run,
        damaged: &mut Option<(TimelineId, SegmentNo)>,
    ) -> Result<Option<Timestamp>> {
        let mut newest = NewestMoment::default();
        let last = run.segments().rev().take(WALK_BACK_MAX);
        let ask = |segment: &(TimelineId, SegmentNo)| {
            let name = wal.name(segment.0, segment.1);
            known.get(&name).cloned().map_or_else(|| self.proven(place, &name), Ok)
        };
        for (segment, asked) in ahead(last, ask) {
            ctx.cancel.check()?;
            let found = match asked? {
                Proven::Found(found) => found,
                Proven::Nothing => continue,
                Proven::Damaged => {
                    *damaged = Some(segment);
                    continue;
                }
            };
            // Of a segment that goes on into another history, only what is before that counts, and
            // the facts do not tell it apart.
            let is_cut = found.end.is_some_and(|end| end > run.end);
            if !is_cut && !newest.goes_on_before(&found) {
                break;
            }
        }
        Ok(newest.moment())
    }
}

/// What is known of some segments, by their names.
type Known = BTreeMap<String, Proven>;

/// Where the valid records of a run end, by what is known of its last segment.
fn end_by(run: &Run, last: Proven) -> Lsn {
    let found = last.found().filter(|found| found.ending == "partial");
    found.and_then(|found| found.end).map_or(run.end, |end| end.min(run.end))
}

/// What is known of a segment.
#[derive(Clone)]
enum Proven {
    Found(Box<Found>),
    /// Its records were not read, or it is gone.
    Nothing,
    Damaged,
}

impl Proven {
    fn found(self) -> Option<Found> {
        match self {
            Self::Found(found) => Some(*found),
            Self::Nothing | Self::Damaged => None,
        }
    }
}
