//! The book of what other nodes were seen to hold: per node and group the highest entry that it said is durable there.
//!
//! A node that returns asks its peers for these entries; if its own log has less, its disk was rolled back. A note
//! changes memory only; [`SeenBook::flush`], which its owner calls each second, writes the whole file. So the book may
//! say too little after a crash, but never too much. A damaged file is made anew. The book then reports each group as
//! lost until the node itself has said what it holds, because reporting less than was seen would let a disk that was
//! rolled back pass. It does not know who asks, nor what follows.
//!
//! The file, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `SHSEEN` and two zeros |
//! | 4 | format version: 1, or 2 in a book that has lost what an earlier one said |
//! | 4 | number of records |
//! | 38 + n each | node (8), length n (2) and machine's name (n), partition (4), entry: term, node, index (8 each) |
//! | 32 | blake3 of everything before |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{GroupName, SeenEntries, SeenError, SeenLost};
use crate::disk::{Disk, RealDisk, read_whole, write_whole};
use crate::ids::{LogIndex, NodeId, PartitionId, Term};
use crate::log::EntryId;

const MAGIC: [u8; 8] = *b"SHSEEN\0\0";
const VERSION: u32 = 1;
/// The version of a book that may lack entries that were seen.
const VERSION_LOST: u32 = 2;
const HEADER_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

type Notes = BTreeMap<(NodeId, GroupName), EntryId>;

/// Notes in memory, with a file that only this book writes.
pub struct SeenBook {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: Mutex<SeenState>,
    /// Held while the file is written, so that an older state never replaces a newer one.
    writing: Mutex<()>,
}

struct SeenState {
    notes: Notes,
    /// An earlier book was damaged: a group that a node has not reported itself since then is unknown.
    is_lost: bool,
    /// Counts the changes; `written` is what the file has.
    version: u64,
    written: u64,
}

impl SeenBook {
    /// Opens the book in a file: an empty one if there is no file, and one that says so if the file is damaged.
    ///
    /// # Errors
    /// The file cannot be read, or was written by a later program.
    pub fn open(path: &Path) -> Result<Self, SeenError> {
        Self::open_on(Arc::new(RealDisk), path)
    }

    pub fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, SeenError> {
        let mut state = SeenState { notes: Notes::new(), is_lost: false, version: 0, written: 0 };
        match read_whole(&*disk, path) {
            Ok(bytes) => match decode(&bytes) {
                Ok((notes, is_lost)) => (state.notes, state.is_lost) = (notes, is_lost),
                Err(SeenFileError::Later(found)) => return Err(SeenError::Format { path: path.to_owned(), found }),
                Err(SeenFileError::Damaged(reason)) => {
                    tracing::error!(
                        path = %path.display(),
                        reason,
                        "the record of what other nodes' logs held is damaged and made again: until they have \
                         reported again, this node does not vouch for them when they start"
                    );
                    // The next flush writes the new book even if nothing was noted until then.
                    (state.is_lost, state.version) = (true, 1);
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(SeenError::Disk { path: path.to_owned(), source }),
        }
        Ok(Self { disk, path: path.to_owned(), state: Mutex::new(state), writing: Mutex::default() })
    }

    /// The highest entry that `node` was seen to hold in a group.
    ///
    /// # Errors
    /// [`SeenLost`]: the note was lost, and may have been any entry.
    pub fn of(&self, node: NodeId, group: &GroupName) -> Result<Option<EntryId>, SeenLost> {
        let state = self.state.lock();
        let noted = state.notes.get(&(node, group.clone())).copied();
        if noted.is_none() && state.is_lost { Err(SeenLost) } else { Ok(noted) }
    }

    /// Notes what a node itself says it holds: what was lost about it is known again.
    pub fn on_told(&self, node: NodeId, group: &GroupName, last: EntryId) {
        self.state.lock().note(node, group, last);
    }

    /// The highest entries that `node` was seen to hold, of all groups in order of their names.
    pub fn all_of(&self, node: NodeId) -> Vec<(GroupName, EntryId)> {
        let state = self.state.lock();
        let of_node = state.notes.iter().filter(|((of, _), _)| *of == node);
        of_node.map(|((_, group), entry)| (group.clone(), *entry)).collect()
    }

    /// Writes the file if something changed since the last time; what was noted before the call is durable on return.
    /// Blocks. After an error the file is the old one or the new one, and the next call tries again.
    pub fn flush(&self) -> Result<(), SeenError> {
        let _writing = self.writing.lock();
        let (version, bytes) = {
            let state = self.state.lock();
            if state.version == state.written {
                return Ok(());
            }
            (state.version, encode(&state.notes, state.is_lost))
        };
        write_whole(&*self.disk, &self.path, &bytes)
            .map_err(|source| SeenError::Disk { path: self.path.clone(), source })?;
        self.state.lock().written = version;
        Ok(())
    }
}

impl SeenState {
    fn note(&mut self, node: NodeId, group: &GroupName, last: EntryId) {
        let key = (node, group.clone());
        if self.notes.get(&key).is_none_or(|noted| *noted < last) {
            self.notes.insert(key, last);
            self.version += 1;
        }
    }
}

impl SeenEntries for SeenBook {
    /// A leader first hears of entries far below those that the node holds. If the note was lost, that says nothing.
    fn on_durable(&self, node: NodeId, group: &GroupName, last: EntryId) {
        let mut state = self.state.lock();
        if !state.is_lost || state.notes.contains_key(&(node, group.clone())) {
            state.note(node, group, last);
        }
    }

    fn held(&self, node: NodeId, group: &GroupName) -> Option<EntryId> {
        self.of(node, group).ok().flatten()
    }
}

/// Why a file cannot be read as a book.
enum SeenFileError {
    /// Its format is of a later program.
    Later(u32),
    Damaged(String),
}

impl From<&str> for SeenFileError {
    fn from(reason: &str) -> Self {
        Self::Damaged(reason.to_owned())
    }
}

impl From<String> for SeenFileError {
    fn from(reason: String) -> Self {
        Self::Damaged(reason)
    }
}

fn encode(notes: &Notes, is_lost: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + 64 * notes.len() + HASH_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&if is_lost { VERSION_LOST } else { VERSION }.to_le_bytes());
    let count = u32::try_from(notes.len()).expect("nodes times groups are far fewer than 4 billion");
    bytes.extend_from_slice(&count.to_le_bytes());
    for ((node, group), entry) in notes {
        bytes.extend_from_slice(&node.0.to_le_bytes());
        let size = u16::try_from(group.machine.len()).expect("a machine's name is short");
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(group.machine.as_bytes());
        bytes.extend_from_slice(&group.partition.0.to_le_bytes());
        for number in [entry.term.0, entry.node.0, entry.index.0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
    bytes
}

/// The notes, and whether the book has lost others.
fn decode(bytes: &[u8]) -> Result<(Notes, bool), SeenFileError> {
    let (content, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or("it is too short to be one")?;
    let mut content = content.strip_prefix(&MAGIC).ok_or("it does not begin like one")?;
    if blake3::hash(&bytes[..bytes.len() - HASH_BYTES]) != *hash {
        return Err("its checksum is wrong".into());
    }
    let version = u32::from_le_bytes(take(&mut content)?);
    if ![VERSION, VERSION_LOST].contains(&version) {
        return Err(SeenFileError::Later(version));
    }
    let count = u32::from_le_bytes(take(&mut content)?);
    let mut notes = Notes::new();
    for _ in 0..count {
        let (key, entry) = record(&mut content)?;
        if notes.insert(key, entry).is_some() {
            return Err("it names a group of a node twice".into());
        }
    }
    if !content.is_empty() {
        return Err(format!("{} bytes follow its last record", content.len()).into());
    }
    Ok((notes, version == VERSION_LOST))
}

fn record(content: &mut &[u8]) -> Result<((NodeId, GroupName), EntryId), String> {
    let node = NodeId(u64::from_le_bytes(take(content)?));
    let size = u16::from_le_bytes(take(content)?);
    let (name, rest) = content.split_at_checked(size.into()).ok_or("it ends within a record")?;
    *content = rest;
    let name = std::str::from_utf8(name).map_err(|_| "a machine's name is no text")?;
    let group = GroupName::new(name, PartitionId(u32::from_le_bytes(take(content)?)));
    let entry = EntryId {
        term: Term(u64::from_le_bytes(take(content)?)),
        node: NodeId(u64::from_le_bytes(take(content)?)),
        index: LogIndex(u64::from_le_bytes(take(content)?)),
    };
    Ok(((node, group), entry))
}

fn take<const N: usize>(content: &mut &[u8]) -> Result<[u8; N], String> {
    let (taken, rest) = content.split_first_chunk().ok_or("it ends within a record")?;
    *content = rest;
    Ok(*taken)
}
