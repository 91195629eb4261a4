//! Making a restored copy the cluster itself: plan, then execute.
//!
//! A copy carries a marker, from which `archive-push` refuses to run, and settings that keep it from
//! archiving, following and running jobs. Adopting it takes both away.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::recovery::MARKER;
use crate::base::{Ctx, Timestamp, durable};
use crate::pg::config_file::{self, ConfigFile};
use crate::pg::recovery::isolation;
use crate::pg::{ControlFile, MajorVersion};

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
    let (settings, removed) = without_isolation(&content, major_of(data_directory)?);
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

/// The file without the last line of each setting that isolates a copy, where its value is the one
/// that a restore writes. Who has set it to something else since meant that.
fn without_isolation(content: &[u8], major: MajorVersion) -> (Vec<u8>, Vec<String>) {
    let parsed = ConfigFile::parse(content);
    let mut lines = Vec::new();
    let mut removed = Vec::new();
    for (name, value) in isolation(major) {
        let last = parsed.settings.iter().rfind(|set| set.name.eq_ignore_ascii_case(name));
        if let Some(last) = last.filter(|last| last.value == value) {
            lines.push(last.line);
            removed.push(config_file::render(name, &value).unwrap_or_else(|_| name.into()));
        }
    }
    let kept = (1..).zip(content.split_inclusive(|byte| *byte == b'\n'));
    let kept = kept.filter(|(number, _)| !lines.contains(number));
    (kept.flat_map(|(_, line)| line.to_vec()).collect(), removed)
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

    #[test]
    fn what_isolates_goes_and_the_rest_stays() {
        let before = "# by hand\nprimary_conninfo = 'host=primary'\nwork_mem = '1MB'\n";
        let mut text = before.to_owned();
        for (name, value) in isolation(MajorVersion::V15) {
            text.push_str(&config_file::render(name, &value).unwrap());
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        let (after, removed) = without_isolation(text.as_bytes(), MajorVersion::V15);
        assert_eq!(String::from_utf8(after).unwrap(), before);
        assert_eq!(removed.len(), isolation(MajorVersion::V15).len());
        // Set by hand since: it was meant.
        text.push_str("archive_mode = 'always'\n");
        let (after, _) = without_isolation(text.as_bytes(), MajorVersion::V15);
        let after = String::from_utf8(after).unwrap();
        assert!(after.ends_with("archive_mode = 'always'\n"), "{after}");
        let (same, none) = without_isolation(before.as_bytes(), MajorVersion::V15);
        assert_eq!((same.as_slice(), none.len()), (before.as_bytes(), 0));
    }
}
