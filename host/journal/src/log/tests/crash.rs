//! Power cuts at any operation of the disk, with many seeds: what was acknowledged survives, and nothing is half there.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::sealing::without_seals;
use super::*;
use crate::log::Vote;

/// The content of a log, as a caller sees it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    entries: Vec<LogEntry>,
    purged: Option<EntryId>,
    vote: Option<Vote>,
}

impl Content {
    fn of(log: &Log) -> Self {
        Self { entries: all(log), purged: log.last_purged(), vote: log.vote() }
    }

    fn in_short(&self) -> String {
        let ids: Vec<String> = self.entries.iter().map(|entry| entry.id.to_string()).collect();
        let (purged, vote) = (self.purged.map(|id| id.index.0), self.vote.map(|vote| vote.term.0));
        format!("{}; purged {purged:?}, vote {vote:?}", ids.join(" "))
    }
}

/// The states after each step, and the last step that was acknowledged.
struct History {
    states: Vec<Content>,
    acknowledged: usize,
    term: u64,
    /// The last index that was reported committed. Nothing up to it is truncated.
    committed: Option<LogIndex>,
}

impl History {
    /// Makes one random step. Returns false once the disk is off.
    fn step(&mut self, log: &Log, random: &mut StdRng) -> bool {
        let step = self.states.len();
        let mut content = self.states[step - 1].clone();
        let last = log.last();
        let mut durable = None;
        match random.random_range(0..10) {
            0 => {
                let vote = Vote { term: Term(step as u64), node: Some(NodeId(7)), committed: random.random() };
                content.vote = Some(vote);
                self.states.push(content);
                let saved = block_on(log.save_vote(vote)).is_ok();
                self.acknowledged = if saved { step } else { self.acknowledged };
                return saved;
            }
            1 if 2 < content.entries.len() => {
                let committed = content.entries.iter().filter(|entry| Some(entry.id.index) <= self.committed).count();
                content.entries.truncate(random.random_range(1..content.entries.len()).max(committed));
                self.term += 1;
                if log.truncate_after(content.entries.last().map(|entry| entry.id)).is_err() {
                    return false;
                }
            }
            2 if 4 < content.entries.len() => {
                let purged = content.entries[random.random_range(0..3)].id;
                content.entries.retain(|entry| purged.index < entry.id.index);
                content.purged = Some(purged);
                if log.purge(purged).is_err() {
                    return false;
                }
            }
            // This deletes files, and changes nothing else.
            3 => return log.release().is_ok(),
            _ => {
                let next = last.map_or(0, |last| last.index.0 + 1);
                let count = random.random_range(1..4);
                let size = random.random_range(0..1500);
                let entries: Vec<_> = (next..next + count).map(|index| entry_of(self.term, index, size)).collect();
                content.entries.extend(entries.clone());
                let Ok(receiver) = append(log, entries) else { return false };
                durable = Some(receiver);
            }
        }
        self.states.push(content);
        let committed = content_committed(&self.states[self.states.len() - 1], random);
        if let Some(committed) = committed.filter(|committed| self.committed < Some(committed.index)) {
            self.committed = Some(committed.index);
            log.save_committed(committed);
        }
        if let Some(durable) = durable.filter(|_| random.random_bool(0.5)) {
            let is_durable = durable.recv().expect("the callback is called").is_ok();
            self.acknowledged = if is_durable { step } else { self.acknowledged };
            return is_durable;
        }
        true
    }
}

/// Runs three times in a row on a disk that goes off, and checks what each opening finds. Returns the number of sealed
/// segments that it found.
fn check(seed: u64) -> usize {
    let mut sealed_count = 0;
    let mut random = StdRng::seed_from_u64(seed);
    let mut disk = SimDisk::new();
    let mut content = Content::default();
    for _ in 0..3 {
        disk.crash_after(random.random_range(1..200));
        let term = 1 + content_term(&content);
        let mut history = History { states: vec![content.clone()], acknowledged: 0, term, committed: None };
        if let Ok(log) = open(&disk) {
            history.committed = log.committed().map(|committed| committed.index);
            assert_eq!(Content::of(&log), content, "seed {seed}: opening alone changes nothing");
            while history.step(&log, &mut random) {}
        }
        disk = if random.random_bool(0.8) { disk.crash(random.random()) } else { disk.kill() };
        // The content that opening finds without any seal is the reference.
        let plain = without_seals(&disk);
        let plain = open(&plain).unwrap_or_else(|error| panic!("seed {seed}, without seals: {}", error.reason()));
        let log = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {}", error.reason()));
        sealed_count += log.sealed_segments().len();
        content = Content::of(&log);
        assert_eq!(content, Content::of(&plain), "seed {seed}");
        assert_eq!((log.term_starts(), log.durable()), (plain.term_starts(), plain.durable()), "seed {seed}");
        let hash = content.entries.last().map(|last| (log.hash_of(last.id), plain.hash_of(last.id)));
        assert!(hash.is_none_or(|(found, expected)| found.expect("readable") == expected.expect("readable")));
        let candidates = &history.states[history.acknowledged..];
        let steps: Vec<String> = history.states.iter().map(Content::in_short).collect();
        assert!(
            candidates.contains(&content),
            "seed {seed}: {} is none of the states after step {}: {steps:#?}",
            content.in_short(),
            history.acknowledged
        );
        assert!(log.committed().map(|id| id.index) <= log.last().map(|id| id.index), "seed {seed}");
    }
    sealed_count
}

fn content_committed(content: &Content, random: &mut StdRng) -> Option<EntryId> {
    let count = content.entries.len();
    (0 < count).then(|| content.entries[random.random_range(count / 2..count)].id)
}

fn content_term(content: &Content) -> u64 {
    content.entries.last().map_or(0, |entry| entry.id.term.0).max(content.purged.map_or(0, |id| id.term.0))
}

#[test]
fn what_was_acknowledged_survives_any_power_cut() {
    let sealed_count: usize = (0..700).map(check).sum();
    assert!(700 < sealed_count, "{sealed_count}");
}

/// The process is killed at any operation of the first two segments; then the power is cut. A killed process may have
/// named a segment without syncing the folder. The next process used not to sync it either, so the name was lost, and
/// with it everything acknowledged since.
#[test]
fn what_is_acknowledged_after_a_kill_survives_a_power_cut() {
    let vote = Vote { term: Term(2), node: Some(NodeId(7)), committed: true };
    // The thread that prepares a spare syncs the folder some time after opening. So there is no room for a spare, and
    // no second attempt.
    let size = options().segment_bytes_min;
    let options = LogOptions { spare_retry: Duration::from_secs(3600), ..options() };
    let open = |disk: &SimDisk| Log::open(Arc::new(disk.clone()), dir(), options.clone());
    let mut operations = 0;
    let mut is_killed = true;
    while is_killed {
        let first = SimDisk::new();
        first.set_capacity(Some(3 * size));
        first.crash_after(operations);
        is_killed = open(&first).and_then(|log| fill_two_segments(&log)).is_err();
        let killed = first.kill();
        killed.set_capacity(Some(size));
        for seed in 0..16 {
            let disk = killed.copy();
            let log = open(&disk).expect("the log opens");
            block_on(log.save_vote(vote)).expect("a vote has room kept for it");
            let acknowledged = Content::of(&log);
            let found = Content::of(&open(&disk.crash(seed)).expect("the log opens"));
            assert_eq!(found, acknowledged, "killed after {operations} operations, seed {seed}");
        }
        operations += 1;
    }
}

fn fill_two_segments(log: &Log) -> Result<(), LogError> {
    for index in 0..7 {
        append(log, vec![entry_of(1, index, 3000)])?.recv().expect("the callback is called")?;
    }
    Ok(())
}
