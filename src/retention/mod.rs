//! What is kept and what is removed: rules, a pure decision with reasons, then the removal.
//!
//! `decide` is a function of values; nothing in it asks a store, a clock or a configuration. `gather` reads what it
//! decides from, `expire` carries it out by `removal`, `locks` knows what nobody can remove yet, `remains` is what is
//! left of backups that are not there, and `leftovers` what processes that were killed began to store and did not
//! finish.

mod calendar;
mod decide;
mod expire;
mod facts;
mod freed;
mod gather;
mod indexed;
mod leaving;
mod leftovers;
mod locks;
mod policy;
mod reason;
mod record;
mod remains;
mod removal;
mod wal_spans;

#[cfg(test)]
mod tests;

pub use calendar::{Cycle, Period, representatives};
pub use decide::{Decision, decide};
pub use expire::{ExpirePlan, PlacePlan, estimate, execute_expiry, extend_locks, plan_expiry};
pub use facts::{Candidate, End, InUse, Locked, Moving, Pinned, PlaceFacts, Running};
pub use freed::Freed;
pub use gather::{Dead, Gathered, Looks, gather};
pub use leaving::{Leaving, leaving};
pub use leftovers::{AGE_MIN, Leftover, Plan, execute, plan};
pub use locks::{Asked, Extension, Hidden, extension};
pub use policy::Policy;
pub use reason::{Reason, WalReason};
pub use remains::{Left, Remains};
