//! Linearizable reads: they see everything that was acknowledged before the call, whichever node leads, and they belong
//! to the leader's history.
//!
//! ```text
//! here ─▶ leader: up to where? ─▶ a quorum confirms that it leads ─▶ log index, its entry, the log's hash up to it
//! here: wait until that is applied ─▶ the same entry under the same hash? ─▶ read
//! ```
//! In: a deadline. Out: a moment to read at. A replica serves nothing if it has another entry there, or other entries
//! before it. This file does not know what is read.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::consensus::ConsensusError;
use crate::ids::{LogIndex, NodeId, Term};
use crate::log::{EntryId, Log, LogError};
use crate::partition::error::PartitionError;
use crate::partition::handle::{Partition, ReadPoint};
use crate::peer::{Call, GroupPeers, Topic};
use crate::planted::{Bug, is_planted};

/// How long one question to a leader may take. After that the caller asks again, perhaps another leader.
const PATIENCE: Duration = Duration::from_secs(1);
/// The body of [`Topic::ReadIndex`] that asks for the entry as well. Nodes of earlier releases send no body, and answer
/// with the index alone.
const WITH_ENTRY: &[u8] = &[1];
const INDEX_BYTES: usize = size_of::<u64>();
/// Index, term, node and hash.
const ENTRY_BYTES: usize = 3 * INDEX_BYTES + 32;

/// The point up to which a read must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UpTo {
    index: LogIndex,
    /// The leader's entry there, and the hash of its log up to it.
    entry: Option<(EntryId, [u8; 32])>,
}

impl UpTo {
    fn of(log: &Log, index: LogIndex) -> Self {
        Self { index, entry: log.find_id(index).and_then(|id| Some((id, log.hash_of(id).ok()?))) }
    }

    fn encode(&self, asked: &[u8]) -> Bytes {
        let mut bytes = self.index.0.to_le_bytes().to_vec();
        if let Some((id, hash)) = self.entry.filter(|_| asked == WITH_ENTRY) {
            bytes.extend_from_slice(&id.term.0.to_le_bytes());
            bytes.extend_from_slice(&id.node.0.to_le_bytes());
            bytes.extend_from_slice(&hash);
        }
        bytes.into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + INDEX_BYTES)?.try_into().ok().map(u64::from_le_bytes);
        let index = LogIndex(number(0)?);
        match bytes.len() {
            INDEX_BYTES => Some(Self { index, entry: None }),
            ENTRY_BYTES => {
                let (term, node) = (number(INDEX_BYTES)?, number(2 * INDEX_BYTES)?);
                let hash = bytes[3 * INDEX_BYTES..].try_into().ok()?;
                Some(Self { index, entry: Some((EntryId { term: Term(term), node: NodeId(node), index }, hash)) })
            }
            _ => None,
        }
    }

    /// Whether a log has the same entry there, as far back as it reaches.
    fn is_in(&self, log: &Log) -> Result<bool, LogError> {
        let Some((id, hash)) = self.entry else { return Ok(true) };
        match log.find_id(id.index) {
            Some(own) => Ok(own == id && log.hash_of(own)? == hash),
            None => Ok(log.last_purged().is_some_and(|purged| id.index <= purged.index)),
        }
    }
}

impl Partition {
    /// Reads everything that was acknowledged before the call, whichever node leads.
    ///
    /// # Errors
    /// No leader answers before the deadline: [`PartitionError::NoLeader`], [`PartitionError::LeaderSilent`] or
    /// [`PartitionError::NoMajority`]. This replica's history differs from its leader's:
    /// [`PartitionError::TwoHistories`].
    pub async fn read_linearizable(&self, deadline: Instant) -> Result<ReadPoint, PartitionError> {
        if is_planted(Bug::BarrierSkipped) {
            return self.read_stale();
        }
        let mut missing = PartitionError::NoLeader;
        let found = tokio::time::timeout_at(deadline, self.find_up_to(&mut missing)).await;
        let (up_to, leader) = found.map_err(|_| missing)??;
        self.wait_applied(deadline, |progress| up_to.index <= progress.log_index).await?;
        if !up_to.is_in(&self.parts.log)? {
            return Err(PartitionError::TwoHistories { index: up_to.index, leader });
        }
        self.read_stale()
    }

    /// Asks the leader, repeatedly while there is none. `missing` becomes what is missing so far.
    async fn find_up_to(&self, missing: &mut PartitionError) -> Result<(UpTo, NodeId), PartitionError> {
        loop {
            match self.parts.group.read_barrier().await {
                Ok(index) => return Ok((UpTo { index, entry: None }, self.parts.group.node())),
                Err(ConsensusError::NotLeader { leader: Some(leader), .. }) => {
                    *missing = PartitionError::LeaderSilent(leader);
                    if let Some(up_to) = self.ask_up_to(leader).await {
                        return Ok((up_to, leader));
                    }
                }
                Err(ConsensusError::NotLeader { leader: None, .. }) => *missing = PartitionError::NoLeader,
                Err(ConsensusError::NoQuorum) => *missing = PartitionError::NoMajority,
                Err(error) => return Err(error.into()),
            }
            self.wait_for_change().await;
        }
    }

    async fn ask_up_to(&self, leader: NodeId) -> Option<UpTo> {
        let GroupPeers { network, group, .. } = &self.parts.peers;
        let body = Bytes::from_static(WITH_ENTRY);
        let call = Call { topic: Topic::ReadIndex, group: Some(group.clone()), body };
        UpTo::decode(&network.call(leader, call, PATIENCE).await.ok()?)
    }

    /// The answer to another node that asks for a read index.
    pub async fn answer_read_index(&self, asked: &[u8]) -> Result<Bytes, ConsensusError> {
        let index = self.parts.group.read_barrier().await?;
        Ok(UpTo::of(&self.parts.log, index).encode(asked))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::disk::SimDisk;
    use crate::ids::PartitionId;
    use crate::log::{LogEntry, LogOptions, Payload, StreamId};

    fn entry(term: u64, index: u64) -> LogEntry {
        let id = EntryId { term: Term(term), node: NodeId(1), index: LogIndex(index) };
        LogEntry { id, payload: Payload::Entry(format!("{term} {index}").into_bytes().into()) }
    }

    fn log(entries: &[LogEntry]) -> Log {
        let options = LogOptions::new(StreamId::new("wallet", PartitionId(0)).expect("a machine's name"));
        let log = Log::open(Arc::new(SimDisk::new()), Path::new("/log"), options).expect("it is new");
        log.append(entries.to_vec(), Box::new(|_| {})).expect("there is room");
        log
    }

    #[test]
    fn what_a_leader_answers_is_read_as_it_was_meant_by_old_and_new() {
        let leader = UpTo::of(&log(&[entry(1, 0), entry(2, 1)]), LogIndex(1));
        assert_eq!(UpTo::decode(&leader.encode(WITH_ENTRY)), Some(leader));
        let index_alone = leader.encode(&[]);
        assert_eq!(index_alone.len(), INDEX_BYTES, "a node of before reads no more");
        assert_eq!(UpTo::decode(&index_alone), Some(UpTo { entry: None, ..leader }));
        for len in (0..ENTRY_BYTES).filter(|len| *len != INDEX_BYTES) {
            assert_eq!(UpTo::decode(&leader.encode(WITH_ENTRY)[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn a_read_is_of_the_history_that_is_led() {
        let leader = UpTo::of(&log(&[entry(1, 0), entry(2, 1)]), LogIndex(1));
        assert!(leader.is_in(&log(&[entry(1, 0), entry(2, 1), entry(2, 2)])).expect("it can be read"));
        assert!(!leader.is_in(&log(&[entry(1, 0), entry(1, 1)])).expect("it can be read"), "another entry");
        assert!(
            !leader.is_in(&log(&[entry(2, 0), entry(2, 1)])).expect("it can be read"),
            "the same entry after another one"
        );
        assert!(!leader.is_in(&log(&[entry(1, 0)])).expect("it can be read"), "no entry, and none released");
        let released = log(&[entry(1, 0), entry(2, 1), entry(2, 2)]);
        released.purge(entry(2, 1).id).expect("it is there");
        assert!(leader.is_in(&released).expect("it can be read"));
        assert!(
            UpTo { entry: None, ..leader }.is_in(&log(&[])).expect("it can be read"),
            "of a leader of before nothing is known"
        );
    }
}
