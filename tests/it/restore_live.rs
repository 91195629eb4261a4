//! Restores on real servers: where recovery ends and along which timeline, what the server does
//! there, what a restore refuses, and what a copy never does to its source.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::support::run::{DEADLINE, Ran, run, start, wait_until};
use crate::support::{
    Cipher, Launch, ScratchDir, Server, Stop, TestCluster, TestConfig, TestRepo, account, tools,
};

/// A cluster that archives into a repository.
pub(crate) struct Site {
    server: Server,
    pub(crate) cluster: TestCluster,
    pub(crate) config: TestConfig,
    pub(crate) repo: TestRepo,
    pub(crate) copies: ScratchDir,
}

impl Site {
    pub(crate) fn new(server: &Server) -> Self {
        Self::from_launch(server, TestCluster::create(server))
    }

    fn from_launch(server: &Server, launch: Launch) -> Self {
        let cluster = launch.wal_segment_mib(1).archiving().start();
        let repo = TestRepo::new();
        let config = TestConfig::new(&cluster).repository("local", &repo, Cipher::Aes);
        config.run(["init"]).assert_ok();
        cluster.set_archive_command(&config.archive_command());
        cluster.psql("create table t (n int)");
        Self { server: server.clone(), cluster, config, repo, copies: ScratchDir::new("copies") }
    }

    pub(crate) fn to(&self, name: &str) -> PathBuf {
        self.copies.join(name)
    }

    fn insert(&self, n: u32) {
        self.cluster.psql(&format!("insert into t values ({n})"));
    }

    fn now(&self) -> String {
        self.cluster.psql("select clock_timestamp()")
    }

    pub(crate) fn restore(&self, name: &str, args: &[&str]) -> Ran {
        let mut command = self.config.pgkeep(["restore", "--yes", "--to"]);
        run(command.arg(self.to(name)).args(args))
    }

    /// Restores, starts and waits until it writes: what is in the table.
    #[track_caller]
    pub(crate) fn restored(&self, name: &str, args: &[&str]) -> (TestCluster, String) {
        self.restore(name, args).assert_ok();
        let copy = TestCluster::adopt(&self.server, &self.to(name)).start();
        copy.wait_for_promotion();
        let rows = rows(&copy);
        (copy, rows)
    }

    /// Every object of the repository, by its path; but for leases: a restore says what it reads.
    fn objects(&self) -> Vec<PathBuf> {
        let leases = self.repo.path().join("lease");
        let mut objects = files(self.repo.path());
        objects.retain(|path| !path.starts_with(&leases));
        objects
    }
}

fn rows(cluster: &TestCluster) -> String {
    cluster.psql("select coalesce(string_agg(n::text, ',' order by n), '') from t")
}

pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(next) = folders.pop() {
        let Ok(entries) = fs::read_dir(next) else { continue };
        for entry in entries.flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

#[test]
pub(crate) fn f024_f026_each_timeline_can_be_restored() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    site.config.run(["backup"]).assert_ok();
    site.insert(1);
    let time = site.now();
    site.insert(2);
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);

    let args = ["--archive", "on", "--target-action", "promote", "--target-time", &time];
    let (second, before) = site.restored("second", &args);
    assert_eq!(before, "1");
    second.psql("insert into t values (20)");
    assert!(second.archive_now().starts_with("00000002"));
    second.psql("insert into t values (21)");
    second.archive_now();
    second.stop(Stop::Fast);

    for (name, timeline, expected) in [
        ("latest", &[][..], "1,20,21"),
        ("named", &["--target-timeline", "2"], "1,20,21"),
        ("first", &["--target-timeline", "1"], "1,2"),
        ("current", &["--target-timeline", "current"], "1,2"),
    ] {
        let (copy, found) = site.restored(name, timeline);
        assert_eq!(found, expected, "{timeline:?}");
        copy.stop(Stop::Immediate);
    }
    let unknown = site.restore("unknown", &["--target-timeline", "7"]);
    unknown.assert_code(1).assert_says("00000007.history");
    assert!(!site.to("unknown").exists());
}

#[test]
fn at_the_target_the_server_pauses_or_shuts_down_and_exclusive_stops_before() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    site.config.run(["backup"]).assert_ok();
    site.insert(1);
    let begin = site.cluster.psql("select pg_current_wal_insert_lsn()");
    let xid = "begin; insert into t values (2); select pg_current_xact_id(); commit";
    let xid = site.cluster.psql(xid);
    let xid = xid.trim();
    site.insert(3);
    site.cluster.archive_now();

    let args = ["--target-xid", xid, "--target-action", "pause"];
    site.restore("pause", &args).assert_ok();
    let paused = TestCluster::adopt(&server, &site.to("pause")).start();
    paused.wait_for_pause();
    assert_eq!(paused.psql("select pg_is_in_recovery(), pg_is_wal_replay_paused()"), "t|t");
    assert_eq!(rows(&paused), "1,2");
    assert!(!paused.try_psql("insert into t values (9)").is_ok(), "it is read-only");
    paused.psql("select pg_wal_replay_resume()");
    paused.wait_for_promotion();
    assert_eq!(rows(&paused), "1,2");
    paused.stop(Stop::Immediate);

    site.restore("shutdown", &["--target-xid", xid, "--target-action", "shutdown"]).assert_ok();
    let down = TestCluster::adopt(&server, &site.to("shutdown")).prepare();
    // The server may be readable for a moment, which pg_ctl calls a start.
    drop(down.try_start());
    wait_until(DEADLINE, || !down.is_running(), || down.log());
    assert!(down.log().contains("shutdown at recovery target"), "{}", down.log());
    assert!(!down.log().contains("selected new timeline"), "{}", down.log());

    let promote = ["--target-exclusive", "--target-action", "promote"];
    for (name, target) in [("xid", ["--target-xid", xid]), ("lsn", ["--target-lsn", &begin])] {
        let (copy, found) = site.restored(name, &[&target[..], &promote[..]].concat());
        assert_eq!(found, "1", "{name}");
        copy.stop(Stop::Immediate);
    }
}

#[test]
pub(crate) fn a_standby_follows_the_archive_until_it_is_promoted() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    site.config.run(["backup"]).assert_ok();
    site.insert(1);
    site.cluster.archive_now();
    site.restore("standby", &["--standby"]).assert_ok();
    let to = site.to("standby");
    assert!(to.join("standby.signal").exists() && !to.join("recovery.signal").exists());
    let standby =
        TestCluster::adopt(&server, &to).setting("wal_retrieve_retry_interval", "100ms").start();
    standby.wait_until("(select count(*) = 1 from t)");
    site.insert(2);
    site.cluster.archive_now();
    standby.wait_until("(select count(*) = 2 from t)");
    assert_eq!(standby.psql("select pg_is_in_recovery()"), "t");
    standby.promote();
    standby.wait_for_promotion();
    assert_eq!(rows(&standby), "1,2");
    standby.psql("insert into t values (3)");
}

#[test]
fn f058_f065_f066_what_is_in_the_way_is_refused_and_stays() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    let source = ScratchDir::new("tablespace");
    let (one, two) = (source.create_dir("one"), source.create_dir("two"));
    for (name, location) in [("one", &one), ("two", &two)] {
        site.cluster.psql(&format!("create tablespace {name} location '{}'", location.display()));
        site.cluster.psql(&format!("create table in_{name} (n int) tablespace {name}"));
    }
    site.config.run(["backup"]).assert_ok();
    let map = |old: &Path, new: &Path| format!("{}={}", old.display(), new.display());
    let (new_one, new_two) = (site.to("one"), site.to("two"));
    let both = [map(&one, &new_one), map(&two, &new_two)];
    let both = ["--tablespace", &both[0], "--tablespace", &both[1]];

    // A directory that is not empty, with or without a server.
    let foreign = site.copies.create_dir("foreign");
    site.copies.write("foreign/precious", "mine");
    let refused = site.restore("foreign", &both).assert_code(15);
    assert!(refused.stderr.contains("is not empty"), "{refused}");
    assert_eq!(files(&foreign), [foreign.join("precious")]);
    let live = files(site.cluster.data_dir());
    let mut onto = site.config.pgkeep(["restore", "--yes", "--to"]);
    let refused = run(onto.arg(site.cluster.data_dir()).args(both)).assert_code(15);
    assert!(refused.stderr.contains("belongs to a server"), "{refused}");
    assert!(live.iter().all(|path| path.exists()) && site.cluster.is_running());
    let file = site.copies.write("file", "mine");
    site.restore("file", &both).assert_code(15);
    assert_eq!(fs::read(file).unwrap(), b"mine");

    // Tablespaces: the source's own location, one that is not empty.
    let before = [files(&one), files(&two)];
    site.restore("unmapped", &[]).assert_code(15);
    site.restore("unmapped", &both[..2]).assert_code(15);
    let full = site.copies.create_dir("full");
    site.copies.write("full/precious", "mine");
    let onto_full = map(&two, &full);
    site.restore("unmapped", &[both[0], both[1], "--tablespace", &onto_full]).assert_code(15);
    assert_eq!(files(&full), [full.join("precious")]);
    // Mappings that make no sense.
    let to = site.to("unmapped");
    let inside = map(&two, &to.join("pg_tblspc/x"));
    let dotted = map(&two, &site.copies.join("x/../unmapped/x"));
    let itself = map(&two, &to);
    let equal = map(&two, &new_one);
    let nested = map(&two, &new_one.join("deeper"));
    let link = site.to("link");
    std::os::unix::fs::symlink(site.copies.path(), &link).unwrap();
    let linked = map(&two, &link.join("one"));
    let around = map(&two, site.copies.path());
    let relative = format!("{}=relative", two.display());
    let unknown = map(Path::new("/nowhere"), &new_two);
    for wrong in [&inside, &dotted, &itself, &equal, &linked, &nested, &around, &relative, &unknown]
    {
        let refused = site.restore("unmapped", &[both[0], both[1], "--tablespace", wrong]);
        assert!(matches!(refused.code(), Some(1 | 15)), "{wrong}\n{refused}");
    }
    for untouched in [&to, &new_one, &new_two, &site.copies.join("x")] {
        assert!(!untouched.exists(), "{}", untouched.display());
    }
    assert_eq!([files(&one), files(&two)], before);
    site.cluster.psql("insert into in_one values (1); insert into in_two values (2)");

    site.cluster.archive_now();
    let (copy, _) = site.restored("unmapped", &both);
    assert_eq!(copy.psql("select (select n from in_one), (select n from in_two)"), "1|2");
    copy.psql("insert into in_one values (7)");
    assert_eq!(site.cluster.psql("select count(*) from in_one"), "1");
}

#[test]
pub(crate) fn f068_f069_f071_targets_that_cannot_be_reached_are_told_with_those_that_can() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    let early = site.now();
    let early_lsn = site.cluster.psql("select pg_current_wal_insert_lsn()");
    let first = backup(&site);
    site.insert(1);
    let (time, lsn) = (site.now(), site.cluster.psql("select pg_current_wal_insert_lsn()"));
    let xid =
        site.cluster.psql("begin; insert into t values (2); select pg_current_xact_id(); commit");
    site.cluster.psql("select pg_create_restore_point('between')");
    site.insert(3);
    let second = backup(&site);
    site.insert(4);
    site.cluster.archive_now();
    let far_lsn = site.cluster.psql("select pg_current_wal_insert_lsn() + 100000000");

    for (target, value) in [
        ("--target-time", early.as_str()),
        ("--target-time", "2999-01-01 00:00:00+00"),
        ("--target-lsn", &early_lsn),
        ("--target-lsn", &far_lsn),
        ("--target-name", "nowhere"),
        ("--target-xid", "4000000"),
    ] {
        let refused = site.restore("no", &[target, value]).assert_code(13);
        assert!(refused.stderr.contains("can be reached: 20"), "{refused}");
    }
    let zoneless = site.restore("no", &["--target-time", "2026-11-20 10:00:00"]).assert_code(2);
    for reading in ["has no time zone", "2026-11-20 10:00:00+00:00"] {
        assert!(zoneless.stderr.contains(reading), "{zoneless}");
    }
    assert!(!site.to("no").exists());

    // A target between the backups takes the older one, and later ones the newer.
    let xid = xid.trim();
    for (target, value, expected, id) in [
        ("--target-time", time.as_str(), "1", &first),
        ("--target-lsn", &lsn, "1", &first),
        ("--target-xid", xid, "1,2", &first),
        ("--target-name", "between", "1,2", &first),
    ] {
        let args = [target, value, "--target-action", "promote"];
        let name = target.trim_start_matches('-');
        let (copy, found) = site.restored(name, &args);
        assert_eq!(found, expected, "{target}");
        let settings = fs::read_to_string(site.to(name).join("postgresql.auto.conf")).unwrap();
        assert!(settings.contains(&format!("from backup {id}")), "{settings}");
        copy.stop(Stop::Immediate);
    }
    let plan = site.restore("no", &["--dry-run"]).assert_ok();
    assert!(plan.stdout.contains(&second), "{plan}");
    // A backup that is named and does not lead to the target is not taken.
    let named = ["--backup", &second, "--target-time", &time];
    site.restore("no", &named).assert_code(13);
    assert!(!site.to("no").exists());
}

/// Takes a backup and returns its name.
fn backup(site: &Site) -> String {
    let taken = site.config.run(["backup", "--json"]).assert_ok();
    let taken: serde_json::Value = serde_json::from_str(&taken.stdout).unwrap();
    taken["id"].as_str().unwrap().to_owned()
}

#[test]
fn f053_without_its_label_a_restored_directory_does_not_start() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    site.config.run(["backup"]).assert_ok();
    site.insert(1);
    site.cluster.archive_now();
    for also in [&[][..], &["recovery.signal"], &["recovery.signal", "postgresql.auto.conf"]] {
        let name = format!("without{}", also.len());
        site.restore(&name, &[]).assert_ok();
        let to = site.to(&name);
        fs::remove_file(to.join("backup_label")).unwrap();
        also.iter().for_each(|file| fs::remove_file(to.join(file)).unwrap());
        let log = TestCluster::adopt(&server, &to).start_expecting_failure();
        assert!(log.contains("PANIC") || log.contains("FATAL"), "{also:?}\n{log}");
        assert!(!log.contains("database system is ready"), "{also:?}\n{log}");
    }
}

#[test]
pub(crate) fn f067_an_interrupted_restore_leaves_nothing_that_starts() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    tools::pgbench_init(&site.cluster, 6);
    site.config.run(["backup"]).assert_ok();
    for (signal, code) in [(Signal::KILL, None), (Signal::TERM, Some(130))] {
        let to = site.to(&format!("{code:?}"));
        let mut command = site.config.pgkeep(["restore", "--yes", "--jobs", "1", "--to"]);
        let running = start(command.arg(&to));
        wait_until(DEADLINE, || files(&to).len() > 300, || running.stderr_so_far());
        running.signal(signal);
        let ended = running.wait();
        assert_eq!(ended.code(), code, "{ended}");
        assert!(!to.join("global/pg_control").exists());
        let log = TestCluster::adopt(&server, &to).start_expecting_failure();
        assert!(!log.contains("ready"), "{log}");
        // Another restore is refused, and changes nothing; the same one finishes it.
        let before = files(&to);
        let mut other = site.config.pgkeep(["restore", "--yes", "--standby", "--to"]);
        let refused = run(other.arg(&to)).assert_code(15);
        assert!(refused.stderr.contains("holds an interrupted restore"), "{refused}");
        assert!(refused.stderr.contains("--rename-old"), "{refused}");
        assert_eq!(files(&to), before);
        let again = run(site.config.pgkeep(["restore", "--yes", "--to"]).arg(&to)).assert_ok();
        assert!(again.stdout.contains("continues     an interrupted restore"), "{again}");
        let copy = TestCluster::adopt(&server, &to).start();
        copy.wait_for_promotion();
        assert_eq!(copy.psql("select count(*) from pgbench_accounts"), "600000");
        copy.stop(Stop::Immediate);
        // Finished and started: it is another cluster now.
        run(site.config.pgkeep(["restore", "--yes", "--to"]).arg(&to)).assert_code(15);
    }
}

#[test]
fn f072_f073_a_damaged_pack_ends_the_restore_before_the_control_file() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    site.config.run(["backup"]).assert_ok();
    let is_pack = |path: &PathBuf| path.components().any(|part| part.as_os_str() == "data");
    let packs = site.objects().into_iter().filter(is_pack);
    let pack = packs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let name = pack.strip_prefix(site.repo.path()).unwrap().to_str().unwrap().to_owned();
    let stored = fs::read(&pack).unwrap();
    let last = stored.len() - 1;
    let flipped = |place: usize| {
        let mut changed = stored.clone();
        changed[place] ^= 0x04;
        Some(changed)
    };
    let cut = |length: usize| Some(stored[..length].to_vec());
    // Neither the header, whose salt the manifest has, nor the mark of the end is read.
    for (at, damaged) in [
        flipped(100),
        flipped(last / 3),
        flipped(last - 1000),
        cut(last - 1000),
        cut(last / 2),
        cut(0),
        None,
    ]
    .iter()
    .enumerate()
    {
        match damaged {
            Some(content) => fs::write(&pack, content).unwrap(),
            None => fs::remove_file(&pack).unwrap(),
        }
        let refused = site.restore("copy", &[]);
        let is_told = refused.code() == Some(1) && refused.stderr.contains(&name);
        assert!(is_told, "{at} {name}\n{refused}");
        let to = site.to("copy");
        assert!(!to.join("global/pg_control").exists(), "{refused}");
        // Refused by the plan, or in the middle.
        if to.exists() {
            fs::remove_dir_all(to).unwrap();
        }
    }
    fs::write(&pack, &stored).unwrap();
    account::unprivileged().own(&pack);
    site.restored("copy", &[]);
}

#[test]
fn f074_modes_come_back() {
    let Some(server) = Server::main() else { return };
    for group in [false, true] {
        let mut launch = TestCluster::create(&server);
        if group {
            launch = launch.initdb_arg("-g");
        }
        let site = Site::from_launch(&server, launch);
        site.config.run(["backup"]).assert_ok();
        let (copy, _) = site.restored("copy", &[]);
        let (folder, file) = if group { (0o750, 0o640) } else { (0o700, 0o600) };
        assert_eq!(copy.psql("show data_directory_mode"), format!("{folder:04o}"));
        copy.stop(Stop::Fast);
        for (path, expected) in [
            ("", folder),
            ("base", folder),
            ("pg_wal", folder),
            ("PG_VERSION", file),
            ("postgresql.auto.conf", file),
            ("global/pg_control", file),
            ("base/1/PG_VERSION", file),
        ] {
            let mode = |data: &Path| fs::metadata(data.join(path)).unwrap().permissions().mode();
            assert_eq!(mode(&site.to("copy")) & 0o7777, expected, "{path}");
            assert_eq!(mode(site.cluster.data_dir()) & 0o7777, expected, "{path}");
        }
    }
}

#[test]
fn f025_f070_a_copy_leaves_its_source_s_archive_alone() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server)
        .setting("archive_cleanup_command", "touch cleaned-up")
        .setting("recovery_end_command", "touch recovery-ended")
        .setting("synchronous_standby_names", "");
    let site = Site::from_launch(&server, launch);
    site.config.run(["backup"]).assert_ok();
    site.insert(1);
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);
    let before = site.objects();

    let (copy, found) = site.restored("copy", &[]);
    assert_eq!(found, "1");
    assert_eq!(copy.psql("show archive_mode"), "off");
    let segment = copy.switch_wal();
    copy.psql("checkpoint");
    assert!(segment.starts_with("00000002"), "it is on a timeline of its own: {segment}");
    let wal = site.to("copy").join("pg_wal");
    for file in [&segment, "00000002.history"] {
        let path = wal.join(file);
        let pushed = site.config.run(["archive-push", path.to_str().unwrap()]).assert_code(1);
        assert!(pushed.stderr.contains("is a restored copy"), "{pushed}");
    }
    // Even with archiving turned on again.
    copy.stop(Stop::Fast);
    let insistent = TestCluster::adopt(&server, &site.to("copy"))
        .setting("archive_mode", "on")
        .setting("archive_command", &site.config.archive_command())
        .start();
    insistent.switch_wal();
    insistent.wait_until("(select failed_count > 0 from pg_stat_archiver)");
    assert_eq!(site.objects(), before, "the repository is as it was");
    for touched in ["cleaned-up", "recovery-ended"] {
        assert!(!site.to("copy").join(touched).exists(), "{touched}");
    }
}

#[test]
fn f068_a_moment_of_an_idle_cluster_is_reached() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    site.config.run(["backup"]).assert_ok();
    site.insert(1);
    site.cluster.psql("select pg_sleep(1.1)");
    let idle = site.now();
    site.cluster.psql("select pg_sleep(1.1); checkpoint");
    site.cluster.archive_now();
    for action in ["promote", "pause"] {
        let args = ["--target-time", idle.as_str(), "--target-action", action];
        site.restore(action, &args).assert_ok();
        let copy = TestCluster::adopt(&server, &site.to(action)).start();
        match action {
            "pause" => copy.wait_for_pause(),
            _ => copy.wait_for_promotion(),
        }
        assert_eq!(rows(&copy), "1");
        assert!(!copy.log().contains("recovery ended before"), "{}", copy.log());
        copy.stop(Stop::Immediate);
    }
}

/// `info` shows the last commit before a hole as the end of what can be restored; typed back, it was
/// planned as "the end of the WAL", and the server died at the hole after a restore that said 0. So did
/// every target close before a hole: from 15 on the server reads ahead of what it replays.
#[test]
fn d20261120_the_last_commit_before_a_hole_is_reached_and_nothing_after_it() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    site.config.run(["backup"]).assert_ok();
    site.insert(1);
    site.insert(2);
    site.cluster.archive_now();
    site.insert(3);
    let missing = site.cluster.archive_now();
    site.insert(4);
    site.cluster.archive_now();
    let object = site.objects().into_iter().find(|path| path.ends_with(&missing)).unwrap();
    fs::remove_file(object).unwrap();
    let shown = site.config.run(["info", "--json"]).assert_ok();
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let end = shown["repositories"][0]["windows"][0]["to"].as_str().unwrap();
    let after =
        chrono::DateTime::parse_from_rfc3339(end).unwrap() + chrono::TimeDelta::microseconds(1);
    let after = after.format("%Y-%m-%d %H:%M:%S%.6f%:z").to_string();
    let refused = site.restore("copy", &["--target-time", &after]).assert_code(13);
    assert!(refused.stderr.contains(&missing), "{refused}");
    assert!(!site.to("copy").exists());
    // What it names instead is reached: the last commit itself.
    let nearest = refused.stderr.lines().find_map(|line| line.split_once("can be reached: "));
    let nearest = nearest.unwrap().1;
    for (name, time) in [("told", nearest), ("shown", end)] {
        let args = ["--target-time", time, "--target-action", "promote"];
        assert_eq!(site.restored(name, &args).1, "1,2", "{time}");
    }
}
