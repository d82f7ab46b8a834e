//! Replaying a journal from genesis: the same code that replicas run, over rows kept in memory.
//!
//! In: entries in Raft's order. Out: rows, and the journal that they belong to. Void entries have no effect. The
//! auditor and reads of the past use it. It does not know where entries come from.

use std::collections::BTreeMap;
use std::sync::Arc;

use statehouse_abi::outcome::GroupOutcome;
use statehouse_abi::rows::{RowsWriter, WritesBlock};

use crate::ids::{CommandId, Digest, ModuleId, PartitionId, Position};
use crate::machine::beginning::{beginning, groups_until, is_whole};
use crate::machine::entry::{Batch, Entry, EntryError, EntryKind};
use crate::machine::journal::{Journal, JournalError, Verdict};
use crate::machine::logic::Logic;
use crate::machine::migration::Migration;
use crate::machine::replica::{AppliedEntry, ApplyError, apply_recorded, positions_before};
use crate::machine::table::Table;
use crate::saga::Saga;
use crate::saga::status::row_key;

/// A partition's rows in order of key.
pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Loads the module that an entry names; an error says what is missing.
pub type LoadModule<'a> = dyn Fn(ModuleId) -> Result<Arc<dyn Logic>, String> + 'a;

/// A partition under replay.
pub struct Replay {
    pub journal: Journal,
    pub rows: Rows,
    /// The module that decides after `journal`.
    pub logic: Option<Arc<dyn Logic>>,
    /// The number of the last position that counts, in the entry at `journal`.
    pub n: u32,
}

/// The phase status table among the rows.
struct InFlightTable<'a>(&'a Rows);

impl Table for InFlightTable<'_> {
    fn find(&self, command: CommandId) -> Option<Saga> {
        // No replica has written a row that cannot be read, so the digest of the entry will differ.
        Saga::of_row(self.0.get(&row_key(command))?).ok()
    }
}

/// Why a journal cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("module {} cannot be loaded: {reason}", id.short())]
    Module { id: ModuleId, reason: String },
    #[error("the journal has a batch before its first activation")]
    NoModule,
}

impl Replay {
    pub fn new(genesis: Journal) -> Self {
        Self { journal: genesis, rows: Rows::new(), logic: None, n: 0 }
    }

    /// The position whose state the rows are.
    pub fn position(&self, partition: PartitionId) -> Position {
        self.journal.position(partition, self.n)
    }

    /// Applies one entry. [`Verdict::Void`] says that it had no effect.
    pub fn apply(&mut self, entry: &Entry, load: &LoadModule<'_>) -> Result<Verdict, ReplayError> {
        let verdict = self.journal.judge(entry)?;
        let Verdict::Effective(after) = verdict else { return Ok(verdict) };
        match entry.header().kind {
            EntryKind::Activate => {
                let id = after.module;
                let logic = load(id).map_err(|reason| ReplayError::Module { id, reason })?;
                self.migrate(entry, logic.as_ref())?;
                self.logic = Some(logic);
            }
            EntryKind::Batch | EntryKind::Saga => self.apply_batch(entry)?,
            EntryKind::Tick => {}
        }
        (self.journal, self.n) = (after, last_position(entry));
        Ok(verdict)
    }

    /// Applies the last entry of a replay up to its position `n`: the rows are those of that moment within the entry.
    /// All of the entry is recomputed first, because only the whole has a digest. The phase status table stays as it
    /// was, because no query sees it.
    pub fn apply_until(&mut self, entry: &Entry, n: u32, load: &LoadModule<'_>) -> Result<Verdict, ReplayError> {
        if is_whole(entry, n) {
            let verdict = self.apply(entry, load)?;
            if matches!(verdict, Verdict::Effective(_)) {
                // The last command may have several positions, and the caller may have asked for an earlier one.
                self.n = self.n.min(n);
            }
            return Ok(verdict);
        }
        let verdict = self.journal.judge(entry)?;
        let Verdict::Effective(after) = verdict else { return Ok(verdict) };
        let logic = self.logic.clone().ok_or(ReplayError::NoModule)?;
        let batch = entry.batch().expect("anything else counts whole");
        let rows = self.rows_of(&batch);
        AppliedEntry::compute(logic.as_ref(), entry.clone(), &rows, &InFlightTable(&self.rows))?;
        let count = groups_until(&batch.outcome, n);
        let outcome = beginning(&batch.outcome, count);
        if (0..count).any(|at| matches!(batch.outcome.group(at), GroupOutcome::Events { .. })) {
            let writes = apply_recorded(logic.as_ref(), entry, &batch.ops, &rows, &outcome)?;
            let writes = WritesBlock::parse(&writes, batch.ops.key_count()).expect("just checked");
            writes.writes().for_each(|(key, row)| put(&mut self.rows, batch.ops.key(key as usize), row));
        }
        (self.journal, self.n) = (after, n);
        Ok(verdict)
    }

    fn migrate(&mut self, entry: &Entry, logic: &dyn Logic) -> Result<(), ReplayError> {
        let index = entry.header().index;
        let failed = |source| ApplyError::Migration { index, source };
        let mut migration = Migration::new(logic, self.journal.schema).map_err(failed)?;
        if migration.is_needed() {
            for (key, row) in &self.rows {
                migration.row(key, row).map_err(failed)?;
            }
        }
        let applied = AppliedEntry::migrated(entry.clone(), migration.finish().map_err(failed)?)?;
        self.write(&applied);
        Ok(())
    }

    fn write(&mut self, applied: &AppliedEntry) {
        applied.rows().for_each(|(key, row)| put(&mut self.rows, key, row));
    }

    fn apply_batch(&mut self, entry: &Entry) -> Result<(), ReplayError> {
        let logic = self.logic.clone().ok_or(ReplayError::NoModule)?;
        let batch = entry.batch().expect("its kind says so");
        let rows = self.rows_of(&batch);
        let applied = AppliedEntry::compute(logic.as_ref(), entry.clone(), &rows, &InFlightTable(&self.rows))?;
        self.write(&applied);
        Ok(())
    }

    /// The ROWS block for the keys of a batch.
    fn rows_of(&self, batch: &Batch<'_>) -> Vec<u8> {
        let mut rows = RowsWriter::default();
        batch.ops.keys().for_each(|key| rows.row(self.rows.get(key).map(Vec::as_slice)));
        rows.finish(Vec::new())
    }

    /// blake3 over the rows in order of key: `key len u32, key, row len u32, row`.
    pub fn state_digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for (key, row) in &self.rows {
            hasher.update(&(key.len() as u32).to_le_bytes()).update(key);
            hasher.update(&(row.len() as u32).to_le_bytes()).update(row);
        }
        Digest(*hasher.finalize().as_bytes())
    }
}

fn put(rows: &mut Rows, key: &[u8], row: Option<&[u8]>) {
    match row {
        Some(row) => drop(rows.insert(key.to_vec(), row.to_vec())),
        None => drop(rows.remove(key)),
    }
}

/// The number of an entry's last position.
fn last_position(entry: &Entry) -> u32 {
    let count = entry.batch().map_or(0, |batch| positions_before(&batch.outcome, batch.outcome.group_count()));
    count.saturating_sub(1)
}
