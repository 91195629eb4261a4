//! Ranges of WAL: what they save, and what they are not believed.

use super::window::{name, registration};
use super::*;
use crate::pg::{ArchivedWal, SegmentSize, Stretch};
use crate::repo::Survey;
use crate::storage::{MeteredStore, list_all};

const SIZE: SegmentSize = SegmentSize::DEFAULT;

struct Made {
    ctx: Ctx,
    repository: Repository,
    metered: MeteredStore<MemoryStore>,
    store: MemoryStore,
}

/// An archive of these segments of timeline 1; nobody reads them.
fn made(numbers: impl Iterator<Item = u64>) -> Made {
    let ctx = ctx();
    let (_, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let metered = MeteredStore::new(store.clone());
    let repository = Repository::open(Arc::new(metered.clone()), &key_file(1)).unwrap();
    let made = Made { ctx, repository, metered, store };
    numbers.for_each(|number| made.put(number));
    made
}

impl Made {
    fn key(number: u64) -> ObjectKey {
        place().wal(&name(number)).unwrap()
    }

    fn put(&self, number: u64) {
        self.store.put(&Self::key(number), b"never read").unwrap();
    }

    fn update(&self) -> u64 {
        self.repository.update_ranges(&self.ctx, &place(), SIZE).unwrap()
    }

    /// What a survey finds, and how many pages it lists.
    fn survey(&self) -> (Survey, u64) {
        self.metered.reset();
        let survey = self.repository.survey(&self.ctx, &place(), &registration()).unwrap();
        (survey, self.metered.reset().list)
    }

    fn by_list(&self) -> Survey {
        self.repository.survey_by_list(&self.ctx, &place(), &registration()).unwrap()
    }

    fn summaries(&self) -> Vec<ObjectKey> {
        let listed = list_all(&self.store, &place().ranges_prefix()).unwrap();
        listed.into_iter().map(|meta| meta.key).collect()
    }
}

fn runs(wal: &ArchivedWal) -> Vec<(u64, u64)> {
    wal.stretches().map(|Stretch { first, last, .. }| (first.0, last.0)).collect()
}

#[test]
fn what_a_summary_covers_is_not_listed() {
    let made = made((2..12_000).filter(|number| *number != 7_000));
    let (before, pages) = made.survey();
    let expected = [(2, 6_999), (7_001, 11_999)];
    assert_eq!(runs(&before.wal), expected);
    assert!(pages > 12, "{pages}");
    assert_eq!((made.update(), made.update()), (1, 0));
    let (after, pages) = made.survey();
    assert_eq!(runs(&after.wal), expected);
    assert_eq!(after.claimed.iter().map(Stretch::count).sum::<u64>(), 11_997 - 1_000);
    // Of segments: the beginning, the end, the hole. The rest are other things.
    assert!(pages <= 3 + 4, "{pages}");
    assert_eq!(runs(&made.by_list().wal), expected);
    // What comes later is listed, until there is much of it.
    (12_000..14_001).for_each(|number| made.put(number));
    assert_eq!(runs(&made.survey().0.wal), [(2, 6_999), (7_001, 14_000)]);
    assert_eq!((made.update(), made.summaries().len()), (1, 2));
    assert_eq!(runs(&made.survey().0.wal), [(2, 6_999), (7_001, 14_000)]);
}

#[test]
fn a_late_segment_and_the_removal_of_old_ones_are_seen() {
    let made = made((100..6_000).filter(|number| ![3_000, 3_001, 5_000].contains(number)));
    assert_eq!(made.update(), 1);
    // Into a hole, before the first; an archiver sends several at once.
    for number in [3_001, 5_000, 50] {
        made.put(number);
    }
    assert_eq!(runs(&made.survey().0.wal), [(50, 50), (100, 2_999), (3_001, 5_999)]);
    // Expiry goes from the oldest on.
    made.store.delete(&Made::key(50)).unwrap();
    (100..4_000).for_each(|number| made.store.delete(&Made::key(number)).unwrap());
    let (survey, _) = made.survey();
    assert_eq!(runs(&survey.wal), [(4_000, 5_999)]);
    (4_000..6_000).for_each(|number| made.store.delete(&Made::key(number)).unwrap());
    assert_eq!(runs(&made.survey().0.wal), []);
}

#[test]
fn a_segment_that_is_gone_is_missed_by_who_lists_and_by_the_next_summary() {
    let made = made(1..6_000);
    assert_eq!(made.update(), 1);
    for number in [4_000, 4_001, 5_999] {
        made.store.delete(&Made::key(number)).unwrap();
    }
    let (survey, _) = made.survey();
    assert_eq!((runs(&survey.wal), survey.complaints.len()), (vec![(1, 5_999)], 0));
    let truth = made.by_list();
    assert_eq!(runs(&truth.wal), [(1, 3_999), (4_002, 5_998)]);
    let complaints = truth.complaints.join("\n");
    assert!(complaints.contains(&name(4_000)) && complaints.contains(&name(5_999)), "{complaints}");
    (6_000..8_000).for_each(|number| made.put(number));
    assert_eq!(made.update(), 1);
    assert_eq!(runs(&made.survey().0.wal), [(1, 3_999), (4_002, 5_998), (6_000, 7_999)]);
    assert_eq!(made.by_list().complaints, [""; 0]);
}

#[test]
fn a_lost_or_damaged_summary_costs_time() {
    let made = made((1..6_000).filter(|number| *number != 70));
    let expected = [(1, 69), (71, 5_999)];
    assert_eq!(made.update(), 1);
    let key = made.summaries().remove(0);
    let bytes = made.store.get(&key).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        for damaged in [&changed[..], &bytes[..at]] {
            replace(&made.store, &key, damaged);
            let (survey, pages) = made.survey();
            assert_eq!((runs(&survey.wal), survey.complaints.len()), (expected.to_vec(), 1));
            assert!(pages > 6, "byte {at}: {pages}");
        }
    }
    made.store.delete(&key).unwrap();
    assert_eq!(runs(&made.survey().0.wal), expected);
    assert_eq!(made.update(), 1, "it is written again");
    // One whose name is taken by what nobody can read is written as soon as there is another name.
    replace(&made.store, &key, b"damaged");
    assert_eq!(made.update(), 0);
    made.put(6_000);
    assert_eq!(made.update(), 1);
    assert_eq!(runs(&made.survey().0.wal), [(1, 69), (71, 6_000)]);
}

#[test]
fn other_timelines_and_names_that_do_not_fit_are_listed_as_ever() {
    let made = made(1..4_000);
    for timeline in [2_u32, 3, 0xA] {
        for number in 10..20 {
            let name = format!("{timeline:08X}{}", &name(number)[8..]);
            made.store.put(&place().wal(&name).unwrap(), b"never read").unwrap();
        }
    }
    let (before, _) = made.survey();
    assert_eq!(made.update(), 1);
    let (after, _) = made.survey();
    assert_eq!(runs(&after.wal), runs(&before.wal));
    assert_eq!(after.wal.timelines().len(), 4);
    // Of a cluster with smaller segments.
    let odd = "000000010000000000000FFF";
    made.store.put(&place().wal(odd).unwrap(), b"never read").unwrap();
    assert!(made.by_list().wal.misfits.contains(&odd.to_owned()));
}

/// One name of another segment size, and a timeline had no summary again; one within it would have hidden
/// such a name from `info`.
#[test]
fn d2026_11_28_names_that_fit_no_segment_stop_no_summary() {
    let made = made(1..8_000);
    let odd = ["000000010000000900000FFF", "0000000100000009FFFFFFFF", "00000001000000110000F000"];
    for name in odd {
        made.store.put(&place().wal(name).unwrap(), b"never read").unwrap();
    }
    assert_eq!(made.update(), 1);
    let (survey, pages) = made.survey();
    assert_eq!(runs(&survey.wal), [(1, 7_999)]);
    let mut misfits = survey.wal.misfits.clone();
    misfits.sort();
    assert_eq!(misfits, odd);
    // The beginning, the end, two holes, each in two short pages.
    assert!(pages <= 6 + 4, "{pages}");
    assert_eq!(made.update(), 0);
    assert_eq!(made.by_list().complaints, [""; 0]);
}

/// Whoever may put objects put three behind the newest summary, and none was read again.
#[test]
fn d2026_11_28_what_a_stranger_puts_beside_the_ranges_is_passed_over() {
    let made = made(1..6_000);
    assert_eq!(made.update(), 1);
    for log in 0x100..0x120 {
        let name = format!("00000001{log:08X}00000000");
        made.store.put(&place().ranges(&name).unwrap(), b"junk").unwrap();
    }
    let (survey, pages) = made.survey();
    assert_eq!(runs(&survey.wal), [(1, 5_999)]);
    assert!(pages <= 2 + 4, "{pages}");
    assert_eq!(made.update(), 0);
    assert_eq!(survey.complaints.len(), 4, "{:?}", survey.complaints);
}

#[test]
fn a_long_archive_that_is_listed_side_by_side_is_found_whole() {
    let missing = [9_500, 40_000, 40_001, 54_321, 89_999];
    let made = made((2..90_001).filter(|number| !missing.contains(number)));
    let far = [
        // Of another timeline, of another segment size, and far behind all others.
        "00000002000000000000000A",
        "000000010000010000000FFF",
        "00000001FFFFFFFF00000000",
    ];
    for name in far {
        made.store.put(&place().wal(name).unwrap(), b"never read").unwrap();
    }
    let (survey, pages) = made.survey();
    let expected = [(2, 9_499), (9_501, 39_999), (40_002, 54_320), (54_322, 89_998)];
    let last = 0xFFFF_FFFF_u64 << 8;
    let expected = [&expected[..], &[(90_000, 90_000), (last, last), (10, 10)]].concat();
    assert_eq!(runs(&survey.wal), expected);
    assert_eq!(survey.wal.misfits, [far[1]]);
    assert!((95..160).contains(&pages), "{pages}");
    // Many that are spread out are found, too.
    let made = self::made((1..20_000).map(|number| number * 50));
    assert_eq!(made.survey().0.wal.stretches().count(), 19_999);
}
