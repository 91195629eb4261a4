//! `expire`: plan, print, ask where much would go, execute; then what is old moves to colder storage. And the same after
//! a backup.

mod moving;
mod run;
mod text;
mod tier;

pub(super) use run::after_backup;
pub use run::expire;
