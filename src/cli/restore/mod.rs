//! `restore`: plan, print, ask, thaw what is cold, execute, say what comes next.

mod args;
mod run;
mod thaw;

pub use args::{RestoreArgs, SpeedArg};
pub(super) use run::confirm;
pub use run::restore;
