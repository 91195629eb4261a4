//! Configuration: from file, environment and flags to the settings of a run.
//!
//! The only room that reads the configuration file, the environment and the secrets. No lower room
//! knows it: [`Settings`] hands out plain values, and `wiring` turns them into each room's options.
//!
//! The way of a value: [`schema`] says which keys exist; [`mod@file`] and [`mod@env`] turn text into
//! a layer; [`layers`] lays one over the other and remembers where each value came from; [`sections`]
//! gives it its type; [`resolve`] picks the cluster and the repository that are meant. What may be
//! wrong with a value is found when it is read; what is missing, when it is needed.

mod duration;
pub mod env;
mod error;
pub mod file;
mod flag_secret;
pub mod layers;
mod location;
mod nearest;
mod passphrase_command;
mod reader;
pub mod resolve;
mod s3;
pub mod schema;
mod secret_source;
pub mod sections;
#[cfg(test)]
mod tests;
mod values;

pub use duration::{NotADuration, parse_duration};
pub use env::Environment;
pub use error::{Error, Result, Warning};
pub use layers::{FlagValue, Origin};
pub use location::{Location, S3Location};
pub use passphrase_command::CommandFailure;
pub use resolve::{DEFAULT_PATH, Resolved, Settings, Sources};
pub use s3::S3Settings;
pub use secret_source::{SecretSource, Unlocked};
pub use sections::{
    ClusterSettings, DaemonSettings, Moves, RepositorySettings, Retention, ScheduleSettings,
    Tiering,
};
pub use values::Fallback;
