#![doc = include_str!("FORMAT.md")]
//!
//! ---
//! This room turns what pgkeep keeps into sealed objects and back. It knows what an object means,
//! never why it is stored: no policy, no schedule, no printing.

#![warn(clippy::indexing_slicing)]

mod attempt;
mod backup_id;
mod bases;
mod brought;
pub mod catalog;
mod catalogue;
mod claim;
mod contents;
pub mod descriptor;
mod error;
mod extent;
pub mod file_table;
mod found;
pub mod frame;
mod gaps;
mod hashes;
pub mod header;
mod keep;
mod key_cache;
pub mod layout;
mod lease;
mod location;
mod lock_time;
mod locks;
pub mod manifest;
mod merged;
mod newest;
mod notes;
mod opened;
mod pack_reader;
mod pack_writer;
mod pins;
mod ranges;
mod recent;
pub mod records;
mod repository;
mod reseal;
mod runs;
pub mod sealed;
mod slot_changes;
mod slots;
mod stored;
mod text;
mod usage;
mod wal_object;
mod window;

#[cfg(test)]
mod tests;

pub use attempt::{Attempt, AttemptContents};
pub use backup_id::{BackupId, BackupType};
pub use bases::{Base, Reused};
pub use catalog::Backups;
pub use claim::RACERS;
pub use contents::{Content, ContentSource, Stretch};
pub use descriptor::{CipherChoice, Descriptor};
pub use error::{DamagedSlot, Error, Holder, Result, SlotSummary, Slots};
pub use file_table::{FileTableReader, FileTableWriter, Layer, Row, RowKind, Source, StatIdentity};
pub use found::{Cut, Found, FoundParameters, FoundRestorePoint, FoundTablespace, NewestMoment};
pub use gaps::{Gap, Missing};
pub use hashes::HashReader;
pub use keep::{KEEPS_MAX, Keep, KeepHead, Kept};
pub use key_cache::KeyCache;
pub use layout::{Kind, Place};
pub use lease::{
    KeptUp, LEASE_FOR, Lease, LeaseRecord, LeaseRequest, RENEW_AFTER, SKEW_MAX, Scope,
};
pub use location::Location;
pub use lock_time::lock_for;
pub use locks::{KnownBackup, KnownLocks, KnownRest, LockSpan};
pub use manifest::{Manifest, ObjectRecord, Summary};
pub use merged::Rows;
pub use notes::Notes;
pub use opened::OpenedBackup;
pub use pack_reader::{FrameBuffers, PackReader};
pub use pack_writer::{PackPlan, PackWriter};
pub use pins::Pin;
pub use records::{Begin, HashScheme, Registration};
pub use repository::{InitOptions, Repository};
pub use reseal::{PackRecords, Reseal};
pub use runs::{Find, Unit, Wanted};
pub use sealed::{SealedRandom, SealedReader, SealedSummary, SealedWriter};
pub use usage::{Family, Held, Holding, Usage};
pub use wal_object::{
    Origin, SealedWal, WAL_PIECE, WAL_READ_PIECE, WalFacts, WalPiece, WalPut, WalReader,
};
pub use window::{Survey, Window};
