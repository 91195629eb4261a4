//! The shutdown token: set once by a signal or a failing sibling, asked by everything that loops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Work stopped because somebody asked it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Cancelled;

/// A flag that is shared by clones and never goes back to unset.
///
/// [`Cancel::child`] makes a flag that is also set when its parent is: one failing worker stops its
/// siblings without stopping the whole program.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    own: Arc<AtomicBool>,
    parents: Vec<Arc<AtomicBool>>,
}

impl Cancel {
    /// A token that nobody has cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The flag itself, for a signal handler.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.own)
    }

    /// A token that is cancelled with this one, but not the other way round.
    #[must_use]
    pub fn child(&self) -> Self {
        let mut parents = self.parents.clone();
        parents.push(Arc::clone(&self.own));
        Self { own: Arc::default(), parents }
    }

    /// Asks everything that holds this token to stop.
    pub fn cancel(&self) {
        self.own.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.own.load(Ordering::Relaxed) || self.parents.iter().any(|p| p.load(Ordering::Relaxed))
    }

    /// `Err` when somebody asked, for use with `?` in loops.
    ///
    /// # Errors
    /// [`Cancelled`].
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_follows_its_parent_and_not_the_reverse() {
        let parent = Cancel::new();
        let child = parent.child();
        let grandchild = child.child();
        child.cancel();
        assert!(!parent.is_cancelled());
        assert!(grandchild.is_cancelled());
        let other = parent.child();
        parent.cancel();
        assert_eq!(other.check(), Err(Cancelled));
    }
}
