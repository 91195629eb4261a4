//! What the credentials may do, learned without changing anything.
//!
//! Completing or aborting an upload that was never begun is refused in two ways: "you may not", or "there is
//! no such upload". So the right to put, with and without the condition that keeps objects from being
//! replaced, shows without a byte stored. A deletion is tried on a name that nobody has, and only where the
//! bucket never had versions: elsewhere it would leave a delete marker. A policy may tell names apart; what
//! is tried is one random name.

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

use super::body::Progress;
use super::connection::{Attempts, Connection, Outcome};
use super::download::Download;
use super::failure::{Failure, Meaning};
use super::operation::Operation;
use super::store::S3Store;
use crate::base::{entropy, hex};
use crate::storage::{ObjectKey, Result};

/// How often something is tried that may pass.
const ATTEMPTS_MAX: usize = 3;

/// What the credentials may do; nothing where it cannot be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// List names.
    pub may_list: Option<bool>,
    /// Read objects.
    pub may_read: Option<bool>,
    /// Put objects under names that are free.
    pub may_put_new: Option<bool>,
    /// Put objects whatever is there: replace them.
    pub may_replace: Option<bool>,
    /// Delete objects. Not tried where the bucket has, or had, versions.
    pub may_delete: Option<bool>,
    /// Abort uploads.
    pub may_abort: Option<bool>,
    /// List uploads that are not finished.
    pub may_list_uploads: Option<bool>,
    /// How many seconds this host's clock is ahead of the service's; negative when it is behind.
    pub clock_ahead: Option<i64>,
}

impl S3Store {
    /// Tries what the credentials may do. `present` is an object that should be there, `probe` a name that
    /// nobody has. Nothing is stored, changed or removed.
    ///
    /// # Errors
    /// What keeps every request from being answered: [`crate::storage::Error::NoStore`],
    /// [`crate::storage::Error::Credentials`], [`crate::storage::Error::Clock`], and what lasts.
    pub fn rights(&self, present: &ObjectKey, probe: &ObjectKey) -> Result<Rights> {
        let connection = &self.connection;
        let found = connection.wait(connection.rights(present, probe));
        found.map_err(|failure| connection.error(Operation::List, "", failure))
    }
}

impl Connection {
    async fn rights(&self, present: &ObjectKey, probe: &ObjectKey) -> Outcome<Rights> {
        let may_list = match self.list("", None, 1).await {
            Ok(_) => Some(true),
            Err(failure) if failure.meaning == Meaning::Forbidden => Some(false),
            Err(failure) => return Err(failure),
        };
        let read = Download::range(self, present.as_str(), 0, 1).run().await;
        let uploads = self.uploads_page(None, None).await;
        let upload = hex::encode(&entropy::random::<16>(self.entropy()));
        let put_new = self.try_complete_nothing(probe, &upload, true).await;
        let replace = self.try_complete_nothing(probe, &upload, false).await;
        let abort = self.try_abort_nothing(probe, &upload).await;
        let may_delete = match self.never_had_versions().await? {
            Some(true) => verdict(&self.try_delete(probe).await),
            _ => None,
        };
        self.check_cancelled()?;
        let answers = [&put_new, &replace, &abort];
        let date = answers.into_iter().find_map(|answer| answer.as_ref().err()?.date.as_deref());
        Ok(Rights {
            may_list,
            may_read: verdict(&read),
            may_put_new: verdict(&put_new),
            may_replace: verdict(&replace),
            may_delete,
            may_abort: verdict(&abort),
            may_list_uploads: verdict(&uploads),
            clock_ahead: date.and_then(|date| self.ahead_of(date)),
        })
    }

    /// A few attempts, not a policy's worth: a server that cannot answer this is no failure of the store.
    async fn try_little<T>(
        &self,
        operation: Operation,
        mut attempt: impl AsyncFnMut(Progress) -> Outcome<T>,
    ) -> Outcome<T> {
        let mut attempts = Attempts::new(self, operation, 0);
        let mut left = ATTEMPTS_MAX;
        loop {
            left -= 1;
            let turn = attempts.turn().await?;
            let work = attempt(turn.progress.clone());
            match turn.run(work).await {
                Err(failure) if failure.is_transient() && left > 0 => {
                    attempts.after(failure).await?;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_complete_nothing(
        &self,
        key: &ObjectKey,
        upload: &str,
        if_absent: bool,
    ) -> Outcome<()> {
        let name = self.name(key.as_str());
        // No list of parts is refused before anything else.
        let part = CompletedPart::builder().part_number(1).e_tag("\"0\"").build();
        let parts = CompletedMultipartUpload::builder().parts(part).build();
        self.try_little(Operation::CompleteUpload, async |_| {
            let request = self.client().complete_multipart_upload().bucket(&self.options.bucket);
            let request = request
                .key(&name)
                .upload_id(upload)
                .multipart_upload(parts.clone())
                .set_if_none_match(if_absent.then(|| "*".to_owned()))
                .set_request_payer(self.payer());
            request.send().await.map(drop).map_err(Failure::of)
        })
        .await
    }

    async fn try_abort_nothing(&self, key: &ObjectKey, upload: &str) -> Outcome<()> {
        let name = self.name(key.as_str());
        self.try_little(Operation::AbortUpload, async |_| {
            let request = self.client().abort_multipart_upload().bucket(&self.options.bucket);
            let request = request.key(&name).upload_id(upload);
            request.set_request_payer(self.payer()).send().await.map(drop).map_err(Failure::of)
        })
        .await
    }

    async fn try_delete(&self, key: &ObjectKey) -> Outcome<()> {
        let name = self.name(key.as_str());
        self.try_little(Operation::Delete, async |_| {
            let request = self.client().delete_object().bucket(&self.options.bucket).key(&name);
            request.set_request_payer(self.payer()).send().await.map(drop).map_err(Failure::of)
        })
        .await
    }
}

/// What an answer says of a right. Whoever is told that there is no such upload was allowed to ask.
fn verdict<T>(answer: &Outcome<T>) -> Option<bool> {
    match answer.as_ref().map_err(|failure| failure.meaning) {
        Ok(_) => Some(true),
        Err(Meaning::NoSuchUpload) => Some(true),
        Err(Meaning::Forbidden) => Some(false),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_is_a_missing_right_and_a_doubt_is_none() {
        let of = |meaning| verdict::<()>(&Err(Failure::new(meaning, "said")));
        assert_eq!(verdict(&Ok(())), Some(true));
        assert_eq!(of(Meaning::NoSuchUpload), Some(true));
        assert_eq!(of(Meaning::Forbidden), Some(false));
        for meaning in [
            Meaning::BareNotFound,
            Meaning::NoSuchKey,
            Meaning::Unsupported,
            Meaning::Transient,
            Meaning::Permanent,
        ] {
            assert_eq!(of(meaning), None, "{meaning:?}");
        }
    }
}
