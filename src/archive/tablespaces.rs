//! Tablespaces that recovery is about to make.
//!
//! Replay makes a tablespace where its record says, whatever `--tablespace` mapped: it takes a directory
//! that exists, and leads its own link there (`create_tablespace_directories`,
//! src/backend/commands/tablespace.c). On the host of the source that is the live cluster's directory; a
//! left-over one has files of another future. What a segment makes is in its facts, and the segment
//! passes through here before it is replayed.

use std::io::ErrorKind;
use std::path::Path;

use super::error::{Error, Result};
use super::push::MARKER;
use crate::pg::Lsn;
use crate::pg::wal::RM_TBLSPC;
use crate::repo::WalFacts;

/// Refuses a segment whose replay would take over a directory in use.
pub(super) fn check(data_directory: &Path, facts: &WalFacts) -> Result<()> {
    let Some(found) = &facts.found else { return Ok(()) };
    let refused = |oid: u32, lsn: Lsn, location: &str, why: String| {
        let (name, location) = (facts.name.clone(), location.to_owned());
        Err(Error::Tablespace { name, oid, lsn, location, why })
    };
    for made in &found.tablespaces {
        let location = Path::new(&made.location);
        // In the data directory itself there is nothing to take over.
        if !location.is_absolute() {
            continue;
        }
        let link = data_directory.join("pg_tblspc").join(made.oid.to_string());
        if std::fs::read_link(&link).is_ok_and(|target| target == location) {
            // Replayed before: a standby that was restarted.
            continue;
        }
        match std::fs::read_dir(location).map(|mut entries| entries.next().is_some()) {
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Ok(true) => {
                return refused(made.oid, made.lsn, &made.location, "is not empty".into());
            }
            Err(error) => {
                let why = format!("cannot be looked at ({error})");
                return refused(made.oid, made.lsn, &made.location, why);
            }
        }
    }
    // The record goes on in the next segment, so that nobody has read its path.
    let cut = found.cut.as_ref().filter(|cut| cut.rmgr == Some(RM_TBLSPC));
    match cut {
        Some(cut) if data_directory.join(MARKER).exists() => {
            refused(0, cut.lsn, "a place that is not known", "may be the source's".into())
        }
        _ => Ok(()),
    }
}
