//! The hashes of a pack's blocks, read where they are asked for (FORMAT.md, section 6).
//!
//! A frame of them covers 64 MiB of content in blocks of 8 KiB. What a file needs of a pack mostly lies
//! together, so that one request brings all of it; the frames that were read last stay.

use std::sync::{Arc, Mutex};

use super::error::Result;
use super::frame::stored_size;
use super::header::{FRAME_SIZE, HEADER_SIZE};
use super::recent::Recent;
use super::sealed::SealedRandom;

/// Bytes of a hash.
pub(super) const HASH_SIZE: usize = 8;

/// Hashes in a frame.
const FRAME_HASHES: u64 = (FRAME_SIZE / HASH_SIZE) as u64;

/// Frames that are kept, and that one request brings at most: those of half a gigabyte.
const FRAMES_KEPT: usize = 8;

/// Reads hashes of one pack's blocks.
#[derive(Debug)]
pub struct HashReader {
    object: SealedRandom,
    /// Bytes of the raw stream.
    raw: u64,
    /// Locked while a frame is fetched: whoever else needs it finds it then.
    frames: Mutex<Recent<Vec<u64>, FRAMES_KEPT>>,
}

impl HashReader {
    pub(super) fn new(object: SealedRandom, raw: u64) -> Self {
        Self { object, raw, frames: Mutex::default() }
    }

    /// Appends the hashes of the raw blocks from `first` to `end`. Others up to `likely` are likely to be asked
    /// for next, and fetched by the same request.
    ///
    /// # Errors
    /// [`super::Error::Corrupt`] also for blocks that the pack does not have; [`super::Error::Storage`].
    pub fn read(&self, first: u32, end: u32, likely: u32, out: &mut Vec<u64>) -> Result<()> {
        let (mut at, end) = (u64::from(first), u64::from(end));
        while at < end {
            let number = at / FRAME_HASHES;
            let frame = self.frame(number, u64::from(likely).max(end))?;
            let begin = number * FRAME_HASHES;
            let until = end.min(begin + FRAME_HASHES);
            let place = |at: u64| usize::try_from(at - begin).unwrap_or(usize::MAX);
            let hashes = frame.get(place(at)..place(until)).ok_or_else(|| {
                let why = format!("raw block {} has no hash", until - 1);
                self.object.opener().corrupt(number, why)
            })?;
            out.extend_from_slice(hashes);
            at = until;
        }
        Ok(())
    }

    fn frame(&self, number: u64, likely: u64) -> Result<Arc<Vec<u64>>> {
        let mut frames = self.frames.lock().expect("no holder of this lock panics");
        if let Some(frame) = frames.find(number) {
            return Ok(frame);
        }
        let opener = self.object.opener();
        let count = self.raw.div_ceil(FRAME_SIZE as u64);
        if number >= count {
            return Err(opener.corrupt(number, format!("it has {count} frames of hashes")));
        }
        let last = likely.div_ceil(FRAME_HASHES).clamp(number + 1, number + FRAMES_KEPT as u64);
        let last = last.min(count);
        let stored = |frame: u64| {
            let raw = (self.raw - frame * FRAME_SIZE as u64).min(FRAME_SIZE as u64);
            stored_size(opener.suite(), usize::try_from(raw).unwrap_or(FRAME_SIZE))
        };
        let offset = HEADER_SIZE as u64 + number * stored_size(opener.suite(), FRAME_SIZE) as u64;
        let mut bytes = vec![0; (number..last).map(stored).sum()];
        self.object.read(offset, &mut bytes)?;
        let mut rest = bytes.as_mut_slice();
        let mut first = None;
        let mut raw = Vec::with_capacity(FRAME_SIZE);
        for frame in number..last {
            let (sealed, tail) = rest.split_at_mut(stored(frame));
            raw.clear();
            opener.open(frame, sealed, &mut raw)?;
            let hashes =
                raw.as_chunks::<HASH_SIZE>().0.iter().map(|hash| u64::from_le_bytes(*hash));
            let hashes: Arc<Vec<u64>> = Arc::new(hashes.collect());
            first.get_or_insert_with(|| Arc::clone(&hashes));
            frames.keep(frame, hashes);
            rest = tail;
        }
        first.ok_or_else(|| opener.corrupt(number, "no frame was read"))
    }
}
