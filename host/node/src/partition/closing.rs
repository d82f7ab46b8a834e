//! The end of a partition: what its executor does at the end, how the other parts are closed, and when nothing is left.
//!
//! ```text
//! close ─▶ group stops ─▶ Stop ─▶ executor ends ─▶ state, ids and log are written and closed
//!       └ not within the grace ─▶ end the executor's waits ─ not in time ─▶ left open until the disk responds
//! ```
//! In: the order to close, or a reason to halt. Out: answers for all who wait, and files that may be opened again. This
//! file does not know who opens them.

use std::collections::VecDeque;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::consensus::ConsensusError;
use crate::limits::{PARTITION_CLOSE_GRACE, PARTITION_CLOSE_MAX};
use crate::partition::driver::Driver;
use crate::partition::error::PartitionError;
use crate::partition::handle::Partition;
use crate::partition::message::{Input, Message};
use crate::partition::status::RunState;
use crate::sequencer::submission::{Refusal, Reply};

/// What a partition still holds open after it is closed, because somebody still reads from it or its disk hangs.
pub struct Remains(Vec<Weak<()>>);

impl Remains {
    /// Whether its log, state and ids may be opened again.
    pub fn are_gone(&self) -> bool {
        self.0.iter().all(|open| open.strong_count() == 0)
    }
}

impl Partition {
    /// Stops taking part, waits for the executor, and writes what is applied. Ends within a bound, whatever the disk
    /// does.
    ///
    /// # Errors
    /// Something could not be written; it will be applied again from the log. Or [`PartitionError::NotClosed`].
    pub async fn close(&self) -> Result<(), PartitionError> {
        let Some(thread) = self.thread.lock().take() else { return Ok(()) };
        // A task of its own, so that it continues when nobody waits for it any more.
        let mut closing = tokio::spawn(self.close_in_order(thread));
        let closed = match tokio::time::timeout(PARTITION_CLOSE_GRACE, &mut closing).await {
            Ok(closed) => closed,
            Err(_) => {
                self.parts.board.is_closing.store(true, Ordering::Release);
                self.parts.store.end_waits("the partition is closed");
                self.parts.ids.end_waits("the partition is closed");
                // The group may hang although the executor does not.
                drop(self.parts.mailbox.send(Message::Stop));
                let left = tokio::time::timeout(PARTITION_CLOSE_MAX.saturating_sub(PARTITION_CLOSE_GRACE), closing);
                left.await.map_err(|_| PartitionError::NotClosed)?
            }
        };
        closed.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))
    }

    /// What must be gone before the same folder is opened again.
    pub fn remains(&self) -> Remains {
        Remains(vec![self.parts.log.open_mark(), self.parts.store.open_mark(), self.parts.ids.open_mark()])
    }

    fn close_in_order(&self, thread: JoinHandle<()>) -> BoxFuture<'static, Result<(), PartitionError>> {
        let (group, mailbox, canonical) =
            (self.parts.group.clone(), self.parts.mailbox.clone(), self.parts.canonical.clone());
        let (store, ids, log) = (self.parts.store.clone(), self.parts.ids.clone(), self.parts.log.clone());
        async move {
            let stopped = match group.shutdown().await {
                Ok(()) | Err(ConsensusError::Stopped(_)) => Ok(()),
                Err(error) => Err(error.into()),
            };
            drop(mailbox.send(Message::Stop));
            canonical.close();
            let closing = tokio::task::spawn_blocking(move || {
                let joined = thread.join();
                assert!(joined.is_ok(), "the executor catches its own panics");
                let written = store.flush().and_then(|()| ids.flush_durable());
                // Nothing more is written. Those who wait for a checkpoint hold the store open, and are told.
                store.end_waits("the partition is closed");
                ids.end_waits("the partition is closed");
                // Close the log even if the others failed: nobody may reopen a log that is not closed.
                let closed = log.close();
                written?;
                Ok::<(), PartitionError>(closed?)
            });
            closing.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
            stopped
        }
        .boxed()
    }
}

/// Turns a halt into a normal end if somebody is closing the partition, because a failure caused by closing is no
/// failure.
pub(super) fn state_at_end(state: RunState, is_closing: &AtomicBool) -> RunState {
    match state {
        RunState::Halted(_) if is_closing.load(Ordering::Acquire) => RunState::Closed,
        state => state,
    }
}

impl Driver {
    /// Answers all who wait, and those who came too late to see the board's state. A halted replica neither votes nor
    /// leads from now on, so the others elect a leader that answers.
    pub(super) fn end(mut self, state: RunState, mailbox: &Receiver<Message>) {
        self.is_ended.store(true, Ordering::Relaxed);
        let board = self.board.clone();
        let state = state_at_end(state, &board.is_closing);
        let is_halted = matches!(state, RunState::Halted(_));
        let refusal = if is_halted { Refusal::Halted } else { Refusal::ShuttingDown };
        if let RunState::Halted(reason) = &state {
            let base = &self.executor.base;
            tracing::error!(partition = %base.partition, %reason, "partition halted");
            metrics::gauge!("statehouse_partition_halted", &base.labels).set(1.0);
        }
        // Set the state before anybody is answered, so that a client that asks again is not sent here.
        board.state.send_replace(state);
        if is_halted {
            self.stop_group();
        }
        // The last step may have answered some clients before it failed. Nothing else that it wanted is done any more.
        self.actions.keep_answers();
        self.executor.end(refusal, &mut self.actions);
        let lost = self.carry_out();
        assert!(lost.is_none(), "nothing is proposed at the end");
        let mut held = std::mem::take(&mut self.held);
        let next = |held: &mut VecDeque<Message>| match held.pop_front() {
            Some(message) => Some(message),
            None if is_halted => mailbox.recv().ok(),
            None => mailbox.try_recv().ok(),
        };
        while let Some(message) = next(&mut held) {
            match message {
                Message::Input(Input::Submit(submissions)) => {
                    for submission in submissions {
                        board.release(submission.size);
                        submission.ticket.reply(Reply::Refused(refusal));
                    }
                }
                Message::Started(group) if is_halted => {
                    self.executor.base.environment.group = Some(group);
                    self.stop_group();
                }
                Message::Stop => break,
                _ => {}
            }
        }
    }

    fn stop_group(&self) {
        let Some(group) = self.executor.base.environment.group.clone() else { return };
        // The group may have stopped on its own.
        self.runtime.spawn(async move { drop(group.shutdown().await) });
    }
}
