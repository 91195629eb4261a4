//! Requests: who may ask, which cluster is meant, and the answer, with a word now and then until it is
//! there.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::client::require_own;
use super::cluster::{Cluster, Served};
use super::jobs::Jobs;
use super::protocol::{
    Answer, Ask, GetAsk, PROTOCOL, PushAsk, Request, Status, Told, WORKING_EVERY, receive, send,
};
use super::supervisor::Duties;
use crate::archive::{self, Ahead, AheadOf, Recovered, ServerFolders, Submission, Target, Wanted};
use crate::base::{Ctx, detached};

/// How many connections are served at a time; the others wait to be accepted.
const CONNECTIONS_MAX: usize = 128;

/// How many requests are worked on at a time, those included whose clients went away.
const REQUESTS_MAX: usize = 256;

/// How long a client may take to say what it wants, or to take its answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client that has its answer may take to hang up.
const HANG_UP_LIMIT: Duration = Duration::from_millis(200);

/// Answers requests.
#[derive(Debug)]
pub(super) struct Service {
    ctx: Ctx,
    tell: fn(archive::Error) -> Told,
    jobs: Jobs,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// As the configuration has them now. Requests that began earlier have those of their time.
    clusters: Arc<Vec<Served>>,
    requests: usize,
    connections: usize,
    /// Nothing new is begun.
    is_stopping: bool,
    /// What is not done is answered with failure.
    is_over: bool,
}

impl Service {
    pub(super) fn new(
        ctx: &Ctx,
        tell: fn(archive::Error) -> Told,
        clusters: Vec<Cluster>,
        jobs: Jobs,
    ) -> Self {
        let served = clusters.into_iter().map(|cluster| Served::begin(ctx, cluster)).collect();
        let state = State {
            clusters: Arc::new(served),
            requests: 0,
            connections: 0,
            is_stopping: false,
            is_over: false,
        };
        Self { ctx: ctx.clone(), tell, jobs, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clusters(&self) -> Arc<Vec<Served>> {
        Arc::clone(&self.state().clusters)
    }

    /// Serves these from now on. Requests that have begun end with what they began with.
    pub(super) fn replace(&self, Duties { clusters, jobs }: Duties) {
        self.jobs.replace(jobs);
        let served =
            clusters.into_iter().map(|cluster| Served::begin(&self.ctx, cluster)).collect();
        let old = std::mem::replace(&mut self.state().clusters, Arc::new(served));
        old.iter().for_each(Served::stop);
        // Their threads end what they are at before the last one that holds them goes on: here, where no
        // other thread is left for that.
        drop(detached(move || drop(old)));
    }

    /// Begins nothing more.
    pub(super) fn stop(&self) {
        self.jobs.stop();
        self.state().is_stopping = true;
        self.changed.notify_all();
        self.clusters().iter().for_each(Served::stop);
    }

    /// Waits until every request is answered, for no longer than this; then those that are left get their
    /// failure. How many there were, and which jobs have not ended by then.
    pub(super) fn finish(&self, grace: Duration) -> (usize, Vec<String>) {
        let deadline = self.ctx.clock.monotonic() + grace;
        let mut state = self.state();
        loop {
            let left = deadline.saturating_sub(self.ctx.clock.monotonic());
            if state.requests == 0 || left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let requests = state.requests;
        state.is_over = true;
        drop(state);
        self.ctx.cancel.cancel();
        (requests, self.jobs.finish(deadline.saturating_sub(self.ctx.clock.monotonic())))
    }

    /// Waits until every client has its answer, for no longer than this.
    pub(super) fn hang_up(&self, limit: Duration) {
        let deadline = self.ctx.clock.monotonic() + limit;
        let mut state = self.state();
        while state.connections > 0 {
            let left = deadline.saturating_sub(self.ctx.clock.monotonic());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn status(&self) -> Status {
        let requests = self.state().requests;
        let clusters = self.clusters().iter().map(Served::status).collect();
        Status { pid: std::process::id(), requests, clusters, jobs: self.jobs.status() }
    }

    /// Accepts connections until the listener is shut down.
    pub(super) fn accept(self: &Arc<Self>, listener: &UnixListener) {
        loop {
            let mut state = self.state();
            while state.connections >= CONNECTIONS_MAX && !state.is_stopping {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_stopping {
                return;
            }
            drop(state);
            match listener.accept() {
                Ok((stream, _)) => {
                    self.state().connections += 1;
                    let connection = Connection { service: Arc::clone(self), stream };
                    if let Err(error) = detached(move || connection.serve()) {
                        self.ctx.warn(format!("a connection cannot be served: {error}"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if self.state().is_stopping => return,
                // Out of descriptors, say: it may pass.
                Err(error) => {
                    self.ctx.warn(format!("cannot accept a connection: {error}"));
                    self.ctx.clock.sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

struct Connection {
    service: Arc<Service>,
    stream: UnixStream,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.service.state().connections -= 1;
        self.service.changed.notify_all();
    }
}

impl Connection {
    fn serve(&self) {
        let (service, stream) = (&self.service, &self.stream);
        if let Err(error) = require_own(stream) {
            return service.ctx.warn(format!("a connection is refused: {error}"));
        }
        let limits = [
            stream.set_read_timeout(Some(CLIENT_TIMEOUT)),
            stream.set_write_timeout(Some(CLIENT_TIMEOUT)),
        ];
        if limits.iter().any(Result::is_err) {
            return;
        }
        let (request, files) = match receive::<Request>(stream) {
            Ok(received) => received,
            // Whoever looks whether somebody listens says nothing.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
            Err(error) => {
                let why = format!("it does not understand the request: {error}");
                return self.answer(&Answer::Unable { why });
            }
        };
        if request.protocol != PROTOCOL {
            let why = format!("it speaks version {PROTOCOL}, not {}", request.protocol);
            return self.answer(&Answer::Unable { why });
        }
        if request.ask == Ask::Status {
            return self.answer(&Answer::Status(Box::new(service.status())));
        }
        self.work(request, files);
    }

    /// One that went away gets no answer.
    fn answer(&self, answer: &Answer) {
        send(&self.stream, answer, &[]).ok();
    }

    /// As [`Connection::answer`]; what follows is fetched when the client has hung up, which it does when
    /// its file has its name.
    fn reply(&self, reply: &Reply) {
        let files = reply.written.as_ref().map(File::as_fd);
        let sent = send(&self.stream, &reply.answer, files.as_slice());
        if let Some(ahead) = &reply.ahead {
            if sent.is_ok() && self.stream.set_read_timeout(Some(HANG_UP_LIMIT)).is_ok() {
                let mut stream = &self.stream;
                // It says nothing more: an end, or the limit.
                stream.read_exact(&mut [0]).ok();
            }
            ahead.go_on();
        }
    }

    /// Has the work done in a thread of its own, and tells the client now and then that it goes on.
    fn work(&self, request: Request, files: Vec<OwnedFd>) {
        let service = &self.service;
        let mut state = service.state();
        if state.is_stopping {
            drop(state);
            return self.answer(&Answer::Unable { why: "it is stopping".into() });
        }
        if state.requests >= REQUESTS_MAX {
            drop(state);
            return self.answer(&Answer::Unable { why: "it has too much to do".into() });
        }
        state.requests += 1;
        let clusters = Arc::clone(&state.clusters);
        drop(state);
        let under_way = UnderWay(Arc::clone(service));
        let ctx = service.ctx.with_child_cancel();
        let cancel = ctx.cancel.clone();
        let (sender, answers) = channel();
        let tell = service.tell;
        let begun = detached(move || {
            let answer = Work { ctx, tell, clusters: &clusters }.answer(request, files);
            sender.send(answer).ok();
            drop(under_way);
        });
        if let Err(error) = begun {
            return self.answer(&Answer::Unable { why: format!("it has no thread left: {error}") });
        }
        loop {
            match answers.recv_timeout(WORKING_EVERY) {
                Ok(reply) => return self.reply(&reply),
                Err(RecvTimeoutError::Disconnected) => {
                    let why = "an internal error; its log tells more".into();
                    return self.answer(&Answer::Unable { why });
                }
                Err(RecvTimeoutError::Timeout) if service.state().is_over => {
                    return self.answer(&Answer::Unable { why: "it has stopped".into() });
                }
                Err(RecvTimeoutError::Timeout) => {
                    if send(&self.stream, &Answer::Working, &[]).is_err() {
                        // Whoever asked is gone. What is stored stays; a wait ends.
                        return cancel.cancel();
                    }
                }
            }
        }
    }
}

/// An answer with what belongs to it.
struct Reply {
    answer: Answer,
    /// The file that comes with it.
    written: Option<File>,
    ahead: Option<Arc<AheadOf>>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, written: None, ahead: None }
    }
}

/// A request that has no answer yet.
struct UnderWay(Arc<Service>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.state().requests -= 1;
        self.0.changed.notify_all();
    }
}

struct Work<'a> {
    ctx: Ctx,
    tell: fn(archive::Error) -> Told,
    clusters: &'a [Served],
}

impl Work<'_> {
    fn answer(&self, request: Request, files: Vec<OwnedFd>) -> Reply {
        self.try_answer(request, files).unwrap_or_else(|why| Answer::Unable { why }.into())
    }

    /// Why it is not able to, else.
    fn try_answer(&self, request: Request, files: Vec<OwnedFd>) -> Result<Reply, String> {
        let mut files = files.into_iter();
        let (Some(data), Some(wal)) = (files.next(), files.next()) else {
            return Err("the request came without its folders".into());
        };
        let folders = ServerFolders::new(data, wal).map_err(|error| format!("folders: {error}"))?;
        let folders = Arc::new(folders);
        let served = self.cluster(request.cluster.as_deref(), folders.data())?;
        let own = &served.cluster.repositories;
        if request.repositories.as_ref().is_some_and(|meant| meant != own) {
            let why = "its repositories are not those of this configuration: it was not told to read it \
                       again (SIGHUP), or serves another one";
            return Err(why.into());
        }
        match request.ask {
            Ask::Push(ask) => Ok(self.push(served, folders, ask).into()),
            Ask::Get(ask) => match files.next() {
                Some(file) => self.get(served, &folders, ask, &File::from(file)),
                None => Err("the request came without its file".into()),
            },
            Ask::Status => Err("it was asked for its status twice".into()),
        }
    }

    /// The cluster that is meant: the one that is named, the one whose directory it is, or the only one.
    fn cluster(&self, named: Option<&str>, data: &Path) -> Result<&Served, String> {
        let names = || {
            let names: Vec<&str> =
                self.clusters.iter().map(|served| served.cluster.name.as_str()).collect();
            names.join(", ")
        };
        let found = match (named, self.clusters) {
            (Some(named), all) => all.iter().find(|served| served.cluster.name == named),
            (None, [only]) => Some(only),
            (None, several) => several.iter().find(|served| served.is_at(data)),
        };
        found.ok_or_else(|| match named {
            Some(named) => format!("it knows no cluster {named}, but {}", names()),
            None => format!("the request names none of its clusters {}", names()),
        })
    }

    fn push(&self, served: &Served, folders: Arc<ServerFolders>, ask: PushAsk) -> Answer {
        let shown = Shown { folders: Arc::clone(&folders), data: &ask.data_directory };
        let PushAsk { name, origin, accept_unknown_wal, .. } = ask.clone();
        let submission = Submission { folders, name, origin, accept_unknown_wal };
        match served.push.archive(&submission) {
            Ok(pushed) => {
                if let Some(stored) = pushed.stored.first() {
                    served.catch_up.archived(stored.place.system(), &ask.name);
                }
                let warnings = pushed.warnings.iter().map(|text| shown.text(text, &ask.path));
                Answer::Pushed { warnings: warnings.collect() }
            }
            Err(error) => self.failed(error, &shown, &ask.path),
        }
    }

    /// What failed because the daemon stops is for the client to do.
    fn failed(&self, error: archive::Error, shown: &Shown<'_>, path: &Path) -> Answer {
        if self.ctx.cancel.is_cancelled() {
            return Answer::Unable { why: "it is stopping".into() };
        }
        Answer::Failed(shown.told((self.tell)(error), path))
    }

    fn get(
        &self,
        served: &Served,
        folders: &Arc<ServerFolders>,
        ask: GetAsk,
        file: &File,
    ) -> Result<Reply, String> {
        let repositories = served.cluster.openings.repositories();
        if let Some(only) = &ask.only
            && !repositories.iter().any(|each| each.name == *only)
        {
            return Err(format!("it knows no repository {only}"));
        }
        let shown = Shown { folders: Arc::clone(folders), data: &ask.data_directory };
        let wanted = Wanted {
            name: ask.name.clone(),
            through: ask.through,
            epoch: ask.epoch,
            only: ask.only.clone(),
            data_directory: Some(folders.data().to_owned()),
            wait: served.cluster.wait,
        };
        let instead = OnceLock::new();
        let target = Target::Open { file, folder: folders.wal(), instead: &instead };
        let ahead = Arc::new(served.fetch.of(folders));
        let used: Arc<dyn Ahead> = Arc::clone(&ahead) as Arc<dyn Ahead>;
        let openings = &served.cluster.openings;
        let answer = match archive::recover(&self.ctx, openings, &wanted, target, Some(&used)) {
            Ok(Recovered::Delivered(delivered)) => {
                let is_given = instead.get().is_some();
                Answer::Delivered { delivered, is_given, warnings: Vec::new() }
            }
            Ok(Recovered::Absent) => Answer::Absent,
            Err(error) => self.failed(error, &shown, &ask.path),
        };
        let ahead = matches!(answer, Answer::Delivered { .. }).then_some(ahead);
        Ok(Reply { answer, written: instead.into_inner(), ahead })
    }
}

/// Paths as whoever asks calls them: the daemon's own lead through its open folders.
struct Shown<'a> {
    folders: Arc<ServerFolders>,
    data: &'a Path,
}

impl Shown<'_> {
    fn text(&self, text: &str, path: &Path) -> String {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // The longer number first: one path may be the beginning of the other.
        let mut pairs = [(self.folders.wal(), folder), (self.folders.data(), self.data)];
        pairs.sort_by_key(|(own, _)| std::cmp::Reverse(own.as_os_str().len()));
        pairs.iter().fold(text.to_owned(), |text, (own, shown)| {
            text.replace(&own.display().to_string(), &shown.display().to_string())
        })
    }

    fn told(&self, told: Told, path: &Path) -> Told {
        let text = |text: String| self.text(&text, path);
        let causes = told.causes.into_iter().map(text).collect();
        Told { message: self.text(&told.message, path), causes, ..told }
    }
}
