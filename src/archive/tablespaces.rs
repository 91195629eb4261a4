//! Tablespaces that recovery is about to make.
//!
//! Replay makes a tablespace where its record says, whatever `--tablespace` mapped: it takes a directory
//! that exists, and leads its own link there (`create_tablespace_directories`,
//! src/backend/commands/tablespace.c). On the host of the source that is the live cluster's directory; a
//! left-over one has files of another future. What a segment makes is in its facts, and the segment
//! passes through here before it is replayed.
//!
//! A restored copy is refused such a segment. Any other directory is the cluster's own or a standby, which
//! the operator has set up beside its primary as PostgreSQL allows: there it is told.

use std::path::Path;

use super::error::{Error, Result};
use super::pgdata::MARKER;
use crate::base::Ctx;
use crate::pg::Lsn;
use crate::pg::wal::RM_TBLSPC;
use crate::repo::{Cut, Location, WalFacts};

/// Whether the data directory is a restored copy. One that cannot be looked at may be.
pub(super) fn is_copy(data_directory: &Path) -> bool {
    !matches!(data_directory.join(MARKER).try_exists(), Ok(false))
}

/// Refuses a segment whose replay would take over a directory in use.
pub(super) fn check(ctx: &Ctx, data_directory: &Path, facts: &WalFacts) -> Result<()> {
    let Some(found) = &facts.found else { return Ok(()) };
    let is_copy = is_copy(data_directory);
    for made in &found.tablespaces {
        let Some(why) = in_use(data_directory, Path::new(&made.location)) else { continue };
        let error = refused(facts, made.oid, made.lsn, &made.location, why);
        if is_copy {
            return Err(error);
        }
        ctx.warn(format!("{error}; it is given all the same, as this is no restored copy"));
    }
    if !is_copy {
        return Ok(());
    }
    found.untold_tablespace().map_or(Ok(()), |lsn| Err(unknown(facts, lsn)))
}

/// The long header of a segment's first page (`SizeOfXLogLongPHD`), and in it `xlp_info`.
const PAGE_HEADER: usize = 40;
const PAGE_INFO: usize = 2;
/// `XLP_FIRST_IS_CONTRECORD`.
const GOES_ON: u8 = 1;
/// Where a record's header, of 24 bytes, has `xl_rmid`. A record begins on a multiple of 8: of a header
/// that is cut, 8 or 16 bytes lie in the segment before.
const RESOURCE_MANAGER: usize = 17;
const HEADER_CUTS: [usize; 2] = [8, 16];

/// Whether the record that a segment begins in may be of a tablespace, and its header was cut: `content`
/// is the segment's beginning. Then the segment before has to say where the record begins.
pub(super) fn may_complete(content: &[u8]) -> bool {
    let goes_on = content.get(PAGE_INFO).is_some_and(|info| info & GOES_ON != 0);
    goes_on && HEADER_CUTS.iter().any(|length| is_of_tablespace(content, *length))
}

fn is_of_tablespace(content: &[u8], length: usize) -> bool {
    content.get(PAGE_HEADER + RESOURCE_MANAGER - length) == Some(&RM_TBLSPC)
}

/// Refuses a segment that completes a tablespace's record whose header lies in two segments: `cut` is what
/// the segment before says, and `begin` is where this one begins.
pub(super) fn check_completed(
    facts: &WalFacts,
    cut: Option<&Cut>,
    begin: Lsn,
    content: &[u8],
) -> Result<()> {
    let Some(cut) = cut.filter(|cut| cut.rmgr.is_none()) else { return Ok(()) };
    let length = begin.0.checked_sub(cut.lsn.0).and_then(|length| usize::try_from(length).ok());
    match length.filter(|length| HEADER_CUTS.contains(length)) {
        Some(length) if is_of_tablespace(content, length) => Err(unknown(facts, cut.lsn)),
        _ => Ok(()),
    }
}

/// Why a location is not free for a tablespace to be made in.
fn in_use(data_directory: &Path, location: &Path) -> Option<String> {
    // In the data directory itself there is nothing to take over. Where a link of this directory leads,
    // the tablespace or a later one was made before: a standby that was restarted.
    if !location.is_absolute() || is_linked(data_directory, location) {
        return None;
    }
    match Location::of(location) {
        // What else lies there, as `lost+found` does, recovery leaves alone.
        Ok(Location::Missing | Location::Free) => None,
        Ok(Location::Taken(name)) => Some(format!("holds {name}, so it is not empty")),
        Err(error) => Some(format!("cannot be looked at ({error})")),
    }
}

fn is_linked(data_directory: &Path, location: &Path) -> bool {
    let links = std::fs::read_dir(data_directory.join("pg_tblspc"));
    let mut links = links.into_iter().flatten().flatten();
    links.any(|link| std::fs::read_link(link.path()).is_ok_and(|target| target == location))
}

fn refused(facts: &WalFacts, oid: u32, lsn: Lsn, location: &str, why: String) -> Error {
    Error::Tablespace { name: facts.name.clone(), oid, lsn, location: location.into(), why }
}

fn unknown(facts: &WalFacts, lsn: Lsn) -> Error {
    refused(facts, 0, lsn, "a place that is not known", "may be the source's".into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;
    use crate::base::Timestamp;
    use crate::repo::{Found, FoundTablespace};

    struct World {
        dir: tempfile::TempDir,
        ctx: Ctx,
    }

    impl World {
        fn new(is_copy: bool) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for folder in ["data/pg_tblspc", "place"] {
                std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            }
            if is_copy {
                std::fs::File::create(dir.path().join("data").join(MARKER)).unwrap();
            }
            Self { dir, ctx: Ctx::fixed(Timestamp::UNIX_EPOCH, 1) }
        }

        fn place(&self) -> PathBuf {
            self.dir.path().join("place")
        }

        fn make(&self, name: &str) {
            std::fs::create_dir(self.place().join(name)).unwrap();
        }

        fn link(&self, oid: u32) {
            let link = self.dir.path().join(format!("data/pg_tblspc/{oid}"));
            symlink(self.place(), link).unwrap();
        }

        fn check(&self, facts: &WalFacts) -> Result<()> {
            check(&self.ctx, &self.dir.path().join("data"), facts)
        }

        fn made(&self, count: u32) -> WalFacts {
            let location = self.place().display().to_string();
            facts((0..count).map(|n| (16384 + n, location.clone())).collect(), None)
        }
    }

    fn facts(made: Vec<(u32, String)>, cut: Option<Cut>) -> WalFacts {
        let tablespaces = made.into_iter();
        let tablespaces =
            tablespaces.map(|(oid, location)| FoundTablespace { oid, location, lsn: Lsn(64) });
        let found: Found = serde_json::from_str(r#"{"read":true,"ending":"full"}"#).unwrap();
        WalFacts {
            name: "000000010000000000000001".into(),
            system: 1,
            size: 1 << 20,
            digest: String::new(),
            timeline: Some(1),
            address: Some(Lsn(1 << 20)),
            found: Some(Found { tablespaces: tablespaces.collect(), cut, ..found }),
            by: None,
        }
    }

    /// `one` was made and dropped, `two` is in its place: a standby that replays both again was refused
    /// for ever.
    #[test]
    fn d20261124_where_any_link_leads_the_directory_is_our_own() {
        let world = World::new(true);
        world.make("PG_15_202209061");
        let error = world.check(&world.made(1)).unwrap_err();
        assert!(error.to_string().contains("holds PG_15_202209061"), "{error}");
        world.link(16390);
        world.check(&world.made(1)).unwrap();
    }

    /// The root of a mount has `lost+found`, and counted as in use.
    #[test]
    fn d20261124_only_directories_of_a_version_count() {
        let world = World::new(true);
        for name in ["lost+found", "PG_", "PG_15", "PG_15_", "PG_15_x", "pg_15_1"] {
            world.make(name);
        }
        world.check(&world.made(1)).unwrap();
        world.make("PG_18_202506291");
        world.check(&world.made(1)).unwrap_err();
    }

    /// A standby or the cluster itself was stopped for good by what only a copy must not do.
    #[test]
    fn d20261124_only_a_copy_is_refused() {
        let world = World::new(false);
        world.make("PG_15_202209061");
        world.check(&world.made(1)).unwrap();
        world.check(&world.made(64)).unwrap();
    }

    /// What a list of 64 leaves out passed unseen.
    #[test]
    fn d20261124_a_copy_is_refused_a_list_that_may_go_on() {
        let world = World::new(true);
        world.check(&world.made(63)).unwrap();
        let error = world.check(&world.made(64)).unwrap_err();
        assert!(error.to_string().contains("a place that is not known"), "{error}");
        // A list that was shortened to fit into its frame.
        let mut shortened = world.made(5);
        world.check(&shortened).unwrap();
        shortened.found.as_mut().unwrap().shorten();
        world.check(&shortened).unwrap_err();
    }

    /// A record whose header lies in two segments is of no known kind in the first.
    #[test]
    fn d20261124_a_tablespace_s_record_with_a_cut_header_is_seen_in_the_next_segment() {
        let begin = Lsn(2 << 20);
        let mut content = vec![0; 128];
        assert!(!may_complete(&content) && !may_complete(&[]));
        content[2] = 0b11;
        assert!(!may_complete(&content));
        for length in [8_u8, 16] {
            let mut content = content.clone();
            content[40 + 17 - usize::from(length)] = RM_TBLSPC;
            assert!(may_complete(&content));
            let cut = |lsn, rmgr| Some(Cut { lsn: Lsn(lsn), xid: None, rmgr, bytes: None });
            let facts = facts(vec![], None);
            let check =
                |cut: Option<Cut>| check_completed(&facts, cut.as_ref(), begin, &content).is_ok();
            assert!(!check(cut(begin.0 - u64::from(length), None)));
            // Another byte of another record.
            assert!(check(cut(begin.0 - u64::from(24 - length), None)));
            assert!(check(cut(begin.0 - u64::from(length), Some(10))));
            assert!(check(cut(begin.0 - 64, None)) && check(cut(begin.0 + 8, None)));
            assert!(check(None));
        }
    }
}
