//! What a pack's meta object says of the pack's content: which blocks of which file, as it was before the first
//! read (FORMAT.md, section 6). A backup that died is used by these lines.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::file_table::StatIdentity;
use super::layout;
use super::pack_writer::PACK_SUMMARY_SIZE;
use super::repository::parse_line;
use super::sealed::{SealedReader, SealedSummary};
use super::text::{path_bytes, path_text};
use crate::base::Timestamp;
use crate::codec::crc32c_join;
use crate::storage::ObjectKey;

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
    /// Pages of it were invalid when they were read: who takes it over must read it again to tell.
    pub is_damaged: bool,
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
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    bad: bool,
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
            bad: content.is_damaged,
            at: at.to_vec(),
        };
        serde_json::to_writer(&mut *lines, &line).expect("plain text and numbers");
        lines.push(b'\n');
    }
}

impl Line {
    fn into_content(self) -> Option<Content> {
        let source = ContentSource {
            path: path_bytes(self.p, self.p_hex)?,
            size: self.s.parse().ok()?,
            mtime: layout::parse_time(&self.mt)?,
            mode: u32::from_str_radix(&self.m, 8).ok()?,
            uid: self.u,
            gid: self.g,
            identity: self.i,
            is_damaged: self.bad,
        };
        Some(Content { source, stretches: self.at })
    }
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The file.
    pub source: ContentSource,
    /// Its blocks in this pack, and zeros.
    pub stretches: Vec<Stretch>,
}

/// What a meta object says of its pack as a whole.
#[derive(Debug, Clone)]
pub(super) struct PackSummary {
    pub(super) frames: u64,
    pub(super) raw: u64,
    pub(super) stored: u64,
    pub(super) salt: [u8; 32],
}

/// Reads the lines of a meta object, one after the other.
pub(super) struct ContentReader {
    object: ObjectKey,
    reader: SealedReader,
    pack: PackSummary,
    /// Bytes of the raw stream so far.
    raw: u64,
    lines: usize,
    ready: VecDeque<Content>,
    /// The path of the line before: what is read at the end of a backup is out of order, and ends the reading.
    last: Vec<u8>,
}

impl ContentReader {
    /// A reader at the first line.
    pub(super) fn new(object: &ObjectKey, mut reader: SealedReader) -> Result<Self> {
        let mut frame = Vec::new();
        reader.next_frame(&mut frame)?;
        let wrong = || Error::corrupt(object, "frame 0", "it is no summary of a pack");
        let head = frame.first_chunk::<PACK_SUMMARY_SIZE>().ok_or_else(wrong)?;
        let [version @ .., _, _, _, _] = head.first_chunk::<8>().ok_or_else(wrong)?;
        if u32::from_le_bytes(*version) != 1 {
            return Err(wrong());
        }
        let pages = head.get(4..).and_then(<[u8]>::first_chunk::<4>).ok_or_else(wrong)?;
        let word = |at: usize| {
            let bytes = head.get(at..).and_then(<[u8]>::first_chunk::<8>).ok_or_else(wrong)?;
            Ok::<_, Error>(u64::from_le_bytes(*bytes))
        };
        let salt = head.get(32..).and_then(<[u8]>::first_chunk::<32>).ok_or_else(wrong)?;
        let pack = PackSummary { frames: word(8)?, raw: word(16)?, stored: word(24)?, salt: *salt };
        let mut raw = frame.len() as u64;
        for _ in 0..u32::from_le_bytes(*pages) {
            frame.clear();
            if !reader.next_frame(&mut frame)? {
                return Err(wrong());
            }
            raw += frame.len() as u64;
        }
        let (ready, last) = (VecDeque::new(), Vec::new());
        Ok(Self { object: object.clone(), reader, pack, raw, lines: 0, ready, last })
    }

    pub(super) fn pack(&self) -> &PackSummary {
        &self.pack
    }

    /// The pack's number, as in the object's name.
    pub(super) fn number(&self) -> u32 {
        self.object.last_component().parse().unwrap_or_default()
    }

    /// What the next line says; nothing at the end.
    pub(super) fn next_content(&mut self) -> Result<Option<Content>> {
        while self.ready.is_empty() {
            if !self.next_frame()? {
                return Ok(None);
            }
        }
        let next = self.ready.pop_front().filter(|next| next.source.path >= self.last);
        match &next {
            Some(next) => self.last.clone_from(&next.source.path),
            None => self.ready.clear(),
        }
        Ok(next)
    }

    fn next_frame(&mut self) -> Result<bool> {
        let mut frame = Vec::new();
        if !self.reader.next_frame(&mut frame)? {
            return Ok(false);
        }
        self.raw += frame.len() as u64;
        for text in frame.split_inclusive(|&byte| byte == b'\n') {
            let line: Line = parse_line(&self.object, self.lines, text)?;
            let place = format!("line {}", self.lines);
            let content = line.into_content();
            let content = content.ok_or_else(|| {
                Error::corrupt(&self.object, place, "it says of no file what it was")
            })?;
            self.ready.push_back(content);
            self.lines += 1;
        }
        Ok(true)
    }

    /// Reads to the end, so that all of it was authenticated, and says what an object of that size is known by.
    pub(super) fn finish(mut self, stored: u64) -> Result<SealedSummary> {
        while self.next_frame()? {
            self.ready.clear();
        }
        let (header, frames) = (self.reader.header().clone(), self.reader.position());
        Ok(SealedSummary { header, stored, raw: self.raw, frames })
    }
}
