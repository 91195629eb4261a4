//! Paths in a data directory: relations, and what a backup does with them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep::pg::{EntryKind, Layout, MajorVersion, RelationFile, Rule};

fuzz_target!(|path: &[u8]| {
    if let Some(file) = RelationFile::parse(path) {
        assert!(path.ends_with(file.to_string().as_bytes()));
    }
    let layout = Layout::new(MajorVersion::V17, 202_406_281);
    let rule = layout.classify(path, EntryKind::File);
    assert_eq!(rule == Rule::CopyLast, path == b"global/pg_control");
});
