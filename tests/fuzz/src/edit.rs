//! Inputs as edits of good ones: random bytes alone seldom get past a magic number.
//!
//! In: seeds, and the engine's bytes, which choose a seed and what is done to it. Out: the input. Equal bytes give
//! equal inputs, and few bytes few edits, so that an engine can make a failing input smaller. It does not know any
//! format.

/// Edits of one input. More of them leave nothing that a decoder gets far with.
const EDITS_MAX: usize = 6;
/// The longest range that an edit inserts, repeats or overwrites.
const RANGE_MAX: usize = 64;
/// Numbers at which checks of ranges and counts break.
const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    7,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_fffe,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// Applies the edits that `script` stands for to one of the seeds. A script that chooses none of them is the input
/// itself.
pub fn edited(seeds: &[Vec<u8>], script: &[u8]) -> Vec<u8> {
    let mut script = Script(script);
    let seed = usize::from(script.byte()) % (seeds.len() + 1);
    let Some(seed) = seeds.get(seed) else { return script.0.to_vec() };
    let mut bytes = seed.clone();
    for _ in 0..EDITS_MAX {
        if script.0.is_empty() {
            break;
        }
        edit(&mut bytes, &mut script, seeds);
    }
    bytes
}

fn edit(bytes: &mut Vec<u8>, script: &mut Script<'_>, seeds: &[Vec<u8>]) {
    let kind = script.byte();
    let at = script.below(bytes.len() + 1);
    match kind % 10 {
        0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (script.byte() % 8)),
        1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = script.byte()),
        2..=5 => overwrite_number(bytes, at, kind, script),
        6 => {
            let inserted = script.take(RANGE_MAX);
            bytes.splice(at..at, inserted);
        }
        7 => drop(bytes.drain(at..(at + 1 + script.below(RANGE_MAX)).min(bytes.len()))),
        8 => {
            let from = if kind & 0x80 == 0 { &bytes[..] } else { &seeds[script.below(seeds.len())] };
            let start = script.below(from.len() + 1);
            let range = from[start..(start + 1 + script.below(RANGE_MAX)).min(from.len())].to_vec();
            let end = if kind & 0x40 == 0 { at } else { (at + range.len()).min(bytes.len()) };
            bytes.splice(at..end, range);
        }
        _ => bytes.truncate(at),
    }
}

/// Overwrites 1, 2, 4 or 8 bytes with a number that is at a limit, or near the one that stands there. Half of the time
/// the place is a multiple of 4, as most fields of most formats are.
fn overwrite_number(bytes: &mut [u8], at: usize, kind: u8, script: &mut Script<'_>) {
    let size = 1 << (script.byte() % 4);
    let at = if kind & 0x80 == 0 { at } else { at & !3 };
    let Some(field) = bytes.get_mut(at..at + size) else { return };
    let choice = script.byte();
    // CBOR has the first byte of a number first.
    let is_reversed = kind & 0x20 != 0;
    if is_reversed {
        field.reverse();
    }
    let number = if kind & 0x40 == 0 {
        NUMBERS[usize::from(choice) % NUMBERS.len()]
    } else {
        let stands = field.iter().rev().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
        stands.wrapping_add_signed(i64::from(choice as i8))
    };
    field.copy_from_slice(&number.to_le_bytes()[..size]);
    if is_reversed {
        field.reverse();
    }
}

/// The bytes of the engine, read one after the other; zeros after their end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// A number below `count`, which is at least 1.
    fn below(&mut self, count: usize) -> usize {
        let number = u32::from_le_bytes([self.byte(), self.byte(), self.byte(), 0]);
        number as usize % count
    }

    /// Some of the next bytes, at most `count`.
    fn take(&mut self, count: usize) -> Vec<u8> {
        let size = (1 + self.below(count)).min(self.0.len());
        let (taken, rest) = self.0.split_at(size);
        self.0 = rest;
        taken.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_the_input_itself_or_edits_of_a_seed() {
        let seeds = [b"first".to_vec(), b"second".to_vec()];
        assert_eq!(edited(&seeds, &[]), b"first");
        assert_eq!(edited(&seeds, &[1]), b"second");
        assert_eq!(edited(&seeds, &[2, 7, 7]), [7, 7]);
        assert_eq!(edited(&seeds, &[0, 9, 2]), b"fi");
        assert_eq!(edited(&seeds, &[0, 1, 1, 0, 0, b'a', 9, 3]), b"far");
        assert_eq!(edited(&[], &[1, 2]), [2]);
        // There are few edits of any kind, and none is long.
        for kind in 0..=255 {
            let script: Vec<u8> = (0..200).map(|at: u8| at.wrapping_mul(kind)).collect();
            assert!(edited(&seeds, &script).len() <= 200, "{kind}");
        }
    }

    #[test]
    fn a_number_is_overwritten_in_both_orders() {
        let mut bytes = [0, 0, 0, 5, 0, 0, 0, 0];
        // Four bytes, plus 2, the last byte first.
        overwrite_number(&mut bytes, 0, 0x40 | 0x20, &mut Script(&[2, 2]));
        assert_eq!(bytes, [0, 0, 0, 7, 0, 0, 0, 0]);
        // Two bytes, less 1, the first byte first.
        overwrite_number(&mut bytes, 3, 0x40, &mut Script(&[1, 0xff]));
        assert_eq!(bytes, [0, 0, 0, 6, 0, 0, 0, 0]);
    }
}
