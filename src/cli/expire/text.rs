//! A plan of expiry as a table: every backup and every range of WAL, kept or removed, and why.

use serde_json::{Value, json};

use crate::base::ByteSize;
use crate::cli::output::{counted, moment};
use crate::pg::{SegmentNo, Stretch};
use crate::repo::BackupId;
use crate::retention::{ExpirePlan, Extension, Left, PlacePlan, Reason};

/// Nothing is removed by rules that nobody gave: a configuration may have lost them.
pub const NO_RULES: &str =
    "no [repository.<name>.retention] is written: no backup and no WAL is removed";

/// Reasons in one text.
pub fn reasons<'a>(reasons: impl IntoIterator<Item = &'a Reason>) -> String {
    let each: Vec<String> = reasons.into_iter().map(ToString::to_string).collect();
    each.join(", ")
}

/// The whole plan for people.
pub fn plan(name: &str, plan: &ExpirePlan, is_given: bool) -> String {
    let mut lines = vec![format!("{name}: rules: {}", plan.policy)];
    if !is_given {
        lines.push(format!("  {}", NO_RULES));
    }
    for place in &plan.places {
        let facts = &place.gathered.facts;
        lines.push(format!(
            "  {}: every moment from {} on stays restorable, as far as it is",
            facts.name,
            moment(place.decision.window_from)
        ));
        if !place.decision.backups.is_empty() {
            lines.extend(table(place).lines().map(|line| format!("    {line}")));
        }
        lines.extend(wal(place).into_iter().map(|line| format!("    {line}")));
        lines.extend(remains(place).into_iter().map(|line| format!("    {line}")));
        lines.extend(hidden(place).map(|line| format!("    {line}")));
    }
    lines.join("\n")
}

fn table(place: &PlacePlan) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["backup", "finished", "stored", "", "why"]);
    for (id, why) in &place.decision.backups {
        let summary = place.summary(id);
        let is_lock = |reason: &Reason| matches!(reason, Reason::Locked(_));
        let (word, why) = match why.is_empty() {
            true => ("removed", why_gone(place, id)),
            false if why.iter().all(is_lock) => ("waits", reasons(why)),
            false => ("kept", reasons(why)),
        };
        table.add_row([
            id.to_string(),
            summary.map_or_else(String::new, |backup| moment(backup.finished)),
            summary.map_or_else(String::new, |backup| ByteSize(backup.totals.stored).to_string()),
            word.to_owned(),
            why,
        ]);
    }
    table.trim_fmt()
}

fn why_gone(place: &PlacePlan, id: &BackupId) -> String {
    let moving = &place.gathered.facts.moving;
    // Not by the record of this run.
    if place.gathered.facts.given_up.iter().any(|backup| backup.id == *id) {
        return "an expire that was interrupted has begun to remove it".to_owned();
    }
    match moving.there.contains(id) {
        true => format!("moved to {}", moving.to),
        false => "no rule keeps it".to_owned(),
    }
}

/// What is archived of a stretch.
fn archived(place: &PlacePlan, stretch: &Stretch) -> Vec<Stretch> {
    let same = place.gathered.facts.wal.stretches().filter(|own| own.timeline == stretch.timeline);
    let common = same.filter_map(|own| {
        let (first, last): (SegmentNo, SegmentNo) =
            (own.first.max(stretch.first), own.last.min(stretch.last));
        (first <= last).then_some(Stretch { first, last, ..own })
    });
    common.collect()
}

fn wal(place: &PlacePlan) -> Vec<String> {
    let describe = |stretch: &Stretch| place.gathered.facts.wal.describe(stretch);
    let mut lines = Vec::new();
    for stretch in &place.removed_wal() {
        lines.push(format!(
            "WAL of timeline {}: {}: removed: no backup that stays needs it",
            stretch.timeline,
            describe(stretch)
        ));
    }
    let mut kept: Vec<(Stretch, String)> = Vec::new();
    for (stretch, why) in &place.decision.wal_kept {
        for part in archived(place, stretch) {
            match kept.iter_mut().find(|(known, _)| *known == part) {
                Some((_, reasons)) => reasons.push_str(&format!(", {why}")),
                None => kept.push((part, why.to_string())),
            }
        }
    }
    kept.sort_by_key(|(stretch, _)| (stretch.timeline, stretch.first, stretch.last));
    for (stretch, why) in kept {
        lines.push(format!(
            "WAL of timeline {}: {}: kept: {why}",
            stretch.timeline,
            describe(&stretch)
        ));
    }
    lines
}

fn remains(place: &PlacePlan) -> Vec<String> {
    let each = place.remains.iter().chain(&place.waiting).map(|remains| {
        let why = match remains.left {
            Left::Removed => "left of a backup that was removed",
            Left::Died => "left of a backup that was interrupted",
            Left::Orphaned => "left of a backup that nothing tells of",
        };
        let objects = counted(usize::try_from(remains.objects).unwrap_or(usize::MAX), "object");
        let fate = match remains.locked_until {
            None => "removed".to_owned(),
            Some(until) => format!("waits, locked until {}", moment(until)),
        };
        format!("{}: {objects}, {}: {fate}: {why}", remains.id, ByteSize(remains.bytes))
    });
    each.collect()
}

/// What deletions have only hidden.
fn hidden(place: &PlacePlan) -> impl Iterator<Item = String> {
    let number = |count: u64, what| counted(usize::try_from(count).unwrap_or(usize::MAX), what);
    let (count, bytes) = place.hidden.removable();
    let gone = (count > 0).then(|| {
        let versions = number(count, "hidden version");
        format!("{versions} of what was removed, {}: removed for good", ByteSize(bytes))
    });
    let (count, until) = place.hidden.locked;
    let locked = (count > 0).then(|| {
        let until = until.map_or_else(|| "longer".to_owned(), moment);
        let versions = number(count, "hidden version");
        format!("{versions} of what was removed: waits, locked until {until} at the latest")
    });
    gone.into_iter().chain(locked)
}

/// What is locked for longer, for people.
pub fn extension(extension: &Extension) -> Option<String> {
    let count = usize::try_from(extension.objects).unwrap_or(usize::MAX);
    let (objects, until) = (counted(count, "object"), moment(extension.until));
    (count > 0).then(|| format!("{objects} of what is kept would be locked until {until}"))
}

/// What people should look at.
pub fn warnings(plan: &ExpirePlan) -> Vec<String> {
    let mut warnings = Vec::new();
    for place in &plan.places {
        warnings.extend(place.gathered.warnings.iter().cloned());
        let unreadable = &place.gathered.backups.unreadable;
        warnings.extend(unreadable.iter().map(|(name, error)| {
            format!("{name} cannot be read ({error}): it stays, with all WAL from its beginning on")
        }));
        warnings.extend(place.vanished.iter().map(|id: &BackupId| {
            format!(
                "the manifest of {id} has vanished, and expire did not remove it: what is left of it stays; put \
                 the manifest back, in a bucket with versions its older version"
            )
        }));
        let future = place.decision.backups.iter();
        let future = future.filter(|(_, reasons)| reasons.contains(&Reason::Future));
        warnings.extend(future.map(|(id, _)| {
            format!("{id} says that it was finished in the future: a clock is or was wrong")
        }));
        let bad = place.decision.backups.iter();
        let bad = bad.filter(|(_, reasons)| reasons.contains(&Reason::NewestFull));
        warnings.extend(bad.map(|(id, _)| {
            format!(
                "the newest full, {id}, has invalid pages or lacks WAL: all WAL behind the last good full stays \
                 until there is another good one"
            )
        }));
    }
    warnings
}

/// The whole plan for programs.
pub fn plan_json(plan: &ExpirePlan) -> Vec<Value> {
    let each = plan.places.iter().map(|place| {
        let wal = &place.gathered.facts.wal;
        let stretch = |stretch: &Stretch| {
            json!({
                "timeline": stretch.timeline,
                "first": wal.name(stretch.timeline, stretch.first),
                "last": wal.name(stretch.timeline, stretch.last),
                "segments": stretch.count(),
            })
        };
        let backups = place.decision.backups.iter().map(|(id, reasons)| {
            json!({
                "id": id,
                "finished": place.summary(id).map(|backup| backup.finished.to_rfc3339()),
                "stored_bytes": place.summary(id).map(|backup| backup.totals.stored),
                "kept": !reasons.is_empty(),
                "waits_until": reasons.iter().find_map(|reason| match reason {
                    Reason::Locked(until) => Some(until.to_rfc3339()),
                    _ => None,
                }),
                "reasons": reasons,
            })
        });
        let kept =
            place.decision.wal_kept.iter().flat_map(|(span, why)| {
                archived(place, span).into_iter().map(move |part| (part, why))
            });
        let kept = kept.map(|(part, why)| {
            let mut told = stretch(&part);
            told["reason"] = json!(why);
            told
        });
        json!({
            "system": place.gathered.place.system().to_string(),
            "epoch": place.gathered.place.epoch(),
            "window_from": place.decision.window_from.to_rfc3339(),
            "backups": backups.collect::<Vec<_>>(),
            "wal_kept": kept.collect::<Vec<_>>(),
            "wal_removed": place.removed_wal().iter().map(stretch).collect::<Vec<_>>(),
            "remains": place.remains,
            "waiting": place.waiting,
            "vanished": place.vanished,
            "hidden": {
                "removable": place.hidden.removable().0,
                "removable_bytes": place.hidden.removable().1,
                "locked": place.hidden.locked.0,
                "locked_until": place.hidden.locked.1.map(|until| until.to_rfc3339()),
            },
        })
    });
    each.collect()
}
