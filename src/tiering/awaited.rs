//! Waiting until what was asked for is thawed.

use std::time::Duration;

use super::cold::{Cold, Readiness, poll, thaw};
use super::error::{Error, Result};
use crate::base::{Ctx, Event, Stage};
use crate::storage::{ObjectStore, Thaw};

/// The first pause between two looks; each is twice as long as the one before.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest: a look is a request for each pack, and thaws take minutes to days.
const PAUSE_MAX: Duration = Duration::from_mins(2);

/// Asks for everything that is cold and waits until all can be read. What has become cold again meanwhile is asked
/// for again.
///
/// # Errors
/// As [`thaw`]; [`Error::Gone`] where a pack was removed; [`crate::base::Cancelled`] where it is to stop: what was asked
/// for goes on, and the same call waits for it.
pub fn thaw_and_wait(
    ctx: &Ctx,
    store: &dyn ObjectStore,
    cold: &Cold,
    wanted: Thaw,
) -> Result<Readiness> {
    let mut found = thaw(ctx, store, cold, wanted)?;
    let bytes_total = cold.packs.iter().map(|pack| pack.size).sum();
    let files_total = cold.packs.len() as u64;
    ctx.observer.event(Event::Begin { stage: Stage::WaitForThaw, bytes_total, files_total });
    let (mut told, mut pause) = (Readiness::default(), PAUSE_MIN);
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
        sleep(ctx, pause)?;
        pause = (pause * 2).min(PAUSE_MAX);
        told = found;
        found = poll(ctx, store, cold)?;
        if found.cold > 0 {
            found = thaw(ctx, store, cold, wanted)?;
        }
    }
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
