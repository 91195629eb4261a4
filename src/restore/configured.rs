//! What the restored server's configuration files say, as far as the backup has them.
//!
//! A value is known only where every file that may set it was read: what the source's command line said
//! is in none of them, and neither is what other files outside the backup say.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::conf_file::{AUTO_CONF, CONF, FILE_BYTES_MAX, configuration};
use super::error::Result;
use super::external::External;
use crate::pg::auth_file::Reference;
use crate::pg::config_file::{ConfigFile, clean_path};
use crate::repo::OpenedBackup;

/// What the files say about a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Configured {
    /// This value counts.
    Value(String),
    /// None of them sets it: the server takes its default.
    Unset,
    /// Not all of them were read.
    Unknown,
}

/// The configuration files that the restored server will read.
#[derive(Debug, Default)]
pub(super) struct ServerFiles {
    automatic: ConfigFile,
    main: Option<ConfigFile>,
    /// Files that the main one includes.
    included: Vec<ConfigFile>,
    /// It includes something else.
    is_open: bool,
}

impl ServerFiles {
    /// Reads them.
    pub(super) fn of(opened: &OpenedBackup, external: &External) -> Result<Self> {
        let automatic = configuration(opened, AUTO_CONF)?.unwrap_or_default();
        let named = PathBuf::from(&opened.manifest().summary.server.configuration.config_file);
        if !external.has(&named.display().to_string()) {
            let main = configuration(opened, CONF)?;
            let is_open = main.as_ref().is_some_and(|main| !main.includes.is_empty());
            return Ok(Self { automatic, main, included: Vec::new(), is_open });
        }
        let mut files = Self { automatic, ..Self::default() };
        if external.to.is_none() {
            // Whoever starts the server names another file.
            return Ok(files);
        }
        let read = |wanted: &dyn Fn(&Path) -> bool| {
            let rows = external.rows.iter().map(|(row, _)| row);
            let rows = rows.filter(|row| wanted(Path::new(OsStr::from_bytes(&row.path))));
            rows.map(|row| Ok(ConfigFile::parse(&opened.read_whole(row, FILE_BYTES_MAX)?)))
                .collect::<Result<Vec<_>>>()
        };
        files.main = read(&|path| path == named)?.pop();
        let folder = named.parent().unwrap_or(&named);
        for reference in files.main.iter().flat_map(ConfigFile::references) {
            let found = match reference {
                Reference::File(path) => {
                    let path = clean_path(folder.join(path));
                    let found = read(&|file| file == path)?;
                    files.is_open |= found.is_empty();
                    found
                }
                // What is not in the backup was not there, or the backup has warned of it.
                Reference::FileIfExists(path) => {
                    let path = clean_path(folder.join(path));
                    read(&|file| file == path)?
                }
                Reference::Directory(path) => {
                    let path = clean_path(folder.join(path));
                    read(&|file| file.parent() == Some(&path))?
                }
                Reference::List(_) => Vec::new(),
            };
            files.is_open |= found.iter().any(|file| !file.includes.is_empty());
            files.included.extend(found);
        }
        Ok(files)
    }

    /// What they say about a setting.
    pub(super) fn find(&self, name: &str) -> Configured {
        if let Some(value) = self.automatic.find(name) {
            return Configured::Value(value.into());
        }
        let files = self.main.iter().chain(&self.included);
        let mut values = files.filter_map(|file| file.find(name));
        match values.next() {
            _ if self.is_open || self.main.is_none() => Configured::Unknown,
            None => Configured::Unset,
            Some(first) if values.all(|value| value == first) => Configured::Value(first.into()),
            // Of an included file and the one that includes it, the order decides.
            Some(_) => Configured::Unknown,
        }
    }
}

#[cfg(test)]
impl ServerFiles {
    /// As if the backup had this main file, or none.
    pub(super) fn parsed(main: Option<&str>) -> Self {
        let main = main.map(|text| ConfigFile::parse(text.as_bytes()));
        Self { main, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_when_every_file_that_may_set_it_was_read() {
        let file = |text: &str| ConfigFile::parse(text.as_bytes());
        let value = |value: &str| Configured::Value(value.into());
        let mut files =
            ServerFiles { main: Some(file("port = 1\nPORT = 2")), ..Default::default() };
        assert_eq!((files.find("port"), files.find("x")), (value("2"), Configured::Unset));
        files.included = vec![file("x = 3")];
        assert_eq!((files.find("port"), files.find("x")), (value("2"), value("3")));
        files.included.push(file("x = 4"));
        assert_eq!((files.find("port"), files.find("x")), (value("2"), Configured::Unknown));
        files.is_open = true;
        assert_eq!(files.find("port"), Configured::Unknown);
        files.automatic = file("port = 4");
        assert_eq!(files.find("port"), value("4"));
        assert_eq!(ServerFiles::default().find("port"), Configured::Unknown, "no file was read");
    }
}
