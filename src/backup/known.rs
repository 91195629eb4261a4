//! Where the blocks of a file lie already: by the hashes that the parent and dead attempts stored of them.

use super::error::{Error, Result};
use super::stands::Stands;
use crate::repo::{Layer, Row, Source, Wanted};

/// Looks for blocks of one file.
pub(super) struct Known<'a> {
    stands: &'a Stands,
    /// What the parent and dead attempts say of it; the first that has a block counts.
    rows: Vec<&'a Row>,
    /// The first block that `known` tells of.
    first: u32,
    /// For each block, and for each row.
    known: Vec<Option<Place>>,
    hashes: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    source: Source,
    /// Of what is no zeros.
    hash: u64,
}

impl<'a> Known<'a> {
    /// By these rows of the file.
    pub(super) fn new(stands: &'a Stands, rows: Vec<&'a Row>) -> Self {
        Self { stands, rows, first: 0, known: Vec::new(), hashes: Vec::new() }
    }

    /// Brings what is known of blocks `first` to `end`. Of the layer that they lie in, the hashes that follow
    /// come along.
    pub(super) fn load(&mut self, first: u32, end: u32) -> Result<()> {
        self.first = first;
        self.known.clear();
        self.known.resize((end - first) as usize * self.rows.len(), None);
        for (at, row) in self.rows.clone().into_iter().enumerate() {
            let before = row.layers.partition_point(|layer| layer.block + layer.count <= first);
            for layer in row.layers.get(before..).unwrap_or_default() {
                if layer.block >= end {
                    break;
                }
                self.part(at, layer, first.max(layer.block), end.min(layer.block + layer.count))?;
            }
        }
        Ok(())
    }

    fn part(&mut self, row: usize, layer: &Layer, begin: u32, end: u32) -> Result<()> {
        let Source::Pack { base, pack, raw } = layer.source else {
            let zeros = Place { source: Source::Zeros, hash: 0 };
            (begin..end).for_each(|block| self.know(row, block, zeros));
            return Ok(());
        };
        let raw_of = |block: u32| raw.saturating_add(block - layer.block);
        let Some(reader) = self.stands.hashes(base, pack)? else { return Ok(()) };
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        let (likely, last) = (raw_of(layer.block + layer.count), raw_of(end));
        match reader.read(raw_of(begin), last, likely, &mut hashes) {
            Ok(()) => {}
            // An attempt's are a gift.
            Err(error) if error.is_about_one_object() && self.is_attempt(base) => hashes.clear(),
            Err(error) => return Err(self.damaged(error)),
        }
        for (block, hash) in (begin..end).zip(&hashes) {
            let source = Source::Pack { base, pack, raw: raw_of(block) };
            self.know(row, block, Place { source, hash: *hash });
        }
        self.hashes = hashes;
        Ok(())
    }

    fn is_attempt(&self, base: Option<u32>) -> bool {
        base.and_then(|base| self.stands.attempt(base)).is_some()
    }

    fn damaged(&self, error: crate::repo::Error) -> Error {
        match &self.stands.parent {
            Some(parent) => parent.damaged(error),
            None => error.into(),
        }
    }

    fn know(&mut self, row: usize, block: u32, place: Place) {
        let at = (block - self.first) as usize * self.rows.len() + row;
        if let Some(known) = self.known.get_mut(at) {
            *known = Some(place);
        }
    }

    /// Where a block lies, if it is as it was.
    pub(super) fn find(&self, wanted: &Wanted<'_>) -> Option<Source> {
        let at = wanted.block.checked_sub(self.first)? as usize * self.rows.len();
        let places = self.known.get(at..at + self.rows.len())?.iter().flatten();
        let mut same = places.filter(|place| match place.source {
            Source::Zeros => wanted.is_zero,
            Source::Pack { .. } => wanted.hash == place.hash,
        });
        same.next().map(|place| place.source)
    }
}
