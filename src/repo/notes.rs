//! Notes of segments that hold what is rare and matters to plans: which these are is told by one list.
//!
//! `archive-push` puts a segment's note before the segment. The note's name says what there is; what exactly,
//! the segment's own facts say, so that a note without its segment, or of another content that was refused,
//! misleads nobody. Where the mark is missing that every segment's note was put, facts are asked instead
//! (FORMAT.md, section 7).

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::found::Found;
use super::layout::{Kind, Place};
use super::ranges::PAGE;
use super::repository::Repository;
use super::text::time_text;
use super::wal_object::WalFacts;
use crate::base::{AT_ONCE, Ctx, Timestamp, side_by_side};
use crate::pg::{ArchivedWal, Lsn, SegmentName, SegmentNo, SegmentSize};
use crate::storage::{ObjectMeta, each_page_after};

/// A change to `wal_level = minimal`.
const MINIMAL: char = 'm';
/// What replay does beside replaying data, or nobody knows what.
const EFFECTS: char = 'e';
/// Restore points.
const POINTS: char = 'p';

/// Of how many segments notes are put again at most: a minute's requests in a bucket.
const REBUILT_MAX: u64 = 20_000;

/// What the object says; the name says it all.
#[derive(Debug, Serialize, Deserialize)]
struct Note<'a> {
    segment: &'a str,
    digest: &'a str,
}

/// The mark that every segment of a place was put after its note.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    #[serde(with = "time_text")]
    since: Timestamp,
}

/// Which segments have what is noted. Facts tell what exactly, and whether the segment is there.
#[derive(Debug, Clone)]
pub struct Notes {
    is_complete: bool,
    minimal: ArchivedWal,
    effects: ArchivedWal,
    points: ArchivedWal,
}

impl Notes {
    fn new(size: SegmentSize) -> Self {
        let [minimal, effects, points] = [(), (), ()].map(|()| ArchivedWal::new(size));
        Self { is_complete: false, minimal, effects, points }
    }

    /// Segments with tablespaces or changes of settings, or of which that is not known. `None` where
    /// others may have some, too.
    #[must_use]
    pub fn effects(&self) -> Option<&ArchivedWal> {
        self.is_complete.then_some(&self.effects)
    }

    /// Segments with restore points, also one that goes on in the next. `None` where others may have some.
    #[must_use]
    pub fn points(&self) -> Option<&ArchivedWal> {
        self.is_complete.then_some(&self.points)
    }

    fn add_listed(&mut self, other: &Self) {
        self.minimal.add_listed(&other.minimal);
        self.effects.add_listed(&other.effects);
        self.points.add_listed(&other.points);
    }

    fn add(&mut self, name: &str) {
        let mut parts = name.split('.');
        let (Some(segment), Some(what)) = (parts.next(), parts.next()) else { return };
        if SegmentName::parse(segment.as_bytes()).is_err() {
            return;
        }
        let sorts = [
            (MINIMAL, &mut self.minimal),
            (EFFECTS, &mut self.effects),
            (POINTS, &mut self.points),
        ];
        for (_, noted) in sorts.into_iter().filter(|(letter, _)| what.contains(*letter)) {
            noted.add(segment);
        }
    }
}

/// The names of segments that cut what is archived into so many parts of about the same number.
fn parted(wal: &ArchivedWal, parts: u64) -> Vec<String> {
    let total: u64 = wal.stretches().map(|stretch| stretch.count()).sum();
    let every = total.div_ceil(parts).max(1);
    let (mut names, mut before) = (Vec::new(), 0_u64);
    for stretch in wal.stretches() {
        // The first in it that is a multiple of `every`, counted from the very first segment.
        let mut skip = before.next_multiple_of(every) - before;
        while skip < stretch.count() {
            names.push(wal.name(stretch.timeline, SegmentNo(stretch.first.0 + skip)));
            skip += every;
        }
        before += stretch.count();
    }
    names
}

impl Found {
    /// Where records begin at which archive recovery stops.
    pub fn minimals(&self) -> impl Iterator<Item = Lsn> + '_ {
        self.parameters.iter().filter(|change| change.is_minimal()).map(|change| change.lsn)
    }

    /// What is worth a note, for a segment of this size; nothing of most.
    fn noted(&self, size: u64) -> String {
        let has_effects = !self.read
            || !self.parameters.is_empty()
            || self.parameters_more > 0
            || !self.tablespaces.is_empty()
            || self.untold_tablespace().is_some();
        let cuts_a_point = self.cut.as_ref().is_some_and(|cut| {
            cut.may_be_a_point(size.saturating_sub(cut.lsn.0.checked_rem(size).unwrap_or(0)))
        });
        let has_points =
            !self.restore_points.is_empty() || self.restore_points_more > 0 || cuts_a_point;
        let sorts = [
            (MINIMAL, self.minimals().next().is_some()),
            (EFFECTS, has_effects),
            (POINTS, has_points),
        ];
        sorts.into_iter().filter(|(_, there)| *there).map(|(letter, _)| letter).collect()
    }
}

impl Repository {
    /// Says that every segment of a place will be put after its note, where none is there yet.
    ///
    /// # Errors
    /// As the store's.
    pub fn promise_notes(&self, ctx: &Ctx, place: &Place) -> Result<()> {
        if !self.store().list(&place.all_wal_prefix(), None, 1)?.is_empty() {
            return Ok(());
        }
        self.put_mark(ctx, place)
    }

    fn put_mark(&self, ctx: &Ctx, place: &Place) -> Result<()> {
        let mark = Mark { since: ctx.clock.now() };
        self.put_same_line(ctx, Kind::Summary, &place.notes_mark(), &mark, "mark")
    }

    /// Where the mark is lost, puts the notes that are missing, by the facts of all segments, and then the
    /// mark; whether it did. Not where that would take long.
    ///
    /// # Errors
    /// As the store's; of a segment whose facts cannot be read. Nothing depends on it.
    pub fn update_notes(&self, ctx: &Ctx, place: &Place, size: SegmentSize) -> Result<bool> {
        match self.read_line::<Mark>(Kind::Summary, &place.notes_mark()) {
            Err(error) if error.is_not_found() => {}
            // One that cannot be read keeps its name.
            Err(error) if error.is_about_one_object() => return Ok(false),
            mark => return mark.map(|_| false),
        }
        // What comes after this list comes after its note.
        let wal = self.list_wal(ctx, place, size)?.wal;
        if wal.stretches().map(|stretch| stretch.count()).sum::<u64>() > REBUILT_MAX {
            return Ok(false);
        }
        let segments: Vec<_> = wal.stretches().flat_map(|stretch| stretch.segments()).collect();
        side_by_side(&segments, |(timeline, number)| {
            ctx.cancel.check()?;
            let Some(key) = place.wal(&wal.name(*timeline, *number)) else { return Ok(()) };
            match self.wal_facts(Kind::Wal, &key) {
                Ok(facts) => self.put_note(ctx, place, &facts),
                Err(error) if error.is_not_found() => Ok(()),
                Err(error) => Err(error),
            }
        })?;
        self.put_mark(ctx, place)?;
        Ok(true)
    }

    /// Puts a segment's note, where its facts ask for one. To be durable before the segment is.
    ///
    /// # Errors
    /// As the store's.
    pub fn put_note(&self, ctx: &Ctx, place: &Place, facts: &WalFacts) -> Result<()> {
        let noted = facts.found.as_ref().map(|found| found.noted(facts.size)).unwrap_or_default();
        // Another content under the same name is refused later; its note must not stand in the way.
        let digest = facts.digest.rsplit(':').next().and_then(|hex| hex.get(..16));
        let key = digest.and_then(|digest| place.note(&facts.name, &noted, digest));
        let Some(key) = key.filter(|_| !noted.is_empty()) else { return Ok(()) };
        let note = Note { segment: &facts.name, digest: &facts.digest };
        // Its name tells its content.
        self.put_same_line(ctx, Kind::Summary, &key, &note, "note")
    }

    /// Lists the notes of a place: a thousand by one request, several at a time where they are many, and the
    /// mark. `wal` is what is archived, listed before. To whom notes are not shown, others may have any; and
    /// why, in words.
    ///
    /// # Errors
    /// As the store's.
    pub fn notes(
        &self,
        ctx: &Ctx,
        place: &Place,
        wal: &ArchivedWal,
    ) -> Result<(Notes, Option<String>)> {
        let is_complete = match self.read_line::<Mark>(Kind::Summary, &place.notes_mark()) {
            Ok(_) => true,
            Err(error) if error.is_about_one_object() => false,
            Err(error) => return Err(error),
        };
        match self.list_notes(ctx, place, wal) {
            Ok(notes) => Ok((Notes { is_complete, ..notes }, None)),
            Err(error) if error.is_about_one_object() => {
                Ok((Notes::new(wal.segment_size()), Some(error.to_string())))
            }
            Err(error) => Err(error),
        }
    }

    fn list_notes(&self, ctx: &Ctx, place: &Place, wal: &ArchivedWal) -> Result<Notes> {
        let prefix = place.notes_prefix();
        let mut notes = Notes::new(wal.segment_size());
        let page = self.store().list(&prefix, None, PAGE)?;
        page.iter().for_each(|meta| notes.add(meta.key.last_component()));
        let Some(first) = page.last().filter(|_| page.len() == PAGE) else { return Ok(notes) };
        // They are cut into parts at names, wherever those are: what lies where changes only how long it takes.
        let first = first.key.to_string();
        let names = parted(wal, AT_ONCE as u64).into_iter().map(|name| format!("{prefix}{name}"));
        let behind = names.filter(|name| *name > first);
        let cuts: Vec<String> = std::iter::once(first.clone()).chain(behind).collect();
        let parts: Vec<_> =
            cuts.iter().enumerate().map(|(i, cut)| (cut.clone(), cuts.get(i + 1))).collect();
        let listed = side_by_side(&parts, |(after, until)| {
            let mut notes = Notes::new(wal.segment_size());
            each_page_after(self.store().as_ref(), &prefix, Some(after), PAGE, |mut page| {
                ctx.cancel.check()?;
                let is_ours =
                    |meta: &ObjectMeta| until.is_none_or(|end| meta.key.as_str() <= end.as_str());
                page.truncate(page.partition_point(is_ours));
                page.iter().for_each(|meta| notes.add(meta.key.last_component()));
                let goes_on = page.len() == PAGE;
                Ok::<_, Error>(if goes_on {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                })
            })?;
            Ok::<_, Error>(notes)
        })?;
        listed.iter().for_each(|part| notes.add_listed(part));
        Ok(notes)
    }

    /// Tells `wal` which positions recovery does not pass, by the facts of the segments that are noted; what
    /// cannot be read, in words.
    pub(super) fn add_minimals(
        &self,
        ctx: &Ctx,
        place: &Place,
        notes: &Notes,
        wal: &mut ArchivedWal,
    ) -> Result<Vec<String>> {
        let stretches: Vec<_> = notes.minimal.stretches().collect();
        let segments: Vec<_> = stretches.iter().flat_map(|each| each.segments()).collect();
        let asked = side_by_side(&segments, |(timeline, number)| {
            ctx.cancel.check()?;
            let Some(key) = place.wal(&wal.name(*timeline, *number)) else { return Ok(Ok(None)) };
            match self.wal_facts(Kind::Wal, &key) {
                Ok(facts) => Ok(Ok(facts.found)),
                Err(error) if error.is_not_found() => Ok(Ok(None)),
                Err(error @ (Error::Corrupt { .. } | Error::UnknownKey { .. })) => {
                    Ok(Err(error.to_string()))
                }
                Err(error) => Err(error),
            }
        })?;
        let mut unreadable = Vec::new();
        for ((timeline, _), found) in segments.into_iter().zip(asked) {
            match found {
                Ok(found) => found
                    .iter()
                    .flat_map(Found::minimals)
                    .for_each(|lsn| wal.add_barrier(timeline, lsn)),
                Err(why) => unreadable.push(why),
            }
        }
        Ok(unreadable)
    }
}
