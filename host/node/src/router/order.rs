//! Orders of operators about commands in flight, brought to the leader of the home partition.
//!
//! ```text
//! which partition? ─▶ abort: do all participants that must be asked answer? ─▶ its leader records it ─▶ position
//! ```
//! In: a command's id, an order. Out: where it is recorded, or why it is not. It does not know what an order does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};
use tokio::time::Instant;

use crate::ids::{CommandId, JournalIndex, NodeId, PartitionId};
use crate::partition::{NotOrdered, Partition, PartitionError};
use crate::peer::{Call, GroupName, Topic};
use crate::router::answer::Unavailability;
use crate::router::lookup::read_failed;
use crate::router::machine::Machine;
use crate::router::wire::WireError;
use crate::saga::{AwaitedAnswer, Order, OrderKind, OrderRefused, Saga};

/// How long a participant may take to show that it has a leader with a majority.
const PARTICIPANT_PATIENCE: Duration = Duration::from_secs(2);
/// How long before the caller's deadline a leader on another node gives up, so that its answer still arrives in time.
const WAY_BACK: Duration = Duration::from_millis(20);

/// Why an order has no effect, or why it is not known whether it has one.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("no command with this id is in flight; `GET /v1/{{machine}}/commands/{{id}}` says what became of it")]
    NotInFlight,
    #[error(
        "commands of several payers are in flight under this id: name the home entity of the one you mean with `home`"
    )]
    SeveralHomes,
    /// Only the participant's record says whether its step was done, so nothing can be undone before it is available.
    #[error(
        "partition {0} takes part and has no leader that a majority answers: the command stays in flight until that \
         partition is restored"
    )]
    ParticipantUnavailable(PartitionId),
    #[error("{0}")]
    Refused(NotAllowed),
    #[error("the partition cannot be read")]
    Unavailable(Unavailability),
    /// It is not known whether the order is recorded; giving the same order again finds out.
    #[error("no node confirmed in time that the order is recorded: give it again")]
    Unknown,
}

/// Why the protocol does not allow an order: a stable code, and words.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NotAllowed {
    #[n(0)]
    pub code: String,
    #[n(1)]
    pub detail: String,
}

impl std::fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

/// A recorded order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderRecorded {
    pub partition: PartitionId,
    pub index: JournalIndex,
}

/// What a leader answers another node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
enum OrderAnswer {
    #[n(0)]
    Recorded {
        #[n(0)]
        index: u64,
    },
    #[n(1)]
    Refused {
        #[n(0)]
        why: NotAllowed,
    },
    #[n(2)]
    NotLed,
    #[n(3)]
    NotInFlight,
    #[n(4)]
    Unknown,
}

impl Machine {
    /// Has the leader record an order. `home` names the home entity if the id alone does not say which command is
    /// meant.
    ///
    /// # Errors
    /// The order has no effect; with [`OrderError::Unknown`], nobody knows whether it has.
    pub async fn order(
        &self,
        order: Order,
        home: Option<&str>,
        deadline: Instant,
    ) -> Result<OrderRecorded, OrderError> {
        let (partition, saga) = self.find_coordinated(order.command(), home, deadline).await?;
        if order.kind == OrderKind::Abort {
            self.check_participants(&saga, partition, deadline).await?;
        }
        loop {
            match self.try_order(partition, &order, deadline).await {
                OrderAnswer::Recorded { index } => return Ok(OrderRecorded { partition, index: JournalIndex(index) }),
                OrderAnswer::Refused { why } => return Err(OrderError::Refused(why)),
                OrderAnswer::NotInFlight => return Err(OrderError::NotInFlight),
                OrderAnswer::Unknown => return Err(OrderError::Unknown),
                OrderAnswer::NotLed if deadline <= Instant::now() => return Err(OrderError::Unknown),
                OrderAnswer::NotLed => self.wait_for_leader(partition, deadline).await,
            }
        }
    }

    /// The partition that coordinates a command in flight, and its row there.
    async fn find_coordinated(
        &self,
        id: CommandId,
        home: Option<&str>,
        deadline: Instant,
    ) -> Result<(PartitionId, Saga), OrderError> {
        let partitions: Vec<PartitionId> = match home {
            Some(home) => vec![self.partition_id_of(home.as_bytes())],
            None => self.partition_ids().collect(),
        };
        let mut found = Vec::new();
        let mut unread = None;
        for partition in partitions {
            match self.read_in_flight(partition, id, deadline).await {
                Ok(saga) => found.extend(saga.map(|saga| (partition, saga))),
                // Another partition may still have the command.
                Err(unavailable) => unread = Some(unavailable),
            }
        }
        match (found.len(), unread) {
            (0, Some(unavailable)) => Err(OrderError::Unavailable(unavailable)),
            (0, None) => Err(OrderError::NotInFlight),
            (1, _) => Ok(found.remove(0)),
            _ => Err(OrderError::SeveralHomes),
        }
    }

    async fn read_in_flight(
        &self,
        partition: PartitionId,
        id: CommandId,
        deadline: Instant,
    ) -> Result<Option<Saga>, Unavailability> {
        let replica = self.replica(partition)?;
        let patience = deadline.min(Instant::now() + PARTICIPANT_PATIENCE);
        replica.read_linearizable(patience).await.map_err(read_failed)?;
        replica.find_in_flight(id).map_err(read_failed)
    }

    /// Checks that every participant that must say what became of a step answers.
    async fn check_participants(&self, saga: &Saga, home: PartitionId, deadline: Instant) -> Result<(), OrderError> {
        for waits in
            saga.waits_for().iter().filter(|waits| waits.kind == AwaitedAnswer::Step && waits.partition != home)
        {
            let patience = deadline.min(Instant::now() + PARTICIPANT_PATIENCE);
            let replica = self.replica(waits.partition).map_err(OrderError::Unavailable)?;
            if let Err(error) = replica.read_linearizable(patience).await {
                tracing::warn!(
                    partition = %waits.partition, %error, "an abort is refused: a participant cannot be reached"
                );
                return Err(OrderError::ParticipantUnavailable(waits.partition));
            }
        }
        Ok(())
    }

    async fn try_order(&self, partition: PartitionId, order: &Order, deadline: Instant) -> OrderAnswer {
        let Some(local) = self.find_partition(partition) else { return OrderAnswer::NotLed };
        if local.is_leader() {
            return order_here(&local, order.clone().vouched_by(Some(self.node)), deadline).await;
        }
        let Some(leader) = local.leader().filter(|leader| *leader != self.node && self.is_answering(*leader)) else {
            return OrderAnswer::NotLed;
        };
        let group = Some(GroupName::new(self.name(), partition));
        let body = minicbor::to_vec(order).expect("a vector takes all bytes").into();
        let patience = deadline.saturating_duration_since(Instant::now());
        let answer = self.network.call(leader, Call { topic: Topic::Order, group, body }, patience).await;
        let read = answer.map_err(|error| error.to_string());
        let read = read.and_then(|bytes| minicbor::decode(&bytes).map_err(|error| error.to_string()));
        read.unwrap_or_else(|error| {
            tracing::debug!(%leader, error, "a leader did not answer an order");
            OrderAnswer::Unknown
        })
    }

    /// Answers another node that sends an order for a partition led here. By sending it, that node vouches for who
    /// gives it.
    ///
    /// # Errors
    /// The message cannot be read.
    pub async fn answer_order(
        &self,
        from: NodeId,
        partition: PartitionId,
        body: &[u8],
        patience: Duration,
    ) -> Result<Bytes, WireError> {
        let order: Order = minicbor::decode(body).map_err(|error| WireError::Malformed(error.to_string()))?;
        let order = order.vouched_by(Some(from));
        let deadline = Instant::now() + patience.saturating_sub(WAY_BACK);
        let answer = match self.find_partition(partition) {
            Some(local) if local.is_leader() => order_here(&local, order, deadline).await,
            _ => OrderAnswer::NotLed,
        };
        Ok(minicbor::to_vec(answer).expect("a vector takes all bytes").into())
    }
}

async fn order_here(partition: &Arc<Partition>, order: Order, deadline: Instant) -> OrderAnswer {
    match partition.order(order, deadline).await {
        Ok(Ok(index)) => OrderAnswer::Recorded { index: index.0 },
        Ok(Err(NotOrdered::NotLeading)) => OrderAnswer::NotLed,
        Ok(Err(NotOrdered::NotInFlight)) => OrderAnswer::NotInFlight,
        Ok(Err(refused)) => OrderAnswer::Refused { why: not_allowed(&refused) },
        Err(PartitionError::NotLeading | PartitionError::Deadline) => OrderAnswer::Unknown,
        Err(_) => OrderAnswer::NotLed,
    }
}

fn not_allowed(refused: &NotOrdered) -> NotAllowed {
    let code = match refused {
        NotOrdered::NotLeading | NotOrdered::NotInFlight => unreachable!("they have answers of their own"),
        NotOrdered::Refused(OrderRefused::ConfirmDecided) => "confirm_decided",
        NotOrdered::Refused(OrderRefused::AlreadyUndoing) => "already_undoing",
        NotOrdered::Refused(OrderRefused::NotUndoable(_)) => "not_undoable",
        NotOrdered::Refused(OrderRefused::NothingRefused) => "nothing_refused",
        NotOrdered::Refused(OrderRefused::NoLastResort(_)) => "no_last_resort",
        NotOrdered::Level { .. } => "feature_level",
        NotOrdered::Overloaded => "overloaded",
    };
    NotAllowed { code: code.to_owned(), detail: refused.to_string() }
}
