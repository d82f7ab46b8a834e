//! The executor step by step, without a thread and without a group: what each step says is to be done, and in which
//! order.
//!
//! In: inputs. Out: actions, in words. It does not know what consensus does.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};

use expect_test::{Expect, expect};
use tokio::sync::oneshot;

use super::timelines::{NOW, clock_at, submission};
use super::*;
use crate::clock::Clock;
use crate::consensus::{CommittedValue, Leadership};
use crate::ids::{Head, LogIndex, Micros, Term};
use crate::log::{LogEntry, Payload};
use crate::partition::actions::{Action, Actions, NextStep, OneshotReply};
use crate::partition::coordinate::cancelled;
use crate::partition::driver::Driver;
use crate::partition::error::HaltReason;
use crate::partition::leader::{LeaderState, ReplicaRole};
use crate::partition::message::{Input, Message};
use crate::partition::migrate::MigrationJob;
use crate::partition::now::Now;
use crate::partition::open::Files;
use crate::partition::propose::Proposing;
use crate::partition::requests::ActivationRequest;
use crate::partition::run::Executor;
use crate::partition::status::RunState;
use crate::sequencer::admission::Admission;
use crate::sequencer::submission::{Refusal, Replies, Reply, Submission};
use crate::store::{Meta, WrittenRows};

/// An executor that nobody drives but the test.
pub struct Stepped {
    pub driver: Driver,
    pub messages: Receiver<Message>,
    /// What was proposed and is not committed yet, oldest first.
    proposed: Vec<(Head, Payload)>,
    /// What the last step that was checked has asked for.
    pub migrating: Option<Box<MigrationJob>>,
    pub replacing: Option<Box<(WrittenRows, Meta)>>,
}

impl Stepped {
    /// The module decides already.
    pub fn open(options: &PartitionOptions) -> Self {
        Self::open_with(options, Some(Arc::new(NativeLogic::<System>::new())))
    }

    pub fn open_with(options: &PartitionOptions, logic: Option<Arc<dyn Logic>>) -> Self {
        let files = Files::open(options).expect("it opens");
        let (mailbox, messages) = channel();
        let driver = files.driver(options, logic, mailbox);
        Self { driver, messages, proposed: Vec::new(), migrating: None, replacing: None }
    }

    /// Takes one input, and carries out what is to be done. A group is not there to propose to.
    pub fn step(&mut self, input: Input) {
        self.driver.step(input).expect("it does not halt");
    }

    pub fn elect(&mut self, term: u64) {
        self.step(Input::Leadership(Leadership::Leader { term: Term(term) }));
    }

    pub fn depose(&mut self) {
        self.step(Input::Leadership(Leadership::Follower { leader: None, term: Term(2) }));
    }

    pub fn is_leading(&self) -> bool {
        matches!(self.driver.executor.role, ReplicaRole::Leading(_))
    }

    pub fn queue_bytes(&self) -> usize {
        self.driver.board.queue_bytes.load(Ordering::Relaxed)
    }

    /// The next entry of the log, as a leader of this term has written it.
    pub fn committed(&self, term: u64, payload: Payload) -> Input {
        let last = self.driver.executor.base.at.log_index().unwrap_or(LogIndex(0));
        let id = EntryId { term: Term(term), node: NodeId(1), index: last.next() };
        Input::Committed(CommittedValue::by_test(LogEntry { id, payload }))
    }

    pub fn commit(&mut self, term: u64, payload: Payload) {
        self.step(self.committed(term, payload));
    }

    pub fn leader(&mut self) -> &mut LeaderState {
        self.driver.executor.role.leader().expect("it leads")
    }

    /// Puts a submission into the queue, as if a majority were heard.
    pub fn queue(&mut self, submission: Submission) {
        let admitted = self.driver.executor.base.waiters.in_flight.admit(submission, None);
        let Admission::First(submission) = admitted else { panic!("nothing else has its id") };
        self.leader().queue.push(submission);
    }

    /// Checks why nothing is proposed although a command waits. The command is taken back: a leader without a group is
    /// not heard, so a whole step would refuse it.
    pub fn check_nothing_begins(&mut self, submission: Submission, why: Proposing) {
        self.queue(submission);
        let Executor { base, role, .. } = &mut self.driver.executor;
        let (leader, mut now, mut out) = (role.leader().expect("it leads"), base.now(), Actions::default());
        let proposing = leader.propose_next(base, &mut now, &mut out).expect("it does not halt");
        assert_eq!((proposing, out.is_empty()), (why, true));
        let submission = leader.queue.pop().expect("it still waits");
        base.waiters.refuse(submission, Refusal::Overloaded, &mut out);
    }

    /// The commit of the oldest entry that was proposed.
    pub fn oldest_committed(&mut self) -> Input {
        let (_, payload) = self.proposed.remove(0);
        self.committed(1, payload)
    }

    /// Compares what a step says is to be done. Nothing of it is carried out.
    pub fn check(&mut self, input: Input, expected: Expect) {
        let mut out = Actions::default();
        let result = self.driver.executor.step(input, &mut out);
        let mut said = String::new();
        let queue_bytes = out.take_queue_bytes();
        if queue_bytes != 0 {
            said += &format!("queue {queue_bytes:+}\n");
        }
        for action in out.take() {
            said += &format!("{}\n", words_of(&action));
            match action {
                Action::Propose { head, payload, .. } => self.proposed.push((head, Payload::Entry(payload))),
                Action::Migrate(job) => self.migrating = Some(job),
                Action::Replace(replacement) => self.replacing = Some(replacement),
                _ => {}
            }
        }
        match (result, out.next) {
            (Err(reason), _) => said += &format!("halts: {reason}\n"),
            (Ok(()), NextStep::Again) => said += "again\n",
            (Ok(()), NextStep::Within(_)) => said += "later\n",
            (Ok(()), NextStep::Message) => {}
        }
        expected.assert_eq(&said);
    }
}

fn words_of(action: &Action) -> String {
    match action {
        Action::Publish(progress) => format!("publish entry {}", progress.journal.index),
        Action::Reply(ticket, Reply::Refused(refusal)) => format!("refuse {ticket:?}: {refusal:?}"),
        Action::Reply(ticket, Reply::Unknown) => format!("tell {ticket:?}: unknown"),
        Action::Reply(ticket, Reply::Recorded { recorded, command, .. }) => {
            format!("tell {ticket:?}: command {command} of entry {}", recorded.entry.header().index)
        }
        Action::Reply(ticket, reply) => format!("tell {ticket:?}: {reply:?}"),
        Action::Answer(answers) => format!("{answers:?}"),
        Action::Tell(reply) => match reply.as_ref() {
            OneshotReply::Activated(_, result) => format!("activated: {}", result.is_ok()),
            OneshotReply::Drained(_, is_drained) => format!("drained: {is_drained}"),
            OneshotReply::Ordered(_, result) => format!("ordered: {result:?}"),
            OneshotReply::Snapshot(_, result) => format!("snapshot: {}", result.is_ok()),
        },
        Action::KeepWords(id, _) => format!("keep words about {id}"),
        Action::Propose { term, .. } => format!("propose in term {}", term.0),
        Action::Call { partition, calls } => format!("call partition {partition}, {} calls", calls.len()),
        Action::Recall { entries, .. } => format!("read {} entries", entries.len()),
        Action::Load(_) => "load a module".to_owned(),
        Action::Migrate(_) => "migrate".to_owned(),
        Action::Replace(_) => "replace rows".to_owned(),
        Action::ShowInTransit { .. } => "show in transit".to_owned(),
    }
}

/// A leader of a journal with one entry, which has made the module active.
fn leading(folder: &Path, clock: Arc<dyn Clock>) -> Stepped {
    leading_with(&PartitionOptions { clock, ..options(folder) })
}

pub fn leading_with(options: &PartitionOptions) -> Stepped {
    let mut stepped = Stepped::open_with(options, None);
    stepped.elect(1);
    let logic = NativeLogic::<System>::new();
    let activation = Activation { module: logic.id(), schema: logic.describe().schema, number: 0 };
    let (reply, _) = oneshot::channel();
    stepped.check(Input::Activate(ActivationRequest { activation, reply }), expect![""]);
    stepped.check(
        Input::Quiet,
        expect![[r#"
            propose in term 1
            later
        "#]],
    );
    let applied = stepped.oldest_committed();
    stepped.check(
        applied,
        expect![[r#"
            publish entry 1
            activated: true
        "#]],
    );
    stepped
}

pub fn command(number: u8, replies: &Arc<Replies>) -> Submission {
    submission(number, Micros(i64::MAX), None, replies.ticket(usize::from(number)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_is_proposed_and_published_before_it_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let (clock, replies) = (clock_at(NOW), Replies::new(4));
    let mut stepped = leading(folder.path(), clock.clone());
    clock.pass(Duration::from_secs(10));
    stepped.queue(command(0, &replies));
    stepped.queue(command(1, &replies));
    stepped.check(
        Input::Quiet,
        expect![[r#"
            queue -1024
            propose in term 1
            again
        "#]],
    );
    stepped.check(
        Input::Quiet,
        expect![[r#"
            later
        "#]],
    );
    // The same command once more, while it is under way and after it is recorded.
    let again = |slot| submission(0, Micros(i64::MAX), None, replies.ticket(slot));
    let follows = stepped.driver.executor.base.waiters.in_flight.admit(again(2), None);
    assert!(matches!(follows, Admission::Follows));
    let applied = stepped.oldest_committed();
    stepped.check(
        applied,
        expect![[r#"
            show in transit
            publish entry 2
            answer from entry 2: [(0, ticket 2), (0, ticket 0), (1, ticket 1)]
        "#]],
    );
    stepped.check(
        Input::Submit(vec![again(3)]),
        expect![[r#"
            queue -512
            tell ticket 3: command 0 of entry 2
        "#]],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_proposes_one_entry_and_records_take_turns_with_batches() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stepped, replies) = (leading(folder.path(), clock_at(NOW)), Replies::new(3));
    stepped.queue(command(0, &replies));
    stepped.queue(command(1, &replies));
    let leader = stepped.leader();
    let first = leader.queue.pop().expect("two wait");
    leader.queue.forbid(first, cancelled());
    for _ in ["the one to record as refused", "the one to decide"] {
        stepped.check(
            Input::Quiet,
            expect![[r#"
                queue -512
                propose in term 1
                again
            "#]],
        );
    }
    stepped.check(
        Input::Quiet,
        expect![[r#"
            later
        "#]],
    );
    let kinds = stepped.leader().speculation.batches().map(|batch| batch.submissions[0].id);
    assert_eq!(kinds.collect::<Vec<_>>(), [id_of(0), id_of(1)]);
}

/// What was proposed in vain is refused with what depends on it; what may still be committed keeps waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_proposal_is_refused_unless_it_may_be_in_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stepped, replies) = (leading(folder.path(), clock_at(NOW)), Replies::new(2));
    stepped.queue(command(0, &replies));
    stepped.check(
        Input::Quiet,
        expect![[r#"
            queue -512
            propose in term 1
            again
        "#]],
    );
    stepped.queue(command(1, &replies));
    let (head, _) = stepped.proposed.remove(0);
    stepped.check(Input::ProposalLost { head, is_appended: true }, expect![""]);
    stepped.check(
        Input::ProposalLost { head, is_appended: false },
        expect![[r#"
            queue -512
            refuse ticket 0: NotNow(NotAppended)
            refuse ticket 1: NotNow(NotAppended)
        "#]],
    );
    stepped.check(Input::ProposalLost { head, is_appended: false }, expect![""]);
}

/// Consensus refuses one entry and takes the next, which was computed on it. An auditor cannot tell the void entry from
/// what remains when one is removed, until an effective one follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_log_ends_with_a_void_entry_appends_a_tick() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stepped, replies) = (leading(folder.path(), clock_at(NOW)), Replies::new(2));
    for number in [0, 1] {
        stepped.queue(command(number, &replies));
        stepped.check(
            Input::Quiet,
            expect![[r#"
                queue -512
                propose in term 1
                again
            "#]],
        );
    }
    let (head, _) = stepped.proposed.remove(0);
    stepped.check(
        Input::ProposalLost { head, is_appended: false },
        expect![[r#"
            refuse ticket 0: NotNow(NotAppended)
            refuse ticket 1: NotNow(NotAppended)
        "#]],
    );
    let void = stepped.oldest_committed();
    stepped.check(
        void,
        expect![[r#"
            publish entry 1
        "#]],
    );
    stepped.check(
        Input::Quiet,
        expect![[r#"
            propose in term 1
            later
        "#]],
    );
    let tick = stepped.oldest_committed();
    stepped.check(
        tick,
        expect![[r#"
            publish entry 2
        "#]],
    );
    stepped.check(
        Input::Quiet,
        expect![[r#"
            later
        "#]],
    );
}

/// Nobody is heard, because there is no group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_no_majority_hears_takes_nothing_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stepped, replies) = (leading(folder.path(), clock_at(NOW)), Replies::new(1));
    stepped.check(
        Input::Submit(vec![command(0, &replies)]),
        expect![[r#"
            queue -512
            refuse ticket 0: NotNow(NoMajority)
        "#]],
    );
}

/// What a coordinator did not hear is asked for again after a while, by a timer of the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_step_is_due_when_a_timer_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stepped = leading(folder.path(), clock_at(NOW));
    let Executor { base, role, .. } = &mut stepped.driver.executor;
    let (leader, now) = (role.leader().expect("it leads"), base.now());
    let idle = leader.patience(base, &now);
    leader.call_again_later(&now, vec![id_of(1)]);
    let due = leader.timers.next().expect("it is set");
    assert_eq!(leader.patience(base, &now), due - now.instant);
    assert!(due - now.instant < idle);
    let mut out = Actions::default();
    leader.make_calls(base, &now, &mut out);
    assert_eq!(leader.timers.next(), Some(due), "it is not due yet");
    leader.make_calls(base, &Now { instant: due, ..base.now() }, &mut out);
    assert!(leader.timers.next().is_none() && out.is_empty(), "the command is over");
    leader.call_again_later(&now, vec![id_of(1)]);
    stepped.depose();
    stepped.elect(3);
    assert_eq!(stepped.leader().timers.next(), None, "timers end with the leader that has set them");
}

/// A step that fails has answered some: they hear that, and not *unknown*. Nothing is proposed any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replies_of_a_step_that_failed_still_leave() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stepped, replies) = (leading(folder.path(), clock_at(NOW)), Replies::new(2));
    let Driver { executor, actions, .. } = &mut stepped.driver;
    actions.refuse(replies.ticket(0), Refusal::Overloaded);
    actions.push(Action::Propose { term: Term(1), head: Head([0; 32]), payload: bytes::Bytes::new() });
    executor.base.waiters.wait_for_end(id_of(1), replies.ticket(1));
    stepped.messages = channel().1;
    stepped.driver.end(RunState::Halted(HaltReason::Store("a test says so".to_owned())), &stepped.messages);
    let told = replies.take();
    assert!(matches!(told[..], [Some(Reply::Refused(Refusal::Overloaded)), Some(Reply::Unknown)]), "{told:?}");
}
