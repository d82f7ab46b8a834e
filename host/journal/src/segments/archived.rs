//! An archive as a folder of this machine: whose it is, and a manifest of the files that are there.
//!
//! ```text
//! <folder>/archive.json                                         the owner, written once, as JSON
//!          modules/<ModuleId>.wasm
//!          <machine>/<partition>/<first>-<last>-<hash>.journal
//! ```
//! In: a folder. Out: a [`Mirror`] of it, which is read like an export. Nothing is trusted here: the bytes are checked
//! while their entries are read. This file does not know how an archive is written, nor one that is elsewhere.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::SegmentsError;
use super::folder::{FileFacts, Manifest, Mirror, PartitionFacts, modules_folder, partition_folder};
use super::segment::SegmentName;
use crate::ids::{ClusterId, ModuleId, PartitionId};
use crate::regular;

/// The file which says that a folder, or a prefix, is an archive.
pub const OWNER: &str = "archive.json";
/// A folder of unfinished uploads. No machine can have its name.
pub const UPLOADING: &str = "_uploading";
/// How often a partition is listed again because listed files are gone.
pub const LISTINGS_MAX: usize = 8;
const FORMAT: u32 = 1;
/// Far more than the file has.
const OWNER_BYTES_MAX: u64 = 64 << 10;

/// The content of `archive.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    format: u32,
    /// A uuid.
    cluster: String,
}

/// The bytes of `archive.json` for the archive of this cluster.
pub fn encode_owner(cluster: ClusterId) -> Vec<u8> {
    let owner = Owner { format: FORMAT, cluster: cluster.to_string() };
    serde_json::to_vec_pretty(&owner).expect("texts and integers only")
}

/// The cluster that the bytes of `archive.json` name. `path` is where they are from.
///
/// # Errors
/// They are not what this program writes.
pub fn decode_owner(bytes: &[u8], path: &Path) -> Result<ClusterId, SegmentsError> {
    let wrong = |reason: String| SegmentsError::Manifest { path: path.to_owned(), reason };
    let owner: Owner = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    if owner.format != FORMAT {
        return Err(SegmentsError::Format { path: path.to_owned(), found: owner.format, known: FORMAT });
    }
    let uuid = uuid::Uuid::try_parse(&owner.cluster).map_err(|error| wrong(error.to_string()))?;
    Ok(ClusterId(uuid.into_bytes()))
}

/// One segment for each place in the journal: the longest of those with the same first entry. The others are earlier,
/// incomplete versions. The names are in order.
///
/// # Errors
/// Two segments of equal length differ.
pub fn chain(
    machine: &str,
    partition: PartitionId,
    names: Vec<SegmentName>,
) -> Result<Vec<SegmentName>, SegmentsError> {
    let mut chain: Vec<SegmentName> = Vec::new();
    for name in names {
        match chain.pop_if(|before| before.first == name.first) {
            Some(before) if before.last == name.last => {
                let (machine, first) = (machine.to_owned(), name.first);
                let (one, other) = (before.to_string(), name.to_string());
                return Err(SegmentsError::Fork { machine, partition, first, one, other });
            }
            _ => chain.push(name),
        }
    }
    Ok(chain)
}

impl Mirror {
    /// An archive in a folder of this machine, read in place.
    ///
    /// # Errors
    /// The folder cannot be read, has no owner, or has two histories.
    pub fn of_folder(folder: &Path) -> Result<Self, SegmentsError> {
        let path = folder.join(OWNER);
        let owner = regular::read(&path, OWNER_BYTES_MAX).map_err(SegmentsError::io(&path))?;
        let cluster = decode_owner(&owner, &path)?;
        let folder = folder.canonicalize().map_err(SegmentsError::io(folder))?;
        Self::of_owner(&folder, cluster)
    }

    /// The same for a folder whose owner is known. It reads the names of all files, and the end of each segment.
    ///
    /// # Errors
    /// The folder cannot be read, or has two histories.
    pub fn of_owner(folder: &Path, cluster: ClusterId) -> Result<Self, SegmentsError> {
        let mut manifest = Manifest::new(cluster.to_string());
        for (machine, partition) in partitions_in(folder)? {
            let mut files = files_of(folder, &machine, partition);
            for _ in 0..LISTINGS_MAX {
                // Something was archived meanwhile, and replaced a listed file.
                if !files.as_ref().is_err_and(SegmentsError::is_absence) {
                    break;
                }
                files = files_of(folder, &machine, partition);
            }
            let files = files?;
            manifest.partitions.push(PartitionFacts { machine, partition, files });
        }
        let names = names_in(&modules_folder(folder), NameKind::File)?;
        let id = |name: &String| name.strip_suffix(".wasm").and_then(|id| id.parse().ok());
        let mut modules: Vec<ModuleId> = names.iter().filter_map(id).collect();
        modules.sort();
        manifest.modules = modules;
        Ok(Self { folder: folder.to_owned(), manifest })
    }
}

/// All partitions of all machines of which anything is kept, in order.
fn partitions_in(folder: &Path) -> Result<Vec<(String, PartitionId)>, SegmentsError> {
    let mut found = Vec::new();
    for machine in names_in(folder, NameKind::Folder)?.into_iter().filter(|name| name != UPLOADING) {
        let numbers = names_in(&folder.join(&machine), NameKind::Folder)?;
        let numbers = numbers.iter().filter_map(|number| number.parse().ok());
        found.extend(numbers.map(|number| (machine.clone(), PartitionId(number))));
    }
    found.sort();
    Ok(found)
}

fn files_of(folder: &Path, machine: &str, partition: PartitionId) -> Result<Vec<FileFacts>, SegmentsError> {
    let within = partition_folder(folder, machine, partition);
    let names = names_in(&within, NameKind::File)?;
    let mut names: Vec<SegmentName> = names.iter().filter_map(|name| SegmentName::parse(name)).collect();
    names.sort();
    chain(machine, partition, names)?.iter().map(|name| FileFacts::read(&within, name)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum NameKind {
    File,
    Folder,
}

/// The names of this kind in a folder, in no order; none if there is no such folder. What is no folder counts as a file
/// here, and is looked at when it is opened.
fn names_in(folder: &Path, kind: NameKind) -> Result<Vec<String>, SegmentsError> {
    let io = || SegmentsError::io(folder);
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io())?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io())?;
        // What is gone by now, or leads nowhere, is not there.
        let Ok(facts) = std::fs::metadata(entry.path()) else { continue };
        let found = if facts.is_dir() { NameKind::Folder } else { NameKind::File };
        if let (true, Ok(name)) = (found == kind, entry.file_name().into_string()) {
            names.push(name);
        }
    }
    Ok(names)
}
