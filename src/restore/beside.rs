//! What a copy would share with its source, or do as its source, and no setting of ours prevents; and what
//! keeps a cluster from archiving that shall. Told before it is made.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::conf_file::{AUTO_CONF, CONF, FILE_BYTES_MAX};
use super::error::Result;
use super::external::External;
use super::options::{Archiving, Options};
use crate::pg::config_file::ConfigFile;
use crate::pg::{MajorVersion, isolation};
use crate::repo::OpenedBackup;

/// How the server writes and reads that `archive_mode` is off.
const OFF: [&str; 4] = ["off", "false", "no", "0"];

/// Libraries whose background workers reach other servers, or change data by themselves, and have no
/// setting that stops all of them.
const WORKERS: [&str; 5] = ["pglogical", "spock", "bdr", "citus", "pg_partman_bgw"];

/// Warnings about a copy; none where the restored cluster is the cluster itself.
pub(super) fn warnings(
    options: &Options,
    opened: &OpenedBackup,
    external: &External,
    libraries: &[String],
) -> Result<Vec<String>> {
    if options.archiving == Archiving::On {
        return Ok(Vec::new());
    }
    let files = files(opened, external)?;
    Ok(about_log(&files).into_iter().chain(about_workers(libraries)).collect())
}

/// A warning where the configuration that the backup holds keeps a cluster from archiving that shall.
pub(super) fn about_archive_mode(
    options: &Options,
    opened: &OpenedBackup,
    major: MajorVersion,
) -> Result<Option<String>> {
    if options.archiving == Archiving::Off {
        return Ok(None);
    }
    for (name, path) in [("postgresql.auto.conf", AUTO_CONF), ("postgresql.conf", CONF)] {
        let Some(row) = opened.find_row(path)? else { continue };
        let content = opened.read_whole(&row, FILE_BYTES_MAX)?;
        let file = ConfigFile::parse(&isolation::without(&content, major).0);
        if let Some(value) = file.find("archive_mode") {
            let is_off = OFF.contains(&value.to_ascii_lowercase().as_str());
            return Ok(is_off.then(|| {
                format!(
                    "{name} sets archive_mode = {value:?}: the restored cluster archives only when \
                     that is changed"
                )
            }));
        }
    }
    Ok(None)
}

/// The configuration files of the backup, those that win first.
fn files(opened: &OpenedBackup, external: &External) -> Result<Vec<ConfigFile>> {
    let main = &opened.manifest().summary.server.configuration.config_file;
    let mut rows = Vec::new();
    for path in [AUTO_CONF, CONF] {
        rows.extend(opened.find_row(path)?);
    }
    let is_main = |path: &[u8]| Path::new(OsStr::from_bytes(path)) == Path::new(main);
    let outside = external.rows.iter().map(|(row, _)| row);
    rows.extend(outside.filter(|row| is_main(&row.path)).cloned());
    let read = |row| Ok(ConfigFile::parse(&opened.read_whole(row, FILE_BYTES_MAX)?));
    rows.iter().map(read).collect()
}

fn about_log(files: &[ConfigFile]) -> Option<String> {
    let directory = files.iter().find_map(|file| file.find("log_directory"))?;
    Path::new(directory).is_absolute().then(|| {
        format!(
            "log_directory is {directory}: on its source's host the copy writes into the same log files; \
             change it first"
        )
    })
}

fn about_workers(libraries: &[String]) -> Option<String> {
    let is_worker = |library: &&String| {
        let name = Path::new(library).file_stem().and_then(OsStr::to_str).unwrap_or_default();
        WORKERS.iter().any(|worker| worker.eq_ignore_ascii_case(name))
    };
    let found: Vec<&str> = libraries.iter().filter(is_worker).map(String::as_str).collect();
    (!found.is_empty()).then(|| {
        format!(
            "shared_preload_libraries has {}: their background workers are not switched off, and act as \
             the source's; take them out of it, or start the copy where it reaches no other server",
            found.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d20261124_an_absolute_log_directory_is_told() {
        let file = |text: &str| ConfigFile::parse(text.as_bytes());
        let outside = file("log_directory = '/var/log/postgresql'");
        let told = about_log(&[file(""), outside.clone()]).unwrap();
        assert!(told.contains("/var/log/postgresql"), "{told}");
        assert_eq!(
            about_log(&[file("log_directory = 'log'"), outside]),
            None,
            "the first one wins"
        );
        assert_eq!(about_log(&[]), None);
    }

    #[test]
    fn d20261124_workers_that_no_setting_stops_are_told() {
        let told = |list: &[&str]| {
            about_workers(&list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        let found = told(&["pg_cron", "$libdir/pglogical", "citus.so"]).unwrap();
        assert!(found.contains("has $libdir/pglogical, citus.so:"), "{found}");
        assert_eq!(told(&["timescaledb", "pg_stat_statements"]), None);
    }
}
