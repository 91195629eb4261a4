//! What the daemon takes at most, as the kernel has measured it, however much waits and however long its
//! bucket is slow, busy or away.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::daemon_live::Served;
use crate::standby_live::ready;
use crate::support::run::{DEADLINE, wait_until};
use crate::support::site::Site;
use crate::support::{
    BucketSite, Cipher, Fault, Launch, Server, TestCluster, TestConfig, TestDaemon, TestS3,
};

const MIB: u64 = 1 << 20;
const SEGMENT: u64 = 16 * MIB;
/// How many segments wait: 640 MiB.
const WAITING: usize = 40;
/// The program itself, its threads, connections, and what the allocator keeps.
const BASE: u64 = 64 * MIB;
/// More threads than the memory has room for: only the memory holds them back.
const JOBS: &str = "push_jobs = 32\nfetch_jobs = 32\npush_memory = \"48MiB\"\nfetch_memory = \"48MiB\"\n\
                    fallback = \"fail\"";
/// Of each segment what is read and what is made of it: those of the memory, and the one that is asked for.
const BOUND: u64 = 2 * (48 * MIB + SEGMENT) + BASE;

fn launch(server: &Server) -> Launch {
    let launch = TestCluster::create(server).wal_segment_mib(16).setting("max_wal_size", "4GB");
    launch.setting("wal_keep_size", "2GB")
}

/// The most that it has ever had in memory.
fn most(daemon: &TestDaemon, config: &TestConfig) -> u64 {
    let pid = daemon.status(config)["daemon"]["pid"].as_u64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// How many files without a name it has open in a folder.
fn files_held(daemon: &TestDaemon, config: &TestConfig, folder: &Path) -> usize {
    let pid = daemon.status(config)["daemon"]["pid"].as_u64().unwrap();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let targets = open.filter_map(|file| fs::read_link(file.path()).ok());
    targets.filter(|target| target.parent() == Some(folder)).count()
}

#[track_caller]
fn assert_bounded(daemon: &TestDaemon, config: &TestConfig) -> u64 {
    let most = most(daemon, config);
    assert!(most <= BOUND, "{} MiB of {}\n{}", most / MIB, BOUND / MIB, daemon.log());
    most
}

/// Segments that are full and do not compress, ready to be archived.
fn fill(cluster: &TestCluster, count: usize) -> Vec<String> {
    cluster.psql(
        "create table blob as select string_agg(md5(random()::text), '') t from generate_series(1, 450000)",
    );
    cluster.switch_wal();
    let write = "select pg_logical_emit_message(false, 'blob', t) is null from blob;
                 select pg_walfile_name(pg_switch_wal())";
    (0..count).map(|_| cluster.psql(write).lines().last().unwrap().to_owned()).collect()
}

fn in_bucket(server: &Server) -> (TestCluster, TestConfig, TestDaemon, TestS3) {
    let BucketSite { cluster, config, s3, .. } =
        BucketSite::from_launch(server, launch(server), TestS3::start(), Cipher::Aes);
    let (daemon, config) = TestDaemon::configure(config, JOBS);
    (cluster, config, daemon, s3)
}

/// 10 kB/s: what is under way is in memory for hours.
#[test]
fn a_slow_bucket_takes_no_more_memory_than_it_may() {
    let Some(server) = Server::main() else { return };
    let (cluster, config, mut daemon, s3) = in_bucket(&server);
    cluster.set_archive_command(&config.archive_command());
    daemon.start(&config);
    cluster.archive_now();
    daemon.stop(Signal::TERM).assert_ok();
    let text = fs::read_to_string(config.path()).unwrap();
    let slow = text.replace("path_style = true", "path_style = true\nmax_rate = \"10KiB\"");
    config.write("pgkeep.toml", &slow);
    daemon.start(&config);
    // Nothing is stored ahead before one request was. This one is nearly empty.
    cluster.archive_now();
    let idle = assert_bounded(&daemon, &config);
    fill(&cluster, WAITING);
    let storing = || {
        let status = daemon.status(&config);
        status["daemon"]["clusters"][0]["storing"].as_u64().unwrap()
    };
    // Three ahead, what the memory has room for, and one that is asked for, unless it is one of these.
    wait_until(DEADLINE, || storing() >= 3, || format!("{}\n{}", storing(), daemon.log()));
    let full = || assert_bounded(&daemon, &config) > idle + 3 * SEGMENT;
    wait_until(DEADLINE, full, || format!("{} MiB", most(&daemon, &config) / MIB));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        assert!(storing() <= 4);
        assert_bounded(&daemon, &config);
    }
    assert!(ready(&cluster).len() >= WAITING, "{:?}", ready(&cluster));
    eprintln!("slow: {} MiB, idle {} MiB", most(&daemon, &config) / MIB, idle / MIB);
    daemon.stop(Signal::KILL);
    drop(s3);
}

/// A whole minute of 503 under load, which is longer than the server's three tries and than a request is
/// repeated for: the error shows, nothing is lost, and archiving goes on by itself.
#[test]
fn f092_a_bucket_that_answers_503_for_a_minute_loses_nothing() {
    let Some(server) = Server::main() else { return };
    let (cluster, config, mut daemon, s3) = in_bucket(&server);
    cluster.set_archive_command(&config.archive_command());
    daemon.start(&config);
    cluster.psql("create table u (n int)");
    config.run(["backup"]).assert_ok();
    cluster.archive_now();
    let idle = assert_bounded(&daemon, &config);
    let begin = Instant::now();
    let busy = s3.fault(Fault::SLOW_DOWN).always();
    let mut names = Vec::new();
    while begin.elapsed() < Duration::from_secs(60) {
        if names.len() < WAITING {
            cluster.psql("insert into u values (1)");
            names.push(cluster.switch_wal());
        }
        assert_bounded(&daemon, &config);
    }
    assert_eq!(names.len(), WAITING);
    let waiting = ready(&cluster);
    assert!(names.iter().all(|name| waiting.contains(name)), "{waiting:?}");
    cluster.wait_until("select failed_count > 0 from pg_stat_archiver");
    let check = config.run(["check"]).assert_code(14);
    assert!(check.stdout.contains("archiver"), "{check}");
    assert!(cluster.log().contains("SlowDown"), "{}", cluster.log());
    assert!(busy.hits() > 10, "{}", busy.hits());
    s3.clear_faults();
    // Nobody does anything.
    wait_until(DEADLINE, || ready(&cluster).is_empty(), || daemon.log());
    let most = assert_bounded(&daemon, &config);
    eprintln!("503: {} MiB, idle {} MiB, {} times", most / MIB, idle / MIB, busy.hits());
    let keys = s3.keys();
    for name in &names {
        assert!(keys.iter().any(|key| key.ends_with(&format!("/{name}"))), "{name}");
    }
    config.run(["drain", "--timeout", "60s"]).assert_ok();
    config.run(["wal", "gaps"]).assert_ok();
    let check = config.run(["check"]);
    assert!(!check.stdout.contains("SlowDown"), "{check}");
    let site = BucketSite {
        server,
        cluster,
        made: check,
        config,
        scratch: crate::support::ScratchDir::new("files"),
        s3,
    };
    assert_eq!(site.restored("copy", &[]).psql("select count(*) from u"), WAITING.to_string());
}

/// What is fetched ahead and waits for a recovery that takes its time.
#[test]
fn f017_fetching_ahead_takes_no_more_memory_than_it_may() {
    let Some(server) = Server::main() else { return };
    let Site { cluster, config, repo } = Site::start(launch(&server));
    let (mut daemon, config) = TestDaemon::configure(config, JOBS);
    cluster.set_archive_command("false");
    daemon.start(&config);
    let names = fill(&cluster, WAITING);
    cluster.set_archive_command(&config.archive_command());
    wait_until(DEADLINE, || ready(&cluster).is_empty(), || daemon.log());
    let pushed = assert_bounded(&daemon, &config);
    // Of fetching alone.
    daemon.stop(Signal::TERM).assert_ok();
    daemon.start(&config);
    let idle = assert_bounded(&daemon, &config);
    let wal = cluster.data_dir().join("pg_wal");
    let out = wal.join("RECOVERYXLOG");
    let held = || daemon.status(&config)["daemon"]["clusters"][0]["held"].as_u64().unwrap();
    for (at, name) in names.iter().enumerate() {
        config.run(["archive-get", name, out.to_str().unwrap()]).assert_ok();
        assert!(fs::read(&out).unwrap() == fs::read(wal.join(name)).unwrap(), "{name}");
        // It has time to fetch whatever it likes.
        if (4..WAITING - 4).contains(&at) {
            wait_until(DEADLINE, || held() == 3, || format!("{name}: {}", held()));
            assert_eq!(files_held(&daemon, &config, &wal), 3, "{name}");
        }
        assert_bounded(&daemon, &config);
    }
    let most = most(&daemon, &config);
    eprintln!("fetched: {} MiB, idle {}, pushed {}", most / MIB, idle / MIB, pushed / MIB);
    drop(repo);
}

/// Segments are held in files without a name where there is room for them, else in memory; recovery gets the
/// same either way.
#[test]
fn f017_segments_are_held_in_files_where_there_is_room_and_in_memory_elsewhere() {
    let Some(server) = Server::main() else { return };
    for (limit, in_files) in [("64MiB", true), ("1000TiB", false)] {
        let site =
            Served::new(&server, &format!("fetch_memory = \"{limit}\"\nfallback = \"fail\""));
        let names: Vec<String> = (0..8).map(|_| site.cluster.archive_now()).collect();
        let wal = site.cluster.data_dir().join("pg_wal");
        let get = |name: &String| {
            let to = wal.join("RECOVERYXLOG");
            site.config.run(["archive-get", name, to.to_str().unwrap()]).assert_ok();
            assert_eq!(fs::read(&to).unwrap(), fs::read(wal.join(name)).unwrap(), "{name}");
            fs::remove_file(to).unwrap();
        };
        let status = || site.daemon.status(&site.config)["daemon"].clone();
        let held = || status()["clusters"][0]["held"].as_u64().unwrap();
        let files = || files_held(&site.daemon, &site.config, &wal);
        names.iter().take(2).for_each(get);
        wait_until(DEADLINE, || held() == 6, || site.daemon.log());
        assert_eq!(files(), if in_files { 6 } else { 0 });
        names.iter().skip(2).for_each(get);
        wait_until(DEADLINE, || held() == 0, || site.daemon.log());
        assert_eq!(files(), 0, "nothing is left open");
    }
}
