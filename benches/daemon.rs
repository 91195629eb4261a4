//! WAL pushed and fetched through the daemon: against one process for each segment, and against pgBackRest's
//! asynchronous commands.
//!
//! `cargo bench --bench daemon`; `PGKEEP_BENCH_DIR` and `PGKEEP_BENCH_ROUNDS` as for `base_backup`, whose
//! cluster makes the WAL: `PGKEEP_BENCH_SEGMENTS` of it (256). All are ready at once, and a loop does what the
//! archiver does; another one does what recovery does, at once and with `PGKEEP_BENCH_REPLAY_MS` (100)
//! between two calls. The repository is a folder, then a bucket of the tests' server in this process, whose
//! requests wait 0 ms, then 20. Both tools reach it over TLS, which pgBackRest needs, by a proxy. Where there
//! is a bucket, whoever is measured has half the processors alone, as in `s3`, unless `PGKEEP_BENCH_APART=0`.
//! `PGKEEP_BENCH_STAGES` leaves stages out: `calls,folder,0,20` are all; `PGKEEP_BENCH_DAEMON` holds further
//! lines for the daemon's section of the configuration.
//!
//! Processor time is that of all processes on a tool's side. The daemon's is its own, read before and after.
//! pgBackRest forks a process that lives on without a parent; the bench is the subreaper of such processes,
//! waits for them (after the clock has stopped) and so has their times, and those of the workers that they
//! waited for, as its own children's.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "it asks for time and environment")]
#![allow(missing_docs, reason = "a program")]

mod live;
#[path = "../tests/it/support/s3/mod.rs"]
mod s3;

use std::process::Command;
use std::time::{Duration, Instant};

use live::archiver::{Servers, timed};
use live::cluster::Cluster;
use live::cores::Cores;
use live::cost::{Orphans, children_cpu};
use live::daemon::Daemon;
use live::folder::Folder;
use live::proxy::Proxy;
use live::sides::{PgBackRest, Pgkeep};
use live::{median, rounds, setting, tool};
use s3::TestS3;

/// So many are replayed, where replaying takes time.
const REPLAYED: usize = 64;
/// Calls of each kind, in blocks that take turns.
const CALLS: usize = 200;
const BLOCK: usize = 50;

struct Bench<'a> {
    folder: &'a Folder,
    cluster: &'a Cluster<'a>,
    servers: &'a Servers<'a>,
}

/// Where the repositories of a stage are.
struct Stage<'a> {
    what: String,
    s3: Option<&'a TestS3>,
    cores: Option<&'a Cores>,
}

struct Side<'a> {
    name: String,
    make: Box<dyn Fn() + 'a>,
    /// Whose daemon has to run.
    serves: Option<&'a Pgkeep<'a>>,
    push: String,
    get: String,
    pushes: Vec<Run>,
    gets: Vec<Run>,
    replays: Vec<Run>,
}

/// A loop over segments.
struct Run {
    wall: f64,
    cpu: f64,
    calls: Vec<f64>,
    /// Of the bucket.
    requests: usize,
}

fn main() {
    if !tool("pgbench").is_file() {
        println!("skipped: PostgreSQL 15 with its client tools is not installed");
        return;
    }
    let stages = std::env::var("PGKEEP_BENCH_STAGES").unwrap_or("calls,folder,0,20".into());
    let has = |stage: &str| stages.split(',').any(|each| each == stage);
    let folder = Folder::open();
    let cluster = Cluster::start(&folder);
    let servers = Servers::freeze(&folder, &cluster, setting("PGKEEP_BENCH_SEGMENTS", 256));
    let bench = Bench { folder: &folder, cluster: &cluster, servers: &servers };
    if has("calls") {
        bench.calls();
    }
    if has("folder") {
        let place = |name: &str| format!("url = \"file://{}\"", folder.join(name).display());
        let stage = Stage { what: "a folder".into(), s3: None, cores: None };
        bench.stage(&stage, &place, PgBackRest::find(&cluster, &folder));
    }
    let is_apart = setting("PGKEEP_BENCH_APART", 1) != 0;
    let cores = is_apart.then(Cores::apart);
    for wait in [0, 20].into_iter().filter(|wait| has(&wait.to_string())) {
        bench.bucket(Duration::from_millis(wait), cores.as_ref());
    }
}

impl Bench<'_> {
    fn bucket(&self, wait: Duration, cores: Option<&Cores>) {
        let folder = self.folder;
        let s3 = TestS3::builder().latency(wait).start();
        let Some(proxy) = Proxy::start(folder, &s3.endpoint()) else {
            println!("stunnel is not installed: buckets are left out");
            return;
        };
        let keys = [
            folder.write("access_key", s3.access_key()),
            folder.write("secret_key", s3.secret_key()),
        ];
        let place = |name: &str| {
            format!(
                "url = \"s3://{}/{name}\"\nendpoint = \"{}\"\nregion = \"{}\"\npath_style = true\n\
                 access_key_file = \"{}\"\nsecret_key_file = \"{}\"\nca_file = \"{}\"\n",
                s3.bucket(),
                proxy.endpoint(),
                s3.region(),
                keys[0].display(),
                keys[1].display(),
                proxy.certificate.display(),
            )
        };
        let options = format!(
            "repo1-type=s3\nrepo1-s3-endpoint=localhost\nrepo1-s3-bucket={}\nrepo1-s3-region={}\n\
             repo1-s3-key={}\nrepo1-s3-key-secret={}\nrepo1-s3-uri-style=path\n\
             repo1-storage-host=127.0.0.1\nrepo1-storage-port={}\nrepo1-storage-verify-tls=n\n",
            s3.bucket(),
            s3.region(),
            s3.access_key(),
            s3.secret_key(),
            proxy.port
        );
        let rest = PgBackRest::with(self.cluster, folder, &options);
        let what = format!("a bucket, {} ms a request", wait.as_millis());
        self.stage(&Stage { what, s3: Some(&s3), cores }, &place, rest);
    }

    /// All that is done with one kind of repository.
    fn stage(
        &self,
        stage: &Stage<'_>,
        place: &dyn Fn(&str) -> String,
        rest: Option<PgBackRest<'_>>,
    ) {
        let Bench { folder, cluster, servers } = self;
        let direct = Pgkeep::at(cluster, folder, "direct", &place("direct"), "");
        let further = std::env::var("PGKEEP_BENCH_DAEMON").unwrap_or_default();
        let served = self.served("served", &place("served"), &further);
        let mut sides = vec![
            self.pgkeep_side("pgkeep, direct", &direct, None),
            self.pgkeep_side("pgkeep, daemon", &served, Some(&served)),
        ];
        match &rest {
            Some(rest) => sides.push(self.rest_side(rest)),
            None => println!("pgBackRest is not installed: left out"),
        }
        let replay = setting("PGKEEP_BENCH_REPLAY_MS", 100);
        let replay = Duration::from_millis(replay.try_into().unwrap());
        let what = &stage.what;
        for round in 0..rounds(3) {
            for at in 0..sides.len() {
                let side_at = (round + at) % sides.len();
                let side = &mut sides[side_at];
                stage.s3.into_iter().for_each(empty);
                (side.make)();
                servers.make_ready();
                let push = self.run(side, stage, || servers.archive(&side.push));
                let all = servers.names.len();
                let get = self.run(side, stage, || servers.recover(&side.get, all, Duration::ZERO));
                let few = REPLAYED.min(all);
                let replayed = self.run(side, stage, || servers.recover(&side.get, few, replay));
                println!(
                    "{what}, round {round}: {:5.1}/s pushed, {:5.1}/s got, {:4.1} ms a replayed one: {}",
                    push.rate(),
                    get.rate(),
                    1e3 * median(replayed.calls.clone()),
                    side.name
                );
                side.pushes.push(push);
                side.gets.push(get);
                side.replays.push(replayed);
            }
        }
        print(&format!("push to {what}"), &sides, |side| &side.pushes);
        print(&format!("get from {what}"), &sides, |side| &side.gets);
        let title = format!("get from {what}, replaying for {} ms", replay.as_millis());
        print(&title, &sides, |side| &side.replays);
    }

    /// With a daemon of its own if it needs one, and with what pgBackRest got ahead forgotten.
    fn run(&self, side: &Side<'_>, stage: &Stage<'_>, work: impl Fn() -> Vec<f64>) -> Run {
        self.folder.make_empty("rest-spool");
        self.folder.settle();
        let measured = || {
            let daemon = side.serves.map(|pgkeep| Daemon::start(self.folder, pgkeep));
            let spent = || children_cpu() + daemon.as_ref().map_or(0.0, Daemon::cpu);
            let (orphans, before, begin) = (Orphans::adopt(), spent(), Instant::now());
            stage.s3.into_iter().for_each(TestS3::reset_counts);
            let calls = work();
            let wall = begin.elapsed().as_secs_f64();
            orphans.reap();
            let requests = stage.s3.map_or(0, |s3| s3.all_requests().values().sum());
            Run { wall, cpu: spent() - before, calls, requests }
        };
        match stage.cores {
            Some(cores) => cores.measured(measured),
            None => measured(),
        }
    }

    fn served<'b>(&'b self, name: &'static str, place: &str, further: &str) -> Pgkeep<'b> {
        let key = self.folder.join(&format!("{name}.key"));
        let daemon = Daemon::settings(self.folder);
        let lines = format!("key_file = \"{}\"\n\n{daemon}{further}", key.display());
        Pgkeep::at(self.cluster, self.folder, name, place, &lines)
    }

    fn pgkeep_side<'b>(
        &self,
        name: &str,
        pgkeep: &'b Pgkeep<'b>,
        serves: Option<&'b Pgkeep<'b>>,
    ) -> Side<'b> {
        Side {
            name: name.to_owned(),
            make: Box::new(|| pgkeep.make_repository()),
            serves,
            push: pgkeep.line("archive-push %p"),
            get: pgkeep.line("archive-get %f %p"),
            pushes: Vec::new(),
            gets: Vec::new(),
            replays: Vec::new(),
        }
    }

    fn rest_side<'b>(&self, rest: &'b PgBackRest<'b>) -> Side<'b> {
        Side {
            name: format!("{}, asynchronous", rest.version),
            make: Box::new(|| rest.make_repository()),
            serves: None,
            push: rest.line(&format!("{} archive-push %p", self.rest_options(true))),
            get: rest.line(&format!("{} archive-get %f %p", self.rest_options(false))),
            pushes: Vec::new(),
            gets: Vec::new(),
            replays: Vec::new(),
        }
    }

    fn rest_options(&self, pushes: bool) -> String {
        let Servers { primary, standby, .. } = self.servers;
        let data = if pushes { primary } else { standby };
        format!("--archive-async --process-max=4 --pg1-path={}", data.display())
    }

    /// What a call costs whose segment is archived already.
    fn calls(&self) {
        let Bench { folder, cluster, servers } = self;
        let place = format!("url = \"file://{}\"", folder.join("served").display());
        let served = self.served("served", &place, "push_ahead = 256\n");
        served.make_repository();
        let rest = PgBackRest::find(cluster, folder);
        rest.iter().for_each(PgBackRest::make_repository);
        servers.make_ready();
        let daemon = Daemon::start(folder, &served);
        let log = tempfile::tempfile().unwrap();
        let first = servers.names.first().unwrap();
        let ours = |name: &str| {
            let mut command = served.command();
            command.args(["archive-push", &format!("pg_wal/{name}")]).current_dir(&servers.primary);
            command
        };
        let theirs = |rest: &PgBackRest<'_>, name: &str| {
            let mut command = rest.command();
            command.args(self.rest_options(true).split(' '));
            command.args(["archive-push", &format!("pg_wal/{name}")]).current_dir(&servers.primary);
            command
        };
        let all = u64::try_from(servers.names.len()).unwrap();
        let orphans = Orphans::adopt();
        timed(&mut ours(first), &log);
        self.until(&served.repository(), all);
        if let Some(rest) = &rest {
            timed(&mut theirs(rest, first), &log);
            self.until(&rest.spool(), all);
        }
        orphans.reap();
        let bare = |program: &str| folder.command(program);
        let mut kinds: Vec<Kind<'_>> = vec![
            ("/bin/true", Box::new(|_| bare("/bin/true"))),
            (
                "pgkeep --version",
                Box::new(|_| {
                    let mut command = served.command();
                    command.arg("--version");
                    command
                }),
            ),
            ("pgkeep archive-push, by the daemon", Box::new(ours)),
        ];
        if let Some(rest) = &rest {
            kinds.push((
                "pgbackrest version",
                Box::new(|_| {
                    let mut command = bare("pgbackrest");
                    command.arg("version");
                    command
                }),
            ));
            let push = |name: &str| theirs(rest, name);
            kinds.push(("pgbackrest archive-push, asynchronous", Box::new(push)));
        }
        let names = servers.names.get(1..).unwrap_or_default();
        let names = names.get(..CALLS).unwrap_or(names);
        folder.settle();
        print_calls(&kinds, names, &daemon);
    }

    /// Until there are so many files, and no more than there were a second ago.
    fn until(&self, path: &std::path::Path, files_min: u64) {
        let mut last = 0;
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let (files, _) = self.folder.count(path);
            if files >= files_min && files == last {
                return;
            }
            last = files;
        }
    }
}

type Kind<'a> = (&'static str, Box<dyn Fn(&str) -> Command + 'a>);

/// Block by block in turn: processor time is counted in ticks of 10 ms.
fn print_calls(kinds: &[Kind<'_>], names: &[String], daemon: &Daemon) {
    let log = tempfile::tempfile().unwrap();
    let mut costs: Vec<(Vec<f64>, f64, f64)> = kinds.iter().map(|_| Default::default()).collect();
    for block in names.chunks(BLOCK) {
        for ((_, command), (walls, clients, server)) in kinds.iter().zip(&mut costs) {
            let before = (children_cpu(), daemon.cpu());
            walls.extend(block.iter().map(|name| timed(&mut command(name), &log)));
            *clients += children_cpu() - before.0;
            *server += daemon.cpu() - before.1;
        }
    }
    println!("\na call that is answered at once, {} of each", names.len());
    println!("    wall ms: median, 95 %   cpu ms: client, daemon");
    for ((name, _), (mut walls, clients, server)) in kinds.iter().zip(costs) {
        walls.sort_by(f64::total_cmp);
        let count = walls.len() as f64;
        println!(
            "    {:6.2} {:6.2}           {:6.2} {:6.2}            {name}",
            1e3 * median(walls.clone()),
            1e3 * walls.get(walls.len() * 95 / 100).unwrap(),
            1e3 * clients / count,
            1e3 * server / count,
        );
    }
}

fn empty(s3: &TestS3) {
    s3.keys().iter().for_each(|key| assert!(s3.lose(key)));
}

impl Run {
    fn rate(&self) -> f64 {
        self.calls.len() as f64 / self.wall
    }

    fn cpu_each(&self) -> f64 {
        self.cpu / self.calls.len() as f64
    }

    fn requests_each(&self) -> f64 {
        self.requests as f64 / self.calls.len() as f64
    }

    /// How long the median call and a late one (95 %) took.
    fn waits(&self) -> (f64, f64) {
        let mut calls = self.calls.clone();
        calls.sort_by(f64::total_cmp);
        (median(calls.clone()), *calls.get(calls.len() * 95 / 100).unwrap())
    }
}

fn print(title: &str, sides: &[Side<'_>], of: for<'a, 'b> fn(&'a Side<'b>) -> &'a Vec<Run>) {
    println!("\n{title}: medians of the rounds [least, most]");
    println!("    in brackets: this side / pgkeep direct, this side / pgBackRest, by the rounds");
    println!(
        "    segments/s                          cpu ms a segment          call ms: median, 95 %"
    );
    let (direct, rest) = (of(&sides[0]), sides.get(2).map(of));
    for side in sides {
        let runs = of(side);
        let all = |figure: &dyn Fn(&Run) -> f64| runs.iter().map(figure).collect::<Vec<f64>>();
        let ratios = |figure: &dyn Fn(&Run) -> f64| {
            let to = |others: &Vec<Run>| {
                median(runs.iter().zip(others).map(|(a, b)| figure(a) / figure(b)).collect())
            };
            format!("({:4.2}, {:4.2})", to(direct), rest.map_or(f64::NAN, to))
        };
        let mut rates = all(&Run::rate);
        rates.sort_by(f64::total_cmp);
        println!(
            "    {:6.1} [{:5.1}, {:5.1}] {}   {:6.1} {}   {:6.1} {:6.1}           {:5.1}      {}",
            median(rates.clone()),
            rates.first().unwrap(),
            rates.last().unwrap(),
            ratios(&Run::rate),
            1e3 * median(all(&Run::cpu_each)),
            ratios(&Run::cpu_each),
            1e3 * median(all(&|run| run.waits().0)),
            1e3 * median(all(&|run| run.waits().1)),
            median(all(&Run::requests_each)),
            side.name
        );
    }
}
