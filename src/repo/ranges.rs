//! Ranges of WAL: which segments a timeline has, in one small object, so that a million names are not
//! listed a thousand at a time by whoever wants to know (FORMAT.md, section 7).
//!
//! Derived. A reader lists what lies before a range and behind the last, and looks at every hole: a segment
//! that came late is seen. One that went since is not; whoever depends on it lists it for real.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::layout::{Kind, Place};
use super::newest::Unreadable;
use super::repository::{Repository, parse_line};
use crate::base::{AT_ONCE, Ctx, side_by_side};
use crate::pg::{ArchivedWal, SegmentName, SegmentNo, SegmentSize, Stretch, TimelineId};
use crate::storage::{ObjectKey, ObjectMeta, each_page_after};

/// A summary is written when this many segments of a timeline are in none: two pages of a list.
const UNCOVERED_MAX: u64 = 2_000;

/// Beside how many names of no segment a summary leaves out the segments, so that readers list there.
const MISFITS_MAX: usize = 64;

/// No summary is longer: a million holes.
const TEXT_MAX: usize = 1 << 27;

/// Names in a page of a list.
pub(super) const PAGE: usize = 1000;

/// After how many pages one after the other it is found out how much more there is.
const PAGES_MAX: usize = 8;

/// Segments without a hole, by their names.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    first: String,
    last: String,
}

/// The runs of each timeline that has a summary.
type Ranges = BTreeMap<TimelineId, Vec<Stretch>>;

/// The archived segments.
#[derive(Debug)]
pub(super) struct Listed {
    /// Listed, and taken from summaries.
    pub wal: ArchivedWal,
    /// What summaries say only.
    pub claimed: Vec<Stretch>,
    /// Summaries that cannot be read.
    pub unreadable: Unreadable,
    known: Ranges,
}

/// The segment that a name below the archive's prefix is of; nothing else was put by pgkeep.
pub(super) fn segment_of<'k>(place: &Place, key: &'k ObjectKey) -> Option<&'k str> {
    let name = key.last_component();
    (place.wal(name).as_ref() == Some(key)).then_some(name)
}

fn add_page(place: &Place, page: &[ObjectMeta], wal: &mut ArchivedWal) {
    page.iter().filter_map(|meta| segment_of(place, &meta.key)).for_each(|name| wal.add(name));
}

pub(super) fn parse(name: &str, size: SegmentSize) -> Option<(TimelineId, SegmentNo)> {
    let parsed = SegmentName::parse(name.as_bytes()).ok()?;
    Some((parsed.timeline(), parsed.number(size).ok()?))
}

/// The part of sorted runs that lies behind a segment, and the holes in it.
fn behind(runs: &[Stretch], number: SegmentNo) -> (Vec<Stretch>, Vec<Stretch>) {
    let (mut rest, mut holes) = (Vec::new(), Vec::new());
    let mut next = number.0.saturating_add(1);
    for run in runs.iter().filter(|run| run.last > number) {
        let first = SegmentNo(run.first.0.max(next));
        if first.0 > next {
            let (first, last) = (SegmentNo(next), SegmentNo(first.0 - 1));
            holes.push(Stretch { first, last, ..*run });
        }
        rest.push(Stretch { first, ..*run });
        next = run.last.0.saturating_add(1);
    }
    (rest, holes)
}

impl Repository {
    /// Reads the newest summary of each timeline that can be read. One request, and one for each.
    fn ranges(&self, ctx: &Ctx, place: &Place, size: SegmentSize) -> Result<(Ranges, Unreadable)> {
        let mut names: BTreeMap<TimelineId, Vec<(SegmentNo, ObjectKey)>> = BTreeMap::new();
        let (listed, mut unreadable) = self.list_summaries(&place.ranges_prefix())?;
        for meta in listed.into_iter().rev() {
            let name = meta.key.last_component();
            if let Some((timeline, last)) = parse(name, size)
                && place.ranges(name).as_ref() == Some(&meta.key)
            {
                names.entry(timeline).or_default().push((last, meta.key));
            }
        }
        let names: Vec<_> = names.into_iter().collect();
        let read = side_by_side(&names, |(timeline, names)| {
            self.newest_summary(ctx, names, |(last, key)| {
                self.read_ranges(key, (*timeline, *last), size)
            })
        })?;
        let mut ranges = Ranges::new();
        for ((timeline, _), newest) in names.iter().zip(read) {
            ranges.extend(newest.found.map(|runs| (*timeline, runs)));
            unreadable.extend(newest.unreadable);
        }
        Ok((ranges, unreadable))
    }

    fn read_ranges(
        &self,
        key: &ObjectKey,
        (timeline, last): (TimelineId, SegmentNo),
        size: SegmentSize,
    ) -> Result<Vec<Stretch>> {
        let mut text = Vec::new();
        self.read(Kind::Summary, key)?.rest(TEXT_MAX, &mut text)?;
        let mut runs: Vec<Stretch> = Vec::new();
        for (number, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let line: Line = parse_line(key, number, line)?;
            let (first, last) = (parse(&line.first, size), parse(&line.last, size));
            let run = first.zip(last).filter(|((on, first), (also_on, last))| {
                *on == timeline && also_on == on && first <= last
            });
            let run = run.map(|((_, first), (_, last))| Stretch { timeline, first, last });
            let is_next = |run: &Stretch| runs.last().is_none_or(|before| before.last < run.first);
            let Some(run) = run.filter(is_next) else {
                let why = "it is no run of segments behind the one before";
                return Err(Error::corrupt(key, format!("line {number}"), why));
            };
            runs.push(run);
        }
        if runs.last().is_none_or(|run| run.last != last) {
            return Err(Error::corrupt(key, "lines", "they do not end where the name says"));
        }
        Ok(runs)
    }

    /// The archived segments: what no summary covers is listed, a page at a time, and several at a time where
    /// it is much.
    pub(super) fn list_wal(&self, ctx: &Ctx, place: &Place, size: SegmentSize) -> Result<Listed> {
        let (known, unreadable) = self.ranges(ctx, place, size)?;
        let mut wal = ArchivedWal::new(size);
        let (mut claimed, mut holes) = (Vec::new(), Vec::new());
        let mut after: Option<String> = None;
        let mut pages = 0;
        loop {
            ctx.cancel.check()?;
            let page = self.store().list(&place.all_wal_prefix(), after.as_deref(), PAGE)?;
            add_page(place, &page, &mut wal);
            let Some(last) = page.last().filter(|_| page.len() == PAGE) else { break };
            after = Some(last.key.to_string());
            pages += 1;
            let segment = segment_of(place, &last.key).and_then(|name| parse(name, size));
            let Some((timeline, number)) = segment else { continue };
            let runs = known.get(&timeline).map_or(&[][..], Vec::as_slice);
            let (rest, gaps) = behind(runs, number);
            let through = match rest.last() {
                Some(last) => last.last,
                None if pages < PAGES_MAX => continue,
                None => self.extent(ctx, place, size, (timeline, number))?,
            };
            pages = 0;
            after = place.wal(&wal.name(timeline, through)).map(|key| key.to_string()).or(after);
            if let (true, Some(first)) = (rest.is_empty(), number.next()) {
                let much = Stretch { timeline, first, last: through };
                wal.add_listed(&self.list_stretches(ctx, place, size, &[much])?);
            }
            rest.iter().for_each(|run| wal.add_stretch(*run));
            claimed.extend(rest);
            holes.extend(gaps);
        }
        for late in side_by_side(&holes, |hole| self.list_part(ctx, place, size, *hole))? {
            wal.add_listed(&late);
        }
        Ok(Listed { wal, claimed, unreadable, known })
    }

    /// Lists stretches for real, several pages at a time.
    ///
    /// # Errors
    /// As the store's.
    pub fn list_stretches(
        &self,
        ctx: &Ctx,
        place: &Place,
        size: SegmentSize,
        stretches: &[Stretch],
    ) -> Result<ArchivedWal> {
        let total: u64 = stretches.iter().map(Stretch::count).sum();
        let most = total.div_ceil(AT_ONCE as u64).max(PAGE as u64);
        let mut parts = Vec::new();
        for stretch in stretches {
            let mut first = stretch.first;
            while first <= stretch.last {
                let last = SegmentNo(first.0.saturating_add(most - 1).min(stretch.last.0));
                parts.push(Stretch { first, last, ..*stretch });
                first = SegmentNo(last.0 + 1);
            }
        }
        let mut wal = ArchivedWal::new(size);
        for listed in side_by_side(&parts, |part| self.list_part(ctx, place, size, *part))? {
            wal.add_listed(&listed);
        }
        Ok(wal)
    }

    /// Calls `each` with every page of the segments of a stretch that are there, as the store lists them, in order.
    ///
    /// # Errors
    /// As the store's, and what `each` returns.
    pub fn each_page(
        &self,
        ctx: &Ctx,
        place: &Place,
        size: SegmentSize,
        stretch: Stretch,
        mut each: impl FnMut(Vec<(SegmentNo, ObjectMeta)>) -> Result<()>,
    ) -> Result<()> {
        let names = ArchivedWal::new(size);
        let prefix = place.wal_prefix(stretch.timeline.get());
        let key = |number| place.wal(&names.name(stretch.timeline, number));
        let before = stretch.first.previous().and_then(key);
        let after = before.map_or_else(|| prefix.clone(), |key| key.to_string());
        each_page_after(self.store().as_ref(), &prefix, Some(&after), PAGE, |page| {
            ctx.cancel.check()?;
            let mut is_behind = false;
            let mut found = Vec::with_capacity(page.len());
            for meta in page {
                let segment = segment_of(place, &meta.key).and_then(|name| parse(name, size));
                let Some((_, number)) = segment else { continue };
                is_behind |= number > stretch.last;
                if (stretch.first..=stretch.last).contains(&number) {
                    found.push((number, meta));
                }
            }
            if !found.is_empty() {
                each(found)?;
            }
            Ok(if is_behind { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
    }

    fn list_part(
        &self,
        ctx: &Ctx,
        place: &Place,
        size: SegmentSize,
        part: Stretch,
    ) -> Result<ArchivedWal> {
        let mut wal = ArchivedWal::new(size);
        let prefix = place.wal_prefix(part.timeline.get());
        let key = |number| place.wal(&wal.name(part.timeline, number));
        let Some(last) = key(part.last) else { return Ok(wal) };
        let before = part.first.previous().and_then(key);
        let after = before.map_or_else(|| prefix.clone(), |key| key.to_string());
        let wanted = usize::try_from(part.count()).unwrap_or(PAGE).min(PAGE);
        each_page_after(self.store().as_ref(), &prefix, Some(&after), wanted, |mut page| {
            ctx.cancel.check()?;
            page.truncate(page.partition_point(|meta| meta.key <= last));
            add_page(place, &page, &mut wal);
            // What was cut off lies behind the part.
            let goes_on = page.len() == wanted && page.last().is_some_and(|meta| meta.key < last);
            Ok::<_, Error>(if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(wal)
    }

    /// Writes a summary for each timeline of which many segments are in none; how many. What it says was
    /// listed for real, the older summaries are not believed.
    ///
    /// # Errors
    /// As the store's; nothing depends on it.
    pub fn update_ranges(&self, ctx: &Ctx, place: &Place, size: SegmentSize) -> Result<u64> {
        let listed = self.list_wal(ctx, place, size)?;
        let mut written = 0;
        if listed.unreadable.is_hidden {
            return Ok(written);
        }
        for timeline in listed.wal.timelines() {
            let known = listed.known.get(&timeline).and_then(|runs| runs.last());
            let uncovered = listed.wal.count_behind(timeline, known.map(|run| run.last));
            if uncovered < UNCOVERED_MAX {
                continue;
            }
            let claimed = listed.claimed.iter().filter(|run| run.timeline == timeline).copied();
            let claimed: Vec<Stretch> = claimed.collect();
            let truth = self.list_stretches(ctx, place, size, &claimed)?;
            let mut wal = listed.wal.clone();
            correct(&mut wal, &claimed, &truth);
            leave_out_misfits(&mut wal, timeline);
            let runs: Vec<Stretch> =
                wal.stretches().filter(|run| run.timeline == timeline).collect();
            written += u64::from(self.put_ranges(ctx, place, &wal, &runs)?);
        }
        Ok(written)
    }

    fn put_ranges(
        &self,
        ctx: &Ctx,
        place: &Place,
        wal: &ArchivedWal,
        runs: &[Stretch],
    ) -> Result<bool> {
        let name = |number, run: &Stretch| wal.name(run.timeline, number);
        let last = runs.last().and_then(|run| place.ranges(&name(run.last, run)));
        let Some(key) = last else { return Ok(false) };
        let mut writer = self.buffer(ctx, Kind::Summary, &key)?;
        for run in runs {
            writer.line(&Line { first: name(run.first, run), last: name(run.last, run) })?;
        }
        let (bytes, _) = writer.finish_lines()?;
        match self.put_if_absent(&key, &bytes) {
            // One that cannot be read, perhaps: the next has another name.
            Err(Error::Storage(error)) if error.is_already_exists() => Ok(false),
            other => other.map(|()| true),
        }
    }
}

/// Takes out the segments on both sides of names that fit no segment, for `info` names these: readers look
/// into every hole of a summary. Too many would cost more than they are worth.
fn leave_out_misfits(wal: &mut ArchivedWal, timeline: TimelineId) {
    let per_log = u64::from(wal.segment_size().per_log_id());
    let own = wal.misfits.iter().filter(|name| name.starts_with(&timeline.hex()));
    // Such a name sorts behind all segments of its log file.
    let logs: BTreeSet<u64> = own
        .filter_map(|name| u64::from_str_radix(name.get(8..16)?, 16).ok())
        .take(MISFITS_MAX)
        .collect();
    for behind in logs.into_iter().map(|log| (log + 1).saturating_mul(per_log)) {
        wal.set_missing(timeline, SegmentNo(behind.saturating_sub(1)));
        wal.set_missing(timeline, SegmentNo(behind));
    }
}

/// Has an archive say of claimed stretches what a list of them says; what is not there.
pub(super) fn correct(
    wal: &mut ArchivedWal,
    claimed: &[Stretch],
    truth: &ArchivedWal,
) -> Vec<Stretch> {
    let missing: Vec<Stretch> = claimed.iter().flat_map(|claim| truth.missing(*claim)).collect();
    for (timeline, number) in missing.iter().flat_map(Stretch::segments) {
        wal.set_missing(timeline, number);
    }
    wal.add_listed(truth);
    missing
}
