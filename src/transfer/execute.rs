//! Carries a plan out.

use std::time::Duration;

use serde::Serialize;

use super::backup::Copying;
use super::bringing::{Bringing, Brought};
use super::error::Result;
use super::hold::hold;
use super::plan::{BackupCopy, CopyPlan, LeftOut, PlaceCopy};
use super::sides::{Request, Side, Who};
use super::wal::within;
use crate::base::{Ctx, Event, Stage};
use crate::pg::{ArchivedWal, SegmentSize, Stretch};
use crate::repo::{self, BackupId, KeptUp, Kind, LeaseRequest, Place, Scope};
use crate::storage::ObjectKey;

/// Files that are brought between two looks at whether to go on.
const BATCH: usize = 512;

/// How often a record of expiry is tried for that others put first.
const TRIES: u32 = 16;

/// Stores tell whole seconds, and what was stored in that of a record counts as older than it.
const RECORD_WAIT: Duration = Duration::from_secs(2);

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Backups that are there now.
    pub backups: Vec<BackupId>,
    /// Their objects.
    pub objects: u64,
    /// Their bytes, as stored there.
    pub bytes: u64,
    /// Segments of WAL that were stored.
    pub segments: u64,
    /// Histories, labels and partial segments.
    pub files: u64,
    /// Pins.
    pub pins: u64,
    /// Backups that went from the source, or came to be removed in the target, since the plan was made.
    pub passed: Vec<LeftOut>,
}

/// Copies what was planned. What was copied before an error stays, and the same can be planned and done again.
///
/// # Errors
/// [`Error::Jurisdiction`]; as the repositories'; [`Error::LeftOut`] where the one backup that was named cannot be copied
/// any more.
pub fn execute(ctx: &Ctx, request: &Request<'_>, plan: &CopyPlan, who: &Who<'_>) -> Result<Copied> {
    request.require_allowed()?;
    let (files_total, bytes_total) = plan.size();
    ctx.observer.event(Event::Begin { stage: Stage::Transfer, bytes_total, files_total });
    // In all before any begins: whoever looks meanwhile does not take an older one for the newest.
    let new = plan.places.iter().filter(|place| !place.is_registered);
    for place in new.filter(|place| place.registration.epoch > 1) {
        request.to.at(request.to.repository.announce(ctx, &place.registration))?;
    }
    let mut copied = Copied::default();
    for place in &plan.places {
        copy_place(ctx, request, place, who, &mut copied)?;
    }
    ctx.observer.event(Event::End { stage: Stage::Transfer });
    Ok(copied)
}

fn copy_place(
    ctx: &Ctx,
    request: &Request<'_>,
    plan: &PlaceCopy,
    who: &Who<'_>,
    copied: &mut Copied,
) -> Result<()> {
    let (from, to, place) = (request.from, request.to, &plan.place);
    let size = SegmentSize::new(plan.registration.wal_segment_size.into());
    let size = from.at(size.map_err(|error| repo::Error::Limit(error.to_string())))?;
    if !plan.is_registered {
        to.at(to.repository.register(ctx, &plan.registration))?;
    }
    let bringing = Bringing { ctx, from, to, place, size };
    // Keeps the WAL behind it as well.
    let oldest = plan.backups.first().map(|oldest| hold(ctx, &from, place, &oldest.id, who));
    let _oldest = oldest.and_then(Result::ok).flatten();
    let histories = plan.histories.iter().map(|timeline| (Kind::History, place.history(*timeline)));
    let labels = plan.labels.iter().filter_map(|name| Some((Kind::Label, place.label(name)?)));
    let beside: Vec<_> = histories.chain(labels).collect();
    copied.files += stored(&bringing.all(&beside)?);
    give_back(ctx, &to, plan, (size, who))?;
    // What the next one stands on stays there until that one is complete.
    let mut held: Vec<(BackupId, KeptUp)> = Vec::new();
    for backup in &plan.backups {
        ctx.cancel.check()?;
        held.retain(|(root, _)| *root == backup.id.root());
        match copy_backup(ctx, request, plan, (backup, who), &bringing, copied) {
            Err(error) if !(request.is_strict && request.is_named()) && error.is_of_removal() => {
                ctx.warn(format!("{} is passed over: {error}", backup.id));
                copied.passed.push(LeftOut {
                    id: backup.id.clone(),
                    why: error.to_string(),
                    is_by_rules: true,
                });
            }
            other => held.extend(other?.map(|own| (backup.id.root(), own))),
        }
    }
    drop(held);
    for id in plan.pins.iter().filter(|id| plan.there.contains(id)) {
        copied.pins += pin(ctx, (&from, &to), place, id)?;
    }
    // What backups need came with them.
    let mut came = ArchivedWal::new(size);
    let done = plan.backups.iter().filter(|backup| copied.backups.contains(&backup.id));
    done.flat_map(|backup| &backup.wal).for_each(|name| came.add(name));
    let segments = plan.wal.iter().flat_map(Stretch::segments);
    let segments = segments.filter(|(timeline, number)| !came.has(*timeline, *number));
    let mut keys = segments.filter_map(|(timeline, number)| {
        Some((Kind::Wal, place.wal(&came.name(timeline, number))?))
    });
    loop {
        let batch: Vec<(Kind, ObjectKey)> = keys.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        copied.segments += stored(&bringing.all(&batch)?);
    }
    let partials = plan.partials.iter().filter_map(|name| {
        let (segment, end) = name.split_once('.')?;
        let end = u64::from_str_radix(end, 16).ok()?;
        Some((Kind::Partial, place.partial(segment, end)?))
    });
    copied.files += stored(&bringing.all(&partials.collect::<Vec<_>>())?);
    if let Err(error) = to.repository.summarise(ctx, place, size) {
        ctx.note(format!("summaries were not written: {error}"));
    }
    Ok(())
}

fn stored(brought: &[Brought]) -> u64 {
    brought.iter().filter(|each| **each == Brought::Stored).count() as u64
}

fn copy_backup(
    ctx: &Ctx,
    request: &Request<'_>,
    plan: &PlaceCopy,
    (planned, who): (&BackupCopy, &Who<'_>),
    bringing: &Bringing<'_>,
    copied: &mut Copied,
) -> Result<Option<KeptUp>> {
    let (from, to, place) = (request.from, request.to, &plan.place);
    if let Some(parent) =
        copied.passed.iter().find(|gone| Some(&gone.id) == planned.parent.as_ref())
    {
        let why = format!("{}, on which it stands, was passed over", parent.id);
        copied.passed.push(LeftOut { id: planned.id.clone(), why, is_by_rules: true });
        return Ok(None);
    }
    let _held = hold(ctx, &from, place, &planned.id, who)?;
    let done = Copying { ctx, bringing: *bringing, who, planned }.copy()?;
    copied.objects += done.objects;
    copied.bytes += done.bytes;
    copied.segments += done.segments;
    if plan.pins.contains(&planned.id) {
        copied.pins += pin(ctx, (&from, &to), place, &planned.id)?;
    }
    ctx.note(format!("{} is complete in {}", planned.id, to.name));
    copied.backups.push(planned.id.clone());
    Ok(Some(done.held))
}

/// Takes a pin over, where it still holds and nobody has said anything there.
fn pin(ctx: &Ctx, (from, to): (&Side<'_>, &Side<'_>), place: &Place, id: &BackupId) -> Result<u64> {
    let pins = from.at(from.repository.pins(ctx, place))?;
    let Some(pin) = pins.get(id).filter(|pin| pin.pinned) else { return Ok(0) };
    if to.at(to.repository.pins(ctx, place))?.contains_key(id) {
        return Ok(0);
    }
    to.at(to.repository.put_pin(ctx, place, pin))?;
    Ok(1)
}

/// Says that WAL which expiry had given up is not given up any more, before any of it is put: whoever removes what was
/// given up before this record leaves what was stored after it.
fn give_back(
    ctx: &Ctx,
    to: &Side<'_>,
    plan: &PlaceCopy,
    (size, who): (SegmentSize, &Who<'_>),
) -> Result<()> {
    if plan.given_back.is_empty() {
        return Ok(());
    }
    let mut back = ArchivedWal::new(size);
    plan.given_back.iter().for_each(|stretch| back.add_stretch(*stretch));
    // One that is at work may be removing what is there of it.
    let request = LeaseRequest {
        scope: Scope::Expire,
        cluster: plan.place.cluster(),
        host: who.host,
        pid: who.pid,
        purpose: "repository copy to here",
        backup: None,
        server: None,
        is_gone: who.is_gone,
    };
    let _lease = to.at(to.repository.take_lease(ctx, &request))?.beside(ctx);
    for _ in 0..TRIES {
        let kept = to.at(to.repository.kept(ctx, &plan.place))?;
        if let Some(why) = kept.unreadable.first() {
            let why = format!("what its expiry has decided cannot be read: {why}");
            return to.at(Err(repo::Error::Limit(why)));
        }
        let Some(mut keep) = kept.newest else { return Ok(()) };
        let mut expired = keep.expired_wal(size);
        if back.stretches().all(|stretch| within(&expired, stretch).is_empty()) {
            return Ok(());
        }
        expired.give_up(&back);
        keep.number = kept.last_number.unwrap_or(keep.number) + 1;
        keep.head.number = keep.number;
        keep.head.time = ctx.clock.now();
        // The last final one still tells what was there when it was given up.
        keep.head.is_final = false;
        keep.set_expired(&expired);
        match to.repository.put_keep(ctx, &plan.place, &keep) {
            Ok(()) => {
                ctx.clock.sleep(RECORD_WAIT);
                return Ok(());
            }
            // Somebody decided meanwhile.
            Err(repo::Error::Storage(error)) if error.is_already_exists() => {}
            Err(repo::Error::Claimed { .. }) => {}
            Err(error) => return to.at(Err(error)),
        }
    }
    to.at(Err(repo::Error::Decided))
}
