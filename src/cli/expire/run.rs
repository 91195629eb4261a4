//! What `expire` does, repository by repository.

use serde_json::{Value, json};

use super::moving::{self, Moves};
use super::text::{self, NO_RULES};
use super::tier::{self, Tiered};
use crate::base::ByteSize;
use crate::cli::answers::Answers;
use crate::cli::args::ExpireArgs;
use crate::cli::confirm::confirm;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::invocation::Invocation;
use crate::cli::output::{counted, print, print_json};
use crate::config::{RepositorySettings, Resolved};
use crate::repo::{LeaseRequest, Repository, Scope};
use crate::retention::{self, ExpirePlan, Extension, Freed, Plan};
use crate::tiering::Early;
use crate::wiring::{self, Access};

/// What was done, or would be, in one repository.
struct Expired {
    leftovers: Plan,
    plan: ExpirePlan,
    is_given: bool,
    /// What would be freed, and what leaves its class early; in a dry run.
    estimate: Option<(Freed, Vec<Early>)>,
    /// What would be locked for longer; in a dry run.
    extensions: Vec<Extension>,
    /// What would be removed by new rules, so that a word is needed; in a dry run.
    needs_yes: Option<String>,
    /// Leftovers that were removed, and what else; nothing in a dry run.
    done: Option<(usize, Freed)>,
    /// What moves to colder storage.
    tiered: Tiered,
    /// What goes to another repository.
    moves: Moves,
}

/// Removes what is not kept from every repository, or from the one that is named.
pub fn expire(run: &Invocation, args: &ExpireArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let named = run.global.repository.as_ref();
    let meant = |each: &&RepositorySettings| named.is_none_or(|named| *named == each.name);
    let mut answers = Answers::default();
    let mut is_sound = true;
    for settings in resolved.repositories.iter().filter(meant) {
        let name = &settings.name;
        match expire_in(run, args, &resolved, settings, false) {
            Ok(expired) => {
                is_sound &= warn_of(run, name, &expired);
                match args.json {
                    _ if args.scheduled => note(run, name, &expired),
                    true => answers.told.push(as_json(name, &expired)),
                    false => print(&as_text(name, &expired))?,
                }
                if let Tiered::Failed(failure) = expired.tiered {
                    answers.failed(run, *failure);
                }
            }
            Err(failure) => {
                let told = json!({ "repository": name, "error": failure.json_error() });
                answers.fail(run, told, failure);
            }
        }
    }
    if args.json {
        print_json(&json!({
            "format_version": 2,
            "cluster": resolved.cluster_name,
            "dry_run": args.dry_run,
            "repositories": answers.told,
        }))?;
    } else if args.dry_run {
        print("Nothing was changed.")?;
    }
    answers.end(if is_sound { Exit::Ok } else { Exit::Warnings })
}

/// Expiry in one repository after a backup. Nobody is asked: what would need a word waits for one.
///
/// # Errors
/// Any; the backup is complete all the same.
pub fn after_backup(
    run: &Invocation,
    resolved: &Resolved,
    settings: &RepositorySettings,
) -> Result<(), Failure> {
    if !settings.retention.after_backup {
        return Ok(());
    }
    let args = ExpireArgs { dry_run: false, yes: false, json: false, scheduled: true };
    let expired = expire_in(run, &args, resolved, settings, true)?;
    warn_of(run, &settings.name, &expired);
    note(run, &settings.name, &expired);
    Ok(())
}

/// What was done, for a log.
fn note(run: &Invocation, name: &str, expired: &Expired) {
    if let Some((_, freed)) = &expired.done {
        run.ctx.note(format!("{name}: expire {}", freed_text(freed)));
    }
    if let Some(told) = expired.tiered.told() {
        run.ctx.note(format!("{name}: {told}"));
    }
}

/// The repository is opened first: only what is one, by its authentic descriptor, is cleaned.
fn expire_in(
    run: &Invocation,
    args: &ExpireArgs,
    resolved: &Resolved,
    settings: &RepositorySettings,
    is_after_backup: bool,
) -> Result<Expired, Failure> {
    run.ctx.cancel.check().map_err(crate::repo::Error::from)?;
    let access = if args.dry_run { Access::ReadOnly } else { Access::ReadWrite };
    let opened = wiring::open(&run.ctx, settings, access)?;
    run.warn_each(&opened.warnings);
    let (ctx, repository) = (&run.ctx, &opened.repository);
    let failed = |source| Failure::from(wiring::Error::of_repository(&settings.name, source));
    let store = repository.store();
    let found = store.unfinished().map_err(|error| failed(error.into()))?;
    let leftovers = retention::plan(found, ctx.clock.now());
    let cluster = resolved.cluster_name.as_str();
    let is_given = settings.retention.is_given;
    if is_given && !repository.places()?.iter().any(|place| place.cluster() == cluster) {
        // A section that was renamed, say: nothing would ever be removed, and nobody told.
        wiring::find_cluster(&settings.name, repository, cluster, None, None)?;
    }
    let policy = wiring::policy(resolved, settings);
    if args.dry_run {
        let plan = retention::plan_expiry(ctx, repository, cluster, &policy).map_err(failed)?;
        let freed = retention::estimate(ctx, repository, &plan).map_err(failed)?;
        let early = tier::early(ctx, repository, settings, &plan)?;
        let tiered = tier::plan(ctx, repository, settings, &plan)?;
        let moves = moving::carry_out(run, resolved, settings, (repository, &plan), true)?;
        let extensions = plan.extensions(store.lock_rule(), ctx.clock.now(), !is_given);
        let estimate = Some((freed, early));
        let needs_yes = much(settings, &plan);
        return Ok(Expired {
            leftovers,
            plan,
            is_given,
            estimate,
            extensions,
            needs_yes,
            done: None,
            tiered,
            moves,
        });
    }
    let host = wiring::host().to_string();
    // What is not there may not go, so this comes first, and takes as long as it takes.
    let moves = match settings.moves.is_some() {
        false => Moves::default(),
        true => {
            let plan = retention::plan_expiry(ctx, repository, cluster, &policy).map_err(failed)?;
            guard(run, args, settings, &plan)?;
            moving::carry_out(run, resolved, settings, (repository, &plan), false)?
        }
    };
    // What is not removed is locked for longer all the same.
    let (plan, removed, freed) = match is_given || store.lock_rule().is_some() {
        true => removed(run, args, resolved, settings, (repository, &leftovers, &host, &moves))?,
        false => {
            let plan = retention::plan_expiry(ctx, repository, cluster, &policy).map_err(failed)?;
            let removed = retention::execute(ctx, store.as_ref(), &leftovers).map_err(failed)?;
            (plan, removed, Freed::default())
        }
    };
    // A backup does not wait for copies of old ones.
    let tiered = match is_after_backup {
        true => Tiered::NoRules,
        false => tier::carry_out(ctx, repository, settings, &plan, &host),
    };
    Ok(Expired {
        leftovers,
        plan,
        is_given,
        estimate: None,
        extensions: Vec::new(),
        needs_yes: None,
        done: Some((removed, freed)),
        tiered,
        moves,
    })
}

/// Removes what the rules do not keep, where there are some, and locks the rest for longer, under the lease on that.
fn removed(
    run: &Invocation,
    args: &ExpireArgs,
    resolved: &Resolved,
    settings: &RepositorySettings,
    (repository, leftovers, host, moves): (&Repository, &Plan, &str, &Moves),
) -> Result<(ExpirePlan, usize, Freed), Failure> {
    let ctx = &run.ctx;
    let failed = |source| Failure::from(wiring::Error::of_repository(&settings.name, source));
    let cluster = resolved.cluster_name.as_str();
    let policy = wiring::policy(resolved, settings);
    let is_given = settings.retention.is_given;
    let request = LeaseRequest {
        scope: Scope::Expire,
        cluster,
        host,
        pid: std::process::id(),
        purpose: "expire",
        backup: None,
        server: None,
        is_gone: wiring::is_gone,
    };
    // Renewed while somebody is asked, too.
    let lease = repository.take_lease(ctx, &request).map_err(failed)?.beside(ctx);
    let mut plan = retention::plan_expiry(ctx, repository, cluster, &policy).map_err(failed)?;
    if is_given {
        guard(run, args, settings, &plan)?;
    }
    moves.apply(run, &mut plan);
    let store = repository.store();
    let removed = retention::execute(ctx, store.as_ref(), leftovers).map_err(failed)?;
    let freed = match is_given {
        true => retention::execute_expiry(ctx, repository, &mut plan, host, &lease),
        false => retention::extend_locks(ctx, repository, &plan, &lease),
    };
    let freed = freed.map_err(failed)?;
    drop(lease);
    summarise(run, repository, &plan);
    Ok((plan, removed, freed))
}

/// Summaries that still tell of what is gone cost readers time; nothing depends on them.
fn summarise(run: &Invocation, repository: &Repository, plan: &ExpirePlan) {
    for place in &plan.places {
        let (place, size) = (&place.gathered.place, place.gathered.segment_size());
        if let Err(error) = repository.summarise(&run.ctx, place, size) {
            run.ctx.note(format!("summaries were not written: {error}"));
        }
    }
}

/// What rules would remove that are others than those of the last expiry, where that is more than the guard lets
/// pass.
fn much(settings: &RepositorySettings, plan: &ExpirePlan) -> Option<String> {
    let (removed, all) = plan.removed_of();
    let (segments, archived) = plan.removed_wal_of();
    let share = settings.retention.guard;
    let is_within =
        removed * 100 <= all * usize::from(share) && segments * 100 <= archived * u64::from(share);
    let is_asked = settings.retention.is_given && plan.is_policy_new() && !is_within;
    is_asked.then(|| {
        format!(
            "{removed} of {} and {segments} of {archived} WAL segments (retention.guard is {share} %)",
            counted(all, "backup")
        )
    })
}

/// A word for rules that were changed and would remove much: they may be a mistake.
fn guard(
    run: &Invocation,
    args: &ExpireArgs,
    settings: &RepositorySettings,
    plan: &ExpirePlan,
) -> Result<(), Failure> {
    let Some(much) = much(settings, plan).filter(|_| !args.yes) else { return Ok(()) };
    let name = &settings.name;
    let question = format!("{name}: the rules are new, and would remove {much}. Remove them?");
    let text = text::plan(name, plan, true);
    confirm(true, &text, &question).map_err(|failure| match failure.exit {
        Exit::Usage => {
            // Without its name others would go too, and nobody has looked at those.
            let command = |command| run.at_repository(Some(name), command);
            let hint = format!(
                "Look with `{}`, then `{}`, or keep more.",
                command("expire --dry-run"),
                command("expire --yes")
            );
            let what =
                format!("{name}: the rules are new, and would remove {much}: nothing was removed");
            Failure { exit: Exit::Failed, ..Failure::failed(what).with_hint(hint) }
        }
        _ => failure,
    })
}

/// What people should look at; whether there was nothing.
fn warn_of(run: &Invocation, name: &str, expired: &Expired) -> bool {
    let warnings = text::warnings(&expired.plan);
    for warning in &warnings {
        run.ctx.warn(format!("{name}: {warning}"));
    }
    if !expired.is_given {
        run.ctx.warn(format!("{name}: {NO_RULES}"));
    }
    warnings.is_empty()
}

fn freed_text(freed: &Freed) -> String {
    let number = |count: u64, what| counted(usize::try_from(count).unwrap_or(usize::MAX), what);
    let mut text = format!(
        "removed {}, {}, {} in all, {}",
        number(freed.backups, "backup"),
        number(freed.segments, "WAL segment"),
        number(freed.objects, "object"),
        ByteSize(freed.bytes)
    );
    let more = [
        (freed.versions, "hidden version", "removed for good"),
        (freed.hidden, "hidden version", "locked still"),
        (freed.locked, "kept object", "locked for longer"),
    ];
    for (count, what, done) in more.into_iter().filter(|(count, ..)| *count > 0) {
        text.push_str(&format!("; {} {done}", number(count, what)));
    }
    text
}

fn as_text(name: &str, expired: &Expired) -> String {
    let mut lines = vec![text::plan(name, &expired.plan, expired.is_given)];
    lines.push(format!("{name}: {}", expired.leftovers));
    if let Some((freed, early)) = &expired.estimate {
        lines.push(format!("{name}: would have {}", freed_text(freed)));
        lines.extend(early.iter().map(|early| format!("{name}: of what goes, {early}")));
    }
    lines.extend(expired.needs_yes.iter().map(|much| {
        format!("{name}: the rules are new, and remove {much}: expire asks, or needs --yes")
    }));
    let longer = expired.extensions.iter().filter_map(text::extension);
    lines.extend(longer.map(|line| format!("{name}: {line}")));
    if let Some((leftovers, freed)) = &expired.done {
        let leftovers = counted(*leftovers, "leftover");
        lines.push(format!("{name}: {}; {leftovers} of interrupted uploads", freed_text(freed)));
    }
    lines.extend(expired.moves.text(name));
    lines.extend(expired.tiered.text(name));
    lines.join("\n")
}

fn as_json(name: &str, expired: &Expired) -> Value {
    json!({
        "repository": name,
        "rules": expired.plan.policy.to_string(),
        "rules_given": expired.is_given,
        "plan": text::plan_json(&expired.plan),
        "needs_yes": expired.needs_yes.is_some(),
        "leftovers": expired.leftovers,
        "would_free": expired.estimate.as_ref().map(|(freed, _)| freed),
        "early_removal": expired.estimate.as_ref().map(|(_, early)| early),
        "would_lock": expired.extensions.iter().map(|extension| json!({
            "objects": extension.objects,
            "until": extension.until.to_rfc3339(),
        })).collect::<Vec<_>>(),
        "removed_leftovers": expired.done.as_ref().map(|(leftovers, _)| leftovers),
        "freed": expired.done.as_ref().map(|(_, freed)| freed),
        "tiering": expired.tiered.json(),
        "moves": expired.moves.json(),
    })
}
