//! The sections with their types: what each value means, and which values it may have.
//!
//! Reading a section finds what is wrong in it. What is missing in a repository is found by
//! `RepositoryDraft::complete`, when the repository is needed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::error::Result;
use super::layers::{Layered, Origin, SectionName, Setting};
use super::location::{Location, parse_location};
use super::reader::Reader;
use super::s3::{S3Draft, S3Settings, read_s3, require_no_keys};
use super::schema::{Form, Section};
use super::secret_source::{Kind, SecretFolders, SecretSource};
use super::values::{
    Fallback, absolute, boolean, cipher, count, days, fallback, jobs, pack_size, percent, price,
    rate, schedule, secret_file, size, some_count, some_text, some_time, storage_class,
    tiering_way, time, timezone, window,
};
use crate::base::{ByteSize, Secret};
use crate::daemon::Schedule;
use crate::repo::CipherChoice;
use crate::storage::StorageClass;
use crate::tiering::{PriceTable, Way};

/// `[cluster.<name>]`
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// libpq connection string; a secret, because it may hold a password.
    pub connection: Secret<String>,
    /// The data directory on this host.
    pub data_directory: Option<PathBuf>,
    /// The folder of the server's programs on this host.
    pub bin_directory: Option<PathBuf>,
    /// How much time a disaster may cost at most.
    pub rpo: Duration,
    /// How long a backup waits for its last WAL segment.
    pub wal_wait: Duration,
    /// How long `archive-get` tries again before it answers.
    pub archive_get_wait: Duration,
    /// How many files or objects are worked on at a time; at least 1.
    pub jobs: usize,
    /// Bytes per second that a backup reads at most.
    pub max_rate: Option<ByteSize>,
    /// Whether a full is taken where another type cannot be, or is not worth it.
    pub auto_full: bool,
    /// A full is due when a differential uses less than this many hundredths of the last one.
    pub auto_full_below: u8,
}

/// `[repository.<name>]` with the sections below it.
#[derive(Debug, Clone)]
pub struct RepositorySettings {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: Location,
    /// How to reach it, where it is in a bucket.
    pub s3: Option<S3Settings>,
    /// Whether it is meant where none is named.
    pub is_default: bool,
    /// Whether WAL counts as archived only when it is here.
    pub is_required: bool,
    /// How it encrypts.
    pub cipher: CipherChoice,
    /// What opens it.
    pub secret: SecretSource,
    /// Where keys that a passphrase opened are kept.
    pub cache_directory: Option<PathBuf>,
    /// A pack of a backup is closed when it has stored that many bytes.
    pub pack_size: u64,
    /// The legal area in which its data must stay.
    pub jurisdiction: Option<String>,
    /// What is kept.
    pub retention: Retention,
    /// What moves to colder storage.
    pub tiering: Option<Tiering>,
    /// What goes to another repository.
    pub moves: Option<Moves>,
    /// How many days what was thawed stays readable.
    pub thaw_days: u16,
    /// What storage costs.
    pub prices: PriceTable,
}

/// `[repository.<name>.retention]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// How many days keep a backup.
    pub daily: u32,
    /// How many weeks keep a backup.
    pub weekly: u32,
    /// How many months keep a backup.
    pub monthly: u32,
    /// How many years keep a backup.
    pub yearly: u32,
    /// How many of the newest backups stay.
    pub last: u32,
    /// How many of the newest good fulls stay; at least 1.
    pub min_full: u32,
    /// How far back every moment stays restorable.
    pub window: Duration,
    /// Changed rules that would remove more than this many hundredths of the backups have to be confirmed.
    pub guard: u8,
    /// Whether each backup is followed by expiry.
    pub after_backup: bool,
    /// Whether any rule was given. Where none was, a configuration may have been lost: nothing is removed.
    pub is_given: bool,
}

/// `[repository.<name>.tiering]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiering {
    /// The age at which chains move.
    pub after: Duration,
    /// The class that they move to.
    pub storage_class: StorageClass,
    /// Of chains whose full is kept for a month.
    pub monthly_class: Option<StorageClass>,
    /// Of chains whose full is kept for a year.
    pub yearly_class: Option<StorageClass>,
    /// Who moves them.
    pub way: Way,
}

impl Tiering {
    /// Every class that something may move to.
    pub fn classes(&self) -> impl Iterator<Item = &StorageClass> {
        [Some(&self.storage_class), self.monthly_class.as_ref(), self.yearly_class.as_ref()]
            .into_iter()
            .flatten()
    }
}

/// `[repository.<name>.tiering]` with `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moves {
    /// The age at which chains move.
    pub after: Duration,
    /// The repository that they move to.
    pub to: String,
}

/// `[schedule]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleSettings {
    /// The zone in which the times are meant.
    pub timezone: chrono_tz::Tz,
    /// When to take a full backup.
    pub full: Option<Schedule>,
    /// When to take a differential backup.
    pub diff: Option<Schedule>,
    /// When to verify.
    pub verify: Option<Schedule>,
    /// When to expire.
    pub expire: Option<Schedule>,
}

/// `[daemon]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSettings {
    /// The control socket.
    pub socket: PathBuf,
    /// What happens without a daemon.
    pub fallback: Fallback,
    /// How many files of WAL of a cluster are stored at a time.
    pub push_jobs: usize,
    /// Bytes of WAL of a cluster on their way ahead.
    pub push_memory: u64,
    /// Files of WAL of a cluster that are stored and not asked for.
    pub push_ahead: usize,
    /// How many segments are fetched at a time.
    pub fetch_jobs: usize,
    /// Bytes of segments that are held ahead.
    pub fetch_memory: u64,
    /// How long what is under way is finished at the end.
    pub grace: Duration,
    /// Where metrics and status page are served.
    pub listen: SocketAddr,
}

/// Reads `[cluster.<name>]`.
pub(super) fn read_cluster(layered: &Layered, name: &SectionName) -> Result<ClusterSettings> {
    let section = Reader { layered, section: name };
    Ok(ClusterSettings {
        connection: section.get("connection", |text| Ok(Secret::new(text.to_owned())))?,
        data_directory: section.find("data_directory", absolute)?,
        bin_directory: section.find("bin_directory", absolute)?,
        rpo: section.get("rpo", some_time)?,
        wal_wait: section.get("wal_wait", some_time)?,
        archive_get_wait: section.get("archive_get_wait", time)?,
        jobs: section.get("jobs", jobs)?,
        max_rate: section.get("max_rate", rate)?,
        auto_full: section.get("auto_full", boolean)?,
        auto_full_below: section.get("auto_full_below", percent)?,
    })
}

/// Reads `[schedule]`.
pub(super) fn read_schedule(layered: &Layered, name: &SectionName) -> Result<ScheduleSettings> {
    let section = Reader { layered, section: name };
    Ok(ScheduleSettings {
        timezone: section.get("timezone", timezone)?,
        full: section.find("full", schedule)?,
        diff: section.find("diff", schedule)?,
        verify: section.find("verify", schedule)?,
        expire: section.find("expire", schedule)?,
    })
}

/// Reads `[daemon]`.
pub(super) fn read_daemon(layered: &Layered, name: &SectionName) -> Result<DaemonSettings> {
    let section = Reader { layered, section: name };
    let address = |text: &str| {
        text.parse().map_err(|_| {
            format!("{text:?} is not an address and a port, such as 127.0.0.1:9187 or [::]:9187")
        })
    };
    Ok(DaemonSettings {
        socket: section.get("socket", absolute)?,
        fallback: section.get("fallback", fallback)?,
        push_jobs: section.get("push_jobs", jobs)?,
        push_memory: section.get("push_memory", size)?,
        push_ahead: section.get("push_ahead", jobs)?,
        fetch_jobs: section.get("fetch_jobs", jobs)?,
        fetch_memory: section.get("fetch_memory", size)?,
        grace: section.get("grace", time)?,
        listen: section.get("listen", address)?,
    })
}

/// A repository whose values are right as far as they go.
#[derive(Debug)]
pub(super) struct RepositoryDraft {
    pub(super) name: SectionName,
    pub(super) is_default: bool,
    /// Where `required = false` stands.
    pub(super) not_required: Option<Origin>,
    url: Option<Location>,
    s3: S3Draft,
    cipher: Option<CipherChoice>,
    secrets: Vec<(&'static str, Setting, SecretSource)>,
    cache_directory: Option<PathBuf>,
    pack_size: u64,
    jurisdiction: Option<String>,
    retention: Retention,
    tiering: Option<Tiering>,
    pub(super) moves: Option<Moves>,
    thaw_days: u16,
    prices: PriceTable,
}

/// Reads `[repository.<name>]` and the sections below it.
pub(super) fn read_repository(
    layered: &Layered,
    name: &SectionName,
    folders: &SecretFolders<'_>,
) -> Result<RepositoryDraft> {
    let section = Reader { layered, section: name };
    let is_required = section.get("required", boolean)?;
    let url = section.find("url", parse_location)?;
    if matches!(url, Some(Location::File(_))) {
        require_no_keys(&section)?;
    }
    let required_at = layered.find(name, "required").map(|setting| setting.origin.clone());
    Ok(RepositoryDraft {
        name: name.clone(),
        is_default: section.get("default", boolean)?,
        not_required: required_at.filter(|_| !is_required),
        url,
        s3: read_s3(&section, folders)?,
        cipher: section.find("encryption.cipher", cipher)?,
        secrets: read_secrets(&section, folders)?,
        cache_directory: section.find("encryption.cache_directory", absolute)?,
        pack_size: section.get("pack_size", pack_size)?,
        jurisdiction: section.find("jurisdiction", some_text)?,
        retention: Retention {
            daily: section.get("retention.daily", count)?,
            weekly: section.get("retention.weekly", count)?,
            monthly: section.get("retention.monthly", count)?,
            yearly: section.get("retention.yearly", count)?,
            last: section.get("retention.last", count)?,
            min_full: section.get("retention.min_full", some_count)?,
            window: section.get("retention.window", window)?,
            guard: section.get("retention.guard", percent)?,
            after_backup: section.get("retention.after_backup", boolean)?,
            is_given: has_rules(&section),
        },
        tiering: read_tiering(&section)?,
        moves: read_moves(&section)?,
        thaw_days: section.get("tiering.thaw_days", days)?,
        prices: read_prices(&section)?,
    })
}

/// Whether any rule says what is kept.
fn has_rules(section: &Reader<'_>) -> bool {
    Section::Repository.keys().any(|key| {
        let is_rule = key.name.starts_with("retention.")
            && !matches!(key.name, "retention.guard" | "retention.after_backup");
        let given = section.layered.find(section.section, key.name);
        is_rule && given.is_some_and(|setting| setting.origin != Origin::Default)
    })
}

fn read_moves(section: &Reader<'_>) -> Result<Option<Moves>> {
    let Some(to) = section.find("tiering.to", some_text)? else { return Ok(None) };
    let classes = ["tiering.storage_class", "tiering.monthly_class", "tiering.yearly_class"];
    if let Some(class) = classes.into_iter().find(|key| section.setting(key).is_some()) {
        return Err(section.conflict(format!(
            "tiering.to moves chains to {to}, and {class} to colder storage here; take one of them out"
        )));
    }
    let after = section.find("tiering.after", time)?.ok_or_else(|| {
        let hint = "tiering.to is set, so say at which age chains move, such as \"14d\"";
        section.missing("tiering.after", hint)
    })?;
    match has_rules(section) {
        true => Ok(Some(Moves { after, to })),
        false => Err(section.missing(
            "retention.window",
            "tiering.to removes here what is there, so write which moments stay restorable from here, such as \"14d\"",
        )),
    }
}

fn read_tiering(section: &Reader<'_>) -> Result<Option<Tiering>> {
    if section.find("tiering.to", some_text)?.is_some() {
        return Ok(None);
    }
    let after = section.find("tiering.after", time)?;
    let class = section.find("tiering.storage_class", storage_class)?;
    let monthly_class = section.find("tiering.monthly_class", storage_class)?;
    let yearly_class = section.find("tiering.yearly_class", storage_class)?;
    let way = section.get("tiering.by", tiering_way)?;
    match (after, class) {
        (Some(after), Some(storage_class)) => {
            Ok(Some(Tiering { after, storage_class, monthly_class, yearly_class, way }))
        }
        (Some(_), None) => Err(section.missing(
            "tiering.storage_class",
            "tiering.after is set, so name the class, such as \"GLACIER\"",
        )),
        (None, Some(_)) => Err(section.missing(
            "tiering.after",
            "tiering.storage_class is set, so say at which age chains move, such as \"35d\"",
        )),
        (None, None) if monthly_class.is_some() || yearly_class.is_some() => Err(section.missing(
            "tiering.after",
            "a class is set, so say at which age chains move, such as \"35d\", and name storage_class",
        )),
        (None, None) => Ok(None),
    }
}

fn read_prices(section: &Reader<'_>) -> Result<PriceTable> {
    let mut of_classes = BTreeMap::new();
    for key in Section::Repository.keys() {
        let class = key.name.strip_prefix("prices.").filter(|_| key.form == Form::Price);
        let Some(class) = class.map(|class| StorageClass::parse(&class.to_ascii_uppercase()))
        else {
            continue;
        };
        if let Some(found) = section.find(key.name, price)? {
            of_classes.insert(class, found);
        }
    }
    Ok(PriceTable { currency: section.get("prices.currency", some_text)?, of_classes })
}

fn read_secrets(
    section: &Reader<'_>,
    folders: &SecretFolders<'_>,
) -> Result<Vec<(&'static str, Setting, SecretSource)>> {
    let file = |text: &str| secret_file(text, folders);
    let text = |text: &str| some_text(text).map(Secret::new);
    let mut found = Vec::new();
    let mut add = |key, kind: Option<Kind>| {
        if let (Some(kind), Some(setting)) = (kind, section.setting(key)) {
            let source = SecretSource::new(section.address(key), setting.origin.clone(), kind);
            found.push((key, setting.clone(), source));
        }
    };
    let key = "encryption.key_file";
    add(key, section.find(key, file)?.map(Kind::KeyFile));
    let key = "encryption.passphrase_file";
    add(key, section.find(key, file)?.map(Kind::PassphraseFile));
    let key = "encryption.passphrase_command";
    add(key, section.find(key, text)?.map(Kind::PassphraseCommand));
    let key = "encryption.passphrase";
    add(key, section.find(key, text)?.map(Kind::Passphrase));
    Ok(found)
}

impl RepositoryDraft {
    /// The repository, when everything is there that must be.
    pub(super) fn complete(&self, layered: &Layered) -> Result<RepositorySettings> {
        let section = Reader { layered, section: &self.name };
        let url = self.url.clone().ok_or_else(|| {
            section.missing(
                "url",
                "say where the repository is, such as url = \"file:///var/lib/pgkeep\"",
            )
        })?;
        let cipher = self.cipher.ok_or_else(|| {
            let hint = format!(
                "write a section [{}.encryption] with cipher = \"aes-256-cbc\" and a key_file, or \
                 with cipher = \"none\" if backups and WAL may lie there in the clear",
                self.name
            );
            section.missing("encryption.cipher", &hint)
        })?;
        let s3 = self.s3.complete(&section, &url)?;
        if self.tiering.is_some() && s3.is_none() {
            return Err(section.conflict(
                "a folder has no storage classes to which packs could move: take the section tiering out, or \
                 name a bucket (s3://...)"
                    .to_owned(),
            ));
        }
        Ok(RepositorySettings {
            name: self.name.name.clone(),
            url,
            s3,
            is_default: self.is_default,
            is_required: self.not_required.is_none(),
            cipher,
            secret: self.secret(&section, cipher)?,
            cache_directory: self.cache_directory.clone(),
            pack_size: self.pack_size,
            jurisdiction: self.jurisdiction.clone(),
            retention: self.retention.clone(),
            tiering: self.tiering.clone(),
            moves: self.moves.clone(),
            thaw_days: self.thaw_days,
            prices: self.prices.clone(),
        })
    }

    fn secret(&self, section: &Reader<'_>, cipher: CipherChoice) -> Result<SecretSource> {
        match (cipher, self.secrets.as_slice()) {
            (CipherChoice::None, []) => {
                let key = section.address("encryption.cipher");
                Ok(SecretSource::new(key, Origin::Default, Kind::Clear))
            }
            (CipherChoice::None, several) => Err(section.conflict(format!(
                "cipher = \"none\" needs no secret, and there is {}; take it out, or write cipher = \
                 \"aes-256-cbc\"",
                listed(several)
            ))),
            (CipherChoice::Aes256Cbc, [(_, _, source)]) => Ok(source.clone()),
            (CipherChoice::Aes256Cbc, []) => Err(section.missing(
                "encryption.key_file",
                "cipher = \"aes-256-cbc\" needs one of key_file, passphrase_file and \
                 passphrase_command",
            )),
            (CipherChoice::Aes256Cbc, several) => Err(section.conflict(format!(
                "one secret is needed, and there are {}; keep the one that opens the repository",
                listed(several)
            ))),
        }
    }
}

fn listed(secrets: &[(&'static str, Setting, SecretSource)]) -> String {
    let each = secrets.iter().map(|(key, setting, _)| format!("{key} ({})", setting.origin));
    each.collect::<Vec<_>>().join(" and ")
}
