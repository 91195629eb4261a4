//! Who runs the servers: the tests' own user, or an unprivileged account when that user is root.
//!
//! Commands made here have an environment of their own, so that no `PG*` or `PGKEEP_*` variable of
//! whoever runs the tests reaches a server or the binary under test.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// An account that PostgreSQL accepts.
#[derive(Debug)]
pub struct Account {
    /// Who to become; nobody else when the tests do not run as root.
    switch_to: Option<(u32, u32)>,
}

/// The account of this test process: `postgres`, else `nobody`, when the tests run as root.
pub fn unprivileged() -> &'static Account {
    static ACCOUNT: OnceLock<Account> = OnceLock::new();
    ACCOUNT.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return Account { switch_to: None };
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let switch_to = ["postgres", "nobody"].iter().find_map(|name| find_ids(&passwd, name));
        assert!(switch_to.is_some(), "root runs the tests, and there is no postgres and no nobody");
        Account { switch_to }
    })
}

impl Account {
    /// Its user and group id, where they are not this process's own.
    pub fn ids(&self) -> Option<(u32, u32)> {
        self.switch_to
    }

    /// A command that runs as this account in `dir`, with an empty stdin and a known environment.
    pub fn command(&self, program: impl AsRef<OsStr>, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", dir)
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir(dir)
            .stdin(Stdio::null());
        if let Some((uid, gid)) = self.switch_to {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or directory (not what is in it) to this account.
    pub fn own(&self, path: &Path) {
        if let Some((uid, gid)) = self.switch_to {
            std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
        }
    }
}

/// The user and group id of `name` in the text of a passwd file.
pub fn find_ids(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            [found, _, uid, gid, ..] if *found == name => {
                Some((uid.parse().ok()?, gid.parse().ok()?))
            }
            _ => None,
        }
    })
}
