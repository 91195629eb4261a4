//! One bucket's client with its limits, and the one place where attempts are made and repeated.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::RequestPayer;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::body::Progress;
use super::client;
use super::failure::{Failure, Meaning};
use super::operation::Operation;
use super::options::S3Options;
use crate::base::{Ctx, Entropy, Timestamp, entropy};
use crate::storage::pace::Pace;
use crate::storage::{Error, ObjectKey, Result};

/// Threads that drive the sockets; requests that are waited for run in the threads that wait.
const DRIVERS: usize = 2;

/// How often a wait looks whether the work was cancelled.
const CANCEL_LOOK: Duration = Duration::from_millis(100);

/// Bytes a second that any line moves.
const SLOWEST: u64 = 16 << 10;

/// So many times longer the service may be silent while it copies or puts together.
const WORK: u32 = 4;

/// A clock may be so far off before S3 refuses its signatures.
const SKEW_ALLOWED: Duration = Duration::from_mins(5);

/// What becomes of an attempt, or of all of them.
pub(super) type Outcome<T> = std::result::Result<T, Failure>;

#[derive(Debug)]
pub(super) struct Connection {
    /// With how often it was made anew.
    client: Mutex<(Client, u64)>,
    pub(super) options: S3Options,
    /// What requests are signed for.
    pub(super) region: String,
    pub(super) location: String,
    ctx: Ctx,
    requests: Arc<Semaphore>,
    pace: Option<Arc<Pace>>,
    pace_origin: Instant,
    has_answered: AtomicBool,
    /// Taken when dropped.
    runtime: Option<Runtime>,
}

impl Connection {
    pub(super) fn open(ctx: &Ctx, options: S3Options) -> Result<Self> {
        let location = match options.prefix.as_str() {
            "" => format!("s3://{}", options.bucket),
            prefix => format!("s3://{}/{prefix}", options.bucket),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(DRIVERS)
            .thread_name("pgkeep-s3")
            .enable_all()
            .build()
            .map_err(|source| Error::Io { operation: "open", key: location.clone(), source })?;
        let (client, region) = runtime.block_on(client::connect(&options, &location))?;
        let pace_origin = {
            let _inside = runtime.enter();
            Instant::now()
        };
        Ok(Self {
            client: Mutex::new((client, 0)),
            region,
            location,
            ctx: ctx.clone(),
            requests: Arc::new(Semaphore::new(options.requests_max.max(1))),
            pace: options.max_rate.map(|rate| Arc::new(Pace::new(rate))),
            pace_origin,
            has_answered: AtomicBool::new(false),
            runtime: Some(runtime),
            options,
        })
    }

    pub(super) fn client(&self) -> Client {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn generation(&self) -> u64 {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Opens new connections from now on. One that fell silent may look well for a quarter of an hour, and
    /// with HTTP/2 all requests go through a single one.
    fn leave_connections(&self, generation: u64) {
        let mut current = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if current.1 != generation {
            return;
        }
        // Certificates that cannot be read any more: with the old connections, then.
        if let Ok(client) = client::reconnect(&current.0, &self.options, &self.location) {
            *current = (client, generation + 1);
        }
    }

    pub(super) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is taken by drop only")
    }

    /// Waits for requests, in the calling thread.
    pub(super) fn wait<F: Future>(&self, work: F) -> F::Output {
        self.runtime().block_on(work)
    }

    /// The whole name in the bucket.
    pub(super) fn name(&self, key: &str) -> String {
        match self.options.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    pub(super) fn payer(&self) -> Option<RequestPayer> {
        self.options.requester_pays.then_some(RequestPayer::Requester)
    }

    /// Makes attempts until one succeeds, fails for good, or the policy gives up. `bytes` is how much an
    /// attempt moves; one that moves less in a long time than any line does is ended.
    pub(super) async fn call<T>(
        &self,
        operation: Operation,
        bytes: u64,
        mut attempt: impl AsyncFnMut(Progress) -> Outcome<T>,
    ) -> Outcome<T> {
        let mut attempts = Attempts::new(self, operation, bytes);
        loop {
            let turn = attempts.turn().await?;
            let work = attempt(turn.progress.clone());
            match turn.run(work).await {
                Ok(value) => return Ok(value),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }

    fn delay(&self, attempts: u32, elapsed: Duration) -> Option<Duration> {
        let draw = u32::from_le_bytes(entropy::random(self.ctx.entropy.as_ref()));
        let has_answered = self.has_answered.load(Ordering::Relaxed);
        self.options.retry.delay(attempts, elapsed, has_answered, draw)
    }

    fn silence_max(&self, operation: Operation) -> Duration {
        let idle = self.options.idle_timeout;
        if operation.is_work() { idle.saturating_mul(WORK) } else { idle }
    }

    /// Whether another attempt may succeed. Credentials that were good once may be so again: their service
    /// is away, or a newer token is in its file.
    fn is_transient(&self, failure: &Failure) -> bool {
        let was_good = || self.has_answered.load(Ordering::Relaxed);
        failure.is_transient() || (failure.meaning == Meaning::Stale && was_good())
    }

    fn time_for(&self, bytes: u64) -> Duration {
        let shared = self.pace.as_ref().map_or(u64::MAX, |pace| {
            // All requests that may be under way share the rate.
            pace.bytes_per_second() / (2 * self.options.requests_max as u64).max(1)
        });
        let rate = SLOWEST.min(shared).max(1);
        Duration::from_mins(5).saturating_add(Duration::from_secs(bytes / rate))
    }

    pub(super) fn check_cancelled(&self) -> Outcome<()> {
        match self.ctx.cancel.is_cancelled() {
            true => Err(Failure::new(Meaning::Cancelled, "interrupted")),
            false => Ok(()),
        }
    }

    /// Ends when the work is cancelled.
    async fn cancelled(&self) -> Failure {
        loop {
            tokio::time::sleep(CANCEL_LOOK).await;
            if let Err(failure) = self.check_cancelled() {
                return failure;
            }
        }
    }

    async fn pause(&self, delay: Duration) -> Outcome<()> {
        tokio::select! {
            () = tokio::time::sleep(delay) => self.check_cancelled(),
            failure = self.cancelled() => Err(failure),
        }
    }

    /// How far this host's clock is ahead of the service's (behind, when negative), in seconds, where that
    /// is why the service refused. A request that was on its way for too long may succeed when it is
    /// signed again.
    fn skew(&self, failure: &Failure) -> Option<i64> {
        if failure.meaning != Meaning::Skew {
            return None;
        }
        let ahead = self.ahead_of(failure.date.as_deref()?)?;
        (ahead.unsigned_abs() > SKEW_ALLOWED.as_secs()).then_some(ahead)
    }

    /// How far this host's clock is ahead of the service's, by the `Date` of an answer.
    pub(super) fn ahead_of(&self, date: &str) -> Option<i64> {
        let theirs = chrono::DateTime::parse_from_rfc2822(date).ok()?;
        Some((self.ctx.clock.now() - theirs.to_utc()).num_seconds())
    }

    pub(super) fn now(&self) -> Timestamp {
        self.ctx.clock.now()
    }

    pub(super) fn entropy(&self) -> &dyn Entropy {
        self.ctx.entropy.as_ref()
    }

    /// The failure as the interface of stores tells it.
    pub(super) fn error(&self, operation: Operation, key: &str, failure: Failure) -> Error {
        let (name, text, location) = (operation.name(), key.to_owned(), self.location.clone());
        let object = || ObjectKey::new(key).ok();
        if let Some(ahead) = self.skew(&failure) {
            let side = if ahead > 0 { "ahead of" } else { "behind" };
            return Error::Clock { location, seconds: ahead.unsigned_abs(), side };
        }
        let (is_removal, is_copy) = (operation.is_removal(), operation == Operation::Copy);
        let is_locked = is_removal && failure.is_of_lock();
        match (failure.meaning, object()) {
            (Meaning::NoSuchKey, Some(key)) => return Error::NotFound { key },
            (Meaning::Forbidden, Some(key)) if is_locked => {
                return Error::Locked { operation: name, key, until: None };
            }
            (Meaning::Precondition, Some(key)) if is_copy => {
                return Error::Changed { operation: name, key, source: failure.source };
            }
            (Meaning::Precondition, Some(key)) => return Error::AlreadyExists { key },
            (Meaning::Cold, Some(key)) => return Error::Cold { key },
            _ => {}
        }
        let source = failure.source;
        match failure.meaning {
            Meaning::Forbidden => Error::Forbidden {
                operation: name,
                key: text,
                action: operation.action(),
                resource: self.resource(operation),
                source,
            },
            Meaning::Credentials | Meaning::Stale => Error::Credentials { location, source },
            Meaning::NoSuchBucket => {
                Error::NoStore { location, source: std::io::Error::other(source) }
            }
            // A HEAD that is wrong in another way names the right region too.
            Meaning::OtherRegion if failure.region.as_ref() != Some(&self.region) => {
                Error::Region {
                    location,
                    wanted: self.region.clone(),
                    found: failure.region.unwrap_or_else(|| format!("another region ({source})")),
                }
            }
            Meaning::Unsupported => Error::Unsupported { operation: name, key: text, source },
            Meaning::Cancelled => Error::Cancelled { operation: name, key: text },
            _ => {
                let source = std::io::Error::other(source);
                Error::Io { operation: name, key: text, source }
            }
        }
    }

    /// What a policy has to allow the action on.
    fn resource(&self, operation: Operation) -> String {
        let bucket = &self.options.bucket;
        match (operation.is_on_bucket(), self.options.prefix.as_str()) {
            (true, _) => format!("arn:aws:s3:::{bucket}"),
            (false, "") => format!("arn:aws:s3:::{bucket}/*"),
            (false, prefix) => format!("arn:aws:s3:::{bucket}/{prefix}/*"),
        }
    }
}

/// The attempts of one operation: a loop of [`Attempts::turn`], [`Turn::run`] and [`Attempts::after`].
/// [`Connection::call`] is that loop; what runs in a task of its own has to spell it out, for the compiler
/// cannot tell that a closure of any lifetime may change threads.
pub(super) struct Attempts<'a> {
    connection: &'a Connection,
    operation: Operation,
    bytes: u64,
    begun: Instant,
    attempt_begun: Instant,
    count: u32,
    after_doubt: bool,
}

/// One attempt's place among the requests that are under way.
pub(super) struct Turn<'a> {
    connection: &'a Connection,
    bytes: u64,
    generation: u64,
    pub(super) progress: Progress,
    _permit: SemaphorePermit<'a>,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(connection: &'a Connection, operation: Operation, bytes: u64) -> Self {
        let begun = Instant::now();
        let attempt_begun = begun;
        Self { connection, operation, bytes, begun, attempt_begun, count: 0, after_doubt: false }
    }

    pub(super) async fn turn(&mut self) -> Outcome<Turn<'a>> {
        let (connection, bytes) = (self.connection, self.bytes);
        connection.check_cancelled()?;
        let permit = connection.requests.acquire().await;
        let permit = permit.expect("nobody closes the semaphore");
        let (idle, pace) = (connection.silence_max(self.operation), connection.pace.clone());
        let progress = Progress::new(idle, pace, connection.pace_origin);
        self.count += 1;
        self.attempt_begun = Instant::now();
        let generation = connection.generation();
        Ok(Turn { connection, bytes, generation, progress, _permit: permit })
    }

    /// What to do after an attempt that failed: `Ok` means another one, after a pause.
    pub(super) async fn after(&mut self, failure: Failure) -> Outcome<()> {
        let connection = self.connection;
        if !connection.is_transient(&failure) || connection.skew(&failure).is_some() {
            return Err(Failure { after_doubt: self.after_doubt, ..failure });
        }
        self.after_doubt = true;
        // A body that comes drop by drop would never end.
        let pace = SLOWEST.saturating_mul(self.attempt_begun.elapsed().as_secs()).max(1);
        if failure.moved >= pace {
            self.begun = Instant::now();
        }
        // Where silence is long allowed, one attempt of it must not be all.
        let is_only = self.operation.is_work() && self.count == 1;
        let elapsed = if is_only { Duration::ZERO } else { self.begun.elapsed() };
        let Some(delay) = connection.delay(self.count, elapsed) else {
            let (count, seconds) = (self.count, self.begun.elapsed().as_secs());
            let text =
                format!("{} (given up after {count} attempts in {seconds} s)", failure.source);
            return Err(Failure { after_doubt: true, ..failure.told(text) });
        };
        tracing::debug!(
            "{} in {}: {}; again in {delay:?}",
            self.operation.name(),
            connection.location,
            failure.source
        );
        connection.pause(delay).await
    }
}

impl Turn<'_> {
    /// Waits for the attempt's end, or its silence, its time limit, or that the work is cancelled.
    pub(super) async fn run<T>(self, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let limit = self.connection.time_for(self.bytes);
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(limit, self.progress.watch(work)) => outcome,
            failure = self.connection.cancelled() => return Err(failure),
        };
        let outcome = match outcome {
            Ok(Some(outcome)) => outcome,
            Ok(None) => {
                self.connection.leave_connections(self.generation);
                let idle = self.progress.idle().as_secs_f32();
                let text = format!("nothing moved for {idle} s");
                Err(Failure::new(Meaning::Unreachable, text))
            }
            Err(_) => {
                self.connection.leave_connections(self.generation);
                let text =
                    format!("{} bytes did not move within {} s", self.bytes, limit.as_secs());
                Err(Failure::new(Meaning::Transient, text))
            }
        };
        let is_answer = !matches!(
            &outcome,
            Err(Failure {
                meaning: Meaning::Unreachable | Meaning::Credentials | Meaning::Stale,
                ..
            })
        );
        if is_answer {
            self.connection.has_answered.store(true, Ordering::Relaxed);
        }
        outcome
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A name that is being looked up cannot be interrupted, and nobody waits for it any more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
