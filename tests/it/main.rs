//! The one integration-test binary; a module per behaviour. `tests/README.md` says how to run one.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests drive the outside world: they read its clock and its environment, and a failed step is a panic that says which"
)]

mod archive_forks;
mod archive_live;
mod archive_recovery;
mod archive_several;
mod backup_ends;
mod backup_live;
mod backup_motion;
mod backup_places;
mod chain_crash;
mod chain_files;
mod chain_live;
mod chain_model;
mod chain_refused;
mod chain_tricks;
mod cli;
mod cli_live;
mod config_live;
mod copy_live;
mod crash;
mod daemon_chaos;
mod daemon_drain;
mod daemon_faults;
mod daemon_foundation;
mod daemon_histories;
mod daemon_live;
mod daemon_memory;
mod daemon_sidecar;
mod delta_asked;
mod delta_crash;
mod delta_live;
mod delta_refused;
mod delta_shared;
mod expire_crash;
mod expire_live;
mod expire_model;
mod expire_races;
mod failover_live;
mod format;
mod live_harness;
mod majors;
mod pgconn_live;
mod pitr;
mod plan_live;
mod plan_proofs;
mod plan_warnings;
mod pooler;
mod regress;
mod restore_again;
mod restore_aside;
mod restore_crash;
mod restore_live;
mod restore_order;
mod resume_fates;
mod resume_live;
mod s3_answers;
mod s3_claims;
mod s3_credentials;
mod s3_faults;
mod s3_foundation;
mod s3_kill;
mod s3_live;
mod s3_races;
mod s3_roles;
mod s3_second_opinion;
mod s3_server;
mod s3_server_faults;
mod s3_store;
mod s3_tiers;
mod standby_live;
mod summaries;
mod support;
mod tier_crash;
mod tier_live;
mod tier_thaw;
mod transfer_crash;
mod transfer_expiry;
mod transfer_live;
mod transfer_store;
mod wal_live;
