//! Packs being filled: content comes in through a window of the raw stream, is hashed, cut into
//! frames, sealed in batches and stored; hashes and the meta object follow when a pack is full.
//!
//! One writer belongs to one worker thread and has one pack open. Content is read straight into
//! the raw stream's buffer: no copy before compression. Blocks that lie in a base already are left out of it.
//!
//! Order of durability: pack, hashes, meta. A pack without its meta is garbage.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::backup_id::BackupId;
use super::contents::{self, ContentSource, Stretch, push_stretch};
use super::error::{Error, Result};
use super::file_table::{Layer, Source};
use super::frame::{BATCH, Raw};
use super::header::{FRAME_SIZE, HEADER_SIZE};
use super::layout::{Kind, Place};
use super::manifest::ObjectRecord;
use super::repository::Repository;
use super::runs::{self, Find, Known, Run, Unit};
use super::sealed::{SealedSummary, SealedWriter, Sink};
use crate::base::Ctx;
use crate::codec::crc32c_join;
use crate::crypt::BlockHasher;
use crate::storage::ObjectWriter;

/// A pack is closed when it has stored this much.
const STORED_TARGET: u64 = 1 << 30;

/// A pack is closed when it has been open for so long: what a day-long differential has stored is durable by then, for
/// the next one if it is interrupted, and no upload is as old as those that are removed as left over.
const OPEN_MAX: Duration = Duration::from_hours(1);

/// A pack is closed when its raw stream is this long, so that its hashes stay small.
const RAW_MAX: u64 = 8 << 30;

/// A pack is closed when the lines about its contents take this much memory.
const CONTENTS_MAX: usize = 16 << 20;

/// The raw stream's window: one batch of frames.
const WINDOW: usize = BATCH * FRAME_SIZE;

/// Frames that one page of a meta object describes.
pub(super) const PAGE_FRAMES: usize = 2048;

/// Raw bytes of a page: an offset, then three bytes a frame.
pub(super) const PAGE_SIZE: usize = 8 + 3 * PAGE_FRAMES;

/// Raw bytes of a meta object's first frame.
pub(super) const PACK_SUMMARY_SIZE: usize = 64;

/// What several writers of one backup share.
#[derive(Debug)]
pub struct PackPlan {
    /// Where the packs lie.
    pub place: Place,
    /// The backup.
    pub id: BackupId,
    /// Bytes of a block.
    pub block_size: usize,
    /// How blocks are hashed.
    pub hasher: BlockHasher,
    /// The next pack's number.
    pub next: AtomicU32,
    /// Close a pack when it has stored this much; [`PackPlan::new`] sets 1 GiB.
    pub stored_target: u64,
}

impl PackPlan {
    /// A plan that begins with pack 0.
    #[must_use]
    pub fn new(place: Place, id: BackupId, block_size: usize, hasher: BlockHasher) -> Self {
        let next = AtomicU32::new(0);
        Self { place, id, block_size, hasher, next, stored_target: STORED_TARGET }
    }
}

struct OpenPack {
    number: u32,
    /// When it was opened, by the clock that never jumps.
    opened: Duration,
    writer: SealedWriter<Box<dyn ObjectWriter>>,
    lengths: Vec<u32>,
    hashes: Vec<u8>,
    /// Lines of the meta object.
    contents: Vec<u8>,
}

/// Fills packs.
pub struct PackWriter<'a> {
    repository: &'a Repository,
    ctx: &'a Ctx,
    plan: &'a PackPlan,
    window: Vec<u8>,
    filled: usize,
    pack: Option<OpenPack>,
    content: Option<ContentSource>,
    layers: Vec<Layer>,
    /// Scratch: what is known of the blocks of one call.
    blocks: Vec<Known>,
    /// What the open pack's meta object is to say of this content.
    untold: Vec<Stretch>,
    zeros: u64,
    objects: Vec<ObjectRecord>,
}

impl<'a> PackWriter<'a> {
    /// A writer without an open pack.
    #[must_use]
    pub fn new(repository: &'a Repository, ctx: &'a Ctx, plan: &'a PackPlan) -> Self {
        Self {
            repository,
            ctx,
            plan,
            window: vec![0; WINDOW],
            filled: 0,
            pack: None,
            content: None,
            layers: Vec::new(),
            blocks: Vec::new(),
            untold: Vec::new(),
            zeros: 0,
            objects: Vec::new(),
        }
    }

    /// Begins a file's content, or a run of its blocks.
    ///
    /// # Panics
    /// When the content before was not ended.
    pub fn begin_content(&mut self, source: ContentSource) {
        assert!(self.content.is_none(), "contents do not nest");
        self.content = Some(source);
        self.layers.clear();
    }

    /// Notes that an invalid page was read of the content that is being taken.
    pub fn note_damage(&mut self) {
        if let Some(content) = &mut self.content {
            content.is_damaged = true;
        }
    }

    /// The free part of the raw stream's window, on a block boundary and at least a block long: read
    /// the next bytes of the content into its beginning, whole blocks unless the file ends.
    ///
    /// # Errors
    /// As the store's: a full window is sealed and stored first.
    pub fn space(&mut self) -> Result<&mut [u8]> {
        if self.window.len() - self.filled < self.plan.block_size {
            self.flush()?;
        }
        Ok(self.window.get_mut(self.filled..).unwrap_or_default())
    }

    /// As [`PackWriter::space`], for so many bytes that are left of the content. Of what is stored together all
    /// are taken at once: what is left of the window is filled with zeros that belong to nobody, where it is
    /// shorter.
    ///
    /// # Errors
    /// As [`PackWriter::space`].
    ///
    /// # Panics
    /// When what is stored together is longer than a window.
    pub fn space_for(&mut self, unit: Unit, length: usize) -> Result<&mut [u8]> {
        if unit == Unit::Block {
            return self.space();
        }
        assert!(length <= self.window.len(), "a window is longer");
        let left = self.window.len() - self.filled;
        if left < length {
            let size = self.plan.block_size;
            self.window.get_mut(self.filled..).unwrap_or_default().fill(0);
            if let Some(pack) = &mut self.pack {
                let hash = self.plan.hasher.hash(&vec![0; size]).to_le_bytes();
                (0..left / size).for_each(|_| pack.hashes.extend(hash));
            }
            self.filled = self.window.len();
            self.flush()?;
        }
        self.space()
    }

    /// Takes the first `length` bytes of [`PackWriter::space`] as the file's blocks from `block` on, and
    /// returns their CRC-32C. A last block that is not full is filled with zeros in the stream.
    ///
    /// # Errors
    /// As the store's; [`Error::Limit`] when there are more blocks than the format counts.
    pub fn accept(&mut self, block: u32, length: usize) -> Result<u32> {
        self.accept_new(block, length, Unit::Block, &mut |_| None)
    }

    /// As [`PackWriter::accept`], but for blocks of which `find` says that they lie somewhere already: those
    /// become layers there, and are not stored; by [`Unit::All`] only when all of these do.
    ///
    /// # Errors
    /// As [`PackWriter::accept`].
    pub fn accept_new(
        &mut self,
        block: u32,
        length: usize,
        unit: Unit,
        find: Find<'_>,
    ) -> Result<u32> {
        let size = self.plan.block_size;
        let padded = length.div_ceil(size) * size;
        let space = self.window.get_mut(self.filled..).unwrap_or_default();
        space.get_mut(length..padded).unwrap_or_default().fill(0);
        let space = space.get(..length).unwrap_or_default();
        self.blocks.clear();
        for (i, content) in space.chunks(size).enumerate() {
            self.blocks.push(Known::of(block_number(block, i)?, content));
        }
        runs::settle(&mut self.blocks, (space, size), &self.plan.hasher, unit, find);
        let (mut kept, mut crc) = (0, 0);
        let mut first = 0;
        while let Some(run) = runs::next(&self.blocks, first) {
            let begin = first * size;
            let end = ((first + run.count) * size).min(length);
            let number = block_number(block, first)?;
            let part = self.run(number, run, begin..end, &mut kept)?;
            crc = if first == 0 { part } else { crc32c_join(crc, part, (end - begin) as u64) };
            first += run.count;
        }
        self.filled += kept;
        if self.filled == self.window.len() {
            self.flush()?;
        }
        Ok(crc)
    }

    /// Takes one run of blocks, which lies at `bytes` of the free space; what is stored moves together to its
    /// beginning, up to `kept`. Returns its CRC-32C.
    fn run(&mut self, block: u32, run: Run, bytes: Range<usize>, kept: &mut usize) -> Result<u32> {
        let size = self.plan.block_size;
        let count = u32::try_from(run.count).map_err(|_| too_many_blocks())?;
        let place = |at: usize| self.filled + at;
        let content = self.window.get(place(bytes.start)..place(bytes.end)).unwrap_or_default();
        let crc = crc32c::crc32c(content);
        let source = match run.place {
            Some(source) => {
                if source == Source::Zeros {
                    self.zeros += content.len() as u64;
                    self.untold.push(Stretch::zeros(block, count, crc));
                }
                source
            }
            None => {
                let at = *kept;
                if at != bytes.start {
                    let padded = place(bytes.start)..place(bytes.start + run.count * size);
                    self.window.copy_within(padded, place(at));
                }
                *kept += run.count * size;
                let raw = self.raw(at)?;
                let pack = self.pack.as_mut().expect("it was just opened");
                let hashes = self.blocks.iter().skip(bytes.start / size).take(run.count);
                hashes.for_each(|known| pack.hashes.extend(known.hash.to_le_bytes()));
                let length = bytes.len() as u64;
                push_stretch(&mut self.untold, Stretch::stored(block, count, raw, crc), length);
                Source::Pack { base: None, pack: pack.number, raw }
            }
        };
        Layer { block, count, source }.join(&mut self.layers);
        Ok(crc)
    }

    /// The raw block at this place of the free space; the pack is opened where none is.
    fn raw(&mut self, at: usize) -> Result<u32> {
        let pack = match self.pack.take() {
            Some(pack) => pack,
            None => self.open()?,
        };
        let byte = pack.writer.raw() + (self.filled + at) as u64;
        self.pack = Some(pack);
        u32::try_from(byte / self.plan.block_size as u64).map_err(|_| too_many_blocks())
    }

    /// Ends a content and returns the layers that cover the blocks it accepted. A pack that has been open for an
    /// hour is closed.
    ///
    /// # Errors
    /// As the store's.
    pub fn end_content(&mut self) -> Result<Vec<Layer>> {
        self.tell();
        self.content = None;
        let now = self.ctx.clock.monotonic();
        if self.pack.as_ref().is_some_and(|pack| now.saturating_sub(pack.opened) >= OPEN_MAX) {
            self.seal_window()?;
            self.close()?;
        }
        Ok(std::mem::take(&mut self.layers))
    }

    /// Bytes of content that were zeros and not stored.
    #[must_use]
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// Closes the open pack and returns the records of every object that this writer made.
    ///
    /// # Errors
    /// As the store's.
    pub fn finish(mut self) -> Result<Vec<ObjectRecord>> {
        self.seal_window()?;
        self.close()?;
        Ok(self.objects)
    }

    fn open(&self) -> Result<OpenPack> {
        let number = self.plan.next.fetch_add(1, Ordering::SeqCst);
        let key = self.plan.place.pack(&self.plan.id, number);
        let writer = self.repository.stream(self.ctx, Kind::Pack, &key)?;
        let (lengths, hashes, contents) = (Vec::new(), Vec::new(), Vec::new());
        let opened = self.ctx.clock.monotonic();
        Ok(OpenPack { number, opened, writer, lengths, hashes, contents })
    }

    /// Stores the full window; closes the pack when it is large enough. Only whole frames are sealed
    /// here, so raw byte r stays in frame r / 65536.
    fn flush(&mut self) -> Result<()> {
        self.ctx.cancel.check()?;
        // A tail shorter than a block cannot be: blocks divide the window.
        assert_eq!(self.filled, self.window.len(), "the window is full when it is flushed");
        self.seal_window()?;
        let full = self.pack.as_ref().is_some_and(|pack| {
            pack.writer.stored() >= self.plan.stored_target
                || pack.writer.raw() >= RAW_MAX
                || pack.contents.len() >= CONTENTS_MAX
        });
        if full { self.close() } else { Ok(()) }
    }

    fn seal_window(&mut self) -> Result<()> {
        let Some(pack) = &mut self.pack else {
            return Ok(());
        };
        let filled = self.window.get(..self.filled).unwrap_or_default();
        let raws: Vec<Raw<'_>> =
            filled.chunks(FRAME_SIZE).map(|bytes| Raw { bytes, compress: true }).collect();
        if !raws.is_empty() {
            let lengths = pack.writer.frames_of(&raws, false)?;
            pack.lengths.extend_from_slice(lengths);
        }
        self.filled = 0;
        Ok(())
    }

    /// Tells the open pack's meta object where the blocks since the last call went. Of a content that went
    /// nowhere, zeros are told by nobody: an attempt that needs to know reads the file again.
    fn tell(&mut self) {
        let untold = std::mem::take(&mut self.untold);
        if let (Some(content), Some(pack)) = (&self.content, &mut self.pack) {
            contents::append(&mut pack.contents, content, &untold);
        }
    }

    fn close(&mut self) -> Result<()> {
        self.tell();
        let Some(mut pack) = self.pack.take() else {
            return Ok(());
        };
        // The stream's end was not known when its last full frame was sealed: an empty frame says it.
        let last = pack.writer.frames_of(&[Raw { bytes: &[], compress: false }], true)?;
        pack.lengths.extend_from_slice(last);
        let (sink, summary) = pack.writer.into_parts();
        sink.finish()?;
        let number = pack.number;
        self.objects.push(ObjectRecord::new(format!("data/{number:06}"), &summary));
        let hash = self.put_hashes(number, &pack.hashes)?;
        self.objects.push(hash);
        let meta = self.put_meta(number, &summary, &pack.lengths, &pack.contents)?;
        self.objects.push(meta);
        Ok(())
    }

    fn put_hashes(&self, number: u32, hashes: &[u8]) -> Result<ObjectRecord> {
        let key = self.plan.place.hash(&self.plan.id, number);
        let mut writer = self.repository.stream(self.ctx, Kind::Hash, &key)?;
        writer.content(hashes, false, true)?;
        let (sink, summary) = writer.into_parts();
        sink.finish()?;
        Ok(ObjectRecord::new(format!("hash/{number:06}"), &summary))
    }

    fn put_meta(
        &self,
        number: u32,
        pack: &SealedSummary,
        lengths: &[u32],
        contents: &[u8],
    ) -> Result<ObjectRecord> {
        let key = self.plan.place.meta(&self.plan.id, number);
        let mut writer = self.repository.stream(self.ctx, Kind::Meta, &key)?;
        write_places(&mut writer, pack, lengths)?;
        let mut frame = Vec::with_capacity(FRAME_SIZE);
        for line in contents.split_inclusive(|&byte| byte == b'\n') {
            if frame.len() + line.len() > FRAME_SIZE {
                writer.frames_of(&[Raw { bytes: &frame, compress: true }], false)?;
                frame.clear();
            }
            frame.extend_from_slice(line);
        }
        writer.frames_of(&[Raw { bytes: &frame, compress: true }], true)?;
        let (sink, summary) = writer.into_parts();
        sink.finish()?;
        Ok(ObjectRecord::new(format!("meta/{number:06}"), &summary))
    }
}

/// Writes what a meta object says of where its pack's frames lie.
pub(super) fn write_places<S: Sink>(
    writer: &mut SealedWriter<S>,
    pack: &SealedSummary,
    lengths: &[u32],
) -> Result<()> {
    let pages =
        u32::try_from(lengths.len().div_ceil(PAGE_FRAMES)).map_err(|_| too_many_blocks())?;
    let mut head = Vec::with_capacity(PACK_SUMMARY_SIZE);
    head.extend(1u32.to_le_bytes());
    head.extend(pages.to_le_bytes());
    head.extend((lengths.len() as u64).to_le_bytes());
    head.extend(pack.raw.to_le_bytes());
    head.extend(pack.stored.to_le_bytes());
    head.extend(pack.header.salt);
    writer.frames_of(&[Raw { bytes: &head, compress: false }], false)?;
    let mut offset = HEADER_SIZE as u64;
    for frames in lengths.chunks(PAGE_FRAMES) {
        let page = encode_page(offset, frames);
        writer.frames_of(&[Raw { bytes: &page, compress: false }], false)?;
        offset += frames.iter().map(|length| u64::from(*length)).sum::<u64>();
    }
    Ok(())
}

fn encode_page(offset: u64, frames: &[u32]) -> Vec<u8> {
    let mut page = Vec::with_capacity(PAGE_SIZE);
    page.extend(offset.to_le_bytes());
    for length in frames {
        let [a, b, c, _] = length.to_le_bytes();
        page.extend([a, b, c]);
    }
    page.resize(PAGE_SIZE, 0);
    page
}

fn block_number(first: u32, more: usize) -> Result<u32> {
    u32::try_from(more).ok().and_then(|more| first.checked_add(more)).ok_or_else(too_many_blocks)
}

fn too_many_blocks() -> Error {
    Error::Limit("a file or pack has more blocks than 32 bits can count".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_join_only_when_block_and_place_go_on() {
        let pack = |block, count, raw| Layer {
            block,
            count,
            source: Source::Pack { base: None, pack: 0, raw },
        };
        let mut layers = Vec::new();
        for layer in [pack(0, 2, 10), pack(2, 1, 12), pack(3, 1, 20), pack(5, 1, 21)] {
            layer.join(&mut layers);
        }
        assert_eq!(layers, [pack(0, 3, 10), pack(3, 1, 20), pack(5, 1, 21)]);
    }
}
