//! Locks: what nobody can remove before a moment (S3's Object Lock).
//!
//! What is put is locked by its store's rule. Here: `ask` finds out until when things are locked, `decide` lets what no rule
//! keeps wait for that, `extend` locks what is kept for longer, what something stands on first, and `hidden` removes
//! for good what deletions have only hidden. In a store without locks nothing of it is done.

mod ask;
mod extend;
mod hidden;
mod spans;

pub use ask::Asked;
pub(super) use ask::{ask, locked};
pub(super) use extend::extend;
pub use extend::{Extension, extension};
pub use hidden::Hidden;
pub(super) use hidden::{find_hidden, remove_hidden};
pub(super) use spans::common;
