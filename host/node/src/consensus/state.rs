//! openraft's state machine over the partition's [`Applier`]: turns what openraft reports as committed into
//! [`CommittedValue`] entries.
//!
//! It checks that no entry arrives twice. It notes the blank entry with which a leader begins once the partition has
//! it; only then is the leadership announced. It knows nothing of rows.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder, SnapshotMeta};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::applier::AnyApplier;
use super::model::{self, Model, RaftLogId, RaftStoredMembership};
use super::{ApplierError, CommittedValue, ConsensusError, Snapshot};
use crate::log::{EntryId, LogEntry, Payload};

/// The most entries that are handed to the partition in one call. The next constant is the most bytes.
const APPLY_ENTRIES_MAX: usize = 1024;
const APPLY_BYTES_MAX: usize = 4 << 20;

pub(super) struct GroupStateMachine {
    /// It is never locked: the mutex only makes it `Sync`, which openraft requires.
    applier: Mutex<Box<dyn AnyApplier>>,
    applied: Option<EntryId>,
    membership: RaftStoredMembership,
    /// The newest blank entry that the partition has taken.
    blank: watch::Sender<Option<EntryId>>,
}

impl GroupStateMachine {
    pub(super) fn new(applier: Box<dyn AnyApplier>) -> Result<Self, ConsensusError> {
        let (applied, membership) = applier.applied();
        let membership = model::stored_membership(membership.as_ref())?;
        Ok(Self { applier: Mutex::new(applier), applied, membership, blank: watch::Sender::new(None) })
    }

    pub(super) fn applied(&self) -> Option<EntryId> {
        self.applied
    }

    pub(super) fn blank(&self) -> watch::Receiver<Option<EntryId>> {
        self.blank.subscribe()
    }

    /// Checks that an entry is later than the one before. Holes are detected where entries are read; openraft's suite
    /// applies entries with holes on purpose.
    fn check_later(before: Option<EntryId>, entry: EntryId) -> io::Result<()> {
        if before.is_none_or(|before| before < entry && before.index < entry.index) {
            return Ok(());
        }
        let again = format!("entry {entry} does not come after applied entry {before:?}");
        Err(io::Error::new(io::ErrorKind::InvalidData, again))
    }

    async fn hand_over(&mut self, chunk: ApplyChunk) -> io::Result<()> {
        let Some(last) = chunk.entries.last().map(|entry| entry.get().id) else { return Ok(()) };
        let blank = chunk.entries.iter().rev().map(CommittedValue::get).find(|entry| entry.payload == Payload::Blank);
        let blank = blank.map(|entry| entry.id);
        self.applier.get_mut().apply(chunk.entries).await.map_err(io_error)?;
        self.applied = Some(last);
        if let Some(membership) = chunk.membership {
            self.membership = membership;
        }
        if blank.is_some() {
            self.blank.send_replace(blank);
        }
        for responder in chunk.responders {
            responder.send(());
        }
        Ok(())
    }

    fn meta(snapshot: &Snapshot) -> io::Result<SnapshotMetaOf<Model>> {
        let last_membership = model::stored_membership(snapshot.membership.as_ref()).map_err(io::Error::other)?;
        Ok(SnapshotMeta { last_log_id: snapshot.last.map(model::log_id), last_membership })
    }
}

/// Entries on their way to the partition, and who waits for each.
#[derive(Default)]
struct ApplyChunk {
    entries: Vec<CommittedValue<LogEntry>>,
    responders: Vec<ApplyResponder<Model>>,
    membership: Option<RaftStoredMembership>,
    bytes: usize,
}

impl RaftStateMachine<Model> for GroupStateMachine {
    type SnapshotData = Arc<Bytes>;
    type SnapshotBuilder = BuiltSnapshot;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, RaftStoredMembership)> {
        Ok((self.applied.map(model::log_id), self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Model>>> + Unpin + OptionalSend,
    {
        let mut chunk = ApplyChunk::default();
        let mut before = self.applied;
        while let Some((entry, responder)) = entries.try_next().await? {
            let entry = model::log_entry(entry);
            Self::check_later(before, entry.id)?;
            before = Some(entry.id);
            if let Payload::Membership(bytes) = &entry.payload {
                chunk.membership = Some(model::stored_membership(Some(bytes)).map_err(io::Error::other)?);
            }
            chunk.bytes += entry.payload.size();
            chunk.responders.extend(responder);
            chunk.entries.push(CommittedValue::new(entry));
            if chunk.entries.len() >= APPLY_ENTRIES_MAX || chunk.bytes >= APPLY_BYTES_MAX {
                self.hand_over(std::mem::take(&mut chunk)).await?;
            }
        }
        self.hand_over(chunk).await
    }

    async fn get_snapshot_builder(&mut self) -> BuiltSnapshot {
        BuiltSnapshot(Some(self.applier.get_mut().build_snapshot().await))
    }

    /// An error of a builder stops the group for good. So openraft gets one only if there is a snapshot, or if it
    /// insists.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<BuiltSnapshot> {
        match self.applier.get_mut().build_snapshot().await {
            Err(_) if !force => None,
            built => Some(BuiltSnapshot(Some(built))),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Model>, offer: Arc<Bytes>) -> io::Result<()> {
        let last = meta.last_log_id.as_ref().map(model::entry_id);
        let membership = model::membership_bytes(&meta.last_membership);
        self.applier.get_mut().install_snapshot(Snapshot { last, membership, offer }).await.map_err(io_error)?;
        self.applied = last;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Model, Arc<Bytes>>>> {
        let Some(snapshot) = self.applier.get_mut().current_snapshot() else { return Ok(None) };
        Ok(Some(openraft::Snapshot { meta: Self::meta(&snapshot)?, snapshot: snapshot.offer }))
    }
}

/// A snapshot that exists before openraft asks for its builder. It is handed out once.
pub(super) struct BuiltSnapshot(Option<Result<Snapshot, ApplierError>>);

impl RaftSnapshotBuilder<Model> for BuiltSnapshot {
    type SnapshotData = Arc<Bytes>;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Model, Arc<Bytes>>> {
        let snapshot = self.0.take().unwrap_or(Err(ApplierError::NoSnapshots)).map_err(io_error)?;
        Ok(openraft::Snapshot { meta: GroupStateMachine::meta(&snapshot)?, snapshot: snapshot.offer })
    }
}

fn io_error(error: ApplierError) -> io::Error {
    io::Error::other(error)
}
