//! WAL that only a directory still has, into the archive: plan, then execute.
//!
//! After a failover the last segments of the old timeline may lie in the `pg_wal` of a former primary or
//! standby and nowhere else. [`plan`] looks at each file there and at each repository and stores nothing;
//! [`backfill`] stores what was planned, by the same rules and checks as `archive-push`, first write wins.
//!
//! Nothing is believed of a file but what its own bytes say: its system identifier, its position, its
//! records. Which timeline is still written is not known of a server that did not ask, so a segment whose
//! records stop early is stored as a partial one at most.

mod decide;
mod directory;
mod execute;
mod look;
mod plan;
mod text;

pub use decide::Why;
pub use directory::WalDirectory;
pub use execute::{Backfilled, NotStored, Put, backfill};
pub use plan::{BackfillOptions, BackfillPlan, Conflicting, Left, ToStore, plan};
