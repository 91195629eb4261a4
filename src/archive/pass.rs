//! One pass over a segment on its way into a repository.
//!
//! A piece at a time is read, digested, compressed, encrypted, authenticated, and its records are looked
//! through: every byte is used while it is in the processor's cache, and what is held in memory is a few
//! pieces and the sealed result, not the segment. Who waits for one segment has two threads at it; where
//! several are under way, one for each leaves fewer bytes to be handed from one processor to another.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::error::{Error, Result};
use crate::crypt::ContentDigest;
use crate::pg::wal::{Findings, SegmentHeader, Source, scan_segment};
use crate::repo::{SealedWal, WAL_PIECE};

/// Buffers for two threads: one that is looked through, one on its way, one that is sealed. When a piece
/// could be sent, the one on the way before it was taken, so the one before that is free again.
const BUFFERS: usize = 3;

/// One thread that does everything has a piece in its processor's cache as it was read, as it is sealed, and
/// as it was sealed.
const PIECE: usize = WAL_PIECE / 2;

/// What a pass found in a segment, by a repository's key.
pub(super) struct Passed {
    pub(super) findings: Findings,
    pub(super) digest: String,
    pub(super) sealed: Option<SealedWal>,
}

/// A piece of the segment.
#[derive(Clone)]
struct Piece {
    bytes: Arc<Vec<u8>>,
    length: usize,
    is_last: bool,
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// The segment as it is read.
struct Arriving<'a> {
    file: &'a File,
    size: u64,
    /// How much of it was read.
    read: u64,
    buffers: [Arc<Vec<u8>>; BUFFERS],
    pieces: usize,
    current: Option<Piece>,
    digest: ContentDigest,
    sealing: Sealing,
    failed: Option<io::Error>,
}

/// Who seals.
enum Sealing {
    /// Nobody.
    Not,
    /// Whoever reads.
    Here(Box<SealedWal>),
    /// Another thread.
    There(SyncSender<Piece>),
}

impl Source for &mut Arriving<'_> {
    fn piece(&self) -> (usize, &[u8]) {
        let current = self.current.as_ref().map(Piece::bytes).unwrap_or_default();
        let begin = self.read - current.len() as u64;
        (usize::try_from(begin).unwrap_or(usize::MAX), current)
    }

    fn advance(&mut self) -> bool {
        if self.read >= self.size || self.failed.is_some() {
            return false;
        }
        match self.read_piece() {
            Ok(piece) => {
                self.current = Some(piece);
                true
            }
            Err(error) => {
                self.failed = Some(error);
                false
            }
        }
    }
}

impl Arriving<'_> {
    fn read_piece(&mut self) -> io::Result<Piece> {
        self.current = None;
        let (place, room) = match self.sealing {
            Sealing::There(_) => (self.pieces % BUFFERS, WAL_PIECE),
            Sealing::Here(_) | Sealing::Not => (0, PIECE),
        };
        let mut bytes = std::mem::take(self.buffers.get_mut(place).expect("it is one of them"));
        if Arc::get_mut(&mut bytes).is_none_or(|bytes| bytes.is_empty()) {
            bytes = Arc::new(vec![0; room]);
        }
        let left = self.size - self.read;
        let length = usize::try_from(left).unwrap_or(room).min(room);
        let space = Arc::get_mut(&mut bytes).and_then(|bytes| bytes.get_mut(..length));
        let space = space.expect("nobody else holds it");
        // A file that is shorter than it was has changed under its name: an error.
        self.file.read_exact_at(space, self.read)?;
        self.digest.add(space);
        self.read += length as u64;
        self.pieces += 1;
        if let Some(buffer) = self.buffers.get_mut(place) {
            *buffer = Arc::clone(&bytes);
        }
        let piece = Piece { bytes, length, is_last: self.read == self.size };
        match &mut self.sealing {
            Sealing::Not => {}
            Sealing::Here(sealed) => sealed.add(piece.bytes(), piece.is_last),
            Sealing::There(sender) => {
                let hung_up = |_| io::Error::other("the thread that seals has ended");
                sender.send(piece.clone()).map_err(hung_up)?;
            }
        }
        Ok(piece)
    }
}

/// Reads the segment in `file`, whose header is `header` and whose name says `timeline`, and seals it
/// into `sealing`, if there is one; beside the reading, with another thread, where that is quicker.
pub(super) fn pass(
    (file, path): (&File, &Path),
    header: &SegmentHeader,
    timeline: u32,
    digest: ContentDigest,
    sealing: Option<SealedWal>,
    is_alone: bool,
) -> Result<Passed> {
    let mut arriving = Arriving {
        file,
        size: header.segment_bytes.into(),
        read: 0,
        buffers: Default::default(),
        pieces: 0,
        current: None,
        digest,
        sealing: Sealing::Not,
        failed: None,
    };
    std::thread::scope(|scope| {
        let mut sealer = None;
        match sealing {
            None => {}
            Some(sealed) if !is_alone => arriving.sealing = Sealing::Here(Box::new(sealed)),
            Some(sealed) => {
                let (sender, receiver) = sync_channel(1);
                arriving.sealing = Sealing::There(sender);
                sealer = Some(scope.spawn(move || seal(sealed, &receiver)));
            }
        }
        let findings = scan_segment(&mut arriving, header, timeline);
        // Records may end before the segment does.
        let mut rest = &mut arriving;
        while rest.advance() {}
        let Arriving { failed, digest, sealing, .. } = arriving;
        let sealed = match sealing {
            Sealing::Not => None,
            Sealing::Here(sealed) => Some(*sealed),
            Sealing::There(sender) => {
                drop(sender);
                sealer.map(|sealer| sealer.join().expect("sealing does not panic"))
            }
        };
        if let Some(source) = failed {
            return Err(Error::File { action: "read", path: path.into(), source });
        }
        Ok(Passed { findings, digest: digest.finish(), sealed })
    })
}

fn seal(mut sealed: SealedWal, pieces: &Receiver<Piece>) -> SealedWal {
    while let Ok(piece) = pieces.recv() {
        sealed.add(piece.bytes(), piece.is_last);
    }
    sealed
}
