//! `adopt`: a restored copy becomes the cluster itself.

use std::path::Path;

use serde_json::json;

use super::args::AdoptArgs;
use super::confirm::confirm;
use super::error::Failure;
use super::exit::Exit;
use super::invocation::Invocation;
use super::output::{print, print_json};
use super::own_place;
use crate::config::{RepositorySettings, Resolved};
use crate::restore;
use crate::wiring::{self, Access};

/// Adopts a copy, or says what that would do.
pub fn adopt(run: &Invocation, args: &AdoptArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let directory = match (&args.data_directory, &resolved.cluster.data_directory) {
        (Some(named), _) => std::path::absolute(named)
            .map_err(|error| Failure::usage(format!("{}: {error}", named.display())))?,
        (None, Some(configured)) => configured.clone(),
        (None, None) => {
            let message = "name the directory: the configuration has no data_directory";
            return Err(Failure::usage(message));
        }
    };
    let adoption = restore::plan_adoption(&directory)?;
    let warnings = others(run, &resolved, &directory)?;
    let mut text = adoption.to_string();
    for warning in &warnings {
        text.push_str(&format!("\n  warning       {warning}"));
    }
    if args.dry_run {
        let plan = json!({
            "format_version": 1, "dry_run": true, "plan": adoption, "warnings": warnings,
        });
        match args.json {
            true => print_json(&plan)?,
            false => print(&format!("{text}\nNothing was changed."))?,
        }
        return Ok(Exit::Ok);
    }
    if !args.json {
        print(&text)?;
    }
    if !args.yes {
        confirm(args.json, &text, "Adopt it now?")?;
    }
    restore::adopt(&run.ctx, &adoption)?;
    if args.json {
        let done = json!({ "format_version": 1, "adopted": adoption, "warnings": warnings });
        print_json(&done)?;
        return Ok(Exit::Ok);
    }
    print(&format!(
        "adopted {}\n\nNext:\n  pg_ctl -D {} restart        # its settings count from then on\n  \
         pgkeep check\n  pgkeep backup --type full",
        directory.display(),
        directory.display()
    ))?;
    Ok(Exit::Ok)
}

/// Whether another server is, or was, the cluster. First write wins guards the archive; two servers
/// that both take writes are a person's to sort out.
fn others(run: &Invocation, resolved: &Resolved, directory: &Path) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    let system = wiring::system_of(directory)?;
    if let Some(configured) = &resolved.cluster.data_directory
        && configured != directory
    {
        warnings.push(format!(
            "the configuration's data_directory is {}: change it, and connection with it",
            configured.display()
        ));
    }
    let all = &resolved.repositories;
    let asked: Vec<_> = match run.global.repository {
        Some(_) => vec![resolved.repository()?],
        None => all.iter().collect(),
    };
    let (mut answered, mut failed) = (0, None);
    for settings in asked {
        match elsewhere(run, resolved, settings, system, directory) {
            Ok(why) => {
                answered += 1;
                warnings.extend(why.map(|why| {
                    format!("{why}: make sure that no other server is this cluster any more")
                }));
            }
            // It may be what was lost: a disaster takes a repository along.
            Err(failure) => {
                let name = &settings.name;
                let why = failure.message.trim_start_matches(&format!("repository {name}: "));
                warnings.push(format!("repository {name} was not asked: {why}"));
                failed.get_or_insert(failure);
            }
        }
    }
    if let Some(failure) = failed.filter(|_| answered == 0) {
        return Err(failure);
    }
    warnings.dedup();
    Ok(warnings)
}

/// What one repository knows of another server that is the cluster.
fn elsewhere(
    run: &Invocation,
    resolved: &Resolved,
    settings: &RepositorySettings,
    system: u64,
    directory: &Path,
) -> Result<Option<String>, Failure> {
    let opened = wiring::open(&run.ctx, settings, Access::ReadOnly)?;
    let (cluster, repository) = (&resolved.cluster_name, &opened.repository);
    let (place, _) = wiring::find_cluster(&settings.name, repository, cluster, Some(system), None)?;
    own_place::why_not_own(&run.ctx, repository, &place, &wiring::host(), directory)
}
