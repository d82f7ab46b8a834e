//! Stage *route*, second half: brings the submissions of one partition to its leader, and their answers back.
//!
//! ```text
//! leads here? ─ yes ─▶ submit, wait, render
//!             └ no ──▶ the leader's node does that ──▶ its answers
//! not led there, or unreachable: again, with the leader of that moment, until the deadline
//! ```
//! Ids make it safe to send the same submission again. The client never learns of leaders.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::consensus::PeerError;
use crate::features;
use crate::ids::{NodeId, PartitionId};
use crate::partition::Partition;
use crate::peer::{Call, GroupName, Topic};
use crate::router::answer::{Answer, Obstacle, UnavailableReason};
use crate::router::machine::{Machine, unavailable};
use crate::router::plan::{OpenRequest, RoutedRequest, divide};
use crate::router::reply::{obstacle_of, unknown};
use crate::router::wire::{
    SubmissionAnswer, WireError, decode_submissions, decode_told, encode_submissions, encode_told,
};
use crate::saga::PlanFault;
use crate::sequencer::submission::{Refusal, Replies, Reply, UnticketedSubmission};

/// How long before the caller's deadline a leader on another node gives up, so that its answer still arrives in time.
const WAY_BACK: Duration = Duration::from_millis(20);

impl Machine {
    /// Answers every submission by the deadline, each with its slot. Returns the requests that another module must plan
    /// now.
    pub(super) async fn deliver(
        &self,
        partition: PartitionId,
        mut pending: Vec<RoutedRequest>,
        deadline: Instant,
    ) -> (Vec<(usize, Answer)>, Vec<OpenRequest>) {
        let mut answers = Vec::with_capacity(pending.len());
        let mut outdated = Vec::new();
        let mut hint = None;
        loop {
            let tried = hint;
            let told = if let Some(reason) = self.find_closed(partition) {
                vec![SubmissionAnswer::Answer(Answer::Unavailable(unavailable(reason))); pending.len()]
            } else if self.time_all(partition, &mut pending, hint, deadline).await {
                self.attempt(partition, &pending, hint, deadline).await
            } else {
                vec![SubmissionAnswer::NotNow { leader: None, why: self.why_untaken(partition, hint) }; pending.len()]
            };
            let mut rest = Vec::new();
            hint = None;
            for (mut pending, told) in pending.into_iter().zip(told) {
                match told {
                    SubmissionAnswer::Answer(answer) if self.may_be_sent_later(&pending.open, &answer) => {
                        pending.open.send_later();
                        rest.push(pending);
                    }
                    SubmissionAnswer::Answer(answer) => answers.push(pending.open.answered(answer)),
                    SubmissionAnswer::NotNow { leader, why } => {
                        (hint, pending.open.untaken) = (leader, why);
                        rest.push(pending);
                    }
                    SubmissionAnswer::Unknown => {
                        pending.open.in_doubt = Some(unknown(&pending.submission));
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
            // Two nodes may each believe that the other leads: follow one hint, then give them a moment to find out.
            hint = hint.filter(|node| *node != self.node && tried.is_none());
            if hint.is_none() {
                self.wait_for_leader(partition, deadline).await;
            }
            let reason = self.not_activated(partition).map(|_| UnavailableReason::NotActivated);
            if reason.is_some() || deadline <= Instant::now() {
                let reason = reason.or_else(|| self.is_draining().then_some(UnavailableReason::Draining));
                answers.extend(pending.into_iter().map(|RoutedRequest { open, .. }| {
                    let reason = reason.unwrap_or(open.untaken);
                    open.answered(Answer::Unavailable(unavailable(reason)))
                }));
                return (answers, outdated);
            }
        }
    }

    /// Why there is no node to ask for this partition, if there is none.
    pub(super) fn find_closed(&self, partition: PartitionId) -> Option<UnavailableReason> {
        let local = self.find_partition(partition).filter(|local| local.is_running());
        if local.as_ref().is_some_and(|local| local.is_leader()) {
            return None;
        }
        if self.is_removed() {
            return Some(UnavailableReason::Removed);
        }
        (self.is_alone() && local.is_none()).then_some(UnavailableReason::Halted)
    }

    /// Makes one attempt with the node that is believed to lead.
    async fn attempt(
        &self,
        partition: PartitionId,
        pending: &[RoutedRequest],
        hint: Option<NodeId>,
        deadline: Instant,
    ) -> Vec<SubmissionAnswer> {
        let submissions = || pending.iter().map(|pending| &pending.submission);
        // A replica that has halted does not know who leads; any other node knows better.
        let local = self.find_partition(partition).filter(|local| local.is_running());
        if let Some(local) = local.as_ref().filter(|local| local.is_leader()) {
            return self.submit_here(local, submissions(), deadline).await;
        }
        let leader = self.believed_leader(local.as_ref(), hint).filter(|leader| self.is_answering(*leader));
        let Some(leader) = leader else {
            return vec![
                SubmissionAnswer::NotNow { leader: None, why: self.why_untaken(partition, hint) };
                pending.len()
            ];
        };
        let told = self.submit_there(leader, partition, submissions(), deadline);
        let Some(local) = local else { return told.await };
        tokio::select! {
            told = told => told,
            // Asking again is safe: the next leader knows the ids that this one accepted, and executes none of them
            // twice.
            () = local.wait_while_led_by(leader) => vec![SubmissionAnswer::Unknown; pending.len()],
        }
    }

    /// Another node that is believed to lead; any other node, if this one has no replica to ask.
    pub(super) fn believed_leader(&self, local: Option<&Arc<Partition>>, hint: Option<NodeId>) -> Option<NodeId> {
        let believed = hint.or_else(|| local.and_then(|local| local.leader())).filter(|node| *node != self.node);
        believed.or_else(|| local.is_none().then(|| self.any_other_node()).flatten())
    }

    /// Why a partition that is not led here takes nothing, as far as this node knows.
    pub(super) fn why_untaken(&self, partition: PartitionId, hint: Option<NodeId>) -> UnavailableReason {
        let local = self.find_partition(partition).filter(|local| local.is_running());
        match self.believed_leader(local.as_ref(), hint) {
            None => UnavailableReason::NoLeader,
            Some(leader) if !self.is_answering(leader) => UnavailableReason::NotNow(Obstacle::LeaderSilent),
            Some(_) => UnavailableReason::NotNow(Obstacle::LeadershipMoving),
        }
    }

    /// Runs the stages *admit* to *answer* on this node.
    async fn submit_here(
        &self,
        partition: &Arc<Partition>,
        submissions: impl ExactSizeIterator<Item = &UnticketedSubmission>,
        deadline: Instant,
    ) -> Vec<SubmissionAnswer> {
        let count = submissions.len();
        let replies = Replies::new(count);
        let divided: Result<Vec<UnticketedSubmission>, PlanFault> =
            submissions.map(|submission| divide(submission, |entity| self.partition_id_of(entity))).collect();
        let submissions = match divided {
            Ok(submissions) => submissions,
            Err(fault) => {
                // It was planned by a node with another partition count; nothing was accepted.
                tracing::error!(%fault, "a plan cannot be coordinated here");
                let why = UnavailableReason::NotNow(Obstacle::OtherBranches);
                return vec![SubmissionAnswer::NotNow { leader: None, why }; count];
            }
        };
        let ticketed = submissions.iter().enumerate();
        partition.submit(ticketed.map(|(at, submission)| submission.with_ticket(replies.ticket(at))).collect());
        // A submission without a reply at the deadline is answered as unknown.
        drop(tokio::time::timeout_at(deadline, replies.wait()).await);
        let mut told: Vec<Option<SubmissionAnswer>> = Vec::with_capacity(submissions.len());
        let mut recorded = Vec::with_capacity(submissions.len());
        for (submission, reply) in submissions.into_iter().zip(replies.take()) {
            told.push(match reply {
                Some(Reply::Refused(Refusal::NotNow(why))) => {
                    let why = UnavailableReason::NotNow(obstacle_of(why));
                    Some(SubmissionAnswer::NotNow { leader: partition.leader(), why })
                }
                Some(Reply::Refused(Refusal::Draining)) => {
                    Some(SubmissionAnswer::NotNow { leader: Some(self.node), why: UnavailableReason::Draining })
                }
                // Another node takes the leadership over.
                Some(Reply::Refused(Refusal::Halted | Refusal::ShuttingDown)) if !self.is_alone() => {
                    Some(SubmissionAnswer::NotNow {
                        leader: None,
                        why: UnavailableReason::NotNow(Obstacle::LeadershipMoving),
                    })
                }
                Some(Reply::Unknown) | None => Some(SubmissionAnswer::Unknown),
                Some(reply) => {
                    recorded.push((submission, reply));
                    None
                }
            });
        }
        let mut answers = self.render_all(partition.id(), recorded).await.into_iter();
        let next = |told: Option<SubmissionAnswer>| {
            told.unwrap_or_else(|| SubmissionAnswer::Answer(answers.next().expect("one each")))
        };
        told.into_iter().map(next).collect()
    }

    pub(super) async fn submit_there(
        &self,
        leader: NodeId,
        partition: PartitionId,
        submissions: impl ExactSizeIterator<Item = &UnticketedSubmission>,
        deadline: Instant,
    ) -> Vec<SubmissionAnswer> {
        let count = submissions.len();
        let group = Some(GroupName::new(self.name(), partition));
        let call = Call { topic: Topic::Submit, group, body: encode_submissions(submissions) };
        let patience = deadline.saturating_duration_since(Instant::now());
        match self.network.call(leader, call, patience).await {
            Ok(bytes) => match decode_told(&bytes, count) {
                Ok((told, time)) => {
                    if let Some(time) = time {
                        self.on_journal_time(partition, time);
                    }
                    told
                }
                Err(error) => {
                    tracing::error!(%leader, %error, "a leader's answer cannot be read");
                    vec![SubmissionAnswer::Unknown; count]
                }
            },
            Err(PeerError::NoRoute(_) | PeerError::Refused { .. }) => {
                let why = UnavailableReason::NotNow(Obstacle::LeaderSilent);
                vec![SubmissionAnswer::NotNow { leader: None, why }; count]
            }
            Err(error) => {
                tracing::debug!(%leader, %error, "a leader did not answer");
                vec![SubmissionAnswer::Unknown; count]
            }
        }
    }

    /// Answers another node that believes that this one leads.
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
        let local = self.find_partition(partition);
        let told = match &local {
            Some(local) if local.is_leader() => self.submit_here(local, submissions.iter(), deadline).await,
            local => {
                vec![SubmissionAnswer::not_led(local.as_ref().and_then(|local| local.leader())); submissions.len()]
            }
        };
        // Look again whether this node leads: that may have changed meanwhile.
        Ok(encode_told(told, local.and_then(|local| self.journal_time_led(&local))))
    }

    /// Whether a request may be sent again with a later expiry: it certainly was not executed, because the journal's
    /// time has leapt, and there is still time to execute it. A client that was told the expiry relies on it, so its
    /// request keeps it. Leaders below the level of `TIMELINES` are not certain.
    fn may_be_sent_later(&self, open: &OpenRequest, answer: &Answer) -> bool {
        let is_expired = matches!(answer, Answer::Unavailable(why) if why.reason == UnavailableReason::Expired);
        let has_time = Instant::now() + WAY_BACK < open.request.deadline;
        is_expired && has_time && !open.is_expiry_told && self.features.has(features::TIMELINES)
    }

    pub(super) async fn wait_for_leader(&self, partition: PartitionId, deadline: Instant) {
        let waiting = async {
            match self.find_partition(partition).filter(|local| local.is_running()) {
                Some(local) => local.wait_for_change().await,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        // The caller checks the deadline.
        drop(tokio::time::timeout_at(deadline, waiting).await);
    }
}

impl OpenRequest {
    /// Lets the request get a later expiry. Nobody executes what was sent with the earlier one.
    fn send_later(&mut self) {
        self.in_doubt = None;
        self.expires = None;
    }
}
