//! Tablespaces that were made after the backup.
//!
//! Their records are replayed with the location as it was on the source, whatever `--tablespace` says of
//! those in the backup. Where a server's files are, `archive-get` would not hand the segment out; where
//! nothing is, replay fails. Both are known before.

use std::path::{Path, PathBuf};

use super::aside::{leads_to, links_to, siblings};
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
    /// It holds this very cluster's files of it, which replay removes before it makes them anew.
    pub is_own: bool,
}

/// What replay makes, where the backup's own tablespaces go to `tablespaces`. `own` is the cluster's directory where
/// the restore goes over it as the cluster itself: what lies behind its own link is its own.
///
/// # Errors
/// [`Error::Tablespace`] where it would write into what is there.
pub(super) fn check(
    tablespaces: &[(u32, String, PathBuf)],
    replayed: &Replayed,
    is_copy: bool,
    own: Option<&Path>,
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
        let is_own = !is_copy && own.is_some_and(|own| leads_there_alone(own, found.oid, location));
        let exists = match Location::of(location) {
            Ok(Location::Missing) => false,
            Ok(Location::Free) => true,
            // Replay drops what is there of this version, and makes it anew (`create_tablespace_directories` in
            // `src/backend/commands/tablespace.c`).
            Ok(Location::Taken(_)) if is_own => true,
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
            is_own,
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

/// Whether a data directory's own link of this tablespace leads to a location, and none of a directory beside it.
fn leads_there_alone(data: &Path, oid: u32, location: &Path) -> bool {
    let link = data.join(format!("pg_tblspc/{oid}"));
    let is_ours = links_to(data, location).any(|leads_there| leads_there == link);
    let is_other = |other: &PathBuf| !is_same(other, data);
    is_ours && !siblings(data).filter(is_other).any(|other| leads_to(&other, location))
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
            _ if self.is_own => {
                "where this cluster's own files of it are: replay removes them first"
            }
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
        let found = check(&[], &replayed, true, None).unwrap();
        assert_eq!(found.iter().map(|each| each.exists).collect::<Vec<_>>(), [true, false]);
        let replayed = Replayed { tablespaces: vec![made("taken")], ..Replayed::default() };
        assert!(matches!(
            check(&[], &replayed, true, None),
            Err(Error::Tablespace { oid: 16400, .. })
        ));
        let own = [(16390, "/old".to_owned(), place("taken"))];
        assert_eq!(check(&own, &replayed, true, None).unwrap(), [], "the restore fills it");
        let replayed = Replayed { not_replayed: vec![made("taken")], ..Replayed::default() };
        check(&[], &replayed, true, None).unwrap_err();
        assert_eq!(check(&[], &replayed, false, None).unwrap(), []);
        let replayed = Replayed { unread_tablespace: Some(Lsn(9)), ..Replayed::default() };
        check(&[], &replayed, true, None).unwrap_err();
        check(&[], &replayed, false, None).unwrap();
    }

    /// A restore over the cluster's own directory, to before one of its tablespaces was made, was refused for the
    /// files of that tablespace, which are the cluster's own.
    #[test]
    fn d2026_11_29_its_own_tablespace_is_in_nobodys_way() {
        let scratch = tempfile::tempdir().unwrap();
        let place = |name: &str| scratch.path().join(name);
        std::fs::create_dir_all(place("space").join("PG_15_202209061")).unwrap();
        std::fs::create_dir_all(place("data/pg_tblspc")).unwrap();
        let location = place("space").display().to_string();
        let tablespaces = vec![FoundTablespace { oid: 16400, location, lsn: Lsn(7) }];
        let replayed = Replayed { tablespaces, ..Replayed::default() };
        let data = place("data");
        let is_refused = |is_copy, own| check(&[], &replayed, is_copy, own).is_err();
        assert!(is_refused(false, Some(&*data)), "no link leads there");
        std::os::unix::fs::symlink(place("space"), data.join("pg_tblspc/16400")).unwrap();
        let made = check(&[], &replayed, false, Some(&data)).unwrap();
        assert!(made[0].exists && made[0].warning().contains("replay removes them first"));
        assert!(is_refused(true, Some(&*data)), "archive-get would not hand it out to a copy");
        assert!(is_refused(false, None));
        std::fs::create_dir_all(place("copied/pg_tblspc")).unwrap();
        std::os::unix::fs::symlink(place("space"), place("copied/pg_tblspc/16400")).unwrap();
        assert!(is_refused(false, Some(&*data)), "another directory's too");
    }
}
