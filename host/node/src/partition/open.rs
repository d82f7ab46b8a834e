//! Opens a partition: recovers its log, its state and its ids, brings them level, and starts its executor and its
//! group.
//!
//! In: a data folder. Out: a running [`Partition`]. State and ids are derived from the journal: the entries that they
//! lack are fed to them again. This file does not know which partition of which machine is placed on which node.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::archive::ArchivedJournal;
use crate::clock::Clock;
use crate::consensus::{Applier, ApplierError, CommittedValue, ConsensusError, Group, GroupOptions, Snapshot};
use crate::disk::{Disk, RealDisk};
use crate::durable;
use crate::features::Features;
use crate::ids::{ClusterId, JournalIndex, LogIndex, ModuleId, NodeId, PartitionId};
use crate::limits::BATCH_COMMANDS_MAX;
use crate::log::{EntryId, Log, LogEntry, LogOptions, StreamId};
use crate::machine::journal::Journal;
use crate::machine::logic::Logic;
use crate::machine::modules::Modules;
use crate::partition::actions::Actions;
use crate::partition::base::Base;
use crate::partition::canonical::Canonical;
use crate::partition::derived::{self, Known};
use crate::partition::driver::Driver;
use crate::partition::error::{HaltReason, PartitionError};
use crate::partition::handle::{Partition, Parts};
use crate::partition::journal_lookup;
use crate::partition::journal_state::{JournalState, journal_of};
use crate::partition::leader::ReplicaRole;
use crate::partition::lost::Remembered;
use crate::partition::message::{Input, Message};
use crate::partition::now::Environment;
use crate::partition::panics::Panics;
use crate::partition::participants::Participants;
use crate::partition::recorded::RecordedEntries;
use crate::partition::release::{self, blocking};
use crate::partition::restore::Leading;
use crate::partition::run::Executor;
use crate::partition::saga_table::{SagaTable, read_table};
use crate::partition::status::{Board, Progress, RunState};
use crate::partition::timeline::Timeline;
use crate::partition::waiters::Waiters;
use crate::peer::GroupPeers;
use crate::saga::Saga;
use crate::snapshot::canonical::SnapshotFolder;
use crate::snapshot::{IncomingSnapshot, Snapshots, finish_install};
use crate::store::{IdIndex, Meta, Store, StoreOptions};

/// How many batches of committed entries may wait for the executor.
const COMMITTED_BATCHES_MAX: usize = 16;

/// What is needed to open a partition.
pub struct PartitionOptions {
    pub cluster: [u8; 16],
    pub node: NodeId,
    pub machine: String,
    pub partition: PartitionId,
    /// The partition's own folder.
    pub folder: PathBuf,
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub modules: Arc<dyn Modules>,
    pub store: StoreOptions,
    /// The way to the other replicas.
    pub peers: GroupPeers,
    /// The way to the other partitions.
    pub participants: Arc<dyn Participants>,
    /// Who votes in a group without history. If this node is not among them, it waits until the group's leader adds it.
    pub founders: Vec<NodeId>,
    /// Whether this node may stand for election from the start.
    pub stands: bool,
    /// What other nodes remember of this replica.
    pub remembered: Remembered,
    /// This replica had entries once, as the node's own record says.
    pub had_entries: bool,
    /// An operator has given up what its log has lost.
    pub is_given_up: bool,
    /// About how much of the log is kept; `None` keeps the whole log.
    pub log_keep_bytes: Option<u64>,
    /// If set, a canonical snapshot is also made about every so many bytes of journal.
    pub snapshot_every_bytes: Option<u64>,
    pub leading: Leading,
    /// The features that may be written.
    pub features: Features,
    /// The archived journal of this partition.
    pub past: Option<Arc<ArchivedJournal>>,
}

impl PartitionOptions {
    /// The name of its threads and its group.
    fn name(&self) -> String {
        format!("{}-{}", self.machine, self.partition)
    }

    /// The labels of the partition's metrics.
    fn labels(&self) -> [(&'static str, String); 2] {
        [("machine", self.machine.clone()), ("partition", self.partition.to_string())]
    }

    fn log_options(&self, stream: StreamId) -> LogOptions {
        let mut options = LogOptions::new(stream);
        if let Some(keep_bytes) = self.log_keep_bytes {
            // Only whole segments are released, so a segment must not be larger than what is kept.
            options.segment_bytes_max = keep_bytes.clamp(options.segment_bytes_min, options.segment_bytes_max);
        }
        options
    }
}

/// Where a partition stands according to its meta row.
struct Recovered {
    applied: Option<EntryId>,
    membership: Option<Bytes>,
    journal: Journal,
}

impl Recovered {
    fn of(meta: Option<Meta>, genesis: Journal) -> Self {
        let Some(meta) = meta else { return Self { applied: None, membership: None, journal: genesis } };
        let (applied, journal) = (Some(meta.applied), journal_of(&meta));
        Self { applied, membership: meta.membership, journal }
    }

    fn progress(&self) -> Progress {
        let log_index = self.applied.map_or(LogIndex(0), |applied| applied.index);
        Progress { log_index, journal: self.journal }
    }
}

/// The files of a partition, open and level.
pub(super) struct Files {
    log: Log,
    store: Arc<Store>,
    ids: Arc<IdIndex>,
    genesis: Journal,
    recovered: Recovered,
    snapshots: Arc<Snapshots>,
    canonical: Arc<Canonical>,
    entries: Arc<RecordedEntries>,
    board: Arc<Board>,
    /// The content of its phase status table.
    under_way: Vec<Saga>,
}

impl Files {
    /// Blocks until recovery is complete.
    pub(super) fn open(options: &PartitionOptions) -> Result<Self, PartitionError> {
        let stream = StreamId::new(&options.machine, options.partition)?;
        let log = open_log(options, stream.clone())?;
        finish_install(&RealDisk, &options.folder, &log, &stream.to_string(), &options.store)?;
        let genesis = Journal::genesis(&options.cluster, &options.machine, options.partition);
        let PartitionOptions { had_entries, remembered, is_given_up, .. } = *options;
        let known = Known { genesis, had_entries, remembered, is_given_up };
        let (store, ids) = derived::open(&options.folder, &log, &options.store, &known)?;
        let (store, ids) = (Arc::new(store), Arc::new(ids));
        let recovered = Recovered::of(store.meta_written(), genesis);
        backfill_ids(options.partition, &log, &ids, &recovered)?;
        let snapshots = open_snapshots(&options.folder, stream, &log, &store, &ids)?;
        let canonical = open_canonical(options)?;
        let under_way = read_table(&store.read())?;
        let entries = RecordedEntries::open(&log, recovered.applied, &recovered.journal);
        let board = Board::new(recovered.progress(), Panics::open(&options.folder));
        Ok(Self { log, store, ids, genesis, recovered, snapshots, canonical, entries, board, under_way })
    }

    /// The executor as it begins, with its driver.
    pub(super) fn driver(
        &self,
        options: &PartitionOptions,
        logic: Option<Arc<dyn Logic>>,
        mailbox: std::sync::mpsc::Sender<Message>,
    ) -> Driver {
        let role = ReplicaRole::new(options.leading);
        Driver {
            executor: Executor { base: self.base(options, logic), role, hold: None },
            actions: Actions::default(),
            board: self.board.clone(),
            participants: options.participants.clone(),
            runtime: tokio::runtime::Handle::current(),
            mailbox,
            held: VecDeque::new(),
            is_ended: Arc::default(),
        }
    }

    fn base(&self, options: &PartitionOptions, logic: Option<Arc<dyn Logic>>) -> Base {
        let Recovered { applied, membership, journal } = &self.recovered;
        Base {
            partition: options.partition,
            node: options.node,
            labels: options.labels(),
            at: JournalState::new(*applied, membership.clone(), *journal, logic),
            table: SagaTable::new(self.under_way.clone()),
            waiters: Waiters::default(),
            activation: None,
            migrated: None,
            is_migrating: false,
            is_draining: false,
            batch_commands_max: BATCH_COMMANDS_MAX,
            store: self.store.clone(),
            ids: self.ids.clone(),
            entries: self.entries.clone(),
            canonical: self.canonical.clone(),
            timeline: Arc::new(Timeline::new(options.clock.clone())),
            environment: Environment {
                clock: options.clock.clone(),
                features: options.features.clone(),
                log: self.log.clone(),
                group: None,
            },
            modules: options.modules.clone(),
        }
    }
}

impl Partition {
    /// Opens the partition and starts it. Returns once everything known to be committed is on its way to be applied.
    pub async fn open(options: PartitionOptions) -> Result<Arc<Self>, PartitionError> {
        // This may read gigabytes, so it must not run on a thread of the runtime.
        let (options, files) = blocking(move || {
            let files = Files::open(&options)?;
            Ok((options, files))
        })
        .await?;
        let logic = load_active(&options.modules, files.recovered.journal.module).await?;
        let (mailbox, messages) = std::sync::mpsc::channel();
        let driver = files.driver(&options, logic, mailbox.clone());
        metrics::gauge!("statehouse_partition_halted", &driver.executor.base.labels).set(0.0);
        let (board, timeline) = (driver.board.clone(), driver.executor.base.timeline.clone());
        let Files { log, store, ids, entries, genesis, recovered, snapshots, canonical, .. } = files;
        let spawned = std::thread::Builder::new().name(options.name()).spawn(move || driver.run(&messages));
        let thread = spawned.map_err(PartitionError::Thread)?;
        let applied = (recovered.applied, recovered.membership);
        let entrance = Entrance::new(mailbox.clone(), board.clone(), applied, snapshots.clone());
        let group = match start_group(&options, &log, entrance).await {
            Ok(group) => group,
            Err(error) => return Err(end(error, thread, &mailbox, &canonical, log).await),
        };
        drop(mailbox.send(Message::Started(group.clone())));
        follow(&group, &log, &store, &ids, &mailbox);
        let PartitionOptions { partition: id, peers, modules, past, .. } = options;
        #[rustfmt::skip]
        let parts = Parts {
            id, mailbox, board, timeline, group, peers, modules, log, entries, store, ids, snapshots, canonical,
            genesis, past,
        };
        Ok(Arc::new(Self::new(parts, thread)))
    }
}

/// Ends an executor that has no group, and returns the reason. The executor holds a sender of its own mailbox, so it
/// does not end on its own: it would hold the state open for ever, and nobody could reopen it.
async fn end(
    error: PartitionError,
    thread: JoinHandle<()>,
    mailbox: &std::sync::mpsc::Sender<Message>,
    canonical: &Canonical,
    log: Log,
) -> PartitionError {
    canonical.close();
    drop(mailbox.send(Message::Stop));
    let closing = blocking(move || {
        assert!(thread.join().is_ok(), "the executor catches its own panics");
        Ok(log.close()?)
    });
    // The reason why there is no group says what is wrong.
    _ = closing.await;
    error
}

/// Starts the partition's group, and initializes it if this node is a founder.
async fn start_group(options: &PartitionOptions, log: &Log, entrance: Entrance) -> Result<Group, PartitionError> {
    let group_options = GroupOptions { name: options.name(), peers: options.peers.clone(), stands: options.stands };
    let group = Group::start(options.node, log.clone(), entrance, group_options).await?;
    if options.founders.contains(&options.node) {
        match group.initialize(&options.founders).await {
            Ok(()) | Err(ConsensusError::AlreadyInitialized) => {}
            Err(error) => {
                // The group has stopped already, or is of no use.
                _ = group.shutdown().await;
                return Err(error.into());
            }
        }
    }
    Ok(group)
}

fn open_log(options: &PartitionOptions, stream: StreamId) -> Result<Log, PartitionError> {
    let path = options.folder.join("log");
    durable::create_dir_all(&path).map_err(|source| PartitionError::Folder { path: path.clone(), source })?;
    Ok(Log::open(options.disk.clone(), &path, options.log_options(stream))?)
}

/// The canonical snapshots of the partition. Begins to make files of the states that were kept before the last start.
fn open_canonical(options: &PartitionOptions) -> Result<Arc<Canonical>, PartitionError> {
    let identity = (ClusterId(options.cluster), options.machine.clone(), options.partition);
    let folder = SnapshotFolder::open(Arc::new(RealDisk), &options.folder)?;
    let canonical = Canonical::new(folder, identity, options.store.shared.clone(), options.snapshot_every_bytes);
    canonical.go_on()?;
    Ok(canonical)
}

/// The snapshots of the partition. Once anything is purged there must be one, because a follower may need it.
fn open_snapshots(
    folder: &Path,
    stream: StreamId,
    log: &Log,
    store: &Store,
    ids: &IdIndex,
) -> Result<Arc<Snapshots>, PartitionError> {
    let snapshots = Snapshots::open(Arc::new(RealDisk), folder, stream)?;
    let (purged, applied) = (log.last_purged(), store.meta_written().map(|meta| meta.applied));
    IncomingSnapshot::drop_unless_ahead(&RealDisk, folder, applied.map(|applied| applied.index))?;
    snapshots.retain(|manifest| {
        let last = Some(manifest.last().index);
        purged.map(|purged| purged.index) <= last && last <= applied.map(|applied| applied.index)
    })?;
    if purged.is_some() && snapshots.newest().is_none() {
        let building = snapshots.begin()?;
        // Nothing else runs yet, so this is the same as a checkpoint by the executor between two entries.
        if let Some(meta) = release::checkpoint(store, ids, &building)? {
            release::finish(&snapshots, log, &meta)?;
        }
    }
    Ok(Arc::new(snapshots))
}

async fn load_active(modules: &Arc<dyn Modules>, id: ModuleId) -> Result<Option<Arc<dyn Logic>>, PartitionError> {
    Ok(if id == ModuleId::ZERO { None } else { Some(load(modules, id).await?) })
}

/// A module may have to be fetched from another node, and is compiled: not on a thread of the runtime.
async fn load(modules: &Arc<dyn Modules>, id: ModuleId) -> Result<Arc<dyn Logic>, PartitionError> {
    let modules = modules.clone();
    blocking(move || modules.load(id).map_err(|reason| PartitionError::Halted(HaltReason::Module { id, reason }))).await
}

/// Feeds the id index with the entries that the state has and the index lacks.
fn backfill_ids(partition: PartitionId, log: &Log, ids: &IdIndex, recovered: &Recovered) -> Result<(), PartitionError> {
    let last: JournalIndex = ids.applied();
    if recovered.journal.index <= last {
        return Ok(());
    }
    tracing::info!(from = %last.next(), to = %recovered.journal.index, "rebuilding the id index from the journal");
    // Only the chain tells which entries are effective, and it is walked from its end.
    let mut missing: Vec<LogIndex> = Vec::new();
    let mut oldest = recovered.journal.index.next();
    let walked = journal_lookup::walk_back(log, recovered.applied, &recovered.journal, |recorded| {
        if recorded.entry.header().index <= last {
            return std::ops::ControlFlow::Break(());
        }
        oldest = recorded.entry.header().index;
        missing.push(recorded.log_index);
        std::ops::ControlFlow::Continue(())
    });
    match walked {
        // Whether too much was released is checked below.
        Err(PartitionError::Released { .. }) => {}
        walked => walked?,
    }
    derived::check_reaches("the id index", last, oldest, log)?;
    for index in missing.into_iter().rev() {
        let recorded = journal_lookup::read_recorded(log, index)?;
        let ids_found = journal_lookup::ids_of(&recorded.entry, partition);
        ids.wait_while_behind()?;
        ids.record(recorded.entry.header().index, index, &ids_found)?;
    }
    Ok(())
}

/// Tells the executor who leads and when the log fails, and the store and the id index how far the log is durable.
fn follow(
    group: &Group,
    log: &Log,
    store: &Arc<Store>,
    ids: &Arc<IdIndex>,
    mailbox: &std::sync::mpsc::Sender<Message>,
) {
    let (mut leadership, executor) = (group.leadership(), mailbox.clone());
    tokio::spawn(async move {
        loop {
            let now = leadership.borrow_and_update().clone();
            if executor.send(Message::Input(Input::Leadership(now))).is_err() || leadership.changed().await.is_err() {
                return;
            }
        }
    });
    let (mut durable, mut ended) = (log.watch_durable(), log.watch_ended());
    let (store, ids, mailbox) = (Arc::downgrade(store), Arc::downgrade(ids), mailbox.clone());
    tokio::spawn(async move {
        loop {
            // In this order: once the log has ended, its durable position does not change.
            let why_ended = ended.borrow_and_update().clone();
            let now = *durable.borrow_and_update();
            let (Some(store), Some(ids)) = (store.upgrade(), ids.upgrade()) else { return };
            if let Some(id) = now {
                store.allow_write_up_to(id.index);
                ids.allow_write_up_to(id.index);
            }
            if let Some(reason) = why_ended {
                store.end_waits(&reason);
                ids.end_waits(&reason);
                // The group would notice at its next write, but there may be none. The executor may have ended already.
                return drop(mailbox.send(Message::Input(Input::Halt(HaltReason::Consensus(reason)))));
            }
            drop((store, ids));
            let changed = tokio::select! {
                changed = durable.changed() => changed,
                changed = ended.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    });
}

/// The group's side of the partition: it hands committed entries to the executor.
struct Entrance {
    mailbox: std::sync::mpsc::Sender<Message>,
    board: Arc<Board>,
    room: Arc<Semaphore>,
    applied: (Option<EntryId>, Option<Bytes>),
    snapshots: Arc<Snapshots>,
}

impl Entrance {
    fn new(
        mailbox: std::sync::mpsc::Sender<Message>,
        board: Arc<Board>,
        applied: (Option<EntryId>, Option<Bytes>),
        snapshots: Arc<Snapshots>,
    ) -> Self {
        Self { mailbox, board, room: Arc::new(Semaphore::new(COMMITTED_BATCHES_MAX)), applied, snapshots }
    }
}

impl Applier for Entrance {
    fn applied(&self) -> (Option<EntryId>, Option<Bytes>) {
        self.applied.clone()
    }

    async fn apply(&mut self, entries: Vec<CommittedValue<LogEntry>>) -> Result<(), ApplierError> {
        let permit = self.room.clone().acquire_owned().await.map_err(|_| ApplierError::Gone)?;
        if let RunState::Halted(reason) = &*self.board.state.borrow() {
            return Err(ApplierError::Halted { reason: reason.to_string() });
        }
        self.mailbox.send(Message::Committed(entries, permit)).map_err(|_| ApplierError::Gone)
    }

    /// The snapshot was made before the group asks, because a failure at this point would stop the group.
    async fn build_snapshot(&mut self) -> Result<Snapshot, ApplierError> {
        self.current_snapshot().ok_or(ApplierError::NoSnapshots)
    }

    fn current_snapshot(&self) -> Option<Snapshot> {
        let newest = self.snapshots.newest()?;
        let (last, membership) = (Some(newest.manifest.last()), newest.manifest.membership());
        Some(Snapshot { last, membership, offer: newest.offer.clone() })
    }
}
