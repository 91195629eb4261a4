//! A plan for people: each chain with what becomes of it and why, then what that costs.

use std::collections::BTreeMap;
use std::fmt;

use super::costs::{Costs, Early};
use super::plan::{ChainPlan, PlacePlan, Tally, TierPlan};
use super::policy::KeptAs;
use crate::base::ByteSize;
use crate::storage::StorageClass;

impl fmt::Display for TierPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tiering: {}", self.policy)?;
        self.places.iter().try_for_each(|place| write!(f, "\n{place}"))?;
        match self.moving() {
            Tally { packs: 0, .. } => f.write_str("\nnothing moves"),
            moving => write!(f, "\nmoves: {moving}"),
        }
    }
}

impl fmt::Display for PlacePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.name)?;
        if self.chains.is_empty() {
            f.write_str("\n  no complete backup")?;
        }
        self.chains.iter().try_for_each(|chain| write!(f, "\n  {chain}"))?;
        self.costs.fmt(f)
    }
}

impl fmt::Display for ChainPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root)?;
        match self.members.len() {
            0 | 1 => {}
            many => write!(f, " and {} more", many - 1)?,
        }
        match (&self.stays, self.moves.is_empty()) {
            (Some(stays), _) => return write!(f, ": stays: {stays}"),
            (None, true) => f.write_str(": nothing to move")?,
            (None, false) => {
                let mut targets: BTreeMap<(&StorageClass, &StorageClass), Tally> = BTreeMap::new();
                for each in &self.moves {
                    let tally = targets.entry((&each.from, &each.to)).or_default();
                    tally.add(each.meta.size);
                }
                for (index, ((from, to), tally)) in targets.into_iter().enumerate() {
                    let before = if index == 0 { ": " } else { ", " };
                    write!(f, "{before}{tally} from {from} to {to}")?;
                }
                write!(f, ": closed, complete since {}", self.finished.format("%Y-%m-%d"))?;
            }
        }
        match self.kept_as {
            KeptAs::Plain => {}
            KeptAs::Monthly => f.write_str(", kept as monthly")?,
            KeptAs::Yearly => f.write_str(", kept as yearly")?,
        }
        if self.there.packs > 0 {
            write!(f, "; {} in {} already", self.there, self.class)?;
        }
        self.stuck.iter().try_for_each(|(why, tally)| write!(f, "; {tally} stay: {why}"))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.packs == 1 { "pack" } else { "packs" };
        write!(f, "{} {word} ({})", self.packs, ByteSize(self.bytes))
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requests > 0 {
            let how = match self.by_rule {
                true => "transitions by the bucket's rules",
                false => "copies within the store",
            };
            write!(f, "\n  costs {} {how}", self.requests)?;
        }
        for stay in &self.minimum {
            let tally = Tally { packs: stay.packs, bytes: stay.bytes };
            let (class, days) = (&stay.class, stay.days);
            write!(f, "\n  {tally} in {class} are charged for {days} days at least")?;
        }
        self.early.iter().try_for_each(|early| write!(f, "\n  {early}"))?;
        let Some(old) = &self.old_versions else { return Ok(()) };
        write!(
            f,
            "\n  the bucket keeps versions: {} old versions ({}) stay, and are charged for, until {}",
            old.objects,
            ByteSize(old.bytes),
            if old.locked {
                "their locks end and they are removed"
            } else {
                "a lifecycle rule of the bucket ends them"
            }
        )
    }
}

impl fmt::Display for Early {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GIB: u128 = 1 << 30;
        let Self { class, objects, bytes, days_max, byte_days } = self;
        let (bytes, gib_days) = (ByteSize(*bytes), byte_days / GIB);
        write!(f, "{objects} objects ({bytes}) leave {class} early: up to {days_max} days, ")?;
        write!(f, "{gib_days} GiB days in all, are charged for nothing")
    }
}
