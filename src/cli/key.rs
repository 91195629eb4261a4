//! `key`: the slots of a repository.

use super::args::{KeyAddArgs, KeyCommand, KeyListArgs, KeyRemoveArgs};
use super::error::Failure;
use super::exit::Exit;
use super::init;
use super::invocation::Invocation;
use super::output::{print, print_json};
use crate::config::{Resolved, SecretSource};
use crate::crypt::slot::COST_DEFAULT;
use crate::crypt::{SlotKind, Unlock};
use crate::repo::{self, SlotSummary, Slots};
use crate::wiring::{self, Access, Opened};

/// Adds, lists, removes, rotates.
pub fn key(run: &Invocation, command: &KeyCommand) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    match command {
        KeyCommand::Add(args) => add(run, &resolved, args),
        KeyCommand::List(args) => list(run, &resolved, args),
        KeyCommand::Remove(args) => remove(run, &resolved, args),
        KeyCommand::Rotate => rotate(run, &resolved),
    }?;
    Ok(Exit::Ok)
}

fn open(
    run: &Invocation,
    resolved: &Resolved,
    access: Access,
) -> Result<(String, Opened), Failure> {
    let settings = resolved.repository()?;
    let opened = wiring::open(&run.ctx, settings, access)?;
    run.warn_each(&opened.warnings);
    Ok((settings.name.clone(), opened))
}

fn at(repository: &str) -> impl FnOnce(repo::Error) -> Failure {
    let repository = repository.to_owned();
    move |source| wiring::Error::Repository { repository, source }.into()
}

fn add(run: &Invocation, resolved: &Resolved, args: &KeyAddArgs) -> Result<(), Failure> {
    let (name, opened) = open(run, resolved, Access::ReadWrite)?;
    if opened.unlock.kind() == SlotKind::Clear {
        let why = "a repository with cipher none has no secrets".to_owned();
        return Err(at(&name)(repo::Error::Keys(why)));
    }
    let (unlock, made) = secret(run, args)?;
    let label = &args.label;
    let added = opened.repository.add_slot(&run.ctx, &unlock, label, COST_DEFAULT);
    let slot = added.map_err(at(&name))?;
    let kind = unlock.kind();
    match unlock.fingerprint() {
        none if none.is_empty() => print(&format!("repository {name}: key slot {slot} ({kind})"))?,
        fingerprint => print(&format!(
            "repository {name}: key slot {slot} ({kind}, fingerprint {fingerprint})"
        ))?,
    }
    if made {
        print("  The key file is new. Store a copy elsewhere: it is a way into the backups.")?;
    }
    Ok(())
}

/// The secret that the flags name; a key file that does not exist is made.
fn secret(run: &Invocation, args: &KeyAddArgs) -> Result<(Unlock, bool), Failure> {
    let source = match (&args.key_file, &args.passphrase_file, &args.passphrase_command) {
        (Some(path), _, _) if !path.exists() => {
            return Ok((init::create_key_file(run, path)?, true));
        }
        (Some(path), _, _) => SecretSource::flag_key_file("--key-file", path),
        (_, Some(path), _) => SecretSource::flag_passphrase_file("--passphrase-file", path),
        (_, _, Some(command)) => {
            SecretSource::flag_passphrase_command("--passphrase-command", command)
        }
        _ => return Err(Failure::usage("name a key file or a passphrase")),
    };
    let unlocked = source.unlock()?;
    run.warn_each(&unlocked.warnings);
    Ok((unlocked.unlock, false))
}

fn list(run: &Invocation, resolved: &Resolved, args: &KeyListArgs) -> Result<(), Failure> {
    let (name, opened) = open(run, resolved, Access::ReadOnly)?;
    let slots = opened.repository.slots(Some(&opened.unlock)).map_err(at(&name))?;
    if args.json {
        return print_json(&serde_json::json!({
            "format_version": 1,
            "repository": name,
            "slots": slots.readable,
            "damaged": slots.damaged,
        }));
    }
    print(&slot_table(&slots))
}

fn slot_table(slots: &Slots) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["slot", "kind", "label", "fingerprint", "made", "configured secret"]);
    for slot in &slots.readable {
        let opens = if slot.opened == Some(true) { "opens it" } else { "" };
        table.add_row([
            slot.slot.as_str(),
            &slot.kind.to_string(),
            &slot.label,
            &slot.fingerprint,
            &slot.created,
            opens,
        ]);
    }
    for slot in &slots.damaged {
        table.add_row([slot.slot.as_str(), "damaged", &slot.why]);
    }
    table.trim_fmt()
}

fn remove(run: &Invocation, resolved: &Resolved, args: &KeyRemoveArgs) -> Result<(), Failure> {
    let (name, opened) = open(run, resolved, Access::ReadWrite)?;
    let slots = opened.repository.slots(Some(&opened.unlock)).map_err(at(&name))?;
    let opening = |slot: &&SlotSummary| slot.opened == Some(true);
    let own: Vec<_> =
        slots.readable.iter().filter(opening).map(|slot| slot.slot.as_str()).collect();
    if own == [args.slot.as_str()] {
        let why = format!("{} is the slot that the configured secret opens", args.slot);
        let hint = "Configure the secret of another slot first; then nothing stops working.";
        return Err(at(&name)(repo::Error::Keys(why)).with_hint(hint));
    }
    opened.repository.remove_slot(&args.slot).map_err(at(&name))?;
    print(&format!("repository {name}: key slot {} is removed", args.slot))?;
    print(
        "  Who holds its secret and a copy of the slot can still read what is stored until now.\n  \
         `pgkeep key rotate` protects what is stored from now on.",
    )
}

fn rotate(run: &Invocation, resolved: &Resolved) -> Result<(), Failure> {
    let (name, mut opened) = open(run, resolved, Access::ReadWrite)?;
    if opened.unlock.kind() == SlotKind::Clear {
        let why = "a repository with cipher none has no keys to rotate".to_owned();
        return Err(at(&name)(repo::Error::Keys(why)));
    }
    let rotated = opened.repository.rotate(&run.ctx, &opened.unlock, None, COST_DEFAULT);
    let (slot, others) = rotated.map_err(at(&name))?;
    print(&format!("repository {name}: a new master key, in key slot {slot}"))?;
    for damaged in opened.repository.slots(None).map_err(at(&name))?.damaged {
        run.ctx.warn(format!(
            "key slot {} is damaged and got no new key: {}; `pgkeep key remove {}` removes it",
            damaged.slot, damaged.why, damaged.slot
        ));
    }
    for other in &others {
        print(&format!(
            "  key slot {} ({} {:?}) opens only what was stored before: remove it, and add it again",
            other.slot, other.kind, other.label
        ))?;
    }
    Ok(())
}
