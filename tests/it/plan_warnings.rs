//! What WAL between a backup and a target does to a restore beside bringing data: the plan knows it
//! before the server dies of it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::run::{DEADLINE, Ran, run, wait_until};
use crate::support::site::{Site, json, started};
use crate::support::{ScratchDir, Server, Stop, TestCluster};

/// A site with a table, and a folder for its copies.
struct Source {
    server: Server,
    site: Site,
    copies: ScratchDir,
}

impl Source {
    fn new(server: &Server) -> Self {
        Self::of(server, Site::small(server))
    }

    fn of(server: &Server, site: Site) -> Self {
        site.cluster.psql("create table t (n int)");
        Self { server: server.clone(), site, copies: ScratchDir::new("copies") }
    }

    /// Commits a row; the moment after it, before anything else is committed.
    fn insert(&self, n: u32) -> String {
        let cluster = &self.site.cluster;
        cluster.psql(&format!("insert into t values ({n})"));
        let moment = cluster.psql("select clock_timestamp()");
        cluster.psql("select pg_sleep(0.01)");
        moment
    }

    /// Starts the cluster again with other settings.
    fn restart_with(&self, settings: &[(&str, &str)]) {
        for (name, value) in settings {
            self.site.cluster.psql(&format!("alter system set {name} = '{value}'"));
        }
        self.site.cluster.restart();
    }

    fn ask(&self, args: &[&str]) -> Ran {
        let mut command = self.site.config.pgkeep(["restore", "--json", "--dry-run", "--to"]);
        run(command.arg(self.copies.join("asked")).args(args))
    }

    #[track_caller]
    fn plan(&self, args: &[&str]) -> Value {
        json(&self.ask(args).assert_ok().stdout)["plan"].take()
    }

    /// The rows of a copy that was restored, started and promoted.
    #[track_caller]
    fn rows(&self, name: &str, args: &[&str]) -> String {
        let to = self.copies.join(name);
        self.site.restore(&to, args);
        let copy = started(&self.server, &to);
        let rows = rows(&copy);
        copy.stop(Stop::Immediate);
        rows
    }

    fn info(&self) -> Value {
        let told = self.site.config.run(["info", "--json"]).assert_ok();
        json(&told.stdout)["repositories"][0].take()
    }
}

fn rows(cluster: &TestCluster) -> String {
    cluster.psql("select coalesce(string_agg(n::text, ',' order by n), '') from t")
}

fn objects(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let each = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => objects(&entry.path()),
        false => vec![entry.path()],
    });
    each.flatten().collect()
}

/// A server that ran for a moment with `wal_level = minimal` within one segment left no hole: `info` and
/// the plan promised every later moment, and the restored server died with "WAL was generated with
/// wal_level=minimal".
#[test]
fn d20261124_windows_end_where_wal_was_minimal() {
    let Some(server) = Server::main() else { return };
    let source = Source::new(&server);
    let first = source.site.backup();
    let before = source.insert(1);
    // Something that ends before the change, so that the archive proves the moment.
    source.insert(10);
    source.site.cluster.archive_now();
    let minimal = [("wal_level", "minimal"), ("max_wal_senders", "0"), ("archive_mode", "off")];
    source.restart_with(&minimal);
    source.insert(2);
    let replica = [("wal_level", "replica"), ("max_wal_senders", "10"), ("archive_mode", "on")];
    source.restart_with(&replica);
    let behind = source.insert(3);
    source.insert(4);
    source.site.cluster.archive_now();
    let log = source.site.cluster.log();
    assert!(log.contains("was written with wal_level=minimal"), "archive-push warns\n{log}");

    let refused = |target: &[&str]| {
        let refused = source.ask(target).assert_code(13);
        refused.assert_says("was written with wal_level=minimal").assert_says("full backup")
    };
    let targets = [&["--target-time", behind.as_str()][..], &[], &["--standby"]];
    targets.iter().for_each(|target| drop(refused(target)));
    let info = source.info();
    assert_eq!(info["windows"].as_array().unwrap().len(), 1, "{info}");
    let to = info["windows"][0]["to"].as_str().unwrap();
    let moment = |text: &str| chrono::DateTime::parse_from_rfc3339(text).unwrap();
    let behind_moment = source.site.cluster.psql(&format!(
        "select to_char('{behind}'::timestamptz at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.USZ')"
    ));
    assert!(moment(to) < moment(&behind_moment), "{info}");
    assert!(info["notes"].to_string().contains("wal_level=minimal"), "{info}");
    assert_eq!(source.rows("before", &["--target-time", &before]), "1");

    // A note may be lost: without it the plan still knows.
    let summary = objects(source.site.repo.path());
    let summary = summary.iter().find(|path| {
        let path = path.display().to_string();
        path.contains("/sum/found/") && path.contains(".m")
    });
    fs::remove_file(summary.unwrap()).unwrap();
    targets.iter().for_each(|target| drop(refused(target)));
    let plan = source.plan(&["--target-time", &before]);
    assert_eq!(plan["backup"], first.as_str(), "{plan}");

    // A new backup opens a new window.
    let second = source.site.backup();
    source.insert(5);
    source.site.cluster.archive_now();
    assert_eq!(source.plan(&[])["backup"], second.as_str());
    assert_eq!(source.rows("after", &[]), "1,2,3,4,5,10");
}

/// A tablespace that was made after the backup was no matter for the plan: the restored server died at
/// the segment that makes it, in the source's own directory or in one that was not there.
#[test]
fn d20261124_a_tablespace_made_after_the_backup_is_known_to_the_plan() {
    let Some(server) = Server::main() else { return };
    let source = Source::new(&server);
    let location = source.site.cluster.scratch().create_dir("ts");
    source.site.backup();
    let before = source.insert(1);
    source.insert(2);
    source.site.cluster.archive_now();
    let near = source.insert(3);
    source.insert(4);
    let sql = format!("create tablespace ts location '{}'", location.display());
    source.site.cluster.psql(&sql);
    source.site.cluster.psql("create table u tablespace ts as select 7 n");
    let behind = source.insert(5);
    source.insert(6);
    source.site.cluster.archive_now();

    assert_eq!(source.rows("before", &["--target-time", &before]), "1");
    // archive-get looks at whole segments.
    for target in [&["--target-time", near.as_str()][..], &["--target-time", &behind], &[]] {
        let refused = source.ask(target).assert_code(15).assert_says("creation of tablespace");
        let message = json(&refused.stdout)["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&location.display().to_string()), "{message}");
        assert!(message.contains("the files of a server"), "{message}");
    }

    // On another host the location is not there: the first command makes it.
    source.site.cluster.stop(Stop::Fast);
    let aside = location.with_extension("aside");
    source.site.cluster.command("mv").arg(&location).arg(&aside).status().unwrap();
    assert_eq!(source.plan(&["--target-time", &near])["new_tablespaces"], serde_json::json!([]));
    let plan = source.plan(&["--target-time", &behind]);
    assert_eq!(plan["new_tablespaces"][0]["exists"], false, "{plan}");
    assert!(plan["warnings"].to_string().contains("make it first"), "{plan}");
    let make = plan["next"][0].as_str().unwrap();
    assert!(make.starts_with("install -d "), "{plan}");
    run(source.site.cluster.command("sh").args(["-c", make])).assert_ok();
    assert_eq!(source.plan(&[])["new_tablespaces"][0]["exists"], true);
    let to = source.copies.join("behind");
    source.site.restore(&to, &["--target-time", &behind]);
    let copy = started(&server, &to);
    assert_eq!((rows(&copy), copy.psql("select n from u")), ("1,2,3,4,5".into(), "7".into()));
}

/// `max_connections` was raised on the source after the backup: recovery paused there, before its target,
/// and the printed `pg_wal_replay_resume()` ended the server.
#[test]
fn d20261124_settings_that_recovery_must_follow_are_raised() {
    let Some(server) = Server::main() else { return };
    let source = Source::new(&server);
    source.site.backup();
    let before = source.insert(1);
    source.insert(2);
    source.site.cluster.archive_now();
    source.restart_with(&[("max_connections", "200"), ("max_worker_processes", "9")]);
    let behind = source.insert(3);
    source.insert(4);
    source.site.cluster.archive_now();

    let plan = source.plan(&["--target-time", &before]);
    assert_eq!(plan["raised"].as_array().unwrap().len(), 0, "{plan}");
    let plan = source.plan(&["--target-time", &behind]);
    let raised = plan["raised"].as_array().unwrap();
    let raised: Vec<_> = raised.iter().map(|each| (&each["name"], &each["value"])).collect();
    let expected = [("max_connections", 200), ("max_worker_processes", 9)];
    let expected = expected.map(|(name, value)| (name.into(), value.into()));
    assert_eq!(raised, expected.each_ref().map(|(name, value)| (name, value)), "{plan}");
    assert_eq!(plan["raised"][0]["configured"], 30, "{plan}");
    assert!(plan["warnings"].to_string().contains("max_connections = 200"), "{plan}");

    let target = ["--target-time", behind.as_str()];
    assert_eq!(source.rows("promoted", &target), "1,2,3");
    let to = source.copies.join("paused");
    let mut command = source.site.config.pgkeep(["restore", "--yes", "--to"]);
    run(command.arg(&to).args(target)).assert_ok();
    let copy = TestCluster::adopt(&server, &to).start();
    copy.wait_for_pause();
    assert_eq!((rows(&copy), copy.psql("show max_connections")), ("1,2,3".into(), "200".into()));
    copy.psql("select pg_wal_replay_resume()");
    copy.wait_for_promotion();
}

/// A standby with a target was told to follow the newest timeline, whatever its plan had looked at, and
/// its archive was not bound to what the plan had seen; the printed steps spoke of a standby that follows.
#[test]
fn d20261124_a_standby_with_a_target_keeps_to_its_plan() {
    let Some(server) = Server::main() else { return };
    let source = Source::new(&server);
    source.site.backup();
    let moment = source.insert(1);
    source.insert(2);
    source.site.cluster.archive_now();
    let restored = |name: &str, args: &[&str]| {
        let to = source.copies.join(name);
        let mut command = source.site.config.pgkeep(["restore", "--yes", "--standby", "--to"]);
        let told = run(command.arg(&to).args(args)).assert_ok().stdout;
        (told, fs::read_to_string(to.join("postgresql.auto.conf")).unwrap())
    };
    let (told, settings) = restored("target", &["--target-time", &moment]);
    assert!(settings.contains("recovery_target_timeline = '1'"), "{settings}");
    assert!(settings.contains("--through ") && settings.contains("--epoch 1"), "{settings}");
    assert!(told.contains("pg_wal_replay_resume"), "{told}");
    assert!(!told.contains("promote") && !told.contains("follows the archive"), "{told}");
    let copy = TestCluster::adopt(&server, &source.copies.join("target")).start();
    copy.wait_for_pause();
    assert_eq!(rows(&copy), "1");
    copy.psql("select pg_wal_replay_resume()");
    copy.wait_for_promotion();
    let (told, settings) = restored("follows", &[]);
    assert!(settings.contains("recovery_target_timeline = 'latest'"), "{settings}");
    assert!(!settings.contains("--through ") && !settings.contains("--epoch"), "{settings}");
    assert!(told.contains("promote") && told.contains("follows the archive"), "{told}");
}

/// With and without `--target-exclusive`, and with every action, a plan read the same.
#[test]
fn d20261124_a_plan_says_what_the_server_is_told() {
    let Some(server) = Server::main() else { return };
    let source = Source::new(&server);
    source.site.backup();
    source.insert(1);
    let lsn = source.site.cluster.psql("select pg_current_wal_insert_lsn()");
    source.insert(2);
    source.site.cluster.archive_now();
    let told = |args: &[&str]| {
        let plan = source.plan(args);
        (plan["server_target"].clone(), plan["inclusive"].clone(), plan["action"].clone())
    };
    let target = format!("LSN {lsn}");
    let included = told(&["--target-lsn", &lsn]);
    assert_eq!(included, (target.as_str().into(), true.into(), "pause".into()));
    let args = ["--target-lsn", &lsn, "--target-exclusive", "--target-action", "shutdown"];
    assert_eq!(told(&args), (target.as_str().into(), false.into(), "shutdown".into()));
    let text = |args: &[&str]| {
        let mut command = source.site.config.pgkeep(["restore", "--dry-run", "--to"]);
        run(command.arg(source.copies.join("asked")).args(args)).assert_ok()
    };
    text(&args[..2]).assert_says(&format!("to {target}, that included; then pause"));
    text(&args).assert_says(&format!("to {target}, that excluded; then shutdown"));
    text(&[]).assert_says("recovery      to the end of the WAL");
}

/// The printed psql named neither port nor socket: with others than psql's own it failed, and beside the
/// source it asked the source. A path with a dollar sign was read by the shell that pg_ctl starts.
#[test]
fn d20261124_the_printed_commands_ask_the_restored_server_and_no_other() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).wal_segment_mib(1);
    let sockets = ScratchDir::new("sockets");
    let launch = launch
        .setting("unix_socket_directories", &sockets.path().display().to_string())
        .setting("port", "6432");
    let source = Source::of(&server, Site::start(launch));
    source.site.backup();
    let moment = source.insert(1);
    source.insert(2);
    source.site.cluster.archive_now();
    // Another server has the port that the configuration names.
    let lock = sockets.path().join(".s.PGSQL.6432.lock");
    let pid = std::process::id();
    let text = format!("{pid}\n{}\n0\n6432\n", source.site.cluster.data_dir().display());
    fs::write(&lock, text).unwrap();

    let to = source.copies.join("it's $HOME `a` \"b\" \\c");
    let mut command = source.site.config.pgkeep(["restore", "--yes", "--json", "--to"]);
    let done = run(command.arg(&to).args(["--target-time", &moment])).assert_ok();
    let plan = json(&done.stdout)["plan"].take();
    assert_eq!((&plan["address"]["port"], &plan["address"]["taken"]), (&6433.into(), &6432.into()));
    let next: Vec<_> = plan["next"].as_array().unwrap().iter().collect();
    assert_eq!(next.len(), 3, "{plan}");
    let say = |command: &str| {
        run(source.site.cluster.command("sh").args(["-c", command])).assert_ok().stdout
    };
    let copy = TestCluster::adopt(&server, &to).prepare();
    say(next[0].as_str().unwrap());
    assert!(copy.is_running() && to.join("startup.log").exists(), "{plan}");
    let asks = next[1].as_str().unwrap();
    let is_waiting = || say(asks).contains(" t  ");
    wait_until(DEADLINE, is_waiting, || say(asks));
    let resume = next[2].as_str().unwrap();
    let is_open = || {
        // Before it waits at the target this does nothing, and fails once it is open.
        drop(run(source.site.cluster.command("sh").args(["-c", resume])));
        say(asks).contains(" f  ")
    };
    wait_until(DEADLINE, is_open, || say(asks));
    copy.stop(Stop::Fast);
}
