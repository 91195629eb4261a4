//! Bodies of replies that end too early or come too slowly, and requests that are read to their
//! end whatever becomes of them.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use s3s::Body;

/// The last bytes must have left before the connection ends, or they are lost with it.
const FLUSH_TIME: Duration = Duration::from_millis(20);
/// A refused body is read that far; who sends more has the connection closed.
const DRAINED_BYTES_MAX: usize = 256 << 20;

pub async fn bytes_of(body: Body) -> Bytes {
    BodyExt::collect(body).await.map(|whole| whole.to_bytes()).unwrap_or_default()
}

/// The reply with a body that breaks off; its promised length stays.
pub async fn cut(reply: Response<Body>, after: usize) -> Option<Response<Body>> {
    let (mut parts, body) = reply.into_parts();
    let whole = bytes_of(body).await;
    if whole.is_empty() {
        return None;
    }
    parts.headers.insert("content-length", HeaderValue::from(whole.len()));
    let sent = whole.slice(..after.min(whole.len() / 2));
    let ending = async {
        tokio::time::sleep(FLUSH_TIME).await;
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    };
    let frames = stream::iter([Ok(Frame::data(sent))]).chain(stream::once(ending));
    Some(Response::from_parts(parts, Body::http_body_unsync(StreamBody::new(frames))))
}

pub async fn shortened(reply: Response<Body>, missing: usize) -> Response<Body> {
    let (mut parts, body) = reply.into_parts();
    let whole = bytes_of(body).await;
    let sent = whole.slice(..whole.len().saturating_sub(missing));
    parts.headers.insert("content-length", HeaderValue::from(sent.len()));
    Response::from_parts(parts, Body::from(sent))
}

pub async fn slowed(reply: Response<Body>, piece: usize, pause: Duration) -> Response<Body> {
    let (mut parts, body) = reply.into_parts();
    let whole = bytes_of(body).await;
    parts.headers.insert("content-length", HeaderValue::from(whole.len()));
    let pieces = stream::unfold(whole, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(pause).await;
        let next = rest.split_to(piece.clamp(1, rest.len()));
        Some((Ok::<_, io::Error>(Frame::data(next)), rest))
    });
    Response::from_parts(parts, Body::http_body_unsync(StreamBody::new(pieces)))
}

/// A request's body that comes back when the service drops it. A reply to a client that is still
/// sending is lost when the connection is closed on it, so what the service did not want to read
/// is read all the same.
pub struct Borrowed {
    body: Option<Incoming>,
    place: Place,
}

#[derive(Clone, Default)]
pub struct Place(Arc<Mutex<Option<Incoming>>>);

impl Borrowed {
    pub fn lend(body: Incoming) -> (Body, Place) {
        let place = Place::default();
        let borrowed = Borrowed { body: Some(body), place: place.clone() };
        (Body::http_body_unsync(borrowed), place)
    }
}

impl Place {
    pub async fn drain(&self) {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut body) = body.filter(|body| !body.is_end_stream()) else { return };
        let mut drained = 0;
        while let Some(Ok(frame)) = body.frame().await {
            drained += frame.data_ref().map_or(0, Bytes::len);
            if drained > DRAINED_BYTES_MAX {
                return;
            }
        }
    }
}

impl http_body::Body for Borrowed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        *self.place.0.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}
