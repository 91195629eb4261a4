//! The archive on real servers and through the command line: what is refused, what is kept beside
//! what, what a repetition answers; and that no failure of the archive ends a recovery early.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::run::{Ran, run, start};
use crate::support::{
    Cipher, ScratchDir, Server, Stop, TestCluster, TestConfig, TestRepo, account,
};

const MIB: u64 = 1 << 20;

/// A cluster whose WAL stays in `pg_wal` until the test pushes it, and its repository.
pub(crate) struct Site {
    pub(crate) cluster: TestCluster,
    pub(crate) config: TestConfig,
    pub(crate) repo: TestRepo,
    pub(crate) scratch: ScratchDir,
}

impl Site {
    pub(crate) fn new(server: &Server, segment_mib: u32) -> Self {
        let cluster = TestCluster::create(server).wal_segment_mib(segment_mib).archiving().start();
        let repo = TestRepo::new();
        let config = TestConfig::new(&cluster).repository("local", &repo, Cipher::Aes);
        config.run(["init"]).assert_ok();
        cluster.psql("create table t (n int)");
        Self { cluster, config, repo, scratch: ScratchDir::new("files") }
    }

    pub(crate) fn wal(&self, name: &str) -> PathBuf {
        self.cluster.data_dir().join("pg_wal").join(name)
    }

    /// A complete segment of some records, in `pg_wal`.
    pub(crate) fn segment(&self) -> String {
        self.cluster.psql("insert into t values (1)");
        self.cluster.switch_wal()
    }

    pub(crate) fn push(&self, name: &str) -> Ran {
        push(&self.config, &self.wal(name))
    }

    /// Pushes bytes under a name, from a folder of their own.
    pub(crate) fn push_bytes(&self, name: &str, content: &[u8]) -> Ran {
        let folder = ScratchDir::new("bytes");
        push(&self.config, &folder.write(name, content))
    }

    /// Runs archive-get: its end, and what is at the destination.
    pub(crate) fn get(&self, name: &str) -> (Ran, Option<Vec<u8>>) {
        let out = self.scratch.join("fetched");
        fs::remove_file(&out).ok();
        let ran = self.config.run(["archive-get", name, out.to_str().unwrap()]);
        (ran, fs::read(&out).ok())
    }

    #[track_caller]
    pub(crate) fn assert_gives(&self, name: &str, content: &[u8]) {
        let (ran, got) = self.get(name);
        ran.assert_code(0);
        assert!(got.unwrap() == content, "{name}: byte for byte");
    }

    #[track_caller]
    pub(crate) fn assert_gives_nothing(&self, name: &str, code: i32) {
        let (ran, got) = self.get(name);
        ran.assert_code(code);
        assert!(got.is_none(), "{name}: something is at the destination");
    }

    /// How many objects hold the segment, and how many hold partial versions of it.
    #[track_caller]
    pub(crate) fn assert_kept(&self, name: &str, full: usize, partial: usize) {
        let objects = objects(self.repo.path());
        let partials = objects.iter().filter(|path| {
            path.components().any(|part| part.as_os_str() == "partial")
                && path.file_name().unwrap().to_str().unwrap().starts_with(name)
        });
        assert_eq!(objects.iter().filter(|path| path.ends_with(name)).count(), full, "{objects:?}");
        assert_eq!(partials.count(), partial, "{objects:?}");
    }

    /// The object in the repository's folder whose name ends so.
    pub(crate) fn object(&self, ending: &str) -> PathBuf {
        let found = objects(self.repo.path()).into_iter().find(|path| path.ends_with(ending));
        found.map(|path| self.repo.path().join(path)).unwrap_or_else(|| panic!("no {ending}"))
    }
}

pub(crate) fn push(config: &TestConfig, path: &Path) -> Ran {
    config.run(["archive-push", path.to_str().unwrap()])
}

/// Every file in a folder, by its path in it.
fn objects(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path().strip_prefix(folder).unwrap().to_path_buf()),
            }
        }
    }
    found.sort();
    found
}

/// Bytes without any order, the same in each run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
pub(crate) fn f005_the_first_file_under_a_name_stays() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let name = site.segment();
    let first = fs::read(site.wal(&name)).unwrap();
    site.push(&name).assert_ok();
    let mut other = first.clone();
    *other.last_mut().unwrap() ^= 1;
    let refused = site.push_bytes(&name, &other).assert_code(1);
    assert!(refused.stderr.contains("First write wins"), "{refused}");
    site.assert_gives(&name, &first);
    site.push(&name).assert_ok();
}

#[test]
pub(crate) fn f003_f006_what_is_no_segment_of_this_cluster_is_refused() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let name = site.segment();
    let whole = fs::read(site.wal(&name)).unwrap();
    let before = objects(site.repo.path());
    let refused = site.push_bytes(&name, &noise(whole.len())).assert_code(1);
    assert!(refused.stderr.contains("WAL"), "{refused}");
    let half = whole.len() / 2;
    for wrong in [&[][..], &whole[..1], &whole[..8192], &whole[..half], &whole[..whole.len() - 1]] {
        site.push_bytes(&name, wrong).assert_code(1);
    }
    let longer = [whole.as_slice(), &[0]].concat();
    site.push_bytes(&name, &longer).assert_code(1);
    site.push_bytes(&name, &noise(3_000_000)).assert_code(1);
    // A good segment under the name of another, and under no name of a segment.
    site.push_bytes("0000000100000000000000F0", &whole).assert_code(1);
    site.push_bytes("00000001000000000000000g", &whole).assert_code(1);
    assert_eq!(objects(site.repo.path()), before, "nothing was stored");
    site.push(&name).assert_ok();
    site.assert_gives(&name, &whole);
}

/// A WAL format that this version does not know is stored when it is told to, and given back as it was.
#[test]
fn a_segment_of_an_unknown_version_is_stored_when_that_is_accepted() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let name = site.segment();
    let mut future = fs::read(site.wal(&name)).unwrap();
    // `xlp_magic`, the first two bytes of each page.
    future.chunks_mut(8192).for_each(|page| page[..2].copy_from_slice(&0xD1F0_u16.to_le_bytes()));
    let folder = ScratchDir::new("bytes");
    let path = folder.write(&name, &future);
    let before = objects(site.repo.path());
    let refused = push(&site.config, &path).assert_code(1);
    assert!(refused.stderr.contains("--accept-unknown-wal"), "{refused}");
    assert_eq!(objects(site.repo.path()), before, "nothing was stored");
    let accepting = ["archive-push", "--accept-unknown-wal", path.to_str().unwrap()];
    site.config.run(accepting).assert_ok();
    site.config.run(accepting).assert_ok();
    site.assert_gives(&name, &future);
    // Whose it is counts all the same, and the first one stays.
    let refused = site.push(&name).assert_code(1);
    assert!(refused.stderr.contains("First write wins"), "{refused}");
    let mut foreign = future.clone();
    foreign[24] ^= 1;
    let path = folder.write(&name, &foreign);
    let refused = site.config.run(["archive-push", "--accept-unknown-wal", path.to_str().unwrap()]);
    assert!(refused.assert_code(1).stderr.contains("system"));
    site.assert_gives(&name, &future);
}

#[test]
fn f001_f003_a_second_cluster_is_refused_under_the_first_one_s_name() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let ours = site.segment();
    site.push(&ours).assert_ok();
    let kept = fs::read(site.wal(&ours)).unwrap();
    let other = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let names: Vec<String> = (0..4).map(|_| other.switch_wal()).collect();
    let theirs = names.last().unwrap();
    assert!(*theirs > ours, "a name that is free here");
    let before = objects(site.repo.path());

    // Its real segment, at a free and higher number, as if it were ours.
    let foreign = other.data_dir().join("pg_wal").join(theirs);
    let refused = site.push_bytes(theirs, &fs::read(&foreign).unwrap()).assert_code(1);
    assert!(refused.stderr.contains("system"), "it says whose it is\n{refused}");
    // The other server itself, configured with our repository and our cluster's name.
    let config = TestConfig::new(&other).repository("local", &site.repo, Cipher::Aes);
    for name in &names {
        push(&config, &other.data_dir().join("pg_wal").join(name)).assert_code(1);
    }
    assert_eq!(objects(site.repo.path()), before, "nothing was stored");
    site.assert_gives(&ours, &kept);
    site.assert_gives_nothing(theirs, 1);
}

#[test]
pub(crate) fn f018_f075_a_damaged_object_is_never_given_and_never_absent() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let before = site.segment();
    site.push(&before).assert_ok();
    let name = site.segment();
    site.push(&name).assert_ok();
    let content = fs::read(site.wal(&name)).unwrap();
    let object = site.object(&name);
    let stored = fs::read(&object).unwrap();
    let last = stored.len() - 1;
    for place in [0, 4, 40, last / 3, last / 2, last - 40, last] {
        let mut changed = stored.clone();
        changed[place] ^= 0x10;
        fs::write(&object, &changed).unwrap();
        site.assert_gives_nothing(&name, 200);
    }
    for length in [0, 1, 100, last / 2, last] {
        fs::write(&object, &stored[..length]).unwrap();
        site.assert_gives_nothing(&name, 200);
    }
    let longer = [stored.as_slice(), &[0]].concat();
    fs::write(&object, longer).unwrap();
    site.assert_gives_nothing(&name, 200);
    fs::write(&object, &stored).unwrap();
    site.assert_gives(&name, &content);
    // Absent at the end is absent; with a later one there it is a hole.
    fs::remove_file(&object).unwrap();
    site.assert_gives_nothing(&name, 1);
    let next = site.segment();
    site.push(&next).assert_ok();
    site.assert_gives_nothing(&name, 200);
}

/// A control file that could not be read counted as none, and the system as unknown: the repository's only
/// one was asked, which after pg_upgrade is another.
#[test]
fn d20261124_a_control_file_that_cannot_be_read_is_a_doubt() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let (name, next) = (site.segment(), site.segment());
    site.push(&name).assert_ok();
    site.cluster.stop(Stop::Fast);
    site.assert_gives_nothing(&next, 1);
    let path = site.cluster.data_dir().join("global/pg_control");
    let content = fs::read(&path).unwrap();
    let mut torn = content.clone();
    torn[16] ^= 1;
    fs::write(&path, &torn).unwrap();
    site.assert_gives_nothing(&next, 200);
    site.assert_gives_nothing(&name, 200);
    fs::write(&path, &content).unwrap();
    site.assert_gives_nothing(&next, 1);
}

#[test]
pub(crate) fn f002_two_promotions_to_one_timeline_are_told_apart() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let (first, second) = (
        "1\t0/1500000\tno recovery target specified\n",
        "1\t0/1600000\tno recovery target specified\n",
    );
    site.push_bytes("00000002.history", first.as_bytes()).assert_ok();
    site.push_bytes("00000002.history", first.as_bytes()).assert_ok();
    site.push_bytes("00000002.history", second.as_bytes()).assert_code(1);
    site.push_bytes("00000003.history", b"").assert_code(1);
    site.push_bytes("00000003.history", b"not a history").assert_code(1);
    site.assert_gives("00000002.history", first.as_bytes());
    let name = site.segment();
    site.push(&name).assert_ok();
    site.assert_gives_nothing("00000003.history", 1);
}

/// Makes a stopped directory a standby that follows only its own `pg_wal`, starts and promotes it.
pub(crate) fn promoted(cluster: &TestCluster) {
    let signal = cluster.data_dir().join("standby.signal");
    fs::write(&signal, "").unwrap();
    account::unprivileged().own(&signal);
    cluster.start();
    cluster.promote();
    cluster.wait_for_promotion();
}

#[test]
pub(crate) fn f024_no_segment_of_a_timeline_is_stored_before_its_history() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    site.cluster.stop(Stop::Fast);
    promoted(&site.cluster);
    let name = site.segment();
    assert!(name.starts_with("00000002"), "{name}");
    let history = site.wal("00000002.history");
    let away = site.scratch.join("history");
    fs::rename(&history, &away).unwrap();
    let before = objects(site.repo.path());
    site.push(&name).assert_code(1).assert_says("00000002.history");
    assert_eq!(objects(site.repo.path()), before, "nothing was stored");
    fs::rename(&away, &history).unwrap();
    site.push(&name).assert_ok();
    site.assert_gives("00000002.history", &fs::read(&history).unwrap());
    site.assert_gives(&name, &fs::read(site.wal(&name)).unwrap());
    // The first timeline has none: absent, whatever lies beside it.
    site.assert_gives_nothing("00000001.history", 1);
    // The server's own push of it, later, is a repetition; and without a local file it is there.
    site.push("00000002.history").assert_ok();
    fs::rename(&history, &away).unwrap();
    let next = site.segment();
    site.push(&next).assert_ok();
    fs::rename(&away, &history).unwrap();
}

/// A stopped cluster's directory, copied.
pub(crate) fn copy_of(cluster: &TestCluster, scratch: &ScratchDir) -> PathBuf {
    let copy = scratch.join("copy");
    let mut copying = cluster.command("cp");
    run(copying.arg("-a").arg(cluster.data_dir()).arg(&copy)).assert_ok();
    copy
}

/// Stops the cluster; a copy of its directory is promoted, archives into the same repository, and is
/// another server from there on.
pub(crate) fn promoted_copy(server: &Server, site: &Site) -> (TestCluster, TestConfig) {
    site.cluster.stop(Stop::Fast);
    let standby = TestCluster::adopt(server, &copy_of(&site.cluster, &site.scratch)).prepare();
    promoted(&standby);
    let theirs = TestConfig::new(&standby).repository("local", &site.repo, Cipher::Aes);
    (standby, theirs)
}

#[test]
pub(crate) fn f010_f031_partial_segments_lie_beside_full_ones() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let before = site.segment();
    site.push(&before).assert_ok();
    site.cluster.psql("insert into t values (1)");
    let (standby, theirs) = promoted_copy(&server, &site);
    let copy = standby.data_dir();
    let wal = copy.join("pg_wal");
    let partial = fs::read_dir(&wal).unwrap().flatten().map(|entry| entry.path());
    let partial = partial.into_iter().find(|path| path.extension().is_some_and(|e| e == "partial"));
    let partial = partial.expect("promotion leaves one");
    let full = partial.file_stem().unwrap().to_str().unwrap().to_owned();

    push(&theirs, &partial).assert_ok();
    push(&theirs, &partial).assert_ok();
    site.assert_kept(&full, 0, 1);
    site.assert_gives_nothing(&full, 1);
    site.assert_gives_nothing(&format!("{full}.partial"), 1);
    // As a standby with archive_mode = always pushes it: under the full name, the history beside it.
    let always = ScratchDir::new("always");
    always.write("00000002.history", fs::read(wal.join("00000002.history")).unwrap());
    let early = always.write(&full, fs::read(&partial).unwrap());
    push(&theirs, &early).assert_ok();
    site.assert_kept(&full, 0, 1);
    site.assert_gives_nothing(&full, 1);

    // The old primary goes on for a while and completes the segment: its version is the full one.
    site.cluster.start();
    assert_eq!(site.segment(), full);
    site.push(&full).assert_ok();
    let complete = fs::read(site.wal(&full)).unwrap();
    site.assert_gives(&full, &complete);
    push(&theirs, &partial).assert_ok();
    site.assert_gives(&full, &complete);
    site.assert_kept(&full, 1, 1);
}

#[test]
fn f031_a_label_is_stored_under_its_own_name() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let before = site.segment();
    site.push(&before).assert_ok();
    site.cluster.psql("select pg_backup_start('x', true); select 1 from pg_backup_stop(false)");
    let entries = fs::read_dir(site.wal("")).unwrap().flatten().map(|entry| entry.path());
    let label = entries.into_iter().find(|path| path.extension().is_some_and(|e| e == "backup"));
    let label = label.expect("the server leaves one");
    let name = label.file_name().unwrap().to_str().unwrap();
    push(&site.config, &label).assert_ok();
    push(&site.config, &label).assert_ok();
    site.assert_gives(name, &fs::read(&label).unwrap());
    // It says nothing about the segment whose name it begins with.
    site.assert_gives_nothing(&name[..24], 1);
    site.push(&name[..24]).assert_ok();
    site.assert_gives(&name[..24], &fs::read(site.wal(&name[..24])).unwrap());
}

#[test]
pub(crate) fn f016_every_segment_size_goes_there_and_back() {
    let Some(server) = Server::main() else { return };
    for mib in [1, 16, 64] {
        let site = Site::new(&server, mib);
        let names = [site.segment(), site.segment()];
        for name in &names {
            site.push(name).assert_ok();
            let content = fs::read(site.wal(name)).unwrap();
            assert_eq!(content.len() as u64, u64::from(mib) * MIB);
            site.assert_gives(name, &content);
        }
        // The names that follow, at the end of the archive: absent.
        let next = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
        site.assert_gives_nothing(&next, 1);
    }
}

#[test]
fn f004_f013_a_push_killed_at_any_moment_can_be_repeated() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let whole = site.segment();
    let begun = Instant::now();
    site.push(&whole).assert_ok();
    let takes = begun.elapsed();
    let (mut killed, mut stored) = (0, 0);
    for step in 0..16_u32 {
        let name = site.segment();
        let path = site.wal(&name);
        let running = start(&mut site.config.pgkeep(["archive-push", path.to_str().unwrap()]));
        // The moment of the kill is the point: from the start to past the end.
        std::thread::sleep((takes + Duration::from_millis(5)) * step / 15);
        running.signal(Signal::KILL);
        let ended = running.wait();
        killed += u32::from(!ended.is_ok());
        let object = objects(site.repo.path()).into_iter().any(|path| path.ends_with(&name));
        stored += u32::from(object && !ended.is_ok());
        assert!(object || !ended.is_ok(), "said to be stored, and is not\n{ended}");
        site.push(&name).assert_ok();
        site.assert_gives(&name, &fs::read(&path).unwrap());
    }
    assert!(killed > 0, "no push was killed ({stored} between store and answer)");
    site.assert_gives(&whole, &fs::read(site.wal(&whole)).unwrap());
}

/// `pg_resetwal --wal-segsize` changes what a segment's name means: nothing of the new sizes goes beside
/// the old ones, and a new epoch takes them.
#[test]
pub(crate) fn f016_a_changed_segment_size_needs_a_new_epoch() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let before = site.segment();
    site.push(&before).assert_ok();
    site.cluster.stop(Stop::Fast);
    let mut reset = site.cluster.command("pg_resetwal");
    run(reset.arg("--wal-segsize=2").arg("-D").arg(site.cluster.data_dir())).assert_ok();
    site.cluster.start();
    let name = site.segment();
    let next = site.segment();
    for name in [&name, &next] {
        site.push(name).assert_code(1).assert_says("segments of 2097152 bytes now");
    }
    site.config.run(["init"]).assert_code(1).assert_says("--new-epoch");
    site.config.run(["check"]).assert_code(14).assert_says("--new-epoch");
    let refused = site.config.run(["backup", "--type", "diff"]).assert_code(1);
    refused
        .assert_says("registered with 8192 and 1048576")
        .assert_says("`pgkeep backup --type full`");
    site.config.run(["init", "--new-epoch"]).assert_ok().assert_says("epoch 2 begins");
    let again = site.config.run(["init", "--new-epoch"]).assert_ok();
    assert!(again.stdout.contains("epoch 2 has begun"), "{again}");
    site.push(&name).assert_ok();
    site.assert_gives(&name, &fs::read(site.wal(&name)).unwrap());
    // The old epoch's segment is there in its own.
    let out = site.scratch.join("old");
    let get = ["archive-get", "--epoch", "1", &before, out.to_str().unwrap()];
    site.config.run(get).assert_ok();
    assert_eq!(fs::read(&out).unwrap().len() as u64, MIB);
}

/// Right after a promotion the archive had the new timeline's history, and not yet its first segment;
/// recovery along the new timeline was given the old primary's copy of that segment, and replayed what
/// was written there after the switch.
#[test]
pub(crate) fn d20261120_an_abandoned_end_of_a_timeline_is_not_given_to_its_descendant() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    site.cluster.psql("insert into t values (1)");
    let (standby, theirs) = promoted_copy(&server, &site);
    let copy = standby.data_dir();
    let history = copy.join("pg_wal/00000002.history");
    push(&theirs, &history).assert_ok();
    site.cluster.start();
    let abandoned = site.segment();
    site.push(&abandoned).assert_ok();

    let folder = ScratchDir::new("pg_wal");
    let out = folder.join("RECOVERYXLOG");
    let get = |name: &str| {
        fs::remove_file(&out).ok();
        site.config.run(["archive-get", name, out.to_str().unwrap()])
    };
    // A recovery along timeline 1 takes all of it.
    get(&abandoned).assert_ok();
    // One along timeline 2 has its history, and waits for that timeline's own copy.
    folder.write("00000002.history", fs::read(&history).unwrap());
    let refused = get(&abandoned).assert_code(200);
    let own = format!("00000002{}", &abandoned[8..]);
    assert!(refused.stderr.contains(&own), "{refused}");
    assert!(!out.exists());
    standby.psql("insert into t values (2)");
    assert_eq!(standby.switch_wal(), own);
    push(&theirs, &copy.join("pg_wal").join(&own)).assert_ok();
    get(&own).assert_ok();
    get(&abandoned).assert_ok();
}

/// At the destination is the whole file or nothing, whenever the call is killed, and what it leaves
/// beside is in nobody's way.
#[test]
pub(crate) fn f017_a_fetch_killed_at_any_moment_leaves_the_whole_file_or_none() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 16);
    let name = site.segment();
    site.push(&name).assert_ok();
    let whole = fs::read(site.wal(&name)).unwrap();
    let out = site.scratch.join("RECOVERYXLOG");
    let get = || start(&mut site.config.pgkeep(["archive-get", &name, out.to_str().unwrap()]));
    let begun = Instant::now();
    get().wait().assert_ok();
    let takes = begun.elapsed();
    let (mut killed, mut there) = (0, 0);
    for step in 0..24_u32 {
        fs::remove_file(&out).ok();
        let running = get();
        // The moment of the kill is the point: from the start to past the end.
        std::thread::sleep((takes + Duration::from_millis(5)) * step / 23);
        running.signal(Signal::KILL);
        let ended = running.wait();
        killed += u32::from(!ended.is_ok());
        match fs::read(&out) {
            Ok(found) => {
                there += 1;
                assert!(found == whole, "a part of the file has its name");
            }
            Err(_) => assert!(!ended.is_ok(), "said to be delivered, and is not\n{ended}"),
        }
    }
    assert!(killed > 0, "no fetch was killed ({there} files were there)");
    get().wait().assert_ok();
    assert!(fs::read(&out).unwrap() == whole);
}
