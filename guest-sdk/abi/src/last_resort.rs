//! What a module does where a confirm or an undo is refused for ever: an optional section of the PLAN_OUT block.
//!
//! | block | section | record | fields |
//! |---|---|---|---|
//! | PLAN_OUT | 6 LAST_RESORTS, optional | 12 B | `step u32` among all steps of the block, strictly rising, `offset u32, len u32` of an op in section 7 |
//! | PLAN_OUT | 7 LAST_OPS, optional | – | what the offsets point into |
//!
//! The op stands in for the step's own op where the step runs in Confirm, and for its undo where it runs in Try. It runs on the step's entity
//! and may touch the step's keys. An operator orders it; nothing else does. It does not know when a refusal is for ever.

use alloc::vec::Vec;

use crate::block::{AbiError, Block, BlockWriter, FLAG_OPTIONAL, kind, slice, u32_at};
use crate::plan::{PlanOut, TccRole};

const ITEMS: u16 = 1;
const STEPS: u16 = 2;
const KEYS: u16 = 3;
const BYTES: u16 = 4;
const FREE: u16 = 5;
const LAST_RESORTS: u16 = 6;
const LAST_OPS: u16 = 7;
const KNOWN: [u16; 7] = [ITEMS, STEPS, KEYS, BYTES, FREE, LAST_RESORTS, LAST_OPS];

/// The last resorts of a block's steps.
#[derive(Clone, Copy, Debug)]
pub struct LastResorts<'a> {
    records: &'a [[u8; 12]],
    ops: &'a [u8],
}

impl<'a> LastResorts<'a> {
    /// Parses the sections of a PLAN_OUT block; nothing where the block has none.
    ///
    /// # Errors
    /// It is no such block, or the section names no step of it, or not in order, or bytes that are not there.
    pub fn find(raw: &'a [u8]) -> Result<Option<Self>, AbiError> {
        let block = Block::parse(raw, kind::PLAN_OUT, &KNOWN)?;
        if block.find_section(LAST_RESORTS).is_none() {
            return Ok(None);
        }
        let parsed = Self { records: block.records(LAST_RESORTS)?, ops: block.section(LAST_OPS)? };
        let steps = block.records::<40>(STEPS)?.len();
        let mut before = None;
        for record in parsed.records {
            let step = u32_at(record, 0);
            if steps <= step as usize || before.is_some_and(|before| step <= before) {
                return Err(AbiError::Range { kind: kind::PLAN_OUT, what: "step with a last resort" });
            }
            before = Some(step);
            slice(parsed.ops, u32_at(record, 4), u32_at(record, 8), kind::PLAN_OUT, "last resort")?;
        }
        Ok(Some(parsed))
    }

    /// The op that stands in for a step.
    pub fn of(&self, step: u32) -> Option<&'a [u8]> {
        let at = self.records.binary_search_by_key(&step, |record| u32_at(record, 0)).ok()?;
        let (offset, len) = (u32_at(&self.records[at], 4) as usize, u32_at(&self.records[at], 8) as usize);
        Some(&self.ops[offset..offset + len])
    }
}

/// The block with the last resort of every step that has one; `of` is given the op that may be refused for ever.
///
/// # Errors
/// It is no PLAN_OUT block.
pub fn mark(block: &[u8], of: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Result<Vec<u8>, AbiError> {
    let plans = PlanOut::parse_trusted(block)?;
    let count = Block::parse(block, kind::PLAN_OUT, &KNOWN)?.records::<40>(STEPS)?.len() as u32;
    let last = (0..count).filter_map(|at| {
        let step = plans.step(at);
        let refused = if step.tcc == TccRole::Confirm { Some(step.op) } else { step.undo };
        Some((at, of(refused?)?))
    });
    with(block, last)
}

/// The block with these last resorts, in order of their steps; without any it stays as it is.
///
/// # Errors
/// It is no PLAN_OUT block.
pub fn with(block: &[u8], last: impl Iterator<Item = (u32, Vec<u8>)>) -> Result<Vec<u8>, AbiError> {
    let parsed = Block::parse(block, kind::PLAN_OUT, &KNOWN)?;
    let (mut records, mut ops) = (Vec::new(), Vec::new());
    for (step, op) in last {
        records.extend([step, ops.len() as u32, op.len() as u32].map(u32::to_le_bytes));
        ops.extend_from_slice(&op);
    }
    if records.is_empty() {
        return Ok(block.to_vec());
    }
    let free = parsed.find_section(FREE);
    let section_count = if free.is_some() { 7 } else { 6 };
    let mut marked = BlockWriter::new(Vec::with_capacity(block.len() + ops.len() + 64), kind::PLAN_OUT, section_count);
    for id in [ITEMS, STEPS, KEYS, BYTES] {
        marked.section(id, parsed.section(id)?);
    }
    if let Some(free) = free {
        marked.section_with(FREE, FLAG_OPTIONAL, |out| out.extend_from_slice(free));
    }
    marked.section_with(LAST_RESORTS, FLAG_OPTIONAL, |out| out.extend_from_slice(records.as_flattened()));
    marked.section_with(LAST_OPS, FLAG_OPTIONAL, |out| out.extend_from_slice(&ops));
    Ok(marked.finish())
}
