//! What to run after a restore, word by word.

use std::path::Path;

use super::external::{External, server_options};
use super::installed::Programs;
use super::options::{Archiving, Options};
use super::shell;
use crate::pg::recovery::TargetAction;
use crate::repo::OpenedBackup;

/// How long `pg_ctl start` waits for the server to take connections.
const START_SECONDS: u32 = 600;

/// As whom the server runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Account {
    /// As whoever runs the commands.
    Own,
    /// As the owner of the data directory: its name here, or its numbers.
    Other { user: Option<String>, uid: u32, gid: u32 },
}

impl Account {
    /// Root restores files with their owners, and PostgreSQL refuses to run as root.
    pub(super) fn of(opened: &OpenedBackup) -> Self {
        let owner = opened.find_row(b"").ok().flatten().map(|row| (row.uid, row.gid));
        match owner {
            Some((uid, gid)) if rustix::process::geteuid().is_root() && uid != 0 => {
                let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
                Self::Other { user: user_name(&users, uid), uid, gid }
            }
            _ => Self::Own,
        }
    }

    fn prefix(&self) -> Vec<String> {
        // setpriv is part of util-linux; sudo may not be there in a container.
        match self {
            Self::Own => Vec::new(),
            Self::Other { user, uid, gid } => {
                let groups = if user.is_some() { "--init-groups" } else { "--clear-groups" };
                let user = user.clone().unwrap_or_else(|| uid.to_string());
                let (user, group) = (format!("--reuid={user}"), format!("--regid={gid}"));
                vec!["setpriv".into(), user, group, groups.into()]
            }
        }
    }
}

fn user_name(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The command that starts the restored server. With configuration files outside the data directory,
/// the server's command line says where everything is.
pub(super) fn start_command(
    programs: &Programs,
    to: &Path,
    account: &Account,
    external: &External,
) -> String {
    let log = to.join("startup.log");
    let mut words = pg_ctl(programs, account);
    words.extend(["start", "-w", "-t"].map(str::to_owned));
    words.push(START_SECONDS.to_string());
    words.extend(["-D".to_owned(), to.display().to_string()]);
    words.extend(["-l".to_owned(), log.display().to_string()]);
    let mut options = external.start_options.clone();
    if external.lacks_main {
        options = vec![
            ("config_file".into(), "FILE".into()),
            ("data_directory".into(), to.display().to_string()),
        ];
    }
    if !options.is_empty() {
        // pg_ctl hands them to a shell of its own.
        words.extend(["-o".to_owned(), server_options(&options)]);
    }
    line(&words)
}

/// Start, look, decide, go on. `at_target` is what the server does there, where it is given a target.
pub(super) fn steps(
    options: &Options,
    programs: &Programs,
    account: &Account,
    external: &External,
    at_target: Option<TargetAction>,
) -> Vec<String> {
    let mut steps = vec![start_command(programs, &options.to, account, external)];
    let psql = |sql: &str| {
        let mut words = account.prefix();
        words.extend(["psql", "-X", "-d", "postgres", "-c", sql].map(str::to_owned));
        line(&words)
    };
    steps.push(psql("SELECT pg_is_in_recovery(), pg_last_xact_replay_timestamp()"));
    let promote = || {
        let mut words = pg_ctl(programs, account);
        words.extend(["promote", "-D"].map(str::to_owned));
        words.push(options.to.display().to_string());
        line(&words)
    };
    if options.standby {
        steps.push(promote());
    } else if at_target == Some(TargetAction::Pause) {
        steps.push(psql("SELECT pg_wal_replay_resume()"));
    }
    if options.archiving == Archiving::On && !options.standby {
        let words = options.restore_command.program.iter().cloned();
        let backup = ["backup", "--type", "full"].map(str::to_owned);
        steps.push(line(&words.chain(backup).collect::<Vec<_>>()));
    }
    steps
}

fn pg_ctl(programs: &Programs, account: &Account) -> Vec<String> {
    let program = programs.bin_directory.as_ref().map(|bin| bin.join("pg_ctl"));
    let program = program.map_or_else(|| "pg_ctl".into(), |path| path.display().to_string());
    let mut words = account.prefix();
    words.push(program);
    words
}

fn line(words: &[String]) -> String {
    words.iter().map(|word| shell::word(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_started_by_its_own_pg_ctl_as_the_owner_of_its_files() {
        let mut programs = Programs::default();
        let to = Path::new("/srv/my data");
        assert_eq!(
            start_command(&programs, to, &Account::Own, &External::default()),
            "pg_ctl start -w -t 600 -D '/srv/my data' -l '/srv/my data/startup.log'"
        );
        programs.bin_directory = Some("/opt/bin".into());
        let user = Account::Other { user: Some("postgres".into()), uid: 105, gid: 113 };
        let file = ("config_file".to_owned(), "/etc/it's/postgresql.conf".to_owned());
        let apart = External { start_options: vec![file], ..External::default() };
        let to = Path::new("/srv/data");
        assert_eq!(
            start_command(&programs, to, &user, &apart),
            "setpriv --reuid=postgres --regid=113 --init-groups /opt/bin/pg_ctl start -w -t 600 -D /srv/data -l \
             /srv/data/startup.log -o '-c '\\''config_file=/etc/it'\\''\\'\\'''\\''s/postgresql.conf'\\'''"
        );
        let nameless = Account::Other { user: None, uid: 105, gid: 113 };
        let started = start_command(&programs, to, &nameless, &External::default());
        assert!(
            started.starts_with(
                "setpriv --reuid=105 --regid=113 --clear-groups /opt/bin/pg_ctl start "
            )
        );
    }

    #[test]
    fn accounts_are_found_by_number() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres:x:105:113::/var/lib:/bin/sh\nodd\n";
        assert_eq!(user_name(users, 105).as_deref(), Some("postgres"));
        assert_eq!(user_name(users, 113), None);
    }
}
