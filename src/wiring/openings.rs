//! How the archive commands open repositories when they work alone.

use std::sync::Arc;

use super::error::Error;
use super::repositories::{self, Access};
use crate::archive::{Asked, Destination, Openings, Purpose, RepositoryUse, Unopened};
use crate::base::Ctx;
use crate::config::{RepositorySettings, Resolved};

/// Opens each repository for one file, as a process does that lives for one.
#[derive(Debug)]
pub struct Direct {
    cluster: String,
    settings: Vec<RepositorySettings>,
    uses: Vec<RepositoryUse>,
}

impl Direct {
    /// Those of a configured cluster.
    #[must_use]
    pub fn openings(resolved: &Resolved) -> Arc<dyn Openings> {
        let settings = resolved.repositories.clone();
        let uses = uses(&settings);
        Arc::new(Self { cluster: resolved.cluster_name.clone(), settings, uses })
    }
}

pub(super) fn uses(settings: &[RepositorySettings]) -> Vec<RepositoryUse> {
    let each = settings.iter();
    each.map(|each| RepositoryUse {
        name: each.name.clone(),
        is_required: each.is_required,
        is_local: each.s3.is_none(),
    })
    .collect()
}

pub(super) fn unopened(repository: &str, error: Arc<Error>) -> Unopened {
    Unopened {
        repository: repository.to_owned(),
        is_unregistered: error.is_unregistered(),
        announced_epoch: error.announced_epoch(),
        may_pass: error.may_pass(),
        source: error,
    }
}

impl Openings for Direct {
    fn repositories(&self) -> &[RepositoryUse] {
        &self.uses
    }

    fn open(&self, ctx: &Ctx, at: usize, asked: &Asked) -> Result<Destination, Unopened> {
        let settings = self.settings.get(at).expect("it is one of these repositories");
        let access = match asked.purpose {
            Purpose::Push => Access::Push,
            Purpose::Fetch => Access::Fetch,
            Purpose::FetchAnew => Access::FetchAnew,
        };
        let (cluster, Asked { system, epoch, .. }) = (&self.cluster, *asked);
        let opened = repositories::destination(ctx, settings, cluster, system, epoch, access);
        let (destination, warnings) =
            opened.map_err(|error| unopened(&settings.name, Arc::new(error)))?;
        warnings.iter().for_each(|warning| ctx.warn(warning.to_string()));
        Ok(destination)
    }

    fn has_kept(&self) -> bool {
        repositories::has_openings(&self.settings)
    }

    fn forget(&self) {
        repositories::forget_openings(&self.settings);
    }
}
