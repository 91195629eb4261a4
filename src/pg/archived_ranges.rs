//! Whole stretches into an archive's ranges and out of them: what was listed elsewhere, or before.

use super::archived_wal::{ArchivedWal, Stretch};
use super::number_ranges::{insert_all, remove};
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
        assert_eq!(wal.count_behind(one, None), 2 + 3 + 9);
        assert_eq!(wal.count_behind(one, Some(SegmentNo(9))), 1 + 9);
        assert_eq!(wal.count_behind(two, Some(SegmentNo(u64::MAX))), 0);
        assert_eq!(wal.count_behind(TimelineId::new(3).unwrap(), None), 0);
    }
}
