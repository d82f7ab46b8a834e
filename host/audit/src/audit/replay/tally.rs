//! What a walk over one partition has counted and kept; the tallies are added up at the end.
//!
//! In: differences as they are found. Out: counts, the first difference of each class, and a bounded list. It decides
//! nothing.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};

use crate::audit::replay::class::Class;
use crate::audit::replay::coverage::Counter;
use crate::audit::replay::report::{Brief, ClassCount, Counts, Difference, LISTED_MAX};
use crate::audit::replay::timeline::Timeline;
use crate::ids::{CommandId, Fingerprint, Micros, ModuleId, PartitionId};
use crate::saga::{CallKey, Derivation, Identity};

/// Where something stands in the order of all partitions: time, partition, journal index.
pub type HistoryPlace = (Micros, u32, u64);

/// Counts of one partition, or of all.
#[derive(Default)]
pub struct Tally {
    pub counts: Counts,
    pub classes: BTreeMap<Class, ClassCount>,
    /// With its place, to find the first one of several partitions.
    pub first: BTreeMap<Class, (HistoryPlace, Difference)>,
    pub briefs: Vec<(HistoryPlace, Brief)>,
    pub coverage: Counter,
    pub timeline: Timeline,
    /// Modules that decided.
    pub deciders: Vec<ModuleId>,
    /// Groups that differ, whether they are reported or not.
    pub differing: HashSet<(u32, u64, usize)>,
    pub slots: Slots,
}

/// Where the history has recorded each call and what was heard about it, by [`slot_of`].
#[derive(Default)]
pub struct Slots {
    pub calls: HashMap<CommandId, HistoryPlace>,
    pub heard: HashMap<CommandId, HistoryPlace>,
    /// Calls refused because another command has their id, with the CBOR of the rejection. Such a refusal is recorded
    /// only at home.
    pub reused: HashMap<CommandId, Vec<u8>>,
    /// Calls of commands in flight at the end. The coordinator has not heard of them, and their outcomes are beyond the
    /// end.
    pub due: Vec<CommandId>,
}

/// Names a call among those of all commands, whatever id it is recorded under.
pub fn slot_of(home: PartitionId, command: CommandId, key: CallKey) -> CommandId {
    let (fingerprint, derivation) = (Fingerprint::ZERO, Derivation::ByContent);
    Identity { command, home, fingerprint, derivation }.call(key)
}

impl Tally {
    /// Counts a difference that is reported.
    pub fn count(&mut self, class: Class, is_root: bool, time: Micros) {
        let found = self.classes.entry(class).or_default();
        found.count += 1;
        if is_root {
            found.root += 1;
        } else {
            found.knock_on += 1;
        }
        self.timeline.count(time, class, 1);
    }

    pub fn has_room(&self) -> bool {
        self.briefs.len() < LISTED_MAX
    }

    pub fn merge(&mut self, other: Self) {
        self.counts.add(&other.counts);
        for (class, more) in other.classes {
            let found = self.classes.entry(class).or_default();
            found.count += more.count;
            found.root += more.root;
            found.knock_on += more.knock_on;
        }
        for (class, (place, difference)) in other.first {
            let is_earlier = self.first.get(&class).is_none_or(|(known, _)| place < *known);
            if is_earlier {
                self.first.insert(class, (place, difference));
            }
        }
        self.briefs.extend(other.briefs);
        self.briefs.sort_by_key(|(place, _)| *place);
        self.briefs.truncate(LISTED_MAX);
        self.coverage.merge(&other.coverage);
        self.timeline.merge(other.timeline);
        for id in other.deciders {
            if !self.deciders.contains(&id) {
                self.deciders.push(id);
            }
        }
        self.differing.extend(other.differing);
        self.slots.calls.extend(other.slots.calls);
        self.slots.heard.extend(other.slots.heard);
        self.slots.reused.extend(other.slots.reused);
        self.slots.due.extend(other.slots.due);
    }
}
