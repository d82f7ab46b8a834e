//! Stage *route*, its second half: submissions of one partition are brought to whoever leads it, and their answers back.
//!
//! ```text
//! leads here? ─ yes ─▶ submit, wait, render
//!             └ no ──▶ the leader's node does that ──▶ its answers
//! not led there, or unreachable: again, with whoever leads by then, until the deadline
//! ```
//! Ids make it safe to send the same submission again. The client never learns of leaders.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::consensus::PeerError;
use crate::ids::{NodeId, PartitionId};
use crate::partition::Partition;
use crate::peer::{Call, GroupName, Topic};
use crate::router::answer::{Answer, UnavailableReason};
use crate::router::machine::{Machine, unavailable};
use crate::router::plan::{Open, Routed, divide};
use crate::router::reply::unknown;
use crate::router::wire::{Told, WireError, decode_submissions, decode_told, encode_submissions, encode_told};
use crate::saga::PlanFault;
use crate::sequencer::submission::{Refusal, Replies, Reply, Unticketed};

/// How long before the caller's deadline a leader on another node gives up, so that its word still gets back in time.
const WAY_BACK: Duration = Duration::from_millis(20);

impl Machine {
    /// Answers every submission, each with its slot, by the deadline; gives those back that another module must plan now.
    pub(super) async fn deliver(
        &self,
        partition: PartitionId,
        mut pending: Vec<Routed>,
        deadline: Instant,
    ) -> (Vec<(usize, Answer)>, Vec<Open>) {
        let mut answers = Vec::with_capacity(pending.len());
        let mut outdated = Vec::new();
        let mut hint = None;
        loop {
            let tried = hint;
            let told = self.attempt(partition, &pending, hint, deadline).await;
            let mut rest = Vec::new();
            hint = None;
            for (mut pending, told) in pending.into_iter().zip(told) {
                match told {
                    Told::Answer(answer) => answers.push((pending.open.slot, answer)),
                    Told::NotLed(leader) => {
                        hint = leader;
                        rest.push(pending);
                    }
                    Told::Unknown => {
                        pending.open.may_be_accepted = true;
                        rest.push(pending);
                    }
                }
            }
            let active = self.module_id();
            let (current, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|pending| pending.submission.planner == active);
            outdated.extend(others.into_iter().map(|pending| pending.open));
            pending = current;
            if pending.is_empty() {
                return (answers, outdated);
            }
            // Two nodes that each believe the other to lead are given a moment to find out.
            hint = hint.filter(|node| *node != self.node && tried.is_none());
            if hint.is_none() {
                self.wait_for_leader(partition, deadline).await;
            }
            let reason = self.not_activated(partition).map(|_| UnavailableReason::NotActivated);
            if reason.is_some() || deadline <= Instant::now() {
                let reason = reason.unwrap_or(if self.is_draining() {
                    UnavailableReason::Draining
                } else {
                    UnavailableReason::NoLeader
                });
                answers.extend(pending.iter().map(|pending| (pending.open.slot, in_vain(pending, reason))));
                return (answers, outdated);
            }
        }
    }

    /// One attempt with whoever is believed to lead.
    async fn attempt(
        &self,
        partition: PartitionId,
        pending: &[Routed],
        hint: Option<NodeId>,
        deadline: Instant,
    ) -> Vec<Told> {
        let submissions = || pending.iter().map(|pending| &pending.submission);
        // What has halted here says nothing of who leads: any other node knows better.
        let local = self.find_partition(partition).filter(|local| local.is_running());
        if let Some(local) = local.as_ref().filter(|local| local.is_leader()) {
            return self.submit_here(local, submissions(), deadline).await;
        }
        let refused = |reason| pending.iter().map(|pending| Told::Answer(in_vain(pending, reason))).collect();
        if self.is_removed() {
            return refused(UnavailableReason::Removed);
        }
        if self.is_alone() && local.is_none() {
            return refused(UnavailableReason::Halted);
        }
        let elsewhere = |node: &NodeId| *node != self.node;
        let believed = hint.or_else(|| local.as_ref().and_then(|local| local.leader())).filter(elsewhere);
        let Some(leader) = believed.or_else(|| local.is_none().then(|| self.any_other_node()).flatten()) else {
            return vec![Told::NotLed(None); pending.len()];
        };
        if !self.is_answering(leader) {
            return vec![Told::NotLed(None); pending.len()];
        }
        let told = self.submit_there(leader, partition, submissions(), deadline);
        let Some(local) = local else { return told.await };
        tokio::select! {
            told = told => told,
            // Whoever leads now knows the ids that the old leader has accepted, or will refuse to have them twice.
            () = local.wait_while_led_by(leader) => vec![Told::Unknown; pending.len()],
        }
    }

    /// Stages *admit* to *answer* on this node.
    async fn submit_here(
        &self,
        partition: &Arc<Partition>,
        submissions: impl ExactSizeIterator<Item = &Unticketed>,
        deadline: Instant,
    ) -> Vec<Told> {
        let count = submissions.len();
        let replies = Replies::new(count);
        let divided: Result<Vec<Unticketed>, PlanFault> =
            submissions.map(|submission| divide(submission, |entity| self.partition_id_of(entity))).collect();
        let submissions = match divided {
            Ok(submissions) => submissions,
            Err(fault) => {
                // Planned by a node that counts its partitions otherwise: nothing of it was accepted.
                tracing::error!(%fault, "a plan cannot be coordinated here");
                return vec![Told::NotLed(None); count];
            }
        };
        let ticketed = submissions.iter().enumerate();
        partition.submit(ticketed.map(|(at, submission)| submission.with_ticket(replies.ticket(at))).collect());
        // Whoever has no reply at the deadline learns that it is unknown.
        drop(tokio::time::timeout_at(deadline, replies.wait()).await);
        let mut told: Vec<Option<Told>> = Vec::with_capacity(submissions.len());
        let mut recorded = Vec::with_capacity(submissions.len());
        for (submission, reply) in submissions.into_iter().zip(replies.take()) {
            told.push(match reply {
                Some(Reply::Refused(Refusal::NoLeader)) => Some(Told::NotLed(partition.leader())),
                Some(Reply::Refused(Refusal::Draining)) => Some(Told::NotLed(Some(self.node))),
                Some(Reply::Refused(Refusal::Halted | Refusal::ShuttingDown)) if !self.is_alone() => {
                    Some(Told::NotLed(None))
                }
                Some(Reply::Unknown) | None => Some(Told::Unknown),
                Some(reply) => {
                    recorded.push((submission, reply));
                    None
                }
            });
        }
        let mut answers = self.render_all(partition.id(), recorded).await.into_iter();
        let next = |told: Option<Told>| told.unwrap_or_else(|| Told::Answer(answers.next().expect("one each")));
        told.into_iter().map(next).collect()
    }

    async fn submit_there(
        &self,
        leader: NodeId,
        partition: PartitionId,
        submissions: impl ExactSizeIterator<Item = &Unticketed>,
        deadline: Instant,
    ) -> Vec<Told> {
        let count = submissions.len();
        let group = Some(GroupName::new(self.name(), partition));
        let call = Call { topic: Topic::Submit, group, body: encode_submissions(submissions) };
        let patience = deadline.saturating_duration_since(Instant::now());
        match self.network.call(leader, call, patience).await {
            Ok(bytes) => decode_told(&bytes, count).unwrap_or_else(|error| {
                tracing::error!(%leader, %error, "a leader's answer cannot be read");
                vec![Told::Unknown; count]
            }),
            Err(PeerError::NoRoute(_) | PeerError::Refused { .. }) => vec![Told::NotLed(None); count],
            Err(error) => {
                tracing::debug!(%leader, %error, "a leader did not answer");
                vec![Told::Unknown; count]
            }
        }
    }

    /// Answers another node that believes this one to lead.
    ///
    /// # Errors
    /// The message cannot be read.
    pub async fn answer_submit(
        &self,
        from: NodeId,
        partition: PartitionId,
        body: &[u8],
        patience: Duration,
    ) -> Result<Bytes, WireError> {
        let submissions = decode_submissions(from, body)?;
        let deadline = Instant::now() + patience.saturating_sub(WAY_BACK);
        let told = match self.find_partition(partition) {
            Some(local) if local.is_leader() => self.submit_here(&local, submissions.iter(), deadline).await,
            local => vec![Told::NotLed(local.and_then(|local| local.leader())); submissions.len()],
        };
        Ok(encode_told(told))
    }

    pub(super) async fn wait_for_leader(&self, partition: PartitionId, deadline: Instant) {
        let waiting = async {
            match self.find_partition(partition).filter(|local| local.is_running()) {
                Some(local) => local.wait_for_change().await,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        // The caller looks at the clock.
        drop(tokio::time::timeout_at(deadline, waiting).await);
    }
}

/// The answer when the deadline has passed.
fn in_vain(pending: &Routed, reason: UnavailableReason) -> Answer {
    if pending.open.may_be_accepted { unknown(&pending.submission) } else { Answer::Unavailable(unavailable(reason)) }
}
