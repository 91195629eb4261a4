//! A shared or boxed store is a store, so that decorators can wrap one chosen at run time.

use std::sync::Arc;

use super::{ObjectKey, ObjectMeta, ObjectStore, ObjectWriter, Result, Unfinished};

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
        }
    };
}

forward!(Arc);
forward!(Box);
