//! Making a restored copy the cluster itself: plan, then execute.
//!
//! A copy carries a marker, from which `archive-push` refuses to run, and settings that keep it from
//! archiving, following and running jobs. Adopting it takes both away.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::conf_file::FILE_BYTES_MAX;
use super::error::{Error, Result};
use crate::base::{Ctx, Timestamp, durable};
use crate::pg::{ControlFile, MajorVersion, isolation};

const AUTO_CONF: &str = "postgresql.auto.conf";

/// In a restored directory that must not archive; `archive-push` refuses to run from it.
pub(super) const MARKER: &str = "pgkeep_restored.json";

/// What the marker says.
#[derive(Debug, Clone, serde::Deserialize)]
struct Marker {
    cluster: String,
    backup: String,
    restored: Timestamp,
}

/// What adopting a copy will do.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Adoption {
    /// The copy.
    pub data_directory: PathBuf,
    /// The cluster's configured name when it was restored.
    pub cluster: String,
    /// The backup that it was restored from.
    pub backup: String,
    /// When.
    pub restored: Timestamp,
    /// Settings that are removed from `postgresql.auto.conf`, so that those before them count again.
    pub removed: Vec<String>,
    #[serde(skip)]
    settings: Option<Vec<u8>>,
}

/// Plans the adoption of a copy. Changes nothing.
///
/// # Errors
/// [`Error::Refused`] for a directory that is no copy; [`Error::File`], [`Error::Postgres`].
pub fn plan_adoption(data_directory: &Path) -> Result<Adoption> {
    let refused = |what: String| Err(Error::Refused { what });
    let path = data_directory.join(MARKER);
    if path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return refused(format!(
            "{} is no restored copy: there is nothing to adopt",
            data_directory.display()
        ));
    }
    let text = read(&mut open(&path)?, &path)?;
    let marker: Marker = match serde_json::from_slice(&text) {
        Ok(marker) => marker,
        Err(error) => return refused(format!("{}: {error}", path.display())),
    };
    let auto_conf = data_directory.join(AUTO_CONF);
    let content = read(&mut open(&auto_conf)?, &auto_conf)?;
    let (settings, removed) = isolation::without_of_copy(&content, major_of(data_directory)?);
    Ok(Adoption {
        data_directory: data_directory.into(),
        cluster: marker.cluster,
        backup: marker.backup,
        restored: marker.restored,
        settings: (!removed.is_empty()).then_some(settings),
        removed,
    })
}

/// Opens a file of the copy. Whoever owns the directory may have put a link there, or another name of a
/// file that root would give away.
fn open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let odd = |why: &str| Error::Refused { what: format!("{} {why}", path.display()) };
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::LOOP) => return Err(odd("is a link, where the server has a file")),
        other => File::from(other.map_err(|error| Error::file("open", path)(error.into()))?),
    };
    let found = file.metadata().map_err(Error::file("stat", path))?;
    match (found.is_file(), found.nlink()) {
        (true, 1) => Ok(file),
        (true, _) => Err(odd("has another name elsewhere")),
        (false, _) => Err(odd("is no regular file")),
    }
}

fn read(file: &mut File, path: &Path) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut limited = file.take(FILE_BYTES_MAX);
    limited.read_to_end(&mut content).map_err(Error::file("read", path))?;
    Ok(content)
}

fn major_of(data_directory: &Path) -> Result<MajorVersion> {
    let path = data_directory.join("global/pg_control");
    let content = std::fs::read(&path).map_err(Error::file("read", &path))?;
    ControlFile::parse(&content)
        .and_then(|control| control.major())
        .map_err(|source| Error::Postgres { what: "global/pg_control", source })
}

/// Carries an adoption out. Settings first, the marker last: a directory that is half adopted still
/// refuses to archive, and is adopted by the next call.
///
/// # Errors
/// [`Error::File`].
pub fn adopt(ctx: &Ctx, adoption: &Adoption) -> Result<()> {
    ctx.cancel.check()?;
    let directory = &adoption.data_directory;
    let path = directory.join(AUTO_CONF);
    let owner = std::fs::metadata(directory).map_err(Error::file("stat", directory))?;
    let is_root = rustix::process::geteuid().is_root();
    let there = open(&path)?;
    let found = there.metadata().map_err(Error::file("stat", &path))?;
    match &adoption.settings {
        Some(settings) => {
            let owner = is_root.then(|| (owner.uid(), owner.gid()));
            durable::replace_as(&path, settings, found.mode() & 0o777, owner)
                .map_err(Error::file("write", &path))?;
        }
        // A call of an older version that was killed has left a file that the server cannot read.
        None if is_root && found.uid() == 0 => {
            fchown(&there, Some(owner.uid()), Some(owner.gid()))
                .map_err(Error::file("set the owner of", &path))?;
        }
        None => {}
    }
    let marker = directory.join(MARKER);
    std::fs::remove_file(&marker).map_err(Error::file("remove", &marker))?;
    durable::sync_dir(directory).map_err(Error::file("sync", directory))
}

impl fmt::Display for Adoption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Adopt {} as cluster {}", self.data_directory.display(), self.cluster)?;
        write!(
            f,
            "  restored      {} from backup {}",
            self.restored.format("%Y-%m-%d %H:%M:%S UTC"),
            self.backup
        )?;
        for setting in &self.removed {
            write!(f, "\n  removes       {}", setting.trim_end())?;
        }
        write!(f, "\n  then          it archives into the cluster's repositories")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    /// A copy that another account owns, where root runs the tests.
    fn copy(auto_conf: &[u8]) -> Option<(tempfile::TempDir, Adoption)> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("data");
        std::fs::create_dir(&directory).unwrap();
        chown(&directory, Some(65534), Some(65534)).unwrap();
        durable::write_new(&directory.join(AUTO_CONF), auto_conf, 0o640).unwrap();
        durable::write_new(&directory.join(MARKER), b"{}", 0o600).unwrap();
        let adoption = Adoption {
            data_directory: directory,
            cluster: "main".into(),
            backup: "b".into(),
            restored: Timestamp::UNIX_EPOCH,
            removed: Vec::new(),
            settings: None,
        };
        Some((scratch, adoption))
    }

    fn adopted(adoption: &Adoption) -> Result<()> {
        adopt(&Ctx::fixed(Timestamp::UNIX_EPOCH, 1), adoption)
    }

    /// Killed between the new settings and their owner, a call left a file that only root could read, and
    /// the next one had nothing to remove and did not look at it.
    #[test]
    fn d20261120_a_second_call_gives_the_settings_to_the_server_s_account() {
        let Some((_scratch, adoption)) = copy(b"") else { return };
        adopted(&adoption).unwrap();
        let found = std::fs::metadata(adoption.data_directory.join(AUTO_CONF)).unwrap();
        assert_eq!(found.uid(), 65534);
        assert!(!adoption.data_directory.join(MARKER).exists());
    }

    /// In a cluster that its group may read, the settings came back for the owner alone.
    #[test]
    fn d20261124_the_settings_keep_their_mode() {
        let Some((_scratch, mut adoption)) = copy(b"a = 1\n") else { return };
        adoption.settings = Some(Vec::new());
        adopted(&adoption).unwrap();
        let found = std::fs::metadata(adoption.data_directory.join(AUTO_CONF)).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o777, found.len()), (65534, 0o640, 0));
    }

    /// Root followed a link of that name, and gave away whatever it led to.
    #[test]
    fn d20261124_adopting_gives_away_nothing_of_others() {
        let Some((scratch, adoption)) = copy(b"") else { return };
        let (mine, path) = (scratch.path().join("mine"), adoption.data_directory.join(AUTO_CONF));
        durable::write_new(&mine, b"mine", 0o600).unwrap();
        for is_link in [true, false] {
            std::fs::remove_file(&path).unwrap();
            match is_link {
                true => symlink(&mine, &path).unwrap(),
                false => std::fs::hard_link(&mine, &path).unwrap(),
            }
            adopted(&adoption).unwrap_err();
            let found = std::fs::metadata(&mine).unwrap();
            assert_eq!((found.uid(), found.len()), (0, 4));
            assert!(adoption.data_directory.join(MARKER).exists());
        }
    }
}
