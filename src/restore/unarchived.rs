//! WAL that only the directory has which a restore goes over: it would be lost with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use super::error::{Error, Result};
use crate::base::Ctx;
use crate::pg::wal::{LONG_HEADER_BYTES, SegmentHeader};
use crate::pg::{ArchivedWal, Lsn, SegmentName, WalFileName};
use crate::repo::{Kind, Place, Repository};

/// What is read of a file at a time.
const CHUNK: usize = 1 << 20;

const READY: &str = ".ready";

/// Refuses a directory with files that its server had ready to be archived, and that the archive does not have,
/// or has with other content. A warning where the server was not stopped in order, and its last segment is not
/// archived.
///
/// # Errors
/// [`Error::Unarchived`].
pub(super) fn check(
    ctx: &Ctx,
    (repository, place): (&Repository, &Place),
    archived: &ArchivedWal,
    (data, has_stopped): (&Path, bool),
) -> Result<Vec<String>> {
    let wal = data.join("pg_wal");
    let ready = names(&wal.join("archive_status"), READY)?;
    let mut missing = Vec::new();
    for name in &ready {
        ctx.cancel.check()?;
        if !is_archived(repository, place, &wal, *name)? {
            missing.push(*name);
        }
    }
    if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
        return Err(Error::Unarchived {
            path: data.into(),
            count: missing.len() as u64,
            first: first.to_string(),
            last: last.to_string(),
        });
    }
    if has_stopped {
        return Ok(Vec::new());
    }
    let newest = newest(&wal, archived, &ready)?;
    Ok(newest.into_iter().map(|name| warning(data, name)).collect())
}

fn warning(data: &Path, name: SegmentName) -> String {
    let data = data.display();
    format!(
        "the server of {data} was not stopped in order, and {name}, into which it wrote last, is not archived: \
         it goes. To keep what is in it, run pgkeep wal backfill --from {data} first"
    )
}

/// The WAL files that the names in a folder stand for, in order.
fn names(folder: &Path, suffix: &str) -> Result<BTreeSet<WalFileName>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(BTreeSet::new());
        }
        other => other.map_err(Error::file("list", folder))?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(Error::file("list", folder))?.file_name();
        let stripped = name.as_encoded_bytes().strip_suffix(suffix.as_bytes());
        names.extend(stripped.and_then(|name| WalFileName::parse(name).ok()));
    }
    Ok(names)
}

/// Whether a file is in the archive as it is here. One that is not here any more cannot be lost.
fn is_archived(
    repository: &Repository,
    place: &Place,
    wal: &Path,
    name: WalFileName,
) -> Result<bool> {
    let path = wal.join(name.to_string());
    let key = match name {
        WalFileName::Segment(segment) => place.wal(&segment.to_string()),
        WalFileName::History(timeline) => Some(place.history(timeline.get())),
        WalFileName::Partial(segment) => return has_partial(repository, place, &path, segment),
        // No recovery needs what a base backup left behind.
        WalFileName::BackupHistory { .. } => return Ok(true),
    };
    let kind = if matches!(name, WalFileName::History(_)) { Kind::History } else { Kind::Wal };
    let Some(key) = key else { return Ok(true) };
    let Some(digest) = digest_of(repository, &path)? else { return Ok(true) };
    match repository.wal_facts(kind, &key) {
        Ok(facts) => Ok(facts.digest == digest),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A partial segment goes into the archive up to its last record, or as the whole one that it became.
fn has_partial(
    repository: &Repository,
    place: &Place,
    path: &Path,
    segment: SegmentName,
) -> Result<bool> {
    if path.symlink_metadata().is_err() {
        return Ok(true);
    }
    let name = segment.to_string();
    if repository.partials(place)?.iter().any(|(stored, _)| *stored == name) {
        return Ok(true);
    }
    let Some(key) = place.wal(&name) else { return Ok(true) };
    match repository.wal_facts(Kind::Wal, &key) {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn digest_of(repository: &Repository, path: &Path) -> Result<Option<String>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::file("open", path))?,
    };
    let mut digest = repository.digest();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(Some(digest.finish())),
            Ok(count) => digest.add(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::file("read", path)(error)),
        }
    }
}

/// The last segment that the server wrote into, where the archive does not have it. Files with later names are
/// old ones that wait to be used again: what they say of themselves is their old place.
fn newest(
    wal: &Path,
    archived: &ArchivedWal,
    ready: &BTreeSet<WalFileName>,
) -> Result<Option<SegmentName>> {
    let size = archived.segment_size();
    for name in names(wal, "")?.into_iter().rev() {
        let WalFileName::Segment(segment) = name else { continue };
        let Ok(number) = segment.number(size) else { continue };
        let path = wal.join(name.to_string());
        let mut begin = Vec::new();
        let file = File::open(&path).map_err(Error::file("open", &path))?;
        let limit = LONG_HEADER_BYTES as u64;
        file.take(limit).read_to_end(&mut begin).map_err(Error::file("read", &path))?;
        let is_in_place = SegmentHeader::parse(&begin)
            .is_ok_and(|header| Some(Lsn(header.address)) == number.begin(size));
        if is_in_place {
            let is_there = ready.contains(&name) || archived.has(segment.timeline(), number);
            return Ok((!is_there).then_some(segment));
        }
    }
    Ok(None)
}
