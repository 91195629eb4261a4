//! PostgreSQL as it is installed here: its programs, their version, the libraries that the server
//! loads at its start.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::base::Ctx;
use crate::pg::config_file::split_list;

/// How long a program may take to describe itself.
const SAID_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// A version is one line, and a description of all settings one for each.
const SAID_BYTES_MAX: u64 = 1 << 20;

/// Where programs are looked for.
#[derive(Debug, Clone)]
pub struct ProgramPlaces {
    /// The folder that the configuration names; then no other counts.
    pub configured: Option<PathBuf>,
    /// What the usual places are below: `/`.
    pub root: PathBuf,
    /// The folders of `PATH`.
    pub path: Vec<PathBuf>,
}

/// The server's programs, as they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Programs {
    /// `server_version_num` of the backup's server.
    pub needed: u32,
    /// Where `postgres` of its major is.
    pub bin_directory: Option<PathBuf>,
    /// Its version, such as 15.6.
    pub version: Option<String>,
    /// `psql`, where it is beside them.
    pub psql: Option<PathBuf>,
    /// Where they make sockets unless they are told otherwise.
    pub socket_directory: Option<String>,
    /// `shared_preload_libraries` of the backup's server.
    pub preload_libraries: Vec<String>,
    /// Those of them that are not here.
    pub missing_libraries: Vec<String>,
}

impl Programs {
    /// What is wrong, in sentences.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let needed = version_text(self.needed);
        let mut warnings = Vec::new();
        match (&self.bin_directory, self.version.as_deref().map(parse_version)) {
            (None, _) => warnings.push(format!(
                "PostgreSQL {} was not found here: install it, or name its folder as bin_directory \
                 in the cluster's configuration",
                self.needed / 10_000
            )),
            (Some(bin), None | Some(None)) => warnings.push(format!(
                "{} does not say its version: PostgreSQL {needed} is needed",
                bin.join("postgres").display()
            )),
            (Some(bin), Some(Some((major, _)))) if major != self.needed / 10_000 => {
                warnings.push(format!(
                    "{} is of PostgreSQL {}, and the backup of {needed}: a data directory opens in \
                     its own major version only",
                    bin.display(),
                    self.version.as_deref().unwrap_or_default()
                ));
            }
            (Some(bin), Some(Some((_, minor)))) if minor < self.needed % 10_000 => {
                warnings.push(format!(
                    "{} is of PostgreSQL {}, and the backup of {needed}: install that or a later \
                     minor version",
                    bin.display(),
                    self.version.as_deref().unwrap_or_default()
                ));
            }
            _ => {}
        }
        if !self.missing_libraries.is_empty() {
            warnings.push(format!(
                "the server does not start without shared_preload_libraries that are not installed \
                 here: {}",
                self.missing_libraries.join(", ")
            ));
        }
        warnings
    }
}

/// Looks for the programs of a server and the libraries that it loads.
pub(super) fn look(ctx: &Ctx, places: &ProgramPlaces, needed: u32, libraries: &str) -> Programs {
    let major = needed / 10_000;
    let mut found: Option<(PathBuf, Option<String>)> = None;
    for bin in candidates(places, major) {
        let postgres = bin.join("postgres");
        if !is_program(&postgres) {
            continue;
        }
        let version = version_of(ctx, &postgres);
        let fits = version.as_deref().and_then(parse_version).is_some_and(|v| v.0 == major);
        if fits {
            found = Some((bin, version));
            break;
        }
        // The configured one is told also when it does not fit.
        if places.configured.is_some() {
            found.get_or_insert((bin, version));
        }
    }
    let preload_libraries = split_list(libraries);
    let mut programs = Programs { needed, preload_libraries, ..Programs::default() };
    if let Some((bin, version)) = found {
        let folders = library_folders(&places.root, &bin, major);
        let is_missing = |library: &&String| !is_there(&places.root, &folders, library);
        let missing = programs.preload_libraries.iter().filter(is_missing).cloned();
        programs.missing_libraries = missing.collect();
        programs.psql = Some(bin.join("psql")).filter(|psql| is_program(psql));
        programs.socket_directory = socket_directory_of(ctx, &bin.join("postgres"));
        (programs.bin_directory, programs.version) = (Some(bin), version);
    }
    programs
}

fn candidates(places: &ProgramPlaces, major: u32) -> Vec<PathBuf> {
    if let Some(configured) = &places.configured {
        return vec![configured.clone()];
    }
    let usual = [
        format!("usr/lib/postgresql/{major}/bin"),
        format!("usr/pgsql-{major}/bin"),
        "usr/local/pgsql/bin".into(),
    ];
    let usual = usual.iter().map(|place| places.root.join(place));
    usual.chain(places.path.iter().cloned()).collect()
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// What `postgres --version` says: `postgres (PostgreSQL) 15.6 (Debian 15.6-1)`.
fn version_of(ctx: &Ctx, postgres: &Path) -> Option<String> {
    let text = said_by(ctx, postgres, "--version")?;
    let rest = text.strip_prefix("postgres (PostgreSQL) ")?;
    Some(rest.split_whitespace().next()?.to_owned())
}

/// The directory for sockets that is built in: a line of tab-separated name, context, group, type and
/// value (`src/backend/utils/misc/help_config.c`).
fn socket_directory_of(ctx: &Ctx, postgres: &Path) -> Option<String> {
    let text = said_by(ctx, postgres, "--describe-config")?;
    let line = text.lines().find(|line| line.starts_with("unix_socket_directories\t"))?;
    split_list(line.split('\t').nth(4)?).into_iter().next()
}

/// What a program writes when it is called with `argument`. Into a file, so that it never waits for a
/// reader.
fn said_by(ctx: &Ctx, program: &Path, argument: &str) -> Option<String> {
    let mut file = tempfile::tempfile().ok()?;
    let mut child = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(file.try_clone().ok()?)
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let begun = ctx.clock.monotonic();
    let is_over = || ctx.clock.monotonic().saturating_sub(begun) > SAID_TIMEOUT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                return status.success().then(|| whole(&mut file)).flatten();
            }
            Ok(None) if !is_over() && !ctx.cancel.is_cancelled() => ctx.clock.sleep(POLL),
            _ => {
                child.kill().ok();
                child.wait().ok();
                return None;
            }
        }
    }
}

fn whole(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(SAID_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Major and minor of `15.6`; of `18beta1` and the like no minor counts.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let digits = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text.get(..end)?.parse().ok()
    };
    let (major, minor) = text.split_once('.').unwrap_or((text, ""));
    Some((digits(major)?, digits(minor).unwrap_or(0)))
}

fn version_text(version_num: u32) -> String {
    format!("{}.{}", version_num / 10_000, version_num % 10_000)
}

/// Where a server with these programs has its `$libdir`: Debian and PGDG keep `lib` beside `bin`, an
/// installation into a prefix has `lib` or `lib/postgresql` there.
fn library_folders(root: &Path, bin: &Path, major: u32) -> Vec<PathBuf> {
    let real = bin.join("postgres").canonicalize().ok();
    let real = real.as_deref().and_then(Path::parent).map(Path::to_owned);
    let bins = std::iter::once(bin.to_owned()).chain(real);
    let beside = bins.filter_map(|bin| {
        let lib = bin.parent()?.join("lib");
        Some([lib.join("postgresql"), lib])
    });
    let debian = root.join(format!("usr/lib/postgresql/{major}/lib"));
    let mut folders: Vec<PathBuf> = beside.flatten().chain([debian]).collect();
    folders.dedup();
    folders
}

/// As the server looks (`src/backend/utils/fmgr/dfmgr.c`, `expand_dynamic_library_name`): a name with
/// a slash is a path, `$libdir` its own folder; the ending may be left away.
fn is_there(root: &Path, folders: &[PathBuf], library: &str) -> bool {
    let exists = |path: PathBuf| {
        let mut with_ending = path.clone().into_os_string();
        with_ending.push(".so");
        path.is_file() || PathBuf::from(with_ending).is_file()
    };
    let name = library.strip_prefix("$libdir/").unwrap_or(library);
    if name.contains('/') && name == library {
        return exists(root.join(name.trim_start_matches('/')));
    }
    folders.iter().any(|folder| exists(folder.join(name)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::Silent;

    struct Scratch(tempfile::TempDir);

    impl Scratch {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn root(&self) -> PathBuf {
            self.0.path().canonicalize().unwrap()
        }

        /// Written by another process: one that this one forks meanwhile must not hold it open, or it
        /// could not be run.
        fn script(&self, path: &str, text: &str) -> PathBuf {
            let file = self.root().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            let script = r#"printf '#!/bin/sh\n%s\n' "$2" > "$1" && chmod 755 "$1""#;
            let made = Command::new("sh").args(["-c", script, "sh"]).arg(&file).arg(text).status();
            assert!(made.unwrap().success());
            file.parent().unwrap().to_owned()
        }

        fn postgres(&self, folder: &str, version: &str) -> PathBuf {
            let text = format!("echo 'postgres (PostgreSQL) {version} (Debian 1.pgdg)'");
            self.script(&format!("{folder}/postgres"), &text)
        }

        fn look(&self, needed: u32, libraries: &str, configured: Option<&str>) -> Programs {
            let places = ProgramPlaces {
                configured: configured.map(|folder| self.root().join(folder)),
                root: self.root(),
                path: vec![self.root().join("path")],
            };
            look(&Ctx::system(Arc::new(Silent)), &places, needed, libraries)
        }
    }

    #[test]
    fn the_usual_places_are_looked_at_and_only_the_right_major_counts() {
        let scratch = Scratch::new();
        let none = scratch.look(150_006, "", None);
        assert_eq!(none.bin_directory, None);
        assert!(none.warnings()[0].starts_with("PostgreSQL 15 was not found here"));
        scratch.postgres("path", "17.2");
        assert_eq!(scratch.look(150_006, "", None).bin_directory, None, "another major");
        let pgdg = scratch.postgres("usr/pgsql-15/bin", "15.6");
        let found = scratch.look(150_006, "", None);
        assert_eq!(
            (found.bin_directory.as_ref(), found.version.as_deref()),
            (Some(&pgdg), Some("15.6"))
        );
        assert_eq!(found.warnings(), Vec::<String>::new());
        let debian = scratch.postgres("usr/lib/postgresql/15/bin", "15.4");
        let found = scratch.look(150_006, "", None);
        assert_eq!(found.bin_directory, Some(debian));
        assert!(found.warnings()[0].contains("15.4, and the backup of 15.6"), "{found:?}");
    }

    #[test]
    fn a_configured_folder_is_the_only_one_and_is_told_when_it_does_not_fit() {
        let scratch = Scratch::new();
        scratch.postgres("usr/lib/postgresql/15/bin", "15.6");
        let missing = scratch.look(150_006, "", Some("opt/bin"));
        assert_eq!(missing.bin_directory, None);
        let other = scratch.postgres("opt/bin", "16.1");
        let found = scratch.look(150_006, "", Some("opt/bin"));
        assert_eq!(found.bin_directory, Some(other));
        assert!(found.warnings()[0].contains("opens in its own major version only"), "{found:?}");
        scratch.script("opt/bin/postgres", "exit 1");
        let broken = scratch.look(150_006, "", Some("opt/bin"));
        assert!(broken.warnings()[0].contains("does not say its version"), "{broken:?}");
    }

    #[test]
    fn libraries_are_looked_for_where_the_server_would() {
        let scratch = Scratch::new();
        scratch.postgres("usr/lib/postgresql/15/bin", "15.6");
        for library in ["usr/lib/postgresql/15/lib/timescaledb.so", "srv/own.so"] {
            scratch.script(library, "");
        }
        let listed =
            "timescaledb, \"$libdir/timescaledb\", /srv/own, /srv/own.so, pg_cron, /srv/gone";
        let found = scratch.look(150_006, listed, None);
        assert_eq!(found.preload_libraries.len(), 6);
        assert_eq!(found.missing_libraries, ["pg_cron", "/srv/gone"]);
        assert!(found.warnings()[0].ends_with("pg_cron, /srv/gone"), "{found:?}");
        let prefix = scratch.postgres("opt/pg/bin", "15.6");
        scratch.script("opt/pg/lib/postgresql/pg_cron.so", "");
        let found = scratch.look(150_006, "pg_cron", Some("opt/pg/bin"));
        assert_eq!((found.bin_directory, found.missing_libraries), (Some(prefix), vec![]));
    }

    #[test]
    fn versions_are_read() {
        for (text, expected) in [
            ("15.6", Some((15, 6))),
            ("18beta1", Some((18, 0))),
            ("17.10", Some((17, 10))),
            ("devel", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }
}
