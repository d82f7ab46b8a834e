//! RocksDB as it is used here: one column family, no WAL and no memtable. Every write is one sorted file that is built
//! separately and ingested, so rows and meta row appear together and are durable at once, and a crash leaves a prefix
//! of the writes.
//!
//! | key on disk | value |
//! |---|---|
//! | `0x00` | the meta row, see `meta.rs` |
//! | `0x01 ‖ row key` | the row |
//!
//! This file does not know the hot table, nor when something is written.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DBCompressionType, DBPinnableSlice,
    DBRawIteratorWithThreadMode, DBWithThreadMode, IngestExternalFileOptions, MultiThreaded, Options,
    SnapshotWithThreadMode, SstFileWriter,
};

use super::StoreError;
use super::delta::Delta;
use super::faults::StoreFaults;
use super::meta::Meta;
use super::replace::{META_FILE, ROWS_FILE};
use crate::durable;

pub(super) type Db = DBWithThreadMode<MultiThreaded>;

pub(super) const META_KEY: &[u8] = &[0];
pub(super) const ROW_PREFIX: u8 = 1;
const COLUMN_FAMILY: &str = "default";
const BLOCK_SIZE: usize = 8 << 10;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// Open files that a partition may keep. Many partitions share the process's limit.
const OPEN_FILES_MAX: i32 = 256;
const BACKGROUND_JOBS_MAX: i32 = 2;
/// An empty file which says that a checksum failed in this folder.
const DAMAGED_MARK: &str = "damaged";

/// Resources that all partitions of a process share, so that memory has one limit and not one for each partition.
#[derive(Clone)]
pub struct StoreShared {
    block_cache: Cache,
    faults: StoreFaults,
}

impl StoreShared {
    /// `block_cache_bytes` limits the blocks, filters and indexes read from disk, over all partitions.
    pub fn new(block_cache_bytes: usize) -> Self {
        Self { block_cache: Cache::new_lru_cache(block_cache_bytes), faults: StoreFaults::default() }
    }

    /// The same, with calls that fail as `faults` says.
    #[must_use]
    pub fn with_faults(self, faults: StoreFaults) -> Self {
        Self { faults, ..self }
    }
}

pub struct StoreDisk {
    db: Db,
    dir: PathBuf,
    options: Options,
    faults: StoreFaults,
    ingest_path: PathBuf,
    /// Whether rows are read back after they were written.
    paranoid: bool,
    /// A checksum has failed since the store was opened.
    is_damaged: AtomicBool,
    /// Dropped after `db`, because it is declared after it.
    open: Arc<()>,
}

impl StoreDisk {
    pub fn open(dir: &Path, shared: &StoreShared, paranoid: bool) -> Result<Self, StoreError> {
        let options = options(shared);
        durable::create_dir_all(dir).map_err(StoreError::io(dir, "created"))?;
        if dir.join(DAMAGED_MARK).exists() {
            return Err(StoreError::Damaged { path: dir.to_owned() });
        }
        let ingest_path = dir.join("ingest.sst");
        remove_if_there(&ingest_path)?;
        // The process ended during a migration. Its entry is applied again.
        remove_if_there(&dir.join(ROWS_FILE))?;
        remove_if_there(&dir.join(META_FILE))?;
        shared.faults.check(dir, "opened")?;
        let family = ColumnFamilyDescriptor::new(COLUMN_FAMILY, options.clone());
        let db = Db::open_cf_descriptors(&options, dir.join("rocks"), [family])
            .map_err(|source| StoreError::Open { path: dir.to_owned(), source })?;
        // RocksDB makes the names in its own folder durable, and not that of the folder.
        durable::sync_dir(dir).map_err(StoreError::io(dir, "synced"))?;
        Ok(Self {
            db,
            dir: dir.to_owned(),
            options,
            faults: shared.faults.clone(),
            ingest_path,
            paranoid,
            is_damaged: AtomicBool::new(false),
            open: Arc::default(),
        })
    }

    /// Opens for reading only: nothing in the folder changes.
    pub fn open_to_read(dir: &Path, shared: &StoreShared) -> Result<Self, StoreError> {
        let options = options(shared);
        shared.faults.check(dir, "opened")?;
        let family = ColumnFamilyDescriptor::new(COLUMN_FAMILY, options.clone());
        let db = Db::open_cf_descriptors_read_only(&options, dir.join("rocks"), [family], false)
            .map_err(|source| StoreError::Open { path: dir.to_owned(), source })?;
        let ingest_path = dir.join("ingest.sst");
        Ok(Self {
            db,
            dir: dir.to_owned(),
            options,
            faults: shared.faults.clone(),
            ingest_path,
            paranoid: false,
            is_damaged: AtomicBool::new(false),
            open: Arc::default(),
        })
    }

    /// The mark is gone once the database is closed.
    pub(super) fn open_mark(&self) -> Weak<()> {
        Arc::downgrade(&self.open)
    }

    /// Whether a checksum has failed since the store was opened.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    pub(super) fn db(&self) -> &Db {
        &self.db
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn write_failed(&self, source: rocksdb::Error) -> StoreError {
        self.note_damage(StoreError::Write { source })
    }

    fn family(&self) -> Arc<BoundColumnFamily<'_>> {
        self.db.cf_handle(COLUMN_FAMILY).expect("the default column family was named when opening")
    }

    pub fn meta(&self) -> Result<Option<Meta>, StoreError> {
        self.check_fault("read")?;
        let raw = self.db.get_pinned(META_KEY).map_err(|source| self.read_failed(source))?;
        raw.map(|raw| Meta::decode(&raw)).transpose()
    }

    /// The newest rows of many keys; `None` for a key without a row.
    pub fn rows<'a>(
        &'a self,
        keys: &[&[u8]],
    ) -> impl Iterator<Item = Result<Option<DBPinnableSlice<'a>>, StoreError>> + use<'a> {
        let disk_keys: Vec<Vec<u8>> = keys.iter().map(|key| disk_key(key)).collect();
        // Reading a row that nobody has read for long may open the file of its table.
        let read = || self.db.batched_multi_get_cf(&self.family(), &disk_keys, false);
        let is_scarce =
            |row: &Result<_, rocksdb::Error>| row.as_ref().is_err_and(|error| durable::says_scarcity(error.as_ref()));
        let rows = durable::patiently("reading rows", read, |rows| rows.iter().any(is_scarce));
        // The rows are pinned in blocks of the database, which `self` keeps open. They do not borrow the family.
        rows.into_iter().map(|row| {
            self.check_fault("read")?;
            row.map_err(|source| self.read_failed(source))
        })
    }

    /// Here a test makes the next call fail, before the call does anything.
    pub(super) fn check_fault(&self, action: &'static str) -> Result<(), StoreError> {
        self.faults.check(&self.dir, action)
    }

    /// A failed checksum is recorded on disk. Opening the store again is then refused, so that the caller rebuilds it.
    fn note_damage(&self, error: StoreError) -> StoreError {
        if error.is_damage() {
            self.is_damaged.store(true, Ordering::Relaxed);
            let mark = self.dir.join(DAMAGED_MARK);
            tracing::error!(
                dir = %self.dir.display(), ?error, "state store: damaged; it is made again when it is opened"
            );
            // A disk that fails may not make it durable, and the mark is of use until the power goes off all the same.
            let noted = durable::write(&self.dir, DAMAGED_MARK, durable::PRIVATE, b"");
            if let Err(error) = noted.or_else(|_| durable::create(&mark).map(drop)) {
                tracing::error!(path = %mark.display(), %error, "state store: the damage could not be noted");
            }
        }
        error
    }

    fn read_failed(&self, source: rocksdb::Error) -> StoreError {
        self.note_damage(StoreError::Read { source })
    }

    /// Writes the delta and its meta row as one: after a crash all of it is there or nothing. Everything is durable on
    /// return. After an error it is unknown which of the two is true. Writing the same or a later delta again is right
    /// in both cases.
    pub fn write(&self, delta: &Delta) -> Result<(), StoreError> {
        let result = self.build(delta).and_then(|()| {
            fail::fail_point!("store::before_ingest", |_| std::process::abort());
            self.ingest()
        });
        if result.is_err() {
            // Best effort: a leftover costs space until the next write or start, but never correctness.
            let _ = std::fs::remove_file(&self.ingest_path);
        }
        fail::fail_point!("store::after_ingest", |_| std::process::abort());
        if self.paranoid && result.is_ok() {
            self.read_back(delta)?;
        }
        result.map_err(|error| self.note_damage(error))
    }

    fn read_back(&self, delta: &Delta) -> Result<(), StoreError> {
        let rows = || (0..delta.count()).map(|at| delta.nth(at).expect("below its count"));
        let keys: Vec<&[u8]> = rows().map(|(key, _)| key).collect();
        for ((key, row), on_disk) in rows().zip(self.rows(&keys)) {
            assert_eq!(on_disk?.as_deref(), row, "row {key:?} is on disk as it was written");
        }
        assert_eq!(self.meta()?.as_ref(), Some(&delta.meta));
        Ok(())
    }

    /// Copies what is on disk now into a new folder. It uses hard links, so it costs no space until rows change here.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), StoreError> {
        let failed = |source| StoreError::Write { source };
        durable::create_dir_all(dir).map_err(StoreError::io(dir, "created"))?;
        self.check_fault("copied")?;
        let checkpoint = Checkpoint::new(&self.db).map_err(failed)?;
        checkpoint.create_checkpoint(dir.join("rocks")).map_err(failed)
    }

    fn build(&self, delta: &Delta) -> Result<(), StoreError> {
        fail::fail_point!("store-disk-full", |_| Err(StoreError::NoSpace { path: self.ingest_path.clone() }));
        let failed = |source| StoreError::Write { source };
        remove_if_there(&self.ingest_path)?;
        self.check_fault("written")?;
        let mut writer = SstFileWriter::create(&self.options);
        writer.open(&self.ingest_path).map_err(failed)?;
        writer.put(META_KEY, delta.meta.encode()).map_err(failed)?;
        let mut key_on_disk = vec![ROW_PREFIX];
        for at in 0..delta.count() {
            let (key, row) = delta.nth(at).expect("below its count");
            key_on_disk.truncate(1);
            key_on_disk.extend_from_slice(key);
            match row {
                Some(row) => writer.put(&key_on_disk, row),
                None => writer.delete(&key_on_disk),
            }
            .map_err(failed)?;
        }
        self.check_fault("written")?;
        writer.finish().map_err(failed)
    }

    fn ingest(&self) -> Result<(), StoreError> {
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.check_fault("written")?;
        let ingested = self.db.ingest_external_file_opts(&options, vec![&self.ingest_path]);
        ingested.map_err(|source| StoreError::Write { source })?;
        // Here the write is done, but the caller gets an error.
        self.check_fault("written")
    }
}

/// The rows on disk at one moment, while this exists.
pub struct DiskSnapshot {
    // INVARIANT: declared before `disk`, so dropped before it.
    snapshot: SnapshotWithThreadMode<'static, Db>,
    disk: Arc<StoreDisk>,
}

impl DiskSnapshot {
    pub fn new(disk: Arc<StoreDisk>) -> Self {
        let snapshot = disk.db.snapshot();
        // SAFETY: the snapshot borrows the database inside the Arc, whose address never changes and which the field
        // beside it keeps alive until after the snapshot is dropped. The borrow never leaves this type.
        let snapshot = unsafe {
            std::mem::transmute::<SnapshotWithThreadMode<'_, Db>, SnapshotWithThreadMode<'static, Db>>(snapshot)
        };
        Self { snapshot, disk }
    }

    pub fn row(&self, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, StoreError> {
        self.disk.check_fault("read")?;
        self.snapshot.get_pinned(disk_key(key)).map_err(|source| self.disk.read_failed(source))
    }

    /// Rows in order of key, from the first that is not below `start`.
    pub fn rows_from(&self, start: &[u8]) -> DiskRows<'_> {
        let mut rows = self.snapshot.raw_iterator();
        rows.seek(disk_key(start));
        DiskRows { rows, disk: &self.disk }
    }
}

/// A cursor over rows on disk.
pub struct DiskRows<'a> {
    rows: DBRawIteratorWithThreadMode<'a, Db>,
    disk: &'a StoreDisk,
}

/// A key and its row.
pub type BorrowedRow<'a> = (&'a [u8], &'a [u8]);

impl DiskRows<'_> {
    /// The row under the cursor; `None` beyond the last.
    pub fn current(&self) -> Result<Option<BorrowedRow<'_>>, StoreError> {
        self.disk.check_fault("read")?;
        match self.rows.item() {
            Some((key, row)) => Ok(key.split_first().map(|(_, key)| (key, row))),
            None => self.rows.status().map(|()| None).map_err(|source| self.disk.read_failed(source)),
        }
    }

    pub fn step(&mut self) {
        self.rows.next();
    }
}

fn disk_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(ROW_PREFIX);
    out.extend_from_slice(key);
    out
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io(path, "removed")(error)),
        _ => Ok(()),
    }
}

pub(super) fn options(shared: &StoreShared) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&shared.block_cache);
    blocks.set_block_size(BLOCK_SIZE);
    blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    // Filters and indexes count towards the cache, so the cache bounds the memory of an open database.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_background_jobs(BACKGROUND_JOBS_MAX);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_bytes_per_sync(1 << 20);
    options.set_keep_log_file_num(4);
    options.set_stats_dump_period_sec(0);
    options.set_paranoid_checks(true);
    options
}
