//! Bodies that show when they move, and that keep to a rate.
//!
//! A dead peer is told by nothing moving for a while: neither a piece of the request leaves, nor does one
//! of the answer arrive. So a request of any size has one time limit for its silence, however slow the line.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::failure::Failure;
use crate::storage::pace::Pace;

/// How much of a body moves at a time: what a socket takes.
const PIECE: usize = 64 << 10;

/// When something of a request or its answer last moved.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    origin: Instant,
    /// Milliseconds since the origin.
    moved: AtomicU64,
    idle: Duration,
    pace: Option<Arc<Pace>>,
    /// What all paces count from.
    pace_origin: Instant,
}

impl Progress {
    pub(super) fn new(idle: Duration, pace: Option<Arc<Pace>>, pace_origin: Instant) -> Self {
        let (origin, moved) = (Instant::now(), AtomicU64::new(0));
        Self(Arc::new(Shared { origin, moved, idle, pace, pace_origin }))
    }

    /// How long nothing may move.
    pub(super) fn idle(&self) -> Duration {
        self.0.idle
    }

    fn moved(&self) {
        let now = self.0.origin.elapsed();
        self.0.moved.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn silent_at(&self) -> Instant {
        self.0.origin + Duration::from_millis(self.0.moved.load(Ordering::Relaxed)) + self.0.idle
    }

    /// Counts bytes that moved; how long to wait before more may.
    fn pace(&self, bytes: usize) -> Duration {
        self.moved();
        let taken = self.0.pace.as_ref().map(|pace| pace.take(bytes, self.0.pace_origin.elapsed()));
        taken.unwrap_or_default()
    }

    /// Waits for `work`; nothing when nothing has moved for too long.
    pub(super) async fn watch<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        self.moved();
        loop {
            let silent_at = self.silent_at();
            tokio::select! {
                biased;
                outcome = &mut work => return Some(outcome),
                () = tokio::time::sleep_until(silent_at) => {}
            }
            if self.silent_at() <= Instant::now() {
                return None;
            }
        }
    }

    /// Waits as the rate demands; waiting is not silence.
    async fn wait(&self, mut left: Duration) {
        let step = (self.0.idle / 2).max(Duration::from_millis(1));
        while !left.is_zero() {
            let now = left.min(step);
            tokio::time::sleep(now).await;
            self.moved();
            left -= now;
        }
    }

    /// A request's body. Its checksum and signature are made from the whole; it is sent piece by piece.
    pub(super) fn request(&self, bytes: &Bytes) -> ByteStream {
        let whole = SdkBody::from(bytes.clone());
        let (bytes, progress) = (bytes.clone(), self.clone());
        let body = whole.map_preserve_contents(move |_| {
            SdkBody::from_body_1_x(Pieces {
                left: bytes.clone(),
                progress: progress.clone(),
                waiting: Mutex::new(None),
            })
        });
        ByteStream::new(body)
    }

    /// Appends an answer's body to `out`, at most `length_max` of it; what arrived before it broke off
    /// stays there.
    pub(super) async fn collect(
        &self,
        mut body: ByteStream,
        length_max: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let mut left = length_max;
        loop {
            let piece = match body.next().await {
                None => return Ok(()),
                Some(Err(error)) => {
                    return Err(Failure::wrong_answer(format!("the answer broke off: {error}")));
                }
                Some(Ok(piece)) => piece,
            };
            if piece.len() as u64 > left {
                return Err(Failure::wrong_answer("the answer is longer than what was asked for"));
            }
            left -= piece.len() as u64;
            out.extend_from_slice(&piece);
            self.wait(self.pace(piece.len())).await;
        }
    }
}

struct Pieces {
    left: Bytes,
    progress: Progress,
    /// In a lock for `Sync` only.
    waiting: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let waiting = this.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(sleep) = waiting {
            std::task::ready!(sleep.as_mut().poll(context));
            *waiting = None;
            this.progress.moved();
        }
        if this.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = this.left.split_to(this.left.len().min(PIECE));
        let pause = this.progress.pace(piece.len());
        if !pause.is_zero() && !this.left.is_empty() {
            // A pause longer than the allowed silence is spread over later pieces.
            let pause = pause.min(this.progress.0.idle / 2);
            *waiting = Some(Box::pin(tokio::time::sleep(pause)));
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
