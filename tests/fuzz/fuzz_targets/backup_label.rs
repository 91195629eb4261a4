//! `backup_label` and backup history files.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep::pg::{BackupHistory, BackupLabel};

fuzz_target!(|content: &[u8]| {
    if let Ok(label) = BackupLabel::parse(content) {
        assert_eq!(BackupLabel::parse(label.to_string().as_bytes()), Ok(label));
    }
    if let Ok(history) = BackupHistory::parse(content) {
        assert_eq!(
            BackupHistory::parse(history.to_string().as_bytes()),
            Ok(history)
        );
    }
});
