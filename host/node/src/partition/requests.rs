//! What somebody asks of the executor, with the way back for the reply.
//!
//! In: a question or an order, and who waits. Out: the same; a request that is dropped tells the one who waits to ask
//! again. This file does not know what is done about a request, nor who tells its sender.

use std::path::PathBuf;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::features;
use crate::ids::JournalIndex;
use crate::limits;
use crate::machine::entry::Activation;
use crate::machine::journal::Journal;
use crate::partition::error::PartitionError;
use crate::saga::{Order, OrderRefused};
use crate::snapshot::canonical::ListedFile;
use crate::store::{Meta, StoreError};

/// An activation that somebody waits for.
pub struct ActivationRequest {
    pub activation: Activation,
    pub reply: oneshot::Sender<Result<Journal, String>>,
}

/// A request for state and ids in this folder, as they are between two entries. Both writers reply.
pub struct CheckpointRequest {
    pub folder: PathBuf,
    pub state: oneshot::Sender<Result<Option<Meta>, StoreError>>,
    pub ids: oneshot::Sender<Result<JournalIndex, StoreError>>,
}

/// A request for a canonical snapshot.
pub struct SnapshotRequest {
    /// Taken by the first `tell`. The receiver may have stopped waiting.
    reply: Option<oneshot::Sender<Result<ListedFile, PartitionError>>>,
    /// One of the [`limits::SNAPSHOTS_ASKED_MAX`] places. It is held until the file is made, however many attempts that
    /// takes.
    _place: OwnedSemaphorePermit,
}

impl SnapshotRequest {
    pub fn new(reply: oneshot::Sender<Result<ListedFile, PartitionError>>, place: OwnedSemaphorePermit) -> Self {
        Self { reply: Some(reply), _place: place }
    }

    pub fn tell(&mut self, made: Result<ListedFile, PartitionError>) {
        if let Some(reply) = self.reply.take() {
            drop(reply.send(made));
        }
    }
}

/// An order, and the operator who waits for it.
pub struct Ordered {
    pub order: Order,
    pub reply: oneshot::Sender<Result<JournalIndex, NotOrdered>>,
}

/// Why an order is not recorded. It has no effect, now or later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOrdered {
    #[error("this node does not lead the partition")]
    NotLeading,
    #[error("no command with this id is in flight there")]
    NotInFlight,
    #[error(transparent)]
    Refused(#[from] OrderRefused),
    #[error(
        "the cluster is at feature level {found}, and orders need level {expected}: wait until every node runs a \
         release that supports it"
    )]
    Level { expected: features::FeatureLevel, found: features::FeatureLevel },
    #[error("{} orders wait in this partition already; ask again in a moment", limits::ORDERS_WAITING_MAX)]
    Overloaded,
}
