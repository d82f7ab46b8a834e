//! Fuzz targets: a journal segment and the list of a folder, as an auditor is given them.
//!
//! In: any bytes, also such whose hashes are right. Out: nothing, if a segment that is read to its end is written again
//! byte for byte. It does not know how inputs are made.

use statehouse_fuzz::{Target, fuzz, within};

use super::*;
use crate::machine::entry::head_after;
use crate::machine::limits::ENTRY_BYTES_MAX;
use crate::segments::{SegmentName, SegmentsReader, SegmentsWriter, decode_trailer};

/// Memory for reading one file: the reader's buffer, an entry as long as any, which a length in the file may claim, and
/// what the entries become.
fn bound(input: &[u8]) -> usize {
    (2 << 20) + ENTRY_BYTES_MAX + 128 * input.len()
}

/// A folder that is not on a disk, where there is one.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

fn segments() -> Vec<Vec<u8>> {
    let (folder, _, facts) = set();
    facts.files.iter().map(|file| std::fs::read(path_of(folder.path(), file)).expect("it is there")).collect()
}

/// The segment with the right heads and the right end, as far as its entries follow each other.
fn sealed(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let (Some(header), true) = (input.first_chunk::<HEADER_SIZE>(), TRAILER_SIZE <= input.len()) else { return bytes };
    let (name_size, JournalSegmentHeader { first, parent, .. }) = JournalSegmentHeader::decode(header);
    let (mut at, mut last, mut head) = (HEADER_SIZE + name_size, first.0.wrapping_sub(1), parent);
    while let Some(size) = bytes.get(at..at + 4).map(|size| u32::from_le_bytes([size[0], size[1], size[2], size[3]])) {
        let Some(payload) = bytes.get(at + 36..at + 36 + size as usize).filter(|_| size != 0) else { break };
        head = head_after(head, payload);
        bytes[at + 4..at + 36].copy_from_slice(&head.0);
        (at, last) = (at + 36 + size as usize, last.wrapping_add(1));
    }
    bytes.truncate(at);
    bytes.extend_from_slice(&encode_trailer(JournalIndex(last), head));
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

#[test]
fn a_segment_that_is_read_to_its_end_is_written_byte_for_byte() {
    fuzz!(Target::new("journal_segment").seeds(segments()).iterations(2_000), |input| {
        read_segment(input);
        read_segment(&sealed(input));
    });
}

/// Reads the bytes as the only file of a journal, listed as they describe themselves.
fn read_segment(input: &[u8]) {
    let (Some(header), Some(trailer)) = (input.first_chunk::<HEADER_SIZE>(), input.last_chunk::<TRAILER_SIZE>()) else {
        return;
    };
    let (name_size, header) = JournalSegmentHeader::decode(header);
    // A list has names in ASCII only, so no other name is ever looked for.
    let machine = input.get(HEADER_SIZE..HEADER_SIZE + name_size).unwrap_or_default();
    let Ok(machine) = std::str::from_utf8(machine) else { return };
    let (head, blake3) = decode_trailer(trailer);
    let last = JournalIndex(u64::from_le_bytes(*trailer[4..].first_chunk().expect("a trailer")));
    let name = SegmentName { first: header.first, last, hash: blake3.to_string()[..16].to_owned() };
    let file = FileFacts { name: name.to_string(), first: header.first, last, head, bytes: input.len() as u64, blake3 };
    let facts =
        PartitionFacts { machine: machine.to_owned(), partition: header.stream.partition, files: vec![file.clone()] };
    let folder = folder();
    let path = folder.path().join(&file.name);
    std::fs::write(&path, input).expect("the folder is ours");
    if SegmentName::parse(&file.name) == Some(name.clone()) {
        assert_eq!(FileFacts::read(folder.path(), &name).expect("it is there"), file);
    }
    let reader = SegmentsReader::in_folder(folder.path().to_owned(), header.stream.cluster, &facts);
    let before = JournalIndex(header.first.0.saturating_sub(1));
    let entries: Result<Vec<Entry>, SegmentsError> = within(bound(input), || {
        reader.entries(before, header.parent).map(|placed| placed.map(|placed| placed.entry)).collect()
    });
    let _ = reader.beginning();
    // A file without entries is none that anybody writes.
    let Ok(entries) = entries else { return };
    let Some(entry) = entries.first() else { return };
    assert_eq!((entry.header().index, entry.header().parent), (header.first, header.parent));
    let stream = super::super::Stream { machine: facts.machine.clone(), ..header.stream };
    let again = folder.path().join("again");
    let writer = SegmentsWriter::new(&again, stream, header.boundary, before, header.parent);
    let mut writer = writer.expect("the folder is ours");
    entries.iter().for_each(|entry| _ = writer.push(entry).expect("the disk has room"));
    assert_eq!(writer.finish().expect("the disk has room"), std::slice::from_ref(&file));
    assert!(std::fs::read(again.join(&file.name)).expect("it was written") == input, "other bytes");
}

/// A list of two partitions, as it is written.
fn list() -> Vec<u8> {
    let (folder, _, facts) = set();
    let list = list_of(PartitionFacts { files: facts.files[..1].to_vec(), ..facts });
    list.write(folder.path()).expect("the folder is ours");
    std::fs::read(folder.path().join("journal.json")).expect("it was written")
}

/// The list with the hash that belongs to it, if it can be read as one at all.
fn sealed_list(input: &[u8]) -> Option<Vec<u8>> {
    let mut list: serde_json::Value = serde_json::from_slice(input).ok()?;
    let journal: Manifest = serde_json::from_value(list.get("journal")?.clone()).ok()?;
    let hash = Digest::of(&serde_json::to_vec(&journal).expect("texts and integers only"));
    list["blake3"] = serde_json::to_value(hash).expect("a text");
    Some(serde_json::to_vec(&list).expect("it was JSON"))
}

#[test]
fn a_list_that_is_accepted_names_no_path_and_is_written_as_it_was() {
    fuzz!(Target::new("journal_list").seeds([list()]).iterations(4_000), |input| {
        read_list(input);
        if let Some(sealed) = sealed_list(input) {
            read_list(&sealed);
        }
    });
}

fn read_list(input: &[u8]) {
    let folder = folder();
    std::fs::write(folder.path().join("journal.json"), input).expect("the folder is ours");
    let read = within((64 << 10) + 256 * input.len(), || Manifest::read(folder.path()));
    let Ok(manifest) = read else { return };
    let manifest = manifest.expect("the file is there");
    let _ = manifest.cluster_id();
    for facts in &manifest.partitions {
        for name in facts.files.iter().map(|file| &file.name).chain([&facts.machine]) {
            assert!(!name.contains('/') && !name.starts_with('.') && !name.is_empty(), "{name}");
        }
    }
    let again = folder.path().join("again");
    std::fs::create_dir(&again).expect("a new folder");
    manifest.write(&again).expect("the folder is ours");
    assert_eq!(Manifest::read(&again).expect("it was written"), Some(manifest));
}
