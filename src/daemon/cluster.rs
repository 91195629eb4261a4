//! A cluster as the daemon runs it: what pushes ahead, what fetches ahead, and what is pending.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::protocol::{ClusterStatus, Lag};
use crate::archive::{
    CatchUp, FetchAhead, FetchLimits, Openings, PushAhead, PushLimits, ServerFolders,
    read_control_file, ready, status_line,
};
use crate::base::Ctx;

/// What the daemon is told of a cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its configured name.
    pub name: String,
    /// Its data directory, where this process sees one.
    pub data_directory: Option<PathBuf>,
    /// Opens its repositories.
    pub openings: Arc<dyn Openings>,
    /// How much is pushed ahead.
    pub push: PushLimits,
    /// How much is fetched ahead.
    pub fetch: FetchLimits,
    /// How long a file that recovery asks for is looked for, where that may help.
    pub wait: Duration,
    /// What tells its repositories from those of another configuration.
    pub repositories: Vec<String>,
    /// How much time a disaster may cost at most.
    pub rpo: Duration,
}

/// A cluster that is being served.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) cluster: Cluster,
    pub(super) push: Arc<PushAhead>,
    pub(super) fetch: FetchAhead,
    pub(super) catch_up: CatchUp,
    /// What was missing in the repositories when it was looked at last.
    pub(super) holes: Mutex<BTreeSet<String>>,
}

/// Where a server's files are. The paths lead there as long as this lives.
#[derive(Debug)]
pub(super) enum ServerPlace {
    Asked(Arc<ServerFolders>),
    Configured(PathBuf, PathBuf),
}

impl ServerPlace {
    pub(super) fn data(&self) -> &Path {
        match self {
            Self::Asked(folders) => folders.data(),
            Self::Configured(data, _) => data,
        }
    }

    pub(super) fn wal(&self) -> &Path {
        match self {
            Self::Asked(folders) => folders.wal(),
            Self::Configured(_, wal) => wal,
        }
    }
}

impl Served {
    pub(super) fn begin(ctx: &Ctx, cluster: Cluster) -> Self {
        let push = PushAhead::begin(ctx, Arc::clone(&cluster.openings), cluster.push);
        let push = Arc::new(push);
        let fetch = FetchAhead::begin(ctx, cluster.fetch);
        let configured = cluster.data_directory.as_deref();
        let system = configured.and_then(|data| read_control_file(data).ok());
        let system = system.map(|control| control.system_identifier);
        let catch_up = CatchUp::begin(ctx, &cluster.openings, &push, system);
        Self { cluster, push, fetch, catch_up, holes: Mutex::default() }
    }

    /// Whether this is its configured data directory, by what an open folder shows.
    pub(super) fn is_at(&self, data: &Path) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let id = |path: &Path| std::fs::metadata(path).ok().map(|data| (data.dev(), data.ino()));
        let configured = self.cluster.data_directory.as_deref().and_then(id);
        configured.is_some() && configured == id(data)
    }

    /// The servers that are known: those that asked, else the one of the configured directory.
    pub(super) fn servers(&self) -> Vec<ServerPlace> {
        let asked = self.push.folders().into_iter().map(ServerPlace::Asked);
        let mut places: Vec<ServerPlace> = asked.collect();
        if let (true, Some(data)) = (places.is_empty(), &self.cluster.data_directory) {
            places.push(ServerPlace::Configured(data.clone(), data.join("pg_wal")));
        }
        places
    }

    /// The system identifier of a server that is known.
    pub(super) fn system(&self) -> Option<u64> {
        let servers = self.servers();
        let mut read = servers.iter().filter_map(|server| read_control_file(server.data()).ok());
        read.next().map(|control| control.system_identifier)
    }

    pub(super) fn holes(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.holes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tidy(&self) {
        self.push.tidy();
        self.fetch.tidy();
    }

    /// Begins nothing more of its own accord.
    pub(super) fn stop(&self) {
        self.push.stop();
        self.fetch.stop();
        self.catch_up.stop();
    }

    pub(super) fn status(&self) -> ClusterStatus {
        let (push, fetch) = (self.push.status(), self.fetch.status());
        let mut status = ClusterStatus {
            cluster: self.cluster.name.clone(),
            storing: push.under_way,
            ahead: push.ahead,
            held: fetch.held,
            held_bytes: fetch.bytes,
            lags: self.catch_up.lagging().into_iter().map(Lag::from).collect(),
            holes: self.holes().iter().cloned().collect(),
            ..ClusterStatus::default()
        };
        for server in self.servers() {
            status.ready += ready(server.wal(), 0, |_| false).map_or(0, |ready| ready.count);
            let line = status_line(server.data()).unwrap_or_default();
            status.is_stopping |= line == "stopping" || line == "starting";
        }
        status
    }
}
