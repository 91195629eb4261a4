//! A live cluster whose WAL goes into a repository in memory, or in any other store, through the
//! library: for tests that put a store between pgkeep and the repository that dies or lies.
//!
//! `archive_command` copies to a folder; a thread of the test pushes what it finds there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pgkeep::archive::{self, Destination, PushOptions};
use pgkeep::backup;
use pgkeep::base::{Ctx, Event, Host, Observer, Silent, Stage};
use pgkeep::crypt::Unlock;
use pgkeep::pgconn::ConnectOptions;
use pgkeep::repo::{
    BackupType, CipherChoice, InitOptions, Origin, Place, Registration, Repository,
};
use pgkeep::storage::{MemoryStore, ObjectStore};

use super::run::{DEADLINE, wait_until};
use super::servers::Server;
use super::{ScratchDir, TestCluster};

/// A live cluster and a repository, in memory as a rule, that its WAL reaches.
pub struct LibraryCluster<S = MemoryStore> {
    pub cluster: TestCluster,
    pub store: S,
    pub ctx: Ctx,
    pub place: Place,
    pub registration: Registration,
    unlock: Unlock,
    stop: Arc<AtomicBool>,
    pusher: Option<JoinHandle<()>>,
    _archive: ScratchDir,
}

impl LibraryCluster {
    /// Starts a small cluster with segments of 1 MiB and checksums, in which only the test changes files.
    pub fn start(server: &Server) -> Self {
        Self::start_in(server, MemoryStore::new())
    }
}

impl<S: ObjectStore + Clone + 'static> LibraryCluster<S> {
    /// The same, with its repository in an empty store.
    pub fn start_in(server: &Server, store: S) -> Self {
        let archive = ScratchDir::new("spool");
        super::account::unprivileged().own(archive.path());
        let command = format!("cp %p {0}/%f.tmp && mv {0}/%f.tmp {0}/%f", archive.path().display());
        let cluster = TestCluster::create(server)
            .checksums()
            .wal_segment_mib(1)
            .archive_command(&command)
            .setting("autovacuum", "off")
            .start();
        let ctx = Ctx::system(Arc::new(Silent));
        let (unlock, _) = Unlock::generate_key_file(ctx.entropy.as_ref());
        let options =
            InitOptions { cipher: CipherChoice::Aes256Cbc, unlock: &unlock, label: "", cost: 14 };
        let repository = Repository::init(&ctx, Arc::new(store.clone()), &options).unwrap();
        let control = archive::read_control_file(cluster.data_dir()).unwrap();
        let registration = Registration {
            cluster: "main".into(),
            system: control.system_identifier,
            epoch: 1,
            created: ctx.clock.now(),
            major: server.version(),
            block_size: control.block_size,
            wal_block_size: control.wal_block_size,
            wal_segment_size: control.wal_segment_size.bytes(),
            relation_segment_blocks: control.relation_segment_blocks,
        };
        let place = repository.register(&ctx, &registration).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let pusher = spawn_pusher(Pusher {
            ctx: ctx.clone(),
            destination: Destination {
                name: "memory".into(),
                repository,
                place: place.clone(),
                registration: registration.clone(),
            },
            data_directory: cluster.data_dir().to_path_buf(),
            spool: archive.path().to_path_buf(),
            stop: Arc::clone(&stop),
        });
        let (pusher, _archive) = (Some(pusher), archive);
        Self { cluster, store, ctx, place, registration, unlock, stop, pusher, _archive }
    }

    /// Opens the repository through any store that stands before it.
    pub fn open(&self, store: Arc<dyn ObjectStore>) -> pgkeep::repo::Result<Repository> {
        Repository::open(store, &self.unlock)
    }

    /// Takes a full backup through any store that stands before the repository.
    pub fn backup(
        &self,
        repository: &Repository,
        change: impl FnOnce(&mut backup::Options),
    ) -> backup::Result<backup::Finished> {
        let mut options = backup::Options {
            backup_type: BackupType::Full,
            auto_full: false,
            auto_full_below: 70,
            skips: true,
            resumes: true,
            pack_size: 1 << 30,
            data_directory: self.cluster.data_dir().to_path_buf(),
            connection: ConnectOptions::new(self.cluster.conninfo(), "pgkeep"),
            jobs: 2,
            max_rate: None,
            fast_checkpoint: true,
            wal_wait: Duration::from_secs(30),
            host: Host::new("test".into(), "3d1219c7c4c5404aaa1f6d2a48adfda4"),
            pid: std::process::id(),
            is_gone: |_, _| false,
        };
        change(&mut options);
        let (place, registration) = (&self.place, &self.registration);
        let plan = backup::plan(&self.ctx, &options, repository, place, registration)?;
        backup::execute(&self.ctx, &plan, &options, repository, place, registration)
    }

    /// Takes a full backup and lets `disturb` do its work between its start and its first file.
    pub fn backup_interrupted(
        &mut self,
        disturb: impl FnOnce(&TestCluster),
    ) -> backup::Result<backup::Finished> {
        self.backup_interrupted_through(|store| Arc::new(store), disturb)
    }

    /// The same, through any store, which is made in the backup's thread.
    pub fn backup_interrupted_through(
        &mut self,
        store: impl FnOnce(S) -> Arc<dyn ObjectStore> + Send,
        disturb: impl FnOnce(&TestCluster),
    ) -> backup::Result<backup::Finished> {
        let gate = Arc::new(Gate::default());
        self.ctx.observer = Arc::clone(&gate) as Arc<dyn Observer>;
        let live = &*self;
        let finished = std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                let repository = live.open(store(live.store.clone())).unwrap();
                live.backup(&repository, |_| {})
            });
            Gate::wait_for(&gate.begun);
            disturb(&live.cluster);
            gate.open.store(true, Ordering::SeqCst);
            running.join().unwrap()
        });
        self.ctx.observer = Arc::new(Silent);
        finished
    }

    /// Where the WAL of this cluster goes, through any store.
    pub fn destination(&self, repository: Repository) -> Destination {
        Destination {
            name: "memory".into(),
            repository,
            place: self.place.clone(),
            registration: self.registration.clone(),
        }
    }
}

/// Holds a backup between its start and its first file.
#[derive(Debug, Default)]
struct Gate {
    begun: AtomicBool,
    open: AtomicBool,
}

impl Gate {
    fn wait_for(flag: &AtomicBool) {
        wait_until(DEADLINE, || flag.load(Ordering::SeqCst), || "the backup's start".into());
    }
}

impl Observer for Gate {
    fn event(&self, event: Event) {
        if matches!(event, Event::End { stage: Stage::StartCheckpoint }) {
            self.begun.store(true, Ordering::SeqCst);
            Self::wait_for(&self.open);
        }
    }
}

impl<S> Drop for LibraryCluster<S> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(pusher) = self.pusher.take() {
            // A panic in the pusher has been printed; a second one here would abort the test.
            pusher.join().ok();
        }
    }
}

struct Pusher {
    ctx: Ctx,
    destination: Destination,
    data_directory: PathBuf,
    spool: PathBuf,
    stop: Arc<AtomicBool>,
}

fn spawn_pusher(pusher: Pusher) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut done = BTreeSet::new();
        while !pusher.stop.load(Ordering::SeqCst) {
            let Ok(entries) = std::fs::read_dir(&pusher.spool) else { return };
            for entry in entries.flatten() {
                let path = entry.path();
                let is_new = path.extension().is_none_or(|extension| extension != "tmp");
                if is_new && !done.contains(&path) {
                    let options = push_options(&pusher.data_directory);
                    let to = std::slice::from_ref(&pusher.destination);
                    match archive::push(&pusher.ctx, to, &options, &path) {
                        Ok(_) => _ = done.insert(path),
                        // A backup that waits for it names it.
                        Err(error) => eprintln!("{}: {error}", path.display()),
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

/// As archive-push would be told for this data directory.
pub fn push_options(data_directory: &Path) -> PushOptions {
    let directory = data_directory.display().to_string();
    let origin = Origin { host: "test".into(), directory };
    PushOptions {
        data_directory: data_directory.into(),
        accept_unknown_wal: false,
        origin,
        is_alone: true,
    }
}
