//! Packs of old chains move to colder storage, and come back when they are wanted.
//!
//! `plan` is a pure function of what was found, the rules and the time; `gather` lists the packs, `transition` moves
//! them, `cold` finds what of a backup has to be thawed and asks for it. Only packs ever move: manifests, file tables,
//! metas, hashes and WAL stay readable at once, so that everything can be planned without a thaw.
//!
//! What moves while somebody begins to read it costs him a thaw and nothing else: the bytes under a name never change.

mod awaited;
mod cold;
mod costs;
mod error;
mod facts;
mod gather;
mod plan;
mod plan_text;
mod policy;
mod prices;
mod transition;

#[cfg(test)]
mod tests;

pub use awaited::wait_for_thaw;
pub use cold::{
    Cold, ColdClass, ColdPack, PackState, Readiness, Speed, cold_of, find_cold, poll,
    require_speed, take_back_tags, thaw,
};
pub use costs::{Costs, Early, MinimumStay, OldVersions, early_removal};
pub use error::{Error, Result};
pub use facts::{Going, InUse, Member, PlaceFacts, Running, StoreFacts};
pub use gather::{Found, packs_of, plan_tiering};
pub use plan::{ChainPlan, Move, PlacePlan, Stays, Stuck, TierPlan, plan_place};
pub use policy::{CLASS_TAG, KeptAs, TierPolicy, Way};
pub use prices::{Price, PriceTable};
pub use transition::{Moved, execute};
