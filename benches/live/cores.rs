//! What is measured and what serves it, on processors of their own.
//!
//! A server of the bench's own takes processor time from whom it serves. With `apart` everything that the
//! bench starts (servers, proxies, PostgreSQL) and the bench itself stay off the first half of the processors,
//! and what is measured has that half alone.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Which processors are whose.
pub struct Cores {
    measured: CpuSet,
    others: CpuSet,
    /// How many are measured; nothing when there is one processor for all.
    pub measured_count: Option<u32>,
}

impl Cores {
    /// Moves this thread, with every thread and program that it starts from now on, off the half that is
    /// measured.
    pub fn apart() -> Self {
        let all = sched_getaffinity(None).unwrap();
        let count = all.count();
        let own: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
        let (first, second) = own.split_at(own.len() / 2);
        let set = |cpus: &[usize]| {
            let mut set = CpuSet::new();
            cpus.iter().for_each(|cpu| set.set(*cpu));
            set
        };
        if count < 2 {
            return Self { measured: all, others: all, measured_count: None };
        }
        let cores = Self {
            measured: set(first),
            others: set(second),
            measured_count: u32::try_from(first.len()).ok(),
        };
        sched_setaffinity(None, &cores.others).unwrap();
        cores
    }

    /// Does what is measured: programs that it starts run on the measured half.
    pub fn measured<T>(&self, work: impl FnOnce() -> T) -> T {
        sched_setaffinity(None, &self.measured).unwrap();
        let done = work();
        sched_setaffinity(None, &self.others).unwrap();
        done
    }
}
