//! For how long an object is locked, in a store that locks what is put: by its name, and every name of FORMAT.md,
//! section 2, is thought of.

use std::time::Duration;

use super::layout::Place;

/// The lock of what is needed for a moment only, or derived: longer than anybody is at work with it.
const SHORT_LOCK: Duration = Duration::from_hours(24);

/// For how long an object of this name is locked where what is kept for good is locked for `full`. Leases, claims, partial
/// segments and summaries get a lock of their own, and a short one: without any, a bucket would give them its default.
#[must_use]
pub fn lock_for(name: &str, full: Duration) -> Duration {
    let short = full.min(SHORT_LOCK);
    let place = Place::of_name(name);
    let Some(inner) = place.and_then(|place| name.strip_prefix(&place.prefix())) else {
        let is_short = name.starts_with("lease/") || name.starts_with("probe/");
        return if is_short { short } else { full };
    };
    let is_note = inner == "sum/found-first" || inner.starts_with("sum/found/");
    match inner.split('/').next() {
        Some("claim" | "partial") => short,
        // Notes are not to be lost while their mark is there.
        Some("sum") if !is_note => short,
        // What this version does not know may be worth anything.
        _ => full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use crate::repo::BackupId;
    use crate::repo::layout::{claim, descriptor, init_lease, lease, probe, slot};
    use crate::storage::ObjectKey;

    /// Every name of FORMAT.md, section 2, with whether it is locked for the full time.
    #[test]
    fn f088_every_name_of_the_format_has_its_lock() {
        let place = Place::new("main", 7, 1).unwrap();
        let (id, at) = (BackupId::full(Timestamp::UNIX_EPOCH), Timestamp::UNIX_EPOCH);
        let segment = "00000001000000A2000000FE";
        let wal = place.wal(segment).unwrap();
        let names = [
            ("pgkeep.json", descriptor(), true),
            ("key/<slot>", slot("0123456789abcdef").unwrap(), true),
            ("c/<cluster>/<system>-<epoch>/cluster", place.registration(), true),
            (".../announced", place.announcement(), true),
            (".../begin/<id>", place.begin(&id), true),
            (".../backup/<id>", place.manifest(&id), true),
            (".../files/<id>", place.files(&id), true),
            (".../data/<id>/<n>", place.pack(&id, 1), true),
            (".../meta/<id>/<n>", place.meta(&id, 1), true),
            (".../hash/<id>/<n>", place.hash(&id, 1), true),
            (".../wal/<timeline>/<log>/<segment>", wal.clone(), true),
            (".../history/<timeline>", place.history(2), true),
            (
                ".../label/<name>",
                place.label("000000010000000000000002.00000028.backup").unwrap(),
                true,
            ),
            (".../partial/<segment>.<lsn>", place.partial(segment, 1).unwrap(), false),
            ("probe/<random>", probe("00"), false),
            ("lease/init/<time>.<random>", init_lease(at, "00"), false),
            ("lease/<scope>/<cluster>/<holder>.<n>", lease("use", "main", "00", 1).unwrap(), false),
            (".../claim/<name>/<identity>-<attempt>", claim(&wal, "ab", 1).unwrap().0, false),
            (".../pin/<id>.<n>", place.pin(&id, 1), true),
            (".../keep/<n>", place.keep(1), true),
            (
                ".../sum/found/<segment>.<letters>.<digits>",
                place.note(segment, "p", "00").unwrap(),
                true,
            ),
            (".../sum/found-first", place.notes_mark(), true),
            (".../sum/backups/<time>", place.catalogue(at).unwrap(), false),
            (".../sum/wal/<timeline>/<segment>", place.ranges(segment).unwrap(), false),
            (".../sum/locks/<time>", place.locks(at).unwrap(), false),
            (
                ".../sum/...",
                ObjectKey::new(format!("{}sum/later/1", place.prefix())).unwrap(),
                false,
            ),
            (
                ".../report/...",
                ObjectKey::new(format!("{}report/1", place.prefix())).unwrap(),
                true,
            ),
        ];
        let (day, month) = (Duration::from_hours(24), Duration::from_hours(24 * 30));
        for (form, name, is_full) in &names {
            let expected = if *is_full { month } else { day };
            assert_eq!(lock_for(name.as_str(), month), expected, "{form}: {name}");
            assert_eq!(
                lock_for(name.as_str(), day / 2),
                day / 2,
                "{form}: never longer than asked"
            );
        }
        let table = include_str!("FORMAT.md").split("## 2. Names").nth(1).unwrap();
        let rows = table.split("## 3.").next().unwrap().lines();
        let forms =
            rows.filter_map(|row| row.strip_prefix("| `")?.split_once('`')).map(|(form, _)| form);
        let listed: Vec<&str> = names.iter().map(|(form, ..)| *form).collect();
        assert_eq!(forms.collect::<Vec<_>>(), listed, "a name of the format is missing here");
    }
}
