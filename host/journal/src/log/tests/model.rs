//! Random calls are compared with a map. After each call the log says what the map says, even after it was closed and
//! opened again.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::log::Vote;

#[derive(Clone, Debug)]
enum Call {
    Append { count: u64, size: usize },
    Truncate { keep_percent: usize },
    Purge { percent: usize },
    Cut { percent: usize },
    PurgeBeyond,
    Commit { percent: usize },
    Vote,
    Reopen,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => (1..6_u64, 0..3000_usize).prop_map(|(count, size)| Call::Append { count, size }),
        2 => (0..=100_usize).prop_map(|keep_percent| Call::Truncate { keep_percent }),
        2 => (0..=100_usize).prop_map(|percent| Call::Purge { percent }),
        1 => Just(Call::PurgeBeyond),
        1 => (0..=100_usize).prop_map(|percent| Call::Cut { percent }),
        3 => (0..=100_usize).prop_map(|percent| Call::Commit { percent }),
        1 => Just(Call::Vote),
        2 => Just(Call::Reopen),
    ]
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<u64, LogEntry>,
    purged: Option<EntryId>,
    vote: Option<Vote>,
    term: u64,
    committed: Option<EntryId>,
}

impl Model {
    fn last(&self) -> Option<EntryId> {
        self.entries.values().next_back().map(|entry| entry.id).or(self.purged)
    }

    /// The id at some share of the entries.
    fn at(&self, percent: usize) -> Option<EntryId> {
        self.entries.values().nth(self.entries.len() * percent / 101).map(|entry| entry.id)
    }

    fn call(&mut self, log: &mut Log, disk: &SimDisk, call: &Call) {
        match call {
            Call::Append { count, size } => {
                let next = self.last().map_or(0, |last| last.index.0 + 1);
                let entries: Vec<_> = (next..next + count).map(|index| entry_of(self.term, index, *size)).collect();
                self.entries.extend(entries.iter().map(|entry| (entry.id.index.0, entry.clone())));
                append(log, entries).expect("accepted");
            }
            Call::Truncate { keep_percent } => {
                let committed = self.committed.filter(|id| self.entries.contains_key(&id.index.0));
                let kept = self.at(*keep_percent).into_iter().chain(committed).max_by_key(|id| id.index);
                let last = kept.or(self.purged);
                self.entries.retain(|index, _| last.is_some_and(|last| *index <= last.index.0));
                self.term += 1;
                log.truncate_after(last).expect("accepted");
            }
            Call::Purge { percent } => {
                let Some(upto) = self.at(*percent) else { return };
                self.purge(log, upto);
            }
            Call::Cut { percent } => {
                let Some(last) = self.at(*percent) else { return };
                self.entries.retain(|index, _| *index <= last.index.0);
                self.committed = self.committed.map(|committed| committed.min(last));
                self.term += 1;
                log.cut_after(last).expect("it is there");
            }
            Call::PurgeBeyond => {
                let upto = id(self.term, self.last().map_or(0, |last| last.index.0) + 3);
                self.purge(log, upto);
            }
            Call::Commit { percent } => {
                let Some(committed) = self.at(*percent).filter(|id| self.committed < Some(*id)) else { return };
                self.committed = Some(committed);
                log.save_committed(committed);
            }
            Call::Vote => {
                let vote = Vote { term: Term(self.term), node: None, committed: false };
                self.vote = Some(vote);
                block_on(log.save_vote(vote)).expect("saved");
            }
            Call::Reopen => {
                log.close().expect("closes");
                *log = opened(disk);
                assert_eq!(log.durable(), self.last());
            }
        }
    }

    fn purge(&mut self, log: &Log, upto: EntryId) {
        self.entries.retain(|index, _| upto.index.0 < *index);
        self.purged = Some(upto);
        log.purge(upto).expect("accepted");
    }

    fn check(&self, log: &Log) {
        assert_eq!(all(log), self.entries.values().cloned().collect::<Vec<_>>());
        assert_eq!((log.last(), log.last_purged(), log.vote()), (self.last(), self.purged, self.vote));
        let mut starts: Vec<EntryId> = Vec::new();
        for entry in self.entries.values() {
            if starts.last().is_none_or(|start| start.term != entry.id.term) {
                starts.push(entry.id);
            }
        }
        assert_eq!(log.term_starts(), starts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_is_a_map_with_an_end(calls in proptest::collection::vec(call(), 1..60)) {
        let disk = SimDisk::new();
        let mut log = opened(&disk);
        let mut model = Model::default();
        for call in &calls {
            model.call(&mut log, &disk, call);
            model.check(&log);
        }
        log.close().expect("closes");
        scan(&disk).expect("a journal of any calls is intact");
    }
}
