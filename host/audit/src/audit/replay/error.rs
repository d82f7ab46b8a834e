//! Why a replay is inconclusive. What it *finds* is in its report.
//!
//! In: errors of the walks. Out: messages that say what to do. This file does not know what was compared.

use std::path::PathBuf;

use crate::audit::error::AuditError;
use crate::ids::{JournalIndex, ModuleId, PartitionId};
use crate::machine::decide::HostFault;
use crate::machine::replica::ApplyError;

/// No verdict can be given; exit code 3.
#[derive(Debug, thiserror::Error)]
pub enum ReplayFault {
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("the candidate is a module of the machine `{found}`, and the history is of `{expected}`")]
    OtherMachine { expected: String, found: String },
    #[error(
        "from entry {index} of partition {partition} on, the history has schema {schema}, which the candidate (schema \
         {candidate}) does not accept: add {schema} to its ACCEPTS and read what that schema recorded, or end the \
         replay before that with --to"
    )]
    Schema { partition: PartitionId, index: JournalIndex, schema: u32, candidate: u32 },
    #[error("module {} cannot be loaded: {reason}", id.short())]
    Module { id: ModuleId, reason: String },
    #[error(
        "the candidate cannot apply what is recorded in entry {index} of partition {partition}, so there are no rows \
         to decide on: {reason}"
    )]
    Apply { partition: PartitionId, index: JournalIndex, reason: String },
    #[error(
        "entry {index} of partition {partition} is not as it was recorded ({source}): run `statehouse audit verify` \
         first"
    )]
    History { partition: PartitionId, index: JournalIndex, source: ApplyError },
    #[error("entry {index} of partition {partition} comes before any activation")]
    NoModule { partition: PartitionId, index: JournalIndex },
    #[error(transparent)]
    Host(#[from] HostFault),
    #[error("{0}")]
    Request(String),
    #[error("there is no command at {position}: name the position of one of its events, or of its rejection")]
    NoCommand { position: String },
    #[error("{}: {source}", path.display())]
    Keep { path: PathBuf, source: std::io::Error },
    #[error(
        "{} holds another replay, or one by another version: name another folder, or delete this one",
        path.display()
    )]
    OtherReplay { path: PathBuf },
    #[error(
        "partition {partition} has another entry {index} than when this replay was interrupted: delete the saved \
         progress and begin again"
    )]
    OtherHistory { partition: PartitionId, index: JournalIndex },
    #[error("the replay was stopped{}", if *is_kept { "; the same command continues it" } else { "" })]
    Stopped { is_kept: bool },
    #[error("{0}")]
    Spent(String),
    #[error("a thread of the replay ended before its partition")]
    Thread,
}
