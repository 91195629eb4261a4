//! Differential and incremental backups of live clusters: what they hold, what they stand on, and that what is
//! restored from them is what was there.

use std::path::Path;

use pgkeep::base::ByteSize;
use serde_json::Value;

use crate::support::run::run;
use crate::support::site::{Site, json, started};
use crate::support::{ScratchDir, Server, Stop, tools};

/// A table whose every row can be told.
const TABLE: &str = "create table t (n int primary key, text text)";

fn fill(site: &Site, from: u32, to: u32) {
    site.cluster.psql(&format!(
        "insert into t select n, repeat(md5(n::text), 8) from generate_series({from}, {to}) n"
    ));
}

/// What a copy of the table says of itself.
const DIGEST: &str = "select count(*) || ' ' || md5(string_agg(n || text, ',' order by n)) from t";

fn number(taken: &Value, member: &str) -> u64 {
    taken[member].as_u64().unwrap()
}

/// Restores a backup to its own end and returns what the table says there.
fn digest_of(site: &Site, server: &Server, backup: &Value, scratch: &Path) -> String {
    let id = backup["id"].as_str().unwrap();
    let to = scratch.join(id);
    site.restore(&to, &["--backup", id, "--target-immediate"]);
    let copy = started(server, &to);
    let digest = copy.psql(DIGEST);
    copy.stop(Stop::Fast);
    digest
}

#[test]
pub fn f047_each_backup_of_a_chain_restores_to_what_was_there() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql(TABLE);
    fill(&site, 1, 40_000);
    let mut taken = Vec::new();
    for (backup_type, change) in [
        ("full", "select 1"),
        ("diff", "update t set text = 'one' where n % 500 = 0"),
        ("incr", "delete from t where n between 2000 and 3000"),
        ("incr", "insert into t select n, 'late' from generate_series(50000, 51000) n"),
        ("diff", "update t set text = text || 'x' where n < 100"),
        ("incr", "vacuum t"),
    ] {
        site.cluster.psql(change);
        let backup = site.backup_of(backup_type);
        taken.push((backup, site.cluster.psql(DIGEST)));
    }
    let ids: Vec<&str> = taken.iter().map(|(taken, _)| taken["id"].as_str().unwrap()).collect();
    let parents: Vec<&Value> = taken.iter().map(|(taken, _)| &taken["parent"]).collect();
    assert_eq!(parents[0], &Value::Null);
    let expected = [ids[0], ids[1], ids[2], ids[0], ids[4]];
    assert_eq!(parents[1..], expected.map(Value::from).iter().collect::<Vec<_>>());
    let stored: Vec<u64> = taken.iter().map(|(taken, _)| number(taken, "stored_bytes")).collect();
    assert!(stored[1..].iter().all(|more| more * 3 < stored[0]), "{stored:?}");
    let scratch = ScratchDir::new("chain");
    for (backup, digest) in &taken {
        assert_eq!(&digest_of(&site, &server, backup, scratch.path()), digest, "{backup}");
    }
}

/// Every backup is taken while pgbench writes into most of its blocks, some of them torn as they are read: each
/// restores to its own end, and the newest to the end of the WAL.
#[test]
fn a_chain_that_is_taken_under_load_restores_each_of_its_moments() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let cluster = &site.cluster;
    tools::pgbench_init(cluster, 5);
    let load = tools::pgbench_load(cluster, 4);
    let mut taken = Vec::new();
    for backup_type in ["full", "diff", "incr", "incr", "diff", "incr"] {
        let before = cluster.psql("select count(*) from pgbench_history");
        cluster.wait_until(&format!("select count(*) > {before} + 300 from pgbench_history"));
        // Most of what it writes is in memory only.
        cluster.psql("vacuum pgbench_accounts");
        taken.push(site.backup_of(backup_type));
    }
    drop(load);
    cluster.archive_now();
    let sums = "select (select sum(abalance) from pgbench_accounts) = sum(delta) and \
                (select sum(tbalance) from pgbench_tellers) = sum(delta) and \
                (select sum(bbalance) from pgbench_branches) = sum(delta), count(*) \
                from pgbench_history";
    let scratch = ScratchDir::new("load");
    let restored = |number: usize, arguments: &[&str]| {
        let to = scratch.join(&format!("{number}-{}", arguments.len()));
        let id = taken[number]["id"].as_str().unwrap();
        site.restore(&to, &[&["--backup", id][..], arguments].concat());
        let copy = started(&server, &to);
        tools::assert_amcheck(&copy);
        let found = copy.psql(sums);
        copy.stop(Stop::Fast);
        std::fs::remove_dir_all(&to).unwrap();
        let (is_whole, count) = found.split_once('|').unwrap();
        assert_eq!(is_whole, "t", "{id}");
        count.parse::<u64>().unwrap()
    };
    let counts: Vec<u64> =
        (0..taken.len()).map(|number| restored(number, &["--target-immediate"])).collect();
    assert!(counts.is_sorted_by(|a, b| a < b), "{counts:?}");
    let all = restored(taken.len() - 1, &[]);
    assert_eq!(all.to_string(), cluster.psql("select count(*) from pgbench_history"));
    assert!(all > counts[5], "{all}, {counts:?}");
}

#[test]
fn a_full_is_suggested_when_little_of_the_last_one_is_used_and_taken_where_that_is_wanted() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql(TABLE);
    fill(&site, 1, 60_000);
    site.backup();
    let mut little = site.config.pgkeep(["backup", "--type", "diff"]);
    let due = "a full would make the next ones smaller";
    let ran = run(&mut little).assert_ok();
    assert!(!ran.stderr.contains(due), "{ran}");
    // Most of it is written anew.
    site.cluster.psql("update t set text = text || 'x'; vacuum full t; checkpoint");
    run(&mut little).assert_ok();
    let info = json(&site.config.run(["info", "--json"]).assert_ok().stdout);
    let share = info["repositories"][0]["chain"][0]["used_percent"].as_u64().unwrap();
    assert!(share < 70, "{info}");
    let told = site.config.run(["info"]).assert_ok().stdout;
    let [full, small, large] = &info["repositories"][0]["backups"].as_array().unwrap()[..] else {
        panic!("{info}")
    };
    assert!(
        told.contains(&format!("uses {share} % of {}", full["id"].as_str().unwrap())),
        "{told}"
    );
    // What each adds, and on what it stands.
    let added = |backup: &Value| backup["own_bytes"].as_u64().unwrap();
    assert!(added(small) * 10 < added(large) && added(large) < added(full), "{info}");
    for backup in [small, large] {
        let id = backup["id"].as_str().unwrap();
        let line = told.lines().find(|line| line.contains(id)).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1..3], ["diff", full["id"].as_str().unwrap()], "{told}");
        let stored = ByteSize(backup["stored_bytes"].as_u64().unwrap()).to_string();
        assert!(line.contains(&stored), "{stored}: {told}");
    }
    run(&mut little).assert_ok().assert_says(due);
    let mut wanted = site.config.pgkeep(["backup", "--json", "--type", "diff"]);
    let wanted = wanted.env("PGKEEP_CLUSTER__MAIN__AUTO_FULL", "true");
    wanted.env("PGKEEP_CLUSTER__MAIN__AUTO_FULL_BELOW", "5%");
    assert_eq!(json(&run(wanted).assert_ok().stdout)["type"], "diff");
    wanted.env("PGKEEP_CLUSTER__MAIN__AUTO_FULL_BELOW", "70%");
    let taken = run(wanted).assert_ok().assert_says("this one is a full (auto_full)");
    assert_eq!(json(&taken.stdout)["type"], "full");
    run(&mut little).assert_ok();
}
