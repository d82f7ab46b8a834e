//! A small file of the node that is replaced as a whole, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic bytes: what the file is |
//! | 4 | format version, 1 |
//! | – | CBOR: the content |
//! | 32 | blake3 of everything before |
//!
//! After a crash the file has the old content or the new one. This type does not know what the content means, nor what
//! a damaged file leads to.

use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minicbor::{Decode, Encode};

use super::error::FolderError;
use crate::disk::{Disk, read_whole, write_whole};

const VERSION: u32 = 1;
const MAGIC_BYTES: usize = 8;
const HEADER_BYTES: usize = MAGIC_BYTES + size_of::<u32>();
const HASH_BYTES: usize = 32;

/// A file of this format. `T` is its content.
pub struct SmallFile<T> {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    path: PathBuf,
    magic: [u8; MAGIC_BYTES],
    content: PhantomData<fn(T) -> T>,
}

/// Why a file gives no content.
#[derive(Debug, thiserror::Error)]
pub enum SmallFileError {
    #[error(transparent)]
    Disk(io::Error),
    #[error("format {0} is not {VERSION}; it is of a later version")]
    Later(u32),
    #[error("it is damaged")]
    Damaged,
}

impl<T: Default + Encode<()> + for<'b> Decode<'b, ()>> SmallFile<T> {
    pub fn new(disk: Arc<dyn Disk>, folder: &Path, name: &str, magic: [u8; MAGIC_BYTES]) -> Self {
        Self { disk, folder: folder.to_owned(), path: folder.join(name), magic, content: PhantomData }
    }

    /// Reads the content; the default if there is no file.
    ///
    /// # Errors
    /// The file cannot be read, was written by a later program, or is damaged.
    pub fn read(&self) -> Result<T, SmallFileError> {
        match read_whole(&*self.disk, &self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
            Err(error) => Err(SmallFileError::Disk(error)),
            Ok(bytes) => self.decode(&bytes),
        }
    }

    /// Reads the content; the default if there is no file, or a damaged one. For a damaged file it logs what
    /// `that_means`.
    ///
    /// # Errors
    /// The file cannot be read, or was written by a later program.
    pub fn read_or_make_anew(&self, that_means: &str) -> Result<T, FolderError> {
        let path = self.path.clone();
        match self.read() {
            Ok(content) => Ok(content),
            Err(SmallFileError::Damaged) => {
                tracing::error!(path = %path.display(), "a file of the node is damaged and made again: {that_means}");
                Ok(T::default())
            }
            Err(SmallFileError::Disk(source)) => Err(FolderError::Io { path, source }),
            Err(later @ SmallFileError::Later(_)) => Err(FolderError::Identity { path, reason: later.to_string() }),
        }
    }

    /// Replaces the content. Durable on return.
    ///
    /// # Errors
    /// The disk cannot be written: the file has the old content or this one.
    pub fn write(&self, content: &T) -> Result<(), FolderError> {
        let bytes = self.encode(content);
        let written =
            self.disk.create_dir_all(&self.folder).and_then(|()| write_whole(&*self.disk, &self.path, &bytes));
        written.map_err(|source| FolderError::Io { path: self.path.clone(), source })
    }

    fn encode(&self, content: &T) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend(minicbor::to_vec(content).expect("writing to memory cannot fail"));
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        bytes
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, SmallFileError> {
        let (content, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or(SmallFileError::Damaged)?;
        if blake3::hash(content) != *hash || content.len() < HEADER_BYTES || !content.starts_with(&self.magic) {
            return Err(SmallFileError::Damaged);
        }
        let (header, content) = content.split_at(HEADER_BYTES);
        let version = header[MAGIC_BYTES..].try_into().map(u32::from_le_bytes).map_err(|_| SmallFileError::Damaged)?;
        if version != VERSION {
            return Err(SmallFileError::Later(version));
        }
        minicbor::decode(content).map_err(|_| SmallFileError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    fn file(disk: &SimDisk) -> SmallFile<Vec<u64>> {
        SmallFile::new(Arc::new(disk.clone()), Path::new("/node"), "numbers", *b"NUMBERS\0")
    }

    #[test]
    fn a_power_cut_leaves_the_old_content_or_the_new_one() {
        let disk = SimDisk::new();
        assert_eq!(file(&disk).read().expect("there is none"), Vec::<u64>::new());
        file(&disk).write(&vec![1]).expect("written");
        file(&disk).write(&vec![2, 3]).expect("written");
        for seed in 0..8 {
            assert_eq!(
                file(&disk.copy().crash(seed)).read().expect("it is whole"),
                [2, 3],
                "what was written is durable"
            );
        }
    }

    #[test]
    fn what_is_damaged_is_made_anew_and_what_a_later_program_wrote_is_refused() {
        let disk = SimDisk::new();
        file(&disk).write(&vec![7]).expect("written");
        let good = disk.content(&file(&disk).path).expect("it was written");
        let damaged = (0..good.len()).map(|at| {
            let mut bad = good.clone();
            bad[at] ^= 1;
            bad
        });
        for bad in damaged.chain((0..good.len()).map(|len| good[..len].to_vec())) {
            disk.put(&file(&disk).path, bad);
            assert!(matches!(file(&disk).read(), Err(SmallFileError::Damaged)));
            assert_eq!(file(&disk).read_or_make_anew("a test").expect("made anew"), Vec::<u64>::new());
        }
        let mut later = good[..good.len() - HASH_BYTES].to_vec();
        later[MAGIC_BYTES] = 2;
        later.extend_from_slice(blake3::hash(&later).as_bytes());
        disk.put(&file(&disk).path, later);
        let refused = file(&disk).read_or_make_anew("a test").expect_err("a later program's");
        assert!(refused.to_string().contains("later version"), "{refused}");
    }
}
