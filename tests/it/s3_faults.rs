//! Seeded faults between pgkeep and its bucket: every command succeeds or says that it did not, nothing
//! half-made is visible afterwards, and what was promised is kept.
//!
//! `PGKEEP_SEED=n` runs one seed; a failure says which it was.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgkeep::archive::{self, GetOptions, Got};
use pgkeep::backup;
use pgkeep::base::{Ctx, Silent};
use pgkeep::repo::{BackupId, Repository, RowKind};
use pgkeep::storage::{S3Options, S3Store};

use crate::s3_store;
use crate::support::bucket_site::BucketSite;
use crate::support::library::{self, LibraryCluster};
use crate::support::run::Ran;
use crate::support::site::json;
use crate::support::{Cipher, Fault, ScratchDir, Server, TestCluster, TestS3, tools};

/// Everything that can happen to a request, each at any request.
fn all_faults() -> Vec<Fault> {
    let mut faults = Fault::transient();
    faults.extend([
        Fault::ShortResponse { missing: 1 },
        Fault::ShortResponse { missing: 5000 },
        Fault::CutRequest { after: 30_000 },
        Fault::CutResponse { after: 20_000 },
        Fault::WrongRange { shift: 1 },
        Fault::WrongRange { shift: 4096 },
        Fault::StaleList { lists: 1 },
        Fault::StaleList { lists: 2 },
        Fault::StaleList { lists: 3 },
        Fault::SlowBody { piece: 20_000, pause: Duration::from_millis(3) },
        Fault::ErrorInSuccess { code: "InternalError" },
        Fault::Bare404,
        Fault::HtmlPage,
        Fault::HangAfterActing,
    ]);
    faults
}

/// The seeds to run: those given, or the one in the environment.
fn seeds(fixed: &[u64]) -> Vec<u64> {
    let chosen = std::env::var("PGKEEP_SEED").ok();
    let chosen = chosen.map(|text| text.parse().expect("PGKEEP_SEED is a number"));
    chosen.map_or_else(|| fixed.to_vec(), |seed| vec![seed])
}

/// It succeeded, or said that it did not and why.
#[track_caller]
fn assert_told(ran: &Ran) -> bool {
    assert!(!ran.stderr.contains("panicked"), "{ran}");
    assert!(ran.is_ok() || (ran.code().is_some() && !ran.stderr.trim().is_empty()), "{ran}");
    ran.is_ok()
}

/// The segments that the server was told are archived.
fn archived(cluster: &TestCluster) -> BTreeSet<String> {
    let entries = std::fs::read_dir(cluster.data_dir().join("pg_wal/archive_status")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let done = names.filter_map(|name| name.strip_suffix(".done").map(str::to_owned));
    done.filter(|name| name.len() == 24).collect()
}

fn rows(cluster: &TestCluster) -> String {
    cluster
        .psql("select count(*), sum(n), (select md5(string_agg(x, '' order by x)) from u) from t")
}

/// One cluster's life while one in some requests goes wrong.
fn live_through(server: &Server, seed: u64) {
    // Every other one with claims.
    let builder = TestS3::builder();
    let builder = if seed.is_multiple_of(2) { builder.ignores_conditions() } else { builder };
    let site = BucketSite::new(server, builder.start(), Cipher::Aes);
    let (cluster, s3) = (&site.cluster, &site.s3);
    cluster.psql("create table u as select md5(n::text) x from generate_series(1, 5000) n");
    let spoilt = s3.faults(all_faults()).one_in(9, seed);
    let mut promised = BTreeSet::new();
    for _ in 0..6 {
        let name = site.segment();
        if assert_told(&site.push(&name)) {
            promised.insert(name);
        }
    }
    cluster.set_archive_command(&site.config.archive_command());
    let taken = site.config.run(["backup", "--json"]);
    let id = assert_told(&taken).then(|| json(&taken.stdout)["id"].as_str().unwrap().to_owned());
    for _ in 0..8 {
        site.segment();
    }
    promised.extend(archived(cluster));
    assert!(!promised.is_empty(), "one in nine requests fails, and nothing was archived");
    for name in &promised {
        let (ran, got) = site.get(name);
        match assert_told(&ran) {
            true => assert!(got.unwrap() == site.content(name), "{name}"),
            false => assert!(ran.code() == Some(200) && got.is_none(), "{ran}"),
        }
    }
    if id.is_some() && assert_told(&site.restore("faulty", &["--target-immediate"])) {
        tools::assert_verifybackup(cluster, &site.scratch.join("faulty"));
    }
    assert_told(&site.config.run(["info", "--json"]));
    assert!(spoilt.hits() > 2, "{} faults of {:?}", spoilt.hits(), s3.all_requests());

    // Afterwards: all that was promised, and nothing that is half-made.
    s3.clear_faults();
    for name in &promised {
        site.assert_gives(name, &site.content(name));
    }
    cluster.archive_now();
    for name in archived(cluster) {
        site.assert_gives(&name, &site.content(&name));
    }
    let listed = site.backups();
    assert!(id.is_none_or(|id| listed.contains(&id)), "{listed:?}");
    for id in &listed {
        site.restore(id, &["--backup", id, "--target-immediate"]).assert_ok();
        tools::assert_verifybackup(cluster, &site.scratch.join(id));
    }
    site.backup();
    assert_eq!(site.backups().len(), listed.len() + 1);
    cluster.psql("insert into t values (100)");
    cluster.archive_now();
    assert_eq!(rows(&site.restored("newest", &[])), rows(cluster));
}

#[test]
fn f006_f092_a_cluster_lives_through_seeded_faults() {
    let Some(server) = Server::main() else { return };
    for seed in seeds(&[1, 2]) {
        eprintln!("PGKEEP_SEED={seed}");
        live_through(&server, seed);
    }
}

/// Reads every block of every file of a backup: whatever is delivered is right.
fn read_all(repository: &Repository, live: &Live, id: &BackupId) -> pgkeep::repo::Result<()> {
    let backup = repository.open_backup(&live.place, id)?;
    let mut rows = backup.rows()?;
    let mut files = 0;
    while let Some(row) = rows.next_row()? {
        if row.kind != RowKind::File {
            continue;
        }
        let blocks = u32::try_from(row.size.div_ceil(8192)).unwrap();
        let mut crc = 0;
        for block in 0..blocks {
            crc = crc32c::crc32c_append(crc, &backup.read_block(&row, block)?);
        }
        assert_eq!(row.crc, Some(crc), "{}", String::from_utf8_lossy(&row.path));
        files += 1;
    }
    assert_eq!(files, backup.manifest().summary.totals.files);
    Ok(())
}

type Live = LibraryCluster<S3Store>;

fn open_store(s3: &TestS3) -> S3Store {
    let options = S3Options { idle_timeout: Duration::from_millis(250), ..s3_store::options(s3) };
    S3Store::open(&Ctx::system(Arc::new(Silent)), options).unwrap()
}

/// Pushes, fetches, a backup and its reading, all of it in small parts, while one in `n` requests fails.
fn work_through(live: &Live, s3: &TestS3, healthy: &Repository, scratch: &Path, seed: u64, n: u64) {
    let push_options = library::push_options(live.cluster.data_dir());
    let open = || live.open(Arc::new(open_store(s3)));
    let before = healthy.backups(&live.ctx, &live.place).unwrap().complete.len();
    let spoilt = s3.faults(all_faults()).one_in(n, seed);
    let mut promised = Vec::new();
    for _ in 0..3 {
        live.cluster.psql("insert into t values (1)");
        let segment = live.cluster.switch_wal();
        let path = live.cluster.data_dir().join("pg_wal").join(&segment);
        let content = std::fs::read(&path).unwrap();
        let Ok(repository) = open() else { continue };
        let to = [live.destination(repository)];
        if archive::push(&live.ctx, &to, &push_options, &path).is_ok() {
            // The server may remove it: it has been archived elsewhere as well.
            promised.push((segment, content));
        }
    }
    let fetch = |repository: Repository, (name, content): &(String, Vec<u8>)| {
        let out = scratch.join(name);
        let from = [live.destination(repository)];
        let got = archive::get(&live.ctx, &from, &GetOptions::default(), name, &out);
        let is_delivered = matches!(got, Ok(Got::Delivered { .. }));
        assert!(!matches!(got, Ok(Got::Absent)), "{name} was promised");
        assert_eq!(out.exists(), is_delivered, "{name}");
        assert!(!is_delivered || std::fs::read(&out).unwrap() == *content, "{name}");
        std::fs::remove_file(&out).ok();
        is_delivered
    };
    for segment in &promised {
        if let Ok(repository) = open() {
            fetch(repository, segment);
        }
    }
    let taken = open().map(|repository| live.backup(&repository, |_| {}));
    let taken = taken.ok().and_then(|taken: backup::Result<_>| taken.ok());
    if let (Some(taken), Ok(repository)) = (&taken, open()) {
        read_all(&repository, live, &taken.summary.id).ok();
    }
    assert!(spoilt.hits() > 0, "no faults at all: {:?}", s3.all_requests());

    s3.clear_faults();
    for segment in &promised {
        assert!(fetch(open().unwrap(), segment), "{}", segment.0);
    }
    let after = healthy.backups(&live.ctx, &live.place).unwrap();
    assert!(after.unreadable.is_empty(), "{:?}", after.unreadable);
    let added = after.complete.len() - before;
    // Its answer may have been lost, and not its work.
    assert!(added == 1 || (added == 0 && taken.is_none()), "{added} backups");
    let newest = after.complete.iter().skip(before);
    newest.for_each(|summary| read_all(healthy, live, &summary.id).unwrap());
}

#[test]
fn f006_f073_f092_seeded_faults_in_small_parts_are_survived_or_told() {
    let Some(server) = Server::main() else { return };
    let s3 = TestS3::builder().small_parts().start();
    let live = Live::start_in(&server, open_store(&s3));
    live.cluster.psql("create table t (n int)");
    let healthy = live.open(Arc::new(open_store(&s3))).unwrap();
    let scratch = ScratchDir::new("fetched");
    for (seed, n) in seeds(&[11, 12, 13, 14, 15, 16]).into_iter().zip([15, 30, 8, 20, 50, 12]) {
        eprintln!("PGKEEP_SEED={seed}");
        work_through(&live, &s3, &healthy, scratch.path(), seed, n);
    }
    let last = live.backup(&healthy, |_| {}).unwrap();
    read_all(&healthy, &live, &last.summary.id).unwrap();
    assert!(s3.requests("CompleteMultipartUpload") > 0, "nothing came in parts");
}

/// A cache in between answers for another range: as many bytes, and a header that fits.
#[test]
fn f072_f073_wrong_bytes_under_a_right_header_are_never_delivered() {
    let Some(server) = Server::main() else { return };
    for cipher in [Cipher::Aes, Cipher::None] {
        let site = BucketSite::new(&server, TestS3::start(), cipher).impatient().archiving();
        let id = site.backup();
        let name = site.segment();
        let content = site.content(&name);
        site.cluster.archive_now();
        for shift in [1, 4096] {
            let wrong = site.s3.fault(Fault::WrongRange { shift }).on("GetObject");
            let wrong = wrong.when(|seen| seen.has_range).always();
            // A whole object has no other bytes to be given; a part of it has.
            let (ran, got) = site.get(&name);
            let is_right = || got.as_ref().is_some_and(|got| *got == content);
            assert!(if ran.is_ok() { is_right() } else { got.is_none() }, "{shift}\n{ran}");
            let refused = site.restore("wrong", &["--target-immediate"]);
            assert!(!assert_told(&refused), "{shift}\n{refused}");
            assert!(!site.scratch.join("wrong/global/pg_control").exists());
            assert!(wrong.hits() > 0);
            site.s3.clear_faults();

            // Of the packs alone, and once only: a restore that says so is right.
            let wrong = site.s3.fault(Fault::WrongRange { shift }).on("GetObject");
            let wrong = wrong.when(|seen| seen.has_range && seen.key.contains("/data/"));
            let wrong = wrong.next(1);
            let to = format!("once{shift}");
            if assert_told(&site.restore(&to, &["--target-immediate"])) {
                tools::assert_verifybackup(&site.cluster, &site.scratch.join(&to));
            }
            assert_eq!(wrong.hits(), 1, "{shift}");
            site.s3.clear_faults();
        }
        assert_eq!(site.backups(), [id]);
        let to = "right";
        site.restore(to, &["--target-immediate"]).assert_ok();
        tools::assert_verifybackup(&site.cluster, &site.scratch.join(to));
    }
}
