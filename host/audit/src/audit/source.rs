//! Where an audit reads from: the partitions of a data folder or of a folder of journal segments, and the modules
//! beside them.
//!
//! In: a folder. Out: entries with the place they were read from, and loaded modules. It opens everything for reading
//! only, so a running node does not notice. It does not know what is audited.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::audit::error::AuditError;
use crate::audit::evidence::{self, KnownEntry};
use crate::audit::heads::{Heads, StrayEntry};
use crate::audit::snapshots::CheckedPartition;
use crate::canonical;
use crate::data_folder::Identity;
use crate::disk::RealDisk;
use crate::guest::{Allowance, Engine, EngineOptions, MeteredCompilation};
use crate::ids::{ClusterId, LogIndex, ModuleId, PartitionId, Position};
use crate::log::{LogScan, LogTail, Payload};
use crate::machine::entry::Entry;
use crate::machine::journal::{Journal, Moment};
use crate::machine::logic::Logic;
use crate::machine::native::NativeLogic;
use crate::machine::replay::{Replay, ReplayError};
use crate::records::logic::System;
use crate::registry::{self, Registry};
use crate::segments::{Manifest, Mirror, PlacedEntry, SegmentsReader, modules_folder, partition_folder};

/// A data folder, or a folder of journal segments, opened for an audit.
pub struct Source {
    path: PathBuf,
    cluster: ClusterId,
    /// The manifest of a folder of journal segments; `None` for a node's folder.
    manifest: Option<Manifest>,
    registry: Registry,
    /// The native module, which is linked into this program. No folder has its bytes.
    native: ModuleId,
}

/// One partition of a source.
pub struct PartitionSource {
    pub machine: String,
    pub partition: PartitionId,
    pub genesis: Journal,
    /// The furthest entry that something else in a node's folder knows of. It was looked up before the log was read.
    pub known: Option<KnownEntry>,
    stored: EntryReader,
}

/// What the entries are read from.
enum EntryReader {
    Log(Box<LogScan>),
    Segments(SegmentsReader),
}

/// An entry and the place it was read from.
pub struct ReadEntry {
    pub entry: Entry,
    /// The number in the order of the source: Raft's index for a log, the journal's for segments.
    pub number: u64,
    /// File name of the segment.
    pub segment: String,
    pub offset: u64,
    /// Whether the log itself knows that the entry is committed.
    pub is_committed: bool,
}

impl Source {
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let identity = Identity::read(path)?;
        let manifest = if identity.is_some() { None } else { Manifest::read(path)? };
        let cluster = match (&identity, &manifest) {
            (Some(identity), _) => ClusterId(identity.cluster_bytes().expect("checked when the identity was read")),
            (None, Some(manifest)) => manifest.cluster_id(),
            (None, None) => return Err(AuditError::NoNode { path: path.to_owned() }),
        };
        // What the node itself has recorded was once within the limits. A folder of segments may come from anybody.
        let allowance = if identity.is_some() { Allowance::Recorded } else { Allowance::Foreign };
        Self::over(path, cluster, manifest, allowance)
    }

    /// Opens what was fetched from an archive.
    pub fn of_archive(mirror: Mirror) -> Result<Self, AuditError> {
        let cluster = mirror.manifest.cluster_id();
        Self::over(&mirror.folder, cluster, Some(mirror.manifest), Allowance::Foreign)
    }

    fn over(
        path: &Path,
        cluster: ClusterId,
        manifest: Option<Manifest>,
        allowance: Allowance,
    ) -> Result<Self, AuditError> {
        // Without a cache: an audit writes nothing into the folder that it reads, and trusts no compiled file in it.
        let options = EngineOptions { metered: MeteredCompilation::WhenNeeded, ..EngineOptions::default() };
        let engine = Engine::new(options).map_err(crate::registry::RegistryError::from)?;
        let registry = registry::open_to_read(modules_folder(path), engine, allowance);
        let system = Arc::new(NativeLogic::<System>::new());
        let native = system.id();
        registry.add_native(system);
        Ok(Self { path: path.to_owned(), cluster, manifest, registry, native })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest of a folder of journal segments, or of an archive; `None` for a node's folder.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The cluster's uuid.
    pub fn cluster(&self) -> String {
        self.cluster.to_string()
    }

    /// The modules in the folder, in the order of their ids.
    pub fn module_ids(&self) -> Result<Vec<ModuleId>, AuditError> {
        let folder = modules_folder(&self.path);
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let names = names_in(&folder)?;
        let mut ids: Vec<ModuleId> = names.iter().filter_map(|name| name.strip_suffix(".wasm")?.parse().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    pub fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String> {
        self.registry.find(id).map_err(|error| error.to_string())
    }

    /// The bytes of a module; `None` for one that is part of this program.
    pub fn wasm(&self, id: ModuleId) -> Result<Option<Vec<u8>>, AuditError> {
        if id == self.native { Ok(None) } else { Ok(Some(self.registry.read(id)?)) }
    }

    /// Compiles a module that is not part of the folder.
    pub fn compile(&self, wasm: &[u8]) -> Result<Arc<dyn Logic>, AuditError> {
        Ok(self.registry.compile(wasm)?)
    }

    /// The names of all machines, in order.
    pub fn machines(&self) -> Result<Vec<String>, AuditError> {
        let mut found = Vec::new();
        match &self.manifest {
            Some(manifest) => found.extend(manifest.partitions.iter().map(|facts| facts.machine.clone())),
            None => {
                let names = names_in(&self.path)?.into_iter();
                found.extend(names.filter(|name| self.path.join(name).join("0").join("log").is_dir()));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Checks that the machine exists.
    pub fn machine(&self, name: &str) -> Result<(), AuditError> {
        let known = self.machines()?;
        if known.iter().any(|known| known == name) {
            return Ok(());
        }
        Err(AuditError::NoMachine { machine: name.to_owned(), path: self.path.clone(), known })
    }

    /// The partitions of a machine, in order.
    pub fn partitions(&self, machine: &str) -> Result<Vec<PartitionId>, AuditError> {
        let mut found: Vec<PartitionId> = match &self.manifest {
            Some(manifest) => {
                let of_machine = manifest.partitions.iter().filter(|facts| facts.machine == machine);
                of_machine.map(|facts| facts.partition).collect()
            }
            None => {
                let names = names_in(&self.path.join(machine))?;
                names.iter().filter_map(|name| name.parse().ok().map(PartitionId)).collect()
            }
        };
        found.sort();
        Ok(found)
    }

    /// Where the canonical snapshots of a partition lie.
    pub fn snapshot_folder(&self, partition: &PartitionSource) -> PathBuf {
        let folder = partition_folder(&self.path, &partition.machine, partition.partition);
        // Beside the segments, or in a node's folder in a folder of their own beside log and state.
        if self.manifest.is_some() { folder } else { canonical::folder_of(&folder) }
    }

    /// The identity of the partition to which the snapshots belong.
    pub fn of<'p>(&self, partition: &'p PartitionSource) -> CheckedPartition<'p> {
        CheckedPartition { cluster: self.cluster, machine: &partition.machine, partition: partition.partition }
    }

    /// Opens a partition. All frames of a log are read and checked here; segments are checked while their entries are
    /// read.
    pub fn partition(&self, machine: &str, partition: PartitionId) -> Result<PartitionSource, AuditError> {
        let is_node = self.manifest.is_none();
        let mut known = if is_node { evidence::furthest(&self.path, machine, partition) } else { None };
        let recorded = if is_node { evidence::recorded(&self.path, machine, partition) } else { None };
        let stored = match &self.manifest {
            Some(manifest) => {
                let facts = manifest.find(machine, partition);
                let missing = || AuditError::NoPartition { machine: machine.to_owned(), partition: partition.0 };
                EntryReader::Segments(SegmentsReader::new(self.path.clone(), self.cluster, facts.ok_or_else(missing)?))
            }
            None => {
                let folder = partition_folder(&self.path, machine, partition).join("log");
                let stream = || format!("{machine}/{partition}");
                let scan = LogScan::open(&RealDisk, &folder);
                let scan = scan.map_err(|source| AuditError::Log { stream: stream(), source })?;
                // An entry of Raft alone also counts as an entry.
                known = known.max(recorded.filter(|_| scan.last().is_none()));
                EntryReader::Log(Box::new(scan))
            }
        };
        let genesis = Journal::genesis(&self.cluster.0, machine, partition);
        Ok(PartitionSource { machine: machine.to_owned(), partition, genesis, known, stored })
    }
}

fn names_in(path: &Path) -> Result<Vec<String>, AuditError> {
    let io = |source| AuditError::Io { path: path.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        if let Ok(name) = entry.map_err(io)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

impl PartitionSource {
    pub fn stream(&self) -> String {
        format!("{}/{}", self.machine, self.partition)
    }

    /// About how many bytes its entries have.
    pub fn byte_count(&self) -> u64 {
        match &self.stored {
            EntryReader::Log(scan) => scan.end().0,
            EntryReader::Segments(segments) => segments.byte_count(),
        }
    }

    /// The number of the last entry, see [`ReadEntry`].
    pub fn end(&self) -> u64 {
        match &self.stored {
            EntryReader::Log(scan) => scan.last().map_or(0, |last| last.index.0),
            EntryReader::Segments(segments) => segments.last().0,
        }
    }

    /// Bytes at the end of a log that were never acknowledged.
    pub fn torn_bytes(&self) -> u64 {
        match &self.stored {
            EntryReader::Log(scan) => match scan.tail() {
                LogTail::Clean => 0,
                LogTail::Torn { bytes } => bytes,
            },
            EntryReader::Segments(_) => 0,
        }
    }

    /// The entries in Raft's order, void ones included, blank and membership entries left out. If an entry is missing
    /// because it was released, or replaced by a snapshot, [`AuditError::Released`] follows in place of the rest.
    pub fn entries(&self) -> Box<dyn Iterator<Item = Result<ReadEntry, AuditError>> + '_> {
        match &self.stored {
            EntryReader::Log(scan) => Box::new(self.entries_of_log(scan)),
            EntryReader::Segments(segments) => Box::new(self.entries_of_segments(segments)),
        }
    }

    fn entries_of_segments<'s>(
        &'s self,
        segments: &'s SegmentsReader,
    ) -> impl Iterator<Item = Result<ReadEntry, AuditError>> + 's {
        let begins_late = segments.first().filter(|first| *first != self.genesis.index.next());
        let released = begins_late.map(|next| AuditError::Released { stream: self.stream(), next: Some(next) });
        let is_whole = released.is_none();
        let placed = segments.entries(self.genesis.index, self.genesis.head).take_while(move |_| is_whole);
        let read = placed.map(|placed| {
            let PlacedEntry { entry, file, offset } = placed?;
            let number = entry.header().index.0;
            Ok(ReadEntry { entry, number, segment: file, offset, is_committed: true })
        });
        released.map(Err).into_iter().chain(read)
    }

    fn entries_of_log<'s>(&'s self, scan: &'s LogScan) -> impl Iterator<Item = Result<ReadEntry, AuditError>> + 's {
        // Every log begins with index 0.
        let mut next = LogIndex(0);
        let mut is_cut = false;
        let read = scan.entries().filter_map(move |scanned| {
            let scanned = match scanned {
                Ok(scanned) => scanned,
                Err(source) => return Some(Err(AuditError::Log { stream: self.stream(), source })),
            };
            is_cut |= scanned.entry.id.index != next;
            next = scanned.entry.id.index.next();
            if is_cut {
                // It is also released if only records of consensus itself follow the gap.
                let next = match scanned.entry.payload {
                    Payload::Entry(bytes) => Entry::parse(bytes).ok().map(|entry| entry.header().index),
                    Payload::Blank | Payload::Membership(_) => None,
                };
                return Some(Err(AuditError::Released { stream: self.stream(), next }));
            }
            let Payload::Entry(bytes) = scanned.entry.payload else { return None };
            let read = |entry| ReadEntry {
                entry,
                number: scanned.entry.id.index.0,
                segment: scanned.segment.clone(),
                offset: scanned.offset,
                is_committed: scanned.is_committed,
            };
            Some(Entry::parse(bytes).map(read).map_err(|error| self.replay_failed(error.into())))
        });
        read.chain(self.find_end_missing(scan).map(Err))
    }

    /// A snapshot may have replaced everything, even if no entry follows it yet.
    fn find_end_missing(&self, scan: &LogScan) -> Option<AuditError> {
        let (last, found) = (scan.last()?, scan.last_found());
        let is_missing = found.is_none_or(|found| found.index < last.index);
        is_missing.then(|| AuditError::Released { stream: self.stream(), next: None })
    }

    pub fn stray(&self, stray: StrayEntry) -> AuditError {
        AuditError::Stray { stream: self.stream(), stray }
    }

    pub fn replay_failed(&self, source: ReplayError) -> AuditError {
        AuditError::Replay { stream: self.stream(), source }
    }

    /// Replays while `is_wanted` accepts the next entry.
    pub fn replay(&self, source: &Source, mut is_wanted: impl FnMut(&Entry) -> bool) -> Result<Replay, AuditError> {
        self.replay_some(source, |entry| is_wanted(entry).then_some(Position::WHOLE))
    }

    /// Replays up to a moment. A position within an entry includes the commands of the entry up to that position.
    ///
    /// # Errors
    /// [`AuditError::Gone`]: the position is not in this journal.
    pub fn replay_until(&self, source: &Source, moment: Option<Moment>) -> Result<Replay, AuditError> {
        let replay = self.replay_some(source, |entry| {
            let header = entry.header();
            match moment {
                None => Some(Position::WHOLE),
                Some(Moment::Time(time)) => (header.time <= time).then_some(Position::WHOLE),
                Some(Moment::Position(at)) if header.index == at.index => Some(at.n),
                Some(Moment::Position(at)) => (header.index < at.index).then_some(Position::WHOLE),
            }
        })?;
        match moment {
            Some(Moment::Position(at)) if replay.journal.position(self.partition, at.n) != at => Err(AuditError::Gone),
            _ => Ok(replay),
        }
    }

    /// Replays entry by entry. `until` returns the last wanted position in the next entry, or `None` to end the replay.
    fn replay_some(&self, source: &Source, mut until: impl FnMut(&Entry) -> Option<u32>) -> Result<Replay, AuditError> {
        let mut replay = Replay::new(self.genesis);
        let mut heads = Heads::new(&self.genesis);
        for read in self.entries() {
            let entry = read?.entry;
            // A void entry may have a later time than effective entries after it.
            let is_effective = entry.header().parent == replay.journal.head;
            let Some(n) = (if is_effective { until(&entry) } else { Some(Position::WHOLE) }) else {
                return Ok(replay);
            };
            let verdict = replay.apply_until(&entry, n, &|id| source.load(id));
            let verdict = verdict.map_err(|error| self.replay_failed(error))?;
            heads.check(&entry, &verdict).map_err(|stray| self.stray(stray))?;
        }
        heads.finish().map_err(|stray| self.stray(stray))?;
        Ok(replay)
    }
}
