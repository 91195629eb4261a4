//! The archive commands by way of the daemon: what is open here is passed to it, and its answer is this
//! process's.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::archive::Doubt;
use super::args::{GetArgs, PushArgs};
use super::error::Failure;
use super::fate::Outcome;
use super::invocation::Invocation;
use crate::archive::{self, Delivered, Temporary};
use crate::config::{ClusterSettings, Fallback, Settings};
use crate::daemon::{self, Answer, Answered, Ask, Away, GetAsk, PROTOCOL, PushAsk, Request, Told};
use crate::pgconn::ConnectOptions;
use crate::wiring;

/// How much of a file's beginning is looked at again: its first page, at least.
const BEGINNING: usize = 8192;

/// Whom to ask, and what to do when nobody answers.
#[derive(Debug)]
pub struct Way {
    socket: PathBuf,
    is_named: bool,
    settings: Option<Settings>,
}

/// A question that is of no repository.
pub fn request(run: &Invocation, ask: Ask) -> Request {
    let cluster = run.global.cluster.clone();
    Request { protocol: PROTOCOL, cluster, repositories: None, ask }
}

/// An error as it is told elsewhere.
pub fn told(error: archive::Error) -> Told {
    let is_final = error.is_final();
    let Failure { message, causes, hint, .. } = error.into();
    Told { message, causes, hint, is_final }
}

fn failure(told: Told) -> Failure {
    let Told { message, causes, hint, .. } = told;
    Failure { causes, hint, ..Failure::failed(message) }
}

impl Way {
    /// By the flag, which needs no configuration, or by the configuration.
    pub fn new(run: &Invocation, socket: Option<&Path>) -> Result<Self, Failure> {
        if let Some(socket) = socket {
            return Ok(Self { socket: socket.to_owned(), is_named: true, settings: None });
        }
        let settings = run.settings()?;
        let socket = settings.daemon().socket.clone();
        Ok(Self { socket, is_named: false, settings: Some(settings) })
    }

    fn cluster(&self, run: &Invocation) -> Option<&ClusterSettings> {
        let (_, cluster) = self.settings.as_ref()?.cluster(run.global.cluster.as_deref()).ok()?;
        Some(cluster)
    }

    /// The data directory around a file, else the configured one.
    pub fn data_directory(&self, run: &Invocation, path: &Path) -> Option<PathBuf> {
        let configured = self.cluster(run).and_then(|cluster| cluster.data_directory.as_deref());
        wiring::data_directory_of(path, configured)
    }

    /// How long archive-get tries again, by the configuration.
    pub fn wait(&self, run: &Invocation) -> Option<Duration> {
        Some(self.cluster(run)?.archive_get_wait)
    }

    /// How to reach the server, by the configuration.
    pub fn server(&self, run: &Invocation) -> Option<ConnectOptions> {
        let resolved = run.resolve(self.settings.as_ref()?).ok()?;
        Some(wiring::connect_options(&resolved, "archive-get"))
    }

    /// A request for a daemon that means the same repositories, as far as a configuration says which.
    fn request(&self, run: &Invocation, ask: Ask) -> Result<Request, Failure> {
        let settings = self.settings.as_ref();
        let repositories = settings.map(Settings::repositories).transpose()?;
        let repositories = repositories.map(|repositories| wiring::identities(&repositories));
        Ok(Request { repositories, ..request(run, ask) })
    }

    /// The settings for doing the work here, where no daemon does it.
    ///
    /// # Errors
    /// When the configuration says that nothing is done without it, or there is none.
    pub fn without(&mut self, run: &Invocation, away: &Away) -> Result<&Settings, Failure> {
        let is_expected = away.is_not_there() && !self.is_named;
        let settings = match self.settings.take() {
            Some(settings) => settings,
            None => run.settings().map_err(|failure| {
                let message = format!("{away}; and without it: {}", failure.message);
                Failure { message, ..failure }
            })?,
        };
        let settings = self.settings.insert(settings);
        if settings.daemon().fallback == Fallback::Fail {
            let next = "Start it, or write fallback = \"direct\" into [daemon]: then the work is \
                        done without it.";
            return Err(Failure::failed(away.to_string()).with_hint(next));
        }
        // Where none was ever started, there is nothing to tell.
        if !is_expected {
            run.ctx.warn(format!("{away}: done without it"));
        }
        Ok(settings)
    }

    /// Has the daemon archive a file; why it does not, if it is away.
    pub fn push(
        &self,
        run: &Invocation,
        args: &PushArgs,
    ) -> Result<Result<Outcome, Away>, Failure> {
        let Some((directory, opened)) = self.open(run, &args.path) else {
            return Ok(Err(self.cannot("there is no data directory around the file")));
        };
        let [data, folder] = match opened {
            Ok(files) => files,
            Err(error) => return Ok(Err(self.cannot(&error.to_string()))),
        };
        let name = args.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ask = Ask::Push(PushAsk {
            name,
            path: args.path.clone(),
            data_directory: directory.clone(),
            origin: wiring::origin(&directory),
            accept_unknown_wal: args.accept_unknown_wal,
        });
        let request = self.request(run, ask)?;
        let files = [data.as_fd(), folder.as_fd()];
        match daemon::ask(&self.socket, &request, &files).map(|answered| answered.answer) {
            Ok(Answer::Pushed { warnings }) => {
                warnings.into_iter().for_each(|warning| run.ctx.warn(warning));
                Ok(Ok(Outcome::Done))
            }
            Ok(Answer::Failed(told)) => Err(failure(told)),
            Ok(_) => Ok(Err(self.cannot("its answer is no answer to a push"))),
            Err(away) => Ok(Err(away)),
        }
    }

    /// Has the daemon fetch a file; why it does not, if it is away.
    pub fn get(&self, run: &Invocation, args: &GetArgs) -> Result<Result<Outcome, Away>, Doubt> {
        let Some((directory, opened)) = self.open(run, &args.path) else {
            return Ok(Err(self.cannot("there is no data directory around the destination")));
        };
        let [data, folder] = match opened {
            Ok(files) => files,
            Err(error) => return Ok(Err(self.cannot(&error.to_string()))),
        };
        let temporary = match Temporary::create(&args.path) {
            Ok(temporary) => temporary,
            // The answer may be that there is no file.
            Err(error) => return Ok(Err(self.cannot(&error.to_string()))),
        };
        let ask = Ask::Get(GetAsk {
            name: args.name.clone(),
            path: args.path.clone(),
            data_directory: directory.clone(),
            through: args.through,
            epoch: args.epoch,
            only: run.global.repository.clone(),
        });
        let files = [data.as_fd(), folder.as_fd(), temporary.file().as_fd()];
        let request = self.request(run, ask)?;
        let Answered { answer, file, connection } =
            match daemon::ask(&self.socket, &request, &files) {
                Ok(answered) => answered,
                Err(away) => return Ok(Err(away)),
            };
        let done = match answer {
            Answer::Delivered { is_given, .. } if is_given != file.is_some() => {
                Ok(Err(self.cannot("the file that it fetched did not come with its answer")))
            }
            Answer::Delivered { delivered, warnings, .. } => {
                warnings.into_iter().for_each(|warning| run.ctx.warn(warning));
                let given = file.map(File::from);
                match accept(run, &directory, (temporary, given), &delivered) {
                    Ok(()) => Ok(Ok(Outcome::Done)),
                    Err(error) if error.is_final() => Err(error.into()),
                    Err(error) => Ok(Err(self.cannot(&error.to_string()))),
                }
            }
            Answer::Absent => Ok(Ok(Outcome::ProvenAbsent)),
            Answer::Failed(told) => {
                let is_final = told.is_final;
                Err(Doubt { failure: failure(told), is_final })
            }
            _ => Ok(Err(self.cannot("its answer is no answer to a fetch"))),
        };
        drop(connection);
        done
    }

    /// The data directory around a file, and it and the file's folder, open.
    fn open(&self, run: &Invocation, path: &Path) -> Option<(PathBuf, io::Result<[File; 2]>)> {
        let directory = self.data_directory(run, path)?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let open = || Ok([File::open(&directory)?, File::open(folder)?]);
        let opened = open();
        Some((directory, opened))
    }

    fn cannot(&self, why: &str) -> Away {
        Away::Unable { path: self.socket.display().to_string(), why: why.to_owned() }
    }
}

/// Gives the file that the daemon wrote or gave its name, unless recovery is not to have it.
fn accept(
    run: &Invocation,
    directory: &Path,
    (temporary, given): (Temporary, Option<File>),
    delivered: &Delivered,
) -> archive::Result<()> {
    let file = given.as_ref().unwrap_or(temporary.file());
    let failed = |source| {
        let path = temporary.path().to_owned();
        archive::Error::File { action: "read", path, source }
    };
    let size = file.metadata().map_err(failed)?.len();
    if size != delivered.facts.size {
        let why = format!("the daemon wrote {size} bytes of {}", delivered.facts.size);
        let path = temporary.path().to_owned();
        return Err(archive::Error::Content { path, why });
    }
    let length = usize::try_from(size).unwrap_or(BEGINNING).min(BEGINNING);
    let mut beginning = vec![0; length];
    file.read_exact_at(&mut beginning, 0).map_err(failed)?;
    archive::check_locations(&run.ctx, directory, delivered, &beginning)?;
    match &given {
        Some(given) => temporary.name_instead(given),
        None => temporary.name(),
    }
}
