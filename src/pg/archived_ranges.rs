//! Whole stretches into an archive's ranges and out of them: what was listed elsewhere, or before.

use super::archived_wal::{ArchivedWal, Stretch};
use super::number_ranges::{insert_all, remove, remove_all};
use super::{SegmentNo, TimelineId};

impl ArchivedWal {
    /// Adds every segment of a stretch.
    pub fn add_stretch(&mut self, stretch: Stretch) {
        let ranges = self.timelines.entry(stretch.timeline).or_default();
        insert_all(ranges, stretch.first.0..=stretch.last.0);
    }

    /// Adds what another list has, of the same segment size.
    pub fn add_listed(&mut self, other: &Self) {
        other.stretches().for_each(|stretch| self.add_stretch(stretch));
        for misfit in &other.misfits {
            if !self.misfits.contains(misfit) {
                self.misfits.push(misfit.clone());
            }
        }
    }

    /// Takes a segment out that turns out not to be there.
    pub fn set_missing(&mut self, timeline: TimelineId, number: SegmentNo) {
        if let Some(ranges) = self.timelines.get_mut(&timeline) {
            remove(ranges, number.0);
            if ranges.is_empty() {
                self.timelines.remove(&timeline);
            }
        }
    }

    /// Takes out what expiry has given up, there still or not: it counts as not there, and not as lost.
    pub fn give_up(&mut self, expired: &Self) {
        for stretch in expired.stretches() {
            let gone = stretch.first.0..=stretch.last.0;
            if let Some(ranges) = self.timelines.get_mut(&stretch.timeline) {
                remove_all(ranges, &gone);
            }
            insert_all(self.expired.entry(stretch.timeline).or_default(), gone);
        }
        self.timelines.retain(|_, ranges| !ranges.is_empty());
    }

    /// What was given up, as an archive of its own.
    #[must_use]
    pub fn given_up(&self) -> Self {
        let mut wal = Self::new(self.segment_size());
        wal.timelines.clone_from(&self.expired);
        wal
    }

    /// Whether a segment was given up.
    #[must_use]
    pub fn is_given_up(&self, timeline: TimelineId, number: SegmentNo) -> bool {
        let ranges = self.expired.get(&timeline).map_or(&[][..], Vec::as_slice);
        let at = ranges.partition_point(|range| *range.end() < number.0);
        ranges.get(at).is_some_and(|range| range.contains(&number.0))
    }

    /// What is missing of a stretch and was not given up, in order.
    #[must_use]
    pub fn lost(&self, wanted: Stretch) -> Vec<Stretch> {
        let Some(expired) = self.expired.get(&wanted.timeline) else { return self.missing(wanted) };
        let mut lost = Vec::new();
        for missing in self.missing(wanted) {
            let mut ranges = vec![missing.first.0..=missing.last.0];
            expired.iter().for_each(|gone| remove_all(&mut ranges, gone));
            let stretch = |range: std::ops::RangeInclusive<u64>| Stretch {
                first: SegmentNo(*range.start()),
                last: SegmentNo(*range.end()),
                ..missing
            };
            lost.extend(ranges.into_iter().map(stretch));
        }
        lost
    }

    /// How many segments of a timeline lie behind one, or how many it has.
    #[must_use]
    pub fn count_behind(&self, timeline: TimelineId, behind: Option<SegmentNo>) -> u64 {
        let first = behind.map_or(Some(0), |behind| behind.0.checked_add(1));
        let Some(first) = first else { return 0 };
        let ranges = self.timelines.get(&timeline).into_iter().flatten();
        ranges.map(|range| (*range.end() + 1).saturating_sub(first.max(*range.start()))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::SegmentSize;

    #[test]
    fn stretches_come_and_segments_go() {
        let (one, two) = (TimelineId::FIRST, TimelineId::new(2).unwrap());
        let stretch = |timeline, first, last| Stretch {
            timeline,
            first: SegmentNo(first),
            last: SegmentNo(last),
        };
        let mut wal = ArchivedWal::new(SegmentSize::DEFAULT);
        wal.add_stretch(stretch(one, 5, 9));
        wal.add_stretch(stretch(one, 12, 20));
        let mut other = ArchivedWal::new(SegmentSize::DEFAULT);
        other.add_stretch(stretch(one, 10, 10));
        other.add_stretch(stretch(two, 1, 1));
        other.add("not a segment");
        wal.add_listed(&other);
        wal.add_listed(&other);
        wal.set_missing(one, SegmentNo(7));
        wal.set_missing(two, SegmentNo(7));
        let expected =
            [stretch(one, 5, 6), stretch(one, 8, 10), stretch(one, 12, 20), stretch(two, 1, 1)];
        assert_eq!(wal.stretches().collect::<Vec<_>>(), expected);
        assert_eq!(wal.misfits, ["not a segment"]);
        let mut expired = ArchivedWal::new(SegmentSize::DEFAULT);
        expired.add_stretch(stretch(one, 0, 12));
        let mut rest = wal.clone();
        rest.give_up(&expired);
        assert_eq!(
            rest.stretches().collect::<Vec<_>>(),
            [stretch(one, 13, 20), stretch(two, 1, 1)]
        );
        assert_eq!(rest.lost(stretch(one, 5, 25)), [stretch(one, 21, 25)]);
        assert_eq!(rest.missing(stretch(one, 5, 13)), [stretch(one, 5, 12)]);
        assert!(rest.is_given_up(one, SegmentNo(12)) && !rest.is_given_up(one, SegmentNo(13)));
        assert_eq!(rest.given_up().stretches().collect::<Vec<_>>(), [stretch(one, 0, 12)]);
        assert_eq!(wal.count_behind(one, None), 2 + 3 + 9);
        assert_eq!(wal.count_behind(one, Some(SegmentNo(9))), 1 + 9);
        assert_eq!(wal.count_behind(two, Some(SegmentNo(u64::MAX))), 0);
        assert_eq!(wal.count_behind(TimelineId::new(3).unwrap(), None), 0);
    }
}
