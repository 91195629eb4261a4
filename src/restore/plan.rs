//! What a restore will do, as a value: printed and confirmed, then executed.

use std::path::PathBuf;

use super::address::Address;
use super::beside;
use super::choose::Way;
use super::chosen::{Chosen, choose_backup};
use super::conf_file::{CONF, configuration};
use super::configured::ServerFiles;
use super::control::control_file;
use super::delta;
use super::directory::tablespaces;
use super::error::{Error, Result};
use super::external::External;
use super::in_progress::{Choices, Wanted};
use super::installed::{self, Programs};
use super::lost::Lost;
use super::nearest::Hole;
use super::new_tablespaces::{self, NewTablespace};
use super::next::{Account, Server, steps};
use super::options::{Archiving, Options};
use super::raised::{Raised, raised};
use super::reach::Archive;
use super::reached::{Reached, minimal_text};
use super::replayed::Replayed;
use super::space::{self, Space};
use super::survey::{Ground, Places, as_found, ground};
use super::target::Target;
use super::unarchived::Archived;
use crate::base::{Ctx, Timestamp};
use crate::pg::control_file::{ControlFile, Settings};
use crate::pg::recovery::TargetAction;
use crate::pg::{History, Lsn, MajorVersion, SegmentNo, SegmentSize};
use crate::repo::{
    BackupId, Backups, OpenedBackup, Place, Registration, Repository, Summary, Window,
};

/// No way is longer that is asked for expired segments: 256 TiB in segments of 16 MiB.
const WAY_MAX: usize = 1 << 24;

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
    /// What is written for the server: where it differs from the target, a warning says why.
    #[serde(rename = "server_target", serialize_with = "in_words")]
    pub effective: Target,
    /// Whether what equals that is still replayed.
    pub inclusive: bool,
    /// What the server does there.
    pub action: TargetAction,
    /// The target's moment, where it is known.
    pub target_time: Option<Timestamp>,
    /// The timeline that recovery follows.
    pub timeline: u32,
    /// The data directory to make.
    pub to: PathBuf,
    /// Tablespaces: oid, location in the backup, where it goes.
    pub tablespaces: Vec<(u32, String, PathBuf)>,
    /// Tablespaces that replay makes.
    pub new_tablespaces: Vec<NewTablespace>,
    /// Settings that are raised so that recovery can follow the source.
    pub raised: Vec<Raised>,
    /// What lies where the restore goes.
    pub ground: Ground,
    /// Configuration files outside the data directory.
    pub external: External,
    /// Files to write.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What each file system needs and has.
    pub space: Vec<Space>,
    /// Segments of WAL that recovery may read.
    pub wal_segments: u64,
    /// The plan has seen WAL up to here: within it, absence is an error.
    pub through: Lsn,
    /// The last moment that is proven on this timeline.
    pub reaches: Option<Timestamp>,
    /// What can be restored: along this timeline first, then along the others.
    pub windows: Vec<Window>,
    /// What is missing in between, the first of it.
    pub holes: Vec<Hole>,
    /// What will not be there.
    pub lost: Option<Lost>,
    /// Whether the copy archives.
    pub archives: bool,
    /// Whether it becomes a standby.
    pub standby: bool,
    /// Seconds that writing the files takes at the rate at which this plan read a sample.
    pub seconds: Option<u64>,
    /// The server's programs, as installed here.
    pub programs: Programs,
    /// Where the restored server listens, started by the first of these commands.
    pub address: Address,
    /// The commands to run after the restore.
    pub next: Vec<String>,
    /// What the operator should know first.
    pub warnings: Vec<String>,
    /// Not where WAL after the run is missing, damaged or not handed out to a copy: then the server must
    /// not read ahead of what it replays.
    #[serde(skip)]
    pub(super) reads_ahead: bool,
    #[serde(skip)]
    pub(super) history: History,
    #[serde(skip)]
    pub(super) choices: Choices,
    #[serde(skip)]
    pub(super) summary: Summary,
    #[serde(skip)]
    pub(super) opened: OpenedBackup,
    /// Where WAL was looked for that only the directory has which is gone over.
    #[serde(skip)]
    pub(super) archived: Option<Archived>,
}

fn in_words<S: serde::Serializer>(
    target: &Target,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(target)
}

impl Plan {
    /// The first segment on the way that expiry has given up.
    #[must_use]
    pub fn first_expired(&self, keep: &crate::repo::Keep) -> Option<String> {
        let size = SegmentSize::new(self.summary.server.wal_segment_size.into()).ok()?;
        let expired = keep.expired_wal(size);
        let first = SegmentNo::of(self.summary.start_lsn, size);
        let last = SegmentNo::of_end(self.through, size)?;
        let mut numbers = (first.0..=last.0).take(WAY_MAX).map(SegmentNo);
        let on = |number: SegmentNo| Some(self.history.timeline_of(number.begin(size)?));
        let gone = numbers.find_map(|number| {
            let timeline = on(number).filter(|on| expired.has(*on, number))?;
            Some((timeline, number))
        });
        gone.map(|(timeline, number)| expired.name(timeline, number))
    }

    /// The backup that it begins with.
    #[must_use]
    pub fn backup_id(&self) -> &crate::repo::BackupId {
        &self.opened.manifest().summary.id
    }

    /// What the server does at its target; nothing where it is given none, and replays all there is.
    #[must_use]
    pub fn at_target(&self) -> Option<TargetAction> {
        (self.effective != Target::Latest).then_some(self.action)
    }

    pub(super) fn places(&self) -> Places<'_> {
        let configuration = self.external.to.as_deref();
        let wal = self.ground.delta.as_ref().and_then(|delta| delta.wal.as_deref());
        Places { configuration, wal, ..Places::of(&self.to, &self.tablespaces) }
    }

    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted { choices: &self.choices, backup: &self.backup, timeline: self.timeline }
    }
}

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
    let chosen = choose_backup(ctx, options, (repository, place), registration)?;
    plan_chosen(ctx, options, repository, place, chosen)
}

/// As [`plan`], with a backup that was chosen. Its packs are read here: the settings of its server, and a sample.
///
/// # Errors
/// As [`plan`].
pub fn plan_chosen(
    ctx: &Ctx,
    asked: &Options,
    repository: &Repository,
    place: &Place,
    chosen: Chosen<'_>,
) -> Result<Plan> {
    let choices = Choices::new(asked, repository, place);
    let Chosen { options, archive, backups, reached, opened } = chosen;
    let options = &options;
    let Reached { history, way, replayed, windows, holes, lost, warnings: told } = reached;
    let mut warnings = about_unreadable(&backups);
    warnings.extend(told);
    warnings.extend(way.notes.iter().cloned().chain(replayed.warning()));
    warnings.extend(about_the_archive(&archive, &history, &way));
    let tablespaces = tablespaces(options, &opened)?;
    let is_copy = options.archiving == Archiving::Off;
    let new_tablespaces = new_tablespaces::check(&tablespaces, &replayed, is_copy)?;
    warnings.extend(new_tablespaces.iter().map(NewTablespace::warning));
    let at_target = way.at_target();
    let target_time = options.target.time().or(way.at);
    let summary = way.backup;
    let mut external = External::of(options, &tablespaces, &opened)?;
    let apart = options.config_to.as_deref();
    let places = Places { configuration: apart, ..Places::of(&options.to, &tablespaces) };
    let timeline = history.timeline().get();
    let wanted = Wanted { choices: &choices, backup: &summary.id, timeline };
    let homes = homes(options, &backups, &summary);
    let mut ground = ground(ctx, options, places, wanted, (&opened, &homes))?;
    let look_in = || Archived::new(repository, place, archive.wal());
    let (archived, told) = delta::prepare(ctx, options, &opened, look_in, &mut ground)?;
    warnings.extend(told);
    let options = &as_found(options, &ground);
    let wal_bytes = way.run.count().saturating_mul(archive.segment_size().bytes().into());
    let over = ground.delta.as_ref().map(|delta| &delta.inventory);
    let space = space::spaces(ctx, options, &opened, &tablespaces, (over, wal_bytes))?;
    // What an interrupted run has left takes its room already.
    if ground.continues.is_none() {
        warnings.extend(space::check(&space)?);
    }
    // From here on packs are read: what is wrong with the target shows before a cold one has to be thawed.
    warnings.extend(configured(options, &opened, &mut external)?);
    let files = ServerFiles::of(&opened, &external)?;
    let raised = raised(&files, &settings_of(&opened)?, &replayed.parameters);
    warnings.extend(raised.iter().map(Raised::warning));
    let server = &summary.server;
    let major = MajorVersion::from_server_version_num(server.version_num)
        .map_err(|source| Error::Postgres { what: "the backup's server", source })?;
    let programs =
        installed::look(ctx, &options.programs, server.version_num, &server.preload_libraries);
    warnings.extend(about_the_server(options, &opened, &external, &programs, major)?);
    let address = Address::of(&files, &programs, &options.to);
    warnings.extend(address.warning());
    let account = Account::of(&opened);
    let mut next = account.directories(&new_tablespaces);
    let server = Server { programs: &programs, external: &external, address: &address };
    next.extend(steps(options, server, &account, at_target));
    Ok(Plan {
        cluster: place.cluster().into(),
        backup: summary.id.clone(),
        backup_finished: summary.finished,
        major: major.number().into(),
        target: options.target.to_string(),
        target_time,
        timeline,
        to: options.to.clone(),
        tablespaces,
        new_tablespaces,
        raised,
        ground,
        files: summary.totals.files.saturating_sub(external.files.len() as u64),
        bytes: summary.totals.bytes.saturating_sub(external.bytes),
        external,
        space,
        wal_segments: wal_segments(options, &archive, &summary, &way.run),
        through: way.end,
        reaches: way.reaches,
        windows,
        holes,
        lost,
        archives: options.archiving == Archiving::On,
        standby: options.standby,
        seconds: sample(ctx, options, &opened)?,
        programs,
        address,
        next,
        reads_ahead: reads_ahead(&way.run, &replayed) && archive.damaged().is_empty(),
        warnings,
        effective: way.effective,
        inclusive: way.inclusive,
        action: way.action,
        history,
        choices,
        summary,
        opened,
        archived,
    })
}

/// Where the cluster lives, as far as is known: by the configuration, by its newest backup, and by the one that is
/// restored over what is there. Links there may lead to what a restore would write over. One that it has left before
/// that is in nobody's way.
fn homes(options: &Options, backups: &Backups, chosen: &Summary) -> Vec<PathBuf> {
    let chosen = options.delta.then_some(chosen);
    let sources = backups.complete.last().into_iter().chain(chosen);
    let sources = sources.map(|backup| backup.server.data_directory.clone().into());
    options.data_directory.iter().cloned().chain(sources).collect()
}

/// What the source ran with when the backup was taken.
fn settings_of(opened: &OpenedBackup) -> Result<Settings> {
    let control = ControlFile::parse(&control_file(opened)?);
    let control = control.map_err(|source| Error::Postgres { what: "pg_control", source })?;
    Ok(control.settings)
}

/// Whether everything behind the target may be fetched before it is needed.
fn reads_ahead(run: &crate::pg::Run, replayed: &Replayed) -> bool {
    run.hole.is_none() && !run.is_barred && !replayed.is_followed
}

/// Segments that recovery may read.
fn wal_segments(
    options: &Options,
    archive: &Archive<'_>,
    backup: &Summary,
    run: &crate::pg::Run,
) -> u64 {
    if options.target != Target::Immediate {
        return run.count();
    }
    let size = archive.segment_size();
    let first = SegmentNo::of(backup.start_lsn, size);
    let last = SegmentNo::of_end(backup.stop_lsn, size).unwrap_or(first);
    run.count().min((last.0 + 1).saturating_sub(first.0))
}

/// What is wrong with the WAL on the way, or goes on elsewhere.
fn about_the_archive(archive: &Archive<'_>, history: &History, way: &Way) -> Vec<String> {
    let mut warnings = archive.damaged();
    if let Some(hole) = &way.run.hole {
        let missing = archive.describe(hole);
        warnings.push(format!("{missing}: nothing after it can be reached"));
    } else if way.run.is_barred {
        warnings.push(format!("{}: take a new full backup", minimal_text(way.run.end)));
    } else if way.end < way.run.end {
        warnings.push(format!(
            "the last segment stops at {}, before its end: it was never completed, or is damaged; \
             what may have followed is not in the archive",
            way.end
        ));
    }
    let timeline = history.timeline();
    let left = archive.wal().timelines().into_iter().filter_map(|id| {
        let switch = archive.wal().history(id)?.switch_point(timeline)?;
        Some(format!("timeline {id} (at {switch})"))
    });
    let left: Vec<String> = left.collect();
    if !left.is_empty() {
        warnings.push(format!(
            "{} left timeline {timeline}: what was written there is not in it",
            left.join(" and ")
        ));
    }
    warnings
}

fn about_unreadable(backups: &Backups) -> Vec<String> {
    let unreadable = backups.unreadable.iter();
    unreadable.map(|(name, error)| format!("backup {name} cannot be read: {error}")).collect()
}

/// What is wrong with the pages in the backup, and what the server that opens it needs, or does.
fn about_the_server(
    options: &Options,
    opened: &OpenedBackup,
    external: &External,
    programs: &Programs,
    major: MajorVersion,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let pages = opened.manifest().summary.totals.invalid_pages;
    if pages > 0 {
        warnings
            .push(format!("the backup holds {pages} pages that were invalid when it was taken"));
    }
    warnings.extend(programs.warnings());
    warnings.extend(beside::warnings(options, opened, external, &programs.preload_libraries)?);
    warnings.extend(beside::about_archive_mode(options, opened, major)?);
    Ok(warnings)
}

/// Has the server's command line name the data directory where its configuration names another; what a
/// person must know about the configuration.
fn configured(
    options: &Options,
    opened: &OpenedBackup,
    external: &mut External,
) -> Result<Vec<String>> {
    let mut warnings = external.warnings(opened)?;
    if !external.has(&opened.manifest().summary.server.configuration.config_file) {
        let file = configuration(opened, CONF)?;
        let elsewhere = file.as_ref().and_then(|file| file.find("data_directory"));
        if elsewhere.is_some() {
            external.name_data_directory(&options.to);
        }
        warnings.extend(about_configuration(file.is_some(), elsewhere));
    }
    Ok(warnings)
}

/// What a person must know about the configuration file that comes with the backup, or does not.
fn about_configuration(is_there: bool, elsewhere: Option<&str>) -> Option<String> {
    if !is_there {
        let why = "the backup has no postgresql.conf (it lies outside the data directory): the \
                   server needs one to start";
        return Some(why.into());
    }
    elsewhere.map(|elsewhere| {
        format!(
            "postgresql.conf sets data_directory = {elsewhere:?}: a server started with this file \
             opens that directory, not the restored one; the command below names the restored one, \
             any other way to start it does not: change it first"
        )
    })
}

/// Reads a little of the backup and says how long all of it takes at that rate.
fn sample(ctx: &Ctx, options: &Options, opened: &OpenedBackup) -> Result<Option<u64>> {
    let Some((base, number, frames)) = opened.largest_pack() else { return Ok(None) };
    let frames = frames.saturating_sub(1).min(256);
    if frames < 16 {
        return Ok(None);
    }
    let (mut stored, mut raw) = (Vec::new(), Vec::new());
    let begun = ctx.clock.monotonic();
    opened.pack(base, number)?.read_frames(0..frames, &mut stored, &mut raw)?;
    let took = ctx.clock.monotonic().saturating_sub(begun).as_secs_f64();
    let rate = raw.len() as f64 / took.max(1e-6) * options.jobs.max(1) as f64;
    // Durations in whole seconds: exact enough, and no cast of a float.
    let bytes = opened.manifest().summary.totals.bytes as f64;
    let took = std::time::Duration::try_from_secs_f64(bytes / rate).unwrap_or_default();
    Ok(Some(took.as_secs() + 1))
}
