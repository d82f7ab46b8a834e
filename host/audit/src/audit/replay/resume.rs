//! The progress of a replay, kept in a folder. An interrupted replay continues and gives the report that it would have
//! given without the interruption.
//!
//! | file | what |
//! |---|---|
//! | `replay.json` | what is replayed, and where each journal ended when it began: later entries are not part of it |
//! | `partition-N` | the walk over a partition up to one entry, as follows |
//! | … magic | `shreplay2\n` |
//! | … walk | length u64 and JSON of [`SavedWalk`] |
//! | … rows, once or twice | count u64, then for each row the key and the row, each with a length u32 |
//! | … hash | 32 bytes blake3 of everything before |
//!
//! In: walks. Out: walks that continue after the entries that are done, whose hashes are checked again. A file that is
//! not whole counts as missing. The simulation of a cumulative replay is not saved: its state spans all partitions, so
//! it begins anew. This file does not know what a walk has found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::audit::error::AuditError;
use crate::audit::replay::Meter;
use crate::audit::replay::class::Class;
use crate::audit::replay::coverage::Counter;
use crate::audit::replay::error::ReplayFault;
use crate::audit::replay::history::{History, PartitionJournal};
use crate::audit::replay::isolated::{Flow, Walk, WalkOutcome};
use crate::audit::replay::plans::EntityPlaces;
use crate::audit::replay::report::{Brief, ClassCount, Counts, CoveredRange, Difference};
use crate::audit::replay::request::Request;
use crate::audit::replay::state::PartitionRows;
use crate::audit::replay::tally::{HistoryPlace, Slots, Tally};
use crate::audit::replay::timeline::Timeline;
use crate::durable::{self, PRIVATE};
use crate::ids::{CommandId, Digest, Head, JournalIndex, Micros, ModuleId, PartitionId};
use crate::limits::REPLAY_SAVE_BYTES;
use crate::machine::entry::Entry;
use crate::machine::journal::{Journal, Verdict};
use crate::registry::{Stop, StopCause};

const RUN: &str = "replay.json";
const MAGIC: &[u8] = b"shreplay2\n";
/// How many times their own size in journal must pass before rows are saved again.
const JOURNAL_PER_SAVED: u64 = 4;

/// Whether and where a replay is kept, and whether it must stop.
pub struct Keep {
    /// `None`: an interrupted replay begins anew.
    pub folder: Option<PathBuf>,
    /// The least amount of journal between two saves of a partition.
    pub bytes: u64,
    pub stop: Arc<Stop>,
}

impl Keep {
    pub fn nothing() -> Self {
        Self { folder: None, bytes: REPLAY_SAVE_BYTES, stop: Arc::default() }
    }

    /// # Errors
    /// The replay must stop.
    pub fn check_stopped(&self) -> Result<(), ReplayFault> {
        if self.stop.is_asked() { Err(ReplayFault::Stopped { is_kept: self.folder.is_some() }) } else { Ok(()) }
    }

    /// # Errors
    /// A call of a module was not made, so the results since then are not what the module says.
    pub fn check_whole(&self) -> Result<(), ReplayFault> {
        match self.stop.cause() {
            None => Ok(()),
            Some(StopCause::Stopped) => Err(ReplayFault::Stopped { is_kept: self.folder.is_some() }),
            Some(StopCause::Spent(why)) => Err(ReplayFault::Spent(why.clone())),
        }
    }
}

/// The content of `replay.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedReplay {
    identity: Digest,
    /// By partition.
    ends: BTreeMap<u32, u64>,
}

/// A replay under way.
pub struct ResumableReplay<'k> {
    keep: &'k Keep,
    run: SavedReplay,
}

/// A walk up to one effective entry, without its rows.
#[derive(Serialize, Deserialize)]
struct SavedWalk {
    identity: Digest,
    is_over: bool,
    journal: SavedJournal,
    covered: CoveredRange,
    has_own: bool,
    counts: Counts,
    classes: BTreeMap<Class, ClassCount>,
    first: Vec<(HistoryPlace, Class, Difference)>,
    briefs: Vec<(HistoryPlace, Brief)>,
    coverage: Counter,
    timeline: Timeline,
    deciders: Vec<ModuleId>,
    differing: Vec<(u32, u64, usize)>,
    calls: Vec<(String, HistoryPlace)>,
    heard: Vec<(String, HistoryPlace)>,
    reused: Vec<(String, Vec<u8>)>,
}

#[derive(Serialize, Deserialize)]
struct SavedJournal {
    index: JournalIndex,
    head: Head,
    time: Micros,
    module: ModuleId,
    schema: u32,
    activation: u64,
}

/// A walk as it was read back.
struct ResumedWalk {
    saved: SavedWalk,
    recorded: PartitionRows,
    own: Option<PartitionRows>,
}

impl<'k> ResumableReplay<'k> {
    /// Begins, or continues with what is in the folder.
    ///
    /// # Errors
    /// The folder belongs to another replay, or cannot be written.
    pub fn open(
        keep: &'k Keep,
        history: &dyn History,
        request: &Request,
        opened: &[(PartitionId, Box<dyn PartitionJournal>)],
    ) -> Result<Self, ReplayFault> {
        let identity = identity(history, request);
        let ends = opened.iter().map(|(partition, opened)| (partition.0, opened.end())).collect();
        let run = SavedReplay { identity, ends };
        let Some(folder) = &keep.folder else { return Ok(Self { keep, run }) };
        let path = folder.join(RUN);
        let io = |path: &Path, source| ReplayFault::Keep { path: path.to_owned(), source };
        let run = match std::fs::read(&path) {
            Ok(text) => {
                let known: SavedReplay = serde_json::from_slice(&text).map_err(|error| io(&path, error.into()))?;
                if known.identity != identity {
                    return Err(ReplayFault::OtherReplay { path: folder.clone() });
                }
                known
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                durable::create_dir_all(folder).map_err(|error| io(folder, error))?;
                let text = serde_json::to_vec_pretty(&run).expect("texts and integers only");
                durable::write(folder, RUN, PRIVATE, &text).map_err(|error| io(&path, error))?;
                run
            }
            Err(error) => return Err(io(&path, error)),
        };
        Ok(Self { keep, run })
    }

    /// Where a journal ended when the replay began.
    pub fn end_of(&self, partition: PartitionId) -> u64 {
        self.run.ends.get(&partition.0).copied().unwrap_or(u64::MAX)
    }

    /// # Errors
    /// The replay must stop.
    pub fn check_stopped(&self) -> Result<(), ReplayFault> {
        self.keep.check_whole().and_then(|()| self.keep.check_stopped())
    }

    /// Walks over a partition, from where it stopped.
    pub fn walk(
        &self,
        history: &dyn History,
        request: &Request,
        places: EntityPlaces,
        opened: &dyn PartitionJournal,
        meter: &Meter<'_>,
    ) -> Result<WalkOutcome, ReplayFault> {
        let mut entries = opened.entries();
        let mut walk = Walk::new(history, request, places, opened.genesis());
        if let Some(ResumedWalk { saved, recorded, own }) = self.find(places.here) {
            skip(history, places.here, &saved.journal, opened.genesis(), &mut entries, meter, self.keep)?;
            let is_over = saved.is_over;
            saved.restore(&mut walk, history)?;
            (walk.recorded, walk.own) = (recorded, own);
            if is_over {
                return Ok(walk.finish());
            }
        }
        let (mut since, mut size) = (0, 0);
        for entry in entries {
            let entry = entry?;
            let (decided, before) = (walk.tally.counts.decisions, walk.journal.index);
            let flow = walk.on_entry(&entry)?;
            self.keep.check_whole()?;
            let bytes = entry.payload().len() as u64;
            (meter.on_done)(bytes, walk.tally.counts.decisions - decided);
            if flow == Flow::Ends {
                break;
            }
            since += bytes;
            // Only after an effective entry: the void ones that follow are counted when the walk continues.
            if walk.journal.index != before {
                let stopped = self.check_stopped();
                if stopped.is_err() || self.keep.bytes.max(JOURNAL_PER_SAVED * size) <= since {
                    (size, since) = (self.save(&walk, false)?, 0);
                }
                stopped?;
            }
        }
        self.save(&walk, true)?;
        Ok(walk.finish())
    }

    /// Returns the size of what was written.
    fn save(&self, walk: &Walk<'_>, is_over: bool) -> Result<u64, ReplayFault> {
        let Some(folder) = &self.keep.folder else { return Ok(0) };
        let json =
            serde_json::to_vec(&SavedWalk::of(self.run.identity, walk, is_over)).expect("texts and integers only");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&(json.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&json);
        for state in [Some(&walk.recorded), walk.own.as_ref()].into_iter().flatten() {
            write_rows(state, &mut bytes);
        }
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        let name = name_of(walk.places.here);
        let written = durable::write(folder, &name, PRIVATE, &bytes);
        written.map_err(|source| ReplayFault::Keep { path: folder.join(&name), source })?;
        fail::fail_point!("replay::saved", |_| std::process::abort());
        Ok(bytes.len() as u64)
    }

    fn find(&self, partition: PartitionId) -> Option<ResumedWalk> {
        let bytes = std::fs::read(self.keep.folder.as_ref()?.join(name_of(partition))).ok()?;
        let (content, hash) = bytes.split_last_chunk::<32>()?;
        if blake3::hash(content) != *hash {
            return None;
        }
        let rest = content.strip_prefix(MAGIC)?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (json, mut rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*size)).ok()?)?;
        let saved: SavedWalk = serde_json::from_slice(json).ok()?;
        if saved.identity != self.run.identity {
            return None;
        }
        let recorded = read_rows(&mut rest)?;
        let own = if saved.has_own { Some(read_rows(&mut rest)?) } else { None };
        Some(ResumedWalk { saved, recorded, own })
    }
}

/// Removes the files of a replay that is over.
pub fn forget(folder: &Path) -> std::io::Result<()> {
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == RUN || name.starts_with("partition-") {
            std::fs::remove_file(&path)?;
        }
    }
    // Files of others in the folder stay.
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

/// Everything that the report depends on, except the history up to its ends.
fn identity(history: &dyn History, request: &Request) -> Digest {
    let Request { candidate, mode, from, to, partition, filter, jobs: _ } = request;
    let text = format!(
        "{}\n{}\n{}\n{}\n{}\n{from:?}\n{to:?}\n{partition:?}\n{filter:?}\n{}",
        history.cluster(),
        history.machine(),
        history.partition_count(),
        candidate.id(),
        mode.name(),
        env!("CARGO_PKG_VERSION")
    );
    Digest::of(text.as_bytes())
}

/// Skips the entries that are done, and checks that they are the same.
fn skip(
    history: &dyn History,
    partition: PartitionId,
    saved: &SavedJournal,
    genesis: Journal,
    entries: &mut dyn Iterator<Item = Result<Entry, AuditError>>,
    meter: &Meter<'_>,
    keep: &Keep,
) -> Result<(), ReplayFault> {
    let mut journal = genesis;
    while journal.index < saved.index {
        keep.check_stopped()?;
        let Some(entry) = entries.next() else { break };
        let entry = entry?;
        let stream = || format!("{}/{partition}", history.machine());
        let verdict = journal.judge(&entry);
        let verdict = verdict.map_err(|error| AuditError::Replay { stream: stream(), source: error.into() })?;
        if let Verdict::Effective(after) = verdict {
            journal = after;
        }
        (meter.on_done)(entry.payload().len() as u64, 0);
    }
    if journal.head == saved.head { Ok(()) } else { Err(ReplayFault::OtherHistory { partition, index: saved.index }) }
}

impl SavedWalk {
    fn of(identity: Digest, walk: &Walk<'_>, is_over: bool) -> Self {
        let Journal { index, head, time, module, schema, activation } = walk.journal;
        let tally = &walk.tally;
        let slots = |slots: &hashbrown::HashMap<CommandId, HistoryPlace>| {
            slots.iter().map(|(id, place)| (id.to_string(), *place)).collect()
        };
        Self {
            identity,
            is_over,
            journal: SavedJournal { index, head, time, module, schema, activation },
            covered: walk.covered.clone(),
            has_own: walk.own.is_some(),
            counts: tally.counts,
            classes: tally.classes.clone(),
            first: tally.first.iter().map(|(class, (place, first))| (*place, *class, first.clone())).collect(),
            briefs: tally.briefs.clone(),
            coverage: tally.coverage.clone(),
            timeline: tally.timeline.clone(),
            deciders: tally.deciders.clone(),
            differing: tally.differing.iter().copied().collect(),
            calls: slots(&tally.slots.calls),
            heard: slots(&tally.slots.heard),
            reused: tally.slots.reused.iter().map(|(id, rejection)| (id.to_string(), rejection.clone())).collect(),
        }
    }

    /// Restores everything except the rows.
    fn restore(self, walk: &mut Walk<'_>, history: &dyn History) -> Result<(), ReplayFault> {
        let SavedJournal { index, head, time, module, schema, activation } = self.journal;
        walk.journal = Journal { index, head, time, module, schema, activation };
        if module != ModuleId::ZERO {
            let loaded = history.load(module).map_err(|reason| ReplayFault::Module { id: module, reason })?;
            walk.recorder = Some(loaded);
        }
        walk.covered = self.covered;
        let slots = |saved: Vec<(String, HistoryPlace)>| {
            saved.into_iter().filter_map(|(id, place)| Some((id.parse().ok()?, place))).collect()
        };
        let reused = self.reused.into_iter().filter_map(|(id, rejection)| Some((id.parse().ok()?, rejection)));
        walk.tally = Tally {
            counts: self.counts,
            classes: self.classes,
            first: self.first.into_iter().map(|(place, class, first)| (class, (place, first))).collect(),
            briefs: self.briefs,
            coverage: self.coverage,
            timeline: self.timeline,
            deciders: self.deciders,
            differing: self.differing.into_iter().collect(),
            // `due` is computed again at the end.
            slots: Slots {
                calls: slots(self.calls),
                heard: slots(self.heard),
                reused: reused.collect(),
                due: Vec::new(),
            },
        };
        Ok(())
    }
}

/// A journal up to where it ended when the replay began.
pub struct BoundedJournal {
    pub journal: Box<dyn PartitionJournal>,
    pub end: u64,
}

impl PartitionJournal for BoundedJournal {
    fn genesis(&self) -> Journal {
        self.journal.genesis()
    }

    fn byte_count(&self) -> u64 {
        self.journal.byte_count()
    }

    fn entries(&self) -> Box<dyn Iterator<Item = Result<Entry, AuditError>> + '_> {
        self.journal.entries_until(self.end)
    }
}

fn name_of(partition: PartitionId) -> String {
    format!("partition-{partition}")
}

fn write_rows(state: &PartitionRows, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&(state.rows().len() as u64).to_le_bytes());
    for (key, row) in state.rows() {
        for part in [key, row] {
            bytes.extend_from_slice(&u32::try_from(part.len()).expect("rows are bounded").to_le_bytes());
            bytes.extend_from_slice(part);
        }
    }
}

fn read_rows(bytes: &mut &[u8]) -> Option<PartitionRows> {
    let count = u64::from_le_bytes(*take(bytes, 8)?.first_chunk()?);
    let mut state = PartitionRows::default();
    for _ in 0..count {
        let mut part = || {
            let size = u32::from_le_bytes(*take(bytes, 4)?.first_chunk()?);
            take(bytes, usize::try_from(size).ok()?)
        };
        let (key, row) = (part()?, part()?);
        state.put(key, Some(row));
    }
    Some(state)
}

fn take<'b>(bytes: &mut &'b [u8], size: usize) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(size)?;
    *bytes = rest;
    Some(taken)
}
