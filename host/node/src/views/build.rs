//! One build of a view: the rows that one module makes of the journals, and how far it has followed each partition.
//!
//! | key | row |
//! |---|---|
//! | `0 ‖ partition u32` | the cursor, see `cursor.rs` |
//! | `1 ‖ partition u32 ‖ key` | a row of the view |
//!
//! Partition numbers are big-endian. What this node's log has released is read from the archive, if there is one. A
//! batch of rows and the cursor after it are written atomically, so a crash leaves the view as it was at its cursor.
//! Every partition's rows depend on its journal alone: two builds at the same cursors are the same. It does not know
//! which build serves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use statehouse_abi::cold::Row;
use statehouse_abi::key::split_key;
use statehouse_projection::abi::{Decision, ProjectIn, ProjectOut};
use tokio::time::Instant;

use crate::ids::{JournalIndex, LogIndex, PartitionId};
use crate::limits::{GUEST_INPUT_BYTES_MAX, KEY_BYTES_MAX, ROW_BYTES_MAX, VIEW_BATCH_DECISIONS, VIEW_ROUNDS_MAX};
use crate::machine::logic::{Fault, Logic, ViewLogic};
use crate::machine::modules::Modules;
use crate::partition::tail::{Bound, Gap, Read, log_index_of};
use crate::partition::{Partition, PartitionError};
use crate::sequencer::submission::RecordedEntry;
use crate::store::{OrderedStore, StoreShared};
use crate::views::cursor::ViewCursor;
use crate::views::decisions::decisions;
use crate::views::error::ViewError;

/// How much of a journal is followed at a time.
const READ: Bound = Bound { bytes: 2 << 20, entries: u64::MAX };
const CURSOR: u8 = 0;
const ROW: u8 = 1;

/// The result of a read that may have waited for the archive.
pub type ReadResult = Result<Read, PartitionError>;

pub struct Build {
    pub logic: Arc<dyn Logic>,
    pub number: u64,
    pub store: OrderedStore,
    cursors: Mutex<BTreeMap<PartitionId, ViewCursor>>,
    /// The replicas whose history is known to contain the cursor.
    attached: Mutex<BTreeMap<PartitionId, Weak<Partition>>>,
    /// Why it has stopped, or does not continue for now.
    pub problem: Mutex<Option<BuildProblem>>,
    /// Until when the archive is not asked again.
    pub rests_until: Mutex<Option<Instant>>,
}

/// What keeps a build from continuing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildProblem {
    pub text: String,
    /// It lasts until the build is made again.
    pub is_final: bool,
}

/// How many rows are read before their size is checked.
const ROWS_AT_ONCE: usize = 256;

/// Decisions, and the cursor after each.
#[derive(Default)]
struct DecisionBatch {
    decisions: Vec<Decision>,
    cursors: Vec<ViewCursor>,
}

impl DecisionBatch {
    /// Splits the second half off.
    fn split(&mut self) -> Self {
        let at = self.decisions.len() / 2;
        Self { decisions: self.decisions.split_off(at), cursors: self.cursors.split_off(at) }
    }
}

impl Build {
    pub fn open(dir: &Path, shared: &StoreShared, logic: Arc<dyn Logic>, number: u64) -> Result<Self, ViewError> {
        let store = OrderedStore::open(dir, shared)?;
        let cursors = Mutex::new(store.read(read_cursors)?);
        let (attached, problem, rests_until) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { logic, number, store, cursors, attached, problem, rests_until })
    }

    /// Whether it is the build of this number by this module.
    pub fn is(&self, logic: &Arc<dyn Logic>, number: u64) -> bool {
        (self.logic.id(), self.number) == (logic.id(), number)
    }

    /// How far it has followed the partition; `None` if it has not begun.
    pub fn cursor(&self, partition: PartitionId) -> Option<ViewCursor> {
        self.cursors.lock().get(&partition).copied()
    }

    /// Follows the partition for a while; returns whether there was anything to follow. `wait` waits for the archive if
    /// the log has released what follows.
    pub fn step(
        &self,
        partition: &Arc<Partition>,
        modules: &dyn Modules,
        wait: impl FnOnce(BoxFuture<'_, ReadResult>) -> ReadResult,
    ) -> Result<bool, ViewError> {
        let Some(mut at) = self.attach(partition)? else { return Ok(false) };
        let (id, before, applied) = (partition.id(), at, partition.progress());
        if applied.log_index < at.log_next {
            return Ok(false);
        }
        let (reader, wanted) = (partition.reader(), at.index.next());
        let read = reader.read_waiting(at.place(), &applied, READ, wait).map_err(|error| match error {
            PartitionError::Released { .. } => not_here(id, wanted, reader.gap_at(wanted)),
            PartitionError::OtherHistory(place) => ViewError::OtherHistory { partition: id, index: place.index },
            error => error.into(),
        });
        let (place, entries) = read?;
        let mut batch = DecisionBatch::default();
        for recorded in &entries {
            if recorded.entry.header().parent != at.head {
                return Err(ViewError::OtherHistory { partition: id, index: at.index });
            }
            at = self.take(id, recorded, at, modules, &mut batch)?;
        }
        at.log_next = place.log_next().unwrap_or(LogIndex(0));
        if at == before {
            return Ok(false);
        }
        self.write(id, batch, at)?;
        Ok(true)
    }

    /// Adds an effective entry to the batch, and writes the batch when it is large. Returns the cursor after the entry.
    fn take(
        &self,
        partition: PartitionId,
        recorded: &RecordedEntry,
        before: ViewCursor,
        modules: &dyn Modules,
        batch: &mut DecisionBatch,
    ) -> Result<ViewCursor, ViewError> {
        let header = recorded.entry.header();
        let log_next = log_index_of(recorded).map_or(LogIndex(0), |index| index.next());
        let (index, time, head) = (header.index, header.time, recorded.head());
        let behind = ViewCursor { log_next, index, time, head, commands: 0 };
        let count = recorded.entry.batch().map_or(0, |batch| batch.command_count() as u32);
        if count == before.commands {
            return Ok(behind);
        }
        let load = |reason| ViewError::Module { module: header.decider, reason };
        let logic = modules.load(header.decider).map_err(load)?;
        let mut next = before.commands;
        while next < count {
            let room = VIEW_BATCH_DECISIONS.saturating_sub(batch.decisions.len()).max(1) as u32;
            let end = count.min(next + room);
            let told = decisions(recorded, partition, next..end, logic.as_ref())?;
            let cursor = |done: u32| if done == count { behind } else { ViewCursor { commands: done, ..before } };
            batch.decisions.extend(told);
            batch.cursors.extend((next + 1..=end).map(cursor));
            next = end;
            if VIEW_BATCH_DECISIONS <= batch.decisions.len() {
                let full = std::mem::take(batch);
                let at = full.cursors.last().copied().unwrap_or(before);
                self.write(partition, full, at)?;
            }
        }
        Ok(behind)
    }

    /// The cursor, once it is known to lie in this replica's history; `None` while the replica has not caught up with
    /// it.
    fn attach(&self, partition: &Arc<Partition>) -> Result<Option<ViewCursor>, ViewError> {
        let id = partition.id();
        let Some(mut cursor) = self.cursor(id) else { return Ok(Some(ViewCursor::genesis(&partition.genesis()))) };
        let is_same = |known: &Weak<Partition>| std::ptr::eq(known.as_ptr(), Arc::as_ptr(partition));
        if self.attached.lock().get(&id).is_some_and(is_same) {
            return Ok(Some(cursor));
        }
        if partition.progress().journal.index < cursor.index {
            return Ok(None);
        }
        if cursor.index != partition.genesis().index {
            match partition.find_entry(cursor.index) {
                // The same entry may have another place in the log of a node that was set up anew.
                Ok(recorded) if recorded.head() == cursor.head => cursor.log_next = recorded.log_index.next(),
                Ok(_) => return Err(ViewError::OtherHistory { partition: id, index: cursor.index }),
                // The parent of the next entry shows whether it continues from here, wherever that entry is read.
                Err(PartitionError::Released { .. }) => cursor.log_next = LogIndex(0),
                Err(error) => return Err(error.into()),
            }
        } else if cursor.head != partition.genesis().head {
            return Err(ViewError::OtherHistory { partition: id, index: cursor.index });
        }
        self.attached.lock().insert(id, Arc::downgrade(partition));
        Ok(Some(cursor))
    }

    /// Writes what the view makes of the batch, and the cursor `at` after it.
    fn write(&self, partition: PartitionId, mut batch: DecisionBatch, at: ViewCursor) -> Result<(), ViewError> {
        assert!(batch.decisions.len() == batch.cursors.len());
        match self.project(partition, &mut batch.decisions) {
            Ok(Some(writes)) => {
                fail::fail_point!("views::before_write", |_| std::process::abort());
                let rows = writes.into_iter().map(|row| (row_key(partition, &row.key), row.row));
                let cursor = (cursor_key(partition), Some(at.encode()));
                self.store.write(rows.chain([cursor]))?;
                fail::fail_point!("views::after_write", |_| std::process::abort());
                self.cursors.lock().insert(partition, at);
                Ok(())
            }
            // Write each half on its own, down to the decision that is to blame.
            Ok(None) | Err(ViewError::Failed { .. }) if 1 < batch.decisions.len() => {
                let right = batch.split();
                let between = batch.cursors.last().copied().unwrap_or(at);
                self.write(partition, batch, between)?;
                self.write(partition, right, at)
            }
            Ok(None) => {
                let position = batch.decisions.first().map(|decision| decision.position(0)).unwrap_or_default();
                let text = format!("it still needs rows after {VIEW_ROUNDS_MAX} rounds");
                Err(ViewError::Failed { position, text })
            }
            Err(error) => Err(error),
        }
    }

    /// The view's row writes; `None` if it asks for rows too often, or for too many.
    fn project(&self, partition: PartitionId, decisions: &mut Vec<Decision>) -> Result<Option<Vec<Row>>, ViewError> {
        if decisions.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let mut input = ProjectIn { decisions: std::mem::take(decisions), rows: Vec::new() };
        let projected = self.project_all(partition, &mut input);
        *decisions = input.decisions;
        projected
    }

    pub fn view(&self) -> Result<&dyn ViewLogic, Fault> {
        self.logic.view().ok_or_else(|| Fault::output("it is a module and no view"))
    }

    fn project_all(&self, partition: PartitionId, input: &mut ProjectIn) -> Result<Option<Vec<Row>>, ViewError> {
        let decisions = &input.decisions;
        let position = decisions.first().map(|decision| decision.position(0)).unwrap_or_default();
        let count = decisions.len();
        let failed = |text| ViewError::Failed { position: position.clone(), text };
        for _ in 0..VIEW_ROUNDS_MAX {
            match self.view().and_then(|view| view.project(input)) {
                Ok(ProjectOut::Need(keys)) => {
                    let mut keys: Vec<Vec<u8>> = keys.into_iter().map(|key| key.0).collect();
                    keys.sort();
                    keys.dedup();
                    keys.retain(|key| input.rows.binary_search_by(|row| row.key.cmp(key)).is_err());
                    let disk_keys: Vec<Vec<u8>> = keys.iter().map(|key| row_key(partition, key)).collect();
                    let mut size: usize = input.rows.iter().map(bytes_of).sum();
                    let mut rows = Vec::with_capacity(disk_keys.len().min(ROWS_AT_ONCE));
                    for some in disk_keys.chunks(ROWS_AT_ONCE) {
                        rows.extend(self.store.rows(some)?);
                        size += rows[rows.len() - some.len()..].iter().flatten().map(Vec::len).sum::<usize>();
                        if GUEST_INPUT_BYTES_MAX < size {
                            let text = "it asks for more rows than fit into one call".to_owned();
                            return if 1 < count { Ok(None) } else { Err(failed(text)) };
                        }
                    }
                    input.rows.extend(keys.into_iter().zip(rows).map(|(key, row)| Row { key, row }));
                    input.rows.sort_by(|a, b| a.key.cmp(&b.key));
                }
                Ok(ProjectOut::Writes(writes)) => match writes.iter().find_map(excess) {
                    Some(text) => return Err(failed(text)),
                    None => return Ok(Some(writes)),
                },
                // Rows and decisions may be too much for one call.
                Err(Fault::Host { .. }) if 1 < count => return Ok(None),
                Err(fault @ Fault::Host { .. }) => return Err(ViewError::Host(fault.to_string())),
                // A smaller batch may succeed. A single decision may be slow because of the machine, so it is tried
                // again.
                Err(Fault::Watchdog) if count == 1 => return Err(ViewError::Host("it takes too long".to_owned())),
                Err(fault) => return Err(failed(fault.to_string())),
            }
        }
        Ok(None)
    }
}

/// Why a view cannot continue: neither this node's log nor its archive has the entry that it needs.
pub(super) fn not_here(partition: PartitionId, wanted: JournalIndex, gap: Option<Gap>) -> ViewError {
    match gap {
        None => ViewError::Released { partition, wanted },
        Some(Gap { is_own: true, url, .. }) => ViewError::NotInOwn { partition, wanted, url },
        Some(Gap { next: Some(next), url, .. }) => ViewError::BeforeArchive { partition, wanted, next, url },
        Some(_) => ViewError::NotArchived { partition, wanted },
    }
}

fn bytes_of(row: &Row) -> usize {
    row.key.len() + row.row.as_ref().map_or(0, Vec::len)
}

/// What is wrong with a row that a view writes.
fn excess(row: &Row) -> Option<String> {
    if KEY_BYTES_MAX < row.key.len() || split_key(&row.key).is_none() {
        return Some(format!("a key of {} bytes is malformed, or over the limit of {KEY_BYTES_MAX}", row.key.len()));
    }
    let size = row.row.as_ref().map_or(0, Vec::len);
    (ROW_BYTES_MAX < size).then(|| format!("a row of {size} bytes is over the limit of {ROW_BYTES_MAX}"))
}

pub fn row_key(partition: PartitionId, key: &[u8]) -> Vec<u8> {
    [&[ROW][..], &partition.0.to_be_bytes(), key].concat()
}

/// The view's own key, without the prefix of kind and partition.
pub fn split_row_key(key: &[u8]) -> &[u8] {
    &key[1 + size_of::<u32>()..]
}

fn cursor_key(partition: PartitionId) -> Vec<u8> {
    [&[CURSOR][..], &partition.0.to_be_bytes()].concat()
}

fn partition_of_key(key: &[u8]) -> PartitionId {
    let number = key.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    PartitionId(number.unwrap_or_default())
}

/// Reads all cursors as of one moment.
pub fn read_cursors(rows: &crate::store::OrderedRows<'_>) -> Result<BTreeMap<PartitionId, ViewCursor>, ViewError> {
    let cursors = rows.rising(&[CURSOR], None, usize::MAX)?.into_iter().map(|(key, row)| {
        let partition = partition_of_key(&key);
        Ok((partition, ViewCursor::decode(partition, &row)?))
    });
    cursors.collect()
}
