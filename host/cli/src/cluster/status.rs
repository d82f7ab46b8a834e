//! A cluster as tables, and its problems.
//!
//! In: the page that a node answers. Out: text. It asks no node.

use std::fmt::Write;

use statehouse_kernel::ids::NodeId;
use statehouse_node::api::{ClusterPage, LossPage, NodePage, ReplicaPage};

use crate::output::{paragraph, table};

/// How many digits of a key distinguish it from others.
const KEY_DIGITS: usize = 16;
/// Clocks that are kept by NTP differ by far less.
const CLOCK_FAR_US: u64 = 1_000_000;
/// The state of a partition that is well.
const RUNNING: &str = "running";

/// The cluster as text for people.
pub fn render(page: &ClusterPage) -> String {
    let ready = if page.is_ready { "ready" } else { "not ready" };
    let Some(cluster) = &page.cluster else {
        return format!("node {} (version {}, {ready}) belongs to no cluster\n", page.node, page.version);
    };
    let mut text = format!(
        "cluster {cluster}, as node {} sees it (version {}, {ready}), at feature level {}\n",
        page.node, page.version, page.feature_level
    );
    let mut nodes = table(&["node", "peers reach it at", "clients reach it at", "answers", "clock ahead", "key"]);
    for node in &page.nodes {
        let is_self = node.id == page.node;
        let answers = if is_self { "this one" } else { yes_or_no(node.is_reachable) };
        let answers = answers.to_owned();
        nodes.add_row([node.id.to_string(), node.peer.clone(), http(node), answers, clock(node), key(page, node)]);
    }
    let mut partitions = table(&["partition", "leader", "term", "voters", "learners", "position", "time", "state"]);
    for (name, replica) in replicas(page) {
        partitions.add_row([
            name,
            replica.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
            replica.term.to_string(),
            ids(&replica.voters),
            ids(&replica.learners),
            replica.position.clone(),
            replica.time.clone(),
            state(replica).to_owned(),
        ]);
    }
    write!(text, "{nodes}\n{partitions}\n").expect("a text takes everything");
    for loss in &page.losses {
        let LossPage { machine, partition, node, by, why, time, refusal } = loss;
        text += &paragraph(&format!(
            "loss accepted on node {node} at {time} by {by} ({why}): {machine}/{partition}: {refusal}"
        ));
    }
    text
}

/// The problems that an operator should look at, each with what to do.
pub fn troubles(page: &ClusterPage) -> Vec<String> {
    if page.cluster.is_none() {
        let node = page.node;
        return vec![format!(
            "node {node} belongs to no cluster; create one with `statehouse cluster init --node {node}=HOST:PORT …`, \
             or add it to one with `statehouse cluster add --node {node}=HOST:PORT --url` of a node there"
        )];
    }
    let mut troubles = Vec::new();
    for node in page.nodes.iter().filter(|node| !node.is_reachable && node.id != page.node) {
        troubles.push(format!(
            "node {} at {} does not answer node {}; start it, or look at the network between them",
            node.id, node.peer, page.node
        ));
    }
    let left_behind = |node: &&NodePage| node.feature_level_max.is_some_and(|max| max < page.feature_level);
    for node in page.nodes.iter().filter(left_behind) {
        troubles.push(format!(
            "node {} does not understand feature level {}, which the cluster has reached; run the version of the \
             other nodes there, without a lower `feature_level_max`",
            node.id, page.feature_level
        ));
    }
    for (name, replica) in replicas(page) {
        if replica.leader.is_none() {
            troubles
                .push(format!("partition {name} has no leader; most of its voters {} must run", ids(&replica.voters)));
        }
        troubles.extend(trouble_of(page, &name, replica));
    }
    troubles.extend(page.remarks.iter().map(|remark| format!("node {}: {remark}", page.node)));
    let is_far = |node: &&NodePage| node.clock_ahead_us.is_some_and(|ahead| CLOCK_FAR_US < ahead.unsigned_abs());
    for node in page.nodes.iter().filter(is_far) {
        troubles.push(format!(
            "the clock of node {} differs by {} from that of node {}; set the one that is wrong",
            node.id,
            clock(node),
            page.node
        ));
    }
    if !page.is_ready && troubles.is_empty() {
        troubles.push(format!("node {} is not ready; its page /readyz says why", page.node));
    }
    troubles
}

/// Why partitions do not run on the node, a text each.
pub fn troubles_of_replicas(page: &ClusterPage) -> impl Iterator<Item = String> {
    replicas(page).filter_map(|(name, replica)| trouble_of(page, &name, replica))
}

fn trouble_of(page: &ClusterPage, name: &str, replica: &ReplicaPage) -> Option<String> {
    let is_running = replica.state == RUNNING;
    (!is_running).then(|| format!("partition {name} on node {}: {}; see its log", page.node, replica.state))
}

/// The state in one or two words. Its reason may be long, and follows the table.
fn state(replica: &ReplicaPage) -> &str {
    match replica.state.as_str() {
        word @ (RUNNING | "closed") => word,
        reason if reason.starts_with("halted: ") => "halted",
        _ => "not open",
    }
}

/// All partitions, as `machine/partition`.
fn replicas(page: &ClusterPage) -> impl Iterator<Item = (String, &ReplicaPage)> {
    page.machines.iter().flat_map(|machine| {
        machine.partitions.iter().map(move |replica| (format!("{}/{}", machine.name, replica.partition), replica))
    })
}

fn ids(ids: &[NodeId]) -> String {
    let ids: Vec<_> = ids.iter().map(NodeId::to_string).collect();
    ids.join(" ")
}

fn http(node: &NodePage) -> String {
    // An address of a node with TLS includes the scheme.
    let url = |http: &String| if http.contains("://") { http.clone() } else { format!("http://{http}") };
    node.http.as_ref().map_or_else(|| "–".to_owned(), url)
}

/// The first digits of the key with which it signs now.
fn key(page: &ClusterPage, node: &NodePage) -> String {
    let newest = page.keys.iter().rev().find(|key| key.node == node.id);
    newest.map_or_else(|| "–".to_owned(), |key| key.key.chars().take(KEY_DIGITS).collect())
}

fn yes_or_no(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

/// In milliseconds, without a float.
fn clock(node: &NodePage) -> String {
    let Some(ahead) = node.clock_ahead_us else { return "–".to_owned() };
    let sign = if ahead < 0 { "-" } else { "" };
    let ahead = ahead.unsigned_abs();
    format!("{sign}{}.{:03} ms", ahead / 1000, ahead % 1000)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use statehouse_kernel::ids::{Head, JournalIndex, Micros, PartitionId, Position, Term};
    use statehouse_node::system::cluster::{ClusterView, MachineView, NodeView, ReplicaView};
    use statehouse_node::system::key_row::KeyRow;
    use statehouse_system::features::{self, FeatureLevel};

    use super::*;

    fn node(id: u64, clock_ahead: Option<i64>) -> NodeView {
        NodeView {
            id: NodeId(id),
            peer: format!("10.0.0.{id}:7000"),
            http: clock_ahead.map(|_| format!("10.0.0.{id}:8080")),
            is_reachable: clock_ahead.is_some(),
            clock_ahead: clock_ahead.map(Micros),
            feature_level_max: clock_ahead.map(|_| FeatureLevel(2)),
        }
    }

    fn replica(partition: u32, leader: Option<u64>, state: &str) -> ReplicaView {
        let head = Head::of(b"a journal");
        ReplicaView {
            partition: PartitionId(partition),
            leader: leader.map(NodeId),
            term: Term(7),
            voters: [1, 2, 3].map(NodeId).to_vec(),
            learners: vec![NodeId(4)],
            position: Position {
                partition: PartitionId(partition),
                index: JournalIndex(12),
                n: 3,
                head8: [1, 2, 3, 4],
            },
            time: Micros(1_772_600_767_000_001),
            head,
            state: state.to_owned(),
        }
    }

    fn page(nodes: Vec<NodeView>, partitions: Vec<ReplicaView>, is_ready: bool) -> ClusterPage {
        let cluster = Some("018f0000-0000-7000-8000-000000000001".to_owned());
        let machines = vec![MachineView { name: "wallet".into(), partitions }];
        let keys = vec![KeyRow { node: 1, key: [0xab; 32], time: 7 }];
        let feature_level = FeatureLevel(2);
        let (losses, remarks) = (vec![], vec![]);
        ClusterPage::new(
            ClusterView { cluster, node: NodeId(1), nodes, machines, keys, feature_level, losses, remarks },
            is_ready,
        )
    }

    #[test]
    fn a_healthy_cluster_is_two_tables() {
        let nodes = vec![node(1, Some(0)), node(2, Some(1_234)), node(3, Some(-56))];
        let page = page(nodes, vec![replica(0, Some(2), "running"), replica(1, Some(3), "running")], true);
        assert_eq!(troubles(&page), Vec::<String>::new());
        expect![[r#"
            cluster 018f0000-0000-7000-8000-000000000001, as node 1 sees it (version 0.1.0, ready), at feature level 2
            ┌─────────────────────────────────────────────────────────────────────────────────────────────┐
            │ node   peers reach it at   clients reach it at    answers    clock ahead   key              │
            ╞═════════════════════════════════════════════════════════════════════════════════════════════╡
            │ 1      10.0.0.1:7000       http://10.0.0.1:8080   this one   0.000 ms      abababababababab │
            │ 2      10.0.0.2:7000       http://10.0.0.2:8080   yes        1.234 ms      –                │
            │ 3      10.0.0.3:7000       http://10.0.0.3:8080   yes        -0.056 ms     –                │
            └─────────────────────────────────────────────────────────────────────────────────────────────┘
            ┌─────────────────────────────────────────────────────────────────────────────────────────────────────────┐
            │ partition   leader   term   voters   learners   position          time                          state   │
            ╞═════════════════════════════════════════════════════════════════════════════════════════════════════════╡
            │ wallet/0    2        7      1 2 3    4          0.12.3~01020304   2026-03-04T05:06:07.000001Z   running │
            │ wallet/1    3        7      1 2 3    4          1.12.3~01020304   2026-03-04T05:06:07.000001Z   running │
            └─────────────────────────────────────────────────────────────────────────────────────────────────────────┘
        "#]]
        .assert_eq(&render(&page));
    }

    #[test]
    fn what_is_not_well_is_said_with_what_to_do() {
        let page = page(vec![node(1, Some(0)), node(2, None)], vec![replica(0, None, "halted: disk full")], false);
        expect![[r#"
            node 2 at 10.0.0.2:7000 does not answer node 1; start it, or look at the network between them
            partition wallet/0 has no leader; most of its voters 1 2 3 must run
            partition wallet/0 on node 1: halted: disk full; see its log"#]]
        .assert_eq(&troubles(&page).join("\n"));
        let remarks = vec!["wallet/0: the journal is 60 s ahead".to_owned()];
        let page = ClusterPage {
            remarks,
            ..super::tests::page(vec![node(1, Some(0)), node(2, Some(-7_000_000))], vec![], true)
        };
        expect![[r#"
            node 1: wallet/0: the journal is 60 s ahead
            the clock of node 2 differs by -7000.000 ms from that of node 1; set the one that is wrong"#]]
        .assert_eq(&troubles(&page).join("\n"));
        let page = super::tests::page(vec![node(1, Some(0))], vec![replica(0, None, "halted: disk full")], false);
        let rendered = render(&page);
        assert!(rendered.contains("not ready") && rendered.contains("none"), "{rendered}");
    }

    /// The reason made each line of the table as wide as itself.
    #[test]
    fn a_long_reason_is_not_in_the_table() {
        let waits = "waits for another node to confirm what its log held: node 2 does not answer: connection refused \
                     (os error 111); node 3 was away at the end: it last heard this node's counter at 41, and on \
                     this node's disk it is 44; if the entries are gone for good, run `statehouse cluster \
                     accept-loss wallet 1 --why REASON` here";
        let partitions = [("running", 0), (waits, 1), ("halted: disk full", 2), ("closed", 3)];
        let replicas = partitions.map(|(state, partition)| replica(partition, Some(2), state)).to_vec();
        let page = page(vec![node(1, Some(0))], replicas, true);
        let rendered = render(&page);
        for (state, partition) in [("running", 0), ("not open", 1), ("halted", 2), ("closed", 3)] {
            let line = rendered.lines().find(|line| line.contains(&format!("wallet/{partition} "))).expect("a row");
            assert!(line.contains(&format!("Z   {state} ")), "{line}");
        }
        assert_eq!(rendered.lines().find(|line| 120 < line.chars().count()), None);
        let below: String = troubles_of_replicas(&page).map(|trouble| paragraph(&trouble)).collect();
        expect![[r#"
            partition wallet/1 on node 1: waits for another node to confirm what its log held: node 2 does not
              answer: connection refused (os error 111); node 3 was away at the end: it last heard this node's
              counter at 41, and on this node's disk it is 44; if the entries are gone for good, run
              `statehouse cluster accept-loss wallet 1 --why REASON` here; see its log
            partition wallet/2 on node 1: halted: disk full; see its log
            partition wallet/3 on node 1: closed; see its log
        "#]]
        .assert_eq(&below);
    }

    #[test]
    fn a_node_without_a_cluster_says_how_to_get_one() {
        let view = ClusterView {
            cluster: None,
            node: NodeId(4),
            nodes: vec![],
            machines: vec![],
            keys: vec![],
            feature_level: features::BASE,
            remarks: vec![],
            losses: vec![],
        };
        let page = ClusterPage::new(view, true);
        let text = format!("{}{}", render(&page), troubles(&page).join("\n"));
        expect![[r#"
            node 4 (version 0.1.0, ready) belongs to no cluster
            node 4 belongs to no cluster; create one with `statehouse cluster init --node 4=HOST:PORT …`, or add it to one with `statehouse cluster add --node 4=HOST:PORT --url` of a node there"#]].assert_eq(&text);
    }
}
