//! The mark of a restore that is under way: which one it is, and that only one process carries it out.
//!
//! Durable in the data directory before anything else is, and in each other place that is filled; there
//! as long as `global/pg_control` is not. So a directory with a mark and without a control file is an
//! interrupted restore: no server starts on it, and the same command finishes it. The marks go after the
//! control file has its name, the data directory's last: a directory with both is whole, and only the
//! marks are left to remove.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::options::{Archiving, Options};
use crate::base::{Ctx, durable, entropy, hex};
use crate::repo::{BackupId, Place, Repository};

/// The mark's name, in the data directory and in each other place.
pub(super) const IN_PROGRESS: &str = "pgkeep_restore_in_progress.json";

/// Its name while it is written in another one's place.
pub(super) const IN_PROGRESS_TEMPORARY: &str = "pgkeep_restore_in_progress.json.new";

/// No mark is as long as this.
const MARK_BYTES_MAX: u64 = 1 << 20;

/// What decides the content of the restored directory: two runs may only share one when all of it is
/// the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Choices {
    repository: String,
    cluster: String,
    system: String,
    epoch: u32,
    target: String,
    inclusive: bool,
    timeline: String,
    action: String,
    standby: bool,
    /// As it was asked for. By default it is decided anew by each run, which writes all that depends on it:
    /// whether another server is the cluster now may have changed.
    archives: Option<bool>,
    /// As they were asked for, not as a backup has them: they are known before a backup is chosen.
    tablespaces: Vec<(String, String)>,
    data_directory: String,
    configuration: Option<String>,
}

impl Choices {
    pub(super) fn new(options: &Options, repository: &Repository, place: &Place) -> Self {
        let mapped = |mapping: &super::TablespaceMapping| (mapping.old.clone(), text(&mapping.new));
        let mut tablespaces: Vec<_> = options.tablespaces.iter().map(mapped).collect();
        tablespaces.sort();
        Self {
            repository: repository.descriptor().repository.to_string(),
            cluster: place.cluster().into(),
            system: place.system().to_string(),
            epoch: place.epoch(),
            target: options.target.to_string(),
            inclusive: options.inclusive,
            timeline: format!("{:?}", options.timeline),
            action: format!("{:?}", options.action),
            standby: options.standby,
            archives: (!options.archiving_is_default).then_some(options.archiving == Archiving::On),
            tablespaces,
            data_directory: text(&options.to),
            configuration: options.config_to.as_deref().map(text),
        }
    }

    /// Whether the server itself goes on to whatever timeline is the newest.
    fn follows(&self) -> bool {
        let is_to_the_end = self.target == super::Target::Latest.to_string();
        let is_newest = self.timeline == format!("{:?}", super::TimelineChoice::Latest);
        self.standby && is_to_the_end && is_newest
    }

    /// The first thing in which another restore differs, in words.
    fn difference(&self, other: &Self) -> Option<String> {
        let differs = |what: &str, theirs: &str| Some(format!("{what} {theirs}"));
        if self.repository != other.repository {
            return differs("repository", &other.repository);
        }
        if (&self.cluster, &self.system, self.epoch) != (&other.cluster, &other.system, other.epoch)
        {
            let theirs = format!("{} ({}-{})", other.cluster, other.system, other.epoch);
            return differs("cluster", &theirs);
        }
        if (&self.target, self.inclusive) != (&other.target, other.inclusive) {
            return differs("target", &other.target);
        }
        if self.timeline != other.timeline {
            return differs("timeline", &other.timeline);
        }
        if self.tablespaces != other.tablespaces {
            return differs("tablespaces", &format!("{:?}", other.tablespaces));
        }
        if self.data_directory != other.data_directory {
            return differs("data directory", &other.data_directory);
        }
        if self.configuration != other.configuration {
            let theirs = other.configuration.as_deref().unwrap_or("nowhere");
            return differs("configuration files to", theirs);
        }
        let roles = (&self.action, self.standby, self.archives);
        if roles != (&other.action, other.standby, other.archives) {
            let standby = other.standby;
            let archives = other.archives.map_or("by default".into(), |on| on.to_string());
            let theirs = format!("{} (standby {standby}, archives {archives})", other.action);
            return differs("action at the target", &theirs);
        }
        None
    }
}

/// A path as text that differs where the path does.
fn text(path: &Path) -> String {
    path.to_str().map_or_else(|| format!("{path:?}"), str::to_owned)
}

/// What is asked for, with the backup that was chosen for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) choices: &'a Choices,
    pub(super) backup: &'a BackupId,
    /// The timeline that its plan came to.
    pub(super) timeline: u32,
}

/// What a mark says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    what: String,
    /// Tells this restore from every other one; the same in all its places.
    restore: String,
    pub(super) backup: String,
    /// The timeline that the plan came to. What "current" and "latest" mean may have changed since, and
    /// "current" means another one once the backup is named. Unknown in the marks of older versions.
    #[serde(default)]
    pub(super) along: Option<u32>,
    /// It goes over what is there (`--delta`): a control file beside the mark may still be the old one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_over: bool,
    #[serde(flatten)]
    choices: Choices,
}

impl Mark {
    fn new(ctx: &Ctx, wanted: Wanted<'_>, is_over: bool) -> Self {
        let what = match is_over {
            false => "no server can start here; the same command finishes it",
            true => "restore --delta finishes it",
        };
        Self {
            what: format!("a restore by pgkeep is not finished: {what}"),
            restore: hex::encode(&entropy::random::<16>(ctx.entropy.as_ref())),
            backup: wanted.backup.to_string(),
            along: (!wanted.choices.follows()).then_some(wanted.timeline),
            is_over,
            choices: wanted.choices.clone(),
        }
    }

    /// Whether this is the same restore as another mark's.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.restore == other.restore
    }

    /// Whether a restore with these choices, of whatever backup, goes on here.
    pub(super) fn is_continued_by(&self, choices: &Choices) -> bool {
        self.choices == *choices
    }

    /// What makes this another restore than the one that is asked for.
    pub(super) fn difference(&self, wanted: Wanted<'_>) -> Option<String> {
        let is_other = self.backup != wanted.backup.as_str();
        let other_backup = || is_other.then(|| format!("backup {}", self.backup));
        let along = self.along.filter(|along| *along != wanted.timeline);
        let other_timeline = || along.map(|along| format!("timeline {along}"));
        wanted.choices.difference(&self.choices).or_else(other_backup).or_else(other_timeline)
    }

    /// Whether it is of a restore into this data directory.
    pub(super) fn is_into(&self, data: &Path) -> bool {
        self.choices.data_directory == text(data)
    }

    /// Whether it was left by an earlier restore of the same cluster into the same data directory.
    fn is_left_by(&self, later: &Self) -> bool {
        let of = |mark: &Self| (mark.choices.system.clone(), mark.choices.data_directory.clone());
        of(self) == of(later)
    }

    /// Whether it is of a restore of the cluster with this system identifier.
    pub(super) fn is_of_system(&self, system: u64) -> bool {
        self.choices.system == system.to_string()
    }

    /// In words, for a refusal.
    pub(super) fn describe(&self) -> String {
        format!("of backup {} to {}", self.backup, self.choices.data_directory)
    }
}

/// What lies in a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing, or a mark that was cut off in its own writing: nothing was written before it.
    Nothing,
    /// An interrupted restore.
    Restore(Box<Mark>),
    /// Something else, and what.
    Else(String),
}

impl Content {
    /// Looks at a place. Changes nothing.
    pub(super) fn of(path: &Path) -> Result<Self> {
        if !path.is_absolute() {
            let what = format!("{} is not an absolute path", path.display());
            return Err(Error::Refused { what });
        }
        let mut entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                return Ok(Self::Else("is not a directory".into()));
            }
            Err(error) => return Err(Error::file("list", path)(error)),
        };
        if path.join("postmaster.pid").symlink_metadata().is_ok() {
            let why = "belongs to a server that runs, or did not stop in order. Where none runs on it, on any host \
                       and in any container, remove its postmaster.pid";
            return Ok(Self::Else(why.into()));
        }
        let others = entries.try_fold(0, |others, entry| {
            let entry = entry.map_err(Error::file("list", path))?;
            Ok::<u64, Error>(others + u64::from(!is_nobodys(&entry)))
        })?;
        match read(&path.join(IN_PROGRESS))? {
            Some(mark) => Ok(Self::Restore(Box::new(mark))),
            None if others == 0 => Ok(Self::Nothing),
            None => Ok(Self::Else("is not empty".into())),
        }
    }
}

/// What the tools of a file system keep in its first directory.
pub(super) const LOST_AND_FOUND: &str = "lost+found";

/// Whether an entry of a place itself is a mark, a new one that did not get its name, or a file system's own.
pub(super) fn is_nobodys(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    [IN_PROGRESS, IN_PROGRESS_TEMPORARY, LOST_AND_FOUND].iter().any(|nobodys| name == *nobodys)
}

/// Reads a mark; `None` where there is none, or one that was cut off.
fn read(path: &Path) -> Result<Option<Mark>> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_file() => {}
        _ => return Ok(None),
    }
    let file = File::open(path).map_err(Error::file("open", path))?;
    let mut content = Vec::new();
    file.take(MARK_BYTES_MAX).read_to_end(&mut content).map_err(Error::file("read", path))?;
    Ok(serde_json::from_slice(&content).ok())
}

/// Whether a process is filling a data directory that has a mark.
pub(super) fn is_held(directory: &Path) -> bool {
    let Ok(file) = File::open(directory.join(IN_PROGRESS)) else { return false };
    match file.try_lock_shared() {
        // Given back at once, not with the last copy of the handle (see Claim's drop).
        Ok(()) => file.unlock().is_err(),
        Err(error) => matches!(error, TryLockError::WouldBlock),
    }
}

/// That somebody else restores here.
pub(super) fn held(directory: &Path) -> Error {
    let why = "is being restored by another process right now".into();
    Error::Occupied { path: directory.into(), why }
}

/// Makes a place that is not there, with its parents. The server's account must get through those, also
/// where root makes them; the place itself is given to it later.
pub(super) fn make_place(place: &Path) -> Result<()> {
    durable::create_dir_below(place, 0o700, 0o755).map_err(Error::file("create", place))
}

/// The sole right to fill a data directory; given back by the end of the process, whatever ends it.
#[derive(Debug)]
pub(super) struct Claim {
    file: File,
    path: PathBuf,
    places: Vec<PathBuf>,
}

impl Claim {
    /// Takes the lock of a directory that exists. Makes the mark's file, still without content, where
    /// there is none.
    pub(super) fn take(directory: &Path) -> Result<Self> {
        let file = lock(directory)?;
        Ok(Self { file, path: directory.join(IN_PROGRESS), places: Vec::new() })
    }

    /// Writes the mark of a restore that begins. Durable when this returns: nothing else was written
    /// before, so a mark that is cut off stands alone.
    pub(super) fn begin(&mut self, ctx: &Ctx, wanted: Wanted<'_>) -> Result<Mark> {
        let mark = Mark::new(ctx, wanted, false);
        write(&mut self.file, &self.path, &mark)?;
        Ok(mark)
    }

    /// As [`Claim::begin`], of a restore over what is there, perhaps another restore's mark: that is replaced
    /// as a whole, so that a crash leaves one or the other.
    pub(super) fn begin_over(&mut self, ctx: &Ctx, wanted: Wanted<'_>) -> Result<Mark> {
        let mark = Mark::new(ctx, wanted, true);
        self.file = replace(&self.path, &mark)?;
        Ok(mark)
    }

    /// Marks another place that this restore fills, made if it is not there. A mark that is there
    /// stays: writing it again could cut it off, with files beside it.
    pub(super) fn mark_place(&mut self, mark: &Mark, place: &Path) -> Result<()> {
        make_place(place)?;
        self.places.push(place.into());
        let path = place.join(IN_PROGRESS);
        // Looked at under a lock: another restore into this place may mark it at this moment.
        let mut file = lock(place)?;
        let marked = match read(&path)? {
            Some(there) if there.is_of(mark) => Ok(()),
            Some(there) if mark.is_over && there.is_left_by(mark) => replace(&path, mark).map(drop),
            Some(there) => {
                let why = format!("was taken by another restore just now, {}", there.describe());
                Err(Error::Occupied { path: place.into(), why })
            }
            None => write(&mut file, &path, mark),
        };
        file.unlock().map_err(Error::file("unlock", &path))?;
        marked
    }

    /// Takes over a place of a restore that is complete; its mark may be gone already.
    pub(super) fn adopt_place(&mut self, mark: &Mark, place: &Path) -> Result<()> {
        if read(&place.join(IN_PROGRESS))?.is_some_and(|there| there.is_of(mark)) {
            self.places.push(place.into());
        }
        Ok(())
    }

    /// Removes a file that [`Claim::take`] made in a directory that turned out to be another's.
    pub(super) fn withdraw(self) {
        let is_empty = self.file.metadata().is_ok_and(|metadata| metadata.len() == 0);
        if is_empty {
            // What fails to go is an empty file that nothing believes.
            fs::remove_file(&self.path).ok();
        }
    }

    /// Removes the marks once the control file is durable under its name: the data directory's last,
    /// since it alone tells a second run that the others are this restore's.
    pub(super) fn release(self, ctx: &Ctx) -> Result<()> {
        let others = self.places.iter().map(|place| place.join(IN_PROGRESS));
        for path in others.chain(std::iter::once(self.path.clone())) {
            // A run that was killed may have left one that did not get its name. What fails to go is believed by
            // nobody.
            fs::remove_file(path.with_file_name(IN_PROGRESS_TEMPORARY)).ok();
            match fs::remove_file(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(Error::file("remove", &path))?,
            }
            durable::sync_parent(&path).map_err(Error::file("sync the directory of", &path))?;
            ctx.step("a mark is removed");
        }
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Closing is not enough where a process was started meanwhile: until it runs its program it has
        // a copy of the handle, and the lock with it. A failure is mended by the end of the process.
        self.file.unlock().ok();
    }
}

/// Opens and locks the mark of a directory that exists; made, still without content, where there is none.
fn lock(directory: &Path) -> Result<File> {
    let path = directory.join(IN_PROGRESS);
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(Error::file("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(held(directory)),
        Err(TryLockError::Error(error)) => return Err(Error::file("lock", &path)(error)),
    }
    // The one who held the lock until now may have finished, and removed what was locked here.
    let locked = file.metadata().map_err(Error::file("stat", &path))?;
    let named = path.symlink_metadata().map_err(Error::file("stat", &path));
    if named.is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino())) {
        Ok(file)
    } else {
        let why = "was restored by another process just now".into();
        Err(Error::Occupied { path: directory.into(), why })
    }
}

fn write(file: &mut File, path: &Path, mark: &Mark) -> Result<()> {
    let failed = || Error::file("write", path);
    let text = serde_json::to_string_pretty(mark).map_err(|error| failed()(error.into()))?;
    file.set_len(0).map_err(failed())?;
    file.write_all(text.as_bytes()).map_err(failed())?;
    file.write_all(b"\n").map_err(failed())?;
    file.sync_all().map_err(Error::file("sync", path))?;
    durable::sync_parent(path).map_err(Error::file("sync the directory of", path))
}

/// Puts a mark in another one's place; its file, locked. Durable when this returns.
fn replace(path: &Path, mark: &Mark) -> Result<File> {
    let temporary = path.with_file_name(IN_PROGRESS_TEMPORARY);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        other => other.map_err(Error::file("remove", &temporary))?,
    }
    let options = File::options().read(true).write(true).create_new(true).mode(0o644).clone();
    let mut file = options.open(&temporary).map_err(Error::file("create", &temporary))?;
    file.lock().map_err(Error::file("lock", &temporary))?;
    write(&mut file, &temporary, mark)?;
    durable::rename(&temporary, path).map_err(Error::file("rename", path))?;
    Ok(file)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::Timestamp;

    pub(in crate::restore) fn choices(to: &Path) -> Choices {
        Choices {
            repository: "r".into(),
            cluster: "main".into(),
            system: "7".into(),
            epoch: 1,
            target: "the end of the WAL".into(),
            inclusive: true,
            timeline: "Latest".into(),
            action: "Promote".into(),
            standby: false,
            archives: Some(false),
            tablespaces: Vec::new(),
            data_directory: text(to),
            configuration: None,
        }
    }

    fn put(path: &Path, content: &[u8]) {
        File::create(path).unwrap().write_all(content).unwrap();
    }

    #[test]
    fn a_mark_that_is_cut_off_anywhere_counts_only_alone() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let (choices, backup) = (choices(dir.path()), "20261120-020000F".parse().unwrap());
        let wanted = Wanted { choices: &choices, backup: &backup, timeline: 1 };
        let mut claim = Claim::take(dir.path()).unwrap();
        let mark = claim.begin(&ctx, wanted).unwrap();
        let path = dir.path().join(IN_PROGRESS);
        let whole = fs::read(&path).unwrap();
        // All but the final newline is needed.
        for length in 0..whole.len() - 1 {
            put(&path, whole.get(..length).unwrap());
            assert_eq!(Content::of(dir.path()).unwrap(), Content::Nothing, "{length}");
        }
        put(&dir.path().join("PG_VERSION"), b"15\n");
        assert_eq!(Content::of(dir.path()).unwrap(), Content::Else("is not empty".into()));
        put(&path, &whole);
        assert_eq!(Content::of(dir.path()).unwrap(), Content::Restore(Box::new(mark)));
        put(&dir.path().join("postmaster.pid"), b"1\n");
        assert!(
            matches!(Content::of(dir.path()).unwrap(), Content::Else(why) if why.contains("server"))
        );
    }

    #[test]
    fn only_the_same_restore_goes_on() {
        let to = Path::new("/to");
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let (mine, backup) = (choices(to), "20261120-020000F".parse().unwrap());
        let mark = Mark::new(&ctx, Wanted { choices: &mine, backup: &backup, timeline: 1 }, false);
        let same = choices(to);
        assert_eq!(mark.difference(Wanted { choices: &same, backup: &backup, timeline: 1 }), None);
        let later = "20261121-020000F".parse().unwrap();
        let difference = mark.difference(Wanted { choices: &same, backup: &later, timeline: 1 });
        assert_eq!(difference.as_deref(), Some("backup 20261120-020000F"));
        let difference = mark.difference(Wanted { choices: &same, backup: &backup, timeline: 2 });
        assert_eq!(difference.as_deref(), Some("timeline 1"));
        let changes: [fn(&mut Choices); 13] = [
            |choices| choices.repository.push('x'),
            |choices| choices.cluster.push('x'),
            |choices| choices.system.push('1'),
            |choices| choices.epoch += 1,
            |choices| choices.target.push('x'),
            |choices| choices.inclusive = false,
            |choices| choices.timeline.push('x'),
            |choices| choices.action.push('x'),
            |choices| choices.standby = true,
            |choices| choices.archives = Some(true),
            |choices| choices.tablespaces.push(("16384".into(), "/new".into())),
            |choices| choices.data_directory.push('x'),
            |choices| choices.configuration = Some("/etc".into()),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut other = choices(to);
            change(&mut other);
            assert!(!mark.is_continued_by(&other), "{i}");
            assert!(
                mark.difference(Wanted { choices: &other, backup: &backup, timeline: 1 }).is_some(),
                "{i}"
            );
        }
    }

    /// A tablespace's place was looked at and marked in two steps: the mark that another restore had made
    /// between them was written over, and both filled the place.
    #[test]
    fn d20261124_the_mark_of_another_restore_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (data, place) = (dir.path().join("data"), dir.path().join("place"));
        fs::create_dir(&data).unwrap();
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let (choices, backup) = (choices(&data), "20261120-020000F".parse().unwrap());
        let wanted = Wanted { choices: &choices, backup: &backup, timeline: 1 };
        let (mine, theirs) = (Mark::new(&ctx, wanted, false), Mark::new(&ctx, wanted, false));
        let mut claim = Claim::take(&data).unwrap();
        claim.mark_place(&theirs, &place).unwrap();
        claim.mark_place(&theirs, &place).unwrap();
        let refused = claim.mark_place(&mine, &place).unwrap_err().to_string();
        assert!(refused.contains("taken by another restore"), "{refused}");
        assert_eq!(read(&place.join(IN_PROGRESS)).unwrap(), Some(theirs));
        put(&place.join(IN_PROGRESS), b"{\"what");
        claim.mark_place(&mine, &place).unwrap();
        assert_eq!(read(&place.join(IN_PROGRESS)).unwrap(), Some(mine));
    }

    #[test]
    fn one_process_fills_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let claim = Claim::take(dir.path()).unwrap();
        assert!(is_held(dir.path()));
        let second = Claim::take(dir.path()).unwrap_err().to_string();
        assert!(second.contains("by another process right now"), "{second}");
        claim.release(&Ctx::fixed(Timestamp::UNIX_EPOCH, 1)).unwrap();
        assert!(!is_held(dir.path()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        Claim::take(dir.path()).unwrap().withdraw();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
