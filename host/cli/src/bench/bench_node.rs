//! A node with the wallet and its REST API, in this process: benchmarks send their requests to it.
//!
//! In: a folder and a number of partitions. Out: an address. It measures only how long the start took.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use statehouse_journal::disk::RealDisk;
use statehouse_kernel::ids::NodeId;
use statehouse_node::api::{self, Acceptor, ApiError, ApiOptions, Callers, Descriptors, LiveLimits, Origins, Places};
use statehouse_node::clock::SystemClock;
use statehouse_node::config::{LimitsConfig, WebhooksConfig};
use statehouse_node::limits;
use statehouse_node::rehearsal::jobs::Replays;
use statehouse_node::system::{ArchiveOptions, MachineSpec, ModuleSource, Node, NodeOptions};
use statehouse_system::features;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::WALLET;
use crate::descriptors;

pub struct BenchNode {
    pub node: Node,
    pub address: SocketAddr,
    pub start_ms: u128,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ApiError>>,
}

impl BenchNode {
    pub async fn start(folder: &Path, partitions: u32, views: Vec<ModuleSource>) -> anyhow::Result<Self> {
        Self::start_archiving(folder, partitions, views, None).await
    }

    /// The same node, which also archives its journals.
    pub async fn start_archiving(
        folder: &Path,
        partitions: u32,
        views: Vec<ModuleSource>,
        archive: Option<ArchiveOptions>,
    ) -> anyhow::Result<Self> {
        Self::start_behind(Acceptor::Plaintext, folder, partitions, views, archive).await
    }

    /// The same node with a given acceptor for its connections.
    pub async fn start_behind(
        acceptor: Acceptor,
        folder: &Path,
        partitions: u32,
        views: Vec<ModuleSource>,
        archive: Option<ArchiveOptions>,
    ) -> anyhow::Result<Self> {
        let module = ModuleSource::Embedded(WALLET);
        let wallet = MachineSpec { name: "wallet".to_owned(), module, partitions, views };
        let started = Instant::now();
        let node = Node::open(NodeOptions {
            data: folder.join("node"),
            node: NodeId(1),
            machines: vec![wallet],
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            paranoid: false,
            log_keep_bytes: None,
            snapshot_every_bytes: None,
            snapshot_keep: None,
            scrub_bytes_per_second: limits::SCRUB_BYTES_PER_SECOND,
            feature_level_max: features::HIGHEST,
            archive,
            hot_bytes_max: limits::HOT_TABLE_BYTES_MAX,
            peer: None,
            http: None,
        });
        let node = node.await?;
        let start_ms = started.elapsed().as_millis();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let limits = LiveLimits::new(LimitsConfig::default());
        let descriptors = Descriptors::new(descriptors::raise());
        let places = Places::new(limits.clone(), descriptors);
        let options = ApiOptions {
            replays: Arc::new(Replays::open(&folder.join("node"), api::parse_time)?),
            cluster: node.cluster(),
            callers: Arc::new(Callers::new(&[], address)?),
            origins: Origins::new(address, &address.to_string(), Vec::new()),
            command_roles: Arc::default(),
            limits,
            webhooks: WebhooksConfig::default(),
            views_instead: Arc::default(),
            metrics: None,
        };
        let (service, _) = api::server(node.router().clone(), options);
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(api::serve(listener, acceptor, service, places, async move {
            drop(stopped.await);
        }));
        Ok(Self { node, address, start_ms, stop, server })
    }

    /// Answers the requests under way and closes the node.
    pub async fn end(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.server.await??;
        Ok(self.node.close().await?)
    }
}
