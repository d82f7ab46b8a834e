//! The place in the log of each journal entry. Places are kept as runs in which both numbers rise by one, so a leader's
//! whole term costs one run.
//!
//! ```text
//! log      1 blank   2 3 4   5 void   6 7 8 …
//! journal            1 2 3            4 5 6 …      runs: (1 ↦ 2, 3 long) (4 ↦ 6, …)
//! ```
//! In: effective entries only; a new one when it is judged, older ones in descending order. Out: the exact index in the
//! log. What is committed never moves, so nothing here is ever corrected. This file reads nothing and knows no entry.

use std::collections::VecDeque;

use crate::ids::{JournalIndex, LogIndex};

/// The places of all effective entries, from the first one known to the newest.
pub struct Places {
    /// INVARIANT: each run begins with the journal index after the end of the one before; the last one ends before
    /// `next`.
    runs: VecDeque<Run>,
    /// The journal index of the next new entry.
    next: JournalIndex,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    journal: JournalIndex,
    log: LogIndex,
    count: u64,
}

impl Run {
    fn next(&self) -> (JournalIndex, LogIndex) {
        (JournalIndex(self.journal.0 + self.count), LogIndex(self.log.0 + self.count))
    }
}

impl Places {
    /// Nothing is known up to `newest`.
    pub fn after(newest: JournalIndex) -> Self {
        Self { runs: VecDeque::new(), next: newest.next() }
    }

    /// Notes the place of the journal's next entry. Returns whether it began a run.
    pub fn append(&mut self, journal: JournalIndex, log: LogIndex) -> bool {
        assert_eq!(journal, self.next, "effective entries come in order");
        self.next = journal.next();
        match self.runs.back_mut() {
            Some(last) if last.next() == (journal, log) => {
                last.count += 1;
                false
            }
            last => {
                assert!(last.is_none_or(|last| last.next().1 <= log), "the log runs ahead of the journal");
                self.runs.push_back(Run { journal, log, count: 1 });
                true
            }
        }
    }

    /// Notes the place of the entry before the first one known. Returns `false` if it is no longer that one, because
    /// entries in between were forgotten.
    pub fn prepend(&mut self, journal: JournalIndex, log: LogIndex) -> bool {
        if journal.next() != self.first() {
            return false;
        }
        match self.runs.front_mut() {
            Some(first) if first.log == log.next() => {
                first.journal = journal;
                first.log = log;
                first.count += 1;
            }
            first => {
                assert!(first.is_none_or(|first| log < first.log), "the log runs ahead of the journal");
                self.runs.push_front(Run { journal, log, count: 1 });
            }
        }
        true
    }

    /// The first entry whose place is known; if none is, the next one to come.
    fn first(&self) -> JournalIndex {
        self.runs.front().map_or(self.next, |first| first.journal)
    }

    pub fn find(&self, journal: JournalIndex) -> Option<LogIndex> {
        let after = self.runs.partition_point(|run| run.journal <= journal);
        let run = &self.runs[after.checked_sub(1)?];
        let offset = run.journal.distance_to(journal);
        (offset < run.count).then(|| LogIndex(run.log.0 + offset))
    }

    /// The first known entry that stands after this place.
    pub fn first_after(&self, log: LogIndex) -> JournalIndex {
        let run = self.runs.partition_point(|run| run.next().1 <= log.next());
        let Some(run) = self.runs.get(run) else { return self.next };
        let skipped = if run.log <= log { run.log.distance_to(log) + 1 } else { 0 };
        JournalIndex(run.journal.0 + skipped)
    }

    /// Forgets the runs that end at this place or before it.
    pub fn forget_upto(&mut self, log: LogIndex) {
        while self.runs.front().is_some_and(|run| run.next().1 <= log.next()) {
            self.runs.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Some entries, each some places of the log after the one before.
    fn model(random: &mut StdRng) -> BTreeMap<u64, u64> {
        let mut log = 0;
        let mut place = |journal| {
            log += if random.random_bool(0.2) { random.random_range(2..5) } else { 1 };
            (journal, log)
        };
        (1..=200).map(&mut place).collect()
    }

    fn check(places: &Places, expected: &BTreeMap<u64, u64>) {
        for journal in 0..=210 {
            let found = places.find(JournalIndex(journal)).map(|log| log.0);
            assert_eq!(found, expected.get(&journal).copied(), "entry {journal}");
        }
        let end = expected.values().last().copied().unwrap_or_default();
        for log in 0..=end {
            let after = expected.iter().find(|(_, at)| log < **at).map_or(places.next.0, |(journal, _)| *journal);
            assert_eq!(places.first_after(LogIndex(log)).0, after, "after place {log}");
        }
    }

    #[test]
    fn places_are_those_that_were_told_from_either_end_and_what_is_forgotten_stays_so() {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..50 {
            let mut expected = model(&mut random);
            let opened = random.random_range(0..=200);
            let mut places = Places::after(JournalIndex(opened));
            let (mut back, mut forth) = (opened, opened);
            while 0 < back || forth < 200 {
                if forth < 200 && (back == 0 || random.random_bool(0.5)) {
                    forth += 1;
                    places.append(JournalIndex(forth), LogIndex(expected[&forth]));
                } else {
                    assert!(places.prepend(JournalIndex(back), LogIndex(expected[&back])));
                    back -= 1;
                }
            }
            check(&places, &expected);
            let breaks = expected.values().zip(expected.values().skip(1)).filter(|(a, b)| **a + 1 < **b).count();
            assert_eq!(places.runs.len(), breaks + 1, "a run for each break");

            let end = random.random_range(0..expected[&200] + 3);
            places.forget_upto(LogIndex(end));
            let first = places.first().0;
            assert!(expected.iter().all(|(journal, log)| first <= *journal || *log <= end), "none that is needed");
            let before = first.checked_sub(2).map(JournalIndex);
            assert!(before.is_none_or(|before| !places.prepend(before, LogIndex(0))), "there would be a hole");
            expected.retain(|journal, _| first <= *journal);
            check(&places, &expected);
        }
    }

    #[test]
    fn a_journal_of_which_everything_is_forgotten_goes_on() {
        let mut places = Places::after(JournalIndex(0));
        assert!(places.append(JournalIndex(1), LogIndex(5)));
        assert!(!places.append(JournalIndex(2), LogIndex(6)));
        places.forget_upto(LogIndex(6));
        assert_eq!((places.find(JournalIndex(2)), places.first_after(LogIndex(6))), (None, JournalIndex(3)));
        assert!(!places.prepend(JournalIndex(1), LogIndex(5)));
        assert!(places.append(JournalIndex(3), LogIndex(9)));
        assert_eq!(places.find(JournalIndex(3)), Some(LogIndex(9)));
    }
}
