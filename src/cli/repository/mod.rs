//! `repository`: a repository as a whole.

mod args;
mod copy;
mod lifecycle;
mod stats;
mod thaw;

pub use args::RepositoryCommand;

use super::error::Failure;
use super::exit::Exit;
use super::invocation::Invocation;

/// Runs one of the commands.
pub fn repository(run: &Invocation, command: &RepositoryCommand) -> Result<Exit, Failure> {
    match command {
        RepositoryCommand::Copy(args) => copy::copy(run, args),
        RepositoryCommand::Lifecycle => lifecycle::lifecycle(run),
        RepositoryCommand::Stats(args) => stats::stats(run, args),
        RepositoryCommand::Thaw(args) => thaw::thaw(run, args),
    }
}
