//! The one context that goes through everything: clock, entropy, observer, cancel.

use std::sync::Arc;

use super::{
    Cancel, Clock, Entropy, Event, ManualClock, Observer, OsEntropy, SeededEntropy, Silent,
    SystemClock, Timestamp,
};

/// What every operation needs from the world besides its own arguments.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where random bytes come from.
    pub entropy: Arc<dyn Entropy>,
    /// Who is told what happens.
    pub observer: Arc<dyn Observer>,
    /// Whether to stop.
    pub cancel: Cancel,
}

impl Ctx {
    /// The real world, reporting to `observer`.
    #[must_use]
    pub fn system(observer: Arc<dyn Observer>) -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(OsEntropy),
            observer,
            cancel: Cancel::new(),
        }
    }

    /// A world in which time stands at `now` and randomness follows from `seed`.
    #[must_use]
    pub fn fixed(now: Timestamp, seed: u64) -> Self {
        Self {
            clock: Arc::new(ManualClock::new(now)),
            entropy: Arc::new(SeededEntropy::new(seed)),
            observer: Arc::new(Silent),
            cancel: Cancel::new(),
        }
    }

    /// The same world with a token that can be cancelled without cancelling the rest.
    #[must_use]
    pub fn with_child_cancel(&self) -> Self {
        Self { cancel: self.cancel.child(), ..self.clone() }
    }

    /// Tells the observer that a step is done.
    pub fn step(&self, what: &'static str) {
        self.observer.event(Event::Step(what));
    }

    /// Tells the observer a fact.
    pub fn note(&self, text: impl Into<String>) {
        self.observer.event(Event::Note(text.into()));
    }

    /// Tells the observer something to look at.
    pub fn warn(&self, text: impl Into<String>) {
        self.observer.event(Event::Warning(text.into()));
    }
}
