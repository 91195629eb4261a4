//! What stands before the service: counting, latency, regions, and the ordered faults.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use s3s::Body;
use s3s::service::S3Service;

use super::counters::Counters;
use super::fault::Fault;
use super::fault_body::{self, Borrowed};
use super::faults::Faults;
use super::gets::ShiftedRange;
use super::lists::{NamesNothing, StaleBy};
use super::object::http_date;
use super::seen::{Seen, query_value};
use super::service::StatusInstead;

#[derive(Clone)]
pub struct Front {
    pub service: S3Service,
    pub faults: Arc<Faults>,
    pub counters: Arc<Counters>,
    pub region: String,
    pub latency: Duration,
    pub rejects_checksums: bool,
}

/// Instead of a reply: the connection ends.
#[derive(Debug, thiserror::Error)]
#[error("the connection ends here")]
pub struct Lost;

type Reply = Result<Response<Body>, Lost>;

impl Front {
    pub async fn call(self, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        let seen = Seen::of(&parts);
        self.counters.note_request(&seen);
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        let request = Request::from_parts(parts, body);
        let reply = match self.faults.find(&seen) {
            Some(fault) => self.spoil(fault, request).await,
            None => self.serve(request).await,
        };
        if let Ok(reply) = &reply {
            self.counters.note_reply(reply.size_hint().lower());
        }
        reply
    }

    async fn serve(&self, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        let (body, place) = Borrowed::lend(body);
        let request = Request::from_parts(parts, body);
        let reply = match self.objection(&request) {
            Some(reply) => {
                drop(request);
                reply
            }
            None => self.service.call(request).await.map_err(|_| Lost)?,
        };
        place.drain().await;
        Ok(with_right_status(reply))
    }

    /// What is refused before signatures are looked at.
    fn objection(&self, request: &Request<Body>) -> Option<Response<Body>> {
        let headers = request.headers();
        if let Some(region) = signed_region(headers)
            && region != self.region
            && !(is_location(request) && region == "us-east-1")
        {
            return Some(self.wrong_region(region));
        }
        let is_write = matches!(*request.method(), Method::PUT | Method::POST);
        let is_checksum = |name: &http::HeaderName| {
            let name = name.as_str();
            name.starts_with("x-amz-checksum-")
                || name == "x-amz-sdk-checksum-algorithm"
                || name == "x-amz-trailer"
        };
        let is_refused = self.rejects_checksums && is_write && headers.keys().any(is_checksum);
        is_refused.then(|| error_reply(501, "NotImplemented", "a header is not implemented", ""))
    }

    fn wrong_region(&self, region: &str) -> Response<Body> {
        let right = &self.region;
        let message = format!(
            "The authorization header is malformed; the region '{region}' is wrong; \
             expecting '{right}'"
        );
        let more = format!("<Region>{right}</Region>");
        let mut reply = error_reply(400, "AuthorizationHeaderMalformed", &message, &more);
        insert(&mut reply, "x-amz-bucket-region", right);
        reply
    }

    async fn spoil(&self, fault: Fault, mut request: Request<Incoming>) -> Reply {
        match fault {
            Fault::Error { status, code } => {
                drain(request).await;
                Ok(error_reply(status, code, "as the test ordered", ""))
            }
            Fault::ErrorAfterActing { status, code } => {
                drop(self.serve(request).await?);
                Ok(error_reply(status, code, "as the test ordered", ""))
            }
            Fault::ErrorInSuccess { code } => {
                drain(request).await;
                Ok(error_reply(200, code, "as the test ordered", ""))
            }
            Fault::ClockSkewed { server_time } => {
                drain(request).await;
                let mut reply = error_reply(403, "RequestTimeTooSkewed", "clocks differ", "");
                insert(&mut reply, "date", &http_date(server_time));
                Ok(reply)
            }
            Fault::DropBeforeActing => Err(Lost),
            Fault::DropAfterActing => {
                drop(self.serve(request).await?);
                Err(Lost)
            }
            Fault::CutRequest { after } => {
                read_some(request, after).await;
                Err(Lost)
            }
            Fault::CutResponse { after } => {
                fault_body::cut(self.serve(request).await?, after).await.ok_or(Lost)
            }
            Fault::ShortResponse { missing } => {
                Ok(fault_body::shortened(self.serve(request).await?, missing).await)
            }
            Fault::SlowBody { piece, pause } => {
                Ok(fault_body::slowed(self.serve(request).await?, piece, pause).await)
            }
            Fault::Hang => pending().await,
            Fault::HangAfterActing => {
                drop(self.serve(request).await?);
                pending().await
            }
            Fault::WrongRange { shift } => {
                request.extensions_mut().insert(ShiftedRange(shift));
                self.serve(request).await
            }
            Fault::StaleList { lists } => {
                request.extensions_mut().insert(StaleBy(lists));
                self.serve(request).await
            }
            Fault::EmptyPage => {
                request.extensions_mut().insert(NamesNothing);
                self.serve(request).await
            }
            Fault::Bare404 | Fault::Bare412 | Fault::HtmlPage | Fault::Redirect { .. } => {
                drain(request).await;
                Ok(foreign_reply(fault))
            }
        }
    }
}

/// Replies that do not come from the bucket.
fn foreign_reply(fault: Fault) -> Response<Body> {
    match fault {
        Fault::HtmlPage => {
            let page = "<html><head><title>403</title></head><body>Forbidden</body></html>";
            let mut reply = reply(403, page.to_owned());
            insert(&mut reply, "content-type", "text/html");
            reply
        }
        Fault::Redirect { status, region, location } => {
            let code = if status == 301 { "PermanentRedirect" } else { "TemporaryRedirect" };
            let mut reply = error_reply(status, code, "the bucket is elsewhere", "");
            insert(&mut reply, "x-amz-bucket-region", region);
            if let Some(location) = location {
                insert(&mut reply, "location", &location);
            }
            reply
        }
        Fault::Bare412 => reply(412, String::new()),
        _ => reply(404, String::new()),
    }
}

fn error_reply(status: u16, code: &str, message: &str, more: &str) -> Response<Body> {
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>{message}</Message>{more}<RequestId>TEST</RequestId></Error>"
    );
    let mut reply = reply(status, document);
    insert(&mut reply, "content-type", "application/xml");
    reply
}

fn reply(status: u16, body: String) -> Response<Body> {
    let mut reply = Response::new(Body::from(body));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply
}

fn insert(reply: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

fn with_right_status(mut reply: Response<Body>) -> Response<Body> {
    if let Some(StatusInstead(status)) = reply.extensions().get::<StatusInstead>().copied() {
        *reply.status_mut() = status;
    }
    reply
}

fn is_location(request: &Request<Body>) -> bool {
    request.uri().query().is_some_and(|query| query_value(query, "location").is_some())
}

/// `Credential=KEY/DATE/REGION/s3/aws4_request`
fn signed_region(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("authorization")?.to_str().ok()?;
    let scope = text.split("Credential=").nth(1)?.split(',').next()?;
    scope.rsplit('/').nth(2)
}

async fn drain(request: Request<Incoming>) {
    let (body, place) = Borrowed::lend(request.into_body());
    drop(body);
    place.drain().await;
}

async fn read_some(request: Request<Incoming>, bytes: usize) {
    let mut body = request.into_body();
    let mut read = 0;
    while read < bytes {
        let Some(Ok(frame)) = body.frame().await else { return };
        read += frame.data_ref().map_or(0, |chunk| chunk.len());
    }
}
