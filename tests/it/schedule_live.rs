//! The daemon's schedule on a live server: expiry by the clock, beside an archiver that goes on, and what happens to it
//! when the daemon is stopped, killed or told to read its configuration again.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::daemon_live::Served;
use crate::expire_live::{NARROW, ids};
use crate::support::run::{DEADLINE, run, wait_until};
use crate::support::site::{Site, json, started};
use crate::support::{Dice, ScratchDir, Server, TestDaemon};

/// Rules that keep next to nothing, and may: nobody is asked.
fn unasked() -> String {
    format!("{NARROW}\nguard = '100%'\n")
}

/// A daemon that nobody does without, with this schedule for `expire`.
fn scheduled(server: &Server, schedule: &str) -> Served {
    let lines = format!("fallback = \"fail\"\n[schedule]\nexpire = \"{schedule}\"\n{}", unasked());
    Served::new(server, &lines)
}

/// What the daemon says of its only job.
fn job(site: &Served) -> Value {
    let status = site.daemon.status(&site.config);
    let jobs = status["daemon"]["jobs"].as_array().unwrap_or_else(|| panic!("{status}"));
    assert_eq!(jobs.len(), 1, "{status}");
    assert_eq!(
        (&jobs[0]["job"], &jobs[0]["cluster"]),
        (&"expire".into(), &"main".into()),
        "{status}"
    );
    jobs[0].clone()
}

/// Whether a process that the daemon began is still there.
fn has_child(site: &Served) -> bool {
    let config = site.config.path();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).into_owned())
    });
    let is_meant =
        |line: &String| line.contains("--scheduled") && line.contains(config.to_str().unwrap());
    processes.filter(is_meant).count() > 0
}

#[test]
fn the_schedule_removes_what_no_rule_keeps_while_the_archiver_goes_on() {
    let Some(server) = Server::main() else { return };
    let mut site = scheduled(&server, "*/2 * * * * *");
    site.cluster.psql("create table t (n int)");
    let mut last = String::new();
    for n in 1..=3 {
        site.cluster.psql(&format!("insert into t values ({n})"));
        site.cluster.archive_now();
        let taken = json(&site.config.run(["backup", "--json"]).assert_ok().stdout);
        last = taken["id"].as_str().unwrap().to_owned();
        site.cluster.archive_now();
    }
    wait_until(DEADLINE, || ids(&site.config) == [&*last], || site.daemon.log());
    // While it runs, no next time is told.
    let has_next = |told: &Value| told["last"]["exit"] == 0 && told["next"].is_string();
    let mut told = Value::Null;
    let ended = || {
        told = job(&site);
        has_next(&told)
    };
    wait_until(DEADLINE, ended, || job(&site).to_string());
    assert_eq!(told["last"]["outcome"], "done", "{told}");
    let log = site.daemon.log();
    assert!(
        log.contains("local: expire removed 1 backup") || log.contains("removed 2 backups"),
        "{log}"
    );
    site.cluster.psql("insert into t values (4)");
    site.cluster.archive_now();
    site.config.run(["wal", "gaps"]).assert_ok();
    let copies = ScratchDir::new("copies");
    let to = copies.join("copy");
    let mut command =
        site.config.pgkeep(["restore", "--yes", "--target-action", "promote", "--to"]);
    run(command.arg(&to)).assert_ok();
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), "1,2,3,4");
    site.daemon.stop(Signal::TERM).assert_ok();
    wait_until(DEADLINE, || !has_child(&site), || "it goes on".into());
}

/// Whenever the daemon is killed or stopped, what it runs ends with it, no lease of it keeps the next one away, and what
/// is kept is restored.
#[test]
fn f080_killing_the_daemon_while_it_expires_loses_nothing() {
    let Some(server) = Server::main() else { return };
    let mut site = scheduled(&server, "* * * * * *");
    let mut dice = Dice::new();
    site.cluster.psql("create table t (n int)");
    let mut rows = Vec::new();
    for n in 0..8 {
        site.cluster.psql(&format!("insert into t values ({n})"));
        rows.push(n.to_string());
        site.cluster.archive_now();
        site.config.run(["backup"]).assert_ok();
        // Somewhere in the next second an expiry begins, and removes the backup before this one.
        std::thread::sleep(Duration::from_millis(dice.below(1300)));
        match dice.below(3) {
            0 => drop(site.daemon.stop(Signal::TERM).assert_ok()),
            _ => drop(site.daemon.stop(Signal::KILL)),
        }
        wait_until(DEADLINE, || !has_child(&site), || "it outlives the daemon".into());
        site.daemon.start(&site.config);
    }
    site.cluster.archive_now();
    site.config.run(["wal", "gaps"]).assert_ok();
    site.daemon.stop(Signal::TERM).assert_ok();
    site.config.run(["expire"]).assert_ok();
    assert_eq!(ids(&site.config).len(), 1);
    let (copies, site_config) = (ScratchDir::new("copies"), &site.config);
    let to = copies.join("copy");
    site.daemon.start(site_config);
    let mut command =
        site_config.pgkeep(["restore", "--yes", "--target-action", "promote", "--to"]);
    run(command.arg(&to)).assert_ok();
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), rows.join(","));
}

/// Nobody can be asked: rules that were changed and would remove much wait, and the archiver does not.
#[test]
fn a_schedule_is_read_again_and_its_expiry_asks_nobody() {
    let Some(server) = Server::main() else { return };
    let Site { cluster, config, repo } = Site::small(&server);
    let (mut daemon, config) = TestDaemon::configure(config, "fallback = \"fail\"");
    cluster.set_archive_command(&config.archive_command());
    daemon.start(&config);
    let site = Served { cluster, config, repo, daemon };
    let jobs = |site: &Served| site.daemon.status(&site.config)["daemon"]["jobs"].clone();
    assert_eq!(jobs(&site), Value::Array(vec![]));
    for _ in 0..3 {
        site.config.run(["backup"]).assert_ok();
    }
    let before = ids(&site.config);
    let text = fs::read_to_string(site.config.path()).unwrap();
    let changed = |lines: &str| {
        site.config.write("pgkeep.toml", &format!("{text}\n{lines}\n"));
        site.daemon.signal(Signal::HUP);
    };
    // One that is wrong is told, by its key, and nothing changes.
    changed("[schedule]\nexpire = \"0 61 * * * *\"");
    let named = "schedule.expire: \"0 61 * * * *\" is not a schedule: its minute is \"61\"";
    wait_until(DEADLINE, || site.daemon.log().contains(named), || site.daemon.log());
    let refused = site.config.run(["info"]).assert_code(1);
    assert!(refused.stderr.contains(named), "{refused}");
    site.config.write("pgkeep.toml", &text);
    assert_eq!(jobs(&site), Value::Array(vec![]));

    changed(&format!("[schedule]\nexpire = \"* * * * * *\"\n{NARROW}"));
    let is_refused = || jobs(&site)[0]["last"]["exit"] == 1;
    wait_until(DEADLINE, is_refused, || site.daemon.log());
    let log = site.daemon.log();
    assert!(log.contains("the rules are new, and would remove 2 of 3 backups"), "{log}");
    assert!(log.contains("expire of cluster main: failed (exit code 1)"), "{log}");
    assert_eq!(ids(&site.config), before);
    site.cluster.archive_now();
    // Somebody says that it is meant; after that the clock does it.
    site.config.run(["expire", "--yes"]).assert_ok();
    assert_eq!(ids(&site.config), before[2..]);
    let goes = || jobs(&site)[0]["last"]["exit"] == 0;
    wait_until(DEADLINE, goes, || site.daemon.log());
    changed("");
    wait_until(DEADLINE, || jobs(&site) == Value::Array(vec![]), || site.daemon.log());
}
