//! An opened backup: its rows in order, any file by path, any block in two ranged reads, runs of
//! frames for restores.
//!
//! Salts come from the manifest: an object of another attempt, or an older one, fails its MAC.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::backup_id::BackupId;
use super::error::{Error, Result};
use super::file_table::{self, FileTableReader, Layer, Row, RowKind, RowParser, Source};
use super::frame::stored_size;
use super::header::{FRAME_SIZE, HEADER_SIZE};
use super::layout::{Kind, Place};
use super::manifest::{Manifest, ObjectRecord};
use super::pack_writer::{PACK_SUMMARY_SIZE, PAGE_FRAMES, PAGE_SIZE};
use super::repository::Repository;
use super::sealed::SealedRandom;

/// The least path after those that begin with a slash.
const AFTER_EXTERNAL: &[u8] = b"0";

/// No configuration has as many files.
const EXTERNAL_ROWS_MAX: usize = 10_000;

/// Packs whose readers are kept, each with a page of 16 KiB: far more than workers use at a time, and not
/// as many as a large backup has.
const PACKS_KEPT: usize = 64;

/// Pages of each of them, of 16 KiB: as many as workers may read one pack.
const PAGES_KEPT: usize = 8;

/// A backup whose manifest was read and authenticated.
#[derive(Debug)]
pub struct OpenedBackup {
    repository: Repository,
    place: Place,
    manifest: Manifest,
    packs: Mutex<Recent<PackReader, PACKS_KEPT>>,
    /// The row that [`OpenedBackup::block`] used last: neighbours ask for the same file.
    last_row: Mutex<Option<Arc<Row>>>,
    /// Small files that were read whole: a plan asks for the same configuration several times.
    small: Mutex<BTreeMap<Vec<u8>, Arc<Small>>>,
}

/// A small file.
#[derive(Debug)]
struct Small {
    row: Row,
    content: Vec<u8>,
}

/// How long a small file is at most, and how many are kept.
const SMALL_BYTES_MAX: u64 = 256 << 10;
const SMALL_KEPT: usize = 64;

impl Repository {
    /// Opens a backup: reads its manifest.
    ///
    /// # Errors
    /// [`Error::NoBackup`], [`Error::Abandoned`], [`Error::Corrupt`].
    pub fn open_backup(&self, place: &Place, id: &BackupId) -> Result<OpenedBackup> {
        let manifest = self.manifest(place, id)?;
        let (packs, last_row, small) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (repository, place) = (self.clone(), place.clone());
        Ok(OpenedBackup { repository, place, manifest, packs, last_row, small })
    }
}

impl OpenedBackup {
    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn record(&self, name: &str) -> Result<&ObjectRecord> {
        self.manifest.find_object(name).ok_or_else(|| {
            let key = self.place.manifest(&self.manifest.summary.id);
            Error::corrupt(&key, "objects", format!("{name} is not among them"))
        })
    }

    fn random(&self, kind: Kind, name: &str) -> Result<SealedRandom> {
        let id = &self.manifest.summary.id;
        let record = self.record(name)?;
        let wrong = || Error::corrupt(&self.place.manifest(id), "objects", "a record is wrong");
        let key = self.place.of_backup(id, name).ok_or_else(wrong)?;
        self.repository.random(kind, &key, record.key().ok_or_else(wrong)?, record.salt)
    }

    /// Reads every row in order.
    ///
    /// # Errors
    /// [`Error::Corrupt`], also when the table is not the one that the manifest names.
    pub fn rows(&self) -> Result<FileTableReader> {
        let key = self.place.files(&self.manifest.summary.id);
        let reader = self.repository.read(Kind::Files, &key)?;
        if reader.header().salt != self.record("files")?.salt {
            return Err(Error::corrupt(&key, "header", "it is not the table of this manifest"));
        }
        Ok(FileTableReader::new(key, reader))
    }

    /// A small file that was read before.
    fn small(&self, path: &[u8]) -> Option<Arc<Small>> {
        self.small.lock().expect("no holder of this lock panics").get(path).cloned()
    }

    /// The row of a path. One ranged read where the row lies in one frame of the table, and none for a
    /// small file that was read whole.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Storage`].
    pub fn find_row(&self, path: &[u8]) -> Result<Option<Row>> {
        if let Some(known) = self.small(path) {
            return Ok(Some(known.row.clone()));
        }
        let table = self.random(Kind::Files, "files")?;
        let mut parser = RowParser::new(table.opener().object().clone());
        let Some(first) = file_table::search(&self.manifest.index, path) else {
            return Ok(None);
        };
        for entry in self.manifest.index.get(first..).unwrap_or_default() {
            if entry.path.as_slice() > path {
                break;
            }
            let frame = table.frame(entry.frame, entry.offset, entry.length as usize)?;
            parser.frame(&frame)?;
            while let Some(row) = parser.ready.pop_front() {
                if row.path == path {
                    return Ok(Some(row));
                }
            }
        }
        Ok(parser.take_pending().filter(|row| row.path == path))
    }

    /// The files outside the data directory, whose paths begin with a slash: they lie together in the
    /// table.
    ///
    /// # Errors
    /// As [`OpenedBackup::find_row`]; [`Error::Limit`] for more than a configuration ever has.
    pub fn external_rows(&self) -> Result<Vec<Row>> {
        let table = self.random(Kind::Files, "files")?;
        let mut parser = RowParser::new(table.opener().object().clone());
        let first = file_table::search(&self.manifest.index, b"/").unwrap_or_default();
        let mut rows = Vec::new();
        for entry in self.manifest.index.get(first..).unwrap_or_default() {
            if entry.path.as_slice() >= AFTER_EXTERNAL {
                break;
            }
            let frame = table.frame(entry.frame, entry.offset, entry.length as usize)?;
            parser.frame(&frame)?;
            rows.extend(parser.ready.drain(..).filter(|row| row.is_external()));
            if rows.len() > EXTERNAL_ROWS_MAX {
                let what =
                    format!("more than {EXTERNAL_ROWS_MAX} files outside the data directory");
                return Err(Error::Limit(what));
            }
        }
        rows.extend(parser.take_pending().filter(Row::is_external));
        Ok(rows)
    }

    /// The whole content of a small file.
    ///
    /// # Errors
    /// As [`OpenedBackup::read_block`]; [`Error::Limit`] for a file longer than `bytes_max`;
    /// [`Error::Corrupt`] where it does not have its row's checksum.
    pub fn read_whole(&self, row: &Row, bytes_max: u64) -> Result<Vec<u8>> {
        let path = String::from_utf8_lossy(&row.path);
        if row.size > bytes_max {
            return Err(Error::Limit(format!("{path} is longer than {bytes_max} bytes")));
        }
        if let Some(known) = self.small(&row.path).filter(|known| known.row == *row) {
            return Ok(known.content.clone());
        }
        let mut content = Vec::new();
        let block_size = u64::from(self.manifest.summary.server.block_size);
        for block in 0..u32::try_from(row.size.div_ceil(block_size)).unwrap_or(u32::MAX) {
            content.extend(self.read_block(row, block)?);
        }
        if row.crc != Some(crc32c::crc32c(&content)) {
            let key = self.place.files(&self.manifest.summary.id);
            let why = "the content does not have the row's checksum";
            return Err(Error::corrupt(&key, format!("row {path}"), why));
        }
        let mut small = self.small.lock().expect("no holder of this lock panics");
        if row.size <= SMALL_BYTES_MAX && small.len() < SMALL_KEPT {
            let known = Small { row: row.clone(), content: content.clone() };
            small.insert(row.path.clone(), Arc::new(known));
        }
        Ok(content)
    }

    /// Any block of any file, in one call: at most two small ranged reads, and one more where the file
    /// is another than in the call before; `None` when the backup has no such file.
    ///
    /// # Errors
    /// As [`OpenedBackup::read_block`].
    pub fn block(&self, path: &[u8], block: u32) -> Result<Option<Vec<u8>>> {
        let known = self.last_row.lock().expect("no holder of this lock panics").clone();
        let row = match known.filter(|row| row.path == path) {
            Some(row) => row,
            None => match self.find_row(path)? {
                None => return Ok(None),
                Some(row) => {
                    let row = Arc::new(row);
                    let mut last = self.last_row.lock().expect("no holder of this lock panics");
                    *last = Some(Arc::clone(&row));
                    row
                }
            },
        };
        self.read_block(&row, block).map(Some)
    }

    /// One block of a file whose row is known: at most two ranged reads, one of about 6 KB in the
    /// pack's meta object and one frame of the pack. The last block of a file is as long as the file
    /// goes.
    ///
    /// # Errors
    /// [`Error::Limit`] for a block that the file does not have; [`Error::Corrupt`].
    pub fn read_block(&self, row: &Row, block: u32) -> Result<Vec<u8>> {
        let size = u64::from(self.manifest.summary.server.block_size);
        let begin = u64::from(block) * size;
        if row.kind != RowKind::File || begin >= row.size {
            let path = String::from_utf8_lossy(&row.path);
            return Err(Error::Limit(format!("{path} has no block {block}")));
        }
        let length = usize::try_from(size.min(row.size - begin)).unwrap_or_default();
        let layer = self.layer_of(row, block)?;
        match layer.source {
            Source::Zeros => Ok(vec![0; length]),
            Source::Pack { base: None, pack, raw } => {
                let raw = u64::from(raw) + u64::from(block - layer.block);
                self.pack(pack)?.read_raw(raw * size, length)
            }
            Source::Pack { base: Some(_), .. } => Err(self.no_bases(row)),
        }
    }

    fn layer_of(&self, row: &Row, block: u32) -> Result<Layer> {
        let after = row.layers.partition_point(|layer| layer.block <= block);
        let layer = after.checked_sub(1).and_then(|i| row.layers.get(i)).copied();
        layer.filter(|layer| block - layer.block < layer.count).ok_or_else(|| {
            let key = self.place.files(&self.manifest.summary.id);
            let path = String::from_utf8_lossy(&row.path);
            Error::corrupt(&key, format!("row {path}"), format!("nothing covers block {block}"))
        })
    }

    /// An error for rows that refer to other backups, which this version does not write.
    #[must_use]
    pub fn no_bases(&self, row: &Row) -> Error {
        Error::Newer {
            object: self.place.files(&self.manifest.summary.id).to_string(),
            what: "a layer in another backup, of",
            found: String::from_utf8_lossy(&row.path).into_owned(),
        }
    }

    /// A pack of this backup.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the manifest does not name it. Makes no request.
    pub fn pack(&self, number: u32) -> Result<Arc<PackReader>> {
        let mut packs = self.packs.lock().expect("no holder of this lock panics");
        if let Some(pack) = packs.find(number.into()) {
            return Ok(pack);
        }
        let record = self.record(&format!("data/{number:06}"))?;
        let pack = Arc::new(PackReader {
            data: self.random(Kind::Pack, &format!("data/{number:06}"))?,
            meta: self.random(Kind::Meta, &format!("meta/{number:06}"))?,
            frames: record.frames,
            pages: Mutex::default(),
        });
        packs.keep(number.into(), Arc::clone(&pack));
        Ok(pack)
    }
}

/// What was used last, by its number; the last one is the newest.
#[derive(Debug)]
struct Recent<T, const KEPT: usize>(VecDeque<(u64, Arc<T>)>);

impl<T, const KEPT: usize> Default for Recent<T, KEPT> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T, const KEPT: usize> Recent<T, KEPT> {
    fn find(&mut self, number: u64) -> Option<Arc<T>> {
        let at = self.0.iter().position(|(kept, _)| *kept == number)?;
        let found = self.0.remove(at)?;
        let value = Arc::clone(&found.1);
        self.0.push_back(found);
        Some(value)
    }

    /// Keeps one more; the one that was not used for the longest time goes.
    fn keep(&mut self, number: u64, value: Arc<T>) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back((number, value));
    }
}

/// Where the frames of a page lie.
#[derive(Debug)]
struct Page {
    /// Offset of each frame, and of the end of the last.
    offsets: Vec<u64>,
}

/// Reads a pack at any frame.
#[derive(Debug)]
pub struct PackReader {
    data: SealedRandom,
    meta: SealedRandom,
    frames: u64,
    /// The pages that were used last: neighbours ask for the same, and each worker is in another.
    pages: Mutex<Recent<Page, PAGES_KEPT>>,
}

impl PackReader {
    fn page_of(&self, frame: u64) -> Result<Arc<Page>> {
        let opener = self.data.opener();
        if frame >= self.frames {
            return Err(opener.corrupt(frame, format!("the pack has {} frames", self.frames)));
        }
        let number = frame / PAGE_FRAMES as u64;
        let cached = self.pages.lock().expect("no holder of this lock panics").find(number);
        if let Some(page) = cached {
            return Ok(page);
        }
        let suite = self.meta.opener().suite();
        let stored = stored_size(suite, PAGE_SIZE);
        let offset =
            (HEADER_SIZE + stored_size(suite, PACK_SUMMARY_SIZE)) as u64 + number * stored as u64;
        let raw = self.meta.frame(number + 1, offset, stored)?;
        let wrong = || self.meta.opener().corrupt(number + 1, "it is not a page of lengths");
        let (first, lengths) = raw.split_first_chunk::<8>().ok_or_else(wrong)?;
        let mut end = u64::from_le_bytes(*first);
        let mut offsets = vec![end];
        let (lengths, _) = lengths.as_chunks::<3>();
        for &[a, b, c] in lengths {
            end = end.checked_add(u64::from(u32::from_le_bytes([a, b, c, 0]))).ok_or_else(wrong)?;
            offsets.push(end);
        }
        let page = Arc::new(Page { offsets });
        // Read without the lock: workers on other pages must not wait for this request.
        let mut pages = self.pages.lock().expect("no holder of this lock panics");
        if pages.find(number).is_none() {
            pages.keep(number, Arc::clone(&page));
        }
        Ok(page)
    }

    /// Where frames `range` of one page lie in the pack: offsets of each and of the end.
    fn offsets(&self, range: &Range<u64>) -> Result<Vec<u64>> {
        let page = self.page_of(range.start)?;
        let first = usize::try_from(range.start % PAGE_FRAMES as u64).unwrap_or_default();
        let count = usize::try_from(range.end - range.start).unwrap_or_default();
        let offsets = page.offsets.get(first..=first + count).unwrap_or_default();
        Ok(offsets.to_vec())
    }

    /// Bytes of the raw stream that lie in one frame.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn read_raw(&self, begin: u64, length: usize) -> Result<Vec<u8>> {
        let frame = begin / FRAME_SIZE as u64;
        let mut raw = Vec::new();
        self.read_frames(frame..frame + 1, &mut Vec::new(), &mut raw)?;
        let at = usize::try_from(begin % FRAME_SIZE as u64).unwrap_or_default();
        let bytes = raw.get(at..at + length);
        bytes.map(<[u8]>::to_vec).ok_or_else(|| {
            self.data.opener().corrupt(frame, "it is shorter than the row that points into it")
        })
    }

    /// Appends the content of a run of frames to `raw`; one ranged read for each page that the run
    /// touches. `stored` is scratch space.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Storage`].
    pub fn read_frames(
        &self,
        range: Range<u64>,
        stored: &mut Vec<u8>,
        raw: &mut Vec<u8>,
    ) -> Result<()> {
        let mut next = range.start;
        while next < range.end {
            let offsets = self.read_stored(next..range.end, stored)?;
            let mut rest = stored.as_mut_slice();
            for length in lengths(&offsets) {
                let (frame, tail) = rest.split_at_mut(length);
                self.data.opener().open(next, frame, raw)?;
                next += 1;
                rest = tail;
            }
        }
        Ok(())
    }

    /// Brings the first of these frames into `buffers`, by one ranged read, as they are stored: as many as
    /// one page lists. Says which one comes next.
    ///
    /// # Errors
    /// As [`PackReader::read_frames`].
    pub fn fetch_frames(&self, range: Range<u64>, buffers: &mut FrameBuffers) -> Result<u64> {
        let first = range.start;
        let offsets = self.read_stored(range, &mut buffers.stored)?;
        buffers.lengths = lengths(&offsets).collect();
        buffers.first = first;
        Ok(first + buffers.lengths.len() as u64)
    }

    /// Opens the frames that were fetched, and hands on the content of a few at a time, with the number of
    /// the first one, while it is in the processor's cache.
    ///
    /// # Errors
    /// As [`PackReader::read_frames`], and what `take` says.
    pub fn visit_fetched<E, T>(
        &self,
        buffers: &mut FrameBuffers,
        mut take: T,
    ) -> std::result::Result<(), E>
    where
        E: From<Error>,
        T: FnMut(u64, &[u8]) -> std::result::Result<(), E>,
    {
        let FrameBuffers { stored, raw, lengths, first } = buffers;
        raw.resize(FRAMES_TOGETHER * FRAME_SIZE, 0);
        let mut next = *first;
        let mut rest = stored.as_mut_slice();
        for group in lengths.chunks(FRAMES_TOGETHER) {
            let (first, mut filled) = (next, 0);
            for &length in group {
                let (frame, tail) = rest.split_at_mut(length);
                let space = raw.get_mut(filled..).unwrap_or_default();
                filled += self.data.opener().open_into(next, frame, space)?.0;
                next += 1;
                rest = tail;
            }
            take(first, raw.get(..filled).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Reads the frames of `range` that one page lists into the beginning of `stored`; offsets of each
    /// and of the end.
    fn read_stored(&self, range: Range<u64>, stored: &mut Vec<u8>) -> Result<Vec<u64>> {
        let opener = self.data.opener();
        let page_end = (range.start / PAGE_FRAMES as u64 + 1) * PAGE_FRAMES as u64;
        let part = range.start..range.end.min(page_end);
        let offsets = self.offsets(&part)?;
        let (Some(&begin), Some(&end)) = (offsets.first(), offsets.last()) else {
            return Err(opener.corrupt(part.start, "its page does not list it"));
        };
        let size = usize::try_from(end - begin).unwrap_or(usize::MAX);
        let count = offsets.len() - 1;
        if count as u64 != part.end - part.start || size > count * opener.stored_size_max() {
            return Err(opener.corrupt(part.start, "its page lists impossible lengths"));
        }
        if stored.len() < size {
            stored.resize(size, 0);
        }
        self.data.read(begin, stored.get_mut(..size).unwrap_or_default())?;
        Ok(offsets)
    }
}

/// Frames that are opened before their content is handed on: 256 KiB, which the next steps find in the
/// processor's second cache.
const FRAMES_TOGETHER: usize = 4;

/// Space that a reader of many frames keeps.
#[derive(Debug, Default)]
pub struct FrameBuffers {
    stored: Vec<u8>,
    raw: Vec<u8>,
    /// Of the frames in `stored`, and the number of the first.
    lengths: Vec<usize>,
    first: u64,
}

fn lengths(offsets: &[u64]) -> impl Iterator<Item = usize> {
    offsets.windows(2).map(|pair| match pair {
        [a, b] => usize::try_from(b - a).unwrap_or_default(),
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pack's reader stayed, with a page: a restore of a large backup needed memory by its size.
    #[test]
    fn d20261124_few_packs_are_kept_those_that_were_used_last() {
        let mut recent = Recent::<_, PACKS_KEPT>::default();
        for number in 0..10_000 {
            assert!(recent.find(number).is_none());
            recent.keep(number, Arc::new(number));
            assert_eq!(recent.find(number).as_deref(), Some(&number));
            assert!(recent.find(0).is_some(), "it is used all the time");
        }
        assert_eq!(recent.0.len(), PACKS_KEPT);
        assert!(recent.find(9_999).is_some() && recent.find(9_900).is_none());
    }
}
