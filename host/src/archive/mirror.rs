//! An archive as a folder that an audit reads: what is not in the folder yet is fetched, and a manifest is made of what is there.
//!
//! In: an archive, and a folder to fetch into, which may have what an earlier fetch left. Out: the folder and what it has. An archive that is
//! a folder of this machine is read where it is. Nothing is believed here: the bytes are checked while their entries are read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::error::ArchiveError;
use super::folder::{FileFacts, Manifest, PartitionFacts, modules_folder, partition_folder};
use super::segment::{SegmentName, TRAILER_SIZE};
use super::store::Archive;
use crate::ids::{Digest, Head, PartitionId};

/// A folder with all that an archive has, and what that is.
pub struct Mirror {
    pub folder: PathBuf,
    pub manifest: Manifest,
}

impl Archive {
    /// Fetches what the folder lacks; `on_bytes` is told of each file. What was fetched stays there, so it can be broken off.
    ///
    /// # Errors
    /// The archive cannot be reached, is nobody's, or has two histories; the disk.
    pub async fn mirror(&self, folder: &Path, on_bytes: &dyn Fn(u64)) -> Result<Mirror, ArchiveError> {
        let cluster = self.owner().await?.ok_or_else(|| ArchiveError::NoOwner { url: self.url().to_owned() })?;
        let local = self.folder();
        let folder = local.unwrap_or(folder).to_owned();
        let mut manifest = Manifest::new(cluster.to_string());
        for (machine, partition) in self.partitions().await? {
            let names = chain(&machine, partition, self.segments(&machine, partition).await?)?;
            let within = partition_folder(&folder, &machine, partition);
            for name in &names {
                if local.is_none() && !within.join(name.to_string()).is_file() {
                    on_bytes(self.fetch(&machine, partition, &name.to_string(), &within).await?);
                }
            }
            for name in self.snapshots(&machine, partition).await? {
                if local.is_none() && !within.join(&name).is_file() {
                    on_bytes(self.fetch(&machine, partition, &name, &within).await?);
                }
            }
            let files = names.iter().map(|name| facts(&within, name)).collect::<Result<_, _>>()?;
            manifest.partitions.push(PartitionFacts { machine, partition, files });
        }
        manifest.modules = self.modules().await?;
        let within = modules_folder(&folder);
        for id in &manifest.modules {
            if local.is_none() && !within.join(format!("{id}.wasm")).is_file() {
                on_bytes(self.fetch_module(*id, &within).await?);
            }
        }
        Ok(Mirror { folder, manifest })
    }
}

/// One segment for each place in the journal: of those that begin alike the longest, for the others are what was there before it was whole.
///
/// # Errors
/// Two that are equally long are not the same.
pub fn chain(machine: &str, partition: PartitionId, names: Vec<SegmentName>) -> Result<Vec<SegmentName>, ArchiveError> {
    let mut chain: Vec<SegmentName> = Vec::new();
    for name in names {
        match chain.pop_if(|before| before.first == name.first) {
            Some(before) if before.last == name.last => {
                let (machine, first) = (machine.to_owned(), name.first);
                let (one, other) = (before.to_string(), name.to_string());
                return Err(ArchiveError::Fork { machine, partition, first, one, other });
            }
            _ => chain.push(name),
        }
    }
    Ok(chain)
}

/// What the end of the file says; where it has no end, it says nothing, and whoever reads it finds that out.
pub(super) fn facts(folder: &Path, name: &SegmentName) -> Result<FileFacts, ArchiveError> {
    let path = folder.join(name.to_string());
    let read = || -> std::io::Result<(u64, [u8; TRAILER_SIZE])> {
        let mut file = File::open(&path)?;
        let bytes = file.metadata()?.len();
        let mut trailer = [0; TRAILER_SIZE];
        if TRAILER_SIZE as u64 <= bytes {
            file.seek(SeekFrom::End(-(TRAILER_SIZE as i64)))?;
            file.read_exact(&mut trailer)?;
        }
        Ok((bytes, trailer))
    };
    let (bytes, trailer) = read().map_err(ArchiveError::io(&path))?;
    let part = |at: usize| *trailer[at..].first_chunk::<32>().expect("inside the trailer");
    let (head, blake3) = (Head(part(12)), Digest(part(44)));
    Ok(FileFacts { name: name.to_string(), first: name.first, last: name.last, head, bytes, blake3 })
}
