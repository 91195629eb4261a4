//! Where recovery is to end, as the operator says it. A time without a zone is no time.

use chrono::{DateTime, Local, NaiveDateTime, TimeZone as _, Utc};

use crate::base::Timestamp;

pub(super) use crate::pg::recovery::RecoveryTarget as Target;

/// The text is not a moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotATime {
    /// A time of day without a zone: it could be either of two moments.
    #[error(
        "{text:?} has no time zone: write \"{utc}\" if you mean UTC, or \"{local}\" if you mean \
         this host's own zone"
    )]
    NoZone {
        /// What was given.
        text: String,
        /// It, as UTC.
        utc: String,
        /// It, in the local zone.
        local: String,
    },
    /// Nothing that can be read.
    #[error("{0:?} is not a time; write one like \"2026-11-20 03:15:00+00:00\"")]
    Unreadable(String),
}

const ZONED: [&str; 6] = [
    "%Y-%m-%d %H:%M:%S%.f%:z",
    "%Y-%m-%d %H:%M:%S%.f %:z",
    "%Y-%m-%dT%H:%M:%S%.f%:z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f %#z",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
];

const NAIVE: [&str; 4] =
    ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];

/// Reads a moment with its zone: `2026-11-20 03:15:00+01`, `...Z`, `... UTC`.
///
/// # Errors
/// [`NotATime`]; without a zone both readings are shown.
pub fn parse_time(text: &str) -> Result<Timestamp, NotATime> {
    let trimmed = text.trim();
    let upper = trimmed.to_ascii_uppercase();
    for suffix in [" UTC", "UTC", " GMT", " Z", "Z"] {
        if let Some(rest) = upper.strip_suffix(suffix)
            && let Some(naive) = parse_naive(rest.trim_end())
        {
            return Ok(naive.and_utc());
        }
    }
    if let Some(time) =
        ZONED.iter().find_map(|format| DateTime::parse_from_str(trimmed, format).ok())
    {
        return Ok(time.with_timezone(&Utc));
    }
    match parse_naive(trimmed) {
        None => Err(NotATime::Unreadable(text.into())),
        Some(naive) => Err(NotATime::NoZone {
            text: text.into(),
            utc: format!("{}+00:00", naive.format("%Y-%m-%d %H:%M:%S%.f")),
            local: Local.from_local_datetime(&naive).earliest().map_or_else(
                || "(no such time here: the clocks skip it)".into(),
                |time| time.format("%Y-%m-%d %H:%M:%S%.f%:z").to_string(),
            ),
        }),
    }
}

fn parse_naive(text: &str) -> Option<NaiveDateTime> {
    NAIVE.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f069_every_time_has_a_zone_and_one_meaning() {
        let expected: Timestamp = "2026-11-20T03:15:00Z".parse().unwrap();
        for text in [
            "2026-11-20 03:15:00+00:00",
            "2026-11-20 03:15:00+00",
            "2026-11-20 03:15:00Z",
            "2026-11-20T03:15:00Z",
            "2026-11-20 03:15:00 UTC",
            "2026-11-20 03:15 UTC",
            "2026-11-20 04:15:00+01:00",
            "2026-11-20 04:15:00 +0100",
            "2026-11-20 04:15:00+01",
            "2026-11-19 22:15:00-05:00",
            " 2026-11-20 03:15:00.000+00 ",
        ] {
            assert_eq!(parse_time(text), Ok(expected), "{text}");
        }
        let fraction = parse_time("2026-11-20 03:15:00.250+00").unwrap();
        assert_eq!((fraction - expected).num_milliseconds(), 250);
        for text in ["2026-11-20 03:15:00", "2026-11-20T03:15:00.5", "2026-11-20 03:15"] {
            assert!(matches!(parse_time(text), Err(NotATime::NoZone { .. })), "{text}");
        }
        for text in ["", "13am", "yesterday", "2026-11-20", "2026-13-20 00:00:00Z", "03:15:00Z"] {
            assert!(matches!(parse_time(text), Err(NotATime::Unreadable(_))), "{text}");
        }
    }
}
