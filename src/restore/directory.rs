//! Where a restore goes: tablespaces that go elsewhere, configuration files that lie apart.

use std::path::{Component, Path, PathBuf};

use super::error::{Error, Result};
use super::options::Options;
use crate::repo::OpenedBackup;

/// Where each tablespace of the backup goes: oid, location in the backup, target.
pub(super) fn tablespaces(
    options: &Options,
    opened: &OpenedBackup,
) -> Result<Vec<(u32, String, PathBuf)>> {
    let known = &opened.manifest().tablespaces;
    for mapping in &options.tablespaces {
        let is_known = known
            .iter()
            .any(|known| known.location == mapping.old || known.oid.to_string() == mapping.old);
        if !is_known {
            let places: Vec<String> =
                known.iter().map(|known| format!("{} ({})", known.location, known.oid)).collect();
            return Err(Error::Refused {
                what: format!(
                    "the backup has no tablespace {}; it has: {}",
                    mapping.old,
                    if places.is_empty() { "none".into() } else { places.join(", ") }
                ),
            });
        }
        if !mapping.new.is_absolute() {
            return Err(Error::Refused {
                what: format!("{} is not an absolute path", mapping.new.display()),
            });
        }
    }
    let data = place_of(&options.to)?;
    let (mut result, mut places) = (Vec::new(), Vec::<PathBuf>::new());
    for tablespace in known {
        let mapped = options.tablespaces.iter().find(|mapping| {
            mapping.old == tablespace.location || mapping.old == tablespace.oid.to_string()
        });
        let target = mapped
            .map_or_else(|| PathBuf::from(&tablespace.location), |mapping| mapping.new.clone());
        let place = place_of(&target)?;
        let oid = tablespace.oid;
        if place.starts_with(&data) {
            let what = format!("tablespace {oid} would lie inside the data directory");
            return Err(Error::Refused { what });
        }
        if data.starts_with(&place) {
            let what = format!("the data directory would lie inside tablespace {oid}");
            return Err(Error::Refused { what });
        }
        if places.iter().any(|other| place.starts_with(other) || other.starts_with(&place)) {
            let what = format!("two tablespaces would lie in {}", target.display());
            return Err(Error::Refused { what });
        }
        places.push(place);
        result.push((oid, tablespace.location.clone(), target));
    }
    Ok(result)
}

/// Refuses a directory for configuration files that lies in another place of the restore, or around it.
pub(super) fn check_apart(configuration: &Path, place: &Path) -> Result<()> {
    let (one, other) = (place_of(configuration)?, place_of(place)?);
    if one.starts_with(&other) || other.starts_with(&one) {
        let (one, other) = (configuration.display(), place.display());
        let what = format!("configuration files in {one} would lie in or around {other}");
        return Err(Error::Refused { what });
    }
    Ok(())
}

/// Where a path leads: links and `..` followed as far as it exists, so that two names of one place
/// are seen as one.
pub(super) fn place_of(path: &Path) -> Result<PathBuf> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    let rest = path.strip_prefix(existing).unwrap_or(path);
    if rest.components().any(|part| part == Component::ParentDir) {
        let what = format!("{}: \"..\" after a directory that is not there", path.display());
        return Err(Error::Refused { what });
    }
    let existing = existing.canonicalize().map_err(Error::file("look at", existing))?;
    Ok(if rest.as_os_str().is_empty() { existing } else { existing.join(rest) })
}
