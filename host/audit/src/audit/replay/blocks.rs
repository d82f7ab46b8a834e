//! Parts of a recorded batch as blocks of their own, with the keys that another module needs beside the recorded ones.
//!
//! In: a batch and a range of its groups. Out: OPS and OUTCOME blocks. Recorded keys are first and in the recorded
//! order, so a digest over the writes of a whole batch can be compared with the entry's. It does not know what keys
//! hold.

use std::collections::BTreeMap;
use std::ops::Range;

use hashbrown::HashMap;
use statehouse_abi::ops::{OpRole, OpsBlock, OpsWriter};
use statehouse_abi::outcome::{GroupOutcome, OutcomeWriter};

use crate::machine::entry::Batch;
use crate::machine::replica::is_key_of;

/// Keys by the number of the recorded op that needs them.
pub type ExtraKeys = BTreeMap<u32, Vec<Vec<u8>>>;

/// The OPS and the OUTCOME block of some groups, as they were recorded.
pub fn part_of(batch: &Batch<'_>, groups: Range<usize>, extra: &ExtraKeys) -> (Vec<u8>, Vec<u8>) {
    let (mut ops, mut outcome) = (OpsWriter::default(), OutcomeWriter::default());
    let mut known: HashMap<&[u8], u32> = HashMap::new();
    if groups == (0..batch.ops.group_count()) {
        for key in batch.ops.keys() {
            known.insert(key, ops.key(key));
        }
    }
    let first_op = batch.ops.group(groups.start).first_op;
    for at in groups {
        let group = batch.ops.group(at);
        ops.group(group.command);
        for number in group.first_op..group.first_op + group.op_count {
            let op = batch.ops.op(number as usize);
            let recorded = op.keyrefs().map(|key| batch.ops.key(key as usize));
            let extra = extra.get(&number).into_iter().flatten().map(Vec::as_slice);
            let keys = recorded.chain(extra).map(|key| *known.entry(key).or_insert_with(|| ops.key(key)));
            let keys: Vec<u32> = keys.collect();
            let role = if op.role == OpRole::Undo as u32 { OpRole::Undo } else { OpRole::Step };
            ops.op(op.entity, op.payload, keys, role);
        }
        let first = outcome.event_count();
        match batch.outcome.group(at) {
            GroupOutcome::Events { first: begin, count } => {
                for event in (begin..begin + count).map(|at| batch.outcome.event(at as usize)) {
                    outcome.event(event.op - first_op, event.payload);
                }
                outcome.accept(first);
            }
            GroupOutcome::Rejected(rejection) => outcome.reject(first, rejection),
            GroupOutcome::NeedsKeys => outcome.needs_keys(first),
        }
    }
    (ops.finish(Vec::new()), outcome.finish(Vec::new()))
}

/// Adds the keys that a decision about a recorded group needed and that its recorded ops lack.
pub fn add_extra(extra: &mut ExtraKeys, batch: &Batch<'_>, group: usize, decided: &OpsBlock<'_>, decided_group: usize) {
    let (recorded, decided_group) = (batch.ops.group(group), decided.group(decided_group));
    for number in recorded.first_op..recorded.first_op + recorded.op_count {
        let op = batch.ops.op(number as usize);
        for at in decided_group.first_op..decided_group.first_op + decided_group.op_count {
            for key in decided.op(at as usize).keyrefs().map(|key| decided.key(key as usize)) {
                let is_recorded = op.keyrefs().any(|known| batch.ops.key(known as usize) == key);
                if is_recorded || !is_key_of(key, op.entity) {
                    continue;
                }
                let keys = extra.entry(number).or_default();
                if !keys.iter().any(|known| known == key) {
                    keys.push(key.to_vec());
                }
            }
        }
    }
}
