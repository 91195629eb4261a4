//! The store on a folder: every call goes through the root that was opened once.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir};
use rustix::io::Errno;

use super::list;
use super::root::{self, FOLDER_MODE, Root, open_child, split, stat_child, sync_folder};
use super::write::{self, LocalWriter, TEMPORARY_FOLDER, Temporary};
use crate::base::{Timestamp, durable};
use crate::storage::{
    EachPage, Error, ObjectKey, ObjectMeta, ObjectStore, ObjectWriter, Result, Unfinished,
};

/// A folder as a store. Clones share the open root.
#[derive(Debug, Clone)]
pub struct LocalStore {
    pub(super) root: Arc<Root>,
}

impl LocalStore {
    /// Opens a folder that is there. Whether it holds a repository is for the caller to find out.
    ///
    /// # Errors
    /// [`Error::NoStore`] when there is no folder, [`Error::Denied`] when it may not be read.
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Self { root: Arc::new(Root::open(root)?) })
    }

    /// Makes the folder durably, with its missing parents, and opens it. One that is there is
    /// opened as it is.
    ///
    /// # Errors
    /// As [`LocalStore::open`], and any error of making folders.
    pub fn create(root: &Path) -> Result<Self> {
        let failed = |source| root::failure("create", &root.display().to_string(), source);
        let absolute = std::path::absolute(root).map_err(failed)?;
        durable::create_dir_all(&absolute, FOLDER_MODE.as_raw_mode()).map_err(failed)?;
        // Folders that are there already may be what a killed `create` left, not yet durable.
        for parent in absolute.ancestors().skip(1) {
            match durable::sync_dir(parent) {
                // A folder that we may not open is not one that we made.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                synced => synced.map_err(failed)?,
            }
        }
        Self::open(&absolute)
    }

    fn temporary_folder(&self) -> Result<Option<OwnedFd>> {
        self.root.confirm()?;
        match open_child(self.root.fd(), TEMPORARY_FOLDER) {
            Err(Errno::NOENT) => Ok(None),
            Ok(folder) => Ok(Some(folder)),
            Err(errno) => Err(self.root.failure("list", TEMPORARY_FOLDER, errno.into())),
        }
    }

    fn open_object(&self, operation: &'static str, key: &ObjectKey) -> Result<(File, u64)> {
        let failed = |source| self.root.failure(operation, key.as_str(), source);
        let (folder, name) = split(key);
        let opened = self.root.open_folder(folder);
        match opened.and_then(|folder| write::open_file(&folder, name)) {
            Ok(file) => {
                let size = write::check_is_file(&file).map_err(failed)?;
                Ok((file, size))
            }
            Err(Errno::NOENT) => Err(self.root.absent(key)),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// The root is confirmed before, so that nothing is begun in a folder that nobody sees, and
    /// after, since an object that nobody else can see is not stored.
    fn put_whole(&self, key: &ObjectKey, body: &[u8], replace: bool) -> Result<()> {
        self.root.confirm()?;
        let written =
            Temporary::create(&self.root).map_err(io::Error::from).and_then(|mut temporary| {
                temporary.write(body)?;
                write::publish(&self.root, temporary, key, replace)
            });
        match written.map_err(|source| self.root.failure("put", key.as_str(), source))? {
            true => self.root.confirm(),
            false => Err(write::taken(&self.root, "put", key)),
        }
    }

    /// Removes names of one folder, then makes their absence durable, also when they were absent
    /// before: whoever removed them may have been killed before the fsync.
    fn delete_in_folder(&self, folder: &str, keys: &[ObjectKey]) -> Result<()> {
        let failed = |key: &str, source| self.root.failure("delete", key, source);
        let opened = match self.root.open_folder(folder) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened.map_err(|errno| failed(folder, errno.into()))?,
        };
        for key in keys {
            match rustix::fs::unlinkat(&opened, key.last_component(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(key.as_str(), errno.into())),
            }
        }
        sync_folder(&opened).map_err(|source| failed(folder, source))
    }
}

/// A temporary file; its last change is the latest that its writer can have begun.
fn unfinished_file(folder: &OwnedFd, name: &str) -> rustix::io::Result<Unfinished> {
    let stat = stat_child(folder, name)?;
    let begun = Timestamp::from_timestamp(stat.st_mtime, 0).unwrap_or(Timestamp::MIN_UTC);
    Ok(Unfinished { name: format!("{TEMPORARY_FOLDER}/{name}"), id: name.to_owned(), begun })
}

/// Reads from an object that was opened for this; room is made for what is there, not for what was asked
/// for, and not filled before it is read into.
fn read_at(mut file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let room = usize::try_from(length).map_err(io::Error::other)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(room).map_err(io::Error::other)?;
    if offset > 0 && room > 0 {
        file.seek(io::SeekFrom::Start(offset))?;
    }
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() < room {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// A folder has neither classes, locks nor versions: of those the interface's own answers hold.
impl ObjectStore for LocalStore {
    fn location(&self) -> String {
        self.root.path().display().to_string()
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.put_whole(key, body, true)
    }

    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        // Not the decision, which is the atomic one at the end, but it spares writing a segment
        // that is there already, and lets a full disk answer "exists".
        let (folder, name) = split(key);
        let folder = self.root.open_folder(folder);
        if folder.and_then(|folder| stat_child(&folder, name)).is_ok() {
            return Err(write::taken(&self.root, "put", key));
        }
        self.put_whole(key, body, false)
    }

    fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
        self.root.confirm()?;
        let temporary = Temporary::create(&self.root)
            .map_err(|errno| self.root.failure("put", key.as_str(), errno.into()))?;
        Ok(Box::new(LocalWriter {
            root: Arc::clone(&self.root),
            key: key.clone(),
            temporary,
            has_failed: false,
        }))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        let (file, size) = self.open_object("get", key)?;
        read_at(&file, 0, size).map_err(|source| self.root.failure("get", key.as_str(), source))
    }

    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let (file, size) = self.open_object("get", key)?;
        let wanted_end = offset.saturating_add(buffer.len() as u64);
        if wanted_end > size {
            return Err(Error::Short { key: key.clone(), wanted_end, size });
        }
        file.read_exact_at(buffer, offset)
            .map_err(|source| self.root.failure("get", key.as_str(), source))
    }

    fn read_up_to(&self, key: &ObjectKey, offset: u64, length_max: usize) -> Result<Vec<u8>> {
        let (file, size) = self.open_object("get", key)?;
        let length = size.saturating_sub(offset).min(length_max as u64);
        read_at(&file, offset, length)
            .map_err(|source| self.root.failure("get", key.as_str(), source))
    }

    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let (file, size) = self.open_object("head", key)?;
        let stat = rustix::fs::fstat(&file)
            .map_err(|errno| self.root.failure("head", key.as_str(), errno.into()))?;
        Ok(ObjectMeta { key: key.clone(), size, stored: list::stored(&stat), class: None })
    }

    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>> {
        list::list(&self.root, prefix, after, count_max)
    }

    fn list_pages(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
        each: &mut EachPage<'_>,
    ) -> Result<()> {
        list::pages(&self.root, prefix, after, count_max, each)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.delete_many(std::slice::from_ref(key))
    }

    /// Durable folder by folder in the given order, so that a power cut cannot bring back a
    /// manifest whose packs are gone; one fsync for neighbours in one folder.
    fn delete_many(&self, keys: &[ObjectKey]) -> Result<()> {
        self.root.confirm()?;
        for run in keys.chunk_by(|a, b| split(a).0 == split(b).0) {
            let folder = run.first().map_or("", |key| split(key).0);
            self.delete_in_folder(folder, run)?;
        }
        self.root.confirm()
    }

    /// Temporary files; a killed process cannot remove its own.
    fn unfinished(&self) -> Result<Vec<Unfinished>> {
        let Some(folder) = self.temporary_folder()? else { return Ok(Vec::new()) };
        let failed = |errno: Errno| self.root.failure("list", TEMPORARY_FOLDER, errno.into());
        let mut found = Vec::new();
        let mut dir = Dir::read_from(&folder).map_err(failed)?;
        while let Some(entry) = dir.read() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_str().unwrap_or(".");
            if name.starts_with('.') {
                continue;
            }
            match unfinished_file(&folder, name) {
                Ok(file) => found.push(file),
                // Its writer has finished or dropped it meanwhile.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(found)
    }

    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        let Some(folder) = self.temporary_folder()? else { return Ok(()) };
        let name = unfinished.id.as_str();
        if name.contains('/') || name.starts_with('.') {
            return Ok(());
        }
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.root.failure("delete", &unfinished.name, errno.into())),
        }
    }

    fn must_be_tried(&self) -> bool {
        false
    }
}
