//! Delivery of one webhook: each partition that it follows in its order, one message after the other, each until it is
//! taken or given up.
//!
//! ```text
//! lane (one a partition): feed ─▶ entry ─▶ messages ─▶ post ┬ taken ─▶ next          ─┐
//!                                           ▲ pause, again ◀┤ failed                  ├─▶ board ─▶ `system`, at times
//!                                                           └ given up: dead letter  ─┘
//! ```
//! In: the webhook's row. Out: requests, and their results, recorded in `system` in good time. A dead letter is
//! recorded before anything after it is sent. Progress is recorded now and then, so the next node to deliver sends
//! again what was taken since, under the same id. It holds up nobody: it reads what is applied, from the archive if it
//! was released.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Sender;
use super::message::{Maker, WebhookMessage};
use super::post::{PLAINTEXT, PostOutcome, clip, may_be_sent};
use super::retry::{RetryDecision, after_failure};
use super::sign::Secret;
use super::signers::Signers;
use crate::feed::{Feed, FeedPlace};
use crate::ids::{PartitionId, Position};
use crate::limits;
use crate::partition::PartitionError;
use crate::records::command::DeliveryNote;
use crate::records::rejection::RejectionCode;
use crate::system::ClusterError;
use crate::system::webhook_row::{FailingDelivery, LaneRow, RowPosition, WebhookRow};

/// How soon a lane is tried again if something other than its receiver stops it.
const HINDERED_AGAIN: Duration = Duration::from_secs(5);
/// How soon to check whether a message may end, and how soon to ask the journal again to let its time pass.
const TIME_LOOK: Duration = Duration::from_millis(5);
const TIME_AGAIN: Duration = Duration::from_millis(500);
/// How long `system` may take to record something, and how soon that is tried again.
const NOTE_PATIENCE: Duration = Duration::from_secs(5);
const NOTE_AGAIN: Duration = Duration::from_millis(500);

/// One webhook, while this node delivers it.
pub struct Delivery {
    sender: Arc<Sender>,
    machine: String,
    webhook: String,
    epoch: u64,
    url: Url,
    maker: Maker,
    feed: Arc<Feed>,
    /// The row, of which only the secrets that sign may change meanwhile.
    row: RwLock<Arc<WebhookRow>>,
    signers: Signers,
    board: Mutex<DeliveryProgress>,
    requests: Semaphore,
}

/// How far the delivery is.
struct DeliveryProgress {
    lanes: BTreeMap<PartitionId, LaneRow>,
    problems: BTreeMap<PartitionId, String>,
    /// The lanes as `system` has them.
    recorded: BTreeMap<PartitionId, LaneRow>,
    recorded_problem: Option<String>,
    recorded_at: Instant,
    /// A request has had a result since then.
    is_news: bool,
}

impl DeliveryProgress {
    fn new(row: &WebhookRow) -> Self {
        let lanes: BTreeMap<_, _> = row.lanes.iter().map(|lane| (PartitionId(lane.at.partition), *lane)).collect();
        let (recorded, recorded_problem) = (lanes.clone(), row.problem.clone());
        let (problems, recorded_at) = (BTreeMap::new(), Instant::now());
        Self { lanes, problems, recorded, recorded_problem, recorded_at, is_news: false }
    }

    fn lane(&self, partition: PartitionId) -> LaneRow {
        self.lanes[&partition]
    }

    fn problem(&self) -> Option<String> {
        self.problems.values().next().cloned()
    }

    /// The lanes that `system` does not know yet.
    fn changed(&self) -> Vec<LaneRow> {
        let is_new = |(partition, lane): &(&PartitionId, &LaneRow)| self.recorded.get(partition) != Some(lane);
        self.lanes.iter().filter(is_new).map(|(_, lane)| *lane).collect()
    }

    fn on_recorded(&mut self, lanes: &[LaneRow], problem: Option<String>) {
        self.recorded.extend(lanes.iter().map(|lane| (PartitionId(lane.at.partition), *lane)));
        self.recorded_problem = problem;
        self.recorded_at = Instant::now();
    }

    /// Notes that everything up to here was taken, or given up, or is not shown.
    fn on_passed(&mut self, to: Position, is_news: bool) {
        self.lanes.insert(to.partition, LaneRow { at: RowPosition::of(to), failing: None });
        if is_news {
            self.problems.remove(&to.partition);
            self.is_news = true;
        }
    }

    fn on_failed(&mut self, partition: PartitionId, failing: FailingDelivery, problem: &str) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.failing = Some(failing);
        }
        self.problems.insert(partition, problem.to_owned());
        self.is_news = true;
    }
}

impl Delivery {
    /// # Errors
    /// The row names what this version does not understand; the text says what.
    pub fn new(
        sender: Arc<Sender>,
        (machine, webhook): (&str, &str),
        row: Arc<WebhookRow>,
        feed: Arc<Feed>,
    ) -> Result<Arc<Self>, String> {
        let url = Url::parse(&row.url).map_err(|error| format!("{}: {error}", row.url))?;
        Ok(Arc::new(Self {
            sender,
            machine: machine.to_owned(),
            webhook: webhook.to_owned(),
            epoch: row.epoch,
            url,
            maker: Maker::new(machine, &row),
            feed,
            board: Mutex::new(DeliveryProgress::new(&row)),
            row: RwLock::new(row),
            signers: Signers::default(),
            requests: Semaphore::new(limits::WEBHOOK_REQUESTS_MAX),
        }))
    }

    /// Starts all tasks of the delivery; they run until the set is dropped.
    pub fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let partitions: Vec<PartitionId> = self.board.lock().lanes.keys().copied().collect();
        for partition in partitions {
            tasks.spawn(self.clone().follow(partition));
        }
        tasks.spawn(self.clone().record_always());
        tasks
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes the row of the same webhook, changed by an operator or by a record.
    pub fn set_row(&self, row: Arc<WebhookRow>) {
        *self.row.write() = row;
    }

    async fn follow(self: Arc<Self>, partition: PartitionId) {
        if !may_be_sent(&self.url, self.sender.allows_plaintext) {
            // It was created under another configuration. This node's configuration stays the same until it starts
            // again.
            self.on_hindered(partition, PLAINTEXT);
            return;
        }
        loop {
            if let Err(error) = self.go(partition).await {
                let problem = clip(&format!("{}/{partition}: {error}", self.machine));
                self.on_hindered(partition, &problem);
                sleep(HINDERED_AGAIN).await;
            }
        }
    }

    /// Delivers while the partition can be read.
    async fn go(&self, partition: PartitionId) -> Result<(), PartitionError> {
        let at = self.board.lock().lane(partition).at.position();
        let mut news = self.feed.news();
        let (mut place, mut had) = self.feed.place_of(at, Instant::now() + limits::DEADLINE_DEFAULT).await?;
        {
            let mut board = self.board.lock();
            // The partition can be read again.
            if board.lane(partition).failing.is_none() && board.problems.remove(&partition).is_some() {
                board.is_news = true;
            }
        }
        let mut gather = self.maker.gather();
        let (mut ask_at, mut pause) = (Instant::now(), TIME_LOOK);
        loop {
            news.mark_unchanged();
            let Some(rendered) = self.feed.next(partition, place).await? else {
                let Some(until) = gather.waits_until() else {
                    // The feed has the sender, so the channel does not close.
                    let _ = news.changed().await;
                    continue;
                };
                // A message that has begun ends by the journal's time, even if nothing more happens. The request to let
                // time pass may be lost, so it is repeated.
                let replica = self.feed.replica(partition)?;
                let left = u64::try_from(until.0.saturating_sub(replica.present().0)).unwrap_or(0);
                let mut wake_at = Instant::now() + Duration::from_micros(left).min(TIME_AGAIN);
                if left == 0 {
                    if ask_at <= Instant::now() {
                        replica.want_time(until);
                        ask_at = Instant::now() + pause;
                        pause = (pause * 2).min(TIME_AGAIN);
                    }
                    wake_at = ask_at;
                }
                // News of other partitions may arrive all the time.
                drop(tokio::time::timeout_at(wake_at, news.changed()).await);
                continue;
            };
            pause = TIME_LOOK;
            gather.take(rendered.clone(), had);
            (place, had) = (FeedPlace::behind(rendered.end), 0);
            while let Some(message) = gather.next_whole() {
                self.deliver(partition, &message).await;
            }
            if gather.waits_until().is_none() {
                self.board.lock().on_passed(rendered.end, false);
            }
            // Entries without an event to show are passed over, but other tasks must have their turn.
            tokio::task::consume_budget().await;
        }
    }

    /// Returns when the message was taken, or given up and recorded as such. If the receiver is gone, it never returns.
    async fn deliver(&self, partition: PartitionId, message: &WebhookMessage) {
        let mut failing =
            self.board.lock().lane(partition).failing.unwrap_or(FailingDelivery { since: 0, attempts: 0 });
        loop {
            let secrets = self.signers(partition).await;
            let sent = {
                let _turn = self.requests.acquire().await.expect("it is never closed");
                self.sender.poster.post(&self.url, message, &secrets, self.sender.cluster.now()).await
            };
            let (problem, detail, retry_after) = match sent.outcome {
                PostOutcome::Taken => {
                    self.count("delivered", message.events);
                    self.board.lock().on_passed(message.last, true);
                    return;
                }
                PostOutcome::Gone => {
                    tracing::warn!(webhook = self.webhook, "a webhook is paused: its receiver answered 410 Gone");
                    // A rejection means that another node delivers already.
                    let _ = self.note(DeliveryNote::Gone).await;
                    return std::future::pending().await;
                }
                PostOutcome::Failed { problem, detail, retry_after } => (problem, detail, retry_after),
            };
            self.count("failed", message.events);
            let now = self.sender.cluster.now();
            if failing.attempts == 0 {
                failing.since = now.0;
            }
            failing.attempts = failing.attempts.saturating_add(1);
            // The log says the reason once for each message; nobody else is told.
            let (webhook, id, attempts) = (&self.webhook, &message.id, failing.attempts);
            match detail.filter(|_| attempts == 1) {
                Some(detail) => tracing::warn!(webhook, id, detail, "a receiver cannot be reached"),
                None => tracing::debug!(webhook, id, attempts, problem, "not delivered"),
            }
            self.board.lock().on_failed(partition, failing, &problem);
            match after_failure(&failing, now, retry_after, self.sender.retry_for, rand::random()) {
                RetryDecision::Again(pause) => sleep(pause).await,
                RetryDecision::GiveUp => return self.give_up(message, failing, problem).await,
            }
        }
    }

    async fn give_up(&self, message: &WebhookMessage, failing: FailingDelivery, problem: String) {
        tracing::warn!(
            webhook = self.webhook,
            id = message.id,
            problem,
            "a message of a webhook becomes a dead letter"
        );
        let dead = DeliveryNote::Dead { first: message.first, last: message.last, failing, problem };
        match self.note(dead).await {
            Ok(()) => {
                self.count("dead", message.events);
                self.board.lock().on_passed(message.last, true);
            }
            Err(code) => {
                if code == RejectionCode::DeadLettersFull {
                    let _ = self.note(DeliveryNote::Full).await;
                }
                // The webhook was dropped or paused, or another node delivers it: the sender stops this delivery.
                std::future::pending().await
            }
        }
    }

    /// Repeats a note until it is recorded. The error is the code of a final rejection, after which another node
    /// continues, or none.
    async fn note(&self, note: DeliveryNote) -> Result<(), RejectionCode> {
        loop {
            let deadline = Instant::now() + NOTE_PATIENCE;
            let cluster = &self.sender.cluster;
            match cluster.note_webhook(&self.machine, &self.webhook, self.epoch, note.clone(), deadline).await {
                Ok(()) => return Ok(()),
                Err(ClusterError::Rejected { code: Some(code), .. }) if is_final(code) => return Err(code),
                Err(error) => {
                    tracing::warn!(
                        webhook = self.webhook, %error,
                        "a webhook's state is not recorded; this will be tried again"
                    )
                }
            }
            sleep(NOTE_AGAIN).await;
        }
    }

    /// All secrets of the webhook that some node has; waits until the newest one is among them.
    async fn signers(&self, partition: PartitionId) -> Vec<Secret> {
        loop {
            let wanted = self.row.read().secrets.clone();
            if let Some(known) = self.signers.known(&wanted, Instant::now()) {
                return known;
            }
            let found = self.sender.find_secrets(&wanted).await;
            if let Some(known) = self.signers.on_searched(wanted, found, Instant::now()) {
                return known;
            }
            self.on_hindered(partition, "no node has its secret any more: `webhook rotate` gives it another one");
            sleep(HINDERED_AGAIN).await;
        }
    }

    /// Notes that something other than its receiver stops a lane; the log says it once.
    fn on_hindered(&self, partition: PartitionId, problem: &str) {
        let mut board = self.board.lock();
        if board.problems.get(&partition).is_none_or(|before| before != problem) {
            tracing::warn!(webhook = self.webhook, problem, "a webhook cannot continue");
            board.problems.insert(partition, problem.to_owned());
            board.is_news = true;
        }
    }

    async fn record_always(self: Arc<Self>) {
        self.show_lag();
        loop {
            sleep(limits::WEBHOOK_RECORD_EVERY).await;
            self.show_lag();
            let is_due = {
                let board = self.board.lock();
                board.is_news || limits::WEBHOOK_RECORD_PASSED_EVERY <= board.recorded_at.elapsed()
            };
            if is_due && let Err(error) = self.record(NOTE_PATIENCE).await {
                tracing::debug!(
                    webhook = self.webhook, %error,
                    "a webhook's progress is not recorded; this will be tried again"
                );
            }
        }
    }

    /// Has `system` record how far the delivery is.
    pub async fn record(&self, patience: Duration) -> Result<(), ClusterError> {
        let (lanes, problem) = {
            let mut board = self.board.lock();
            let (lanes, problem) = (board.changed(), board.problem());
            if lanes.is_empty() && problem == board.recorded_problem {
                (board.is_news, board.recorded_at) = (false, Instant::now());
                return Ok(());
            }
            board.is_news = false;
            (lanes, problem)
        };
        let note = DeliveryNote::Progress { lanes: lanes.clone(), problem: problem.clone() };
        let deadline = Instant::now() + patience;
        let noted = self.sender.cluster.note_webhook(&self.machine, &self.webhook, self.epoch, note, deadline).await;
        let mut board = self.board.lock();
        match noted {
            Ok(()) => board.on_recorded(&lanes, problem),
            Err(_) => board.is_news = true,
        }
        noted
    }

    fn count(&self, result: &'static str, events: usize) {
        let labels = [("machine", self.machine.clone()), ("webhook", self.webhook.clone())];
        let of_result = labels.iter().cloned().chain([("result", result.to_owned())]).collect::<Vec<_>>();
        metrics::counter!("statehouse_webhook_requests_total", &of_result).increment(1);
        if result == "delivered" {
            metrics::counter!("statehouse_webhook_events_total", &labels).increment(events as u64);
        }
    }

    fn show_lag(&self) {
        let lanes: Vec<LaneRow> = self.board.lock().lanes.values().copied().collect();
        let behind = |lane: &LaneRow| {
            let at = lane.at.position();
            let newest = self.feed.replica(at.partition).ok()?.progress().journal.index;
            Some(at.index.distance_to(newest))
        };
        self.gauge_lag(lanes.iter().filter_map(behind).sum());
    }

    /// It is set to 0 when the delivery ends here, or this node would report a stale lag.
    pub fn gauge_lag(&self, entries: u64) {
        let labels = [("machine", self.machine.clone()), ("webhook", self.webhook.clone())];
        metrics::gauge!("statehouse_webhook_lag_entries", &labels).set(entries as f64);
    }
}

/// Whether a rejection of a note is final: the webhook was dropped, is delivered elsewhere, or has to stop.
fn is_final(code: RejectionCode) -> bool {
    matches!(code, RejectionCode::OutOfDate | RejectionCode::UnknownWebhook | RejectionCode::DeadLettersFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_stands_still_only_where_its_webhook_does() {
        let is_final = |code| RejectionCode::find(code).is_some_and(is_final);
        for code in ["out_of_date", "unknown_webhook", "dead_letters_full"] {
            assert!(is_final(code), "{code}");
        }
        for code in ["unknown_machine", "rejection_limit", "module_fault"] {
            assert!(!is_final(code), "{code}: what was to be noted is still to be noted");
        }
    }
}
