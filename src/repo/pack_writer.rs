//! Packs being filled: content comes in through a window of the raw stream, is hashed, cut into
//! frames, sealed in batches and stored; hashes and the meta object follow when a pack is full.
//!
//! One writer belongs to one worker thread and has one pack open. Content is read straight into
//! the raw stream's buffer: no copy before compression.
//!
//! Order of durability: pack, hashes, meta. A pack without its meta is garbage.

use std::sync::atomic::{AtomicU32, Ordering};

use super::backup_id::BackupId;
use super::error::{Error, Result};
use super::file_table::{Layer, Source, StatIdentity};
use super::frame::{BATCH, Raw};
use super::header::FRAME_SIZE;
use super::layout::{self, Kind, Place};
use super::manifest::ObjectRecord;
use super::repository::Repository;
use super::sealed::SealedWriter;
use super::text::path_text;
use crate::base::{Ctx, Timestamp};
use crate::crypt::BlockHasher;
use crate::storage::ObjectWriter;

/// A pack is closed when it has stored this much.
const STORED_TARGET: u64 = 1 << 30;

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

/// The file whose content a writer takes, as it was before the first read.
#[derive(Debug, Clone)]
pub struct ContentSource {
    /// Relative to the data directory.
    pub path: Vec<u8>,
    /// Its size.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Permission bits.
    pub mode: u32,
    /// Stat identity, where the file system is honest.
    pub identity: Option<StatIdentity>,
}

#[derive(serde::Serialize)]
struct ContentLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<String>,
    #[serde(rename = "P", skip_serializing_if = "Option::is_none")]
    p_hex: Option<String>,
    b: u32,
    n: u32,
    r: u32,
    s: String,
    mt: String,
    m: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    i: Option<&'a StatIdentity>,
}

struct OpenPack {
    number: u32,
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
    /// How many of `layers` were told to the meta object already.
    told: usize,
    zeros: u64,
    objects: Vec<ObjectRecord>,
}

/// A run of zero blocks shorter than this is stored: it compresses to nearly nothing, and a layer
/// costs more.
const ZERO_RUN_MIN: usize = 16;

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
            told: 0,
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
        self.told = 0;
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

    /// Takes the first `length` bytes of [`PackWriter::space`] as the file's blocks from `block` on.
    /// A last block that is not full is filled with zeros in the stream.
    ///
    /// # Errors
    /// As the store's; [`Error::Limit`] when there are more blocks than the format counts.
    pub fn accept(&mut self, block: u32, length: usize) -> Result<()> {
        let size = self.plan.block_size;
        let space = self.window.get_mut(self.filled..).unwrap_or_default();
        let padded = length.div_ceil(size) * size;
        space.get_mut(length..padded).unwrap_or_default().fill(0);
        if self.pack.is_none() {
            self.pack = Some(self.open()?);
        }
        let pack = self.pack.as_mut().expect("it was just opened");
        let space = self.window.get_mut(self.filled..self.filled + padded).unwrap_or_default();
        let mut kept = 0;
        let mut at = 0;
        for run in Runs::new(space, size) {
            let first = block_number(block, at / size)?;
            let count = u32::try_from(run.len / size).map_err(|_| too_many_blocks())?;
            if run.zeros {
                push_layer(&mut self.layers, Layer { block: first, count, source: Source::Zeros });
                self.zeros += run.len.min(length.saturating_sub(at)) as u64;
            } else {
                let raw_byte = pack.writer.raw() + (self.filled + kept) as u64;
                let raw = u32::try_from(raw_byte / size as u64).map_err(|_| too_many_blocks())?;
                let source = Source::Pack { base: None, pack: pack.number, raw };
                push_layer(&mut self.layers, Layer { block: first, count, source });
                let end = (at + run.len).min(length);
                for block in space.get(at..end).unwrap_or_default().chunks(size) {
                    pack.hashes.extend(self.plan.hasher.hash(block).to_le_bytes());
                }
                if kept != at {
                    space.copy_within(at..at + run.len, kept);
                }
                kept += run.len;
            }
            at += run.len;
        }
        self.filled += kept;
        if self.filled == self.window.len() {
            self.flush()?;
        }
        Ok(())
    }

    /// Ends a content and returns the layers that cover the blocks it accepted.
    ///
    /// # Errors
    /// None in practice.
    pub fn end_content(&mut self) -> Result<Vec<Layer>> {
        self.tell();
        self.content = None;
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
        Ok(OpenPack { number, writer, lengths, hashes, contents })
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

    /// Tells the open pack's meta object where the blocks since the last call went.
    fn tell(&mut self) {
        let (Some(content), Some(pack)) = (&self.content, &mut self.pack) else {
            return;
        };
        for layer in self.layers.get(self.told..).unwrap_or_default() {
            let Source::Pack { raw, .. } = layer.source else {
                continue;
            };
            let (p, p_hex) = path_text(&content.path);
            let line = ContentLine {
                p,
                p_hex,
                b: layer.block,
                n: layer.count,
                r: raw,
                s: content.size.to_string(),
                mt: layout::time_text(content.mtime),
                m: format!("{:o}", content.mode),
                i: content.identity.as_ref(),
            };
            pack.contents.extend(serde_json::to_vec(&line).expect("plain text and numbers"));
            pack.contents.push(b'\n');
        }
        self.told = self.layers.len();
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
        let mut head = Vec::with_capacity(PACK_SUMMARY_SIZE);
        let pages = pack.lengths.len().div_ceil(PAGE_FRAMES);
        head.extend(1u32.to_le_bytes());
        head.extend(u32::try_from(pages).map_err(|_| too_many_blocks())?.to_le_bytes());
        head.extend((pack.lengths.len() as u64).to_le_bytes());
        head.extend(summary.raw.to_le_bytes());
        head.extend(summary.stored.to_le_bytes());
        head.extend(summary.header.salt);
        let meta = self.put_meta(number, &head, &pack.lengths, &pack.contents)?;
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
        head: &[u8],
        lengths: &[u32],
        contents: &[u8],
    ) -> Result<ObjectRecord> {
        let key = self.plan.place.meta(&self.plan.id, number);
        let mut writer = self.repository.stream(self.ctx, Kind::Meta, &key)?;
        writer.frames_of(&[Raw { bytes: head, compress: false }], false)?;
        let mut offset = super::header::HEADER_SIZE as u64;
        for frames in lengths.chunks(PAGE_FRAMES) {
            let page = encode_page(offset, frames);
            writer.frames_of(&[Raw { bytes: &page, compress: false }], false)?;
            offset += frames.iter().map(|length| u64::from(*length)).sum::<u64>();
        }
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

/// Appends a layer, joined with the last one where both block and place go on.
fn push_layer(layers: &mut Vec<Layer>, layer: Layer) {
    if let Some(last) = layers.last_mut()
        && u64::from(last.block) + u64::from(last.count) == u64::from(layer.block)
    {
        let joins = match (last.source, layer.source) {
            (Source::Zeros, Source::Zeros) => true,
            (
                Source::Pack { base: None, pack: a, raw },
                Source::Pack { base: None, pack: b, raw: next },
            ) => a == b && u64::from(raw) + u64::from(last.count) == u64::from(next),
            _ => false,
        };
        if joins {
            last.count += layer.count;
            return;
        }
    }
    layers.push(layer);
}

/// Cuts blocks into runs of zeros that are worth a layer, and the rest.
struct Runs {
    runs: std::vec::IntoIter<Run>,
}

struct Run {
    len: usize,
    zeros: bool,
}

impl Runs {
    fn new(bytes: &[u8], block_size: usize) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        let mut zero_blocks = 0;
        let mut data = 0;
        let flush = |runs: &mut Vec<Run>, data: &mut usize, zero_blocks: &mut usize| {
            if *zero_blocks < ZERO_RUN_MIN {
                *data += *zero_blocks * block_size;
            } else {
                if *data > 0 {
                    runs.push(Run { len: *data, zeros: false });
                    *data = 0;
                }
                runs.push(Run { len: *zero_blocks * block_size, zeros: true });
            }
            *zero_blocks = 0;
        };
        for block in bytes.chunks(block_size) {
            if is_zero(block) {
                zero_blocks += 1;
            } else {
                flush(&mut runs, &mut data, &mut zero_blocks);
                data += block_size;
            }
        }
        flush(&mut runs, &mut data, &mut zero_blocks);
        if data > 0 {
            runs.push(Run { len: data, zeros: false });
        }
        Self { runs: runs.into_iter() }
    }
}

impl Iterator for Runs {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        self.runs.next()
    }
}

/// Whether all bytes are zero; the first word decides for nearly every block.
fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<8>();
    words.first().is_none_or(|word| *word == [0; 8])
        && words.iter().fold(0, |or, word| or | u64::from_ne_bytes(*word)) == 0
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(pattern: &str) -> Vec<(usize, bool)> {
        let bytes: Vec<u8> =
            pattern.bytes().flat_map(|b| [if b == b'x' { 1 } else { 0 }; 4]).collect();
        Runs::new(&bytes, 4).map(|run| (run.len / 4, run.zeros)).collect()
    }

    #[test]
    fn only_long_runs_of_zeros_become_layers() {
        let long = ".".repeat(16);
        assert_eq!(runs(""), []);
        assert_eq!(runs("x..x"), [(4, false)]);
        assert_eq!(runs(&long), [(16, true)]);
        assert_eq!(runs(&format!("x{long}.xx...")), [(1, false), (17, true), (5, false)]);
        assert_eq!(runs(&format!("{long}x{long}")), [(16, true), (1, false), (16, true)]);
    }

    #[test]
    fn layers_join_only_when_block_and_place_go_on() {
        let pack = |block, count, raw| Layer {
            block,
            count,
            source: Source::Pack { base: None, pack: 0, raw },
        };
        let mut layers = Vec::new();
        for layer in [pack(0, 2, 10), pack(2, 1, 12), pack(3, 1, 20), pack(5, 1, 21)] {
            push_layer(&mut layers, layer);
        }
        assert_eq!(layers, [pack(0, 3, 10), pack(3, 1, 20), pack(5, 1, 21)]);
    }
}
