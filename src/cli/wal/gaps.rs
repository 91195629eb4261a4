//! `wal gaps`: what is missing, what it costs, and the way out.

use serde_json::{Value, json};

use super::args::WalShowArgs;
use super::contents::{Asked, Contents, ask_all, show};
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::invocation::Invocation;
use crate::cli::output::{counted, print};
use crate::pg::{ArchivedWal, Stretch};
use crate::repo::Gap;

/// A former server may have the segments, and nobody here knows where it is.
const BACKFILL: &str = "pgkeep wal backfill --from DIR";

/// Another repository with segments that are missing in one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Elsewhere {
    repository: String,
    segments: u64,
}

/// Shows what is missing.
pub fn gaps(run: &Invocation, args: &WalShowArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let asked = ask_all(run, &resolved, args);
    let archives = archives(&asked);
    let mut is_whole = true;
    show(run, &resolved, args, asked, |contents| {
        is_whole &= contents.missing.is_empty();
        let gaps = contents.missing.gaps.iter();
        let gaps: Vec<_> =
            gaps.map(|gap| (gap, elsewhere(&archives, contents, &gap.hole))).collect();
        if !args.json {
            print(&text(contents, &gaps))?;
        }
        Ok(as_json(contents, &gaps))
    })?;
    Ok(if is_whole { Exit::Ok } else { Exit::ProblemsFound })
}

/// An archive, by its repository and the epoch that the names in it are of.
type Archive = (String, u32, ArchivedWal);

fn archives(asked: &[Asked]) -> Vec<Archive> {
    let read = asked.iter().filter_map(|(name, contents)| Some((name, contents.as_ref().ok()?)));
    read.map(|(name, contents)| (name.clone(), contents.place.epoch(), contents.wal.clone()))
        .collect()
}

fn elsewhere(archives: &[Archive], contents: &Contents, hole: &Stretch) -> Vec<Elsewhere> {
    let others = archives.iter().filter(|(name, epoch, _)| {
        *name != contents.repository && *epoch == contents.place.epoch()
    });
    let found = others.map(|(name, _, wal)| {
        let missing: u64 = wal.missing(*hole).iter().map(Stretch::count).sum();
        let segments = hole.count().saturating_sub(missing);
        Elsewhere { repository: name.clone(), segments }
    });
    found.filter(|found| found.segments > 0).collect()
}

fn text(contents: &Contents, gaps: &[(&Gap, Vec<Elsewhere>)]) -> String {
    let name = &contents.repository;
    let since = match contents.backups.complete.is_empty() {
        true => "in all archived WAL: there is no backup",
        false => "since the oldest backup",
    };
    if contents.missing.is_empty() {
        return format!("{name}: nothing is missing of what should be there {since}");
    }
    let mut lines = vec![match gaps.len() {
        0 => format!("{name}: the history of a timeline is missing"),
        count => format!("{name}: {} {since}", counted(count, "hole")),
    }];
    for (gap, elsewhere) in gaps {
        let hole = &gap.hole;
        let what = contents.describe(hole);
        lines.push(format!("  MISSING: {what}, on timeline {}", hole.timeline));
        lines.push(format!("    costs: {}", cost(gap)));
        lines.extend(elsewhere.iter().map(|other| offer(contents, hole, other)));
        lines.push(format!(
            "    way out: {BACKFILL}, where DIR is the data directory (or a copy of pg_wal) of a \
             former primary or standby that may still have them"
        ));
        if gap.first_behind.is_none() {
            lines.push(
                "    until then: a backup that is taken now makes the moments after it safe".into(),
            );
        }
    }
    for timeline in &contents.missing.histories {
        lines.push(format!(
            "  MISSING: {}: recovery does not come to timeline {timeline} without it",
            timeline.history_file_name()
        ));
        lines.push(format!("    way out: {BACKFILL}, from a server of that timeline"));
    }
    lines.join("\n")
}

fn cost(gap: &Gap) -> String {
    let stopped = match (gap.stops, &gap.newest_stopped) {
        (1, Some(only)) => format!("recovery from backup {only} cannot pass it"),
        (count, Some(newest)) => {
            format!("recovery from {count} backups, {newest} the newest of them, cannot pass it")
        }
        (_, None) => "recovery cannot pass it".to_owned(),
    };
    match &gap.first_behind {
        Some(behind) => format!("{stopped}; backup {behind} lies behind it"),
        None => stopped,
    }
}

fn offer(contents: &Contents, hole: &Stretch, other: &Elsewhere) -> String {
    let Elsewhere { repository, segments } = other;
    let first = contents.wal.name(hole.timeline, hole.first);
    let (has, them) = match *segments == hole.count() {
        true => ("has them".to_owned(), "them"),
        false => (format!("has {segments} of them"), "those"),
    };
    format!(
        "    way out: repository {repository} {has}, and archive-get takes {them} from there; to store \
         {them} here, fetch each into an empty folder (pgkeep --repository {repository} archive-get \
         {first} DIR/{first}), then {BACKFILL}"
    )
}

fn as_json(contents: &Contents, gaps: &[(&Gap, Vec<Elsewhere>)]) -> Value {
    let holes = gaps.iter().map(|(gap, elsewhere)| {
        let mut hole = contents.stretch_json(&gap.hole);
        let elsewhere = elsewhere
            .iter()
            .map(|other| json!({ "repository": other.repository, "segments": other.segments }));
        hole["stopped_backups"] = json!(gap.stops);
        hole["newest_stopped_backup"] = json!(gap.newest_stopped);
        hole["first_backup_behind"] = json!(gap.first_behind);
        hole["elsewhere"] = json!(elsewhere.collect::<Vec<_>>());
        hole["command"] = json!(BACKFILL);
        hole
    });
    json!({
        "repository": contents.repository,
        "system": contents.place.system().to_string(),
        "epoch": contents.place.epoch(),
        "holes": holes.collect::<Vec<_>>(),
        "missing_histories": contents.missing.histories,
        "notes": contents.notes,
    })
}
