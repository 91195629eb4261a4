//! First write wins in buckets whose server honours conditional puts, and in those that ignore them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgkeep::base::{Clock, Ctx, ManualClock, SeededEntropy, Silent, Timestamp};
use pgkeep::crypt::Unlock;
use pgkeep::repo::{
    self, CipherChoice, InitOptions, Kind, Origin, Place, Repository, WalFacts, WalPut, layout,
};
use pgkeep::storage::{ObjectStore as _, S3Store};

use crate::s3_store::options;
use crate::support::run::{DEADLINE, wait_until};
use crate::support::s3::{Fault, TestS3};

fn ctx() -> Ctx {
    Ctx::system(Arc::new(Silent))
}

fn store(s3: &TestS3) -> Arc<S3Store> {
    Arc::new(S3Store::open(&ctx(), options(s3)).unwrap())
}

fn init(s3: &TestS3) -> repo::Result<Repository> {
    init_by(&ctx(), s3)
}

fn init_by(ctx: &Ctx, s3: &TestS3) -> repo::Result<Repository> {
    let unlock = Unlock::Clear;
    let options = InitOptions { cipher: CipherChoice::None, unlock: &unlock, label: "", cost: 0 };
    Repository::init(ctx, store(s3), &options)
}

fn ignoring() -> TestS3 {
    TestS3::builder().ignores_conditions().start()
}

const SEGMENT: &str = "000000010000000000000007";

fn put(repository: &Repository, content: &[u8]) -> repo::Result<WalPut> {
    put_by(&ctx(), "here", repository, content)
}

fn put_by(ctx: &Ctx, host: &str, repository: &Repository, content: &[u8]) -> repo::Result<WalPut> {
    let place = Place::new("main", 7, 1).unwrap();
    let facts = WalFacts {
        name: SEGMENT.into(),
        system: 7,
        size: content.len() as u64,
        digest: repository.content_digest(content),
        timeline: None,
        address: None,
        found: None,
        by: Some(Origin { host: host.to_owned(), directory: "/data".to_owned() }),
    };
    repository.put_wal(ctx, Kind::Wal, &place.wal(SEGMENT).unwrap(), &facts, content)
}

fn stored(repository: &Repository) -> repo::Result<Vec<u8>> {
    let place = Place::new("main", 7, 1).unwrap();
    Ok(repository.get_wal(Kind::Wal, &place.wal(SEGMENT).unwrap())?.1)
}

#[test]
fn f090_init_finds_out_whether_conditions_are_honoured() {
    let honest = TestS3::start();
    assert!(init(&honest).unwrap().descriptor().conditional_put);
    let lax = ignoring();
    assert!(!init(&lax).unwrap().descriptor().conditional_put);
    // A server that knows no conditions at all.
    let old = TestS3::start();
    let refusal = Fault::Error { status: 501, code: "NotImplemented" };
    old.fault(refusal).on("PutObject").when(|seen| seen.has_if_none_match).always();
    assert!(!init(&old).unwrap().descriptor().conditional_put);
    for s3 in [&honest, &lax, &old] {
        let names = s3.keys();
        let left = names.iter().filter(|name| name.contains("probe/") || name.contains("lease/"));
        assert_eq!(left.count(), 0, "{names:?}");
        // And its word is read back.
        let opened = Repository::open(store(s3), &Unlock::Clear).unwrap();
        assert_eq!(opened.descriptor().conditional_put, std::ptr::eq(s3, &honest));
        let again = init(s3).unwrap_err();
        assert!(matches!(again, repo::Error::Storage(error) if error.is_already_exists()));
    }
}

/// Of inits that run at once at most one makes the repository, whatever the server honours.
#[test]
fn f097_f100_one_init_of_many_wins() {
    for s3 in [TestS3::start(), ignoring()] {
        let made: Vec<repo::Result<Repository>> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..4).map(|_| scope.spawn(|| init(&s3))).collect();
            running.into_iter().map(|each| each.join().unwrap()).collect()
        });
        let made: Vec<Repository> = made.into_iter().filter_map(Result::ok).collect();
        assert!(made.len() <= 1, "{} repositories in one place", made.len());
        if made.is_empty() {
            // All of them met another; a later one finds the place free.
            init(&s3).unwrap();
        }
        let opened = Repository::open(store(&s3), &Unlock::Clear).unwrap();
        put(&opened, b"content").unwrap();
    }
}

/// Each of two inits took the other's lease for over, because their hosts' clocks differed by more than ten
/// minutes; S3 accepts up to a quarter of an hour either way.
#[test]
fn d2026_11_28_an_init_whose_clock_is_behind_keeps_others_away() {
    let s3 = ignoring();
    let now = ctx().clock.now();
    let theirs = layout::init_lease(now - Duration::from_mins(29), "00");
    store(&s3).put(&theirs, b"").unwrap();
    let refused = init(&s3).unwrap_err();
    assert!(matches!(refused, repo::Error::InitRunning { .. }), "{refused}");
    assert_eq!(s3.keys(), [format!("some/where/{theirs}")]);
    // One that was killed keeps nobody away for ever.
    let later = Arc::new(ManualClock::new(now + Duration::from_mins(32)));
    init_by(&Ctx { clock: later, ..ctx() }, &s3).unwrap();
}

/// A clock that shows eleven minutes more at each look.
#[derive(Debug, Default)]
struct Slow(Mutex<Duration>);

impl Clock for Slow {
    fn now(&self) -> Timestamp {
        ctx().clock.now()
    }

    fn monotonic(&self) -> Duration {
        let mut shown = self.0.lock().unwrap();
        *shown += Duration::from_mins(11);
        *shown
    }

    fn sleep(&self, duration: Duration) {
        ctx().clock.sleep(duration);
    }
}

/// An init whose requests were tried again for longer than its lease counts put its descriptor over another's.
#[test]
fn d2026_11_28_an_init_that_outlasts_its_lease_makes_nothing() {
    let s3 = ignoring();
    let slow = Ctx { clock: Arc::new(Slow::default()), ..ctx() };
    let refused = init_by(&slow, &s3).unwrap_err();
    assert!(matches!(refused, repo::Error::InitOverdue), "{refused}");
    assert_eq!(s3.keys(), [] as [&str; 0]);
    init(&s3).unwrap();
}

/// An init whose descriptor was replaced by another's said that it had made the repository.
#[test]
fn d2026_11_28_an_init_that_was_overtaken_says_so() {
    let s3 = ignoring();
    let name = layout::descriptor();
    let held = s3.fault(Fault::Hang).on("GetObject").key_contains(name.as_str()).always();
    let ended = std::thread::scope(|scope| {
        let making = scope.spawn(|| init(&s3));
        wait_until(DEADLINE, || held.hits() > 0 || making.is_finished(), || s3.log().join("\n"));
        store(&s3).put(&name, b"another's").unwrap();
        s3.clear_faults();
        making.join().unwrap()
    });
    let refused = ended.unwrap_err();
    let is_taken = matches!(&refused, repo::Error::Storage(error) if error.is_already_exists());
    assert!(is_taken, "{refused}");
    assert_eq!(s3.keys(), [format!("some/where/{name}")], "its slot is gone");
}

#[test]
fn f001_f004_f005_f090_the_first_content_stays_with_and_without_conditions() {
    for s3 in [TestS3::start(), ignoring()] {
        let repository = init(&s3).unwrap();
        assert_eq!(put(&repository, b"first").unwrap(), WalPut::Stored);
        // Killed between the store and the answer: the same content again is success.
        put(&repository, b"first").unwrap();
        for other in [&b"other"[..], b"", b"firs"] {
            let refused = put(&repository, other).unwrap_err();
            assert!(matches!(refused, repo::Error::Conflict { .. }), "{refused}");
        }
        put(&repository, b"first").unwrap();
        assert_eq!(stored(&repository).unwrap(), b"first");
    }
}

/// Without conditions a segment costs three requests, with them one.
#[test]
fn f090_claims_cost_three_requests() {
    for (s3, expected) in [(TestS3::start(), 1), (ignoring(), 3)] {
        let repository = init(&s3).unwrap();
        s3.reset_counts();
        put(&repository, b"first").unwrap();
        assert_eq!(s3.all_requests().values().sum::<usize>(), expected, "{:?}", s3.log());
    }
}

/// A standby that always archives put every segment of its primary once more, 16 MiB each, and what it knew of
/// it replaced what the primary had found.
#[test]
fn d2026_11_28_a_segment_that_is_there_is_not_put_again() {
    let s3 = ignoring();
    let repository = init(&s3).unwrap();
    // Seeds whose salts give each claim another name.
    let by = |seed: u64| Ctx { entropy: Arc::new(SeededEntropy::new(seed)), ..ctx() };
    assert_eq!(put_by(&by(2), "primary", &repository, b"first").unwrap(), WalPut::Stored);
    for seed in 3..6 {
        s3.reset_counts();
        assert_eq!(put_by(&by(seed), "standby", &repository, b"first").unwrap(), WalPut::Same);
        assert_eq!(s3.requests("PutObject"), 1, "its claim: {:?}", s3.log());
        assert_eq!(s3.all_requests().values().sum::<usize>(), 4, "{:?}", s3.log());
    }
    let key = Place::new("main", 7, 1).unwrap().wal(SEGMENT).unwrap();
    assert_eq!(repository.wal_facts(Kind::Wal, &key).unwrap().by.unwrap().host, "primary");
    // Its claims are no reason to take a lost segment for stored.
    assert!(s3.lose(&format!("some/where/{key}")));
    assert_eq!(put_by(&by(6), "standby", &repository, b"first").unwrap(), WalPut::Stored);
    assert_eq!(stored(&repository).unwrap(), b"first");
}

/// Whoever repeats a put again and again leaves a few claims, and they hide nobody else's.
#[test]
fn repetitions_leave_few_claims_and_hide_none() {
    let s3 = ignoring();
    let repository = init(&s3).unwrap();
    for _ in 0..60 {
        put(&repository, b"first").unwrap();
    }
    let claims = s3.keys().into_iter().filter(|key| key.contains("/claim/")).count();
    assert!((2..=16).contains(&claims), "{claims}");
    let hole = Fault::Error { status: 400, code: "InvalidArgument" };
    assert!(s3.lose(s3.keys().iter().find(|key| key.ends_with(SEGMENT)).unwrap()));
    for content in [&b"0"[..], b"1", b"2", b"3"] {
        let refused = put(&repository, content).unwrap_err();
        assert!(matches!(refused, repo::Error::Claimed { .. }), "{refused}");
    }
    let held = s3.fault(hole).on("PutObject").when(|seen| seen.key.ends_with(SEGMENT)).always();
    assert!(matches!(put(&repository, b"first").unwrap_err(), repo::Error::Claimed { .. }));
    assert_eq!(held.hits(), 0, "nothing was put");
}

/// Many servers push at once, each its own content: never are two told that theirs is archived.
#[test]
fn f001_f002_f090_of_contents_that_race_at_most_one_is_stored() {
    for s3 in [TestS3::start(), ignoring()] {
        let repository = init(&s3).unwrap();
        for round in 0..12 {
            let names = s3.keys().into_iter().filter(|key| key.contains("/c/"));
            names.for_each(|key| assert!(s3.lose(&key)));
            let contents = [&b"one"[..], b"two", b"two", b"three"];
            let told: Vec<_> = std::thread::scope(|scope| {
                let pushing: Vec<_> = contents
                    .iter()
                    .map(|content| scope.spawn(|| (*content, put(&repository, content))))
                    .collect();
                pushing.into_iter().map(|each| each.join().unwrap()).collect()
            });
            let mut archived: Vec<_> =
                told.iter().filter(|(_, put)| put.is_ok()).map(|(content, _)| *content).collect();
            archived.dedup();
            assert!(archived.len() <= 1, "round {round}: {told:?}");
            match archived.first() {
                Some(content) => assert_eq!(stored(&repository).unwrap(), *content),
                None => assert!(stored(&repository).unwrap_err().is_not_found()),
            }
            for (_, put) in &told {
                if let Err(error) = put {
                    use repo::Error::{Claimed, Conflict};
                    assert!(matches!(error, Conflict { .. } | Claimed { .. }), "{error}");
                }
            }
        }
    }
}

/// A pusher died after its claim: its own content may still come, another one may not.
#[test]
fn f004_f013_a_claim_without_its_object_lets_the_same_content_in() {
    let s3 = ignoring();
    let repository = init(&s3).unwrap();
    let hole = Fault::Error { status: 400, code: "InvalidArgument" };
    s3.fault(hole).on("PutObject").when(|seen| seen.key.ends_with(SEGMENT)).next(1);
    put(&repository, b"first").unwrap_err();
    let refused = put(&repository, b"other").unwrap_err();
    assert!(matches!(refused, repo::Error::Claimed { .. }), "{refused}");
    assert!(refused.to_string().contains("/claim/wal%2F00000001%2F00000000%2F"), "{refused}");
    assert!(stored(&repository).unwrap_err().is_not_found());
    // Both have claimed it now: an operator has to say which is right.
    put(&repository, b"first").unwrap_err();
    let wrong = repository.content_digest(b"other");
    let wrong = wrong.rsplit(':').next().unwrap().to_owned();
    let claims = s3.keys().into_iter().filter(|key| key.contains(&wrong));
    claims.for_each(|claim| assert!(s3.lose(&claim)));
    put(&repository, b"first").unwrap();
    assert_eq!(stored(&repository).unwrap(), b"first");
}

/// A list that lags behind may not hide the claim that was just made.
#[test]
fn f090_f096_a_store_whose_lists_lag_is_not_relied_on() {
    let s3 = ignoring();
    let repository = init(&s3).unwrap();
    s3.fault(Fault::StaleList { lists: 1 }).on("ListObjectsV2").always();
    let refused = put(&repository, b"first").unwrap_err();
    assert!(matches!(refused, repo::Error::Corrupt { .. }), "{refused}");
    assert!(refused.to_string().contains("cannot be relied on"), "{refused}");
    s3.clear_faults();
    put(&repository, b"first").unwrap();
    assert_eq!(stored(&repository).unwrap(), b"first");
}

/// A slot that was removed between the list and its read failed the opening, so that an archive-get during a
/// `key rotate` ended a recovery.
#[test]
fn d2026_11_28_a_repository_opens_while_its_key_is_rotated() {
    let s3 = TestS3::start();
    let (unlock, _) = Unlock::generate_key_file(ctx().entropy.as_ref());
    let (cipher, label) = (CipherChoice::Aes256Cbc, "first");
    let options = InitOptions { cipher, unlock: &unlock, label, cost: 0 };
    let mut repository = Repository::init(&ctx(), store(&s3), &options).unwrap();
    let clear = Repository::open(store(&s3), &Unlock::Clear);
    assert!(matches!(clear, Err(repo::Error::WrongKey { slots, .. }) if slots.len() == 1));
    repository.rotate(&ctx(), &unlock, None, 0).unwrap();
    // As it was listed before the rotation.
    let stale = s3.fault(Fault::StaleList { lists: 1 }).on("ListObjectsV2").next(1);
    let opened = Repository::open(store(&s3), &unlock).unwrap();
    assert_eq!(stale.hits(), 1);
    assert_eq!(opened.keyring(), repository.keyring());
}
