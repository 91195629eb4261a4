//! Restoring a cluster: plan, then execute.
//!
//! The plan picks timeline and backup for the target, proves what the archive reaches, and says what
//! will be lost; a target that cannot be reached is refused with those that can. Executing writes
//! each block once, in parallel; `global/pg_control` comes last, when all else is durable: until
//! then the directory cannot be started.

mod address;
mod adopt;
mod aside;
mod asked;
mod beside;
mod choose;
mod chosen;
mod compare;
mod conf_file;
mod configured;
mod control;
mod delta;
mod directory;
mod elsewhere;
mod error;
mod execute;
mod external;
mod fetch;
mod in_progress;
mod installed;
mod last_files;
mod lost;
mod moment;
mod mounts;
mod nearest;
mod new_tablespaces;
mod next;
mod options;
mod outlook;
mod plan;
mod plan_text;
mod position;
mod raised;
mod reach;
mod reached;
mod recovery;
mod replayed;
mod server_now;
mod shell;
mod space;
mod strangers;
mod survey;
mod tally;
mod target;
mod tree;
mod unarchived;
mod walk;
mod writing;

pub use address::Address;
pub use adopt::{Adoption, adopt, plan_adoption};
pub use chosen::{Chosen, choose_backup};
pub use delta::{Delta, Over};
pub use error::{Error, Result};
pub use execute::{Restored, execute};
pub use external::External;
pub use installed::{ProgramPlaces, Programs};
pub use lost::Lost;
pub use nearest::{Hole, Nearest, Side};
pub use new_tablespaces::NewTablespace;
pub use options::{Archiving, Options, RestoreCommand, TablespaceMapping};
pub use outlook::Outlook;
pub use plan::{Plan, plan, plan_chosen};
pub use raised::Raised;
pub use server_now::ServerNow;
pub use shell::word as shell_word;
pub use space::Space;
pub use strangers::Inventory;
pub use survey::Ground;
pub use tally::Amount;
pub use target::{NotATime, parse_time};

pub use crate::pg::recovery::{RecoveryTarget as Target, TargetTimeline as TimelineChoice};
