//! The container of every hot structure: a header, a directory of sections, the sections.
//!
//! All integers are little-endian. Sections start at multiples of 8 from the block's start; padding is zero.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | `abi` = [`ABI_VERSION`](crate::ABI_VERSION) |
//! | 2 | 2 | `kind`, see [`kind`] |
//! | 4 | 2 | section count |
//! | 6 | 2 | zero |
//! | 8 | 4 | length of the whole block in bytes, a multiple of 8 |
//! | 12 | 4 | zero |
//! | 16 | 12 × count | directory: `id u16, flags u16, offset u32, len u32`, ids strictly rising |
//!
//! Flag bit 0 marks a section optional: a reader that does not know its id skips it. An unknown section without the bit
//! is an error. It knows nothing of what the sections mean.

use alloc::vec::Vec;
use core::fmt;

use crate::ABI_VERSION;

pub const HEADER_SIZE: usize = 16;
pub const DIRECTORY_ENTRY_SIZE: usize = 12;
/// A section that an older reader may skip.
pub const FLAG_OPTIONAL: u16 = 1;
/// An offset that stands for "absent" in records of offset and length.
pub const ABSENT: u32 = u32::MAX;

/// What a block is. Numbers are never reused.
pub mod kind {
    pub const PLAN_IN: u16 = 1;
    pub const PLAN_OUT: u16 = 2;
    pub const OPS: u16 = 3;
    pub const ROWS: u16 = 4;
    pub const OUTCOME: u16 = 5;
    pub const WRITES: u16 = 6;
    pub const EXECUTE_IN: u16 = 7;
    pub const EXECUTE_OUT: u16 = 8;
    pub const APPLY_IN: u16 = 9;
    pub const RENDER_IN: u16 = 10;
    pub const RENDER_OUT: u16 = 11;
    /// Used by the host alone: an entry of the journal.
    pub const ENTRY: u16 = 64;
}

/// Why bytes are not the block they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbiError {
    Truncated { kind: u16 },
    Version { found: u16 },
    Kind { expected: u16, found: u16 },
    Length { found: usize, stated: usize },
    Directory { kind: u16 },
    UnknownSection { kind: u16, id: u16 },
    MissingSection { kind: u16, id: u16 },
    RecordSize { kind: u16, id: u16, len: usize, record: usize },
    Range { kind: u16, what: &'static str },
    Value { what: &'static str },
}

impl fmt::Display for AbiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { kind } => write!(f, "block of kind {kind} is cut short"),
            Self::Version { found } => write!(f, "ABI version {found} is not {ABI_VERSION}"),
            Self::Kind { expected, found } => write!(f, "expected a block of kind {expected}, found kind {found}"),
            Self::Length { found, stated } => write!(f, "block states {stated} bytes, but {found} are there"),
            Self::Directory { kind } => write!(f, "directory of block kind {kind} is malformed"),
            Self::UnknownSection { kind, id } => write!(f, "block kind {kind} has unknown section {id}"),
            Self::MissingSection { kind, id } => write!(f, "block kind {kind} lacks section {id}"),
            Self::RecordSize { kind, id, len, record } => {
                write!(f, "section {id} of block kind {kind} has {len} bytes, no multiple of {record}")
            }
            Self::Range { kind, what } => write!(f, "block kind {kind}: {what} out of range"),
            Self::Value { what } => write!(f, "{what}"),
        }
    }
}

impl core::error::Error for AbiError {}

/// A parsed block: its directory has been checked, its sections are borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    kind: u16,
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Block<'a> {
    /// Checks the header and the directory; `known` are the section ids this reader understands.
    pub fn parse(bytes: &'a [u8], expected: u16, known: &[u16]) -> Result<Self, AbiError> {
        let header = bytes.get(..HEADER_SIZE).ok_or(AbiError::Truncated { kind: expected })?;
        let abi = u16_at(header, 0);
        if abi != ABI_VERSION {
            return Err(AbiError::Version { found: abi });
        }
        let kind = u16_at(header, 2);
        if kind != expected {
            return Err(AbiError::Kind { expected, found: kind });
        }
        let stated = u32_at(header, 8) as usize;
        if stated != bytes.len() || !stated.is_multiple_of(8) {
            return Err(AbiError::Length { found: bytes.len(), stated });
        }
        let count = u16_at(header, 4) as usize;
        let directory_end = HEADER_SIZE + count * DIRECTORY_ENTRY_SIZE;
        if u16_at(header, 6) != 0 || u32_at(header, 12) != 0 || directory_end > bytes.len() {
            return Err(AbiError::Directory { kind });
        }
        let block = Self { kind, bytes, count };
        let mut id_before = None;
        let mut end_before = directory_end;
        for at in 0..count {
            let (id, flags, offset, len) = block.directory(at);
            let in_order = id_before.is_none_or(|before| before < id);
            let end = offset.checked_add(len).filter(|end| *end <= bytes.len());
            let (Some(end), true) = (end, in_order && offset.is_multiple_of(8) && offset >= end_before) else {
                return Err(AbiError::Directory { kind });
            };
            if !known.contains(&id) && flags & FLAG_OPTIONAL == 0 {
                return Err(AbiError::UnknownSection { kind, id });
            }
            id_before = Some(id);
            end_before = end;
        }
        Ok(block)
    }

    fn directory(&self, at: usize) -> (u16, u16, usize, usize) {
        let entry = &self.bytes[HEADER_SIZE + at * DIRECTORY_ENTRY_SIZE..][..DIRECTORY_ENTRY_SIZE];
        (u16_at(entry, 0), u16_at(entry, 2), u32_at(entry, 4) as usize, u32_at(entry, 8) as usize)
    }

    /// The section, or `None` when the block does not carry it.
    pub fn find_section(&self, id: u16) -> Option<&'a [u8]> {
        (0..self.count)
            .map(|at| self.directory(at))
            .find(|entry| entry.0 == id)
            .map(|(_, _, offset, len)| &self.bytes[offset..offset + len])
    }

    pub fn section(&self, id: u16) -> Result<&'a [u8], AbiError> {
        self.find_section(id).ok_or(AbiError::MissingSection { kind: self.kind, id })
    }

    /// A section that is an array of records of `N` bytes.
    pub fn records<const N: usize>(&self, id: u16) -> Result<&'a [[u8; N]], AbiError> {
        let section = self.section(id)?;
        let (records, rest) = section.as_chunks::<N>();
        if rest.is_empty() {
            Ok(records)
        } else {
            Err(AbiError::RecordSize { kind: self.kind, id, len: section.len(), record: N })
        }
    }
}

/// Writes a block section by section, in rising order of id.
pub struct BlockWriter {
    out: Vec<u8>,
    start: usize,
    count: usize,
    capacity: usize,
}

impl BlockWriter {
    /// Starts a block with room for exactly `section_count` sections at the end of `out`.
    pub fn new(mut out: Vec<u8>, kind: u16, section_count: usize) -> Self {
        pad_to_8(&mut out);
        let start = out.len();
        out.extend_from_slice(&ABI_VERSION.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(section_count as u16).to_le_bytes());
        out.resize(start + HEADER_SIZE + section_count * DIRECTORY_ENTRY_SIZE, 0);
        pad_from(&mut out, start);
        Self { out, start, count: 0, capacity: section_count }
    }

    pub fn section(&mut self, id: u16, bytes: &[u8]) -> &mut Self {
        self.section_with(id, 0, |out| out.extend_from_slice(bytes))
    }

    /// An array of fixed-size records.
    pub fn records<const N: usize>(&mut self, id: u16, records: &[[u8; N]]) -> &mut Self {
        self.section(id, records.as_flattened())
    }

    /// Lets `write` append the section's bytes; it must only append.
    pub fn section_with(&mut self, id: u16, flags: u16, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        assert!(self.count < self.capacity, "a block must not get more sections than were announced");
        let offset = self.out.len() - self.start;
        write(&mut self.out);
        let len = self.out.len() - self.start - offset;
        let entry = self.start + HEADER_SIZE + self.count * DIRECTORY_ENTRY_SIZE;
        self.out[entry..entry + 2].copy_from_slice(&id.to_le_bytes());
        self.out[entry + 2..entry + 4].copy_from_slice(&flags.to_le_bytes());
        self.out[entry + 4..entry + 8].copy_from_slice(&(offset as u32).to_le_bytes());
        self.out[entry + 8..entry + 12].copy_from_slice(&(len as u32).to_le_bytes());
        self.count += 1;
        pad_from(&mut self.out, self.start);
        self
    }

    /// The finished bytes, with whatever `out` held before the block.
    pub fn finish(mut self) -> Vec<u8> {
        assert!(self.count == self.capacity, "a block must get all sections that were announced");
        let len = (self.out.len() - self.start) as u32;
        self.out[self.start + 8..self.start + 12].copy_from_slice(&len.to_le_bytes());
        self.out
    }
}

/// Bytes of a block with sections of these lengths.
pub fn block_size(section_lens: &[usize]) -> usize {
    let directory_end = HEADER_SIZE + section_lens.len() * DIRECTORY_ENTRY_SIZE;
    section_lens.iter().fold(directory_end.next_multiple_of(8), |end, len| end + len.next_multiple_of(8))
}

/// Writes a block over a buffer of exactly [`block_size`] bytes, whatever was in it: for a buffer that is not a `Vec`.
pub fn write_block(out: &mut [u8], kind: u16, sections: &[(u16, &[u8])]) {
    let size = out.len() as u32;
    let mut end = (HEADER_SIZE + sections.len() * DIRECTORY_ENTRY_SIZE).next_multiple_of(8);
    let (head, mut rest) = out.split_at_mut(end);
    head.fill(0);
    head[0..2].copy_from_slice(&ABI_VERSION.to_le_bytes());
    head[2..4].copy_from_slice(&kind.to_le_bytes());
    head[4..6].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    head[8..12].copy_from_slice(&size.to_le_bytes());
    for (at, (id, bytes)) in sections.iter().enumerate() {
        let entry = &mut head[HEADER_SIZE + at * DIRECTORY_ENTRY_SIZE..][..DIRECTORY_ENTRY_SIZE];
        entry[0..2].copy_from_slice(&id.to_le_bytes());
        entry[4..8].copy_from_slice(&(end as u32).to_le_bytes());
        entry[8..12].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        let (section, behind) = rest.split_at_mut(bytes.len().next_multiple_of(8));
        section[..bytes.len()].copy_from_slice(bytes);
        section[bytes.len()..].fill(0);
        end += section.len();
        rest = behind;
    }
    assert!(rest.is_empty(), "the buffer must have the size of the block");
}

fn pad_to_8(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(8), 0);
}

fn pad_from(out: &mut Vec<u8>, start: usize) {
    out.resize(start + (out.len() - start).next_multiple_of(8), 0);
}

/// `bytes[offset..offset + len]`, checked.
pub fn slice<'a>(bytes: &'a [u8], offset: u32, len: u32, kind: u16, what: &'static str) -> Result<&'a [u8], AbiError> {
    bytes.get(offset as usize..(offset as usize).saturating_add(len as usize)).ok_or(AbiError::Range { kind, what })
}

#[inline]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}
