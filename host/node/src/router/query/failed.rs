//! Why a read failed, as the reader is told.
//!
//! In: an error of a partition. Out: an answer that says when to retry, or that the data is no longer here. It decides
//! nothing.

use crate::partition::PartitionError;
use crate::router::answer::{Obstacle, QueryError, UnavailableReason};
use crate::router::machine::unavailable;

/// The answer that a reader gets for a partition's error.
pub fn partition_error(error: PartitionError) -> QueryError {
    let reason = match error {
        PartitionError::Deadline => return QueryError::Deadline,
        PartitionError::Released { .. } => return QueryError::Released(error.to_string()),
        PartitionError::Archive(error) => {
            tracing::error!(%error, "what was released cannot be read in the archive");
            return QueryError::Released(format!(
                "it is only in the archive, which cannot be read now ({error}); ask again later"
            ));
        }
        PartitionError::OtherHistory(position) => return QueryError::Gone(position),
        PartitionError::Halted(_)
        | PartitionError::Log(_)
        | PartitionError::Store(_)
        | PartitionError::NoEntry(_)
        | PartitionError::TwoHistories { .. }
        | PartitionError::NotRendered { .. } => {
            tracing::error!(%error, "a read failed");
            UnavailableReason::Halted
        }
        PartitionError::NoLeader => UnavailableReason::NoLeader,
        PartitionError::LeaderSilent(_) => UnavailableReason::NotNow(Obstacle::LeaderSilent),
        PartitionError::NoMajority => UnavailableReason::NotNow(Obstacle::NoMajority),
        PartitionError::NotLeading => UnavailableReason::NotNow(Obstacle::LeadershipMoving),
        PartitionError::Consensus(_) => UnavailableReason::NotNow(Obstacle::Closed),
        PartitionError::NotHere(_) => UnavailableReason::NotNow(Obstacle::NotHere),
        // A running partition meets none of these.
        PartitionError::Folder { .. }
        | PartitionError::Thread(_)
        | PartitionError::NotClosed
        | PartitionError::Snapshot(_)
        | PartitionError::Canonical(_)
        | PartitionError::SnapshotsAsked
        | PartitionError::NotActivated { .. }
        | PartitionError::Forgot(_)
        | PartitionError::Unvouched
        | PartitionError::CannotRebuild { .. } => UnavailableReason::ShuttingDown,
    };
    QueryError::Unavailable(unavailable(reason))
}
