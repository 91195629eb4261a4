//! What the benches on real servers share: a cluster worth measuring, the tools that are compared, and
//! the accounting.
//!
//! `PGKEEP_BENCH_DIR` names a folder that is kept, so that the next run finds its cluster there; without
//! it everything is made in a temporary folder and removed. Programs run as `postgres` when root runs
//! the bench, as in the tests.
#![allow(dead_code, reason = "each bench uses a part")]
#![allow(
    clippy::disallowed_methods,
    reason = "a program of its own: it asks for time and environment"
)]

#[path = "../../tests/it/support/account.rs"]
mod account;
pub mod archiver;
pub mod cluster;
pub mod cores;
pub mod cost;
pub mod daemon;
pub mod folder;
pub mod paired;
pub mod proxy;
pub mod sides;

use std::path::PathBuf;
use std::time::Duration;

/// How often each side runs: `PGKEEP_BENCH_ROUNDS`, or `default`.
pub fn rounds(default: usize) -> usize {
    let chosen = std::env::var("PGKEEP_BENCH_ROUNDS").ok();
    chosen.and_then(|rounds| rounds.parse().ok()).unwrap_or(default)
}

/// How long each request waits: `PGKEEP_BENCH_LATENCY_MS`, or not at all.
pub fn latency() -> Duration {
    let chosen = std::env::var("PGKEEP_BENCH_LATENCY_MS").ok();
    Duration::from_millis(chosen.and_then(|latency| latency.parse().ok()).unwrap_or(0))
}

/// A number from the environment, or `default`.
pub fn setting(name: &str, default: usize) -> usize {
    let chosen = std::env::var(name).ok();
    chosen.and_then(|number| number.parse().ok()).unwrap_or(default)
}

/// A program of PostgreSQL: of the major whose programs lie in `PGKEEP_BENCH_BIN`, or of 15, as Debian installs it,
/// where that folder is not named or does not hold it.
pub fn tool(name: &str) -> PathBuf {
    let chosen =
        std::env::var_os("PGKEEP_BENCH_BIN").map(|folder| PathBuf::from(folder).join(name));
    let debian = || PathBuf::from("/usr/lib/postgresql/15/bin").join(name);
    chosen.filter(|path| path.is_file()).unwrap_or_else(debian)
}

/// Where a program of the system is, if it is installed.
pub fn installed(name: &str) -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin"]
        .iter()
        .map(|folder| PathBuf::from(folder).join(name))
        .find(|path| path.is_file())
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
