//! The envelopes of the two hot calls: EXECUTE_IN, EXECUTE_OUT and APPLY_IN, which carry the other blocks whole.
//!
//! | block | section | content |
//! |---|---|---|
//! | EXECUTE_IN, APPLY_IN | 1 CONTEXT | `time i64` (microseconds since 1970, UTC), `seed 32 B`, then zeros to 64 B |
//! | EXECUTE_IN, APPLY_IN | 2 OPS | an OPS block |
//! | EXECUTE_IN, APPLY_IN | 3 ROWS | a ROWS block |
//! | APPLY_IN | 4 OUTCOME | an OUTCOME block; only its events are applied |
//! | EXECUTE_OUT | 1 OUTCOME | an OUTCOME block |
//! | EXECUTE_OUT | 2 WRITES | a WRITES block: what `execute` believes that `apply` will make of its events |
//! | EXECUTE_OUT | 3 NEED | 12 B records `op u32, offset u32, len u32`: full keys that an op wanted and had not declared |
//! | EXECUTE_OUT | 4 BYTES | what NEED points into |
//!
//! `sh1_apply` answers with a bare WRITES block.

use alloc::vec::Vec;

use crate::block::{AbiError, Block, BlockWriter, block_size, kind, slice, u32_at, u64_at, write_block};

const CONTEXT: u16 = 1;
const OPS: u16 = 2;
const ROWS: u16 = 3;
const OUTCOME_IN: u16 = 4;
const CONTEXT_SIZE: usize = 64;

const OUTCOME: u16 = 1;
const WRITES: u16 = 2;
const NEED: u16 = 3;
const BYTES: u16 = 4;

/// All that a guest may know of the outside: the entry's time and seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Microseconds since 1970-01-01 UTC.
    pub time: i64,
    pub seed: [u8; 32],
}

impl Context {
    fn to_bytes(self) -> [u8; CONTEXT_SIZE] {
        let mut raw = [0; CONTEXT_SIZE];
        raw[..8].copy_from_slice(&self.time.to_le_bytes());
        raw[8..40].copy_from_slice(&self.seed);
        raw
    }

    fn parse(raw: &[u8], kind: u16) -> Result<Self, AbiError> {
        if raw.len() != CONTEXT_SIZE {
            return Err(AbiError::Range { kind, what: "context" });
        }
        let mut seed = [0; 32];
        seed.copy_from_slice(&raw[8..40]);
        Ok(Self { time: u64_at(raw, 0) as i64, seed })
    }
}

/// The parts of EXECUTE_IN and APPLY_IN, not yet parsed further.
#[derive(Clone, Copy, Debug)]
pub struct CallIn<'a> {
    pub context: Context,
    pub ops: &'a [u8],
    pub rows: &'a [u8],
    /// Present in APPLY_IN only.
    pub outcome: Option<&'a [u8]>,
}

impl CallIn<'_> {
    /// Bytes of the block: EXECUTE_IN, or APPLY_IN if there is an outcome.
    pub fn size(&self) -> usize {
        match self.outcome {
            None => block_size(&[CONTEXT_SIZE, self.ops.len(), self.rows.len()]),
            Some(outcome) => block_size(&[CONTEXT_SIZE, self.ops.len(), self.rows.len(), outcome.len()]),
        }
    }

    /// Writes the block over a buffer of exactly [`size`](Self::size) bytes: the guest's own memory.
    pub fn write_to(&self, out: &mut [u8]) {
        let context = self.context.to_bytes();
        let sections = [(CONTEXT, &context[..]), (OPS, self.ops), (ROWS, self.rows)];
        match self.outcome {
            None => write_block(out, kind::EXECUTE_IN, &sections),
            Some(outcome) => {
                let [context, ops, rows] = sections;
                write_block(out, kind::APPLY_IN, &[context, ops, rows, (OUTCOME_IN, outcome)]);
            }
        }
    }
}

pub fn write_execute_in(out: Vec<u8>, context: Context, ops: &[u8], rows: &[u8]) -> Vec<u8> {
    let mut block = BlockWriter::new(out, kind::EXECUTE_IN, 3);
    block.section(CONTEXT, &context.to_bytes()).section(OPS, ops).section(ROWS, rows);
    block.finish()
}

pub fn write_apply_in(out: Vec<u8>, context: Context, ops: &[u8], rows: &[u8], outcome: &[u8]) -> Vec<u8> {
    let mut block = BlockWriter::new(out, kind::APPLY_IN, 4);
    block.section(CONTEXT, &context.to_bytes()).section(OPS, ops).section(ROWS, rows).section(OUTCOME_IN, outcome);
    block.finish()
}

pub fn parse_execute_in(raw: &[u8]) -> Result<CallIn<'_>, AbiError> {
    let block = Block::parse(raw, kind::EXECUTE_IN, &[CONTEXT, OPS, ROWS])?;
    let context = Context::parse(block.section(CONTEXT)?, kind::EXECUTE_IN)?;
    Ok(CallIn { context, ops: block.section(OPS)?, rows: block.section(ROWS)?, outcome: None })
}

pub fn parse_apply_in(raw: &[u8]) -> Result<CallIn<'_>, AbiError> {
    let block = Block::parse(raw, kind::APPLY_IN, &[CONTEXT, OPS, ROWS, OUTCOME_IN])?;
    let context = Context::parse(block.section(CONTEXT)?, kind::APPLY_IN)?;
    let outcome = Some(block.section(OUTCOME_IN)?);
    Ok(CallIn { context, ops: block.section(OPS)?, rows: block.section(ROWS)?, outcome })
}

/// A key that an op wanted and had not declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeededKey<'a> {
    pub op: u32,
    /// The full key; it must belong to the op's own entity or to `@local`.
    pub key: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub struct ExecuteOut<'a> {
    pub outcome: &'a [u8],
    pub writes: &'a [u8],
    need: &'a [[u8; 12]],
    bytes: &'a [u8],
}

impl<'a> ExecuteOut<'a> {
    pub fn parse(raw: &'a [u8]) -> Result<Self, AbiError> {
        let block = Block::parse(raw, kind::EXECUTE_OUT, &[OUTCOME, WRITES, NEED, BYTES])?;
        let parsed = Self {
            outcome: block.section(OUTCOME)?,
            writes: block.section(WRITES)?,
            need: block.records(NEED)?,
            bytes: block.section(BYTES)?,
        };
        for need in parsed.need {
            slice(parsed.bytes, u32_at(need, 4), u32_at(need, 8), kind::EXECUTE_OUT, "needed key")?;
        }
        Ok(parsed)
    }

    pub fn needed(&self) -> impl ExactSizeIterator<Item = NeededKey<'a>> + use<'a> {
        let this = *self;
        this.need.iter().map(move |raw| {
            let (offset, len) = (u32_at(raw, 4) as usize, u32_at(raw, 8) as usize);
            NeededKey { op: u32_at(raw, 0), key: &this.bytes[offset..offset + len] }
        })
    }
}

/// Writes EXECUTE_OUT around a finished outcome and finished writes.
pub fn write_execute_out<'k>(
    out: Vec<u8>,
    outcome: &[u8],
    writes: &[u8],
    needed: impl IntoIterator<Item = (u32, &'k [u8])>,
) -> Vec<u8> {
    let append = |bytes| {
        move |mut out: Vec<u8>| {
            out.extend_from_slice(bytes);
            out
        }
    };
    write_execute_out_with(out, append(outcome), append(writes), needed)
}

/// Writes EXECUTE_OUT; `outcome` and `writes` append their blocks to what they get, so that nothing is copied.
/// `out` must be empty or end at a multiple of 8.
pub fn write_execute_out_with<'k>(
    out: Vec<u8>,
    outcome: impl FnOnce(Vec<u8>) -> Vec<u8>,
    writes: impl FnOnce(Vec<u8>) -> Vec<u8>,
    needed: impl IntoIterator<Item = (u32, &'k [u8])>,
) -> Vec<u8> {
    let mut need = Vec::new();
    let mut bytes = Vec::new();
    for (op, key) in needed {
        let mut raw = [0; 12];
        raw[0..4].copy_from_slice(&op.to_le_bytes());
        raw[4..8].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        raw[8..12].copy_from_slice(&(key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key);
        need.push(raw);
    }
    let mut block = BlockWriter::new(out, kind::EXECUTE_OUT, 4);
    block.section_with(OUTCOME, 0, |out| *out = outcome(core::mem::take(out)));
    block.section_with(WRITES, 0, |out| *out = writes(core::mem::take(out)));
    block.records(NEED, &need).section(BYTES, &bytes);
    block.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_written_in_place_has_the_same_bytes() {
        let context = Context { time: -5, seed: [7; 32] };
        let (ops, rows, outcome) = ([1; 24], [2; 13], [3; 8]);
        let mut parts = CallIn { context, ops: &ops, rows: &rows, outcome: None };
        let mut execute_in = alloc::vec![0xff; parts.size()];
        parts.write_to(&mut execute_in);
        assert_eq!(execute_in, write_execute_in(Vec::new(), context, &ops, &rows));
        parts.outcome = Some(&outcome);
        let mut apply_in = alloc::vec![0xff; parts.size()];
        parts.write_to(&mut apply_in);
        assert_eq!(apply_in, write_apply_in(Vec::new(), context, &ops, &rows, &outcome));
    }
}
