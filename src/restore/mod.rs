//! Restoring a cluster: plan, then execute.
//!
//! The plan picks timeline and backup for the target, proves what the archive reaches, and says what
//! will be lost; a target that cannot be reached is refused with those that can. Executing writes
//! each block once, in parallel; `global/pg_control` comes last, when all else is durable: until
//! then the directory cannot be started.

mod adopt;
mod directory;
mod error;
mod execute;
mod fetch;
mod options;
mod plan;
mod reach;
mod recovery;
mod target;

pub use adopt::{Adoption, adopt, plan_adoption};
pub use error::{Error, Result};
pub use execute::{Restored, execute};
pub use options::{Archiving, Options, RestoreCommand, TablespaceMapping};
pub use plan::{Lost, Plan, plan};
pub use reach::Archive;
pub use target::{NotATime, parse_time};

pub use crate::pg::recovery::{RecoveryTarget as Target, TargetTimeline as TimelineChoice};
