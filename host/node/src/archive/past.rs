//! Entries that a node has released, read from the archive segment by segment. The newest few stay in a folder of the
//! node.
//!
//! The entry before the requested ones goes in. The following entries come out, up to the end of one segment and a
//! limit. The hashes of a segment are checked from its beginning up to the returned entries. The reader, which knows
//! the head there, must check that the segment belongs to this history. Only readers of the past ask it, and it delays
//! nobody else.

use std::path::PathBuf;

use parking_lot::Mutex;

use super::error::ArchiveError;
use super::store::Archive;
use crate::ids::JournalIndex;
use crate::machine::entry::Entry;
use crate::segments::{FileFacts, PartitionFacts, SegmentName, SegmentsError, SegmentsReader, Stream, chain};

/// The number of segments that stay: this many readers at different places do not evict each other's segments.
const FILES_MAX: usize = 8;

/// The archived journal of one partition.
pub struct ArchivedJournal {
    archive: Archive,
    stream: Stream,
    folder: PathBuf,
    /// The last listing. The archive may have more by now.
    listed: Mutex<Vec<SegmentName>>,
    /// The files in the folder, the most recently used one last. The lock is held while one is fetched.
    files: tokio::sync::Mutex<Vec<SegmentName>>,
}

impl ArchivedJournal {
    /// `folder` is for fetched files. Nobody else uses anything in it.
    pub fn new(archive: Archive, stream: Stream, folder: PathBuf) -> Self {
        Self { archive, stream, folder, listed: Mutex::default(), files: tokio::sync::Mutex::default() }
    }

    /// The entries after `after`: at least one, and about `bytes_max` bytes; empty if the archive does not have them.
    ///
    /// # Errors
    /// The archive cannot be reached, or what it has is not what was written; or an error of the disk.
    pub async fn entries_after(&self, after: JournalIndex, bytes_max: usize) -> Result<Vec<Entry>, ArchiveError> {
        let Some(name) = self.find(after.next()).await? else { return Ok(Vec::new()) };
        let mut files = self.files.lock().await;
        self.fetch(&mut files, &name).await?;
        let reader = self.reader(&name)?;
        // Under the lock, so that nobody removes the file meanwhile.
        let reading = tokio::task::spawn_blocking(move || read_after(&reader, after, bytes_max)).await;
        let read = reading.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        if read.is_err() {
            // It may be intact in the archive, so the next caller fetches it again.
            files.retain(|file| *file != name);
        }
        read
    }

    /// The archive itself, for messages about what it lacks.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The first entry after `index` that the archive has, according to the last listing.
    pub fn first_behind(&self, index: JournalIndex) -> Option<JournalIndex> {
        self.listed.lock().iter().map(|name| name.first).filter(|first| index < *first).min()
    }

    async fn find(&self, index: JournalIndex) -> Result<Option<SegmentName>, ArchiveError> {
        let within =
            |names: &[SegmentName]| names.iter().find(|name| name.first <= index && index <= name.last).cloned();
        let known = within(&self.listed.lock());
        if known.is_some() {
            return Ok(known);
        }
        let (machine, partition) = (&self.stream.machine, self.stream.partition);
        let names = chain(machine, partition, self.archive.segments(machine, partition).await?)?;
        let found = within(&names);
        *self.listed.lock() = names;
        Ok(found)
    }

    async fn fetch(&self, files: &mut Vec<SegmentName>, name: &SegmentName) -> Result<(), ArchiveError> {
        if files.is_empty() {
            // Removes what an earlier process has left.
            match tokio::fs::remove_dir_all(&self.folder).await {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SegmentsError::Io { path: self.folder.clone(), source }.into());
                }
                _ => {}
            }
        }
        if let Some(at) = files.iter().position(|file| file == name) {
            let file = files.remove(at);
            files.push(file);
            return Ok(());
        }
        let (machine, partition) = (&self.stream.machine, self.stream.partition);
        if let Err(error) = self.archive.fetch(machine, partition, &name.to_string(), &self.folder).await {
            // A longer segment may have replaced it.
            self.listed.lock().clear();
            return Err(error);
        }
        files.push(name.clone());
        if FILES_MAX < files.len() {
            let path = self.folder.join(files.remove(0).to_string());
            tokio::fs::remove_file(&path).await.map_err(ArchiveError::io(&path))?;
        }
        Ok(())
    }

    fn reader(&self, name: &SegmentName) -> Result<SegmentsReader, ArchiveError> {
        let (machine, partition) = (self.stream.machine.clone(), self.stream.partition);
        let facts = PartitionFacts { machine, partition, files: vec![FileFacts::read(&self.folder, name)?] };
        Ok(SegmentsReader::in_folder(self.folder.clone(), self.stream.cluster, &facts))
    }
}

fn read_after(reader: &SegmentsReader, after: JournalIndex, bytes_max: usize) -> Result<Vec<Entry>, ArchiveError> {
    let (last, head) = reader.beginning()?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for placed in reader.entries(last, head) {
        let entry = placed?.entry;
        if entry.header().index <= after {
            continue;
        }
        bytes += entry.payload().len();
        entries.push(entry);
        if bytes_max <= bytes {
            break;
        }
    }
    Ok(entries)
}
