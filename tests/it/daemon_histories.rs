//! Histories that a daemon has to keep apart: timelines whose numbers have two digits, and primaries that
//! push other WAL under the same names at the same moment.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Duration;

use rustix::process::Signal;

use crate::archive_live::promoted;
use crate::daemon_live::Served;
use crate::standby_live::ready;
use crate::support::run::{DEADLINE, run, wait_until};
use crate::support::s3::S3Builder;
use crate::support::site::{Site, json, started};
use crate::support::{
    BucketSite, Cipher, ScratchDir, Server, Stop, TestCluster, TestConfig, TestDaemon, TestS3,
};

/// The last timeline: 11 to whoever reads the names in base 10, like the one of 11.
const TIMELINES: u32 = 0x11;

/// f015: a cluster is promoted until its timelines have numbers like 0000000A and 00000010.
#[test]
fn f015_timelines_past_9_are_archived_fetched_ahead_and_restored() {
    let Some(server) = Server::main() else { return };
    let site = Served::new(&server, "fallback = \"fail\"");
    let kept = ScratchDir::new("kept");
    let wal = site.cluster.data_dir().join("pg_wal");
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.config.run(["backup"]).assert_ok();
    let mut segments = Vec::new();
    for timeline in 2..=TIMELINES {
        site.cluster.stop(Stop::Fast);
        promoted(&site.cluster);
        // A promotion takes away what is not of its history: a copy is compared with later.
        for _ in 0..if timeline == 10 { 6 } else { 1 } {
            site.cluster.psql(&format!("insert into t values ({timeline})"));
            let name = site.cluster.archive_now();
            assert!(name.starts_with(&format!("{timeline:08X}")), "{timeline}: {name}");
            fs::copy(wal.join(&name), kept.join(&name)).unwrap();
            segments.push(name);
        }
    }
    wait_until(DEADLINE, || ready(&site.cluster).is_empty(), || site.daemon.log());
    assert!(!site.cluster.log().contains("archive command failed"), "{}", site.cluster.log());

    // The whole of it is shown: by number, each after the one before.
    let listed = site.config.run(["wal", "list"]).assert_ok();
    for timeline in 2..=TIMELINES {
        let line = format!("timeline {timeline}, from timeline {} at ", timeline - 1);
        assert!(listed.stdout.contains(&line), "{line}\n{listed}");
    }
    let parsed = json(&site.config.run(["wal", "list", "--json"]).assert_ok().stdout);
    let shown = parsed["repositories"][0]["timelines"].as_array().unwrap();
    let shown: Vec<_> = shown.iter().map(|each| each["timeline"].as_u64().unwrap()).collect();
    assert_eq!(shown, (1..=u64::from(TIMELINES)).collect::<Vec<_>>(), "{parsed:#}");
    site.config.run(["wal", "gaps"]).assert_ok();

    // Byte for byte, and ahead along timeline A.
    let out = wal.join("RECOVERYXLOG");
    let get = |name: &str| {
        site.config.run(["archive-get", name, out.to_str().unwrap()]).assert_ok();
        fs::read(&out).unwrap()
    };
    for timeline in 2..=TIMELINES {
        let name = format!("{timeline:08X}.history");
        assert!(get(&name) == fs::read(wal.join(&name)).unwrap(), "{name}");
    }
    let held = || site.daemon.status(&site.config)["daemon"]["clusters"][0]["held"].as_u64();
    for (at, name) in segments.iter().enumerate() {
        assert!(get(name) == fs::read(kept.join(name)).unwrap(), "{name}");
        if at > 0 && name.starts_with("0000000A") && segments[at + 1].starts_with("0000000A") {
            wait_until(DEADLINE, || held() > Some(0), || site.daemon.log());
        }
    }

    for (arguments, rows) in [
        (&[][..], "22|17"),
        (&["--target-timeline", "10"], "15|10"),
        (&["--target-timeline", "16"], "21|16"),
    ] {
        let out = ScratchDir::new("restored");
        let to = out.join("data");
        let mut restore = site.config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
        run(restore.arg("--to").arg(&to).args(arguments)).assert_ok();
        let restored = started(&server, &to);
        assert_eq!(restored.psql("select count(*), max(n) from t"), rows, "{arguments:?}");
    }
}

/// A running server, how it archives, and its own daemon if it has one.
struct Primary {
    cluster: TestCluster,
    command: String,
    own: Option<TestDaemon>,
}

/// Servers of one system on one timeline, each made of a copy of another one's directory.
struct Primaries<'a> {
    server: &'a Server,
    /// By which the archive is looked at.
    config: &'a TestConfig,
    /// The names of the archive's objects.
    names: &'a dyn Fn() -> BTreeSet<String>,
    /// How the server in a directory comes to its command and daemon.
    join: &'a dyn Fn(&TestCluster) -> (String, Option<TestDaemon>),
    scratch: ScratchDir,
    rounds: u32,
}

impl<'a> Primaries<'a> {
    fn new(
        server: &'a Server,
        config: &'a TestConfig,
        names: &'a dyn Fn() -> BTreeSet<String>,
        join: &'a dyn Fn(&TestCluster) -> (String, Option<TestDaemon>),
    ) -> Self {
        Self { server, config, names, join, scratch: ScratchDir::new("copies"), rounds: 0 }
    }

    /// A copy of a stopped server's directory runs beside it. Neither archives.
    fn copied(&mut self, first: &Primary) -> Primary {
        first.cluster.set_archive_command("false");
        first.cluster.stop(Stop::Fast);
        self.rounds += 1;
        let to = self.scratch.join(&format!("copy{}", self.rounds));
        let mut copying = first.cluster.command("cp");
        run(copying.arg("-a").arg(first.cluster.data_dir()).arg(&to)).assert_ok();
        let cluster = TestCluster::adopt(self.server, &to).start();
        first.cluster.start();
        let (command, own) = (self.join)(&cluster);
        Primary { cluster, command, own }
    }

    /// Both push at the same moment and go on writing; the one that loses is given back last.
    fn push_at_once(&self, both: [Primary; 2]) -> [Primary; 2] {
        let has_lost =
            |primary: &Primary| primary.cluster.log().contains("exists with other content");
        let is_done = |primary: &Primary| ready(&primary.cluster).is_empty();
        let is_over = |[first, second]: &[Primary; 2]| {
            (is_done(first) && has_lost(second)) || (is_done(second) && has_lost(first))
        };
        let [first, second] = self.push(both, is_over);
        if is_done(&first) { [first, second] } else { [second, first] }
    }

    /// Both push at the same moment and go on writing, until it is over.
    fn push(&self, both: [Primary; 2], is_over: impl Fn(&[Primary; 2]) -> bool) -> [Primary; 2] {
        let round = self.rounds;
        let writes = |cluster: &TestCluster, who: usize| {
            for _ in 0..6 {
                cluster.psql(&format!("insert into t values ('{round}', {who})"));
                cluster.switch_wal();
            }
        };
        let begin = &Barrier::new(2);
        std::thread::scope(|scope| {
            for (who, Primary { cluster, command, .. }) in both.iter().enumerate() {
                scope.spawn(move || {
                    writes(cluster, who);
                    begin.wait();
                    cluster.set_archive_command(command);
                    writes(cluster, who);
                });
            }
        });
        let told = || {
            let logs = both.each_ref().map(|primary| primary.cluster.log());
            format!(
                "{:?}\n{}",
                both.each_ref().map(|primary| ready(&primary.cluster)),
                logs.join("\n---\n")
            )
        };
        wait_until(DEADLINE, || is_over(&both), told);
        both
    }

    /// Every name holds what the winner has; the loser goes on, and gets in nowhere.
    fn assert_one_history(&self, winner: &Primary, loser: &Primary) {
        let newest = winner.cluster.archive_now();
        let mut last = String::new();
        while last.as_str() <= newest.as_str() {
            last = loser.cluster.switch_wal();
        }
        for _ in 0..5 {
            last = loser.cluster.switch_wal();
        }
        let failed = || loser.cluster.psql("select failed_count from pg_stat_archiver");
        let before = failed();
        // Each mark wakes its archiver, which tries the same file again, three times.
        loser
            .cluster
            .wait_until(&format!("(select failed_count from pg_stat_archiver) > {before}"));
        let conflict = loser.cluster.psql("select last_failed_wal from pg_stat_archiver");
        let marked = ready(&loser.cluster);
        let wal = |primary: &Primary| primary.cluster.data_dir().join("pg_wal");
        let theirs = segments_of(&wal(loser)).into_iter();
        for name in theirs.filter(|name| conflict <= *name && *name <= last) {
            assert!(marked.contains(&name), "{name} was archived\n{}", loser.cluster.log());
        }
        let out = ScratchDir::new("fetched");
        let mut compared = 0;
        let archived = (self.names)();
        assert!(archived.contains(&conflict), "{conflict}");
        let of_wal = archived.iter().filter(|name| name.starts_with("000000010000"));
        // Notes have longer names, which begin with the segment's.
        for name in of_wal {
            assert!(name[..24] <= newest[..], "{name} is ahead of the winner's {newest}");
            if name.len() > 24 {
                continue;
            }
            run(self.config.pgkeep(["archive-get", name]).arg(out.join("file"))).assert_ok();
            let content = fs::read(out.join("file")).unwrap();
            assert!(content == fs::read(wal(winner).join(name)).unwrap(), "{name}");
            if *name == conflict {
                assert!(content != fs::read(wal(loser).join(name)).unwrap(), "{name}");
            }
            compared += usize::from(*name >= conflict);
        }
        assert!(compared > 10, "{compared}");
        assert!(!winner.cluster.log().contains("other content"), "{}", winner.cluster.log());
        winner.cluster.psql("insert into t values ('after', 9)");
        winner.cluster.archive_now();
    }

    fn live_through(&mut self, mut winner: Primary) {
        winner.cluster.set("wal_keep_size", "1GB");
        winner.cluster.psql("create table t (round text, who int)");
        self.config.run(["backup"]).assert_ok();
        winner.cluster.archive_now();
        for _ in 0..3 {
            let copy = self.copied(&winner);
            let [first, loser] = self.push_at_once([winner, copy]);
            self.assert_one_history(&first, &loser);
            loser.cluster.stop(Stop::Immediate);
            if let Some(mut daemon) = loser.own {
                daemon.stop(Signal::KILL);
            }
            winner = first;
            let sides = "select count(*) from (select distinct round, who from t) r";
            assert_eq!(winner.cluster.psql(sides), (self.rounds + 1).to_string());
        }
        self.config.run(["wal", "gaps"]).assert_ok();
        let content = "select md5(string_agg(t::text, ',' order by t::text)), count(*) from t";
        let expected = winner.cluster.psql(content);
        let to = self.scratch.join("restored");
        let mut restore = self.config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
        run(restore.arg("--to").arg(&to)).assert_ok();
        assert_eq!(started(self.server, &to).psql(content), expected);
    }
}

/// Whole segments, and the one that is being written.
fn segments_of(wal: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(wal).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| name.len() == 24 && name.starts_with("0000")).collect()
}

fn names_below(folder: PathBuf) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => drop(names.insert(entry.file_name().into_string().unwrap())),
            }
        }
    }
    names
}

/// Both ask the same daemon, which serves one cluster.
#[test]
fn f002_f005_two_primaries_push_at_once_through_one_daemon() {
    let Some(server) = Server::main() else { return };
    let Site { cluster, config, repo } = Site::small(&server);
    let (mut daemon, config) = TestDaemon::configure(config, "push_jobs = 8");
    daemon.start(&config);
    let binary = cluster.scratch().pgkeep_binary().to_owned();
    let socket = daemon.socket();
    let command = format!("{} archive-push --socket {} \"%p\"", binary.display(), socket.display());
    cluster.set_archive_command(&command);
    let names = || names_below(repo.path().to_owned());
    let join = |_: &TestCluster| (command.clone(), None);
    let mut primaries = Primaries::new(&server, &config, &names, &join);
    primaries.live_through(Primary { cluster, command: command.clone(), own: None });
}

/// How a server comes to a daemon of its own, as on a host of its own, for the bucket of `site`.
fn own_daemon(site: &BucketSite) -> impl Fn(&TestCluster) -> (String, Option<TestDaemon>) + use<> {
    let text = fs::read_to_string(site.config.path()).unwrap();
    let source = (site.cluster.data_dir().display().to_string(), site.cluster.conninfo());
    move |cluster: &TestCluster| {
        let own = text.replace(&source.0, &cluster.data_dir().display().to_string());
        let own = TestConfig::new(cluster).replaced(&own.replace(&source.1, &cluster.conninfo()));
        let (mut daemon, config) = TestDaemon::configure(own, "push_jobs = 8\nfallback = \"fail\"");
        daemon.start(&config);
        // Its file goes with it: the command needs the socket alone.
        let binary = cluster.scratch().pgkeep_binary().display();
        let socket = daemon.socket();
        let command = format!("{binary} archive-push --socket {} \"%p\"", socket.display());
        (command, Some(daemon))
    }
}

fn in_a_bucket(server: &Server, s3: S3Builder) -> BucketSite {
    let s3 = s3.latency(Duration::from_millis(5)).start();
    let launch = TestCluster::create(server).checksums().wal_segment_mib(1);
    let site = BucketSite::from_launch(server, launch, s3, Cipher::Aes);
    site.cluster.psql("drop table t");
    site
}

/// Each has a daemon of its own, as on two hosts, and the bucket decides.
#[test]
fn f002_f005_two_primaries_push_at_once_into_a_bucket_by_a_daemon_each() {
    let Some(server) = Server::main() else { return };
    let site = in_a_bucket(&server, TestS3::builder());
    let join = own_daemon(&site);
    let BucketSite { cluster, config, s3, .. } = site;
    let (command, own) = join(&cluster);
    cluster.set_archive_command(&command);
    let names = || s3.keys().into_iter().map(last_component).collect();
    let mut primaries = Primaries::new(&server, &config, &names, &join);
    primaries.live_through(Primary { cluster, command, own });
}

fn last_component(key: String) -> String {
    key.rsplit('/').next().unwrap().to_owned()
}

/// Where the bucket ignores conditions, a name that both claim at once may stay without a content; what one
/// of them was told is archived has its content, and no other.
#[test]
fn f001_f002_f005_f090_two_primaries_push_at_once_where_conditions_are_ignored() {
    let Some(server) = Server::main() else { return };
    let site = in_a_bucket(&server, TestS3::builder().ignores_conditions());
    let join = own_daemon(&site);
    let BucketSite { cluster, config, s3, .. } = site;
    let (command, own) = join(&cluster);
    cluster.set_archive_command(&command);
    let names = || s3.keys().into_iter().map(last_component).collect();
    let mut primaries = Primaries::new(&server, &config, &names, &join);
    let first = Primary { cluster, command, own };
    first.cluster.psql("create table t (round text, who int)");
    let forked = first.cluster.archive_now();
    let second = primaries.copied(&first);
    let has_lost = |primary: &Primary| {
        let log = primary.cluster.log();
        ["exists with other content", "claimed for other content"]
            .iter()
            .any(|why| log.contains(why))
    };
    let mut both = primaries.push([first, second], |[first, second]| {
        match (ready(&first.cluster).is_empty(), ready(&second.cluster).is_empty()) {
            (true, true) => panic!("both believe that all of theirs is archived"),
            (true, false) => has_lost(second),
            (false, true) => has_lost(first),
            (false, false) => has_lost(first) && has_lost(second),
        }
    });
    for Primary { cluster, own, .. } in &mut both {
        cluster.set_archive_command("false");
        own.as_mut().unwrap().stop(Signal::TERM).assert_ok();
    }
    let out = ScratchDir::new("fetched");
    let archived = (primaries.names)();
    let (mut looked_at, mut foreign) = (0, BTreeSet::new());
    for primary in &both {
        let wal = primary.cluster.data_dir().join("pg_wal");
        let done = |name: &str| wal.join(format!("archive_status/{name}.done")).exists();
        for name in segments_of(&wal).into_iter().filter(|name| *name > forked) {
            looked_at += 1;
            if !archived.contains(&name) {
                assert!(!done(&name), "{name} was archived, it said, and is not there");
                continue;
            }
            run(config.pgkeep(["archive-get", &name]).arg(out.join("file"))).assert_ok();
            let is_own = fs::read(out.join("file")).unwrap() == fs::read(wal.join(&name)).unwrap();
            assert!(is_own || !done(&name), "{name} was archived, it said, with other content");
            let is_nobodys = !is_own && !foreign.insert(name.clone());
            assert!(!is_nobodys, "{name} has the content of neither");
        }
    }
    assert!(looked_at > 20, "{looked_at}");
    let claims = s3.keys().into_iter().filter(|key| key.contains("/claim/"));
    assert!(claims.count() > 0, "the bucket's conditions were relied on");
}
