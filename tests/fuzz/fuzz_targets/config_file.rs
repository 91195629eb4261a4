//! Configuration files: what is read never panics, and what is quoted is read back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep::pg::config_file::{ConfigFile, render};

fuzz_target!(|content: &[u8]| {
    let _libraries = ConfigFile::parse(content).find_preloaded_libraries();
    if let Ok(value) = std::str::from_utf8(content)
        && let Ok(line) = render("restore_command", value)
    {
        assert_eq!(ConfigFile::parse(line.as_bytes()).find("restore_command"), Some(value));
    }
});
