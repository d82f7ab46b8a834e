//! Where an audit reads from: the partitions of a data folder and the modules beside them.
//!
//! In: a folder. Out: entries with the place they were read from, and loaded modules. It opens everything for reading
//! only, so a running node does not notice.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::audit::error::AuditError;
use crate::guest::{Engine, EngineOptions};
use crate::ids::{LogIndex, ModuleId, PartitionId};
use crate::log::{LogScan, Payload, RealDisk};
use crate::machine::entry::Entry;
use crate::machine::journal::Journal;
use crate::machine::logic::Logic;
use crate::machine::native::Native;
use crate::machine::replay::{Replay, ReplayError};
use crate::registry::Registry;
use crate::system::Identity;
use crate::system::folder::partition_folder;
use crate::system::logic::System;

/// A data folder opened for an audit.
pub struct Source {
    path: PathBuf,
    identity: Identity,
    registry: Registry,
}

/// One partition of it.
pub struct PartitionSource {
    pub machine: String,
    pub partition: PartitionId,
    pub genesis: Journal,
    pub scan: LogScan,
}

/// An entry and the place it was read from.
pub struct Read {
    pub entry: Entry,
    pub log_index: LogIndex,
    /// File name of the segment.
    pub segment: String,
    pub offset: u64,
    /// The log itself knows that it is committed.
    pub is_committed: bool,
}

impl Source {
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let identity = Identity::read(path)?.ok_or_else(|| AuditError::NoNode { path: path.to_owned() })?;
        // Without a cache: an audit writes nothing into the folder it looks at, and trusts no compiled file in it.
        let engine = Engine::new(EngineOptions::default()).map_err(crate::registry::RegistryError::from)?;
        let registry = Registry::open_to_read(path.join("modules"), engine);
        registry.add_native(Arc::new(Native::<System>::new()));
        Ok(Self { path: path.to_owned(), identity, registry })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String> {
        self.registry.find(id).map_err(|error| error.to_string())
    }

    /// A module that is not part of the folder.
    pub fn compile(&self, wasm: &[u8]) -> Result<Arc<dyn Logic>, AuditError> {
        Ok(self.registry.compile(wasm)?)
    }

    /// Names of all machines, in order.
    pub fn machines(&self) -> Result<Vec<String>, AuditError> {
        let mut found = Vec::new();
        for name in names_in(&self.path)? {
            if self.path.join(&name).join("0").join("log").is_dir() {
                found.push(name);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Checks that the machine is there.
    pub fn machine(&self, name: &str) -> Result<(), AuditError> {
        let known = self.machines()?;
        if known.iter().any(|known| known == name) {
            return Ok(());
        }
        Err(AuditError::NoMachine { machine: name.to_owned(), path: self.path.clone(), known })
    }

    /// The partitions of a machine, in order.
    pub fn partitions(&self, machine: &str) -> Result<Vec<PartitionId>, AuditError> {
        let names = names_in(&self.path.join(machine))?;
        let mut found: Vec<PartitionId> = names.iter().filter_map(|name| name.parse().ok().map(PartitionId)).collect();
        found.sort();
        Ok(found)
    }

    /// Reads and checks a partition's log: every frame, and the chain over the entries.
    pub fn partition(&self, machine: &str, partition: PartitionId) -> Result<PartitionSource, AuditError> {
        let folder = partition_folder(&self.path, machine, partition).join("log");
        let stream = || format!("{machine}/{partition}");
        let scan = LogScan::open(&RealDisk, &folder).map_err(|source| AuditError::Log { stream: stream(), source })?;
        let cluster = self.identity.cluster_bytes().expect("checked when the identity was read");
        let genesis = Journal::genesis(&cluster, machine, partition);
        Ok(PartitionSource { machine: machine.to_owned(), partition, genesis, scan })
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

    /// The entries in Raft's order, void ones included; blank and membership entries left out. Where one is not here, which was released
    /// or which a snapshot replaced, [`AuditError::Released`] comes instead of what follows.
    pub fn entries(&self) -> impl Iterator<Item = Result<Read, AuditError>> {
        // Every log begins with index 0.
        let mut next = LogIndex(0);
        let mut is_cut = false;
        let read = self.scan.entries().filter_map(move |scanned| {
            let scanned = match scanned {
                Ok(scanned) => scanned,
                Err(source) => return Some(Err(AuditError::Log { stream: self.stream(), source })),
            };
            is_cut |= scanned.entry.id.index != next;
            next = scanned.entry.id.index.next();
            if is_cut {
                // Also where nothing follows the gap but what consensus itself has written.
                let next = match scanned.entry.payload {
                    Payload::Entry(bytes) => Entry::parse(bytes).ok().map(|entry| entry.header().index),
                    Payload::Blank | Payload::Membership(_) => None,
                };
                return Some(Err(AuditError::Released { stream: self.stream(), next }));
            }
            let Payload::Entry(bytes) = scanned.entry.payload else { return None };
            let read = |entry| Read {
                entry,
                log_index: scanned.entry.id.index,
                segment: scanned.segment.clone(),
                offset: scanned.offset,
                is_committed: scanned.is_committed,
            };
            Some(Entry::parse(bytes).map(read).map_err(|error| self.replay_failed(error.into())))
        });
        read.chain(self.find_end_missing().map(Err))
    }

    /// A snapshot may have replaced everything, also what no entry follows yet.
    fn find_end_missing(&self) -> Option<AuditError> {
        let (last, found) = (self.scan.last()?, self.scan.last_found());
        let is_missing = found.is_none_or(|found| found.index < last.index);
        is_missing.then(|| AuditError::Released { stream: self.stream(), next: None })
    }

    pub fn replay_failed(&self, source: ReplayError) -> AuditError {
        AuditError::Replay { stream: self.stream(), source }
    }

    /// Replays while `is_wanted` says so of the next entry.
    pub fn replay(&self, source: &Source, mut is_wanted: impl FnMut(&Entry) -> bool) -> Result<Replay, AuditError> {
        let mut replay = Replay::new(self.genesis);
        for read in self.entries() {
            let read = read?;
            if !is_wanted(&read.entry) {
                break;
            }
            replay.apply(&read.entry, &|id| source.load(id)).map_err(|error| self.replay_failed(error))?;
        }
        Ok(replay)
    }
}
