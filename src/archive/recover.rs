//! What recovery asks for: one file, or proof that no repository has it.
//!
//! What may pass is tried again for a while: WAL that is still on its way looks like a hole. For a standby,
//! whose recovery goes on in any case, it is tried again in any doubt; what it is told in the end is decided
//! beside it ([`super::promotion`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Destination;
use super::asking::Ahead;
use super::error::{Error, Result};
use super::get::{Delivered, GetOptions, Got, Target, get_to};
use super::openings::{Asked, GRACE, Opening, Openings, Purpose, Unopened, without_older_epochs};
use super::pgdata::read_control_file;
use super::standby::is_standby;
use crate::base::Ctx;
use crate::pg::{Lsn, WalFileName};

/// How long what is kept may take to be at hand.
const KEPT_LIMIT: Duration = Duration::from_secs(2);

/// Between two tries: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is asked for, and by whom.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The file, by PostgreSQL's name.
    pub name: String,
    /// The restore's plan saw WAL up to here: within it, absence is an error.
    pub through: Option<Lsn>,
    /// From this epoch's archive; the newest where none is named.
    pub epoch: Option<u32>,
    /// Deliver from this repository alone.
    pub only: Option<String>,
    /// The server's data directory, where it is known.
    pub data_directory: Option<PathBuf>,
    /// How long to try again where that may help.
    pub wait: Duration,
}

/// An answer that recovery can go on with.
#[derive(Debug)]
pub enum Recovered {
    /// The file is at its target.
    Delivered(Box<Delivered>),
    /// Proven: no repository has it, and nothing shows that it is needed.
    Absent,
}

/// Fetches one file, or proves that no repository has it.
///
/// # Errors
/// Every doubt.
pub fn recover(
    ctx: &Ctx,
    openings: &Arc<dyn Openings>,
    wanted: &Wanted,
    target: Target<'_>,
    ahead: Option<&Arc<dyn Ahead>>,
) -> Result<Recovered> {
    WalFileName::parse(wanted.name.as_bytes())
        .map_err(|source| Error::Name { name: wanted.name.clone(), source })?;
    let recovery = Recovery { ctx, openings, wanted, target, ahead };
    let standby = wanted.data_directory.as_deref().filter(|directory| is_standby(directory));
    let clock = &ctx.clock;
    let (begun, mut pause) = (clock.monotonic(), FIRST_PAUSE);
    // By what was read earlier a file can be delivered. Anything else is to be found out now.
    if openings.has_kept()
        && let Some(delivered) = recovery.quick()
    {
        return Ok(Recovered::Delivered(delivered));
    }
    loop {
        let doubt = match recovery.attempt() {
            Ok(Got::Delivered(delivered)) => return Ok(Recovered::Delivered(delivered)),
            Ok(Got::Absent) => return Ok(Recovered::Absent),
            Err(doubt) => doubt,
        };
        if doubt.error.is_final() {
            return Err(*doubt.error);
        }
        ctx.cancel.check()?;
        let waited = clock.monotonic().saturating_sub(begun);
        let goes_on = doubt.may_pass || standby.is_some();
        if !goes_on || waited + pause > wanted.wait {
            return Err(*doubt.error);
        }
        ctx.note(format!("trying again: {}", doubt.error));
        clock.sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why a fetch is neither delivered nor proven absent.
struct Doubt {
    error: Box<Error>,
    may_pass: bool,
}

impl From<Error> for Doubt {
    fn from(error: Error) -> Self {
        Self { may_pass: error.may_pass(), error: Box::new(error) }
    }
}

struct Recovery<'a> {
    ctx: &'a Ctx,
    openings: &'a Arc<dyn Openings>,
    wanted: &'a Wanted,
    target: Target<'a>,
    ahead: Option<&'a Arc<dyn Ahead>>,
}

impl Recovery<'_> {
    /// Delivers by what was read earlier, from whoever is ready soon.
    fn quick(&self) -> Option<Box<Delivered>> {
        let mut opening = self.opening(Purpose::Fetch).ok()?;
        let mut found = Found::default();
        let mut limit = KEPT_LIMIT;
        while let Some(answer) = opening.next(Some(limit)) {
            found.add(answer);
            if !found.destinations.is_empty() {
                limit = GRACE;
            }
        }
        self.early(&found, &opening)
    }

    /// Every repository that can be asked, whichever is to deliver: the others may hold what that one has
    /// not. Those that answer soon are asked first, for a file; that it is absent they all must say.
    fn attempt(&self) -> std::result::Result<Got, Doubt> {
        let mut opening = self.opening(Purpose::FetchAnew)?;
        let mut found = Found::default();
        let mut limit = None;
        while let Some(answer) = opening.next(limit) {
            found.add(answer);
            limit = (!found.destinations.is_empty()).then_some(GRACE);
        }
        if opening.waiting().next().is_some() {
            if let Some(delivered) = self.early(&found, &opening) {
                return Ok(Got::Delivered(delivered));
            }
            while let Some(answer) = opening.next(None) {
                found.add(answer);
            }
        }
        let (destinations, doubt) = (found.sources(self.ctx), found.doubt.take());
        if destinations.is_empty() {
            let why = doubt.or(found.unregistered).map_or(Error::NoRepository, Error::Unopened);
            return Err(why.into());
        }
        match self.get(&destinations, doubt.is_some(), false)? {
            Got::Delivered(delivered) => {
                if let Some(doubt) = doubt {
                    self.ctx.warn(doubt.to_string());
                }
                Ok(Got::Delivered(delivered))
            }
            // Absent wherever we could look; but we could not look everywhere.
            Got::Absent => match doubt {
                Some(doubt) => Err(Error::Unopened(doubt).into()),
                None => Ok(Got::Absent),
            },
        }
    }

    fn opening(&self, purpose: Purpose) -> std::result::Result<Opening, Doubt> {
        let asked = Asked { system: self.known_system()?, epoch: self.wanted.epoch, purpose };
        Ok(Opening::begin(self.ctx, self.openings, asked, |_| true))
    }

    /// The file from one of those that have answered, if one has it: whatever else they say, the others are
    /// to be heard.
    fn early(&self, found: &Found, opening: &Opening) -> Option<Box<Delivered>> {
        let destinations = found.sources(self.ctx);
        if destinations.is_empty() {
            return None;
        }
        let is_alone = opening.waiting().next().is_some() || found.doubt.is_some();
        let Ok(Got::Delivered(delivered)) = self.get(&destinations, is_alone, true) else {
            return None;
        };
        if let Some(doubt) = &found.doubt {
            self.ctx.warn(doubt.to_string());
        }
        for at in opening.waiting() {
            if let Some(each) = self.openings.repositories().get(at) {
                self.ctx.warn(format!("repository {} has not answered", each.name));
            }
        }
        Some(delivered)
    }

    fn get(&self, destinations: &[Destination], unasked: bool, only_deliver: bool) -> Result<Got> {
        let Wanted { through, only, data_directory, name, .. } = self.wanted.clone();
        let options = GetOptions { through, only, unasked, data_directory, only_deliver };
        get_to(self.ctx, destinations, &options, &name, self.target, self.ahead)
    }

    /// A directory without a control file is no reason to fail: the repository may know one system only.
    /// One whose control file cannot be read has a system, which may be another than the repository's.
    fn known_system(&self) -> std::result::Result<Option<u64>, Doubt> {
        let Some(directory) = &self.wanted.data_directory else { return Ok(None) };
        match read_control_file(directory) {
            Ok(control) => Ok(Some(control.system_identifier)),
            Err(error) if error.is_not_found() => {
                let what = "the system identifier is taken from the repository";
                self.ctx.note(format!("{what}: {error}"));
                Ok(None)
            }
            Err(error) => Err(Doubt { may_pass: true, error: Box::new(error) }),
        }
    }
}

/// What came of opening the repositories so far.
#[derive(Default)]
struct Found {
    /// With their place in the configuration.
    destinations: Vec<(usize, Destination)>,
    /// Why absence cannot be proven.
    doubt: Option<Unopened>,
    /// One that does not know the cluster holds no WAL of it, and is no doubt as long as another does.
    unregistered: Option<Unopened>,
    announced: Option<u32>,
}

impl Found {
    fn add(&mut self, (at, opened): (usize, std::result::Result<Destination, Unopened>)) {
        match opened {
            Ok(destination) => self.destinations.push((at, destination)),
            Err(unopened) => {
                self.announced = self.announced.max(unopened.announced_epoch);
                let is_unregistered = unopened.is_unregistered;
                let kept = if is_unregistered { &mut self.unregistered } else { &mut self.doubt };
                kept.get_or_insert(unopened);
            }
        }
    }

    /// Those that can be asked, in the order of the configuration.
    fn sources(&self, ctx: &Ctx) -> Vec<Destination> {
        let mut found = self.destinations.clone();
        found.sort_by_key(|(at, _)| *at);
        let mut destinations = found.into_iter().map(|(_, destination)| destination).collect();
        // Like those that do not know the cluster: they hold no WAL of this epoch.
        for Destination { name, .. } in without_older_epochs(&mut destinations, self.announced) {
            ctx.note(format!("repository {name} is not asked: it is in an older epoch"));
        }
        destinations
    }
}
