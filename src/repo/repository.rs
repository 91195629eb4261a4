//! An open repository: descriptor, keyring and store; every sealed object goes through here.

use std::sync::Arc;

use super::claim::{self, Claims, InitLease};
use super::descriptor::{CipherChoice, Descriptor};
use super::error::{Error, Result};
use super::frame::{FrameOpener, FrameSealer};
use super::header::{FRAME_LOG2, HEADER_SIZE, Header};
use super::key_cache::KeyCache;
use super::layout::{self, Kind};
use super::sealed::{SealedRandom, SealedReader, SealedSummary, SealedWriter};
use super::slots::{open_slots, require_secret, slot_key};
use crate::base::{Ctx, entropy};
use crate::crypt::{
    Class, ContentDigest, KeyId, Keyring, MasterKey, ObjectCipher, RepositoryId, Slot, Unlock, Use,
};
use crate::storage::{self, ObjectKey, ObjectStore, ObjectWriter};

/// Whole objects that are read into memory at once are no longer than this (a manifest of 100 TB).
const WHOLE_OBJECT_MAX: usize = 1 << 30;

/// How much a reader asks for first: header and, in most objects, the first frame.
const FIRST_READ: usize = 72 * 1024;

/// An open, authenticated repository.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) descriptor: Descriptor,
    pub(super) keyring: Keyring,
    /// The key slots that there were.
    slots: Arc<[ObjectKey]>,
}

/// What `init` is told.
#[derive(Debug)]
pub struct InitOptions<'a> {
    /// How to encrypt.
    pub cipher: CipherChoice,
    /// The first slot's secret; ignored (clear) when the cipher is none.
    pub unlock: &'a Unlock,
    /// The first slot's label.
    pub label: &'a str,
    /// log2 of scrypt's N for a passphrase.
    pub cost: u8,
}

impl Repository {
    /// Refuses a place where there is a repository, or what one holds without its descriptor: under a new
    /// one nobody could read that any more, and the name is never free again.
    ///
    /// # Errors
    /// [`storage::Error::AlreadyExists`], [`Error::NoDescriptor`].
    pub fn require_none(store: &dyn ObjectStore) -> Result<()> {
        let key = layout::descriptor();
        let look = || match store.head(&key) {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(storage::Error::AlreadyExists { key: key.clone() }),
        };
        look()?;
        let Some(first) = store.list(layout::CLUSTERS_PREFIX, None, 1)?.pop() else {
            return Ok(());
        };
        // Another init may have made it just now, and registered a cluster.
        look()?;
        Err(Error::NoDescriptor { object: first.key })
    }

    /// Makes a repository in an empty store.
    ///
    /// The slot is written before the descriptor: a repository exists when its descriptor does, so
    /// a crash in between leaves a slot that belongs to no repository and opens nothing.
    ///
    /// # Errors
    /// As [`Repository::require_none`]; [`Error::Keys`] for a cipher without a secret;
    /// [`Error::InitRunning`], [`Error::InitOverdue`].
    pub fn init(ctx: &Ctx, store: Arc<dyn ObjectStore>, options: &InitOptions<'_>) -> Result<Self> {
        require_secret(options.cipher, options.unlock)?;
        Self::require_none(store.as_ref())?;
        let key = layout::descriptor();
        let conditional_put = claim::honours_conditions(ctx, store.as_ref())?;
        let lease = if conditional_put {
            None
        } else {
            let lease = InitLease::take(ctx, store.as_ref())?;
            // One that was there before the lease.
            Self::require_none(store.as_ref())?;
            Some(lease)
        };
        let repository = RepositoryId(entropy::random(ctx.entropy.as_ref()));
        let first = MasterKey::generate(ctx.entropy.as_ref(), 1);
        let created = layout::time_text(ctx.clock.now());
        let descriptor = Descriptor {
            repository,
            created: created.clone(),
            cipher: options.cipher,
            conditional_put,
            key: first.id,
        };
        let keyring = Keyring::new(first);
        let clear = Unlock::Clear;
        let unlock = if options.cipher == CipherChoice::None { &clear } else { options.unlock };
        let slot = Slot::wrap(
            ctx.entropy.as_ref(),
            repository,
            created,
            options.label,
            unlock,
            options.cost,
            &keyring,
        )?;
        let slot_key = slot_key(&slot.slot)?;
        let put = |key: &ObjectKey, bytes: &[u8]| match conditional_put {
            true => store.put_if_absent(key, bytes),
            false => store.put(key, bytes),
        };
        put(&slot_key, &slot.encode())?;
        if lease.as_ref().is_some_and(|lease| !lease.holds(ctx)) {
            store.delete(&slot_key)?;
            return Err(Error::InitOverdue);
        }
        let bytes = descriptor.encode(keyring.first());
        let is_taken = match put(&key, &bytes) {
            // An earlier try of this very call may have taken effect: then the name is ours.
            Err(error) if error.is_already_exists() => store.get(&key)? != bytes,
            // Nothing but time keeps others from replacing it.
            Ok(()) if !conditional_put => store.get(&key)? != bytes,
            other => other.map(|()| false)?,
        };
        if is_taken {
            store.delete(&slot_key)?;
            return Err(storage::Error::AlreadyExists { key }.into());
        }
        drop(lease);
        Ok(Self { store, descriptor, keyring, slots: [slot_key].into() })
    }

    /// Opens a repository with the secret at hand and authenticates its descriptor.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::WrongKey`], [`Error::Corrupt`], [`Error::Newer`].
    pub fn open(store: Arc<dyn ObjectStore>, unlock: &Unlock) -> Result<Self> {
        Self::open_with(store, unlock, None)
    }

    /// As [`Repository::open`], with keys kept from an earlier time where they still count.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn open_with(
        store: Arc<dyn ObjectStore>,
        unlock: &Unlock,
        cache: Option<(&Ctx, &KeyCache)>,
    ) -> Result<Self> {
        let bytes = match store.get(&layout::descriptor()) {
            Err(error) if error.is_not_found() => {
                return Err(Error::NoRepository { location: store.location() });
            }
            other => other?,
        };
        let descriptor = Descriptor::decode(&bytes)?;
        let mut listed = storage::list_all(store.as_ref(), layout::SLOT_PREFIX)?;
        let id = descriptor.repository;
        if let Some(keyring) = cache.and_then(|(_, cache)| cache.load(id, &listed, unlock))
            && Descriptor::verify(&bytes, &keyring).is_ok()
        {
            let slots = names(&listed);
            return Ok(Self { store, descriptor, keyring, slots });
        }
        let (keyring, summaries) = open_slots(store.as_ref(), &mut listed, &descriptor, unlock)?;
        let Some(keyring) = keyring else {
            return Err(Error::WrongKey { given: unlock.kind(), slots: summaries });
        };
        Descriptor::verify(&bytes, &keyring)?;
        if let Some((ctx, cache)) = cache {
            cache.store(ctx, id, &listed, unlock, &keyring);
        }
        let slots = names(&listed);
        Ok(Self { store, descriptor, keyring, slots })
    }

    /// The same repository opened once more, in `store`, which may be another handle of its place: what
    /// [`Repository::open`] reads is read again, and no secret is needed. Nothing when it is another one
    /// now, or its key slots have changed.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn reopened(&self, store: Arc<dyn ObjectStore>) -> Result<Option<Self>> {
        let bytes = match store.get(&layout::descriptor()) {
            Err(error) if error.is_not_found() => {
                return Err(Error::NoRepository { location: store.location() });
            }
            other => other?,
        };
        let is_same = Descriptor::decode(&bytes)?.repository == self.descriptor.repository
            && Descriptor::verify(&bytes, &self.keyring).is_ok()
            && names(&storage::list_all(store.as_ref(), layout::SLOT_PREFIX)?) == self.slots;
        Ok(is_same.then(|| Self { store, ..self.clone() }))
    }

    /// Refuses a repository whose cipher is not the configured one.
    ///
    /// # Errors
    /// [`Error::Cipher`].
    pub fn require_cipher(&self, configured: CipherChoice) -> Result<()> {
        if self.descriptor.cipher == configured {
            return Ok(());
        }
        Err(Error::Cipher {
            stored: self.descriptor.cipher.name().into(),
            configured: configured.name().into(),
        })
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// What the descriptor says.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The keyring that the secret at hand gave.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The digest of a WAL content, the same for every key generation.
    #[must_use]
    pub fn content_digest(&self, content: &[u8]) -> String {
        let mut digest = self.digest();
        digest.add(content);
        digest.finish()
    }

    /// As [`Repository::content_digest`], of content that comes in pieces.
    #[must_use]
    pub fn digest(&self) -> ContentDigest {
        let root = self.keyring.first().root(self.descriptor.repository, Class::Wal, Use::Digest);
        ContentDigest::new(root.expose())
    }

    fn cipher(&self, object: &ObjectKey, header: &Header) -> Result<ObjectCipher> {
        let master = self.keyring.find(header.key).ok_or_else(|| Error::UnknownKey {
            object: object.to_string(),
            key: header.key.to_string(),
        })?;
        Ok(ObjectCipher::derive(
            master,
            self.descriptor.repository,
            header.kind.class(),
            self.descriptor.cipher == CipherChoice::Aes256Cbc,
            &header.salt,
            &[&header.encode(), object.as_str().as_bytes()],
        ))
    }

    pub(super) fn sealer(
        &self,
        ctx: &Ctx,
        kind: Kind,
        object: &ObjectKey,
    ) -> Result<(Header, FrameSealer)> {
        let header = Header {
            kind,
            suite: self.descriptor.cipher.suite(),
            frame_log2: FRAME_LOG2,
            key: self.keyring.current().id,
            salt: entropy::random(ctx.entropy.as_ref()),
        };
        let cipher = self.cipher(object, &header)?;
        let sealer = FrameSealer::new(&header, cipher, Arc::clone(&ctx.entropy));
        Ok((header, sealer))
    }

    /// Begins an object that is sealed in memory and put whole by [`Repository::put_if_absent`].
    ///
    /// # Errors
    /// None in practice; as [`Repository::stream`].
    pub fn buffer(
        &self,
        ctx: &Ctx,
        kind: Kind,
        object: &ObjectKey,
    ) -> Result<SealedWriter<Vec<u8>>> {
        let (header, sealer) = self.sealer(ctx, kind, object)?;
        SealedWriter::new(object.clone(), header, sealer, Vec::new())
    }

    /// Begins an object that is sealed piece by piece into the store.
    ///
    /// # Errors
    /// As the store's.
    pub fn stream(
        &self,
        ctx: &Ctx,
        kind: Kind,
        object: &ObjectKey,
    ) -> Result<SealedWriter<Box<dyn ObjectWriter>>> {
        let (header, sealer) = self.sealer(ctx, kind, object)?;
        let sink = self.store.put_stream(object)?;
        SealedWriter::new(object.clone(), header, sealer, sink)
    }

    /// Puts an object that was sealed in memory, unless the name is taken. A call that failed
    /// without telling whether it took effect is settled by reading back: our own bytes under the
    /// name are success, because a salt of 32 random bytes is not made twice.
    ///
    /// # Errors
    /// [`storage::Error::AlreadyExists`] when somebody else's object is there.
    pub fn put_if_absent(&self, object: &ObjectKey, bytes: &[u8]) -> Result<()> {
        match self.put_once(object, bytes, &claim::identity_of(bytes)) {
            Err(error @ Error::Storage(storage::Error::AlreadyExists { .. })) => {
                let mut head = [0; HEADER_SIZE];
                let ours = self.store.read_range(object, 0, &mut head).is_ok()
                    && bytes.starts_with(&head)
                    && self.store.head(object).is_ok_and(|meta| meta.size == bytes.len() as u64);
                if ours { Ok(()) } else { Err(error) }
            }
            other => other,
        }
    }

    /// Puts an object unless its name holds, or may be about to get, other content. `identity` tells
    /// contents apart, where sealing the same one twice gives other bytes; it is a part of a name.
    ///
    /// With conditional puts one request. Otherwise three: a claim under object and identity, a list of
    /// the claims, the object only where nobody claimed the name for anything else. Of two that claim it
    /// for different contents at once at most one sees nothing of the other, for each looks after its own
    /// claim is there; and whoever comes later sees both. Claims stay: they are what refuses the next one.
    ///
    /// Those for the same content never keep each other from putting it. But whoever sees that he is not
    /// the first of them looks for the object, and puts it only where it is missing: the first one is
    /// still at it, or was killed between claim and object. A claim that replaced an earlier one would
    /// not show that, so each has one of several names, by chance; where two happen to have the same,
    /// the later one puts the same content once more.
    ///
    /// # Errors
    /// [`storage::Error::AlreadyExists`]; [`Error::Claimed`] when others claimed the name, and it is free.
    pub(super) fn put_once(&self, object: &ObjectKey, bytes: &[u8], identity: &str) -> Result<()> {
        if self.descriptor().conditional_put {
            return Ok(self.store().put_if_absent(object, bytes)?);
        }
        let store = self.store();
        let Some((own, prefix)) = layout::claim(object, identity, claim::attempt_of(bytes)) else {
            // Not of a cluster: a key slot, whose random name nobody else has.
            return Ok(store.put(object, bytes)?);
        };
        store.put(&own, b"")?;
        let listed = store.list(&prefix, None, claim::CLAIMS_LISTED_MAX)?;
        let is_whole = listed.len() < claim::CLAIMS_LISTED_MAX;
        if is_whole && !listed.iter().any(|meta| meta.key == own) {
            let why = "it was put, and the list does not have it: this store cannot be relied on";
            return Err(Error::corrupt(&own, "name", why));
        }
        let claims = Claims::of(&listed, &own, identity);
        if claims.others.is_empty() && !claims.have_same {
            return Ok(store.put(object, bytes)?);
        }
        match store.head(object) {
            Ok(_) => Err(storage::Error::AlreadyExists { key: object.clone() }.into()),
            Err(error) if !error.is_not_found() => Err(error.into()),
            Err(_) if claims.others.is_empty() => Ok(store.put(object, bytes)?),
            Err(_) => Err(Error::Claimed { object: object.clone(), claims: claims.others }),
        }
    }

    /// The claims of a name, on a store without conditional puts; none on others.
    ///
    /// # Errors
    /// As the store's.
    pub fn claims(&self, object: &ObjectKey) -> Result<Vec<storage::ObjectMeta>> {
        match layout::claim(object, "0", 0).filter(|_| !self.descriptor().conditional_put) {
            Some((_, prefix)) => Ok(storage::list_all(self.store().as_ref(), &prefix)?),
            None => Ok(Vec::new()),
        }
    }

    /// Puts an object of a single line, unless the name is taken.
    ///
    /// # Errors
    /// As [`Repository::put_if_absent`].
    pub fn put_line(
        &self,
        ctx: &Ctx,
        kind: Kind,
        object: &ObjectKey,
        line: &impl serde::Serialize,
    ) -> Result<SealedSummary> {
        let mut writer = self.buffer(ctx, kind, object)?;
        writer.line(line)?;
        let (bytes, summary) = writer.finish_lines()?;
        self.put_if_absent(object, &bytes)?;
        Ok(summary)
    }

    /// As [`Repository::put_line`], of a line that says the same as others with this identity: whoever of
    /// them comes first.
    ///
    /// # Errors
    /// As [`Repository::put_if_absent`].
    pub(super) fn put_same_line(
        &self,
        ctx: &Ctx,
        kind: Kind,
        object: &ObjectKey,
        line: &impl serde::Serialize,
        identity: &str,
    ) -> Result<()> {
        let mut writer = self.buffer(ctx, kind, object)?;
        writer.line(line)?;
        let (bytes, _) = writer.finish_lines()?;
        match self.put_once(object, &bytes, identity) {
            Err(Error::Storage(storage::Error::AlreadyExists { .. })) => Ok(()),
            other => other,
        }
    }

    /// Opens an object for reading in order. One request.
    ///
    /// # Errors
    /// [`storage::Error::NotFound`], [`Error::Corrupt`], [`Error::Newer`], [`Error::UnknownKey`].
    pub fn read(&self, kind: Kind, object: &ObjectKey) -> Result<SealedReader> {
        let window = self.store.read_up_to(object, 0, FIRST_READ)?;
        // A short answer is the whole object.
        let whole = window.len() < FIRST_READ;
        self.reader(kind, object, window, whole)
    }

    /// Reads an object into memory, by one request, and opens it for reading in order.
    ///
    /// # Errors
    /// As [`Repository::read`].
    pub fn read_whole(&self, kind: Kind, object: &ObjectKey) -> Result<SealedReader> {
        let window = self.store.get(object)?;
        self.reader(kind, object, window, true)
    }

    pub(super) fn reader(
        &self,
        kind: Kind,
        object: &ObjectKey,
        window: Vec<u8>,
        whole: bool,
    ) -> Result<SealedReader> {
        let head = window.first_chunk::<HEADER_SIZE>().ok_or_else(|| {
            Error::corrupt(object, "header", format!("the object has {} bytes", window.len()))
        })?;
        let header = Header::decode(object, head, kind, self.descriptor.cipher.suite())?;
        let cipher = self.cipher(object, &header)?;
        let opener = FrameOpener::new(object.clone(), &header, cipher);
        Ok(SealedReader::new(Arc::clone(&self.store), opener, header, window, whole))
    }

    /// Reads an object of a single line.
    ///
    /// # Errors
    /// As [`Repository::read`].
    pub fn read_line<T: serde::de::DeserializeOwned>(
        &self,
        kind: Kind,
        object: &ObjectKey,
    ) -> Result<T> {
        let mut text = Vec::new();
        self.read(kind, object)?.rest(WHOLE_OBJECT_MAX, &mut text)?;
        parse_line(object, 0, &text)
    }

    /// Opens an object at any frame; its key and salt are known from a manifest, so that an older
    /// object under the same name is refused.
    ///
    /// # Errors
    /// [`Error::UnknownKey`]. Makes no request.
    pub fn random(
        &self,
        kind: Kind,
        object: &ObjectKey,
        key: KeyId,
        salt: [u8; 32],
    ) -> Result<SealedRandom> {
        let suite = self.descriptor.cipher.suite();
        let header = Header { kind, suite, frame_log2: FRAME_LOG2, key, salt };
        let cipher = self.cipher(object, &header)?;
        let opener = FrameOpener::new(object.clone(), &header, cipher);
        Ok(SealedRandom::new(Arc::clone(&self.store), opener))
    }
}

fn names(slots: &[storage::ObjectMeta]) -> Arc<[ObjectKey]> {
    slots.iter().map(|slot| slot.key.clone()).collect()
}

/// Parses one JSON line of an object.
pub(super) fn parse_line<T: serde::de::DeserializeOwned>(
    object: &ObjectKey,
    number: usize,
    line: &[u8],
) -> Result<T> {
    serde_json::from_slice(line)
        .map_err(|error| Error::corrupt(object, format!("line {number}"), error))
}
