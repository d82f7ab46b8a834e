//! Uploading a journal: from the point that the archive has, cut as every replica cuts it, each file kept before the
//! next.
//!
//! ```text
//! begin: what the archive lists ─▶ its last segment ─▶ the entry after which the journal is sealed there
//! push:  entries ─▶ spool folder ─▶ sealed segments ─▶ archive ─▶ read back ─▶ removed from the spool
//! end:   the open segment, as far as it goes ─▶ archive ─▶ the shorter one before it is removed
//! ```
//! Effective entries go in, in order. The last entry that is kept comes out. It may stop anywhere: what is incomplete
//! in the archive has no name there, and the next upload finds out again where to continue. This file does not know
//! where entries come from, nor whether anybody else uploads the same.

use std::path::PathBuf;

use super::error::ArchiveError;
use super::store::Archive;
use crate::ids::{Head, JournalIndex};
use crate::machine::entry::Entry;
use crate::segments::{
    Boundary, FileFacts, PartitionFacts, SegmentName, SegmentsError, SegmentsReader, SegmentsWriter, Stream, chain,
};

/// The journal of one partition on its way into an archive.
pub struct Upload {
    archive: Archive,
    stream: Stream,
    boundary: Boundary,
    /// Files that are not kept yet. Nobody else uses this folder.
    spool: PathBuf,
    /// The end of the last segment that will never change.
    sealed: (JournalIndex, Head),
    /// The segment after it, as far as it was kept.
    open: Option<SegmentName>,
    /// The last entry that is kept, and the head after it.
    end: (JournalIndex, Head),
}

/// The result of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct UploadCounts {
    pub files: u64,
    pub bytes: u64,
}

impl Upload {
    /// Finds out up to where the archive has the journal. If it has nothing, the upload begins after the entry and the
    /// head in `beginning`: that is genesis, unless no log has it any more.
    ///
    /// # Errors
    /// The archive cannot be reached, or its last segment is not what was written; or an error of the disk.
    pub async fn begin(
        archive: Archive,
        stream: Stream,
        boundary: Boundary,
        beginning: (JournalIndex, Head),
        spool: PathBuf,
    ) -> Result<Self, ArchiveError> {
        match tokio::fs::remove_dir_all(&spool).await {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(SegmentsError::Io { path: spool, source }.into());
            }
            _ => {}
        }
        let (machine, partition) = (stream.machine.clone(), stream.partition);
        archive.clear(&machine, partition).await?;
        let names = chain(&machine, partition, archive.segments(&machine, partition).await?)?;
        let mut upload = Self { archive, stream, boundary, spool, sealed: beginning, open: None, end: beginning };
        for name in names.into_iter().rev() {
            upload.archive.fetch(&machine, partition, &name.to_string(), &upload.spool).await?;
            let last = FileFacts::read(&upload.spool, &name)?;
            let path = upload.spool.join(name.to_string());
            let read = upload.read_back(last.clone()).await;
            tokio::fs::remove_file(&path).await.map_err(ArchiveError::io(&path))?;
            match read {
                Ok((true, _)) => upload.sealed = (last.last, last.head),
                Ok((false, before)) => (upload.sealed, upload.open) = (before, Some(name)),
                // The store has since lost a part of the segment, which is uploaded again under the same name, or as a
                // longer one.
                Err(error @ ArchiveError::Segments(SegmentsError::Segment { .. })) => {
                    tracing::warn!(
                        url = upload.archive.url(), %error,
                        "the newest segment in the archive is incomplete, and is archived again"
                    );
                    continue;
                }
                Err(error) => return Err(error),
            }
            upload.end = (last.last, last.head);
            break;
        }
        Ok(upload)
    }

    /// Whether a segment in the spool ends where every replica ends one, and the journal's position before it.
    async fn read_back(&self, file: FileFacts) -> Result<(bool, (JournalIndex, Head)), ArchiveError> {
        let Stream { cluster, machine, partition } = self.stream.clone();
        let facts = PartitionFacts { machine, partition, files: vec![file] };
        let (reader, boundary) = (SegmentsReader::in_folder(self.spool.clone(), cluster, &facts), self.boundary);
        on_a_thread(move || {
            let before = reader.beginning()?;
            let mut is_sealed = false;
            for placed in reader.entries(before.0, before.1) {
                let entry = placed?.entry;
                is_sealed = boundary.is_last(entry.head_after(), entry.payload().len());
            }
            Ok((is_sealed, before))
        })
        .await
    }

    /// The last entry that is kept, in a sealed or an open segment. If none is, this is the entry before the beginning.
    pub fn last(&self) -> JournalIndex {
        self.end.0
    }

    /// The head after [`Self::last`]. It is this journal's head, unless two journals were archived to one place.
    pub fn head(&self) -> Head {
        self.end.1
    }

    /// The entry after which [`Self::go`] must continue, and the head there.
    pub fn sealed(&self) -> (JournalIndex, Head) {
        self.sealed
    }

    /// Starts a run after [`Self::sealed`].
    ///
    /// # Errors
    /// The spool cannot be made.
    pub fn go(&mut self) -> Result<UploadRun<'_>, ArchiveError> {
        let (last, head) = self.sealed;
        let writer = SegmentsWriter::new(&self.spool, self.stream.clone(), self.boundary, last, head)?;
        Ok(UploadRun { upload: self, writer: Some(writer), kept: UploadCounts::default() })
    }

    async fn keep(&self, file: &FileFacts, kept: &mut UploadCounts) -> Result<(), ArchiveError> {
        let path = self.spool.join(&file.name);
        kept.bytes += self.archive.keep(&self.stream.machine, self.stream.partition, &path).await?;
        kept.files += 1;
        tokio::fs::remove_file(&path).await.map_err(ArchiveError::io(&path))
    }

    /// The new segment has all entries of the earlier open one, which is removed.
    async fn replace_open(&mut self, open: Option<SegmentName>) -> Result<(), ArchiveError> {
        let Some(before) = std::mem::replace(&mut self.open, open) else { return Ok(()) };
        self.archive.remove(&self.stream.machine, self.stream.partition, &before.to_string()).await
    }
}

/// A run: entries on their way.
pub struct UploadRun<'u> {
    upload: &'u mut Upload,
    /// `None` while it writes, and for good after an error.
    writer: Option<SegmentsWriter>,
    kept: UploadCounts,
}

impl UploadRun<'_> {
    /// Takes the next entry, and keeps the segment that it completes, if it does.
    ///
    /// # Errors
    /// An error of the disk or the archive, or the archive has another history. The run has then ended; what it has
    /// kept counts.
    ///
    /// # Panics
    /// If the run has ended.
    pub async fn push(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        let (index, head) = (entry.header().index, entry.head_after());
        let (end, kept_head) = self.upload.end;
        // Checked before anything replaces what was kept.
        if index == end && head != kept_head {
            let Stream { machine, partition, .. } = self.upload.stream.clone();
            return Err(ArchiveError::OtherHistory {
                url: self.upload.archive.url().to_owned(),
                machine,
                partition,
                index,
            });
        }
        let (mut writer, entry) = (self.writer.take().expect("the go is not over"), entry.clone());
        let (writer, file) = on_a_thread(move || {
            let file = writer.push(&entry)?.cloned();
            Ok((writer, file))
        })
        .await?;
        self.writer = Some(writer);
        let Some(file) = file else { return Ok(()) };
        self.upload.keep(&file, &mut self.kept).await?;
        self.upload.sealed = (file.last, file.head);
        if self.upload.end.0 < file.last {
            self.upload.end = (file.last, file.head);
        }
        self.upload.replace_open(None).await
    }

    /// Called after the last entry: keeps the unsealed rest, if there is more of it than before.
    ///
    /// # Errors
    /// The same as for [`Self::push`].
    ///
    /// # Panics
    /// If the run has ended.
    pub async fn finish(self) -> Result<UploadCounts, ArchiveError> {
        let Self { upload, writer, mut kept } = self;
        let writer = writer.expect("the go is not over");
        let (sealed, last) = (upload.sealed.0, upload.last());
        // If the journal ends with a sealed segment, that one was already kept.
        if let Some(file) = on_a_thread(|| Ok(writer.finish()?)).await?.pop().filter(|file| sealed < file.last) {
            if file.last <= last {
                let path = upload.spool.join(&file.name);
                tokio::fs::remove_file(&path).await.map_err(ArchiveError::io(&path))?;
            } else {
                upload.keep(&file, &mut kept).await?;
                upload.end = (file.last, file.head);
                upload.replace_open(SegmentName::parse(&file.name)).await?;
            }
        }
        Ok(kept)
    }
}

/// Runs work that reads or writes files.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
