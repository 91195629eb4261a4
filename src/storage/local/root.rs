//! The root folder of a local store, held open, and the folders below it.
//!
//! Everything is reached from the one descriptor, a component at a time and never through a
//! symbolic link, so nothing outside the root is touched whatever lies in it. (openat2 could do a
//! walk in one call, but needs this walk as its fallback where a sandbox forbids it: one way is
//! better tested than two.) Folders are opened for reading rather than with `O_PATH`, because it is
//! the real open that makes NFS ask its server whether the cached names are still right.
//!
//! A store spans one file system: a mount below the root cannot be written to, as temporary files
//! are moved into place from the root's own `.tmp`.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::storage::{Error, ObjectKey, Result};

/// Private to the user that runs pgkeep: with cipher "none" the folder holds the database in clear.
pub(super) const FOLDER_MODE: Mode = Mode::RWXU;

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How many folders are remembered as durable; enough for years of a daemon's WAL folders.
const SETTLED_MAX: usize = 10_000;

#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    fd: OwnedFd,
    /// Folders whose own names this process has made durable, so that later puts need not.
    settled: Mutex<HashSet<String>>,
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|source| no_store(path, source))?;
        // The path to the root may lead through links: it is the operator's, not the store's.
        let flags = FOLDER.difference(OFlags::NOFOLLOW);
        let opened = rustix::io::retry_on_intr(|| rustix::fs::open(&path, flags, Mode::empty()));
        match opened {
            Ok(fd) => Ok(Self { path, fd, settled: Mutex::default() }),
            Err(errno) => Err(unreachable_root("open", &path, errno)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Proves that what the descriptor leads to is still what the path leads to.
    ///
    /// A removed folder answers "no such file" to everything, a folder under a mount keeps serving
    /// (and taking!) files that nobody else sees, and so does a lazily unmounted file system. So
    /// every answer that means absence, and every change, is confirmed here before it is given.
    /// Where a network file system makes up its inode numbers anew (CIFS `noserverino`), this errs
    /// on the side of "unknown".
    pub(super) fn confirm(&self) -> Result<()> {
        let held = rustix::fs::fstat(&self.fd)
            .map_err(|errno| unreachable_root("stat", &self.path, errno))?;
        let found = rustix::io::retry_on_intr(|| rustix::fs::stat(&self.path))
            .map_err(|errno| unreachable_root("stat", &self.path, errno))?;
        if held.st_nlink > 0 && identity(&held) == identity(&found) {
            return Ok(());
        }
        let source = io::Error::other(
            "the folder was removed, replaced or mounted over since it was opened",
        );
        Err(no_store(&self.path, source))
    }

    /// Turns what the system said into what callers branch on. A lost root goes before everything
    /// else, for it can show as any error.
    pub(super) fn failure(&self, operation: &'static str, key: &str, source: io::Error) -> Error {
        if let Err(lost @ Error::NoStore { .. }) = self.confirm() {
            return lost;
        }
        failure(operation, key, source)
    }

    /// The answer to ENOENT.
    pub(super) fn absent(&self, key: &ObjectKey) -> Error {
        match self.confirm() {
            Ok(()) => Error::NotFound { key: key.clone() },
            Err(unknown) => unknown,
        }
    }

    /// Opens a folder of the store; the empty name is the root.
    pub(super) fn open_folder(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let mut folder = open_child(&self.fd, ".")?;
        for component in path.split('/').filter(|component| !component.is_empty()) {
            folder = open_child(&folder, component)?;
        }
        Ok(folder)
    }

    /// Opens a folder of the store and makes what is missing of it. When this returns, the names of
    /// all folders on the way are durable, no matter who made them: another process may have made
    /// one and been killed before it could sync.
    pub(super) fn make_folder(&self, path: &str) -> io::Result<OwnedFd> {
        let mut folder = open_child(&self.fd, ".")?;
        let mut so_far = String::with_capacity(path.len());
        for component in path.split('/').filter(|component| !component.is_empty()) {
            so_far.push('/');
            so_far.push_str(component);
            let (child, is_new) = open_or_make_child(&folder, component)?;
            if is_new || !self.settled().contains(&so_far) {
                sync_folder(&folder)?;
                self.settle(&so_far);
            }
            folder = child;
        }
        Ok(folder)
    }

    fn settled(&self) -> MutexGuard<'_, HashSet<String>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, folder: &str) {
        let mut settled = self.settled();
        if settled.len() >= SETTLED_MAX {
            settled.clear();
        }
        settled.insert(folder.to_owned());
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn no_store(path: &Path, source: io::Error) -> Error {
    Error::NoStore { location: path.display().to_string(), source }
}

fn unreachable_root(operation: &'static str, path: &Path, errno: Errno) -> Error {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::STALE => no_store(path, errno.into()),
        _ => failure(operation, &path.display().to_string(), errno.into()),
    }
}

/// As [`Root::failure`], where there is no root to look at.
pub(super) fn failure(operation: &'static str, key: &str, source: io::Error) -> Error {
    let key = key.to_owned();
    if source.kind() == io::ErrorKind::PermissionDenied {
        return Error::Denied { operation, key, source };
    }
    Error::Io { operation, key, source }
}

/// An object's folder and its name there.
pub(super) fn split(key: &ObjectKey) -> (&str, &str) {
    key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()))
}

pub(super) fn open_child(folder: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let folder = folder.as_fd();
    rustix::io::retry_on_intr(|| rustix::fs::openat(folder, name, FOLDER, Mode::empty()))
}

/// Opens a folder, made if need be; whether it was missing. Its name is not durable yet.
pub(super) fn open_or_make_child(
    folder: &OwnedFd,
    name: &str,
) -> rustix::io::Result<(OwnedFd, bool)> {
    match open_child(folder, name) {
        Err(Errno::NOENT) => {}
        opened => return Ok((opened?, false)),
    }
    match rustix::fs::mkdirat(folder, name, FOLDER_MODE) {
        // Another process was faster.
        Ok(()) | Err(Errno::EXIST) => Ok((open_child(folder, name)?, true)),
        Err(errno) => Err(errno),
    }
}

/// Makes the names in a folder durable.
///
/// Some file systems (older CIFS, some FUSE ones) have no such operation and say EINVAL; nothing
/// more can be done there, and PostgreSQL goes on as well (`fsync_fname_ext`,
/// src/backend/storage/file/fd.c).
pub(super) fn sync_folder(folder: &OwnedFd) -> io::Result<()> {
    match rustix::io::retry_on_intr(|| rustix::fs::fsync(folder)) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// What lies under a name, links not followed.
pub(super) fn stat_child(folder: impl AsFd, name: &str) -> rustix::io::Result<Stat> {
    let folder = folder.as_fd();
    rustix::io::retry_on_intr(|| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW))
}
