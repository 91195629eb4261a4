//! Keys and ciphers: derivation, the keyring, key slots, CBC in lanes, MACs, keyed hashes.
//!
//! Bytes in, values out: no I/O. Randomness comes from the caller's [`Entropy`](crate::base::Entropy).
//! What is encrypted and under which name is `repo`'s knowledge; section numbers in this room refer
//! to `src/repo/FORMAT.md`.

#![warn(clippy::indexing_slicing)]

pub mod cbc;
pub mod hash;
pub mod key;
pub mod slot;

pub use cbc::{IV_SIZE, padded_size};
pub use hash::{BlockHasher, ContentDigest, content_digest};
pub use key::{Class, KeyId, Keyring, MasterKey, ObjectCipher, RepositoryId, Use};
pub use slot::{Slot, SlotKind, Unlock};

/// Bytes of a MAC.
pub const MAC_SIZE: usize = 32;

/// Why a secret does not open something, or a slot cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The MAC does not match: another key, or other bytes than were sealed.
    #[error("the authentication code does not match")]
    Mac,
    /// Authentic, but the padding is wrong: sealed by a faulty writer.
    #[error("the padding is wrong")]
    Padding,
    /// A slot's member has a value that is not allowed.
    #[error("key slot: {member} {why}")]
    Slot {
        /// Which member.
        member: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A slot that a newer version of pgkeep wrote.
    #[error("key slot: version {version} is not known to this version of pgkeep")]
    NewerSlot {
        /// Its version.
        version: u32,
    },
    /// The secret is of another kind than the slot wants.
    #[error("the slot is of another kind")]
    OtherKind,
    /// A slot that belongs to another repository.
    #[error("the key slot belongs to another repository")]
    OtherRepository,
    /// The key file's text is not a key.
    #[error("not a key file: one line `pgkeep-key-1 ` and 64 hexadecimal digits is expected")]
    KeyFile,
}
