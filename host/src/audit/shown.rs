//! What a data folder itself shows of journals beside their logs: partitions that there were, and entries that there were.
//!
//! In: a node's folder. Out: partitions that are missing, by the machine `system` and by the node's own record, and how far ids and canonical
//! snapshots go. Whoever cuts a log or removes a partition has to remember all of them. It trusts none of them to say that something was *not*.

use std::collections::BTreeMap;
use std::path::Path;

use statehouse_abi::key::split_key;

use crate::audit::source::Source;
use crate::disk::RealDisk;
use crate::ids::{JournalIndex, PartitionId};
use crate::snapshot::canonical::indexes_in;
use crate::store::ids::applied_in;
use crate::system::folder::partition_folder;
use crate::system::logic::{SYSTEM, SystemRow, read_row};
use crate::system::record::NodeRecord;

/// An entry that something beside the log knows of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    pub index: JournalIndex,
    /// What knows it, in words.
    pub by: String,
}

/// The furthest entry that ids or snapshots of a partition know of, if they know any. To be asked *before* the log is read: the node may be running.
pub fn furthest(folder: &Path, machine: &str, partition: PartitionId) -> Option<Shown> {
    let folder = partition_folder(folder, machine, partition);
    let ids = applied_in(&folder.join("ids")).map(|index| Shown { index, by: "its id index".to_owned() });
    let snapshots = indexes_in(&RealDisk, &folder).unwrap_or_default().into_iter().map(|(index, path)| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Shown { index, by: format!("`canonical/{name}`") }
    });
    snapshots.chain(ids).max().filter(|shown| JournalIndex(0) < shown.index)
}

/// What there was at least, where the node's own record says that a partition had entries. To be asked *before* the log is read as well.
pub fn recorded(folder: &Path, machine: &str, partition: PartitionId) -> Option<Shown> {
    let has = |(of, id): &(String, u32)| of == machine && *id == partition.0;
    let shown = || Shown { index: JournalIndex(1), by: "the node's record".to_owned() };
    recorded_in(folder).iter().any(has).then(shown)
}

/// What cannot be read says nothing.
fn recorded_in(folder: &Path) -> Vec<(String, u32)> {
    NodeRecord::read_with_entries(folder).unwrap_or_default()
}

/// Every partition that had entries in a node's folder, or that its machine `system` names, with who says so.
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

/// How many partitions each machine has, as far as the journal of `system` can be replayed: its own faults are in its own report.
fn machines_of_system(source: &Source) -> Vec<(String, u32)> {
    let opened = source.partition(SYSTEM, PartitionId(0)).ok();
    let Some(replay) = opened.and_then(|system| system.replay(source, |_| true).ok()) else { return Vec::new() };
    let machine = |(key, row): (&Vec<u8>, &Vec<u8>)| match read_row(split_key(key)?.1, row)? {
        SystemRow::Machine(name, row) => Some((name, row.partitions)),
        _ => None,
    };
    replay.rows.iter().filter_map(machine).collect()
}
