//! Random sequences of all that happens to a repository, with what DESIGN.md promises checked after every step on the
//! store itself.
//!
//! Somebody pushes, takes backups, pins, restores; rules change; expiry and tiering run, die, and run again. Any of them
//! may be stopped before any request to its store, for an hour or for days, while all others go on, take over its lease, and
//! decide otherwise; then it is killed, or goes on as if nothing had been (`processes`). `PGKEEP_SEED=n` runs a sequence
//! again; only in which order requests come that a process sends side by side is not in the seed.
//! `PGKEEP_MODEL_RUNS=100` runs more of them.

mod cold;
mod processes;
mod run;
mod steps;
mod writers;

use std::collections::BTreeMap;

use self::run::Run;
use crate::support::Dice;

/// Steps of a run; each checks everything.
const STEPS: u64 = 140;

const RUNS: u64 = 6;

#[test]
fn whatever_happens_what_is_promised_stays() {
    let mut dice = Dice::new();
    let runs = std::env::var("PGKEEP_MODEL_RUNS").ok();
    let runs = runs.map_or(RUNS, |text| text.parse().expect("PGKEEP_MODEL_RUNS is a number"));
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..runs {
        let seed = dice.below(1 << 30);
        eprintln!("run of {seed}");
        let mut run = Run::begin(Dice::of(seed));
        for _ in 0..STEPS {
            run.step();
        }
        run.end();
        for (what, count) in run.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    eprintln!("{counts:?}");
    for what in ["moved packs", "read after a thaw", "stopped expire"] {
        assert!(counts.get(what).is_some_and(|count| *count > 0), "no {what}: {counts:?}");
    }
}
