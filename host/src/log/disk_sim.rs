//! A disk in memory that loses what was not synced: for tests and for the cluster simulator.
//!
//! A crash keeps, of every file, what was synced, and of the 512-byte blocks written since a random part; of the names
//! changed since the last folder sync, a random prefix. Errors, a full disk, slow syncs and a power cut after a given number
//! of operations can be injected. It knows nothing of logs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::log::disk::{Disk, DiskFile, DiskMap};

const BLOCK_SIZE: usize = 512;

/// A handle to a simulated disk; clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<SimState>,
    /// Syncs that are held wait here.
    released: Condvar,
}

/// An operation that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimOp {
    Write,
    Sync,
}

#[derive(Default)]
struct SimState {
    files: Vec<SimInode>,
    /// Names as running programs see them, and as they were at the last folder sync.
    names: BTreeMap<PathBuf, usize>,
    names_synced: BTreeMap<PathBuf, usize>,
    /// Changes since, each of one or two names and what they stand for now.
    changes: Vec<Vec<Naming>>,
    capacity: Option<u64>,
    operations: u64,
    /// The power goes off before this operation.
    operations_max: Option<u64>,
    failing: Option<SimOp>,
    lacks_descriptors: bool,
    holds_syncs: bool,
}

/// "Too many open files", as Linux numbers it.
const EMFILE: i32 = 24;

/// A name, and the file it stands for from now on.
type Naming = (PathBuf, Option<usize>);

#[derive(Clone, Default)]
struct SimInode {
    content: Vec<u8>,
    synced: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl SimDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// What is on the disk when the power comes back. This disk is off from now on: all its operations fail.
    pub fn crash(&self, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut state = self.inner.state.lock();
        state.operations_max = Some(0);
        state.holds_syncs = false;
        self.inner.released.notify_all();
        let mut names = state.names_synced.clone();
        let kept = random.random_range(0..=state.changes.len());
        for naming in state.changes[..kept].iter().flatten() {
            name(&mut names, naming);
        }
        let files = state.files.iter().map(|file| file.after_crash(&mut random)).collect();
        let survivor =
            SimState { files, names_synced: names.clone(), names, capacity: state.capacity, ..SimState::default() };
        Self { inner: Arc::new(Inner { state: Mutex::new(survivor), released: Condvar::new() }) }
    }

    /// What a program finds that is started after another was killed: nothing is lost. This disk is off from now on.
    pub fn kill(&self) -> Self {
        let survivor = self.copy();
        let mut state = self.inner.state.lock();
        state.operations_max = Some(0);
        state.holds_syncs = false;
        self.inner.released.notify_all();
        survivor
    }

    /// Another disk with the same content.
    pub fn copy(&self) -> Self {
        let state = self.inner.state.lock();
        let copy = SimState {
            files: state.files.clone(),
            names: state.names.clone(),
            names_synced: state.names_synced.clone(),
            changes: state.changes.clone(),
            capacity: state.capacity,
            ..SimState::default()
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(copy), released: Condvar::new() }) }
    }

    /// The power goes off after so many more operations that change something.
    pub fn crash_after(&self, operations: u64) {
        let mut state = self.inner.state.lock();
        state.operations_max = Some(state.operations + operations);
    }

    /// Operations so far that change something.
    pub fn operations(&self) -> u64 {
        self.inner.state.lock().operations
    }

    /// All files together may have so many bytes; `None`: no bound.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.inner.state.lock().capacity = capacity;
    }

    /// Bytes of all files that have a name.
    pub fn used(&self) -> u64 {
        self.inner.state.lock().used()
    }

    /// Every such operation fails with an I/O error from now on; `None`: none does.
    pub fn set_failing(&self, failing: Option<SimOp>) {
        self.inner.state.lock().failing = failing;
    }

    /// No file can be created from now on for want of a descriptor; those that are open are not affected.
    pub fn set_lacking_descriptors(&self, lacks: bool) {
        self.inner.state.lock().lacks_descriptors = lacks;
    }

    /// Syncs do not return until [`SimDisk::release_syncs`].
    pub fn hold_syncs(&self) {
        self.inner.state.lock().holds_syncs = true;
    }

    pub fn release_syncs(&self) {
        self.inner.state.lock().holds_syncs = false;
        self.inner.released.notify_all();
    }

    /// The content of a file as programs see it.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.inner.state.lock();
        state.names.get(path).map(|inode| state.files[*inode].content.clone())
    }

    /// Puts a durable file on the disk, in place of one of the same name.
    pub fn put(&self, path: &Path, content: Vec<u8>) {
        let mut state = self.inner.state.lock();
        state.files.push(SimInode { synced: content.clone(), content, dirty: BTreeSet::new() });
        let inode = state.files.len() - 1;
        state.names.insert(path.to_owned(), inode);
        state.names_synced.insert(path.to_owned(), inode);
    }

    fn file(&self, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { inner: self.inner.clone(), inode })
    }
}

impl SimState {
    /// Counts an operation; fails once the power is off.
    fn operate(&mut self) -> io::Result<()> {
        if self.operations_max.is_some_and(|max| max <= self.operations) {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        Ok(())
    }

    fn fail_if(&self, op: SimOp) -> io::Result<()> {
        if self.failing == Some(op) { Err(io::Error::other("injected I/O error")) } else { Ok(()) }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.files[*inode].content.len() as u64).sum()
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The file with this path, or all files in the folder with this path.
    fn names_below(&self, path: &Path) -> Vec<(PathBuf, usize)> {
        let below = self.names.iter().filter(|(name, _)| name.starts_with(path));
        below.map(|(name, inode)| (name.clone(), *inode)).collect()
    }

    /// Changes names, all or none.
    fn rename(&mut self, change: Vec<Naming>) {
        for naming in &change {
            name(&mut self.names, naming);
        }
        self.changes.push(change);
    }
}

fn name(names: &mut BTreeMap<PathBuf, usize>, (path, inode): &Naming) {
    match inode {
        Some(inode) => _ = names.insert(path.clone(), *inode),
        None => _ = names.remove(path),
    }
}

impl SimInode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.content.len() < offset {
            self.content.resize(offset, 0);
        }
        // Most writes are those that fill a new segment: they need not be filled twice.
        let (inside, behind) = bytes.split_at((self.content.len() - offset).min(bytes.len()));
        self.content[offset..offset + inside.len()].copy_from_slice(inside);
        self.content.extend_from_slice(behind);
        if !bytes.is_empty() {
            self.dirty.extend(offset / BLOCK_SIZE..=(end - 1) / BLOCK_SIZE);
        }
    }

    fn sync(&mut self) {
        // What is new is dirty, and so copied below again where it was written.
        self.synced.extend_from_slice(&self.content[self.synced.len()..]);
        for block in std::mem::take(&mut self.dirty) {
            let range = block_range(block, self.content.len());
            self.synced[range.clone()].copy_from_slice(&self.content[range]);
        }
    }

    /// Some of the dirty blocks were written back before the power went off. The size of a file grows with its blocks.
    fn after_crash(&self, random: &mut StdRng) -> Self {
        let mut content = self.synced.clone();
        let share = random.random_range(0.0..=1.0);
        for block in &self.dirty {
            if random.random_bool(share) {
                let range = block_range(*block, self.content.len());
                content.resize(content.len().max(range.end), 0);
                content[range.clone()].copy_from_slice(&self.content[range]);
            }
        }
        Self { synced: content.clone(), content, dirty: BTreeSet::new() }
    }
}

fn block_range(block: usize, size: usize) -> Range<usize> {
    let start = block * BLOCK_SIZE;
    start..(start + BLOCK_SIZE).min(size)
}

impl Disk for SimDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.inner.state.lock();
        let below = state.names.keys().filter_map(|path| path.strip_prefix(dir).ok()?.components().next());
        let names: BTreeSet<_> = below.filter_map(|name| name.as_os_str().to_str()).collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.inner.state.lock();
        state.operate()?;
        if state.lacks_descriptors {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        state.files.push(SimInode::default());
        let inode = state.files.len() - 1;
        state.rename(vec![(path.to_owned(), Some(inode))]);
        Ok(self.file(inode))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.inner.state.lock().find(path)?;
        Ok(self.file(inode))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        state.operate()?;
        let moved: Vec<_> = state.names_below(from);
        if moved.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names_below(to).iter().any(|(path, _)| path != to) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let change = moved.into_iter().flat_map(|(path, inode)| {
            let rest = path.strip_prefix(from).expect("it was found below");
            // A path joined with nothing would end in a slash.
            let new = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            [(new, Some(inode)), (path, None)]
        });
        state.rename(change.collect());
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        state.operate()?;
        state.find(path)?;
        state.rename(vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        for (path, _) in state.names_below(dir) {
            state.operate()?;
            state.rename(vec![(path, None)]);
        }
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        state.operate()?;
        state.fail_if(SimOp::Sync)?;
        state.names_synced = state.names.clone();
        state.changes.clear();
        Ok(())
    }
}

struct SimFile {
    inner: Arc<Inner>,
    inode: usize,
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.inner.state.lock().files[self.inode].content.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.inner.state.lock();
        let content = &state.files[self.inode].content;
        let found = content.get(offset as usize..offset as usize + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        state.operate()?;
        state.fail_if(SimOp::Write)?;
        let size = state.files[self.inode].content.len() as u64;
        let growth = (offset + bytes.len() as u64).saturating_sub(size);
        if state.capacity.is_some_and(|capacity| capacity < state.used() + growth) && 0 < growth {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.files[self.inode].write(bytes, offset as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        while state.holds_syncs {
            self.inner.released.wait(&mut state);
        }
        state.operate()?;
        state.fail_if(SimOp::Sync)?;
        state.files[self.inode].sync();
        Ok(())
    }

    fn map(&self) -> io::Result<Arc<dyn DiskMap>> {
        Ok(Arc::new(SimFile { inner: self.inner.clone(), inode: self.inode }))
    }
}

impl DiskMap for SimFile {
    fn read(&self, offset: u64, size: usize) -> Option<Bytes> {
        let state = self.inner.state.lock();
        let start = usize::try_from(offset).ok()?;
        let range = start..start.checked_add(size)?;
        state.files[self.inode].content.get(range).map(Bytes::copy_from_slice)
    }
}
