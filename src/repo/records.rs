//! Small objects of one line: the registration of a cluster, the record that a backup has begun.

use serde::{Deserialize, Serialize};

use super::backup_id::{BackupId, BackupType};
use super::error::{Error, Result};
use super::layout::{self, Kind, Place};
use super::repository::Repository;
use super::text::{hex_array, time_text, u64_text};
use crate::base::{Ctx, Timestamp};
use crate::crypt::BlockHasher;
use crate::pg::Lsn;

/// What a cluster is known by; written once by `init`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The configured name.
    pub cluster: String,
    /// The system identifier.
    #[serde(with = "u64_text")]
    pub system: u64,
    /// Which of several histories with this system identifier.
    pub epoch: u32,
    /// When it was registered.
    #[serde(with = "time_text")]
    pub created: Timestamp,
    /// The server's major version then.
    pub major: u32,
    /// Bytes of a block.
    pub block_size: u32,
    /// Bytes of a WAL block.
    pub wal_block_size: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u32,
    /// Blocks of a relation's file before the next begins.
    pub relation_segment_blocks: u32,
}

impl Registration {
    /// What it says of the cluster, without when that was said.
    fn identity(&self) -> String {
        let Self { major, block_size, wal_block_size, .. } = self;
        let Self { wal_segment_size, relation_segment_blocks, .. } = self;
        format!(
            "{major}.{block_size}.{wal_block_size}.{wal_segment_size}.{relation_segment_blocks}"
        )
    }
}

/// How block hashes of a backup are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashScheme {
    /// `highway64`.
    pub algorithm: String,
    /// The key; random for a full, inherited by its children.
    #[serde(with = "hex_array")]
    pub key: [u8; 32],
}

impl HashScheme {
    /// Whether this pgkeep makes such hashes.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.algorithm == BlockHasher::ALGORITHM
    }
}

/// The record that reserves an id before any data is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The id.
    pub id: BackupId,
    /// The type.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// The backup that it builds on.
    pub parent: Option<BackupId>,
    /// Read before pg_backup_start is called.
    #[serde(with = "time_text")]
    pub started: Timestamp,
    /// Where it runs.
    pub host: String,
    /// As which process.
    pub pid: u32,
    /// The version of pgkeep.
    pub tool: String,
    /// The timeline at the beginning.
    pub timeline: u32,
    /// WAL from here on is kept while this backup may still be committed.
    pub wal_from: Lsn,
    /// How its blocks are hashed.
    pub hash: HashScheme,
    /// The data directory that is read on that host; unknown of older versions' backups.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub directory: String,
    /// What tells that directory from every other, on whatever host it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_identity: Option<String>,
    /// Its server is a standby: one that was made of a copy of the primary's volume has the directory's identity too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
    /// Dead attempts whose packs it may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<BackupId>,
    /// Which holder's lease says that it is alive; older versions' backups have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// It is copied from another repository: nothing of it is read from a server, and only a copy goes on with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copied: bool,
}

impl Repository {
    /// Registers a cluster; the same registration again is success, whoever made it.
    ///
    /// # Errors
    /// As the store's.
    pub fn register(&self, ctx: &Ctx, registration: &Registration) -> Result<Place> {
        let place = Place::new(&registration.cluster, registration.system, registration.epoch)
            .map_err(|error| Error::Limit(error.to_string()))?;
        let object = place.registration();
        self.put_same_line(ctx, Kind::Cluster, &object, registration, &registration.identity())?;
        self.promise_notes(ctx, &place)?;
        Ok(place)
    }

    /// Says that an epoch begins. Said in every repository before the epoch is registered in any, it
    /// keeps each that has not come to it from passing for the newest while the others are away.
    ///
    /// # Errors
    /// As the store's.
    pub fn announce(&self, ctx: &Ctx, registration: &Registration) -> Result<()> {
        let place = Place::new(&registration.cluster, registration.system, registration.epoch)
            .map_err(|error| Error::Limit(error.to_string()))?;
        let object = place.announcement();
        self.put_same_line(ctx, Kind::Cluster, &object, registration, &registration.identity())
    }

    /// Finds the newest epoch of a cluster that is registered here, and its registration. What this
    /// returns has been authenticated: "absent" may be believed below it.
    ///
    /// # Errors
    /// [`Error::NoCluster`], [`Error::EpochAnnounced`], [`Error::NoRegistration`].
    pub fn find_cluster(&self, cluster: &str, system: u64) -> Result<(Place, Registration)> {
        let none = || Error::NoCluster { cluster: cluster.into(), system };
        let places = self.places_below(&Place::epochs_prefix(cluster, system))?;
        let newest = places.into_iter().max_by_key(Place::epoch);
        let place = newest.ok_or_else(none)?;
        let registration = self.registration(&place)?;
        Ok((place, registration))
    }

    /// Finds one epoch of a cluster.
    ///
    /// # Errors
    /// [`Error::NoEpoch`], [`Error::EpochAnnounced`], [`Error::NoRegistration`].
    pub fn find_epoch(
        &self,
        cluster: &str,
        system: u64,
        epoch: u32,
    ) -> Result<(Place, Registration)> {
        let place =
            Place::new(cluster, system, epoch).map_err(|error| Error::Limit(error.to_string()))?;
        match self.registration(&place) {
            // None of its objects is there, so that its WAL is absent here.
            Err(Error::NoCluster { .. }) => {
                Err(Error::NoEpoch { cluster: cluster.into(), system, epoch })
            }
            other => Ok((place, other?)),
        }
    }

    /// Reads the registration at a place.
    ///
    /// # Errors
    /// [`Error::NoCluster`] when there is none, nor anything else; [`Error::EpochAnnounced`] when there
    /// is only that; [`Error::NoRegistration`] when there is none although other objects are there: what
    /// they hold is not absent.
    pub fn registration(&self, place: &Place) -> Result<Registration> {
        let object = place.registration();
        match self.read_line::<Registration>(Kind::Cluster, &object) {
            Err(error) if error.is_not_found() => {
                let (cluster, system) = (place.cluster().into(), place.system());
                let mut listed = self.store().list(&place.prefix(), None, 3)?;
                let announcement = place.announcement();
                // The mark of notes speaks of nothing that is stored.
                if listed.iter().any(|meta| meta.key == announcement) {
                    listed.retain(|meta| meta.key != place.notes_mark());
                }
                Err(match listed.as_slice() {
                    [] => Error::NoCluster { cluster, system },
                    [only] if only.key == announcement => {
                        Error::EpochAnnounced { cluster, epoch: place.epoch() }
                    }
                    _ => Error::NoRegistration { object },
                })
            }
            other => other,
        }
    }

    /// Every place in the repository, by registration names.
    ///
    /// # Errors
    /// As the store's.
    pub fn places(&self) -> Result<Vec<Place>> {
        self.places_below(layout::CLUSTERS_PREFIX)
    }

    /// One name of each place is read; `~` sorts behind everything that a name may hold, so each step jumps
    /// over all the objects of a place. Names that are of none come many at a time: pgkeep put none of
    /// them, and nobody knows how many there are.
    fn places_below(&self, prefix: &str) -> Result<Vec<Place>> {
        const STRANGERS: usize = 1000;
        let mut places = Vec::new();
        let mut after: Option<String> = None;
        let mut count = 1;
        loop {
            let page = self.store().list(prefix, after.as_deref(), count)?;
            if page.is_empty() {
                return Ok(places);
            }
            count = 1;
            for meta in page {
                let name = meta.key.as_str();
                if after.as_deref().is_some_and(|after| name <= after) {
                    continue;
                }
                after = Some(match Place::of_name(name) {
                    Some(place) => {
                        let behind = format!("{}~", place.prefix());
                        places.push(place);
                        behind
                    }
                    None => {
                        count = STRANGERS;
                        name.to_owned()
                    }
                });
            }
        }
    }

    /// Reserves a backup's id.
    ///
    /// # Errors
    /// [`crate::storage::Error::AlreadyExists`] when it is taken.
    pub fn put_begin(&self, ctx: &Ctx, place: &Place, begin: &Begin) -> Result<()> {
        self.put_line(ctx, Kind::Begin, &place.begin(&begin.id), begin).map(drop)
    }

    /// Reads the record that a backup has begun.
    ///
    /// # Errors
    /// As [`Repository::read`].
    pub fn get_begin(&self, place: &Place, id: &BackupId) -> Result<Begin> {
        self.read_line(Kind::Begin, &place.begin(id))
    }

    /// As [`Repository::get_begin`], with the object's salt, by which those who use an attempt name it.
    ///
    /// # Errors
    /// As [`Repository::read`].
    pub fn salted_begin(&self, place: &Place, id: &BackupId) -> Result<(Begin, [u8; 32])> {
        let salt = self.read(Kind::Begin, &place.begin(id))?.header().salt;
        Ok((self.get_begin(place, id)?, salt))
    }
}
