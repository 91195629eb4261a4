//! Crash sweeps over restore: a process of its own is killed at its k-th event, for every k. Whatever
//! it leaves does not start, or is whole; the same restore again completes it, and the result is that of
//! a restore that nobody disturbed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgkeep::base::{Ctx, Event, Observer, Timestamp};
use pgkeep::pg::recovery::TargetAction;
use pgkeep::restore::{
    self, Archiving, Error, Options, RestoreCommand, TablespaceMapping, Target, TimelineChoice,
};
use pgkeep::wiring::{self, Access};
use rustix::process::{Signal, getpid, kill_process};

use crate::support::run::{run, start};
use crate::support::site::Site;
use crate::support::{Ran, ScratchDir, Server, Stop, TestCluster};

pub(crate) const MARK: &str = "pgkeep_restore_in_progress.json";
pub(crate) const CONTROL: &str = "global/pg_control";
const CHILD: &str = "PGKEEP_TEST_RESTORE_CHILD";

/// One restore, as often as it is asked for: everything that it depends on stands still.
pub(crate) struct Scene {
    /// What the restored server calls: where its account can run it, not where cargo built it.
    pub(crate) program: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) old: PathBuf,
    pub(crate) new: PathBuf,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Copy,
    Standby,
    /// Over what is there.
    Over,
    /// The configuration outside the data directory too, to where [`Scene::etc`] is.
    Configured,
}

impl Scene {
    fn etc(&self) -> PathBuf {
        self.data.with_file_name("etc")
    }

    pub(crate) fn restore(&self, observer: Arc<dyn Observer>) -> restore::Result<()> {
        self.restore_with(observer, |_| {})
    }

    pub(crate) fn restore_with(
        &self,
        observer: Arc<dyn Observer>,
        change: impl FnOnce(&mut Options),
    ) -> restore::Result<()> {
        self.restore_after(observer, change, |_| {})
    }

    /// As [`Scene::restore_with`], where something happens when the plan was made.
    pub(crate) fn restore_after(
        &self,
        observer: Arc<dyn Observer>,
        change: impl FnOnce(&mut Options),
        happens: impl FnOnce(&restore::Plan),
    ) -> restore::Result<()> {
        let settings = wiring::settings(Some(&self.config)).unwrap();
        let resolved = settings.resolve(None, None).unwrap();
        let noon = Timestamp::from_timestamp(1_795_176_000, 0).unwrap();
        let ctx = Ctx { observer, ..Ctx::fixed(noon, 7) };
        let repository = resolved.repository().unwrap();
        let opened = wiring::open(&ctx, repository, Access::ReadOnly).unwrap();
        let (place, registration) =
            wiring::find_cluster("local", &opened.repository, &resolved.cluster_name, None, None)
                .unwrap();
        let mut options = self.options();
        change(&mut options);
        let plan = restore::plan(&ctx, &options, &opened.repository, &place, &registration)?;
        happens(&plan);
        restore::execute(&ctx, &plan, &options).map(drop)
    }

    fn options(&self) -> Options {
        Options {
            to: self.data.clone(),
            backup: None,
            target: Target::Latest,
            inclusive: true,
            timeline: TimelineChoice::Latest,
            action: TargetAction::Promote,
            standby: self.kind == Kind::Standby,
            archiving: Archiving::Off,
            archiving_is_default: true,
            tablespaces: vec![TablespaceMapping {
                old: self.old.display().to_string(),
                new: self.new.clone(),
            }],
            config_to: (self.kind == Kind::Configured).then(|| self.etc()),
            rename_old: false,
            delta: self.kind == Kind::Over,
            discard_wal: false,
            repository_folders: Vec::new(),
            data_directory: None,
            own_files: Vec::new(),
            user: None,
            jobs: 1,
            server: None,
            programs: restore::ProgramPlaces {
                configured: None,
                root: "/".into(),
                path: Vec::new(),
            },
            restore_command: RestoreCommand {
                program: vec![
                    self.program.display().to_string(),
                    "--config".into(),
                    self.config.display().to_string(),
                ],
                epoch: Some(1),
            },
        }
    }

    /// Restores in a process that dies at its k-th event; whether it did.
    pub(crate) fn killed_at(&self, k: usize) -> bool {
        let mut words = format!("{k}\n{:?}", self.kind);
        for path in [&self.program, &self.config, &self.data, &self.old, &self.new] {
            words = format!("{words}\n{}", path.display());
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["restore_crash::child_that_dies", "--exact", "--nocapture"]);
        let ran = run(command.env(CHILD, words));
        let is_killed = ran.status.signal() == Some(Signal::KILL.as_raw());
        assert!(is_killed || ran.is_ok(), "event {k}: {ran}");
        is_killed
    }

    pub(crate) fn wipe(&self) {
        for place in [&self.data, &self.new, &self.etc()] {
            if place.exists() {
                fs::remove_dir_all(place).unwrap();
            }
        }
    }

    /// Everything that was restored: kind, mode, owner, content.
    pub(crate) fn tree(&self) -> BTreeMap<PathBuf, String> {
        let mut tree = BTreeMap::new();
        let mut folders = vec![self.data.clone(), self.new.clone(), self.etc()];
        folders.retain(|folder| folder.exists());
        while let Some(folder) = folders.pop() {
            tree.insert(folder.clone(), describe(&folder));
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let found = path.symlink_metadata().unwrap();
                if found.is_dir() {
                    folders.push(path);
                } else {
                    tree.insert(path.clone(), describe(&path));
                }
            }
        }
        tree
    }

    pub(crate) fn is_marked(&self) -> bool {
        self.data.join(MARK).exists() || self.new.join(MARK).exists()
    }
}

fn describe(path: &Path) -> String {
    let found = path.symlink_metadata().unwrap();
    let owner = format!("{:o} {}:{}", found.mode(), found.uid(), found.gid());
    if found.is_symlink() {
        format!("{owner} -> {}", fs::read_link(path).unwrap().display())
    } else if found.is_file() {
        let content = fs::read(path).unwrap();
        format!("{owner} {} bytes, {:08x}", content.len(), crc32c::crc32c(&content))
    } else {
        owner
    }
}

/// Counts events, and kills its own process at one of them.
#[derive(Debug)]
struct DieAt {
    k: usize,
    seen: AtomicUsize,
}

impl Observer for DieAt {
    fn event(&self, _: Event) {
        if self.seen.fetch_add(1, Ordering::SeqCst) + 1 == self.k {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Record(pub(crate) Mutex<Vec<Event>>);

impl Observer for Record {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

/// The other side of [`Scene::killed_at`]; by itself it has nothing to do.
#[test]
fn child_that_dies() {
    let Some(words) = std::env::var_os(CHILD).map(OsString::into_string) else { return };
    let words = words.unwrap();
    let words: Vec<&str> = words.lines().collect();
    let [k, kind, paths @ ..] = &words[..] else { panic!("{words:?}") };
    let [program, config, data, old, new] = paths else { panic!("{words:?}") };
    let [program, config, data, old, new] = [program, config, data, old, new].map(PathBuf::from);
    let kinds = [Kind::Copy, Kind::Standby, Kind::Over, Kind::Configured];
    let kind = kinds.into_iter().find(|known| format!("{known:?}") == *kind).unwrap();
    let scene = Scene { program, config, data, old, new, kind };
    let (k, seen) = (k.parse().unwrap(), AtomicUsize::new(0));
    scene.restore(Arc::new(DieAt { k, seen })).unwrap();
}

/// A small cluster with a tablespace, backed up; few files, since each is an event.
pub(crate) fn scene(server: &Server) -> (Site, ScratchDir, Scene) {
    let copies = ScratchDir::new("copies");
    let hba = copies.write("pg_hba.conf", "local all all trust\n");
    let launch = TestCluster::create(server).checksums().wal_segment_mib(1);
    let site = Site::start(launch.setting("hba_file", hba.to_str().unwrap()));
    let old = copies.create_dir("source-tablespace");
    site.cluster.psql(&format!("create tablespace one location '{}'", old.display()));
    site.cluster.psql("create table t tablespace one as select generate_series(1, 3000) as n");
    site.cluster.psql("create table u (n int); alter system set work_mem = '5MB'");
    for template in ["template0", "template1"] {
        site.cluster.psql(&format!(
            "update pg_database set datistemplate = false where datname = '{template}'"
        ));
        site.cluster.psql(&format!("drop database {template}"));
    }
    site.backup();
    site.cluster.psql("insert into t values (3001)");
    site.cluster.archive_now();
    let (data, new) = (copies.join("data"), copies.join("tablespace"));
    let program = site.cluster.scratch().pgkeep_binary().to_path_buf();
    let kind = Kind::Copy;
    let scene = Scene { program, config: site.config.path(), data, old, new, kind };
    (site, copies, scene)
}

pub(crate) fn assert_starts(server: &Server, data: &Path) {
    let copy = TestCluster::adopt(server, data).start();
    if data.join("standby.signal").exists() {
        copy.wait_until("(select count(*) from t) = 3001");
        copy.promote();
    }
    copy.wait_for_promotion();
    assert_eq!(copy.psql("select count(*), max(n) from t"), "3001|3001");
    copy.psql("insert into t values (1); create table v tablespace one as select 1");
    copy.stop(Stop::Immediate);
}

#[test]
fn f067_a_restore_killed_at_any_event_does_not_start_and_is_completed_by_the_next() {
    let Some(server) = Server::main() else { return };
    sweep(&server, Kind::Copy);
}

#[test]
fn f067_a_standby_or_its_configuration_killed_at_any_event_is_completed_by_the_next() {
    let Some(server) = Server::main() else { return };
    sweep(&server, Kind::Standby);
    sweep(&server, Kind::Configured);
}

fn sweep(server: &Server, kind: Kind) {
    let (_site, _copies, mut scene) = scene(server);
    scene.kind = kind;
    let record = Arc::new(Record::default());
    scene.restore(Arc::<Record>::clone(&record)).unwrap();
    let reference = scene.tree();
    assert!(!scene.is_marked(), "the marks are gone");
    assert_eq!(scene.etc().exists(), kind == Kind::Configured);
    assert_eq!(scene.data.join("standby.signal").exists(), kind == Kind::Standby);
    let events = record.0.lock().unwrap().clone();
    let named =
        events.iter().position(|event| *event == Event::Step("the control file has its name"));
    let named = named.unwrap() + 1;
    assert_starts(server, &scene.data);

    // Every step, and some of the files: the second test has them all.
    let some = events.len() / 15;
    for (k, event) in (1..).zip(&events) {
        if matches!(event, Event::Advance { .. }) && k % some != 0 {
            continue;
        }
        scene.wipe();
        assert!(scene.killed_at(k), "event {k} of {}", events.len());
        let context = format!("killed at event {k} of {}, {event:?}", events.len());
        let is_complete = scene.data.join(CONTROL).exists();
        assert_eq!(is_complete, k >= named, "{context}");
        if matches!(event, Event::Step(_)) && !is_complete {
            let log = TestCluster::adopt(server, &scene.data).start_expecting_failure();
            assert!(!log.contains("ready to accept"), "{context}\n{log}");
        }
        let again = scene.restore(Arc::new(Record::default()));
        if k == events.len() {
            // Its last step was done: what stands there is a finished restore.
            assert!(matches!(again, Err(Error::Occupied { .. })), "{context}: {again:?}");
        } else {
            again.unwrap_or_else(|error| panic!("{context}: {error}"));
        }
        assert!(scene.tree() == reference, "{context}: {:#?}", differences(&scene, &reference));
    }

    // Killed just after the control file had its name: the server may as well be started at once.
    scene.wipe();
    assert!(scene.killed_at(named) && scene.is_marked());
    assert_starts(server, &scene.data);
    let refused = scene.restore(Arc::new(Record::default())).unwrap_err();
    assert!(matches!(refused, Error::Occupied { .. }), "{refused}");
    assert!(refused.to_string().contains("started since"), "{refused}");
}

pub(crate) fn differences(scene: &Scene, reference: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let tree = scene.tree();
    let paths = tree.keys().chain(reference.keys());
    let differs = |path: &&PathBuf| tree.get(*path) != reference.get(*path);
    let show = |path: &PathBuf| {
        format!("{}: {:?}, not {:?}", path.display(), tree.get(path), reference.get(path))
    };
    paths.filter(differs).map(show).collect()
}

/// One directory, in which each run dies one event later than the one before.
#[test]
fn f067_a_restore_that_is_killed_again_and_again_is_completed_in_the_end() {
    let Some(server) = Server::main() else { return };
    let (_site, _copies, scene) = scene(&server);
    scene.restore(Arc::new(Record::default())).unwrap();
    let reference = scene.tree();
    scene.wipe();
    let mut k = 1;
    while scene.killed_at(k) {
        if scene.data.join(CONTROL).exists() {
            break;
        }
        k += 1;
    }
    assert!(k > reference.len() / 2, "only {k} events");
    scene.restore(Arc::new(Record::default())).unwrap();
    assert!(scene.tree() == reference, "{:#?}", differences(&scene, &reference));
    assert!(!scene.is_marked());
    assert_starts(&server, &scene.data);
}

/// What an interrupted run leaves is believed only as far as its content is right, and nothing that is
/// not of this restore gets into the cluster.
#[test]
fn f065_f067_a_continued_restore_believes_nothing_and_keeps_no_stranger() {
    let Some(server) = Server::main() else { return };
    let (site, copies, scene) = scene(&server);
    scene.restore(Arc::new(Record::default())).unwrap();
    let reference = scene.tree();
    let table = site.path_of("u");
    let late = |scene: &Scene| killed_after(scene, "everything but the control file is durable");

    late(&scene);
    let in_data = |path: &str| scene.data.join(path);
    // Right length and wrong content; too short; too long; gone; another name elsewhere; a link.
    let version = fs::read(in_data("PG_VERSION")).unwrap();
    fs::write(in_data("PG_VERSION"), vec![b'x'; version.len()]).unwrap();
    let (shorter, longer) = (in_data("pg_hba.conf"), in_data("pg_ident.conf"));
    fs::write(&shorter, b"short").unwrap();
    fs::write(&longer, [fs::read(&longer).unwrap(), vec![0; 9]].concat()).unwrap();
    fs::remove_file(in_data(&table)).unwrap();
    let elsewhere = copies.join("elsewhere");
    fs::hard_link(in_data("global/pg_filenode.map"), &elsewhere).unwrap();
    let precious = copies.write("precious", "mine");
    fs::remove_file(in_data("postgresql.conf")).unwrap();
    std::os::unix::fs::symlink(&precious, in_data("postgresql.conf")).unwrap();
    fs::write(in_data("backup_label"), b"START WAL LOCATION: 0/0").unwrap();
    fs::set_permissions(in_data("base"), fs::Permissions::from_mode(0o777)).unwrap();
    scene.restore(Arc::new(Record::default())).unwrap();
    assert!(scene.tree() == reference, "{:#?}", differences(&scene, &reference));
    assert_eq!(fs::read(&precious).unwrap(), b"mine");
    assert_eq!(fs::metadata(&elsewhere).unwrap().nlink(), 1, "the restored file is its own");

    // What is not of this restore: refused by name, before the control file.
    let oid = site.cluster.psql("select oid from pg_tablespace where spcname = 'one'");
    for stranger in [
        "base/stray",
        "standby.signal",
        "pg_wal/000000010000000000000001",
        &format!("pg_tblspc/{oid}/stray"),
    ] {
        late(&scene);
        fs::write(in_data(stranger), b"x").unwrap();
        let refused = scene.restore(Arc::new(Record::default())).unwrap_err();
        assert!(matches!(refused, Error::Occupied { .. }), "{refused}");
        assert!(refused.to_string().contains(stranger), "{refused}");
        assert!(!in_data(CONTROL).exists() && in_data(stranger).exists());
        fs::remove_file(in_data(stranger)).unwrap();
        scene.restore(Arc::new(Record::default())).unwrap();
        assert!(scene.tree() == reference, "{:#?}", differences(&scene, &reference));
    }
    // A link that leads elsewhere.
    late(&scene);
    let link = in_data(&format!("pg_tblspc/{oid}"));
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&scene.old, &link).unwrap();
    let refused = scene.restore(Arc::new(Record::default())).unwrap_err();
    assert!(refused.to_string().contains("does not lead to its tablespace"), "{refused}");
    // The mark of another restore in the tablespace's place.
    fs::remove_file(scene.new.join(MARK)).unwrap();
    let refused = scene.restore(Arc::new(Record::default())).unwrap_err();
    assert!(matches!(&refused, Error::Occupied { path, .. } if *path == scene.new), "{refused}");
}

/// Kills a restore after a step, in an empty place.
pub(crate) fn killed_after(scene: &Scene, step: &'static str) {
    scene.wipe();
    let record = Arc::new(Record::default());
    scene.restore(Arc::<Record>::clone(&record)).unwrap();
    let events = record.0.lock().unwrap().clone();
    let k = events.iter().position(|event| *event == Event::Step(step)).unwrap() + 1;
    scene.wipe();
    assert!(scene.killed_at(k));
}

/// Without a `postgresql.auto.conf` in the backup, the one of the interrupted run is ours alone.
#[test]
fn f067_the_settings_are_written_once() {
    let Some(server) = Server::main() else { return };
    let (site, _copies, scene) = scene(&server);
    let auto_conf = site.cluster.data_dir().join("postgresql.auto.conf");
    for is_there in [true, false] {
        if !is_there {
            fs::remove_file(&auto_conf).unwrap();
            site.backup();
        }
        killed_after(&scene, "what makes the server recover is written");
        scene.restore(Arc::new(Record::default())).unwrap();
        let settings = fs::read_to_string(scene.data.join("postgresql.auto.conf")).unwrap();
        assert_eq!(settings.matches("\nrestore_command").count(), 1, "{settings}");
        assert_eq!(settings.contains("work_mem"), is_there, "{settings}");
        assert_starts(&server, &scene.data);
    }
}

/// A better backup that was taken since does not make the same command another restore.
#[test]
fn f067_the_same_command_goes_on_with_its_backup() {
    let Some(server) = Server::main() else { return };
    let (site, _copies, scene) = scene(&server);
    assert!(scene.killed_at(40));
    let mark = fs::read_to_string(scene.data.join(MARK)).unwrap();
    let later = site.backup();
    assert!(!mark.contains(&later), "{mark}");
    scene.restore(Arc::new(Record::default())).unwrap();
    assert_starts(&server, &scene.data);
}

#[test]
fn f067_two_restores_into_one_directory_are_told_apart() {
    let Some(server) = Server::main() else { return };
    let (_site, _copies, scene) = scene(&server);
    assert!(scene.killed_at(40));
    let held = fs::File::open(scene.data.join(MARK)).unwrap();
    held.lock().unwrap();
    let before = scene.tree();
    let refused = scene.restore(Arc::new(Record::default())).unwrap_err();
    assert!(refused.to_string().contains("by another process right now"), "{refused}");
    assert!(scene.tree() == before, "{:#?}", differences(&scene, &before));
    // Nor is it moved aside under the one who fills it.
    let refused = scene.restore_with(Arc::new(Record::default()), |options| {
        options.rename_old = true;
    });
    let refused = refused.unwrap_err();
    assert!(refused.to_string().contains("by another process right now"), "{refused}");
    // Closing is not enough: a child that another test starts has a copy of it until it runs its program.
    held.unlock().unwrap();
    scene.restore(Arc::new(Record::default())).unwrap();
    assert_starts(&server, &scene.data);
}

/// Starts a command again and again and kills it at seeded moments, one at least before its end; `after` looks
/// what each has left.
pub(super) fn kill_at_random(command: &dyn Fn() -> Command, after: &mut dyn FnMut(&Ran)) {
    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}");
    let (mut state, mut kills) = (seed, 0);
    for _ in 0..12 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let running = start(&mut command());
        // The moment itself is the input here: nothing is waited for.
        std::thread::sleep(Duration::from_millis(5 + (state >> 33) % 300));
        running.signal(Signal::KILL);
        let ended = running.wait();
        kills += u32::from(ended.code().is_none());
        after(&ended);
    }
    assert!(kills > 0, "seed {seed}");
}

/// The binary itself, killed at seeded moments.
#[test]
fn f067_the_binary_killed_at_random_moments_is_completed_by_the_same_command() {
    let Some(server) = Server::main() else { return };
    let (site, _copies, scene) = scene(&server);
    let mapping = format!("{}={}", scene.old.display(), scene.new.display());
    let command = || {
        let mut command = site.config.pgkeep(["restore", "--yes", "--tablespace"]);
        command.arg(&mapping).arg("--to").arg(&scene.data);
        command
    };
    kill_at_random(&command, &mut |_| {
        if scene.data.join(CONTROL).exists() {
            let done = run(&mut command());
            assert!(matches!(done.code(), Some(0 | 15)), "{done}");
            assert_starts(&server, &scene.data);
            scene.wipe();
        }
    });
    run(&mut command()).assert_ok();
    assert_starts(&server, &scene.data);
}
