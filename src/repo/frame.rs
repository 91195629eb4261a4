//! Frames: compress, encrypt, authenticate, and the way back (FORMAT.md, section 4).
//!
//! Sealing works on batches, so that the CBC chains of a batch run side by side while their bytes
//! are still in the cache. Opening believes nothing before the MAC was checked.

use std::sync::Arc;

use super::error::{Error, Result};
use super::header::{Header, Suite};
use crate::base::Entropy;
use crate::codec::{Compressor, compressed_size_max, decompress_exact};
use crate::crypt::cbc::{Chain, pad, padded_size};
use crate::crypt::{IV_SIZE, MAC_SIZE, ObjectCipher};
use crate::storage::ObjectKey;

/// Bytes of a frame before its ciphertext: lengths, flags, IV.
pub const FRAME_HEAD: usize = 8 + IV_SIZE;

/// Bytes of a frame besides its ciphertext.
pub const FRAME_OVERHEAD: usize = FRAME_HEAD + MAC_SIZE;

/// How many frames are sealed together at most: 1 MiB of raw data stays in the processor's cache.
pub const BATCH: usize = 16;

const STORED_RAW: u8 = 1;
const LAST: u8 = 2;

/// The stored size of a frame whose payload has `payload` bytes.
#[must_use]
pub const fn stored_size(suite: Suite, payload: usize) -> usize {
    FRAME_OVERHEAD
        + match suite {
            Suite::AesCbc => padded_size(payload),
            Suite::Clear => payload,
        }
}

/// Content for one frame.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    /// At most a frame size of bytes.
    pub bytes: &'a [u8],
    /// Whether to try LZ4; content that is known not to compress, or whose place must be
    /// computable, is stored as it is.
    pub compress: bool,
}

/// What a frame holds as it was compressed: taken out of one object, it goes into another as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    bytes: &'a [u8],
    raw_size: usize,
    is_raw: bool,
}

impl Payload<'_> {
    /// Bytes of the content.
    #[must_use]
    pub fn raw_size(&self) -> usize {
        self.raw_size
    }

    /// The stored size of a frame of it.
    #[must_use]
    pub fn stored_size(&self, suite: Suite) -> usize {
        stored_size(suite, self.bytes.len())
    }

    /// The content itself, where it is stored as it is.
    #[must_use]
    pub fn as_raw(&self) -> Option<&[u8]> {
        self.is_raw.then_some(self.bytes)
    }
}

/// What becomes a frame.
trait Body: Copy {
    /// Room that its payload may need.
    fn size_max(&self) -> usize;
    /// Bytes of the content.
    fn raw_size(&self) -> usize;
    /// Writes the payload into the beginning of `out`: its size, and whether it is the content itself.
    fn write(&self, compressor: &mut Compressor, out: &mut [u8]) -> (usize, bool);
}

impl Body for Raw<'_> {
    fn size_max(&self) -> usize {
        compressed_size_max(self.bytes.len())
    }

    fn raw_size(&self) -> usize {
        self.bytes.len()
    }

    fn write(&self, compressor: &mut Compressor, out: &mut [u8]) -> (usize, bool) {
        let compressed = if self.compress { compressor.compress(self.bytes, out) } else { None };
        let payload = compressed.unwrap_or(self.bytes.len());
        if compressed.is_none() {
            out.split_at_mut(payload).0.copy_from_slice(self.bytes);
        }
        (payload, compressed.is_none())
    }
}

impl Body for Payload<'_> {
    fn size_max(&self) -> usize {
        self.bytes.len()
    }

    fn raw_size(&self) -> usize {
        self.raw_size
    }

    fn write(&self, _: &mut Compressor, out: &mut [u8]) -> (usize, bool) {
        out.split_at_mut(self.bytes.len()).0.copy_from_slice(self.bytes);
        (self.bytes.len(), self.is_raw)
    }
}

/// Seals the frames of one object, in order.
pub struct FrameSealer {
    cipher: ObjectCipher,
    entropy: Arc<dyn Entropy>,
    suite: Suite,
    frame_size: usize,
    next: u64,
    /// The IV of frame 0, while that is still to be sealed.
    left_first: Option<[u8; IV_SIZE]>,
    compressor: Compressor,
    buffer: Vec<u8>,
}

struct Placed {
    start: usize,
    cipher_size: usize,
}

impl FrameSealer {
    pub(super) fn new(header: &Header, cipher: ObjectCipher, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            cipher,
            entropy,
            suite: header.suite,
            frame_size: header.frame_size(),
            next: 0,
            left_first: None,
            compressor: Compressor::default(),
            buffer: Vec::new(),
        }
    }

    /// The number of the next frame: how many were sealed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.next
    }

    /// Seals `raws` as the next frames and returns their bytes, ready to be stored; the stored
    /// length of each is appended to `lengths`. With `last`, the last of them ends the object.
    ///
    /// # Panics
    /// When a content is longer than a frame: every caller cuts at the frame size.
    pub fn seal(&mut self, raws: &[Raw<'_>], last: bool, lengths: &mut Vec<u32>) -> &[u8] {
        let ivs = self.ivs(raws.len());
        self.seal_under(raws, &ivs, last, lengths)
    }

    /// As [`FrameSealer::seal`], of payloads that were compressed before.
    ///
    /// # Panics
    /// When a content is longer than a frame.
    pub fn seal_payloads(
        &mut self,
        payloads: &[Payload<'_>],
        last: bool,
        lengths: &mut Vec<u32>,
    ) -> &[u8] {
        let ivs = self.ivs(payloads.len());
        self.seal_under(payloads, &ivs, last, lengths)
    }

    fn ivs(&self, count: usize) -> Vec<u8> {
        let mut ivs = vec![0u8; count * IV_SIZE];
        if self.suite == Suite::AesCbc {
            self.entropy.fill(&mut ivs);
        }
        ivs
    }

    fn seal_under<B: Body>(
        &mut self,
        raws: &[B],
        ivs: &[u8],
        last: bool,
        lengths: &mut Vec<u32>,
    ) -> &[u8] {
        let need: usize = raws.iter().map(|raw| FRAME_OVERHEAD + 16 + raw.size_max()).sum();
        if self.buffer.len() < need {
            self.buffer.resize(need, 0);
        }
        let mut placed = Vec::with_capacity(raws.len());
        let mut start = 0;
        for (i, (raw, iv)) in raws.iter().zip(ivs.chunks_exact(IV_SIZE)).enumerate() {
            let is_last = last && i + 1 == raws.len();
            let cipher_size = self.place(start, *raw, iv, is_last);
            placed.push(Placed { start, cipher_size });
            start += FRAME_OVERHEAD + cipher_size;
        }
        let (sealed, _) = self.buffer.split_at_mut(start);
        encrypt(&self.cipher, sealed, &placed);
        for frame in &placed {
            let (_, rest) = sealed.split_at_mut(frame.start);
            let (covered, rest) = rest.split_at_mut(FRAME_HEAD + frame.cipher_size);
            let mac = self.cipher.mac(&[&self.next.to_le_bytes(), covered]);
            rest.split_at_mut(MAC_SIZE).0.copy_from_slice(&mac);
            self.next += 1;
            let stored = FRAME_OVERHEAD + frame.cipher_size;
            lengths.push(u32::try_from(stored).expect("a frame is shorter than 4 GiB"));
        }
        sealed
    }

    /// Begins with frame 1; [`FrameSealer::seal_first`] makes frame 0.
    ///
    /// # Panics
    /// When a frame was sealed already: no number is sealed twice.
    pub fn leave_first(&mut self) {
        assert_eq!(self.next, 0, "no frame was sealed yet");
        self.next = 1;
        let mut iv = [0; IV_SIZE];
        if self.suite == Suite::AesCbc {
            self.entropy.fill(&mut iv);
        }
        self.left_first = Some(iv);
    }

    /// Seals frame 0 after the others, and returns its bytes.
    ///
    /// # Panics
    /// When it was sealed already.
    pub fn seal_first(&mut self, raw: Raw<'_>) -> &[u8] {
        let iv = self.left_first.take().expect("frame 0 was not sealed yet");
        let count = std::mem::take(&mut self.next);
        let size = self.seal_under(&[raw], &iv, false, &mut Vec::new()).len();
        self.next = count;
        self.buffer.get(..size).unwrap_or_default()
    }

    /// Writes head and padded payload of a frame at `start`; returns the ciphertext's size.
    fn place(&mut self, start: usize, raw: impl Body, iv: &[u8], last: bool) -> usize {
        assert!(raw.raw_size() <= self.frame_size, "a frame holds at most its size");
        let (_, frame) = self.buffer.split_at_mut(start);
        let (head, body) = frame.split_at_mut(FRAME_HEAD);
        let (payload, is_raw) = raw.write(&mut self.compressor, body);
        let cipher_size = match self.suite {
            Suite::AesCbc => padded_size(payload),
            Suite::Clear => payload,
        };
        if self.suite == Suite::AesCbc {
            pad(body.split_at_mut(cipher_size).0, payload);
        }
        let flags = if is_raw { STORED_RAW } else { 0 } | if last { LAST } else { 0 };
        let size = u32::try_from(cipher_size).expect("a frame is shorter than 4 GiB");
        let raw_size = u32::try_from(raw.raw_size()).expect("a frame is shorter than 16 MiB");
        let (lengths, iv_place) = head.split_at_mut(8);
        lengths.split_at_mut(4).0.copy_from_slice(&size.to_le_bytes());
        let word = raw_size | u32::from(flags) << 24;
        lengths.split_at_mut(4).1.copy_from_slice(&word.to_le_bytes());
        iv_place.copy_from_slice(iv);
        cipher_size
    }
}

/// Hands every frame's ciphertext place to the lanes as a chain of its own.
fn encrypt(cipher: &ObjectCipher, sealed: &mut [u8], placed: &[Placed]) {
    if !cipher.encrypts() {
        return;
    }
    let mut chains = Vec::with_capacity(placed.len());
    let mut rest = sealed;
    for frame in placed {
        let (head, tail) = rest.split_at_mut(FRAME_HEAD);
        let (buffer, tail) = tail.split_at_mut(frame.cipher_size);
        let iv = head.last_chunk::<IV_SIZE>().expect("a head ends with the IV");
        chains.push(Chain { iv: *iv, buffer });
        rest = tail.split_at_mut(MAC_SIZE).1;
    }
    cipher.encrypt(chains);
}

/// What a frame's first eight bytes claim, bounded but not yet believed.
#[derive(Debug, Clone, Copy)]
pub struct FrameHead {
    cipher_size: usize,
    raw_size: usize,
    flags: u8,
}

impl FrameHead {
    /// The size of the whole frame, by its own claim.
    #[must_use]
    pub fn stored_size(&self) -> usize {
        FRAME_OVERHEAD + self.cipher_size
    }

    /// Whether it claims to be the last of its object.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.flags & LAST != 0
    }
}

/// Opens frames of one object.
#[derive(Debug, Clone)]
pub struct FrameOpener {
    object: ObjectKey,
    cipher: ObjectCipher,
    suite: Suite,
    frame_size: usize,
}

impl FrameOpener {
    pub(super) fn new(object: ObjectKey, header: &Header, cipher: ObjectCipher) -> Self {
        Self { object, cipher, suite: header.suite, frame_size: header.frame_size() }
    }

    /// The object whose frames these are.
    #[must_use]
    pub fn object(&self) -> &ObjectKey {
        &self.object
    }

    /// How the object is sealed.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The largest frame that this object may hold.
    #[must_use]
    pub fn stored_size_max(&self) -> usize {
        stored_size(self.suite, self.frame_size)
    }

    /// An error about frame `number`.
    #[must_use]
    pub fn corrupt(&self, number: u64, why: impl ToString) -> Error {
        Error::corrupt(&self.object, format!("frame {number}"), why)
    }

    /// Reads a frame's lengths and bounds them, so that a reader knows how much to read.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they cannot be those of a frame.
    pub fn head(&self, number: u64, bytes: &[u8; 8]) -> Result<FrameHead> {
        let &[a, b, c, d, r0, r1, r2, flags] = bytes;
        let cipher_size = u32::from_le_bytes([a, b, c, d]) as usize;
        let raw_size = u32::from_le_bytes([r0, r1, r2, 0]) as usize;
        let possible = match self.suite {
            Suite::AesCbc => {
                cipher_size.is_multiple_of(16)
                    && (16..=padded_size(self.frame_size)).contains(&cipher_size)
            }
            Suite::Clear => cipher_size <= self.frame_size,
        };
        if possible && raw_size <= self.frame_size && flags & !(STORED_RAW | LAST) == 0 {
            Ok(FrameHead { cipher_size, raw_size, flags })
        } else {
            Err(self.corrupt(number, "its lengths or flags cannot be a frame's"))
        }
    }

    /// Opens the frame that `stored` holds exactly, onto the end of `out`. Returns whether it is the
    /// object's last frame. After an error `out` holds what it held before.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn open(&self, number: u64, stored: &mut [u8], out: &mut Vec<u8>) -> Result<bool> {
        let before = out.len();
        // Not authentic yet, but never more than a frame holds.
        let head = stored.first_chunk::<8>().map(|head| self.head(number, head)).transpose()?;
        out.resize(before + head.map_or(0, |head| head.raw_size), 0);
        let opened = self.open_into(number, stored, out.get_mut(before..).unwrap_or_default());
        let length = opened.as_ref().map_or(0, |(length, _)| *length);
        out.truncate(before + length);
        opened.map(|(_, last)| last)
    }

    /// Opens the frame that `stored` holds exactly: checks the MAC, decrypts in place, decompresses
    /// into the beginning of `out`. Returns the content's length, and whether it is the object's last
    /// frame.
    ///
    /// # Errors
    /// [`Error::Corrupt`], also when `out` is too short for the content.
    pub fn open_into(
        &self,
        number: u64,
        stored: &mut [u8],
        out: &mut [u8],
    ) -> Result<(usize, bool)> {
        let (payload, is_last) = self.payload(number, stored)?;
        let target = out
            .get_mut(..payload.raw_size)
            .ok_or_else(|| self.corrupt(number, "it holds more than there is room for"))?;
        match payload.as_raw() {
            Some(content) => target.copy_from_slice(content),
            None => decompress_exact(payload.bytes, target)
                .map_err(|error| self.corrupt(number, error))?,
        }
        Ok((payload.raw_size, is_last))
    }

    /// Checks the MAC of the frame that `stored` holds exactly, decrypts in place, and gives what was compressed
    /// as it is; and whether it is the object's last frame.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn payload<'b>(&self, number: u64, stored: &'b mut [u8]) -> Result<(Payload<'b>, bool)> {
        let short = || self.corrupt(number, "it is shorter than its lengths say");
        let head = self.head(number, stored.first_chunk::<8>().ok_or_else(short)?)?;
        if stored.len() != head.stored_size() {
            return Err(self.corrupt(number, "its length is not the one that was expected"));
        }
        let (covered, mac) = stored.split_at_mut(FRAME_HEAD + head.cipher_size);
        self.cipher
            .verify(&[&number.to_le_bytes(), covered], mac)
            .map_err(|_| self.corrupt(number, "its authentication code does not match"))?;
        let (front, body) = covered.split_at_mut(FRAME_HEAD);
        let iv = front.last_chunk::<IV_SIZE>().ok_or_else(short)?;
        let payload = self.cipher.decrypt(iv, body).map_err(|error| self.corrupt(number, error))?;
        let payload = body.get(..payload).ok_or_else(short)?;
        let is_raw = head.flags & STORED_RAW != 0;
        if is_raw && payload.len() != head.raw_size {
            return Err(self.corrupt(number, "its content is not as long as it says"));
        }
        Ok((Payload { bytes: payload, raw_size: head.raw_size, is_raw }, head.is_last()))
    }
}
