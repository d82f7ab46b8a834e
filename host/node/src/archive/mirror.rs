//! An archive as a folder that an audit reads: missing files are fetched, and a manifest is made of the files that
//! exist.
//!
//! An archive and a target folder go in; the folder may have files of an earlier fetch. The folder and its manifest
//! come out. An archive that is a folder of this machine is read in place. Nothing is trusted here: the bytes are
//! checked while their entries are read.

use std::path::Path;

use super::error::ArchiveError;
use super::store::Archive;
use crate::ids::{Head, PartitionId};
use crate::segments::{
    FileFacts, LISTINGS_MAX, Manifest, Mirror, PartitionFacts, SegmentName, TRAILER_SIZE, chain, decode_trailer,
    modules_folder, partition_folder,
};

impl Archive {
    /// Fetches the files that the folder lacks, and tells `on_bytes` of each. Fetched files stay, so the fetch may be
    /// interrupted.
    ///
    /// # Errors
    /// The archive cannot be reached, has no owner, or has two histories; or an error of the disk.
    pub async fn mirror(&self, folder: &Path, on_bytes: &dyn Fn(u64)) -> Result<Mirror, ArchiveError> {
        let cluster = self.owner().await?.ok_or_else(|| ArchiveError::NoOwner { url: self.url().to_owned() })?;
        if let Some(local) = self.folder() {
            return Ok(Mirror::of_owner(local, cluster)?);
        }
        let mut manifest = Manifest::new(cluster.to_string());
        for (machine, partition) in self.partitions().await? {
            let within = partition_folder(folder, &machine, partition);
            let mut files = self.mirror_partition(&machine, partition, &within, on_bytes).await;
            for _ in 0..LISTINGS_MAX {
                // Something was archived meanwhile, and replaced a listed object.
                if !files.as_ref().is_err_and(ArchiveError::is_absence) {
                    break;
                }
                files = self.mirror_partition(&machine, partition, &within, on_bytes).await;
            }
            let files = files?;
            manifest.partitions.push(PartitionFacts { machine, partition, files });
        }
        manifest.modules = self.modules().await?;
        let within = modules_folder(folder);
        for id in &manifest.modules {
            if !within.join(format!("{id}.wasm")).is_file() {
                on_bytes(self.fetch_module(*id, &within).await?);
            }
        }
        Ok(Mirror { folder: folder.to_owned(), manifest })
    }

    async fn mirror_partition(
        &self,
        machine: &str,
        partition: PartitionId,
        within: &Path,
        on_bytes: &dyn Fn(u64),
    ) -> Result<Vec<FileFacts>, ArchiveError> {
        let is_here = |name: &str| within.join(name).is_file();
        let names = chain(machine, partition, self.segments(machine, partition).await?)?;
        let segments = names.iter().map(SegmentName::to_string);
        for name in segments.chain(self.snapshots(machine, partition).await?) {
            if !is_here(&name) {
                on_bytes(self.fetch(machine, partition, &name, within).await?);
            }
        }
        Ok(names.iter().map(|name| FileFacts::read(within, name)).collect::<Result<_, _>>()?)
    }
}

impl Archive {
    /// The head after the last entry of a segment, according to the end of the object.
    ///
    /// # Errors
    /// The archive cannot be reached, or the object is not the one that its name says.
    pub async fn head_after(
        &self,
        machine: &str,
        partition: PartitionId,
        name: &SegmentName,
    ) -> Result<Head, ArchiveError> {
        let end = self.read_end(machine, partition, &name.to_string(), TRAILER_SIZE as u64).await?;
        let trailer = <&[u8; TRAILER_SIZE]>::try_from(&*end).ok().map(decode_trailer);
        match trailer {
            Some((head, hash)) if hash.to_string().starts_with(&name.hash) => Ok(head),
            _ => Err(ArchiveError::NotKept { url: self.url().to_owned(), object: name.to_string() }),
        }
    }
}
