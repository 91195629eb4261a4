//! First write wins, on every store: by a conditional put, or by claims where the store has none.
//!
//! Some servers accept `If-None-Match` and ignore it, so `init` tries it (`honours_conditions`) and the
//! descriptor says what it found. Claims are empty objects: all that they say is in their names, and nothing
//! but a refusal ever follows from one.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};
use super::header::HEADER_SIZE;
use super::layout;
use crate::base::{Ctx, Timestamp, entropy, hex};
use crate::storage::{self, ObjectKey, ObjectMeta, ObjectStore};

/// How many writers race for one name when `init` tries a store: one that sends fewer requests at a time
/// would show no race.
pub const RACERS: usize = 8;

/// How many races it must survive.
const RACES: usize = 3;

/// An `init` that has not come to its last put by then gives up.
const INIT_MAX: Duration = Duration::from_mins(10);

/// An `init` that began longer ago than that was interrupted: besides its time and the retries of its last
/// put, the clocks of two hosts may differ by half an hour before a service refuses one of them.
const INIT_SURELY_OVER: Duration = Duration::from_hours(1);

/// How many contents of others are named in a refusal.
const CLAIMS_SHOWN_MAX: usize = 8;

/// How many claims for one content there are at most. With fewer, more of those who repeat a put take
/// themselves for the first.
const ATTEMPTS: u8 = 16;

/// How many claims of a name are looked at: more than one content has, so that another one's show.
pub(super) const CLAIMS_LISTED_MAX: usize = 100;

/// What tells an object's bytes from others.
pub(super) fn identity_of(bytes: &[u8]) -> String {
    let mut text = hex::encode(&Sha256::digest(bytes));
    text.truncate(32);
    text
}

/// Tells a claim from others for the same content: by the salt, which no two sealings share.
pub(super) fn attempt_of(sealed: &[u8]) -> u8 {
    sealed.get(HEADER_SIZE - 1).copied().unwrap_or_default() % ATTEMPTS
}

/// Whose claims they are besides `own`, which is for the content that `identity` tells.
pub(super) struct Claims {
    /// There are others for the same content: it may be stored.
    pub(super) have_same: bool,
    /// Those for other contents, as the beginnings of their names.
    pub(super) others: Vec<String>,
}

impl Claims {
    pub(super) fn of(listed: &[ObjectMeta], own: &ObjectKey, identity: &str) -> Self {
        let not_own = listed.iter().map(|meta| &meta.key).filter(|key| *key != own);
        let (same, others): (Vec<_>, Vec<_>) =
            not_own.partition(|key| layout::claimed_identity(key) == identity);
        let mut others: Vec<String> = others.into_iter().map(shown).collect();
        others.dedup();
        others.truncate(CLAIMS_SHOWN_MAX);
        Self { have_same: !same.is_empty(), others }
    }
}

/// One text for all claims of a content.
fn shown(claim: &ObjectKey) -> String {
    let (name, identity) = (claim.last_component(), layout::claimed_identity(claim));
    let place = claim.as_str().strip_suffix(name).unwrap_or_default();
    if name == identity { claim.to_string() } else { format!("{place}{identity}-*") }
}

/// Whether put-if-absent is what it says, tried on names of its own: one after the other, and many at once.
pub(super) fn honours_conditions(ctx: &Ctx, store: &dyn ObjectStore) -> Result<bool> {
    if !store.must_be_tried() {
        return Ok(true);
    }
    let mut tried = Vec::new();
    let outcome = try_conditions(ctx, store, &mut tried);
    for key in &tried {
        // A writer may not be allowed to remove anything; a few bytes stay then.
        if let Err(error) = store.delete(key) {
            ctx.note(format!("{key} stays: {error}"));
        }
    }
    outcome
}

fn try_conditions(ctx: &Ctx, store: &dyn ObjectStore, tried: &mut Vec<ObjectKey>) -> Result<bool> {
    let mut fresh = || {
        let key = layout::probe(&hex::encode(&entropy::random::<16>(ctx.entropy.as_ref())));
        tried.push(key.clone());
        key
    };
    let key = fresh();
    match store.put_if_absent(&key, b"first") {
        Err(storage::Error::Unsupported { .. }) => return Ok(false),
        other => other?,
    }
    match store.put_if_absent(&key, b"second") {
        Ok(()) | Err(storage::Error::Unsupported { .. }) => return Ok(false),
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(error.into()),
    }
    if store.get(&key)? != b"first" {
        return Ok(false);
    }
    for _ in 0..RACES {
        if !has_one_winner(store, &fresh())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The object says who won: exactly one racer may have been told so, and it is that one.
fn has_one_winner(store: &dyn ObjectStore, key: &ObjectKey) -> Result<bool> {
    let race = |racer: usize| store.put_if_absent(key, racer.to_string().as_bytes());
    let outcomes: Vec<storage::Result<()>> = std::thread::scope(|scope| {
        let racing: Vec<_> = (0..RACERS).map(|racer| scope.spawn(move || race(racer))).collect();
        racing.into_iter().map(|each| each.join().expect("a put does not panic")).collect()
    });
    let mut winners = Vec::new();
    for (racer, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(()) => winners.push(racer.to_string()),
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let stored = store.get(key)?;
    Ok(matches!(winners.as_slice(), [only] if only.as_bytes() == stored))
}

/// Keeps other `init`s away while this one makes a repository in a store without conditional puts.
pub(super) struct InitLease<'a> {
    store: &'a dyn ObjectStore,
    key: ObjectKey,
    /// By the monotonic clock.
    begun: Duration,
}

impl<'a> InitLease<'a> {
    /// # Errors
    /// [`Error::InitRunning`] when another one is at work.
    pub(super) fn take(ctx: &Ctx, store: &'a dyn ObjectStore) -> Result<Self> {
        let (now, begun) = (ctx.clock.now(), ctx.clock.monotonic());
        let random = hex::encode(&entropy::random::<8>(ctx.entropy.as_ref()));
        let key = layout::init_lease(now, &random);
        let lease = Self { store, key, begun };
        store.put(&lease.key, b"")?;
        for meta in storage::list_all(store, layout::INIT_LEASES_PREFIX)? {
            let begun = layout::init_lease_time(&meta.key);
            let is_over = begun.is_some_and(|begun| is_surely_over(begun, now));
            if meta.key != lease.key && !is_over {
                return Err(Error::InitRunning { lease: meta.key.to_string() });
            }
        }
        Ok(lease)
    }

    /// Whether there is still time for the last put.
    pub(super) fn holds(&self, ctx: &Ctx) -> bool {
        ctx.clock.monotonic().saturating_sub(self.begun) <= INIT_MAX
    }
}

fn is_surely_over(begun: Timestamp, now: Timestamp) -> bool {
    (now - begun).to_std().is_ok_and(|age| age > INIT_SURELY_OVER)
}

impl Drop for InitLease<'_> {
    fn drop(&mut self) {
        // What stays counts for an hour.
        self.store.delete(&self.key).ok();
    }
}
