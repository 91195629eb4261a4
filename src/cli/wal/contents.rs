//! The archived WAL of each repository, as `wal list` and `wal gaps` show it.

use serde_json::{Value, json};

use super::args::WalShowArgs;
use crate::cli::answers::Answers;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::invocation::Invocation;
use crate::cli::output::print_json;
use crate::config::{RepositorySettings, Resolved};
use crate::pg::{ArchivedWal, Lsn, SegmentName, Stretch, TimelineId};
use crate::repo::{Backups, Missing, Place};
use crate::wiring::{self, Access};

/// What one repository has.
#[derive(Debug)]
pub struct Contents {
    /// Its name in the configuration.
    pub repository: String,
    /// Of the cluster.
    pub place: Place,
    /// The backups that need the WAL.
    pub backups: Backups,
    /// What is archived.
    pub wal: ArchivedWal,
    /// What is missing of it.
    pub missing: Missing,
    /// Partial segments, and where their records end.
    pub partials: Vec<(String, Lsn)>,
    /// What cannot be read.
    pub notes: Vec<String>,
}

/// A repository, or why it cannot be read.
pub type Asked = (String, Result<Contents, Failure>);

/// Asks every repository, also those that are not meant: they may have what is missing elsewhere.
pub fn ask_all(run: &Invocation, resolved: &Resolved, args: &WalShowArgs) -> Vec<Asked> {
    ask(run, resolved, args, |_| true)
}

/// Asks the repositories that are meant.
pub fn ask_meant(run: &Invocation, resolved: &Resolved, args: &WalShowArgs) -> Vec<Asked> {
    ask(run, resolved, args, |name| is_meant(run, name))
}

fn ask(
    run: &Invocation,
    resolved: &Resolved,
    args: &WalShowArgs,
    who: impl Fn(&str) -> bool,
) -> Vec<Asked> {
    let ask = |settings: &RepositorySettings| {
        (settings.name.clone(), contents(run, resolved, settings, args.epoch))
    };
    resolved.repositories.iter().filter(|each| who(&each.name)).map(ask).collect()
}

fn is_meant(run: &Invocation, name: &str) -> bool {
    run.global.repository.as_ref().is_none_or(|named| *named == name)
}

fn contents(
    run: &Invocation,
    resolved: &Resolved,
    settings: &RepositorySettings,
    epoch: Option<u32>,
) -> Result<Contents, Failure> {
    let opened = wiring::open(&run.ctx, settings, Access::ReadOnly)?;
    run.warn_each(&opened.warnings);
    let repository = &opened.repository;
    let (place, registration) =
        run.place_for_reading(resolved, &settings.name, repository, epoch)?;
    let failed = |source| Failure::from(wiring::Error::of_repository(&settings.name, source));
    let backups = repository.backups(&run.ctx, &place).map_err(failed)?;
    let survey = repository.survey(&run.ctx, &place, &registration).map_err(failed)?;
    let partials = repository.partials(&place).map_err(failed)?;
    let misfits = survey.wal.misfits.iter();
    let misfits = misfits.map(|name| format!("{name}: not of this cluster's segment size"));
    Ok(Contents {
        repository: settings.name.clone(),
        place,
        missing: backups.missing(&survey.wal),
        notes: misfits.chain(survey.unreadable).collect(),
        wal: survey.wal,
        partials,
        backups,
    })
}

impl Contents {
    /// Where a stretch begins and ends.
    pub fn bounds(&self, stretch: &Stretch) -> (Option<Lsn>, Option<Lsn>) {
        let size = self.wal.segment_size();
        (stretch.first.begin(size), stretch.last.end(size))
    }

    /// A stretch by its names and positions.
    pub fn describe(&self, stretch: &Stretch) -> String {
        let names = self.wal.describe(stretch);
        match self.bounds(stretch) {
            (Some(begin), Some(end)) => format!("{names}, {begin} to {end}"),
            _ => names,
        }
    }

    /// A stretch for programs.
    pub fn stretch_json(&self, stretch: &Stretch) -> Value {
        let (begin, end) = self.bounds(stretch);
        json!({
            "timeline": stretch.timeline,
            "first": self.wal.name(stretch.timeline, stretch.first),
            "last": self.wal.name(stretch.timeline, stretch.last),
            "segments": stretch.count(),
            "begin_lsn": begin,
            "end_lsn": end,
        })
    }

    /// The partial segments of a timeline.
    pub fn partials_of(&self, timeline: TimelineId) -> impl Iterator<Item = &(String, Lsn)> {
        self.partials.iter().filter(move |(segment, _)| {
            let segment = SegmentName::parse(segment.as_bytes());
            segment.is_ok_and(|segment| segment.timeline() == timeline)
        })
    }
}

/// Shows the repositories that are meant, each by `shown`, which gives its JSON. The first failure is the
/// answer, the others are told.
pub fn show(
    run: &Invocation,
    resolved: &Resolved,
    args: &WalShowArgs,
    asked: Vec<Asked>,
    mut shown: impl FnMut(&Contents) -> Result<Value, Failure>,
) -> Result<(), Failure> {
    let mut answers = Answers::default();
    for (name, contents) in asked {
        let is_meant = is_meant(run, &name);
        match contents {
            Ok(contents) if is_meant => answers.told.push(shown(&contents)?),
            Ok(_) => {}
            Err(failure) if !is_meant => run.ctx.warn(failure.message),
            Err(failure) => {
                let told = json!({ "repository": name, "error": failure.json_error() });
                answers.fail(run, told, failure);
            }
        }
    }
    if args.json {
        print_json(&json!({
            "format_version": 1,
            "cluster": resolved.cluster_name,
            "time": run.ctx.clock.now().to_rfc3339(),
            "repositories": answers.told,
        }))?;
    }
    answers.end(Exit::Ok).map(drop)
}
