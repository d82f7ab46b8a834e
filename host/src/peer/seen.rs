//! The book of what other nodes were seen to hold: per node and group the highest entry that it said is durable there.
//!
//! A node that comes back asks its peers for it; less than that in its own log means that its disk was rolled back. Noting changes memory
//! only; [`SeenBook::flush`], called each second by its owner, writes the file whole. So the book may say too little after a crash, and
//! never too much. It does not know who asks, nor what follows.
//!
//! The file, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `SHSEEN` and two zeros |
//! | 4 | format version, 1 |
//! | 4 | number of records |
//! | 38 + n each | node (8), length n of the machine's name (2), that name (n), partition (4), and the entry: term, node, index (8 each) |
//! | 32 | blake3 of everything before |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{GroupName, Seen, SeenError};
use crate::ids::{LogIndex, NodeId, PartitionId, Term};
use crate::log::{Disk, EntryId, RealDisk};

const MAGIC: [u8; 8] = *b"SHSEEN\0\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

type Notes = BTreeMap<(NodeId, GroupName), EntryId>;

/// In memory, with a file behind it that only this book writes.
pub struct SeenBook {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: Mutex<State>,
    /// Held while the file is written, so that an older state never replaces a newer one.
    writing: Mutex<()>,
}

struct State {
    notes: Notes,
    /// Counts the changes; `written` is what the file has.
    version: u64,
    written: u64,
}

impl SeenBook {
    /// The book in a file; an empty one if there is none. A damaged file is an error: what it said must not be forgotten in silence.
    pub fn open(path: &Path) -> Result<Self, SeenError> {
        Self::open_on(Arc::new(RealDisk), path)
    }

    pub fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, SeenError> {
        let notes = match read(&*disk, path) {
            Ok(bytes) => decode(&bytes).map_err(|reason| SeenError::Damaged { path: path.to_owned(), reason })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Notes::new(),
            Err(source) => return Err(SeenError::Disk { path: path.to_owned(), source }),
        };
        let state = State { notes, version: 0, written: 0 };
        Ok(Self { disk, path: path.to_owned(), state: Mutex::new(state), writing: Mutex::default() })
    }

    /// The highest entry that `node` was seen to hold in a group.
    pub fn of(&self, node: NodeId, group: &GroupName) -> Option<EntryId> {
        self.state.lock().notes.get(&(node, group.clone())).copied()
    }

    /// The same for all groups, in order of their names.
    pub fn all_of(&self, node: NodeId) -> Vec<(GroupName, EntryId)> {
        let state = self.state.lock();
        let of_node = state.notes.iter().filter(|((of, _), _)| *of == node);
        of_node.map(|((_, group), entry)| (group.clone(), *entry)).collect()
    }

    /// Writes the file if something changed since; what was noted before the call is durable on return. Blocks. After an error the file
    /// is the old one or the new one, and the next call tries again.
    pub fn flush(&self) -> Result<(), SeenError> {
        let _writing = self.writing.lock();
        let (version, bytes) = {
            let state = self.state.lock();
            if state.version == state.written {
                return Ok(());
            }
            (state.version, encode(&state.notes))
        };
        self.write(&bytes).map_err(|source| SeenError::Disk { path: self.path.clone(), source })?;
        self.state.lock().written = version;
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let unfinished = self.path.with_extension("tmp");
        let file = self.disk.create(&unfinished)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        self.disk.rename(&unfinished, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        self.disk.sync_dir(folder.unwrap_or(Path::new(".")))
    }
}

impl Seen for SeenBook {
    fn on_durable(&self, node: NodeId, group: &GroupName, last: EntryId) {
        let state = &mut *self.state.lock();
        let key = (node, group.clone());
        if state.notes.get(&key).is_none_or(|noted| *noted < last) {
            state.notes.insert(key, last);
            state.version += 1;
        }
    }
}

fn read(disk: &dyn Disk, path: &Path) -> std::io::Result<Vec<u8>> {
    let file = disk.open_to_read(path)?;
    let size = usize::try_from(file.size()?).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; size];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn encode(notes: &Notes) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + 64 * notes.len() + HASH_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
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

fn decode(bytes: &[u8]) -> Result<Notes, String> {
    let (content, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or("it is too short to be one")?;
    let mut content = content.strip_prefix(&MAGIC).ok_or("it does not begin like one")?;
    let version = u32::from_le_bytes(take(&mut content)?);
    if version != VERSION {
        return Err(format!("its format {version} is unknown, this version reads {VERSION}"));
    }
    if blake3::hash(&bytes[..bytes.len() - HASH_BYTES]) != *hash {
        return Err("its checksum is wrong".to_owned());
    }
    let count = u32::from_le_bytes(take(&mut content)?);
    let mut notes = Notes::new();
    for _ in 0..count {
        let (key, entry) = record(&mut content)?;
        if notes.insert(key, entry).is_some() {
            return Err("it names a group of a node twice".to_owned());
        }
    }
    if !content.is_empty() {
        return Err(format!("{} bytes follow its last record", content.len()));
    }
    Ok(notes)
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
