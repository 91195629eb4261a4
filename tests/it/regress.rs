//! Bugs that were found once, each with its story: by the date of the finding and the symptom.

use std::path::Path;
use std::sync::Arc;

use pgkeep::archive::{self, GetOptions};
use pgkeep::backup;
use pgkeep::pgconn::ConnectOptions;
use pgkeep::repo;

use crate::support::library::{self, LibraryCluster};
use crate::support::run::run;
use crate::support::servers::Server;
use crate::support::{ScratchDir, Stop, TestCluster, account};

/// A disk was rolled back; the repository held the next segments' names from the lost future. The
/// backup's wait for WAL looked at names only: it was committed, and a restore would have replayed
/// another history's WAL over its files.
#[test]
fn d20261120_a_backup_is_not_committed_on_another_history_s_wal() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    let healthy = live.open(Arc::new(live.store.clone())).unwrap();
    live.cluster.psql("create table t as select generate_series(1, 1000) as n");
    live.cluster.stop(Stop::Fast);
    let scratch = ScratchDir::new("rolled-back");
    let copy = scratch.join("data");
    let mut copying = std::process::Command::new("cp");
    copying.arg("-a").arg(live.cluster.data_dir()).arg(&copy);
    assert!(copying.status().unwrap().success());
    live.cluster.start();
    for n in 0..6 {
        live.cluster.psql(&format!("insert into t values ({n})"));
        live.cluster.archive_now();
    }
    live.cluster.stop(Stop::Fast);
    account::unprivileged().own(&copy);
    let rolled_back =
        TestCluster::adopt(&server, &copy).setting("archive_command", "false").start();
    let refused = live
        .backup(&healthy, |options| {
            options.data_directory = copy.clone();
            options.connection = ConnectOptions::new(rolled_back.conninfo(), "pgkeep");
        })
        .unwrap_err();
    assert!(matches!(refused, backup::Error::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("forked"), "{refused}");
    let backups = healthy.backups(&live.ctx, &live.place).unwrap();
    assert!(backups.complete.is_empty(), "nothing became visible");

    // Of a standby's own WAL nothing was compared: it may still be receiving its last segment.
    let data = scratch.create_dir("standby");
    let mut copying = rolled_back.command("pg_basebackup");
    copying.args(["-R", "-c", "fast", "-X", "stream", "-d", &rolled_back.conninfo(), "-D"]);
    run(copying.arg(&data)).assert_ok();
    let standby = TestCluster::adopt(&server, &data).start();
    let refused = live
        .backup(&healthy, |options| {
            options.data_directory = data.clone();
            options.connection = ConnectOptions::new(standby.conninfo(), "pgkeep");
        })
        .unwrap_err();
    assert!(refused.to_string().contains("forked"), "{refused}");
    let backups = healthy.backups(&live.ctx, &live.place).unwrap();
    assert!(backups.complete.is_empty(), "nothing became visible");
}

/// A tablespace's file system was not mounted; its empty mount point was there, so the link led
/// somewhere. The backup was complete, without the tablespace's tables.
#[test]
fn d20261120_an_empty_tablespace_mount_is_not_a_tablespace() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    let healthy = live.open(Arc::new(live.store.clone())).unwrap();
    let scratch = ScratchDir::new("mount");
    let location = scratch.create_dir("ts");
    live.cluster.psql(&format!("create tablespace far location '{}'", location.display()));
    live.cluster.psql("create table t tablespace far as select generate_series(1, 10) as n");
    live.backup(&healthy, |_| {}).unwrap();
    std::fs::rename(&location, scratch.join("unmounted")).unwrap();
    std::fs::create_dir(&location).unwrap();
    let refused = live.backup(&healthy, |_| {}).unwrap_err();
    assert!(refused.to_string().contains("not mounted"), "{refused}");
    std::fs::remove_dir(&location).unwrap();
    std::fs::rename(scratch.join("unmounted"), &location).unwrap();
    live.backup(&healthy, |_| {}).unwrap();
}

/// The end of a segment's valid records was noted when it was archived and never looked at again: a
/// damaged one in mid-run was handed to recovery, which takes the damage for the end of the WAL and
/// promotes without what follows.
#[test]
fn d20261120_a_segment_that_ends_early_is_not_given_when_wal_goes_on() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    let healthy = live.open(Arc::new(live.store.clone())).unwrap();
    live.cluster.set_archive_command("false");
    let options = library::push_options(live.cluster.data_dir());
    let to = [live.destination(healthy)];
    let scratch = ScratchDir::new("damaged");
    let damaged = {
        live.cluster.psql("create table t as select generate_series(1, 5000) as n");
        let name = live.cluster.switch_wal();
        let path = live.cluster.data_dir().join("pg_wal").join(&name);
        let mut content = std::fs::read(path).unwrap();
        // The middle of what was written: zeros from there on, as after a lost write.
        let end = content.iter().rposition(|byte| *byte != 0).unwrap();
        content[end / 2..].fill(0);
        let path = scratch.write(&name, &content);
        let pushed = archive::push(&live.ctx, &to, &options, &path).unwrap();
        assert!(pushed.warnings[0].contains("before the end of the segment"), "{pushed:?}");
        name
    };
    let get = |name: &str| {
        archive::get(&live.ctx, &to, &GetOptions::default(), name, &scratch.join("fetched"))
    };
    get(&damaged).unwrap();
    std::fs::remove_file(scratch.join("fetched")).unwrap();
    live.cluster.psql("insert into t values (1)");
    let later = live.cluster.switch_wal();
    let path = live.cluster.data_dir().join("pg_wal").join(&later);
    archive::push(&live.ctx, &to, &options, &path).unwrap();
    let refused = get(&damaged).unwrap_err();
    assert!(matches!(refused, archive::Error::Hole { .. }), "{refused}");
    assert!(!scratch.join("fetched").exists());
    get(&later).unwrap();
}

/// A file of WAL of another cluster was refused for segments only: a foreign history file was stored,
/// and a restore to "latest" followed its timeline.
#[test]
fn d20261120_a_foreign_history_file_is_refused() {
    let Some(server) = Server::main() else { return };
    let (live, other) = (LibraryCluster::start(&server), LibraryCluster::start(&server));
    let to = [live.destination(live.open(Arc::new(live.store.clone())).unwrap())];
    let scratch = ScratchDir::new("foreign");
    let history = scratch.write("00000007.history", "1\t0/5000000\tno recovery target specified\n");
    let options = library::push_options(other.cluster.data_dir());
    let refused = archive::push(&live.ctx, &to, &options, &history).unwrap_err();
    assert!(refused.to_string().contains("belongs to system"), "{refused}");
    let missing = to[0].repository.get_wal(repo::Kind::History, &live.place.history(7));
    assert!(missing.unwrap_err().is_not_found());
}

/// The server overwrites its control file in place. A reading that came in the middle was the last one, and
/// the system counted as unknown.
#[test]
fn d20261124_a_torn_control_file_is_read_again() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pg15/pg_control");
    let whole = std::fs::read(fixture).unwrap();
    let scratch = ScratchDir::new("torn");
    let global = scratch.create_dir("global");
    let mut torn = whole.clone();
    torn[16] ^= 1;
    std::fs::write(global.join("pg_control"), &torn).unwrap();
    let control = std::thread::scope(|scope| {
        scope.spawn(|| {
            // As the server does: over what is there.
            std::thread::sleep(std::time::Duration::from_millis(30));
            std::fs::write(global.join("pg_control"), &whole).unwrap();
        });
        archive::read_control_file(scratch.path()).unwrap()
    });
    assert_ne!(control.system_identifier, 0);
    std::fs::write(global.join("pg_control"), &torn).unwrap();
    archive::read_control_file(scratch.path()).unwrap_err();
}
