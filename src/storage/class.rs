//! Storage classes: what they are called, how long an object stays at least, how long a thaw takes.
//!
//! The names are S3's; what is said of them is what AWS says (user guide of Amazon S3, "Understanding and
//! managing Amazon S3 storage classes" and "Understanding archive retrieval options"). Other makers use the
//! names too, with times and prices of their own.

use std::fmt;
use std::time::Duration;

use crate::base::Timestamp;

/// Where a service keeps an object: what it costs to store, to read, and whether it can be read at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StorageClass {
    /// `STANDARD`.
    #[default]
    Standard,
    /// `STANDARD_IA`: infrequent access.
    StandardIa,
    /// `ONEZONE_IA`: the same in one zone.
    OnezoneIa,
    /// `INTELLIGENT_TIERING`: the service moves objects by how they are read.
    IntelligentTiering,
    /// `GLACIER_IR`: instant retrieval.
    GlacierIr,
    /// `GLACIER`: flexible retrieval, thawed before it is read.
    Glacier,
    /// `DEEP_ARCHIVE`, thawed before it is read.
    DeepArchive,
    /// One that this list does not have; taken for one that is read at once.
    Other(String),
}

impl StorageClass {
    /// The class of this name.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        match name {
            "STANDARD" => Self::Standard,
            "STANDARD_IA" => Self::StandardIa,
            "ONEZONE_IA" => Self::OnezoneIa,
            "INTELLIGENT_TIERING" => Self::IntelligentTiering,
            "GLACIER_IR" => Self::GlacierIr,
            "GLACIER" => Self::Glacier,
            "DEEP_ARCHIVE" => Self::DeepArchive,
            other => Self::Other(other.to_owned()),
        }
    }

    /// As S3 spells it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Standard => "STANDARD",
            Self::StandardIa => "STANDARD_IA",
            Self::OnezoneIa => "ONEZONE_IA",
            Self::IntelligentTiering => "INTELLIGENT_TIERING",
            Self::GlacierIr => "GLACIER_IR",
            Self::Glacier => "GLACIER",
            Self::DeepArchive => "DEEP_ARCHIVE",
            Self::Other(name) => name,
        }
    }

    /// Whether an object of this class must be thawed before it can be read or copied.
    #[must_use]
    pub fn needs_thaw(&self) -> bool {
        matches!(self, Self::Glacier | Self::DeepArchive)
    }

    /// How cold it is: of two classes the greater is the cheaper to store and the dearer to read, in the order in which
    /// a lifecycle rule may move objects. Nothing of one that is not known.
    #[must_use]
    pub fn coldness(&self) -> Option<u8> {
        match self {
            Self::Standard => Some(0),
            Self::StandardIa => Some(1),
            Self::IntelligentTiering => Some(2),
            Self::OnezoneIa => Some(3),
            Self::GlacierIr => Some(4),
            Self::Glacier => Some(5),
            Self::DeepArchive => Some(6),
            Self::Other(_) => None,
        }
    }

    /// How many days of storage an object of this class is charged for at least, also when it is removed or moved
    /// before.
    #[must_use]
    pub fn minimum_days(&self) -> u16 {
        match self {
            Self::StandardIa | Self::OnezoneIa => 30,
            Self::GlacierIr | Self::Glacier => 90,
            Self::DeepArchive => 180,
            Self::Standard | Self::IntelligentTiering | Self::Other(_) => 0,
        }
    }

    /// How long a thaw of this speed takes; nothing where there is none of this speed, or nothing to thaw.
    #[must_use]
    pub fn thaw_time(&self, speed: ThawSpeed) -> Option<ThawTime> {
        let found = THAW_TIMES.iter().find(|(class, of, _)| class == self && *of == speed);
        found.map(|(.., time)| *time)
    }
}

impl fmt::Display for StorageClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for StorageClass {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// How long a thaw takes as a rule. Nobody promises it; large requests of many objects take longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThawTime {
    /// It is rarely there sooner.
    pub least: Duration,
    /// It is there by then.
    pub most: Duration,
}

const fn minutes(least: u64, most: u64) -> ThawTime {
    ThawTime { least: Duration::from_mins(least), most: Duration::from_mins(most) }
}

const fn hours(least: u64, most: u64) -> ThawTime {
    minutes(least * 60, most * 60)
}

/// AWS, "Understanding archive retrieval options", 2026. Of `DEEP_ARCHIVE` only an upper bound is told, and
/// it knows no expedited thaw.
const THAW_TIMES: &[(StorageClass, ThawSpeed, ThawTime)] = &[
    (StorageClass::Glacier, ThawSpeed::Expedited, minutes(1, 5)),
    (StorageClass::Glacier, ThawSpeed::Standard, hours(3, 5)),
    (StorageClass::Glacier, ThawSpeed::Bulk, hours(5, 12)),
    (StorageClass::DeepArchive, ThawSpeed::Standard, hours(12, 12)),
    (StorageClass::DeepArchive, ThawSpeed::Bulk, hours(48, 48)),
];

/// How fast an object is to be thawed; what that costs and takes, the class says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ThawSpeed {
    /// Hours to days, the cheapest.
    Bulk,
    /// Hours.
    Standard,
    /// Minutes, where there is capacity.
    Expedited,
}

impl ThawSpeed {
    /// All, the fastest first.
    pub const ALL: [Self; 3] = [Self::Expedited, Self::Standard, Self::Bulk];
}

impl fmt::Display for ThawSpeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bulk => "bulk",
            Self::Standard => "standard",
            Self::Expedited => "expedited",
        })
    }
}

/// A thaw that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thaw {
    /// How many days the thawed copy stays, at least 1.
    pub days: u16,
    /// How fast.
    pub speed: ThawSpeed,
}

/// Whether an object can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// At once.
    Online,
    /// Not before it is thawed.
    Cold,
    /// It is being thawed.
    Thawing,
    /// A thawed copy can be read until then.
    ThawedUntil(Option<Timestamp>),
}

impl Availability {
    /// Whether a read at that moment succeeds.
    #[must_use]
    pub fn is_readable(&self, at: Timestamp) -> bool {
        match self {
            Self::Online => true,
            Self::Cold | Self::Thawing => false,
            Self::ThawedUntil(until) => until.is_none_or(|until| until > at),
        }
    }
}

/// The storage class of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectClass {
    /// Which.
    pub class: StorageClass,
    /// Whether it can be read.
    pub availability: Availability,
}

impl ObjectClass {
    /// That of every object in a store without classes.
    pub const ONLINE: Self =
        Self { class: StorageClass::Standard, availability: Availability::Online };
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 8] = [
        "STANDARD",
        "STANDARD_IA",
        "ONEZONE_IA",
        "INTELLIGENT_TIERING",
        "GLACIER_IR",
        "GLACIER",
        "DEEP_ARCHIVE",
        "SNOW",
    ];

    #[test]
    fn names_are_read_and_written_alike() {
        for name in NAMES {
            assert_eq!(StorageClass::parse(name).to_string(), name);
        }
        assert_eq!(StorageClass::parse("SNOW"), StorageClass::Other("SNOW".to_owned()));
        assert_eq!(StorageClass::parse("glacier").minimum_days(), 0, "another name");
    }

    #[test]
    fn what_needs_a_thaw_has_times_for_it_and_nothing_else_has() {
        let speeds = [ThawSpeed::Expedited, ThawSpeed::Standard, ThawSpeed::Bulk];
        for class in NAMES.map(StorageClass::parse) {
            let times: Vec<_> = speeds.iter().filter_map(|speed| class.thaw_time(*speed)).collect();
            assert_eq!(!times.is_empty(), class.needs_thaw(), "{class}");
            assert!(times.iter().all(|time| time.least <= time.most), "{class}");
            assert!(times.is_sorted_by_key(|time| time.most), "{class}: the cheaper, the longer");
        }
        assert_eq!(StorageClass::DeepArchive.thaw_time(ThawSpeed::Expedited), None);
        let days: Vec<_> =
            NAMES.iter().map(|name| StorageClass::parse(name).minimum_days()).collect();
        assert_eq!(days, [0, 30, 30, 0, 90, 90, 180, 0]);
    }

    #[test]
    fn what_needs_a_thaw_is_colder_than_all_else() {
        let classes = NAMES.map(StorageClass::parse);
        let known = |needs_thaw: bool| {
            let classes = classes.iter().filter(move |class| class.needs_thaw() == needs_thaw);
            classes.filter_map(StorageClass::coldness).collect::<Vec<_>>()
        };
        assert_eq!((known(false).len(), known(true)), (5, vec![5, 6]));
        assert!(known(false).iter().all(|coldness| *coldness < 5));
        assert_eq!(StorageClass::Other("SNOW".to_owned()).coldness(), None);
    }

    #[test]
    fn a_thawed_copy_can_be_read_until_it_ends() {
        let at = |seconds| Timestamp::from_timestamp(seconds, 0).unwrap();
        let thawed = Availability::ThawedUntil(Some(at(10)));
        assert!(thawed.is_readable(at(9)) && !thawed.is_readable(at(10)));
        assert!(Availability::ThawedUntil(None).is_readable(at(10)));
        assert!(
            !Availability::Thawing.is_readable(at(0)) && !Availability::Cold.is_readable(at(0))
        );
    }
}
