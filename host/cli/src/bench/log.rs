//! `bench log`: entries of 128 bytes, appended and made durable, by how many share an append; or how long a large log
//! takes to open, with seals and without, and how fast it is scrubbed.
//!
//! In: a folder to write in. Out: a table. A large log is deleted afterwards. It knows nothing of nodes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use statehouse_journal::disk::{Disk, RealDisk};
use statehouse_journal::log::{EntryId, Log, LogEntry, LogOptions, Payload, ScrubPace, StreamId};
use statehouse_kernel::ids::{LogIndex, NodeId, PartitionId, Term};

use crate::bench::BenchFolder;
use crate::output::{print, table};

const ENTRY_BYTES: usize = 128;
const ENTRIES_PER_APPEND: [usize; 4] = [1, 16, 256, 4096];
const MEASURE: Duration = Duration::from_secs(2);

/// The size of an entry in the log that is opened: a batch of about forty commands.
const LARGE_ENTRY_BYTES: usize = 16 << 10;
const LARGE_ENTRIES_PER_APPEND: u64 = 64;
/// How long its segments may take to be sealed.
const SEALED_WITHIN: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Opens a log of `gib` GiB twice: with its seals, and without any.
pub fn open(dir: Option<PathBuf>, gib: u64) -> anyhow::Result<ExitCode> {
    let folder = BenchFolder::new(dir)?;
    let path = folder.path().join("large");
    let open = || -> anyhow::Result<Log> {
        Ok(Log::open(Arc::new(RealDisk), &path, LogOptions::new(StreamId::new("bench", PartitionId(0))?))?)
    };
    let log = open()?;
    let entries = (gib << 30) / LARGE_ENTRY_BYTES as u64;
    let mut next = 0;
    while next < entries {
        let until = (next + LARGE_ENTRIES_PER_APPEND).min(entries);
        let large = (next..until).map(|index| entry_of(index, vec![index as u8; LARGE_ENTRY_BYTES].into()));
        let (done, durable) = std::sync::mpsc::channel();
        log.append(large.collect(), Box::new(move |result| drop(done.send(result))))?;
        durable.recv()??;
        next = until;
        log.save_committed(entry(next - 1).id);
    }
    let is_closed_segment = |name: &String| name.ends_with(".log");
    let segments = RealDisk.list(&path)?.iter().filter(|name| is_closed_segment(name)).count();
    let deadline = Instant::now() + SEALED_WITHIN;
    while log.sealed_segments().len() + 1 < segments {
        anyhow::ensure!(Instant::now() < deadline, "the segments were not sealed in time");
        std::thread::sleep(LOOK_AGAIN);
    }
    log.close()?;
    drop(log);
    let mut rows = table(&["log", "GiB", "segments", "s to open"]);
    let mut scrub_rate = None;
    for seals in ["sealed", "without seals"] {
        if seals != "sealed" {
            for name in RealDisk.list(&path)?.iter().filter(|name| name.ends_with(".seal")) {
                RealDisk.remove(&path.join(name))?;
            }
        }
        let started = Instant::now();
        let log = open()?;
        let took = started.elapsed();
        anyhow::ensure!(log.last() == Some(entry(entries - 1).id), "the log has not what was appended");
        if seals == "sealed" {
            scrub_rate = Some(scrub(&log, &path)?);
        }
        log.close()?;
        rows.add_row([seals.to_owned(), gib.to_string(), segments.to_string(), format!("{:.3}", took.as_secs_f64())]);
    }
    std::fs::remove_dir_all(&path)?;
    print(&format!("{rows}\n{LARGE_ENTRY_BYTES} B an entry; the page cache holds what was written last\n"))?;
    if let Some(rate) = scrub_rate {
        print(&format!("scrubbed at {rate:.0} MiB a second by one thread, read from the disk, without a pace\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads all sealed segments as the scrubber does, and says how many MiB a second that were.
fn scrub(log: &Log, dir: &Path) -> anyhow::Result<f64> {
    for name in RealDisk.list(dir)? {
        let file = std::fs::File::open(dir.join(name))?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    let (started, mut bytes) = (Instant::now(), 0);
    for segment in log.sealed_segments() {
        log.scrub(segment, |piece| {
            bytes += piece;
            ScrubPace::GoOn
        })?;
    }
    Ok(bytes as f64 / f64::from(1 << 20) / started.elapsed().as_secs_f64())
}

pub fn run(dir: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let folder = BenchFolder::new(dir)?;
    let mut rows =
        table(&["entries an append", "appends a second", "entries a second", "MB a second", "ms p50", "ms p99"]);
    for count in ENTRIES_PER_APPEND {
        let options = LogOptions::new(StreamId::new("bench", PartitionId(count as u32))?);
        let log = Log::open(Arc::new(RealDisk), &folder.path().join(count.to_string()), options)?;
        let (mut next, mut took) = (0, Vec::new());
        let started = Instant::now();
        while started.elapsed() < MEASURE {
            let entries = (next..next + count as u64).map(entry).collect();
            next += count as u64;
            let append = Instant::now();
            let (done, durable) = std::sync::mpsc::channel();
            log.append(entries, Box::new(move |result| drop(done.send(result))))?;
            durable.recv()??;
            took.push(append.elapsed());
        }
        let seconds = started.elapsed().as_secs_f64();
        log.close()?;
        took.sort();
        let ms = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        rows.add_row([
            count.to_string(),
            format!("{:.0}", took.len() as f64 / seconds),
            format!("{:.0}", next as f64 / seconds),
            format!("{:.1}", (next as usize * ENTRY_BYTES) as f64 / seconds / 1e6),
            format!("{:.3}", ms(0.5)),
            format!("{:.3}", ms(0.99)),
        ]);
    }
    print(&format!("{rows}\none writer that waits for each append to be durable; {ENTRY_BYTES} B an entry\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn entry(index: u64) -> LogEntry {
    entry_of(index, Bytes::from_static(&[7; ENTRY_BYTES]))
}

fn entry_of(index: u64, payload: Bytes) -> LogEntry {
    let id = EntryId { term: Term(1), node: NodeId(1), index: LogIndex(index) };
    LogEntry { id, payload: Payload::Entry(payload) }
}
