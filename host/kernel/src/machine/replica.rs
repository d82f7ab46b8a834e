//! What every replica does with an effective batch: it applies the recorded events to its rows, and compares the
//! digest.
//!
//! In: an entry and the rows of its keys. Out: the writes, those of the phase status table among them. A replica never
//! decides again; the leader has decided, and that is recorded. It does not know where rows come from or where they go.

use statehouse_abi::block::AbiError;
use statehouse_abi::key::split_key;
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock};
use statehouse_abi::rows::{RowsBlock, WritesBlock, WritesWriter};

use crate::ids::{Digest, JournalIndex};
use crate::machine::entry::{Entry, EntryKind};
use crate::machine::limits;
use crate::machine::logic::{Fault, Logic, Pace};
use crate::machine::migration::{self, MigrationChanges, MigrationError};
use crate::machine::table::{Change, Table, TableError};

/// An effective entry and its row writes, ready to be stored.
#[derive(Clone, Debug)]
pub struct AppliedEntry {
    entry: Entry,
    /// WRITES block; empty if the entry is no batch.
    writes: Vec<u8>,
    /// The change to the phase status table.
    change: Change,
    /// That change as rows; for an activation, the rows that it migrates.
    table_writes: TableWrites,
}

/// Rows of the phase status table, with their keys.
type TableWrites = Vec<(Vec<u8>, Option<Vec<u8>>)>;

impl AppliedEntry {
    /// Applies the recorded events of a batch. `rows` is the ROWS block of its keys before the entry, `table` has the
    /// commands in flight.
    pub fn compute(logic: &dyn Logic, entry: Entry, rows: &[u8], table: &dyn Table) -> Result<Self, ApplyError> {
        let index = entry.header().index;
        let Some(batch) = entry.batch() else { return Ok(Self::without_writes(entry)) };
        if let Some(applied) = Self::without_events(&entry, table)? {
            return Ok(applied);
        }
        let writes = if entry.header().kind == EntryKind::Saga {
            no_writes()
        } else {
            assert!(logic.id() == entry.header().decider, "the caller must pass the module that decided");
            apply_recorded(logic, &entry, &batch.ops, rows, batch.outcome.raw())?
        };
        let applied = Self::promote(entry, writes, table)?;
        let found = applied.digest();
        let expected = applied.entry.header().digest;
        if found != expected {
            return Err(ApplyError::Digest { index, expected, found });
        }
        Ok(applied)
    }

    /// Applies an entry in which every group is rejected and whose digest says that nothing was written. State is what
    /// `apply` computes from events, and there are none. So the module is not called: it may be one that fails even
    /// then, or one that never saw the commands.
    fn without_events(entry: &Entry, table: &dyn Table) -> Result<Option<Self>, ApplyError> {
        let is_batch = entry.header().kind == EntryKind::Batch;
        if !entry.batch().is_some_and(|batch| is_batch && is_all_rejected(&batch.outcome)) {
            return Ok(None);
        }
        let applied = Self::promote(entry.clone(), no_writes(), table)?;
        let expected = entry.header().digest;
        Ok(Some(applied).filter(|applied| applied.digest() == expected))
    }

    /// Takes the leader's own writes for the entry that the leader has built from them.
    pub fn promote(entry: Entry, writes: Vec<u8>, table: &dyn Table) -> Result<Self, ApplyError> {
        let index = entry.header().index;
        let change = Change::of(&entry, table).map_err(|source| ApplyError::Table { index, source })?;
        let table_writes = change.writes();
        Ok(Self { entry, writes, change, table_writes })
    }

    /// An activation and the rows that it migrates.
    pub fn migrated(entry: Entry, rows: MigrationChanges) -> Result<Self, ApplyError> {
        assert!(entry.header().kind == EntryKind::Activate);
        let (index, expected, found) = (entry.header().index, entry.header().digest, migration::digest(&rows));
        if found != expected {
            return Err(ApplyError::Digest { index, expected, found });
        }
        Ok(Self { table_writes: rows, ..Self::without_writes(entry) })
    }

    /// A tick, or an activation that migrates nothing.
    pub fn without_writes(entry: Entry) -> Self {
        assert!(entry.batch().is_none());
        Self { entry, writes: Vec::new(), change: Change::default(), table_writes: Vec::new() }
    }

    /// The change to the phase status table.
    pub fn change(&self) -> &Change {
        &self.change
    }

    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The rows that change, in the entry's order of keys. `None` deletes a row.
    pub fn rows(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let batch = self.entry.batch();
        let parsed = batch.map(|batch| (batch.ops, parse_own_writes(&self.writes, batch.ops.key_count())));
        let of_module = parsed
            .into_iter()
            .flat_map(|(ops, writes)| writes.writes().map(move |(key, row)| (ops.key(key as usize), row)));
        of_module.chain(self.table_writes.iter().map(|(key, row)| (key.as_slice(), row.as_deref())))
    }

    pub fn digest(&self) -> Digest {
        match self.entry.batch() {
            Some(batch) => {
                digest(&batch.ops, &parse_own_writes(&self.writes, batch.ops.key_count()), &self.table_writes)
            }
            None => migration::digest(&self.table_writes),
        }
    }
}

fn parse_own_writes(writes: &[u8], key_count: usize) -> WritesBlock<'_> {
    WritesBlock::parse(writes, key_count).expect("writes were checked when they were made")
}

/// A WRITES block that changes nothing.
pub fn no_writes() -> Vec<u8> {
    WritesWriter::default().finish(Vec::new())
}

/// Whether the outcome has nothing to be applied.
pub fn is_all_rejected(outcome: &OutcomeBlock<'_>) -> bool {
    (0..outcome.group_count()).all(|at| matches!(outcome.group(at), GroupOutcome::Rejected(_)))
}

/// blake3 of the writes in the entry's order of keys, then of those of the phase status table: `key len u32, key,
/// row len u32 (all ones: deleted), row`.
pub fn digest(ops: &OpsBlock<'_>, writes: &WritesBlock<'_>, table: &[(Vec<u8>, Option<Vec<u8>>)]) -> Digest {
    let of_module = writes.writes().map(|(key, row)| (ops.key(key as usize), row));
    digest_of(of_module.chain(table.iter().map(|(key, row)| (key.as_slice(), row.as_deref()))))
}

/// See [`digest`].
pub fn digest_of<'r>(rows: impl Iterator<Item = (&'r [u8], Option<&'r [u8]>)>) -> Digest {
    let mut digest = DigestWriter::default();
    rows.for_each(|(key, row)| digest.add(key, row));
    digest.finish()
}

/// Bytes that are collected before they are hashed: hashing many short pieces would mostly cost calls.
const DIGEST_BYTES: usize = 1 << 20;

/// See [`digest`], row by row.
#[derive(Default)]
pub struct DigestWriter {
    bytes: Vec<u8>,
    hasher: blake3::Hasher,
    count: u64,
}

impl DigestWriter {
    pub fn add(&mut self, key: &[u8], row: Option<&[u8]>) {
        self.bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(key);
        let len = row.map_or(u32::MAX, |row| row.len() as u32);
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(row.unwrap_or_default());
        self.count += 1;
        if DIGEST_BYTES <= self.bytes.len() {
            self.hasher.update(&self.bytes);
            self.bytes.clear();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn finish(mut self) -> Digest {
        self.hasher.update(&self.bytes);
        Digest(*self.hasher.finalize().as_bytes())
    }
}

/// The WRITES block that the module's `apply` computes for ops and an outcome that the entry records, or for a part of
/// them. Replicas, the auditor and every replay call this function, so that all of them treat a fault alike.
///
/// # Errors
/// [`ApplyError::Fault`], and [`ApplyError::Writes`] where the answer is not within the limits.
pub fn apply_recorded(
    logic: &dyn Logic,
    entry: &Entry,
    ops: &OpsBlock<'_>,
    rows: &[u8],
    outcome: &[u8],
) -> Result<Vec<u8>, ApplyError> {
    let (index, context) = (entry.header().index, entry.header().context());
    let apply = |pace| logic.apply(pace, context, ops.raw(), rows, outcome);
    let writes = match apply(Pace::Fast) {
        // The watchdog measures wall-clock time, which says nothing about the module: ask again, metered.
        Err(Fault::Watchdog) => apply(Pace::Metered),
        other => other,
    };
    let writes = writes.map_err(|fault| ApplyError::Fault { index, fault })?;
    check_writes(ops, &writes).map_err(|source| ApplyError::Writes { index, source })?;
    Ok(writes)
}

/// Checks the WRITES block of a module against the ops that it answers.
pub fn check_writes(ops: &OpsBlock<'_>, writes: &[u8]) -> Result<(), AbiError> {
    let parsed = WritesBlock::parse(writes, ops.key_count())?;
    if parsed.writes().any(|(_, row)| row.is_some_and(|row| row.len() > limits::ROW_BYTES_MAX)) {
        return Err(AbiError::Value { what: "a row is longer than the host allows" });
    }
    Ok(())
}

/// Checks that a ROWS block has a row for each key of an OPS block.
pub fn check_rows(ops: &OpsBlock<'_>, rows: &[u8]) -> Result<(), AbiError> {
    if RowsBlock::parse(rows)?.count() == ops.key_count() {
        Ok(())
    } else {
        Err(AbiError::Value { what: "rows and keys differ in number" })
    }
}

/// Whether a key belongs to the entity or to `@local`: the only rows an op may touch.
pub fn is_key_of(key: &[u8], entity: &[u8]) -> bool {
    split_key(key).is_some_and(|(owner, _)| owner == entity || owner == statehouse_abi::key::LOCAL)
}

/// The number of events and rejections before group `at` of an outcome: the `n` of its position.
pub fn positions_before(outcome: &OutcomeBlock<'_>, at: usize) -> u32 {
    (0..at).map(|group| position_count(outcome.group(group))).sum()
}

/// How many positions the outcome of a group has: one for each event, one for a rejection.
pub fn position_count(outcome: GroupOutcome<'_>) -> u32 {
    match outcome {
        GroupOutcome::Events { count, .. } => count,
        GroupOutcome::Rejected(_) => 1,
        GroupOutcome::NeedsKeys => 0,
    }
}

/// Why a replica cannot apply an entry. It halts the partition on this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("entry {index}: {fault}")]
    Fault { index: JournalIndex, fault: Fault },
    #[error("entry {index}: module's writes are malformed: {source}")]
    Writes { index: JournalIndex, source: AbiError },
    #[error("entry {index}: {source}")]
    Table { index: JournalIndex, source: TableError },
    #[error("entry {index}: its migration cannot be repeated: {source}")]
    Migration { index: JournalIndex, source: MigrationError },
    #[error("entry {index}: digest of the writes is {}, but the leader recorded {}", found.short(), expected.short())]
    Digest { index: JournalIndex, expected: Digest, found: Digest },
}
