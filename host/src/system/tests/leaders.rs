//! Who answers while leaders come and go: any node does, nobody hangs, and a minority says that it cannot.
//!
//! In: cuts of whole nodes and of single directions. Out: answers within their deadline. It does not touch disks.

use super::load::{DEADLINE, Told, balance, submit, transfer_body};
use super::*;
use crate::ids::CommandId;
use crate::router::answer::{Consistency, QueryError, Unavailable, UnavailableReason};

impl Cluster {
    /// A transfer of one cent from the first account to the second, asked of this node.
    async fn transfer_at(&mut self, node: NodeId) -> Attempt {
        let id = CommandId(self.random.random());
        let body = transfer_body(id, &self.bank.accounts[0], &self.bank.accounts[1], 1);
        let told = submit(self.node(node).router(), "balance_transfer", id, body, DEADLINE).await;
        Attempt { id, from: 0, to: 1, amount: 1, told }
    }

    async fn balance_at(&self, node: NodeId) -> Result<i128, QueryError> {
        balance(self.node(node).router(), &self.bank.accounts[1], Consistency::Linearizable).await
    }

    /// Each of these nodes carries out a transfer, and all of them see it at once.
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

    /// Waits until a node knows one of the others as the leader.
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

    // It has not heard the others for as long as they needed to elect, so it takes nothing that it could not answer for.
    let refused = cluster.transfer_at(deposed).await;
    assert_eq!(refused.told, Told::NotAccepted(UnavailableReason::NoLeader));
    attempts.push(refused);
    let read = cluster.balance_at(deposed).await;
    let no_leader = |unavailable: &Unavailable| unavailable.reason == UnavailableReason::NoLeader;
    assert!(matches!(&read, Err(QueryError::Unavailable(unavailable)) if no_leader(unavailable)), "{read:?}");

    cluster.network.heal();
    cluster.follows_another(deposed).await;
    cluster.check_all_answer(&NODES, &mut attempts).await;
    cluster.judge(&attempts).await;
}

/// Cut off both ways; so that nobody hears it; so that it hears nobody, while the others do hear it and so do not stand for election.
const CUTS: [fn(&SimNetwork, NodeId, NodeId); 3] = [
    SimNetwork::cut_both_ways,
    |network, leader, other| network.cut(leader, other),
    |network, leader, other| network.cut(other, leader),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_any_way_is_replaced_and_its_clients_get_an_answer() {
    let cluster = Cluster::found().await;
    let mut load = cluster.load();
    for cut in CUTS.iter().cycle().take(CUTS.len() * rounds(1, 10)) {
        load.more(20).await;
        let deposed = cluster.leader(&NODES).await;
        others(deposed).for_each(|other| cut(&cluster.network, deposed, other));
        let majority: Vec<NodeId> = others(deposed).collect();
        cluster.leader(&majority).await;
        load.more(20).await;
        cluster.network.heal();
        cluster.follows_another(deposed).await;
    }
    load.more(20).await;
    // The load itself fails when a client waits past its deadline.
    let attempts = load.stop().await;
    cluster.judge(&attempts).await;
}
