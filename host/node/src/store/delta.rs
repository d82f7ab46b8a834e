//! A delta: the rows that one or more consecutive applied entries changed, and the meta row after them. It is
//! immutable.
//!
//! Deltas are the layer between the hot table and RocksDB. Readers look through them, newest first. The writer merges
//! neighbours (a row that changed a thousand times is written once) and writes the oldest. The first reader that needs
//! a delta in order of key sorts it; the executor never does. A delta does not know the hot table or the disk.

use std::cmp::Ordering;
use std::sync::{Arc, OnceLock};

use super::meta::Meta;

const ABSENT: u32 = u32::MAX;
/// The size of a typical key and row. It is only a guess that saves copies.
const ROW_SIZE_EXPECTED: usize = 80;

/// The place of a key and its row in an arena: the row follows the key.
#[derive(Clone, Copy)]
struct RowAt {
    offset: u32,
    key_len: u32,
    /// `ABSENT` means that the row is deleted.
    row_len: u32,
}

impl RowAt {
    fn key<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        &arena[self.offset as usize..][..self.key_len as usize]
    }

    fn row<'a>(&self, arena: &'a [u8]) -> Option<&'a [u8]> {
        let at = self.offset as usize + self.key_len as usize;
        (self.row_len != ABSENT).then(|| &arena[at..][..self.row_len as usize])
    }
}

pub struct Delta {
    arena: Vec<u8>,
    rows: Vec<RowAt>,
    /// INVARIANT: the rows are in rising order of key, and no key occurs twice: the last write of a key is kept.
    sorted: OnceLock<Vec<RowAt>>,
    pub meta: Meta,
    /// The number of the last apply in it.
    pub seq: u64,
    /// Bytes of log that a restart would replay if this delta was lost.
    pub log_bytes: u64,
}

impl Delta {
    pub fn new(meta: Meta, seq: u64, log_bytes: u64) -> Self {
        Self { arena: Vec::new(), rows: Vec::new(), sorted: OnceLock::new(), meta, seq, log_bytes }
    }

    pub fn reserve(&mut self, rows: usize) {
        self.rows.reserve(rows);
        self.arena.reserve(rows * ROW_SIZE_EXPECTED);
    }

    /// Adds a write. A later write of the same key wins.
    pub fn push(&mut self, key: &[u8], row: Option<&[u8]>) {
        let offset = u32::try_from(self.arena.len()).expect("dirty rows are bounded far below 4 GiB");
        self.arena.extend_from_slice(key);
        self.arena.extend_from_slice(row.unwrap_or_default());
        let row_len = row.map_or(ABSENT, |row| row.len() as u32);
        self.rows.push(RowAt { offset, key_len: key.len() as u32, row_len });
    }

    /// The memory that it uses.
    pub fn size(&self) -> usize {
        let rows = self.rows.len().max(self.sorted.get().map_or(0, Vec::len));
        self.arena.len() + rows * size_of::<RowAt>() + size_of::<Self>()
    }

    fn sorted(&self) -> &[RowAt] {
        self.sorted.get_or_init(|| {
            let skip = shared_prefixes(self.rows.iter().map(|row| row.key(&self.arena)));
            let mut rows: Vec<(u64, RowAt)> =
                self.rows.iter().map(|row| (digits(row.key(&self.arena), &skip), *row)).collect();
            rows.sort_by(|(a_digits, a), (b_digits, b)| {
                a_digits.cmp(b_digits).then_with(|| a.key(&self.arena).cmp(b.key(&self.arena)))
            });
            let mut rows: Vec<RowAt> = rows.into_iter().map(|(_, row)| row).collect();
            keep_last_of_equal(&mut rows, |a, b| a.key(&self.arena) == b.key(&self.arena));
            rows
        })
    }

    /// `None`: this delta says nothing about the key. `Some(None)`: the row is deleted.
    pub fn find(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let sorted = self.sorted();
        let at = sorted.binary_search_by(|row| row.key(&self.arena).cmp(key)).ok()?;
        Some(sorted[at].row(&self.arena))
    }

    /// The number of the first row whose key is not below `start`.
    pub fn lower_bound(&self, start: &[u8]) -> usize {
        self.sorted().partition_point(|row| row.key(&self.arena).cmp(start) == Ordering::Less)
    }

    pub fn count(&self) -> usize {
        self.sorted().len()
    }

    /// Key and row by number in the order of keys; `None` beyond the last.
    pub fn nth(&self, at: usize) -> Option<(&[u8], Option<&[u8]>)> {
        self.sorted().get(at).map(|row| (row.key(&self.arena), row.row(&self.arena)))
    }

    /// One delta that says the same as all `deltas`, which are given oldest first.
    pub fn merge(deltas: &[Arc<Self>]) -> Self {
        let newest = deltas.last().expect("there is something to merge");
        assert!(deltas.is_sorted_by_key(|delta| delta.seq));
        let mut rows: Vec<(&[u8], RowAt)> = Vec::with_capacity(deltas.iter().map(|delta| delta.count()).sum());
        for delta in deltas {
            rows.extend(delta.sorted().iter().map(|row| (&delta.arena[..], *row)));
        }
        // The sort is stable and finds runs that are already in order, so this is a merge.
        rows.sort_by(|(a_arena, a), (b_arena, b)| a.key(a_arena).cmp(b.key(b_arena)));
        keep_last_of_equal(&mut rows, |(a_arena, a), (b_arena, b)| a.key(a_arena) == b.key(b_arena));
        let log_bytes = deltas.iter().map(|delta| delta.log_bytes).sum();
        let mut merged = Self::new(newest.meta.clone(), newest.seq, log_bytes);
        let bytes = rows.iter().map(|(_, row)| row.key_len as usize + row_len(row)).sum();
        merged.arena.reserve_exact(bytes);
        let mut sorted = Vec::with_capacity(rows.len());
        for (arena, row) in rows {
            let offset = u32::try_from(merged.arena.len()).expect("dirty rows are bounded far below 4 GiB");
            let len = row.key_len as usize + row_len(&row);
            merged.arena.extend_from_slice(&arena[row.offset as usize..][..len]);
            sorted.push(RowAt { offset, ..row });
        }
        merged.sorted = OnceLock::from(sorted);
        merged
    }
}

/// For each first byte, how many bytes all keys with that first byte share.
fn shared_prefixes<'a>(keys: impl Iterator<Item = &'a [u8]>) -> [Option<(&'a [u8], usize)>; 256] {
    let mut shared: [Option<(&[u8], usize)>; 256] = [None; 256];
    for key in keys.filter(|key| !key.is_empty()) {
        let (first, len) = shared[key[0] as usize].get_or_insert((key, key.len()));
        *len = first[..*len].iter().zip(key).take_while(|(a, b)| a == b).count();
    }
    shared
}

/// A number that orders keys as their bytes do, or is equal if they are equal so far: the first byte, then the first
/// seven bytes in which keys with that first byte can differ. Entities of one kind share long prefixes, so these
/// numbers settle almost every comparison of a sort without touching a key.
fn digits(key: &[u8], shared: &[Option<(&[u8], usize)>; 256]) -> u64 {
    let Some(first) = key.first() else { return 0 };
    let skip = shared[*first as usize].map_or(0, |(_, len)| len);
    let mut digits = [0; 8];
    digits[0] = *first;
    let rest = &key[skip..];
    let count = rest.len().min(7);
    digits[1..=count].copy_from_slice(&rest[..count]);
    u64::from_be_bytes(digits)
}

fn row_len(row: &RowAt) -> usize {
    if row.row_len == ABSENT { 0 } else { row.row_len as usize }
}

/// Keeps the last of neighbours that are equal.
fn keep_last_of_equal<T: Copy>(items: &mut Vec<T>, is_equal: impl Fn(&T, &T) -> bool) {
    let mut kept = 0;
    for at in 0..items.len() {
        if items.get(at + 1).is_some_and(|next| is_equal(&items[at], next)) {
            continue;
        }
        items[kept] = items[at];
        kept += 1;
    }
    items.truncate(kept);
}
