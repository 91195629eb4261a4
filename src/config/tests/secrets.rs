//! Ciphers and secrets: which combinations are allowed, and what reading a secret refuses.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::base::SeededEntropy;

const URL: &str = "url = \"file:///a\"\n";

/// A repository with these encryption keys, its configuration lying in `folder`.
fn repository_in(
    folder: &Path,
    keys: &str,
    variables: &[(&str, &str)],
) -> Result<RepositorySettings> {
    let text = format!("[cluster.main]\n[repository.a]\n{URL}[repository.a.encryption]\n{keys}");
    let environment = variables.iter().copied().collect();
    let sources = Sources { config: None, environment: &environment, flags: &[] };
    let settings = Settings::parse(&folder.join("pgkeep.toml"), &text, &sources)?;
    Ok(settings.resolve(None, None)?.repository()?.clone())
}

fn unlock_in(folder: &Path, secret: &str) -> Result<Unlocked> {
    repository_in(folder, &format!("cipher = \"aes-256-cbc\"\n{secret}"), &[])?.secret.unlock()
}

fn passphrase_of(unlocked: Unlocked) -> String {
    match unlocked.unlock {
        Unlock::Passphrase(passphrase) => passphrase.expose().clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cipher_must_be_written_out() {
    let wrong = repository_message(URL);
    assert!(
        wrong.contains("repository.local.encryption.cipher is missing; write a section"),
        "{wrong}"
    );
    let wrong = repository_message("encryption.cipher = \"none\"");
    assert!(wrong.contains("repository.local.url is missing; say where"), "{wrong}");
}

#[test]
fn a_cipher_needs_one_secret_and_none_needs_none() {
    let aes = format!("{URL}encryption.cipher = \"aes-256-cbc\"\n");
    let wrong = repository_message(&aes);
    assert!(
        wrong.contains("needs one of key_file, passphrase_file and passphrase_command"),
        "{wrong}"
    );
    let two = "encryption.key_file = \"/k\"\nencryption.passphrase_command = \"echo hunter2\"\n";
    let wrong = repository_message(&format!("{aes}{two}"));
    assert_eq!(
        wrong,
        format!(
            "{FILE}: repository.local: one secret is needed, and there are encryption.key_file \
             ({FILE} line 5) and encryption.passphrase_command ({FILE} line 6); keep the one that \
             opens the repository"
        )
    );
    let wrong = repository_message(&format!("{URL}{CLEAR}encryption.key_file = \"/k\"\n"));
    assert!(wrong.contains("cipher = \"none\" needs no secret, and there is"), "{wrong}");
    let folder = tempfile::tempdir().unwrap();
    let clear = repository_in(folder.path(), "cipher = \"none\"", &[]).unwrap();
    assert!(matches!(clear.secret.unlock().unwrap().unlock, Unlock::Clear));
}

#[test]
fn key_files_are_read_and_watched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.key");
    let secret = format!("key_file = \"{}\"", path.display());
    let wrong = unlock_in(folder.path(), &secret).unwrap_err();
    assert!(matches!(&wrong, Error::MissingKeyFile { path: missing, .. } if *missing == path));
    let shown = wrong.to_string();
    assert!(shown.contains("line 6: repository.a.encryption.key_file names "), "{shown}");

    let (key, text) = Unlock::generate_key_file(&SeededEntropy::new(1));
    durable::write_new(&path, text.expose().as_bytes(), 0o600).unwrap();
    let unlocked = unlock_in(folder.path(), &secret).unwrap();
    assert_eq!(unlocked.unlock.fingerprint(), key.fingerprint());
    assert_eq!(unlocked.warnings, []);
    for mode in [0o640, 0o604, 0o644, 0o620] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let warnings = unlock_in(folder.path(), &secret).unwrap().warnings;
        assert_eq!(warnings, [Warning::OpenToOthers { path: path.clone(), mode }]);
        assert!(warnings[0].to_string().contains(&format!("mode 0{mode:o}); chmod 600")));
    }

    durable::replace(&path, b"hunter2", 0o600).unwrap();
    let wrong = unlock_in(folder.path(), &secret).unwrap_err();
    assert!(matches!(wrong, Error::InvalidKeyFile { .. }), "{wrong}");
    assert!(wrong.to_string().contains("not a key file") && !wrong.to_string().contains("hunter2"));
    durable::replace(&path, &[b'0'; 10_000], 0o600).unwrap();
    let wrong = unlock_in(folder.path(), &secret).unwrap_err();
    assert!(wrong.to_string().contains("longer than 4096 bytes"), "{wrong}");
    let secret = format!("key_file = \"{}\"", folder.path().display());
    let wrong = unlock_in(folder.path(), &secret).unwrap_err();
    assert!(wrong.to_string().contains("not a regular file"), "{wrong}");
}

#[test]
fn relative_secrets_are_credentials_first_and_beside_the_file_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = tempfile::tempdir().unwrap();
    let keys = "cipher = \"aes-256-cbc\"\npassphrase_file = \"word\"";
    let variables = [("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap())];
    let unlock = |keys: &str| repository_in(folder.path(), keys, &variables)?.secret.unlock();
    durable::write_new(&folder.path().join("word"), b"beside", 0o600).unwrap();
    assert_eq!(passphrase_of(unlock(keys).unwrap()), "beside");
    durable::write_new(&credentials.path().join("word"), b"credential", 0o440).unwrap();
    let unlocked = unlock(keys).unwrap();
    assert_eq!(unlocked.warnings, [], "systemd shows wider permissions than it grants");
    assert_eq!(passphrase_of(unlocked), "credential");
    let missing = "cipher = \"aes-256-cbc\"\nkey_file = \"new.key\"";
    let repository = repository_in(folder.path(), missing, &variables).unwrap();
    let path = folder.path().join("new.key");
    assert_eq!(repository.secret.key_file(), Some(path.as_path()), "init writes here");
}

#[test]
fn passphrases_are_one_line_of_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("word");
    let read = |content: &[u8]| {
        durable::replace(&path, content, 0o600).unwrap();
        unlock_in(folder.path(), "passphrase_file = \"word\"")
    };
    for (content, passphrase) in [("a b", "a b"), ("a b\n", "a b"), (" ä ", " ä ")] {
        assert_eq!(passphrase_of(read(content.as_bytes()).unwrap()), passphrase);
    }
    for (content, why) in [
        (&b""[..], "is empty"),
        (b"\n", "is empty"),
        (b"hunter2\n\n", "more than one line"),
        (b"hunter2\r\n", "carriage return"),
        (b"hunter2\0", "control characters"),
        (b"hunter2\t", "control characters"),
        (b"hunter2\xff", "not UTF-8"),
    ] {
        let wrong = read(content).unwrap_err();
        assert!(matches!(wrong, Error::InvalidPassphrase { .. }), "{wrong}");
        let wrong = wrong.to_string();
        assert!(
            wrong.contains("repository.a.encryption.passphrase_file: the passphrase "),
            "{wrong}"
        );
        assert!(wrong.contains(why) && !wrong.contains("hunter2"), "{wrong}");
    }
    std::fs::remove_file(&path).unwrap();
    let wrong = unlock_in(folder.path(), "passphrase_file = \"word\"").unwrap_err();
    assert!(matches!(wrong, Error::UnreadableSecret { .. }), "{wrong}");
}

#[test]
fn passphrase_commands_are_held_to_the_same_rules() {
    let folder = tempfile::tempdir().unwrap();
    let run =
        |command: &str| unlock_in(folder.path(), &format!("passphrase_command = \"{command}\""));
    assert_eq!(passphrase_of(run("echo correct horse").unwrap()), "correct horse");
    let wrong = run("echo hunter2; echo no such entry >&2; exit 3").unwrap_err();
    assert!(matches!(wrong, Error::PassphraseCommand { .. }), "{wrong}");
    let wrong = wrong.to_string();
    assert!(
        wrong.contains("line 6: repository.a.encryption.passphrase_command: the command "),
        "{wrong}"
    );
    assert!(wrong.contains("exit status: 3") && wrong.contains("no such entry"), "{wrong}");
    assert!(!wrong.contains("hunter2"), "{wrong}");
    assert!(matches!(run("true").unwrap_err(), Error::InvalidPassphrase { .. }));
}

#[test]
fn the_environment_may_hold_a_passphrase_and_the_file_may_not() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("PGKEEP_REPOSITORY__A__ENCRYPTION__PASSPHRASE", "hunter2")];
    let repository = repository_in(folder.path(), "cipher = \"aes-256-cbc\"", &variables).unwrap();
    assert!(!format!("{repository:?}").contains("hunter2"));
    assert_eq!(passphrase_of(repository.secret.unlock().unwrap()), "hunter2");
    let wrong = repository_in(folder.path(), "passphrase = \"hunter2\"", &[]).unwrap_err();
    assert!(wrong.to_string().contains("does not belong in the configuration file"), "{wrong}");
    assert!(!wrong.to_string().contains("hunter2"), "{wrong}");
}

#[test]
fn settings_do_not_show_passwords() {
    let text = "[cluster.main]\nconnection = \"host=x password=hunter2\"\n";
    assert!(!format!("{:?}", parse(text).unwrap()).contains("hunter2"));
}
