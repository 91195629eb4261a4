//! Durations as people write them: `90s`, `5m`, `1h30m`, `14d`.

use std::time::Duration;

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotADuration {
    /// A number without a unit.
    #[error("{0:?} has no unit: write {0}s, {0}m, {0}h or {0}d")]
    NoUnit(String),
    /// Anything else.
    #[error(
        "{0:?} is not a duration: write whole numbers with w, d, h, m or s, such as 90s or 1h30m"
    )]
    Malformed(String),
}

/// From the largest to the smallest: each may be used once, in this order.
const UNITS: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// Reads a duration. A bare number is refused, because half of its readers would take it for
/// minutes.
///
/// # Errors
/// [`NotADuration`] tells how to write it.
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    let malformed = || NotADuration::Malformed(text.to_owned());
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NotADuration::NoUnit(text.to_owned()));
    }
    let (mut rest, mut seconds, mut units) = (text, 0_u64, UNITS.iter());
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| malformed())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(|b| !b.is_ascii_digit()).count();
        // Taking from the iterator makes a unit that is repeated or out of order unknown.
        let (_, factor) =
            units.find(|(unit, _)| *unit == &rest[..letters]).ok_or_else(malformed)?;
        rest = &rest[letters..];
        let more = number.checked_mul(*factor).ok_or_else(malformed)?;
        seconds = seconds.checked_add(more).ok_or_else(malformed)?;
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [
            ("5m", 300),
            ("90s", 90),
            ("14d", 14 * 86_400),
            ("1h30m", 5_400),
            ("2w1d", 15 * 86_400),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_told_its_units() {
        let wrong = parse_duration("5").unwrap_err();
        assert_eq!(wrong.to_string(), "\"5\" has no unit: write 5s, 5m, 5h or 5d");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "m",
            "-5m",
            "5 m",
            "5M",
            "1.5h",
            "5m5",
            "5m1h",
            "1m1m",
            "5ä",
            "٥m",
            "99999999999999999999s",
            "18446744073709551615w",
            "5min",
            "h5",
        ] {
            let wrong = parse_duration(text).unwrap_err();
            assert_eq!(wrong, NotADuration::Malformed(text.into()), "{text}");
        }
    }
}
