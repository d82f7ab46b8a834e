//! Restores a lost cluster from its archive: as one node, whose journals are those of the archive and continue from
//! there.
//!
//! ```text
//! `system` ─▶ which machines and modules there were ─▶ each partition: its entries up to a cut, appended and applied
//!         └▶ this node added, all others removed for good ─▶ the folder gets its name
//! ```
//! In: a folder of journal segments, where to cut each machine, and a folder that does not exist. Out: a node's data
//! folder; others join it as they join any cluster. Until the folder has its name no node can use it. It does not know
//! how a cut is found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use statehouse_abi::role;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::SystemClock;
use crate::disk::RealDisk;
use crate::durable;
use crate::features::{self, Features};
use crate::guest::{Engine, EngineOptions};
use crate::ids::{JournalIndex, Micros, ModuleId, NodeId, PartitionId, Position};
use crate::limits::{HOT_TABLE_BYTES_MAX, MODULE_BYTES_MAX};
use crate::log::EntryId;
use crate::machine::entry::Entry;
use crate::machine::journal::Journal;
use crate::machine::logic::Logic;
use crate::machine::modules::Modules;
use crate::machine::native::NativeLogic;
use crate::partition::{Answered, Leading, Participants, Partition, PartitionError, PartitionOptions, Remembered};
use crate::peer::{GroupName, GroupPeers, NoNetwork, SeenEntries};
use crate::records::command::SystemCommand;
use crate::registry::{self, Registry, RegistryError};
use crate::regular;
use crate::router::answer::Caller;
use crate::router::{Machine, MachineOptions};
use crate::segments::{Manifest, PartitionFacts, SegmentsError, SegmentsReader, modules_folder};
use crate::sequencer::submission::UnticketedSubmission;
use crate::store::{StoreOptions, StoreShared};
use crate::system::cluster_error::ClusterError;
use crate::system::directory::Directory;
use crate::system::error::NodeError;
use crate::system::folder::{DataFolder, Identity, artefacts_of};
use crate::system::level;
use crate::system::logic::{MachineRow, SYSTEM, System};
use crate::system::reached_level;
use crate::system::single_node::ALONE;
use crate::system::submit::{Wanting, submit_by};

const BLOCK_CACHE_BYTES: usize = 256 << 20;
/// How long a change of `system` may take on one node.
const CHANGE_PATIENCE: Duration = Duration::from_secs(30);

/// What is restored, and as which node.
pub struct RestoreOptions<'a> {
    /// A folder of journal segments.
    pub from: &'a Path,
    /// What is in that folder, if it is an archive.
    pub manifest: Option<&'a Manifest>,
    /// The data folder to make. It must not exist, or be empty.
    pub data: &'a Path,
    /// A number that no node of the cluster ever had.
    pub node: NodeId,
    /// Where other nodes will reach it, as `host:port`; without it the node stays alone.
    pub advertise: Option<String>,
    /// For each machine, entries up to this time count: later ones may have causes that are not in the archive.
    pub cuts: BTreeMap<String, Micros>,
    /// Called for each entry.
    pub on_entry: &'a dyn Fn(u64),
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    pub cluster: String,
    pub partitions: Vec<RestoredPartition>,
    /// Nodes of the old cluster, which are removed for good.
    pub removed: Vec<NodeId>,
    /// Machines of which the archive has entries, but which `system` in it does not know yet.
    pub unknown: Vec<String>,
}

/// Where a partition stands now.
#[derive(Clone, Debug)]
pub struct RestoredPartition {
    pub machine: String,
    pub partition: PartitionId,
    pub position: Position,
    pub time: Micros,
    /// Entries of the archive after the cut.
    pub left_out: u64,
    /// How many canonical snapshots of midnights came out as the archive has them.
    pub snapshots: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Archive(#[from] SegmentsError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("{0}")]
    Partition(#[from] PartitionError),
    #[error("{0}")]
    Snapshot(#[from] crate::snapshot::canonical::CanonicalError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{} is no archive, and has no journal.json: write one with `audit log --export`, and name that folder",
        path.display()
    )]
    NoArchive { path: PathBuf },
    #[error("{} is not empty: name a folder that is not there yet", path.display())]
    NotEmpty { path: PathBuf },
    #[error(
        "{machine}/{partition} is not in the archive, or without its beginning: nothing can be restored without it"
    )]
    Missing { machine: String, partition: PartitionId },
    #[error(
        "node {0} was one of the cluster: choose a number that no node ever had, so that none of the old nodes is \
         taken for it"
    )]
    NodeIdUsed(NodeId),
    #[error("the nodes of the cluster cannot be changed: {0}")]
    Nodes(#[from] ClusterError),
    #[error(
        "{machine}/{partition}: the archive has the snapshot {archived}, and its journal results in {made}: audit \
         the archive"
    )]
    OtherSnapshot { machine: String, partition: PartitionId, archived: String, made: String },
}

/// Restores a cluster as one node.
///
/// # Errors
/// The archive is not whole, or not what was recorded. Then nothing is left in the place of the data folder.
pub async fn restore(options: RestoreOptions<'_>) -> Result<Restored, RestoreError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Io { path, source }
    };
    let missing = || RestoreError::NoArchive { path: options.from.to_owned() };
    let manifest = options.manifest.ok_or_else(missing)?;
    let is_empty = || Ok(!options.data.exists() || std::fs::read_dir(options.data)?.next().is_none());
    if !is_empty().map_err(io(options.data))? {
        return Err(RestoreError::NotEmpty { path: options.data.to_owned() });
    }
    let name = options.data.file_name().ok_or_else(|| RestoreError::NotEmpty { path: options.data.to_owned() })?;
    let building = options.data.with_file_name(format!("{}.restoring", name.to_string_lossy()));
    if building.exists() {
        // It is left from an earlier attempt that has ended.
        drop(DataFolder::open(Arc::new(RealDisk), &building, options.node)?);
        std::fs::remove_dir_all(&building).map_err(io(&building))?;
    }
    let folder = DataFolder::open(Arc::new(RealDisk), &building, options.node)?;
    let mut work = Work::open(&options, manifest, building.clone())?;
    let restored = work.run().await?;
    let peers = BTreeMap::from([(options.node, work.address())]);
    folder.join(manifest.cluster.clone(), true, peers)?;
    folder.set_founded()?;
    drop((work, folder));
    std::fs::rename(&building, options.data).map_err(io(options.data))?;
    let parent = options.data.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    durable::sync_dir(parent).map_err(io(parent))?;
    assert!(matches!(Identity::read(options.data), Ok(Some(_))), "it is a node's folder now");
    Ok(restored)
}

/// The modules of the archive.
struct Staged(Registry);

impl Modules for Staged {
    fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String> {
        self.0.find(id).map_err(|error| error.to_string())
    }

    fn find_here(&self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        self.0.find(id).ok()
    }

    fn find_loaded(&self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        self.0.find_loaded(id)
    }
}

/// There are no other nodes.
struct Nobody;

impl SeenEntries for Nobody {
    fn on_durable(&self, _: NodeId, _: &GroupName, _: EntryId) {}

    fn held(&self, _: NodeId, _: &GroupName) -> Option<EntryId> {
        None
    }
}

/// No other partition is called while a history is restored.
struct NoOthers;

impl Participants for NoOthers {
    fn call(&self, _: PartitionId, calls: Vec<UnticketedSubmission>) -> BoxFuture<'static, Vec<Option<Answered>>> {
        async move { vec![None; calls.len()] }.boxed()
    }
}

/// A restore that is in progress.
struct Work<'a> {
    options: &'a RestoreOptions<'a>,
    manifest: &'a Manifest,
    building: PathBuf,
    modules: Arc<Staged>,
    system: Arc<dyn Logic>,
    store: StoreShared,
    /// The features of the level that the history has reached.
    features: Features,
}

impl<'a> Work<'a> {
    fn open(options: &'a RestoreOptions<'a>, manifest: &'a Manifest, building: PathBuf) -> Result<Self, RestoreError> {
        let cache = Some(artefacts_of(&building)?);
        let engine = Engine::new(EngineOptions { cache, ..EngineOptions::default() }).map_err(NodeError::from)?;
        let registry = registry::open(modules_folder(&building), engine)?;
        for id in &manifest.modules {
            let path = modules_folder(options.from).join(format!("{id}.wasm"));
            let wasm = regular::read(&path, MODULE_BYTES_MAX as u64);
            let wasm = wasm.map_err(|source| RestoreError::Io { path: path.clone(), source })?;
            let found = registry.stage(&wasm)?.id();
            if found != *id {
                let reason = format!("its bytes are those of module {found}");
                return Err(SegmentsError::Manifest { path, reason }.into());
            }
        }
        let system: Arc<dyn Logic> = Arc::new(NativeLogic::<System>::new());
        registry.add_native(system.clone());
        let (store, features) = (StoreShared::new(BLOCK_CACHE_BYTES), Features::at(features::BASE));
        Ok(Self { options, manifest, building, modules: Arc::new(Staged(registry)), system, store, features })
    }

    fn address(&self) -> String {
        self.options.advertise.clone().unwrap_or_else(|| ALONE.to_owned())
    }

    async fn run(&mut self) -> Result<Restored, RestoreError> {
        let mut partitions = vec![self.restore_partition(SYSTEM, PartitionId(0), Micros(i64::MAX)).await?];
        let (directory, removed) = self.change_nodes().await?;
        for (machine, row) in &directory.machines {
            let cut = self.cut(machine, row)?;
            for partition in (0..row.partitions).map(PartitionId) {
                partitions.push(self.restore_partition(machine, partition, cut).await?);
            }
        }
        let is_unknown = |name: &String| name != SYSTEM && !directory.machines.contains_key(name);
        let mut unknown: Vec<String> = self.manifest.partitions.iter().map(|facts| facts.machine.clone()).collect();
        unknown.retain(is_unknown);
        unknown.dedup();
        Ok(Restored { cluster: self.manifest.cluster.clone(), partitions, removed, unknown })
    }

    /// Where to cut a machine. An activation that `system` does not know is after the cut, and so is everything later.
    fn cut(&self, machine: &str, row: &MachineRow) -> Result<Micros, RestoreError> {
        let mut cut = self.options.cuts.get(machine).copied().unwrap_or(Micros(i64::MAX));
        for partition in (0..row.partitions).map(PartitionId) {
            let (reader, genesis) = self.reader(&self.facts(machine, partition)?);
            for placed in reader.entries(genesis.index, genesis.head) {
                let entry = placed?.entry;
                if entry.activation().is_ok_and(|activation| row.activation < activation.number) {
                    cut = cut.min(Micros(entry.header().time.0 - 1));
                }
            }
        }
        Ok(cut)
    }

    /// What the archive has of a partition. If nothing was archived yet, it is restored without entries; `system` has
    /// the rest.
    fn facts(&self, machine: &str, partition: PartitionId) -> Result<PartitionFacts, RestoreError> {
        let nothing = || PartitionFacts { machine: machine.to_owned(), partition, files: Vec::new() };
        let missing = || RestoreError::Missing { machine: machine.to_owned(), partition };
        let found = match self.manifest.find(machine, partition) {
            None if machine != SYSTEM => return Ok(nothing()),
            found => found.ok_or_else(missing)?,
        };
        match found.files.first() {
            Some(first) if first.first == JournalIndex(1) => Ok(found.clone()),
            None if machine != SYSTEM => Ok(nothing()),
            _ => Err(missing()),
        }
    }

    /// A reader of the partition's entries, which checks each against the chain, and the journal with which the chain
    /// begins.
    fn reader(&self, facts: &PartitionFacts) -> (SegmentsReader, Journal) {
        let cluster = self.manifest.cluster_id();
        let genesis = Journal::genesis(&cluster.0, &facts.machine, facts.partition);
        (SegmentsReader::new(self.options.from.to_owned(), cluster, facts), genesis)
    }

    async fn restore_partition(
        &self,
        machine: &str,
        partition: PartitionId,
        cut: Micros,
    ) -> Result<RestoredPartition, RestoreError> {
        let facts = self.facts(machine, partition)?;
        let opened = self.open_partition(machine, partition, Leading::Restores).await?;
        let (reader, genesis) = self.reader(&facts);
        let entries = reader.entries(genesis.index, genesis.head);
        let mut entries = entries.map(|placed| Ok(placed?.entry)).inspect(|_| (self.options.on_entry)(1));
        let is_kept = |entry: &Result<Entry, RestoreError>| entry.as_ref().map_or(true, |it| it.header().time <= cut);
        let mut left_out = 0;
        let kept = std::iter::from_fn(|| {
            let next = entries.next()?;
            left_out += u64::from(!is_kept(&next));
            is_kept(&next).then_some(next)
        });
        let journal = opened.append_again(kept).await?;
        for entry in entries {
            entry?;
            left_out += 1;
        }
        let snapshots = self.compare_snapshots(&opened, machine, partition, journal.index).await?;
        close(opened).await?;
        let position = journal.position(partition, 0);
        let machine = machine.to_owned();
        Ok(RestoredPartition { machine, partition, position, time: journal.time, left_out, snapshots })
    }

    /// Each midnight has made its snapshot again. Those in the archive must be the same files.
    async fn compare_snapshots(
        &self,
        opened: &Partition,
        machine: &str,
        partition: PartitionId,
        last: JournalIndex,
    ) -> Result<u64, RestoreError> {
        use crate::snapshot::canonical::{SnapshotFile, list_files};
        opened.wait_for_canonical().await?;
        let made = opened.canonical_snapshots();
        let mut same = 0;
        for file in list_files(&RealDisk, &crate::segments::partition_folder(self.options.from, machine, partition))? {
            let archived = SnapshotFile::open(&RealDisk, &file)?.listed().clone();
            let facts = &archived.facts;
            // The last snapshot may stand for more midnights, of which only the entry after the cut would tell.
            if facts.days.is_none() || last <= facts.journal.index {
                continue;
            }
            let own =
                made.iter().find(|own| own.facts.journal.index == facts.journal.index && own.facts.days.is_some());
            match own {
                Some(own) if own.name == archived.name => same += 1,
                own => {
                    let made = own.map_or_else(|| "none there".to_owned(), |own| own.name.clone());
                    let (machine, archived) = (machine.to_owned(), archived.name);
                    return Err(RestoreError::OtherSnapshot { machine, partition, archived, made });
                }
            }
        }
        Ok(same)
    }

    async fn open_partition(
        &self,
        machine: &str,
        partition: PartitionId,
        leading: Leading,
    ) -> Result<Arc<Partition>, RestoreError> {
        let group = GroupName::new(machine, partition);
        let mut store = StoreOptions::new(self.store.clone());
        store.hot_bytes_max = HOT_TABLE_BYTES_MAX;
        let opening = Partition::open(PartitionOptions {
            cluster: self.manifest.cluster_id().0,
            node: self.options.node,
            machine: machine.to_owned(),
            partition,
            folder: crate::system::folder::partition_folder(&self.building, machine, partition),
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            modules: self.modules.clone(),
            store,
            peers: GroupPeers { network: Arc::new(NoNetwork), group, seen: Arc::new(Nobody) },
            participants: Arc::new(NoOthers),
            founders: vec![self.options.node],
            stands: true,
            remembered: Remembered::default(),
            had_entries: false,
            is_given_up: false,
            log_keep_bytes: None,
            snapshot_every_bytes: None,
            past: None,
            features: self.features.clone(),
            leading,
        });
        Ok(opening.await?)
    }

    /// Adds this node and removes all others, as the first commands after the restored ones.
    async fn change_nodes(&self) -> Result<(Directory, Vec<NodeId>), RestoreError> {
        let partition = self.open_partition(SYSTEM, PartitionId(0), Leading::Decides).await?;
        partition.wait_for_leader(Instant::now() + CHANGE_PATIENCE).await?;
        let node = self.options.node;
        let machine = Machine::new(MachineOptions {
            name: SYSTEM.to_owned(),
            partition_count: 1,
            modules: self.modules.clone(),
            active: self.system.clone(),
            clock: Arc::new(SystemClock),
            node,
            network: Arc::new(NoNetwork),
            nodes: watch::Sender::new(vec![node]).subscribe(),
            answering: watch::Sender::default().subscribe(),
            features: self.features.clone(),
        });
        drop(machine.set_replica(PartitionId(0), Ok(partition.clone())));
        let read = |partition: &Partition| {
            let point = partition.read_stale()?;
            Directory::read(&point.view).map_err(PartitionError::from)
        };
        let before = read(&partition)?;
        // From here on the node writes at the level that the history has reached.
        reached_level::check(before.feature_level, features::HIGHEST)?;
        self.features.raise(before.feature_level);
        if before.nodes.contains_key(&node) || before.retired.contains(&node) {
            return Err(RestoreError::NodeIdUsed(node));
        }
        let caller = Arc::new(Caller::unbound("restore", role::ALL));
        let wanting = || {
            let deadline = Instant::now() + CHANGE_PATIENCE;
            Wanting { caller: caller.clone(), request_id: "restore".into(), deadline }
        };
        let adding = level::adding(before.feature_level, node, self.address(), features::HIGHEST);
        submit_by(&machine, &adding, &wanting()).await?;
        for other in before.nodes.keys() {
            submit_by(&machine, &SystemCommand::RemoveNode { id: *other }, &wanting()).await?;
        }
        let directory = read(&partition)?;
        drop(machine);
        close(partition).await?;
        Ok((directory, before.nodes.into_keys().collect()))
    }
}

/// Closes a partition, and waits until nothing holds it any more.
async fn close(partition: Arc<Partition>) -> Result<(), RestoreError> {
    partition.close().await?;
    let left = Arc::downgrade(&partition);
    drop(partition);
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while 0 < left.strong_count() {
        looks.tick().await;
    }
    Ok(())
}
