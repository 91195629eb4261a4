//! Which keys the configuration has: one table for the reader, the environment and the documents.
//!
//! A key that is not here is refused. Tests hold `config/README.md` and `config/pgkeep.example.toml`
//! to this table. What a value means is not here but in `sections.rs`.

use std::fmt;

/// The four kinds of sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// `[cluster.<name>]`
    Cluster,
    /// `[repository.<name>]` and the sections below it.
    Repository,
    /// `[schedule]`
    Schedule,
    /// `[daemon]`
    Daemon,
}

impl Section {
    /// Every kind, in the order of the documents.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Repository, Self::Schedule, Self::Daemon];

    /// The word in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Repository => "repository",
            Self::Schedule => "schedule",
            Self::Daemon => "daemon",
        }
    }

    /// Whether there may be several, each with a name.
    #[must_use]
    pub fn is_named(self) -> bool {
        matches!(self, Self::Cluster | Self::Repository)
    }

    /// The kind that a word means.
    #[must_use]
    pub fn find(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.name() == word)
    }

    /// The keys that it may have.
    pub fn keys(self) -> impl Iterator<Item = &'static Key> + Clone {
        KEYS.iter().filter(move |key| key.section == self)
    }

    /// One of its keys; `name` includes the section below: `encryption.key_file`.
    #[must_use]
    pub fn find_key(self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }

    /// The sections below it, such as `encryption`.
    #[must_use]
    pub fn sections_below(self) -> Vec<&'static str> {
        let mut below: Vec<_> =
            self.keys().filter_map(|key| Some(key.name.split_once('.')?.0)).collect();
        below.dedup();
        below
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the value of a key looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text.
    Text,
    /// Text that may hold a password or name one: never shown.
    Secret,
    /// A secret that only the environment may give.
    EnvironmentSecret,
    /// An absolute path.
    Path,
    /// A path that systemd's credentials may supply.
    SecretPath,
    /// A number with units of time.
    Duration,
    /// Bytes per second.
    Rate,
    /// A share of something.
    Share,
    /// What something costs.
    Price,
    /// Bytes.
    Size,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
}

impl Form {
    /// Whether a value may be shown.
    #[must_use]
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::EnvironmentSecret)
    }

    /// How to write such a value in the file.
    #[must_use]
    pub fn expected(self) -> &'static str {
        match self {
            Self::Text | Self::Secret | Self::EnvironmentSecret => "text in quotes",
            Self::Path | Self::SecretPath => "a path in quotes",
            Self::Duration => "a duration with its unit, in quotes, such as \"90s\" or \"5m\"",
            Self::Rate => "bytes per second with their unit, in quotes, such as \"100MiB\"",
            Self::Share => "hundredths, in quotes, such as \"70%\"",
            Self::Price => "a decimal number, in quotes, such as \"0.023\"",
            Self::Size => "bytes with their unit, in quotes, such as \"256MiB\"",
            Self::Integer => "a whole number without quotes",
            Self::Boolean => "true or false, without quotes",
        }
    }
}

/// One key of the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// The section it belongs to.
    pub section: Section,
    /// Its name within that section, with the section below: `encryption.key_file`.
    pub name: &'static str,
    /// What its value looks like.
    pub form: Form,
    /// The value, as text, that counts when nobody gives one.
    pub default: Option<&'static str>,
    /// What it does, in one line.
    pub summary: &'static str,
}

use Form::{
    Boolean, Duration, EnvironmentSecret, Integer, Path, Price, Rate, Secret, SecretPath, Share,
    Size, Text,
};
use Section::{Cluster, Daemon, Repository, Schedule};

const fn key(
    section: Section,
    name: &'static str,
    form: Form,
    default: Option<&'static str>,
    summary: &'static str,
) -> Key {
    Key { section, name, form, default, summary }
}

/// Every key there is, in the order of the documents.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key(Cluster, "connection", Secret, Some("host=/var/run/postgresql user=postgres dbname=postgres"),
        "libpq connection string of the server"),
    key(Cluster, "data_directory", Path, None,
        "the cluster's data directory on this host; archiving and backups need it"),
    key(Cluster, "bin_directory", Path, None,
        "folder of the server's programs, for restores; not needed where packages put them, or where PATH leads"),
    key(Cluster, "rpo", Duration, Some("5m"),
        "how much time a disaster may cost at most; check fails when the archive falls behind it, or when archive_timeout is longer"),
    key(Cluster, "wal_wait", Duration, Some("10m"),
        "how long a backup waits for its last WAL segment to be archived"),
    key(Cluster, "archive_get_wait", Duration, Some("10s"),
        "how long archive-get tries again where waiting may help, and a standby in any doubt, before it answers"),
    key(Cluster, "jobs", Integer, Some("2"),
        "how many files or objects are worked on at a time, 1 to 256"),
    key(Cluster, "max_rate", Rate, Some("unlimited"),
        "bytes per second that a backup reads at most"),
    key(Cluster, "auto_full", Boolean, Some("false"),
        "whether a full is taken where a differential or incremental backup has no parent that fits, or a differential is not worth it any more"),
    key(Cluster, "auto_full_below", Share, Some("70%"),
        "a full is due when the newest backup that stands on the last one uses less than this of it"),
    key(Repository, "url", Text, None,
        "where it is: file:///absolute/path, or s3://bucket/prefix"),
    key(Repository, "default", Boolean, Some("false"),
        "whether this one is meant where a command names none of several"),
    key(Repository, "required", Boolean, Some("true"),
        "whether WAL counts as archived only when it is here; one that is not required may lag"),
    key(Repository, "pack_size", Size, Some("1GiB"),
        "a pack of a backup is closed when it has stored that much, 1MiB to 2GiB; of an interrupted backup closed packs are used again"),
    key(Repository, "jurisdiction", Text, None,
        "legal area in which its data must stay, such as \"EU\": nothing is copied from here to a repository with another or none"),
    key(Repository, "endpoint", Text, None,
        "s3 only: URL of a server that is not AWS"),
    key(Repository, "region", Text, None,
        "s3 only: the bucket's region; init and check refuse a bucket that is elsewhere"),
    key(Repository, "path_style", Boolean, Some("false"),
        "s3 only: whether the bucket is named in the path instead of the host name"),
    key(Repository, "profile", Text, None,
        "s3 only: profile of the AWS configuration that credentials come from"),
    key(Repository, "access_key_file", SecretPath, None,
        "s3 only: file whose one line is the access key id, instead of the AWS chain"),
    key(Repository, "secret_key_file", SecretPath, None,
        "s3 only: file whose one line is the secret access key"),
    key(Repository, "session_token_file", SecretPath, None,
        "s3 only: file whose one line is the session token of temporary credentials"),
    key(Repository, "ca_file", Path, None,
        "s3 only: PEM file of certificates that are trusted besides the system's"),
    key(Repository, "server_encryption", Text, None,
        "s3 only: AES256 or aws:kms, what the server encrypts with besides pgkeep; none means as the bucket says"),
    key(Repository, "kms_key", Text, None,
        "s3 only: id or ARN of the key for aws:kms"),
    key(Repository, "requester_pays", Boolean, Some("false"),
        "s3 only: whether the requester pays for requests and traffic"),
    key(Repository, "checksums", Text, Some("when_supported"),
        "s3 only: when_supported, or when_required for servers that refuse the newer checksum headers"),
    key(Repository, "max_rate", Rate, Some("unlimited"),
        "s3 only: bytes per second to and from the repository, both together"),
    key(Repository, "requests", Integer, Some("32"),
        "s3 only: how many requests of one process may be under way at a time, 1 to 256"),
    key(Repository, "connect_timeout", Duration, Some("10s"),
        "s3 only: how long to wait for a connection"),
    key(Repository, "idle_timeout", Duration, Some("30s"),
        "s3 only: how long nothing may move before a request counts as lost"),
    key(Repository, "retry_for", Duration, Some("2m"),
        "s3 only: how long a request is tried again when the service is busy or away"),
    key(Repository, "opening_cache", Text, Some("auto"),
        "s3 only: folder that keeps for 5 s what every archive-push reads first, so that it is one request; auto is /dev/shm/pgkeep-UID, off is none"),
    key(Repository, "lock_days", Integer, None,
        "s3 only: for how many days nobody can remove what pgkeep puts (Object Lock), 1 to 36500; expire extends it for what is kept; none means no locks"),
    key(Repository, "lock_mode", Text, Some("governance"),
        "s3 only: governance, in which who has a special right ends locks, or compliance, in which nobody does"),
    key(Repository, "encryption.cipher", Text, None,
        "aes-256-cbc or none; must be written out"),
    key(Repository, "encryption.key_file", SecretPath, None,
        "file with the key; init makes it"),
    key(Repository, "encryption.passphrase_file", SecretPath, None,
        "file whose one line is the passphrase"),
    key(Repository, "encryption.passphrase_command", Secret, None,
        "shell command that prints the passphrase, within 30 s"),
    key(Repository, "encryption.passphrase", EnvironmentSecret, None,
        "the passphrase itself; from the environment only"),
    key(Repository, "encryption.cache_directory", Path, None,
        "folder of the account's own, best in memory, that keeps what a passphrase opened, so that not every segment costs a scrypt"),
    key(Repository, "retention.daily", Integer, Some("7"),
        "of how many days the newest good full stays: of the latest that have one"),
    key(Repository, "retention.weekly", Integer, Some("4"),
        "of how many ISO weeks"),
    key(Repository, "retention.monthly", Integer, Some("12"),
        "of how many months"),
    key(Repository, "retention.yearly", Integer, Some("0"),
        "of how many years"),
    key(Repository, "retention.last", Integer, Some("0"),
        "how many of the newest backups of any type stay"),
    key(Repository, "retention.min_full", Integer, Some("1"),
        "how many of the newest good fulls stay, whatever else holds; at least 1"),
    key(Repository, "retention.window", Duration, Some("14d"),
        "how far back from the newest moment every moment stays restorable"),
    key(Repository, "retention.guard", Share, Some("50%"),
        "expire asks, or needs --yes, where changed rules would remove more than this of the backups, or of the WAL"),
    key(Repository, "retention.after_backup", Boolean, Some("false"),
        "whether each backup is followed by expire"),
    key(Repository, "tiering.after", Duration, None,
        "age at which whole closed chains move to colder storage; none means never"),
    key(Repository, "tiering.to", Text, None,
        "name of another repository that old closed chains are copied to, and removed here; instead of storage_class"),
    key(Repository, "tiering.storage_class", Text, None,
        "the storage class they move to, such as GLACIER or DEEP_ARCHIVE"),
    key(Repository, "tiering.monthly_class", Text, None,
        "the class for chains whose full is kept for a month; none means storage_class"),
    key(Repository, "tiering.yearly_class", Text, None,
        "the class for chains whose full is kept for a year; none means monthly_class"),
    key(Repository, "tiering.by", Text, Some("copy"),
        "copy moves packs itself; tag only tags them, for the rules that repository lifecycle prints"),
    key(Repository, "tiering.thaw_days", Integer, Some("7"),
        "how many days what was thawed stays readable, 1 to 365"),
    key(Repository, "prices.currency", Text, Some("USD"),
        "the currency of the prices, as repository stats shows it"),
    key(Repository, "prices.standard", Price, None,
        "what a GiB costs for a month in STANDARD, or in a folder"),
    key(Repository, "prices.standard_ia", Price, None,
        "in STANDARD_IA"),
    key(Repository, "prices.onezone_ia", Price, None,
        "in ONEZONE_IA"),
    key(Repository, "prices.intelligent_tiering", Price, None,
        "in INTELLIGENT_TIERING"),
    key(Repository, "prices.glacier_ir", Price, None,
        "in GLACIER_IR"),
    key(Repository, "prices.glacier", Price, None,
        "in GLACIER"),
    key(Repository, "prices.deep_archive", Price, None,
        "in DEEP_ARCHIVE"),
    key(Schedule, "timezone", Text, Some("UTC"),
        "time zone of the times below, by its IANA name"),
    key(Schedule, "full", Text, None,
        "when to take a full backup: second minute hour day month weekday (not carried out yet)"),
    key(Schedule, "diff", Text, None,
        "when to take a differential backup (not carried out yet)"),
    key(Schedule, "verify", Text, None,
        "when to verify (not carried out yet)"),
    key(Schedule, "expire", Text, None,
        "when the daemon runs expire"),
    key(Daemon, "socket", Path, Some("/run/pgkeep/pgkeep.sock"),
        "the socket that archive-push and archive-get ask the daemon by; its folder must be its account's own, mode 0700"),
    key(Daemon, "fallback", Text, Some("direct"),
        "what they do when no daemon answers: direct does the work without it, fail fails"),
    key(Daemon, "push_jobs", Integer, Some("4"),
        "how many files of WAL of a cluster are stored at a time, 1 to 256; with 1 nothing is stored ahead"),
    key(Daemon, "push_memory", Size, Some("256MiB"),
        "how many bytes of WAL of a cluster may be on their way ahead of their requests"),
    key(Daemon, "push_ahead", Integer, Some("64"),
        "how many files of WAL of a cluster may be stored that its server has not asked for yet"),
    key(Daemon, "fetch_jobs", Integer, Some("4"),
        "how many segments are fetched at a time ahead of a recovery, 1 to 256"),
    key(Daemon, "fetch_memory", Size, Some("256MiB"),
        "how many bytes of segments are held ahead of a recovery; less than two segments hold none"),
    key(Daemon, "grace", Duration, Some("30s"),
        "how long the daemon finishes what is under way when it is told to stop"),
    key(Daemon, "listen", Text, Some("127.0.0.1:9187"),
        "address and port of metrics and status page"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_can_be_told_apart_in_the_environment() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(!key.name.contains("__"), "{}", key.name);
            let same = |other: &&Key| other.section == key.section && other.name == key.name;
            assert_eq!(KEYS.iter().position(|other| same(&other)), Some(index), "{}", key.name);
        }
    }

    #[test]
    fn sections_below_are_known() {
        assert_eq!(Repository.sections_below(), ["encryption", "retention", "tiering", "prices"]);
        assert!(Cluster.sections_below().is_empty());
        assert_eq!(Section::find("daemon"), Some(Daemon));
        assert_eq!(Section::find("clusters"), None);
    }
}
