//! Making a restored copy the cluster itself: plan, then execute.
//!
//! A copy carries a marker, from which `archive-push` refuses to run, and settings that keep it from
//! archiving, following and running jobs. Adopting it takes both away.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::recovery::MARKER;
use crate::base::{Ctx, Timestamp, durable};
use crate::pg::{ControlFile, MajorVersion, isolation};

const AUTO_CONF: &str = "postgresql.auto.conf";

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
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return refused(format!(
                "{} is no restored copy: there is nothing to adopt",
                data_directory.display()
            ));
        }
        other => other.map_err(Error::file("read", &path))?,
    };
    let marker: Marker = match serde_json::from_slice(&text) {
        Ok(marker) => marker,
        Err(error) => return refused(format!("{}: {error}", path.display())),
    };
    let auto_conf = data_directory.join(AUTO_CONF);
    let content = std::fs::read(&auto_conf).map_err(Error::file("read", &auto_conf))?;
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
    if let Some(settings) = &adoption.settings {
        durable::replace(&path, settings, 0o600).map_err(Error::file("write", &path))?;
    }
    // Also when nothing is left to remove: a call that was killed here has left a file that the server
    // cannot read.
    if rustix::process::geteuid().is_root() {
        use std::os::unix::fs::MetadataExt as _;
        let owner = std::fs::metadata(directory).map_err(Error::file("stat", directory))?;
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid()))
            .map_err(Error::file("set the owner of", &path))?;
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
    use super::*;

    /// Killed between the new settings and their owner, a call left a file that only root could read, and
    /// the next one had nothing to remove and did not look at it.
    #[test]
    fn d20261120_a_second_call_gives_the_settings_to_the_server_s_account() {
        use std::os::unix::fs::{MetadataExt as _, chown};
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("data");
        std::fs::create_dir(&directory).unwrap();
        chown(&directory, Some(65534), Some(65534)).unwrap();
        durable::write_new(&directory.join(AUTO_CONF), b"", 0o600).unwrap();
        durable::write_new(&directory.join(MARKER), b"{}", 0o600).unwrap();
        let adoption = Adoption {
            data_directory: directory.clone(),
            cluster: "main".into(),
            backup: "b".into(),
            restored: Timestamp::UNIX_EPOCH,
            removed: Vec::new(),
            settings: None,
        };
        adopt(&Ctx::fixed(Timestamp::UNIX_EPOCH, 1), &adoption).unwrap();
        assert_eq!(std::fs::metadata(directory.join(AUTO_CONF)).unwrap().uid(), 65534);
        assert!(!directory.join(MARKER).exists());
    }
}
