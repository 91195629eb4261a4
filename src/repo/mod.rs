#![doc = include_str!("FORMAT.md")]
//!
//! ---
//! This room turns what pgkeep keeps into sealed objects and back. It knows what an object means,
//! never why it is stored: no policy, no schedule, no printing.

#![warn(clippy::indexing_slicing)]

mod backup_id;
pub mod catalog;
mod catalogue;
mod claim;
pub mod descriptor;
mod error;
mod extent;
pub mod file_table;
mod found;
pub mod frame;
mod gaps;
pub mod header;
mod key_cache;
pub mod layout;
mod location;
pub mod manifest;
mod newest;
mod notes;
mod opened;
mod pack_writer;
mod ranges;
pub mod records;
mod repository;
pub mod sealed;
mod slot_changes;
mod slots;
mod text;
mod wal_object;
mod window;

#[cfg(test)]
mod tests;

pub use backup_id::{BackupId, BackupType};
pub use catalog::Backups;
pub use claim::RACERS;
pub use descriptor::{CipherChoice, Descriptor};
pub use error::{DamagedSlot, Error, Result, SlotSummary, Slots};
pub use file_table::{FileTableReader, FileTableWriter, Layer, Row, RowKind, Source, StatIdentity};
pub use found::{Cut, Found, FoundParameters, FoundRestorePoint, FoundTablespace, NewestMoment};
pub use gaps::{Gap, Missing};
pub use key_cache::KeyCache;
pub use layout::{Kind, Place};
pub use location::Location;
pub use manifest::{Manifest, ObjectRecord, Summary};
pub use notes::Notes;
pub use opened::{FrameBuffers, OpenedBackup, PackReader};
pub use pack_writer::{ContentSource, PackPlan, PackWriter};
pub use records::{Begin, HashScheme, Registration};
pub use repository::{InitOptions, Repository};
pub use sealed::{SealedRandom, SealedReader, SealedSummary, SealedWriter};
pub use wal_object::{
    Origin, SealedWal, WAL_PIECE, WAL_READ_PIECE, WalFacts, WalPiece, WalPut, WalReader,
};
pub use window::{Survey, Window};
