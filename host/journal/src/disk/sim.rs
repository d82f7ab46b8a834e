//! A disk in memory that loses what was not synced, for tests and for the cluster simulator.
//!
//! A crash keeps the synced content of every file, and a random part of the 512-byte blocks written since. Of the names
//! changed since their folder was synced it keeps a random prefix. What a failed sync should have made durable is lost
//! for good, although readers see it until the crash, as on Linux. Tests can inject errors, a full disk, slow syncs,
//! and a power cut after a given number of operations. The disk does not know what is in a file.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::disk::tree::{Tree, TreeNode};
use crate::disk::{Disk, DiskFile, DiskMap, FileIdentity, FileKind};
use crate::durable::PRIVATE;

const BLOCK_SIZE: usize = 512;

/// A handle to a simulated disk. All clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<SimState>,
    /// Held syncs wait here.
    released: Condvar,
}

/// An operation that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimOp {
    Read,
    Write,
    Sync,
}

#[derive(Default)]
struct SimState {
    files: Vec<SimInode>,
    tree: Tree,
    capacity: Option<u64>,
    operations: u64,
    bytes_read: u64,
    /// The power is cut before this operation.
    operations_max: Option<u64>,
    /// All accesses to the disk so far, including those that change nothing.
    accesses: u64,
    /// The access that fails, once.
    access_failing: Option<u64>,
    /// Operations of this kind fail after this many more have succeeded.
    failing: Option<(SimOp, u64)>,
    lacks_descriptors: bool,
    holds_syncs: bool,
}

/// "Too many open files" and "Input/output error", as Linux numbers them.
const EMFILE: i32 = 24;
const EIO: i32 = 5;

#[derive(Clone, Default)]
struct SimInode {
    content: Vec<u8>,
    synced: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Blocks that cannot be read until they are written again.
    bad: BTreeSet<usize>,
    /// Whether it was emptied since its last sync.
    is_emptied: bool,
}

impl SimDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk when the power returns. This disk is off from now on.
    pub fn crash(&self, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        self.switch_off();
        let state = self.inner.state.lock();
        let tree = state.tree.after_crash(&mut random);
        let files = state.files.iter().map(|file| file.after_crash(&mut random)).collect();
        let survivor = SimState { files, tree, capacity: state.capacity, ..SimState::default() };
        Self { inner: Arc::new(Inner { state: Mutex::new(survivor), released: Condvar::new() }) }
    }

    /// The disk as a new program finds it after another was killed: nothing is lost. This disk is off from now on.
    pub fn kill(&self) -> Self {
        self.switch_off();
        self.copy()
    }

    /// From now on all operations fail.
    pub fn switch_off(&self) {
        let mut state = self.inner.state.lock();
        state.operations_max = Some(0);
        state.holds_syncs = false;
        self.inner.released.notify_all();
    }

    /// Another disk with the same content.
    pub fn copy(&self) -> Self {
        let state = self.inner.state.lock();
        let copy = SimState {
            files: state.files.clone(),
            tree: state.tree.clone(),
            capacity: state.capacity,
            ..SimState::default()
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(copy), released: Condvar::new() }) }
    }

    /// The power is cut after this many more operations that change something.
    pub fn crash_after(&self, operations: u64) {
        let mut state = self.inner.state.lock();
        state.operations_max = Some(state.operations + operations);
    }

    /// Operations so far that change something.
    pub fn operations(&self) -> u64 {
        self.inner.state.lock().operations
    }

    /// All accesses to the disk so far, including those that change nothing.
    pub fn accesses(&self) -> u64 {
        self.inner.state.lock().accesses
    }

    /// After this many more accesses, one access fails with an I/O error. No other access fails.
    pub fn fail_after(&self, accesses: u64) {
        let mut state = self.inner.state.lock();
        state.access_failing = Some(state.accesses + accesses);
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.inner.state.lock().bytes_read
    }

    /// Limits the size of all files together. `None` means no limit.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.inner.state.lock().capacity = capacity;
    }

    /// Bytes of all files that have a name.
    pub fn used(&self) -> u64 {
        self.inner.state.lock().used()
    }

    /// From now on every operation of this kind fails with an I/O error. `None` means that none fails.
    pub fn set_failing(&self, failing: Option<SimOp>) {
        self.inner.state.lock().failing = failing.map(|op| (op, 0));
    }

    /// The same, after this many more of them have succeeded.
    pub fn set_failing_after(&self, op: SimOp, operations: u64) {
        self.inner.state.lock().failing = Some((op, operations));
    }

    /// Whether some operations fail, or will fail.
    pub fn is_failing(&self) -> bool {
        self.inner.state.lock().failing.is_some()
    }

    /// From now on no file can be created, because descriptors are lacking. Open files are not affected.
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

    /// The content of a file, as programs see it.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.inner.state.lock();
        let inode = state.tree.file(path).ok()?;
        Some(state.files[inode].content.clone())
    }

    /// Puts a durable file on the disk. It replaces a file of the same name.
    pub fn put(&self, path: &Path, content: Vec<u8>) {
        let mut state = self.inner.state.lock();
        state.files.push(SimInode { synced: content.clone(), content, ..SimInode::default() });
        let inode = state.files.len() - 1;
        state.tree.put(path, inode);
    }

    /// Changes a file's content, even while it is open: like a disk that loses bits, or somebody who truncates it.
    pub fn write_behind(&self, path: &Path, content: Vec<u8>) {
        let mut state = self.inner.state.lock();
        if let Ok(inode) = state.tree.file(path) {
            state.files[inode] = SimInode { synced: content.clone(), content, ..SimInode::default() };
        }
    }

    /// Makes a sector of a file bad: it cannot be read until it is written again.
    pub fn spoil(&self, path: &Path, offset: usize) {
        let mut state = self.inner.state.lock();
        if let Ok(inode) = state.tree.file(path) {
            _ = state.files[inode].bad.insert(offset / BLOCK_SIZE);
        }
    }

    fn file(&self, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { inner: self.inner.clone(), inode })
    }
}

impl SimState {
    /// Counts every access, and fails if this is the one that must fail.
    fn access(&mut self) -> io::Result<()> {
        self.accesses += 1;
        if self.access_failing.is_some_and(|failing| failing + 1 == self.accesses) {
            return Err(io::Error::other("injected I/O error"));
        }
        Ok(())
    }

    /// Counts an access that changes something, and fails once the power is off.
    fn operate(&mut self) -> io::Result<()> {
        if self.is_off() {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        self.access()
    }

    fn is_off(&self) -> bool {
        self.operations_max.is_some_and(|max| max <= self.operations)
    }

    fn fail_if(&mut self, op: SimOp) -> io::Result<()> {
        match &mut self.failing {
            Some((failing, left)) if *failing == op && *left == 0 => Err(io::Error::other("injected I/O error")),
            Some((failing, left)) if *failing == op => {
                *left -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        self.tree.files_below(Path::new("/")).iter().map(|inode| self.files[*inode].content.len() as u64).sum()
    }
}

impl SimInode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.content.len() < offset {
            self.content.resize(offset, 0);
        }
        // Most writes extend the file to fill a new segment. The new bytes need not be zeroed first.
        let (inside, behind) = bytes.split_at((self.content.len() - offset).min(bytes.len()));
        self.content[offset..offset + inside.len()].copy_from_slice(inside);
        self.content.extend_from_slice(behind);
        if !bytes.is_empty() {
            let blocks = offset / BLOCK_SIZE..=(end - 1) / BLOCK_SIZE;
            self.bad.retain(|block| !blocks.contains(block));
            self.dirty.extend(blocks);
        }
    }

    /// Like a truncation: the new size becomes durable with the next sync.
    fn empty(&mut self) {
        self.content.clear();
        self.dirty.clear();
        self.is_emptied = true;
    }

    fn sync(&mut self) {
        if std::mem::take(&mut self.is_emptied) {
            self.synced.clear();
        }
        // New bytes that were written are dirty, unless a sync of them has failed.
        self.synced.resize(self.content.len(), 0);
        for block in std::mem::take(&mut self.dirty) {
            let range = block_range(block, self.content.len());
            self.synced[range.clone()].copy_from_slice(&self.content[range]);
        }
    }

    /// Some of the dirty blocks were written back before the power cut. A file's size grows with its blocks.
    fn after_crash(&self, random: &mut StdRng) -> Self {
        if self.is_emptied && random.random_bool(0.5) {
            return Self { synced: self.synced.clone(), content: self.synced.clone(), ..Self::default() };
        }
        let mut content = if self.is_emptied { Vec::new() } else { self.synced.clone() };
        let share = random.random_range(0.0..=1.0);
        for block in &self.dirty {
            if random.random_bool(share) {
                let range = block_range(*block, self.content.len());
                content.resize(content.len().max(range.end), 0);
                content[range.clone()].copy_from_slice(&self.content[range]);
            }
        }
        Self { synced: content.clone(), content, bad: self.bad.clone(), ..Self::default() }
    }
}

fn block_range(block: usize, size: usize) -> Range<usize> {
    let start = block * BLOCK_SIZE;
    start..(start + BLOCK_SIZE).min(size)
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        state.operate()?;
        state.fail_if(SimOp::Sync)?;
        state.tree.make_folders(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.inner.state.lock();
        state.access()?;
        state.tree.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.inner.state.lock();
        state.operate()?;
        if state.lacks_descriptors {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        // An existing file is emptied, which is visible through its other names too.
        if let Ok(inode) = state.tree.file(path) {
            state.files[inode].empty();
            return Ok(self.file(inode));
        }
        let inode = state.files.len();
        state.tree.name(path, inode)?;
        state.files.push(SimInode::default());
        Ok(self.file(inode))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.inner.state.lock();
        state.access()?;
        let inode = state.tree.file(path)?;
        Ok(self.file(inode))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn read_with_mode(&self, path: &Path) -> io::Result<(Vec<u8>, u32)> {
        let file = self.open(path)?;
        let mut bytes = vec![0; file.size()? as usize];
        file.read_at(&mut bytes, 0)?;
        Ok((bytes, PRIVATE))
    }

    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
        let mut state = self.inner.state.lock();
        state.access()?;
        Ok(state.tree.find(path).map(|node| match node {
            TreeNode::File(_) => FileKind::File,
            TreeNode::Folder(_) => FileKind::Folder,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        state.operate()?;
        state.tree.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        state.operate()?;
        state.tree.file(path)?;
        state.tree.remove(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        state.operate()?;
        let inode = state.tree.file(from)?;
        if state.tree.find(to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.tree.name(to, inode)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        for path in state.tree.walk(dir) {
            state.operate()?;
            state.tree.remove(&path)?;
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        state.operate()?;
        state.fail_if(SimOp::Sync)?;
        state.tree.sync_folder(dir)
    }
}

struct SimFile {
    inner: Arc<Inner>,
    inode: usize,
}

impl DiskFile for SimFile {
    fn identity(&self) -> io::Result<FileIdentity> {
        Ok((0, self.inode as u64))
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.inner.state.lock().files[self.inode].content.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        state.access()?;
        state.fail_if(SimOp::Read)?;
        let file = &state.files[self.inode];
        let end = offset as usize + bytes.len();
        if file.bad.range(offset as usize / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE)).next().is_some() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let found = file.content.get(offset as usize..end);
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        state.bytes_read += bytes.len() as u64;
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
        if let Err(error) = state.operate().and_then(|()| state.fail_if(SimOp::Sync)) {
            if !state.is_off() {
                state.files[self.inode].dirty.clear();
            }
            return Err(error);
        }
        state.files[self.inode].sync();
        Ok(())
    }

    fn map(&self) -> io::Result<Arc<dyn DiskMap>> {
        Ok(Arc::new(SimFile { inner: self.inner.clone(), inode: self.inode }))
    }
}

impl DiskMap for SimFile {
    fn read(&self, offset: u64, size: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; size];
        self.read_at(&mut bytes, offset)?;
        Ok(Bytes::from(bytes))
    }
}
