//! A run: the ids of consecutive journal entries in one immutable file, in order of hash. It is written once, then only
//! read.
//!
//! | part | size | content |
//! |---|---|---|
//! | pages | 4096 each | see the next table |
//! | fences | 8 each | hash of the first record of each page |
//! | filter | 64 × blocks | see `filter.rs` |
//! | footer | 128 | `shids001`, seed 3 × u64, records u64, pages u64, filter blocks u64, `after` u64, `last` u64, |
//! | | | 24 zero bytes, blake3(fences ‖ filter ‖ the 96 bytes before) |
//!
//! | offset in a page | size | content |
//! |---|---|---|
//! | 0 | 40 each | up to 102 records (`record.rs`), padding |
//! | 4080 | 4 | page number u32 |
//! | 4084 | 4 | record count u32 |
//! | 4088 | 8 | first 8 bytes of blake3(the 4088 bytes before) |
//!
//! All integers are little-endian. Fences and filter are in memory. A page is read with `pread` and checked every time.
//! A map would save that call, but only ids that are probably known get this far, and a damaged disk would cause a
//! SIGBUS instead of an error. A run does not know which other runs exist.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::StoreError;
use super::super::meta::bytes_at;
use super::filter::{BLOCK_SIZE, IdFilter};
use super::record::{IdHasher, IdRecord, RECORD_SIZE, StoredId};
use crate::data_folder::Span;
use crate::disk::{Disk, DiskFile, UnfinishedFile};
use crate::ids::{CommandId, JournalIndex};

const PAGE_SIZE: usize = 4096;
const PAGE_RECORDS: usize = 102;
const PAGE_TRAILER: usize = PAGE_RECORDS * RECORD_SIZE;
const PAGE_CHECKED: usize = PAGE_SIZE - 8;
const FOOTER_SIZE: usize = 128;
const FOOTER_CHECKED: usize = FOOTER_SIZE - 32;
const MAGIC: &[u8; 8] = b"shids001";
/// The pages that a reader of the whole run reads at once.
const READ_PAGES: u64 = 64;
/// The number of ids whose filter blocks are loaded together.
const ROUND: usize = 64;

pub struct IdRun {
    pub span: Span,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    count: u64,
    fences: Vec<u64>,
    filter: IdFilter,
}

impl IdRun {
    /// Opens a run and checks everything except its pages, which are checked whenever they are read.
    ///
    /// # Errors
    /// The file is missing, damaged, or not the one that `span` and `hasher` describe.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path, span: Span, hasher: &IdHasher) -> Result<Self, StoreError> {
        let path = span.path(dir);
        let read = || StoreError::io(&path, "read");
        let damaged = |what| StoreError::IdsDamaged { path: path.clone(), what };
        let file = disk.open_to_read(&path).map_err(read())?;
        let size = file.size().map_err(read())?;
        let footer_at = size.checked_sub(FOOTER_SIZE as u64).ok_or_else(|| damaged("the file is cut short"))?;
        let mut footer = [0; FOOTER_SIZE];
        file.read_at(&mut footer, footer_at).map_err(read())?;
        if !footer.starts_with(MAGIC) {
            return Err(damaged("the footer is missing"));
        }
        let [_, seed0, seed1, seed2, count, pages, blocks, after, last] =
            std::array::from_fn(|field| u64::from_le_bytes(bytes_at(&footer, field * 8)));
        let tables = pages.checked_mul(8).and_then(|fences| fences.checked_add(blocks.checked_mul(BLOCK_SIZE as u64)?));
        let pages_size = pages.checked_mul(PAGE_SIZE as u64);
        let stated = tables.zip(pages_size).and_then(|(tables, pages)| tables.checked_add(pages));
        if stated != Some(footer_at) || blocks == 0 {
            return Err(damaged("the footer does not fit the file"));
        }
        let tables_at = pages * PAGE_SIZE as u64;
        let mut tables = vec![0; (footer_at - tables_at) as usize];
        file.read_at(&mut tables, tables_at).map_err(read())?;
        let checksum = blake3::Hasher::new().update(&tables).update(&footer[..FOOTER_CHECKED]).finalize();
        if checksum.as_bytes()[..] != footer[FOOTER_CHECKED..] {
            return Err(damaged("the checksum of its footer is wrong"));
        }
        if [seed0, seed1, seed2] != hasher.seed || (JournalIndex(after), JournalIndex(last)) != (span.after, span.last)
        {
            return Err(damaged("it is not the run that the manifest names"));
        }
        let (fences, filter) = tables.split_at(pages as usize * 8);
        let fences = fences.as_chunks::<8>().0.iter().map(|raw| u64::from_le_bytes(*raw)).collect();
        Ok(Self { span, disk: disk.clone(), path, file, count, fences, filter: IdFilter::decode(filter) })
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn memory_size(&self) -> usize {
        self.fences.len() * size_of::<u64>() + self.filter.size()
    }

    pub fn disk_size(&self) -> u64 {
        (self.fences.len() * PAGE_SIZE + self.memory_size() + FOOTER_SIZE) as u64
    }

    pub fn verify(&self) -> Result<(), StoreError> {
        let mut count = 0;
        let mut records = RunRecords::new(self);
        while records.next_record()?.is_some() {
            count += 1;
        }
        if count == self.count { Ok(()) } else { Err(self.damaged("the number of records is wrong")) }
    }

    fn find(&self, hash: u64, id: &[u8; 16]) -> Result<Option<StoredId>, StoreError> {
        // Records of one hash may start at the end of the page before the first one that begins with it.
        let first = self.fences.partition_point(|fence| *fence < hash).saturating_sub(1);
        let mut page = [0; PAGE_SIZE];
        for number in first..self.fences.len() {
            if hash < self.fences[number] {
                break;
            }
            self.read_pages(number as u64, &mut page)?;
            let records = self.checked_page(number as u64, &page)?;
            if let Some(raw) = records.iter().find(|raw| raw.starts_with(id)) {
                return Ok(Some(StoredId::decode(raw)));
            }
        }
        Ok(None)
    }

    fn read_pages(&self, first: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let read = self.file.read_at(out, first * PAGE_SIZE as u64);
        read.map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => self.damaged("the file is cut short"),
            _ => StoreError::io(&self.path, "read")(source),
        })
    }

    fn checked_page<'a>(&self, number: u64, page: &'a [u8]) -> Result<&'a [[u8; RECORD_SIZE]], StoreError> {
        let stated = u64::from(u32::from_le_bytes(bytes_at(page, PAGE_TRAILER)));
        let count = u32::from_le_bytes(bytes_at(page, PAGE_TRAILER + 4)) as usize;
        let is_right = checksum(page) == page[PAGE_CHECKED..] && stated == number && count <= PAGE_RECORDS;
        if !is_right {
            return Err(self.damaged("the checksum of a page is wrong"));
        }
        Ok(&page.as_chunks::<RECORD_SIZE>().0[..count])
    }

    fn damaged(&self, what: &'static str) -> StoreError {
        // Renamed, so that the next start finds the run missing and records its ids again. If the rename fails, the
        // next lookup fails as well and reports it again.
        let _ = self.disk.rename(&self.path, &self.path.with_extension("damaged"));
        tracing::error!(path = %self.path.display(), what, "id index: a run is damaged");
        StoreError::IdsDamaged { path: self.path.clone(), what }
    }
}

/// Asks the runs, newest first, for the ids that have no answer in `out` yet.
pub fn find_batch(
    runs: &[Arc<IdRun>],
    hasher: &IdHasher,
    ids: &[CommandId],
    out: &mut [Option<IdRecord>],
) -> Result<(), StoreError> {
    for (ids, out) in ids.chunks(ROUND).zip(out.chunks_mut(ROUND)) {
        let mut hashes = [0; ROUND];
        for (hash, id) in hashes.iter_mut().zip(ids) {
            *hash = hasher.hash(&id.0);
        }
        let hashes = &hashes[..ids.len()];
        if let Some(newest) = runs.last() {
            hashes.iter().for_each(|hash| newest.filter.prefetch(*hash));
        }
        for (at, run) in runs.iter().enumerate().rev() {
            // The lines of the next run are loaded while this one is tested.
            if let Some(next) = at.checked_sub(1).map(|next| &runs[next]) {
                hashes.iter().for_each(|hash| next.filter.prefetch(*hash));
            }
            for ((hash, id), out) in hashes.iter().zip(ids).zip(out.iter_mut()) {
                if out.is_none() && run.filter.may_contain(*hash) {
                    *out = run.find(*hash, &id.0)?.map(StoredId::to_id_record);
                }
            }
        }
    }
    Ok(())
}

/// All records of a run in order, with every page checked.
pub struct RunRecords<'a> {
    run: &'a IdRun,
    buffer: Vec<u8>,
    buffer_first: u64,
    page: u64,
    at: usize,
}

impl<'a> RunRecords<'a> {
    pub fn new(run: &'a IdRun) -> Self {
        Self { run, buffer: Vec::new(), buffer_first: 0, page: 0, at: 0 }
    }

    pub fn next_record(&mut self) -> Result<Option<StoredId>, StoreError> {
        let pages = self.run.fences.len() as u64;
        while self.page < pages {
            let offset = (self.page - self.buffer_first) as usize * PAGE_SIZE;
            if self.at == 0 {
                if offset == self.buffer.len() {
                    self.buffer.resize((pages - self.page).min(READ_PAGES) as usize * PAGE_SIZE, 0);
                    self.buffer_first = self.page;
                    self.run.read_pages(self.page, &mut self.buffer)?;
                    continue;
                }
                self.run.checked_page(self.page, &self.buffer[offset..][..PAGE_SIZE])?;
            }
            let page = &self.buffer[offset..][..PAGE_SIZE];
            let count = u32::from_le_bytes(bytes_at(page, PAGE_TRAILER + 4)) as usize;
            if self.at < count {
                self.at += 1;
                return Ok(Some(StoredId::decode(&page.as_chunks::<RECORD_SIZE>().0[self.at - 1])));
            }
            self.page += 1;
            self.at = 0;
        }
        Ok(None)
    }
}

/// Writes a run under a temporary name first, so that a file with the name of a run is complete.
pub struct RunWriter {
    span: Span,
    hasher: IdHasher,
    disk: Arc<dyn Disk>,
    file: BufWriter<UnfinishedFile>,
    page: Vec<u8>,
    fences: Vec<u64>,
    filter: IdFilter,
    count: u64,
    hash_before: u64,
}

impl RunWriter {
    /// `count_max` determines the size of the filter.
    pub fn create(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        span: Span,
        hasher: &IdHasher,
        count_max: u64,
    ) -> Result<Self, StoreError> {
        let aside = span.path(dir).with_extension("new");
        let file = UnfinishedFile::create(disk.clone(), aside.clone()).map_err(StoreError::io(&aside, "created"))?;
        Ok(Self {
            disk: disk.clone(),
            span,
            hasher: *hasher,
            file: BufWriter::with_capacity(READ_PAGES as usize * PAGE_SIZE, file),
            page: Vec::with_capacity(PAGE_SIZE),
            fences: Vec::new(),
            filter: IdFilter::for_count(count_max),
            count: 0,
            hash_before: 0,
        })
    }

    /// Adds a record. Hashes must not decrease.
    pub fn push(&mut self, hash: u64, record: &StoredId) -> Result<(), StoreError> {
        assert!(self.hash_before <= hash, "records come in order of hash");
        self.hash_before = hash;
        if self.page.is_empty() {
            self.fences.push(hash);
        }
        self.page.extend_from_slice(&record.encode());
        self.filter.insert(hash);
        self.count += 1;
        if self.page.len() == PAGE_TRAILER { self.finish_page() } else { Ok(()) }
    }

    fn finish_page(&mut self) -> Result<(), StoreError> {
        let count = (self.page.len() / RECORD_SIZE) as u32;
        let number = u32::try_from(self.fences.len() - 1).expect("2^32 pages are 16 TiB of ids");
        self.page.resize(PAGE_TRAILER, 0);
        self.page.extend_from_slice(&number.to_le_bytes());
        self.page.extend_from_slice(&count.to_le_bytes());
        let checksum = checksum(&self.page);
        self.page.extend_from_slice(&checksum);
        self.file.write_all(&self.page).map_err(StoreError::io(self.file.get_ref().path(), "written"))?;
        self.page.clear();
        Ok(())
    }

    /// The run is durable under its name on return.
    pub fn finish(mut self, dir: &Path) -> Result<IdRun, StoreError> {
        if !self.page.is_empty() {
            self.finish_page()?;
        }
        let tables =
            [self.fences.iter().flat_map(|fence| fence.to_le_bytes()).collect(), self.filter.encode()].concat();
        let mut footer = MAGIC.to_vec();
        let blocks = (self.filter.size() / BLOCK_SIZE) as u64;
        let sizes = [self.count, self.fences.len() as u64, blocks, self.span.after.0, self.span.last.0];
        self.hasher.seed.iter().chain(&sizes).for_each(|field| footer.extend_from_slice(&field.to_le_bytes()));
        footer.resize(FOOTER_CHECKED, 0);
        let checksum = blake3::Hasher::new().update(&tables).update(&footer).finalize();
        footer.extend_from_slice(checksum.as_bytes());
        let path = self.span.path(dir);
        let written = || StoreError::io(&path, "written");
        self.file.write_all(&tables).map_err(written())?;
        self.file.write_all(&footer).map_err(written())?;
        let file = self.file.into_inner().map_err(|error| written()(error.into_error()))?;
        file.sync().map_err(written())?;
        fail::fail_point!("ids::before_run_rename", |_| std::process::abort());
        let file = file.name(&path).map_err(StoreError::io(&path, "renamed"))?;
        fail::fail_point!("ids::after_run_rename", |_| std::process::abort());
        Ok(IdRun {
            span: self.span,
            disk: self.disk,
            path,
            file,
            count: self.count,
            fences: self.fences,
            filter: self.filter,
        })
    }
}

fn checksum(page: &[u8]) -> [u8; 8] {
    *blake3::hash(&page[..PAGE_CHECKED]).as_bytes().first_chunk().expect("a hash has 32 bytes")
}
