//! What has fooled other tools: files that changed although time, size, LSN or WAL say that they did not, and
//! files that are not what they were under the same name. Each backup here is taken by a clock that is ahead
//! ([`crate::support::ahead`]), so that whatever may be left unread is.

use std::fs::{self, FileTimes, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use chrono::TimeDelta;
use pgkeep::backup::Finished;
use pgkeep::pg::page::{self, PageHeader};
use pgkeep::repo::BackupType;

use crate::support::ahead::AHEAD;
use crate::support::run::run;
use crate::support::site::{Site, started};
use crate::support::{ScratchDir, Server, Stop, TestCluster, account, tools};

const PAGE: usize = 8192;
/// Blocks of a relation's segment: 1 GiB.
const SEGMENT_BLOCKS: u32 = 131_072;

use BackupType::{Differential, Full, Incremental};

pub(crate) fn take(site: &Site, backup_type: BackupType) -> Finished {
    let taken = site.backup_ahead(backup_type, |_| {}).unwrap();
    assert_eq!(taken.summary.backup_type, backup_type, "nothing else was taken instead");
    taken
}

/// Restores a backup, and starts nothing in it: its files are what the backup holds.
pub(crate) fn restored(site: &Site, taken: &Finished) -> (ScratchDir, PathBuf) {
    let scratch = ScratchDir::new("copy");
    let to = scratch.join("data");
    let id = taken.summary.id.to_string();
    site.restore(&to, &["--backup", &id, "--target-immediate"]);
    (scratch, to)
}

/// Each of these files is held as it is.
#[track_caller]
fn assert_held(site: &Site, taken: &Finished, paths: &[&str]) {
    let (_scratch, to) = restored(site, taken);
    for path in paths {
        let source = fs::read(site.cluster.data_dir().join(path)).ok();
        let held = fs::read(to.join(path)).ok();
        assert!(source == held, "{} holds another {path}", taken.summary.id);
    }
}

/// A table of always the same length, with content of its own, and its file.
pub(crate) fn table(site: &Site, name: &str, word: &str) -> String {
    let rows = "generate_series(1, 2000) n";
    site.cluster
        .psql(&format!("create table {name} as select n, md5('{word}' || n) t from {rows}"));
    site.path_of(name)
}

/// Gives a file the times of another, or any.
pub(crate) fn set_modified(path: &Path, time: SystemTime) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
}

pub(crate) fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

/// What an in-place write does, which keeps the inode.
pub(crate) fn overwrite(path: &Path, content: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(content, 0).unwrap();
}

fn replace(path: &Path, content: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).unwrap();
    account::unprivileged().own(&beside);
    fs::rename(&beside, path).unwrap();
}

/// Sizes and modification times say that nothing has changed, or that it will; only change time and inode tell.
#[test]
fn f044_same_size_and_time_other_content_is_read() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let names = ["in_place", "renamed", "past", "future", "control"];
    let paths: Vec<String> = names.iter().map(|name| table(&site, name, "before")).collect();
    let other = table(&site, "other", "after");
    site.cluster.stop(Stop::Fast);
    let file = |path: &str| site.cluster.data_dir().join(path);
    let other = fs::read(file(&other)).unwrap();
    let day = Duration::from_secs(86_400);
    let future = SystemTime::now() + day;
    set_modified(&file(&paths[3]), future);
    site.cluster.start();
    take(&site, Full);

    site.cluster.stop(Stop::Fast);
    for (name, path) in names.iter().zip(&paths) {
        let path = file(path);
        let before = fs::metadata(&path).unwrap();
        assert_eq!(before.len(), other.len() as u64);
        let time = modified(&path);
        match *name {
            "renamed" => replace(&path, &other),
            "control" => continue,
            _ => overwrite(&path, &other),
        }
        // The clock was set back, or it is that of a file from the future; else it is as it was.
        set_modified(&path, if *name == "past" { time - day } else { time });
        let after = fs::metadata(&path).unwrap();
        assert_eq!(before.len(), after.len());
        assert_eq!(before.mtime() == after.mtime(), *name != "past");
        assert_eq!(before.ino() == after.ino(), *name != "renamed");
    }
    site.cluster.start();
    let all: Vec<&str> = paths.iter().map(String::as_str).collect();
    let taken = take(&site, Differential);
    assert!(taken.summary.totals.unread_files > 500, "{:?}", taken.summary.totals);
    assert_held(&site, &taken, &all);
    let again = take(&site, Incremental);
    assert_held(&site, &again, &all);
}

/// A table is dropped, and another gets its number: longer, shorter, or empty.
#[test]
fn f045_a_relation_s_number_comes_again_with_other_content() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let paths = ["longer", "shorter", "empty", "same"].map(|name| table(&site, name, "before"));
    let other = table(&site, "other", "after");
    take(&site, Full);
    site.cluster.stop(Stop::Fast);
    let content = fs::read(site.cluster.data_dir().join(&other)).unwrap();
    let time = modified(&site.cluster.data_dir().join(&paths[3]));
    let twice = [content.as_slice(), &content].concat();
    for (path, content) in paths.iter().zip([&twice[..], &content[..PAGE], &[], &content]) {
        let path = site.cluster.data_dir().join(path);
        fs::remove_file(&path).unwrap();
        let content: Vec<u8> = numbered_pages(content, 0);
        replace(&path, &content);
        set_modified(&path, time);
    }
    site.cluster.start();
    let taken = take(&site, Differential);
    assert_eq!(taken.summary.totals.invalid_pages, 0);
    assert_held(&site, &taken, &paths.each_ref().map(String::as_str));
}

/// The same pages with the checksums of these places.
fn numbered_pages(content: &[u8], first: u32) -> Vec<u8> {
    let mut content = content.to_vec();
    for (block, page) in (first..).zip(content.chunks_mut(PAGE)) {
        let sum = page::checksum(page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
    }
    content
}

/// A segment of 1 GiB and more would take long: the file of a second segment, which the server never opens here,
/// comes, shrinks, goes and comes again.
#[test]
fn f046_a_segment_vanishes_and_grows_again() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let first = table(&site, "t", "before");
    let other = table(&site, "other", "after");
    let second = format!("{first}.1");
    site.cluster.psql("checkpoint");
    let content = |path: &str| {
        let content = fs::read(site.cluster.data_dir().join(path)).unwrap();
        numbered_pages(&content, SEGMENT_BLOCKS)
    };
    let (content, other) = (content(&first), content(&other));
    let file = site.cluster.data_dir().join(&second);
    let half = content.len() / PAGE / 2 * PAGE;
    let steps: [(BackupType, Option<Vec<u8>>); 7] = [
        (Full, Some(content.clone())),
        (Incremental, Some(content[..half].to_vec())),
        (Incremental, Some([&content[..half], &other[half..]].concat())),
        (Differential, None),
        (Incremental, Some(other)),
        (Incremental, Some(Vec::new())),
        (Differential, Some(content)),
    ];
    for (backup_type, content) in steps {
        match &content {
            Some(content) => replace(&file, content),
            None => fs::remove_file(&file).unwrap(),
        }
        let taken = take(&site, backup_type);
        assert_eq!(taken.summary.totals.invalid_pages, 0);
        assert_held(&site, &taken, &[&first, &second]);
    }
}

/// Zero pages of a bulk load are not in the WAL, and blocks of before must not come back in their place.
#[test]
fn f036_a_table_is_truncated_and_grows_again_by_copy() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).wal_segment_mib(1);
    let site = Site::start(launch.setting("wal_log_hints", "off"));
    let cluster = &site.cluster;
    let path = table(&site, "t", "before");
    take(&site, Full);
    for (backup_type, change) in [
        (Incremental, "delete from t where n > 500; vacuum t"),
        (
            Incremental,
            "copy t (n, t) from program 'seq -f %.0f:bulk 501 2500' with (delimiter ':')",
        ),
        (Differential, "delete from t; vacuum t"),
        (Incremental, "insert into t select n, 'late' from generate_series(1, 100) n"),
    ] {
        cluster.psql(change);
        let before =
            cluster.psql("select count(*), md5(string_agg(n || t, ',' order by n)) from t");
        let taken = take(&site, backup_type);
        assert_held(&site, &taken, &[&path, &format!("{path}_vm"), &format!("{path}_fsm")]);
        let (_scratch, to) = restored(&site, &taken);
        let copy = started(&server, &to);
        let after = copy.psql("select count(*), md5(string_agg(n || t, ',' order by n)) from t");
        assert_eq!(after, before, "{change}");
    }
}

/// By file copy, a new database's files are in no WAL, have old pages' LSNs, and here the names of files that the
/// parent knows.
#[test]
fn f040_f045_a_database_comes_again_with_its_oid_by_file_copy() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let cluster = &site.cluster;
    cluster.psql("create database a");
    let fill = |name: &str| {
        let rows = format!("insert into t select n, '{name}' from generate_series(1, 999) n");
        cluster.psql_in(name, &rows);
    };
    cluster.psql_in("a", "create table t (n int, t text)");
    fill("a");
    // The same files with other rows.
    cluster.psql("create database b template a");
    cluster.psql_in("b", "delete from t; vacuum t");
    fill("b");
    let make = |template: &str| {
        let made =
            format!("create database c oid = 60000 template {template} strategy = file_copy");
        cluster.psql(&made);
    };
    make("a");
    let path = cluster.psql_in("c", "select pg_relation_filepath('t')");
    assert!(path.starts_with("base/60000/"));
    take(&site, Full);
    for (backup_type, template) in [(Differential, "b"), (Incremental, "a"), (Incremental, "b")] {
        cluster.psql("drop database c");
        make(template);
        let now = cluster.psql_in("c", "select pg_relation_filepath('t')");
        assert_eq!(now, path, "the same number: both databases were made alike");
        let taken = take(&site, backup_type);
        assert_held(&site, &taken, &[&path]);
        let (_scratch, to) = restored(&site, &taken);
        let copy = started(&server, &to);
        assert_eq!(
            copy.psql_in("c", "select min(t), max(t), count(*) from t"),
            format!("{template}|{template}|999")
        );
    }
}

/// pg_resetwal may move the WAL on: what was before is content like any other.
#[test]
fn f042_pg_resetwal_moves_on_and_the_content_is_right() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    table(&site, "t", "before");
    let full = take(&site, Full);
    site.cluster.psql("update t set t = 'after' where n % 100 = 0");
    let digest = "select count(*), md5(string_agg(n || t, ',' order by n)) from t";
    let before = site.cluster.psql(digest);
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);
    let mut reset = site.cluster.command("pg_resetwal");
    reset.args(["-l", "000000010000000000000F00", "-D"]).arg(site.cluster.data_dir());
    run(&mut reset).assert_ok();
    site.cluster.start();
    for backup_type in [Differential, Incremental] {
        let taken = take(&site, backup_type);
        assert!(taken.summary.start_lsn.0 > full.summary.stop_lsn.0 + (1 << 30));
        let (_scratch, to) = restored(&site, &taken);
        let copy = started(&server, &to);
        assert_eq!(copy.psql(digest), before);
        tools::assert_amcheck(&copy);
    }
}

/// The LSNs of a file's pages.
fn lsns(content: &[u8]) -> Vec<u64> {
    content.chunks(PAGE).map(|page| PageHeader::parse(page).unwrap().lsn.0).collect()
}

/// Without checksums and `wal_log_hints`, a reader's hints change pages whose LSNs stay, and no WAL tells.
#[test]
fn f043_hints_change_pages_whose_lsns_stay() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).wal_segment_mib(1);
    let site = Site::start(launch.setting("wal_log_hints", "off"));
    let path = table(&site, "t", "before");
    // Nobody has read the rows yet, and nothing is there to be pruned, which WAL would tell.
    site.cluster.psql("checkpoint");
    take(&site, Full);
    let read = || fs::read(site.cluster.data_dir().join(&path)).unwrap();
    let before = read();
    site.cluster.psql("select count(*) from t; checkpoint");
    let after = read();
    assert!(before != after && lsns(&before) == lsns(&after), "hints were set, and nothing else");
    let taken = take(&site, Differential);
    assert_held(&site, &taken, &[&path]);
}

/// The free space map is not in the WAL at all, and of the visibility map not every change.
#[test]
fn f039_the_maps_are_held_as_they_are() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).wal_segment_mib(1);
    let site = Site::start(launch.setting("wal_log_hints", "off"));
    let path = table(&site, "t", "before");
    site.cluster.psql("vacuum t; checkpoint");
    take(&site, Full);
    let maps = ["_fsm", "_vm"].map(|fork| format!("{path}{fork}"));
    let read = |path: &String| fs::read(site.cluster.data_dir().join(path)).unwrap();
    let before = maps.each_ref().map(read);
    site.cluster.psql("delete from t where n % 2 = 0; vacuum t; checkpoint");
    let after = maps.each_ref().map(read);
    assert!(before[0] != after[0], "there is more free space");
    assert_eq!(lsns(&before[0]), lsns(&after[0]), "and no LSN tells of it");
    let taken = take(&site, Differential);
    site.cluster.psql("delete from t where n < 100; checkpoint");
    assert!(read(&maps[1]) != after[1], "pages are not all visible any more");
    let next = take(&site, Incremental);
    assert_held(&site, &next, &maps.each_ref().map(String::as_str));
    let (_scratch, to) = restored(&site, &taken);
    for (map, content) in maps.iter().zip(&after) {
        assert!(fs::read(to.join(map)).unwrap() == *content, "{map}");
    }
}

/// A page that was bad is bad still where nobody reads it again, and a backup that did not say so would look
/// better than it is.
#[test]
fn a_damaged_page_that_the_parent_knew_is_told_again() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let path = table(&site, "t", "before");
    site.cluster.stop(Stop::Fast);
    let file = site.cluster.data_dir().join(&path);
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    bad[2 * PAGE + 5000] ^= 1;
    overwrite(&file, &bad);
    site.cluster.start();
    let full = take(&site, Full);
    assert_eq!(full.damage.len(), 1);
    assert_eq!((full.damage[0].path.as_str(), full.damage[0].block), (path.as_str(), 2));
    let unread = take(&site, Incremental);
    assert_eq!((&unread.damage, unread.summary.totals.invalid_pages), (&full.damage, 1));
    assert!(unread.summary.totals.unread_files > 500);
    let further = take(&site, Incremental);
    assert_eq!(further.damage, full.damage, "through a chain");
    let reread = site.backup_ahead(Differential, |options| options.skips = false).unwrap();
    assert_eq!((&reread.damage, reread.summary.totals.unread_files), (&full.damage, 0));
    site.cluster.stop(Stop::Fast);
    overwrite(&file, &good);
    site.cluster.start();
    for backup_type in [Incremental, Differential] {
        let mended = take(&site, backup_type);
        assert_eq!((mended.damage.len(), mended.summary.totals.invalid_pages), (0, 0));
        assert_held(&site, &mended, &[&path]);
    }
}

/// A list of damage has an end: of files that nobody had touched, what was behind it was forgotten.
#[test]
fn d2026_11_29_where_the_list_of_damage_is_cut_nothing_is_left_unread() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let rows = "select n, repeat('x', 600) t from generate_series(1, 10500) n";
    site.cluster.psql(&format!("create table t with (fillfactor = 10) as {rows}"));
    let path = site.path_of("t");
    site.cluster.stop(Stop::Fast);
    let file = site.cluster.data_dir().join(&path);
    let mut content = fs::read(&file).unwrap();
    content.chunks_mut(PAGE).for_each(|page| page[PAGE - 100] ^= 1);
    let pages = (content.len() / PAGE) as u64;
    assert!(pages > 10_000, "{pages}");
    overwrite(&file, &content);
    site.cluster.start();
    let full = take(&site, Full).summary.totals;
    assert_eq!(full.invalid_pages, pages);
    let next = take(&site, Incremental).summary.totals;
    assert_eq!((next.invalid_pages, next.unread_files), (pages, 0));
}

/// A visibility map that is read, and is what the parent has, is as bad as it was.
#[test]
fn d2026_11_29_a_damaged_map_that_the_parent_knew_is_told_again() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let path = format!("{}_vm", table(&site, "t", "before"));
    site.cluster.psql("vacuum t");
    site.cluster.stop(Stop::Fast);
    let file = site.cluster.data_dir().join(&path);
    let mut bad = fs::read(&file).unwrap();
    bad[5000] ^= 1;
    overwrite(&file, &bad);
    site.cluster.start();
    let full = take(&site, Full);
    assert_eq!((full.damage.len(), full.damage[0].path.as_str()), (1, path.as_str()));
    for backup_type in [Incremental, Incremental, Differential] {
        let child = take(&site, backup_type);
        assert_eq!((&child.damage, child.summary.totals.invalid_pages), (&full.damage, 1));
    }
}

/// Only what has been at rest for a minute is left unread, and `--no-skip` reads that too.
#[test]
fn f044_what_changed_within_a_minute_before_the_parent_is_read_again() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    table(&site, "t", "before");
    // By a clock that is behind, all files have just changed when the parent begins.
    let behind = TimeDelta::hours(-1);
    let take_by = |shift, backup_type, skips| {
        let taken = site.backup_shifted(shift, backup_type, |options| options.skips = skips);
        taken.unwrap().summary
    };
    let first = take_by(behind, Full, true);
    let second = take_by(AHEAD, Differential, true);
    assert_eq!((second.totals.unread_files, second.totals.unread_bytes), (0, 0));
    let third = take_by(AHEAD, Incremental, true);
    assert_eq!(third.parent, Some(second.id.clone()));
    let totals = &third.totals;
    // Visibility maps are read all the same.
    let maps = site.cluster.psql(
        "select count(*) from pg_ls_dir('base') d, pg_ls_dir('base/' || d) f where f like '%\\_vm'",
    );
    let few = totals.files - totals.unread_files - maps.parse::<u64>().unwrap();
    assert!(totals.unread_files > 500 && few < 20, "{totals:?}, {maps} maps");
    assert!(totals.unread_bytes * 10 > totals.bytes * 9, "{totals:?}");
    assert!(totals.stored < first.totals.stored / 10, "{totals:?}");
    let fourth = take_by(AHEAD, Incremental, false);
    assert_eq!((fourth.totals.unread_files, fourth.totals.unread_bytes), (0, 0));
    assert_eq!(fourth.totals.files, totals.files);
}

/// Writes a byte of a file through a mapping, now and again when told to: on tmpfs such a write leaves all times as
/// they are. So does a power cut on other file systems, which comes between a page and the times of its file.
const WRITER: &str = "
import mmap, sys
with open(sys.argv[1], 'r+b') as file:
    mapped = mmap.mmap(file.fileno(), 0)
    for line in sys.stdin:
        mapped[8000] ^= 1
        print('written', flush=True)
";

/// Of a visibility map all that stat says stayed, and its content did not: the next backup took the parent's.
#[test]
fn d2026_11_29_a_visibility_map_is_read_whatever_its_times_say() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let space = tempfile::Builder::new().prefix("pgkeep-map").tempdir_in("/dev/shm").unwrap();
    account::unprivileged().own(space.path());
    site.cluster.psql(&format!("create tablespace shm location '{}'", space.path().display()));
    site.cluster.psql(
        "create table t tablespace shm as select n, md5(n::text) t from generate_series(1, 2000) n",
    );
    site.cluster.psql("vacuum t");
    site.cluster.psql("checkpoint");
    let path = format!("{}_vm", site.path_of("t"));
    let map = site.cluster.data_dir().join(&path);
    let mut writer = std::process::Command::new("python3")
        .args(["-c", WRITER])
        .arg(&map)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut tell, mut said) =
        (writer.stdin.take().unwrap(), BufReader::new(writer.stdout.take().unwrap()));
    let mut write = || {
        tell.write_all(b"\n").unwrap();
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "written\n");
    };
    write();
    let full = take(&site, Full);
    let before = (fs::metadata(&map).unwrap(), fs::read(&map).unwrap());
    write();
    let after = (fs::metadata(&map).unwrap(), fs::read(&map).unwrap());
    let times =
        |metadata: &fs::Metadata| (metadata.ctime(), metadata.ctime_nsec(), metadata.mtime());
    assert_eq!(times(&before.0), times(&after.0), "nothing but its content tells");
    assert_ne!(before.1, after.1);
    let diff = take(&site, Differential);
    assert!(diff.summary.totals.unread_files > 500);
    drop(tell);
    writer.wait().unwrap();
    for (taken, content) in [(&full, &before.1), (&diff, &after.1)] {
        let scratch = ScratchDir::new("copy");
        let (to, moved) = (scratch.join("data"), scratch.join("shm"));
        let oid = site.cluster.psql("select oid from pg_tablespace where spcname = 'shm'");
        let id = taken.summary.id.to_string();
        let tablespace = format!("{oid}={}", moved.display());
        site.restore(&to, &["--backup", &id, "--target-immediate", "--tablespace", &tablespace]);
        assert!(fs::read(to.join(&path)).unwrap() == *content, "{id}");
    }
}
