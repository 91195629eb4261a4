//! Scratch directories that the unprivileged account owns, and the binary under test among them.
//!
//! All of a test process's directories lie in one folder, which goes away with the last of them.
//! What a killed process left behind is removed by a later one: a server notices within a minute
//! that its directory is gone, and stops. `PGKEEP_TEST_KEEP=1` keeps everything for a look.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::account;

/// Short, for the name of a Unix socket has room for 107 bytes, and not `TMPDIR`, which may be
/// closed to the unprivileged account.
const BASE: &str = "/tmp";
const PREFIX: &str = "pgkeep-test-";
/// Younger folders may be about to be locked by the process that made them.
const STALE_AFTER: Duration = Duration::from_secs(600);

/// A directory of the unprivileged account, removed when dropped.
#[derive(Debug)]
pub struct ScratchDir {
    path: PathBuf,
    process: Arc<ProcessDir>,
}

/// The folder of this test process.
#[derive(Debug)]
struct ProcessDir {
    path: PathBuf,
    binary: OnceLock<PathBuf>,
    /// Locked as long as this process lives.
    _lock: File,
}

impl ScratchDir {
    /// A new, empty directory; `name` is for people who look at what a failed test kept.
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let process = ProcessDir::get();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = process.path.join(format!("{name}{number}"));
        create_owned(&path);
        Self { path, process }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A name in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A new, empty subdirectory of the same owner, closed to others as PostgreSQL wants it.
    pub fn create_dir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        create_owned(&path);
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// A file in it, of the same owner, that only the owner can read.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        account::unprivileged().own(&path);
        path
    }

    /// The binary under test, where the unprivileged account can run it (cargo's target directory
    /// may lie in a home that is closed to others).
    pub fn pgkeep_binary(&self) -> &Path {
        self.process.binary.get_or_init(|| {
            let built = env!("CARGO_BIN_EXE_pgkeep");
            let place = self.process.path.join("pgkeep");
            if fs::hard_link(built, &place).is_err() {
                fs::copy(built, &place).unwrap();
            }
            fs::set_permissions(&place, Permissions::from_mode(0o755)).unwrap();
            place
        })
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if !is_kept() {
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

impl ProcessDir {
    /// This process's folder, made anew when no test holds it.
    fn get() -> Arc<Self> {
        static CURRENT: Mutex<Weak<ProcessDir>> = Mutex::new(Weak::new());
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = current.upgrade() {
            return process;
        }
        remove_stale();
        let process = Arc::new(Self::create());
        *current = Arc::downgrade(&process);
        process
    }

    fn create() -> Self {
        let path = tempfile::Builder::new().prefix(PREFIX).tempdir_in(BASE).unwrap().keep();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let lock = File::create(path.join("lock")).unwrap();
        lock.lock().unwrap();
        Self { path, binary: OnceLock::new(), _lock: lock }
    }
}

impl Drop for ProcessDir {
    fn drop(&mut self) {
        if is_kept() {
            eprintln!("kept: {}", self.path.display());
        } else {
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

fn create_owned(path: &Path) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    account::unprivileged().own(path);
}

fn is_kept() -> bool {
    std::env::var_os("PGKEEP_TEST_KEEP").is_some_and(|value| value == "1")
}

/// Removes folders whose process has ended without doing so, as far as they are ours to remove.
fn remove_stale() {
    for entry in fs::read_dir(BASE).unwrap().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let age = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > STALE_AFTER));
        if is_ours && is_old && is_abandoned(&entry.path()) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn is_abandoned(path: &Path) -> bool {
    File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok())
}
