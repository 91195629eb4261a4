//! What is kept and what is removed: rules, a pure decision with reasons, then the removal.
//!
//! `decide` is a function of values; nothing in it asks a store, a clock or a configuration. So far its answer is
//! not carried out: only leftovers are removed, what processes that were killed began to store and did not finish.

mod calendar;
mod decide;
mod facts;
mod indexed;
mod leftovers;
mod policy;
mod reason;
mod wal_spans;

#[cfg(test)]
mod tests;

pub use calendar::{Cycle, Period, representatives};
pub use decide::{Decision, decide};
pub use facts::{Candidate, End, InUse, Pinned, PlaceFacts, Running};
pub use leftovers::{AGE_MIN, Leftover, Plan, execute, plan};
pub use policy::Policy;
pub use reason::{Reason, WalReason};
