//! `info`: what can be restored, verdict first.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::answers::Answers;
use super::args::InfoArgs;
use super::backup::base_json;
use super::error::Failure;
use super::exit::Exit;
use super::invocation::Invocation;
use super::output::{self, duration, moment, print, print_json, seconds_between};
use crate::base::{ByteSize, Timestamp};
use crate::config::{RepositorySettings, Resolved};
use crate::pg::{ArchivedWal, Stretch};
use crate::repo::{BackupId, Backups, Base, Place, Repository, Summary, Window};
use crate::retention;
use crate::wiring::{self, Access};

/// How many windows the verdict names: every failover may leave one behind.
const WINDOWS_SHOWN_MAX: usize = 6;

/// What one repository holds of the cluster.
#[derive(Debug)]
struct Content {
    repository: String,
    cipher: &'static str,
    place: Place,
    backups: Backups,
    wal: ArchivedWal,
    notes: Vec<String>,
    windows: Vec<Window>,
    holes: Vec<Stretch>,
    /// What the newest backup stands on.
    chain: Vec<Base>,
    now: Timestamp,
    /// Backups that expire is removing, or was when it was interrupted.
    removed: BTreeSet<BackupId>,
    /// Why each backup stays, by its id; nothing where no rules are given.
    kept: Option<BTreeMap<BackupId, Vec<String>>>,
}

/// Shows every repository, or the one that is named.
pub fn info(run: &Invocation, args: &InfoArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let named = run.global.repository.as_ref();
    let meant = |each: &&RepositorySettings| named.is_none_or(|named| *named == each.name);
    let mut answers = Answers::default();
    for settings in resolved.repositories.iter().filter(meant) {
        match content(run, &resolved, settings, args.epoch) {
            Ok(content) if args.json => answers.told.push(content.json()),
            Ok(content) => print(&content.text())?,
            Err(failure) => {
                let told = json!({ "repository": settings.name, "error": failure.message });
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
    answers.end(Exit::Ok)
}

fn content(
    run: &Invocation,
    resolved: &Resolved,
    settings: &RepositorySettings,
    epoch: Option<u32>,
) -> Result<Content, Failure> {
    let opened = wiring::open(&run.ctx, settings, Access::ReadOnly)?;
    run.warn_each(&opened.warnings);
    let repository = &opened.repository;
    let (place, registration) =
        run.place_for_reading(resolved, &settings.name, repository, epoch)?;
    let backups = repository.backups(&run.ctx, &place)?;
    let survey = repository.survey(&run.ctx, &place, &registration)?;
    let removed = survey.kept.newest.map(|keep| keep.removed).unwrap_or_default();
    let (wal, mut notes) = (survey.wal, survey.unreadable);
    notes.extend(wal.barriers().map(|(timeline, lsn)| {
        format!(
            "WAL of timeline {timeline} from {lsn} on was written with wal_level=minimal: recovery \
             from an earlier backup ends before it; a full backup behind it opens a new window"
        )
    }));
    let windows = backups.windows(&run.ctx, repository, &place, &wal)?;
    let start = backups.complete.first().and_then(Summary::start);
    let holes = start.map_or_else(|| wal.gaps(), |start| wal.holes(start));
    let newest = backups.complete.last();
    let chain = newest.map(|newest| repository.bases(&place, &newest.id));
    let chain = chain.transpose()?.unwrap_or_default();
    let kept = match settings.retention.is_given {
        true => {
            let policy = wiring::policy(resolved, settings);
            Some(reasons(run, repository, &place, &policy)?)
        }
        false => None,
    };
    Ok(Content {
        repository: settings.name.clone(),
        cipher: settings.cipher.name(),
        place,
        backups,
        wal,
        notes,
        windows,
        holes,
        chain,
        now: run.ctx.clock.now(),
        removed,
        kept,
    })
}

/// Why each backup of a place stays, as expire sees it.
fn reasons(
    run: &Invocation,
    repository: &Repository,
    place: &Place,
    policy: &retention::Policy,
) -> Result<BTreeMap<BackupId, Vec<String>>, Failure> {
    let gathered =
        retention::gather(&run.ctx, repository, place.cluster(), retention::Looks::Summaries)?;
    let at = gathered.iter().position(|each| each.place == *place);
    let facts: Vec<_> = gathered.into_iter().map(|each| each.facts).collect();
    let mut decisions = retention::decide(policy, run.ctx.clock.now(), &facts);
    let Some(at) = at else { return Ok(BTreeMap::new()) };
    let backups = decisions.swap_remove(at).backups.into_iter();
    let in_words = |reasons: BTreeSet<retention::Reason>| {
        reasons.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    Ok(backups.map(|(id, reasons)| (id, in_words(reasons))).collect())
}

impl Content {
    fn verdict(&self) -> String {
        let span = |window: &Window| {
            let (from, to) = output::span(window.from, window.to);
            match window.only_end {
                false => format!("any moment from {from} to {to}"),
                // The plan refuses moments here, as long as nothing behind them is archived.
                true => format!("the end of backup {} ({})", window.backup, moment(window.from)),
            }
        };
        let Some(newest) = self.windows.iter().max_by_key(|window| window.to) else {
            return match self.backups.complete.last() {
                None => "Nothing can be restored: there is no backup yet.".into(),
                Some(_) => "Nothing can be restored: the WAL of the backups is missing.".into(),
            };
        };
        let timelines: BTreeSet<_> = self.windows.iter().map(|window| window.timeline).collect();
        let older = self.windows.len().saturating_sub(WINDOWS_SHOWN_MAX);
        let spans = self.windows.iter().skip(older).map(|window| match timelines.len() {
            1 => span(window),
            _ => format!("{} along timeline {}", span(window), window.timeline),
        });
        let mut spans: Vec<_> = spans.collect();
        if older > 0 {
            spans.push(format!("what {older} more windows hold (--json)"));
        }
        let spans = spans.join(", and ");
        // Two windows of one timeline have something between them that is not there.
        let missing = match (timelines.len() < self.windows.len(), self.holes.is_empty()) {
            (false, _) => "",
            (true, true) => " WAL in between has expired;",
            (true, false) => " WAL is missing in between;",
        };
        let newest = match newest.only_end {
            true => "no moment after it is proven".into(),
            false => format!("newest WAL {} old", duration(seconds_between(newest.to, self.now))),
        };
        format!("You can restore {spans};{missing} {newest}.")
    }

    fn text(&self) -> String {
        let mut lines = vec![
            format!("{}: {}", self.repository, self.verdict()),
            format!(
                "  cluster {}, system {}, epoch {}, cipher {}",
                self.place.cluster(),
                self.place.system(),
                self.place.epoch(),
                self.cipher
            ),
        ];
        if !self.backups.complete.is_empty() {
            lines.push(String::new());
            lines.extend(self.backup_table().lines().map(|l| format!("  {l}")));
        }
        lines.extend(self.chain.iter().map(|base| format!("  {}", self.base_text(base))));
        for (name, error) in &self.backups.unreadable {
            lines.push(format!("  {name}: cannot be read: {error}"));
        }
        for id in self.backups.unfinished.iter().filter(|id| !self.removed.contains(id)) {
            lines.push(format!("  {id}: began, and is running or was interrupted"));
        }
        for id in &self.backups.abandoned {
            lines.push(format!("  {id}: given up"));
        }
        lines.push(String::new());
        if self.wal.stretches().next().is_none() {
            lines.push("  no WAL is archived yet".into());
        }
        for stretch in self.wal.stretches() {
            let timeline = stretch.timeline;
            lines.push(format!("  WAL of timeline {timeline}: {}", self.wal.describe(&stretch)));
        }
        for hole in &self.holes {
            lines.push(format!("  MISSING: {}", self.wal.describe(hole)));
        }
        if !self.holes.is_empty() {
            lines.push("  `pgkeep wal gaps` says what that costs, and the way out".into());
        }
        let misfits = self.wal.misfits.iter();
        lines.extend(misfits.map(|name| format!("  {name}: not of this cluster's segment size")));
        lines.extend(self.notes.iter().map(|note| format!("  {note}")));
        lines.push(String::new());
        lines.join("\n")
    }

    /// How much of what it stands on the newest backup still uses.
    fn base_text(&self, base: &Base) -> String {
        let newest = self.backups.complete.last().map_or("", |newest| newest.id.as_str());
        let what = if base.attempt { ", an interrupted backup" } else { "" };
        let used = ByteSize(base.used);
        match self.share(base) {
            Some(share) => format!("{newest} uses {share} % of {}{what} ({used})", base.id),
            None => format!("{newest} uses {used} of {}{what}", base.id),
        }
    }

    /// That in hundredths.
    fn share(&self, base: &Base) -> Option<u64> {
        let all = self.backups.complete.iter().find(|backup| backup.id == base.id)?.own_bytes();
        base.used.saturating_mul(100).checked_div(all)
    }

    fn json(&self) -> Value {
        let stretch = |stretch: &Stretch| {
            json!({
                "timeline": stretch.timeline,
                "first": self.wal.name(stretch.timeline, stretch.first),
                "last": self.wal.name(stretch.timeline, stretch.last),
                "segments": stretch.count(),
            })
        };
        let windows = self.windows.iter().map(|window| {
            json!({
                "from": window.from.to_rfc3339(),
                "to": window.to.to_rfc3339(),
                "only_end": window.only_end,
                "timeline": window.timeline,
                "backup": window.backup,
                "last_segment": window.last_segment,
            })
        });
        let unreadable = self.backups.unreadable.iter();
        json!({
            "repository": self.repository,
            "verdict": self.verdict(),
            "cipher": self.cipher,
            "system": self.place.system().to_string(),
            "epoch": self.place.epoch(),
            "windows": windows.collect::<Vec<_>>(),
            "backups": self.backups.complete.iter().map(|b| self.backup_json(b)).collect::<Vec<_>>(),
            "chain": self
                .chain
                .iter()
                .map(|base| {
                    let mut told = base_json(base);
                    told["used_percent"] = json!(self.share(base));
                    told
                })
                .collect::<Vec<_>>(),
            "unreadable": unreadable
                .map(|(name, error)| json!({ "id": name, "error": error.to_string() }))
                .collect::<Vec<_>>(),
            "unfinished": self.backups.unfinished,
            "abandoned": self.backups.abandoned,
            "wal": self.wal.stretches().map(|each| stretch(&each)).collect::<Vec<_>>(),
            "holes": self.holes.iter().map(stretch).collect::<Vec<_>>(),
            "misfits": self.wal.misfits,
            "notes": self.notes,
        })
    }
}

/// What tells a backup from the others of its chain.
fn own_part(id: &BackupId) -> &str {
    let id = id.as_str();
    id.split_once('_').map_or(id, |(_, own)| own)
}

impl Content {
    fn backup_table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        let mut header = vec![
            "backup",
            "type",
            "stands on",
            "finished",
            "took",
            "size",
            "stored",
            "WAL",
            "timeline",
            "state",
        ];
        if self.kept.is_some() {
            header.push("kept as");
        }
        table.set_header(header);
        for backup in &self.backups.complete {
            let took = seconds_between(backup.started, backup.finished);
            let state = match backup.totals.invalid_pages {
                _ if self.removed.contains(&backup.id) => "being removed".to_owned(),
                0 => "ok".to_owned(),
                pages => format!("{pages} invalid pages"),
            };
            let mut row = vec![
                backup.id.to_string(),
                backup.backup_type.to_string(),
                backup.parent.as_ref().map_or("-", own_part).to_owned(),
                moment(backup.finished),
                duration(took),
                ByteSize(backup.totals.bytes).to_string(),
                ByteSize(backup.totals.stored).to_string(),
                format!("{} - {}", backup.wal_first, backup.wal_last),
                backup.timeline.to_string(),
                state,
            ];
            row.extend(self.kept_text(&backup.id));
            table.add_row(row);
        }
        table.trim_fmt()
    }

    /// Why a backup stays, in a few words.
    fn kept_text(&self, id: &BackupId) -> Option<String> {
        let reasons = self.kept.as_ref()?.get(id)?;
        Some(match reasons.as_slice() {
            [] => "nothing: the next expire removes it".into(),
            _ => reasons.join(", "),
        })
    }

    fn backup_json(&self, backup: &Summary) -> Value {
        json!({
            "id": backup.id,
            "reasons": self.kept.as_ref().map(|kept| kept.get(&backup.id)),
            "type": backup.backup_type,
            "parent": backup.parent,
            "state": if backup.totals.invalid_pages == 0 { "ok" } else { "invalid-pages" },
            "started": backup.started.to_rfc3339(),
            "finished": backup.finished.to_rfc3339(),
            "seconds": seconds_between(backup.started, backup.finished),
            "bytes": backup.totals.bytes,
            "stored_bytes": backup.totals.stored,
            "own_bytes": backup.own_bytes(),
            "unread_bytes": backup.totals.unread_bytes,
            "attempts": backup.attempts,
            "files": backup.totals.files,
            "invalid_pages": backup.totals.invalid_pages,
            "timeline": backup.timeline,
            "start_lsn": backup.start_lsn,
            "stop_lsn": backup.stop_lsn,
            "wal_first": backup.wal_first,
            "wal_last": backup.wal_last,
            "server_version": backup.server.version_num,
            "tool": backup.tool,
        })
    }
}
