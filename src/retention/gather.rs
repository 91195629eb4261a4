//! What a repository holds of a cluster, as retention sees it. Reads, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::facts::{Candidate, End, InUse, Moving, Pinned, PlaceFacts, Running};
use super::locks::locked;
use super::removal::is_older;
use crate::base::{Ctx, Timestamp, side_by_side};
use crate::pg::{ArchivedWal, Lsn, SegmentSize, TimelineId};
use crate::repo::{
    BackupId, Backups, Begin, Error, Kept, KnownLocks, LeaseRecord, Pin, Place, Registration,
    Repository, Result, Scope,
};

/// A backup that began less long ago counts as running, whatever its lease says.
const YOUNG: Duration = Duration::from_hours(24);

/// So long after the end of its lease a backup counts as dead, and a use as ended: a store that was away for a while,
/// or a host, kills nobody.
const DEAD_AFTER: Duration = Duration::from_hours(1);

/// Backups of versions that took no lease count as dead after this.
const DEAD_WITHOUT_LEASE: Duration = Duration::from_hours(14 * 24);

/// How long an attempt that died stays for the next backup to use, unless one was completed since.
const USEFUL_FOR: Duration = Duration::from_hours(7 * 24);

/// How long what a copy from another repository has stored stays for the next one to go on with: when it is swept, its
/// name is taken for good.
const COPY_FOR: Duration = Duration::from_hours(30 * 24);

/// Which look it is: before the second one the names of the dead that are swept are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    First,
    Second,
}

/// One place with everything that was found in it.
#[derive(Debug)]
pub struct Gathered {
    /// The place.
    pub place: Place,
    /// Its registration.
    pub registration: Registration,
    /// What is decided from.
    pub facts: PlaceFacts,
    /// What expiry decided before.
    pub kept: Kept,
    /// The backups, complete or not.
    pub backups: Backups,
    /// Backups that began, are not complete and are not running any more.
    pub dead: Vec<Dead>,
    /// Dead backups whose names nobody gets any more since they were found.
    pub taken: BTreeSet<BackupId>,
    /// Segments that were given up and are there, and may stay after all.
    pub returned: ArchivedWal,
    /// Segments that were there when they were given up for good, and still are.
    pub left: ArchivedWal,
    /// What was written down of locks; nothing in a store without.
    pub locks: Option<KnownLocks>,
    /// What people should look at.
    pub warnings: Vec<String>,
}

/// How WAL is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looks {
    /// By summaries where there are some: a few requests, and what went since from the middle is not seen.
    Summaries,
    /// All of it: a request for a thousand segments.
    Listing,
}

/// A backup that will not be completed any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// Its id.
    pub id: BackupId,
    /// When it began, as far as that is known.
    pub began: Option<Timestamp>,
    /// Whether its manifest's name is taken already.
    pub is_sealed: bool,
    /// Whether it was copied here from another repository: only a copy goes on with it.
    pub is_copied: bool,
}

/// Finds all histories of a cluster in a repository.
///
/// # Errors
/// As the store's.
pub fn gather(
    ctx: &Ctx,
    repository: &Repository,
    cluster: &str,
    looks: Looks,
) -> Result<Vec<Gathered>> {
    let places = repository.places()?;
    let places = places.into_iter().filter(|place| place.cluster() == cluster);
    let mut found = Vec::new();
    for place in places {
        let registration = match repository.registration(&place) {
            // Announced, or being made: there is nothing of it yet.
            Err(Error::EpochAnnounced { .. } | Error::NoCluster { .. }) => continue,
            other => other?,
        };
        found.push(gather_place(ctx, repository, place, registration, looks)?);
    }
    Ok(found)
}

fn gather_place(
    ctx: &Ctx,
    repository: &Repository,
    place: Place,
    registration: Registration,
    looks: Looks,
) -> Result<Gathered> {
    let size = SegmentSize::new(registration.wal_segment_size.into())
        .map_err(|error| Error::Limit(error.to_string()))?;
    let mut survey = match looks {
        Looks::Summaries => repository.survey(ctx, &place, &registration)?,
        Looks::Listing => repository.survey_by_list(ctx, &place, &registration)?,
    };
    let kept = survey.kept;
    let (returned, left) = given_up(ctx, repository, (&place, size), &kept)?;
    survey.wal.add_listed(&returned);
    let mut ends = Vec::new();
    for history in repository.tips(&place, &survey.wal)? {
        let newest = match repository.newest_on(ctx, &place, &survey.wal, &history)? {
            // Its WAL says nothing of time: it was written before it was stored.
            None => last_stored(repository, &place, &survey.wal, history.timeline())?,
            known => known,
        };
        ends.push(End { history, newest });
    }
    let backups = repository.backups(ctx, &place)?;
    let locks = match repository.store().lock_rule() {
        Some(_) => Some(repository.known_locks(ctx, &place, size)?),
        None => None,
    };
    let facts = PlaceFacts {
        name: format!("{}-{}", place.system(), place.epoch()),
        registered: registration.created,
        backups: Vec::new(),
        given_up: Vec::new(),
        unreadable: Vec::new(),
        pins: BTreeMap::new(),
        running: Vec::new(),
        interrupted: Vec::new(),
        in_use: Vec::new(),
        wal: survey.wal,
        ends,
        moving: Moving::default(),
        locked: locks.as_ref().map(locked).unwrap_or_default(),
    };
    let warnings = survey.unreadable;
    let (dead, taken) = (Vec::new(), BTreeSet::new());
    let mut gathered = Gathered {
        place,
        registration,
        facts,
        kept,
        backups,
        dead,
        taken,
        returned,
        left,
        locks,
        warnings,
    };
    gathered.refresh_from(ctx, repository, Look::First)?;
    Ok(gathered)
}

/// Segments that were given up and are there. Those that are newer than the final record that gave them up have come back:
/// somebody archives there again, or a repository that lagged behind has come up. Like those that were only announced
/// they are decided upon anew; WAL of a backup whose removal is not final is whole, because manifests go before all WAL. The
/// rest is left by an expiry that died, or is still at it.
fn given_up(
    ctx: &Ctx,
    repository: &Repository,
    (place, size): (&Place, SegmentSize),
    kept: &Kept,
) -> Result<(ArchivedWal, ArchivedWal)> {
    let (mut returned, mut left) = (ArchivedWal::new(size), ArchivedWal::new(size));
    let Some(keep) = &kept.newest else { return Ok((returned, left)) };
    let last_final = kept.last_final().map(|keep| (keep.expired_wal(size), keep.stored));
    let is_left = |timeline, number, stored| {
        last_final.as_ref().is_some_and(|(expired, decided)| {
            expired.has(timeline, number) && is_older(stored, *decided)
        })
    };
    let stretches: Vec<_> = keep.expired_wal(size).stretches().collect();
    let parts = side_by_side(&stretches, |stretch| {
        let (mut returned, mut left) = (ArchivedWal::new(size), ArchivedWal::new(size));
        repository.each_page(ctx, place, size, *stretch, |page| {
            for (number, meta) in page {
                let part = match is_left(stretch.timeline, number, meta.stored) {
                    true => &mut left,
                    false => &mut returned,
                };
                part.add(meta.key.last_component());
            }
            Ok(())
        })?;
        Ok::<_, Error>((returned, left))
    })?;
    for (part_returned, part_left) in &parts {
        returned.add_listed(part_returned);
        left.add_listed(part_left);
    }
    Ok((returned, left))
}

/// When the newest segment of a timeline was stored, by the store's clock.
fn last_stored(
    repository: &Repository,
    place: &Place,
    wal: &ArchivedWal,
    timeline: TimelineId,
) -> Result<Option<Timestamp>> {
    let last = wal.last(timeline).and_then(|last| place.wal(&wal.name(timeline, last)));
    let Some(key) = last else { return Ok(None) };
    match repository.store().head(&key) {
        Ok(meta) => Ok(meta.stored),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Gathered {
    /// The size of its segments.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        self.facts.wal.segment_size()
    }

    /// Looks again for all that somebody may have begun since: backups, pins, uses.
    ///
    /// # Errors
    /// As the store's.
    pub fn refresh(&mut self, ctx: &Ctx, repository: &Repository) -> Result<()> {
        self.backups = repository.backups(ctx, &self.place)?;
        self.refresh_from(ctx, repository, Look::Second)
    }

    fn refresh_from(&mut self, ctx: &Ctx, repository: &Repository, look: Look) -> Result<()> {
        let candidates = self.backups.complete.iter().filter_map(Candidate::of);
        (self.facts.given_up, self.facts.backups) =
            candidates.partition(|backup| self.kept.is_given_up(&backup.id));
        self.facts.pins = pinned(repository.pins(ctx, &self.place)?);
        let cluster = self.place.cluster();
        let uses = repository.leases(ctx, Scope::Use, cluster)?;
        self.facts.in_use = self.in_use(uses, ctx.clock.now());
        let leases = repository.leases(ctx, Scope::Backup, cluster)?;
        self.sort_unfinished(ctx, repository, &leases, look)?;
        self.facts.unreadable = self.unreadable(repository)?;
        Ok(())
    }

    fn in_use(&self, uses: Vec<LeaseRecord>, now: Timestamp) -> Vec<InUse> {
        let here = (self.place.system().to_string(), self.place.epoch());
        let live = uses.into_iter().filter(|lease| lease.holds(now - DEAD_AFTER));
        let of_here = live.filter(|lease| lease.place.as_ref() == Some(&here));
        let in_use = of_here.filter_map(|lease| {
            let by = format!("{}, process {} on {}", lease.purpose, lease.pid, lease.host);
            Some(InUse { id: lease.backup?, by })
        });
        in_use.collect()
    }

    fn is_in_use(&self, id: &BackupId) -> bool {
        self.facts.in_use.iter().any(|used| used.id == *id)
    }

    /// Tells running backups from dead ones.
    fn sort_unfinished(
        &mut self,
        ctx: &Ctx,
        repository: &Repository,
        leases: &[LeaseRecord],
        look: Look,
    ) -> Result<()> {
        let now = ctx.clock.now();
        // Of a backup that is removed the begin record goes last.
        let keep = self.kept.newest.as_ref();
        let is_removed = |id: &&BackupId| keep.is_some_and(|keep| keep.removed.contains(*id));
        let unfinished = self.backups.unfinished.iter().filter(|id| !is_removed(id));
        let unfinished: Vec<BackupId> = unfinished.cloned().collect();
        let begun = side_by_side(&unfinished, |id| {
            ctx.cancel.check()?;
            let begin = match repository.get_begin(&self.place, id) {
                Ok(begin) => begin,
                Err(error) if error.is_about_one_object() => return Ok(None),
                Err(error) => return Err(error),
            };
            // By the store's clock, where that is later: its host's may be behind.
            let stored = match repository.store().head(&self.place.begin(id)) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                found => found.ok().and_then(|meta| meta.stored),
            };
            let began = stored.map_or(begin.started, |stored| stored.max(begin.started));
            Ok(Some((began, begin)))
        })?;
        (self.facts.running, self.dead) = (Vec::new(), Vec::new());
        self.facts.interrupted = Vec::new();
        for (id, begin) in unfinished.iter().zip(begun) {
            match begin {
                Some((began, begin))
                    // A copy of it goes on, whoever began it.
                    if is_alive(&begin, began, leases, now) || self.is_in_use(id) =>
                {
                    self.facts.running.push(running(begin));
                }
                Some((began, begin)) => {
                    let (began, is_copied) = (Some(began), begin.copied);
                    // Of one whose name is taken before the second look nothing is kept.
                    let is_going = match look {
                        Look::First => self.is_swept(id, (began, is_copied), now),
                        Look::Second => self.taken.contains(id),
                    };
                    if !is_going {
                        self.facts.interrupted.push(running(begin));
                    }
                    self.dead.push(Dead { id: id.clone(), began, is_sealed: false, is_copied });
                }
                // What it may need is not known, so while it may live it keeps all WAL; what it may stand on is kept
                // as for one whose manifest cannot be read.
                None => match began_by_name(id).filter(|began| *began + YOUNG > now) {
                    Some(_) => self.facts.running.push(Running {
                        id: id.clone(),
                        parent: None,
                        attempts: Vec::new(),
                        timeline: None,
                        wal_from: Lsn(0),
                    }),
                    None => {
                        let began = began_by_name(id);
                        let (is_sealed, is_copied) = (false, false);
                        self.dead.push(Dead { id: id.clone(), began, is_sealed, is_copied });
                    }
                },
            }
        }
        let sealed = self.backups.abandoned.iter();
        let sealed = sealed.map(|id| {
            let (id, began) = (id.clone(), began_by_name(id));
            Dead { id, began, is_sealed: true, is_copied: false }
        });
        self.dead.extend(sealed);
        Ok(())
    }

    /// Whether what is left of a dead backup is removed: nobody has a use for it any more, or that was decided.
    pub(super) fn is_swept(
        &self,
        id: &BackupId,
        (began, is_copied): (Option<Timestamp>, bool),
        now: Timestamp,
    ) -> bool {
        let keep = self.kept.newest.as_ref();
        let is_decided = keep.is_some_and(|keep| keep.swept.contains(id));
        is_decided || !self.is_useful(id, (began, is_copied), now)
    }

    /// Whether the next backup may use what an attempt has stored, or the next copy what one has.
    fn is_useful(
        &self,
        id: &BackupId,
        (began, is_copied): (Option<Timestamp>, bool),
        now: Timestamp,
    ) -> bool {
        let Some(began) = began else { return false };
        if began + YOUNG > now {
            return true;
        }
        if is_copied {
            return began + COPY_FOR > now;
        }
        let is_overtaken = self.backups.complete.iter().any(|backup| {
            backup.backup_type == id.backup_type() && backup.id.own_time() > id.own_time()
        });
        !is_overtaken && began + USEFUL_FOR > now
    }

    /// Where the WAL of backups begins whose manifests cannot be read; at the beginning where nothing tells.
    fn unreadable(&self, repository: &Repository) -> Result<Vec<(String, Lsn)>> {
        let blind = self.facts.running.iter().filter(|running| running.timeline.is_none());
        let mut unreadable: Vec<_> =
            blind.map(|running| (running.id.to_string(), Lsn(0))).collect();
        for (name, _) in &self.backups.unreadable {
            let Ok(id) = name.parse::<BackupId>() else { continue };
            let from = match repository.get_begin(&self.place, &id) {
                Ok(begin) => begin.wal_from,
                Err(error) if error.is_about_one_object() => Lsn(0),
                Err(error) => return Err(error),
            };
            unreadable.push((name.clone(), from));
        }
        Ok(unreadable)
    }

    /// Attempts whose packs somebody uses or may come to use.
    ///
    /// # Errors
    /// As the store's.
    pub fn used_attempts(&self, repository: &Repository) -> Result<BTreeSet<BackupId>> {
        let complete = self.backups.complete.iter().flat_map(|backup| &backup.attempts);
        let running = self.facts.running.iter().flat_map(|running| &running.attempts);
        let mut used: BTreeSet<BackupId> = complete.chain(running).cloned().collect();
        for (name, _) in &self.backups.unreadable {
            let Ok(id) = name.parse::<BackupId>() else { continue };
            match repository.get_begin(&self.place, &id) {
                Ok(begin) => used.extend(begin.attempts),
                Err(error) if error.is_about_one_object() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(used)
    }
}

fn pinned(pins: BTreeMap<BackupId, Pin>) -> BTreeMap<BackupId, Pinned> {
    let pinned = pins.into_values().filter(|pin| pin.pinned);
    pinned.map(|pin| (pin.id, Pinned { reason: pin.reason, until: pin.until })).collect()
}

fn running(begin: Begin) -> Running {
    Running {
        id: begin.id,
        parent: begin.parent,
        attempts: begin.attempts,
        timeline: TimelineId::new(begin.timeline),
        wal_from: begin.wal_from,
    }
}

/// Whether a backup may still be completed, as far as anybody cares: whoever is sealed after that and lives all the
/// same fails at its commit.
fn is_alive(begin: &Begin, began: Timestamp, leases: &[LeaseRecord], now: Timestamp) -> bool {
    if began + YOUNG > now {
        return true;
    }
    match &begin.lease {
        None => began + DEAD_WITHOUT_LEASE > now,
        Some(holder) => {
            let lease = leases.iter().find(|lease| lease.holder == *holder);
            lease.is_some_and(|lease| lease.holds(now - DEAD_AFTER))
        }
    }
}

pub(super) fn began_by_name(id: &BackupId) -> Option<Timestamp> {
    let began = chrono::NaiveDateTime::parse_from_str(id.own_time(), "%Y%m%d-%H%M%S").ok()?;
    Some(began.and_utc())
}
