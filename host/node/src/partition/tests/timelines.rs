//! Partitions whose journals are ahead of the clocks, or of each other: nothing stops because of that, and nothing is
//! answered that is not certain.
//!
//! In: clocks that stand still until time passes. Out: answers, journals, and their order.

use statehouse_abi::plan::{PlanInWriter, PlanItem};
use statehouse_guest::Commands;

use super::jars::{Calls, Cluster, id_at};
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::ids::{Fingerprint, Micros};
use crate::machine::plan::Plan;
use crate::records::command::CommandBody;
use crate::sequencer::submission::{Replies, Reply, Submission, Ticket};

pub const NOW: i64 = 1_700_000_000_000_000;
pub const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
const MOVES: [(usize, usize); 6] = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];

pub fn clock_at(time: i64) -> Arc<ManualClock> {
    let clock = Arc::new(ManualClock::default());
    clock.set(Micros(time));
    clock
}

fn clocks(times: [i64; 3]) -> [Arc<dyn Clock>; 3] {
    times.map(|time| clock_at(time) as Arc<dyn Clock>)
}

/// Sums of what moved after these journal indexes, in the order of the entries' times.
fn sums_by_time(cluster: &Cluster, since: &[JournalIndex]) -> Vec<i64> {
    let mut moved = Vec::new();
    for (partition, since) in cluster.partitions.iter().zip(since) {
        let end = partition.progress().journal.index;
        for index in since.0 + 1..=end.0 {
            let recorded = partition.find_entry(JournalIndex(index)).expect("nothing is released");
            let Some(batch) = recorded.entry.batch() else { continue };
            // The end of a command on several partitions lists what has happened before.
            if !recorded.entry.records().marks.is_empty() {
                continue;
            }
            let coins = |at: usize| {
                let event = batch.outcome.event(at).payload;
                i64::from_le_bytes(event.try_into().expect("eight bytes"))
            };
            let sum: i64 = (0..batch.outcome.event_count()).map(coins).sum();
            if batch.outcome.event_count() > 0 {
                moved.push((recorded.entry.header().time, sum));
            }
        }
    }
    moved.sort_unstable();
    let mut sum = 0;
    moved
        .iter()
        .map(|(_, coins)| {
            sum += coins;
            sum
        })
        .collect()
}

/// Cross-partition commands used to be postponed while one journal was ahead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_partition_a_day_ahead_takes_part_in_moves_and_cuts_stay_consistent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let features = Features::at(features::HIGHEST);
    let cluster = Cluster::open_at(folder.path(), &features, Calls::CarriedOut, clocks([NOW + DAY, NOW, NOW])).await;
    for jar in 0..3 {
        assert!(matches!(cluster.put(id_at(200 + jar as u8), jar).await, Answer::Done(_)));
    }
    cluster.close().await;

    let cluster = Cluster::open_at(folder.path(), &features, Calls::CarriedOut, clocks([NOW, NOW, NOW])).await;
    let journals: Vec<_> = cluster.partitions.iter().map(|partition| partition.progress().journal).collect();
    assert!(NOW + DAY <= journals[0].time.0 && journals[1].time.0 < NOW + DAY, "{journals:?}");
    let since: Vec<JournalIndex> = journals.iter().map(|journal| journal.index).collect();
    for (number, (from, to)) in (1..).step_by(2).zip(MOVES) {
        for (id, answer) in [
            (number, cluster.give(id_at(number), from, to).await),
            (number + 1, cluster.mail(id_at(number + 1), from, to).await),
        ] {
            assert!(matches!(answer, Answer::Done(_)), "{id} from {from} to {to}: {answer:?}");
        }
    }
    assert_eq!((cluster.coins().await, cluster.in_flight()), (vec![1, 1, 1], 0));
    let sums = sums_by_time(&cluster, &since);
    assert!(sums.iter().all(|sum| *sum <= 0), "at no time a coin is in two jars: {sums:?}");
    assert_eq!((sums.len(), sums.last()), (24, Some(&0)), "each coin was taken and given: {sums:?}");
    for jar in 0..3 {
        assert!(matches!(cluster.put(id_at(210 + jar as u8), jar).await, Answer::Done(_)));
    }
    for partition in &cluster.partitions {
        let ahead = partition.progress().journal.time.0 - NOW - DAY;
        assert!((0..SECOND).contains(&ahead), "all journals are a day ahead, and no further: {ahead}");
    }
    cluster.close().await;
}

/// Until all nodes accept such times, calls with them are postponed, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_far_ahead_is_taken_once_all_nodes_take_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let features = Features::at(features::ORDERS_VOUCHED);
    let at = clocks([NOW + DAY, NOW, NOW]);
    let cluster = Cluster::open_at(folder.path(), &features, Calls::CarriedOut, at).await;
    let before = cluster.partitions[1].progress().journal;
    assert!(matches!(cluster.put(id_at(200), 0).await, Answer::Done(_)));
    let id = id_at(1);
    let moving = cluster.mail(id, 0, 1);
    let rising = async {
        let is_there = || matches!(cluster.partitions[0].find_in_flight(id), Ok(Some(_)));
        let waiting = async {
            while !is_there() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout_at(soon(), waiting).await.expect("it begins");
        // The other partition answers a command of its own only after it has postponed the call, or before the call has
        // arrived.
        assert!(matches!(cluster.put(id_at(201), 1).await, Answer::Done(_)));
        let journal = cluster.partitions[1].progress().journal;
        assert!(journal.time.0 < before.time.0 + SECOND && is_there(), "the call is put off: {journal:?}");
        features.raise(features::TIMELINES);
    };
    let (answer, ()) = tokio::join!(moving, rising);
    assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    assert!(NOW + DAY <= cluster.partitions[1].progress().journal.time.0);
    cluster.close().await;
}

/// A command of `system` that creates a machine.
pub fn submission(number: u8, expires: Micros, deadline: Option<Instant>, ticket: Ticket) -> Submission {
    let logic = NativeLogic::<System>::new();
    let (name, body) = creation(number).to_body();
    let command = CommandBody::find(name).expect("it is declared");
    let body = body.to_cbor().expect("no integer over 64 bits");
    let mut items = PlanInWriter::default();
    let (roles, id, caller) = (role::ALL, id_of(number).0, b"test".as_slice());
    items.item(PlanItem { command, roles, id, caller, body: &body });
    let planned = logic.plan(&items.finish(Vec::new())).expect("it plans");
    let plan = Plan::all(planned).expect("a block").remove(0).expect("a plan");
    Submission {
        id: id_of(number),
        fingerprint: Fingerprint::of_command(name, plan.view().body),
        name: name.into(),
        plan,
        planner: logic.id(),
        caller: "test".into(),
        roles,
        vouched: NodeId(1),
        request_id: "test".into(),
        expires,
        deadline,
        size: 512,
        saga: None,
        called: None,
        ticket,
    }
}

/// *Expired* used to be answered at once, although another leader with a copy of the submission could still execute it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_is_said_once_an_entry_past_that_time_is_committed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let clock = clock_at(NOW);
    let partition =
        open_with(PartitionOptions { clock: clock.clone(), ..options(folder.path()) }).await.expect("it opens");
    create(&partition, 0..1).await;
    let later = Micros(NOW + 10 * SECOND);
    let past = Some(Instant::now());
    // Past its deadline by the monotonic clock; expired by the journal's time long before its last entry; in time.
    let cases = [(10, later, past), (11, Micros(NOW - SECOND), None), (12, later, Some(soon()))];
    let replies = Replies::new(cases.len());
    let submissions = (0..).zip(cases);
    let submissions =
        submissions.map(|(at, (number, expires, deadline))| submission(number, expires, deadline, replies.ticket(at)));
    partition.submit(submissions.collect());
    let mut told: Vec<Option<Reply>> = vec![None; 3];
    let mut take = || {
        for (told, new) in told.iter_mut().zip(replies.take()) {
            *told = new.or(told.take());
        }
        told.clone()
    };
    let waiting = async {
        while take()[1..].iter().any(Option::is_none) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout_at(soon(), waiting).await.expect("two of them are certain");
    let now = take();
    assert!(matches!(&now[1], Some(Reply::Expired)) && matches!(&now[2], Some(Reply::Recorded { .. })), "{now:?}");
    // An entry is committed, but none with a later time than that.
    create(&partition, 20..21).await;
    assert!(take()[0].is_none() && partition.progress().journal.time <= later, "nothing is certain: {:?}", take());
    clock.pass(Duration::from_secs(11));
    let waiting = async {
        while take()[0].is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout_at(soon(), waiting).await.expect("a tick is written for it");
    assert!(matches!(&take()[0], Some(Reply::Expired)), "{:?}", take());
    assert!(later < partition.progress().journal.time);
    let found = |number| partition.find_id(id_of(number)).expect("ids can be read").is_some();
    assert_eq!([10, 11, 12].map(found), [false, false, true]);
    partition.close().await.expect("it closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_a_day_ahead_takes_commands_and_its_time_passes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ahead = PartitionOptions { clock: clock_at(NOW + DAY), ..options(folder.path()) };
    let partition = open_with(ahead).await.expect("it opens");
    create(&partition, 0..3).await;
    partition.close().await.expect("it closes");
    drop(partition);
    let clock = clock_at(NOW);
    let partition =
        open_with(PartitionOptions { clock: clock.clone(), ..options(folder.path()) }).await.expect("it opens");
    assert_eq!(create(&partition, 3..30).await.len(), 27, "none is refused");
    let journal = partition.progress().journal.time;
    let wanted = Micros(journal.0 + 5 * SECOND);
    let passing = async {
        loop {
            clock.pass(Duration::from_millis(1));
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        waited = partition.wait_for_time(wanted, soon()) => waited.expect("its time passes"),
        () = passing => {}
    }
    create(&partition, 30..31).await;
    assert!(partition.lead() < Duration::from_micros(DAY.unsigned_abs()), "the lead shrinks: {:?}", partition.lead());
    partition.close().await.expect("it closes");
}
