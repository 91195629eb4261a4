//! The only place that spells the names of objects (FORMAT.md, section 2); `lock_time` says for how long each is locked.

use std::fmt;

use chrono::{DateTime, NaiveDateTime, Utc};

use super::backup_id::{BackupId, ID_TIME};
use crate::base::Timestamp;
use crate::crypt::Class;
use crate::storage::ObjectKey;

/// What an object is; part of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Registration of a cluster.
    Cluster = 1,
    /// A backup has begun.
    Begin = 2,
    /// Manifest.
    Manifest = 3,
    /// File table.
    Files = 4,
    /// File content.
    Pack = 5,
    /// What a pack holds.
    Meta = 6,
    /// Hashes of a pack's blocks.
    Hash = 7,
    /// WAL segment.
    Wal = 8,
    /// Timeline history file.
    History = 9,
    /// Backup history file.
    Label = 10,
    /// Partial WAL segment.
    Partial = 11,
    /// Somebody is at work.
    Lease = 12,
    /// Somebody keeps a backup, or no longer.
    Pin = 14,
    /// What expiry decided.
    Keep = 15,
    /// Summary of what other objects say.
    Summary = 16,
}

impl Kind {
    /// The class of roots that seals this kind (section 3).
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::Pack => Class::Data,
            Self::Wal | Self::History | Self::Label | Self::Partial => Class::Wal,
            _ => Class::Meta,
        }
    }
}

/// The descriptor's name.
#[must_use]
pub fn descriptor() -> ObjectKey {
    trusted("pgkeep.json".into())
}

/// What every key slot's name begins with.
pub const SLOT_PREFIX: &str = "key/";

/// A key slot's name.
#[must_use]
pub fn slot(slot: &str) -> Option<ObjectKey> {
    ObjectKey::new(format!("{SLOT_PREFIX}{slot}")).ok()
}

/// A name on which a store is tried; `random` is hexadecimal.
#[must_use]
pub fn probe(random: &str) -> ObjectKey {
    trusted(format!("probe/{random}"))
}

/// What the names of the leases of `init` begin with.
pub const INIT_LEASES_PREFIX: &str = "lease/init/";

/// The lease of an `init` that began at `begun`; `random` is hexadecimal.
#[must_use]
pub fn init_lease(begun: Timestamp, random: &str) -> ObjectKey {
    trusted(format!("{INIT_LEASES_PREFIX}{}.{random}", begun.format(ID_TIME)))
}

/// What the names of the leases of one scope of a cluster begin with.
#[must_use]
pub fn leases_prefix(scope: &str, cluster: &str) -> String {
    format!("lease/{scope}/{cluster}/")
}

/// A holder's lease, the `number`th that it writes; holders are hexadecimal.
///
/// `None` for what cannot be a name.
#[must_use]
pub fn lease(scope: &str, cluster: &str, holder: &str, number: u64) -> Option<ObjectKey> {
    let prefix = leases_prefix(scope, cluster);
    ObjectKey::new(format!("{prefix}{holder}.{number:06}")).ok()
}

/// Holder and number of a lease by its name.
#[must_use]
pub fn lease_of(key: &ObjectKey) -> Option<(&str, u64)> {
    let (holder, number) = key.last_component().split_once('.')?;
    Some((holder, number.parse().ok()?))
}

/// When the `init` of a lease began.
#[must_use]
pub fn init_lease_time(key: &ObjectKey) -> Option<Timestamp> {
    let (begun, _) = key.last_component().split_once('.')?;
    NaiveDateTime::parse_from_str(begun, ID_TIME).ok().map(|begun| begun.and_utc())
}

/// The claim of an object's name for the content that `identity` tells, and what the names of all claims of
/// that name begin with; `attempt` tells apart who claims it for the same content.
///
/// `None` for an object that is of no cluster, and for an identity that no name can hold.
#[must_use]
pub fn claim(object: &ObjectKey, identity: &str, attempt: u8) -> Option<(ObjectKey, String)> {
    let place = Place::of_name(object.as_str())?.prefix();
    let inner = object.as_str().strip_prefix(&place)?.replace('%', "%25").replace('/', "%2F");
    let prefix = format!("{place}claim/{inner}/");
    Some((ObjectKey::new(format!("{prefix}{identity}-{attempt:x}")).ok()?, prefix))
}

/// What tells the content that a claim is for. Claims of early versions have no attempt.
#[must_use]
pub fn claimed_identity(claim: &ObjectKey) -> &str {
    let name = claim.last_component();
    name.rsplit_once('-').map_or(name, |(identity, _)| identity)
}

/// What the names of every cluster begin with.
pub const CLUSTERS_PREFIX: &str = "c/";

/// The text is not a name that a cluster may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a cluster name: 1 to 64 of A-Z a-z 0-9 . _ - are allowed, first a letter or digit"
)]
pub struct InvalidClusterName(pub String);

/// Whether an object never changes and is read by whoever opens a repository or archives into it:
/// descriptor, key slots, registrations, timeline histories.
#[must_use]
pub fn is_read_first(name: &str) -> bool {
    let place = Place::of_name(name);
    let inner = place.and_then(|place| name.strip_prefix(&place.prefix()));
    match inner {
        Some(inner) => inner == "cluster" || inner.starts_with("history/"),
        None => name == descriptor().as_str() || name.starts_with(SLOT_PREFIX),
    }
}

/// Whether a list is one that opening a repository asks for: its slots, or the epochs of a cluster.
#[must_use]
pub fn is_listed_first(prefix: &str) -> bool {
    let is_of_epochs = prefix.starts_with(CLUSTERS_PREFIX)
        && prefix.ends_with('-')
        && prefix.matches('/').count() == 2;
    prefix == SLOT_PREFIX || is_of_epochs
}

/// Where the objects of one history of one cluster lie: configured name, system identifier, epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    cluster: String,
    system: u64,
    epoch: u32,
}

impl Place {
    /// The place of a cluster.
    ///
    /// # Errors
    /// When the name is not allowed.
    pub fn new(cluster: &str, system: u64, epoch: u32) -> Result<Self, InvalidClusterName> {
        let first = cluster.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        let rest = cluster.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if first && rest && cluster.len() <= 64 {
            Ok(Self { cluster: cluster.into(), system, epoch })
        } else {
            Err(InvalidClusterName(cluster.into()))
        }
    }

    /// The configured name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The system identifier.
    #[must_use]
    pub fn system(&self) -> u64 {
        self.system
    }

    /// Which of several histories with this system identifier.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// What the names of all epochs of a system identifier begin with.
    #[must_use]
    pub fn epochs_prefix(cluster: &str, system: u64) -> String {
        format!("{CLUSTERS_PREFIX}{cluster}/{system}-")
    }

    /// Reads the place out of any name below it.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(CLUSTERS_PREFIX)?.split('/');
        let cluster = parts.next()?;
        let (system, epoch) = parts.next()?.split_once('-')?;
        parts.next()?;
        let place = Self::new(cluster, system.parse().ok()?, epoch.parse().ok()?).ok()?;
        (name.starts_with(&place.prefix())).then_some(place)
    }

    /// What the names below this place begin with, slash included.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{CLUSTERS_PREFIX}{}/{}-{}/", self.cluster, self.system, self.epoch)
    }

    fn name(&self, tail: fmt::Arguments<'_>) -> ObjectKey {
        trusted(format!("{}{tail}", self.prefix()))
    }

    /// The registration.
    #[must_use]
    pub fn registration(&self) -> ObjectKey {
        self.name(format_args!("cluster"))
    }

    /// The record that this epoch begins, here or elsewhere.
    #[must_use]
    pub fn announcement(&self) -> ObjectKey {
        self.name(format_args!("announced"))
    }

    /// The record that a backup has begun.
    #[must_use]
    pub fn begin(&self, id: &BackupId) -> ObjectKey {
        self.name(format_args!("begin/{id}"))
    }

    /// What the names of all begin records begin with.
    #[must_use]
    pub fn begins_prefix(&self) -> String {
        format!("{}begin/", self.prefix())
    }

    /// A backup's manifest.
    #[must_use]
    pub fn manifest(&self, id: &BackupId) -> ObjectKey {
        self.name(format_args!("backup/{id}"))
    }

    /// What the names of all manifests begin with.
    #[must_use]
    pub fn manifests_prefix(&self) -> String {
        format!("{}backup/", self.prefix())
    }

    /// An object of a backup by its name within the backup: `files`, or `data/000000`.
    ///
    /// `None` when the inner name is none of these.
    #[must_use]
    pub fn of_backup(&self, id: &BackupId, inner: &str) -> Option<ObjectKey> {
        match inner.split_once('/') {
            None if inner == "files" => Some(self.files(id)),
            Some((family @ ("data" | "meta" | "hash"), number))
                if number.len() >= 6 && number.bytes().all(|b| b.is_ascii_digit()) =>
            {
                Some(self.name(format_args!("{family}/{id}/{number}")))
            }
            _ => None,
        }
    }

    /// A backup's file table.
    #[must_use]
    pub fn files(&self, id: &BackupId) -> ObjectKey {
        self.name(format_args!("files/{id}"))
    }

    /// A pack.
    #[must_use]
    pub fn pack(&self, id: &BackupId, number: u32) -> ObjectKey {
        self.name(format_args!("data/{id}/{number:06}"))
    }

    /// What a pack holds.
    #[must_use]
    pub fn meta(&self, id: &BackupId, number: u32) -> ObjectKey {
        self.name(format_args!("meta/{id}/{number:06}"))
    }

    /// Hashes of a pack's blocks.
    #[must_use]
    pub fn hash(&self, id: &BackupId, number: u32) -> ObjectKey {
        self.name(format_args!("hash/{id}/{number:06}"))
    }

    /// What the names of a backup's objects begin with, for each family of them.
    #[must_use]
    pub fn backup_prefixes(&self, id: &BackupId) -> [String; 3] {
        ["data", "meta", "hash"].map(|family| format!("{}{family}/{id}/", self.prefix()))
    }

    /// A WAL segment by its 24-digit name.
    ///
    /// `None` when the text is not such a name.
    #[must_use]
    pub fn wal(&self, segment: &str) -> Option<ObjectKey> {
        let timeline = segment.get(..8)?;
        let log = segment.get(8..16)?;
        is_upper_hex(segment, 24).then(|| self.name(format_args!("wal/{timeline}/{log}/{segment}")))
    }

    /// What the names of a timeline's segments begin with.
    #[must_use]
    pub fn wal_prefix(&self, timeline: u32) -> String {
        format!("{}wal/{timeline:08X}/", self.prefix())
    }

    /// What the names of all segments begin with.
    #[must_use]
    pub fn all_wal_prefix(&self) -> String {
        format!("{}wal/", self.prefix())
    }

    /// A timeline history file.
    #[must_use]
    pub fn history(&self, timeline: u32) -> ObjectKey {
        self.name(format_args!("history/{timeline:08X}"))
    }

    /// What the names of all history files begin with.
    #[must_use]
    pub fn histories_prefix(&self) -> String {
        format!("{}history/", self.prefix())
    }

    /// A backup history file by PostgreSQL's name for it.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<ObjectKey> {
        ObjectKey::new(format!("{}label/{name}", self.prefix())).ok()
    }

    /// A partial segment, by the segment's name and the end of its valid records.
    #[must_use]
    pub fn partial(&self, segment: &str, end: u64) -> Option<ObjectKey> {
        is_upper_hex(segment, 24).then(|| self.name(format_args!("partial/{segment}.{end:016X}")))
    }

    /// The note of what is rare in a segment with this content: letters, and digits of its digest.
    ///
    /// `None` when the text is not the name of a segment.
    #[must_use]
    pub fn note(&self, segment: &str, what: &str, digest: &str) -> Option<ObjectKey> {
        is_upper_hex(segment, 24)
            .then(|| ObjectKey::new(format!("{}{segment}.{what}.{digest}", self.notes_prefix())))?
            .ok()
    }

    /// What the names of all notes begin with.
    #[must_use]
    pub fn notes_prefix(&self) -> String {
        format!("{}sum/found/", self.prefix())
    }

    /// The mark that every segment was put after its note.
    #[must_use]
    pub fn notes_mark(&self) -> ObjectKey {
        self.name(format_args!("sum/found-first"))
    }

    /// The catalogue of backups that was written then.
    ///
    /// `None` for a year that no name has: the moment may come out of another name.
    #[must_use]
    pub fn catalogue(&self, written: Timestamp) -> Option<ObjectKey> {
        let name = format!("{}{}", self.catalogues_prefix(), written.format(ID_TIME));
        ObjectKey::new(name).ok()
    }

    /// When a catalogue was written, by its name.
    #[must_use]
    pub fn catalogue_time(&self, key: &ObjectKey) -> Option<Timestamp> {
        let time = NaiveDateTime::parse_from_str(key.last_component(), ID_TIME).ok()?.and_utc();
        (self.catalogue(time).as_ref() == Some(key)).then_some(time)
    }

    /// What the names of all catalogues begin with.
    #[must_use]
    pub fn catalogues_prefix(&self) -> String {
        format!("{}sum/backups/", self.prefix())
    }

    /// The summary of a timeline's segments up to this one.
    ///
    /// `None` when the text is not the name of a segment.
    #[must_use]
    pub fn ranges(&self, last: &str) -> Option<ObjectKey> {
        let timeline = last.get(..8).filter(|_| is_upper_hex(last, 24))?;
        Some(self.name(format_args!("sum/wal/{timeline}/{last}")))
    }

    /// What the names of all these summaries begin with.
    #[must_use]
    pub fn ranges_prefix(&self) -> String {
        format!("{}sum/wal/", self.prefix())
    }

    /// What was known of locks then.
    ///
    /// `None` for a year that no name has.
    #[must_use]
    pub fn locks(&self, written: Timestamp) -> Option<ObjectKey> {
        let name = format!("{}{}", self.locks_prefix(), written.format(ID_TIME));
        ObjectKey::new(name).ok()
    }

    /// When that was, by the name.
    #[must_use]
    pub fn locks_time(&self, key: &ObjectKey) -> Option<Timestamp> {
        let time = NaiveDateTime::parse_from_str(key.last_component(), ID_TIME).ok()?.and_utc();
        (self.locks(time).as_ref() == Some(key)).then_some(time)
    }

    /// What the names of all these summaries begin with.
    #[must_use]
    pub fn locks_prefix(&self) -> String {
        format!("{}sum/locks/", self.prefix())
    }

    /// The `number`th word on whether a backup is pinned.
    #[must_use]
    pub fn pin(&self, id: &BackupId, number: u64) -> ObjectKey {
        self.name(format_args!("pin/{id}.{number:06}"))
    }

    /// Which backup a pin is of, and its number.
    #[must_use]
    pub fn pin_of(&self, key: &ObjectKey) -> Option<(BackupId, u64)> {
        let (id, number) = key.last_component().split_once('.')?;
        let (id, number) = (id.parse().ok()?, number.parse().ok()?);
        (self.pin(&id, number) == *key).then_some((id, number))
    }

    /// What the names of all pins begin with.
    #[must_use]
    pub fn pins_prefix(&self) -> String {
        format!("{}pin/", self.prefix())
    }

    /// What expiry decided the `number`th time.
    #[must_use]
    pub fn keep(&self, number: u64) -> ObjectKey {
        self.name(format_args!("keep/{number:09}"))
    }

    /// Which time that was, by the name.
    #[must_use]
    pub fn keep_of(&self, key: &ObjectKey) -> Option<u64> {
        let number = key.last_component().parse().ok()?;
        (self.keep(number) == *key).then_some(number)
    }

    /// What the names of all these records begin with.
    #[must_use]
    pub fn keeps_prefix(&self) -> String {
        format!("{}keep/", self.prefix())
    }

    /// What the names of all objects of one family begin with: `data`, `meta`, `hash`, `files`, `label`.
    #[must_use]
    pub fn family_prefix(&self, family: &str) -> String {
        format!("{}{family}/", self.prefix())
    }

    /// What the names of a segment's partial versions begin with.
    #[must_use]
    pub fn partials_prefix(&self, segment: &str) -> String {
        format!("{}partial/{segment}.", self.prefix())
    }

    /// What the names of all partial segments begin with.
    #[must_use]
    pub fn all_partials_prefix(&self) -> String {
        format!("{}partial/", self.prefix())
    }

    /// The segment that a partial one is of, and where its valid records end, by its name.
    #[must_use]
    pub fn partial_of<'k>(&self, key: &'k ObjectKey) -> Option<(&'k str, u64)> {
        let (segment, end) = key.last_component().split_once('.')?;
        let end = u64::from_str_radix(end, 16).ok()?;
        (self.partial(segment, end).as_ref() == Some(key)).then_some((segment, end))
    }
}

fn is_upper_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'))
}

/// A name made of parts that were checked.
fn trusted(name: String) -> ObjectKey {
    ObjectKey::new(name).expect("its parts are checked and shorter than a name may be")
}

/// A time as the format spells it.
#[must_use]
pub fn time_text(time: Timestamp) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

/// Reads a time as the format spells it.
#[must_use]
pub fn parse_time(text: &str) -> Option<Timestamp> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clusters_cannot_leave_their_place() {
        for good in ["main", "a", "prod.eu-1_x"] {
            assert!(Place::new(good, 1, 1).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", &"a".repeat(65)] {
            assert!(Place::new(bad, 1, 1).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_is_read_back_from_its_names() {
        let place = Place::new("main", 7_312_000_000_000_000_001, 2).unwrap();
        let wal = place.wal("00000001000000A2000000FE").unwrap();
        assert_eq!(
            wal.as_str(),
            "c/main/7312000000000000001-2/wal/00000001/000000A2/00000001000000A2000000FE"
        );
        assert_eq!(Place::of_name(wal.as_str()), Some(place.clone()));
        for other in
            ["c/main", "c/main/1-1", "c/main/01-1/x", "c/main/1-01/x", "c/main/x-1/y", "key/1"]
        {
            assert_eq!(Place::of_name(other), None, "{other}");
        }
        assert_eq!(place.wal("00000001000000a2000000fe"), None);
        assert_eq!(place.wal("00000001000000A2000000FE.partial"), None);
        assert_eq!(place.of_backup(&BackupId::full(Timestamp::UNIX_EPOCH), "data/../x"), None);
    }
}
