//! Tests of what only a folder can get wrong.

mod process;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::TimeDelta;
use proptest::prelude::*;
use tempfile::TempDir;

use super::list::FOLDERS_READ;
use super::store::*;
use super::write::*;
use crate::base::Timestamp;
use crate::base::{Clock as _, SystemClock};
use crate::storage::sweep_unfinished;
use crate::storage::{
    Error, MemoryStore, ObjectKey, ObjectMeta, ObjectStore, Result, conformance, list_all,
};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

fn names(store: &dyn ObjectStore) -> Vec<String> {
    let all = list_all(store, "").unwrap();
    all.iter().map(|meta| meta.key.to_string()).collect()
}

fn new_store() -> (TempDir, LocalStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::create(&dir.path().join("root")).unwrap();
    (dir, store)
}

fn temporary_files(store: &LocalStore) -> usize {
    let folder = store.root.path().join(TEMPORARY_FOLDER);
    fs::read_dir(folder).map_or(0, Iterator::count)
}

fn far_future() -> Timestamp {
    SystemClock::new().now() + TimeDelta::days(1)
}

#[allow(clippy::disallowed_methods, reason = "a foreign file, not ours to keep")]
fn write_foreign(path: PathBuf) {
    fs::write(path, b"foreign").unwrap();
}

#[test]
fn conforms() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    conformance::run_all(&|| {
        count.set(count.get() + 1);
        let root = dir.path().join(format!("new/{}", count.get()));
        Box::new(LocalStore::create(&root).unwrap())
    });
    // Two stores on one folder are two processes on one folder.
    let root = dir.path().join("new/1");
    let [first, second] = [(); 2].map(|()| LocalStore::open(&root).unwrap());
    first.put_if_absent(&key("two"), b"first").unwrap();
    let refusal = second.put_if_absent(&key("two"), b"second").unwrap_err();
    assert!(refusal.is_already_exists());
}

#[test]
fn finished_and_dropped_writers_leave_no_temporary_file() {
    let (_dir, store) = new_store();
    store.put(&key("a"), b"1").unwrap();
    store.put(&key("a"), b"2").unwrap();
    store.put_if_absent(&key("a"), b"3").unwrap_err();
    let mut finished = store.put_stream(&key("b")).unwrap();
    let mut refused = store.put_stream(&key("a")).unwrap();
    let mut dropped = store.put_stream(&key("c")).unwrap();
    for writer in [&mut finished, &mut refused, &mut dropped] {
        writer.write(&[7; 20 << 20]).unwrap();
    }
    assert_eq!(temporary_files(&store), 3);
    finished.finish().unwrap();
    refused.finish().unwrap_err();
    drop(dropped);
    assert_eq!(temporary_files(&store), 0);
    assert_eq!(names(&store), ["a", "b"]);
    assert_eq!(store.get(&key("b")).unwrap(), vec![7; 20 << 20]);
}

/// The way of file systems without `RENAME_NOREPLACE`.
#[test]
fn links_where_the_rename_is_not_supported() {
    let (_dir, store) = new_store();
    let folder = store.root.make_folder("x").unwrap();
    let make = |body: &[u8]| {
        let mut temporary = Temporary::create(&store.root).unwrap();
        temporary.write(body).unwrap();
        temporary.sync().unwrap();
        temporary
    };
    let first = make(b"first");
    assert!(first.link_new(&folder, "a").unwrap());
    assert!(first.link_new(&folder, "a").unwrap(), "its own name, again");
    assert!(!make(b"second").link_new(&folder, "a").unwrap());
    drop(first);
    assert_eq!(store.get(&key("x/a")).unwrap(), b"first");
    assert_eq!(temporary_files(&store), 0);
}

#[test]
fn leftovers_are_invisible_and_can_be_swept() {
    let (_dir, store) = new_store();
    store.put(&key("a"), b"1").unwrap();
    let mut killed = store.put_stream(&key("b")).unwrap();
    killed.write(b"half").unwrap();
    std::mem::forget(killed);
    assert_eq!(names(&store), ["a"]);
    assert!(store.list(".tmp", None, 10).unwrap().is_empty());
    store.put_if_absent(&key("b"), b"whole").unwrap();
    let past = SystemClock::new().now() - TimeDelta::hours(1);
    assert_eq!(sweep_unfinished(&store, past).unwrap(), 0);
    let mut slow = store.put_stream(&key("c")).unwrap();
    assert_eq!(sweep_unfinished(&store, far_future()).unwrap(), 2);
    assert_eq!(sweep_unfinished(&store, far_future()).unwrap(), 0);
    slow.write(b"x").unwrap();
    let error = slow.finish().unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(names(&store), ["a", "b"]);
}

#[test]
fn only_the_owner_may_read() {
    let (dir, store) = new_store();
    store.put(&key("c/a"), b"1").unwrap();
    for (path, mode) in [("root", 0o700), ("root/c", 0o700), ("root/c/a", 0o600)] {
        let metadata = fs::metadata(dir.path().join(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
    }
}

#[test]
fn a_missing_root_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    write_foreign(dir.path().join("file"));
    for root in ["missing", "missing/deeper", "file", "file/below"] {
        let error = LocalStore::open(&dir.path().join(root)).unwrap_err();
        assert!(matches!(error, Error::NoStore { .. }), "{root}: {error}");
    }
    let made = LocalStore::create(&dir.path().join("missing/deeper")).unwrap();
    made.put(&key("a"), b"1").unwrap();
    let again = LocalStore::create(&dir.path().join("missing/deeper")).unwrap();
    assert_eq!(again.get(&key("a")).unwrap(), b"1");
}

/// Every call that could mean absence, or that changes something, says that the store is gone.
fn assert_lost(store: &LocalStore) {
    let absent = key("c/absent");
    let outcomes = [
        store.get(&absent).map(drop),
        store.head(&absent).map(drop),
        store.read_range(&absent, 0, &mut [0]),
        store.read_up_to(&absent, 0, 1).map(drop),
        store.list("", None, 10).map(drop),
        store.list("nothing/", None, 10).map(drop),
        store.put(&absent, b"x"),
        store.put_if_absent(&absent, b"x"),
        store.put_stream(&absent).map(drop),
        store.delete(&absent),
        store.delete_many(&[]),
        sweep_unfinished(store, far_future()).map(drop),
    ];
    for (index, outcome) in outcomes.into_iter().enumerate() {
        assert!(matches!(outcome, Err(Error::NoStore { .. })), "{index}: {outcome:?}");
    }
}

#[test]
fn a_removed_or_replaced_root_is_not_absence() {
    let (dir, store) = new_store();
    let root = dir.path().join("root");
    store.put(&key("c/a"), b"1").unwrap();
    assert!(store.get(&key("c/absent")).unwrap_err().is_not_found());
    let mut begun = store.put_stream(&key("c/b")).unwrap();
    begun.write(b"x").unwrap();

    #[allow(clippy::disallowed_methods, reason = "what happens to a folder")]
    fs::rename(&root, dir.path().join("moved")).unwrap();
    assert_lost(&store);
    fs::create_dir(&root).unwrap();
    assert_lost(&store);
    let error = begun.finish().unwrap_err();
    assert!(matches!(error, Error::NoStore { .. }), "{error}");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);

    let removed = LocalStore::open(&root).unwrap();
    fs::remove_dir(&root).unwrap();
    assert_lost(&removed);
    fs::create_dir(&root).unwrap();
    assert_lost(&removed);
    LocalStore::open(&root).unwrap().put(&key("a"), b"").unwrap();
}

#[test]
fn links_are_not_followed() {
    let (dir, store) = new_store();
    let root = dir.path().join("root");
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    write_foreign(outside.join("secret"));
    symlink(&outside, root.join("folder")).unwrap();
    symlink(outside.join("secret"), root.join("file")).unwrap();
    for name in ["folder/secret", "folder/absent", "file", "folder"] {
        let outcomes = [
            store.get(&key(name)).map(drop),
            store.head(&key(name)).map(drop),
            store.put_if_absent(&key(name), b"x"),
            store.list("", None, 10).map(drop),
            store.list("folder/", None, 10).map(drop),
        ];
        for outcome in outcomes {
            assert!(matches!(outcome, Err(Error::Io { .. })), "{name}: {outcome:?}");
        }
    }
    store.put(&key("folder/new"), b"x").unwrap_err();
    store.delete(&key("folder/secret")).unwrap_err();
    store.put(&key("file"), b"mine").unwrap();
    store.delete(&key("folder")).unwrap();
    assert_eq!(names(&store), ["file"]);
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"foreign");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
}

#[test]
fn foreign_files_are_not_objects() {
    let (dir, store) = new_store();
    let root = dir.path().join("root");
    store.put(&key("c/a"), b"1").unwrap();
    fs::create_dir(root.join("lost+found")).unwrap();
    for name in ["lost+found/x", "c/a~", "c/#a#", "c/.nfs0001", ".DS_Store", "c/a b", "ä"] {
        write_foreign(root.join(name));
    }
    assert_eq!(names(&store), ["c/a"]);
    assert_eq!(store.list("c/", None, 10).unwrap().len(), 1);
}

#[test]
fn a_folder_in_an_objects_place_is_neither_absent_nor_an_object() {
    let (_dir, store) = new_store();
    store.put(&key("c/a/b"), b"1").unwrap();
    for name in ["c/a", "c/a/b/below", "c"] {
        let outcomes = [
            store.get(&key(name)).map(drop),
            store.head(&key(name)).map(drop),
            store.put(&key(name), b"x"),
            store.put_if_absent(&key(name), b"x"),
            store.put_stream(&key(name)).unwrap().finish().map(drop),
            store.delete(&key(name)),
        ];
        for outcome in outcomes {
            assert!(matches!(outcome, Err(Error::Io { .. })), "{name}: {outcome:?}");
        }
    }
    assert_eq!(names(&store), ["c/a/b"]);
    assert_eq!(temporary_files(&store), 0);
}

#[test]
fn lists_go_on_while_others_put_and_delete() {
    let (_dir, store) = new_store();
    store.put(&key("c/b/stays"), b"").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                assert!(names(&store).contains(&"c/b/stays".to_owned()));
            }
        });
        let outcome = (0..40).try_for_each(|round| {
            let name = key(&format!("c/{}/{round}", ["a", "b", "c"][round % 3]));
            store.put(&name, b"x")?;
            store.delete(&name)
        });
        done.store(true, Ordering::SeqCst);
        outcome.unwrap();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Folders list as a sorted map does, whatever the names, prefix, position and page.
    #[test]
    fn lists_as_the_memory_store_does(
        all in prop::collection::vec("[a%._-]{1,2}(/[b0.-]{1,2}){0,3}", 1..20),
        queries in prop::collection::vec(
            ("[a%.-]{0,2}(/[b0.-]{0,2}){0,3}", "[a%.-]{0,2}(/[b0.-]{0,2}){0,3}"),
            20,
        ),
        count_max in 1_usize..6,
    ) {
        let (_dir, folder) = new_store();
        let memory = MemoryStore::new();
        for name in all.iter().filter_map(|name| ObjectKey::new(name.as_str()).ok()) {
            if memory.put(&name, name.as_str().as_bytes()).is_ok() {
                folder.put(&name, name.as_str().as_bytes()).unwrap();
            }
        }
        for (prefix, after) in &queries {
            let after = (!after.is_empty()).then_some(after.as_str());
            let expected = memory.list(prefix, after, count_max).unwrap();
            // A prefix that goes on below an object is an error of the folder: it cannot be open.
            let below_object = prefix.match_indices('/').any(|(at, _)| {
                ObjectKey::new(&prefix[..at]).is_ok_and(|key| memory.head(&key).is_ok())
            });
            match folder.list(prefix, after, count_max) {
                Ok(listed) => {
                    // When they were stored, only the folder knows.
                    let told = |found: &[ObjectMeta]| -> Vec<_> {
                        found.iter().map(|meta| (meta.key.clone(), meta.size)).collect()
                    };
                    prop_assert_eq!(told(&listed), told(&expected), "{} {:?}", prefix, after);
                }
                Err(error) => prop_assert!(below_object, "{}", error),
            }
        }
    }
}

/// `expire` took 57 times as long for ten times as many objects: each page of a list read and sorted the folders on its
/// way anew, 3,907 log files of a timeline for each thousand segments, and each list of 10,000 manifests read 110,000.
#[test]
fn d2026_12_01_a_list_of_many_pages_reads_each_folder_once() {
    const FOLDERS: usize = 30;
    const NAMES: usize = 20;
    let (_dir, store) = new_store();
    for folder in 0..FOLDERS {
        write_folder(&store, &format!("wal/{folder:08X}"), NAMES);
    }
    write_folder(&store, "backup", FOLDERS * NAMES);
    let read = |work: &dyn Fn()| {
        FOLDERS_READ.set(0);
        work();
        FOLDERS_READ.get()
    };
    for page in [1, 7, NAMES, 50, FOLDERS * NAMES] {
        let count = |prefix: &str| {
            let mut count = 0;
            let mut each = |page: Vec<ObjectMeta>| {
                count += page.len();
                ControlFlow::Continue(())
            };
            store.list_pages(prefix, None, page, &mut each).unwrap();
            assert_eq!(count, FOLDERS * NAMES);
        };
        assert_eq!(read(&|| count("wal/")), FOLDERS + 1, "pages of {page}");
        assert_eq!(read(&|| count("backup/")), 1, "pages of {page}");
    }
    assert_eq!(read(&|| drop(list_all(&store, "").unwrap())), FOLDERS + 3);
}

/// A list that goes on is proof of absence as each of its pages is: a root that was moved away meanwhile is no end of
/// it, though the folders that are open still answer.
#[test]
#[allow(clippy::disallowed_methods, reason = "what somebody else does to the folder")]
fn d2026_12_01_a_list_does_not_end_in_a_root_that_went_meanwhile() {
    let (dir, store) = new_store();
    write_folder(&store, "backup", 10);
    let mut pages = 0;
    let outcome = store.list_pages("backup/", None, 4, &mut |_| {
        pages += 1;
        fs::rename(store.root.path(), dir.path().join("away")).ok();
        ControlFlow::Continue(())
    });
    assert!(matches!(outcome, Err(Error::NoStore { .. })), "{outcome:?}");
    assert_eq!(pages, 1);
}

#[allow(clippy::disallowed_methods, reason = "many names, of which none has to be durable")]
fn write_folder(store: &LocalStore, name: &str, count: usize) {
    let folder = store.root.path().join(name);
    fs::create_dir_all(&folder).unwrap();
    for number in 0..count {
        fs::write(folder.join(format!("{number:06}")), b"x").unwrap();
    }
}
