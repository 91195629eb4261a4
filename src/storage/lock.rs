//! Locks: until when nobody removes an object (S3's Object Lock, retention of object versions).

use std::time::Duration;

use crate::base::Timestamp;

/// How an object is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Who has a special right may remove it all the same.
    Governance,
    /// Nobody may, until it ends.
    Compliance,
}

/// What is locked when it is put, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct LockRule {
    /// How.
    pub mode: LockMode,
    /// For how long what is not an exception.
    pub duration: Duration,
    /// For how long an object of this name, where others are locked for that `duration`; zero is not at all. What a
    /// name means, the owner of the store knows.
    pub of_name: fn(&str, Duration) -> Duration,
}

impl LockRule {
    /// Everything for the same time.
    #[must_use]
    pub fn new(mode: LockMode, duration: Duration) -> Self {
        Self { mode, duration, of_name: |_, duration| duration }
    }

    /// Until when an object of this name is locked that is put `at` that moment.
    #[must_use]
    pub fn until(&self, name: &str, at: Timestamp) -> Option<Timestamp> {
        let duration = (self.of_name)(name, self.duration);
        if duration.is_zero() {
            return None;
        }
        // Longer than there are dates: as long as can be said.
        let until =
            chrono::TimeDelta::from_std(duration).ok().and_then(|by| at.checked_add_signed(by));
        Some(until.unwrap_or(Timestamp::MAX_UTC))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_for_how_long() {
        let day = Duration::from_hours(24);
        let rule = LockRule {
            of_name: |name, duration| match name.split_once('/') {
                Some(("lease", _)) => Duration::ZERO,
                Some(("claim", _)) => duration / 2,
                _ => duration,
            },
            ..LockRule::new(LockMode::Governance, 2 * day)
        };
        let after = |name: &str| {
            rule.until(name, Timestamp::UNIX_EPOCH).map(|until| until.timestamp() / 86_400)
        };
        assert_eq!([after("data/1"), after("claim/1"), after("lease/1")], [Some(2), Some(1), None]);
        let for_ever = LockRule::new(LockMode::Compliance, Duration::MAX);
        assert_eq!(for_ever.until("a", Timestamp::UNIX_EPOCH), Some(Timestamp::MAX_UTC));
    }
}
