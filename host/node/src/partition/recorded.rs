//! The effective entries of a partition by their journal index: the newest and the last requested ones from memory, all
//! others by one read.
//!
//! ```text
//! find ─▶ kept in memory ─ no ─▶ place known ─ yes ─▶ one read of the log
//!                                            └ no, from before the start ─▶ the chain tells (`journal_lookup.rs`)
//! ```
//! In: effective entries as the executor applies them, and at the start those before, back along the chain. Out:
//! recorded entries, each shared by all who ask for it. A void entry never enters, so it is never returned. This file
//! does not know who asks, nor why.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use crate::ids::{Head, JournalIndex, LogIndex};
use crate::limits;
use crate::log::{EntryId, Log, LogEntry, Payload};
use crate::machine::entry::{head_after, read_header};
use crate::machine::journal::Journal;
use crate::partition::error::{HaltReason, PartitionError};
use crate::partition::journal_lookup;
use crate::partition::places::Places;
use crate::sequencer::submission::RecordedEntry;

/// The approximate cost of a kept entry beside its payload: its own fields, its place here, and its positions' numbers.
const KEPT_BYTES: usize = 512;
/// How much of the log is searched at once for the places of entries from before the start.
const REBUILD_BYTES: usize = 16 << 20;
/// How many partitions search their logs for places at a time: it is useful, but nobody waits for it.
static REBUILDING: Semaphore = Semaphore::const_new(1);

/// Entries that were read for those who wait for them.
pub struct Recalled {
    pub read: Vec<(JournalIndex, Result<Arc<RecordedEntry>, PartitionError>)>,
    /// Those that another reading is to read, because this one has read enough.
    pub left: Vec<JournalIndex>,
}

pub struct RecordedEntries {
    log: Log,
    places: RwLock<Places>,
    kept: Mutex<EntryCache>,
    /// How often an entry was read from the log because somebody asked for it.
    read_count: AtomicU64,
}

impl RecordedEntries {
    /// Opens the entries of a partition that stands at `journal`. Finds the places of earlier entries in the
    /// background.
    pub fn open(log: &Log, applied: Option<EntryId>, journal: &Journal) -> Arc<Self> {
        let entries = Self::new(log.clone(), journal.index);
        entries.rebuild(applied, journal);
        entries
    }

    /// The entries of a partition whose journal stands at `newest`; no place is known up to there.
    pub(super) fn new(log: Log, newest: JournalIndex) -> Arc<Self> {
        Arc::new(Self {
            log,
            places: RwLock::new(Places::after(newest)),
            kept: Mutex::new(EntryCache::new(limits::RECORDED_BYTES_MAX)),
            read_count: AtomicU64::new(0),
        })
    }

    /// Notes the place of the journal's next entry. Only the executor calls this, after it has judged the entry
    /// effective and before anybody can know the entry.
    pub fn on_effective(&self, index: JournalIndex, log_index: LogIndex) {
        let mut places = self.places.write();
        if places.append(index, log_index)
            && let Some(purged) = self.log.last_purged()
        {
            places.forget_upto(purged.index);
        }
    }

    /// Keeps an effective entry in memory, as the last requested one.
    pub fn keep(&self, recorded: &Arc<RecordedEntry>) {
        self.kept.lock().put(recorded.clone());
    }

    /// The entry if it is in memory; never reads. An entry that the log has released is not returned, even if it is in
    /// memory.
    pub fn find_kept(&self, index: JournalIndex) -> Option<Arc<RecordedEntry>> {
        let purged = self.log.last_purged();
        let is_released = |kept: &Arc<RecordedEntry>| purged.is_some_and(|purged| kept.log_index <= purged.index);
        self.kept.lock().find(index).filter(|kept| !is_released(kept))
    }

    /// The effective entry with this journal index; `applied` and `journal` say where the partition stands for the
    /// caller. May read from disk.
    ///
    /// # Errors
    /// [`PartitionError::NoEntry`]: the journal is not that far. [`PartitionError::Released`]: the log no longer has
    /// it.
    pub fn find(
        &self,
        wanted: JournalIndex,
        applied: Option<LogIndex>,
        journal: &Journal,
    ) -> Result<Arc<RecordedEntry>, PartitionError> {
        if wanted.0 == 0 || journal.index < wanted {
            return Err(PartitionError::NoEntry(wanted));
        }
        if let Some(kept) = self.find_kept(wanted) {
            return Ok(kept);
        }
        let place = self.places.read().find(wanted);
        let recorded = match place {
            Some(at) => Arc::new(self.read(wanted, at)?),
            None => {
                let found = journal_lookup::find_entry(&self.log, wanted, applied, journal)?;
                self.count_read();
                Arc::new(found)
            }
        };
        self.keep(&recorded);
        Ok(recorded)
    }

    /// Reads these entries, up to [`limits::RECALL_BYTES`].
    pub fn recall(&self, wanted: Vec<JournalIndex>, applied: Option<LogIndex>, journal: &Journal) -> Recalled {
        let (mut read, mut bytes) = (Vec::with_capacity(wanted.len()), 0);
        let mut left = wanted.into_iter();
        while bytes < limits::RECALL_BYTES
            && let Some(index) = left.next()
        {
            let found = self.find(index, applied, journal);
            bytes += found.as_ref().map_or(0, |found| found.entry.payload().len());
            read.push((index, found));
        }
        Recalled { read, left: left.collect() }
    }

    fn read(&self, wanted: JournalIndex, at: LogIndex) -> Result<RecordedEntry, PartitionError> {
        let purged = || self.log.last_purged().map(|purged| purged.index).filter(|purged| at <= *purged);
        if purged().is_none()
            && let Some(entry) = journal_lookup::read_one(&self.log, at)?
        {
            self.count_read();
            let found = entry.header().index;
            if found != wanted {
                let reason = format!("journal entry {wanted} is at {at} of the log, which has entry {found} there");
                return Err(HaltReason::Store(reason).into());
            }
            return Ok(RecordedEntry::new(entry, at));
        }
        // It may have been released just now.
        let purged = purged().ok_or(PartitionError::NoEntry(wanted))?;
        Err(PartitionError::Released { first: self.places.read().first_after(purged), position: None })
    }

    fn count_read(&self) {
        self.read_count.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("statehouse_recorded_entries_read_total").increment(1);
    }

    #[cfg(test)]
    pub fn read_count(&self) -> u64 {
        self.read_count.load(Ordering::Relaxed)
    }

    /// Finds in the background the places of the entries up to `journal`, from the newest back. Until an entry is
    /// reached, it is found by the chain. The task ends with the partition.
    fn rebuild(self: &Arc<Self>, applied: Option<EntryId>, journal: &Journal) {
        let Some(applied) = applied else { return };
        let mut back = Some(Back { next: applied.index, head: journal.head });
        let entries = Arc::downgrade(self);
        tokio::spawn(async move {
            let _turn = REBUILDING.acquire().await;
            while let Some(at) = back {
                let entries: Weak<Self> = entries.clone();
                let going = tokio::task::spawn_blocking(move || entries.upgrade()?.go_back(at, REBUILD_BYTES)).await;
                // A panic was logged, and costs only time.
                back = going.unwrap_or(None);
            }
        });
    }

    /// Notes the places of the entries to which the chain leads back; `None` if there are no more.
    pub(super) fn go_back(&self, mut at: Back, bytes_max: usize) -> Option<Back> {
        let (begin, mut bytes) = (journal_lookup::begin(&self.log), 0);
        while bytes < bytes_max {
            let found = match self.log.read(at.next..at.next.next(), 1) {
                Ok(found) => found.into_iter().next()?,
                Err(error) => {
                    tracing::warn!(%error, index = %at.next, "the log cannot be read back any further");
                    return None;
                }
            };
            if let LogEntry { payload: Payload::Entry(payload), .. } = found {
                bytes += payload.len();
                if let Ok(header) = read_header(&payload)
                    && head_after(header.parent, &payload) == at.head
                {
                    if !self.places.write().prepend(header.index, at.next) {
                        return None;
                    }
                    at.head = header.parent;
                }
            }
            at.next = at.next.0.checked_sub(1).map(LogIndex).filter(|next| begin <= *next)?;
        }
        Some(at)
    }
}

/// How far back places are known: the entry that leads to `head` stands at `next` or before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Back {
    pub next: LogIndex,
    pub head: Head,
}

/// Entries in memory. The least recently requested one is dropped first.
struct EntryCache {
    entries: HashMap<JournalIndex, (Arc<RecordedEntry>, u64)>,
    /// Ordered by their last request.
    by_use: BTreeMap<u64, JournalIndex>,
    uses: u64,
    bytes: usize,
    bytes_max: usize,
}

impl EntryCache {
    fn new(bytes_max: usize) -> Self {
        Self { entries: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0, bytes_max }
    }

    fn find(&mut self, index: JournalIndex) -> Option<Arc<RecordedEntry>> {
        let (recorded, used) = self.entries.get_mut(&index)?;
        self.uses += 1;
        self.by_use.remove(used);
        *used = self.uses;
        self.by_use.insert(self.uses, index);
        Some(recorded.clone())
    }

    fn put(&mut self, recorded: Arc<RecordedEntry>) {
        let index = recorded.entry.header().index;
        self.remove(index);
        self.bytes += cost(&recorded);
        self.uses += 1;
        self.by_use.insert(self.uses, index);
        self.entries.insert(index, (recorded, self.uses));
        // One entry always fits, however large; the newest stays until the next is put.
        while self.bytes_max < self.bytes && 1 < self.entries.len() {
            let (_, oldest) = self.by_use.first_key_value().expect("one for each entry");
            self.remove(*oldest);
        }
        assert_eq!(self.entries.len(), self.by_use.len());
    }

    fn remove(&mut self, index: JournalIndex) {
        if let Some((recorded, used)) = self.entries.remove(&index) {
            self.by_use.remove(&used);
            self.bytes -= cost(&recorded);
        }
    }
}

fn cost(recorded: &RecordedEntry) -> usize {
    recorded.entry.payload().len() + KEPT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::tail::tests::History;

    /// Entries of the history, told as an executor tells them, beginning after `opened`.
    fn told(history: &History, opened: usize) -> Arc<RecordedEntries> {
        let entries = RecordedEntries::new(history.log.clone(), JournalIndex(opened as u64));
        for (position, log_index) in &history.effective[opened..] {
            entries.on_effective(position.index, *log_index);
        }
        entries
    }

    fn find(entries: &RecordedEntries, history: &History, index: u64) -> Result<Arc<RecordedEntry>, PartitionError> {
        entries.find(JournalIndex(index), Some(history.progress.borrow().log_index), &history.journal)
    }

    /// Checks that every entry is found as the chain has it, with so many reads at first, and with none the second
    /// time.
    fn check(entries: &RecordedEntries, history: &History, reads: usize) {
        let (applied, begun) = (history.progress.borrow().log_index, entries.read_count());
        for _ in 0..2 {
            for (position, log_index) in &history.effective {
                let slow = journal_lookup::find_entry(&history.log, position.index, Some(applied), &history.journal);
                let found = find(entries, history, position.index.0);
                match (found, slow) {
                    (Ok(found), Ok(slow)) => {
                        assert_eq!((found.log_index, found.head()), (*log_index, slow.head()));
                        assert_eq!(slow.log_index, *log_index);
                    }
                    (
                        Err(PartitionError::Released { first: found, .. }),
                        Err(PartitionError::Released { first: slow, .. }),
                    ) => assert_eq!(found, slow),
                    (found, slow) => panic!("{position}: {found:?}, and slowly {slow:?}"),
                }
            }
        }
        assert_eq!(entries.read_count() - begun, reads as u64, "each was read once");
    }

    #[test]
    fn entries_are_found_by_one_read_each_among_void_and_blank_ones() {
        let history = History::mixed();
        let count = history.effective.len();
        for opened in [0, 1, count / 2, count] {
            check(&told(&history, opened), &history, count);
        }
        let entries = told(&history, 0);
        for index in [0, count as u64 + 1] {
            assert!(matches!(find(&entries, &history, index), Err(PartitionError::NoEntry(_))), "{index}");
        }
        assert_eq!(entries.read_count(), 0);
    }

    #[test]
    fn the_places_of_entries_from_before_the_start_are_found_by_the_chain_in_pieces() {
        let history = History::mixed();
        for (opened, bytes_max) in [(20, 1), (20, 700), (20, usize::MAX), (7, 1)] {
            let entries = told(&history, opened);
            let last = history.effective[opened - 1];
            // As after a restart here: log records between this entry and the next may be applied, or not.
            let mut back = Some(Back {
                next: last.1,
                head: find(&entries, &history, last.0.index.0).expect("it is there").head(),
            });
            while let Some(at) = back {
                back = entries.go_back(at, bytes_max);
            }
            for (position, log_index) in &history.effective {
                assert_eq!(entries.places.read().find(position.index), Some(*log_index), "{position}");
            }
        }
    }

    #[test]
    fn what_the_log_has_released_is_given_out_no_more() {
        let history = History::mixed();
        let (entries, count) = (told(&history, 0), history.effective.len());
        check(&entries, &history, count);
        let last_released = history.effective[4].1;
        history.purge(last_released.0);
        check(&entries, &history, 0);
        assert!(entries.find_kept(JournalIndex(5)).is_none());
        // A restart, after which the log is searched as far back as it reaches.
        let entries = told(&history, count);
        let end = Back { next: history.progress.borrow().log_index, head: history.journal.head };
        assert!(entries.go_back(end, usize::MAX).is_none());
        assert_eq!(entries.places.read().find(JournalIndex(5)), None);
        check(&entries, &history, count - 5);
        history.purge(history.progress.borrow().log_index.0);
        check(&entries, &history, 0);
    }

    #[test]
    fn what_was_asked_for_longest_ago_is_forgotten_first() {
        let history = History::mixed();
        let entries = told(&history, 0);
        let all: Vec<_> = (1..=20).map(|index| find(&entries, &history, index).expect("it is there")).collect();
        let mut kept = EntryCache::new(3 * cost(&all[0]));
        for recorded in &all[..3] {
            kept.put(recorded.clone());
        }
        assert!(kept.find(JournalIndex(1)).is_some());
        kept.put(all[3].clone());
        kept.put(all[3].clone());
        let here = |kept: &EntryCache| {
            (1..=20).filter(|index| kept.entries.contains_key(&JournalIndex(*index))).collect::<Vec<_>>()
        };
        assert_eq!(here(&kept), [1, 3, 4]);
        assert_eq!(kept.bytes, 3 * cost(&all[0]));
        kept.bytes_max = 0;
        kept.put(all[9].clone());
        assert_eq!(here(&kept), [10], "one is kept, however large");
    }
}
