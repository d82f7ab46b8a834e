//! The PLAN_IN block (commands as the client sent them) and the PLAN_OUT block (what each is to do, or a refusal).
//!
//! | block | section | record | fields |
//! |---|---|---|---|
//! | PLAN_IN | 1 ITEMS | 40 B | `command u32` (index in `describe`), `roles u32`, `id 16 B`, `caller offset u32, len u32, body offset u32, len u32` |
//! | PLAN_IN | 2 BYTES | – | what the offsets point into; a body is a value in CBOR |
//! | PLAN_OUT | 1 ITEMS | 32 B | `status u32, coordination u32, first_step u32, step_count u32, home offset u32, len u32, body offset u32, len u32` |
//! | PLAN_OUT | 2 STEPS | 40 B | `op offset u32, len u32, entity offset u32, len u32, first_key u32, key_count u32, undo offset u32, len u32, tcc u32, 0 u32` |
//! | PLAN_OUT | 3 KEYS | 12 B | `scope u32, offset u32, len u32` of a key's suffix |
//! | PLAN_OUT | 4 BYTES | – | what the offsets point into; section 5 is in `consent.rs` |
//!
//! Status 0 *plan*: `body` is the canonical body in CBOR, two spellings of one command give the same bytes.
//! Status 1 *refused*: `body` is a [`Refusal`](crate::cold::Refusal) in CBOR, all else is zero. An undo offset of
//! [`ABSENT`] says that the step has no compensation.

use alloc::vec::Vec;

use crate::block::{ABSENT, AbiError, Block, BlockWriter, kind, slice, u32_at};
use crate::key::Scope;

const ITEMS: u16 = 1;
const BYTES_IN: u16 = 2;
const STEPS: u16 = 2;
const KEYS: u16 = 3;
const BYTES_OUT: u16 = 4;

/// How the steps of a command on several partitions are coordinated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Coordination {
    Saga = 0,
    TryConfirmCancel = 1,
}

/// In which phase of Try-Confirm/Cancel a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TccRole {
    Try = 0,
    Confirm = 1,
}

/// One command to be planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanItem<'a> {
    /// Index into the commands of `describe`.
    pub command: u32,
    /// Bits of [`role`](crate::role).
    pub roles: u32,
    pub id: [u8; 16],
    pub caller: &'a [u8],
    pub body: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub struct PlanIn<'a> {
    items: &'a [[u8; 40]],
    bytes: &'a [u8],
}

impl<'a> PlanIn<'a> {
    pub fn parse(raw: &'a [u8]) -> Result<Self, AbiError> {
        let block = Block::parse(raw, kind::PLAN_IN, &[ITEMS, BYTES_IN])?;
        let parsed = Self { items: block.records(ITEMS)?, bytes: block.section(BYTES_IN)? };
        for item in parsed.items {
            slice(parsed.bytes, u32_at(item, 24), u32_at(item, 28), kind::PLAN_IN, "caller")?;
            slice(parsed.bytes, u32_at(item, 32), u32_at(item, 36), kind::PLAN_IN, "body")?;
        }
        Ok(parsed)
    }

    pub fn count(&self) -> usize {
        self.items.len()
    }

    pub fn item(&self, at: usize) -> PlanItem<'a> {
        let raw = &self.items[at];
        let range = |offset: usize| &self.bytes[u32_at(raw, offset) as usize..][..u32_at(raw, offset + 4) as usize];
        let mut id = [0; 16];
        id.copy_from_slice(&raw[8..24]);
        PlanItem { command: u32_at(raw, 0), roles: u32_at(raw, 4), id, caller: range(24), body: range(32) }
    }
}

#[derive(Default)]
pub struct PlanInWriter {
    items: Vec<[u8; 40]>,
    bytes: Vec<u8>,
}

impl PlanInWriter {
    pub fn item(&mut self, item: PlanItem<'_>) {
        let mut raw = [0; 40];
        raw[0..4].copy_from_slice(&item.command.to_le_bytes());
        raw[4..8].copy_from_slice(&item.roles.to_le_bytes());
        raw[8..24].copy_from_slice(&item.id);
        for (at, part) in [(24, item.caller), (32, item.body)] {
            raw[at..at + 4].copy_from_slice(&(self.bytes.len() as u32).to_le_bytes());
            raw[at + 4..at + 8].copy_from_slice(&(part.len() as u32).to_le_bytes());
            self.bytes.extend_from_slice(part);
        }
        self.items.push(raw);
    }

    pub fn finish(&self, out: Vec<u8>) -> Vec<u8> {
        let mut block = BlockWriter::new(out, kind::PLAN_IN, 2);
        block.records(ITEMS, &self.items).section(BYTES_IN, &self.bytes);
        block.finish()
    }
}

/// What the module wants done for one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planned<'a> {
    Plan {
        coordination: Coordination,
        home: &'a [u8],
        body: &'a [u8],
        first_step: u32,
        step_count: u32,
    },
    /// CBOR of a [`Refusal`](crate::cold::Refusal).
    Refused(&'a [u8]),
}

/// One step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    pub op: &'a [u8],
    pub entity: &'a [u8],
    pub undo: Option<&'a [u8]>,
    pub tcc: TccRole,
    pub first_key: u32,
    pub key_count: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct PlanOut<'a> {
    items: &'a [[u8; 32]],
    steps: &'a [[u8; 40]],
    keys: &'a [[u8; 12]],
    bytes: &'a [u8],
}

impl<'a> PlanOut<'a> {
    /// Parses the directory only; accessors panic on a block that [`parse`](Self::parse) would refuse.
    pub fn parse_trusted(raw: &'a [u8]) -> Result<Self, AbiError> {
        let block = Block::parse(raw, kind::PLAN_OUT, &[ITEMS, STEPS, KEYS, BYTES_OUT])?;
        Ok(Self {
            items: block.records(ITEMS)?,
            steps: block.records(STEPS)?,
            keys: block.records(KEYS)?,
            bytes: block.section(BYTES_OUT)?,
        })
    }

    /// Parses and checks a guest's output: items tile the steps, steps tile the keys, all bytes are in range.
    pub fn parse(raw: &'a [u8]) -> Result<Self, AbiError> {
        let parsed = Self::parse_trusted(raw)?;
        let range = |what| AbiError::Range { kind: kind::PLAN_OUT, what };
        let bytes = |offset, len, what| slice(parsed.bytes, offset, len, kind::PLAN_OUT, what);
        let mut next_step = 0;
        for item in parsed.items {
            let (status, coordination, first, count) =
                (u32_at(item, 0), u32_at(item, 4), u32_at(item, 8), u32_at(item, 12));
            bytes(u32_at(item, 16), u32_at(item, 20), "home")?;
            bytes(u32_at(item, 24), u32_at(item, 28), "body")?;
            if status > 1 || coordination > 1 || (status == 0 && (first != next_step || count == 0)) {
                return Err(range("item"));
            }
            if status == 0 {
                next_step = first.checked_add(count).ok_or(range("steps of an item"))?;
            }
        }
        if next_step as usize != parsed.steps.len() {
            return Err(range("steps of an item"));
        }
        let mut next_key = 0;
        for step in parsed.steps {
            bytes(u32_at(step, 0), u32_at(step, 4), "op")?;
            bytes(u32_at(step, 8), u32_at(step, 12), "entity")?;
            if u32_at(step, 24) != ABSENT {
                bytes(u32_at(step, 24), u32_at(step, 28), "undo")?;
            }
            if u32_at(step, 16) != next_key || u32_at(step, 32) > 1 {
                return Err(range("step"));
            }
            next_key = next_key.checked_add(u32_at(step, 20)).ok_or(range("keys of a step"))?;
        }
        if next_key as usize != parsed.keys.len() {
            return Err(range("keys of a step"));
        }
        for key in parsed.keys {
            bytes(u32_at(key, 4), u32_at(key, 8), "key")?;
            if u32_at(key, 0) > 1 {
                return Err(range("scope of a key"));
            }
        }
        Ok(parsed)
    }

    pub fn count(&self) -> usize {
        self.items.len()
    }

    pub fn item(&self, at: usize) -> Planned<'a> {
        let raw = &self.items[at];
        let body = self.range(u32_at(raw, 24), u32_at(raw, 28));
        if u32_at(raw, 0) == 1 {
            return Planned::Refused(body);
        }
        let coordination = if u32_at(raw, 4) == 0 { Coordination::Saga } else { Coordination::TryConfirmCancel };
        let home = self.range(u32_at(raw, 16), u32_at(raw, 20));
        Planned::Plan { coordination, home, body, first_step: u32_at(raw, 8), step_count: u32_at(raw, 12) }
    }

    pub fn step(&self, at: u32) -> Step<'a> {
        let raw = &self.steps[at as usize];
        Step {
            op: self.range(u32_at(raw, 0), u32_at(raw, 4)),
            entity: self.range(u32_at(raw, 8), u32_at(raw, 12)),
            undo: (u32_at(raw, 24) != ABSENT).then(|| self.range(u32_at(raw, 24), u32_at(raw, 28))),
            tcc: if u32_at(raw, 32) == 0 { TccRole::Try } else { TccRole::Confirm },
            first_key: u32_at(raw, 16),
            key_count: u32_at(raw, 20),
        }
    }

    /// Scope and suffix of a step's key.
    pub fn key(&self, at: u32) -> (Scope, &'a [u8]) {
        let raw = &self.keys[at as usize];
        let scope = if u32_at(raw, 0) == 0 { Scope::Own } else { Scope::Local };
        (scope, self.range(u32_at(raw, 4), u32_at(raw, 8)))
    }

    fn range(&self, offset: u32, len: u32) -> &'a [u8] {
        &self.bytes[offset as usize..offset as usize + len as usize]
    }
}

/// Collects plans, item by item: the steps of an item first, then [`plan`](Self::plan) or [`refuse`](Self::refuse).
#[derive(Default)]
pub struct PlanOutWriter {
    items: Vec<[u8; 32]>,
    steps: Vec<[u8; 40]>,
    keys: Vec<[u8; 12]>,
    bytes: Vec<u8>,
    item_first_step: u32,
}

impl PlanOutWriter {
    /// Adds a step to the open item; the keys that follow belong to it.
    pub fn step(&mut self, op: &[u8], entity: &[u8], undo: Option<&[u8]>, tcc: TccRole) {
        let (op, entity) = (self.push(op), self.push(entity));
        let undo = undo.map_or((ABSENT, 0), |undo| self.push(undo));
        let fields = [op.0, op.1, entity.0, entity.1, self.keys.len() as u32, 0, undo.0, undo.1, tcc as u32, 0];
        self.steps.push(fields_to_bytes(fields));
    }

    /// Declares a key of the step added last.
    pub fn key(&mut self, scope: Scope, suffix: &[u8]) {
        let (offset, len) = self.push(suffix);
        self.keys.push(fields_to_bytes([scope as u32, offset, len]));
        let step = self.steps.last_mut().expect("a step must be added before its keys");
        let count = u32_at(step, 20) + 1;
        step[20..24].copy_from_slice(&count.to_le_bytes());
    }

    /// Closes the item with all steps since the item before.
    pub fn plan(&mut self, coordination: Coordination, home: &[u8], canonical_body: &[u8]) {
        let (home, body) = (self.push(home), self.push(canonical_body));
        let first = self.item_first_step;
        let count = self.steps.len() as u32 - first;
        self.items.push(fields_to_bytes([0, coordination as u32, first, count, home.0, home.1, body.0, body.1]));
        self.item_first_step = self.steps.len() as u32;
    }

    /// Closes the item with a refusal; steps added since the item before are dropped.
    pub fn refuse(&mut self, refusal: &[u8]) {
        if let Some(step) = self.steps.get(self.item_first_step as usize) {
            self.keys.truncate(u32_at(step, 16) as usize);
            self.steps.truncate(self.item_first_step as usize);
        }
        let body = self.push(refusal);
        self.items.push(fields_to_bytes([1, 0, 0, 0, 0, 0, body.0, body.1]));
    }

    fn push(&mut self, bytes: &[u8]) -> (u32, u32) {
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        (offset, bytes.len() as u32)
    }

    pub fn finish(&self, out: Vec<u8>) -> Vec<u8> {
        let mut block = BlockWriter::new(out, kind::PLAN_OUT, 4);
        block.records(ITEMS, &self.items).records(STEPS, &self.steps).records(KEYS, &self.keys);
        block.section(BYTES_OUT, &self.bytes);
        block.finish()
    }
}

fn fields_to_bytes<const FIELDS: usize, const SIZE: usize>(fields: [u32; FIELDS]) -> [u8; SIZE] {
    const { assert!(FIELDS * 4 == SIZE) };
    let mut raw = [0; SIZE];
    for (to, field) in raw.as_chunks_mut::<4>().0.iter_mut().zip(fields) {
        *to = field.to_le_bytes();
    }
    raw
}
