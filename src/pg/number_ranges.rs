//! Sorted ranges of numbers that neither touch nor overlap: a million segments without a hole are one.

use std::ops::RangeInclusive;

/// Adds a number to sorted ranges that neither touch nor overlap.
pub(super) fn insert(ranges: &mut Vec<RangeInclusive<u64>>, number: u64) {
    let at = ranges.partition_point(|range| *range.end() < number);
    let (before, after) = ranges.split_at_mut(at);
    let joins_before = before.last_mut().filter(|range| range.end().checked_add(1) == Some(number));
    let next = after.first_mut();
    let joins_after =
        next.as_ref().is_some_and(|range| Some(*range.start()) == number.checked_add(1));
    match (joins_before, next) {
        (_, Some(range)) if range.contains(&number) => {}
        (Some(before), Some(next)) if joins_after => {
            *before = *before.start()..=*next.end();
            ranges.remove(at);
        }
        (Some(before), _) => *before = *before.start()..=number,
        (None, Some(next)) if joins_after => *next = number..=*next.end(),
        (None, _) => ranges.insert(at, number..=number),
    }
}

/// Adds a range of numbers to sorted ranges that neither touch nor overlap.
pub(super) fn insert_all(ranges: &mut Vec<RangeInclusive<u64>>, new: RangeInclusive<u64>) {
    if new.is_empty() {
        return;
    }
    let begin = ranges.partition_point(|range| range.end().saturating_add(1) < *new.start());
    let end = ranges.partition_point(|range| *range.start() <= new.end().saturating_add(1));
    let joined = ranges.get(begin..end.max(begin)).unwrap_or_default();
    let first = joined.first().map_or(*new.start(), |range| *range.start().min(new.start()));
    let last = joined.last().map_or(*new.end(), |range| *range.end().max(new.end()));
    ranges.splice(begin..end.max(begin), [first..=last]);
}

/// Takes a number out of sorted ranges.
pub(super) fn remove(ranges: &mut Vec<RangeInclusive<u64>>, number: u64) {
    let Some(at) = ranges.iter().position(|range| range.contains(&number)) else { return };
    let range = ranges.remove(at);
    let before = number.checked_sub(1).filter(|last| last >= range.start());
    let after = number.checked_add(1).filter(|first| first <= range.end());
    let before = before.map(|last| *range.start()..=last);
    let after = after.map(|first| first..=*range.end());
    ranges.splice(at..at, before.into_iter().chain(after));
}

/// Takes a range of numbers out of sorted ranges.
pub(super) fn remove_all(ranges: &mut Vec<RangeInclusive<u64>>, gone: &RangeInclusive<u64>) {
    let begin = ranges.partition_point(|range| range.end() < gone.start());
    let end = ranges.partition_point(|range| range.start() <= gone.end()).max(begin);
    let touched = ranges.get(begin..end).unwrap_or_default();
    let before = touched.first().filter(|range| range.start() < gone.start());
    let after = touched.last().filter(|range| range.end() > gone.end());
    let before = before.map(|range| *range.start()..=gone.start().saturating_sub(1));
    let after = after.map(|range| gone.end().saturating_add(1)..=*range.end());
    let rest: Vec<_> = before.into_iter().chain(after).collect();
    ranges.splice(begin..end, rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_may_come_in_any_order_and_twice() {
        let numbers = [5_u64, 3, 9, 4, 3, 8, 1, 0, 7, 5];
        let mut ranges = Vec::new();
        numbers.iter().for_each(|number| insert(&mut ranges, *number));
        assert_eq!(ranges, [0..=1, 3..=5, 7..=9]);
        insert(&mut ranges, 2);
        insert(&mut ranges, 6);
        insert(&mut ranges, u64::MAX);
        assert_eq!(ranges, [0..=9, u64::MAX..=u64::MAX]);
    }

    #[test]
    fn a_range_is_joined_with_what_it_touches() {
        for (new, expected) in [
            (0..=1, vec![0..=1, 3..=5, 9..=9, 20..=30]),
            (1..=2, vec![1..=5, 9..=9, 20..=30]),
            (4..=4, vec![3..=5, 9..=9, 20..=30]),
            (6..=8, vec![3..=9, 20..=30]),
            (7..=7, vec![3..=5, 7..=7, 9..=9, 20..=30]),
            (0..=u64::MAX, vec![0..=u64::MAX]),
            (5..=25, vec![3..=30]),
            (40..=50, vec![3..=5, 9..=9, 20..=30, 40..=50]),
        ] {
            let mut ranges = vec![3..=5, 9..=9, 20..=30];
            insert_all(&mut ranges, new.clone());
            assert_eq!(ranges, expected, "{new:?}");
        }
        let mut ranges = Vec::new();
        insert_all(&mut ranges, 7..=9);
        assert_eq!(ranges, vec![7..=9]);
    }

    #[test]
    fn a_range_is_taken_out_of_what_it_touches() {
        for (gone, expected) in [
            (0..=2, vec![3..=6, 8..=8]),
            (0..=3, vec![4..=6, 8..=8]),
            (4..=5, vec![3..=3, 6..=6, 8..=8]),
            (5..=8, vec![3..=4]),
            (6..=7, vec![3..=5, 8..=8]),
            (7..=7, vec![3..=6, 8..=8]),
            (0..=u64::MAX, vec![]),
        ] {
            let mut ranges = vec![3..=6, 8..=8];
            remove_all(&mut ranges, &gone);
            assert_eq!(ranges, expected, "{gone:?}");
        }
    }

    #[test]
    fn a_number_is_taken_out_of_its_range() {
        for (number, expected) in [
            (3, vec![4..=6, 8..=8]),
            (5, vec![3..=4, 6..=6, 8..=8]),
            (6, vec![3..=5, 8..=8]),
            (7, vec![3..=6, 8..=8]),
            (8, vec![3..=6]),
        ] {
            let mut ranges = vec![3..=6, 8..=8];
            remove(&mut ranges, number);
            assert_eq!(ranges, expected, "{number}");
        }
        let mut ranges = vec![0..=u64::MAX];
        remove(&mut ranges, 0);
        remove(&mut ranges, u64::MAX);
        assert_eq!(ranges, vec![1..=u64::MAX - 1]);
    }
}
