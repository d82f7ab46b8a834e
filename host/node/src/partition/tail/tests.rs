//! What a tail returns from a log that is written here entry by entry: with blank and void entries, with released ones,
//! and while the log grows.
//!
//! No partition runs; each test says what is applied.

use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::archive::{Archive, ArchivedJournal, Boundary, Stream, Upload};
use crate::disk::SimDisk;
use crate::ids::{ClusterId, Digest, Head, LogIndex, Micros, ModuleId, NodeId, Term};
use crate::log::{EntryId, Log, LogEntry, LogOptions, Payload, StreamId};
use crate::machine::entry::{Entry, EntryKind, Header};
use crate::partition::recorded::RecordedEntries;

struct NoModules;

impl Modules for NoModules {
    fn load(&self, _: ModuleId) -> Result<Arc<dyn Logic>, String> {
        Err("there is none".to_owned())
    }

    fn find_here(&self, _: ModuleId) -> Option<Arc<dyn Logic>> {
        None
    }

    fn find_loaded(&self, _: ModuleId) -> Option<Arc<dyn Logic>> {
        None
    }
}

/// A log, how much of it is applied, and the journal in it.
pub(in crate::partition) struct History {
    pub log: Log,
    pub genesis: Journal,
    pub journal: Journal,
    pub progress: watch::Sender<Progress>,
    state: watch::Sender<RunState>,
    next: LogIndex,
    /// The entries that a tail must show, and where they are in the log.
    pub effective: Vec<(Position, LogIndex)>,
    past: Option<Arc<ArchivedJournal>>,
}

impl History {
    /// Begins with a record of consensus, as every log does.
    fn new() -> Self {
        let here = PartitionId(3);
        let mut options = LogOptions::new(StreamId::new("wallet", here).expect("the name is short"));
        (options.segment_bytes_min, options.segment_bytes_max, options.tail_bytes_max) = (16 << 10, 64 << 10, 2 << 10);
        let log = Log::open(Arc::new(SimDisk::new()), Path::new("/log"), options).expect("the log opens");
        let genesis = Journal::genesis(&[7; 16], "wallet", here);
        let progress = watch::Sender::new(Progress { log_index: LogIndex(0), journal: genesis });
        let state = watch::Sender::new(RunState::Running);
        let next = LogIndex(0);
        let mut history =
            Self { log, genesis, journal: genesis, progress, state, next, effective: Vec::new(), past: None };
        history.append(Payload::Membership(bytes::Bytes::from_static(b"voters")));
        history
    }

    fn append(&mut self, payload: Payload) {
        let id = EntryId { term: Term(1), node: NodeId(1), index: self.next };
        self.log.append(vec![LogEntry { id, payload }], Box::new(drop)).expect("the log accepts");
        self.next = self.next.next();
        self.progress.send_replace(Progress { log_index: id.index, journal: self.journal });
    }

    fn tick(&self, parent: Head, index: JournalIndex) -> Entry {
        let (kind, time, module) = (EntryKind::Tick, Micros(self.journal.time.0 + 5), ModuleId::ZERO);
        let (seed, digest) = ([3; 32], Digest([0; 32]));
        Entry::tick(Header { kind, index, time, parent, seed, planner: module, decider: module, digest })
    }

    /// Appends an entry of the journal.
    fn effective(&mut self) {
        let entry = self.tick(self.journal.head, self.journal.index.next());
        self.journal = Journal {
            index: entry.header().index,
            head: entry.head_after(),
            time: entry.header().time,
            ..self.journal
        };
        self.effective.push((self.journal.position(PartitionId(3), 0), self.next));
        self.append(Payload::Entry(entry.payload().clone()));
    }

    /// Appends an entry that was computed on a journal that never was. Its number may be too high, or taken already.
    fn void(&mut self, ahead: u64) {
        let entry = self.tick(Head([9; 32]), JournalIndex(self.journal.index.0 / 2 + ahead));
        self.append(Payload::Entry(entry.payload().clone()));
    }

    fn blank(&mut self) {
        self.append(Payload::Blank);
    }

    pub fn purge(&self, upto: u64) {
        let index = LogIndex(upto);
        self.log.purge(EntryId { term: Term(1), node: NodeId(1), index }).expect("accepted");
    }

    async fn open(&self, start: Start) -> Result<Tail, PartitionError> {
        // As after a restart: nothing is known of what is in the log already.
        let (log, past) = (self.log.clone(), self.past.clone());
        let entries = RecordedEntries::new(log.clone(), self.journal.index);
        let reader = Reader { partition: PartitionId(3), log, entries, past };
        let seen = (self.progress.subscribe(), self.state.subscribe());
        let deadline = Instant::now() + Duration::from_secs(180);
        Tail::begin(reader, Arc::new(NoModules), &self.genesis, seen, start, deadline).await
    }

    async fn tail(&self, start: Start) -> Tail {
        self.open(start).await.unwrap_or_else(|error| panic!("{start:?}: {error}"))
    }

    async fn refusal(&self, start: Start) -> PartitionError {
        self.open(start).await.err().expect("it is refused")
    }

    /// 20 entries of the journal, with everything that may lie between them.
    pub fn mixed() -> Self {
        let mut history = Self::new();
        for number in 0..20 {
            if number % 3 == 0 {
                history.blank();
            }
            for ahead in 0..number % 5 {
                history.void(ahead);
            }
            history.effective();
        }
        history.void(1);
        history.blank();
        history
    }

    /// All that a tail shows up to the newest entry.
    async fn shown(&self, tail: &mut Tail) -> Vec<(Position, LogIndex)> {
        let mut shown = Vec::new();
        while tail.lag() > 0 {
            let entry = tail.next().await.expect("it is applied");
            assert_eq!(tail.position(), entry.position());
            shown.push((entry.position(), entry.log_index()));
        }
        assert!(tail.next().now_or_never().is_none(), "the rest is not there yet");
        shown
    }
}

#[tokio::test]
async fn a_tail_shows_the_journal_from_any_place_on() {
    let history = History::mixed();
    let genesis = history.genesis.position(PartitionId(3), 0);
    for start in [Start::Genesis, Start::After(genesis), Start::At(genesis)] {
        let mut tail = history.tail(start).await;
        assert_eq!(history.shown(&mut tail).await, history.effective, "{start:?}");
    }
    for (at, (position, _)) in history.effective.iter().enumerate() {
        let mut tail = history.tail(Start::After(*position)).await;
        assert_eq!(tail.position(), *position);
        assert_eq!(history.shown(&mut tail).await, history.effective[at + 1..], "after {position}");
        let mut tail = history.tail(Start::At(*position)).await;
        assert_eq!(history.shown(&mut tail).await, history.effective[at..], "at {position}");
    }
    assert_eq!(history.shown(&mut history.tail(Start::Now).await).await, []);
}

#[tokio::test]
async fn a_tail_waits_at_the_end_until_it_is_told() {
    let mut history = History::new();
    let (mut all, mut new) = (history.tail(Start::Genesis).await, history.tail(Start::Now).await);
    for _ in 0..3 {
        let next = tokio::spawn(async move { (all.next().await.expect("it is applied").position(), all) });
        let first = tokio::spawn(async move { (new.next().await.expect("it is applied").position(), new) });
        tokio::task::yield_now().await;
        // Entries without effect wake the tail in vain.
        history.blank();
        history.void(2);
        tokio::task::yield_now().await;
        assert!(!next.is_finished() && !first.is_finished());
        history.effective();
        let expected = history.effective.last().expect("just made").0;
        let shown;
        (shown, all) = next.await.expect("it does not panic");
        assert_eq!(shown, expected);
        let shown;
        (shown, new) = first.await.expect("it does not panic");
        assert_eq!(shown, expected);
    }
    history.state.send_replace(RunState::Halted(HaltReason::Panic("a test".to_owned())));
    let error = all.next().await.expect_err("it is halted").to_string();
    assert!(error.contains("a test"), "{error}");
    history.effective();
    let last = new.next().await.expect("what is applied is shown").position();
    assert_eq!(last, history.effective.last().expect("just made").0);
    history.state.send_replace(RunState::Closed);
    assert!(new.next().await.is_err());
}

#[tokio::test]
async fn what_is_read_ahead_is_bounded() {
    let mut history = History::new();
    for _ in 0..1000 {
        history.effective();
    }
    let mut tail = history.tail(Start::Genesis).await;
    let mut count = 0;
    while tail.lag() > 0 {
        tail.next().await.expect("it is applied");
        count += 1;
        assert!(tail.ready.len() < limits::TAIL_READ_ENTRIES as usize);
    }
    assert_eq!(count, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_ahead_is_waited_for() {
    let mut history = History::mixed();
    let next = Position { index: history.journal.index.next(), ..history.journal.position(PartitionId(3), 0) };
    assert!(matches!(history.refusal(Start::After(next)).await, PartitionError::Deadline), "nothing comes");
    history.effective();
    let (position, _) = *history.effective.last().expect("just made");
    assert!(matches!(history.refusal(Start::After(next)).await, PartitionError::OtherHistory(_)), "another head");
    assert_eq!(history.tail(Start::After(position)).await.position(), position);
}

#[tokio::test]
async fn a_position_of_another_history_is_recognised() {
    let history = History::mixed();
    let other = |index: u64| Position { partition: PartitionId(3), index: JournalIndex(index), n: 0, head8: [1; 4] };
    for index in 0..=20 {
        for start in [Start::After(other(index)), Start::At(other(index))] {
            let refused = history.refusal(start).await;
            assert!(matches!(refused, PartitionError::OtherHistory(position) if position == other(index)), "{refused}");
        }
    }
    let elsewhere = Position { partition: PartitionId(4), ..history.effective[3].0 };
    assert!(matches!(history.refusal(Start::After(elsewhere)).await, PartitionError::OtherHistory(_)));
}

/// Archives the first entries of a history.
async fn archive(history: &mut History, folder: &Path, count: usize) {
    let archive = Archive::open(folder.to_str().expect("a plain name")).expect("a folder");
    let stream = Stream { cluster: ClusterId([7; 16]), machine: "wallet".to_owned(), partition: PartitionId(3) };
    let (spool, boundary) = (folder.join("spool"), Boundary { bytes: 20_000 });
    let upload =
        Upload::begin(archive.clone(), stream.clone(), boundary, (JournalIndex(0), history.genesis.head), spool).await;
    let mut upload = upload.expect("it begins");
    let mut go = upload.go().expect("the folder is ours");
    let mut tail = history.tail(Start::Genesis).await;
    for _ in 0..count {
        go.push(tail.next().await.expect("there are more").entry()).await.expect("it is kept");
    }
    go.finish().await.expect("it is kept");
    history.past = Some(Arc::new(ArchivedJournal::new(archive, stream, folder.join("cache"))));
}

#[tokio::test]
async fn what_is_released_comes_from_the_archive() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut history = History::mixed();
    for _ in 0..1000 {
        history.effective();
    }
    archive(&mut history, folder.path(), 700).await;
    let (_, at) = history.effective[600];
    history.purge(at.0 - 1);
    let mut tail = history.tail(Start::Genesis).await;
    let shown: Vec<Position> = history.shown(&mut tail).await.into_iter().map(|(position, _)| position).collect();
    let expected: Vec<Position> = history.effective.iter().map(|(position, _)| *position).collect();
    assert_eq!(shown, expected, "in order, each once, over the place where the log begins");
    for number in [0, 1, 19, 300, 598, 599, 600, 900] {
        let position = history.effective[number].0;
        let mut after = history.tail(Start::After(position)).await;
        assert_eq!(after.next().await.expect("there are more").position(), history.effective[number + 1].0);
        let mut at = history.tail(Start::At(position)).await;
        assert_eq!(at.next().await.expect("it is there").position(), position);
        let other = Position { head8: [1, 2, 3, 4], ..position };
        for start in [Start::After(other), Start::At(other)] {
            let refused = history.refusal(start).await;
            assert!(matches!(refused, PartitionError::OtherHistory(position) if position == other), "{refused}");
        }
    }
    // What neither log nor archive has is refused as before.
    let at = history.effective[800].1;
    history.purge(at.0 - 1);
    let refused = history.refusal(Start::After(history.effective[750].0)).await;
    assert!(matches!(refused, PartitionError::Released { .. }), "{refused}");
}

#[tokio::test]
async fn what_is_released_is_not_skipped() {
    let mut history = History::mixed();
    let mut slow = history.tail(Start::Genesis).await;
    // The tail has read ahead already, so it must lag by more than that.
    for _ in 0..1000 {
        history.effective();
    }
    let (first_kept, at) = history.effective[600];
    history.purge(at.0 - 1);
    for (number, (position, _)) in history.effective.iter().enumerate() {
        let found = history.open(Start::After(*position)).await;
        match found {
            Ok(_) => assert!(599 <= number, "after {position}"),
            Err(PartitionError::Released { first, position: Some(kept) }) => {
                assert!(number < 599, "after {position}");
                assert_eq!((first, kept), (first_kept.index, first_kept));
            }
            Err(error) => panic!("after {position}: {error}"),
        }
        assert_eq!(history.open(Start::At(*position)).await.is_ok(), 600 <= number, "at {position}");
    }
    let mut shown = Vec::new();
    let end = loop {
        match slow.next().await {
            Ok(entry) => shown.push((entry.position(), entry.log_index())),
            Err(error) => break error,
        }
    };
    assert_eq!(shown, history.effective[..shown.len()], "in order, up to where it ends");
    assert!(matches!(end, PartitionError::Released { .. }), "{end}");
    assert!(shown.len() < 600);
}

#[tokio::test]
async fn what_had_no_effect_is_not_missed() {
    let mut history = History::mixed();
    let mut tail = history.tail(Start::Genesis).await;
    assert_eq!(history.shown(&mut tail).await, history.effective);
    let last = history.next;
    history.blank();
    history.void(3);
    history.purge(last.0 + 1);
    history.blank();
    assert_eq!(history.shown(&mut tail).await, [], "what was released is nothing to it");
    history.effective();
    let newest = history.effective.last().copied();
    assert_eq!(history.shown(&mut tail).await, newest.as_slice());
    let after = history.effective[history.effective.len() - 2].0;
    let mut resumed = history.tail(Start::After(after)).await;
    assert_eq!(history.shown(&mut resumed).await, newest.as_slice(), "the one behind a gap without effect is found");
}

#[tokio::test]
async fn a_module_that_is_not_there_is_missed() {
    let mut history = History::new();
    history.effective();
    let mut tail = history.tail(Start::Genesis).await;
    let entry = tail.next().await.expect("it is applied");
    assert_eq!((entry.commands().count(), entry.position_count(), entry.kind()), (0, 0, EntryKind::Tick));
    let refused = tail.decider(&entry).await.err().expect("it is not there").to_string();
    assert!(refused.contains("there is none"), "{refused}");
}
