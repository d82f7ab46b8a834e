//! What one request carries: events of one entry of a journal, as a webhook's filter shows them.
//!
//! | | |
//! |---|---|
//! | one event at most | `application/cloudevents+json`: the event |
//! | several | `application/cloudevents-batch+json`: an array of those of an entry that follow each other, up to a number and about a size |
//! | `webhook-id` | `<machine>-<number of the webhook>-<partition>-<entry>-<n>-<head8>`, of the first event |
//!
//! In: a rendered entry. Out: messages. Where one begins and ends depends on the entry and the webhook alone, and not on who sends it, when, or how
//! far anybody was: what is sent twice has the same id and the same body. It does not know whether anybody takes it.

use std::ops::Range;

use bytes::Bytes;

use crate::api::events::reader::Filter;
use crate::api::events::rendered::Rendered;
use crate::ids::Position;
use crate::limits::WEBHOOK_BODY_BYTES;
use crate::system::webhook_row::WebhookRow;

pub const ONE: &str = "application/cloudevents+json";
pub const SEVERAL: &str = "application/cloudevents-batch+json";

/// One request, however often it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: String,
    /// Of its first and its last event.
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
    filter: Filter,
}

impl Maker {
    pub fn new(machine: &str, row: &WebhookRow) -> Self {
        let keys = row.keys.iter().map(|key| key.clone().into_bytes()).collect();
        let filter = Filter { keys, kinds: row.kinds.clone() };
        Self { machine: machine.to_owned(), number: row.number, batch: row.batch as usize, filter }
    }

    /// The messages of an entry that have something behind its first `had` positions, in order.
    pub fn messages<'a>(&'a self, rendered: &'a Rendered, had: u32) -> impl Iterator<Item = Message> + 'a {
        let shown: Vec<usize> =
            (0..rendered.items.len()).filter(|at| self.filter.shows(&rendered.items[*at])).collect();
        let size = |at: &usize| rendered.items[*at].text.len();
        let ranges = cut(&shown.iter().map(size).collect::<Vec<_>>(), self.batch, WEBHOOK_BODY_BYTES);
        let is_wanted = {
            let last = shown.clone();
            move |range: &Range<usize>| had <= rendered.items[last[range.end - 1]].n
        };
        ranges.into_iter().filter(is_wanted).map(move |range| self.message(rendered, &shown[range]))
    }

    fn message(&self, rendered: &Rendered, items: &[usize]) -> Message {
        let events: Vec<&[u8]> = items.iter().map(|at| rendered.items[*at].json()).collect();
        let position = |at: Option<&usize>| {
            let n = at.map(|at| rendered.items[*at].n).expect("a message has an event");
            Position { n, ..rendered.end }
        };
        let (first, last) = (position(items.first()), position(items.last()));
        let (content_type, body) = self.wrap(&events);
        Message { id: self.id(first), first, last, content_type, body, events: items.len() }
    }

    /// A body as this webhook has them.
    pub fn wrap(&self, events: &[&[u8]]) -> (&'static str, Bytes) {
        match events {
            [event] if self.batch == 1 => (ONE, Bytes::copy_from_slice(event)),
            events => (SEVERAL, [b"[".as_slice(), &events.join(b",".as_slice()), b"]"].concat().into()),
        }
    }

    fn id(&self, Position { partition, index, n, head8: [a, b, c, d] }: Position) -> String {
        format!("{}-{}-{partition}-{index}-{n}-{a:02x}{b:02x}{c:02x}{d:02x}", self.machine, self.number)
    }
}

/// Ranges of what follows each other: so many at most, and no more once they are so large together.
fn cut(sizes: &[usize], count_max: usize, bytes: usize) -> Vec<Range<usize>> {
    let (mut ranges, mut begin, mut sum) = (Vec::new(), 0, 0);
    for (at, size) in sizes.iter().enumerate() {
        sum += size;
        if count_max <= at + 1 - begin || bytes <= sum {
            ranges.push(begin..at + 1);
            (begin, sum) = (at + 1, 0);
        }
    }
    if begin < sizes.len() {
        ranges.push(begin..sizes.len());
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::events::rendered::Item;
    use crate::ids::{JournalIndex, PartitionId};

    #[track_caller]
    fn check(sizes: &[usize], count_max: usize, bytes: usize, expected: &[(usize, usize)]) {
        let found: Vec<_> = cut(sizes, count_max, bytes).into_iter().map(|range| (range.start, range.end)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_cut_has_a_number_and_a_size() {
        check(&[], 3, 100, &[]);
        check(&[10], 3, 100, &[(0, 1)]);
        check(&[10; 7], 3, 100, &[(0, 3), (3, 6), (6, 7)]);
        check(&[10; 6], 3, 100, &[(0, 3), (3, 6)]);
        check(&[40, 40, 40, 40], 9, 100, &[(0, 3), (3, 4)]);
        check(&[500, 1], 9, 100, &[(0, 1), (1, 2)]);
    }

    fn rendered() -> Rendered {
        let end = Position { partition: PartitionId(3), index: JournalIndex(42), n: 5, head8: [0, 1, 0xab, 0xff] };
        let kind = |n: u32| if n == 2 { "Opened" } else { "Debited" };
        let item = |n| Item::new(n, kind(n).into(), Vec::new(), format!("{{\"n\":{n}}}").as_bytes());
        let items = (0..6).filter(|n| *n != 4).map(item).collect();
        Rendered { partition: end.partition, index: end.index, before8: [0; 4], end, items, size: 0 }
    }

    fn maker(batch: usize, kinds: &[&str]) -> Maker {
        let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        Maker { machine: "wallet".to_owned(), number: 7, batch, filter: Filter { keys: Vec::new(), kinds } }
    }

    /// Id and body of each.
    fn shown(maker: &Maker, had: u32) -> Vec<(String, String)> {
        let text = |message: Message| (message.id, String::from_utf8(message.body.to_vec()).expect("JSON is text"));
        maker.messages(&rendered(), had).map(text).collect()
    }

    fn expected(of: &[(u32, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(n, body)| (format!("wallet-7-3-42-{n}-0001abff"), (*body).to_owned())).collect()
    }

    #[test]
    fn a_message_is_the_same_however_far_anybody_was() {
        let all = maker(2, &["Debited"]);
        let [one, two] = [(0, r#"[{"n":0},{"n":1}]"#), (3, r#"[{"n":3},{"n":5}]"#)];
        assert_eq!(shown(&all, 0), expected(&[one, two]));
        assert_eq!(shown(&all, 1), expected(&[one, two]), "what was had in part comes again as a whole");
        assert_eq!(shown(&all, 2), expected(&[two]));
        assert_eq!(shown(&all, 5), expected(&[two]));
        assert_eq!(shown(&all, 6), expected(&[]));
    }

    #[test]
    fn one_event_is_an_event_and_no_array() {
        let one = maker(1, &["Opened"]);
        assert_eq!(shown(&one, 0), expected(&[(2, r#"{"n":2}"#)]));
        let message = one.messages(&rendered(), 0).next().expect("there is one");
        assert_eq!((message.content_type, message.events, message.first, message.last.n), (ONE, 1, message.last, 2));
        let several = maker(9, &["Opened"]);
        assert_eq!(shown(&several, 0), expected(&[(2, r#"[{"n":2}]"#)]), "a receiver of arrays gets nothing else");
        assert!(shown(&maker(1, &["Closed"]), 0).is_empty());
    }
}
