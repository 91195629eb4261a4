//! One file into the archive.
//!
//! The file is checked against the cluster, looked through, sealed and put, first write wins, into every
//! repository: once for each, since each has keys of its own. A history file goes before the first
//! segment of its timeline.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::Destination;
use super::error::{Error, Result};
use super::identity::FileRead;
use super::pass::{Passed, pass};
use super::pgdata::{read_control_file, refuse_copy};
use super::provenance::Provenance;
use crate::base::{Ctx, side_by_side};
use crate::crypt::RepositoryId;
use crate::pg::control_file::ClusterState;
use crate::pg::wal::{self, Ending, Expected, Findings, LONG_HEADER_BYTES, SegmentHeader};
use crate::pg::{History, Lsn, SegmentName, TimelineId, WalFileName};
use crate::repo::{self, Found, Kind, Origin, Place, Repository, WalFacts, WalPut};
use crate::storage::ObjectKey;

/// What the caller may choose.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// The server's data directory, whose `global/pg_control` says which cluster this is.
    pub data_directory: PathBuf,
    /// Archive segments of a WAL version that this program does not know, unread: so that `pg_wal`
    /// does not fill on the day after an upgrade.
    pub accept_unknown_wal: bool,
    /// Which server this is, for the record.
    pub origin: Origin,
    /// Nothing else is stored meanwhile: more than one processor may be used.
    pub is_alone: bool,
}

/// Under which name a file was stored, and whether it was there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The repository.
    pub repository: String,
    /// The repository's own id, which another one under its name does not have.
    pub id: RepositoryId,
    /// Where the cluster's objects lie in it.
    pub place: Place,
    /// The object.
    pub object: ObjectKey,
    /// What tells its content from others, by the repository's key.
    pub digest: String,
    /// Stored now, or the same content before.
    pub put: WalPut,
}

/// What [`push`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// One for each repository.
    pub stored: Vec<Stored>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// The file that was read.
    pub read: FileRead,
}

/// Archives the file at `path` under its own name. `Ok` means durable in every repository.
///
/// # Errors
/// Any; nothing was promised then. [`repo::Error::Conflict`] inside [`Error::Repository`] when the
/// name holds other content, which stays.
pub fn push(
    ctx: &Ctx,
    destinations: &[Destination],
    options: &PushOptions,
    path: &Path,
) -> Result<Pushed> {
    if destinations.is_empty() {
        return Err(Error::NoRepository);
    }
    refuse_copy(&options.data_directory)?;
    let name = name_of(path)?;
    let control = read_control_file(&options.data_directory)?;
    let from = Provenance {
        system: control.system_identifier,
        segment_size: control.wal_segment_size,
        control: Some(control),
        origin: Some(options.origin.clone()),
        accept_unknown_wal: options.accept_unknown_wal,
    };
    push_from(ctx, destinations, &from, path, name, options.is_alone)
}

/// As [`push`], of a file that need not lie in the data directory of the server that asks.
pub(super) fn push_from(
    ctx: &Ctx,
    destinations: &[Destination],
    from: &Provenance,
    path: &Path,
    name: WalFileName,
    is_alone: bool,
) -> Result<Pushed> {
    from.require_at(destinations, path)?;
    match name {
        WalFileName::History(timeline) => {
            let (content, read) = read_small(path)?;
            check_history(timeline, path, &content)?;
            let stored = put_small(ctx, destinations, from, &name, &content)?;
            Ok(Pushed { stored, warnings: Vec::new(), read })
        }
        WalFileName::BackupHistory { .. } => {
            let (content, read) = read_small(path)?;
            let stored = put_small(ctx, destinations, from, &name, &content)?;
            Ok(Pushed { stored, warnings: Vec::new(), read })
        }
        WalFileName::Segment(segment) | WalFileName::Partial(segment) => {
            let file = File::open(path).map_err(failed("open", path))?;
            let read = FileRead::begin(&file).map_err(failed("look at", path))?;
            let pushing =
                Pushing { ctx, read, destinations, from, path, file, name, segment, is_alone };
            pushing.push()
        }
    }
}

fn name_of(path: &Path) -> Result<WalFileName> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    WalFileName::parse(name)
        .map_err(|source| Error::Name { name: String::from_utf8_lossy(name).into_owned(), source })
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { action, path, source }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(failed("read", path))
}

fn read_small(path: &Path) -> Result<(Vec<u8>, FileRead)> {
    let mut file = File::open(path).map_err(failed("open", path))?;
    let read = FileRead::begin(&file).map_err(failed("look at", path))?;
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(failed("read", path))?;
    Ok((content, read))
}

pub(super) fn check_history(timeline: TimelineId, path: &Path, content: &[u8]) -> Result<()> {
    // PostgreSQL reads an empty file as a history without ancestors; nobody writes one.
    if content.is_empty() {
        return Err(Error::Content { path: path.into(), why: "it is empty".into() });
    }
    History::parse(timeline, content)
        .map(drop)
        .map_err(|error| Error::Content { path: path.into(), why: error.to_string() })
}

fn at<T>(destination: &Destination, result: repo::Result<T>) -> Result<T> {
    result.map_err(|source| Error::Repository { repository: destination.name.clone(), source })
}

/// Stores a history or label file: small, without a header of its own.
fn put_small(
    ctx: &Ctx,
    destinations: &[Destination],
    from: &Provenance,
    name: &WalFileName,
    content: &[u8],
) -> Result<Vec<Stored>> {
    let push = |destination: &Destination| {
        let place = &destination.place;
        let (kind, object) = match name {
            WalFileName::History(timeline) => (Kind::History, place.history(timeline.get())),
            _ => (Kind::Label, place.label(&name.to_string()).expect("a WAL file's name")),
        };
        let digest = destination.repository.content_digest(content);
        let facts = facts(destination, from, name, content.len() as u64, digest);
        let put =
            at(destination, destination.repository.put_wal(ctx, kind, &object, &facts, content))?;
        Ok(stored(destination, object, facts.digest, put))
    };
    to_each(destinations, push)
}

fn stored(destination: &Destination, object: ObjectKey, digest: String, put: WalPut) -> Stored {
    let id = destination.repository.descriptor().repository;
    let (repository, place) = (destination.name.clone(), destination.place.clone());
    Stored { repository, id, place, object, digest, put }
}

/// Tries every repository, side by side, so that one that is full or slow does not starve the others; the
/// first failure is the answer all the same.
fn to_each<T: Send>(
    destinations: &[Destination],
    push: impl Fn(&Destination) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    // All are tried: a failure is a result here.
    let tried = side_by_side(destinations, |each| Ok::<_, Infallible>(push(each)));
    tried.unwrap_or_else(|never| match never {}).into_iter().collect()
}

fn facts(
    destination: &Destination,
    from: &Provenance,
    name: &WalFileName,
    size: u64,
    digest: String,
) -> WalFacts {
    WalFacts {
        name: name.to_string(),
        system: destination.place.system(),
        size,
        digest,
        timeline: None,
        address: None,
        found: None,
        by: from.origin.clone(),
    }
}

struct Pushing<'a> {
    ctx: &'a Ctx,
    read: FileRead,
    destinations: &'a [Destination],
    from: &'a Provenance,
    path: &'a Path,
    file: File,
    name: WalFileName,
    segment: SegmentName,
    is_alone: bool,
}

impl Pushing<'_> {
    fn push(&self) -> Result<Pushed> {
        let header = self.check()?;
        let (mut stored, mut warnings) = (Vec::new(), Vec::new());
        let store = |destination: &Destination| {
            let mut warnings = Vec::new();
            Ok((self.store(destination, &header, &mut warnings)?, warnings))
        };
        for (each, told) in to_each(self.destinations, store)? {
            stored.push(each);
            told.into_iter().for_each(|message| warn(&mut warnings, message));
        }
        Ok(Pushed { stored, warnings, read: self.read })
    }

    fn about_minimal(&self, found: &Found) -> Option<String> {
        found.minimals().next().map(|lsn| {
            format!(
                "{}: from {lsn} on, WAL was written with wal_level=minimal: recovery from earlier \
                 backups cannot pass this position; take a new full backup",
                self.name
            )
        })
    }

    fn store(
        &self,
        destination: &Destination,
        header: &SegmentHeader,
        warnings: &mut Vec<String>,
    ) -> Result<Stored> {
        if self.segment.timeline().get() > 1 {
            self.history_first(destination)?;
        }
        // Sealed under the name that nearly every segment has; a partial one, which has another, once
        // more under its own.
        let whole = destination.place.wal(&self.segment.to_string());
        let whole = whole.filter(|_| !matches!(self.name, WalFileName::Partial(_)));
        let mut passed = self.pass(destination, header, Kind::Wal, whole.as_ref())?;
        let partial = self.is_partial(&passed.findings, warnings);
        let object = object_of(&destination.place, &self.segment, &passed.findings, partial);
        let kind = if partial { Kind::Partial } else { Kind::Wal };
        if partial {
            passed = self.pass(destination, header, kind, Some(&object))?;
        }
        let Passed { findings, digest, sealed } = passed;
        let sealed = sealed.expect("it was sealed under one name or the other");
        let size = header.segment_bytes.into();
        let found = Found::from(&findings);
        self.about_minimal(&found).into_iter().for_each(|message| warn(warnings, message));
        let facts = WalFacts {
            timeline: Some(header.timeline),
            address: Some(Lsn(header.address)),
            found: Some(found),
            ..facts(destination, self.from, &self.name, size, digest)
        };
        self.require_in_place()?;
        if !partial {
            let place = &destination.place;
            at(destination, destination.repository.put_note(self.ctx, place, &facts))?;
        }
        let repository = &destination.repository;
        let put = match partial {
            false => repository.put_sealed_wal(sealed, &facts),
            true => {
                let so_far = self.digest_so_far(repository, header, &findings, &facts.digest)?;
                repository.put_sealed_partial(sealed, &facts, &so_far)
            }
        };
        let put = match put {
            Err(repo::Error::Conflict { .. })
                if partial && self.is_same_so_far(destination, header, &object, &findings)? =>
            {
                WalPut::Same
            }
            put => at(destination, put)?,
        };
        Ok(stored(destination, object, facts.digest, put))
    }

    /// Reads the segment, by this repository's key, and seals it under a name, if there is one.
    fn pass(
        &self,
        destination: &Destination,
        header: &SegmentHeader,
        kind: Kind,
        object: Option<&ObjectKey>,
    ) -> Result<Passed> {
        let repository = &destination.repository;
        let size = header.segment_bytes.into();
        let begin = |object| at(destination, repository.begin_wal(self.ctx, kind, object, size));
        let sealing = object.map(begin).transpose()?;
        let timeline = self.segment.timeline().get();
        let file = (&self.file, self.path);
        pass(file, header, timeline, repository.digest(), sealing, self.is_alone)
    }

    /// The digest of a partial segment up to its last record: `digest`, where that is all of it.
    fn digest_so_far(
        &self,
        repository: &Repository,
        header: &SegmentHeader,
        findings: &Findings,
        digest: &str,
    ) -> Result<String> {
        let Ending::Partial(_) = findings.ending else { return Ok(digest.to_owned()) };
        let content = read(self.path)?;
        match so_far(&content, header, findings) {
            Some(records) if repository.content_digest(&content) == digest => {
                Ok(repository.content_digest(records))
            }
            _ => {
                let why = "it changed while it was read".into();
                Err(Error::Content { path: self.path.into(), why })
            }
        }
    }

    /// Whether the partial segment that has the name is the same up to its last record. What lies behind
    /// is what the recycled file held before: another thing on each server that has the segment.
    fn is_same_so_far(
        &self,
        destination: &Destination,
        header: &SegmentHeader,
        object: &ObjectKey,
        findings: &Findings,
    ) -> Result<bool> {
        let Ending::Partial(_) = findings.ending else { return Ok(false) };
        let (_, stored) = at(destination, destination.repository.get_wal(Kind::Partial, object))?;
        let content = read(self.path)?;
        let given = so_far(&content, header, findings);
        Ok(given.is_some() && given == so_far(&stored, header, findings))
    }

    /// Nobody keeps a running server from renaming a segment while it is read, unless it asked for that
    /// itself, and it writes into it under the next name: what was read is then of both.
    fn require_in_place(&self) -> Result<()> {
        let read = self.file.metadata().map_err(failed("look at", self.path))?;
        let named = std::fs::metadata(self.path).map_err(failed("look at", self.path))?;
        if (read.dev(), read.ino()) == (named.dev(), named.ino()) {
            return Ok(());
        }
        let why = "it was replaced while it was read".into();
        Err(Error::Content { path: self.path.into(), why })
    }

    /// Whether these bytes are this cluster's segment of that name.
    fn check(&self) -> Result<SegmentHeader> {
        let wrong = |why: String| Error::Content { path: self.path.into(), why };
        let length = self.file.metadata().map_err(failed("look at", self.path))?.len();
        let mut first =
            vec![0; LONG_HEADER_BYTES.min(usize::try_from(length).unwrap_or(usize::MAX))];
        self.file.read_exact_at(&mut first, 0).map_err(failed("read", self.path))?;
        let header = SegmentHeader::parse(&first).map_err(|error| wrong(error.to_string()))?;
        let size = self.from.segment_size;
        let number = self.segment.number(size).map_err(|error| wrong(error.to_string()))?;
        let (begin, end) = number
            .begin(size)
            .zip(number.end(size))
            .ok_or_else(|| wrong("its position is past the end of the log".into()))?;
        let ancestor = self.ancestor_at(&header, begin, end)?;
        let expected = Expected {
            system_id: Some(self.from.system),
            address: begin.0,
            segment_bytes: size.bytes(),
            timeline: self.segment.timeline().get(),
            ancestors: &ancestor,
            accept_unknown_magic: self.from.accept_unknown_wal,
        };
        header.check(&expected, length).map_err(|error| match error {
            wal::Error::UnknownMagic { .. } => {
                wrong(format!("{error} (--accept-unknown-wal stores it without looking into it)"))
            }
            other => wrong(other.to_string()),
        })?;
        Ok(header)
    }

    /// In the switch segment, and in no other, the first page is an ancestor's; which one, the history
    /// file beside the segment says (or the repository's, when `pg_wal` has lost it).
    fn ancestor_at(&self, header: &SegmentHeader, begin: Lsn, end: Lsn) -> Result<Vec<u32>> {
        if header.timeline == self.segment.timeline().get() {
            return Ok(Vec::new());
        }
        let timeline = self.segment.timeline();
        let content = match self.local_history(timeline)? {
            Some(content) => content,
            None => match self.destinations.first() {
                Some(destination) => {
                    let key = destination.place.history(timeline.get());
                    match destination.repository.get_wal(Kind::History, &key) {
                        Err(error) if error.is_not_found() => return Err(self.no_history()),
                        read => at(destination, read)?.1,
                    }
                }
                None => return Err(Error::NoRepository),
            },
        };
        let history = History::parse(timeline, &content).map_err(|error| Error::Content {
            path: self.history_path(timeline),
            why: error.to_string(),
        })?;
        Ok(ancestor_on_first_page(&history, begin, end).into_iter().collect())
    }

    fn history_path(&self, timeline: TimelineId) -> PathBuf {
        self.path.with_file_name(timeline.history_file_name())
    }

    fn no_history(&self) -> Error {
        let path = self.history_path(self.segment.timeline());
        let why = "neither the repository nor pg_wal has it, and no segment of a timeline is \
                   archived without its history";
        Error::Content { path, why: why.into() }
    }

    fn local_history(&self, timeline: TimelineId) -> Result<Option<Vec<u8>>> {
        let path = self.history_path(timeline);
        match std::fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { action: "read", path, source }),
        }
    }

    /// No segment of a timeline without its history: recovery would end on the older timeline. And
    /// none whose history is another than the archive's: two servers took one timeline, and the names
    /// that the first of them has not used yet would fill with WAL of the second.
    fn history_first(&self, destination: &Destination) -> Result<()> {
        let timeline = self.segment.timeline();
        let object = destination.place.history(timeline.get());
        let local = self.local_history(timeline)?;
        let stored = match destination.repository.wal_facts(Kind::History, &object) {
            Ok(stored) => stored,
            Err(error) if error.is_not_found() => {
                let Some(content) = local else { return Err(self.no_history()) };
                check_history(timeline, &self.history_path(timeline), &content)?;
                let name = WalFileName::History(timeline);
                let repository = &destination.repository;
                let (size, digest) = (content.len() as u64, repository.content_digest(&content));
                let facts = facts(destination, self.from, &name, size, digest);
                let put = repository.put_wal(self.ctx, Kind::History, &object, &facts, &content);
                return at(destination, put).map(drop);
            }
            Err(error) => return at(destination, Err(error)),
        };
        let Some(content) = local else { return Ok(()) };
        let given = destination.repository.content_digest(&content);
        if given == stored.digest {
            return Ok(());
        }
        at(destination, Err(repo::Error::Conflict { object, stored: stored.digest, given }))
    }

    /// Whether the server no longer writes, or never wrote, this segment's timeline: it has moved on,
    /// it is a standby, or a history file beside the segment says that the timeline was left. Right
    /// after a promotion the control file still names the old timeline.
    fn timeline_was_left(&self) -> bool {
        let timeline = self.segment.timeline();
        let Some(control) = &self.from.control else { return true };
        let standby = [ClusterState::InArchiveRecovery, ClusterState::ShutDownInRecovery];
        if control.checkpoint.timeline > timeline || standby.contains(&control.state) {
            return true;
        }
        let beside = self.path.parent().map(std::fs::read_dir);
        let Some(Ok(entries)) = beside else { return false };
        entries.flatten().any(|entry| {
            let name = WalFileName::parse(entry.file_name().as_encoded_bytes());
            let Ok(WalFileName::History(later)) = name else { return false };
            let content = std::fs::read(entry.path()).unwrap_or_default();
            later > timeline
                && History::parse(later, &content).is_ok_and(|history| history.includes(timeline))
        })
    }

    /// A segment whose records stop early was never completed, whatever its name: a standby that
    /// archives pushes the old timeline's last one under its full name. It is stored as partial, so
    /// that the old primary's complete one may still come.
    ///
    /// On the timeline that the server itself writes, the same sight is damage: such a segment is all
    /// there is, and it is stored under its name, with a warning.
    fn is_partial(&self, findings: &Findings, warnings: &mut Vec<String>) -> bool {
        if matches!(self.name, WalFileName::Partial(_)) {
            return true;
        }
        let Ending::Partial(why) = findings.ending else {
            if findings.ending == Ending::NotRead {
                let what = "its WAL version is not known: stored without looking into it";
                warn(warnings, format!("{}: {what}", self.name));
            }
            return false;
        };
        let end = Lsn(findings.end);
        if self.timeline_was_left() {
            let left = self.from.control.as_ref().map(|_| ", on a timeline that was left");
            let left = left.unwrap_or_default();
            let message = format!(
                "{}: its records end at {end} ({why}){left}: stored as a partial segment",
                self.name
            );
            warn(warnings, message);
            return true;
        }
        let message = format!(
            "{}: its records end at {end} ({why}), before the end of the segment: recovery cannot \
             go past this point; take a full backup and check the server's disk",
            self.name
        );
        warn(warnings, message);
        false
    }
}

/// The timeline of a segment's first page, where that is an ancestor's: the tip of the history begins
/// within the segment.
pub(super) fn ancestor_on_first_page(history: &History, begin: Lsn, end: Lsn) -> Option<u32> {
    let switch = history.begin(history.timeline()).filter(|lsn| begin < *lsn && *lsn < end);
    switch.map(|_| history.timeline_of(begin).get())
}

/// A segment's bytes up to its last record.
fn so_far<'a>(content: &'a [u8], header: &SegmentHeader, findings: &Findings) -> Option<&'a [u8]> {
    let length = findings.end.saturating_sub(header.address);
    content.get(..usize::try_from(length).ok()?)
}

/// Said once, however many repositories it is found for.
fn warn(warnings: &mut Vec<String>, message: String) {
    if !warnings.contains(&message) {
        warnings.push(message);
    }
}

fn object_of(
    place: &Place,
    segment: &SegmentName,
    findings: &Findings,
    partial: bool,
) -> ObjectKey {
    let name = segment.to_string();
    let object = if partial { place.partial(&name, findings.end) } else { place.wal(&name) };
    object.expect("a segment's name is 24 digits")
}
