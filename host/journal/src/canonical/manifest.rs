//! The bytes of a canonical snapshot: the rows of a partition after one entry, in order of key, then a manifest.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | `shrows01` |
//! | 8 | 2 | format, 1 |
//! | 10 | 6 | 0 |
//! | 16 | – | for each row: length of the key (4), the key, length of the row (4), the row |
//! | | n | the manifest: CBOR array of [`CanonicalManifest`]'s fields, in their order |
//! | end − 36 | 4 | n |
//! | end − 32 | 32 | blake3 of the first 16 bytes, the manifest and n |
//!
//! Numbers are little-endian. Rows are cut into *chunks*. A chunk ends with the row that makes it [`CHUNK_BYTES`] long,
//! or with the last row. The manifest has the blake3 of each chunk, so the last hash covers every byte. The state
//! digest is the blake3 of all rows as they are stored here. Nothing depends on the node, the time of writing, or Raft.
//! The name is `<index>-<16 digits of the last hash>.snapshot`; a file that stands for midnights is named
//! `<index>-<last day>-<16 digits>.snapshot`.

use minicbor::{Decode, Encode};

use super::days::Days;
use crate::ids::{ClusterId, Digest, Head, JournalIndex, Micros, ModuleId, PartitionId};
use crate::machine::journal::Journal;

pub const MAGIC: &[u8; 8] = b"shrows01";
pub const FORMAT: u16 = 1;
pub const HEADER_SIZE: usize = 16;
/// The length of the manifest, and the hash.
pub const TRAILER_SIZE: usize = 36;
/// Large enough that hashes and calls cost little compared with the rows, and small enough to be in memory.
pub const CHUNK_BYTES: usize = 1 << 20;
pub const EXTENSION: &str = "snapshot";
/// How many digits of the last hash the name has.
const HASH_DIGITS: usize = 16;

/// The subject of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub cluster: ClusterId,
    pub machine: String,
    pub partition: PartitionId,
    /// The position of the journal.
    pub journal: Journal,
    /// The midnights for which it stands; `None` if it was made for another reason.
    pub days: Option<Days>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct CanonicalManifest {
    #[cbor(n(0), with = "minicbor::bytes")]
    cluster: [u8; 16],
    #[n(1)]
    machine: String,
    #[n(2)]
    partition: u32,
    #[n(3)]
    index: u64,
    #[cbor(n(4), with = "minicbor::bytes")]
    head: [u8; 32],
    /// The time of the last entry, in microseconds since 1970.
    #[n(5)]
    time: i64,
    #[cbor(n(6), with = "minicbor::bytes")]
    module: [u8; 32],
    #[n(7)]
    activation: u64,
    #[n(8)]
    schema: u32,
    #[n(9)]
    days: Option<Days>,
    #[n(10)]
    pub rows: u64,
    #[cbor(n(11), with = "minicbor::bytes")]
    pub state_digest: [u8; 32],
    #[n(12)]
    pub chunks: Vec<RowChunk>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct RowChunk {
    #[n(0)]
    pub bytes: u32,
    #[n(1)]
    pub rows: u32,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub blake3: [u8; 32],
}

/// A complete file, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    pub name: String,
    /// The size of the file.
    pub bytes: u64,
    pub rows: u64,
    pub state_digest: Digest,
    /// The hash at the end of the file.
    pub blake3: Digest,
    pub facts: Facts,
}

impl CanonicalManifest {
    pub fn new(facts: &Facts) -> Self {
        let Facts { cluster, machine, partition, journal, days } = facts;
        Self {
            cluster: cluster.0,
            machine: machine.clone(),
            partition: partition.0,
            index: journal.index.0,
            head: journal.head.0,
            time: journal.time.0,
            module: journal.module.0,
            activation: journal.activation,
            schema: journal.schema,
            days: *days,
            rows: 0,
            state_digest: [0; 32],
            chunks: Vec::new(),
        }
    }

    pub fn facts(&self) -> Facts {
        let journal = Journal {
            index: JournalIndex(self.index),
            head: Head(self.head),
            time: Micros(self.time),
            module: ModuleId(self.module),
            schema: self.schema,
            activation: self.activation,
        };
        let (cluster, partition) = (ClusterId(self.cluster), PartitionId(self.partition));
        Facts { cluster, machine: self.machine.clone(), partition, journal, days: self.days }
    }

    /// The offset in the file at which the rows end and the manifest begins.
    pub fn rows_end(&self) -> u64 {
        HEADER_SIZE as u64 + self.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum::<u64>()
    }

    pub fn listed(&self, bytes: u64, blake3: Digest) -> ListedFile {
        let facts = self.facts();
        let name = file_name(facts.journal.index, facts.days, blake3);
        ListedFile { name, bytes, rows: self.rows, state_digest: Digest(self.state_digest), blake3, facts }
    }
}

pub(super) fn header() -> [u8; HEADER_SIZE] {
    let mut bytes = [0; HEADER_SIZE];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    bytes
}

/// The index in the name of a snapshot, and the last day for which it stands; `None` if it is not such a name. A valid
/// name has no folder in it, nor anything else that could form a path.
pub fn parse_name(name: &str) -> Option<(JournalIndex, Option<&str>)> {
    let (index, rest) = name.strip_suffix(EXTENSION)?.strip_suffix('.')?.split_once('-')?;
    let (day, hash) = rest.rsplit_once('-').map_or((None, rest), |(day, hash)| (Some(day), hash));
    let is_of = |text: &str, of: fn(u8) -> bool| !text.is_empty() && text.bytes().all(of);
    let is_hash = hash.len() == HASH_DIGITS && is_of(hash, |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_day = day.is_none_or(|day| is_of(day, |byte| byte.is_ascii_alphanumeric() || byte == b'-'));
    let index = index.parse().ok().filter(|_| is_of(index, |byte| byte.is_ascii_digit()))?;
    (is_hash && is_day).then_some((JournalIndex(index), day))
}

fn file_name(index: JournalIndex, days: Option<Days>, blake3: Digest) -> String {
    let day = days.map_or_else(String::new, |days| format!("-{}", days.last_date()));
    format!("{:012}{day}-{}.{EXTENSION}", index.0, &blake3.to_string()[..HASH_DIGITS])
}
