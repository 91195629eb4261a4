//! Configuration files outside the data directory: where Debian keeps them, and what they include.
//!
//! Found by what the server says it was started with, and from there by what the files say. Stored under
//! their absolute paths; a link's content under the link's own name. What cannot be read is a warning:
//! the backup is whole without it, and says so.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::copy::read_whole;
use super::error::{Error, Result};
use super::read::{Stat, stat};
use crate::base::Ctx;
use crate::pg::auth_file::{Reference, references, references_of_list};
use crate::pg::config_file::{ConfigFile, clean_path};
use crate::repo::manifest::Configuration;

/// A configuration file is text that people write.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Files that are looked at; more is a mistake in an `include_dir`.
const FILES_MAX: usize = 1_000;

/// How often a file that keeps changing is read.
const READINGS_MAX: u32 = 100;

/// What is read how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grammar {
    Settings,
    Authentication,
    List,
}

struct Wanted {
    path: PathBuf,
    grammar: Grammar,
    may_be_missing: bool,
}

/// Takes a file: its path, what it is, its content.
type Store<'a> = dyn FnMut(&Path, &Stat, &[u8]) -> Result<()> + 'a;

/// Hands each configuration file outside the data directory to `store`, by its path, and returns
/// warnings about those that cannot be.
///
/// # Errors
/// Those of `store`, and a cancellation.
pub(super) fn each_external(
    ctx: &Ctx,
    data_directory: &Path,
    configuration: &Configuration,
    store: &mut Store<'_>,
) -> Result<Vec<String>> {
    let real = data_directory.canonicalize().map_err(Error::file("open", data_directory))?;
    let named = [
        (&configuration.config_file, Grammar::Settings),
        (&configuration.hba_file, Grammar::Authentication),
        (&configuration.ident_file, Grammar::Authentication),
    ];
    let named = named.into_iter().filter(|(path, _)| Path::new(path).is_absolute());
    let mut queue: VecDeque<Wanted> = named
        .map(|(path, grammar)| Wanted { path: clean_path(path), grammar, may_be_missing: false })
        .collect();
    let (mut seen, mut stored) = (BTreeSet::new(), BTreeSet::new());
    let mut warnings = Vec::new();
    while let Some(wanted) = queue.pop_front() {
        ctx.cancel.check()?;
        if !seen.insert((wanted.path.clone(), wanted.grammar)) {
            continue;
        }
        if seen.len() > FILES_MAX {
            warnings
                .push(format!("of more than {FILES_MAX} configuration files not all are saved"));
            break;
        }
        let (stat, content) = match read(ctx, &wanted.path) {
            Ok(read) => read,
            Err(error) if error.is_cancelled() => return Err(error),
            Err(error) => {
                let is_missing = fs::symlink_metadata(&wanted.path).is_err();
                if !(wanted.may_be_missing && is_missing) {
                    let path = wanted.path.display();
                    warnings.push(format!("configuration file {path} is not saved: {error}"));
                }
                continue;
            }
        };
        if !is_below(&wanted.path, &real) && stored.insert(wanted.path.clone()) {
            store(&wanted.path, &stat, &content)?;
        }
        follow(&wanted, &content, &mut queue, &mut warnings);
    }
    Ok(warnings)
}

fn read(ctx: &Ctx, path: &Path) -> Result<(Stat, Vec<u8>)> {
    let failed = |why: &str| Error::file("read", path)(std::io::Error::other(why.to_owned()));
    // Before it is opened: opening a pipe would wait for its other end.
    let metadata = fs::metadata(path).map_err(Error::file("stat", path))?;
    if !metadata.is_file() {
        return Err(failed("it is no regular file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(failed("it is longer than any configuration file"));
    }
    // An editor may be writing it: two readings must agree.
    let mut before = None;
    for _ in 0..READINGS_MAX {
        ctx.cancel.check()?;
        // Opened each time: many editors put a new file in the place of the old one.
        let file = File::open(path).map_err(Error::file("open", path))?;
        let stat = stat(&file).map_err(Error::file("stat", path))?;
        let content = read_whole(&file, path)?;
        if before.as_ref() == Some(&content) {
            return Ok((stat, content));
        }
        before = Some(content);
    }
    Err(failed("its content changed with every reading"))
}

/// Whether a file lies in the data directory and is copied with it.
fn is_below(path: &Path, data_directory: &Path) -> bool {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    folder.is_some_and(|folder| folder.starts_with(data_directory))
}

/// Adds what a file refers to, relative to where it lies (`src/backend/utils/misc/guc-file.l`,
/// `AbsoluteConfigLocation`).
fn follow(
    wanted: &Wanted,
    content: &[u8],
    queue: &mut VecDeque<Wanted>,
    warnings: &mut Vec<String>,
) {
    let found = match wanted.grammar {
        Grammar::Authentication => references(content),
        Grammar::List => references_of_list(content),
        Grammar::Settings => ConfigFile::parse(content).references(),
    };
    let folder = wanted.path.parent().unwrap_or(Path::new("/"));
    for reference in found {
        let mut add = |path: &str, grammar: Grammar, may_be_missing: bool| {
            let path = clean_path(folder.join(path));
            queue.push_back(Wanted { path, grammar, may_be_missing });
        };
        match reference {
            Reference::File(path) => add(&path, wanted.grammar, false),
            Reference::FileIfExists(path) => add(&path, wanted.grammar, true),
            Reference::List(path) => add(&path, Grammar::List, false),
            Reference::Directory(path) => {
                let directory = clean_path(folder.join(path));
                match conf_files(&directory) {
                    Err(error) => warnings.push(format!(
                        "configuration files in {} are not saved: {error}",
                        directory.display()
                    )),
                    Ok(files) => queue.extend(files.into_iter().map(|path| Wanted {
                        path,
                        grammar: wanted.grammar,
                        may_be_missing: false,
                    })),
                }
            }
        }
    }
}

/// The files that `include_dir` takes (`src/backend/utils/misc/conffiles.c`, `GetConfFilesInDir`).
fn conf_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        let path = directory.join(&name);
        if text.ends_with(".conf") && !text.starts_with('.') && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;

    #[test]
    fn everything_outside_that_counts_is_found_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let write = |name: &str, content: &str| {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::io::Write::write_all(&mut File::create(at(name)).unwrap(), content.as_bytes())
                .unwrap();
        };
        write(
            "etc/postgresql.conf",
            &format!(
                "include_dir = 'conf.d'\ninclude '../shared/a.conf'\ninclude_if_exists 'none.conf'\n\
                 include 'missing.conf'\ninclude '{}'\n",
                at("data/inside.conf").display()
            ),
        );
        write("etc/conf.d/10.conf", "include 'deeper/x.conf'");
        write("etc/conf.d/deeper/x.conf", "include '../../postgresql.conf'");
        write("etc/conf.d/.hidden.conf", "");
        write("etc/conf.d/readme.txt", "");
        write("shared/real.conf", "work_mem = '5MB'");
        std::os::unix::fs::symlink("real.conf", at("shared/a.conf")).unwrap();
        write("data/inside.conf", &format!("include '{}'", at("outside.conf").display()));
        write("outside.conf", "");
        write("etc/pg_hba.conf", "local all @users trust");
        write("etc/users", "me, @more");
        write("etc/more", "include you");
        let text = |name: &str| at(name).display().to_string();
        let configuration = Configuration {
            config_file: text("etc/postgresql.conf"),
            hba_file: text("etc/pg_hba.conf"),
            ident_file: text("data/pg_ident.conf"),
        };
        write("data/pg_ident.conf", "");
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let mut found = Vec::new();
        let warnings = each_external(&ctx, &at("data"), &configuration, &mut |path, _, content| {
            let name = path.strip_prefix(dir.path()).unwrap().display().to_string();
            found.push((name, content.len()));
            Ok(())
        })
        .unwrap();
        found.sort();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [
            "etc/conf.d/10.conf",
            "etc/conf.d/deeper/x.conf",
            "etc/more",
            "etc/pg_hba.conf",
            "etc/postgresql.conf",
            "etc/users",
            "outside.conf",
            "shared/a.conf",
        ];
        assert_eq!(names, expected);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("etc/missing.conf"), "{warnings:?}");
    }
}
