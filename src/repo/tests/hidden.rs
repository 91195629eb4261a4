//! Summaries that are there and cannot be read: whoever asks does without them.

use super::manifest::summary;
use super::window::{name, registration};
use super::*;
use crate::pg::SegmentSize;
use crate::repo::Kind;
use crate::storage::{Error, ObjectMeta, ObjectWriter, Result};

/// What a store says of everything below `sum/`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Hidden {
    /// A rule of the bucket moved it.
    Cold,
    /// A policy lets nobody read it.
    Forbidden,
    /// Nor list it.
    Unlisted,
}

#[derive(Debug)]
struct Hiding {
    inner: MemoryStore,
    hidden: Hidden,
}

impl Hiding {
    fn forbidden(key: &str) -> Error {
        let (action, resource) = ("s3:GetObject", key.to_owned());
        let source = "denied by a policy".into();
        Error::Forbidden { operation: "get", key: key.into(), action, resource, source }
    }

    fn shown(&self, key: &ObjectKey) -> Result<&MemoryStore> {
        if !key.as_str().contains("/sum/") {
            return Ok(&self.inner);
        }
        Err(match self.hidden {
            Hidden::Cold => Error::Cold { key: key.clone() },
            Hidden::Forbidden | Hidden::Unlisted => Self::forbidden(key.as_str()),
        })
    }
}

impl ObjectStore for Hiding {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.inner.put(key, body)
    }
    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.inner.put_if_absent(key, body)
    }
    fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
        self.inner.put_stream(key)
    }
    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.shown(key)?.get(key)
    }
    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.shown(key)?.read_range(key, offset, buffer)
    }
    fn read_up_to(&self, key: &ObjectKey, offset: u64, length_max: usize) -> Result<Vec<u8>> {
        self.shown(key)?.read_up_to(key, offset, length_max)
    }
    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.shown(key)?.head(key)
    }
    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>> {
        if self.hidden == Hidden::Unlisted && prefix.contains("/sum/") {
            return Err(Self::forbidden(prefix));
        }
        self.inner.list(prefix, after, count_max)
    }
    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.inner.delete(key)
    }
}

/// A rule moved small objects into cold storage, or a policy left `sum/` out, and `info` and `restore`
/// failed: of what nobody needs.
#[test]
fn d2026_11_28_summaries_that_cannot_be_read_fail_nobody() {
    let ctx = ctx();
    let (made, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    made.register(&ctx, &registration()).unwrap();
    for number in 0..20 {
        let id = crate::repo::BackupId::full(now() + chrono::TimeDelta::hours(number));
        let mut line = serde_json::to_value(crate::repo::Summary { id, ..summary() }).unwrap();
        line["state"] = "complete".into();
        let key = place().manifest(&line["id"].as_str().unwrap().parse().unwrap());
        made.put_line(&ctx, Kind::Manifest, &key, &line).unwrap();
    }
    for number in 1..2_500 {
        store.put(&place().wal(&name(number)).unwrap(), b"never read").unwrap();
    }
    made.summarise(&ctx, &place(), SegmentSize::DEFAULT).unwrap();
    let truth = made.backups(&ctx, &place()).unwrap();
    assert_eq!(truth.complete.len(), 20);
    assert_eq!(made.survey(&ctx, &place(), &registration()).unwrap().claimed.len(), 1);
    for hidden in [Hidden::Forbidden, Hidden::Unlisted, Hidden::Cold] {
        let hiding = Arc::new(Hiding { inner: store.clone(), hidden });
        let repository = Repository::open(hiding, &key_file(1)).unwrap();
        let found = repository.backups(&ctx, &place()).unwrap();
        assert_eq!(found.complete, truth.complete, "{hidden:?}");
        let complaints = repository.catalogue_complaints(&ctx, &place(), &truth).unwrap();
        let survey = repository.survey(&ctx, &place(), &registration()).unwrap();
        assert_eq!((complaints.len(), survey.complaints.len()), (1, 1), "{hidden:?}");
        assert_eq!((survey.wal.stretches().count(), survey.claimed.len()), (1, 0), "{hidden:?}");
        assert!(survey.notes.effects().is_none(), "{hidden:?}: the mark cannot be read");
        assert_eq!(survey.unreadable.len(), usize::from(hidden == Hidden::Unlisted));
        repository.summarise(&ctx, &place(), SegmentSize::DEFAULT).unwrap();
        // A policy hides the next one as well; what is cold was readable for a while.
        let written = crate::storage::list_all(&store, &place().catalogues_prefix()).unwrap();
        assert_eq!(written.len(), 1 + usize::from(hidden == Hidden::Cold), "{hidden:?}");
    }
}
