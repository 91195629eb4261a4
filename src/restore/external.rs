//! Configuration files outside the data directory: never restored in place, written to a directory of
//! their own on request (`--config-to`), and named on the command line of the server that is started.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::conf_file::FILE_BYTES_MAX;
use super::directory::check_apart;
use super::error::{Error, Result};
use super::options::Options;
use super::shell;
use super::tree::{Attributes, Root};
use crate::pg::auth_file::{Reference, references};
use crate::pg::config_file::{ConfigFile, clean_path};
use crate::repo::manifest::{Configuration, ServerRecord};
use crate::repo::{OpenedBackup, Row};

/// The backup's configuration files outside the data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct External {
    /// Where they go; `None` where they stay in the backup.
    pub to: Option<PathBuf>,
    /// Where each was, and where it goes.
    pub files: Vec<(PathBuf, Option<PathBuf>)>,
    /// Their bytes.
    pub bytes: u64,
    /// Whether the file that the server was started with stays in the backup.
    pub lacks_main: bool,
    /// Options that the server must be started with: name and value.
    pub start_options: Vec<(String, String)>,
    #[serde(skip)]
    pub(super) rows: Vec<(Row, Option<PathBuf>)>,
}

impl External {
    /// What a backup has, and what becomes of it.
    ///
    /// # Errors
    /// [`Error::Refused`] where files cannot be told apart in their new place.
    pub(super) fn of(
        options: &Options,
        tablespaces: &[(u32, String, PathBuf)],
        opened: &OpenedBackup,
    ) -> Result<Self> {
        if let Some(to) = &options.config_to {
            let places = tablespaces.iter().map(|(_, _, location)| location);
            for place in std::iter::once(&options.to).chain(places) {
                check_apart(to, place)?;
            }
        }
        let server = &opened.manifest().summary.server;
        let main = Path::new(&server.configuration.config_file).parent().map(Path::to_owned);
        let mut external = Self { to: options.config_to.clone(), ..Self::default() };
        let mut taken = BTreeSet::new();
        for row in opened.external_rows()? {
            let path = PathBuf::from(OsStr::from_bytes(&row.path));
            let target = match &options.config_to {
                None => None,
                Some(to) => Some(to.join(place(&path, main.as_deref(), &row)?)),
            };
            if let Some(target) = &target
                && !taken.insert(target.clone())
            {
                let what = format!("two configuration files would be {}", target.display());
                return Err(Error::Refused { what });
            }
            external.bytes += row.size;
            external.files.push((path, target.clone()));
            external.rows.push((row, target));
        }
        let main_is_there = external.has(&server.configuration.config_file);
        external.lacks_main = main_is_there && external.to.is_none();
        external.start_options = start_options(options, server, &external);
        Ok(external)
    }

    fn target(&self, path: &str) -> Option<&Path> {
        let found = self.files.iter().find(|(from, _)| from == Path::new(path));
        found.and_then(|(_, target)| target.as_deref())
    }

    /// Whether a file is among them.
    pub(super) fn has(&self, path: &str) -> bool {
        self.files.iter().any(|(from, _)| from == Path::new(path))
    }

    /// The server's command line must name the restored directory: a file in it names another.
    pub(super) fn name_data_directory(&mut self, to: &Path) {
        const NAME: &str = "data_directory";
        if !self.start_options.iter().any(|(name, _)| name == NAME) {
            self.start_options.push((NAME.into(), to.display().to_string()));
        }
    }

    /// What a person must know: what is missing to start, and what the files refer to elsewhere.
    pub(super) fn warnings(&self, opened: &OpenedBackup) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let count = self.files.len();
        match (&self.to, self.files.first()) {
            (Some(to), None) => warnings.push(format!(
                "the backup has no configuration files outside the data directory: nothing goes to {}",
                to.display()
            )),
            (None, Some(_)) => {
                let names: Vec<String> =
                    self.files.iter().take(5).map(|(from, _)| from.display().to_string()).collect();
                let more = if count > 5 { ", ..." } else { "" };
                warnings.push(format!(
                    "the server was started with {count} configuration files outside the data \
                     directory ({}{more}): --config-to DIR writes them",
                    names.join(", ")
                ));
            }
            _ => {}
        }
        for (row, target) in &self.rows {
            let Some(target) = target else { continue };
            let from = Path::new(OsStr::from_bytes(&row.path));
            let content = opened.read_whole(row, FILE_BYTES_MAX)?;
            let found = ConfigFile::parse(&content).references().into_iter();
            for reference in found.chain(references(&content)) {
                let (Reference::File(path)
                | Reference::FileIfExists(path)
                | Reference::Directory(path)
                | Reference::List(path)) = reference;
                warnings.extend(self.led_astray(from, target, &path));
            }
        }
        warnings.sort();
        warnings.dedup();
        Ok(warnings)
    }
}

impl External {
    /// A warning where a file refers to another that will not be where the server looks for it.
    fn led_astray(&self, from: &Path, target: &Path, path: &str) -> Option<String> {
        let seen_from = |file: &Path| clean_path(file.parent().unwrap_or(file).join(path));
        let (before, after) = (seen_from(from), seen_from(target));
        let is_written = self.files.iter().any(|(old, new)| {
            let beside = old.strip_prefix(&before).ok();
            beside.zip(new.as_ref()).is_some_and(|(rest, new)| {
                if rest.as_os_str().is_empty() { *new == after } else { *new == after.join(rest) }
            })
        });
        let is_known = self.files.iter().any(|(old, _)| old.starts_with(&before));
        let stays = before != after && !is_known && !Path::new(path).is_absolute();
        (!is_written && !stays).then(|| {
            format!(
                "{} refers to {path}: the server will look for it at {}",
                from.display(),
                after.display()
            )
        })
    }
}

/// Where a file goes below the new directory: as it lay below that of `config_file`, else by its whole
/// path.
fn place(path: &Path, main: Option<&Path>, row: &Row) -> Result<PathBuf> {
    let is_safe = row
        .path
        .get(1..)
        .unwrap_or_default()
        .split(|&byte| byte == b'/')
        .all(|part| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0));
    if !is_safe {
        let why = "it leads out of its directory".into();
        return Err(Error::Content { path: row.path.clone(), why });
    }
    let beside = main.and_then(|main| path.strip_prefix(main).ok());
    Ok(beside.or_else(|| path.strip_prefix("/").ok()).unwrap_or(path).to_owned())
}

/// What the command line must say: it wins over the files, which name the source's places.
fn start_options(
    options: &Options,
    server: &ServerRecord,
    external: &External,
) -> Vec<(String, String)> {
    let Configuration { config_file, hba_file, ident_file } = &server.configuration;
    if [config_file, hba_file, ident_file].iter().all(|path| external.target(path).is_none()) {
        return Vec::new();
    }
    let text = |path: &Path| path.display().to_string();
    let mut found = vec![("data_directory".to_owned(), text(&options.to))];
    let named = [("config_file", config_file), ("hba_file", hba_file), ("ident_file", ident_file)];
    for (name, path) in named {
        let inside = Path::new(path).strip_prefix(&server.data_directory).ok();
        let inside = inside.map(|inside| options.to.join(inside));
        let target = external.target(path).map(Path::to_owned).or(inside);
        if let Some(target) = target.filter(|_| !path.is_empty()) {
            found.push((name.into(), text(&target)));
        }
    }
    found
}

/// Options as `pg_ctl -o` takes them: for the shell that it starts the server with.
pub(super) fn server_options(start_options: &[(String, String)]) -> String {
    let words = start_options
        .iter()
        .map(|(name, value)| format!("-c {}", shell::word(&format!("{name}={value}"))));
    words.collect::<Vec<_>>().join(" ")
}

/// Writes the files to where they go; what an interrupted run has left of them is made anew. Modes are
/// those of the backup, never wider, also for as long as a file is being written. Directories belong to
/// the server's account: it must get there.
pub(super) fn write(
    external: &External,
    opened: &OpenedBackup,
    root: &Root,
    server: Attributes,
) -> Result<()> {
    let Some(to) = &external.to else { return Ok(()) };
    root.give(b"", server.uid, server.gid)?;
    for (row, target) in &external.rows {
        let Some(path) = target.as_ref().and_then(|target| target.strip_prefix(to).ok()) else {
            continue;
        };
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let folders = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
        for folder in folders.map(bytes).collect::<Vec<_>>().into_iter().rev() {
            root.make_directory(&folder)?;
            root.give(&folder, server.uid, server.gid)?;
        }
        let content = opened.read_whole(row, FILE_BYTES_MAX)?;
        root.remove(&bytes(path))?;
        let attributes = Attributes { mode: row.mode & 0o777, uid: row.uid, gid: row.gid };
        let mut file = root.create(&bytes(path), attributes)?;
        file.write_all(&content).map_err(Error::file("write", to.join(path)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_the_shell() {
        let options = |value: &str| vec![("config_file".to_owned(), value.to_owned())];
        assert_eq!(server_options(&options("/a/b.conf")), "-c config_file=/a/b.conf");
        assert_eq!(server_options(&options("/it's a")), "-c 'config_file=/it'\\''s a'");
    }
}
