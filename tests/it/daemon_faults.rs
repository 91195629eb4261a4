//! A repository that fills up, cannot be written, is slow or away, under a daemon: nothing is lost, memory
//! stays bounded, the error shows, and it ends by itself.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::run::{DEADLINE, run, start, wait_until};
use crate::support::site::Site;
use crate::support::{
    BucketSite, Cipher, Fault, Server, TestCluster, TestConfig, TestDaemon, TestRepo, TestS3,
};

fn ready(cluster: &TestCluster) -> BTreeSet<String> {
    let entries = fs::read_dir(cluster.data_dir().join("pg_wal/archive_status")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".ready").map(str::to_owned)).collect()
}

/// Everything that the server made is archived by itself, and nothing is missing.
#[track_caller]
fn assert_recovers(cluster: &TestCluster, config: &TestConfig, daemon: &TestDaemon) {
    let is_done = || ready(cluster).is_empty();
    wait_until(DEADLINE, is_done, || format!("{:?}\n{}", ready(cluster), daemon.log()));
    config.run(["wal", "gaps"]).assert_ok();
    config.run(["drain", "--timeout", "60s"]).assert_ok();
}

#[test]
fn f006_a_folder_that_cannot_be_written_is_told_and_used_again_when_it_can() {
    let Some(server) = Server::main() else { return };
    let Site { cluster, config, repo } = Site::small(&server);
    let (mut daemon, config) = TestDaemon::configure(config, "");
    cluster.set_archive_command(&config.archive_command());
    daemon.start(&config);
    cluster.archive_now();
    let set = |mode: u32| set_all(repo.path(), mode);
    set(0o500);
    let behind: Vec<String> = (0..4).map(|_| cluster.switch_wal()).collect();
    cluster.wait_until("select failed_count > 0 from pg_stat_archiver");
    assert!(ready(&cluster).is_superset(&behind.iter().cloned().collect()));
    let check = config.run(["check"]).assert_code(14);
    assert!(check.stdout.contains("archiver"), "{check}");
    assert!(cluster.log().contains("Permission denied"), "{}", cluster.log());
    set(0o700);
    assert_recovers(&cluster, &config, &daemon);
}

/// Of every folder below one, as the server's account sees it.
fn set_all(folder: &std::path::Path, mode: u32) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            set_all(&entry.path(), mode);
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
}

/// A file-size limit is what a full disk is to a process: writes end in the middle of an object.
#[test]
fn f006_a_folder_that_is_full_takes_no_part_of_a_segment() {
    let Some(server) = Server::main() else { return };
    let Site { cluster, config, repo } = Site::small(&server);
    let (daemon, config) = TestDaemon::configure(config, "");
    cluster.set_archive_command(&config.archive_command());
    cluster.archive_now();
    let mut limited = config.pgkeep(["daemon"]);
    let script = format!(
        "trap '' XFSZ; ulimit -f 64; exec {} \"$@\"",
        limited.get_program().to_str().unwrap()
    );
    let arguments: Vec<_> = limited.get_args().map(std::ffi::OsStr::to_owned).collect();
    let mut command = cluster.command("/bin/sh");
    command.args(["-c", &script, "sh"]).args(&arguments);
    let full = start(&mut command);
    wait_until(DEADLINE, || full.stderr_so_far().contains("serves"), || full.stderr_so_far());
    drop(limited);
    limited = config.pgkeep(["archive-push"]);
    cluster.psql("create table r as select md5(random()::text) || md5(random()::text) t from generate_series(1, 5000)");
    let name = cluster.switch_wal();
    let path = cluster.data_dir().join("pg_wal").join(&name);
    cluster.set_archive_command("false");
    let refused = run(limited.arg("--socket").arg(daemon.socket()).arg(&path));
    assert!(refused.stderr.contains("File too large"), "{refused}");
    refused.assert_code(1);
    assert!(!contains(repo.path(), &name), "a part of {name} is there");
    full.signal(Signal::TERM);
    drop(full.wait());
    let mut push = config.pgkeep(["archive-push"]);
    run(push.arg(&path)).assert_ok();
    assert!(contains(repo.path(), &name));
}

fn contains(folder: &std::path::Path, name: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => contains(&entry.path(), name),
            false => entry.file_name() == name,
        }
    })
}

struct Bucket {
    cluster: TestCluster,
    config: TestConfig,
    daemon: TestDaemon,
    s3: TestS3,
}

fn bucket(server: &Server, lines: &str) -> Bucket {
    let launch = TestCluster::create(server).checksums().wal_segment_mib(1);
    let BucketSite { cluster, config, s3, .. } =
        BucketSite::from_launch(server, launch, TestS3::start(), Cipher::Aes);
    let (mut daemon, config) = TestDaemon::configure(config, lines);
    cluster.set_archive_command(&config.archive_command());
    daemon.start(&config);
    cluster.archive_now();
    Bucket { cluster, config, daemon, s3 }
}

/// Longer than the server's own three tries: it gives up for a minute, and goes on by itself.
#[test]
fn f092_a_bucket_that_answers_503_is_waited_for() {
    let Some(server) = Server::main() else { return };
    let site = bucket(&server, "");
    let busy = site.s3.fault(Fault::SLOW_DOWN).always();
    for _ in 0..6 {
        site.cluster.switch_wal();
    }
    site.cluster.wait_until("select failed_count > 0 from pg_stat_archiver");
    let check = site.config.run(["check"]).assert_code(14);
    assert!(check.stdout.contains("archiver"), "{check}");
    assert!(busy.hits() > 0);
    site.s3.clear_faults();
    assert_recovers(&site.cluster, &site.config, &site.daemon);
}

/// 10 kB/s by the client's own limit: what is under way stays under `push_memory`, however much is ready. The
/// rows repeat themselves: a client that is left alone in the end goes on at that rate.
#[test]
fn a_slow_bucket_bounds_what_is_under_way() {
    let Some(server) = Server::main() else { return };
    let mut site = bucket(&server, "push_memory = \"2MiB\"");
    site.daemon.stop(Signal::TERM).assert_ok();
    let text = fs::read_to_string(site.config.path()).unwrap();
    let slow = text.replace("path_style = true", "path_style = true\nmax_rate = \"10KiB\"");
    site.config.write("pgkeep.toml", &slow);
    site.daemon.start(&site.config);
    // Nothing is stored ahead before one request was. This one is nearly empty.
    site.cluster.archive_now();
    site.cluster.psql(
        "create table r as select repeat(md5(random()::text), 8) t from generate_series(1, 60000)",
    );
    site.cluster.switch_wal();
    let begin = Instant::now();
    let mut most = 0;
    while begin.elapsed() < Duration::from_secs(8) {
        let status = site.daemon.status(&site.config);
        let storing = status["daemon"]["clusters"][0]["storing"].as_u64().unwrap();
        most = most.max(storing);
        assert!(storing <= 3, "one that is asked for and two ahead: {status}");
    }
    assert!(most > 1, "nothing was stored ahead");
    assert!(ready(&site.cluster).len() > 3);
    // Whoever waits is told that the daemon is at it, and does not take it for gone.
    assert!(!site.cluster.log().contains("did not answer"), "{}", site.cluster.log());
    site.config.write("pgkeep.toml", &text);
    let stopped = site.daemon.stop(Signal::KILL);
    assert!(!stopped.is_ok());
    site.daemon.start(&site.config);
    assert_recovers(&site.cluster, &site.config, &site.daemon);
}

/// A bucket that is away for recovery while a folder has the file: the answer comes within seconds, by the
/// daemon and without it.
#[test]
fn d2026_11_28_a_repository_that_is_away_keeps_no_recovery_waiting() {
    let Some(server) = Server::main() else { return };
    let Bucket { cluster, config, daemon, s3 } = bucket(&server, "");
    let folder = TestRepo::new();
    let config = config.repository("local", &folder, Cipher::Aes);
    config.run(["init"]).assert_ok();
    let text = fs::read_to_string(config.path()).unwrap();
    // Minutes, as it is by default; the tests' own configuration gives up after seconds.
    config.write("pgkeep.toml", &text.replace("retry_for = \"10s\"", "retry_for = \"5m\""));
    daemon.signal(Signal::HUP);
    wait_until(DEADLINE, || daemon.log().contains("read again"), || daemon.log());
    let names: Vec<String> = (0..3).map(|_| cluster.archive_now()).collect();
    let wal = cluster.data_dir().join("pg_wal");
    let out = wal.join("RECOVERYXLOG");
    let held = s3.fault(Fault::Hang).always();
    let text = fs::read_to_string(config.path()).unwrap();
    let direct = text.replace("pgkeep.sock\"", "nobody.sock\"");
    for (how, text) in [("by the daemon", &text), ("alone", &direct)] {
        config.write("pgkeep.toml", text);
        for name in &names {
            let begin = Instant::now();
            config.run(["archive-get", name, out.to_str().unwrap()]).assert_ok();
            let took = begin.elapsed();
            assert!(took < Duration::from_secs(20), "{how}: {took:?}");
            assert_eq!(fs::read(&out).unwrap(), fs::read(wal.join(name)).unwrap(), "{how}");
        }
    }
    assert!(held.hits() > 0);
    // But that a file is absent is not said while one of them cannot be asked.
    config.write("pgkeep.toml", &text.replace("retry_for = \"5m\"", "retry_for = \"0s\""));
    let mut get = config.pgkeep(["archive-get", "000000010000000000000FFF"]);
    get.arg("--socket").arg("/nowhere/pgkeep.sock").arg(&out);
    run(&mut get).assert_code(200);
}

/// A bucket that is away keeps a few threads, however many requests have met it, and a daemon that is told to
/// stop meanwhile leaves the work to the client instead of failing it.
#[test]
fn f095_f098_a_repository_that_is_away_takes_no_threads_and_no_answers() {
    let Some(server) = Server::main() else { return };
    let Bucket { cluster, config, mut daemon, s3 } = bucket(&server, "grace = \"1s\"");
    let folder = TestRepo::new();
    let config = config.repository("local", &folder, Cipher::Aes);
    config.run(["init"]).assert_ok();
    let text = fs::read_to_string(config.path()).unwrap();
    let patient = text.replace("retry_for = \"10s\"", "retry_for = \"5m\"");
    config
        .write("pgkeep.toml", &patient.replace("idle_timeout = \"2s\"", "idle_timeout = \"60s\""));
    daemon.signal(Signal::HUP);
    wait_until(DEADLINE, || daemon.log().contains("read again"), || daemon.log());
    let name = cluster.archive_now();
    let out = cluster.data_dir().join("pg_wal/RECOVERYXLOG");
    let held = s3.fault(Fault::Hang).always();
    let pid = daemon.status(&config)["daemon"]["pid"].as_u64().unwrap();
    let threads = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("Threads:")).unwrap().to_owned();
        line.split_whitespace().last().unwrap().parse::<u32>().unwrap()
    };
    for _ in 0..12 {
        config.run(["archive-get", &name, out.to_str().unwrap()]).assert_ok();
    }
    assert!(held.hits() > 0);
    let is_small = || threads() < 30;
    wait_until(DEADLINE, is_small, || format!("{} threads", threads()));

    // One that cannot be answered while the bucket is away.
    let mut get = config.pgkeep(["archive-get", "000000010000000000000FFF"]);
    let asking = start(get.arg(&out));
    let is_asked = || daemon.status(&config)["daemon"]["requests"] == 1;
    wait_until(DEADLINE, is_asked, || daemon.log());
    daemon.stop(Signal::TERM).assert_ok();
    wait_until(
        DEADLINE,
        || asking.stderr_so_far().contains("done without it"),
        || asking.stderr_so_far(),
    );
    asking.signal(Signal::TERM);
    asking.wait().assert_code(143);
}
