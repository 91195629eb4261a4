//! Notes of segments: which have one, and that many are found like few.

use super::window::{facts, name, registration};
use super::*;
use crate::pg::{ArchivedWal, Lsn, SegmentSize};
use crate::repo::{Cut, Kind};
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

/// An init that was killed behind the registration left no mark, and one that was removed never came back: each
/// plan read the facts of twenty thousand segments for ever.
#[test]
fn d2026_11_28_a_lost_mark_is_put_again_with_the_notes_that_are_missing() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::None);
    repository.register(&ctx, &registration()).unwrap();
    let listed = |prefix: &str| list_all(&store, prefix).unwrap().len();
    let is_known = || {
        let survey = repository.survey(&ctx, &place(), &registration()).unwrap();
        survey.notes.points().map(|points| points.stretches().count())
    };
    let remove_all = || {
        let all = list_all(&store, &format!("{}sum/", place().prefix())).unwrap();
        all.iter().for_each(|meta| store.delete(&meta.key).unwrap());
    };
    // Without WAL, whoever registers again promises it again.
    remove_all();
    assert_eq!(is_known(), None);
    repository.promise_notes(&ctx, &place()).unwrap();
    assert_eq!(is_known(), Some(0));
    for number in 1..40 {
        let mut facts = facts(number, Some(now()), SIZE.bytes().into());
        if number % 10 == 0 {
            let point = serde_json::json!({ "name": "here", "lsn": Lsn(number << 24) });
            let found = facts.found.as_mut().unwrap();
            found.restore_points.push(serde_json::from_value(point).unwrap());
        }
        repository.put_note(&ctx, &place(), &facts).unwrap();
        let key = place().wal(&name(number)).unwrap();
        repository.put_wal(&ctx, Kind::Wal, &key, &facts, b"wal").unwrap();
    }
    assert!(!repository.update_notes(&ctx, &place(), SIZE).unwrap(), "it is there");
    assert_eq!(is_known(), Some(3));
    // With WAL, only facts tell.
    remove_all();
    repository.promise_notes(&ctx, &place()).unwrap();
    assert_eq!((is_known(), listed(&place().notes_prefix())), (None, 0));
    repository.summarise(&ctx, &place(), SIZE).unwrap();
    assert_eq!((is_known(), listed(&place().notes_prefix())), (Some(3), 3));
    // Not while nobody can say what is in a segment.
    remove_all();
    let key = place().wal(&name(7)).unwrap();
    let bytes = store.get(&key).unwrap();
    replace(&store, &key, b"damaged");
    assert!(repository.update_notes(&ctx, &place(), SIZE).is_err());
    assert_eq!(is_known(), None);
    replace(&store, &key, &bytes);
    assert!(repository.update_notes(&ctx, &place(), SIZE).unwrap());
    assert_eq!(is_known(), Some(3));
}
