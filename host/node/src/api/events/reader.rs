//! One reader of an event stream: from a place in each partition on, piece by piece, as fast as it reads and no faster.
//!
//! ```text
//! feed ─▶ next of each partition in turn ─▶ a piece of text ─▶ channel (bounded) ─▶ body ─▶ socket
//!                                             └ not taken for too long: a last word with the cursor, and the end
//! ```
//! In: a feed, places, what to show. Out: server-sent events. The `id` of each is the cursor after it; a stream without
//! events has heartbeats with the cursor as well. No event of a partition is left out, and all keep the order that they
//! have there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::problem::Code;
use crate::feed::cursor::Cursor;
use crate::feed::rendered::{EventFilter, RenderedEntry};
use crate::feed::{Feed, FeedPlace};
use crate::ids::{PartitionId, Position};
use crate::limits;
use crate::partition::PartitionError;

/// How many entries are passed over without an event before the client gets a heartbeat.
const PASSED_MAX: u32 = 1024;
/// How soon a client that is cut off should connect again, in milliseconds.
pub const RETRY_MS: u32 = 1000;

/// Where a reader is in one partition.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    pub partition: PartitionId,
    pub place: FeedPlace,
    /// How many positions of the entry that follows the reader has had already.
    pub had: u32,
}

/// How patient a reader's stream is.
#[derive(Clone, Copy, Debug)]
pub struct StreamPace {
    pub patience: Duration,
    pub heartbeat: Duration,
}

/// Why a stream ends.
struct End {
    code: Code,
    detail: String,
}

impl End {
    fn new(code: Code, detail: &str) -> Self {
        Self { code, detail: detail.to_owned() }
    }

    fn of(error: &PartitionError) -> Self {
        let code = match error {
            PartitionError::Released { .. } => Code::HistoryReleased,
            PartitionError::OtherHistory(_) => Code::PositionGone,
            _ => Code::Halted,
        };
        Self::new(code, &format!("{error}; continue from the cursor, on another node if necessary"))
    }
}

/// What the client gets after the last piece.
pub type LastWord = Arc<Mutex<Option<Bytes>>>;

pub struct EventReader {
    pub feed: Arc<Feed>,
    pub filter: EventFilter,
    /// Whether the client may know who asked for what.
    pub shows_callers: bool,
    pub lanes: Vec<Lane>,
    /// The cursor after the piece that is being made. It also has partitions that are not read, as the client gave
    /// them.
    pub cursor: Cursor,
    pub pace: StreamPace,
    pub stops: Stops,
}

/// What ends a stream whatever its client does.
#[derive(Clone)]
pub struct Stops {
    /// The node stops.
    pub node: CancellationToken,
    /// The terms that let the connection in do not count any more.
    pub connection: CancellationToken,
    /// The token was removed or changed.
    pub token: CancellationToken,
}

impl Stops {
    /// Ready when one of them has happened.
    async fn any(&self) -> End {
        tokio::select! {
            () = self.node.cancelled() => shutting_down(),
            () = self.connection.cancelled() => {
                End::new(
                    Code::Unauthenticated,
                    "this node now requires another certificate; connect again, and continue from the cursor",
                )
            }
            () = self.token.cancelled() => {
                End::new(
                    Code::Unauthenticated,
                    "your token was removed or changed; continue from the cursor with a valid token",
                )
            }
        }
    }
}

impl EventReader {
    /// Runs until the client is gone or too slow, or nothing more can follow. Returns whether the client still waits
    /// for the rest of the answer but does not take it.
    pub async fn run(mut self, pieces: mpsc::Sender<Bytes>, last: LastWord) -> bool {
        // The cursor after what was handed over, even if it was not taken.
        let mut safe = self.cursor.clone();
        let ended = self.send_all(&pieces, &mut safe).await;
        let Err(end) = ended else { return false };
        let name = end.code.name();
        metrics::counter!("statehouse_event_readers_ended_total", "reason" => name).increment(1);
        let word = serde_json::json!({
            "type": format!("urn:statehouse:problem:{name}"),
            "code": name,
            "detail": end.detail,
            "cursor": safe.to_string(),
        });
        *last.lock() = Some(format!("event: closed\nid: {safe}\ndata: {word}\n\n").into());
        end.code == Code::SlowReader
    }

    /// `Ok` when the client is gone.
    async fn send_all(&mut self, pieces: &mpsc::Sender<Bytes>, safe: &mut Cursor) -> Result<(), End> {
        let mut news = self.feed.news();
        let mut piece = format!("retry: {RETRY_MS}\nid: {}\n\n", self.cursor).into_bytes();
        let mut alive_at = Instant::now() + self.pace.heartbeat;
        loop {
            if !piece.is_empty() {
                let sending = timeout(self.pace.patience, pieces.send(std::mem::take(&mut piece).into()));
                let sent = tokio::select! {
                    sent = sending => sent,
                    end = self.stops.any() => return Err(end),
                };
                match sent {
                    Ok(Ok(())) => *safe = self.cursor.clone(),
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => {
                        return Err(End::new(
                            Code::SlowReader,
                            "you have read nothing for too long; continue from the cursor",
                        ));
                    }
                }
                alive_at = Instant::now() + self.pace.heartbeat;
            }
            news.mark_unchanged();
            piece = self.next_piece().await.map_err(|error| End::of(&error))?;
            if !piece.is_empty() {
                continue;
            }
            tokio::select! {
                // The feed has the sender, so the channel does not close.
                _ = news.changed() => {}
                () = sleep_until(alive_at) => {
                    piece = self.sign_of_life();
                }
                () = pieces.closed() => return Ok(()),
                end = self.stops.any() => return Err(end),
            }
        }
    }

    /// What there is to show, of all partitions in turn, up to a piece's size; empty at the end.
    async fn next_piece(&mut self) -> Result<Vec<u8>, PartitionError> {
        let mut piece = Vec::new();
        let mut passed = 0;
        loop {
            let mut is_end = true;
            for number in 0..self.lanes.len() {
                let Lane { partition, place, .. } = self.lanes[number];
                let Some(rendered) = self.feed.next(partition, place).await? else { continue };
                is_end = false;
                self.take(number, &rendered, &mut piece);
                if limits::EVENT_PIECE_BYTES <= piece.len() {
                    // The partitions that had their turn now are last the next time.
                    self.lanes.rotate_left(number + 1);
                    return Ok(piece);
                }
            }
            if is_end {
                return Ok(piece);
            }
            passed += 1;
            if passed >= PASSED_MAX && piece.is_empty() {
                return Ok(self.sign_of_life());
            }
            // Entries without an event to show are passed over, but other tasks must have their turn.
            tokio::task::consume_budget().await;
        }
    }

    /// A heartbeat: a comment, and the cursor without an event.
    fn sign_of_life(&self) -> Vec<u8> {
        format!(":\nid: {}\n\n", self.cursor).into_bytes()
    }

    /// Adds the events of an entry that are to be shown and were not sent yet, while the piece has room.
    fn take(&mut self, number: usize, rendered: &RenderedEntry, piece: &mut Vec<u8>) {
        let lane = &mut self.lanes[number];
        let (lower, higher) = self.cursor.around(lane.partition);
        for item in rendered.items.iter().skip_while(|item| item.n < lane.had) {
            if limits::EVENT_PIECE_BYTES <= piece.len() {
                lane.had = item.n;
                return;
            }
            if self.filter.shows(item) {
                let position = Position { n: item.n, ..rendered.end };
                piece.extend_from_slice(format!("id: {lower}{position}{higher}\n").as_bytes());
                if self.shows_callers {
                    piece.extend_from_slice(&item.text);
                } else {
                    item.anonymous().iter().for_each(|part| piece.extend_from_slice(part));
                }
                self.cursor.set(position);
            }
        }
        self.cursor.set(rendered.end);
        (lane.place, lane.had) = (FeedPlace::behind(rendered.end), 0);
    }
}

fn shutting_down() -> End {
    End::new(Code::ShuttingDown, "this node is shutting down; continue from the cursor on another node, or here later")
}
