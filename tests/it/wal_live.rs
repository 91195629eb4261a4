//! `wal list`, `wal gaps` and `wal backfill` on real servers: what is missing after a failover is named,
//! found where it still is, and stored; nothing else is.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::archive_live::{self, promoted, push};
use crate::failover_live::lagging_failover;
use crate::standby_live::{Follower, find, object, ready};
use crate::support::run::{DEADLINE, Ran, run, wait_until};
use crate::support::site::{Site, json, started};
use crate::support::{Cipher, ScratchDir, Server, Stop, TestCluster, TestConfig, TestRepo};

/// `wal backfill --from DIR`.
fn backfill(config: &TestConfig, from: &Path, arguments: &[&str]) -> Ran {
    let mut command = config.pgkeep(["wal", "backfill", "--from"]);
    run(command.arg(from).args(arguments))
}

/// The plan, which stores nothing.
#[track_caller]
fn plan(config: &TestConfig, from: &Path) -> Value {
    let ran = backfill(config, from, &["--dry-run", "--json"]);
    json(&ran.stdout)["plan"].clone()
}

fn names(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap().iter();
    list.map(|file| file["name"].as_str().unwrap().to_owned()).collect()
}

/// Why a file is left.
#[track_caller]
fn reason<'p>(plan: &'p Value, name: &str) -> &'p str {
    let mut left = plan["left"].as_array().unwrap().iter();
    let left = left.find(|file| file["name"] == name);
    left.unwrap_or_else(|| panic!("{name} is not left: {plan:#}"))["reason"].as_str().unwrap()
}

#[track_caller]
fn gaps(config: &TestConfig, code: i32) -> Value {
    json(&config.run(["wal", "gaps", "--json"]).assert_code(code).stdout)["repositories"][0].clone()
}

/// The files of a cluster's `pg_wal` in a folder of their own, as an operator would copy them.
fn loose(cluster: &TestCluster) -> ScratchDir {
    let folder = ScratchDir::new("loose");
    for entry in fs::read_dir(cluster.data_dir().join("pg_wal")).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            folder.write(entry.file_name().to_str().unwrap(), fs::read(entry.path()).unwrap());
        }
    }
    folder
}

/// How many files lie in the repository.
fn count(repo: &TestRepo) -> usize {
    let (mut found, mut folders) = (0, vec![repo.path().to_path_buf()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found += 1,
            }
        }
    }
    found
}

/// The archive lagged when the primary was stopped; the standby took over. The hole has a name, the old
/// primary's own files close it, and the last row comes back.
#[test]
fn f009_f019_the_old_primary_s_wal_closes_the_hole_of_a_failover() {
    let Some(server) = Server::main() else { return };
    let (site, standby, unarchived) = lagging_failover(&server);
    let old = site.cluster.data_dir();
    let config = &standby.config;

    let told = config.run(["wal", "gaps"]).assert_code(14);
    assert!(told.stdout.contains(&format!("MISSING: {}", unarchived[0])), "{told}");
    assert!(told.stdout.contains("pgkeep wal backfill --from DIR"), "{told}");
    assert!(told.stdout.contains("cannot pass it"), "{told}");
    let hole = &gaps(config, 14)["holes"][0];
    assert_eq!(hole["first"], unarchived[0].as_str(), "{hole:#}");
    assert_eq!((&hole["timeline"], &hole["stopped_backups"]), (&1.into(), &1.into()), "{hole:#}");
    let listed = config.run(["wal", "list"]).assert_ok();
    assert!(listed.stdout.contains(&format!("MISSING: {}", unarchived[0])), "{listed}");
    assert!(listed.stdout.contains("timeline 2, from timeline 1 at "), "{listed}");
    let info = config.run(["info"]).assert_ok();
    assert!(info.stdout.contains("pgkeep wal gaps"), "{info}");

    // Nothing happens that nobody agreed to.
    let before = count(&site.repo);
    let planned = plan(config, old);
    let offered = names(&planned["store"]);
    for name in &unarchived {
        assert!(offered.contains(name), "{planned:#}");
    }
    assert_eq!(planned["from"]["is_running"], false);
    backfill(config, old, &[]).assert_code(2).assert_says("--yes");
    assert_eq!(count(&site.repo), before, "nothing was stored");

    let done = backfill(config, old, &["--yes"]).assert_ok();
    assert!(done.stdout.contains("stored "), "{done}");
    for name in &unarchived {
        object(&site.repo, name);
    }
    // What the old primary had begun when it was stopped is not called whole.
    for file in planned["store"].as_array().unwrap().iter().filter(|file| file["partial"] == true) {
        let name = file["name"].as_str().unwrap();
        assert!(find(&site.repo, name).is_none(), "{name} was never completed");
    }
    assert_eq!(gaps(config, 0)["holes"].as_array().unwrap().len(), 0);
    config.run(["wal", "gaps"]).assert_ok().assert_says("nothing is missing");
    let again = plan(config, old);
    assert_eq!(names(&again["store"]), Vec::<String>::new(), "{again:#}");
    for name in &unarchived {
        assert_eq!(reason(&again, name), "archived");
    }
    let scratch = ScratchDir::new("restored");
    let to = scratch.join("data");
    site.restore(&to, &[]);
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), "1,2,3,4,5,6");
    // A restored copy is no source of anything, whatever it holds.
    for from in [to.clone(), to.join("pg_wal")] {
        backfill(config, &from, &["--yes"]).assert_code(1).assert_says("is a restored copy");
    }
}

/// The last segment before a switch and the first one after it are missed like any other, and a server
/// that runs closes such a hole with its own files.
#[test]
fn f020_a_hole_beside_a_switch_is_named_and_closed_from_a_running_server() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).wal_segment_mib(1);
    let site = Site::start(launch.setting("wal_keep_size", "100MB"));
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.backup();
    site.cluster.archive_now();
    site.cluster.psql("insert into t values (2)");
    let last = site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);
    promoted(&site.cluster);
    site.cluster.psql("insert into t values (3)");
    let first = site.cluster.archive_now();
    site.cluster.psql("insert into t values (4)");
    site.cluster.archive_now();
    wait_until(DEADLINE, || ready(&site.cluster).is_empty(), || site.cluster.log());
    assert!(last.starts_with("00000001") && first.starts_with("00000002"), "{last} {first}");
    gaps(&site.config, 0);
    // A stop of the server fills a segment more on timeline 1.
    let newest_of_one = {
        let shown = json(&site.config.run(["wal", "list", "--json"]).assert_ok().stdout);
        let one = shown["repositories"][0]["timelines"][0].clone();
        one["ranges"][0]["last"].as_str().unwrap().to_owned()
    };
    for name in [&newest_of_one, &first] {
        fs::remove_file(object(&site.repo, name)).unwrap();
    }
    let missing = gaps(&site.config, 14);
    let holes: Vec<&str> =
        missing["holes"].as_array().unwrap().iter().map(|h| h["first"].as_str().unwrap()).collect();
    assert_eq!(holes, [newest_of_one.as_str(), first.as_str()], "{missing:#}");

    let own = site.cluster.data_dir();
    let current = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    site.cluster.psql("insert into t values (5)");
    let planned = plan(&site.config, own);
    assert_eq!(planned["from"]["is_running"], true);
    assert_eq!(reason(&planned, &current), "writing");
    backfill(&site.config, own, &["--yes"]).assert_ok();
    gaps(&site.config, 0);
    assert!(find(&site.repo, &current).is_none(), "{current} is still written");
    site.cluster.archive_now();
    let scratch = ScratchDir::new("restored");
    let to = scratch.join("data");
    site.restore(&to, &[]);
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), "1,2,3,4,5");
}

/// A folder of loose files has no control file: each file has to prove itself.
#[test]
fn f001_f003_f009_of_loose_files_only_what_is_whole_and_the_cluster_s_own_is_stored() {
    let Some(server) = Server::main() else { return };
    let site = archive_live::Site::new(&server, 1);
    let (one, two, three) = (site.segment(), site.segment(), site.segment());
    let current = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    site.cluster.psql("insert into t values (1)");
    site.cluster.stop(Stop::Immediate);
    site.push(&one).assert_ok();
    let other = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    other.psql("create table t (n int)");
    let foreign = other.switch_wal();
    let foreign_content = fs::read(other.data_dir().join("pg_wal").join(&foreign)).unwrap();

    let folder = loose(&site.cluster);
    let content = |name: &str| fs::read(site.wal(name)).unwrap();
    // Recycled for the next ones, made for later, another cluster's, cut off, and junk.
    let later = |ahead: u32| {
        let number = u32::from_str_radix(&three[16..], 16).unwrap() + ahead;
        format!("{}{number:08X}", &three[..16])
    };
    folder.write(&later(16), content(&one));
    folder.write(&later(17), vec![0; 1 << 20]);
    folder.write(&later(18), foreign_content);
    folder.write(&later(19), &content(&three)[..8192]);
    folder.write(&later(20), vec![7; 1 << 20]);
    folder.write("00000002.history", "1\t0/100\tof whoever it may be\n");
    folder.write("xlogtemp.77", "junk");
    fs::create_dir(folder.join(&later(21))).unwrap();
    // What is archived under the first name is something else here.
    let mut changed = content(&one);
    *changed.last_mut().unwrap() ^= 1;
    folder.write(&one, changed);
    let archived = content(&one);

    let planned = plan(&site.config, folder.path());
    let offered = names(&planned["store"]);
    assert!(offered.contains(&two) && offered.contains(&three), "{planned:#}");
    for (name, why) in [
        (later(16), "recycled"),
        (later(17), "empty"),
        (later(18), "foreign"),
        (later(19), "unusable"),
        (later(20), "unusable"),
        (later(21), "unusable"),
        ("00000002.history".into(), "unproven"),
    ] {
        assert_eq!(reason(&planned, &name), why, "{name}: {planned:#}");
    }
    assert_eq!(names(&planned["conflicts"]), [one.as_str()], "{planned:#}");
    let begun = planned["store"].as_array().unwrap().iter().find(|file| file["name"] == *current);
    assert_eq!(begun.unwrap()["partial"], true, "{planned:#}");

    // The conflict is told, the first one stays, and the others go on.
    let done = backfill(&site.config, folder.path(), &["--yes"]).assert_code(1);
    assert!(done.stdout.contains(&format!("CONFLICT: {one}")), "{done}");
    assert!(done.stderr.contains("First write wins"), "{done}");
    site.cluster.start();
    site.assert_gives(&one, &archived);
    for name in [&two, &three] {
        site.assert_gives(name, &content(name));
    }
    site.assert_kept(&current, 0, 1);
    for ahead in 16..=21 {
        site.assert_kept(&later(ahead), 0, 0);
    }
    assert!(find(&site.repo, "00000002").is_none());
}

/// Nothing of a foreign cluster gets in: its loose files are refused one by one, its data directory at once.
#[test]
fn f001_a_foreign_cluster_s_wal_is_refused() {
    let Some(server) = Server::main() else { return };
    let site = archive_live::Site::new(&server, 1);
    let other = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    other.psql("create table t (n int)");
    other.switch_wal();
    other.stop(Stop::Fast);
    promoted(&other);
    other.switch_wal();
    other.stop(Stop::Fast);
    let before = count(&site.repo);
    let folder = loose(&other);
    assert!(folder.join("00000002.history").exists());
    let planned = plan(&site.config, folder.path());
    assert_eq!(names(&planned["store"]), Vec::<String>::new(), "{planned:#}");
    let left = planned["left"].as_array().unwrap();
    assert!(left.iter().filter(|file| file["reason"] == "foreign").count() > 1, "{planned:#}");
    assert_eq!(reason(&planned, "00000002.history"), "unproven");
    let told = backfill(&site.config, folder.path(), &["--yes"]).assert_ok();
    assert!(told.stdout.contains("of another cluster, system "), "{told}");
    for from in [other.data_dir().to_owned(), other.data_dir().join("pg_wal")] {
        backfill(&site.config, &from, &["--yes"]).assert_code(10).assert_says("not registered");
    }
    assert_eq!(count(&site.repo), before, "nothing was stored");
}

/// Segments of a later timeline bring their history along, from a server and from loose files; of two
/// servers that took one timeline the second one's are left.
#[test]
fn f002_f024_histories_go_first_and_a_second_one_is_refused() {
    let Some(server) = Server::main() else { return };
    let site = archive_live::Site::new(&server, 1);
    let early = site.segment();
    let (standby, theirs) = archive_live::promoted_copy(&server, &site);
    standby.psql("insert into t values (2)");
    let own = standby.switch_wal();
    standby.psql("insert into t values (3)");
    standby.stop(Stop::Immediate);
    assert!(own.starts_with("00000002"), "{own}");
    let folder = loose(&standby);
    let planned = plan(&theirs, folder.path());
    let offered = names(&planned["store"]);
    assert_eq!(offered[0], "00000002.history", "{planned:#}");
    assert!(offered.contains(&own) && offered.contains(&early), "{planned:#}");
    // What a promotion leaves of the old timeline's last segment.
    let is_partial = |file: &&Value| file["name"].as_str().unwrap().ends_with(".partial");
    let partial = planned["store"].as_array().unwrap().iter().find(is_partial);
    assert_eq!(partial.unwrap()["partial"], true, "{planned:#}");
    let warned = planned["warnings"].as_array().unwrap();
    assert!(warned[0].as_str().unwrap().contains("timeline 2 is new"), "{planned:#}");
    backfill(&theirs, folder.path(), &["--yes"]).assert_ok();
    site.assert_gives("00000002.history", &fs::read(folder.join("00000002.history")).unwrap());
    site.assert_gives(&own, &fs::read(folder.join(&own)).unwrap());
    let listed = theirs.run(["wal", "list"]).assert_ok();
    assert!(listed.stdout.contains("partial: 00000001"), "{listed}");
    assert!(!listed.stdout.contains(".partial"), "it is no segment, and no misfit\n{listed}");
    // From its data directory, there is nothing more.
    let again = plan(&theirs, standby.data_dir());
    assert_eq!(names(&again["store"]), Vec::<String>::new(), "{again:#}");

    // The old primary goes on for a while, and takes timeline 2 as well.
    site.cluster.start();
    site.segment();
    site.cluster.stop(Stop::Fast);
    promoted(&site.cluster);
    site.segment();
    let second = site.segment();
    site.cluster.stop(Stop::Fast);
    let planned = plan(&site.config, site.cluster.data_dir());
    assert_eq!(names(&planned["conflicts"]), ["00000002.history"], "{planned:#}");
    assert_eq!(reason(&planned, &second), "other-history");
    let refused = backfill(&site.config, site.cluster.data_dir(), &["--yes"]).assert_code(1);
    assert!(refused.stdout.contains("two servers took one timeline"), "{refused}");
    site.assert_kept(&second, 0, 0);
}

/// A running standby's `pg_wal`: what it has whole is offered, what it still receives is not.
#[test]
fn f009_a_running_standby_offers_whole_segments_only() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    let standby = Follower::new(&server, &site, true);
    standby.cluster.start();
    standby.wait_for_rows(1);
    site.cluster.set_archive_command("false");
    let mut whole = Vec::new();
    for n in 2..=4 {
        site.cluster.psql(&format!("insert into t values ({n})"));
        whole.push(site.cluster.switch_wal());
    }
    site.cluster.psql("insert into t values (5)");
    standby.wait_for_rows(5);
    let current = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    let pg_wal = standby.cluster.data_dir().join("pg_wal");
    let planned = plan(&standby.config, &pg_wal);
    let offered = names(&planned["store"]);
    for name in &whole {
        assert!(offered.contains(name), "{planned:#}");
    }
    assert_eq!(reason(&planned, &current), "writing");
    backfill(&standby.config, &pg_wal, &["--yes"]).assert_ok();
    assert!(find(&site.repo, &current).is_none());
    // The primary archives the same ones, once it can.
    site.cluster.set_archive_command(&site.config.archive_command());
    site.cluster.archive_now();
    let failed = || site.cluster.log().contains("exists with other content");
    wait_until(DEADLINE, || ready(&site.cluster).is_empty(), || site.cluster.log());
    assert!(!failed(), "{}", site.cluster.log());
}

/// One repository has what the other lacks: that is said, and only the one that lacks it is given.
#[test]
fn what_another_repository_has_is_offered_from_there() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let (first, second) = (TestRepo::new(), TestRepo::new());
    let config = TestConfig::new(&cluster).repository("first", &first, Cipher::Aes).repository(
        "second",
        &second,
        Cipher::None,
    );
    config.run(["init"]).assert_ok();
    let path = |name: &str| -> PathBuf { cluster.data_dir().join("pg_wal").join(name) };
    let segments: Vec<String> = (0..4).map(|_| cluster.switch_wal()).collect();
    for name in &segments {
        push(&config, &path(name)).assert_ok();
    }
    for name in &segments[1..3] {
        fs::remove_file(object(&second, name)).unwrap();
    }
    let told = config.run(["wal", "gaps"]).assert_code(14);
    assert!(told.stdout.contains("first: nothing is missing"), "{told}");
    assert!(told.stdout.contains("way out: repository first has them"), "{told}");
    let only = ["--repository", "first", "wal", "gaps"];
    let first_only = config.run(only).assert_ok();
    assert!(!first_only.stdout.contains("second"), "{first_only}");
    let shown = json(&config.run(["wal", "gaps", "--json"]).assert_code(14).stdout);
    let hole = &shown["repositories"][1]["holes"][0];
    assert_eq!(hole["elsewhere"][0]["repository"], "first", "{shown:#}");
    assert_eq!((&hole["elsewhere"][0]["segments"], &hole["segments"]), (&2.into(), &2.into()));

    // As the text says: fetched into a folder, and stored from there.
    let folder = ScratchDir::new("fetched");
    for name in &segments[1..3] {
        let to = folder.join(name);
        let get = ["--repository", "first", "archive-get", name, to.to_str().unwrap()];
        config.run(get).assert_ok();
    }
    let planned = plan(&config, folder.path());
    for file in planned["store"].as_array().unwrap() {
        assert_eq!(file["repositories"], serde_json::json!(["second"]), "{planned:#}");
    }
    backfill(&config, folder.path(), &["--yes", "--json"]).assert_ok();
    config.run(["wal", "gaps"]).assert_ok();
    // A repository that is away is told, and the other one is given.
    let name = cluster.switch_wal();
    let aside = first.path().with_extension("away");
    fs::rename(first.path(), &aside).unwrap();
    backfill(&config, cluster.data_dir(), &["--yes"]).assert_code(10);
    object(&second, &name);
    fs::rename(&aside, first.path()).unwrap();
    backfill(&config, cluster.data_dir(), &["--yes"]).assert_ok();
    object(&first, &name);
}
