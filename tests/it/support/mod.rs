//! What the live tests stand on: scratch directories, real PostgreSQL servers and their tools, and
//! the binary under test.
//!
//! PostgreSQL refuses to run as root. When the tests do, everything that touches a cluster, pgkeep
//! included, runs as an unprivileged account; see [`account`]. Nothing here shares a port, a socket
//! or a directory, so tests run side by side. Nothing sleeps for a fixed time: waiting is polling
//! with a deadline, and a missed deadline is a panic with the server's log.
#![allow(dead_code, unused_imports, reason = "support is wider than what the tests of one day use")]

pub mod account;
pub mod ahead;
pub mod asked;
pub mod bucket_site;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod dice;
pub mod gate;
pub mod launch;
pub mod library;
pub mod on_the_way;
pub mod other_account;
pub mod planned;
pub mod run;
pub mod s3;
pub mod sample;
pub mod sample_chain;
pub mod scratch;
pub mod servers;
pub mod site;
pub mod tools;
pub mod twins;
pub mod world;

pub use bucket_site::BucketSite;
pub use cluster::{Stop, TestCluster};
pub use config::{Cipher, TestConfig, TestRepo};
pub use daemon::TestDaemon;
pub use dice::Dice;
pub use gate::Gate;
pub use launch::Launch;
pub use run::{Ran, Running};
pub use s3::{Fault, TestS3};
pub use scratch::ScratchDir;
pub use servers::Server;
pub use world::World;
