//! What a restore finds in the places that it fills: nothing, an interrupted run of itself, or what is
//! in the way.

use std::ffi::OsStr;
use std::fs::{self, FileType};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::TimelineChoice;
use super::adopt::MARKER;
use super::aside;
use super::conf_file::AUTO_CONF;
use super::control::control_file;
use super::delta::{self, Delta};
use super::error::{Error, Result};
use super::in_progress::{
    self, Choices, Content, IN_PROGRESS, LOST_AND_FOUND, Mark, Wanted, is_nobodys,
};
use super::options::{Archiving, Options};
use super::recovery::signal_file;
use crate::base::{Ctx, Timestamp};
use crate::pg::TimelineId;
use crate::repo::{OpenedBackup, Summary};

/// What lies where a restore goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ground {
    /// Files that an interrupted run of this very restore has left: it is continued.
    pub continues: Option<u64>,
    /// Of that run everything is there and durable; nothing is written.
    pub is_complete: bool,
    /// What is in the way, and the name under which it is moved aside.
    pub moved: Vec<(PathBuf, PathBuf)>,
    /// What is there is gone over (`--delta`), and becomes what the backup has.
    pub delta: Option<Delta>,
}

impl Ground {
    /// Lines of the plan.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match self.continues {
            Some(files) if self.is_complete => {
                lines.push(format!(
                    "  continues     a restore that is complete: {files} files are there"
                ));
            }
            Some(files) => {
                lines.push(format!(
                    "  continues     an interrupted restore: {files} files are there"
                ));
            }
            None => {}
        }
        lines.extend(self.delta.iter().flat_map(Delta::lines));
        for (from, to) in &self.moved {
            lines.push(format!("  moves aside   {} -> {}", from.display(), to.display()));
        }
        lines
    }
}

pub(super) const CONTROL_FILE: &str = "global/pg_control";

fn has_control(data: &Path) -> bool {
    data.join(CONTROL_FILE).symlink_metadata().is_ok()
}

/// The places of a restore.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    /// The data directory.
    pub(super) data: &'a Path,
    /// Its tablespaces: oid and location.
    pub(super) tablespaces: &'a [(u32, String, PathBuf)],
    /// Where configuration files go.
    pub(super) configuration: Option<&'a Path>,
    /// Where WAL lies that is not in the data directory itself, in one that a restore goes over.
    pub(super) wal: Option<&'a Path>,
}

impl<'a> Places<'a> {
    /// Without configuration files, and with WAL in its usual place.
    pub(super) fn of(data: &'a Path, tablespaces: &'a [(u32, String, PathBuf)]) -> Self {
        Self { data, tablespaces, configuration: None, wal: None }
    }

    /// All but the data directory.
    pub(super) fn others(self) -> impl Iterator<Item = &'a Path> {
        self.tablespaces.iter().map(|(_, _, location)| &**location).chain(self.configuration)
    }
}

/// Looks at the places of a plan in the making, and refuses what is in the way.
///
/// # Errors
/// [`Error::Occupied`].
pub(super) fn ground(
    ctx: &Ctx,
    options: &Options,
    places: Places<'_>,
    wanted: Wanted<'_>,
    (opened, homes): (&OpenedBackup, &[PathBuf]),
) -> Result<Ground> {
    if options.delta
        && let Some(delta) = delta::survey(ctx, options, places, (opened, homes))?
    {
        return Ok(Ground { delta: Some(delta), ..Ground::default() });
    }
    let found = survey(places, wanted, || control_file(opened));
    if matches!(&found, Ok(ground) if ground.continues.is_some())
        && in_progress::is_held(&options.to)
    {
        return Err(in_progress::held(&options.to));
    }
    match found {
        // What this very restore has left is no old cluster: it is gone on with, not moved aside.
        Ok(ground) if ground.continues.is_some() => Ok(ground),
        Ok(_) | Err(Error::Occupied { .. }) if options.rename_old => {
            let summary = &opened.manifest().summary;
            let source = Path::new(&summary.server.data_directory);
            survey_to_move(places, source, homes, ctx.clock.now())
        }
        found => found,
    }
}

/// The same command as that of an interrupted restore goes on with its backup and along its timeline,
/// even where a better one was taken since, or a newer one has begun. Where its backup is gone, it can be
/// moved aside.
pub(super) fn continued(
    options: &Options,
    choices: &Choices,
    backups: &[Summary],
) -> Result<Options> {
    let mut options = options.clone();
    if let Content::Restore(mark) = Content::of(&options.to)?
        && mark.is_continued_by(choices)
        // Of one with a control file nothing is left to go on with: at most the marks. What --delta meets there
        // may have been started, and been a server for weeks.
        && !((mark.is_over || options.delta) && has_control(&options.to))
        && (!options.rename_old || backups.iter().any(|backup| backup.id.as_str() == mark.backup))
    {
        let begun_with = mark.backup.parse().ok();
        let backup = options.backup.take().or(begun_with.clone());
        let along = mark.along.and_then(TimelineId::new).filter(|_| backup == begun_with);
        options.timeline = along.map_or(options.timeline, TimelineChoice::Number);
        options.backup = backup;
    }
    Ok(options)
}

/// What is complete is a copy, or the cluster itself, whatever would be right by default now.
pub(super) fn as_found(options: &Options, ground: &Ground) -> Options {
    let mut options = options.clone();
    if ground.is_complete {
        let is_copy = options.to.join(MARKER).symlink_metadata().is_ok();
        options.archiving = if is_copy { Archiving::Off } else { Archiving::On };
    }
    options
}

/// Refuses what is in the way; the data directory's mark, where this restore may go on from it.
///
/// # Errors
/// [`Error::Occupied`].
pub(super) fn check(places: Places<'_>, wanted: Wanted<'_>) -> Result<Option<Mark>> {
    let mark = match Content::of(places.data)? {
        Content::Nothing => None,
        Content::Else(why) => return Err(Error::Occupied { path: places.data.into(), why }),
        Content::Restore(mark) if mark.is_over => {
            let why = format!(
                "holds an interrupted restore with --delta {}: --delta finishes it",
                mark.describe()
            );
            return Err(Error::Occupied { path: places.data.into(), why });
        }
        Content::Restore(mark) => match mark.difference(wanted) {
            None => Some(*mark),
            Some(difference) => {
                let why = format!(
                    "holds an interrupted restore {}, which is another one ({difference}): the \
                     command that began it finishes it",
                    mark.describe()
                );
                return Err(Error::Occupied { path: places.data.into(), why });
            }
        },
    };
    if mark.is_some() && has_control(places.data) {
        // All was written: of the marks, those of the tablespaces go first.
        return Ok(mark);
    }
    for place in places.others() {
        let why = match (Content::of(place)?, &mark) {
            (Content::Nothing, _) => continue,
            (Content::Restore(there), Some(mark)) if there.is_of(mark) => continue,
            (Content::Restore(there), _) => {
                format!("holds files of another interrupted restore, {}", there.describe())
            }
            (Content::Else(why), _) => why,
        };
        return Err(Error::Occupied { path: place.into(), why });
    }
    Ok(mark)
}

/// As [`check`], and says how the restore goes on from what is there. `control` is the control file
/// that this restore writes.
///
/// # Errors
/// [`Error::Occupied`].
pub(super) fn survey(
    places: Places<'_>,
    wanted: Wanted<'_>,
    control: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Ground> {
    let mark = check(places, wanted)?;
    if mark.is_none() {
        return Ok(Ground::default());
    }
    let path = places.data.join(CONTROL_FILE);
    let is_complete = has_control(places.data);
    if is_complete {
        let there = fs::read(&path).map_err(Error::file("read", &path))?;
        if there != control()? {
            let why = "holds a cluster that was restored, and started since".into();
            return Err(Error::Occupied { path: places.data.into(), why });
        }
    }
    let mut files = 0;
    each_entry(places, &mut |_, file_type| {
        files += u64::from(file_type.is_file());
        Ok(())
    })?;
    Ok(Ground { continues: Some(files), is_complete, ..Ground::default() })
}

/// As [`survey`], for what is moved aside instead of being in the way.
///
/// # Errors
/// [`Error::Occupied`] where something cannot be moved.
fn survey_to_move(
    places: Places<'_>,
    source: &Path,
    homes: &[PathBuf],
    now: Timestamp,
) -> Result<Ground> {
    let mut moved = Vec::new();
    let mut add = |place: &Path| {
        moved.push((place.to_owned(), aside::name_for(place, now)?));
        Ok::<(), Error>(())
    };
    if Content::of(places.data)? != Content::Nothing {
        add(places.data)?;
    }
    for (_, original, place) in places.tablespaces {
        if Content::of(place)? == Content::Nothing {
            continue;
        }
        let is_own = places.data == source && place == Path::new(original);
        aside::refuse_shared(places.data, homes.iter().cloned(), place)?;
        aside::check_owner(places.data, place, is_own)?;
        add(place)?;
    }
    if let Some(place) = places.configuration {
        match Content::of(place)? {
            Content::Nothing => {}
            // What an interrupted run of a restore to here has left.
            Content::Restore(mark) if mark.is_into(places.data) => add(place)?,
            _ => {
                let why = "is not empty: --rename-old moves no configuration files".into();
                return Err(Error::Occupied { path: place.into(), why });
            }
        }
    }
    Ok(Ground { moved, ..Ground::default() })
}

/// Hands over everything below the places by its path in the data directory, marks and what a file system's tools
/// keep left out. One open directory a level, nothing kept.
pub(super) fn each_entry(
    places: Places<'_>,
    visit: &mut dyn FnMut(&[u8], FileType) -> Result<()>,
) -> Result<()> {
    below(places.data, &mut Vec::new(), visit)?;
    for (oid, _, location) in places.tablespaces {
        if location.is_dir() {
            below(location, &mut format!("pg_tblspc/{oid}").into_bytes(), visit)?;
        }
    }
    Ok(())
}

fn below(
    directory: &Path,
    path: &mut Vec<u8>,
    visit: &mut dyn FnMut(&[u8], FileType) -> Result<()>,
) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::file("list", directory))? {
        let entry = entry.map_err(Error::file("list", directory))?;
        if is_place(path) && is_nobodys(&entry) {
            continue;
        }
        let file_type = entry.file_type().map_err(Error::file("stat", entry.path()))?;
        let length = path.len();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(entry.file_name().into_vec());
        visit(path, file_type)?;
        if file_type.is_dir() {
            below(&directory.join(entry.file_name()), path, visit)?;
        }
        path.truncate(length);
    }
    Ok(())
}

/// Whether a path is that of a place, where a mark may be.
fn is_place(path: &[u8]) -> bool {
    let tablespace = path.strip_prefix(b"pg_tblspc/");
    path.is_empty() || tablespace.is_some_and(|oid| !oid.contains(&b'/'))
}

/// Whether a path is what the tools of a data directory's file system keep, or in it: [`each_entry`] leaves it out.
pub(super) fn is_lost_and_found(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').next() == Some(LOST_AND_FOUND.as_bytes())
}

/// Whether a row is the mark of a restore that its source came from: it says nothing of this one.
pub(super) fn is_mark(path: &[u8]) -> bool {
    path == IN_PROGRESS.as_bytes()
}

/// Whether a path is that of a file which a restore writes although no row may speak of it.
pub(super) fn is_own_file(options: &Options, path: &[u8]) -> bool {
    let own = ["backup_label", MARKER, "backup_manifest", signal_file(options)];
    own.iter().any(|own| own.as_bytes() == path) || path == AUTO_CONF
}

/// Names something that is not the restore's, for a refusal.
pub(super) fn shown(path: &[u8]) -> String {
    Path::new(OsStr::from_bytes(path)).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::io::Write::write_all(&mut fs::File::create(path).unwrap(), content.as_bytes())
            .unwrap();
    }

    /// A plain restore was killed before its mark went, and the server that it left was started, promoted and
    /// used; `restore --delta` went back to the backup and the timeline of that mark without a word.
    #[test]
    fn d2026_11_29_what_was_used_since_is_not_taken_back_to_the_marks_backup() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("data");
        fs::create_dir(&to).unwrap();
        let choices = in_progress::tests::choices(&to);
        let backup = "20261120-020000F".parse().unwrap();
        let wanted = Wanted { choices: &choices, backup: &backup, timeline: 3 };
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        in_progress::Claim::take(&to).unwrap().begin(&ctx, wanted).unwrap();
        let gone_on = |is_delta| {
            let options = Options { delta: is_delta, ..Options::of_a_test(&to) };
            continued(&options, &choices, &[]).unwrap().backup
        };
        for is_delta in [false, true] {
            assert_eq!(gone_on(is_delta).as_ref(), Some(&backup), "{is_delta}");
        }
        put(&to.join(CONTROL_FILE), "");
        assert_eq!(gone_on(false), Some(backup), "at most its marks are left");
        assert_eq!(gone_on(true), None);
    }

    /// A mark that was about to be replaced left its new one, and a fresh file system has `lost+found`: either was one
    /// entry too much, and stopped the command that should have gone on.
    #[test]
    fn d2026_11_29_left_over_marks_and_lost_and_found_are_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let (data, space) = (dir.path().join("data"), dir.path().join("space"));
        for place in [&data, &space] {
            fs::create_dir_all(place.join("lost+found")).unwrap();
            assert_eq!(Content::of(place).unwrap(), Content::Nothing);
            for mark in [IN_PROGRESS, in_progress::IN_PROGRESS_TEMPORARY] {
                put(&place.join(mark), "");
            }
            put(&place.join("PG_VERSION"), "15");
            put(&place.join("deep/lost+found"), "");
        }
        let tablespaces = [(7, "/old".to_owned(), space.clone())];
        let mut seen = Vec::new();
        each_entry(Places::of(&data, &tablespaces), &mut |path, _| {
            seen.push(String::from_utf8(path.to_vec()).unwrap());
            Ok(())
        })
        .unwrap();
        seen.sort();
        let of = |place: &str| {
            ["PG_VERSION", "deep", "deep/lost+found"].map(|path| format!("{place}{path}"))
        };
        let mut expected = [of(""), of("pg_tblspc/7/")].concat();
        expected.sort();
        assert_eq!(seen, expected);
    }

    /// A restore to where the backup came from moved whatever lay in the place of a tablespace that was
    /// put elsewhere, as if it had been the cluster's own: a stopped neighbour's tablespace, whose link
    /// then led to the restored files.
    #[test]
    fn d20261120_only_the_backup_s_own_locations_are_taken_for_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (data, one, new) =
            (dir.path().join("data"), dir.path().join("one"), dir.path().join("new"));
        for place in [&data, &one, &new] {
            put(&place.join("PG_15_202209061/1/2"), "mine");
        }
        fs::create_dir(data.join("pg_tblspc")).unwrap();
        std::os::unix::fs::symlink(&one, data.join("pg_tblspc/16384")).unwrap();
        let original = one.display().to_string();
        let moved = |location: &Path| {
            let tablespaces = [(16384, original.clone(), location.to_owned())];
            let places = Places::of(&data, &tablespaces);
            survey_to_move(places, &data, &[], Timestamp::UNIX_EPOCH)
        };
        assert_eq!(moved(&one).unwrap().moved.len(), 2);
        let refused = moved(&new).unwrap_err().to_string();
        assert!(refused.contains("tablespace of another cluster"), "{refused}");
        // By the path alone it is nobody's.
        fs::remove_file(data.join("pg_tblspc/16384")).unwrap();
        moved(&one).unwrap_err();
    }

    /// With configuration files, the same command with `--rename-old` refused what its own interrupted run
    /// had left in their directory, and never finished.
    #[test]
    fn d20261120_an_interrupted_run_s_configuration_files_are_moved_aside_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (data, etc) = (dir.path().join("data"), dir.path().join("etc"));
        let mark = |data: &Path| {
            serde_json::json!({
                "what": "", "restore": "01", "backup": "20261120-020000F", "repository": "r",
                "cluster": "main", "system": "7", "epoch": 1, "target": "", "inclusive": true,
                "timeline": "Latest", "action": "Pause", "standby": false, "archives": false,
                "tablespaces": [], "data_directory": data, "configuration": null,
            })
            .to_string()
        };
        put(&data.join(IN_PROGRESS), &mark(&data));
        put(&etc.join(IN_PROGRESS), &mark(&data));
        put(&etc.join("postgresql.conf"), "");
        let places = Places { configuration: Some(&etc), ..Places::of(&data, &[]) };
        let ground = survey_to_move(places, &data, &[], Timestamp::UNIX_EPOCH).unwrap();
        let moved: Vec<&Path> = ground.moved.iter().map(|(from, _)| &**from).collect();
        assert_eq!(moved, [&data, &etc]);
        put(&etc.join(IN_PROGRESS), &mark(Path::new("/other")));
        survey_to_move(places, &data, &[], Timestamp::UNIX_EPOCH).unwrap_err();
        fs::remove_file(etc.join(IN_PROGRESS)).unwrap();
        survey_to_move(places, &data, &[], Timestamp::UNIX_EPOCH).unwrap_err();
    }
}
