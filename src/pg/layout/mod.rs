//! What a backup copies of a data directory and what it leaves out, with the reason.
//!
//! The rules are those of PostgreSQL's own base backup (`src/backend/backup/basebackup.c`, up to 14
//! `src/backend/replication/basebackup.c`: `excludeDirContents`, `excludeFiles`, `sendDir`), and what a
//! restored cluster must not find (signal files, `*.old`). Unlike there, every rule is anchored to its
//! place in the data directory: a user's file is never left out for its base name.
//!
//! Compared with the manifests of base backups that servers of all five majors took: the same files,
//! but for the `*.old` ones and for tables of in-place tablespaces, which 15 forgets.
//!
//! A directory whose content is left out still exists, empty, with the source's mode. The content of
//! `log/` is copied, as PostgreSQL does.

use std::collections::HashSet;
use std::fmt;

use super::{Fork, MajorVersion, RelationFile, read, relation};

/// What a name in a directory is, without following links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, pipe or device.
    Other,
}

/// What to do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Copy the file, or make the directory and go through it.
    Copy,
    /// Copy the file after all others: `global/pg_control`.
    CopyLast,
    /// Leave it out; do not go into it.
    Skip(Reason),
    /// Make it a directory, also where it is a link, and do not go into it.
    DirectoryEmpty(Reason),
    /// A link to a tablespace's location: go on at `pg_tblspc/<oid>/` with what the link points to.
    Tablespace {
        /// The tablespace's object id.
        oid: u32,
    },
    /// A link where PostgreSQL has none. It would not copy what is behind it; the content of a file
    /// can be stored in its place, a directory cannot.
    StrayLink,
}

/// Why something is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The server removes or rewrites it when it starts.
    RebuiltAtStart,
    /// A file that is only meaningful while somebody writes it.
    Temporary,
    /// A temporary table's file.
    TemporaryRelation,
    /// An unlogged relation's data: only the init fork counts after a restore.
    UnloggedRelation,
    /// Replication slots of the source hold nothing in a copy.
    ReplicationSlot,
    /// WAL comes from the archive.
    Wal,
    /// It says something about the running server or how this directory was made, not about the data.
    OfThisDirectory,
    /// It would decide how the restored server recovers.
    DecidesRecovery,
    /// A tablespace inside the data directory is reached through its link.
    TablespaceInside,
    /// A directory of another major version, beside this one's in the same tablespace.
    OtherVersion,
    /// Not something that `CREATE TABLESPACE` makes.
    NotATablespace,
    /// A socket, pipe or device.
    SpecialFile,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RebuiltAtStart => "rebuilt when the server starts",
            Self::Temporary => "temporary file",
            Self::TemporaryRelation => "temporary relation",
            Self::UnloggedRelation => "unlogged relation",
            Self::ReplicationSlot => "replication slot",
            Self::Wal => "WAL comes from the archive",
            Self::OfThisDirectory => "belongs to this directory, not to the data",
            Self::DecidesRecovery => "would decide how the restored server recovers",
            Self::TablespaceInside => "tablespace inside the data directory",
            Self::OtherVersion => "of another major version",
            Self::NotATablespace => "not a tablespace",
            Self::SpecialFile => "special file",
        })
    }
}

/// The rules for one cluster.
#[derive(Debug, Clone)]
pub struct Layout {
    major: MajorVersion,
    version_directory: String,
    tablespaces_inside: Vec<Vec<u8>>,
}

impl Layout {
    /// The rules for a cluster of this version; the catalog version is that of its `pg_control`.
    #[must_use]
    pub fn new(major: MajorVersion, catalog_version: u32) -> Self {
        Self {
            major,
            version_directory: format!("PG_{major}_{catalog_version}"),
            tablespaces_inside: Vec::new(),
        }
    }

    /// Says that the directory at `path`, relative to the data directory, is where a link in
    /// `pg_tblspc` leads: its content is not copied a second time.
    pub fn add_tablespace_inside(&mut self, path: &[u8]) {
        self.tablespaces_inside.push(path.to_vec());
    }

    /// The one directory of a tablespace's location that is this cluster's
    /// (`TABLESPACE_VERSION_DIRECTORY`, `src/include/common/relpath.h`).
    #[must_use]
    pub fn version_directory(&self) -> &str {
        &self.version_directory
    }

    /// Directories that a restore makes although no walk of the data directory comes to them: what is
    /// inside `pg_wal`, which may be elsewhere (`sendDir`; `summaries` since 17).
    #[must_use]
    pub fn wal_directories(&self) -> &'static [&'static str] {
        if self.major >= MajorVersion::V17 {
            &["pg_wal/archive_status", "pg_wal/summaries"]
        } else {
            &["pg_wal/archive_status"]
        }
    }

    /// What to do with the entry at `path`, relative to the data directory. Unlogged relations are
    /// not told here, as that takes the whole directory: see [`is_unlogged_data`].
    #[must_use]
    pub fn classify(&self, path: &[u8], kind: EntryKind) -> Rule {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        if let Some(rule) = emptied_directory(&parts, kind) {
            return rule;
        }
        if let Some(rule) = tablespace(self, &parts, kind) {
            return rule;
        }
        if let Some(reason) = left_out(path, &parts) {
            return Rule::Skip(reason);
        }
        match kind {
            EntryKind::Other => Rule::Skip(Reason::SpecialFile),
            EntryKind::Symlink => Rule::StrayLink,
            EntryKind::Directory if self.is_tablespace_inside(path) => {
                Rule::DirectoryEmpty(Reason::TablespaceInside)
            }
            EntryKind::File if path == b"global/pg_control" => Rule::CopyLast,
            EntryKind::File | EntryKind::Directory => Rule::Copy,
        }
    }

    fn is_tablespace_inside(&self, path: &[u8]) -> bool {
        self.tablespaces_inside.iter().any(|inside| inside == path)
    }
}

/// Directories that exist but are empty, and what is found in them all the same.
fn emptied_directory(parts: &[&[u8]], kind: EntryKind) -> Option<Rule> {
    let (top, inside) = parts.split_first()?;
    let reason = match *top {
        b"pg_wal" => Reason::Wal,
        b"pg_replslot" => Reason::ReplicationSlot,
        b"pg_stat_tmp" | b"pg_dynshmem" | b"pg_notify" | b"pg_serial" | b"pg_snapshots"
        | b"pg_subtrans" => Reason::RebuiltAtStart,
        _ => return None,
    };
    let is_directory = matches!(kind, EntryKind::Directory | EntryKind::Symlink);
    let is_kept = match inside {
        [] => true,
        [only] => *top == b"pg_wal" && matches!(*only, b"archive_status" | b"summaries"),
        _ => false,
    };
    Some(if is_directory && is_kept { Rule::DirectoryEmpty(reason) } else { Rule::Skip(reason) })
}

/// Entries of `pg_tblspc` and of the tablespaces' locations. An in-place tablespace
/// (`allow_in_place_tablespaces`) is a directory like any other.
fn tablespace(layout: &Layout, parts: &[&[u8]], kind: EntryKind) -> Option<Rule> {
    match parts {
        [b"pg_tblspc", name] => match (read::decimal(name).filter(|oid| *oid > 0), kind) {
            (Some(oid), EntryKind::Symlink) => Some(Rule::Tablespace { oid }),
            (Some(_), EntryKind::Directory) => Some(Rule::Copy),
            _ => Some(Rule::Skip(Reason::NotATablespace)),
        },
        [b"pg_tblspc", _, version, ..] if *version != layout.version_directory.as_bytes() => {
            let reason = if relation::is_version_directory(version) {
                Reason::OtherVersion
            } else {
                Reason::NotATablespace
            };
            Some(Rule::Skip(reason))
        }
        _ => None,
    }
}

/// Files that are left out, by their place.
fn left_out(path: &[u8], parts: &[&[u8]]) -> Option<Reason> {
    match parts {
        [name] => top_level_file(name),
        [b"global", name] => relation_cache(name),
        [b"base", name, ..] | [b"pg_tblspc", _, _, name, ..] if name.starts_with(b"pgsql_tmp") => {
            Some(Reason::Temporary)
        }
        [b"base", _, name] | [b"pg_tblspc", _, _, _, name] => {
            let is_temporary = |file: RelationFile| file.temporary.is_some();
            if RelationFile::parse(path).is_some_and(is_temporary) {
                return Some(Reason::TemporaryRelation);
            }
            relation_cache(name)
        }
        _ => None,
    }
}

/// `RELCACHE_INIT_FILENAME` and its temporary files, whose names go on with a process id
/// (`src/backend/utils/cache/relcache.c`, `write_relcache_init_file`).
fn relation_cache(name: &[u8]) -> Option<Reason> {
    let rest = name.strip_prefix(b"pg_internal.init")?;
    (rest.is_empty() || rest.starts_with(b".")).then_some(Reason::RebuiltAtStart)
}

fn top_level_file(name: &[u8]) -> Option<Reason> {
    match name {
        b"postgresql.auto.conf.tmp" | b"current_logfiles.tmp" => Some(Reason::Temporary),
        b"postmaster.pid" | b"postmaster.opts" | b"backup_manifest" => {
            Some(Reason::OfThisDirectory)
        }
        b"backup_label"
        | b"backup_label.old"
        | b"tablespace_map"
        | b"tablespace_map.old"
        | b"recovery.signal"
        | b"standby.signal" => Some(Reason::DecidesRecovery),
        _ => None,
    }
}

/// Whether `file` is the data of an unlogged relation, which is reset to its init fork when the
/// restored server starts (`src/backend/storage/file/reinit.c`). `init_forks` holds the numbers of all
/// relations of the same directory that have an init fork.
///
/// PostgreSQL has no unlogged relations in `global/` and looks for none there.
#[must_use]
pub fn is_unlogged_data(file: &RelationFile, init_forks: &HashSet<u32>) -> bool {
    file.database != 0
        && file.temporary.is_none()
        && file.fork != Fork::Init
        && init_forks.contains(&file.number)
}

#[cfg(test)]
mod tests;
