//! Small waits side by side: the same request for many things, several at a time.
//!
//! Threads are bounded and end with the call. Results come in the order of the things, and after the first
//! failure nothing new is begun.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How many are under way at most: enough that a store's answers overlap, few enough for its limits.
pub const AT_ONCE: usize = 16;

/// How many things [`ahead`] looks after at a time, at most.
const AHEAD_MAX: usize = 256;

/// Does `work` for each of `items`, and gives the results in their order, or the first failure.
///
/// # Errors
/// As `work`'s.
pub fn side_by_side<T: Sync, R: Send, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    few_side_by_side(AT_ONCE, items, work)
}

/// As [`side_by_side`], with `count` under way at most: of large things, each of which takes memory.
///
/// # Errors
/// As `work`'s.
pub fn few_side_by_side<T: Sync, R: Send, E: Send>(
    count: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    if items.len() < 2 || count < 2 {
        return items.iter().map(work).collect();
    }
    let (next, has_failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let worker = || {
        let mut done = Vec::new();
        while !has_failed.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { break };
            let result = work(item);
            has_failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((i, result));
        }
        done
    };
    let mut all: Vec<(usize, Result<R, E>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..items.len().min(count)).map(|_| scope.spawn(worker)).collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined
            .flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, result)| result).collect()
}

/// Hands on `items` with what `work` gives for each, done side by side for a few things ahead: for one at
/// first, then for twice as many each time. Who stops early has hardly asked for more than was needed.
pub fn ahead<T: Sync, R: Send>(
    mut items: impl Iterator<Item = T>,
    work: impl Fn(&T) -> R + Sync,
) -> impl Iterator<Item = (T, R)> {
    let mut ready: VecDeque<(T, R)> = VecDeque::new();
    let mut count = 1;
    std::iter::from_fn(move || {
        if ready.is_empty() {
            let chunk: Vec<T> = items.by_ref().take(count).collect();
            count = (count * 2).min(AHEAD_MAX);
            let done = side_by_side(&chunk, |item| Ok::<R, std::convert::Infallible>(work(item)));
            let done = done.unwrap_or_else(|never| match never {});
            ready.extend(chunk.into_iter().zip(done));
        }
        ready.pop_front()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::time::Duration;

    #[test]
    fn results_come_in_order_and_from_few_threads() {
        let threads = Mutex::new(std::collections::BTreeSet::new());
        let items: Vec<u32> = (0..1000).collect();
        let done = side_by_side(&items, |item| {
            threads.lock().unwrap().insert(format!("{:?}", std::thread::current().id()));
            Ok::<_, ()>(item * 2)
        });
        assert_eq!(done.unwrap(), (0..1000).map(|item| item * 2).collect::<Vec<_>>());
        assert!(threads.lock().unwrap().len() <= AT_ONCE);
        assert_eq!(side_by_side(&[] as &[u32], |_| Err::<(), _>("never")), Ok(vec![]));
    }

    #[test]
    fn a_failure_ends_it_and_the_first_one_is_told() {
        let asked = AtomicUsize::new(0);
        let items: Vec<u32> = (0..100_000).collect();
        let done = side_by_side(&items, |item| {
            asked.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(10));
            if *item >= 20 { Err(*item) } else { Ok(()) }
        });
        assert_eq!(done, Err(20));
        assert!(asked.load(Ordering::Relaxed) < 1000);
    }

    #[test]
    fn who_stops_early_has_asked_for_little() {
        let asked = AtomicUsize::new(0);
        let count = |item: &usize| {
            asked.fetch_add(1, Ordering::Relaxed);
            item * 3
        };
        let mut each = ahead(0..10_000_usize, count);
        assert_eq!(each.next(), Some((0, 0)));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(each.next(), Some((1, 3)));
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        assert_eq!(each.last(), Some((9_999, 29_997)));
        assert_eq!(asked.load(Ordering::Relaxed), 10_000);
    }
}
