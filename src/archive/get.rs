//! One file out of the archive, or proof that it is not there.
//!
//! PostgreSQL takes "absent" for the end of the WAL and promotes. So absence is said only when every
//! repository was asked and answered, nothing later shows that the file is needed, and the restore's
//! plan did not count on it. Every other answer is an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, sync_channel};

use super::Destination;
use super::error::{Error, Result};
use super::tablespaces;
use crate::base::{Ctx, durable};
use crate::pg::wal::{Expected, SegmentHeader};
use crate::pg::{History, Lsn, SegmentName, SegmentSize, TimelineId, WalFileName};
use crate::repo::header::FRAME_SIZE;
use crate::repo::{self, Kind, WalFacts, WalReader};
use crate::storage::{self, ObjectKey};

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
}

/// How a fetch ended without a doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// The file is at the destination: whole and authenticated. Not synced: the server does that.
    Delivered {
        /// From which repository.
        repository: String,
        /// From which object.
        object: ObjectKey,
    },
    /// Proven: no repository has it, and nothing shows that it is needed.
    Absent,
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
    if destinations.is_empty() {
        return Err(Error::NoRepository);
    }
    let parsed = WalFileName::parse(name.as_bytes())
        .map_err(|source| Error::Name { name: name.into(), source })?;
    let (mut doubt, mut is_abandoned) = (None, false);
    for from in destinations {
        ctx.cancel.check()?;
        let Some((kind, object)) = object_of(from, &parsed) else { continue };
        if options.only.as_ref().is_some_and(|only| *only != from.name) {
            doubt = doubt.or_else(|| held_elsewhere(from, &object, name));
            continue;
        }
        match from.repository.open_wal(kind, &object) {
            Ok(reader) => {
                let all = destinations;
                let fetching = Fetching { from, all, options, name: &parsed, object: &object };
                match fetching.deliver(reader, destination) {
                    Ok(true) => {
                        return Ok(Got::Delivered { repository: from.name.clone(), object });
                    }
                    Ok(false) => is_abandoned = true,
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
        None if is_abandoned => Ok(Got::Absent),
        None => prove_absence(ctx, destinations, options, &parsed),
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
    from: &'a Destination,
    all: &'a [Destination],
    options: &'a GetOptions,
    name: &'a WalFileName,
    object: &'a ObjectKey,
}

/// Content that is decrypted and written at a time: stays in the processor's cache.
const PIECE: usize = 256 << 10;

/// Pieces between the thread that opens frames and the one that writes them.
const PIECES: usize = 3;

impl Fetching<'_> {
    /// Writes the file beside the destination and gives it its name when all of it is authentic.
    ///
    /// Nothing is synced: the server syncs a file that it keeps (`KeepFileRestoredFromArchive`,
    /// src/backend/access/transam/xlogarchive.c, by `durable_rename`), and after a crash it throws
    /// away what it had asked for and asks again (`RestoreArchivedFile`). Only whole files get their
    /// name, so that what a killed call leaves is never mistaken for a segment. `false` when there is a
    /// file, and it is not part of the history that recovery follows.
    fn deliver(&self, mut reader: WalReader, destination: &Path) -> Result<bool> {
        let mut first = Vec::with_capacity(PIECE + FRAME_SIZE);
        let more = reader.next(PIECE, &mut first).map_err(|error| self.failed(error))?;
        self.check(reader.facts(), &first)?;
        check_goes_on(self.all, self.options, self.name, reader.facts())?;
        if !self.check_switch(reader.facts(), destination)? {
            return Ok(false);
        }
        if let Some(data_directory) = &self.options.data_directory {
            tablespaces::check(data_directory, reader.facts())?;
        }
        let mut temporary = Temporary::create(destination)?;
        if more {
            self.pump(reader, first, &mut temporary)?;
        } else {
            temporary.write(&first)?;
        }
        temporary.name(destination)?;
        Ok(true)
    }

    /// Opens frames in this thread while another one writes what is open.
    fn pump(&self, mut reader: WalReader, first: Vec<u8>, temporary: &mut Temporary) -> Result<()> {
        let (sender, receiver) = sync_channel::<Vec<u8>>(PIECES);
        let (back, spare) = channel::<Vec<u8>>();
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || -> Result<()> {
                while let Ok(mut piece) = receiver.recv() {
                    temporary.write(&piece)?;
                    piece.clear();
                    // At the end nobody takes it back.
                    back.send(piece).ok();
                }
                Ok(())
            });
            let mut read = Ok(());
            // The writer hangs up only when it has failed, and says so when it is joined.
            let mut goes_on = sender.send(first).is_ok();
            while goes_on {
                let mut piece =
                    spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE + FRAME_SIZE));
                match reader.next(PIECE, &mut piece) {
                    Ok(more) => goes_on = sender.send(piece).is_ok() && more,
                    Err(error) => {
                        read = Err(self.failed(error));
                        break;
                    }
                }
            }
            drop(sender);
            let written = writing.join().expect("a writer of bytes does not panic");
            read.and(written)
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
    fn check_switch(&self, facts: &WalFacts, destination: &Path) -> Result<bool> {
        let WalFileName::Segment(segment) = self.name else { return Ok(true) };
        let Some(begin) = facts.address else { return Ok(true) };
        let whole = Lsn(begin.0.saturating_add(facts.size));
        // The last record of a full one may go on in the next, and is replayed with it.
        let found = facts.found.as_ref().filter(|found| found.ending != "full");
        let end = found.and_then(|found| found.end).unwrap_or(whole);
        let beside = destination.parent().map(std::fs::read_dir);
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

/// A file beside the destination, removed unless it gets its name.
struct Temporary {
    path: PathBuf,
    file: File,
    is_named: bool,
}

impl Temporary {
    /// One name for a destination: what a killed call left is overwritten.
    fn create(destination: &Path) -> Result<Self> {
        let mut path = destination.to_path_buf();
        let mut name = destination.file_name().unwrap_or_default().to_owned();
        name.push(".pgkeep-tmp");
        path.set_file_name(name);
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(failed("create", &path))?;
        Ok(Self { path, file, is_named: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(failed("write", &self.path))
    }

    fn name(mut self, destination: &Path) -> Result<()> {
        // Not replaced: ext4 writes a file out at once that takes another one's name.
        match std::fs::remove_file(destination) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("replace", destination)(error));
            }
            _ => {}
        }
        durable::rename_unsynced(&self.path, destination).map_err(failed("rename", destination))?;
        self.is_named = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_named {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { action, path, source }
}

/// Every repository said that it does not have the file. Does anything show that it is needed?
fn prove_absence(
    ctx: &Ctx,
    destinations: &[Destination],
    options: &GetOptions,
    name: &WalFileName,
) -> Result<Got> {
    if let WalFileName::Segment(segment) = name
        && is_counted_on(destinations, options, *segment)?
    {
        let evidence = "the restore's plan counts on it".into();
        return Err(Error::Hole { name: name.to_string(), evidence });
    }
    for from in destinations {
        ctx.cancel.check()?;
        let evidence = match name {
            WalFileName::Segment(segment) => needed_segment(from, *segment)?,
            // The first timeline has no history, ever; a server that leaves it asks all the same.
            WalFileName::History(TimelineId::FIRST) => None,
            WalFileName::History(timeline) => later_history(from, *timeline)?,
            WalFileName::BackupHistory { .. } | WalFileName::Partial(_) => None,
        };
        if let Some(evidence) = evidence {
            return Err(Error::Hole { name: name.to_string(), evidence });
        }
    }
    if !has_any_wal(destinations)? {
        return Err(Error::NoWal { name: name.to_string() });
    }
    Ok(Got::Absent)
}

/// Recovery from an archive begins with WAL that is in it. One without any is a new one in the place of
/// another (an empty mount point, say), and knows nothing of what that one has.
fn has_any_wal(destinations: &[Destination]) -> Result<bool> {
    for from in destinations {
        let found = from.repository.store().list(&from.place.all_wal_prefix(), None, 1);
        let failed = |source: storage::Error| Error::Repository {
            repository: from.name.clone(),
            source: source.into(),
        };
        if !found.map_err(failed)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a segment begins and ends; nothing for a name that does not fit the cluster's segment size.
fn bounds(from: &Destination, segment: SegmentName) -> Option<(Lsn, Lsn)> {
    let size = SegmentSize::new(from.registration.wal_segment_size.into()).ok()?;
    let number = segment.number(size).ok()?;
    Some((number.begin(size)?, number.end(size)?))
}

/// Whether the restore's plan has seen WAL behind the segment's beginning, and no repository has that
/// part of it as an ancestor's.
fn is_counted_on(
    destinations: &[Destination],
    options: &GetOptions,
    segment: SegmentName,
) -> Result<bool> {
    let Some(through) = options.through else { return Ok(false) };
    for from in destinations {
        let Some((begin, end)) = bounds(from, segment) else { continue };
        if begin >= through {
            return Ok(false);
        }
        let failed = |source| Error::Repository { repository: from.name.clone(), source };
        let histories = from.repository.histories(&from.place).map_err(failed)?;
        let failed = |source| Error::Repository { repository: from.name.clone(), source };
        if is_in_ancestor(from, &histories, segment, (begin, end)).map_err(failed)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What in a repository shows that recovery needs the segment.
fn needed_segment(from: &Destination, segment: SegmentName) -> Result<Option<String>> {
    let failed = |source: repo::Error| Error::Repository { repository: from.name.clone(), source };
    let Some((_, end)) = bounds(from, segment) else {
        let why = "its name does not fit the cluster's segment size".to_owned();
        return Ok(Some(why));
    };
    let histories = from.repository.histories(&from.place).map_err(failed)?;
    let own = from.place.wal(&segment.to_string()).expect("a segment's name is 24 digits");
    let prefix = from.place.wal_prefix(segment.timeline().get());
    let later = from.repository.store().list(&prefix, Some(own.as_str()), 1);
    if let Some(later) = later.map_err(|error| failed(error.into()))?.first() {
        return Ok(Some(format!("{} is there", later.key)));
    }
    let next = segment.timeline().get().saturating_add(1);
    if let Some(evidence) = without_history(from, next, &histories)? {
        return Ok(Some(evidence));
    }
    // A later timeline that left this one after the segment needs all of it. Where the switch lies
    // inside the segment, the descendant has a copy under its own name.
    for (timeline, content) in histories {
        let Some(id) = TimelineId::new(timeline).filter(|id| *id > segment.timeline()) else {
            continue;
        };
        let history = History::parse(id, &content).map_err(|error| {
            failed(repo::Error::Corrupt {
                object: from.place.history(timeline).to_string(),
                place: "content".into(),
                why: error.to_string(),
            })
        })?;
        if history.switch_point(segment.timeline()).is_some_and(|switch| switch >= end) {
            return Ok(Some(format!("timeline {timeline} left this one after it")));
        }
    }
    Ok(None)
}

/// Whether a timeline begins in this segment, and the ancestor's own copy of it is in the archive:
/// recovery asks for the newest timeline's name first, and takes the older one.
fn is_in_ancestor(
    from: &Destination,
    histories: &BTreeMap<u32, Vec<u8>>,
    segment: SegmentName,
    (begin, end): (Lsn, Lsn),
) -> repo::Result<bool> {
    let timeline = segment.timeline();
    let Some(content) = histories.get(&timeline.get()) else { return Ok(false) };
    let Ok(history) = History::parse(timeline, content) else { return Ok(false) };
    // One that begins with the segment has nothing of it in common with its ancestor.
    if !history.begin(timeline).is_some_and(|lsn| begin < lsn && lsn < end) {
        return Ok(false);
    }
    let digits = segment.to_string();
    let Some(number) = digits.get(8..) else { return Ok(false) };
    for ancestor in history.ancestors() {
        let name = format!("{}{number}", ancestor.timeline.hex());
        let Some(key) = from.place.wal(&name) else { continue };
        match from.repository.store().head(&key) {
            Ok(_) => return Ok(true),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

fn later_history(from: &Destination, timeline: TimelineId) -> Result<Option<String>> {
    let own = from.place.history(timeline.get());
    let later = from.repository.store().list(&from.place.histories_prefix(), Some(own.as_str()), 1);
    let later = later.map_err(|error| Error::Repository {
        repository: from.name.clone(),
        source: error.into(),
    })?;
    if let Some(later) = later.first() {
        return Ok(Some(format!("{} is there", later.key)));
    }
    without_history(from, timeline.get(), &BTreeMap::new())
}

/// WAL of a timeline, from `first` on, that has no history any more: what it began from, nobody knows.
fn without_history(
    from: &Destination,
    first: u32,
    histories: &BTreeMap<u32, Vec<u8>>,
) -> Result<Option<String>> {
    let store = from.repository.store();
    let mut after = from.place.wal_prefix(first);
    loop {
        let page = store.list(&from.place.all_wal_prefix(), Some(&after), 1);
        let page = page.map_err(|error| Error::Repository {
            repository: from.name.clone(),
            source: error.into(),
        })?;
        let Some(meta) = page.first() else { return Ok(None) };
        after = match SegmentName::parse(meta.key.last_component().as_bytes()) {
            Ok(segment) if histories.contains_key(&segment.timeline().get()) => {
                // Behind everything that the timeline has.
                format!("{}~", from.place.wal_prefix(segment.timeline().get()))
            }
            Ok(_) => return Ok(Some(format!("{} is there without its history", meta.key))),
            Err(_) => meta.key.to_string(),
        };
    }
}
