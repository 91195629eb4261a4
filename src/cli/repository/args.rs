//! What may be typed after `repository`. The comments here are the help texts.

use std::num::NonZeroU8;

use clap::{Args, Subcommand};

use crate::cli::restore::SpeedArg;
use crate::repo::BackupId;

/// What to do with a repository.
#[derive(Debug, Subcommand)]
pub enum RepositoryCommand {
    /// Copy a cluster's backups and WAL, or one backup, from one repository to another
    #[command(
        after_help = "For a second region, or to leave a provider. Everything is sealed again by the other \
                      repository's key and keeps its name; what is there is not copied again, so the same command \
                      goes on after an interruption. Backups and WAL that the rules of the other one would not keep \
                      are left out. Nothing is copied out of a repository's jurisdiction. Exits with 16 when packs \
                      must be thawed first, with 3 when something had to be left out.\n\nExamples:\n  pgkeep \
                      repository copy --from local --to offsite --dry-run\n  pgkeep repository copy --from local \
                      --to offsite --backup 20261120-020000F"
    )]
    Copy(CopyArgs),
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

/// Of `repository copy`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// The repository that is read
    #[arg(long, value_name = "NAME")]
    pub from: String,
    /// The repository that is written
    #[arg(long, value_name = "NAME")]
    pub to: String,
    /// Copy this backup only, with what it stands on and the WAL from its start to its end
    #[arg(long, value_name = "BACKUP")]
    pub backup: Option<BackupId>,
    /// Copy this epoch only
    #[arg(long, value_name = "N")]
    pub epoch: Option<u32>,
    /// How many packs are copied at a time [default: the cluster's jobs]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroU8>,
    /// Print the plan and copy nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the result (or the plan) as JSON
    #[arg(long)]
    pub json: bool,
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
