//! Names that `archive_command` can be called with.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep::pg::WalFileName;

fuzz_target!(|name: &[u8]| {
    if let Ok(parsed) = WalFileName::parse(name) {
        assert_eq!(parsed.to_string().as_bytes(), name);
    }
});
