//! The room as a whole: text and variables in, settings or a message out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::base::{ByteSize, durable};
use crate::crypt::Unlock;
use crate::repo::CipherChoice;

mod choosing;
mod documents;
mod reading;
mod secrets;

const FILE: &str = "/etc/pgkeep/pgkeep.toml";
const CLEAR: &str = "encryption.cipher = \"none\"\n";

fn parse_with(text: &str, variables: &[(&str, &str)], flags: &[FlagValue]) -> Result<Settings> {
    let environment = variables.iter().copied().collect();
    let sources = Sources { config: None, environment: &environment, flags };
    Settings::parse(Path::new(FILE), text, &sources)
}

fn parse(text: &str) -> Result<Settings> {
    parse_with(text, &[], &[])
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// The message of resolving a configuration with this repository section and a cluster.
fn repository_message(section: &str) -> String {
    let text = format!("[cluster.main]\n[repository.local]\n{section}");
    parse(&text).unwrap().resolve(None, None).unwrap_err().to_string()
}
