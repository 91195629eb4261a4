//! Notes of segments: which have one, and that many are found like few.

use super::window::{facts, name};
use super::*;
use crate::pg::{ArchivedWal, Lsn, SegmentSize};
use crate::repo::Cut;
use crate::storage::{MeteredStore, list_all};

const SIZE: SegmentSize = SegmentSize::DEFAULT;

/// The letters of the note of a segment whose last record is cut so.
fn noted(repository: &Repository, store: &MemoryStore, number: u64, cut: Cut) -> Vec<String> {
    let mut facts = facts(number, Some(now()), SIZE.bytes().into());
    facts.size = SIZE.bytes().into();
    facts.found.as_mut().unwrap().cut = Some(cut);
    repository.put_note(&ctx(), &place(), &facts).unwrap();
    let prefix = format!("{}{}.", place().notes_prefix(), name(number));
    let listed = list_all(store, &prefix).unwrap();
    let letters = |meta: &crate::storage::ObjectMeta| {
        meta.key.as_str()[prefix.len()..].split('.').next().unwrap().to_owned()
    };
    listed.iter().map(letters).collect()
}

/// Each record whose header was cut counted as a restore point: one segment in ten had a note, and cost two
/// requests. How long a record is lies in its first four bytes, and so always in the segment.
#[test]
fn d2026_11_28_a_cut_header_is_a_restore_point_by_its_length_only() {
    let (repository, store) = fresh(&ctx(), CipherChoice::None);
    let (xlog, heap) = (Some(0), Some(10));
    let cases = [
        // How much of it is in the segment, its kind, its length.
        (8, None, Some(150), false),
        (16, None, Some(97), false),
        (8, None, Some(98), true),
        (16, None, Some(103), true),
        (24, xlog, Some(98), true),
        (96, xlog, Some(103), true),
        // An image of a page, of the same kind.
        (24, xlog, Some(8_000), false),
        (24, heap, Some(98), false),
        // Of an older version, which did not say.
        (8, None, None, true),
        (24, xlog, None, true),
        (104, xlog, None, false),
        (24, heap, None, false),
    ];
    for (number, (held, rmgr, bytes, is_noted)) in (1..).zip(cases) {
        let lsn = Lsn((number + 1) * u64::from(SIZE.bytes()) - held);
        let noted = noted(&repository, &store, number, Cut { lsn, xid: None, rmgr, bytes });
        let expected: &[&str] = if is_noted { &["p"] } else { &[] };
        assert_eq!(noted, expected, "{held} {rmgr:?} {bytes:?}");
    }
}

#[test]
fn many_notes_are_listed_side_by_side_and_none_is_missed() {
    let ctx = ctx();
    let (made, store) = fresh(&ctx, CipherChoice::None);
    made.promise_notes(&ctx, &place()).unwrap();
    let timeline = |timeline: u32, number: u64| format!("{timeline:08X}{}", &name(number)[8..]);
    let mut wal = ArchivedWal::new(SIZE);
    let mut expected = ArchivedWal::new(SIZE);
    let mut note = |name: &str| {
        let digest = "0123456789abcdef";
        store.put(&place().note(name, "p", digest).unwrap(), b"never read").unwrap();
        expected.add(name);
    };
    for number in 1..20_000 {
        wal.add(&name(number));
        if number % 5 == 0 {
            note(&name(number));
        }
    }
    for number in 100..2_000 {
        wal.add(&timeline(3, number));
        note(&timeline(3, number));
    }
    // Before and behind all that is archived, and on another timeline.
    note(&name(0));
    (30_000..30_100).for_each(|number| note(&name(number)));
    (1..3_000).for_each(|number| note(&timeline(9, number)));
    let metered = MeteredStore::new(store.clone());
    let repository = Repository::open(Arc::new(metered.clone()), &Unlock::Clear).unwrap();
    for (wal, cost) in [(wal, 24), (ArchivedWal::new(SIZE), 11)] {
        metered.reset();
        let (notes, hidden) = repository.notes(&ctx, &place(), &wal).unwrap();
        assert_eq!(hidden, None);
        assert!(notes.points().unwrap().stretches().eq(expected.stretches()));
        assert!(metered.reset().list <= cost, "{cost}");
    }
}
