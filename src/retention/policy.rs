//! What is to be kept: the rules of one repository.

use std::fmt;
use std::time::Duration;

use chrono_tz::Tz;

/// The rules. Each only adds to what is kept, so a larger number never removes more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Of how many days the newest good full stays: of the latest that have one.
    pub daily: u32,
    /// Of how many ISO weeks.
    pub weekly: u32,
    /// Of how many months.
    pub monthly: u32,
    /// Of how many years.
    pub yearly: u32,
    /// How many of the newest backups of any type stay.
    pub last: u32,
    /// How many of the newest good fulls stay; one stays at least.
    pub min_full: u32,
    /// How far back every moment stays restorable.
    pub window: Duration,
    /// In which zone days, weeks, months and years begin.
    pub zone: Tz,
}

/// The rules as one line, by which a change is noticed.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { daily, weekly, monthly, yearly, last, min_full, window, zone } = self;
        write!(f, "daily {daily}, weekly {weekly}, monthly {monthly}, yearly {yearly}, ")?;
        write!(f, "last {last}, min_full {min_full}, window {} s, ", window.as_secs())?;
        write!(f, "timezone {zone}")
    }
}
