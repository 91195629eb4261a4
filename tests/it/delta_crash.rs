//! Crash sweeps over restores that go over what is there (`--delta`): until the old control file goes, what is
//! there stays what it is; from then on no server starts on it; and whatever is left, the same restore finishes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use pgkeep::base::Event;
use pgkeep::restore::{Error, Target};

use crate::restore_crash::{
    CONTROL, Kind, MARK, Record, Scene, assert_starts, differences, kill_at_random, killed_after,
    scene,
};
use crate::support::run::run;
use crate::support::site::Site;
use crate::support::{Server, Stop, TestCluster, account};

const MARKED: &str = "the data directory is marked";
const GONE: &str = "the old control file is gone";

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).assert_ok();
}

/// Everything that was restored but the files that hold the time of the restore: the clock of a test moves where
/// something is waited for, as for the version of the server's programs.
fn timeless(scene: &Scene) -> BTreeMap<PathBuf, String> {
    const TIMED: [&str; 3] = ["backup_manifest", "pgkeep_restored.json", "postgresql.auto.conf"];
    let mut tree = scene.tree();
    tree.retain(|path, _| !TIMED.iter().any(|name| *path == scene.data.join(name)));
    tree
}

/// What a restore goes over, as often as it is asked for.
struct Old {
    scene: Scene,
    /// Copies of data directory and tablespace.
    data: PathBuf,
    space: PathBuf,
}

impl Old {
    /// A restored cluster that was used since, damaged and littered.
    fn new(server: &Server, site: &Site, mut scene: Scene) -> Self {
        scene.kind = Kind::Copy;
        scene.restore(Arc::new(Record::default())).unwrap();
        let used = TestCluster::adopt(server, &scene.data).start();
        used.wait_for_promotion();
        used.psql("update t set n = n + 1 where n % 100 = 0; create table later as select 1 as n");
        used.psql("insert into u values (1); checkpoint");
        used.stop(Stop::Fast);
        let at = |path: &str| scene.data.join(path);
        fs::remove_file(at(&site.path_of("u"))).unwrap();
        let map = at("global/pg_filenode.map");
        let mut content = fs::read(&map).unwrap();
        content[100] ^= 1;
        fs::write(&map, content).unwrap();
        fs::remove_file(at("pg_hba.conf")).unwrap();
        fs::create_dir(at("pg_hba.conf")).unwrap();
        for path in ["pg_hba.conf/in", "stray/deep/file", "base/stray", "standby.signal"] {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), "x").unwrap();
        }
        fs::write(scene.new.join("lost+found"), "kept").unwrap();
        // Not beside them: its links would make the tablespace another directory's, too.
        let kept = scene.data.with_file_name("kept");
        fs::create_dir(&kept).unwrap();
        let (data, space) = (kept.join("data"), kept.join("tablespace"));
        copy(&scene.data, &data);
        copy(&scene.new, &space);
        scene.kind = Kind::Over;
        Self { scene, data, space }
    }

    /// Puts it there again.
    fn put(&self) {
        self.scene.wipe();
        copy(&self.data, &self.scene.data);
        copy(&self.space, &self.scene.new);
    }
}

fn is_one_of_many(event: &Event) -> bool {
    matches!(event, Event::Advance { .. })
        || *event == Event::Step("something that is not in the backup is removed")
}

#[test]
fn f067_a_restore_over_a_cluster_killed_at_any_event_is_completed_by_the_next() {
    let Some(server) = Server::main() else { return };
    let (site, _copies, scene) = scene(&server);
    let old = Old::new(&server, &site, scene);
    old.put();
    let scene = &old.scene;
    let record = Arc::new(Record::default());
    scene.restore(Arc::<Record>::clone(&record)).unwrap();
    let reference = timeless(scene);
    assert!(!scene.is_marked() && scene.new.join("lost+found").exists());
    let events = record.0.lock().unwrap().clone();
    let place = |step| events.iter().position(|event| *event == Event::Step(step)).unwrap() + 1;
    let (marked, gone) = (place(MARKED), place(GONE));
    let named = place("the control file has its name");
    assert!(marked < gone && gone < named);
    // Until then nothing is written over, and nothing goes.
    let changes = |event: &&Event| is_one_of_many(event);
    assert_eq!(events[..gone].iter().find(changes), None);
    assert_starts(&server, &scene.data);

    old.put();
    let before = scene.tree();
    let some = events.len() / 12;
    for (k, event) in (1..).zip(&events) {
        if is_one_of_many(event) && k % some != 0 {
            continue;
        }
        old.put();
        assert!(scene.killed_at(k), "event {k} of {}", events.len());
        let context = format!("killed at event {k} of {}, {event:?}", events.len());
        let there = fs::read(scene.data.join(CONTROL)).ok();
        assert_eq!(there.is_some(), k < gone || k >= named, "{context}");
        if k < gone {
            // All of it, and the marks.
            let mut left = scene.tree();
            left.retain(|path, _| !path.ends_with(MARK));
            assert!(left == before, "{context}: {:#?}", differences(scene, &before));
        }
        if k >= marked && k < events.len() {
            let refused = scene.restore_with(Arc::new(Record::default()), |options| {
                options.delta = false;
            });
            let refused = refused.unwrap_err();
            assert!(matches!(refused, Error::Occupied { .. }), "{context}: {refused}");
            assert!(refused.to_string().contains("--delta finishes it"), "{context}: {refused}");
        }
        if k >= gone && k < named && matches!(event, Event::Step(_)) {
            let log = TestCluster::adopt(&server, &scene.data).start_expecting_failure();
            assert!(!log.contains("ready to accept"), "{context}\n{log}");
        }
        let again = scene.restore(Arc::new(Record::default()));
        again.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(timeless(scene) == reference, "{context}: {:#?}", differences(scene, &reference));
        assert!(!scene.is_marked(), "{context}");
    }
}

/// One directory, in which each run dies one event later than the one before.
#[test]
fn f067_a_restore_over_a_cluster_that_is_killed_again_and_again_is_completed_in_the_end() {
    let Some(server) = Server::main() else { return };
    let (site, _copies, scene) = scene(&server);
    let old = Old::new(&server, &site, scene);
    old.put();
    old.scene.restore(Arc::new(Record::default())).unwrap();
    let reference = timeless(&old.scene);
    old.put();
    let mut k = 2;
    while old.scene.killed_at(k) {
        k += 7;
    }
    assert!(k > reference.len() / 2, "only {k} events");
    assert!(timeless(&old.scene) == reference, "{:#?}", differences(&old.scene, &reference));
    assert_starts(&server, &old.scene.data);
}

/// What an interrupted restore has left, of whatever kind and to whatever target, is gone over too.
#[test]
fn f067_an_interrupted_restore_is_taken_over() {
    let Some(server) = Server::main() else { return };
    let (_site, _copies, mut scene) = scene(&server);
    scene.restore(Arc::new(Record::default())).unwrap();
    let reference = timeless(&scene);
    for step in ["what makes the server recover is written", "another place is marked"] {
        scene.kind = Kind::Copy;
        killed_after(&scene, step);
        let begun = fs::read_to_string(scene.data.join(MARK)).unwrap();
        for path in ["stray", "base"] {
            fs::create_dir_all(scene.data.join(path)).unwrap();
            account::unprivileged().own(&scene.data.join(path));
        }
        fs::write(scene.data.join("base/stray"), "x").unwrap();
        scene.kind = Kind::Over;
        // To another target than it was begun with, and killed on the way.
        let immediate = |options: &mut pgkeep::restore::Options| options.target = Target::Immediate;
        assert!(scene.killed_at(40));
        assert_ne!(fs::read_to_string(scene.data.join(MARK)).unwrap(), begun);
        scene.restore_with(Arc::new(Record::default()), immediate).unwrap();
        let settings = fs::read_to_string(scene.data.join("postgresql.auto.conf")).unwrap();
        assert!(settings.contains("recovery_target = 'immediate'"), "{settings}");
        scene.restore(Arc::new(Record::default())).unwrap();
        assert!(timeless(&scene) == reference, "{:#?}", differences(&scene, &reference));
        assert!(!scene.is_marked());
    }
    // Another cluster's is not.
    scene.kind = Kind::Copy;
    killed_after(&scene, "what makes the server recover is written");
    let mark = fs::read_to_string(scene.data.join(MARK)).unwrap();
    let mut theirs: serde_json::Value = serde_json::from_str(&mark).unwrap();
    theirs["system"] = "7".into();
    fs::write(scene.data.join(MARK), theirs.to_string()).unwrap();
    scene.kind = Kind::Over;
    let refused = scene.restore(Arc::new(Record::default())).unwrap_err();
    assert!(refused.to_string().contains("restore of another cluster"), "{refused}");
    fs::write(scene.data.join(MARK), mark).unwrap();
    // Nor is one that somebody is at.
    let held = fs::File::open(scene.data.join(MARK)).unwrap();
    held.lock().unwrap();
    let refused = scene.restore(Arc::new(Record::default())).unwrap_err();
    assert!(refused.to_string().contains("by another process right now"), "{refused}");
    held.unlock().unwrap();
    scene.restore(Arc::new(Record::default())).unwrap();
    assert_starts(&server, &scene.data);
}

/// The binary itself, killed at seeded moments.
#[test]
fn f067_the_binary_over_a_cluster_killed_at_random_moments_is_completed_by_the_same_command() {
    let Some(server) = Server::main() else { return };
    let (site, _copies, scene) = scene(&server);
    let old = Old::new(&server, &site, scene);
    let scene = &old.scene;
    let mapping = format!("{}={}", scene.old.display(), scene.new.display());
    let command = || {
        let mut command = site.config.pgkeep(["restore", "--yes", "--delta", "--tablespace"]);
        command.args([mapping.as_str(), "--target-action", "promote", "--archive", "off", "--to"]);
        command.arg(&scene.data);
        command
    };
    let put = || {
        old.put();
        for place in [&scene.data, &scene.new] {
            run(Command::new("chown")
                .arg("-R")
                .arg("--reference")
                .arg(site.cluster.data_dir())
                .arg(place))
            .assert_ok();
        }
    };
    put();
    kill_at_random(&command, &mut |ended| {
        if ended.is_ok() {
            assert_starts(&server, &scene.data);
            put();
        }
    });
    run(&mut command()).assert_ok();
    assert_starts(&server, &scene.data);
    assert!(!scene.data.join("stray").exists() && scene.new.join("lost+found").exists());
}
