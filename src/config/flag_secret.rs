//! Secrets that a flag of the command line names: by file or command, never the secret itself.

use std::path::Path;

use super::layers::Origin;
use super::secret_source::{Kind, SecretFile, SecretSource};
use crate::base::Secret;

fn file(path: &Path) -> SecretFile {
    SecretFile { path: path.to_owned(), credential: None }
}

impl SecretSource {
    /// The key file that `flag` names.
    #[must_use]
    pub fn flag_key_file(flag: &str, path: &Path) -> Self {
        Self::new("the key file", Origin::Flag(flag.into()), Kind::KeyFile(file(path)))
    }

    /// The file with a passphrase that `flag` names.
    #[must_use]
    pub fn flag_passphrase_file(flag: &str, path: &Path) -> Self {
        Self::new(
            "the passphrase file",
            Origin::Flag(flag.into()),
            Kind::PassphraseFile(file(path)),
        )
    }

    /// The command that prints a passphrase that `flag` gives.
    #[must_use]
    pub fn flag_passphrase_command(flag: &str, command: &str) -> Self {
        let command = Kind::PassphraseCommand(Secret::new(command.to_owned()));
        Self::new("the passphrase command", Origin::Flag(flag.into()), command)
    }
}
