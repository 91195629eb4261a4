//! Opening the repositories of a cluster side by side.
//!
//! One that is away is known to be away after minutes only. Those that answer are worked with meanwhile,
//! and whoever has what he needs waits for nobody; who needs all of them waits for all.

use std::error::Error as StdError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::Destination;
use crate::base::{Cancel, Ctx, detached};

/// For how long those that have not answered are waited for when one has.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// What a repository is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To take one file: what is read to open it may be a few seconds old.
    Push,
    /// To deliver one file: likewise. Not enough to call one absent.
    Fetch,
    /// To deliver a file or to call it absent: everything is read anew.
    FetchAnew,
}

/// Which cluster's place in a repository is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Its system identifier; the only one of its name where it is not known.
    pub system: Option<u64>,
    /// The epoch; the newest where none is named.
    pub epoch: Option<u32>,
    /// What for.
    pub purpose: Purpose,
}

/// Opens the repositories of one cluster. Whoever assembles stores and secrets is behind it.
pub trait Openings: Send + Sync + fmt::Debug {
    /// The repositories, in the order of the configuration.
    fn repositories(&self) -> &[RepositoryUse];

    /// Opens one of them and finds the cluster in it.
    ///
    /// # Errors
    /// Why it cannot be used now.
    fn open(&self, ctx: &Ctx, at: usize, asked: &Asked) -> Result<Destination, Unopened>;

    /// Whether what opened one of them is kept, so that [`Purpose::Fetch`] may be quicker than
    /// [`Purpose::FetchAnew`].
    fn has_kept(&self) -> bool;

    /// Lets the next opening read everything anew: something that the last one led to went wrong.
    fn forget(&self);
}

/// A repository as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryUse {
    /// Its name.
    pub name: String,
    /// Whether WAL counts as archived only when it is there.
    pub is_required: bool,
    /// Whether it is in a folder, where a look costs next to nothing.
    pub is_local: bool,
}

/// Why a repository cannot be used.
#[derive(Debug)]
pub struct Unopened {
    /// Its name in the configuration.
    pub repository: String,
    /// It is in order and does not know the cluster, or this epoch of it: it holds no WAL of it.
    pub is_unregistered: bool,
    /// The epoch that has begun elsewhere, and that it has not come to.
    pub announced_epoch: Option<u32>,
    /// Whether the same may succeed a moment later.
    pub may_pass: bool,
    /// What whoever opens it says.
    pub source: Arc<dyn StdError + Send + Sync>,
}

impl fmt::Display for Unopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl StdError for Unopened {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.source()
    }
}

type Opened = Result<Destination, Unopened>;

/// Repositories that are being opened.
#[derive(Debug)]
pub(super) struct Opening {
    answers: Receiver<(usize, std::thread::Result<Opened>)>,
    /// Of those that have not answered, by their place in the configuration.
    waiting: Vec<(usize, Cancel)>,
}

impl Opening {
    /// Begins to open those repositories that `is_meant` says.
    pub(super) fn begin(
        ctx: &Ctx,
        openings: &Arc<dyn Openings>,
        asked: Asked,
        is_meant: impl Fn(&RepositoryUse) -> bool,
    ) -> Self {
        let meant = openings.repositories().iter().enumerate().filter(|(_, each)| is_meant(each));
        let meant: Vec<usize> = meant.map(|(at, _)| at).collect();
        let (sender, answers) = channel();
        let is_alone = meant.len() == 1;
        let begin = |at| {
            let ctx = ctx.with_child_cancel();
            let cancel = ctx.cancel.clone();
            let one = One { ctx, openings: Arc::clone(openings), at, asked };
            let sender = sender.clone();
            let failed = sender.clone();
            if is_alone {
                one.open(&sender);
            } else if let Err(source) = detached(move || one.open(&sender)) {
                let repository = openings.repositories().get(at).map(|each| each.name.clone());
                let unopened = Unopened {
                    repository: repository.unwrap_or_default(),
                    is_unregistered: false,
                    announced_epoch: None,
                    may_pass: true,
                    source: Arc::new(source),
                };
                failed.send((at, Ok(Err(unopened)))).ok();
            }
            (at, cancel)
        };
        let waiting = meant.into_iter().map(begin).collect();
        Self { answers, waiting }
    }

    /// Those that have not answered.
    pub(super) fn waiting(&self) -> impl Iterator<Item = usize> {
        self.waiting.iter().map(|(at, _)| *at)
    }

    /// The next answer, waited for no longer than `limit`, if there is one; nothing when it takes longer,
    /// or when all have answered.
    pub(super) fn next(&mut self, limit: Option<Duration>) -> Option<(usize, Opened)> {
        if self.waiting.is_empty() {
            return None;
        }
        let answer = match limit {
            Some(limit) => self.answers.recv_timeout(limit),
            None => self.answers.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match answer {
            Ok((at, opened)) => {
                self.waiting.retain(|(waiting, _)| *waiting != at);
                Some((at, opened.unwrap_or_else(|panic| resume_unwind(panic))))
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("each of them answers"),
        }
    }
}

/// Nobody waits for them any more.
impl Drop for Opening {
    fn drop(&mut self) {
        self.waiting.iter().for_each(|(_, cancel)| cancel.cancel());
    }
}

struct One {
    ctx: Ctx,
    openings: Arc<dyn Openings>,
    at: usize,
    asked: Asked,
}

impl One {
    fn open(&self, answers: &Sender<(usize, std::thread::Result<Opened>)>) {
        let open = || self.openings.open(&self.ctx, self.at, &self.asked);
        // Who has what he needed does not listen any more.
        answers.send((self.at, catch_unwind(AssertUnwindSafe(open)))).ok();
    }
}

/// Takes out the destinations that have not come to the newest epoch: one name means other WAL there.
/// `announced` is the newest that begins in a repository which has not come to it.
pub(super) fn without_older_epochs(
    destinations: &mut Vec<Destination>,
    announced: Option<u32>,
) -> Vec<Destination> {
    let newest = destinations.iter().map(|each| each.place.epoch()).max().max(announced);
    destinations.extract_if(.., |each| Some(each.place.epoch()) < newest).collect()
}
