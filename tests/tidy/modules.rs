//! Which file declares which: orphans, files of unit tests, façades.

use std::path::Path;

use super::rust_source::{blanked, is_word, tokens, without_tests};
use super::tree::rust_files;

/// Relative path and text.
type File = (String, String);

const ROOTS: &[&str] = &["src/lib.rs", "src/main.rs", "tests/it/main.rs"];

/// Files that no other file declares, so that cargo does not compile them.
pub fn orphans(files: &[File]) -> Vec<String> {
    let others = files.iter().filter(|(file, _)| !ROOTS.contains(&file.as_str()));
    let orphans = others.filter(|(file, _)| declarations(file, files).is_empty());
    orphans.map(|(file, _)| file.clone()).collect()
}

/// Whether a file is compiled for unit tests only: it is declared behind `#[cfg(test)]`, or by a
/// file that is.
pub fn is_for_tests(file: &str, files: &[File]) -> bool {
    let module = module_of(file);
    let declarations = declarations(file, files);
    !declarations.is_empty()
        && declarations.iter().all(|(declaring, text)| {
            is_for_tests(declaring, files) || !declares(&without_tests(&blanked(text)), &module)
        })
}

/// Whether a file is a room's `mod.rs`, or that of a folder with more than unit tests beside it.
pub fn is_facade(file: &str, text: &str) -> bool {
    let is_room = file.split('/').count() == 3;
    let code = without_tests(&blanked(text));
    let tokens = tokens(&code);
    let mut triples = tokens.windows(3);
    let has_modules = triples
        .any(|three| three[0].text == "mod" && is_word(three[1].text) && three[2].text == ";");
    file.ends_with("/mod.rs") && (is_room || has_modules)
}

/// The files that declare this one, by its name or by `#[path]` beside it.
fn declarations<'a>(file: &str, files: &'a [File]) -> Vec<&'a File> {
    let (parents, module) = (parents_of(file), module_of(file));
    let (folder, name) = file.rsplit_once('/').unwrap();
    let by_path = format!("#[path = \"{name}\"]");
    let is_declaring = |(other, text): &&File| {
        let is_beside = other.rsplit_once('/').is_some_and(|(beside, _)| beside == folder);
        parents.contains(other) && declares(&blanked(text), &module)
            || is_beside && text.contains(&by_path)
    };
    files.iter().filter(is_declaring).collect()
}

fn declares(code: &str, module: &str) -> bool {
    let tokens = tokens(code);
    tokens.windows(2).any(|pair| pair[0].text == "mod" && pair[1].text == module)
}

/// The path of a module without `.rs` or `/mod.rs`.
fn stem(file: &str) -> &str {
    file.strip_suffix("/mod.rs").unwrap_or(file.trim_end_matches(".rs"))
}

fn module_of(file: &str) -> String {
    stem(file).rsplit('/').next().unwrap().to_owned()
}

/// The files of which one must declare this module.
fn parents_of(file: &str) -> Vec<String> {
    let folder = Path::new(stem(file)).parent().unwrap().to_str().unwrap();
    match folder {
        "src" => vec!["src/lib.rs".to_owned(), "src/main.rs".to_owned()],
        "tests/it" => vec!["tests/it/main.rs".to_owned()],
        _ => vec![format!("{folder}/mod.rs")],
    }
}

#[test]
fn every_file_is_a_module() {
    assert_eq!(orphans(&rust_files(&["src", "tests/it"])), [""; 0], "declared nowhere");
}

#[test]
fn module_rule_can_fail() {
    assert_eq!(parents_of("src/pg/wal/page.rs"), ["src/pg/wal/mod.rs"]);
    assert_eq!(parents_of("src/pg/wal/mod.rs"), ["src/pg/mod.rs"]);
    assert_eq!(parents_of("tests/it/support/mod.rs"), ["tests/it/main.rs"]);
    let files = [
        ("src/lib.rs", "mod pg;"),
        ("src/pg/mod.rs", "// mod gone;\npub mod page;\n#[cfg(test)]\nmod tests;\nmod lsn;"),
        ("src/pg/page.rs", ""),
        ("src/pg/gone.rs", ""),
        ("src/pg/pages.rs", ""),
        ("src/pg/tests/mod.rs", "mod sample;"),
        ("src/pg/tests/sample.rs", ""),
        ("src/pg/lsn.rs", "#[cfg(test)]\n#[path = \"lsn_tests.rs\"]\nmod tests;"),
        ("src/pg/lsn_tests.rs", ""),
        ("src/repo/page.rs", ""),
    ];
    let files = files.map(|(file, text)| (file.to_owned(), text.to_owned()));
    assert_eq!(orphans(&files), ["src/pg/gone.rs", "src/pg/pages.rs", "src/repo/page.rs"]);
    let for_tests = files.iter().filter(|(file, _)| is_for_tests(file, &files));
    let for_tests: Vec<&str> = for_tests.map(|(file, _)| file.as_str()).collect();
    assert_eq!(for_tests, ["src/pg/tests/mod.rs", "src/pg/tests/sample.rs", "src/pg/lsn_tests.rs"]);
    assert!(is_facade("src/pg/mod.rs", "") && is_facade("src/pg/wal/mod.rs", "mod page;"));
    assert!(!is_facade("src/storage/local/mod.rs", "#[cfg(test)]\nmod tests;\nmod inline {}"));
    assert!(!is_facade("src/pg/page.rs", "mod page;"));
}
