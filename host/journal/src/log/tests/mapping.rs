//! A mapped tail that somebody truncates, or that the disk cannot read: the error ends this log, but neither the
//! process nor another log.

use std::fs::File;

use super::*;
use crate::disk::{RealDisk, SimOp};
use crate::log::{Damage, LogHealth};

fn open_real(folder: &Path) -> Log {
    Log::open(Arc::new(RealDisk), folder, options()).expect("opens")
}

fn segment_files(folder: &Path) -> Vec<PathBuf> {
    let names = RealDisk.list(folder).expect("the folder is there");
    let mut segments: Vec<_> = names.iter().filter(|name| name.starts_with("seg-")).map(|it| folder.join(it)).collect();
    segments.sort_unstable();
    segments
}

/// Nothing is committed, so all entries are the tail. Only the newest payloads are in memory.
fn tail() -> Vec<LogEntry> {
    (0..60).map(|index| entry_of(1, index, 900)).collect()
}

/// Truncates one of the files to `size` bytes while it is mapped, and reads all entries. Returns the result of the next
/// start.
fn check_cut(position: impl Fn(usize) -> usize, size: u64) -> Result<Log, LogError> {
    let (folder, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (log, well) = (open_real(folder.path()), open_real(other.path()));
    for log in [&log, &well] {
        tail().into_iter().for_each(|entry| append_durably(log, vec![entry]));
    }
    let segments = segment_files(folder.path());
    assert!(2 < segments.len());
    let cut = File::options().write(true).open(&segments[position(segments.len())]).expect("it is there");
    cut.set_len(size).expect("it can be cut");
    let read = log.read(LogIndex(0)..LogIndex(u64::MAX), usize::MAX);
    // The rest of the last page has zeros after the end of the file.
    assert!(matches!(read, Err(LogError::Corrupt { damage: Damage::Size | Damage::Record, .. })), "{read:?}");
    assert!(matches!(log.health(), LogHealth::Failed(_)));
    assert!(append(&log, vec![entry(1, 60)]).is_err(), "it takes nothing before it is opened again");
    drop(log);
    assert_eq!(all(&well), tail());
    assert_eq!(well.health(), LogHealth::Ok);
    Log::open(Arc::new(RealDisk), folder.path(), options())
}

#[test]
fn a_mapped_segment_that_becomes_shorter_ends_its_log_alone() {
    for size in [0, 4096, 5000] {
        let opened = check_cut(|_| 0, size);
        assert!(matches!(opened.err(), Some(LogError::Corrupt { .. })), "it is repaired before it is opened");
    }
    // The newest segment too. Nothing on this disk shows that it had more; what other nodes have seen of it does.
    check_cut(|count| count - 1, 4096).expect("it is shorter");
}

#[test]
fn a_tail_that_is_not_given_back_ends_its_log_until_that_is_opened_again() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    tail().into_iter().for_each(|entry| append_durably(&log, vec![entry]));
    disk.set_failing(Some(SimOp::Read));
    let read = log.read(LogIndex(0)..LogIndex(1), 1);
    assert!(matches!(read, Err(LogError::Corrupt { damage: Damage::Unreadable, .. })), "{read:?}");
    assert!(matches!(log.health(), LogHealth::Failed(_)));
    disk.set_failing(None);
    drop(log);
    assert_eq!(all(&opened(&disk)), tail());
}

/// A closed segment that is not committed yet is read like the rest of the tail. A damaged one is not sealed.
#[test]
fn a_closed_segment_that_is_damaged_before_it_is_sealed_ends_its_log() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    tail().into_iter().for_each(|entry| append_durably(&log, vec![entry]));
    log.close().expect("closes");
    let log = opened(&disk);
    let path = dir().join("seg-0000000000000000.log");
    let mut content = disk.content(&path).expect("it is there");
    content[6000] ^= 1;
    disk.write_behind(&path, content);
    log.save_committed(id(1, 59));
    super::sealing::wait_until(|| log.health() != LogHealth::Ok);
    assert!(matches!(log.health(), LogHealth::Failed(reason) if reason.contains("is damaged at offset")));
    assert!(super::sealing::seals(&disk).is_empty());
}
