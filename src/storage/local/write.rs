//! Files on their way to becoming objects.
//!
//! The order that keeps the promises: write under a temporary name; fsync the file, so that its
//! bytes are durable before its name exists; give it its name in one atomic step; fsync the folder,
//! so that the name is durable before anybody is told. A crash in between leaves a temporary file,
//! or a whole object of whose durability nobody was told.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Advice, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::root::{Root, open_or_make_child, split, stat_child, sync_folder};
use crate::base::{OsEntropy, entropy, hex};
use crate::storage::{Error, ObjectKey, ObjectWriter, Result};

/// Where temporary files live. No object's name has a component that begins with a dot.
pub(super) const TEMPORARY_FOLDER: &str = ".tmp";

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A temporary file, removed when dropped.
pub(super) struct Temporary {
    folder: OwnedFd,
    /// None once it has become an object.
    name: Option<String>,
    file: File,
    size: u64,
    advised: u64,
}

impl Temporary {
    /// The name is random, not made of process ids, since hosts and containers may share a folder.
    pub(super) fn create(root: &Root) -> rustix::io::Result<Self> {
        // Not durable on purpose: nothing in it has to survive.
        let (folder, _) = open_or_make_child(root.fd(), TEMPORARY_FOLDER)?;
        let name = hex::encode(&entropy::random::<16>(&OsEntropy));
        let flags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);
        let file = rustix::io::retry_on_intr(|| {
            rustix::fs::openat(&folder, name.as_str(), flags, FILE_MODE)
        })?;
        Ok(Self { folder, name: Some(name), file: File::from(file), size: 0, advised: 0 })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        self.write_back_early();
        Ok(())
    }

    /// Starts writing back what was written, and lets go of what is on disk already.
    ///
    /// On dirty pages the advice starts write-back without waiting; on clean ones it drops them. So
    /// the final fsync has little left to do, and a pack does not push the database out of the
    /// page cache: of 1 GiB, 16 to 170 MB were cached at any time and none at the end (ext4). It is
    /// advice: a failure means nothing.
    fn write_back_early(&mut self) {
        const WINDOW: u64 = 8 << 20;
        if self.size - self.advised >= WINDOW {
            self.let_go(self.advised.saturating_sub(4 * WINDOW));
            self.advised = self.size;
        }
    }

    fn let_go(&self, from: u64) {
        let length = std::num::NonZeroU64::new(self.size - from);
        rustix::fs::fadvise(&self.file, from, length, Advice::DontNeed).ok();
    }

    /// The bytes are durable afterwards. Never tried twice: after a failed fsync the kernel forgets
    /// which pages were bad and says "done" the next time.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        if self.advised > 0 {
            self.let_go(0);
        }
        Ok(())
    }

    /// Gives the synced file its name unless the name is taken; whether it was free. Atomic between
    /// processes and, where the server is, between hosts.
    ///
    /// NFS has no `RENAME_NOREPLACE` but atomic links; CIFS and FAT have the rename but no links.
    pub(super) fn publish_new(&mut self, folder: &OwnedFd, name: &str) -> io::Result<bool> {
        let Some(temporary) = self.name.as_deref() else {
            return Err(io::Error::other("the temporary file has been named already"));
        };
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&self.folder, temporary, folder, name, flags) {
            Ok(()) => {
                self.name = None;
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.link_new(folder, name),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The temporary name stays until the drop; losing that unlink costs a name, never an object.
    pub(super) fn link_new(&self, folder: &OwnedFd, name: &str) -> io::Result<bool> {
        let Some(temporary) = self.name.as_deref() else {
            return Err(io::Error::other("the temporary file has been named already"));
        };
        match rustix::fs::linkat(&self.folder, temporary, folder, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // An NFS client whose first request succeeded but whose answer was lost asks again and
            // hears "exists": of itself.
            Err(Errno::EXIST) => {
                let own = rustix::fs::fstat(&self.file)?;
                let found = stat_child(folder, name)?;
                Ok((own.st_dev, own.st_ino) == (found.st_dev, found.st_ino))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Gives the synced file its name in place of whatever file has it. Readers see the old object
    /// or the new one; who has the old one open keeps it.
    pub(super) fn publish_over(&mut self, folder: &OwnedFd, name: &str) -> io::Result<()> {
        if let Some(temporary) = self.name.as_deref() {
            rustix::fs::renameat(&self.folder, temporary, folder, name)?;
            self.name = None;
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // What cannot be removed now is a leftover like a killed process's.
            rustix::fs::unlinkat(&self.folder, name.as_str(), AtFlags::empty()).ok();
        }
    }
}

/// Names a finished file and makes the name durable. `Ok(false)`: the name was taken.
pub(super) fn publish(
    root: &Root,
    mut temporary: Temporary,
    key: &ObjectKey,
    replace: bool,
) -> io::Result<bool> {
    temporary.sync()?;
    let (folder, name) = split(key);
    let folder = root.make_folder(folder)?;
    if replace {
        temporary.publish_over(&folder, name)?;
    } else if !temporary.publish_new(&folder, name)? {
        return Ok(false);
    }
    sync_folder(&folder)?;
    Ok(true)
}

/// Makes sure that the object which has the name is durable, content and name: its writer may have
/// been killed after naming it and before the fsync of the folder. `Ok(false)`: there is none.
pub(super) fn make_durable(root: &Root, key: &ObjectKey) -> io::Result<bool> {
    let (folder, name) = split(key);
    // Looked up first, so that asking for what is not there makes no folders.
    let file = match root.open_folder(folder).and_then(|f| open_file(&f, name)) {
        Err(Errno::NOENT) => return Ok(false),
        file => file?,
    };
    check_is_file(&file)?;
    file.sync_all()?;
    sync_folder(&root.make_folder(folder)?)?;
    Ok(true)
}

/// Opens an object's file for reading. `NONBLOCK` so that a pipe in its place cannot hang us.
pub(super) fn open_file(folder: &OwnedFd, name: &str) -> rustix::io::Result<File> {
    let flags =
        OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
    let opened =
        rustix::io::retry_on_intr(|| rustix::fs::openat(folder, name, flags, Mode::empty()));
    opened.map(File::from)
}

/// The length of a regular file; anything else under an object's name is an error, not absence.
pub(super) fn check_is_file(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(metadata.len())
}

/// A streamed object.
pub(super) struct LocalWriter {
    pub(super) root: Arc<Root>,
    pub(super) key: ObjectKey,
    pub(super) temporary: Temporary,
    /// After a failed write the file has an unknown tail and must not become an object.
    pub(super) has_failed: bool,
}

impl ObjectWriter for LocalWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.temporary.write(bytes).map_err(|source| {
            self.has_failed = true;
            self.root.failure("write", self.key.as_str(), source)
        })
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        let Self { root, key, temporary, has_failed } = *self;
        if has_failed {
            let source = io::Error::other("an earlier write of this object failed");
            return Err(root.failure("finish", key.as_str(), source));
        }
        let size = temporary.size;
        let published = publish(&root, temporary, &key, false);
        match published.map_err(|source| root.failure("finish", key.as_str(), source))? {
            true => root.confirm().map(|()| size),
            false => Err(taken(&root, "finish", &key)),
        }
    }
}

/// The answer to a taken name, given only when the object that has it is durable.
pub(super) fn taken(root: &Root, operation: &'static str, key: &ObjectKey) -> Error {
    match make_durable(root, key) {
        Ok(true) => match root.confirm() {
            Ok(()) => Error::AlreadyExists { key: key.clone() },
            Err(unknown) => unknown,
        },
        Ok(false) => {
            let source = io::Error::other("the object that had this name has just been removed");
            root.failure(operation, key.as_str(), source)
        }
        Err(source) => root.failure(operation, key.as_str(), source),
    }
}
