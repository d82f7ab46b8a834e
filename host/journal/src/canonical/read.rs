//! Reads a canonical snapshot, and checks every byte on the way.
//!
//! A file goes in. Its subject and its rows come out, until the first chunk that is not what was written. It needs
//! memory for the manifest and one chunk. This file does not know whether the journal results in these rows: a reader
//! that replays the journal compares the state digest.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::error::{CanonicalError, SnapshotDamage};
use super::manifest::{CHUNK_BYTES, CanonicalManifest, FORMAT, HEADER_SIZE, ListedFile, MAGIC, TRAILER_SIZE};
use super::write::hash;
use crate::disk::{Disk, DiskFile};
use crate::ids::Digest;
use crate::limits::ARCHIVE_MANIFEST_BYTES_MAX;
use crate::machine::limits::{KEY_BYTES_MAX, ROW_BYTES_MAX};

/// The most bytes of a chunk: one that is almost full, and the longest row.
const CHUNK_BYTES_MAX: usize = CHUNK_BYTES + KEY_BYTES_MAX + ROW_BYTES_MAX + 8;

/// A file whose manifest is sound.
pub struct SnapshotFile {
    file: Arc<dyn DiskFile>,
    manifest: CanonicalManifest,
    listed: ListedFile,
}

impl SnapshotFile {
    /// Opens a file and checks its manifest, not the rows.
    ///
    /// # Errors
    /// The file cannot be read, is not a snapshot, or is not what was written.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self, CanonicalError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let fail = |offset: u64, damage| CanonicalError::Damaged { file: name.clone(), offset, damage };
        let file = disk.open_to_read(path).map_err(CanonicalError::io(path))?;
        let size = file.size().map_err(CanonicalError::io(path))?;
        let mut header = [0; HEADER_SIZE];
        read_at(&*file, 0, &mut header).map_err(|damage| fail(0, damage))?;
        if !header.starts_with(MAGIC) {
            return Err(fail(0, SnapshotDamage::Magic));
        }
        let format = u16::from_le_bytes([header[8], header[9]]);
        if format != FORMAT {
            return Err(fail(8, SnapshotDamage::Format { found: format, known: FORMAT }));
        }
        let trailer_at = size.checked_sub(TRAILER_SIZE as u64).ok_or_else(|| fail(size, SnapshotDamage::Cut))?;
        let mut trailer = [0; TRAILER_SIZE];
        read_at(&*file, trailer_at, &mut trailer).map_err(|damage| fail(trailer_at, damage))?;
        let (length, recorded) = trailer.split_first_chunk::<4>().expect("longer than that");
        let manifest_at = trailer_at.checked_sub(u64::from(u32::from_le_bytes(*length)));
        let manifest_at = manifest_at.filter(|at| HEADER_SIZE as u64 <= *at);
        // The bytes there are not a length: the end is missing, or was changed.
        let manifest_at = manifest_at.ok_or_else(|| fail(trailer_at, SnapshotDamage::ManifestHash))?;
        if ARCHIVE_MANIFEST_BYTES_MAX < u64::from(u32::from_le_bytes(*length)) {
            return Err(fail(trailer_at, SnapshotDamage::Manifest("it is longer than any that this program writes")));
        }
        let mut bytes = vec![0; u32::from_le_bytes(*length) as usize];
        read_at(&*file, manifest_at, &mut bytes).map_err(|damage| fail(manifest_at, damage))?;
        let found = hash(&header, &bytes, *length);
        if found.0 != *recorded {
            return Err(fail(manifest_at, SnapshotDamage::ManifestHash));
        }
        let manifest: CanonicalManifest = minicbor::decode(&bytes)
            .map_err(|_| fail(manifest_at, SnapshotDamage::Manifest("it is not CBOR with these fields")))?;
        check(&manifest).map_err(|what| fail(manifest_at, SnapshotDamage::Manifest(what)))?;
        if manifest.rows_end() != manifest_at {
            let damage = SnapshotDamage::Size { expected: manifest_at, found: manifest.rows_end() };
            return Err(fail(manifest_at, damage));
        }
        let mut listed = manifest.listed(size, found);
        if listed.name != name {
            let expected = std::mem::replace(&mut listed.name, name.clone());
            return Err(fail(0, SnapshotDamage::Name { expected }));
        }
        Ok(Self { file, manifest, listed })
    }

    pub fn listed(&self) -> &ListedFile {
        &self.listed
    }

    /// Gives each row, in order of key, of chunks whose hash is right. Returns `Ok` if all chunks and the state digest
    /// are right.
    ///
    /// # Errors
    /// The first chunk that is not what was written.
    pub fn visit(&mut self, each: impl FnMut(&[u8], &[u8])) -> Result<(), CanonicalError> {
        self.visit_while(|| true, each)
    }

    /// The same, but stops when `is_wanted` says no. It is asked before each chunk.
    ///
    /// # Errors
    /// The same, and [`CanonicalError::GivenUp`].
    pub fn visit_while(
        &mut self,
        is_wanted: impl Fn() -> bool,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), CanonicalError> {
        let name = self.listed.name.clone();
        let fail = |offset, damage| CanonicalError::Damaged { file: name.clone(), offset, damage };
        let mut offset = HEADER_SIZE as u64;
        let mut digest = blake3::Hasher::new();
        let (mut bytes, mut last_key, mut rows) = (Vec::new(), None, 0);
        for (number, chunk) in self.manifest.chunks.iter().enumerate() {
            if !is_wanted() {
                return Err(CanonicalError::GivenUp);
            }
            bytes.resize(chunk.bytes as usize, 0);
            read_at(&*self.file, offset, &mut bytes).map_err(|damage| fail(offset, damage))?;
            let (expected, found) = (Digest(chunk.blake3), Digest::of(&bytes));
            if expected != found {
                return Err(fail(offset, SnapshotDamage::Chunk { number, expected, found }));
            }
            digest.update(&bytes);
            let found = visit_rows(&bytes, &mut last_key, &mut each);
            if found != Some(chunk.rows) {
                return Err(fail(offset, SnapshotDamage::Rows { number }));
            }
            rows += u64::from(chunk.rows);
            offset += u64::from(chunk.bytes);
        }
        let (expected, found) = (self.listed.state_digest, Digest(*digest.finalize().as_bytes()));
        if expected != found || rows != self.manifest.rows {
            return Err(fail(offset, SnapshotDamage::State { expected, found }));
        }
        Ok(())
    }
}

fn check(manifest: &CanonicalManifest) -> Result<(), &'static str> {
    if manifest.facts().days.is_some_and(|days| !days.is_in_order()) {
        return Err("its last day is before the first");
    }
    if manifest.chunks.iter().any(|chunk| chunk.bytes == 0 || CHUNK_BYTES_MAX < chunk.bytes as usize) {
        return Err("a chunk has a size that none can have");
    }
    let full = manifest.chunks.split_last().map_or(&[][..], |(_, full)| full);
    // Otherwise the same rows could be cut into other chunks, and have another hash.
    if full.iter().any(|chunk| (chunk.bytes as usize) < CHUNK_BYTES) {
        return Err("a chunk before the last one is not full");
    }
    Ok(())
}

/// Gives the rows of a chunk and returns how many they are; `None` if they are malformed or not in order.
fn visit_rows(mut bytes: &[u8], last: &mut Option<Vec<u8>>, each: &mut impl FnMut(&[u8], &[u8])) -> Option<u32> {
    let mut count = 0;
    while !bytes.is_empty() {
        let (key, rest) = field(bytes)?;
        let (row, rest) = field(rest)?;
        if last.as_deref().is_some_and(|last| key <= last) {
            return None;
        }
        each(key, row);
        let last = last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        (bytes, count) = (rest, count + 1);
    }
    Some(count)
}

fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*size) as usize)
}

fn read_at(file: &dyn DiskFile, offset: u64, to: &mut [u8]) -> Result<(), SnapshotDamage> {
    file.read_at(to, offset).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => SnapshotDamage::Cut,
        _ => error.into(),
    })
}
