//! Nodes that stop, lose their power, come back in any order, are replaced, or forget.
//!
//! In: which nodes. Out: the same nodes running, or another node in the place of one. This file does not know what
//! the nodes must do about it.

use super::super::*;
use super::Swarm;

impl Swarm {
    /// Stops the running nodes in order, one after the other.
    pub(super) async fn stop_each(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            if self.cluster.members[node].life.is_some() {
                self.cluster.stop(*node).await;
                self.some().await;
            }
        }
    }

    /// Starts the nodes that are down, one after the other. A process that cannot use its disk does not start, but
    /// does when it is started again.
    pub(super) async fn start_each(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            if self.cluster.members[node].life.is_none() {
                match self.cluster.try_start(*node).await {
                    Ok(()) => self.some().await,
                    Err(error) => assert!(self.cluster.disk(*node).is_failing(), "node {node} starts: {error}"),
                }
            }
        }
    }

    /// Cuts the power of the running nodes at once.
    pub(super) async fn cut_power(&mut self, nodes: &[NodeId]) {
        let running = self.cluster.running();
        let hit: Vec<NodeId> = nodes.iter().copied().filter(|node| running.contains(node)).collect();
        self.cluster.cut_power(&hit);
        for node in hit {
            self.cluster.bury(node).await;
        }
    }

    /// Adds a node, crashes another one, and asks those that are left to remove a third one.
    pub(super) async fn replace(&mut self, removed: NodeId, dies: NodeId) {
        self.node_last = NodeId(self.node_last.0 + 1);
        let new = self.node_last;
        self.cluster.add_member(new).await;
        let by = self.cluster.members.keys().copied().find(|node| ![removed, dies, new].contains(node));
        let handle = self.cluster.handle(by.expect("there are three"));
        handle.add(new, address(new), soon()).await.unwrap_or_else(|error| panic!("{new} is taken in: {error}"));
        self.cluster.crash(dies).await;
        // Without the crashed node the removal may take longer than this waits for, or be refused until the new node
        // is a voter.
        let removing = async move { drop(handle.remove(removed, Instant::now() + load::DEADLINE).await) };
        self.begun.push(tokio::spawn(removing));
    }

    pub(super) async fn end_replacement(&mut self, removed: NodeId, dies: NodeId) {
        self.start_each(&[dies]).await;
        let by = self.cluster.members.keys().copied().find(|node| *node != removed).expect("others stay");
        let until = soon();
        let mut looks = tokio::time::interval(LOOK);
        while let Err(error) = self.cluster.handle(by).remove(removed, soon()).await {
            assert!(Instant::now() < until, "all nodes run, and {removed} is not removed: {error}");
            looks.tick().await;
        }
        self.some().await;
        self.cluster.crash(removed).await;
        self.cluster.members.remove(&removed);
    }

    /// See [`super::faults::Fault::SetBack`]: a disk that forgets what others count on.
    pub(super) async fn set_back(&mut self, node: NodeId, away: NodeId, away_is_first: bool, forgets_state: bool) {
        let cluster = &mut self.cluster;
        cluster.rises(&cluster.running()).await;
        cluster.counts(away, 1).await;
        cluster.crash(away).await;
        cluster.counts(node, 3).await;
        let before = cluster.disk(node).copy();
        self.some().await;
        let cluster = &mut self.cluster;
        cluster.counts(node, 3).await;
        cluster.crash_all().await;
        let chance = cluster.random.random();
        *cluster.disk_of(node) = before.crash(chance);
        if forgets_state {
            cluster.forget_beside_logs(node);
        }
        self.start_each(&if away_is_first { [away, node] } else { [node, away] }).await;
    }
}
