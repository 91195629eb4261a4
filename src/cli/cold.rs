//! Backups in cold storage: what is to be thawed and how long that takes, asking for it, and waiting.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::{Failure, Kind, of_repo};
use super::exit::Exit;
use super::hold::hold;
use super::invocation::Invocation;
use super::output::{counted, duration, moment};
use crate::base::{ByteSize, Ctx};
use crate::config::RepositorySettings;
use crate::repo::{BackupId, Place, Repository};
use crate::storage::{Availability, Thaw};
use crate::tiering::{self, Cold, ColdPack, Readiness, Speed};
use crate::wiring::{self, Access};

/// Folders of cold packs that are named: one for each backup of a chain, or attempt.
const FOLDERS_SHOWN_MAX: usize = 8;

const DAY: Duration = Duration::from_hours(24);

/// How long a backup is held at least after it could be read: a restore of it takes its time, and recovery.
const HELD_MIN: Duration = Duration::from_hours(48);

impl From<tiering::Error> for Failure {
    fn from(error: tiering::Error) -> Self {
        let hint = |text: &str| Some(text.to_owned());
        let advice = match &error {
            tiering::Error::Repo(source) => of_repo(source),
            tiering::Error::NoSpeed { .. } => (Exit::Usage, Kind::Usage, None),
            tiering::Error::NoClasses { .. } => (
                Exit::Failed,
                Kind::Config,
                hint("Take the section tiering out, or name a bucket."),
            ),
            tiering::Error::NotThawed { .. } => (
                Exit::Cold,
                Kind::Environment,
                hint("The same command goes on waiting; ask the service why."),
            ),
            tiering::Error::Gone { .. } => {
                (Exit::Failed, Kind::NotFound, hint("`pgkeep info` shows which backups there are."))
            }
        };
        Self::of(&error, advice)
    }
}

/// Only packs are moved by pgkeep, and thawed by it.
pub fn hint_of(name: &str) -> &'static str {
    match name.contains("/data/") {
        true => {
            "`pgkeep repository thaw` thaws a backup, `pgkeep restore --thaw standard` thaws, waits and restores."
        }
        false => {
            "A rule of the bucket moved it (`pgkeep check` names it): thaw it with the provider's tools, then take the \
                  rule away."
        }
    }
}

/// What a room of tiering says about a repository, named.
pub fn failed(name: &str, error: tiering::Error) -> Failure {
    match error {
        tiering::Error::Repo(source) => wiring::Error::of_repository(name, source).into(),
        other => other.into(),
    }
}

/// What of a backup has to be thawed before it is read; nothing where no object can be cold.
pub fn find(
    ctx: &Ctx,
    settings: &RepositorySettings,
    repository: &Repository,
    place: &Place,
    id: &BackupId,
) -> Result<Cold, Failure> {
    if !repository.store().has_classes() {
        let found = repository.summary(place, id).map(|_| Cold::default());
        return found.map_err(|error| wiring::Error::of_repository(&settings.name, error).into());
    }
    tiering::find_cold(ctx, repository, place, id).map_err(|error| failed(&settings.name, error))
}

/// For people; nothing where everything lies in storage that is read at once.
pub fn text(id: &BackupId, cold: &Cold) -> Option<String> {
    let packs = |count: u64| counted(usize::try_from(count).unwrap_or(usize::MAX), "pack");
    let mut lines = Vec::new();
    if cold.objects > 0 {
        let (packs, bytes) = (packs(cold.objects), ByteSize(cold.bytes));
        lines.push(format!(
            "cold storage: {packs} ({bytes}) of what {id} needs must be thawed before they can be read"
        ));
    }
    lines.extend(places(cold));
    for class in &cold.classes {
        let mut line =
            format!("  {}: {} ({})", class.class, packs(class.objects), ByteSize(class.bytes));
        if class.thawing > 0 {
            line.push_str(&format!(", {} of them being thawed", class.thawing));
        }
        lines.push(line);
        lines.extend(class.speeds.iter().map(|speed| {
            format!("    --thaw {:<10} {}; {}", speed.speed, hours(speed), speed.price)
        }));
    }
    if cold.thawed > 0 {
        let until = cold.thawed_until.map_or_else(String::new, |until| {
            format!(", the first of them until {}", moment(until))
        });
        lines.push(format!(
            "cold storage: {} are thawed and can be read{until}",
            packs(cold.thawed)
        ));
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Where the packs lie that cannot be read now, folder by folder.
fn places(cold: &Cold) -> Vec<String> {
    let is_readable = |pack: &&ColdPack| {
        !matches!(pack.state.availability, Availability::Cold | Availability::Thawing)
    };
    let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pack in cold.packs.iter().filter(|pack| !is_readable(pack)) {
        let (folder, name) = pack.key.as_str().rsplit_once('/').unwrap_or_default();
        folders.entry(folder).or_default().push(name);
    }
    let more = folders.len().saturating_sub(FOLDERS_SHOWN_MAX);
    let shown = folders.into_iter().take(FOLDERS_SHOWN_MAX);
    let mut lines: Vec<String> = shown
        .map(|(folder, names)| match names.as_slice() {
            [first, .., last] => {
                format!("  {folder}/: {}, {first} to {last}", counted(names.len(), "pack"))
            }
            _ => format!("  {folder}/{}", names.concat()),
        })
        .collect();
    if more > 0 {
        lines.push(format!("  and in {} (--json)", counted(more, "other folder")));
    }
    lines
}

fn hours(speed: &Speed) -> String {
    let (least, most) = (speed.least.as_secs(), speed.most.as_secs());
    match least == most {
        true => format!("within {}", duration(most)),
        false => format!("{} to {}", duration(least), duration(most)),
    }
}

/// That every class knows a thaw of that speed: before anybody is asked.
pub fn require_speed(
    settings: &RepositorySettings,
    cold: &Cold,
    wanted: Thaw,
) -> Result<(), Failure> {
    tiering::require_speed(cold, wanted.speed).map_err(|error| failed(&settings.name, error))
}

/// Whether a thaw of everything is under way, so that nobody need be asked for it.
pub fn is_asked_for(cold: &Cold) -> bool {
    cold.classes.iter().all(|class| class.thawing == class.objects)
}

/// Asks for everything that is cold. What is asked for is paid for: the backup is held as long as the thawed copies
/// stay, whatever becomes of this process.
pub fn ask(
    run: &Invocation,
    (settings, place): (&RepositorySettings, &Place),
    (id, cold): (&BackupId, &Cold),
    wanted: Thaw,
) -> Result<Readiness, Failure> {
    let (held, _) = hold(run, settings, place, id, "thaw")?;
    let store = wiring::store(&run.ctx, settings, Access::ReadWrite)?;
    let asked = tiering::thaw(&run.ctx, store.as_ref(), cold, wanted);
    if let (Some(held), false) = (held, matches!(&asked, Err(tiering::Error::NoSpeed { .. }))) {
        let days = HELD_MIN.max(DAY * u32::from(wanted.days));
        held.stay_for(cold.longest(wanted) + days);
    }
    asked.map_err(|error| failed(&settings.name, error))
}

/// Waits for what was asked for.
pub fn wait(
    run: &Invocation,
    settings: &RepositorySettings,
    cold: &Cold,
    (wanted, asked): (Thaw, Readiness),
) -> Result<Readiness, Failure> {
    let store = wiring::store(&run.ctx, settings, Access::ReadWrite)?;
    let done = tiering::wait_for_thaw(&run.ctx, store.as_ref(), cold, (wanted, asked));
    done.map_err(|error| failed(&settings.name, error))
}

/// How far a thaw is, for people.
pub fn readiness_text(found: &Readiness) -> String {
    let packs = |count: u64| counted(usize::try_from(count).unwrap_or(usize::MAX), "pack");
    let mut text =
        format!("{} can be read ({})", packs(found.readable), ByteSize(found.readable_bytes));
    if let Some(until) = found.until {
        text.push_str(&format!(", until {}", moment(until)));
    }
    if found.thawing > 0 {
        text.push_str(&format!("; {} are being thawed", packs(found.thawing)));
    }
    if found.cold > 0 {
        text.push_str(&format!("; {} are cold", packs(found.cold)));
    }
    text
}

/// What has to be done first, by the command that was typed.
pub fn refusal(run: &Invocation, id: &BackupId, cold: &Cold) -> Failure {
    let packs = counted(usize::try_from(cold.objects).unwrap_or(usize::MAX), "pack");
    let speeds: Vec<String> = cold
        .classes
        .iter()
        .flat_map(|class| class.speeds.iter().map(|speed| speed.speed.to_string()))
        .collect();
    let all_know = |speed: &str| {
        cold.classes.iter().all(|class| {
            class.speeds.is_empty() || class.speeds.iter().any(|own| own.speed.to_string() == speed)
        })
    };
    let speed = speeds.iter().find(|speed| *speed == "standard" && all_know(speed));
    let speed = speed.or_else(|| speeds.iter().find(|speed| all_know(speed)));
    let speed = speed.map_or("standard", String::as_str);
    let what = format!(
        "{id} is in cold storage: {packs} ({}) must be thawed first; nothing was changed",
        ByteSize(cold.bytes)
    );
    // What was typed may have asked for it, and something has moved since.
    let line = run.command_line();
    let line = if line.contains(" --thaw ") { line } else { format!("{line} --thaw {speed}") };
    let hint = format!(
        "To thaw, wait and restore: {line}\nTo thaw ahead of time: {}",
        run.same_place(&format!("repository thaw {id}"))
    );
    with_details(
        Failure { exit: Exit::Cold, kind: Kind::Environment, ..Failure::failed(what) },
        cold,
    )
    .with_hint(hint)
}

/// What was asked for is on its way: the same command goes on.
pub fn on_its_way(
    run: &Invocation,
    id: &BackupId,
    cold: &Cold,
    found: &Readiness,
    wanted: Thaw,
) -> Failure {
    let what = format!("{id} is being thawed: {}", readiness_text(found));
    let longest = cold.longest(wanted).as_secs();
    let when = match longest {
        0 => "It can be read when the service has brought it back".to_owned(),
        seconds => format!("It can be read within {}", duration(seconds)),
    };
    let hint = format!("{when}. The same command goes on then: {}", run.command_line());
    with_details(
        Failure { exit: Exit::Cold, kind: Kind::Environment, ..Failure::failed(what) },
        cold,
    )
    .with_hint(hint)
}

fn with_details(mut failure: Failure, cold: &Cold) -> Failure {
    failure.details.push(("cold", serde_json::json!(cold)));
    failure
}
