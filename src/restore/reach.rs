//! What the archive reaches: timelines, whole runs of segments, and the moments that their facts
//! prove. Nothing here reads WAL: `archive-push` looked when the segment was in its hands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::error::{Error, Result};
use crate::base::{Ctx, Timestamp};
use crate::pg::{History, Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId};
use crate::repo::{self, Found, Kind, Place, Registration, Repository};

/// The WAL of a cluster, as a restore's plan sees it.
#[derive(Debug)]
pub struct Archive<'a> {
    repository: &'a Repository,
    place: &'a Place,
    size: SegmentSize,
    /// Segment numbers by timeline, sorted.
    segments: BTreeMap<u32, Vec<u64>>,
    histories: BTreeMap<u32, History>,
    /// What could not be read of the segments' facts.
    damaged: Mutex<BTreeSet<String>>,
}

/// A run of segments without a hole, along one history.
#[derive(Debug, Clone)]
pub struct Run {
    /// Names in order, from the backup's first on.
    pub names: Vec<String>,
    /// Where the run's last segment ends.
    pub end: Lsn,
    /// The first name that is missing although later ones exist.
    pub hole: Option<String>,
}

impl<'a> Archive<'a> {
    /// Lists the archive.
    ///
    /// # Errors
    /// As the repository's.
    pub fn read(
        ctx: &Ctx,
        repository: &'a Repository,
        place: &'a Place,
        registration: &Registration,
    ) -> Result<Self> {
        let size = SegmentSize::new(registration.wal_segment_size.into())
            .map_err(|source| Error::Postgres { what: "the cluster's registration", source })?;
        let mut segments: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (timeline, names) in repository.segments(ctx, place)? {
            for name in names {
                let number = SegmentName::parse(name.as_bytes()).and_then(|n| n.number(size));
                // A name that does not fit the segment size was not put by archive-push.
                if let Ok(number) = number {
                    segments.entry(timeline).or_default().push(number.0);
                }
            }
        }
        let mut histories = BTreeMap::new();
        for (timeline, content) in repository.histories(place)? {
            let Some(id) = TimelineId::new(timeline) else { continue };
            let history = History::parse(id, &content)
                .map_err(|source| Error::Postgres { what: "a timeline history", source })?;
            histories.insert(timeline, history);
        }
        let damaged = Mutex::default();
        Ok(Self { repository, place, size, segments, histories, damaged })
    }

    /// The newest timeline that the archive knows.
    #[must_use]
    pub fn newest_timeline(&self) -> Option<TimelineId> {
        let newest = self.segments.keys().chain(self.histories.keys()).max();
        newest.and_then(|timeline| TimelineId::new(*timeline))
    }

    /// The history of a timeline.
    ///
    /// # Errors
    /// [`Error::Refused`] when the archive does not have it.
    pub fn history(&self, timeline: TimelineId) -> Result<History> {
        if timeline == TimelineId::FIRST {
            return Ok(History::without_ancestors(timeline));
        }
        self.histories.get(&timeline.get()).cloned().ok_or_else(|| Error::Refused {
            what: format!(
                "the archive has no {}: recovery would end on an older timeline",
                timeline.history_file_name()
            ),
        })
    }

    /// The run of segments from `start` on, along `history`.
    #[must_use]
    pub fn run(&self, history: &History, start: Lsn) -> Run {
        let first = SegmentNo::of(start, self.size).0;
        let mut names = Vec::new();
        let mut number = first;
        let mut end = start;
        while let Some((timeline, name)) = self.find(history, number) {
            names.push(name);
            end = SegmentNo(number).end(self.size).unwrap_or(end);
            // An ancestor's segment counts up to the switch only: the rest is another history.
            if let Some(switch) = history.switch_point(timeline) {
                end = end.min(switch);
            }
            number += 1;
        }
        let later = |timeline: u32, numbers: &Vec<u64>| {
            TimelineId::new(timeline).is_some_and(|id| {
                history.includes(id)
                    && numbers.iter().any(|n| *n > number && self.is_on(history, id, *n))
            })
        };
        let hole = self
            .segments
            .iter()
            .any(|(timeline, numbers)| later(*timeline, numbers))
            .then(|| self.name(history, number));
        Run { names, end, hole }
    }

    /// The segment that recovery will use for this number: of the timelines in the history that may
    /// have it, the newest first (src/backend/access/transam/xlogrecovery.c, XLogFileReadAnyTLI).
    fn find(&self, history: &History, number: u64) -> Option<(TimelineId, String)> {
        let mut timelines: Vec<u32> =
            history.ancestors().iter().map(|a| a.timeline.get()).collect();
        timelines.push(history.timeline().get());
        timelines.into_iter().rev().find_map(|timeline| {
            let id = TimelineId::new(timeline)?;
            let numbers = self.segments.get(&timeline)?;
            if !self.is_on(history, id, number) || numbers.binary_search(&number).is_err() {
                return None;
            }
            let name = SegmentName::new(id, SegmentNo(number), self.size).ok()?;
            Some((id, name.to_string()))
        })
    }

    /// Whether a timeline's own WAL, or its copy of the switch segment, covers part of this segment.
    fn is_on(&self, history: &History, timeline: TimelineId, number: u64) -> bool {
        let begin = history.begin(timeline).map(|lsn| SegmentNo::of(lsn, self.size).0);
        let end = history
            .switch_point(timeline)
            .and_then(|lsn| SegmentNo::of_end(lsn, self.size))
            .map(|number| number.0);
        begin.is_none_or(|begin| number >= begin) && end.is_none_or(|end| number <= end)
    }

    fn name(&self, history: &History, number: u64) -> String {
        let begin = SegmentNo(number).begin(self.size).unwrap_or_default();
        let timeline = history.timeline_of(begin);
        SegmentName::new(timeline, SegmentNo(number), self.size)
            .map_or_else(|error| error.to_string(), |name| name.to_string())
    }

    /// Bytes of a segment.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.size.bytes().into()
    }

    /// How many segments hold WAL from `start` up to `end`.
    #[must_use]
    pub fn segments_until(&self, start: Lsn, end: Lsn) -> usize {
        let first = SegmentNo::of(start, self.size).0;
        let last = SegmentNo::of_end(end, self.size).map_or(first, |number| number.0);
        usize::try_from(last.saturating_sub(first) + 1).unwrap_or(usize::MAX)
    }

    /// What `archive-push` found in a segment. One small request.
    ///
    /// # Errors
    /// As the repository's.
    pub fn found(&self, name: &str) -> Result<Option<Found>> {
        let key = self.place.wal(name).ok_or_else(|| Error::Refused {
            what: format!("{name} is not the name of a segment"),
        })?;
        match self.repository.wal_facts(Kind::Wal, &key) {
            Ok(facts) => Ok(facts.found),
            // One damaged object must not stand in the way of targets that do not need it; recovery
            // stops at it if it does.
            Err(error @ (repo::Error::Corrupt { .. } | repo::Error::UnknownKey { .. })) => {
                let mut damaged = self.damaged.lock().expect("no holder of this lock panics");
                damaged.insert(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The latest moment that a run of segments proves, by a commit or a checkpoint, walking back
    /// from its end; `None` when no segment after the first names one.
    ///
    /// # Errors
    /// As the repository's.
    pub fn last_moment(&self, ctx: &Ctx, names: &[String]) -> Result<Option<Timestamp>> {
        for name in names.iter().rev() {
            ctx.cancel.check()?;
            if let Some(found) = self.found(name)?
                && let Some(moment) = found.latest.max(found.last_checkpoint)
            {
                return Ok(Some(moment));
            }
        }
        Ok(None)
    }

    /// What was found damaged on the way.
    #[must_use]
    pub fn damaged(&self) -> Vec<String> {
        self.damaged.lock().expect("no holder of this lock panics").iter().cloned().collect()
    }

    /// The index of the first segment that satisfies a predicate on what was found in it.
    ///
    /// # Errors
    /// As the repository's.
    pub fn search(
        &self,
        ctx: &Ctx,
        names: &[String],
        mut is_it: impl FnMut(&Found) -> bool,
    ) -> Result<Option<(usize, Found)>> {
        for (i, name) in names.iter().enumerate() {
            ctx.cancel.check()?;
            if let Some(found) = self.found(name)?
                && is_it(&found)
            {
                return Ok(Some((i, found)));
            }
        }
        Ok(None)
    }
}
