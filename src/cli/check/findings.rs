//! What `check` found, as values.

use serde::Serialize;

use crate::cli::error::Failure;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// To be looked at.
    Warn,
    /// Backups or archiving do not work, or do not keep their promise.
    Fail,
}

/// One line of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How serious.
    pub level: Level,
    /// What was looked at; stable, for scripts.
    pub check: &'static str,
    /// In which repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// What was found.
    pub found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
}

/// The findings so far.
#[derive(Debug, Default)]
pub struct Findings {
    /// All of them, in order.
    pub list: Vec<Finding>,
    /// The repository that the next ones are about.
    pub repository: Option<String>,
}

impl Findings {
    fn add(&mut self, level: Level, check: &'static str, found: String, todo: Option<String>) {
        let repository = self.repository.clone();
        self.list.push(Finding { level, check, repository, found, todo });
    }

    /// It is as it should be.
    pub fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(Level::Ok, check, found.into(), None);
    }

    /// It should be looked at.
    pub fn warn(&mut self, check: &'static str, found: impl Into<String>, todo: impl Into<String>) {
        self.add(Level::Warn, check, found.into(), Some(todo.into()));
    }

    /// It does not work.
    pub fn fail(&mut self, check: &'static str, found: impl Into<String>, todo: impl Into<String>) {
        self.add(Level::Fail, check, found.into(), Some(todo.into()));
    }

    /// It does not work, in the words of an error.
    pub fn failure(&mut self, check: &'static str, failure: Failure) {
        let Failure { message, causes, hint, .. } = failure;
        let mut found = vec![message];
        found.extend(causes);
        self.add(Level::Fail, check, found.join("; "), hint);
    }
}
