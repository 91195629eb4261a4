//! Recovery from an archive that fails: no answer that is not proven ends it early.

use std::fs;
use std::path::Path;

use crate::archive_live::{Site, promoted};
use crate::support::run::{DEADLINE, run, wait_until};
use crate::support::{Cipher, ScratchDir, Server, Stop, TestCluster, TestConfig, TestRepo};

/// What a server logs when it leaves recovery.
const PROMOTED: &str = "selected new timeline";

/// A backup with rows behind it in several segments, all archived.
struct Archived {
    site: Site,
    /// Each holds one row of `t`.
    segments: Vec<String>,
}

impl Archived {
    fn new(server: &Server) -> Self {
        let site = Site::new(server, 1);
        site.cluster.set_archive_command(&site.config.archive_command());
        site.config.run(["backup"]).assert_ok();
        let segments = (0..5).map(|_| site.segment()).collect();
        site.cluster.archive_now();
        site.cluster.stop(Stop::Fast);
        Self { site, segments }
    }

    /// Restores to the end; `breaks` runs when recovery asks for a segment in the middle. Then the
    /// server must neither start nor promote, and go on to the end after `mends`.
    #[track_caller]
    fn assert_stops_and_resumes(&self, server: &Server, breaks: &str, mends: &str) {
        self.assert_stops_and_resumes_with(server, restore_command, breaks, mends);
    }

    /// The same with another restore_command, made of the restored directory.
    #[track_caller]
    fn assert_stops_and_resumes_with(
        &self,
        server: &Server,
        command: impl Fn(&Path) -> String,
        breaks: &str,
        mends: &str,
    ) {
        let scratch = ScratchDir::new("copy");
        let to = scratch.join("data");
        let restore = ["restore", "--to", to.to_str().unwrap(), "--yes"];
        self.site.config.run(restore).assert_ok();
        let command = command(&to);
        let middle = &self.segments[2];
        let broken = format!("if test %f = {middle}; then {breaks}; fi; {command}");
        let stopped = TestCluster::adopt(server, &to).setting("restore_command", &broken).prepare();
        // It may have become readable before it stops: pg_ctl calls that a start.
        drop(stopped.try_start());
        let is_decided = || !stopped.is_running() || stopped.log().contains(PROMOTED);
        wait_until(DEADLINE, is_decided, || format!("{breaks}\n{}", stopped.log()));
        let log = stopped.log();
        assert!(!stopped.is_running(), "{breaks}\n{log}");
        let before = &self.segments[1];
        assert!(log.contains(&format!("restored log file \"{before}\"")), "{breaks}\n{log}");
        assert!(log.contains("FATAL"), "{breaks}\n{log}");
        assert!(!log.contains(PROMOTED), "{breaks}\n{log}");
        assert!(!to.join("pg_wal/00000002.history").exists(), "{breaks}\n{log}");
        let control = pgkeep::archive::read_control_file(&to).unwrap();
        assert_eq!(control.checkpoint.timeline.get(), 1, "{breaks}\n{log}");

        run(self.site.cluster.command("sh").args(["-c", mends])).assert_ok();
        let mended = TestCluster::adopt(server, &to).start();
        mended.wait_for_promotion();
        assert_eq!(mended.psql("select count(*) from t"), self.segments.len().to_string());
    }
}

/// What restore wrote, as the server reads it.
fn restore_command(data: &Path) -> String {
    let text = fs::read_to_string(data.join("postgresql.auto.conf")).unwrap();
    let line = text.lines().rfind(|line| line.starts_with("restore_command")).unwrap();
    let value = line.split_once('\'').unwrap().1;
    value.rsplit_once('\'').unwrap().0.replace("''", "'")
}

#[test]
pub(crate) fn f018_a_failing_archive_stops_recovery_and_never_promotes() {
    let Some(server) = Server::main() else { return };
    let archived = Archived::new(&server);
    let site = &archived.site;
    let store = site.repo.path().display();
    let key = site.repo.key_file();
    let key = key.display();
    let object = site.object(&archived.segments[2]);
    let object = object.display();
    let other = TestRepo::new();
    let foreign = TestConfig::new(&site.cluster).repository("other", &other, Cipher::Aes);
    // The server is down: the repository and its key are made, the cluster is not registered.
    foreign.run(["init"]).assert_code(1);
    let wrong = other.key_file();
    let wrong = wrong.display();
    // A repository in order, which the same key opens, and which does not know the cluster.
    let stranger = TestRepo::new();
    let same_key = stranger.key_file();
    run(site.cluster.command("cp").arg("-p").args([&site.repo.key_file(), &same_key])).assert_ok();
    let elsewhere = TestConfig::new(&site.cluster).repository("x", &stranger, Cipher::Aes);
    elsewhere.run(["init"]).assert_code(1);
    let stranger = stranger.path().display();
    let put_back = format!("mv {object}.away {object}");
    let cases = [
        // The repository is not there.
        (format!("mv {store} {store}.away"), format!("mv {store}.away {store}")),
        // It cannot be read.
        (format!("chmod 000 {store}"), format!("chmod 700 {store}")),
        // The key is another one.
        (format!("mv {key} {key}.away; cp {wrong} {key}"), format!("mv {key}.away {key}")),
        // The mount is gone; its empty mount point is there.
        (
            format!("mv {store} {store}.away; mkdir {store}"),
            format!("rmdir {store}; mv {store}.away {store}"),
        ),
        // The address leads to another repository.
        (
            format!("mv {store} {store}.away; cp -a {stranger} {store}"),
            format!("rm -r {store}; mv {store}.away {store}"),
        ),
        // The object is cut.
        (format!("cp -p {object} {object}.away; truncate -s 100 {object}"), put_back.clone()),
        // It is missing, and later ones are there.
        (format!("mv {object} {object}.away"), put_back),
        // pgkeep itself is missing: the shell answers 127.
        ("exec /nowhere/pgkeep archive-get".to_owned(), "true".to_owned()),
    ];
    for (breaks, mends) in cases {
        archived.assert_stops_and_resumes(&server, &breaks, &mends);
    }
}

/// The mount point of the archive is empty, and `pgkeep init` makes a repository there, with the key that
/// is still in place. It knew the cluster and had none of its WAL, and a restore_command that somebody
/// wrote, without `--through`, was told that there is no more.
#[test]
fn d20261124_an_archive_without_any_wal_proves_nothing() {
    let Some(server) = Server::main() else { return };
    let archived = Archived::new(&server);
    let site = &archived.site;
    let made = TestRepo::new();
    run(site.cluster.command("cp").arg("-p").args([&site.repo.key_file(), &made.key_file()]))
        .assert_ok();
    site.cluster.start();
    let config = TestConfig::new(&site.cluster).repository("local", &made, Cipher::Aes);
    config.run(["init"]).assert_ok();
    site.cluster.stop(Stop::Fast);
    let out = ScratchDir::new("out").join("file");
    for name in [&archived.segments[2], "00000002.history"] {
        let asked = config.run(["archive-get", name, out.to_str().unwrap()]).assert_code(200);
        assert!(asked.stderr.contains("no WAL of the cluster is"), "{asked}");
    }
    let (store, made) = (site.repo.path().display(), made.path().display());
    let breaks = format!("mv {store} {store}.away; cp -a {made} {store}");
    let mends = format!("rm -r {store}; mv {store}.away {store}");
    let by_hand = |_: &Path| site.config.restore_command();
    archived.assert_stops_and_resumes_with(&server, by_hand, &breaks, &mends);
}

/// Nothing in the archive shows that its tail is gone: the restore's plan alone knows how far it went.
#[test]
pub(crate) fn f018_an_archive_that_lost_its_tail_does_not_end_where_the_plan_saw_more() {
    let Some(server) = Server::main() else { return };
    let archived = Archived::new(&server);
    let object = archived.site.object(&archived.segments[2]);
    let folder = object.parent().unwrap();
    let names = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let tail: Vec<String> = names.filter(|name| *name >= archived.segments[2]).collect();
    assert!(tail.len() >= 3, "{tail:?}");
    let (folder, tail) = (folder.display(), tail.join(" "));
    let breaks = format!("cd {folder}; mkdir -p ../tail; mv {tail} ../tail; cd - >/dev/null");
    let mends = format!("mv {folder}/../tail/* {folder}; rmdir {folder}/../tail");
    archived.assert_stops_and_resumes(&server, &breaks, &mends);
}

/// The history of the newest timeline is lost, its segments are there: "proven absent" ended recovery on
/// the timeline before it.
#[test]
pub(crate) fn f024_a_lost_history_is_a_hole() {
    let Some(server) = Server::main() else { return };
    let archived = Archived::new(&server);
    let site = &archived.site;
    let scratch = ScratchDir::new("copy");
    let to = scratch.join("data");
    site.config.run(["restore", "--to", to.to_str().unwrap(), "--yes"]).assert_ok();
    promoted(&site.cluster);
    site.cluster.psql("insert into t values (6)");
    let segment = site.cluster.archive_now();
    assert!(segment.starts_with("00000002"), "{segment}");
    site.cluster.stop(Stop::Fast);
    let history = site.object("history/00000002");
    let lost = scratch.join("lost");
    fs::rename(&history, &lost).unwrap();

    let out = scratch.join("file");
    let out = out.to_str().unwrap();
    let asked = site.config.run(["archive-get", "00000002.history", out]).assert_code(200);
    assert!(asked.stderr.contains("is there without its history"), "{asked}");
    let other = scratch.join("other");
    let plan = site.config.run(["restore", "--to", other.to_str().unwrap(), "--dry-run"]);
    assert!(!plan.is_ok(), "{plan}");
    let started = TestCluster::adopt(&server, &to)
        .setting("restore_command", &site.config.restore_command())
        .setting("recovery_target_timeline", "latest")
        .prepare();
    drop(started.try_start());
    let is_decided = || !started.is_running() || started.log().contains(PROMOTED);
    wait_until(DEADLINE, is_decided, || started.log());
    assert!(!started.is_running() && !started.log().contains(PROMOTED), "{}", started.log());
    fs::rename(&lost, &history).unwrap();
    started.start();
    started.wait_for_promotion();
    assert_eq!(started.psql("select count(*) from t"), (archived.segments.len() + 1).to_string());
}

/// The same on every major: no answer that is not proven ends a recovery, and the proven end does.
#[test]
fn f018_on_every_major_a_failing_archive_stops_recovery() {
    for server in Server::all().into_iter().filter(|server| server.version() != 15) {
        let archived = Archived::new(&server);
        let object = archived.site.object(&archived.segments[2]);
        let object = object.display();
        let breaks = format!("mv {object} {object}.away");
        archived.assert_stops_and_resumes(&server, &breaks, &format!("mv {object}.away {object}"));
    }
}
