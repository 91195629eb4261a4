//! One process for all clusters: what PostgreSQL asks for over a socket, done ahead.
//!
//! It runs what it is handed. A client that finds no daemon does the work itself, so nothing depends on
//! it: nothing that it knows outlives it, and nothing is promised before it is durable in the repositories.

mod client;
mod cluster;
mod error;
mod jobs;
mod protocol;
mod schedule;
mod service;
mod socket;
mod supervisor;
mod watch;

pub use client::{Answered, Away, ask};
pub use cluster::Cluster;
pub use error::{Error, Result};
pub use jobs::Job;
pub use protocol::{
    Answer, Ask, ClusterStatus, GetAsk, JobEnd, JobStatus, Lag, PROTOCOL, PushAsk, Request, Status,
    Told,
};
pub use schedule::Schedule;
pub use supervisor::{Duties, Options, run};
