//! Which request meets which fault: by operation, key and predicate, by count or by seed.
//!
//! The first order that fits and is due spoils a request; one request meets one fault.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fault::Fault;
use super::seen::Seen;

type Predicate = Box<dyn Fn(&Seen) -> bool + Send + Sync>;

#[derive(Default)]
pub struct Faults(Mutex<Vec<Arc<Rule>>>);

struct Rule {
    faults: Vec<Fault>,
    predicates: Vec<Predicate>,
    schedule: Schedule,
    skipped: u64,
    matched: AtomicU64,
    hits: AtomicUsize,
    is_stopped: AtomicBool,
}

enum Schedule {
    Next(u64),
    Always,
    OneIn { n: u64, seed: u64 },
}

/// A fault that is being ordered; nothing happens before [`next`](Self::next),
/// [`always`](Self::always) or [`one_in`](Self::one_in).
#[must_use]
pub struct FaultOrder<'a> {
    faults: &'a Faults,
    choice: Vec<Fault>,
    predicates: Vec<Predicate>,
    skipped: u64,
}

/// An ordered fault: counts, and can be called off.
pub struct Ordered(Arc<Rule>);

impl Faults {
    pub fn order(&self, choice: Vec<Fault>) -> FaultOrder<'_> {
        FaultOrder { faults: self, choice, predicates: Vec::new(), skipped: 0 }
    }

    /// The fault that this request meets.
    pub fn find(&self, seen: &Seen) -> Option<Fault> {
        self.rules().iter().find_map(|rule| rule.strike(seen))
    }

    pub fn clear(&self) {
        self.rules().clear();
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Arc<Rule>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rule {
    fn strike(&self, seen: &Seen) -> Option<Fault> {
        let is_meant = self.predicates.iter().all(|predicate| predicate(seen));
        if !is_meant || self.is_stopped.load(Ordering::SeqCst) {
            return None;
        }
        let matched = self.matched.fetch_add(1, Ordering::SeqCst);
        let turn = matched.checked_sub(self.skipped)?;
        let choice = match self.schedule {
            Schedule::Next(count) => (turn < count).then_some(turn),
            Schedule::Always => Some(turn),
            Schedule::OneIn { n, seed } => {
                let dice = mixed(seed, turn);
                dice.is_multiple_of(n.max(1)).then(|| mixed(dice, turn))
            }
        }?;
        let choice = usize::try_from(choice % self.faults.len().max(1) as u64).ok()?;
        let fault = self.faults.get(choice)?.clone();
        self.hits.fetch_add(1, Ordering::SeqCst);
        Some(fault)
    }
}

impl FaultOrder<'_> {
    /// For requests of this operation, such as `PutObject`.
    pub fn on(self, operation: &'static str) -> Self {
        self.when(move |seen| seen.operation == operation)
    }

    pub fn key_contains(self, text: &str) -> Self {
        let text = text.to_owned();
        self.when(move |seen| seen.key.contains(&text))
    }

    pub fn when(mut self, predicate: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> Self {
        self.predicates.push(Box::new(predicate));
        self
    }

    /// Lets so many of the requests that it is meant for pass first.
    pub fn after(mut self, requests: u64) -> Self {
        self.skipped = requests;
        self
    }

    /// The next so many requests that it is meant for. Of several faults, each in turn.
    pub fn next(self, count: u64) -> Ordered {
        self.scheduled(Schedule::Next(count))
    }

    /// Every request that it is meant for. Of several faults, each in turn.
    pub fn always(self) -> Ordered {
        self.scheduled(Schedule::Always)
    }

    /// One in `n` requests on average, chosen by the seed, which the test prints.
    pub fn one_in(self, n: u64, seed: u64) -> Ordered {
        self.scheduled(Schedule::OneIn { n, seed })
    }

    fn scheduled(self, schedule: Schedule) -> Ordered {
        let rule = Arc::new(Rule {
            faults: self.choice,
            predicates: self.predicates,
            schedule,
            skipped: self.skipped,
            matched: AtomicU64::new(0),
            hits: AtomicUsize::new(0),
            is_stopped: AtomicBool::new(false),
        });
        self.faults.rules().push(Arc::clone(&rule));
        Ordered(rule)
    }
}

impl Ordered {
    /// How many requests met it.
    pub fn hits(&self) -> usize {
        self.0.hits.load(Ordering::SeqCst)
    }

    pub fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::SeqCst);
    }
}

/// SplitMix64: neighbouring turns of one seed have nothing to do with each other.
fn mixed(seed: u64, turn: u64) -> u64 {
    let mut z = seed.wrapping_add((turn + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
