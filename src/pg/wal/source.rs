//! Where the bytes of a segment come from: all of them at once, or piece by piece as they are read.

/// The bytes of one segment, in order.
///
/// A piece begins where the one before ended and holds whole pages, but for the last one. What was in a
/// piece is gone when the next one is asked for.
pub trait Source {
    /// What is at hand, and at which offset in the segment it begins.
    fn piece(&self) -> (usize, &[u8]);

    /// Gives up what is at hand for what follows it; false when nothing does.
    fn advance(&mut self) -> bool;
}

/// A whole segment in memory.
impl Source for &[u8] {
    fn piece(&self) -> (usize, &[u8]) {
        (0, self)
    }

    fn advance(&mut self) -> bool {
        false
    }
}
