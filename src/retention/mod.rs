//! What is removed from a repository: plan, then execute.
//!
//! So far leftovers only: what processes that were killed began to store and did not finish. Backups and WAL
//! are not removed by anything here yet.

mod leftovers;

pub use leftovers::{AGE_MIN, Leftover, Plan, execute, plan};
