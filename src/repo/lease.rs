//! Leases: who is at which work on a cluster's objects in this repository.
//!
//! A lease is an object under a name of its own, with an end; a heartbeat is the next one of the same holder. Who
//! takes one lists, puts his own, lists again, and withdraws if another live one is there: of two at once at most
//! one stays. Nothing is replaced, so it works on every store.
//!
//! Leases spare two from doing the same, and say who is at it. That nothing is lost does not rest on them: a
//! process may be paused for longer than any lease (`repo::keep` says what it does rest on).

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use super::backup_id::BackupId;
use super::error::{Error, Holder, Result};
use super::layout::{self, Kind};
use super::repository::Repository;
use super::text::{some_time_text, time_text};
use crate::base::{Crew, Ctx, Timestamp, entropy, hex, side_by_side};
use crate::storage::{self, ObjectMeta};

/// How long a lease holds without a heartbeat.
pub const LEASE_FOR: Duration = Duration::from_mins(5);

/// After how much of that it is renewed.
pub const RENEW_AFTER: Duration = Duration::from_mins(1);

/// How far this clock may be from the store's: two hosts that are as far off on both sides still take no lease for
/// expired that is renewed in time.
pub const SKEW_MAX: TimeDelta = TimeDelta::minutes(2);

/// How long a lease that one holds at a time is looked at: far longer than it can hold.
const READ_FOR: Duration = Duration::from_hours(2);

/// How long after its end a lease is swept.
const SWEPT_AFTER: Duration = Duration::from_hours(24);

/// How often a lease is tried for that two take at once.
const TRIES: u32 = 4;

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Taking a backup.
    Backup,
    /// Removing backups and WAL.
    Expire,
    /// Moving packs between storage classes.
    Tier,
    /// Reading a backup: any number at a time.
    Use,
}

impl Scope {
    /// Its name in names of objects.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Expire => "expire",
            Self::Tier => "tier",
            Self::Use => "use",
        }
    }

    fn is_exclusive(self) -> bool {
        self != Self::Use
    }

    /// Whether what is done under it goes by the time.
    fn needs_clock(self) -> bool {
        matches!(self, Self::Expire | Self::Tier)
    }
}

/// Who wants a lease, and for what.
#[derive(Debug, Clone)]
pub struct LeaseRequest<'a> {
    /// What is held.
    pub scope: Scope,
    /// The cluster's configured name.
    pub cluster: &'a str,
    /// The host.
    pub host: &'a str,
    /// The process.
    pub pid: u32,
    /// What for, in words.
    pub purpose: &'a str,
    /// Of a use: the backup, with its system identifier and epoch.
    pub backup: Option<(u64, u32, BackupId)>,
    /// Which server the work is done on: another lease for the same one is in nobody's way, because that server
    /// itself lets only one at it.
    pub server: Option<&'a str>,
    /// Whether a process, by host and number, is surely gone.
    pub is_gone: fn(&str, u32) -> bool,
}

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// What is held.
    pub scope: String,
    /// Of which cluster.
    pub cluster: String,
    /// Tells the holder from all others: random, hexadecimal.
    pub holder: String,
    /// On which host.
    pub host: String,
    /// As which process.
    pub pid: u32,
    /// What for.
    pub purpose: String,
    /// When it was taken first.
    #[serde(with = "time_text")]
    pub taken: Timestamp,
    /// Until when it holds, unless another follows.
    #[serde(with = "time_text")]
    pub expires: Timestamp,
    /// Of a use: the system identifier, in decimal, and the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<(String, u32)>,
    /// Of a use: the backup that is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupId>,
    /// The server that the work is done on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// When it was given back; the record stays where nothing may be removed.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "some_time_text")]
    pub released: Option<Timestamp>,
}

impl LeaseRecord {
    /// Whether it still held some time ago.
    #[must_use]
    pub fn holds(&self, at: Timestamp) -> bool {
        self.released.is_none() && self.expires > at
    }

    fn held(&self, scope: Scope) -> Error {
        Error::Held(Box::new(Holder {
            scope: scope.name(),
            cluster: self.cluster.clone(),
            host: self.host.clone(),
            pid: self.pid,
            purpose: self.purpose.clone(),
            since: self.taken,
            expires: self.expires,
        }))
    }
}

/// A lease that is held. Dropping it leaves it to expire.
#[derive(Debug)]
pub struct Lease {
    repository: Repository,
    scope: Scope,
    record: LeaseRecord,
    number: u64,
    /// By the monotonic clock.
    renewed: Duration,
    /// Not for whom the store has refused it: then the records stay until an expiry.
    may_remove: bool,
}

impl Repository {
    /// The newest lease of each holder, live or not.
    ///
    /// # Errors
    /// As the store's.
    pub fn leases(&self, ctx: &Ctx, scope: Scope, cluster: &str) -> Result<Vec<LeaseRecord>> {
        for _ in 1..TRIES {
            if let Some(whole) = self.leases_at_once(ctx, scope, cluster)? {
                return Ok(whole);
            }
        }
        Ok(self.leases_at_once(ctx, scope, cluster)?.unwrap_or_default())
    }

    /// Nothing where one was renewed or given back between the list and its reading: what followed is not known then.
    fn leases_at_once(
        &self,
        ctx: &Ctx,
        scope: Scope,
        cluster: &str,
    ) -> Result<Option<Vec<LeaseRecord>>> {
        let prefix = layout::leases_prefix(scope.name(), cluster);
        let mut newest: BTreeMap<String, (u64, ObjectMeta)> = BTreeMap::new();
        for meta in storage::list_all(self.store().as_ref(), &prefix)? {
            let Some((holder, number)) = layout::lease_of(&meta.key) else { continue };
            let is_known = layout::lease(scope.name(), cluster, holder, number);
            // Where nothing may be removed they add up; one that holds is not that old.
            let is_old = meta.stored.is_some_and(|at| at + READ_FOR < ctx.clock.now());
            if scope.is_exclusive() && is_old {
                continue;
            }
            if is_known.as_ref() == Some(&meta.key)
                && newest.get(holder).is_none_or(|(known, _)| *known < number)
            {
                newest.insert(holder.to_owned(), (number, meta));
            }
        }
        let newest: Vec<ObjectMeta> = newest.into_values().map(|(_, meta)| meta).collect();
        let read = side_by_side(&newest, |meta| {
            ctx.cancel.check()?;
            match self.read_line::<LeaseRecord>(Kind::Lease, &meta.key) {
                Ok(mut record) => {
                    // By a clock that is behind it may seem to have ended when it is put.
                    let by_store = meta.stored.map(|stored| stored + LEASE_FOR);
                    record.expires = by_store.map_or(record.expires, |at| record.expires.max(at));
                    Ok(Read::Record(Box::new(record)))
                }
                Err(error) if error.is_not_found() => Ok(Read::Gone),
                Err(error) if error.is_about_one_object() => {
                    let is_old = meta.stored.is_some_and(|at| at + SWEPT_AFTER < ctx.clock.now());
                    // A use that cannot be read keeps something, and nobody knows what.
                    if scope == Scope::Use && !is_old {
                        return Err(error);
                    }
                    ctx.note(format!("a lease is passed over: {error}"));
                    Ok(Read::Nothing)
                }
                Err(error) => Err(error),
            }
        })?;
        if read.iter().any(|read| matches!(read, Read::Gone)) {
            return Ok(None);
        }
        let records = read.into_iter().filter_map(|read| match read {
            Read::Record(record) => Some(*record),
            Read::Gone | Read::Nothing => None,
        });
        Ok(Some(records.collect()))
    }

    /// Removes leases that ended long ago, and heartbeats that others have followed: who may not remove anything leaves
    /// one a minute. How many.
    ///
    /// # Errors
    /// As the store's.
    pub fn sweep_leases(&self, ctx: &Ctx, cluster: &str) -> Result<usize> {
        let mut swept = 0;
        for scope in [Scope::Backup, Scope::Expire, Scope::Tier, Scope::Use] {
            let prefix = layout::leases_prefix(scope.name(), cluster);
            let listed = storage::list_all(self.store().as_ref(), &prefix)?;
            let live = self.leases(ctx, scope, cluster)?;
            let live = live.into_iter().filter(|lease| lease.holds(ctx.clock.now() - SWEPT_AFTER));
            let live: BTreeMap<String, ()> = live.map(|lease| (lease.holder, ())).collect();
            let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
            for (holder, number) in listed.iter().filter_map(|meta| layout::lease_of(&meta.key)) {
                let known = newest.entry(holder).or_insert(number);
                *known = number.max(*known);
            }
            let is_over = |meta: &&ObjectMeta| {
                let is_young = meta.stored.is_some_and(|at| at > ctx.clock.now() - SWEPT_AFTER);
                layout::lease_of(&meta.key).is_some_and(|(holder, number)| {
                    let is_followed = newest.get(holder).is_some_and(|newest| *newest > number);
                    is_followed || (!live.contains_key(holder) && !is_young)
                })
            };
            let over = listed.iter().filter(is_over);
            let over: Vec<_> = over.map(|meta| meta.key.clone()).collect();
            self.store().delete_many(&over)?;
            swept += over.len();
        }
        Ok(swept)
    }

    /// Takes a lease.
    ///
    /// # Errors
    /// [`Error::Held`] names the holder; [`Error::ClockSkew`] where the work goes by the time; as the store's.
    pub fn take_lease(&self, ctx: &Ctx, request: &LeaseRequest<'_>) -> Result<Lease> {
        let mut pause = Duration::from_millis(100);
        for _ in 1..TRIES {
            match self.try_lease(ctx, request) {
                Ok(lease) => return Ok(lease),
                // Both may have withdrawn: whoever waits less comes first.
                Err(Withdrawn::ForAnother(_)) => {
                    let [share] = entropy::random::<1>(ctx.entropy.as_ref());
                    ctx.clock.sleep(pause + pause.mul_f64(f64::from(share) / 64.0));
                    pause *= 2;
                    ctx.cancel.check()?;
                }
                Err(Withdrawn::For(error)) => return Err(error),
            }
        }
        self.try_lease(ctx, request).map_err(|withdrawn| match withdrawn {
            Withdrawn::ForAnother(error) | Withdrawn::For(error) => error,
        })
    }

    fn try_lease(
        &self,
        ctx: &Ctx,
        request: &LeaseRequest<'_>,
    ) -> std::result::Result<Lease, Withdrawn> {
        let LeaseRequest { scope, cluster, .. } = *request;
        let now = ctx.clock.now();
        let holder = hex::encode(&entropy::random::<8>(ctx.entropy.as_ref()));
        let other = |leases: Vec<LeaseRecord>| {
            let live = leases.into_iter().filter(|lease| lease.holder != holder);
            live.filter(|lease| {
                let is_of_same =
                    request.server.is_some() && lease.server.as_deref() == request.server;
                scope.is_exclusive()
                    && lease.holds(ctx.clock.now())
                    && !is_of_same
                    && !(request.is_gone)(&lease.host, lease.pid)
            })
            .max_by_key(|lease| lease.expires)
        };
        if let Some(theirs) = other(self.leases(ctx, scope, cluster)?) {
            return Err(Withdrawn::For(theirs.held(scope)));
        }
        let record = LeaseRecord {
            scope: scope.name().into(),
            cluster: cluster.into(),
            holder: holder.clone(),
            host: request.host.into(),
            pid: request.pid,
            purpose: request.purpose.into(),
            taken: now,
            expires: now + LEASE_FOR,
            place: request.backup.as_ref().map(|(system, epoch, _)| (system.to_string(), *epoch)),
            backup: request.backup.as_ref().map(|(_, _, id)| id.clone()),
            server: request.server.map(str::to_owned),
            released: None,
        };
        let renewed = ctx.clock.monotonic();
        let mut lease =
            Lease { repository: self.clone(), scope, record, number: 0, renewed, may_remove: true };
        let stored = lease.put(ctx)?;
        if let Some(skew) = stored.and_then(|stored| skew(stored, now, ctx.clock.now())) {
            // A backup that is not taken is worse than one whose lease others misjudge.
            if !scope.needs_clock() {
                ctx.warn(format!("{skew}: set the clock (NTP)"));
            } else {
                lease.release(ctx);
                return Err(Withdrawn::For(skew));
            }
        }
        match other(self.leases(ctx, scope, cluster)?) {
            None => Ok(lease),
            Some(theirs) => {
                lease.release(ctx);
                Err(Withdrawn::ForAnother(theirs.held(scope)))
            }
        }
    }
}

/// What came of reading a lease.
enum Read {
    Record(Box<LeaseRecord>),
    Gone,
    Nothing,
}

/// Why a lease was not taken.
enum Withdrawn {
    /// Another was taken at the same time, and may have been withdrawn too.
    ForAnother(Error),
    For(Error),
}

impl From<Error> for Withdrawn {
    fn from(error: Error) -> Self {
        Self::For(error)
    }
}

/// How far the store's clock is from this one, where that is too far. The object was stored between two looks
/// at this clock; stores tell whole seconds.
fn skew(stored: Timestamp, before: Timestamp, after: Timestamp) -> Option<Error> {
    let second = TimeDelta::seconds(1);
    let (ahead, behind) = (before - second - stored, stored - second - after);
    let error =
        |by: TimeDelta, direction| Error::ClockSkew { seconds: by.num_seconds(), direction };
    if ahead > SKEW_MAX {
        return Some(error(ahead, "ahead of"));
    }
    (behind > SKEW_MAX).then(|| error(behind, "behind"))
}

impl Lease {
    /// What tells the holder from all others.
    #[must_use]
    pub fn holder(&self) -> &str {
        &self.record.holder
    }

    /// Puts the record under its name; when the store says that was.
    fn put(&self, ctx: &Ctx) -> Result<Option<Timestamp>> {
        let LeaseRecord { cluster, holder, .. } = &self.record;
        let key = layout::lease(self.scope.name(), cluster, holder, self.number);
        let key =
            key.ok_or_else(|| Error::Limit(format!("{cluster}: no lease has such a name")))?;
        self.repository.put_line(ctx, Kind::Lease, &key, &self.record)?;
        Ok(self.repository.store().head(&key)?.stored)
    }

    /// A heartbeat, where one is due.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] where the lease has ended meanwhile, as the store's where it cannot be renewed.
    pub fn keep_up(&mut self, ctx: &Ctx) -> Result<()> {
        let since = ctx.clock.monotonic().saturating_sub(self.renewed);
        if since < RENEW_AFTER {
            return Ok(());
        }
        self.require(ctx)?;
        self.renew(ctx, LEASE_FOR)
    }

    /// That it still holds.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub fn require(&self, ctx: &Ctx) -> Result<()> {
        let since = ctx.clock.monotonic().saturating_sub(self.renewed);
        match since < LEASE_FOR && self.record.holds(ctx.clock.now()) {
            true => Ok(()),
            false => Err(Error::LeaseLost {
                scope: self.scope.name(),
                cluster: self.record.cluster.clone(),
            }),
        }
    }

    /// A heartbeat: the lease holds for that long from now on.
    ///
    /// # Errors
    /// As the store's: the lease then ends when it would have.
    pub fn renew(&mut self, ctx: &Ctx, how_long: Duration) -> Result<()> {
        let at = ctx.clock.monotonic();
        let old = (self.number, self.record.expires);
        self.number += 1;
        self.record.expires = ctx.clock.now() + how_long;
        if let Err(error) = self.put(ctx) {
            self.record.expires = old.1;
            return Err(error);
        }
        self.renewed = at;
        self.remove(old.0);
        Ok(())
    }

    /// Gives it back.
    pub fn release(&mut self, ctx: &Ctx) {
        // A record that says so, for whoever may not remove anything; then both go.
        self.number += 1;
        self.record.released = Some(ctx.clock.now());
        if let Err(error) = self.put(ctx) {
            ctx.note(format!("a lease was not given back, and ends by itself: {error}"));
        }
        self.remove(self.number - 1);
        self.remove(self.number);
    }

    /// What stays ends by itself, and the next expiry sweeps it.
    fn remove(&mut self, number: u64) {
        let LeaseRecord { cluster, holder, .. } = &self.record;
        let key = layout::lease(self.scope.name(), cluster, holder, number);
        let Some(key) = key.filter(|_| self.may_remove) else { return };
        if let Err(storage::Error::Forbidden { .. }) = self.repository.store().delete(&key) {
            self.may_remove = false;
        }
    }

    /// Renews it from now on beside the work, until the answer is dropped.
    #[must_use]
    pub fn beside(self, ctx: &Ctx) -> KeptUp {
        let ctx = ctx.with_child_cancel();
        let (lease, is_over) = (Mutex::new(self), Mutex::new(false));
        let shared = Arc::new(Beside { lease, is_over, signal: Condvar::new(), ctx });
        let crew = Crew::begin(1, &shared, Beside::renew);
        KeptUp { shared, crew: Some(crew), stays: None }
    }
}

#[derive(Debug)]
struct Beside {
    lease: Mutex<Lease>,
    is_over: Mutex<bool>,
    signal: Condvar,
    ctx: Ctx,
}

impl Beside {
    fn renew(&self) {
        let mut is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let waited = self.signal.wait_timeout_while(is_over, RENEW_AFTER, |is_over| !*is_over);
            let (over, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if *over {
                return;
            }
            drop(over);
            let renewed = self.lease().renew(&self.ctx, LEASE_FOR);
            if let Err(error) = renewed {
                self.ctx.note(format!("a lease was not renewed: {error}"));
            }
            is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lease(&self) -> std::sync::MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lease that is renewed by a thread of its own. Dropped, it is given back.
#[derive(Debug)]
pub struct KeptUp {
    shared: Arc<Beside>,
    crew: Option<Crew>,
    stays: Option<Duration>,
}

impl KeptUp {
    /// What tells the holder from all others.
    #[must_use]
    pub fn holder(&self) -> String {
        self.shared.lease().holder().to_owned()
    }

    /// That it still holds.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub fn require(&self, ctx: &Ctx) -> Result<()> {
        self.shared.lease().require(ctx)
    }

    /// It stays that long after the work.
    pub fn stay_for(mut self, how_long: Duration) {
        self.stays = Some(how_long);
    }
}

impl Drop for KeptUp {
    fn drop(&mut self) {
        *self.shared.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.signal.notify_all();
        drop(self.crew.take());
        let ctx = &self.shared.ctx;
        match self.stays {
            None => self.shared.lease().release(ctx),
            Some(how_long) => {
                if let Err(error) = self.shared.lease().renew(ctx, how_long) {
                    ctx.note(format!("a lease was not renewed: {error}"));
                }
            }
        }
    }
}
