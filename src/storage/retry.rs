//! When a store that talks to a network tries again: one policy, pure.
//!
//! Delays grow exponentially and are drawn at random below their bound, so that many clients that were
//! refused at once do not come back at once. What may be tried again at all, the store says.

use std::time::Duration;

/// How often and how long an operation is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The bound of the first delay; each later one is twice as high.
    pub delay_first: Duration,
    /// No bound is higher.
    pub delay_max: Duration,
    /// No attempt begins later than this after the first one, or after the last one that got further.
    pub deadline: Duration,
    /// As long as no answer ever came: a wrong address should not cost all of `deadline`.
    pub first_contact: Duration,
    /// No operation is tried more often, however short its attempts are.
    pub attempts_max: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            delay_first: Duration::from_millis(100),
            delay_max: Duration::from_secs(10),
            deadline: Duration::from_mins(2),
            first_contact: Duration::from_secs(20),
            attempts_max: 50,
        }
    }
}

impl RetryPolicy {
    /// How long to wait before the next attempt, after `attempts` of them took `elapsed` in all; nothing
    /// when the operation is to be given up. `draw` is a random number.
    #[must_use]
    pub fn delay(
        &self,
        attempts: u32,
        elapsed: Duration,
        has_answered: bool,
        draw: u32,
    ) -> Option<Duration> {
        // One attempt may take longer than a first contact: one peer of many that hangs is no proof.
        let is_first = !has_answered && attempts >= 2;
        let deadline = if is_first { self.deadline.min(self.first_contact) } else { self.deadline };
        if attempts >= self.attempts_max {
            return None;
        }
        let doublings = attempts.saturating_sub(1).min(20);
        let bound = self.delay_first.saturating_mul(1 << doublings).min(self.delay_max);
        // Never nothing: half of the bound, and up to half more.
        let share = f64::from(draw) / f64::from(u32::MAX);
        let delay = bound.mul_f64(0.5 + share / 2.0);
        (elapsed + delay <= deadline).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_grow_up_to_a_bound_and_are_drawn_below_it() {
        let policy = RetryPolicy::default();
        let bounds = |attempts| {
            let drawn = |draw| policy.delay(attempts, Duration::ZERO, true, draw).unwrap();
            (drawn(0).as_millis(), drawn(u32::MAX).as_millis())
        };
        assert_eq!(bounds(1), (50, 100));
        assert_eq!(bounds(2), (100, 200));
        assert_eq!(bounds(5), (800, 1600));
        assert_eq!(bounds(9), (5000, 10_000));
        assert_eq!(bounds(49), (5000, 10_000));
    }

    #[test]
    fn an_operation_is_given_up_by_time_and_by_count() {
        let policy = RetryPolicy::default();
        assert!(policy.delay(3, 119 * SECOND, true, 0).is_some());
        assert_eq!(policy.delay(3, 120 * SECOND, true, 0), None);
        assert_eq!(policy.delay(50, SECOND, true, 0), None);
        assert!(policy.delay(3, 10 * SECOND, false, 0).is_some());
        assert_eq!(policy.delay(3, 20 * SECOND, false, 0), None, "nobody ever answered");
        assert!(policy.delay(1, 30 * SECOND, false, 0).is_some(), "the first attempt hung");
    }

    #[test]
    fn nobody_waits_for_less_than_the_policy_allows() {
        let hasty = RetryPolicy { deadline: Duration::ZERO, ..RetryPolicy::default() };
        assert_eq!(hasty.delay(1, Duration::ZERO, true, 0), None);
    }
}
