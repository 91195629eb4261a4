//! Pages: header, verdict, checksum, of any length.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep::pg::page;

fuzz_target!(|bytes: &[u8]| {
    let verdict = page::verify(bytes, 131_072, true);
    assert_eq!(verdict, page::verify(bytes, 131_072, true));
    if page::is_new(bytes) && bytes.len() == 8192 {
        assert_eq!(verdict, page::Verdict::New);
    }
});
