//! When something is to run: cron text, and the next moment after another. Pure.
//!
//! The times of a schedule are those of a wall clock in a zone. One that is there twice, where the clock is put back, is
//! meant once: the first time. One that is skipped comes at the moment at which the clock was put forward. All that the
//! clock has passed over while nobody looked comes once.

use std::fmt;
use std::str::FromStr as _;

use chrono::offset::LocalResult;
use chrono::{NaiveDateTime, TimeDelta, TimeZone as _, Timelike as _};
use chrono_tz::Tz;

use crate::base::Timestamp;

/// The fields in their order; a year may follow.
const FIELDS: [&str; 7] = ["second", "minute", "hour", "day", "month", "weekday", "year"];

/// No clock is put forward by more (a day was left out where the date line was moved).
const FORWARD_MAX_MINUTES: i64 = 25 * 60;

/// A clock that was put back by less does not bring what has run once more.
const BACK_MAX: TimeDelta = TimeDelta::hours(1);

/// When something is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(cron::Schedule);

impl Schedule {
    /// Reads six fields, or seven: second, minute, hour, day, month, weekday, year. Where both day and weekday are given, both
    /// must be right.
    ///
    /// # Errors
    /// Says what is wrong, and how to write it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "{text:?} is not a schedule: {why}; write six fields, second minute hour day month weekday, \
                 such as \"0 0 2 * * *\" for every day at two"
            )
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        if !matches!(fields.len(), 6 | 7) {
            return Err(wrong(&format!("it has {} fields", fields.len())));
        }
        for (at, (field, name)) in fields.iter().zip(FIELDS).enumerate() {
            // Sunday is 0 in a crontab, and 1 elsewhere.
            if name == "weekday" && field.chars().any(|c| c.is_ascii_digit()) {
                return Err(wrong(&format!(
                    "days of the week have names, such as MON-FRI, not {field:?}"
                )));
            }
            let alone: Vec<&str> =
                (0..7).map(|each| if each == at { *field } else { "*" }).collect();
            if cron::Schedule::from_str(&alone.join(" ")).is_err() {
                return Err(wrong(&format!("its {name} is {field:?}")));
            }
        }
        let schedule =
            cron::Schedule::from_str(&fields.join(" ")).map_err(|_| wrong("it cannot be read"))?;
        if schedule.after(&Timestamp::UNIX_EPOCH).next().is_none() {
            return Err(wrong("there is no such day"));
        }
        Ok(Self(schedule))
    }

    /// The next moment behind `after`; nothing where none comes any more.
    #[must_use]
    pub fn next_after(&self, after: Timestamp, zone: Tz) -> Option<Timestamp> {
        // Searched as if the wall clock were never put: what it shows is looked for in the zone afterwards. Moments that
        // are shown later never come earlier, and what is shown at `after` came then, or before it.
        let shown = after.with_timezone(&zone).naive_local().and_utc();
        let comes = self.0.after(&shown).filter_map(|shown| comes_at(zone, shown.naive_utc()));
        let mut comes = comes;
        comes.find(|moment| *moment > after)
    }

    /// When a job runs next, that ran last for the moment `last`.
    #[must_use]
    pub fn next_run(&self, now: Timestamp, last: Option<Timestamp>, zone: Tz) -> Option<Timestamp> {
        // A clock that was put back by more was wrong before, perhaps by years.
        let last = last.filter(|last| *last - now <= BACK_MAX);
        self.next_after(last.map_or(now, |last| last.max(now)), zone)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.source())
    }
}

/// The first moment at which the wall clock shows a time, or has passed it.
fn comes_at(zone: Tz, shown: NaiveDateTime) -> Option<Timestamp> {
    let find = |shown: &NaiveDateTime| match zone.from_local_datetime(shown) {
        LocalResult::Single(moment) | LocalResult::Ambiguous(moment, _) => Some(moment.to_utc()),
        LocalResult::None => None,
    };
    find(&shown).or_else(|| {
        // Clocks are put forward to a whole minute.
        let minute = shown.with_second(0)?.with_nanosecond(0)?;
        let later = (1..=FORWARD_MAX_MINUTES).map(|by| minute + TimeDelta::minutes(by));
        later.into_iter().find_map(|shown| find(&shown))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The moments that follow, until there are as many.
    #[track_caller]
    fn check(schedule: &str, zone: Tz, from: &str, expected: &[&str]) {
        let schedule = Schedule::parse(schedule).unwrap();
        let mut after = at(from);
        for moment in expected {
            let next = schedule.next_after(after, zone).unwrap();
            assert_eq!(next, at(moment), "{schedule} after {after}");
            after = next;
        }
    }

    const BERLIN: Tz = Tz::Europe__Berlin;

    #[test]
    fn a_day_has_one_run_in_its_zone() {
        let days = ["2026-11-30T02:30:00Z", "2026-12-01T02:30:00Z", "2026-12-02T02:30:00Z"];
        check("0 30 3 * * *", BERLIN, "2026-11-29T12:00:00Z", &days);
        check("0 30 3 * * *", BERLIN, "2026-11-30T02:29:59.999Z", &days);
        check("0 30 3 * * *", BERLIN, "2026-11-30T02:30:00Z", &days[1..]);
        check("0 30 3 * * *", Tz::UTC, "2026-11-30T03:30:00.5Z", &["2026-12-01T03:30:00Z"]);
    }

    /// On 2026-03-29 no clock in Berlin shows 02:00 to 03:00.
    #[test]
    fn a_time_that_is_skipped_comes_once_when_the_clock_is_put_forward() {
        let days = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
        check("0 30 2 * * *", BERLIN, "2026-03-28T00:00:00Z", &days);
        // Six times are skipped, and 03:00 is there.
        let shown = ["2026-03-29T00:50:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:10:00Z"];
        check("0 */10 * * * *", BERLIN, "2026-03-29T00:40:00Z", &shown);
        check(
            "0 15,45 2 29 3 *",
            BERLIN,
            "2026-01-01T00:00:00Z",
            &["2026-03-29T01:00:00Z", "2027-03-29T00:15:00Z"],
        );
        // Half an hour, and a whole day.
        check(
            "0 15 2 * * *",
            Tz::Australia__Lord_Howe,
            "2026-10-03T00:00:00Z",
            &["2026-10-03T15:30:00Z"],
        );
        check(
            "0 0 12 30 12 *",
            Tz::Pacific__Apia,
            "2011-12-01T00:00:00Z",
            &["2011-12-30T10:00:00Z"],
        );
    }

    /// On 2026-10-25 the clocks in Berlin show 02:00 to 03:00 twice, from 00:00Z and from 01:00Z on.
    #[test]
    fn a_time_that_is_there_twice_comes_once() {
        let days = ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
        check("0 30 2 * * *", BERLIN, "2026-10-24T00:00:00Z", &days);
        check("0 30 2 * * *", BERLIN, "2026-10-25T00:59:59Z", &days[2..]);
        check("0 30 2 * * *", BERLIN, "2026-10-25T01:29:59Z", &days[2..]);
        check("0 0 3 * * *", BERLIN, "2026-10-25T00:30:00Z", &["2026-10-25T02:00:00Z"]);
        check(
            "* * * * * *",
            BERLIN,
            "2026-10-25T00:59:58Z",
            &["2026-10-25T00:59:59Z", "2026-10-25T02:00:00Z"],
        );
    }

    #[test]
    fn leap_days_and_ends_of_months_and_years_are_found() {
        check(
            "0 0 0 29 2 *",
            Tz::UTC,
            "2026-01-01T00:00:00Z",
            &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"],
        );
        check(
            "0 0 0 31 * *",
            Tz::UTC,
            "2026-03-31T00:00:00Z",
            &["2026-05-31T00:00:00Z", "2026-07-31T00:00:00Z"],
        );
        check("59 59 23 31 12 *", BERLIN, "2026-01-01T00:00:00Z", &["2026-12-31T22:59:59Z"]);
        check("0 0 4 * * SUN", Tz::UTC, "2026-11-30T00:00:00Z", &["2026-12-06T04:00:00Z"]);
        check("0 0 4 13 * FRI", Tz::UTC, "2026-11-30T00:00:00Z", &["2027-08-13T04:00:00Z"]);
        let gone = Schedule::parse("0 0 0 1 1 * 2020").unwrap();
        assert_eq!(gone.next_after(at("2026-01-01T00:00:00Z"), Tz::UTC), None);
    }

    #[test]
    fn a_clock_that_jumps_brings_nothing_twice_and_waits_for_no_year() {
        let schedule = Schedule::parse("0 0 3 * * *").unwrap();
        let next = |now: &str, last: Option<&str>| {
            schedule.next_run(at(now), last.map(at), Tz::UTC).unwrap()
        };
        let last = Some("2026-11-30T03:00:00Z");
        // Put back by a minute after the run: not once more.
        assert_eq!(next("2026-11-30T02:59:00Z", last), at("2026-12-01T03:00:00Z"));
        assert_eq!(next("2026-11-30T02:00:00Z", last), at("2026-12-01T03:00:00Z"));
        // It ran by a clock that was years ahead.
        assert_eq!(
            next("2026-11-30T02:59:00Z", Some("2036-01-01T03:00:00Z")),
            at("2026-11-30T03:00:00Z")
        );
        // Put forward by days: what was passed over is not made up one by one.
        assert_eq!(next("2026-12-05T04:00:00Z", last), at("2026-12-06T03:00:00Z"));
        assert_eq!(next("2026-11-30T02:59:00Z", None), at("2026-11-30T03:00:00Z"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for good in
            ["0 0 2 * * *", "0 30 */6 * * MON-FRI", "0 0 4 1,15 * ? 2030", " 0  0 2 * * sun,Wed "]
        {
            assert!(Schedule::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", "it has 0 fields"),
            ("@daily", "it has 1 fields"),
            ("0 2 * * *", "it has 5 fields"),
            ("0 0 2 * * * * *", "it has 8 fields"),
            ("60 0 2 * * *", "its second is \"60\""),
            ("0 */0 2 * * *", "its minute is \"*/0\""),
            ("0 0 24 * * *", "its hour is \"24\""),
            ("0 0 2 0 * *", "its day is \"0\""),
            ("0 0 2 ? MAI *", "its month is \"MAI\""),
            ("0 0 2 * * $", "its weekday is \"$\""),
            ("0 0 2 * * FRI#2", "days of the week have names"),
            ("0 0 2 * * 1", "days of the week have names, such as MON-FRI, not \"1\""),
            ("0 0 2 * * * 999999999999", "its year is"),
            ("0 0 2 30 2 *", "there is no such day"),
        ] {
            let told = Schedule::parse(bad).unwrap_err();
            assert!(told.contains(why) && told.ends_with("for every day at two"), "{bad}: {told}");
        }
    }

    proptest::proptest! {
        /// The next moment is behind, and nothing lies between it and the last one: by looking at each second.
        #[test]
        fn nothing_is_left_out(seconds in 0_i64..4 * 365 * 86_400, minute in 0..60_u32, hour in 0..24_u32) {
            let schedule = Schedule::parse(&format!("0 {minute} {hour} * * *")).unwrap();
            let after = at("2024-01-01T00:00:00Z") + TimeDelta::seconds(seconds);
            let next = schedule.next_after(after, BERLIN).unwrap();
            proptest::prop_assert!(next > after && next - after <= TimeDelta::hours(25));
            // From every moment in between it is the next one.
            for part in 1..8 {
                let between = after + (next - after) * part / 8;
                proptest::prop_assert_eq!(schedule.next_after(between, BERLIN), Some(next));
            }
        }

        #[test]
        fn whatever_is_written_is_read_or_refused(text in "[0-9*/,?# A-Z-]{0,30}") {
            Schedule::parse(&text).ok();
        }
    }
}
