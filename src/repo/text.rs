//! How values are spelled in lines: 64-bit numbers and moments as strings, bytes in hexadecimal.

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

use super::layout;
use crate::base::{Timestamp, hex};

/// `u64` as a string of decimal digits.
pub(super) mod u64_text {
    use super::*;

    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("{text:?} is not a number")))
    }
}

/// A moment in RFC 3339 with `Z`.
pub(super) mod time_text {
    use super::*;

    pub fn serialize<S: Serializer>(value: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&layout::time_text(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        layout::parse_time(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not a time")))
    }
}

/// A moment in RFC 3339 with `Z`, or nothing.
pub(super) mod some_time_text {
    use super::*;

    pub fn serialize<S: Serializer>(
        value: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(time) => time_text::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let parse = |text: String| {
            let time = layout::parse_time(&text);
            time.ok_or_else(|| D::Error::custom(format!("{text:?} is not a time")))
        };
        text.map(parse).transpose()
    }
}

/// Fixed-size bytes in lower-case hexadecimal.
pub(super) mod hex_array {
    use super::*;

    pub fn serialize<S: Serializer, const N: usize>(
        value: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode_array(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is not {N} bytes in hexadecimal")))
    }
}

/// Splits bytes into (text, hexadecimal): exactly one of the two is given.
pub(super) fn path_text(path: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(path) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(hex::encode(path))),
    }
}

/// Joins what [`path_text`] split. Hexadecimal of what is UTF-8 is refused: one path, one spelling.
pub(super) fn path_bytes(text: Option<String>, hexadecimal: Option<String>) -> Option<Vec<u8>> {
    match (text, hexadecimal) {
        (Some(text), None) => Some(text.into_bytes()),
        (None, Some(digits)) => hex::decode(&digits).filter(|b| std::str::from_utf8(b).is_err()),
        _ => None,
    }
}
