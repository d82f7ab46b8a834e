//! Entries that a node has released, from the archive: segment by segment, of which the newest few stay in a folder of the node.
//!
//! In: after which entry. Out: what follows it, as far as one segment and a bound go. The hashes of a segment are checked from its beginning up to
//! what is given out; that it is a segment of this history is for the reader to see, who knows the head there. It is asked by readers of the
//! past alone, and holds up nobody else.

use std::path::PathBuf;

use parking_lot::Mutex;

use super::error::ArchiveError;
use super::folder::PartitionFacts;
use super::mirror::{chain, facts};
use super::read::SegmentsReader;
use super::segment::{SegmentName, Stream};
use super::store::Archive;
use crate::ids::JournalIndex;
use crate::machine::entry::Entry;

/// Segments that stay: as many readers at different places do not fetch them from each other.
const FILES_MAX: usize = 8;

/// The archived journal of one partition.
pub struct Past {
    archive: Archive,
    stream: Stream,
    folder: PathBuf,
    /// As it was listed last; more may be there.
    listed: Mutex<Vec<SegmentName>>,
    /// The files that are there, the one asked for last at the end. Held while one is fetched.
    files: tokio::sync::Mutex<Vec<SegmentName>>,
}

impl Past {
    /// `folder` is for what is fetched; whatever is there is nobody else's.
    pub fn new(archive: Archive, stream: Stream, folder: PathBuf) -> Self {
        Self { archive, stream, folder, listed: Mutex::default(), files: tokio::sync::Mutex::default() }
    }

    /// What follows the entry `after`: at least one entry, and about `bytes_max` of them; nothing where the archive does not have them.
    ///
    /// # Errors
    /// The archive cannot be reached, or what it has is not what was written; the disk.
    pub async fn entries_after(&self, after: JournalIndex, bytes_max: usize) -> Result<Vec<Entry>, ArchiveError> {
        let Some(name) = self.find(after.next()).await? else { return Ok(Vec::new()) };
        let mut files = self.files.lock().await;
        self.fetch(&mut files, &name).await?;
        let reader = self.reader(&name)?;
        // Under the lock, so that nobody removes the file meanwhile.
        let reading = tokio::task::spawn_blocking(move || read_after(&reader, after, bytes_max)).await;
        let read = reading.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        if read.is_err() {
            // It may be whole in the archive, so the next one who asks fetches it again.
            files.retain(|file| *file != name);
        }
        read
    }

    /// Where the archive is, for whoever is told what it lacks.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The first entry behind this one that the archive has, as it was listed last.
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
            // What an earlier process has left.
            match tokio::fs::remove_dir_all(&self.folder).await {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ArchiveError::Io { path: self.folder.clone(), source });
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
            // It may have been replaced by a longer one.
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
        let facts = PartitionFacts { machine, partition, files: vec![facts(&self.folder, name)?] };
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
