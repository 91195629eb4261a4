//! Samples from real servers, for the tests of this room. See `tests/fixtures/README.md`.

use std::collections::HashMap;

use super::MajorVersion;

/// The bytes of a sample of one major version.
pub(crate) fn bytes(major: MajorVersion, name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/pg{}/{name}", env!("CARGO_MANIFEST_DIR"), major.number());
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What the server's own `pg_control_*()` functions said.
pub(crate) fn control_facts(major: MajorVersion) -> HashMap<String, String> {
    String::from_utf8(bytes(major, "pg_control.txt"))
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
