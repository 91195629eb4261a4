//! What `check` asks the server.

use super::findings::Findings;
use crate::base::Timestamp;
use crate::cli::error::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::output::{duration, moment, seconds_between};
use crate::cli::{init, server_settings};
use crate::config::Resolved;
use crate::pgconn::{Archiver, Known, ServerFacts, Session};
use crate::wiring;

/// Clocks that differ by more than this make times in targets doubtful.
const SKEW_SECONDS: u64 = 5;

/// Connects, looks, and returns what the repositories are compared with.
pub fn look(run: &Invocation, resolved: &Resolved, findings: &mut Findings) -> Option<ServerFacts> {
    let options = wiring::connect_options(resolved, "check");
    let asked = Session::connect(&run.ctx, &options)
        .and_then(|session| Ok((ServerFacts::read(&run.ctx, &session)?, session)));
    let (facts, session) = match asked {
        Ok(asked) => asked,
        Err(error) => {
            findings.failure("server", error.into());
            return None;
        }
    };
    let role = if facts.in_recovery { "standby" } else { "primary" };
    let version = facts.server_version;
    let system = facts.system_identifier;
    let (major, minor) = (version / 10_000, version % 10_000);
    findings.ok("server", format!("PostgreSQL {major}.{minor}, {role}, system {system}"));
    directory(run, resolved, &session, &facts, findings);
    settings(run, resolved, &facts, findings);
    if facts.in_recovery && facts.archive_mode != "always" {
        findings.ok("archiver", "idle on this standby: the primary archives");
    } else {
        archiver(&facts.archiver, findings);
    }
    waiting(run, resolved, &session, findings);
    clock(run.ctx.clock.now(), facts.server_clock, findings);
    Some(facts)
}

fn directory(
    run: &Invocation,
    resolved: &Resolved,
    session: &Session,
    facts: &ServerFacts,
    findings: &mut Findings,
) {
    const CHECK: &str = "data directory";
    let Some(directory) = &resolved.cluster.data_directory else {
        let todo = "Set data_directory: backups read it.";
        return findings.fail(CHECK, "none is configured", todo);
    };
    match wiring::system_of(directory) {
        Err(error) => return findings.failure(CHECK, Failure::from(error)),
        Ok(system) if system != facts.system_identifier => {
            let found = format!("{} belongs to system {system}", directory.display());
            return findings.fail(
                CHECK,
                found,
                "connection and data_directory must belong together.",
            );
        }
        Ok(_) => {}
    }
    let path = directory.join("postmaster.pid");
    match std::fs::read(&path) {
        Err(error) => findings.fail(
            CHECK,
            format!("{}: {error}", path.display()),
            "Run pgkeep as the account of the server, on its host.",
        ),
        Ok(local) => match session.prove_directory(&run.ctx, &local) {
            Ok(()) => {
                findings.ok(CHECK, format!("the server runs on {}", directory.display()));
            }
            Err(error) => findings.failure(CHECK, error.into()),
        },
    }
}

fn settings(run: &Invocation, resolved: &Resolved, facts: &ServerFacts, findings: &mut Findings) {
    archive_settings(run, facts, findings);
    let archives = !facts.in_recovery || facts.archive_mode == "always";
    archive_timeout(facts.archive_timeout, resolved.cluster.rpo.as_secs(), archives, findings);
    match facts.wal_level.as_str() {
        "minimal" => findings.fail(
            "wal_level",
            "minimal",
            "Set wal_level = 'replica' and restart the server: without it there is no archiving.",
        ),
        level => findings.ok("wal_level", level),
    }
    if facts.full_page_writes {
        findings.ok("full_page_writes", "on");
    } else {
        let todo = "Set full_page_writes = on: a crash of the server can tear pages without it.";
        findings.warn("full_page_writes", "off", todo);
    }
    if facts.data_checksums {
        findings.ok("data checksums", "on");
    } else {
        let todo = "Damaged pages cannot be told from good ones. pg_checksums --enable turns them \
                    on while the server is stopped.";
        findings.warn("data checksums", "off", todo);
    }
    if !facts.pending_restart.is_empty() {
        let waiting = facts.pending_restart.join(", ");
        findings.warn(
            "pending restart",
            waiting,
            "These settings wait for a restart of the server.",
        );
    }
}

fn archive_settings(run: &Invocation, facts: &ServerFacts, findings: &mut Findings) {
    match facts.archive_mode.as_str() {
        "off" if facts.in_recovery => {
            return findings.warn(
                "archive_mode",
                "off on this standby: after a promotion no WAL is archived",
                "Set archive_mode = on and restart the standby.",
            );
        }
        "off" => findings.fail(
            "archive_mode",
            "off: no WAL is archived",
            "Set archive_mode = on and restart the server.",
        ),
        mode => findings.ok("archive_mode", mode),
    }
    if let Some(library) = facts.archive_library.as_deref().filter(|library| !library.is_empty()) {
        let found = format!("{library:?}: archive_command is never run");
        findings.fail("archive_library", found, "Set archive_library = ''.");
    }
    let command = facts.archive_command.as_str();
    if command.contains("archive-push") && command.contains("pgkeep") {
        findings.ok("archive_command", command);
        return;
    }
    let wanted = init::own_archive_command(run)
        .and_then(|value| server_settings::Wanted { name: "archive_command", value }.line());
    let todo = wanted.map_or_else(|_| String::new(), |line| format!("Set {line}"));
    let found = match command {
        "" => "empty: WAL waits in pg_wal".into(),
        "(disabled)" => "not run while archive_mode is off".into(),
        other => format!("it does not run pgkeep archive-push: {other}"),
    };
    findings.fail("archive_command", found, todo);
}

/// `archives`: whether this server does, now. On a standby that does not, the setting counts from its
/// promotion on.
fn archive_timeout(seconds: u32, rpo: u64, archives: bool, findings: &mut Findings) {
    const CHECK: &str = "archive_timeout";
    let found = match u64::from(seconds) {
        0 => "0: on a quiet server changes stay unarchived for ever".to_owned(),
        seconds if seconds > rpo => {
            format!("{}, longer than rpo ({})", duration(seconds), duration(rpo))
        }
        seconds => {
            return findings.ok(CHECK, format!("{} (rpo {})", duration(seconds), duration(rpo)));
        }
    };
    let value = server_settings::archive_timeout(std::time::Duration::from_secs(rpo));
    let todo = format!(
        "Run ALTER SYSTEM SET archive_timeout = '{value}s'; SELECT pg_reload_conf(); or, where Patroni \
         keeps the settings, patronictl edit-config -p archive_timeout={value}s. rpo is {}.",
        duration(rpo)
    );
    if archives {
        findings.fail(CHECK, found, todo);
    } else {
        findings.warn(CHECK, format!("{found}, once this standby is promoted"), todo);
    }
}

fn archiver(archiver: &Archiver, findings: &mut Findings) {
    const CHECK: &str = "archiver";
    let fails_now = match (archiver.last_failed_time, archiver.last_archived_time) {
        (Some(failed), Some(archived)) => failed > archived,
        (failed, _) => failed.is_some(),
    };
    let at = |name: &Option<String>, time: Option<Timestamp>| {
        let name = name.as_deref().unwrap_or("a file");
        time.map_or_else(|| name.to_owned(), |time| format!("{name} at {}", moment(time)))
    };
    if fails_now {
        let failed = at(&archiver.last_failed, archiver.last_failed_time);
        let found = format!("it fails: {failed}, {} times in all", archiver.failed_count);
        let todo = "The server's log has what archive_command said. Run `pgkeep archive-push` with \
                    that file by hand, as the server's account.";
        findings.fail(CHECK, found, todo);
    } else if archiver.last_archived.is_some() {
        let archived = at(&archiver.last_archived, archiver.last_archived_time);
        findings.ok(CHECK, format!("last archived {archived}"));
    } else {
        let todo = "Run SELECT pg_switch_wal() and check again.";
        findings.warn(CHECK, "nothing was archived yet", todo);
    }
}

fn waiting(run: &Invocation, resolved: &Resolved, session: &Session, findings: &mut Findings) {
    const CHECK: &str = "waiting WAL";
    match session.ready_segments(&run.ctx) {
        Err(error) => findings.failure(CHECK, error.into()),
        Ok(Known::Withheld { reason }) => {
            findings.warn(CHECK, reason, "Grant the role pg_monitor.");
        }
        Ok(Known::Yes(ready)) => {
            let age = ready.oldest.map(|oldest| seconds_between(oldest, run.ctx.clock.now()));
            match (ready.count, age) {
                (0, _) => findings.ok(CHECK, "none"),
                (count, Some(age)) if age > resolved.cluster.rpo.as_secs() => {
                    let first = ready.first.unwrap_or_default();
                    let age = duration(age);
                    let found = format!("{count} files since {age}, the first is {first}");
                    findings.fail(CHECK, found, "Archiving is behind by more than rpo.");
                }
                (count, _) => findings.ok(CHECK, format!("{count} files, within rpo")),
            }
        }
    }
}

fn clock(local: Timestamp, server: Timestamp, findings: &mut Findings) {
    let skew = seconds_between(local, server).max(seconds_between(server, local));
    if skew > SKEW_SECONDS {
        let found = format!("the server's clock differs by {}", duration(skew));
        findings.warn("clock", found, "Let both hosts follow one time source.");
    } else {
        findings.ok("clock", "the server's agrees with this host's");
    }
}

#[cfg(test)]
mod tests {
    use super::super::findings::Level;
    use super::*;
    use chrono::DateTime;

    fn level(look: impl FnOnce(&mut Findings)) -> Level {
        let mut findings = Findings::default();
        look(&mut findings);
        findings.list.iter().map(|finding| finding.level).max().unwrap()
    }

    #[test]
    fn archive_timeout_is_held_to_the_objective() {
        for (seconds, expected) in
            [(0, Level::Fail), (60, Level::Ok), (300, Level::Ok), (301, Level::Fail)]
        {
            assert_eq!(
                level(|all| archive_timeout(seconds, 300, true, all)),
                expected,
                "{seconds}"
            );
        }
        // It does not archive yet; when it does, it is too late to notice.
        assert_eq!(level(|all| archive_timeout(0, 300, false, all)), Level::Warn);
        assert_eq!(level(|all| archive_timeout(60, 300, false, all)), Level::Ok);
        let mut findings = Findings::default();
        archive_timeout(0, 300, true, &mut findings);
        let todo = findings.list.swap_remove(0).todo.unwrap();
        assert!(todo.contains("ALTER SYSTEM SET archive_timeout = '150s'"), "{todo}");
        assert!(todo.contains("patronictl edit-config -p archive_timeout=150s"), "{todo}");
    }

    #[test]
    fn an_archiver_fails_now_only_after_its_last_success() {
        let time = |seconds| DateTime::from_timestamp(seconds, 0);
        let account = |archived: Option<i64>, failed: Option<i64>| Archiver {
            archived_count: 1,
            last_archived: archived.map(|_| "a".into()),
            last_archived_time: archived.and_then(time),
            failed_count: 1,
            last_failed: failed.map(|_| "b".into()),
            last_failed_time: failed.and_then(time),
            since: None,
        };
        for (archived, failed, expected) in [
            (None, None, Level::Warn),
            (Some(10), None, Level::Ok),
            (Some(10), Some(5), Level::Ok),
            (Some(10), Some(11), Level::Fail),
            (None, Some(1), Level::Fail),
        ] {
            assert_eq!(level(|all| archiver(&account(archived, failed), all)), expected);
        }
    }

    #[test]
    fn clocks_may_differ_a_little() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        assert_eq!(level(|all| clock(at(100), at(104), all)), Level::Ok);
        assert_eq!(level(|all| clock(at(100), at(90), all)), Level::Warn);
    }
}
