//! PostgreSQL's own `backup_manifest`, for a restored directory that `pg_verifybackup` can check.
//!
//! Version 1 up to 16, version 2 with the system identifier since 17, byte for byte as
//! `src/backend/backup/backup_manifest.c` (14: `src/backend/replication/`) writes them, with CRC32C for
//! the files and SHA-256 for the manifest itself. Rows go straight into the caller's buffer: nothing is
//! kept but the running digest, so the number of files does not matter.
//!
//! This is not pgkeep's own manifest; it is made anew by every restore.

use sha2::{Digest as _, Sha256};

use crate::base::{Timestamp, hex};

use super::{History, Lsn, MajorVersion, TimelineId};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'a> {
    /// Relative to the data directory; through the link for files of tablespaces.
    pub path: &'a [u8],
    /// Its size in bytes.
    pub size: u64,
    /// When it was modified; whole seconds count.
    pub modified: Timestamp,
    /// Checksum of its content.
    pub crc32c: u32,
}

/// WAL that a restore must replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// On this timeline,
    pub timeline: TimelineId,
    /// from here
    pub start: Lsn,
    /// up to here.
    pub end: Lsn,
}

/// The ranges of a backup that began on one timeline and ended on the same or a descendant, newest
/// first, as the server lists them (`AddWALInfoToBackupManifest`); `None` where the history does not
/// lead from one to the other. The history may go on after the backup's end.
#[must_use]
pub fn wal_ranges(
    history: &History,
    (start_timeline, start): (TimelineId, Lsn),
    (stop_timeline, stop): (TimelineId, Lsn),
) -> Option<Vec<WalRange>> {
    let ancestors = history.ancestors().iter().map(|ancestor| ancestor.timeline);
    let mut timelines: Vec<TimelineId> = ancestors.chain([history.timeline()]).collect();
    timelines.reverse();
    let (mut ranges, mut end) = (Vec::new(), stop);
    for timeline in timelines.into_iter().skip_while(|timeline| *timeline != stop_timeline) {
        if timeline == start_timeline {
            ranges.push(WalRange { timeline, start, end });
            return (start <= end).then_some(ranges);
        }
        let begin = history.begin(timeline)?;
        ranges.push(WalRange { timeline, start: begin, end });
        end = begin;
    }
    None
}

/// A manifest that is being written.
///
/// The output of [`ManifestWriter::begin`], of each [`ManifestWriter::row`] and of
/// [`ManifestWriter::finish`], one after the other, is the file.
#[derive(Debug)]
pub struct ManifestWriter {
    digest: Sha256,
    has_rows: bool,
}

impl ManifestWriter {
    /// Appends the head to `out` (`InitializeBackupManifest`).
    #[must_use]
    pub fn begin(major: MajorVersion, system_identifier: u64, out: &mut Vec<u8>) -> Self {
        let mut writer = Self { digest: Sha256::new(), has_rows: false };
        let head = if major >= MajorVersion::V17 {
            format!("2,\n\"System-Identifier\": {system_identifier}")
        } else {
            "1".to_owned()
        };
        let head = format!("{{ \"PostgreSQL-Backup-Manifest-Version\": {head},\n\"Files\": [");
        writer.append(&head, out);
        writer
    }

    /// Appends a file to `out` (`AddFileToBackupManifest`).
    pub fn row(&mut self, row: &Row<'_>, out: &mut Vec<u8>) {
        let separator = if self.has_rows { ",\n" } else { "\n" };
        self.has_rows = true;
        let text = format!(
            "{separator}{{ {}, \"Size\": {}, \"Last-Modified\": \"{}\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{}\" }}",
            path(row.path),
            row.size,
            row.modified.format("%Y-%m-%d %H:%M:%S GMT"),
            // The bytes of the number as the machine holds it (`pg_checksum_final`).
            hex::encode(&row.crc32c.to_le_bytes()),
        );
        self.append(&text, out);
    }

    /// Appends the WAL ranges, newest timeline first, and the manifest's own checksum to `out`
    /// (`AddWALInfoToBackupManifest`, `SendBackupManifest`).
    pub fn finish(mut self, ranges: &[WalRange], out: &mut Vec<u8>) {
        let ranges: Vec<_> = ranges
            .iter()
            .map(|range| {
                format!(
                    "{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}",
                    range.timeline, range.start, range.end
                )
            })
            .collect();
        let ranges = ranges.join(",\n");
        self.append(&format!("\n],\n\"WAL-Ranges\": [\n{ranges}\n],\n"), out);
        let digest = hex::encode(&self.digest.finalize());
        out.extend_from_slice(format!("\"Manifest-Checksum\": \"{digest}\"}}\n").as_bytes());
    }

    fn append(&mut self, text: &str, out: &mut Vec<u8>) {
        self.digest.update(text.as_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

/// A path as JSON: text when it is UTF-8, otherwise the hexadecimal form of its bytes.
fn path(path: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(path) else {
        return format!("\"Encoded-Path\": \"{}\"", hex::encode(path));
    };
    // `escape_json` (`src/backend/utils/adt/json.c`).
    let mut quoted = String::with_capacity(text.len() + 12);
    quoted.push_str("\"Path\": \"");
    for character in text.chars() {
        match character {
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            control if control < ' ' => quoted.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::timeline::Ancestor;

    fn manifest(major: MajorVersion) -> String {
        let mut out = Vec::new();
        let mut writer = ManifestWriter::begin(major, 7_710_253_172_731_801_100, &mut out);
        let modified = Timestamp::from_timestamp(1_795_183_200, 999_999_999).unwrap();
        for (path, content) in [
            (&b"PG_VERSION"[..], &b"15\n"[..]),
            (b"base/odd \"na\\me\"\n\x01", b""),
            ("gr\u{fc}n".as_bytes(), b"123456789"),
            (b"not utf-8 \xff", b"x"),
        ] {
            let crc32c = crc32c::crc32c(content);
            let size = u64::try_from(content.len()).unwrap();
            writer.row(&Row { path, size, modified, crc32c }, &mut out);
        }
        let timeline = |number| TimelineId::new(number).unwrap();
        let ranges = [
            WalRange { timeline: timeline(12), start: Lsn(0x300_00A0), end: Lsn(0x1_0300_0100) },
            WalRange { timeline: timeline(1), start: Lsn(0x200_0028), end: Lsn(0x300_00A0) },
        ];
        writer.finish(&ranges, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The bytes were compared with manifests of servers of all five majors, rendered again from
    /// their rows, and version 1 was given to `pg_verifybackup`.
    #[test]
    fn golden_of_both_versions() {
        let row = |path: &str, size: u64, checksum: &str| {
            format!(
                "{{ {path}, \"Size\": {size}, \"Last-Modified\": \"2026-11-20 14:00:00 GMT\", \
                 \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{checksum}\" }}"
            )
        };
        let rows = [
            row(r#""Path": "PG_VERSION""#, 3, "8a744722"),
            row(r#""Path": "base/odd \"na\\me\"\n\u0001""#, 0, "00000000"),
            row(r#""Path": "grün""#, 9, "839206e3"),
            row(r#""Encoded-Path": "6e6f74207574662d3820ff""#, 1, "935f3ca9"),
        ]
        .join(",\n");
        let body = format!(
            "\"Files\": [\n{rows}\n],\n\"WAL-Ranges\": [\n\
             {{ \"Timeline\": 12, \"Start-LSN\": \"0/30000A0\", \"End-LSN\": \"1/3000100\" }},\n\
             {{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/30000A0\" }}\n],\n"
        );
        let v1 = "45d49a5fd6a2ff359809d1af5240d0793722c533ed7775619e4593e9e0a2a773";
        let expected = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n{body}\"Manifest-Checksum\": \"{v1}\"}}\n"
        );
        assert_eq!(manifest(MajorVersion::V16), expected);
        let v2 = "1ea7fb9b5e2978a2caedc6ba81833749add64bf9486c5d8386ae44c393422e6f";
        let expected = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\
             \"System-Identifier\": 7710253172731801100,\n{body}\"Manifest-Checksum\": \"{v2}\"}}\n"
        );
        assert_eq!(manifest(MajorVersion::V17), expected);
    }

    #[test]
    fn ranges_follow_the_timelines_of_the_backup() {
        let timeline = |number| TimelineId::new(number).unwrap();
        let left =
            |number, end| Ancestor { timeline: timeline(number), end, reason: String::new() };
        let ancestors = vec![
            left(1, Lsn(0x100)),
            left(2, Lsn(0x300)),
            left(4, Lsn(0x500)),
            left(6, Lsn(0x900)),
        ];
        let history = History::new(timeline(7), ancestors).unwrap();
        let ranges = |from: (u32, u64), to: (u32, u64)| {
            let at = |(number, lsn)| (timeline(number), Lsn(lsn));
            let ranges = wal_ranges(&history, at(from), at(to))?;
            let plain = |range: &WalRange| (range.timeline.get(), range.start.0, range.end.0);
            Some(ranges.iter().map(plain).collect::<Vec<_>>())
        };
        assert_eq!(ranges((4, 0x380), (4, 0x400)), Some(vec![(4, 0x380, 0x400)]));
        assert_eq!(
            ranges((2, 0x180), (6, 0x600)),
            Some(vec![(6, 0x500, 0x600), (4, 0x300, 0x500), (2, 0x180, 0x300)])
        );
        assert_eq!(
            ranges((6, 0x600), (7, 0x950)),
            Some(vec![(7, 0x900, 0x950), (6, 0x600, 0x900)])
        );
        // Not of this history, or backwards.
        assert_eq!(ranges((3, 0x180), (6, 0x600)), None);
        assert_eq!(ranges((2, 0x180), (5, 0x600)), None);
        assert_eq!(ranges((6, 0x600), (2, 0x280)), None);
        assert_eq!(ranges((2, 0x350), (6, 0x600)), None);
    }

    #[test]
    fn a_manifest_without_files() {
        let mut out = Vec::new();
        ManifestWriter::begin(MajorVersion::V15, 1, &mut out).finish(&[], &mut out);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["Files"], serde_json::json!([]));
    }
}
