//! Settings that recovery must be able to follow, where the source raised them after the backup.
//!
//! A hot standby, and so is every recovery that can be looked at, pauses at the record of a change that
//! it cannot follow, before its target, and the server ends when it is told to go on
//! (`CheckRequiredParameterValues`, `RecoveryRequiresIntParameter`, src/backend/access/transam/). So what
//! is missing is written to the end of `postgresql.auto.conf`, which wins over every other file.

use super::configured::{Configured, ServerFiles};
use crate::pg::Lsn;
use crate::pg::control_file::Settings;
use crate::repo::FoundParameters;

/// A setting that is raised for the restored server.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Raised {
    /// Its name.
    pub name: &'static str,
    /// What is written.
    pub value: u32,
    /// What the backup's configuration has, where that is known.
    pub configured: Option<u32>,
    /// Where the source raised it; absent where that was before the backup.
    pub lsn: Option<Lsn>,
}

impl Raised {
    /// In words.
    pub(super) fn warning(&self) -> String {
        let Self { name, value, .. } = self;
        let has = match self.configured {
            Some(configured) => format!("the backup's configuration has {configured}"),
            None => "what the configuration has is not known".into(),
        };
        let why = match self.lsn {
            Some(lsn) => format!("the source raised it at {lsn}"),
            None => "the source ran with it".into(),
        };
        format!(
            "{name} = {value} is written for the restored server: {why}, {has}, and recovery stops \
             for good with less"
        )
    }
}

/// A setting with its default, in a control file and in a record.
type Numbers = (&'static str, u32, fn(&Settings) -> u32, fn(&FoundParameters) -> u32);

/// Defaults: `src/backend/utils/misc/guc*.c`, 14 to 18.
const NUMBERS: [Numbers; 5] = [
    ("max_connections", 100, |at| at.max_connections, |at| at.max_connections),
    ("max_worker_processes", 8, |at| at.max_worker_processes, |at| at.max_worker_processes),
    ("max_wal_senders", 10, |at| at.max_wal_senders, |at| at.max_wal_senders),
    (
        "max_prepared_transactions",
        0,
        |at| at.max_prepared_transactions,
        |at| at.max_prepared_transactions,
    ),
    (
        "max_locks_per_transaction",
        64,
        |at| at.max_locks_per_transaction,
        |at| at.max_locks_per_transaction,
    ),
];

/// What must be raised: `control` is as the backup has it, `changes` are replayed.
pub(super) fn raised(
    files: &ServerFiles,
    control: &Settings,
    changes: &[FoundParameters],
) -> Vec<Raised> {
    let each = NUMBERS.into_iter().filter_map(|(name, default, at_backup, changed)| {
        let begun = at_backup(control);
        let highest = changes.iter().max_by_key(|change| changed(change));
        let highest = highest.filter(|change| changed(change) > begun);
        let value = highest.map_or(begun, changed);
        let configured = match files.find(name) {
            Configured::Value(text) => text.trim().parse().ok(),
            Configured::Unset => Some(default),
            Configured::Unknown => None,
        };
        let is_enough = match configured {
            Some(configured) => configured >= value,
            None => highest.is_none(),
        };
        let lsn = highest.map(|change| change.lsn);
        (!is_enough).then_some(Raised { name, value, configured, lsn })
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::control_file::WalLevel;

    fn control() -> Settings {
        Settings {
            wal_level: WalLevel::Replica,
            wal_log_hints: false,
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
            track_commit_timestamp: false,
        }
    }

    fn change(lsn: u64, max_connections: u32) -> FoundParameters {
        FoundParameters {
            lsn: Lsn(lsn),
            wal_level: Some("replica".into()),
            max_connections,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
        }
    }

    #[test]
    fn only_what_the_restored_server_lacks_is_raised() {
        let files = |main: Option<&str>| ServerFiles::parsed(main);
        let raised = |main: Option<&str>, control: &Settings, changes: &[FoundParameters]| {
            let found = raised(&files(main), control, changes);
            found.iter().map(|each| (each.name, each.value, each.lsn)).collect::<Vec<_>>()
        };
        let changes = [change(7, 200), change(8, 150)];
        let expected = [("max_connections", 200, Some(Lsn(7)))];
        assert_eq!(raised(Some("max_connections = 100"), &control(), &changes), expected);
        assert_eq!(raised(Some(""), &control(), &changes), expected, "the default");
        assert_eq!(raised(None, &control(), &changes), expected, "nobody knows");
        assert_eq!(raised(Some("max_connections = 300"), &control(), &changes), []);
        assert_eq!(raised(Some(""), &control(), &[change(7, 90)]), [], "lowered");
        assert_eq!(raised(None, &control(), &[]), []);
        // Started with more than the files say, as by a command line.
        let more = Settings { max_wal_senders: 20, ..control() };
        assert_eq!(raised(Some(""), &more, &[]), [("max_wal_senders", 20, None)]);
        assert_eq!(raised(None, &more, &[]), [], "the same command line may come again");
    }
}
