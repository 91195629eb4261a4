//! `repository lifecycle`: rules for the bucket, which go by the tag that packs get.

use serde_json::{Value, json};

use crate::cli::error::{Failure, Kind};
use crate::cli::exit::Exit;
use crate::cli::invocation::Invocation;
use crate::cli::output::print_json;
use crate::config::{Location, RepositorySettings};
use crate::storage::StorageClass;
use crate::tiering::CLASS_TAG;

/// After how many days S3 lets a rule move an object there, at the earliest.
fn days_min(class: &StorageClass) -> u16 {
    match class {
        StorageClass::StandardIa | StorageClass::OnezoneIa => 30,
        _ => 0,
    }
}

/// Prints the rules of the repository that is meant.
pub fn lifecycle(run: &Invocation) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let settings = resolved.repository()?;
    let Location::S3(location) = &settings.url else {
        let what =
            format!("{}: a folder has no lifecycle rules: they are a bucket's", settings.name);
        return Err(Failure { kind: Kind::Config, ..Failure::failed(what) });
    };
    print_json(&rules(settings, &location.prefix))?;
    Ok(Exit::Ok)
}

fn rules(settings: &RepositorySettings, prefix: &str) -> Value {
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let tiering = settings.tiering.iter();
    let mut classes: Vec<&StorageClass> = tiering.flat_map(|rules| rules.classes()).collect();
    classes.sort();
    classes.dedup();
    let moves = classes.into_iter().map(|class| {
        json!({
            "ID": format!("pgkeep-{}-{class}", settings.name),
            "Status": "Enabled",
            "Filter": { "And": {
                "Prefix": prefix,
                "Tags": [{ "Key": CLASS_TAG, "Value": class }],
            } },
            "Transitions": [{ "Days": days_min(class), "StorageClass": class }],
        })
    });
    let unfinished = json!({
        "ID": format!("pgkeep-{}-unfinished-uploads", settings.name),
        "Status": "Enabled",
        "Filter": { "Prefix": prefix },
        "AbortIncompleteMultipartUpload": { "DaysAfterInitiation": 2 },
    });
    json!({ "Rules": moves.chain([unfinished]).collect::<Vec<_>>() })
}
