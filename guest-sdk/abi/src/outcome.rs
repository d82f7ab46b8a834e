//! The OUTCOME block: what became of each group of an OPS block. Recorded in the journal as it is.
//!
//! | section | record | fields |
//! |---|---|---|
//! | 1 GROUPS | 12 B | `status u32, first u32, count u32`, in the order of the OPS block's groups |
//! | 2 EVENTS | 12 B | `op u32, offset u32, len u32`; a group's events lie one behind the other, in order |
//! | 3 BYTES | – | what the offsets point into |
//!
//! Status 0 *events*: `first..first + count` are the group's events. Status 1 *rejected*: `first, count` are offset and
//! length in BYTES of a [`Rejection`](crate::cold::Rejection) in CBOR. Status 2 *needs keys* never reaches the journal:
//! the keys are in the EXECUTE_OUT block beside this one.

use alloc::vec::Vec;

use crate::block::{AbiError, Block, BlockWriter, kind, slice, u32_at};

const GROUPS: u16 = 1;
const EVENTS: u16 = 2;
const BYTES: u16 = 3;
const KNOWN: [u16; 3] = [GROUPS, EVENTS, BYTES];

/// What became of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupOutcome<'a> {
    /// Range of the block's events.
    Events { first: u32, count: u32 },
    /// CBOR of a [`Rejection`](crate::cold::Rejection).
    Rejected(&'a [u8]),
    /// The group touched keys that were not declared; nothing of it counts.
    NeedsKeys,
}

/// One event, produced by the op with index `op` of the OPS block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    pub op: u32,
    pub payload: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub struct OutcomeBlock<'a> {
    raw: &'a [u8],
    groups: &'a [[u8; 12]],
    events: &'a [[u8; 12]],
    bytes: &'a [u8],
}

impl<'a> OutcomeBlock<'a> {
    /// Parses a guest's output or a recorded block and checks it against the groups it answers: as many groups,
    /// events that tile the list in order, each of an op of its own group, ops not falling within a group.
    pub fn parse(raw: &'a [u8], ops: &crate::ops::OpsBlock<'_>) -> Result<Self, AbiError> {
        let parsed = Self::parse_trusted(raw)?;
        if parsed.groups.len() != ops.group_count() {
            return Err(range("group count"));
        }
        let mut next_event = 0u32;
        for (at, group) in parsed.groups.iter().enumerate() {
            let (status, first, count) = (u32_at(group, 0), u32_at(group, 4), u32_at(group, 8));
            match status {
                0 => {
                    let end = first.checked_add(count).filter(|end| *end as usize <= parsed.events.len());
                    let (Some(end), true) = (end, first == next_event) else {
                        return Err(range("events of a group"));
                    };
                    parsed.check_events(first, end, ops.group(at))?;
                    next_event = end;
                }
                1 => drop(slice(parsed.bytes, first, count, kind::OUTCOME, "rejection")?),
                2 => {}
                _ => return Err(range("group status")),
            }
        }
        if next_event as usize != parsed.events.len() {
            return Err(range("events without a group"));
        }
        Ok(parsed)
    }

    fn check_events(&self, first: u32, end: u32, group: crate::ops::Group) -> Result<(), AbiError> {
        let mut op_before = group.first_op;
        for event in &self.events[first as usize..end as usize] {
            let op = u32_at(event, 0);
            if op < op_before || op >= group.first_op + group.op_count {
                return Err(range("op of an event"));
            }
            slice(self.bytes, u32_at(event, 4), u32_at(event, 8), kind::OUTCOME, "event")?;
            op_before = op;
        }
        Ok(())
    }

    /// Parses the directory only; accessors panic on a block that [`parse`](Self::parse) would refuse.
    pub fn parse_trusted(raw: &'a [u8]) -> Result<Self, AbiError> {
        let block = Block::parse(raw, kind::OUTCOME, &KNOWN)?;
        Ok(Self { raw, groups: block.records(GROUPS)?, events: block.records(EVENTS)?, bytes: block.section(BYTES)? })
    }

    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    pub fn event_count(&self) -> usize {
        self.events.len()
    }

    #[inline]
    pub fn group(&self, at: usize) -> GroupOutcome<'a> {
        let raw = &self.groups[at];
        let (first, count) = (u32_at(raw, 4), u32_at(raw, 8));
        match u32_at(raw, 0) {
            0 => GroupOutcome::Events { first, count },
            1 => GroupOutcome::Rejected(&self.bytes[first as usize..first as usize + count as usize]),
            _ => GroupOutcome::NeedsKeys,
        }
    }

    #[inline]
    pub fn event(&self, at: usize) -> Event<'a> {
        let raw = &self.events[at];
        let (offset, len) = (u32_at(raw, 4) as usize, u32_at(raw, 8) as usize);
        Event { op: u32_at(raw, 0), payload: &self.bytes[offset..offset + len] }
    }

    pub fn events(&self) -> impl ExactSizeIterator<Item = Event<'a>> + use<'a> {
        let this = *self;
        (0..this.events.len()).map(move |at| this.event(at))
    }
}

fn range(what: &'static str) -> AbiError {
    AbiError::Range { kind: kind::OUTCOME, what }
}

/// Collects outcomes, group by group.
#[derive(Default)]
pub struct OutcomeWriter {
    groups: Vec<[u8; 12]>,
    events: Vec<[u8; 12]>,
    bytes: Vec<u8>,
}

impl OutcomeWriter {
    pub fn with_capacity(groups: usize, events: usize, bytes: usize) -> Self {
        Self {
            groups: Vec::with_capacity(groups),
            events: Vec::with_capacity(events),
            bytes: Vec::with_capacity(bytes),
        }
    }

    /// Adds an event to the group that the next [`accept`](Self::accept) closes.
    #[inline]
    pub fn event(&mut self, op: u32, payload: &[u8]) {
        self.event_with(op, |out| out.extend_from_slice(payload));
    }

    /// Adds an event whose bytes `write` appends.
    #[inline]
    pub fn event_with(&mut self, op: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let offset = self.bytes.len();
        write(&mut self.bytes);
        self.events.push(record(op, offset as u32, (self.bytes.len() - offset) as u32));
    }

    /// Number of events so far; what a group's events start at.
    #[inline]
    pub fn event_count(&self) -> u32 {
        self.events.len() as u32
    }

    /// Bytes of the event with this index.
    pub fn event_payload(&self, at: u32) -> &[u8] {
        let raw = &self.events[at as usize];
        &self.bytes[u32_at(raw, 4) as usize..][..u32_at(raw, 8) as usize]
    }

    /// Closes a group with all events since `first`.
    #[inline]
    pub fn accept(&mut self, first: u32) {
        self.groups.push(record(0, first, self.event_count() - first));
    }

    /// Closes a group with a rejection; events since `first` are dropped.
    pub fn reject(&mut self, first: u32, rejection: &[u8]) {
        self.discard(first);
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(rejection);
        self.groups.push(record(1, offset, rejection.len() as u32));
    }

    /// Closes a group that touched undeclared keys; events since `first` are dropped.
    pub fn needs_keys(&mut self, first: u32) {
        self.discard(first);
        self.groups.push(record(2, 0, 0));
    }

    fn discard(&mut self, first: u32) {
        if let Some(raw) = self.events.get(first as usize) {
            self.bytes.truncate(u32_at(raw, 4) as usize);
            self.events.truncate(first as usize);
        }
    }

    pub fn size(&self) -> usize {
        self.groups.len() * 12 + self.events.len() * 12 + self.bytes.len()
    }

    pub fn finish(&self, out: Vec<u8>) -> Vec<u8> {
        let mut block = BlockWriter::new(out, kind::OUTCOME, KNOWN.len());
        block.records(GROUPS, &self.groups).records(EVENTS, &self.events).section(BYTES, &self.bytes);
        block.finish()
    }
}

#[inline]
fn record(a: u32, b: u32, c: u32) -> [u8; 12] {
    let mut raw = [0; 12];
    raw[0..4].copy_from_slice(&a.to_le_bytes());
    raw[4..8].copy_from_slice(&b.to_le_bytes());
    raw[8..12].copy_from_slice(&c.to_le_bytes());
    raw
}
