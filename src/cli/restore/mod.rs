//! `restore`: plan, print, ask, thaw what is cold, execute, say what comes next.

mod args;
mod run;
mod thaw;

pub use args::{RestoreArgs, SpeedArg};
pub use run::restore;
