//! The lines of postgresql.conf that archiving needs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Failure;
use crate::pg::config_file;
use crate::pgconn::ServerFacts;

/// What has to be set, and is not yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The setting.
    pub name: &'static str,
    /// Its value, unquoted.
    pub value: String,
}

/// The command for archive_command: absolute, so that the server's PATH does not matter.
pub fn archive_command(program: &[PathBuf]) -> Result<String, Failure> {
    let words = program.iter().map(|word| shell_word(word)).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("{} archive-push \"%p\"", words.join(" ")))
}

/// Which settings of the server are not as archiving needs them.
#[must_use]
pub fn wanted(facts: &ServerFacts, archive_command: &str, rpo: Duration) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let mut want = |name, value: String| wanted.push(Wanted { name, value });
    if facts.wal_level == "minimal" {
        want("wal_level", "replica".into());
    }
    if facts.archive_mode == "off" {
        want("archive_mode", "on".into());
    }
    if facts.archive_library.as_deref().is_some_and(|library| !library.is_empty()) {
        want("archive_library", String::new());
    }
    if facts.archive_command != archive_command {
        want("archive_command", archive_command.into());
    }
    if facts.archive_timeout == 0 || u64::from(facts.archive_timeout) > rpo.as_secs() {
        want("archive_timeout", format!("{}s", archive_timeout(rpo)));
    }
    wanted
}

/// Half the time that may be lost: the other half is for storing the segment.
#[must_use]
pub fn archive_timeout(rpo: Duration) -> u64 {
    (rpo.as_secs() / 2).max(1)
}

impl Wanted {
    /// The line as it is written into the file.
    pub fn line(&self) -> Result<String, Failure> {
        let line = config_file::render(self.name, &self.value);
        Ok(line.map_err(|error| Failure::failed(error.to_string()))?.trim_end().to_owned())
    }
}

/// A path as a word of the shell, within archive_command, where % is special.
fn shell_word(path: &Path) -> Result<String, Failure> {
    let Some(text) = path.to_str() else {
        return Err(Failure::failed(format!("{} is not UTF-8", path.display())));
    };
    let text = text.replace('%', "%%");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(is_plain) {
        return Ok(text);
    }
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_shell_and_server() {
        let command = |words: &[&str]| {
            archive_command(&words.iter().map(PathBuf::from).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(command(&["/usr/bin/pgkeep"]), "/usr/bin/pgkeep archive-push \"%p\"");
        assert_eq!(
            command(&["/opt/my tools/pgkeep", "--config", "/etc/50%/it's.toml"]),
            r#"'/opt/my tools/pgkeep' --config '/etc/50%%/it'\''s.toml' archive-push "%p""#
        );
        let wanted = Wanted { name: "archive_command", value: "it's".into() };
        assert_eq!(wanted.line().unwrap(), "archive_command = 'it''s'");
        assert_eq!(archive_timeout(Duration::from_secs(300)), 150);
    }
}
