//! WAL segments: their sizes, numbers and file names.
//!
//! A name alone does not say where a segment lies: that takes the cluster's segment size, which can
//! be any power of two from 1 MiB to 1 GiB and can be changed by `pg_resetwal`. Names are read
//! strictly: what PostgreSQL would not hand to `archive_command` is an error.

use std::fmt;

use super::{Error, Lsn, Result, TimelineId, read};

/// The size of a cluster's WAL segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// What `initdb` chooses.
    pub const DEFAULT: Self = Self(16 << 20);

    /// # Errors
    /// When `bytes` is not a power of two from 1 MiB to 1 GiB
    /// (`src/include/access/xlog_internal.h`, `IsValidWalSegSize`).
    pub fn new(bytes: u64) -> Result<Self> {
        u32::try_from(bytes)
            .ok()
            .filter(|bytes| bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(bytes))
            .map(Self)
            .ok_or_else(|| {
                let expected = "a power of two from 1 MiB to 1 GiB";
                Error::corrupt("WAL segment size", expected, bytes)
            })
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// How many segments share the middle eight digits of a name (`XLogSegmentsPerXLogId`).
    #[must_use]
    pub const fn per_log_id(self) -> u32 {
        // At least 4, at most 4096.
        1 << (32 - self.0.trailing_zeros())
    }
}

/// A segment's number: its place in the WAL in units of the segment size (`XLogSegNo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNo(pub u64);

impl SegmentNo {
    /// The segment that holds the byte at `lsn` (`XLByteToSeg`).
    #[must_use]
    pub fn of(lsn: Lsn, size: SegmentSize) -> Self {
        Self(lsn.0 / u64::from(size.0))
    }

    /// The last segment that WAL up to, but not including, `end` needs (`XLByteToPrevSeg`): on a
    /// boundary the segment before. The servers' own `pg_walfile_name` differs by major there.
    /// `None` for 0/0, before which there is nothing.
    #[must_use]
    pub fn of_end(end: Lsn, size: SegmentSize) -> Option<Self> {
        Some(Self::of(end.checked_sub(1)?, size))
    }

    /// The segment's first position; `None` beyond the end of the numbering.
    #[must_use]
    pub fn begin(self, size: SegmentSize) -> Option<Lsn> {
        self.0.checked_mul(u64::from(size.0)).map(Lsn)
    }

    /// The first position after the segment; `None` beyond the end of the numbering.
    #[must_use]
    pub fn end(self, size: SegmentSize) -> Option<Lsn> {
        self.next()?.begin(size)
    }

    /// The segment after this one.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }

    /// The segment before this one.
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
}

impl fmt::Display for SegmentNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far into its segment a position lies (`XLogSegmentOffset`).
#[must_use]
pub fn offset(lsn: Lsn, size: SegmentSize) -> u32 {
    let low = u32::try_from(lsn.0 & 0xFFFF_FFFF).expect("32 bits are left");
    low & (size.0 - 1)
}

/// A segment's file name of 24 digits, as it is written: not yet a place in the WAL.
///
/// Ordered as the names are: by timeline first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    timeline: TimelineId,
    log: u32,
    segment: u32,
}

impl SegmentName {
    /// The name of segment `number` on `timeline` (`XLogFileName`).
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the number lies beyond the end of the numbering.
    pub fn new(timeline: TimelineId, number: SegmentNo, size: SegmentSize) -> Result<Self> {
        let per_log_id = u64::from(size.per_log_id());
        let log = u32::try_from(number.0 / per_log_id)
            .map_err(|_| Error::corrupt("WAL segment number", "a position below 2^64", number))?;
        let segment = u32::try_from(number.0 % per_log_id).expect("at most 4095");
        Ok(Self { timeline, log, segment })
    }

    /// Reads a name (`IsXLogFileName`).
    ///
    /// # Errors
    /// When it is not 24 upper-case hexadecimal digits, the timeline is zero, or the last part is
    /// impossible for every segment size.
    pub fn parse(name: &[u8]) -> Result<Self> {
        Self::read(name).ok_or_else(|| Error::malformed("the name of a WAL segment", name))
    }

    fn read(name: &[u8]) -> Option<Self> {
        let (timeline, rest) = name.split_at_checked(8)?;
        let (log, segment) = rest.split_at_checked(8)?;
        let smallest = SegmentSize(1 << 20);
        Some(Self {
            timeline: TimelineId::new(read::hex8(timeline)?)?,
            log: read::hex8(log)?,
            segment: read::hex8(segment).filter(|part| *part < smallest.per_log_id())?,
        })
    }

    /// The timeline that the name carries.
    #[must_use]
    pub fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// The middle eight digits.
    #[must_use]
    pub fn log(self) -> u32 {
        self.log
    }

    /// The segment's number (`XLogFromFileName`).
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the last eight digits are too large for `size`: the name is of a
    /// cluster with smaller segments.
    pub fn number(self, size: SegmentSize) -> Result<SegmentNo> {
        let per_log_id = size.per_log_id();
        if self.segment >= per_log_id {
            let expected = format!("a last part below {per_log_id:08X}");
            return Err(Error::corrupt("WAL segment name", expected, self));
        }
        let before = u64::from(self.log) * u64::from(per_log_id);
        Ok(SegmentNo(before + u64::from(self.segment)))
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timeline = self.timeline.get();
        write!(f, "{timeline:08X}{:08X}{:08X}", self.log, self.segment)
    }
}

/// A file that `archive_command` or `restore_command` can be called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFileName {
    /// A whole segment.
    Segment(SegmentName),
    /// The last segment of a timeline that was left, `<segment>.partial` (`IsPartialXLogFileName`).
    Partial(SegmentName),
    /// A timeline's history, `<timeline>.history` (`IsTLHistoryFileName`).
    History(TimelineId),
    /// What a base backup leaves behind, `<segment>.<offset>.backup` (`IsBackupHistoryFileName`).
    BackupHistory {
        /// The segment in which the backup started.
        segment: SegmentName,
        /// The start's offset in that segment.
        offset: u32,
    },
}

impl WalFileName {
    /// Reads a name without a directory.
    ///
    /// # Errors
    /// [`Error::Malformed`] for every other name, temporary ones and `RECOVERYXLOG` among them.
    pub fn parse(name: &[u8]) -> Result<Self> {
        Self::read(name).ok_or_else(|| Error::malformed("the name of a WAL file", name))
    }

    fn read(name: &[u8]) -> Option<Self> {
        if let Some(timeline) = name.strip_suffix(b".history") {
            return TimelineId::new(read::hex8(timeline)?).map(Self::History);
        }
        let (segment, suffix) = name.split_at_checked(24)?;
        let segment = SegmentName::read(segment)?;
        match suffix {
            b"" => Some(Self::Segment(segment)),
            b".partial" => Some(Self::Partial(segment)),
            _ => Some(Self::BackupHistory {
                segment,
                offset: read::hex8(suffix.strip_prefix(b".")?.strip_suffix(b".backup")?)?,
            }),
        }
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => segment.fmt(f),
            Self::Partial(segment) => write!(f, "{segment}.partial"),
            Self::History(timeline) => f.write_str(&timeline.history_file_name()),
            Self::BackupHistory { segment, offset } => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

#[cfg(test)]
mod tests;
