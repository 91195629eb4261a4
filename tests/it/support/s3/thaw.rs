//! Restore requests: an archived object gets a readable copy after a while, for some days.
//!
//! No thaw ends by itself: a test says when, see [`super::TestS3::finish_thaws`].

use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::bucket::Bucket;
use super::object::Thaw;
use super::refusals::refusal;
use super::service::{Service, StatusInstead};

pub async fn restore_object(
    service: &Service,
    request: S3Request<RestoreObjectInput>,
) -> S3Result<S3Response<RestoreObjectOutput>> {
    let input = request.input;
    let Some(asked) = input.restore_request else {
        return Err(s3_error!(MalformedXML, "a restore request has a body"));
    };
    let days = asked.days.unwrap_or(0);
    let tier = asked.glacier_job_parameters.map(|parameters| parameters.tier);
    let mut bucket = service.bucket();
    let now = bucket.now();
    let object = bucket.find_mut(&input.key, input.version_id.as_deref())?;
    if !object.is_archived() {
        return Err(refusal(
            StatusCode::FORBIDDEN,
            "InvalidObjectState",
            "restore is not allowed for the object's storage class",
        ));
    }
    if days < 1 {
        return Err(s3_error!(InvalidArgument, "days must be positive"));
    }
    let is_expedited = tier.is_some_and(|tier| tier.as_str() == Tier::EXPEDITED);
    if is_expedited && object.storage_class == "DEEP_ARCHIVE" {
        return Err(s3_error!(InvalidArgument, "deep archive knows no expedited restores"));
    }
    let status = match &object.thaw {
        Thaw::Ongoing { .. } => return Err(s3_error!(RestoreAlreadyInProgress)),
        Thaw::Until(end) if *end > now => {
            object.thaw = Thaw::Until(now + time::Duration::days(i64::from(days)));
            StatusCode::OK
        }
        Thaw::Frozen | Thaw::Until(_) => {
            object.thaw = Thaw::Ongoing { days };
            StatusCode::ACCEPTED
        }
    };
    let mut response = S3Response::new(RestoreObjectOutput::default());
    response.extensions.insert(StatusInstead(status));
    Ok(response)
}

/// Ends the thaws under way, of one key or of all; says how many there were.
pub fn finish(bucket: &mut Bucket, key: Option<&str>) -> usize {
    let now = bucket.now();
    let mut finished = 0;
    for (name, version) in bucket.objects_mut() {
        let Some(object) = &mut version.object else { continue };
        let is_meant = key.is_none_or(|key| key == name);
        if let Thaw::Ongoing { days } = object.thaw
            && is_meant
        {
            object.thaw = Thaw::Until(now + time::Duration::days(i64::from(days)));
            finished += 1;
        }
    }
    finished
}
