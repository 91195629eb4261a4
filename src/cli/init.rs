//! `init`: repositories, key files, registration. Safe to repeat: each step says what is there.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::args::InitArgs;
use super::error::Failure;
use super::exit::Exit;
use super::invocation::Invocation;
use super::output::print;
use super::server_settings;
use crate::base::{ByteSize, durable};
use crate::config::{Location, RepositorySettings, Resolved};
use crate::crypt::Unlock;
use crate::crypt::slot::COST_DEFAULT;
use crate::pgconn::{ServerFacts, Session};
use crate::repo::{self, CipherChoice, InitOptions, Place, Registration, Repository};
use crate::storage::{self, ObjectStore as _};
use crate::wiring::{self, Access};

/// What a repository's place may hold before there is a repository: what a killed `init` leaves.
const OWN_NAMES: [&str; 6] = ["key", "c", "lease", "probe", ".tmp", "lost+found"];

/// Makes or opens the repositories, registers the cluster, says what to set on the server.
pub fn init(run: &Invocation, args: &InitArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    if args.new_epoch && run.global.repository.is_some() {
        let message = "an epoch begins in every repository: leave out --repository";
        return Err(Failure::usage(message));
    }
    let meant = |each: &&RepositorySettings| {
        run.global.repository.as_ref().is_none_or(|name| *name == each.name)
    };
    let mut repositories = Vec::new();
    for settings in resolved.repositories.iter().filter(meant) {
        let repository = match wiring::exists(&run.ctx, settings)? {
            true => existing(run, settings)?,
            false => create(run, settings)?,
        };
        repositories.push((settings, repository));
    }
    let facts = server_facts(run, &resolved)?;
    check_directory(&resolved, &facts)?;
    let epoch = newest_epoch(run, &resolved, facts.system_identifier)?.unwrap_or(1);
    let given = Registration { epoch, ..registration(run, &resolved, &facts) };
    if args.new_epoch {
        new_epoch(run, &given, &repositories)?;
    } else {
        for (settings, repository) in &repositories {
            register(run, &given, &settings.name, repository)?;
        }
    }
    wiring::forget_openings(&resolved.repositories);
    print_settings(run, &resolved, &facts)?;
    Ok(Exit::Ok)
}

fn existing(run: &Invocation, settings: &RepositorySettings) -> Result<Repository, Failure> {
    if settings.s3.is_some() {
        let bucket = wiring::bucket(&run.ctx, settings)?;
        bucket.require_region().map_err(|error| at(settings, error.into()))?;
    }
    let opened = wiring::open(&run.ctx, settings, Access::ReadWrite)?;
    run.warn_each(&opened.warnings);
    let cipher = settings.cipher.name();
    print(&format!("repository {}: exists in {}, cipher {cipher}", settings.name, settings.url))?;
    if let Some(path) = settings.secret.key_file() {
        let fingerprint = opened.unlock.fingerprint();
        print(&format!("key file {}: opens it, fingerprint {fingerprint}", path.display()))?;
    }
    Ok(opened.repository)
}

fn create(run: &Invocation, settings: &RepositorySettings) -> Result<Repository, Failure> {
    refuse_foreign(run, settings)?;
    let store = wiring::create_store(&run.ctx, settings)?;
    // Before a key is made, which would open nothing that lies there.
    match Repository::require_none(store.as_ref()) {
        Err(error) if is_there(&error) => return existing(run, settings),
        other => other.map_err(|error| at(settings, error))?,
    }
    // The key first: a repository never exists without a key that opens it.
    let made = make_key_file(run, settings)?;
    let unlocked = settings.secret.unlock()?;
    run.warn_each(&unlocked.warnings);
    let options = InitOptions {
        cipher: settings.cipher,
        unlock: &unlocked.unlock,
        label: "init",
        cost: COST_DEFAULT,
    };
    let repository = match Repository::init(&run.ctx, store, &options) {
        // Another init was faster.
        Err(error) if is_there(&error) => return existing(run, settings),
        other => other.map_err(|error| at(settings, error))?,
    };
    let cipher = settings.cipher.name();
    print(&format!("repository {}: made in {}, cipher {cipher}", settings.name, settings.url))?;
    if !repository.descriptor().conditional_put {
        print(
            "  The store does not honour conditional puts: first write wins by claims, three \
             requests for each segment.",
        )?;
    }
    if settings.cipher == CipherChoice::None {
        print(
            "  Backups and WAL lie there in the clear: who can read the place can read all of it.",
        )?;
    }
    if let Some(path) = settings.secret.key_file() {
        let how = if made { "made" } else { "used as it is" };
        let fingerprint = unlocked.unlock.fingerprint();
        print(&format!("key file {}: {how}, fingerprint {fingerprint}", path.display()))?;
        print(
            "  Whoever loses this file loses the backups: nobody can read them without it.\n  \
             Store a copy elsewhere now, not on this host and not in the repository.",
        )?;
    } else if settings.cipher != CipherChoice::None {
        print(
            "  It opens with a passphrase: losing it loses the backups. Each archived segment\n  \
             then costs the time of one scrypt; `pgkeep key add --key-file` makes that go away.",
        )?;
    }
    if settings.s3.is_some() {
        wait_for_openings(run)?;
    }
    Ok(repository)
}

fn is_there(error: &repo::Error) -> bool {
    matches!(error, repo::Error::Storage(error) if error.is_already_exists())
}

/// A repository is made in a new or empty place only: a wrong path should not become one.
fn refuse_foreign(run: &Invocation, settings: &RepositorySettings) -> Result<(), Failure> {
    let names = match &settings.url {
        Location::File(folder) => names_in(folder)?,
        Location::S3(_) => {
            let bucket = wiring::bucket(&run.ctx, settings)?;
            let listed = bucket.require_region().and_then(|_| bucket.list("", None, 1000));
            let listed = listed.map_err(|error| at(settings, error.into()))?;
            let first = |meta: storage::ObjectMeta| {
                meta.key.as_str().split('/').next().unwrap_or_default().to_owned()
            };
            listed.into_iter().map(first).collect()
        }
    };
    let foreign = names.iter().filter(|name| !OWN_NAMES.contains(&name.as_str())).take(3);
    let foreign: Vec<_> = foreign.cloned().collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let message =
        format!("{} holds other things and no repository: {}", settings.url, foreign.join(", "));
    let hint = match &settings.url {
        Location::File(_) => "Name an empty folder, or one that does not exist yet.",
        Location::S3(_) => "Name a prefix that nothing lies below, such as s3://bucket/pgkeep.",
    };
    Err(Failure::failed(message).with_hint(hint))
}

fn names_in(folder: &Path) -> Result<BTreeSet<String>, Failure> {
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(Failure::failed(format!("{}: {error}", folder.display()))),
        Ok(entries) => {
            let names = entries.flatten().map(|entry| entry.file_name());
            Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
        }
    }
}

fn at(settings: &RepositorySettings, source: repo::Error) -> Failure {
    wiring::Error::Repository { repository: settings.name.clone(), source }.into()
}

/// For as long as an archive-push or archive-get may go by what it read of the place before: what has just
/// been made there must not be met by them.
fn wait_for_openings(run: &Invocation) -> Result<(), Failure> {
    let wait = storage::KEPT_FOR + Duration::from_secs(2);
    let seconds = wait.as_secs();
    print(&format!("waiting {seconds} s, until nobody goes by what the bucket held before"))?;
    run.ctx.clock.sleep(wait);
    Ok(())
}

fn make_key_file(run: &Invocation, settings: &RepositorySettings) -> Result<bool, Failure> {
    match settings.secret.key_file() {
        Some(path) if !path.exists() => {
            create_key_file(run, path)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Makes a key file under a name that does not exist yet, durable before it is used.
pub fn create_key_file(run: &Invocation, path: &Path) -> Result<Unlock, Failure> {
    let failed = |error: std::io::Error| {
        Failure::failed(format!("cannot make the key file {}: {error}", path.display()))
            .with_hint("Its folder must be writable for the account that runs pgkeep.")
    };
    let path = std::path::absolute(path).map_err(failed)?;
    if let Some(parent) = path.parent() {
        durable::create_dir_all(parent, 0o700).map_err(failed)?;
    }
    let (unlock, text) = Unlock::generate_key_file(run.ctx.entropy.as_ref());
    durable::write_new(&path, text.expose().as_bytes(), 0o600).map_err(failed)?;
    Ok(unlock)
}

fn server_facts(run: &Invocation, resolved: &Resolved) -> Result<ServerFacts, Failure> {
    let options = wiring::connect_options(resolved, "init");
    let read = Session::connect(&run.ctx, &options)
        .and_then(|session| ServerFacts::read(&run.ctx, &session));
    read.map_err(|error| {
        let mut failure = Failure::from(error);
        let cluster = &resolved.cluster_name;
        failure.causes.push(format!("so cluster {cluster} is not registered; the rest is done"));
        failure
            .with_hint("Make the server reachable and repeat `pgkeep init`: it is safe to repeat.")
    })
}

/// The server that answers must be the one of the configured directory.
fn check_directory(resolved: &Resolved, facts: &ServerFacts) -> Result<(), Failure> {
    let Some(directory) = &resolved.cluster.data_directory else { return Ok(()) };
    let local = wiring::system_of(directory)?;
    if local == facts.system_identifier {
        return Ok(());
    }
    let message = format!(
        "{} belongs to system {local}, and the server is system {}",
        directory.display(),
        facts.system_identifier
    );
    let hint = "The keys connection and data_directory must belong to one cluster on this host.";
    Err(Failure::failed(message).with_hint(hint))
}

fn registration(run: &Invocation, resolved: &Resolved, facts: &ServerFacts) -> Registration {
    Registration {
        cluster: resolved.cluster_name.clone(),
        system: facts.system_identifier,
        epoch: 1,
        created: run.ctx.clock.now(),
        major: u32::try_from(facts.server_version / 10_000).unwrap_or_default(),
        block_size: facts.block_size,
        wal_block_size: facts.wal_block_size,
        wal_segment_size: facts.wal_segment_size,
        relation_segment_blocks: facts.blocks_per_segment,
    }
}

/// The newest epoch that any configured repository has of the cluster: one number means one history,
/// so a repository that comes later begins with it.
fn newest_epoch(
    run: &Invocation,
    resolved: &Resolved,
    system: u64,
) -> Result<Option<u32>, Failure> {
    let mut newest = None;
    for settings in &resolved.repositories {
        if !wiring::exists(&run.ctx, settings)? {
            run.ctx.warn(format!(
                "repository {} is not there, and was not asked for its epoch: repeat `pgkeep init` \
                 when it is",
                settings.name
            ));
            continue;
        }
        let repository = wiring::open(&run.ctx, settings, Access::ReadOnly)?.repository;
        let places = repository.places()?;
        let own = places.iter().filter(|place| {
            place.cluster() == resolved.cluster_name.as_str() && place.system() == system
        });
        newest = newest.max(own.map(Place::epoch).max());
    }
    Ok(newest)
}

/// Begins the next epoch, the same number in every repository. One that nothing was stored in is
/// taken as it is, so that a repetition begins no other.
fn new_epoch(
    run: &Invocation,
    given: &Registration,
    repositories: &[(&RepositorySettings, Repository)],
) -> Result<(), Failure> {
    let mut newest = Vec::new();
    for (settings, repository) in repositories {
        let found = repository.find_cluster(&given.cluster, given.system);
        let (epoch, is_empty) = match found {
            Err(repo::Error::EpochAnnounced { epoch, .. }) => (epoch, true),
            found => {
                let (place, stored) = found?;
                let is_empty = is_empty(repository, &place)? && compare(&stored, given).is_ok();
                (place.epoch(), is_empty)
            }
        };
        newest.push((settings, repository, epoch, is_empty));
    }
    let last = newest.iter().map(|(_, _, epoch, _)| *epoch).max().unwrap_or_default();
    let is_fresh = |(_, _, epoch, is_empty): &(_, _, u32, bool)| *is_empty && *epoch == last;
    let epoch = if newest.iter().all(|each| each.2 < last || is_fresh(each)) && last > 1 {
        last
    } else {
        last + 1
    };
    let next = Registration { epoch, ..given.clone() };
    // In all of them before it begins in any: each then knows by itself whether it has come to it.
    for (_, repository, ..) in &newest {
        repository.announce(&run.ctx, &next)?;
    }
    if repositories.iter().any(|(settings, _)| settings.s3.is_some()) {
        wait_for_openings(run)?;
    }
    for (settings, repository, before, _) in newest {
        repository.register(&run.ctx, &next)?;
        let (cluster, name) = (&given.cluster, &settings.name);
        print(&if before == epoch {
            format!("cluster {cluster}: epoch {epoch} has begun in {name}, and holds nothing yet")
        } else {
            format!(
                "cluster {cluster}: epoch {epoch} begins in {name}; epoch {before} stays as it is, \
                 and is restored with --epoch {before}"
            )
        })?;
    }
    print(
        "  WAL goes to the new epoch from now on. Nothing of it can be restored before its first \
         backup: take one now, with `pgkeep backup --type full`.",
    )
}

/// Whether a place holds nothing but what makes it one.
fn is_empty(repository: &Repository, place: &Place) -> Result<bool, Failure> {
    let objects = repository.store().list(&place.prefix(), None, 4);
    let own = [place.registration(), place.announcement(), place.notes_mark()];
    let objects = objects.map_err(repo::Error::from)?;
    Ok(objects.iter().all(|object| own.contains(&object.key)))
}

fn register(
    run: &Invocation,
    given: &Registration,
    name: &str,
    repository: &Repository,
) -> Result<(), Failure> {
    let (cluster, system) = (&given.cluster, given.system);
    let places = repository.places()?;
    let known = places.iter().any(|place| place.cluster() == cluster && place.system() == system);
    if known {
        let found = match repository.find_cluster(cluster, system) {
            Err(repo::Error::EpochAnnounced { .. }) => None,
            found => Some(found?),
        };
        let Some((place, stored)) = found.filter(|(place, _)| place.epoch() >= given.epoch) else {
            repository.register(&run.ctx, given)?;
            return print(&format!(
                "cluster {cluster}: joins epoch {} in {name}; older ones stay as they are",
                given.epoch
            ));
        };
        compare(&stored, given)?;
        // An init that was killed may have come no further than the registration.
        repository.promise_notes(&run.ctx, &place)?;
        return print(&format!(
            "cluster {cluster}: registered in {name} already (system {system}, epoch {})",
            place.epoch()
        ));
    }
    let others: BTreeSet<u64> =
        places.iter().filter(|place| place.cluster() == cluster).map(Place::system).collect();
    repository.register(&run.ctx, given)?;
    print(&format!(
        "cluster {cluster}: registered in {name} (system {system}, PostgreSQL {}, WAL segments of \
         {}, epoch {})",
        given.major,
        ByteSize(given.wal_segment_size.into()),
        given.epoch
    ))?;
    for other in others {
        print(&format!(
            "  Beside it lie backups of another system under this name: {other}. That is right \
             after pg_upgrade or a new initdb, and wrong otherwise."
        ))?;
    }
    Ok(())
}

fn compare(stored: &Registration, given: &Registration) -> Result<(), Failure> {
    let sizes = |registration: &Registration| {
        (registration.block_size, registration.wal_block_size, registration.wal_segment_size)
    };
    if sizes(stored) == sizes(given) {
        return Ok(());
    }
    let message = format!(
        "cluster {} was registered with blocks, WAL blocks and WAL segments of {:?} bytes, and the \
         server has {:?}",
        stored.cluster,
        sizes(stored),
        sizes(given)
    );
    let hint = "The sizes were changed (pg_resetwal --wal-segsize?): `pgkeep init --new-epoch` begins \
                a new archive with them; then take a full backup.";
    Err(Failure::failed(message).with_hint(hint))
}

fn print_settings(
    run: &Invocation,
    resolved: &Resolved,
    facts: &ServerFacts,
) -> Result<(), Failure> {
    let command = own_archive_command(run)?;
    let wanted = server_settings::wanted(facts, &command, resolved.cluster.rpo);
    if wanted.is_empty() {
        return print("\nThe server's settings are right. Next: pgkeep check");
    }
    print("\nSet in postgresql.conf (or by ALTER SYSTEM):\n")?;
    for setting in &wanted {
        print(&format!("  {}", setting.line()?))?;
    }
    let restart = wanted.iter().any(|each| ["archive_mode", "wal_level"].contains(&each.name));
    let how = if restart { "restart the server" } else { "reload the server" };
    print(&format!("\nThen {how}, and run: pgkeep check"))
}

/// What archive_command should be, as this very process was called.
pub fn own_archive_command(run: &Invocation) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("cannot tell my path: {error}"));
    let words = wiring::own_command(run.global.config.as_deref(), run.global.cluster.as_deref());
    server_settings::archive_command(&words.map_err(failed)?)
}
