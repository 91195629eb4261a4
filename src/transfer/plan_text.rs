//! A plan of a copy for people.

use std::fmt;

use super::plan::{BackupCopy, CopyPlan, PlaceCopy};
use crate::base::ByteSize;

/// So many backups are told one by one, of each sort.
const SHOWN: usize = 50;

impl fmt::Display for CopyPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "copy from {} to {}", self.from, self.to)?;
        self.places.iter().try_for_each(|place| write!(f, "\n{place}"))?;
        match self.size() {
            (0, _) => f.write_str("\nnothing is missing there"),
            (objects, bytes) => write!(f, "\nin all about {objects} objects, {}", ByteSize(bytes)),
        }
    }
}

impl fmt::Display for PlaceCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.name)?;
        if !self.is_registered {
            f.write_str("\n  is registered there first")?;
        }
        for backup in self.backups.iter().take(SHOWN) {
            write!(f, "\n  {backup}")?;
        }
        more(f, self.backups.len(), "are copied")?;
        if !self.there.is_empty() {
            write!(f, "\n  {} backups are there", self.there.len())?;
        }
        for left in self.left_out.iter().take(SHOWN) {
            write!(f, "\n  {} is left out: {}", left.id, left.why)?;
        }
        more(f, self.left_out.len(), "are left out")?;
        let (count, bytes) = (self.segments, ByteSize(self.wal_bytes));
        write!(
            f,
            "\n  WAL: {count} segments ({bytes}) are copied, {} are there",
            self.segments_there
        )?;
        if self.segments_left_out > 0 {
            let left = self.segments_left_out;
            write!(
                f,
                ", {left} are left out: expire has given them up there, or its rules do not keep them"
            )?;
        }
        let given_back: u64 = self.given_back.iter().map(crate::pg::Stretch::count).sum();
        if given_back > 0 {
            write!(
                f,
                "\n  {given_back} segments that expire had given up there come back: backups need them"
            )?;
        }
        let beside = [
            (self.histories.len(), "timeline histories"),
            (self.labels.len(), "backup history files"),
            (self.partials.len(), "partial segments"),
            (self.pins.len(), "pins"),
        ];
        for (count, what) in beside.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "\n  {count} {what}")?;
        }
        Ok(())
    }
}

fn more(f: &mut fmt::Formatter<'_>, count: usize, what: &str) -> fmt::Result {
    match count.saturating_sub(SHOWN) {
        0 => Ok(()),
        more => write!(f, "\n  and {more} more {what}"),
    }
}

impl fmt::Display for BackupCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (objects, bytes) = (self.objects, ByteSize(self.bytes));
        write!(f, "{}: {objects} objects, {bytes}", self.id)?;
        if !self.attempts.is_empty() {
            write!(f, ", and packs of {} interrupted backups", self.attempts.len())?;
        }
        if self.is_begun {
            f.write_str("; a copy before has begun it")?;
        }
        Ok(())
    }
}
