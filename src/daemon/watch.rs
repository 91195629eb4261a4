//! What the daemon looks at by itself: how old what is not archived is, and how much is going on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Served, ServerPlace};
use super::service::Service;
use crate::archive::{continuity, oldest};
use crate::base::{Ctx, detached};

/// Between two looks for files that wait too long.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Between two looks for what is missing in the repositories, and how long after the start the first is.
const HOLES_EVERY: Duration = Duration::from_secs(300);
const HOLES_FIRST: Duration = Duration::from_secs(30);

/// Between two warnings about the same.
const WARN_EVERY: Duration = Duration::from_secs(300);

/// Looks at what nobody asks about.
#[derive(Debug)]
pub(super) struct Watch {
    ctx: Ctx,
    looked: Option<Duration>,
    /// When holes are looked for next.
    holes: Duration,
    /// When each cluster was warned of.
    warned: BTreeMap<String, Duration>,
    status: String,
}

impl Watch {
    pub(super) fn new(ctx: &Ctx) -> Self {
        let holes = ctx.clock.monotonic() + HOLES_FIRST;
        let (ctx, status) = (ctx.clone(), "ready".to_owned());
        Self { ctx, looked: None, holes, warned: BTreeMap::new(), status }
    }

    /// Looks where it is time to, and says in a line what is going on.
    pub(super) fn look(&mut self, service: &Service) -> String {
        let now = self.ctx.clock.monotonic();
        if self.looked.is_some_and(|looked| now.saturating_sub(looked) < LOOK_EVERY) {
            return self.status.clone();
        }
        self.looked = Some(now);
        let clusters = service.clusters();
        if now >= self.holes {
            self.holes = now + HOLES_EVERY;
            let (ctx, clusters) = (self.ctx.clone(), Arc::clone(&clusters));
            // It asks repositories that may be away: nobody waits for it.
            let look = move || clusters.iter().for_each(|served| look_for_holes(&ctx, served));
            if let Err(error) = detached(look) {
                self.ctx.warn(format!("holes are not looked for now: {error}"));
            }
        }
        let mut waiting = Vec::new();
        for served in clusters.iter() {
            served.tidy();
            let name = &served.cluster.name;
            let Some((file, age)) = self.oldest(&served.servers()) else {
                self.warned.remove(name);
                continue;
            };
            if age <= served.cluster.rpo {
                self.warned.remove(name);
                continue;
            }
            let seconds = age.as_secs();
            waiting.push(format!("{name}: {file} waits for {seconds} s"));
            let last = self.warned.get(name);
            if last.is_none_or(|last| now.saturating_sub(*last) >= WARN_EVERY) {
                self.warned.insert(name.clone(), now);
                self.ctx.warn(format!(
                    "cluster {name}: {file} waits to be archived for {seconds} s, longer than the \
                     rpo of {} s: what a disaster would cost grows",
                    served.cluster.rpo.as_secs()
                ));
            }
        }
        self.status = match waiting.is_empty() {
            true => format!("{} clusters, nothing waits too long", clusters.len()),
            false => waiting.join("; "),
        };
        self.status.clone()
    }

    /// The file that has waited for the longest time, of all servers of a cluster.
    fn oldest(&self, servers: &[ServerPlace]) -> Option<(String, Duration)> {
        let now = self.ctx.clock.now();
        let each = servers.iter().filter_map(|server| oldest(server.wal()).ok().flatten());
        let ages = each.map(|(file, since)| (file, (now - since).to_std().unwrap_or_default()));
        ages.max_by_key(|(_, age)| *age)
    }
}

/// Looks what is missing in the repositories of a cluster, and tells what was missing the last time, too:
/// pushing ahead makes holes for a moment.
fn look_for_holes(ctx: &Ctx, served: &Served) {
    let mut found = BTreeSet::new();
    for (repository, missing) in continuity(ctx, &served.cluster.openings, served.system()) {
        match missing {
            Ok(missing) => {
                found.extend(missing.into_iter().map(|what| format!("{repository}: {what}")))
            }
            Err(error) => ctx.note(format!("what {repository} holds is not known: {error}")),
        }
    }
    let mut holes = served.holes();
    for hole in found.intersection(&holes) {
        ctx.warn(format!(
            "cluster {}: WAL is missing in {hole}; `pgkeep wal gaps` says what that costs and the way out",
            served.cluster.name
        ));
    }
    *holes = found;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::archive::{
        Asked, Destination, FetchLimits, Openings, PushLimits, RepositoryUse, Unopened,
    };
    use crate::base::{Event, ManualClock, Observer, Timestamp};
    use crate::daemon::Told;
    use crate::daemon::cluster::Cluster;
    use crate::daemon::jobs::Jobs;
    use crate::storage::{MemoryStore, ObjectStore as _};

    /// What is said.
    #[derive(Debug, Default)]
    struct Said(Mutex<Vec<String>>);

    impl Said {
        fn warnings(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

    impl Observer for Said {
        fn event(&self, event: Event) {
            if let Event::Warning(text) = event {
                self.0.lock().unwrap().push(text);
            }
        }
    }

    #[derive(Debug)]
    struct InMemory {
        uses: [RepositoryUse; 1],
        destination: Destination,
    }

    impl Openings for InMemory {
        fn repositories(&self) -> &[RepositoryUse] {
            &self.uses
        }

        fn open(&self, _ctx: &Ctx, _at: usize, _asked: &Asked) -> Result<Destination, Unopened> {
            Ok(self.destination.clone())
        }

        fn has_kept(&self) -> bool {
            false
        }

        fn forget(&self) {}
    }

    fn in_memory(ctx: &Ctx, store: &MemoryStore) -> InMemory {
        let destination = Destination::of_a_test(ctx, Arc::new(store.clone()));
        let uses = [RepositoryUse { name: "memory".into(), is_required: true, is_local: false }];
        InMemory { uses, destination }
    }

    fn served(openings: InMemory) -> Cluster {
        Cluster {
            name: "main".into(),
            data_directory: None,
            openings: Arc::new(openings),
            push: PushLimits { jobs: 1, bytes: 0, window: 0 },
            fetch: FetchLimits { jobs: 0, bytes: 0 },
            wait: Duration::ZERO,
            repositories: Vec::new(),
            rpo: Duration::from_secs(300),
        }
    }

    /// A hole is told when it is there at two looks, five minutes apart, and again as long as it is.
    #[test]
    fn f020_a_hole_that_stays_is_told_every_five_minutes() {
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        let said = Arc::new(Said::default());
        let fixed = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let ctx = Ctx { clock: clock.clone(), observer: said.clone(), ..fixed };
        let store = MemoryStore::new();
        let openings = in_memory(&ctx, &store);
        let place = openings.destination.place.clone();
        let segment = |number: u32| place.wal(&format!("0000000100000000{number:08X}")).unwrap();
        let put = |number: u32| store.put(&segment(number), b"").unwrap();
        [1, 2, 4].into_iter().for_each(put);
        let tell = |_| Told { message: String::new(), causes: vec![], hint: None, is_final: false };
        let jobs = Jobs::begin(&ctx, |_| "", vec![]);
        let service = Service::new(&ctx, tell, vec![served(openings)], jobs);
        let mut watch = Watch::new(&ctx);
        // It looks in a thread of its own, which nobody waits for but here.
        let mut after = |by: u64, holes: usize, warnings: usize| {
            clock.advance(Duration::from_secs(by));
            watch.look(&service);
            let pause = Duration::from_millis(1);
            let found = || (service.clusters()[0].holes().len(), said.warnings().len());
            let tries = (0..60_000).take_while(|_| found() != (holes, warnings));
            tries.for_each(|_| std::thread::sleep(pause));
            assert_eq!(found(), (holes, warnings), "after {by} s more: {:?}", said.warnings());
        };
        after(0, 0, 0);
        after(29, 0, 0);
        after(10, 1, 0);
        after(10, 1, 0);
        after(280, 1, 0);
        after(10, 1, 1);
        after(290, 1, 1);
        after(10, 1, 2);
        put(3);
        after(300, 0, 2);
        after(300, 0, 2);
        let told = &said.warnings()[0];
        assert!(told.contains("memory: 000000010000000000000003"), "{told}");
        assert!(told.contains("on timeline 1; `pgkeep wal gaps` says"), "{told}");
    }
}
