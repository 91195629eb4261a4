//! The daemon's life: begin, listen, ready; reload; stop in order.
//!
//! On SIGTERM or SIGINT nothing new is accepted, what is under way is finished within the grace period,
//! what is left is answered with failure, what runs by the clock is told to end, and the process ends with 0. On SIGHUP the configuration is read
//! again; one that is wrong is told, and the old one stays.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::net::Shutdown;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::cluster::Cluster;
use super::error::{Error, Result};
use super::jobs::{Job, Jobs};
use super::protocol::Told;
use super::service::Service;
use super::socket::Socket;
use super::watch::Watch;
use crate::archive;
use crate::base::{Crew, Ctx, detached};

/// Between two looks at everything.
const TICK: Duration = Duration::from_secs(1);

/// How long clients are given to take their answers at the end, and requests to notice that it is one.
const HANG_UP: Duration = Duration::from_secs(3);

/// What the daemon is told.
pub struct Options {
    /// Where to listen.
    pub socket: PathBuf,
    /// What to do.
    pub duties: Duties,
    /// Reads the configuration again; what is wrong with it, as a sentence.
    pub reload: Box<dyn Fn() -> std::result::Result<Duties, String>>,
    /// For how long requests are finished after a signal to stop.
    pub grace: Duration,
    /// Makes a sentence of an error.
    pub tell: fn(archive::Error) -> Told,
    /// What an exit code of a job means.
    pub meaning: fn(i32) -> &'static str,
}

/// What a configuration asks of a daemon.
#[derive(Debug)]
pub struct Duties {
    /// What to serve.
    pub clusters: Vec<Cluster>,
    /// What to run by the clock.
    pub jobs: Vec<Job>,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When it cannot begin.
pub fn run(ctx: &Ctx, options: Options) -> Result<()> {
    let Options { socket, duties, reload, grace, tell, meaning } = options;
    // Before the socket is there: a signal must find somebody who knows what to do.
    let (sender, signals) = channel();
    let watching = watch_signals(sender)?;
    let socket = Socket::listen(&socket)?;
    let jobs = Jobs::begin(ctx, meaning, duties.jobs);
    let service = Arc::new(Service::new(ctx, tell, duties.clusters, jobs));
    let listening = Arc::new(Listening { socket, service: Arc::clone(&service) });
    let accepting = Crew::begin(1, &listening, |each: &Listening| {
        // A panic has said so, and nobody else accepts.
        while catch_unwind(AssertUnwindSafe(|| each.service.accept(&each.socket.listener))).is_err()
        {
        }
    });
    notify(&[NotifyState::Ready]);
    ctx.note(format!("serves {} clusters", service.clusters().len()));
    serve(ctx, &service, &signals, reload.as_ref());

    notify(&[NotifyState::Stopping]);
    ctx.note("stops: what is under way is finished");
    service.stop();
    // Whoever connects now finds nobody, and does without; whoever waited in the queue likewise.
    rustix::net::shutdown(&listening.socket.listener, Shutdown::Both).ok();
    drop(accepting);
    let (left, running) = service.finish(grace);
    if left > 0 {
        ctx.warn(format!("{left} requests were not finished within {} s", grace.as_secs()));
    }
    for job in running {
        ctx.warn(format!("{job} was told to end, and goes on after {} s", grace.as_secs()));
    }
    service.hang_up(HANG_UP);
    watching.close();
    listening.socket.remove();
    // Not dropped: threads that hang in a store would be waited for. They end with the process.
    std::mem::forget((listening, service));
    Ok(())
}

struct Listening {
    socket: Socket,
    service: Arc<Service>,
}

/// Serves until it is told to stop.
fn serve(
    ctx: &Ctx,
    service: &Arc<Service>,
    signals: &Receiver<i32>,
    reload: &dyn Fn() -> std::result::Result<Duties, String>,
) {
    let mut watch = Watch::new(ctx);
    loop {
        match signals.recv_timeout(TICK) {
            Ok(SIGHUP) => match reload() {
                Ok(duties) => {
                    let count = duties.clusters.len();
                    service.replace(duties);
                    ctx.note(format!("the configuration was read again: {count} clusters"));
                }
                Err(why) => ctx.warn(format!("the configuration stays as it was: {why}")),
            },
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        // That this is reached shows that no lock is held for ever.
        let status = watch.look(service);
        notify(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
    }
}

fn watch_signals(sender: Sender<i32>) -> Result<signal_hook::iterator::Handle> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(Error::Signals)?;
    let handle = signals.handle();
    detached(move || {
        for signal in signals.forever() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    })
    .map_err(Error::Signals)?;
    Ok(handle)
}

/// Tells the service manager, if there is one.
fn notify(state: &[NotifyState<'_>]) {
    sd_notify::notify(state).ok();
}
