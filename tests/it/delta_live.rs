//! Restores over what is there (`--delta`) on real servers: content decides, strangers go and nothing else does,
//! and what must not be written over is refused.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use serde_json::Value;

use crate::support::run::{Ran, run};
use crate::support::site::{Site, json, started};
use crate::support::{ScratchDir, Server, Stop, TestCluster, account, tools};

pub(crate) const DIGEST: &str =
    "select count(*) || ' ' || md5(string_agg(n || text, ',' order by n)) from t";

/// Files that a restore writes anew each time.
const OWN: [&str; 5] = [
    "postgresql.auto.conf",
    "backup_label",
    "backup_manifest",
    "pgkeep_restored.json",
    "global/pg_control",
];

pub(crate) fn fill(site: &Site, from: u32, to: u32) {
    site.cluster.psql(&format!(
        "insert into t select n, repeat(md5(n::text), 8) from generate_series({from}, {to}) n"
    ));
}

/// A cluster with a table of some megabytes, and where it is restored to.
pub(crate) fn site(server: &Server) -> (Site, ScratchDir) {
    let site = Site::small(server);
    site.cluster.psql("create table t (n int primary key, text text)");
    fill(&site, 1, 20_000);
    (site, ScratchDir::new("over"))
}

/// A restore with `--delta` that may fail.
pub(crate) fn try_delta(site: &Site, to: &Path, arguments: &[&str]) -> Ran {
    let mut command = site.config.pgkeep(["restore", "--yes", "--json", "--delta", "--to"]);
    run(command.arg(to).args(["--target-action", "promote"]).args(arguments))
}

/// A restore with `--delta`: its plan and what it did.
#[track_caller]
pub(crate) fn delta(site: &Site, to: &Path, arguments: &[&str]) -> (Value, Value) {
    let done = unverified(site, to, arguments);
    tools::assert_verifybackup(&site.cluster, to);
    done
}

/// As [`delta`], of a directory in which something lies that is nobody's to remove.
#[track_caller]
fn unverified(site: &Site, to: &Path, arguments: &[&str]) -> (Value, Value) {
    let done = json(&try_delta(site, to, arguments).assert_ok().stdout);
    (done["plan"].clone(), done["restored"].clone())
}

#[track_caller]
fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {value}"))
}

/// What the table says in a copy, which is stopped again.
#[track_caller]
pub(crate) fn digest_of(server: &Server, to: &Path) -> String {
    let copy = started(server, to);
    tools::assert_amcheck(&copy);
    let digest = copy.psql(DIGEST);
    copy.stop(Stop::Fast);
    digest
}

/// Everything below a directory but what a restore writes anew: kind, mode, content.
fn tree(place: &Path) -> BTreeMap<PathBuf, String> {
    let (mut tree, mut folders) = (BTreeMap::new(), vec![place.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(place).unwrap().to_path_buf();
            let found = path.symlink_metadata().unwrap();
            if OWN.iter().any(|own| relative == Path::new(own)) {
                continue;
            }
            let what = if found.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if found.is_file() {
                format!("{:08x} {}", crc32c::crc32c(&fs::read(&path).unwrap()), found.len())
            } else {
                folders.push(path);
                String::new()
            };
            tree.insert(relative, format!("{:o} {what}", found.mode()));
        }
    }
    tree
}

#[track_caller]
fn assert_same(found: &BTreeMap<PathBuf, String>, expected: &BTreeMap<PathBuf, String>) {
    let paths = found.keys().chain(expected.keys());
    let differs = |path: &&PathBuf| found.get(*path) != expected.get(*path);
    let show = |path: &PathBuf| (path.clone(), found.get(path), expected.get(path));
    let different: Vec<_> = paths.filter(differs).map(show).collect();
    assert!(different.is_empty(), "{different:#?}");
}

#[test]
fn f065_an_unchanged_directory_stays_and_one_that_was_used_comes_back() {
    let Some(server) = Server::main() else { return };
    let (site, copies) = site(&server);
    let digest = site.cluster.psql(DIGEST);
    let id = site.backup();
    let to = copies.join("data");
    let args = ["--backup", &id, "--target-immediate"];
    // Into nothing it is a restore like any other.
    let (plan, first) = delta(&site, &to, &args);
    assert_eq!(plan["ground"]["delta"], Value::Null);
    assert_eq!((number(&first, "/kept/files"), number(&first, "/removed")), (0, 0));
    let before = tree(&to);
    let (plan, again) = delta(&site, &to, &args);
    assert_eq!(plan["ground"]["delta"]["over"], "cluster");
    assert_eq!(number(&plan, "/ground/delta/strangers"), 0);
    let files = number(&again, "/files");
    assert_eq!(
        number(&again, "/kept/files"),
        files - 2,
        "the control file and the settings: {again}"
    );
    assert_eq!((number(&again, "/written/files"), number(&again, "/removed")), (2, 0));
    assert!(number(&again, "/written/bytes") < 20_000, "{again}");
    assert_eq!(
        number(&again, "/kept/bytes") + number(&again, "/written/bytes"),
        number(&again, "/bytes")
    );
    assert_same(&tree(&to), &before);
    assert_eq!(digest_of(&server, &to), digest);

    // It was a server's since: other blocks, WAL, a new timeline.
    let used = started(&server, &to);
    used.psql("update t set text = 'x' where n % 50 = 0; create table later as select 1 as n");
    used.psql("create unlogged table u as select generate_series(1, 1000)");
    used.psql("vacuum full pg_class");
    used.stop(Stop::Fast);
    let (plan, back) = delta(&site, &to, &args);
    assert!(number(&plan, "/ground/delta/strangers") > 10, "{plan}");
    assert!(number(&back, "/kept/bytes") > number(&back, "/written/bytes"), "{back}");
    assert_same(&tree(&to), &before);
    assert_eq!(digest_of(&server, &to), digest);
}

#[test]
fn f065_a_directory_goes_to_an_earlier_backup_of_a_chain_and_to_a_later_one() {
    let Some(server) = Server::main() else { return };
    let (site, copies) = site(&server);
    let to = copies.join("data");
    let mut taken = vec![(site.backup(), site.cluster.psql(DIGEST))];
    for (backup_type, change) in [
        ("diff", "update t set text = 'one' where n % 500 = 0; create table a as select 1 as n"),
        ("incr", "delete from t where n between 2000 and 3000; drop table a"),
        ("diff", "truncate t; insert into t select n, 'new' from generate_series(1, 3000) n"),
    ] {
        site.cluster.psql(change);
        let backup = site.backup_of(backup_type)["id"].as_str().unwrap().to_owned();
        taken.push((backup, site.cluster.psql(DIGEST)));
    }
    for at in [2, 0, 3, 1, 2] {
        let (backup, digest) = &taken[at];
        let (_, done) = delta(&site, &to, &["--backup", backup, "--target-immediate"]);
        assert_eq!(&digest_of(&server, &to), digest, "{backup} {done}");
    }
    // And to where the WAL goes.
    delta(&site, &to, &[]);
    assert_eq!(digest_of(&server, &to), taken[3].1);
}

/// Gives everything below a directory to the account that pgkeep runs as.
pub(crate) fn own_all(place: &Path) {
    account::unprivileged().own(place);
    if place.symlink_metadata().unwrap().is_dir() {
        for entry in fs::read_dir(place).unwrap() {
            own_all(&entry.unwrap().path());
        }
    }
}

/// Gives a file the times that it had.
fn set_times(path: &Path, was: &fs::Metadata) {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(was.atime(), was.atime_nsec()),
        last_modification: time(was.mtime(), was.mtime_nsec()),
    };
    utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

/// Spoils files in every way, and puts other things in their places; a second name of one of them, and a directory
/// that is none of the cluster's.
fn damage(site: &Site, copies: &ScratchDir, to: &Path) -> (PathBuf, PathBuf) {
    let at = |path: &str| to.join(path);
    let table = site.path_of("t");
    let precious = copies.write("precious", "mine");
    // The same size and time, one other bit each, at both ends of a block and of the file.
    let was = fs::metadata(at(&table)).unwrap();
    let mut content = fs::read(at(&table)).unwrap();
    for position in [0, 8191, 8192 * 40 + 7, content.len() - 1] {
        content[position] ^= 1;
    }
    fs::write(at(&table), &content).unwrap();
    set_times(&at(&table), &was);
    let index = site.path_of("t_pkey");
    let content = fs::read(at(&index)).unwrap();
    fs::write(at(&index), &content[..content.len() - 8192 - 100]).unwrap();
    let map = fs::read(at("global/pg_filenode.map")).unwrap();
    fs::write(at("global/pg_filenode.map"), [&map[..], &[0; 20_000]].concat()).unwrap();
    fs::remove_file(at("PG_VERSION")).unwrap();
    fs::write(at("pg_hba.conf"), "").unwrap();
    // Another thing in a file's place, or a directory's.
    let (small, other) = (site.path_of("small"), site.path_of("other"));
    fs::remove_file(at(&small)).unwrap();
    fs::create_dir_all(at(&small).join("deep/er")).unwrap();
    fs::write(at(&small).join("deep/er/file"), "x").unwrap();
    fs::remove_file(at(&other)).unwrap();
    symlink(&precious, at(&other)).unwrap();
    fs::remove_file(at("pg_ident.conf")).unwrap();
    fs::hard_link(&precious, at("pg_ident.conf")).unwrap();
    let linked = copies.join("linked");
    fs::hard_link(at("postgresql.conf"), &linked).unwrap();
    fs::write(&linked, "written through the other name").unwrap();
    fs::remove_dir(at("pg_notify")).unwrap();
    fs::write(at("pg_notify"), "x").unwrap();
    let elsewhere = copies.create_dir("elsewhere");
    copies.write("elsewhere/precious", "mine");
    fs::remove_dir(at("pg_twophase")).unwrap();
    symlink(&elsewhere, at("pg_twophase")).unwrap();
    fs::set_permissions(at("base"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(at("pg_xact/0000"), fs::Permissions::from_mode(0o400)).unwrap();
    (linked, elsewhere)
}

/// Puts strangers of every kind there, and what is none; the tablespace's own directory.
fn litter(site: &Site, to: &Path, new: &Path, elsewhere: &Path) -> PathBuf {
    let at = |path: &str| to.join(path);
    let table = site.path_of("t");
    // Strangers.
    for (path, content) in [
        ("base/stray", "x"),
        ("log.old/deep/er/1", "xx"),
        ("standby.signal", ""),
        ("tablespace_map", "16384 /nowhere\n"),
        ("pg_wal/000000010000000000000099", "x"),
        ("pg_wal/archive_status/000000010000000000000098.done", ""),
        ("pg_replslot/slot/state", "x"),
        ("base/pgsql_tmp/pgsql_tmp1.0", "x"),
        ("lost+found/kept", "x"),
        ("postmaster.opts", "x"),
    ] {
        fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        fs::write(at(path), content).unwrap();
    }
    let database = Path::new(&table).parent().unwrap();
    fs::write(at(database.to_str().unwrap()).join("99999_init"), "x").unwrap();
    symlink(elsewhere, at("link-to-elsewhere")).unwrap();
    symlink(elsewhere, at("pg_tblspc/99999")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at(".s.PGSQL.1")).unwrap());
    let version = fs::read_dir(new).unwrap().next().unwrap().unwrap().path();
    fs::write(version.join("stray"), "x").unwrap();
    fs::create_dir_all(new.join("PG_13_202007201/5")).unwrap();
    fs::write(new.join("PG_13_202007201/5/1259"), "another version's").unwrap();
    fs::create_dir(new.join("lost+found")).unwrap();
    version
}

#[test]
fn f065_content_decides_and_strangers_of_every_kind_go() {
    let Some(server) = Server::main() else { return };
    let (site, copies) = site(&server);
    let (old, new) = (copies.create_dir("source-tablespace"), copies.join("tablespace"));
    site.cluster.psql(&format!("create tablespace one location '{}'", old.display()));
    site.cluster.psql("create table s tablespace one as select generate_series(1, 5000) as n");
    site.cluster.psql("create table small as select 1 as n; create table other as select 2 as n");
    let digest = site.cluster.psql(DIGEST);
    let id = site.backup();
    let to = copies.join("data");
    let mapping = format!("{}={}", old.display(), new.display());
    let args = ["--backup", &id, "--target-immediate", "--tablespace", &mapping];
    delta(&site, &to, &args);
    let (data, space) = (tree(&to), tree(&new));

    let (linked, elsewhere) = damage(&site, &copies, &to);
    let version = litter(&site, &to, &new, &elsewhere);
    own_all(copies.path());
    let at = |path: &str| to.join(path);

    let (plan, done) = unverified(&site, &to, &args);
    let first = plan["ground"]["delta"]["first_strangers"].to_string();
    for named in ["base/stray", "log.old", "link-to-elsewhere", "pg_tblspc/99999"] {
        assert!(first.contains(named), "{named} in {first}");
    }
    assert!(plan["warnings"].to_string().contains("pg_tblspc/99999"), "{plan}");
    assert_eq!(
        number(&plan, "/ground/delta/strangers"),
        number(&done, "/removed"),
        "{plan} {done}"
    );
    // A little of the large table only.
    assert!(number(&done, "/kept/bytes") > number(&done, "/written/bytes") * 5, "{done}");
    assert_eq!(fs::read(at("lost+found/kept")).unwrap(), b"x");
    let (mut found, mut found_space) = (tree(&to), tree(&new));
    found.retain(|path, _| !path.starts_with("lost+found"));
    assert!(new.join("lost+found").exists());
    assert_eq!(fs::read(new.join("PG_13_202007201/5/1259")).unwrap(), b"another version's");
    found_space.retain(|path, _| path.starts_with(version.strip_prefix(&new).unwrap()));
    assert_same(&found, &data);
    assert_same(&found_space, &space);
    assert_eq!(fs::read(copies.join("precious")).unwrap(), b"mine");
    assert_eq!(fs::read(&linked).unwrap(), b"written through the other name");
    assert_eq!(fs::metadata(at("postgresql.conf")).unwrap().nlink(), 1);
    assert_eq!(fs::read(elsewhere.join("precious")).unwrap(), b"mine");
    for kept in [at("lost+found"), new.join("PG_13_202007201"), new.join("lost+found")] {
        fs::remove_dir_all(kept).unwrap();
    }
    tools::assert_verifybackup(&site.cluster, &to);
    assert_eq!(digest_of(&server, &to), digest);

    // The tablespace goes elsewhere: what it leaves behind stays.
    let third = copies.join("third");
    let mapping = format!("{}={}", old.display(), third.display());
    let args = ["--backup", &id, "--target-immediate", "--tablespace", &mapping];
    let left = tree(&new);
    delta(&site, &to, &args);
    assert_same(&tree(&new), &left);
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select count(*), max(n) from s"), "5000|5000");
    assert_eq!(
        copy.psql("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'one'"),
        third.display().to_string()
    );
    copy.stop(Stop::Fast);
}

#[test]
fn f058_wal_behind_a_link_stays_behind_it() {
    let Some(server) = Server::main() else { return };
    let (site, copies) = site(&server);
    let digest = site.cluster.psql(DIGEST);
    let id = site.backup();
    let to = copies.join("data");
    let args = ["--backup", &id, "--target-immediate"];
    delta(&site, &to, &args);
    let wal = copies.join("wal");
    run(site.cluster.command("mv").arg(to.join("pg_wal")).arg(&wal)).assert_ok();
    run(site.cluster.command("ln").arg("-s").arg(&wal).arg(to.join("pg_wal"))).assert_ok();
    for path in
        ["000000010000000000000099", "notes", "archive_status/000000010000000000000098.done"]
    {
        fs::write(wal.join(path), "x").unwrap();
    }
    own_all(copies.path());
    let (plan, _) = delta(&site, &to, &args);
    assert_eq!(plan["ground"]["delta"]["wal"], wal.display().to_string());
    assert_eq!(fs::read_link(to.join("pg_wal")).unwrap(), wal);
    let left: Vec<_> = tree(&wal).into_keys().collect();
    assert_eq!(left, [Path::new("archive_status"), Path::new("notes")]);
    assert_eq!(digest_of(&server, &to), digest);
    // One that leads nowhere, where its disk may not be mounted; or to where the restore removes what is not in the
    // backup.
    fs::remove_dir_all(&wal).unwrap();
    let refused = try_delta(&site, &to, &args).assert_code(15);
    refused.assert_says("pg_wal leads to").assert_says("--discard-wal goes on without it");
    assert!(to.join("pg_wal").is_symlink() && to.join("global/pg_control").exists());
    for target in [copies.join("nowhere"), to.join("pg_wal_here")] {
        fs::remove_file(to.join("pg_wal")).ok();
        fs::remove_dir_all(to.join("pg_wal")).ok();
        fs::create_dir_all(to.join("pg_wal_here")).unwrap();
        symlink(&target, to.join("pg_wal")).unwrap();
        own_all(&to);
        delta(&site, &to, &[&args[..], &["--discard-wal"]].concat());
        assert!(to.join("pg_wal").symlink_metadata().unwrap().is_dir());
        assert!(!to.join("pg_wal_here").exists());
    }
    assert_eq!(digest_of(&server, &to), digest);
}

#[test]
fn f058_f066_what_must_not_be_written_over_is_refused_and_stays() {
    let Some(server) = Server::main() else { return };
    let (site, copies) = site(&server);
    let old = copies.create_dir("source-tablespace");
    site.cluster.psql(&format!("create tablespace one location '{}'", old.display()));
    site.cluster.psql("create table s tablespace one as select generate_series(1, 5000) as n");
    site.backup();
    let own = site.cluster.data_dir().to_path_buf();
    let refused = |to: &Path, arguments: &[&str], why: &str| {
        let ran = try_delta(&site, to, arguments);
        assert!(matches!(ran.code(), Some(1 | 15)), "{ran}");
        ran.assert_says(why)
    };

    // A running server, with its lock file and without.
    refused(&own, &[], "belongs to a server");
    let lock = fs::read(own.join("postmaster.pid")).unwrap();
    fs::remove_file(own.join("postmaster.pid")).unwrap();
    refused(&own, &[], "has a server running on it");
    fs::write(own.join("postmaster.pid"), lock).unwrap();
    account::unprivileged().own(&own.join("postmaster.pid"));
    // A copy that was made with its links, beside its running source and beside its stopped one.
    let copied = copies.join("copied");
    drop(run(std::process::Command::new("cp").arg("-a").arg(&own).arg(&copied)));
    fs::remove_file(copied.join("postmaster.pid")).unwrap();
    fs::remove_dir_all(copied.join("pg_wal/archive_status")).unwrap();
    refused(&copied, &[], "has a server running on it");
    site.cluster.psql("insert into s values (0)");
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);
    refused(&copied, &[], "lead, too");
    assert!(copied.join("global/pg_control").exists());

    // Something else than this cluster.
    let foreign = copies.create_dir("foreign");
    copies.write("foreign/precious", "mine");
    let mapping = format!("{}={}", old.display(), copies.join("mapped").display());
    let mapped = ["--tablespace", mapping.as_str()];
    refused(&foreign, &mapped, "holds no cluster of PostgreSQL 15");
    assert_eq!(tree(&foreign).len(), 1);
    let stranger = TestCluster::create(&server).start();
    stranger.stop(Stop::Fast);
    let before = tree(stranger.data_dir());
    refused(stranger.data_dir(), &mapped, "holds another cluster: its system identifier is");
    assert_same(&tree(stranger.data_dir()), &before);
    let usage = try_delta(&site, &foreign, &["--rename-old"]);
    usage.assert_code(2);

    // A tablespace that no link of this directory leads to; a repository where strangers go.
    let full = copies.create_dir("full");
    copies.write("full/precious", "mine");
    let onto_full = format!("{}={}", old.display(), full.display());
    let to = copies.join("data");
    delta(&site, &to, &mapped);
    refused(&to, &["--tablespace", &onto_full], "does not lead there");
    assert_eq!(tree(&full).len(), 1);
    let inside = to.join("repository");
    run(std::process::Command::new("cp").arg("-a").arg(site.repo.path()).arg(&inside)).assert_ok();
    own_all(&inside);
    let config = fs::read_to_string(site.config.path()).unwrap();
    let path = |path: &Path| path.display().to_string();
    let moved = config.replace(&path(site.repo.path()), &path(&inside));
    assert_ne!(moved, config);
    let moved = copies.write("moved.toml", moved);
    let mut command = site.cluster.pgkeep();
    command.arg("--config").arg(&moved).args(["restore", "--yes", "--delta", "--to"]).arg(&to);
    run(command.args(mapped)).assert_code(1).assert_says("the repository");
    assert!(inside.join("pgkeep.json").exists());
}

#[test]
fn f065_wal_that_was_never_archived_is_not_lost() {
    let Some(server) = Server::main() else { return };
    let (site, copies) = site(&server);
    site.backup();
    site.cluster.archive_now();
    site.cluster.set_archive_command("false");
    fill(&site, 20_001, 20_100);
    let digest = site.cluster.psql(DIGEST);
    site.cluster.switch_wal();
    site.cluster.stop(Stop::Fast);
    let own = site.cluster.data_dir().to_path_buf();
    let before = tree(&own);
    let refused = try_delta(&site, &own, &[]).assert_code(15);
    let hint = format!("pgkeep wal backfill --from {}", own.display());
    let refused = refused.assert_says("and the archive does not have").assert_says(&hint);
    assert!(refused.stdout.contains("\"error\""), "{refused}");
    // What the server meant to do with them says nothing: a standby marks what it receives as done.
    let status = own.join("pg_wal/archive_status");
    let names = |suffix: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(&status).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|found| found == suffix)).collect()
    };
    let ready = names("ready");
    for path in &ready {
        fs::rename(path, path.with_extension("done")).unwrap();
    }
    try_delta(&site, &own, &[]).assert_code(15).assert_says("and the archive does not have");
    for path in &ready {
        fs::rename(path.with_extension("done"), path).unwrap();
    }
    assert_same(&tree(&own), &before);
    run(site.config.pgkeep(["wal", "backfill", "--yes", "--from"]).arg(&own)).assert_ok();
    delta(&site, &own, &["--archive", "off"]);
    assert_eq!(digest_of(&server, &own), digest);

    // A copy is not meant to archive: what it wrote is told.
    let to = copies.join("data");
    site.restore(&to, &["--archive", "off"]);
    let copy = started(&server, &to);
    copy.psql("insert into t values (0, 'late')");
    copy.kill9();
    fs::remove_file(to.join("postmaster.pid")).ok();
    let (plan, _) = delta(&site, &to, &["--archive", "off"]);
    let warnings = plan["warnings"].to_string();
    assert!(warnings.contains("wrote itself goes: 00000002"), "{warnings}");
    assert_eq!(digest_of(&server, &to), digest);
}

#[test]
fn f067_a_wreck_is_gone_over_with_a_warning() {
    let Some(server) = Server::main() else { return };
    let (site, copies) = site(&server);
    let digest = site.cluster.psql(DIGEST);
    let id = site.backup();
    let to = copies.join("data");
    let args = ["--backup", &id, "--target-immediate"];
    delta(&site, &to, &args);
    let control = to.join("global/pg_control");
    for content in [None, Some(vec![0; 8192])] {
        fs::remove_file(&control).unwrap();
        if let Some(content) = content {
            fs::write(&control, content).unwrap();
            own_all(&control);
        }
        let (plan, done) = delta(&site, &to, &args);
        assert_eq!(plan["ground"]["delta"]["over"], "wreck");
        assert!(
            plan["warnings"].to_string().contains("no control file that can be read"),
            "{plan}"
        );
        assert_eq!(number(&done, "/written/files"), 2, "{done}");
    }
    assert_eq!(digest_of(&server, &to), digest);
    fs::remove_file(&control).unwrap();
    fs::write(to.join("PG_VERSION"), "14\n").unwrap();
    let refused = try_delta(&site, &to, &args).assert_code(15);
    refused.assert_says("holds no cluster of PostgreSQL 15");

    // Who is asked is told what is written over.
    fs::write(to.join("PG_VERSION"), "15\n").unwrap();
    let mut command = site.config.pgkeep(["restore", "--delta", "--dry-run", "--to"]);
    let plan = run(command.arg(&to).args(args)).assert_ok();
    for line in ["goes over     a cluster without its control file", "  removes       "] {
        assert!(plan.stdout.contains(line), "{plan}");
    }
}
