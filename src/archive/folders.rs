//! The folders of a server, held open: its data directory, and the one that its WAL lies in.
//!
//! Whoever asks has them open and passes them on, so that it does not matter which paths the two sides
//! see, and so that a directory that was put in another one's place is another one. Everything in them is
//! reached by `/proc/self/fd/N`, which leads to the open folder, whatever lies under its old path now.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Which two folders, by device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoldersId {
    data: (u64, u64),
    wal: (u64, u64),
}

/// Open folders of a server.
#[derive(Debug)]
pub struct ServerFolders {
    data: File,
    wal: File,
    data_path: PathBuf,
    wal_path: PathBuf,
    id: FoldersId,
}

impl ServerFolders {
    /// From two open folders.
    ///
    /// # Errors
    /// As `fstat`; when one of them is no folder.
    pub fn new(data: OwnedFd, wal: OwnedFd) -> io::Result<Self> {
        let (data, wal) = (File::from(data), File::from(wal));
        let id = FoldersId { data: of(&data)?, wal: of(&wal)? };
        let path = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let (data_path, wal_path) = (path(&data), path(&wal));
        Ok(Self { data, wal, data_path, wal_path, id })
    }

    /// Opens a data directory and the folder that its WAL lies in.
    ///
    /// # Errors
    /// As the system's.
    pub fn open(data_directory: &Path, wal: &Path) -> io::Result<Self> {
        Self::new(File::open(data_directory)?.into(), File::open(wal)?.into())
    }

    /// Which they are.
    #[must_use]
    pub fn id(&self) -> FoldersId {
        self.id
    }

    /// A path that leads into the data directory, as long as this lives.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data_path
    }

    /// A path that leads into the folder of the WAL, likewise.
    #[must_use]
    pub fn wal(&self) -> &Path {
        &self.wal_path
    }

    /// The open folders, to be passed on.
    #[must_use]
    pub fn files(&self) -> (&File, &File) {
        (&self.data, &self.wal)
    }
}

fn of(folder: &File) -> io::Result<(u64, u64)> {
    let metadata = folder.metadata()?;
    if metadata.is_dir() {
        Ok((metadata.dev(), metadata.ino()))
    } else {
        Err(io::ErrorKind::NotADirectory.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::durable;

    /// f012: a data directory that takes another one's place is another one, also under the same path.
    #[test]
    fn f012_folders_are_the_ones_that_were_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (data, old) = (dir.path().join("data"), dir.path().join("old"));
        std::fs::create_dir_all(data.join("pg_wal")).unwrap();
        durable::replace_unsynced(&data.join("which"), b"first", 0o600).unwrap();
        let first = ServerFolders::open(&data, &data.join("pg_wal")).unwrap();
        durable::rename(&data, &old).unwrap();
        std::fs::create_dir_all(data.join("pg_wal")).unwrap();
        durable::replace_unsynced(&data.join("which"), b"second", 0o600).unwrap();
        let second = ServerFolders::open(&data, &data.join("pg_wal")).unwrap();
        assert_ne!(first.id(), second.id());
        assert_eq!(std::fs::read(first.data().join("which")).unwrap(), b"first");
        assert_eq!(std::fs::read(second.data().join("which")).unwrap(), b"second");
        let again = ServerFolders::open(&old, &old.join("pg_wal")).unwrap();
        assert_eq!(first.id(), again.id());
        assert!(ServerFolders::open(&data.join("which"), &data).is_err());
    }
}
