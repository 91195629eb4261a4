//! Chains and what is no relation: configuration, other files, and servers of which neither clock nor WAL tells
//! what has changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::TimeDelta;
use pgkeep::backup::Finished;
use pgkeep::repo::{BackupType, Source};
use serde_json::Value;

use crate::chain_tricks::{modified, overwrite, set_modified, take};
use crate::config_live::like_debian;
use crate::support::ahead::AHEAD;
use crate::support::library::LibraryCluster;
use crate::support::run::run;
use crate::support::site::{Site, started};
use crate::support::{ScratchDir, Server, Stop, TestCluster, account};

use BackupType::{Differential, Full, Incremental};

/// What is there, and of each its mode and content.
type Tree = BTreeMap<PathBuf, String>;

fn tree(folder: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let found = path.symlink_metadata().unwrap();
            let content = if found.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
            let mode = found.permissions().mode();
            let told =
                format!("{mode:o}, {} bytes {:08x}", content.len(), crc32c::crc32c(&content));
            tree.insert(path.strip_prefix(folder).unwrap().to_path_buf(), told);
            if found.is_dir() {
                folders.push(path);
            }
        }
    }
    tree
}

/// Writes a file as the server's user would.
fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    account::unprivileged().own(path);
}

/// A byte changes; time and size do not.
fn touch_nothing_but(path: &Path, change: impl FnOnce(&mut [u8])) {
    let time = modified(path);
    let mut content = fs::read(path).unwrap();
    change(&mut content);
    overwrite(path, &content);
    set_modified(path, time);
}

/// A cluster with configuration beside it, and other people's files in it.
struct Littered {
    site: Site,
    etc: ScratchDir,
    copies: ScratchDir,
    _base: TestCluster,
}

impl Littered {
    fn new(server: &Server) -> Self {
        let (etc, copies) = (ScratchDir::new("etc"), ScratchDir::new("copies"));
        let socket = copies.create_dir("socket");
        let base = TestCluster::create(server).checksums().wal_segment_mib(1).prepare();
        fs::create_dir_all(etc.path().join("main")).unwrap();
        like_debian(&base, &etc, &socket);
        let conf = etc.path().join("main/postgresql.conf");
        let launch = TestCluster::adopt(server, base.data_dir());
        let site = Site::start(launch.setting("config_file", conf.to_str().unwrap()));
        let littered = Self { site, etc, copies, _base: base };
        let notes = littered.notes();
        fs::create_dir(&notes).unwrap();
        account::unprivileged().own(&notes);
        for name in ["kept", "changed", "gone", "mode"] {
            write(&notes.join(name), &name.repeat(10_000).into_bytes());
        }
        littered
    }

    fn notes(&self) -> PathBuf {
        self.site.cluster.data_dir().join("notes")
    }

    fn main(&self, name: &str) -> PathBuf {
        self.etc.path().join("main").join(name)
    }

    /// What a backup of this moment must hold: other files, configuration of one directory, and of elsewhere.
    fn now(&self) -> [Tree; 2] {
        let mut main = tree(&self.etc.path().join("main"));
        main.remove(Path::new("conf.d"));
        main.retain(|path, _| path.extension().is_some_and(|end| end == "conf"));
        [tree(&self.notes()), main]
    }

    /// What a backup does hold, and whether `shared.conf` is among it.
    fn held(&self, taken: &Value) -> ([Tree; 2], bool) {
        let id = taken["id"].as_str().unwrap();
        let (to, etc) = (self.copies.join(id), self.copies.join(&format!("etc-{id}")));
        let mut command = self.site.config.pgkeep(["restore", "--yes", "--target-immediate"]);
        command.args(["--backup", id, "--to"]).arg(&to).arg("--config-to").arg(&etc);
        run(&mut command).assert_ok();
        let shared = self.etc.path().join("shared.conf");
        let is_there = etc.join(shared.strip_prefix("/").unwrap()).exists();
        let mut main = tree(&etc);
        main.retain(|path, _| {
            let is_conf = path.extension().is_some_and(|end| end == "conf");
            is_conf && (path.components().count() == 1 || path.starts_with("conf.d"))
        });
        ([tree(&to.join("notes")), main], is_there)
    }
}

#[test]
fn configuration_and_other_files_are_those_of_each_moment_of_a_chain() {
    let Some(server) = Server::main() else { return };
    let scene = Littered::new(&server);
    let notes = scene.notes();
    let take = |backup_type| (scene.site.backup_of(backup_type), scene.now());
    let full = take("full");

    touch_nothing_but(&notes.join("changed"), |content| content[20_000] ^= 1);
    fs::remove_file(notes.join("gone")).unwrap();
    write(&notes.join("new"), b"new");
    fs::create_dir(notes.join("turns")).unwrap();
    account::unprivileged().own(&notes.join("turns"));
    fs::set_permissions(notes.join("mode"), fs::Permissions::from_mode(0o640)).unwrap();
    touch_nothing_but(&scene.main("conf.d/10.conf"), |content| {
        let at = content.iter().position(|byte| *byte == b'7').unwrap();
        content[at] = b'8';
    });
    write(&scene.main("conf.d/20.conf"), b"log_connections = on\n");
    let conf = fs::read_to_string(scene.main("postgresql.conf")).unwrap();
    let without = conf.replace("include '../shared.conf'", "");
    fs::write(scene.main("postgresql.conf"), without).unwrap();
    let diff = take("diff");

    write(&notes.join("gone"), b"back");
    write(&notes.join("new"), &b"longer".repeat(9_000));
    fs::remove_dir(notes.join("turns")).unwrap();
    write(&notes.join("turns"), b"a file now");
    fs::remove_file(scene.main("conf.d/20.conf")).unwrap();
    let incr = take("incr");
    // Nothing has changed, and the file outside comes again.
    fs::write(scene.main("postgresql.conf"), conf).unwrap();
    let last = take("incr");

    let shared = [true, false, false, true];
    for ((taken, then), shared) in [full, diff, incr, last].iter().zip(shared) {
        let (held, is_there) = scene.held(taken);
        assert_eq!(&held, then, "{taken}");
        assert_eq!(is_there, shared, "{taken}");
    }
}

/// Of a table each block goes its own way; of a small file that is none, all or nothing.
#[test]
fn f039_a_small_file_that_changed_is_stored_whole() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    live.cluster.psql("create table t as select n, md5(n::text) t from generate_series(1, 2000) n");
    // All hints are set.
    live.cluster.psql("vacuum (freeze) t");
    live.cluster.psql("checkpoint");
    let table = live.cluster.psql("select pg_relation_filepath('t')");
    let notes = live.cluster.data_dir().join("notes");
    let content: Vec<u8> = (0..48u32 << 10).map(|i| (i * i / 251).to_le_bytes()[0]).collect();
    write(&notes, &content);
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    live.backup(&repository, |_| {}).unwrap();
    live.cluster.psql("update t set t = 'x' where n = 1; checkpoint");
    touch_nothing_but(&notes, |content| content[30_000] ^= 1);
    let taken = live.backup(&repository, |options| options.backup_type = Differential).unwrap();
    let opened = repository.open_backup(&live.place, &taken.summary.id).unwrap();
    let mut rows = opened.rows().unwrap();
    let mut seen = 0;
    while let Some(row) = rows.next_row().unwrap() {
        let own =
            |layer: &&pgkeep::repo::Layer| matches!(layer.source, Source::Pack { base: None, .. });
        let blocks: u32 = row.layers.iter().map(|layer| layer.count).sum();
        let stored: u32 = row.layers.iter().filter(own).map(|layer| layer.count).sum();
        if row.path == b"notes" {
            assert_eq!((blocks, stored), (6, 6), "{row:?}");
            seen += 1;
        } else if row.path == table.as_bytes() {
            assert!(blocks > 10 && (1..4).contains(&stored), "{row:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}

const DIGEST: &str = "select string_agg(found, ' ') from (select tableoid::regclass || ':' || count(*) || \
                      ':' || md5(string_agg(n || t, ',' order by n, t)) found from t group by tableoid) as each";

/// Each backup restores to what was there when it was taken.
fn assert_digests(server: &Server, site: &Site, taken: &[(Finished, String)]) {
    let scratch = ScratchDir::new("copies");
    for (backup, digest) in taken {
        let id = backup.summary.id.to_string();
        let to = scratch.join(&id);
        site.restore(&to, &["--backup", &id, "--target-immediate"]);
        let copy = started(server, &to);
        assert_eq!(&copy.psql(DIGEST), digest, "{id}");
        copy.stop(Stop::Fast);
    }
}

/// A clock that goes back a day makes a child older than its parent, by its name and by the times of the files that
/// were written since.
#[test]
fn f044_a_child_whose_clock_was_set_back_has_what_changed() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t as select n, md5(n::text) t from generate_series(1, 3000) n");
    let take_by = |shift, backup_type| {
        site.cluster.psql("update t set t = t || 'x' where n % 100 = 0; checkpoint");
        let taken = site.backup_shifted(shift, backup_type, |_| {}).unwrap();
        (taken, site.cluster.psql(DIGEST))
    };
    let back = TimeDelta::days(-1);
    let full = take_by(AHEAD, Full);
    let incr = take_by(back, Incremental);
    let diff = take_by(back, Differential);
    let again = take_by(AHEAD, Incremental);
    for child in [&incr, &diff, &again] {
        let parent = child.0.summary.parent.as_ref().unwrap();
        assert_eq!(parent.root(), full.0.summary.id, "{}", child.0.summary.id);
    }
    assert_eq!(diff.0.summary.parent.as_ref(), Some(&full.0.summary.id));
    assert_digests(&server, &site, &[full, incr, diff, again]);
}

/// With `wal_level = minimal` a table that is made or emptied in the transaction that fills it has nothing in the
/// WAL but its commit.
#[test]
fn f042_what_minimal_wal_does_not_tell_is_in_the_next_differential() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql(
        "create table t (n int, t text); insert into t select n, md5(n::text) from generate_series(1, 3000) n",
    );
    let taken = |backup_type| (take(&site, backup_type), site.cluster.psql(DIGEST));
    let full = taken(Full);
    let restart_with = |settings: [(&str, &str); 3]| {
        for (name, value) in settings {
            site.cluster.psql(&format!("alter system set {name} = '{value}'"));
        }
        site.cluster.restart();
    };
    restart_with([("wal_level", "minimal"), ("max_wal_senders", "0"), ("archive_mode", "off")]);
    let at = "select pg_current_wal_insert_lsn() - '0/0'";
    let before: u64 = site.cluster.psql(at).parse().unwrap();
    site.cluster.psql(
        "set wal_skip_threshold = 0; begin; create table more () inherits (t); \
         copy more from program 'seq -f %.0f:bulk 1 30000' with (delimiter ':'); commit; \
         begin; truncate only t; copy t from program 'seq -f %.0f:again 1 30000' with (delimiter ':'); commit",
    );
    let written = site.cluster.psql(at).parse::<u64>().unwrap() - before;
    let size: u64 = site.cluster.psql("select pg_relation_size('t')").parse().unwrap();
    assert!(size > 1 << 20 && written < size / 4, "{written} of {size}");
    restart_with([("wal_level", "replica"), ("max_wal_senders", "10"), ("archive_mode", "on")]);
    let diff = taken(Differential);
    site.cluster.psql("update more set t = 'x' where n = 7");
    let incr = taken(Incremental);
    assert!(diff.1 != full.1 && incr.1 != diff.1);
    assert_digests(&server, &site, &[full, diff, incr]);
}
