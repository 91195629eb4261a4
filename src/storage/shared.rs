//! A shared or boxed store is a store, so that decorators can wrap one chosen at run time.

use std::sync::Arc;

use super::{
    Availability, EachPage, LockRule, ObjectClass, ObjectKey, ObjectMeta, ObjectStore,
    ObjectWriter, Result, StorageClass, Thaw, Unfinished, VersionMark, VersionPage,
};
use crate::base::Timestamp;

macro_rules! forward {
    ($pointer:ident) => {
        #[deny(clippy::missing_trait_methods)]
        impl<S: ObjectStore + ?Sized> ObjectStore for $pointer<S> {
            fn location(&self) -> String {
                (**self).location()
            }
            fn must_be_tried(&self) -> bool {
                (**self).must_be_tried()
            }
            fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
                (**self).put(key, body)
            }
            fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
                (**self).put_if_absent(key, body)
            }
            fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
                (**self).put_stream(key)
            }
            fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
                (**self).get(key)
            }
            fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()> {
                (**self).read_range(key, offset, buffer)
            }
            fn read_up_to(
                &self,
                key: &ObjectKey,
                offset: u64,
                length_max: usize,
            ) -> Result<Vec<u8>> {
                (**self).read_up_to(key, offset, length_max)
            }
            fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
                (**self).head(key)
            }
            fn list(
                &self,
                prefix: &str,
                after: Option<&str>,
                count_max: usize,
            ) -> Result<Vec<ObjectMeta>> {
                (**self).list(prefix, after, count_max)
            }
            fn list_pages(
                &self,
                prefix: &str,
                after: Option<&str>,
                count_max: usize,
                each: &mut EachPage<'_>,
            ) -> Result<()> {
                (**self).list_pages(prefix, after, count_max, each)
            }
            fn delete(&self, key: &ObjectKey) -> Result<()> {
                (**self).delete(key)
            }
            fn delete_many(&self, keys: &[ObjectKey]) -> Result<()> {
                (**self).delete_many(keys)
            }
            fn unfinished(&self) -> Result<Vec<Unfinished>> {
                (**self).unfinished()
            }
            fn discard(&self, unfinished: &Unfinished) -> Result<()> {
                (**self).discard(unfinished)
            }
            fn has_classes(&self) -> bool {
                (**self).has_classes()
            }
            fn has_versions(&self) -> Result<bool> {
                (**self).has_versions()
            }
            fn lock_rule(&self) -> Option<LockRule> {
                (**self).lock_rule()
            }
            fn class(&self, key: &ObjectKey) -> Result<ObjectClass> {
                (**self).class(key)
            }
            fn set_class(
                &self,
                key: &ObjectKey,
                class: &StorageClass,
                expected: &ObjectMeta,
            ) -> Result<()> {
                (**self).set_class(key, class, expected)
            }
            fn thaw(&self, key: &ObjectKey, thaw: Thaw) -> Result<Availability> {
                (**self).thaw(key, thaw)
            }
            fn tag(&self, key: &ObjectKey, name: &str, value: &str) -> Result<()> {
                (**self).tag(key, name, value)
            }
            fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<()> {
                (**self).lock(key, until)
            }
            fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>> {
                (**self).locked_until(key)
            }
            fn versions(&self, prefix: &str, after: Option<&VersionMark>) -> Result<VersionPage> {
                (**self).versions(prefix, after)
            }
            fn delete_version(&self, key: &ObjectKey, id: &str) -> Result<()> {
                (**self).delete_version(key, id)
            }
        }
    };
}

forward!(Arc);
forward!(Box);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance;

    #[test]
    fn a_pointer_is_transparent() {
        conformance::run_all(&|| {
            let shared: Arc<dyn ObjectStore> = Arc::new(conformance::memory());
            Box::new(Box::new(shared))
        });
    }
}
