//! Reads the segments of a partition, and checks every byte on the way.
//!
//! A folder and the list in its manifest go in. Entries come out in order, each with its file and offset, until the
//! first one that is not what was written: an entry was changed, swapped, removed or added, or a file is cut, missing,
//! or from another journal. It needs memory for one entry.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::PathBuf;

use bytes::Bytes;

use super::error::{SegmentDamage, SegmentsError};
use super::folder::{FileFacts, PartitionFacts, partition_folder};
use super::segment::{
    FORMAT, HEADER_SIZE, JournalSegmentHeader, MAGIC, SegmentName, Stream, TRAILER_SIZE, encode_trailer, file_name,
};
use crate::ids::{ClusterId, Head, JournalIndex};
use crate::machine::entry::{Entry, head_after};
use crate::machine::limits::ENTRY_BYTES_MAX;
use crate::regular;

const BUFFER_BYTES: usize = 1 << 20;

/// The segments of one partition.
#[derive(Clone, Debug)]
pub struct SegmentsReader {
    folder: PathBuf,
    stream: Stream,
    files: Vec<FileFacts>,
}

/// An entry and the place that it was read from.
pub struct PlacedEntry {
    pub entry: Entry,
    /// The name of the file.
    pub file: String,
    /// Bytes from the start of the file to the entry's record.
    pub offset: u64,
}

/// A walk over all files.
struct FileWalk<'r> {
    reader: &'r SegmentsReader,
    /// The number of the next file.
    next_file: usize,
    open: Option<OpenFile>,
    last: JournalIndex,
    head: Head,
    has_failed: bool,
}

/// A file that is partly read.
struct OpenFile {
    file: BufReader<File>,
    facts: FileFacts,
    header: JournalSegmentHeader,
    hasher: blake3::Hasher,
    /// The number of bytes read.
    offset: u64,
    /// The last entry read must end its segment, unless the journal ends there.
    is_bounded: bool,
    /// This file has replaced the listed one, which is the beginning of this file.
    is_longer: bool,
}

impl SegmentsReader {
    pub fn new(folder: PathBuf, cluster: ClusterId, facts: &PartitionFacts) -> Self {
        let stream = Stream { cluster, machine: facts.machine.clone(), partition: facts.partition };
        let folder = partition_folder(&folder, &facts.machine, facts.partition);
        Self { folder, stream, files: facts.files.clone() }
    }

    /// Reads files that lie in the folder itself.
    pub fn in_folder(folder: PathBuf, cluster: ClusterId, facts: &PartitionFacts) -> Self {
        Self { folder, ..Self::new(PathBuf::new(), cluster, facts) }
    }

    /// The position of the journal before the first file, as that file states it. Genesis has another head.
    pub fn beginning(&self) -> Result<(JournalIndex, Head), SegmentsError> {
        let Some(facts) = self.files.first() else { return Ok((JournalIndex(0), Head([0; 32]))) };
        let fail = |damage| self.error(&facts.name, 0, facts.first, damage);
        let mut file = regular::open(&self.folder.join(&facts.name)).map_err(|error| fail(error.into()))?;
        let mut raw = [0; HEADER_SIZE];
        read_exact(&mut file, &mut raw).map_err(fail)?;
        let (_, header) = JournalSegmentHeader::decode(&raw);
        Ok((JournalIndex(header.first.0.saturating_sub(1)), header.parent))
    }

    /// The size of all files, as they are listed.
    pub fn byte_count(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The first listed entry; `None` if there is none.
    pub fn first(&self) -> Option<JournalIndex> {
        self.files.first().map(|file| file.first)
    }

    /// The last listed entry; 0 if there is none.
    pub fn last(&self) -> JournalIndex {
        self.files.last().map_or(JournalIndex(0), |file| file.last)
    }

    /// The entries in order; nothing follows an error. `last` and `head` are the journal's position before them.
    pub fn entries(
        &self,
        last: JournalIndex,
        head: Head,
    ) -> impl Iterator<Item = Result<PlacedEntry, SegmentsError>> + '_ {
        FileWalk { reader: self, next_file: 0, open: None, last, head, has_failed: false }
    }

    /// The file that has since replaced a listed one: while an archive grows, longer segments replace its last one.
    fn open_longer(&self, facts: &FileFacts) -> Option<File> {
        let names = std::fs::read_dir(&self.folder).ok()?;
        let names = names.filter_map(|entry| SegmentName::parse(entry.ok()?.file_name().to_str()?));
        let longer = names.filter(|name| name.first == facts.first && facts.last < name.last).max()?;
        regular::open(&self.folder.join(longer.to_string())).ok()
    }

    fn error(&self, file: &str, offset: u64, index: JournalIndex, damage: SegmentDamage) -> SegmentsError {
        let (machine, partition) = (self.stream.machine.clone(), self.stream.partition);
        SegmentsError::Segment { machine, partition, file: file.to_owned(), offset, index, damage }
    }
}

impl Iterator for FileWalk<'_> {
    type Item = Result<PlacedEntry, SegmentsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        loop {
            let result = match self.open.take() {
                Some(open) => self.go_on(open),
                None => {
                    let facts = self.reader.files.get(self.next_file)?.clone();
                    self.next_file += 1;
                    self.begin(facts).map(|open| {
                        self.open = Some(open);
                        None
                    })
                }
            };
            match result {
                Ok(Some(placed)) => return Some(Ok(placed)),
                Ok(None) => {}
                Err(error) => {
                    self.has_failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl FileWalk<'_> {
    fn begin(&self, facts: FileFacts) -> Result<OpenFile, SegmentsError> {
        let fail = |damage| self.reader.error(&facts.name, 0, self.last.next(), damage);
        let (file, is_longer) = match regular::open(&self.reader.folder.join(&facts.name)) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                (self.reader.open_longer(&facts).ok_or_else(|| fail(SegmentDamage::Missing))?, true)
            }
            Err(error) => return Err(fail(error.into())),
        };
        let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
        let mut raw = [0; HEADER_SIZE];
        read_exact(&mut file, &mut raw).map_err(fail)?;
        if !raw.starts_with(MAGIC) {
            return Err(fail(SegmentDamage::Magic));
        }
        let format = u16::from_le_bytes([raw[8], raw[9]]);
        if format != FORMAT {
            return Err(fail(SegmentDamage::Format { found: format, known: FORMAT }));
        }
        let (name_size, mut header) = JournalSegmentHeader::decode(&raw);
        let mut name = vec![0; name_size];
        read_exact(&mut file, &mut name).map_err(fail)?;
        header.stream.machine = String::from_utf8_lossy(&name).into_owned();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&raw).update(&name);
        if header.stream != self.reader.stream {
            let Stream { cluster, machine, partition } = header.stream;
            return Err(fail(SegmentDamage::ForeignStream { cluster, machine, partition }));
        }
        let expected = self.last.next();
        if header.first != expected || facts.first != expected {
            return Err(fail(SegmentDamage::Begins { expected, found: header.first }));
        }
        if header.parent != self.head {
            return Err(fail(SegmentDamage::Parent { expected: self.head, found: header.parent }));
        }
        let offset = (HEADER_SIZE + name_size) as u64;
        Ok(OpenFile { file, facts, header, hasher, offset, is_bounded: false, is_longer })
    }

    /// The next entry of the open file; `None` at its end.
    fn go_on(&mut self, mut open: OpenFile) -> Result<Option<PlacedEntry>, SegmentsError> {
        let (reader, index, offset, name) = (self.reader, self.last.next(), open.offset, open.facts.name.clone());
        let fail = |damage| reader.error(&name, offset, index, damage);
        if open.is_longer && open.facts.last < index {
            return if self.head == open.facts.head { Ok(None) } else { Err(fail(SegmentDamage::Listed)) };
        }
        let mut size = [0; 4];
        open.read(&mut size).map_err(fail)?;
        let size = u32::from_le_bytes(size);
        if size == 0 {
            return self.end(open).map(|()| None);
        }
        if ENTRY_BYTES_MAX < size as usize {
            return Err(fail(SegmentDamage::TooLong(size)));
        }
        if open.is_bounded {
            return Err(fail(SegmentDamage::Boundary));
        }
        let mut recorded = [0; 32];
        open.read(&mut recorded).map_err(fail)?;
        let mut payload = vec![0; size as usize];
        open.read(&mut payload).map_err(fail)?;
        let (recorded, computed) = (Head(recorded), head_after(self.head, &payload));
        // The entry's own fields are checked first: an entry that was moved here is intact, but has a head from
        // elsewhere.
        let entry = Entry::parse(Bytes::from(payload));
        if let Ok(entry) = &entry
            && entry.head_after() == recorded
        {
            if entry.header().index != index {
                return Err(fail(SegmentDamage::Order { found: entry.header().index }));
            }
            if entry.header().parent != self.head {
                return Err(fail(SegmentDamage::Parent { expected: self.head, found: entry.header().parent }));
            }
        }
        if computed != recorded {
            return Err(fail(SegmentDamage::Head { expected: recorded, found: computed }));
        }
        let entry = entry.map_err(|error| fail(error.into()))?;
        if entry.header().parent != self.head {
            return Err(fail(SegmentDamage::Parent { expected: self.head, found: entry.header().parent }));
        }
        if entry.header().index != index {
            return Err(fail(SegmentDamage::Order { found: entry.header().index }));
        }
        (self.last, self.head) = (index, computed);
        open.is_bounded = open.header.boundary.is_last(computed, size as usize);
        let placed = PlacedEntry { entry, file: name, offset };
        self.open = Some(open);
        Ok(Some(placed))
    }

    /// Reads the end of a file. The zero length was already read.
    fn end(&mut self, mut open: OpenFile) -> Result<(), SegmentsError> {
        let (reader, last, offset, name) = (self.reader, self.last, open.offset, open.facts.name.clone());
        let fail = |damage| reader.error(&name, offset, last.next(), damage);
        let mut trailer = [0; TRAILER_SIZE - 32];
        open.read(&mut trailer[4..]).map_err(fail)?;
        let hash = open.hasher.finalize();
        let mut recorded = [0; 32];
        read_exact(&mut open.file, &mut recorded).map_err(fail)?;
        if trailer != encode_trailer(last, self.head) {
            return Err(fail(SegmentDamage::Trailer));
        }
        if recorded != *hash.as_bytes() {
            return Err(fail(SegmentDamage::Hash));
        }
        let surplus = std::io::copy(&mut open.file, &mut std::io::sink()).map_err(|error| fail(error.into()))?;
        if 0 < surplus {
            return Err(fail(SegmentDamage::Surplus(surplus)));
        }
        let is_last_file = self.next_file == reader.files.len();
        if !open.is_bounded && !is_last_file {
            return Err(fail(SegmentDamage::Boundary));
        }
        let facts = &open.facts;
        let name_expected = file_name(facts.first, last, &hash);
        let is_listed = facts.last == last && facts.head == self.head && facts.blake3.0 == recorded;
        if !is_listed || facts.name != name_expected {
            return Err(fail(SegmentDamage::Listed));
        }
        Ok(())
    }
}

impl OpenFile {
    fn read(&mut self, to: &mut [u8]) -> Result<(), SegmentDamage> {
        read_exact(&mut self.file, to)?;
        self.hasher.update(to);
        self.offset += to.len() as u64;
        Ok(())
    }
}

fn read_exact(file: &mut impl Read, to: &mut [u8]) -> Result<(), SegmentDamage> {
    file.read_exact(to).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => SegmentDamage::Cut,
        _ => error.into(),
    })
}
