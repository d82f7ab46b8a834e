//! The kit of this folder's tests: a partition that only remembers, groups on a real or a simulated disk, and bounded
//! waits.
//!
//! Nothing here sleeps: a test waits for a state, and fails if that takes longer than [`PATIENCE`].

mod cluster;
mod disk;
mod formats;
mod fuzz;
mod group;
mod storage;
mod suite;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::{Applier, ApplierError, CommittedValue, ConsensusError, Group, GroupOptions, Leadership, Snapshot};
use crate::ids::{LogIndex, NodeId, Term};
use crate::log::{EntryId, LogEntry, Payload};

/// Far longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const ME: NodeId = NodeId(7);

async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("what was waited for did not happen")
}

/// The memory of a [`Partition`].
#[derive(Clone, Debug, Default)]
struct Memory {
    entries: Vec<LogEntry>,
    applied: Option<EntryId>,
    membership: Option<Bytes>,
    snapshot: Option<Snapshot>,
    halted: bool,
}

/// A partition without rules: it remembers the entries that it took. Clones share the memory.
#[derive(Clone)]
struct Partition(Arc<watch::Sender<Memory>>);

impl Partition {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Memory::default())))
    }

    /// A partition whose state, after a restart, reaches up to `applied`.
    fn at(applied: Option<EntryId>, membership: Option<Bytes>) -> Self {
        let partition = Self::new();
        partition.0.send_modify(|memory| (memory.applied, memory.membership) = (applied, membership));
        partition
    }

    fn memory(&self) -> Memory {
        self.0.borrow().clone()
    }

    /// From now on the partition takes nothing.
    fn halt(&self) {
        self.0.send_modify(|memory| memory.halted = true);
    }

    fn contents(&self) -> Vec<Bytes> {
        let entries = self.memory().entries;
        entries
            .into_iter()
            .filter_map(|entry| if let Payload::Entry(bytes) = entry.payload { Some(bytes) } else { None })
            .collect()
    }

    /// Waits until it has taken the entry with this index.
    async fn taken(&self, index: LogIndex) {
        let mut memory = self.0.subscribe();
        let taken = memory.wait_for(|memory| memory.applied.is_some_and(|applied| index <= applied.index));
        soon(taken).await.expect("the partition holds the sender");
    }
}

impl Applier for Partition {
    fn applied(&self) -> (Option<EntryId>, Option<Bytes>) {
        let memory = self.memory();
        (memory.applied, memory.membership)
    }

    async fn apply(&mut self, entries: Vec<CommittedValue<LogEntry>>) -> Result<(), ApplierError> {
        if self.memory().halted {
            return Err(ApplierError::Halted { reason: "the digests differ".to_owned() });
        }
        self.0.send_modify(|memory| {
            for entry in entries.into_iter().map(CommittedValue::into_inner) {
                memory.applied = Some(entry.id);
                if let Payload::Membership(bytes) = &entry.payload {
                    memory.membership = Some(bytes.clone());
                }
                memory.entries.push(entry);
            }
        });
        Ok(())
    }

    async fn build_snapshot(&mut self) -> Result<Snapshot, ApplierError> {
        let Memory { applied, membership, .. } = self.memory();
        let snapshot = Snapshot { last: applied, membership, offer: Arc::new(Bytes::from("snapshot")) };
        self.0.send_modify(|memory| memory.snapshot = Some(snapshot.clone()));
        Ok(snapshot)
    }

    async fn install_snapshot(&mut self, snapshot: Snapshot) -> Result<(), ApplierError> {
        self.0.send_modify(|memory| {
            (memory.applied, memory.membership) = (snapshot.last, snapshot.membership.clone());
            memory.snapshot = Some(snapshot);
        });
        Ok(())
    }

    fn current_snapshot(&self) -> Option<Snapshot> {
        self.memory().snapshot
    }
}

async fn wait_for(group: &Group, mut reached: impl FnMut(&Leadership) -> bool) -> Leadership {
    soon(group.leadership().wait_for(|leadership| reached(leadership)))
        .await
        .expect("the last value is Stopped")
        .clone()
}

/// Waits until `group` leads, and returns its term.
async fn leads(group: &Group) -> Term {
    match wait_for(group, |leadership| matches!(leadership, Leadership::Leader { .. })).await {
        Leadership::Leader { term } => term,
        other => panic!("it was just seen leading: {other:?}"),
    }
}

fn entry(term: u64, index: u64, content: &'static [u8]) -> LogEntry {
    LogEntry { id: id(term, index), payload: Payload::Entry(Bytes::from_static(content)) }
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term: Term(term), node: ME, index: LogIndex(index) }
}
