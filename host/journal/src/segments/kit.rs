//! Journals for tests of segments and of archives: small ones, which are cut into several files.
//!
//! In: how many entries. Out: entries, files and what can be read of them. It is compiled only for tests, of this crate
//! and of those that upload segments, and does not judge what is read.

use std::path::{Path, PathBuf};

use super::folder::partition_folder;
use super::{Boundary, FileFacts, PartitionFacts, SegmentsError, SegmentsReader, SegmentsWriter, Stream};
use crate::ids::{ClusterId, Digest, Head, JournalIndex, Micros, ModuleId, PartitionId};
use crate::machine::entry::{Activation, Entry, EntryKind, Header};
use crate::machine::journal::{Journal, Verdict};

pub const CLUSTER: ClusterId = ClusterId([7; 16]);
pub const BOUNDARY: Boundary = Boundary { bytes: 1_500 };

pub fn stream() -> Stream {
    Stream { cluster: CLUSTER, machine: "wallet".to_owned(), partition: PartitionId(3) }
}

pub fn genesis() -> Journal {
    Journal::genesis(&CLUSTER.0, "wallet", PartitionId(3))
}

/// An activation, and then ticks.
pub fn journal(count: u64) -> Vec<Entry> {
    grow(Vec::new(), count, 1_000)
}

/// Adds ticks until there are `count` entries. Two journals that continue with different times are two histories.
pub fn grow(mut entries: Vec<Entry>, count: u64, time: i64) -> Vec<Entry> {
    let mut journal = genesis();
    let follow = |journal: &mut Journal, entry: &Entry| {
        let Ok(Verdict::Effective(after)) = journal.judge(entry) else { panic!("it fits the journal") };
        *journal = after;
    };
    for entry in &entries {
        follow(&mut journal, entry);
    }
    for number in entries.len() as u64..count {
        let header = Header {
            kind: if number == 0 { EntryKind::Activate } else { EntryKind::Tick },
            index: journal.index.next(),
            time: Micros(time + number as i64),
            parent: journal.head,
            seed: [3; 32],
            planner: ModuleId([9; 32]),
            decider: ModuleId([9; 32]),
            digest: Digest([5; 32]),
        };
        let activation = Activation { module: ModuleId([9; 32]), schema: 1, number: 1 };
        let entry = if number == 0 { Entry::activate(header, activation) } else { Entry::tick(header) };
        follow(&mut journal, &entry);
        entries.push(entry);
    }
    entries
}

pub fn write(folder: &Path, entries: &[Entry], last: JournalIndex, head: Head) -> PartitionFacts {
    let own = partition_folder(folder, "wallet", PartitionId(3));
    let mut writer = SegmentsWriter::new(&own, stream(), BOUNDARY, last, head).expect("the folder is ours");
    for entry in entries {
        writer.push(entry).expect("the disk has room");
    }
    let files = writer.finish().expect("the disk has room");
    PartitionFacts { machine: "wallet".to_owned(), partition: PartitionId(3), files }
}

/// The entries that can be read, and the error that ends them.
pub fn read(folder: &Path, facts: &PartitionFacts) -> (u64, Option<SegmentsError>) {
    let reader = SegmentsReader::new(folder.to_owned(), CLUSTER, facts);
    let mut count = 0;
    for placed in reader.entries(genesis().index, genesis().head) {
        match placed {
            Ok(placed) => {
                count += 1;
                assert_eq!(placed.entry.header().index, JournalIndex(count));
            }
            Err(error) => return (count, Some(error)),
        }
    }
    (count, None)
}

/// Whether a test may take long.
pub fn is_chaos() -> bool {
    std::env::var_os("STATEHOUSE_CHAOS").is_some()
}

pub fn path_of(folder: &Path, facts: &FileFacts) -> PathBuf {
    partition_folder(folder, "wallet", PartitionId(3)).join(&facts.name)
}
