//! The driver of an executor: one thread a partition, which waits for messages, steps, and carries the actions out in
//! order.
//!
//! ```text
//! mailbox ─▶ input ─▶ Executor::step ─▶ actions ─▶ board, clients, group, other partitions, disk
//!    ▲                                                                              │
//!    └───────────────────────────── results, lost proposals ◀───────────────────────┘
//! ```
//! In: messages. Out: what a step has said is to be done. Actions of a step are carried out before the next step, so an
//! entry is proposed before the next one is decided. This file decides nothing, and does not know why an action is due.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};

use bytes::Bytes;
use futures_util::FutureExt;

use crate::consensus::ConsensusError;
use crate::ids::{CommandId, Head, JournalIndex, LogIndex, PartitionId, Term};
use crate::machine::decide::Diagnostic;
use crate::machine::journal::Journal;
use crate::partition::actions::{Action, Actions, NextStep};
use crate::partition::error::{HaltReason, panic_text};
use crate::partition::in_transit::Shown;
use crate::partition::message::{Input, Message};
use crate::partition::participants::{DueCall, Participants};
use crate::partition::run::Executor;
use crate::partition::status::{Board, RunState};

pub struct Driver {
    pub executor: Executor,
    /// What the last step has said, until it is carried out.
    pub actions: Actions,
    pub board: Arc<Board>,
    pub participants: Arc<dyn Participants>,
    pub runtime: tokio::runtime::Handle,
    /// The executor's own mailbox, for the results of what is carried out.
    pub mailbox: Sender<Message>,
    /// Messages that wait until a hold ends, in order. The bounds of what may be in the mailbox hold for both together.
    pub held: VecDeque<Message>,
    /// Ends what is carried out beside the executor and would take long.
    pub is_ended: Arc<AtomicBool>,
}

/// Why the driver woke up.
enum Wake {
    Message(Message),
    /// The step that is due if nothing has arrived.
    Quiet,
    /// No sender is left.
    Closed,
}

impl Driver {
    /// Runs until it is stopped, or halts for good. A panic halts this partition only.
    pub fn run(mut self, mailbox: &Receiver<Message>) {
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| self.serve(mailbox)));
        let state = match result {
            Ok(Ok(())) => RunState::Closed,
            Ok(Err(reason)) => RunState::Halted(reason),
            Err(panic) => RunState::Halted(HaltReason::Panic(panic_text(&*panic))),
        };
        self.end(state, mailbox);
    }

    fn serve(&mut self, mailbox: &Receiver<Message>) -> Result<(), HaltReason> {
        let mut next = NextStep::Message;
        loop {
            next = match self.next_message(mailbox, next) {
                Wake::Message(Message::Stop) | Wake::Closed => return Ok(()),
                // Takes all messages that are already there, so that a batch includes everybody who waits.
                Wake::Message(message) => {
                    self.on_message(message)?;
                    NextStep::Again
                }
                Wake::Quiet => {
                    self.step(Input::Quiet)?;
                    self.board.in_flight.store(self.executor.base.waiters.in_flight.len(), Ordering::Relaxed);
                    self.actions.next
                }
            };
        }
    }

    /// While the executor holds, sets all messages aside that must wait.
    fn next_message(&mut self, mailbox: &Receiver<Message>, mut next: NextStep) -> Wake {
        while self.executor.is_holding() {
            match wait(mailbox, next) {
                Wake::Message(message) if !message.passes_hold() => self.held.push_back(message),
                wake => return wake,
            }
            // However many messages arrive, it is looked whether the hold has ended.
            next = NextStep::Again;
        }
        self.held.pop_front().map_or_else(|| wait(mailbox, next), Wake::Message)
    }

    fn on_message(&mut self, message: Message) -> Result<(), HaltReason> {
        match message {
            Message::Input(input) => self.step(input)?,
            Message::Committed(entries, permit) => {
                let mut entries = entries.into_iter();
                while let Some(entry) = entries.next() {
                    self.step(Input::Committed(entry))?;
                    if self.executor.is_holding() {
                        // The group hands over no more than it may, until the hold ends.
                        self.held.push_front(Message::Committed(entries.collect(), permit));
                        return Ok(());
                    }
                }
            }
            Message::Started(group) => self.executor.base.environment.group = Some(group),
            Message::Stop => unreachable!("the loop handles it"),
        }
        Ok(())
    }

    /// Takes one input, and carries out what is to be done.
    ///
    /// # Errors
    /// The partition halts. What the step has said before stays in the list.
    pub fn step(&mut self, input: Input) -> Result<(), HaltReason> {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            self.executor.step(input, &mut self.actions)?;
            next = self.carry_out();
        }
        Ok(())
    }

    /// Carries all actions out, in order. Returns the next input if a proposal was refused at once.
    pub fn carry_out(&mut self) -> Option<Input> {
        // A client that hears an answer finds the room that its submission had in the queue.
        self.board.change_queue_bytes(self.actions.take_queue_bytes());
        let mut list = self.actions.take();
        let mut lost = None;
        for action in list.drain(..) {
            match action {
                Action::Publish(progress) => drop(self.board.progress.send_replace(progress)),
                Action::Reply(ticket, reply) => ticket.reply(reply),
                Action::Answer(answers) => answers.send(),
                Action::Tell(reply) => reply.send(),
                Action::KeepWords(id, diagnostic) => self.keep_words(id, &diagnostic),
                Action::Propose { term, head, payload } => lost = self.propose(term, head, payload),
                Action::Call { partition, calls } => self.call(partition, calls),
                Action::Recall { entries, applied, journal } => self.recall(entries, applied, journal),
                Action::Load(id) => {
                    let modules = self.executor.base.modules.clone();
                    self.beside(move || Input::Loaded(id, modules.load(id)));
                }
                Action::Migrate(job) => {
                    let is_ended = self.is_ended.clone();
                    self.beside(move || Input::Migrated(Box::new(job.run(&is_ended))));
                }
                Action::Replace(replacement) => {
                    let store = self.executor.base.store.clone();
                    self.beside(move || Input::Replaced(store.replace(&replacement.0, &replacement.1)));
                }
                Action::ShowInTransit { at, logic, view } => {
                    *self.board.shown.lock() = Some(Shown::of(at, logic, view));
                }
            }
        }
        self.actions.give_back(list);
        lost
    }

    fn keep_words(&self, id: CommandId, diagnostic: &Diagnostic) {
        if let Some(file) = self.board.panics.record(id, diagnostic) {
            // Nobody waits for the sync, and a message about its failure would help nobody.
            drop(self.runtime.spawn_blocking(move || file.sync_data()));
        }
    }

    /// Hands an entry to consensus, and never waits.
    fn propose(&self, term: Term, head: Head, payload: Bytes) -> Option<Input> {
        let group = self.executor.base.environment.group.as_ref().expect("only a started group leads");
        let is_appended = match group.propose(term, payload).now_or_never() {
            Some(Ok(proposed)) => {
                let mailbox = self.mailbox.clone();
                self.runtime.spawn(async move {
                    if let Err(error) = proposed.await {
                        let is_appended = matches!(error, ConsensusError::OutcomeUnknown | ConsensusError::Stopped(_));
                        // The executor may be gone; then it has answered everybody.
                        drop(mailbox.send(Message::Input(Input::ProposalLost { head, is_appended })));
                    }
                });
                return None;
            }
            Some(Err(error)) => matches!(error, ConsensusError::Stopped(_)),
            // The group's queue is full, or its end is under way: nothing was proposed.
            None => false,
        };
        Some(Input::ProposalLost { head, is_appended })
    }

    fn call(&self, partition: PartitionId, calls: Vec<DueCall>) {
        let (participants, mailbox) = (self.participants.clone(), self.mailbox.clone());
        self.runtime.spawn(async move {
            let mut keys = Vec::with_capacity(calls.len());
            let mut submissions = Vec::with_capacity(calls.len());
            for (id, key, submission) in calls {
                keys.push((id, key));
                submissions.push(submission);
            }
            let answered = participants.call(partition, submissions).await;
            assert_eq!(answered.len(), keys.len(), "one answer for each call");
            let answers = keys.into_iter().zip(answered).map(|((id, key), answered)| (id, key, answered)).collect();
            // The executor may be gone; the next leader asks again.
            drop(mailbox.send(Message::Input(Input::Answered(answers))));
        });
    }

    fn recall(&self, wanted: Vec<JournalIndex>, applied: Option<LogIndex>, journal: Journal) {
        let entries = self.executor.base.entries.clone();
        self.beside(move || Input::Recalled(entries.recall(wanted, applied, &journal)));
    }

    /// Does what waits on another thread. The executor is told the result.
    fn beside(&self, work: impl FnOnce() -> Input + Send + 'static) {
        let mailbox = self.mailbox.clone();
        self.runtime.spawn_blocking(move || {
            let done = std::panic::catch_unwind(AssertUnwindSafe(work));
            let input = done.unwrap_or_else(|panic| Input::Halt(HaltReason::Panic(panic_text(&*panic))));
            // The executor may be gone; then it has answered everybody.
            drop(mailbox.send(Message::Input(input)));
        });
    }
}

fn wait(mailbox: &Receiver<Message>, next: NextStep) -> Wake {
    match next {
        NextStep::Again => match mailbox.try_recv() {
            Ok(message) => Wake::Message(message),
            Err(TryRecvError::Empty) => Wake::Quiet,
            Err(TryRecvError::Disconnected) => Wake::Closed,
        },
        NextStep::Within(patience) => match mailbox.recv_timeout(patience) {
            Ok(message) => Wake::Message(message),
            Err(RecvTimeoutError::Timeout) => Wake::Quiet,
            Err(RecvTimeoutError::Disconnected) => Wake::Closed,
        },
        NextStep::Message => mailbox.recv().map_or(Wake::Closed, Wake::Message),
    }
}
