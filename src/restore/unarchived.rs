//! WAL that only the directory has which a restore goes over: it would be lost with it.
//!
//! What counts is what lies in `pg_wal`: what its server meant to do with it says nothing. A standby marks all that
//! it received as done, and a server that does not archive marks nothing. Segments that wait to be used again say
//! their old place, and are passed over.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::adopt::MARKER;
use super::control::control_in;
use super::error::{Error, Result};
use crate::base::Ctx;
use crate::pg::control_file::Checkpoint;
use crate::pg::wal::{
    Begins, Ending, LONG_HEADER_BYTES, RM_XACT, Reader, SegmentHeader, Source, Stop, scan_segment,
};
use crate::pg::{ArchivedWal, Lsn, SegmentName, SegmentNo, TimelineId, WalFileName};
use crate::repo::{self, Kind, Place, Repository, WAL_READ_PIECE};
use crate::storage::ObjectKey;

/// What is read of a file at a time.
const CHUNK: usize = 1 << 20;

const READY: &str = ".ready";

/// Where WAL is looked for.
#[derive(Debug)]
pub(super) struct Archived {
    pub(super) repository: Repository,
    pub(super) place: Place,
    pub(super) wal: ArchivedWal,
}

impl Archived {
    pub(super) fn new(repository: &Repository, place: &Place, wal: &ArchivedWal) -> Self {
        Self { repository: repository.clone(), place: place.clone(), wal: wal.clone() }
    }

    /// What the archive says of a segment that it has by name, or of which a later timeline has the beginning.
    fn says(
        &self,
        wal: &Path,
        header: &SegmentHeader,
        (segment, number): (SegmentName, SegmentNo),
    ) -> Result<Said> {
        let timeline = segment.timeline();
        let has_it = self.wal.has(timeline, number);
        // A timeline that begins within a segment has what comes before under its own name.
        let left_in_it = |switch: Lsn| {
            let begin = number.begin(self.wal.segment_size());
            let into = begin.and_then(|begin| switch.0.checked_sub(begin.0));
            into.is_some_and(|into| into <= u64::from(self.wal.segment_size().bytes()))
        };
        let heirs = self.wal.timelines().into_iter().filter(|heir| {
            let history = self.wal.history(*heir).filter(|_| self.wal.has(*heir, number));
            history.and_then(|history| history.switch_point(timeline)).is_some_and(left_in_it)
        });
        let heirs: Vec<TimelineId> = heirs.collect();
        if !has_it && heirs.is_empty() {
            return Ok(Said::Unknown);
        }
        if has_it && self.has_whole(wal, segment)? {
            return Ok(Said::Same);
        }
        let path = wal.join(segment.to_string());
        let Some(written) = written(&path, header, timeline)? else { return Ok(Said::Other) };
        if written == 0 {
            return Ok(if has_it { Said::Nothing } else { Said::Unknown });
        }
        for source in has_it.then_some(timeline).into_iter().chain(heirs) {
            let Some(key) = self.place.wal(&self.wal.name(source, number)) else { continue };
            match self.begins_like(&key, &path, written) {
                Ok(true) => return Ok(Said::Same),
                Ok(false) | Err(Error::Repository(repo::Error::Corrupt { .. })) => {}
                Err(Error::Repository(error)) if error.is_not_found() => {}
                other => drop(other?),
            }
        }
        Ok(if has_it { Said::Other } else { Said::Unknown })
    }

    /// Whether the archive has all of a segment as it is here.
    fn has_whole(&self, wal: &Path, segment: SegmentName) -> Result<bool> {
        let name = WalFileName::Segment(segment);
        match is_archived(&self.repository, &self.place, wal, name) {
            // A damaged object is no copy of what is here.
            Err(Error::Repository(repo::Error::Corrupt { .. })) => Ok(false),
            other => other,
        }
    }

    /// Whether an archived segment begins as a file does.
    fn begins_like(&self, key: &ObjectKey, path: &Path, written: u64) -> Result<bool> {
        let mut reader = self.repository.open_wal(Kind::Wal, key)?;
        if reader.facts().size < written {
            return Ok(false);
        }
        let file = File::open(path).map_err(Error::file("open", path))?;
        let (mut stored, mut here) = (vec![0; WAL_READ_PIECE], vec![0; WAL_READ_PIECE]);
        for piece in reader.pieces()? {
            let (offset, length) = (piece.offset, piece.length);
            let count =
                usize::try_from(written.saturating_sub(offset)).unwrap_or(length).min(length);
            if count == 0 {
                break;
            }
            piece.open(&mut stored)?;
            let here = here.get_mut(..count).unwrap_or_default();
            file.read_exact_at(here, offset).map_err(Error::file("read", path))?;
            if stored.get(..count) != Some(&*here) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What the archive says of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// It has all that is written here.
    Same,
    /// It has another content under that name.
    Other,
    /// It has the name, and nothing is written here that could be compared.
    Nothing,
    /// It does not have it.
    Unknown,
}

/// How much of a segment its records take, where it is not written to its end: a standby receives into one that its
/// primary has archived already, and may lack zeros behind a switch for good.
fn written(path: &Path, header: &SegmentHeader, timeline: TimelineId) -> Result<Option<u64>> {
    let mut pieces = Pieces::open(path)?;
    let written = match Reader::new(&mut pieces, header, timeline.get()) {
        Ok(mut reader) => {
            while reader.read_next().is_some() {}
            let is_partial = matches!(reader.stop(), Some(Stop::Invalid(_) | Stop::Switched));
            is_partial.then(|| reader.position().saturating_sub(header.address))
        }
        Err(_) => None,
    };
    pieces.finish(path)?;
    Ok(written)
}

/// What lies in `pg_wal` and not in the archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OnlyHere {
    /// Whole segments, histories, and what a server had ready to be archived with other content.
    files: BTreeSet<WalFileName>,
    /// Segments that are not whole, into which a server wrote last, with transactions in them.
    written_last: BTreeSet<SegmentName>,
    /// Segments of a timeline that a copy has begun: it is not meant to archive.
    of_copy: BTreeSet<SegmentName>,
    /// Segments that a server has written up to its last checkpoint, and that are nowhere any more: it did not
    /// archive, and has used them again. The first and the last.
    used_again: Option<(String, String)>,
    /// The link that stands for `pg_wal` leads nowhere: nobody knows.
    is_away: bool,
}

impl OnlyHere {
    /// Refuses to lose it; a warning where that was asked for, and of what a copy wrote.
    ///
    /// # Errors
    /// [`Error::Unarchived`], [`Error::Occupied`].
    pub(super) fn check(&self, data: &Path, is_discarded: bool) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let (first, last) = (self.files.first(), self.files.last());
        let refused = Error::Unarchived {
            path: data.into(),
            count: self.files.len() as u64,
            first: first.map(ToString::to_string).unwrap_or_default(),
            last: last.map(ToString::to_string).unwrap_or_default(),
            written_last: self.written_last.last().map(ToString::to_string),
        };
        let is_something = first.is_some() || !self.written_last.is_empty();
        match (is_something, is_discarded) {
            (true, false) => return Err(refused),
            (true, true) => warnings.push(format!("{refused}: it goes (--discard-wal)")),
            (false, _) => {}
        }
        if let Some((first, last)) = &self.used_again {
            let which = if first == last { first.clone() } else { format!("{first} to {last}") };
            let why = format!(
                "was written past the archive's end: {which} was not archived, and is not in its pg_wal any more, so \
                 that what was committed there is in its files alone"
            );
            match is_discarded {
                false => {
                    return Err(Error::Occupied {
                        path: data.into(),
                        why: why + ". --discard-wal gives it up",
                    });
                }
                true => warnings.push(format!("{} {why}: it goes (--discard-wal)", data.display())),
            }
        }
        let link = data.join("pg_wal");
        let leads_to = fs::read_link(&link).unwrap_or_default();
        let leads_to = leads_to.display();
        match (self.is_away, is_discarded) {
            (true, false) => {
                let why = format!(
                    "leads to {leads_to}, which is not there: its WAL may not be archived. Mount what belongs there; \
                     where it is lost, --discard-wal goes on without it"
                );
                return Err(Error::Occupied { path: link, why });
            }
            (true, true) => {
                warnings
                    .push(format!("what {leads_to} had of WAL is not looked for (--discard-wal)"));
            }
            (false, _) => {}
        }
        if let (Some(first), Some(last)) = (self.of_copy.first(), self.of_copy.last()) {
            let data = data.display();
            warnings.push(format!("what the copy {data} wrote itself goes: {first} to {last}"));
        }
        Ok(warnings)
    }
}

/// Looks what of its WAL only a directory has.
pub(super) fn look(ctx: &Ctx, archived: &Archived, data: &Path) -> Result<OnlyHere> {
    let wal = data.join("pg_wal");
    let mut only = OnlyHere { is_away: wal.is_symlink() && !wal.exists(), ..OnlyHere::default() };
    for name in names(&wal.join("archive_status"), READY)? {
        ctx.cancel.check()?;
        if !is_archived(&archived.repository, &archived.place, &wal, name)? {
            only.files.insert(name);
        }
    }
    let (mut segments, mut begun) = (Vec::new(), BTreeSet::new());
    let is_copy = data.join(MARKER).symlink_metadata().is_ok();
    for name in names(&wal, "")? {
        ctx.cancel.check()?;
        match name {
            WalFileName::Segment(segment) => {
                let number = segment.number(archived.wal.segment_size()).ok();
                segments.extend(number.map(|number| (segment, number)));
            }
            WalFileName::History(timeline)
                if !is_archived(&archived.repository, &archived.place, &wal, name)? =>
            {
                match is_copy {
                    true => begun.insert(timeline),
                    false => only.files.insert(name),
                };
            }
            _ => {}
        }
    }
    let (mut later, mut agreed, mut in_place) = (None, BTreeSet::new(), BTreeSet::new());
    for (segment, number) in segments.into_iter().rev() {
        ctx.cancel.check()?;
        let timeline = segment.timeline();
        let path = wal.join(segment.to_string());
        let Some(header) = header_in_place(&path, number, &archived.wal)? else { continue };
        refuse_foreign(&path, &header, archived.place.system())?;
        in_place.insert((timeline, number));
        let is_newest = later.replace(timeline) != Some(timeline);
        // Where histories have forked under the same names, the newest of both shows it.
        let is_agreed = agreed.contains(&timeline);
        if is_agreed && archived.wal.has(timeline, number) {
            continue;
        }
        let is_forked = match archived.says(&wal, &header, (segment, number)) {
            Ok(Said::Same) => {
                agreed.insert(timeline);
                continue;
            }
            Ok(Said::Nothing) => continue,
            Ok(said) => said == Said::Other,
            // What cannot be read here is not lost with the directory, if the archive has that name.
            Err(Error::File { .. }) if archived.wal.has(timeline, number) => continue,
            Err(error) => return Err(error),
        };
        let state = match is_newest {
            true => state_of(&path, &header, segment)?,
            false => State::Whole,
        };
        match state {
            // Of another history under its name what came before is not archived, either.
            State::Empty if !is_forked => {}
            _ if begun.contains(&timeline) => drop(only.of_copy.insert(segment)),
            State::Empty | State::Whole => drop(only.files.insert(WalFileName::Segment(segment))),
            State::Begun => drop(only.written_last.insert(segment)),
        }
    }
    let counts = |timeline: &TimelineId| !only.is_away && !begun.contains(timeline);
    // So far at least its server has written.
    let checkpoint = control_in(data)?.map(|control| control.checkpoint);
    let checkpoint = checkpoint.filter(|checkpoint| counts(&checkpoint.timeline));
    only.used_again =
        checkpoint.and_then(|checkpoint| used_again(&archived.wal, &checkpoint, &in_place));
    Ok(only)
}

/// What lies behind the archive's end of a timeline and before the segment of a checkpoint, and is in neither place.
/// That segment itself is in `pg_wal`: the server would not start without.
fn used_again(
    archived: &ArchivedWal,
    checkpoint: &Checkpoint,
    in_place: &BTreeSet<(TimelineId, SegmentNo)>,
) -> Option<(String, String)> {
    let (timeline, size) = (checkpoint.timeline, archived.segment_size());
    let behind_last = || archived.last(timeline)?.next();
    let behind_switch = || {
        let switch = archived.history(timeline)?.begin(timeline)?;
        (switch != Lsn::INVALID).then(|| SegmentNo::of(switch, size))
    };
    let first = behind_last().or_else(behind_switch)?;
    let mut gone = (first.0..SegmentNo::of(checkpoint.lsn, size).0)
        .map(SegmentNo)
        .filter(|number| !in_place.contains(&(timeline, *number)));
    let first = gone.next()?;
    let last = gone.next_back().unwrap_or(first);
    Some((archived.name(timeline, first), archived.name(timeline, last)))
}

/// The header of a segment that is what its name says; not one that waits to be used again, or was made for later.
fn header_in_place(
    path: &Path,
    number: SegmentNo,
    archived: &ArchivedWal,
) -> Result<Option<SegmentHeader>> {
    let mut begin = Vec::new();
    let file = File::open(path).map_err(Error::file("open", path))?;
    let limit = LONG_HEADER_BYTES as u64;
    file.take(limit).read_to_end(&mut begin).map_err(Error::file("read", path))?;
    let header = SegmentHeader::parse(&begin).ok();
    let begins = number.begin(archived.segment_size());
    Ok(header.filter(|header| Some(Lsn(header.address)) == begins))
}

/// WAL of another cluster says that the directory is not this one's.
fn refuse_foreign(path: &Path, header: &SegmentHeader, system: u64) -> Result<()> {
    if header.system_id == system {
        return Ok(());
    }
    let why = format!(
        "is WAL of another cluster, with system identifier {} instead of {system}: --delta writes over no other \
         cluster. If the directory is this one's, move that file away",
        header.system_id
    );
    Err(Error::Occupied { path: path.into(), why })
}

/// What is in the last segment of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No transaction begins to end there: a server that archives, stopped in order, leaves one with its last
    /// checkpoint and nothing else.
    Empty,
    /// It is not whole, and has transactions.
    Begun,
    Whole,
}

fn state_of(path: &Path, header: &SegmentHeader, segment: SegmentName) -> Result<State> {
    let timeline = segment.timeline().get();
    let mut pieces = Pieces::open(path)?;
    let findings = scan_segment(&mut pieces, header, timeline);
    pieces.finish(path)?;
    if !matches!(findings.ending, Ending::Partial(_) | Ending::NotRead) {
        return Ok(State::Whole);
    }
    let mut pieces = Pieces::open(path)?;
    let mut has_transactions = true;
    if let Ok(mut reader) = Reader::new(&mut pieces, header, timeline) {
        // What the segment before begins may be a commit: its rest is here alone.
        has_transactions = matches!(header.begins, Begins::Continuation { .. });
        while let Some(record) = reader.read_next() {
            has_transactions |= record.header.resource_manager == RM_XACT;
        }
    }
    pieces.finish(path)?;
    Ok(if has_transactions { State::Begun } else { State::Empty })
}

/// A segment, read piece by piece.
struct Pieces {
    file: File,
    begins: usize,
    piece: Vec<u8>,
    failed: Option<io::Error>,
}

impl Pieces {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        let mut pieces = Self { file, begins: 0, piece: Vec::new(), failed: None };
        (&mut pieces).advance();
        Ok(pieces)
    }

    /// What could not be read is no end of it.
    fn finish(self, path: &Path) -> Result<()> {
        self.failed.map_or(Ok(()), |error| Err(Error::file("read", path)(error)))
    }
}

impl Source for &mut Pieces {
    fn piece(&self) -> (usize, &[u8]) {
        (self.begins, &self.piece)
    }

    fn advance(&mut self) -> bool {
        self.begins += self.piece.len();
        self.piece.clear();
        let read = (&self.file).take(CHUNK as u64).read_to_end(&mut self.piece);
        match read {
            Ok(count) => count > 0,
            Err(error) => {
                self.failed = Some(error);
                false
            }
        }
    }
}

/// The WAL files that the names in a folder stand for, in order.
fn names(folder: &Path, suffix: &str) -> Result<BTreeSet<WalFileName>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(BTreeSet::new());
        }
        other => other.map_err(Error::file("list", folder))?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(Error::file("list", folder))?.file_name();
        let stripped = name.as_encoded_bytes().strip_suffix(suffix.as_bytes());
        names.extend(stripped.and_then(|name| WalFileName::parse(name).ok()));
    }
    Ok(names)
}

/// Whether a file is in the archive as it is here. One that is not here any more cannot be lost.
fn is_archived(
    repository: &Repository,
    place: &Place,
    wal: &Path,
    name: WalFileName,
) -> Result<bool> {
    let path = wal.join(name.to_string());
    let key = match name {
        WalFileName::Segment(segment) => place.wal(&segment.to_string()),
        WalFileName::History(timeline) => Some(place.history(timeline.get())),
        WalFileName::Partial(segment) => return has_partial(repository, place, &path, segment),
        // No recovery needs what a base backup left behind.
        WalFileName::BackupHistory { .. } => return Ok(true),
    };
    let kind = if matches!(name, WalFileName::History(_)) { Kind::History } else { Kind::Wal };
    let Some(key) = key else { return Ok(true) };
    let Some(digest) = digest_of(repository, &path)? else { return Ok(true) };
    match repository.wal_facts(kind, &key) {
        Ok(facts) => Ok(facts.digest == digest),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A partial segment goes into the archive up to its last record, or as the whole one that it became.
fn has_partial(
    repository: &Repository,
    place: &Place,
    path: &Path,
    segment: SegmentName,
) -> Result<bool> {
    if path.symlink_metadata().is_err() {
        return Ok(true);
    }
    let name = segment.to_string();
    if repository.partials(place)?.iter().any(|(stored, _)| *stored == name) {
        return Ok(true);
    }
    let Some(key) = place.wal(&name) else { return Ok(true) };
    match repository.wal_facts(Kind::Wal, &key) {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn digest_of(repository: &Repository, path: &Path) -> Result<Option<String>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::file("open", path))?,
    };
    let mut digest = repository.digest();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(Some(digest.finish())),
            Ok(count) => digest.add(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::file("read", path)(error)),
        }
    }
}
