//! `expire`: plan, print, ask where much would go, execute; and the same after a backup.

mod run;
mod text;

pub(super) use run::after_backup;
pub use run::expire;
