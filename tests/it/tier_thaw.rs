//! The same over HTTP: packs move by server-side copies, cannot be read, are thawed, and are what they were.

use std::sync::Arc;
use std::time::Duration;

use pgkeep::base::{Ctx, Silent};
use pgkeep::storage::{
    ObjectStore as _, S3Store, StorageClass, Thaw, ThawSpeed, list_all, list_versions,
};
use pgkeep::{repo, storage, tiering};

use crate::expire_crash::policy;
use crate::s3_store;
use crate::support::{TestS3, World};
use crate::tier_crash::{content, days, execute, plan, read, rules};

/// A cluster's repository, copied into a bucket.
fn in_bucket(s3: &TestS3, world: &World) -> (Ctx, S3Store, repo::Repository) {
    let ctx = Ctx::system(Arc::new(Silent));
    let store = S3Store::open(&ctx, s3_store::options(s3)).unwrap();
    for meta in list_all(&world.store, "").unwrap() {
        store.put(&meta.key, &world.store.get(&meta.key).unwrap()).unwrap();
    }
    let repository = world.repository.reopened(Arc::new(store.clone())).unwrap().unwrap();
    (ctx, store, repository)
}

#[test]
fn f089_cold_packs_are_refused_thawed_and_read() {
    let world = days(4);
    let s3 = TestS3::builder().versioned().small_parts().start();
    let (ctx, store, repository) = in_bucket(&s3, &world);
    let planned = plan(&ctx, &repository, &policy(30, 0, 3650), &rules()).unwrap();
    let chains = &planned.places[0].chains;
    let packs = planned.moving().packs;
    assert_eq!(packs, 9, "{planned}");
    assert!(planned.to_string().contains("the bucket keeps versions: 9 old versions"), "{planned}");
    s3.reset_counts();
    assert_eq!(execute(&ctx, &repository, &planned).unwrap().packs, packs);
    assert_eq!(s3.requests("CopyObject"), 9);
    let behind = list_versions(&store, &world.place.family_prefix("data")).unwrap();
    assert_eq!(behind.len(), 9);
    for meta in list_all(&store, "").unwrap() {
        let is_cold = meta.class == Some(StorageClass::Glacier);
        let is_moved = planned.places[0].moves().any(|each| each.meta.key == meta.key);
        assert_eq!(is_cold, is_moved, "{}", meta.key);
        assert_eq!(store.get(&meta.key).is_err(), is_moved, "{}", meta.key);
    }
    let again = plan(&ctx, &repository, &policy(30, 0, 3650), &rules()).unwrap();
    assert_eq!(again.moving().packs, 0, "{again}");
    // An incremental stands on its full.
    let id = &chains[1].members[1];
    let refused = read(&repository, &world.place, id).unwrap_err();
    assert!(matches!(refused, repo::Error::Storage(storage::Error::Cold { .. })), "{refused}");
    let cold = tiering::find_cold(&ctx, &repository, &world.place, id).unwrap();
    assert_eq!((cold.objects, cold.thawed), (2, 0), "{cold:?}");
    let wanted = Thaw { days: 2, speed: ThawSpeed::Standard };
    s3.reset_counts();
    let asked = tiering::thaw(&ctx, &store, &cold, wanted).unwrap();
    assert_eq!((asked.thawing, asked.readable), (2, 0));
    // To ask again is one request more at most, and no harm.
    assert_eq!(tiering::thaw(&ctx, &store, &cold, wanted).unwrap(), asked);
    assert!(read(&repository, &world.place, id).is_err());
    s3.finish_thaws();
    let ready = tiering::poll(&ctx, &store, &cold).unwrap();
    assert!(ready.is_complete() && ready.until.is_some(), "{ready:?}");
    assert_eq!(read(&repository, &world.place, id).unwrap(), content(id));
    // Nothing of the neighbours was asked for.
    assert!(read(&repository, &world.place, &chains[0].root).is_err());
    s3.advance_clock(Duration::from_hours(72));
    assert!(read(&repository, &world.place, id).is_err());
}
