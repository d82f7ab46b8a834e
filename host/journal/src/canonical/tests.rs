//! The format of canonical snapshots: the golden file, every flipped bit, and rows that are read as they were written.

mod faults;
mod fuzz;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use expect_test::expect;
use tempfile::tempdir;

use super::manifest::CHUNK_BYTES;
use super::*;
use crate::disk::RealDisk;
use crate::ids::{ClusterId, Head, JournalIndex, Micros, ModuleId, PartitionId};
use crate::machine::journal::Journal;

const GOLDEN: &str = "golden/000000000042-2026-11-22-49b3cb654b41e0a1.snapshot";
const DAY: i64 = 86_400_000_000;

fn facts(days: Option<Days>) -> Facts {
    let journal = Journal {
        index: JournalIndex(42),
        head: Head([1; 32]),
        time: Micros(1_795_305_599_000_001),
        module: ModuleId([2; 32]),
        schema: 3,
        activation: 4,
    };
    Facts { cluster: ClusterId([5; 16]), machine: "wallet".to_owned(), partition: PartitionId(6), journal, days }
}

fn midnight() -> Option<Days> {
    Days::between(Micros(1_795_305_599_000_001), Micros(1_795_305_600_000_000))
}

fn write(folder: &Path, rows: &[(Vec<u8>, Vec<u8>)], days: Option<Days>) -> ListedFile {
    let mut writer =
        SnapshotWriter::begin(Arc::new(RealDisk), folder, &facts(days)).expect("a temporary folder can be written");
    rows.iter().for_each(|(key, row)| writer.put(key, row).expect("a temporary folder can be written"));
    writer.finish().expect("a temporary folder can be written")
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn read(file: &Path) -> Result<Rows, CanonicalError> {
    let mut rows = Vec::new();
    SnapshotFile::open(&RealDisk, file)?.visit(|key, row| rows.push((key.to_vec(), row.to_vec())))?;
    Ok(rows)
}

fn few() -> Vec<(Vec<u8>, Vec<u8>)> {
    vec![(b"a".to_vec(), b"first".to_vec()), (b"a\0".to_vec(), Vec::new()), (b"b".to_vec(), vec![7; 40])]
}

/// More than two chunks; the first one ends exactly at its size.
fn many() -> Vec<(Vec<u8>, Vec<u8>)> {
    let row = |number: u32, size: usize| (number.to_be_bytes().to_vec(), vec![number as u8; size]);
    (0..CHUNK_BYTES as u32 / 1024 * 2 + 10).map(|number| row(number, 1024 - 12)).collect()
}

#[test]
fn rows_come_back_as_they_were_put() {
    let folder = tempdir().expect("a temporary folder");
    for rows in [Vec::new(), few(), many()] {
        let listed = write(folder.path(), &rows, None);
        let file = folder.path().join(&listed.name);
        assert_eq!(read(&file).expect("it is whole"), rows);
        let opened = SnapshotFile::open(&RealDisk, &file).expect("it is whole");
        assert_eq!(opened.listed(), &listed);
        assert_eq!(listed.bytes, fs::metadata(&file).expect("it is there").len());
        let bytes: Vec<u8> = rows.iter().flat_map(|(key, row)| [key, row]).fold(Vec::new(), |mut bytes, part| {
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
            bytes.extend_from_slice(part);
            bytes
        });
        assert_eq!(
            listed.state_digest.0,
            *blake3::hash(&bytes).as_bytes(),
            "the digest is that of the rows as they stand in it"
        );
    }
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("it is there").map(|file| file.expect("listed").path()).collect();
    assert!(left.iter().all(|path| path.extension().is_some_and(|extension| extension == "snapshot")), "{left:?}");
}

#[test]
fn the_format_is_what_was_released() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/canonical").join(GOLDEN);
    let folder = tempdir().expect("a temporary folder");
    let listed = write(folder.path(), &few(), midnight());
    let written = fs::read(folder.path().join(&listed.name)).expect("it was written");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(golden.with_file_name(&listed.name), &written).expect("the golden file can be written");
    }
    assert_eq!(format!("golden/{}", listed.name), GOLDEN);
    assert_eq!(fs::read(&golden).expect("the golden file"), written);
    assert_eq!(read(&golden).expect("it is whole"), few());
    let page = format!("{:?}", SnapshotFile::open(&RealDisk, &golden).expect("it is whole").listed().facts);
    expect![[r#"Facts { cluster: ClusterId(05050505-0505-0505-0505-050505050505), machine: "wallet", partition: PartitionId(6), journal: Journal { index: JournalIndex(42), head: Head(01010101), time: Micros(1795305599000001), module: ModuleId(02020202), schema: 3, activation: 4 }, days: Some(Days { first: 20779, last: 20779 }) }"#]].assert_eq(&page);
}

#[test]
fn every_changed_byte_is_noticed() {
    let folder = tempdir().expect("a temporary folder");
    let listed = write(folder.path(), &few(), midnight());
    let file = folder.path().join(&listed.name);
    let whole = fs::read(&file).expect("it was written");
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&file, &changed).expect("it can be written");
        let error = read(&file).expect_err("a flipped bit");
        assert!(error.to_string().starts_with(&listed.name), "byte {at}: {error}");
        fs::write(&file, &whole[..at]).expect("it can be written");
        assert!(read(&file).is_err(), "cut at {at}");
    }
    fs::write(&file, [&whole[..], &[0]].concat()).expect("it can be written");
    assert!(read(&file).is_err(), "a byte more");
    fs::write(&file, &whole).expect("it can be written");
    read(&file).expect("it is whole again");
    let other = folder.path().join("000000000043-0123456789abcdef.snapshot");
    fs::copy(&file, &other).expect("it can be copied");
    let error = read(&other).expect_err("another name").to_string();
    assert!(error.contains("the name of the file is not that of its content"), "{error}");
}

#[test]
fn a_changed_chunk_is_named_with_its_place() {
    let folder = tempdir().expect("a temporary folder");
    let listed = write(folder.path(), &many(), None);
    let file = folder.path().join(&listed.name);
    let mut changed = fs::read(&file).expect("it was written");
    changed[16 + CHUNK_BYTES + 500] ^= 1;
    fs::write(&file, &changed).expect("it can be written");
    let error = read(&file).expect_err("a changed chunk").to_string();
    assert!(error.contains(&format!("at byte {}: chunk 1 has the hash", 16 + CHUNK_BYTES)), "{error}");
}

#[test]
fn days_are_those_that_begin_in_between() {
    let check = |before, after, expected: Option<&str>| {
        let found = Days::between(Micros(before), Micros(after)).map(|days| days.to_string());
        assert_eq!(found.as_deref(), expected, "{before} to {after}");
    };
    check(5, DAY - 1, None);
    check(DAY - 1, DAY, Some("1970-01-02"));
    check(DAY, DAY + 1, None);
    check(DAY - 1, 3 * DAY - 1, Some("1970-01-02 to 1970-01-03"));
    check(0, 40 * 365 * DAY, Some("1970-01-02 to 2009-12-22"));
    assert_eq!(Days::next_midnight(Micros(DAY)), Micros(2 * DAY));
    let days = Days::between(Micros(0), Micros(9 * DAY)).expect("nine days");
    assert_eq!(days.dates(2).collect::<Vec<_>>(), ["1970-01-09", "1970-01-10"]);
}

#[test]
fn what_is_named_as_a_snapshot_leads_nowhere_else() {
    let check = |name: &str, expected: Option<(u64, Option<&str>)>| {
        let found = parse_name(name).map(|(index, day)| (index.0, day));
        assert_eq!(found, expected, "{name}");
    };
    check("000000000042-0123456789abcdef.snapshot", Some((42, None)));
    check("000000000042-2026-11-22-0123456789abcdef.snapshot", Some((42, Some("2026-11-22"))));
    check("000000000042-day3000000-0123456789abcdef.snapshot", Some((42, Some("day3000000"))));
    let far = write(tempdir().expect("a temporary folder").path(), &few(), Days::between(Micros(0), Micros(i64::MAX)));
    assert!(parse_name(&far.name).is_some_and(|(_, day)| day.is_some()), "{}", far.name);
    for name in [
        "",
        ".snapshot",
        "000000000042-0123456789abcdef",
        "000000000042-0123456789abcde.snapshot",
        "000000000042-0123456789ABCDEF.snapshot",
        "+42-2026-11-22-0123456789abcdef.snapshot",
        "000000000042--0123456789abcdef.snapshot",
        "42-../../2026-0123456789abcdef.snapshot",
        "42-2026/11/22-0123456789abcdef.snapshot",
        "../000000000042-0123456789abcdef.snapshot",
        "42-2026-11-22-0123456789abcd/f.snapshot",
        "42-2026\0-0123456789abcdef.snapshot",
    ] {
        check(name, None);
    }
}

#[test]
fn a_folder_lists_what_is_whole_and_knows_what_is_due() {
    let partition = tempdir().expect("a temporary folder");
    let open = || SnapshotFolder::open(Arc::new(RealDisk), partition.path()).expect("it can be read");
    let folder = open();
    let due = DueSnapshot { index: JournalIndex(42), days: midnight() };
    let other = DueSnapshot { index: JournalIndex(7), days: None };
    for due in [&due, &other] {
        fs::create_dir(folder.due_folder(due)).expect("it can be written");
    }
    fs::create_dir(folder.due_folder(&due).with_extension("building")).expect("it can be written");
    fs::write(folder.path().join("writing-x"), b"half").expect("it can be written");
    fs::write(folder.path().join("000000000001-0123456789abcdef.snapshot"), b"half").expect("it can be written");
    let folder = open();
    assert_eq!(folder.list_due().expect("it can be read"), [other, due]);
    assert_eq!((folder.list(), fs::read_dir(folder.path()).expect("it is there").count()), (Vec::new(), 3));
    let listed = write(folder.path(), &few(), midnight());
    folder.made(&due, &listed).expect("it can be written");
    assert_eq!((folder.list_due().expect("it can be read"), folder.find(&due)), (vec![other], Some(listed.clone())));
    assert_eq!(open().list(), [listed]);
}
