//! A store in memory, for tests and dry runs: every obligation of a store but a power cut.
//!
//! A plain one is like a folder. On request it has what buckets have: storage classes with thaws that take their
//! time, locks, versions; so that what uses them can be tested by every step and every moment.

mod objects;
mod store;
#[cfg(test)]
mod tests;

pub use store::MemoryStore;
