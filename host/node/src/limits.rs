//! Every bound of the host in one place, each with its reason. Nothing grows past a number named here.
//!
//! The bounds that decide history are the kernel's (`machine/limits.rs`), those of files are the journal's
//! (`host/journal/src/limits.rs`), and engine, auditor and the machine `system` have their own; all can be named here
//! as well. It knows nothing of what happens beyond a limit: the caller turns that into a clear 4xx, 503 or 507.

use std::time::Duration;

use crate::ids::LogIndex;
pub use crate::machine::limits::*;
pub use statehouse_audit::limits::*;
pub use statehouse_engine::limits::*;
pub use statehouse_journal::limits::*;
pub use statehouse_system::limits::*;

/// The JSON body of one command or query: far above any honest command, and small enough to buffer.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// The body of a batch: [`BATCH_COMMANDS_MAX`] commands of 1 KiB.
pub const BATCH_BODY_BYTES_MAX: usize = 8 << 20;
/// Rows of one scan of a query.
pub const SCAN_ROWS_MAX: usize = 4096;
/// Decisions that a view gets in one call: some hundred KiB of values, far below what a guest's memory holds.
pub const VIEW_BATCH_DECISIONS: usize = 512;
/// Rounds of such a call in which the view asks for rows. A call that needs more is halved.
pub const VIEW_ROUNDS_MAX: usize = 8;
/// A guest call on the runtime's own thread that takes longer moves the module's calls to other threads for a while.
pub const GUEST_CALL_INLINE_MAX: Duration = Duration::from_millis(50);
/// For how long the calls of such a module run on other threads.
pub const GUEST_CALLS_OFFLOADED_FOR: Duration = Duration::from_secs(60);
/// Such calls at the same time: the machines of a node share its instances.
pub const GUEST_CALLS_OFFLOADED_MAX: usize = 4;
/// The newest modules that a node has refused and `system` does not name, each with the reason.
pub const MODULES_REFUSED_MAX: usize = 64;
/// Refusals that a node records in a minute, so that nobody can fill the log of `system` with invalid modules.
pub const REFUSALS_PER_MINUTE_MAX: u32 = 30;
/// Starts of a node that prepare the same module: a module that ends the process must not do so for ever.
pub const PREPARE_ATTEMPTS_MAX: u32 = 3;
/// Bytes of rows that a shadow run holds for each partition before it begins again from newer rows.
pub const SHADOW_BYTES_MAX: usize = 32 << 20;
/// For how long a shadow run can keep the state of one moment from being deleted.
pub const SHADOW_VIEW_AGE_MAX: Duration = Duration::from_secs(300);
/// A file of guests' panic texts, for each partition. There are two of them.
pub const PANICS_FILE_BYTES_MAX: u64 = 1 << 20;
/// Characters of a guest's panic text, and of a frame of its backtrace.
pub const PANIC_CHARS_MAX: usize = 2_000;
/// Frames of a guest's backtrace. Frames below these are callers of what trapped.
pub const PANIC_FRAMES_MAX: usize = 32;
/// The newest panic texts that are kept in memory, for each partition.
pub const PANICS_KEPT_MAX: usize = 1024;
/// Rows of `@local` that are rendered at once for the metric of money in transit: more would take the guest too long.
/// If there are more, they are added up beside the partition, without delaying it.
pub const LOCAL_ROWS_SHOWN_MAX: usize = 4096;
/// Rows of `@local` that are added up in all: some seconds of one thread, every ten seconds. If there are more, the
/// metric is no longer updated, and the log says so.
pub const LOCAL_ROWS_COUNTED_MAX: usize = 1 << 20;
/// Bytes of submissions that wait in the queue of one partition.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Recorded entries in memory for ids that are sent again, for each partition. The newest share the log's tail.
pub const RECORDED_BYTES_MAX: usize = 64 << 20;
/// Ids sent again that wait for their entries to be read, for each partition: all batches under way hold no more.
pub const RECALLS_MAX: usize = HTTP_BATCHES_MAX * BATCH_COMMANDS_MAX;
/// Entries that are read at once for waiting ids: if a client has gone meanwhile, no more was wasted.
pub const RECALL_ENTRIES: usize = 256;
/// The same in bytes, plus one entry.
pub const RECALL_BYTES: usize = 8 << 20;
/// Entries that are proposed and not yet applied, for each partition.
pub const SPECULATION_ENTRIES_MAX: usize = 8;
/// If more entries than this are proposed, a short queue waits to grow: small batches cost an fsync each.
pub const SPECULATION_TRICKLE_MAX: usize = 2;
/// A queue of this many commands is proposed immediately.
pub const BATCH_COMMANDS_WORTH_A_WAIT: usize = 512;
/// How often a leader whose queue does not move checks whether a majority still answers it.
pub const QUEUE_LOOK: Duration = Duration::from_millis(250);
/// How often a partition that has too much to write looks whether that is written: much more often than a writer
/// needs for it.
pub const ROOM_LOOK: Duration = Duration::from_millis(10);
/// Outcomes of calls that one entry records. The end of a command has all its events and phases, about a kilobyte.
pub const PROGRESS_PER_ENTRY_MAX: usize = 2_048;
/// Orders about commands in flight that wait in a partition. An operator's program gives one after the other.
pub const ORDERS_WAITING_MAX: usize = 64;
/// The reason of an operator's order: a sentence or two, recorded for ever.
pub const ORDER_WHY_CHARS_MAX: u32 = 500;
/// A command that is in flight for longer is named in the log, and again each time as much time has passed.
pub const STUCK_REPORT_EVERY: Duration = Duration::from_secs(60);
/// Commands that one such report names. For the others it gives only their number.
pub const STUCK_LINES_MAX: usize = 32;
/// A call from another partition whose time is this far ahead of the node's clock is counted and logged: a clock was
/// wrong there, and its time becomes this partition's. Nodes below [`crate::features::TIMELINES`] delay it.
pub const CARRIED_AHEAD_MAX: Duration = Duration::from_secs(30);
/// Recorded rejections a second for each caller, in a partition: each costs some 300 bytes of log on every node.
pub const REJECTIONS_PER_CALLER_PER_SECOND_MAX: u32 = 25_000;
/// The same for all callers together.
pub const REJECTIONS_PER_SECOND_MAX: u32 = 100_000;
/// The same for one address, on the node that it asks: a caller with several tokens, or none, has one address.
pub const REJECTIONS_PER_ADDRESS_PER_SECOND_MAX: u32 = 25_000;
/// The deadline of a request that names none.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);
/// The longest deadline a request may name.
pub const DEADLINE_MAX: Duration = Duration::from_secs(30);
/// What is read of a too large body before the connection may close, so that the client sees the problem: two batches.
pub const HTTP_DISCARD_BYTES_MAX: usize = 2 * BATCH_BODY_BYTES_MAX;
/// Characters of a problem's `detail`: it says what is wrong with a request without sending the request back.
pub const PROBLEM_DETAIL_CHARS_MAX: usize = 2_000;
/// Nodes that a cluster is created with: a majority of more is slower, and hardly more available.
pub const CLUSTER_NODES_MAX: u32 = 9;
/// The largest clock difference that can be configured: clocks that are a minute apart are simply wrong.
pub const CLOCK_SKEW_MS_MAX: u64 = 60_000;
/// A host name, with the limit of DNS.
pub const HOST_NAME_BYTES_MAX: usize = 253;
/// Times that clients wait for in a partition: one for each [`TICK_STEP`] until [`DEADLINE_MAX`], more during a stall.
pub const TIMES_WANTED_MAX: usize = 4096;
/// Expired submissions of a partition whose senders wait to hear that this is certain. For more than these, the answer
/// is that the outcome is unknown.
pub const EXPIRED_WAITING_MAX: usize = 65_536;
/// For how long a leader's statement about the time of its journal counts. After that it is asked again.
pub const JOURNAL_TIME_FRESH: Duration = Duration::from_secs(3);
/// A journal that is this far ahead of the clock is reported. Less is the usual difference between clocks.
pub const JOURNAL_AHEAD_SAID: Duration = Duration::from_secs(5);
/// A wall clock that moves further than this against the monotonic clock has jumped. NTP corrects far less at once.
pub const CLOCK_LEAP_MAX: Duration = Duration::from_secs(1);
/// How long a jump must last on the clocks of a majority before it counts: most mistakes are undone by then.
pub const CLOCK_LEAP_STANDS: Duration = Duration::from_secs(60);
/// Waiting times this close to each other share a tick, or any client that may read could fill the log with ticks.
pub const TICK_STEP: Duration = Duration::from_millis(25);
/// Commands under way that were sent with `Prefer: respond-async`: as many as may be waited for.
pub const UNATTENDED_MAX: usize = HTTP_REQUESTS_MAX;
/// HTTP connections open at the same time: each costs some 20 KiB and a file descriptor. Configurable.
pub const HTTP_CONNECTIONS_MAX: usize = 10_000;
/// File descriptors that clients' connections never take, a quarter of all within these bounds. Logs, stores, snapshots
/// and other nodes need more at any moment, and a partition without one stops.
pub const DESCRIPTORS_KEPT_MIN: usize = 64;
pub const DESCRIPTORS_KEPT_MAX: usize = 1024;
/// How often the descriptors that other parts use are counted.
pub const DESCRIPTORS_LOOK: Duration = Duration::from_secs(1);
/// Idle connections that are closed after one look at all of them: a look costs as much as closing so many.
pub const CONNECTIONS_SHED_AT_ONCE: usize = 64;
/// The percentage of places for connections, requests, batches and readers that one caller, or one address, may take,
/// so that others have some. Configurable, since all clients of one proxy have one address.
pub const SHARE_PERCENT_MAX: usize = 75;
/// HTTP requests that are answered at the same time: each holds at most its body. Configurable.
pub const HTTP_REQUESTS_MAX: usize = 8192;
/// Concurrent streams of one HTTP/2 connection.
pub const HTTP_STREAMS_MAX: u32 = 256;
/// A connection that neither begins nor finishes a request for this long is closed: slow headers, idle clients.
pub const HTTP_IDLE_MAX: Duration = Duration::from_secs(60);
/// A TLS handshake, and the answer to a refused client: some round trips of a slow link. It takes a connection's place.
pub const HTTP_HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How often the log names a refused token or connection: strangers can cause as many of these lines as they like.
pub const REFUSAL_LINE_EVERY: Duration = Duration::from_secs(1);
/// Characters of the path in such a line.
pub const REFUSED_PATH_CHARS_MAX: usize = 200;
/// The request line and all headers of one request, and what is buffered of its body at a time.
pub const HTTP_HEADERS_BYTES_MAX: usize = 64 << 10;
/// How long requests under way may take after the signal to stop.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(35);
/// Bytes of large bodies (batches, modules) that are read at the same time: four times what batches under way hold.
pub const BODIES_BYTES_MAX: usize = 512 << 20;
/// Room for such a body is taken in steps of this size, as its bytes arrive.
pub const BODY_ROOM_BYTES: usize = 64 << 10;
/// The process ends this long after the signal to stop, in any case: what is acknowledged is durable.
pub const STOP_MAX: Duration = Duration::from_secs(50);
/// Entries that a replica may lack to count as ready for the first time after it was opened.
pub const READY_LAG_MAX: u64 = 256;
/// The same later on: a burst must not make a node that keeps up not ready.
pub const READY_LAG_LEVEL_MAX: u64 = 16_384;
/// A background task that panicked is started again after this time.
pub const TASK_AGAIN: Duration = Duration::from_secs(1);
/// Once it has run for this long, the task counts as running, and the node as ready.
pub const TASK_SETTLED: Duration = Duration::from_secs(10);
/// A partition that is closed may finish its work for this long. Then everything that it waits for is ended.
pub const PARTITION_CLOSE_GRACE: Duration = Duration::from_secs(2);
/// After this time the partition is abandoned: its disk hangs, and the next start reads what is durable.
pub const PARTITION_CLOSE_MAX: Duration = Duration::from_secs(6);
/// The part of [`STOP_MAX`] that is left to log that the time is over.
pub const STOP_LAST_WORD: Duration = Duration::from_millis(200);
/// How long threads that compile, read or replay may take to end after everything else has ended.
pub const STOP_THREADS_MAX: Duration = Duration::from_secs(2);
/// Batches under way at the same time: each may hold its 8 MiB body, and as much again as values.
pub const HTTP_BATCHES_MAX: usize = 16;
/// Items of one page of a history.
pub const PAGE_ITEMS_MAX: u32 = 1000;
pub const PAGE_ITEMS_DEFAULT: u32 = 100;
/// The parts in which a file is uploaded to an object store, which takes none below 5 MiB.
pub const ARCHIVE_PART_BYTES: usize = 8 << 20;
/// How long a replica that may lag a little is waited for, before its leader is asked how far the journal goes.
pub const REPLICA_LAG_USUAL: Duration = Duration::from_millis(250);
/// S3-like stores copy no object larger than this in one request, and renaming is copying.
pub const ARCHIVE_COPY_BYTES_MAX: u64 = 5 << 30;
/// How long an archive may take to answer before an upload begins again.
pub const ARCHIVE_PATIENCE: Duration = Duration::from_secs(60);
/// Replays that a node keeps with their reports: some megabytes each.
pub const REPLAY_JOBS_MAX: usize = 32;
/// Starts of a node that continue the same replay: a replay that ends the process must not do so for ever.
pub const REPLAY_RESUMES_MAX: u32 = 8;
/// Bytes of entries that one tail of a partition reads ahead: reading then costs little, and a thousand tails fit.
pub const TAIL_READ_BYTES: usize = 1 << 20;
/// The same as a number of entries: the log is locked while they are looked up.
pub const TAIL_READ_ENTRIES: u64 = 256;
/// Readers of event streams at the same time: each costs a connection and the data on its way. Configurable.
pub const EVENT_READERS_MAX: usize = 4096;
/// Bytes that are rendered at once for a reader of events, plus one event. Three such pieces may be on their way.
pub const EVENT_PIECE_BYTES: usize = 64 << 10;
/// A reader of events that takes nothing for this long is disconnected, with a cursor to continue from. Configurable.
pub const EVENT_PATIENCE: Duration = Duration::from_secs(30);
/// The heartbeat of an event stream: shorter than what proxies take for a dead connection. Configurable.
pub const EVENT_HEARTBEAT: Duration = Duration::from_secs(15);
/// Bytes of rendered entries that the readers of a machine's events share.
pub const EVENT_FEED_BYTES_MAX: usize = 64 << 20;
/// Readers of a machine's events that read old entries from the log at the same time; the others wait.
pub const EVENT_READERS_BEHIND_MAX: usize = 4;
/// Reads of the past (`?at=`) of one machine that replay the journal at the same time, where no view answers. Each
/// holds all rows of a partition, or of all partitions, in memory. The others wait.
pub const REWINDS_MAX: usize = 2;
/// How much time of a journal goes into one request of a webhook with `--batch`: short enough that nobody notices, long
/// enough for a distant receiver to keep up. A tick ends it if nothing follows, so a shorter time costs log.
pub const WEBHOOK_BATCH_WINDOW: Duration = Duration::from_millis(100);
/// The body of one request of a webhook, plus one event. Many receivers take a megabyte, some take less.
pub const WEBHOOK_BODY_BYTES: usize = 256 << 10;
/// Requests of a webhook at the same time, one for each partition: enough, but no load test of the receiver.
pub const WEBHOOK_REQUESTS_MAX: usize = 16;
/// How long a receiver may take to answer. Standard Webhooks recommends 15 to 30 seconds.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(15);
/// What is read of a receiver's answer so that its connection can be used again. Nobody is shown it.
pub const WEBHOOK_ANSWER_BYTES_MAX: usize = 16 << 10;
/// The pause before the first retry of a message: a receiver restarts. It doubles with each retry, with jitter.
pub const WEBHOOK_RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest pause between two attempts, and the longest `Retry-After` that is followed: when a receiver is repaired,
/// messages arrive within the hour.
pub const WEBHOOK_RETRY_MAX: Duration = Duration::from_secs(3600);
/// How long a message is tried before it becomes a dead letter: a long weekend. Configurable.
pub const WEBHOOK_RETRY_FOR: Duration = Duration::from_secs(3 * 86_400);
/// The longest such time that can be configured.
pub const WEBHOOK_RETRY_SECONDS_MAX: u64 = 30 * 86_400;
/// How often a webhook's progress is recorded: each record is an entry of `system`, for ever. What was sent since then
/// is sent again when the node is killed.
pub const WEBHOOK_RECORD_EVERY: Duration = Duration::from_secs(2);
/// The same if nothing was delivered, because the webhook's filter shows none of it.
pub const WEBHOOK_RECORD_PASSED_EVERY: Duration = Duration::from_secs(60);
/// A webhook's secret, with the limits of Standard Webhooks.
pub const WEBHOOK_SECRET_BYTES_MIN: usize = 24;
pub const WEBHOOK_SECRET_BYTES_MAX: usize = 64;
/// Files of one snapshot: with 64 MiB each, that is a state of terabytes.
pub const SNAPSHOT_FILES_MAX: usize = 65_536;
/// One piece of a snapshot's file on its way to another node.
pub const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;
/// How often a leader checks whether its clock has passed midnight, besides at that moment: clocks jump.
pub const MIDNIGHT_LOOK: Duration = Duration::from_secs(2);
/// Midnight snapshots of a partition that a node lists to another node: eleven years.
pub const MIDNIGHTS_NAMED_MAX: usize = 4096;
/// A node that sends a midnight snapshot more slowly counts as one that does not send it.
pub const MIDNIGHT_BYTES_A_SECOND_MIN: u64 = 64 << 10;
/// Canonical snapshots of a partition that were requested and are not made yet. They are made one after another, and
/// each keeps a state on the disk until then. Those of midnights are not counted.
pub const SNAPSHOTS_ASKED_MAX: usize = 8;
/// The least journal between two canonical snapshots that can be configured: with less, a partition does little else.
pub const SNAPSHOT_EVERY_BYTES_MIN: u64 = 1 << 20;
/// A log may grow to so many times its configured length for lagging views without an archive: enough for a new view,
/// and a stuck view does not fill the disk. It may always grow to the second number, more than a running view lags.
pub const LOG_FOLLOWED_FACTOR: u64 = 4;
pub const LOG_FOLLOWED_BYTES_MIN: u64 = 256 << 20;
/// The least log that can be configured to be kept: releasing less than some segments is not worth a snapshot.
pub const LOG_KEEP_BYTES_MIN: u64 = 1 << 20;
/// Bytes a second that scrubbing reads: 100 GB in some 3.5 hours, a small part of what any disk delivers.
pub const SCRUB_BYTES_PER_SECOND: u64 = 8 << 20;
/// The least time between the beginnings of two scrubbing rounds: disks do not lose data faster than that.
pub const SCRUB_ROUND_MIN: Duration = Duration::from_secs(3600);
/// Clean rows that a partition's hot table keeps in memory; beyond it they are evicted.
pub const HOT_TABLE_BYTES_MAX: usize = 512 << 20;
/// Rows that are not yet written to the store, for each partition. Beyond it the executor waits for the writer.
pub const DIRTY_BYTES_MAX: usize = 256 << 20;
/// The most log that a restart replays because the store had not written its rows yet.
pub const REPLAY_BYTES_MAX: u64 = 128 << 20;
/// How far a message's term may be ahead of a replica's own. There are a few elections a second at most, so no absence
/// is that long; and a term near the highest number would leave none for later elections.
pub const TERM_LEAP_MAX: u64 = 1 << 32;
/// The last index of an entry: a million entries a second reach it after 146,000 years, and larger numbers exist.
pub const LOG_INDEX_MAX: LogIndex = LogIndex(1 << 62);
/// One message between nodes: an entry that is sent alone, and what is around it. Several entries are fewer bytes.
pub const PEER_MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Unread bytes of one stream between nodes: what a fast network holds, so that an append never waits for credit.
pub const PEER_STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// The same for all streams of a connection: several full streams must not delay a vote or a heartbeat.
pub const PEER_CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Streams of one connection between nodes: an append stream for each group, and calls that wait for their commit.
pub const PEER_STREAMS_MAX: u32 = 8192;
/// Requests that a peer cancelled before this node read them. Beyond it, the connection counts as an attack and is
/// closed. An election cancels one for each group at the same moment.
pub const PEER_GIVEN_UP_MAX: usize = 4096;
/// The text of an error that is sent to a peer: it is in a header.
pub const PEER_DETAIL_BYTES_MAX: usize = 2 << 10;
/// How long connecting to a peer may take: a slower connection is no use for heartbeats.
pub const PEER_CONNECT_MAX: Duration = Duration::from_secs(1);
/// How often a connection between nodes is probed, also if nothing else is sent on it.
pub const PEER_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A probe that is unanswered for this long ends the connection and all calls that wait on it.
pub const PEER_PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// Connections of other nodes to this one, with room for new ones while old ones end. One more replaces the oldest on
/// which no node has identified itself.
pub const PEER_CONNECTIONS_MAX: usize = 256;
/// A connection on which no node has identified itself for this long is closed: nodes do so at once.
pub const PEER_UNKNOWN_MAX: Duration = Duration::from_secs(5);
/// A connection on which nothing arrives for this long is closed: nodes answer probes, see [`PEER_PROBE_INTERVAL`].
pub const PEER_IDLE_MAX: Duration = Duration::from_secs(10);
/// The pause before accepting a connection again after that failed, perhaps for lack of descriptors.
pub const PEER_ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// How long connections of peers may take to close after the signal to stop.
pub const PEER_STOP_MAX: Duration = Duration::from_secs(2);
/// Entries of a partition that may follow what a certificate covers: clients do not stop while a proof is made.
pub const PROOF_ENTRIES_SINCE_MAX: u64 = 100_000;

const _: () = {
    assert!(OPS_BLOCK_BYTES_MAX + OUTCOME_BYTES_MAX + BATCH_BODY_BYTES_MAX <= ENTRY_BYTES_MAX);
    assert!(DEADLINE_MAX.as_secs() < SHUTDOWN_MAX.as_secs());
    assert!(SHUTDOWN_MAX.as_secs() + PARTITION_CLOSE_MAX.as_secs() + STOP_THREADS_MAX.as_secs() < STOP_MAX.as_secs());
    assert!(PARTITION_CLOSE_GRACE.as_secs() < PARTITION_CLOSE_MAX.as_secs());
    assert!(PEER_PROBE_INTERVAL.as_secs() + PEER_PROBE_PATIENCE.as_secs() < PEER_IDLE_MAX.as_secs());
    assert!(PEER_UNKNOWN_MAX.as_secs() <= PEER_IDLE_MAX.as_secs());
    assert!(ENTRY_BYTES_MAX < PEER_MESSAGE_BYTES_MAX);
    assert!(BATCH_BODY_BYTES_MAX < PEER_MESSAGE_BYTES_MAX);
    assert!(PEER_STREAM_WINDOW_BYTES < PEER_CONNECTION_WINDOW_BYTES);
    assert!(BATCH_BODY_BYTES_MAX <= GUEST_INPUT_BYTES_MAX);
};
