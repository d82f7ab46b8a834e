//! The page about limits: the constants that concern a client, an author of a module or an operator, with their values.
//!
//! In: the constants of `limits.rs`. Out: Markdown. Constants that concern only the host are not on the page. It does
//! not know the reason of a limit.

use std::time::Duration;

use expect_test::expect_file;
use statehouse_node::limits::*;

use super::{MADE, wrap};

/// How a value is written.
trait ShownValue {
    fn shown(self, unit: Unit) -> String;
}

#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Count,
    Time,
}

impl ShownValue for u64 {
    fn shown(self, unit: Unit) -> String {
        match unit {
            Unit::Bytes => bytes(self),
            Unit::Count | Unit::Time => grouped(self),
        }
    }
}

impl ShownValue for u32 {
    fn shown(self, unit: Unit) -> String {
        u64::from(self).shown(unit)
    }
}

impl ShownValue for usize {
    fn shown(self, unit: Unit) -> String {
        (self as u64).shown(unit)
    }
}

impl ShownValue for Duration {
    fn shown(self, _: Unit) -> String {
        match self.as_millis() {
            millis if !millis.is_multiple_of(1000) => format!("{millis} ms"),
            millis if millis.is_multiple_of(86_400_000) => format!("{} days", millis / 86_400_000),
            millis if millis.is_multiple_of(3_600_000) => format!("{} h", millis / 3_600_000),
            millis => format!("{} s", grouped(u64::try_from(millis / 1000).expect("a time that ends"))),
        }
    }
}

fn bytes(number: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(bits, _)| number != 0 && number.is_multiple_of(1 << bits));
    unit.map_or_else(
        || format!("{} bytes", grouped(number)),
        |(bits, name)| format!("{} {name}", grouped(number >> bits)),
    )
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let parts: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    let parts: Vec<_> = parts.into_iter().map(String::from_utf8_lossy).collect();
    parts.join(",")
}

/// Name, value and text of each constant.
macro_rules! limits {
    ($($name:ident: $unit:ident = $words:literal;)*) => {
        vec![$((stringify!($name), $name.shown(Unit::$unit), $words)),*]
    };
}

const OPENING: &str = "Nothing in a node grows without a bound. These are the bounds that clients, authors of modules \
    and operators meet. `host/node/src/limits.rs` has all of them, with those of the crates that it names, each with \
    its reason. Only those that say *Configurable* can be changed.";

type Limits = Vec<(&'static str, String, &'static str)>;

fn of_requests() -> Limits {
    limits! {
        BODY_BYTES_MAX: Bytes = "The JSON body of one command or query. Beyond it: 413 `body_too_large`.";
        BATCH_BODY_BYTES_MAX: Bytes = "The body of a batch.";
        BATCH_COMMANDS_MAX: Count = "Commands of one batch.";
        DEADLINE_DEFAULT: Time = "The deadline of a request that names none.";
        DEADLINE_MAX: Time =
            "The longest deadline that a request can name, and the default for changes of the cluster.";
        HTTP_HEADERS_BYTES_MAX: Bytes = "The request line and all headers of a request.";
        HTTP_IDLE_MAX: Time = "A connection that neither begins nor finishes a request for this long is closed.";
        HTTP_HANDSHAKE_MAX: Time = "A TLS handshake.";
        HTTP_STREAMS_MAX: Count = "Requests at the same time on one HTTP/2 connection.";
        HTTP_CONNECTIONS_MAX: Count = "HTTP connections of a node. Configurable: `limits.http_connections`.";
        HTTP_REQUESTS_MAX: Count = "Requests that are answered at the same time. Configurable: `limits.http_requests`.";
        HTTP_BATCHES_MAX: Count = "Batches that are answered at the same time.";
        SHARE_PERCENT_MAX: Count =
            "The percentage of these places that one caller, or one address, can take. Configurable: \
             `limits.share_percent`.";
        UNATTENDED_MAX: Count = "Commands under way that were sent with `Prefer: respond-async`.";
        REJECTIONS_PER_CALLER_PER_SECOND_MAX: Count =
            "Recorded rejections a second for one caller, in a partition. Beyond it: 429 `rejection_limit`.";
        REJECTIONS_PER_ADDRESS_PER_SECOND_MAX: Count = "The same for one address, on the node that it asks.";
        REJECTIONS_PER_SECOND_MAX: Count = "The same for all callers together.";
        QUEUE_BYTES_MAX: Bytes = "Submissions that wait in the queue of one partition. Beyond it: 503 `overloaded`.";
        PAGE_ITEMS_DEFAULT: Count = "Items of a page of a history, if `limit` is not given.";
        PAGE_ITEMS_MAX: Count = "The highest `limit`.";
        REWINDS_MAX: Count =
            "Reads of the past of one machine that replay the journal at the same time; the others wait.";
        PROBLEM_DETAIL_CHARS_MAX: Count = "Characters of the `detail` of a problem.";
    }
}

fn of_events() -> Limits {
    limits! {
        EVENT_READERS_MAX: Count = "Readers of event streams at the same time. Configurable: `limits.event_readers`.";
        EVENT_PATIENCE: Time =
            "A reader that takes nothing for this long is disconnected. Configurable: `limits.event_patience_ms`.";
        EVENT_HEARTBEAT: Time =
            "The heartbeat of a stream without events. Configurable: `limits.event_heartbeat_ms`.";
        WEBHOOKS_MAX: Count = "Webhooks of one machine.";
        WEBHOOK_PARTITIONS_MAX: Count = "Partitions that one webhook can follow.";
        WEBHOOK_URL_CHARS_MAX: Count = "Characters of the URL of a webhook.";
        WEBHOOK_KEYS_MAX: Count = "Keys of the filter of a webhook.";
        WEBHOOK_KINDS_MAX: Count = "Event types of the filter of a webhook.";
        WEBHOOK_BATCH_MAX: Count = "Events of one request, at most (`--batch`).";
        WEBHOOK_BATCH_WINDOW: Time = "The time of a partition's journal that goes into one such request.";
        WEBHOOK_BODY_BYTES: Bytes = "The body of one request, plus one event.";
        WEBHOOK_TIMEOUT: Time = "How long a receiver may take to answer.";
        WEBHOOK_RETRY_FIRST: Time = "The pause before the first retry; it doubles with each.";
        WEBHOOK_RETRY_MAX: Time = "The longest pause before a retry, and the longest `Retry-After` that is followed.";
        WEBHOOK_RETRY_FOR: Time =
            "How long a message is tried before it becomes a dead letter. Configurable: `webhooks.retry_seconds`.";
        WEBHOOK_DEAD_MAX: Count = "Dead letters of a webhook. Beyond it the webhook is paused.";
        WEBHOOK_RECORD_EVERY: Time =
            "How often a webhook's progress is recorded. What was sent since then is sent again when the node is \
             killed.";
        WEBHOOK_SECRET_BYTES_MIN: Bytes = "The shortest secret of a webhook.";
        WEBHOOK_SECRET_BYTES_MAX: Bytes = "The longest secret of a webhook.";
    }
}

fn of_modules() -> Limits {
    limits! {
        MODULE_BYTES_MAX: Bytes = "The bytes of a module.";
        GUEST_MEMORY_BYTES_MAX: Bytes = "The memory of an instance.";
        GUEST_STACK_BYTES_MAX: Bytes = "The stack of an instance.";
        GUEST_TABLE_ELEMENTS_MAX: Count = "Elements of the table of an instance.";
        GUEST_INPUT_BYTES_MAX: Bytes = "The input of one call.";
        GUEST_OUTPUT_BYTES_MAX: Bytes = "The output of one call.";
        GUEST_FUEL_BASE: Count = "Fuel of a metered call, independent of its content.";
        GUEST_FUEL_PER_GROUP: Count = "Additional fuel for each group in the call: some milliseconds of work.";
        GUEST_WATCHDOG: Time = "A call that takes longer on a processor is stopped, and repeated with a fuel meter.";
        GUEST_WATCHDOG_WAITS: Count = "A call may last so many times as long where the machine is busy.";
        KEY_BYTES_MAX: Bytes = "The key of a row, entity included.";
        ENTITY_BYTES_MAX: Bytes = "The name of an entity.";
        ROW_BYTES_MAX: Bytes = "The value of a row.";
        COMMAND_OPS_MAX: Count = "Steps of one command.";
        PLAN_BYTES_MAX: Bytes = "The plan of one command: its body and its ops.";
        OP_KEYS_MAX: Count = "Keys that one op can declare and discover.";
        NEED_KEYS_ROUNDS_MAX: Count = "How often one group can ask for keys that it did not declare.";
        QUERY_ROUNDS_MAX: Count = "Rounds of one query, in each of which it can ask for rows.";
        SCAN_ROWS_MAX: Count = "Rows of one scan of a query.";
        VIEWS_MAX: Count = "Views of one machine.";
        DESCRIBE_BYTES_MAX: Bytes = "The description of a module.";
        DESCRIBE_ITEMS_MAX: Count =
            "Items of each list in a description: commands, queries, rejections, events, invariants.";
        DESCRIBE_PATH_BYTES_MAX: Bytes = "A path of a module.";
        COMPILE_MEMORY_BYTES_MAX: Bytes = "Memory of the process that compiles a module that is in no journal yet.";
        COMPILE_CPU_MAX: Time = "CPU time of that process.";
        PANIC_CHARS_MAX: Count = "Characters of a panic's text that are kept.";
    }
}

fn of_nodes() -> Limits {
    limits! {
        CLUSTER_NODES_MAX: Count = "Nodes that a cluster is created with.";
        SLOT_COUNT: Count = "Slots that entities hash to, and so the most partitions of a machine.";
        CLOCK_SKEW_MS_MAX: Count = "The highest `cluster.max_skew_ms`.";
        CLOCK_LEAP_MAX: Time = "A clock that moves further at once has jumped.";
        CLOCK_LEAP_STANDS: Time = "How long a jump must last on most nodes before it counts.";
        READY_LAG_MAX: Count = "Entries that a replica may lack when it becomes ready for the first time.";
        SHUTDOWN_MAX: Time = "How long requests under way may take after the signal to stop.";
        STOP_MAX: Time = "The process ends this long after the signal to stop, in any case.";
        SEGMENT_BYTES_MAX: Bytes = "The longest segment of a log.";
        JOURNAL_SEGMENT_BYTES: Bytes = "The average size of a journal segment of an archive.";
        LOG_KEEP_BYTES_MIN: Bytes = "The lowest `log.keep_bytes`.";
        LOG_FOLLOWED_FACTOR: Count =
            "How many times `log.keep_bytes` a log may become for views and webhooks that need it.";
        LOG_FOLLOWED_BYTES_MIN: Bytes = "The size to which a log may always grow for them.";
        SNAPSHOT_EVERY_BYTES_MIN: Bytes = "The lowest `snapshots.every_bytes`.";
        SNAPSHOTS_ASKED_MAX: Count = "Snapshots of a partition that were requested and are not made yet.";
        SCRUB_BYTES_PER_SECOND: Bytes =
            "What scrubbing reads of old files each second. Configurable: `scrub.bytes_per_second`.";
        SCRUB_ROUND_MIN: Time = "The least time between the beginnings of two scrubbing rounds.";
        REPLAY_JOBS_MAX: Count = "Replays that a node keeps.";
        PROOF_ENTRIES_SINCE_MAX: Count =
            "Entries of a partition that may follow the ones that a certificate covers.";
        ORDER_WHY_CHARS_MAX: Count = "Characters of the reason of an order about a command in flight.";
        STUCK_REPORT_EVERY: Time =
            "A command that is in flight for longer is named in the log, and again each time as much time has \
             passed.";
        HOT_TABLE_BYTES_MAX: Bytes = "Rows of one partition that are kept in memory.";
        RECORDED_BYTES_MAX: Bytes =
            "Recorded entries that are kept in memory for ids that are sent again, for each partition.";
    }
}

#[test]
fn the_page_has_the_values_of_the_constants() {
    let mut text = format!("{MADE}\n\n# Limits\n\n{}\n", wrap(OPENING, "", ""));
    let parts = [
        ("Requests", of_requests()),
        ("Events and webhooks", of_events()),
        ("Modules and views", of_modules()),
        ("Nodes", of_nodes()),
    ];
    for (title, limits) in parts {
        text += &format!("\n## {title}\n\n| limit | value | what it bounds |\n|---|---|---|\n");
        for (name, value, words) in limits {
            text += &format!("| `{name}` | {value} | {words} |\n");
        }
    }
    expect_file!["../../../book/src/reference/limits.md"].assert_eq(&text);
}

#[test]
fn values_are_written_for_people() {
    assert_eq!(64_usize.shown(Unit::Bytes), "64 bytes");
    assert_eq!((64_u64 << 10).shown(Unit::Bytes), "64 KiB");
    assert_eq!(8192_u32.shown(Unit::Count), "8,192");
    assert_eq!(Duration::from_millis(100).shown(Unit::Time), "100 ms");
    assert_eq!(Duration::from_secs(259_200).shown(Unit::Time), "3 days");
    assert_eq!(Duration::from_secs(60).shown(Unit::Time), "60 s");
}
