//! Taking a backup: plan, then execute.
//!
//! The data directory is read by a few workers, each with a pack of its own: read, check pages, hash,
//! compress, seal, store, without handing blocks from thread to thread. Rows come back in the order
//! of the walk. The manifest is put last, when every WAL segment that the backup needs is in the
//! repository: until then nothing is visible.
//!
//! A backup that stands on another walks beside its rows: what nobody has touched is not read, and of what is read
//! the blocks are stored whose hashes are others than the parent's.

mod checked;
mod compare;
mod copy;
mod error;
mod execute;
mod external;
mod known;
mod motion;
mod options;
mod own_wal;
mod parent;
mod plan;
mod pump;
mod read;
mod scan;
mod stands;
mod throttle;

pub use error::{Error, Result};
pub use execute::{Finished, execute};
pub use options::Options;
pub use plan::{Plan, plan};
