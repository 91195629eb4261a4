//! Loads the WAL samples and what the server said about them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::pg::wal::{Expected, Findings, Reader, SegmentHeader, scan_segment};

pub const MAJORS: [u16; 5] = [14, 15, 16, 17, 18];

/// A segment of a real server, padded to its size again.
pub struct Sample {
    pub major: u16,
    pub bytes: Vec<u8>,
    /// What the file's name says.
    pub timeline: u32,
    pub address: u64,
    facts: BTreeMap<String, String>,
}

fn path(major: u16, file: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join(format!("tests/fixtures/pg{major}/wal/{file}"))
}

fn read(major: u16, file: &str) -> Vec<u8> {
    let path = path(major, file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_text(major: u16, file: &str) -> String {
    String::from_utf8(read(major, file)).expect("fixtures are ASCII")
}

pub fn load(major: u16, name: &str) -> Sample {
    let facts: BTreeMap<String, String> = read_text(major, &format!("{name}.facts"))
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let mut bytes = read(major, &format!("{name}.wal"));
    let segment_bytes: usize = facts["segment_size"].parse().expect("a number");
    bytes.resize(segment_bytes, 0);
    let hex = |range| u64::from_str_radix(&facts["segment"][range], 16).expect("a segment's name");
    let address = (hex(8..16) << 32) + hex(16..24) * segment_bytes as u64;
    let timeline = u32::try_from(hex(0..8)).expect("8 digits");
    Sample { major, bytes, timeline, address, facts }
}

/// All samples that there are.
pub fn all() -> Vec<Sample> {
    let mut samples = vec![];
    for major in MAJORS {
        for name in ["work", "overwrite", "partial", "promoted"] {
            samples.push(load(major, name));
        }
    }
    for name in ["cut", "continued", "overwrite_first"] {
        samples.push(load(15, name));
    }
    samples
}

pub fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').expect("an LSN");
    let hex = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
    (hex(high) << 32) + hex(low)
}

/// One record as pg_waldump printed it.
#[derive(Debug, PartialEq, Eq)]
pub struct Dumped {
    pub lsn: u64,
    pub total_bytes: u32,
    pub xid: u32,
    pub resource_manager: u8,
    pub previous: u64,
}

impl Sample {
    pub fn header(&self) -> SegmentHeader {
        SegmentHeader::parse(&self.bytes).expect("a sample has a header")
    }

    pub fn reader(&self) -> Reader<&[u8]> {
        Reader::new(self.bytes.as_slice(), &self.header(), self.timeline).expect("a known format")
    }

    pub fn findings(&self) -> Findings {
        scan_segment(self.bytes.as_slice(), &self.header(), self.timeline)
    }

    /// What the segment should be, by its name and the server.
    pub fn expected(&self) -> Expected<'static> {
        Expected {
            system_id: Some(self.number("system")),
            address: self.address,
            segment_bytes: u32::try_from(self.bytes.len()).expect("1 MiB"),
            timeline: self.timeline,
            ancestors: &[],
            accept_unknown_magic: false,
        }
    }

    pub fn fact(&self, key: &str) -> &str {
        &self.facts[key]
    }

    pub fn number(&self, key: &str) -> u64 {
        self.facts[key].parse().expect("a number")
    }

    pub fn xid(&self, key: &str) -> u32 {
        self.facts[key].parse().expect("a transaction number")
    }

    pub fn lsn(&self, key: &str) -> u64 {
        lsn(self.fact(key))
    }

    /// The commit time that `pg_xact_commit_timestamp` gave.
    pub fn time(&self, key: &str) -> crate::base::Timestamp {
        let micros = self.facts[key].parse().expect("microseconds");
        crate::base::Timestamp::from_timestamp_micros(micros).expect("a time")
    }

    /// Records of `name` as pg_waldump printed them.
    pub fn dumped(&self, name: &str) -> Vec<Dumped> {
        let text = read_text(self.major, &format!("{name}.waldump"));
        text.lines().map(parse_dumped).collect()
    }
}

fn parse_dumped(line: &str) -> Dumped {
    let words: Vec<&str> = line.split(' ').collect();
    // The order of rmgrlist.h, which only grows at its end.
    const NAMES: [&str; 22] = [
        "XLOG",
        "Transaction",
        "Storage",
        "CLOG",
        "Database",
        "Tablespace",
        "MultiXact",
        "RelMap",
        "Standby",
        "Heap2",
        "Heap",
        "Btree",
        "Hash",
        "Gin",
        "Gist",
        "Sequence",
        "SPGist",
        "BRIN",
        "CommitTs",
        "ReplicationOrigin",
        "Generic",
        "LogicalMessage",
    ];
    let id = NAMES.iter().position(|name| *name == words[3]).expect("a resource manager");
    Dumped {
        lsn: lsn(words[0]),
        total_bytes: words[1].parse().expect("a length"),
        xid: words[2].parse().expect("a number"),
        resource_manager: u8::try_from(id).expect("few"),
        previous: lsn(words[4]),
    }
}
