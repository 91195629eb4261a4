//! The PostgreSQL servers on this machine, as `scripts/install-servers` leaves them.
//!
//! A server that is missing is a skip that shows, also in a passing run, and a failure when
//! `PGKEEP_REQUIRE_LIVE=1`. `PGKEEP_SKIP_LIVE=1` skips all of them.

use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Every major that pgkeep supports.
pub const MAJORS: [u32; 5] = [14, 15, 16, 17, 18];

/// The major whose client tools serve all servers.
const TOOLS_MAJOR: u32 = 15;

/// The programs of one major.
#[derive(Debug, Clone)]
pub struct Server {
    major: u32,
    bin: PathBuf,
}

impl Server {
    /// The server of this major. Nothing when it is not here, which has then been said: the test
    /// returns. The tools of 15 count as a part of every major.
    pub fn major(major: u32) -> Option<Self> {
        if is_set("PGKEEP_SKIP_LIVE") {
            return skip("PGKEEP_SKIP_LIVE=1");
        }
        if !tool("psql").is_file() {
            return skip("the client tools of PostgreSQL 15 are not installed");
        }
        let found = bin_dirs(major).into_iter().find(|bin| bin.join("initdb").is_file());
        match found {
            Some(bin) => Some(Self { major, bin }),
            None => skip(&format!("PostgreSQL {major} is not installed")),
        }
    }

    /// PostgreSQL 15, the one that comes with all its tools.
    pub fn main() -> Option<Self> {
        Self::major(TOOLS_MAJOR)
    }

    /// Every server that is here; each missing one is a skip of its own.
    pub fn all() -> Vec<Self> {
        MAJORS.into_iter().filter_map(Self::major).collect()
    }

    /// Its major version.
    pub fn version(&self) -> u32 {
        self.major
    }

    /// A program of this very major; only 15 has more than initdb, pg_ctl and postgres.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The folder of its programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }
}

/// A client tool: psql, pgbench, pg_waldump and the like, of PostgreSQL 15.
pub fn tool(name: &str) -> PathBuf {
    debian_bin(TOOLS_MAJOR).join(name)
}

/// An S3 server that others wrote, beside the servers of PostgreSQL.
pub fn moto() -> Option<PathBuf> {
    if is_set("PGKEEP_SKIP_LIVE") {
        return skip("PGKEEP_SKIP_LIVE=1");
    }
    let programs = unpacked_dirs().into_iter().map(|dir| dir.join("moto/bin/moto_server"));
    programs.into_iter().find(|path| path.is_file()).or_else(|| skip("moto is not installed"))
}

/// Says that this test is skipped and why, past the capture of output; fails where skips are not
/// allowed. Always nothing, so that callers can return it.
#[allow(clippy::explicit_write, reason = "eprintln is captured in a test that passes")]
pub fn skip<T>(reason: &str) -> Option<T> {
    assert!(
        !is_set("PGKEEP_REQUIRE_LIVE"),
        "{reason}, and PGKEEP_REQUIRE_LIVE=1 (scripts/install-servers installs the servers)"
    );
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}").unwrap();
    None
}

fn bin_dirs(major: u32) -> Vec<PathBuf> {
    let unpacked = unpacked_dirs().into_iter().map(|dir| dir.join(major.to_string()).join("bin"));
    std::iter::once(debian_bin(major)).chain(unpacked).collect()
}

fn debian_bin(major: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"))
}

/// Where `scripts/install-servers` unpacks: as told, else for root, else for anybody.
fn unpacked_dirs() -> Vec<PathBuf> {
    if let Some(chosen) = variable("PGKEEP_SERVERS_DIR") {
        return vec![PathBuf::from(chosen)];
    }
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")));
    let own = cache.map(|cache| cache.join("pgkeep/servers"));
    [PathBuf::from("/var/cache/pgkeep/servers")].into_iter().chain(own).collect()
}

fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn is_set(name: &str) -> bool {
    variable(name).is_some_and(|value| value == "1")
}
