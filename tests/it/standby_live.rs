//! Standbys and promotions on real servers, with an archive that is away, lags or has holes.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use pgkeep::base::SeededEntropy;
use pgkeep::crypt::Unlock;

use crate::support::run::{DEADLINE, run, start, wait_until};
use crate::support::site::Site;
use crate::support::{Cipher, ScratchDir, Server, Stop, TestCluster, TestConfig, TestRepo};

/// What a server logs when it leaves recovery.
pub(crate) const PROMOTED: &str = "selected new timeline";
/// What archive-get says when it does not know and lets a standby go on.
const GOES_ON: &str = "it goes on by streaming";

/// A standby of a site's cluster, with a configuration of its own.
pub(crate) struct Follower {
    pub(crate) cluster: TestCluster,
    pub(crate) config: TestConfig,
    _scratch: ScratchDir,
}

impl Follower {
    /// Copies the primary; the standby asks the archive, and follows by streaming as well if it shall.
    pub(crate) fn new(server: &Server, site: &Site, streams: bool) -> Self {
        let scratch = ScratchDir::new("standby");
        let data = scratch.join("data");
        let mut copying = site.cluster.command("pg_basebackup");
        copying.arg("-D").arg(&data).args(["-c", "fast", "-X", "stream", "-R"]);
        run(copying.args(["-d", &site.cluster.conninfo()])).assert_ok();
        Self::of(server, site, scratch, streams)
    }

    /// A restored standby, which follows the archive: for majors whose pg_basebackup is not here.
    fn restored(server: &Server, site: &Site) -> Self {
        let scratch = ScratchDir::new("standby");
        site.restore(&scratch.join("data"), &["--standby"]);
        Self::of(server, site, scratch, false)
    }

    fn of(server: &Server, site: &Site, scratch: ScratchDir, streams: bool) -> Self {
        let data = scratch.join("data");
        let cluster = TestCluster::adopt(server, &data).prepare();
        let config = TestConfig::new(&cluster)
            .repository("local", &site.repo, Cipher::Aes)
            .archive_get_wait("1s");
        let mut lines = vec![
            format!("restore_command = '{}'", config.restore_command().replace('\'', "''")),
            format!("archive_command = '{}'", config.archive_command().replace('\'', "''")),
            "wal_retrieve_retry_interval = '100ms'".to_owned(),
        ];
        if !streams {
            lines.push("primary_conninfo = ''".to_owned());
        }
        append(&data.join("postgresql.auto.conf"), &lines);
        Self { cluster, config, _scratch: scratch }
    }

    /// Until the standby has replayed as many rows.
    #[track_caller]
    pub(crate) fn wait_for_rows(&self, count: u32) {
        self.cluster.wait_until(&format!("(select count(*) from t) = {count}"));
    }

    /// Asks for a promotion that must not happen: the server ends instead.
    #[track_caller]
    fn assert_refuses_promotion(&self) {
        self.assert_refuses(|| drop(self.cluster.psql("select pg_promote(false)")));
    }

    /// The same, asked for in another way.
    #[track_caller]
    fn assert_refuses(&self, ask: impl FnOnce()) {
        let before = self.cluster.log().len();
        ask();
        let log = || self.cluster.log()[before..].to_owned();
        let is_decided = || !self.cluster.is_running() || log().contains(PROMOTED);
        wait_until(DEADLINE, is_decided, log);
        assert!(!log().contains(PROMOTED), "{}", log());
        assert!(!self.cluster.is_running(), "{}", log());
        assert!(log().contains("and the archive cannot be read"), "{}", log());
        assert!(!self.cluster.data_dir().join("pg_wal/00000002.history").exists());
    }
}

pub(crate) fn append(path: &std::path::Path, lines: &[String]) {
    let before = fs::read_to_string(path).unwrap();
    fs::write(path, format!("{before}\n{}\n", lines.join("\n"))).unwrap();
}

/// A repository that is away while this lives.
struct Away {
    store: PathBuf,
    elsewhere: PathBuf,
}

impl Away {
    fn new(repo: &TestRepo) -> Self {
        let store = repo.path().to_path_buf();
        let elsewhere = store.with_extension("away");
        fs::rename(&store, &elsewhere).unwrap();
        Self { store, elsewhere }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        fs::rename(&self.elsewhere, &self.store).unwrap();
    }
}

#[test]
pub(crate) fn f018_a_streaming_standby_outlives_its_archive_and_is_not_promoted_without_it() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    let standby = Follower::new(&server, &site, true);
    standby.cluster.start();
    standby.wait_for_rows(1);
    standby.cluster.stop(Stop::Fast);
    let away = Away::new(&site.repo);
    site.cluster.psql("insert into t values (2)");
    site.cluster.switch_wal();
    // It restarts, catches up by streaming, and says loudly what it could not ask.
    standby.cluster.start();
    standby.wait_for_rows(2);
    assert!(standby.cluster.log().contains(GOES_ON), "{}", standby.cluster.log());
    site.cluster.psql("insert into t values (3)");
    standby.wait_for_rows(3);
    standby.assert_refuses_promotion();
    // The file that asked for it was gone before the archive was asked: the server itself told.
    assert!(standby.cluster.log().contains("the standby is being promoted"), "as it says");
    // It is still a standby, and starts as one.
    standby.cluster.start();
    standby.wait_for_rows(3);
    drop(away);
    site.cluster.psql("insert into t values (4)");
    standby.wait_for_rows(4);
    site.cluster.stop(Stop::Fast);
    standby.cluster.promote();
    standby.cluster.wait_for_promotion();
    assert_eq!(standby.cluster.psql("select count(*) from t"), "4");
    assert!(standby.cluster.data_dir().join("pg_wal/00000002.history").exists());
}

#[test]
fn f018_a_standby_of_the_archive_alone_waits_for_it_and_for_what_is_missing() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.cluster.archive_now();
    let standby = Follower::new(&server, &site, false);
    standby.cluster.start();
    let mut segments = Vec::new();
    for n in 2..=4 {
        site.cluster.psql(&format!("insert into t values ({n})"));
        segments.push(site.cluster.archive_now());
    }
    standby.wait_for_rows(4);
    // Away: it stays, and goes on when the archive is back.
    let away = Away::new(&site.repo);
    let said = || standby.cluster.log().matches(GOES_ON).count() > 1;
    wait_until(DEADLINE, said, || standby.cluster.log());
    assert!(standby.cluster.is_running());
    standby.assert_refuses_promotion();
    drop(away);
    standby.cluster.start();
    site.cluster.psql("insert into t values (5)");
    site.cluster.archive_now();
    standby.wait_for_rows(5);
    // A hole: it waits before it, and goes on when it is filled.
    standby.cluster.stop(Stop::Fast);
    site.cluster.psql("insert into t values (6)");
    let missing = site.cluster.archive_now();
    let object = object(&site.repo, &missing);
    let hidden = object.with_extension("hidden");
    fs::rename(&object, &hidden).unwrap();
    site.cluster.psql("insert into t values (7)");
    site.cluster.archive_now();
    let before = standby.cluster.log().len();
    standby.cluster.start();
    let log = || standby.cluster.log()[before..].to_owned();
    wait_until(DEADLINE, || log().contains(&format!("{missing} is missing")), log);
    standby.wait_for_rows(5);
    fs::rename(&hidden, &object).unwrap();
    standby.wait_for_rows(7);
    // The end of the archive is proven: it may be promoted.
    standby.cluster.promote();
    standby.cluster.wait_for_promotion();
    assert_eq!(standby.cluster.psql("select count(*) from t"), "7");
}

/// The object of a segment in a repository's folder.
#[track_caller]
pub(crate) fn object(repo: &TestRepo, name: &str) -> PathBuf {
    find(repo, name).unwrap_or_else(|| panic!("no object {name}"))
}

pub(crate) fn find(repo: &TestRepo, name: &str) -> Option<PathBuf> {
    let mut folders = vec![repo.path().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false if entry.file_name() == name => return Some(entry.path()),
                false => {}
            }
        }
    }
    None
}

/// Segments that a server still has to archive.
pub(crate) fn ready(cluster: &TestCluster) -> Vec<String> {
    let status = cluster.data_dir().join("pg_wal/archive_status");
    let names = fs::read_dir(status).unwrap().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Some(name.strip_suffix(".ready")?.to_owned())).collect()
}

/// A server dies in the middle of records that go over the end of a segment; what it wrote there before
/// and after the crash differs. What is archived leads through all the same.
#[test]
pub(crate) fn f008_records_across_segments_survive_crashes_of_the_server() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int, filler text)");
    site.cluster.psql("alter table t alter filler set storage external");
    site.backup();
    for round in 1..=4 {
        let insert =
            "insert into t select n, repeat(md5(n::text), 20000) from generate_series(1, 6) n";
        site.cluster.psql(insert);
        let mut running = site.cluster.command("psql");
        running.args(["-XAtq", "-d", &site.cluster.conninfo(), "-c"]);
        running.arg(
            "insert into t select -n, repeat(md5(n::text), 20000) from generate_series(1, 900) n",
        );
        let before = site.cluster.psql("select pg_current_wal_insert_lsn()");
        let running = start(&mut running);
        // In the middle of it: some megabytes further, each record longer than half a segment.
        let further =
            format!("pg_current_wal_insert_lsn() - '{before}'::pg_lsn > {}", round * 1_700_000);
        site.cluster.wait_until(&further);
        site.cluster.kill9();
        assert!(!running.wait().is_ok(), "the client lost its server");
        site.cluster.start();
        assert_eq!(site.cluster.psql("select count(*) from t"), (round * 6).to_string());
    }
    site.cluster.archive_now();
    wait_until(DEADLINE, || ready(&site.cluster).is_empty(), || site.cluster.log());
    // All that the archive has is what the server has.
    let pushed = site.cluster.psql(
        "select string_agg(name, ' ') from pg_ls_waldir()
         where name ~ '^[0-9A-F]{24}$' and name <= (select last_archived_wal from pg_stat_archiver)",
    );
    for name in pushed.split(' ').filter(|name| !name.is_empty()) {
        if find(&site.repo, name).is_some() {
            let path = site.cluster.data_dir().join("pg_wal").join(name);
            site.config.run(["archive-push", path.to_str().unwrap()]).assert_ok();
        }
    }
    let sum = "select count(*), sum(hashtext(filler)) from t";
    let expected = site.cluster.psql(sum);
    let scratch = ScratchDir::new("restored");
    let to = scratch.join("data");
    site.restore(&to, &[]);
    let copy = TestCluster::adopt(&server, &to).start();
    copy.wait_for_promotion();
    assert_eq!(copy.psql(sum), expected);
}

/// What no time mends for a restore may be mended for a standby: it asks again in any doubt, until its
/// deadline, and only then goes on without the archive.
#[test]
fn f018_a_standby_in_doubt_is_answered_when_the_archive_is_mended_in_time() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    let name = site.cluster.archive_now();
    let standby = Follower::new(&server, &site, false);
    let patient = |cluster: &TestCluster| {
        let config = TestConfig::new(cluster).repository("local", &site.repo, Cipher::Aes);
        config.archive_get_wait("2m")
    };
    let get = |config: &TestConfig, out: &std::path::Path| {
        let mut command = config.pgkeep(["--log-level", "debug", "archive-get"]);
        start(command.arg(&name).arg(out))
    };
    let key = site.repo.key_file();
    let right = fs::read(&key).unwrap();
    let (_, wrong) = Unlock::generate_key_file(&SeededEntropy::new(5));
    fs::write(&key, wrong.expose()).unwrap();
    // For a primary's own recovery the wrong key stays wrong.
    let scratch = ScratchDir::new("out");
    let refused = get(&patient(&site.cluster), &scratch.join("file")).wait().assert_code(200);
    assert!(!refused.stderr.contains("trying again"), "{refused}");

    let config = patient(&standby.cluster);
    let out = standby.cluster.data_dir().join("pg_wal/RECOVERYXLOG");
    let running = get(&config, &out);
    let tries_again = || running.stderr_so_far().matches("trying again").count() > 1;
    wait_until(DEADLINE, tries_again, || running.stderr_so_far());
    assert!(!out.exists());
    fs::write(&key, right).unwrap();
    let ran = running.wait().assert_ok();
    assert!(!ran.stderr.contains(GOES_ON), "{ran}");
    assert_eq!(fs::read(&out).unwrap().len(), 1 << 20);
}

/// Segments may be stored out of order for a moment: what looks like a hole is asked for again before
/// recovery is stopped.
#[test]
fn a_hole_that_is_filled_in_time_is_none() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let missing = site.cluster.archive_now();
    site.cluster.archive_now();
    let object = object(&site.repo, &missing);
    let hidden = object.with_extension("hidden");
    fs::rename(&object, &hidden).unwrap();
    let scratch = ScratchDir::new("out");
    let out = scratch.join("file");
    let patient = TestConfig::new(&site.cluster)
        .repository("local", &site.repo, Cipher::Aes)
        .archive_get_wait("2m");
    let mut get = patient.pgkeep(["--log-level", "debug", "archive-get"]);
    let running = start(get.arg(&missing).arg(&out));
    let is_waiting = || running.stderr_so_far().contains("trying again");
    wait_until(DEADLINE, is_waiting, || running.stderr_so_far());
    assert!(!out.exists());
    fs::rename(&hidden, &object).unwrap();
    running.wait().assert_ok();
    assert_eq!(fs::read(&out).unwrap().len(), 1 << 20);
    // Asked to end, it ends at once, with the code that PostgreSQL takes for a shutdown.
    fs::rename(&object, &hidden).unwrap();
    let mut get = patient.pgkeep(["--log-level", "debug", "archive-get"]);
    let running = start(get.arg(&missing).arg(&out));
    let is_waiting = || running.stderr_so_far().contains("trying again");
    wait_until(DEADLINE, is_waiting, || running.stderr_so_far());
    running.signal(rustix::process::Signal::TERM);
    running.wait().assert_code(143);
}

/// How a pending promotion is noticed, on every major: the file while archive-get waits, the server's own
/// word when the file is gone.
#[test]
pub(crate) fn f018_on_every_major_a_standby_is_not_promoted_without_its_archive() {
    for server in Server::all() {
        let site = Site::small(&server);
        site.cluster.psql("create table t (n int); insert into t values (1)");
        site.backup();
        let standby = Follower::restored(&server, &site);
        standby.cluster.start();
        standby.wait_for_rows(1);
        let away = Away::new(&site.repo);
        let asks = || standby.cluster.log().contains(GOES_ON);
        wait_until(DEADLINE, asks, || standby.cluster.log());
        standby.assert_refuses_promotion();
        drop(away);
        site.cluster.psql("insert into t values (2)");
        site.cluster.archive_now();
        standby.cluster.start();
        standby.wait_for_rows(2);
        standby.cluster.promote();
        standby.cluster.wait_for_promotion();
        assert_eq!(standby.cluster.psql("select count(*) from t"), "2");
    }
}

/// A standby of the archive alone that waits before a hole, with a row on each side of it.
struct Waiting {
    site: Site,
    standby: Follower,
    object: PathBuf,
}

impl Waiting {
    #[track_caller]
    fn new(server: &Server, settings: &[String]) -> Self {
        let site = Site::small(server);
        site.cluster.psql("create table t (n int); insert into t values (1)");
        site.backup();
        site.cluster.psql("insert into t values (2)");
        let missing = site.cluster.archive_now();
        site.cluster.psql("insert into t values (3)");
        site.cluster.archive_now();
        let standby = Follower::restored(server, &site);
        append(&standby.cluster.data_dir().join("postgresql.auto.conf"), settings);
        let object = object(&site.repo, &missing);
        fs::rename(&object, object.with_extension("hidden")).unwrap();
        standby.cluster.start();
        let waits = || standby.cluster.log().matches(GOES_ON).count() > 1;
        wait_until(DEADLINE, waits, || standby.cluster.log());
        Self { site, standby, object }
    }

    /// Until archive-get has begun to look again. What is asked for between an answer and the server's
    /// next look at it comes too late for anybody to refuse.
    fn wait_until_it_asks(&self) {
        let before = self.archive_gets();
        let has_begun = || self.archive_gets().iter().any(|process| !before.contains(process));
        wait_until(DEADLINE, has_begun, || self.standby.cluster.log());
    }

    /// Its processes, by number.
    fn archive_gets(&self) -> Vec<OsString> {
        let config = self.standby.config.path();
        let is_one = |process: &fs::DirEntry| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("archive-get") && line.contains(&*config.to_string_lossy())
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes.filter(is_one).map(|process| process.file_name()).collect()
    }

    /// Fills the hole, and starts the standby again.
    fn mend(&self) {
        fs::rename(self.object.with_extension("hidden"), &self.object).unwrap();
        self.standby.cluster.start();
    }
}

/// Up to 15 a file of any name may ask for a promotion; only `promote` was looked for, and the standby was
/// promoted before the hole.
#[test]
fn d20261124_a_promotion_by_promote_trigger_file_is_seen() {
    for server in Server::all().into_iter().filter(|server| server.version() <= 15) {
        let scratch = ScratchDir::new("trigger");
        let trigger = scratch.join("file");
        let waiting =
            Waiting::new(&server, &[format!("promote_trigger_file = '{}'", trigger.display())]);
        let standby = &waiting.standby;
        waiting.wait_until_it_asks();
        standby.assert_refuses(|| fs::write(&trigger, "").unwrap());
        // It is still asked for.
        waiting.mend();
        standby.cluster.wait_for_promotion();
        assert_eq!(standby.cluster.psql("select count(*) from t"), "3");
        assert!(waiting.site.cluster.is_running());
    }
}

/// A standby that takes no connections cannot be asked whether it is being promoted.
#[test]
fn f018_a_standby_without_connections_is_not_promoted_before_a_hole() {
    let Some(server) = Server::main() else { return };
    let waiting = Waiting::new(&server, &["hot_standby = 'off'".to_owned()]);
    let cluster = &waiting.standby.cluster;
    let refused = cluster.try_psql("select 1");
    assert!(!refused.is_ok(), "{refused}");
    waiting.wait_until_it_asks();
    waiting.standby.assert_refuses(|| {
        let mut promote = cluster.command(server.program("pg_ctl"));
        promote.arg("-D").arg(cluster.data_dir()).args(["promote", "-W"]);
        run(&mut promote).assert_ok();
    });
    waiting.mend();
    cluster.promote();
    cluster.wait_for_promotion();
    assert_eq!(cluster.psql("select count(*) from t"), "3");
    assert!(waiting.site.cluster.is_running());
}

/// A standby that archives too pushes what its primary pushes, and at its promotion the old timeline's
/// last segment as far as it has it, under its full name.
#[test]
pub(crate) fn a_standby_that_always_archives_repeats_its_primary_and_leaves_room_for_it() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    let standby = Follower::new(&server, &site, true);
    let auto_conf = standby.cluster.data_dir().join("postgresql.auto.conf");
    append(&auto_conf, &["archive_mode = 'always'".to_owned()]);
    standby.cluster.start();
    let mut last = String::new();
    for n in 2..=4 {
        site.cluster.psql(&format!("insert into t values ({n})"));
        last = site.cluster.archive_now();
    }
    let archived =
        |name: &str| format!("(select last_archived_wal from pg_stat_archiver) >= '{name}'");
    standby.cluster.wait_until(&archived(&last));
    assert_eq!(standby.cluster.psql("select failed_count from pg_stat_archiver"), "0");
    site.cluster.psql("insert into t values (5)");
    standby.wait_for_rows(5);
    let current = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    standby.cluster.promote();
    standby.cluster.wait_for_promotion();
    standby.cluster.psql("insert into t values (6)");
    standby.cluster.archive_now();
    wait_until(DEADLINE, || ready(&standby.cluster).is_empty(), || standby.cluster.log());
    assert!(find(&site.repo, &current).is_none(), "what the standby had of it is no segment");
    // The primary, which nobody told, completes it: accepted.
    site.cluster.psql("insert into t values (7)");
    assert_eq!(site.cluster.archive_now(), current);
    assert!(find(&site.repo, &current).is_some());
}
