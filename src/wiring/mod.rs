//! Assembles stores, repositories, destinations and options from the configuration: no logic.

mod clusters;
mod error;
mod host;
mod lasting;
mod openings;
mod repositories;
mod tiering;
mod transfer;

pub use clusters::{clusters, identities};
pub use error::{Error, Result};
pub use host::{
    BackupFlags, backup_options, config_path, connect_options, connection_user, data_directory_of,
    environment_allows_color, host, is_gone, origin, own_command, own_files, policy,
    program_places, repository_folders, server_now, settings, system_of,
};
pub use lasting::Lasting;
pub use openings::Direct;
pub use repositories::{
    Access, Opened, bucket, create_store, destination, exists, find_cluster, forget_openings,
    has_openings, open, segment_size, store,
};
pub use tiering::{tier_found, tier_policy};
pub use transfer::target_rules;
