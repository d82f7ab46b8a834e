//! Every head that a journal had, to distinguish an entry of unknown origin from one that has no effect.
//!
//! A void entry was computed on an earlier head of the journal, before others became effective; or on an entry that
//! consensus refused, while it took this one, because the leader was not heard for a moment. The head of a refused
//! entry is in no journal, and yet the journal goes another way: an effective entry follows soon, and what was computed
//! on the refused one stands before it. Any other entry has an unknown origin: one before it was changed, removed or
//! moved. In: entries with their verdicts, in order. Out: the first one of unknown origin. Memory: about 20 bytes an
//! entry. This file does not know what an entry contains.

use hashbrown::{HashMap, HashSet};

use crate::ids::{Head, JournalIndex};
use crate::machine::entry::Entry;
use crate::machine::journal::{Journal, Verdict};
use crate::machine::limits::ENTRIES_UNDER_WAY_MAX;

/// The heads so far.
pub struct Heads {
    /// Of the journal, and of void entries that were computed on these.
    known: HashSet<[u8; 16]>,
    /// Of void entries that were computed on an entry that is not here, each with the first such entry before it.
    adrift: HashMap<[u8; 16], StrayEntry>,
    /// The same, before the journal's last entry: nothing is computed on them any more.
    left_behind: HashMap<[u8; 16], StrayEntry>,
    /// The first of the entries that are adrift.
    first_adrift: Option<StrayEntry>,
    /// The journal's last entry.
    last: JournalIndex,
}

/// An entry that was computed on a head that the journal never had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "entry {index} was computed on the head {}, which this journal never had: the entry before it was changed, \
     removed or moved. (If the node was stopped within moments after it had lost and found its majority, start it, \
     send it any command, and look again.)",
    parent.short()
)]
pub struct StrayEntry {
    /// What the entry says about itself.
    pub index: JournalIndex,
    pub parent: Head,
}

impl Heads {
    pub fn new(genesis: &Journal) -> Self {
        let known = HashSet::from([short(genesis.head)]);
        let (adrift, left_behind) = (HashMap::new(), HashMap::new());
        Self { known, adrift, left_behind, first_adrift: None, last: genesis.index }
    }

    /// Takes the next entry in.
    ///
    /// # Errors
    /// The entry has an unknown origin, and so has everything that follows it.
    pub fn check(&mut self, entry: &Entry, verdict: &Verdict) -> Result<(), StrayEntry> {
        if let Verdict::Effective(after) = verdict {
            self.known.insert(short(after.head));
            self.last = after.index;
            self.left_behind.extend(self.adrift.drain());
            self.first_adrift = None;
            return Ok(());
        }
        let header = entry.header();
        let (parent, head) = (short(header.parent), short(entry.head_after()));
        if self.known.contains(&parent) {
            self.known.insert(head);
            return Ok(());
        }
        if let Some(stray) = self.left_behind.get(&parent) {
            return Err(stray.clone());
        }
        let stray = match self.adrift.get(&parent) {
            Some(first) => first.clone(),
            None => StrayEntry { index: header.index, parent: header.parent },
        };
        // A leader computes its entries from the journal on, and only so many before it hears of the first.
        let is_ahead = self.last.next() < header.index;
        if !is_ahead || self.last.0.saturating_add(ENTRIES_UNDER_WAY_MAX) < header.index.0 {
            return Err(stray);
        }
        self.first_adrift.get_or_insert_with(|| stray.clone());
        self.adrift.insert(head, stray);
        Ok(())
    }

    /// The first of the last entries that were computed on an entry that is not here, if no effective entry has
    /// followed them yet.
    pub fn first_adrift(&self) -> Option<&StrayEntry> {
        self.first_adrift.as_ref()
    }

    /// Called after the last entry.
    ///
    /// # Errors
    /// No effective entry has followed the last ones of unknown origin: an entry was removed before them.
    pub fn finish(&self) -> Result<(), StrayEntry> {
        self.first_adrift.clone().map_or(Ok(()), Err)
    }
}

fn short(head: Head) -> [u8; 16] {
    *head.0.first_chunk().expect("a head has 32 bytes")
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::ids::{Digest, Micros, ModuleId, PartitionId};
    use crate::machine::entry::{EntryKind, Header};

    fn genesis() -> Journal {
        Journal::genesis(&[7; 16], "wallet", PartitionId(0))
    }

    /// An entry that was computed on this journal.
    fn entry_on(journal: &Journal, random: &mut StdRng) -> Entry {
        let time = Micros(journal.time.0 + random.random_range(1..9));
        Entry::tick(Header {
            kind: EntryKind::Tick,
            index: journal.index.next(),
            time,
            parent: journal.head,
            seed: random.random(),
            planner: ModuleId::ZERO,
            decider: ModuleId::ZERO,
            digest: Digest([0; 32]),
        })
    }

    /// The journal if this entry is effective on it.
    fn after(journal: &Journal, entry: &Entry) -> Journal {
        match journal.judge(entry) {
            Ok(Verdict::Effective(after)) => after,
            other => panic!("it was computed on this journal: {other:?}"),
        }
    }

    /// What leaders have appended to a log: each proposes up to eight entries without waiting, some of which consensus
    /// refuses, and begins again from the journal when it hears of a refusal, or when another leads.
    fn log(random: &mut StdRng, rounds: usize) -> Vec<Entry> {
        let (mut journal, mut log) = (genesis(), Vec::new());
        for round in 0..=rounds {
            let mut speculative = journal;
            for _ in 0..random.random_range(1..=8) {
                let entry = entry_on(&speculative, random);
                speculative = after(&speculative, &entry);
                // The last round is heard, as that of a leader which knows that void entries came last.
                if round < rounds && random.random_bool(0.15) {
                    continue;
                }
                if let Ok(Verdict::Effective(next)) = journal.judge(&entry) {
                    journal = next;
                }
                log.push(entry);
            }
        }
        log
    }

    /// How many entries are taken before the first of unknown origin, and how many of these are effective.
    fn taken(log: &[Entry]) -> Result<usize, (usize, StrayEntry)> {
        let mut journal = genesis();
        let mut heads = Heads::new(&journal);
        for (at, entry) in log.iter().enumerate() {
            let verdict = journal.judge(entry).expect("no entry contradicts the journal");
            heads.check(entry, &verdict).map_err(|stray| (at, stray))?;
            if let Verdict::Effective(after) = verdict {
                journal = after;
            }
        }
        heads.finish().map_err(|stray| (log.len(), stray))?;
        Ok(journal.index.0 as usize)
    }

    #[test]
    fn what_was_computed_on_a_refused_entry_is_void_and_no_fault() {
        let mut void_count = 0;
        for seed in 0..200 {
            let log = log(&mut StdRng::seed_from_u64(seed), 40);
            let effective = taken(&log).unwrap_or_else(|stray| panic!("seed {seed}: {stray:?}"));
            void_count += log.len() - effective;
        }
        assert!(1000 < void_count, "some entries were computed on a refused one: {void_count}");
    }

    #[test]
    fn a_changed_entry_is_noticed_at_the_next_one_and_a_removed_one_before_much_has_followed() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut log = log(&mut random, 120);
            let mut journal = genesis();
            let mut effective = Vec::new();
            for (at, entry) in log.iter().enumerate() {
                if let Ok(Verdict::Effective(after)) = journal.judge(entry) {
                    effective.push((at, journal));
                    journal = after;
                }
            }
            let (at, before) = effective[random.random_range(0..effective.len() / 4)];
            let is_removed = random.random_bool(0.5);
            if is_removed {
                log.remove(at);
            } else {
                log[at] = entry_on(&before, &mut random);
            }
            let (_, stray) = taken(&log).expect_err("an entry of unknown origin is noticed");
            assert!(before.index < stray.index, "seed {seed}: {stray:?}");
            let is_next_effective = stray.index == before.index.next().next();
            assert!(is_removed || is_next_effective, "seed {seed}: a change is noticed at once: {stray:?}");
        }
    }

    #[test]
    fn an_entry_that_was_removed_or_moved_is_noticed_however_few_follow() {
        let mut random = StdRng::seed_from_u64(1);
        let (mut journal, mut log) = (genesis(), Vec::new());
        for _ in 0..100 {
            let entry = entry_on(&journal, &mut random);
            journal = after(&journal, &entry);
            log.push(entry);
        }
        for at in 0..99 {
            let mut removed = log.clone();
            removed.remove(at);
            let mut moved = log.clone();
            moved.swap(at, at + 1);
            for (what, log) in [("removed", removed), ("moved", moved)] {
                // The last one that stands before its parent has no effect, as if the end were cut off.
                if what == "moved" && at == 98 {
                    continue;
                }
                let (_, stray) = taken(&log).expect_err("it is noticed");
                assert_eq!(stray.index, JournalIndex(at as u64 + 2), "entry {} was {what}", at + 1);
            }
        }
        log.pop();
        assert_eq!(taken(&log), Ok(99), "nobody sees from a journal alone that its end was cut off");
    }
}
