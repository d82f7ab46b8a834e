//! A journal from elsewhere becomes that of a partition: its entries are appended again, and applied as any follower
//! applies them.
//!
//! ```text
//! entries of an archive ─▶ proposed as they are ─▶ log, consensus ─▶ judged, applied, digest compared
//!                                                                       ─▶ state, ids, canonical snapshots
//! ```
//! In: effective entries in order. Out: a partition that stands at the last of them; its chain continues from that
//! head. Meanwhile the executor decides nothing of its own, so that nothing comes in between. This file does not know
//! where the entries come from.

use std::collections::VecDeque;

use crate::consensus::{ConsensusError, Leadership, Proposal};
use crate::ids::Term;
use crate::machine::entry::Entry;
use crate::machine::journal::Journal;
use crate::partition::error::PartitionError;
use crate::partition::handle::Partition;
use crate::partition::status::RunState;

/// What a replica does when it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leading {
    /// It admits commands, decides them and proposes entries.
    Decides,
    /// It applies what it is given, and proposes nothing of its own.
    Restores,
}

/// Bytes of entries that are proposed but not known to be committed.
const UNDER_WAY_BYTES_MAX: usize = 64 << 20;

impl Partition {
    /// Appends the entries, the first of which must continue the journal here; returns once all are applied. Only for a
    /// replica that [`Leading::Restores`] and is the only voter.
    ///
    /// # Errors
    /// The first error of `entries`. Or this partition computes something other than an entry says; that halts it.
    pub async fn append_again<E: From<PartitionError>>(
        &self,
        entries: impl Iterator<Item = Result<Entry, E>>,
    ) -> Result<Journal, E> {
        let term = self.term_led().await?;
        let mut under_way: VecDeque<(Proposal, usize)> = VecDeque::new();
        let (mut bytes, mut head) = (0, self.progress().journal.head);
        for entry in entries {
            let entry = entry?;
            assert_eq!(entry.header().parent, head, "effective entries, in order");
            head = entry.head_after();
            let payload = entry.payload().clone();
            bytes += payload.len();
            let size = payload.len();
            let proposed = self.group().propose(term, payload).await.map_err(PartitionError::from)?;
            under_way.push_back((proposed, size));
            while UNDER_WAY_BYTES_MAX < bytes
                && let Some((proposed, size)) = under_way.pop_front()
            {
                self.taken(proposed).await?;
                bytes -= size;
            }
        }
        while let Some((proposed, _)) = under_way.pop_front() {
            self.taken(proposed).await?;
        }
        let mut progress = self.parts.board.progress.subscribe();
        let mut state = self.parts.board.state.subscribe();
        let is_applied = tokio::select! {
            applied = progress.wait_for(|progress| progress.journal.head == head) => applied.is_ok(),
            _ = state.wait_for(|state| !matches!(state, RunState::Running)) => false,
        };
        if is_applied { Ok(self.progress().journal) } else { Err(self.not_running().into()) }
    }

    /// A halted executor takes nothing any more, and its reason is better than that of the group it stops.
    async fn taken(&self, proposed: Proposal) -> Result<(), PartitionError> {
        let taken = proposed.await;
        if !self.parts.board.is_running() {
            return Err(self.not_running());
        }
        Ok(taken.map(drop)?)
    }

    async fn term_led(&self) -> Result<Term, PartitionError> {
        let mut leadership = self.parts.group.leadership();
        let is_decided = |now: &Leadership| !matches!(now, Leadership::Follower { .. });
        match leadership.wait_for(is_decided).await.as_deref() {
            Ok(Leadership::Leader { term }) => Ok(*term),
            _ => Err(PartitionError::Consensus(ConsensusError::NoQuorum)),
        }
    }
}
