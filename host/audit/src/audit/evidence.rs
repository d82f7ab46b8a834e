//! What a data folder itself shows about journals beside their logs: which partitions and entries there were.
//!
//! In: a node's folder. Out: partitions that are missing according to the machine `system` and the node's own record,
//! and how far ids and canonical snapshots reach. Anybody who cuts a log or removes a partition would have to forge all
//! of them. None of them is trusted as proof that something was *not* there. This file does not know what a log
//! contains.

use std::collections::BTreeMap;
use std::path::Path;

use statehouse_abi::key::split_key;

use crate::audit::source::Source;
use crate::canonical::indexes_in;
use crate::data_folder::{ids_applied_in, replicas_with_entries};
use crate::disk::RealDisk;
use crate::ids::{JournalIndex, PartitionId};
use crate::records::logic::{SYSTEM, SystemRow, read_row};
use crate::segments::partition_folder;

/// An entry that something beside the log knows of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KnownEntry {
    pub index: JournalIndex,
    /// What knows it, as text.
    pub by: String,
}

/// The furthest entry that the ids or snapshots of a partition know of, if any. Must be called *before* the log is
/// read, because the node may be running.
pub fn furthest(folder: &Path, machine: &str, partition: PartitionId) -> Option<KnownEntry> {
    let folder = partition_folder(folder, machine, partition);
    let ids = ids_applied_in(&folder.join("ids")).map(|index| KnownEntry { index, by: "its id index".to_owned() });
    let snapshots = indexes_in(&RealDisk, &folder).unwrap_or_default().into_iter().map(|(index, path)| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        KnownEntry { index, by: format!("`canonical/{name}`") }
    });
    snapshots.chain(ids).max().filter(|known| JournalIndex(0) < known.index)
}

/// The least that there was, if the node's own record says that a partition had entries. Must also be called *before*
/// the log is read.
pub fn recorded(folder: &Path, machine: &str, partition: PartitionId) -> Option<KnownEntry> {
    let has = |(of, id): &(String, u32)| of == machine && *id == partition.0;
    let known = || KnownEntry { index: JournalIndex(1), by: "the node's record".to_owned() };
    recorded_in(folder).iter().any(has).then(known)
}

/// A record that cannot be read says nothing.
fn recorded_in(folder: &Path) -> Vec<(String, u32)> {
    replicas_with_entries(folder).unwrap_or_default()
}

/// Every partition that had entries in a node's folder or is named by its machine `system`, with the source of that
/// fact.
pub fn partitions(source: &Source) -> BTreeMap<(String, PartitionId), &'static str> {
    let mut found = BTreeMap::new();
    if source.manifest().is_some() {
        return found;
    }
    for (machine, partitions) in machines_of_system(source) {
        found.extend((0..partitions).map(|id| ((machine.clone(), PartitionId(id)), "the machine `system` names it")));
    }
    let recorded = recorded_in(source.path()).into_iter().map(|(machine, id)| (machine, PartitionId(id)));
    found.extend(recorded.map(|partition| (partition, "the node's record says that it had entries")));
    found
}

/// How many partitions each machine has, as far as the journal of `system` can be replayed. Its own faults are in its
/// own report.
fn machines_of_system(source: &Source) -> Vec<(String, u32)> {
    let opened = source.partition(SYSTEM, PartitionId(0)).ok();
    let Some(replay) = opened.and_then(|system| system.replay(source, |_| true).ok()) else { return Vec::new() };
    let machine = |(key, row): (&Vec<u8>, &Vec<u8>)| match read_row(split_key(key)?.1, row)? {
        SystemRow::Machine(name, row) => Some((name, row.partitions)),
        _ => None,
    };
    replay.rows.iter().filter_map(machine).collect()
}
