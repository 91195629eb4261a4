//! `backup`: plan, print, execute.

use serde_json::json;

use super::args::BackupArgs;
use super::error::Failure;
use super::exit::Exit;
use super::invocation::Invocation;
use super::output::{duration, print, print_json, seconds_between};
use crate::archive::Destination;
use crate::backup::{self, Finished, Plan};
use crate::base::ByteSize;
use crate::repo::{BackupType, Base};
use crate::wiring::{self, Access, BackupFlags};

/// How many invalid pages are listed one by one.
const DAMAGE_SHOWN: usize = 20;

/// Takes a backup, or says what one would do.
pub fn backup(run: &Invocation, args: &BackupArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let settings = resolved.repository()?;
    let options = wiring::backup_options(&resolved, settings, flags(args))?;
    let system = wiring::system_of(&options.data_directory)?;
    let access = if args.dry_run { Access::ReadOnly } else { Access::ReadWrite };
    let cluster = &resolved.cluster_name;
    let (to, warnings) =
        wiring::destination(&run.ctx, settings, cluster, Some(system), None, access)?;
    run.warn_each(&warnings);
    let plan = backup::plan(&run.ctx, &options, &to.repository, &to.place, &to.registration)?;
    print_plan(run, args, &plan, &to.name)?;
    if args.dry_run {
        return Ok(Exit::Ok);
    }
    let finished = take(run, args, options, &plan, &to)?;
    let is_sound = finished.damage.is_empty() && finished.summary.totals.invalid_pages == 0;
    if args.json {
        print_json(&as_json(&to.name, &finished))?;
    } else {
        print(&last_line(&finished))?;
    }
    finished.warnings.iter().for_each(|warning| run.ctx.warn(warning.clone()));
    if !is_sound {
        warn_of_damage(run, &finished);
    }
    let expired = super::expire::after_backup(run, &resolved, settings);
    if let Err(failure) = &expired {
        failure.report(run.voice.format, run.voice.color);
        run.ctx.warn("the backup is complete; expire after it failed");
    }
    let is_whole = is_sound && finished.warnings.is_empty() && expired.is_ok();
    Ok(if is_whole { Exit::Ok } else { Exit::Warnings })
}

fn flags(args: &BackupArgs) -> BackupFlags {
    BackupFlags {
        backup_type: args.backup_type.into(),
        jobs: args.jobs.map(usize::from),
        max_rate: args.max_rate.map(|rate| rate.0),
        skips: !args.no_skip,
        resumes: !args.no_resume,
    }
}

/// Takes the backup; a full, if that is wanted, where the parent turns out to be damaged while it is read.
fn take(
    run: &Invocation,
    args: &BackupArgs,
    options: backup::Options,
    plan: &Plan,
    to: &Destination,
) -> Result<Finished, Failure> {
    let (repository, place, registration) = (&to.repository, &to.place, &to.registration);
    match backup::execute(&run.ctx, plan, &options, repository, place, registration) {
        Err(backup::Error::Parent { what }) if options.auto_full => {
            run.ctx.warn(format!("{what}; a full is taken instead (auto_full)"));
            let options = backup::Options { backup_type: BackupType::Full, ..options };
            let plan = backup::plan(&run.ctx, &options, repository, place, registration)?;
            print_plan(run, args, &plan, &to.name)?;
            Ok(backup::execute(&run.ctx, &plan, &options, repository, place, registration)?)
        }
        other => Ok(other?),
    }
}

/// The plan of a dry run is its result; otherwise it is a word on the way.
fn print_plan(
    run: &Invocation,
    args: &BackupArgs,
    plan: &Plan,
    repository: &str,
) -> Result<(), Failure> {
    plan.warnings.iter().for_each(|warning| run.ctx.warn(warning.clone()));
    match (args.dry_run, args.json) {
        (true, true) => print_json(&json!({
            "format_version": 1,
            "dry_run": true,
            "repository": repository,
            "plan": plan,
        })),
        (true, false) => {
            print(&format!("{plan}\n  repository    {repository}\nNothing was changed."))
        }
        (false, true) => Ok(()),
        (false, false) => print(&format!("{plan}\n  repository    {repository}")),
    }
}

/// Id, time, sizes, rate.
fn last_line(finished: &Finished) -> String {
    let summary = &finished.summary;
    let totals = &summary.totals;
    let seconds = seconds_between(summary.started, summary.finished).max(1);
    let read = totals.bytes.saturating_sub(totals.unread_bytes);
    let mut line = format!(
        "backup {} is complete: {} files, {}, stored as {}, in {} ({}/s)",
        summary.id,
        totals.files,
        ByteSize(totals.bytes),
        ByteSize(totals.stored),
        duration(seconds),
        ByteSize(read / seconds)
    );
    if totals.unread_files > 0 {
        let (files, bytes) = (totals.unread_files, ByteSize(totals.unread_bytes));
        line += &format!("; {files} files, {bytes}, were not touched since and not read");
    }
    match finished.reused() {
        0 => {}
        reused => line += &format!("; {} were used of an interrupted backup", ByteSize(reused)),
    }
    line
}

fn as_json(repository: &str, finished: &Finished) -> serde_json::Value {
    let Finished { summary, damage, bases, warnings } = finished;
    json!({
        "format_version": 1,
        "repository": repository,
        "id": summary.id,
        "type": summary.backup_type,
        "parent": summary.parent,
        "cluster": summary.cluster,
        "system": summary.system.to_string(),
        "started": summary.started.to_rfc3339(),
        "finished": summary.finished.to_rfc3339(),
        "seconds": seconds_between(summary.started, summary.finished),
        "timeline": summary.timeline,
        "timeline_stop": summary.timeline_stop,
        "start_lsn": summary.start_lsn,
        "stop_lsn": summary.stop_lsn,
        "wal_first": summary.wal_first,
        "wal_last": summary.wal_last,
        "files": summary.totals.files,
        "bytes": summary.totals.bytes,
        "unread_files": summary.totals.unread_files,
        "unread_bytes": summary.totals.unread_bytes,
        "stored_bytes": summary.totals.stored,
        "own_bytes": summary.own_bytes(),
        "reused_bytes": finished.reused(),
        "bases": bases.iter().map(base_json).collect::<Vec<_>>(),
        "invalid_pages": summary.totals.invalid_pages,
        "damage": damage,
        "warnings": warnings,
    })
}

/// One thing that a backup stands on.
pub(super) fn base_json(base: &Base) -> serde_json::Value {
    json!({ "id": base.id, "interrupted": base.attempt, "used_bytes": base.used })
}

fn warn_of_damage(run: &Invocation, finished: &Finished) {
    for damage in finished.damage.iter().take(DAMAGE_SHOWN) {
        run.ctx.warn(format!("{} block {}: {}", damage.path, damage.block, damage.why));
    }
    run.ctx.warn(format!(
        "{} pages were invalid: the backup is complete and holds them as they are; look at the \
         server's disk, and at older backups for these files",
        finished.summary.totals.invalid_pages
    ));
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};

    #[test]
    fn each_flag_of_a_backup_says_what_it_says() {
        let of = |words: &[&str]| {
            let line = [&["pgkeep", "backup"], words].concat();
            let Command::Backup(args) = Cli::try_parse_from(line).unwrap().command else {
                panic!("{words:?}")
            };
            let flags = flags(&args);
            (flags.backup_type, flags.skips, flags.resumes)
        };
        assert_eq!(of(&[]), (BackupType::Full, true, true));
        assert_eq!(of(&["--no-skip"]), (BackupType::Full, false, true));
        assert_eq!(of(&["--no-resume"]), (BackupType::Full, true, false));
        assert_eq!(of(&["--type", "diff", "--no-skip"]), (BackupType::Differential, false, true));
        assert_eq!(of(&["--type", "incr"]), (BackupType::Incremental, true, true));
    }
}
