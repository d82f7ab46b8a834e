//! The list of the runs that make up an id index, oldest first, and the secret of its hash.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | `shidm001` |
//! | 8 | 3 × 8 | seed of the hash |
//! | 32 | 8 | `applied`: the ids of the journal up to this entry are in the runs |
//! | 40 | 8 | number for the next run |
//! | 48 | 24 each | runs: number, `after`, `last` |
//! | end − 32 | 32 | blake3 of all bytes before |
//!
//! All integers are little-endian. In: bytes. Out: the list. It does not know what is in a run, nor when the list is
//! replaced.

use std::path::{Path, PathBuf};

use crate::ids::JournalIndex;
use crate::regular;

const MAGIC: &[u8; 8] = b"shidm001";
const MAGIC_FAMILY: &[u8] = b"shidm";
const FIXED_SIZE: usize = 48;
const FIELD_SIZE: usize = 8;
const SPAN_SIZE: usize = 24;
const CHECKSUM_SIZE: usize = 32;
/// Far more than the runs of any index need.
const BYTES_MAX: u64 = 16 << 20;

/// The entries whose ids a run holds: those after `after`, up to and including `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub number: u64,
    pub after: JournalIndex,
    pub last: JournalIndex,
}

/// The runs of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunList {
    /// The secret of the hash by which every run is ordered.
    pub seed: [u64; 3],
    /// The last entry whose ids are in the runs.
    pub applied: JournalIndex,
    pub number_next: u64,
    /// The runs, oldest first.
    pub spans: Vec<Span>,
}

impl Span {
    /// Where the run lies in the folder of its index.
    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("run-{:016x}.ids", self.number))
    }
}

impl RunList {
    /// The name of the file.
    pub const NAME: &str = "manifest";

    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let fixed = self.seed.into_iter().chain([self.applied.0, self.number_next]);
        let spans = self.spans.iter().flat_map(|span| [span.number, span.after.0, span.last.0]);
        fixed.chain(spans).for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        out
    }

    /// `None` if the bytes are damaged.
    pub fn decode(raw: &[u8]) -> Option<Self> {
        let checked = checked(raw)?;
        if !checked.starts_with(MAGIC) || checked.len() < FIXED_SIZE {
            return None;
        }
        let number = |raw: &[u8], field: usize| {
            let (fields, _) = raw.as_chunks::<FIELD_SIZE>();
            u64::from_le_bytes(fields[field])
        };
        let (spans, rest) = checked[FIXED_SIZE..].as_chunks::<SPAN_SIZE>();
        let span = |raw: &[u8; SPAN_SIZE]| Span {
            number: number(raw, 0),
            after: JournalIndex(number(raw, 1)),
            last: JournalIndex(number(raw, 2)),
        };
        rest.is_empty().then(|| Self {
            seed: [1, 2, 3].map(|field| number(checked, field)),
            applied: JournalIndex(number(checked, 4)),
            number_next: number(checked, 5),
            spans: spans.iter().map(span).collect(),
        })
    }

    /// Whether the bytes are whole and of a later format. Every format of the family ends with the same checksum, so
    /// that a flipped bit is not mistaken for a later program.
    pub fn is_of_later_program(raw: &[u8]) -> bool {
        raw.starts_with(MAGIC_FAMILY) && !raw.starts_with(MAGIC) && checked(raw).is_some()
    }
}

/// The last journal entry whose ids are in the runs of a folder, according to its list alone; `None` if there is no
/// readable list. Nothing in the folder is changed.
pub fn ids_applied_in(dir: &Path) -> Option<JournalIndex> {
    let raw = regular::read(&dir.join(RunList::NAME), BYTES_MAX).ok()?;
    RunList::decode(&raw).map(|list| list.applied)
}

/// The bytes that the checksum at the end covers; `None` if they do not match it.
fn checked(raw: &[u8]) -> Option<&[u8]> {
    let (checked, checksum) = raw.split_at_checked(raw.len().checked_sub(CHECKSUM_SIZE)?)?;
    (blake3::hash(checked).as_bytes()[..] == *checksum).then_some(checked)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_format_of_the_list_stays() {
        let list = RunList {
            seed: [1, 2, 3],
            applied: JournalIndex(0x44),
            number_next: 0x55,
            spans: vec![Span { number: 0x66, after: JournalIndex(0), last: JournalIndex(0x44) }],
        };
        let raw = list.encode();
        let digits: Vec<String> = raw.iter().map(|byte| format!("{byte:02x}")).collect();
        let lines: Vec<String> = digits.chunks(32).map(<[String]>::concat).collect();
        expect![[r#"
            736869646d303031010000000000000002000000000000000300000000000000
            4400000000000000550000000000000066000000000000000000000000000000
            440000000000000079e94859c983fb046ccd290f997ddf25e6e93ffb900e1c20
            f6d87bfac6bd7067
        "#]]
        .assert_eq(&(lines.join("\n") + "\n"));
        assert_eq!(RunList::decode(&raw), Some(list));
    }
}
