//! The feed of a machine: its entries as lines of the event stream, read and rendered once for readers that are about
//! as far.
//!
//! ```text
//! reader ─▶ next(partition, place) ┬ kept (bounded)            ◀──────────────┐
//!                                  ├ at the end: the one tail that all share ──┤ rendered, kept
//!                                  └ further back: a tail of its own, few at once
//! ```
//! In: places in journals. Out: what follows each. It does nothing while nobody asks, and holds no more than
//! [`limits::EVENT_FEED_BYTES_MAX`] beside the entries being rendered. It does not know what a reader wants to see of
//! them.

pub mod cursor;
pub mod rendered;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::cursor::WHOLE;
use self::rendered::{EventOrigin, RenderedEntry, render};
use crate::ids::{JournalIndex, PartitionId, Position};
use crate::limits;
use crate::machine::entry::EntryKind;
use crate::machine::logic::{Fault, Logic};
use crate::partition::tail::{Start, Tail, TailEntry};
use crate::partition::{Partition, PartitionError};
use crate::router::Machine;

/// How soon a partition that is not here is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The feeds of this node, one for each machine that somebody follows.
#[derive(Default)]
pub struct Feeds(Mutex<BTreeMap<String, Weak<Feed>>>);

impl Feeds {
    /// The feed of a machine, shared while anybody has it.
    pub fn feed(&self, machine: Arc<Machine>, cluster: &str) -> Arc<Feed> {
        let mut feeds = self.0.lock();
        let known = feeds.get(machine.name()).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| Arc::ptr_eq(&known.machine, &machine)) {
            return known;
        }
        let feed = Feed::new(machine.clone(), cluster);
        feeds.insert(machine.name().to_owned(), Arc::downgrade(&feed));
        feed
    }
}

/// A place between two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedPlace {
    pub index: JournalIndex,
    pub head8: [u8; 4],
}

impl FeedPlace {
    /// The place after the entry of this position.
    pub fn behind(position: Position) -> Self {
        Self { index: position.index, head8: position.head8 }
    }

    pub fn position(self, partition: PartitionId) -> Position {
        Position { partition, index: self.index, n: 0, head8: self.head8 }
    }
}

pub struct Feed {
    pub machine: Arc<Machine>,
    origin: EventOrigin,
    /// By partition: the tail at the end of the journal.
    ends: Vec<tokio::sync::Mutex<Option<Tail>>>,
    kept: Mutex<RenderedCache>,
    /// Changes whenever a partition has applied something.
    news: watch::Sender<()>,
    /// Turns to read old entries: this for those in the log, `archived` for those in the archive.
    behind: Semaphore,
    archived: Semaphore,
    _stop: DropGuard,
}

/// Rendered entries, the latest ones that somebody asked for.
#[derive(Default)]
struct RenderedCache {
    entries: HashMap<(PartitionId, JournalIndex), Arc<RenderedEntry>>,
    order: VecDeque<(PartitionId, JournalIndex)>,
    bytes: usize,
}

impl RenderedCache {
    fn insert(&mut self, rendered: &Arc<RenderedEntry>) {
        let key = (rendered.partition, rendered.index);
        if let Some(before) = self.entries.insert(key, rendered.clone()) {
            self.bytes -= before.size;
        } else {
            self.order.push_back(key);
        }
        self.bytes += rendered.size;
        while limits::EVENT_FEED_BYTES_MAX < self.bytes {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= self.entries.remove(&oldest).map_or(0, |rendered| rendered.size);
        }
        assert_eq!(self.entries.len(), self.order.len());
    }
}

impl Feed {
    pub fn new(machine: Arc<Machine>, cluster: &str) -> Arc<Self> {
        let name = machine.name().to_owned();
        let stop = CancellationToken::new();
        let feed = Arc::new(Self {
            origin: EventOrigin { source: format!("urn:statehouse:{cluster}:{name}"), machine: name },
            ends: machine.partition_ids().map(|_| tokio::sync::Mutex::default()).collect(),
            kept: Mutex::default(),
            news: watch::Sender::new(()),
            behind: Semaphore::new(limits::EVENT_READERS_BEHIND_MAX),
            archived: Semaphore::new(limits::EVENT_READERS_BEHIND_MAX),
            _stop: stop.clone().drop_guard(),
            machine,
        });
        for partition in feed.machine.partition_ids() {
            let following = follow(feed.machine.clone(), partition, feed.news.clone());
            tokio::spawn(stop.clone().run_until_cancelled_owned(following));
        }
        feed
    }

    /// Changes whenever there may be something new.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    pub fn replica(&self, partition: PartitionId) -> Result<Arc<Partition>, PartitionError> {
        self.machine.find_partition(partition).ok_or(PartitionError::NotHere(partition))
    }

    /// The entry that follows a place, if it is applied here.
    ///
    /// # Errors
    /// The place is not in this journal, what follows was released, or the partition does not run here.
    pub async fn next(
        &self,
        partition: PartitionId,
        place: FeedPlace,
    ) -> Result<Option<Arc<RenderedEntry>>, PartitionError> {
        let replica = self.replica(partition)?;
        let newest = replica.progress().journal.index;
        if newest <= place.index {
            return if replica.is_running() { Ok(None) } else { Err(replica.status().state.reason()) };
        }
        if let Some(kept) = self.find_kept(partition, place) {
            return Ok(Some(kept));
        }
        if place.index.distance_to(newest) <= limits::TAIL_READ_ENTRIES
            && let Some(following) = self.next_at_end(&replica, place).await?
        {
            return Ok(Some(following));
        }
        let _turn = self.turn(&replica, place.index).await?;
        match self.find_kept(partition, place) {
            Some(kept) => Ok(Some(kept)),
            None => self.read(&mut open(&replica, Start::After(place.position(partition))).await?).await.map(Some),
        }
    }

    /// Reads with the tail at the end. `None` if the log no longer has the entry, or if reading takes long, so that
    /// nobody else waits for it.
    async fn next_at_end(
        &self,
        replica: &Arc<Partition>,
        place: FeedPlace,
    ) -> Result<Option<Arc<RenderedEntry>>, PartitionError> {
        let partition = replica.id();
        let mut end = self.ends[partition.0 as usize].lock().await;
        // Another reader may have waited for the same entry.
        if let Some(kept) = self.find_kept(partition, place) {
            return Ok(Some(kept));
        }
        let tail = end.take().filter(|tail| FeedPlace::behind(tail.position()) == place && tail.is_open());
        let mut tail = match tail {
            Some(tail) => tail,
            None if is_released(replica, place.index.next()).await => return Ok(None),
            None => open(replica, Start::After(place.position(partition))).await?,
        };
        match timeout(limits::DEADLINE_DEFAULT, self.read(&mut tail)).await {
            Ok(following) => {
                let following = following?;
                *end = Some(tail);
                Ok(Some(following))
            }
            Err(_) => Ok(None),
        }
    }

    /// The place of a reader that has had everything up to `position`: after an entry, and after how many positions of
    /// the entry that follows.
    ///
    /// # Errors
    /// See [`Tail::open`]; the search ends at the deadline.
    pub async fn place_of(&self, position: Position, deadline: Instant) -> Result<(FeedPlace, u32), PartitionError> {
        let found = timeout_at(deadline, self.find_place(position, deadline)).await;
        found.unwrap_or(Err(PartitionError::Deadline))
    }

    async fn find_place(&self, position: Position, deadline: Instant) -> Result<(FeedPlace, u32), PartitionError> {
        let replica = self.replica(position.partition)?;
        // This comes before the turn, so that a reader that is ahead of this replica keeps nobody waiting.
        replica.read_position(position, deadline).await?;
        let _turn = self.turn(&replica, position.index).await?;
        if position.n == WHOLE || position.index == replica.genesis().index {
            Tail::open(&replica, Start::After(position), deadline).await?;
            return Ok((FeedPlace::behind(position), 0));
        }
        let mut tail = Tail::open(&replica, Start::At(position), deadline).await?;
        let before = FeedPlace::behind(tail.position());
        let entry = tail.next().await?;
        let had = position.n + 1;
        if had < entry.position_count() { Ok((before, had)) } else { Ok((FeedPlace::behind(position), 0)) }
    }

    /// A turn to read old entries: `index` or the entry after it. Readers of the archive, which may be slow, have turns
    /// of their own, so that they keep only each other waiting.
    async fn turn(&self, replica: &Arc<Partition>, index: JournalIndex) -> Result<SemaphorePermit<'_>, PartitionError> {
        let turns = if is_released(replica, index).await { &self.archived } else { &self.behind };
        Ok(turns.acquire().await.expect("it is never closed"))
    }

    /// The place before the entry of a position.
    ///
    /// # Errors
    /// See [`Tail::open`].
    pub async fn before(&self, position: Position, deadline: Instant) -> Result<FeedPlace, PartitionError> {
        let replica = self.replica(position.partition)?;
        let _turn = self.turn(&replica, position.index).await?;
        let tail = Tail::open(&replica, Start::At(position), deadline).await?;
        Ok(FeedPlace::behind(tail.position()))
    }

    fn find_kept(&self, partition: PartitionId, place: FeedPlace) -> Option<Arc<RenderedEntry>> {
        let kept = self.kept.lock().entries.get(&(partition, place.index.next())).cloned();
        kept.filter(|kept| kept.before8 == place.head8)
    }

    /// The next entry of a tail; other entries that the tail has read are kept.
    async fn read(&self, tail: &mut Tail) -> Result<Arc<RenderedEntry>, PartitionError> {
        let mut entries = vec![tail.next().await?];
        entries.extend(std::iter::from_fn(|| tail.next_ready()));
        let mut logics = Vec::with_capacity(entries.len());
        for entry in &entries {
            let is_decided = matches!(entry.kind(), EntryKind::Batch | EntryKind::Saga);
            logics.push(if is_decided { Some(tail.decider(entry).await?) } else { None });
        }
        let origin = EventOrigin { machine: self.origin.machine.clone(), source: self.origin.source.clone() };
        let rendering = tokio::task::spawn_blocking(move || {
            let render = |(entry, logic): (&TailEntry, &Option<Arc<dyn Logic>>)| {
                let failed =
                    |fault: Fault| PartitionError::NotRendered { module: entry.decider(), reason: fault.to_string() };
                render(entry, logic.as_deref(), &origin).map(Arc::new).map_err(failed)
            };
            entries.iter().zip(&logics).map(render).collect::<Result<Vec<_>, _>>()
        });
        let rendered = rendering.await.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))?;
        let mut kept = self.kept.lock();
        rendered.iter().for_each(|rendered| kept.insert(rendered));
        Ok(rendered.into_iter().next().expect("there was one entry at least"))
    }
}

/// Whether the log no longer has an entry.
async fn is_released(replica: &Arc<Partition>, index: JournalIndex) -> bool {
    let (replica, index) = (replica.clone(), index.max(JournalIndex(1)));
    let finding = tokio::task::spawn_blocking(move || replica.find_entry(index)).await;
    let found = finding.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
    matches!(found, Err(PartitionError::Released { .. }))
}

async fn open(replica: &Partition, start: Start) -> Result<Tail, PartitionError> {
    // The entry is applied already, so this does not wait.
    Tail::open(replica, start, Instant::now() + limits::DEADLINE_DEFAULT).await
}

/// Signals everything that a partition applies, even when its replica here is replaced.
async fn follow(machine: Arc<Machine>, partition: PartitionId, news: watch::Sender<()>) {
    loop {
        if let Some(replica) = machine.find_partition(partition) {
            let mut progress = replica.watch_progress();
            drop(replica);
            news.send_replace(());
            while progress.changed().await.is_ok() {
                news.send_replace(());
            }
            // Readers must see what has become of the replica.
            news.send_replace(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The last position that is applied: a reader that continues there misses nothing and sees nothing from before.
pub async fn newest(replica: &Arc<Partition>) -> Result<Position, PartitionError> {
    let journal = replica.progress().journal;
    let all = journal.position(replica.id(), WHOLE);
    if journal.index == replica.genesis().index {
        return Ok(Position { n: 0, ..all });
    }
    let replica = replica.clone();
    let found = tokio::task::spawn_blocking(move || replica.find_entry(journal.index)).await;
    match found.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic())) {
        Ok(recorded) => Ok(Position { n: recorded.position_count().saturating_sub(1), ..all }),
        // The replica has a snapshot, but not the entry after which it was made.
        Err(PartitionError::Released { .. } | PartitionError::NoEntry(_)) => Ok(all),
        Err(error) => Err(error),
    }
}
