//! Uploads that were begun and neither completed nor aborted: what a killed process leaves, and pays for.

use aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput;

use super::connection::Connection;
use super::failure::{Failure, Meaning};
use super::operation::Operation;
use crate::base::Timestamp;
use crate::storage::Unfinished;

impl Connection {
    /// All of them below this store's prefix.
    pub(super) async fn uploads(&self) -> Result<Vec<Unfinished>, Failure> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let page = self.uploads_page(key_marker.as_deref(), id_marker.as_deref()).await?;
            for upload in page.uploads() {
                let name = upload.key().and_then(|key| self.own_name(key));
                let begun = upload.initiated();
                let begun = begun.and_then(|at| Timestamp::from_timestamp(at.secs(), 0));
                if let (Some(name), Some(id), Some(begun)) = (name, upload.upload_id(), begun) {
                    found.push(Unfinished { name: name.to_owned(), id: id.to_owned(), begun });
                }
            }
            let next = page.next_key_marker().map(str::to_owned);
            if !page.is_truncated().unwrap_or_default() || next.is_none() {
                return Ok(found);
            }
            (key_marker, id_marker) = (next, page.next_upload_id_marker().map(str::to_owned));
        }
    }

    pub(super) async fn uploads_page(
        &self,
        key_marker: Option<&str>,
        id_marker: Option<&str>,
    ) -> Result<ListMultipartUploadsOutput, Failure> {
        let prefix = self.name("");
        let attempt = async |_| {
            let request = self.client().list_multipart_uploads().bucket(&self.options.bucket);
            let request = request
                .prefix(&prefix)
                .set_key_marker(key_marker.map(str::to_owned))
                .set_upload_id_marker(id_marker.map(str::to_owned))
                .set_request_payer(self.payer());
            request.send().await.map_err(Failure::of)
        };
        self.call(Operation::ListUploads, 1 << 20, attempt).await
    }

    /// Ends one; one that is gone is success.
    pub(super) async fn abort(&self, upload: &Unfinished) -> Result<(), Failure> {
        let name = self.name(&upload.name);
        let attempt = async |_| {
            let request = self.client().abort_multipart_upload().bucket(&self.options.bucket);
            let request = request.key(&name).upload_id(&upload.id);
            request.set_request_payer(self.payer()).send().await.map(drop).map_err(Failure::of)
        };
        match self.call(Operation::AbortUpload, 0, attempt).await {
            Err(failure) if failure.meaning == Meaning::NoSuchUpload => Ok(()),
            other => other.map(drop),
        }
    }
}
