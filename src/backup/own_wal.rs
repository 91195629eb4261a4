//! The WAL that a backup needs: waited for in the repository, and proven to be this server's own.

use std::time::Duration;

use super::error::{Error, Result};
use super::execute::Taking;
use crate::base::{Event, Stage, Timestamp, ahead};
use crate::pg::{History, Lsn, SegmentSize, TimelineId, needed_segments};
use crate::pgconn::{Session, StoppedBackup};
use crate::repo::{Kind, WalFacts};

impl Taking<'_> {
    /// Every segment from start to stop, in the repository, within the deadline; and it is this
    /// server's own WAL that is there, not another history's under the same names.
    pub(super) fn wait_for_wal(&self, stopped: &StoppedBackup) -> Result<(String, String)> {
        let event = Event::Begin { stage: Stage::WaitForWal, bytes_total: 0, files_total: 0 };
        self.ctx.observer.event(event);
        let begun = self.ctx.clock.monotonic();
        let mut found: Option<(String, String)> = None;
        // Of a long backup nearly all came long ago: they are asked for side by side, in order.
        let segments = self.segments(stopped, begun)?.into_iter();
        for (candidates, asked) in ahead(segments, |candidates| self.ask(candidates)) {
            self.ctx.cancel.check()?;
            let (name, facts) = match asked? {
                Some(found) => found,
                None => self.wait_for_segment(&candidates, begun)?,
            };
            self.check_own(&name, &facts, stopped)?;
            found = Some(match found {
                None => (name.clone(), name),
                Some((first, _)) => (first, name),
            });
        }
        self.ctx.observer.event(Event::End { stage: Stage::WaitForWal });
        found.ok_or_else(|| Error::Refused {
            what: "the backup's stop lies before its start".into(),
        })
    }

    /// The first of these that is in the repository, with its facts.
    fn ask(&self, candidates: &[String]) -> Result<Option<(String, WalFacts)>> {
        for name in candidates {
            let key = self.place.wal(name).expect("a segment's name is 24 digits");
            match self.repository.wal_facts(Kind::Wal, &key) {
                Ok(facts) => return Ok(Some((name.clone(), facts))),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn wait_for_segment(
        &self,
        candidates: &[String],
        begun: Duration,
    ) -> Result<(String, WalFacts)> {
        let mut told = false;
        loop {
            self.ctx.cancel.check()?;
            if let Some(found) = self.ask(candidates)? {
                return Ok(found);
            }
            let segment = candidates.first().cloned().unwrap_or_default();
            let waited = self.ctx.clock.monotonic().saturating_sub(begun);
            if waited > Duration::from_secs(10) && !told {
                self.ctx.note(format!("waiting for {segment} in the repository"));
                told = true;
            }
            self.wait_for_archiver(&segment, begun)?;
        }
    }

    /// After a disk was rolled back the repository holds these names from the lost future: replaying
    /// that WAL over these files would ruin them.
    fn check_own(&self, name: &str, facts: &WalFacts, stopped: &StoppedBackup) -> Result<()> {
        let refused = |why: &str| Err(Error::Refused { what: format!("{name} {why}") });
        if facts.system != self.place.system() {
            return refused("in the repository belongs to another system");
        }
        let end = facts.address.map_or(u64::MAX, |begin| begin.0.saturating_add(facts.size));
        let needed = end.min(stopped.stop_lsn);
        let short = facts.found.as_ref().is_some_and(|found| {
            found.ending == "partial" && found.end.is_some_and(|end| end.0 < needed)
        });
        if short {
            return refused("in the repository ends before the backup's stop");
        }
        let path = self.options.data_directory.join("pg_wal").join(name);
        let local = match std::fs::read(&path) {
            Ok(local) => local,
            // Archived and recycled: the server had an answer for it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::file("read", &path)(error)),
        };
        if self.repository.content_digest(&local) == facts.digest
            || self.agrees_until(name, &local, needed, stopped)?
        {
            return Ok(());
        }
        refused(
            "in the repository has other content than the server's own: history has forked under \
             one name, and a new epoch with a new full backup is the way out",
        )
    }

    /// Whether a standby's own file, which it may still be receiving, and the repository's are the
    /// same up to a position. A primary has completed its files when the backup has stopped.
    fn agrees_until(
        &self,
        name: &str,
        local: &[u8],
        until: u64,
        stopped: &StoppedBackup,
    ) -> Result<bool> {
        if !stopped.in_recovery {
            return Ok(false);
        }
        let key = self.place.wal(name).expect("a segment's name is 24 digits");
        let (facts, stored) = self.repository.get_wal(Kind::Wal, &key)?;
        let begin = facts.address.map_or(0, |begin| begin.0);
        let length = usize::try_from(until.saturating_sub(begin)).unwrap_or(usize::MAX);
        Ok(local.get(..length).is_some_and(|local| stored.get(..length) == Some(local)))
    }

    /// The names of the segments from start to stop.
    fn segments(&self, stopped: &StoppedBackup, begun: Duration) -> Result<Vec<Vec<String>>> {
        let refused = |error: crate::pg::Error| Error::Refused { what: error.to_string() };
        let size = SegmentSize::new(self.facts.wal_segment_size.into()).map_err(refused)?;
        let history = self.history(stopped, begun)?;
        needed_segments(&history, Lsn(stopped.start_lsn), Lsn(stopped.stop_lsn), size)
            .map_err(refused)
    }

    /// The history of the stop's timeline. A standby that followed a switch during the backup knows of
    /// it by streaming, perhaps before the new primary has archived the history.
    fn history(&self, stopped: &StoppedBackup, begun: Duration) -> Result<History> {
        let timeline = TimelineId::new(stopped.stop_timeline)
            .ok_or_else(|| Error::Refused { what: "the server gave timeline 0".into() })?;
        if stopped.start_timeline == stopped.stop_timeline {
            return Ok(History::without_ancestors(timeline));
        }
        let key = self.place.history(timeline.get());
        loop {
            self.ctx.cancel.check()?;
            match self.repository.get_wal(Kind::History, &key) {
                Ok((_, content)) => {
                    return History::parse(timeline, &content)
                        .map_err(|error| Error::Refused { what: error.to_string() });
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
            self.wait_for_archiver(&timeline.history_file_name(), begun)?;
        }
    }

    /// Waits a moment for what is missing; an error at the deadline.
    fn wait_for_archiver(&self, missing: &str, begun: Duration) -> Result<()> {
        let waited = self.ctx.clock.monotonic().saturating_sub(begun);
        if waited >= self.options.wal_wait {
            let archiver = self.archiver();
            return Err(Error::WalMissing { segment: missing.into(), waited, archiver });
        }
        self.ctx.clock.sleep(Duration::from_millis(100));
        Ok(())
    }

    /// What the server says about its archiver, for the message when WAL does not come.
    fn archiver(&self) -> String {
        let asked = Session::connect(self.ctx, &self.options.connection)
            .and_then(|session| session.archiver(self.ctx));
        match asked {
            Err(error) => format!("the server could not be asked about its archiver: {error}"),
            Ok(archiver) => {
                let text = |name: Option<String>, time: Option<Timestamp>| match name {
                    None => "none".into(),
                    Some(name) => match time {
                        None => name,
                        Some(time) => format!("{name} at {}", time.format("%Y-%m-%d %H:%M:%SZ")),
                    },
                };
                format!(
                    "the server's archiver: last archived {}; {} attempts failed, the last for {}",
                    text(archiver.last_archived, archiver.last_archived_time),
                    archiver.failed_count,
                    text(archiver.last_failed, archiver.last_failed_time),
                )
            }
        }
    }
}
