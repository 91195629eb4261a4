//! An S3 server in the test process: in memory, over real HTTP, with real signatures.
//!
//! A test starts one, hands `endpoint()`, `bucket()` and the keys of an account to the code under
//! test or to child processes, and looks at what is stored, what was asked and how often. The
//! server is strict where Amazon is strict (conditions, part sizes, checksums, thawing, locks), and
//! an option makes it as lax as the servers that call themselves compatible. Everything that
//! changes what is stored happens under one lock, so conditional puts have exactly one winner.
//!
//! In front of the service stands a layer that spoils requests and replies on order; see [`Fault`].
//! There is one bucket per server, nothing survives it, and there are no ACLs, lifecycle rules,
//! presigned posts or encryption settings.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "benchmarks take this room by its path, and use a part of it"
)]

mod access;
mod accounts;
mod bucket;
mod builder;
mod checksum;
mod client;
mod copies;
mod counters;
mod deletes;
mod fault;
mod fault_body;
mod faults;
mod front;
mod gets;
mod lists;
mod locks;
mod multipart;
mod object;
mod puts;
mod refusals;
mod seen;
mod server;
mod service;
mod thaw;
mod transport;
mod uploads;

pub use accounts::{Account, Asked};
pub use builder::S3Builder;
pub use fault::Fault;
pub use faults::{FaultOrder, Ordered};
pub use seen::Seen;
pub use server::TestS3;
