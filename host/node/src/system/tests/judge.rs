//! The judge of what a cluster is left with. Every replica must have the same journal. What was acknowledged must be
//! in it exactly once, with the outcome that the client was told. What was certainly not accepted must not be in it,
//! and no balance may be wrong.
//!
//! In: a healed cluster and what clients were told. Out: a panic that names the first breach. Balances are computed
//! here from the recorded outcomes alone.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use statehouse_abi::cold::Rejection;
use statehouse_abi::outcome::GroupOutcome;
use statehouse_abi::value::Value;

use super::load::{Attempt, DEADLINE, Told, balance, submit};
use super::{Cluster, NODES, eventually, soon};
use crate::ids::{CommandId, NodeId, Position};
use crate::machine::journal::Journal;
use crate::partition::Partition;
use crate::router::Router;
use crate::router::answer::Consistency;
use crate::sequencer::submission::RecordedEntry;

const ACCOUNTS: usize = 6;
const OPENING: i128 = 10_000;
const SETTLEMENT: &str = "@bank";

/// The accounts of a run. Each is opened with the same amount, except for the last, which does not exist.
#[derive(Default)]
pub struct Bank {
    pub accounts: Vec<String>,
}

impl Bank {
    pub async fn open(cluster: &Cluster) -> Self {
        Self::open_by(cluster.node(NODES[0]).router(), cluster.seed).await
    }

    pub async fn open_by(router: &Router, seed: u64) -> Self {
        let accounts: Vec<String> = (0..=ACCOUNTS).map(|number| format!("account-{number}")).collect();
        // These ids differ from those of the load and of the tests.
        let mut random = StdRng::seed_from_u64(!seed);
        for account in &accounts[..ACCOUNTS] {
            let body = [("account", Value::text(account.as_str())), ("currency", Value::text("USD"))];
            let opened =
                submit(router, "accounts", CommandId(random.random()), Value::map(body.clone()), DEADLINE).await;
            assert!(matches!(opened, Told::Done(_)), "{account}: {opened:?}");
            let id = CommandId(random.random());
            let amount = [("amount", Value::text("100.00")), ("transaction_id", Value::text(id.to_string()))];
            let paid = submit(router, "deposit", id, Value::map(body.into_iter().chain(amount)), DEADLINE).await;
            assert!(matches!(paid, Told::Done(_)), "{account}: {paid:?}");
        }
        Self { accounts }
    }

    pub async fn judge(&self, cluster: &Cluster, attempts: &[Attempt]) {
        let nodes = cluster.running();
        level(cluster, &nodes).await;
        let recorded = recorded(&cluster.replicas(nodes[0]));
        let mut expected = vec![OPENING; ACCOUNTS];
        for attempt in attempts {
            let found = recorded.get(&attempt.id).map_or(&[][..], Vec::as_slice);
            assert!(found.len() <= 1, "{attempt:?} is in the journal more than once: {found:?}");
            assert!(agrees(&attempt.told, found.first()), "{attempt:?}, but the journal has {found:?}");
            if matches!(found, [Told::Done(_)]) {
                expected[attempt.from] -= attempt.amount;
                expected[attempt.to] += attempt.amount;
            }
        }
        for node in &nodes {
            self.check_balances(cluster, *node, &expected).await;
            let others = super::judge::recorded(&cluster.replicas(*node));
            assert!(recorded == others, "node {node} has other outcomes in a journal of the same head");
        }
        let told = |is: fn(&Told) -> bool| attempts.iter().filter(|attempt| is(&attempt.told)).count();
        let done = told(|told| matches!(told, Told::Done(_) | Told::Rejected(..)));
        let unknown = told(|told| *told == Told::Unknown);
        println!("{} attempts, {done} acknowledged, {unknown} unknown", attempts.len());
    }

    /// Judges a cluster whose journal can no longer be read whole: all nodes have the same balances, and the books
    /// balance.
    pub async fn judge_present(&self, cluster: &Cluster) {
        let nodes = cluster.running();
        level(cluster, &nodes).await;
        let balances = self.balances(cluster, nodes[0]).await;
        for node in &nodes {
            self.check_balances(cluster, *node, &balances).await;
        }
    }

    async fn check_balances(&self, cluster: &Cluster, node: NodeId, expected: &[i128]) {
        let balances = self.balances(cluster, node).await;
        assert_eq!(balances, expected, "balances on node {node}");
        assert!(balances.iter().all(|balance| 0 <= *balance), "nobody spends what is not there: {balances:?}");
        let settled = self.shown(cluster, node, SETTLEMENT).await;
        assert_eq!(balances.iter().sum::<i128>() + settled, 0, "the books of node {node}");
    }

    async fn balances(&self, cluster: &Cluster, node: NodeId) -> Vec<i128> {
        join_all(self.accounts[..ACCOUNTS].iter().map(|account| self.shown(cluster, node, account))).await
    }

    async fn shown(&self, cluster: &Cluster, node: NodeId, account: &str) -> i128 {
        let shown = balance(cluster.node(node).router(), account, Consistency::Stale).await;
        shown.unwrap_or_else(|error| panic!("node {node}, {account}: {error:?}"))
    }
}

/// Waits until every command is over, and all these nodes have the same journals.
pub async fn level(cluster: &Cluster, nodes: &[NodeId]) {
    let of_nodes: Vec<Vec<Arc<Partition>>> = nodes.iter().map(|node| cluster.replicas(*node)).collect();
    for replica in of_nodes.iter().flatten() {
        replica.read_linearizable(soon()).await.expect("there is a leader and a majority");
    }
    let is_over = |replica: &Arc<Partition>| replica.list_in_flight().expect("it runs").is_empty();
    let place = |journal: Journal| (journal.index, journal.head);
    eventually("nothing is in flight, and all replicas have the same head at the same index", || {
        let mut places = of_nodes
            .iter()
            .map(|replicas| replicas.iter().map(|replica| place(replica.progress().journal)).collect::<Vec<_>>());
        let first = places.next().expect("a node runs");
        (of_nodes.iter().flatten().all(is_over) && places.all(|other| other == first)).then_some(())
    })
    .await;
}

/// The outcomes in the journals, by command. A command on several partitions counts where it ends.
fn recorded(replicas: &[Arc<Partition>]) -> BTreeMap<CommandId, Vec<Told>> {
    let mut found: BTreeMap<CommandId, Vec<Told>> = BTreeMap::new();
    for replica in replicas {
        let point = replica.read_stale().expect("it runs");
        let walked = replica.walk_back(&point, |recorded| {
            let commands = recorded.entry.batch().map_or(0, |batch| batch.command_count());
            for at in (0..commands).filter(|at| recorded.entry.part(*at as u32).is_outcome()) {
                let (id, told) = outcome(replica, &recorded, at);
                found.entry(id).or_default().push(told);
            }
            ControlFlow::Continue(())
        });
        walked.expect("the whole journal can be read");
    }
    found
}

fn outcome(replica: &Partition, recorded: &RecordedEntry, at: usize) -> (CommandId, Told) {
    let batch = recorded.entry.batch().expect("it has commands");
    let position: Position = recorded.position(replica.id(), u32::try_from(at).expect("a batch is small"));
    let told = match batch.outcome.group(at) {
        GroupOutcome::Events { .. } => Told::Done(position),
        GroupOutcome::Rejected(bytes) => {
            let rejection: Rejection = minicbor::decode(bytes).expect("what is recorded can be read");
            Told::Rejected(position, rejection.code)
        }
        GroupOutcome::NeedsKeys => panic!("no journal has an outcome that counts for nothing"),
    };
    (batch.command_id(at), told)
}

fn agrees(told: &Told, recorded: Option<&Told>) -> bool {
    match told {
        Told::Done(_) | Told::Rejected(..) => recorded == Some(told),
        Told::NotAccepted(_) => recorded.is_none(),
        Told::Unknown => true,
    }
}

#[test]
fn what_was_acknowledged_must_be_recorded_as_it_was_told() {
    let at =
        |n| Position { partition: crate::ids::PartitionId(0), index: crate::ids::JournalIndex(3), n, head8: [0; 4] };
    let poor = |n| Told::Rejected(at(n), "insufficient_funds".to_owned());
    assert!(agrees(&Told::Done(at(1)), Some(&Told::Done(at(1)))));
    assert!(!agrees(&Told::Done(at(1)), Some(&Told::Done(at(2)))));
    assert!(!agrees(&Told::Done(at(1)), None) && !agrees(&Told::Done(at(1)), Some(&poor(1))));
    assert!(agrees(&poor(1), Some(&poor(1))) && !agrees(&poor(1), None));
    let lie = Told::NotAccepted(crate::router::answer::UnavailableReason::NoLeader);
    assert!(agrees(&lie, None) && !agrees(&lie, Some(&Told::Done(at(1)))));
    assert!(agrees(&Told::Unknown, None) && agrees(&Told::Unknown, Some(&poor(1))));
}
