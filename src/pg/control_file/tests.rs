//! `pg_control` against what the servers that wrote it say.

use super::*;
use crate::pg::{MajorVersion, fixture};
use proptest::prelude::*;

fn check_against_server(major: MajorVersion) {
    let control = ControlFile::parse(&fixture::bytes(major, "pg_control")).unwrap();
    let facts = fixture::control_facts(major);
    let checkpoint = &control.checkpoint;
    let epoch_and_xid =
        format!("{}:{}", checkpoint.next_xid >> 32, checkpoint.next_xid & 0xFFFF_FFFF);
    let utc = |time: Timestamp| time.format("%F %T+00").to_string();
    for (name, value) in [
        ("pg_control_version", control.control_version.to_string()),
        ("catalog_version_no", control.catalog_version.to_string()),
        ("system_identifier", control.system_identifier.to_string()),
        ("pg_control_last_modified", utc(control.time)),
        ("checkpoint_lsn", checkpoint.lsn.to_string()),
        ("redo_lsn", checkpoint.redo.to_string()),
        ("timeline_id", checkpoint.timeline.to_string()),
        ("prev_timeline_id", checkpoint.previous_timeline.to_string()),
        ("full_page_writes", "t".to_owned()),
        ("next_xid", epoch_and_xid),
        ("next_oid", checkpoint.next_oid.to_string()),
        ("checkpoint_time", utc(checkpoint.time)),
        ("min_recovery_end_lsn", control.recovery.minimum.to_string()),
        ("backup_start_lsn", control.recovery.backup_start.to_string()),
        ("backup_end_lsn", control.recovery.backup_end.to_string()),
        ("max_data_alignment", control.max_align.to_string()),
        ("database_block_size", control.block_size.to_string()),
        ("blocks_per_segment", control.relation_segment_blocks.to_string()),
        ("wal_block_size", control.wal_block_size.to_string()),
        ("bytes_per_wal_segment", control.wal_segment_size.bytes().to_string()),
        ("data_page_checksum_version", control.data_checksum_version.to_string()),
    ] {
        assert_eq!(facts.get(name), Some(&value), "{major} {name}");
    }
    assert_eq!(control.state, ClusterState::InProduction, "{major}");
    assert_eq!(control.recovery.minimum_timeline, None);
    assert!(!control.recovery.backup_end_required);
    // As capture.sh configures the server, the rest by default.
    let expected = Settings {
        wal_level: WalLevel::Replica,
        wal_log_hints: true,
        max_connections: 37,
        max_worker_processes: 8,
        max_wal_senders: 10,
        max_prepared_transactions: 3,
        max_locks_per_transaction: 64,
        track_commit_timestamp: true,
    };
    assert_eq!(control.settings, expected, "{major}");
    assert_ne!(control.mock_authentication_nonce, [0; 32]);
}

#[test]
fn fields_are_what_the_server_says() {
    MajorVersion::ALL.into_iter().for_each(check_against_server);
}

#[test]
fn f053_the_invalid_checkpoint_changes_nothing_else() {
    for major in MajorVersion::ALL {
        let before = fixture::bytes(major, "pg_control");
        let mut after = before.clone();
        invalidate_checkpoint(&mut after).unwrap();
        let mut expected = ControlFile::parse(&before).unwrap();
        expected.checkpoint.lsn = INVALID_CHECKPOINT;
        assert_eq!(ControlFile::parse(&after).unwrap(), expected, "{major}");
        let crc = crc_offset(expected.control_version).unwrap();
        for (at, (old, new)) in before.iter().zip(&after).enumerate() {
            let may_differ = (32..40).contains(&at) || (crc..crc + 4).contains(&at);
            assert!(may_differ || old == new, "{major} byte {at}");
        }
    }
}

#[test]
fn damage_is_told_from_other_versions() {
    let good = fixture::bytes(MajorVersion::V16, "pg_control");
    assert!(matches!(ControlFile::parse(&good[..8191]), Err(Error::Short { .. })));
    let mut newer = good.clone();
    newer[8..12].copy_from_slice(&1902_u32.to_le_bytes());
    assert!(matches!(ControlFile::parse(&newer), Err(Error::UnknownVersion { .. })));
    newer[8..12].copy_from_slice(&1700_u32.to_be_bytes());
    assert!(matches!(ControlFile::parse(&newer), Err(Error::ByteOrder { .. })));
    assert!(matches!(ControlFile::parse(&[0; FILE_SIZE]), Err(Error::UnknownVersion { .. })));
    for bit in 0..292 * 8 {
        let mut torn = good.clone();
        torn[bit / 8] ^= 1 << (bit % 8);
        assert!(ControlFile::parse(&torn).is_err(), "bit {bit}");
        let damaged = torn.clone();
        assert!(invalidate_checkpoint(&mut torn).is_err());
        assert_eq!(torn, damaged);
    }
}

proptest! {
    /// The CRC is made to fit, so that the fields behind it are reached.
    #[test]
    fn any_fields_are_taken(mut body in proptest::collection::vec(any::<u8>(), 296), v in 0usize..3) {
        let version = [1300_u32, 1700, 1800][v];
        body[8..12].copy_from_slice(&version.to_le_bytes());
        body[208..216].copy_from_slice(&1_234_567.0_f64.to_le_bytes());
        body.resize(FILE_SIZE, 0);
        let at = crc_offset(version).unwrap();
        let fits = crc(&body, at).unwrap();
        body[at..at + 4].copy_from_slice(&fits.to_le_bytes());
        ControlFile::parse(&body).ok();
    }

    #[test]
    fn any_bytes_are_taken(bytes: Vec<u8>) {
        ControlFile::parse(&bytes).ok();
    }
}
