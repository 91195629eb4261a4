//! Configuration files of PostgreSQL's: writing settings so that they are read back as meant, and
//! reading them well enough to know which value counts.
//!
//! The grammar is that of `src/backend/utils/misc/guc-file.l`. Reading does not follow `include`
//! directives, does not know which settings exist, and goes on after a line that it cannot read, where
//! a server would not start.

use std::path::{Component, Path, PathBuf};

use super::auth_file::Reference;
use super::{Error, Result};

/// One `name = value` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The name as written; names are compared without case.
    pub name: String,
    /// The value without quotes and escapes.
    pub value: String,
    /// The line, from 1.
    pub line: usize,
}

/// What a configuration file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// All settings in the order of the file.
    pub settings: Vec<Setting>,
    /// `include`, `include_dir` and `include_if_exists` directives: files that count as well.
    pub includes: Vec<Setting>,
    /// Lines that are not settings, from 1: a server does not start with them.
    pub unreadable: Vec<usize>,
}

impl ConfigFile {
    /// Reads a file. Bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn parse(content: &[u8]) -> Self {
        let text = String::from_utf8_lossy(content);
        let mut file = Self::default();
        for (line, text) in (1..).zip(text.split('\n')) {
            match setting(text) {
                Line::Blank => {}
                Line::Unreadable => file.unreadable.push(line),
                Line::Setting(name, value) => {
                    let is_include = ["include", "include_dir", "include_if_exists"]
                        .iter()
                        .any(|directive| name.eq_ignore_ascii_case(directive));
                    let list = if is_include { &mut file.includes } else { &mut file.settings };
                    list.push(Setting { name, value, line });
                }
            }
        }
        file
    }

    /// The files that count as well, as the directives name them.
    #[must_use]
    pub fn references(&self) -> Vec<Reference> {
        let each = self.includes.iter().map(|include| {
            let path = include.value.clone();
            match include.name.to_ascii_lowercase().as_str() {
                "include_dir" => Reference::Directory(path),
                "include_if_exists" => Reference::FileIfExists(path),
                _ => Reference::File(path),
            }
        });
        each.collect()
    }

    /// The value that counts: the last one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&str> {
        self.settings
            .iter()
            .rfind(|setting| setting.name.eq_ignore_ascii_case(name))
            .map(|setting| setting.value.as_str())
    }

    /// The libraries of `shared_preload_libraries`, or `None` when this file does not set it.
    #[must_use]
    pub fn find_preloaded_libraries(&self) -> Option<Vec<String>> {
        self.find("shared_preload_libraries").map(split_list)
    }
}

/// `name = 'value'` with a line end.
///
/// # Errors
/// As [`quote`].
pub fn render(name: &str, value: &str) -> Result<String> {
    Ok(format!("{name} = {}\n", quote(value)?))
}

/// A value in single quotes, with quotes and backslashes doubled
/// (`src/port/quotes.c`, `escape_single_quotes_ascii`) and line ends as escapes
/// (`DeescapeQuotedString`).
///
/// # Errors
/// [`Error::Unusable`] for a zero byte, which no file can carry to the server.
pub fn quote(value: &str) -> Result<String> {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for character in value.chars() {
        match character {
            '\0' => {
                return Err(Error::Unusable {
                    what: "value of a setting",
                    problem: "contains a zero byte",
                });
            }
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    Ok(quoted)
}

/// The parts of a comma-separated list: blanks around them do not count, double quotes keep commas
/// and blanks, doubled ones stand for themselves (`src/backend/utils/adt/varlena.c`,
/// `SplitDirectoriesString`). Empty parts are dropped.
#[must_use]
pub fn split_list(value: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut quoted = false;
    let mut characters = value.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                part.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(std::mem::take(&mut part)),
            other => part.push(other),
        }
    }
    parts.push(part);
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// An absolute path as the server cleans it (`src/port/path.c`, `canonicalize_path`): by its text alone.
#[must_use]
pub fn clean_path(path: impl AsRef<Path>) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.as_ref().components() {
        match part {
            Component::ParentDir => _ = clean.pop(),
            Component::Normal(name) => clean.push(name),
            _ => {}
        }
    }
    clean
}

enum Line {
    Blank,
    Unreadable,
    Setting(String, String),
}

fn setting(line: &str) -> Line {
    let blank = |character: char| matches!(character, ' ' | '\t' | '\r');
    let text = line.trim_start_matches(blank);
    if text.is_empty() || text.starts_with('#') {
        return Line::Blank;
    }
    let after_name = text.trim_start_matches(is_name_character);
    let name = text.strip_suffix(after_name).unwrap_or_default();
    let rest = after_name.trim_start_matches(blank);
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start_matches(blank);
    let Some((value, rest)) = value(rest) else {
        return Line::Unreadable;
    };
    let rest = rest.trim_start_matches(blank);
    let begins_well = name.starts_with(|first: char| !first.is_ascii_digit() && first != '.');
    if begins_well && (rest.is_empty() || rest.starts_with('#')) {
        Line::Setting(name.to_owned(), value)
    } else {
        Line::Unreadable
    }
}

/// Identifiers hold letters, digits, underscores and anything beyond ASCII; a dot separates the
/// prefix of an extension's setting.
fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '.') || !character.is_ascii()
}

/// A value and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('\'') {
        return quoted_value(quoted);
    }
    let end = text.find([' ', '\t', '\r', '#', '\'', '=']).unwrap_or(text.len());
    let (value, rest) = text.split_at_checked(end)?;
    (!value.is_empty()).then(|| (value.to_owned(), rest))
}

/// A value after its opening quote.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '\'' => match rest.as_str().strip_prefix('\'') {
                Some(after) => {
                    value.push('\'');
                    rest = after.chars();
                }
                None => return Some((value, rest.as_str())),
            },
            '\\' => value.push(escape(&mut rest)?),
            other => value.push(other),
        }
    }
}

/// The character that an escape stands for: C's letters, up to three octal digits, or itself.
fn escape(rest: &mut std::str::Chars<'_>) -> Option<char> {
    let octal = |text: &str| text.chars().take(3).map_while(|c| c.to_digit(8)).collect::<Vec<_>>();
    let digits = octal(rest.as_str());
    if digits.is_empty() {
        return Some(match rest.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            other => other,
        });
    }
    for _ in &digits {
        rest.next();
    }
    char::from_u32(digits.iter().fold(0, |number, digit| number * 8 + digit) & 0xFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_value_counts() {
        let file = ConfigFile::parse(
            b"# comment\n\
              shared_preload_libraries = 'pg_stat_statements' # first\n\
              port=5433\n\
              listen_addresses ''\r\n\
              work_mem\t= 64MB#x\n\
              cron.database_name = postgres\n\
              Shared_Preload_Libraries = ' timescaledb , \"my, lib\",pg_cron'\n\
              search_path = 'it''s a \\\\ \\n \\101'\n\
              include_if_exists = 'more.conf'\n\
              include_dir 'conf.d'",
        );
        let libraries = ["timescaledb", "my, lib", "pg_cron"].map(str::to_owned).to_vec();
        assert_eq!(file.find_preloaded_libraries(), Some(libraries));
        assert_eq!(file.find("port"), Some("5433"));
        assert_eq!(file.find("listen_addresses"), Some(""));
        assert_eq!(file.find("work_mem"), Some("64MB"));
        assert_eq!(file.find("cron.database_name"), Some("postgres"));
        assert_eq!(file.find("search_path"), Some("it's a \\ \n A"));
        assert_eq!(file.find("archive_mode"), None);
        assert_eq!(file.includes.len(), 2);
        assert_eq!(file.unreadable, [] as [usize; 0]);
        assert_eq!(file.settings[0].line, 2);
    }

    #[test]
    fn lines_that_stop_a_server_are_told() {
        let file =
            ConfigFile::parse(b"a = 1\nb\n= 1\nc = 'x\n1d = 1\ne = 1 2\nf = \n'x' = 1\ng = 2");
        assert_eq!(file.unreadable, [2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(file.find("g"), Some("2"));
    }

    #[test]
    fn paths_are_cleaned_by_their_text() {
        assert_eq!(clean_path("/etc/./a/../../b//c"), Path::new("/b/c"));
        assert_eq!(clean_path("/../x"), Path::new("/x"));
    }

    #[test]
    fn quoting() {
        assert_eq!(
            render("restore_command", r#"pg "%p" 'x' \"#).unwrap(),
            "restore_command = 'pg \"%p\" ''x'' \\\\'\n"
        );
        assert_eq!(quote("").unwrap(), "''");
        assert!(quote("a\0b").is_err());
        assert_eq!(split_list(""), [] as [String; 0]);
        assert_eq!(split_list(r#"a"",,"b""c""#), ["a", "b\"c"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(content: Vec<u8>) {
            let file = ConfigFile::parse(&content);
            let lines = content.split(|byte| *byte == b'\n').count();
            let seen = file.settings.len() + file.includes.len() + file.unreadable.len();
            prop_assert!(seen <= lines);
        }

        #[test]
        fn what_is_quoted_is_read_back(value in "[^\0]*") {
            let file = ConfigFile::parse(render("a.b", &value).unwrap().as_bytes());
            prop_assert_eq!(file.find("a.b"), Some(value.as_str()));
        }
    }
}
