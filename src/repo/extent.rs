//! How far a timeline's archived segments go on, found out by a few requests, so that a long list of which no
//! summary tells is read side by side.
//!
//! An estimate: whoever goes by it lists for real what lies up to there, and goes on behind it. A store lists
//! forwards only, so the end is felt for: in steps that double, then between the last two.

use super::error::{Error, Result};
use super::layout::Place;
use super::ranges::{PAGE, parse, segment_of};
use super::repository::Repository;
use crate::base::{AT_ONCE, Ctx, ahead, side_by_side};
use crate::pg::{ArchivedWal, SegmentNo, SegmentSize, TimelineId};

/// How often the last step is divided: what is left is listed a page at a time.
const DIVISIONS: usize = 2;

impl Repository {
    /// Up to which segment, behind one that is archived, it is worth to list several pages at a time; that
    /// one itself where little follows.
    pub(super) fn extent(
        &self,
        ctx: &Ctx,
        place: &Place,
        size: SegmentSize,
        (timeline, number): (TimelineId, SegmentNo),
    ) -> Result<SegmentNo> {
        let wal = ArchivedWal::new(size);
        // Something lies behind that distance, and no further behind it than it is from here: one name far
        // away is not the end of a long list.
        let goes_on = |distance: &u64| {
            ctx.cancel.check()?;
            let at = number.0.saturating_add(*distance);
            let Some(key) = place.wal(&wal.name(timeline, SegmentNo(at))) else { return Ok(false) };
            let prefix = place.wal_prefix(timeline.get());
            let next = self.store().list(&prefix, Some(key.as_str()), 1)?;
            let next = next.first().and_then(|meta| segment_of(place, &meta.key));
            let next = next.and_then(|name| parse(name, size));
            Ok::<_, Error>(next.is_some_and(|(_, next)| next.0.saturating_sub(at) <= *distance))
        };
        let steps = (0..u64::BITS).filter_map(|power| (PAGE as u64).checked_mul(1 << power));
        let (mut lower, mut upper) = (0, 0);
        for (step, is_within) in ahead(steps, goes_on) {
            upper = step;
            if !is_within? {
                break;
            }
            lower = step;
        }
        for _ in 0..DIVISIONS {
            let part = (upper - lower) / AT_ONCE as u64;
            if lower == 0 || part < PAGE as u64 {
                break;
            }
            let inner: Vec<u64> = (1..AT_ONCE as u64).map(|i| lower + i * part).collect();
            let within = side_by_side(&inner, goes_on)?;
            let count = within.iter().take_while(|is_within| **is_within).count() as u64;
            (lower, upper) = (lower + count * part, lower + (count + 1) * part);
        }
        Ok(SegmentNo(number.0.saturating_add(lower)))
    }
}
