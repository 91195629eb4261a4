//! Whole sealed objects: written frame by frame, read in order or at any frame.

use std::sync::Arc;

use super::error::{Error, Result};
use super::frame::{BATCH, FrameOpener, FrameSealer, Payload, Raw};
use super::header::{FRAME_SIZE, HEADER_SIZE, Header};
use crate::storage::{self, ObjectKey, ObjectStore, ObjectWriter};

/// Where sealed bytes go.
pub trait Sink: Send {
    /// Takes the next bytes of the object.
    ///
    /// # Errors
    /// As the store's.
    fn write(&mut self, bytes: &[u8]) -> storage::Result<()>;
}

impl Sink for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) -> storage::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

impl Sink for Box<dyn ObjectWriter> {
    fn write(&mut self, bytes: &[u8]) -> storage::Result<()> {
        self.as_mut().write(bytes)
    }
}

/// One object being sealed into a sink.
pub struct SealedWriter<S: Sink> {
    object: ObjectKey,
    header: Header,
    sealer: FrameSealer,
    sink: S,
    stored: u64,
    raw: u64,
    lengths: Vec<u32>,
    lines: Vec<u8>,
}

/// What a finished object is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSummary {
    /// Its header, with salt and key id.
    pub header: Header,
    /// Its size as stored.
    pub stored: u64,
    /// The size of its raw stream.
    pub raw: u64,
    /// How many frames it has.
    pub frames: u64,
}

impl<S: Sink> SealedWriter<S> {
    pub(super) fn new(
        object: ObjectKey,
        header: Header,
        sealer: FrameSealer,
        mut sink: S,
    ) -> Result<Self> {
        let bytes = header.encode();
        sink.write(&bytes)?;
        let stored = bytes.len() as u64;
        let (lengths, lines) = (Vec::new(), Vec::new());
        Ok(Self { object, header, sealer, sink, stored, raw: 0, lengths, lines })
    }

    /// The object's name.
    pub fn object(&self) -> &ObjectKey {
        &self.object
    }

    /// Bytes stored so far.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Frames sealed so far.
    pub fn frames(&self) -> u64 {
        self.sealer.count()
    }

    /// Bytes of the raw stream so far.
    pub fn raw(&self) -> u64 {
        self.raw
    }

    /// Seals and stores frames; returns their stored lengths.
    ///
    /// # Errors
    /// As the store's.
    pub fn frames_of(&mut self, raws: &[Raw<'_>], last: bool) -> Result<&[u32]> {
        self.lengths.clear();
        let bytes = self.sealer.seal(raws, last, &mut self.lengths);
        self.sink.write(bytes)?;
        self.stored += bytes.len() as u64;
        self.raw += raws.iter().map(|raw| raw.bytes.len() as u64).sum::<u64>();
        Ok(&self.lengths)
    }

    /// As [`SealedWriter::frames_of`], of payloads that were compressed before.
    ///
    /// # Errors
    /// As the store's.
    pub fn payloads(&mut self, payloads: &[Payload<'_>], last: bool) -> Result<&[u32]> {
        self.lengths.clear();
        let bytes = self.sealer.seal_payloads(payloads, last, &mut self.lengths);
        self.sink.write(bytes)?;
        self.stored += bytes.len() as u64;
        self.raw += payloads.iter().map(|payload| payload.raw_size() as u64).sum::<u64>();
        Ok(&self.lengths)
    }

    /// Seals and stores `bytes`, cut at the frame size.
    ///
    /// # Errors
    /// As the store's.
    pub fn content(&mut self, bytes: &[u8], compress: bool, last: bool) -> Result<()> {
        let raws: Vec<Raw<'_>> =
            bytes.chunks(FRAME_SIZE).map(|bytes| Raw { bytes, compress }).collect();
        let batches = raws.len().div_ceil(BATCH);
        for (i, batch) in raws.chunks(BATCH).enumerate() {
            self.frames_of(batch, last && i + 1 == batches)?;
        }
        if last && raws.is_empty() {
            self.frames_of(&[Raw { bytes: &[], compress: false }], true)?;
        }
        Ok(())
    }

    /// Appends one line to the frame that is being filled, or begins the next when it is full.
    /// Returns whether the line is the first of a frame.
    ///
    /// # Errors
    /// [`Error::Limit`] for a line longer than a frame; else as the store's.
    pub fn line(&mut self, line: &impl serde::Serialize) -> Result<bool> {
        let mut text = serde_json::to_vec(line)
            .map_err(|error| Error::Limit(format!("{}: {error}", self.object)))?;
        text.push(b'\n');
        if text.len() > FRAME_SIZE {
            return Err(Error::Limit(format!("{}: a line is longer than a frame", self.object)));
        }
        if self.lines.len() + text.len() > FRAME_SIZE {
            self.end_frame()?;
        }
        self.lines.extend_from_slice(&text);
        Ok(self.lines.len() == text.len())
    }

    /// Ends the frame of lines that is being filled, if it holds any.
    ///
    /// # Errors
    /// As the store's.
    pub fn end_frame(&mut self) -> Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.lines);
        self.frames_of(&[Raw { bytes: &lines, compress: true }], false)?;
        self.lines = lines;
        self.lines.clear();
        Ok(())
    }

    /// Ends an object of lines.
    ///
    /// # Errors
    /// As the store's.
    pub fn finish_lines(mut self) -> Result<(S, SealedSummary)> {
        let lines = std::mem::take(&mut self.lines);
        self.frames_of(&[Raw { bytes: &lines, compress: true }], true)?;
        Ok(self.into_parts())
    }

    /// The sink and what was written, after the last frame.
    pub fn into_parts(self) -> (S, SealedSummary) {
        let summary = SealedSummary {
            header: self.header,
            stored: self.stored,
            raw: self.raw,
            frames: self.sealer.count(),
        };
        (self.sink, summary)
    }
}

/// Reads a sealed object from its first frame to its last, in bounded memory.
pub struct SealedReader {
    store: Arc<dyn ObjectStore>,
    opener: FrameOpener,
    header: Header,
    /// Bytes fetched and not yet used.
    window: Vec<u8>,
    used: usize,
    offset: u64,
    next: u64,
    ended: bool,
    /// The window reaches to the end of the object.
    whole: bool,
    /// How much is asked for at a time.
    request: usize,
}

/// A frame as it is stored, and its number.
#[derive(Debug)]
pub struct StoredFrame<'a> {
    /// Its number, which its MAC covers.
    pub number: u64,
    /// All of it; opening it decrypts in place.
    pub bytes: &'a mut [u8],
}

/// How much a sequential reader asks for at a time.
const WINDOW: usize = 1 << 20;

impl SealedReader {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        opener: FrameOpener,
        header: Header,
        window: Vec<u8>,
        whole: bool,
    ) -> Self {
        let offset = window.len() as u64;
        let (used, next, ended, request) = (HEADER_SIZE, 0, false, WINDOW);
        Self { store, opener, header, window, used, offset, next, ended, whole, request }
    }

    /// One of several that are read side by side: all together keep as much in memory as a few.
    pub(super) fn one_of(mut self, readers: usize) -> Self {
        self.request = (8 * WINDOW / readers.max(1)).clamp(2 * FRAME_SIZE, WINDOW);
        self
    }

    /// The object's header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The number of the next frame.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Appends the next frame's content to `out`; `false` when the object has ended.
    ///
    /// # Errors
    /// [`Error::Corrupt`], also for an object that ends too early or goes on after its last frame.
    pub fn next_frame(&mut self, out: &mut Vec<u8>) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let cut = |this: &Self| this.opener.corrupt(this.next, "the object ends before it");
        self.fill(8)?;
        let head = self.window.get(self.used..).and_then(<[u8]>::first_chunk::<8>);
        let head = self.opener.head(self.next, head.ok_or_else(|| cut(self))?)?;
        let size = head.stored_size();
        self.fill(size)?;
        let missing = cut(self);
        let frame = self.window.get_mut(self.used..self.used + size).ok_or(missing)?;
        let last = self.opener.open(self.next, frame, out)?;
        self.used += size;
        self.next += 1;
        if last {
            self.ended = true;
            self.fill(1)?;
            if self.used < self.window.len() {
                return Err(self.opener.corrupt(self.next, "bytes follow the last frame"));
            }
        }
        Ok(true)
    }

    /// The payloads of the next frames, `count` at most, and whether the last of them ends the object; nothing when
    /// it has ended.
    ///
    /// # Errors
    /// As [`SealedReader::next_frame`].
    pub fn next_payloads(&mut self, count: usize) -> Result<Option<(Vec<Payload<'_>>, bool)>> {
        if self.ended {
            return Ok(None);
        }
        let first = self.next;
        let (mut sizes, mut total) = (Vec::with_capacity(count), 0);
        for number in (first..).take(count) {
            self.fill(total + 8)?;
            let head = self.window.get(self.used + total..).and_then(<[u8]>::first_chunk::<8>);
            let Some(head) = head else { break };
            let head = self.opener.head(number, head)?;
            total += head.stored_size();
            sizes.push(head.stored_size());
            if head.is_last() {
                break;
            }
        }
        // One byte more tells whether anything follows.
        self.fill(total + 1)?;
        let begin = self.used;
        let is_followed = self.window.len() - begin > total;
        self.used += total;
        self.next += sizes.len() as u64;
        let cut = |number| self.opener.corrupt(number, "the object ends before it");
        let mut rest = self.window.get_mut(begin..begin + total).ok_or_else(|| cut(first))?;
        let mut payloads = Vec::with_capacity(sizes.len());
        for (number, size) in (first..).zip(&sizes) {
            let (frame, later) = rest.split_at_mut(*size);
            let (payload, is_last) = self.opener.payload(number, frame)?;
            payloads.push(payload);
            self.ended = is_last;
            rest = later;
        }
        if payloads.is_empty() {
            return Err(cut(first));
        }
        if self.ended && is_followed {
            return Err(self.opener.corrupt(self.next, "bytes follow the last frame"));
        }
        Ok(Some((payloads, self.ended)))
    }

    /// The frames that are left, each as it is stored: of an object in memory, cut by the lengths that
    /// they claim and nobody has authenticated yet. The last one ends with the object.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the lengths cannot be those of frames.
    ///
    /// # Panics
    /// When the object is not in memory.
    pub fn into_frames(&mut self) -> Result<(&FrameOpener, Vec<StoredFrame<'_>>)> {
        assert!(self.whole, "the object is in memory");
        let mut rest = self.window.get_mut(self.used..).unwrap_or_default();
        let mut frames = Vec::new();
        for number in self.next.. {
            let cut = || self.opener.corrupt(number, "the object ends before it");
            let head = self.opener.head(number, rest.first_chunk::<8>().ok_or_else(cut)?)?;
            let (bytes, later) = rest.split_at_mut_checked(head.stored_size()).ok_or_else(cut)?;
            frames.push(StoredFrame { number, bytes });
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        Ok((&self.opener, frames))
    }

    /// Everything from the next frame to the end, at most `limit` bytes.
    ///
    /// # Errors
    /// As [`SealedReader::next_frame`]; [`Error::Limit`].
    pub fn rest(&mut self, limit: usize, out: &mut Vec<u8>) -> Result<()> {
        let before = out.len();
        while self.next_frame(out)? {
            if out.len() - before > limit {
                let object = self.opener.object();
                return Err(Error::Limit(format!("{object}: more than {limit} bytes")));
            }
        }
        Ok(())
    }

    /// Makes at least `need` unused bytes available, unless the object ends before.
    fn fill(&mut self, need: usize) -> Result<()> {
        while !self.whole && self.window.len() - self.used < need {
            self.window.drain(..self.used);
            self.used = 0;
            let more = self.store.read_up_to(self.opener.object(), self.offset, self.request)?;
            self.whole = more.len() < self.request;
            self.offset += more.len() as u64;
            self.window.extend_from_slice(&more);
        }
        Ok(())
    }
}

/// Reads single frames of an object whose header is known from elsewhere (a manifest).
#[derive(Debug, Clone)]
pub struct SealedRandom {
    store: Arc<dyn ObjectStore>,
    opener: FrameOpener,
}

impl SealedRandom {
    pub(super) fn new(store: Arc<dyn ObjectStore>, opener: FrameOpener) -> Self {
        Self { store, opener }
    }

    /// How frames of this object are opened.
    #[must_use]
    pub fn opener(&self) -> &FrameOpener {
        &self.opener
    }

    /// One frame's content, by one ranged read.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Storage`].
    pub fn frame(&self, number: u64, offset: u64, stored: usize) -> Result<Vec<u8>> {
        if stored > self.opener.stored_size_max() {
            return Err(self.opener.corrupt(number, "it is listed as longer than a frame can be"));
        }
        let mut bytes = vec![0; stored];
        self.read(offset, &mut bytes)?;
        let mut out = Vec::new();
        self.opener.open(number, &mut bytes, &mut out)?;
        Ok(out)
    }

    /// Stored bytes as they are, not yet authenticated.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the object is too short or gone although a manifest names it.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let object = self.opener.object();
        self.store.read_range(object, offset, bytes).map_err(|error| match error {
            storage::Error::Short { .. } => {
                Error::corrupt(object, format!("byte {offset}"), "the object is cut off")
            }
            other => other.into(),
        })
    }
}
