//! Leases, pins and records of what expiry decided.

use std::time::Duration;

use chrono::TimeDelta;

use super::*;
use crate::repo::{
    Error, Keep, KeepHead, LEASE_FOR, Lease, LeaseRequest, Pin, RENEW_AFTER, SKEW_MAX, Scope,
};
use crate::storage::{FaultyStore, list_all};

fn request(scope: Scope, host: &str) -> LeaseRequest<'_> {
    LeaseRequest {
        scope,
        cluster: "main",
        host,
        pid: 7,
        purpose: "a test",
        backup: None,
        server: None,
        is_gone: |host, _| host == "gone",
    }
}

/// A repository on a store that knows the time, by this clock.
fn timed(ctx: &Ctx) -> (Repository, MemoryStore) {
    let store = MemoryStore::with_clock(Arc::clone(&ctx.clock));
    let unlock = key_file(1);
    let options =
        InitOptions { cipher: CipherChoice::None, unlock: &unlock, label: "first", cost: 14 };
    (Repository::init(ctx, Arc::new(store.clone()), &options).unwrap(), store)
}

fn take(
    repository: &Repository,
    ctx: &Ctx,
    scope: Scope,
    host: &str,
) -> crate::repo::Result<Lease> {
    repository.take_lease(ctx, &request(scope, host))
}

#[test]
fn f084_f097_one_holds_a_lease_until_it_is_given_back_or_ends() {
    let ctx = ctx();
    let (repository, store) = timed(&ctx);
    let mut first = take(&repository, &ctx, Scope::Expire, "db1").unwrap();
    match take(&repository, &ctx, Scope::Expire, "db2") {
        Err(Error::Held(by)) => {
            assert_eq!((by.host.as_str(), by.pid, by.purpose.as_str()), ("db1", 7, "a test"));
        }
        other => panic!("{other:?}"),
    }
    // Other work, another cluster.
    take(&repository, &ctx, Scope::Tier, "db2").unwrap();
    let other = LeaseRequest { cluster: "other", ..request(Scope::Expire, "db2") };
    repository.take_lease(&ctx, &other).unwrap();
    // Renewed, it holds on.
    ctx.clock.sleep(RENEW_AFTER * 2);
    first.keep_up(&ctx).unwrap();
    ctx.clock.sleep(LEASE_FOR - Duration::from_secs(1));
    assert!(take(&repository, &ctx, Scope::Expire, "db2").is_err());
    first.require(&ctx).unwrap();
    // Not renewed, it ends, and its holder knows.
    ctx.clock.sleep(Duration::from_secs(1));
    let mut second = take(&repository, &ctx, Scope::Expire, "db2").unwrap();
    assert!(matches!(first.keep_up(&ctx), Err(Error::LeaseLost { .. })));
    second.release(&ctx);
    let listed = list_all(&store, "lease/expire/main/").unwrap();
    assert_eq!(listed.len(), 1, "the first one's, which nobody gave back: {listed:?}");
    take(&repository, &ctx, Scope::Expire, "db3").unwrap();
}

#[test]
fn who_is_surely_gone_or_of_the_same_server_is_in_nobody_s_way_and_uses_never_are() {
    let ctx = ctx();
    let (repository, _) = timed(&ctx);
    take(&repository, &ctx, Scope::Expire, "gone").unwrap();
    take(&repository, &ctx, Scope::Expire, "db1").unwrap();
    let of_server =
        |host, server| LeaseRequest { server: Some(server), ..request(Scope::Backup, host) };
    repository.take_lease(&ctx, &of_server("db1", "a")).unwrap();
    repository.take_lease(&ctx, &of_server("db1", "a")).unwrap();
    assert!(repository.take_lease(&ctx, &of_server("db2", "b")).is_err());
    for _ in 0..2 {
        take(&repository, &ctx, Scope::Use, "db1").unwrap();
    }
    assert_eq!(repository.leases(&ctx, Scope::Use, "main").unwrap().len(), 2);
}

#[test]
fn leases_that_ended_and_heartbeats_that_were_followed_are_swept() {
    let ctx = ctx();
    let (repository, store) = timed(&ctx);
    let mut kept = take(&repository, &ctx, Scope::Use, "db1").unwrap();
    // Its holder may not remove anything.
    let old = crate::repo::layout::lease("use", "main", kept.holder(), 0).unwrap();
    let bytes = store.get(&old).unwrap();
    kept.renew(&ctx, Duration::from_hours(72)).unwrap();
    store.put(&old, &bytes).unwrap();
    take(&repository, &ctx, Scope::Use, "db2").unwrap();
    assert_eq!(repository.sweep_leases(&ctx, "main").unwrap(), 1, "the heartbeat");
    ctx.clock.sleep(Duration::from_hours(25));
    assert_eq!(repository.sweep_leases(&ctx, "main").unwrap(), 1, "the one that ended");
    assert_eq!(repository.leases(&ctx, Scope::Use, "main").unwrap().len(), 1);
    assert_eq!(repository.sweep_leases(&ctx, "main").unwrap(), 0);
}

/// A store whose clock is another one.
#[test]
fn f087_a_clock_that_is_far_from_the_store_s_takes_no_lease() {
    let ctx = ctx();
    let (repository, store) = timed(&ctx);
    for (ahead, says) in [(1, "ahead of"), (-1, "behind")] {
        let off = (SKEW_MAX + TimeDelta::seconds(5)) * ahead;
        let there = Ctx::fixed(ctx.clock.now() + off, 7);
        match take(&repository, &there, Scope::Expire, "db1") {
            Err(Error::ClockSkew { seconds, direction }) => {
                assert!((120..=125).contains(&seconds), "{seconds}");
                assert_eq!(direction, says);
            }
            other => panic!("{other:?}"),
        }
        take(&repository, &there, Scope::Backup, "db1").unwrap().release(&there);
        let near = Ctx::fixed(ctx.clock.now() + SKEW_MAX * ahead, 8);
        take(&repository, &near, Scope::Expire, "db1").unwrap().release(&near);
    }
    assert_eq!(list_all(&store, "lease/").unwrap(), [], "each was withdrawn or given back");
}

/// Of racers at most one holds it, at every moment.
#[test]
fn of_many_at_once_at_most_one_holds_it() {
    for seed in 0..20 {
        let ctx = Ctx::fixed(now(), seed);
        let (repository, _) = timed(&ctx);
        let holders: usize = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..6)
                .map(|racer| {
                    let (repository, host) = (&repository, format!("db{racer}"));
                    let ctx = Ctx::fixed(now(), seed * 100 + racer);
                    scope.spawn(move || {
                        usize::from(take(repository, &ctx, Scope::Expire, &host).is_ok())
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum()
        });
        assert!(holders <= 1, "seed {seed}: {holders}");
    }
}

fn keep(number: u64, removed: &[&str]) -> Keep {
    let head = KeepHead {
        number,
        time: now(),
        host: "db1".into(),
        policy: "daily 7".into(),
        is_final: false,
    };
    let removed = removed.iter().map(|id| id.parse().unwrap()).collect();
    let expired = ("000000010000000000000000".into(), "000000010000000000000003".into());
    let (swept, vanished) = (Default::default(), ["20261101-020000F".parse().unwrap()].into());
    Keep { number, head, stored: None, removed, swept, vanished, expired: vec![expired] }
}

const FULL: &str = "20261120-020000F";

#[test]
fn f084_of_two_who_decide_at_once_one_does() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let size = crate::pg::SegmentSize::DEFAULT;
    assert!(repository.kept(&ctx, &place()).unwrap().newest.is_none());
    repository.put_keep(&ctx, &place(), &keep(0, &[])).unwrap();
    repository.put_keep(&ctx, &place(), &keep(1, &[FULL])).unwrap();
    let refused = repository.put_keep(&ctx, &place(), &keep(1, &[])).unwrap_err();
    assert!(matches!(refused, Error::Storage(error) if error.is_already_exists()));
    let kept = repository.kept(&ctx, &place()).unwrap();
    let newest = kept.newest.as_ref().unwrap();
    assert_eq!((newest.number, kept.last_number), (1, Some(1)));
    assert!(kept.is_removing(&FULL.parse().unwrap()));
    assert_eq!((newest.vanished.len(), newest.expired_wal(size).stretches().count()), (1, 1));
    // What cannot be read does not pass for nothing.
    let bytes = store.get(&place().keep(1)).unwrap();
    replace(&store, &place().keep(1), &bytes[..bytes.len() - 1]);
    let kept = repository.kept(&ctx, &place()).unwrap();
    assert_eq!((kept.newest.unwrap().number, kept.unreadable.len()), (0, 1));
    let id = "20261119-020000F".parse().unwrap();
    assert!(matches!(repository.require_kept(&ctx, &place(), &id), Err(Error::Corrupt { .. })));
}

fn pin(pinned: bool) -> Pin {
    let (id, reason, host) = (FULL.parse().unwrap(), "audit".into(), "db1".into());
    Pin { id, pinned, reason, until: Some(now()), time: now(), host }
}

#[test]
fn the_last_word_on_a_pin_counts_and_one_that_cannot_be_read_pins() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let absent = repository.put_pin(&ctx, &place(), &pin(true)).unwrap_err();
    assert!(matches!(absent, Error::NoBackup { .. }), "{absent}");
    super::manifest::commit_any(&repository, &ctx);
    repository.put_pin(&ctx, &place(), &pin(true)).unwrap();
    assert_eq!(repository.pins(&ctx, &place()).unwrap()[&pin(true).id], pin(true));
    repository.put_pin(&ctx, &place(), &pin(false)).unwrap();
    assert!(!repository.pins(&ctx, &place()).unwrap()[&pin(true).id].pinned);
    replace(&store, &place().pin(&pin(true).id, 1), b"nonsense");
    let unreadable = &repository.pins(&ctx, &place()).unwrap()[&pin(true).id];
    assert!(unreadable.pinned && unreadable.until.is_none(), "{unreadable:?}");
    // Expiry has decided: too late.
    repository.put_keep(&ctx, &place(), &keep(0, &[FULL])).unwrap();
    let late = repository.put_pin(&ctx, &place(), &pin(true)).unwrap_err();
    assert!(matches!(late, Error::Expiring { .. }), "{late}");
}

/// Whatever fails, no lease is left for longer than it holds.
#[test]
fn a_lease_that_could_not_be_looked_after_is_not_held() {
    use crate::storage::faulty::Effect;
    for (number, effect) in (1..8).flat_map(|n| [(n, Effect::None), (n, Effect::Full)]) {
        let ctx = ctx();
        let (repository, store) = timed(&ctx);
        let faulty = FaultyStore::new(store);
        let broken = repository.reopened(Arc::new(faulty.clone())).unwrap().unwrap();
        faulty.die_at(faulty.operations() + number, effect);
        // List, put, look at its time, list, read it.
        let taken = take(&broken, &ctx, Scope::Expire, "db1");
        assert_eq!(taken.is_ok(), number > 5, "operation {number}: {taken:?}");
        ctx.clock.sleep(LEASE_FOR);
        take(&repository, &ctx, Scope::Expire, "db2").unwrap();
    }
}
