//! `dev` in one process: one node, or a whole cluster on one runtime.
//!
//! In: the flags. Out: served nodes, which have founded their cluster automatically at the first start. They meet over
//! loopback sockets and show each other certificates, as they would on several machines; only the process and its
//! metrics are shared. It does not know how requests are answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use statehouse_journal::disk::RealDisk;
use statehouse_kernel::ids::NodeId;
use statehouse_node::api::{Acceptor, Callers, LiveLimits};
use statehouse_node::clock::SystemClock;
use statehouse_node::config::{ClusterConfig, LimitsConfig, PeerTlsConfig, ViewsConfig, WebhooksConfig};
use statehouse_node::limits::{self, DEADLINE_MAX};
use statehouse_node::system::{
    ArchiveOptions, ClusterError, MachineSpec, ModuleSource, NodeOptions, PeerOptions, PeerWay,
};
use statehouse_system::features;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::folder::{BoundNode, DevFolder, DevNode, check_alone, routes_from};
use super::{
    ClientEntrance, DevArgs, LOOK, READY_TIME_MAX, WALLET, WALLET_NAME, make_members, print_listening, welcome,
};
use crate::host::{self, Host, HostOptions, Process};
use crate::output::print;
use crate::serve::peer_files;
use crate::shipped;

/// One node that is a cluster of its own.
pub fn run_alone(args: DevArgs) -> anyhow::Result<ExitCode> {
    check_alone(&args.data)?;
    host::run(async move |process: Process| {
        let listener = host::bind_http(args.http).await?;
        let entrance = ClientEntrance::make(&args)?;
        let options = options(&args, &entrance, (NodeId(1), args.data.clone()), listener, None)?;
        let host = Host::start(options, &process).await?;
        print_listening(&host.url(), &args.data)?;
        print(&welcome(&[host.address()], &entrance, &args.data))?;
        host::finish(vec![host]).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// A cluster of several nodes.
pub fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    host::run(async move |process: Process| {
        let folder = DevFolder::open(&args.data, args.nodes)?;
        let bound = folder.bind(args.http).await?;
        let nodes = bound.iter().map(|bound| bound.node(std::process::id())).collect::<anyhow::Result<Vec<_>>>()?;
        // Before the nodes write anything, so that the folder's shape is known from the first byte.
        folder.write(&nodes)?;
        let (entrance, members) = (ClientEntrance::make(&args)?, make_members(&folder, &nodes)?);
        let starts = bound.into_iter().map(|bound| {
            let tls = &members[&bound.id];
            start((&args, &entrance), (&folder, tls), &nodes, bound, &process)
        });
        // All at once, because none of them gets far before a majority is there.
        let hosts = all_started(starts, &process).await?;
        for (host, node) in hosts.iter().zip(&nodes) {
            print_listening(&host.url(), &folder.node(node.id))?;
        }
        let prepared = tokio::select! {
            biased;
            // What fails at the same time fails because of it.
            () = process.stop.cancelled() => Ok(()),
            prepared = prepare(&hosts, &nodes) => prepared,
        };
        if prepared.is_ok() && !process.stop.is_cancelled() {
            let addresses: Vec<SocketAddr> = hosts.iter().map(Host::address).collect();
            print(&welcome(&addresses, &entrance, &folder.node(nodes[0].id)))?;
        } else {
            process.stop.cancel();
        }
        let finished = host::finish(hosts).await;
        prepared.and(finished)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Waits for the starts of several nodes. If one of them fails, the others are told to stop, and those that have
/// started are closed in order.
async fn all_started(
    starts: impl Iterator<Item = impl Future<Output = anyhow::Result<Host>>>,
    process: &Process,
) -> anyhow::Result<Vec<Host>> {
    let failed_first = OnceLock::new();
    let failed = &failed_first;
    let starts = starts.map(|start| async move {
        match start.await {
            Ok(host) => Some(host),
            Err(error) => {
                process.stop.cancel();
                // The others fail because of this one.
                drop(failed.set(error));
                None
            }
        }
    });
    let hosts: Vec<Host> = join_all(starts).await.into_iter().flatten().collect();
    let Some(error) = failed_first.into_inner() else { return Ok(hosts) };
    let finished = host::finish(hosts).await;
    // A node that served and failed may be why this one was told to stop.
    if host::is_told_to_stop(&error) { finished.and(Err(error)) } else { Err(error) }
}

async fn start(
    (args, entrance): (&DevArgs, &ClientEntrance),
    (folder, tls): (&DevFolder, &PeerTlsConfig),
    nodes: &[DevNode],
    bound: BoundNode,
    process: &Process,
) -> anyhow::Result<Host> {
    let BoundNode { id, http, peer: listener } = bound;
    let advertise = listener.local_addr().context("asking for the peer address")?.to_string();
    let clock_skew_max = ClusterConfig::default().clock_skew_max();
    let way = PeerWay::Listen { listener, tls: Some(peer_files(tls)) };
    let peer = PeerOptions { way, advertise, routes: routes_from(id, nodes), clock_skew_max };
    let mut options = options(args, entrance, (id, folder.node(id)), http, Some(peer))?;
    if let Some(archive) = options.node.archive.as_mut().filter(|archive| !archive.url.starts_with("s3://")) {
        // A folder belongs to one node.
        archive.url = format!("{}/node-{id}", archive.url.trim_end_matches('/'));
    }
    Host::start(options, process).await.with_context(|| format!("starting node {id}"))
}

fn options(
    args: &DevArgs,
    entrance: &ClientEntrance,
    (node, data): (NodeId, PathBuf),
    listener: TcpListener,
    peer: Option<PeerOptions>,
) -> anyhow::Result<HostOptions> {
    let callers = Callers::new(&[], listener.local_addr().context("asking for the address")?)?;
    let wallet = (WALLET_NAME.to_owned(), ModuleSource::Embedded(WALLET));
    let others = args.machines.iter().map(|(name, file)| (name.clone(), ModuleSource::File(file.clone())));
    let machines = std::iter::once(wallet).chain(others);
    let views_of = |name: &str| if name == WALLET_NAME && !args.no_views { shipped::all() } else { Vec::new() };
    let machines = machines.map(|(name, module)| {
        let views = views_of(&name);
        MachineSpec { name, module, partitions: args.partitions, views }
    });
    let machines = machines.collect();
    Ok(HostOptions {
        node: NodeOptions {
            data,
            node,
            machines,
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            paranoid: args.paranoid,
            log_keep_bytes: None,
            archive: args
                .archive
                .clone()
                .map(|url| ArchiveOptions { url, every: Duration::from_secs(args.archive_every) }),
            snapshot_every_bytes: None,
            snapshot_keep: None,
            scrub_bytes_per_second: limits::SCRUB_BYTES_PER_SECOND,
            feature_level_max: features::HIGHEST,
            hot_bytes_max: limits::HOT_TABLE_BYTES_MAX,
            peer,
            http: None,
        },
        listener,
        acceptor: Acceptor::new(entrance.tls())?,
        callers: Arc::new(callers),
        hosts: Vec::new(),
        command_roles: Arc::default(),
        limits: LiveLimits::new(LimitsConfig::default()),
        webhooks: WebhooksConfig::on_this_machine(),
        views: ViewsConfig::default(),
    })
}

/// Founds the cluster at the first start, and waits until every node serves the wallet.
async fn prepare(hosts: &[Host], nodes: &[DevNode]) -> anyhow::Result<()> {
    // Also if only some of them belong to no cluster: the process may have ended while it founded the cluster.
    if hosts.iter().any(|host| host.cluster().view().cluster.is_none()) {
        let members: BTreeMap<NodeId, String> = nodes.iter().map(|node| (node.id, node.peer.to_string())).collect();
        match hosts[0].cluster().init(members, Instant::now() + DEADLINE_MAX).await {
            Ok(()) | Err(ClusterError::Exists(_)) => {}
            Err(error) => return Err(error).context("founding the cluster"),
        }
    }
    let deadline = Instant::now() + READY_TIME_MAX;
    while !hosts.iter().all(|host| host.serves(WALLET_NAME)) {
        if deadline <= Instant::now() {
            tracing::warn!("the cluster does not serve yet; /readyz of each node says why");
            break;
        }
        sleep(LOOK).await;
    }
    Ok(())
}
