//! Ranges of WAL with the locks of their segments.

use chrono::TimeDelta;

use crate::base::Timestamp;
use crate::pg::{ArchivedWal, Stretch};
use crate::repo::LockSpan;

/// Neighbours whose locks end further apart than that are told apart, so that none waits much longer than its own.
const SPREAD_MAX: TimeDelta = TimeDelta::hours(24);

/// What two stretches have in common.
pub(in crate::retention) fn common(a: &Stretch, b: &Stretch) -> Option<Stretch> {
    let (first, last) = (a.first.max(b.first), a.last.min(b.last));
    (a.timeline == b.timeline && first <= last).then_some(Stretch { first, last, ..*a })
}

/// Ranges by timeline and position, none of which has a part of another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spans(pub(super) Vec<(Stretch, LockSpan)>);

impl Spans {
    /// Those parts that are there.
    pub(super) fn within(self, wal: &ArchivedWal) -> Self {
        let mut within = Self::default();
        for (stretch, span) in &self.0 {
            let parts = wal.stretches().filter_map(|there| common(&there, stretch));
            within.0.extend(parts.map(|part| (part, *span)));
        }
        within.sorted()
    }

    fn sorted(mut self) -> Self {
        self.0.sort_by_key(|(stretch, _)| (stretch.timeline, stretch.first));
        let mut joined: Vec<(Stretch, LockSpan)> = Vec::with_capacity(self.0.len());
        for (stretch, span) in self.0 {
            match joined.last_mut() {
                Some((last, known)) if can_be_one((last, *known), (&stretch, span)) => {
                    (last.last, *known) = (stretch.last, known.and(span));
                }
                _ => joined.push((stretch, span)),
            }
        }
        Self(joined)
    }

    /// The WAL of which nothing is known.
    pub(super) fn unknown(&self, wal: &ArchivedWal) -> Vec<Stretch> {
        let mut known = ArchivedWal::new(wal.segment_size());
        self.0.iter().for_each(|(stretch, _)| known.add_stretch(*stretch));
        wal.stretches().flat_map(|stretch| known.missing(stretch)).collect()
    }

    /// Adds ranges of which nothing was known.
    pub(super) fn with(mut self, more: Vec<(Stretch, LockSpan)>) -> Self {
        self.0.extend(more);
        self.sorted()
    }

    /// What of a stretch is not locked until then, as far as is known.
    pub(super) fn shorter(&self, wanted: &Stretch, until: Timestamp) -> Vec<Stretch> {
        let short = self.0.iter().filter(|(_, span)| span.least < until);
        short.filter_map(|(stretch, _)| common(stretch, wanted)).collect()
    }

    /// After all of a stretch was locked until then.
    pub(super) fn extended(self, locked: &Stretch, until: Timestamp) -> Self {
        let mut all = Self::default();
        for (stretch, span) in self.0 {
            let Some(part) = common(&stretch, locked) else {
                all.0.push((stretch, span));
                continue;
            };
            if let Some(last) = part.first.previous().filter(|last| *last >= stretch.first) {
                all.0.push((Stretch { last, ..stretch }, span));
            }
            all.0.push((part, span.extended(until)));
            if let Some(first) = part.last.next().filter(|first| *first <= stretch.last) {
                all.0.push((Stretch { first, ..stretch }, span));
            }
        }
        all.sorted()
    }
}

fn can_be_one((a, a_span): (&Stretch, LockSpan), (b, b_span): (&Stretch, LockSpan)) -> bool {
    let both = a_span.and(b_span);
    let is_next = a.last.next() == Some(b.first) && a.timeline == b.timeline;
    is_next && both.most - both.least <= SPREAD_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{SegmentNo, SegmentSize, TimelineId};

    fn stretch(first: u64, last: u64) -> Stretch {
        Stretch { timeline: TimelineId::FIRST, first: SegmentNo(first), last: SegmentNo(last) }
    }

    fn hour(hour: i64) -> Timestamp {
        Timestamp::from_timestamp(hour * 3600, 0).unwrap()
    }

    fn shown(spans: &Spans) -> Vec<(u64, u64, i64, i64)> {
        let hours = |at: Timestamp| at.timestamp() / 3600;
        let each = spans.0.iter();
        each.map(|(s, span)| (s.first.0, s.last.0, hours(span.least), hours(span.most))).collect()
    }

    #[test]
    fn neighbours_of_one_day_are_one_range_and_others_are_not() {
        let of = |number: u64, at| (stretch(number, number), LockSpan::of(Some(hour(at))));
        let spans =
            Spans::default().with(vec![of(3, 50), of(1, 0), of(2, 24), of(5, 24), of(6, 90)]);
        assert_eq!(shown(&spans), [(1, 2, 0, 24), (3, 3, 50, 50), (5, 5, 24, 24), (6, 6, 90, 90)]);
        let mut wal = ArchivedWal::new(SegmentSize::DEFAULT);
        wal.add_stretch(stretch(2, 9));
        assert_eq!(spans.unknown(&wal), [stretch(4, 4), stretch(7, 9)]);
        let spans = spans.within(&wal);
        assert_eq!(shown(&spans)[0], (2, 2, 0, 24));
    }

    #[test]
    fn a_part_is_locked_for_longer_and_the_rest_as_before() {
        let spans = Spans(vec![(stretch(1, 9), LockSpan::of(Some(hour(10))))]);
        assert_eq!(spans.shorter(&stretch(8, 20), hour(11)), [stretch(8, 9)]);
        assert!(spans.shorter(&stretch(8, 20), hour(10)).is_empty());
        let spans = spans.extended(&stretch(4, 6), hour(100));
        assert_eq!(shown(&spans), [(1, 3, 10, 10), (4, 6, 100, 100), (7, 9, 10, 10)]);
        // One that was locked longer already stays so.
        let spans = spans.extended(&stretch(1, 20), hour(50));
        assert_eq!(shown(&spans), [(1, 3, 50, 50), (4, 6, 100, 100), (7, 9, 50, 50)]);
    }
}
