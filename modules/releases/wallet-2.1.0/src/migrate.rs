//! Rows of schemas 1 and 2 into rows of schema 3: an account's row gets the number of its currencies, and no limit.
//!
//! In: all rows of one entity. Out: those that change. Rows of `@local` and of reservations stay as they are.

use statehouse_guest::{LOCAL, Row};

use crate::WalletModule;
use crate::account::Account;
use crate::op::ACCOUNT;

/// # Errors
/// Why the rows cannot be brought over.
pub fn migrate(from_schema: u32, entity: &[u8], rows: &[Row]) -> Result<Vec<Row>, String> {
    let schema = <WalletModule as statehouse_guest::Module>::SCHEMA;
    if !(1..schema).contains(&from_schema) {
        return Err(format!("rows of schema {from_schema} cannot be brought to schema {schema}"));
    }
    if entity == LOCAL {
        return Ok(Vec::new());
    }
    let accounts = rows.iter().filter_map(|row| Some((row, row.row.as_deref()?)));
    let accounts = accounts.filter(|(row, _)| row.key.get(1 + entity.len()..) == Some(ACCOUNT));
    let migrated = accounts.map(|(row, bytes)| match Account::migrated(bytes) {
        Some(bytes) => Ok(Row { key: row.key.clone(), row: Some(bytes) }),
        None => Err(format!("the row of {} is malformed: {}", entity.escape_ascii(), bytes.escape_ascii())),
    });
    migrated.collect()
}
