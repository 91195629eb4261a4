//! The example and the README say what the table of keys says.

use std::collections::BTreeSet;

use super::schema::{Form, KEYS, Key, Section};
use super::*;

const EXAMPLE: &str = include_str!("../../../config/pgkeep.example.toml");
const README: &str = include_str!("../../../config/README.md");

/// A line that sets a key, commented out or not.
fn is_option(line: &str) -> bool {
    let line = line.strip_prefix('#').unwrap_or(line);
    let word = line.split(" = ").next().unwrap_or_default();
    line.contains(" = ") && !word.contains(' ')
}

/// The example with every option that is commented out put in.
fn everything() -> String {
    let lines = EXAMPLE
        .lines()
        .map(|line| if is_option(line) { line.strip_prefix('#').unwrap_or(line) } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

fn in_file(layer: &layers::Layer) -> BTreeSet<(Section, &'static str)> {
    layer.settings.keys().map(|address| (address.section.section, address.key)).collect()
}

#[test]
fn the_example_can_be_used() {
    let settings = parse(EXAMPLE).unwrap();
    assert_eq!(settings.warnings(), []);
    let resolved = settings.resolve(None, None).unwrap();
    let local = resolved.repository().unwrap();
    assert_eq!(local.cipher, CipherChoice::Aes256Cbc);
    assert_eq!(local.secret.key_file(), Some(Path::new("/etc/pgkeep/local.key")));
    assert_eq!(local.tiering, None);
}

#[test]
fn the_example_has_every_key_and_every_default() {
    let layer = file::parse(Path::new(FILE), &everything()).unwrap();
    let expected = KEYS.iter().filter(|key| key.form != Form::EnvironmentSecret);
    let expected: BTreeSet<_> = expected.map(|key| (key.section, key.name)).collect();
    assert_eq!(in_file(&layer), expected);
    for (address, setting) in &layer.settings {
        let key = address.section.section.find_key(address.key).unwrap();
        if let Some(default) = key.default {
            assert_eq!(setting.expose(), default, "{address}");
        }
    }
    // What the commented options say is allowed, too, once there is a bucket.
    let in_bucket = everything().replace("file:///var/lib/pgkeep", "s3://bucket");
    let in_bucket = in_bucket.replace("\nto = \"offsite\"\n", "\n");
    parse(&in_bucket).unwrap();
}

#[test]
fn the_example_sets_nothing_that_an_empty_section_would_not() {
    let layer = file::parse(Path::new(FILE), EXAMPLE).unwrap();
    let without_default =
        |(section, key): &(Section, &'static str)| section.find_key(key).unwrap().default.is_none();
    let chosen: Vec<_> = in_file(&layer).into_iter().filter(without_default).collect();
    assert_eq!(
        chosen,
        [
            (Section::Cluster, "data_directory"),
            (Section::Repository, "encryption.cipher"),
            (Section::Repository, "encryption.key_file"),
            (Section::Repository, "url"),
        ]
    );
}

#[test]
fn the_example_explains_every_option() {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    for pair in lines.windows(2) {
        assert!(!is_option(pair[1]) || pair[0].starts_with("# "), "{}", pair[1]);
    }
}

#[test]
fn the_readme_has_the_table_of_each_section() {
    for section in Section::ALL {
        let table = table(section);
        assert!(README.contains(&table), "config/README.md must contain:\n{table}");
    }
    let rows = README.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, KEYS.len(), "no row for a key that does not exist");
}

fn table(section: Section) -> String {
    let rows: String = section.keys().map(row).collect();
    format!("| key | default | what it does |\n|---|---|---|\n{rows}")
}

fn row(key: &Key) -> String {
    let default = key.default.map_or("none".to_owned(), |default| format!("`{default}`"));
    format!("| `{}` | {default} | {} |\n", key.name, key.summary)
}
