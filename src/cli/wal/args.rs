//! What may be typed after `wal`. The comments here are the help texts.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with archived WAL.
#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// Show the archived WAL: ranges and holes of each timeline, where it was left, partial segments
    #[command(after_help = "Example:\n  pgkeep wal list --json | jq '.repositories[].timelines'")]
    List(WalShowArgs),
    /// Show what is missing of the archived WAL, what that costs, and the way out
    #[command(
        after_help = "From the oldest backup on, or of all WAL where there is no backup, also where a \
                            timeline was left. Exits with 14 when something is missing, with 0 \
                            otherwise.\n\nExample:\n  pgkeep wal gaps || echo 'WAL is missing'"
    )]
    Gaps(WalShowArgs),
    /// Store the WAL that only a former primary or standby still has
    #[command(
        after_help = "DIR is a data directory, its server stopped or running, a pg_wal directory, a copy \
                      of one, or a folder of loose WAL files. Each file is checked against the cluster as \
                      archive-push does; what is not this cluster's, not whole or not finished is left, \
                      with the reason. First write wins: what is archived stays, and a file of that name \
                      with other content is told, with exit code 1. Prints the plan and asks before it \
                      begins.\n\nExamples:\n  pgkeep wal backfill --from /var/lib/postgresql/15/main \
                      --dry-run\n  pgkeep wal backfill --from /mnt/old-primary/pg_wal"
    )]
    Backfill(BackfillArgs),
}

/// Of `wal list` and `wal gaps`.
#[derive(Debug, Args)]
pub struct WalShowArgs {
    /// Show this epoch [default: the newest]
    #[arg(long, value_name = "N")]
    pub epoch: Option<u32>,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Of `wal backfill`.
#[derive(Debug, Args)]
pub struct BackfillArgs {
    /// Where the files are: a data directory, or a folder of WAL files
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Store segments of a WAL version that this pgkeep does not know, without looking into them
    #[arg(long)]
    pub accept_unknown_wal: bool,
    /// Print the plan and store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Print the result (or the plan) as JSON
    #[arg(long)]
    pub json: bool,
}
