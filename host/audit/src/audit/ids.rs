//! Ids over all partitions of a machine: what a correct host cannot have written, and what clients have done.
//!
//! | found | what it is |
//! |---|---|
//! | an id twice among what a partition has recorded or claimed | a fault |
//! | a call under an id other than its own, or in two partitions | a fault |
//! | a call carried out where the client's id is another command's, and it could have been refused | a fault |
//! | commands carried out under one id at homes without a common partition, or before there were claims | a finding |
//!
//! In: effective entries, partition by partition. Out: faults at once, and at the end findings about clients. This file
//! does not know what commands do.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use statehouse_abi::outcome::GroupOutcome;

use crate::ids::{CommandId, Fingerprint, PartitionId, Position};
use crate::machine::entry::{Entry, Part};
use crate::saga::{Call, CallKey, Derivation, Identity, Origin, Role, SagaPlan};

/// How many findings are listed; the rest would be of the same kind.
const LISTED_MAX: usize = 100;

/// What clients have done that the host could not, or need not, prevent. Nothing is damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub machine: String,
    /// `id_reused`.
    pub kind: &'static str,
    pub id: String,
    /// Where each of the commands ends.
    pub positions: Vec<String>,
    pub detail: String,
}

/// A command, by its home and its id.
type CommandKey = (PartitionId, CommandId);

/// The ids of a machine.
#[derive(Default)]
pub struct Ids {
    here: PartitionIds,
    /// For all partitions: the command whose call is recorded under an id.
    calls: BTreeMap<CommandId, (CommandKey, Position)>,
    /// Where commands that were carried out end.
    done: BTreeMap<CommandId, Vec<Position>>,
    /// Branches for which no Try has claimed the id: their module leaves a partition out of its Tries.
    unclaimed: BTreeSet<(CommandKey, u16)>,
    /// Calls carried out where the id is another command's.
    intruders: Vec<(CommandKey, u16, Position, Position)>,
}

/// The partition that is being read.
#[derive(Default)]
struct PartitionIds {
    recorded: BTreeMap<CommandId, Position>,
    /// The owners of clients' ids: the content of a command of this partition, or the claim of another command.
    holders: BTreeMap<CommandId, (Fingerprint, Position)>,
}

impl Ids {
    /// What follows belongs to another partition.
    pub fn begin_partition(&mut self) {
        self.here = PartitionIds::default();
    }

    /// Takes in a group of an effective entry, at its position; returns what is wrong with it.
    pub fn note(&mut self, entry: &Entry, group: usize, position: Position) -> Option<String> {
        let batch = entry.batch()?;
        let number = batch.ops.group(group).command;
        let command = batch.command(number as usize);
        let is_done = matches!(batch.outcome.group(group), GroupOutcome::Events { .. });
        let part = entry.part(number);
        if is_done && part.is_outcome() {
            self.done.entry(command.id).or_default().push(position);
        }
        match part {
            // It has the id of its start, which is in an entry of its own.
            Part::End => None,
            Part::Call(origin) => self.note_call(origin, (command.id, command.fingerprint()), is_done, position),
            Part::Start | Part::Whole => {
                if let Some(start) = entry.records().start(number).filter(|_| part == Part::Start) {
                    self.note_plan((position.partition, command.id), &start.plan);
                }
                let holder = self.here.holders.insert(command.id, (command.fingerprint(), position));
                let before = self.here.recorded.insert(command.id, position).or(holder.map(|(_, at)| at))?;
                Some(format!("command {} is recorded at {before} and again at {position}", command.id))
            }
        }
    }

    fn note_call(
        &mut self,
        origin: &Origin,
        (id, fingerprint): (CommandId, Fingerprint),
        is_done: bool,
        position: Position,
    ) -> Option<String> {
        let (command, key) = ((origin.home(), origin.parent()), origin.key);
        let identity = origin.identity(fingerprint);
        let parent = command.1;
        // A call that was cancelled before it arrived is recorded by its cancel.
        let is_own = id == identity.call(key) || (!is_done && id == identity.call(key.first_do()));
        if !is_own {
            return Some(format!(
                "a call of command {parent} is recorded at {position} under the id {id}, not its own"
            ));
        }
        if let Some(before) = self.here.recorded.insert(id, position) {
            return Some(format!("call {id} of command {parent} is recorded at {before} and again at {position}"));
        }
        let elsewhere = self.calls.insert(id, (command, position)).filter(|(other, _)| *other == command);
        if let Some((_, before)) = elsewhere {
            return Some(format!("call {id} of command {parent} is recorded at {before} and at {position}"));
        }
        let holder = self.here.holders.get(&parent).copied();
        if origin.is_claim() {
            self.here.holders.insert(parent, (identity.claim(), position));
            let (_, before) = holder?;
            return Some(format!("id {parent} is claimed at {position} and was used here at {before}"));
        }
        self.look_for_intruder(&identity, key, is_done, holder, position);
        None
    }

    fn look_for_intruder(
        &mut self,
        identity: &Identity,
        key: CallKey,
        is_done: bool,
        holder: Option<(Fingerprint, Position)>,
        position: Position,
    ) {
        let Some((content, before)) = holder.filter(|_| is_done && key.call == Call::Do) else { return };
        let is_start = identity.home == position.partition && content == identity.fingerprint;
        if identity.derivation == Derivation::ByContent && !is_start && content != identity.claim() {
            self.intruders.push(((identity.home, identity.command), key.branch, before, position));
        }
    }

    fn note_plan(&mut self, command: CommandKey, plan: &SagaPlan) {
        let tried: BTreeSet<PartitionId> =
            plan.branches.iter().filter(|branch| branch.role == Role::Try).map(|branch| branch.partition()).collect();
        for (number, branch) in (0..).zip(&plan.branches) {
            if !tried.contains(&branch.partition()) {
                self.unclaimed.insert((command, number));
            }
        }
    }

    /// What is wrong with calls, each with its place, once all partitions were read.
    pub fn faults(&self) -> impl Iterator<Item = (Position, String)> {
        let faults =
            self.intruders.iter().filter(|(command, branch, ..)| !self.unclaimed.contains(&(*command, *branch)));
        faults.map(|((_, id), _, before, position)| {
            (
                *position,
                format!("a call of command {id} is carried out at {position}, though the id was used here at {before}"),
            )
        })
    }

    /// What clients have done, and how often.
    pub fn findings(&self, machine: &str) -> (Vec<Finding>, u64) {
        let several = || self.done.iter().filter(|(_, positions)| 1 < positions.len());
        let finding = |(id, positions): (&CommandId, &Vec<Position>)| {
            let positions: Vec<String> = positions.iter().map(Position::to_string).collect();
            let detail = format!(
                "a client used the id {id} for {} commands with different homes, each carried out exactly once: at {}",
                positions.len(),
                positions.join(" and ")
            );
            Finding { machine: machine.to_owned(), kind: "id_reused", id: id.to_string(), positions, detail }
        };
        (several().take(LISTED_MAX).map(finding).collect(), several().count() as u64)
    }
}
