//! Logs for these tests: on the machine's own disk, and on one in memory that can stall, fail, fill up and lose power.
//!
//! The memory disk loses *all* that was not synced, and can be copied as it would be after a power cut while it keeps
//! running. These tests need that. `log/` tests its recovery with `SimDisk`, which loses a random part.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::disk::{Disk, DiskFile, DiskMap, FileIdentity, FileKind, RealDisk};
use crate::ids::PartitionId;
use crate::log::{Log, LogOptions, StreamId};

pub const FOLDER: &str = "/wallet/0/log";

pub fn real_log(folder: &Path) -> Log {
    Log::open(Arc::new(RealDisk), folder, options()).expect("nobody damages the files of these tests")
}

/// A log with small segments, so that tests fill them.
pub fn log_on(disk: &(impl Disk + Clone)) -> Log {
    let options = LogOptions { segment_bytes_min: 64 << 10, segment_bytes_max: 1 << 20, ..options() };
    Log::open(Arc::new(disk.clone()), Path::new(FOLDER), options).expect("what was synced is sound")
}

fn options() -> LogOptions {
    let stream = StreamId::new("wallet", PartitionId(0)).expect("the name is short enough");
    LogOptions { spare_retry: Duration::from_millis(10), ..LogOptions::new(stream) }
}

#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<SharedDisk>);

#[derive(Default)]
struct SharedDisk {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    syncs_held: bool,
    syncs_fail: bool,
    full: bool,
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

impl MemoryDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// Syncs that have not returned yet, and later ones, wait for [`MemoryDisk::release_syncs`].
    pub fn hold_syncs(&self) {
        self.0.state.lock().syncs_held = true;
    }

    pub fn release_syncs(&self) {
        self.0.state.lock().syncs_held = false;
        self.0.released.notify_all();
    }

    pub fn fail_syncs(&self) {
        self.0.state.lock().syncs_fail = true;
    }

    /// No file can grow while the disk is full.
    pub fn fill(&self, full: bool) {
        self.0.state.lock().full = full;
    }

    /// A disk with what was synced on this one.
    pub fn after_power_loss(&self) -> Self {
        let state = self.0.state.lock();
        let synced = state.files.iter().map(|(path, content)| {
            let synced = content.lock().synced.clone();
            (path.clone(), Arc::new(Mutex::new(Content { now: synced.clone(), synced })))
        });
        let state = State { files: synced.collect(), ..State::default() };
        Self(Arc::new(SharedDisk { state: Mutex::new(state), released: Condvar::new() }))
    }

    fn file(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.0.state.lock().files.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), content }))
    }
}

impl Disk for MemoryDisk {
    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
        Ok(self.0.state.lock().files.contains_key(path).then_some(FileKind::File))
    }

    fn read_with_mode(&self, _path: &Path) -> io::Result<(Vec<u8>, u32)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.state.lock();
        let inside = state.files.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.state.lock().files.insert(path.to_owned(), Arc::default());
        self.file(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.file(path)
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.state.lock();
        let content = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.state.lock().files.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.state.lock().files.retain(|path, _| !path.starts_with(dir));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    content: Arc<Mutex<Content>>,
}

impl DiskFile for MemoryFile {
    fn identity(&self) -> io::Result<FileIdentity> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.content.lock().now.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let content = self.content.lock();
        let found = content.now.get(offset as usize..offset as usize + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let full = self.disk.0.state.lock().full;
        let mut content = self.content.lock();
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if content.now.len() < end {
            if full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            content.now.resize(end, 0);
        }
        content.now[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.state.lock();
        while state.syncs_held {
            self.disk.0.released.wait(&mut state);
        }
        if state.syncs_fail {
            return Err(io::Error::other("the device is gone"));
        }
        let mut content = self.content.lock();
        content.synced = content.now.clone();
        Ok(())
    }

    fn map(&self) -> io::Result<Arc<dyn DiskMap>> {
        Ok(Arc::new(MemoryMap(self.content.clone())))
    }
}

struct MemoryMap(Arc<Mutex<Content>>);

impl DiskMap for MemoryMap {
    fn read(&self, offset: u64, size: usize) -> io::Result<Bytes> {
        let content = self.0.lock();
        let found = content.now.get(offset as usize..offset as usize + size).map(Bytes::copy_from_slice);
        found.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
