//! A blocked Bloom filter: from one cache line it says of an id's hash "certainly not in this run" or "maybe".
//!
//! The hash's high bits choose the block, so a run sorted by hash fills its filter from front to back. With 12 bits for
//! each id, about 1 in 200 unknown ids passes, which costs the read of a page. On disk a filter is its words,
//! little-endian. A filter does not know ids.

use crate::store::prefetch::prefetch;

const BITS_PER_ID: u64 = 12;
const WORDS: usize = 8;
const BLOCK_BITS: u64 = 64 * WORDS as u64;
pub const BLOCK_SIZE: usize = 8 * WORDS;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Block([u64; WORDS]);

pub struct IdFilter {
    blocks: Box<[Block]>,
}

impl IdFilter {
    pub fn for_count(count: u64) -> Self {
        let blocks = (count * BITS_PER_ID).div_ceil(BLOCK_BITS).max(1) as usize;
        Self { blocks: vec![Block([0; WORDS]); blocks].into_boxed_slice() }
    }

    pub fn insert(&mut self, hash: u64) {
        let block = self.block(hash);
        for (word, mask) in self.blocks[block].0.iter_mut().zip(masks(hash)) {
            *word |= mask;
        }
    }

    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.blocks[self.block(hash)]);
    }

    #[inline]
    pub fn may_contain(&self, hash: u64) -> bool {
        let missing = self.blocks[self.block(hash)].0.iter().zip(masks(hash)).map(|(word, mask)| mask & !word);
        missing.fold(0, |all, missing| all | missing) == 0
    }

    pub fn encode(&self) -> Vec<u8> {
        self.blocks.iter().flat_map(|block| block.0).flat_map(u64::to_le_bytes).collect()
    }

    /// The filter in `raw`, whose length is a multiple of [`BLOCK_SIZE`] and not 0.
    pub fn decode(raw: &[u8]) -> Self {
        let (blocks, rest) = raw.as_chunks::<BLOCK_SIZE>();
        assert!(!blocks.is_empty());
        assert!(rest.is_empty());
        let word = |raw: &[u8; 8]| u64::from_le_bytes(*raw);
        let block = |raw: &[u8; BLOCK_SIZE]| {
            let mut block = Block([0; WORDS]);
            for (to, from) in block.0.iter_mut().zip(raw.as_chunks::<8>().0) {
                *to = word(from);
            }
            block
        };
        Self { blocks: blocks.iter().map(block).collect() }
    }

    pub fn size(&self) -> usize {
        self.blocks.len() * BLOCK_SIZE
    }

    fn block(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.blocks.len() as u128) >> 64) as usize
    }
}

/// One bit in each word of the block, from groups of 6 bits of a number that depends on the hash's low bits.
#[inline]
fn masks(hash: u64) -> [u64; WORDS] {
    let mixed = (hash ^ hash >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let mut masks = [0; WORDS];
    for (word, mask) in masks.iter_mut().enumerate() {
        *mask = 1 << (mixed >> (16 + 6 * word) & 63);
    }
    masks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(seed: u64) -> impl Iterator<Item = u64> {
        (0..100_000u64)
            .map(move |n| *blake3::hash(&[n, seed].map(u64::to_le_bytes).concat()).as_bytes())
            .map(|hash| u64::from_le_bytes(*hash.first_chunk().expect("a hash has 32 bytes")))
    }

    #[test]
    fn a_filter_knows_what_was_inserted_and_few_strangers() {
        let mut filter = IdFilter::for_count(100_000);
        hashes(1).for_each(|hash| filter.insert(hash));
        let filter = IdFilter::decode(&filter.encode());
        assert!(hashes(1).all(|hash| filter.may_contain(hash)));
        let strangers = hashes(2).filter(|hash| filter.may_contain(*hash)).count();
        assert!(strangers < 1_000, "{strangers} of 100,000 strangers pass");
    }
}
