//! `dev --processes`: every node in its own process, configured by a file, so that one can be killed, paused or started
//! by hand.
//!
//! ```text
//! node-<i>.toml → serve --config (child i) ─ stdout: it listens → init over REST → welcome
//!                                          └ stderr: printed here, as `node i: …`
//! ```
//! A child stops when its stdin ends: this process closes it to stop the child, and the system closes it when this
//! process dies. It knows only the REST API of nodes.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow};
use hyper::Method;
use serde_json::json;
use statehouse_kernel::ids::NodeId;
use statehouse_node::config::{HttpTlsConfig, PeerTlsConfig, Receivers};
use statehouse_node::limits::SHUTDOWN_MAX;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::folder::{DevFolder, DevNode, routes_from};
use super::{
    ClientEntrance, DevArgs, LOOK, READY_TIME_MAX, WALLET, WALLET_NAME, make_members, print_listening, welcome,
};
use crate::client::{AccessArgs, Client};
use crate::cluster::init_body;
use crate::host::{self, Process};
use crate::output::{complain, print};
use crate::shipped;
use crate::trust::TlsArgs;

/// Longer than a node waits for its requests, because it also closes its partitions.
const STOP_TIME_MAX: Duration = SHUTDOWN_MAX.saturating_add(Duration::from_secs(25));
const LISTENING: &str = "listening on ";

pub fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    // The children would refuse it too, but with messages about a file that nobody has written.
    host::run(async move |process: Process| {
        let folder = DevFolder::open(&args.data, args.nodes)?;
        let bound = folder.bind(args.http).await?;
        let mut nodes = bound.iter().map(|bound| bound.node(0)).collect::<anyhow::Result<Vec<_>>>()?;
        let entrance = ClientEntrance::make(&args)?;
        // From here on the children may take the addresses.
        drop(bound);
        let configs = {
            let views: Vec<&str> = if args.no_views { Vec::new() } else { shipped::names().collect() };
            let (machines, partitions, tls) = (&args.machines, args.partitions, entrance.tls());
            write_configs(&folder, &nodes, &DevContent { machines, partitions, views: &views, tls })?
        };
        let (listens, mut listening) = mpsc::channel(nodes.len());
        let mut children = Children::default();
        for (node, config) in nodes.iter_mut().zip(configs) {
            node.pid = children.start(node.id, config, args.paranoid, listens.clone())?;
        }
        drop(listens);
        folder.write(&nodes)?;
        let served = tokio::select! {
            biased;
            // A Ctrl-C in a terminal reaches the children as well, and may end them first.
            () = process.stop.cancelled() => Ok(true),
            prepared = prepare(&nodes, &entrance, &folder, &mut listening) => prepared.map(|()| false),
            died = children.one_dies() => Err(died),
        };
        let watched = match served {
            Ok(true) => Ok(()),
            Ok(false) => tokio::select! {
                biased;
                () = process.stop.cancelled() => Ok(()),
                died = children.all_die() => Err(died),
            },
            Err(error) => Err(error),
        };
        children.stop().await;
        watched.map(|()| ExitCode::SUCCESS)
    })
}

/// What the nodes serve.
#[derive(Clone, Copy)]
pub struct DevContent<'a> {
    pub machines: &'a [(String, PathBuf)],
    pub partitions: u32,
    /// The views of the wallet.
    pub views: &'a [&'a str],
    /// The certificate that every node shows to clients.
    pub tls: Option<&'a HttpTlsConfig>,
}

/// Writes everything that `serve` needs to run the wallet and `content`; returns the path of each node's configuration.
pub fn write_configs(folder: &DevFolder, nodes: &[DevNode], content: &DevContent<'_>) -> anyhow::Result<Vec<PathBuf>> {
    let wallet = folder.write_file(&format!("{WALLET_NAME}.wasm"), WALLET)?;
    let wallet = [(WALLET_NAME.to_owned(), wallet)];
    let machines = [&wallet[..], content.machines].concat();
    let content = DevContent { machines: &machines, ..*content };
    let members = make_members(folder, nodes)?;
    let write = |node: &DevNode| {
        let text = config(node, nodes, &folder.node(node.id), &content, &members[&node.id])?;
        folder.write_file(&format!("node-{}.toml", node.id), text.as_bytes())
    };
    nodes.iter().map(write).collect()
}

/// The configuration file of a node. Its paths are absolute, so that it can be used from anywhere.
fn config(
    node: &DevNode,
    nodes: &[DevNode],
    data: &Path,
    content: &DevContent<'_>,
    member: &PeerTlsConfig,
) -> anyhow::Result<String> {
    let path = |path: &Path| {
        let absolute = std::path::absolute(path).with_context(|| format!("the path {}", path.display()))?;
        absolute.into_os_string().into_string().map_err(|path| anyhow!("{} is not UTF-8", path.display()))
    };
    let declared = content.machines.iter().map(|(name, file)| {
        let views = if name == WALLET_NAME { content.views } else { &[] };
        let machine = json!({ "module": path(file)?, "partitions": content.partitions, "views": views });
        Ok((name.clone(), machine))
    });
    let declared = declared.collect::<anyhow::Result<serde_json::Map<_, _>>>()?;
    let mut http = json!({ "listen": node.http });
    if let Some(HttpTlsConfig { certificate, key, .. }) = content.tls {
        http["tls"] = json!({ "certificate": path(certificate)?, "key": path(key)? });
    }
    let PeerTlsConfig { ca, certificate, key } = member;
    let member = json!({ "ca": path(ca)?, "certificate": path(certificate)?, "key": path(key)? });
    let config = json!({
        "node": { "id": node.id, "data": path(data)? },
        "http": http,
        // The same as for `dev` in one process, which says so at its start.
        "auth": { "open": true },
        "peer": { "listen": node.peer, "tls": member, "routes": routes_from(node.id, nodes) },
        "machines": declared,
        "webhooks": { "allow": Receivers::ON_THIS_MACHINE },
    });
    toml::to_string(&config).context("printing a configuration")
}

/// Waits until all nodes listen, initializes the cluster at the first start, waits until it serves, and prints what to
/// try.
async fn prepare(
    nodes: &[DevNode],
    entrance: &ClientEntrance,
    folder: &DevFolder,
    listening: &mut mpsc::Receiver<NodeId>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIME_MAX;
    for _ in nodes {
        let listens = timeout_at(deadline, listening.recv()).await;
        listens.context("not all nodes listen yet; the lines above say why")?.context("a node does not listen")?;
    }
    for node in nodes {
        print_listening(&entrance.url(node.http), &folder.node(node.id))?;
    }
    let tls = TlsArgs { ca: entrance.ca().map(Path::to_owned), ..TlsArgs::default() };
    let access = AccessArgs { tls, ..AccessArgs::default() };
    let clients = nodes.iter().map(|node| Client::new(&entrance.url(node.http), &access));
    let clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
    let mut is_founded = true;
    for client in &clients {
        is_founded &= !client.get("/v1/cluster").await?["cluster"].is_null();
    }
    if !is_founded {
        let members: Vec<_> = nodes.iter().map(|node| (node.id.0, node.peer.to_string())).collect();
        let founded = clients[0].send(Method::POST, "/v1/cluster/init", Some(&init_body(&members))).await;
        // The first node may have initialized it when an earlier start ended too soon for the others.
        let exists = founded.as_ref().is_err_and(|error| error.to_string().contains("cluster_exists"));
        if !exists {
            founded.context("founding the cluster")?;
        }
    }
    wait_until_served(&clients, deadline).await;
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.http).collect();
    Ok(print(&welcome(&addresses, entrance, &folder.node(nodes[0].id)))?)
}

async fn wait_until_served(clients: &[Client], deadline: Instant) {
    for client in clients {
        loop {
            let machine = client.get(&format!("/v1/machines/{WALLET_NAME}")).await;
            let cluster = client.get("/v1/cluster").await;
            if machine.is_ok() && cluster.is_ok_and(|page| page["is_ready"] == true) {
                break;
            }
            if deadline <= Instant::now() {
                tracing::warn!("the cluster does not serve yet; /readyz of each node says why");
                return;
            }
            sleep(LOOK).await;
        }
    }
}

/// The processes of all nodes that have not ended.
#[derive(Default)]
struct Children(Vec<ChildNode>);

struct ChildNode {
    id: NodeId,
    config: PathBuf,
    child: Child,
    /// Held open: the child stops when it ends.
    stdin: Option<ChildStdin>,
}

impl Children {
    /// Starts a node and returns its process id.
    fn start(
        &mut self,
        id: NodeId,
        config: PathBuf,
        paranoid: bool,
        listens: mpsc::Sender<NodeId>,
    ) -> anyhow::Result<u32> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(program);
        command.args(["serve", "--stop-with-stdin", "--config"]).arg(&config);
        if paranoid {
            command.arg("--paranoid");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting the process of node {id}"))?;
        let (pid, stdin) = (child.id(), child.stdin.take());
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        std::thread::spawn(move || forward(id, stderr, |_| ()));
        std::thread::spawn(move || {
            forward(id, stdout, |line| {
                if line.starts_with(LISTENING) {
                    // Nobody waits any more if the start was given up.
                    listens.try_send(id).ok();
                }
            });
        });
        self.0.push(ChildNode { id, config, child, stdin });
        Ok(pid)
    }

    /// Drops the children that have ended, and reports each.
    fn reap(&mut self) -> anyhow::Result<Vec<(NodeId, ExitStatus)>> {
        let mut ended = Vec::new();
        for running in &mut self.0 {
            if let Some(status) = running.child.try_wait().context("waiting for a child")? {
                let (id, config) = (running.id, running.config.display());
                tracing::warn!("node {id} has ended ({status}); start it again: statehouse serve --config {config}");
                ended.push((id, status));
            }
        }
        self.0.retain(|running| !ended.iter().any(|(id, _)| *id == running.id));
        Ok(ended)
    }

    /// Waits until a child ends, which must not happen while the cluster starts.
    async fn one_dies(&mut self) -> anyhow::Error {
        loop {
            match self.reap().map(|ended| ended.first().copied()) {
                Ok(None) => sleep(LOOK).await,
                Ok(Some((id, status))) => {
                    return anyhow!("node {id} did not start ({status}); the lines above say why");
                }
                Err(error) => return error,
            }
        }
    }

    /// Waits until no child is left; the remaining nodes of a cluster continue without those that ended.
    async fn all_die(&mut self) -> anyhow::Error {
        loop {
            match self.reap() {
                Ok(_) if self.0.is_empty() => {
                    return anyhow!("all nodes have ended; start again with the same command");
                }
                Ok(_) => sleep(LOOK).await,
                Err(error) => return error,
            }
        }
    }

    /// Stops all children as SIGTERM would, and kills those that do not end in time.
    async fn stop(mut self) {
        for running in &mut self.0 {
            running.stdin = None;
        }
        let deadline = Instant::now() + STOP_TIME_MAX;
        for running in &mut self.0 {
            while matches!(running.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                sleep(LOOK).await;
            }
            // Killing a process that has ended does nothing.
            if running.child.kill().is_ok() && running.child.wait().is_ok_and(|status| !status.success()) {
                tracing::warn!("node {} did not stop in time, or failed while it stopped", running.id);
            }
        }
    }
}

/// Prints every line of a child's output on stderr, preceded by its name, until the output ends.
fn forward(id: NodeId, output: impl Read, mut on_line: impl FnMut(&str)) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).is_ok_and(|read| 0 < read) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        complain(&format!("node {id}: {text}"));
        on_line(text);
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use statehouse_node::config::Config;

    use super::*;

    #[test]
    fn a_written_configuration_is_one_that_serve_reads() {
        let node = |id: u64, http: &str, peer: &str| {
            let address = |text: &str| text.parse().expect("an address");
            DevNode { id: NodeId(id), pid: 0, http: address(http), peer: address(peer) }
        };
        let nodes = [node(1, "127.0.0.1:8080", "127.0.0.1:7001"), node(2, "127.0.0.1:8081", "127.0.0.1:7002")];
        let machines = [("wallet".to_owned(), PathBuf::from("/d/wallet.wasm"))];
        let tls = HttpTlsConfig::new("/d/tls/node.pem".into(), "/d/tls/node.key".into());
        let (certificate, key) = ("/d/peers/node-1.pem".into(), "/d/peers/node-1.key".into());
        let member = PeerTlsConfig { ca: "/d/peers/ca.pem".into(), certificate, key };
        let content = DevContent { machines: &machines, partitions: 4, views: &["statements"], tls: Some(&tls) };
        let text = config(&nodes[0], &nodes, Path::new("/d/node \"1\""), &content, &member).expect("text");
        let read = Config::parse(&text).expect("what was written makes sense");
        assert_eq!((read.node.id, read.node.data), (NodeId(1), PathBuf::from("/d/node \"1\"")));
        assert_eq!((read.http.listen, read.http.tls), (nodes[0].http, Some(tls)));
        let peer = read.peer.expect("it has peers");
        assert_eq!((peer.listen, peer.routes), (nodes[0].peer, routes_from(NodeId(1), &nodes)));
        assert_eq!(peer.tls, Some(member));
        assert_eq!(read.machines["wallet"].partitions, 4);
        assert_eq!(read.machines["wallet"].views, ["statements"]);
    }

    #[test]
    fn every_line_of_a_child_is_seen_whatever_is_in_it() {
        let mut lines = Vec::new();
        forward(NodeId(1), &b"one\n\xff\nlast"[..], |line| lines.push(line.to_owned()));
        assert_eq!(lines, ["one", "\u{fffd}", "last"]);
    }
}
