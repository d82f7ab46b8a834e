//! The other partitions of the machine, as a coordinator sees them: calls that are to be made, and what they said.
//!
//! In: calls. Out: answers, or silence. This file does not know how a partition is reached, nor why a call is made.

use futures_util::future::BoxFuture;

use crate::ids::{CommandId, PartitionId};
use crate::partition::answered::Answered;
use crate::saga::CallKey;
use crate::sequencer::submission::UnticketedSubmission;

/// The way to the partitions of the machine, whichever node leads them; this partition is one of them.
pub trait Participants: Send + Sync {
    /// Has calls carried out, or finds out that they were. `None` means that nothing is known yet, so the call must be
    /// repeated.
    fn call(
        &self,
        partition: PartitionId,
        calls: Vec<UnticketedSubmission>,
    ) -> BoxFuture<'static, Vec<Option<Answered>>>;
}

/// A call that is to be made: its command, its key, and what is sent.
pub type DueCall = (CommandId, CallKey, UnticketedSubmission);

/// The results of some calls: the command, the call, and the answer if there was one.
pub type Answers = Vec<(CommandId, CallKey, Option<Answered>)>;
