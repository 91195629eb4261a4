//! Looks at a directory of WAL and at the repositories, and says what would be stored.

use std::collections::BTreeSet;

use serde::Serialize;

use super::decide::{Content, Histories, Known, Seen, Verdict, Why, judge};
use super::directory::WalDirectory;
use super::look::{Looking, is_foreign, read_history};
use crate::archive::Destination;
use crate::archive::error::{Error, Result};
use crate::archive::provenance::Provenance;
use crate::base::{Ctx, side_by_side};
use crate::pg::wal::Ending;
use crate::pg::{SegmentName, SegmentSize, TimelineId, WalFileName};
use crate::repo::Origin;

/// What the caller may choose.
#[derive(Debug, Clone)]
pub struct BackfillOptions {
    /// Store segments of a WAL version that this program does not know, unread.
    pub accept_unknown_wal: bool,
    /// The server that the directory is of, for the record; nothing for a folder of loose files.
    pub origin: Option<Origin>,
}

/// What will be stored, what will not, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackfillPlan {
    /// Where the files come from.
    pub from: WalDirectory,
    /// The cluster's system identifier.
    pub system: String,
    /// Bytes of its segments.
    pub segment_bytes: u32,
    /// The repositories that were asked.
    pub repositories: Vec<String>,
    /// In this order: histories first, then segments, oldest first.
    pub store: Vec<ToStore>,
    /// Files whose name has other content in a repository. The first one stays.
    pub conflicts: Vec<Conflicting>,
    /// Files that are left.
    pub left: Vec<Left>,
    /// What should be looked at.
    pub warnings: Vec<String>,
}

/// A file that will be stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToStore {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// As a partial segment: its records stop early.
    pub partial: bool,
    /// The repositories that lack it.
    pub repositories: Vec<String>,
}

/// A file whose name has other content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflicting {
    /// Its name.
    pub name: String,
    /// In these repositories.
    pub repositories: Vec<String>,
}

/// A file that is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Its name.
    pub name: String,
    /// Why.
    #[serde(flatten)]
    pub why: Why,
}

/// Plans to store what only the directory has. Stores nothing.
///
/// # Errors
/// [`Error::NoRepository`], [`Error::Repository`]; [`Error::File`] when the directory cannot be listed;
/// [`Error::Content`] and [`Error::SegmentSize`] for a data directory of another cluster.
pub fn plan(
    ctx: &Ctx,
    destinations: &[Destination],
    directory: &WalDirectory,
    options: &BackfillOptions,
) -> Result<BackfillPlan> {
    let from = provenance(destinations, directory, options)?;
    let names = directory.names()?;
    let mut histories = histories(destinations, directory, &names)?;
    let looking = Looking { ctx, destinations, directory, from: &from, histories: &histories };
    let seen = side_by_side(&names, |name| looking.look(*name))?;
    histories.proven = proven(directory, &histories, &seen);
    histories.prove_ancestors();
    let settled = settled(directory, &seen, from.segment_size);
    let known = Known { histories, is_running: directory.is_running, settled };
    let repositories: Vec<String> = destinations.iter().map(|each| each.name.clone()).collect();
    let mut plan = BackfillPlan {
        from: directory.clone(),
        system: from.system.to_string(),
        segment_bytes: from.segment_size.bytes(),
        store: Vec::new(),
        conflicts: Vec::new(),
        left: Vec::new(),
        warnings: new_timelines(&known.histories, &repositories, &seen),
        repositories,
    };
    for seen in &seen {
        plan.add(seen, judge(seen, &known));
    }
    Ok(plan)
}

impl BackfillPlan {
    fn add(&mut self, seen: &Seen, verdict: Verdict) {
        let Verdict { store, partial, conflicts, left } = verdict;
        let name = seen.name.to_string();
        let named = |places: &[usize]| -> Vec<String> {
            places.iter().filter_map(|place| self.repositories.get(*place).cloned()).collect()
        };
        let (stores, conflict) = (named(&store), named(&conflicts));
        if seen.content == Content::Segment(Ending::NotRead) && !stores.is_empty() {
            let what = "its WAL version is not known: stored without looking into it";
            self.warnings.push(format!("{name}: {what}"));
        }
        if !stores.is_empty() {
            let (name, repositories) = (name.clone(), stores);
            self.store.push(ToStore { name, bytes: seen.bytes, partial, repositories });
        }
        if !conflict.is_empty() {
            self.conflicts.push(Conflicting { name: name.clone(), repositories: conflict });
        }
        self.left.extend(left.map(|why| Left { name, why }));
    }
}

/// What is known of the cluster: by the control file, or by what the repositories have registered.
pub(super) fn provenance(
    destinations: &[Destination],
    directory: &WalDirectory,
    options: &BackfillOptions,
) -> Result<Provenance> {
    let first = destinations.first().ok_or(Error::NoRepository)?;
    let registered = SegmentSize::new(first.registration.wal_segment_size.into());
    let registered = registered.map_err(|error| Error::Content {
        path: directory.files.clone(),
        why: error.to_string(),
    })?;
    let from = Provenance {
        system: directory.system.unwrap_or(first.place.system()),
        segment_size: directory.segment_size.unwrap_or(registered),
        control: None,
        origin: options.origin.clone(),
        accept_unknown_wal: options.accept_unknown_wal,
    };
    from.require_at(destinations, &directory.files)?;
    Ok(from)
}

fn histories(
    destinations: &[Destination],
    directory: &WalDirectory,
    names: &[WalFileName],
) -> Result<Histories> {
    let mut histories = Histories::default();
    for name in names {
        if let WalFileName::History(timeline) = name
            && let Some(content) = read_history(&directory.path_of(name))
        {
            histories.local.insert(*timeline, content);
        }
    }
    for destination in destinations {
        let stored = destination.repository.histories(&destination.place);
        let failed = |source| Error::Repository { repository: destination.name.clone(), source };
        let stored = stored.map_err(failed)?.into_iter();
        let by_id =
            stored.filter_map(|(number, content)| Some((TimelineId::new(number)?, content)));
        histories.stored.push(by_id.collect());
    }
    Ok(histories)
}

/// The histories of a server are its own. One that lies in a folder says nothing of the cluster that it
/// is of: a segment of its timeline has to, and no other cluster's may lie there too.
fn proven(directory: &WalDirectory, histories: &Histories, seen: &[Seen]) -> BTreeSet<TimelineId> {
    if directory.data_directory.is_some() {
        return histories.local.keys().copied().collect();
    }
    if seen.iter().any(is_foreign) {
        return BTreeSet::new();
    }
    let own = seen.iter().filter(|seen| matches!(seen.content, Content::Segment(_)));
    let timelines = own.filter_map(|seen| match seen.name {
        WalFileName::Segment(segment) | WalFileName::Partial(segment) => Some(segment.timeline()),
        _ => None,
    });
    timelines.filter(|timeline| histories.local.contains_key(timeline)).collect()
}

/// Segments that a running server has done with: it says so, or it has begun the next one.
fn settled(directory: &WalDirectory, seen: &[Seen], size: SegmentSize) -> BTreeSet<SegmentName> {
    let segments = seen.iter().filter_map(|seen| match (seen.name, &seen.content) {
        (WalFileName::Segment(segment), Content::Segment(_)) => Some((seen.name, segment)),
        _ => None,
    });
    let segments: Vec<_> = segments.collect();
    let begun: BTreeSet<SegmentName> = segments.iter().map(|(_, segment)| *segment).collect();
    let is_followed = |segment: &SegmentName| {
        let next = segment.number(size).ok().and_then(|number| number.next());
        let next = next.and_then(|next| SegmentName::new(segment.timeline(), next, size).ok());
        next.is_some_and(|next| begun.contains(&next))
    };
    let done = segments
        .iter()
        .filter(|(name, segment)| is_followed(segment) || directory.has_status(name));
    done.map(|(_, segment)| *segment).collect()
}

/// Recovery to the latest timeline goes by the greatest number: one that is new to a repository leads it
/// elsewhere from then on.
fn new_timelines(histories: &Histories, repositories: &[String], seen: &[Seen]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (place, name) in repositories.iter().enumerate() {
        let stored = histories.stored.get(place);
        let newest = stored.and_then(|stored| stored.keys().next_back().copied());
        let newest = newest.unwrap_or(TimelineId::FIRST);
        let is_there = |timeline: &TimelineId| {
            seen.iter().any(|seen| seen.name == WalFileName::History(*timeline))
        };
        let new = histories.proven.iter().rfind(|timeline| **timeline > newest);
        if let Some(new) = new.filter(|new| is_there(new)) {
            warnings.push(format!(
                "timeline {new} is new to repository {name}: recovery to the latest timeline \
                 follows it from then on"
            ));
        }
    }
    warnings
}
