//! What the daemon runs by the clock: pgkeep itself, in a process of its own.

use std::ffi::OsString;

use clap::ValueEnum;

use super::args::Global;
use super::error::Failure;
use super::exit::Exit;
use super::invocation::Invocation;
use crate::base::detached;
use crate::config::Settings;
use crate::daemon::Job;

/// This very program, also when its file has been replaced since it was started.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What the schedule asks for, for each cluster.
pub fn jobs(run: &Invocation, settings: &Settings) -> Vec<Job> {
    let schedule = settings.schedule();
    let (zone, expire) = (schedule.timezone, schedule.expire.as_ref());
    let each = settings.clusters().filter_map(|(cluster, _)| {
        let words = ["expire", "--scheduled"];
        let command = command(&run.global, cluster, &words);
        let (name, cluster, schedule) = ("expire".to_owned(), cluster.to_owned(), expire?.clone());
        Some(Job { name, cluster, schedule, zone, command })
    });
    let not_yet =
        [("full", &schedule.full), ("diff", &schedule.diff), ("verify", &schedule.verify)];
    for (key, _) in not_yet.iter().filter(|(_, schedule)| schedule.is_some()) {
        run.ctx.warn(format!("schedule.{key} is not carried out by this version"));
    }
    each.collect()
}

/// Its log is written as the daemon's.
fn command(global: &Global, cluster: &str, words: &[&str]) -> Vec<OsString> {
    let mut command: Vec<OsString> = vec![OWN_PROGRAM.into()];
    let mut add = |flag: &str, value: OsString| command.extend([flag.into(), value]);
    if let Some(config) = &global.config {
        add("--config", config.into());
    }
    add("--cluster", cluster.into());
    if let Some(repository) = &global.repository {
        add("--repository", repository.into());
    }
    if let Some(level) = global.log_level {
        add("--log-level", spelt(level));
    }
    add("--log-format", spelt(global.log_format));
    add("--color", spelt(global.color));
    command.extend(words.iter().map(OsString::from));
    command
}

fn spelt(value: impl ValueEnum) -> OsString {
    value.to_possible_value().map(|value| value.get_name().into()).unwrap_or_default()
}

/// What an exit code of such a process means.
pub fn meaning(code: i32) -> &'static str {
    let known = Exit::ALL.iter().find(|(exit, _)| i32::from(exit.code()) == code);
    known.map_or("ended in a way that is not documented", |(_, meaning)| meaning)
}

/// The same, cancelled when stdin ends: that is when the daemon stops, or is gone. Signals keep a flag of their own, for a
/// service manager may send one at the same moment, and a second one ends the process.
pub fn until_stdin_ends(run: &Invocation) -> Result<Invocation, Failure> {
    let ctx = run.ctx.with_child_cancel();
    let cancel = ctx.cancel.clone();
    let watched = detached(move || {
        // Nothing is ever written there.
        std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).ok();
        cancel.cancel();
    });
    watched
        .map_err(|error| Failure::failed(format!("cannot watch for the daemon's end: {error}")))?;
    let mut run = run.clone();
    run.ctx = ctx;
    Ok(run)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};

    #[test]
    fn what_the_daemon_runs_can_be_parsed_and_means_the_same() {
        let words =
            "pgkeep --config /a/b.toml --repository r --log-level debug --log-format json daemon";
        let daemon = Cli::try_parse_from(words.split(' ')).unwrap();
        let command = command(&daemon.global, "main", &["expire", "--scheduled"]);
        assert_eq!(command[0], OWN_PROGRAM);
        let Cli { global, command } = Cli::try_parse_from(command).unwrap();
        let Command::Expire(args) = command else { panic!("{command:?}") };
        assert!(args.scheduled && !args.yes && !args.dry_run);
        assert_eq!(
            (global.cluster.as_deref(), global.repository.as_deref()),
            (Some("main"), Some("r"))
        );
        assert_eq!(global.config, daemon.global.config);
        assert_eq!(
            (global.log_level, global.log_format),
            (daemon.global.log_level, daemon.global.log_format)
        );
        assert_eq!(global.color, daemon.global.color);
        assert_eq!(meaning(0), "done");
        assert!(meaning(11).starts_with("locked"));
        assert!(meaning(77).contains("not documented"));
    }
}
