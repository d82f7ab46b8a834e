//! `bench log`: entries of 128 bytes appended and made durable, by how many share an append.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::cli::bench::Folder;
use crate::cli::output::{print, table};
use crate::ids::{LogIndex, NodeId, PartitionId, Term};
use crate::log::{EntryId, Log, LogEntry, LogOptions, Payload, RealDisk, StreamId};

const ENTRY_BYTES: usize = 128;
const ENTRIES_PER_APPEND: [usize; 4] = [1, 16, 256, 4096];
const MEASURE: Duration = Duration::from_secs(2);

pub fn run(dir: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let folder = Folder::new(dir)?;
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
    let id = EntryId { term: Term(1), node: NodeId(1), index: LogIndex(index) };
    LogEntry { id, payload: Payload::Entry(Bytes::from_static(&[7; ENTRY_BYTES])) }
}
