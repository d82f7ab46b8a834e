//! Three nodes in a process each, as `dev --processes` starts them, in a temporary folder; each can be killed, stopped
//! and started.
//!
//! In: a number of partitions. Out: addresses, process ids, and the nodes' pages about the cluster. Every child ends
//! when the value is dropped, and when this process ends in any way, because its stdin ends then. It sends no transfer.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hyper::Method;
use statehouse_kernel::ids::{JournalIndex, NodeId, PartitionId, Position};
use statehouse_node::api::{ClusterPage, ReplicaPage};
use tokio::time::{Instant, sleep};

use crate::bench::BenchFolder;
use crate::client::{AccessArgs, Client};
use crate::cluster::init_body;
use crate::dev::WALLET_NAME;
use crate::dev::folder::{DevFolder, DevNode};
use crate::dev::processes::{DevContent, write_configs};

const NODES: u32 = 3;
const APPEND_BYTES: &str = "statehouse_append_bytes_sent_total";
/// If a node is not as expected after this long, its log says why.
const WAIT_MAX: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(20);

pub struct Nodes {
    /// The first field, so that all children have ended before the folder is deleted.
    members: Vec<BenchMember>,
    _lock: DevFolder,
    _folder: BenchFolder,
}

struct BenchMember {
    node: DevNode,
    config: PathBuf,
    log: PathBuf,
    client: Client,
    running: Option<NodeProcess>,
}

struct NodeProcess {
    child: Child,
    /// Held open: the child stops when it ends.
    stdin: Option<ChildStdin>,
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Neither has an effect if it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Nodes {
    /// Starts them, initializes the cluster, and waits until every node serves the wallet.
    pub async fn start(partitions: u32) -> anyhow::Result<Self> {
        let folder = BenchFolder::new(None)?;
        let lock = DevFolder::open(folder.path(), NODES)?;
        let bound = lock.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let nodes = bound.iter().map(|bound| bound.node(0)).collect::<anyhow::Result<Vec<_>>>()?;
        let configs = write_configs(&lock, &nodes, &DevContent { machines: &[], partitions, views: &[], tls: None })?;
        // From here on the children may take the addresses.
        drop(bound);
        let member = |(node, config): (&DevNode, PathBuf)| {
            let log = config.with_extension("log");
            let client = Client::new(&format!("http://{}", node.http), &AccessArgs::default())?;
            Ok(BenchMember { node: node.clone(), config, log, client, running: None })
        };
        let members = nodes.iter().zip(configs).map(member).collect::<anyhow::Result<_>>()?;
        let mut started = Self { members, _lock: lock, _folder: folder };
        for id in started.ids() {
            started.start_again(id)?;
        }
        for member in &started.members {
            member.wait(|_| true).await?;
        }
        let peers: Vec<_> = nodes.iter().map(|node| (node.id.0, node.peer.to_string())).collect();
        let client = &started.members[0].client;
        client
            .send(Method::POST, "/v1/cluster/init", Some(&init_body(&peers)))
            .await
            .context("founding the cluster")?;
        for id in started.ids() {
            started.wait_until_caught_up(id, partitions).await?;
        }
        Ok(started)
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.members.iter().map(|member| member.node.id).collect()
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.node.http).collect()
    }

    /// The process ids of the running nodes.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.running.as_ref()).map(|running| running.child.id()).collect()
    }

    /// The bytes of appends that all nodes have sent to each other since they were started.
    pub async fn append_bytes(&self) -> anyhow::Result<u64> {
        let mut counted = Vec::new();
        for member in &self.members {
            // A node that has led nothing yet has no such counter.
            counted.extend(find_counter(&member.client.get_text("/metrics").await?, APPEND_BYTES)?);
        }
        ensure!(!counted.is_empty(), "no node has {APPEND_BYTES} at /metrics");
        Ok(counted.into_iter().sum())
    }

    /// The node that says of itself that it leads this partition of the wallet. If an earlier leader does not know of
    /// its successor yet, the one with the later term.
    pub async fn leader(&self, partition: PartitionId) -> anyhow::Result<NodeId> {
        let deadline = Instant::now() + WAIT_MAX;
        while Instant::now() < deadline {
            let mut leaders = Vec::new();
            for member in &self.members {
                let Some(page) = member.page().await else { continue };
                let leads =
                    |replica: &&ReplicaPage| replica.partition == partition && replica.leader == Some(page.node);
                leaders.extend(replicas(&page).find(leads).map(|replica| (replica.term, page.node)));
            }
            if let Some((_, leader)) = leaders.into_iter().max() {
                return Ok(leader);
            }
            sleep(LOOK).await;
        }
        bail!("nobody leads partition {partition} after {} s", WAIT_MAX.as_secs())
    }

    /// `kill -9`; the process is gone on return.
    pub fn kill(&mut self, id: NodeId) {
        self.member(id).running = None;
    }

    /// The same as SIGTERM: the node finishes the requests under way and closes its partitions.
    pub async fn stop(&mut self, id: NodeId) -> anyhow::Result<()> {
        let Some(mut running) = self.member(id).running.take() else { return Ok(()) };
        running.stdin = None;
        let deadline = Instant::now() + WAIT_MAX;
        while Instant::now() < deadline {
            if let Some(status) = running.child.try_wait()? {
                ensure!(status.success(), "node {id} did not stop well: {status}");
                return Ok(());
            }
            sleep(LOOK).await;
        }
        bail!("node {id} did not stop in {} s", WAIT_MAX.as_secs())
    }

    pub async fn stop_all(mut self) -> anyhow::Result<()> {
        for id in self.ids() {
            self.stop(id).await?;
        }
        Ok(())
    }

    pub fn start_again(&mut self, id: NodeId) -> anyhow::Result<()> {
        let member = self.member(id);
        let log = File::options().create(true).append(true).open(&member.log)?;
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.args(["serve", "--stop-with-stdin", "--config"]).arg(&member.config);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().with_context(|| format!("starting the process of node {id}"))?;
        let stdin = child.stdin.take();
        member.running = Some(NodeProcess { child, stdin });
        Ok(())
    }

    /// Waits until the node serves and has, in every partition, everything that any node had at the time of the call.
    pub async fn wait_until_caught_up(&self, id: NodeId, partitions: u32) -> anyhow::Result<()> {
        let mut most = vec![JournalIndex(0); partitions as usize];
        for member in &self.members {
            for replica in member.page().await.iter().flat_map(replicas) {
                let most = &mut most[replica.partition.0 as usize];
                *most = (*most).max(index(replica));
            }
        }
        let has_all = |page: &ClusterPage| {
            let runs = |replica: &&ReplicaPage| {
                let most = most[replica.partition.0 as usize];
                replica.state == "running" && replica.leader.is_some() && most <= index(replica)
            };
            page.is_ready && replicas(page).filter(runs).count() == partitions as usize
        };
        let member = self.members.iter().find(|member| member.node.id == id).expect("ids are of members");
        member.wait(has_all).await
    }

    fn member(&mut self, id: NodeId) -> &mut BenchMember {
        self.members.iter_mut().find(|member| member.node.id == id).expect("ids are of members")
    }
}

impl BenchMember {
    /// The cluster as this node sees it; `None` while it does not run or answer.
    async fn page(&self) -> Option<ClusterPage> {
        self.running.as_ref()?;
        let page = self.client.get("/v1/cluster").await.ok()?;
        serde_json::from_value(page).ok()
    }

    async fn wait(&self, is_so: impl Fn(&ClusterPage) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + WAIT_MAX;
        while Instant::now() < deadline {
            if self.page().await.is_some_and(|page| is_so(&page)) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        let id = self.node.id;
        bail!("node {id} is not ready after {} s; its log ends:\n{}", WAIT_MAX.as_secs(), self.log_end())
    }

    /// The folder will be deleted, so an error includes the end of the log.
    fn log_end(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// A counter without labels, from the text of `/metrics`.
fn find_counter(metrics: &str, name: &str) -> anyhow::Result<Option<u64>> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map(|value| value.trim().parse().with_context(|| format!("{name} is {value}"))).transpose()
}

fn replicas(page: &ClusterPage) -> impl Iterator<Item = &ReplicaPage> {
    page.machines.iter().filter(|machine| machine.name == WALLET_NAME).flat_map(|machine| &machine.partitions)
}

fn index(replica: &ReplicaPage) -> JournalIndex {
    replica.position.parse::<Position>().map_or(JournalIndex(0), |position| position.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let text = "# TYPE a_total counter\na_total_more 7\na_total 42\n";
        let find = |name| find_counter(text, name).map_err(|error| error.to_string());
        assert_eq!(find("a_total"), Ok(Some(42)));
        assert_eq!(find("b"), Ok(None));
        assert_eq!(find("#"), Err("# is TYPE a_total counter".to_owned()));
    }
}
