//! What is known of the server that a file of WAL comes from.

use std::path::Path;

use super::Destination;
use super::error::{Error, Result};
use crate::pg::{ControlFile, SegmentSize};
use crate::repo::Origin;

/// What is known of the server that a file of WAL comes from.
#[derive(Debug)]
pub(super) struct Provenance {
    /// The cluster's system identifier.
    pub(super) system: u64,
    /// The size of its segments.
    pub(super) segment_size: SegmentSize,
    /// Of the server that asks for the file to be archived. Without it nothing says which timeline is
    /// still written, and a segment that is not whole is stored as a partial one, whatever its timeline.
    pub(super) control: Option<ControlFile>,
    /// Which server it is, for the record, where that is known.
    pub(super) origin: Option<Origin>,
    /// Archive segments of a WAL version that this program does not know, unread.
    pub(super) accept_unknown_wal: bool,
}

impl Provenance {
    /// Whether the repositories keep this cluster's WAL, of segments of this size; `path` is what is
    /// refused otherwise.
    pub(super) fn require_at(&self, destinations: &[Destination], path: &Path) -> Result<()> {
        for destination in destinations {
            if destination.place.system() != self.system {
                let why = format!(
                    "it belongs to system {}, repository {} keeps {} under this name",
                    self.system,
                    destination.name,
                    destination.place.system()
                );
                return Err(Error::Content { path: path.into(), why });
            }
            let (registered, found) =
                (destination.registration.wal_segment_size, self.segment_size.bytes());
            if registered != found {
                let repository = destination.name.clone();
                return Err(Error::SegmentSize { repository, registered, found });
            }
        }
        Ok(())
    }
}
