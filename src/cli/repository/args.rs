//! What may be typed after `repository`. The comments here are the help texts.

use clap::{Args, Subcommand};

use crate::cli::restore::SpeedArg;
use crate::repo::BackupId;

/// What to do with a repository.
#[derive(Debug, Subcommand)]
pub enum RepositoryCommand {
    /// Show what is stored, by kind and storage class, and what that costs a month
    #[command(
        after_help = "Everything in the repository is listed, a request for a thousand objects. Costs are those \
                      of storage alone, by [repository.<name>.prices].\n\nExample:\n  pgkeep repository stats \
                      --json | jq '.repositories[].monthly'"
    )]
    Stats(StatsArgs),
    /// Print the lifecycle rules that go with tiering by tag, and one that ends uploads which were left
    #[command(
        after_help = "Nothing is changed. A bucket has one lifecycle configuration: add these rules to those that it \
                      has.\n\nExample:\n  pgkeep repository lifecycle > rules.json"
    )]
    Lifecycle,
    /// Thaw a backup that lies in cold storage, with all that it stands on, ahead of a restore
    #[command(
        after_help = "Says what is cold, how long a thaw takes and what class of price it has, and asks before \
                      it is requested. Until the thawed copies end, neither expire nor tiering touches the \
                      backup.\n\nExamples:\n  pgkeep repository thaw 20261120-020000F --dry-run\n  pgkeep \
                      repository thaw 20261120-020000F --speed bulk --days 14 --yes"
    )]
    Thaw(ThawArgs),
}

/// Of `repository stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Of `repository thaw`.
#[derive(Debug, Args)]
pub struct ThawArgs {
    /// The backup, as `pgkeep info` names it
    #[arg(value_name = "BACKUP")]
    pub backup: BackupId,
    /// The epoch that the backup is of; the newest unless given
    #[arg(long, value_name = "N")]
    pub epoch: Option<u32>,
    /// How fast
    #[arg(long, value_name = "SPEED", default_value = "standard")]
    pub speed: SpeedArg,
    /// How many days what was thawed stays readable [default: tiering.thaw_days]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=365))]
    pub days: Option<u16>,
    /// Wait until all can be read
    #[arg(long)]
    pub wait: bool,
    /// Print what is cold and request nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Print the result (or what is cold) as JSON
    #[arg(long)]
    pub json: bool,
}
