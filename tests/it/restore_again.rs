//! The same command once more, and commands that come near to it: what an interrupted restore was begun
//! with holds to its end, and what is moved aside stays out of the new cluster's way.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use pgkeep::restore::Archiving;
use rustix::process::Signal;

use crate::restore_crash::{Record, differences, killed_after, scene};
use crate::restore_live::{Site, files};
use crate::support::run::{DEADLINE, run, start, wait_until};
use crate::support::{Cipher, ScratchDir, Server, Stop, TestCluster, TestConfig};

const MARK: &str = "pgkeep_restore_in_progress.json";

/// Begins a restore and kills it when some files are there.
fn interrupted(site: &Site, name: &str, args: &[&str]) {
    let mut command = site.config.pgkeep(["restore", "--yes", "--jobs", "1", "--to"]);
    let running = start(command.arg(site.to(name)).args(args));
    wait_until(DEADLINE, || files(&site.to(name)).len() > 50, || running.stderr_so_far());
    running.signal(Signal::KILL);
    drop(running.wait());
    assert!(site.to(name).join(MARK).exists() && !site.to(name).join("global/pg_control").exists());
}

/// "current" means the timeline of the newest backup. The restore chose an older backup, of the timeline
/// before; once interrupted, it went on with that backup by name, and so along that backup's timeline: to
/// a moment that the abandoned timeline reaches as well, with other rows.
#[test]
fn d20261120_an_interrupted_restore_goes_on_along_its_timeline() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    site.config.run(["backup"]).assert_ok();
    site.cluster.psql("insert into t values (1)");
    let fork = site.cluster.psql("select clock_timestamp()");
    site.cluster.psql("select pg_sleep(0.01)");
    site.cluster.archive_now();
    let args = ["--archive", "on", "--target-action", "promote", "--target-time", &fork];
    let (second, before) = site.restored("second", &args);
    assert_eq!(before, "1");
    second.psql("insert into t values (20)");
    // The old server still runs, and its clients have not moved yet.
    site.cluster.psql("insert into t values (2)");
    let between = second.psql("select clock_timestamp()");
    second.psql("select pg_sleep(0.01)");
    second.psql("insert into t values (21)");
    site.cluster.psql("insert into t values (3)");
    assert!(second.archive_now().starts_with("00000002"));
    site.cluster.archive_now();
    let theirs = TestConfig::new(&second).repository("local", &site.repo, Cipher::Aes);
    theirs.run(["backup"]).assert_ok();
    second.archive_now();

    let args = ["--target-timeline", "current", "--target-time", &between];
    let args = [&args[..], &["--target-action", "promote", "--archive", "off"]].concat();
    interrupted(&site, "copy", &args);
    // Nor does a timeline that has begun since make it another one.
    let third = ["--archive", "on", "--target-timeline", "1", "--target-action", "promote"];
    let (third, rows) = site.restored("third", &third);
    assert_eq!(rows, "1,2,3");
    assert!(third.archive_now().starts_with("00000003"));
    let plan = site.restore("copy", &[&args[..], &["--dry-run"]].concat()).assert_ok();
    assert!(plan.stdout.contains("an interrupted restore"), "{plan}");
    let (copy, rows) = site.restored("copy", &args);
    assert_eq!(rows, "1,20");
    for cluster in [copy, third, second] {
        cluster.stop(Stop::Immediate);
    }
}

/// A standby that was to stay on a timeline followed the newest one all the same, to other rows than the
/// plan had shown.
#[test]
fn d20261120_a_standby_stays_on_the_timeline_that_was_asked_for() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    site.config.run(["backup"]).assert_ok();
    site.cluster.psql("insert into t values (1)");
    let fork = site.cluster.psql("select clock_timestamp()");
    site.cluster.psql("select pg_sleep(0.01)");
    site.cluster.psql("insert into t values (2)");
    site.cluster.archive_now();
    let args = ["--archive", "on", "--target-action", "promote", "--target-time", &fork];
    let (second, _) = site.restored("second", &args);
    second.psql("insert into t values (20)");
    assert!(second.archive_now().starts_with("00000002"));
    second.stop(Stop::Fast);
    for (name, timeline, expected) in
        [("latest", "latest", "1,20"), ("first", "1", "1,2"), ("current", "current", "1,2")]
    {
        site.restore(name, &["--standby", "--target-timeline", timeline]).assert_ok();
        let standby = TestCluster::adopt(&server, &site.to(name)).start();
        let rows = "(select string_agg(n::text, ',' order by n) from t)";
        standby.wait_until(&format!("{rows} = '{expected}'"));
        standby.promote();
        standby.wait_for_promotion();
        assert_eq!(standby.psql(&format!("select {rows}")), expected, "{timeline}");
        standby.stop(Stop::Immediate);
    }
}

/// Only `pg_hba.conf` lay outside: it was written to the new directory, and the server still looked for it
/// in the old place.
#[test]
fn d20261120_an_authentication_file_alone_outside_is_named_to_the_server() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    let etc = ScratchDir::new("etc");
    let hba = fs::read_to_string(site.cluster.data_dir().join("pg_hba.conf")).unwrap();
    let hba = etc.write("pg_hba.conf", hba);
    site.cluster.psql(&format!("alter system set hba_file = '{}'", hba.display()));
    site.cluster.stop(Stop::Fast);
    let cluster = TestCluster::adopt(&server, site.cluster.data_dir()).archiving().start();
    let config = TestConfig::new(&cluster).repository("local", &site.repo, Cipher::Aes);
    cluster.set_archive_command(&config.archive_command());
    config.run(["backup"]).assert_ok();
    let (to, new_etc) = (site.to("copy"), site.to("etc"));
    let mut command = config.pgkeep(["restore", "--dry-run", "--json", "--to"]);
    let plan = run(command.arg(&to).arg("--config-to").arg(&new_etc)).assert_ok();
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
    let start = plan["plan"]["next"][0].as_str().unwrap();
    let named = |path: &Path| format!("hba_file={}", path.display());
    assert!(start.contains(&named(&new_etc.join(hba.strip_prefix("/").unwrap()))), "{start}");
    let config_file = format!("config_file={}", to.join("postgresql.conf").display());
    assert!(start.contains(&config_file), "{start}");
    cluster.stop(Stop::Immediate);
}

/// The newest timeline had its history in the archive and no segment yet. The plan said that recovery ends
/// at the switch, and archive-get refused the ancestor's segment in which that lies: the server died.
#[test]
fn d20261120_a_plan_that_ends_at_a_switch_is_carried_out() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    site.config.run(["backup"]).assert_ok();
    site.cluster.psql("insert into t values (1)");
    let fork = site.cluster.psql("select clock_timestamp()");
    site.cluster.psql("select pg_sleep(0.01)");
    site.cluster.psql("insert into t values (2)");
    site.cluster.archive_now();
    let args = ["--archive", "on", "--target-action", "promote", "--target-time", &fork];
    let (second, _) = site.restored("second", &args);
    let history = site.repo.path();
    let is_there = || files(history).iter().any(|path| path.ends_with("history/00000002"));
    wait_until(DEADLINE, is_there, || second.log());
    second.stop(Stop::Immediate);
    let end = fs::read_to_string(site.to("second/pg_wal/00000002.history")).unwrap();
    let end = end.split('\t').nth(1).unwrap();
    for (name, target) in [("latest", &[][..]), ("lsn", &["--target-lsn", end][..])] {
        let args = [target, &["--target-action", "promote"]].concat();
        let (copy, rows) = site.restored(name, &args);
        assert_eq!(rows, "1", "{name}");
        copy.stop(Stop::Immediate);
    }
}

/// Whether a restored cluster archives may be decided anew while its restore is interrupted: another server
/// took the newest timeline, or left it. The same command was refused then as another one.
#[test]
fn d20261124_the_same_command_goes_on_whatever_archiving_is_by_default() {
    let Some(server) = Server::main() else { return };
    let (_site, _copies, scene) = scene(&server);
    let with = |archiving: Archiving, is_default: bool| {
        scene.restore_with(Arc::new(Record::default()), |options| {
            options.archiving = archiving;
            options.archiving_is_default = is_default;
        })
    };
    with(Archiving::On, true).unwrap();
    let archives = scene.tree();
    let step = "what makes the server recover is written";
    killed_after(&scene, step);
    assert!(scene.data.join("pgkeep_restored.json").exists(), "by default it began as a copy");
    let refused = with(Archiving::On, false).unwrap_err().to_string();
    assert!(refused.contains("archives by default"), "{refused}");
    with(Archiving::On, true).unwrap();
    assert!(scene.tree() == archives, "{:#?}", differences(&scene, &archives));

    // Where all was written, it stays what it is.
    killed_after(&scene, "the control file has its name");
    with(Archiving::On, true).unwrap();
    assert!(scene.data.join("pgkeep_restored.json").exists() && !scene.is_marked());
}
