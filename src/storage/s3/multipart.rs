//! Objects that come in pieces: one request when they are small, parts side by side when they are not.
//!
//! A part is kept until the service has acknowledged it, and sent again byte for byte. Nothing is visible
//! before the upload is completed; a writer that is dropped aborts it, and what a killed process leaves is
//! found by [`Connection::uploads`].

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::connection::{Attempts, Connection};
use super::download::{Download, Downloaded};
use super::failure::{Failure, Meaning};
use super::operation::Operation;
use crate::storage::{Error, ObjectKey, ObjectWriter, Result};

/// What is kept of an object's beginning, to know it again. Sealed objects begin with a random salt.
const HEAD: usize = 128;

/// How long whoever gives up an upload waits for it to be aborted.
const ABORT_WAIT: Duration = Duration::from_secs(10);

type Part = std::result::Result<CompletedPart, Failure>;

/// An object being sent.
pub(super) struct S3Writer {
    connection: Arc<Connection>,
    key: ObjectKey,
    /// The part being filled.
    filling: Vec<u8>,
    head: Vec<u8>,
    sent: u64,
    upload: Option<String>,
    in_flight: JoinSet<Part>,
    number: i32,
    done: Vec<CompletedPart>,
}

impl S3Writer {
    pub(super) fn new(connection: Arc<Connection>, key: ObjectKey) -> Self {
        Self {
            connection,
            key,
            filling: Vec::new(),
            head: Vec::new(),
            sent: 0,
            upload: None,
            in_flight: JoinSet::new(),
            number: 0,
            done: Vec::new(),
        }
    }

    fn failed(&self, operation: Operation) -> impl FnOnce(Failure) -> Error {
        let (connection, key) = (Arc::clone(&self.connection), self.key.clone());
        move |failure| connection.error(operation, key.as_str(), failure)
    }

    /// Sends the part that is full, when there is room for one more on the way.
    fn send_part(&mut self) -> Result<()> {
        let connection = Arc::clone(&self.connection);
        let upload = match self.upload.clone() {
            Some(upload) => upload,
            None => {
                let begun = connection.wait(connection.create_upload(&self.key));
                let upload = begun.map_err(self.failed(Operation::CreateUpload))?;
                self.upload = Some(upload.clone());
                upload
            }
        };
        let bytes = Bytes::from(std::mem::take(&mut self.filling));
        self.sent += bytes.len() as u64;
        self.number += 1;
        let (number, key) = (self.number, self.key.clone());
        while self.in_flight.len() >= connection.options.parts_in_flight.max(1) {
            self.take_one()?;
        }
        let sending = Arc::clone(&connection);
        let task = async move { sending.put_part(&key, &upload, number, &bytes).await };
        self.in_flight.spawn_on(task, connection.runtime().handle());
        Ok(())
    }

    /// Waits for one part; false when none is on the way.
    fn take_one(&mut self) -> Result<bool> {
        let connection = Arc::clone(&self.connection);
        match connection.wait(self.in_flight.join_next()) {
            None => Ok(false),
            Some(Ok(part)) => {
                self.done.push(part.map_err(self.failed(Operation::PutPart))?);
                Ok(true)
            }
            Some(Err(ended)) => {
                let source = std::io::Error::other(ended);
                let (operation, key) = (Operation::PutPart.name(), self.key.to_string());
                Err(Error::Io { operation, key, source })
            }
        }
    }
}

impl ObjectWriter for S3Writer {
    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        let missing = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(bytes.get(..missing).unwrap_or_default());
        let part_bytes = self.connection.options.part_bytes;
        while !bytes.is_empty() {
            // Sent when more comes, so that the last part is never empty.
            if self.filling.len() >= part_bytes {
                self.send_part()?;
            }
            if self.filling.capacity() == 0 && self.upload.is_some() {
                self.filling.reserve_exact(part_bytes);
            }
            let (now, later) = bytes.split_at(bytes.len().min(part_bytes - self.filling.len()));
            self.filling.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<u64> {
        let connection = Arc::clone(&self.connection);
        if self.upload.is_none() {
            let body = Bytes::from(std::mem::take(&mut self.filling));
            let put = connection.wait(connection.put_new(&self.key, &body));
            put.map_err(self.failed(Operation::Put))?;
            return Ok(body.len() as u64);
        }
        self.send_part()?;
        while self.take_one()? {}
        self.done.sort_by_key(CompletedPart::part_number);
        let upload = self.upload.clone().unwrap_or_default();
        let parts = std::mem::take(&mut self.done);
        let whole = Whole { head: &self.head, size: self.sent };
        let completed = connection.complete(&self.key, &upload, parts, &whole);
        connection.wait(completed).map_err(self.failed(Operation::CompleteUpload))?;
        self.upload = None;
        Ok(self.sent)
    }
}

impl Drop for S3Writer {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        let connection = Arc::clone(&self.connection);
        connection.wait(async {
            // A part that arrives after the upload was aborted would stay.
            self.in_flight.shutdown().await;
            connection.give_up(&self.key, upload).await;
        });
    }
}

/// What is known of an object that was sent.
struct Whole<'a> {
    head: &'a [u8],
    size: u64,
}

impl Connection {
    /// Aborts an upload of our own. One attempt, also after the work was cancelled: `expire` finds what stays.
    pub(super) async fn give_up(&self, key: &ObjectKey, upload: String) {
        let request = self.client().abort_multipart_upload();
        let request = request.bucket(&self.options.bucket).upload_id(upload);
        let request = request.key(self.name(key.as_str())).set_request_payer(self.payer());
        tokio::time::timeout(ABORT_WAIT, request.send()).await.ok();
    }

    /// Puts an object whose name is its own. Where the service knows no conditions the name is looked at.
    async fn put_new(&self, key: &ObjectKey, body: &Bytes) -> std::result::Result<(), Failure> {
        match self.put(key, body, true).await {
            Err(failure) if failure.meaning == Meaning::Unsupported => {
                self.require_free(key).await?;
                self.put(key, body, false).await
            }
            other => other,
        }
    }

    async fn require_free(&self, key: &ObjectKey) -> std::result::Result<(), Failure> {
        match self.find(key.as_str()).await? {
            None => Ok(()),
            Some(_) => Err(Failure::new(Meaning::Precondition, "the name is taken")),
        }
    }

    async fn create_upload(&self, key: &ObjectKey) -> std::result::Result<String, Failure> {
        let name = self.name(key.as_str());
        let (encryption, kms_key) = self.encryption();
        // The parts' checksums count only where the upload said which they are.
        let algorithm = self.sends_checksums().then_some(ChecksumAlgorithm::Crc32C);
        let lock = self.lock_of_new(key);
        let attempt = async |_| {
            let request = self.client().create_multipart_upload().bucket(&self.options.bucket);
            let request = request
                .key(&name)
                .set_checksum_algorithm(algorithm.clone())
                .set_server_side_encryption(encryption.clone())
                .set_ssekms_key_id(kms_key.clone())
                .set_object_lock_mode(lock.as_ref().map(|lock| lock.mode.clone()))
                .set_object_lock_retain_until_date(lock.as_ref().map(|lock| lock.until))
                .set_request_payer(self.payer());
            let begun = request.send().await.map_err(Failure::of)?;
            let id = begun.upload_id().filter(|id| !id.is_empty()).map(str::to_owned);
            id.ok_or_else(|| Failure::wrong_answer("an upload without an id"))
        };
        self.call(Operation::CreateUpload, 0, attempt).await
    }

    async fn put_part(&self, key: &ObjectKey, upload: &str, number: i32, bytes: &Bytes) -> Part {
        let checksum = self.checksum(bytes);
        let name = self.name(key.as_str());
        let mut attempts = Attempts::new(self, Operation::PutPart, bytes.len() as u64);
        let sent = loop {
            let turn = attempts.turn().await?;
            let request = self.client().upload_part().bucket(&self.options.bucket).key(&name);
            let request = request
                .upload_id(upload)
                .part_number(number)
                .set_checksum_crc32_c(checksum.clone())
                .set_checksum_algorithm(self.named_algorithm())
                .set_request_payer(self.payer())
                .content_length(i64::try_from(bytes.len()).unwrap_or(i64::MAX))
                .body(turn.progress.request(bytes));
            let work = async {
                let sent = match self.signs_bodies() {
                    true => request.send().await,
                    false => request.customize().disable_payload_signing().send().await,
                };
                sent.map_err(Failure::of)
            };
            match turn.run(work).await {
                Ok(sent) => break sent,
                Err(failure) => attempts.after(failure).await?,
            }
        };
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag().map(str::to_owned))
            .set_checksum_crc32_c(checksum)
            .build())
    }

    async fn complete(
        &self,
        key: &ObjectKey,
        upload: &str,
        parts: Vec<CompletedPart>,
        whole: &Whole<'_>,
    ) -> std::result::Result<(), Failure> {
        let mut outcome = self.try_complete(key, upload, &parts, true).await;
        if outcome.as_ref().is_err_and(|failure| failure.meaning == Meaning::Unsupported) {
            self.require_free(key).await?;
            outcome = self.try_complete(key, upload, &parts, false).await;
        }
        let Err(failure) = outcome else { return Ok(()) };
        // An attempt before it may have done the work: then the name holds this object.
        let may_be_done = matches!(
            failure.meaning,
            Meaning::Precondition
                | Meaning::BarePrecondition
                | Meaning::NoSuchUpload
                | Meaning::BareNotFound
                | Meaning::Transient
                | Meaning::Unreachable
        );
        if failure.after_doubt && may_be_done && self.is_there(key, whole).await? {
            return Ok(());
        }
        Err(self.settle_taken(key, failure).await)
    }

    async fn try_complete(
        &self,
        key: &ObjectKey,
        upload: &str,
        parts: &[CompletedPart],
        if_absent: bool,
    ) -> std::result::Result<(), Failure> {
        let name = self.name(key.as_str());
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build();
        let attempt = async |_| {
            let request = self.client().complete_multipart_upload().bucket(&self.options.bucket);
            let request = request
                .key(&name)
                .upload_id(upload)
                .multipart_upload(parts.clone())
                .set_if_none_match(if_absent.then(|| "*".to_owned()))
                .set_request_payer(self.payer());
            request.send().await.map(drop).map_err(Failure::of)
        };
        self.call(Operation::CompleteUpload, 0, attempt).await
    }

    async fn is_there(
        &self,
        key: &ObjectKey,
        whole: &Whole<'_>,
    ) -> std::result::Result<bool, Failure> {
        let length = whole.head.len() as u64;
        match Download::range(self, key.as_str(), 0, length).run().await {
            Ok(Downloaded::Bytes(head, size)) => Ok(head == whole.head && size == whole.size),
            Ok(Downloaded::PastEnd) => Ok(false),
            Err(failure) if failure.meaning == Meaning::NoSuchKey => Ok(false),
            Err(failure) => Err(failure),
        }
    }
}
