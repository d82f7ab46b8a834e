//! What clients of a run asked and were told, and when: all that the oracle knows of the clients.
//!
//! Moments come from one counter, so they order what clients of one process saw, which a clock could not do. This
//! file judges nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use statehouse_kernel::ids::{NodeId, Position};
use uuid::Uuid;

use crate::oracle::model::Protocol;

/// A moment before or after a request. A later moment was taken later, whichever client took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

#[derive(Debug, Default)]
pub struct Moments(AtomicU64);

impl Moments {
    pub fn next(&self) -> Moment {
        Moment(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

/// When a request was sent, and when its answer arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub invoked: Moment,
    pub returned: Moment,
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub id: Uuid,
    pub from: String,
    pub to: String,
    /// Minor units.
    pub amount: i128,
    pub by: Protocol,
}

/// What one answer told a client about its transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferAnswer {
    Done {
        position: Position,
    },
    Rejected {
        code: String,
        position: Position,
    },
    /// 422 without a record: the home partition knows the id of another command.
    Reused,
    /// 429, 503, 507: this request was certainly not accepted.
    NotAccepted,
    /// 504, or no answer.
    Unknown,
}

impl TransferAnswer {
    /// Where the answer says that the outcome is recorded.
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Done { position } | Self::Rejected { position, .. } => Some(*position),
            Self::Reused | Self::NotAccepted | Self::Unknown => None,
        }
    }
}

/// One request for a transfer. The same transfer may have been sent several times.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub transfer: Transfer,
    pub node: NodeId,
    pub span: Span,
    pub told: TransferAnswer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    Linearizable,
    /// The state may be old, but it existed.
    Stale,
}

/// An account as a node showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRead {
    pub account: String,
    pub node: NodeId,
    pub consistency: Consistency,
    pub span: Span,
    pub position: Position,
    pub version: u64,
    pub balance: i128,
}

/// All that was asked and answered in a run.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub attempts: Vec<Attempt>,
    pub reads: Vec<AccountRead>,
    /// The longest time without a successful write.
    pub gap_max: Duration,
}

impl Recording {
    /// Adds what another client saw.
    pub fn add(&mut self, other: Self) {
        self.attempts.extend(other.attempts);
        self.reads.extend(other.reads);
        self.gap_max = self.gap_max.max(other.gap_max);
    }

    /// The attempts that were refused because another command has their id, recorded or not.
    pub fn reused(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| match &attempt.told {
            TransferAnswer::Rejected { code, .. } => code == "id_reused",
            told => *told == TransferAnswer::Reused,
        })
    }

    /// One line for the test's output.
    pub fn summary(&self) -> String {
        let count = |is: fn(&TransferAnswer) -> bool| self.attempts.iter().filter(|attempt| is(&attempt.told)).count();
        let mut by_node: BTreeMap<NodeId, usize> = BTreeMap::new();
        for attempt in &self.attempts {
            *by_node.entry(attempt.node).or_default() += 1;
        }
        format!(
            "{} requests: {} done, {} rejected, {} with an id that was used, {} not accepted, {} unknown; \
             {} reads; by node {by_node:?}; \
             longest without a successful write: {:?}",
            self.attempts.len(),
            count(|told| matches!(told, TransferAnswer::Done { .. })),
            count(|told| matches!(told, TransferAnswer::Rejected { .. })),
            self.reused().count(),
            count(|told| matches!(told, TransferAnswer::NotAccepted)),
            count(|told| matches!(told, TransferAnswer::Unknown)),
            self.reads.len(),
            self.gap_max,
        )
    }
}
