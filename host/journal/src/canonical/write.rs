//! Writes a canonical snapshot.
//!
//! Rows in order of key go in. A file with its final name comes out, which is complete and synced before it gets the
//! name. It needs memory for one chunk and the hashes of all chunks. A file of the same name has the same bytes, so it
//! may replace another.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::CanonicalError;
use super::manifest::{CHUNK_BYTES, CanonicalManifest, Facts, HEADER_SIZE, ListedFile, RowChunk, TRAILER_SIZE, header};
use crate::disk::{Disk, UnfinishedFile};
use crate::ids::Digest;

/// The prefix of names that no reader looks for.
pub(super) const WRITING: &str = "writing-";
const BUFFER_BYTES: usize = 1 << 20;

pub struct SnapshotWriter {
    folder: PathBuf,
    file: BufWriter<UnfinishedFile>,
    manifest: CanonicalManifest,
    /// The rows of the chunk that is not full yet.
    chunk: Vec<u8>,
    chunk_rows: u32,
    digest: blake3::Hasher,
    last_key: Vec<u8>,
}

impl SnapshotWriter {
    /// Begins a file in an existing folder.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn begin(disk: Arc<dyn Disk>, folder: &Path, facts: &Facts) -> Result<Self, CanonicalError> {
        let io = || CanonicalError::io(folder);
        let file = begin_file(disk, folder).map_err(io())?;
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, file);
        file.write_all(&header()).map_err(io())?;
        Ok(Self {
            folder: folder.to_owned(),
            file,
            manifest: CanonicalManifest::new(facts),
            chunk: Vec::with_capacity(CHUNK_BYTES + BUFFER_BYTES / 8),
            chunk_rows: 0,
            digest: blake3::Hasher::new(),
            last_key: Vec::new(),
        })
    }

    /// Adds the next row, which must be after all earlier ones in order of key.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn put(&mut self, key: &[u8], row: &[u8]) -> Result<(), CanonicalError> {
        assert!(self.manifest.rows == 0 || self.last_key.as_slice() < key, "rows come in order of key");
        for bytes in [key, row] {
            let size = u32::try_from(bytes.len()).expect("keys and rows are bounded by limits");
            self.chunk.extend_from_slice(&size.to_le_bytes());
            self.chunk.extend_from_slice(bytes);
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.chunk_rows += 1;
        self.manifest.rows += 1;
        if CHUNK_BYTES <= self.chunk.len() { self.end_chunk() } else { Ok(()) }
    }

    /// Gives the file its name. It is durable on return.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn finish(mut self) -> Result<ListedFile, CanonicalError> {
        if !self.chunk.is_empty() {
            self.end_chunk()?;
        }
        let io = || CanonicalError::io(&self.folder);
        self.manifest.state_digest = *self.digest.finalize().as_bytes();
        let manifest = minicbor::to_vec(&self.manifest).expect("a vector takes all bytes");
        let size = u32::try_from(manifest.len()).expect("some forty bytes for each megabyte of rows").to_le_bytes();
        let hash = hash(&header(), &manifest, size);
        let write = |file: &mut BufWriter<UnfinishedFile>| {
            file.write_all(&manifest)?;
            file.write_all(&size)?;
            file.write_all(&hash.0)
        };
        write(&mut self.file).map_err(io())?;
        let file = self.file.into_inner().map_err(|error| io()(error.into_error()))?;
        file.sync().map_err(io())?;
        let bytes = self.manifest.rows_end() + (manifest.len() + TRAILER_SIZE) as u64;
        assert_eq!(file.end(), bytes, "everything was written");
        let listed = self.manifest.listed(bytes, hash);
        fail::fail_point!("canonical::written", |_| std::process::abort());
        file.name(&self.folder.join(&listed.name)).map_err(io())?;
        fail::fail_point!("canonical::named", |_| std::process::abort());
        Ok(listed)
    }

    fn end_chunk(&mut self) -> Result<(), CanonicalError> {
        let bytes = u32::try_from(self.chunk.len()).expect("a chunk and one row");
        let blake3 = *blake3::hash(&self.chunk).as_bytes();
        self.manifest.chunks.push(RowChunk { bytes, rows: self.chunk_rows, blake3 });
        self.digest.update(&self.chunk);
        self.file.write_all(&self.chunk).map_err(CanonicalError::io(&self.folder))?;
        self.chunk.clear();
        self.chunk_rows = 0;
        Ok(())
    }
}

/// A file in the folder that no other writer uses, and no reader looks for.
pub(super) fn begin_file(disk: Arc<dyn Disk>, folder: &Path) -> std::io::Result<UnfinishedFile> {
    let name = format!("{WRITING}{:016x}", rand::random::<u64>());
    UnfinishedFile::create(disk, folder.join(name))
}

/// The hash at the end of a file.
pub(super) fn hash(header: &[u8; HEADER_SIZE], manifest: &[u8], size: [u8; 4]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header).update(manifest).update(&size);
    Digest(*hasher.finalize().as_bytes())
}
