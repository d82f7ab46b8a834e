//! The ROWS block (values of an OPS block's keys, same order) and the WRITES block (the rows that changed).
//!
//! | block | section | record | fields |
//! |---|---|---|---|
//! | ROWS | 1 ROWS | 8 B | `offset u32, len u32` per key of the OPS block; offset [`ABSENT`] when there is no such row |
//! | ROWS | 2 BYTES | – | what the offsets point into |
//! | WRITES | 1 WRITES | 12 B | `key u32, offset u32, len u32`; keys strictly rising; offset [`ABSENT`] deletes the row |
//! | WRITES | 2 BYTES | – | what the offsets point into |
//!
//! A row whose value did not change is not written. Neither block is ever logged.

use alloc::vec::Vec;

use crate::block::{ABSENT, AbiError, Block, BlockWriter, kind, slice, u32_at};

const RECORDS: u16 = 1;
const BYTES: u16 = 2;
const KNOWN: [u16; 2] = [RECORDS, BYTES];

#[derive(Clone, Copy, Debug)]
pub struct RowsBlock<'a> {
    rows: &'a [[u8; 8]],
    bytes: &'a [u8],
}

impl<'a> RowsBlock<'a> {
    pub fn parse(raw: &'a [u8]) -> Result<Self, AbiError> {
        let block = Block::parse(raw, kind::ROWS, &KNOWN)?;
        let parsed = Self { rows: block.records(RECORDS)?, bytes: block.section(BYTES)? };
        for row in parsed.rows {
            if u32_at(row, 0) != ABSENT {
                slice(parsed.bytes, u32_at(row, 0), u32_at(row, 4), kind::ROWS, "row")?;
            }
        }
        Ok(parsed)
    }

    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// The row of key `at`, or `None` when there is none.
    #[inline]
    pub fn row(&self, at: usize) -> Option<&'a [u8]> {
        let raw = &self.rows[at];
        let offset = u32_at(raw, 0);
        (offset != ABSENT).then(|| &self.bytes[offset as usize..offset as usize + u32_at(raw, 4) as usize])
    }
}

/// Collects rows in the order of the keys.
#[derive(Default)]
pub struct RowsWriter {
    rows: Vec<[u8; 8]>,
    bytes: Vec<u8>,
}

impl RowsWriter {
    #[inline]
    pub fn row(&mut self, row: Option<&[u8]>) {
        let mut raw = [0; 8];
        let offset = if row.is_some() { self.bytes.len() as u32 } else { ABSENT };
        let row = row.unwrap_or_default();
        raw[0..4].copy_from_slice(&offset.to_le_bytes());
        raw[4..8].copy_from_slice(&(row.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(row);
        self.rows.push(raw);
    }

    pub fn count(&self) -> usize {
        self.rows.len()
    }

    pub fn size(&self) -> usize {
        self.rows.len() * 8 + self.bytes.len()
    }

    pub fn clear(&mut self) {
        self.rows.clear();
        self.bytes.clear();
    }

    pub fn finish(&self, out: Vec<u8>) -> Vec<u8> {
        let mut block = BlockWriter::new(out, kind::ROWS, KNOWN.len());
        block.records(RECORDS, &self.rows).section(BYTES, &self.bytes);
        block.finish()
    }
}

#[derive(Clone, Copy, Debug)]
pub struct WritesBlock<'a> {
    raw: &'a [u8],
    writes: &'a [[u8; 12]],
    bytes: &'a [u8],
}

impl<'a> WritesBlock<'a> {
    /// Parses a guest's output: keys must rise strictly and lie below `key_count`.
    pub fn parse(raw: &'a [u8], key_count: usize) -> Result<Self, AbiError> {
        let parsed = Self::parse_trusted(raw)?;
        let mut before = None;
        for write in parsed.writes {
            let key = u32_at(write, 0);
            if key as usize >= key_count || before.is_some_and(|before| before >= key) {
                return Err(AbiError::Range { kind: kind::WRITES, what: "key" });
            }
            if u32_at(write, 4) != ABSENT {
                slice(parsed.bytes, u32_at(write, 4), u32_at(write, 8), kind::WRITES, "row")?;
            }
            before = Some(key);
        }
        Ok(parsed)
    }

    /// Parses the directory only; accessors panic on a block that [`parse`](Self::parse) would refuse.
    pub fn parse_trusted(raw: &'a [u8]) -> Result<Self, AbiError> {
        let block = Block::parse(raw, kind::WRITES, &KNOWN)?;
        Ok(Self { raw, writes: block.records(RECORDS)?, bytes: block.section(BYTES)? })
    }

    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    pub fn count(&self) -> usize {
        self.writes.len()
    }

    /// The key's index and its new row; `None` deletes it.
    #[inline]
    pub fn write(&self, at: usize) -> (u32, Option<&'a [u8]>) {
        let raw = &self.writes[at];
        let offset = u32_at(raw, 4);
        let row = (offset != ABSENT).then(|| &self.bytes[offset as usize..offset as usize + u32_at(raw, 8) as usize]);
        (u32_at(raw, 0), row)
    }

    pub fn writes(&self) -> impl ExactSizeIterator<Item = (u32, Option<&'a [u8]>)> + use<'a> {
        let this = *self;
        (0..this.writes.len()).map(move |at| this.write(at))
    }
}

/// Collects changed rows in rising order of key.
#[derive(Default)]
pub struct WritesWriter {
    writes: Vec<[u8; 12]>,
    bytes: Vec<u8>,
}

impl WritesWriter {
    pub fn with_capacity(writes: usize, bytes: usize) -> Self {
        Self { writes: Vec::with_capacity(writes), bytes: Vec::with_capacity(bytes) }
    }

    #[inline]
    pub fn write(&mut self, key: u32, row: Option<&[u8]>) {
        let mut raw = [0; 12];
        let offset = if row.is_some() { self.bytes.len() as u32 } else { ABSENT };
        let row = row.unwrap_or_default();
        raw[0..4].copy_from_slice(&key.to_le_bytes());
        raw[4..8].copy_from_slice(&offset.to_le_bytes());
        raw[8..12].copy_from_slice(&(row.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(row);
        self.writes.push(raw);
    }

    pub fn count(&self) -> usize {
        self.writes.len()
    }

    /// Bytes the block will have, without directory and padding.
    pub fn size(&self) -> usize {
        self.writes.len() * 12 + self.bytes.len()
    }

    pub fn finish(&self, out: Vec<u8>) -> Vec<u8> {
        let mut block = BlockWriter::new(out, kind::WRITES, KNOWN.len());
        block.records(RECORDS, &self.writes).section(BYTES, &self.bytes);
        block.finish()
    }
}
