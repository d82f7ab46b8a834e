//! A node: opens the data folder, takes part in its cluster, and serves its machines.
//!
//! ```text
//! alone:  found ─▶ system ─▶ machines created ─▶ all partitions led ─▶ ready
//! peers:  answer peers ─▶ (init or join, once) ─▶ system ─▶ follow the directory until the node stops
//! ```
//! Each step finds again what was done before a process died, so each may be the last one. It knows nothing of HTTP.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::features::{self, FeatureLevel, Features};
use crate::guest::{Engine, EngineOptions, StopSignal};
use crate::ids::{ClusterId, NodeId};
use crate::key::NodeKey;
use crate::machine::logic::Logic;
use crate::peer::SeenBook;
use crate::registry::{self, Registry};
use crate::router::Router;
use crate::store::StoreShared;
use crate::system::archiving::{ArchiveOptions, Archiving};
use crate::system::clock_anchor::AnchorFile;
use crate::system::clocks::Clocks;
use crate::system::cluster::Cluster;
use crate::system::context::{NodeContext, Opening};
use crate::system::directory_now::DirectoryNow;
use crate::system::directory_owner::{self, DirectoryOwner};
use crate::system::directory_requests::DirectoryRequests;
use crate::system::error::NodeError;
use crate::system::failed_activations::Troubles;
use crate::system::folder::DataFolder;
use crate::system::health::Vigil;
use crate::system::machine_spec::{MachineSpec, stage_all};
use crate::system::machines::{OPEN_AGAIN, open_system, system_logic};
use crate::system::messages::ASK_AGAIN;
use crate::system::peer_network::{PeerAnswers, PeerNetwork, PeerOptions};
use crate::system::peer_permissions::{self, Gate};
use crate::system::published::Published;
use crate::system::pulse::Pulse;
use crate::system::reached_level::Level;
use crate::system::record::NodeRecord;
use crate::system::renewal::CertificateRenewal;
use crate::system::service::NodeService;
use crate::system::shadow::ShadowPages;
use crate::system::{
    archiving, cluster_founding, divergence, health, in_transit, leadership_handover, losses, machines, prepare,
    reconciliation, reopening, replica_rebuild, retention, scrub, segment_repair, signer, single_node, snapshot_fetch,
    snapshot_retention, tasks, viewing,
};
use crate::views::{self, Views};

const NO_CLUSTER: &str =
    "this node belongs to no cluster yet: create one with `statehouse cluster init`, or add the node to one";
/// How long the directory's owner may take to hear who the other nodes are, before it is asked again.
const ASK_PATIENCE: Duration = Duration::from_secs(5);
/// Cache of the state stores of all partitions together.
const BLOCK_CACHE_BYTES: usize = 256 << 20;

pub struct NodeOptions {
    pub data: PathBuf,
    pub node: NodeId,
    /// How other nodes are reached; without it the node is a cluster of its own.
    pub peer: Option<PeerOptions>,
    pub machines: Vec<MachineSpec>,
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    /// Enables heavy checks, which cost more than they may in production.
    pub paranoid: bool,
    /// Size above which clean rows leave a partition's hot table.
    pub hot_bytes_max: usize,
    /// Where clients reach this node. The other nodes are told.
    pub http: Option<String>,
    /// About how much of each partition's log is kept; all of it if this is `None`.
    pub log_keep_bytes: Option<u64>,
    /// Where history is archived for ever.
    pub archive: Option<ArchiveOptions>,
    /// Besides the canonical snapshots of 00:00, each partition makes one about every so many bytes of its journal.
    pub snapshot_every_bytes: Option<u64>,
    /// How many canonical snapshots are kept, of midnights and of the others each; all of them if this is `None`.
    pub snapshot_keep: Option<u32>,
    /// The highest feature level that this node says it understands: [`features::HIGHEST`], unless an upgrade is held
    /// back.
    pub feature_level_max: FeatureLevel,
    /// How much old data the scrubber reads per second; 0 turns it off.
    pub scrub_bytes_per_second: u64,
}

/// A running node.
pub struct Node {
    pub(super) context: Arc<NodeContext>,
    cluster: Cluster,
    shadow_pages: Arc<ShadowPages>,
    peers: Option<JoinHandle<()>>,
}

impl Node {
    /// Opens the folder and starts. A node without peers returns once everything is served. A node with peers returns
    /// at once: until the others answer, and before there is a cluster, [`Router::is_ready`] says what is missing.
    pub async fn open(options: NodeOptions) -> Result<Self, NodeError> {
        Self::open_unless(options, &CancellationToken::new()).await
    }

    /// Does the same, unless the node is told to stop while the modules of the configuration are compiled.
    pub async fn open_unless(options: NodeOptions, stop: &CancellationToken) -> Result<Self, NodeError> {
        let folder = DataFolder::open(options.disk.clone(), &options.data, options.node)?;
        let (cache, stopping) = (Some(folder.artefacts()?), CancellationToken::new());
        let is_stopping = stopping.clone();
        let when = StopSignal::when(move || is_stopping.is_cancelled());
        let engine = Engine::new(EngineOptions { cache, stop: when, ..EngineOptions::default() })?;
        let registry = Arc::new(registry::open(folder.path().join("modules"), engine)?);
        stage_all(&registry, options.machines.clone(), stop).await?;
        let (shared, features) = (StoreShared::new(BLOCK_CACHE_BYTES), Features::at(features::BASE));
        let opening = opening_of(&options, &shared, &features)?;
        let skew_max = options.peer.as_ref().map_or(Duration::MAX, |peer| peer.clock_skew_max);
        let anchor_file = AnchorFile::open(options.disk.clone(), folder.path(), options.clock.boot())?;
        let anchor = anchor_file.find(options.clock.running());
        let (vigil, shadow_pages) = (Vigil::new(anchor_file), Arc::<ShadowPages>::default());
        let archive = opening.archive.clone().zip(options.archive);
        let archiving = archive.map(|(archive, options)| Archiving::new(archive, options.every));
        let known = if options.peer.is_none() { DirectoryNow::of_one_alone() } else { DirectoryNow::default() };
        let (directory_requests, mailbox) = DirectoryRequests::new();
        let (peers, answers) = PeerNetwork::make(options.node, options.peer)?;
        let directory = DirectoryOwner::new(options.node, known, mailbox, peers.routes);
        let published = Published {
            directory: directory.now(),
            nodes: directory.nodes(),
            answering: vigil.answering(),
            archived: archiving.as_ref().map_or_else(nothing, Archiving::archived),
            shadows: shadow_pages.subscribe(),
        };
        let clocks = Arc::new(Clocks::new(options.clock, skew_max, anchor));
        let context = NodeContext {
            node: options.node,
            key: NodeKey::of_folder(&*options.disk, folder.path())?.public(),
            specs: options.machines,
            opening,
            http: options.http,
            views: views_in(&folder, &shared, &registry),
            registry,
            router: Arc::new(Router::default()),
            network: peers.network,
            identity: peers.identity,
            links: peers.links,
            renewal: peers.renewal,
            clock: clocks.clone(),
            clocks,
            level: Level::new(options.feature_level_max, features),
            record: NodeRecord::open(options.disk.clone(), folder.path())?,
            pulse: Pulse::open(options.disk, folder.path())?,
            seen: Arc::new(SeenBook::open(&folder.path().join("seen"))?),
            examining: stopping.child_token(),
            leaving: stopping.child_token(),
            stopping,
            folder,
            published,
            directory_requests,
            replica_states: Arc::default(),
            system: OnceLock::new(),
            fetching: tokio::sync::Mutex::default(),
        };
        let context = Arc::new(context);
        let directory = Arc::new(directory);
        tasks::keep(&context, "directory", move |context| directory_owner::run(context, directory.clone()));
        spawn_tasks(&context, archiving, options.scrub_bytes_per_second);
        let peers = match answers {
            None => single_node::open(&context, vigil).await.map(|()| None)?,
            Some(answers) => Some(answer_peers(&context, vigil, answers)),
        };
        let cluster = Cluster::new(context.clone(), peers.is_none());
        Ok(Self { context, cluster, shadow_pages, peers })
    }

    pub fn router(&self) -> &Arc<Router> {
        &self.context.router
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.context.registry
    }

    /// A handle for what operators ask of the cluster.
    pub fn cluster(&self) -> Cluster {
        self.cluster.clone()
    }

    pub fn folder(&self) -> &DataFolder {
        &self.context.folder
    }

    /// A handle that replaces the certificates between nodes; `None` without TLS, or without peers.
    pub fn certificate_renewal(&self) -> Option<CertificateRenewal> {
        let peers = self.context.renewal.clone()?;
        Some(CertificateRenewal::new(self.context.node, peers))
    }

    /// Runs a background task like the node's own: it is restarted after a panic, and [`Router::is_ready`] then names
    /// it.
    pub fn keep<F>(&self, name: &'static str, begin: impl Fn() -> F + Send + 'static) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tasks::keep(&self.context, name, move |_| begin())
    }

    /// Where the task that runs shadows publishes what they find.
    pub fn shadow_pages(&self) -> Arc<ShadowPages> {
        self.shadow_pages.clone()
    }

    /// Hands leadership over, stops all partitions and writes what they have applied.
    pub async fn close(self) -> Result<(), NodeError> {
        leadership_handover::announce(&self.context);
        self.context.router.set_not_ready(vec!["the node is shutting down".to_owned()]);
        leadership_handover::hand_over_all(&self.context).await;
        self.stop().await
    }

    /// The second half of [`Node::close`]. No other node is asked to lead, so for them it is as if the process had
    /// died.
    pub(super) async fn stop(self) -> Result<(), NodeError> {
        self.context.stopping.cancel();
        // Nobody waits for what guests are still computing; the next leader decides the commands that have no outcome.
        self.context.registry.hurry();
        let context = self.context.clone();
        // Views are closed first, because they read the partitions, which are closed next.
        if tokio::task::spawn_blocking(move || context.views.close()).await.is_err() {
            tracing::error!("a view panicked while it was stopped");
        }
        let replicas = self.context.replica_states.take_all();
        let closing = replicas.into_iter().map(|(group, partition)| async move {
            partition.close().await.map_err(|source| NodeError::of_partition(&group, source))
        });
        let mut result = Ok(());
        for closed in join_all(closing).await {
            result = result.and(closed);
        }
        if let Some(peers) = self.peers {
            // The task ends on its own, and its result is of no interest.
            drop(peers.await);
        }
        self.context.seen.flush()?;
        result
    }
}

/// What nobody writes on this node.
fn nothing<T: Default>() -> watch::Receiver<T> {
    watch::channel(T::default()).1
}

/// The options with which the node opens its partitions.
fn opening_of(options: &NodeOptions, shared: &StoreShared, features: &Features) -> Result<Opening, NodeError> {
    Ok(Opening {
        disk: options.disk.clone(),
        paranoid: options.paranoid,
        hot_bytes_max: options.hot_bytes_max,
        shared: shared.clone(),
        log_keep_bytes: options.log_keep_bytes,
        archive: options.archive.as_ref().map(|archive| Archive::open(&archive.url)).transpose()?,
        snapshot_every_bytes: options.snapshot_every_bytes,
        snapshot_keep: options.snapshot_keep,
        features: features.clone(),
    })
}

/// Starts the background tasks of every node, with or without peers.
fn spawn_tasks(context: &Arc<NodeContext>, archiving: Option<Archiving>, scrub_bytes_per_second: u64) {
    tasks::keep(context, "mender", segment_repair::run);
    if 0 < scrub_bytes_per_second {
        tasks::keep(context, "scrubber", move |context| scrub::run(context, scrub_bytes_per_second));
    }
    tasks::keep(context, "in_transit", in_transit::run);
    tasks::keep(context, "losses", losses::run);
    if let Some(archiving) = archiving.map(Arc::new) {
        tasks::keep(context, "archivist", move |context| archiving::run(context, archiving.clone()));
    }
    tasks::keep(context, "viewing", viewing::run);
    tasks::keep(context, "midnights", snapshot_fetch::run);
    tasks::keep(context, "heal", replica_rebuild::run);
    if let (Some(keep), None) = (context.opening.snapshot_keep, &context.opening.archive) {
        tasks::keep(context, "kept", move |context| snapshot_retention::run(context, keep));
    }
    if let Some(keep_bytes) = context.opening.log_keep_bytes {
        tasks::keep(context, "retention", move |context| retention::run(context, keep_bytes));
    }
}

/// Answers the peers from now on, and takes part in the cluster as soon as the node belongs to one.
fn answer_peers(context: &Arc<NodeContext>, vigil: Vigil, answers: PeerAnswers) -> JoinHandle<()> {
    context.router.set_not_ready(vec![NO_CLUSTER.to_owned()]);
    tasks::run_once(context, "start", start_member(context.clone(), vigil));
    let service = Arc::new(Gate { context: context.clone(), service: Arc::new(NodeService(context.clone())) });
    let (identity, links) = (context.identity.clone(), context.links.clone());
    let serving = answers.begin(context.node, identity, links, service, context.stopping.clone());
    tokio::spawn(serving)
}

/// Starts everything that a member of a cluster with peers does, once the node belongs to one; returns once it runs.
async fn start_member(context: Arc<NodeContext>, vigil: Vigil) {
    let identity = tokio::select! {
        identity = context.folder.wait_until_joined() => identity.clone(),
        () = context.stopping.cancelled() => return,
    };
    let cluster = identity.cluster_bytes().expect("checked when the identity was read");
    context.identity.cluster.get_or_init(|| ClusterId(cluster));
    // Who the others are must be known before anything is opened: what they remember is asked first.
    while let Err(error) = context.directory_requests.join(identity.peers.clone(), Instant::now() + ASK_PATIENCE).await
    {
        if context.stopping.is_cancelled() {
            return;
        }
        tracing::error!(%error, "this node cannot begin yet");
        tokio::time::sleep(ASK_AGAIN).await;
    }
    context.router.set_not_ready(vec!["the machines of the cluster are not known yet".to_owned()]);
    let vigil = Arc::new(vigil);
    tasks::keep(&context, "vigil", move |context| health::run(context, vigil.clone()));
    tasks::keep(&context, "claims", divergence::run);
    tasks::keep(&context, "invitations", cluster_founding::invite_founders);
    let logic = system_logic(&context);
    while let Err(error) = open_checked(&context, logic.clone()).await {
        if context.level.is_refused() {
            return reopening::halt(&context).await;
        }
        // The router says why. The node retries until the disk is well, or somebody has intervened.
        context.router.set_not_ready(vec![error.to_string()]);
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(OPEN_AGAIN) => {}
        }
    }
    tasks::keep(&context, "standing", peer_permissions::run);
    // What could not be activated is still known if the task is started again.
    let troubles = Arc::new(Troubles::default());
    tasks::keep(&context, "steward", move |context| reconciliation::run(context, troubles.clone()));
    tasks::keep(&context, "prepare", prepare::run);
    tasks::keep(&context, "signer", signer::run);
    tasks::keep(&context, "opening", machines::keep_open);
    tasks::keep(&context, "level", reopening::halt_when_refused);
}

/// Opens `system`, and checks whether this node understands what the cluster writes.
async fn open_checked(context: &Arc<NodeContext>, logic: Arc<dyn Logic>) -> Result<(), NodeError> {
    open_system(context, logic).await?;
    machines::check_level(context).await
}

fn views_in(folder: &DataFolder, store: &StoreShared, registry: &Arc<Registry>) -> Views {
    let (store, modules) = (store.clone(), registry.clone());
    Views::new(views::ViewsContext { folder: folder.path().join("views"), store, modules })
}
