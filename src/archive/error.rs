//! Why a file was not archived, or could not be told to be there or absent.

use std::io;
use std::path::PathBuf;

use super::openings::Unopened;
use crate::base::Cancelled;
use crate::pg::{self, Lsn};
use crate::repo;

/// Why a file of WAL was neither stored nor fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name is not one that PostgreSQL gives to files of WAL.
    #[error("{name:?} is not the name of a WAL file")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        #[source]
        source: pg::Error,
    },
    /// A local file could not be read or written.
    #[error("{action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A local file does not hold what it should.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The data directory is a restored copy that must not archive.
    #[error("{} is a restored copy: it does not archive", data_directory.display())]
    Copy {
        /// The directory.
        data_directory: PathBuf,
    },
    /// A repository refused or failed.
    #[error("repository {repository}: {source}")]
    Repository {
        /// Its name in the configuration.
        repository: String,
        /// What it said.
        #[source]
        source: repo::Error,
    },
    /// The cluster's segments have another size than those in the archive, so that one name means two
    /// places in the WAL.
    #[error(
        "repository {repository} keeps WAL segments of {registered} bytes of this cluster, which has \
         segments of {found} bytes now"
    )]
    SegmentSize {
        /// The repository's name in the configuration.
        repository: String,
        /// As the cluster was registered.
        registered: u32,
        /// By its control file.
        found: u32,
    },
    /// The file is absent although something shows that it is needed: WAL is missing.
    #[error("{name} is missing from the archive although {evidence}")]
    Hole {
        /// The file.
        name: String,
        /// What shows that it is needed.
        evidence: String,
    },
    /// The file is absent, as all WAL of the cluster is: this may be another archive than it was.
    #[error(
        "{name} is not in the archive, and no WAL of the cluster is: that does not prove the end of \
         the WAL"
    )]
    NoWal {
        /// The file.
        name: String,
    },
    /// Replaying the segment would take over a directory that something else lives in.
    #[error(
        "{name} makes tablespace {oid} at {lsn} in {location}, and that directory {why}: recovery \
         would write into it"
    )]
    Tablespace {
        /// The segment.
        name: String,
        /// The tablespace.
        oid: u32,
        /// Where its record begins.
        lsn: Lsn,
        /// Its location.
        location: String,
        /// What is wrong with the directory.
        why: String,
    },
    /// A repository cannot be used: what whoever opens it says.
    #[error(transparent)]
    Unopened(#[from] Unopened),
    /// A repository has not come to the epoch that another one is in.
    #[error(
        "repository {repository}: cluster {cluster} is in epoch {epoch} there, and in a newer one \
         elsewhere"
    )]
    OlderEpoch {
        /// Its name in the configuration.
        repository: String,
        /// The configured name.
        cluster: String,
        /// Its own.
        epoch: u32,
    },
    /// No repository was given.
    #[error("no repository is configured for WAL")]
    NoRepository,
    /// The work was interrupted.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// The result of a call in this room.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether nothing may be answered but this, not even to a standby: recovery must not go on.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Tablespace { .. } | Self::Name { .. })
    }

    /// Whether a local file is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether waiting may help: WAL that is on its way, a repository that is away for a moment.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Hole { .. } | Self::NoWal { .. } => true,
            Self::Repository { source, .. } => source.may_pass(),
            Self::Unopened(unopened) => unopened.may_pass,
            _ => false,
        }
    }
}
