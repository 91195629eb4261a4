//! What the archive has to do with a restore: the way to the target, what is replayed on it, what is
//! reachable instead, and what lies elsewhere.
//!
//! What was looked at and turns out to be of no use (a segment that cannot be read, a record that recovery
//! does not pass) shortens the archive, and all is asked again.

use super::asked::{Asked, all_windows};
use super::choose::{Way, choose, timeline_of};
use super::elsewhere::Elsewhere;
use super::error::{Error, Result};
use super::lost::{self, Lost};
use super::nearest::Hole;
use super::options::Options;
use super::reach::Archive;
use super::replayed::Replayed;
use super::target::Target;
use crate::base::Ctx;
use crate::pg::recovery::TargetTimeline as TimelineChoice;
use crate::pg::{History, Lsn};
use crate::repo::{Place, Repository, Summary, Window};

/// The way, and what there is beside it.
pub(super) struct Reached {
    pub(super) history: History,
    pub(super) way: Way,
    pub(super) replayed: Replayed,
    pub(super) windows: Vec<Window>,
    pub(super) holes: Vec<Hole>,
    pub(super) lost: Option<Lost>,
    pub(super) warnings: Vec<String>,
}

/// Asks until nothing is in the way.
pub(super) fn reached(
    ctx: &Ctx,
    options: &Options,
    (repository, place): (&Repository, &Place),
    archive: &mut Archive<'_>,
    all: &[&Summary],
) -> Result<Reached> {
    let backups = usable(options, all)?;
    loop {
        let tips = repository.tips(place, archive.wal())?;
        let (archive_now, backups, tips) = (&*archive, &backups[..], &tips[..]);
        let asked = Asked { ctx, options, repository, place, archive: archive_now, backups, tips };
        let reached = reach(&asked, all);
        // Such a record may have no summary: then the facts show it. It lies on the run, so that the
        // next one is shorter.
        let barrier = match &reached {
            Ok(Some(reached)) => reached.replayed.minimal,
            _ => None,
        };
        if let Some((timeline, lsn)) = barrier {
            archive.add_barrier(timeline, lsn);
        }
        let is_shorter = archive.set_aside() || barrier.is_some();
        match reached {
            Ok(Some(reached)) if !is_shorter => return Ok(reached),
            Err(error) if !is_shorter => return Err(error),
            _ => {}
        }
    }
}

/// The backups that may be restored.
fn usable<'b>(options: &Options, backups: &[&'b Summary]) -> Result<Vec<&'b Summary>> {
    let Some(id) = &options.backup else { return Ok(backups.to_vec()) };
    let named = backups.iter().find(|backup| backup.id == *id);
    let named = named
        .ok_or_else(|| Error::Refused { what: format!("there is no complete backup {id}") })?;
    Ok(vec![*named])
}

/// Nothing when segments on the way turn out not to be there.
fn reach(asked: &Asked<'_>, all: &[&Summary]) -> Result<Option<Reached>> {
    let (history, way) = route(asked)?;
    let Asked { ctx, archive, .. } = *asked;
    if !archive.prove(ctx, &way.run)? {
        return Ok(None);
    }
    let replayed = Replayed::of(ctx, archive, &way)?;
    let (windows, holes) = all_windows(asked, &history, all)?;
    let archived = archive.wal().run_to_hole(&history, way.backup.start_lsn);
    let mut lost = lost::count(ctx, archive, &history, &archived, way.stop, way.at)?;
    let warnings = elsewhere(asked, &history, &way, all.last().copied(), &mut lost)?;
    Ok(Some(Reached { history, way, replayed, windows, holes, lost, warnings }))
}

/// The history that recovery follows, and the way along it.
fn route(asked: &Asked<'_>) -> Result<(History, Way)> {
    let Some(newest) = asked.backups.last() else {
        return Err(Error::unreachable("there is no complete backup in the repository".into()));
    };
    let timeline = timeline_of(asked.options, asked.archive, newest);
    let history = asked.archive.history(timeline)?;
    let found = candidates(asked, &history).and_then(|candidates| {
        choose(asked.ctx, asked.options, asked.archive, &history, &candidates)
    });
    match found {
        Err(Error::Unreachable { what, hint, .. }) => {
            let (what, hint) = barred(asked, &history, what, hint);
            Err(asked.refusal(timeline, what, hint)?)
        }
        found => Ok((history, found?)),
    }
}

/// Says of a target that cannot be reached that recovery ends before the end of the archive.
fn barred(
    asked: &Asked<'_>,
    history: &History,
    what: String,
    hint: Option<String>,
) -> (String, Option<String>) {
    let backups = asked.backups.iter().filter(|backup| backup.is_on(history));
    let runs = backups.map(|backup| asked.archive.wal().run(history, backup.start_lsn));
    let Some(lsn) = runs.filter(|run| run.is_barred).map(|run| run.end).max() else {
        return (what, hint);
    };
    let next = "Take a new full backup, if that has not been done: it opens a new window.";
    let hint = hint.into_iter().chain([next.to_owned()]).collect::<Vec<_>>().join(" ");
    (format!("{what}; {}", minimal_text(lsn)), Some(hint))
}

pub(super) fn minimal_text(lsn: Lsn) -> String {
    format!(
        "from {lsn} on, WAL was written with wal_level=minimal, and recovery from an earlier backup \
         cannot pass that"
    )
}

/// The backups from which recovery along a history can begin.
fn candidates<'b>(asked: &Asked<'b>, history: &History) -> Result<Vec<&'b Summary>> {
    let timeline = history.timeline();
    let candidates = asked.backups.iter().copied().filter(|backup| backup.is_on(history));
    let candidates: Vec<&Summary> = candidates.collect();
    match (candidates.is_empty(), &asked.options.backup, asked.backups) {
        (true, Some(id), [named]) => Err(Error::Refused {
            what: format!(
                "backup {id} is of timeline {own}, which does not lead to timeline {timeline}: \
                 --target-timeline {own} follows its own",
                own = named.timeline_stop
            ),
        }),
        (true, ..) => {
            let what = format!("no backup lies on timeline {timeline} or its ancestors");
            Err(Error::unreachable(what))
        }
        _ => Ok(candidates),
    }
}

/// What the archive holds beside the history that is followed. Who names a timeline knows of others.
fn elsewhere(
    asked: &Asked<'_>,
    history: &History,
    way: &Way,
    newest: Option<&Summary>,
    lost: &mut Option<Lost>,
) -> Result<Vec<String>> {
    let others = asked.others(history.timeline());
    let Asked { ctx, archive, .. } = *asked;
    let elsewhere = Elsewhere { ctx, archive, chosen: history, others: &others };
    let is_named = matches!(asked.options.timeline, TimelineChoice::Number(_));
    match asked.options.target {
        Target::Time(time) => elsewhere.earlier(time, asked.options.inclusive, !is_named),
        Target::Immediate => Ok(Vec::new()),
        _ if is_named => Ok(Vec::new()),
        Target::Latest => elsewhere.later(newest, way.reaches, Some(lost)),
        Target::Lsn(_) | Target::Xid(_) | Target::Name(_) => {
            elsewhere.later(newest, way.reaches, None)
        }
    }
}
