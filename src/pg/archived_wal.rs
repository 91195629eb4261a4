//! Which WAL the archive holds and which is missing: ranges and holes per timeline.
//!
//! Pure: names and histories in, values out. A hole is a segment that recovery would ask for and not
//! get: between two archived segments of a timeline, at its beginning (its first segment is the one
//! in which it left its parent), or at the end of a parent that a descendant left later.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::number_ranges::{insert, remove};
use super::{History, Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId};

/// Segments of one timeline, without a gap, first and last included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    pub(super) timelines: BTreeMap<TimelineId, Vec<RangeInclusive<u64>>>,
    /// What expiry has given up: not there, and not lost.
    pub(super) expired: BTreeMap<TimelineId, Vec<RangeInclusive<u64>>>,
    histories: BTreeMap<TimelineId, History>,
    /// Segments that are there, and of no use.
    damaged: BTreeSet<(TimelineId, SegmentNo)>,
    /// In a timeline's segments: records that archive recovery does not pass.
    barriers: BTreeSet<(TimelineId, Lsn)>,
    /// Names that do not fit the cluster's segment size: of another size, or of no segment.
    pub misfits: Vec<String>,
}

/// Segments without a hole, along one history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// In order.
    pub stretches: Vec<Stretch>,
    /// Where the last segment ends, or where the history leaves it.
    pub end: Lsn,
    /// What is missing behind it, although WAL exists, or existed, behind that.
    pub hole: Option<Stretch>,
    /// Whether archived WAL goes on behind it that recovery cannot replay.
    pub is_barred: bool,
    size: SegmentSize,
}

impl Run {
    /// How many segments.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.stretches.iter().map(Stretch::count).sum()
    }

    /// Every segment in order. Made on demand: there may be a million.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = (TimelineId, SegmentNo)> + '_ {
        self.stretches.iter().flat_map(Stretch::segments)
    }

    /// The names of the segments, in order.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = String> + '_ {
        self.segments().map(|(timeline, number)| segment_name(timeline, number, self.size))
    }
}

fn segment_name(timeline: TimelineId, number: SegmentNo, size: SegmentSize) -> String {
    SegmentName::new(timeline, number, size).map_or_else(
        |_| format!("segment {number} of timeline {timeline}"),
        |name| name.to_string(),
    )
}

impl Stretch {
    /// How many segments.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.last.0.saturating_add(1).saturating_sub(self.first.0)
    }

    /// Every segment in order, made on demand.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = (TimelineId, SegmentNo)> + use<> {
        let timeline = self.timeline;
        (self.first.0..=self.last.0).map(move |number| (timeline, SegmentNo(number)))
    }
}

impl ArchivedWal {
    /// An archive without a segment.
    #[must_use]
    pub fn new(size: SegmentSize) -> Self {
        let (timelines, histories) = (BTreeMap::new(), BTreeMap::new());
        let expired = BTreeMap::new();
        let (damaged, barriers) = (BTreeSet::new(), BTreeSet::new());
        Self { size, timelines, expired, histories, damaged, barriers, misfits: Vec::new() }
    }

    /// Sorts the names of archived segments into ranges.
    #[must_use]
    pub fn survey<'n>(
        names: impl IntoIterator<Item = &'n str>,
        histories: impl IntoIterator<Item = History>,
        size: SegmentSize,
    ) -> Self {
        let mut wal = Self::new(size);
        names.into_iter().for_each(|name| wal.add(name));
        histories.into_iter().for_each(|history| wal.add_history(history));
        wal
    }

    /// Adds a segment. Only ranges are kept: a million segments without a hole take one.
    pub fn add(&mut self, name: &str) {
        let parsed = SegmentName::parse(name.as_bytes());
        match parsed.and_then(|parsed| Ok((parsed.timeline(), parsed.number(self.size)?))) {
            Ok((timeline, number)) => {
                insert(self.timelines.entry(timeline).or_default(), number.0);
            }
            Err(_) => self.misfits.push(name.to_owned()),
        }
    }

    /// Counts a segment as missing that is there but cannot be used: a hole, also at the end.
    pub fn set_damaged(&mut self, timeline: TimelineId, number: SegmentNo) {
        if let Some(ranges) = self.timelines.get_mut(&timeline) {
            remove(ranges, number.0);
        }
        self.damaged.insert((timeline, number));
    }

    /// Whether a segment is there but cannot be used.
    #[must_use]
    pub fn is_damaged(&self, timeline: TimelineId, number: SegmentNo) -> bool {
        self.damaged.contains(&(timeline, number))
    }

    /// Adds what a history file says.
    pub fn add_history(&mut self, history: History) {
        self.histories.insert(history.timeline(), history);
    }

    /// Adds a record that archive recovery does not pass, in a segment of this timeline.
    pub fn add_barrier(&mut self, timeline: TimelineId, lsn: Lsn) {
        self.barriers.insert((timeline, lsn));
    }

    /// The records that archive recovery does not pass, in order, with the timeline of the segment.
    pub fn barriers(&self) -> impl Iterator<Item = (TimelineId, Lsn)> + '_ {
        self.barriers.iter().copied()
    }

    /// The size of the segments.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// Every timeline that has a segment or a history file, ascending.
    #[must_use]
    pub fn timelines(&self) -> Vec<TimelineId> {
        let known: BTreeSet<_> = self.timelines.keys().chain(self.histories.keys()).collect();
        known.into_iter().copied().collect()
    }

    /// A timeline with its ancestors; `None` when its history file is not here. The first timeline
    /// never has one.
    #[must_use]
    pub fn history(&self, timeline: TimelineId) -> Option<History> {
        let first = || {
            (timeline == TimelineId::FIRST).then(|| History::without_ancestors(TimelineId::FIRST))
        };
        self.histories.get(&timeline).cloned().or_else(first)
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
        segment_name(timeline, number, self.size)
    }

    /// A stretch by its names.
    #[must_use]
    pub fn describe(&self, stretch: &Stretch) -> String {
        let first = self.name(stretch.timeline, stretch.first);
        if stretch.first == stretch.last {
            return first;
        }
        let last = self.name(stretch.timeline, stretch.last);
        format!("{first} to {last} ({} segments)", stretch.count())
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
        let newest = self.newest_timeline(start.0);
        let history = self.history(newest);
        self.needed_along(&history.unwrap_or_else(|| History::without_ancestors(newest)), start.1)
    }

    /// What recovery along `history` needs from segment `begin` to its newest one. That of a timeline
    /// which another one left later counts as well, archived or not: it was written.
    #[must_use]
    pub fn needed_along(&self, history: &History, begin: SegmentNo) -> Vec<Stretch> {
        let (mut needed, mut first) = (Vec::new(), begin);
        for ancestor in history.ancestors() {
            let switch = SegmentNo::of(ancestor.end, self.size);
            if let Some(last) = switch.previous().filter(|last| *last >= first) {
                needed.push(Stretch { timeline: ancestor.timeline, first, last });
            }
            first = first.max(switch);
        }
        let timeline = history.timeline();
        let left = self.left_at(timeline);
        let left = left.and_then(|switch| SegmentNo::of(switch, self.size).previous());
        if let Some(last) = self.last(timeline).max(left).filter(|last| *last >= first) {
            needed.push(Stretch { timeline, first, last });
        }
        needed
    }

    /// What recovery along `history` from `start` can replay: without a hole, up to the first record
    /// that it does not pass.
    #[must_use]
    pub fn run(&self, history: &History, start: Lsn) -> Run {
        let mut run = self.run_to_hole(history, start);
        let on_the_way = self.barriers.iter().filter(|(timeline, lsn)| {
            let is_left = history.switch_point(*timeline).is_some_and(|switch| switch <= *lsn);
            (start..run.end).contains(lsn) && history.includes(*timeline) && !is_left
        });
        let Some(barrier) = on_the_way.map(|(_, lsn)| *lsn).min() else { return run };
        let last = SegmentNo::of(barrier, self.size);
        run.stretches.retain(|stretch| stretch.first <= last);
        if let Some(stretch) = run.stretches.last_mut() {
            stretch.last = stretch.last.min(last);
        }
        Run { end: barrier, hole: None, is_barred: true, ..run }
    }

    /// What is archived along `history` from `start` on without a hole.
    #[must_use]
    pub fn run_to_hole(&self, history: &History, start: Lsn) -> Run {
        let begin = SegmentNo::of(start, self.size);
        let (mut stretches, mut hole) = (Vec::new(), None);
        for needed in self.needed_along(history, begin) {
            hole = self.missing(needed).first().copied();
            match hole {
                None => stretches.push(needed),
                Some(gap) => {
                    let last = gap.first.previous().filter(|last| *last >= needed.first);
                    stretches.extend(last.map(|last| Stretch { last, ..needed }));
                    break;
                }
            }
        }
        let ends = |stretch: &Stretch| stretch.last.end(self.size);
        let mut end = stretches.last().and_then(ends).unwrap_or(start);
        // The segment in which a timeline begins may be there under its parent's name only. It
        // counts up to the switch: the rest is another history.
        if hole.is_none()
            && let Some(parent) = history.ancestors().last()
            && let switch = SegmentNo::of(parent.end, self.size)
            && switch >= begin
            && !stretches.iter().any(|stretch| stretch.last >= switch)
            && self.has(parent.timeline, switch)
        {
            stretches.push(Stretch { timeline: parent.timeline, first: switch, last: switch });
            end = parent.end;
        }
        Run { stretches, end, hole, is_barred: false, size: self.size }
    }

    /// Whether a segment is archived.
    #[must_use]
    pub fn has(&self, timeline: TimelineId, number: SegmentNo) -> bool {
        let ranges = self.timelines.get(&timeline).map_or(&[][..], Vec::as_slice);
        let at = ranges.partition_point(|range| *range.end() < number.0);
        ranges.get(at).is_some_and(|range| range.contains(&number.0))
    }

    /// The last segment of a timeline, damaged or not.
    #[must_use]
    pub fn last(&self, timeline: TimelineId) -> Option<SegmentNo> {
        let ranges = self.timelines.get(&timeline);
        let last = ranges.and_then(|ranges| ranges.last()).map(|range| SegmentNo(*range.end()));
        let all = (timeline, SegmentNo(0))..=(timeline, SegmentNo(u64::MAX));
        last.max(self.damaged.range(all).next_back().map(|(_, number)| *number))
    }

    /// Where the last of the histories that left a timeline left it.
    #[must_use]
    pub fn left_at(&self, timeline: TimelineId) -> Option<Lsn> {
        self.histories.values().filter_map(|later| later.switch_point(timeline)).max()
    }

    /// What is missing of [`ArchivedWal::needed`], in order; what was given up is not.
    #[must_use]
    pub fn holes(&self, start: Start) -> Vec<Stretch> {
        self.needed(start).into_iter().flat_map(|needed| self.lost(needed)).collect()
    }

    /// What is missing along `history`, in order.
    #[must_use]
    pub fn holes_along(&self, history: &History, begin: SegmentNo) -> Vec<Stretch> {
        let needed = self.needed_along(history, begin).into_iter();
        needed.flat_map(|needed| self.lost(needed)).collect()
    }

    /// What is archived along `history` from segment `begin` on, also behind holes, in order.
    #[must_use]
    pub fn archived_along(&self, history: &History, begin: SegmentNo) -> Vec<Stretch> {
        let mut archived = Vec::new();
        for needed in self.needed_along(history, begin) {
            let ranges = self.timelines.get(&needed.timeline).into_iter().flatten();
            archived.extend(ranges.filter_map(|range| {
                let first = SegmentNo(*range.start()).max(needed.first);
                let last = SegmentNo(*range.end()).min(needed.last);
                (first <= last).then_some(Stretch { first, last, ..needed })
            }));
        }
        archived
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
            Some(self.lost(Stretch { timeline: *timeline, first, last }))
        });
        each.flatten().collect()
    }

    /// What is missing of a stretch, in order.
    #[must_use]
    pub fn missing(&self, wanted: Stretch) -> Vec<Stretch> {
        let timeline = wanted.timeline;
        let mut missing = Vec::new();
        let mut next = wanted.first.0;
        let ranges = self.timelines.get(&timeline).map_or(&[][..], Vec::as_slice);
        let at = ranges.partition_point(|range| *range.end() < next);
        for range in ranges.get(at..).unwrap_or_default() {
            if *range.start() > wanted.last.0 {
                break;
            }
            if *range.start() > next {
                let last = SegmentNo(*range.start() - 1);
                missing.push(Stretch { timeline, first: SegmentNo(next), last });
            }
            let Some(behind) = range.end().checked_add(1) else { return missing };
            next = behind;
        }
        if next <= wanted.last.0 {
            missing.push(Stretch { timeline, first: SegmentNo(next), last: wanted.last });
        }
        missing
    }
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

    #[test]
    fn a_damaged_segment_is_a_hole_also_at_the_end() {
        let names =
            ["000000010000000000000003", "000000010000000000000004", "000000010000000000000005"];
        let mut wal = survey(&names, vec![], 16 * MIB);
        wal.set_damaged(timeline(1), SegmentNo(5));
        let (found, end, hole) = run_of(&wal, 1, 0x3000028);
        assert_eq!((found.len(), end.as_str(), hole.as_deref()), (2, "0/5000000", Some(names[2])));
        assert_eq!(wal.last(timeline(1)), Some(SegmentNo(5)));
        assert!(!wal.has(timeline(1), SegmentNo(5)) && wal.is_damaged(timeline(1), SegmentNo(5)));
        wal.set_damaged(timeline(1), SegmentNo(3));
        assert_eq!(run_of(&wal, 1, 0x3000028).0, Vec::<String>::new());
        assert_eq!(shown(&wal, wal.stretches()), [format!("{0}-{0}", names[1])]);
    }

    fn run_of(wal: &ArchivedWal, number: u32, start: u64) -> (Vec<String>, String, Option<String>) {
        let run = wal.run(&wal.history(timeline(number)).unwrap(), Lsn(start));
        assert_eq!(run.count(), run.names().count() as u64);
        (run.names().collect(), run.end.to_string(), run.hole.map(|hole| wal.describe(&hole)))
    }

    #[test]
    fn a_run_ends_at_the_first_hole_along_its_history() {
        let left = || vec![history(2, "1\t0/5400000\tno recovery target specified\n")];
        let all = [
            "000000010000000000000003",
            "000000010000000000000004",
            "000000010000000000000005",
            "000000010000000000000006",
            "000000020000000000000005",
            "000000020000000000000006",
        ];
        let whole = survey(&all, left(), 16 * MIB);
        let (names, end, hole) = run_of(&whole, 2, 0x3000028);
        assert_eq!(names, [all[0], all[1], all[4], all[5]]);
        assert_eq!((end.as_str(), hole), ("0/7000000", None));
        assert_eq!(run_of(&whole, 1, 0x3000028).0, all[..4], "the parent's own end");
        let later = whole.archived_along(&whole.history(timeline(2)).unwrap(), SegmentNo(4));
        assert_eq!(
            shown(&whole, later),
            [format!("{}-{}", all[1], all[1]), format!("{}-{}", all[4], all[5])]
        );
        assert_eq!(
            (whole.left_at(timeline(1)), whole.left_at(timeline(2))),
            (Some(Lsn(0x5400000)), None)
        );
        assert_eq!((whole.last(timeline(1)), whole.last(timeline(3))), (Some(SegmentNo(6)), None));
        // Only the parent has the segment in which the child begins: it counts up to the switch.
        let (names, end, hole) = run_of(&survey(&all[..4], left(), 16 * MIB), 2, 0x3000028);
        assert_eq!((names.len(), end.as_str(), hole), (3, "0/5400000", None));
        // The child has later ones: what the parent wrote there is not this history.
        let (names, _, hole) =
            run_of(&survey(&[all[0], all[1], all[2], all[5]], left(), 16 * MIB), 2, 0x3000028);
        assert_eq!((names.len(), hole.as_deref()), (2, Some(all[4])));
        // A timeline that was left later than its archive ends had more.
        let short = survey(&all[..1], left(), 16 * MIB);
        let (names, end, hole) = run_of(&short, 1, 0x3000028);
        assert_eq!((names.len(), end.as_str(), hole.as_deref()), (1, "0/4000000", Some(all[1])));
        let nothing = survey(&[], vec![], 16 * MIB);
        assert_eq!(run_of(&nothing, 1, 0x3000028), (vec![], "0/3000028".into(), None));
    }
}
