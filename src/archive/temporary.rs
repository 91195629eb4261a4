//! A file that is being fetched: beside its destination, under a name that nobody takes for a segment's.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use crate::base::durable;

/// A file beside the destination, removed unless it gets its name.
#[derive(Debug)]
pub struct Temporary {
    path: PathBuf,
    file: File,
    is_named: bool,
}

impl Temporary {
    /// One name for a destination: what a killed call left is removed. Not overwritten: a daemon that was
    /// asked before and taken for gone may still write into that file.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn create(destination: &Path) -> Result<Self> {
        let mut path = destination.to_path_buf();
        let mut name = destination.file_name().unwrap_or_default().to_owned();
        name.push(".pgkeep-tmp");
        path.set_file_name(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("replace", &path)(error));
            }
            _ => {}
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(failed("create", &path))?;
        Ok(Self { path, file, is_named: false })
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is as long as it has not its name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name. Not synced: the server does that.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn name(mut self, destination: &Path) -> Result<()> {
        // Not replaced: ext4 writes a file out at once that takes another one's name.
        match std::fs::remove_file(destination) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("replace", destination)(error));
            }
            _ => {}
        }
        durable::rename_unsynced(&self.path, destination).map_err(failed("rename", destination))?;
        self.is_named = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_named {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { action, path, source }
}
