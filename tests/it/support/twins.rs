//! Two data directories that should be the same, file by file and page by page.
//!
//! Both were copied from one server while nobody wrote, one by pgkeep and one by pg_basebackup, and both have
//! recovered to the same record and stopped there. What may differ then is what a server changes without WAL:
//! the hints that a reader leaves on a page between the two copies, if only a backup's own session in the
//! catalogs. Those are masked as `wal_consistency_checking` does it (src/backend/access/common/bufmask.c).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use pgkeep::pg::page::PageHeader;
use pgkeep::pg::{Fork, RelationFile};

const PAGE: usize = 8192;

/// `PD_HAS_FREE_LINES` and `PD_PAGE_FULL`: hints for the next insert.
const HINT_FLAGS: u8 = 0x03;
/// `HEAP_XMIN_COMMITTED`, `_INVALID`, `HEAP_XMAX_COMMITTED`, `_INVALID`: what a reader found out about a tuple's
/// transactions.
const HINT_INFOMASK: u8 = 0x0F;
/// Where a tuple's `t_infomask` has these bits: its second byte.
const INFOMASK: usize = 21;
/// Bytes of `BTPageOpaqueData`, at the end of a page of a B-tree.
const BTREE_SPECIAL: usize = 16;
/// `BTP_HAS_GARBAGE`: that some entries were found to be dead.
const BTREE_GARBAGE: u8 = 0x40;

/// Folders of which every file must be the same, besides relations.
const OTHERS: [&str; 4] = ["pg_xact", "pg_multixact", "pg_twophase", "pg_commit_ts"];

/// Fails where the two differ in anything that they must not differ in.
#[track_caller]
pub fn assert_same(ours: &Path, theirs: &Path, context: &str) {
    let wrong = differences(ours, theirs);
    assert!(wrong.is_empty(), "{context}: not the same:\n{}", wrong.join("\n"));
    let count = files(ours).len();
    assert!(count > 200, "{context}: only {count} files");
}

/// What differs and must not.
pub fn differences(ours: &Path, theirs: &Path) -> Vec<String> {
    let (mine, other) = (files(ours), files(theirs));
    let mut wrong = Vec::new();
    let paths: BTreeSet<&PathBuf> = mine.keys().chain(other.keys()).collect();
    for path in paths {
        let read = |files: &BTreeMap<PathBuf, PathBuf>| {
            files.get(path).map(|place| fs::read(place).unwrap()).unwrap_or_default()
        };
        // A file of no length is as good as none: DROP leaves one until the next checkpoint.
        let (mine, other) = (read(&mine), read(&other));
        if mine == other {
            continue;
        }
        let relation = RelationFile::parse(path.as_os_str().as_encoded_bytes());
        if mine.len() != other.len() {
            wrong.push(format!("{}: {} and {} bytes", path.display(), mine.len(), other.len()));
            continue;
        }
        for (block, (mine, other)) in mine.chunks(PAGE).zip(other.chunks(PAGE)).enumerate() {
            let fork = relation.as_ref().map(|relation| relation.fork);
            let (mine, other) = (masked(mine, fork), masked(other, fork));
            if mine != other {
                let at: Vec<usize> = (0..mine.len()).filter(|at| mine[*at] != other[*at]).collect();
                let (first, last) = (at.first(), at.last());
                wrong.push(format!(
                    "{} block {block}: {} bytes differ, {first:?} to {last:?}",
                    path.display(),
                    at.len()
                ));
            }
        }
    }
    wrong
}

/// What must be the same of a page.
fn masked(page: &[u8], fork: Option<Fork>) -> Vec<u8> {
    let mut page = page.to_vec();
    let Some(fork) = fork else { return page };
    let Ok(header) = PageHeader::parse(&page) else { return page };
    if page.len() < PAGE || !header.is_sane(PAGE) || header.upper == 0 {
        return page;
    }
    // The checksum follows from the rest.
    page[8..10].fill(0);
    // The maps keep theirs where other pages have free bytes.
    if fork != Fork::Main {
        return page;
    }
    page[10] &= !HINT_FLAGS;
    // pd_prune_xid
    page[20..24].fill(0);
    let (lower, upper) = (usize::from(header.lower), usize::from(header.upper));
    page[lower..upper].fill(0);
    let special = PAGE - usize::from(header.special);
    let is_heap = special == 0;
    let is_btree = special == BTREE_SPECIAL;
    if is_btree {
        page[PAGE - 4] &= !BTREE_GARBAGE;
        // btpo_cycleid
        page[PAGE - 2..].fill(0);
    }
    for pointer in (24..lower).step_by(4) {
        let item = u32::from_le_bytes(page[pointer..pointer + 4].try_into().unwrap());
        let (offset, flags) = ((item & 0x7FFF) as usize, item >> 15 & 3);
        // LP_NORMAL: a tuple with its header.
        if is_heap && flags == 1 && offset + INFOMASK < PAGE {
            page[offset + INFOMASK] &= !HINT_INFOMASK;
        }
        // LP_DEAD with an entry: an index scan's hint.
        if is_btree && flags == 3 {
            page[pointer + 2] &= !0x01;
        }
    }
    page
}

/// Relation files and those of [`OTHERS`], by their paths in a data directory, links to tablespaces followed.
fn files(data: &Path) -> BTreeMap<PathBuf, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(data.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            let place = entry.path();
            if place.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = path.as_os_str().as_encoded_bytes();
            let is_relation = RelationFile::parse(bytes).is_some();
            let is_other = OTHERS.iter().any(|other| path.starts_with(other));
            if is_relation || is_other || path.ends_with("pg_filenode.map") {
                found.insert(path, place);
            }
        }
    }
    found
}
