//! The socket: in a folder that only its account can enter, held by a lock for as long as the daemon
//! lives.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::{Error, Result};
use crate::base::durable;

/// `sun_path` of a socket's address.
const PATH_MAX: usize = 107;

/// A socket that this process listens on. Its name goes when it is dropped.
#[derive(Debug)]
pub struct Socket {
    /// Takes connections.
    pub listener: UnixListener,
    path: PathBuf,
    /// Held by the one daemon that may replace the socket's name.
    #[allow(dead_code, reason = "the lock goes with it")]
    lock: File,
}

impl Socket {
    /// Listens at a path. What a daemon left there that was killed is replaced.
    ///
    /// # Errors
    /// [`Error::Running`], [`Error::Socket`].
    pub fn listen(path: &Path) -> Result<Self> {
        let failed = |source| Error::Socket { path: path.to_owned(), source };
        if path.as_os_str().len() > PATH_MAX {
            let why = format!("a socket's path has {PATH_MAX} bytes at most");
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, why)));
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        durable::create_dir_all(folder, 0o700).map_err(failed)?;
        require_private(folder).map_err(failed)?;
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(name);
        let lock = lock.map_err(failed)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::Running { path: path.to_owned() });
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), lock })
    }
}

impl Socket {
    /// Takes the name away, so that nobody looks for a daemon here.
    pub fn remove(&self) {
        std::fs::remove_file(&self.path).ok();
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Whoever could put something into the folder could pass for the daemon.
fn require_private(folder: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(folder)?;
    let own = rustix::process::geteuid().as_raw();
    let why = if metadata.uid() != own {
        format!("{} belongs to account {}, not {own}", folder.display(), metadata.uid())
    } else if metadata.mode() & 0o077 != 0 {
        format!("others can enter {}: its mode must be 0700", folder.display())
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn one_daemon_listens_in_a_folder_that_nobody_else_enters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own/pgkeep.sock");
        let first = Socket::listen(&path).unwrap();
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(Socket::listen(&path), Err(Error::Running { .. })));
        drop(first);
        assert!(!path.exists());
        // What a killed daemon leaves.
        std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(path.exists());
        drop(Socket::listen(&path).unwrap());
        let open = std::fs::Permissions::from_mode(0o750);
        std::fs::set_permissions(path.parent().unwrap(), open).unwrap();
        let refused = Socket::listen(&path).unwrap_err();
        assert!(refused.to_string().contains("mode must be 0700"), "{refused}");
        let long = dir.path().join("x".repeat(120));
        assert!(Socket::listen(&long).unwrap_err().to_string().contains("107 bytes"));
    }
}
