//! `tablespace_map`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep::pg::tablespace_map;

fuzz_target!(|content: &[u8]| {
    if let Ok(locations) = tablespace_map::parse(content) {
        let rendered = tablespace_map::render(&locations);
        assert_eq!(tablespace_map::parse(&rendered), Ok(locations));
    }
});
