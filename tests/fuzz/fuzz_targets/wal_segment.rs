//! WAL segments: the header, every record, the pass.
//!
//! Records' checksums are beyond a fuzzer's reach, so seeds from `tests/fixtures/pg*/wal/` matter.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep::pg::wal::{SegmentHeader, scan_segment};

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = SegmentHeader::parse(bytes) else { return };
    let findings = scan_segment(bytes, &header, header.timeline);
    assert!(findings.end <= header.address + u64::from(header.segment_bytes));
});
