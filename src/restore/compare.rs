//! Which blocks of a file that is there are the backup's: by their content alone, never by size or time.
//!
//! Each block is hashed under the backup's key and compared with the hash that was stored with it; where the
//! backup has zeros there must be zeros. What is right stays, and counts with its own checksum towards that of
//! the whole file; what is not is left to be fetched.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::PoisonError;

use super::error::Result;
use super::fetch::{Batch, Bench, Done, Piece, PieceSource, Scratch};
use crate::crypt::BlockHasher;
use crate::repo::{self, OpenedBackup};

/// Bytes that are read, hashed and summed at a time: the second and third step find them in the processor's
/// second cache.
const CHUNK: usize = 256 << 10;

/// No block of PostgreSQL's is longer.
static ZEROS: [u8; 32 << 10] = [0; 32 << 10];

/// What knows the backup's blocks again; nothing where their hashes are of another kind.
pub(super) fn hasher(opened: &OpenedBackup) -> Option<BlockHasher> {
    let scheme = &opened.manifest().summary.hash;
    scheme.is_known().then(|| BlockHasher::new(&scheme.key))
}

/// What of a batch has to be written. What is there and right is noted as done.
pub(super) fn with_what_differs(
    bench: &Bench<'_>,
    batch: Batch,
    scratch: &mut Scratch,
) -> Result<Batch> {
    if !batch.iter().any(|piece| piece.target.is_there) {
        return Ok(batch);
    }
    let mut rest = Batch::new();
    for piece in batch {
        if !piece.target.is_there {
            rest.push(piece);
            continue;
        }
        bench.ctx.cancel.check()?;
        // Before a turn is taken: the store may have to be waited for.
        let expected = expected(bench, &piece)?;
        let split = {
            let _turn = bench.turns.take();
            compared(&piece, &expected, bench.block_size, &mut scratch.there)
        };
        if let Some(error) = split.unread {
            piece.target.warn_unread(bench.ctx, error);
        }
        piece.target.split(split.right.len() + split.wrong.len());
        for done in split.right {
            piece.target.kept(bench.ctx, done)?;
        }
        rest.extend(split.wrong);
    }
    Ok(rest)
}

/// What the blocks of a piece must be.
enum Expected<'a> {
    Zeros,
    Hashes(&'a BlockHasher, Vec<u64>),
    /// Nobody knows: they count as wrong.
    Unknown,
}

fn expected<'a>(bench: &Bench<'a>, piece: &Piece) -> Result<Expected<'a>> {
    let PieceSource::Pack(base, pack, raw) = piece.source else { return Ok(Expected::Zeros) };
    let Some(hasher) = bench.hasher else { return Ok(Expected::Unknown) };
    let unknown = || bench.unknown.lock().unwrap_or_else(PoisonError::into_inner);
    if unknown().contains(&(base, pack)) {
        return Ok(Expected::Unknown);
    }
    let number = |raw: u64| u32::try_from(raw.div_ceil(bench.block_size)).unwrap_or(u32::MAX);
    let (first, end) = (number(raw), number(raw + piece.length));
    let mut hashes = Vec::new();
    let read = bench.opened.hashes(base, pack).and_then(|reader| {
        // The neighbours' hashes will be needed too, and one request brings those of a pack.
        reader.read(first, end, u32::MAX, &mut hashes)
    });
    match read {
        Ok(()) => Ok(Expected::Hashes(hasher, hashes)),
        // Nothing but this comparison needs them: what cannot be compared is written. Once no backup stands on it
        // any more, a backup can do without them.
        Err(error) if error.is_about_one_object() => {
            let is_first = unknown().insert((base, pack));
            if is_first && !error.is_not_found() {
                bench.ctx.warn(cannot_compare(&error));
            }
            Ok(Expected::Unknown)
        }
        Err(error) => Err(error.into()),
    }
}

fn cannot_compare(error: &repo::Error) -> String {
    format!(
        "what is there cannot be compared with one pack of the backup, whose blocks are all written instead: {error}"
    )
}

impl Expected<'_> {
    fn is_right(&self, number: usize, block: &[u8]) -> bool {
        match self {
            Self::Zeros => ZEROS.get(..block.len()) == Some(block),
            Self::Hashes(hasher, hashes) => hashes.get(number) == Some(&hasher.hash(block)),
            Self::Unknown => false,
        }
    }
}

/// A piece in parts.
struct Split {
    right: Vec<Done>,
    wrong: Vec<Piece>,
    /// Why something of it could not be read. It counts as wrong: a disk often takes what it cannot give back.
    unread: Option<io::Error>,
}

fn compared(piece: &Piece, expected: &Expected<'_>, block_size: u64, there: &mut Vec<u8>) -> Split {
    let mut split = Split { right: Vec::new(), wrong: Vec::new(), unread: None };
    if matches!(expected, Expected::Unknown) {
        split.wrong.push(piece.clone());
        return split;
    }
    there.resize(CHUNK, 0);
    let size = usize::try_from(block_size).unwrap_or(CHUNK).clamp(1, CHUNK);
    let mut number = 0;
    let mut at = 0;
    while at < piece.length {
        let wanted = usize::try_from(piece.length - at).unwrap_or(CHUNK).min(CHUNK / size * size);
        let chunk = there.get_mut(..wanted).unwrap_or_default();
        let count =
            read_there(&piece.target.file, piece.offset + at, chunk).unwrap_or_else(|error| {
                split.unread.get_or_insert(error);
                0
            });
        for block in chunk.chunks(size) {
            let length = block.len() as u64;
            // What the file is too short for is not there.
            let is_whole = (number * size + block.len()) as u64 <= at + count as u64;
            if is_whole && expected.is_right(number, block) {
                split.add_right(piece.offset + number as u64 * block_size, block);
            } else {
                split.add_wrong(piece, number as u64 * block_size, length);
            }
            number += 1;
        }
        at += wanted as u64;
    }
    split
}

impl Split {
    fn add_right(&mut self, offset: u64, block: &[u8]) {
        let length = block.len() as u64;
        match self.right.last_mut() {
            Some(last) if last.offset + last.length == offset => {
                last.crc = crc32c::crc32c_append(last.crc, block);
                last.length += length;
            }
            _ => self.right.push(Done { offset, length, crc: crc32c::crc32c(block) }),
        }
    }

    fn add_wrong(&mut self, piece: &Piece, skipped: u64, length: u64) {
        match self.wrong.last_mut() {
            Some(last) if last.offset + last.length == piece.offset + skipped => {
                last.length += length;
            }
            _ => self.wrong.push(piece.part(skipped, length)),
        }
    }
}

/// Reads what is there, up to the end of the file.
fn read_there(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = out.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;

    use super::*;
    use crate::repo::{Layer, Row, RowKind, Source};
    use crate::restore::fetch::{Batcher, Open};

    const BLOCK: usize = 512;

    /// The one piece of a file of five blocks and a half, which is there with this content.
    fn piece(source: Source, there: &[u8]) -> Piece {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(there).unwrap();
        let row = Row {
            kind: RowKind::File,
            size: (BLOCK * 11 / 2) as u64,
            crc: Some(0),
            layers: vec![Layer { block: 0, count: 6, source }],
            gone: false,
            ..Row::gone(b"base/1/2".to_vec())
        };
        let mut batcher = Batcher::new(512, 1, Arc::default());
        let mut sent = Batch::new();
        let open = Open { file, is_there: true, is_changed: false };
        let mut send = |batch| {
            sent.extend(batch);
            Ok(())
        };
        batcher.add(&row, open, &mut send).unwrap();
        batcher.flush(&mut send).unwrap();
        sent.pop().unwrap()
    }

    /// Offset and length of what is right, and of what is to be written.
    type Parts = (Vec<(u64, u64)>, Vec<(u64, u64)>);

    fn parts(piece: &Piece, expected: &Expected<'_>) -> Parts {
        let split = compared(piece, expected, BLOCK as u64, &mut Vec::new());
        let right = split.right.iter().map(|done| (done.offset, done.length)).collect();
        let wrong = split.wrong.iter().map(|piece| (piece.offset, piece.length)).collect();
        (right, wrong)
    }

    #[test]
    fn f065_blocks_are_told_by_their_content() {
        let content: Vec<u8> = (0..=250).cycle().take(BLOCK * 11 / 2).collect();
        let hasher = BlockHasher::new(&[7; 32]);
        let hashes: Vec<u64> = content.chunks(BLOCK).map(|block| hasher.hash(block)).collect();
        let expected = Expected::Hashes(&hasher, hashes);
        let source = Source::Pack { base: None, pack: 3, raw: 8 };
        let block = BLOCK as u64;
        let whole = piece(source, &content);
        assert_eq!(parts(&whole, &expected), (vec![(0, block * 11 / 2)], vec![]));
        let split = compared(&whole, &expected, block, &mut Vec::new());
        assert_eq!(split.right.first().unwrap().crc, crc32c::crc32c(&content));
        let mut flipped = content.clone();
        for position in [0, BLOCK - 1, BLOCK * 3, content.len() - 1] {
            flipped[position] ^= 1;
        }
        let found = parts(&piece(source, &flipped), &expected);
        let right = vec![(block, block * 2), (block * 4, block)];
        let wrong = vec![(0, block), (block * 3, block), (block * 5, block / 2)];
        assert_eq!(found, (right, wrong));
        // A block is fetched from its own place in the pack.
        let split = compared(&piece(source, &flipped), &expected, block, &mut Vec::new());
        let from = PieceSource::Pack(None, 3, (8 + 3) * block);
        assert_eq!(split.wrong.get(1).unwrap().source, from);
        for length in [0, 1, BLOCK * 2, BLOCK * 2 + 1, content.len() - 1] {
            let (right, wrong) = parts(&piece(source, &content[..length]), &expected);
            let whole = (length / BLOCK * BLOCK) as u64;
            assert_eq!(right.iter().map(|(_, length)| length).sum::<u64>(), whole, "{length}");
            assert_eq!(wrong, [(whole, block * 11 / 2 - whole)], "{length}");
        }
        assert_eq!(parts(&whole, &Expected::Unknown), (vec![], vec![(0, block * 11 / 2)]));
    }

    /// A bad sector, the very reason to restore, ended each restore over the directory.
    #[test]
    fn d2026_11_29_what_cannot_be_read_is_written_anew() {
        let content: Vec<u8> = (0..=250).cycle().take(BLOCK * 11 / 2).collect();
        let mut piece = piece(Source::Zeros, &content);
        let unreadable = tempfile::NamedTempFile::new().unwrap();
        let target = Arc::get_mut(&mut piece.target).unwrap();
        target.file = File::options().write(true).open(unreadable.path()).unwrap();
        let split = compared(&piece, &Expected::Zeros, BLOCK as u64, &mut Vec::new());
        assert_eq!((split.right.len(), split.wrong.len()), (0, 1));
        assert_eq!(split.wrong[0].length, content.len() as u64);
        assert!(split.unread.is_some());
    }

    #[test]
    fn f065_zeros_must_be_zeros() {
        let mut content = vec![0; BLOCK * 11 / 2];
        let (block, all) = (BLOCK as u64, content.len() as u64);
        assert_eq!(parts(&piece(Source::Zeros, &content), &Expected::Zeros).0, [(0, all)]);
        content[BLOCK * 2 + 5] = 1;
        let (right, wrong) = parts(&piece(Source::Zeros, &content), &Expected::Zeros);
        assert_eq!(right, [(0, block * 2), (block * 3, all - block * 3)]);
        assert_eq!(wrong, [(block * 2, block)]);
    }
}
