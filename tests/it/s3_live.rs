//! A repository in a bucket, on real servers and through the command line: from `init` to a row at a
//! time, and what each command answers when the bucket is away.

use std::path::Path;

use crate::support::bucket_site::BucketSite;
use crate::support::run::{DEADLINE, run, wait_until};
use crate::support::site::{json, started};
use crate::support::{
    Cipher, Fault, ScratchDir, Server, Stop, TestCluster, TestConfig, TestRepo, TestS3, tools,
};

/// What a server logs when it leaves recovery.
const PROMOTED: &str = "selected new timeline";

/// About 40 MB that no compression makes small: a pack of several parts.
pub(crate) const LARGE_TABLE: &str = "create table large as select n, sha512(('a' || n)::bytea) a, \
    sha512(('b' || n)::bytea) b, sha512(('c' || n)::bytea) c, sha512(('d' || n)::bytea) d \
    from generate_series(1, 130000) n";

pub(crate) fn digest_of_large(cluster: &TestCluster) -> String {
    cluster.psql("select count(*), md5(string_agg(md5(large::text), '' order by n)) from large")
}

fn rows(cluster: &TestCluster) -> String {
    cluster.psql("select string_agg(n::text, ',' order by n) from t")
}

/// Whether any object in the bucket holds these bytes.
fn lies_open(s3: &TestS3, prefix: &str, text: &str) -> bool {
    let keys = s3.keys().into_iter().filter(|key| key.starts_with(prefix));
    let bodies = keys.filter_map(|key| s3.body(&key));
    let text = text.as_bytes();
    bodies.into_iter().any(|body| body.windows(text.len()).any(|bytes| bytes == text))
}

#[test]
fn from_init_to_a_row_at_a_time_in_a_bucket() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).checksums();
    let site = BucketSite::from_launch(&server, launch, TestS3::start(), Cipher::Aes).archiving();
    let (cluster, config, s3) = (&site.cluster, &site.config, &site.s3);
    site.made.clone().assert_says("repository bucket: made in s3://backups/pgkeep");
    config.run(["init"]).assert_ok().assert_says("registered in bucket already");
    cluster.psql(LARGE_TABLE);
    cluster.psql("insert into t values (1)");
    let segment = cluster.archive_now();
    site.assert_gives(&segment, &site.content(&segment));

    let id = site.backup();
    assert!(s3.requests("UploadPart") >= 3, "{:?}", s3.all_requests());
    assert!(s3.unfinished_uploads().is_empty());
    assert_eq!(site.backups(), [id]);
    json(&config.run(["check", "--json"]).assert_ok().stdout);

    cluster.psql("insert into t values (2)");
    let time = cluster.psql("select clock_timestamp()");
    cluster.psql("insert into t values (3)");
    let last = cluster.archive_now();
    let copy = site.restored("at-a-time", &["--archive", "on", "--target-time", &time]);
    assert_eq!(rows(&copy), "1,2");
    assert_eq!(digest_of_large(&copy), digest_of_large(cluster));

    // The copy goes on on a timeline of its own, and both can be restored.
    copy.psql("insert into t values (20)");
    assert!(copy.archive_now().starts_with("00000002"));
    copy.stop(Stop::Fast);
    tools::assert_checksums(&copy);
    assert_eq!(rows(&site.restored("newest", &[])), "1,2,20");
    assert_eq!(rows(&site.restored("first", &["--target-timeline", "1"])), "1,2,3");

    // What there is not is proven absent.
    cluster.stop(Stop::Fast);
    let absent = format!("{}FE", &last[..22]);
    site.assert_gives_nothing(&absent, 1);
    site.assert_gives_nothing("00000003.history", 1);
}

#[test]
fn f063_nothing_lies_in_the_bucket_in_the_clear_unless_it_was_told_to() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let s3 = TestS3::start();
    let config = TestConfig::new(&cluster)
        .bucket_below("sealed", &s3, "sealed", Cipher::Aes)
        .bucket_below("clear", &s3, "clear", Cipher::None);
    config.run(["init"]).assert_ok().assert_says("lie there in the clear");
    cluster.set_archive_command(&config.archive_command());
    let secret = "kX9qBz2LwT7vRm4J";
    cluster.psql(&format!("create table wanted as select '{secret}'::text as t"));
    cluster.archive_now();
    for name in ["sealed", "clear"] {
        config.run(["backup", "--repository", name]).assert_ok();
    }
    assert!(lies_open(&s3, "clear/", secret), "the search finds it where it is");
    assert!(!lies_open(&s3, "sealed/", secret), "encrypted, and readable all the same");
    assert!(!lies_open(&s3, "sealed/", "pg_filenode.map"), "the names of files");
}

/// Starts it and waits until it has ended or left recovery: the log of a server that has ended.
fn ended_in_recovery(server: &Server, to: &Path, why: &str) -> String {
    let stopped = TestCluster::adopt(server, to).prepare();
    // It may have become readable before it stops: pg_ctl calls that a start.
    drop(stopped.try_start());
    let is_decided = || !stopped.is_running() || stopped.log().contains(PROMOTED);
    wait_until(DEADLINE, is_decided, || format!("{why}\n{}", stopped.log()));
    let log = stopped.log();
    assert!(!stopped.is_running() && !log.contains(PROMOTED), "{why}\n{log}");
    assert!(log.contains("FATAL"), "{why}\n{log}");
    assert!(!to.join("pg_wal/00000002.history").exists(), "{why}\n{log}");
    let control = pgkeep::archive::read_control_file(to).unwrap();
    assert_eq!(control.checkpoint.timeline.get(), 1, "{why}\n{log}");
    log
}

#[test]
fn f018_a_bucket_that_fails_or_is_away_ends_no_recovery() {
    let Some(server) = Server::main() else { return };
    let site = BucketSite::new(&server, TestS3::start(), Cipher::Aes).impatient().archiving();
    site.backup();
    let segments: Vec<String> = (0..4).map(|_| site.segment()).collect();
    let last = site.cluster.archive_now();
    site.cluster.set_archive_command("false");
    let unpushed = site.segment();
    let middle = &segments[2];
    for name in ["mended", "down"] {
        site.restore(name, &[]).assert_ok();
    }
    let to = site.scratch.join("mended");
    for fault in [
        Fault::INTERNAL_ERROR,
        Fault::HtmlPage,
        Fault::Bare404,
        Fault::Hang,
        Fault::ShortResponse { missing: 1 },
        Fault::Error { status: 403, code: "InvalidAccessKeyId" },
    ] {
        let why = format!("{fault:?}");
        let met = site.s3.fault(fault).key_contains(middle).always();
        let log = ended_in_recovery(&server, &to, &why);
        assert!(log.contains(&format!("restored log file \"{}\"", segments[1])), "{why}\n{log}");
        assert!(met.hits() > 0, "{why}");
        site.assert_gives_nothing(middle, 200);
        site.s3.clear_faults();
    }
    let mended = started(&server, &to);
    assert_eq!(mended.psql("select count(*) from t"), segments.len().to_string());
    drop(mended);

    // No server answers at all.
    let BucketSite { cluster, config, s3, scratch, .. } = site;
    drop(s3);
    for name in [middle.as_str(), "0000000100000000000000FF", "00000002.history"] {
        let out = scratch.join("fetched");
        let ran = config.run(["archive-get", name, out.to_str().unwrap()]).assert_code(200);
        assert!(!out.exists() && !ran.stderr.is_empty(), "{ran}");
    }
    for name in [&unpushed, &last] {
        let path = cluster.data_dir().join("pg_wal").join(name);
        config.run(["archive-push", path.to_str().unwrap()]).assert_code(1);
    }
    config.run(["info"]).assert_code(1);
    ended_in_recovery(&server, &scratch.join("down"), "no server");
}

/// The connection ends at any place of the body: nothing is stored, and the next push is the first one.
#[test]
fn f006_f007_a_push_that_is_cut_anywhere_stores_nothing_and_can_be_repeated() {
    let Some(server) = Server::main() else { return };
    for s3 in [TestS3::start(), TestS3::builder().ignores_conditions().start()] {
        let site = BucketSite::new(&server, s3, Cipher::Aes).impatient();
        let like_it = site.segment();
        site.push(&like_it).assert_ok();
        let length = site.s3.body(&site.object(&like_it).unwrap()).unwrap().len();
        let name = site.segment();
        let content = site.content(&name);
        for after in [0, 1, 100, length / 2, length - 200] {
            let cut = site.s3.fault(Fault::CutRequest { after });
            let cut = cut.on("PutObject").key_contains("/wal/").always();
            let ran = site.push(&name).assert_code(1);
            assert_eq!(cut.hits(), 1, "{after}\n{ran}");
            assert!(site.object(&name).is_none(), "cut after {after}");
            site.s3.clear_faults();
            site.assert_gives_nothing(&name, 1);
        }
        site.push(&name).assert_ok();
        site.assert_gives(&name, &content);
    }
}

#[test]
fn f094_any_prefix_is_itself_or_refused() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let s3 = TestS3::start();
    let segment = cluster.switch_wal();
    let path = cluster.data_dir().join("pg_wal").join(&segment);
    let content = std::fs::read(&path).unwrap();
    let scratch = ScratchDir::new("fetched");
    let taken = |keys: Vec<String>, prefix: &str| {
        keys.iter().filter(|key| key.starts_with(&format!("{prefix}/"))).count()
    };
    for prefix in ["a+b", "100%", "~x/~y", "a%20b/c", "a=b&c?d#e", "it's,(so)", "\\back*"] {
        let config = TestConfig::new(&cluster).bucket_below("bucket", &s3, prefix, Cipher::None);
        let before = s3.keys().len();
        config.run(["init"]).assert_ok();
        config.run(["init"]).assert_ok().assert_says("registered in bucket already");
        config.run(["archive-push", path.to_str().unwrap()]).assert_ok();
        let out = scratch.join("segment");
        std::fs::remove_file(&out).ok();
        config.run(["archive-get", &segment, out.to_str().unwrap()]).assert_ok();
        assert!(std::fs::read(&out).unwrap() == content, "{prefix}");
        let made = s3.keys().len() - before;
        assert!(made >= 3, "{prefix}: {made}");
        assert_eq!(taken(s3.keys(), prefix), made, "{prefix}: all below it, as it is written");
    }
    let before = s3.keys();
    for prefix in ["a b", "ä", "a//b", "../a", "a/./b"] {
        let config = TestConfig::new(&cluster).bucket_below("bucket", &s3, prefix, Cipher::None);
        let refused = config.run(["init"]).assert_code(1);
        assert!(refused.stderr.contains("a prefix has"), "{refused}");
    }
    assert_eq!(s3.keys(), before);
}

#[test]
fn f099_a_secret_key_is_one_line_and_told_when_it_is_not() {
    let Some(server) = Server::main() else { return };
    let site = BucketSite::new(&server, TestS3::start(), Cipher::Aes).impatient();
    let segment = site.segment();
    let secret = site.s3.secret_key().to_owned();
    let access = site.s3.access_key().to_owned();
    for (file, good) in [("bucket.secret", &secret), ("bucket.access", &access)] {
        for (content, told) in [
            (String::new(), "is empty"),
            ("\n".to_owned(), "is empty"),
            (format!("{good}\r\n"), "carriage return"),
            (format!("{good}\n{good}\n"), "more than one line"),
        ] {
            site.config.write(file, &content);
            let refused = site.push(&segment).assert_code(1);
            assert!(refused.stderr.contains(told), "{content:?}\n{refused}");
            assert!(!refused.stderr.contains(&secret), "{refused}");
            site.assert_gives_nothing(&segment, 200);
        }
        site.config.write(file, "another");
        let refused = site.push(&segment).assert_code(1);
        assert!(refused.stderr.contains("credentials"), "{refused}");
        assert!(!refused.stderr.contains(&secret), "{refused}");
        site.assert_gives_nothing(&segment, 200);
        site.config.write(file, &format!("{good}\n"));
    }
    site.push(&segment).assert_ok();
    site.assert_gives(&segment, &site.content(&segment));
}

#[test]
fn a_folder_and_a_bucket_are_one_archive_of_two_copies() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).checksums().wal_segment_mib(1).archiving().start();
    let (repo, s3) = (TestRepo::new(), TestS3::start());
    let config = TestConfig::new(&cluster)
        .repository("folder", &repo, Cipher::Aes)
        .bucket("bucket", &s3, Cipher::Aes)
        .impatient();
    config.run(["init"]).assert_ok();
    cluster.set_archive_command(&config.archive_command());
    cluster.psql("create table t (n int)");
    for name in ["folder", "bucket"] {
        config.run(["backup", "--repository", name]).assert_ok();
    }
    cluster.archive_now();
    // The bucket takes nothing: the folder is not starved, and the server keeps the segment.
    let spoilt = s3.fault(Fault::SLOW_DOWN).on("PutObject").always();
    cluster.psql("insert into t values (1)");
    let name = cluster.switch_wal();
    cluster.wait_until("select failed_count > 0 from pg_stat_archiver");
    assert!(spoilt.hits() > 0);
    let is_in_folder =
        || crate::support::planned::objects(repo.path()).iter().any(|path| path.ends_with(&name));
    let is_in_bucket = || s3.keys().iter().any(|key| key.ends_with(&format!("/{name}")));
    assert!(is_in_folder() && !is_in_bucket());
    s3.clear_faults();
    cluster.archive_now();
    assert!(is_in_folder() && is_in_bucket());

    // Each is enough for a restore, and the bucket fills what the folder has lost.
    let copies = ScratchDir::new("copies");
    let restored = |to: &str, repository: &str| {
        let mut command = config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
        command.args(["--repository", repository, "--to"]).arg(copies.join(to));
        run(&mut command).assert_ok();
        tools::assert_verifybackup(&cluster, &copies.join(to));
        rows(&started(&server, &copies.join(to)))
    };
    assert_eq!(restored("from-folder", "folder"), "1");
    assert_eq!(restored("from-bucket", "bucket"), "1");
    let lost = crate::support::planned::objects(repo.path());
    std::fs::remove_file(lost.iter().find(|path| path.ends_with(&name)).unwrap()).unwrap();
    let out = copies.join("fetched");
    config.run(["archive-get", &name, out.to_str().unwrap()]).assert_ok();
    let content = std::fs::read(cluster.data_dir().join("pg_wal").join(&name));
    assert!(content.map_or(true, |content| std::fs::read(&out).unwrap() == content));
}
