//! One file of WAL in, one file of WAL out: what `archive_command` and `restore_command` run.
//!
//! [`push`] returns `Ok` only when the file is durable in every required repository. [`get`] says
//! "absent" only when that is proven; every doubt is an error. Exit codes are the command line's.

mod absence;
mod asking;
pub mod backfill;
mod catch_up;
mod continuity;
mod error;
mod fetch_ahead;
mod folders;
mod get;
mod identity;
mod openings;
mod pass;
mod pgdata;
mod provenance;
mod push;
mod push_ahead;
mod ready;
mod recover;
mod standby;
mod submission;
mod submit;
mod tablespaces;
mod temporary;

pub use asking::{Ahead, Fetched, Kept};
pub use catch_up::{CatchUp, Lagging};
pub use continuity::continuity;
pub use error::{Error, Result};
pub use fetch_ahead::{AheadOf, FetchAhead, FetchLimits, FetchStatus};
pub use folders::{FoldersId, ServerFolders};
pub use get::{Delivered, GetOptions, Got, Target, check_locations, get};
pub use identity::{FileIdentity, FileRead};
pub use openings::{Asked, Openings, Purpose, RepositoryUse, Unopened};
pub use pgdata::{MARKER, read_control_file};
pub use push::{PushOptions, Pushed, Stored, push};
pub use push_ahead::PushAhead;
pub use ready::{Ready, oldest, ready, status_line};
pub use recover::{Recovered, Wanted, recover};
pub use standby::{is_standby, promotion};
pub use submission::{PushLimits, PushStatus, Submission};
pub use submit::{archive, takers};
pub use temporary::Temporary;

use crate::repo::{Place, Registration, Repository};

/// A repository that takes or gives WAL of one cluster; opening it has authenticated descriptor and
/// registration, so that "absent" may be believed.
#[derive(Debug, Clone)]
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

#[cfg(test)]
impl Destination {
    /// A new repository without encryption in a store, and a cluster of it with system identifier 7.
    pub(crate) fn of_a_test(
        ctx: &crate::base::Ctx,
        store: std::sync::Arc<dyn crate::storage::ObjectStore>,
    ) -> Self {
        use crate::repo::{CipherChoice, InitOptions};
        let (cipher, unlock) = (CipherChoice::None, crate::crypt::Unlock::Clear);
        let options = InitOptions { cipher, unlock: &unlock, label: "", cost: 0 };
        let repository = Repository::init(ctx, store, &options).unwrap();
        let registration = Registration {
            cluster: "main".into(),
            system: 7,
            epoch: 1,
            created: ctx.clock.now(),
            major: 15,
            block_size: 8192,
            wal_block_size: 8192,
            wal_segment_size: 16 << 20,
            relation_segment_blocks: 131_072,
        };
        let place = Place::new("main", 7, 1).unwrap();
        Self { name: "memory".into(), repository, place, registration }
    }
}
