//! What to run after a restore, word by word.

use std::path::Path;

use super::address::Address;
use super::external::{External, server_options};
use super::installed::Programs;
use super::new_tablespaces::NewTablespace;
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

    /// Commands that make the directories of tablespaces, which replay does not.
    pub(super) fn directories(&self, made: &[NewTablespace]) -> Vec<String> {
        let command = |made: &NewTablespace| {
            let mut words: Vec<String> = ["install", "-d", "-m", "700"].map(str::to_owned).into();
            if let Self::Other { uid, gid, .. } = self {
                words.extend(["-o".into(), uid.to_string(), "-g".into(), gid.to_string()]);
            }
            words.push(made.location.display().to_string());
            line(&words)
        };
        made.iter().filter(|made| !made.exists).map(command).collect()
    }

    /// Its name; `initdb` gives it to the first superuser.
    fn name(&self) -> Option<String> {
        match self {
            Self::Other { user, .. } => user.clone(),
            Self::Own => {
                let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
                user_name(&users, rustix::process::geteuid().as_raw())
            }
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

/// The restored server, as the commands need to know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server<'a> {
    pub programs: &'a Programs,
    pub external: &'a External,
    pub address: &'a Address,
}

/// The command that starts the restored server. With configuration files outside the data directory,
/// the server's command line says where everything is.
pub(super) fn start_command(server: Server<'_>, to: &Path, account: &Account) -> String {
    let Server { programs, external, address } = server;
    let to = to.display().to_string();
    let mut words = account.prefix();
    let is_read = is_read_by_shell(&to);
    if is_read {
        words.extend(["env".into(), format!("PGDATA={to}")]);
    }
    words.push(pg_ctl(programs));
    words.extend(["start", "-w", "-t"].map(str::to_owned));
    words.push(START_SECONDS.to_string());
    if !is_read {
        words.extend(["-D".to_owned(), to.clone()]);
    }
    words.extend(["-l".to_owned(), in_double_quotes(&format!("{to}/startup.log"))]);
    let mut options = external.start_options.clone();
    if external.lacks_main {
        options = vec![("config_file".into(), "FILE".into()), ("data_directory".into(), to)];
    }
    options.extend(address.options.iter().cloned());
    if !options.is_empty() {
        // pg_ctl hands them to a shell of its own.
        words.extend(["-o".to_owned(), server_options(&options)]);
    }
    line(&words)
}

/// What a shell does not take literally between double quotes. `pg_ctl start` puts the data directory
/// and the log there (`start_postmaster`, src/bin/pg_ctl/pg_ctl.c), but not what `PGDATA` says.
fn is_read_by_shell(text: &str) -> bool {
    text.contains(['$', '`', '"', '\\'])
}

/// The text for a program that puts it between double quotes, for a shell.
fn in_double_quotes(text: &str) -> String {
    let escaped = |character: char| match character {
        '$' | '`' | '"' | '\\' => vec!['\\', character],
        _ => vec![character],
    };
    text.chars().flat_map(escaped).collect()
}

/// Start, look, decide, go on. `at_target` is what the server does there, where it is given a target.
pub(super) fn steps(
    options: &Options,
    server: Server<'_>,
    account: &Account,
    at_target: Option<TargetAction>,
) -> Vec<String> {
    let mut steps = vec![start_command(server, &options.to, account)];
    let user = options.user.clone().or_else(|| account.name());
    let psql = |sql: &str| {
        let program = server.programs.psql.as_ref();
        let program = program.map_or_else(|| "psql".into(), |path| path.display().to_string());
        let Address { host, port, .. } = server.address;
        let (host, port) = (host.clone(), port.to_string());
        let mut words = account.prefix();
        words.extend([program, "-X".into(), "-h".into(), host, "-p".into(), port]);
        words.extend(user.iter().flat_map(|user| ["-U".to_owned(), user.clone()]));
        words.extend(["-d", "postgres", "-c", sql].map(str::to_owned));
        line(&words)
    };
    steps.push(psql("SELECT pg_is_in_recovery(), pg_last_xact_replay_timestamp()"));
    let promote = || {
        let mut words = account.prefix();
        words.extend([pg_ctl(server.programs), "promote".into(), "-D".into()]);
        words.push(options.to.display().to_string());
        line(&words)
    };
    if options.standby && at_target.is_none() {
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

fn pg_ctl(programs: &Programs) -> String {
    let program = programs.bin_directory.as_ref().map(|bin| bin.join("pg_ctl"));
    program.map_or_else(|| "pg_ctl".into(), |path| path.display().to_string())
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
        let (inside, address) = (External::default(), Address::default());
        let server = Server { programs: &programs, external: &inside, address: &address };
        assert_eq!(
            start_command(server, to, &Account::Own),
            "pg_ctl start -w -t 600 -D '/srv/my data' -l '/srv/my data/startup.log'"
        );
        programs.bin_directory = Some("/opt/bin".into());
        let user = Account::Other { user: Some("postgres".into()), uid: 105, gid: 113 };
        let file = ("config_file".to_owned(), "/etc/it's/postgresql.conf".to_owned());
        let apart = External { start_options: vec![file], ..External::default() };
        let server = Server { programs: &programs, external: &inside, address: &address };
        let to = Path::new("/srv/data");
        assert_eq!(
            start_command(Server { external: &apart, ..server }, to, &user),
            "setpriv --reuid=postgres --regid=113 --init-groups /opt/bin/pg_ctl start -w -t 600 -D /srv/data -l \
             /srv/data/startup.log -o '-c '\\''config_file=/etc/it'\\''\\'\\'''\\''s/postgresql.conf'\\'''"
        );
        let nameless = Account::Other { user: None, uid: 105, gid: 113 };
        let started = start_command(server, to, &nameless);
        assert!(
            started.starts_with(
                "setpriv --reuid=105 --regid=113 --clear-groups /opt/bin/pg_ctl start "
            )
        );
    }

    #[test]
    fn d20261124_a_path_is_not_read_by_the_shell_of_pg_ctl() {
        let address =
            Address { options: vec![("port".into(), "5433".into())], ..Address::default() };
        let (programs, external) = (Programs::default(), External::default());
        let server = Server { programs: &programs, external: &external, address: &address };
        assert_eq!(
            start_command(server, Path::new("/srv/a$b"), &Account::Own),
            "env 'PGDATA=/srv/a$b' pg_ctl start -w -t 600 -l '/srv/a\\$b/startup.log' -o '-c port=5433'"
        );
    }

    #[test]
    fn accounts_are_found_by_number() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres:x:105:113::/var/lib:/bin/sh\nodd\n";
        assert_eq!(user_name(users, 105).as_deref(), Some("postgres"));
        assert_eq!(user_name(users, 113), None);
    }
}
