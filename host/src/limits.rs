//! Every bound of the host in one place, each with its reason. Nothing grows past a number named here.
//!
//! The bounds that decide history are the machine's (`machine/limits.rs`), and can be named here as well. It knows
//! nothing of what happens beyond a limit: the caller turns that into a clear 4xx, 503 or 507.

mod log;

use std::time::Duration;

pub use self::log::*;
use crate::ids::LogIndex;
pub use crate::machine::limits::*;

/// A JSON body of one command or one query: far above any honest command, small enough to buffer per connection.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// The body of a batch: [`BATCH_COMMANDS_MAX`] commands of 1 KiB.
pub const BATCH_BODY_BYTES_MAX: usize = 8 << 20;
/// Rounds of one query.
pub const QUERY_ROUNDS_MAX: usize = 8;
/// Rows of one scan of a query.
pub const SCAN_ROWS_MAX: usize = 4096;
/// Decisions that a view is told of in one call: some hundred KiB of values, and far below what fits into a guest's memory.
pub const VIEW_BATCH_DECISIONS: usize = 512;
/// Rounds of such a call, until it has all the rows it wants; then it is halved.
pub const VIEW_ROUNDS_MAX: usize = 8;
/// A guest call of a request that takes longer than this on the runtime's own thread is the last one there for a while: it takes microseconds.
pub const GUEST_CALL_INLINE_MAX: Duration = Duration::from_millis(50);
/// How long the calls of such a module run on other threads.
pub const GUEST_CALLS_OFFLOADED_FOR: Duration = Duration::from_secs(60);
/// Of these so many at a time: the machines of a node share its instances.
pub const GUEST_CALLS_OFFLOADED_MAX: usize = 4;
/// Views of one machine: each of them reads everything once more on every node.
pub const VIEWS_MAX: usize = 16;
/// Wasm bytes of a module.
pub const MODULE_BYTES_MAX: usize = 4 << 20;
/// What a module says of itself: the longest of the released ones has 6 KiB.
pub const DESCRIBE_BYTES_MAX: usize = 256 << 10;
/// Commands, queries, rejections, events, invariants, accepted schemas, fields of an object and values of an enum, each: they are compared with
/// each other.
pub const DESCRIBE_ITEMS_MAX: usize = 1024;
/// A route of a module: a client's request line has room for it.
pub const DESCRIBE_PATH_BYTES_MAX: usize = 512;
/// Memory of a child that compiles a foreign module: the released ones take less than 100 MiB, and one of [`MODULE_BYTES_MAX`] some hundred.
pub const COMPILE_MEMORY_BYTES_MAX: u64 = 1 << 30;
/// CPU time of a child that compiles a foreign module: the released ones take 1.2 s for both engines on a slow machine.
pub const COMPILE_CPU_MAX: Duration = Duration::from_secs(10);
/// How long a child that compiles a foreign module may take on a machine that is busy with other things.
pub const COMPILE_WALL_MAX: Duration = Duration::from_secs(60);
/// How much a child that compiles stands back for this process, which has requests to answer.
pub const COMPILE_NICE: i32 = 10;
/// Machine code of a module for one engine, of which the released ones have 1 MiB.
pub const ARTEFACT_BYTES_MAX: usize = 64 << 20;
/// Machine code that a node keeps on its disk; the oldest is deleted first, and compiled again when it is needed.
pub const ARTEFACTS_BYTES_MAX: u64 = 1 << 30;
/// Distance between the first and the last byte of a module's initial memory up to which all of it is laid ready as an image, however much of
/// it is empty; beyond, only where half of it is not.
pub const IMAGE_BYTES_MAX: u64 = 1 << 20;
/// How often a limit may be met in compiling a module that is recorded, before it counts.
pub const RECORDED_MODULE_TRIES: u32 = 3;
/// Modules that a node has in memory and nobody uses: some megabytes each. They are loaded from the disk in milliseconds.
pub const MODULES_LOADED_MAX: usize = 16;
/// The newest modules that a node has refused and `system` does not name, with the reason.
pub const MODULES_REFUSED_MAX: usize = 64;
/// Rows of `system` with refused modules, and how many each names: a thousand in all, and each row is written within a millisecond.
pub const REFUSED_ROWS: usize = 32;
pub const REFUSED_ROW_ENTRIES_MAX: usize = 32;
/// How many refusals a node has recorded in a minute: nobody fills the log of `system` with modules that are none.
pub const REFUSALS_PER_MINUTE_MAX: u32 = 30;
/// Of the reason of a refusal, as it is recorded.
pub const REFUSED_REASON_CHARS_MAX: usize = 300;
/// The same, of the name of who brought the module.
pub const REFUSED_BY_CHARS_MAX: usize = 128;
/// Operators' words about lost entries that `system` names; its journal has all of them.
pub const LOSSES_ROW_ENTRIES_MAX: usize = 12;
/// Of each text of such a word, as it is recorded.
pub const LOSS_TEXT_CHARS_MAX: usize = 400;
/// How many times the limits for foreign modules one has that is recorded: it was within them once, on some machine.
pub const RECORDED_MODULE_FACTOR: u64 = 10;
/// Fuel of a guest that trapped for saying why: for a text that is there already. One that takes longer says nothing.
pub const LAST_WORDS_FUEL: u64 = 1_000_000;
/// Budget of one call on the second engine, in its own unit: more than any call on the first one may take, and still an end.
pub const SECOND_ENGINE_FUEL: u64 = 2 * GUEST_FUEL_MAX;
/// Budget of describing itself on the second engine: twice what the first one gives, for each has a unit of its own.
pub const DESCRIBE_FUEL: u64 = 2 * GUEST_FUEL_BASE;
/// Calls within calls on the second engine: more than the first one's stack has room for.
pub const SECOND_ENGINE_FRAMES_MAX: usize = GUEST_STACK_BYTES_MAX / 16;
/// After this long the watchdog stops a call of the fast artefact; the metered one then finds the culprit.
pub const GUEST_WATCHDOG: Duration = Duration::from_secs(2);
/// A module on trial whose single commands use up their budget so often is given up: some seconds of work that comes to nothing.
pub const TRIAL_STRIKES_MAX: u64 = 256;
/// What counts as so many of these: a call that the watchdog stops has taken as long.
pub const TRIAL_STRIKES_OF_WATCHDOG: u64 = 64;
/// What counts as one of these: so many bytes of answers beyond what their calls are owed.
pub const TRIAL_ANSWER_BYTES_PER_STRIKE: u64 = 256 << 10;
/// Bytes of an answer that its call is owed, and as many again for each command in it.
pub const TRIAL_ANSWER_BYTES_OWED: u64 = 64 << 10;
/// Time that a call is owed, and as much again for each command in it: more than its budget can take.
pub const TRIAL_TIME_OWED: Duration = Duration::from_millis(50);
/// What each of these counts for on the second engine, which takes so many times as long.
pub const TRIAL_STRIKES_FACTOR_SLOW: u64 = 16;
/// Calls that make good for one of them: a machine that stands still for a moment in a replay of hours says nothing of the module.
pub const TRIAL_CALLS_PER_STRIKE: u64 = 16;
/// Renderings of a module on trial that the watchdog stops before the others are not tried.
pub const TRIAL_RENDERS_MAX: u64 = 2;
/// A trial or a replay that is told to stop has this long to come to a place where it can be gone on with.
pub const TRIAL_STOP_GRACE: Duration = Duration::from_millis(500);
/// Starts of a node that prepare the same module: one that ends the process must not do so for ever.
pub const PREPARE_ATTEMPTS_MAX: u32 = 3;
/// Text of a guest's panic that is kept.
pub const PANIC_TEXT_BYTES_MAX: usize = 4 << 10;
/// Rows that a shadow holds per partition before it begins again from newer ones.
pub const SHADOW_BYTES_MAX: usize = 32 << 20;
/// How long a shadow keeps the state of one moment from being cleared away.
pub const SHADOW_VIEW_AGE_MAX: Duration = Duration::from_secs(300);
/// A file of guests' last words, per partition; there are two of them.
pub const PANICS_FILE_BYTES_MAX: u64 = 1 << 20;
/// Characters of a guest's last words, and of a frame of its backtrace.
pub const PANIC_CHARS_MAX: usize = 2_000;
/// Frames of a guest's backtrace: what is below them has called what trapped.
pub const PANIC_FRAMES_MAX: usize = 32;
/// The newest of a guest's last words that are kept in memory, per partition.
pub const PANICS_KEPT_MAX: usize = 1024;
/// Rows of `@local` that are rendered at once for the metric of what is on its way between partitions: more would take the guest too long.
/// Where there are more, they are added up beside the partition, not in its way.
pub const LOCAL_ROWS_SHOWN_MAX: usize = 4096;
/// All that are added up: some seconds of one thread, every ten seconds. Beyond it the metric stands still, and the log says so.
pub const LOCAL_ROWS_COUNTED_MAX: usize = 1 << 20;
/// Bytes of submissions that wait in one partition's queue.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Recorded entries in memory for clients that send an id again, per partition. The newest of them are the bytes of the log's own tail.
pub const RECORDED_BYTES_MAX: usize = 64 << 20;
/// Ids sent again that wait until their entries are read, per partition: all batches that may be under way hold no more.
pub const RECALLS_MAX: usize = HTTP_BATCHES_MAX * BATCH_COMMANDS_MAX;
/// Entries that are read at once for those who wait: a client that has gone meanwhile has cost no more than that.
pub const RECALL_ENTRIES: usize = 256;
/// The same in bytes, and one entry more.
pub const RECALL_BYTES: usize = 8 << 20;
/// Entries proposed and not yet applied, per partition.
pub const SPECULATION_ENTRIES_MAX: usize = 8;
/// Proposed entries above which a short queue waits to grow: small batches cost an fsync each.
pub const SPECULATION_TRICKLE_MAX: usize = 2;
/// A queue of this many commands is proposed at once.
pub const BATCH_COMMANDS_WORTH_A_WAIT: usize = 512;
/// How often a leader with a queue that stands still looks whether a majority still answers it.
pub const QUEUE_LOOK: Duration = Duration::from_millis(250);
/// Outcomes of calls that one entry records: the end of a command carries all its events and phases, about a kilobyte.
pub const PROGRESS_PER_ENTRY_MAX: usize = 2_048;
/// Orders about commands in flight that wait in a partition: an operator's program gives one after the other.
pub const ORDERS_WAITING_MAX: usize = 64;
/// Why an operator gave an order: a sentence or two, recorded for ever.
pub const ORDER_WHY_CHARS_MAX: u32 = 500;
/// A command that has been in flight for longer is named in the log, and again after as long.
pub const STUCK_REPORT_EVERY: Duration = Duration::from_secs(60);
/// Commands named in one such report; of more only the number is said.
pub const STUCK_LINES_MAX: usize = 32;
/// A call from another partition that carries a time further ahead of this node's clock is counted and named in the log: a clock was wrong where it
/// was recorded, and its time becomes this partition's. Nodes below [`crate::features::TIMELINES`] put it off.
pub const CARRIED_AHEAD_MAX: Duration = Duration::from_secs(30);
/// Recorded rejections per caller and second, in a partition: a rejection costs log for ever, some 300 bytes on each node.
pub const REJECTIONS_PER_CALLER_PER_SECOND_MAX: u32 = 25_000;
/// The same of all callers together.
pub const REJECTIONS_PER_SECOND_MAX: u32 = 100_000;
/// The same of one address, on the node that it asks: whoever has several tokens, or none, has one address.
pub const REJECTIONS_PER_ADDRESS_PER_SECOND_MAX: u32 = 25_000;
/// Deadline of a request that names none.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);
/// The longest deadline a request may name.
pub const DEADLINE_MAX: Duration = Duration::from_secs(30);
/// What is read of a body that is too large before the connection may close, so that its client gets to read why: two batches.
pub const HTTP_DISCARD_BYTES_MAX: usize = 2 * BATCH_BODY_BYTES_MAX;
/// Characters of the host's own words in a problem: what is wrong with a request is said without sending the request back.
pub const PROBLEM_DETAIL_CHARS_MAX: usize = 2_000;
/// Nodes that a cluster is founded with: a majority of more is slower and hardly more often there.
pub const CLUSTER_NODES_MAX: u32 = 9;
/// How far apart the clocks of nodes may be configured to be: beyond a minute they are simply wrong.
pub const CLOCK_SKEW_MS_MAX: u64 = 60_000;
/// A host name, as DNS bounds it.
pub const HOST_NAME_BYTES_MAX: usize = 253;
/// Times that somebody waits for a partition to pass: one for each [`TICK_STEP`] until [`DEADLINE_MAX`], and more while it stands still.
pub const TIMES_WANTED_MAX: usize = 4096;
/// Submissions that expired in a partition, and whose senders are told so once that is certain; of more it is said that the outcome is not known.
pub const EXPIRED_WAITING_MAX: usize = 65_536;
/// For how long it counts what a leader has said of the time in its journal; after that it is asked.
pub const JOURNAL_TIME_FRESH: Duration = Duration::from_secs(3);
/// A journal that is so far ahead of the clock is spoken of; less is what clocks of nodes differ by, and is caught up in a moment.
pub const JOURNAL_AHEAD_SAID: Duration = Duration::from_secs(5);
/// A wall clock that moves further than this from where the clock that only runs puts it has leapt. What NTP corrects is far less.
pub const CLOCK_LEAP_MAX: Duration = Duration::from_secs(1);
/// How long a leap must have stood on the clocks of a majority before it counts: an error that somebody sees and undoes is over by then.
pub const CLOCK_LEAP_STANDS: Duration = Duration::from_secs(60);
/// Those who wait for times this close to each other share a tick. Else any client that may read could fill the log with ticks.
pub const TICK_STEP: Duration = Duration::from_millis(25);
/// Commands under way that nobody waits for (`Prefer: respond-async`): as many as may be waited for.
pub const UNATTENDED_MAX: usize = HTTP_REQUESTS_MAX;
/// HTTP connections open at the same time: each costs some 20 KiB and a file descriptor. Configurable.
pub const HTTP_CONNECTIONS_MAX: usize = 10_000;
/// File descriptors that connections of clients never take, a quarter of all within these bounds: logs, stores, snapshots and the other
/// nodes need more of them at any moment, and a partition without one stands still.
pub const DESCRIPTORS_KEPT_MIN: usize = 64;
pub const DESCRIPTORS_KEPT_MAX: usize = 1024;
/// How often it is counted what else has descriptors.
pub const DESCRIPTORS_LOOK: Duration = Duration::from_secs(1);
/// Idle connections that are chosen at one look at all of them: a look costs as much as shedding so many.
pub const CONNECTIONS_SHED_AT_ONCE: usize = 64;
/// What one caller, or one address, may have of the places for connections, requests, batches and readers, in a hundred: whoever takes all
/// leaves the others out. Configurable, for everybody behind one proxy has one address.
pub const SHARE_PERCENT_MAX: usize = 75;
/// HTTP requests being answered at the same time: each holds at most its body. Configurable.
pub const HTTP_REQUESTS_MAX: usize = 8192;
/// Concurrent streams of one HTTP/2 connection.
pub const HTTP_STREAMS_MAX: u32 = 256;
/// A connection that has neither begun nor finished a request for this long is closed: slow headers, idle clients.
pub const HTTP_IDLE_MAX: Duration = Duration::from_secs(60);
/// A TLS handshake, and what is said to a client that is not let in: some round trips of a slow link. The connection has its place meanwhile.
pub const HTTP_HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How often the log says that a token or a connection was refused: strangers can cause as many of these lines as they like.
pub const REFUSAL_LINE_EVERY: Duration = Duration::from_secs(1);
/// Of the path in such a line.
pub const REFUSED_PATH_CHARS_MAX: usize = 200;
/// The request line and all headers of one request, and what is buffered of its body at a time.
pub const HTTP_HEADERS_BYTES_MAX: usize = 64 << 10;
/// After the signal to stop, requests under way have this long.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(35);
/// Bytes of bodies of megabytes, as of batches and modules, that are being read at the same time: four times what batches under way hold.
pub const BODIES_BYTES_MAX: usize = 512 << 20;
/// In such steps room is taken for them, as their bytes come.
pub const BODY_ROOM_BYTES: usize = 64 << 10;
/// After the signal to stop, the process ends whatever it does: requests have had their time, and what is durable is.
pub const STOP_MAX: Duration = Duration::from_secs(50);
/// Entries of its leader that a replica may lack and count as ready for the first time since it was opened.
pub const READY_LAG_MAX: u64 = 256;
/// The same from then on: a burst does not make a node that keeps up not ready.
pub const READY_LAG_LEVEL_MAX: u64 = 16_384;
/// A background task that panicked is started again after this long.
pub const TASK_AGAIN: Duration = Duration::from_secs(1);
/// Once it has run for this long it counts as well, and the node as ready.
pub const TASK_SETTLED: Duration = Duration::from_secs(10);
/// A partition that is closed may go on for this long with what it has in hand; then whatever it waits for ends.
pub const PARTITION_CLOSE_GRACE: Duration = Duration::from_secs(2);
/// After this long it is left behind: its disk hangs, and what is durable is read at the next start.
pub const PARTITION_CLOSE_MAX: Duration = Duration::from_secs(6);
/// Of that, the time to say so.
pub const STOP_LAST_WORD: Duration = Duration::from_millis(200);
/// How long threads that compile, read or replay may take to end after everything else has.
pub const STOP_THREADS_MAX: Duration = Duration::from_secs(2);
/// Batches under way at the same time: each may hold its 8 MiB body and as much again as values.
pub const HTTP_BATCHES_MAX: usize = 16;
/// Items of one page of a history.
pub const PAGE_ITEMS_MAX: u32 = 1000;
pub const PAGE_ITEMS_DEFAULT: u32 = 100;
/// First segment of a log; segments double up to [`SEGMENT_BYTES_MAX`].
pub const SEGMENT_BYTES_MIN: u64 = 4 << 20;
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Parts in which a file goes to an object store, which takes none below 5 MiB.
pub const ARCHIVE_PART_BYTES: usize = 8 << 20;
/// How long a replica is waited for that may only be a little behind, before its leader is asked how far the journal goes at all.
pub const REPLICA_LAG_USUAL: Duration = Duration::from_millis(250);
/// `journal.json` of an archive, and the manifest of a canonical snapshot: a quarter of a million segments.
pub const ARCHIVE_MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// Stores of the S3 kind copy no object larger than that in one request, and renaming is copying.
pub const ARCHIVE_COPY_BYTES_MAX: u64 = 5 << 30;
/// How long an archive may take to answer before an upload is begun anew.
pub const ARCHIVE_PATIENCE: Duration = Duration::from_secs(60);
/// What a journal segment is cut to on average: some minutes of a busy partition, and a size that object stores like.
pub const JOURNAL_SEGMENT_BYTES: u64 = 16 << 20;
/// Journal that a replay decides again between two savings of how far it is: some seconds.
pub const REPLAY_SAVE_BYTES: u64 = 64 << 20;
/// Replays that a node keeps, with their reports: some megabytes each.
pub const REPLAY_JOBS_MAX: usize = 32;
/// Starts of a node that go on with the same replay: one that ends the process must not do so for ever.
pub const REPLAY_RESUMES_MAX: u32 = 8;
/// Entries that one tail of a partition has read ahead: enough that reading costs little, and a thousand tails still fit into memory.
pub const TAIL_READ_BYTES: usize = 1 << 20;
/// The same in number: the log is locked while they are looked up.
pub const TAIL_READ_ENTRIES: u64 = 256;
/// Readers of event streams at the same time: each costs its connection and what is on its way to it. Configurable.
pub const EVENT_READERS_MAX: usize = 4096;
/// What is made at once for one reader of an event stream, and one event more. Three such pieces may be on their way.
pub const EVENT_PIECE_BYTES: usize = 64 << 10;
/// A reader of an event stream that takes nothing for this long is dropped, with a cursor to go on from. Configurable.
pub const EVENT_PATIENCE: Duration = Duration::from_secs(30);
/// A stream without events has a sign of life this often: below what proxies take for a dead connection. Configurable.
pub const EVENT_HEARTBEAT: Duration = Duration::from_secs(15);
/// Rendered entries that the readers of a machine's events share.
pub const EVENT_FEED_BYTES_MAX: usize = 64 << 20;
/// Readers of a machine's events that read long past entries from the log at the same time: the others wait for their turn.
pub const EVENT_READERS_BEHIND_MAX: usize = 4;
/// Reads of the past (`?at=`) of one machine that replay the journal at the same time, where no view answers: each has all rows of a partition in
/// memory, or of all partitions. The others wait for their turn.
pub const REWINDS_MAX: usize = 2;
/// Webhooks of one machine: each of them reads everything once more on the node that delivers.
pub const WEBHOOKS_MAX: usize = 16;
/// Partitions that one webhook follows: its place in all of them is one row of `system`.
pub const WEBHOOK_PARTITIONS_MAX: u32 = 512;
/// What a webhook's URL, keys and types may take of that row.
pub const WEBHOOK_URL_CHARS_MAX: u32 = 2048;
pub const WEBHOOK_KEYS_MAX: u32 = 64;
pub const WEBHOOK_KINDS_MAX: u32 = 32;
/// Text of what keeps a webhook: enough for an address and an error of the system.
pub const WEBHOOK_PROBLEM_CHARS_MAX: u32 = 120;
/// Messages of a webhook that were given up; it is paused rather than to give up more of them.
pub const WEBHOOK_DEAD_MAX: usize = 50;
/// Events of one request of a webhook, where it wants several: a body that any receiver takes.
pub const WEBHOOK_BATCH_MAX: u32 = 1000;
/// By the journal's time, how much goes into one request of a webhook that wants several events: what a receiver far away needs to keep up, and
/// nobody notices. Where nothing follows, a tick ends it, so a shorter one costs log.
pub const WEBHOOK_BATCH_WINDOW: Duration = Duration::from_millis(100);
/// Body of one request of a webhook, and one event more. Many receivers take a megabyte, some less.
pub const WEBHOOK_BODY_BYTES: usize = 256 << 10;
/// Requests of a webhook that are under way at the same time: one for each partition, but a receiver is no load test.
pub const WEBHOOK_REQUESTS_MAX: usize = 16;
/// How long a receiver may take to answer. Standard Webhooks recommends 15 to 30 seconds.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(15);
/// What is read of a receiver's answer so that its connection can be used again: nobody is shown it.
pub const WEBHOOK_ANSWER_BYTES_MAX: usize = 16 << 10;
/// How soon a message that was not taken is sent again, for the first time: a restarting receiver. Doubled from then on, with jitter.
pub const WEBHOOK_RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest pause between two attempts: somebody who has repaired a receiver does not wait for half a day. Also the longest
/// `Retry-After` that is followed.
pub const WEBHOOK_RETRY_MAX: Duration = Duration::from_secs(3600);
/// How long a message is tried: a long weekend. Configurable.
pub const WEBHOOK_RETRY_FOR: Duration = Duration::from_secs(3 * 86_400);
/// The longest such time that may be configured: behind it nobody comes back.
pub const WEBHOOK_RETRY_SECONDS_MAX: u64 = 30 * 86_400;
/// How often what a webhook has delivered is recorded: each time is an entry of `system`, for ever, and whatever was delivered since then is
/// delivered twice when its node is killed.
pub const WEBHOOK_RECORD_EVERY: Duration = Duration::from_secs(2);
/// The same where nothing was delivered, because a webhook's filter shows none of it.
pub const WEBHOOK_RECORD_PASSED_EVERY: Duration = Duration::from_secs(60);
/// A webhook's secret, as Standard Webhooks bounds it.
pub const WEBHOOK_SECRET_BYTES_MIN: usize = 24;
pub const WEBHOOK_SECRET_BYTES_MAX: usize = 64;
/// Files of one snapshot: 64 MiB each, that is a state of terabytes.
pub const SNAPSHOT_FILES_MAX: usize = 65_536;
/// One piece of a snapshot's file on its way to another node.
pub const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;
/// How often a leader looks whether its clock has passed midnight, besides the moment at which it should: clocks jump.
pub const MIDNIGHT_LOOK: Duration = Duration::from_secs(2);
/// Midnights of a partition that a node names to another one: eleven years.
pub const MIDNIGHTS_NAMED_MAX: usize = 4096;
/// A node that sends one more slowly than this is as good as one that does not.
pub const MIDNIGHT_BYTES_A_SECOND_MIN: u64 = 64 << 10;
/// Canonical snapshots of a partition that were asked for and are not made yet: they are made one after another, and until then each keeps a
/// state on the disk. Those that are due are not counted.
pub const SNAPSHOTS_ASKED_MAX: usize = 8;
/// Journal between two canonical snapshots that may be configured: fewer bytes and a partition does little else.
pub const SNAPSHOT_EVERY_BYTES_MIN: u64 = 1 << 20;
/// How many times as long as it is to be a log may become for views that have not followed it, where there is no archive they could read: a
/// view that is built anew has time for that, and one that is stuck does not fill the disk. The least that it may become: a view that goes on is
/// not so far behind.
pub const LOG_FOLLOWED_FACTOR: u64 = 4;
pub const LOG_FOLLOWED_BYTES_MIN: u64 = 256 << 20;
/// The least log that may be configured to be kept: releasing less than some segments is not worth a snapshot.
pub const LOG_KEEP_BYTES_MIN: u64 = 1 << 20;
/// Rows of a partition's hot table that are clean and may be evicted are kept up to this many bytes.
pub const HOT_TABLE_BYTES_MAX: usize = 512 << 20;
/// Rows not yet written to the store, per partition; beyond it the executor waits for the writer.
pub const DIRTY_BYTES_MAX: usize = 256 << 20;
/// Log that a restart replays at most because the store had not written its rows yet.
pub const REPLAY_BYTES_MAX: u64 = 128 << 20;
/// How far the term of a message may lie ahead of a replica's own. Elections come at most some times a second, so no absence is that long; and a
/// term near the last one there is would leave none to elect in.
pub const TERM_LEAP_MAX: u64 = 1 << 32;
/// The last index an entry may have: with a million entries a second it is reached after 146,000 years, and numbers after it still exist.
pub const LOG_INDEX_MAX: LogIndex = LogIndex(1 << 62);
/// One message between nodes: an entry that goes alone, with room for what is around it. Several entries of one append are fewer bytes.
pub const PEER_MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Bytes of one stream between nodes that may be under way unread: what a fast network holds, so that an append never waits for credit.
pub const PEER_STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// The same for all streams of a connection: several full ones must not keep a vote or a heartbeat waiting.
pub const PEER_CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Streams of one connection between nodes: an append stream per group, and calls that wait for their commit.
pub const PEER_STREAMS_MAX: u32 = 8192;
/// Requests that a peer gave up before this node looked at them; beyond it the connection counts as an attack and closes. An election
/// gives up one per group at the same moment.
pub const PEER_GIVEN_UP_MAX: usize = 4096;
/// Text of an error that goes to a peer: it travels in a header.
pub const PEER_DETAIL_BYTES_MAX: usize = 2 << 10;
/// A connection to a peer that takes longer than this is no use to a heartbeat.
pub const PEER_CONNECT_MAX: Duration = Duration::from_secs(1);
/// How often a connection between nodes is probed, also while nothing else goes over it.
pub const PEER_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A probe unanswered for this long ends the connection and all that waits on it.
pub const PEER_PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// Connections that other nodes have open here: one of each, and room for those that are made anew while the old ones have not ended. One
/// more takes the place of the oldest on which no node has said who it is.
pub const PEER_CONNECTIONS_MAX: usize = 256;
/// A connection on which no node has been admitted for so long is closed: nodes ask at once.
pub const PEER_UNKNOWN_MAX: Duration = Duration::from_secs(5);
/// A connection on which nothing comes for so long is closed: nodes answer probes, see [`PEER_PROBE_INTERVAL`].
pub const PEER_IDLE_MAX: Duration = Duration::from_secs(10);
/// Between two tries to take a connection where that fails, for want of descriptors maybe.
pub const PEER_ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// After the signal to stop, connections of peers have this long to close.
pub const PEER_STOP_MAX: Duration = Duration::from_secs(2);
/// Entries of a partition that may have come after what a certificate covers: clients do not stop while a proof is made.
pub const PROOF_ENTRIES_SINCE_MAX: u64 = 100_000;

/// What a module may be made of: compilers take more than linear time or memory for most of it. Beside each is the most that one of the released
/// modules has, which have 216 to 386 KB; one of [`MODULE_BYTES_MAX`] may have some ten times as much of what grows with its size.
pub mod structure {
    /// Released: 36.
    pub const TYPES_MAX: u64 = 2_000;
    /// Released: 504.
    pub const FUNCTIONS_MAX: u64 = 20_000;
    /// Released: 3.
    pub const GLOBALS_MAX: u64 = 1_000;
    /// Released: 13.
    pub const EXPORTS_MAX: u64 = 1_000;
    /// Data and elements together; released: 3.
    pub const SEGMENTS_MAX: u64 = 1_000;
    /// Of all functions together; released: 2,344.
    pub const LOCALS_MAX: u64 = 100_000;
    /// Of one function, parameters included; released: 59.
    pub const FUNCTION_LOCALS_MAX: u64 = 2_000;
    /// Parameters and results of one type; released: 16.
    pub const TYPE_VALUES_MAX: u64 = 64;
    /// Of one function; released: 39,533.
    pub const BODY_BYTES_MAX: u64 = 256 << 10;
    /// Of one `br_table`; released: 97.
    pub const BR_TABLE_TARGETS_MAX: u64 = 10_000;
    /// Blocks within each other; released: 58.
    pub const NESTING_MAX: u64 = 1_000;
    /// Locals times blocks of one function; released: 31,152.
    pub const BLOCK_LOCALS_MAX: u64 = 1_000_000;
}

const _: () = {
    assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_MAX);
    assert!(ENTRY_BYTES_MAX as u64 <= SEGMENT_BYTES_MAX / 2);
    assert!(OPS_BLOCK_BYTES_MAX + OUTCOME_BYTES_MAX + BATCH_BODY_BYTES_MAX <= ENTRY_BYTES_MAX);
    assert!(DEADLINE_MAX.as_secs() < SHUTDOWN_MAX.as_secs());
    assert!(SHUTDOWN_MAX.as_secs() + PARTITION_CLOSE_MAX.as_secs() + STOP_THREADS_MAX.as_secs() < STOP_MAX.as_secs());
    assert!(PARTITION_CLOSE_GRACE.as_secs() < PARTITION_CLOSE_MAX.as_secs());
    assert!(PEER_PROBE_INTERVAL.as_secs() + PEER_PROBE_PATIENCE.as_secs() < PEER_IDLE_MAX.as_secs());
    assert!(PEER_UNKNOWN_MAX.as_secs() <= PEER_IDLE_MAX.as_secs());
    assert!(ENTRY_BYTES_MAX < PEER_MESSAGE_BYTES_MAX);
    assert!(BATCH_BODY_BYTES_MAX < PEER_MESSAGE_BYTES_MAX);
    assert!(PEER_STREAM_WINDOW_BYTES < PEER_CONNECTION_WINDOW_BYTES);
    // A webhook's row: what it takes of each lane, key, type and dead letter at most, and the rest. Texts are UTF-8.
    let lanes = WEBHOOK_PARTITIONS_MAX as usize * 33;
    let filters = WEBHOOK_KEYS_MAX as usize * (4 + ENTITY_BYTES_MAX) + WEBHOOK_KINDS_MAX as usize * (4 + 128);
    let dead = WEBHOOK_DEAD_MAX * (64 + 4 * WEBHOOK_PROBLEM_CHARS_MAX as usize);
    assert!(lanes + filters + dead + WEBHOOK_URL_CHARS_MAX as usize + 2048 <= ROW_BYTES_MAX);
    assert!(BATCH_BODY_BYTES_MAX <= GUEST_INPUT_BYTES_MAX);
};
