//! Exit codes: the one table.
//!
//! Scripts and timers depend on them; a code is never given another meaning. `archive-get` and
//! `archive-push` have codes of their own, because PostgreSQL obeys them: see [`super::fate`].

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Not done.
    Failed = 1,
    /// The command line makes no sense: nothing was tried.
    Usage = 2,
    /// Done, with something that has to be looked at, such as invalid pages in a backup.
    Warnings = 3,
    /// There is no repository where the configuration says, or it does not know the cluster.
    NoRepository = 10,
    /// Somebody else is at it: another backup of the cluster runs.
    Locked = 11,
    /// The secret at hand does not open the repository.
    WrongKey = 12,
    /// No backup and WAL lead to the recovery target.
    TargetNotReachable = 13,
    /// `check` or `verify` found something that fails, `wal gaps` a hole. Warnings alone do not: they exit
    /// with 0.
    ProblemsFound = 14,
    /// The directory to restore into is not empty, or a server runs on it.
    DirectoryInUse = 15,
    /// What is needed lies in cold storage and has to be thawed.
    Cold = 16,
    /// Stopped by SIGINT or SIGTERM; nothing half-made is left visible.
    Interrupted = 130,
}

impl Exit {
    /// Every code, with what the help says about it.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::Ok, "done"),
        (Self::Failed, "failed"),
        (Self::Usage, "wrong usage"),
        (Self::Warnings, "done, with warnings"),
        (Self::NoRepository, "no repository there, or the cluster is not registered in it"),
        (Self::Locked, "locked: another backup of the cluster runs"),
        (Self::WrongKey, "the key or passphrase at hand does not open the repository"),
        (Self::TargetNotReachable, "the recovery target cannot be reached"),
        (Self::ProblemsFound, "check or verify found problems, or wal gaps a hole"),
        (Self::DirectoryInUse, "the directory is in use or not empty"),
        (Self::Cold, "objects are in cold storage"),
        (Self::Interrupted, "interrupted"),
    ];

    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The table as text, for the help.
    #[must_use]
    pub fn table() -> String {
        let mut text = String::from("Exit codes:\n");
        for (exit, meaning) in Self::ALL {
            text.push_str(&format!("  {:>3}  {meaning}\n", exit.code()));
        }
        text.push_str(
            "  archive-get: 0 delivered, 1 proven absent (or a standby in doubt), 143 on SIGTERM, 200 everything else\n  \
             archive-push: 0 durable in every repository, 1 everything else",
        );
        text
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_is_documented() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 130]);
        for code in codes {
            assert!(Exit::table().contains(&format!("{code:>3}  ")), "{code}");
        }
    }
}
