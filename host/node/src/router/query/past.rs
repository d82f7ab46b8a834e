//! Queries of a past moment that no view answers; they read rows that are replayed for them alone.
//!
//! In: a moment, which must not lie ahead. Out: what the module of that moment answers. Only some run at once, because
//! each has all rows of one partition, or of all partitions, in memory. It does not know how rows are replayed.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::*;
use crate::ids::PartitionId;
use crate::machine::replay::Replay;
use crate::router::rewind::{RewindError, rewind};

/// How far ahead of the journal's time a moment may lie: a client's clock may be ahead.
const AHEAD_MAX: Duration = Duration::from_secs(1);

impl Machine {
    /// Waits until no entry up to `moment` can follow any more, in one partition or in all. A moment that lies further
    /// ahead is refused, because what is known of it now may still change.
    ///
    /// # Errors
    /// [`QueryError::Future`].
    pub async fn wait_until_past(
        &self,
        moment: Micros,
        home: Option<PartitionId>,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<(), QueryError> {
        for partition in self.partition_ids().filter(|id| home.is_none_or(|home| home == *id)) {
            // What is applied here is past, and no leader need be asked.
            let applied = || self.find_partition(partition).map(|local| local.progress().journal.time);
            while applied().is_none_or(|applied| applied < moment) {
                let present = self.present_of(partition, consistency, deadline).await;
                let ahead = u64::try_from(moment.0.saturating_sub(present.0)).unwrap_or(0);
                if ahead == 0 {
                    break;
                }
                let ahead = Duration::from_micros(ahead);
                if AHEAD_MAX < ahead || deadline.saturating_duration_since(Instant::now()) < ahead {
                    return Err(QueryError::Future(present));
                }
                tokio::time::sleep(ahead).await;
            }
        }
        Ok(())
    }

    /// The time in a partition's journal. A read that does without the leader takes it from this node's clock where
    /// nobody has announced it.
    async fn present_of(&self, partition: PartitionId, consistency: Consistency, deadline: Instant) -> Micros {
        if self.journal_time(partition).is_none() && consistency == Consistency::Linearizable {
            self.ask_journal_time(partition, None, deadline).await;
        }
        self.journal_time(partition).unwrap_or_else(|| self.clock.now())
    }

    /// `further` are the other partitions, if they are asked as well.
    pub(super) async fn ask_past(
        &self,
        moment: Moment,
        (logic, declared): (&Arc<dyn Logic>, &QueryDecl),
        (partition, further): (&Arc<Partition>, &[Arc<Partition>]),
        request: &QueryRequest,
        others: OtherPartitions,
    ) -> Result<QueryAnswer, QueryStop> {
        if let Moment::Time(time) = moment {
            let home = Some(partition.id()).filter(|_| others != OtherPartitions::All);
            self.wait_until_past(time, home, request.consistency, request.deadline).await?;
        }
        let turn = self.turn_to_rewind(request.deadline).await?;
        let past = self.rewind(partition, request, moment, &turn).await?;
        let logic = past.logic.clone().unwrap_or_else(|| logic.clone());
        // A module of that time may not have the query yet.
        find_query(logic.as_ref(), &declared.name)?;
        let mut rows = vec![past.rows];
        // All entries up to one time are a consistent cut across partitions.
        let time = match moment {
            Moment::Time(time) => time,
            Moment::Position(_) => past.journal.time,
        };
        for other in further {
            rows.push(self.rewind(other, request, Moment::Time(time), &turn).await?.rows);
        }
        let sources = Sources { rows, others };
        let position = match moment {
            Moment::Position(position) => position,
            Moment::Time(_) if past.n != Position::WHOLE => past.journal.position(partition.id(), past.n),
            Moment::Time(_) => last_position(partition, past.journal.position(partition.id(), past.n)).await,
        };
        run_query(logic.as_ref(), &declared.name, request, (position, past.journal.time), &sources)
    }

    /// Waits for a permit to replay. While it is held, all rows of a past moment are in memory.
    async fn turn_to_rewind(&self, deadline: Instant) -> Result<Arc<OwnedSemaphorePermit>, QueryError> {
        let turn = timeout_at(deadline, self.rewinds.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| QueryError::Unavailable(unavailable(UnavailableReason::Overloaded)))?;
        Ok(Arc::new(turn.expect("it is never closed")))
    }

    async fn rewind(
        &self,
        partition: &Arc<Partition>,
        request: &QueryRequest,
        moment: Moment,
        turn: &Arc<OwnedSemaphorePermit>,
    ) -> Result<Replay, QueryError> {
        if request.consistency == Consistency::Linearizable {
            self.read_point(partition, request).await?;
        }
        let (partition, modules, deadline) = (partition.clone(), self.modules.clone(), request.deadline);
        // The replay keeps its permit even when nobody waits for it any more.
        let turn = turn.clone();
        let replaying = tokio::task::spawn_blocking(move || {
            let past = rewind(&partition, modules.as_ref(), moment, deadline);
            drop(turn);
            past
        });
        let position = match moment {
            Moment::Position(position) => Some(position),
            Moment::Time(_) => None,
        };
        match replaying.await {
            Ok(Ok(past)) => Ok(past),
            Ok(Err(RewindError::Gone)) => Err(position.map_or(QueryError::Deadline, QueryError::Gone)),
            Ok(Err(RewindError::Cancelled)) => Err(QueryError::Deadline),
            Ok(Err(RewindError::Partition(error))) => Err(partition_error(error)),
            Ok(Err(error @ RewindError::Replay(_))) => Err(QueryError::Fault(error.to_string())),
            Err(_) => Err(QueryError::Unavailable(unavailable(UnavailableReason::ShuttingDown))),
        }
    }
}

/// The last position of a snapshot's entry, when nothing was replayed after the snapshot.
async fn last_position(partition: &Arc<Partition>, of: Position) -> Position {
    let partition = partition.clone();
    let finding = tokio::task::spawn_blocking(move || partition.last_position(of)).await;
    finding.unwrap_or(of)
}
