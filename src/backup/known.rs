//! Where the blocks of a file lie already: by the hashes that the parent stored of them.

use super::error::Result;
use super::parent::Parent;
use crate::repo::{Layer, Row, Source, Wanted};

/// Looks for blocks of one file.
pub(super) struct Known<'a> {
    parent: &'a Parent,
    row: &'a Row,
    /// The first block that `known` tells of.
    first: u32,
    known: Vec<Place>,
    hashes: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    source: Source,
    /// Of what is no zeros.
    hash: u64,
}

impl<'a> Known<'a> {
    /// By the parent's row of the file.
    pub(super) fn new(parent: &'a Parent, row: &'a Row) -> Self {
        Self { parent, row, first: 0, known: Vec::new(), hashes: Vec::new() }
    }

    /// Brings what is known of blocks `first` to `end`. Of the layer that they lie in, the hashes that follow
    /// come along.
    pub(super) fn load(&mut self, first: u32, end: u32) -> Result<()> {
        self.first = first;
        self.known.clear();
        let before = self.row.layers.partition_point(|layer| layer.block + layer.count <= first);
        for layer in self.row.layers.get(before..).unwrap_or_default() {
            if layer.block >= end {
                break;
            }
            self.part(layer, first.max(layer.block), end.min(layer.block + layer.count))?;
        }
        Ok(())
    }

    fn part(&mut self, layer: &Layer, begin: u32, end: u32) -> Result<()> {
        let Source::Pack { base, pack, raw } = layer.source else {
            let zeros = Place { source: Source::Zeros, hash: 0 };
            self.known.extend((begin..end).map(|_| zeros));
            return Ok(());
        };
        let raw_of = |block: u32| raw.saturating_add(block - layer.block);
        self.hashes.clear();
        let damaged = |error| self.parent.damaged(error);
        let reader = self.parent.hashes(base, pack).map_err(damaged)?;
        let (likely, last) = (raw_of(layer.block + layer.count), raw_of(end));
        reader.read(raw_of(begin), last, likely, &mut self.hashes).map_err(damaged)?;
        self.known.extend((begin..end).zip(&self.hashes).map(|(block, hash)| {
            let source = Source::Pack { base, pack, raw: raw_of(block) };
            Place { source, hash: *hash }
        }));
        Ok(())
    }

    /// Where a block lies, if it is as it was.
    pub(super) fn find(&self, wanted: &Wanted<'_>) -> Option<Source> {
        let at = wanted.block.checked_sub(self.first)?;
        let place = self.known.get(at as usize)?;
        let is_same = match place.source {
            Source::Zeros => wanted.is_zero,
            Source::Pack { .. } => wanted.hash == place.hash,
        };
        is_same.then_some(place.source)
    }
}
