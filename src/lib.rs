#![doc = include_str!("ARCHITECTURE.md")]

// Rooms in layer order: a room names only rooms above it in this list (tests/tidy.rs).
pub mod base;

pub mod codec;
pub mod crypt;
pub mod pg;

pub mod pgconn;
pub mod storage;

pub mod repo;

pub mod archive;
pub mod backup;
pub mod restore;
pub mod retention;
pub mod tiering;
pub mod transfer;

pub mod daemon;

pub mod config;

pub mod wiring;

pub mod cli;
