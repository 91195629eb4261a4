//! The places of a restore: what is there already is moved aside by `--rename-old` and never deleted;
//! tablespaces go where they are told; owners come back.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::restore_live::{Site, files};
use crate::support::run::{DEADLINE, run, start, wait_until};
use crate::support::{ScratchDir, Server, Stop, TestCluster};

/// A site whose backup has a tablespace, with a row in it; the folder that holds the tablespace, and it.
fn with_tablespace(server: &Server) -> (Site, ScratchDir, PathBuf) {
    let site = Site::new(server);
    let source = ScratchDir::new("tablespace");
    let one = source.create_dir("one");
    site.cluster.psql(&format!("create tablespace one location '{}'", one.display()));
    site.cluster.psql("create table in_one tablespace one as select 1 as n");
    site.config.run(["backup"]).assert_ok();
    site.cluster.archive_now();
    (site, source, one)
}

/// What is in the way is moved aside whole, with its tablespaces; where a server runs, or where the
/// move would hurt somebody, it is refused.
#[test]
fn f058_f065_f066_rename_old_moves_aside_and_deletes_nothing() {
    let Some(server) = Server::main() else { return };
    let (site, _source, one) = with_tablespace(&server);
    site.cluster.psql("update in_one set n = 2");
    site.cluster.archive_now();
    let map = format!("{}={}", one.display(), site.to("one").display());
    let args = ["--rename-old", "--tablespace", &map];

    // On its own source, while that runs: with or without its tablespaces.
    let data = site.cluster.data_dir();
    let onto = |to: &Path, args: &[&str]| {
        let mut command = site.config.pgkeep(["restore", "--yes", "--to"]);
        run(command.arg(to).args(args))
    };
    let refused = onto(data, &args).assert_code(15);
    assert!(refused.stderr.contains("has a server running on it"), "{refused}");
    let refused = onto(&site.to("copy"), &["--rename-old"]).assert_code(15);
    assert!(refused.stderr.contains("one"), "{refused}");
    assert!(site.cluster.is_running() && !site.to("copy").exists());
    assert_eq!(site.cluster.psql("select n from in_one"), "2");

    // A copy that was used, and stopped; then killed, so that its postmaster.pid is left.
    let (copy, _) = site.restored("copy", &args[1..]);
    copy.psql("insert into in_one values (10)");
    let running = site.restore("copy", &args).assert_code(15);
    assert!(running.stderr.contains("has a server running on it"), "{running}");
    copy.stop(Stop::Fast);
    let stale = format!("{}\n{}\n", u32::MAX / 2, site.to("copy").display());
    fs::write(site.to("copy/postmaster.pid"), stale).unwrap();
    let plain = site.restore("copy", &args[1..]).assert_code(15);
    assert!(plain.stderr.contains("--rename-old"), "{plain}");
    let plan = site.restore("copy", &[&args[..], &["--dry-run"]].concat()).assert_ok();
    assert!(plan.stdout.contains("moves aside"), "{plan}");
    assert!(aside(&site, "copy").is_empty(), "a plan changes nothing");
    let (again, _) = site.restored("copy", &args);
    assert_eq!(again.psql("select n from in_one"), "2");
    again.stop(Stop::Fast);
    let (old, old_one) = (aside(&site, "copy"), aside(&site, "one"));
    assert_eq!((old.len(), old_one.len()), (1, 1), "{old:?} {old_one:?}");
    fs::remove_file(old[0].join("postmaster.pid")).unwrap();
    let old = TestCluster::adopt(&server, &old[0]).start();
    assert_eq!(old.psql("select string_agg(n::text, ',' order by n) from in_one"), "2,10");
    old.stop(Stop::Fast);
    let untouched = TestCluster::adopt(&server, &site.to("copy")).start();
    assert_eq!(untouched.psql("select n from in_one"), "2");
    untouched.stop(Stop::Fast);

    // A tablespace of another cluster, that is stopped: it would find the restored files.
    let before = files(&site.to("one"));
    let refused = site.restore("other", &args).assert_code(15);
    assert!(refused.stderr.contains("may be a tablespace of another cluster"), "{refused}");
    assert_eq!(files(&site.to("one")), before);
    // A link is not what it leads to.
    let link = site.to("link");
    std::os::unix::fs::symlink(site.to("copy"), &link).unwrap();
    let elsewhere = format!("{}={}", one.display(), site.to("two").display());
    let refused = site.restore("link", &["--rename-old", "--tablespace", &elsewhere]);
    assert!(refused.clone().assert_code(15).stderr.contains("is a link"), "{refused}");

    // Another restore that was interrupted is moved aside too.
    let elsewhere = ["--tablespace", &elsewhere, "--target-immediate"];
    interrupted(&site, "late", &elsewhere);
    let (late, _) = site.restored("late", &["--rename-old", elsewhere[0], elsewhere[1]]);
    assert_eq!(late.psql("select n from in_one"), "2");
    assert_eq!((aside(&site, "late").len(), aside(&site, "two").len()), (1, 1));
}

/// Begins a restore and kills it when some files are there.
fn interrupted(site: &Site, name: &str, args: &[&str]) {
    let to = site.to(name);
    let mut command = site.config.pgkeep(["restore", "--yes", "--jobs", "1", "--to"]);
    let running = start(command.arg(&to).args(args));
    let is_begun = || {
        let is_marked = to.join("pgkeep_restore_in_progress.json").exists();
        is_marked && files(&to).len() > 50
    };
    wait_until(DEADLINE, is_begun, || running.stderr_so_far());
    running.signal(Signal::KILL);
    drop(running.wait());
    assert!(!to.join("global/pg_control").exists(), "it was killed too late");
}

/// Every run that was killed left its own partial tree, moved aside by the next one: the restore was begun
/// anew each time, and the disk filled.
#[test]
fn d20261124_rename_old_goes_on_with_what_it_began() {
    let Some(server) = Server::main() else { return };
    let (site, _source, one) = with_tablespace(&server);
    let map = format!("{}={}", one.display(), site.to("one").display());
    let args = ["--rename-old", "--tablespace", &map];
    let (old, _) = site.restored("copy", &args);
    old.psql("update in_one set n = 10");
    old.stop(Stop::Fast);
    for _ in 0..2 {
        interrupted(&site, "copy", &args);
    }
    let plan = site.restore("copy", &[&args[..], &["--dry-run"]].concat()).assert_ok();
    assert!(plan.stdout.contains("an interrupted restore"), "{plan}");
    assert!(!plan.stdout.contains("moves aside"), "{plan}");
    let (copy, _) = site.restored("copy", &args);
    assert_eq!(copy.psql("select n from in_one"), "1");
    copy.stop(Stop::Fast);
    let asides = aside(&site, "copy");
    assert_eq!((asides.len(), aside(&site, "one").len()), (1, 1), "{asides:?}");
    let old = TestCluster::adopt(&server, &asides[0]).start();
    assert_eq!(old.psql("select n from in_one"), "10");
}

/// The cluster's host was lost; on the new one, its tablespace's path is another cluster's, which is
/// stopped. Going back to its own data directory, the restore took what lay there for its own by the path
/// alone, moved it, and the other cluster's link led to the restored files.
#[test]
fn d20261124_a_tablespace_s_path_alone_does_not_make_it_the_cluster_s_own() {
    let Some(server) = Server::main() else { return };
    let (site, source, one) = with_tablespace(&server);
    site.cluster.stop(Stop::Fast);
    fs::remove_dir_all(site.cluster.data_dir()).unwrap();
    fs::remove_dir_all(&one).unwrap();
    source.create_dir("one");
    let other = TestCluster::create(&server).start();
    other.psql(&format!("create tablespace one location '{}'", one.display()));
    other.psql("create table in_one tablespace one as select 7 as n");
    other.stop(Stop::Fast);
    let before = files(&one);
    let refused = site.config.run(["restore", "--yes", "--rename-old"]).assert_code(15);
    assert!(refused.stderr.contains("may be a tablespace of another cluster"), "{refused}");
    assert_eq!(files(&one), before);
    other.start();
    assert_eq!(other.psql("select n from in_one"), "7");
}

/// What was moved aside under a name.
fn aside(site: &Site, name: &str) -> Vec<PathBuf> {
    let prefix = format!("{name}.old-");
    let entries = fs::read_dir(site.copies.path()).unwrap().flatten();
    let is_aside =
        |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&prefix);
    entries.map(|entry| entry.path()).filter(is_aside).collect()
}

/// Locations of which one is the other's beginning, before and after; a link to a directory, before and
/// after: each table is where its tablespace went, and nowhere else.
#[test]
fn f058_locations_with_one_beginning_and_links_to_links_are_kept_apart() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server);
    let source = ScratchDir::new("tablespaces");
    let real = source.create_dir("real");
    let alias = source.join("alias");
    std::os::unix::fs::symlink(&real, &alias).unwrap();
    let old = [source.create_dir("ts"), source.create_dir("ts2"), alias];
    for (i, location) in old.iter().enumerate() {
        let location = location.display();
        site.cluster.psql(&format!("create tablespace s{i} location '{location}'"));
        site.cluster.psql(&format!("create table t{i} tablespace s{i} as select {i} as n"));
    }
    site.config.run(["backup"]).assert_ok();
    site.cluster.archive_now();
    site.copies.create_dir("behind");
    std::os::unix::fs::symlink(site.to("behind"), site.to("n")).unwrap();
    let new = [site.to("nn"), site.to("nn2"), site.to("n")];
    let maps: Vec<String> = old
        .iter()
        .zip(&new)
        .map(|(old, new)| format!("{}={}", old.display(), new.display()))
        .collect();
    let args: Vec<&str> = maps.iter().flat_map(|map| ["--tablespace", map.as_str()]).collect();
    let before: Vec<Vec<PathBuf>> = old.iter().map(|location| files(location)).collect();
    let (copy, _) = site.restored("copy", &args);
    for (i, location) in new.iter().enumerate() {
        assert_eq!(copy.psql(&format!("select n from t{i}")), i.to_string());
        copy.psql(&format!("insert into t{i} values (9)"));
        let where_it_is =
            format!("select pg_tablespace_location(oid) from pg_tablespace where spcname = 's{i}'");
        assert_eq!(copy.psql(&where_it_is), location.display().to_string());
    }
    copy.stop(Stop::Fast);
    assert!(!files(&site.to("behind")).is_empty(), "the files lie behind the link");
    let after: Vec<Vec<PathBuf>> = old.iter().map(|location| files(location)).collect();
    assert_eq!(before, after);
    // Through the link too, what is there is in the way.
    let refused = site.restore("other", &args).assert_code(15);
    assert!(refused.stderr.contains("is not empty"), "{refused}");
}

/// Everything has the owner that it had, also where root restores; then the server's own user starts it.
#[test]
fn f074_owners_come_back() {
    let Some(server) = Server::main() else { return };
    let (site, _source, one) = with_tablespace(&server);
    let new_one = site.to("one");
    // As whoever runs the tests: root, or the server's own user.
    let mut command = Command::new(site.cluster.scratch().pgkeep_binary());
    command.arg("--config").arg(site.config.path()).args(["restore", "--yes", "--tablespace"]);
    command.arg(format!("{}={}", one.display(), new_one.display()));
    let _restored = run(command.arg("--to").arg(site.to("copy"))).assert_ok();
    let owner = |path: &Path| {
        let found = path.symlink_metadata().unwrap();
        (found.uid(), found.gid())
    };
    let server_s = owner(&site.cluster.data_dir().join("PG_VERSION"));
    let all = files(&site.to("copy")).into_iter().chain(files(&new_one));
    let places = [site.to("copy"), new_one.clone(), site.to("copy/base"), site.to("copy/pg_wal")];
    for path in all.chain(places).filter(|path| !path.is_symlink()) {
        assert_eq!(owner(&path), server_s, "{}", path.display());
    }
    let copy = TestCluster::adopt(&server, &site.to("copy")).start();
    copy.wait_for_promotion();
    assert_eq!(copy.psql("select n from in_one"), "1");
    copy.stop(Stop::Immediate);
}

/// Root made the missing parents of a place for itself alone, and the server could not get through them:
/// the start command that the restore had printed ended with "Permission denied".
#[test]
fn d20261124_the_server_gets_through_parents_that_a_restore_made() {
    let Some(server) = Server::main() else { return };
    let (site, _source, one) = with_tablespace(&server);
    let (to, new_one) = (site.to("new/disk/data"), site.to("other/disk/one"));
    let mut command = Command::new(site.cluster.scratch().pgkeep_binary());
    command.arg("--config").arg(site.config.path()).args(["restore", "--yes", "--tablespace"]);
    command.arg(format!("{}={}", one.display(), new_one.display()));
    drop(run(command.arg("--to").arg(&to)).assert_ok());
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&site.to("new/disk")), mode(&to)), (0o755, 0o700));
    let copy = TestCluster::adopt(&server, &to).start();
    copy.wait_for_promotion();
    assert_eq!(copy.psql("select n from in_one"), "1");
    copy.stop(Stop::Immediate);
}
