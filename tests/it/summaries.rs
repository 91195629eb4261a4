//! What `sum/` is for: ten thousand backups, a million segments, and a store whose every answer takes a
//! while. Time is counted in rounds: the longest chain of requests that wait for each other.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use pgkeep::base::{Ctx, Timestamp};
use pgkeep::crypt::Unlock;
use pgkeep::pg::recovery::TargetAction;
use pgkeep::pg::{ArchivedWal, Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId};
use pgkeep::repo::{
    BackupId, BackupType, Backups, CipherChoice, Found, InitOptions, Kind, Place, Registration,
    Repository, Summary, WalFacts, Window,
};
use pgkeep::restore::{self, Archiving, Options, Plan, RestoreCommand, Target, TimelineChoice};
use pgkeep::storage::{
    self, MemoryStore, ObjectKey, ObjectMeta, ObjectStore, ObjectWriter, Result,
};

use crate::support::ScratchDir;
use crate::support::library::LibraryCluster;
use crate::support::run::{DEADLINE, wait_until};
use crate::support::sample;
use crate::support::servers::Server;

/// Rounds that are seconds at 50 ms each, not minutes.
const FEW: u64 = 120;

/// A thread's requests follow each other. Those of threads that run together count as the longest chain
/// among them; a thread that begins when no other runs follows those before it.
#[derive(Debug, Default)]
struct Chains {
    /// How many rounds the main thread has waited for.
    main: u64,
    /// How many those have that ended.
    ended: u64,
    running: HashMap<ThreadId, u64>,
    /// Where those that run have begun.
    base: u64,
    requests: u64,
}

/// Says that a thread has ended.
struct Ending(Arc<Mutex<Chains>>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut chains = self.0.lock().unwrap();
        let own = chains.running.remove(&std::thread::current().id()).unwrap_or_default();
        chains.ended = chains.ended.max(own);
    }
}

thread_local! {
    static ENDING: RefCell<Option<Ending>> = const { RefCell::new(None) };
}

/// Counts rounds before a store in memory.
#[derive(Debug, Clone)]
struct Rounds {
    inner: MemoryStore,
    main: ThreadId,
    chains: Arc<Mutex<Chains>>,
}

impl Rounds {
    fn new(inner: &MemoryStore) -> Self {
        let main = std::thread::current().id();
        Self { inner: inner.clone(), main, chains: Arc::default() }
    }

    fn tick(&self) -> &MemoryStore {
        let own = std::thread::current().id();
        let mut chains = self.chains.lock().unwrap();
        chains.requests += 1;
        if own == self.main {
            // It has joined whatever it had started.
            chains.main = chains.main.max(chains.ended) + 1;
        } else {
            if chains.running.is_empty() {
                chains.base = chains.main.max(chains.ended);
            }
            let base = chains.base;
            *chains.running.entry(own).or_insert(base) += 1;
            drop(chains);
            ENDING.with_borrow_mut(|ending| {
                ending.get_or_insert_with(|| Ending(Arc::clone(&self.chains)));
            });
            // So that every thread gets its share.
            std::thread::sleep(Duration::from_micros(200));
        }
        &self.inner
    }

    /// Rounds and requests since the last call.
    fn take(&self) -> (u64, u64) {
        let chains = std::mem::take(&mut *self.chains.lock().unwrap());
        (chains.main.max(chains.ended), chains.requests)
    }
}

impl ObjectStore for Rounds {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.tick().put(key, body)
    }
    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.tick().put_if_absent(key, body)
    }
    fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
        self.tick().put_stream(key)
    }
    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.tick().get(key)
    }
    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.tick().read_range(key, offset, buffer)
    }
    fn read_up_to(&self, key: &ObjectKey, offset: u64, length_max: usize) -> Result<Vec<u8>> {
        self.tick().read_up_to(key, offset, length_max)
    }
    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.tick().head(key)
    }
    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>> {
        self.tick().list(prefix, after, count_max)
    }
    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.tick().delete(key)
    }
}

fn segment(number: u64, size: SegmentSize) -> String {
    SegmentName::new(TimelineId::FIRST, SegmentNo(number), size).unwrap().to_string()
}

/// The facts of a segment in which something was committed then.
fn facts(place: &Place, number: u64, size: SegmentSize, latest: Timestamp) -> WalFacts {
    let mut found: Found =
        serde_json::from_str(r#"{"read":true,"commits":1,"ending":"full"}"#).unwrap();
    (found.earliest, found.latest) = (Some(latest), Some(latest));
    found.end = SegmentNo(number).end(size);
    WalFacts {
        name: segment(number, size),
        system: place.system(),
        size: 3,
        digest: format!("hh256:{}", "0".repeat(64)),
        timeline: Some(1),
        address: SegmentNo(number).begin(size),
        found: Some(found),
        by: None,
    }
}

fn put_segment(repository: &Repository, ctx: &Ctx, place: &Place, facts: &WalFacts) {
    let key = place.wal(&facts.name).unwrap();
    repository.put_note(ctx, place, facts).unwrap();
    repository.put_wal(ctx, Kind::Wal, &key, facts, b"wal").unwrap();
}

const BACKUPS: u64 = 10_000;
const SEGMENTS: u64 = 1_000_000;
/// Between two backups.
const APART: u64 = SEGMENTS / BACKUPS;
const SIZE: SegmentSize = SegmentSize::DEFAULT;
const HOLES: [u64; 3] = [123_456, 500_000, 999_000];

/// A repository of that size, with what `info` reads of it.
struct Large {
    ctx: Ctx,
    store: MemoryStore,
    place: Place,
    registration: Registration,
    unlock: Unlock,
}

fn at(number: u64) -> Timestamp {
    sample::now() + chrono::TimeDelta::minutes(i64::try_from(number).unwrap())
}

fn id(i: u64) -> BackupId {
    BackupId::full(at(i * APART))
}

impl Large {
    fn new(backups: u64, segments: u64) -> Self {
        let ctx = Ctx::fixed(at(SEGMENTS), 5);
        let small = sample::make(CipherChoice::Aes256Cbc, 1000);
        let template = small.repository.summary(&small.place, &small.id).unwrap();
        let (unlock, store) = (sample::key_file().0, MemoryStore::new());
        let cipher = CipherChoice::Aes256Cbc;
        let options = InitOptions { cipher, unlock: &unlock, label: "", cost: 14 };
        let repository = Repository::init(&ctx, Arc::new(store.clone()), &options).unwrap();
        let registration = small.repository.registration(&small.place).unwrap();
        let registration = Registration { wal_segment_size: SIZE.bytes(), ..registration };
        let place = repository.register(&ctx, &registration).unwrap();
        for i in 0..backups {
            let summary = summary(&template, i);
            let mut line = serde_json::to_value(&summary).unwrap();
            line["state"] = "complete".into();
            let key = place.manifest(&summary.id);
            repository.put_line(&ctx, Kind::Manifest, &key, &line).unwrap();
            store.put(&place.begin(&summary.id), b"never read").unwrap();
        }
        for number in 1..=segments {
            if HOLES.contains(&number) {
                continue;
            }
            let is_last = number == segments || HOLES.contains(&(number + 1));
            if is_last {
                put_segment(&repository, &ctx, &place, &facts(&place, number, SIZE, at(number)));
            } else {
                store.put(&place.wal(&segment(number, SIZE)).unwrap(), b"never read").unwrap();
            }
            // One segment in ten has a note.
            if number % 10 == 0 {
                let note = place.note(&segment(number, SIZE), "p", "0123456789abcdef");
                store.put(&note.unwrap(), b"never read").unwrap();
            }
        }
        Self { ctx, store, place, registration, unlock }
    }

    fn open(&self) -> (Repository, Rounds) {
        let rounds = Rounds::new(&self.store);
        let repository = Repository::open(Arc::new(rounds.clone()), &self.unlock).unwrap();
        rounds.take();
        (repository, rounds)
    }

    /// What `info` asks, and in how many rounds of requests.
    fn info(&self) -> (Backups, ArchivedWal, Vec<Window>, u64) {
        let (repository, rounds) = self.open();
        let (ctx, place) = (&self.ctx, &self.place);
        let backups = repository.backups(ctx, place).unwrap();
        let survey = repository.survey(ctx, place, &self.registration).unwrap();
        let windows = backups.windows(ctx, &repository, place, &survey.wal).unwrap();
        let (taken, requests) = rounds.take();
        eprintln!("info: {taken} rounds, {requests} requests");
        (backups, survey.wal, windows, taken)
    }

    fn remove(&self, prefix: &str) {
        for meta in storage::list_all(&self.store, prefix).unwrap() {
            self.store.delete(&meta.key).unwrap();
        }
    }
}

fn summary(template: &Summary, i: u64) -> Summary {
    let first = 1 + i * APART;
    let lsn = |number: u64| Lsn(number * u64::from(SIZE.bytes()) + 0x100);
    Summary {
        id: id(i),
        backup_type: BackupType::Full,
        started: at(first),
        finished: at(first + 1),
        timeline: 1,
        timeline_stop: 1,
        start_lsn: lsn(first),
        stop_lsn: lsn(first + 1),
        wal_first: segment(first, SIZE),
        wal_last: segment(first + 1, SIZE),
        ..template.clone()
    }
}

#[test]
fn ten_thousand_backups_and_a_million_segments_are_listed_in_seconds() {
    let large = Large::new(BACKUPS, SEGMENTS);
    let (backups, wal, windows, without) = large.info();
    assert_eq!((backups.complete.len() as u64, backups.unfinished.len()), (BACKUPS, 0));
    assert_eq!(wal.stretches().count(), HOLES.len() + 1);
    assert_eq!(windows.len(), HOLES.len() + 1);
    assert!(without > BACKUPS / 16, "{without} rounds");

    // Written once, by the end of a backup.
    let (repository, rounds) = large.open();
    repository.summarise(&large.ctx, &large.place, SIZE).unwrap();
    let (written, requests) = rounds.take();
    eprintln!("summaries written: {written} rounds, {requests} requests");
    let (again, wal_again, windows_again, with) = large.info();
    assert_eq!(again.complete, backups.complete);
    assert!(wal_again.stretches().eq(wal.stretches()));
    assert_eq!(windows_again, windows);
    assert!(with <= FEW, "{with} rounds, {without} without summaries");

    // As many more as no summary is written for.
    let template = &backups.complete[0];
    for i in BACKUPS..BACKUPS + 300 {
        let mut line = serde_json::to_value(summary(template, i)).unwrap();
        line["state"] = "complete".into();
        let key = large.place.manifest(&id(i));
        repository.put_line(&large.ctx, Kind::Manifest, &key, &line).unwrap();
    }
    for number in SEGMENTS + 1..SEGMENTS + 2_000 {
        let key = large.place.wal(&segment(number, SIZE)).unwrap();
        large.store.put(&key, b"never read").unwrap();
    }
    let last = facts(&large.place, SEGMENTS + 2_000, SIZE, at(SEGMENTS + 2_000));
    put_segment(&repository, &large.ctx, &large.place, &last);
    let (more, _, windows, with) = large.info();
    assert_eq!(more.complete.len() as u64, BACKUPS + 300);
    assert_eq!(windows.last().unwrap().last_segment, last.name);
    assert!(with <= FEW, "{with} rounds");

    // Lost, they cost time only, and are written again.
    large.remove(&format!("{}sum/", large.place.prefix()));
    let (lost, _, windows_lost, _) = large.info();
    assert_eq!((lost.complete, windows_lost), (more.complete, windows));
    repository.summarise(&large.ctx, &large.place, SIZE).unwrap();
    assert!(large.info().3 <= FEW);

    // `check` lists all, and quickly enough: side by side.
    let late = HOLES[1];
    large.store.delete(&large.place.wal(&segment(late + 7_000, SIZE)).unwrap()).unwrap();
    put_segment(&repository, &large.ctx, &large.place, &facts(&large.place, late, SIZE, at(late)));
    let (repository, rounds) = large.open();
    let truth = repository.survey_by_list(&large.ctx, &large.place, &large.registration).unwrap();
    let (taken, requests) = rounds.take();
    eprintln!("everything listed: {taken} rounds, {requests} requests");
    assert!(truth.complaints.join("").contains(&segment(late + 7_000, SIZE)));
    assert!(truth.wal.has(TimelineId::FIRST, SegmentNo(late)), "it came late, and is seen");
    assert!(!truth.wal.has(TimelineId::FIRST, SegmentNo(late + 7_000)));
}

/// A cluster that gets WAL and never a backup has no summary, and its WAL was listed by one request after the
/// other: a thousand for a million segments.
#[test]
fn d2026_11_28_wal_of_which_no_summary_tells_is_listed_side_by_side() {
    let large = Large::new(0, 100_000);
    let (_, wal, _, rounds) = large.info();
    assert_eq!(wal.stretches().map(|run| run.count()).collect::<Vec<_>>(), [100_000]);
    assert!(rounds <= 60, "{rounds} rounds");
}

/// A cluster with one backup, and many segments behind it that nobody reads.
struct LongWay {
    live: LibraryCluster,
    copies: ScratchDir,
    size: SegmentSize,
    /// The first of the many.
    first: u64,
    finished: Timestamp,
}

const WAY: u64 = 20_000;
/// Where a restore point lies.
const NAMED: u64 = 15_000;

impl LongWay {
    fn new(server: &Server) -> Self {
        let live = LibraryCluster::start(server);
        let repository = live.open(Arc::new(live.store.clone())).unwrap();
        let summary = live.backup(&repository, |_| {}).unwrap().summary;
        let size = SegmentSize::new(live.registration.wal_segment_size.into()).unwrap();
        let stored = repository.segments(&live.ctx, &live.place).unwrap();
        let last = SegmentName::parse(stored[&1].last().unwrap().as_bytes()).unwrap();
        let first = last.number(size).unwrap().0 + 1;
        for i in 0..WAY {
            let latest = summary.finished + chrono::TimeDelta::seconds(i64::try_from(i).unwrap());
            let mut facts = facts(&live.place, first + i, size, latest);
            if i == NAMED {
                let lsn = facts.found.as_ref().unwrap().end.unwrap();
                let point = serde_json::json!({ "name": "here", "lsn": lsn });
                let point = serde_json::from_value(point).unwrap();
                facts.found.as_mut().unwrap().restore_points.push(point);
            }
            put_segment(&repository, &live.ctx, &live.place, &facts);
        }
        repository.summarise(&live.ctx, &live.place, size).unwrap();
        let (copies, finished) = (ScratchDir::new("copies"), summary.finished);
        Self { live, copies, size, first, finished }
    }

    fn key(&self, i: u64) -> ObjectKey {
        self.live.place.wal(&segment(self.first + i, self.size)).unwrap()
    }

    /// A plan, and in how many rounds of requests it was made.
    fn plan(&self, what: &str, target: Target) -> (restore::Result<Plan>, u64) {
        let rounds = Rounds::new(&self.live.store);
        let repository = self.live.open(Arc::new(rounds.clone())).unwrap();
        rounds.take();
        let options = Options {
            to: self.copies.join("data"),
            backup: None,
            target,
            inclusive: true,
            timeline: TimelineChoice::Latest,
            action: TargetAction::Promote,
            standby: false,
            archiving: Archiving::Off,
            archiving_is_default: true,
            tablespaces: Vec::new(),
            config_to: None,
            rename_old: false,
            delta: false,
            discard_wal: false,
            repository_folders: Vec::new(),
            data_directory: None,
            own_files: Vec::new(),
            user: None,
            jobs: 1,
            server: None,
            programs: restore::ProgramPlaces {
                configured: None,
                root: "/".into(),
                path: Vec::new(),
            },
            restore_command: RestoreCommand { program: vec!["pgkeep".into()], epoch: Some(1) },
        };
        let (ctx, place) = (&self.live.ctx, &self.live.place);
        let plan = restore::plan(ctx, &options, &repository, place, &self.live.registration);
        let (taken, requests) = rounds.take();
        eprintln!("plan to {what}: {taken} rounds, {requests} requests");
        (plan, taken)
    }

    fn middle(&self) -> Target {
        Target::Time(self.finished + chrono::TimeDelta::seconds(10_000))
    }
}

#[test]
fn a_plan_over_twenty_thousand_segments_takes_seconds() {
    let Some(server) = Server::main() else { return };
    let way = LongWay::new(&server);
    let few = |what: &str, target: Target| {
        let (plan, rounds) = way.plan(what, target);
        let plan = plan.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(rounds <= 2 * FEW, "{what}: {rounds} rounds");
        plan
    };
    let latest = few("the end", Target::Latest);
    assert!(latest.wal_segments > WAY);
    let middle = few("a moment", way.middle());
    let named = few("a name", Target::Name("here".into()));
    assert_eq!(named.backup, latest.backup);
    let (nowhere, rounds) = way.plan("a name that is nowhere", Target::Name("nowhere".into()));
    // That it is nowhere, only the facts of all prove.
    assert!(nowhere.is_err() && rounds <= WAY / 8, "{rounds}");

    // Without the mark the facts of all are asked, and the plans are the same.
    let mark = way.live.place.notes_mark();
    let kept = way.live.store.get(&mark).unwrap();
    way.live.store.delete(&mark).unwrap();
    let (by_facts, rounds) = way.plan("a moment, by facts", way.middle());
    let by_facts = by_facts.unwrap();
    assert_eq!(by_facts.warnings, middle.warnings);
    assert_eq!((by_facts.through, by_facts.lost), (middle.through, middle.lost));
    assert!(rounds <= WAY / 8, "{rounds} rounds");
    assert!(way.plan("the end, by facts", Target::Latest).1 > WAY / 16);
    let (by_facts, _) = way.plan("a name, by facts", Target::Name("here".into()));
    let by_facts = by_facts.unwrap();
    assert_eq!((by_facts.through, by_facts.lost), (named.through, named.lost));
    way.live.store.put(&mark, &kept).unwrap();
}

/// The note of the only restore point was gone, and a plan said that the archive holds none of that name.
#[test]
fn d2026_11_28_a_restore_point_without_its_note_is_found() {
    let Some(server) = Server::main() else { return };
    let way = LongWay::new(&server);
    let (named, _) = way.plan("a name", Target::Name("here".into()));
    let notes = storage::list_all(&way.live.store, &way.live.place.notes_prefix()).unwrap();
    notes.iter().for_each(|note| way.live.store.delete(&note.key).unwrap());
    let (found, rounds) = way.plan("a name without a note", Target::Name("here".into()));
    let (named, found) = (named.unwrap(), found.unwrap());
    assert_eq!((found.through, &found.backup), (named.through, &named.backup));
    assert!(rounds <= WAY / 8, "{rounds} rounds");
}

#[test]
fn a_plan_lists_what_it_needs_for_real() {
    let Some(server) = Server::main() else { return };
    let way = LongWay::new(&server);
    let gone = way.key(12_000);
    way.live.store.delete(&gone).unwrap();
    let (plan, _) = way.plan("the end, over a segment that is gone", Target::Latest);
    let refused = plan.unwrap_err().to_string();
    let name = gone.last_component();
    assert!(refused.contains(name) && refused.contains("is missing"), "{refused}");
    let (plan, _) = way.plan("a moment before it", way.middle());
    let plan = plan.unwrap();
    assert_eq!(plan.windows.len(), 1, "{:?}", plan.windows);
    assert_eq!(Some(plan.through), SegmentNo(way.first + 11_999).end(way.size));
    assert!(plan.warnings.join("").contains(name), "{:?}", plan.warnings);
}

/// A backup waits in its end for its own WAL, and asked for one segment after the other: half an hour for the
/// 36,000 of a long one, when all of them had been there for long.
#[test]
fn d2026_11_28_a_backup_asks_for_its_own_wal_side_by_side() {
    const OWN: usize = 200;
    let Some(server) = Server::main() else { return };
    let mut live = LibraryCluster::start(&server);
    let (store, place) = (live.store.clone(), live.place.clone());
    let chains = Arc::new(Mutex::new(None));
    let told = Arc::clone(&chains);
    let finished = live.backup_interrupted_through(
        move |store| {
            let rounds = Rounds::new(&store);
            *told.lock().unwrap() = Some(rounds.clone());
            Arc::new(rounds)
        },
        move |cluster| {
            let one = "select pg_logical_emit_message(false, 'x', 'x'); select pg_switch_wal();";
            cluster.psql(&one.repeat(OWN));
            let archived = || storage::list_all(&store, &place.all_wal_prefix()).unwrap().len();
            wait_until(DEADLINE, || archived() >= OWN, || "the WAL of the backup".into());
        },
    );
    let summary = finished.unwrap().summary;
    let size = SegmentSize::new(live.registration.wal_segment_size.into()).unwrap();
    let number = |name: &str| SegmentName::parse(name.as_bytes()).unwrap().number(size).unwrap().0;
    let count = number(&summary.wal_last) - number(&summary.wal_first);
    assert!(count >= OWN as u64, "{count}");
    let (taken, requests) = chains.lock().unwrap().as_ref().unwrap().take();
    eprintln!("a backup with {count} segments of its own: {taken} rounds, {requests} requests");
    assert!(requests > count && taken <= FEW, "{taken} rounds");
}
