//! `GET /v1/{machine}/events`: what happens, as server-sent events that carry CloudEvents; a reader can continue at any
//! node.
//!
//! ```text
//! after, Last-Event-ID ─▶ cursor ─▶ a place in each partition (410, 400) ─▶ Reader ─▶ pieces ─▶ answer
//!                                                                          Feed, shared by all readers of a machine
//! ```
//! In: a request. Out: an answer that continues until one side ends it. It knows nothing of logs: the feed says what
//! follows a place.

pub mod again;
pub mod reader;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use statehouse_abi::value::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::reader::{EventReader, Lane, LastWord, Stops, StreamPace};
use super::handle::Api;
use super::live::LiveLimits;
use super::problem::{Code, Problem};
use super::reading;
use super::roles::WATCH_ROLES;
use super::route::HostRequest;
use super::serve::ConnectionContext;
use super::share::{Share, ShareKind};
use super::url::query_pairs;
use crate::feed::cursor::{CURSOR_IS, Cursor};
use crate::feed::rendered::{ACTIVATED, EventFilter, REJECTED};
use crate::feed::{Feed, FeedPlace, Feeds, newest};
use crate::ids::PartitionId;
use crate::partition::PartitionError;
use crate::router::{Machine, partition_error};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How many pieces wait for the connection to take them.
const PIECES_WAITING_MAX: usize = 1;

/// All that readers of events share on this node.
pub struct Events {
    feeds: Arc<Feeds>,
    limits: Arc<LiveLimits>,
}

impl Events {
    pub fn new(feeds: Arc<Feeds>, limits: Arc<LiveLimits>) -> Self {
        Self { feeds, limits }
    }

    /// How patient a stream is that begins now.
    fn pace(&self) -> StreamPace {
        let limits = self.limits.now();
        StreamPace {
            patience: Duration::from_millis(limits.event_patience_ms),
            heartbeat: Duration::from_millis(limits.event_heartbeat_ms),
        }
    }
}

/// Where a stream begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum StreamStart {
    Now,
    Start,
    After(Cursor),
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct EventsQuery {
    from: StreamStart,
    filter: EventFilter,
    /// The partitions to read, without those that have none of the filter's keys.
    partitions: Vec<PartitionId>,
}

pub async fn get(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let machine = api.find_machine(request.machine_name())?;
    let HostRequest { context, parts, .. } = request;
    let events = &api.events;
    let wanted = read_wanted(&machine, parts.uri.query().unwrap_or_default(), &parts.headers)?;
    reading::check_keys(&wanted.filter.keys, &context.caller)?;
    let place = api.shares.take(ShareKind::Reader, 1, &api.requester(&context.caller, parts))?;
    let feed = events.feeds.feed(machine, &api.cluster.view().cluster.unwrap_or_default());
    let (lanes, cursor) = begin(&feed, &wanted, context.deadline).await?;
    let connection = parts.extensions.get::<ConnectionContext>().cloned();
    let of_connection = |stop: fn(&ConnectionContext) -> &CancellationToken| {
        connection.as_ref().map_or_else(CancellationToken::new, |connection| stop(connection).clone())
    };
    let stops = Stops {
        node: of_connection(|connection| &connection.stopping),
        connection: of_connection(|connection| &connection.retired),
        token: api.callers.removal(&context.caller),
    };
    let pace = events.pace();
    let shows_callers = context.caller.roles & WATCH_ROLES != 0;
    let reader = EventReader { feed, filter: wanted.filter, shows_callers, lanes, cursor, pace, stops };
    let (pieces, waiting) = mpsc::channel(PIECES_WAITING_MAX);
    let last = LastWord::default();
    let stay = connection.map(|connection| connection.stay());
    let (last_word, patience) = (last.clone(), pace.patience);
    let (present, gone) = ReaderPlace::new(place);
    tokio::spawn(async move {
        let is_stuck = reader.run(pieces, last_word).await;
        // The client may only have been slow, and may still take the last word.
        if is_stuck
            && timeout(patience, gone).await.is_err()
            && let Some(stay) = stay
        {
            stay.abandon();
        }
    });
    Ok(stream_of(Body::from_stream(body(waiting, last, present))))
}

/// A stream with this body.
fn stream_of(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that collect answers before they pass them on must pass this one on at once.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// A reader's place among all readers, from the answer's first byte until the connection drops it.
struct ReaderPlace {
    _place: Share,
    _gone: oneshot::Sender<()>,
}

impl ReaderPlace {
    /// Also returns what hears when it is dropped.
    fn new(place: Share) -> (Self, oneshot::Receiver<()>) {
        metrics::gauge!("statehouse_event_readers").increment(1.0);
        let (gone, is_gone) = oneshot::channel();
        (Self { _place: place, _gone: gone }, is_gone)
    }
}

impl Drop for ReaderPlace {
    fn drop(&mut self) {
        metrics::gauge!("statehouse_event_readers").decrement(1.0);
    }
}

/// The pieces as they arrive, then the last word.
fn body(
    waiting: mpsc::Receiver<Bytes>,
    last: LastWord,
    present: ReaderPlace,
) -> impl stream::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    stream::unfold((waiting, last, present), |(mut waiting, last, present)| async move {
        let next = match waiting.recv().await {
            Some(piece) => Some(piece),
            None => last.lock().take(),
        };
        next.map(|next| (Ok(next), (waiting, last, present)))
    })
}

/// # Errors
/// 400 naming the parameter.
fn read_wanted(machine: &Machine, query: &str, headers: &HeaderMap) -> Result<EventsQuery, Problem> {
    let pairs = query_pairs(query)
        .ok_or_else(|| Problem::new(Code::BadParameter, "the query string is not percent-encoded UTF-8"))?;
    let (mut after, mut filter, mut partitions) = (None, EventFilter::default(), Vec::new());
    for (name, value) in &pairs {
        match name.as_ref() {
            "after" if after.is_some() => return Err(bad_parameter("after", "is given twice")),
            "after" => after = Some(value.as_ref()),
            "key" => filter.keys.push(value.as_bytes().to_vec()),
            "type" => filter.kinds.push(read_kind(machine, value)?),
            "partition" => partitions.push(read_partition(machine, value)?),
            other => {
                let detail = format!("`{other}` is unknown here; there are `after`, `key`, `type` and `partition`");
                return Err(Problem::new(Code::UnknownParameter, detail));
            }
        }
    }
    if !filter.keys.is_empty() {
        if !partitions.is_empty() {
            return Err(bad_parameter(
                "partition",
                "is not needed with `key`, which determines the partition; leave it out",
            ));
        }
        partitions.extend(filter.keys.iter().map(|key| machine.partition_id_of(key)));
    } else if partitions.is_empty() {
        partitions.extend(machine.partition_ids());
    }
    partitions.sort_unstable();
    partitions.dedup();
    // A client that connects again automatically repeats the URL, and says in the header how far it was.
    let resumed = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty());
    let from = match (resumed, after) {
        (Some(value), _) => {
            StreamStart::After(
                value.to_str().ok().and_then(Cursor::parse).ok_or_else(|| {
                    Problem::new(Code::BadHeader, format!("Last-Event-ID is not a cursor; {CURSOR_IS}"))
                })?,
            )
        }
        (None, None | Some("now")) => StreamStart::Now,
        (None, Some("start")) => StreamStart::Start,
        (None, Some(text)) => StreamStart::After(
            Cursor::parse(text)
                .ok_or_else(|| bad_parameter("after", &format!("must be `start`, `now` or a cursor; {CURSOR_IS}")))?,
        ),
    };
    Ok(EventsQuery { from, filter, partitions })
}

/// The last part of an event's type, given alone or whole.
pub fn read_kind(machine: &Machine, value: &str) -> Result<String, Problem> {
    let prefix = format!("statehouse.{}.", machine.name());
    let kind = value.strip_prefix(&prefix).unwrap_or(value);
    let describe = machine.describe();
    let declared = describe.events.iter().map(|event| event.name.as_str());
    let known: Vec<&str> = declared.chain([REJECTED, ACTIVATED]).collect();
    if known.contains(&kind) {
        return Ok(kind.to_owned());
    }
    Err(bad_parameter("type", &format!("must be one of {}", known.join(", "))))
}

fn read_partition(machine: &Machine, value: &str) -> Result<PartitionId, Problem> {
    let count = machine.partition_count();
    let number = value.parse().ok().filter(|number| *number < count).map(PartitionId);
    number.ok_or_else(|| bad_parameter("partition", &format!("must be a number below {count}")))
}

fn bad_parameter(name: &str, what: &str) -> Problem {
    Problem::new(Code::BadParameter, format!("`{name}` {what}"))
}

/// The places at which a stream begins, and the cursor of a client that has seen nothing of the stream yet.
async fn begin(feed: &Feed, wanted: &EventsQuery, deadline: Instant) -> Result<(Vec<Lane>, Cursor), Problem> {
    let mut lanes = Vec::with_capacity(wanted.partitions.len());
    let mut cursor = Cursor::default();
    if let StreamStart::After(given) = &wanted.from {
        // The client keeps the positions of partitions that it does not ask for now.
        let count = feed.machine.partition_count();
        if let Some(other) = given.positions().find(|position| count <= position.partition.0) {
            return Err(refused(PartitionError::OtherHistory(other)));
        }
        cursor = given.clone();
    }
    for partition in wanted.partitions.iter().copied() {
        let replica = feed.replica(partition).map_err(refused)?;
        let position = match &wanted.from {
            StreamStart::Now => newest(&replica).await.map_err(refused)?,
            StreamStart::Start => replica.genesis().position(partition, 0),
            StreamStart::After(given) => given.find(partition).ok_or_else(|| {
                let detail = format!(
                    "the cursor has no position of partition {partition}; use a cursor of a stream with all \
                     partitions that you ask for, or name the partitions you want with `partition`"
                );
                Problem::new(Code::BadParameter, detail)
            })?,
        };
        let (place, had) = match &wanted.from {
            StreamStart::Now => (FeedPlace::behind(position), 0),
            StreamStart::Start | StreamStart::After(_) => feed.place_of(position, deadline).await.map_err(refused)?,
        };
        cursor.set(position);
        lanes.push(Lane { partition, place, had });
    }
    Ok((lanes, cursor))
}

/// Why a stream cannot begin, and what to do.
pub fn refused(error: PartitionError) -> Problem {
    match error {
        PartitionError::OtherHistory(position) => {
            let detail = format!(
                "{position} is not in this history: the cluster was restored or created again since then. What you \
                 have built from its events may be wrong: build it again from `after=start`, or continue from \
                 `after=now`"
            );
            Problem::new(Code::PositionGone, detail).with("position", Value::Text(position.to_string()))
        }
        PartitionError::Released { first, position } => {
            let from = position.map_or_else(String::new, |position| format!(" ({position})"));
            let detail = format!(
                "the journal of this node begins with entry {first}{from}: what you ask for was released here, and \
                 is in no archive of this node; ask another node, which may have kept more, or build what you need \
                 from a snapshot or a query and continue from `after=now`"
            );
            Problem::new(Code::HistoryReleased, detail)
        }
        error => partition_error(error).into(),
    }
}
