//! Which of the modules' declarations the history has exercised, and which it never has: a replay proves nothing about
//! the latter.
//!
//! In: recorded commands and their decisions. Out: counts by name. Refusals are not in the log, so they are not here
//! either.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use statehouse_abi::describe::Describe;
use statehouse_abi::outcome::GroupOutcome;

use crate::audit::replay::class::Decision;
use crate::machine::entry::{Batch, Part};

/// How often each thing occurs in what was decided again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Commands by name.
    pub commands: BTreeMap<String, u64>,
    /// Commands that the candidate or a recorded module declares, but that never occur.
    pub commands_never: Vec<String>,
    /// Recorded rejections by code, including those of the host.
    pub rejections: BTreeMap<String, u64>,
    pub rejections_never: Vec<String>,
    /// Events by kind. The first byte of an event is its index in the list of events that the module declares.
    pub events: BTreeMap<String, u64>,
    pub events_never: Vec<String>,
}

/// The counts before they have names.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counter {
    commands: BTreeMap<String, u64>,
    rejections: BTreeMap<String, u64>,
    events: BTreeMap<u8, u64>,
}

impl Counter {
    /// Counts one recorded group.
    pub fn count(&mut self, batch: &Batch<'_>, group: usize, part: Part<'_>) {
        if !matches!(part, Part::Call(_)) {
            let name = batch.command(batch.ops.group(group).command as usize).name;
            add(&mut self.commands, name, 1);
        }
        match batch.outcome.group(group) {
            GroupOutcome::Events { first, count } => {
                for at in first..first + count {
                    let kind = batch.outcome.event(at as usize).payload.first().copied().unwrap_or_default();
                    *self.events.entry(kind).or_default() += 1;
                }
            }
            GroupOutcome::Rejected(bytes) => {
                if let Some(code) = Decision::rejected(bytes).code() {
                    add(&mut self.rejections, code, 1);
                }
            }
            GroupOutcome::NeedsKeys => {}
        }
    }

    pub fn merge(&mut self, other: &Self) {
        other.commands.iter().for_each(|(name, count)| add(&mut self.commands, name, *count));
        other.rejections.iter().for_each(|(code, count)| add(&mut self.rejections, code, *count));
        for (kind, count) in &other.events {
            *self.events.entry(*kind).or_default() += count;
        }
    }

    /// Names everything according to the modules' declarations.
    pub fn named(self, declared: &[&Describe]) -> Coverage {
        let mut names: Vec<&str> = Vec::new();
        for describe in declared {
            for (at, event) in describe.events.iter().enumerate() {
                match names.get_mut(at) {
                    Some(name) => *name = &event.name,
                    None => names.push(&event.name),
                }
            }
        }
        let mut events = BTreeMap::new();
        for (kind, count) in &self.events {
            let name = names.get(usize::from(*kind)).map_or_else(|| format!("#{kind}"), |name| (*name).to_owned());
            add(&mut events, &name, *count);
        }
        let commands = declared.iter().flat_map(|describe| &describe.commands).map(|command| command.name.as_str());
        let rejections =
            declared.iter().flat_map(|describe| &describe.rejections).map(|rejection| rejection.code.as_str());
        Coverage {
            commands_never: never(commands, &self.commands),
            rejections_never: never(rejections, &self.rejections),
            events_never: never(names.into_iter(), &events),
            commands: self.commands,
            rejections: self.rejections,
            events,
        }
    }
}

fn add(counts: &mut BTreeMap<String, u64>, name: &str, more: u64) {
    match counts.get_mut(name) {
        Some(count) => *count += more,
        None => drop(counts.insert(name.to_owned(), more)),
    }
}

fn never<'n>(declared: impl Iterator<Item = &'n str>, seen: &BTreeMap<String, u64>) -> Vec<String> {
    let mut missing: Vec<String> = declared.filter(|name| !seen.contains_key(*name)).map(str::to_owned).collect();
    missing.sort();
    missing.dedup();
    missing
}
