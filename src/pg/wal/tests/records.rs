//! The records of a segment, compared one by one with what pg_waldump reads from it.

use super::sample::{self, Dumped};
use crate::pg::wal::{RESTORE_POINT_BYTES, XlogEvent};

fn read(sample: &sample::Sample) -> Vec<Dumped> {
    let mut reader = sample.reader();
    let mut records = vec![];
    while let Some(record) = reader.read_next() {
        records.push(Dumped {
            lsn: record.lsn,
            total_bytes: record.header.total_bytes,
            xid: record.header.xid,
            resource_manager: record.header.resource_manager,
            previous: record.header.previous,
        });
    }
    records
}

#[test]
fn records_are_those_of_pg_waldump() {
    let names = ["work", "overwrite", "cut", "continued", "overwrite_first", "partial", "promoted"];
    for name in names {
        let sample = sample::load(15, name);
        let (found, expected) = (read(&sample), sample.dumped(name));
        assert!(!expected.is_empty(), "{name}");
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn every_record_of_every_major_can_be_decoded() {
    for sample in sample::all() {
        let mut reader = sample.reader();
        let format = reader.format();
        let mut with_data = 0;
        while let Some(record) = reader.read_next() {
            let data = record.main_data(format).expect("a valid record has a valid structure");
            with_data += usize::from(!data.is_empty());
        }
        assert!(with_data > 0, "{} {}", sample.major, sample.fact("segment"));
    }
}

/// By its length, a record that is cut before its kind is told from a restore point.
#[test]
fn the_record_of_a_restore_point_has_one_length() {
    for major in sample::MAJORS {
        let sample = sample::load(major, "work");
        let (mut reader, mut lengths) = (sample.reader(), vec![]);
        let format = reader.format();
        while let Some(record) = reader.read_next() {
            if let Ok(Some(XlogEvent::RestorePoint(_))) = XlogEvent::parse(&record, format) {
                lengths.push(record.header.total_bytes);
            }
        }
        assert_eq!(lengths, [RESTORE_POINT_BYTES[0]; 2], "{major}");
    }
}
