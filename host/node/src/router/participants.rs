//! Brings a coordinator's calls to the leader of the partition that must carry them out, and returns what it recorded.
//!
//! ```text
//! leads here? ─ yes ─▶ submit, wait
//!             └ no ──▶ the leader's node does that
//! not led there, or unreachable: again, with the leader of that moment, for a while
//! ```
//! Every call has an id of its own, so a repeated call takes effect once. This file does not know what a call does, nor
//! what follows from it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::ids::{NodeId, PartitionId};
use crate::partition::{Answered, Participants, Partition};
use crate::peer::{Call, GroupName, Topic};
use crate::router::machine::Machine;
use crate::router::wire::{WireError, decode_answers, decode_submissions, encode_answers, encode_submissions};
use crate::sequencer::submission::{Replies, Reply, UnticketedSubmission};

/// How long one round of calls is tried; then the coordinator checks whether they are still due.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long before its patience ends a leader on another node answers with what it knows.
const WAY_BACK: Duration = Duration::from_millis(20);

/// The partitions of a machine, for its coordinators.
pub struct MachineParticipants(Weak<Machine>);

impl MachineParticipants {
    pub fn of(machine: &Arc<Machine>) -> Self {
        Self(Arc::downgrade(machine))
    }
}

impl Participants for MachineParticipants {
    fn call(
        &self,
        partition: PartitionId,
        calls: Vec<UnticketedSubmission>,
    ) -> BoxFuture<'static, Vec<Option<Answered>>> {
        let machine = self.0.upgrade();
        async move {
            match machine {
                Some(machine) => machine.carry_out(partition, calls, Instant::now() + PATIENCE).await,
                // The node is going down.
                None => vec![None; calls.len()],
            }
        }
        .boxed()
    }
}

impl Machine {
    /// Has the leader of a partition carry out calls, on whichever node it is. Repeats calls without a known outcome
    /// until the deadline.
    async fn carry_out(
        &self,
        partition: PartitionId,
        calls: Vec<UnticketedSubmission>,
        deadline: Instant,
    ) -> Vec<Option<Answered>> {
        let mut answers = vec![None; calls.len()];
        let mut open: Vec<usize> = (0..calls.len()).collect();
        loop {
            let some: Vec<&UnticketedSubmission> = open.iter().map(|at| &calls[*at]).collect();
            let found = self.try_calls(partition, &some, deadline).await;
            for (at, found) in open.iter().zip(found) {
                answers[*at] = found;
            }
            open.retain(|at| answers[*at].is_none());
            if open.is_empty() || deadline <= Instant::now() {
                return answers;
            }
            self.wait_for_leader(partition, deadline).await;
        }
    }

    async fn try_calls(
        &self,
        partition: PartitionId,
        calls: &[&UnticketedSubmission],
        deadline: Instant,
    ) -> Vec<Option<Answered>> {
        let local = self.find_partition(partition).filter(|local| local.is_running());
        if let Some(local) = local.as_ref().filter(|local| local.is_leader()) {
            return carry_out_here(local, calls, deadline).await;
        }
        let leader = match &local {
            Some(local) => local.leader(),
            None => self.any_other_node(),
        };
        match leader.filter(|leader| *leader != self.node && self.is_answering(*leader)) {
            Some(leader) => {
                let patience = deadline.saturating_duration_since(Instant::now());
                let there = self.carry_out_there(leader, partition, calls, patience);
                let Some(local) = local else { return there.await };
                tokio::select! {
                    answers = there => answers,
                    () = local.wait_while_led_by(leader) => vec![None; calls.len()],
                }
            }
            None => vec![None; calls.len()],
        }
    }

    async fn carry_out_there(
        &self,
        leader: NodeId,
        partition: PartitionId,
        calls: &[&UnticketedSubmission],
        patience: Duration,
    ) -> Vec<Option<Answered>> {
        let group = Some(GroupName::new(self.name(), partition));
        let call = Call { topic: Topic::Calls, group, body: encode_submissions(calls.iter().copied()) };
        let answer = self.network.call(leader, call, patience).await;
        let answers = answer.map_err(|error| error.to_string());
        let answers = answers.and_then(|bytes| decode_answers(&bytes, calls.len()).map_err(|error| error.to_string()));
        answers.unwrap_or_else(|error| {
            tracing::debug!(%leader, error, "a participant did not answer");
            vec![None; calls.len()]
        })
    }

    /// Answers another node whose coordinator calls a partition that is led here.
    ///
    /// # Errors
    /// The message cannot be read.
    pub async fn answer_calls(
        &self,
        from: NodeId,
        partition: PartitionId,
        body: &[u8],
        patience: Duration,
    ) -> Result<Bytes, WireError> {
        let calls = decode_submissions(from, body)?;
        if calls.iter().any(|call| call.called.is_none()) {
            return Err(WireError::Malformed("a submission is no call".to_owned()));
        }
        let deadline = Instant::now() + patience.saturating_sub(WAY_BACK);
        let answers = match self.find_partition(partition) {
            Some(local) if local.is_leader() => {
                carry_out_here(&local, &calls.iter().collect::<Vec<_>>(), deadline).await
            }
            _ => vec![None; calls.len()],
        };
        Ok(encode_answers(answers))
    }
}

async fn carry_out_here(
    partition: &Arc<Partition>,
    calls: &[&UnticketedSubmission],
    deadline: Instant,
) -> Vec<Option<Answered>> {
    let replies = Replies::new(calls.len());
    let ticketed = calls.iter().enumerate();
    partition.submit(ticketed.map(|(at, call)| call.with_ticket(replies.ticket(at))).collect());
    // A call without a reply by then is made again.
    drop(tokio::time::timeout_at(deadline, replies.wait()).await);
    let answered = |(call, reply): (&&UnticketedSubmission, Option<Reply>)| match reply? {
        Reply::Recorded { recorded, command, .. } => {
            let called = call.called.as_ref()?;
            Some(Answered::of(call, called, partition.id(), &recorded, command))
        }
        // What is recorded under a call's id is its answer, so a call is never answered with a conflict.
        Reply::Conflict { .. } | Reply::Expired | Reply::Refused(_) | Reply::Unknown => None,
    };
    calls.iter().zip(replies.take()).map(answered).collect()
}
