//! Where a restore point or a transaction's end lies, and which backup leads there.
//!
//! Recovery stops at the first record that fits, counted from the backup that it begins with. So the
//! backups are tried from the newest back, each with the first record that recovery from it would
//! meet; a name that was used twice leads to its newest use that a backup comes before.

use super::error::{Error, Result};
use super::options::Options;
use super::reach::{Archive, Crossing, Mark, What};
use super::replayed::ALL_ASKED_MAX;
use super::target::Target;
use crate::base::{Ctx, Timestamp};
use crate::pg::wal::RM_XACT;
use crate::pg::{History, Lsn, Run, SegmentNo, TimelineId};
use crate::repo::{Cut, Found, Summary};

/// How many segments are asked at most whether they hold what is looked for.
pub(super) const SEARCH_SEGMENTS_MAX: usize = 20_000;

/// How many segments are read at most to see which of them holds a transaction's end.
const READ_SEGMENTS_MAX: usize = 64;

/// A record at which recovery stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    /// Where the record begins.
    pub begin: Lsn,
    /// Where it ends; where that is not known, the end of its segment.
    pub end: Lsn,
    /// Its time.
    pub time: Option<Timestamp>,
    /// Whether the record was seen, or only that it may be there.
    pub is_exact: bool,
}

impl Spot {
    /// Up to where recovery replays: the backup must be consistent there, or the server does not start.
    /// A restore point is always stopped at from behind.
    fn reached(&self, target: &Target, inclusive: bool) -> Lsn {
        let is_before = matches!(target, Target::Xid(_)) && !inclusive && self.is_exact;
        if is_before { self.begin } else { self.end }
    }
}

/// What a search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Search {
    /// This backup, by its place in the list, leads to it.
    Found(usize, Spot),
    /// It is there, but before the first consistent point of every backup that leads there.
    TooEarly(Spot),
    /// It is in none of the segments that a backup leads to.
    Nowhere,
    /// Not in the newest segments, as many as are asked.
    GaveUp,
}

/// Looks for a name or a transaction along a history, from the newest of `backups` back to the
/// oldest.
pub(super) fn search(
    ctx: &Ctx,
    archive: &Archive<'_>,
    history: &History,
    backups: &[&Summary],
    options: &Options,
) -> Result<Search> {
    // Of a name, a long archive's notes tell where it cannot be.
    let is_long =
        |backup: &&Summary| archive.wal().run(history, backup.start_lsn).count() > ALL_ASKED_MAX;
    let is_guided = matches!(options.target, Target::Name(_))
        && archive.notes().points().is_some()
        && backups.iter().any(is_long);
    let search = |how| search_in(ctx, archive, history, backups, options, how);
    // Reading boundaries costs two segments each: only for what the facts do not know. So a name that was
    // used before, on a boundary, is not seen behind a use that they do know.
    let found = search(How { boundaries: false, is_guided })?;
    if matches!(found, Search::Found(..) | Search::GaveUp) {
        return Ok(found);
    }
    match search(How { boundaries: true, is_guided })? {
        // A note may be lost: that a name is nowhere, only facts prove.
        Search::Nowhere if is_guided => search(How { boundaries: true, is_guided: false }),
        found => Ok(found),
    }
}

/// How segments are looked at.
#[derive(Clone, Copy)]
struct How {
    /// Whether records that go on in the next segment are looked at too.
    boundaries: bool,
    /// Whether only the segments that are noted are.
    is_guided: bool,
}

fn search_in(
    ctx: &Ctx,
    archive: &Archive<'_>,
    history: &History,
    backups: &[&Summary],
    options: &Options,
    how: How,
) -> Result<Search> {
    let (target, boundaries) = (&options.target, how.boundaries);
    let mut looking = Looking { archive, target, boundaries, asked: 0, read: 0, is_skipped: false };
    let mut first: Option<Spot> = None;
    // From here on, everything was walked already.
    let mut walked = Lsn(u64::MAX);
    for (i, backup) in backups.iter().enumerate().rev() {
        let run = archive.wal().run(history, backup.start_lsn);
        // Behind a hole, recovery from this backup never gets to what was found.
        if run.end < walked {
            first = None;
        }
        let part = Part { from: backup.start_lsn, until: walked.min(run.end) };
        let size = archive.segment_size();
        let is_in = |number: SegmentNo| number.begin(size).is_some_and(|begin| begin < part.until);
        let points = archive.notes().points().filter(|_| how.is_guided);
        let segments = run.segments().take_while(|(_, number)| is_in(*number));
        let wanted =
            segments.filter(|segment| points.is_none_or(|points| points.has(segment.0, segment.1)));
        for segment in archive.ahead(wanted) {
            ctx.cancel.check()?;
            match looking.in_segment(segment, &part, next_in(&run, segment))? {
                Looked::There(spot) => {
                    first = Some(spot);
                    break;
                }
                Looked::NotThere => {}
                Looked::Enough => return Ok(Search::GaveUp),
            }
        }
        walked = backup.start_lsn;
        let needed = |spot: &Spot| spot.reached(target, options.inclusive);
        if let Some(spot) = first.clone().filter(|spot| backup.stop_lsn <= needed(spot)) {
            return Ok(Search::Found(i, spot));
        }
    }
    Ok(match first {
        Some(first) => Search::TooEarly(first),
        None if looking.is_skipped => Search::GaveUp,
        None => Search::Nowhere,
    })
}

/// The segment behind one, in a run.
fn next_in(
    run: &Run,
    (timeline, number): (TimelineId, SegmentNo),
) -> Option<(TimelineId, SegmentNo)> {
    let own = run.stretches.iter().position(|stretch| {
        stretch.timeline == timeline && (stretch.first..=stretch.last).contains(&number)
    })?;
    if run.stretches.get(own)?.last > number {
        return Some((timeline, number.next()?));
    }
    run.stretches.get(own + 1).map(|next| (next.timeline, next.first))
}

/// A part of the WAL: records that begin in it.
struct Part {
    from: Lsn,
    until: Lsn,
}

impl Part {
    fn holds(&self, begin: Lsn) -> bool {
        self.from <= begin && begin < self.until
    }
}

enum Looked {
    There(Spot),
    NotThere,
    Enough,
}

struct Looking<'a> {
    archive: &'a Archive<'a>,
    target: &'a Target,
    /// Whether records that go on in the next segment are looked at too.
    boundaries: bool,
    asked: usize,
    read: usize,
    /// Whether one was not looked at that might be it.
    is_skipped: bool,
}

impl Looking<'_> {
    fn in_segment(
        &mut self,
        segment: (TimelineId, SegmentNo),
        part: &Part,
        next: Option<(TimelineId, SegmentNo)>,
    ) -> Result<Looked> {
        if self.asked >= SEARCH_SEGMENTS_MAX {
            return Ok(Looked::Enough);
        }
        self.asked += 1;
        let name = self.archive.wal().name(segment.0, segment.1);
        let Some(found) = self.archive.found(&name)? else { return Ok(Looked::NotThere) };
        let spot = match self.target {
            Target::Name(name) => self.point(segment, part, &found, name)?,
            Target::Xid(xid) => self.end_of(low(*xid), segment, part, &found)?,
            _ => None,
        };
        // What goes on in the next segment is in the findings of neither.
        let spot = match (spot, next) {
            (None, Some(next)) if self.boundaries => self.across(segment, next, part, &found)?,
            (spot, _) => spot,
        };
        Ok(spot.map_or(Looked::NotThere, Looked::There))
    }

    fn point(
        &self,
        segment: (TimelineId, SegmentNo),
        part: &Part,
        found: &Found,
        name: &str,
    ) -> Result<Option<Spot>> {
        // Where it begins is not recorded, and not needed: recovery stops after it.
        let begin = |end: Lsn| end.checked_sub(1).unwrap_or(end);
        let mut points = found.restore_points.iter();
        if let Some(point) = points.find(|p| p.name == name && part.holds(begin(p.lsn))) {
            let (begin, end, time) = (begin(point.lsn), point.lsn, point.time);
            return Ok(Some(Spot { begin, end, time, is_exact: true }));
        }
        if found.restore_points_more == 0 {
            return Ok(None);
        }
        // The facts name the first ones only.
        let mut spot = None;
        self.archive.each_mark(segment, |mark| match &mark.what {
            What::Point { name: found, time }
                if found == name && spot.is_none() && part.holds(mark.begin) =>
            {
                spot = Some(seen(mark, *time));
            }
            _ => {}
        })?;
        Ok(spot)
    }

    fn end_of(
        &mut self,
        wanted: u32,
        segment: (TimelineId, SegmentNo),
        part: &Part,
        found: &Found,
    ) -> Result<Option<Spot>> {
        if may_hold(found, wanted) {
            let mut spot = None;
            let mut is_known = false;
            if self.read < READ_SEGMENTS_MAX {
                self.read += 1;
                is_known = self.archive.each_mark(segment, |mark| match mark.what {
                    What::End { xid, time, .. }
                        if xid == wanted && spot.is_none() && part.holds(mark.begin) =>
                    {
                        spot = Some(seen(mark, time));
                    }
                    _ => {}
                })?;
            }
            if spot.is_some() {
                return Ok(spot);
            }
            if !is_known {
                let (begin, end) = self.bounds(segment.1, found)?;
                return Ok(Some(Spot { begin, end, time: None, is_exact: false }));
            }
        }
        Ok(None)
    }

    /// Whether the record that crosses into the next segment is it.
    fn across(
        &mut self,
        segment: (TimelineId, SegmentNo),
        next: (TimelineId, SegmentNo),
        part: &Part,
        found: &Found,
    ) -> Result<Option<Spot>> {
        let end = segment.1.end(self.archive.segment_size()).unwrap_or_default();
        let cut = found.cut.as_ref().filter(|cut| part.holds(cut.lsn));
        let Some(cut) = cut.filter(|cut| self.may_be(cut, end)) else { return Ok(None) };
        let inexact = match self.target {
            Target::Xid(xid) => cut.rmgr == Some(RM_XACT) && cut.xid == Some(low(*xid)),
            _ => false,
        };
        let inexact =
            inexact.then_some(Spot { begin: cut.lsn, end: cut.lsn, time: None, is_exact: false });
        if self.read >= READ_SEGMENTS_MAX {
            self.is_skipped |= inexact.is_none();
            return Ok(inexact);
        }
        self.read += 1;
        Ok(match self.archive.crossing(segment, next)? {
            Crossing::Mark(mark) => self.is_it(&mark.what).map(|time| seen(&mark, time)),
            Crossing::Lost => None,
            Crossing::Unknown => inexact,
        })
    }

    /// Whether a record that is cut may be it, as far as its beginning tells.
    fn may_be(&self, cut: &Cut, end: Lsn) -> bool {
        match self.target {
            Target::Name(_) => cut.may_be_a_point(end.0.saturating_sub(cut.lsn.0)),
            // The end of a prepared transaction has no number of its own.
            Target::Xid(xid) => {
                cut.rmgr.is_none_or(|id| id == RM_XACT)
                    && cut.xid.is_none_or(|found| found == 0 || found == low(*xid))
            }
            _ => false,
        }
    }

    /// The time of what is looked for, if this is it.
    fn is_it(&self, what: &What) -> Option<Option<Timestamp>> {
        match (self.target, what) {
            (Target::Name(wanted), What::Point { name, time }) if name == wanted => Some(*time),
            (Target::Xid(wanted), What::End { xid, time, .. }) if *xid == low(*wanted) => {
                Some(*time)
            }
            _ => None,
        }
    }

    fn bounds(&self, number: SegmentNo, found: &Found) -> Result<(Lsn, Lsn)> {
        let size = self.archive.segment_size();
        let begin = number.begin(size).zip(number.end(size)).ok_or_else(|| Error::Refused {
            what: format!("segment {number} lies beyond the end of the numbering"),
        })?;
        Ok((begin.0, found.end.unwrap_or(begin.1)))
    }
}

/// The number without its epoch, as records have it.
fn low(xid: u64) -> u32 {
    (xid & 0xFFFF_FFFF) as u32
}

fn seen(mark: &Mark, time: Option<Timestamp>) -> Spot {
    Spot { begin: mark.begin, end: mark.end, time, is_exact: true }
}

/// Whether a transaction may have ended in a segment, in the circular order of 32 bits.
fn may_hold(found: &Found, xid: u32) -> bool {
    let (Some(min), Some(max)) = (found.xid_min, found.xid_max) else { return false };
    xid.wrapping_sub(min) <= max.wrapping_sub(min)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A standby's backup can be consistent just where a commit ends: to stop before that commit, recovery
    /// must begin with an older one, or the server dies ("before consistent recovery point").
    #[test]
    fn d20261120_before_a_transaction_means_consistent_where_it_begins() {
        let spot = |is_exact| Spot { begin: Lsn(100), end: Lsn(150), time: None, is_exact };
        let (xid, name) = (Target::Xid(7), Target::Name("x".into()));
        assert_eq!(spot(true).reached(&xid, true), Lsn(150));
        assert_eq!(spot(true).reached(&xid, false), Lsn(100));
        assert_eq!(spot(true).reached(&name, false), Lsn(150));
        assert_eq!(spot(false).reached(&xid, false), Lsn(150), "a segment's bounds");
    }

    #[test]
    fn a_number_is_looked_for_in_the_circular_order_of_32_bits() {
        let mut found: Found = serde_json::from_str(r#"{"read":true,"ending":"full"}"#).unwrap();
        assert!(!may_hold(&found, 5), "nothing ended in it");
        for (min, max, inside, outside) in [
            (10, 20, [10, 15, 20], [9, 21, 3]),
            (u32::MAX - 1, 5, [u32::MAX - 1, u32::MAX, 5], [6, u32::MAX - 2, 1000]),
        ] {
            (found.xid_min, found.xid_max) = (Some(min), Some(max));
            assert!(inside.iter().all(|xid| may_hold(&found, *xid)), "{min} to {max}");
            assert!(!outside.iter().any(|xid| may_hold(&found, *xid)), "{min} to {max}");
        }
    }
}
