//! `daemon`: one process for all clusters. `drain`: until it has nothing left to do.

use std::time::Duration;

use serde_json::json;

use super::args::{DaemonArgs, DrainArgs};
use super::error::Failure;
use super::exit::Exit;
use super::invocation::Invocation;
use super::output::{print, print_json};
use super::scheduled;
use super::via_daemon::{request, told};
use crate::base::large_blocks;
use crate::config::Settings;
use crate::daemon::{self, Answer, Ask, Duties, Options};
use crate::wiring;

/// Between two questions of `drain`.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// For how long nothing may be pending before `drain` believes it: the server that is told to stop at the
/// same time needs a moment to say so.
const QUIET: Duration = Duration::from_secs(2);

/// Serves until it is told to stop.
pub fn daemon(run: &Invocation, args: &DaemonArgs) -> Result<Exit, Failure> {
    large_blocks::give_back();
    let settings = run.settings()?;
    let configured = settings.daemon();
    let again = run.clone();
    let reload = move || {
        let read = || duties(&again, &again.settings()?);
        read().map_err(|failure: Failure| failure.message)
    };
    let options = Options {
        socket: args.socket.clone().unwrap_or_else(|| configured.socket.clone()),
        duties: duties(run, &settings)?,
        reload: Box::new(reload),
        grace: configured.grace,
        tell: told,
        meaning: scheduled::meaning,
    };
    daemon::run(&run.ctx, options)?;
    Ok(Exit::Ok)
}

fn duties(run: &Invocation, settings: &Settings) -> Result<Duties, Failure> {
    let clusters = wiring::clusters(&run.ctx, settings)?;
    if clusters.is_empty() {
        let message = "the configuration has no cluster to serve";
        return Err(Failure::failed(message).with_hint("Write a section [cluster.main]."));
    }
    Ok(Duties { clusters, jobs: scheduled::jobs(run, settings) })
}

/// Waits until the daemon has nothing left to archive.
pub fn drain(run: &Invocation, args: &DrainArgs) -> Result<Exit, Failure> {
    let socket = match &args.socket {
        Some(socket) => socket.clone(),
        None => run.settings()?.daemon().socket.clone(),
    };
    let clock = &run.ctx.clock;
    let begun = clock.monotonic();
    let mut quiet_since = None;
    loop {
        let status = match daemon::ask(&socket, &request(run, Ask::Status), &[]).map(|it| it.answer)
        {
            Ok(Answer::Status(status)) => status,
            Ok(_) => return Err(Failure::failed("the daemon did not tell what is pending")),
            Err(away) if args.json => {
                print_json(
                    &json!({ "format_version": 1, "daemon": null, "why": away.to_string() }),
                )?;
                return Ok(Exit::Ok);
            }
            Err(away) => {
                print(&format!("nothing to wait for: {away}"))?;
                return Ok(Exit::Ok);
            }
        };
        let (now, pending) = (clock.monotonic(), status.pending());
        let is_over = now.saturating_sub(begun) >= args.timeout;
        let since = *quiet_since.get_or_insert(now);
        let is_quiet = now.saturating_sub(since) >= QUIET;
        if pending.is_some() {
            quiet_since = None;
        }
        if is_over || (pending.is_none() && is_quiet) {
            if args.json {
                print_json(&json!({ "format_version": 1, "daemon": status, "pending": pending }))?;
            }
            return match pending {
                None if args.json => Ok(Exit::Ok),
                None => print("nothing is pending").map(|()| Exit::Ok),
                Some(what) => {
                    let next = "What is ready to be archived stays in pg_wal, and the server asks \
                                for it again.";
                    let message = format!("still pending when the time was over: {what}");
                    Err(Failure::failed(message).with_hint(next))
                }
            };
        }
        run.ctx.cancel.check().map_err(crate::archive::Error::from)?;
        clock.sleep(ASK_EVERY);
    }
}
