//! Where a repository's secret comes from, and how it is read when it is needed.
//!
//! Nothing is read before [`SecretSource::unlock`]; nothing that is read is kept or shown.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::error::{Error, Result, Warning};
use super::layers::Origin;
use super::passphrase_command;
use crate::base::Secret;
use crate::crypt::{self, Unlock};

/// The longest key file or passphrase; both are a line of text.
pub(super) const SECRET_BYTES_MAX: usize = 4096;

/// A secret that was read.
#[derive(Debug)]
pub struct Unlocked {
    /// What opens the repository's key slots.
    pub unlock: Unlock,
    /// What should be looked at.
    pub warnings: Vec<Warning>,
}

/// Where a repository's secret comes from.
#[derive(Debug, Clone)]
pub struct SecretSource {
    key: String,
    origin: Origin,
    kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Clear,
    KeyFile(SecretFile),
    PassphraseFile(SecretFile),
    PassphraseCommand(Secret<String>),
    Passphrase(Secret<String>),
}

/// A file that systemd may supply as a credential.
#[derive(Debug, Clone)]
pub(super) struct SecretFile {
    /// Where it is otherwise.
    pub(super) path: PathBuf,
    /// Where it is if systemd supplies it.
    pub(super) credential: Option<PathBuf>,
}

/// Where relative paths of secrets are looked up.
pub(super) struct SecretFolders<'f> {
    /// systemd's, first.
    pub(super) credentials: Option<&'f Path>,
    /// The configuration file's.
    pub(super) beside: &'f Path,
}

impl SecretFile {
    /// The file to read, and whether systemd vouches for its permissions: it shows them as wider
    /// than they are, because it grants the unit's user access by an ACL.
    fn find(&self) -> (&Path, bool) {
        match &self.credential {
            Some(credential) if credential.exists() => (credential, true),
            _ => (&self.path, false),
        }
    }
}

impl SecretSource {
    /// The file that holds it, where it is in one that the configuration names.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match &self.kind {
            Kind::KeyFile(file) | Kind::PassphraseFile(file) => Some(&file.path),
            _ => None,
        }
    }

    /// The source that `key`, set at `origin`, names.
    pub(super) fn new(key: impl ToString, origin: Origin, kind: Kind) -> Self {
        Self { key: key.to_string(), origin, kind }
    }

    /// The key file that is configured, whether or not it exists: where `init` makes one.
    #[must_use]
    pub fn key_file(&self) -> Option<&Path> {
        match &self.kind {
            Kind::KeyFile(file) => Some(file.find().0),
            _ => None,
        }
    }

    /// Reads the secret.
    ///
    /// # Errors
    /// [`Error::MissingKeyFile`], [`Error::InvalidKeyFile`], [`Error::UnreadableSecret`],
    /// [`Error::InvalidPassphrase`], [`Error::PassphraseCommand`].
    pub fn unlock(&self) -> Result<Unlocked> {
        let mut warnings = Vec::new();
        let unlock = match &self.kind {
            Kind::Clear => Unlock::Clear,
            Kind::KeyFile(file) => self.key_from(file, &mut warnings)?,
            Kind::PassphraseFile(file) => {
                let content = self.content(file, &mut warnings);
                let content = content.map_err(|(path, source)| self.unreadable(path, source))?;
                self.passphrase(content.expose())?
            }
            Kind::PassphraseCommand(command) => {
                let printed =
                    passphrase_command::run(command.expose(), passphrase_command::TIMEOUT);
                let (origin, key) = self.place();
                let printed =
                    printed.map_err(|source| Error::PassphraseCommand { origin, key, source })?;
                self.passphrase(printed.expose())?
            }
            Kind::Passphrase(passphrase) => self.passphrase(passphrase.expose().as_bytes())?,
        };
        Ok(Unlocked { unlock, warnings })
    }

    /// Reads a file of one line that opens nothing by itself, such as an access key.
    ///
    /// # Errors
    /// [`Error::UnreadableSecret`], [`Error::InvalidPassphrase`].
    pub(super) fn text(&self, warnings: &mut Vec<Warning>) -> Result<Secret<String>> {
        let unlocked = self.unlock()?;
        warnings.extend(unlocked.warnings);
        match unlocked.unlock {
            Unlock::Passphrase(line) => Ok(line),
            _ => unreachable!("it was made as a file of one line"),
        }
    }

    fn place(&self) -> (Origin, String) {
        (self.origin.clone(), self.key.clone())
    }

    fn unreadable(&self, path: PathBuf, source: io::Error) -> Error {
        let (origin, key) = self.place();
        Error::UnreadableSecret { origin, key, path, source }
    }

    fn key_from(&self, file: &SecretFile, warnings: &mut Vec<Warning>) -> Result<Unlock> {
        let content = self.content(file, warnings).map_err(|(path, source)| {
            if source.kind() == io::ErrorKind::NotFound {
                let (origin, key) = self.place();
                Error::MissingKeyFile { origin, key, path }
            } else {
                self.unreadable(path, source)
            }
        })?;
        let text = std::str::from_utf8(content.expose()).map_err(|_| crypt::Error::KeyFile);
        text.and_then(Unlock::from_key_file).map_err(|source| {
            let (origin, key) = self.place();
            Error::InvalidKeyFile { origin, key, path: file.find().0.to_owned(), source }
        })
    }

    /// The file's bytes; on failure the path that was tried.
    fn content(
        &self,
        file: &SecretFile,
        warnings: &mut Vec<Warning>,
    ) -> std::result::Result<Secret<Vec<u8>>, (PathBuf, io::Error)> {
        let (path, is_vouched_for) = file.find();
        let (content, metadata) = read_bounded(path).map_err(|error| (path.to_owned(), error))?;
        let mode = metadata.mode() & 0o7777;
        if !is_vouched_for && is_open_to_others(&metadata) {
            warnings.push(Warning::OpenToOthers { path: path.to_owned(), mode });
        }
        Ok(content)
    }

    /// One line of text: a trailing newline is taken off, and anything else that no keyboard gives
    /// is refused, because it would make a passphrase that nobody can type when it matters.
    fn passphrase(&self, bytes: &[u8]) -> Result<Unlock> {
        let (origin, key) = self.place();
        let what = if key.contains(".encryption.") { "the passphrase" } else { "the line" };
        let wrong = |why| Error::InvalidPassphrase { origin, key, what, why };
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let why = match std::str::from_utf8(line) {
            Ok("") => "is empty",
            Ok(text) if text.contains('\n') => "has more than one line",
            Ok(text) if text.contains('\r') => {
                "contains a carriage return: the file was written with Windows line ends"
            }
            Ok(text) if text.chars().any(char::is_control) => {
                "contains control characters; it must be one line of text"
            }
            Ok(text) => return Ok(Unlock::Passphrase(Secret::new(text.to_owned()))),
            Err(_) => "is not UTF-8; it must be one line of text",
        };
        Err(wrong(why))
    }
}

fn read_bounded(path: &Path) -> io::Result<(Secret<Vec<u8>>, Metadata)> {
    // Asked before opening, because opening a pipe waits for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    // With its full size from the start the buffer never moves and leaves no copy behind.
    let mut content = Vec::with_capacity(SECRET_BYTES_MAX + 1);
    let limit = u64::try_from(SECRET_BYTES_MAX + 1).unwrap_or(u64::MAX);
    let read = file.take(limit).read_to_end(&mut content);
    let content = Secret::new(content);
    read?;
    if content.expose().len() > SECRET_BYTES_MAX {
        let why =
            format!("it is longer than {SECRET_BYTES_MAX} bytes, so it is not the right file");
        return Err(io::Error::other(why));
    }
    Ok((content, metadata))
}

/// PostgreSQL's rule for private keys (src/backend/libpq/be-secure-common.c,
/// `check_ssl_key_file_permissions`): nothing for others; nothing for the group either when the
/// file is our own, but reading when it is root's, since then the group is how we get at it.
fn is_open_to_others(metadata: &Metadata) -> bool {
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
    metadata.mode() & if is_own { 0o077 } else { 0o037 } != 0
}
