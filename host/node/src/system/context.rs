//! What a node is made of and never changes: its folder, its keys, its network, and the services that guard one thing
//! each.
//!
//! In: all that is made before anything runs. Out: the same, for every task. A service has private fields, and its
//! methods are the rules for what it guards. No task is imported here, so that each task may import this. It does not
//! know what runs.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::features::Features;
use crate::ids::NodeId;
use crate::key::PublicKey;
use crate::peer::{Identity, Links, Network, PeerRenewal, SeenBook};
use crate::registry::Registry;
use crate::router::Router;
use crate::store::StoreShared;
use crate::system::clocks::Clocks;
use crate::system::folder::DataFolder;
use crate::system::machine_spec::MachineSpec;
use crate::system::peer_network::NodeRoutes;
use crate::system::pulse::Pulse;
use crate::system::reached_level::Level;
use crate::system::record::NodeRecord;
use crate::views::Views;

/// The options with which partitions are opened.
pub struct Opening {
    pub disk: Arc<dyn Disk>,
    pub paranoid: bool,
    pub hot_bytes_max: usize,
    pub shared: StoreShared,
    /// About how much of each log is kept; all of it if this is `None`.
    pub log_keep_bytes: Option<u64>,
    /// No part of a log is released that is not in this archive.
    pub archive: Option<Archive>,
    /// Each partition also makes a canonical snapshot about every so many bytes of its journal.
    pub snapshot_every_bytes: Option<u64>,
    /// How many canonical snapshots are kept.
    pub snapshot_keep: Option<u32>,
    /// The features that all nodes of the cluster understand.
    pub features: Features,
}

pub struct NodeContext {
    pub node: NodeId,
    /// The key by which others verify what this node has signed.
    pub key: PublicKey,
    /// Machines to create when `system` does not know them.
    pub specs: Vec<MachineSpec>,
    pub opening: Opening,
    /// Where clients reach this node. The other nodes are told.
    pub http: Option<String>,
    pub folder: DataFolder,
    pub registry: Arc<Registry>,
    pub router: Arc<Router>,
    pub views: Views,
    pub network: Arc<dyn Network>,
    pub routes: NodeRoutes,
    /// Who this node is to its peers.
    pub identity: Identity,
    /// Connections that the others have open here.
    pub links: Links,
    /// Replaces the certificates between nodes; `None` without TLS, or without peers.
    pub renewal: Option<PeerRenewal>,
    pub clocks: Arc<Clocks>,
    /// The same, for those who only ask for the time.
    pub clock: Arc<dyn Clock>,
    pub level: Level,
    pub seen: Arc<SeenBook>,
    /// This node's counter, which the others remember.
    pub pulse: Pulse,
    /// What this node has recorded about itself.
    pub record: NodeRecord,
    /// Stops the compilation of modules that somebody uploads.
    pub examining: CancellationToken,
    /// Cancelled when the node is about to stop. From then on it takes on nothing new.
    pub leaving: CancellationToken,
    pub stopping: CancellationToken,
}
