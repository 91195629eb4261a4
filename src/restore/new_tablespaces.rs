//! Tablespaces that were made after the backup.
//!
//! Their records are replayed with the location as it was on the source, whatever `--tablespace` says of
//! those in the backup. Where a server's files are, `archive-get` would not hand the segment out; where
//! nothing is, replay fails. Both are known before.

use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::replayed::Replayed;
use crate::pg::Lsn;
use crate::repo::Location;

/// A tablespace that replay makes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NewTablespace {
    /// Its oid.
    pub oid: u32,
    /// Its location.
    pub location: PathBuf,
    /// Where its record begins: a target before it does not need the location.
    pub lsn: Lsn,
    /// Whether the location is there; otherwise it must be made before the server is started.
    pub exists: bool,
}

/// What replay makes, where the backup's own tablespaces go to `tablespaces`.
///
/// Files of a server are in the way whoever's they are: replay takes a directory of its version as it is, and does
/// not empty it (`create_tablespace_directories` in `src/backend/commands/tablespace.c`), so that blocks of another
/// future would stay behind the tables' ends.
///
/// # Errors
/// [`Error::Tablespace`] where it would write into what is there.
pub(super) fn check(
    tablespaces: &[(u32, String, PathBuf)],
    replayed: &Replayed,
    is_copy: bool,
) -> Result<Vec<NewTablespace>> {
    let refused = |oid, lsn, location: &Path, why: String| {
        Err(Error::Tablespace { oid, lsn, location: location.into(), why })
    };
    let mut made = Vec::<NewTablespace>::new();
    for found in &replayed.tablespaces {
        let location = Path::new(&found.location);
        // In the data directory itself there is nothing to take over; what the restore fills is its own.
        let is_filled = tablespaces.iter().any(|(_, _, target)| is_same(target, location));
        let is_known = made.iter().any(|known| known.location == location);
        if !location.is_absolute() || is_filled || is_known {
            continue;
        }
        let exists = match Location::of(location) {
            Ok(Location::Missing) => false,
            Ok(Location::Free) => true,
            Ok(Location::Taken(name)) => {
                let why = format!("it holds {name}, the files of a server");
                return refused(found.oid, found.lsn, location, why);
            }
            Err(error) => return refused(found.oid, found.lsn, location, error.to_string()),
        };
        made.push(NewTablespace {
            oid: found.oid,
            location: location.into(),
            lsn: found.lsn,
            exists,
        });
    }
    // `archive-get` stops a copy at such a segment wherever its target lies in it.
    for found in replayed.not_replayed.iter().filter(|_| is_copy) {
        let location = Path::new(&found.location);
        if let Ok(Location::Taken(name)) = Location::of(location) {
            let why = format!(
                "it holds {name}, the files of a server; the target lies before that, in the same \
                 segment of WAL, which archive-get hands out as a whole or not at all"
            );
            return refused(found.oid, found.lsn, location, why);
        }
    }
    match replayed.unread_tablespace.filter(|_| is_copy) {
        Some(lsn) => {
            let why = "nobody knows its path: the record crosses into another segment, or the segment \
                       makes more tablespaces than its facts list";
            refused(0, lsn, Path::new("a place that is not known"), why.into())
        }
        None => Ok(made),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}

impl NewTablespace {
    /// What the operator must know.
    pub(super) fn warning(&self) -> String {
        let Self { oid, lsn, .. } = self;
        let location = self.location.display();
        let place = match self.exists {
            true => "which is there and empty of servers' files",
            false => "which is not there: make it first, or recovery stops there",
        };
        format!(
            "tablespace {oid} was made after the backup, at {lsn}: replay makes it in {location}, {place}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::FoundTablespace;

    #[test]
    fn what_replay_would_write_into_is_refused_and_what_it_lacks_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let place = |name: &str| scratch.path().join(name);
        let made = |name: &str| FoundTablespace {
            oid: 16400,
            location: place(name).display().to_string(),
            lsn: Lsn(7),
        };
        std::fs::create_dir_all(place("free").join("lost+found")).unwrap();
        std::fs::create_dir_all(place("taken").join("PG_15_202209061")).unwrap();
        let tablespaces = [made("free"), made("missing"), made("missing")];
        let replayed = Replayed { tablespaces: tablespaces.into(), ..Replayed::default() };
        let found = check(&[], &replayed, true).unwrap();
        assert_eq!(found.iter().map(|each| each.exists).collect::<Vec<_>>(), [true, false]);
        let replayed = Replayed { tablespaces: vec![made("taken")], ..Replayed::default() };
        assert!(matches!(check(&[], &replayed, true), Err(Error::Tablespace { oid: 16400, .. })));
        // Not the cluster's own ones either: replay would go over what is in them.
        check(&[], &replayed, false).unwrap_err();
        let own = [(16390, "/old".to_owned(), place("taken"))];
        assert_eq!(check(&own, &replayed, true).unwrap(), [], "the restore fills it");
        let replayed = Replayed { not_replayed: vec![made("taken")], ..Replayed::default() };
        check(&[], &replayed, true).unwrap_err();
        assert_eq!(check(&[], &replayed, false).unwrap(), []);
        let replayed = Replayed { unread_tablespace: Some(Lsn(9)), ..Replayed::default() };
        check(&[], &replayed, true).unwrap_err();
        check(&[], &replayed, false).unwrap();
    }
}
