//! A cluster that is made up, on a store in memory: backups of one small file, segments of a few bytes, a clock that is
//! moved by hand. What expiry decides and does is the real thing; only what is stored is small.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use pgkeep::base::{Clock as _, Ctx, Timestamp};
use pgkeep::crypt::{BlockHasher, Unlock};
use pgkeep::pg::{Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId};
use pgkeep::repo::manifest::{Counts, Totals};
use pgkeep::repo::{
    BackupId, BackupType, Base, Begin, CipherChoice, FileTableWriter, Found, InitOptions, Kind,
    LeaseRequest, Manifest, ObjectRecord, PackPlan, PackWriter, Place, Registration, Repository,
    Reused, RowKind, Scope, Source, Summary, WalFacts, WalPut, lock_for,
};
use pgkeep::retention::{self, ExpirePlan, Freed, Policy};
use pgkeep::storage::{
    self, FaultyStore, LockMode, LockRule, MemoryStore, ObjectKey, ObjectMeta, ObjectStore,
    ObjectWriter,
};

use super::sample;

/// A segment's size; its content is shorter here.
pub const SIZE: u64 = 1 << 20;

/// Where a backup that has begun stands.
pub struct Begun {
    pub id: BackupId,
    pub parent: Option<BackupId>,
    pub started: Timestamp,
    pub start: Lsn,
    pub timeline: u32,
}

/// What a backup has stored before its end.
pub struct Packs {
    objects: Vec<ObjectRecord>,
    row: pgkeep::repo::Row,
}

/// A backup that is about to be complete.
pub struct End {
    pub summary: Summary,
    packs: Packs,
    /// What it uses of one that was interrupted.
    attempt: Option<(Base, Vec<Reused>)>,
}

impl Begun {
    /// Whether it may go on, by what it looks at after its record is put.
    pub fn may_go_on(&self, ctx: &Ctx, repository: &Repository, place: &Place) -> bool {
        let Some(parent) = &self.parent else { return true };
        let kept = repository.require_kept(ctx, place, parent);
        kept.is_ok() && repository.open_backup(place, parent).is_ok()
    }
}

impl End {
    /// Puts the file table, and right after it the manifest.
    pub fn put(
        self,
        ctx: &Ctx,
        repository: &Repository,
        place: &Place,
    ) -> pgkeep::repo::Result<BackupId> {
        let Self { summary, packs, attempt } = self;
        let id = summary.id.clone();
        let Packs { mut objects, row } = packs;
        let key = place.files(&id);
        let mut table = FileTableWriter::new(repository.buffer(ctx, Kind::Files, &key)?);
        table.push(&row)?;
        let (bytes, written, index, _) = table.finish()?;
        repository.put_if_absent(&key, &bytes)?;
        objects.push(ObjectRecord::new("files", &written));
        let (bases, reused) = match (&summary.parent, attempt) {
            (_, Some((base, reused))) => (vec![base], reused),
            (Some(parent), None) => (repository.open_backup(place, parent)?.as_bases(), vec![]),
            (None, None) => (vec![], vec![]),
        };
        let (tablespaces, damage) = (vec![], vec![]);
        let mut manifest = Manifest { summary, objects, bases, reused, tablespaces, damage, index };
        repository.commit(ctx, place, &mut manifest)?;
        Ok(id)
    }
}

/// A moment that was archived: on which timeline, in which segment, and the way there.
#[derive(Debug, Clone)]
pub struct Archived {
    pub moment: Timestamp,
    pub segment: String,
}

/// A store that takes a condition and does not honour it.
#[derive(Debug)]
struct Ignoring(MemoryStore);

impl ObjectStore for Ignoring {
    fn location(&self) -> String {
        self.0.location()
    }
    fn must_be_tried(&self) -> bool {
        true
    }
    fn put(&self, key: &ObjectKey, body: &[u8]) -> storage::Result<()> {
        self.0.put(key, body)
    }
    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> storage::Result<()> {
        self.0.put(key, body)
    }
    fn put_stream(&self, key: &ObjectKey) -> storage::Result<Box<dyn ObjectWriter>> {
        self.0.put_stream(key)
    }
    fn get(&self, key: &ObjectKey) -> storage::Result<Vec<u8>> {
        self.0.get(key)
    }
    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> storage::Result<()> {
        self.0.read_range(key, offset, buffer)
    }
    fn read_up_to(&self, key: &ObjectKey, offset: u64, max: usize) -> storage::Result<Vec<u8>> {
        self.0.read_up_to(key, offset, max)
    }
    fn head(&self, key: &ObjectKey) -> storage::Result<ObjectMeta> {
        self.0.head(key)
    }
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        max: usize,
    ) -> storage::Result<Vec<ObjectMeta>> {
        self.0.list(prefix, after, max)
    }
    fn delete(&self, key: &ObjectKey) -> storage::Result<()> {
        self.0.delete(key)
    }
}

fn lock_rule(days: u64) -> LockRule {
    let rule = LockRule::new(LockMode::Compliance, Duration::from_secs(days * 86_400));
    LockRule { of_name: lock_for, ..rule }
}

pub struct World {
    pub ctx: Ctx,
    pub store: MemoryStore,
    pub faulty: FaultyStore<MemoryStore>,
    pub unlock: Unlock,
    pub repository: Repository,
    pub place: Place,
    pub timeline: u32,
    /// The next segment.
    pub next: u64,
    history: String,
    /// Every segment that was ever archived.
    pub archived: Vec<Archived>,
}

impl World {
    pub fn begin(seed: u64) -> Self {
        Self::begin_in(seed, |store| store, false)
    }

    /// One whose repository goes by claims: its store did not honour conditions when it was made.
    pub fn by_claims(seed: u64) -> Self {
        Self::begin_in(seed, |store| store, true)
    }

    /// One whose store has storage classes.
    pub fn with_classes(seed: u64) -> Self {
        Self::begin_in(seed, MemoryStore::with_classes, false)
    }

    /// One whose store has classes, and whose repository goes by claims.
    pub fn with_classes_by_claims(seed: u64) -> Self {
        Self::begin_in(seed, MemoryStore::with_classes, true)
    }

    /// One whose store keeps versions.
    pub fn begin_versioned(seed: u64) -> Self {
        Self::begin_in(seed, MemoryStore::with_versions, false)
    }

    /// From now on what is put is locked for so many days.
    pub fn locking(self, days: u64) -> Self {
        let store = self.store.with_locks(lock_rule(days));
        let faulty = FaultyStore::new(store.clone());
        let repository = Repository::open(Arc::new(store.clone()), &self.unlock).unwrap();
        Self { store, faulty, repository, ..self }
    }

    /// One whose store keeps versions, and locks what is put for so many days.
    pub fn with_locks(seed: u64, days: u64) -> Self {
        let rule = lock_rule(days);
        Self::begin_in(seed, |store| store.with_versions().with_locks(rule), false)
    }

    fn begin_in(seed: u64, made: impl FnOnce(MemoryStore) -> MemoryStore, by_claims: bool) -> Self {
        let begun: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let ctx = Ctx::fixed(begun, seed);
        let store = made(MemoryStore::with_clock(Arc::clone(&ctx.clock)));
        let faulty = FaultyStore::new(store.clone());
        let unlock = Unlock::Clear;
        let options =
            InitOptions { cipher: CipherChoice::None, unlock: &unlock, label: "", cost: 14 };
        let first: Arc<dyn ObjectStore> = match by_claims {
            true => Arc::new(Ignoring(store.clone())),
            false => Arc::new(store.clone()),
        };
        let repository = Repository::init(&ctx, first, &options).unwrap();
        assert_eq!(repository.descriptor().conditional_put, !by_claims);
        let repository = Repository::open(Arc::new(store.clone()), &unlock).unwrap();
        let registration = Registration {
            cluster: "main".into(),
            system: 7,
            epoch: 1,
            created: begun,
            major: 15,
            block_size: 8192,
            wal_block_size: 8192,
            wal_segment_size: u32::try_from(SIZE).unwrap(),
            relation_segment_blocks: 131_072,
        };
        let place = repository.register(&ctx, &registration).unwrap();
        let (history, archived) = (String::new(), Vec::new());
        Self {
            ctx,
            store,
            faulty,
            unlock,
            repository,
            place,
            timeline: 1,
            next: 1,
            history,
            archived,
        }
    }

    pub fn now(&self) -> Timestamp {
        self.ctx.clock.now()
    }

    pub fn pass(&self, time: TimeDelta) {
        self.ctx.clock.sleep(time.to_std().unwrap());
    }

    /// The same repository through the store that fails by script.
    pub fn through_faults(&self) -> Repository {
        self.repository.reopened(Arc::new(self.faulty.clone())).unwrap().unwrap()
    }

    fn name(&self, number: u64) -> String {
        let (timeline, size) =
            (TimelineId::new(self.timeline).unwrap(), SegmentSize::new(SIZE).unwrap());
        SegmentName::new(timeline, SegmentNo(number), size).unwrap().to_string()
    }

    fn lsn(number: u64, offset: u64) -> Lsn {
        Lsn(number * SIZE + offset)
    }

    /// Archives the next segment, in which a transaction was committed just now.
    pub fn push(&mut self) -> String {
        let segment = self.name(self.next);
        let archived = Archived { moment: self.now(), segment: segment.clone() };
        self.put_wal(&archived, "").unwrap();
        self.archived.push(archived);
        self.next += 1;
        segment
    }

    /// Archives a segment that is known once more, with more in it or as it was.
    pub fn put_wal(&self, archived: &Archived, more: &str) -> pgkeep::repo::Result<WalPut> {
        let Archived { moment, segment } = archived;
        let name = SegmentName::parse(segment.as_bytes()).unwrap();
        let number = name.number(SegmentSize::new(SIZE).unwrap()).unwrap().0;
        let found = Found {
            read: true,
            commits: 1,
            latest: Some(*moment),
            earliest: Some(*moment),
            end: Some(Self::lsn(number + 1, 0)),
            ending: "full".into(),
            restore_points: Vec::new(),
            cut: None,
            ..sample::found()
        };
        let content = format!("{segment} at {moment}{more}").into_bytes();
        let facts = WalFacts {
            name: segment.clone(),
            system: self.place.system(),
            size: content.len() as u64,
            digest: self.repository.content_digest(&content),
            timeline: Some(name.timeline().get()),
            address: Some(Self::lsn(number, 0)),
            found: Some(found),
            by: None,
        };
        let key = self.place.wal(segment).unwrap();
        self.repository.put_wal(&self.ctx, Kind::Wal, &key, &facts, &content)
    }

    /// Archives what a server that died had of the next segment; its object.
    pub fn push_partial(&mut self) -> ObjectKey {
        let (segment, end) = (self.name(self.next), Self::lsn(self.next, 0x40));
        let content = vec![7; 0x80];
        let found = Found { end: Some(end), ending: "partial".into(), ..sample::found() };
        let facts = WalFacts {
            name: format!("{segment}.partial"),
            system: self.place.system(),
            size: content.len() as u64,
            digest: self.repository.content_digest(&content),
            timeline: Some(self.timeline),
            address: Some(Self::lsn(self.next, 0)),
            found: Some(found),
            by: None,
        };
        let key = self.place.partial(&segment, end.0).unwrap();
        self.repository.put_wal(&self.ctx, Kind::Partial, &key, &facts, &content).unwrap();
        key
    }

    /// A standby is promoted: the next segment is the first of a new timeline.
    pub fn fail_over(&mut self) {
        let switch = Self::lsn(self.next, 0);
        self.history += &format!("{}\t{switch}\tx\n", self.timeline);
        self.timeline += 1;
        let content = self.history.clone().into_bytes();
        let name = format!("{:08X}.history", self.timeline);
        let facts = WalFacts {
            name: name.clone(),
            system: self.place.system(),
            size: content.len() as u64,
            digest: self.repository.content_digest(&content),
            timeline: None,
            address: None,
            found: None,
            by: None,
        };
        let key = self.place.history(self.timeline);
        self.repository.put_wal(&self.ctx, Kind::History, &key, &facts, &content).unwrap();
    }

    /// The backups that there are, by completion.
    pub fn complete(&self) -> Vec<Summary> {
        self.repository.backups_by_manifest(&self.ctx, &self.place).unwrap().complete
    }

    /// The first half of a backup: its record, and its packs.
    pub fn begin_backup(&mut self, backup_type: BackupType) -> Begun {
        let complete = self.complete();
        let parent = match backup_type {
            BackupType::Full => None,
            BackupType::Differential => {
                complete.iter().rfind(|backup| backup.parent.is_none()).map(|b| b.id.clone())
            }
            BackupType::Incremental => complete.last().map(|backup| backup.id.clone()),
        };
        self.begin_on(backup_type, parent)
    }

    /// As [`World::begin_backup`], an incremental on a backup that is named.
    pub fn begin_child(&mut self, parent: &BackupId) -> Begun {
        self.begin_on(BackupType::Incremental, Some(parent.clone()))
    }

    fn begin_on(&mut self, backup_type: BackupType, parent: Option<BackupId>) -> Begun {
        let (begin, begun) = self.record_of(backup_type, parent);
        self.repository.put_begin(&self.ctx, &self.place, &begin).unwrap();
        begun
    }

    /// The record of a backup that begins now, not stored yet.
    pub fn record_of(&self, backup_type: BackupType, parent: Option<BackupId>) -> (Begin, Begun) {
        let backup_type = if parent.is_some() { backup_type } else { BackupType::Full };
        let started = self.now();
        let id = BackupId::of(backup_type, parent.as_ref(), started);
        let start = Self::lsn(self.next, 0x28);
        let begin = Begin {
            backup_type,
            parent: parent.clone(),
            started,
            timeline: self.timeline,
            wal_from: start,
            lease: Some("0123456789abcdef".into()),
            ..sample::begin(&id)
        };
        (begin, Begun { id, parent, started, start, timeline: self.timeline })
    }

    /// Whether a backup may go on, by what it looks at after its record is put.
    pub fn may_go_on(&self, begun: &Begun) -> bool {
        begun.may_go_on(&self.ctx, &self.repository, &self.place)
    }

    pub fn store_packs(&self, begun: &Begun) -> Packs {
        let (ctx, place, id) = (&self.ctx, &self.place, &begun.id);
        let hasher = BlockHasher::new(&sample::hash().key);
        let plan = PackPlan::new(place.clone(), id.clone(), 8192, hasher);
        let mut writer = PackWriter::new(&self.repository, ctx, &plan);
        let content = id.as_str().repeat(10).into_bytes();
        let row = pgkeep::repo::Row {
            size: content.len() as u64,
            ..sample::row(b"PG_VERSION", RowKind::File)
        };
        writer.begin_content(sample::source_of(&row));
        writer.space().unwrap()[..content.len()].copy_from_slice(&content);
        writer.accept(0, content.len()).unwrap();
        let layers = writer.end_content().unwrap();
        let objects = writer.finish().unwrap();
        let crc = Some(crc32c::crc32c(&content));
        Packs { objects, row: pgkeep::repo::Row { layers, crc, ..row } }
    }

    /// The second half: the WAL that it needs, and its manifest.
    pub fn commit(&mut self, begun: Begun, packs: Packs) -> pgkeep::repo::Result<BackupId> {
        self.end_of(begun, packs).put(&self.ctx, &self.repository, &self.place)
    }

    /// A full that stores nothing: its file lies in the pack of one that was interrupted.
    pub fn commit_on_attempt(
        &mut self,
        begun: Begun,
        died: &BackupId,
        mut packs: Packs,
    ) -> pgkeep::repo::Result<BackupId> {
        let attempt = self.repository.open_attempt(&self.ctx, &self.place, died, 8192)?.unwrap();
        packs.objects.clear();
        for layer in &mut packs.row.layers {
            if let Source::Pack { base, .. } = &mut layer.source {
                *base = Some(0);
            }
        }
        let mut end = self.end_of(begun, packs);
        end.summary.attempts = vec![died.clone()];
        end.attempt = Some((attempt.as_base(0), attempt.reused(0, 0)));
        end.put(&self.ctx, &self.repository, &self.place)
    }

    /// The WAL that it needs; the rest is the end's to put.
    pub fn end_of(&mut self, begun: Begun, packs: Packs) -> End {
        let last = self.push();
        let Begun { id, parent, started, start, timeline } = begun;
        let summary = Summary {
            id: id.clone(),
            backup_type: id.backup_type(),
            parent,
            system: self.place.system(),
            started,
            finished: self.now(),
            timeline,
            timeline_stop: self.timeline,
            start_lsn: start,
            stop_lsn: Self::lsn(self.next - 1, 0x138),
            wal_first: self.name(start.0 / SIZE),
            wal_last: last,
            totals: Totals::default(),
            counts: Counts::default(),
            ..sample::summary_of(&id)
        };
        End { summary, packs, attempt: None }
    }

    /// A backup from beginning to end.
    pub fn backup(&mut self, backup_type: BackupType) -> BackupId {
        let begun = self.begin_backup(backup_type);
        let objects = self.store_packs(&begun);
        self.commit(begun, objects).unwrap()
    }

    pub fn plan(
        &self,
        repository: &Repository,
        policy: &Policy,
    ) -> pgkeep::repo::Result<ExpirePlan> {
        retention::plan_expiry(&self.ctx, repository, "main", policy)
    }

    pub fn request() -> LeaseRequest<'static> {
        Self::request_for(Scope::Expire)
    }

    pub fn request_for(scope: Scope) -> LeaseRequest<'static> {
        LeaseRequest {
            scope,
            cluster: "main",
            host: "db1",
            pid: 1,
            purpose: scope.name(),
            backup: None,
            server: None,
            is_gone: |_, _| true,
        }
    }

    /// The second half of expiry.
    pub fn execute(
        &self,
        repository: &Repository,
        plan: &mut ExpirePlan,
    ) -> pgkeep::repo::Result<Freed> {
        let lease = repository.take_lease(&self.ctx, &Self::request())?.beside(&self.ctx);
        retention::execute_expiry(&self.ctx, repository, plan, "db1", &lease)
    }

    pub fn expire(&self, repository: &Repository, policy: &Policy) -> pgkeep::repo::Result<Freed> {
        let mut plan = self.plan(repository, policy)?;
        self.execute(repository, &mut plan)
    }
}
