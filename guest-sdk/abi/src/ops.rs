//! The OPS block: the ops of a batch in groups, with the keys each may touch. Recorded in the journal as it is.
//!
//! | section | record | fields |
//! |---|---|---|
//! | 1 GROUPS | 16 B | `first_op u32, op_count u32, command u32` (index into the batch's commands), `0 u32` |
//! | 2 OPS | 28 B | `payload offset u32, len u32, entity offset u32, len u32, first_keyref u32, keyref_count u32, role u32` |
//! | 3 KEYREFS | 4 B | index into KEYS; an op's keyrefs are in the order its author declared them |
//! | 4 KEYS | 8 B | `offset u32, len u32` of a full key; every key of the batch once, in order of first mention |
//! | 5 BYTES | – | what the offsets point into |
//!
//! A *group* is all ops of one command on one partition: all or nothing. Groups lie one behind the other.

use alloc::vec::Vec;

use crate::block::{AbiError, Block, BlockWriter, kind, slice, u32_at};

const GROUPS: u16 = 1;
const OPS: u16 = 2;
const KEYREFS: u16 = 3;
const KEYS: u16 = 4;
const BYTES: u16 = 5;
const KNOWN: [u16; 5] = [GROUPS, OPS, KEYREFS, KEYS, BYTES];

/// What an op does within its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum OpRole {
    /// A step of the command.
    Step = 0,
    /// The compensation of a step that was done.
    Undo = 1,
}

/// A group of the block: a range of ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub first_op: u32,
    pub op_count: u32,
    /// Index into the commands of the batch.
    pub command: u32,
}

/// One op; borrowed from the block.
#[derive(Clone, Copy, Debug)]
pub struct Op<'a> {
    pub payload: &'a [u8],
    pub entity: &'a [u8],
    keyrefs: &'a [[u8; 4]],
    pub role: u32,
}

impl<'a> Op<'a> {
    /// Indices into the block's keys, in the order the author declared them.
    #[inline]
    pub fn keyrefs(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.keyrefs.iter().map(|raw| u32::from_le_bytes(*raw))
    }

    pub fn keyref_count(&self) -> usize {
        self.keyrefs.len()
    }

    #[inline]
    pub fn keyref(&self, at: usize) -> Option<u32> {
        self.keyrefs.get(at).map(|raw| u32::from_le_bytes(*raw))
    }
}

/// A parsed OPS block. Every range in it has been checked, so its accessors cannot fail for an index in range.
#[derive(Clone, Copy, Debug)]
pub struct OpsBlock<'a> {
    raw: &'a [u8],
    groups: &'a [[u8; 16]],
    ops: &'a [[u8; 28]],
    keyrefs: &'a [[u8; 4]],
    keys: &'a [[u8; 8]],
    bytes: &'a [u8],
}

impl<'a> OpsBlock<'a> {
    /// Parses and checks all of it: groups tile the ops, keyrefs and byte ranges are in range.
    pub fn parse(raw: &'a [u8]) -> Result<Self, AbiError> {
        let parsed = Self::parse_trusted(raw)?;
        let mut next_op = 0u32;
        for at in 0..parsed.group_count() {
            let group = parsed.group(at);
            if group.first_op != next_op || group.op_count == 0 {
                return Err(range("group"));
            }
            next_op = next_op.checked_add(group.op_count).ok_or(range("group"))?;
        }
        if next_op as usize != parsed.ops.len() {
            return Err(range("group"));
        }
        for op in parsed.ops {
            slice(parsed.bytes, u32_at(op, 0), u32_at(op, 4), kind::OPS, "op payload")?;
            slice(parsed.bytes, u32_at(op, 8), u32_at(op, 12), kind::OPS, "op entity")?;
            slice_count(parsed.keyrefs.len(), u32_at(op, 16), u32_at(op, 20))?;
        }
        if parsed.keyrefs.iter().any(|raw| u32::from_le_bytes(*raw) as usize >= parsed.keys.len()) {
            return Err(range("keyref"));
        }
        for key in parsed.keys {
            slice(parsed.bytes, u32_at(key, 0), u32_at(key, 4), kind::OPS, "key")?;
        }
        Ok(parsed)
    }

    /// Parses the directory only: for a block this process wrote itself or has already checked.
    /// Accessors panic on a block that [`parse`](Self::parse) would refuse.
    pub fn parse_trusted(raw: &'a [u8]) -> Result<Self, AbiError> {
        let block = Block::parse(raw, kind::OPS, &KNOWN)?;
        Ok(Self {
            raw,
            groups: block.records(GROUPS)?,
            ops: block.records(OPS)?,
            keyrefs: block.records(KEYREFS)?,
            keys: block.records(KEYS)?,
            bytes: block.section(BYTES)?,
        })
    }

    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    pub fn op_count(&self) -> usize {
        self.ops.len()
    }

    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    #[inline]
    pub fn group(&self, at: usize) -> Group {
        let raw = &self.groups[at];
        Group { first_op: u32_at(raw, 0), op_count: u32_at(raw, 4), command: u32_at(raw, 8) }
    }

    #[inline]
    pub fn op(&self, at: usize) -> Op<'a> {
        let raw = &self.ops[at];
        let first = u32_at(raw, 16) as usize;
        Op {
            payload: self.range(u32_at(raw, 0), u32_at(raw, 4)),
            entity: self.range(u32_at(raw, 8), u32_at(raw, 12)),
            keyrefs: &self.keyrefs[first..first + u32_at(raw, 20) as usize],
            role: u32_at(raw, 24),
        }
    }

    #[inline]
    pub fn key(&self, at: usize) -> &'a [u8] {
        let raw = &self.keys[at];
        self.range(u32_at(raw, 0), u32_at(raw, 4))
    }

    pub fn keys(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let this = *self;
        (0..this.keys.len()).map(move |at| this.key(at))
    }

    #[inline]
    fn range(&self, offset: u32, len: u32) -> &'a [u8] {
        &self.bytes[offset as usize..offset as usize + len as usize]
    }
}

fn range(what: &'static str) -> AbiError {
    AbiError::Range { kind: kind::OPS, what }
}

fn slice_count(available: usize, first: u32, count: u32) -> Result<(), AbiError> {
    match (first as usize).checked_add(count as usize) {
        Some(end) if end <= available => Ok(()),
        _ => Err(range("keyrefs of an op")),
    }
}

/// Collects groups, ops and keys, then writes the block. Whoever calls it gives each key one index.
#[derive(Default)]
pub struct OpsWriter {
    groups: Vec<[u8; 16]>,
    ops: Vec<[u8; 28]>,
    keyrefs: Vec<[u8; 4]>,
    keys: Vec<[u8; 8]>,
    bytes: Vec<u8>,
}

impl OpsWriter {
    /// Opens a group; the ops that follow belong to it.
    pub fn group(&mut self, command: u32) {
        let mut raw = [0; 16];
        raw[0..4].copy_from_slice(&(self.ops.len() as u32).to_le_bytes());
        raw[8..12].copy_from_slice(&command.to_le_bytes());
        self.groups.push(raw);
    }

    /// Adds a key and returns its index.
    pub fn key(&mut self, key: &[u8]) -> u32 {
        let mut raw = [0; 8];
        raw[0..4].copy_from_slice(&(self.bytes.len() as u32).to_le_bytes());
        raw[4..8].copy_from_slice(&(key.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.keys.push(raw);
        (self.keys.len() - 1) as u32
    }

    /// Adds an op to the open group.
    pub fn op(&mut self, entity: &[u8], payload: &[u8], keyrefs: impl IntoIterator<Item = u32>, role: OpRole) {
        let mut raw = [0; 28];
        let payload_offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(payload);
        let entity_offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(entity);
        let first_keyref = self.keyrefs.len() as u32;
        self.keyrefs.extend(keyrefs.into_iter().map(u32::to_le_bytes));
        let fields = [
            payload_offset,
            payload.len() as u32,
            entity_offset,
            entity.len() as u32,
            first_keyref,
            self.keyrefs.len() as u32 - first_keyref,
            role as u32,
        ];
        for (to, field) in raw.as_chunks_mut::<4>().0.iter_mut().zip(fields) {
            *to = field.to_le_bytes();
        }
        self.ops.push(raw);
        let group = self.groups.last_mut().expect("a group must be opened before its ops");
        let count = u32_at(group, 4) + 1;
        group[4..8].copy_from_slice(&count.to_le_bytes());
    }

    /// Bytes the block will have, without directory and padding.
    pub fn size(&self) -> usize {
        self.groups.len() * 16 + self.ops.len() * 28 + self.keyrefs.len() * 4 + self.keys.len() * 8 + self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub fn finish(&self, out: Vec<u8>) -> Vec<u8> {
        let mut block = BlockWriter::new(out, kind::OPS, KNOWN.len());
        block.records(GROUPS, &self.groups).records(OPS, &self.ops).records(KEYREFS, &self.keyrefs);
        block.records(KEYS, &self.keys).section(BYTES, &self.bytes);
        block.finish()
    }
}
