//! The hot table: the rows that a partition uses, and the keys that it knows to be absent, in memory.
//!
//! An open-addressing index of 8-byte cells (32 bits of hash, 32 bits of slot number) points into slots of two cache
//! lines that hold key and row inline. A batch is looked up in rounds of [`ROUND`] keys: hash and prefetch the cells,
//! read them and prefetch the slots, then compare. A clock hand evicts clean slots. A slot is dirty, and stays, until
//! the last apply that changed it is written. One thread uses the table, which knows neither locks nor disk.

use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use super::prefetch::prefetch;

/// Keys looked up together: enough to keep the memory busy, few enough that fetched lines are still in the L1 cache.
pub const ROUND: usize = 32;
const INLINE_SIZE: usize = 96;
const ABSENT: u32 = u32::MAX;
const SLOTS_PER_CHUNK: usize = 1 << 13;
const CELLS_MIN: usize = 1 << 10;
/// The most slots that the clock hand passes for one insertion.
const HAND_STEPS_MAX: usize = 64;
/// The cost of a slot besides its heap bytes: the slot and its cells at the index's mean load.
const SLOT_COST: usize = size_of::<RowSlot>() + 2 * size_of::<Cell>();

#[repr(C, align(64))]
struct RowSlot {
    /// The number of the last apply that changed the row; 0 if it was read from disk.
    seq: u64,
    /// `ABSENT` means that there is no such row.
    row_len: u32,
    key_len: u16,
    is_used: bool,
    /// Whether it was looked up since the hand last passed.
    is_recent: bool,
    /// Key and row, if they do not fit inline.
    heap: Option<Box<[u8]>>,
    inline: [u8; INLINE_SIZE],
}

const _: () = assert!(size_of::<RowSlot>() == 128);

impl RowSlot {
    const FREE: Self = Self {
        seq: 0,
        row_len: ABSENT,
        key_len: 0,
        is_used: false,
        is_recent: false,
        heap: None,
        inline: [0; INLINE_SIZE],
    };

    fn bytes(&self) -> &[u8] {
        self.heap.as_deref().unwrap_or(&self.inline)
    }

    fn key(&self) -> &[u8] {
        &self.bytes()[..self.key_len as usize]
    }

    fn is_key(&self, key: &[u8]) -> bool {
        self.is_used && self.key() == key
    }

    fn row(&self) -> Option<&[u8]> {
        (self.row_len != ABSENT).then(|| &self.bytes()[self.key_len as usize..][..self.row_len as usize])
    }

    fn heap_size(&self) -> usize {
        self.heap.as_ref().map_or(0, |heap| heap.len())
    }

    fn set(&mut self, key: &[u8], row: Option<&[u8]>, seq: u64) {
        let bytes = row.unwrap_or_default();
        let size = key.len() + bytes.len();
        if size <= INLINE_SIZE {
            self.heap = None;
            self.inline[..key.len()].copy_from_slice(key);
            self.inline[key.len()..size].copy_from_slice(bytes);
        } else {
            self.heap = Some([key, bytes].concat().into_boxed_slice());
        }
        self.key_len = u16::try_from(key.len()).expect("keys are bounded by limits");
        self.row_len = row.map_or(ABSENT, |row| u32::try_from(row.len()).expect("rows are bounded by limits"));
        self.seq = seq;
        self.is_used = true;
        self.is_recent = true;
    }
}

/// Upper half: hash. Lower half: slot number + 1. Zero is a free cell.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cell(u64);

impl Cell {
    const FREE: Self = Self(0);

    fn new(hash: u32, slot: u32) -> Self {
        Self(u64::from(hash) << 32 | u64::from(slot + 1))
    }

    fn hash(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn slot(self) -> u32 {
        self.0 as u32 - 1
    }
}

/// The place of a looked-up key.
pub type FoundSlot = Option<u32>;

pub struct HotTable {
    hasher: DefaultHashBuilder,
    cells: Box<[Cell]>,
    /// Chunks never move, so growing copies nothing.
    chunks: Vec<Box<[RowSlot]>>,
    slot_count: u32,
    free: Vec<u32>,
    used: usize,
    heap_bytes: usize,
    size_max: usize,
    hand: u32,
}

impl HotTable {
    /// Clean rows are evicted when the table uses more than `size_max` bytes.
    pub fn new(size_max: usize) -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            cells: vec![Cell::FREE; CELLS_MIN].into_boxed_slice(),
            chunks: Vec::new(),
            slot_count: 0,
            free: Vec::new(),
            used: 0,
            heap_bytes: 0,
            size_max,
            hand: 0,
        }
    }

    /// Forgets every row. None may be dirty.
    pub fn clear(&mut self) {
        *self = Self::new(self.size_max);
    }

    pub fn rows(&self) -> usize {
        self.used
    }

    pub fn size(&self) -> usize {
        self.used * SLOT_COST + self.heap_bytes
    }

    /// Looks up at most [`ROUND`] keys. The result stays valid until the next `put`.
    pub fn find_round(&self, keys: &[&[u8]], found: &mut [FoundSlot; ROUND]) {
        assert!(keys.len() <= ROUND);
        let mut hashes = [0; ROUND];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.hash(key);
            prefetch(&self.cells[self.home(*hash)]);
        }
        for ((found, hash), key) in found.iter_mut().zip(hashes).zip(keys) {
            *found = self.find_by_hash(hash);
            if let Some(slot) = *found {
                let slot = self.slot(slot);
                prefetch(slot);
                if INLINE_SIZE / 2 < key.len() {
                    prefetch(&slot.inline[INLINE_SIZE - 1]);
                }
            }
        }
        for ((found, hash), key) in found.iter_mut().zip(hashes).zip(keys) {
            if found.is_some_and(|slot| self.slot(slot).key() != *key) {
                *found = self.find(hash, key).map(|(_, slot)| slot);
            }
        }
    }

    /// The row in a slot; `None` if the key is known to be absent.
    pub fn row(&mut self, slot: u32) -> Option<&[u8]> {
        let slot = self.slot_mut(slot);
        slot.is_recent = true;
        slot.row()
    }

    /// Stores the result of an apply for at most [`ROUND`] keys. The rows stay until `written_seq` reaches `seq`.
    pub fn put_dirty_round(&mut self, writes: &[(&[u8], Option<&[u8]>)], seq: u64, written_seq: u64) {
        let mut keys: [&[u8]; ROUND] = [&[]; ROUND];
        keys.iter_mut().zip(writes).for_each(|(to, (key, _))| *to = key);
        let mut found = [None; ROUND];
        self.find_round(&keys[..writes.len()], &mut found);
        for ((key, row), found) in writes.iter().zip(found) {
            match found.filter(|slot| self.slot(*slot).is_key(key)) {
                Some(slot) => self.set(slot, key, *row, seq),
                // The key is new, or occurs twice in this round, or a new one has just evicted it.
                None => self.put_dirty(key, *row, seq, written_seq),
            }
        }
    }

    fn put_dirty(&mut self, key: &[u8], row: Option<&[u8]>, seq: u64, written_seq: u64) {
        let hash = self.hash(key);
        match self.find(hash, key) {
            Some((_, slot)) => self.set(slot, key, row, seq),
            None => self.insert(hash, key, row, seq, written_seq),
        }
    }

    /// Stores a row that was read from disk, unless the key is already there.
    pub fn put_clean(&mut self, key: &[u8], row: Option<&[u8]>, written_seq: u64) {
        let hash = self.hash(key);
        if self.find(hash, key).is_none() {
            self.insert(hash, key, row, 0, written_seq);
        }
    }

    fn hash(&self, key: &[u8]) -> u32 {
        (self.hasher.hash_one(key) >> 32) as u32
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.cells.len() - 1)
    }

    fn slot(&self, slot: u32) -> &RowSlot {
        &self.chunks[slot as usize / SLOTS_PER_CHUNK][slot as usize % SLOTS_PER_CHUNK]
    }

    fn slot_mut(&mut self, slot: u32) -> &mut RowSlot {
        &mut self.chunks[slot as usize / SLOTS_PER_CHUNK][slot as usize % SLOTS_PER_CHUNK]
    }

    /// The first slot with this hash, which is almost always the right one.
    fn find_by_hash(&self, hash: u32) -> FoundSlot {
        self.probe(hash).find(|(_, cell)| cell.hash() == hash).map(|(_, cell)| cell.slot())
    }

    fn find(&self, hash: u32, key: &[u8]) -> Option<(usize, u32)> {
        self.probe(hash)
            .find(|(_, cell)| cell.hash() == hash && self.slot(cell.slot()).key() == key)
            .map(|(at, cell)| (at, cell.slot()))
    }

    /// The used cells from the home of `hash` to the first free one.
    fn probe(&self, hash: u32) -> impl Iterator<Item = (usize, Cell)> + '_ {
        let mask = self.cells.len() - 1;
        let home = self.home(hash);
        (0..self.cells.len())
            .map(move |step| (home + step) & mask)
            .map(|at| (at, self.cells[at]))
            .take_while(|(_, cell)| *cell != Cell::FREE)
    }

    fn set(&mut self, slot: u32, key: &[u8], row: Option<&[u8]>, seq: u64) {
        let slot = self.slot_mut(slot);
        let before = slot.heap_size();
        slot.set(key, row, seq);
        let after = slot.heap_size();
        self.heap_bytes = self.heap_bytes + after - before;
    }

    fn insert(&mut self, hash: u32, key: &[u8], row: Option<&[u8]>, seq: u64, written_seq: u64) {
        if self.size_max < self.size() + SLOT_COST {
            self.evict(written_seq);
        }
        // At most half of the cells are used, so probes are short and always end.
        if self.cells.len() < 2 * (self.used + 1) {
            self.grow();
        }
        let slot = self.free.pop().unwrap_or_else(|| self.new_slot());
        self.set(slot, key, row, seq);
        self.used += 1;
        place(&mut self.cells, Cell::new(hash, slot));
    }

    fn new_slot(&mut self) -> u32 {
        if self.slot_count as usize == self.chunks.len() * SLOTS_PER_CHUNK {
            self.chunks.push((0..SLOTS_PER_CHUNK).map(|_| RowSlot::FREE).collect());
        }
        self.slot_count += 1;
        self.slot_count - 1
    }

    fn grow(&mut self) {
        let mut cells = vec![Cell::FREE; self.cells.len() * 2].into_boxed_slice();
        for cell in self.cells.iter().filter(|cell| **cell != Cell::FREE) {
            place(&mut cells, *cell);
        }
        self.cells = cells;
    }

    /// Advances the hand and frees clean slots that were not looked up since it last passed: one in the steady state,
    /// two while the table exceeds its size because dirty rows had filled it.
    fn evict(&mut self, written_seq: u64) {
        let mut freed = 0;
        for _ in 0..HAND_STEPS_MAX.min(self.slot_count as usize) {
            self.hand = (self.hand + 1) % self.slot_count;
            let hand = self.hand;
            let slot = self.slot_mut(hand);
            if !slot.is_used || written_seq < slot.seq {
                continue;
            }
            if slot.is_recent {
                slot.is_recent = false;
                continue;
            }
            self.remove(hand);
            freed += 1;
            if freed == 2 || self.size() + SLOT_COST <= self.size_max {
                return;
            }
        }
    }

    fn remove(&mut self, slot: u32) {
        let hash = self.hash(self.slot(slot).key());
        let at = self.probe(hash).find(|(_, cell)| cell.slot() == slot).map(|(at, _)| at);
        self.remove_cell(at.expect("a used slot has a cell"));
        self.heap_bytes -= self.slot(slot).heap_size();
        *self.slot_mut(slot) = RowSlot::FREE;
        self.free.push(slot);
        self.used -= 1;
    }

    /// Frees a cell and moves back later ones that would no longer be found.
    fn remove_cell(&mut self, mut hole: usize) {
        let mask = self.cells.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let cell = self.cells[at];
            if cell == Cell::FREE {
                break;
            }
            let from_home = at.wrapping_sub(self.home(cell.hash())) & mask;
            let from_hole = at.wrapping_sub(hole) & mask;
            if from_hole <= from_home {
                self.cells[hole] = cell;
                hole = at;
            }
        }
        self.cells[hole] = Cell::FREE;
    }
}

fn place(cells: &mut [Cell], cell: Cell) {
    let mask = cells.len() - 1;
    let mut at = cell.hash() as usize & mask;
    while cells[at] != Cell::FREE {
        at = (at + 1) & mask;
    }
    cells[at] = cell;
}
