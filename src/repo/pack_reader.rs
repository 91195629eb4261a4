//! A pack at any frame: where its frames lie by its meta object, then ranged reads of the pack itself.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::error::{Error, Result};
use super::frame::stored_size;
use super::header::{FRAME_SIZE, HEADER_SIZE};
use super::pack_writer::{PACK_SUMMARY_SIZE, PAGE_FRAMES, PAGE_SIZE};
use super::recent::Recent;
use super::sealed::SealedRandom;

/// Pages of each of them, of 16 KiB: as many as workers may read one pack.
const PAGES_KEPT: usize = 8;

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
    /// A reader of a pack of so many frames and of its meta object.
    pub(super) fn new(data: SealedRandom, meta: SealedRandom, frames: u64) -> Self {
        Self { data, meta, frames, pages: Mutex::default() }
    }

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

    /// Opens the frames that were fetched and lie in one of these ranges, which are in order, and hands on the
    /// content of a few at a time, with the number of the first one, while it is in the processor's cache.
    ///
    /// # Errors
    /// As [`PackReader::read_frames`], and what `take` says.
    pub fn visit_fetched<E, T>(
        &self,
        buffers: &mut FrameBuffers,
        needed: &[Range<u64>],
        mut take: T,
    ) -> std::result::Result<(), E>
    where
        E: From<Error>,
        T: FnMut(u64, &[u8]) -> std::result::Result<(), E>,
    {
        let FrameBuffers { stored, raw, lengths, first } = buffers;
        raw.resize(FRAMES_TOGETHER * FRAME_SIZE, 0);
        let is_needed = |number: u64| {
            let after = needed.partition_point(|range| range.end <= number);
            needed.get(after).is_some_and(|range| range.contains(&number))
        };
        let mut rest = stored.as_mut_slice();
        // The first of those that are opened and not handed on, how many, and their bytes.
        let (mut begin, mut count, mut filled) = (*first, 0, 0);
        for (number, &length) in (*first..).zip(lengths.iter()) {
            let (frame, tail) = rest.split_at_mut(length);
            rest = tail;
            let is_needed = is_needed(number);
            if count > 0 && (!is_needed || count == FRAMES_TOGETHER) {
                take(begin, raw.get(..filled).unwrap_or_default())?;
                (count, filled) = (0, 0);
            }
            if is_needed {
                begin = if count == 0 { number } else { begin };
                let space = raw.get_mut(filled..).unwrap_or_default();
                filled += self.data.opener().open_into(number, frame, space)?.0;
                count += 1;
            }
        }
        match count {
            0 => Ok(()),
            _ => take(begin, raw.get(..filled).unwrap_or_default()),
        }
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
