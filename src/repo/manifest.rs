//! Manifests: the object that makes a backup exist (FORMAT.md, section 6).
//!
//! The first frame is the summary, all that listing, planning and retention read. The rest names what the
//! backup stands on, and every object of it with size and salt, so that an older or foreign one is refused.

use serde::{Deserialize, Serialize};

use super::backup_id::{BackupId, BackupType};
use super::bases::{Base, Reused};
use super::error::{Error, Result};
use super::file_table::IndexEntry;
use super::layout::{Kind, Place};
use super::records::HashScheme;
use super::repository::{Repository, parse_line};
use super::sealed::{SealedReader, SealedSummary};
use super::text::{hex_array, path_bytes, path_text, time_text, u64_text};
use crate::base::{Ctx, Timestamp};
use crate::crypt::KeyId;
use crate::pg::Lsn;
use crate::storage::ObjectKey;

/// What the server was when the backup was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// `server_version_num`, such as 150018.
    pub version_num: u32,
    /// `catalog_version_no` of pg_control.
    pub catalog_version: u32,
    /// Bytes of a block.
    pub block_size: u32,
    /// Bytes of a WAL block.
    pub wal_block_size: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u32,
    /// Blocks of a relation's file before the next begins.
    pub relation_segment_blocks: u32,
    /// Whether data checksums were on.
    pub checksums: bool,
    /// Whether it was in recovery.
    pub standby: bool,
    /// Its data directory.
    pub data_directory: String,
    /// Identifies the host: its name, and an id that does not change with it where there is one.
    pub host: String,
    /// `shared_preload_libraries`.
    pub preload_libraries: String,
    /// Names of logical replication slots, which are not copied.
    pub logical_slots: Vec<String>,
    /// Where its configuration was.
    #[serde(default, skip_serializing_if = "Configuration::is_unknown")]
    pub configuration: Configuration,
}

/// The files that a server was started with, as it named them; empty where it did not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// `config_file`.
    pub config_file: String,
    /// `hba_file`.
    pub hba_file: String,
    /// `ident_file`.
    pub ident_file: String,
}

impl Configuration {
    /// Whether nothing is known of them.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// What was copied, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Regular files.
    #[serde(with = "u64_text")]
    pub files: u64,
    /// Directories and links.
    #[serde(with = "u64_text")]
    pub others: u64,
    /// Bytes of the files' content.
    #[serde(with = "u64_text")]
    pub bytes: u64,
    /// Bytes of it that lie in the backup's own packs. Unknown of early versions' backups.
    #[serde(default, with = "u64_text", skip_serializing_if = "is_zero")]
    pub own: u64,
    /// Files that were taken for unchanged by their stat record, and not read.
    #[serde(default, with = "u64_text", skip_serializing_if = "is_zero")]
    pub unread_files: u64,
    /// Their bytes.
    #[serde(default, with = "u64_text", skip_serializing_if = "is_zero")]
    pub unread_bytes: u64,
    /// Bytes of it that are zeros and stored nowhere.
    #[serde(with = "u64_text")]
    pub zeros: u64,
    /// Bytes of all objects of the backup, as stored.
    #[serde(with = "u64_text")]
    pub stored: u64,
    /// Pages that were invalid.
    #[serde(with = "u64_text")]
    pub invalid_pages: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How many lines of each sort follow the summary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Objects.
    pub objects: u64,
    /// Backups that layers refer to.
    pub bases: u64,
    /// Objects of dead attempts that layers refer to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reused: u64,
    /// Tablespaces.
    pub tablespaces: u64,
    /// Invalid pages.
    pub damage: u64,
    /// Frames of the file table.
    pub index: u64,
}

/// All that listing and planning need about a complete backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its id.
    pub id: BackupId,
    /// Its type.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// The backup that it builds on.
    pub parent: Option<BackupId>,
    /// The cluster's configured name.
    pub cluster: String,
    /// The system identifier.
    #[serde(with = "u64_text")]
    pub system: u64,
    /// Which of several histories.
    pub epoch: u32,
    /// Before pg_backup_start was called, by the clock of the host that read the files: a stat
    /// identity is trusted only when its change time lies safely before.
    #[serde(with = "time_text")]
    pub started: Timestamp,
    /// After pg_backup_stop returned, by the server's clock: every commit that this backup holds
    /// is older. No proof that all older ones are archived: others may follow the stop, and a standby
    /// is behind.
    #[serde(with = "time_text")]
    pub finished: Timestamp,
    /// The timeline at start.
    pub timeline: u32,
    /// The timeline at stop; another one only on a standby.
    pub timeline_stop: u32,
    /// Where WAL replay begins (the redo point).
    pub start_lsn: Lsn,
    /// Where the backup becomes consistent.
    pub stop_lsn: Lsn,
    /// First WAL segment that is needed.
    pub wal_first: String,
    /// Last WAL segment that is needed.
    pub wal_last: String,
    /// `backup_label`, as the server gave it.
    pub backup_label: String,
    /// The server.
    pub server: ServerRecord,
    /// How blocks were hashed.
    pub hash: HashScheme,
    /// What was copied.
    pub totals: Totals,
    /// Dead attempts whose packs this backup uses: what they stored stays as long as it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<BackupId>,
    /// What follows.
    pub counts: Counts,
    /// The version of pgkeep that wrote it.
    pub tool: String,
}

impl Summary {
    /// Bytes of content that the backup's own packs hold.
    #[must_use]
    pub fn own_bytes(&self) -> u64 {
        match (self.totals.own, self.backup_type) {
            (0, BackupType::Full) => self.totals.bytes.saturating_sub(self.totals.zeros),
            (own, _) => own,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
enum State {
    Complete(Box<Summary>),
    Abandoned {
        id: BackupId,
        #[serde(with = "time_text")]
        time: Timestamp,
        why: String,
    },
}

/// One object of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// `files`, or `data/000000`, `meta/000000`, `hash/000000`.
    pub name: String,
    /// Bytes as stored.
    #[serde(with = "u64_text")]
    pub size: u64,
    /// Its salt.
    #[serde(with = "hex_array")]
    pub salt: [u8; 32],
    /// Its master key's id.
    key: String,
    /// How many frames it has.
    #[serde(with = "u64_text")]
    pub frames: u64,
    /// Bytes of its raw stream.
    #[serde(with = "u64_text")]
    pub raw: u64,
}

impl ObjectRecord {
    /// The record of an object that was just written.
    #[must_use]
    pub fn new(name: impl Into<String>, summary: &SealedSummary) -> Self {
        Self {
            name: name.into(),
            size: summary.stored,
            salt: summary.header.salt,
            key: summary.header.key.to_string(),
            frames: summary.frames,
            raw: summary.raw,
        }
    }

    /// Its master key's id.
    #[must_use]
    pub fn key(&self) -> Option<KeyId> {
        KeyId::from_hex(&self.key)
    }
}

/// A tablespace that lies outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceRecord {
    /// Its oid.
    pub oid: u32,
    /// Where its link pointed.
    pub location: String,
}

/// A page that was invalid when it was read, or, as block 0, a file whose own checksum did not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The file, with bytes that are not UTF-8 replaced.
    pub path: String,
    /// The block in the file.
    pub block: u32,
    /// What is wrong with it.
    pub why: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Detail {
    Object(ObjectRecord),
    Base(Base),
    Reused(Reused),
    Tablespace(TablespaceRecord),
    Damage(Damage),
    Index(IndexLine),
}

#[derive(Debug, Serialize, Deserialize)]
struct IndexLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    continues: bool,
    #[serde(with = "u64_text")]
    frame: u64,
    #[serde(with = "u64_text")]
    offset: u64,
    length: u32,
}

/// What of a backup's objects has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Required {
    /// What the manifest names, and nothing that it does not.
    NothingElse,
    /// What the manifest names.
    Named,
    /// Of that, what a restore cannot do without.
    Content,
}

impl Required {
    pub(super) fn has(self, name: &str) -> bool {
        self != Self::Content || !name.starts_with("hash/")
    }
}

/// A whole manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The first frame.
    pub summary: Summary,
    /// Every object of the backup but this one.
    pub objects: Vec<ObjectRecord>,
    /// What layers refer to, by their indices.
    pub bases: Vec<Base>,
    /// Objects of dead attempts that layers refer to.
    pub reused: Vec<Reused>,
    /// Tablespaces.
    pub tablespaces: Vec<TablespaceRecord>,
    /// Pages that were invalid.
    pub damage: Vec<Damage>,
    /// The file table's frames.
    pub index: Vec<IndexEntry>,
}

impl Manifest {
    fn counts(&self) -> Counts {
        Counts {
            objects: self.objects.len() as u64,
            bases: self.bases.len() as u64,
            reused: self.reused.len() as u64,
            tablespaces: self.tablespaces.len() as u64,
            damage: self.damage.len() as u64,
            index: self.index.len() as u64,
        }
    }

    /// The object with this name within the backup.
    #[must_use]
    pub fn find_object(&self, name: &str) -> Option<&ObjectRecord> {
        self.objects
            .binary_search_by(|object| object.name.as_str().cmp(name))
            .ok()
            .and_then(|i| self.objects.get(i))
    }
}

impl Repository {
    /// Makes a backup exist: compares what the store lists with the manifest's own table, then puts
    /// the manifest, if absent. Everything it names must be durable already.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when an object is missing, superfluous or of another size;
    /// [`Error::Abandoned`] when the name was taken by somebody who gave this backup up.
    pub fn commit(&self, ctx: &Ctx, place: &Place, manifest: &mut Manifest) -> Result<()> {
        manifest.objects.sort_by(|a, b| a.name.cmp(&b.name));
        manifest.reused.sort_by(|a, b| a.order().cmp(&b.order()));
        let id = manifest.summary.id.clone();
        let key = place.manifest(&id);
        self.compare_with_store(place, manifest, Required::NothingElse)?;
        self.require_bases(place, manifest)?;
        manifest.summary.totals.stored = manifest.objects.iter().map(|object| object.size).sum();
        manifest.summary.counts = manifest.counts();
        let mut writer = self.buffer(ctx, Kind::Manifest, &key)?;
        writer.line(&State::Complete(Box::new(manifest.summary.clone())))?;
        writer.end_frame()?;
        for base in &manifest.bases {
            writer.line(&Detail::Base(base.clone()))?;
        }
        for object in &manifest.objects {
            writer.line(&Detail::Object(object.clone()))?;
        }
        for reused in &manifest.reused {
            writer.line(&Detail::Reused(reused.clone()))?;
        }
        for tablespace in &manifest.tablespaces {
            writer.line(&Detail::Tablespace(tablespace.clone()))?;
        }
        for damage in &manifest.damage {
            writer.line(&Detail::Damage(damage.clone()))?;
        }
        for entry in &manifest.index {
            let (path, path_hex) = path_text(&entry.path);
            let IndexEntry { continues, frame, offset, length, .. } = *entry;
            writer.line(&Detail::Index(IndexLine {
                path,
                path_hex,
                continues,
                frame,
                offset,
                length,
            }))?;
        }
        let (bytes, _) = writer.finish_lines()?;
        match self.put_if_absent(&key, &bytes) {
            Err(Error::Storage(error)) if error.is_already_exists() => {
                // Whoever gave this backup up came first: nothing of it may be used.
                self.summary(place, &id)?;
                Err(Error::Storage(error))
            }
            other => other,
        }
    }

    /// Takes a manifest's name, so that a late commit of a backup whose remains are swept fails.
    ///
    /// # Errors
    /// [`crate::storage::Error::AlreadyExists`] when the backup exists after all, or was given up before.
    pub fn abandon(&self, ctx: &Ctx, place: &Place, id: &BackupId, why: &str) -> Result<()> {
        let state = State::Abandoned { id: id.clone(), time: ctx.clock.now(), why: why.into() };
        self.put_line(ctx, Kind::Manifest, &place.manifest(id), &state).map(drop)
    }

    /// A backup's summary. One request.
    ///
    /// # Errors
    /// [`Error::NoBackup`], [`Error::Abandoned`], [`Error::Corrupt`].
    pub fn summary(&self, place: &Place, id: &BackupId) -> Result<Summary> {
        complete(&place.manifest(id), id, &self.state_line(place, id)?)
    }

    fn manifest_reader(&self, place: &Place, id: &BackupId) -> Result<SealedReader> {
        match self.read(Kind::Manifest, &place.manifest(id)) {
            Err(error) if error.is_not_found() => Err(Error::NoBackup { id: id.to_string() }),
            other => other,
        }
    }

    /// The first line of what lies under a manifest's name. One request.
    ///
    /// # Errors
    /// [`Error::NoBackup`], [`Error::Corrupt`].
    pub(super) fn state_line(&self, place: &Place, id: &BackupId) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        let mut reader = self.manifest_reader(place, id)?;
        reader.next_frame(&mut frame)?;
        Ok(frame)
    }

    /// A whole manifest.
    ///
    /// # Errors
    /// As [`Repository::summary`].
    pub fn manifest(&self, place: &Place, id: &BackupId) -> Result<Manifest> {
        Ok(self.salted_manifest(place, id)?.0)
    }

    /// What a backup stands on. One request, as a rule: bases come first in a manifest.
    ///
    /// # Errors
    /// As [`Repository::summary`].
    pub fn bases(&self, place: &Place, id: &BackupId) -> Result<Vec<Base>> {
        let key = place.manifest(id);
        let mut reader = self.manifest_reader(place, id)?;
        let mut frame = Vec::new();
        reader.next_frame(&mut frame)?;
        let count = complete(&key, id, &frame)?.counts.bases;
        let (mut bases, mut lines) = (Vec::new(), 1);
        while (bases.len() as u64) < count {
            frame.clear();
            if !reader.next_frame(&mut frame)? {
                return Err(Error::corrupt(&key, "counts", "lines are missing"));
            }
            for text in frame.split_inclusive(|&byte| byte == b'\n') {
                let Detail::Base(base) = parse_line::<Detail>(&key, lines, text)? else { break };
                bases.push(base);
                lines += 1;
            }
        }
        Ok(bases)
    }

    /// A whole manifest and its object's salt, which tells it from every other one.
    ///
    /// # Errors
    /// As [`Repository::summary`].
    pub fn salted_manifest(&self, place: &Place, id: &BackupId) -> Result<(Manifest, [u8; 32])> {
        let key = place.manifest(id);
        let mut reader = self.manifest_reader(place, id)?;
        let mut frame = Vec::new();
        let salt = reader.header().salt;
        reader.next_frame(&mut frame)?;
        let summary = complete(&key, id, &frame)?;
        let mut manifest = Manifest {
            summary,
            objects: Vec::new(),
            bases: Vec::new(),
            reused: Vec::new(),
            tablespaces: Vec::new(),
            damage: Vec::new(),
            index: Vec::new(),
        };
        let mut lines = 1;
        loop {
            frame.clear();
            if !reader.next_frame(&mut frame)? {
                break;
            }
            for text in frame.split_inclusive(|&byte| byte == b'\n') {
                manifest.take(&key, lines, text)?;
                lines += 1;
            }
        }
        if manifest.counts() != manifest.summary.counts {
            return Err(Error::corrupt(&key, "counts", "lines are missing or superfluous"));
        }
        if !manifest.objects.is_sorted_by(|a, b| a.name < b.name) {
            return Err(Error::corrupt(&key, "objects", "they are out of order"));
        }
        manifest.check_bases(&key)?;
        Ok((manifest, salt))
    }
}

impl Manifest {
    fn take(&mut self, key: &ObjectKey, number: usize, text: &[u8]) -> Result<()> {
        match parse_line::<Detail>(key, number, text)? {
            Detail::Object(object) => self.objects.push(object),
            Detail::Base(base) => self.bases.push(base),
            Detail::Reused(reused) => self.reused.push(reused),
            Detail::Tablespace(tablespace) => self.tablespaces.push(tablespace),
            Detail::Damage(damage) => self.damage.push(damage),
            Detail::Index(line) => {
                let path = path_bytes(line.path, line.path_hex)
                    .ok_or_else(|| Error::corrupt(key, format!("line {number}"), "no path"))?;
                self.index.push(IndexEntry {
                    path,
                    continues: line.continues,
                    frame: line.frame,
                    offset: line.offset,
                    length: line.length,
                });
            }
        }
        Ok(())
    }
}

/// The summary in a manifest's first line.
pub(super) fn complete(key: &ObjectKey, id: &BackupId, frame: &[u8]) -> Result<Summary> {
    match parse_line::<State>(key, 0, frame)? {
        State::Complete(summary) if summary.id == *id => Ok(*summary),
        State::Complete(summary) => {
            Err(Error::corrupt(key, "line 0", format!("it is the manifest of {}", summary.id)))
        }
        State::Abandoned { why, .. } => Err(Error::Abandoned { id: id.to_string(), why }),
    }
}
