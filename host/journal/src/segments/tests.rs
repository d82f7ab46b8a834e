//! Segments: their bytes; that they are the same wherever a journal begins; and that any change to them is found and
//! located.

mod fuzz;

use std::path::Path;

use expect_test::expect_file;

use super::kit::*;
use super::segment::{HEADER_SIZE, JournalSegmentHeader, TRAILER_SIZE, encode_trailer, file_name};
use super::{Boundary, FileFacts, Manifest, PartitionFacts, SegmentDamage, SegmentsError};
use crate::ids::{Digest, Head, JournalIndex, ModuleId, PartitionId};
use crate::machine::entry::{Entry, Header};

/// A set of at least three files, in a folder.
fn set() -> (tempfile::TempDir, Vec<Entry>, PartitionFacts) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut entries = journal(30);
    // The last file must be an open segment.
    while entries.last().is_some_and(|entry| BOUNDARY.is_last(entry.head_after(), entry.payload().len())) {
        entries.pop();
    }
    let facts = write(folder.path(), &entries, JournalIndex(0), genesis().head);
    assert!(3 <= facts.files.len(), "{} files", facts.files.len());
    (folder, entries, facts)
}

/// The fault: file, entry, and kind of damage by the name of its variant.
fn found(folder: &Path, facts: &PartitionFacts) -> (String, u64, String) {
    match read(folder, facts).1 {
        Some(SegmentsError::Segment { file, index, damage, .. }) => {
            let name = format!("{damage:?}");
            (file, index.0, name.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default().to_owned())
        }
        other => panic!("it goes unnoticed: {other:?}"),
    }
}

#[test]
fn a_segment_has_the_bytes_of_its_version() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let facts = write(folder.path(), &journal(2), JournalIndex(0), genesis().head);
    let bytes = std::fs::read(path_of(folder.path(), &facts.files[0])).expect("it was written");
    let rows = bytes.chunks(16).enumerate().filter(|(_, row)| row.iter().any(|byte| *byte != 0));
    let rows = rows.map(|(number, row)| {
        let digits: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:05x}  {}\n", number * 16, digits.join(" "))
    });
    expect_file!["golden/journal-1.txt"].assert_eq(&rows.collect::<String>());
    assert_eq!(facts.files[0].bytes, bytes.len() as u64);
    assert!(bytes.len() > HEADER_SIZE + TRAILER_SIZE);
}

/// The list of two partitions of which one is empty.
fn list_of(facts: PartitionFacts) -> Manifest {
    let mut manifest = Manifest::new("018f0000-0000-7000-8000-000000000001".to_owned());
    let empty = PartitionFacts { machine: "system".to_owned(), partition: PartitionId(0), files: Vec::new() };
    manifest.modules = vec![ModuleId([9; 32])];
    manifest.partitions = vec![empty, facts];
    manifest
}

#[test]
fn a_list_has_the_bytes_of_its_version() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let manifest = list_of(write(folder.path(), &journal(2), JournalIndex(0), genesis().head));
    manifest.write(folder.path()).expect("the folder is ours");
    let path = folder.path().join("journal.json");
    expect_file!["golden/journal-1.json"].assert_eq(&std::fs::read_to_string(&path).expect("it was written"));
    std::fs::write(&path, include_str!("golden/journal-1.json")).expect("the folder is ours");
    assert_eq!(Manifest::read(folder.path()).expect("what was released is read"), Some(manifest));
}

#[test]
fn what_was_written_is_read_and_ends_where_the_bytes_say() {
    let (folder, entries, facts) = set();
    let (count, fault) = read(folder.path(), &facts);
    assert!(count == entries.len() as u64 && fault.is_none(), "{fault:?}");
    // A replica that has only the journal's end cuts it in the same way.
    let other = tempfile::tempdir().expect("a temporary folder");
    let first = &facts.files[0];
    let rest = write(other.path(), &entries[first.last.0 as usize..], first.last, first.head);
    assert_eq!(rest.files, facts.files[1..]);
    for file in &rest.files {
        let bytes =
            [folder.path(), other.path()].map(|folder| std::fs::read(path_of(folder, file)).expect("it is there"));
        assert!(bytes[0] == bytes[1]);
    }
    // A journal that grows keeps its sealed files.
    let longer = write(other.path(), &journal(40), JournalIndex(0), genesis().head);
    assert_eq!(longer.files[..facts.files.len() - 1], facts.files[..facts.files.len() - 1]);
}

#[test]
fn every_flipped_bit_is_found_in_its_file_and_at_its_entry() {
    let (folder, entries, facts) = set();
    for file in &facts.files {
        let path = path_of(folder.path(), file);
        let good = std::fs::read(&path).expect("it is there");
        // The entry for each byte: bytes before the first entry count towards it, and bytes after the last one towards
        // the next.
        let mut owner = vec![file.first.0; HEADER_SIZE + "wallet".len()];
        for entry in &entries[file.first.0 as usize - 1..file.last.0 as usize] {
            owner.extend(vec![entry.header().index.0; 36 + entry.payload().len()]);
        }
        owner.resize(good.len(), file.last.0 + 1);
        // All of the beginning and the end, and some bytes between them; for most files only some bytes of everything.
        let is_whole = is_chaos() || file.name == facts.files[0].name;
        let ends = if is_whole { 200..good.len() - 100 } else { 0..good.len() };
        for at in (0..good.len()).filter(|at| !ends.contains(at) || at % 17 == 0) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).expect("the folder is ours");
            let (name, index, damage) = found(folder.path(), &facts);
            // The boundary of a segment is not part of any entry, and a change shows at the entry that would have ended
            // the segment.
            let is_boundary = (32..40).contains(&at);
            assert!(
                name == file.name && (is_boundary || index == owner[at]),
                "byte {at}: {damage} at {index} of {name}"
            );
        }
        std::fs::write(&path, &good).expect("the folder is ours");
    }
    assert!(read(folder.path(), &facts).1.is_none());
}

#[test]
fn a_file_that_is_cut_or_missing_is_named() {
    let (folder, _, facts) = set();
    let file = &facts.files[1];
    let path = path_of(folder.path(), file);
    let good = std::fs::read(&path).expect("it is there");
    for size in (0..good.len()).step_by(11) {
        std::fs::write(&path, &good[..size]).expect("the folder is ours");
        let (name, index, damage) = found(folder.path(), &facts);
        assert!(
            name == file.name && damage == "Cut" && file.first.0 <= index,
            "{size} bytes: {damage} at {index} of {name}"
        );
    }
    std::fs::write(&path, [&good[..], b"x"].concat()).expect("the folder is ours");
    assert_eq!(found(folder.path(), &facts), (file.name.clone(), file.last.0 + 1, "Surplus".to_owned()));
    std::fs::remove_file(&path).expect("it is there");
    assert_eq!(found(folder.path(), &facts), (file.name.clone(), file.first.0, "Missing".to_owned()));
}

/// Writes a file as if these entries had always been in it, with all hashes recomputed, and lists it accordingly.
fn forge(folder: &Path, facts: &mut PartitionFacts, number: usize, parent: Head, entries: &[Entry]) {
    let before = facts.files[number].clone();
    std::fs::remove_file(path_of(folder, &before)).expect("it is there");
    let header = JournalSegmentHeader { stream: stream(), boundary: BOUNDARY, first: before.first, parent };
    let mut bytes = header.encode();
    for entry in entries {
        bytes.extend_from_slice(&(entry.payload().len() as u32).to_le_bytes());
        bytes.extend_from_slice(&entry.head_after().0);
        bytes.extend_from_slice(entry.payload());
    }
    let head = entries.last().expect("some are left").head_after();
    bytes.extend_from_slice(&encode_trailer(before.last, head));
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    let name = file_name(before.first, before.last, &hash);
    facts.files[number] =
        FileFacts { name, head, bytes: bytes.len() as u64, blake3: Digest(*hash.as_bytes()), ..before };
    std::fs::write(path_of(folder, &facts.files[number]), bytes).expect("the folder is ours");
}

/// The file of a set that is forged: its number, the entries in it, and the head before them.
fn second(entries: &[Entry], facts: &PartitionFacts) -> (usize, Vec<Entry>, Head) {
    let number = (1..facts.files.len() - 1)
        .find(|number| facts.files[*number].first.0 + 2 <= facts.files[*number].last.0)
        .expect("one in the middle has three entries");
    let file = &facts.files[number];
    (number, entries[file.first.0 as usize - 1..file.last.0 as usize].to_vec(), facts.files[number - 1].head)
}

#[test]
fn entries_that_were_edited_swapped_or_removed_are_located_though_all_hashes_are_made_anew() {
    let (folder, entries, facts) = set();
    let (number, own, parent) = second(&entries, &facts);
    let first = facts.files[number].first.0;

    let mut swapped = own.clone();
    swapped.swap(1, 2);
    let mut listed = facts.clone();
    forge(folder.path(), &mut listed, number, parent, &swapped);
    assert_eq!(found(folder.path(), &listed), (listed.files[number].name.clone(), first + 1, "Order".to_owned()));

    let mut removed = own.clone();
    removed.remove(1);
    forge(folder.path(), &mut listed, number, parent, &removed);
    assert_eq!(found(folder.path(), &listed), (listed.files[number].name.clone(), first + 1, "Order".to_owned()));

    // With another event in the entry, the next entry does not follow.
    let mut edited = own.clone();
    edited[1] = Entry::tick(Header { digest: Digest([6; 32]), ..*own[1].header() });
    forge(folder.path(), &mut listed, number, parent, &edited);
    assert_eq!(found(folder.path(), &listed), (listed.files[number].name.clone(), first + 2, "Parent".to_owned()));

    // With a change in the last entry of a file, the next file does not follow.
    let mut edited = own.clone();
    let last = edited.len() - 1;
    edited[last] = Entry::tick(Header { digest: Digest([6; 32]), ..*own[last].header() });
    forge(folder.path(), &mut listed, number, parent, &edited);
    let (name, index, damage) = found(folder.path(), &listed);
    // The forged entry may no longer end the segment.
    let is_next = name == listed.files[number + 1].name && damage == "Parent";
    let is_boundary = name == listed.files[number].name && damage == "Boundary";
    assert!(is_next || is_boundary, "{damage} in {name}");
    assert_eq!(index, facts.files[number].last.0 + 1);
}

#[test]
fn a_folder_is_listed_and_its_list_is_checked() {
    let (folder, entries, facts) = set();
    let mut manifest = Manifest::new(CLUSTER.to_string());
    manifest.partitions.push(facts.clone());
    manifest.write(folder.path()).expect("the disk has room");
    assert_eq!(Manifest::read(folder.path()).expect("it is whole"), Some(manifest.clone()));
    assert_eq!(manifest.cluster_id(), CLUSTER);
    // The journal continues: the file that was open is replaced, and is removed once it is no longer listed.
    let open = path_of(folder.path(), facts.files.last().expect("there are files"));
    let longer = journal(40);
    assert_eq!(longer[entries.len() - 1].head_after(), entries[entries.len() - 1].head_after());
    manifest.partitions[0] = write(folder.path(), &longer, JournalIndex(0), genesis().head);
    assert!(open.exists());
    manifest.write(folder.path()).expect("the disk has room");
    assert!(!open.exists() && read(folder.path(), &manifest.partitions[0]).1.is_none());

    let path = folder.path().join("journal.json");
    let text = std::fs::read_to_string(&path).expect("it is there");
    for (from, to, word) in [
        ("\"first\": 1,", "\"first\": 2,", "hash"),
        ("\"format\": 1,", "\"format\": 2,", "format 2"),
        ("wallet", "../up", "hash"),
    ] {
        std::fs::write(&path, text.replacen(from, to, 1)).expect("the folder is ours");
        let error = Manifest::read(folder.path()).expect_err("it was changed").to_string();
        assert!(error.contains(word), "{error}");
    }
    assert_eq!(Manifest::read(&folder.path().join("wallet")).expect("there is none"), None);
}

#[test]
fn a_boundary_is_drawn_by_size() {
    let boundary = Boundary { bytes: 1_000 };
    let heads = (0..10_000u64).map(|number| Head(*blake3::hash(&number.to_le_bytes()).as_bytes()));
    let count = heads.filter(|head| boundary.is_last(*head, 100)).count();
    assert!((800..1_200).contains(&count), "{count} of 10,000");
    assert!(boundary.is_last(Head([0xff; 32]), 1_000) && !boundary.is_last(Head([0xff; 32]), 999));
    assert!(boundary.is_last(Head::ZERO, 1) && Boundary { bytes: 0 }.is_last(Head([0xff; 32]), 1));
}

#[test]
fn errors_say_where() {
    let damage = SegmentDamage::Order { found: JournalIndex(9) };
    let (machine, partition, file) = ("wallet".to_owned(), PartitionId(1), "x.journal".to_owned());
    let error = SegmentsError::Segment { machine, partition, file, offset: 80, index: JournalIndex(8), damage };
    let text = "wallet/1: x.journal, at byte 80, entry 8: it says that it is entry 9: \
                an entry was removed, added or moved";
    assert_eq!(error.to_string(), text);
}
