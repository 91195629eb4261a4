//! Full backups of live clusters: what is copied and what is not, what is damaged, and what becomes of a backup whose server goes away or whose WAL does not come.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgkeep::backup;
use pgkeep::pg::page;
use pgkeep::repo::RowKind;

use crate::support::library::LibraryCluster;
use crate::support::run::{run, start};
use crate::support::servers::skip;
use crate::support::site::{Site, json, started};
use crate::support::{
    Cipher, ScratchDir, Server, Stop, TestCluster, TestConfig, TestRepo, account, tools,
};

const PAGE: usize = 8192;

/// Blocks of a relation's segment: 1 GiB.
const SEGMENT_BLOCKS: u32 = 131_072;

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn f058_a_wal_directory_behind_a_link_comes_back_as_a_plain_one() {
    let Some(server) = Server::main() else { return };
    let elsewhere = ScratchDir::new("wal");
    let wal = elsewhere.join("wal");
    let launch = TestCluster::create(&server).wal_segment_mib(1);
    let site = Site::start(launch.initdb_arg(&format!("--waldir={}", wal.display())));
    let source = site.cluster.data_dir().join("pg_wal");
    assert!(source.is_symlink());
    site.cluster.psql("create table t as select generate_series(1, 1000) n");
    site.backup();
    site.cluster.psql("insert into t values (1001)");
    site.cluster.archive_now();
    let before = names_in(&wal);

    let scratch = ScratchDir::new("copy");
    let to = scratch.join("data");
    site.restore(&to, &[]);
    let restored = to.join("pg_wal");
    assert!(!restored.is_symlink() && restored.is_dir());
    assert_eq!(names_in(&restored), ["archive_status"]);
    assert!(names_in(&restored.join("archive_status")).is_empty());
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select count(*) from t"), "1001");
    copy.stop(Stop::Fast);
    assert_eq!(names_in(&wal), before, "the copy wrote into its source's WAL");
}

#[test]
fn f055_f046_a_damaged_page_is_kept_counted_and_named() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t as select generate_series(1, 1000) n");
    let path = site.path_of("t");
    site.cluster.stop(Stop::Fast);
    let file = site.cluster.data_dir().join(&path);
    let mut content = fs::read(&file).unwrap();
    assert!(content.len() >= 3 * PAGE);
    // The file of a second segment, which the server never opens: its first page has the checksum of
    // block 0, its second one that of the block that it is.
    let mut second = content[..2 * PAGE].to_vec();
    let right = page::checksum(&second[PAGE..], SEGMENT_BLOCKS + 1);
    second[PAGE + 8..PAGE + 10].copy_from_slice(&right.to_le_bytes());
    let second_path = format!("{path}.1");
    let second_file = site.cluster.data_dir().join(&second_path);
    fs::write(&second_file, &second).unwrap();
    account::unprivileged().own(&second_file);
    content[PAGE + 8000] ^= 1;
    fs::write(&file, &content).unwrap();
    site.cluster.start();

    let ran = site.config.run(["backup", "--json"]).assert_code(3);
    let taken = json(&ran.stdout);
    assert_eq!(taken["invalid_pages"], 2, "{taken}");
    let damage = taken["damage"].as_array().unwrap();
    let found: Vec<_> =
        damage.iter().map(|one| (one["path"].clone(), one["block"].clone())).collect();
    let expected = [(path.as_str().into(), 1.into()), (second_path.as_str().into(), 0.into())];
    assert_eq!(found, expected, "{taken}");
    assert!(damage[0]["why"].as_str().unwrap().contains("checksum"), "{taken}");
    ran.assert_says(&format!("{path} block 1: "));
    let shown = json(&site.config.run(["info", "--json"]).assert_ok().stdout);
    let shown = &shown["repositories"][0]["backups"][0];
    assert_eq!((&shown["invalid_pages"], &shown["state"]), (&2.into(), &"invalid-pages".into()));

    // It holds what was on the disk, for whoever wants to mend it.
    let scratch = ScratchDir::new("copy");
    let to = scratch.join("data");
    site.restore(&to, &["--target-immediate"]);
    assert!(fs::read(to.join(&path)).unwrap() == content);
    assert!(fs::read(to.join(&second_path)).unwrap() == second);
}

/// A backup that lasts longer than any test waits.
fn slowly(options: &mut backup::Options) {
    options.max_rate = Some(256 << 10);
}

/// Starts a slow backup, lets `disturb` do its work in the middle of it, and returns what became of
/// the backup.
fn disturbed(live: &LibraryCluster, disturb: impl FnOnce()) -> backup::Error {
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| live.backup(&repository, slowly));
        live.cluster.wait_until(
            "exists (select from pg_stat_activity where application_name like 'pgkeep backup 2%')",
        );
        disturb();
        let begin = Instant::now();
        let outcome = running.join().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(20), "it took {:?}", begin.elapsed());
        outcome.unwrap_err()
    })
}

fn assert_nothing_visible(live: &LibraryCluster) {
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let backups = repository.backups(&live.ctx, &live.place).unwrap();
    assert!(backups.complete.is_empty() && backups.unreadable.is_empty(), "{backups:?}");
}

#[test]
pub(crate) fn f062_a_backup_ends_with_its_server_or_session() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    let killed = disturbed(&live, || {
        live.cluster.kill9();
        live.cluster.start();
    });
    assert!(matches!(killed, backup::Error::Server(_)), "{killed}");
    assert_nothing_visible(&live);
    let restarted = disturbed(&live, || live.cluster.restart());
    assert!(matches!(restarted, backup::Error::Server(_)), "{restarted}");
    assert_nothing_visible(&live);
    let terminated = disturbed(&live, || {
        let ended = live.cluster.psql(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity \
             where application_name like 'pgkeep backup 2%'",
        );
        assert_eq!(ended, "t");
    });
    assert!(matches!(terminated, backup::Error::Server(_)), "{terminated}");
    assert_nothing_visible(&live);
    let gone = disturbed(&live, || live.cluster.kill9());
    assert!(matches!(gone, backup::Error::Server(_)), "{gone}");
    assert_nothing_visible(&live);

    live.cluster.start();
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let id = live.backup(&repository, |_| {}).unwrap().summary.id;
    let backups = repository.backups(&live.ctx, &live.place).unwrap();
    assert_eq!(backups.complete.iter().map(|one| &one.id).collect::<Vec<_>>(), [&id]);
}

#[test]
pub(crate) fn f060_no_backup_without_its_wal() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let working = live.cluster.psql("show archive_command");
    live.cluster.set_archive_command("false");
    let wal_wait = Duration::from_secs(3);
    let refused = live.backup(&repository, |options| options.wal_wait = wal_wait).unwrap_err();
    let backup::Error::WalMissing { segment, waited, archiver } = &refused else {
        panic!("{refused}");
    };
    assert!(segment.starts_with("00000001") && segment.len() == 24, "{segment}");
    assert!(*waited >= wal_wait && *waited < wal_wait * 3, "{waited:?}");
    let oldest = live.cluster.psql("select last_failed_wal from pg_stat_archiver");
    assert!(archiver.contains("attempts failed, the last for "), "{archiver}");
    assert!(archiver.contains(&oldest) && !archiver.contains(" 0 attempts"), "{archiver}");
    assert!(refused.to_string().contains(segment.as_str()), "{refused}");
    assert_nothing_visible(&live);

    live.cluster.set_archive_command(&working);
    let summary = live.backup(&repository, |_| {}).unwrap().summary;
    let stored = repository.segments(&live.ctx, &live.place).unwrap();
    for needed in [&summary.wal_first, &summary.wal_last] {
        assert!(stored[&1].contains(needed), "{needed} of {stored:?}");
    }
}

#[test]
fn f060_the_operator_is_told_which_wal_is_missing_and_what_the_archiver_says() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.set_archive_command("false");
    let text = fs::read_to_string(site.config.path()).unwrap();
    let text = text.replace("[cluster.main]\n", "[cluster.main]\nwal_wait = \"2s\"\n");
    let impatient = site.cluster.scratch().write("impatient.toml", text);
    let mut command = site.cluster.pgkeep();
    let ran = run(command.arg("--config").arg(impatient).arg("backup")).assert_code(1);
    let segment = site.cluster.psql("select last_failed_wal from pg_stat_archiver");
    for told in ["did not arrive in the repository within ", "attempts failed", &segment] {
        assert!(ran.stderr.contains(told), "{told}\n{ran}");
    }
    let shown = json(&site.config.run(["info", "--json"]).assert_ok().stdout);
    assert_eq!(shown["repositories"][0]["backups"].as_array().unwrap().len(), 0);
}

/// An archive_command that says yes and stores nothing, once, in the middle: every segment from start to
/// stop is looked for, not only the last.
#[test]
fn f061_a_segment_that_is_lost_in_the_middle_gives_no_backup() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let lost = site.cluster.scratch().join("lost");
    let command =
        format!("grep -qx %f {} 2>/dev/null || {}", lost.display(), site.config.archive_command());
    site.cluster.set_archive_command(&command);
    let text = fs::read_to_string(site.config.path()).unwrap();
    let text = text.replace("[cluster.main]\n", "[cluster.main]\nwal_wait = \"3s\"\n");
    let impatient = site.cluster.scratch().write("impatient.toml", text);
    let mut backup = site.cluster.pgkeep();
    let running =
        start(backup.arg("--config").arg(impatient).args(["backup", "--max-rate", "4MiB"]));
    site.cluster.wait_until(
        "exists (select from pg_stat_activity where state = 'idle' \
         and application_name like 'pgkeep backup 2%' \
         and now() - state_change > interval '300 milliseconds')",
    );
    let middle = "select pg_walfile_name(pg_current_wal_insert_lsn() + 1048576)";
    let middle = site.cluster.psql(middle);
    fs::write(&lost, &middle).unwrap();
    let switched: Vec<String> = (0..4).map(|_| site.cluster.archive_now()).collect();
    assert_eq!(switched[1], middle);
    let ran = running.wait().assert_code(1);
    assert!(ran.stderr.contains(&middle), "{ran}");
    assert!(!ran.stderr.contains(&switched[2]), "{ran}");
    let shown = json(&site.config.run(["info", "--json"]).assert_ok().stdout);
    assert_eq!(shown["repositories"][0]["backups"].as_array().unwrap().len(), 0);
}

/// A spread one takes minutes, and a backup cannot begin before it is done.
#[test]
fn a_backup_asks_for_a_fast_checkpoint() {
    for server in Server::all() {
        let site = Site::small(&server);
        site.cluster.psql("alter system set log_checkpoints = on; select pg_reload_conf()");
        site.cluster.psql("create table t as select generate_series(1, 1000) n");
        let before = site.cluster.log().len();
        site.backup();
        let log = site.cluster.log()[before..].to_owned();
        // "immediate" up to 18; "fast" after it.
        let begun = log.lines().filter(|line| line.contains("checkpoint starting:"));
        let words =
            ["checkpoint starting: immediate force wait", "checkpoint starting: fast force wait"];
        let is_fast = |line: &str| words.iter().any(|words| line.contains(words));
        assert!(begun.clone().count() > 0 && begun.clone().all(is_fast), "{log}");
    }
}

/// From 15 on a library can do the archiving, and then archive_command is dead.
#[test]
fn an_archive_library_in_the_way_is_told_and_refused() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.backup();
    site.cluster.set("archive_library", "basic_archive");
    let checked = site.config.run(["check"]).assert_code(14);
    assert!(checked.stdout.contains("FAIL  archive_library: \"basic_archive\""), "{checked}");
    site.config.run(["backup"]).assert_code(1).assert_says("archive_library is set");
}

/// Every row of a backup: path and kind.
fn rows_of(live: &LibraryCluster) -> BTreeMap<String, RowKind> {
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let id = live.backup(&repository, |_| {}).unwrap().summary.id;
    let opened = repository.open_backup(&live.place, &id).unwrap();
    let mut reader = opened.rows().unwrap();
    let mut rows = BTreeMap::new();
    while let Some(row) = reader.next_row().unwrap() {
        rows.insert(String::from_utf8(row.path).unwrap(), row.kind);
    }
    rows
}

#[test]
fn f057_what_is_left_out_is_left_out_by_its_place() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    let (cluster, data) = (&live.cluster, live.cluster.data_dir());
    let scratch = ScratchDir::new("tablespace");
    let location = scratch.create_dir("ts");
    cluster.psql(&format!("create tablespace far location '{}'", location.display()));
    cluster.psql("create table moved tablespace far as select generate_series(1, 10) n");
    cluster.psql("create unlogged table scribble as select generate_series(1, 1000) n");
    cluster.psql("select pg_create_physical_replication_slot('standby', true)");
    let mut holder = cluster.command("psql");
    holder.args(["-X", "-d", &cluster.conninfo(), "-c"]);
    holder.arg("create temp table brief as select generate_series(1, 1000) n");
    let _holder = start(holder.args(["-c", "select pg_sleep(3600)"]));
    cluster.wait_until("exists (select from pg_stat_activity where query like '%pg_sleep(3600)%')");
    let path_of = |name: &str| cluster.psql(&format!("select pg_relation_filepath('{name}')"));
    let brief =
        cluster.psql("select pg_relation_filepath(oid) from pg_class where relname = 'brief'");
    let (moved, scribble) = (path_of("moved"), path_of("scribble"));
    let database = scribble.rsplit_once('/').unwrap().0.to_owned();
    let far = moved.rsplitn(3, '/').nth(2).unwrap().to_owned();
    let left_out = [
        "base/pgsql_tmp/pgsql_tmp123.0".to_owned(),
        format!("{far}/pgsql_tmp/pgsql_tmp123.1"),
        "pg_stat_tmp/global.stat".to_owned(),
        "pg_replslot/standby/state".to_owned(),
        "pg_notify/left_out".to_owned(),
        "pg_serial/left_out".to_owned(),
        "pg_snapshots/left_out".to_owned(),
        "pg_dynshmem/left_out".to_owned(),
        "pg_subtrans/0000".to_owned(),
        format!("{database}/pg_internal.init.4711"),
        "postmaster.pid".to_owned(),
        "postmaster.opts".to_owned(),
        "backup_label.old".to_owned(),
        brief,
        scribble.clone(),
    ];
    for path in &left_out {
        let path = data.join(path);
        if !path.exists() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
    }
    // The same names where they mean nothing.
    let copied = [
        format!("{far}/log/mine"),
        "log/server.log".to_owned(),
        "extras/log/mine".to_owned(),
        "extras/postmaster.pid".to_owned(),
        "extras/pg_replslot/mine".to_owned(),
        "extras/pgsql_tmp/mine".to_owned(),
    ];
    for path in &copied {
        let path = data.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    let rows = rows_of(&live);
    for path in &left_out {
        assert!(data.join(path).exists(), "{path} was there to be left out");
        assert!(!rows.contains_key(path), "{path} was copied");
    }
    let init_fork = format!("{scribble}_init");
    for path in copied.iter().chain([&moved, &init_fork]) {
        assert_eq!(rows.get(path), Some(&RowKind::File), "{path}");
    }
    for directory in [
        "pg_dynshmem",
        "pg_notify",
        "pg_replslot",
        "pg_serial",
        "pg_snapshots",
        "pg_stat_tmp",
        "pg_subtrans",
        "pg_wal",
        "pg_wal/archive_status",
    ] {
        assert_eq!(rows.get(directory), Some(&RowKind::Directory), "{directory}");
        let below = format!("{directory}/");
        let inside: Vec<_> = rows
            .keys()
            .filter(|path| path.starts_with(&below) && *path != "pg_wal/archive_status")
            .collect();
        assert!(inside.is_empty(), "{inside:?}");
    }
}

/// Bytes of a file that are in the page cache.
fn cached(file: &Path) -> u64 {
    let mut command = Command::new("fincore");
    let ran = run(command.args(["--bytes", "--noheadings", "--output", "RES"]).arg(file));
    ran.assert_ok().stdout.trim().parse().unwrap()
}

/// Writes a file's dirty pages and drops all of them from the page cache.
fn drop_from_cache(file: &Path) {
    let mut command = Command::new("dd");
    command.arg(format!("of={}", file.display()));
    run(command.args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0"])).assert_ok();
}

#[test]
fn a_backup_leaves_the_page_cache_as_it_was() {
    let Some(server) = Server::main() else { return };
    if Command::new("fincore").arg("--version").output().is_err() {
        skip::<()>("fincore is not installed");
        return;
    }
    let live = LibraryCluster::start(&server);
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    live.cluster.psql("create table t (n int, t text) with (fillfactor = 10)");
    live.cluster.psql("alter table t alter t set storage plain");
    live.cluster.psql("insert into t select n, repeat('x', 4000) from generate_series(1, 3000) n");
    live.cluster.psql("checkpoint");
    let path = live.cluster.psql("select pg_relation_filepath('t')");
    let file = live.cluster.data_dir().join(path);
    let size = fs::metadata(&file).unwrap().len();
    assert!(size > 20 << 20, "{size}");
    drop_from_cache(&file);
    if cached(&file) > size / 20 {
        skip::<()>("this file system does not let go of cached pages");
        return;
    }
    live.backup(&repository, |_| {}).unwrap();
    let filled = cached(&file);
    assert!(filled <= size / 20, "{filled} of {size} bytes were left in the cache");

    std::io::copy(&mut fs::File::open(&file).unwrap(), &mut std::io::sink()).unwrap();
    let whole = cached(&file);
    if whole < size {
        skip::<()>("this machine does not keep 24 MiB cached");
        return;
    }
    live.backup(&repository, |_| {}).unwrap();
    let kept = cached(&file);
    assert!(kept >= size / 20 * 19, "only {kept} of {size} bytes stayed in the cache");
}

/// Whether any file below a directory contains these bytes.
fn contains(directory: &Path, wanted: &[u8]) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return contains(&path, wanted);
        }
        fs::read(&path).unwrap().windows(wanted.len()).any(|window| window == wanted)
    })
}

#[test]
fn f063_each_repository_says_its_cipher_and_means_it() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let (open, closed) = (TestRepo::new(), TestRepo::new());
    let config = TestConfig::new(&cluster).repository("open", &open, Cipher::None).repository(
        "closed",
        &closed,
        Cipher::Aes,
    );
    config.run(["init"]).assert_ok();
    cluster.set_archive_command(&config.archive_command());
    let marker = "a-word-that-nobody-else-writes-8f3a";
    fs::write(cluster.data_dir().join("marker"), marker).unwrap();
    for (name, cipher, repo) in [("open", "none", &open), ("closed", "aes-256-cbc", &closed)] {
        config.run(["--repository", name, "backup"]).assert_ok();
        let shown = json(&config.run(["info", "--json"]).assert_ok().stdout);
        let repositories = shown["repositories"].as_array().unwrap();
        let its = repositories.iter().find(|one| one["repository"] == name).unwrap();
        assert_eq!((&its["cipher"], its["backups"].as_array().unwrap().len()), (&cipher.into(), 1));
        assert_eq!(contains(repo.path(), marker.as_bytes()), cipher == "none", "{name}");
    }
}

fn unpack(site: &Site, arguments: &[&str]) -> String {
    let mut command = Command::new("python3");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/unpack.py");
    command.arg("-B").arg(script).arg(site.repo.path());
    command.arg("--key-file").arg(site.repo.key_file());
    run(command.args(arguments)).assert_ok().stdout
}

#[test]
fn an_engineer_without_pgkeep_unpacks_a_live_backup() {
    for program in ["python3", "openssl"] {
        if Command::new(program).arg("--help").output().is_err() {
            skip::<()>(&format!("{program} is not installed"));
            return;
        }
    }
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t as select n, md5(n::text) from generate_series(1, 5000) n");
    site.cluster.psql("vacuum freeze t; checkpoint");
    let path = site.path_of("t");
    let id = site.backup();
    let segment = site.cluster.archive_now();
    let listed = unpack(&site, &["list-backups"]);
    assert!(listed.starts_with(&format!("{id}  full  finished ")), "{listed}");
    let listed = unpack(&site, &["list", &id]);
    assert!(listed.lines().any(|line| line.ends_with(&format!("  {path}"))), "{listed}");

    let scratch = ScratchDir::new("unpacked");
    let out: PathBuf = scratch.join("out");
    let output = out.to_str().unwrap();
    unpack(&site, &["file", &id, &path, "-o", output]);
    let data = site.cluster.data_dir();
    assert!(fs::read(&out).unwrap() == fs::read(data.join(&path)).unwrap());
    unpack(&site, &["wal", &segment, "-o", output]);
    assert!(fs::read(&out).unwrap() == fs::read(data.join("pg_wal").join(&segment)).unwrap());
}

#[test]
fn a_hot_standby_is_backed_up_while_its_primary_archives() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let primary = &site.cluster;
    primary.psql("create table t as select generate_series(1, 1000) n");
    let scratch = ScratchDir::new("standby");
    let data = scratch.create_dir("data");
    let mut copying = primary.command("pg_basebackup");
    copying.args(["-R", "-c", "fast", "-X", "stream", "-d", &primary.conninfo(), "-D"]);
    run(copying.arg(&data)).assert_ok();
    let standby = TestCluster::adopt(&server, &data).start();
    let of_standby = TestConfig::new(&standby).repository("local", &site.repo, Cipher::Aes);
    let running = start(&mut of_standby.pgkeep(["backup", "--json"]));
    let taken = std::thread::scope(|scope| {
        let waiting = scope.spawn(move || running.wait());
        // A standby cannot switch WAL: its backup waits for what the primary archives.
        while !waiting.is_finished() {
            primary.psql("insert into t values (0)");
            primary.archive_now();
        }
        json(&waiting.join().unwrap().assert_ok().stdout)
    });
    let rows = primary.psql("select count(*) from t");
    let to = scratch.join("copy");
    let mut restore = of_standby.pgkeep(["restore", "--yes", "--target-action", "promote"]);
    run(restore.arg("--to").arg(&to)).assert_ok();
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select count(*) from t"), rows);
    tools::assert_amcheck(&copy);
    let shown = json(&site.config.run(["info", "--json"]).assert_ok().stdout);
    assert_eq!(shown["repositories"][0]["backups"][0]["id"], taken["id"]);
}
