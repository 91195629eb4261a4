//! What the caller says about a bucket and how to reach it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Secret;
use crate::storage::retry::RetryPolicy;
use crate::storage::{Cause, LockRule};

/// Where the bucket is, who asks, and how.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// What the names of all objects begin with, without slashes at its ends; may be empty.
    pub prefix: String,
    /// URL of a server that is not AWS.
    pub endpoint: Option<String>,
    /// The bucket's region; without one, what the AWS chain says.
    pub region: Option<String>,
    /// Whether the bucket is named in the path instead of the host name.
    pub path_style: bool,
    /// Who asks.
    pub credentials: Credentials,
    /// PEM file with certificates that are trusted besides the system's, as bytes.
    pub ca: Option<Vec<u8>>,
    /// How the server is to encrypt what it stores.
    pub encryption: ServerEncryption,
    /// Whether the requester pays for requests and traffic.
    pub requester_pays: bool,
    /// Whether checksums are sent where they are supported, or only where they must be (servers that
    /// refuse the newer headers).
    pub checksums: Checksums,
    /// Bytes per second, both ways together.
    pub max_rate: Option<u64>,
    /// How many requests may be under way at a time.
    pub requests_max: usize,
    /// Bytes of a part of an object that is sent in parts: 5 MiB to 5 GiB.
    pub part_bytes: usize,
    /// How many parts of one object may be under way at a time; with the one being filled, so many
    /// times `part_bytes` is what one stream keeps in memory.
    pub parts_in_flight: usize,
    /// An object of more bytes than this is copied in parts by the service, which copies at most 5 GiB at once: many
    /// side by side are there sooner, and one that fails is not all of it.
    pub copy_whole_max: u64,
    /// Bytes of such a part: 5 MiB to 5 GiB. No bytes pass here, so `parts_in_flight` of them cost no memory.
    pub copy_part_bytes: u64,
    /// What is locked when it is put; the bucket must have Object Lock.
    pub lock: Option<LockRule>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long nothing may move: until the first byte of an answer, and between any two pieces.
    pub idle_timeout: Duration,
    /// When to try again.
    pub retry: RetryPolicy,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            prefix: String::new(),
            endpoint: None,
            region: None,
            path_style: false,
            credentials: Credentials::Chain { profile: None },
            ca: None,
            encryption: ServerEncryption::Default,
            requester_pays: false,
            checksums: Checksums::WhenSupported,
            max_rate: None,
            requests_max: 32,
            part_bytes: 8 << 20,
            parts_in_flight: 3,
            copy_whole_max: 1 << 30,
            copy_part_bytes: 512 << 20,
            lock: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// The standard AWS chain: environment, profile, web identity, container, instance.
    Chain {
        /// The profile, where it is not the environment's or `default`.
        profile: Option<String>,
    },
    /// These, and no others.
    Fixed(AccessKeys),
    /// Those that are there when they are needed: they may be replaced during a long backup.
    Source(Arc<dyn KeySource>),
}

/// What requests are signed with.
#[derive(Debug, Clone)]
pub struct AccessKeys {
    /// Access key id.
    pub access_key: Secret<String>,
    /// Secret access key.
    pub secret_key: Secret<String>,
    /// Session token, of temporary credentials.
    pub session_token: Option<Secret<String>>,
}

/// Where keys come from.
pub trait KeySource: fmt::Debug + Send + Sync {
    /// Reads them.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn read(&self) -> Result<AccessKeys, Cause>;
}

/// How the server encrypts what it stores; our own encryption is another matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEncryption {
    /// As the bucket says.
    Default,
    /// `AES256` (SSE-S3).
    S3,
    /// `aws:kms` (SSE-KMS), with the bucket's key or this one.
    Kms {
        /// Id or ARN of the key.
        key_id: Option<String>,
    },
}

/// When checksums are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// CRC-32C with every upload, which the server checks before it stores.
    WhenSupported,
    /// None, but where objects are locked, for S3 refuses those without; batches of deletions are single ones, since a
    /// batch must have one.
    WhenRequired,
}
