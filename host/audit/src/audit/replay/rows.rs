//! The rows that would differ at the end of a cumulative replay, and the numbers in them.
//!
//! In: the rows that the recorded events give under the candidate, and those that its own decisions give. Out: both,
//! rendered by the candidate. It does not know which numbers are money: any text or number in a rendered row that can
//! be read as a decimal is compared.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde_json::Value as Json;

use crate::audit::replay::render::{self, key_text};
use crate::audit::replay::report::{LISTED_MAX, NumberDifference, RowDifference, RowDifferences};
use crate::audit::replay::state::PartitionRows;
use crate::ids::PartitionId;
use crate::machine::logic::Logic;

/// Compares the rows of all partitions, which are in the order of their numbers.
pub fn differences(candidate: &dyn Logic, recorded: &[PartitionRows], simulated: &[PartitionRows]) -> RowDifferences {
    let mut found = RowDifferences::default();
    let mut numbers: Vec<(Decimal, NumberDifference)> = Vec::new();
    for (number, (recorded, simulated)) in (0..).zip(recorded.iter().zip(simulated)) {
        for key in keys_that_differ(recorded, simulated) {
            found.count += 1;
            if LISTED_MAX <= found.listed.len() {
                continue;
            }
            let [before, after] = [recorded, simulated].map(|state| render::row(candidate, key, state.find(key)));
            let (entity, key_name) = key_text(key);
            numbers.extend(compare_numbers(&entity, &before, &after));
            let partition = PartitionId(number);
            found.listed.push(RowDifference { partition, entity, key: key_name, recorded: before, candidate: after });
        }
    }
    numbers
        .sort_by(|(a, x), (b, y)| b.abs().cmp(&a.abs()).then_with(|| (&x.entity, &x.path).cmp(&(&y.entity, &y.path))));
    found.numbers = numbers.into_iter().take(LISTED_MAX).map(|(_, number)| number).collect();
    found
}

/// In order; rows of the host are left out.
fn keys_that_differ<'s>(a: &'s PartitionRows, b: &'s PartitionRows) -> Vec<&'s [u8]> {
    let mut keys: Vec<&[u8]> = Vec::new();
    keys.extend(a.sorted().into_iter().filter(|(key, row)| b.find(key) != Some(row)).map(|(key, _)| key));
    keys.extend(b.sorted().into_iter().filter(|(key, _)| a.find(key).is_none()).map(|(key, _)| key));
    keys.sort_unstable();
    keys
}

/// A number that is missing on one side counts as 0 there.
fn compare_numbers(entity: &str, recorded: &Json, candidate: &Json) -> Vec<(Decimal, NumberDifference)> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    read_numbers("", recorded, &mut before);
    read_numbers("", candidate, &mut after);
    let mut paths: Vec<&String> = before.keys().chain(after.keys()).collect();
    paths.sort_unstable();
    paths.dedup();
    let mut found = Vec::new();
    for path in paths {
        let (a, b) = (before.get(path).copied().unwrap_or_default(), after.get(path).copied().unwrap_or_default());
        let Some(difference) = b.checked_sub(a).filter(|difference| !difference.is_zero()) else { continue };
        let number = NumberDifference {
            entity: entity.to_owned(),
            path: path.clone(),
            recorded: a.to_string(),
            candidate: b.to_string(),
            difference: difference.to_string(),
        };
        found.push((difference, number));
    }
    found
}

fn read_numbers(path: &str, value: &Json, numbers: &mut BTreeMap<String, Decimal>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Json::Object(members) => members.iter().for_each(|(name, value)| read_numbers(&below(name), value, numbers)),
        Json::Array(items) => {
            for (at, value) in items.iter().enumerate() {
                read_numbers(&below(&at.to_string()), value, numbers);
            }
        }
        Json::Number(number) => drop(number.to_string().parse().map(|number| numbers.insert(path.to_owned(), number))),
        Json::String(text) => drop(text.parse().map(|number| numbers.insert(path.to_owned(), number))),
        Json::Null | Json::Bool(_) => {}
    }
}
