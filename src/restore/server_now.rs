//! What the cluster's own server proves about the last moments: an idle cluster writes no WAL that
//! would say "nothing happened until now".

use std::path::PathBuf;

use crate::base::Timestamp;
use crate::pg::wal::{Expected, Reader, SegmentHeader, Xact};
use crate::pg::{Lsn, Run, SegmentName, SegmentNo, SegmentSize, TimelineId, segment};

/// Headers of the first page of a segment, and of the others (`SizeOfXLogLongPHD`,
/// `SizeOfXLogShortPHD`): a position at which a page's first record will begin lies behind them.
const LONG_HEADER: u64 = 40;
const SHORT_HEADER: u64 = 24;

/// What the cluster's server said just before the plan, in this order: its clock, how many
/// transactions were running, how far its WAL was inserted.
///
/// A transaction takes the time of its commit before it writes the record. One that was running may
/// therefore still write a commit that is older than the clock; one that began later cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerNow {
    /// Its system identifier.
    pub system: u64,
    /// Whether it is a standby, or recovers.
    pub in_recovery: bool,
    /// The timeline that it writes.
    pub timeline: Option<u32>,
    /// Its clock.
    pub clock: Timestamp,
    /// How many transactions with a number were running after that.
    pub running: u64,
    /// The end of its WAL after that.
    pub insert: Lsn,
    /// Its `pg_wal`, where that is on this host.
    pub wal_directory: Option<PathBuf>,
}

impl ServerNow {
    /// Whether everything up to `time` is archived: the clock, or why not.
    pub(super) fn proves(
        &self,
        system: u64,
        timeline: TimelineId,
        time: Timestamp,
        is_archived: impl FnOnce(Lsn) -> bool,
    ) -> Result<Timestamp, String> {
        if self.system != system {
            return Err("the server that answers belongs to another cluster".into());
        }
        if self.in_recovery || self.timeline != Some(timeline.get()) {
            return Err(format!("the server that answers does not write timeline {timeline}"));
        }
        if time > self.clock {
            return Err("the server's clock is not there yet".into());
        }
        if self.running > 0 {
            return Err(format!(
                "{} transactions are running on the server, which may just be committing",
                self.running
            ));
        }
        if !is_archived(self.insert) {
            return Err(format!(
                "the server has written WAL up to {}, and not all of it is archived",
                self.insert
            ));
        }
        Ok(self.clock)
    }
}

impl ServerNow {
    /// Whether nothing ended in the WAL from `begin`, a segment's first position, to the insert
    /// position, by the server's own file of that segment. An idle server writes a record about
    /// running transactions, or a checkpoint, into a fresh segment, and does not archive that.
    pub(super) fn is_quiet_from(
        &self,
        begin: Lsn,
        timeline: TimelineId,
        size: SegmentSize,
        wal_block_size: u32,
    ) -> bool {
        let number = SegmentNo::of(begin, size);
        let is_one_segment = number.begin(size) == Some(begin)
            && SegmentNo::of_end(self.insert, size) == Some(number);
        let Some(folder) = self.wal_directory.as_ref().filter(|_| is_one_segment) else {
            return false;
        };
        let Ok(name) = SegmentName::new(timeline, number, size) else { return false };
        let Ok(content) = std::fs::read(folder.join(name.to_string())) else { return false };
        let expected = Expected {
            system_id: Some(self.system),
            address: begin.0,
            segment_bytes: size.bytes(),
            timeline: timeline.get(),
            ancestors: &[],
            accept_unknown_magic: false,
        };
        let Ok(header) = SegmentHeader::parse(&content) else { return false };
        if header.check(&expected, content.len() as u64).is_err() {
            return false;
        }
        let Ok(mut reader) = Reader::new(content.as_slice(), &header, timeline.get()) else {
            return false;
        };
        let format = reader.format();
        while let Some(record) = reader.read_next() {
            if record.lsn >= self.insert.0 {
                return true;
            }
            if !matches!(Xact::parse(&record, format), Ok(None)) {
                return false;
            }
        }
        without_header(self.insert, size, wal_block_size) <= Lsn(reader.position())
    }
}

/// Whether a run holds all WAL up to a position. `end` is where its valid records end: behind that, a
/// whole segment holds nothing (it was left by a switch), and one that stops early is not known.
pub(super) fn archived_up_to(
    run: &Run,
    end: Lsn,
    position: Lsn,
    size: SegmentSize,
    wal_block_size: u32,
) -> bool {
    let position = without_header(position, size, wal_block_size);
    let is_cut = end < run.end;
    position <= end || (!is_cut && position <= run.end)
}

/// A position at which the first record of a page will begin, as the page's own.
fn without_header(position: Lsn, size: SegmentSize, wal_block_size: u32) -> Lsn {
    let into_segment = u64::from(segment::offset(position, size));
    let into_page = position.0.checked_rem(wal_block_size.into()).unwrap_or_default();
    // The first record of a page will begin behind its header; before it, there is nothing.
    let nothing_before = match (into_segment, into_page) {
        (LONG_HEADER, _) => LONG_HEADER,
        (_, SHORT_HEADER) => SHORT_HEADER,
        _ => 0,
    };
    Lsn(position.0.saturating_sub(nothing_before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{ArchivedWal, History};

    fn run() -> (Run, SegmentSize) {
        let size = SegmentSize::DEFAULT;
        let names = ["000000010000000000000003", "000000010000000000000004"];
        let wal = ArchivedWal::survey(names, [], size);
        (wal.run(&History::without_ancestors(TimelineId::FIRST), Lsn(0x3000028)), size)
    }

    #[test]
    fn a_fresh_segment_s_header_is_no_wal_that_is_missing() {
        let (run, size) = run();
        assert_eq!(run.end, Lsn(0x5000000));
        for (position, expected) in [
            (0x4FFFFFF, true),
            (0x5000000, true),
            (0x5000028, true),
            (0x5000018, true),
            (0x5000030, false),
            (0x5002018, false),
        ] {
            let is_there = archived_up_to(&run, run.end, Lsn(position), size, 8192);
            assert_eq!(is_there, expected, "{position:X}");
        }
        let cut = Lsn(0x4002000);
        for (position, expected) in
            [(0x4002000, true), (0x4002018, true), (0x4002020, false), (0x5000000, false)]
        {
            assert_eq!(archived_up_to(&run, cut, Lsn(position), size, 8192), expected);
        }
    }

    #[test]
    fn only_the_cluster_s_own_idle_primary_proves_anything() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = ServerNow {
            system: 7,
            in_recovery: false,
            timeline: Some(1),
            clock: time("2026-11-20T03:00:00Z"),
            running: 0,
            insert: Lsn(1),
            wal_directory: None,
        };
        let proves = |now: &ServerNow, at: &str, archived: bool| {
            now.proves(7, TimelineId::FIRST, time(at), |_| archived)
        };
        let before = "2026-11-20T02:59:59Z";
        assert_eq!(proves(&now, before, true), Ok(now.clock));
        assert_eq!(proves(&now, "2026-11-20T03:00:00Z", true), Ok(now.clock));
        assert!(proves(&now, "2026-11-20T03:00:01Z", true).is_err(), "in its future");
        assert!(proves(&now, before, false).unwrap_err().contains("not all of it is archived"));
        for wrong in [
            ServerNow { system: 8, ..now.clone() },
            ServerNow { in_recovery: true, ..now.clone() },
            ServerNow { timeline: Some(2), ..now.clone() },
            ServerNow { timeline: None, ..now.clone() },
            ServerNow { running: 1, ..now.clone() },
        ] {
            assert!(proves(&wrong, before, true).is_err(), "{wrong:?}");
        }
    }
}
