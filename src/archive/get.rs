//! One file out of the archive, or proof that it is not there.
//!
//! PostgreSQL takes "absent" for the end of the WAL and promotes. So absence is said only when every
//! repository was asked and answered, nothing later shows that the file is needed, and the restore's
//! plan did not count on it. Every other answer is an error.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use super::Destination;
use super::absence::{needed_segment, prove_absence};
use super::asking::{Ahead, Asking, Content, Pieces};
use super::error::{Error, Result};
use super::tablespaces;
use super::temporary::{Temporary, copy_to};
use crate::base::Ctx;
use crate::pg::wal::{Expected, SegmentHeader};
use crate::pg::{History, Lsn, SegmentName, SegmentSize, WalFileName};
use crate::repo::{self, Cut, Kind, WAL_READ_PIECE, WalFacts};
use crate::storage::ObjectKey;

/// What the caller may choose.
#[derive(Debug, Default)]
pub struct GetOptions {
    /// The restore's plan saw WAL up to here: within it, absence is an error.
    pub through: Option<Lsn>,
    /// Deliver from this repository alone. Absence is proven by all of them.
    pub only: Option<String>,
    /// There is a repository beside these that may hold WAL of the cluster and cannot be asked.
    pub unasked: bool,
    /// The server's data directory, where it is known.
    pub data_directory: Option<PathBuf>,
    /// Only a file is of use: whether it is absent is not looked for, and what is said of that means
    /// nothing.
    pub only_deliver: bool,
}

/// Where a fetched file goes.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// To this path, which has the whole file or nothing of it.
    Path(&'a Path),
    /// Into an open, empty file, for somebody else who gives it its name, and who sees other paths: what
    /// is looked for by absolute paths is left to him ([`check_locations`]).
    Open {
        /// The file.
        file: &'a File,
        /// The folder that it is in.
        folder: &'a Path,
        /// Takes a file that is to get the name instead of that one: another one without a name, of the
        /// same owner and in the same file system.
        instead: &'a OnceLock<File>,
    },
}

impl Target<'_> {
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => path.parent(),
            Self::Open { folder, .. } => Some(folder),
        }
    }
}

/// How a fetch ended without a doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// The file is at its target: whole and authenticated. Not synced: the server does that.
    Delivered(Box<Delivered>),
    /// Proven: no repository has it, and nothing shows that it is needed.
    Absent,
}

/// A file that was delivered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Delivered {
    /// From which repository.
    pub repository: String,
    /// From which object.
    pub object: String,
    /// What is known of it.
    pub facts: WalFacts,
    /// What the segment before says of a record that this one completes, where that may be one of a
    /// tablespace.
    pub cut: Option<Cut>,
}

/// What [`get`] leaves to whoever gives an open file its name: whether recovery, replaying it, would write
/// into directories that are somebody else's. `beginning` is that of the file.
///
/// # Errors
/// [`Error::Tablespace`].
pub fn check_locations(
    ctx: &Ctx,
    data_directory: &Path,
    delivered: &Delivered,
    beginning: &[u8],
) -> Result<()> {
    let Delivered { facts, cut, .. } = delivered;
    tablespaces::check(ctx, data_directory, facts)?;
    match facts.address {
        Some(begin) if tablespaces::is_copy(data_directory) => {
            tablespaces::check_completed(facts, cut.as_ref(), begin, beginning)
        }
        _ => Ok(()),
    }
}

/// Fetches the file that PostgreSQL calls `name` to `destination`.
///
/// # Errors
/// Every doubt. Nothing is at `destination` then.
pub fn get(
    ctx: &Ctx,
    destinations: &[Destination],
    options: &GetOptions,
    name: &str,
    destination: &Path,
) -> Result<Got> {
    get_to(ctx, destinations, options, name, Target::Path(destination), None)
}

/// As [`get`], to any target. What was fetched `ahead` is taken from there.
///
/// # Errors
/// As [`get`].
pub(super) fn get_to(
    ctx: &Ctx,
    destinations: &[Destination],
    options: &GetOptions,
    name: &str,
    target: Target<'_>,
    ahead: Option<&Arc<dyn Ahead>>,
) -> Result<Got> {
    if destinations.is_empty() {
        return Err(Error::NoRepository);
    }
    let parsed = WalFileName::parse(name.as_bytes())
        .map_err(|source| Error::Name { name: name.into(), source })?;
    let (mut doubt, mut is_abandoned) = (None, false);
    let mut asking = Asking::new(ahead.cloned());
    for from in destinations {
        ctx.cancel.check()?;
        let Some((kind, object)) = object_of(from, &parsed) else { continue };
        if options.only.as_ref().is_some_and(|only| *only != from.name) {
            doubt = doubt.or_else(|| held_elsewhere(from, &object, name));
            continue;
        }
        asking.add(from, kind, object);
    }
    while let Some((from, object, answer)) = asking.next() {
        ctx.cancel.check()?;
        match answer {
            Ok(content) => {
                let all = destinations;
                let fetching = Fetching { ctx, from, all, options, name: &parsed, object: &object };
                match fetching.deliver(content, target) {
                    Ok(Some(delivered)) => {
                        if let Some(ahead) = ahead {
                            ahead.delivered(from, &parsed);
                        }
                        return Ok(Got::Delivered(Box::new(delivered)));
                    }
                    Ok(None) => is_abandoned = true,
                    // Whichever repository it would come from.
                    Err(error @ Error::Tablespace { .. }) => return Err(error),
                    // Of a segment that ends too early another repository may have all.
                    Err(error) => drop(doubt.get_or_insert(error)),
                }
            }
            Err(error) if error.is_not_found() => {}
            // Another repository may still have it whole; absence is out of the question now.
            Err(source) => {
                let repository = from.name.clone();
                doubt.get_or_insert(Error::Repository { repository, source });
            }
        }
    }
    match doubt {
        Some(error) => Err(error),
        None if is_abandoned || options.only_deliver => Ok(Got::Absent),
        None => {
            prove_absence(ctx, destinations, options.through, &parsed)?;
            Ok(Got::Absent)
        }
    }
}

/// What a repository says against the file's absence that it is not asked to deliver.
fn held_elsewhere(from: &Destination, object: &ObjectKey, name: &str) -> Option<Error> {
    let repository = from.name.clone();
    match from.repository.store().head(object) {
        Ok(_) => {
            let evidence = format!("repository {repository} has it, which is not to deliver it");
            Some(Error::Hole { name: name.into(), evidence })
        }
        Err(error) if error.is_not_found() => None,
        Err(error) => Some(Error::Repository { repository, source: error.into() }),
    }
}

/// The object of a file; partial segments are never given under a full name, and not by recovery.
fn object_of(from: &Destination, name: &WalFileName) -> Option<(Kind, ObjectKey)> {
    match name {
        WalFileName::Segment(segment) => Some((Kind::Wal, from.place.wal(&segment.to_string())?)),
        WalFileName::History(timeline) => Some((Kind::History, from.place.history(timeline.get()))),
        WalFileName::BackupHistory { .. } => {
            Some((Kind::Label, from.place.label(&name.to_string())?))
        }
        WalFileName::Partial(_) => None,
    }
}

/// One file on its way out of one repository.
struct Fetching<'a> {
    ctx: &'a Ctx,
    from: &'a Destination,
    all: &'a [Destination],
    options: &'a GetOptions,
    name: &'a WalFileName,
    object: &'a ObjectKey,
}

impl Fetching<'_> {
    /// Writes the file beside the destination and gives it its name when all of it is authentic.
    ///
    /// Nothing is synced: the server syncs a file that it keeps (`KeepFileRestoredFromArchive`,
    /// src/backend/access/transam/xlogarchive.c, by `durable_rename`), and after a crash it throws
    /// away what it had asked for and asks again (`RestoreArchivedFile`). Only whole files get their
    /// name, so that what a killed call leaves is never mistaken for a segment. Nothing when there is a
    /// file, and it is not part of the history that recovery follows.
    fn deliver(&self, mut content: Content, target: Target<'_>) -> Result<Option<Delivered>> {
        let facts = content.facts().clone();
        let mut pieces = content.pieces().map_err(|error| self.failed(error))?;
        let mut first = vec![0; pieces.first_length()];
        pieces.open_first(&mut first).map_err(|error| self.failed(error))?;
        self.check(&facts, &first)?;
        check_goes_on(self.all, self.options, self.name, &facts)?;
        if !self.check_switch(&facts, target)? {
            return Ok(None);
        }
        let directory = self.options.data_directory.as_deref();
        let copy = directory.filter(|directory| tablespaces::is_copy(directory));
        let cut = match copy.filter(|_| tablespaces::may_complete(&first)) {
            Some(_) => self.cut_before(&facts)?,
            None => None,
        };
        let (repository, object) = (self.from.name.clone(), self.object.to_string());
        let delivered = Delivered { repository, object, facts, cut };
        match target {
            Target::Path(path) => {
                if let Some(directory) = directory {
                    check_locations(self.ctx, directory, &delivered, &first)?;
                }
                let temporary = Temporary::create(path)?;
                self.write(&first, pieces, (temporary.file(), temporary.path()), None)?;
                temporary.name()?;
            }
            Target::Open { file, folder, instead } => {
                self.write(&first, pieces, (file, folder), Some(instead))?;
            }
        }
        Ok(Some(delivered))
    }

    /// Two threads open pieces and write them: of one file one write goes on at a time, and meanwhile
    /// the other thread opens its piece.
    fn write(
        &self,
        first: &[u8],
        pieces: Pieces<'_>,
        (file, path): (&File, &Path),
        instead: Option<&OnceLock<File>>,
    ) -> Result<()> {
        let pieces = match pieces {
            Pieces::Written(written, _) => {
                return hand_over(written, file, instead).map_err(failed("write", path));
            }
            // Nothing is left to be opened.
            Pieces::Memory(content) => {
                return file.write_all_at(content, 0).map_err(failed("write", path));
            }
            Pieces::Sealed(pieces) => Mutex::new(pieces),
        };
        file.write_all_at(first, 0).map_err(failed("write", path))?;
        if pieces.lock().expect("nobody has it yet").len() == 0 {
            return Ok(());
        }
        let next = || pieces.lock().expect("no holder of this lock panics").next();
        let work = || {
            let mut space = vec![0; WAL_READ_PIECE];
            while let Some(piece) = next() {
                let (offset, length) = (piece.offset, piece.length);
                let opened = piece.open(&mut space).map_err(|error| self.failed(error));
                let content = space.get(..length).unwrap_or_default();
                let write = || file.write_all_at(content, offset).map_err(failed("write", path));
                if let Err(error) = opened.and_then(|()| write()) {
                    // Nothing is left for the other thread.
                    while next().is_some() {}
                    return Err(error);
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(work);
            let own = work();
            own.and(other.join().expect("opening pieces does not panic"))
        })
    }

    /// Right after a promotion the archive has the new timeline's history and not yet its first segment.
    /// Recovery along the new timeline then asks for the old one's copy of that segment, and would
    /// replay what the old primary wrote after the switch: rows of an abandoned history. That recovery
    /// follows the new timeline shows in its history file, which the server has put beside the
    /// destination (`restoreTimeLineHistoryFiles`, src/backend/access/transam/timeline.c).
    ///
    /// A restore's plan that ends at the switch has told the server to stop there, and needs the segment
    /// that the switch lies in; of the segments behind it, none is there for that recovery: `false`.
    fn check_switch(&self, facts: &WalFacts, target: Target<'_>) -> Result<bool> {
        let WalFileName::Segment(segment) = self.name else { return Ok(true) };
        let Some(begin) = facts.address else { return Ok(true) };
        let whole = Lsn(begin.0.saturating_add(facts.size));
        // The last record of a full one may go on in the next, and is replayed with it.
        let found = facts.found.as_ref().filter(|found| found.ending != "full");
        let end = found.and_then(|found| found.end).unwrap_or(whole);
        let beside = target.folder().map(std::fs::read_dir);
        let Some(Ok(entries)) = beside else { return Ok(true) };
        let through = self.options.through;
        for entry in entries.flatten() {
            let name = WalFileName::parse(entry.file_name().as_encoded_bytes());
            let Ok(WalFileName::History(later)) = name else { continue };
            if later <= segment.timeline() {
                continue;
            }
            let path = entry.path();
            let content = std::fs::read(&path).map_err(failed("read", &path))?;
            let switch = History::parse(later, &content)
                .ok()
                .and_then(|history| history.switch_point(segment.timeline()));
            let Some(switch) = switch.filter(|switch| *switch < end) else { continue };
            // Without a plan, a history beside the destination may be one that was looked at and not
            // followed: what lies behind its switch is left to the server.
            if (begin > switch && through.is_none())
                || (begin < switch && through.is_some_and(|through| through <= switch))
            {
                continue;
            }
            let own = segment.to_string();
            let own = format!("{}{}", later.hex(), own.get(8..).unwrap_or_default());
            // Recovery that follows the later timeline would have taken that one.
            if self.is_anywhere(&own)? {
                continue;
            }
            // Left where the segment begins or before, all of it is abandoned.
            if begin >= switch && through.is_some_and(|through| through <= begin) {
                return Ok(false);
            }
            let evidence = format!("timeline {later} left this one at {switch}");
            return Err(Error::Hole { name: own, evidence });
        }
        Ok(true)
    }

    /// What the segment before says of a record whose header begins in it. Where no repository has that
    /// one, recovery begins behind it, and does not replay its records.
    fn cut_before(&self, facts: &WalFacts) -> Result<Option<Cut>> {
        let WalFileName::Segment(segment) = self.name else { return Ok(None) };
        let size = SegmentSize::new(facts.size).ok();
        let before = size.and_then(|size| {
            let number = segment.number(size).ok()?.previous()?;
            SegmentName::new(segment.timeline(), number, size).ok()
        });
        let Some(before) = before else { return Ok(None) };
        for from in self.all {
            let Some(key) = from.place.wal(&before.to_string()) else { continue };
            match from.repository.wal_facts(Kind::Wal, &key) {
                Ok(before) => return Ok(before.found.and_then(|found| found.cut)),
                Err(error) if error.is_not_found() => {}
                Err(source) => {
                    let repository = from.name.clone();
                    return Err(Error::Repository { repository, source });
                }
            }
        }
        if self.options.unasked {
            let evidence = "a repository that may have it cannot be asked".into();
            return Err(Error::Hole { name: before.to_string(), evidence });
        }
        Ok(None)
    }

    /// Whether some repository has a segment.
    fn is_anywhere(&self, name: &str) -> Result<bool> {
        for from in self.all {
            let Some(key) = from.place.wal(name) else { continue };
            match from.repository.store().head(&key) {
                Ok(_) => return Ok(true),
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    let repository = from.name.clone();
                    return Err(Error::Repository { repository, source: error.into() });
                }
            }
        }
        Ok(false)
    }

    fn failed(&self, source: repo::Error) -> Error {
        Error::Repository { repository: self.from.name.clone(), source }
    }

    /// Authentic bytes can still be the wrong ones: sealed by a faulty writer. `first` is the
    /// content's beginning.
    fn check(&self, facts: &WalFacts, first: &[u8]) -> Result<()> {
        let Self { from, name, object, .. } = *self;
        let wrong = |why: String| {
            let (object, place) = (object.to_string(), "content".into());
            self.failed(repo::Error::Corrupt { object, place, why })
        };
        if facts.name != name.to_string() || facts.system != from.place.system() {
            return Err(wrong(format!("it is {} of system {}", facts.name, facts.system)));
        }
        let WalFileName::Segment(segment) = name else { return Ok(()) };
        let header = SegmentHeader::parse(first).map_err(|error| wrong(error.to_string()))?;
        let size = segment_size(from, &header)?;
        let begin = segment.number(size).ok().and_then(|number| number.begin(size));
        let expected = Expected {
            system_id: Some(from.place.system()),
            address: begin.map_or(u64::MAX, |begin| begin.0),
            segment_bytes: size.bytes(),
            timeline: segment.timeline().get(),
            ancestors: &[header.timeline],
            accept_unknown_magic: true,
        };
        // The content is as long as the facts say, or it is refused at its end.
        header.check(&expected, facts.size).map_err(|error| wrong(error.to_string()))
    }
}

/// A segment whose records stop early, and WAL that goes on all the same: recovery would take the last
/// record for the end of the WAL and promote.
fn check_goes_on(
    all: &[Destination],
    options: &GetOptions,
    name: &WalFileName,
    facts: &WalFacts,
) -> Result<()> {
    let (WalFileName::Segment(segment), Some(found)) = (name, &facts.found) else { return Ok(()) };
    let Some(end) = found.end.filter(|_| found.ending == "partial") else { return Ok(()) };
    let hole = |evidence: String| {
        Err(Error::Hole { name: format!("what follows {end} in {segment}"), evidence })
    };
    if options.through.is_some_and(|through| end < through) {
        return hole("the restore's plan counts on more".into());
    }
    for from in all {
        if let Some(evidence) = needed_segment(from, *segment)? {
            return hole(evidence);
        }
    }
    if options.unasked {
        return hole("a repository that may have it cannot be asked".into());
    }
    Ok(())
}

/// Gives away a file that was written ahead, instead of `file`; copies it where it cannot take that one's
/// place.
fn hand_over(written: &File, file: &File, instead: Option<&OnceLock<File>>) -> io::Result<()> {
    let of = |file: &File| {
        let metadata = file.metadata()?;
        let owner = (metadata.uid(), metadata.gid(), metadata.mode());
        // One that has a name is somebody's already.
        Ok::<_, io::Error>((metadata.dev(), owner, metadata.nlink()))
    };
    if let Some(instead) = instead
        && of(file)? == of(written)?
        && instead.set(written.try_clone()?).is_ok()
    {
        return Ok(());
    }
    copy_to(written, file)
}

fn segment_size(from: &Destination, header: &SegmentHeader) -> Result<SegmentSize> {
    SegmentSize::new(header.segment_bytes.into()).map_err(|error| Error::Repository {
        repository: from.name.clone(),
        source: repo::Error::Corrupt {
            object: from.place.all_wal_prefix(),
            place: "content".into(),
            why: error.to_string(),
        },
    })
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn content(file: &File) -> Vec<u8> {
        let mut content = vec![0; 8];
        let length = file.read_at(&mut content, 0).unwrap();
        content.truncate(length);
        content
    }

    /// f017: what was written ahead takes the place of the file that is to be written only where it could be
    /// that file, and nobody else's; else its content is copied.
    #[test]
    fn f017_a_file_that_was_written_ahead_is_given_away_or_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (file, written) = (tempfile::tempfile_in(&dir), tempfile::tempfile_in(&dir));
        let (file, written) = (file.unwrap(), written.unwrap());
        written.write_all_at(b"segment", 0).unwrap();
        let given = |instead: &OnceLock<File>| instead.get().map(content);

        let instead = OnceLock::new();
        hand_over(&written, &file, Some(&instead)).unwrap();
        assert_eq!(given(&instead).as_deref(), Some(&b"segment"[..]));
        assert_eq!(content(&file), b"", "nothing is copied");

        let elsewhere = Path::new("/dev/shm");
        let other = tempfile::tempfile_in(if elsewhere.is_dir() { elsewhere } else { dir.path() });
        let other = other.unwrap();
        other.set_permissions(PermissionsExt::from_mode(0o640)).unwrap();
        let named = tempfile::NamedTempFile::new_in(&dir).unwrap();
        for to in [&other, named.as_file()] {
            let instead = OnceLock::new();
            hand_over(&written, to, Some(&instead)).unwrap();
            assert_eq!((given(&instead), content(to)), (None, b"segment".to_vec()));
        }
        hand_over(&written, &file, None).unwrap();
        assert_eq!(content(&file), b"segment");
    }
}
