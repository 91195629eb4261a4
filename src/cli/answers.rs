//! What a command says of several repositories: the first failure is its own, the others are told on the way.

use serde_json::Value;

use super::error::Failure;
use super::exit::Exit;
use super::invocation::Invocation;

/// An answer of each repository.
#[derive(Debug, Default)]
pub struct Answers {
    /// For programs, in the order of the configuration.
    pub told: Vec<Value>,
    first_failure: Option<Failure>,
}

impl Answers {
    /// One more that failed; `told` is what programs get of it. The other repositories are worth asking all the same.
    pub fn fail(&mut self, run: &Invocation, told: Value, failure: Failure) {
        self.told.push(told);
        self.failed(run, failure);
    }

    /// As [`Answers::fail`], of which programs are told otherwise.
    pub fn failed(&mut self, run: &Invocation, failure: Failure) {
        match &self.first_failure {
            None => self.first_failure = Some(failure),
            Some(_) => failure.report(run.voice.format, run.voice.color),
        }
    }

    /// How the command ends, which would end so without a failure.
    pub fn end(self, exit: Exit) -> Result<Exit, Failure> {
        self.first_failure.map_or(Ok(exit), Err)
    }
}
