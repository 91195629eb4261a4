//! Answers that came to their end.
//!
//! The SDK's parser takes a document that was cut for a shorter one (aws-smithy-xml, `decode.rs`), and a
//! proxy that lost its server may end a body properly: then nothing but the missing end tag tells that a list
//! is not the whole list.

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

/// Fails what succeeded by an answer that was cut.
#[derive(Debug)]
pub(super) struct WholeAnswers;

impl Intercept for WholeAnswers {
    fn name(&self) -> &'static str {
        "WholeAnswers"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        // Objects are streamed, and not here yet.
        let body = response.body().bytes().unwrap_or_default();
        match !response.status().is_success() || is_whole(body) {
            true => Ok(()),
            false => Err("the answer ends before its document does".into()),
        }
    }
}

/// Whether a document's root element is closed; what is no document counts as whole.
fn is_whole(body: &[u8]) -> bool {
    let body = body.trim_ascii();
    let mut rest = body;
    loop {
        if !rest.starts_with(b"<") {
            return rest.is_empty() || !body.starts_with(b"<");
        }
        // The declaration and comments come before the root.
        let Some(end) = rest.iter().position(|byte| *byte == b'>') else { return false };
        let tag = rest.get(1..end).unwrap_or_default();
        if tag.starts_with(b"?") || tag.starts_with(b"!") {
            rest = rest.get(end + 1..).unwrap_or_default().trim_ascii_start();
            continue;
        }
        if tag.ends_with(b"/") {
            return true;
        }
        let name = tag.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let before = body.strip_suffix(b">").map(<[u8]>::trim_ascii_end);
        let before = before.and_then(|before| before.strip_suffix(name));
        return before.is_some_and(|before| before.ends_with(b"</"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d2026_11_28_a_document_that_was_cut_is_told_from_one_that_was_not() {
        let text = "<?xml version=\"1.0\"?>\n<A xmlns=\"u\"><B>x</B><A>y</A><C/></A >\n";
        let whole = text.trim_end().len();
        let begun = text.find("<A").unwrap();
        for end in 1..=text.len() {
            let body = text.get(..end).unwrap().as_bytes();
            // The root's name inside it: nothing tells here, and no answer of S3 does that.
            let is_inner = text.get(..end).unwrap().trim_end().ends_with("</A>");
            let prolog = text.find("?>").unwrap() + 2..=begun;
            assert_eq!(is_whole(body), end >= whole || is_inner || prolog.contains(&end), "{end}");
        }
        for whole in ["", "  \n", "<A/>", "<A b=\"/\"></A>", "no document", "{\"a\":1}"] {
            assert!(is_whole(whole.as_bytes()), "{whole}");
        }
        assert!(!is_whole(b"<A"));
        assert!(!is_whole(b"<ListBucketResult><IsTruncated>false</IsTruncated>"));
    }
}
