//! `wal`: what is archived, what is missing, and how it gets in after all.

mod args;
mod backfill;
mod contents;
mod gaps;
mod list;

pub use args::WalCommand;

use super::error::Failure;
use super::exit::Exit;
use super::invocation::Invocation;

/// Runs one of the commands.
pub fn wal(run: &Invocation, command: &WalCommand) -> Result<Exit, Failure> {
    match command {
        WalCommand::List(args) => list::list(run, args),
        WalCommand::Gaps(args) => gaps::gaps(run, args),
        WalCommand::Backfill(args) => backfill::backfill(run, args),
    }
}
