//! `pg_control`. The input's length is made to fit, and its CRC too, so that the fields are reached.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep::pg::ControlFile;
use pgkeep::pg::control_file::{FILE_SIZE, invalidate_checkpoint};

fuzz_target!(|content: &[u8]| {
    ControlFile::parse(content).ok();
    let mut file = content.to_vec();
    file.resize(FILE_SIZE, 0);
    for end in [288, 292] {
        let crc = crc32c::crc32c(&file[..end]);
        file[end..end + 4].copy_from_slice(&crc.to_le_bytes());
        if let Ok(before) = ControlFile::parse(&file) {
            invalidate_checkpoint(&mut file).expect("a good file can be changed");
            let after = ControlFile::parse(&file).expect("it stays good");
            assert_eq!(after.system_identifier, before.system_identifier);
        }
    }
});
