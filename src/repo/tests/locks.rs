//! What is known of locks, written down and read.

use chrono::TimeDelta;

use super::*;
use crate::pg::{SegmentNo, SegmentSize, Stretch, TimelineId};
use crate::repo::{KnownBackup, KnownLocks, KnownRest, LockSpan};

const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn after(days: i64) -> Timestamp {
    now() + TimeDelta::days(days)
}

fn known(days: i64) -> KnownLocks {
    let span = LockSpan { least: after(days), most: after(days + 1) };
    let backups = ["20260101-020000F", "20260101-020000F_20260102-020000D"];
    let backups = backups.map(|id| (id.parse().unwrap(), KnownBackup { objects: 7, span }));
    let stretch = |timeline, first, last| Stretch {
        timeline: TimelineId::new(timeline).unwrap(),
        first: SegmentNo(first),
        last: SegmentNo(last),
    };
    KnownLocks {
        backups: backups.into_iter().collect(),
        wal: vec![(stretch(1, 5, 9), span), (stretch(2, 1, 1), span)],
        rest: Some(KnownRest { before: now(), least: after(days), first: after(days + 9) }),
    }
}

#[test]
fn f088_what_is_known_of_locks_is_read_back_and_the_newest_counts() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let read = || repository.known_locks(&ctx, &place(), SIZE).unwrap();
    assert_eq!(read(), KnownLocks::default());
    // Two within a second have names of their own.
    for days in [10, 20] {
        repository.put_locks(&ctx, &place(), SIZE, &known(days)).unwrap();
        assert_eq!(read(), known(days));
    }
    let names: Vec<_> = crate::storage::list_all(&store, &place().locks_prefix()).unwrap();
    assert_eq!(names.len(), 2);
    // What nobody sealed here, and what is damaged, is passed over: the objects are asked then.
    store.put(&place().locks(after(0) + TimeDelta::hours(1)).unwrap(), b"junk").unwrap();
    assert_eq!(read(), known(20));
    let newest = names.last().unwrap().key.clone();
    let mut damaged = store.get(&newest).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    replace(&store, &newest, &damaged);
    assert_eq!(read(), known(10));
    // One under another's name is not what it says it is.
    let other = names.first().unwrap().key.clone();
    let moved = store.get(&other).unwrap();
    replace(&store, &newest, &moved);
    assert_eq!(read(), known(10));
}

#[test]
fn f088_locks_of_several_objects_are_told_by_the_first_and_the_last_that_ends() {
    let of = |days| LockSpan::of(Some(after(days)));
    let both = of(3).and(of(5));
    assert_eq!((both.least, both.most), (after(3), after(5)));
    assert_eq!(both.and(LockSpan::of(None)).least, Timestamp::UNIX_EPOCH, "one has none");
    let longer = both.extended(after(4));
    assert_eq!((longer.least, longer.most), (after(4), after(5)));
    assert_eq!(longer.extended(after(9)), of(9));
}
