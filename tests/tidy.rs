//! House rules as tests: layers, names, sizes, openings, links.
//!
//! Each rule is a function from text to complaints, held to its word by an example that it must
//! refuse. Exceptions are lists with reasons; an exception that is no longer needed is a complaint
//! too, so that the lists only shrink. Rust is read as a stream of tokens, not parsed: comments and
//! strings are blanked out first.
#![allow(clippy::unwrap_used, reason = "a tree that cannot be read fails the test")]

#[path = "tidy/modules.rs"]
mod modules;
#[path = "tidy/rust_source.rs"]
mod rust_source;
#[path = "tidy/tree.rs"]
mod tree;

use std::collections::BTreeSet;

use modules::{is_facade, is_for_tests};
use rust_source::{blanked, end_of_item, is_word, paths, tokens, without_tests};
use tree::{file_stem, files_below, room_of, root, rust_files};

/// A room may name rooms of lower layers and itself; equal numbers are strangers.
const LAYERS: &[(&str, u32)] = &[
    ("base", 0),
    ("pg", 1),
    ("codec", 1),
    ("crypt", 1),
    ("storage", 2),
    ("pgconn", 2),
    ("repo", 3),
    ("backup", 4),
    ("restore", 4),
    ("archive", 4),
    ("retention", 4),
    ("tiering", 4),
    ("transfer", 4),
    ("verify", 5),
    ("daemon", 6),
    ("config", 7),
    ("wiring", 8),
    ("cli", 9),
];

/// Rooms of bytes in, values out, and what they therefore do not name.
const PURE_ROOMS: &[&str] = &["pg", "codec", "crypt"];
const IMPURE_PATHS: &[&str] =
    &["std::fs", "std::net", "std::env", "std::process", "std::time::SystemTime", "tokio"];

const BANNED_NAMES: &[&str] = &[
    "util",
    "utils",
    "helper",
    "helpers",
    "common",
    "misc",
    "manager",
    "handler",
    "processor",
    "data",
    "info",
];
const BANNED_TYPE_ENDINGS: &[&str] =
    &["Util", "Utils", "Helper", "Manager", "Handler", "Processor"];

const OPENING_LINES_MAX: usize = 25;
const MOD_LINES_MAX: usize = 150;
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 100;

/// File, why its name is right all the same.
const NAME_EXCEPTIONS: &[(&str, &str)] = &[("src/cli/info.rs", "named after its command")];
/// File, why its `mod.rs` is long.
const MOD_EXCEPTIONS: &[(&str, &str)] = &[
    ("src/storage/local/tests/mod.rs", "tests, and what those in the file beside it share"),
    ("src/storage/mod.rs", "the trait with its obligations is the room's façade"),
];
/// File, why it is long.
const FILE_EXCEPTIONS: &[(&str, &str)] = &[];
/// File and function, why it is long.
const FUNCTION_EXCEPTIONS: &[(&str, &str)] = &[];

// ---------------------------------------------------------------- the rules on this tree

#[test]
fn rooms_name_lower_layers_only() {
    check_sources(&["src"], |file, code| layer_complaints(room_of(file), code));
}

#[test]
fn pure_rooms_touch_nothing() {
    let files = rust_files(&["src"]);
    let pure = files.iter().filter(|(file, _)| PURE_ROOMS.contains(&room_of(file)));
    let pure = pure.filter(|(file, _)| !is_for_tests(file, &files));
    report(
        pure.flat_map(|(file, text)| {
            named(file, impure_complaints(&without_tests(&blanked(text))))
        }),
    );
}

#[test]
fn files_open_with_what_they_are() {
    let files = rust_files(&["src", "tests", "benches"]);
    report(files.iter().flat_map(|(file, text)| named(file, opening_complaints(text))));
}

#[test]
fn names_say_something() {
    let files = rust_files(&["src", "tests", "benches"]);
    let stems = files.iter().filter(|(file, _)| is_banned_name(file_stem(file)));
    let stems: BTreeSet<String> = stems.map(|(file, _)| file.clone()).collect();
    let is_excepted = |file: &&String| NAME_EXCEPTIONS.iter().any(|(name, _)| name == file);
    let stems = stems.iter().filter(|file| !is_excepted(file));
    report(stems.map(|file| format!("{file}: the name says nothing")));
    check_sources(&["src", "tests", "benches"], |_, code| type_name_complaints(code));
}

#[test]
fn files_and_functions_stay_small() {
    let files = rust_files(&["src", "tests", "benches"]);
    let longer = |max: usize| move |(_, text): &&(String, String)| text.lines().count() > max;
    let names = |(file, _): &(String, String)| file.clone();
    let mods = files.iter().filter(|(file, text)| is_facade(file, text));
    let mods = mods.filter(longer(MOD_LINES_MAX)).map(names).collect();
    let long = files.iter().filter(longer(FILE_LINES_MAX)).map(names).collect();
    let functions = files.iter().flat_map(|(file, text)| {
        let found = long_functions(&blanked(text), FUNCTION_LINES_MAX);
        found.into_iter().map(move |function| format!("{file} {function}"))
    });
    report(
        except(&mods, MOD_EXCEPTIONS, "is too long for a façade")
            .into_iter()
            .chain(except(&long, FILE_EXCEPTIONS, "is too long"))
            .chain(except(&functions.collect(), FUNCTION_EXCEPTIONS, "is too long")),
    );
}

#[test]
fn nothing_is_left_undone() {
    check_sources(&["src", "tests", "benches"], |_, code| unfinished_complaints(code));
    let texts = files_below(&["src", "tests", "benches", "scripts", "docs", ".ci"], |_| true);
    report(texts.iter().flat_map(|(file, text)| named(file, ownerless_complaints(text))));
}

#[test]
fn links_lead_somewhere() {
    let pages = files_below(&[""], |path| path.extension().is_some_and(|end| end == "md"));
    report(pages.iter().flat_map(|(file, text)| {
        let folder = root().join(file).parent().unwrap().to_owned();
        let broken =
            relative_links(text).into_iter().filter(move |link| !folder.join(link).exists());
        broken.map(move |link| format!("{file}: the link to {link} leads nowhere"))
    }));
}

// ---------------------------------------------------------------- each rule can fail

#[test]
fn layer_rule_can_fail() {
    let complaints = |room, code: &str| layer_complaints(room, &blanked(code)).len();
    assert_eq!(complaints("pg", "use crate::storage::ObjectKey;"), 1);
    assert_eq!(complaints("pg", "use crate::codec::lz4;"), 1, "equal numbers are strangers");
    assert_eq!(complaints("repo", "use crate::{base::Ctx, cli::{self, exit}, pg};"), 2);
    assert_eq!(complaints("base", "fn f() -> crate::config::File { crate :: wiring::x() }"), 2);
    assert_eq!(complaints("base", "use crate::attic::Thing;"), 1, "unknown rooms are refused");
    assert_eq!(complaints("attic", "use crate::base::Ctx;"), 1, "also as the one that names");
    assert_eq!(complaints("base", "use crate as everything; use crate::*;"), 2);
    assert_eq!(complaints("main", "use pgkeep::wiring;"), 1);
    assert_eq!(complaints("main", "use pgkeep::cli;"), 0);
    let fine = r##"
        pub(crate) struct A; pub(in crate::backup) struct B; use crate::{base::Ctx, pg::{lsn, page}};
        // crate::cli in a comment /* crate::cli */
        const TEXT: &str = "crate::cli"; const RAW: &str = r#"crate::cli "quoted""#;
        fn f<'a>(x: &'a str) -> crate::backup::Plan { let quote = '"'; super::g(quote) } "##;
    assert_eq!(layer_complaints("backup", &blanked(fine)), Vec::<String>::new());
}

#[test]
fn purity_rule_can_fail() {
    let complaints = |code: &str| impure_complaints(&without_tests(&blanked(code))).len();
    assert_eq!(complaints("use std::fs;"), 1);
    assert_eq!(complaints("use std::{fmt, fs::File, net::{self, TcpStream}};"), 3);
    assert_eq!(complaints("fn f() { std::time::SystemTime::now(); tokio::spawn(x) }"), 2);
    assert_eq!(complaints("use std::{fmt, time::Duration}; // std::fs\nuse std::fmt::Write;"), 0);
    assert_eq!(complaints("#[cfg(test)]\nmod tests { use std::fs; }"), 0);
    assert_eq!(complaints("#[cfg(test)]\nmod tests { use std::fs; }\nuse std::fs;"), 1);
}

#[test]
fn opening_rule_can_fail() {
    assert_eq!(opening_complaints("use std::fmt;\n").len(), 1);
    assert_eq!(opening_complaints("").len(), 1);
    assert_eq!(opening_complaints(&"//! words\n".repeat(26)).len(), 1);
    assert_eq!(opening_complaints(&"//! words\n".repeat(25)).len(), 0);
    assert_eq!(opening_complaints("#![doc = include_str!(\"FORMAT.md\")]\n").len(), 0);
}

#[test]
fn name_rule_can_fail() {
    assert!(is_banned_name("util") && is_banned_name("page_helper") && is_banned_name("info"));
    assert!(!is_banned_name("manifest") && !is_banned_name("utility_room"));
    let bad = blanked("pub struct PageManager; enum LockHandler {} trait SpoolUtil {}");
    assert_eq!(type_name_complaints(&bad).len(), 3);
    assert_eq!(type_name_complaints(&blanked("struct Manifest; // struct PageManager")).len(), 0);
}

#[test]
fn size_rule_can_fail() {
    let code =
        blanked("fn long() {\n  if a {\n  }\n}\nfn short() { \"fn x() {\" }\ntrait T { fn f(); }");
    assert_eq!(long_functions(&code, 3), ["long"]);
    assert_eq!(long_functions(&code, 4), [""; 0]);
    let generic = blanked("fn f<const N: usize>(a: [u8; N]) -> [u8; 3]\nwhere\n  A: B,\n{\n  x\n}");
    assert_eq!(long_functions(&generic, 5), ["f"], "the semicolon of an array ends no function");
    let found = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    assert_eq!(except(&found, &[("a", "why")], "is long"), ["b is long"]);
    assert_eq!(except(&found, &[("a", "why"), ("b", "why"), ("c", "why")], "is long").len(), 1);
}

#[test]
fn unfinished_rule_can_fail() {
    let word = concat!("TO", "DO");
    assert_eq!(ownerless_complaints(&format!("// {word}: later")).len(), 1);
    assert_eq!(ownerless_complaints(&format!("# {}", concat!("FIX", "ME"))).len(), 1);
    assert_eq!(ownerless_complaints(&format!("// {word}(anna): when 19 is out")).len(), 0);
    let bad =
        blanked("#[ignore]\nfn a() { todo!() }\n#[ignore = \"slow\"] fn b() { unimplemented!() }");
    assert_eq!(unfinished_complaints(&bad).len(), 4);
    assert_eq!(unfinished_complaints(&blanked("fn ignore() { \"todo!()\" }")).len(), 0);
}

#[test]
fn link_rule_can_fail() {
    let text = "[a](b/c.md#part) [w](https://x.y/z) [r](crate::repo) [s](#here)\n```\n[no](link)\n```\n\
        ![i](pic.png \"title\") `[code](span)`";
    assert_eq!(relative_links(text), ["b/c.md", "pic.png"]);
}

// ---------------------------------------------------------------- rules: from text to complaints

fn layer_complaints(room: &str, code: &str) -> Vec<String> {
    if room == "lib" {
        return Vec::new();
    }
    let layer = |name: &str| LAYERS.iter().find(|(room, _)| *room == name).map(|(_, layer)| *layer);
    let own = if room == "main" { Some(10) } else { layer(room) };
    let Some(own) = own else {
        return vec![format!("{room} is not in the table of layers")];
    };
    let mut complaints = Vec::new();
    for path in paths(code) {
        let (root, rest) = path.split_once("::").unwrap_or((&path, ""));
        let named = rest.split("::").next().unwrap_or("");
        let is_allowed = match (room, root) {
            ("main", "pgkeep") => named == "cli",
            (_, "crate") if named == room => true,
            (_, "crate") => layer(named).is_some_and(|named| named < own),
            _ => true,
        };
        if !is_allowed {
            complaints.push(format!("{room} (layer {own}) must not name {path}"));
        }
    }
    complaints
}

fn impure_complaints(code: &str) -> Vec<String> {
    let is_below = |path: &str, banned: &str| {
        path.strip_prefix(banned).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let paths = paths(code).into_iter();
    let impure = paths.filter(|path| IMPURE_PATHS.iter().any(|banned| is_below(path, banned)));
    impure.map(|path| format!("a pure room must not name {path}")).collect()
}

fn opening_complaints(text: &str) -> Vec<String> {
    let opening = text.lines().take_while(|line| line.starts_with("//!")).count();
    match opening {
        0 if text.starts_with("#![doc = include_str!(") => Vec::new(),
        0 => vec!["does not open with //!".to_owned()],
        OPENING_LINES_MAX.. if opening > OPENING_LINES_MAX => {
            vec![format!("the opening has {opening} lines, more than {OPENING_LINES_MAX}")]
        }
        _ => Vec::new(),
    }
}

fn is_banned_name(stem: &str) -> bool {
    stem.split('_').any(|word| BANNED_NAMES.contains(&word))
}

fn type_name_complaints(code: &str) -> Vec<String> {
    let tokens = tokens(code);
    let names = tokens.windows(2).filter(|pair| {
        let is_type = ["struct", "enum", "trait", "union", "type"].contains(&pair[0].text);
        is_type && BANNED_TYPE_ENDINGS.iter().any(|ending| pair[1].text.ends_with(ending))
    });
    names.map(|pair| format!("the type name {} says nothing", pair[1].text)).collect()
}

/// The names of functions that have more lines than `max`, from `fn` to the closing brace.
fn long_functions(code: &str, max: usize) -> Vec<String> {
    let tokens = tokens(code);
    let mut long = Vec::new();
    for (start, pair) in tokens.windows(2).enumerate() {
        if pair[0].text != "fn" || !is_word(pair[1].text) {
            continue;
        }
        let end = end_of_item(&tokens[start..]).map_or(pair[0].line, |token| token.line);
        if end - pair[0].line + 1 > max {
            long.push(pair[1].text.to_owned());
        }
    }
    long
}

fn unfinished_complaints(code: &str) -> Vec<String> {
    let tokens = tokens(code);
    let pairs = tokens.windows(2).map(|pair| (pair[0].text, pair[1].text));
    let found =
        pairs.filter(|pair| matches!(pair, ("todo" | "unimplemented", "!") | ("[", "ignore")));
    found.map(|(first, second)| format!("{first}{second} is unfinished work")).collect()
}

fn ownerless_complaints(text: &str) -> Vec<String> {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let is_ownerless = |line: &&str| {
        words.iter().any(|word| {
            line.match_indices(word).any(|(at, _)| !line[at + word.len()..].starts_with('('))
        })
    };
    let lines = text.lines().filter(is_ownerless);
    lines.map(|line| format!("no owner and condition: {}", line.trim())).collect()
}

/// The links to files, without anchors and titles; code and addresses are none.
fn relative_links(markdown: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut is_fenced = false;
    for line in markdown.lines() {
        is_fenced ^= line.trim_start().starts_with("```");
        if is_fenced {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("_");
        for link in prose.split("](").skip(1) {
            let target = link.split([')', ' ', '#']).next().unwrap_or("");
            if !target.is_empty() && !target.contains(':') {
                links.push(target.to_owned());
            }
        }
    }
    links
}

// ---------------------------------------------------------------- complaining

fn check_sources(folders: &[&str], complaints: impl Fn(&str, &str) -> Vec<String>) {
    let files = rust_files(folders);
    report(files.iter().flat_map(|(file, text)| named(file, complaints(file, &blanked(text)))));
}

fn named(file: &str, complaints: Vec<String>) -> Vec<String> {
    complaints.into_iter().map(|complaint| format!("{file}: {complaint}")).collect()
}

/// What was found and is not excepted, and exceptions for what was not found.
fn except(found: &BTreeSet<String>, exceptions: &[(&str, &str)], what: &str) -> Vec<String> {
    let is_excepted = |name: &String| exceptions.iter().any(|(excepted, _)| excepted == name);
    let complaints = found.iter().filter(|name| !is_excepted(name));
    let unneeded = exceptions.iter().filter(|(name, _)| !found.contains(*name));
    complaints
        .map(|name| format!("{name} {what}"))
        .chain(unneeded.map(|(name, _)| format!("{name} is an exception without need")))
        .collect()
}

fn report(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "house rules:\n{}", complaints.join("\n"));
}
