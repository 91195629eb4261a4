//! What `info` and `expire` cost by the number of objects: 1,000 backups with 100,000 segments against 10,000 with
//! 1,000,000, in memory and in a local folder. Cost should grow tenfold and no faster.
//!
//! `cargo bench --bench catalog`. Each size runs in a process of its own, so that memory can be told; the folder goes
//! below `TMPDIR`. Ratios are printed beside times.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]
#![allow(missing_docs, reason = "a program")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use pgkeep::base::{Ctx, Timestamp};
use pgkeep::crypt::{BlockHasher, Unlock};
use pgkeep::pg::{Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId};
use pgkeep::repo::manifest::{Counts, ServerRecord, Totals};
use pgkeep::repo::{
    BackupId, BackupType, Begin, CipherChoice, Found, HashScheme, InitOptions, Kind, LeaseRequest,
    Manifest, ObjectRecord, Place, Registration, Repository, Scope, Summary, WalFacts,
};
use pgkeep::retention::{self, Freed, Policy};
use pgkeep::storage::{LocalStore, MemoryStore, ObjectStore};

/// Backups, and segments between two of them.
const SIZES: [u64; 2] = [1_000, 10_000];
const APART: u64 = 100;

/// Segments in a folder.
const FLOOR_LOG: u64 = 256;

/// Every fourth is a full.
const FULLS: u64 = 4;

const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, store, count] = arguments.as_slice()
        && let Ok(count) = count.parse()
    {
        return measure(store, count);
    }
    for store in ["memory", "folder"] {
        let of = |count: &u64| run(store, *count);
        let [small, large] = [of(&SIZES[0]), of(&SIZES[1])];
        println!("{store}:");
        for ((what, small), (_, large)) in small.iter().zip(&large) {
            println!("  {what:28} {small:9.3} {large:9.3}   ratio {:5.1}", large / small);
        }
    }
}

/// One size in a process of its own: what it printed.
fn run(store: &str, count: u64) -> Vec<(String, f64)> {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).args([store, &count.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.map(|(what, value)| (what.to_owned(), value.parse().unwrap())).collect()
}

fn measure(store: &str, count: u64) {
    let end = begun() + TimeDelta::hours(i64::try_from(6 * count).unwrap());
    let ctx = Ctx::fixed(end, 1);
    let folder = std::env::temp_dir().join(format!("pgkeep-bench-catalog-{count}"));
    let made: Arc<dyn ObjectStore> = match store {
        "memory" => Arc::new(MemoryStore::with_clock(Arc::clone(&ctx.clock))),
        _ => {
            std::fs::remove_dir_all(&folder).ok();
            Arc::new(LocalStore::create(&folder).unwrap())
        }
    };
    let options =
        InitOptions { cipher: CipherChoice::None, unlock: &Unlock::Clear, label: "", cost: 14 };
    let repository = Repository::init(&ctx, Arc::clone(&made), &options).unwrap();
    let place = fill(&repository, &ctx, count, (store == "folder").then_some(folder.as_path()));
    repository.summarise(&ctx, &place, SIZE).unwrap();
    // A folder's time is the real one.
    let ctx = match store {
        "memory" => ctx,
        _ => Ctx { clock: Arc::new(pgkeep::base::SystemClock::new()), ..ctx },
    };
    let before = resident();
    let told = timed("info, s", || {
        let registration = repository.registration(&place).unwrap();
        let backups = repository.backups(&ctx, &place).unwrap();
        let survey = repository.survey(&ctx, &place, &registration).unwrap();
        backups.windows(&ctx, &repository, &place, &survey.wal).unwrap().len()
    });
    assert_eq!(told, 1);
    println!("info, MiB more={:.1}", resident() - before);
    let policy = Policy {
        daily: 7,
        weekly: 4,
        monthly: 12,
        yearly: 7,
        last: 0,
        min_full: 1,
        window: Duration::from_secs(14 * 86_400),
        zone: chrono_tz::Tz::UTC,
    };
    let mut plan = timed("expire --dry-run, s", || {
        retention::plan_expiry(&ctx, &repository, "main", &policy).unwrap()
    });
    println!("expire --dry-run, MiB more={:.1}", resident() - before);
    let request = LeaseRequest {
        scope: Scope::Expire,
        cluster: "main",
        host: "bench",
        pid: 1,
        purpose: "expire",
        backup: None,
        server: None,
        is_gone: |_, _| true,
    };
    let lease = repository.take_lease(&ctx, &request).unwrap().beside(&ctx);
    let freed = timed("expire, s", || {
        retention::execute_expiry(&ctx, &repository, &mut plan, "bench", &lease).unwrap()
    });
    println!("expire, MiB more={:.1}", resident() - before);
    println!("removed, thousands={:.1}", freed.objects as f64 / 1e3);
    drop(lease);
    if store == "folder" {
        std::fs::remove_dir_all(&folder).unwrap();
        floor(&folder, &freed);
    }
}

/// What the file system takes for a removal of the same size: as many files in folders like these, and an fsync for
/// each folder, in the flat ones for each thousand. It may grow faster than the number of files, too.
fn floor(root: &Path, freed: &Freed) {
    let flat = ["begin", "backup", "files"].map(|name| (name.to_owned(), freed.backups));
    let logs = freed.segments.div_ceil(FLOOR_LOG);
    let wal = (0..logs).map(|log| (format!("wal/{log:08X}"), FLOOR_LOG));
    let folders: Vec<(PathBuf, u64)> =
        flat.into_iter().chain(wal).map(|(name, count)| (root.join(name), count)).collect();
    for (folder, count) in &folders {
        std::fs::create_dir_all(folder).unwrap();
        for number in 0..*count {
            std::fs::write(folder.join(format!("{number:024X}")), b"never read").unwrap();
        }
    }
    timed("floor of that, s", || {
        for (folder, count) in &folders {
            for number in 0..*count {
                std::fs::remove_file(folder.join(format!("{number:024X}"))).unwrap();
                if (number + 1) % 1000 == 0 || number + 1 == *count {
                    std::fs::File::open(folder).unwrap().sync_all().unwrap();
                }
            }
        }
    });
    std::fs::remove_dir_all(root).unwrap();
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = work();
    println!("{what}={:.4}", begin.elapsed().as_secs_f64());
    done
}

/// The most memory that the process ever had, in MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    kib / 1024.0
}

fn begun() -> Timestamp {
    "2020-01-01T00:00:00Z".parse().unwrap()
}

fn name(number: u64) -> String {
    SegmentName::new(TimelineId::FIRST, SegmentNo(number), SIZE).unwrap().to_string()
}

fn lsn(number: u64, offset: u64) -> Lsn {
    Lsn(SegmentNo(number).begin(SIZE).unwrap().0 + offset)
}

fn fill(repository: &Repository, ctx: &Ctx, count: u64, folder: Option<&Path>) -> Place {
    let registration = Registration {
        cluster: "main".into(),
        system: 7,
        epoch: 1,
        created: begun(),
        major: 17,
        block_size: 8192,
        wal_block_size: 8192,
        wal_segment_size: SIZE.bytes(),
        relation_segment_blocks: 131_072,
    };
    let place = repository.register(ctx, &registration).unwrap();
    let mut full: Option<BackupId> = None;
    for number in 0..count {
        let id = backup(repository, ctx, &place, number, full.as_ref());
        if id.backup_type() == BackupType::Full {
            full = Some(id);
        }
    }
    let last = count * APART + 1;
    for number in 1..last {
        let key = place.wal(&name(number)).unwrap();
        match folder {
            // Durable or not does not matter here, and a million syncs would.
            Some(folder) => {
                let path: PathBuf = folder.join(key.as_str());
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, b"never read").unwrap();
            }
            None => repository.store().put(&key, b"never read").unwrap(),
        }
    }
    archive(repository, ctx, &place, last);
    place
}

/// The last segment, whose facts say when it was written.
fn archive(repository: &Repository, ctx: &Ctx, place: &Place, number: u64) {
    let text = format!(
        r#"{{"read":true,"commits":1,"aborts":0,"latest":"{}","end":"{}","ending":"full"}}"#,
        ctx.clock.now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        lsn(number + 1, 0)
    );
    let found: Found = serde_json::from_str(&text).unwrap();
    let facts = WalFacts {
        name: name(number),
        system: 7,
        size: 1,
        digest: repository.content_digest(b"x"),
        timeline: Some(1),
        address: Some(lsn(number, 0)),
        found: Some(found),
        by: None,
    };
    let key = place.wal(&name(number)).unwrap();
    repository.put_wal(ctx, Kind::Wal, &key, &facts, b"x").unwrap();
}

fn backup(
    repository: &Repository,
    ctx: &Ctx,
    place: &Place,
    number: u64,
    full: Option<&BackupId>,
) -> BackupId {
    let started = begun() + TimeDelta::hours(i64::try_from(6 * number).unwrap());
    let parent = full.filter(|_| !number.is_multiple_of(FULLS));
    let kind = if parent.is_some() { BackupType::Differential } else { BackupType::Full };
    let id = BackupId::of(kind, parent, started);
    let hash = HashScheme { algorithm: BlockHasher::ALGORITHM.into(), key: [7; 32] };
    let start = lsn(number * APART + 1, 0x28);
    let begin = Begin {
        id: id.clone(),
        backup_type: kind,
        parent: parent.cloned(),
        started,
        host: "bench".into(),
        pid: 1,
        tool: "bench".into(),
        timeline: 1,
        wal_from: start,
        hash: hash.clone(),
        directory: "/data".into(),
        directory_identity: None,
        standby: false,
        attempts: Vec::new(),
        lease: None,
        copied: false,
    };
    repository.put_begin(ctx, place, &begin).unwrap();
    let key = place.files(&id);
    let mut writer = repository.buffer(ctx, Kind::Files, &key).unwrap();
    writer.content(b"", true, true).unwrap();
    let (bytes, sealed) = writer.into_parts();
    repository.put_if_absent(&key, &bytes).unwrap();
    let bases = parent.map(|parent| repository.open_backup(place, parent).unwrap().as_bases());
    let segment = name(number * APART + 1);
    let summary = Summary {
        id: id.clone(),
        backup_type: kind,
        parent: parent.cloned(),
        cluster: "main".into(),
        system: 7,
        epoch: 1,
        started,
        finished: started + TimeDelta::minutes(30),
        timeline: 1,
        timeline_stop: 1,
        start_lsn: start,
        stop_lsn: lsn(number * APART + 1, 0x138),
        wal_first: segment.clone(),
        wal_last: segment,
        backup_label: String::new(),
        server: server(),
        hash,
        totals: Totals::default(),
        attempts: Vec::new(),
        counts: Counts::default(),
        tool: "bench".into(),
    };
    let objects = vec![ObjectRecord::new("files", &sealed)];
    let bases = bases.unwrap_or_default();
    let (reused, tablespaces, damage, index) = (vec![], vec![], vec![], vec![]);
    let mut manifest = Manifest { summary, objects, bases, reused, tablespaces, damage, index };
    repository.commit(ctx, place, &mut manifest).unwrap();
    id
}

fn server() -> ServerRecord {
    ServerRecord {
        version_num: 170_000,
        catalog_version: 1,
        block_size: 8192,
        wal_block_size: 8192,
        wal_segment_size: SIZE.bytes(),
        relation_segment_blocks: 131_072,
        checksums: true,
        standby: false,
        data_directory: "/data".into(),
        host: "bench".into(),
        preload_libraries: String::new(),
        logical_slots: Vec::new(),
        configuration: Default::default(),
    }
}
