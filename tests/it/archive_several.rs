//! Several repositories for the WAL of one cluster: one is away, does not know the cluster, has lost
//! something, or has come later.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::run::Ran;
use crate::support::{Cipher, ScratchDir, Server, TestCluster, TestConfig, TestRepo};

/// A cluster whose WAL the test pushes itself, and two repositories for it.
struct Pair {
    cluster: TestCluster,
    config: TestConfig,
    first: TestRepo,
    second: TestRepo,
    scratch: ScratchDir,
}

impl Pair {
    fn new(server: &Server) -> Self {
        let cluster = TestCluster::create(server).wal_segment_mib(1).archiving().start();
        let (first, second) = (TestRepo::new(), TestRepo::new());
        let config = both(&cluster, &first, &second);
        config.run(["init"]).assert_ok();
        cluster.psql("create table t (n int)");
        Self { cluster, config, first, second, scratch: ScratchDir::new("files") }
    }

    fn segment(&self) -> String {
        self.cluster.psql("insert into t values (1)");
        self.cluster.switch_wal()
    }

    fn push(&self, name: &str) -> Ran {
        push(&self.config, &self.cluster, name)
    }

    fn get<const N: usize>(&self, name: &str, flags: [&str; N]) -> Ran {
        let out = self.scratch.join("fetched");
        fs::remove_file(&out).ok();
        let mut command = self.config.pgkeep(["archive-get"]);
        crate::support::run::run(command.args(flags).arg(name).arg(out))
    }
}

fn both(cluster: &TestCluster, first: &TestRepo, second: &TestRepo) -> TestConfig {
    let config = TestConfig::new(cluster).repository("a", first, Cipher::Aes);
    config.repository("b", second, Cipher::None)
}

fn push(config: &TestConfig, cluster: &TestCluster, name: &str) -> Ran {
    let path = cluster.data_dir().join("pg_wal").join(name);
    config.run(["archive-push", path.to_str().unwrap()])
}

/// Where a repository keeps the epoch `epoch` of the only cluster.
fn epoch_folder(repo: &TestRepo, epoch: u32) -> Option<PathBuf> {
    let systems = fs::read_dir(repo.path().join("c/main")).ok()?.flatten();
    let ending = format!("-{epoch}");
    systems.map(|entry| entry.path()).find(|path| path.display().to_string().ends_with(&ending))
}

/// Whether the epoch of a repository holds the segment.
fn holds(repo: &TestRepo, epoch: u32, name: &str) -> bool {
    let folder = epoch_folder(repo, epoch);
    folder.is_some_and(|folder| folder.join(wal_path(name)).exists())
}

fn wal_path(name: &str) -> PathBuf {
    Path::new("wal").join(&name[..8]).join(&name[8..16]).join(name)
}

/// A repository that could not be opened ended the push before the other one was asked: as long as one
/// was away, none was given any WAL.
#[test]
fn d20261120_a_repository_that_is_away_does_not_starve_the_others() {
    let Some(server) = Server::main() else { return };
    let pair = Pair::new(&server);
    for (away, other) in [(&pair.first, &pair.second), (&pair.second, &pair.first)] {
        let name = pair.segment();
        let aside = away.path().with_extension("away");
        fs::rename(away.path(), &aside).unwrap();
        let refused = pair.push(&name).assert_code(1);
        assert!(refused.stderr.contains("there is no pgkeep repository"), "{refused}");
        assert!(holds(other, 1, &name), "{refused}");
        fs::rename(&aside, away.path()).unwrap();
        pair.push(&name).assert_ok();
        assert!(holds(away, 1, &name));
    }
}

/// restore names the epoch in restore_command. A repository without it holds no WAL of it; that was a
/// doubt, so that recovery to the end of WAL could never end.
#[test]
fn d20261120_a_repository_without_the_epoch_is_no_doubt() {
    let Some(server) = Server::main() else { return };
    let pair = Pair::new(&server);
    let name = pair.segment();
    pair.push(&name).assert_ok();
    let next = pair.segment();
    pair.get(&next, ["--epoch", "1"]).assert_code(1);
    fs::remove_dir_all(pair.second.path().join("c")).unwrap();
    pair.get(&next, []).assert_code(1);
    pair.get(&next, ["--epoch", "1"]).assert_code(1);
    pair.get(&name, ["--epoch", "1"]).assert_code(0);
    // None has it: nothing is known.
    pair.get(&next, ["--epoch", "2"]).assert_code(200);
}

/// A repository that holds WAL of the cluster and has lost its registration counted as one that does not
/// know the cluster, and what it alone held was "proven absent".
#[test]
fn d20261120_a_lost_registration_is_a_doubt() {
    let Some(server) = Server::main() else { return };
    let pair = Pair::new(&server);
    let name = pair.segment();
    let next = pair.segment();
    pair.push(&name).assert_ok();
    pair.push(&next).assert_ok();
    fs::remove_file(epoch_folder(&pair.first, 1).unwrap().join(wal_path(&next))).unwrap();
    pair.get(&next, []).assert_code(0);
    fs::remove_file(epoch_folder(&pair.second, 1).unwrap().join("cluster")).unwrap();
    for flags in [&[][..], &["--epoch", "1"]] {
        let ran = match flags {
            [] => pair.get(&next, []),
            _ => pair.get(&next, ["--epoch", "1"]),
        };
        let refused = ran.assert_code(200);
        assert!(refused.stderr.contains("registration"), "{refused}");
    }
    pair.get(&name, []).assert_code(0);
}

/// A repository that came after a new epoch was given the first one: the same number meant two histories,
/// and a restore of the old epoch took WAL of the new one.
#[test]
fn d20261120_a_repository_that_comes_later_joins_the_epoch_of_the_others() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let (first, second) = (TestRepo::new(), TestRepo::new());
    let alone = TestConfig::new(&cluster).repository("a", &first, Cipher::Aes);
    alone.run(["init"]).assert_ok();
    cluster.psql("create table t (n int)");
    let name = cluster.switch_wal();
    push(&alone, &cluster, &name).assert_ok();
    alone.run(["init", "--new-epoch"]).assert_ok();
    push(&alone, &cluster, &name).assert_ok();

    let config = both(&cluster, &first, &second);
    config.run(["--repository", "b", "init"]).assert_ok();
    assert!(epoch_folder(&second, 1).is_none() && epoch_folder(&second, 2).is_some());
    cluster.psql("insert into t values (1)");
    let next = cluster.switch_wal();
    push(&config, &cluster, &next).assert_ok();
    assert!(holds(&first, 2, &next) && holds(&second, 2, &next));
    let out = ScratchDir::new("out").join("fetched");
    let out = out.to_str().unwrap();
    config.run(["archive-get", "--epoch", "1", &next, out]).assert_code(1);

    // As a call that begins an epoch leaves them when it is killed half-way.
    let old = epoch_folder(&second, 2).unwrap();
    alone.run(["init", "--new-epoch"]).assert_ok();
    cluster.psql("insert into t values (2)");
    let last = cluster.switch_wal();
    let refused = push(&config, &cluster, &last).assert_code(1);
    assert!(refused.stderr.contains("pgkeep init"), "{refused}");
    assert!(holds(&first, 3, &last), "{refused}");
    assert!(!old.join(wal_path(&last)).exists(), "nothing of the new history goes beside the old");
    // Nor is it given in its place.
    fs::remove_file(epoch_folder(&first, 3).unwrap().join(wal_path(&last))).unwrap();
    let absent = config.run(["archive-get", &next, out]).assert_code(200);
    assert!(absent.stderr.contains("no WAL of the cluster is"), "{absent}");
    config.run(["init"]).assert_ok();
    push(&config, &cluster, &last).assert_ok();
    assert!(holds(&second, 3, &last));
}

/// An epoch had begun in one repository and not in the other, and the first was away: the other one, in the
/// older epoch, was given the new history's segments, and gave its own.
#[test]
fn d20261124_a_repository_in_an_older_epoch_knows_it_by_itself() {
    let Some(server) = Server::main() else { return };
    let pair = Pair::new(&server);
    let name = pair.segment();
    pair.push(&name).assert_ok();
    pair.config.run(["init", "--new-epoch"]).assert_ok();
    // As the call leaves it when it is killed half-way.
    fs::remove_file(epoch_folder(&pair.second, 2).unwrap().join("cluster")).unwrap();
    let away = pair.first.path().with_extension("away");
    fs::rename(pair.first.path(), &away).unwrap();
    let next = pair.segment();
    let refused = pair.push(&next).assert_code(1);
    assert!(refused.stderr.contains("epoch 2 of cluster main has begun"), "{refused}");
    assert!(!holds(&pair.second, 1, &next) && !holds(&pair.second, 2, &next), "{refused}");
    pair.get(&name, []).assert_code(200);
    pair.get(&name, ["--epoch", "1"]).assert_code(0);
    // With the other one it is known where the WAL is, and that there is no more.
    fs::rename(&away, pair.first.path()).unwrap();
    pair.push(&next).assert_code(1);
    assert!(holds(&pair.first, 2, &next));
    pair.get(&next, []).assert_code(0);
    let last = pair.segment();
    pair.get(&last, []).assert_code(1);
    let joined = pair.config.run(["init"]).assert_ok();
    assert!(joined.stdout.contains("joins epoch 2 in b"), "{joined}");
    pair.push(&next).assert_ok();
    assert!(holds(&pair.second, 2, &next));

    // One that was not configured when the epoch began learns it from the first push to both.
    let alone = TestConfig::new(&pair.cluster).repository("a", &pair.first, Cipher::Aes);
    alone.run(["init", "--new-epoch"]).assert_ok();
    pair.push(&last).assert_code(1);
    assert!(holds(&pair.first, 3, &last) && !holds(&pair.second, 2, &last));
    fs::rename(pair.first.path(), &away).unwrap();
    let later = pair.segment();
    pair.push(&later).assert_code(1);
    assert!(!holds(&pair.second, 2, &later));
    pair.get(&next, []).assert_code(200);
    fs::rename(&away, pair.first.path()).unwrap();
    pair.config.run(["init"]).assert_ok();
    pair.push(&later).assert_ok();
}

/// No epoch begins in any repository before it is announced in all of them.
#[test]
fn d20261124_an_epoch_that_cannot_be_announced_everywhere_does_not_begin() {
    let Some(server) = Server::main() else { return };
    let pair = Pair::new(&server);
    let name = pair.segment();
    pair.push(&name).assert_ok();
    let folder = pair.second.path().join("c/main");
    let allow = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    allow(0o500);
    pair.config.run(["init", "--new-epoch"]).assert_code(1);
    assert!(!epoch_folder(&pair.first, 2).unwrap().join("cluster").exists());
    // Whichever is asked, it is known that neither has the newest epoch's WAL.
    pair.get(&name, []).assert_code(200);
    let next = pair.segment();
    pair.push(&next).assert_code(1);
    assert!(!holds(&pair.first, 1, &next) && !holds(&pair.second, 1, &next));
    allow(0o700);
    pair.config.run(["init", "--new-epoch"]).assert_ok();
    pair.push(&next).assert_ok();
    assert!(holds(&pair.first, 2, &next) && holds(&pair.second, 2, &next));
}

/// A restore_command that names a repository asked that one alone: what only another one held was "proven
/// absent", and the server promoted with rows missing.
#[test]
fn d20261124_one_named_repository_proves_no_absence() {
    let Some(server) = Server::main() else { return };
    let pair = Pair::new(&server);
    let (name, last) = (pair.segment(), pair.segment());
    pair.push(&name).assert_ok();
    pair.push(&last).assert_ok();
    let next = pair.segment();
    let named = ["--repository", "a"];
    pair.get(&last, named).assert_code(0);
    pair.get(&next, named).assert_code(1);
    let lost = epoch_folder(&pair.first, 1).unwrap().join(wal_path(&last));
    fs::remove_file(lost).unwrap();
    let refused = pair.get(&last, named).assert_code(200);
    assert!(refused.stderr.contains("repository b has it"), "{refused}");
    assert!(!pair.scratch.join("fetched").exists(), "only the named one delivers");
    pair.get(&last, []).assert_code(0);
    // Nor is it while the other one cannot be asked; what the named one has is delivered.
    let away = pair.second.path().with_extension("away");
    fs::rename(pair.second.path(), &away).unwrap();
    pair.get(&last, named).assert_code(200);
    pair.get(&name, named).assert_code(0);
    fs::rename(&away, pair.second.path()).unwrap();
}

/// One repository has a last segment whose records stop early, the other one what follows. The first was
/// asked alone whether WAL goes on, and recovery would have ended in the middle.
#[test]
fn d20261120_a_segment_that_stops_early_is_not_the_end_while_another_repository_goes_on() {
    let Some(server) = Server::main() else { return };
    let pair = Pair::new(&server);
    let (name, next) = (pair.segment(), pair.segment());
    // The records of the copy stop in the middle, as on a disk that lost the rest.
    let whole = fs::read(pair.cluster.data_dir().join("pg_wal").join(&name)).unwrap();
    let folder = ScratchDir::new("cut");
    let mut cut = whole.clone();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    cut[used / 2..].fill(0);
    let only =
        |repo: &TestRepo, cipher| TestConfig::new(&pair.cluster).repository("only", repo, cipher);
    let first = only(&pair.first, Cipher::Aes);
    let path = folder.write(&name, &cut);
    first.run(["archive-push", path.to_str().unwrap()]).assert_ok().assert_says("records end at");
    let out = folder.join("out");
    let alone = first.run(["archive-get", &name, out.to_str().unwrap()]);
    alone.assert_ok();
    // The other repository has what follows; then also the whole segment itself.
    let second = only(&pair.second, Cipher::None);
    push(&second, &pair.cluster, &next).assert_ok();
    pair.get(&name, []).assert_code(200).assert_says(&next);
    push(&second, &pair.cluster, &name).assert_ok();
    pair.get(&name, []).assert_ok();
    assert!(fs::read(pair.scratch.join("fetched")).unwrap() == whole, "the whole one is given");
    // While that repository is away, nobody knows.
    let away = pair.second.path().with_extension("away");
    fs::rename(pair.second.path(), &away).unwrap();
    pair.get(&name, []).assert_code(200).assert_says("cannot be asked");
    fs::rename(&away, pair.second.path()).unwrap();
    pair.get(&name, []).assert_ok();
}

/// A push that failed at the first repository after it had sealed the segment put that, sealed with the
/// first one's key, under the name in the second: unreadable there, and never replaced.
#[test]
fn d20261124_each_repository_gets_what_its_own_key_opens() {
    let Some(server) = Server::main() else { return };
    let pair = Pair::new(&server);
    let name = pair.segment();
    let digits = &name[8..];
    let megabyte = u64::from_str_radix(&name[16..], 16).unwrap();
    let switch = format!("1\t0/{:X}\tno recovery target specified\n", (megabyte << 20) + 8192);
    // As after a promotion in the middle of this segment.
    let pg_wal = pair.scratch.create_dir("pg_wal");
    let global = pair.scratch.create_dir("global");
    let control = fs::read(pair.cluster.data_dir().join("global/pg_control")).unwrap();
    pair.scratch.write("global/pg_control", control);
    pair.scratch.write("pg_wal/00000002.history", switch);
    let content = fs::read(pair.cluster.data_dir().join("pg_wal").join(&name)).unwrap();
    let own = pair.scratch.write(&format!("pg_wal/00000002{digits}"), content);
    let push = |path: &Path| pair.config.run(["archive-push", path.to_str().unwrap()]);
    push(&pg_wal.join("00000002.history")).assert_ok();
    assert!(global.exists());

    let history = epoch_folder(&pair.first, 1).unwrap().join("history/00000002");
    let kept = fs::read(&history).unwrap();
    let mut damaged = kept.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&history, damaged).unwrap();
    push(&own).assert_code(1);
    fs::write(&history, kept).unwrap();
    push(&own).assert_ok();
    let own = own.file_name().unwrap().to_str().unwrap();
    for repository in ["a", "b"] {
        pair.get(own, ["--repository", repository]).assert_ok();
    }
}
