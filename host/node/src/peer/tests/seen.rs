//! The book of what was seen: it keeps the highest entry, survives restarts and power cuts, and says what a damaged
//! file has lost.

use std::path::Path;
use std::sync::Arc;

use expect_test::expect_file;

use super::{ANSWERER, CALLER, entry_id, group};
use crate::disk::SimDisk;
use crate::ids::{LogIndex, NodeId, Term};
use crate::log::EntryId;
use crate::peer::{GroupName, SeenBook, SeenEntries, SeenLost};

const PATH: &str = "data/seen.book";

fn open(disk: &SimDisk) -> SeenBook {
    SeenBook::open_on(Arc::new(disk.clone()), Path::new(PATH)).expect("it can be read")
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    crate::disk::Disk::create_dir_all(&disk, Path::new("data")).expect("there is room");
    disk
}

/// A book of these bytes, and its disk.
pub(super) fn open_with(content: Vec<u8>) -> (SimDisk, Result<SeenBook, String>) {
    let disk = disk();
    disk.put(Path::new(PATH), content);
    let opened = SeenBook::open_on(Arc::new(disk.clone()), Path::new(PATH));
    (disk, opened.map_err(|error| error.to_string()))
}

/// The bytes of a book with two notes.
pub(super) fn written() -> Vec<u8> {
    let disk = disk();
    let book = open(&disk);
    book.on_durable(CALLER, &group(0), entry_id(7));
    book.on_durable(ANSWERER, &GroupName::new("système", group(65_536).partition), entry_id(u64::MAX));
    book.flush().expect("there is room");
    disk.content(Path::new(PATH)).expect("it was written")
}

/// A file with this content, and a checksum that matches it.
pub(super) fn forged(content: &[u8]) -> Vec<u8> {
    [content, blake3::hash(content).as_bytes()].concat()
}

#[test]
fn it_keeps_the_highest_entry_of_each_node_and_group() {
    let (disk, newer_term) = (disk(), EntryId { term: Term(4), node: NodeId(1), index: LogIndex(2) });
    let book = open(&disk);
    assert_eq!((book.of(CALLER, &group(0)), book.all_of(CALLER)), (Ok(None), vec![]));
    for index in [5, 9, 7] {
        book.on_durable(CALLER, &group(0), entry_id(index));
    }
    assert_eq!(book.of(CALLER, &group(0)), Ok(Some(entry_id(9))));
    book.on_durable(CALLER, &group(0), newer_term);
    book.on_durable(CALLER, &group(1), entry_id(0));
    book.on_durable(ANSWERER, &group(2), entry_id(1));
    assert_eq!(book.all_of(CALLER), [(group(0), newer_term), (group(1), entry_id(0))]);
    assert_eq!(book.all_of(ANSWERER), [(group(2), entry_id(1))]);
    assert_eq!(book.of(ANSWERER, &group(0)), Ok(None));
}

#[test]
fn what_was_flushed_is_there_after_a_power_cut_and_what_was_not_may_be_gone() {
    let disk = disk();
    let book = open(&disk);
    book.on_durable(CALLER, &group(0), entry_id(5));
    book.flush().expect("there is room");
    book.on_durable(CALLER, &group(0), entry_id(6));
    let book = open(&disk.crash(1));
    assert_eq!(book.all_of(CALLER), [(group(0), entry_id(5))]);
}

#[test]
fn a_power_cut_at_any_moment_leaves_the_old_book_or_the_new_one() {
    let (mut old_count, mut new_count, mut finished_count) = (0, 0, 0);
    for operations in 0..8 {
        for seed in 0..50 {
            let disk = disk();
            let book = open(&disk);
            book.on_durable(CALLER, &group(0), entry_id(5));
            book.flush().expect("there is room");
            for n in 0..100 {
                book.on_durable(CALLER, &group(n), entry_id(6));
            }
            disk.crash_after(operations);
            let flushed = book.flush();
            let found = open(&disk.crash(seed)).all_of(CALLER);
            let new: Vec<_> = (0..100).map(|n| (group(n), entry_id(6))).collect();
            let is_new = found == new;
            assert!(is_new || found == [(group(0), entry_id(5))], "operations {operations}, seed {seed}: {found:?}");
            assert!(is_new || flushed.is_err(), "operations {operations}, seed {seed}: flushed and forgotten");
            old_count += usize::from(!is_new);
            new_count += usize::from(is_new);
            finished_count += usize::from(flushed.is_ok());
        }
    }
    assert!(0 < old_count && finished_count < new_count && 0 < finished_count, "every moment was met");
}

#[test]
fn a_flush_without_news_writes_nothing_and_a_failed_one_tries_again() {
    let disk = disk();
    let book = open(&disk);
    book.flush().expect("there is nothing to do");
    assert_eq!(disk.content(Path::new(PATH)), None);
    book.on_durable(CALLER, &group(0), entry_id(5));
    disk.set_failing(Some(crate::disk::SimOp::Sync));
    let failed = book.flush().map(|()| "written").expect_err("the disk fails");
    assert_eq!(failed.to_string(), "data/seen.book: injected I/O error");
    disk.set_failing(None);
    book.flush().expect("the disk is well again");
    let operations = disk.operations();
    book.on_durable(CALLER, &group(0), entry_id(5));
    book.flush().expect("there is nothing to do");
    assert_eq!(disk.operations(), operations);
    assert_eq!(open(&disk).of(CALLER, &group(0)), Ok(Some(entry_id(5))));
}

#[test]
fn a_book_on_the_real_disk_survives_a_restart() {
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("seen.book");
    let book = SeenBook::open(&path).expect("a missing book is an empty one");
    book.on_durable(CALLER, &group(3), entry_id(5));
    book.flush().expect("there is room");
    drop(book);
    assert_eq!(SeenBook::open(&path).expect("it was written").all_of(CALLER), [(group(3), entry_id(5))]);
}

/// A damaged book used to keep the node from starting.
#[test]
fn a_damaged_book_is_made_anew_and_does_not_say_less_than_was_seen() {
    let good = written();
    let content = &good[..good.len() - 32];
    let record = &content[16..16 + 38 + "wallet".len()];
    let damaged = (0..good.len()).flat_map(|at| {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        [flipped, good[..at].to_vec()]
    });
    let forged = [
        forged(&[content, &[0]].concat()),
        forged(&content[..content.len() - 1]),
        forged(&[&content[..12], &[2, 0, 0, 0], record, record].concat()),
    ];
    for content in damaged.chain(forged) {
        let (disk, book) = open_with(content);
        let book = book.expect("it is made anew");
        // The book claims neither what it said nor that it said nothing, also after the next start, and whatever a
        // leader first hears of a follower.
        book.on_durable(CALLER, &group(0), entry_id(2));
        assert_eq!((book.of(CALLER, &group(0)), book.all_of(CALLER)), (Err(SeenLost), vec![]));
        book.flush().expect("there is room");
        let book = open(&disk);
        assert_eq!((book.of(CALLER, &group(0)), book.held(CALLER, &group(0))), (Err(SeenLost), None));
        assert_eq!(book.of(NodeId(9), &group(9)), Err(SeenLost), "not even that it is a stranger");
    }
}

#[test]
fn what_was_lost_is_known_again_once_the_node_says_it_itself() {
    let (disk, book) = open_with(b"nothing that was ever a book".to_vec());
    let book = book.expect("it is made anew");
    book.on_told(CALLER, &group(0), entry_id(7));
    book.on_durable(CALLER, &group(0), entry_id(8));
    assert_eq!(book.of(CALLER, &group(0)), Ok(Some(entry_id(8))));
    assert_eq!((book.of(CALLER, &group(1)), book.of(ANSWERER, &group(0))), (Err(SeenLost), Err(SeenLost)));
    book.flush().expect("there is room");
    let book = open(&disk);
    assert_eq!((book.of(CALLER, &group(0)), book.of(ANSWERER, &group(0))), (Ok(Some(entry_id(8))), Err(SeenLost)));
    let content = disk.content(Path::new(PATH)).expect("it was written");
    assert_eq!(content[8..12], [2, 0, 0, 0], "a program that does not know of lost notes does not read it");
}

#[test]
fn a_book_of_a_later_program_is_left_as_it_is() {
    let mut later = written();
    later.truncate(later.len() - 32);
    later[8] = 3;
    let later = forged(&later);
    let (disk, opened) = open_with(later.clone());
    assert_eq!(opened.map(|_| ()), Err("data/seen.book has the format 3 of a later program".to_owned()));
    assert_eq!(disk.content(Path::new(PATH)), Some(later));
}

#[test]
fn the_format_is_the_released_one() {
    let lines: Vec<String> = written()
        .chunks(16)
        .map(|chunk| chunk.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "))
        .collect();
    expect_file!["golden/seen-v1.txt"].assert_eq(&(lines.join("\n") + "\n"));
}
