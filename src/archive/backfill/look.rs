//! What one file holds, and what each repository has under its name. Reads, and stores nothing.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::decide::{Archived, Content, Histories, Seen};
use super::directory::WalDirectory;
use crate::archive::Destination;
use crate::archive::error::{Error, Result};
use crate::archive::pass::pass;
use crate::archive::provenance::Provenance;
use crate::archive::push::{ancestor_on_first_page, check_history};
use crate::base::Ctx;
use crate::pg::wal::{self, Ending, Expected, LONG_HEADER_BYTES, SegmentHeader};
use crate::pg::{Lsn, SegmentName, TimelineId, WalFileName};
use crate::repo::{self, Kind};
use crate::storage::ObjectKey;

/// Histories are some lines.
const HISTORY_BYTES_MAX: u64 = 1 << 20;

/// A file, and how it is to be looked at.
pub(super) struct Looking<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) destinations: &'a [Destination],
    pub(super) directory: &'a WalDirectory,
    pub(super) from: &'a Provenance,
    pub(super) histories: &'a Histories,
}

impl Looking<'_> {
    /// What is seen of the file. What is wrong with it is part of that; an error is a repository's.
    pub(super) fn look(&self, name: WalFileName) -> Result<Seen> {
        self.ctx.cancel.check()?;
        let path = self.directory.path_of(&name);
        let archived = vec![Archived::default(); self.destinations.len()];
        let mut seen = Seen { name, bytes: 0, content: Content::History, archived };
        let file = match regular(&path) {
            Ok((file, bytes)) => {
                seen.bytes = bytes;
                file
            }
            Err(why) => return Ok(Seen { content: Content::Unusable(why), ..seen }),
        };
        match name {
            WalFileName::History(timeline) => self.history(&mut seen, timeline)?,
            WalFileName::Segment(segment) | WalFileName::Partial(segment) => {
                match self.header(&file, segment, seen.bytes) {
                    Ok(header) => self.segment(&mut seen, (&file, &path), segment, &header)?,
                    Err(content) => seen.content = content,
                }
            }
            WalFileName::BackupHistory { .. } => {}
        }
        Ok(seen)
    }

    fn history(&self, seen: &mut Seen, timeline: TimelineId) -> Result<()> {
        let Some(content) = self.histories.local.get(&timeline) else {
            seen.content = Content::Unusable("it cannot be read".into());
            return Ok(());
        };
        if let Err(error) = check_history(timeline, &self.directory.path_of(&seen.name), content) {
            seen.content = Content::Unusable(error.to_string());
        }
        for (there, stored) in seen.archived.iter_mut().zip(&self.histories.stored) {
            there.same = stored.get(&timeline).map(|stored| stored == content);
        }
        Ok(())
    }

    /// The header, if it is that of this cluster's segment of the name.
    fn header(
        &self,
        file: &File,
        segment: SegmentName,
        bytes: u64,
    ) -> std::result::Result<SegmentHeader, Content> {
        let unusable = |error: &dyn ToString| Content::Unusable(error.to_string());
        let size = self.from.segment_size;
        let bounds = segment.number(size).map_err(|error| unusable(&error))?;
        let bounds = bounds.begin(size).zip(bounds.end(size));
        let (begin, end) = bounds.ok_or_else(|| unusable(&"its position is past the log's end"))?;
        let mut first = [0; LONG_HEADER_BYTES];
        let there = usize::try_from(bytes).unwrap_or(usize::MAX).min(first.len());
        let first = first.get_mut(..there).unwrap_or_default();
        file.read_exact_at(first, 0).map_err(|error| unusable(&error))?;
        let header = SegmentHeader::parse(first).map_err(Content::Other)?;
        let ancestor = self.ancestor(segment.timeline(), (begin, end));
        let expected = Expected {
            system_id: Some(self.from.system),
            address: begin.0,
            segment_bytes: size.bytes(),
            timeline: segment.timeline().get(),
            ancestors: &ancestor,
            accept_unknown_magic: self.from.accept_unknown_wal,
        };
        header.check(&expected, bytes).map_err(Content::Other)?;
        Ok(header)
    }

    fn ancestor(&self, timeline: TimelineId, (begin, end): (Lsn, Lsn)) -> Vec<u32> {
        let history = self.histories.find(timeline);
        let ancestor = history.and_then(|history| ancestor_on_first_page(&history, begin, end));
        ancestor.into_iter().collect()
    }

    /// Reads the segment once for each repository that has one of its name, whose key tells whether the
    /// contents are the same; else once for its records.
    fn segment(
        &self,
        seen: &mut Seen,
        file: (&File, &Path),
        segment: SegmentName,
        header: &SegmentHeader,
    ) -> Result<()> {
        let mut read = None;
        for (destination, there) in self.destinations.iter().zip(&mut seen.archived) {
            let key = destination.place.wal(&segment.to_string());
            let Some(digest) = self.digest(destination, Kind::Wal, key)? else { continue };
            match pass(
                file,
                header,
                segment.timeline().get(),
                destination.repository.digest(),
                None,
                true,
            ) {
                Ok(passed) => {
                    there.same = Some(passed.digest == digest);
                    read = Some(passed.findings);
                }
                Err(error) => return unusable(seen, &error),
            }
        }
        let findings = match (read, self.destinations.first()) {
            (Some(findings), _) => findings,
            (None, None) => return Err(Error::NoRepository),
            (None, Some(first)) => {
                let digest = first.repository.digest();
                match pass(file, header, segment.timeline().get(), digest, None, true) {
                    Ok(passed) => passed.findings,
                    Err(error) => return unusable(seen, &error),
                }
            }
        };
        seen.content = Content::Segment(findings.ending);
        let is_partial = matches!(seen.name, WalFileName::Partial(_));
        if is_partial || matches!(findings.ending, Ending::Partial(_)) {
            for (destination, there) in self.destinations.iter().zip(&mut seen.archived) {
                let key = destination.place.partial(&segment.to_string(), findings.end);
                there.partial = self.digest(destination, Kind::Partial, key)?.is_some();
            }
        }
        Ok(())
    }

    fn digest(
        &self,
        destination: &Destination,
        kind: Kind,
        key: Option<ObjectKey>,
    ) -> Result<Option<String>> {
        let Some(key) = key else { return Ok(None) };
        match destination.repository.wal_facts(kind, &key) {
            Ok(facts) => Ok(Some(facts.digest)),
            Err(error) if error.is_not_found() => Ok(None),
            // It holds the name; what it says is no longer known, so it is not this content.
            Err(repo::Error::Corrupt { .. }) => Ok(Some(String::new())),
            Err(source) => Err(Error::Repository { repository: destination.name.clone(), source }),
        }
    }
}

fn unusable(seen: &mut Seen, error: &Error) -> Result<()> {
    seen.content = Content::Unusable(error.to_string());
    Ok(())
}

/// Opens a regular file: nothing else is waited for or followed.
fn regular(path: &Path) -> std::result::Result<(File, u64), String> {
    let found = path.symlink_metadata().map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err("it is no regular file".into());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    Ok((file, found.len()))
}

/// A history's bytes, of a regular file that is no longer than one.
pub(super) fn read_history(path: &Path) -> Option<Vec<u8>> {
    let (_, bytes) = regular(path).ok()?;
    (bytes <= HISTORY_BYTES_MAX).then(|| std::fs::read(path).ok())?
}

/// Whether a header says that the file is of another cluster.
pub(super) fn is_foreign(seen: &Seen) -> bool {
    matches!(seen.content, Content::Other(wal::Error::WrongSystem { .. }))
}
