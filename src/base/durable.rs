//! File operations that survive a power cut, each with the order in which it makes things durable.
//!
//! The rule of POSIX that all of them serve: a file's bytes are durable after `fsync` of the file,
//! its name after `fsync` of the directory that holds the name.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

/// Makes the names in a directory durable.
///
/// # Errors
/// When the directory cannot be opened or the kernel reports a write error.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes the directory that holds `path`'s name durable.
///
/// # Errors
/// As [`sync_dir`].
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Creates `dir` and its missing parents, each made durable in its own parent before the next.
///
/// # Errors
/// When one of them cannot be created or synced.
pub fn create_dir_all(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        create_dir_all(parent, mode)?;
    }
    match std::fs::create_dir(dir) {
        Ok(()) => std::fs::set_permissions(dir, Permissions::from_mode(mode))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        Err(error) => return Err(error),
    }
    sync_parent(dir)
}

/// As [`create_dir_all`], for a directory of another account: missing parents get a mode of their own.
///
/// # Errors
/// As [`create_dir_all`].
pub fn create_dir_below(dir: &Path, mode: u32, parents: u32) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        create_dir_all(parent, parents)?;
    }
    create_dir_all(dir, mode)
}

/// Renames without making anything durable: for files that whoever asked for them syncs, or asks for
/// again after a crash.
///
/// # Errors
/// As the system's.
#[allow(clippy::disallowed_methods, reason = "its name says that nothing is synced")]
pub fn rename_unsynced(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

/// Renames and makes the new name durable. The source's content must be synced already.
///
/// # Errors
/// When the rename or the sync of the target's directory fails.
#[allow(clippy::disallowed_methods, reason = "this is the wrapper that syncs")]
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    sync_parent(to)
}

/// Writes a whole file under a name that does not exist yet: content, fsync, then the name's
/// directory. Fails with `AlreadyExists` when the name is taken.
///
/// # Errors
/// Any error of the file system; a half-written file is removed.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // The name is ours (create_new), so removing it takes nothing from anybody else.
        std::fs::remove_file(path).ok();
        return Err(error);
    }
    sync_parent(path)
}

/// Replaces a file's content so that a crash leaves the old content or the new, never a mixture:
/// temporary file beside it, fsync, rename, fsync of the directory.
///
/// # Errors
/// Any error of the file system; the temporary file is removed.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replace_as(path, content, mode, None)
}

/// As [`replace`], but nothing is synced: after a power cut the file may be empty or gone. For what is
/// worth nothing then.
///
/// # Errors
/// As [`replace`].
pub fn replace_unsynced(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(parent)?;
    temporary.write_all(content)?;
    temporary.as_file().set_permissions(Permissions::from_mode(mode))?;
    temporary.persist(path).map_err(|error| error.error).map(drop)
}

/// As [`replace`], and the new file belongs to somebody else before it has its name.
///
/// # Errors
/// As [`replace`].
pub fn replace_as(
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::NamedTempFile::new_in(parent)?;
    temporary.write_all(content)?;
    if let Some((uid, gid)) = owner {
        fchown(temporary.as_file(), Some(uid), Some(gid))?;
    }
    temporary.as_file().set_permissions(Permissions::from_mode(mode))?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_dir(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_new_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_new(&path, b"first", 0o600).unwrap();
        let again = write_new(&path, b"second", 0o600).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        replace(&path, b"third", 0o640).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"third");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn create_dir_all_makes_every_parent() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x/y/z");
        create_dir_all(&deep, 0o700).unwrap();
        create_dir_all(&deep, 0o700).unwrap();
        assert!(deep.is_dir());
    }

    #[test]
    fn d20261124_parents_can_be_passed_through() {
        let dir = tempfile::tempdir().unwrap();
        create_dir_below(&dir.path().join("x/y/z"), 0o700, 0o755).unwrap();
        let mode = |name: &str| {
            std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode("x"), mode("x/y"), mode("x/y/z")), (0o755, 0o755, 0o700));
    }
}
