//! The manifest: the subject of a snapshot, its position, and its files. It is also the offer to another node.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | `shsnap01` |
//! | 8 | – | CBOR of [`Manifest`] |
//! | end − 32 | 32 | blake3 of all bytes before |
//!
//! Names are checked when the manifest is read: they come from another node, and become paths.

use std::path::{Component, Path};

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::{IDS, STATE, SnapshotError};
use crate::ids::{LogIndex, NodeId, Term};
use crate::limits;
use crate::log::{EntryId, StreamId};
use crate::store::{Meta, split_consensus};

const MAGIC: &[u8; 8] = b"shsnap01";
const MAGIC_FAMILY: &[u8] = b"shsnap";
const CHECKSUM_SIZE: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Manifest {
    #[n(0)]
    pub stream: String,
    /// The last entry whose effects are in the snapshot: term, node, index.
    #[n(1)]
    last: (u64, u64, u64),
    /// The log's chain hash at that entry; zeros if it was not known.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub log_hash: [u8; 32],
    #[n(3)]
    pub journal: u64,
    #[cbor(n(4), with = "minicbor::bytes")]
    pub head: [u8; 32],
    #[n(5)]
    pub time: i64,
    #[cbor(n(6), with = "minicbor::bytes")]
    pub module: [u8; 32],
    #[n(7)]
    pub schema: u32,
    /// The bytes that the meta row keeps for consensus, including the membership.
    #[cbor(n(8), with = "minicbor::bytes")]
    consensus: Vec<u8>,
    /// The files, in order of name.
    #[n(9)]
    pub files: Vec<SnapshotFileFacts>,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotFileFacts {
    /// The path below the snapshot's folder, with `/` between folders.
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub size: u64,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub hash: [u8; 32],
}

impl Manifest {
    /// The manifest of a state at the position `meta`. It has no files yet.
    pub fn new(stream: &StreamId, meta: &Meta, log_hash: [u8; 32]) -> Self {
        Self {
            stream: stream.to_string(),
            last: (meta.applied.term.0, meta.applied.node.0, meta.applied.index.0),
            log_hash,
            journal: meta.journal.0,
            head: meta.head.0,
            time: meta.time.0,
            module: meta.module.0,
            schema: meta.schema,
            consensus: meta.consensus(),
            files: Vec::new(),
        }
    }

    pub fn last(&self) -> EntryId {
        let (term, node, index) = self.last;
        EntryId { term: Term(term), node: NodeId(node), index: LogIndex(index) }
    }

    /// The members of the group at that entry, as consensus encodes them.
    pub fn membership(&self) -> Option<Bytes> {
        split_consensus(&self.consensus).and_then(|(_, membership)| membership)
    }

    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    pub fn encode(&self) -> Bytes {
        assert!(self.files.windows(2).all(|pair| pair[0].name < pair[1].name), "files are in order of name");
        let mut out = MAGIC.to_vec();
        minicbor::encode(self, &mut out).expect("writing to memory cannot fail");
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        out.into()
    }

    /// # Errors
    /// The bytes are damaged, have a later format, or have names that no file of a snapshot can have.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let damaged = |what| SnapshotError::Manifest { what };
        if bytes.len() < MAGIC.len() + CHECKSUM_SIZE {
            return Err(damaged("it is too short"));
        }
        let (content, checksum) = bytes.split_at(bytes.len() - CHECKSUM_SIZE);
        if blake3::hash(content).as_bytes() != checksum {
            return Err(damaged("its checksum is not right"));
        }
        let (magic, content) = content.split_at(MAGIC.len());
        if magic != MAGIC {
            let text = |magic: &[u8]| String::from_utf8_lossy(magic).into_owned();
            return Err(match magic.starts_with(MAGIC_FAMILY) {
                true => SnapshotError::Format { found: text(magic), known: text(MAGIC) },
                false => damaged("it is no manifest"),
            });
        }
        let manifest: Self = minicbor::decode(content).map_err(|_| damaged("it is not of the format"))?;
        if split_consensus(&manifest.consensus).is_none() {
            return Err(damaged("it has no activation"));
        }
        if limits::SNAPSHOT_FILES_MAX < manifest.files.len() {
            return Err(damaged("it names too many files"));
        }
        if let Some(file) = manifest.files.iter().find(|file| !is_file_name(&file.name)) {
            return Err(SnapshotError::FileName { name: file.name.clone() });
        }
        let in_order = manifest.files.windows(2).all(|pair| pair[0].name < pair[1].name);
        if in_order { Ok(manifest) } else { Err(damaged("its files are not in order")) }
    }

    pub fn check_stream(&self, expected: &str) -> Result<(), SnapshotError> {
        if self.stream == expected {
            return Ok(());
        }
        Err(SnapshotError::ForeignStream { expected: expected.to_owned(), found: self.stream.clone() })
    }
}

/// Whether the name is a path that stays below the snapshot's folder, in one of its two parts.
fn is_file_name(name: &str) -> bool {
    let parts: Option<Vec<&str>> = Path::new(name)
        .components()
        .map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    let Some(parts) = parts else { return false };
    parts.join("/") == name && 2 <= parts.len() && [STATE, IDS].contains(&parts[0])
}
