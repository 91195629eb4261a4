//! Failovers, rolled-back disks and copies beside their source: several servers that could all be the
//! cluster, and the archive that only one of them may write.

use std::fs;
use std::io::Write as _;

use crate::standby_live::{Follower, PROMOTED, append, object, ready};
use crate::support::run::{DEADLINE, run, start, wait_until};
use crate::support::site::{Site, json as parsed};
use crate::support::{
    Cipher, ScratchDir, Server, Stop, TestCluster, TestConfig, TestRepo, account,
};

/// The old primary still has segments to archive when it dies; a standby takes over; a second one does
/// so too, by mistake; the old primary comes back for a while.
#[test]
pub(crate) fn f009_a_failover_in_the_middle_of_archiving_loses_nothing_and_mixes_nothing() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let held = site.cluster.scratch().join("held");
    let command = format!("test ! -e {} && {}", held.display(), site.config.archive_command());
    site.cluster.set_archive_command(&command);
    site.cluster.psql("create table t (n int, who text); insert into t values (1, 'old')");
    site.backup();
    let standby = Follower::new(&server, &site, true);
    standby.cluster.start();
    // A copy that will be promoted by mistake, and sees neither archive nor primary.
    let stray = Follower::new(&server, &site, false);
    append(
        &stray.cluster.data_dir().join("postgresql.auto.conf"),
        &["restore_command = ''".to_owned()],
    );

    // The archive lags behind.
    site.cluster.archive_now();
    fs::write(&held, "").unwrap();
    let mut unarchived = Vec::new();
    for n in 2..=4 {
        site.cluster.psql(&format!("insert into t values ({n}, 'old')"));
        unarchived.push(site.cluster.switch_wal());
    }
    site.cluster.psql("insert into t values (5, 'old')");
    standby.wait_for_rows(5);
    site.cluster.kill9();
    standby.cluster.promote();
    standby.cluster.wait_for_promotion();
    standby.cluster.psql("insert into t values (6, 'new')");
    let first = standby.cluster.archive_now();
    assert!(first.starts_with("00000002"), "{first}");
    wait_until(DEADLINE, || ready(&standby.cluster).is_empty(), || standby.cluster.log());

    // What the dead primary had not archived is a hole, known and named; recovery stops before it.
    let info = site.config.run(["info"]).assert_ok();
    assert!(info.stdout.contains(&unarchived[0]), "the hole is named\n{info}");
    let out = ScratchDir::new("out");
    let out = out.join("file");
    for name in &unarchived {
        let get = ["archive-get", name, out.to_str().unwrap()];
        site.config.run(get).assert_code(200).assert_says(name);
    }

    // The stray one takes timeline 2 too: its history and its segments are refused, also at free names.
    stray.cluster.start();
    stray.cluster.promote();
    stray.cluster.wait_for_promotion();
    for _ in 0..6 {
        stray.cluster.psql("insert into t values (100, 'stray')");
        stray.cluster.switch_wal();
    }
    let is_told = || stray.cluster.log().contains("00000002 exists with other content");
    wait_until(DEADLINE, is_told, || stray.cluster.log());
    let theirs = ready(&stray.cluster);
    let segments = theirs.iter().filter(|name| name.len() == 24 && name.starts_with("00000002"));
    let segments: Vec<&String> = segments.collect();
    assert!(segments.len() > 3, "{theirs:?}");
    for name in segments {
        let path = stray.cluster.data_dir().join("pg_wal").join(name);
        let push = ["archive-push", path.to_str().unwrap()];
        let refused = stray.config.run(push).assert_code(1);
        assert!(refused.stderr.contains("exists with other content"), "{refused}");
    }
    stray.cluster.stop(Stop::Fast);

    // The old primary is back: what it has of timeline 1 is accepted, all of it, and fills the hole.
    fs::remove_file(&held).unwrap();
    site.cluster.start();
    site.cluster.psql("insert into t values (7, 'old, and too late')");
    let late = site.cluster.archive_now();
    assert!(late.starts_with("00000001"), "{late}");
    wait_until(DEADLINE, || ready(&site.cluster).is_empty(), || site.cluster.log());
    for name in &unarchived {
        object(&site.repo, name);
    }
    standby.cluster.psql("insert into t values (8, 'new')");
    standby.cluster.archive_now();
    let info = site.config.run(["info"]).assert_ok();
    assert!(!info.stdout.contains(&unarchived[0]), "the hole is closed\n{info}");

    // Each history can be restored, and they do not mix.
    let scratch = ScratchDir::new("restored");
    for (arguments, rows) in [
        (&[][..], "1 old|2 old|3 old|4 old|5 old|6 new|8 new"),
        (&["--target-timeline", "1"], "1 old|2 old|3 old|4 old|5 old|7 old, and too late"),
    ] {
        let to = scratch.join(&format!("data{}", arguments.len()));
        site.restore(&to, arguments);
        let copy = TestCluster::adopt(&server, &to).start();
        copy.wait_for_promotion();
        let list = "select string_agg(n || ' ' || who, '|' order by n) from t";
        assert_eq!(copy.psql(list), rows, "{arguments:?}");
    }
}

/// A primary whose archive lags is stopped, and its streaming standby takes over: rows 1 to 5 on the old
/// timeline, of which the segments that are named last are not archived, and 6 on the new one.
pub(crate) fn lagging_failover(server: &Server) -> (Site, Follower, Vec<String>) {
    let site = Site::small(server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.backup();
    let standby = Follower::new(server, &site, true);
    standby.cluster.start();
    site.cluster.archive_now();
    site.cluster.set_archive_command("false");
    let mut unarchived = Vec::new();
    for n in 2..=4 {
        site.cluster.psql(&format!("insert into t values ({n})"));
        unarchived.push(site.cluster.switch_wal());
    }
    site.cluster.psql("insert into t values (5)");
    standby.wait_for_rows(5);
    site.cluster.stop(Stop::Fast);
    standby.cluster.promote();
    standby.cluster.wait_for_promotion();
    standby.cluster.psql("insert into t values (6)");
    standby.cluster.archive_now();
    wait_until(DEADLINE, || ready(&standby.cluster).is_empty(), || standby.cluster.log());
    (site, standby, unarchived)
}

/// The old primary is gone for good. Its last full segments are in the promoted standby's `pg_wal`, which
/// does not archive what it received: an operator pushes them from there.
#[test]
pub(crate) fn f009_the_new_primary_s_copies_fill_the_hole_of_a_primary_that_never_returns() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).wal_segment_mib(1);
    let site = Site::start(launch.setting("wal_keep_size", "100MB"));
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.backup();
    let standby = Follower::new(&server, &site, true);
    standby.cluster.start();
    site.cluster.archive_now();
    site.cluster.set_archive_command("false");
    let mut unarchived = Vec::new();
    for n in 2..=4 {
        site.cluster.psql(&format!("insert into t values ({n})"));
        unarchived.push(site.cluster.switch_wal());
    }
    site.cluster.psql("insert into t values (5)");
    standby.wait_for_rows(5);
    site.cluster.kill9();
    standby.cluster.promote();
    standby.cluster.wait_for_promotion();
    standby.cluster.psql("insert into t values (6)");
    standby.cluster.archive_now();
    wait_until(DEADLINE, || ready(&standby.cluster).is_empty(), || standby.cluster.log());
    let shows_hole = || {
        let info = standby.config.run(["info"]).assert_ok();
        info.stdout.contains(&unarchived[0])
    };
    assert!(shows_hole());
    let pg_wal = standby.cluster.data_dir().join("pg_wal");
    for name in &unarchived {
        assert!(pg_wal.join(format!("archive_status/{name}.done")).exists(), "{name}");
        let path = pg_wal.join(name);
        standby.config.run(["archive-push", path.to_str().unwrap()]).assert_ok();
    }
    assert!(!shows_hole());
    let scratch = ScratchDir::new("restored");
    let to = scratch.join("data");
    site.restore(&to, &[]);
    let copy = TestCluster::adopt(&server, &to).start();
    copy.wait_for_promotion();
    assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), "1,2,3,4,5,6");
}

/// The newest timeline belongs to another server: a restore into the old one's own directory is a copy.
#[test]
fn f025_after_a_failover_the_old_directory_is_a_copy_until_it_is_adopted() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.backup();
    let own = site.cluster.data_dir().to_path_buf();
    let plan = || {
        let json = site.config.run(["restore", "--dry-run", "--json"]).assert_ok().stdout;
        parsed(&json)["plan"]["archives"].as_bool().unwrap()
    };
    let empty = || {
        site.cluster.stop(Stop::Fast);
        fs::remove_dir_all(&own).unwrap();
        fs::create_dir(&own).unwrap();
        account::unprivileged().own(&own);
        fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    };
    site.cluster.archive_now();
    let standby = Follower::new(&server, &site, true);
    empty();
    let has_identity = fs::read_to_string("/etc/machine-id").is_ok_and(|id| !id.trim().is_empty());
    assert_eq!(plan(), has_identity, "its own directory, its own host, and nobody else's timeline");
    standby.cluster.start();
    standby.cluster.promote();
    standby.cluster.wait_for_promotion();
    standby.cluster.psql("insert into t values (2)");
    standby.cluster.archive_now();
    assert!(!plan(), "another server writes the newest timeline");

    site.config.run(["restore", "--yes", "--target-action", "promote"]).assert_ok();
    site.cluster.start();
    site.cluster.wait_for_promotion();
    assert_eq!(site.cluster.psql("select count(*) from t"), "2");
    assert_eq!(site.cluster.psql("show archive_mode"), "off");
    let name = site.cluster.switch_wal();
    let path = own.join("pg_wal").join(&name);
    let push = || site.config.run(["archive-push", path.to_str().unwrap()]);
    push().assert_code(1).assert_says("pgkeep adopt");
    // The other one goes; the copy takes its place.
    standby.cluster.stop(Stop::Fast);
    let dry = site.config.run(["adopt", "--dry-run"]).assert_ok();
    assert!(dry.stdout.contains("timeline 2 is written by another server"), "{dry}");
    assert!(dry.stdout.contains("archive_mode = 'off'"), "{dry}");
    push().assert_code(1);
    site.config.run(["adopt", "--yes"]).assert_ok();
    site.config.run(["adopt", "--yes"]).assert_code(1).assert_says("no restored copy");
    site.cluster.restart();
    assert_eq!(site.cluster.psql("show archive_mode"), "on");
    site.cluster.psql("insert into t values (3)");
    let archived = site.cluster.archive_now();
    assert!(archived.starts_with("00000003"), "{archived}");
    site.backup();
    assert!(object(&site.repo, &archived).exists());
}

/// A disk is rolled back: the names of its next segments are taken by a future that is lost. Nothing is
/// overwritten; a new epoch is the way out, and the lost future stays restorable.
#[test]
pub(crate) fn f001_a_rolled_back_disk_gets_a_new_epoch() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.backup();
    let own = site.cluster.data_dir().to_path_buf();
    site.cluster.stop(Stop::Fast);
    let snapshot = own.with_extension("snapshot");
    run(site.cluster.command("cp").arg("-a").args([&own, &snapshot])).assert_ok();
    site.cluster.start();
    site.cluster.psql("insert into t values (2)");
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);
    fs::remove_dir_all(&own).unwrap();
    fs::rename(&snapshot, &own).unwrap();
    site.cluster.start();
    for n in 3..=6 {
        site.cluster.psql(&format!("insert into t values ({n})"));
        site.cluster.switch_wal();
    }
    let refused = || site.cluster.log().contains("pgkeep init --new-epoch");
    wait_until(DEADLINE, refused, || site.cluster.log());
    let store = site.repo.path();
    let before = run(site
        .cluster
        .command("find")
        .arg(store)
        .args(["-type", "f", "-newer"])
        .arg(own.join("postmaster.pid")));
    assert!(!before.stdout.contains("/wal/"), "nothing was stored since\n{before}");

    let begun = site.config.run(["init", "--new-epoch"]).assert_ok();
    assert!(begun.stdout.contains("epoch 2 begins"), "{begun}");
    // Until something is stored, a repetition begins no other.
    site.cluster.archive_now();
    site.backup();
    let again = site.config.run(["init"]).assert_ok();
    assert!(again.stdout.contains("epoch 2"), "{again}");
    site.cluster.psql("insert into t values (7)");
    site.cluster.archive_now();
    let scratch = ScratchDir::new("restored");
    for (arguments, rows) in [(&[][..], "1 3 4 5 6 7"), (&["--epoch", "1"], "1 2")] {
        let to = scratch.join(&format!("data{}", arguments.len()));
        site.restore(&to, arguments);
        let copy = TestCluster::adopt(&server, &to).start();
        copy.wait_for_promotion();
        assert_eq!(copy.psql("select string_agg(n::text, ' ' order by n) from t"), rows);
    }
    let missing = ["restore", "--dry-run", "--epoch", "3", "--to", "/nowhere/at/all"];
    site.config.run(missing).assert_code(10).assert_says("no epoch 3");
}

/// A tablespace was made where a dropped one had been. A standby that was started again replays the first
/// one's record a second time, found its place taken by the second, and was refused the segment for ever.
#[test]
fn d20261124_a_restarted_standby_may_make_a_tablespace_again() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.backup();
    let place = site.cluster.scratch().create_dir("later");
    let make = |name: &str| format!("create tablespace {name} location '{}'", place.display());
    site.cluster.psql(&make("one"));
    site.cluster.psql("drop tablespace one");
    site.cluster.psql(&make("two"));
    site.cluster.psql("create table u (n int) tablespace two; insert into u values (2)");
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);
    // As on another host: the place is there and empty.
    fs::rename(&place, place.with_extension("aside")).unwrap();
    site.cluster.scratch().create_dir("later");
    let scratch = ScratchDir::new("restored");
    let to = scratch.join("data");
    site.restore(&to, &["--standby"]);
    let standby = TestCluster::adopt(&server, &to).start();
    standby.wait_until("(select count(*) from u) = 1");
    standby.stop(Stop::Immediate);
    let before = standby.log().len();
    standby.start();
    standby.wait_until("(select count(*) from u) = 1");
    let log = standby.log()[before..].to_owned();
    assert!(log.contains("restored log file"), "it replays from the backup on\n{log}");
    assert!(!log.contains("recovery would write into it"), "{log}");
    standby.promote();
    standby.wait_for_promotion();
    assert_eq!(standby.psql("select n from u"), "2");
}

/// A tablespace was made after the backup. Replaying its record made the copy lead its link to the live
/// cluster's own directory, and write there, whatever was mapped.
#[test]
fn d20261120_a_copy_does_not_take_over_a_tablespace_that_was_made_after_its_backup() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.backup();
    let place = site.cluster.scratch().create_dir("later");
    site.cluster.psql(&format!("create tablespace later location '{}'", place.display()));
    site.cluster.psql("create table u (n int) tablespace later; insert into u values (2)");
    site.cluster.archive_now();
    let scratch = ScratchDir::new("restored");
    let to = scratch.join("data");
    // The plan refuses what it sees; what comes there later, recovery meets.
    let aside = place.with_extension("aside");
    fs::rename(&place, &aside).unwrap();
    site.restore(&to, &[]);
    fs::rename(&aside, &place).unwrap();
    let copy = TestCluster::adopt(&server, &to).prepare();
    drop(copy.try_start());
    let is_decided = || !copy.is_running() || copy.log().contains(PROMOTED);
    wait_until(DEADLINE, is_decided, || copy.log());
    let log = copy.log();
    assert!(log.contains("is not empty: recovery would write into it"), "{log}");
    assert!(!copy.is_running() && !log.contains(PROMOTED), "{log}");
    assert_eq!(fs::read_dir(to.join("pg_tblspc")).unwrap().count(), 0, "no link leads there");
    assert_eq!(site.cluster.psql("select n from u"), "2", "the live cluster is as it was");
    // On another host, or once the directory is nobody's, recovery goes on and makes its own.
    site.cluster.stop(Stop::Fast);
    fs::rename(&place, &aside).unwrap();
    site.cluster.scratch().create_dir("later");
    copy.start();
    copy.wait_for_promotion();
    assert_eq!(copy.psql("select n from u"), "2");
    copy.restart();
    assert_eq!(copy.psql("select n from u"), "2");
}

/// In containers without a machine-id the host is known by its name alone, and the first pod of every
/// StatefulSet of that name has it, with the same path: a copy in another namespace archived into its
/// source's archive, streamed and ran its jobs.
#[test]
fn d20261124_a_host_without_an_identity_restores_copies() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let hide = "mount --bind /dev/null /etc/machine-id && exec \"$@\"";
    let nameless = |program: &str| {
        let mut command = site.cluster.command("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", hide, "sh", program]);
        command
    };
    if !run(&mut nameless("true")).is_ok() {
        #[allow(clippy::explicit_write, reason = "eprintln is captured in a test that passes")]
        writeln!(std::io::stderr(), "SKIPPED: /etc/machine-id cannot be hidden here").unwrap();
        return;
    }
    let pgkeep = |arguments: &[&str]| {
        let mut command = nameless(site.cluster.scratch().pgkeep_binary().to_str().unwrap());
        run(command.arg("--config").arg(site.config.path()).args(arguments))
    };
    site.cluster.set_archive_command(&format!(
        "unshare --user --map-root-user --mount sh -c '{hide}' sh {}",
        site.config.archive_command()
    ));
    drop(pgkeep(&["backup"]).assert_ok());
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);
    fs::remove_dir_all(site.cluster.data_dir()).unwrap();
    let args = ["restore", "--dry-run", "--json"];
    let plan = pgkeep(&args).assert_ok().assert_says("/etc/machine-id is empty or missing");
    assert_eq!(parsed(&plan.stdout)["plan"]["archives"], false, "{plan}");
    let asked = pgkeep(&[&args[..], &["--archive", "on"]].concat()).assert_ok();
    assert_eq!(parsed(&asked.stdout)["plan"]["archives"], true, "{asked}");
}

/// The backup came from a standby that a restore had made, with that restore's isolation in its
/// `postgresql.auto.conf`: a restore with archiving on said so while the server showed `archive_mode = off`,
/// and `adopt` took away the last of two lines each.
#[test]
fn d20261124_isolation_that_a_backup_brings_along_goes() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.backup();
    site.cluster.psql("insert into t values (2)");
    site.cluster.archive_now();
    let scratch = ScratchDir::new("restored");
    let of_standby = scratch.join("standby");
    site.restore(&of_standby, &["--standby"]);
    let standby = TestCluster::adopt(&server, &of_standby).start();
    standby.wait_until("(select count(*) from t) = 2");
    let config = TestConfig::new(&standby).repository("local", &site.repo, Cipher::Aes);
    let running = start(&mut config.pgkeep(["backup", "--json"]));
    let taken = std::thread::scope(|scope| {
        let waiting = scope.spawn(move || running.wait());
        while !waiting.is_finished() {
            site.cluster.archive_now();
        }
        parsed(&waiting.join().unwrap().assert_ok().stdout)
    });
    standby.stop(Stop::Fast);
    let id = taken["id"].as_str().unwrap();
    let on = scratch.join("on");
    site.restore(&on, &["--backup", id, "--archive", "on"]).assert_says("archiving     on");
    let settings = fs::read_to_string(on.join("postgresql.auto.conf")).unwrap();
    assert!(!settings.contains("cron.max_running_jobs"), "{settings}");
    let started = TestCluster::adopt(&server, &on).start();
    started.wait_for_promotion();
    assert_eq!(started.psql("show archive_mode"), "on");
    assert_eq!(started.psql("select count(*) from t"), "2");
    started.stop(Stop::Fast);

    let copy = scratch.join("copy");
    site.restore(&copy, &["--backup", id, "--archive", "off"]);
    let started = TestCluster::adopt(&server, &copy).start();
    started.wait_for_promotion();
    assert_eq!(started.psql("show archive_mode"), "off");
    // Writes the file anew, without comments.
    started.psql("alter system set work_mem = '5MB'");
    started.stop(Stop::Fast);
    let mut adopt = site.config.pgkeep(["adopt", "--yes"]);
    drop(run(adopt.arg(&copy)).assert_ok());
    started.start();
    assert_eq!(started.psql("show archive_mode"), "on");
    assert_eq!(started.psql("show max_logical_replication_workers"), "4");
    assert_eq!(started.psql("show work_mem"), "5MB");
}

/// The source's `external_pid_file` was overwritten by the copy that started beside it, and removed when
/// that one stopped.
#[test]
fn d20261124_a_copy_leaves_its_source_s_pid_file_alone() {
    let Some(server) = Server::main() else { return };
    let scratch = ScratchDir::new("restored");
    let (pid_file, logs) = (scratch.join("main.pid"), scratch.create_dir("logs"));
    let launch = TestCluster::create(&server).wal_segment_mib(1);
    let launch = launch.setting("external_pid_file", pid_file.to_str().unwrap());
    let site = Site::start(launch.setting("log_directory", logs.to_str().unwrap()));
    site.backup();
    site.cluster.archive_now();
    let before = fs::read_to_string(&pid_file).unwrap();
    let to = scratch.join("data");
    site.restore(&to, &[]).assert_says("log_directory is /");
    let copy = TestCluster::adopt(&server, &to).start();
    copy.wait_for_promotion();
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), before);
    copy.stop(Stop::Fast);
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), before);
}

/// One of two repositories was lost with the old host: no copy could be adopted, whatever `--repository`
/// said.
#[test]
fn d20261124_a_copy_is_adopted_while_one_repository_answers() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let (repo, second) = (TestRepo::new(), TestRepo::new());
    let config = TestConfig::new(&cluster).repository("local", &repo, Cipher::Aes);
    let config = config.repository("second", &second, Cipher::None);
    config.run(["init"]).assert_ok();
    cluster.set_archive_command(&config.archive_command());
    config.run(["--repository", "local", "backup"]).assert_ok();
    cluster.archive_now();
    let scratch = ScratchDir::new("restored");
    let to = scratch.join("data");
    let mut restore = config.pgkeep(["--repository", "local", "restore", "--yes", "--to"]);
    drop(run(restore.arg(&to)).assert_ok());
    fs::rename(second.path(), second.path().with_extension("lost")).unwrap();
    let adopt = |arguments: &[&str]| {
        let mut command = config.pgkeep([]);
        run(command.args(arguments).args(["adopt", "--yes"]).arg(&to))
    };
    drop(adopt(&["--repository", "second"]).assert_code(10));
    fs::rename(repo.path(), repo.path().with_extension("away")).unwrap();
    drop(adopt(&[]).assert_code(10));
    fs::rename(repo.path().with_extension("away"), repo.path()).unwrap();
    let adopted = adopt(&[]).assert_ok();
    assert!(adopted.stdout.contains("repository second was not asked: there is no"), "{adopted}");
    adopt(&["--repository", "local"]).assert_code(1).assert_says("no restored copy");
}
