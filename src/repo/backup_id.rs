//! Names of backups: when they began, of which type, and on which full backup they stand.

use std::fmt;

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};

use crate::base::Timestamp;

/// How moments are spelled in names.
pub(super) const ID_TIME: &str = "%Y%m%d-%H%M%S";

/// How a backup relates to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupType {
    /// Stands alone.
    Full,
    /// Against the last full.
    #[serde(rename = "diff")]
    Differential,
    /// Against the last backup of any type.
    #[serde(rename = "incr")]
    Incremental,
}

impl BackupType {
    fn letter(self) -> char {
        match self {
            Self::Full => 'F',
            Self::Differential => 'D',
            Self::Incremental => 'I',
        }
    }
}

impl fmt::Display for BackupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Differential => "diff",
            Self::Incremental => "incr",
        })
    }
}

/// The name of a backup: `20261120-020000F`, `20261120-020000F_20261120-083000D`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

/// The text is not the name of a backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a backup; such names look like 20261120-020000F")]
pub struct InvalidBackupId(pub String);

impl BackupId {
    /// The id of a full backup that begins at `time`.
    #[must_use]
    pub fn full(time: Timestamp) -> Self {
        Self(format!("{}F", time.format(ID_TIME)))
    }

    /// The id of a backup of any type that begins at `time`; all but a full stand on the full at the root
    /// of `parent`'s chain.
    #[must_use]
    pub fn of(backup_type: BackupType, parent: Option<&Self>, time: Timestamp) -> Self {
        match parent {
            Some(parent) if backup_type != BackupType::Full => {
                let own = time.format(ID_TIME);
                Self(format!("{}_{own}{}", parent.root(), backup_type.letter()))
            }
            _ => Self::full(time),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The full at the root of the chain: itself for a full.
    #[must_use]
    pub fn root(&self) -> Self {
        Self(self.0.split('_').next().unwrap_or_default().to_owned())
    }

    /// When it began, as the name spells it: such texts compare like moments.
    #[must_use]
    pub fn own_time(&self) -> &str {
        let own = self.0.rsplit('_').next().unwrap_or_default();
        own.strip_suffix(['F', 'D', 'I']).unwrap_or(own)
    }

    /// The type that the name tells.
    #[must_use]
    pub fn backup_type(&self) -> BackupType {
        match self.0.as_bytes().last() {
            Some(b'D') => BackupType::Differential,
            Some(b'I') => BackupType::Incremental,
            _ => BackupType::Full,
        }
    }
}

fn is_stamp(text: &str, letters: &[BackupType]) -> bool {
    let Some((stamp, letter)) = text.split_at_checked(15) else {
        return false;
    };
    // Formatting back refuses what the parser would forgive (signs, missing zeros).
    NaiveDateTime::parse_from_str(stamp, ID_TIME)
        .is_ok_and(|t| t.format(ID_TIME).to_string() == stamp)
        && letters.iter().any(|t| letter.chars().eq([t.letter()]))
}

impl std::str::FromStr for BackupId {
    type Err = InvalidBackupId;

    fn from_str(text: &str) -> Result<Self, InvalidBackupId> {
        use BackupType::{Differential, Full, Incremental};
        let valid = match text.split_once('_') {
            None => is_stamp(text, &[Full]),
            Some((root, own)) => {
                is_stamp(root, &[Full]) && is_stamp(own, &[Differential, Incremental])
            }
        };
        if valid { Ok(Self(text.into())) } else { Err(InvalidBackupId(text.into())) }
    }
}

impl TryFrom<String> for BackupId {
    type Error = InvalidBackupId;

    fn try_from(text: String) -> Result<Self, InvalidBackupId> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_backups() {
        for good in [
            "20261120-020000F",
            "20261120-020000F_20261120-083000D",
            "20240229-235959F_20240301-000000I",
        ] {
            assert_eq!(good.parse::<BackupId>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "20261120-020000",
            "20261120-020000D",
            "20261320-020000F",
            "20261120-020000F_",
            "latest",
            "20261120-020000F_20261120-083000F",
            "20261120-020000F/..",
            "+0261120-020000F",
            "20261120-020000Fé",
        ] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad}");
        }
    }
}
