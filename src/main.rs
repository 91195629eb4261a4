//! The `pgkeep` binary: hand the arguments to [`pgkeep::cli`] and return its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgkeep::cli::main(std::env::args_os())
}
