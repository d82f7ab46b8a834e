//! The partition that an entity belongs to: `slot = blake3(entity) mod 4096`, and an even split of the slots.
//!
//! The slots are split when a machine is created. A partition can be split later without hashing entities anew.

use crate::ids::PartitionId;
use crate::machine::limits::SLOT_COUNT;

/// The slot of an entity.
pub fn slot_of(entity: &[u8]) -> u32 {
    let hash = blake3::hash(entity);
    let number = u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"));
    u32::try_from(number % u64::from(SLOT_COUNT)).expect("a slot is below 4096")
}

/// The partition of an entity, of `count` partitions.
pub fn partition_of(entity: &[u8], count: u32) -> PartitionId {
    assert!(0 < count && count <= SLOT_COUNT);
    PartitionId(slot_of(entity) * count / SLOT_COUNT)
}
