//! From one repository to another: backups, the WAL that leads on from them, and what belongs to both, sealed again by
//! the other one's keys under the same names.
//!
//! **Order.** Whoever copies puts the record that he begins, and a lease that he uses the backup, before he looks at what
//! the target's expiry has decided; packs with their hashes and meta objects follow, then WAL, the file table, and the
//! manifest last: parents before what stands on them. So nothing half-made is visible, and what a copy leaves that died
//! is gone on with by the next one, or swept. In the source each backup is held while it is read.
//!
//! **Names are not used twice.** What the target's expiry removes, or has sealed, is left out and told; WAL that it gave
//! up comes back only where a backup needs it, after a record that says so.

mod backup;
mod bringing;
mod error;
mod execute;
mod gather;
mod hold;
mod plan;
mod plan_text;
mod sides;
mod wal;
mod whole;

pub use error::{Error, Result};
pub use execute::{Copied, execute};
pub use plan::{BackupCopy, CopyPlan, LeftOut, PlaceCopy, plan};
pub use sides::{Kept, Request, Side, Who};
pub use whole::whole;
