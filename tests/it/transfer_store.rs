//! Copies between repositories in memory: what arrives is what was there, and what must not be there is not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::TimeDelta;
use pgkeep::base::Ctx;
use pgkeep::crypt::Unlock;
use pgkeep::repo::{
    BackupId, BackupType, CipherChoice, InitOptions, Kind, OpenedBackup, Pin, Place, Repository,
    RowKind,
};
use pgkeep::retention::{self, Policy};
use pgkeep::storage::{FaultyStore, MemoryStore, ObjectKey, ObjectStore as _, list_all};
use pgkeep::transfer::{self, Copied, Error, Request, Side, Who};

use crate::expire_crash::weeks;
use crate::support::{World, sample};

/// Another repository in memory, with a key of its own.
pub struct Target {
    pub store: MemoryStore,
    pub faulty: FaultyStore<MemoryStore>,
    pub repository: Repository,
}

impl Target {
    pub fn new(ctx: &Ctx, cipher: CipherChoice) -> Self {
        let store = MemoryStore::with_clock(Arc::clone(&ctx.clock));
        let unlock = match cipher {
            CipherChoice::None => Unlock::Clear,
            CipherChoice::Aes256Cbc => Unlock::generate_key_file(ctx.entropy.as_ref()).0,
        };
        let options = InitOptions { cipher, unlock: &unlock, label: "", cost: 14 };
        let repository = Repository::init(ctx, Arc::new(store.clone()), &options).unwrap();
        let faulty = FaultyStore::new(store.clone());
        Self { store, faulty, repository }
    }

    pub fn through_faults(&self) -> Repository {
        self.repository.reopened(Arc::new(self.faulty.clone())).unwrap().unwrap()
    }

    /// Every name but those of leases, claims, summaries and records of expiry.
    pub fn names(&self) -> BTreeSet<String> {
        names(&self.store)
    }
}

pub fn names(store: &MemoryStore) -> BTreeSet<String> {
    let listed = list_all(store, "c/").unwrap().into_iter().map(|meta| meta.key.to_string());
    let is_own =
        |name: &String| !["/keep/", "/sum/", "/claim/"].iter().any(|part| name.contains(part));
    listed.filter(is_own).collect()
}

pub fn request<'a>(from: &'a Repository, to: &'a Repository) -> Request<'a> {
    Request {
        from: Side { name: "a", jurisdiction: None, repository: from },
        to: Side { name: "b", jurisdiction: None, repository: to },
        cluster: "main",
        system: None,
        epoch: None,
        backups: BTreeSet::new(),
        is_strict: true,
        rules: HashMap::new(),
    }
}

pub const WHO: Who<'static> = Who { host: "db2", pid: 2, is_gone: |_, _| false, jobs: 1 };

pub fn copy(ctx: &Ctx, request: &Request<'_>) -> transfer::Result<Copied> {
    let plan = transfer::plan(ctx, request)?;
    transfer::execute(ctx, request, &plan, &WHO)
}

pub fn expire(ctx: &Ctx, repository: &Repository, policy: &Policy) -> retention::Freed {
    let mut plan = retention::plan_expiry(ctx, repository, "main", policy).unwrap();
    let lease = repository.take_lease(ctx, &World::request()).unwrap().beside(ctx);
    retention::execute_expiry(ctx, repository, &mut plan, "db1", &lease).unwrap()
}

/// Rows, contents of files, and hashes of stored blocks.
fn content(opened: &OpenedBackup) -> BTreeMap<Vec<u8>, (pgkeep::repo::Row, Vec<u8>, Vec<u64>)> {
    let mut found = BTreeMap::new();
    let mut rows = opened.rows().unwrap();
    while let Some(row) = rows.next_row().unwrap() {
        let (mut bytes, mut hashes) = (Vec::new(), Vec::new());
        if row.kind == RowKind::File {
            bytes = opened.read_whole(&row, u64::MAX).unwrap();
            for layer in &row.layers {
                if let pgkeep::repo::Source::Pack { base, pack, raw } = layer.source {
                    let end = raw + layer.count;
                    opened.hashes(base, pack).unwrap().read(raw, end, end, &mut hashes).unwrap();
                }
            }
        }
        found.insert(row.path.clone(), (row, bytes, hashes));
    }
    found
}

/// That each of these backups is the same in both, down to every block, with the WAL that it needs.
#[track_caller]
pub fn assert_same(
    ctx: &Ctx,
    place: &Place,
    (from, to): (&Repository, &Repository),
    ids: &[BackupId],
) {
    for id in ids {
        let (own, other) =
            (from.open_backup(place, id).unwrap(), to.open_backup(place, id).unwrap());
        for manifest in other.chain() {
            to.require_objects(place, manifest).unwrap();
        }
        assert_eq!(content(&own), content(&other), "{id}");
        // Any block by its path as well: through the index of the table.
        let mut rows = own.rows().unwrap();
        while let Some(row) = rows.next_row().unwrap() {
            assert_eq!(other.find_row(&row.path).unwrap(), Some(row), "{id}");
        }
        let mut summary = other.manifest().summary.clone();
        summary.totals.stored = own.manifest().summary.totals.stored;
        assert_eq!(summary, own.manifest().summary, "{id}");
        for name in [&summary.wal_first, &summary.wal_last] {
            assert_segment(place, (from, to), name);
        }
    }
    assert!(to.backups_by_manifest(ctx, place).unwrap().unreadable.is_empty());
}

#[track_caller]
fn assert_segment(place: &Place, (from, to): (&Repository, &Repository), name: &str) {
    let key = place.wal(name).unwrap();
    let (facts, bytes) = from.get_wal(Kind::Wal, &key).unwrap();
    let (other, copied) = to.get_wal(Kind::Wal, &key).unwrap();
    assert!(copied == bytes, "{name}");
    assert_eq!(other.digest, to.content_digest(&bytes));
    assert_eq!(pgkeep::repo::WalFacts { digest: facts.digest.clone(), ..other }, facts);
}

pub fn ids(ctx: &Ctx, repository: &Repository, place: &Place) -> Vec<BackupId> {
    let backups = repository.backups_by_manifest(ctx, place).unwrap();
    backups.complete.into_iter().map(|backup| backup.id).collect()
}

/// The newest backups, a full and a child each day.
pub fn newest(world: &World, count: usize) -> BTreeSet<BackupId> {
    let ids = ids(&world.ctx, &world.repository, &world.place);
    ids.into_iter().rev().take(count).collect()
}

fn pin(world: &World, id: &BackupId) {
    let pin = Pin {
        id: id.clone(),
        pinned: true,
        reason: "audit".into(),
        until: None,
        time: world.now(),
        host: "db1".into(),
    };
    world.repository.put_pin(&world.ctx, &world.place, &pin).unwrap();
}

/// A full whose only file lies in the pack of one that was interrupted.
fn on_an_attempt(world: &mut World) -> BackupId {
    let died = world.begin_backup(BackupType::Full);
    let packs = world.store_packs(&died);
    world.pass(TimeDelta::minutes(5));
    let (ctx, place) = (world.ctx.clone(), world.place.clone());
    world.repository.abandon(&ctx, &place, &died.id, "interrupted").unwrap();
    let begun = world.begin_backup(BackupType::Full);
    world.commit_on_attempt(begun, &died.id, packs).unwrap()
}

#[test]
fn everything_arrives_under_its_name_whatever_the_ciphers_are() {
    let mut world = weeks(3);
    on_an_attempt(&mut world);
    let partial = world.push_partial();
    let first = ids(&world.ctx, &world.repository, &world.place).remove(0);
    pin(&world, &first);
    let (ctx, place) = (&world.ctx, &world.place);
    let sealed = Target::new(ctx, CipherChoice::Aes256Cbc);
    let all = ids(ctx, &world.repository, place);
    let copied = copy(ctx, &request(&world.repository, &sealed.repository)).unwrap();
    assert_eq!(copied.backups.len(), all.len());
    assert_eq!((copied.pins, copied.passed.len()), (1, 0), "{copied:?}");
    assert_same(ctx, place, (&world.repository, &sealed.repository), &all);
    for each in &world.archived {
        assert_segment(place, (&world.repository, &sealed.repository), &each.segment);
    }
    // Nothing of backups that died and that nobody uses; else everything has its name.
    let died = sealed.names();
    let missing: Vec<_> = names(&world.store).difference(&died).cloned().collect();
    assert!(missing.iter().all(|name| name.contains("20260103-180000F")), "{missing:?}");
    assert!(died.is_subset(&names(&world.store)), "nothing else");
    assert!(sealed.store.head(&partial).is_ok());
    // From there to a third one, in the clear again: to the very size of each object.
    let clear = Target::new(ctx, CipherChoice::None);
    let again = copy(ctx, &request(&sealed.repository, &clear.repository)).unwrap();
    assert_eq!(again.backups, copied.backups);
    assert_same(ctx, place, (&world.repository, &clear.repository), &all);
    let sizes = |store: &MemoryStore, family: &str| -> BTreeMap<String, u64> {
        let listed = list_all(store, &place.family_prefix(family)).unwrap();
        listed.into_iter().map(|meta| (meta.key.to_string(), meta.size)).collect()
    };
    for family in ["data", "meta", "hash", "files"] {
        let own: BTreeMap<_, _> = sizes(&world.store, family);
        assert!(sizes(&clear.store, family).iter().all(|(name, size)| own[name] == *size));
        assert!(sizes(&sealed.store, family).values().sum::<u64>() > 0);
    }
    // Windows, pins and notes are what they were.
    let windows = |repository: &Repository| {
        let registration = repository.registration(place).unwrap();
        let survey = repository.survey(ctx, place, &registration).unwrap();
        assert!(survey.notes.points().is_some(), "the mark is there");
        let backups = repository.backups(ctx, place).unwrap();
        backups.windows(ctx, repository, place, &survey.wal).unwrap()
    };
    assert_eq!(windows(&world.repository), windows(&clear.repository));
    assert_eq!(
        world.repository.pins(ctx, place).unwrap(),
        clear.repository.pins(ctx, place).unwrap()
    );
    // Again: nothing is left to do.
    let before = list_all(&clear.store, "c/").unwrap().len();
    let nothing = copy(ctx, &request(&sealed.repository, &clear.repository)).unwrap();
    assert_eq!(nothing, Copied::default());
    assert_eq!(list_all(&clear.store, "c/").unwrap().len(), before);
}

#[test]
fn one_backup_comes_with_all_that_it_needs_and_nothing_more() {
    let world = weeks(4);
    let (ctx, place) = (&world.ctx, &world.place);
    let target = Target::new(ctx, CipherChoice::Aes256Cbc);
    let all = world.complete();
    let child = all.iter().rfind(|backup| backup.parent.is_some()).unwrap();
    let mut wanted = request(&world.repository, &target.repository);
    wanted.backups = [child.id.clone()].into();
    let plan = transfer::plan(ctx, &wanted).unwrap();
    let text = plan.to_string();
    assert!(
        text.contains(&format!("{}: ", child.id)) && text.contains("is registered there first"),
        "{text}"
    );
    let copied = transfer::execute(ctx, &wanted, &plan, &WHO).unwrap();
    let chain = vec![child.parent.clone().unwrap(), child.id.clone()];
    assert_eq!(copied.backups, chain);
    assert_same(ctx, place, (&world.repository, &target.repository), &chain);
    let segments: BTreeSet<_> = list_all(&target.store, &place.all_wal_prefix())
        .unwrap()
        .into_iter()
        .map(|meta| meta.key)
        .collect();
    assert_eq!(segments.len() as u64, copied.segments);
    let needed = all.iter().filter(|backup| chain.contains(&backup.id));
    let needed = needed.flat_map(|backup| [&backup.wal_first, &backup.wal_last]);
    let needed: BTreeSet<ObjectKey> = needed.map(|name| place.wal(name).unwrap()).collect();
    assert_eq!(segments, needed);
    // Its timeline's history is there: the failover came before it.
    assert_eq!(child.timeline, 2);
    assert!(target.store.head(&place.history(2)).is_ok());
    // Everything else comes later, and finds what is there.
    let rest = copy(ctx, &request(&world.repository, &target.repository)).unwrap();
    assert_eq!(rest.backups.len(), all.len() - 2);
    assert_eq!(rest.segments, (world.archived.len() - needed.len()) as u64);
    let ids: Vec<_> = all.iter().map(|backup| backup.id.clone()).collect();
    assert_same(ctx, place, (&world.repository, &target.repository), &ids);
    // One that is not there is told.
    wanted.backups = ["20200101-000000F".parse().unwrap()].into();
    assert!(
        transfer::plan(ctx, &wanted)
            .unwrap_err()
            .to_string()
            .contains("no backup 20200101-000000F")
    );
}

#[test]
fn data_stays_in_its_jurisdiction() {
    let world = weeks(1);
    let target = Target::new(&world.ctx, CipherChoice::None);
    let refused = |from: Option<&str>, to: Option<&str>| {
        let mut wanted = request(&world.repository, &target.repository);
        (wanted.from.jurisdiction, wanted.to.jurisdiction) = (from, to);
        transfer::plan(&world.ctx, &wanted).err().map(|error| error.to_string())
    };
    for (from, to) in
        [(None, None), (None, Some("US")), (Some("EU"), Some("EU")), (Some("EU"), Some("eu"))]
    {
        assert_eq!(refused(from, to), None, "{from:?} {to:?}");
    }
    let told = refused(Some("EU"), Some("US")).unwrap();
    for words in ["repository a", "jurisdiction EU", "repository b", "jurisdiction US"] {
        assert!(told.contains(words), "{told}");
    }
    assert!(refused(Some("EU"), None).unwrap().contains("none that is configured"));
    // Nor by a plan that was made before.
    let mut wanted = request(&world.repository, &target.repository);
    let plan = transfer::plan(&world.ctx, &wanted).unwrap();
    wanted.from.jurisdiction = Some("EU");
    let late = transfer::execute(&world.ctx, &wanted, &plan, &WHO).unwrap_err();
    assert!(matches!(late, Error::Jurisdiction { .. }), "{late}");
    assert!(names(&target.store).is_empty());
    let same = transfer::plan(&world.ctx, &request(&world.repository, &world.repository));
    assert!(matches!(same, Err(Error::Same { .. })));
}

/// A byte anywhere in anything that belongs to a backup: it is named, and no manifest is put.
#[test]
fn what_is_damaged_in_the_source_does_not_arrive() {
    let world = weeks(1);
    let (ctx, place) = (&world.ctx, &world.place);
    let full = world.complete().remove(0);
    let listed = list_all(&world.store, "c/").unwrap();
    let is_own = |key: &ObjectKey| {
        let name = key.as_str();
        (name.contains(full.id.as_str()) && !name.contains("_") && !name.contains("/begin/"))
            || name.ends_with(&full.wal_first)
    };
    let own: Vec<_> = listed.iter().filter(|meta| is_own(&meta.key)).collect();
    assert!(own.len() > 5, "{own:?}");
    for meta in own {
        for offset in [40, 70, meta.size / 2, meta.size - 1] {
            let source = world.through_faults();
            world.faulty.corrupt(&meta.key, offset, 0x20);
            let target = Target::new(ctx, CipherChoice::Aes256Cbc);
            let mut wanted = request(&source, &target.repository);
            wanted.backups = [full.id.clone()].into();
            let error = copy(ctx, &wanted).map(drop).expect_err(meta.key.as_str());
            assert!(error.to_string().contains(meta.key.last_component()), "{}: {error}", meta.key);
            assert!(target.store.head(&place.manifest(&full.id)).is_err(), "{}", meta.key);
            world.faulty.heal();
            // Healthy again, the same goes on.
            copy(ctx, &wanted).unwrap();
            assert_same(
                ctx,
                place,
                (&world.repository, &target.repository),
                std::slice::from_ref(&full.id),
            );
        }
    }
    // One that was cut is told before anything is put.
    let source = world.through_faults();
    world.faulty.truncate(&place.pack(&full.id, 0), 100);
    let target = Target::new(ctx, CipherChoice::None);
    copy(ctx, &request(&source, &target.repository)).unwrap_err();
    assert!(target.names().iter().all(|name| !name.contains("/data/")));
}

/// What lies under a name there and is something else stays, and is named.
#[test]
fn a_name_that_holds_something_else_is_told_and_stays() {
    let mut world = weeks(1);
    let (ctx, place) = (world.ctx.clone(), world.place.clone());
    let target = Target::new(&ctx, CipherChoice::None);
    copy(&ctx, &request(&world.repository, &target.repository)).unwrap();
    let full = world.backup(BackupType::Full);
    // A copy that died had the pack, and another content in it.
    let other = Target::new(&ctx, CipherChoice::None);
    copy(&ctx, &request(&world.repository, &other.repository)).unwrap();
    let begin = other.repository.get_begin(&place, &full).unwrap();
    target.repository.put_begin(&ctx, &place, &begin).unwrap();
    let key = place.pack(&full, 0);
    let mut writer = target.repository.stream(&ctx, Kind::Pack, &key).unwrap();
    writer.content(b"something else", true, true).unwrap();
    let (sink, _) = writer.into_parts();
    sink.finish().unwrap();
    let refused = copy(&ctx, &request(&world.repository, &target.repository)).unwrap_err();
    assert!(refused.to_string().contains(key.as_str()), "{refused}");
    assert!(refused.to_string().contains("other content"), "{refused}");
    assert!(target.store.head(&place.manifest(&full)).is_err());
    // Another backup that began there under the name.
    let third = Target::new(&ctx, CipherChoice::None);
    copy(&ctx, &request(&target.repository, &third.repository)).unwrap();
    let begin = pgkeep::repo::Begin { copied: false, ..sample::begin(&full) };
    third.repository.put_begin(&ctx, &place, &begin).unwrap();
    let refused = copy(&ctx, &request(&world.repository, &third.repository)).unwrap_err();
    assert!(refused.to_string().contains("another backup that began"), "{refused}");
}
