//! On which backup the next one stands, and why on none.
//!
//! Content decides what is stored, so a wrong parent could not make a wrong backup. It would make one that nobody
//! expects: a chain across a fork of history, or of two kinds of pages. Those are refused, and a full offered.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::{Error, Result};
use crate::base::{Ctx, Timestamp};
use crate::pg::{History, Lsn, TimelineId};
use crate::pgconn::ServerFacts;
use crate::repo::manifest::Damage;
use crate::repo::{
    self, BackupId, BackupType, Backups, Base, HashReader, HashScheme, OpenedBackup, Place,
    Repository, Rows, Summary,
};

/// What a server is, as far as a parent must fit it.
#[derive(Debug, Clone)]
pub(super) struct Server {
    system: u64,
    major: u32,
    block_size: u32,
    wal_segment_size: u32,
    relation_segment_blocks: u32,
    checksums: bool,
    in_recovery: bool,
    /// Up to where WAL is written or replayed.
    now: Option<Lsn>,
    /// The history of the timeline that it writes or replays.
    history: History,
}

impl Server {
    pub(super) fn of(facts: &ServerFacts, history: History) -> Self {
        Self {
            system: facts.system_identifier,
            major: u32::try_from(facts.server_version / 10_000).unwrap_or_default(),
            block_size: facts.block_size,
            wal_segment_size: facts.wal_segment_size,
            relation_segment_blocks: facts.blocks_per_segment,
            checksums: facts.data_checksums,
            in_recovery: facts.in_recovery,
            now: facts.wal.lsn.map(Lsn),
            history,
        }
    }
}

/// What a backup stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing; why, where that is not what was asked for.
    Alone(Option<String>),
    /// This backup.
    On(BackupId),
}

/// Chooses the parent of a backup of this type.
///
/// # Errors
/// [`Error::Parent`] where the one that is meant does not fit.
pub(super) fn choose(wanted: BackupType, backups: &Backups, server: &Server) -> Result<Standing> {
    let mut newest_first = backups.complete.iter().rev();
    let found = match wanted {
        BackupType::Full => return Ok(Standing::Alone(None)),
        BackupType::Differential => {
            newest_first.find(|backup| backup.backup_type == BackupType::Full)
        }
        BackupType::Incremental => newest_first.next(),
    };
    let Some(parent) = found else {
        let what = match (wanted, backups.unreadable.len()) {
            (BackupType::Differential, 0) => "there is no full backup yet",
            (_, 0) => "there is no backup yet",
            _ => "no backup that can be read is there",
        };
        return Ok(Standing::Alone(Some(format!("{what}: this one is a full"))));
    };
    match why_not(parent, server) {
        None => Ok(Standing::On(parent.id.clone())),
        Some(why) => {
            let what = format!("{} cannot be the parent: {why}", parent.id);
            Err(Error::Parent { what })
        }
    }
}

/// Why a backup cannot be the parent of one of this server.
fn why_not(parent: &Summary, server: &Server) -> Option<String> {
    let record = &parent.server;
    if parent.system != server.system {
        return Some(format!(
            "it is of system {}, the server is system {}",
            parent.system, server.system
        ));
    }
    let theirs = record.version_num / 10_000;
    if theirs != server.major {
        let ours = server.major;
        return Some(format!("it is of PostgreSQL {theirs}, the server is PostgreSQL {ours}"));
    }
    let sizes = [
        ("blocks of", record.block_size, server.block_size),
        ("WAL segments of", record.wal_segment_size, server.wal_segment_size),
        ("relation segments of", record.relation_segment_blocks, server.relation_segment_blocks),
    ];
    for (what, theirs, ours) in sizes {
        if theirs != ours {
            return Some(format!("it has {what} {theirs}, the server has {ours}"));
        }
    }
    if !parent.hash.is_known() {
        let theirs = &parent.hash.algorithm;
        return Some(format!("its blocks are hashed by {theirs}, which this pgkeep does not know"));
    }
    if record.checksums != server.checksums {
        let state = |on| if on { "on" } else { "off" };
        return Some(format!(
            "data checksums were {} when it was taken, and are {} now",
            state(record.checksums),
            state(server.checksums)
        ));
    }
    off_the_way(parent, &server.history).or_else(|| set_back(parent, server))
}

/// Whether the server's history does not lead over the parent's end.
pub(super) fn off_the_way(parent: &Summary, history: &History) -> Option<String> {
    let ours = history.timeline();
    let Some(theirs) = TimelineId::new(parent.timeline_stop) else {
        return Some("its timeline is 0".into());
    };
    if history.contains_until(theirs, parent.stop_lsn) {
        return None;
    }
    Some(match history.switch_point(theirs) {
        Some(switch) => format!(
            "it ends at {} on timeline {theirs}, which the server's timeline {ours} left at {switch} before \
             that",
            parent.stop_lsn
        ),
        None => format!("the server's timeline {ours} does not descend from its timeline {theirs}"),
    })
}

/// Whether a primary has not come to the end of a backup of its own timeline: then what followed was undone. A
/// standby may lag.
fn set_back(parent: &Summary, server: &Server) -> Option<String> {
    let now = server.now?;
    let is_own = parent.timeline_stop == server.history.timeline().get();
    (is_own && !server.in_recovery && now < parent.stop_lsn).then(|| {
        format!(
            "it ends at {}, and the server's WAL only at {now}: its disk was set back, or pg_resetwal \
             was run",
            parent.stop_lsn
        )
    })
}

/// The history of the timeline that the server is on.
///
/// # Errors
/// [`Error::Parent`] where nobody has its history file: where it comes from is not known then.
pub(super) fn history_of(
    repository: &Repository,
    place: &Place,
    data_directory: &std::path::Path,
    facts: &ServerFacts,
) -> Result<History> {
    let number = facts.wal.timeline.unwrap_or(facts.checkpoint_timeline);
    history(repository, place, data_directory, number)
}

/// The history of a timeline: from the server's own file, or else from the archive.
pub(super) fn history(
    repository: &Repository,
    place: &Place,
    data_directory: &std::path::Path,
    number: u32,
) -> Result<History> {
    let Some(timeline) = TimelineId::new(number) else {
        return Err(Error::Refused { what: "the server gave timeline 0".into() });
    };
    if timeline == TimelineId::FIRST {
        return Ok(History::without_ancestors(timeline));
    }
    let path = data_directory.join("pg_wal").join(timeline.history_file_name());
    let content = match std::fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            match repository.get_wal(repo::Kind::History, &place.history(number)) {
                Ok((_, content)) => content,
                Err(error) if error.is_not_found() => {
                    let name = timeline.history_file_name();
                    let what = format!(
                        "{name} is neither in pg_wal nor in the repository: where timeline {number} comes from is not known"
                    );
                    return Err(Error::Parent { what });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(error) => return Err(Error::file("read", &path)(error)),
    };
    History::parse(timeline, &content).map_err(|source| Error::Content { path, source })
}

/// The backup that the next one stands on, opened.
#[derive(Debug)]
pub(super) struct Parent {
    opened: OpenedBackup,
    /// The bases of the backup that stands on it; the last one is the parent.
    pub(super) bases: Vec<Base>,
    index: u32,
    /// Pages that it knew to be invalid, by path.
    damage: HashMap<String, Vec<Damage>>,
}

impl Parent {
    /// Opens a backup, and looks whether all that it and those below it consist of is there.
    ///
    /// # Errors
    /// [`Error::Parent`] where something is missing or damaged.
    pub(super) fn open(
        ctx: &Ctx,
        repository: &Repository,
        place: &Place,
        id: &BackupId,
    ) -> Result<Arc<Self>> {
        let unusable = |error: repo::Error| match error {
            error if error.is_of_content() || error.is_cold() => {
                Error::Parent { what: format!("{id} cannot be the parent: {error}") }
            }
            error => error.into(),
        };
        let opened = repository.open_backup(place, id).map_err(unusable)?;
        for manifest in opened.chain() {
            ctx.cancel.check()?;
            repository.require_objects(place, manifest).map_err(unusable)?;
        }
        let bases = opened.as_bases();
        let index = u32::try_from(bases.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let mut damage: HashMap<String, Vec<Damage>> = HashMap::new();
        for known in &opened.manifest().damage {
            damage.entry(known.path.clone()).or_default().push(known.clone());
        }
        Ok(Arc::new(Self { opened, bases, index, damage }))
    }

    pub(super) fn summary(&self) -> &Summary {
        &self.opened.manifest().summary
    }

    /// Its blocks' hashes go on in the child.
    pub(super) fn hash(&self) -> HashScheme {
        self.summary().hash.clone()
    }

    /// Before its call of pg_backup_start, by the clock of the host that read the files.
    pub(super) fn started(&self) -> Timestamp {
        self.summary().started
    }

    /// Whether it lists all pages that it knew to be invalid: the list has an end.
    pub(super) fn lists_all_damage(&self) -> bool {
        let listed: usize = self.damage.values().map(Vec::len).sum();
        self.summary().totals.invalid_pages <= listed as u64
    }

    /// Pages of a file that it knew to be invalid.
    pub(super) fn damage_of(&self, path: &str) -> &[Damage] {
        self.damage.get(path).map_or(&[], Vec::as_slice)
    }

    /// Its rows, in order, as the child sees them.
    pub(super) fn rows(&self) -> Result<ParentRows<'_>> {
        let rows = self.opened.rows().map_err(|error| self.damaged(error))?;
        Ok(ParentRows { parent: self, rows })
    }

    /// The hashes of a pack's blocks, by the child's numbers.
    pub(super) fn hashes(&self, base: Option<u32>, pack: u32) -> repo::Result<Arc<HashReader>> {
        self.opened.hashes(base.filter(|base| *base != self.index), pack)
    }

    /// An error that was met while it was read.
    pub(super) fn damaged(&self, error: repo::Error) -> Error {
        match error {
            error if error.is_of_content() => {
                let id = &self.summary().id;
                Error::Parent { what: format!("{id}, the parent, is damaged: {error}") }
            }
            error if error.is_cold() => {
                let id = &self.summary().id;
                Error::Parent { what: format!("{id}, the parent, cannot be read: {error}") }
            }
            error => error.into(),
        }
    }
}

/// Reads a parent's rows.
pub(super) struct ParentRows<'a> {
    parent: &'a Parent,
    rows: Rows,
}

impl ParentRows<'_> {
    pub(super) fn next_row(&mut self) -> Result<Option<repo::Row>> {
        let row = self.rows.next_row().map_err(|error| self.parent.damaged(error))?;
        let Some(row) = row else { return Ok(None) };
        if row.kind == repo::RowKind::File
            && !row.is_covered(self.parent.summary().server.block_size)
        {
            let path = String::from_utf8_lossy(&row.path);
            let id = &self.parent.summary().id;
            let what = format!("{id}, the parent, is damaged: its row of {path} leaves blocks out");
            return Err(Error::Parent { what });
        }
        Ok(Some(row.seen_from_above(Some(self.parent.index))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::BlockHasher;
    use crate::repo::manifest::{Counts, ServerRecord, Totals};

    fn summary(id: &str, timeline: u32, stop: u64) -> Summary {
        let id: BackupId = id.parse().unwrap();
        Summary {
            backup_type: id.backup_type(),
            id,
            parent: None,
            cluster: "main".into(),
            system: 7,
            epoch: 1,
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
            timeline,
            timeline_stop: timeline,
            start_lsn: Lsn(stop - 0x100),
            stop_lsn: Lsn(stop),
            wal_first: String::new(),
            wal_last: String::new(),
            backup_label: String::new(),
            server: ServerRecord {
                version_num: 150_018,
                catalog_version: 1,
                block_size: 8192,
                wal_block_size: 8192,
                wal_segment_size: 16 << 20,
                relation_segment_blocks: 131_072,
                checksums: true,
                standby: false,
                data_directory: String::new(),
                host: String::new(),
                preload_libraries: String::new(),
                logical_slots: Vec::new(),
                configuration: Default::default(),
            },
            hash: HashScheme { algorithm: BlockHasher::ALGORITHM.into(), key: [0; 32] },
            totals: Totals::default(),
            attempts: Vec::new(),
            counts: Counts::default(),
            tool: String::new(),
        }
    }

    const FULL: &str = "20261120-020000F";
    const DIFFERENTIAL: &str = "20261120-020000F_20261120-080000D";

    fn server(timeline: u32, history: &str, now: u64) -> Server {
        let timeline = TimelineId::new(timeline).unwrap();
        Server {
            system: 7,
            major: 15,
            block_size: 8192,
            wal_segment_size: 16 << 20,
            relation_segment_blocks: 131_072,
            checksums: true,
            in_recovery: false,
            now: Some(Lsn(now)),
            history: History::parse(timeline, history.as_bytes()).unwrap(),
        }
    }

    fn chosen(wanted: BackupType, complete: &[Summary], server: &Server) -> Result<Standing> {
        let backups = Backups { complete: complete.to_vec(), ..Backups::default() };
        choose(wanted, &backups, server)
    }

    #[test]
    fn each_type_stands_on_the_newest_of_its_kind() {
        use BackupType::{Differential, Full, Incremental};
        let server = server(1, "", 0x900);
        let both = [summary(FULL, 1, 0x500), summary(DIFFERENTIAL, 1, 0x700)];
        let on = |id: &str| Standing::On(id.parse().unwrap());
        assert_eq!(chosen(Full, &both, &server).unwrap(), Standing::Alone(None));
        assert_eq!(chosen(Differential, &both, &server).unwrap(), on(FULL));
        assert_eq!(chosen(Incremental, &both, &server).unwrap(), on(DIFFERENTIAL));
        for (wanted, words) in
            [(Differential, "no full backup yet"), (Incremental, "no backup yet")]
        {
            match chosen(wanted, &[], &server).unwrap() {
                Standing::Alone(Some(why)) => assert!(why.contains(words), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn f033_f042_f051_f052_a_parent_that_does_not_fit_is_refused_and_why() {
        type Change = fn(&mut Server);
        let changes: [(Change, &str); 8] = [
            (|server| server.system = 8, "system 7, the server is system 8"),
            (|server| server.major = 16, "PostgreSQL 15, the server is PostgreSQL 16"),
            (|server| server.block_size = 16_384, "blocks of 8192, the server has 16384"),
            (|server| server.wal_segment_size = 1 << 20, "WAL segments of 16777216"),
            (|server| server.relation_segment_blocks = 1, "relation segments of 131072"),
            (|server| server.checksums = false, "checksums were on when it was taken, and are off"),
            (|server| server.now = Some(Lsn(0x4ff)), "0/500, and the server's WAL only at 0/4FF"),
            (
                |server| {
                    let timeline = TimelineId::new(2).unwrap();
                    server.history = History::parse(timeline, b"1\t0/4FF\tx\n").unwrap();
                },
                "ends at 0/500 on timeline 1, which the server's timeline 2 left at 0/4FF",
            ),
        ];
        let mut full = [summary(FULL, 1, 0x500)];
        for (change, words) in changes {
            let mut server = server(1, "", 0x500);
            chosen(BackupType::Differential, &full, &server).unwrap();
            change(&mut server);
            match chosen(BackupType::Differential, &full, &server) {
                Err(Error::Parent { what }) => assert!(what.contains(words), "{what}"),
                other => panic!("{words}: {other:?}"),
            }
        }
        full[0].hash.algorithm = "sha1".into();
        match chosen(BackupType::Differential, &full, &server(1, "", 0x500)) {
            Err(Error::Parent { what }) => assert!(what.contains("hashed by sha1"), "{what}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn f029_a_history_that_leads_over_the_parent_s_end_is_right_and_a_standby_may_lag() {
        let full = [summary(FULL, 1, 0x500)];
        let stands = |server: &Server| chosen(BackupType::Incremental, &full, server).is_ok();
        assert!(stands(&server(2, "1\t0/500\tx\n", 0x600)), "it was left right at the end");
        assert!(stands(&server(3, "1\t0/600\tx\n2\t0/700\tx\n", 0x800)));
        assert!(!stands(&server(3, "2\t0/400\tx\n", 0x800)), "another's history");
        let ahead = [summary(FULL, 2, 0x500)];
        assert!(chosen(BackupType::Incremental, &ahead, &server(1, "", 0x900)).is_err());
        let mut lagging = server(1, "", 0x300);
        assert!(!stands(&lagging));
        lagging.in_recovery = true;
        assert!(stands(&lagging));
        lagging.now = None;
        assert!(stands(&lagging));
    }
}
