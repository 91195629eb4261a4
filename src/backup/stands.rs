//! All that a backup stands on: its parent's chain, and attempts that died, whose packs it may use.
//!
//! An interrupted backup is not continued but used: the next one begins anew, and takes what the dead attempt has
//! stored like a parent's blocks. What nobody has touched since the attempt's own start is not even read, where
//! all of it is in durable packs.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::{Error, Result};
use super::options::Options;
use super::parent::Parent;
use super::read::directory_identity;
use crate::base::Ctx;
use crate::codec::crc32c_join;
use crate::pg::{SegmentNo, SegmentSize, TimelineId};
use crate::pgconn::ServerFacts;
use crate::repo::{
    self, Attempt, AttemptContents, BackupType, Backups, Base, Begin, Content, HashReader,
    HashScheme, Layer, Place, Repository, Reused, Row, RowKind, Source,
};

/// Dead attempts that are used at most, the newest ones. Each has what the ones before it lacked, so a backup that
/// is interrupted again and again needs all of them to come to an end; each costs the reading of its lists, and 8 MiB
/// for its hashes at most.
const ATTEMPTS_MAX: usize = 16;

/// What a backup stands on.
#[derive(Debug, Clone)]
pub(super) struct Stands {
    pub(super) parent: Option<Arc<Parent>>,
    attempts: Vec<Arc<Attempt>>,
}

impl Stands {
    /// A backup with this parent, if any. Looks for attempts that died where this one is made: they read the same
    /// directory. Whether they are dead is known once the server has taken this one.
    pub(super) fn find(
        ctx: &Ctx,
        options: &Options,
        (repository, place, backups): (&Repository, &Place, &Backups),
        facts: &ServerFacts,
        parent: Option<Arc<Parent>>,
    ) -> Result<Self> {
        let mut stands = Self { parent, attempts: Vec::new() };
        if !options.resumes {
            return Ok(stands);
        }
        let here = Here::of(options, facts.in_recovery);
        let used = used_attempts(repository, place, backups)?;
        let died = backups.unfinished.iter().chain(&backups.abandoned);
        // One that is in use already would tie two backups together that nobody thinks of as one.
        let free = died.filter(|id| !used.contains(*id) && !here.is_overtaken(id, backups));
        let mut begun: Vec<Begin> = Vec::new();
        for id in free {
            let Some(begin) = gift(ctx, id, repository.get_begin(place, id))? else { continue };
            let is_like = match &stands.parent {
                Some(parent) => begin.hash == parent.hash(),
                None => begin.backup_type == BackupType::Full && begin.hash.is_known(),
            };
            if is_like && here.is_where(&begin) {
                begun.push(begin);
            }
        }
        begun.sort_by_key(|begin| std::cmp::Reverse(begin.started));
        for begin in begun {
            // A full has no parent that says how blocks are hashed: the newest attempt does.
            let first = stands.attempts.first();
            let is_same = first.is_none_or(|first| first.begin().hash == begin.hash);
            if !is_same || stands.attempts.len() == ATTEMPTS_MAX {
                continue;
            }
            let opened = repository.open_attempt(ctx, place, &begin.id, facts.block_size);
            stands.attempts.extend(gift(ctx, &begin.id, opened)?.flatten().map(Arc::new));
        }
        Ok(stands)
    }

    /// The dead attempts that it may use.
    pub(super) fn attempts(&self) -> &[Arc<Attempt>] {
        &self.attempts
    }

    /// How many bases it has.
    pub(super) fn base_count(&self) -> usize {
        self.parent.as_ref().map_or(0, |parent| parent.bases.len()) + self.attempts.len()
    }

    /// How blocks have to be hashed so that those that are stored can be told; any way where none is.
    pub(super) fn hash(&self) -> Option<HashScheme> {
        let parent = self.parent.as_ref().map(|parent| parent.hash());
        parent.or_else(|| Some(self.attempts.first()?.begin().hash.clone()))
    }

    /// Takes the manifests' names of the attempts, so that none of them is ever completed, and lets go of those that
    /// cannot be had: one that has been completed after all is no attempt, and one whose name cannot be taken may be.
    pub(super) fn settle_attempts(
        &mut self,
        ctx: &Ctx,
        (repository, place): (&Repository, &Place),
        by: &repo::BackupId,
    ) -> Result<()> {
        let mut dead = Vec::new();
        for attempt in std::mem::take(&mut self.attempts) {
            match seal(ctx, (repository, place), attempt.id(), by) {
                Ok(true) => dead.push(attempt),
                Ok(false) => {}
                Err(error @ repo::Error::Cancelled(_)) => return Err(error.into()),
                Err(error) => {
                    let id = attempt.id();
                    ctx.warn(format!(
                        "what {id} has stored, which was interrupted, is not used: {error}"
                    ));
                }
            }
        }
        if !dead.is_empty() {
            // Whoever has been completed since the plan may use some.
            let used = used_attempts(repository, place, &repository.backups(ctx, place)?)?;
            dead.retain(|attempt| !used.contains(attempt.id()));
        }
        self.attempts = dead;
        Ok(())
    }

    /// Looks, now that the begin record is put, whether what this backup stands on is there and stays: expiry looks
    /// for begin records after it has recorded what it removes. Attempts that are removed are let go.
    ///
    /// # Errors
    /// [`Error::Parent`] for a parent that is removed; [`Error::Refused`] where the server's WAL has expired.
    pub(super) fn require_kept(
        &mut self,
        ctx: &Ctx,
        (repository, place): (&Repository, &Place),
        begin: &Begin,
    ) -> Result<()> {
        let kept = repository.kept(ctx, place)?;
        if let Some(parent) = &self.parent {
            let gone = |what: String| Error::Parent { what };
            if let Some(why) = kept.unreadable.first() {
                let what = "whether its parent is being removed cannot be told";
                return Err(gone(format!("{what}: {why}")));
            }
            let chain = parent.bases.iter().filter(|base| !base.attempt);
            for id in chain.map(|base| &base.id) {
                if kept.is_removing(id) {
                    return Err(gone(format!("{id}, on which it would stand, is being removed")));
                }
                match repository.summary(place, id) {
                    Err(error) if error.is_about_one_object() => {
                        return Err(gone(format!(
                            "{id}, on which it would stand, is gone: {error}"
                        )));
                    }
                    other => drop(other?),
                }
            }
        }
        self.attempts
            .retain(|attempt| kept.unreadable.is_empty() && !kept.is_removing(attempt.id()));
        let size = repository.registration(place)?.wal_segment_size;
        let Ok(size) = SegmentSize::new(size.into()) else { return Ok(()) };
        let expired = kept.newest.as_ref().map(|keep| keep.expired_wal(size));
        let (timeline, number) =
            (TimelineId::new(begin.timeline), SegmentNo::of(begin.wal_from, size));
        let is_expired = expired.zip(timeline).is_some_and(|(wal, on)| wal.has(on, number));
        if is_expired {
            let at = begin.wal_from;
            return Err(Error::Refused {
                what: format!(
                    "the server is at {at}, and WAL from there has expired: its disk was set back, or another \
                     server archived here; if its history is to go on, begin an epoch (pgkeep init --new-epoch)"
                ),
            });
        }
        Ok(())
    }

    /// The number of the first attempt among the bases.
    pub(super) fn first_attempt(&self) -> u32 {
        let below = self.parent.as_ref().map_or(0, |parent| parent.bases.len());
        u32::try_from(below).unwrap_or(u32::MAX)
    }

    /// Whether a base is an attempt of this backup's own, not one that its parent used.
    pub(super) fn attempt(&self, base: u32) -> Option<&Attempt> {
        let at = base.checked_sub(self.first_attempt())?;
        self.attempts.get(at as usize).map(|attempt| &**attempt)
    }

    /// The bases, with how much of each is used.
    pub(super) fn bases(&self, used: &[u64]) -> Vec<Base> {
        let below = self.parent.iter().flat_map(|parent| parent.bases.iter().cloned());
        let attempts = (self.first_attempt()..).zip(&self.attempts);
        let attempts = attempts.map(|(index, attempt)| attempt.as_base(index));
        let mut bases: Vec<Base> = below.chain(attempts).collect();
        for (base, used) in bases.iter_mut().zip(used) {
            base.used = *used;
        }
        bases
    }

    /// The objects of attempts that lie below these packs, and whose they are.
    pub(super) fn reused(
        &self,
        packs: &BTreeSet<(u32, u32)>,
    ) -> (Vec<Reused>, Vec<repo::BackupId>) {
        let (mut reused, mut ids) = (Vec::new(), BTreeSet::new());
        for (base, pack) in packs {
            if let Some(attempt) = self.attempt(*base) {
                reused.extend(attempt.reused(*base, *pack));
                ids.insert(attempt.id().clone());
            }
        }
        (reused, ids.into_iter().collect())
    }

    /// The hashes of a pack's blocks.
    pub(super) fn hashes(&self, base: Option<u32>, pack: u32) -> Result<Option<Arc<HashReader>>> {
        if let Some(attempt) = base.and_then(|base| self.attempt(base)) {
            return Ok(Some(attempt.hashes(pack)?));
        }
        let Some(parent) = &self.parent else { return Ok(None) };
        Ok(Some(parent.hashes(base, pack).map_err(|error| parent.damaged(error))?))
    }

    /// What the attempts have of each file.
    pub(super) fn salvage(&self) -> Salvage<'_> {
        let contents = (self.first_attempt()..).zip(&self.attempts);
        let contents = contents.map(|(base, attempt)| (base, attempt.contents()));
        Salvage { attempts: contents.collect() }
    }
}

/// Whether an attempt's name is taken for good: not when it was completed meanwhile.
fn seal(
    ctx: &Ctx,
    (repository, place): (&Repository, &Place),
    id: &repo::BackupId,
    by: &repo::BackupId,
) -> repo::Result<bool> {
    let why = format!("it was interrupted, and {by} uses what it had stored");
    match repository.abandon(ctx, place, id, &why) {
        Ok(()) => Ok(true),
        Err(repo::Error::Storage(error)) if error.is_already_exists() => {
            match repository.summary(place, id) {
                Err(repo::Error::Abandoned { .. }) => Ok(true),
                Ok(_) => Ok(false),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// What is left of an attempt is a gift: one that cannot be read is none.
fn gift<T>(ctx: &Ctx, id: &repo::BackupId, read: repo::Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.is_about_one_object() => {
            ctx.note(format!("{id}, which was interrupted, is not used: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The attempts that complete backups use, and those that backups may use whose manifests cannot be read.
fn used_attempts(
    repository: &Repository,
    place: &Place,
    backups: &Backups,
) -> Result<BTreeSet<repo::BackupId>> {
    let complete = backups.complete.iter().flat_map(|backup| &backup.attempts);
    let mut used: BTreeSet<repo::BackupId> = complete.cloned().collect();
    for (name, _) in &backups.unreadable {
        let Ok(id) = name.parse::<repo::BackupId>() else { continue };
        match repository.get_begin(place, &id) {
            Ok(begin) => used.extend(begin.attempts),
            Err(error) if error.is_about_one_object() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(used)
}

/// What a backup reads.
struct Here {
    host: String,
    is_known: bool,
    directory: String,
    identity: Option<String>,
    is_standby: bool,
}

impl Here {
    fn of(options: &Options, is_standby: bool) -> Self {
        Self {
            host: options.host.to_string(),
            is_known: options.host.has_identity(),
            directory: options.data_directory.display().to_string(),
            identity: directory_identity(&options.data_directory),
            is_standby,
        }
    }

    /// Whether an attempt read the same directory. The first pods of two sites have one name, and one path: where
    /// neither directory nor host can be told, it is another; and so it is where the server has another role, for a
    /// volume that was copied block by block has the identity of its origin.
    fn is_where(&self, begin: &Begin) -> bool {
        if begin.standby != self.is_standby {
            return false;
        }
        match (&self.identity, &begin.directory_identity) {
            (Some(own), Some(theirs)) => own == theirs,
            _ => self.is_known && begin.host == self.host && begin.directory == self.directory,
        }
    }

    /// Whether a backup of its type was completed here that began later: that one is newer, and all of it is there.
    fn is_overtaken(&self, id: &repo::BackupId, backups: &Backups) -> bool {
        backups.complete.iter().any(|backup| {
            backup.backup_type == id.backup_type()
                && backup.server.data_directory == self.directory
                && backup.id.own_time() > id.own_time()
        })
    }
}

/// What attempts have of files, asked for in the order of paths.
pub(super) struct Salvage<'a> {
    attempts: Vec<(u32, AttemptContents<'a>)>,
}

/// What one attempt has of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Salvaged {
    /// As the attempt read it; where it does not have all blocks, those that it has.
    pub(super) row: Row,
    /// It has all, and found nothing invalid: the row could be one of this backup.
    pub(super) is_whole: bool,
    /// Which attempt.
    pub(super) base: u32,
}

impl Salvage<'_> {
    /// What the attempts have of a file, the newest first.
    pub(super) fn of(&mut self, path: &[u8], block_size: u64) -> Result<Vec<Salvaged>> {
        let mut found = Vec::new();
        for (base, contents) in &mut self.attempts {
            found.extend(joined(*base, contents.of(path)?, block_size));
        }
        Ok(found)
    }
}

/// A file of what an attempt's packs say of it.
fn joined(base: u32, contents: Vec<(u32, Content)>, block_size: u64) -> Option<Salvaged> {
    let source = contents.first()?.1.source.clone();
    let is_one = contents.iter().all(|(_, content)| content.source == source);
    let mut stretches: Vec<_> = contents
        .into_iter()
        .flat_map(|(pack, content)| content.stretches.into_iter().map(move |each| (pack, each)))
        .collect();
    stretches.sort_by_key(|(_, stretch)| stretch.block);
    let (mut layers, mut next, mut crc) = (Vec::new(), 0u64, 0);
    let mut has_gaps = false;
    for (pack, stretch) in stretches {
        let begin = u64::from(stretch.block);
        if begin < next {
            continue;
        }
        has_gaps |= begin > next;
        next = begin + u64::from(stretch.count);
        let length = (next * block_size).min(source.size).saturating_sub(begin * block_size);
        crc = crc32c_join(crc, stretch.crc, length);
        let place = stretch.raw.map(|raw| Source::Pack { base: Some(base), pack, raw });
        let layer = Layer {
            block: stretch.block,
            count: stretch.count,
            source: place.unwrap_or(Source::Zeros),
        };
        layer.join(&mut layers);
    }
    let is_whole =
        is_one && !has_gaps && !source.is_damaged && next == source.size.div_ceil(block_size);
    let row = Row {
        path: source.path,
        kind: RowKind::File,
        size: source.size,
        mode: source.mode,
        uid: source.uid,
        gid: source.gid,
        mtime: source.mtime,
        identity: source.identity,
        crc: Some(crc),
        target: None,
        layers,
        gone: false,
    };
    Some(Salvaged { row, is_whole, base })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use crate::repo::{ContentSource, Stretch};

    fn content(size: u64, stretches: &[(u32, u32, Option<u32>)], bytes: &[u8]) -> Content {
        let stretch = |&(block, count, raw): &(u32, u32, Option<u32>)| {
            let begin = block as usize * 4;
            let end = (begin + count as usize * 4).min(bytes.len());
            Stretch { block, count, raw, crc: crc32c::crc32c(&bytes[begin..end]) }
        };
        let source = ContentSource {
            path: b"base/5/1".to_vec(),
            size,
            mtime: Timestamp::UNIX_EPOCH,
            mode: 0o600,
            uid: 1,
            gid: 2,
            identity: None,
            is_damaged: false,
        };
        Content { source, stretches: stretches.iter().map(stretch).collect() }
    }

    #[test]
    fn a_file_is_whole_when_packs_and_zeros_cover_it() {
        let bytes = b"aaaabbbb\0\0\0\0\0\0\0\0cc";
        let size = bytes.len() as u64;
        let first = content(size, &[(2, 2, None), (4, 1, Some(7))], bytes);
        let second = content(size, &[(0, 2, Some(3))], bytes);
        let whole = joined(5, vec![(0, first.clone()), (1, second.clone())], 4).unwrap();
        assert!(whole.is_whole && whole.row.is_covered(4));
        assert_eq!(whole.row.crc, Some(crc32c::crc32c(bytes)));
        let at = |pack, raw| Source::Pack { base: Some(5), pack, raw };
        let sources: Vec<Source> = whole.row.layers.iter().map(|layer| layer.source).collect();
        assert_eq!(sources, [at(1, 3), Source::Zeros, at(0, 7)]);

        let part = joined(5, vec![(0, first.clone())], 4).unwrap();
        assert!(!part.is_whole && part.row.layers.len() == 2);
        let cut = joined(5, vec![(1, second.clone())], 4).unwrap();
        assert!(!cut.is_whole, "the end is missing");
        let mut other = second.clone();
        other.source.mode = 0o640;
        assert!(!joined(5, vec![(0, first.clone()), (1, other)], 4).unwrap().is_whole);
        let mut damaged = (first, second);
        damaged.0.source.is_damaged = true;
        damaged.1.source.is_damaged = true;
        assert!(!joined(5, vec![(0, damaged.0), (1, damaged.1)], 4).unwrap().is_whole);
        assert_eq!(joined(5, Vec::new(), 4), None);
    }

    #[test]
    fn d2026_11_29_an_attempt_is_of_here_by_its_directory_or_by_a_host_that_has_an_identity() {
        let begin = |host: &str, identity: Option<&str>| Begin {
            id: "20261129-020000F".parse().unwrap(),
            backup_type: BackupType::Full,
            parent: None,
            started: Timestamp::UNIX_EPOCH,
            host: host.into(),
            pid: 1,
            tool: String::new(),
            timeline: 1,
            wal_from: crate::pg::Lsn(0),
            hash: HashScheme { algorithm: String::new(), key: [0; 32] },
            directory: "/data".into(),
            directory_identity: identity.map(str::to_owned),
            standby: false,
            attempts: Vec::new(),
            lease: None,
            copied: false,
        };
        let here = |is_known, identity: Option<&str>| Here {
            host: "postgres-0".into(),
            is_known,
            directory: "/data".into(),
            identity: identity.map(str::to_owned),
            is_standby: false,
        };
        let of_standby = Begin { standby: true, ..begin("backup-28391", Some("a")) };
        assert!(!here(false, Some("a")).is_where(&of_standby), "a standby on a copied volume");
        // The directory decides, whatever the host is called, and whatever it says of itself.
        assert!(here(false, Some("a")).is_where(&begin("backup-28391", Some("a"))));
        assert!(!here(true, Some("a")).is_where(&begin("postgres-0", Some("b"))));
        // Pods of one name on two sites.
        assert!(!here(false, None).is_where(&begin("postgres-0", None)));
        assert!(!here(false, Some("a")).is_where(&begin("postgres-0", None)));
        assert!(here(true, None).is_where(&begin("postgres-0", Some("a"))));
        assert!(!here(true, None).is_where(&begin("other", None)));
        let elsewhere = Begin { directory: "/other".into(), ..begin("postgres-0", None) };
        assert!(!here(true, None).is_where(&elsewhere));
    }
}
