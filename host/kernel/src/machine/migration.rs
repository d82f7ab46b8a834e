//! Migration: the rows of a partition are brought from one schema to the next, entity by entity, by the entry that
//! activates a module.
//!
//! In: a module and rows in order of key. Out: the rows that change, in the same order. The entry has their digest, so
//! every replica and every auditor must compute the same rows. Rows are handed out as they are migrated, so a migration
//! of any size needs no more memory than its largest entity and the entities of one call. The module does not see the
//! host's own rows. It stores nothing.

use statehouse_abi::cold::{CheckIn, MigrateIn, MigrateOut, Row};
use statehouse_abi::key::split_key;

use crate::ids::Digest;
use crate::machine::limits;
use crate::machine::logic::{Fault, Logic};
use crate::machine::replica::DigestWriter;
use crate::saga::status::ENTITY;

/// Rows that change, in order of key; `None` deletes.
pub type MigrationChanges = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Rows handed to `sh1_check` at once.
const CHECK_ROWS: usize = 16_384;
/// Entities handed to the module at once: enough that starting its instance costs little in comparison.
const ENTITIES_MAX: usize = 512;
/// Once this many bytes of rows are collected, no further entity is handed over with them.
const ENTITIES_BYTES: usize = 1 << 20;
/// How often an entity is tried if its migration takes longer than the watchdog allows, which may be the fault of a
/// slow machine.
const TRIES_MAX: usize = 4;

/// Why rows cannot be brought to a module's schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MigrationError {
    #[error("the module reads rows of schema {reads:?} and not those of schema {from}: activate one that does")]
    Schema { from: u32, reads: Vec<u32> },
    #[error("entity `{entity}`: {fault}")]
    Fault { entity: String, fault: Fault },
    #[error("entity `{entity}`: the module refuses its rows: {reason}")]
    Refused { entity: String, reason: String },
    #[error(
        "entity `{entity}`: the module changed a row that is not the entity's, or one longer than {} bytes",
        limits::ROW_BYTES_MAX
    )]
    Writes { entity: String },
    #[error("after the migration the module's own invariant {invariant} does not hold: {detail}")]
    Invariant { invariant: String, detail: String },
    #[error("the module's check failed: {0}")]
    Check(Fault),
}

/// Checks that the module reads rows of another schema, with or without migrating them.
///
/// # Errors
/// It does not read them.
pub fn check_schema(logic: &dyn Logic, from: u32) -> Result<(), MigrationError> {
    let describe = logic.describe();
    // Before the first activation there are no rows.
    if from == 0 || from == describe.schema || describe.accepts.contains(&from) {
        return Ok(());
    }
    let reads = describe.accepts.iter().copied().chain([describe.schema]).collect();
    Err(MigrationError::Schema { from, reads })
}

/// Migrates rows that are given in order of key.
pub struct Migration<'l> {
    logic: &'l dyn Logic,
    from: u32,
    /// Entities, in order, that the module has not seen yet. Rows are added to the last one.
    entities: Vec<MigrateIn>,
    bytes: usize,
    migrated: MigrationChanges,
    check: Option<InvariantCheck<'l>>,
}

impl<'l> Migration<'l> {
    /// # Errors
    /// The module does not read rows of schema `from`.
    pub fn new(logic: &'l dyn Logic, from: u32) -> Result<Self, MigrationError> {
        check_schema(logic, from)?;
        Ok(Self { logic, from, entities: Vec::new(), bytes: 0, migrated: Vec::new(), check: None })
    }

    /// The same, and it also asks the module whether its invariants hold over all rows as they will be.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn checked(logic: &'l dyn Logic, from: u32) -> Result<Self, MigrationError> {
        Ok(Self { check: Some(InvariantCheck::new(logic)), ..Self::new(logic, from)? })
    }

    /// Whether there is anything to do.
    pub fn is_needed(&self) -> bool {
        self.from != 0 && self.from != self.logic.describe().schema
    }

    /// Takes the next row. Must only be called if a migration is needed.
    pub fn row(&mut self, key: &[u8], row: &[u8]) -> Result<(), MigrationError> {
        let Some((entity, _)) = split_key(key).filter(|(entity, _)| *entity != ENTITY) else { return Ok(()) };
        if self.entities.last().is_none_or(|last| last.entity != entity) {
            if self.entities.len() == ENTITIES_MAX || self.bytes >= ENTITIES_BYTES {
                self.migrate()?;
            }
            self.entities.push(MigrateIn { from_schema: self.from, entity: entity.to_vec(), rows: Vec::new() });
        }
        self.bytes += key.len() + row.len();
        let last = self.entities.last_mut().expect("it was pushed if there was none");
        last.rows.push(Row { key: key.to_vec(), row: Some(row.to_vec()) });
        Ok(())
    }

    /// Takes the changed rows, of the entities that the module has seen, which were not taken yet.
    pub fn take(&mut self) -> MigrationChanges {
        std::mem::take(&mut self.migrated)
    }

    /// Ends the migration after the last row; returns what was not taken.
    pub fn finish(mut self) -> Result<MigrationChanges, MigrationError> {
        self.migrate()?;
        if let Some(check) = self.check {
            check.finish()?;
        }
        Ok(self.migrated)
    }

    /// Has the module migrate the entities that are complete.
    fn migrate(&mut self) -> Result<(), MigrationError> {
        self.bytes = 0;
        let entities = std::mem::take(&mut self.entities);
        let mut outs = self.logic.migrate(&entities);
        for _ in 1..TRIES_MAX {
            if outs.pop_if(|last| matches!(last, Err(Fault::Watchdog))).is_some() {
                outs.extend(self.logic.migrate(&entities[outs.len()..]));
            }
        }
        let is_faulty = outs.last().is_some_and(Result::is_err);
        assert!(outs.len() == entities.len() || is_faulty, "a result for each entity, up to a fault");
        entities.into_iter().zip(outs).try_for_each(|(entity, out)| self.accept(entity, out))
    }

    /// Takes the rows that the module has changed, after a check that they all belong to the entity.
    fn accept(&mut self, input: MigrateIn, out: Result<MigrateOut, Fault>) -> Result<(), MigrationError> {
        let entity = || String::from_utf8_lossy(&input.entity).into_owned();
        let out = out.map_err(|fault| MigrationError::Fault { entity: entity(), fault })?;
        let mut changed = match out {
            MigrateOut::Changed(changed) => changed,
            MigrateOut::Refused(reason) => return Err(MigrationError::Refused { entity: entity(), reason }),
        };
        changed.sort_by(|one, other| one.key.cmp(&other.key));
        let is_twice = changed.windows(2).any(|pair| pair[0].key == pair[1].key);
        let is_own = |row: &Row| {
            let owner = split_key(&row.key).map(|(owner, _)| owner);
            owner == Some(&*input.entity) && row.key.len() <= limits::KEY_BYTES_MAX
        };
        let is_small = |row: &Row| row.row.as_ref().is_none_or(|row| row.len() <= limits::ROW_BYTES_MAX);
        if is_twice || !changed.iter().all(|row| is_own(row) && is_small(row)) {
            return Err(MigrationError::Writes { entity: entity() });
        }
        if let Some(check) = &mut self.check {
            check_merged(check, input.rows, &changed)?;
        }
        self.migrated.extend(changed.into_iter().map(|Row { key, row }| (key, row)));
        Ok(())
    }
}

/// Shows the check the rows of an entity as they will be, in order of key.
fn check_merged(check: &mut InvariantCheck<'_>, before: Vec<Row>, changed: &[Row]) -> Result<(), MigrationError> {
    let mut changed = changed.iter().peekable();
    let mut show = |row: &Row| row.row.clone().map_or(Ok(()), |bytes| check.row(row.key.clone(), bytes));
    for row in &before {
        while let Some(new) = changed.next_if(|new| new.key < row.key) {
            show(new)?;
        }
        match changed.next_if(|new| new.key == row.key) {
            Some(new) => show(new)?,
            None => show(row)?,
        }
    }
    changed.try_for_each(show)
}

/// The digest in an activation: zeros if no row changes.
pub fn digest(migrated: &MigrationChanges) -> Digest {
    let mut digest = MigratedDigest::default();
    migrated.iter().for_each(|(key, row)| digest.add(key, row.as_deref()));
    digest.finish()
}

/// The same, row by row.
#[derive(Default)]
pub struct MigratedDigest(DigestWriter);

impl MigratedDigest {
    pub fn add(&mut self, key: &[u8], row: Option<&[u8]>) {
        self.0.add(key, row);
    }

    pub fn finish(self) -> Digest {
        if self.0.is_empty() { Digest::ZERO } else { self.0.finish() }
    }
}

/// Asks the module whether its invariants hold over rows in order of key.
pub struct InvariantCheck<'l> {
    logic: &'l dyn Logic,
    accumulator: Vec<u8>,
    rows: Vec<Row>,
}

impl<'l> InvariantCheck<'l> {
    pub fn new(logic: &'l dyn Logic) -> Self {
        Self { logic, accumulator: Vec::new(), rows: Vec::new() }
    }

    /// Takes the next row.
    pub fn row(&mut self, key: Vec<u8>, row: Vec<u8>) -> Result<(), MigrationError> {
        if split_key(&key).is_some_and(|(entity, _)| entity == ENTITY) {
            return Ok(());
        }
        self.rows.push(Row { key, row: Some(row) });
        if self.rows.len() == CHECK_ROWS { self.ask(false) } else { Ok(()) }
    }

    /// Ends the check after the last row.
    pub fn finish(mut self) -> Result<(), MigrationError> {
        self.ask(true)
    }

    fn ask(&mut self, is_last: bool) -> Result<(), MigrationError> {
        let (accumulator, rows) = (std::mem::take(&mut self.accumulator), std::mem::take(&mut self.rows));
        let checked = self.logic.check(&CheckIn { accumulator, rows, is_last }).map_err(MigrationError::Check)?;
        if let Some(found) = checked.violations.into_iter().next() {
            return Err(MigrationError::Invariant { invariant: found.invariant, detail: found.detail });
        }
        self.accumulator = checked.accumulator;
        Ok(())
    }
}
