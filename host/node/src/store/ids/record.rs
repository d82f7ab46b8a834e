//! The record of an id, in memory and in a run, and the hash that orders the whole index.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 16 | command id |
//! | 16 | 16 | the first half of the fingerprint |
//! | 32 | 8 | `journal index << 16 \| number of the command in its entry`, little-endian |
//!
//! Half a fingerprint is enough: it only tells whether the *same* id was sent with other content. An accidental match
//! has a probability of 2⁻¹²⁸. A client who spends 2⁶⁴ work on two bodies with equal halves deceives only himself: only
//! the first body is executed and answered, and the journal has it in full.

use super::super::meta::bytes_at;
use crate::ids::{CommandId, Fingerprint, JournalIndex};

pub const RECORD_SIZE: usize = 40;
const N_BITS: u32 = 16;

/// Where an id was recorded, and the mark of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRecord {
    pub fingerprint_half: [u8; 16],
    pub journal: JournalIndex,
    /// The number of the command in its entry.
    pub n: u32,
}

impl IdRecord {
    /// Whether the id was recorded with this content.
    pub fn is_same_content(&self, fingerprint: &Fingerprint) -> bool {
        fingerprint.0.starts_with(&self.fingerprint_half)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StoredId {
    pub id: [u8; 16],
    pub fingerprint_half: [u8; 16],
    pub place: u64,
}

impl StoredId {
    pub fn new(id: &CommandId, fingerprint: &Fingerprint, journal: JournalIndex, n: u32) -> Self {
        assert!(n < 1 << N_BITS, "an entry holds at most BATCH_COMMANDS_MAX commands");
        assert!(journal.0 < 1 << (u64::BITS - N_BITS), "a journal of 2^48 entries is never written");
        let fingerprint_half = *fingerprint.0.first_chunk().expect("a fingerprint has 32 bytes");
        Self { id: id.0, fingerprint_half, place: journal.0 << N_BITS | u64::from(n) }
    }

    pub fn to_id_record(self) -> IdRecord {
        let n = (self.place & ((1 << N_BITS) - 1)) as u32;
        IdRecord { fingerprint_half: self.fingerprint_half, journal: JournalIndex(self.place >> N_BITS), n }
    }

    pub fn encode(&self) -> [u8; RECORD_SIZE] {
        let mut raw = [0; RECORD_SIZE];
        raw[..16].copy_from_slice(&self.id);
        raw[16..32].copy_from_slice(&self.fingerprint_half);
        raw[32..].copy_from_slice(&self.place.to_le_bytes());
        raw
    }

    pub fn decode(raw: &[u8; RECORD_SIZE]) -> Self {
        Self { id: bytes_at(raw, 0), fingerprint_half: bytes_at(raw, 16), place: u64::from_le_bytes(bytes_at(raw, 32)) }
    }
}

/// A hash of ids under a secret of the index, so that no client can choose ids that collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdHasher {
    pub seed: [u64; 3],
}

impl IdHasher {
    pub fn random() -> Self {
        Self { seed: rand::random() }
    }

    #[inline]
    pub fn hash(&self, id: &[u8; 16]) -> u64 {
        let low = u64::from_le_bytes(bytes_at(id, 0)) ^ self.seed[0];
        let high = u64::from_le_bytes(bytes_at(id, 8)) ^ self.seed[1];
        // After a single multiplication, ids that differ in few bits would still differ in few bits of the result.
        fold(fold(low, high) ^ self.seed[2], 0x9E37_79B9_7F4A_7C15)
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
