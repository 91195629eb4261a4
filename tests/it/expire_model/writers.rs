//! A second writer: somebody else who does the same at the same time.

use pgkeep::repo::{Error, WalPut};
use pgkeep::storage::ObjectStore as _;

use super::run::{Open, Run};

impl Run {
    /// The same segment once more, another content under its name, or a backup under a name that is taken.
    pub fn write_beside(&mut self) {
        match self.dice.below(3) {
            0 => self.push_again(),
            1 => self.push_another(),
            _ => self.begin_the_same(),
        }
    }

    /// Stored, or there already. One that has expired comes back, and is decided upon anew.
    fn push_again(&mut self) {
        if self.world.archived.is_empty() {
            return;
        }
        let archived = self.dice.one_of(&self.world.archived).clone();
        let key = self.world.place.wal(&archived.segment).unwrap();
        let expected = match self.world.store.head(&key) {
            Ok(_) => WalPut::Same,
            Err(_) => WalPut::Stored,
        };
        let put = self.world.put_wal(&archived, "").unwrap();
        self.tell(format!("push {} again: {put:?}", archived.segment));
        // Two claims may have the same name by chance: then the same content is put once more.
        let is_by_claims = !self.world.repository.descriptor().conditional_put;
        let is_expected = put == expected || (is_by_claims && put == WalPut::Stored);
        assert!(is_expected, "{}", self.told());
    }

    /// Two servers that write the same timeline: the first content stays.
    fn push_another(&mut self) {
        let there = |archived: &&crate::support::world::Archived| {
            self.world.store.head(&self.world.place.wal(&archived.segment).unwrap()).is_ok()
        };
        let there: Vec<_> = self.world.archived.iter().filter(there).cloned().collect();
        if there.is_empty() {
            return;
        }
        let archived = self.dice.one_of(&there).clone();
        let key = self.world.place.wal(&archived.segment).unwrap();
        let before = self.world.store.get(&key).unwrap();
        let put = self.world.put_wal(&archived, " by another");
        self.tell(format!("push another {}: {put:?}", archived.segment));
        assert!(matches!(put, Err(Error::Conflict { .. })), "{}", self.told());
        assert_eq!(self.world.store.get(&key).unwrap(), before, "{}", self.told());
    }

    /// Two processes begin the same backup: one of them is told.
    fn begin_the_same(&mut self) {
        let (kind, parent) = self.kind_and_parent();
        let (begin, begun) = self.world.record_of(kind, parent);
        let (ctx, place) = (&self.world.ctx, &self.world.place);
        self.world.repository.put_begin(ctx, place, &begin).unwrap();
        let second = self.world.repository.put_begin(ctx, place, &begin);
        let is_told = match &second {
            Err(Error::Storage(error)) => error.is_already_exists(),
            // The same bytes, where a claim by chance has the same name.
            other => matches!(other, Err(Error::Claimed { .. })),
        };
        assert!(is_told, "{second:?}\n{}", self.told());
        self.tell(format!("begin {} twice", begun.id));
        if self.world.may_go_on(&begun) {
            let packs = self.world.store_packs(&begun);
            self.open.push(Open { begun, packs });
        }
    }
}
