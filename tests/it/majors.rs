//! What must hold on every major: PostgreSQL 14 to 18.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use pgkeep::pg::RelationFile;
use pgkeep::pg::page::{self, Verdict};
use pgkeep::pgconn::ConnectOptions;

use crate::support::library::LibraryCluster;
use crate::support::run::run;
use crate::support::site::{Site, json, started};
use crate::support::{ScratchDir, Server, Stop, TestCluster, tools};

const PAGE: usize = 8192;

/// Checks every page of every relation of a stopped cluster, and says how many there were: what
/// pg_checksums does, which is here of 15 only.
fn valid_pages(data: &Path) -> u64 {
    let (mut pages, mut folders) = (0, vec![data.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(data).unwrap().as_os_str().as_encoded_bytes();
            let Some(relation) = RelationFile::parse(relative) else { continue };
            let first = relation.first_block(131_072).unwrap();
            for (block, page) in (first..).zip(fs::read(&path).unwrap().chunks(PAGE)) {
                let verdict = page::verify(page, block, true);
                let is_good = matches!(verdict, Verdict::Valid | Verdict::New);
                assert!(is_good, "{} block {block}: {verdict:?}", path.display());
                pages += 1;
            }
        }
    }
    pages
}

fn assert_version(copy: &TestCluster, server: &Server) {
    let major = copy.psql("select current_setting('server_version_num')::int / 10000");
    assert_eq!(major, server.version().to_string());
}

#[test]
pub(crate) fn every_major_is_backed_up_under_load_and_idle_and_restored_to_any_time() {
    for server in Server::all() {
        let site = Site::small(&server);
        let cluster = &site.cluster;
        cluster.psql("create table marker (n int)");
        tools::pgbench_init(cluster, 1);
        let load = tools::pgbench_load(cluster, 2);
        cluster.wait_until("select count(*) > 10 from pgbench_history");
        let under_load = site.backup();
        cluster.psql("insert into marker values (1)");
        let time = cluster.psql("select clock_timestamp()");
        cluster.psql("insert into marker values (2)");
        // Checkpoints, which prove times too, know whole seconds only.
        cluster.wait_until(&format!(
            "select max(mtime) > '{time}'::timestamptz + interval '1 second' from pgbench_history"
        ));
        drop(load);
        cluster.archive_now();
        // Nobody writes any more: the stop's segment comes all the same.
        let idle = site.backup();

        for (backup, target, markers) in
            [(&under_load, &["--target-time", &time][..], "1"), (&idle, &[], "1,2")]
        {
            let scratch = ScratchDir::new("copy");
            let to = scratch.join("data");
            site.restore(&to, &[&["--backup", backup.as_str()], target].concat());
            let copy = started(&server, &to);
            assert_version(&copy, &server);
            let found = copy.psql("select string_agg(n::text, ',' order by n) from marker");
            assert_eq!(found, markers, "{}", server.version());
            // Every transaction of pgbench is there whole or not at all.
            let sums = "select (select sum(abalance) from pgbench_accounts) = sum(delta), \
                        count(*) > 10 from pgbench_history";
            assert_eq!(copy.psql(sums), "t|t", "{}", server.version());
            copy.stop(Stop::Fast);
            assert!(valid_pages(&to) > 1_000);
        }
    }
}

/// Timeouts of the role and of the database would end a session that says nothing for a while, as the
/// held one does; and the checkpoint of the start takes as long as it takes.
#[test]
fn no_timeout_of_a_role_or_database_reaches_the_held_session() {
    for server in Server::all() {
        let live = LibraryCluster::start(&server);
        let cluster = &live.cluster;
        cluster.psql("create role impatient superuser login");
        let mut timeouts = vec![
            "statement_timeout",
            "lock_timeout",
            "idle_session_timeout",
            "idle_in_transaction_session_timeout",
        ];
        if server.version() >= 17 {
            timeouts.push("transaction_timeout");
        }
        for name in timeouts {
            cluster.psql(&format!("alter role impatient set {name} = '300ms'"));
            cluster.psql(&format!("alter database postgres set {name} = '300ms'"));
        }
        let connection = cluster.conninfo().replace("user=postgres", "user=impatient");
        let mut slow = cluster.command("psql");
        slow.args(["-Xq", "-d", &connection, "-c", "select pg_sleep(60)"]);
        let ended = run(&mut slow);
        assert!(!ended.is_ok(), "{ended}");
        ended.assert_says(" timeout");
        let repository = live.open(Arc::new(live.store.clone())).unwrap();
        // Slow enough to be silent for several times as long: it asks every five seconds.
        live.backup(&repository, |options| {
            options.connection = ConnectOptions::new(connection, "pgkeep");
            options.max_rate = Some(8 << 20);
        })
        .unwrap_or_else(|error| panic!("{}: {error}", server.version()));
    }
}

/// The configuration of a site with another role.
fn connected_as(site: &Site, role: &str) -> std::path::PathBuf {
    let text = fs::read_to_string(site.config.path()).unwrap();
    let text = text.replace("user=postgres", &format!("user={role}"));
    site.cluster.scratch().write(&format!("{role}.toml"), text)
}

#[test]
fn a_role_with_few_rights_takes_backups_and_is_told_what_it_lacks() {
    for server in Server::all() {
        let site = Site::small(&server);
        let cluster = &site.cluster;
        cluster.psql("create role keeper login");
        let config = connected_as(&site, "keeper");
        let pgkeep = |arguments: &[&str]| {
            let mut command = cluster.pgkeep();
            run(command.arg("--config").arg(&config).args(arguments))
        };
        let finding = |name: &str| {
            let shown = json(&pgkeep(&["check", "--json"]).stdout);
            let all = shown["findings"].as_array().unwrap().clone();
            let found = all.into_iter().find(|one| one["check"] == name);
            found.unwrap_or_else(|| panic!("{name} in {shown}"))["level"].clone()
        };
        assert_eq!(
            (finding("data directory"), finding("waiting WAL")),
            ("fail".into(), "warn".into())
        );
        let functions = if server.version() < 15 {
            ["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"]
        } else {
            ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"]
        };
        // Each is needed, and named while it is missing.
        for function in ["pg_read_file(text)", functions[1], functions[0]] {
            let name = function.split('(').next().unwrap();
            pgkeep(&["backup"]).assert_code(1).assert_says(name);
            cluster.psql(&format!("grant execute on function {function} to keeper"));
        }
        pgkeep(&["backup"]).assert_ok();
        cluster.psql(&format!("revoke execute on function {} from keeper", functions[1]));
        pgkeep(&["backup"]).assert_code(1).assert_says("may not end what it would begin");
        cluster.psql("grant pg_monitor to keeper");
        assert_eq!((finding("data directory"), finding("waiting WAL")), ("ok".into(), "ok".into()));
    }
}

/// A chain of three, and that the last of it holds what is there.
#[test]
pub fn a_chain_is_taken_and_restored_on_every_major() {
    for server in Server::all() {
        let site = Site::small(&server);
        let cluster = &site.cluster;
        cluster.psql("create table t as select n, md5(n::text) t from generate_series(1, 20000) n");
        cluster.psql("create index on t (n); create table gone as select generate_series(1, 1000)");
        let full = site.backup_of("full");
        cluster.psql("update t set t = 'one' where n % 1000 = 0; create database d");
        let diff = site.backup_of("diff");
        cluster.psql("delete from t where n > 15000; vacuum t; drop table gone");
        cluster.psql_in("d", "create table t as select generate_series(1, 1000) n");
        let incr = site.backup_of("incr");
        assert_eq!((&diff["parent"], &incr["parent"]), (&full["id"], &diff["id"]));
        let stored = [&full, &diff, &incr].map(|taken| taken["stored_bytes"].as_u64().unwrap());
        assert!(stored[1] < stored[0] && stored[2] < stored[0], "{stored:?}");
        let digest = "select count(*), md5(string_agg(n || t, ',' order by n)) from t";
        let before = cluster.psql(digest);

        let scratch = ScratchDir::new("copy");
        let to = scratch.join("data");
        site.restore(&to, &["--backup", incr["id"].as_str().unwrap(), "--target-immediate"]);
        let copy = started(&server, &to);
        assert_version(&copy, &server);
        assert_eq!(copy.psql(digest), before, "{}", server.version());
        let by_index =
            "set enable_seqscan = off; set enable_bitmapscan = off; select count(n) from t";
        assert_eq!(copy.psql(by_index), "15000", "{}", server.version());
        assert_eq!(copy.psql("select to_regclass('gone') is null"), "t");
        assert_eq!(copy.psql_in("d", "select sum(n) from t"), "500500");
        copy.stop(Stop::Fast);
        assert!(valid_pages(&to) > 1_000);

        // What has been used since goes back by content, to an earlier one of the chain.
        let diff = diff["id"].as_str().unwrap();
        let back = ["--delta", "--archive", "off", "--backup", diff, "--target-immediate"];
        site.restore(&to, &back);
        let copy = started(&server, &to);
        assert_eq!(copy.psql(by_index), "20000", "{}", server.version());
        assert_eq!(copy.psql("select count(*) from gone"), "1000");
        copy.stop(Stop::Fast);
    }
}
