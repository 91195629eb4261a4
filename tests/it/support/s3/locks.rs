//! Object lock: retention of versions, and the bucket's setting.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use time::OffsetDateTime;

use super::bucket::Bucket;
use super::object::Retention;
use super::service::Service;

/// The retention that a new version gets: what the request says, or the bucket's default.
pub fn of_put(
    bucket: &Bucket,
    mode: Option<&str>,
    until: Option<Timestamp>,
) -> S3Result<Option<Retention>> {
    match (mode, until) {
        (None, None) => Ok(bucket.rules.default_retention.as_ref().map(|(mode, days)| Retention {
            mode: mode.clone(),
            until: bucket.now() + time::Duration::days(i64::from(*days)),
        })),
        (Some(_), Some(_)) if !bucket.rules.has_object_lock => {
            Err(s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration"))
        }
        (Some(mode), Some(until)) => {
            let until = OffsetDateTime::from(until);
            if until <= bucket.now() {
                return Err(s3_error!(InvalidArgument, "the retain until date must be ahead"));
            }
            Ok(Some(Retention { mode: mode.to_owned(), until }))
        }
        _ => Err(s3_error!(InvalidArgument, "mode and retain until date come together")),
    }
}

pub async fn get_object_retention(
    service: &Service,
    request: S3Request<GetObjectRetentionInput>,
) -> S3Result<S3Response<GetObjectRetentionOutput>> {
    let input = request.input;
    let bucket = service.bucket();
    check_has_lock(&bucket)?;
    let (_, object) = bucket.find(&input.key, input.version_id.as_deref())?;
    let Some(retention) = &object.retention else {
        return Err(s3_error!(NoSuchObjectLockConfiguration));
    };
    let retention = ObjectLockRetention {
        mode: Some(retention.mode.clone().into()),
        retain_until_date: Some(retention.until.into()),
    };
    Ok(S3Response::new(GetObjectRetentionOutput { retention: Some(retention) }))
}

pub async fn put_object_retention(
    service: &Service,
    request: S3Request<PutObjectRetentionInput>,
) -> S3Result<S3Response<PutObjectRetentionOutput>> {
    let input = request.input;
    let bypasses = input.bypass_governance_retention.unwrap_or(false);
    let mut bucket = service.bucket();
    check_has_lock(&bucket)?;
    let asked = input.retention.unwrap_or_default();
    let mode = asked.mode.as_ref().map(|mode| mode.as_str().to_owned());
    let new = match (mode, asked.retain_until_date) {
        (None, None) => None,
        (mode, until) => of_put(&bucket, mode.as_deref(), until)?,
    };
    let now = bucket.now();
    let object = bucket.find_mut(&input.key, input.version_id.as_deref())?;
    if let Some(old) = object.retention.as_ref().filter(|old| old.until > now) {
        let is_weaker = new.as_ref().is_none_or(|new| {
            new.until < old.until || (new.mode != old.mode && old.mode == "COMPLIANCE")
        });
        if is_weaker && !(bypasses && old.mode == "GOVERNANCE") {
            return Err(s3_error!(AccessDenied, "the retention can only be extended"));
        }
    }
    object.retention = new;
    Ok(S3Response::new(PutObjectRetentionOutput::default()))
}

pub async fn get_object_lock_configuration(
    service: &Service,
    _request: S3Request<GetObjectLockConfigurationInput>,
) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
    let bucket = service.bucket();
    if !bucket.rules.has_object_lock {
        return Err(s3_error!(ObjectLockConfigurationNotFoundError));
    }
    let retention = |(mode, days): &(String, i32)| DefaultRetention {
        mode: Some(mode.clone().into()),
        days: Some(*days),
        years: None,
    };
    let default_retention = bucket.rules.default_retention.as_ref().map(retention);
    let configuration = ObjectLockConfiguration {
        object_lock_enabled: Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED)),
        rule: default_retention
            .map(|retention| ObjectLockRule { default_retention: Some(retention) }),
    };
    let object_lock_configuration = Some(configuration);
    Ok(S3Response::new(GetObjectLockConfigurationOutput { object_lock_configuration }))
}

fn check_has_lock(bucket: &Bucket) -> S3Result<()> {
    match bucket.rules.has_object_lock {
        true => Ok(()),
        false => Err(s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration")),
    }
}
