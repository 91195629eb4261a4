//! Pins, records of expiry and leases, as they are written since there are those.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::TimeDelta;
use pgkeep::base::Ctx;
use pgkeep::repo::{CipherChoice, Keep, KeepHead, LEASE_FOR, LeaseRequest, Pin, Repository, Scope};
use pgkeep::storage::{LocalStore, ReadOnlyStore};

use super::golden::{self, RECORDS, SEGMENT_SIZE, folder};
use crate::support::sample::{self, Sample};

/// Given up, in two runs.
const EXPIRED: [(&str, &str); 2] = [
    ("000000010000000000000000", "000000010000000000000001"),
    ("000000010000000A00000000", "000000010000000A000000FE"),
];

fn ctx() -> Ctx {
    Ctx::fixed(sample::now(), 31)
}

fn pin(sample: &Sample, pinned: bool) -> Pin {
    let until = pinned.then(|| sample::now() + TimeDelta::days(400));
    let reason = if pinned { "audit of 2026 \u{fc}" } else { "" };
    Pin {
        id: sample.id.clone(),
        pinned,
        reason: reason.into(),
        until,
        time: sample::now(),
        host: "db1".into(),
    }
}

fn keep(sample: &Sample, number: u64) -> Keep {
    let head = KeepHead {
        number,
        time: sample::now(),
        host: "db1".into(),
        policy: format!("rules {number}"),
        is_final: false,
    };
    let of = |id: &str| BTreeSet::from([id.parse().unwrap()]);
    let expired = EXPIRED.map(|(first, last)| (first.to_owned(), last.to_owned()));
    Keep {
        number,
        head,
        stored: None,
        removed: of("20261001-020000F_20261002-020000D"),
        swept: BTreeSet::from([sample.abandoned.clone()]),
        vanished: of("20261003-020000F"),
        expired: expired.to_vec(),
    }
}

fn request(sample: &Sample, scope: Scope) -> LeaseRequest<'static> {
    let used = (sample.place.system(), sample.place.epoch(), sample.id.clone());
    LeaseRequest {
        scope,
        cluster: "main",
        host: "db1",
        pid: 4711,
        purpose: "restore",
        backup: (scope == Scope::Use).then_some(used),
        server: (scope == Scope::Backup).then_some("db1:5432"),
        is_gone: |_, _| false,
    }
}

/// The sample with two words on its backup, two decisions, and a lease of each scope, one of them renewed.
fn make(cipher: CipherChoice) -> Sample {
    let sample = sample::make(cipher, SEGMENT_SIZE);
    let (ctx, repository, place) = (ctx(), &sample.repository, &sample.place);
    for pinned in [false, true] {
        repository.put_pin(&ctx, place, &pin(&sample, pinned)).unwrap();
    }
    for number in 0..2 {
        repository.put_keep(&ctx, place, &keep(&sample, number)).unwrap();
    }
    for scope in [Scope::Backup, Scope::Expire, Scope::Tier, Scope::Use] {
        let mut lease = repository.take_lease(&ctx, &request(&sample, scope)).unwrap();
        if scope == Scope::Use {
            lease.renew(&ctx, 2 * LEASE_FOR).unwrap();
        }
    }
    sample
}

#[test]
fn golden_records_are_read() {
    for (name, cipher) in RECORDS {
        let sample = make(cipher);
        let store = ReadOnlyStore::new(LocalStore::open(&folder(name)).unwrap());
        let repository = Repository::open(Arc::new(store), &sample::unlock(cipher)).unwrap();
        let (ctx, place) = (ctx(), &sample.place);
        let pins = repository.pins(&ctx, place).unwrap();
        assert_eq!(pins.into_values().collect::<Vec<_>>(), [pin(&sample, true)], "{name}");
        let kept = repository.kept(&ctx, place).unwrap();
        assert_eq!((kept.numbers, kept.unreadable), (vec![0, 1], vec![]), "{name}");
        let (read, expected) = (kept.newest.unwrap(), keep(&sample, 1));
        assert_eq!(read.head, expected.head, "{name}");
        assert_eq!((read.removed, read.swept), (expected.removed, expected.swept), "{name}");
        assert_eq!((read.vanished, read.expired), (expected.vanished, expected.expired), "{name}");
        for scope in [Scope::Backup, Scope::Expire, Scope::Tier, Scope::Use] {
            let leases = repository.leases(&ctx, scope, "main").unwrap();
            let [lease] = leases.as_slice() else { panic!("{name}: {leases:?}") };
            let wanted = request(&sample, scope);
            assert_eq!((lease.host.as_str(), lease.pid), (wanted.host, wanted.pid));
            assert_eq!(lease.backup, wanted.backup.map(|(_, _, id)| id));
            assert_eq!(lease.server.as_deref(), wanted.server);
            let times = if scope == Scope::Use { 2 } else { 1 };
            assert!(lease.expires >= sample::now() + LEASE_FOR * times, "{name}: {lease:?}");
        }
    }
}

#[test]
fn golden_records_are_written_again_byte_for_byte() {
    for (name, cipher) in RECORDS {
        golden::compare(name, &make(cipher));
    }
}
