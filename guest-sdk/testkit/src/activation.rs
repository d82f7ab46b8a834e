//! Another version of the module takes over the rows, as at an activation: each entity is migrated by itself.
//!
//! In: a world and the engine of the other version. Out: a world with its rows. It has no entry and no digest.

use statehouse_abi::cold::{MigrateOut, Row};
use statehouse_abi::key::split_key;

use crate::engine::{Engine, EngineError};
use crate::world::World;

impl<E: Engine> World<E> {
    /// The same state under another version; its rows are migrated when the schemas differ.
    ///
    /// # Errors
    /// The other version does not describe itself, or cannot bring the rows over.
    pub fn activate<F: Engine>(self, engine: F) -> Result<World<F>, EngineError> {
        let from_schema = self.describe().schema;
        let mut next = World::new(engine)?;
        (next.rows, next.index) = (self.rows, self.index);
        if next.describe().schema != from_schema {
            let rows: Vec<Row> =
                next.rows.iter().map(|(key, row)| Row { key: key.clone(), row: Some(row.clone()) }).collect();
            let entity_of = |row: &Row| split_key(&row.key).map(|(entity, _)| entity.to_vec()).unwrap_or_default();
            for rows in rows.chunk_by(|a, b| entity_of(a) == entity_of(b)) {
                next.migrate_entity(from_schema, rows)?;
            }
        }
        Ok(next)
    }

    fn migrate_entity(&mut self, from_schema: u32, rows: &[Row]) -> Result<(), EngineError> {
        let Some((entity, _)) = rows.first().and_then(|row| split_key(&row.key)) else { return Ok(()) };
        match self.migrate(from_schema, entity, rows.to_vec())? {
            MigrateOut::Refused(why) => Err(EngineError::Module(format!("{}: {why}", entity.escape_ascii()))),
            MigrateOut::Changed(changed) => {
                for Row { key, row } in changed {
                    match row {
                        Some(row) => drop(self.rows.insert(key, row)),
                        None => drop(self.rows.remove(&key)),
                    }
                }
                Ok(())
            }
        }
    }
}
