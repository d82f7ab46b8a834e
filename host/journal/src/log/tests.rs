//! The promises of a log, on the simulated disk: durability, order, refusals, and corruption that is told apart from a
//! torn tail.
//!
//! Each file of the folder has one subject. The kit here builds entries and logs. It waits for callbacks, never for
//! time.

mod corruption;
mod crash;
mod cutting;
mod disk_errors;
mod format;
mod fuzz;
mod mapping;
mod mending;
mod model;
mod reading;
mod releasing;
mod repairing;
mod sealing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;

use crate::disk::{Disk, SimDisk};
use crate::ids::{LogIndex, NodeId, PartitionId, Term};
use crate::log::{EntryId, Log, LogEntry, LogError, LogOptions, LogScan, Payload, StreamId};

fn dir() -> &'static Path {
    Path::new("/log")
}

fn options() -> LogOptions {
    let stream = StreamId::new("wallet", PartitionId(3)).expect("the name is short");
    LogOptions {
        segment_bytes_min: 16 << 10,
        segment_bytes_max: 64 << 10,
        tail_bytes_max: 2 << 10,
        // The stream never goes idle, so a mark is written only when the log closes: the files depend only on the
        // calls.
        idle: Duration::from_secs(3600),
        spare_retry: Duration::from_micros(100),
        ..LogOptions::new(stream)
    }
}

fn open(disk: &SimDisk) -> Result<Log, LogError> {
    Log::open(Arc::new(disk.clone()), dir(), options())
}

fn opened(disk: &SimDisk) -> Log {
    open(disk).expect("the log opens")
}

fn scan(disk: &SimDisk) -> Result<LogScan, LogError> {
    LogScan::open(disk, dir())
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term: Term(term), node: NodeId(1), index: LogIndex(index) }
}

/// An entry of `size` bytes whose content states its id.
fn entry_of(term: u64, index: u64, size: usize) -> LogEntry {
    let text = format!("{term}.{index}/");
    let payload = text.bytes().cycle().take(size).collect::<Vec<_>>();
    LogEntry { id: id(term, index), payload: Payload::Entry(Bytes::from(payload)) }
}

fn entry(term: u64, index: u64) -> LogEntry {
    entry_of(term, index, 40)
}

/// Appends, and returns the receiver for the news of durability.
fn append(log: &Log, entries: Vec<LogEntry>) -> Result<mpsc::Receiver<Result<(), LogError>>, LogError> {
    let (sender, receiver) = mpsc::channel();
    // Not every test waits for the news.
    log.append(entries, Box::new(move |result| _ = sender.send(result)))?;
    Ok(receiver)
}

fn append_durably(log: &Log, entries: Vec<LogEntry>) {
    let durable = append(log, entries).expect("the log accepts");
    durable.recv().expect("the callback is called").expect("the append becomes durable");
}

fn all(log: &Log) -> Vec<LogEntry> {
    log.read(LogIndex(0)..LogIndex(u64::MAX), usize::MAX).expect("the log can be read")
}

fn indexes(log: &Log) -> Vec<u64> {
    all(log).iter().map(|entry| entry.id.index.0).collect()
}

/// Waits until the spare segment is prepared. From then on only the test itself touches the disk.
fn wait_for_spare(log: &Log, disk: &SimDisk) {
    while disk.list(dir()).expect("the folder is there").iter().all(|name| !name.ends_with(".tmp"))
        || log.bytes() < disk.used()
    {
        std::thread::yield_now();
    }
}

/// The newest segment's path.
fn newest_segment(disk: &SimDisk) -> PathBuf {
    let names = disk.list(dir()).expect("the folder is there");
    let newest = names.into_iter().filter(|name| name.starts_with("seg-") && name.ends_with(".log")).max();
    dir().join(newest.expect("a log has a segment"))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts").block_on(future)
}
