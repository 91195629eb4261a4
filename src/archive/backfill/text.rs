//! A plan for people: runs of files in one line each.

use std::fmt;

use super::decide::Why;
use super::plan::{BackfillPlan, ToStore};
use crate::base::ByteSize;
use crate::pg::{SegmentName, SegmentSize, TimelineId, WalFileName};

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archived => write!(f, "archived"),
            Self::Writing => write!(f, "the running server may still be writing it"),
            Self::Recycled { .. } => {
                write!(f, "recycled: it holds older WAL than its name says")
            }
            Self::Empty => write!(f, "made for later, nothing is in it"),
            Self::Foreign { system } => write!(f, "of another cluster, system {system}"),
            Self::UnknownFormat { why } => {
                write!(f, "{why} (--accept-unknown-wal stores it without looking into it)")
            }
            Self::NoHistory => {
                write!(f, "no history of its timeline, without which no segment is archived")
            }
            Self::OtherHistory => write!(
                f,
                "its timeline's history here is another than the archive's: two servers took one \
                 timeline, and this one came second"
            ),
            Self::Unproven => {
                write!(f, "no segment of its timeline beside it shows that it is this cluster's")
            }
            Self::Unusable { why } => write!(f, "{why}"),
        }
    }
}

/// Names in a row that have the same to be said of them.
struct Row {
    first: String,
    last: WalFileName,
    count: usize,
    said: String,
}

impl Row {
    fn names(&self) -> String {
        match self.count {
            1 => self.first.clone(),
            count => format!("{} to {} ({count} files)", self.first, self.last),
        }
    }
}

/// Puts neighbours together of which the same is said.
fn rows<'a>(files: impl Iterator<Item = (&'a str, String)>, size: Option<SegmentSize>) -> Vec<Row> {
    let place = |name: &WalFileName| -> Option<(TimelineId, u64)> {
        let WalFileName::Segment(segment) = name else { return None };
        Some((segment.timeline(), SegmentName::number(*segment, size?).ok()?.0))
    };
    let mut rows: Vec<Row> = Vec::new();
    for (name, said) in files {
        let Ok(file) = WalFileName::parse(name.as_bytes()) else { continue };
        if let Some(row) = rows.last_mut()
            && row.said == said
            && let (Some(before), Some(own)) = (place(&row.last), place(&file))
            && (before.0, before.1 + 1) == own
        {
            (row.last, row.count) = (file, row.count + 1);
            continue;
        }
        rows.push(Row { first: name.to_owned(), last: file, count: 1, said });
    }
    rows
}

impl fmt::Display for BackfillPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = SegmentSize::new(self.segment_bytes.into()).ok();
        write!(f, "WAL of system {} in {}", self.system, self.from.files.display())?;
        match (&self.from.data_directory, self.from.is_running) {
            (Some(_), true) => write!(f, ", where a server runs")?,
            (Some(_), false) => write!(f, ", where no server runs")?,
            (None, _) => write!(f, ", loose files")?,
        }
        let bytes: u64 = self.store.iter().map(|file| file.bytes).sum();
        match self.store.len() {
            0 => write!(f, "\nnothing is missing from the repositories that is here")?,
            1 => write!(f, "\nto store: 1 file, {}", ByteSize(bytes))?,
            count => write!(f, "\nto store: {count} files, {}", ByteSize(bytes))?,
        }
        let to = |file: &ToStore| {
            let partial = if file.partial { "as a partial segment " } else { "" };
            format!("{partial}into {}", file.repositories.join(" and "))
        };
        for row in rows(self.store.iter().map(|file| (file.name.as_str(), to(file))), size) {
            write!(f, "\n  {}: {}", row.names(), row.said)?;
        }
        for conflict in &self.conflicts {
            let places = conflict.repositories.join(" and ");
            write!(f, "\nCONFLICT: {}: {places} has other content, which stays", conflict.name)?;
        }
        // Of what each file holds instead only programs are told.
        let left = self.left.iter().map(|left| (left.name.as_str(), left.why.to_string()));
        let left = rows(left, size);
        if !left.is_empty() {
            write!(f, "\nleft:")?;
        }
        for row in left {
            write!(f, "\n  {}: {}", row.names(), row.said)?;
        }
        for warning in &self.warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::WalDirectory;
    use super::super::plan::{Conflicting, Left};
    use super::*;
    use crate::pg::Lsn;

    #[test]
    fn runs_take_one_line_and_each_reason_its_own() {
        let stored = |name: &str, partial, to: &[&str]| ToStore {
            name: name.into(),
            bytes: 16 << 20,
            partial,
            repositories: to.iter().map(|name| (*name).to_owned()).collect(),
        };
        let left = |name: &str, why| Left { name: name.into(), why };
        let recycled = |at| Why::Recycled { holds: Lsn(at) };
        let plan = BackfillPlan {
            from: WalDirectory {
                files: "/old/pg_wal".into(),
                data_directory: Some("/old".into()),
                is_running: false,
                system: Some(7),
                segment_size: None,
            },
            system: "7".into(),
            segment_bytes: 16 << 20,
            repositories: vec!["local".into(), "offsite".into()],
            store: vec![
                stored("0000000100000000000000FE", false, &["local", "offsite"]),
                stored("0000000100000000000000FF", false, &["local", "offsite"]),
                stored("000000010000000100000000", false, &["local", "offsite"]),
                stored("000000010000000100000001", false, &["offsite"]),
                stored("000000010000000100000003", true, &["offsite"]),
            ],
            conflicts: vec![Conflicting {
                name: "0000000100000000000000FD".into(),
                repositories: vec!["local".into()],
            }],
            left: vec![
                left("0000000100000000000000FA", Why::Archived),
                left("0000000100000000000000FB", Why::Archived),
                left("000000010000000100000004", recycled(1)),
                left("000000010000000100000005", recycled(2)),
            ],
            warnings: vec!["look".into()],
        };
        assert_eq!(
            plan.to_string(),
            "WAL of system 7 in /old/pg_wal, where no server runs\n\
             to store: 5 files, 80.0 MiB\n  \
             0000000100000000000000FE to 000000010000000100000000 (3 files): into local and offsite\n  \
             000000010000000100000001: into offsite\n  \
             000000010000000100000003: as a partial segment into offsite\n\
             CONFLICT: 0000000100000000000000FD: local has other content, which stays\n\
             left:\n  \
             0000000100000000000000FA to 0000000100000000000000FB (2 files): archived\n  \
             000000010000000100000004 to 000000010000000100000005 (2 files): recycled: it holds older \
             WAL than its name says\n\
             warning: look"
        );
        let json = serde_json::to_value(&plan).unwrap();
        assert_eq!(json["left"][2]["reason"], "recycled");
        assert_eq!(json["left"][2]["holds"], "0/1");
        assert_eq!(json["store"][4]["partial"], true);
    }
}
