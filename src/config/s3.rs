//! The keys of a repository in a bucket: how to reach it, and who asks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::error::{Error, Result, Warning};
use super::layers::Origin;
use super::location::{Location, S3Location};
use super::reader::Reader;
use super::secret_source::{Kind, SecretFolders, SecretSource};
use super::values::{Read, absolute, boolean, jobs, rate, secret_file, some_text, some_time, time};
use crate::base::{ByteSize, hex};
use crate::repo::lock_for;
use crate::storage::s3::{
    AccessKeys, Checksums, Credentials, KeySource, S3Options, ServerEncryption,
};
use crate::storage::{self, LockMode, LockRule, RetryPolicy};

/// How to reach a repository in a bucket.
#[derive(Debug, Clone)]
pub struct S3Settings {
    location: S3Location,
    draft: S3Draft,
    credentials: CredentialSource,
}

#[derive(Debug, Clone)]
enum CredentialSource {
    Chain,
    Files(Box<CredentialFiles>),
}

#[derive(Debug, Clone)]
struct CredentialFiles {
    access: SecretSource,
    secret: SecretSource,
    token: Option<SecretSource>,
}

impl CredentialFiles {
    fn keys(&self, warnings: &mut Vec<Warning>) -> Result<AccessKeys> {
        let token = self.token.as_ref().map(|token| token.text(warnings));
        Ok(AccessKeys {
            session_token: token.transpose()?,
            access_key: self.access.text(warnings)?,
            secret_key: self.secret.text(warnings)?,
        })
    }
}

impl KeySource for CredentialFiles {
    fn read(&self) -> std::result::Result<AccessKeys, storage::Cause> {
        self.keys(&mut Vec::new()).map_err(Into::into)
    }
}

/// Where archive-push keeps what it reads first.
#[derive(Debug, Clone, PartialEq, Eq)]
enum OpeningCache {
    Auto,
    Off,
    Folder(PathBuf),
}

/// The keys as they were read, before it is known whether they count.
#[derive(Debug, Clone)]
pub(super) struct S3Draft {
    endpoint: Option<String>,
    region: Option<String>,
    path_style: bool,
    profile: Option<String>,
    access_key: Option<SecretSource>,
    secret_key: Option<SecretSource>,
    session_token: Option<SecretSource>,
    ca_file: Option<PathBuf>,
    server_encryption: Option<ServerEncryption>,
    kms_key: Option<String>,
    requester_pays: bool,
    checksums: Checksums,
    max_rate: Option<ByteSize>,
    requests: usize,
    connect_timeout: Duration,
    idle_timeout: Duration,
    retry_for: Duration,
    opening_cache: OpeningCache,
    lock_days: Option<u32>,
    lock_mode: LockMode,
}

/// Keys that mean nothing for a folder.
const KEYS: [&str; 20] = [
    "endpoint",
    "region",
    "path_style",
    "profile",
    "access_key_file",
    "secret_key_file",
    "session_token_file",
    "ca_file",
    "server_encryption",
    "kms_key",
    "requester_pays",
    "checksums",
    "max_rate",
    "requests",
    "connect_timeout",
    "idle_timeout",
    "retry_for",
    "opening_cache",
    "lock_days",
    "lock_mode",
];

/// Reads the keys, whatever the url is.
pub(super) fn read_s3(section: &Reader<'_>, folders: &SecretFolders<'_>) -> Result<S3Draft> {
    let secret = |key: &'static str| {
        let file = section.find(key, |text| secret_file(text, folders))?;
        let setting = section.setting(key);
        Ok(file.zip(setting).map(|(file, setting)| {
            let (address, origin) = (section.address(key), setting.origin.clone());
            SecretSource::new(address, origin, Kind::PassphraseFile(file))
        }))
    };
    Ok(S3Draft {
        endpoint: section.find("endpoint", endpoint)?,
        region: section.find("region", some_text)?,
        path_style: section.get("path_style", boolean)?,
        profile: section.find("profile", some_text)?,
        access_key: secret("access_key_file")?,
        secret_key: secret("secret_key_file")?,
        session_token: secret("session_token_file")?,
        ca_file: section.find("ca_file", absolute)?,
        server_encryption: section.find("server_encryption", server_encryption)?,
        kms_key: section.find("kms_key", some_text)?,
        requester_pays: section.get("requester_pays", boolean)?,
        checksums: section.get("checksums", checksums)?,
        max_rate: section.get("max_rate", rate)?,
        requests: section.get("requests", jobs)?,
        connect_timeout: section.get("connect_timeout", some_time)?,
        idle_timeout: section.get("idle_timeout", some_time)?,
        retry_for: section.get("retry_for", time)?,
        opening_cache: section.get("opening_cache", opening_cache)?,
        lock_days: section.find("lock_days", lock_days)?,
        lock_mode: section.get("lock_mode", lock_mode)?,
    })
}

fn endpoint(text: &str) -> Read<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(rest) if rest.contains('@') => {
            Err("credentials do not belong in a URL; the usual AWS chain is read for them".into())
        }
        Some(rest) if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err(format!("{text:?} is not a URL, such as https://s3.example.com")),
    }
}

fn server_encryption(text: &str) -> Read<ServerEncryption> {
    match text {
        "AES256" => Ok(ServerEncryption::S3),
        "aws:kms" => Ok(ServerEncryption::Kms { key_id: None }),
        _ => Err(format!("{text:?} is neither AES256 nor aws:kms")),
    }
}

fn checksums(text: &str) -> Read<Checksums> {
    match text {
        "when_supported" => Ok(Checksums::WhenSupported),
        "when_required" => Ok(Checksums::WhenRequired),
        _ => Err(format!("{text:?} is neither when_supported nor when_required")),
    }
}

fn opening_cache(text: &str) -> Read<OpeningCache> {
    match text {
        "auto" => Ok(OpeningCache::Auto),
        "off" => Ok(OpeningCache::Off),
        path => absolute(path)
            .map(OpeningCache::Folder)
            .map_err(|wrong| format!("{wrong}, or write \"auto\" or \"off\"")),
    }
}

fn lock_days(text: &str) -> Read<u32> {
    let days = text.parse().ok().filter(|days| (1..=36_500).contains(days));
    days.ok_or_else(|| format!("{text:?} is not a whole number of days from 1 to 36500"))
}

fn lock_mode(text: &str) -> Read<LockMode> {
    match text {
        "governance" => Ok(LockMode::Governance),
        "compliance" => Ok(LockMode::Compliance),
        _ => Err(format!("{text:?} is neither governance nor compliance")),
    }
}

impl S3Draft {
    /// The settings of a bucket; none for a folder.
    pub(super) fn complete(
        &self,
        section: &Reader<'_>,
        url: &Location,
    ) -> Result<Option<S3Settings>> {
        let Location::S3(location) = url else { return Ok(None) };
        let mut draft = self.clone();
        match (&self.server_encryption, &self.kms_key) {
            (Some(ServerEncryption::Kms { .. }), key_id) => {
                let key_id = key_id.clone();
                draft.server_encryption = Some(ServerEncryption::Kms { key_id });
            }
            (_, None) => {}
            (_, Some(_)) => {
                return Err(section
                    .conflict("kms_key counts with server_encryption = \"aws:kms\" only".into()));
            }
        }
        let is_given =
            |key| section.setting(key).is_some_and(|setting| setting.origin != Origin::Default);
        if self.lock_days.is_none() && is_given("lock_mode") {
            return Err(section.conflict("lock_mode counts with lock_days only".into()));
        }
        let credentials = match (&self.access_key, &self.secret_key) {
            (Some(access), Some(secret)) if self.profile.is_none() => {
                let (access, secret) = (access.clone(), secret.clone());
                let token = self.session_token.clone();
                CredentialSource::Files(Box::new(CredentialFiles { access, secret, token }))
            }
            (None, None) if self.session_token.is_none() => CredentialSource::Chain,
            (Some(_), Some(_)) => {
                let why = "credentials come from a profile or from files; take one of them out";
                return Err(section.conflict(why.into()));
            }
            (Some(_), None) => {
                let hint = "access_key_file is set; name the file of its secret key too";
                return Err(section.missing("secret_key_file", hint));
            }
            (None, _) => {
                let hint =
                    "the other half of the credentials is set; name the access key's file too";
                return Err(section.missing("access_key_file", hint));
            }
        };
        Ok(Some(S3Settings { location: location.clone(), draft, credentials }))
    }
}

/// Refuses them where the repository is a folder.
pub(super) fn require_no_keys(section: &Reader<'_>) -> Result<()> {
    for key in KEYS {
        let why = |_: &str| Err("counts for s3:// urls only; take it out".to_owned());
        if section.setting(key).is_some_and(|setting| setting.origin != Origin::Default) {
            section.find::<()>(key, why)?;
        }
    }
    Ok(())
}

impl S3Settings {
    /// The server, where it is not AWS.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.draft.endpoint.as_deref()
    }

    /// By which rule what is put is locked.
    #[must_use]
    pub fn lock(&self) -> Option<LockRule> {
        let days = u64::from(self.draft.lock_days?);
        let rule = LockRule::new(self.draft.lock_mode, Duration::from_hours(24 * days));
        Some(LockRule { of_name: lock_for, ..rule })
    }

    /// The files of credentials and certificates that it names.
    pub fn files(&self) -> Vec<PathBuf> {
        let draft = &self.draft;
        let secrets = [&draft.access_key, &draft.secret_key, &draft.session_token];
        let of_secrets = secrets.into_iter().flatten().filter_map(SecretSource::file);
        of_secrets.map(Path::to_owned).chain(draft.ca_file.clone()).collect()
    }

    /// The file that keeps what archive-push reads first. One for each place and way to it, of this account.
    #[must_use]
    pub fn opening_cache(&self) -> Option<PathBuf> {
        let memory = Path::new("/dev/shm");
        let folder = match &self.draft.opening_cache {
            OpeningCache::Off => return None,
            OpeningCache::Folder(folder) => folder.clone(),
            OpeningCache::Auto if memory.is_dir() => {
                memory.join(format!("pgkeep-{}", rustix::process::geteuid().as_raw()))
            }
            OpeningCache::Auto => return None,
        };
        let S3Location { bucket, prefix } = &self.location;
        let endpoint = self.draft.endpoint.as_deref().unwrap_or_default();
        let name = Sha256::digest(format!("{endpoint}\n{bucket}\n{prefix}"));
        Some(folder.join(hex::encode(&name)))
    }

    /// What the store is opened with: reads the files of credentials and certificates.
    ///
    /// # Errors
    /// [`Error::UnreadableSecret`], [`Error::InvalidPassphrase`], [`Error::UnreadableFile`].
    pub fn options(&self) -> Result<(S3Options, Vec<Warning>)> {
        let draft = &self.draft;
        let mut warnings = Vec::new();
        let ca = draft.ca_file.as_ref().map(|path| {
            std::fs::read(path)
                .map_err(|source| Error::UnreadableFile { path: path.clone(), source })
        });
        let credentials = match &self.credentials {
            CredentialSource::Chain => Credentials::Chain { profile: draft.profile.clone() },
            CredentialSource::Files(files) => {
                // What cannot be read is told now; what is read may be replaced before it is used.
                files.keys(&mut warnings)?;
                Credentials::Source(Arc::new(files.as_ref().clone()))
            }
        };
        let defaults = S3Options::default();
        let options = S3Options {
            bucket: self.location.bucket.clone(),
            prefix: self.location.prefix.clone(),
            endpoint: draft.endpoint.clone(),
            region: draft.region.clone(),
            path_style: draft.path_style,
            credentials,
            ca: ca.transpose()?,
            encryption: draft.server_encryption.clone().unwrap_or(ServerEncryption::Default),
            requester_pays: draft.requester_pays,
            checksums: draft.checksums,
            max_rate: draft.max_rate.map(|rate| rate.0),
            lock: self.lock(),
            requests_max: draft.requests,
            connect_timeout: draft.connect_timeout,
            idle_timeout: draft.idle_timeout,
            retry: RetryPolicy { deadline: draft.retry_for, ..defaults.retry },
            ..defaults
        };
        Ok((options, warnings))
    }
}
