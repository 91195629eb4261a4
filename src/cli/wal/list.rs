//! `wal list`: ranges and holes of each timeline.

use serde_json::{Value, json};

use super::args::WalShowArgs;
use super::contents::{Contents, ask_meant, show};
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::invocation::Invocation;
use crate::cli::output::print;
use crate::pg::{History, Stretch, TimelineId};

/// Shows what is archived.
pub fn list(run: &Invocation, args: &WalShowArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let asked = ask_meant(run, &resolved, args);
    show(run, &resolved, args, asked, |contents| {
        if !args.json {
            print(&text(contents))?;
        }
        Ok(as_json(contents))
    })?;
    Ok(Exit::Ok)
}

fn text(contents: &Contents) -> String {
    let place = &contents.place;
    let mut lines = vec![format!(
        "{}: cluster {}, system {}, epoch {}",
        contents.repository,
        place.cluster(),
        place.system(),
        place.epoch()
    )];
    let timelines = contents.wal.timelines();
    if timelines.is_empty() {
        lines.push("  no WAL is archived yet".into());
    }
    for timeline in timelines {
        lines.push(format!("  timeline {timeline}{}", beginning(contents, timeline)));
        for (stretch, is_missing) in in_order(contents, timeline) {
            let mark = if is_missing { "MISSING: " } else { "" };
            lines.push(format!("    {mark}{}", contents.describe(&stretch)));
        }
        for (segment, end) in contents.partials_of(timeline) {
            lines.push(format!("    partial: {segment}, its records end at {end}"));
        }
    }
    lines.extend(contents.notes.iter().map(|note| format!("  {note}")));
    lines.push(String::new());
    lines.join("\n")
}

fn beginning(contents: &Contents, timeline: TimelineId) -> String {
    let Some(history) = contents.wal.history(timeline) else {
        return ": MISSING: its history".into();
    };
    history.ancestors().last().map_or_else(String::new, |parent| {
        format!(", from timeline {} at {}: {}", parent.timeline, parent.end, parent.reason)
    })
}

/// What is archived and what is missing of a timeline, by position.
fn in_order(contents: &Contents, timeline: TimelineId) -> Vec<(Stretch, bool)> {
    let archived = contents.wal.stretches().map(|stretch| (stretch, false));
    let missing = contents.missing.gaps.iter().map(|gap| (gap.hole, true));
    let own = archived.chain(missing).filter(|(stretch, _)| stretch.timeline == timeline);
    let mut own: Vec<_> = own.collect();
    own.sort_by_key(|(stretch, _)| stretch.first);
    own
}

fn as_json(contents: &Contents) -> Value {
    let timelines = contents.wal.timelines().into_iter().map(|timeline| {
        let of = |missing: bool| -> Vec<Value> {
            let own = in_order(contents, timeline).into_iter();
            let own = own.filter(|(_, is_missing)| *is_missing == missing);
            own.map(|(stretch, _)| contents.stretch_json(&stretch)).collect()
        };
        let history = contents.wal.history(timeline);
        let partials = contents.partials_of(timeline);
        json!({
            "timeline": timeline,
            "has_history": history.is_some(),
            "switch": history.as_ref().and_then(switch_json),
            "ranges": of(false),
            "holes": of(true),
            "partials": partials
                .map(|(segment, end)| json!({ "segment": segment, "end_lsn": end }))
                .collect::<Vec<_>>(),
        })
    });
    json!({
        "repository": contents.repository,
        "system": contents.place.system().to_string(),
        "epoch": contents.place.epoch(),
        "timelines": timelines.collect::<Vec<_>>(),
        "notes": contents.notes,
    })
}

/// Where a timeline begins.
fn switch_json(history: &History) -> Option<Value> {
    let parent = history.ancestors().last()?;
    Some(json!({
        "from_timeline": parent.timeline,
        "lsn": parent.end,
        "reason": parent.reason,
    }))
}
