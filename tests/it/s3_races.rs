//! First write wins in a bucket whose server ignores conditions, between processes: by claims, whatever
//! order the requests of two writers come in, and whenever one of them dies.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::bucket_site::BucketSite;
use crate::support::run::{DEADLINE, start, wait_until};
use crate::support::s3::{Ordered, S3Builder};
use crate::support::{Cipher, Fault, ScratchDir, Server, TestCluster, TestConfig, TestS3};

/// What is said when two claimed a name and neither may have it.
const CLAIMED: &str = "claimed for other content";

fn lax() -> S3Builder {
    TestS3::builder().ignores_conditions()
}

fn wait_for(ordered: &Ordered, s3: &TestS3) {
    wait_until(DEADLINE, || ordered.hits() > 0, || s3.log().join("\n"));
}

#[test]
fn f001_f004_f005_f090_the_first_file_under_a_name_stays_without_conditions() {
    let Some(server) = Server::main() else { return };
    let site = BucketSite::new(&server, lax().start(), Cipher::None);
    site.made.clone().assert_says("does not honour conditional puts: first write wins by claims");
    site.config.run(["init"]).assert_ok().assert_says("registered in bucket already");
    let name = site.segment();
    let content = site.content(&name);
    for _ in 0..2 {
        site.push(&name).assert_ok();
        site.assert_gives(&name, &content);
    }
    let refused = site.push_bytes(&name, &site.other_content(&name)).assert_code(1);
    assert!(refused.stderr.contains("First write wins"), "{refused}");
    site.assert_gives(&name, &content);
    site.push(&name).assert_ok();

    // Another cluster, at a free number.
    let other = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let config = TestConfig::new(&other).bucket("bucket", &site.s3, Cipher::None);
    let before = site.s3.keys();
    for _ in 0..3 {
        let theirs = other.data_dir().join("pg_wal").join(other.switch_wal());
        let theirs = ["archive-push", theirs.to_str().unwrap()];
        config.run(theirs).assert_code(1).assert_says("not registered");
    }
    assert_eq!(site.s3.keys(), before, "nothing was stored");

    // All the rest is as with any bucket.
    let site = site.archiving();
    site.cluster.archive_now();
    let id = site.backup();
    assert_eq!(site.backups(), [id]);
    site.cluster.psql("insert into t values (2)");
    site.cluster.archive_now();
    let copy = site.restored("copy", &[]);
    assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), "1,2");
}

#[test]
fn f090_whoever_comes_between_a_claim_and_its_object_is_refused() {
    let Some(server) = Server::main() else { return };
    let site = BucketSite::new(&server, lax().start(), Cipher::Aes);
    let name = site.segment();
    let (content, other) = (site.content(&name), site.other_content(&name));
    let held = site.s3.fault(Fault::Hang).on("PutObject").key_contains("/wal/").next(1);
    let first = site.pushing(&site.wal(&name));
    wait_for(&held, &site.s3);
    site.push_bytes(&name, &other).assert_code(1).assert_says(CLAIMED);
    first.wait().assert_ok();
    site.assert_gives(&name, &content);
    let refused = site.push_bytes(&name, &other).assert_code(1);
    assert!(refused.stderr.contains("First write wins"), "{refused}");
    site.push(&name).assert_ok();
    site.assert_gives(&name, &content);
}

/// Neither has looked when both have claimed: none may have the name, and an operator says who does.
#[test]
fn f090_of_two_that_claim_before_they_look_neither_is_stored() {
    let Some(server) = Server::main() else { return };
    let site = BucketSite::new(&server, lax().start(), Cipher::Aes);
    let name = site.segment();
    let (content, other) = (site.content(&name), site.other_content(&name));
    let held = site.s3.fault(Fault::Hang).on("ListObjectsV2").key_contains("/claim/wal%2F").next(1);
    let first = site.pushing(&site.wal(&name));
    wait_for(&held, &site.s3);
    site.push_bytes(&name, &other).assert_code(1).assert_says(CLAIMED);
    let refused = first.wait().assert_code(1).assert_says(CLAIMED);
    assert!(site.object(&name).is_none());
    for _ in 0..2 {
        site.push(&name).assert_code(1).assert_says(CLAIMED);
        site.push_bytes(&name, &other).assert_code(1).assert_says(CLAIMED);
    }
    // The refusal names the claims of others: all that begin so.
    let claims = site.s3.keys().into_iter().filter(|key| key.contains("/claim/wal%2F"));
    let is_theirs = |key: &String| {
        let (begin, _) = key.trim_start_matches("pgkeep/").rsplit_once('-').unwrap();
        refused.stderr.contains(&format!("{begin}-*"))
    };
    let theirs: Vec<String> = claims.filter(is_theirs).collect();
    assert!(!theirs.is_empty(), "{refused}");
    theirs.iter().for_each(|key| assert!(site.s3.lose(key)));
    site.push(&name).assert_ok();
    site.assert_gives(&name, &content);
    site.push_bytes(&name, &other).assert_code(1).assert_says("First write wins");
}

#[test]
fn f005_f090_two_contents_at_the_same_moment_never_both_succeed() {
    let Some(server) = Server::main() else { return };
    let site =
        BucketSite::new(&server, lax().latency(Duration::from_millis(5)).start(), Cipher::Aes);
    let folder = ScratchDir::new("other");
    for round in 0..8 {
        let name = site.segment();
        let (content, other) = (site.content(&name), site.other_content(&name));
        let path = folder.write(&name, &other);
        let (mine, theirs) = (site.pushing(&site.wal(&name)), site.pushing(&path));
        let (mine, theirs) = (mine.wait(), theirs.wait());
        match (mine.is_ok(), theirs.is_ok()) {
            (true, true) => panic!("round {round}: both\n{mine}\n{theirs}"),
            (true, false) => site.assert_gives(&name, &content),
            (false, true) => site.assert_gives(&name, &other),
            (false, false) => assert!(site.object(&name).is_none(), "round {round}"),
        }
        for ran in [mine, theirs] {
            assert!(ran.is_ok() || ran.code() == Some(1), "round {round}\n{ran}");
        }
    }
}

#[test]
fn f004_f013_a_push_killed_between_claim_and_object_can_be_repeated() {
    let Some(server) = Server::main() else { return };
    let site = BucketSite::new(&server, lax().start(), Cipher::Aes);
    // Before its claim took effect, with it, and with the object.
    for (operation, key, fault) in [
        ("PutObject", "/claim/wal%2F", Fault::Hang),
        ("PutObject", "/claim/wal%2F", Fault::HangAfterActing),
        ("ListObjectsV2", "/claim/wal%2F", Fault::Hang),
        ("PutObject", "/wal/", Fault::Hang),
        ("PutObject", "/wal/", Fault::HangAfterActing),
    ] {
        let name = site.segment();
        let (content, why) = (site.content(&name), format!("{operation} {key} {fault:?}"));
        let has_claim = operation != "PutObject"
            || !key.starts_with("/claim/")
            || !matches!(fault, Fault::Hang);
        let has_object = key == "/wal/" && matches!(fault, Fault::HangAfterActing);
        let held = site.s3.fault(fault).on(operation).key_contains(key).always();
        let dying = site.pushing(&site.wal(&name));
        wait_for(&held, &site.s3);
        let claims = || site.s3.keys().into_iter().filter(|key| key.contains("/claim/wal%2F"));
        let is_claimed = || claims().any(|key| key.contains(&name));
        let has_acted = || is_claimed() == has_claim && site.object(&name).is_some() == has_object;
        wait_until(DEADLINE, has_acted, || why.clone());
        dying.signal(Signal::KILL);
        assert!(!dying.wait().is_ok(), "{why}");
        site.s3.clear_faults();
        assert_eq!(site.object(&name).is_some(), has_object, "{why}");
        if has_claim {
            // A claim is for this content: another one has to wait for whoever made it.
            site.push_bytes(&name, &site.other_content(&name)).assert_code(1);
            assert_eq!(site.object(&name).is_some(), has_object, "{why}");
        }
        if has_claim && !has_object {
            continue;
        }
        site.push(&name).assert_ok();
        site.assert_gives(&name, &content);
    }
    // With nobody in between, the retry of the same content goes through from every state.
    for (operation, key) in [("ListObjectsV2", "/claim/wal%2F"), ("PutObject", "/wal/")] {
        let name = site.segment();
        let held = site.s3.fault(Fault::Hang).on(operation).key_contains(key).always();
        let dying = site.pushing(&site.wal(&name));
        wait_for(&held, &site.s3);
        dying.signal(Signal::KILL);
        assert!(!dying.wait().is_ok());
        site.s3.clear_faults();
        site.push(&name).assert_ok();
        site.assert_gives(&name, &site.content(&name));
    }
}

/// Two servers pushed one partial segment with different tails, as both may; each claimed it by the digest of
/// all of it, and was refused for the other's claim, again and again: neither archived anything any more.
#[test]
fn d2026_11_28_partial_segments_with_other_tails_stand_in_nobody_s_way() {
    let Some(server) = Server::main() else { return };
    let site = BucketSite::new(&server, lax().start(), Cipher::Aes);
    // While one is between its claim and the object, and after it was killed there.
    for is_killed in [false, true] {
        site.segment();
        site.cluster.psql("insert into t values (1); checkpoint");
        let current = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
        let (content, other) = (site.content(&current), site.other_content(&current));
        let folder = ScratchDir::new("partial");
        let path = folder.write(&format!("{current}.partial"), &content);
        let held = site.s3.fault(Fault::Hang).on("PutObject").key_contains("/partial/");
        let held = if is_killed { held.always() } else { held.next(1) };
        let first = site.pushing(&path);
        wait_for(&held, &site.s3);
        if is_killed {
            first.signal(Signal::KILL);
            assert!(!first.wait().is_ok());
            site.s3.clear_faults();
            site.push_bytes(&format!("{current}.partial"), &other).assert_ok();
        } else {
            site.push_bytes(&format!("{current}.partial"), &other).assert_ok();
            first.wait().assert_ok();
        }
        for content in [&content, &other] {
            site.push_bytes(&format!("{current}.partial"), content).assert_ok();
        }
        let partial = format!("/partial/{current}.");
        let kept = site.s3.keys().into_iter().filter(|key| key.contains(&partial));
        assert_eq!(kept.count(), 1, "{:?}", site.s3.keys());
    }
}

#[test]
fn f100_two_inits_at_once_make_one_repository_without_conditions() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let s3 = lax().latency(Duration::from_millis(5)).start();
    let name = cluster.switch_wal();
    let path = cluster.data_dir().join("pg_wal").join(name);
    for round in 0..2 {
        let prefix = format!("round{round}");
        let config =
            || TestConfig::new(&cluster).bucket_below("bucket", &s3, &prefix, Cipher::None);
        let configs = [config(), config()];
        let running = configs.each_ref().map(|config| start(&mut config.pgkeep(["init"])));
        let ended = running.map(|each| each.wait());
        let descriptors = || {
            let keys = s3.keys().into_iter().filter(|key| key.starts_with(&format!("{prefix}/")));
            let keys = keys.filter(|key| key.matches('/').count() == 1);
            keys.filter_map(|key| s3.body(&key)).collect::<Vec<_>>()
        };
        let made = descriptors();
        assert!(made.len() <= 1, "round {round}: {made:?}");
        assert!(!made.is_empty() || ended.iter().all(|ran| !ran.is_ok()), "{ended:?}");
        for config in &configs {
            config.run(["init"]).assert_ok();
            config.run(["archive-push", path.to_str().unwrap()]).assert_ok();
        }
        let now = descriptors();
        assert!(made.is_empty() || now == made, "round {round}: it was replaced");
    }
}

/// With few `requests` in the configuration the writers of init's trial came one after the other, and a server
/// that honours conditions but in races passed for one that honours them, for ever.
#[test]
fn d2026_11_28_init_s_writers_race_however_few_requests_are_configured() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let s3 = TestS3::builder().loses_races().start();
    let config = TestConfig::new(&cluster).bucket("bucket", &s3, Cipher::None);
    let text = std::fs::read_to_string(config.path()).unwrap();
    let one = text.replacen("retry_for", "requests = 1\nretry_for", 1);
    assert_ne!(text, one);
    let made = config.replaced(&one).run(["init"]).assert_ok();
    made.assert_says("does not honour conditional puts");
}

/// Somebody emptied the bucket and made a repository in it anew, from another host, while pushes went on: they
/// sealed with the keys that they knew, said "archived", and nobody could read it.
#[test]
fn d20261124_a_repository_that_is_made_anew_is_not_pushed_into_by_old_keys() {
    let Some(server) = Server::main() else { return };
    let site = BucketSite::new(&server, TestS3::start(), Cipher::None);
    let before = site.segment();
    site.push(&before).assert_ok();
    assert!(site.s3.keys().iter().all(|key| site.s3.lose(key)));
    let text = std::fs::read_to_string(site.config.path()).unwrap();
    let elsewhere = text.replacen("retry_for", "opening_cache = \"off\"\nretry_for", 1);
    assert_ne!(text, elsewhere);
    TestConfig::new(&site.cluster).replaced(&elsewhere).run(["init"]).assert_ok();
    let name = site.segment();
    site.push(&name).assert_ok();
    site.assert_gives(&name, &site.content(&name));
}

/// What a push costs once it knows the repository.
#[test]
fn the_next_push_is_one_request() {
    let Some(server) = Server::main() else { return };
    let site = BucketSite::new(&server, TestS3::start(), Cipher::Aes);
    let mut fewest = usize::MAX;
    // Under load two of them may lie further apart than what is kept lasts.
    for _ in 0..20 {
        let name = site.segment();
        site.s3.reset_counts();
        site.push(&name).assert_ok();
        fewest = fewest.min(site.s3.all_requests().values().sum());
        if fewest == 1 {
            break;
        }
    }
    assert_eq!(fewest, 1);
    assert_eq!(site.s3.requests("PutObject"), 1);
}
