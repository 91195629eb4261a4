//! The daemon on a live server: pushing ahead, fetching ahead, falling back, stopping, and being killed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::run::{DEADLINE, Ran, run, start, wait_until};
use crate::support::site::{Site, started};
use crate::support::{Cipher, ScratchDir, Server, TestCluster, TestConfig, TestDaemon, TestRepo};

/// A cluster that archives through a daemon.
pub(crate) struct Served {
    pub(crate) cluster: TestCluster,
    pub(crate) config: TestConfig,
    pub(crate) repo: TestRepo,
    pub(crate) daemon: TestDaemon,
}

impl Served {
    pub(crate) fn new(server: &Server, lines: &str) -> Self {
        let Site { cluster, config, repo } = Site::small(server);
        let (mut daemon, config) = TestDaemon::configure(config, lines);
        cluster.set_archive_command(&config.archive_command());
        daemon.start(&config);
        Self { cluster, config, repo, daemon }
    }

    /// Where a segment's object is.
    fn object(&self, name: &str) -> Option<std::path::PathBuf> {
        find(self.repo.path(), name)
    }

    /// What the server has ready to be archived.
    fn ready(&self) -> BTreeSet<String> {
        ready(&self.cluster)
    }

    pub(crate) fn push(&self, name: &str) -> Ran {
        let path = self.cluster.data_dir().join("pg_wal").join(name);
        self.config.run(["archive-push", path.to_str().unwrap()])
    }

    /// Stops the archiver in its tracks, and makes `count` segments that are ready behind it.
    fn backlog(&self, count: usize) -> Vec<String> {
        self.cluster.set_archive_command("false");
        (0..count).map(|_| self.cluster.switch_wal()).collect()
    }
}

fn ready(cluster: &TestCluster) -> BTreeSet<String> {
    let entries = fs::read_dir(cluster.data_dir().join("pg_wal/archive_status")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".ready").map(str::to_owned)).collect()
}

fn find(folder: &Path, name: &str) -> Option<std::path::PathBuf> {
    for entry in fs::read_dir(folder).ok()? {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            if let Some(found) = find(&entry.path(), name) {
                return Some(found);
            }
        } else if entry.file_name() == name {
            return Some(entry.path());
        }
    }
    None
}

#[test]
fn a_cluster_archives_through_the_daemon_and_is_restored_by_it() {
    let Some(server) = Server::main() else { return };
    let mut site = Served::new(&server, "");
    site.cluster.psql("create table t (n int); insert into t values (1)");
    let taken = site.config.run(["backup", "--json"]).assert_ok();
    for n in 2..12 {
        site.cluster.psql(&format!("insert into t values ({n})"));
        site.cluster.switch_wal();
    }
    let last = site.cluster.archive_now();
    assert!(site.object(&last).is_some(), "{last} is archived\n{}", site.daemon.log());
    drop(taken);
    site.config.run(["drain", "--timeout", "60s"]).assert_ok().assert_says("nothing is pending");

    // A second server recovers by way of the daemon.
    let out = ScratchDir::new("restored");
    let to = out.join("data");
    let mut restore = site.config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
    run(restore.arg("--to").arg(&to)).assert_ok();
    let restored = started(&server, &to);
    assert_eq!(restored.psql("select count(*), max(n) from t"), "11|11");
    let stopped = site.daemon.stop(Signal::TERM).assert_ok();
    assert!(stopped.stderr.contains("stops"), "{stopped}");
    assert!(!site.daemon.socket().exists());
}

/// f012, and promise 1: what was stored ahead is answered at once, and only as long as it is the same.
#[test]
fn f004_f012_what_was_stored_ahead_is_bound_to_its_content() {
    let Some(server) = Server::main() else { return };
    let site = Served::new(&server, "");
    site.cluster.archive_now();
    let behind = site.backlog(6);
    // The request for one stores the others.
    site.push(&behind[0]).assert_ok();
    let all = || behind.iter().all(|name| site.object(name).is_some());
    wait_until(DEADLINE, all, || site.daemon.log());
    // The server has not been told: it still has them ready.
    assert!(site.ready().is_superset(&behind[1..].iter().cloned().collect()));
    site.push(&behind[1]).assert_ok();

    // The disk was rolled back to a moment before it was stored.
    fs::remove_file(site.object(&behind[4]).unwrap()).unwrap();
    site.push(&behind[4]).assert_ok();
    assert!(site.object(&behind[4]).is_some(), "answered from memory, and not there");

    // Other content, of the same length and with the same times.
    let wal = site.cluster.data_dir().join("pg_wal");
    let path = wal.join(&behind[2]);
    let (content, times) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap());
    let mut other = content.clone();
    let end = other.len() - 1;
    other[end] ^= 1;
    let write = |bytes: &[u8]| {
        use std::io::Write as _;
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all(bytes).unwrap();
        let times = fs::FileTimes::new().set_modified(times.modified().unwrap());
        file.set_times(times).unwrap();
    };
    write(&other);
    let refused = site.push(&behind[2]).assert_code(1);
    assert!(refused.stderr.contains("exists with other content"), "{refused}");
    // The same content again, in a file that was written since.
    write(&content);
    site.push(&behind[2]).assert_ok();

    // Another data directory under the same path, with a segment of the same name.
    let (old, aside) = (site.cluster.data_dir().to_owned(), site.cluster.scratch().join("aside"));
    site.cluster.kill9();
    let other = TestCluster::create(&server).checksums().wal_segment_mib(1).prepare();
    fs::rename(&old, &aside).unwrap();
    let copied = run(std::process::Command::new("cp").arg("-a").arg(other.data_dir()).arg(&old));
    drop(copied.assert_ok());
    fs::copy(aside.join("pg_wal").join(&behind[3]), wal.join(&behind[3])).unwrap();
    let refused = site.push(&behind[3]).assert_code(1);
    assert!(
        refused.stderr.contains("not registered") || refused.stderr.contains("system"),
        "{refused}"
    );
    fs::rename(&old, site.cluster.scratch().join("other")).unwrap();
    fs::rename(&aside, &old).unwrap();
    site.push(&behind[3]).assert_ok();
}

/// The client does the work itself when nobody listens, when the daemon is killed before it answers, and
/// when it is told that the daemon is stopping; or it fails, where the configuration says so.
#[test]
fn without_a_daemon_the_client_does_the_work_or_fails() {
    let Some(server) = Server::main() else { return };
    let mut site = Served::new(&server, "");
    site.cluster.archive_now();
    let behind = site.backlog(3);
    site.daemon.stop(Signal::KILL);
    assert!(site.daemon.socket().exists(), "a killed daemon leaves its socket");
    let direct = site.push(&behind[0]).assert_ok();
    assert!(direct.stderr.contains("done without it"), "{direct}");
    // The next one takes its place.
    site.daemon.start(&site.config);
    assert_eq!(site.push(&behind[1]).assert_ok().stderr, "");
    site.daemon.stop(Signal::TERM).assert_ok();
    assert_eq!(site.push(&behind[1]).assert_ok().stderr, "", "no socket, no word");
    let text = fs::read_to_string(site.config.path()).unwrap();
    site.config.write("pgkeep.toml", &text.replace("[daemon]", "[daemon]\nfallback = \"fail\""));
    let failed = site.push(&behind[2]).assert_code(1);
    assert!(failed.stderr.contains("no daemon listens on"), "{failed}");
    assert!(failed.stderr.contains("fallback"), "{failed}");
    let out = site.cluster.data_dir().join("pg_wal/RECOVERYXLOG");
    let get = ["archive-get", &behind[1], out.to_str().unwrap()];
    site.config.run(get).assert_code(200);
    assert!(!out.exists());
}

#[test]
fn only_one_daemon_and_only_its_own_account() {
    let Some(server) = Server::main() else { return };
    let site = Served::new(&server, "");
    let second = site.config.run(["daemon"]).assert_code(11);
    assert!(second.stderr.contains("listens on"), "{second}");
    let folder = site.daemon.socket().parent().unwrap().to_owned();
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let (mut other, config) = TestDaemon::configure(
        TestConfig::new(&site.cluster).repository("local", &site.repo, Cipher::Aes),
        "",
    );
    let folder = other.socket().parent().unwrap().to_owned();
    fs::create_dir(&folder).unwrap();
    crate::support::account::unprivileged().own(&folder);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let refused = config.run(["daemon"]).assert_code(1);
    assert!(refused.stderr.contains("its mode must be 0700"), "{refused}");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    other.start(&config);
    other.stop(Signal::INT).assert_ok();
}

#[test]
fn a_wrong_configuration_does_not_take_the_place_of_a_right_one() {
    let Some(server) = Server::main() else { return };
    let site = Served::new(&server, "");
    let first = site.cluster.archive_now();
    let text = fs::read_to_string(site.config.path()).unwrap();
    site.config.write("pgkeep.toml", &text.replace("data_directory", "data_directry"));
    site.daemon.signal(Signal::HUP);
    let is_told = || site.daemon.log().contains("the configuration stays as it was");
    wait_until(DEADLINE, is_told, || site.daemon.log());
    assert!(site.daemon.log().contains("data_directory?"), "{}", site.daemon.log());
    // The client reads it too: asked by the socket alone, it needs none.
    let path = site.cluster.data_dir().join("pg_wal").join(&first);
    let mut push = site.config.pgkeep(["archive-push"]);
    run(push.arg("--socket").arg(site.daemon.socket()).arg(&path)).assert_ok();
    site.config.write("pgkeep.toml", &text);
    site.daemon.signal(Signal::HUP);
    let is_told = || site.daemon.log().contains("the configuration was read again");
    wait_until(DEADLINE, is_told, || site.daemon.log());
    site.cluster.archive_now();
}

/// f017: what follows is fetched ahead and delivered whole; absence is looked for each time.
#[test]
fn f017_f018_segments_are_fetched_ahead_and_absence_is_never_remembered() {
    let Some(server) = Server::main() else { return };
    let site = Served::new(&server, "fetch_memory = \"4MiB\"");
    let names: Vec<String> = (0..8).map(|_| site.cluster.archive_now()).collect();
    let wal = site.cluster.data_dir().join("pg_wal");
    let out = wal.join("RECOVERYXLOG");
    let get = |name: &str| {
        let ran = site.config.run(["archive-get", name, out.to_str().unwrap()]);
        let content = fs::read(&out).ok();
        fs::remove_file(&out).ok();
        (ran, content)
    };
    for name in &names {
        let (ran, content) = get(name);
        ran.assert_ok();
        assert_eq!(content, Some(fs::read(wal.join(name)).unwrap()), "{name}");
        let status = site.daemon.status(&site.config);
        let held = status["daemon"]["clusters"][0]["held_bytes"].as_u64();
        let held = held.unwrap_or_else(|| panic!("{status}\n{}", site.daemon.log()));
        assert!(held <= 4 << 20, "{status}");
    }
    let is_held = || {
        let status = site.daemon.status(&site.config);
        status["daemon"]["clusters"][0]["held"].as_u64() == Some(0)
    };
    // What was looked for behind the last one is not there, and nothing is left of that.
    wait_until(DEADLINE, is_held, || site.daemon.log());
    let next = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    let (absent, nothing) = get(&next);
    absent.assert_code(1);
    assert_eq!(nothing, None);
    let archived = site.cluster.archive_now();
    assert_eq!(archived, next);
    let (ran, content) = get(&next);
    ran.assert_ok();
    assert_eq!(content, Some(fs::read(wal.join(&next)).unwrap()));
    // Recovery recycles what it has replayed: no two answers are one file.
    let inodes = names[3..6].iter().chain(&names[3..6]).map(|name| {
        let (ran, file) =
            (site.config.run(["archive-get", name, out.to_str().unwrap()]), File::open(&out));
        ran.assert_ok();
        fs::remove_file(&out).unwrap();
        file.unwrap()
    });
    let files: Vec<File> = inodes.collect();
    let inodes: BTreeSet<u64> = files.iter().map(|file| file.metadata().unwrap().ino()).collect();
    assert_eq!(inodes.len(), files.len());
    // Nothing but segments is left in pg_wal.
    let left = fs::read_dir(&wal).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("pgkeep")).collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());
}

/// A request that is under way when the daemon is told to stop is finished; the next one is done without
/// it.
#[test]
fn a_daemon_that_stops_finishes_what_is_under_way() {
    let Some(server) = Server::main() else { return };
    let mut site = Served::new(&server, "");
    site.cluster.archive_now();
    let behind = site.backlog(4);
    let path = |name: &str| site.cluster.data_dir().join("pg_wal").join(name);
    let clients: Vec<_> = behind
        .iter()
        .map(|name| start(&mut site.config.pgkeep(["archive-push", path(name).to_str().unwrap()])))
        .collect();
    site.daemon.stop(Signal::TERM).assert_ok();
    for client in clients {
        client.wait_within(Duration::from_secs(30)).assert_ok();
    }
    for name in &behind {
        assert!(site.object(name).is_some(), "{name}");
    }
}

/// A repository that is not required lags while it is away, and is caught up: from the server's files, and
/// from the other repository when those are gone. The server is never kept waiting for it.
#[test]
fn a_repository_that_is_not_required_lags_and_is_caught_up() {
    let Some(server) = Server::main() else { return };
    let Site { cluster, config, repo } = Site::small(&server);
    let second = TestRepo::new();
    let config = config.repository("second", &second, Cipher::Aes);
    config.run(["init"]).assert_ok();
    let text = fs::read_to_string(config.path()).unwrap();
    config.write(
        "pgkeep.toml",
        &text.replace("[repository.second]", "[repository.second]\nrequired = false"),
    );
    let text = fs::read_to_string(config.path()).unwrap();
    let (mut daemon, config) = TestDaemon::configure(config.replaced(&text), "");
    cluster.set_archive_command(&config.archive_command());
    daemon.start(&config);
    let first = cluster.archive_now();
    let has = |name: &str| find(second.path(), name).is_some();
    wait_until(DEADLINE, || has(&first), || daemon.log());

    // Away: the folder is not there.
    let away = second.path().with_extension("away");
    fs::rename(second.path(), &away).unwrap();
    let behind: Vec<String> = (0..5).map(|_| cluster.archive_now()).collect();
    assert!(behind.iter().all(|name| find(repo.path(), name).is_some()));
    let lag = || {
        let status = daemon.status(&config);
        let lag = &status["daemon"]["clusters"][0]["lags"][0];
        (lag["files"].as_u64().unwrap(), lag["why"].as_str().map(str::to_owned))
    };
    let is_told = || matches!(lag(), (5.., Some(_)));
    wait_until(DEADLINE, is_told, || format!("{:?}\n{}", lag(), daemon.log()));
    assert!(daemon.log().contains("second lags behind"), "{}", daemon.log());
    config
        .run(["drain", "--timeout", "0s"])
        .assert_code(1)
        .assert_says("second lags 5 files behind");
    // Some of them are not in pg_wal any more.
    for name in &behind[..3] {
        fs::remove_file(cluster.data_dir().join("pg_wal").join(name)).unwrap();
    }
    fs::rename(&away, second.path()).unwrap();
    wait_until(DEADLINE, || behind.iter().all(|name| has(name)), || daemon.log());
    config.run(["drain", "--timeout", "60s"]).assert_ok();
    // What came from the other repository is what was archived, for this one's own key.
    let out = ScratchDir::new("fetched");
    for name in &behind {
        let to = out.join(name);
        let mut get = config.pgkeep(["--repository", "second", "archive-get", name]);
        run(get.arg(&to)).assert_ok();
        let mut get = config.pgkeep(["--repository", "local", "archive-get", name]);
        run(get.arg(out.join("other"))).assert_ok();
        assert_eq!(fs::read(&to).unwrap(), fs::read(out.join("other")).unwrap(), "{name}");
    }

    // What was archived while no daemon ran is found by comparing.
    daemon.stop(Signal::TERM).assert_ok();
    fs::rename(second.path(), &away).unwrap();
    let direct = cluster.archive_now();
    fs::rename(&away, second.path()).unwrap();
    assert!(!has(&direct));
    daemon.start(&config);
    wait_until(DEADLINE, || has(&direct), || daemon.log());
}

/// Two clusters under one daemon: each request goes to the cluster whose directory it comes from.
#[test]
fn f001_two_clusters_are_served_and_never_mixed() {
    let Some(server) = Server::main() else { return };
    let Site { cluster, config, repo } = Site::small(&server);
    let other = Site::small(&server);
    let text = fs::read_to_string(other.config.path()).unwrap();
    let section = |text: &str| text.split("\n[repository").next().unwrap().to_owned();
    let config = config.toml(&section(&text).replace("[cluster.main]", "[cluster.other]"));
    let (mut daemon, config) = TestDaemon::configure(config, "");
    config.run(["--cluster", "other", "init"]).assert_ok();
    daemon.start(&config);
    let command = |cluster: &str| {
        config
            .archive_command()
            .replace("archive-push", &format!("--cluster {cluster} archive-push"))
    };
    // Without the configuration, the directory says which cluster it is.
    let socket = format!("archive-push --socket {}", daemon.socket().display());
    cluster.set_archive_command(&config.archive_command().replace("archive-push", &socket));
    other.cluster.set_archive_command(&command("other"));
    let first = cluster.archive_now();
    let second = other.cluster.archive_now();
    assert!(find(&repo.path().join("c/main"), &first).is_some(), "{}", daemon.log());
    assert!(find(&repo.path().join("c/other"), &second).is_some(), "{}", daemon.log());
    // Sent to the wrong one, it is refused.
    other.cluster.set_archive_command("false");
    let third = other.cluster.switch_wal();
    let path = other.cluster.data_dir().join("pg_wal").join(third);
    let mut push = config.pgkeep(["--cluster", "main", "archive-push"]);
    let refused = run(push.arg(&path)).assert_code(1);
    assert!(
        refused.stderr.contains("not registered") || refused.stderr.contains("system"),
        "{refused}"
    );
}

/// A daemon that serves another configuration, or was not told to read this one again, answers for other
/// repositories than the client means: it is as good as away.
#[test]
fn f018_a_daemon_of_other_repositories_is_not_believed() {
    let Some(server) = Server::main() else { return };
    let site = Served::new(&server, "");
    let archived = site.cluster.archive_now();
    let second = TestRepo::new();
    let text = fs::read_to_string(site.config.path()).unwrap();
    let (text, daemon) = text.split_once("\n[daemon]").unwrap();
    let config = site.config.replaced(text).repository("second", &second, Cipher::Aes);
    let config = config.toml(&format!("[daemon]{daemon}"));
    config.run(["init"]).assert_ok();
    site.cluster.set_archive_command("false");
    let name = site.cluster.switch_wal();
    let path = site.cluster.data_dir().join("pg_wal").join(&name);
    let pushed = config.run(["archive-push", path.to_str().unwrap()]).assert_ok();
    assert!(pushed.stderr.contains("its repositories are not those"), "{pushed}");
    for repo in [&site.repo, &second] {
        assert!(find(repo.path(), &name).is_some(), "{name}");
    }
    // Only the second one has it: by the daemon it would be absent.
    fs::remove_file(find(site.repo.path(), &name).unwrap()).unwrap();
    let out = site.cluster.data_dir().join("pg_wal/RECOVERYXLOG");
    let got = config.run(["archive-get", &name, out.to_str().unwrap()]).assert_ok();
    assert!(got.stderr.contains("done without it"), "{got}");
    assert_eq!(fs::read(&out).unwrap(), fs::read(&path).unwrap());
    site.daemon.signal(Signal::HUP);
    wait_until(DEADLINE, || site.daemon.log().contains("read again"), || site.daemon.log());
    let got = config.run(["archive-get", &archived, out.to_str().unwrap()]).assert_ok();
    assert_eq!(got.stderr, "");
}

/// A standby whose command has nobody to fall back to outlives the daemon's restart; a server that is no
/// standby is not told that there is no more WAL.
#[test]
fn f018_a_standby_outlives_the_daemon_and_no_other_recovery_ends() {
    let Some(server) = Server::main() else { return };
    let mut site = Served::new(&server, "fallback = \"fail\"");
    let text = fs::read_to_string(site.config.path()).unwrap();
    site.config.write("pgkeep.toml", &text.replace("wait = \"0s\"", "wait = \"1s\""));
    let name = site.cluster.archive_now();
    site.daemon.stop(Signal::KILL);
    let copy = ScratchDir::new("standby");
    let data = copy.create_dir("data");
    for folder in ["global", "pg_wal"] {
        copy.create_dir(&format!("data/{folder}"));
    }
    fs::copy(site.cluster.data_dir().join("global/pg_control"), data.join("global/pg_control"))
        .unwrap();
    crate::support::account::unprivileged().own(&data.join("global/pg_control"));
    let out = data.join("pg_wal/RECOVERYXLOG");
    let get = || site.config.run(["archive-get", &name, out.to_str().unwrap()]);
    get().assert_code(200);
    copy.write("data/standby.signal", "");
    // What may have asked for a promotion is old: nothing has changed in the directory for long.
    let past = std::time::SystemTime::now() - Duration::from_secs(600);
    let times = fs::FileTimes::new().set_modified(past);
    copy.write("data/postmaster.pid", "");
    fs::File::open(&data).unwrap().set_times(times).unwrap();
    let told = get().assert_code(1);
    assert!(told.stderr.contains("it goes on by streaming"), "{told}");
    copy.write("data/promote", "");
    let told = get().assert_code(200);
    assert!(told.stderr.contains("a promotion was asked for"), "{told}");
    fs::remove_file(data.join("promote")).unwrap();
    site.daemon.start(&site.config);
    get().assert_ok();
}

/// f001: an epoch that begins counts for the next request, whatever was stored ahead before.
#[test]
fn f001_an_epoch_that_begins_takes_what_was_stored_ahead() {
    let Some(server) = Server::main() else { return };
    let site = Served::new(&server, "");
    site.cluster.archive_now();
    let behind = site.backlog(4);
    site.push(&behind[0]).assert_ok();
    let all = || behind.iter().all(|name| site.object(name).is_some());
    wait_until(DEADLINE, all, || site.daemon.log());
    site.config.run(["init", "--new-epoch"]).assert_ok();
    site.push(&behind[1]).assert_ok();
    let places = fs::read_dir(site.repo.path().join("c/main")).unwrap();
    let places: Vec<_> = places.map(|entry| entry.unwrap().path()).collect();
    let newer = places.iter().find(|path| path.to_string_lossy().ends_with("-2")).unwrap();
    assert!(find(newer, &behind[1]).is_some(), "{places:?}");
}

/// The service manager is told when the daemon listens, that it is alive, what waits, and that it stops; and
/// the log tells what has waited for longer than the rpo.
#[test]
fn the_service_manager_is_told_and_what_waits_too_long_is_warned_of() {
    let Some(server) = Server::main() else { return };
    let Site { cluster, config, repo } = Site::small(&server);
    let text = fs::read_to_string(config.path()).unwrap();
    let config = config.replaced(&text.replace("[cluster.main]", "[cluster.main]\nrpo = \"1s\""));
    let (daemon, config) = TestDaemon::configure(config, "");
    let scratch = ScratchDir::new("notify");
    let path = scratch.join("socket");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    crate::support::account::unprivileged().own(&path);
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = config.pgkeep(["daemon"]);
    let running = start(command.env("NOTIFY_SOCKET", &path));
    let mut told = String::new();
    let mut wait_for = |what: &str| {
        while !told.contains(what) {
            let mut space = [0; 4096];
            let length = manager.recv(&mut space).unwrap_or_else(|why| panic!("{what}: {why}"));
            told = String::from_utf8_lossy(&space[..length]).into_owned();
        }
        told.clone()
    };
    wait_for("READY=1");
    assert!(daemon.socket().exists(), "it listens when it says so");
    assert!(wait_for("WATCHDOG=1").contains("STATUS="));
    cluster.set_archive_command("false");
    let name = cluster.switch_wal();
    assert!(wait_for("waits for").contains(&name));
    let is_told = || running.stderr_so_far().contains("longer than the rpo of 1 s");
    wait_until(DEADLINE, is_told, || running.stderr_so_far());
    running.signal(Signal::TERM);
    wait_for("STOPPING=1");
    running.wait().assert_ok();
    drop(repo);
}

/// f020: what the daemon looks for by itself, across a switch of timelines too.
#[test]
fn f020_what_is_missing_is_found_for_the_log() {
    let Some(server) = Server::main() else { return };
    let site = Served::new(&server, "");
    let names: Vec<String> = (0..4).map(|_| site.cluster.archive_now()).collect();
    let look = || {
        let settings = pgkeep::wiring::settings(Some(&site.config.path())).unwrap();
        let openings = pgkeep::wiring::Direct::openings(&settings.resolve(None, None).unwrap());
        let ctx = pgkeep::base::Ctx::system(std::sync::Arc::new(pgkeep::base::Silent));
        let found = pgkeep::archive::continuity(&ctx, &openings, None);
        let [(name, missing)] = <[_; 1]>::try_from(found).unwrap();
        (name, missing.unwrap())
    };
    assert_eq!(look(), ("local".to_owned(), vec![]));
    fs::remove_file(site.object(&names[1]).unwrap()).unwrap();
    let (_, missing) = look();
    assert!(missing.len() == 1 && missing[0].contains(&names[1]), "{missing:?}");
}

/// f003: a server that goes back to earlier names, as after a rollback of its disk, was trusted by the name
/// that it had asked for before those that were answered from memory: what is behind the conflict took free
/// names.
#[test]
fn f003_nothing_is_stored_ahead_of_a_server_that_went_back() {
    let Some(server) = Server::main() else { return };
    let site = Served::new(&server, "");
    site.cluster.archive_now();
    let behind = site.backlog(5);
    site.push(&behind[0]).assert_ok();
    let all = || behind.iter().all(|name| site.object(name).is_some());
    wait_until(DEADLINE, all, || site.daemon.log());
    behind[1..].iter().for_each(|name| drop(site.push(name).assert_ok()));
    let wal = site.cluster.data_dir().join("pg_wal");
    let mark = |name: &str, end: &str| wal.join(format!("archive_status/{name}.{end}"));
    for name in &behind {
        fs::rename(mark(name, "ready"), mark(name, "done")).unwrap();
    }
    // The daemon has forgotten them: it looks every 20 ms, and at the least when it tidies up.
    let status = || site.daemon.status(&site.config)["daemon"]["clusters"][0]["ready"].clone();
    wait_until(DEADLINE, || status() == 0, || site.daemon.log());
    std::thread::sleep(Duration::from_secs(1));

    let path = wal.join(&behind[3]);
    let mut other = fs::read(&path).unwrap();
    let end = other.len() - 1;
    other[end] ^= 1;
    fs::write(&path, other).unwrap();
    fs::rename(mark(&behind[3], "done"), mark(&behind[3], "ready")).unwrap();
    let free = site.cluster.switch_wal();
    site.push(&behind[3]).assert_code(1);
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        site.object(&free).is_none(),
        "{free} was stored behind a conflict\n{}",
        site.daemon.log()
    );
}
