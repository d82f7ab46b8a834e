//! An entry as readers of the event stream get it: one CloudEvent (1.0, JSON) for each event and each recorded
//! rejection, rendered once for all.
//!
//! | what | `type` | `subject` | `data` |
//! |---|---|---|---|
//! | an event | `statehouse.<machine>.<kind>`, as its module declares it | its entity | what the module renders |
//! | a rejection | `statehouse.<machine>.CommandRejected` | entity of the first step | `command`, `code`, `detail`, |
//! | | | | what the module adds |
//! | another module decides | `statehouse.<machine>.ModuleActivated` | – | `module`, `schema`, `number` |
//!
//! In: an entry and the module that decided it. Out: lines of a stream, without their ids. It does not know who reads.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use statehouse_abi::cold::{CommandFacts, Rejection, RenderItem};
use statehouse_abi::value::Value;

use crate::ids::{JournalIndex, Micros, PartitionId, Position};
use crate::json::{Json, print};
use crate::machine::logic::{Fault, Logic};
use crate::machine::render::render_each;
use crate::partition::tail::{TailCommand, TailEntry};
use crate::rfc3339::print_time;

pub const REJECTED: &str = "CommandRejected";
pub const ACTIVATED: &str = "ModuleActivated";

/// How many items one guest call has: their bodies and results stay far below what a guest may be given.
const RENDER_ITEMS_MAX: usize = 128;

/// An entry with the lines of its events.
pub struct RenderedEntry {
    pub partition: PartitionId,
    pub index: JournalIndex,
    /// The beginning of the head before the entry.
    pub before8: [u8; 4],
    /// The last position of the entry.
    pub end: Position,
    /// The entry's time, in the journal.
    pub time: Micros,
    pub items: Vec<Item>,
    /// About how much memory it takes.
    pub size: usize,
}

/// One line of the stream.
pub struct Item {
    pub n: u32,
    /// The last part of its type.
    pub kind: Arc<str>,
    /// The entities that it is about.
    entities: Vec<Box<[u8]>>,
    /// `data: …` with the empty line that ends the event.
    pub text: Bytes,
    /// The part of `text` that says who asked.
    whose: Range<usize>,
}

/// What surrounds the JSON of an event in a stream.
const DATA: &[u8] = b"data: ";
const END: &[u8] = b"\n\n";

impl Item {
    pub fn new(n: u32, kind: Arc<str>, entities: Vec<Box<[u8]>>, json: &[u8]) -> Self {
        Self { n, kind, entities, text: [DATA, json, END].concat().into(), whose: 0..0 }
    }

    /// Adds who asked.
    fn by(self, requester: &RequesterMembers<'_>) -> Self {
        let json = self.json();
        let (object, members) = (json.strip_suffix(b"}").expect("an event is an object"), print(requester));
        let members =
            members.strip_prefix(b"{").and_then(|members| members.strip_suffix(b"}")).expect("an object, too");
        let begin = DATA.len() + object.len();
        let text: Bytes = [DATA, object, b",", members, b"}", END].concat().into();
        Self { text, whose: begin..begin + 1 + members.len(), ..self }
    }

    /// The line, in two parts without who asked.
    pub fn anonymous(&self) -> [&[u8]; 2] {
        [&self.text[..self.whose.start], &self.text[self.whose.end..]]
    }

    /// The CloudEvent alone.
    fn json(&self) -> &[u8] {
        &self.text[DATA.len()..self.text.len() - END.len()]
    }

    /// The CloudEvent alone, in two parts without who asked.
    pub fn anonymous_json(&self) -> [&[u8]; 2] {
        let (begin, end) = (DATA.len(), self.text.len() - END.len());
        // An event that nobody asked for has no such part.
        [&self.text[begin..self.whose.start.max(begin)], &self.text[self.whose.end.max(begin)..end]]
    }

    pub fn is_about(&self, entities: &[Vec<u8>]) -> bool {
        self.entities.iter().any(|entity| entities.iter().any(|wanted| **wanted == **entity))
    }
}

/// Which events are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only events of these entities, if there are any.
    pub keys: Vec<Vec<u8>>,
    /// Only events of these kinds, if there are any.
    pub kinds: Vec<String>,
}

impl EventFilter {
    pub fn shows(&self, item: &Item) -> bool {
        (self.kinds.is_empty() || self.kinds.iter().any(|kind| **kind == *item.kind))
            && (self.keys.is_empty() || item.is_about(&self.keys))
    }
}

/// Where the events of a machine come from, as CloudEvents say it.
pub struct EventOrigin {
    pub machine: String,
    /// `urn:statehouse:<cluster>:<machine>`.
    pub source: String,
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    time: String,
    datacontenttype: &'static str,
    partition: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commandid: Option<String>,
    /// The label of the module that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moduleid: Option<String>,
    data: Json<'a>,
}

/// Who asked: members of the event that not everybody is shown.
#[derive(Serialize)]
struct RequesterMembers<'a> {
    caller: &'a str,
    requestid: &'a str,
}

/// What one line is made of, before it is rendered.
struct LineDraft<'a> {
    command: TailCommand<'a>,
    position: Position,
    kind: Arc<str>,
    entities: Vec<Box<[u8]>>,
    rejection: Option<Rejection>,
    item: RenderItem,
}

/// Renders an entry; `logic` is the module that decided it, if one did. An event that the module cannot render has
/// empty data.
///
/// # Errors
/// See [`render_each`].
pub fn render(entry: &TailEntry, logic: Option<&dyn Logic>, origin: &EventOrigin) -> Result<RenderedEntry, Fault> {
    let head = entry.entry().header().parent;
    let [a, b, c, d, ..] = head.0;
    let mut rendered = RenderedEntry {
        partition: entry.partition(),
        index: entry.index(),
        before8: [a, b, c, d],
        end: entry.position(),
        time: entry.time(),
        items: Vec::new(),
        size: size_of::<RenderedEntry>(),
    };
    if let Ok(activation) = entry.entry().activation() {
        let data = Value::map([
            ("module", Value::Text(activation.module.to_string())),
            ("schema", Value::Int(activation.schema.into())),
            ("number", Value::Int(activation.number.into())),
        ]);
        let json = print(&CloudEvent { data: Json(&data), ..frame(entry, entry.position(), ACTIVATED, origin) });
        rendered.push(Item::new(0, ACTIVATED.into(), Vec::new(), &json));
    }
    if let Some(logic) = logic {
        let mut drafts = drafts(entry, logic).peekable();
        while drafts.peek().is_some() {
            let some: Vec<LineDraft<'_>> = drafts.by_ref().take(RENDER_ITEMS_MAX).collect();
            finish(entry, logic, origin, some)?.for_each(|item| rendered.push(item));
        }
    }
    Ok(rendered)
}

impl RenderedEntry {
    fn push(&mut self, item: Item) {
        let entities: usize = item.entities.iter().map(|entity| entity.len() + size_of::<Box<[u8]>>()).sum();
        self.size += size_of::<Item>() + item.text.len() + entities;
        self.items.push(item);
    }
}

fn drafts<'a>(entry: &'a TailEntry, logic: &dyn Logic) -> impl Iterator<Item = LineDraft<'a>> + use<'a> {
    let names = logic.describe().events.iter().map(|event| Arc::from(event.name.as_str()));
    let (names, rejected): (Vec<Arc<str>>, Arc<str>) = (names.collect(), REJECTED.into());
    entry.commands().flat_map(move |command| {
        let names = names.clone();
        let rejected = rejected.clone();
        let events = command.events().map(move |event| {
            // An event begins with its number in the list that its module declares.
            let number = event.payload.first().copied().unwrap_or_default();
            let kind = names.get(usize::from(number)).cloned().unwrap_or_else(|| format!("Event{number}").into());
            let entities = vec![Box::from(event.entity)];
            let item = RenderItem::Event(event.facts());
            LineDraft { command, position: event.position(), kind, entities, rejection: None, item }
        });
        // A refusal of another partition's call is not the command's outcome; the other partition records that.
        let rejection = command.rejection().filter(|_| command.part().is_outcome());
        let rejection = rejection.map(|rejection| {
            let mut entities: Vec<Box<[u8]>> = command.entities().map(Box::from).collect();
            entities.dedup();
            let item = RenderItem::Rejected(facts(&command, rejection.clone()));
            let (position, rejection) = (command.position(), Some(rejection));
            LineDraft { command, position, kind: rejected, entities, rejection, item }
        });
        events.chain(rejection)
    })
}

fn facts(command: &TailCommand<'_>, rejection: Rejection) -> CommandFacts {
    CommandFacts {
        command: command.command.name.to_owned(),
        id: command.id().0,
        body: command.command.body.to_vec(),
        time: command.time().0,
        position: command.position().to_string(),
        events: Vec::new(),
        rejection: Some(rejection),
        phases: Vec::new(),
    }
}

fn finish<'a>(
    entry: &'a TailEntry,
    logic: &'a dyn Logic,
    origin: &'a EventOrigin,
    drafts: Vec<LineDraft<'a>>,
) -> Result<impl Iterator<Item = Item> + use<'a>, Fault> {
    let (items, drafts): (Vec<RenderItem>, Vec<_>) = drafts
        .into_iter()
        .map(|LineDraft { command, position, kind, entities, rejection, item }| {
            (item, (command, position, kind, entities, rejection))
        })
        .unzip();
    let values = render_each(logic, &items, &Value::Map(Vec::new()))?;
    let finished =
        drafts.into_iter().zip(values).map(move |((command, position, kind, entities, rejection), value)| {
            let data = match rejection {
                Some(rejection) => rejected(command.command.name, rejection, value),
                None => value,
            };
            let subject = entities.first().map(|entity| String::from_utf8_lossy(entity).into_owned());
            let json = print(&CloudEvent {
                subject,
                command: Some(command.command.name),
                commandid: Some(command.id().to_string()),
                module: Some(&logic.describe().version),
                moduleid: Some(logic.id().to_string()),
                data: Json(&data),
                ..frame(entry, position, &kind, origin)
            });
            let requester = RequesterMembers { caller: command.command.caller, requestid: command.command.request_id };
            Item::new(position.n, kind, entities, &json).by(&requester)
        });
    Ok(finished)
}

/// The module may add members, but not replace the host's.
fn rejected(command: &str, rejection: Rejection, more: Value) -> Value {
    let own = [
        ("command", Value::text(command)),
        ("code", Value::Text(rejection.code)),
        ("detail", Value::Text(rejection.detail)),
    ];
    let more = if let Value::Map(pairs) = more { pairs } else { Vec::new() };
    let more = more.into_iter().filter(|(name, _)| own.iter().all(|(other, _)| other != name)).collect::<Vec<_>>();
    Value::map(own.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(more))
}

fn frame<'a>(entry: &TailEntry, position: Position, kind: &str, origin: &'a EventOrigin) -> CloudEvent<'a> {
    CloudEvent {
        specversion: "1.0",
        id: position.to_string(),
        source: &origin.source,
        r#type: format!("statehouse.{}.{kind}", origin.machine),
        subject: None,
        time: print_time(entry.time()),
        datacontenttype: "application/json",
        partition: entry.partition().0,
        command: None,
        commandid: None,
        module: None,
        moduleid: None,
        data: Json(&Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_is_left_out_for_whom_it_does_not_concern() {
        let item = |json: &str| Item::new(0, "Opened".into(), Vec::new(), json.as_bytes());
        let requester = RequesterMembers { caller: "till \"7\"", requestid: "r-1" };
        let told = item(r#"{"id":"0.1.0","data":{}}"#).by(&requester);
        let all = r#"{"id":"0.1.0","data":{},"caller":"till \"7\"","requestid":"r-1"}"#;
        assert_eq!(String::from_utf8_lossy(told.json()), all);
        let anonymous = "data: {\"id\":\"0.1.0\",\"data\":{}}\n\n";
        assert_eq!(String::from_utf8_lossy(&told.anonymous().concat()), anonymous);
        let event = r#"{"id":"0.1.0","data":{}}"#;
        let nobodys = item(event);
        for item in [&told, &nobodys] {
            assert_eq!(String::from_utf8_lossy(&item.anonymous_json().concat()), event);
        }
        assert_eq!(String::from_utf8_lossy(&nobodys.anonymous().concat()), anonymous);
    }
}
