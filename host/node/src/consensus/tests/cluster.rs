//! Three voters in one process, joined by [`Peers`]: a group is built the same way for one voter and for several.
//!
//! The wire delivers at once or not at all. Each test decides who is cut off.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use parking_lot::Mutex;

use super::*;
use crate::consensus::tests::disk::{MemoryDisk, log_on};
use crate::consensus::{AppendReply, PeerError, PeerReply, PeerRequest, Peers};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// One node's end of the wire. A node that is not in the map neither hears nor is heard.
#[derive(Clone)]
struct Wire {
    from: NodeId,
    nodes: Arc<Mutex<BTreeMap<NodeId, Group>>>,
}

impl Wire {
    fn group(&self, to: NodeId) -> Option<Group> {
        let nodes = self.nodes.lock();
        nodes.get(&to).filter(|_| nodes.contains_key(&self.from)).cloned()
    }
}

impl Peers for Wire {
    async fn call(&self, to: NodeId, request: PeerRequest, deadline: Duration) -> Result<PeerReply, PeerError> {
        let group = self.group(to).ok_or(PeerError::NoRoute(to))?;
        let answered = tokio::time::timeout(deadline, group.answer(self.from, request)).await;
        let answer = answered.map_err(|_| PeerError::Timeout(to))?;
        answer.map_err(|error| PeerError::Failed { node: to, detail: error.to_string() })
    }

    /// Ends when the wire is cut.
    fn appends(
        &self,
        to: NodeId,
        requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, PeerError>> {
        let Some(group) = self.group(to) else {
            return stream::once(async move { Err(PeerError::NoRoute(to)) }).boxed();
        };
        let (out, back) = (self.clone(), self.clone());
        let requests = requests.take_while(move |_| std::future::ready(out.group(to).is_some()));
        let failed = move |error: ConsensusError| PeerError::Failed { node: to, detail: error.to_string() };
        let replies = group.answer_appends(self.from, requests.boxed()).map(move |reply| reply.map_err(failed));
        replies.take_while(move |_| std::future::ready(back.group(to).is_some())).boxed()
    }
}

struct Member {
    group: Group,
    partition: Partition,
    disk: MemoryDisk,
}

struct Cluster {
    nodes: Arc<Mutex<BTreeMap<NodeId, Group>>>,
    members: BTreeMap<NodeId, Member>,
}

impl Cluster {
    async fn new() -> Self {
        let mut cluster = Self { nodes: Arc::default(), members: BTreeMap::new() };
        for node in NODES {
            cluster.start(node, MemoryDisk::new()).await;
        }
        cluster.members[&NODES[0]].group.initialize(&NODES).await.expect("the group is new");
        cluster
    }

    /// Starts a node with the content of its disk. Its state begins empty.
    async fn start(&mut self, node: NodeId, disk: MemoryDisk) {
        let partition = Partition::new();
        let options = GroupOptions {
            name: format!("node {node}"),
            peers: Wire { from: node, nodes: self.nodes.clone() },
            stands: true,
        };
        let group = Group::start(node, log_on(&disk), partition.clone(), options).await.expect("the disk is sound");
        self.members.insert(node, Member { group: group.clone(), partition, disk });
        self.nodes.lock().insert(node, group);
    }

    fn cut_off(&self, node: NodeId) {
        self.nodes.lock().remove(&node);
    }

    fn reconnect(&self, node: NodeId) {
        self.nodes.lock().insert(node, self.members[&node].group.clone());
    }

    /// Waits until one of `among` leads in a term after `since`.
    async fn leader(&self, among: &[NodeId], since: Term) -> (NodeId, Term) {
        let leads_later = |leadership: &Leadership| matches!(leadership, Leadership::Leader { term } if since < *term);
        let waits = among.iter().map(|node| {
            Box::pin(async move {
                let leadership = wait_for(&self.members[node].group, leads_later).await;
                let Leadership::Leader { term } = leadership else {
                    panic!("it was just seen leading: {leadership:?}")
                };
                (*node, term)
            })
        });
        futures_util::future::select_all(waits).await.0
    }

    async fn propose(&self, node: NodeId, term: Term, content: &'static str) -> Result<EntryId, ConsensusError> {
        soon(self.members[&node].group.propose(term, Bytes::from(content)).await?).await
    }

    /// Waits until all nodes have taken `upto`, and checks that no node has another entry under the same id.
    async fn agree(&self, upto: EntryId) -> Vec<Bytes> {
        for member in self.members.values() {
            member.partition.taken(upto.index).await;
        }
        let histories: Vec<Vec<LogEntry>> =
            self.members.values().map(|member| member.partition.memory().entries).collect();
        let shortest = histories.iter().map(Vec::len).min().expect("there are nodes");
        for history in &histories {
            assert_eq!(history[..shortest], histories[0][..shortest], "two nodes applied different entries");
        }
        let contents = histories[0][..shortest].iter().filter_map(|entry| match &entry.payload {
            Payload::Entry(bytes) => Some(bytes.clone()),
            _ => None,
        });
        contents.collect()
    }

    fn others(node: NodeId) -> Vec<NodeId> {
        NODES.into_iter().filter(|other| *other != node).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_voter_takes_over_from_a_leader_that_is_cut_off() {
    let cluster = Cluster::new().await;
    let (first, term) = cluster.leader(&NODES, Term(0)).await;
    cluster.propose(first, term, "a").await.expect("all nodes are up");
    cluster.cut_off(first);
    let (second, newer) = cluster.leader(&Cluster::others(first), term).await;
    cluster.propose(second, newer, "b").await.expect("two of three are up");

    let refused = cluster.propose(first, term, "never").await;
    assert!(matches!(refused, Err(ConsensusError::NoQuorum | ConsensusError::NotLeader { .. })), "{refused:?}");
    cluster.reconnect(first);
    let (third, newest) = cluster.leader(&NODES, term).await;
    let last = cluster.propose(third, newest, "c").await.expect("all nodes are up");
    assert_eq!(cluster.agree(last).await, ["a", "b", "c"]);
}

/// openraft replicates before the leader's own sync. With openraft's default settings a leader that lost its unsynced
/// tail kept leading in its old term, and gave a committed entry's id to another entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lost_its_unsynced_tail_does_not_lead_on() {
    let mut cluster = Cluster::new().await;
    let (first, term) = cluster.leader(&NODES, Term(0)).await;
    cluster.propose(first, term, "a").await.expect("all nodes are up");
    cluster.members[&first].disk.hold_syncs();
    let unsynced = cluster.propose(first, term, "b").await.expect("the two others have it on disk");

    cluster.cut_off(first);
    let crashed = cluster.members[&first].disk.after_power_loss();
    let member = cluster.members.remove(&first).expect("it is a node");
    member.disk.release_syncs();
    member.group.shutdown().await.expect("it runs");
    cluster.start(first, crashed).await;
    let leadership = cluster.members[&first].group.leadership().borrow().clone();
    assert!(!matches!(leadership, Leadership::Leader { .. }), "{leadership:?}");

    let (second, newer) = cluster.leader(&NODES, term).await;
    let last = cluster.propose(second, newer, "c").await.expect("all nodes are up");
    assert!(unsynced < last);
    assert_eq!(cluster.agree(last).await, ["a", "b", "c"]);
}

/// A node that is about to stop, or whose clock is wrong, does not stand. It is not to lead for a moment either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_stand_refuses_to_lead() {
    let cluster = Cluster::new().await;
    let (leader, term) = cluster.leader(&NODES, Term(0)).await;
    let refusing = Cluster::others(leader)[0];
    let first = cluster.propose(leader, term, "before").await.expect("it leads");
    cluster.agree(first).await;

    cluster.members[&refusing].group.stand(false);
    cluster.members[&leader].group.transfer_to(refusing).await.expect("it runs");
    let (next, later) = cluster.leader(&NODES, term).await;
    assert_ne!(next, refusing, "it said that it does not stand");
    let second = cluster.propose(next, later, "after").await.expect("it leads");
    cluster.agree(second).await;

    // It leads where it may stand again.
    cluster.members[&refusing].group.stand(true);
    cluster.members[&next].group.transfer_to(refusing).await.expect("it runs");
    cluster.leader(&[refusing], later).await;
}
