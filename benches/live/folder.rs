//! The folder in which a bench works.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::account;

const GRAVEYARD: &str = "retired";

/// A folder of the account that runs the servers.
pub struct Folder {
    path: PathBuf,
    is_kept: bool,
}

impl Folder {
    /// The folder of `PGKEEP_BENCH_DIR`, else a temporary one.
    pub fn open() -> Self {
        let kept = std::env::var_os("PGKEEP_BENCH_DIR").map(PathBuf::from);
        let is_kept = kept.is_some();
        let temporary = || PathBuf::from(format!("/tmp/pgkeep-bench-{}", std::process::id()));
        let folder = Self { path: kept.unwrap_or_else(temporary), is_kept };
        folder.make("");
        folder.remove(GRAVEYARD);
        // Cargo's target directory may lie in a home that is closed to others.
        let binary = folder.join("pgkeep");
        fs::copy(env!("CARGO_BIN_EXE_pgkeep"), &binary).unwrap();
        fs::set_permissions(&binary, Permissions::from_mode(0o755)).unwrap();
        folder
    }

    /// A name in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A folder in it, closed to others, kept as it is if it is there.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        account::unprivileged().own(&path);
        path
    }

    /// An empty folder in it.
    pub fn make_empty(&self, name: &str) -> PathBuf {
        self.remove(name);
        self.make(name)
    }

    /// Removes what is there.
    pub fn remove(&self, name: &str) {
        let path = self.path.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
    }

    /// Puts a folder of many files out of the way: each is cut to nothing, and all are removed when the
    /// next run begins. For minutes after a removal ext4 searches past the inodes that it freed
    /// (`recently_deleted`, fs/ext4/ialloc.c), and whoever makes files then would pay for it.
    pub fn retire(&self, name: &str) {
        let path = self.path.join(name);
        if !path.exists() {
            return;
        }
        cut(&path);
        let grave = self.make(GRAVEYARD);
        let number = fs::read_dir(&grave).unwrap().count();
        fs::rename(&path, grave.join(number.to_string())).unwrap();
    }

    /// A file in it, for its owner.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        account::unprivileged().own(&path);
        path
    }

    /// A command that runs in it, as the account of the servers.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        account::unprivileged().command(program, &self.path)
    }

    /// A command of the shell that runs in it.
    pub fn shell(&self, line: &str) -> Command {
        let mut command = self.command("sh");
        command.args(["-ec", line]);
        command
    }

    /// Writes back what is dirty, so that one side does not pay for the other's writes.
    pub fn settle(&self) {
        let folder = fs::File::open(&self.path).unwrap();
        rustix::fs::syncfs(&folder).unwrap();
    }

    /// Brings every file below a folder into the page cache.
    pub fn warm(&self, path: &Path) {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                self.warm(&entry.path());
            } else if kind.is_file() {
                fs::read(entry.path()).unwrap();
            }
        }
    }

    /// Files and bytes below a folder.
    pub fn count(&self, path: &Path) -> (u64, u64) {
        let mut total = (0, 0);
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let (files, bytes) =
                if metadata.is_dir() { self.count(&entry.path()) } else { (1, metadata.len()) };
            total = (total.0 + files, total.1 + bytes);
        }
        total
    }
}

fn cut(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            cut(&entry.path());
        } else if kind.is_file() {
            fs::File::create(entry.path()).unwrap();
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_kept {
            fs::remove_dir_all(&self.path).ok();
        }
    }
}
