//! The content of the file `record` of a data folder: which replicas have had entries there, and what an operator has
//! given up there.
//!
//! In: the folder. Out: a [`SmallFile`] of this content, or what it says of entries. The file is CBOR within the form
//! of a small file. Who may change the content, and when, is not known here.

use std::path::Path;
use std::sync::Arc;

use minicbor::{Decode, Encode};

use super::small_file::{SmallFile, SmallFileError};
use crate::disk::{Disk, RealDisk};
use crate::ids::PartitionId;

const NAME: &str = "record";
const MAGIC: [u8; 8] = *b"SHRECORD";

/// What the file has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RecordContent {
    /// Machine and partition of each replica that had an entry here.
    #[n(0)]
    pub with_entries: Vec<(String, u32)>,
    /// Oldest first. None is ever deleted.
    #[n(1)]
    pub given_up: Vec<GivenUp>,
    /// Replicas whose history differs from another node's, and what is known about that. They stay closed until an
    /// operator has decided.
    #[n(2)]
    pub divided: Vec<(String, u32, String)>,
    /// Claims that replicas have two histories, about which no operator has decided. `None` is as good as an empty
    /// list: records from before there were claims end here.
    #[n(3)]
    pub claims: Option<Vec<RecordedClaim>>,
}

/// A claim of this node that a replica has two histories.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RecordedClaim {
    #[n(0)]
    pub machine: String,
    #[n(1)]
    pub partition: u32,
    /// What is told to the other nodes.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub body: Vec<u8>,
}

/// An operator's word that a replica continues without what its log has lost.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GivenUp {
    #[n(0)]
    pub machine: String,
    #[n(1)]
    pub partition: u32,
    #[n(2)]
    pub by: String,
    #[n(3)]
    pub why: String,
    /// When, in microseconds since 1970.
    #[n(4)]
    pub time: i64,
    /// What the replica said it was waiting for.
    #[n(5)]
    pub refusal: String,
    /// The replica was opened by this word. Its next loss needs another word.
    #[n(6)]
    pub is_used: bool,
    /// `system` has recorded the word as well.
    #[n(7)]
    pub is_in_system: bool,
}

impl GivenUp {
    /// Whether the word is about this replica.
    pub fn is_of(&self, machine: &str, partition: PartitionId) -> bool {
        self.machine == machine && self.partition == partition.0
    }
}

/// The file of a folder.
pub fn record_file(disk: Arc<dyn Disk>, folder: &Path) -> SmallFile<RecordContent> {
    SmallFile::new(disk, folder, NAME, MAGIC)
}

/// Which replicas have had entries in a folder on the machine's own file system, as machine and partition. The folder
/// may be that of a running node. A missing record is an empty one.
///
/// # Errors
/// The record cannot be read, is damaged, or was written by a later program.
pub fn replicas_with_entries(folder: &Path) -> Result<Vec<(String, u32)>, SmallFileError> {
    Ok(record_file(Arc::new(RealDisk), folder).read()?.with_entries)
}
