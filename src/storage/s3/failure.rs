//! What a failed attempt means: told apart once, by the service's own codes.
//!
//! Codes: the S3 API reference, "Error responses". A code counts only when the service's XML names it: a
//! proxy's 404 or a login page is not an answer of the store.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::storage::Cause;

/// What a failed attempt means for what is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The service knows no such object.
    NoSuchKey,
    /// 404 without a word of the service's.
    BareNotFound,
    NoSuchBucket,
    NoSuchUpload,
    /// Precondition failed: the name is taken, or the object is another one now.
    Precondition,
    /// 412 without a word of the service's.
    BarePrecondition,
    InvalidRange,
    Forbidden,
    Credentials,
    /// Credentials that are not good any more, or cannot be had now.
    Stale,
    Cold,
    /// The signature's time is too far from the service's.
    Skew,
    OtherRegion,
    Unsupported,
    /// The same request may succeed later.
    Transient,
    /// As transient, and nobody answered: the address may be wrong.
    Unreachable,
    /// Something else is wrong, and stays so.
    Permanent,
    Cancelled,
}

/// One failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) meaning: Meaning,
    pub(super) source: Cause,
    /// `Date` of the answer.
    pub(super) date: Option<String>,
    /// Where the bucket is, by the answer.
    pub(super) region: Option<String>,
    /// Whether an earlier attempt of the same operation may have taken effect.
    pub(super) after_doubt: bool,
    /// By how many bytes this attempt brought the operation further.
    pub(super) moved: u64,
}

/// What was said, with all its causes, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Said(pub(super) String);

/// What S3 says where objects cannot be locked.
pub(super) const NO_LOCKS: &str = "Bucket is missing Object Lock";

/// How long the text of a failure may be: a server may answer with a page.
const TEXT_MAX: usize = 500;

impl Failure {
    pub(super) fn new(meaning: Meaning, text: impl Into<String>) -> Self {
        let source = Box::new(Said(text.into()));
        Self { meaning, source, date: None, region: None, after_doubt: false, moved: 0 }
    }

    /// An answer that cannot be what was asked for; another attempt may get the right one.
    pub(super) fn wrong_answer(text: impl Into<String>) -> Self {
        Self::new(Meaning::Transient, text)
    }

    pub(super) fn of<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let code = error.code().map(str::to_owned);
        let message = error.message().map(str::to_owned);
        let response = error.raw_response();
        let status = response.map(|response| response.status().as_u16());
        let header = |name| Some(response?.headers().get(name)?.to_owned());
        let (date, region) = (header("date"), header("x-amz-bucket-region"));
        let meaning = match &error {
            SdkError::ServiceError(_) => of_answer(code.as_deref(), status.unwrap_or_default()),
            // The answer broke off, or is none.
            SdkError::ResponseError(_) => match status {
                Some(status) if status >= 400 => of_answer(None, status),
                _ => Meaning::Transient,
            },
            SdkError::TimeoutError(_) => Meaning::Unreachable,
            SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => {
                let lasting = matches!(error, SdkError::ConstructionFailure(_));
                of_chain(&error).unwrap_or(match lasting {
                    true => Meaning::Permanent,
                    false => Meaning::Unreachable,
                })
            }
            _ => Meaning::Permanent,
        };
        // An answer to HEAD has no body; that it names the bucket's region says what is wrong with a 400.
        let meaning = match (meaning, &code, status, &region) {
            (Meaning::Permanent, None, Some(400), Some(_)) => Meaning::OtherRegion,
            _ => meaning,
        };
        // "InvalidRequest" says that the request is wrong; this bucket takes none that is right.
        let has_no_locks = message.as_deref().is_some_and(|text| text.contains(NO_LOCKS));
        let meaning = if has_no_locks { Meaning::Unsupported } else { meaning };
        let text = match (code, message, status) {
            (Some(code), Some(message), _) => format!("{code}: {message}"),
            (Some(code), None, _) => code,
            (None, _, Some(status)) if status < 300 => {
                format!("status {status}: {}", chain(&error))
            }
            (None, _, Some(status)) => format!("status {status}, and no error of the service's"),
            (None, _, None) => chain(&error),
        };
        Self { date, region, ..Self::new(meaning, shortened(text)) }
    }

    /// One object of a batch that was refused.
    pub(super) fn of_item(error: &aws_sdk_s3::types::Error) -> Self {
        let (code, message) = (error.code().unwrap_or_default(), error.message());
        let meaning = match code {
            "AccessDenied" => Meaning::Forbidden,
            code => of_answer(Some(code), 0),
        };
        let key = error.key().unwrap_or_default();
        Self::new(meaning, shortened(format!("{code}: {}: {key}", message.unwrap_or_default())))
    }

    /// Whether the service used this code, or these words.
    pub(super) fn says(&self, words: &str) -> bool {
        self.source.to_string().contains(words)
    }

    /// Whether somebody's lock is why this was refused: the code is that of a missing right.
    pub(super) fn is_of_lock(&self) -> bool {
        self.meaning == Meaning::Forbidden
            && self.source.to_string().to_ascii_lowercase().contains("object lock")
    }

    pub(super) fn told(self, text: String) -> Self {
        Self { source: Box::new(Said(text)), ..self }
    }

    pub(super) fn is_transient(&self) -> bool {
        matches!(self.meaning, Meaning::Transient | Meaning::Unreachable | Meaning::Skew)
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push_str("...");
    }
    // One line: what a server says goes into logs.
    text.replace(|c: char| c.is_control(), " ")
}

fn of_answer(code: Option<&str>, status: u16) -> Meaning {
    match code {
        Some("NoSuchKey") => Meaning::NoSuchKey,
        Some("NoSuchBucket") => Meaning::NoSuchBucket,
        Some("NoSuchUpload") => Meaning::NoSuchUpload,
        Some("PreconditionFailed") => Meaning::Precondition,
        Some("InvalidRange") => Meaning::InvalidRange,
        // The other one is said of the source of a copy.
        Some("InvalidObjectState" | "ObjectNotInActiveTierError") => Meaning::Cold,
        Some("RequestTimeTooSkewed") => Meaning::Skew,
        Some(
            "PermanentRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException",
        ) => Meaning::OtherRegion,
        Some(
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "InvalidSecurity"
            | "NotSignedUp"
            | "AuthFailure",
        ) => Meaning::Credentials,
        Some("ExpiredToken" | "TokenRefreshRequired") => Meaning::Stale,
        Some("NotImplemented" | "MethodNotAllowed" | "InvalidStorageClass") => Meaning::Unsupported,
        // 409: what S3 asks to repeat. 400: the body did not come whole, or not in time.
        Some(
            "ConditionalRequestConflict"
            | "OperationAborted"
            | "RequestTimeout"
            | "IncompleteBody"
            | "BadDigest"
            | "XAmzContentSHA256Mismatch"
            | "XAmzContentChecksumMismatch"
            | "SlowDown"
            | "ServiceUnavailable"
            | "InternalError"
            | "ThrottlingException"
            | "Throttling"
            | "TooManyRequests"
            | "RequestLimitExceeded"
            | "TemporaryRedirect"
            | "Busy",
        ) => Meaning::Transient,
        // Answers to HEAD have no body, so that no code says which conflict it is.
        None if status == 409 => Meaning::Transient,
        _ => of_status(status),
    }
}

fn of_status(status: u16) -> Meaning {
    match status {
        401 | 403 => Meaning::Forbidden,
        404 => Meaning::BareNotFound,
        412 => Meaning::BarePrecondition,
        416 => Meaning::InvalidRange,
        301 => Meaning::OtherRegion,
        501 | 405 => Meaning::Unsupported,
        // An answer that says success, and is none of the service's.
        200..=299 => Meaning::Transient,
        // 499: the client is said to have gone away, by a proxy. 307 is a bucket on its way to DNS.
        307 | 408 | 425 | 429 | 499 | 500.. => Meaning::Transient,
        _ => Meaning::Permanent,
    }
}

/// What lies below a request that was not sent, or got no answer.
fn of_chain(error: &(dyn std::error::Error + 'static)) -> Option<Meaning> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(credentials) =
            cause.downcast_ref::<aws_credential_types::provider::error::CredentialsError>()
        {
            use aws_credential_types::provider::error::CredentialsError::{
                ProviderError, ProviderTimedOut, Unhandled,
            };
            return Some(match credentials {
                ProviderTimedOut(_) => Meaning::Unreachable,
                ProviderError(_) | Unhandled(_) => Meaning::Stale,
                _ => Meaning::Credentials,
            });
        }
        if let Some(rustls::Error::InvalidCertificate(_)) = cause.downcast_ref::<rustls::Error>() {
            return Some(Meaning::Permanent);
        }
        // An I/O error of TLS holds the cause inside, not behind.
        if let Some(inner) =
            cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref)
            && let Some(rustls::Error::InvalidCertificate(_)) =
                inner.downcast_ref::<rustls::Error>()
        {
            return Some(Meaning::Permanent);
        }
        next = cause.source();
    }
    None
}

/// All causes, each once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !texts.iter().any(|before| before.contains(&text)) {
            texts.push(text);
        }
        next = cause.source();
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_services_own_word_is_absence() {
        assert_eq!(of_answer(Some("NoSuchKey"), 404), Meaning::NoSuchKey);
        assert_eq!(of_answer(None, 404), Meaning::BareNotFound);
        assert_eq!(of_answer(Some("NotFound"), 404), Meaning::BareNotFound);
        assert_eq!(of_answer(Some("NoSuchBucket"), 404), Meaning::NoSuchBucket);
        assert_eq!(of_answer(None, 403), Meaning::Forbidden);
    }

    #[test]
    fn what_others_learned_over_years_is_tried_again() {
        for (code, status) in [
            (Some("SlowDown"), 503),
            (Some("ConditionalRequestConflict"), 409),
            (Some("OperationAborted"), 409),
            (Some("RequestTimeout"), 400),
            (Some("BadDigest"), 400),
            (None, 500),
            (None, 502),
            (None, 504),
            (None, 429),
            (None, 499),
            (None, 408),
            (Some("SomethingNew"), 503),
            (None, 200),
        ] {
            assert_eq!(of_answer(code, status), Meaning::Transient, "{code:?} {status}");
        }
        assert_eq!(of_answer(Some("RequestTimeTooSkewed"), 403), Meaning::Skew);
    }

    #[test]
    fn what_stays_wrong_is_not() {
        assert_eq!(of_answer(Some("AccessDenied"), 403), Meaning::Forbidden);
        assert_eq!(of_answer(Some("SignatureDoesNotMatch"), 403), Meaning::Credentials);
        assert_eq!(of_answer(Some("InvalidObjectState"), 403), Meaning::Cold);
        assert_eq!(of_answer(Some("ObjectNotInActiveTierError"), 403), Meaning::Cold);
        assert_eq!(of_answer(Some("NotImplemented"), 501), Meaning::Unsupported);
        assert_eq!(of_answer(Some("PreconditionFailed"), 412), Meaning::Precondition);
        assert_eq!(of_answer(Some("BucketAlreadyExists"), 409), Meaning::Permanent);
        assert_eq!(of_answer(Some("InvalidArgument"), 400), Meaning::Permanent);
        assert_eq!(of_answer(None, 412), Meaning::BarePrecondition, "a proxy may say so too");
    }

    #[test]
    fn a_page_for_an_answer_is_one_short_line() {
        let text = shortened("<html>\n".repeat(1000) + "ä");
        assert!(text.len() < 510 && !text.contains('\n'), "{text}");
    }
}
