//! What archiving stores: WAL segments, partial segments, timeline histories, backup histories.
//!
//! First write wins: a name is put if absent; the same content again is success, other content is
//! an error and the first stays.

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::found::Found;
use super::frame::{BATCH, FRAME_OVERHEAD, FrameOpener, FrameSealer, Raw};
use super::header::{FRAME_SIZE, HEADER_SIZE, Header};
use super::layout::Kind;
use super::repository::{Repository, parse_line};
use super::sealed::{SealedReader, StoredFrame};
use super::text::u64_text;
use crate::base::Ctx;
use crate::crypt::{RepositoryId, padded_size};
use crate::pg::Lsn;
use crate::storage::ObjectKey;

/// The server that archived a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its host: name, and an id that does not change with it where there is one.
    pub host: String,
    /// Its data directory, links followed.
    pub directory: String,
}

/// The facts in an archived file's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalFacts {
    /// The file's name as PostgreSQL gave it.
    pub name: String,
    /// The system identifier.
    #[serde(with = "u64_text")]
    pub system: u64,
    /// Bytes of the content.
    #[serde(with = "u64_text")]
    pub size: u64,
    /// Tells contents apart; see [`Repository::content_digest`].
    pub digest: String,
    /// Of a segment, the timeline of its first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// Of a segment, the position of its first byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Lsn>,
    /// Of a segment, what a pass over its records found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
    /// Who archived it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Origin>,
}

/// A file's content being sealed, piece by piece, before its facts are known: so that reading, looking
/// through and sealing a segment can go side by side.
pub struct SealedWal {
    repository: RepositoryId,
    key: ObjectKey,
    kind: Kind,
    header: Header,
    sealer: FrameSealer,
    /// Room for the header and frame 0, then the frames from 1 on.
    bytes: Vec<u8>,
    lengths: Vec<u32>,
    size: u64,
    has_ended: bool,
}

/// Before the frames of the content: the header, and the largest first frame that there can be.
const FRONT: usize = HEADER_SIZE + FRAME_OVERHEAD + padded_size(FRAME_SIZE);

/// How a put ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalPut {
    /// The content is stored now.
    Stored,
    /// It was stored before, the same content.
    Same,
}

/// Contents of archived files are no longer than this: the greatest segment.
const CONTENT_MAX: usize = 1 << 30;

/// The facts of nearly every segment are shorter. Many are read for a plan.
const FACTS_READ: usize = 8 * 1024;

/// A good length for pieces of a content that is sealed: one batch of frames, which stays in the
/// processor's cache.
pub const WAL_PIECE: usize = BATCH * FRAME_SIZE;

impl Repository {
    /// Stores an archived file under `key`, first write wins. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name holds other content.
    pub fn put_wal(
        &self,
        ctx: &Ctx,
        kind: Kind,
        key: &ObjectKey,
        facts: &WalFacts,
        content: &[u8],
    ) -> Result<WalPut> {
        let sealed = self.seal_wal(ctx, kind, key, content)?;
        self.put_sealed_wal(sealed, facts)
    }

    /// Seals a file's content in one go.
    ///
    /// # Errors
    /// As [`Repository::begin_wal`].
    pub fn seal_wal(
        &self,
        ctx: &Ctx,
        kind: Kind,
        key: &ObjectKey,
        content: &[u8],
    ) -> Result<SealedWal> {
        let mut sealed = self.begin_wal(ctx, kind, key, content.len() as u64)?;
        sealed.add(content, true);
        Ok(sealed)
    }

    /// Begins to seal a file's content of `size` bytes, for [`Repository::put_sealed_wal`]. Stores
    /// nothing.
    ///
    /// # Errors
    /// None in practice; as [`Repository::buffer`].
    pub fn begin_wal(
        &self,
        ctx: &Ctx,
        kind: Kind,
        key: &ObjectKey,
        size: u64,
    ) -> Result<SealedWal> {
        let (header, mut sealer) = self.sealer(ctx, kind, key)?;
        sealer.leave_first();
        // WAL that compresses as usual fits into a quarter: a block that was used before, where all of it would
        // be fresh pages of the system's each time.
        let room = usize::try_from(size).unwrap_or(CONTENT_MAX).min(CONTENT_MAX) / 4;
        let mut bytes = Vec::with_capacity(FRONT + room);
        bytes.resize(FRONT, 0);
        let (repository, key) = (self.descriptor().repository, key.clone());
        let (lengths, size, has_ended) = (Vec::new(), 0, false);
        Ok(SealedWal { repository, key, kind, header, sealer, bytes, lengths, size, has_ended })
    }

    /// Stores a sealed file with its facts, first write wins. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name holds other content.
    ///
    /// # Panics
    /// When it was sealed for another repository, whose key would stay under this one's name for ever.
    pub fn put_sealed_wal(&self, sealed: SealedWal, facts: &WalFacts) -> Result<WalPut> {
        self.put_sealed(sealed, facts, &facts.digest)
    }

    /// As [`Repository::put_sealed_wal`], of a partial segment; `so_far` is the digest of what it holds up
    /// to the end of its records. What lies behind differs between the servers that have the segment, and
    /// none of them may keep the others from storing it.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name holds other content, if only behind the records.
    ///
    /// # Panics
    /// As [`Repository::put_sealed_wal`].
    pub fn put_sealed_partial(
        &self,
        sealed: SealedWal,
        facts: &WalFacts,
        so_far: &str,
    ) -> Result<WalPut> {
        self.put_sealed(sealed, facts, so_far)
    }

    fn put_sealed(&self, sealed: SealedWal, facts: &WalFacts, digest: &str) -> Result<WalPut> {
        assert_eq!(sealed.repository, self.descriptor().repository, "sealed for this repository");
        assert!(sealed.has_ended && facts.size == sealed.size, "the facts are this content's");
        let SealedWal { key, kind, header, mut sealer, mut bytes, .. } = sealed;
        let line = facts_line(&key, facts)?;
        let first = sealer.seal_first(Raw { bytes: &line, compress: true });
        let begin = FRONT - HEADER_SIZE - first.len();
        let (head, frame) = bytes.split_at_mut(FRONT - first.len());
        head.split_at_mut(begin).1.copy_from_slice(&header.encode());
        frame.split_at_mut(first.len()).0.copy_from_slice(first);
        // The digest without its algorithm: names have no colons.
        let identity = digest.rsplit(':').next().unwrap_or_default();
        match self.put_once(&key, bytes.get(begin..).unwrap_or_default(), identity) {
            Ok(()) => Ok(WalPut::Stored),
            Err(Error::Storage(error)) if error.is_already_exists() => {
                self.same_or_conflict(kind, &key, facts)
            }
            Err(error) => Err(error),
        }
    }

    fn same_or_conflict(&self, kind: Kind, key: &ObjectKey, given: &WalFacts) -> Result<WalPut> {
        let stored = self.wal_facts(kind, key)?;
        if stored.digest == given.digest && stored.size == given.size {
            return Ok(WalPut::Same);
        }
        Err(Error::Conflict {
            object: key.clone(),
            stored: stored.digest,
            given: given.digest.clone(),
        })
    }

    /// An archived file's facts. One small request.
    ///
    /// # Errors
    /// [`crate::storage::Error::NotFound`], [`Error::Corrupt`].
    pub fn wal_facts(&self, kind: Kind, key: &ObjectKey) -> Result<WalFacts> {
        let mut frame = Vec::new();
        let window = self.store().read_up_to(key, 0, FACTS_READ)?;
        let is_whole = window.len() < FACTS_READ;
        self.reader(kind, key, window, is_whole)?.next_frame(&mut frame)?;
        parse_line(key, 0, &frame)
    }

    /// An archived file, whole and authenticated. One request.
    ///
    /// # Errors
    /// [`crate::storage::Error::NotFound`], [`Error::Corrupt`].
    pub fn get_wal(&self, kind: Kind, key: &ObjectKey) -> Result<(WalFacts, Vec<u8>)> {
        let mut reader = self.open_wal(kind, key)?;
        let content = reader.content()?;
        Ok((reader.facts, content))
    }

    /// An archived file, to be opened piece by piece: its facts are authentic when this returns, each
    /// piece when it is opened. One request.
    ///
    /// # Errors
    /// As [`Repository::get_wal`].
    pub fn open_wal(&self, kind: Kind, key: &ObjectKey) -> Result<WalReader> {
        let mut reader = self.read_whole(kind, key)?;
        let mut frame = Vec::new();
        reader.next_frame(&mut frame)?;
        let facts: WalFacts = parse_line(key, 0, &frame)?;
        if facts.size > CONTENT_MAX as u64 {
            let why = format!("{} bytes are more than any segment has", facts.size);
            return Err(Error::corrupt(key, "line 0", why));
        }
        Ok(WalReader { key: key.clone(), facts, reader })
    }
}

impl SealedWal {
    /// Seals the next bytes of the content: whole frames, but for the last ones.
    ///
    /// # Panics
    /// When a frame would be left open, or the content has ended: no number is sealed twice.
    pub fn add(&mut self, content: &[u8], is_last: bool) {
        assert!(!self.has_ended, "the content goes on");
        assert!(
            is_last || content.len().is_multiple_of(FRAME_SIZE),
            "only the last frame is short"
        );
        let mut raws: Vec<Raw<'_>> =
            content.chunks(FRAME_SIZE).map(|bytes| Raw { bytes, compress: true }).collect();
        if is_last && raws.is_empty() {
            raws.push(Raw { bytes: &[], compress: false });
        }
        let batches = raws.len().div_ceil(BATCH);
        for (i, batch) in raws.chunks(BATCH).enumerate() {
            self.lengths.clear();
            let sealed = self.sealer.seal(batch, is_last && i + 1 == batches, &mut self.lengths);
            self.bytes.extend_from_slice(sealed);
        }
        self.size += content.len() as u64;
        self.has_ended = is_last;
    }
}

/// The facts as the first frame's line. Where lists make it longer than a frame, they are shortened: what
/// they leave out is counted, and a segment that cannot be archived stops the server.
fn facts_line(key: &ObjectKey, facts: &WalFacts) -> Result<Vec<u8>> {
    let mut facts = facts.clone();
    loop {
        let mut line =
            serde_json::to_vec(&facts).map_err(|error| Error::Limit(format!("{key}: {error}")))?;
        line.push(b'\n');
        if line.len() <= FRAME_SIZE {
            return Ok(line);
        }
        if !facts.found.as_mut().is_some_and(Found::shorten) {
            return Err(Error::Limit(format!("{key}: a line is longer than a frame")));
        }
    }
}

/// An archived file in memory, sealed but for its facts.
pub struct WalReader {
    key: ObjectKey,
    facts: WalFacts,
    reader: SealedReader,
}

/// Content that is opened at a time: stays in the processor's cache, and holds whole frames.
pub const WAL_READ_PIECE: usize = 4 * FRAME_SIZE;

/// Frames of an archived file that follow each other; whoever opens it may be any thread.
#[derive(Debug)]
pub struct WalPiece<'a> {
    opener: &'a FrameOpener,
    frames: Vec<StoredFrame<'a>>,
    /// Where in the content it begins.
    pub offset: u64,
    /// How long its content is, by the facts.
    pub length: usize,
    is_last: bool,
}

impl WalReader {
    /// Its facts.
    #[must_use]
    pub fn facts(&self) -> &WalFacts {
        &self.facts
    }

    /// The whole content, authentic.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn content(&mut self) -> Result<Vec<u8>> {
        let size = usize::try_from(self.facts.size).unwrap_or(CONTENT_MAX);
        let pieces = self.pieces()?;
        // The number of frames that are there fits the size.
        let mut content = vec![0; size];
        for (piece, space) in pieces.into_iter().zip(content.chunks_mut(WAL_READ_PIECE)) {
            piece.open(space)?;
        }
        Ok(content)
    }

    /// The content, at least one piece, in order. The whole is authentic when each piece is.
    ///
    /// # Errors
    /// [`Error::Corrupt`], also when there are more or fewer frames than the facts' size has.
    pub fn pieces(&mut self) -> Result<Vec<WalPiece<'_>>> {
        const FRAMES: usize = WAL_READ_PIECE / FRAME_SIZE;
        let (opener, frames) = self.reader.into_frames()?;
        let expected = self.facts.size.div_ceil(FRAME_SIZE as u64).max(1);
        if frames.len() as u64 != expected {
            let (count, size) = (frames.len(), self.facts.size);
            let why = format!("{count} frames of content, {size} bytes in its facts");
            return Err(Error::corrupt(&self.key, "content", why));
        }
        let mut frames = frames.into_iter();
        let mut pieces = Vec::with_capacity(frames.len().div_ceil(FRAMES));
        let mut offset = 0;
        while frames.len() > 0 {
            let frames: Vec<_> = frames.by_ref().take(FRAMES).collect();
            let left = self.facts.size - offset;
            let length = usize::try_from(left).unwrap_or(WAL_READ_PIECE).min(WAL_READ_PIECE);
            pieces.push(WalPiece { opener, frames, offset, length, is_last: false });
            offset += length as u64;
        }
        if let Some(last) = pieces.last_mut() {
            last.is_last = true;
        }
        Ok(pieces)
    }
}

impl WalPiece<'_> {
    /// Opens it into the beginning of `out`, which has room for its length.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: nothing of the file may be used then.
    pub fn open(mut self, out: &mut [u8]) -> Result<()> {
        let count = self.frames.len();
        let space = out.get_mut(..self.length).unwrap_or_default();
        let mut spaces = space.chunks_mut(FRAME_SIZE);
        for (i, frame) in self.frames.iter_mut().enumerate() {
            // An empty file has one empty frame.
            let space = spaces.next().unwrap_or_default();
            let (length, last) = self.opener.open_into(frame.number, frame.bytes, space)?;
            if length != space.len() || last != (self.is_last && i + 1 == count) {
                let why = "it is not the frame that has this place in the content";
                return Err(self.opener.corrupt(frame.number, why));
            }
        }
        Ok(())
    }
}
