//! Which chains are to lie where: the rules of one repository.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::storage::StorageClass;

/// The rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TierPolicy {
    /// How long after the completion of its last member a chain moves.
    pub after: Duration,
    /// Where to.
    pub class: StorageClass,
    /// Where to, where the full is kept for a month.
    pub monthly: Option<StorageClass>,
    /// Where to, where it is kept for a year; as for a month without.
    pub yearly: Option<StorageClass>,
    /// Who moves them.
    pub way: Way,
}

/// How packs come to their class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By copies within the store.
    #[default]
    Copy,
    /// They get a tag, and rules of the bucket move them some time.
    Tag,
}

/// The tag by which rules of the bucket move packs; its value is the class.
pub const CLASS_TAG: &str = "pgkeep-class";

/// For how long retention keeps a chain's full, as far as its class depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeptAs {
    /// Neither for a month nor for a year.
    Plain,
    /// As that of a month.
    Monthly,
    /// As that of a year.
    Yearly,
}

impl TierPolicy {
    /// The class for a chain.
    #[must_use]
    pub fn class_for(&self, kept_as: KeptAs) -> &StorageClass {
        let monthly = self.monthly.as_ref().unwrap_or(&self.class);
        match kept_as {
            KeptAs::Plain => &self.class,
            KeptAs::Monthly => monthly,
            KeptAs::Yearly => self.yearly.as_ref().unwrap_or(monthly),
        }
    }
}

/// The rules as one line.
impl fmt::Display for TierPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} to {}", days_text(self.after), self.class)?;
        if let Some(class) = &self.monthly {
            write!(f, ", monthly {class}")?;
        }
        if let Some(class) = &self.yearly {
            write!(f, ", yearly {class}")?;
        }
        match self.way {
            Way::Copy => Ok(()),
            Way::Tag => f.write_str(", by tag"),
        }
    }
}

fn days_text(time: Duration) -> String {
    const DAY: u64 = 86_400;
    match time.as_secs() {
        seconds if seconds % DAY == 0 => format!("{} d", seconds / DAY),
        seconds => format!("{seconds} s"),
    }
}
