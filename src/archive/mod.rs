//! One file of WAL in, one file of WAL out: what `archive_command` and `restore_command` run.
//!
//! [`push`] returns `Ok` only when the file is durable in every required repository. [`get`] says
//! "absent" only when that is proven; every doubt is an error. Exit codes are the command line's.

mod absence;
pub mod backfill;
mod error;
mod get;
mod pass;
mod provenance;
mod push;
mod standby;
mod tablespaces;

pub use error::{Error, Result};
pub use get::{GetOptions, Got, get};
pub use push::{MARKER, PushOptions, Pushed, Stored, push, read_control_file};
pub use standby::{is_standby, promotion};

use crate::repo::{Place, Registration, Repository};

/// A repository that takes or gives WAL of one cluster; opening it has authenticated descriptor and
/// registration, so that "absent" may be believed.
#[derive(Debug)]
pub struct Destination {
    /// Its name in the configuration.
    pub name: String,
    /// The open repository.
    pub repository: Repository,
    /// Where the cluster's objects lie.
    pub place: Place,
    /// What the cluster was registered as.
    pub registration: Registration,
}
