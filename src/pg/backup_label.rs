//! `backup_label`, which tells a restored server where to begin, and the backup history file that the
//! source archives when a backup ends.
//!
//! Written by `src/backend/access/transam/xlogbackup.c`, `build_backup_content` (14: `xlog.c`), read by
//! `xlogrecovery.c`, `read_backup_label`. Lines that are not known are passed over, as the server does:
//! a label with a line break in it makes some. A known line that comes twice is refused.
//!
//! A backup keeps the bytes that the server returned and restores those. Rendering is for tests and
//! for labels that pgkeep makes itself.

use std::collections::HashMap;
use std::fmt;

use super::{Error, Lsn, Result, SegmentName, TimelineId, lsn, read};

/// How a backup was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `streamed`: every backup that works on standbys and can run beside others.
    Streamed,
    /// `pg_start_backup`: an exclusive backup, up to 14.
    Exclusive,
}

/// What kind of server a backup was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A server in production.
    Primary,
    /// A server in recovery.
    Standby,
}

/// The content of `backup_label`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where replay must begin.
    pub start: Lsn,
    /// The segment with that position.
    pub start_segment: SegmentName,
    /// The record of the checkpoint that began the backup.
    pub checkpoint: Lsn,
    /// How the backup was begun.
    pub method: Method,
    /// What it was taken from.
    pub origin: Origin,
    /// When, in the server's `log_timezone`, as it wrote it: zone names are not unique.
    pub start_time: String,
    /// What the caller named the backup.
    pub label: String,
    /// The timeline at the start.
    pub timeline: TimelineId,
    /// Since 17: the backup that this one is incremental to. Such a directory must not be started
    /// before `pg_combinebackup` has seen it.
    pub incremental_from: Option<(Lsn, TimelineId)>,
}

/// The content of a backup history file (`<segment>.<offset>.backup`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHistory {
    /// What `backup_label` says.
    pub label: BackupLabel,
    /// Where replay must have come before the cluster is consistent.
    pub stop: Lsn,
    /// The segment that the server named for it; on a boundary that is the one after the last needed.
    pub stop_segment: SegmentName,
    /// When the backup ended, as [`BackupLabel::start_time`].
    pub stop_time: String,
    /// The timeline at the end.
    pub stop_timeline: TimelineId,
}

impl BackupLabel {
    /// Reads a label.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the line, or [`Error::Corrupt`] when a line is missing, comes twice,
    /// or the timeline is not that of the start segment (which the server refuses too).
    pub fn parse(content: &[u8]) -> Result<Self> {
        Self::from_fields(&Fields::collect(content)?)
    }

    fn from_fields(fields: &Fields<'_>) -> Result<Self> {
        let (start, start_segment) = fields.location("START WAL LOCATION")?;
        let timeline = fields.timeline("START TIMELINE")?;
        if start_segment.timeline() != timeline {
            let expected = start_segment.timeline();
            return Err(Error::corrupt("timeline of a backup label", expected, timeline));
        }
        Ok(Self {
            start,
            start_segment,
            checkpoint: fields.lsn("CHECKPOINT LOCATION")?,
            method: fields.choice(
                "BACKUP METHOD",
                [("streamed", Method::Streamed), ("pg_start_backup", Method::Exclusive)],
            )?,
            origin: fields.choice(
                "BACKUP FROM",
                [("primary", Origin::Primary), ("standby", Origin::Standby)],
            )?,
            start_time: fields.text("START TIME")?,
            label: fields.text("LABEL")?,
            timeline,
            incremental_from: fields.incremental_from()?,
        })
    }
}

impl BackupHistory {
    /// Reads a backup history file.
    ///
    /// # Errors
    /// As [`BackupLabel::parse`].
    pub fn parse(content: &[u8]) -> Result<Self> {
        let fields = Fields::collect(content)?;
        let (stop, stop_segment) = fields.location("STOP WAL LOCATION")?;
        Ok(Self {
            label: BackupLabel::from_fields(&fields)?,
            stop,
            stop_segment,
            stop_time: fields.text("STOP TIME")?,
            stop_timeline: fields.timeline("STOP TIMELINE")?,
        })
    }
}

/// The file's content. A line break in the label becomes a blank.
impl fmt::Display for BackupLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, None)
    }
}

/// The file's content.
impl fmt::Display for BackupHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.label.write(f, Some(self))
    }
}

impl BackupLabel {
    fn write(&self, f: &mut fmt::Formatter<'_>, end: Option<&BackupHistory>) -> fmt::Result {
        let method = match self.method {
            Method::Streamed => "streamed",
            Method::Exclusive => "pg_start_backup",
        };
        let origin = match self.origin {
            Origin::Primary => "primary",
            Origin::Standby => "standby",
        };
        writeln!(f, "START WAL LOCATION: {} (file {})", self.start, self.start_segment)?;
        if let Some(end) = end {
            writeln!(f, "STOP WAL LOCATION: {} (file {})", end.stop, end.stop_segment)?;
        }
        writeln!(f, "CHECKPOINT LOCATION: {}", self.checkpoint)?;
        writeln!(f, "BACKUP METHOD: {method}\nBACKUP FROM: {origin}")?;
        writeln!(f, "START TIME: {}", self.start_time)?;
        writeln!(f, "LABEL: {}", self.label.replace(['\n', '\r'], " "))?;
        writeln!(f, "START TIMELINE: {}", self.timeline)?;
        if let Some(end) = end {
            writeln!(f, "STOP TIME: {}\nSTOP TIMELINE: {}", end.stop_time, end.stop_timeline)?;
        }
        if let Some((lsn, timeline)) = self.incremental_from {
            writeln!(f, "INCREMENTAL FROM LSN: {lsn}\nINCREMENTAL FROM TLI: {timeline}")?;
        }
        Ok(())
    }
}

const KNOWN: [&str; 13] = [
    "START WAL LOCATION",
    "STOP WAL LOCATION",
    "CHECKPOINT LOCATION",
    "BACKUP METHOD",
    "BACKUP FROM",
    "START TIME",
    "LABEL",
    "START TIMELINE",
    "STOP TIME",
    "STOP TIMELINE",
    "INCREMENTAL FROM LSN",
    "INCREMENTAL FROM TLI",
    "MAJOR VERSION",
];

/// The known lines by what is before their colon.
struct Fields<'a>(HashMap<&'static str, &'a [u8]>);

impl<'a> Fields<'a> {
    fn collect(content: &'a [u8]) -> Result<Self> {
        let mut fields = HashMap::new();
        for line in read::lines(content) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let known = KNOWN.iter().find_map(|name| {
                let value = line.strip_prefix(name.as_bytes())?.strip_prefix(b": ")?;
                Some((*name, value))
            });
            if let Some((name, value)) = known
                && fields.insert(name, value).is_some()
            {
                return Err(Error::corrupt(name, "one such line in a backup label", "two"));
            }
        }
        Ok(Self(fields))
    }

    fn get(&self, name: &'static str) -> Result<&'a [u8]> {
        let missing = || Error::corrupt(name, "a line in the backup label", "missing");
        self.0.get(name).copied().ok_or_else(missing)
    }

    fn text(&self, name: &'static str) -> Result<String> {
        Ok(String::from_utf8_lossy(self.get(name)?).into_owned())
    }

    fn lsn(&self, name: &'static str) -> Result<Lsn> {
        let value = self.get(name)?;
        lsn::parse(value).ok_or_else(|| Error::malformed("an LSN of a backup label", value))
    }

    fn timeline(&self, name: &'static str) -> Result<TimelineId> {
        let value = self.get(name)?;
        read::decimal(value)
            .and_then(TimelineId::new)
            .ok_or_else(|| Error::malformed("a timeline of a backup label", value))
    }

    /// `16/B374D848 (file 0000000100000016000000B3)`
    fn location(&self, name: &'static str) -> Result<(Lsn, SegmentName)> {
        let value = self.get(name)?;
        let wrong = || Error::malformed("a WAL location of a backup label", value);
        let end = value.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let (lsn, file) = value.split_at_checked(end).ok_or_else(wrong)?;
        let file = file.strip_prefix(b" (file ").and_then(|file| file.strip_suffix(b")"));
        let segment = SegmentName::parse(file.ok_or_else(wrong)?)?;
        Ok((lsn::parse(lsn).ok_or_else(wrong)?, segment))
    }

    fn choice<T: Copy>(&self, name: &'static str, choices: [(&str, T); 2]) -> Result<T> {
        let value = self.get(name)?;
        let chosen = choices.iter().find(|(text, _)| text.as_bytes() == value);
        let wrong = || Error::malformed("a known method or origin of a backup", value);
        chosen.map(|(_, choice)| *choice).ok_or_else(wrong)
    }

    fn incremental_from(&self) -> Result<Option<(Lsn, TimelineId)>> {
        let names = ["INCREMENTAL FROM LSN", "INCREMENTAL FROM TLI"];
        if !names.iter().any(|name| self.0.contains_key(name)) {
            return Ok(None);
        }
        let [lsn, timeline] = names;
        Ok(Some((self.lsn(lsn)?, self.timeline(timeline)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{MajorVersion, fixture};
    use proptest::prelude::*;

    const HISTORY: &str = "000000010000000000000002.00000028.backup";

    #[test]
    fn labels_of_real_servers() {
        for major in MajorVersion::ALL {
            let content = fixture::bytes(major, "backup_label");
            let label = BackupLabel::parse(&content).unwrap();
            assert_eq!(label.start, Lsn(0x200_0028), "{major}");
            assert_eq!(label.start_segment.to_string(), "000000010000000000000002");
            assert!(label.checkpoint > label.start);
            assert_eq!((label.method, label.origin), (Method::Streamed, Origin::Primary));
            assert_eq!(label.label, "pgkeep sample");
            assert!(label.start_time.ends_with(" UTC"));
            assert_eq!((label.timeline, label.incremental_from), (TimelineId::FIRST, None));
            assert_eq!(label.to_string().as_bytes(), content, "{major}");

            let content = fixture::bytes(major, HISTORY);
            let history = BackupHistory::parse(&content).unwrap();
            assert_eq!(history.label, label, "{major}");
            assert!(history.stop > label.checkpoint);
            assert_eq!(
                (history.stop_segment, history.stop_timeline),
                (label.start_segment, label.timeline)
            );
            assert_eq!(history.to_string().as_bytes(), content, "{major}");
            assert!(BackupHistory::parse(label.to_string().as_bytes()).is_err());
        }
    }

    #[test]
    fn incremental_labels_and_line_breaks() {
        let good = String::from_utf8(fixture::bytes(MajorVersion::V17, "backup_label")).unwrap();
        let content = format!("{good}INCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 1\n");
        let label = BackupLabel::parse(content.as_bytes()).unwrap();
        assert_eq!(label.incremental_from, Some((Lsn(0x200_0028), TimelineId::FIRST)));
        assert_eq!(label.to_string(), content);
        let broken = good.replace("pgkeep sample", "two\nlines");
        assert_eq!(BackupLabel::parse(broken.as_bytes()).unwrap().label, "two");
    }

    #[test]
    fn what_the_server_refuses() {
        let good = String::from_utf8(fixture::bytes(MajorVersion::V15, "backup_label")).unwrap();
        for (from, to) in [
            ("START TIMELINE: 1", "START TIMELINE: 2"),
            ("START TIMELINE: 1", "START TIMELINE: 0x1"),
            ("0/2000028 (file ", "0/2000028 ("),
            ("streamed", "copied"),
            ("FROM: primary", "FROM: master"),
            ("LABEL: pgkeep sample", "LABEL: x\nLABEL: y"),
            ("CHECKPOINT LOCATION: 0/", "CHECKPOINT LOCATION: "),
            ("START WAL", "START  WAL"),
            ("START TIMELINE: 1\n", "START TIMELINE: 1\nINCREMENTAL FROM LSN: 0/1\n"),
        ] {
            let changed = good.replace(from, to);
            assert_ne!(changed, good, "{from}");
            assert!(BackupLabel::parse(changed.as_bytes()).is_err(), "{to}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(content: Vec<u8>) {
            BackupLabel::parse(&content).ok();
        }

        #[test]
        fn round_trip(start: u64, checkpoint: u64, label in "[ -~]{0,40}", standby: bool) {
            let parsed = BackupLabel {
                start: Lsn(start),
                start_segment: SegmentName::parse(b"00000001000000000000000F").unwrap(),
                checkpoint: Lsn(checkpoint),
                method: Method::Streamed,
                origin: if standby { Origin::Standby } else { Origin::Primary },
                start_time: "2026-11-20 14:00:00 CET".to_owned(),
                label,
                timeline: TimelineId::FIRST,
                incremental_from: None,
            };
            prop_assert_eq!(BackupLabel::parse(parsed.to_string().as_bytes()), Ok(parsed));
        }
    }
}
