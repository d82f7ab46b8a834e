//! What one request carries: events of a partition that follow each other, as a webhook's filter shows them.
//!
//! | | |
//! |---|---|
//! | one event at most | `application/cloudevents+json`: the event |
//! | several | `application/cloudevents-batch+json`: an array, limited in number, size and time (a tenth of a second) |
//! | `webhook-id` | `<machine>-<number of the webhook>-<partition>-<entry>-<n>-<head8>`, of the first event |
//!
//! In: rendered entries. Out: messages, without who asked. Where a message ends depends only on where it begins, on the
//! journal and on the webhook, not on who sends it, when, or what was there by then. So a node that continues where a
//! message has ended makes the same messages, with the same ids. A start within a message of several events makes other
//! messages of the same events. It does not know whether anybody takes them.

use std::sync::Arc;

use bytes::Bytes;

use crate::feed::rendered::EventFilter;
use crate::feed::rendered::{Item, RenderedEntry};
use crate::ids::{Micros, Position};
use crate::limits::{WEBHOOK_BATCH_WINDOW, WEBHOOK_BODY_BYTES};
use crate::system::webhook_row::WebhookRow;

pub const ONE: &str = "application/cloudevents+json";
pub const SEVERAL: &str = "application/cloudevents-batch+json";

/// One request, however often it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookMessage {
    pub id: String,
    /// The positions of its first and its last event.
    pub first: Position,
    pub last: Position,
    pub content_type: &'static str,
    pub body: Bytes,
    pub events: usize,
}

/// How messages of one webhook are made.
pub struct Maker {
    machine: String,
    number: u64,
    batch: usize,
    filter: EventFilter,
}

/// Makes the messages of one partition, from a place on.
pub struct Gather<'a> {
    maker: &'a Maker,
    /// The message that is being made. It holds no entry, because it may wait.
    draft: Option<MessageDraft>,
    /// The entry that is being taken, and its next item.
    current: Option<(Arc<RenderedEntry>, usize)>,
}

/// A message that may become longer.
struct MessageDraft {
    first: Position,
    last: Position,
    /// Events with commas between them.
    body: Vec<u8>,
    events: usize,
    /// The first entry from this time on is not in it.
    until: Micros,
}

impl Maker {
    pub fn new(machine: &str, row: &WebhookRow) -> Self {
        let keys = row.keys.iter().map(|key| key.clone().into_bytes()).collect();
        let filter = EventFilter { keys, kinds: row.kinds.clone() };
        Self { machine: machine.to_owned(), number: row.number, batch: row.batch as usize, filter }
    }

    pub fn gather(&self) -> Gather<'_> {
        Gather { maker: self, draft: None, current: None }
    }

    /// The content type and the body of this webhook's messages, from events with commas between them.
    pub fn wrap(&self, events: Vec<u8>) -> (&'static str, Bytes) {
        if self.batch == 1 { (ONE, events.into()) } else { (SEVERAL, [b"[", events.as_slice(), b"]"].concat().into()) }
    }

    fn id(&self, Position { partition, index, n, head8: [a, b, c, d] }: Position) -> String {
        format!("{}-{}-{partition}-{index}-{n}-{a:02x}{b:02x}{c:02x}{d:02x}", self.machine, self.number)
    }
}

impl Gather<'_> {
    /// Takes the next entry, of which `had` positions were taken before; then [`Gather::next_whole`] has its messages.
    pub fn take(&mut self, rendered: Arc<RenderedEntry>, had: u32) {
        assert!(self.current.is_none(), "the one before was taken to its end");
        let first = rendered.items.partition_point(|item| item.n < had);
        self.current = Some((rendered, first));
    }

    /// The next message that is whole; `None` if another entry is needed.
    pub fn next_whole(&mut self) -> Option<WebhookMessage> {
        let (rendered, first) = self.current.take()?;
        if let Some(whole) = self.draft.take_if(|draft| draft.until <= rendered.time) {
            self.current = Some((rendered, first));
            return Some(self.finish(whole));
        }
        for at in first..rendered.items.len() {
            let item = &rendered.items[at];
            if !self.maker.filter.shows(item) {
                continue;
            }
            let position = Position { n: item.n, ..rendered.end };
            let draft = self.draft.get_or_insert_with(|| MessageDraft::new(position, rendered.time));
            draft.add(position, item);
            if self.maker.batch <= draft.events || WEBHOOK_BODY_BYTES <= draft.body.len() {
                self.current = Some((rendered, at + 1));
                return self.draft.take().map(|whole| self.finish(whole));
            }
        }
        None
    }

    /// Whether a message waits for more, and the time of an entry that ends it.
    pub fn waits_until(&self) -> Option<Micros> {
        self.draft.as_ref().map(|draft| draft.until)
    }

    fn finish(&self, MessageDraft { first, last, body, events, .. }: MessageDraft) -> WebhookMessage {
        let (content_type, body) = self.maker.wrap(body);
        WebhookMessage { id: self.maker.id(first), first, last, content_type, body, events }
    }
}

impl MessageDraft {
    fn new(first: Position, time: Micros) -> Self {
        let until = Micros(time.0.saturating_add(WEBHOOK_BATCH_WINDOW.as_micros() as i64));
        Self { first, last: first, body: Vec::new(), events: 0, until }
    }

    fn add(&mut self, position: Position, item: &Item) {
        if self.events != 0 {
            self.body.push(b',');
        }
        item.anonymous_json().iter().for_each(|part| self.body.extend_from_slice(part));
        (self.last, self.events) = (position, self.events + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{JournalIndex, PartitionId};

    const WINDOW: i64 = WEBHOOK_BATCH_WINDOW.as_micros() as i64;

    /// An entry with this number and time, and events of these kinds.
    fn entry(index: u64, time: i64, kinds: &[&str]) -> Arc<RenderedEntry> {
        let n = kinds.len().max(1) as u32 - 1;
        let end = Position { partition: PartitionId(3), index: JournalIndex(index), n, head8: [0, 1, 0xab, 0xff] };
        let item = |(n, kind): (usize, &&str)| {
            Item::new(n as u32, (*kind).into(), Vec::new(), format!("\"{index}.{n}\"").as_bytes())
        };
        let items = kinds.iter().enumerate().map(item).collect();
        let (partition, before8, size, time) = (end.partition, [0; 4], 0, Micros(time));
        Arc::new(RenderedEntry { partition, index: end.index, before8, end, time, items, size })
    }

    fn maker(batch: usize, kinds: &[&str]) -> Maker {
        let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        Maker { machine: "wallet".to_owned(), number: 7, batch, filter: EventFilter { keys: Vec::new(), kinds } }
    }

    /// The messages of a journal after a position.
    fn gather(maker: &Maker, journal: &[Arc<RenderedEntry>], behind: Option<Position>) -> Vec<WebhookMessage> {
        let mut gather = maker.gather();
        let mut messages = Vec::new();
        for rendered in journal {
            let had = match behind {
                Some(position) if rendered.index < position.index => continue,
                Some(position) if rendered.index == position.index => position.n + 1,
                _ => 0,
            };
            gather.take(rendered.clone(), had);
            messages.extend(std::iter::from_fn(|| gather.next_whole()));
        }
        messages
    }

    #[track_caller]
    fn check(maker: &Maker, journal: &[Arc<RenderedEntry>], expected: &[&str]) {
        let messages = gather(maker, journal, None);
        let bodies: Vec<_> = messages.iter().map(|message| String::from_utf8_lossy(&message.body)).collect();
        assert_eq!(bodies, expected);
        for (number, message) in messages.iter().enumerate() {
            let Position { index, n, .. } = message.first;
            assert_eq!(message.id, format!("wallet-7-3-{index}-{n}-0001abff"));
            let rest = gather(maker, journal, Some(message.last));
            assert_eq!(rest, messages[number + 1..], "whoever goes on behind {} makes the same", message.id);
        }
    }

    #[test]
    fn messages_end_by_number_and_by_the_journals_time() {
        let journal = [
            entry(1, 0, &["a", "a"]),
            entry(2, WINDOW - 1, &["a", "b", "a"]),
            entry(3, WINDOW, &["a"]),
            entry(4, WINDOW + 5, &[]),
            entry(5, 2 * WINDOW - 1, &["b", "a"]),
            entry(6, 2 * WINDOW, &[]),
            entry(7, 9 * WINDOW, &["a"]),
        ];
        check(&maker(9, &[]), &journal, &[r#"["1.0","1.1","2.0","2.1","2.2"]"#, r#"["3.0","5.0","5.1"]"#]);
        check(&maker(2, &["a"]), &journal, &[r#"["1.0","1.1"]"#, r#"["2.0","2.2"]"#, r#"["3.0","5.1"]"#]);
        check(&maker(3, &["a"]), &journal, &[r#"["1.0","1.1","2.0"]"#, r#"["2.2","3.0"]"#, r#"["5.1"]"#]);
        check(&maker(9, &["b"]), &journal, &[r#"["2.1"]"#, r#"["5.0"]"#]);
        check(&maker(9, &["c"]), &journal, &[]);
        let waiting = maker(2, &[]);
        let mut gather = waiting.gather();
        gather.take(journal[6].clone(), 0);
        assert!(gather.next_whole().is_none());
        assert_eq!(gather.waits_until(), Some(Micros(10 * WINDOW)), "the last one waits for time to pass");
    }

    #[test]
    fn one_event_is_an_event_that_waits_for_nothing() {
        let journal = [entry(1, 0, &["a", "b"]), entry(2, 1, &["a"])];
        check(&maker(1, &[]), &journal, &[r#""1.0""#, r#""1.1""#, r#""2.0""#]);
        let message = gather(&maker(1, &["b"]), &journal, None).pop().expect("there is one");
        assert_eq!((message.content_type, message.events, message.first, message.last.n), (ONE, 1, message.last, 1));
        let several = gather(&maker(2, &["a"]), &journal, None).pop().expect("there is one");
        assert_eq!((several.content_type, several.events), (SEVERAL, 2));
    }

    /// This happens after a replay from a cursor that some reader of the event stream has had.
    #[test]
    fn whoever_begins_within_a_message_has_other_messages_of_the_same_events() {
        let journal = [entry(1, 0, &["a", "a", "a"]), entry(2, WINDOW - 1, &["a"]), entry(3, 2 * WINDOW, &[])];
        let within = Position { n: 0, ..journal[0].end };
        let (all, rest) = (gather(&maker(3, &[]), &journal, None), gather(&maker(3, &[]), &journal, Some(within)));
        let bodies = |messages: &[WebhookMessage]| {
            messages.iter().map(|message| message.body.to_vec()).collect::<Vec<_>>().concat()
        };
        assert_eq!(bodies(&all), br#"["1.0","1.1","1.2"]["2.0"]"#);
        assert_eq!(bodies(&rest), br#"["1.1","1.2","2.0"]"#);
        assert!(all.iter().all(|message| message.id != rest[0].id));
    }

    #[test]
    fn a_message_that_waits_holds_no_entry() {
        let waiting = maker(9, &[]);
        let mut gather = waiting.gather();
        let entry = entry(1, 0, &["a", "a"]);
        let held = Arc::downgrade(&entry);
        gather.take(entry, 0);
        assert!(gather.next_whole().is_none());
        assert_eq!(gather.waits_until(), Some(Micros(WINDOW)));
        assert_eq!(held.strong_count(), 0, "it may wait for long, beside many others");
    }

    #[test]
    fn a_body_has_a_size() {
        let large = "x".repeat(WEBHOOK_BODY_BYTES / 2);
        let of = |n| Item::new(n, "a".into(), Vec::new(), large.as_bytes());
        let mut one = Arc::into_inner(entry(1, 0, &["a"; 5])).expect("nobody else has it");
        one.items = (0..5).map(of).collect();
        let journal = [Arc::new(one), entry(2, WINDOW, &[])];
        let counts: Vec<usize> = gather(&maker(9, &[]), &journal, None).iter().map(|message| message.events).collect();
        assert_eq!(counts, [2, 2, 1]);
    }
}
