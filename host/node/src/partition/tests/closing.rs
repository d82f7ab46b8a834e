//! The end of a partition: it is reached within a bound whatever the disk does, and everybody who waits is answered.

use std::sync::atomic::{AtomicU8, Ordering};

use statehouse_abi::call::Context;
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut};
use statehouse_abi::describe::Describe;

use super::timelines::submission;
use super::*;
use crate::consensus::Leadership;
use crate::disk::SimDisk;
use crate::ids::{LogIndex, Micros};
use crate::limits::{READY_LAG_LEVEL_MAX, READY_LAG_MAX};
use crate::machine::logic::{Fault, Pace};
use crate::partition::{HaltReason, RunState};
use crate::sequencer::submission::{Replies, Reply};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_disk_hangs_is_closed_and_not_opened_again_before_the_disk_lets_go() {
    let (folder, disk) = (tempfile::tempdir().expect("a folder"), SimDisk::new());
    let on_disk = || PartitionOptions { disk: Arc::new(disk.clone()), ..options(folder.path()) };
    let partition = open_with(on_disk()).await.expect("it opens");
    create(&partition, 0..3).await;
    let (log, last) = (partition.log().clone(), partition.log().last());
    disk.hold_syncs();
    let asking = tokio::spawn({
        let partition = partition.clone();
        async move { ask(&partition, 3).await }
    });
    let appended = async {
        while log.last() == last {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout_at(soon(), appended).await.expect("the log has it, and the disk not yet");
    let closed = partition.close().await;
    assert!(matches!(closed, Err(PartitionError::NotClosed)), "{closed:?}");
    let answer = asking.await.expect("it does not panic");
    assert!(!matches!(answer, Answer::Done(_)), "nothing is acknowledged that is not durable: {answer:?}");
    let remains = partition.remains();
    drop((partition, log));
    assert!(!remains.are_gone(), "the disk may still write what it was given");

    disk.release_syncs();
    let gone = async {
        while !remains.are_gone() {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout_at(soon(), gone).await.expect("what the disk held ends");
    let partition = open_with(on_disk()).await.expect("it opens at the first try");
    create(&partition, 4..5).await;
    partition.close().await.expect("it closes");
}

/// A halted replica used to keep leading: the client that found the damage waited until its deadline, and no other node
/// was asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_halted_does_not_lead_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let partition = open(folder.path()).await;
    create(&partition, 0..2).await;
    partition.halt_diverged(JournalIndex(1), NodeId(2));
    let mut leadership = partition.group().leadership();
    let stopped = leadership.wait_for(|now| matches!(now, Leadership::Stopped { .. }));
    tokio::time::timeout_at(soon(), stopped).await.expect("in time").expect("it says so");
    assert_eq!((partition.leader(), partition.is_running()), (None, false));
    let answer = ask(&partition, 2).await;
    let Answer::Unavailable(Unavailability { reason: UnavailableReason::Halted, .. }) = answer else {
        panic!("{answer:?}")
    };
    partition.close().await.expect("it closes");
}

/// What another node was heard to hold.
struct Heard(parking_lot::Mutex<u64>);

impl SeenEntries for Heard {
    fn on_durable(&self, _: NodeId, _: &GroupName, _: EntryId) {}

    fn held(&self, node: NodeId, _: &GroupName) -> Option<EntryId> {
        let index = LogIndex(*self.0.lock());
        Some(EntryId { term: crate::ids::Term(1), node, index })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_counts_as_level_once_it_has_all_but_a_few_of_its_leaders_entries() {
    let folder = tempfile::tempdir().expect("a folder");
    let heard = Arc::new(Heard(parking_lot::Mutex::new(1000)));
    let mut options = options(folder.path());
    options.peers.seen = heard.clone();
    let partition = open_with(options).await.expect("it opens");
    create(&partition, 0..2).await;
    let (leader, here) = (NodeId(2), partition.log_index_applied().0);
    let lag = |ahead: u64| {
        *heard.0.lock() = here + ahead;
        partition.find_lag(leader)
    };
    assert_eq!(lag(READY_LAG_MAX + 1), Some(READY_LAG_MAX + 1));
    assert_eq!(lag(READY_LAG_MAX), None);
    assert_eq!((lag(READY_LAG_MAX + 1), lag(READY_LAG_LEVEL_MAX)), (None, None), "a burst changes nothing");
    assert_eq!(lag(READY_LAG_LEVEL_MAX + 1), Some(READY_LAG_LEVEL_MAX + 1));
    partition.close().await.expect("it closes");
}

/// Decides as `system` does, until it is told to fail.
struct Breaking {
    inner: NativeLogic<System>,
    /// 0: it does not fail. 1: the host cannot run it. 2: it panics, as only a bug of the host does.
    how: Arc<AtomicU8>,
}

impl Logic for Breaking {
    fn id(&self) -> ModuleId {
        self.inner.id()
    }

    fn describe(&self) -> &Describe {
        self.inner.describe()
    }

    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, Fault> {
        self.inner.plan(plan_in)
    }

    fn execute(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8]) -> Result<Vec<u8>, Fault> {
        match self.how.load(Ordering::Relaxed) {
            0 => self.inner.execute(pace, context, ops, rows),
            1 => Err(Fault::Host { what: "a test says so".to_owned() }),
            _ => panic!("a test says so"),
        }
    }

    fn apply(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8], outcome: &[u8]) -> Result<Vec<u8>, Fault> {
        self.inner.apply(pace, context, ops, rows, outcome)
    }

    fn query(&self, query: &QueryIn) -> Result<QueryOut, Fault> {
        self.inner.query(query)
    }

    fn render(&self, items: &[RenderItem]) -> Result<Vec<Value>, Fault> {
        self.inner.render(items)
    }

    fn check(&self, check: &CheckIn) -> Result<CheckOut, Fault> {
        self.inner.check(check)
    }

    fn migrate(&self, entities: &[MigrateIn]) -> Vec<Result<MigrateOut, Fault>> {
        self.inner.migrate(entities)
    }
}

/// The client whose command was being decided used to wait until its deadline, and so did all who had sent the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_whose_command_halts_the_partition_are_told_at_once_that_its_outcome_is_unknown() {
    for how in [1, 2] {
        let (folder, breaks) = (tempfile::tempdir().expect("a folder"), Arc::new(AtomicU8::new(0)));
        let logic = Breaking { inner: NativeLogic::new(), how: breaks.clone() };
        let modules = Arc::new(Only(Arc::new(logic)));
        let partition = open_with(PartitionOptions { modules, ..options(folder.path()) }).await.expect("it opens");
        create(&partition, 0..1).await;
        breaks.store(how, Ordering::Relaxed);
        let replies = Replies::new(2);
        let same = |slot| submission(1, Micros(i64::MAX), None, replies.ticket(slot));
        partition.submit(vec![same(0), same(1)]);
        tokio::time::timeout_at(soon(), replies.wait()).await.expect("without any deadline of their own");
        let told = replies.take();
        assert!(matches!(told[..], [Some(Reply::Unknown), Some(Reply::Unknown)]), "{how}: {told:?}");
        let mut state = partition.parts.board.state.subscribe();
        let halted = state.wait_for(|state| !matches!(state, RunState::Running)).await.expect("it is there").clone();
        let RunState::Halted(reason) = halted else { panic!("{how}: {halted:?}") };
        assert_eq!(matches!(reason, HaltReason::Panic(_)), how == 2, "{reason}");
        partition.close().await.expect("it closes");
    }
}
