//! The bytes of a journal segment: a run of effective entries of one partition, the same file from every replica.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | `shjrnl01` |
//! | 8 | 2 | format, 1 |
//! | 10 | 2 | length of the machine's name |
//! | 12 | 4 | partition |
//! | 16 | 16 | cluster |
//! | 32 | 8 | the `bytes` of [`Boundary`] with which the segment was cut |
//! | 40 | 8 | journal index of the first entry |
//! | 48 | 32 | parent head: the journal's head before the first entry |
//! | 80 | – | the machine's name |
//! | | 4 + 32 + n | for each entry: length n of its payload, the head after it, the payload as it is hashed |
//! | end − 76 | 4 | 0 in the place of another length |
//! | end − 72 | 8 | journal index of the last entry |
//! | end − 64 | 32 | the head after it |
//! | end − 32 | 32 | blake3 of all bytes before |
//!
//! Numbers are little-endian. Nothing in a segment depends on the node, the time of writing, Raft's terms or void
//! entries. The name of the file is `<first>-<last>-<16 digits of the blake3>.journal`. This file does not know how
//! segments follow each other; `read.rs` does.

use crate::ids::{ClusterId, Digest, Head, JournalIndex, PartitionId};
use crate::limits::JOURNAL_SEGMENT_BYTES;

pub const MAGIC: &[u8; 8] = b"shjrnl01";
pub const FORMAT: u16 = 1;
/// The size of the header without the machine's name.
pub const HEADER_SIZE: usize = 80;
/// The bytes from the zero length to the end of the file.
pub const TRAILER_SIZE: usize = 76;

/// The owner of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub cluster: ClusterId,
    pub machine: String,
    pub partition: PartitionId,
}

/// The rule that ends segments. It depends on each entry alone, so that replicas that begin at different entries cut
/// alike.
///
/// An entry of n bytes ends its segment with the probability n ÷ `bytes`, drawn from the head after it. Segments have
/// about `bytes` bytes on average. One in three thousand is eight times as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    pub bytes: u64,
}

impl Default for Boundary {
    fn default() -> Self {
        Self { bytes: JOURNAL_SEGMENT_BYTES }
    }
}

impl Boundary {
    pub fn is_last(self, head: Head, payload_size: usize) -> bool {
        let drawn = u64::from_le_bytes(*head.0.first_chunk().expect("a head has 32 bytes"));
        u128::from(drawn) * u128::from(self.bytes.max(1)) < (payload_size as u128) << 64
    }
}

/// The facts that a segment states at its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSegmentHeader {
    pub stream: Stream,
    pub boundary: Boundary,
    pub first: JournalIndex,
    pub parent: Head,
}

impl JournalSegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let name = self.stream.machine.as_bytes();
        let mut bytes = Vec::with_capacity(HEADER_SIZE + name.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(name.len()).expect("names of machines are short").to_le_bytes());
        bytes.extend_from_slice(&self.stream.partition.0.to_le_bytes());
        bytes.extend_from_slice(&self.stream.cluster.0);
        bytes.extend_from_slice(&self.boundary.bytes.to_le_bytes());
        bytes.extend_from_slice(&self.first.0.to_le_bytes());
        bytes.extend_from_slice(&self.parent.0);
        assert_eq!(bytes.len(), HEADER_SIZE);
        bytes.extend_from_slice(name);
        bytes
    }

    /// Decodes the fixed part: returns the length of the name that follows, and everything except that name.
    pub fn decode(raw: &[u8; HEADER_SIZE]) -> (usize, Self) {
        let u64_at = |at: usize| u64::from_le_bytes(*raw[at..].first_chunk().expect("inside the header"));
        let name_size = u16::from_le_bytes(*raw[10..].first_chunk().expect("inside the header"));
        let partition = u32::from_le_bytes(*raw[12..].first_chunk().expect("inside the header"));
        let cluster = ClusterId(*raw[16..].first_chunk().expect("inside the header"));
        let header = Self {
            stream: Stream { cluster, machine: String::new(), partition: PartitionId(partition) },
            boundary: Boundary { bytes: u64_at(32) },
            first: JournalIndex(u64_at(40)),
            parent: Head(*raw[48..].first_chunk().expect("inside the header")),
        };
        (usize::from(name_size), header)
    }
}

/// The end of a segment, without the hash.
pub fn encode_trailer(last: JournalIndex, head: Head) -> [u8; TRAILER_SIZE - 32] {
    let mut bytes = [0; TRAILER_SIZE - 32];
    bytes[4..12].copy_from_slice(&last.0.to_le_bytes());
    bytes[12..44].copy_from_slice(&head.0);
    bytes
}

/// The head after the last entry, and the hash of the file.
pub fn decode_trailer(trailer: &[u8; TRAILER_SIZE]) -> (Head, Digest) {
    let part = |at: usize| *trailer[at..].first_chunk::<32>().expect("inside the trailer");
    (Head(part(12)), Digest(part(44)))
}

/// The parts of a file's name. Names sort in order of the journal; of names with the same first entry the longest is
/// last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    pub first: JournalIndex,
    pub last: JournalIndex,
    /// The first 16 digits of the blake3.
    pub hash: String,
}

impl SegmentName {
    /// Parses a name; `None` for any other file.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".journal")?.splitn(3, '-');
        let mut index = || parts.next()?.parse().ok().map(JournalIndex);
        let (first, last) = (index()?, index()?);
        let hash = parts.next().filter(|hash| hash.len() == 16)?.to_owned();
        let parsed = Self { first, last, hash };
        (first <= last && parsed.to_string() == name).then_some(parsed)
    }
}

impl std::fmt::Display for SegmentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:012}-{:012}-{}.journal", self.first.0, self.last.0, self.hash)
    }
}

pub fn file_name(first: JournalIndex, last: JournalIndex, hash: &blake3::Hash) -> String {
    SegmentName { first, last, hash: hash.to_hex()[..16].to_owned() }.to_string()
}
