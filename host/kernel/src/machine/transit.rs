//! What is on its way between partitions, as a module shows it: for instance, money that left an account of one
//! partition and has not reached an account of another.
//!
//! A module shows it in rows of `@local`. A row counts if its rendering (`sh1_render` of a row) is a map with two
//! texts: `transit`, a unit, and `balance`, a decimal number. In: rows. Out: sums by unit. The host knows neither the
//! units nor what moves, only that all of it must arrive: over a consistent cut, the sum on its way is what the
//! commands in flight have moved so far.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use statehouse_abi::cold::{RenderItem, Row};
use statehouse_abi::key::{LOCAL, split_key};
use statehouse_abi::value::Value;

use crate::machine::logic::{Fault, Logic};

/// The sums by unit, without those that are 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InTransit(BTreeMap<String, Decimal>);

/// Why the sums on their way are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitError {
    #[error("the module cannot render its rows: {0}")]
    Fault(#[from] Fault),
    #[error("the module shows `{0}` on its way, which is no decimal number the host can add up")]
    Number(String),
}

impl InTransit {
    /// Adds up rows, given with their keys; skips those that do not belong to `@local`.
    ///
    /// # Errors
    /// The module cannot render a row, or shows something that is no number.
    pub fn of<'r>(
        logic: &dyn Logic,
        rows: impl IntoIterator<Item = (&'r [u8], &'r [u8])>,
    ) -> Result<Self, TransitError> {
        let local = rows.into_iter().filter(|(key, _)| is_local(key));
        let items: Vec<RenderItem> =
            local.map(|(key, row)| RenderItem::Row(Row { key: key.to_vec(), row: Some(row.to_vec()) })).collect();
        let mut sum = Self::default();
        if items.is_empty() {
            return Ok(sum);
        }
        for value in logic.render(&items)? {
            let text = |name: &str| value.find(name).and_then(Value::as_text);
            let (Some(unit), Some(balance)) = (text("transit"), text("balance")) else { continue };
            let number: Decimal = balance.parse().map_err(|_| TransitError::Number(balance.to_owned()))?;
            sum.add(unit, number)?;
        }
        Ok(sum)
    }

    fn add(&mut self, unit: &str, more: Decimal) -> Result<(), TransitError> {
        let before = self.0.get(unit).copied().unwrap_or_default();
        let after = before.checked_add(more).ok_or_else(|| TransitError::Number(format!("{before} and {more}")))?;
        if after.is_zero() {
            self.0.remove(unit);
        } else {
            self.0.insert(unit.to_owned(), after);
        }
        Ok(())
    }

    /// # Errors
    /// A sum has too many digits.
    pub fn plus(mut self, more: &Self) -> Result<Self, TransitError> {
        for (unit, number) in &more.0 {
            self.add(unit, *number)?;
        }
        Ok(self)
    }

    /// # Errors
    /// A sum has too many digits.
    pub fn minus(mut self, less: &Self) -> Result<Self, TransitError> {
        for (unit, number) in &less.0 {
            self.add(unit, -*number)?;
        }
        Ok(self)
    }

    pub fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    pub fn units(&self) -> impl Iterator<Item = (&str, Decimal)> {
        self.0.iter().map(|(unit, number)| (unit.as_str(), *number))
    }
}

impl std::fmt::Display for InTransit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_nothing() {
            return f.write_str("nothing");
        }
        for (at, (unit, number)) in self.units().enumerate() {
            write!(f, "{}{number} {unit}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Whether a key belongs to `@local`, whose rows alone may count.
pub fn is_local(key: &[u8]) -> bool {
    split_key(key).is_some_and(|(entity, _)| entity == LOCAL)
}
