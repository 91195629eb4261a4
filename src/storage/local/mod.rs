//! Objects as files below a root folder.
//!
//! Guarantees what [`ObjectStore`] asks for on a local file system, and as far as the server keeps
//! its word on NFS and CIFS. The root is opened once; when its path no longer leads to it (lost
//! mount, removed, mounted over) every absence, list and change is [`Error::NoStore`], and the
//! store has to be opened anew: another folder may be another repository.
//!
//! On NFS, absence is as fresh as the client's cache allows: opening a folder asks the server, but
//! names directly below the root may lag by the attribute cache (`acdirmax`; `lookupcache=positive`
//! ends it). A call on a hard mount whose server is gone does not return: callers keep deadlines.
//!
//! It leaves empty folders behind, and after a crash temporary files, which are never visible and
//! which [`crate::storage::sweep_unfinished`] removes. It takes no locks.

mod list;
mod root;
mod store;
mod write;

pub use store::LocalStore;

#[cfg(test)]
mod tests;
