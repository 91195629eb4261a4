//! What `restore` does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::args::{RestoreArgs, Switch};
use super::thaw;
use crate::base::ByteSize;
use crate::cli::cold;
use crate::cli::confirm::confirm;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::hold;
use crate::cli::invocation::Invocation;
use crate::cli::output::{duration, print, print_json};
use crate::cli::own_place::why_not_own;
use crate::config::{RepositorySettings, Resolved};
use crate::pg::recovery::TargetAction;
use crate::repo::{KeptUp, Place, Repository};
use crate::restore::{self, Archiving, Options, Plan, RestoreCommand, Restored, Target};
use crate::wiring::{self, Access};

/// How long what was restored stays after the restore: its recovery reads WAL.
const HELD_FOR: Duration = Duration::from_hours(48);

/// Restores, or says what a restore would do. With --json a failure is told on stdout too.
pub fn restore(run: &Invocation, args: &RestoreArgs) -> Result<Exit, Failure> {
    let done = planned(run, args);
    if let (true, Err(failure)) = (args.json, &done) {
        print_json(&json!({ "format_version": 1, "error": failure.json_error() }))?;
    }
    done
}

fn planned(run: &Invocation, args: &RestoreArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let settings = resolved.repository()?;
    let opened = wiring::open(&run.ctx, settings, Access::ReadOnly)?;
    run.warn_each(&opened.warnings);
    let repository = &opened.repository;
    let (place, registration) =
        run.place_for_reading(&resolved, &settings.name, repository, args.epoch)?;
    let options = options(run, args, &resolved, repository, &place)?;
    let choose = || restore::choose_backup(&run.ctx, &options, (repository, &place), &registration);
    let mut chosen = choose()?;
    let found = cold::find(&run.ctx, settings, repository, &place, chosen.backup_id())?;
    let is_cold = found.objects > 0;
    if is_cold {
        let outlook = chosen.outlook();
        // What is wrong with the target shows before anything is paid for.
        match restore::plan_chosen(&run.ctx, &options, repository, &place, chosen) {
            Err(error) if !error.is_cold() => return Err(error.into()),
            _ => {}
        }
        if args.dry_run {
            return thaw::told(args, &outlook, &found);
        }
        thaw::thawed(run, args, (settings, &place), &outlook, &found)?;
        // Hours may have passed.
        chosen = choose()?;
    } else {
        thaw::thawed_already(run, args, (settings, &place), (chosen.backup_id(), &found))?;
    }
    let plan = restore::plan_chosen(&run.ctx, &options, repository, &place, chosen)?;
    if args.dry_run {
        match args.json {
            true => print_json(&json!({ "format_version": 1, "dry_run": true, "plan": plan }))?,
            false => print(&format!("{plan}\nNothing was changed."))?,
        }
        return Ok(Exit::Ok);
    }
    if !args.json {
        print(&plan.to_string())?;
    }
    // Who has waited for a thaw has confirmed; what goes over something, only the whole plan says.
    if !args.yes && (!is_cold || plan.ground.delta.is_some()) {
        let over = plan.ground.delta.as_ref().map(|_| {
            let to = plan.to.display();
            format!("Restore over {to} now? What it holds and the backup does not is lost.")
        });
        confirm(args.json, &plan.to_string(), over.as_deref().unwrap_or("Restore now?"))?;
    }
    let held = hold(run, settings, &place, &plan)?;
    // Held, nothing moves any more; until then something may have.
    let found = cold::find(&run.ctx, settings, repository, &place, plan.backup_id())?;
    if found.objects > 0 {
        return Err(cold::refusal(run, plan.backup_id(), &found));
    }
    let restored = restore::execute(&run.ctx, &plan, &options)?;
    // Recovery goes on reading WAL when this has ended.
    if let Some(held) = held {
        held.stay_for(HELD_FOR);
    }
    if args.json {
        print_json(&json!({ "format_version": 1, "plan": plan, "restored": restored }))?;
    } else {
        print(&next_steps(args, &plan, &restored))?;
    }
    Ok(Exit::Ok)
}

/// Says in the repository that the backup is read, and looks once more whether what is planned is still there.
fn hold(
    run: &Invocation,
    settings: &RepositorySettings,
    place: &Place,
    plan: &Plan,
) -> Result<Option<KeptUp>, Failure> {
    let (lease, decided) = hold::hold(run, settings, place, plan.backup_id(), "restore")?;
    if let Some(gone) = decided.as_ref().and_then(|keep| plan.first_expired(keep)) {
        let what = format!("{gone} has expired since the plan was made: plan again");
        return Err(Failure { exit: Exit::TargetNotReachable, ..Failure::failed(what) });
    }
    Ok(lease)
}

fn options(
    run: &Invocation,
    args: &RestoreArgs,
    resolved: &Resolved,
    repository: &Repository,
    place: &Place,
) -> Result<Options, Failure> {
    let to = match (&args.to, &resolved.cluster.data_directory) {
        (Some(to), _) => absolute(to)?,
        (None, Some(configured)) => configured.clone(),
        (None, None) => {
            return Err(Failure::usage("--to is needed: the configuration has no data_directory"));
        }
    };
    let archiving = match args.archive {
        Some(Switch::On) => Archiving::On,
        Some(Switch::Off) => Archiving::Off,
        None => match why_not_own(&run.ctx, repository, place, &wiring::host(), &to)? {
            None => Archiving::On,
            Some(why) => {
                run.ctx.note(format!("the restored cluster is a copy: {why}"));
                Archiving::Off
            }
        },
    };
    let mut options = Options {
        backup: args.backup.clone(),
        target: target(args),
        inclusive: !args.target_exclusive,
        timeline: args.target_timeline,
        action: args.target_action.into(),
        standby: args.standby,
        archiving,
        archiving_is_default: args.archive.is_none(),
        tablespaces: args.tablespace.clone(),
        config_to: args.config_to.as_deref().map(absolute).transpose()?,
        rename_old: args.rename_old,
        delta: args.delta,
        discard_wal: args.discard_wal,
        repository_folders: wiring::repository_folders(resolved),
        data_directory: resolved.cluster.data_directory.clone(),
        own_files: wiring::own_files(resolved, run.global.config.as_deref()),
        jobs: args.jobs.map_or(resolved.cluster.jobs, usize::from),
        restore_command: RestoreCommand { program: program(run)?, epoch: args.epoch },
        // Only for a moment does it matter whether the server has more.
        server: args.target_time.and_then(|_| wiring::server_now(&run.ctx, resolved)),
        user: wiring::connection_user(resolved),
        programs: wiring::program_places(resolved),
        to,
    };
    // Recovery must not move on to an epoch that begins while it runs; a standby follows.
    if !options.follows() {
        options.restore_command.epoch.get_or_insert(place.epoch());
    }
    Ok(options)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn target(args: &RestoreArgs) -> Target {
    match args {
        RestoreArgs { target_time: Some(time), .. } => Target::Time(*time),
        RestoreArgs { target_lsn: Some(lsn), .. } => Target::Lsn(*lsn),
        RestoreArgs { target_xid: Some(xid), .. } => Target::Xid(*xid),
        RestoreArgs { target_name: Some(name), .. } => Target::Name(name.clone()),
        RestoreArgs { target_immediate: true, .. } => Target::Immediate,
        _ => Target::Latest,
    }
}

/// How recovery calls this very pgkeep.
fn program(run: &Invocation) -> Result<Vec<String>, Failure> {
    let global = &run.global;
    let words = wiring::own_command(global.config.as_deref(), global.cluster.as_deref())
        .map_err(|error| Failure::failed(format!("cannot tell my path: {error}")))?;
    let text = |word: PathBuf| {
        let wrong = |word| Failure::failed(format!("{} is not UTF-8", Path::new(&word).display()));
        word.into_os_string().into_string().map_err(wrong)
    };
    words.into_iter().map(text).collect()
}

fn next_steps(args: &RestoreArgs, plan: &Plan, restored: &Restored) -> String {
    let directory = restored.data_directory.display();
    let took = Duration::try_from_secs_f64(restored.seconds).unwrap_or_default();
    let took = duration(took.as_secs().max(1));
    let mut lines = vec![format!(
        "restored {}: {} files, {}, in {took}",
        directory,
        restored.files,
        ByteSize(restored.bytes)
    )];
    if plan.ground.delta.is_some() {
        let Restored { kept, written, removed, .. } = restored;
        lines.push(format!(
            "{} files stayed as they were ({} of blocks that were right), {} were written to ({}), {removed} \
             files and directories were removed",
            kept.files,
            ByteSize(kept.bytes),
            written.files,
            ByteSize(written.bytes),
        ));
    }
    lines.extend([String::new(), "Next:".into()]);
    lines.extend(plan.next.iter().map(|command| format!("  {command}")));
    if plan.standby && plan.at_target().is_none() {
        lines.push("It follows the archive as a standby until it is promoted.".into());
    } else {
        let replays_all = "It replays all archived WAL and then opens for writing.";
        // The plan's own word: it may differ from what was asked for, and has said why.
        let told = matches!(target(args), Target::Latest).then_some(replays_all);
        let told = told.or_else(|| plan.at_target().map(at_target));
        lines.push(told.unwrap_or(replays_all).into());
    }
    if !plan.archives {
        lines.push(format!(
            "It is a copy: it does not archive, subscribe, stream or run jobs. To let it take the \
             cluster's place: pgkeep adopt {directory}"
        ));
    } else if !plan.standby {
        lines.push("Once it is open for writing: pgkeep backup --type full".into());
    }
    lines.join("\n")
}

fn at_target(action: TargetAction) -> &'static str {
    match action {
        TargetAction::Pause => {
            "At the target it waits, readable: look whether the data is right. If so, SELECT \
             pg_wal_replay_resume() opens it for writing. If not, stop it and restore to another \
             target, into another directory."
        }
        TargetAction::Promote => "At the target it opens for writing, on a new timeline.",
        TargetAction::Shutdown => "At the target it shuts down.",
    }
}
