//! Reading an object, or a range of one, to its end: an answer that breaks off is gone on with.

use std::ops::Range;

use super::body::Progress;
use super::connection::Connection;
use super::failure::{Failure, Meaning};
use super::operation::Operation;

/// For the time limit of a read to an end that is not known yet.
const UNKNOWN_LENGTH: u64 = 16 << 20;

/// S3 counts in signed numbers.
pub(super) const OFFSET_MAX: u64 = i64::MAX as u64;

/// What a read brought.
#[derive(Debug)]
pub(super) enum Downloaded {
    /// The bytes, and the whole object's size.
    Bytes(Vec<u8>, u64),
    /// The object ends before the range begins.
    PastEnd,
}

/// A read under way.
pub(super) struct Download<'a> {
    connection: &'a Connection,
    name: String,
    begin: u64,
    /// Nothing for the whole object, from its beginning to its end.
    range: Option<Range<u64>>,
    got: Vec<u8>,
    etag: Option<String>,
    size: Option<u64>,
}

impl<'a> Download<'a> {
    /// The whole object.
    pub(super) fn whole(connection: &'a Connection, key: &str) -> Self {
        let (name, got) = (connection.name(key), Vec::new());
        Self { connection, name, begin: 0, range: None, got, etag: None, size: None }
    }

    /// From `offset` on, at most `length` bytes (at least 1).
    pub(super) fn range(connection: &'a Connection, key: &str, offset: u64, length: u64) -> Self {
        let end = offset.saturating_add(length).min(OFFSET_MAX);
        let range = Some(offset..end);
        Self { begin: offset, range, ..Self::whole(connection, key) }
    }

    pub(super) async fn run(mut self) -> Result<Downloaded, Failure> {
        let length = self.range.as_ref().map_or(UNKNOWN_LENGTH, |range| range.end - range.start);
        let connection = self.connection;
        let attempt = async |progress| {
            let before = self.got.len();
            let outcome = self.attempt(progress).await;
            let moved = self.got.len().saturating_sub(before) as u64;
            outcome.map_err(|failure| Failure { moved, ..failure })
        };
        let outcome = connection.call(Operation::Get, length.min(UNKNOWN_LENGTH), attempt).await;
        match outcome {
            Ok(_) => {
                let size = self.size.unwrap_or(self.begin + self.got.len() as u64);
                Ok(Downloaded::Bytes(self.got, size))
            }
            Err(failure) if failure.meaning == Meaning::InvalidRange => Ok(Downloaded::PastEnd),
            Err(failure) => Err(failure),
        }
    }

    /// Where the next byte lies.
    fn at(&self) -> u64 {
        self.begin + self.got.len() as u64
    }

    async fn attempt(&mut self, progress: Progress) -> Result<(), Failure> {
        let asked = match &self.range {
            Some(range) if range.end < OFFSET_MAX => {
                format!("bytes={}-{}", self.at(), range.end - 1)
            }
            // A range that is the whole all the same: its answer says how long the object is, so that a
            // body that was shortened, length and all, shows.
            _ => format!("bytes={}-", self.at()),
        };
        let request = self.connection.client().get_object().bucket(&self.connection.options.bucket);
        let request = request.key(&self.name).range(asked).set_if_match(self.etag.clone());
        let answer = request.set_request_payer(self.connection.payer()).send().await;
        let answer = match answer.map_err(Failure::of) {
            Ok(answer) => answer,
            // It was replaced since it was begun with: from the beginning again.
            Err(failure)
                if self.etag.is_some()
                    && matches!(
                        failure.meaning,
                        Meaning::Precondition | Meaning::BarePrecondition | Meaning::InvalidRange
                    ) =>
            {
                (self.etag, self.size) = (None, None);
                self.got.clear();
                return Err(Failure::wrong_answer("the object was replaced while it was read"));
            }
            Err(failure) => return Err(failure),
        };
        let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
        let length = length.ok_or_else(|| Failure::wrong_answer("an answer without a length"))?;
        let Some(range) = answer.content_range() else {
            return Err(Failure::wrong_answer("the range was ignored"));
        };
        let (end, size) = self.check_range(range, length)?;
        if self.size.is_some_and(|before| before != size) {
            return Err(Failure::wrong_answer("the object's size changed while it was read"));
        }
        self.size = Some(size);
        self.etag = answer.e_tag().map(str::to_owned);
        self.got.reserve(usize::try_from(length).unwrap_or_default().min(1 << 30));
        progress.collect(answer.body, length, &mut self.got).await?;
        if self.at() != end {
            return Err(Failure::wrong_answer("the answer is shorter than it says"));
        }
        let wanted_end = self.range.as_ref().map_or(size, |range| range.end.min(size));
        if end < wanted_end {
            return Err(Failure::wrong_answer("the answer is shorter than what was asked for"));
        }
        Ok(())
    }

    /// The end and the object's size, of `bytes BEGIN-LAST/SIZE`.
    fn check_range(&self, text: &str, length: u64) -> Result<(u64, u64), Failure> {
        let parsed = parse_range(text);
        let wrong = || {
            let at = self.at();
            Failure::wrong_answer(format!("asked for byte {at} on, got {text:?} of {length} bytes"))
        };
        let (begin, last, size) = parsed.ok_or_else(wrong)?;
        let end = last.checked_add(1).ok_or_else(wrong)?;
        let wanted_end = self.range.as_ref().map_or(size, |range| range.end);
        let fits =
            begin == self.at() && end.checked_sub(begin) == Some(length) && end <= wanted_end;
        if fits && end <= size { Ok((end, size)) } else { Err(wrong()) }
    }
}

fn parse_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (begin, last) = range.split_once('-')?;
    Some((begin.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, 9, 10)));
        for wrong in ["", "bytes", "bytes 5-9", "bytes 5-9/*", "bytes */10", "items 5-9/10"] {
            assert_eq!(parse_range(wrong), None, "{wrong}");
        }
    }
}
