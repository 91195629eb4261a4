//! A few things that were read last, kept so that neighbours need not read them again.

use std::collections::VecDeque;
use std::sync::Arc;

/// What was used last, by its number; the last one is the newest.
#[derive(Debug)]
pub(super) struct Recent<T, const KEPT: usize>(VecDeque<(u64, Arc<T>)>);

impl<T, const KEPT: usize> Default for Recent<T, KEPT> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T, const KEPT: usize> Recent<T, KEPT> {
    pub(super) fn find(&mut self, number: u64) -> Option<Arc<T>> {
        let at = self.0.iter().position(|(kept, _)| *kept == number)?;
        let found = self.0.remove(at)?;
        let value = Arc::clone(&found.1);
        self.0.push_back(found);
        Some(value)
    }

    /// What is kept under a number, or made and kept now.
    pub(super) fn get_or_make<E>(
        &mut self,
        number: u64,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        if let Some(found) = self.find(number) {
            return Ok(found);
        }
        let made = Arc::new(make()?);
        self.keep(number, Arc::clone(&made));
        Ok(made)
    }

    /// Keeps one more; the one that was not used for the longest time goes.
    pub(super) fn keep(&mut self, number: u64, value: Arc<T>) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back((number, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKS_KEPT: usize = 64;

    /// Every pack's reader stayed, with a page: a restore of a large backup needed memory by its size.
    #[test]
    fn d20261124_few_packs_are_kept_those_that_were_used_last() {
        let mut recent = Recent::<_, PACKS_KEPT>::default();
        for number in 0..10_000 {
            assert!(recent.find(number).is_none());
            recent.keep(number, Arc::new(number));
            assert_eq!(recent.find(number).as_deref(), Some(&number));
            assert!(recent.find(0).is_some(), "it is used all the time");
        }
        assert_eq!(recent.0.len(), PACKS_KEPT);
        assert!(recent.find(9_999).is_some() && recent.find(9_900).is_none());
    }
}
