//! Which WAL the archive holds and which is missing: ranges and holes per timeline.
//!
//! Pure: names and histories in, values out. A hole is a segment that recovery would ask for and not
//! get: between two archived segments of a timeline, at its beginning (its first segment is the one
//! in which it left its parent), or at the end of a parent that a descendant left later.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::pg::{History, SegmentName, SegmentNo, SegmentSize, TimelineId};

/// Segments of one timeline, without a gap, first and last included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// On which timeline.
    pub timeline: TimelineId,
    /// The first segment.
    pub first: SegmentNo,
    /// The last segment.
    pub last: SegmentNo,
}

/// Where recovery begins: the first segment that a backup needs.
pub type Start = (TimelineId, SegmentNo);

/// What is archived.
#[derive(Debug, Clone)]
pub struct ArchivedWal {
    size: SegmentSize,
    timelines: BTreeMap<TimelineId, Vec<RangeInclusive<u64>>>,
    histories: BTreeMap<TimelineId, History>,
    /// Names that do not fit the cluster's segment size: of another size, or of no segment.
    pub misfits: Vec<String>,
}

impl Stretch {
    /// How many segments.
    #[must_use]
    pub fn count(&self) -> u64 {
        (self.last.0 + 1).saturating_sub(self.first.0)
    }
}

impl ArchivedWal {
    /// Sorts the names of archived segments into ranges.
    #[must_use]
    pub fn survey<'n>(
        names: impl IntoIterator<Item = &'n str>,
        histories: impl IntoIterator<Item = History>,
        size: SegmentSize,
    ) -> Self {
        let mut numbers: BTreeMap<TimelineId, Vec<u64>> = BTreeMap::new();
        let mut misfits = Vec::new();
        for name in names {
            let parsed = SegmentName::parse(name.as_bytes());
            match parsed.and_then(|parsed| Ok((parsed.timeline(), parsed.number(size)?))) {
                Ok((timeline, number)) => numbers.entry(timeline).or_default().push(number.0),
                Err(_) => misfits.push(name.to_owned()),
            }
        }
        let timelines = numbers.into_iter().map(|(timeline, mut numbers)| {
            numbers.sort_unstable();
            (timeline, ranges(&numbers))
        });
        let histories = histories.into_iter().map(|history| (history.timeline(), history));
        Self { size, timelines: timelines.collect(), histories: histories.collect(), misfits }
    }

    /// Every stretch, by timeline and position.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch> {
        self.timelines.iter().flat_map(|(timeline, ranges)| {
            ranges.iter().map(|range| Stretch {
                timeline: *timeline,
                first: SegmentNo(*range.start()),
                last: SegmentNo(*range.end()),
            })
        })
    }

    /// The name of a segment.
    #[must_use]
    pub fn name(&self, timeline: TimelineId, number: SegmentNo) -> String {
        SegmentName::new(timeline, number, self.size).map_or_else(
            |_| format!("segment {number} of timeline {timeline}"),
            |name| name.to_string(),
        )
    }

    /// The timeline that recovery to "latest" ends on, from a backup on `timeline`: the greatest
    /// one that descends from it.
    #[must_use]
    pub fn newest_timeline(&self, timeline: TimelineId) -> TimelineId {
        let newest = self.histories.values().rev().find(|history| history.includes(timeline));
        newest.map_or(timeline, History::timeline)
    }

    /// What recovery from `start` to the newest segment needs, timeline by timeline.
    #[must_use]
    pub fn needed(&self, start: Start) -> Vec<Stretch> {
        let (begin_timeline, begin) = start;
        let newest = self.newest_timeline(begin_timeline);
        let mut needed = Vec::new();
        let mut first = begin;
        let ancestors = self.histories.get(&newest).map_or(&[][..], History::ancestors);
        for ancestor in ancestors.iter().filter(|ancestor| ancestor.timeline >= begin_timeline) {
            let switch = SegmentNo::of(ancestor.end, self.size);
            if let Some(last) = switch.previous().filter(|last| *last >= first) {
                needed.push(Stretch { timeline: ancestor.timeline, first, last });
            }
            first = first.max(switch);
        }
        let archived = self.timelines.get(&newest).and_then(|ranges| ranges.last());
        if let Some(last) = archived.map(|range| SegmentNo(*range.end())).filter(|l| *l >= first) {
            needed.push(Stretch { timeline: newest, first, last });
        }
        needed
    }

    /// What is missing of [`ArchivedWal::needed`], in order.
    #[must_use]
    pub fn holes(&self, start: Start) -> Vec<Stretch> {
        self.needed(start).into_iter().flat_map(|needed| self.missing(needed)).collect()
    }

    /// How far recovery from `start` gets: the last segment before the first hole, or nothing when
    /// the very first is missing.
    #[must_use]
    pub fn reach(&self, start: Start) -> Option<Start> {
        let mut reached = None;
        for needed in self.needed(start) {
            match self.missing(needed).first() {
                None => reached = Some((needed.timeline, needed.last)),
                Some(hole) if hole.first > needed.first => {
                    return hole.first.previous().map(|last| (needed.timeline, last));
                }
                Some(_) => return reached,
            }
        }
        reached
    }

    /// Gaps between the archived segments of one timeline, whoever needs them.
    #[must_use]
    pub fn gaps(&self) -> Vec<Stretch> {
        let each = self.timelines.iter().filter_map(|(timeline, ranges)| {
            let (first, last) = (ranges.first()?, ranges.last()?);
            let (first, last) = (SegmentNo(*first.start()), SegmentNo(*last.end()));
            Some(self.missing(Stretch { timeline: *timeline, first, last }))
        });
        each.flatten().collect()
    }

    fn missing(&self, wanted: Stretch) -> Vec<Stretch> {
        let timeline = wanted.timeline;
        let mut missing = Vec::new();
        let mut next = wanted.first.0;
        for range in self.timelines.get(&timeline).into_iter().flatten() {
            if *range.end() < next {
                continue;
            }
            if *range.start() > wanted.last.0 {
                break;
            }
            if *range.start() > next {
                let last = SegmentNo(*range.start() - 1);
                missing.push(Stretch { timeline, first: SegmentNo(next), last });
            }
            next = *range.end() + 1;
        }
        if next <= wanted.last.0 {
            missing.push(Stretch { timeline, first: SegmentNo(next), last: wanted.last });
        }
        missing
    }
}

/// Runs of sorted numbers that follow each other.
fn ranges(numbers: &[u64]) -> Vec<RangeInclusive<u64>> {
    let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some(range) if number <= *range.end() => {}
            Some(range) if number == *range.end() + 1 => *range = *range.start()..=number,
            _ => ranges.push(number..=number),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn history(number: u32, text: &str) -> History {
        History::parse(timeline(number), text.as_bytes()).unwrap()
    }

    fn survey(names: &[&str], histories: Vec<History>, size: u64) -> ArchivedWal {
        ArchivedWal::survey(names.iter().copied(), histories, SegmentSize::new(size).unwrap())
    }

    fn shown(wal: &ArchivedWal, stretches: impl IntoIterator<Item = Stretch>) -> Vec<String> {
        let name = |stretch: Stretch, number| wal.name(stretch.timeline, number);
        let each = stretches.into_iter();
        each.map(|s| format!("{}-{}", name(s, s.first), name(s, s.last))).collect()
    }

    #[test]
    fn f015_the_last_part_rolls_over_at_ff_with_16_mib_segments() {
        let names = [
            "0000000100000000000000FE",
            "0000000100000000000000FF",
            "000000010000000100000000",
            "000000010000000100000002",
        ];
        let wal = survey(&names, vec![], 16 * MIB);
        assert_eq!(
            shown(&wal, wal.stretches()),
            [
                "0000000100000000000000FE-000000010000000100000000",
                "000000010000000100000002-000000010000000100000002"
            ]
        );
        assert_eq!(shown(&wal, wal.gaps()), ["000000010000000100000001-000000010000000100000001"]);
        let start = (timeline(1), SegmentNo(0xFE));
        assert_eq!(wal.holes(start), wal.gaps());
        assert_eq!(wal.reach(start), Some((timeline(1), SegmentNo(0x100))));
        assert_eq!(wal.reach((timeline(1), SegmentNo(0xF0))), None, "its first is missing");
    }

    #[test]
    fn f016_other_segment_sizes_roll_over_elsewhere() {
        let names = ["000000010000000000000FFF", "000000010000000100000000"];
        let small = survey(&names, vec![], MIB);
        assert_eq!(small.gaps(), []);
        assert_eq!(small.stretches().map(|s| s.count()).collect::<Vec<_>>(), [2]);
        let large =
            survey(&["000000010000000000000003", "000000010000000100000000"], vec![], 1 << 30);
        assert_eq!(large.gaps(), []);
        let misfit = survey(&names, vec![], 16 * MIB);
        assert_eq!(misfit.misfits, ["000000010000000000000FFF"], "no such name with 16 MiB");
    }

    #[test]
    fn f020_a_switch_joins_timelines_and_hides_no_hole() {
        // Timeline 2 left timeline 1 within segment 5.
        let left = || vec![history(2, "1\t0/5400000\tno recovery target specified\n")];
        let start = (timeline(1), SegmentNo(3));
        let whole = survey(
            &[
                "000000010000000000000003",
                "000000010000000000000004",
                "000000020000000000000005",
                "000000020000000000000006",
            ],
            left(),
            16 * MIB,
        );
        assert_eq!(whole.holes(start), []);
        assert_eq!(whole.reach(start), Some((timeline(2), SegmentNo(6))));
        let parent_ends_early =
            survey(&["000000010000000000000003", "000000020000000000000005"], left(), 16 * MIB);
        assert_eq!(
            shown(&parent_ends_early, parent_ends_early.holes(start)),
            ["000000010000000000000004-000000010000000000000004"]
        );
        assert_eq!(parent_ends_early.gaps(), [], "no gap within a timeline");
        assert_eq!(parent_ends_early.reach(start), Some((timeline(1), SegmentNo(3))));
        let child_begins_late = survey(
            &[
                "000000010000000000000003",
                "000000010000000000000004",
                "000000010000000000000005",
                "000000020000000000000006",
            ],
            left(),
            16 * MIB,
        );
        assert_eq!(
            shown(&child_begins_late, child_begins_late.holes(start)),
            ["000000020000000000000005-000000020000000000000005"]
        );
        assert_eq!(child_begins_late.reach(start), Some((timeline(1), SegmentNo(4))));
    }

    #[test]
    fn a_switch_on_a_boundary_needs_nothing_more_of_the_parent() {
        let left = vec![history(2, "1\t0/5000000\tx\n")];
        let names =
            ["000000010000000000000003", "000000010000000000000004", "000000020000000000000005"];
        let wal = survey(&names, left, 16 * MIB);
        assert_eq!(wal.holes((timeline(1), SegmentNo(3))), []);
    }

    #[test]
    fn sibling_timelines_are_not_needed() {
        // 2 and 3 both left 1; a backup on 2 goes on 2, one on 1 goes to 3.
        let histories = vec![history(2, "1\t0/3000000\tx\n"), history(3, "1\t0/4000000\tx\n")];
        let names =
            ["000000010000000000000003", "000000020000000000000003", "000000030000000000000004"];
        let wal = survey(&names, histories, 16 * MIB);
        assert_eq!(wal.newest_timeline(timeline(1)), timeline(3));
        assert_eq!(wal.newest_timeline(timeline(2)), timeline(2));
        assert_eq!(wal.holes((timeline(1), SegmentNo(3))), []);
        assert_eq!(wal.reach((timeline(1), SegmentNo(3))), Some((timeline(3), SegmentNo(4))));
    }

    #[test]
    fn f031_other_names_confuse_nothing() {
        let names = ["000000010000000000000003.partial", "00000002.history", "junk"];
        let wal = survey(&names, vec![], 16 * MIB);
        assert_eq!(wal.misfits.len(), 3);
        assert_eq!(wal.stretches().count(), 0);
        assert_eq!(wal.reach((timeline(1), SegmentNo(3))), None);
    }
}
