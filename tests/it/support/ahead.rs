//! Backups by a clock that is ahead, or behind.
//!
//! A file is left unread only when its last change is at least a minute older than the parent's start. By a clock
//! that is two minutes ahead every change is: so tests see what is left unread, and what would be wrong about it,
//! without waiting. No write may run beside such a backup, for nothing but that minute protects against one.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use pgkeep::backup::{self, Finished, Options};
use pgkeep::base::{Clock, Ctx, Event, Observer, SystemClock, Timestamp};
use pgkeep::repo::BackupType;
use pgkeep::wiring::{self, Access, BackupFlags};

use super::account;
use super::site::Site;

/// How far ahead: every change is older than a minute then.
pub const AHEAD: TimeDelta = TimeDelta::seconds(120);

/// The system's clock, and so much more.
#[derive(Debug)]
pub struct Shifted(SystemClock, TimeDelta);

impl Shifted {
    pub fn by(shift: TimeDelta) -> Arc<Self> {
        Arc::new(Self(SystemClock::new(), shift))
    }
}

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        self.0.now() + self.1
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn sleep(&self, duration: Duration) {
        self.0.sleep(duration);
    }
}

/// Shows warnings with the failure of a test.
#[derive(Debug)]
struct Warnings;

impl Observer for Warnings {
    fn event(&self, event: Event) {
        if let Event::Warning(text) = event {
            eprintln!("warning: {text}");
        }
    }
}

impl Site {
    /// Takes a backup as the command line would, by a clock that is ahead: in this process, so that the tests'
    /// user must be able to read the data directory.
    pub fn backup_ahead(
        &self,
        backup_type: BackupType,
        change: impl FnOnce(&mut Options),
    ) -> backup::Result<Finished> {
        self.backup_shifted(AHEAD, backup_type, change)
    }

    /// The same, by another clock.
    pub fn backup_shifted(
        &self,
        shift: TimeDelta,
        backup_type: BackupType,
        change: impl FnOnce(&mut Options),
    ) -> backup::Result<Finished> {
        let ctx = Ctx { clock: Shifted::by(shift), ..Ctx::system(Arc::new(Warnings)) };
        let resolved = wiring::settings(Some(&self.config.path())).unwrap();
        let resolved = resolved.resolve(None, None).unwrap();
        let settings = resolved.repository().unwrap();
        let flags =
            BackupFlags { backup_type, jobs: None, max_rate: None, skips: true, resumes: true };
        let mut options = wiring::backup_options(&resolved, settings, flags).unwrap();
        change(&mut options);
        let cluster = &resolved.cluster_name;
        let access = Access::ReadWrite;
        let (to, _) = wiring::destination(&ctx, settings, cluster, None, None, access).unwrap();
        let plan = backup::plan(&ctx, &options, &to.repository, &to.place, &to.registration)?;
        let (repository, place) = (&to.repository, &to.place);
        std::thread::scope(|scope| {
            let (ended, folder) = (Flag::default(), self.repo.path());
            let flag = Arc::clone(&ended.0);
            scope.spawn(move || {
                while !flag.load(Ordering::SeqCst) {
                    hand_over(folder);
                    std::thread::sleep(Duration::from_millis(10));
                }
                hand_over(folder);
            });
            backup::execute(&ctx, &plan, &options, repository, place, &to.registration)
        })
    }
}

/// Set when it goes, also by a panic.
#[derive(Default)]
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Gives what root has stored to the server's account, which archives beside. What vanishes meanwhile was
/// temporary.
fn hand_over(folder: &Path) {
    let Some((uid, gid)) = account::unprivileged().ids() else { return };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.uid() != uid {
            lchown(entry.path(), Some(uid), Some(gid)).ok();
        }
        if metadata.is_dir() {
            hand_over(&entry.path());
        }
    }
}
