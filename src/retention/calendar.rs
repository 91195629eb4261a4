//! Which full represents a day, a week, a month, a year. Pure.

use std::fmt;

use chrono::{Datelike as _, NaiveDate, Offset as _, TimeZone as _};
use chrono_tz::Tz;
use serde::Serialize;

use crate::base::Timestamp;

/// A day, an ISO week, a month or a year, in some zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// A day.
    Day(NaiveDate),
    /// A week that begins on Monday: its year, which is not always the calendar's, and its number.
    Week(i32, u32),
    /// A month of a year.
    Month(i32, u32),
    /// A year.
    Year(i32),
}

/// How long a period is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cycle {
    /// A day.
    Daily,
    /// An ISO week.
    Weekly,
    /// A month.
    Monthly,
    /// A year.
    Yearly,
}

impl Cycle {
    /// All of them, the shortest first.
    pub const ALL: [Self; 4] = [Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// The period in which a moment lies.
    #[must_use]
    pub fn period_of(self, moment: Timestamp, zone: Tz) -> Period {
        let moment = moment.naive_utc();
        let offset = zone.offset_from_utc_datetime(&moment).fix();
        // At the ends of time a zone may lie behind them.
        let local = moment.checked_add_offset(offset).unwrap_or(moment).date();
        match self {
            Self::Daily => Period::Day(local),
            Self::Weekly => Period::Week(local.iso_week().year(), local.iso_week().week()),
            Self::Monthly => Period::Month(local.year(), local.month()),
            Self::Yearly => Period::Year(local.year()),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day(day) => write!(f, "daily {day}"),
            Self::Week(year, week) => write!(f, "weekly {year}-W{week:02}"),
            Self::Month(year, month) => write!(f, "monthly {year}-{month:02}"),
            Self::Year(year) => write!(f, "yearly {year}"),
        }
    }
}

impl Serialize for Period {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Of the latest `count` periods that have a good full, the newest good full each; of later ones that have
/// only others, the newest of those, of `count` such periods at most: something is better than nothing, and does
/// not push good ones out. Fulls come newest first, as when they finished and whether they are good; the answer
/// names them by their place.
#[must_use]
pub fn representatives(
    fulls: &[(Timestamp, bool)],
    (cycle, count): (Cycle, u32),
    zone: Tz,
) -> Vec<(usize, Period)> {
    let mut chosen = Vec::new();
    let (mut good_ones, mut others) = (0, 0);
    let periods: Vec<Period> =
        fulls.iter().map(|(finished, _)| cycle.period_of(*finished, zone)).collect();
    let mut begin = 0;
    for run in periods.chunk_by(|a, b| a == b) {
        if good_ones == count {
            break;
        }
        let of_it = &fulls[begin..begin + run.len()];
        let good = of_it.iter().position(|(_, is_good)| *is_good);
        let counter = if good.is_some() { &mut good_ones } else { &mut others };
        if *counter < count {
            *counter += 1;
            chosen.extend(run.first().map(|period| (begin + good.unwrap_or(0), *period)));
        }
        begin += run.len();
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn f087_periods_are_of_the_zone_and_weeks_are_iso_weeks() {
        let berlin = chrono_tz::Europe::Berlin;
        let of = |cycle: Cycle, text: &str, zone: Tz| cycle.period_of(at(text), zone).to_string();
        let late = "2026-12-31T23:30:00Z";
        assert_eq!(of(Cycle::Daily, late, Tz::UTC), "daily 2026-12-31");
        assert_eq!(of(Cycle::Daily, late, berlin), "daily 2027-01-01");
        assert_eq!(of(Cycle::Weekly, late, Tz::UTC), "weekly 2026-W53");
        assert_eq!(of(Cycle::Weekly, "2027-01-03T12:00:00Z", Tz::UTC), "weekly 2026-W53");
        assert_eq!(of(Cycle::Weekly, "2027-01-04T00:00:00Z", Tz::UTC), "weekly 2027-W01");
        assert_eq!(of(Cycle::Monthly, "2028-02-29T12:00:00Z", Tz::UTC), "monthly 2028-02");
        assert_eq!(of(Cycle::Yearly, late, berlin), "yearly 2027");
        // The hour that there is twice, and the one that there is not.
        for (moment, day) in
            [("2026-10-24T22:30:00Z", "2026-10-25"), ("2026-03-29T00:30:00Z", "2026-03-29")]
        {
            assert_eq!(of(Cycle::Daily, moment, berlin), format!("daily {day}"));
        }
        assert_eq!(of(Cycle::Daily, "2026-11-20T00:00:00Z", Tz::UTC), "daily 2026-11-20");
    }

    fn chosen(fulls: &[(&str, bool)], cycle: Cycle, count: u32) -> Vec<String> {
        let all: Vec<_> = fulls.iter().map(|(time, good)| (at(time), *good)).collect();
        let chosen = representatives(&all, (cycle, count), Tz::UTC);
        chosen.iter().map(|(index, period)| format!("{period}: {}", fulls[*index].0)).collect()
    }

    #[test]
    fn the_newest_good_full_represents_and_missed_days_do_not_count() {
        let fulls = [
            ("2026-11-20T14:00:00Z", true),
            ("2026-11-20T02:00:00Z", true),
            ("2026-11-17T14:00:00Z", false),
            ("2026-11-17T02:00:00Z", true),
            ("2026-11-12T02:00:00Z", true),
            ("2026-11-11T02:00:00Z", true),
        ];
        assert_eq!(
            chosen(&fulls, Cycle::Daily, 3),
            [
                "daily 2026-11-20: 2026-11-20T14:00:00Z",
                "daily 2026-11-17: 2026-11-17T02:00:00Z",
                "daily 2026-11-12: 2026-11-12T02:00:00Z",
            ]
        );
        assert_eq!(
            chosen(&fulls, Cycle::Weekly, 9),
            ["weekly 2026-W47: 2026-11-20T14:00:00Z", "weekly 2026-W46: 2026-11-12T02:00:00Z"]
        );
        assert!(chosen(&fulls, Cycle::Daily, 0).is_empty());
        assert!(chosen(&[], Cycle::Daily, 7).is_empty());
    }

    #[test]
    fn f087_days_with_bad_fulls_only_do_not_push_good_ones_out() {
        let fulls = [
            ("2026-11-20T02:00:00Z", false),
            ("2026-11-19T02:00:00Z", false),
            ("2026-11-18T02:00:00Z", true),
            ("2026-11-17T02:00:00Z", false),
        ];
        let days: Vec<_> = chosen(&fulls, Cycle::Daily, 1);
        assert_eq!(
            days,
            ["daily 2026-11-20: 2026-11-20T02:00:00Z", "daily 2026-11-18: 2026-11-18T02:00:00Z"]
        );
        assert_eq!(chosen(&fulls, Cycle::Daily, 4).len(), 4);
    }
}
