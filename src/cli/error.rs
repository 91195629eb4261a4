//! The only place that makes sentences of errors: what, why, what next, and the exit code.
//!
//! Rooms return precise enums. Here each gets a kind, an exit code and, where there is something to
//! do, a hint that names the next command.

use std::error::Error as StdError;

use super::args::LogFormat;
use super::exit::Exit;
use super::output;
use crate::repo::SlotSummary;
use crate::{archive, backup, config, daemon, pgconn, repo, storage, wiring};

/// What sort of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The command line.
    Usage,
    /// The configuration.
    Config,
    /// The host, the server or the network.
    Environment,
    /// Something that was asked for is not there.
    NotFound,
    /// Stored or local bytes are not what they should be.
    Corrupt,
    /// Somebody else is at it.
    Busy,
    /// Key or passphrase.
    Key,
    /// Stopped on request.
    Interrupted,
    /// Everything else.
    Failed,
}

/// An error as it is told.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What sort.
    pub kind: Kind,
    /// What went wrong.
    pub message: String,
    /// Why, cause by cause.
    pub causes: Vec<String>,
    /// What to do.
    pub hint: Option<String>,
    /// For programs: more members of the error as JSON.
    pub details: Vec<(&'static str, serde_json::Value)>,
}

/// Exit code, kind and hint of an error.
pub(super) type Advice = (Exit, Kind, Option<String>);

impl Failure {
    /// A failure without a room's error behind it.
    pub fn failed(message: impl Into<String>) -> Self {
        let (exit, kind) = (Exit::Failed, Kind::Failed);
        let (causes, details) = (Vec::new(), Vec::new());
        Self { exit, kind, message: message.into(), causes, hint: None, details }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, kind: Kind::Usage, ..Self::failed(message) }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub(super) fn of(error: &(dyn StdError + 'static), (exit, kind, hint): Advice) -> Self {
        let message = error.to_string();
        let mut said = message.clone();
        let mut causes = Vec::new();
        let mut cause = error.source();
        while let Some(source) = cause {
            let text = source.to_string();
            // Many messages carry their cause's words already.
            if !said.contains(&text) {
                said.push_str(&text);
                causes.push(text);
            }
            cause = source.source();
        }
        Self { exit, kind, message, causes, hint, details: Vec::new() }
    }

    /// Writes it to stderr.
    pub fn report(&self, format: LogFormat, color: bool) {
        output::to_stderr(&match format {
            LogFormat::Text => self.text(color),
            LogFormat::Json => format!("{}\n", self.json()),
        });
    }

    /// The lines for people.
    #[must_use]
    pub fn text(&self, color: bool) -> String {
        let (red, cyan, plain) =
            if color { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "") };
        let mut text = format!("{red}error:{plain} {}\n", self.message);
        for cause in &self.causes {
            text.push_str(&format!("  {cause}\n"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("{cyan}hint:{plain} {hint}\n"));
        }
        text
    }

    /// The error as a command's result in JSON.
    #[must_use]
    pub fn json_error(&self) -> serde_json::Value {
        let mut error = serde_json::json!({
            "kind": self.kind,
            "message": self.message,
            "causes": self.causes,
            "hint": self.hint,
            "exit_code": self.exit.code(),
        });
        for (name, value) in &self.details {
            error[*name] = value.clone();
        }
        error
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "level": "ERROR",
            "kind": self.kind,
            "message": self.message,
            "causes": self.causes,
            "hint": self.hint,
            "exit_code": self.exit.code(),
        })
    }
}

pub(super) fn hint(text: &str) -> Option<String> {
    Some(text.to_owned())
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::of(&error, of_config(&error))
    }
}

fn of_config(error: &config::Error) -> Advice {
    match error {
        config::Error::UnknownName { .. } | config::Error::Unselected { .. } => {
            (Exit::Usage, Kind::Usage, None)
        }
        config::Error::MissingFile { .. } => (
            Exit::Failed,
            Kind::Config,
            hint(
                "Write the file with a section [cluster.main] and a section [repository.local], \
                 then run `pgkeep init`.",
            ),
        ),
        _ => (Exit::Failed, Kind::Config, None),
    }
}

impl From<wiring::Error> for Failure {
    fn from(error: wiring::Error) -> Self {
        of_wiring(&error)
    }
}

fn of_wiring(error: &wiring::Error) -> Failure {
    match error {
        wiring::Error::Config(error) => Failure::of(error, of_config(error)),
        wiring::Error::NoKey { slots, .. } => {
            let mut failure = Failure::of(error, (Exit::WrongKey, Kind::Key, hint(NO_KEY)));
            failure.causes.extend(slots.iter().map(slot_line));
            failure
        }
        wiring::Error::Repository { source, .. } => {
            let mut failure = Failure::of(error, of_repo(source));
            failure.causes.extend(slot_lines(source));
            failure
        }
        wiring::Error::UnknownSystem { .. } => {
            let next = hint("Set cluster.<name>.data_directory to the cluster's directory.");
            Failure::of(error, (Exit::Failed, Kind::Config, next))
        }
        wiring::Error::NoDataDirectory { .. } => {
            let next = hint("A backup reads the data directory: write its path there.");
            Failure::of(error, (Exit::Failed, Kind::Config, next))
        }
    }
}

const NO_KEY: &str = "The repository exists, so no new key file is made: it could not open it. Put \
                      the key file with one of these fingerprints there, from wherever its copy is.";

impl From<repo::Error> for Failure {
    fn from(error: repo::Error) -> Self {
        let mut failure = Self::of(&error, of_repo(&error));
        failure.causes.extend(slot_lines(&error));
        failure
    }
}

fn slot_lines(error: &repo::Error) -> Vec<String> {
    match error {
        repo::Error::WrongKey { slots, .. } if slots.is_empty() => {
            vec!["there are no key slots at all".into()]
        }
        repo::Error::WrongKey { slots, .. } => slots.iter().map(slot_line).collect(),
        _ => Vec::new(),
    }
}

fn slot_line(slot: &SlotSummary) -> String {
    let mut line = format!("key slot {}: {}", slot.slot, slot.kind);
    if !slot.label.is_empty() {
        line.push_str(&format!(" {:?}", slot.label));
    }
    if !slot.fingerprint.is_empty() {
        line.push_str(&format!(", fingerprint {}", slot.fingerprint));
    }
    line.push_str(&format!(", made {}", slot.created));
    line
}

pub(super) fn of_repo(error: &repo::Error) -> Advice {
    match error {
        repo::Error::Storage(error) => of_storage(error),
        repo::Error::NoRepository { .. } => {
            let next = "Check that the place is mounted and the url is right; for a new repository \
                        run `pgkeep init`.";
            (Exit::NoRepository, Kind::NotFound, hint(next))
        }
        repo::Error::NoDescriptor { .. } => {
            let next = "Put pgkeep.json back, from a copy of the repository or, in a bucket with \
                        versions, its older version: no new one is made, for nobody could read what \
                        lies there any more. For a new repository name another place.";
            (Exit::Failed, Kind::Corrupt, hint(next))
        }
        repo::Error::NoCluster { .. } => {
            (Exit::NoRepository, Kind::NotFound, hint("Run `pgkeep init` to register the cluster."))
        }
        repo::Error::EpochAnnounced { .. } => {
            let next = "Run `pgkeep init`: the repository joins the newer epoch. What it has of an \
                        older one is restored with --epoch.";
            (Exit::NoRepository, Kind::NotFound, hint(next))
        }
        repo::Error::NoRegistration { .. } => {
            let next = "Put it back from a copy of the repository; until then nothing in it can be \
                        used, and nothing counts as absent.";
            (Exit::Failed, Kind::Corrupt, hint(next))
        }
        repo::Error::WrongKey { .. } => {
            let next = "Configure the secret of one of these slots; `pgkeep key list` shows which \
                        of them a secret opens.";
            (Exit::WrongKey, Kind::Key, hint(next))
        }
        repo::Error::UnknownKey { .. } => {
            let next = "The key was rotated by the holder of another secret: ask them to run \
                        `pgkeep key add` for yours.";
            (Exit::WrongKey, Kind::Key, hint(next))
        }
        repo::Error::Cipher { .. } => (
            Exit::Failed,
            Kind::Config,
            hint("Write the repository's cipher into the configuration."),
        ),
        repo::Error::Corrupt { .. } => {
            let next = "Nothing of this object was used. `pgkeep check` looks at the rest.";
            (Exit::Failed, Kind::Corrupt, hint(next))
        }
        repo::Error::Base { source, .. } => {
            let (exit, kind, _) = of_repo(source);
            let next = "What stands on it cannot be restored without it: name a backup of another chain \
                        with --backup; `pgkeep info` lists them.";
            (exit, kind, hint(next))
        }
        repo::Error::Newer { .. } => (
            Exit::Failed,
            Kind::Failed,
            hint("Use the version of pgkeep that wrote it, or a newer one."),
        ),
        repo::Error::NoEpoch { .. } => {
            (Exit::NoRepository, Kind::NotFound, hint("`pgkeep info` shows the newest epoch."))
        }
        repo::Error::NoBackup { .. } | repo::Error::Abandoned { .. } => {
            (Exit::Failed, Kind::NotFound, hint("`pgkeep info` lists the backups."))
        }
        repo::Error::Conflict { .. } => {
            let next = "First write wins, and the archived file stays. Find out which it is: two \
                        servers that archive as one cluster (stop one, or give it a cluster name of \
                        its own), or a history that forked because a disk was rolled back or \
                        pg_resetwal was run (`pgkeep init --new-epoch`, then a full backup).";
            (Exit::Failed, Kind::Corrupt, hint(next))
        }
        repo::Error::Claimed { .. } => {
            let next = "Two servers archive as one cluster, or its history forked. Stop the wrong one, \
                        remove its claims from the repository (all that are named so), and let the \
                        right one push again; or `pgkeep init --new-epoch`, then a full backup.";
            (Exit::Failed, Kind::Corrupt, hint(next))
        }
        repo::Error::InitRunning { .. } => {
            let next = "Wait until it ends. If it was interrupted, remove its lease from the place, \
                        or repeat this when that is an hour old.";
            (Exit::Locked, Kind::Busy, hint(next))
        }
        repo::Error::Held(_)
        | repo::Error::Decided
        | repo::Error::LeaseLost { .. }
        | repo::Error::ClockSkew { .. }
        | repo::Error::Expiring { .. } => beside_others(error),
        repo::Error::InitOverdue => {
            (Exit::Failed, Kind::Environment, hint("Repeat `pgkeep init`: it is safe to repeat."))
        }
        repo::Error::Keys(_) => {
            (Exit::Failed, Kind::Key, hint("`pgkeep key list` shows the key slots."))
        }
        repo::Error::Cancelled(_) => (Exit::Interrupted, Kind::Interrupted, None),
        _ => (Exit::Failed, Kind::Failed, None),
    }
}

/// Of what others do at the same time.
fn beside_others(error: &repo::Error) -> Advice {
    match error {
        repo::Error::Held(_) => {
            let next = "Wait until it ends. One that was killed is passed over when its lease ends, or at once \
                        on the host on which it ran.";
            (Exit::Locked, Kind::Busy, hint(next))
        }
        repo::Error::Decided | repo::Error::LeaseLost { .. } => {
            let next = "Nothing is half done that the next expire does not finish: repeat it.";
            (Exit::Locked, Kind::Busy, hint(next))
        }
        repo::Error::ClockSkew { .. } => {
            let next =
                "Set the clock (NTP) of this host, or of the server that holds the repository.";
            (Exit::Failed, Kind::Environment, hint(next))
        }
        repo::Error::Expiring { .. } => {
            let next = "`pgkeep info` lists the backups that stay. If no expire is at it, one was interrupted: rules \
                        or a pin that keep it, and then `pgkeep expire`, take it back.";
            (Exit::Failed, Kind::NotFound, hint(next))
        }
        _ => (Exit::Failed, Kind::Failed, None),
    }
}

impl From<storage::Error> for Failure {
    fn from(error: storage::Error) -> Self {
        Self::of(&error, of_storage(&error))
    }
}

fn of_storage(error: &storage::Error) -> Advice {
    match error {
        storage::Error::NoStore { .. } => {
            let next = "Check that the place is mounted; for a new repository run `pgkeep init`.";
            (Exit::NoRepository, Kind::NotFound, hint(next))
        }
        storage::Error::Denied { .. } => {
            let next = "Run pgkeep as the owner of the repository, as a rule the account of the \
                        server (`sudo -u postgres pgkeep ...`).";
            (Exit::Failed, Kind::Environment, hint(next))
        }
        storage::Error::Forbidden { action, resource, .. } => {
            let next = format!(
                "A policy must have {{\"Effect\": \"Allow\", \"Action\": \"{action}\", \"Resource\": \
                 \"{resource}\"}}, and none may deny it (docs/s3.md lists what each task needs); with a \
                 KMS key, its policy too."
            );
            (Exit::Failed, Kind::Environment, Some(next))
        }
        storage::Error::Credentials { .. } => {
            let next = "They come from access_key_file and secret_key_file, or from the AWS chain: \
                        environment, profile, web identity, container, instance.";
            (Exit::Failed, Kind::Environment, hint(next))
        }
        storage::Error::Clock { .. } => {
            let next = "Set the clock: requests are signed with the time.";
            (Exit::Failed, Kind::Environment, hint(next))
        }
        storage::Error::Region { .. } => {
            let next = "The keys region and url must name one place; a bucket never moves.";
            (Exit::Failed, Kind::Config, hint(next))
        }
        storage::Error::Cold { key } => {
            (Exit::Cold, Kind::Environment, hint(super::cold::hint_of(key.as_str())))
        }
        storage::Error::Unsupported { .. } => {
            let next =
                "docs/s3.md lists what a server must be able to do; lock_days needs Object Lock.";
            (Exit::Failed, Kind::Environment, hint(next))
        }
        storage::Error::Cancelled { .. } => (Exit::Interrupted, Kind::Interrupted, None),
        _ => (Exit::Failed, Kind::Environment, None),
    }
}

impl From<pgconn::Error> for Failure {
    fn from(error: pgconn::Error) -> Self {
        Self::of(&error, of_server(&error))
    }
}

fn of_server(error: &pgconn::Error) -> Advice {
    let environment = |text: &str| (Exit::Failed, Kind::Environment, hint(text));
    match error {
        pgconn::Error::Options { .. } => (
            Exit::Failed,
            Kind::Config,
            hint("It is the key connection in the section [cluster.<name>]."),
        ),
        pgconn::Error::Connect { .. } => environment(
            "Check that the server runs and that the key connection leads to it; pgkeep runs best \
             as the account of the server.",
        ),
        pgconn::Error::Denied { .. } => environment(
            "Connect as a superuser, or grant the role pg_monitor and EXECUTE on the backup \
             functions and on pg_read_file(text).",
        ),
        pgconn::Error::Pooled { .. } => {
            environment("Put the address of PostgreSQL itself into the key connection.")
        }
        pgconn::Error::BackupRunning { .. } => {
            let next = "Wait until it ends. If it hangs, end its server process with SELECT \
                        pg_terminate_backend(<pid>).";
            (Exit::Locked, Kind::Busy, hint(next))
        }
        pgconn::Error::OtherServer { .. } => environment(
            "The keys connection and data_directory must belong to one cluster on this host.",
        ),
        pgconn::Error::Restarted { .. } | pgconn::Error::Lost { .. } | pgconn::Error::Promoted => {
            environment("Nothing of it counts. Run it again when the server is up.")
        }
        pgconn::Error::Cancelled => (Exit::Interrupted, Kind::Interrupted, None),
        _ => (Exit::Failed, Kind::Environment, None),
    }
}

impl From<backup::Error> for Failure {
    fn from(error: backup::Error) -> Self {
        let advice = match &error {
            _ if error.is_cancelled() => (Exit::Interrupted, Kind::Interrupted, None),
            backup::Error::Server(error) => of_server(error),
            backup::Error::Repository(error) => of_repo(error),
            backup::Error::WalMissing { .. } => {
                let next = "`pgkeep check` says why WAL does not arrive; the server's log has what \
                            archive_command said. The backup is not kept: without that WAL it \
                            cannot be restored.";
                (Exit::Failed, Kind::Environment, hint(next))
            }
            backup::Error::Content { .. } => (Exit::Failed, Kind::Corrupt, None),
            backup::Error::File { .. } => {
                let next = "The account that runs pgkeep must be able to read the data directory.";
                (Exit::Failed, Kind::Environment, hint(next))
            }
            backup::Error::Parent { .. } => {
                let next = "Take a full: `pgkeep backup --type full`. With auto_full = true one is taken \
                            instead, whenever that happens.";
                (Exit::Failed, Kind::Environment, hint(next))
            }
            backup::Error::Sizes { .. } => {
                let next = "Another server? Else pg_resetwal --wal-segsize was run: `pgkeep init --new-epoch` begins \
                            a new archive with these sizes; then take a full: `pgkeep backup --type full`.";
                (Exit::Failed, Kind::Environment, hint(next))
            }
            backup::Error::Refused { .. } => {
                let next = "`pgkeep check` looks at server, data directory and repository.";
                (Exit::Failed, Kind::Environment, hint(next))
            }
            _ => (Exit::Failed, Kind::Failed, None),
        };
        let mut failure = Self::of(&error, advice);
        if let backup::Error::WalMissing { archiver, .. } = &error {
            failure.causes.push(archiver.clone());
        }
        failure
    }
}

impl From<daemon::Error> for Failure {
    fn from(error: daemon::Error) -> Self {
        let advice = match &error {
            daemon::Error::Running { .. } => (Exit::Locked, Kind::Busy, None),
            daemon::Error::Socket { .. } => {
                let next = "daemon.socket names it. Its folder must be the account's own, mode 0700: \
                            who can enter it can pass for the daemon.";
                (Exit::Failed, Kind::Environment, hint(next))
            }
            _ => (Exit::Failed, Kind::Environment, None),
        };
        Self::of(&error, advice)
    }
}

/// What whoever opens repositories said, which is the wiring's, or a test's.
fn of_unopened(unopened: &archive::Unopened) -> Failure {
    match unopened.source.downcast_ref::<wiring::Error>() {
        Some(error) => of_wiring(error),
        None => Failure::of(unopened, (Exit::Failed, Kind::Failed, None)),
    }
}

impl From<archive::Error> for Failure {
    fn from(error: archive::Error) -> Self {
        let error = match error {
            archive::Error::Unopened(unopened) => return of_unopened(&unopened),
            other => other,
        };
        let advice = match &error {
            archive::Error::OlderEpoch { .. } => {
                let next = "Run `pgkeep init`: the repository joins the newer epoch.";
                (Exit::Failed, Kind::Failed, hint(next))
            }
            archive::Error::Repository { source, .. } => of_repo(source),
            archive::Error::Copy { .. } => {
                let next = "So it cannot write into its source's archive. To let it take the \
                            cluster's place, run `pgkeep adopt`.";
                (Exit::Failed, Kind::Config, hint(next))
            }
            archive::Error::Tablespace { .. } => {
                let next = "If another cluster lives there, restore on another host, or to a target \
                            before that position. If it is left over, move it aside and start the \
                            server again.";
                (Exit::Failed, Kind::Busy, hint(next))
            }
            archive::Error::SegmentSize { .. } => {
                let next = "pg_resetwal --wal-segsize was run? `pgkeep init --new-epoch` begins a new \
                            archive; then take a full backup.";
                (Exit::Failed, Kind::Config, hint(next))
            }
            archive::Error::Content { .. } => (Exit::Failed, Kind::Corrupt, None),
            archive::Error::Hole { .. } => {
                let next = "Recovery stops here rather than lose what comes after. `pgkeep info` \
                            shows the holes; look for the file in pg_wal of the old server.";
                (Exit::Failed, Kind::NotFound, hint(next))
            }
            archive::Error::NoWal { .. } => {
                let next = "Is the repository the one that the cluster archives into, and is it \
                            mounted? To start without an archive, set an empty restore_command.";
                (Exit::Failed, Kind::NotFound, hint(next))
            }
            archive::Error::Name { .. } => (Exit::Failed, Kind::Usage, None),
            archive::Error::File { .. } => (Exit::Failed, Kind::Environment, None),
            archive::Error::Cancelled(_) => (Exit::Interrupted, Kind::Interrupted, None),
            _ => (Exit::Failed, Kind::Failed, None),
        };
        Self::of(&error, advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let denied = std::io::Error::other("disk on fire");
        let path = "/x".into();
        let failure = Failure::from(archive::Error::File { action: "read", path, source: denied });
        assert_eq!(failure.text(false), "error: read /x: disk on fire\n");
    }

    #[test]
    fn a_wrong_key_lists_the_slots() {
        let slot = SlotSummary {
            slot: "00ff".into(),
            kind: crate::crypt::SlotKind::KeyFile,
            label: "safe".into(),
            fingerprint: "abcd".into(),
            created: "2026-11-20T02:00:00Z".into(),
            opened: None,
        };
        let given = crate::crypt::SlotKind::Passphrase;
        let source = repo::Error::WrongKey { given, slots: vec![slot] };
        let failure = Failure::from(wiring::Error::Repository { repository: "a".into(), source });
        assert_eq!(failure.exit, Exit::WrongKey);
        let text = failure.text(false);
        assert!(
            text.starts_with(
                "error: repository a: the passphrase at hand opens no key slot of this repository\n  \
                 key slot 00ff: key file \"safe\", fingerprint abcd, made 2026-11-20T02:00:00Z\nhint: "
            ),
            "{text}"
        );
    }
}
