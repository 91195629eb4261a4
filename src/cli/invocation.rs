//! What every command works with: global flags, the world, the configuration.

use std::ffi::OsString;

use super::args::{Global, LogLevel};
use super::error::Failure;
use super::logging::{Reporter, Voice};
use crate::base::Ctx;
use crate::config::{Resolved, Settings, Warning};
use crate::repo::{Place, Registration, Repository};
use crate::{restore, wiring};

/// What every command works with.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The flags of every command.
    pub global: Global,
    /// The world.
    pub ctx: Ctx,
    /// How to talk on stderr.
    pub voice: Voice,
    /// The command line as it was typed.
    arguments: Vec<OsString>,
}

impl Invocation {
    /// Begins to log.
    pub fn new(global: Global, default_level: LogLevel) -> Self {
        let voice = Voice::new(&global, default_level);
        voice.begin();
        Self { global, ctx: Ctx::system(Reporter::new(voice)), voice, arguments: Vec::new() }
    }

    /// With the command line as it was typed, so that it can be told.
    #[must_use]
    pub fn typed(self, arguments: &[OsString]) -> Self {
        Self { arguments: arguments.to_vec(), ..self }
    }

    /// The command that was typed, for a shell.
    #[must_use]
    pub fn command_line(&self) -> String {
        let words = self.arguments.iter().map(|word| restore::shell_word(&word.to_string_lossy()));
        words.collect::<Vec<_>>().join(" ")
    }

    /// Another command about the same repository, as it is typed.
    #[must_use]
    pub fn same_place(&self, command: &str) -> String {
        self.at_repository(self.global.repository.as_deref(), command)
    }

    /// Another command about one repository, or about the one that is meant without a name.
    #[must_use]
    pub fn at_repository(&self, repository: Option<&str>, command: &str) -> String {
        let config = self.global.config.as_ref().map(|path| path.to_string_lossy().into_owned());
        let flags = [
            ("--config", config.as_deref()),
            ("--cluster", self.global.cluster.as_deref()),
            ("--repository", repository),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(flag, value)| Some(format!(" {flag} {}", restore::shell_word(value?))));
        format!("pgkeep{} {command}", flags.collect::<String>())
    }

    /// The configuration, its warnings told.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let settings = wiring::settings(self.global.config.as_deref())?;
        settings.warnings().iter().for_each(|warning| self.ctx.warn(warning.to_string()));
        Ok(settings)
    }

    /// The cluster and the repositories that are meant.
    pub fn resolved(&self) -> Result<Resolved, Failure> {
        self.resolve(&self.settings()?)
    }

    /// As [`Invocation::resolved`], of settings that were read.
    pub fn resolve(&self, settings: &Settings) -> Result<Resolved, Failure> {
        let (cluster, repository) = (&self.global.cluster, &self.global.repository);
        Ok(settings.resolve(cluster.as_deref(), repository.as_deref())?)
    }

    /// Tells warnings about secrets.
    pub fn warn_each(&self, warnings: &[Warning]) {
        warnings.iter().for_each(|warning| self.ctx.warn(warning.to_string()));
    }

    /// Where the cluster's objects lie, for commands that only read: they matter most when the data
    /// directory is gone, or when a new cluster has taken its place.
    pub fn place_for_reading(
        &self,
        resolved: &Resolved,
        name: &str,
        repository: &Repository,
        epoch: Option<u32>,
    ) -> Result<(Place, Registration), Failure> {
        let cluster = &resolved.cluster_name;
        let directory = resolved.cluster.data_directory.as_deref();
        let system = directory.and_then(|directory| wiring::system_of(directory).ok());
        match wiring::find_cluster(name, repository, cluster, system, epoch) {
            Err(unknown) if system.is_some() && unknown.is_unregistered() => {
                let Ok(found) = wiring::find_cluster(name, repository, cluster, None, epoch) else {
                    return Err(unknown.into());
                };
                self.ctx.warn(format!(
                    "the data directory holds another cluster than the repository: this is about \
                     system {}",
                    found.0.system()
                ));
                Ok(found)
            }
            other => Ok(other?),
        }
    }
}
