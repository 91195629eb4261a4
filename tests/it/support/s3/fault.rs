//! What can go wrong between a client and its bucket.

use std::time::Duration;

use time::OffsetDateTime;

#[derive(Clone, Debug)]
pub enum Fault {
    /// An error document; the server did nothing.
    Error { status: u16, code: &'static str },
    /// An error document, although the server did as asked.
    ErrorAfterActing { status: u16, code: &'static str },
    /// 200 with an error document inside, as copies and completed uploads end when they go wrong
    /// late; the server did nothing.
    ErrorInSuccess { code: &'static str },
    /// 403 RequestTimeTooSkewed by a server whose clock shows this.
    ClockSkewed { server_time: OffsetDateTime },
    /// The connection ends without a reply; the server did nothing.
    DropBeforeActing,
    /// The connection ends without a reply, although the server did as asked.
    DropAfterActing,
    /// The connection ends when so much of the request's body was read; nothing is stored.
    CutRequest { after: usize },
    /// The connection ends when so much of the reply's body was sent, or half of a shorter one.
    CutResponse { after: usize },
    /// The reply lacks its last bytes and is in order otherwise, its length included.
    ShortResponse { missing: usize },
    /// The reply's body comes in pieces with pauses between them.
    SlowBody { piece: usize, pause: Duration },
    /// No reply ever; the server did nothing.
    Hang,
    /// No reply ever, although the server did as asked.
    HangAfterActing,
    /// A GET by range gets bytes from elsewhere, as many as asked for, under the right header.
    WrongRange { shift: u64 },
    /// A list shows what was there so many lists ago.
    StaleList { lists: u64 },
    /// A page of a list names nothing, and says that more follow: those of deleted versions may.
    EmptyPage,
    /// 404 by something that is no S3 server: no body, no code.
    Bare404,
    /// 412 likewise.
    Bare412,
    /// 403 by a proxy: a page for people.
    HtmlPage,
    /// The bucket is elsewhere: 301 without a location, or 307 with one.
    Redirect { status: u16, region: &'static str, location: Option<String> },
}

impl Fault {
    pub const INTERNAL_ERROR: Fault = Fault::Error { status: 500, code: "InternalError" };
    pub const SLOW_DOWN: Fault = Fault::Error { status: 503, code: "SlowDown" };
    pub const TOO_MANY_REQUESTS: Fault = Fault::Error { status: 429, code: "TooManyRequests" };
    pub const OPERATION_ABORTED: Fault = Fault::Error { status: 409, code: "OperationAborted" };
    pub const CONFLICT: Fault = Fault::Error { status: 409, code: "ConditionalRequestConflict" };
    pub const ERROR_AFTER_ACTING: Fault =
        Fault::ErrorAfterActing { status: 500, code: "InternalError" };

    /// Those that a client gets over by asking again.
    pub fn transient() -> Vec<Fault> {
        vec![
            Fault::INTERNAL_ERROR,
            Fault::SLOW_DOWN,
            Fault::TOO_MANY_REQUESTS,
            Fault::OPERATION_ABORTED,
            Fault::ERROR_AFTER_ACTING,
            Fault::DropBeforeActing,
            Fault::DropAfterActing,
            Fault::CutRequest { after: 100 },
            Fault::CutResponse { after: 100 },
        ]
    }
}
