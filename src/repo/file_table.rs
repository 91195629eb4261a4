//! The file table: the sorted rows of a backup's files (FORMAT.md, section 6).
//!
//! Written in one pass in order, read in one pass or by path through a sparse index. A row knows
//! where each block of its file lies; no reader walks a chain.

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::layout;
use super::repository::parse_line;
use super::sealed::{SealedReader, SealedSummary, SealedWriter, Sink};
use super::text::{path_bytes, path_text, u64_text};
use crate::base::Timestamp;
use crate::storage::ObjectKey;

/// What a row describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowKind {
    /// A regular file.
    #[serde(rename = "f")]
    File,
    /// A directory.
    #[serde(rename = "d")]
    Directory,
    /// A symbolic link.
    #[serde(rename = "l")]
    Link,
}

/// What tells, with size and modification time, that a file was not touched since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatIdentity(
    /// The file system's own id (device numbers change on reboot).
    pub String,
    /// The inode.
    #[serde(with = "u64_text")]
    pub u64,
    /// The change time, in nanoseconds.
    pub String,
);

/// Where blocks of a file lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// The first block of the file that this covers.
    pub block: u32,
    /// How many blocks.
    pub count: u32,
    /// Where they are.
    pub source: Source,
}

/// Where a layer's blocks come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// They are zeros and stored nowhere.
    Zeros,
    /// They lie one after the other in a pack.
    Pack {
        /// Index among the manifest's bases; `None` for the backup itself.
        base: Option<u32>,
        /// The pack's number.
        pack: u32,
        /// The first raw block in the pack.
        raw: u32,
    },
}

impl Layer {
    /// Appends this layer, joined with the last one where both block and place go on.
    pub fn join(self, layers: &mut Vec<Self>) {
        if let Some(last) = layers.last_mut()
            && last.block.checked_add(last.count) == Some(self.block)
            && last.source.plus(last.count) == Some(self.source)
        {
            last.count += self.count;
        } else {
            layers.push(self);
        }
    }
}

impl Source {
    /// The place of the block that lies that many behind.
    #[must_use]
    pub fn plus(self, blocks: u32) -> Option<Self> {
        Some(match self {
            Self::Zeros => Self::Zeros,
            Self::Pack { base, pack, raw } => {
                Self::Pack { base, pack, raw: raw.checked_add(blocks)? }
            }
        })
    }
}

impl Serialize for Layer {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        let (block, count) = (self.block, self.count);
        match self.source {
            Source::Zeros => [block, count].serialize(serializer),
            Source::Pack { base: None, pack, raw } => {
                [block, count, pack, raw].serialize(serializer)
            }
            Source::Pack { base: Some(base), pack, raw } => {
                [block, count, pack, raw, base].serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Layer {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        let numbers = Vec::<u32>::deserialize(deserializer)?;
        let (block, count, source) = match numbers[..] {
            [block, count] => (block, count, Source::Zeros),
            [block, count, pack, raw] => (block, count, Source::Pack { base: None, pack, raw }),
            [block, count, pack, raw, base] => {
                (block, count, Source::Pack { base: Some(base), pack, raw })
            }
            _ => return Err(serde::de::Error::custom("a layer has 2, 4 or 5 numbers")),
        };
        Ok(Self { block, count, source })
    }
}

/// One file, directory or link of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Relative to the data directory; absolute for a configuration file outside it.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: RowKind,
    /// Bytes of a file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Stat identity, where the file system is honest.
    pub identity: Option<StatIdentity>,
    /// CRC-32C of a file's whole content.
    pub crc: Option<u32>,
    /// A link's target.
    pub target: Option<Vec<u8>>,
    /// Where a file's blocks lie.
    pub layers: Vec<Layer>,
    /// The parent's row does not hold any more.
    pub gone: bool,
}

impl Row {
    /// Says that the parent's row of a path does not hold any more.
    #[must_use]
    pub fn gone(path: Vec<u8>) -> Self {
        Self {
            path,
            kind: RowKind::File,
            size: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::UNIX_EPOCH,
            identity: None,
            crc: None,
            target: None,
            layers: Vec::new(),
            gone: true,
        }
    }

    /// Whether this is a file outside the data directory, which is never restored in place.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.path.first() == Some(&b'/')
    }

    /// Whether the layers cover every block of the file once, in order.
    #[must_use]
    pub fn is_covered(&self, block_size: u32) -> bool {
        let mut next = 0u64;
        for layer in &self.layers {
            if u64::from(layer.block) != next || layer.count == 0 {
                return false;
            }
            next += u64::from(layer.count);
        }
        next == self.size.div_ceil(u64::from(block_size))
    }
}

/// A row's line; of a continuation only path, number and layers. The order of members is the order
/// in the text. Flat on purpose: a table has millions of these.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<String>,
    #[serde(rename = "P", skip_serializing_if = "Option::is_none")]
    p_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<RowKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    m: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    u: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    g: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    i: Option<StatIdentity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    c: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    l: Option<String>,
    #[serde(rename = "L", skip_serializing_if = "Option::is_none")]
    l_hex: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    gone: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    at: Vec<Layer>,
}

impl Line {
    fn first(row: &Row) -> Self {
        if row.gone {
            return Self { gone: true, ..Self::default() };
        }
        let (l, l_hex) = row.target.as_deref().map(path_text).unwrap_or_default();
        Self {
            t: Some(row.kind),
            s: Some(row.size.to_string()),
            m: Some(format!("{:o}", row.mode)),
            u: Some(row.uid),
            g: Some(row.gid),
            mt: Some(layout::time_text(row.mtime)),
            i: row.identity.clone(),
            c: row.crc.map(|crc| format!("{crc:08x}")),
            l,
            l_hex,
            gone: row.gone,
            ..Self::default()
        }
    }

    fn into_row(self, path: Vec<u8>) -> std::result::Result<Row, &'static str> {
        if self.gone {
            return Ok(Row::gone(path));
        }
        let crc = self.c.map(|text| u32::from_str_radix(&text, 16)).transpose();
        Ok(Row {
            path,
            kind: self.t.ok_or("a row without its kind")?,
            size: self.s.and_then(|s| s.parse().ok()).ok_or("a size that is none")?,
            mode: self
                .m
                .and_then(|m| u32::from_str_radix(&m, 8).ok())
                .ok_or("a mode that is not octal")?,
            uid: self.u.ok_or("a row without its owner")?,
            gid: self.g.ok_or("a row without its group")?,
            mtime: self
                .mt
                .and_then(|text| layout::parse_time(&text))
                .ok_or("a time that is none")?,
            identity: self.i,
            crc: crc.map_err(|_| "a checksum that is none")?,
            target: match (self.l, self.l_hex) {
                (None, None) => None,
                (l, l_hex) => Some(path_bytes(l, l_hex).ok_or("a target spelled wrong")?),
            },
            layers: self.at,
            gone: false,
        })
    }
}

/// Layers in one line: with the longest numbers, paths and members they stay below a frame.
const LAYERS_MAX: usize = 700;

/// The longest path that a table takes: PATH_MAX of Linux.
pub const PATH_MAX: usize = 4096;

/// Where a frame of the table lies and which row it begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Path of the frame's first row.
    pub path: Vec<u8>,
    /// Whether that row continues one of the frame before.
    pub continues: bool,
    /// The frame's number.
    pub frame: u64,
    /// Its offset in the object.
    pub offset: u64,
    /// Its stored length.
    pub length: u32,
}

/// Writes a table; rows must come sorted by path bytes.
pub struct FileTableWriter<S: Sink> {
    writer: SealedWriter<S>,
    last_path: Option<Vec<u8>>,
    index: Vec<IndexEntry>,
    rows: u64,
}

impl<S: Sink> FileTableWriter<S> {
    /// A table in a fresh object.
    pub fn new(writer: SealedWriter<S>) -> Self {
        Self { writer, last_path: None, index: Vec::new(), rows: 0 }
    }

    /// Adds the next row.
    ///
    /// # Errors
    /// [`Error::Limit`] for a path that is too long or not greater than the one before.
    pub fn push(&mut self, row: &Row) -> Result<()> {
        let shown = || String::from_utf8_lossy(&row.path).into_owned();
        if row.path.len() > PATH_MAX {
            return Err(Error::Limit(format!("the path {} is longer than 4096 bytes", shown())));
        }
        if self.last_path.as_ref().is_some_and(|last| *last >= row.path) {
            return Err(Error::Limit(format!("row {} is out of order", shown())));
        }
        let parts = row.layers.chunks(LAYERS_MAX).map(<[Layer]>::to_vec);
        let parts: Vec<Vec<Layer>> =
            if row.layers.is_empty() { vec![Vec::new()] } else { parts.collect() };
        for (number, at) in (0u32..).zip(parts) {
            let mut line = if number == 0 { Line::first(row) } else { Line::default() };
            (line.p, line.p_hex) = path_text(&row.path);
            line.k = (number > 0).then_some(number);
            line.at = at;
            self.line(row, &line)?;
        }
        self.last_path = Some(row.path.clone());
        self.rows += 1;
        Ok(())
    }

    fn line(&mut self, row: &Row, line: &Line) -> Result<()> {
        let before = self.writer.stored();
        let begins_frame = self.writer.line(line)?;
        self.close_index(before);
        if begins_frame {
            self.index.push(IndexEntry {
                path: row.path.clone(),
                continues: line.k.is_some(),
                frame: self.writer.frames(),
                offset: self.writer.stored(),
                length: 0,
            });
        }
        Ok(())
    }

    /// Gives the newest entry its length once the frame behind it was sealed.
    fn close_index(&mut self, before: u64) {
        let sealed = self.writer.stored() - before;
        if sealed > 0
            && let Some(entry) = self.index.last_mut()
        {
            entry.length = u32::try_from(sealed).expect("a frame is shorter than 4 GiB");
        }
    }

    /// Ends the table: the sink, what was written, the index, the number of rows.
    ///
    /// # Errors
    /// As the store's.
    pub fn finish(mut self) -> Result<(S, SealedSummary, Vec<IndexEntry>, u64)> {
        let before = self.writer.stored();
        let (sink, summary) = self.writer.finish_lines()?;
        if let Some(entry) = self.index.last_mut() {
            entry.length =
                u32::try_from(summary.stored - before).expect("a frame is shorter than 4 GiB");
        }
        Ok((sink, summary, self.index, self.rows))
    }
}

/// Reads rows in order.
pub struct FileTableReader {
    reader: SealedReader,
    parser: RowParser,
    frame: Vec<u8>,
}

impl FileTableReader {
    /// A reader at the table's first row.
    #[must_use]
    pub fn new(object: ObjectKey, reader: SealedReader) -> Self {
        Self { reader, parser: RowParser::new(object), frame: Vec::new() }
    }

    /// The next row.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn next_row(&mut self) -> Result<Option<Row>> {
        loop {
            if let Some(row) = self.parser.ready.pop_front() {
                return Ok(Some(row));
            }
            self.frame.clear();
            if self.reader.next_frame(&mut self.frame)? {
                self.parser.frame(&self.frame)?;
            } else {
                return Ok(self.parser.pending.take());
            }
        }
    }
}

/// Turns frames of lines into rows; a row is ready when the next one begins.
pub(super) struct RowParser {
    object: ObjectKey,
    lines: usize,
    pending: Option<Row>,
    pending_part: u32,
    pub(super) ready: std::collections::VecDeque<Row>,
}

impl RowParser {
    pub(super) fn new(object: ObjectKey) -> Self {
        let ready = std::collections::VecDeque::new();
        Self { object, lines: 0, pending: None, pending_part: 0, ready }
    }

    /// The row that no later line has ended yet.
    pub(super) fn take_pending(&mut self) -> Option<Row> {
        self.pending.take()
    }

    pub(super) fn frame(&mut self, frame: &[u8]) -> Result<()> {
        for text in frame.split_inclusive(|&byte| byte == b'\n') {
            let line: Line = parse_line(&self.object, self.lines, text)?;
            let number = self.lines;
            self.lines += 1;
            self.line(line)
                .map_err(|why| Error::corrupt(&self.object, format!("line {number}"), why))?;
        }
        Ok(())
    }

    /// A continuation whose first row lies before the frame where a search began is skipped.
    fn line(&mut self, mut line: Line) -> std::result::Result<(), &'static str> {
        let (text, digits) = (line.p.take(), line.p_hex.take());
        let path = path_bytes(text, digits).ok_or("it has no path, or one spelled wrong")?;
        if let Some(part) = line.k {
            return match &mut self.pending {
                Some(row) if row.path == path && part == self.pending_part + 1 => {
                    row.layers.extend(line.at);
                    self.pending_part = part;
                    Ok(())
                }
                None if self.ready.is_empty() => Ok(()),
                _ => Err("a continuation without its row"),
            };
        }
        if self.pending.as_ref().is_some_and(|row| row.path >= path) {
            return Err("rows are out of order");
        }
        let row = line.into_row(path)?;
        self.pending_part = 0;
        self.ready.extend(self.pending.replace(row));
        Ok(())
    }
}

/// Where in a sparse index a path's row must begin: the index of the entry to start reading at.
#[must_use]
pub fn search(index: &[IndexEntry], path: &[u8]) -> Option<usize> {
    let after = index.partition_point(|entry| entry.path.as_slice() < path);
    match index.get(after) {
        Some(entry) if entry.path == path && !entry.continues => Some(after),
        _ => after.checked_sub(1),
    }
}

/// Rows on their way to a table, in order, in a temporary file instead of memory.
pub struct RowSpill {
    file: std::io::BufWriter<std::fs::File>,
    rows: u64,
}

impl RowSpill {
    /// An empty spill in the system's folder for temporary files; the file has no name.
    ///
    /// # Errors
    /// When there is no room for one.
    pub fn new() -> std::io::Result<Self> {
        let file = std::io::BufWriter::with_capacity(1 << 18, tempfile::tempfile()?);
        Ok(Self { file, rows: 0 })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// As the file system's.
    pub fn push(&mut self, row: &Row) -> std::io::Result<()> {
        use std::io::Write as _;
        let mut line = Line::first(row);
        (line.p, line.p_hex) = path_text(&row.path);
        line.at.clone_from(&row.layers);
        serde_json::to_writer(&mut self.file, &line)?;
        self.rows += 1;
        self.file.write_all(b"\n")
    }

    /// Hands every row, in order, to `take`.
    ///
    /// # Errors
    /// As the file system's, turned into `take`'s error by `failed`.
    pub fn drain<E>(
        self,
        failed: impl Fn(std::io::Error) -> E,
        mut take: impl FnMut(Row) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        use std::io::{BufRead as _, Seek as _};
        let mut file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.rewind().map_err(&failed)?;
        let mut reader = std::io::BufReader::with_capacity(1 << 18, file);
        let mut text = Vec::new();
        let mut left = self.rows;
        while reader.read_until(b'\n', &mut text).map_err(&failed)? > 0 {
            let wrong = |why: &str| failed(std::io::Error::other(format!("spilled row: {why}")));
            let mut line: Line =
                serde_json::from_slice(&text).map_err(|error| wrong(&error.to_string()))?;
            let path = path_bytes(line.p.take(), line.p_hex.take()).ok_or_else(|| wrong("path"))?;
            take(line.into_row(path).map_err(wrong)?)?;
            left = left.saturating_sub(1);
            text.clear();
        }
        if left == 0 { Ok(()) } else { Err(failed(std::io::ErrorKind::UnexpectedEof.into())) }
    }
}
