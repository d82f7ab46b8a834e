//! Which nodes answer while leaders change: any node does, no client hangs, and a minority says that it cannot.
//!
//! In: cuts of whole nodes and of single directions. Out: answers within their deadline. No disk is touched.

use futures_util::future::join_all;
use statehouse_abi::role;
use statehouse_abi::value::Value;

use super::load::{CURRENCY, DEADLINE, Told, balance};
use super::*;
use crate::ids::{CommandId, JournalIndex};
use crate::limits::LOCAL_ROWS_SHOWN_MAX;
use crate::machine::slots::partition_of;
use crate::partition::journal_lookup;
use crate::peer::GroupName;
use crate::router::answer::{
    Answer, Caller, CommandRequest, Consistency, Obstacle, QueryError, Unavailability, UnavailableReason,
};
use crate::system::in_transit;
use crate::system::retention::oldest_in_flight;

/// How many commands are sent again at the same time.
const RETRIES_AT_ONCE: usize = 16;

impl Cluster {
    /// Asks this node for a transfer of one cent from the first account to the second.
    async fn transfer_at(&mut self, node: NodeId) -> Attempt {
        let mut attempt = self.new_attempt(0, 1);
        attempt.told = self.ask(node, &attempt, false).await;
        attempt
    }

    async fn balance_at(&self, node: NodeId) -> Result<i128, QueryError> {
        balance(self.node(node).router(), &self.bank.accounts[1], Consistency::Linearizable).await
    }

    /// Whether this node leads the partitions of these accounts.
    fn leads(&self, node: NodeId, accounts: &[usize]) -> Vec<bool> {
        let replicas = self.replicas(node);
        let leads = |account: &usize| {
            let partition = partition_of(self.bank.accounts[*account].as_bytes(), PARTITIONS);
            replicas.iter().find(|replica| replica.id() == partition).expect("a node has all partitions").is_leader()
        };
        accounts.iter().map(leads).collect()
    }

    /// Checks why a node refuses that nobody else answers. Of the partitions that it was asked about it led some,
    /// before and after it was asked, or followed in some, or stopped leading meanwhile.
    fn check_cut_off(&self, node: NodeId, accounts: &[usize], before: &[bool], reason: UnavailableReason) {
        use UnavailableReason::{NoLeader, NotNow};
        let after = self.leads(node, accounts);
        let is_right = match reason {
            NotNow(Obstacle::NoMajority) => before.iter().chain(&after).any(|leads| *leads),
            NoLeader => before.iter().chain(&after).any(|leads| !leads),
            // It follows, or hands over its lead to a node that does not answer any more.
            NotNow(Obstacle::LeaderSilent) => true,
            _ => false,
        };
        assert!(is_right, "{reason:?} where the node leads {before:?} before and {after:?} after");
    }

    /// Has each of these nodes carry out a transfer, and checks that all of them see it at once.
    async fn check_all_answer(&mut self, among: &[NodeId], attempts: &mut Vec<Attempt>) {
        for node in among {
            let before = self.balance_at(*node).await.expect("a linearizable read is answered");
            let attempt = self.transfer_at(*node).await;
            assert!(matches!(attempt.told, Told::Done(_)), "node {node}: {attempt:?}");
            attempts.push(attempt);
            for other in among {
                let seen = self.balance_at(*other).await.expect("a linearizable read is answered");
                assert_eq!(seen, before + 1, "node {other} does not see what node {node} has acknowledged");
            }
        }
    }

    /// Pays this many cents from a new account of a partition to as many settlement accounts. Each of these then has
    /// a row of its own.
    async fn pay_out(&self, partition: PartitionId, count: usize) {
        let machine = self.node(NODES[0]).router().find_machine(MACHINE).expect("the node serves the wallet");
        let account = (0..)
            .map(|number| format!("saver-{number}"))
            .find(|name| partition_of(name.as_bytes(), PARTITIONS) == partition);
        let account = account.expect("every partition has accounts");
        let id = |number: usize| CommandId((1 << 64 | number as u128).to_be_bytes());
        let money = |number: usize, settlement: &str, amount: String| {
            Value::map([
                ("account", Value::text(account.as_str())),
                ("amount", Value::Text(amount)),
                ("currency", Value::text(CURRENCY)),
                ("transaction_id", Value::Text(id(number).to_string())),
                ("settlement", Value::text(settlement)),
            ])
        };
        let open = Value::map([("account", Value::text(account.as_str())), ("currency", Value::text(CURRENCY))]);
        let paid_in = money(0, "@float", format!("{count}.00"));
        let paid_out =
            (1..=count).map(|number| ("withdraw", number, money(number, &format!("@m{number}"), "0.01".into())));
        for part in [vec![("open", count + 1, open)], vec![("deposit", 0, paid_in)], paid_out.collect()] {
            let request = |(command, number, body): (&str, usize, Value)| CommandRequest {
                command: command.into(),
                body: body.to_cbor().expect("amounts are text"),
                id: id(number),
                caller: Arc::new(Caller::unbound("client", role::ALL)),
                request_id: "sim".into(),
                deadline: Instant::now() + 3 * DEADLINE,
            };
            let requests: Vec<CommandRequest> = part.into_iter().map(request).collect();
            for answer in machine.submit(requests).await {
                assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
            }
        }
    }

    /// Sends every command once more, each to a random node. A client that was told an outcome is told the same one;
    /// the others are told one now.
    pub(super) async fn send_all_again(&mut self, attempts: &mut [Attempt]) {
        for attempts in attempts.chunks_mut(RETRIES_AT_ONCE) {
            let running = self.running();
            let places: Vec<NodeId> =
                attempts.iter().map(|_| running[self.random.random_range(0..running.len())]).collect();
            let cluster = &*self;
            let again = attempts.iter_mut().zip(places).map(|(attempt, node)| async move {
                let told = loop {
                    match cluster.ask(node, attempt, attempt.is_tcc).await {
                        Told::NotAccepted(_) | Told::Unknown => {}
                        told => break told,
                    }
                };
                let is_definite = matches!(attempt.told, Told::Done(_) | Told::Rejected(..));
                assert!(!is_definite || told == attempt.told, "{attempt:?}, and at node {node} {told:?}");
                attempt.told = told;
            });
            join_all(again).await;
        }
    }

    /// Checks that every entry of every replica is found where the journal's chain has it, however it was found before.
    async fn check_entries(&self) {
        for replica in NODES.into_iter().flat_map(|node| self.replicas(node)) {
            let point = replica.read_linearizable(soon()).await.expect("there is a leader and a majority");
            let applied = point.view.meta().expect("something is applied").applied.index;
            for index in 1..=point.journal.index.0 {
                let index = JournalIndex(index);
                let slow = journal_lookup::find_entry(replica.log(), index, Some(applied), &point.journal);
                let (found, slow) = (replica.find_entry(index).expect("it is there"), slow.expect("it is there"));
                assert_eq!((found.head(), found.log_index), (slow.head(), slow.log_index), "entry {index}");
            }
        }
    }

    /// Waits until a node knows another node as the leader.
    async fn follows_another(&self, node: NodeId) {
        let replica = self.replica(node);
        let another = || replica.leader().filter(|leader| *leader != node).map(drop);
        eventually("a node follows another one", another).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_answers_before_and_after_the_leader_is_cut_off_and_a_minority_says_that_it_cannot() {
    let mut cluster = Cluster::found().await;
    let mut attempts = Vec::new();
    cluster.check_all_answer(&NODES, &mut attempts).await;

    let deposed = cluster.leader(&NODES).await;
    let majority: Vec<NodeId> = others(deposed).collect();
    cluster.cut_off(deposed);
    cluster.leader(&majority).await;
    cluster.check_all_answer(&majority, &mut attempts).await;

    // The node has not heard the others for the whole time that an election took them, so it accepts nothing that it
    // could not answer for.
    let leads = cluster.leads(deposed, &[0, 1]);
    let refused = cluster.transfer_at(deposed).await;
    let Told::NotAccepted(reason) = refused.told else { panic!("{refused:?}") };
    cluster.check_cut_off(deposed, &[0, 1], &leads, reason);
    attempts.push(refused);
    let leads = cluster.leads(deposed, &[1]);
    let read = cluster.balance_at(deposed).await;
    let Err(QueryError::Unavailable(Unavailability { reason, .. })) = read else { panic!("{read:?}") };
    cluster.check_cut_off(deposed, &[1], &leads, reason);

    cluster.network.heal();
    cluster.follows_another(deposed).await;
    cluster.check_all_answer(&NODES, &mut attempts).await;
    cluster.judge(&attempts).await;
}

/// The leader is cut off both ways; or nobody hears it; or it hears nobody, while the others hear it and so do not
/// stand for election.
const CUTS: [fn(&SimNetwork, NodeId, NodeId); 3] = [
    SimNetwork::cut_both_ways,
    |network, leader, other| network.cut(leader, other),
    |network, leader, other| network.cut(other, leader),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_any_way_is_replaced_and_its_clients_get_an_answer() {
    let mut cluster = Cluster::found().await;
    let mut attempts = Vec::new();
    for (round, cut) in (0..).zip(CUTS.iter().cycle().take(CUTS.len() * rounds(1, 10))) {
        let mut load = Load::start(cluster.doors.clone(), cluster.bank.accounts.clone(), cluster.seed ^ round);
        load.more(20).await;
        let deposed = cluster.leader(&NODES).await;
        others(deposed).for_each(|other| cut(&cluster.network, deposed, other));
        let majority: Vec<NodeId> = others(deposed).collect();
        cluster.leader(&majority).await;
        load.more(20).await;
        cluster.network.heal();
        cluster.follows_another(deposed).await;
        load.more(20).await;
        // The load itself fails when a client waits past its deadline.
        attempts.extend(load.stop().await);
        cluster.send_all_again(&mut attempts).await;
        cluster.check_entries().await;
    }
    cluster.judge_recovered(attempts).await;
}

/// A transfer that waits for a partition is listed among those in flight, and within its deadline the client hears
/// that it is not over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_without_a_majority_holds_up_nothing_but_its_own() {
    let mut cluster = Cluster::found().await;
    let silent = PartitionId(1);
    let is_there = |account: &usize| partition_of(cluster.bank.accounts[*account].as_bytes(), PARTITIONS) == silent;
    // The last account was never opened.
    let (there, here): (Vec<usize>, Vec<usize>) = (0..cluster.bank.accounts.len() - 1).partition(is_there);
    cluster.network.silence(GroupName::new(MACHINE, silent));

    let mut waiting = Vec::new();
    for is_tcc in [false, true] {
        let attempt = cluster.new_attempt(here[0], there[0]);
        let told = cluster.ask(NODES[0], &attempt, is_tcc).await;
        assert_eq!(told, Told::Unknown, "it waits for the other partition");
        waiting.push((attempt, is_tcc));
    }
    let mut attempts = Vec::new();
    let until = Instant::now() + Duration::from_secs(rounds(3, 30) as u64);
    while Instant::now() < until {
        for node in NODES {
            let mut attempt = cluster.new_attempt(here[0], here[1]);
            attempt.told = cluster.ask(node, &attempt, false).await;
            assert!(matches!(attempt.told, Told::Done(_)), "node {node}: {attempt:?}");
            attempts.push(attempt);
        }
    }
    let leader = cluster.leader(&NODES).await;
    let machine = cluster.node(leader).router().find_machine(MACHINE).expect("the node serves the wallet");
    let seen = machine.list_in_flight().expect("its leader is here");
    assert_eq!(seen.len(), waiting.len(), "both are seen to wait: {seen:?}");
    // Both amounts have left one account and reached no other. No partition has an entry after this time.
    let shown = in_transit::sum(&machine, Micros(i64::MAX)).map(|sum| sum.to_string());
    assert_eq!(shown.as_deref(), Some("0.02 USD"));
    // Anybody may name settlement accounts, and each has a row of its own beside what is in transit.
    cluster.pay_out(PartitionId(0), LOCAL_ROWS_SHOWN_MAX + 100).await;
    let shown = in_transit::sum(&machine, Micros(i64::MAX)).map(|sum| sum.to_string());
    assert_eq!(shown.as_deref(), Some("0.02 USD"));
    let group = GroupName::new(MACHINE, PartitionId(0));
    let unknown = oldest_in_flight(&cluster.node(leader).context, &group).await;
    assert!(unknown.is_err(), "so no log is released: {unknown:?}");

    cluster.network.heal();
    for (mut attempt, is_tcc) in waiting {
        while !matches!(attempt.told, Told::Done(_)) {
            attempt.told = cluster.ask(NODES[1], &attempt, is_tcc).await;
            assert!(matches!(attempt.told, Told::Done(_) | Told::Unknown), "{attempt:?}");
        }
        attempts.push(attempt);
    }
    for node in NODES {
        let oldest = oldest_in_flight(&cluster.node(node).context, &group).await;
        assert!(matches!(oldest, Ok(None)), "node {node}: {oldest:?}");
    }
    cluster.judge(&attempts).await;
}
