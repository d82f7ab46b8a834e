//! The invariants, over all rows of a partition: nothing is overbooked, what is ordered is what the orders say, every row
//! can be read.
//!
//! In: rows in order of key, so a pool comes before its orders. Out: violations, in words. It does not know which event
//! broke a row.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::{LOCAL, Named, Violations};

use crate::order::{Order, parse_order_key};
use crate::pool::{POOL, Pool};

const NOT_OVERBOOKED: &str = "not_overbooked";
const ORDERED: &str = "ordered";
const WELL_FORMED: &str = "well_formed";

pub(crate) const INVARIANTS: &[Named] = &[
    Named { name: NOT_OVERBOOKED, summary: "Of no type is more ordered than there is" },
    Named { name: ORDERED, summary: "What a pool says is ordered is the sum of its orders" },
    Named { name: WELL_FORMED, summary: "Every row is one that this module could have written" },
];

/// The pool whose rows are coming.
#[derive(Default, BorshSerialize, BorshDeserialize)]
pub struct Tally {
    pool: Vec<u8>,
    types: BTreeMap<String, Sums>,
}

/// Of one type.
#[derive(Default, BorshSerialize, BorshDeserialize)]
struct Sums {
    /// What the pool says.
    stated: u64,
    /// What its orders so far add up to.
    found: u64,
}

pub fn row(tally: &mut Tally, entity: &[u8], suffix: &[u8], row: &[u8], violations: &mut Violations) {
    if entity == LOCAL {
        return malformed(entity, suffix, violations);
    }
    if suffix == POOL {
        return pool(tally, entity, row, violations);
    }
    let order: Option<Order> = parse_order_key(suffix).and_then(|_| borsh::from_slice(row).ok());
    let Some(order) = order.filter(|_| tally.pool == entity).filter(is_well_formed) else {
        return malformed(entity, suffix, violations);
    };
    for line in &order.lines {
        match tally.types.get_mut(&line.capacity_type) {
            None => malformed(entity, suffix, violations),
            // Each is below 2³² and there are fewer than 2³² orders of a pool, so this is exact.
            Some(sums) if order.status.takes_capacity() => {
                sums.found = sums.found.saturating_add(line.quantity.into());
            }
            Some(_) => {}
        }
    }
}

fn pool(tally: &mut Tally, entity: &[u8], row: &[u8], violations: &mut Violations) {
    end(tally, violations);
    *tally = Tally { pool: entity.into(), types: BTreeMap::new() };
    let Ok(pool) = borsh::from_slice::<Pool>(row) else { return malformed(entity, POOL, violations) };
    if !pool.levels.is_sorted_by(|a, b| a.capacity_type < b.capacity_type) {
        malformed(entity, POOL, violations);
    }
    for level in pool.levels {
        if level.capacity < level.ordered {
            let (ordered, capacity, name) = (level.ordered, level.capacity, &level.capacity_type);
            let entity = entity.escape_ascii();
            violations
                .report(NOT_OVERBOOKED, format!("{ordered} {name} of {entity} are ordered, there are {capacity}"));
        }
        tally.types.insert(level.capacity_type, Sums { stated: level.ordered.into(), found: 0 });
    }
}

/// Judges the pool whose rows have all come.
pub fn end(tally: &Tally, violations: &mut Violations) {
    let pool = tally.pool.escape_ascii();
    for (name, Sums { stated, found }) in &tally.types {
        if stated != found {
            violations.report(ORDERED, format!("{pool} says {stated} {name} are ordered, its orders say {found}"));
        }
    }
}

fn is_well_formed(order: &Order) -> bool {
    !order.lines.is_empty()
        && order.lines.iter().all(|line| 0 < line.quantity)
        && order.lines.is_sorted_by(|a, b| a.capacity_type < b.capacity_type)
}

fn malformed(entity: &[u8], suffix: &[u8], violations: &mut Violations) {
    let (entity, suffix) = (entity.escape_ascii(), suffix.escape_ascii());
    violations.report(WELL_FORMED, format!("the row {suffix:?} of {entity} is malformed", suffix = suffix.to_string()));
}
