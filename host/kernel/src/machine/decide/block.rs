//! Building the OPS block of a batch: every key once, every op with its keys, and the keys discovered on the way.
//!
//! In: plans. Out: an OPS block. It does not know which rows the keys have.

use statehouse_abi::key::{LOCAL, Scope, write_key};
use statehouse_abi::ops::{OpRole, OpsBlock, OpsWriter};

use crate::machine::decide::key_table::KeyTable;
use crate::machine::plan::PlanView;

/// Collects groups and gives every key one number.
#[derive(Default)]
pub struct BlockBuilder {
    writer: OpsWriter,
    keys: KeyTable,
    scratch: Vec<u8>,
    keyrefs: Vec<u32>,
}

/// A key that an op needs beyond those that it declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraKey {
    /// Number of the op in the batch.
    pub op: u32,
    pub key: Vec<u8>,
}

impl BlockBuilder {
    /// Adds the group of one command. `first_op` is the number of its first op, `extra` has its discovered keys in
    /// order of op.
    pub fn group(&mut self, command: u32, plan: &PlanView<'_>, first_op: u32, extra: &[ExtraKey]) {
        self.writer.group(command);
        for (op, step) in (first_op..).zip(plan.steps()) {
            self.keyrefs.clear();
            for at in step.first_key..step.first_key + step.key_count {
                let (scope, suffix) = plan.block.key(at);
                let entity = if scope == Scope::Own { step.entity } else { LOCAL };
                self.scratch.clear();
                write_key(&mut self.scratch, entity, suffix);
                self.keyrefs.push(self.keys.number(&self.scratch, |key| self.writer.key(key)));
            }
            for extra in extra.iter().filter(|extra| extra.op == op) {
                self.keyrefs.push(self.keys.number(&extra.key, |key| self.writer.key(key)));
            }
            self.writer.op(step.entity, step.op, self.keyrefs.iter().copied(), plan.role);
        }
    }

    /// How many bytes the block has so far.
    pub fn size(&self) -> usize {
        self.writer.size()
    }

    pub fn finish(&self) -> Vec<u8> {
        self.writer.finish(Vec::with_capacity(self.writer.size() + 256))
    }
}

/// The OPS block of some groups of another block, with the same keys in the same order.
pub fn sub_block(ops: &OpsBlock<'_>, groups: std::ops::Range<usize>) -> Vec<u8> {
    let mut writer = OpsWriter::default();
    for key in ops.keys() {
        writer.key(key);
    }
    for at in groups {
        let group = ops.group(at);
        writer.group(group.command);
        for at in group.first_op..group.first_op + group.op_count {
            let op = ops.op(at as usize);
            let role = if op.role == OpRole::Undo as u32 { OpRole::Undo } else { OpRole::Step };
            writer.op(op.entity, op.payload, op.keyrefs(), role);
        }
    }
    writer.finish(Vec::new())
}
