//! Commands that no client waits for: what would be refused is refused at once, the rest is accepted and carried out.
//!
//! ```text
//! request ─▶ plan ─ refused ─▶ answer
//!              └▶ id known with other content ─▶ answer
//!              └▶ AcceptedCommand: where to ask, and until when it is open ─▶ carry_out: route, …, as for any other
//! ```
//! Whether the id is free is looked up where that is quick. What shows only later, such as another command under way
//! with the same id, the client learns when it asks with the facts in [`AcceptedCommand`]. It does not know how
//! clients are told.

use std::sync::Arc;

use tokio::time::Instant;

use crate::ids::{Fingerprint, Micros};
use crate::limits;
use crate::partition::PartitionError;
use crate::router::answer::{Answer, CommandRequest, UnavailableReason};
use crate::router::machine::{Machine, unavailable};
use crate::router::plan::{OpenRequest, RoutedRequest};
use crate::router::reply::home_of;
use crate::saga::claim::different_fields;

/// A command that will be carried out, unless something prevents it.
pub struct AcceptedCommand {
    pub home: String,
    /// It is not executed later than this.
    pub expires: Micros,
    /// The fingerprint of its content.
    pub fingerprint: Fingerprint,
    machine: Arc<Machine>,
    deadline: Instant,
    /// `None` if the command is recorded already.
    routed: Option<RoutedRequest>,
}

impl Machine {
    /// Plans a command and checks whether its id is free.
    ///
    /// # Errors
    /// The answer, if it is known already; then nothing is carried out.
    pub async fn accept(self: &Arc<Self>, request: CommandRequest) -> Result<AcceptedCommand, Answer> {
        let deadline = request.deadline;
        let open = OpenRequest { is_expiry_told: true, ..OpenRequest::new(0, request) };
        let (routed, answered) = self.plan(vec![open]).await;
        if let Some((_, answer)) = answered.into_iter().next() {
            return Err(answer);
        }
        let mut routed = routed.into_iter().next().expect("it is planned or answered");
        if !self.time_one(&mut routed, deadline).await {
            let reason = self.find_closed(routed.partition);
            let reason = reason.unwrap_or_else(|| self.why_untaken(routed.partition, None));
            return Err(Answer::Unavailable(unavailable(reason)));
        }
        let is_recorded = self.is_recorded(&routed, deadline).await?;
        let submission = &routed.submission;
        Ok(AcceptedCommand {
            home: home_of(submission),
            expires: submission.expires,
            fingerprint: submission.fingerprint,
            machine: self.clone(),
            deadline,
            routed: Some(routed).filter(|_| !is_recorded),
        })
    }

    /// Whether the command is recorded already, as far as this node can learn within a moment.
    ///
    /// # Errors
    /// Another command has its id.
    async fn is_recorded(&self, routed: &RoutedRequest, deadline: Instant) -> Result<bool, Answer> {
        let submission = &routed.submission;
        let Some(partition) = self.find_partition(routed.partition) else { return Ok(false) };
        let soon = deadline.min(Instant::now() + limits::REPLICA_LAG_USUAL);
        // If no leader answers, this replica's own index is still worth a look.
        drop(partition.read_linearizable(soon).await);
        let Ok(Some(known)) = partition.find_id(submission.id) else { return Ok(false) };
        if known.is_same_content(&submission.fingerprint) {
            return Ok(true);
        }
        let recorded = match partition.read_entry(known.journal).await {
            Ok(recorded) => recorded,
            Err(PartitionError::Released { .. }) => {
                return Err(Answer::Unavailable(unavailable(UnavailableReason::OutcomeReleased)));
            }
            Err(error) => {
                tracing::error!(%error, id = %submission.id, "a command cannot be looked up");
                return Err(Answer::Unavailable(unavailable(UnavailableReason::Halted)));
            }
        };
        let position = recorded.position(partition.id(), known.n);
        let batch = recorded.entry.batch();
        let command = batch.as_ref().map(|batch| batch.command(known.n as usize));
        let ours = (&*submission.name, submission.plan.view().body);
        let fields = command.map_or_else(Vec::new, |command| different_fields(ours, (command.name, command.body)));
        Err(Answer::Conflict { fields, position })
    }
}

impl AcceptedCommand {
    /// Brings the command to its partition and waits until its deadline, as a client would. Returns `None` for a
    /// command that was recorded before.
    pub async fn carry_out(self) -> Option<Answer> {
        let Self { machine, deadline, routed, .. } = self;
        let (_, answer) = machine.deliver_all(vec![routed?], deadline).await.pop()?;
        if !matches!(answer, Answer::Done(_) | Answer::Rejected(..)) {
            tracing::debug!(?answer, "a command that nobody waits for was not carried out");
        }
        Some(answer)
    }
}
