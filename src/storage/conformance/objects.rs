//! Behaviours of every store: puts, reads, lists, removals.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{key, names, put_all};
use crate::base::Timestamp;
use crate::storage::{Error, ObjectKey, ObjectMeta, ObjectStore, list_all};

/// Bytes without a short period, so that a shifted or repeated piece shows.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(step).collect()
}

/// Get, head and list agree with what was put, for empty objects too.
pub fn round_trip(store: &dyn ObjectStore) {
    for (name, length) in [("rt/empty", 0), ("rt/one", 1), ("rt/more/big", 3_000_001)] {
        let body = pattern(length);
        store.put(&key(name), &body).unwrap();
        assert_eq!(store.get(&key(name)).unwrap(), body, "{name}");
        let meta = store.head(&key(name)).unwrap();
        assert_eq!((meta.key, meta.size), (key(name), length as u64));
    }
    store.put_if_absent(&key("rt/none"), b"").unwrap();
    let listed = list_all(store, "rt/").unwrap();
    let sizes: Vec<_> = listed.iter().map(|m| (m.key.as_str(), m.size)).collect();
    let expected = [("rt/empty", 0), ("rt/more/big", 3_000_001), ("rt/none", 0), ("rt/one", 1)];
    assert_eq!(sizes, expected);
}

/// When an object was stored is told by head and list alike, to the second, and never goes back.
pub fn tells_when_stored(store: &dyn ObjectStore) {
    store.put(&key("stored/a"), b"first").unwrap();
    let first = store.head(&key("stored/a")).unwrap().stored;
    let listed = list_all(store, "stored/").unwrap();
    let seconds = |time: Option<Timestamp>| time.map(|time| time.timestamp());
    assert_eq!(listed.iter().map(|meta| seconds(meta.stored)).next(), Some(seconds(first)));
    store.put(&key("stored/a"), b"second").unwrap();
    assert!(store.head(&key("stored/a")).unwrap().stored >= first);
}

/// The second put's content stays, also when it is shorter.
pub fn put_replaces(store: &dyn ObjectStore) {
    for body in [&b"first and long"[..], b"second", b""] {
        store.put(&key("replace/a"), body).unwrap();
        assert_eq!(store.get(&key("replace/a")).unwrap(), body);
    }
    assert_eq!(names(store, "replace/"), ["replace/a"]);
}

/// A taken name refuses, whatever the content, and whoever put it.
pub fn if_absent_keeps_first(store: &dyn ObjectStore) {
    let taken = key("absent/a");
    store.put_if_absent(&taken, b"first").unwrap();
    for body in [&b"first"[..], b"other", b""] {
        let refusal = store.put_if_absent(&taken, body).unwrap_err();
        assert!(refusal.is_already_exists(), "{refusal}");
    }
    assert_eq!(store.get(&taken).unwrap(), b"first");
    store.put(&key("absent/b"), b"put").unwrap();
    let refusal = store.put_if_absent(&key("absent/b"), b"x").unwrap_err();
    assert!(refusal.is_already_exists(), "{refusal}");
    store.delete(&taken).unwrap();
    store.put_if_absent(&taken, b"again").unwrap();
    assert_eq!(store.get(&taken).unwrap(), b"again");
}

/// Of eight threads one succeeds, the others are told so, and the content is the winner's.
pub fn if_absent_has_one_winner(store: &dyn ObjectStore) {
    for round in 0..10 {
        let contested = key(&format!("race/{round}/deep/er"));
        let winner = AtomicUsize::new(usize::MAX);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (contested, winner) = (&contested, &winner);
                scope.spawn(move || {
                    let body = vec![u8::try_from(thread).unwrap(); 5000];
                    match store.put_if_absent(contested, &body) {
                        Ok(()) => {
                            let before = winner.swap(thread, Ordering::SeqCst);
                            assert_eq!(before, usize::MAX, "two winners");
                        }
                        Err(error) => assert!(error.is_already_exists(), "{error}"),
                    }
                    // Whoever was refused can read the winner's content at once.
                    assert_eq!(store.get(contested).unwrap().len(), 5000);
                });
            }
        });
        let winner = u8::try_from(winner.into_inner()).unwrap();
        assert_eq!(store.get(&contested).unwrap(), vec![winner; 5000]);
    }
}

/// Every read of a name that was never put, in a folder that exists or not, proves absence.
pub fn absent_is_not_found(store: &dyn ObjectStore) {
    put_all(store, &["here/a"]);
    for name in ["here/b", "here/b/c", "nowhere/at/all", "toplevel"] {
        let absent = key(name);
        let errors = [
            store.get(&absent).unwrap_err(),
            store.head(&absent).unwrap_err(),
            store.read_range(&absent, 0, &mut [0; 4]).unwrap_err(),
            store.read_range(&absent, 7, &mut []).unwrap_err(),
            store.read_up_to(&absent, 0, 4).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(&error, Error::NotFound { key } if *key == absent), "{error}");
        }
        assert!(store.list(name, None, 1).unwrap().is_empty());
    }
}

/// A range is delivered whole or refused as short; no arithmetic overflows.
pub fn ranges_are_exact(store: &dyn ObjectStore) {
    let body = pattern(100_000);
    store.put(&key("range/a"), &body).unwrap();
    for (begin, end) in [(0, 0), (0, 1), (17, 65_600), (99_999, 100_000), (0, 100_000)] {
        let mut buffer = vec![0; end - begin];
        store.read_range(&key("range/a"), begin as u64, &mut buffer).unwrap();
        assert_eq!(buffer, body[begin..end]);
    }
    store
        .read_range(&key("range/a"), 100_000, &mut [])
        .expect("an empty range at the end lies within the object");
    for (offset, length) in [(99_999, 2), (100_000, 1), (100_001, 1), (u64::MAX, 1)] {
        let mut buffer = vec![0; length];
        let error = store.read_range(&key("range/a"), offset, &mut buffer).unwrap_err();
        let end = offset.saturating_add(length as u64);
        assert!(
            matches!(error, Error::Short { wanted_end, size: 100_000, .. } if wanted_end == end),
            "{error}"
        );
    }
}

/// What there is, from nothing to all.
pub fn read_up_to_stops_at_end(store: &dyn ObjectStore) {
    let body = pattern(1000);
    store.put(&key("upto/a"), &body).unwrap();
    let read = |offset, length| store.read_up_to(&key("upto/a"), offset, length).unwrap();
    assert_eq!(read(0, 10), body[..10]);
    assert_eq!(read(990, 10), body[990..]);
    assert_eq!(read(990, 100), body[990..]);
    assert_eq!(read(0, usize::MAX), body);
    assert!(read(5, 0).is_empty());
    assert!(read(1000, 10).is_empty());
    assert!(read(1001, 10).is_empty());
    assert!(read(u64::MAX, usize::MAX).is_empty());
}

/// Nothing before finish, all of it after; pieces of any size, none at all included.
pub fn stream_appears_when_finished(store: &dyn ObjectStore) {
    let body = pattern(2_500_000);
    let streamed = key("stream/deep/a");
    let mut writer = store.put_stream(&streamed).unwrap();
    for piece in [&body[..1], &body[1..1], &body[1..70_000], &body[70_000..]] {
        writer.write(piece).unwrap();
        assert!(store.head(&streamed).unwrap_err().is_not_found());
        assert!(names(store, "stream/").is_empty());
    }
    assert_eq!(writer.finish().unwrap(), body.len() as u64);
    assert_eq!(store.get(&streamed).unwrap(), body);
    assert_eq!(names(store, "stream/"), ["stream/deep/a"]);
    let writer = store.put_stream(&key("stream/empty")).unwrap();
    assert_eq!(writer.finish().unwrap(), 0);
    assert_eq!(store.head(&key("stream/empty")).unwrap().size, 0);
}

/// An abandoned object was never there, and its name is free.
pub fn dropped_stream_leaves_nothing(store: &dyn ObjectStore) {
    let dropped = key("dropped/a");
    let mut writer = store.put_stream(&dropped).unwrap();
    writer.write(&pattern(100_000)).unwrap();
    drop(writer);
    assert!(store.get(&dropped).unwrap_err().is_not_found());
    assert!(names(store, "dropped").is_empty());
    store.put_if_absent(&dropped, b"free").unwrap();
}

/// Of two streams and a put, the first to be finished keeps the name.
pub fn stream_does_not_replace(store: &dyn ObjectStore) {
    let contested = key("noreplace/a");
    let mut first = store.put_stream(&contested).unwrap();
    let mut second = store.put_stream(&contested).unwrap();
    first.write(b"first").unwrap();
    second.write(b"second").unwrap();
    second.finish().unwrap();
    assert!(first.finish().unwrap_err().is_already_exists());
    assert_eq!(store.get(&contested).unwrap(), b"second");
    let third = store.put_stream(&contested).unwrap();
    assert!(third.finish().unwrap_err().is_already_exists());
    assert_eq!(store.get(&contested).unwrap(), b"second");
}

/// Names around the slash in byte order (`%` `-` `.` come before it, digits and letters after).
const SORTED: &[&str] = &[
    "sort/A",
    "sort/a%z",
    "sort/a-b",
    "sort/a-b.c/d",
    "sort/a.b",
    "sort/a/-",
    "sort/a/b",
    "sort/a/b-c",
    "sort/a/b.d/e",
    "sort/a/b0/c",
    "sort/a0",
    "sort/aZ/x",
    "sort/a_b",
    "sort/aa",
    "sort/b/c/d/e/f",
];

/// The order is that of the whole names, not folder by folder, whatever order they were put in.
pub fn lists_are_in_byte_order(store: &dyn ObjectStore) {
    let mut shuffled = SORTED.to_vec();
    shuffled.reverse();
    shuffled.rotate_left(5);
    put_all(store, &shuffled);
    assert!(SORTED.is_sorted());
    assert_eq!(names(store, "sort/"), SORTED);
    assert_eq!(names(store, "sor"), SORTED);
    // A case-insensitive folder would make one object of two.
    put_all(store, &["case/x", "case/X"]);
    assert_eq!(names(store, "case/"), ["case/X", "case/x"]);
}

/// Any text can be a prefix; it need not end at a slash nor name anything.
pub fn prefix_is_text(store: &dyn ObjectStore) {
    put_all(store, SORTED);
    for prefix in [
        "sort/a",
        "sort/a/",
        "sort/a/b",
        "sort/a-",
        "sort/a/b.",
        "sort/aa",
        "sort/aaa",
        "sort/b/c",
        "sort/b/c/d/e/f",
        "sort/b/c/d/e/f/",
        "sort",
        "sort/a/b.d/e",
        "sorted",
        "sort//",
        "sort/ä",
    ] {
        let expected = SORTED.iter().filter(|name| name.starts_with(prefix));
        // An object's own name with a slash is a folder that is not there, or an error.
        if prefix.ends_with("f/") {
            if let Ok(found) = list_all(store, prefix) {
                assert!(found.is_empty());
            }
            continue;
        }
        let expected: Vec<_> = expected.copied().collect();
        assert_eq!(names(store, prefix), expected, "prefix {prefix:?}");
    }
}

/// `after` is any text; the list goes on strictly behind it.
pub fn lists_go_on_after_a_name(store: &dyn ObjectStore) {
    put_all(store, SORTED);
    let others =
        ["", "a", "sort", "sort/", "sort/a", "sort/a/", "sort/a/b.", "sort/a~", "z", "sort/b/"];
    for after in SORTED.iter().copied().chain(others) {
        for prefix in ["sort/", "sort/a", "sort/a/", "sort/a/b", "sort/b/c/d/e/f"] {
            let listed = store.list(prefix, Some(after), 1000).unwrap();
            let listed: Vec<_> = listed.iter().map(|meta| meta.key.as_str()).collect();
            let expected = SORTED.iter().copied();
            let expected = expected.filter(|name| name.starts_with(prefix) && *name > after);
            let expected: Vec<_> = expected.collect();
            assert_eq!(listed, expected, "prefix {prefix:?} after {after:?}");
        }
    }
}

/// Pages of any size are full until the last and together are the list.
pub fn pages_make_the_whole_list(store: &dyn ObjectStore) {
    put_all(store, SORTED);
    for count_max in [1, 2, SORTED.len(), SORTED.len() + 1, 1000] {
        let mut whole: Vec<String> = Vec::new();
        loop {
            let after = whole.last().map(String::as_str);
            let page = store.list("sort/", after, count_max).unwrap();
            assert!(page.len() <= count_max);
            let is_last = page.len() < count_max;
            whole.extend(page.iter().map(|meta| meta.key.as_str().to_owned()));
            if is_last {
                break;
            }
        }
        assert_eq!(whole, SORTED, "pages of {count_max}");
    }
}

/// One list of many pages says what a call for each page says, ends where it is told to, and goes on in the same place
/// when what it has told is removed meanwhile.
pub fn a_list_goes_on_by_itself(store: &dyn ObjectStore) {
    put_all(store, SORTED);
    let told = |after: Option<&str>, count_max: usize, pages_max: usize| {
        let mut pages: Vec<Vec<String>> = Vec::new();
        let mut each = |page: Vec<ObjectMeta>| {
            pages.push(page.iter().map(|meta| meta.key.to_string()).collect());
            match pages.len() < pages_max {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        store.list_pages("sort/", after, count_max, &mut each).unwrap();
        pages
    };
    for count_max in [1, 2, 3, SORTED.len(), SORTED.len() + 1, 1000] {
        for begin in 0..=SORTED.len() {
            let after = begin.checked_sub(1).map(|last| SORTED[last]);
            let mut expected: Vec<&[&str]> = SORTED[begin..].chunks(count_max).collect();
            // The end shows by a page that is not full.
            if expected.last().is_none_or(|last| last.len() == count_max) {
                expected.push(&[]);
            }
            assert_eq!(told(after, count_max, usize::MAX), expected, "{count_max} {after:?}");
            assert_eq!(told(after, count_max, 2), expected[..expected.len().min(2)]);
        }
    }
    let mut left = Vec::new();
    store
        .list_pages("sort/a", None, 4, &mut |page| {
            let keys: Vec<ObjectKey> = page.into_iter().map(|meta| meta.key).collect();
            left.extend(keys.iter().map(ToString::to_string));
            store.delete_many(&keys).unwrap();
            ControlFlow::Continue(())
        })
        .unwrap();
    let expected: Vec<&str> =
        SORTED.iter().copied().filter(|name| name.starts_with("sort/a")).collect();
    assert_eq!(left, expected);
    assert_eq!(names(store, "sort/"), ["sort/A", "sort/b/c/d/e/f"]);
}

/// A prefix is only compared with names: none makes a store look elsewhere.
pub fn no_prefix_reaches_outside(store: &dyn ObjectStore) {
    put_all(store, &["outside/a"]);
    for prefix in ["..", "../", "/", "outside/../", "./", "outside/./", ".tmp/", ".", "\0/"] {
        assert!(list_all(store, prefix).unwrap().is_empty(), "{prefix:?}");
    }
}

/// What is gone may be removed again.
pub fn delete_is_idempotent(store: &dyn ObjectStore) {
    put_all(store, &["delete/a/b", "delete/a/c"]);
    for _ in 0..2 {
        store.delete(&key("delete/a/b")).unwrap();
        assert!(store.get(&key("delete/a/b")).unwrap_err().is_not_found());
    }
    store.delete(&key("delete/never/was")).unwrap();
    assert_eq!(names(store, "delete/"), ["delete/a/c"]);
}

/// A batch may name absent objects and several folders; nothing else goes.
pub fn delete_many_removes_all(store: &dyn ObjectStore) {
    put_all(store, SORTED);
    store.delete_many(&[]).unwrap();
    assert_eq!(names(store, "sort/").len(), SORTED.len());
    let mut doomed: Vec<_> = SORTED.iter().skip(1).map(|name| key(name)).collect();
    doomed.insert(3, key("sort/never"));
    doomed.insert(5, key("sort/never/was"));
    store.delete_many(&doomed).unwrap();
    assert_eq!(names(store, "sort/"), SORTED[..1]);
    store.delete_many(&doomed).unwrap();
}

/// Names at their limits, and names that look like a store's own temporary files.
pub fn unusual_names(store: &dyn ObjectStore) {
    let component = "c".repeat(255);
    let unusual = [
        format!("odd/{component}/{component}"),
        format!("odd/{}", "d/".repeat(347) + "dd"),
        "odd/x.tmp.y".to_owned(),
        "odd/tmp/a.part".to_owned(),
        "odd/a..b...".to_owned(),
        "odd/-_".to_owned(),
        "odd/--help/%/_".to_owned(),
        "odd/%2e%2e/%2F".to_owned(),
    ];
    assert_eq!(unusual.iter().map(String::len).max(), Some(700));
    for name in &unusual {
        store.put_if_absent(&key(name), name.as_bytes()).unwrap();
    }
    for name in &unusual {
        assert_eq!(store.get(&key(name)).unwrap(), name.as_bytes());
        assert_eq!(names(store, name), [name.as_str()]);
    }
    assert_eq!(names(store, "odd/").len(), unusual.len());
    for name in &unusual {
        store.delete(&key(name)).unwrap();
    }
    assert!(names(store, "odd/").is_empty());
}

/// While a name is replaced, every reader gets one of the contents whole.
pub fn readers_see_old_or_new(store: &dyn ObjectStore) {
    let replaced = key("whole/a");
    let body = |version: u8| vec![version; 20_000 + usize::from(version)];
    store.put(&replaced, &body(0)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let read = store.get(&replaced).unwrap();
                    assert_eq!(read, body(read[0]), "a mixture of two contents");
                    let size = store.head(&replaced).unwrap().size;
                    assert!((20_000..=20_020).contains(&size));
                }
            });
        }
        let outcome = (1..=20).try_for_each(|version| store.put(&replaced, &body(version)));
        done.store(true, Ordering::SeqCst);
        outcome.unwrap();
    });
    assert_eq!(store.get(&replaced).unwrap(), body(20));
}
