//! The command line: reads what was typed, calls the rooms, prints what came of it.
//!
//! A command is an arguments struct whose comments are its help, and a function that is as short as
//! it can be. Sentences about errors are made in [`error`], exit codes in [`exit`], output in
//! [`output`]. What PostgreSQL runs follows rules of its own: [`fate`].

mod adopt;
mod answers;
mod archive;
mod args;
mod backup;
mod check;
mod cold;
mod confirm;
mod daemon;
mod error;
mod exit;
mod expire;
mod fate;
mod hold;
mod info;
mod init;
mod invocation;
mod key;
mod logging;
mod output;
mod own_place;
mod pin;
mod repository;
mod restore;
mod scheduled;
mod server_settings;
mod unreachable;
mod via_daemon;
mod wal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use self::args::{Cli, Command, Global, LogLevel};
use self::error::Failure;
use self::exit::Exit;
use self::fate::{Fate, Outcome};
use self::invocation::Invocation;
use crate::base::Ctx;

/// Runs pgkeep with the process's arguments and returns its exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    fate::quiet_panics();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match Fate::of(&arguments) {
        Fate::Ordinary => ordinary(&arguments),
        fate => fate::guarded(fate, || match Cli::try_parse_from(&arguments) {
            Ok(cli) => for_postgres(fate, cli),
            // Help as well: a command that only prints its help has archived nothing.
            Err(error) => {
                error.print().ok();
                Outcome::Unknown
            }
        }),
    }
}

fn for_postgres(fate: Fate, Cli { global, command }: Cli) -> Outcome {
    let run = Invocation::new(global, LogLevel::Warn);
    let done = match (fate, command) {
        (Fate::ArchiveGet, Command::ArchiveGet(args)) => archive::get(&run, &args),
        (Fate::ArchivePush, Command::ArchivePush(args)) => archive::push(&run, &args),
        // The raw words promised one thing and the parser found another.
        _ => Err(Failure::usage("this command line is not what it looks like")),
    };
    done.unwrap_or_else(|failure| {
        failure.report(run.voice.format, run.voice.color);
        Outcome::Unknown
    })
}

fn ordinary(arguments: &[OsString]) -> ExitCode {
    let Cli { global, command } = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            error.print().ok();
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            return exit.into();
        }
    };
    let fate = match command {
        Command::ArchiveGet(_) => Fate::ArchiveGet,
        Command::ArchivePush(_) => Fate::ArchivePush,
        command => return run(arguments, global, command).into(),
    };
    fate::guarded(fate, || for_postgres(fate, Cli { global, command }))
}

fn run(arguments: &[OsString], global: Global, command: Command) -> Exit {
    let run = Invocation::new(global, LogLevel::Info).typed(arguments);
    let done = match command {
        // Signals tell it to finish what is under way.
        Command::Daemon(args) => daemon::daemon(&run, &args),
        command => cancel_on_signals(&run.ctx).and_then(|()| dispatch(&run, command)),
    };
    done.unwrap_or_else(|failure| {
        failure.report(run.voice.format, run.voice.color);
        failure.exit
    })
}

fn dispatch(run: &Invocation, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Init(args) => init::init(run, &args),
        Command::Check(args) => check::check(run, &args),
        Command::Backup(args) => backup::backup(run, &args),
        Command::Info(args) => info::info(run, &args),
        Command::Key(args) => key::key(run, &args),
        Command::Restore(args) => restore::restore(run, &args),
        Command::Adopt(args) => adopt::adopt(run, &args),
        Command::Expire(args) if args.scheduled => {
            expire::expire(&scheduled::until_stdin_ends(run)?, &args)
        }
        Command::Expire(args) => expire::expire(run, &args),
        Command::Repository(command) => repository::repository(run, &command),
        Command::Pin(args) => pin::pin(run, &args),
        Command::Unpin(args) => pin::unpin(run, &args),
        Command::Drain(args) => daemon::drain(run, &args),
        Command::Daemon(args) => daemon::daemon(run, &args),
        Command::Wal(args) => wal::wal(run, &args),
        Command::ArchivePush(_) | Command::ArchiveGet(_) => {
            Err(Failure::usage("PostgreSQL's commands have rules of their own"))
        }
    }
}

/// The first signal asks the work to end in good order, the second ends the process.
fn cancel_on_signals(ctx: &Ctx) -> Result<(), Failure> {
    let watch = |signal| -> std::io::Result<()> {
        let code = i32::from(Exit::Interrupted.code());
        // Registered first, so that the first signal finds the flag unset.
        flag::register_conditional_shutdown(signal, code, ctx.cancel.flag())?;
        flag::register(signal, ctx.cancel.flag())?;
        Ok(())
    };
    let watched = watch(SIGINT).and_then(|()| watch(SIGTERM));
    watched.map_err(|error| Failure::failed(format!("cannot watch for signals: {error}")))
}
