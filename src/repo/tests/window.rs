//! Windows: what facts and names say together, and what asking costs.

use super::manifest::summary;
use super::*;
use crate::pg::{Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId};
use crate::repo::{Backups, Found, Kind, Registration, Summary, WalFacts, Window};
use crate::storage::MeteredStore;

const SIZE: SegmentSize = SegmentSize::DEFAULT;

pub(super) fn name(number: u64) -> String {
    SegmentName::new(TimelineId::FIRST, SegmentNo(number), SIZE).unwrap().to_string()
}

fn at(minutes: i64) -> Timestamp {
    now() + chrono::TimeDelta::minutes(minutes)
}

pub(super) fn registration() -> Registration {
    Registration {
        cluster: "main".into(),
        system: place().system(),
        epoch: 1,
        created: now(),
        major: 15,
        block_size: 8192,
        wal_block_size: 8192,
        wal_segment_size: SIZE.bytes(),
        relation_segment_blocks: 131_072,
    }
}

/// A backup that begins in one segment, ends in the next, and was finished then.
fn backup(id: &str, first: u64, finished: Timestamp) -> Summary {
    let lsn = |number: u64, offset: u64| Lsn(number * u64::from(SIZE.bytes()) + offset);
    Summary {
        id: id.parse().unwrap(),
        finished,
        timeline_stop: 1,
        start_lsn: lsn(first, 0x28),
        stop_lsn: lsn(first + 1, 0x100),
        ..summary()
    }
}

/// Archives a segment whose last commit was then; without one, nothing is known of it.
fn archive(repository: &Repository, ctx: &Ctx, number: u64, latest: Option<Timestamp>, end: u64) {
    put(repository, ctx, number, &facts(number, latest, end));
}

fn put(repository: &Repository, ctx: &Ctx, number: u64, facts: &WalFacts) {
    let key = place().wal(&name(number)).unwrap();
    repository.put_wal(ctx, Kind::Wal, &key, facts, b"wal").unwrap();
}

pub(super) fn facts(number: u64, latest: Option<Timestamp>, end: u64) -> WalFacts {
    let mut found: Found =
        serde_json::from_str(r#"{"read":true,"commits":1,"ending":"full"}"#).unwrap();
    if end < u64::from(SIZE.bytes()) {
        found.ending = "partial".into();
    }
    (found.earliest, found.latest) = (latest, latest);
    found.end = Some(Lsn(number * u64::from(SIZE.bytes()) + end));
    WalFacts {
        name: name(number),
        system: place().system(),
        size: 3,
        digest: "x".repeat(64),
        timeline: Some(1),
        address: None,
        found: Some(found),
        by: None,
    }
}

fn windows(repository: &Repository, ctx: &Ctx, backups: Vec<Summary>) -> Vec<Window> {
    let survey = repository.survey(ctx, &place(), &registration()).unwrap();
    let backups = Backups { complete: backups, ..Backups::default() };
    backups.windows(ctx, repository, &place(), &survey.wal).unwrap()
}

#[test]
fn a_hole_divides_and_a_damaged_segment_is_one() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let full = u64::from(SIZE.bytes());
    for (number, latest) in [(2, at(1)), (3, at(3)), (4, at(4)), (7, at(8)), (8, at(9))] {
        archive(&repository, &ctx, number, Some(latest), full);
    }
    archive(&repository, &ctx, 9, None, 0x3000);
    let backups = vec![
        backup("20261120-020000F", 2, at(2)),
        backup("20261120-030000F", 3, at(5)),
        backup("20261120-040000F", 7, at(8)),
        backup("20261120-050000F", 9, at(10)),
    ];
    let found = windows(&repository, &ctx, backups.clone());
    let spans: Vec<_> = found.iter().map(|w| (w.from, w.to, w.last_segment.clone())).collect();
    // The second backup ends later than the last commit that its WAL has: its clock proves nothing.
    assert_eq!(spans, [(at(2), at(4), name(4)), (at(8), at(9), name(9))]);
    assert!(found.iter().all(|window| !window.only_end));
    assert_eq!(found[0].backup, backups[0].id);
    assert_eq!((found[0].from_lsn, found[0].to_lsn), (backups[0].stop_lsn, Lsn(5 * full)));
    assert_eq!(found[1].to_lsn, Lsn(9 * full + 0x3000), "its records stop early");
    // A damaged segment is a hole: two backups' own WAL is not whole then.
    replace(&store, &place().wal(&name(8)).unwrap(), b"damaged");
    let found = windows(&repository, &ctx, backups.clone());
    assert_eq!(found.len(), 1);
    // At the end of the archive too.
    replace(&store, &place().wal(&name(4)).unwrap(), b"damaged");
    let found = windows(&repository, &ctx, backups);
    assert_eq!((found[0].to, found[0].last_segment.clone()), (at(3), name(3)));
}

/// A server that ran with `wal_level = minimal` for a moment: recovery from the backups before stops
/// there, and a backup behind it in the same segment opens a window of its own.
#[test]
fn d20261124_a_window_ends_where_wal_was_minimal() {
    let ctx = ctx();
    let full = u64::from(SIZE.bytes());
    let barrier = Lsn(4 * full + 0x8000);
    let backups = vec![
        backup("20261120-020000F", 2, at(2)),
        Summary {
            start_lsn: Lsn(4 * full + 0x9000),
            stop_lsn: Lsn(4 * full + 0xA000),
            ..backup("20261120-030000F", 4, at(5))
        },
    ];
    let change = r#"{"lsn":"0/4008000","wal_level":"minimal","max_connections":100,
        "max_worker_processes":8,"max_wal_senders":0,"max_prepared_transactions":0,
        "max_locks_per_transaction":64}"#;
    let made = |is_minimal: bool| {
        let (repository, store) = fresh(&ctx, CipherChoice::None);
        for (number, latest) in [(2, at(1)), (3, at(3)), (4, at(4)), (5, at(9))] {
            let mut facts = facts(number, Some(latest), full);
            if let Some(found) = facts.found.as_mut().filter(|_| is_minimal && number == 4) {
                found.parameters = vec![serde_json::from_str(change).unwrap()];
            }
            // A repeated push tells it again; one of another content, which is refused, misleads nobody.
            let refused = WalFacts { digest: "y".repeat(64), ..facts.clone() };
            for facts in [&facts, &facts, &refused] {
                repository.put_note(&ctx, &place(), facts).unwrap();
            }
            put(&repository, &ctx, number, &facts);
        }
        let notes = crate::storage::list_all(&store, &place().notes_prefix()).unwrap().len();
        (repository, notes)
    };
    let (without, notes) = made(false);
    assert_eq!((windows(&without, &ctx, backups.clone()).len(), notes), (1, 0), "nothing to tell");
    let (repository, notes) = made(true);
    assert_eq!(notes, 2);
    let windows = windows(&repository, &ctx, backups.clone());
    let spans: Vec<_> = windows.iter().map(|w| (&w.backup, w.from, w.to, w.to_lsn)).collect();
    let expected =
        [(&backups[0].id, at(2), at(3), barrier), (&backups[1].id, at(5), at(9), Lsn(6 * full))];
    assert_eq!(spans, expected);
}

#[test]
fn windows_cost_as_much_however_long_the_wal_is() {
    const SEGMENTS: u64 = 5_000;
    let ctx = ctx();
    let (made, store) = fresh(&ctx, CipherChoice::None);
    for number in 2..SEGMENTS {
        store.put(&place().wal(&name(number)).unwrap(), b"never read").unwrap();
    }
    archive(&made, &ctx, SEGMENTS, Some(at(9)), SIZE.bytes().into());
    let metered = Arc::new(MeteredStore::new(store));
    let repository = Repository::open(metered.clone(), &Unlock::Clear).unwrap();
    metered.reset();
    let backups = (0..20).map(|i| backup("20261120-020000F", 2 + 10 * i, at(1)));
    let found = windows(&repository, &ctx, backups.collect());
    assert_eq!((found.len(), found[0].to), (1, at(9)));
    let cost = metered.requests();
    // The segments, the histories, two sorts of summaries, what expiry decided; and the mark of one of them.
    assert_eq!(cost.list, SEGMENTS / 1000 + 4, "{cost:?}");
    assert!(cost.reads() - cost.list <= 4, "{cost:?}");
}

/// The newest segment held an idle server's checkpoint, whose time has whole seconds; the commit of the
/// same second in the segment before was newer, and a target between the two was refused.
#[test]
fn d20261120_a_checkpoint_s_whole_second_hides_no_commit_before_it() {
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::None);
    let full = u64::from(SIZE.bytes());
    let commit = at(5) + chrono::TimeDelta::milliseconds(700);
    archive(&repository, &ctx, 2, Some(at(1)), full);
    archive(&repository, &ctx, 3, Some(commit), full);
    let mut found: Found = serde_json::from_str(r#"{"read":true,"ending":"full"}"#).unwrap();
    found.last_checkpoint = Some(at(5));
    found.end = Some(Lsn(5 * full));
    let facts = WalFacts {
        name: name(4),
        system: place().system(),
        size: 3,
        digest: "x".into(),
        timeline: Some(1),
        address: None,
        found: Some(found),
        by: None,
    };
    let key = place().wal(&name(4)).unwrap();
    repository.put_wal(&ctx, Kind::Wal, &key, &facts, b"wal").unwrap();
    let found = windows(&repository, &ctx, vec![backup("20261120-020000F", 2, at(2))]);
    assert_eq!((found.len(), found[0].to), (1, commit));
}

/// The server's clock after a backup was taken for a moment that the archive proves; what a busy server
/// committed meanwhile, or a standby had not replayed, was missing, and "nothing" was lost.
#[test]
fn d20261124_a_backup_s_end_proves_no_moment() {
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::None);
    let full = u64::from(SIZE.bytes());
    archive(&repository, &ctx, 2, Some(at(1)), full);
    archive(&repository, &ctx, 3, Some(at(2)), full);
    let shown = |repository: &Repository| {
        let found = windows(repository, &ctx, vec![backup("20261120-020000F", 2, at(5))]);
        (found.len(), found[0].from, found[0].to, found[0].only_end)
    };
    assert_eq!(shown(&repository), (1, at(5), at(5), true));
    archive(&repository, &ctx, 4, Some(at(7)), full);
    assert_eq!(shown(&repository), (1, at(5), at(7), false));
}

/// Names below `c/` that nobody here put cost a request each.
#[test]
fn d2026_11_28_strangers_among_the_clusters_cost_little() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    for epoch in 1..=3 {
        repository.register(&ctx, &Registration { epoch, ..registration() }).unwrap();
    }
    for i in 0..2500 {
        store.put(&ObjectKey::new(format!("c/main/stranger/{i}")).unwrap(), b"").unwrap();
        let beside = format!("c/main/{}-x/{i}", registration().system);
        store.put(&ObjectKey::new(beside).unwrap(), b"").unwrap();
    }
    let metered = Arc::new(MeteredStore::new(store));
    let repository = Repository::open(metered.clone(), &key_file(1)).unwrap();
    metered.reset();
    let epochs: Vec<u32> = repository.places().unwrap().iter().map(Place::epoch).collect();
    assert_eq!(epochs, [1, 2, 3]);
    let (place, _) = repository.find_cluster("main", registration().system).unwrap();
    assert_eq!(place.epoch(), 3);
    assert!(metered.requests().list < 20, "{:?}", metered.requests());
}
