//! The settings and files that make the restored server recover: `postgresql.auto.conf`, a signal
//! file, `backup_label`, the marker of a copy.

use super::error::{Error, Result};
use super::options::{Archiving, Options};
use super::plan::Plan;
use super::shell;
use crate::base::Ctx;
use crate::pg::config_file;
use crate::pg::recovery::{RecoverySettings, TargetTimeline};
use crate::pg::{MajorVersion, TimelineId, isolation};

/// The backup's `postgresql.auto.conf` as a cluster that archives needs it: without what the restore of
/// its source has written, where that was a copy.
pub(super) fn own_settings(plan: &Plan, options: &Options, content: Vec<u8>) -> Result<Vec<u8>> {
    if options.archiving == Archiving::Off {
        return Ok(content);
    }
    Ok(isolation::without(&content, major(plan)?).0)
}

fn major(plan: &Plan) -> Result<MajorVersion> {
    MajorVersion::from_server_version_num(plan.summary.server.version_num)
        .map_err(|source| Error::Postgres { what: "the backup's server", source })
}

/// What goes to the end of `postgresql.auto.conf`.
pub(super) fn settings(
    ctx: &Ctx,
    plan: &Plan,
    options: &Options,
    in_place: bool,
) -> Result<String> {
    let failed = |source| Error::Postgres { what: "a recovery setting", source };
    let version = plan.summary.server.version_num;
    let major = major(plan)?;
    let timeline = TimelineId::new(plan.timeline).unwrap_or(TimelineId::FIRST);
    let settings = RecoverySettings {
        target: plan.effective.clone(),
        inclusive: plan.inclusive,
        action: plan.action,
        timeline: timeline_setting(options, timeline),
        restore_command: restore_command(plan, options),
    };
    let mut lines = settings.render(major).map_err(failed)?;
    if options.archiving == Archiving::Off {
        lines.extend(isolation::settings(major));
    }
    // Recovery takes a directory in pg_tblspc for damage otherwise, and panics where it becomes
    // consistent (`CheckTablespaceDirectory`, src/backend/access/transam/xlogrecovery.c; the setting
    // came with 14.5).
    if in_place && version >= 140_005 {
        lines.push(("allow_in_place_tablespaces", "on".into()));
    }
    // From 15 on the server reads ahead of its target; at a hole just behind it, archive-get would
    // stop a recovery that does not need what is missing.
    if !plan.reads_ahead && major >= MajorVersion::V15 {
        lines.push(("recovery_prefetch", "off".into()));
    }
    lines.extend(plan.raised.iter().map(|raised| (raised.name, raised.value.to_string())));
    let now = ctx.clock.now().format("%Y-%m-%d %H:%M:%S UTC");
    let mut text =
        format!("\n# Written by pgkeep restore on {now}, from backup {}.\n", plan.backup);
    for (name, value) in lines {
        text.push_str(&config_file::render(name, &value).map_err(failed)?);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}

/// A standby without a target follows whatever timeline is the newest, unless one was asked for.
fn timeline_setting(options: &Options, planned: TimelineId) -> TargetTimeline {
    if options.follows() && options.timeline == TargetTimeline::Latest {
        TargetTimeline::Latest
    } else {
        TargetTimeline::Number(planned)
    }
}

/// The command for the shell; the server replaces `%f` and `%p`, so a percent sign is doubled.
fn restore_command(plan: &Plan, options: &Options) -> String {
    let mut words: Vec<String> =
        options.restore_command.program.iter().map(|word| quote(word)).collect();
    words.push("archive-get".into());
    if let Some(epoch) = options.restore_command.epoch {
        words.push(format!("--epoch {epoch}"));
    }
    // Without a target, a standby follows the archive beyond what this plan saw.
    if !options.follows() {
        words.push(format!("--through {}", plan.through));
    }
    words.push("%f \"%p\"".into());
    words.join(" ")
}

fn quote(word: &str) -> String {
    shell::word(&word.replace('%', "%%"))
}

/// The signal file's name.
pub(super) fn signal_file(options: &Options) -> &'static str {
    if options.standby { "standby.signal" } else { "recovery.signal" }
}

/// What the marker says.
pub(super) fn marker(ctx: &Ctx, plan: &Plan) -> String {
    let marker = serde_json::json!({
        "what": "a copy restored by pgkeep: archive-push refuses to run from this directory",
        "cluster": plan.cluster,
        "backup": plan.backup,
        "target": plan.target,
        "restored": ctx.clock.now().to_rfc3339(),
    });
    format!("{marker:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_and_the_server_read_the_words_as_they_are() {
        assert_eq!(quote("/usr/bin/pgkeep"), "/usr/bin/pgkeep");
        assert_eq!(quote("my config.toml"), "'my config.toml'");
        assert_eq!(quote("it's 100%"), "'it'\\''s 100%%'");
        assert_eq!(quote(""), "''");
    }
}
