//! The executor step by step, without a thread and without a group: what those are told who wait when leading ends, and
//! what a replica does that does not lead.
//!
//! In: inputs, and a ticket in each place where one can wait. Out: what each ticket is told, and when. It does not
//! know what consensus does.

use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::steps::Stepped;
use super::timelines::{NOW, SECOND, clock_at, submission};
use super::*;
use crate::clock::Clock;
use crate::ids::{Digest, Micros, Term};
use crate::log::Payload;
use crate::machine::entry::{Entry, EntryKind, Header};
use crate::machine::journal::{Journal, Verdict};
use crate::partition::actions::NextStep;
use crate::partition::error::HaltReason;
use crate::partition::known_ids::Purpose;
use crate::partition::leader::LeaderState;
use crate::partition::message::{Input, Message};
use crate::partition::requests::{ActivationRequest, NotOrdered, Ordered};
use crate::partition::run::Executor;
use crate::partition::status::RunState;
use crate::saga::{Order, OrderKind};
use crate::sequencer::admission::Admission;
use crate::sequencer::submission::{NotNow, Refusal, Replies, Reply, Submission};

/// Those who wait, each in another place.
struct Waits {
    replies: Arc<Replies>,
    order: oneshot::Receiver<Result<JournalIndex, NotOrdered>>,
    activation: oneshot::Receiver<Result<Journal, String>>,
}

impl Waits {
    fn in_each_place(stepped: &mut Stepped) -> Self {
        let replies = Replies::new(11);
        let board = stepped.driver.board.clone();
        let (executor, out) = (&mut stepped.driver.executor, &mut stepped.driver.actions);
        let Executor { base, role, .. } = executor;
        let leader = role.leader().expect("it leads");
        let new = |slot: usize, number: u8| {
            let new = submission(number, Micros(i64::MAX), None, replies.ticket(slot));
            assert!(board.reserve(new.size), "there is room");
            new
        };
        let in_flight = &mut base.waiters.in_flight;
        // Queued, and another request for the same.
        leader.queue.push(first(in_flight.admit(new(0, 0), None)));
        assert!(matches!(in_flight.admit(new(1, 0), None), Admission::Follows));
        // To be recorded as refused; with the id of another command; too late for the next entry.
        leader.queue.forbid(first(in_flight.admit(new(2, 2), None)), Vec::new());
        leader.queue.clash(new(3, 0));
        let late = first(in_flight.admit(new(4, 4), None));
        // Proposed, and another request for the same.
        let proposed = first(in_flight.admit(new(5, 5), None));
        assert!(matches!(in_flight.admit(new(6, 5), None), Admission::Follows));
        // The room of these two is given back when they follow, and that of the proposed one when it is proposed.
        board.release(3 * proposed.size);
        let now = base.now();
        leader.expire(base, late, &now, out).expect("nothing is looked up");
        let journal = base.at.journal();
        speculate(leader, journal, Entry::tick(header_after(journal, EntryKind::Tick)), proposed);
        // For the end of a command, once as a follower, and for an entry that is to be read.
        let started = first(base.waiters.in_flight.admit(new(7, 7), None));
        assert!(matches!(base.waiters.in_flight.admit(new(10, 7), None), Admission::Follows));
        board.release(2 * 512);
        base.waiters.wait_for_end(id_of(7), started.ticket);
        base.recall(JournalIndex(1), Purpose::End(replies.ticket(8), 0), out);
        base.recall(JournalIndex(1), Purpose::Admit(Box::new(new(9, 9))), out);
        let (order_reply, order) = oneshot::channel();
        let (activation_reply, activation) = oneshot::channel();
        stepped.step(Input::Order(order_of(order_reply)));
        let logic = NativeLogic::<System>::new();
        let wanted = Activation { module: logic.id(), schema: logic.describe().schema, number: 1 };
        stepped.step(Input::Activate(ActivationRequest { activation: wanted, reply: activation_reply }));
        Self { replies, order, activation }
    }

    /// What each has been told since the last time.
    fn told(&self) -> Vec<&'static str> {
        let word = |reply: Option<Reply>| match reply {
            None => "-",
            Some(Reply::Unknown) => "unknown",
            Some(Reply::Refused(Refusal::NotNow(NotNow::NotLeading))) => "not leading",
            Some(Reply::Refused(Refusal::NotNow(NotNow::LeftOut))) => "left out",
            Some(Reply::Refused(Refusal::ShuttingDown)) => "shutting down",
            Some(other) => panic!("{other:?}"),
        };
        self.replies.take().into_iter().map(word).collect()
    }

    /// Whether operators were told to ask again.
    fn are_operators_told(&mut self) -> bool {
        let is_closed = |found| matches!(found, TryRecvError::Closed);
        self.order.try_recv().is_err_and(is_closed) && self.activation.try_recv().is_err_and(is_closed)
    }
}

fn first(admitted: Admission) -> Submission {
    match admitted {
        Admission::First(submission) => submission,
        Admission::Follows | Admission::Clashes(_) => panic!("nothing else has its id"),
    }
}

fn order_of(reply: oneshot::Sender<Result<JournalIndex, NotOrdered>>) -> Ordered {
    Ordered { order: Order::new(id_of(8), OrderKind::Abort, "operator", "it is stuck"), reply }
}

fn header_after(journal: Journal, kind: EntryKind) -> Header {
    Header {
        kind,
        index: journal.index.next(),
        time: journal.next_time(Micros(NOW)),
        parent: journal.head,
        seed: [0; 32],
        planner: journal.module,
        decider: journal.module,
        digest: Digest::ZERO,
    }
}

/// As if the entry were proposed with the submission.
fn speculate(leader: &mut LeaderState, journal: Journal, entry: Entry, submission: Submission) {
    let Ok(Verdict::Effective(after)) = journal.judge(&entry) else { panic!("it follows the journal") };
    leader.speculation.push(entry, after, Vec::new(), vec![submission]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_leading_ends_each_ticket_is_answered_or_keeps_waiting_for_what_will_be_known() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stepped = Stepped::open(&options(folder.path()));
    stepped.elect(1);
    let mut waits = Waits::in_each_place(&mut stepped);
    assert_eq!(waits.told(), ["-"; 11]);
    stepped.depose();
    let no = "not leading";
    assert_eq!(waits.told(), [no, no, no, no, no, "-", "unknown", "-", "-", "-", "-"]);
    assert!(waits.are_operators_told());
    assert!(!stepped.is_leading());
    assert_eq!(stepped.queue_bytes(), 512, "the one that waits for an entry keeps its room");
    stepped.commit(2, Payload::Blank);
    assert_eq!(waits.told(), ["-", "-", "-", "-", "-", "left out", "-", "-", "-", "-", "-"]);
    let board = stepped.driver.board.clone();
    stepped.driver.end(RunState::Closed, &stepped.messages);
    let ends = "shutting down";
    assert_eq!(waits.told(), ["-", "-", "-", "-", "-", "-", "-", "unknown", ends, ends, "unknown"]);
    assert_eq!(board.queue_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_executor_ends_while_it_leads_each_ticket_is_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stepped = Stepped::open(&options(folder.path()));
    stepped.elect(1);
    let mut waits = Waits::in_each_place(&mut stepped);
    let board = stepped.driver.board.clone();
    stepped.driver.end(RunState::Closed, &stepped.messages);
    let (ends, unknown) = ("shutting down", "unknown");
    assert_eq!(waits.told(), [ends, ends, ends, ends, ends, unknown, unknown, unknown, ends, ends, unknown]);
    assert!(waits.are_operators_told());
    assert_eq!(board.queue_bytes.load(Ordering::Relaxed), 0);
}

/// A client whose command was in the entry that halted the executor used to wait until its deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_halts_the_executor_leaves_nobody_without_an_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stepped = Stepped::open(&options(folder.path()));
    stepped.elect(1);
    let replies = Replies::new(1);
    let Executor { base, role, .. } = &mut stepped.driver.executor;
    let journal = base.at.journal();
    let module = ModuleId::of(b"nobody has it");
    let entry =
        Entry::activate(header_after(journal, EntryKind::Activate), Activation { module, schema: 1, number: 0 });
    let payload = Payload::Entry(entry.payload().clone());
    let proposed = submission(1, Micros(i64::MAX), None, replies.ticket(0));
    speculate(role.leader().expect("it leads"), journal, entry, proposed);
    stepped.commit(1, payload);
    let Ok(Message::Input(loaded)) = stepped.messages.recv() else { panic!("the module was looked for") };
    let halted = stepped.driver.step(loaded);
    assert!(matches!(halted, Err(HaltReason::Module { .. })), "{halted:?}");
    let told = replies.take();
    assert!(matches!(told[..], [Some(Reply::Unknown)]), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_keeps_its_state_for_one_term() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stepped = Stepped::open(&options(folder.path()));
    stepped.elect(1);
    let waits = Waits::in_each_place(&mut stepped);
    stepped.elect(1);
    assert_eq!(waits.told(), ["-"; 11], "it was said twice");
    stepped.elect(2);
    assert_eq!(waits.told()[..5], ["not leading"; 5]);
    let leader = stepped.driver.executor.role.leader().expect("it leads again");
    assert!((leader.term, leader.queue.len(), leader.speculation.len()) == (Term(2), 0, 0));
}

/// What only a leader may do needs a leader's state, and neither a follower nor a restore has one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_does_not_lead_takes_in_nothing() {
    for leading in [Leading::Decides, Leading::Restores] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut stepped = Stepped::open(&PartitionOptions { leading, ..options(folder.path()) });
        if leading == Leading::Restores {
            stepped.elect(1);
        }
        let replies = Replies::new(1);
        let asked = submission(1, Micros(i64::MAX), None, replies.ticket(0));
        assert!(stepped.driver.board.reserve(asked.size));
        let (reply, mut ordered) = oneshot::channel();
        let (drain_reply, mut drained) = oneshot::channel();
        stepped.step(Input::Submit(vec![asked]));
        stepped.step(Input::Order(order_of(reply)));
        stepped.step(Input::AskDrained(drain_reply));
        stepped.step(Input::WaitForTime(Micros(i64::MAX)));
        stepped.step(Input::Answered(Vec::new()));
        stepped.step(Input::Quiet);
        assert_eq!(stepped.driver.actions.next, NextStep::Message);
        assert!(!stepped.is_leading() && stepped.queue_bytes() == 0, "{leading:?}");
        let told = replies.take();
        assert!(matches!(told[..], [Some(Reply::Refused(Refusal::NotNow(NotNow::NotLeading)))]), "{told:?}");
        assert_eq!(ordered.try_recv().expect("it is answered"), Err(NotOrdered::NotLeading));
        assert_eq!(drained.try_recv(), Ok(false), "what is under way is not known here");
    }
}

/// A leader's present is the present of the replica that it was: it has noticed as a follower that its journal is
/// ahead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_a_journal_that_is_ahead_passes_on_a_follower() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |clock: Arc<dyn Clock>| PartitionOptions { clock, ..options(folder.path()) };
    let partition = open_with(at(clock_at(NOW + 3600 * SECOND))).await.expect("it opens");
    create(&partition, 0..1).await;
    partition.close().await.expect("it closes");
    drop(partition);
    let clock = clock_at(NOW);
    let mut stepped = Stepped::open(&at(clock.clone()));
    stepped.step(Input::Quiet);
    let now = stepped.driver.executor.base.now();
    clock.pass(Duration::from_secs(10));
    let base = &stepped.driver.executor.base;
    let journal = base.at.journal().time;
    assert_eq!(base.present(&now), journal, "at that moment, whatever the clock shows since");
    assert_eq!(base.present(&base.now()), Micros(journal.0 + 5 * SECOND), "half as fast as time");
}
