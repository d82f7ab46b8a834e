//! `journal.json`: a list of the journal segments in a folder, so that a missing one is noticed.
//!
//! ```text
//! <folder>/journal.json                                      this, as JSON
//!          modules/<ModuleId>.wasm                           every module that decided, by its hash
//!          <machine>/<partition>/<first>-<last>-<hash>.journal
//! ```
//! All of it follows from the journals, so it is the same from every replica that exports the same entries. It is not a
//! proof: anybody who removes the last file and its line gets a shorter history that is in order. A certificate, or any
//! position, shows how long the history was.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::SegmentsError;
use super::segment::{SegmentName, TRAILER_SIZE, decode_trailer};
use crate::durable::{self, PRIVATE};
use crate::ids::{ClusterId, Digest, Head, JournalIndex, ModuleId, PartitionId};
use crate::limits::ARCHIVE_MANIFEST_BYTES_MAX;
use crate::regular;

const FILE: &str = "journal.json";
const MODULES: &str = "modules";
const FORMAT: u32 = 1;

/// A folder of journal segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    /// A uuid. It is part of every journal's genesis.
    pub cluster: String,
    /// Modules that became active in the journals, in order of their ids.
    pub modules: Vec<ModuleId>,
    /// The partitions, by machine and number.
    pub partitions: Vec<PartitionFacts>,
}

/// The journal of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionFacts {
    pub machine: String,
    pub partition: PartitionId,
    /// The files, in the order of the journal.
    pub files: Vec<FileFacts>,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFacts {
    pub name: String,
    pub first: JournalIndex,
    pub last: JournalIndex,
    /// The journal's head after `last`.
    pub head: Head,
    pub bytes: u64,
    /// The hash at the end of the file.
    pub blake3: Digest,
}

/// A folder with everything that an archive has, and its manifest.
pub struct Mirror {
    pub folder: PathBuf,
    pub manifest: Manifest,
}

/// The content of the file: the manifest, and a hash that detects a flipped bit.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    journal: Manifest,
    /// The hash of the compact JSON of `journal`.
    blake3: Digest,
}

impl Manifest {
    pub fn new(cluster: String) -> Self {
        Self { format: FORMAT, cluster, modules: Vec::new(), partitions: Vec::new() }
    }

    /// Reads and checks the manifest; `None` if the folder is not one of journal segments.
    ///
    /// # Errors
    /// The file cannot be read, or is not as it was written.
    pub fn read(folder: &Path) -> Result<Option<Self>, SegmentsError> {
        let path = folder.join(FILE);
        let text = match regular::read(&path, ARCHIVE_MANIFEST_BYTES_MAX) {
            Ok(text) => text,
            Err(source) if source.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SegmentsError::Io { path, source }),
        };
        let wrong = |reason: String| SegmentsError::Manifest { path: path.clone(), reason };
        let sealed: serde_json::Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        let format = sealed["journal"]["format"].as_u64().and_then(|format| u32::try_from(format).ok());
        if let Some(found) = format.filter(|found| *found != FORMAT) {
            return Err(SegmentsError::Format { path, found, known: FORMAT });
        }
        let ManifestFile { journal, blake3 } =
            serde_json::from_value(sealed).map_err(|error| wrong(error.to_string()))?;
        if journal.digest() != blake3 {
            return Err(wrong("its hash is not the one at its end".to_owned()));
        }
        journal.check().map_err(wrong)?;
        Ok(Some(journal))
    }

    /// Replaces an earlier manifest. The new one is durable on return. Files that only the earlier one lists are then
    /// removed.
    ///
    /// # Errors
    /// An error of the disk, or the folder belongs to another cluster.
    pub fn write(&self, folder: &Path) -> Result<(), SegmentsError> {
        let before = Self::read(folder)?;
        let sealed = ManifestFile { journal: self.clone(), blake3: self.digest() };
        let text = serde_json::to_vec_pretty(&sealed).expect("texts and integers only");
        durable::write(folder, FILE, PRIVATE, &text).map_err(SegmentsError::io(folder))?;
        for partition in before.iter().flat_map(|before| &before.partitions) {
            let files = self.find(&partition.machine, partition.partition).map_or(&[][..], |now| &now.files);
            for file in partition.files.iter().filter(|file| files.iter().all(|other| other.name != file.name)) {
                let path = partition_folder(folder, &partition.machine, partition.partition).join(&file.name);
                match std::fs::remove_file(&path) {
                    Err(source) if source.kind() != ErrorKind::NotFound => {
                        return Err(SegmentsError::Io { path, source });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    pub fn find(&self, machine: &str, partition: PartitionId) -> Option<&PartitionFacts> {
        self.partitions.iter().find(|facts| facts.machine == machine && facts.partition == partition)
    }

    pub fn cluster_id(&self) -> ClusterId {
        ClusterId(uuid::Uuid::try_parse(&self.cluster).expect("checked when it was read or made").into_bytes())
    }

    fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("texts and integers only"))
    }

    /// Checks names, because they become paths.
    fn check(&self) -> Result<(), String> {
        uuid::Uuid::try_parse(&self.cluster).map_err(|error| format!("`{}`: {error}", self.cluster))?;
        let is_plain = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        for facts in &self.partitions {
            let mut names = facts.files.iter().map(|file| &file.name).chain([&facts.machine]);
            if let Some(name) = names.find(|name| !is_plain(name)) {
                return Err(format!("`{name}` is no name of a file or a machine"));
            }
        }
        Ok(())
    }
}

impl FileFacts {
    /// The facts at the end of a file. If the file has no end, they are zeros, and reading the file shows the fault.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(folder: &Path, name: &SegmentName) -> Result<Self, SegmentsError> {
        let path = folder.join(name.to_string());
        let read = || -> std::io::Result<(u64, [u8; TRAILER_SIZE])> {
            let mut file = regular::open(&path)?;
            let bytes = file.metadata()?.len();
            let mut trailer = [0; TRAILER_SIZE];
            if TRAILER_SIZE as u64 <= bytes {
                file.seek(SeekFrom::End(-(TRAILER_SIZE as i64)))?;
                file.read_exact(&mut trailer)?;
            }
            Ok((bytes, trailer))
        };
        let (bytes, trailer) = read().map_err(SegmentsError::io(&path))?;
        let (head, blake3) = decode_trailer(&trailer);
        Ok(Self { name: name.to_string(), first: name.first, last: name.last, head, bytes, blake3 })
    }
}

/// The folder of a partition's segments.
pub fn partition_folder(folder: &Path, machine: &str, partition: PartitionId) -> PathBuf {
    folder.join(machine).join(partition.to_string())
}

/// The folder of the modules, each named by its id.
pub fn modules_folder(folder: &Path) -> PathBuf {
    folder.join(MODULES)
}

/// Keeps a module beside the journals that need it.
///
/// # Errors
/// An error of the disk.
pub fn write_module(folder: &Path, id: ModuleId, wasm: &[u8]) -> Result<(), SegmentsError> {
    assert_eq!(ModuleId::of(wasm), id);
    let folder = modules_folder(folder);
    let io = || SegmentsError::io(&folder);
    durable::create_dir_all(&folder).map_err(io())?;
    durable::write(&folder, &format!("{id}.wasm"), PRIVATE, wasm).map_err(io())
}
