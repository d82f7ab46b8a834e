//! Row keys: `len ‖ entity ‖ suffix`, where `len` is one byte.
//!
//! All rows of one entity lie side by side, and no key of one entity is a prefix of another's. `@local` is the entity
//! every partition has for itself (totals, transit). It does not know which partition an entity lives in.

use alloc::vec::Vec;

/// The reserved entity that is each partition's own.
pub const LOCAL: &[u8] = b"@local";
pub const ENTITY_BYTES_MAX: usize = 128;
pub const KEY_BYTES_MAX: usize = 256;

/// Where a declared key lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Scope {
    /// A row of the op's own entity.
    Own = 0,
    /// A row of the partition's `@local` entity.
    Local = 1,
}

pub fn write_key(out: &mut Vec<u8>, entity: &[u8], suffix: &[u8]) {
    debug_assert!(entity.len() <= ENTITY_BYTES_MAX);
    out.push(entity.len() as u8);
    out.extend_from_slice(entity);
    out.extend_from_slice(suffix);
}

pub fn key(entity: &[u8], suffix: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + entity.len() + suffix.len());
    write_key(&mut out, entity, suffix);
    out
}

/// Splits a key into entity and suffix; `None` when it is no key.
pub fn split_key(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = key.split_first()?;
    rest.split_at_checked(*len as usize)
}
