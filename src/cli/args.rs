//! What may be typed. The comments here are the help texts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::exit::Exit;
use super::repository::RepositoryCommand;
use super::restore::RestoreArgs;
use super::wal::WalCommand;
use crate::base::{ByteSize, Timestamp};
use crate::config::parse_duration;
use crate::pg::Lsn;
use crate::repo::{BackupId, BackupType};
use crate::restore::parse_time;

/// Backup, WAL archive and point-in-time recovery for PostgreSQL
#[derive(Debug, Parser)]
#[command(
    name = "pgkeep",
    version,
    after_help = "Begin with `pgkeep init`, then `pgkeep check`. In an emergency: `pgkeep info`, \
                  then `pgkeep restore --dry-run`.",
    after_long_help = Exit::table(),
    disable_help_subcommand = false,
    max_term_width = 100,
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Configuration file [default: /etc/pgkeep/pgkeep.toml, or PGKEEP_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which cluster; not needed when only one is configured
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Which repository; not needed when there is one, or one is marked as default
    #[arg(long, global = true, value_name = "NAME")]
    pub repository: Option<String>,
    /// How much to log on stderr [default: info; warn for archive-push and archive-get]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// How to write the log
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorWhen,
}

/// How much to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Only what failed
    Error,
    /// And what should be looked at
    Warn,
    /// And what happens
    Info,
    /// And how
    Debug,
    /// And everything else
    Trace,
}

/// How to write the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// An object per line
    Json,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or open the repositories and register the cluster; safe to repeat
    #[command(
        after_help = "Makes a missing key file, and prints the lines for postgresql.conf.\n\n\
                            Example:\n  sudo -u postgres pgkeep init"
    )]
    Init(InitArgs),
    /// Look at everything that archiving and backups need: one line each, and what to do
    #[command(after_help = "Exits with 14 when something fails; with 0 when there are only \
                            warnings.\n\nExample:\n  pgkeep check --json | jq '.findings[] | \
                            select(.level != \"ok\")'")]
    Check(CheckArgs),
    /// Take a backup
    #[command(after_help = "Examples:\n  pgkeep backup --dry-run\n  pgkeep backup --jobs 2 \
                            --max-rate 50MiB\n\nExits with 3 when the backup is complete but pages \
                            were invalid. Ctrl-C gives the backup up cleanly; a second one kills.")]
    Backup(BackupArgs),
    /// Archive one WAL file: what archive_command runs
    #[command(
        after_help = "Example, in postgresql.conf:\n  archive_command = 'pgkeep archive-push \
                      \"%p\"'\n\nExits with 0 only when the file is durable in every repository."
    )]
    ArchivePush(PushArgs),
    /// Fetch one WAL file: what restore_command runs
    #[command(
        after_help = "Example, in postgresql.conf:\n  restore_command = 'pgkeep archive-get %f \
                      \"%p\"'\n\nExits: 0 delivered, 1 proven absent (or a standby in \
                      doubt, which goes on by streaming), 143 on SIGTERM, 200 everything else."
    )]
    ArchiveGet(GetArgs),
    /// Restore to a point in time, into a new or empty directory, or over an old one
    #[command(
        after_help = "Examples:\n  pgkeep restore --dry-run --to /srv/restored\n  pgkeep restore \
                      --to /srv/restored --target-time '2026-11-20 08:30:00+00'\n  pgkeep restore \
                      --delta --to /srv/restored\n\nWithout a target \
                      all archived WAL is replayed. Prints the plan and asks before it begins."
    )]
    Restore(RestoreArgs),
    /// Make a restored copy the cluster itself: it archives, follows and runs jobs again
    #[command(
        after_help = "A restore elsewhere than into the cluster's own directory makes a copy \
                            that leaves its source alone. This takes the copy's marker and settings \
                            away.\n\nExample:\n  pgkeep adopt /srv/restored"
    )]
    Adopt(AdoptArgs),
    /// Show what can be restored: window, holes, backups, sizes
    #[command(after_help = "Example:\n  pgkeep info --json | jq -r '.repositories[].verdict'")]
    Info(InfoArgs),
    /// Remove what retention does not keep: backups, their WAL, and what interrupted work has left
    #[command(
        after_help = "Says of each backup why it stays. Where [repository.<name>.retention] is not \
                            written, no backup and no WAL is removed. Rules that were changed and would \
                            remove more than retention.guard of the backups, or of the WAL, need --yes.\n\nExamples:\n  \
                            pgkeep expire --dry-run\n  pgkeep --repository offsite expire"
    )]
    Expire(ExpireArgs),
    /// Keep a backup, whatever retention says
    #[command(
        after_help = "It stays with what it stands on and the WAL from its start to its end. `pgkeep \
                            unpin` lets it go.\n\nExample:\n  pgkeep pin 20261120-020000F --reason \
                            'audit of 2026' --until '2034-01-01 00:00:00+00'"
    )]
    Pin(PinArgs),
    /// No longer keep a backup that was pinned
    Unpin(UnpinArgs),
    /// Show the archived WAL and what is missing of it, and store what only a server still has
    #[command(subcommand)]
    Wal(WalCommand),
    /// Look at a repository as a whole, what it holds and costs; copy it to another; thaw what is cold
    #[command(subcommand)]
    Repository(RepositoryCommand),
    /// Manage the key slots of a repository
    #[command(subcommand)]
    Key(KeyCommand),
    /// Serve all clusters: WAL is pushed and fetched ahead
    #[command(
        after_help = "Runs in the foreground until SIGTERM; SIGHUP reads the configuration again. \
                            archive-push and archive-get find it by daemon.socket, and work without \
                            it when it is away.\n\nExample:\n  sudo -u postgres pgkeep daemon"
    )]
    Daemon(DaemonArgs),
    /// Wait until the daemon has nothing left to archive: for a pre-stop hook
    #[command(
        after_help = "Exits with 0 when nothing is pending, or no daemon runs; with 1 when the \
                            time is over.\n\nExample:\n  pgkeep drain --timeout 120s"
    )]
    Drain(DrainArgs),
}

/// Of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Begin a new archive for this cluster, beside the old one, because history has forked under the
    /// same names: a disk or VM was rolled back, pg_resetwal was run, two servers took one timeline
    #[arg(long)]
    pub new_epoch: bool,
}

/// Of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// Of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// What to store: everything, or what changed since the last full (diff) or last backup (incr)
    #[arg(long = "type", value_name = "TYPE", default_value = "full")]
    pub backup_type: TypeArg,
    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the result (or the plan) as JSON
    #[arg(long)]
    pub json: bool,
    /// How many workers copy [default: the configuration's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Bytes per second to read at most, such as 50MiB [default: the configuration's]
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    pub max_rate: Option<ByteSize>,
    /// Read every file, also those that nobody has touched since the parent by all that stat says
    #[arg(long)]
    pub no_skip: bool,
    /// Use nothing of what interrupted backups have stored
    #[arg(long)]
    pub no_resume: bool,
}

/// Types of backups as they are typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TypeArg {
    /// Everything
    Full,
    /// What changed since the last full
    Diff,
    /// What changed since the last backup
    Incr,
}

impl From<TypeArg> for BackupType {
    fn from(typed: TypeArg) -> Self {
        match typed {
            TypeArg::Full => Self::Full,
            TypeArg::Diff => Self::Differential,
            TypeArg::Incr => Self::Incremental,
        }
    }
}

/// Of `archive-push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// The file, as PostgreSQL's %p gives it
    pub path: PathBuf,
    /// Store segments of a WAL version that this pgkeep does not know, without looking into them
    #[arg(long)]
    pub accept_unknown_wal: bool,
    /// Ask the daemon that listens here; no configuration is needed then [default: daemon.socket]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Of `archive-get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The file's name, as PostgreSQL's %f gives it
    pub name: String,
    /// Where to put it, as PostgreSQL's %p gives it
    pub path: PathBuf,
    /// WAL up to here is known to be archived: absence before it is an error
    #[arg(long, value_name = "LSN")]
    pub through: Option<Lsn>,
    /// From this epoch's archive [default: the newest]
    #[arg(long, value_name = "N")]
    pub epoch: Option<u32>,
    /// Ask the daemon that listens here; no configuration is needed then [default: daemon.socket]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Of `daemon`.
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// Listen here [default: daemon.socket]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Of `drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Print what is going on in the end as JSON
    #[arg(long)]
    pub json: bool,
    /// Ask the daemon that listens here; no configuration is needed then [default: daemon.socket]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Of `adopt`.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The copy [default: the configuration's data directory]
    pub data_directory: Option<PathBuf>,
    /// Print what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Print the result (or the plan) as JSON
    #[arg(long)]
    pub json: bool,
}

/// Of `info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Show this epoch [default: the newest]
    #[arg(long, value_name = "N")]
    pub epoch: Option<u32>,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

/// Of `expire`.
#[derive(Debug, Args)]
pub struct ExpireArgs {
    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask where changed rules would remove much
    #[arg(long)]
    pub yes: bool,
    /// Print the result (or the plan) as JSON
    #[arg(long)]
    pub json: bool,
    /// As the daemon runs it: the result goes to the log, nobody is asked, and it ends when stdin does
    #[arg(long, hide = true, conflicts_with_all = ["dry_run", "yes", "json"])]
    pub scheduled: bool,
}

/// Of `pin`.
#[derive(Debug, Args)]
pub struct PinArgs {
    /// The backup, as `pgkeep info` names it
    #[arg(value_name = "BACKUP")]
    pub backup: BackupId,
    /// Why; `pgkeep info` shows it
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Until when; a zone is needed: '2034-01-01 00:00:00+00'. For good without
    #[arg(long, value_name = "T", value_parser = parse_time)]
    pub until: Option<Timestamp>,
    /// The epoch that the backup is of; the newest unless given
    #[arg(long, value_name = "N")]
    pub epoch: Option<u32>,
}

/// Of `unpin`.
#[derive(Debug, Args)]
pub struct UnpinArgs {
    /// The backup, as `pgkeep info` names it
    #[arg(value_name = "BACKUP")]
    pub backup: BackupId,
    /// The epoch that the backup is of; the newest unless given
    #[arg(long, value_name = "N")]
    pub epoch: Option<u32>,
}

/// What to do with key slots.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Let another key file or passphrase open the repository
    #[command(
        after_help = "A key file that does not exist is made.\n\nExamples:\n  pgkeep key add \
                            --key-file /media/safe/spare.key --label spare\n  pgkeep key add \
                            --passphrase-command 'systemd-ask-password' --label safe"
    )]
    Add(KeyAddArgs),
    /// Show the key slots and which of them the configured secret opens
    List(KeyListArgs),
    /// Remove a key slot, never the last one
    #[command(
        after_help = "Who holds its secret and a copy of the slot can still read everything \
                            that is stored: `pgkeep key rotate` protects what is stored from now \
                            on."
    )]
    Remove(KeyRemoveArgs),
    /// Make a new master key for everything that is stored from now on
    #[command(after_help = "Slots of other secrets open only what was stored before: add them \
                            again.")]
    Rotate,
}

/// Of `key add`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("secret").required(true).multiple(false))]
pub struct KeyAddArgs {
    /// A key file; made if it does not exist
    #[arg(long, value_name = "PATH", group = "secret")]
    pub key_file: Option<PathBuf>,
    /// A file with a passphrase
    #[arg(long, value_name = "PATH", group = "secret")]
    pub passphrase_file: Option<PathBuf>,
    /// A command that prints a passphrase
    #[arg(long, value_name = "CMD", group = "secret")]
    pub passphrase_command: Option<String>,
    /// What to call the slot
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub label: String,
}

/// Of `key list`.
#[derive(Debug, Args)]
pub struct KeyListArgs {
    /// Print the slots as JSON
    #[arg(long)]
    pub json: bool,
}

/// Of `key remove`.
#[derive(Debug, Args)]
pub struct KeyRemoveArgs {
    /// The slot's name, as `pgkeep key list` shows it
    pub slot: String,
}

fn rate(text: &str) -> Result<ByteSize, String> {
    match text.parse::<ByteSize>().map_err(|error| error.to_string())? {
        ByteSize(0) => Err("nothing would ever be read".into()),
        rate => Ok(rate),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::fate::{COMMANDS, FLAGS_WITH_VALUE};
    use super::*;

    #[test]
    fn the_parser_is_sound_and_fate_knows_its_words() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        let mut names: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        let mut known = COMMANDS;
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(names, known);
        let with_value = command.get_arguments().filter(|arg| arg.get_action().takes_values());
        let mut flags: Vec<_> =
            with_value.filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect();
        let mut known = FLAGS_WITH_VALUE.map(str::to_owned);
        flags.sort_unstable();
        known.sort_unstable();
        assert_eq!(flags, known);
    }

    #[test]
    fn every_argument_has_a_help_text() {
        fn look(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{}: {}", command.get_name(), argument);
            }
            assert!(command.get_about().is_some(), "{}", command.get_name());
            command.get_subcommands().for_each(look);
        }
        look(&Cli::command());
    }
}
