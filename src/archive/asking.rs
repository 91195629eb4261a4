//! Asking repositories for one file: in their order, and the next one when one takes long.
//!
//! One that is away answers after minutes. Recovery does not wait for it while another one has the file.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use std::vec::IntoIter;

use super::Destination;
use crate::base::detached;
use crate::pg::WalFileName;
use crate::repo::{Kind, Repository, Result, WalFacts, WalPiece, WalReader};
use crate::storage::ObjectKey;

/// How much of what was fetched ahead is looked at: its first page, where what completes a record begins.
pub(super) const BEGINNING: usize = 8192;

/// How long one is asked before the next is asked beside it.
const PATIENCE: Duration = Duration::from_secs(2);

/// A file that was fetched before it was asked for: authenticated and opened.
#[derive(Debug)]
pub struct Fetched {
    /// What its first frame says.
    pub facts: WalFacts,
    /// All of it.
    pub content: Kept,
}

/// Where a content is that was fetched ahead.
#[derive(Debug)]
pub enum Kept {
    /// In memory.
    Memory(Vec<u8>),
    /// In a file without a name, in the folder that it is for: it becomes the file that was asked for, and
    /// nothing is copied while recovery waits. It has one owner, for recovery recycles what it has replayed.
    File {
        /// All of it.
        file: File,
        /// Its first page, and as much more as fits.
        beginning: Vec<u8>,
    },
}

/// What was fetched ahead of recovery.
pub trait Ahead: Send + Sync + fmt::Debug {
    /// The file that lies under this name in this repository, if it was fetched; it is the caller's then.
    /// One that is on its way is waited for.
    fn find(&self, repository: &Repository, object: &ObjectKey) -> Option<Fetched>;

    /// A file was delivered from there: recovery will ask for what follows.
    fn delivered(&self, from: &Destination, name: &WalFileName);
}

/// A file that a repository has.
pub(super) enum Content {
    /// Sealed.
    Sealed(Box<WalReader>),
    /// Fetched ahead.
    Opened(Box<Fetched>),
}

/// A file's content from its beginning, or from behind its first piece.
pub(super) enum Pieces<'a> {
    /// In order.
    Sealed(IntoIter<WalPiece<'a>>),
    /// All of it.
    Memory(&'a [u8]),
    /// All of it is in this file; its beginning.
    Written(&'a File, &'a [u8]),
}

impl Content {
    pub(super) fn facts(&self) -> &WalFacts {
        match self {
            Self::Sealed(reader) => reader.facts(),
            Self::Opened(fetched) => &fetched.facts,
        }
    }

    pub(super) fn pieces(&mut self) -> Result<Pieces<'_>> {
        match self {
            Self::Sealed(reader) => Ok(Pieces::Sealed(reader.pieces()?.into_iter())),
            Self::Opened(fetched) => Ok(match &fetched.content {
                Kept::Memory(content) => Pieces::Memory(content),
                Kept::File { file, beginning } => Pieces::Written(file, beginning),
            }),
        }
    }
}

impl Pieces<'_> {
    /// How long a part the beginning is that is looked at before anything is written.
    pub(super) fn first_length(&self) -> usize {
        match self {
            Self::Sealed(pieces) => pieces.as_slice().first().map_or(0, |piece| piece.length),
            Self::Memory(content) | Self::Written(_, content) => content.len().min(BEGINNING),
        }
    }

    /// Brings the beginning into `space`, of that length; what is left begins behind it.
    pub(super) fn open_first(&mut self, space: &mut [u8]) -> Result<()> {
        match self {
            Self::Sealed(pieces) => {
                let piece = pieces.next().expect("a content has at least one piece");
                piece.open(space)
            }
            Self::Memory(content) | Self::Written(_, content) => {
                space.copy_from_slice(content.get(..space.len()).unwrap_or_default());
                Ok(())
            }
        }
    }
}

/// One repository's answer.
pub(super) type Answer = Result<Content>;

/// Repositories that are being asked for one file.
pub(super) struct Asking<'a> {
    ahead: Option<Arc<dyn Ahead>>,
    /// Not asked yet.
    left: VecDeque<(&'a Destination, Kind, ObjectKey)>,
    /// Asked, by their number.
    asked: Vec<(&'a Destination, ObjectKey)>,
    /// How many of them have not answered.
    waiting: usize,
    sender: Sender<(usize, std::thread::Result<Answer>)>,
    answers: Receiver<(usize, std::thread::Result<Answer>)>,
}

impl<'a> Asking<'a> {
    pub(super) fn new(ahead: Option<Arc<dyn Ahead>>) -> Self {
        let (sender, answers) = channel();
        let (left, asked) = (VecDeque::new(), Vec::new());
        Self { ahead, left, asked, waiting: 0, sender, answers }
    }

    pub(super) fn add(&mut self, from: &'a Destination, kind: Kind, object: ObjectKey) {
        self.left.push_back((from, kind, object));
    }

    /// The next answer; nothing when all have answered.
    pub(super) fn next(&mut self) -> Option<(&'a Destination, ObjectKey, Answer)> {
        loop {
            if self.waiting == 0 {
                self.ask()?;
            }
            let answer = match self.left.is_empty() {
                false => self.answers.recv_timeout(PATIENCE),
                true => self.answers.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let Ok((number, answer)) = answer else {
                self.ask();
                continue;
            };
            self.waiting -= 1;
            let (from, object) = self.asked.get(number).expect("it was asked");
            let answer = answer.unwrap_or_else(|panic| resume_unwind(panic));
            return Some((*from, object.clone(), answer));
        }
    }

    /// Asks one more, if there is one.
    fn ask(&mut self) -> Option<()> {
        let (from, kind, object) = self.left.pop_front()?;
        let number = self.asked.len();
        let (sender, repository) = (self.sender.clone(), from.repository.clone());
        let ahead = self.ahead.clone();
        self.asked.push((from, object.clone()));
        self.waiting += 1;
        let ask = move || {
            let fetch = || match ahead.and_then(|ahead| ahead.find(&repository, &object)) {
                Some(fetched) => Ok(Content::Opened(Box::new(fetched))),
                None => repository.open_wal(kind, &object).map(Box::new).map(Content::Sealed),
            };
            // Who has the file does not listen any more.
            sender.send((number, catch_unwind(AssertUnwindSafe(fetch)))).ok();
        };
        // The only one that is left to be waited for.
        if self.left.is_empty() && self.waiting == 1 {
            ask();
        } else if let Err(error) = detached(ask) {
            let failed = crate::repo::Error::Limit(format!("it cannot be asked: {error}"));
            self.sender.send((number, Ok(Err(failed)))).ok();
        }
        Some(())
    }
}
