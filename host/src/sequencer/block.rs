//! Building the OPS block of a batch: every key once, every op with its keys, and the keys discovered on the way.
//!
//! In: plans. Out: an OPS block. It does not know what the keys hold.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use statehouse_abi::key::{LOCAL, Scope, write_key};
use statehouse_abi::ops::{OpRole, OpsBlock, OpsWriter};

use crate::sequencer::submission::PlanView;

/// Collects groups and gives every key one index.
#[derive(Default)]
pub struct BlockBuilder {
    writer: OpsWriter,
    table: HashTable<u32>,
    /// The full keys, one behind the other, and where each ends.
    key_bytes: Vec<u8>,
    key_ends: Vec<u32>,
    key_hashes: Vec<u64>,
    hasher: DefaultHashBuilder,
    scratch: Vec<u8>,
    keyrefs: Vec<u32>,
}

/// A key that an op needs beyond those it declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraKey {
    /// Number of the op in the batch.
    pub op: u32,
    pub key: Vec<u8>,
}

impl BlockBuilder {
    /// Adds the group of one command; `extra` are its discovered keys, in order of op, `next_op` its first op's number.
    pub fn group(&mut self, command: u32, plan: &PlanView<'_>, first_op: u32, extra: &[ExtraKey]) {
        self.writer.group(command);
        for (op, step) in (first_op..).zip(plan.steps()) {
            self.keyrefs.clear();
            for at in step.first_key..step.first_key + step.key_count {
                let (scope, suffix) = plan.block.key(at);
                let entity = if scope == Scope::Own { step.entity } else { LOCAL };
                self.scratch.clear();
                write_key(&mut self.scratch, entity, suffix);
                let scratch = std::mem::take(&mut self.scratch);
                let index = self.key(&scratch);
                self.keyrefs.push(index);
                self.scratch = scratch;
            }
            for extra in extra.iter().filter(|extra| extra.op == op) {
                let index = self.key(&extra.key);
                self.keyrefs.push(index);
            }
            self.writer.op(step.entity, step.op, self.keyrefs.iter().copied(), plan.role);
        }
    }

    fn key(&mut self, key: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(key);
        let is_same = |at: &u32| self.key_hashes[*at as usize] == hash && self.key_at(*at) == key;
        if let Some(at) = self.table.find(hash, is_same) {
            return *at;
        }
        let at = self.writer.key(key);
        self.key_bytes.extend_from_slice(key);
        self.key_ends.push(self.key_bytes.len() as u32);
        self.key_hashes.push(hash);
        let hashes = &self.key_hashes;
        self.table.insert_unique(hash, at, |at| hashes[*at as usize]);
        at
    }

    fn key_at(&self, at: u32) -> &[u8] {
        let start = if at == 0 { 0 } else { self.key_ends[at as usize - 1] };
        &self.key_bytes[start as usize..self.key_ends[at as usize] as usize]
    }

    /// Bytes of the block so far.
    pub fn size(&self) -> usize {
        self.writer.size()
    }

    pub fn finish(&self) -> Vec<u8> {
        self.writer.finish(Vec::with_capacity(self.writer.size() + 256))
    }
}

/// The OPS block of some groups of another one, with the same keys in the same order.
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
