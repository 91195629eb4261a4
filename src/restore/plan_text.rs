//! The plan as a person reads it.

use std::fmt;

use super::choose::shown;
use super::lost::Lost;
use super::plan::Plan;
use super::target::Target;
use crate::base::{ByteSize, Timestamp};
use crate::pg::recovery::action as action_text;
use crate::repo::Window;

/// How many windows are shown; JSON has all.
const WINDOWS_SHOWN_MAX: usize = 12;

/// How many holes are shown.
const HOLES_SHOWN_MAX: usize = 12;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Restore of cluster {} to {}", self.cluster, self.target)?;
        let finished = whole_seconds(&self.backup_finished);
        writeln!(f, "  backup        {}, consistent at {finished}", self.backup)?;
        writeln!(f, "  timeline      {}", self.timeline)?;
        writeln!(f, "  recovery      {}", self.recovery_text())?;
        writeln!(f, "  data goes to  {}", self.to.display())?;
        for (oid, old, new) in &self.tablespaces {
            writeln!(f, "  tablespace    {oid}: {old} -> {}", new.display())?;
        }
        for line in self.ground.lines() {
            writeln!(f, "{line}")?;
        }
        for (from, to) in &self.external.files {
            if let Some(to) = to {
                writeln!(f, "  configuration {} -> {}", from.display(), to.display())?;
            }
        }
        self.fmt_size(f)?;
        writeln!(f, "  WAL           {} segments, to {}", self.wal_segments, self.through)?;
        self.fmt_reach(f)?;
        writeln!(f, "  lost          {}", lost_text(self.lost.as_ref()))?;
        self.fmt_programs(f)?;
        let archives = if self.archives { "on" } else { "off: this is a copy" };
        write!(f, "  archiving     {archives}")?;
        if self.standby {
            write!(f, "\n  role          standby")?;
        }
        for command in &self.next {
            write!(f, "\n  then          {command}")?;
        }
        for warning in &self.warnings {
            write!(f, "\n  warning       {warning}")?;
        }
        Ok(())
    }
}

impl Plan {
    /// What the server is told.
    fn recovery_text(&self) -> String {
        let Some(action) = self.at_target() else { return "to the end of the WAL".into() };
        // A restore point and the end of a backup are always included.
        let edge = match (&self.effective, self.inclusive) {
            (Target::Immediate | Target::Name(_), _) => "",
            (_, true) => ", that included",
            (_, false) => ", that excluded",
        };
        format!("to {}{edge}; then {}", self.effective, action_text(action))
    }

    fn fmt_size(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  writes        {} files, {}", self.files, ByteSize(self.bytes))?;
        for space in &self.space {
            let places: Vec<_> =
                space.places.iter().map(|path| path.display().to_string()).collect();
            let wal = match space.wal {
                Some(wal) if wal > 0 => format!(" and {} of WAL", ByteSize(wal)),
                _ => String::new(),
            };
            let freed = match space.freed {
                0 => String::new(),
                freed => format!(", {} more when what goes is gone", ByteSize(freed)),
            };
            writeln!(
                f,
                "  room          {}: needs {}{wal}, {} free{freed}",
                places.join(", "),
                ByteSize(space.data),
                ByteSize(space.free)
            )?;
        }
        if let Some(seconds) = self.seconds {
            writeln!(
                f,
                "  takes         {seconds} s at the rate of a sample, and the replay of WAL"
            )?;
        }
        Ok(())
    }

    fn fmt_reach(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reaches.as_ref().filter(|time| **time >= self.backup_finished) {
            Some(time) => writeln!(f, "  archive has   WAL to {}", shown(*time))?,
            None => writeln!(f, "  archive has   no commit or checkpoint after the backup")?,
        }
        for window in self.windows.iter().take(WINDOWS_SHOWN_MAX) {
            writeln!(f, "  window        {}", window_text(window))?;
        }
        if let Some(more) = self.windows.len().checked_sub(WINDOWS_SHOWN_MAX).filter(|n| *n > 0) {
            writeln!(f, "  window        {more} more")?;
        }
        for hole in self.holes.iter().take(HOLES_SHOWN_MAX) {
            writeln!(f, "  missing       {hole}")?;
        }
        if let Some(more) = self.holes.len().checked_sub(HOLES_SHOWN_MAX).filter(|n| *n > 0) {
            writeln!(f, "  missing       {more} more holes, or even more")?;
        }
        Ok(())
    }

    fn fmt_programs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needed = self.programs.needed;
        write!(f, "  PostgreSQL    {}.{} needed, ", needed / 10_000, needed % 10_000)?;
        match (&self.programs.version, &self.programs.bin_directory) {
            (Some(version), Some(bin)) => writeln!(f, "{version} in {}", bin.display())?,
            (None, Some(bin)) => writeln!(f, "an unknown version in {}", bin.display())?,
            (_, None) => writeln!(f, "none found")?,
        }
        if !self.programs.preload_libraries.is_empty() {
            let missing = match self.programs.missing_libraries.as_slice() {
                [] if self.programs.bin_directory.is_some() => "all here".to_owned(),
                [] => "not looked for".to_owned(),
                missing => format!("missing here: {}", missing.join(", ")),
            };
            let libraries = self.programs.preload_libraries.join(", ");
            writeln!(f, "  libraries     {libraries} ({missing})")?;
        }
        Ok(())
    }
}

fn window_text(window: &Window) -> String {
    let (timeline, backup, from) = (window.timeline, &window.backup, shown(window.from));
    if window.only_end {
        return format!("timeline {timeline}: the end of backup {backup}, {from}, and no moment");
    }
    format!("timeline {timeline}: {from} to {}, from backup {backup}", shown(window.to))
}

pub(super) fn lost_text(lost: Option<&Lost>) -> String {
    let Some(lost) = lost else { return "nothing that is in the archive".into() };
    let commits = match lost.commits_at_most {
        None => format!("at least {}", counted(lost.commits_at_least)),
        Some(most) if most == lost.commits_at_least => counted(most),
        Some(most) => format!("{} to {}", lost.commits_at_least, counted(most)),
    };
    let seconds = lost.seconds.map_or(String::new(), |seconds| format!(", {seconds} s"));
    format!("{commits}{seconds} (to {})", whole_seconds(&lost.until))
}

fn counted(commits: u64) -> String {
    if commits == 1 { "1 commit".into() } else { format!("{commits} commits") }
}

pub(super) fn whole_seconds(time: &Timestamp) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_never_called_nothing() {
        let lost = |at_least, at_most, seconds| Lost {
            from: None,
            until: "2026-11-20T03:15:00.5Z".parse().unwrap(),
            commits_at_least: at_least,
            commits_at_most: at_most,
            seconds,
        };
        for (lost, expected) in [
            (None, "nothing that is in the archive"),
            (Some(lost(3, Some(3), Some(7))), "3 commits, 7 s (to 2026-11-20 03:15:00 UTC)"),
            (Some(lost(0, Some(1), None)), "0 to 1 commit (to 2026-11-20 03:15:00 UTC)"),
            (Some(lost(1, None, None)), "at least 1 commit (to 2026-11-20 03:15:00 UTC)"),
        ] {
            assert_eq!(lost_text(lost.as_ref()), expected);
        }
    }
}
