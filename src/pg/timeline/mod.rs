//! Timelines and their history files.
//!
//! A timeline's number is decimal in SQL, in history files and in `backup_label`, and eight
//! upper-case hexadecimal digits in file names. Both forms have a function of their own, and there is
//! no `FromStr`: reading one as the other goes unnoticed until timeline 10.

use std::fmt;
use std::num::NonZeroU32;

use super::{Error, Lsn, Result, lsn, read};

/// The number of a timeline (`TimeLineID`), never zero.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline of a new cluster (`BootstrapTimeLineID`).
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// `None` for zero, which is PostgreSQL's "no timeline".
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Reads the decimal form: SQL, history files, `backup_label`, command lines.
    ///
    /// # Errors
    /// When the text is anything but decimal digits of 1 to 4294967295.
    pub fn from_decimal(text: &str) -> Result<Self> {
        read::decimal(text.as_bytes())
            .and_then(Self::new)
            .ok_or_else(|| Error::malformed("a timeline", text.as_bytes()))
    }

    /// Reads the form in file names: eight upper-case hexadecimal digits.
    ///
    /// # Errors
    /// When the text is anything else, or zero.
    pub fn from_hex(text: &str) -> Result<Self> {
        read::hex8(text.as_bytes())
            .and_then(Self::new)
            .ok_or_else(|| Error::malformed("a timeline of a file name", text.as_bytes()))
    }

    /// The form in file names.
    #[must_use]
    pub fn hex(self) -> String {
        format!("{:08X}", self.get())
    }

    /// The name of this timeline's history file (`TLHistoryFileName`).
    #[must_use]
    pub fn history_file_name(self) -> String {
        format!("{:08X}.history", self.get())
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One ancestor of a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// Which timeline.
    pub timeline: TimelineId,
    /// Where the history left it: the first position that is not the ancestor's.
    pub end: Lsn,
    /// What the server wrote about why.
    pub reason: String,
}

/// A timeline with all its ancestors: the content of a `.history` file and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    timeline: TimelineId,
    /// Oldest first; timelines strictly increasing, ends not decreasing.
    ancestors: Vec<Ancestor>,
}

impl History {
    /// A timeline without ancestors: timeline 1, which never has a history file.
    #[must_use]
    pub fn without_ancestors(timeline: TimelineId) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// A timeline with its ancestors, oldest first.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the timelines do not increase up to the tip, an end is 0/0, or an end
    /// lies before the one above it. PostgreSQL checks the first only; the others would make every later
    /// question meaningless.
    pub fn new(timeline: TimelineId, ancestors: Vec<Ancestor>) -> Result<Self> {
        let mut last: Option<&Ancestor> = None;
        for ancestor in &ancestors {
            if let Some(last) = last
                && ancestor.timeline <= last.timeline
            {
                let expected = format!("above {}", last.timeline);
                return Err(Error::corrupt("timeline in a history", expected, ancestor.timeline));
            }
            let earliest = last.map_or(Lsn(1), |last| last.end);
            if ancestor.end < earliest {
                let expected = format!("{earliest} or later");
                return Err(Error::corrupt("switch point in a history", expected, ancestor.end));
            }
            last = Some(ancestor);
        }
        match last {
            Some(last) if last.timeline >= timeline => {
                let expected = format!("below {timeline}");
                Err(Error::corrupt("timeline in a history", expected, last.timeline))
            }
            _ => Ok(Self { timeline, ancestors }),
        }
    }

    /// Reads the content of `timeline`'s history file
    /// (`src/backend/access/transam/timeline.c`, `readTimeLineHistory`): blank lines and lines that
    /// begin with `#` are skipped, the rest of a line after the switch point is the reason.
    ///
    /// A recovery along timeline 2 may end before timeline 2 begins: the server then writes timeline 2
    /// with an end before that of timeline 1. Nothing after the earlier one is part of the history, so
    /// it is the end of both.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the line, or as [`History::new`].
    pub fn parse(timeline: TimelineId, content: &[u8]) -> Result<Self> {
        let mut ancestors = read::lines(content)
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
            .map(|line| {
                ancestor(line).ok_or_else(|| Error::malformed("a line of a history file", line))
            })
            .collect::<Result<Vec<Ancestor>>>()?;
        let mut earliest = Lsn(u64::MAX);
        for ancestor in ancestors.iter_mut().rev() {
            earliest = earliest.min(ancestor.end);
            ancestor.end = earliest;
        }
        Self::new(timeline, ancestors)
    }

    /// The file's content as a server would write it, without the blank lines between entries.
    #[must_use]
    pub fn render(&self) -> String {
        self.ancestors
            .iter()
            .map(|ancestor| {
                let reason = ancestor.reason.replace(['\n', '\r'], " ");
                format!("{}\t{}\t{}\n", ancestor.timeline, ancestor.end, reason)
            })
            .collect()
    }

    /// The timeline at the tip.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first.
    #[must_use]
    pub fn ancestors(&self) -> &[Ancestor] {
        &self.ancestors
    }

    /// Whether `timeline` is a true ancestor of the tip.
    #[must_use]
    pub fn is_ancestor(&self, timeline: TimelineId) -> bool {
        self.ancestors.iter().any(|ancestor| ancestor.timeline == timeline)
    }

    /// Whether `timeline` is the tip or an ancestor (`tliInHistory`).
    #[must_use]
    pub fn includes(&self, timeline: TimelineId) -> bool {
        self.timeline == timeline || self.is_ancestor(timeline)
    }

    /// Where this history left `timeline` (`tliSwitchPoint`): `None` for the tip, which it has not
    /// left, and for timelines that are not part of it.
    #[must_use]
    pub fn switch_point(&self, timeline: TimelineId) -> Option<Lsn> {
        self.ancestors
            .iter()
            .find(|ancestor| ancestor.timeline == timeline)
            .map(|ancestor| ancestor.end)
    }

    /// Where `timeline`'s part of this history begins: 0/0 for the oldest, `None` for a timeline that
    /// is not part of it.
    #[must_use]
    pub fn begin(&self, timeline: TimelineId) -> Option<Lsn> {
        let mut begin = Lsn::INVALID;
        for ancestor in &self.ancestors {
            if ancestor.timeline == timeline {
                return Some(begin);
            }
            begin = ancestor.end;
        }
        (self.timeline == timeline).then_some(begin)
    }

    /// The timeline that wrote the byte at `lsn` (`tliOfPointInHistory`).
    #[must_use]
    pub fn timeline_of(&self, lsn: Lsn) -> TimelineId {
        self.ancestors
            .iter()
            .find(|ancestor| lsn < ancestor.end)
            .map_or(self.timeline, |ancestor| ancestor.timeline)
    }

    /// Whether the byte at `lsn` of `timeline` is part of this history.
    #[must_use]
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.timeline_of(lsn) == timeline
    }

    /// Where this history and another part: the first position that is not in both.
    #[must_use]
    pub fn parts_from(&self, other: &Self) -> Lsn {
        let mut shared = Lsn::INVALID;
        for (here, there) in self.parts().zip(other.parts()) {
            if here.0 != there.0 {
                break;
            }
            shared = here.1.min(there.1);
            if here.1 != there.1 {
                break;
            }
        }
        shared
    }

    /// Every timeline with its end; the tip has none.
    fn parts(&self) -> impl Iterator<Item = (TimelineId, Lsn)> {
        let ancestors = self.ancestors.iter().map(|ancestor| (ancestor.timeline, ancestor.end));
        ancestors.chain([(self.timeline, Lsn(u64::MAX))])
    }

    /// Whether everything on `timeline` up to, but not including, `end` is part of this history:
    /// what a backup that ended at `end` needs to be usable on it.
    #[must_use]
    pub fn contains_until(&self, timeline: TimelineId, end: Lsn) -> bool {
        let begun = self.begin(timeline).is_some_and(|begin| begin <= end);
        begun && self.switch_point(timeline).is_none_or(|switch| end <= switch)
    }
}

fn ancestor(line: &[u8]) -> Option<Ancestor> {
    let (timeline, rest) = word(line)?;
    let (end, reason) = word(rest)?;
    Some(Ancestor {
        timeline: TimelineId::new(read::decimal(timeline)?)?,
        end: lsn::parse(end)?,
        reason: String::from_utf8_lossy(reason).into_owned(),
    })
}

/// The first word and, without the blanks between, the rest.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end)?;
    (!word.is_empty()).then_some((word, rest.trim_ascii_start()))
}

#[cfg(test)]
mod tests;
