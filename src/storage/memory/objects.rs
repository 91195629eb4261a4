//! What a store in memory holds: the current objects, and behind them their versions.
//!
//! Everything here happens under the store's one lock, at a moment that the caller names.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use crate::base::Timestamp;
use crate::storage::{
    Availability, Error, ObjectKey, ObjectMeta, Result, StorageClass, Thaw, Version, VersionMark,
    VersionPage,
};

/// Names in a page of versions.
const VERSIONS_MAX: usize = 1000;

#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) body: Arc<Vec<u8>>,
    /// Nothing in a store without a clock.
    pub(super) stored: Option<Timestamp>,
    pub(super) class: StorageClass,
    /// From when on a thawed copy is there, and until when.
    pub(super) thaw: Option<(Timestamp, Timestamp)>,
    pub(super) locked_until: Option<Timestamp>,
    tags: BTreeMap<String, String>,
    /// Among all versions of the store.
    id: u64,
}

impl Held {
    pub(super) fn new(
        body: Vec<u8>,
        stored: Option<Timestamp>,
        locked_until: Option<Timestamp>,
    ) -> Self {
        let (body, class) = (Arc::new(body), StorageClass::Standard);
        Self { body, stored, class, thaw: None, locked_until, tags: BTreeMap::new(), id: 0 }
    }

    pub(super) fn availability(&self, now: Timestamp) -> Availability {
        match self.thaw {
            _ if !self.class.needs_thaw() => Availability::Online,
            Some((ready, until)) if ready <= now && now < until => {
                Availability::ThawedUntil(Some(until))
            }
            Some((ready, _)) if now < ready => Availability::Thawing,
            _ => Availability::Cold,
        }
    }

    fn check_unlocked(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        now: Timestamp,
    ) -> Result<()> {
        match self.locked_until.filter(|until| *until > now) {
            None => Ok(()),
            until => Err(Error::Locked { operation, key: key.clone(), until }),
        }
    }

    /// Asks for a thaw; what was asked for before is not made worse.
    fn thaw(&mut self, key: &ObjectKey, thaw: Thaw, now: Timestamp) -> Result<()> {
        if !self.class.needs_thaw() {
            return Ok(());
        }
        let time = self.class.thaw_time(thaw.speed);
        let time = time.ok_or_else(|| Error::lacking("thaw", key, "thaw of that speed"))?;
        let ready = now + time.most;
        let stays = chrono::TimeDelta::days(i64::from(thaw.days.max(1)));
        self.thaw = Some(match self.thaw.filter(|(_, until)| *until > now) {
            // There already: it stays as long as is asked for now.
            Some((since, until)) if since <= now => (since, until.max(now + stays)),
            Some((before, until)) => {
                let stays = stays.max(until - before);
                (ready.min(before), ready.min(before) + stays)
            }
            None => (ready, ready + stays),
        });
        Ok(())
    }
}

/// One behind the current object; without a content, a marker of a deletion.
#[derive(Debug)]
struct Older {
    id: u64,
    stored: Option<Timestamp>,
    held: Option<Held>,
}

#[derive(Debug, Default)]
pub(super) struct Objects {
    current: BTreeMap<String, Held>,
    /// The newest last. What is not current is here only where the store has versions.
    older: BTreeMap<String, Vec<Older>>,
    ids: u64,
}

impl Objects {
    pub(super) fn get(&self, key: &ObjectKey) -> Result<&Held> {
        self.current.get(key.as_str()).ok_or_else(|| Error::NotFound { key: key.clone() })
    }

    /// Names from `after` on, in order.
    pub(super) fn range(&self, after: Bound<&str>) -> impl Iterator<Item = (&String, &Held)> {
        self.current.range::<str, _>((after, Bound::Unbounded))
    }

    pub(super) fn insert_new(&mut self, key: &ObjectKey, held: Held) -> Result<()> {
        self.check_place("put", key)?;
        if self.current.contains_key(key.as_str()) {
            return Err(Error::AlreadyExists { key: key.clone() });
        }
        self.push(key, held);
        Ok(())
    }

    /// Puts an object, and keeps the one before it where `keeps_versions`.
    pub(super) fn replace(
        &mut self,
        key: &ObjectKey,
        held: Held,
        keeps_versions: bool,
        now: Timestamp,
    ) -> Result<()> {
        self.check_place("put", key)?;
        self.take("put", key, keeps_versions, now)?;
        self.push(key, held);
        Ok(())
    }

    pub(super) fn delete(
        &mut self,
        key: &ObjectKey,
        keeps_versions: bool,
        stored: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<()> {
        self.take("delete", key, keeps_versions, now)?;
        if keeps_versions {
            let id = self.next_id();
            let marker = Older { id, stored, held: None };
            self.older.entry(key.to_string()).or_default().push(marker);
        }
        Ok(())
    }

    pub(super) fn set_class(
        &mut self,
        key: &ObjectKey,
        class: &StorageClass,
        expected: &ObjectMeta,
        keeps_versions: bool,
        (stored, now): (Option<Timestamp>, Timestamp),
    ) -> Result<()> {
        let held = self.get(key)?;
        let size = held.body.len() as u64;
        if size != expected.size {
            let source = format!("{size} bytes instead of {}", expected.size).into();
            return Err(Error::Changed { operation: "move", key: key.clone(), source });
        }
        if held.class == *class {
            return Ok(());
        }
        if let Some(known) = expected.class.as_ref().filter(|known| **known != held.class) {
            let source = format!("{} instead of {known}", held.class).into();
            return Err(Error::Changed { operation: "move", key: key.clone(), source });
        }
        if !held.availability(now).is_readable(now) {
            return Err(Error::Cold { key: key.clone() });
        }
        let moved = Held { class: class.clone(), thaw: None, stored, ..held.clone() };
        if keeps_versions {
            self.take("move", key, keeps_versions, now)?;
        }
        self.push(key, moved);
        Ok(())
    }

    pub(super) fn thaw(
        &mut self,
        key: &ObjectKey,
        thaw: Thaw,
        now: Timestamp,
    ) -> Result<Availability> {
        let held = self.get_mut(key)?;
        held.thaw(key, thaw, now)?;
        Ok(held.availability(now))
    }

    pub(super) fn tag(&mut self, key: &ObjectKey, name: &str, value: &str) -> Result<()> {
        self.get_mut(key)?.tags.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    pub(super) fn follow_tags(&mut self, name: &str) {
        for held in self.current.values_mut() {
            if let Some(class) = held.tags.get(name) {
                held.class = StorageClass::parse(class);
            }
        }
    }

    pub(super) fn lock(&mut self, key: &ObjectKey, until: Timestamp) -> Result<()> {
        let held = self.get_mut(key)?;
        held.locked_until = held.locked_until.max(Some(until));
        Ok(())
    }

    pub(super) fn versions(&self, prefix: &str, after: Option<&VersionMark>) -> VersionPage {
        let id_of = |mark: &VersionMark| mark.id.as_ref().and_then(|id| id.parse::<u64>().ok());
        let begin = after.map_or(prefix, |mark| mark.key.as_str());
        let names = self.older.range::<str, _>((Bound::Included(begin), Bound::Unbounded));
        let all =
            names.take_while(|(name, _)| name.starts_with(prefix)).flat_map(|(name, older)| {
                older.iter().rev().map(move |version| (name.as_str(), version))
            });
        let mut all = all.filter(|(name, version)| {
            let mark = after.filter(|mark| mark.key == *name);
            mark.is_none_or(|mark| id_of(mark).is_some_and(|id| version.id < id))
        });
        let mut page = VersionPage::default();
        page.versions.extend(all.by_ref().take(VERSIONS_MAX).filter_map(told));
        if all.next().is_some() {
            page.next = page.versions.last().map(|version| VersionMark {
                key: version.key.to_string(),
                id: Some(version.id.clone()),
            });
        }
        page
    }

    pub(super) fn delete_version(
        &mut self,
        key: &ObjectKey,
        id: &str,
        now: Timestamp,
    ) -> Result<()> {
        const OPERATION: &str = "delete a version of";
        let Ok(id) = id.parse::<u64>() else { return Ok(()) };
        if let Some(held) = self.current.get(key.as_str()).filter(|held| held.id == id) {
            held.check_unlocked(OPERATION, key, now)?;
            self.current.remove(key.as_str());
        } else if let Some(older) = self.older.get_mut(key.as_str())
            && let Some(at) = older.iter().position(|version| version.id == id)
        {
            let held = older.get(at).and_then(|version| version.held.as_ref());
            held.map_or(Ok(()), |held| held.check_unlocked(OPERATION, key, now))?;
            older.remove(at);
        }
        self.uncover(key);
        Ok(())
    }

    fn get_mut(&mut self, key: &ObjectKey) -> Result<&mut Held> {
        let found = self.current.get_mut(key.as_str());
        found.ok_or_else(|| Error::NotFound { key: key.clone() })
    }

    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn push(&mut self, key: &ObjectKey, held: Held) {
        let id = self.next_id();
        self.current.insert(key.to_string(), Held { id, ..held });
    }

    /// Takes the current object away: behind the next one, or for good.
    fn take(
        &mut self,
        operation: &'static str,
        key: &ObjectKey,
        keeps_versions: bool,
        now: Timestamp,
    ) -> Result<()> {
        let Some(held) = self.current.get(key.as_str()) else { return Ok(()) };
        if !keeps_versions {
            held.check_unlocked(operation, key, now)?;
        }
        let held = self.current.remove(key.as_str()).filter(|_| keeps_versions);
        if let Some(held) = held {
            let older = Older { id: held.id, stored: held.stored, held: Some(held) };
            self.older.entry(key.to_string()).or_default().push(older);
        }
        Ok(())
    }

    /// Where nothing is current any more, the newest version is, unless it is a marker.
    fn uncover(&mut self, key: &ObjectKey) {
        let Some(older) = self.older.get_mut(key.as_str()) else { return };
        if !self.current.contains_key(key.as_str())
            && let Some(newest) = older.pop_if(|version| version.held.is_some())
            && let Some(held) = newest.held
        {
            self.current.insert(key.to_string(), held);
        }
        if older.is_empty() {
            self.older.remove(key.as_str());
        }
    }

    /// Refuses a name that is a folder of other names, or lies below an object.
    fn check_place(&self, operation: &'static str, key: &ObjectKey) -> Result<()> {
        let name = key.as_str();
        let below = format!("{name}/");
        let mut behind = self.range(Bound::Included(below.as_str()));
        let is_folder = behind.next().is_some_and(|(next, _)| next.starts_with(&below));
        let lies_below_object =
            name.match_indices('/').any(|(at, _)| self.current.contains_key(&name[..at]));
        if !is_folder && !lies_below_object {
            return Ok(());
        }
        let kind =
            if is_folder { io::ErrorKind::IsADirectory } else { io::ErrorKind::NotADirectory };
        Err(Error::Io { operation, key: name.to_owned(), source: kind.into() })
    }
}

fn told((name, version): (&str, &Older)) -> Option<Version> {
    let held = version.held.as_ref();
    Some(Version {
        key: ObjectKey::new(name).ok()?,
        id: version.id.to_string(),
        size: held.map_or(0, |held| held.body.len() as u64),
        class: held.map(|held| held.class.clone()),
        stored: version.stored,
        is_marker: held.is_none(),
    })
}
