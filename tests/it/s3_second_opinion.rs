//! The store against a server that somebody else wrote: moto, in Python, which shares no line and no library
//! with the tests' own server.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgkeep::base::{Ctx, Secret, Silent};
use pgkeep::crypt::Unlock;
use pgkeep::repo::{CipherChoice, InitOptions, Repository};
use pgkeep::storage::s3::{AccessKeys, Checksums, Credentials, S3Options};
use pgkeep::storage::{
    Availability, Error, ObjectKey, ObjectStore as _, S3Store, StorageClass, Thaw, ThawSpeed,
    conformance, list_versions,
};

use crate::support::servers;

/// Its process, which ends with the test.
struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    /// Nothing when it is not installed, which has then been said.
    fn start() -> Option<Self> {
        let program = servers::moto()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moto = Self { child, port };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "moto does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(moto)
    }

    fn store(&self, bucket: &str) -> S3Store {
        S3Store::open(&Ctx::system(Arc::new(Silent)), self.options(bucket, false)).unwrap()
    }

    fn options(&self, bucket: &str, has_locks: bool) -> S3Options {
        // Any request is accepted, but for one that makes a bucket none is made by the store.
        let made = Command::new("python3")
            .args(["-c", MAKE_BUCKET])
            .arg(format!("http://127.0.0.1:{}/{bucket}", self.port))
            .arg(has_locks.to_string())
            .status();
        assert!(made.unwrap().success());
        let key = || Secret::new("testing".to_owned());
        let credentials = Credentials::Fixed(AccessKeys {
            access_key: key(),
            secret_key: key(),
            session_token: None,
        });
        S3Options {
            bucket: bucket.to_owned(),
            prefix: "some/where".to_owned(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            region: Some("us-east-1".to_owned()),
            path_style: true,
            credentials,
            // The least that S3 takes, and moto keeps to it.
            part_bytes: 5 << 20,
            copy_whole_max: 5 << 20,
            copy_part_bytes: 5 << 20,
            ..S3Options::default()
        }
    }
}

const MAKE_BUCKET: &str = "import sys, urllib.request as u\n\
    lock = {'x-amz-bucket-object-lock-enabled': sys.argv[2]}\n\
    u.urlopen(u.Request(sys.argv[1], method='PUT', data=b'', headers=lock))";

impl Drop for Moto {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

#[test]
fn the_store_conforms_on_a_server_of_others() {
    let Some(moto) = Moto::start() else { return };
    let store = moto.store("conform");
    // It looks whether a name is free, and then stores: two of its threads may both find it so.
    // And of an object without a lock it tells nothing, not even that.
    let left_out = [conformance::ONE_WINNER, conformance::LOCKS_KEPT];
    conformance::run_but(&left_out, &|| Box::new(store.clone()));
    let body: Vec<u8> = (0..12_000_000_u32).map(|i| (i / 7 % 251) as u8).collect();
    let mut writer = store.put_stream(&key("parts/whole")).unwrap();
    body.chunks(1 << 20).for_each(|piece| writer.write(piece).unwrap());
    assert_eq!(store.unfinished().unwrap().len(), 1);
    writer.finish().unwrap();
    assert!(store.get(&key("parts/whole")).unwrap() == body);
    assert_eq!(store.require_region().unwrap().as_deref(), Some("us-east-1"));
}

#[test]
fn conditions_classes_and_thaws_are_the_same_on_a_server_of_others() {
    let Some(moto) = Moto::start() else { return };
    let store = moto.store("classes");
    let unlock = Unlock::Clear;
    let options = InitOptions { cipher: CipherChoice::None, unlock: &unlock, label: "", cost: 0 };
    let ctx = Ctx::system(Arc::new(Silent));
    let repository = Repository::init(&ctx, Arc::new(store.clone()), &options).unwrap();
    assert!(repository.descriptor().conditional_put);
    store.put(&key("pack"), b"content").unwrap();
    let pack = store.head(&key("pack")).unwrap();
    store.set_class(&key("pack"), &StorageClass::Glacier, &pack).unwrap();
    assert_eq!(store.class(&key("pack")).unwrap().availability, Availability::Cold);
    assert!(matches!(store.get(&key("pack")).unwrap_err(), Error::Cold { .. }));
    let thawing = store.thaw(&key("pack"), Thaw { days: 1, speed: ThawSpeed::Bulk }).unwrap();
    assert!(matches!(thawing, Availability::Thawing | Availability::ThawedUntil(_)), "{thawing:?}");
    let tags = [("a".to_owned(), "b".to_owned())].into_iter().collect();
    store.set_tags(&key("pack"), &tags).unwrap();
    assert_eq!(store.tags(&key("pack")).unwrap(), tags);
}

#[test]
fn locks_versions_and_copies_in_parts_are_the_same_on_a_server_of_others() {
    let Some(moto) = Moto::start() else { return };
    let options = S3Options { lock: Some(conformance::LOCKS), ..moto.options("locks", true) };
    let store = S3Store::open(&Ctx::system(Arc::new(Silent)), options).unwrap();
    // It fails on the question for a lock by itself, and tells it by the way.
    let left_out = [conformance::ONE_WINNER, conformance::LOCKS_KEPT];
    conformance::run_but(&left_out, &|| Box::new(store.clone()));
    store.put(&key("locked/a"), b"x").unwrap();
    store.delete(&key("locked/a")).unwrap();
    let hidden = list_versions(&store, "locked/a").unwrap();
    let hidden = hidden.iter().find(|version| !version.is_marker).unwrap();
    let error = store.delete_version(&hidden.key, &hidden.id).unwrap_err();
    assert!(matches!(error, Error::Locked { until: Some(_), .. }), "{error}");
    let body: Vec<u8> = (0..12_000_000_u32).map(|i| (i / 7 % 251) as u8).collect();
    // It computes CRC-32 where CRC-32C is asked for, and a copy with such a checksum is refused as another object.
    let checksums = Checksums::WhenRequired;
    let options = S3Options { checksums, ..store.options().clone() };
    let store = S3Store::open(&Ctx::system(Arc::new(Silent)), options).unwrap();
    store.put(&key("locked/large"), &body).unwrap();
    let large = store.head(&key("locked/large")).unwrap();
    store.set_class(&key("locked/large"), &StorageClass::GlacierIr, &large).unwrap();
    assert_eq!(store.class(&key("locked/large")).unwrap().class, StorageClass::GlacierIr);
    assert!(store.get(&key("locked/large")).unwrap() == body);
    assert!(store.unfinished().unwrap().is_empty());
}
