//! Nodes of one cluster that understand different feature levels. Nothing new is written until all of them understand
//! it, and a node that meets what it does not understand says so.
//!
//! In: nodes that restart and understand more, or less. Out: the level on every node, and what the nodes say. This
//! file does not know what a level means.

use super::*;
use crate::system::ClusterError;

impl Cluster {
    pub(super) fn level(&self, node: NodeId) -> FeatureLevel {
        self.node(node).context.opening.features.level()
    }

    /// Crashes a node, and starts it again with this highest level.
    pub(super) async fn restart_at(&mut self, node: NodeId, level_max: FeatureLevel) {
        self.crash(node).await;
        self.members.get_mut(&node).expect("it is a node").level_max = level_max;
        self.start(node).await;
    }

    /// Waits until all of these nodes may write what the highest level has introduced.
    pub(super) async fn rises(&self, among: &[NodeId]) {
        let has_risen = || among.iter().all(|node| self.level(*node) == features::HIGHEST);
        eventually("the level rises on all nodes", || has_risen().then_some(())).await;
    }

    /// Waits until each of these nodes has heard which level every node understands.
    pub(super) async fn heard(&self, among: &[NodeId]) {
        let of = |node: &NodeId| self.node(*node).cluster().view().nodes;
        let all_heard = || among.iter().all(|node| of(node).iter().all(|other| other.feature_level_max.is_some()));
        eventually("each node says what it understands", || all_heard().then_some(())).await;
    }

    async fn says(&self, node: NodeId, words: &[&str]) {
        let says =
            || self.node(node).router().not_ready().iter().any(|text| words.iter().all(|word| text.contains(word)));
        eventually("the node says why it does not serve", || says().then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_new_is_written_until_all_nodes_understand_it_and_whoever_does_not_says_so() {
    let held_back = NODES[2];
    let mut cluster = Cluster::found_with(Options { held_back: Some(held_back), ..Options::default() }).await;
    cluster.heard(&NODES).await;
    let mut load = cluster.load();
    load.more(30).await;
    for node in NODES {
        assert_eq!(
            cluster.level(node),
            features::BASE,
            "node {held_back} understands no more, so node {node} writes no more"
        );
    }
    let mut attempts = load.stop().await;
    let new = NodeId(5);
    cluster.add_member(new).await;
    cluster.node(NODES[0]).cluster().add(new, address(new), soon()).await.expect("it is taken in");
    cluster.node(NODES[0]).cluster().remove(new, soon()).await.expect("a removal that every node understands");
    cluster.crash(new).await;

    cluster.restart_at(held_back, features::HIGHEST).await;
    cluster.rises(&NODES).await;
    // A node that starts knows the level from its own state.
    cluster.restart_at(NODES[0], features::HIGHEST).await;
    cluster.served().await;
    assert_eq!(cluster.level(NODES[0]), features::HIGHEST);

    cluster.restart_at(held_back, features::BASE).await;
    let reached = format!("has reached feature level {}", features::HIGHEST);
    cluster.says(held_back, &[&reached, "understands no level above 1", "feature_level_max"]).await;
    assert!(cluster.node(held_back).context.replicas().is_empty(), "it neither votes nor answers");
    let view = cluster.node(NODES[0]).cluster().view();
    assert_eq!(view.feature_level, features::HIGHEST, "the level never falls");

    // The others continue, and so does this node once it understands the level again.
    let mut load = Load::start(cluster.doors.clone(), cluster.bank.accounts.clone(), cluster.seed + 1);
    load.more(10).await;
    cluster.restart_at(held_back, features::HIGHEST).await;
    cluster.served().await;
    load.more(10).await;
    attempts.extend(load.stop().await);
    cluster.judge(&attempts).await;

    joins_only_with_the_level(&mut cluster).await;
}

/// The cluster must have reached the highest level.
async fn joins_only_with_the_level(cluster: &mut Cluster) {
    let new = NodeId(4);
    cluster.add_member_at(new, features::BASE).await;
    let added = cluster.node(NODES[0]).cluster().add(new, address(new), soon()).await;
    assert!(
        matches!(&added, Err(ClusterError::Refused { node, reason })
            if *node == new && reason.contains("understands no level above 1")),
        "{added:?}"
    );
    assert!(cluster.node(new).cluster().view().cluster.is_none(), "it may join another cluster");
    cluster.restart_at(new, features::HIGHEST).await;
    cluster.node(NODES[0]).cluster().add(new, address(new), soon()).await.expect("it understands all");
    eventually("it serves", || find_replica(cluster.node(new).router()).map(drop)).await;
    cluster.rises(&[new]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_alone_writes_what_it_understands_from_the_start_and_is_not_opened_by_one_that_understands_less()
{
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let open = |feature_level_max| {
        lend_compiled(folder.path());
        Node::open(NodeOptions { feature_level_max, ..node_options(folder.path().to_owned(), NodeId(1)) })
    };
    let level = |node: &Node| node.context.opening.features.level();
    let node = open(features::BASE).await.expect("a new folder");
    assert_eq!(level(&node), features::BASE);
    node.close().await.expect("it stops");
    let node = open(features::HIGHEST).await.expect("the same folder");
    assert_eq!(level(&node), features::HIGHEST, "whatever it writes, it may write as it understands it");
    node.close().await.expect("it stops");
    let Err(error) = open(features::BASE).await else { panic!("it would misread what is there") };
    let words = format!("has reached feature level {}, and this node understands no level above 1", features::HIGHEST);
    assert!(error.to_string().contains(&words), "{error}");
}
