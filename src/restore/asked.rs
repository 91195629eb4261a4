//! What is asked of the whole archive, whichever history is followed: its windows and holes, and where a
//! target can be reached that cannot be reached there.

use super::choose::choose;
use super::error::{Error, Result};
use super::nearest::{Hole, Nearest, Side, nearest};
use super::options::Options;
use super::reach::Archive;
use super::target::Target;
use crate::base::Ctx;
use crate::pg::{History, SegmentNo, Stretch, TimelineId};
use crate::repo::{Place, Repository, Summary, Window};

/// How many holes are listed.
const HOLES_MAX: usize = 64;

/// What is asked, of what.
pub(super) struct Asked<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) options: &'a Options,
    pub(super) repository: &'a Repository,
    pub(super) place: &'a Place,
    pub(super) archive: &'a Archive<'a>,
    /// The backups that may be restored.
    pub(super) backups: &'a [&'a Summary],
    /// The ends that the archive has.
    pub(super) tips: &'a [History],
}

impl Asked<'_> {
    /// The ends beside the one that is followed, the newest first.
    pub(super) fn others(&self, chosen: TimelineId) -> Vec<History> {
        let others = self.tips.iter().rev().filter(|tip| tip.timeline() != chosen);
        others.cloned().collect()
    }

    /// The refusal of a target that cannot be reached along the chosen timeline, with what can, there and
    /// along the others: the newest timeline may be a dead side branch.
    pub(super) fn refusal(
        &self,
        chosen: TimelineId,
        what: String,
        hint: Option<String>,
    ) -> Result<Error> {
        let windows_along = |history: &History| {
            let (wal, backups) = (self.archive.wal(), self.backups);
            self.repository.windows(self.ctx, self.place, backups, wal, history)
        };
        let own = self.archive.wal().history(chosen);
        let own = own.map_or(Ok(Vec::new()), |own| windows_along(&own))?;
        let (mut windows, mut found) = (own.clone(), Vec::new());
        for other in self.others(chosen) {
            windows.extend(windows_along(&other)?);
            found.extend(self.along(&other)?);
        }
        let target = &self.options.target;
        // Positions of different timelines are not one order, and the target itself is nearer than all.
        let is_anywhere = found.is_empty() && matches!(target, Target::Time(_));
        let pool = if is_anywhere || own.is_empty() { &windows } else { &own };
        found.extend(nearest(pool, target, chosen));
        Ok(Error::Unreachable { what, hint, nearest: found, windows })
    }

    /// The target along another history, if it can be reached there.
    fn along(&self, other: &History) -> Result<Option<Nearest>> {
        let candidates: Vec<&Summary> =
            self.backups.iter().copied().filter(|backup| backup.is_on(other)).collect();
        if candidates.is_empty() {
            return Ok(None);
        }
        let way = match choose(self.ctx, self.options, self.archive, other, &candidates) {
            Err(Error::Unreachable { .. } | Error::Refused { .. }) => return Ok(None),
            way => way?,
        };
        let (time, lsn) = match self.options.target {
            Target::Time(time) => (Some(time), None),
            Target::Lsn(lsn) => (way.at, Some(lsn)),
            Target::Latest => (way.reaches, None),
            _ => (way.at, None),
        };
        let (timeline, side) = (other.timeline(), Side::Exact);
        Ok(Some(Nearest { side, time, timeline, is_elsewhere: true, lsn, end_of: None }))
    }
}

/// Windows and holes of the history that was chosen, and of the other ends that the archive has.
pub(super) fn all_windows(
    asked: &Asked<'_>,
    chosen: &History,
    backups: &[&Summary],
) -> Result<(Vec<Window>, Vec<Hole>)> {
    let Asked { ctx, repository, place, .. } = *asked;
    let wal = asked.archive.wal();
    let mut histories = vec![chosen.clone()];
    histories.extend(asked.others(chosen.timeline()));
    let (mut windows, mut stretches) = (Vec::new(), Vec::<Stretch>::new());
    for history in histories {
        windows.extend(repository.windows(ctx, place, backups, wal, &history)?);
        let oldest = backups.iter().find(|backup| backup.is_on(&history));
        let Some(oldest) = oldest else { continue };
        let begin = SegmentNo::of(oldest.start_lsn, wal.segment_size());
        for hole in wal.holes_along(&history, begin) {
            if !stretches.contains(&hole) && stretches.len() < HOLES_MAX {
                stretches.push(hole);
            }
        }
    }
    let hole = |stretch: &Stretch| Hole {
        timeline: stretch.timeline.get(),
        first: wal.name(stretch.timeline, stretch.first),
        last: wal.name(stretch.timeline, stretch.last),
        segments: stretch.count(),
    };
    Ok((windows, stretches.iter().map(hole).collect()))
}
