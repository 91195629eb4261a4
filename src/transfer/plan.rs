//! What would be copied, and what not and why.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::error::{Error, Result};
use super::gather::{Both, gather};
use super::sides::{Kept, Request};
use super::wal::{own_wal, wanted, within};
use crate::base::Ctx;
use crate::pg::{ArchivedWal, SegmentName, SegmentSize, Stretch};
use crate::repo::{BackupId, Pin, Place, Registration, Summary};

/// What would be copied.
#[derive(Debug, Clone, Serialize)]
pub struct CopyPlan {
    /// The source.
    pub from: String,
    /// The target.
    pub to: String,
    /// Each history of the cluster.
    pub places: Vec<PlaceCopy>,
}

/// What would be copied of one history.
#[derive(Debug, Clone, Serialize)]
pub struct PlaceCopy {
    /// Its system identifier and epoch.
    pub name: String,
    /// Where it lies, in both.
    #[serde(skip)]
    pub place: Place,
    /// What it is.
    #[serde(skip)]
    pub registration: Registration,
    /// Whether the target knows it.
    pub is_registered: bool,
    /// Backups that are copied, parents before what stands on them.
    pub backups: Vec<BackupCopy>,
    /// Backups that the target has.
    pub there: Vec<BackupId>,
    /// Backups that are not copied.
    pub left_out: Vec<LeftOut>,
    /// Runs of WAL that are copied, in order.
    #[serde(serialize_with = "runs")]
    pub wal: Vec<Stretch>,
    /// How many segments that are.
    pub segments: u64,
    /// Their bytes, as stored in the source.
    pub wal_bytes: u64,
    /// How many segments of what is wanted the target has.
    pub segments_there: u64,
    /// How many its expiry has given up, or its rules do not keep.
    pub segments_left_out: u64,
    /// Runs that its expiry has given up, and that come back because a backup needs them.
    #[serde(serialize_with = "runs")]
    pub given_back: Vec<Stretch>,
    /// Timeline histories.
    pub histories: Vec<u32>,
    /// Backup history files.
    pub labels: Vec<String>,
    /// Partial segments.
    pub partials: Vec<String>,
    /// Pins that hold, of backups that are copied or there.
    pub pins: Vec<BackupId>,
    /// What people should look at.
    pub warnings: Vec<String>,
}

/// One backup that is copied.
#[derive(Debug, Clone, Serialize)]
pub struct BackupCopy {
    /// Which.
    pub id: BackupId,
    /// What it stands on.
    pub parent: Option<BackupId>,
    /// Interrupted backups whose packs go with it.
    pub attempts: Vec<BackupId>,
    /// How many objects.
    pub objects: u64,
    /// Their bytes, as stored in the source.
    pub bytes: u64,
    /// Whether a copy before has begun it: what that has brought is not brought again.
    pub is_begun: bool,
    /// The WAL that it needs to become consistent.
    #[serde(skip)]
    pub wal: Vec<String>,
}

/// A backup that is not copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Which.
    pub id: BackupId,
    /// Why.
    pub why: String,
    /// Nothing is wrong: the target's own rules do not keep it, or its expiry has removed it.
    pub is_by_rules: bool,
}

fn runs<S: serde::Serializer>(
    stretches: &[Stretch],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(stretches.iter().map(|each| {
        let (first, last) = (each.first.0, each.last.0);
        serde_json::json!({ "timeline": each.timeline.get(), "first": first, "last": last })
    }))
}

/// Plans a copy. Changes nothing.
///
/// # Errors
/// [`Error::Jurisdiction`], [`Error::Same`], [`Error::OtherCluster`]; [`Error::LeftOut`] where the one backup that is
/// named cannot be copied; as the repositories'.
pub fn plan(ctx: &Ctx, request: &Request<'_>) -> Result<CopyPlan> {
    request.require_allowed()?;
    let places = gather(ctx, request)?;
    let places = places.iter().map(|both| {
        let mut copy = plan_place(request, both)?;
        for stretch in &copy.wal {
            let pages =
                request.from.repository.each_page(ctx, &both.place, both.size, *stretch, |page| {
                    copy.wal_bytes += page.iter().map(|(_, meta)| meta.size).sum::<u64>();
                    Ok(())
                });
            request.from.at(pages)?;
        }
        Ok(copy)
    });
    let (from, to) = (request.from.name.to_owned(), request.to.name.to_owned());
    Ok(CopyPlan { from, to, places: places.collect::<Result<_>>()? })
}

impl CopyPlan {
    /// How many objects and bytes would be read, about.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        let backups = self.places.iter().flat_map(|place| &place.backups);
        let (objects, bytes) = backups.fold((0, 0), |(objects, bytes), backup| {
            (objects + backup.objects, bytes + backup.bytes)
        });
        let wal = self.places.iter().map(|place| (place.segments, place.wal_bytes));
        wal.fold((objects, bytes), |sum, each| (sum.0 + each.0, sum.1 + each.1))
    }
}

/// Pure: of one history.
fn plan_place(request: &Request<'_>, both: &Both) -> Result<PlaceCopy> {
    let rules = request.rules.get(&both.place);
    let mut choosing = Choosing::new(request, both);
    choosing.choose()?;
    let Choosing { backups, there, left_out, .. } = choosing;
    let size = both.size;
    let mut needed = ArchivedWal::new(size);
    backups.iter().flat_map(|backup| &backup.wal).for_each(|name| needed.add(name));
    let is_named = request.is_named();
    let (mut all, mut ruled_out) = (ArchivedWal::new(size), 0);
    for stretch in both.from.wal.stretches().filter(|_| !is_named) {
        let parts = rules.map_or_else(|| vec![stretch], |rules| within(&rules.wal, stretch));
        let missing = rules.map_or_else(Vec::new, |rules| rules.wal.missing(stretch));
        ruled_out += missing.iter().map(Stretch::count).sum::<u64>();
        parts.into_iter().for_each(|part| all.add_stretch(part));
    }
    let wal = wanted(&all, &needed, &both.to.wal);
    let (histories, labels, partials) = beside(both, is_named.then_some(&needed));
    let copied: BTreeSet<&BackupId> =
        backups.iter().map(|backup| &backup.id).chain(&there).collect();
    let pins = pins(both, &copied);
    let mut warnings = Vec::new();
    if let Some(rules) = rules.filter(|_| is_named) {
        for gone in backups.iter().filter(|backup| !rules.backups.contains(&backup.id)) {
            let pinned = pins.contains(&gone.id);
            let what = format!(
                "the rules of {} do not keep {}: its next expire removes it, unless it is pinned there",
                request.to.name, gone.id
            );
            warnings.extend((!pinned).then_some(what));
        }
    }
    warnings.extend(both.from.unreadable.iter().cloned());
    let unreadable = both.from.backups.unreadable.iter().filter(|_| !is_named);
    warnings.extend(
        unreadable.map(|(name, why)| format!("{name} cannot be read, and is not copied: {why}")),
    );
    Ok(PlaceCopy {
        name: format!("{}-{}", both.place.system(), both.place.epoch()),
        place: both.place.clone(),
        registration: both.registration.clone(),
        is_registered: both.is_registered,
        backups,
        there,
        left_out,
        segments: wal.missing.iter().map(Stretch::count).sum(),
        wal: wal.missing,
        wal_bytes: 0,
        segments_there: wal.there,
        segments_left_out: wal.given_up + ruled_out,
        given_back: wal.given_back,
        histories,
        labels,
        partials,
        pins,
        warnings,
    })
}

/// Histories, labels and partial segments that the target lacks; `needed` where one backup is to restore by itself.
fn beside(both: &Both, needed: Option<&ArchivedWal>) -> (Vec<u32>, Vec<String>, Vec<String>) {
    let size = both.size;
    let (from, to) = (&both.from, &both.to);
    // A history leads on from its ancestors, and none of their segments goes before theirs.
    let timelines: Option<BTreeSet<u32>> = needed.map(|needed| {
        let own = needed.timelines().into_iter();
        let ways = own.filter_map(|timeline| from.wal.history(timeline));
        let all = ways.flat_map(|way| {
            let ancestors: Vec<u32> =
                way.ancestors().iter().map(|each| each.timeline.get()).collect();
            ancestors.into_iter().chain([way.timeline().get()])
        });
        all.collect()
    });
    let is_way = |timeline: &u32| timelines.as_ref().is_none_or(|all| all.contains(timeline));
    let histories = from.histories.difference(&to.histories).copied().filter(is_way).collect();
    let is_needed = |name: &str| needed.is_none_or(|needed| names_of(needed, name, size));
    let labels = from.labels.difference(&to.labels).filter(|name| is_needed(name)).cloned();
    let partials = from.partials.difference(&to.partials).filter(|_| needed.is_none()).cloned();
    (histories, labels.collect(), partials.collect())
}

/// Whether a file that is named after a segment is named after one of these.
fn names_of(set: &ArchivedWal, name: &str, size: SegmentSize) -> bool {
    let segment = name.get(..24).and_then(|segment| SegmentName::parse(segment.as_bytes()).ok());
    let number = segment.and_then(|segment| Some((segment.timeline(), segment.number(size).ok()?)));
    number.is_some_and(|(timeline, number)| set.has(timeline, number))
}

/// Pins that the target does not know; its own word on a backup stays.
fn pins(both: &Both, copied: &BTreeSet<&BackupId>) -> Vec<BackupId> {
    let is_new = |pin: &&Pin| pin.pinned && !both.to.pins.contains_key(&pin.id);
    let pins = both.from.pins.values().filter(is_new);
    pins.filter(|pin| copied.contains(&pin.id)).map(|pin| pin.id.clone()).collect()
}

struct Choosing<'a> {
    request: &'a Request<'a>,
    both: &'a Both,
    rules: Option<&'a Kept>,
    all: BTreeMap<&'a BackupId, &'a Summary>,
    has: BTreeMap<&'a BackupId, &'a Summary>,
    backups: Vec<BackupCopy>,
    there: Vec<BackupId>,
    left_out: Vec<LeftOut>,
    seen: BTreeSet<&'a BackupId>,
}

impl<'a> Choosing<'a> {
    fn new(request: &'a Request<'a>, both: &'a Both) -> Self {
        let by_id = |backups: &'a [Summary]| backups.iter().map(|each| (&each.id, each)).collect();
        Self {
            request,
            both,
            rules: request.rules.get(&both.place),
            all: by_id(&both.from.backups.complete),
            has: by_id(&both.to.backups.complete),
            backups: Vec::new(),
            there: Vec::new(),
            left_out: Vec::new(),
            seen: BTreeSet::new(),
        }
    }

    fn choose(&mut self) -> Result<()> {
        let complete = &self.both.from.backups.complete;
        if !self.request.is_named() {
            return complete.iter().try_for_each(|backup| self.add(&backup.id));
        }
        for id in &self.request.backups {
            match self.all.get_key_value(id).map(|(id, _)| *id) {
                Some(id) => self.add(id)?,
                None => self.refused(id, "it is not there, or its manifest cannot be read")?,
            }
        }
        Ok(())
    }

    /// Where one is named, that it cannot be copied is an error.
    fn refused(&mut self, id: &BackupId, why: impl Into<WhyNot>) -> Result<()> {
        let WhyNot { why, is_by_rules } = why.into();
        if self.request.is_strict && self.request.is_named() {
            return Err(Error::LeftOut { id: id.clone(), why });
        }
        self.left_out.push(LeftOut { id: id.clone(), why, is_by_rules });
        Ok(())
    }

    /// Down to the full, then up again: parents come first. A chain that is a circle is nobody's.
    fn add(&mut self, id: &'a BackupId) -> Result<()> {
        let mut way = vec![id];
        while let Some(parent) = way.last().and_then(|id| self.all.get(*id)?.parent.as_ref()) {
            if way.contains(&parent) {
                return self.refused(id, "its chain is a circle");
            }
            way.push(parent);
        }
        for id in way.into_iter().rev() {
            if self.seen.insert(id) {
                self.add_one(id)?;
            }
        }
        Ok(())
    }

    fn add_one(&mut self, id: &'a BackupId) -> Result<()> {
        let Some(backup) = self.all.get(id).copied() else {
            return self.refused(id, "its manifest is missing, or cannot be read");
        };
        if let Some(other) = self.has.get(id) {
            if other.hash != backup.hash || other.started != backup.started {
                let to = self.request.to.name;
                return self.refused(id, format!("{to} has another backup under this name"));
            }
            self.there.push(id.clone());
            return Ok(());
        }
        if let Some(why) = self.why_not(backup) {
            return self.refused(id, why);
        }
        match own_wal(&self.both.from.wal, backup) {
            Err(why) => self.refused(id, why),
            Ok(wal) => {
                self.backups.push(BackupCopy {
                    id: id.clone(),
                    parent: backup.parent.clone(),
                    attempts: backup.attempts.clone(),
                    objects: backup.counts.objects + backup.counts.reused + 1,
                    bytes: backup.totals.stored,
                    is_begun: self.both.to.backups.unfinished.contains(id),
                    wal,
                });
                Ok(())
            }
        }
    }

    fn why_not(&self, backup: &Summary) -> Option<WhyNot> {
        let (from, to) = (self.request.from.name, self.request.to.name);
        let (Both { from: own, to: theirs, .. }, id) = (self.both, &backup.id);
        let parent = backup.parent.iter().find(|parent| {
            let is_there = self.there.contains(parent);
            !is_there && !self.backups.iter().any(|each| each.id == **parent)
        });
        if let Some(parent) = parent {
            let is_by_rules =
                self.left_out.iter().any(|left| left.id == *parent && left.is_by_rules);
            let why = format!("{parent}, on which it stands, is not copied");
            return Some(WhyNot { why, is_by_rules });
        }
        if own.kept.is_removing(id) {
            return Some(WhyNot::rules(format!("expire is removing it from {from}")));
        }
        let gone = backup.attempts.iter().chain([id]).find(|id| theirs.kept.is_removing(id));
        if let Some(gone) = gone {
            let what = match gone == id {
                true => "it".into(),
                false => format!("{gone}, whose packs it uses,"),
            };
            let why = format!("expire has removed {what} from {to}, and names are not used twice");
            return Some(WhyNot::rules(why));
        }
        if theirs.backups.abandoned.contains(id) {
            let why = format!("its name was given up in {to}, and names are not used twice");
            return Some(why.into());
        }
        if theirs.backups.unreadable.iter().any(|(name, _)| *name == *id.as_str()) {
            let why = format!("{to} has something under its name that cannot be read");
            return Some(why.into());
        }
        let is_ruled_out = self.rules.is_some_and(|rules| !rules.backups.contains(id));
        let is_wanted = self.request.is_strict && self.request.is_named();
        (is_ruled_out && !is_wanted)
            .then(|| WhyNot::rules(format!("the rules of {to} do not keep it")))
    }
}

/// Why a backup is left out, and whether that is as it should be.
struct WhyNot {
    why: String,
    is_by_rules: bool,
}

impl WhyNot {
    fn rules(why: String) -> Self {
        Self { why, is_by_rules: true }
    }
}

impl<T: Into<String>> From<T> for WhyNot {
    fn from(why: T) -> Self {
        Self { why: why.into(), is_by_rules: false }
    }
}
