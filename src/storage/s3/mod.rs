//! A bucket, or a part of one, on AWS or any server that speaks its protocol.
//!
//! The SDK signs, sends and parses; when to try again, what a failure means and how long to wait is decided
//! here, once: its own retries are off. The store keeps a small runtime of its own, for the interface of
//! stores blocks (src/ARCHITECTURE.md). Absence is believed only when the server says `NoSuchKey` or leaves
//! the name out of a list; a 404 of anything else on the way proves nothing.

mod body;
mod bucket;
mod client;
mod connection;
mod copies;
mod download;
mod failure;
mod lifecycle;
mod list;
mod locks;
mod multipart;
mod operation;
mod options;
mod rights;
mod store;
mod tiers;
mod uploads;
mod versions;
mod whole;

pub use bucket::BucketFacts;
pub use lifecycle::BucketRule;
pub use options::{AccessKeys, Checksums, Credentials, KeySource, S3Options, ServerEncryption};
pub use rights::Rights;
pub use store::S3Store;
