//! Damage of a log that the other nodes can repair: bytes are damaged, the end is lost, or nobody can say whether it is
//! lost.
//!
//! In: why a partition was not opened. Out: the damaged log, what else is known about what it held, and what an
//! operator may do about it. It does not know how a log is repaired.

use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::ids::Term;
use crate::log::{DamagedLog, EntryId, LogError, LogOptions};
use crate::partition::{Loss, PartitionError, Witness};
use crate::peer::GroupName;
use crate::system::context::NodeContext;

/// What is wrong with a log in a way that other nodes can help with.
#[derive(Clone, Debug)]
pub enum LogDamage {
    /// Bytes of it cannot be read.
    Corrupt,
    /// The log is sound in itself, but ends before what it held.
    Forgot(Loss),
    /// The log is sound in itself, but nobody can say whether it ends before what it held.
    Unvouched,
}

impl LogDamage {
    /// # Errors
    /// The same error, if it is none that other nodes can help with.
    pub fn of(error: PartitionError) -> Result<Self, PartitionError> {
        match error {
            PartitionError::Log(LogError::Corrupt { .. }) => Ok(Self::Corrupt),
            PartitionError::Forgot(loss) => Ok(Self::Forgot(loss)),
            PartitionError::Unvouched => Ok(Self::Unvouched),
            error => Err(error),
        }
    }

    /// The last entry that this node is known to have applied, hence to have been committed.
    pub fn applied(&self) -> Option<EntryId> {
        let Self::Forgot(loss) = self else { return None };
        let state = |witness: &Witness| if let Witness::State(applied) = witness { Some(*applied) } else { None };
        loss.witnesses.iter().find_map(state)
    }

    /// The highest term in which this node is known to have voted.
    pub fn term_voted(&self) -> Term {
        let Self::Forgot(loss) = self else { return Term(0) };
        let voted = |witness: &Witness| if let Witness::Vote(vote) = witness { Some(vote.term) } else { None };
        loss.witnesses.iter().filter_map(voted).max().unwrap_or(Term(0))
    }

    pub fn examine(
        &self,
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: &LogOptions,
    ) -> Result<Option<DamagedLog>, LogError> {
        match self {
            Self::Corrupt => DamagedLog::examine(disk, dir, options),
            Self::Forgot(loss) => DamagedLog::forgotten(disk, dir, options, loss.to_string()).map(Some),
            Self::Unvouched => {
                let reason = PartitionError::Unvouched.to_string();
                DamagedLog::forgotten(disk, dir, options, reason).map(Some)
            }
        }
    }
}

/// What an operator may do about a partition that has lost entries, and what it would mean.
pub fn advice(context: &NodeContext, group: &GroupName) -> String {
    let others = context.others();
    let nodes: Vec<String> = others.iter().map(ToString::to_string).collect();
    let whom = match nodes.as_slice() {
        [] => "no other node has them".to_owned(),
        [node] => format!("node {node} may have them"),
        nodes => format!("nodes {} may have them", nodes.join(", ")),
    };
    let archive = match &context.opening.archive {
        Some(_) => {
            "; the archive has everything that was archived (`statehouse snapshot restore` makes a new node from \
             it)"
        }
        None => "",
    };
    let GroupName { machine, partition } = group;
    format!(
        "{whom}{archive}; put back what is missing, or, if it is gone for good, run `statehouse cluster \
         accept-loss {machine} {partition} --why …` with the --url of this node: what clients were told of it \
         then never happened, and is executed if it is sent again"
    )
}

/// What an operator may do about a partition that has two histories.
pub fn advice_divided(group: &GroupName, what: &str) -> String {
    let GroupName { machine, partition } = group;
    format!(
        "{what}: look at both with `statehouse audit log`, and choose one. On each node with the history that is \
         to continue, run `statehouse cluster accept-loss {machine} {partition} --why …`; remove the others from \
         the cluster, and add them under new ids"
    )
}
