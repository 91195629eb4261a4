//! Full backups of data directories with everything in odd places: links, tablespaces, sizes, files
//! that cannot be read or are not what they should be.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use pgkeep::backup;
use pgkeep::pg::ControlFile;
use pgkeep::pgconn::ConnectOptions;
use pgkeep::repo::RowKind;

use crate::support::library::LibraryCluster;
use crate::support::run::{run, start};
use crate::support::site::{Site, json, started};
use crate::support::{ScratchDir, Server, Stop, TestCluster, account, tools};

/// Backups that `info` shows.
fn backups(site: &Site) -> usize {
    let shown = json(&site.config.run(["info", "--json"]).assert_ok().stdout);
    shown["repositories"][0]["backups"].as_array().unwrap().len()
}

#[test]
fn f056_what_cannot_be_read_fails_the_backup() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let data = site.cluster.data_dir();
    let (file, directory) = (data.join("base/1/999999"), data.join("base/999999"));
    fs::write(&file, vec![0; 8192]).unwrap();
    fs::create_dir(&directory).unwrap();
    // The account that runs pgkeep owns neither when the tests run as root, and may not read either.
    for unreadable in [&file, &directory] {
        fs::set_permissions(unreadable, fs::Permissions::from_mode(0o000)).unwrap();
        let ran = site.config.run(["backup"]).assert_code(1);
        ran.assert_says(&unreadable.display().to_string());
        assert_eq!(backups(&site), 0, "nothing became visible");
        fs::set_permissions(unreadable, fs::Permissions::from_mode(0o755)).unwrap();
    }
    site.backup();
}

#[test]
fn f056_a_file_in_whose_place_a_directory_appears_fails_the_backup() {
    let Some(server) = Server::main() else { return };
    let mut live = LibraryCluster::start(&server);
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let path = live.cluster.data_dir().join("base/1/999999");
    fs::write(&path, vec![0; 8192]).unwrap();
    live.ctx.observer = Arc::new(Midway::new(move || {
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }));
    let failed = live.backup(&repository, |options| options.jobs = 1).unwrap_err();
    assert!(matches!(failed, backup::Error::File { .. }), "{failed}");
    assert!(failed.to_string().contains("base/1/999999"), "{failed}");
}

/// Does something when so many files were copied.
struct Midway<F> {
    after: u64,
    files: std::sync::Mutex<(u64, Option<F>)>,
}

impl<F: FnOnce()> Midway<F> {
    /// When twenty were copied: by then `base/1` was listed, and what is at its end was not copied.
    fn new(disturb: F) -> Self {
        Self::after(20, disturb)
    }

    fn after(files: u64, disturb: F) -> Self {
        Self { after: files, files: std::sync::Mutex::new((0, Some(disturb))) }
    }
}

impl<F> std::fmt::Debug for Midway<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Midway")
    }
}

impl<F: FnOnce() + Send> pgkeep::base::Observer for Midway<F> {
    fn event(&self, event: pgkeep::base::Event) {
        if let pgkeep::base::Event::Advance { files, .. } = event {
            let mut state = self.files.lock().unwrap();
            state.0 += files;
            if state.0 >= self.after
                && let Some(disturb) = state.1.take()
            {
                disturb();
            }
        }
    }
}

/// CREATE UNLOGGED TABLE makes the data first, then the init fork. A walk between the two took the
/// data along, without the init fork. WAL makes that in a copy, and at the end of recovery the server
/// creates the data from it: "could not create file: File exists", and the restore was lost.
#[test]
fn d20261120_a_relation_that_turns_out_unlogged_is_left_out() {
    let Some(server) = Server::main() else { return };
    let mut live = LibraryCluster::start(&server);
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let directory = live.cluster.data_dir().join("base/1");
    for name in ["999997", "999999", "999999_fsm"] {
        fs::write(directory.join(name), vec![0; 8192]).unwrap();
    }
    live.ctx.observer =
        Arc::new(Midway::new(move || fs::write(directory.join("999999_init"), "").unwrap()));
    let id = live.backup(&repository, |options| options.jobs = 1).unwrap().summary.id;
    let opened = repository.open_backup(&live.place, &id).unwrap();
    for (path, there) in [("999997", true), ("999999", false), ("999999_fsm", false)] {
        let row = opened.find_row(format!("base/1/{path}").as_bytes()).unwrap();
        assert_eq!(row.is_some(), there, "{path}");
    }
}

/// So was the data of one that was large by then: it is copied in runs, and nobody looked when the last of
/// them was done.
#[test]
fn d20261124_a_large_relation_that_turns_out_unlogged_is_left_out() {
    let Some(server) = Server::main() else { return };
    let mut live = LibraryCluster::start(&server);
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let directory = live.cluster.data_dir().join("base/1");
    for name in ["999997", "999999"] {
        let file = fs::File::create(directory.join(name)).unwrap();
        file.set_len(130 << 20).unwrap();
    }
    live.ctx.observer =
        Arc::new(Midway::new(move || fs::write(directory.join("999999_init"), "").unwrap()));
    let id = live.backup(&repository, |options| options.jobs = 2).unwrap().summary.id;
    let opened = repository.open_backup(&live.place, &id).unwrap();
    for (path, there) in [("999997", true), ("999999", false)] {
        let row = opened.find_row(format!("base/1/{path}").as_bytes()).unwrap();
        assert_eq!(row.is_some(), there, "{path}");
    }
}

#[test]
fn f056_f059_files_of_every_length_come_back_as_they_are() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let data = site.cluster.data_dir();
    let content = |length: usize| (0..=250).cycle().take(length).collect::<Vec<u8>>();
    let lengths = [0, 1, 512, 8191, 8192, 8193, 65_535, 65_536, 65_537, 200_000];
    let mut files = Vec::new();
    for (number, length) in (900_000..).zip(lengths) {
        // One that nobody takes for a relation's; one that has pages, all of them new, and a rest.
        files.push((format!("file-{length}"), content(length)));
        files.push((format!("base/1/{number}"), vec![0; length]));
    }
    for (path, content) in &files {
        fs::write(data.join(path), content).unwrap();
        account::unprivileged().own(&data.join(path));
    }
    site.backup();
    let scratch = ScratchDir::new("copy");
    let to = scratch.join("data");
    site.restore(&to, &["--target-immediate"]);
    tools::assert_verifybackup(&site.cluster, &to);
    for (path, content) in &files {
        assert!(fs::read(to.join(path)).unwrap() == *content, "{path}");
    }
}

#[test]
fn f058_a_link_to_a_file_is_stored_as_the_file_and_one_to_a_directory_is_refused() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t as select generate_series(1, 1000) n; checkpoint");
    let data = site.cluster.data_dir();
    let elsewhere = ScratchDir::new("elsewhere");
    account::unprivileged().own(elsewhere.path());
    // A table's file that was moved to another disk by hand, and a configuration file.
    let table = data.join(site.path_of("t"));
    let moved = elsewhere.join("moved");
    fs::rename(&table, &moved).unwrap();
    symlink(&moved, &table).unwrap();
    let conf = elsewhere.write("extra.conf", "# nothing\n");
    symlink(&conf, data.join("extra.conf")).unwrap();
    symlink("nowhere", data.join("dangling")).unwrap();
    site.backup();
    let scratch = ScratchDir::new("copy");
    let to = scratch.join("data");
    site.restore(&to, &["--target-immediate"]);
    for path in [site.path_of("t"), "extra.conf".into()] {
        assert!(to.join(&path).symlink_metadata().unwrap().is_file(), "{path}");
    }
    assert!(to.join("dangling").symlink_metadata().is_err());
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select count(*) from t"), "1000");
    copy.stop(Stop::Fast);

    symlink(elsewhere.path(), data.join("base/directory")).unwrap();
    let ran = site.config.run(["backup"]).assert_code(1);
    ran.assert_says("base/directory is a symbolic link to a directory");
    assert_eq!(backups(&site), 1);
}

/// Restores with each tablespace beside the copy, and checks that all rows are there.
fn assert_tablespaces(site: &Site, server: &Server, locations: &[(&str, &Path)]) {
    let scratch = ScratchDir::new("copy");
    let to = scratch.join("data");
    let mappings: Vec<String> = locations
        .iter()
        .map(|(name, old)| format!("{}={}", old.display(), scratch.join(name).display()))
        .collect();
    let mut arguments = Vec::new();
    for mapping in &mappings {
        arguments.extend(["--tablespace", mapping.as_str()]);
    }
    site.restore(&to, &arguments);
    tools::assert_verifybackup(&site.cluster, &to);
    let copy = started(server, &to);
    for (i, (name, _)) in (1..).zip(locations) {
        assert_eq!(copy.psql(&format!("select sum(n) from in_{name}")), (i * 500_500).to_string());
        let oid = copy.psql(&format!("select oid from pg_tablespace where spcname = '{name}'"));
        let link = fs::read_link(to.join("pg_tblspc").join(oid)).unwrap();
        assert_eq!(link, scratch.join(name), "{name}");
        let path = copy.psql(&format!("select pg_relation_filepath('in_{name}')"));
        assert!(to.join(path).is_file());
    }
    copy.stop(Stop::Fast);
    tools::assert_checksums(&copy);
}

#[test]
fn f058_tablespaces_with_prefix_equal_paths_and_links_to_links_come_back() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let elsewhere = ScratchDir::new("tablespaces");
    let real = elsewhere.create_dir("real");
    let link = elsewhere.join("link");
    symlink(&real, &link).unwrap();
    let one = elsewhere.create_dir("ts");
    let two = elsewhere.create_dir("ts2");
    let locations = [("one", one.as_path()), ("two", &two), ("linked", &link)];
    for (i, (name, location)) in (1..).zip(locations) {
        site.cluster.psql(&format!("create tablespace {name} location '{}'", location.display()));
        site.cluster.psql(&format!(
            "create table in_{name} tablespace {name} as \
             select {i} * n as n from generate_series(1, 1000) n"
        ));
    }
    site.backup();
    assert_tablespaces(&site, &server, &locations);
}

#[test]
fn f058_tablespaces_in_place_are_plain_directories() {
    for server in Server::all() {
        let site = Site::small(&server);
        let cluster = &site.cluster;
        // Not in the configuration: recovery panics of a directory in pg_tblspc without it, so the
        // restore says so.
        cluster.psql("set allow_in_place_tablespaces = on; create tablespace inside location ''");
        cluster.psql("create table t tablespace inside as select generate_series(1, 1000) n");
        let path = site.path_of("t");
        assert!(path.starts_with("pg_tblspc/"), "{path}");
        site.backup();
        cluster.psql("insert into t values (1001)");
        cluster.archive_now();
        let scratch = ScratchDir::new("copy");
        let to = scratch.join("data");
        site.restore(&to, &[]);
        let tablespace = to.join(&path).ancestors().nth(3).unwrap().to_path_buf();
        assert!(tablespace.is_dir() && !tablespace.is_symlink(), "{}", tablespace.display());
        let copy = started(&server, &to);
        assert_eq!(copy.psql("select count(*) from t"), "1001", "{}", server.version());
        copy.stop(Stop::Fast);
    }
}

/// Recovery makes it where it was, whatever a restore maps it to: on the source's host that is the
/// source's own.
#[test]
fn f058_a_tablespace_that_is_made_during_the_backup_is_told() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let elsewhere = ScratchDir::new("tablespaces");
    let (old, new) = (elsewhere.create_dir("old"), elsewhere.create_dir("new"));
    site.cluster.psql(&format!("create tablespace old location '{}'", old.display()));
    let running = start(&mut site.config.pgkeep(["backup", "--max-rate", "4MiB"]));
    site.cluster.wait_until(
        "exists (select from pg_stat_activity where state = 'idle' \
         and application_name like 'pgkeep backup 2%' \
         and now() - state_change > interval '300 milliseconds')",
    );
    site.cluster.psql(&format!("create tablespace new location '{}'", new.display()));
    let ran = running.wait().assert_ok().assert_says("tablespace new was made during the backup");
    assert!(!ran.stderr.contains("tablespace old"), "{ran}");
}

#[test]
fn f059_a_broken_relation_map_is_kept_and_told() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    // Of template0, which nobody connects to.
    let oid = site.cluster.psql("select oid from pg_database where datname = 'template0'");
    let path = format!("base/{oid}/pg_filenode.map");
    let file = site.cluster.data_dir().join(&path);
    let mut content = fs::read(&file).unwrap();
    content[100] ^= 1;
    fs::write(&file, &content).unwrap();
    let ran = site.config.run(["backup", "--json"]).assert_code(3);
    let taken = json(&ran.stdout);
    assert_eq!(taken["damage"][0]["path"], path.as_str(), "{taken}");
    assert_eq!(taken["invalid_pages"], 1, "{taken}");
    let why = taken["damage"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("CRC of pg_filenode.map is "), "{why}");
    let scratch = ScratchDir::new("copy");
    let to = scratch.join("data");
    site.restore(&to, &["--target-immediate"]);
    assert_eq!(fs::read(to.join(&path)).unwrap(), content);
}

#[test]
fn prepared_transactions_come_back_whatever_became_of_them() {
    for server in Server::all() {
        let launch = TestCluster::create(&server).checksums().wal_segment_mib(1);
        let site = Site::start(launch.setting("max_prepared_transactions", "10"));
        let cluster = &site.cluster;
        cluster.psql("create table t (n int)");
        let prepare = |n: u32| {
            cluster.psql(&format!("begin; insert into t values ({n}); prepare transaction 'p{n}'"));
        };
        (1..=3).for_each(prepare);
        // A checkpoint writes their state into files.
        cluster.psql("checkpoint");
        let files = || fs::read_dir(cluster.data_dir().join("pg_twophase")).unwrap().count();
        assert_eq!(files(), 3);
        // pgkeep knows each file and its checksum: a changed one would be told.
        site.backup();
        cluster.psql("commit prepared 'p1'");
        cluster.psql("rollback prepared 'p2'");
        prepare(4);
        cluster.archive_now();
        let scratch = ScratchDir::new("copy");
        let to = scratch.join("data");
        site.restore(&to, &[]);
        let copy = TestCluster::adopt(&server, &to).setting("max_prepared_transactions", "10");
        let copy = copy.start();
        copy.wait_for_promotion();
        let left = "select string_agg(gid, ',' order by gid) from pg_prepared_xacts";
        assert_eq!(copy.psql(left), "p3,p4", "{}", server.version());
        copy.psql("commit prepared 'p3'");
        copy.psql("commit prepared 'p4'");
        assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), "1,3,4");
        copy.stop(Stop::Fast);
    }
}

#[test]
fn f059_a_broken_prepared_transaction_is_kept_and_told() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).checksums().wal_segment_mib(1);
    let site = Site::start(launch.setting("max_prepared_transactions", "10"));
    site.cluster.psql("create table t (n int)");
    site.cluster.psql("begin; insert into t values (1); prepare transaction 'p'");
    site.cluster.psql("checkpoint");
    let directory = site.cluster.data_dir().join("pg_twophase");
    let file = fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
    let mut content = fs::read(&file).unwrap();
    let last = content.len() - 5;
    content[last] ^= 1;
    fs::write(&file, &content).unwrap();
    let ran = run(&mut site.config.pgkeep(["backup", "--json"])).assert_code(3);
    let taken = json(&ran.stdout);
    let path = taken["damage"][0]["path"].as_str().unwrap().to_owned();
    assert!(path.starts_with("pg_twophase/"), "{taken}");
    ran.assert_says("CRC of a prepared transaction");
}

/// Of the files that a backup reads, `pg_control` is the last one: a checkpoint that comes when all but
/// a few have been read is in it.
#[test]
fn f054_the_control_file_is_read_last() {
    let Some(server) = Server::main() else { return };
    let mut live = LibraryCluster::start(&server);
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let totals = live.backup(&repository, |_| {}).unwrap().summary.totals;
    let path = live.cluster.data_dir().join("global/pg_control");
    let checkpoint = Arc::new(std::sync::Mutex::new(None));
    let seen = Arc::clone(&checkpoint);
    let mut psql = live.cluster.command("psql");
    psql.args(["-Xq", "-d", &live.cluster.conninfo(), "-c", "checkpoint"]);
    live.ctx.observer = Arc::new(Midway::after(totals.files - 4, move || {
        run(&mut psql).assert_ok();
        let control = ControlFile::parse(&fs::read(&path).unwrap()).unwrap();
        *seen.lock().unwrap() = Some(control.checkpoint);
    }));
    let taken = live.backup(&repository, |options| options.jobs = 1).unwrap();
    let opened = repository.open_backup(&live.place, &taken.summary.id).unwrap();
    let row = opened.find_row(b"global/pg_control").unwrap().unwrap();
    let control = ControlFile::parse(&opened.read_block(&row, 0).unwrap()).unwrap();
    let checkpoint = checkpoint.lock().unwrap().clone();
    assert_eq!(Some(&control.checkpoint), checkpoint.as_ref());
    assert!(control.checkpoint.redo > taken.summary.start_lsn);
}

#[test]
fn f051_checksums_may_be_switched_between_backups() {
    let Some(server) = Server::main() else { return };
    let site = Site::start(TestCluster::create(&server).wal_segment_mib(1));
    site.cluster.psql("create table t as select generate_series(1, 1000) n");
    for (checksums, change) in [(false, "--enable"), (true, "--disable"), (false, "--enable")] {
        let planned = json(&site.config.run(["backup", "--dry-run", "--json"]).assert_ok().stdout);
        assert_eq!(planned["plan"]["checksums"], checksums, "{planned}");
        let id = site.backup();
        let scratch = ScratchDir::new("copy");
        let to = scratch.join("data");
        site.restore(&to, &["--backup", &id, "--target-immediate"]);
        let copy = started(&server, &to);
        assert_eq!(copy.psql("show data_checksums"), if checksums { "on" } else { "off" });
        assert_eq!(copy.psql("select count(*) from t"), "1000");
        copy.stop(Stop::Fast);
        if checksums {
            tools::assert_checksums(&copy);
        }
        // Up to 18 that is done to a stopped server only: never during a backup.
        site.cluster.stop(Stop::Fast);
        let mut switching = site.cluster.command("pg_checksums");
        run(switching.args([change, "-N", "-D"]).arg(site.cluster.data_dir())).assert_ok();
        site.cluster.start();
    }
}

#[test]
fn f052_f059_another_server_directory_or_geometry_is_refused() {
    let Some(server) = Server::main() else { return };
    let mut live = LibraryCluster::start(&server);
    let other = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let refused = |live: &LibraryCluster, connection: &str, directory: &Path| {
        let failed = live.backup(&repository, |options| {
            options.connection = ConnectOptions::new(connection, "pgkeep");
            options.data_directory = directory.into();
        });
        failed.unwrap_err().to_string()
    };
    let (own, own_data) = (live.cluster.conninfo(), live.cluster.data_dir().to_path_buf());
    let said = refused(&live, &other.conninfo(), &own_data);
    assert!(said.contains("the repository's cluster main is"), "{said}");
    let said = refused(&live, &own, other.data_dir());
    assert!(said.contains("the data directory's system identifier is"), "{said}");
    live.registration.block_size = 4096;
    let said = refused(&live, &own, &own_data);
    assert!(said.contains("registered with 4096 and 1048576"), "{said}");
    live.registration.block_size = 8192;
    live.registration.wal_segment_size = 16 << 20;
    let said = refused(&live, &own, &own_data);
    assert!(said.contains("registered with 8192 and 16777216"), "{said}");
    assert!(repository.backups(&live.ctx, &live.place).unwrap().complete.is_empty());
}

fn copy_of(directory: &Path, to: &Path) {
    let mut copying = std::process::Command::new("cp");
    run(copying.arg("-a").arg(directory).arg(to)).assert_ok();
    account::unprivileged().own(to);
}

/// Same system identifier, other directory: what a moved address or a stale path leads to.
#[test]
fn the_directory_is_proven_to_be_the_server_s() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let scratch = ScratchDir::new("others");
    let backup = |directory: &Path| {
        let taken = live.backup(&repository, |options| options.data_directory = directory.into());
        taken.unwrap_err().to_string()
    };
    // A standby's.
    let data = scratch.create_dir("standby");
    let mut copying = live.cluster.command("pg_basebackup");
    copying.args(["-R", "-c", "fast", "-X", "stream", "-d", &live.cluster.conninfo(), "-D"]);
    run(copying.arg(&data)).assert_ok();
    let standby = TestCluster::adopt(&server, &data).start();
    let said = backup(standby.data_dir());
    assert!(
        said.contains("the server is a primary") && said.contains("InArchiveRecovery"),
        "{said}"
    );
    // Another primary's: the standby after its promotion.
    standby.promote();
    let said = backup(standby.data_dir());
    assert!(said.contains("process id in postmaster.pid is"), "{said}");
    standby.stop(Stop::Fast);
    // A copy that has the server's own lock file, as a snapshot has.
    let copied = scratch.join("copied");
    copy_of(live.cluster.data_dir(), &copied);
    let said = backup(&copied);
    assert!(said.contains("does not follow the server's checkpoints"), "{said}");
    assert!(repository.backups(&live.ctx, &live.place).unwrap().complete.is_empty());
    live.backup(&repository, |_| {}).unwrap();
}

#[test]
fn slots_of_subscribers_are_recorded_and_told() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).checksums().wal_segment_mib(1);
    let site = Site::start(launch.setting("wal_level", "logical"));
    site.cluster.psql("select pg_create_logical_replication_slot('sub', 'pgoutput')");
    site.cluster.psql("select pg_create_physical_replication_slot('standby')");
    let told = "logical replication slots are not part of a backup: sub";
    site.config.run(["backup", "--dry-run"]).assert_ok().assert_says(told);
    let ran = site.config.run(["backup"]).assert_ok().assert_says(told);
    assert!(!ran.stderr.contains("standby"), "{ran}");
}

#[test]
fn rows_say_what_is_a_link_a_directory_and_a_file() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    let elsewhere = ScratchDir::new("tablespace");
    let location = elsewhere.create_dir("ts");
    live.cluster.psql(&format!("create tablespace far location '{}'", location.display()));
    let oid = live.cluster.psql("select oid from pg_tablespace where spcname = 'far'");
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let taken = live.backup(&repository, |_| {}).unwrap();
    let opened = repository.open_backup(&live.place, &taken.summary.id).unwrap();
    let link = opened.find_row(format!("pg_tblspc/{oid}").as_bytes()).unwrap().unwrap();
    assert_eq!(link.kind, RowKind::Link);
    assert_eq!(link.target.as_deref(), Some(location.as_os_str().as_encoded_bytes()));
    let record = &opened.manifest().tablespaces[0];
    assert_eq!(
        (record.oid.to_string(), record.location.as_str()),
        (oid, location.to_str().unwrap())
    );
}
