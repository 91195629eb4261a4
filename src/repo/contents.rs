//! What a pack's meta object says of the pack's content: which blocks of which file, as it was before the first
//! read (FORMAT.md, section 6). A backup that died is used by these lines.

use serde::{Deserialize, Serialize};

use super::file_table::StatIdentity;
use super::layout;
use super::text::path_text;
use crate::base::Timestamp;
use crate::codec::crc32c_join;

/// Stretches in one line, which stays far below a frame with the longest path.
const STRETCHES_MAX: usize = 500;

/// The file whose content a writer takes, as it was before the first read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentSource {
    /// Relative to the data directory.
    pub path: Vec<u8>,
    /// Its size.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Permission bits.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Stat identity, where the file system is honest.
    pub identity: Option<StatIdentity>,
}

/// Blocks of a file that lie together in a pack, or are zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The first block in the file.
    pub block: u32,
    /// How many.
    pub count: u32,
    /// CRC-32C of their bytes.
    pub crc: u32,
    /// The first raw block in the pack; none of zeros.
    pub raw: Option<u32>,
}

impl Stretch {
    pub(super) fn zeros(block: u32, count: u32, crc: u32) -> Self {
        Self { block, count, crc, raw: None }
    }

    pub(super) fn stored(block: u32, count: u32, raw: u32, crc: u32) -> Self {
        Self { block, count, crc, raw: Some(raw) }
    }
}

/// As numbers: block, count, checksum, and the raw block where there is one.
impl Serialize for Stretch {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let Self { block, count, crc, raw } = *self;
        match raw {
            None => [block, count, crc].serialize(to),
            Some(raw) => [block, count, crc, raw].serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Stretch {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let numbers = Vec::<u32>::deserialize(from)?;
        match numbers[..] {
            [block, count, crc] => Ok(Self { block, count, crc, raw: None }),
            [block, count, crc, raw] => Ok(Self { block, count, crc, raw: Some(raw) }),
            _ => Err(serde::de::Error::custom("a stretch has 3 or 4 numbers")),
        }
    }
}

/// Appends stored blocks, whose bytes are so many, joined with the last ones where block and place go on.
pub(super) fn push_stretch(stretches: &mut Vec<Stretch>, next: Stretch, length: u64) {
    if let (Some(last), Some(raw)) = (stretches.last_mut(), next.raw)
        && let Some(before) = last.raw
        && last.block.checked_add(last.count) == Some(next.block)
        && before.checked_add(last.count) == Some(raw)
    {
        last.count += next.count;
        last.crc = crc32c_join(last.crc, next.crc, length);
    } else {
        stretches.push(next);
    }
}

/// A line. Early versions wrote one for each stretch, with `b`, `n` and `r` and without a checksum.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    p: Option<String>,
    #[serde(default, rename = "P", skip_serializing_if = "Option::is_none")]
    p_hex: Option<String>,
    s: String,
    mt: String,
    m: String,
    #[serde(default)]
    u: u32,
    #[serde(default)]
    g: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<StatIdentity>,
    #[serde(default)]
    at: Vec<Stretch>,
}

/// Appends the lines of a content.
pub(super) fn append(lines: &mut Vec<u8>, content: &ContentSource, stretches: &[Stretch]) {
    for at in stretches.chunks(STRETCHES_MAX) {
        let (p, p_hex) = path_text(&content.path);
        let line = Line {
            p,
            p_hex,
            s: content.size.to_string(),
            mt: layout::time_text(content.mtime),
            m: format!("{:o}", content.mode),
            u: content.uid,
            g: content.gid,
            i: content.identity.clone(),
            at: at.to_vec(),
        };
        serde_json::to_writer(&mut *lines, &line).expect("plain text and numbers");
        lines.push(b'\n');
    }
}
