//! Waiting until what was asked for is thawed.

use std::time::Duration;

use super::cold::{Cold, ColdPack, Readiness, states, thaw};
use super::error::{Error, Result};
use crate::base::{Ctx, Event, Stage};
use crate::storage::{Availability, ObjectStore, Thaw};

/// The first pause between two looks; each is twice as long as the one before.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest: a look is a request for each pack, and thaws take minutes to days.
const PAUSE_MAX: Duration = Duration::from_mins(2);

/// For how long the store may be away meanwhile: a thaw goes on without anybody who looks.
const AWAY_MAX: Duration = Duration::from_hours(1);

/// How often as long as a thaw takes at most it is waited for, and an hour.
const PATIENCE: u32 = 3;

impl Cold {
    /// How long a thaw of what is cold takes at most, as a rule.
    #[must_use]
    pub fn longest(&self, wanted: Thaw) -> Duration {
        let times = self.packs.iter().filter_map(|pack| pack.state.class.thaw_time(wanted.speed));
        times.map(|time| time.most).max().unwrap_or_default()
    }
}

/// Waits until all can be read that was asked for: `found` is what came of that. What is cold again meanwhile, or still,
/// is asked for again.
///
/// # Errors
/// As [`thaw`]; [`Error::Gone`] where a pack was removed; [`Error::NotThawed`] where it takes much longer than it should;
/// [`crate::base::Cancelled`] where it is to stop: what was asked for goes on, and the same call waits for it.
pub fn wait_for_thaw(
    ctx: &Ctx,
    store: &dyn ObjectStore,
    cold: &Cold,
    (wanted, mut found): (Thaw, Readiness),
) -> Result<Readiness> {
    let bytes_total = cold.packs.iter().map(|pack| pack.size).sum();
    let files_total = cold.packs.len() as u64;
    ctx.observer.event(Event::Begin { stage: Stage::WaitForThaw, bytes_total, files_total });
    let (mut told, mut pause) = (Readiness::default(), PAUSE_MIN);
    let until = ctx.clock.monotonic() + cold.longest(wanted) * PATIENCE + AWAY_MAX;
    let mut answered = ctx.clock.monotonic();
    loop {
        ctx.observer.event(Event::Advance {
            bytes: found.readable_bytes.saturating_sub(told.readable_bytes),
            files: found.readable.saturating_sub(told.readable),
        });
        if found.gone > 0 {
            return Err(Error::Gone { packs: found.gone });
        }
        if found.is_complete() {
            ctx.observer.event(Event::End { stage: Stage::WaitForThaw });
            return Ok(found);
        }
        if ctx.clock.monotonic() > until {
            return Err(Error::NotThawed { packs: found.thawing + found.cold });
        }
        sleep(ctx, pause)?;
        pause = (pause * 2).min(PAUSE_MAX);
        match look(ctx, store, cold, wanted) {
            Ok(now) => {
                answered = ctx.clock.monotonic();
                told = std::mem::replace(&mut found, now);
            }
            Err(error) if ctx.clock.monotonic() < answered + AWAY_MAX => {
                ctx.cancel.check()?;
                ctx.warn(format!("how far the thaw is cannot be asked: {error}; waiting goes on"));
            }
            Err(error) => return Err(error),
        }
    }
}

/// How far it is; what is cold is asked for once more, and nothing else: each request is paid for.
fn look(ctx: &Ctx, store: &dyn ObjectStore, cold: &Cold, wanted: Thaw) -> Result<Readiness> {
    let found = states(ctx, cold, |pack| store.class(&pack.key).map(|class| class.availability))?;
    let is_cold = |(pack, (_, state)): &(&ColdPack, &(u64, Option<Availability>))| {
        let is_asked_for = pack.state.class.needs_thaw();
        let now = ctx.clock.now();
        is_asked_for && state.is_some_and(|at| !at.is_readable(now) && at != Availability::Thawing)
    };
    let again = cold.packs.iter().zip(&found).filter(is_cold).map(|(pack, _)| pack.clone());
    let again = Cold { packs: again.collect(), ..Cold::default() };
    if !again.packs.is_empty() {
        thaw(ctx, store, &again, wanted)?;
    }
    Ok(Readiness::of(&found, ctx.clock.now()))
}

/// In steps, so that somebody who is tired of waiting is heard.
fn sleep(ctx: &Ctx, how_long: Duration) -> Result<()> {
    let until = ctx.clock.monotonic() + how_long;
    loop {
        ctx.cancel.check()?;
        let left = until.saturating_sub(ctx.clock.monotonic());
        if left.is_zero() {
            return Ok(());
        }
        ctx.clock.sleep(left.min(PAUSE_MIN));
    }
}
