//! Sentences about restores: above all, which moments can be reached when the target cannot.

use std::path::Path;

use super::error::{Failure, Kind, hint, of_repo};
use super::exit::Exit;
use super::output::exact_moment;
use crate::restore::{self, Nearest, Side};

impl From<restore::Error> for Failure {
    fn from(error: restore::Error) -> Self {
        let advice = match &error {
            _ if error.is_cancelled() => (Exit::Interrupted, Kind::Interrupted, None),
            restore::Error::Repository(source) => of_repo(source),
            restore::Error::Unreachable { hint, nearest, .. } => {
                let next = unreachable_hint(hint.as_deref(), nearest);
                (Exit::TargetNotReachable, Kind::NotFound, Some(next))
            }
            restore::Error::Occupied { .. } => {
                let next = "Name another directory with --to, or move this one out of the way once \
                            its server is stopped: --rename-old does (keep it: it may hold WAL that \
                            is not archived).";
                (Exit::DirectoryInUse, Kind::Busy, hint(next))
            }
            restore::Error::Unarchived { path, count, written_last, .. } => {
                let next = unarchived_hint(path, *count, written_last.as_deref());
                (Exit::DirectoryInUse, Kind::Busy, Some(next))
            }
            restore::Error::Tablespace { lsn, .. } => {
                let next = format!(
                    "If another cluster lives there, restore on another host, or to a target before \
                     the segment of WAL that holds {lsn}, or take a new full backup: --tablespace \
                     maps what that has. If it is left over, or this cluster's own of a later time, move \
                     it aside."
                );
                (Exit::DirectoryInUse, Kind::Busy, Some(next))
            }
            restore::Error::File { .. } => (Exit::Failed, Kind::Environment, None),
            restore::Error::Content { .. } => (Exit::Failed, Kind::Corrupt, None),
            _ => (Exit::Failed, Kind::Failed, None),
        };
        let mut failure = Self::of(&error, advice);
        if let restore::Error::Unreachable { nearest, windows, .. } = &error {
            failure.causes.extend(nearest.iter().map(nearest_line));
            failure.details.push(("nearest", serde_json::json!(nearest)));
            failure.details.push(("windows", serde_json::json!(windows)));
        }
        failure
    }
}

/// What brings the rows back that are only there: a partial segment in the archive does not.
fn unarchived_hint(path: &Path, count: u64, written_last: Option<&str>) -> String {
    let data = path.display();
    let mut sentences = Vec::new();
    if count > 0 {
        sentences.push(format!(
            "`pgkeep wal backfill --from {data}` stores what is whole, or names what is archived with other content."
        ));
    }
    if let Some(name) = written_last {
        sentences.push(format!(
            "{name} is not whole: backfill stores it as a partial segment, which recovery never asks for. The primary \
             of a standby archives it when it is full. To keep its transactions otherwise, start the server once more with archiving on and stop it in order; or copy \
             {data}/pg_wal/{name} away, restore with --discard-wal, and put it into the restored pg_wal before that \
             server is started."
        ));
    }
    sentences.push(
        "--rename-old instead of --delta keeps the directory; --discard-wal gives this WAL up."
            .into(),
    );
    sentences.join(" ")
}

fn nearest_line(nearest: &Nearest) -> String {
    let Nearest { side, time, timeline, is_elsewhere, lsn, end_of } = nearest;
    let order = match side {
        Side::Before => "last",
        Side::After => "first",
        Side::Exact => return format!("it can be reached along timeline {timeline}"),
    };
    let time = time.map(exact_moment).unwrap_or_default();
    let position = lsn.map(|lsn| format!(" (LSN {lsn})")).unwrap_or_default();
    let end = end_of.as_ref().map(|id| format!(" (the end of backup {id})")).unwrap_or_default();
    let along = if *is_elsewhere { format!(", along timeline {timeline}") } else { String::new() };
    format!("the {order} {side} it that can be reached: {time}{position}{end}{along}")
}

fn unreachable_hint(first: Option<&str>, nearest: &[Nearest]) -> String {
    let each = nearest.iter().map(|nearest| {
        let target = match (&nearest.end_of, nearest.lsn, nearest.time) {
            _ if nearest.side == Side::Exact => "the same".to_owned(),
            (Some(id), ..) => format!("--backup {id} --target-immediate"),
            (None, Some(lsn), _) => format!("--target-lsn {lsn}"),
            (None, None, Some(time)) => format!("--target-time '{}'", exact_moment(time)),
            (None, None, None) => "the end".to_owned(),
        };
        match nearest.is_elsewhere {
            true => format!("{target} with --target-timeline {}", nearest.timeline),
            false => target,
        }
    });
    let each: Vec<String> = each.collect();
    let mut sentences: Vec<String> = first.map(str::to_owned).into_iter().collect();
    if !each.is_empty() {
        sentences.push(format!("Ask for {}.", each.join(" or ")));
    }
    sentences.push("`pgkeep info` shows what can be reached.".into());
    sentences.join(" ")
}
