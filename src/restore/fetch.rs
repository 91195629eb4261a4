//! Packs into files: batches of files, each batch's blocks read in the packs' order, so that every
//! frame is opened once and neighbours share a request.
//!
//! A file is complete when all its pieces are written; then their checksums, put in order, must give
//! the one in its row, whatever worker wrote which piece.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::{Error, Result};
use super::tally::Tally;
use crate::base::{Ctx, Event};
use crate::codec::crc32c_join;
use crate::crypt::BlockHasher;
use crate::repo::header::FRAME_SIZE;
use crate::repo::{FrameBuffers, Layer, OpenedBackup, PackReader, Row, Source};

/// Frames that one read brings in: 4 MiB of content.
const RUN_FRAMES: u64 = 64;

/// Frames that are read along although nobody needs them: a megabyte of content, of which a request costs more.
const GAP_FRAMES: u64 = 16;

/// Content of one batch.
const BATCH_BYTES: u64 = 64 << 20;

/// Files of one batch at most: all may be open at once.
const BATCH_FILES_MAX: usize = 128;

/// Open files that the rest of the program may need.
const FILES_SPARED: u64 = 128;

/// A file that is open for writing.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) file: File,
    /// It was there: what of it is right already is found out first.
    pub(super) is_there: bool,
    /// It is another than it was, whatever its blocks turn out to be.
    pub(super) is_changed: bool,
}

/// A file being written.
#[derive(Debug)]
pub(super) struct Target {
    path: Vec<u8>,
    size: u64,
    crc: u32,
    pub(super) file: File,
    pub(super) is_there: bool,
    is_changed: AtomicBool,
    /// It was said that some of it cannot be read.
    is_unread: AtomicBool,
    progress: Mutex<Progress>,
    tally: Arc<Tally>,
}

/// What is known of a file's pieces.
#[derive(Debug)]
struct Progress {
    done: Vec<Done>,
    /// How many there are.
    pieces: usize,
}

/// A piece that has the backup's content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) crc: u32,
}

/// Blocks of a file that lie together.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) target: Arc<Target>,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) source: PieceSource,
}

impl Piece {
    /// A part of it, from `skipped` bytes on.
    pub(super) fn part(&self, skipped: u64, length: u64) -> Self {
        let source = match self.source {
            PieceSource::Zeros => PieceSource::Zeros,
            PieceSource::Pack(base, pack, raw) => PieceSource::Pack(base, pack, raw + skipped),
        };
        Self { target: Arc::clone(&self.target), offset: self.offset + skipped, length, source }
    }
}

/// Where a piece comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PieceSource {
    Zeros,
    /// In which base, in which of its packs, and at which raw byte.
    Pack(Option<u32>, u32, u64),
}

/// What all workers share.
pub(super) struct Bench<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) opened: &'a OpenedBackup,
    pub(super) turns: &'a Turns,
    /// Knows blocks again; nothing where the backup's hashes are of a kind that is not known.
    pub(super) hasher: Option<&'a BlockHasher>,
    pub(super) block_size: u64,
    /// Packs whose hashes cannot be read: their blocks are written, whatever is there.
    pub(super) unknown: Mutex<BTreeSet<(Option<u32>, u32)>>,
}

/// Work for one worker.
pub(super) type Batch = Vec<Piece>;

/// Workers for each job: while one writes, the others wait for what the store sends.
const WORKERS_EACH: usize = 4;

/// How many workers fill their requests side by side so that `jobs` of them always have work.
pub(super) fn workers(jobs: usize) -> usize {
    jobs.max(1).saturating_mul(WORKERS_EACH)
}

/// Turns at the processor: workers that have what they need take one, as many as there are jobs.
#[derive(Debug)]
pub(super) struct Turns {
    left: Mutex<usize>,
    given_back: Condvar,
}

/// A turn, given back when dropped.
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    pub(super) fn new(jobs: usize) -> Self {
        Self { left: Mutex::new(jobs.max(1)), given_back: Condvar::new() }
    }

    pub(super) fn take(&self) -> Turn<'_> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.given_back.wait_while(left, |left| *left == 0);
        *waited.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.left.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.given_back.notify_one();
    }
}

/// Cuts files into pieces and pieces into batches.
pub(super) struct Batcher {
    block_size: u64,
    batch: Batch,
    bytes: u64,
    files: usize,
    files_max: usize,
    tally: Arc<Tally>,
}

/// Raises the limit of open files as far as it goes, and says what it is.
fn open_files_max() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let (Some(soft), hard) = (limit.current, limit.maximum) else { return u64::MAX };
    let raised = Rlimit { current: hard, maximum: hard };
    if setrlimit(Resource::Nofile, raised).is_ok() { hard.unwrap_or(u64::MAX) } else { soft }
}

impl Batcher {
    /// Of `in_flight` batches all files may be open at once.
    pub(super) fn new(block_size: u32, in_flight: usize, tally: Arc<Tally>) -> Self {
        let each = open_files_max().saturating_sub(FILES_SPARED) / in_flight.max(1) as u64;
        let files_max = usize::try_from(each).unwrap_or(usize::MAX).clamp(1, BATCH_FILES_MAX);
        let (batch, block_size) = (Vec::new(), block_size.into());
        Self { block_size, batch, bytes: 0, files: 0, files_max, tally }
    }

    /// Adds a file whose target is open; hands full batches to `send`.
    pub(super) fn add(
        &mut self,
        row: &Row,
        open: Open,
        send: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        let wrong = |why: &str| Error::Content { path: row.path.clone(), why: why.into() };
        let block_size = u32::try_from(self.block_size).unwrap_or(u32::MAX);
        if !row.is_covered(block_size) {
            return Err(wrong("its layers do not cover each block once"));
        }
        let crc = row.crc.ok_or_else(|| wrong("it has no checksum"))?;
        let cuts = self.cut(row);
        let target = Arc::new(Target {
            path: row.path.clone(),
            size: row.size,
            crc,
            file: open.file,
            is_there: open.is_there,
            is_changed: AtomicBool::new(open.is_changed),
            is_unread: AtomicBool::new(false),
            progress: Mutex::new(Progress { done: Vec::new(), pieces: cuts.len() }),
            tally: Arc::clone(&self.tally),
        });
        if cuts.is_empty() {
            return target.complete();
        }
        for (offset, length, source) in cuts {
            let target = Arc::clone(&target);
            self.batch.push(Piece { target, offset, length, source });
            self.bytes += length;
            if self.bytes >= BATCH_BYTES {
                self.flush(send)?;
            }
        }
        self.files += 1;
        if self.files >= self.files_max { self.flush(send) } else { Ok(()) }
    }

    /// Pieces of at most a run, none across the end of a run in its pack.
    fn cut(&self, row: &Row) -> Vec<(u64, u64, PieceSource)> {
        let run = RUN_FRAMES * FRAME_SIZE as u64;
        let mut cuts = Vec::new();
        for &Layer { block, count, source } in &row.layers {
            let mut offset = u64::from(block) * self.block_size;
            let end = (offset + u64::from(count) * self.block_size).min(row.size);
            let Source::Pack { base, pack, raw } = source else {
                while offset < end {
                    let length = (end - offset).min(BATCH_BYTES);
                    cuts.push((offset, length, PieceSource::Zeros));
                    offset += length;
                }
                continue;
            };
            let mut raw = u64::from(raw) * self.block_size;
            while offset < end {
                let length = (end - offset).min(run - raw % run);
                cuts.push((offset, length, PieceSource::Pack(base, pack, raw)));
                offset += length;
                raw += length;
            }
        }
        cuts
    }

    /// Sends what is left.
    pub(super) fn flush(&mut self, send: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
        self.bytes = 0;
        self.files = 0;
        if self.batch.is_empty() { Ok(()) } else { send(std::mem::take(&mut self.batch)) }
    }
}

impl Target {
    pub(super) fn failed(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = PathBuf::from(String::from_utf8_lossy(&self.path).into_owned());
        Error::file(action, path)
    }

    /// Says once that something of what is there cannot be read.
    pub(super) fn warn_unread(&self, ctx: &Ctx, error: std::io::Error) {
        if !self.is_unread.swap(true, Ordering::Relaxed) {
            let error = self.failed("read")(error);
            ctx.warn(format!("{error}: what cannot be read there is written anew"));
        }
    }

    /// Says that one piece has become this many.
    pub(super) fn split(&self, parts: usize) {
        let mut progress = self.progress.lock().expect("no holder of this lock panics");
        progress.pieces += parts.saturating_sub(1);
    }

    /// Notes a piece that was right already.
    pub(super) fn kept(&self, ctx: &Ctx, done: Done) -> Result<()> {
        self.note(ctx, done, true)
    }

    /// Notes a piece that was written.
    fn wrote(&self, ctx: &Ctx, done: Done) -> Result<()> {
        self.is_changed.store(true, Ordering::Relaxed);
        self.note(ctx, done, false)
    }

    /// The last piece checks the whole.
    fn note(&self, ctx: &Ctx, done: Done, was_there: bool) -> Result<()> {
        self.tally.add_bytes(was_there, done.length);
        let is_complete = {
            let mut progress = self.progress.lock().expect("no holder of this lock panics");
            progress.done.push(done);
            progress.done.len() == progress.pieces
        };
        let files = u64::from(is_complete);
        ctx.observer.event(Event::Advance { bytes: done.length, files });
        if is_complete { self.complete() } else { Ok(()) }
    }

    fn complete(&self) -> Result<()> {
        self.check()?;
        self.tally.add_file(!self.is_changed.load(Ordering::Relaxed));
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let mut progress = self.progress.lock().expect("no holder of this lock panics");
        progress.done.sort_by_key(|piece| piece.offset);
        let (mut end, mut crc) = (0, 0);
        for piece in &progress.done {
            let wrong = piece.offset != end;
            if wrong {
                return Err(self.wrong("its pieces do not join"));
            }
            crc = if end == 0 { piece.crc } else { crc32c_join(crc, piece.crc, piece.length) };
            end += piece.length;
        }
        if end != self.size {
            return Err(self.wrong("its pieces do not reach its end"));
        }
        if crc != self.crc {
            return Err(self.wrong("its content does not have the checksum of its row"));
        }
        Ok(())
    }

    fn wrong(&self, why: &str) -> Error {
        Error::Content { path: self.path.clone(), why: why.into() }
    }
}

/// Writes a batch: pieces in the packs' order, one read for each run of frames that they need.
pub(super) fn write_batch(
    &Bench { ctx, opened, turns, .. }: &Bench<'_>,
    mut batch: Batch,
    scratch: &mut Scratch,
) -> Result<()> {
    batch.sort_by_key(|piece| (piece.source, piece.offset));
    let run_bytes = RUN_FRAMES * FRAME_SIZE as u64;
    let mut rest = batch.as_slice();
    while let Some(first) = rest.first() {
        ctx.cancel.check()?;
        let PieceSource::Pack(base, pack, begin) = first.source else {
            zeros(ctx, first)?;
            rest = rest.split_first().map_or(&[], |(_, rest)| rest);
            continue;
        };
        // Pieces never cross the end of a run, so those of one run are read together.
        let run = begin / run_bytes;
        let together = |piece: &&Piece| {
            matches!(piece.source, PieceSource::Pack(other, p, raw)
                if (other, p) == (base, pack) && raw / run_bytes == run)
        };
        let count = rest.iter().take_while(together).count();
        let (now, later) = rest.split_at(count);
        read_run((ctx, turns), &*opened.pack(base, pack)?, now, scratch)?;
        rest = later;
    }
    Ok(())
}

/// Buffers that a worker keeps.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    frames: FrameBuffers,
    /// What is compared.
    pub(super) there: Vec<u8>,
}

/// Writes the pieces of one run, which are in the pack's order, as their frames are opened. A write is
/// short: one inode takes one writer at a time, and several workers write a large file.
fn read_run(
    (ctx, turns): (&Ctx, &Turns),
    pack: &PackReader,
    pieces: &[Piece],
    scratch: &mut Scratch,
) -> Result<()> {
    let frame = FRAME_SIZE as u64;
    let mut pieces: Vec<Running<'_>> = pieces.iter().filter_map(Running::new).collect();
    let needed = needed(&pieces);
    // Pieces before this one are complete.
    let mut complete = 0;
    let mut take = |number: u64, raw: &[u8]| {
        let begin = number * frame;
        let end = begin + raw.len() as u64;
        for piece in pieces.get_mut(complete..).unwrap_or_default() {
            if piece.begin >= end {
                break;
            }
            piece.write(ctx, begin, end, raw)?;
        }
        let open = pieces.get(complete..).unwrap_or_default();
        complete += open.iter().take_while(|piece| piece.at == piece.end).count();
        Ok::<(), Error>(())
    };
    for request in requests(&needed) {
        let mut next = request.start;
        while next < request.end {
            next = pack.fetch_frames(next..request.end, &mut scratch.frames)?;
            let _turn = turns.take();
            pack.visit_fetched(&mut scratch.frames, &needed, &mut take)?;
        }
    }
    match pieces.iter().find(|piece| piece.at < piece.end) {
        None => Ok(()),
        Some(piece) => Err(piece.piece.target.wrong("it reaches past the end of its pack")),
    }
}

/// The frames that hold these pieces, as ranges that do not touch.
fn needed(pieces: &[Running<'_>]) -> Vec<Range<u64>> {
    let frame = FRAME_SIZE as u64;
    let mut needed: Vec<Range<u64>> = Vec::new();
    for piece in pieces {
        let frames = piece.begin / frame..piece.end.div_ceil(frame);
        match needed.last_mut() {
            Some(last) if frames.start <= last.end => last.end = last.end.max(frames.end),
            _ => needed.push(frames),
        }
    }
    needed
}

/// What is asked for at once: a small gap costs less than another request.
fn requests(needed: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut requests: Vec<Range<u64>> = Vec::new();
    for frames in needed {
        match requests.last_mut() {
            Some(last) if frames.start - last.end <= GAP_FRAMES => last.end = frames.end,
            _ => requests.push(frames.clone()),
        }
    }
    requests
}

/// A piece that is being written.
struct Running<'a> {
    piece: &'a Piece,
    /// Where it lies in the pack's raw stream, and up to where it is written.
    begin: u64,
    end: u64,
    at: u64,
    crc: u32,
}

impl<'a> Running<'a> {
    fn new(piece: &'a Piece) -> Option<Self> {
        let PieceSource::Pack(_, _, begin) = piece.source else { return None };
        Some(Self { piece, begin, end: begin + piece.length, at: begin, crc: 0 })
    }

    /// Writes what bytes `begin` to `end` of the raw stream hold of it.
    fn write(&mut self, ctx: &Ctx, begin: u64, end: u64, raw: &[u8]) -> Result<()> {
        let target = &self.piece.target;
        let upto = end.min(self.end);
        if self.at < begin || self.at >= upto {
            return Ok(());
        }
        let place = |at: u64| usize::try_from(at - begin).unwrap_or(usize::MAX);
        let content = raw.get(place(self.at)..place(upto)).unwrap_or_default();
        self.crc = crc32c::crc32c_append(self.crc, content);
        let offset = self.piece.offset + (self.at - self.begin);
        target.file.write_all_at(content, offset).map_err(target.failed("write"))?;
        self.at = upto;
        if self.at < self.end {
            return Ok(());
        }
        let (offset, length) = (self.piece.offset, self.piece.length);
        target.wrote(ctx, Done { offset, length, crc: self.crc })
    }
}

/// Reserves zeros without writing them where the file system can; a hole could meet a full disk later. What was
/// there before is written over.
fn zeros(ctx: &Ctx, piece: &Piece) -> Result<()> {
    const CHUNK: usize = 1 << 20;
    let target = &piece.target;
    let flags = FallocateFlags::empty();
    let reserved = match target.is_there {
        true => Err(Errno::OPNOTSUPP),
        false => rustix::fs::fallocate(&target.file, flags, piece.offset, piece.length),
    };
    match reserved {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let chunk = vec![0; CHUNK];
            let mut done = 0;
            while done < piece.length {
                let now = usize::try_from(piece.length - done).unwrap_or(CHUNK).min(CHUNK);
                let content = chunk.get(..now).unwrap_or_default();
                let at = piece.offset + done;
                target.file.write_all_at(content, at).map_err(target.failed("write"))?;
                done += now as u64;
            }
        }
        Err(error) => return Err(target.failed("reserve space in")(error.into())),
    }
    let chunk = vec![0; CHUNK];
    let (mut crc, mut left) = (0, piece.length);
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        crc = crc32c::crc32c_append(crc, chunk.get(..now).unwrap_or_default());
        left -= now as u64;
    }
    target.wrote(ctx, Done { offset: piece.offset, length: piece.length, crc })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;

    type Pieces<'a> = &'a [(u64, &'a [u8])];

    /// A file whose row says "abcdef", and what becomes of it when these pieces are written.
    fn written(crc: u32, pieces: Pieces<'_>) -> Result<()> {
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let target = Target {
            path: b"base/1/2".to_vec(),
            size: 6,
            crc,
            file: tempfile::tempfile().unwrap(),
            is_there: false,
            is_changed: AtomicBool::new(true),
            is_unread: AtomicBool::new(false),
            progress: Mutex::new(Progress { done: Vec::new(), pieces: pieces.len() }),
            tally: Arc::default(),
        };
        pieces.iter().try_for_each(|(offset, content)| {
            let (length, crc) = (content.len() as u64, crc32c::crc32c(content));
            target.wrote(&ctx, Done { offset: *offset, length, crc })
        })
    }

    #[test]
    fn neighbours_share_a_request_and_what_lies_between_is_not_opened() {
        let ranges = [0..2, 3..4, 20..30, 47..48];
        assert_eq!(requests(&ranges), [0..30, 47..48]);
        assert_eq!(requests(&[]), []);
    }

    #[test]
    fn f072_pieces_join_in_any_order_and_give_the_checksum_of_the_row() {
        let crc = crc32c::crc32c(b"abcdef");
        written(crc, &[(0, b"abcdef")]).unwrap();
        written(crc, &[(4, b"ef"), (0, b"ab"), (2, b"cd")]).unwrap();
        let wrong: [(u32, Pieces<'_>, &str); 6] = [
            (crc ^ 1, &[(0, b"abcdef")], "checksum of its row"),
            (crc, &[(0, b"abcdeF")], "checksum of its row"),
            (crc, &[(0, b"cd"), (2, b"ab"), (4, b"ef")], "checksum of its row"),
            (crc, &[(0, b"ab"), (4, b"ef")], "do not join"),
            (crc, &[(0, b"abc"), (2, b"cdef")], "do not join"),
            (crc, &[(0, b"ab"), (2, b"cd")], "do not reach its end"),
        ];
        for (crc, pieces, why) in wrong {
            let error = written(crc, pieces).unwrap_err();
            assert!(matches!(&error, Error::Content { path, .. } if path == b"base/1/2"));
            assert!(error.to_string().contains(why), "{error} {pieces:?}");
        }
    }
}
