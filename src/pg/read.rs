//! Little-endian integers and digits out of bytes, without panics.

use super::{Error, Result};

/// `N` bytes at `offset`.
pub(crate) fn array<const N: usize>(
    bytes: &[u8],
    offset: usize,
    field: &'static str,
) -> Result<[u8; N]> {
    bytes.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Error::Short {
        field,
        need: offset.saturating_add(N),
        have: bytes.len(),
    })
}

/// An integer of 16 bits at `offset`.
pub(crate) fn u16_at(bytes: &[u8], offset: usize, field: &'static str) -> Result<u16> {
    array(bytes, offset, field).map(u16::from_le_bytes)
}

/// An integer of 32 bits at `offset`.
pub(crate) fn u32_at(bytes: &[u8], offset: usize, field: &'static str) -> Result<u32> {
    array(bytes, offset, field).map(u32::from_le_bytes)
}

/// An integer of 64 bits at `offset`.
pub(crate) fn u64_at(bytes: &[u8], offset: usize, field: &'static str) -> Result<u64> {
    array(bytes, offset, field).map(u64::from_le_bytes)
}

/// A number in decimal digits, nothing else around them. Leading zeros are refused, so that one
/// number has one spelling.
pub(crate) fn decimal(text: &[u8]) -> Option<u32> {
    let canonical = text == b"0" || text.first().is_some_and(|first| *first != b'0');
    if !canonical || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A number in exactly eight upper-case hexadecimal digits, as in the names of WAL files.
pub(crate) fn hex8(text: &[u8]) -> Option<u32> {
    let upper = |digit: &u8| matches!(digit, b'0'..=b'9' | b'A'..=b'F');
    if text.len() != 8 || !text.iter().all(upper) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

/// A file's lines without their ends, and without the empty rest after the last end.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n')
}
