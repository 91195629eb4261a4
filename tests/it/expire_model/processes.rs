//! Processes that are stopped before some request to the store, while others go on and time passes; then they go on
//! themselves, or are killed.

use std::sync::Arc;
use std::thread::JoinHandle;

use chrono::TimeDelta;
use pgkeep::base::{Ctx, Timestamp};
use pgkeep::repo::{self, BackupId, Lease, LeaseRequest, Pin, Repository};
use pgkeep::retention::{self, Freed, Policy};
use pgkeep::tiering::{self, Moved};

use super::run::{Open, Run, YOUNG};
use super::{cold, steps};
use crate::support::world::Begun;
use crate::support::{Gate, World};
use crate::tier_crash;

/// A restore counts for an hour behind the end of its lease.
const HEARD_OF: TimeDelta = TimeDelta::minutes(64);

/// How many are stopped at a time.
const STOPPED_MAX: usize = 3;

/// What a process was to do, and what came of it.
#[allow(clippy::large_enum_variant, reason = "there are three of them at a time")]
enum Outcome {
    Expired(repo::Result<Freed>),
    Tiered(tiering::Result<Moved>),
    /// Whether it may go on.
    Began(Begun, repo::Result<bool>),
    Committed(repo::Result<BackupId>),
    Pinned(Pin, repo::Result<()>),
    /// The lease, and whether the backup is kept.
    Reads(BackupId, repo::Result<(Lease, bool)>),
}

/// What is to be looked at when it has gone on.
enum After {
    /// What these rules keep stays: its own, or those by which others have decided since.
    Window(Policy),
    /// These chains do not move.
    Left(Vec<BackupId>),
    /// A backup that began then is complete; whoever is too late, or killed, may have failed.
    Backup {
        id: BackupId,
        started: Timestamp,
    },
    Nothing,
}

/// A process that is stopped.
pub struct Stopped {
    what: &'static str,
    gate: Gate,
    thread: JoinHandle<Outcome>,
    after: After,
}

impl Run {
    /// Somebody has decided anew: who is stopped may do what was decided then, and no more.
    pub fn superseded(&mut self, policy: &Policy) {
        for stopped in &mut self.stopped {
            if let After::Window(by) = &mut stopped.after {
                *by = policy.clone();
            }
        }
    }

    /// Backups whose last request is held back may be complete already.
    pub fn notice_completed(&mut self) {
        let complete: Vec<BackupId> = self.world.complete().into_iter().map(|it| it.id).collect();
        let ids = self.stopped.iter().filter_map(|stopped| match &stopped.after {
            After::Backup { id, .. } => Some(id.clone()),
            _ => None,
        });
        let ids: Vec<_> = ids.filter(|id| complete.contains(id)).collect();
        ids.into_iter().for_each(|id| self.completed(id));
    }

    /// Starts a process that will be stopped somewhere.
    pub fn start(&mut self) {
        if self.stopped.len() >= STOPPED_MAX {
            return self.go_on();
        }
        match self.dice.below(12) {
            0..=3 => self.start_expire(),
            4..=6 => self.start_tier(),
            7 | 8 => self.start_begin(),
            9 => self.start_commit(),
            10 => self.start_pin(),
            _ => self.start_use(),
        }
    }

    /// Somebody begins to use something, while an expiry is stopped.
    pub fn use_beside(&mut self) -> bool {
        let is_expiring = self.stopped.iter().any(|stopped| stopped.what == "expire");
        if !is_expiring || self.dice.below(2) == 0 {
            return false;
        }
        match self.dice.below(3) {
            0 => self.start_begin(),
            1 => self.pin(),
            _ => self.use_one(),
        }
        true
    }

    /// A second expiry, by the same rules or by others; it finds a lease, or none, or one whose holder it takes for dead.
    fn start_expire(&mut self) {
        let policy = match self.dice.below(2) {
            0 => self.policy.clone(),
            _ => steps::rules(&mut self.dice),
        };
        let is_gone = *self.dice.one_of(&[gone as fn(&str, u32) -> bool, alive]);
        let (window, rules) = (self.in_window(&policy), policy.clone());
        self.process(("expire", 200), After::Window(policy.clone()), move |ctx, repository| {
            Outcome::Expired((|| {
                let request = LeaseRequest { is_gone, ..World::request() };
                let lease = repository.take_lease(ctx, &request)?.beside(ctx);
                let mut plan = retention::plan_expiry(ctx, repository, "main", &rules)?;
                retention::execute_expiry(ctx, repository, &mut plan, "db1", &lease)
            })())
        });
        self.require_window(window);
    }

    fn start_tier(&mut self) {
        let (policy, rules) = (self.policy.clone(), cold::rules(&mut self.dice));
        let (before, in_hands) = (self.moved(), self.in_hands());
        let after = After::Left(in_hands.clone());
        self.process(("tier", 120), after, move |ctx, repository| {
            let plan = tier_crash::plan(ctx, repository, &policy, &rules);
            Outcome::Tiered(plan.and_then(|plan| tier_crash::execute(ctx, repository, &plan)))
        });
        self.require_left(&before, &in_hands);
    }

    fn start_begin(&mut self) {
        let (kind, parent) = self.kind_and_parent();
        let (begin, begun) = self.world.record_of(kind, parent);
        let place = self.world.place.clone();
        self.process(("begin", 12), After::Nothing, move |ctx, repository| {
            let put = repository.put_begin(ctx, &place, &begin);
            let is_kept = put.map(|()| begun.may_go_on(ctx, repository, &place));
            Outcome::Began(begun, is_kept)
        });
    }

    fn start_commit(&mut self) {
        let Some(Open { begun, packs }) = self.some_open() else { return };
        let (id, started) = (begun.id.clone(), begun.started);
        let end = self.world.end_of(begun, packs);
        let place = self.world.place.clone();
        self.process(("commit", 12), After::Backup { id, started }, move |ctx, repository| {
            Outcome::Committed(end.put(ctx, repository, &place))
        });
    }

    fn start_pin(&mut self) {
        let Some(id) = self.some_complete() else { return };
        let pin = self.pin_of(id);
        // From its beginning on it may not count any more.
        self.pinned.remove(&pin.id);
        let place = self.world.place.clone();
        self.process(("pin", 10), After::Nothing, move |ctx, repository| {
            let put = repository.put_pin(ctx, &place, &pin);
            Outcome::Pinned(pin, put)
        });
    }

    /// A restore that was not heard of for longer than its lease is good for looks for its backup anew.
    fn start_use(&mut self) {
        let Some(id) = self.some_complete() else { return };
        let (request, place) = (self.use_request(&id), self.world.place.clone());
        self.process(("use", 16), After::Nothing, move |ctx, repository| {
            let begun = ctx.clock.now();
            let reads = || {
                let mut lease = repository.take_lease(ctx, &request)?;
                let is_kept = repository.require_kept(ctx, &place, &id).is_ok()
                    && repository.open_backup(&place, &id).is_ok();
                lease.renew(ctx, steps::FOR_LONG)?;
                Ok((lease, is_kept && ctx.clock.now() < begun + HEARD_OF))
            };
            let reads = reads();
            Outcome::Reads(id, reads)
        });
    }

    /// Runs a process that is stopped before one of its first `last` requests, if it has as many.
    fn process(
        &mut self,
        (what, last): (&'static str, u64),
        after: After,
        work: impl FnOnce(&Ctx, &Repository) -> Outcome + Send + 'static,
    ) {
        let gate = Gate::new(&self.world.store);
        let repository = self.world.repository.reopened(Arc::new(gate.clone()));
        // Before any request, or before one that changes something.
        match self.dice.below(2) {
            0 => gate.stop_at(1 + self.dice.below(last)),
            _ => gate.stop_at_change(1 + self.dice.below(12)),
        }
        let (ctx, store) = (self.world.ctx.clone(), gate.clone());
        let thread = std::thread::spawn(move || {
            let _ending = store.ending();
            work(&ctx, &repository.unwrap().unwrap())
        });
        let held = gate.wait();
        let stopped = Stopped { what, gate, thread, after };
        let Some(at) = held else { return self.ended(stopped, false) };
        self.tell(format!("{what} is stopped before {at}"));
        self.count(match what {
            "expire" => "stopped expire",
            "tier" => "stopped tier",
            _ => "stopped others",
        });
        self.stopped.push(stopped);
    }

    /// One of them goes on to its end, or is killed.
    pub fn go_on(&mut self) {
        if self.stopped.is_empty() {
            return;
        }
        let at = usize::try_from(self.dice.below(self.stopped.len() as u64)).unwrap();
        let stopped = self.stopped.remove(at);
        let is_dead = self.dice.below(4) == 0;
        self.tell(format!("{} {}", stopped.what, if is_dead { "is killed" } else { "goes on" }));
        if is_dead {
            self.count("was killed");
        }
        let (window, left) = match &stopped.after {
            After::Window(policy) => (Some(self.in_window(policy)), None),
            After::Left(in_hands) => (None, Some((self.moved(), in_hands.clone()))),
            _ => (None, None),
        };
        stopped.gate.release(is_dead);
        self.ended(stopped, is_dead);
        if let Some(window) = window {
            self.require_window(window);
        }
        if let Some((before, mut in_hands)) = left {
            // Its plan may have been made after one of them was given back.
            let still = self.in_hands();
            in_hands.retain(|root| still.contains(root));
            self.require_left(&before, &in_hands);
        }
    }

    fn ended(&mut self, stopped: Stopped, is_dead: bool) {
        let Stopped { what, thread, after, .. } = stopped;
        let outcome = thread.join();
        let outcome = outcome.unwrap_or_else(|_| panic!("{what} panicked\n{}", self.told()));
        match outcome {
            Outcome::Expired(done) => {
                self.tell(format!("expire: {done:?}"));
                if let (Ok(_), After::Window(policy)) = (done, &after) {
                    self.superseded(policy);
                }
            }
            Outcome::Tiered(done) => self.tell(format!("tier: {done:?}")),
            Outcome::Began(begun, is_kept) => {
                self.tell(format!("begin {}: {is_kept:?}", begun.id));
                if matches!(is_kept, Ok(true)) {
                    let packs = self.world.store_packs(&begun);
                    self.open.push(Open { begun, packs });
                }
            }
            Outcome::Committed(put) => self.ended_backup(put, &after, is_dead),
            Outcome::Pinned(pin, put) => {
                self.tell(format!("pin {}: {}: {put:?}", pin.id, pin.pinned));
                match put.is_ok() && pin.pinned {
                    true => self.pinned.insert(pin.id),
                    false => self.pinned.remove(&pin.id),
                };
            }
            Outcome::Reads(id, Ok((lease, is_kept))) => self.reads(id, lease, is_kept),
            Outcome::Reads(id, Err(error)) => self.tell(format!("{id} is not read: {error}")),
        }
    }

    fn ended_backup(&mut self, put: repo::Result<BackupId>, after: &After, is_dead: bool) {
        let After::Backup { id, started } = after else { unreachable!("it is a backup") };
        if self.world.complete().iter().any(|backup| backup.id == *id) {
            // Whoever was killed after his last request has completed it all the same.
            return self.completed(id.clone());
        }
        self.count("too late");
        self.tell(format!("{id} is not complete: {put:?}"));
        let is_late = self.world.now() >= *started + YOUNG;
        assert!(put.is_err() && (is_dead || is_late), "{id}: {put:?}\n{}", self.told());
    }
}

fn gone(_host: &str, _pid: u32) -> bool {
    true
}

fn alive(_host: &str, _pid: u32) -> bool {
    false
}
