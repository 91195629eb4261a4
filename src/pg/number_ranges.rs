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
