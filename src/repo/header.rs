//! The 64 bytes at the beginning of every sealed object (FORMAT.md, section 4).

use super::error::{Error, Result};
use super::layout::Kind;
use crate::crypt::KeyId;
use crate::storage::ObjectKey;

/// Bytes of a header.
pub const HEADER_SIZE: usize = 64;

/// log2 of the raw size of a frame, in objects that this version writes.
pub const FRAME_LOG2: u8 = 16;

/// The raw size of a full frame.
pub const FRAME_SIZE: usize = 1 << FRAME_LOG2;

const MAGIC: &[u8; 6] = b"PGKEEP";
const VERSION: u16 = 1;
const KEY_SCHEME: u8 = 1;

/// How the frames of an object are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Suite {
    /// LZ4, AES-256-CBC, HMAC-SHA-256.
    AesCbc = 1,
    /// LZ4, no cipher, HMAC-SHA-256.
    Clear = 2,
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the object is.
    pub kind: Kind,
    /// How it is sealed.
    pub suite: Suite,
    /// log2 of the greatest raw size of a frame.
    pub frame_log2: u8,
    /// The master key.
    pub key: KeyId,
    /// Random for every object.
    pub salt: [u8; 32],
}

impl Header {
    /// The stored bytes. Each field begins where the one before it ends.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let parts: [&[u8]; 10] = [
            MAGIC,
            &VERSION.to_le_bytes(),
            &[self.kind as u8],
            &[self.suite as u8],
            &[KEY_SCHEME],
            &[self.frame_log2],
            &[0, 0], // no key block in key scheme 1
            &[0, 0],
            &self.key.0,
            &self.salt,
        ];
        let bytes = parts.concat();
        bytes.try_into().expect("the parts have 64 bytes")
    }

    /// Reads the header of an object that is expected to be of `kind` and `suite`.
    ///
    /// Nothing here is authenticated yet: the keys are derived from every byte of the header, so a
    /// changed one fails the first frame's MAC.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Newer`].
    pub fn decode(
        object: &ObjectKey,
        bytes: &[u8; HEADER_SIZE],
        kind: Kind,
        suite: Suite,
    ) -> Result<Self> {
        let corrupt = |why: String| Error::corrupt(object, "header", why);
        let newer = |what, found: u64| Error::Newer {
            object: object.to_string(),
            what,
            found: found.to_string(),
        };
        let [magic @ .., _, _] = bytes.first_chunk::<8>().expect("64 bytes begin with 8");
        if magic != MAGIC {
            return Err(corrupt("it is not a pgkeep object".into()));
        }
        let &[_, _, _, _, _, _, v0, v1, found_kind, found_suite, scheme, log2, k0, k1, z0, z1, ..] =
            bytes;
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(newer("format version", version.into()));
        }
        if found_kind != kind as u8 {
            return Err(corrupt(format!("kind {found_kind} where {} belongs", kind as u8)));
        }
        if found_suite != suite as u8 {
            return Err(corrupt(format!("suite {found_suite} where {} belongs", suite as u8)));
        }
        if scheme != KEY_SCHEME {
            return Err(newer("key scheme", scheme.into()));
        }
        if !(13..=20).contains(&log2) {
            return Err(corrupt(format!("frames of 2^{log2} bytes")));
        }
        if [k0, k1, z0, z1] != [0; 4] {
            return Err(corrupt("reserved bytes are not zero".into()));
        }
        let (key, salt) = bytes[16..].split_first_chunk::<16>().expect("48 bytes begin with 16");
        let salt = salt.try_into().expect("the rest of 48 bytes after 16 is 32");
        Ok(Self { kind, suite, frame_log2: log2, key: KeyId(*key), salt })
    }

    /// The greatest raw size of a frame.
    #[must_use]
    pub fn frame_size(&self) -> usize {
        1 << self.frame_log2
    }
}
