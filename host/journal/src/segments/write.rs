//! Writes the journal of a partition as segments.
//!
//! Effective entries go in, in order, from any journal index on. Files with their final names come out, each complete
//! and synced before it gets its name, and the facts to list about them. It needs memory for one entry. It replaces no
//! file with another one: a file of the same name has the same bytes.

use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::error::SegmentsError;
use super::folder::FileFacts;
use super::segment::{Boundary, JournalSegmentHeader, Stream, encode_trailer, file_name};
use crate::durable;
use crate::ids::{Digest, Head, JournalIndex};
use crate::machine::entry::Entry;

const BUFFER_BYTES: usize = 1 << 20;

/// The journal of one partition on its way into files.
pub struct SegmentsWriter {
    folder: PathBuf,
    stream: Stream,
    boundary: Boundary,
    /// The position of the journal.
    last: JournalIndex,
    head: Head,
    open: Option<UnfinishedSegment>,
    files: Vec<FileFacts>,
}

/// A segment that is being written, under a name that no reader looks for.
struct UnfinishedSegment {
    file: BufWriter<NamedTempFile>,
    hasher: blake3::Hasher,
    bytes: u64,
    first: JournalIndex,
}

impl SegmentsWriter {
    /// Begins after the entry `last`, after which the journal has the head `head`. The folder is made if it does not
    /// exist.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(
        folder: &Path,
        stream: Stream,
        boundary: Boundary,
        last: JournalIndex,
        head: Head,
    ) -> Result<Self, SegmentsError> {
        durable::create_dir_all(folder).map_err(SegmentsError::io(folder))?;
        Ok(Self { folder: folder.to_owned(), stream, boundary, last, head, open: None, files: Vec::new() })
    }

    /// Takes the next effective entry. Returns the file that it completes, if it does.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn push(&mut self, entry: &Entry) -> Result<Option<&FileFacts>, SegmentsError> {
        let header = entry.header();
        assert_eq!(header.parent, self.head, "only effective entries, in order");
        assert_eq!(header.index, self.last.next());
        let head = entry.head_after();
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin()?,
        };
        let payload = entry.payload();
        let size = u32::try_from(payload.len()).expect("entries are bounded far below that");
        let io = SegmentsError::io(&self.folder);
        let write = |open: &mut UnfinishedSegment| {
            open.write(&size.to_le_bytes())?;
            open.write(&head.0)?;
            open.write(payload)
        };
        write(&mut open).map_err(io)?;
        self.open = Some(open);
        (self.last, self.head) = (header.index, head);
        if !self.boundary.is_last(head, payload.len()) {
            return Ok(None);
        }
        self.seal()?;
        Ok(self.files.last())
    }

    /// Ends the last segment at the end of the journal, and returns all files that were written.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn finish(mut self) -> Result<Vec<FileFacts>, SegmentsError> {
        self.seal()?;
        Ok(self.files)
    }

    fn begin(&self) -> Result<UnfinishedSegment, SegmentsError> {
        let io = || SegmentsError::io(&self.folder);
        let mut builder = tempfile::Builder::new();
        builder.prefix("writing-").permissions(std::fs::Permissions::from_mode(durable::PRIVATE));
        let file = builder.tempfile_in(&self.folder).map_err(io())?;
        let first = self.last.next();
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        let mut open = UnfinishedSegment { file, hasher: blake3::Hasher::new(), bytes: 0, first };
        let header =
            JournalSegmentHeader { stream: self.stream.clone(), boundary: self.boundary, first, parent: self.head };
        open.write(&header.encode()).map_err(io())?;
        Ok(open)
    }

    fn seal(&mut self) -> Result<(), SegmentsError> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let io = || SegmentsError::io(&self.folder);
        open.write(&encode_trailer(self.last, self.head)).map_err(io())?;
        let hash = open.hasher.finalize();
        open.file.write_all(hash.as_bytes()).map_err(io())?;
        let bytes = open.bytes + hash.as_bytes().len() as u64;
        let file = open.file.into_inner().map_err(|error| io()(error.into_error()))?;
        file.as_file().sync_all().map_err(io())?;
        let name = file_name(open.first, self.last, &hash);
        file.persist(self.folder.join(&name)).map_err(|error| io()(error.error))?;
        durable::sync_dir(&self.folder).map_err(io())?;
        let (first, last, head) = (open.first, self.last, self.head);
        self.files.push(FileFacts { name, first, last, head, bytes, blake3: Digest(*hash.as_bytes()) });
        Ok(())
    }
}

impl UnfinishedSegment {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}
