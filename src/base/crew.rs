//! Threads that live as long as what they work for: joined when it ends.

use std::sync::Arc;
use std::thread::JoinHandle;

/// A few threads that share something and are told to end by it.
#[derive(Debug)]
pub struct Crew {
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// `count` threads that do `work`, which returns when the shared thing says so.
    #[allow(clippy::disallowed_methods, reason = "they are joined when the crew ends")]
    pub fn begin<T: Send + Sync + 'static>(
        count: usize,
        shared: &Arc<T>,
        work: impl Fn(&T) + Send + Clone + 'static,
    ) -> Self {
        let begin = |_| {
            let (shared, work) = (Arc::clone(shared), work.clone());
            std::thread::spawn(move || work(&shared))
        };
        Self { threads: (0..count).map(begin).collect() }
    }
}

/// Waits for each. One that panicked has said so by the panic hook.
impl Drop for Crew {
    fn drop(&mut self) {
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}
