//! The command line on a real server: init, check, archiving, backup, info, signals.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::run::{DEADLINE, run, start, wait_until};
use crate::support::{Cipher, ScratchDir, Server, TestCluster, TestConfig, TestRepo, tools};

struct Site {
    cluster: TestCluster,
    config: TestConfig,
    _repo: TestRepo,
}

/// A cluster that archives into a repository.
fn archiving(server: &Server) -> Site {
    let cluster = TestCluster::create(server)
        .checksums()
        .wal_segment_mib(1)
        .setting("archive_timeout", "60")
        .archiving()
        .start();
    let repo = TestRepo::new();
    let config = TestConfig::new(&cluster).repository("local", &repo, Cipher::Aes);
    let made = config.run(["init"]).assert_ok();
    assert!(made.stdout.contains("archive_command = '"), "{made}");
    assert!(!made.stdout.contains("archive_mode"), "it is on already\n{made}");
    cluster.set_archive_command(&config.archive_command());
    Site { cluster, config, _repo: repo }
}

fn json(text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    assert_eq!(value["format_version"], 1);
    value
}

/// Whoever sets a retention must not learn from a full disk, or from a lost backup, that there is none.
#[test]
fn check_says_which_settings_have_no_effect_yet() {
    let Some(server) = Server::main() else { return };
    let site = archiving(&server);
    let checked = site.config.run(["check"]).assert_code(14);
    assert!(!checked.stdout.contains("not carried out"), "{checked}");
    let config = site.config.toml(
        "[repository.local.retention]\ndaily = 3\n[schedule]\nfull = '0 0 2 * * *'\n[daemon]\nlisten = '127.0.0.1:1'\n\
         socket = '/run/pgkeep/other.sock'\nfallback = 'fail'\npush_jobs = 3",
    );
    let checked = config.run(["check"]).assert_code(14);
    let told = "warn  configuration: schedule.full, daemon.listen: not carried out by this version";
    assert!(checked.stdout.contains(told), "{checked}");
}

#[test]
fn from_init_to_a_backup_that_info_shows() {
    let Some(server) = Server::main() else { return };
    let site = archiving(&server);
    let (cluster, config) = (&site.cluster, &site.config);
    config.run(["init"]).assert_ok().assert_says("registered in local already");
    let checked = config.run(["check"]).assert_code(14);
    assert!(checked.stdout.contains("FAIL  local: last backup: there is none"), "{checked}");
    let nothing = config.run(["info"]).assert_ok();
    assert!(nothing.stdout.starts_with("local: Nothing can be restored: there is no backup"));
    let planned = config.run(["backup", "--dry-run"]).assert_ok();
    assert!(planned.stdout.contains("Nothing was changed"), "{planned}");

    let segment = cluster.archive_now();
    let kept = fs::read(cluster.data_dir().join("pg_wal").join(&segment)).unwrap();
    let taken = json(&config.run(["backup", "--json"]).assert_ok().stdout);
    assert_eq!(taken["invalid_pages"], 0);
    cluster.psql("create table t (n int); insert into t values (1)");
    cluster.archive_now();
    let shown = json(&config.run(["info", "--json"]).assert_ok().stdout);
    let local = &shown["repositories"][0];
    assert_eq!(local["backups"][0]["id"], taken["id"]);
    assert_eq!(local["holes"].as_array().unwrap().len(), 0);
    assert_eq!(local["windows"].as_array().unwrap().len(), 1);
    assert!(local["windows"][0]["to"].as_str() > local["windows"][0]["from"].as_str(), "{local}");
    let shown = config.run(["info"]).assert_ok();
    assert!(shown.stdout.starts_with("local: You can restore any moment from "), "{shown}");
    config.run(["check"]).assert_ok().assert_says("WAL: without holes");

    // What restore_command asks for.
    let out = cluster.scratch().join("fetched");
    let fetched = out.to_str().unwrap();
    config.run(["archive-get", &segment, fetched]).assert_ok();
    assert!(fs::read(&out).unwrap() == kept, "byte for byte");
    let next = "0000000100000000000000FF";
    let absent = cluster.scratch().join("absent");
    config.run(["archive-get", next, absent.to_str().unwrap()]).assert_code(1);
    let through = ["archive-get", "--through", "1/0", next, absent.to_str().unwrap()];
    config.run(through).assert_code(200).assert_says("plan counts on it");
    assert!(!absent.exists());
    let history = ["archive-get", "00000002.history", absent.to_str().unwrap()];
    config.run(history).assert_code(1);
    assert_hole(config, &segment);
}

/// An init that was killed between the registration and the mark of notes left a cluster without one for ever.
#[test]
fn d2026_11_28_a_repeated_init_puts_the_mark_of_notes() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).start();
    let repo = TestRepo::new();
    let config = TestConfig::new(&cluster).repository("local", &repo, Cipher::Aes);
    config.run(["init"]).assert_ok();
    let systems = fs::read_dir(repo.path().join("c/main")).unwrap();
    let place = systems.map(|entry| entry.unwrap().path()).next().unwrap();
    let mark = place.join("sum/found-first");
    fs::remove_file(&mark).unwrap();
    config.run(["init"]).assert_ok().assert_says("registered in local already");
    assert!(mark.exists());
    config.run(["init"]).assert_ok();
}

/// A segment that disappears from the repository is a hole everywhere.
fn assert_hole(config: &TestConfig, segment: &str) {
    let shown = json(&config.run(["info", "--json"]).assert_ok().stdout);
    let last = shown["repositories"][0]["windows"][0]["last_segment"].as_str().unwrap().to_owned();
    assert!(last.as_str() > segment);
    let text = fs::read_to_string(config.path()).unwrap();
    let parsed: toml::Table = text.parse().unwrap();
    let store = parsed["repository"]["local"]["url"].as_str().unwrap().to_owned();
    let system = shown["repositories"][0]["system"].as_str().unwrap().to_owned();
    let backup = shown["repositories"][0]["backups"][0].clone();
    let first = backup["wal_first"].as_str().unwrap();
    let (timeline, log) = (&first[..8], &first[8..16]);
    let folder = store.trim_start_matches("file://");
    fs::remove_file(format!("{folder}/c/main/{system}-1/wal/{timeline}/{log}/{first}")).unwrap();
    let out = config.path().with_file_name("hole");
    config
        .run(["archive-get", first, out.to_str().unwrap()])
        .assert_code(200)
        .assert_says("is missing from the archive");
    config.run(["info"]).assert_ok().assert_says("Nothing can be restored: the WAL of the backups");
    config.run(["check"]).assert_code(14).assert_says(first);
}

#[test]
fn f097_a_second_backup_at_once_is_refused_and_a_signal_ends_one_cleanly() {
    let Some(server) = Server::main() else { return };
    let site = archiving(&server);
    let (cluster, config) = (&site.cluster, &site.config);
    tools::pgbench_init(cluster, 3);
    let mut slow = config.pgkeep(["backup", "--max-rate", "1MiB"]);
    let running = start(&mut slow);
    cluster.wait_until(
        "exists (select from pg_stat_activity where application_name like 'pgkeep backup 2%')",
    );
    let second = config.run(["backup"]).assert_code(11);
    assert!(second.stderr.contains("another backup of this cluster is running"), "{second}");
    assert!(second.stderr.contains("server process"), "it says who\n{second}");
    running.signal(Signal::TERM);
    let ended = running.wait().assert_code(130);
    assert!(ended.stderr.contains("interrupted"), "{ended}");
    cluster.wait_until(
        "not exists (select from pg_stat_activity where application_name like 'pgkeep backup%')",
    );
    let shown = json(&config.run(["info", "--json"]).assert_ok().stdout);
    assert_eq!(shown["repositories"][0]["backups"].as_array().unwrap().len(), 0);
    config.run(["backup"]).assert_ok().assert_says("is complete");
}

#[test]
fn check_names_what_keeps_wal_from_the_archive() {
    let Some(server) = Server::main() else { return };
    let site = archiving(&server);
    let (cluster, config) = (&site.cluster, &site.config);
    cluster.set("archive_timeout", "0");
    let checked = config.run(["check"]).assert_code(14);
    assert!(checked.stdout.contains("FAIL  archive_timeout: 0"), "{checked}");
    cluster.set("archive_timeout", "1h");
    config.run(["check"]).assert_code(14).assert_says("longer than rpo");
    cluster.set_archive_command("exit 1");
    cluster.switch_wal();
    cluster.wait_until("select failed_count > 0 from pg_stat_archiver");
    let checked = config.run(["check"]).assert_code(14);
    assert!(checked.stdout.contains("FAIL  archiver: it fails: 0000"), "{checked}");
    assert!(checked.stdout.contains("FAIL  archive_command: it does not run"), "{checked}");
    // WAL that waits for longer than rpo, and how to set what breaks it.
    let text = fs::read_to_string(config.path()).unwrap();
    let strict = text.replacen("[cluster.main]\n", "[cluster.main]\nrpo = \"1s\"\n", 1);
    let strict = cluster.scratch().write("strict.toml", strict);
    let check = || {
        let mut command = cluster.pgkeep();
        run(command.arg("--config").arg(&strict).arg("check"))
    };
    wait_until(DEADLINE, || check().stdout.contains("FAIL  waiting WAL: "), || check().to_string());
    let checked = check().assert_code(14);
    assert!(checked.stdout.contains("the first is 0000"), "{checked}");
    assert!(checked.stdout.contains("ALTER SYSTEM SET archive_timeout = '1s'"), "{checked}");
    assert!(checked.stdout.contains("patronictl edit-config -p archive_timeout=1s"), "{checked}");
}

#[test]
fn archive_get_leaves_with_143_on_sigterm() {
    let Some(server) = Server::main() else { return };
    let site = archiving(&server);
    let (cluster, config) = (&site.cluster, &site.config);
    // A key file that is a pipe would be refused, so the configured secret is a command that waits.
    let text = fs::read_to_string(config.path()).unwrap();
    let waits = "passphrase_command = \"echo begun >&2; touch begun; sleep 25\"";
    let text: Vec<_> =
        text.lines().map(|line| if line.starts_with("key_file") { waits } else { line }).collect();
    let own = cluster.scratch().write("waits.toml", text.join("\n"));
    for (args, code) in [
        (["archive-get", "000000010000000000000001", "out"].as_slice(), 143),
        (["archive-push", "pg_wal/000000010000000000000001"].as_slice(), 1),
    ] {
        let begun = cluster.scratch().join("begun");
        fs::remove_file(&begun).ok();
        let mut command = cluster.pgkeep();
        let running = start(command.arg("--config").arg(&own).args(args));
        wait_until(DEADLINE, || begun.exists(), || running.stderr_so_far());
        running.signal(Signal::TERM);
        running.wait().assert_code(code);
    }
}

#[test]
pub(crate) fn a_dropped_table_comes_back_in_a_copy() {
    let Some(server) = Server::main() else { return };
    let site = archiving(&server);
    let (cluster, config) = (&site.cluster, &site.config);
    let copies = ScratchDir::new("copies");
    let copy = copies.join("copy");
    let to = copy.to_str().unwrap();
    let early = config.run(["restore", "--to", to, "--yes"]).assert_code(13);
    assert!(early.stderr.contains("there is no complete backup"), "{early}");
    config.run(["backup"]).assert_ok();
    cluster.psql("create table kept as select generate_series(1, 42) n");
    let before = cluster.psql("select clock_timestamp()");
    cluster.psql("select pg_sleep(0.01); drop table kept");
    cluster.archive_now();

    let far = ["restore", "--to", to, "--target-time", "2999-01-01 00:00:00Z", "--yes"];
    let far = config.run(far).assert_code(13);
    assert!(far.stderr.contains("can be reached: 20"), "{far}");
    let occupied = config.run(["restore", "--yes"]).assert_code(15);
    assert!(occupied.stderr.contains("belongs to a server"), "{occupied}");
    let timed = ["restore", "--to", to, "--target-time", &before];
    config.run(timed).assert_code(2).assert_says("nobody can be asked");
    assert!(!copy.exists());
    let planned = ["restore", "--to", to, "--target-time", &before, "--dry-run", "--json"];
    let planned = json(&config.run(planned).assert_ok().stdout);
    assert_eq!((&planned["plan"]["archives"], &planned["dry_run"]), (&false.into(), &true.into()));
    assert!(!copy.exists());

    let done =
        ["restore", "--to", to, "--target-time", &before, "--target-action", "promote", "--yes"];
    let done = config.run(done).assert_ok();
    assert!(done.stdout.contains("Next:") && done.stdout.contains("It is a copy"), "{done}");
    let restored = TestCluster::adopt(&server, &copy).start();
    restored.wait_for_promotion();
    assert_eq!(restored.psql("select count(*) from kept"), "42");
    assert_eq!(restored.psql("show archive_mode"), "off");
    // Even if somebody turns archiving on: a copy does not write into its source's archive.
    let segment = restored.switch_wal();
    let mut push = config.pgkeep(["archive-push"]);
    let push = push.current_dir(&copy).arg(format!("pg_wal/{segment}"));
    run(push).assert_code(1).assert_says("is a restored copy");
}
