//! Which blocks of a content are stored, and which are zeros or lie in a base already.

use super::file_table::Source;
use crate::crypt::BlockHasher;

/// A run of zero blocks shorter than this is stored: it compresses to nearly nothing, and a layer
/// costs more.
const ZERO_RUN_MIN: usize = 16;

/// A block that lies elsewhere already is stored again where, with its like, it is at most one in this many of
/// what surrounds it: a frame of the other pack and two layers cost more.
const GAP_ONE_IN: usize = 8;

/// A block to be looked for.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Its number in the file.
    pub block: u32,
    /// Its bytes, at the end of a file as many as there are.
    pub content: &'a [u8],
    /// Its hash.
    pub hash: u64,
    /// It is zeros.
    pub is_zero: bool,
}

/// Says where a block lies already, if it does.
pub type Find<'a> = &'a mut dyn FnMut(&Wanted<'_>) -> Option<Source>;

/// What is stored together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Each block for itself.
    Block,
    /// All of them, or none.
    All,
}

/// What is known of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    block: u32,
    is_zero: bool,
    /// Of blocks that are stored or were looked for.
    pub(super) hash: u64,
    /// Where it lies, unless it is stored.
    place: Option<Source>,
    /// Raw blocks go on from the one before.
    goes_on: bool,
}

impl Known {
    pub(super) fn of(block: u32, content: &[u8]) -> Self {
        let is_zero = is_zero(content);
        Self { block, is_zero, hash: 0, place: None, goes_on: false }
    }
}

/// Blocks that go the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) count: usize,
    /// Where they lie from the first one on; none where they are stored.
    pub(super) place: Option<Source>,
}

/// Decides of each block where it goes.
pub(super) fn settle(
    blocks: &mut [Known],
    (content, size): (&[u8], usize),
    hasher: &BlockHasher,
    unit: Unit,
    find: Find<'_>,
) {
    long_zeros(blocks);
    for (known, content) in blocks.iter_mut().zip(content.chunks(size)) {
        if known.place.is_some() {
            continue;
        }
        known.hash = hasher.hash(content);
        let Known { block, hash, is_zero, .. } = *known;
        known.place = find(&Wanted { block, content, hash, is_zero });
    }
    match unit {
        Unit::Block => join_gaps(blocks),
        Unit::All if blocks.iter().any(|known| known.place.is_none()) => {
            let others = blocks.iter_mut().filter(|known| known.place != Some(Source::Zeros));
            others.for_each(|known| known.place = None);
        }
        Unit::All => {}
    }
    // Zeros that are stored after all, between others.
    let unhashed = |known: &Known| known.place.is_none() && known.hash == 0;
    for (known, content) in blocks.iter_mut().zip(content.chunks(size)) {
        if unhashed(known) {
            known.hash = hasher.hash(content);
        }
    }
    let mut last = None;
    for known in blocks {
        known.goes_on = last.is_some_and(|last| follows(last, known.place));
        last = Some(known.place);
    }
}

/// Whether a block's place is the one behind another's.
fn follows(last: Option<Source>, next: Option<Source>) -> bool {
    match (last, next) {
        (None, None) => true,
        (Some(last), Some(next)) => last.plus(1) == Some(next),
        _ => false,
    }
}

fn long_zeros(blocks: &mut [Known]) {
    for run in blocks.chunk_by_mut(|a, b| a.is_zero == b.is_zero) {
        if run.len() >= ZERO_RUN_MIN && run.first().is_some_and(|known| known.is_zero) {
            run.iter_mut().for_each(|known| known.place = Some(Source::Zeros));
        }
    }
}

/// Stores what lies elsewhere between blocks that are stored, where that is cheaper.
fn join_gaps(blocks: &mut [Known]) {
    let mut stored = 0;
    let mut at = 0;
    while at < blocks.len() {
        let rest = blocks.get_mut(at..).unwrap_or_default();
        let gap = rest.iter().take_while(|known| known.place.is_some()).count();
        if gap == 0 {
            stored += 1;
            at += 1;
            continue;
        }
        let is_between = gap < rest.len();
        if is_between && (gap + 1) * GAP_ONE_IN <= stored + GAP_ONE_IN {
            rest.iter_mut().take(gap).for_each(|known| known.place = None);
            stored += gap;
        } else {
            stored = 0;
        }
        at += gap;
    }
}

/// The run that begins with this block.
pub(super) fn next(blocks: &[Known], first: usize) -> Option<Run> {
    let rest = blocks.get(first..)?;
    let place = rest.first()?.place;
    let more = rest.iter().skip(1).take_while(|known| known.goes_on).count();
    Some(Run { count: 1 + more, place })
}

/// Whether all bytes are zero; the first word decides for nearly every block.
fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<8>();
    words.first().is_none_or(|word| *word == [0; 8])
        && words.iter().fold(0, |or, word| or | u64::from_ne_bytes(*word)) == 0
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of blocks `x` (stored), `.` (zeros), and digits (they lie in that pack): the runs.
    fn runs(pattern: &str) -> Vec<(usize, char)> {
        runs_of(pattern, Unit::Block)
    }

    fn runs_of(pattern: &str, unit: Unit) -> Vec<(usize, char)> {
        let content: Vec<u8> =
            pattern.bytes().flat_map(|byte| [if byte == b'.' { 0 } else { 1 }; 4]).collect();
        let mut blocks: Vec<Known> =
            (0..).zip(content.chunks(4)).map(|(i, block)| Known::of(i, block)).collect();
        let mut find = |wanted: &Wanted<'_>| {
            let digit = char::from(pattern.as_bytes()[wanted.block as usize]).to_digit(10);
            digit.map(|pack| Source::Pack { base: Some(0), pack, raw: wanted.block })
        };
        let hasher = BlockHasher::new(&[0; 32]);
        settle(&mut blocks, (&content, 4), &hasher, unit, &mut find);
        let (mut found, mut first) = (Vec::new(), 0);
        while let Some(run) = next(&blocks, first) {
            let kind = match run.place {
                None => 'x',
                Some(Source::Zeros) => '.',
                Some(Source::Pack { pack, .. }) => char::from_digit(pack, 10).unwrap(),
            };
            found.push((run.count, kind));
            first += run.count;
        }
        found
    }

    #[test]
    fn only_long_runs_of_zeros_become_layers() {
        let long = ".".repeat(16);
        assert_eq!(runs(""), []);
        assert_eq!(runs("x..x"), [(4, 'x')]);
        assert_eq!(runs(&long), [(16, '.')]);
        assert_eq!(runs(&format!("x{long}.xx...")), [(1, 'x'), (17, '.'), (5, 'x')]);
        assert_eq!(runs(&format!("{long}x{long}")), [(16, '.'), (1, 'x'), (16, '.')]);
    }

    /// A run of zeros that was not worth a layer, in windows of many small blocks, was stored with hashes of 0, so
    /// that the next backup did not know its blocks and stored them again.
    #[test]
    fn d2026_11_29_zeros_that_are_stored_have_their_hash() {
        let mut content = vec![1; 4 * 200];
        content[4 * 150..4 * 166].fill(0);
        let mut blocks: Vec<Known> =
            (0..).zip(content.chunks(4)).map(|(i, block)| Known::of(i, block)).collect();
        let hasher = BlockHasher::new(&[7; 32]);
        settle(&mut blocks, (&content, 4), &hasher, Unit::Block, &mut |_| None);
        assert_eq!(next(&blocks, 0).map(|run| run.count), Some(200), "one run, zeros and all");
        for (known, block) in blocks.iter().zip(content.chunks(4)) {
            assert_eq!(known.hash, hasher.hash(block), "block {}", known.block);
        }
    }

    #[test]
    fn blocks_that_lie_elsewhere_stay_there_but_for_small_gaps() {
        assert_eq!(runs("111"), [(3, '1')]);
        assert_eq!(runs("x1x11x"), [(1, 'x'), (1, '1'), (1, 'x'), (2, '1'), (1, 'x')]);
        assert_eq!(runs("1122"), [(2, '1'), (2, '2')]);
        // One in eight is joined, at either end none.
        assert_eq!(runs("xxxxxxxx1x"), [(10, 'x')]);
        assert_eq!(runs("xxxxxxx1x"), [(7, 'x'), (1, '1'), (1, 'x')]);
        assert_eq!(runs("xxxxxxxx11x"), [(8, 'x'), (2, '1'), (1, 'x')]);
        assert_eq!(runs("xxxxxxxx1"), [(8, 'x'), (1, '1')]);
        assert_eq!(runs(&format!("{}11x", "x".repeat(16))), [(19, 'x')]);
    }

    #[test]
    fn what_is_stored_together_is_stored_or_not() {
        let all = |pattern: &str| runs_of(pattern, Unit::All);
        assert_eq!(all("1112"), [(3, '1'), (1, '2')]);
        assert_eq!(all("111x"), [(4, 'x')]);
        assert_eq!(all("x1111111111111"), [(14, 'x')]);
        // Long zeros cost nothing, wherever they are.
        let zeros = ".".repeat(16);
        assert_eq!(all(&format!("11{zeros}x2")), [(2, 'x'), (16, '.'), (2, 'x')]);
        assert_eq!(all(&format!("11{zeros}22")), [(2, '1'), (16, '.'), (2, '2')]);
    }
}
