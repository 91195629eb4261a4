//! What a restore will do, as a value: printed and confirmed, then executed.

use std::fmt;
use std::path::PathBuf;

use super::directory::{check_empty, free_bytes, tablespaces};
use super::error::{Error, Result};
use super::options::{Archiving, Options};
use super::reach::{Archive, Run};
use super::{Target, TimelineChoice};
use crate::base::{ByteSize, Ctx, Timestamp};
use crate::pg::config_file::ConfigFile;
use crate::pg::wal::RM_XACT;
use crate::pg::{History, Lsn, MajorVersion, TimelineId};
use crate::repo::{BackupId, Found, OpenedBackup, Place, Registration, Repository, Summary};

/// What is in the archive and will not be in the restored cluster.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Lost {
    /// The last moment that the archive proves.
    pub until: Timestamp,
    /// Commits in segments that lie wholly after the target.
    pub commits_at_least: u64,
    /// With those of the segment in which the target lies.
    pub commits_at_most: u64,
    /// Seconds between target and last moment, for a target in time.
    pub seconds: Option<i64>,
}

/// What a restore will do.
#[derive(Debug, serde::Serialize)]
pub struct Plan {
    /// The cluster's configured name.
    pub cluster: String,
    /// The backup that is restored.
    pub backup: BackupId,
    /// When it became consistent.
    pub backup_finished: Timestamp,
    /// PostgreSQL's major version.
    pub major: u32,
    /// Where recovery ends, in words.
    pub target: String,
    /// The timeline that recovery follows.
    pub timeline: u32,
    /// The data directory to make.
    pub to: PathBuf,
    /// Tablespaces: oid, location in the backup, where it goes.
    pub tablespaces: Vec<(u32, String, PathBuf)>,
    /// Files to write.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Free bytes where the data directory goes.
    pub free: u64,
    /// Segments of WAL that recovery may read.
    pub wal_segments: usize,
    /// The plan has seen WAL up to here: within it, absence is an error.
    pub through: Lsn,
    /// The last moment that the archive proves on this timeline.
    pub reaches: Option<Timestamp>,
    /// What will not be there.
    pub lost: Option<Lost>,
    /// Whether the copy archives.
    pub archives: bool,
    /// Whether it becomes a standby.
    pub standby: bool,
    /// Seconds that writing the files takes at the rate at which this plan read a sample.
    pub seconds: Option<u64>,
    /// What the operator should know first.
    pub warnings: Vec<String>,
    /// What is written for the server: where it differs from the target, a warning says why.
    #[serde(skip)]
    pub(super) effective: Target,
    /// WAL after the run is missing or damaged: the server must not read ahead of what it replays.
    #[serde(skip)]
    pub(super) ends_at_hole: bool,
    #[serde(skip)]
    pub(super) summary: Summary,
    #[serde(skip)]
    pub(super) opened: OpenedBackup,
}

/// How many segments are asked about what is lost.
const LOST_SEGMENTS_MAX: usize = 512;

/// Plans a restore. Changes nothing.
///
/// # Errors
/// [`Error::Unreachable`], [`Error::Occupied`], [`Error::Refused`], and the repository's.
pub fn plan(
    ctx: &Ctx,
    options: &Options,
    repository: &Repository,
    place: &Place,
    registration: &Registration,
) -> Result<Plan> {
    let archive = Archive::read(ctx, repository, place, registration)?;
    let backups = repository.backups(ctx, place)?;
    let mut warnings: Vec<String> = backups
        .unreadable
        .iter()
        .map(|(name, error)| format!("backup {name} cannot be read: {error}"))
        .collect();
    let chosen = choose(ctx, options, &archive, &backups.complete)?;
    let opened = repository.open_backup(place, &chosen.backup.id)?;
    let run = check_run(ctx, options, &archive, &chosen)?;
    let reaches = archive.last_moment(ctx, &run.names)?;
    let lost = lost(ctx, options, &archive, &run, reaches)?;
    warnings.extend(archive.damaged());
    if let Some(hole) = &run.hole {
        warnings.push(format!("{hole} is missing: nothing after it can be reached"));
    }
    let effective = effective(ctx, options, &archive, &run, &mut warnings)?;
    let tablespaces = tablespaces(options, &opened)?;
    check_empty(&options.to)?;
    for (_, _, target) in &tablespaces {
        check_empty(target)?;
    }
    let summary = chosen.backup;
    warnings.extend(about_configuration(&opened)?);
    if summary.totals.invalid_pages > 0 {
        let pages = summary.totals.invalid_pages;
        warnings
            .push(format!("the backup holds {pages} pages that were invalid when it was taken"));
    }
    let free = free_bytes(&options.to);
    if free < summary.totals.bytes && tablespaces.is_empty() {
        warnings.push(format!(
            "{} are needed and {} are free",
            ByteSize(summary.totals.bytes),
            ByteSize(free)
        ));
    }
    let major = MajorVersion::from_server_version_num(summary.server.version_num)
        .map_err(|source| Error::Postgres { what: "the backup's server", source })?;
    Ok(Plan {
        cluster: place.cluster().into(),
        backup: summary.id.clone(),
        backup_finished: summary.finished,
        major: major.number().into(),
        target: options.target.to_string(),
        timeline: chosen.history.timeline().get(),
        to: options.to.clone(),
        tablespaces,
        files: summary.totals.files,
        bytes: summary.totals.bytes,
        free,
        wal_segments: run.names.len(),
        through: run.end,
        reaches,
        lost,
        archives: options.archiving == Archiving::On,
        standby: options.standby,
        seconds: sample(ctx, options, &opened)?,
        ends_at_hole: run.hole.is_some() || !archive.damaged().is_empty(),
        warnings,
        effective,
        summary,
        opened,
    })
}

/// A moment after the last commit is a target that the server never reaches ("recovery ended before
/// configured recovery target was reached"), although nothing is missing when a checkpoint proves that
/// the WAL goes on past it. Then recovery ends at that checkpoint's record.
fn effective(
    ctx: &Ctx,
    options: &Options,
    archive: &Archive<'_>,
    run: &Run,
    warnings: &mut Vec<String>,
) -> Result<Target> {
    let Target::Time(time) = &options.target else { return Ok(options.target.clone()) };
    let mut proof = None;
    for name in run.names.iter().rev() {
        ctx.cancel.check()?;
        let Some(found) = archive.found(name)? else { continue };
        // A record that is cut by the segment's end may be the commit that recovery must stop before.
        let may_end = found.cut.as_ref().is_some_and(|cut| cut.rmgr.is_none_or(|id| id == RM_XACT));
        if may_end || found.latest.is_some_and(|latest| latest > *time) {
            return Ok(options.target.clone());
        }
        let checkpoint = found.last_checkpoint.filter(|at| at >= time);
        proof = checkpoint.and(found.last_checkpoint_lsn).or(proof);
        if found.latest.is_some() {
            break;
        }
    }
    match proof {
        Some(lsn) => {
            warnings.push(format!(
                "nothing was committed after {}: recovery ends at the checkpoint at {lsn}, which is \
                 the same state",
                options.target
            ));
            Ok(Target::Lsn(lsn))
        }
        // Recovery would have to read on to know that nothing follows, and archive-get does not call
        // a hole the end.
        None => match &run.hole {
            Some(hole) => Err(Error::Unreachable {
                what: format!(
                    "{} is the last commit before {hole}, which is missing: recovery can stop \
                     before that commit, not after it",
                    options.target
                ),
                nearest: vec![*time - chrono::TimeDelta::microseconds(1)],
            }),
            None => {
                warnings.push(
                "the target is the last commit in the archive: recovery goes to its end, and opens \
                 for writing there"
                    .into(),
            );
                Ok(Target::Latest)
            }
        },
    }
}

/// What a person must know about the configuration file that comes with the backup, or does not.
fn about_configuration(opened: &OpenedBackup) -> Result<Option<String>> {
    let Some(row) = opened.find_row(b"postgresql.conf")? else {
        let why = "the backup has no postgresql.conf (it lies outside the data directory): the \
                   server needs one to start";
        return Ok(Some(why.into()));
    };
    let block_size = u64::from(opened.manifest().summary.server.block_size);
    let mut content = Vec::new();
    for block in 0..u32::try_from(row.size.div_ceil(block_size)).unwrap_or_default() {
        content.extend(opened.read_block(&row, block)?);
    }
    let configuration = ConfigFile::parse(&content);
    Ok(configuration.find("data_directory").map(|elsewhere| {
        format!(
            "postgresql.conf sets data_directory = {elsewhere:?}: a server started with this file \
             opens that directory, not the restored one; change it first"
        )
    }))
}

struct Chosen {
    backup: Summary,
    history: History,
}

/// Picks timeline and backup.
fn choose(
    ctx: &Ctx,
    options: &Options,
    archive: &Archive<'_>,
    backups: &[Summary],
) -> Result<Chosen> {
    let unreachable = |what: String, nearest| Err(Error::Unreachable { what, nearest });
    if backups.is_empty() {
        return unreachable("there is no complete backup in the repository".into(), Vec::new());
    }
    let named =
        match &options.backup {
            None => None,
            Some(id) => Some(backups.iter().find(|backup| backup.id == *id).ok_or_else(|| {
                Error::Refused { what: format!("there is no complete backup {id}") }
            })?),
        };
    let newest = named.or(backups.last()).expect("there is one");
    let current = TimelineId::new(newest.timeline_stop).unwrap_or(TimelineId::FIRST);
    let timeline = match (options.timeline, &options.target) {
        (TimelineChoice::Number(number), _) => number,
        (TimelineChoice::Current, _) | (_, Target::Immediate) => current,
        (TimelineChoice::Latest, _) => archive.newest_timeline().unwrap_or(current),
    };
    let history = archive.history(timeline)?;
    let on_history = |backup: &&Summary| {
        TimelineId::new(backup.timeline_stop)
            .is_some_and(|id| history.contains_until(id, backup.stop_lsn))
    };
    let candidates: Vec<&Summary> = match named {
        Some(backup) if on_history(&backup) => vec![backup],
        Some(backup) => {
            return Err(Error::Refused {
                what: format!(
                    "backup {} is of timeline {}, which does not lead to timeline {timeline}",
                    backup.id, backup.timeline_stop
                ),
            });
        }
        None => backups.iter().filter(on_history).collect(),
    };
    let Some(oldest) = candidates.first() else {
        let what = format!("no backup lies on timeline {timeline} or its ancestors");
        return unreachable(what, Vec::new());
    };
    let fits: Box<dyn Fn(&Summary) -> bool> = match &options.target {
        Target::Latest | Target::Immediate => Box::new(|_| true),
        Target::Time(time) => Box::new(move |backup| backup.finished <= *time),
        Target::Lsn(lsn) => Box::new(move |backup| backup.stop_lsn <= *lsn),
        Target::Name(_) | Target::Xid(_) => {
            let before = position(ctx, options, archive, &history, oldest)?;
            Box::new(move |backup| backup.stop_lsn <= before)
        }
    };
    match candidates.iter().rev().find(|backup| fits(backup)) {
        Some(backup) => Ok(Chosen { backup: (*backup).clone(), history }),
        None => unreachable(
            format!(
                "{} lies before the first consistent point of every backup on timeline {timeline}",
                options.target
            ),
            vec![oldest.finished],
        ),
    }
}

/// A position at or before a restore point's or transaction's end, from what was found in segments.
fn position(
    ctx: &Ctx,
    options: &Options,
    archive: &Archive<'_>,
    history: &History,
    oldest: &Summary,
) -> Result<Lsn> {
    let run = archive.run(history, oldest.start_lsn);
    let point = |found: &Found| match &options.target {
        Target::Name(name) => {
            found.restore_points.iter().find(|point| point.name == *name).map(|point| point.lsn)
        }
        Target::Xid(xid) => may_hold(found, *xid).then_some(Lsn::INVALID),
        _ => None,
    };
    let hit = archive.search(ctx, &run.names, |found| point(found).is_some())?;
    let Some((i, found)) = hit else {
        return Err(Error::Unreachable {
            what: format!("the archive holds no {}", options.target),
            nearest: archive.last_moment(ctx, &run.names)?.into_iter().collect(),
        });
    };
    let exact = point(&found).filter(|lsn| lsn.is_valid());
    // A transaction's end lies somewhere in the segment: a backup must be consistent before it, or
    // in it, when no older one is.
    let lsn = exact.or(found.end).unwrap_or_default();
    let begin = Lsn(oldest.start_lsn.0.saturating_add(archive.segment_bytes() * i as u64));
    let begin = Lsn(begin.0 / archive.segment_bytes() * archive.segment_bytes());
    Ok(if exact.is_none() && oldest.stop_lsn <= begin { begin } else { lsn })
}

/// Whether a transaction may have ended in a segment, in the circular order of 32 bits.
fn may_hold(found: &Found, xid: u64) -> bool {
    let (Some(min), Some(max)) = (found.xid_min, found.xid_max) else { return false };
    let low = (xid & 0xFFFF_FFFF) as u32;
    low.wrapping_sub(min) <= max.wrapping_sub(min)
}

/// Whether WAL leads from the backup to the target.
fn check_run(ctx: &Ctx, options: &Options, archive: &Archive<'_>, chosen: &Chosen) -> Result<Run> {
    let backup = &chosen.backup;
    let mut run = archive.run(&chosen.history, backup.start_lsn);
    // A last segment whose records stop early reaches no further than they do.
    if let Some(last) = run.names.last()
        && let Some(found) = archive.found(last)?
        && found.ending == "partial"
    {
        run.end = found.end.map_or(run.end, |end| end.min(run.end));
    }
    if run.end < backup.stop_lsn {
        let missing = run.hole.as_deref().unwrap_or("the segment after it");
        return Err(Error::Unreachable {
            what: format!(
                "WAL that backup {} itself needs is missing: the archive ends at {}, the backup is \
                 consistent at {} ({missing})",
                backup.id, run.end, backup.stop_lsn
            ),
            nearest: Vec::new(),
        });
    }
    let reaches = |what: String| -> Result<Error> {
        let nearest = archive.last_moment(ctx, &run.names)?.into_iter().collect();
        Ok(Error::Unreachable { what, nearest })
    };
    match &options.target {
        Target::Latest if !options.standby => {
            if let Some(hole) = &run.hole {
                let what =
                    format!("{hole} is missing, and later WAL exists: name a target before it");
                return Err(reaches(what)?);
            }
        }
        Target::Latest | Target::Immediate => {}
        Target::Lsn(lsn) => {
            let end = match run.names.last() {
                Some(last) => archive.found(last)?.and_then(|found| found.end).unwrap_or(run.end),
                None => run.end,
            };
            if *lsn > end {
                return Err(reaches(format!(
                    "LSN {lsn} lies after the end of the archive, {end}"
                ))?);
            }
        }
        Target::Time(time) => {
            let last = archive.last_moment(ctx, &run.names)?;
            let last = last.map_or(backup.finished, |last| last.max(backup.finished));
            if *time > last {
                let what = format!(
                    "{} lies after the last moment that the archive proves, {}",
                    options.target,
                    last.format("%Y-%m-%d %H:%M:%S%.f UTC")
                );
                return Err(reaches(what)?);
            }
        }
        Target::Name(_) | Target::Xid(_) => {
            let is_it = |found: &Found| match &options.target {
                Target::Name(name) => found.restore_points.iter().any(|point| point.name == *name),
                Target::Xid(xid) => may_hold(found, *xid),
                _ => false,
            };
            if archive.search(ctx, &run.names, is_it)?.is_none() {
                let what = format!("no WAL after backup {} holds {}", backup.id, options.target);
                return Err(reaches(what)?);
            }
        }
    }
    if options.target == Target::Immediate {
        let needed = run.names.len().min(archive.segments_until(backup.start_lsn, backup.stop_lsn));
        run.names.truncate(needed);
    }
    Ok(run)
}

/// Counts what lies in the archive after the target.
fn lost(
    ctx: &Ctx,
    options: &Options,
    archive: &Archive<'_>,
    run: &Run,
    reaches: Option<Timestamp>,
) -> Result<Option<Lost>> {
    let Some(until) = reaches else { return Ok(None) };
    let seconds = match &options.target {
        Target::Time(time) => Some((until - *time).num_seconds().max(0)),
        Target::Lsn(_) => None,
        _ => return Ok(None),
    };
    let is_after = |found: &Found| match &options.target {
        Target::Time(time) => found.earliest.is_none_or(|earliest| earliest > *time),
        Target::Lsn(lsn) => found.end.is_some_and(|end| end > *lsn),
        _ => false,
    };
    let is_before = |found: &Found| match &options.target {
        Target::Time(time) => found.latest.is_some_and(|latest| latest <= *time),
        Target::Lsn(lsn) => found.end.is_some_and(|end| end <= *lsn),
        _ => true,
    };
    let (mut at_least, mut at_most) = (0, 0);
    for name in run.names.iter().rev().take(LOST_SEGMENTS_MAX) {
        ctx.cancel.check()?;
        let Some(found) = archive.found(name)? else { continue };
        if is_before(&found) {
            break;
        }
        at_most += found.commits;
        if is_after(&found) && matches!(options.target, Target::Time(_)) {
            at_least += found.commits;
        }
    }
    Ok(Some(Lost { until, commits_at_least: at_least, commits_at_most: at_most, seconds }))
}

/// Reads a little of the backup and says how long all of it takes at that rate.
fn sample(ctx: &Ctx, options: &Options, opened: &OpenedBackup) -> Result<Option<u64>> {
    let packs = opened.manifest().objects.iter().filter(|object| object.name.starts_with("data/"));
    let Some(pack) = packs.max_by_key(|object| object.frames) else { return Ok(None) };
    let number = pack.name.trim_start_matches("data/").parse().unwrap_or_default();
    let frames = pack.frames.saturating_sub(1).min(256);
    if frames < 16 {
        return Ok(None);
    }
    let (mut stored, mut raw) = (Vec::new(), Vec::new());
    let begun = ctx.clock.monotonic();
    opened.pack(number)?.read_frames(0..frames, &mut stored, &mut raw)?;
    let took = ctx.clock.monotonic().saturating_sub(begun).as_secs_f64();
    let rate = raw.len() as f64 / took.max(1e-6) * options.jobs.max(1) as f64;
    // Durations in whole seconds: exact enough, and no cast of a float.
    let bytes = opened.manifest().summary.totals.bytes as f64;
    let took = std::time::Duration::try_from_secs_f64(bytes / rate).unwrap_or_default();
    Ok(Some(took.as_secs() + 1))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let utc = |time: &Timestamp| time.format("%Y-%m-%d %H:%M:%S UTC").to_string();
        writeln!(f, "Restore of cluster {} to {}", self.cluster, self.target)?;
        writeln!(
            f,
            "  backup        {}, consistent at {}",
            self.backup,
            utc(&self.backup_finished)
        )?;
        writeln!(f, "  timeline      {}", self.timeline)?;
        writeln!(f, "  data goes to  {}", self.to.display())?;
        for (oid, old, new) in &self.tablespaces {
            writeln!(f, "  tablespace    {oid}: {old} -> {}", new.display())?;
        }
        let size = ByteSize(self.bytes);
        writeln!(f, "  writes        {} files, {size} ({} free)", self.files, ByteSize(self.free))?;
        if let Some(seconds) = self.seconds {
            writeln!(
                f,
                "  takes         {seconds} s at the rate of a sample, and the replay of WAL"
            )?;
        }
        writeln!(f, "  WAL           {} segments, to {}", self.wal_segments, self.through)?;
        match &self.reaches {
            Some(time) => writeln!(f, "  archive has   WAL to {}", utc(time))?,
            None => writeln!(f, "  archive has   no commit or checkpoint after the backup")?,
        }
        match &self.lost {
            None => writeln!(f, "  lost          nothing that is in the archive")?,
            Some(lost) => {
                let commits = if lost.commits_at_least == lost.commits_at_most {
                    lost.commits_at_most.to_string()
                } else {
                    format!("{} to {}", lost.commits_at_least, lost.commits_at_most)
                };
                write!(f, "  lost          {commits} commits")?;
                if let Some(seconds) = lost.seconds {
                    write!(f, ", {seconds} s")?;
                }
                writeln!(f, " (to {})", utc(&lost.until))?;
            }
        }
        let archives = if self.archives { "on" } else { "off: this is a copy" };
        write!(f, "  archiving     {archives}")?;
        if self.standby {
            write!(f, "\n  role          standby")?;
        }
        for warning in &self.warnings {
            write!(f, "\n  warning       {warning}")?;
        }
        Ok(())
    }
}
