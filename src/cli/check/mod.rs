//! `check`: a live look at everything that archiving and backups need.
//!
//! Each look gives [`Finding`]s, values first; then they are printed. Only a failure changes the
//! exit code (14): warnings are for reading. Nothing is changed anywhere.

mod bucket;
mod findings;
mod lifecycle;
mod repository;
mod server;

use self::findings::{Finding, Findings, Level};
use super::args::CheckArgs;
use super::error::Failure;
use super::exit::Exit;
use super::output::{counted, print, print_json};
use crate::cli::invocation::Invocation;
use crate::config::Origin;
use crate::config::layers::{Address, Layered};
use crate::config::schema::Section;
use crate::wiring;

/// Looks at everything and says what it found.
pub fn check(run: &Invocation, args: &CheckArgs) -> Result<Exit, Failure> {
    let mut findings = Findings::default();
    if let Err(failure) = look(run, &mut findings) {
        findings.failure("configuration", failure);
    }
    let worst = findings.list.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    if args.json {
        print_json(&serde_json::json!({
            "format_version": 1,
            "result": worst,
            "findings": findings.list,
        }))?;
    } else {
        print(&text(&findings.list, run.voice.color))?;
    }
    run.ctx.cancel.check().map_err(crate::repo::Error::from)?;
    Ok(if worst == Level::Fail { Exit::ProblemsFound } else { Exit::Ok })
}

fn look(run: &Invocation, findings: &mut Findings) -> Result<(), Failure> {
    let settings = wiring::settings(run.global.config.as_deref())?;
    let path = wiring::config_path(run.global.config.as_deref());
    let path = std::path::absolute(&path).unwrap_or(path);
    findings.ok("configuration", format!("{} is read", path.display()));
    for warning in settings.warnings() {
        findings.warn("configuration", warning.to_string(), "Change it there.");
    }
    if let Some(found) = not_carried_out(settings.layered()) {
        let todo = "Run `pgkeep backup`, and now and then `pgkeep expire`, from cron or a timer.";
        findings.warn("configuration", found, todo);
    }
    let (cluster, repository) = (run.global.cluster.as_deref(), run.global.repository.as_deref());
    let resolved = settings.resolve(cluster, repository)?;
    let server = server::look(run, &resolved, findings);
    for settings in &resolved.repositories {
        findings.repository = Some(settings.name.clone());
        repository::look(run, &resolved, settings, server.as_ref(), findings);
    }
    findings.repository = None;
    Ok(())
}

/// What is set and has no effect yet.
fn not_carried_out(layered: &Layered) -> Option<String> {
    let is_later = |address: &Address| match address.section.section {
        Section::Schedule => matches!(address.key, "full" | "diff" | "verify"),
        Section::Daemon => address.key == "listen",
        Section::Repository | Section::Cluster => false,
    };
    let given = layered.iter().filter(|(_, setting)| setting.origin != Origin::Default);
    let names: Vec<String> = given
        .filter(|(address, _)| is_later(address))
        .map(|(address, _)| address.to_string())
        .collect();
    (!names.is_empty()).then(|| format!("{}: not carried out by this version", names.join(", ")))
}

fn text(findings: &[Finding], color: bool) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let (word, paint) = match finding.level {
            Level::Ok => ("ok  ", "\x1b[32m"),
            Level::Warn => ("warn", "\x1b[33m"),
            Level::Fail => ("FAIL", "\x1b[1;31m"),
        };
        let (paint, plain) = if color { (paint, "\x1b[0m") } else { ("", "") };
        let place = finding.repository.as_ref().map(|name| format!("{name}: "));
        let (place, check) = (place.unwrap_or_default(), finding.check);
        lines.push(format!("{paint}{word}{plain}  {place}{check}: {}", finding.found));
        if let Some(todo) = &finding.todo {
            lines.push(format!("      -> {todo}"));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (warnings, failures) = (count(Level::Warn), count(Level::Fail));
    let (shown_warnings, shown_failures) =
        (counted(warnings, "warning"), counted(failures, "failure"));
    lines.push(match (failures, warnings) {
        (0, 0) => "All is well.".into(),
        (0, _) => format!("It works; {shown_warnings}."),
        _ => format!("{shown_failures}, {shown_warnings}."),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each_and_what_to_do() {
        let mut findings = Findings::default();
        findings.ok("server", "reachable");
        findings.repository = Some("local".into());
        findings.fail("descriptor", "it was changed", "restore it");
        assert_eq!(
            text(&findings.list, false),
            "ok    server: reachable\nFAIL  local: descriptor: it was changed\n      -> restore \
             it\n1 failure, 0 warnings."
        );
    }
}
