//! The view `audit_trail`: who asked what of the wallet, which module decided, and what came of it; by account, by caller, by time.
//!
//! In: decisions that carry the outcome a client was told. Out: one record each, found over three indexes. What was refused before it was
//! planned is not recorded anywhere, so it is not here either.

use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::{Body, FieldValue, Queries, QueryStop, Uuid, Value, role};
use statehouse_projection::{
    Decision, FromDecision, Order, Pending, Projection, Range, Reader, TimeKey, ViewTx, params,
};

/// The entity that has all records, in order of time.
const TRAIL: &str = "trail";
const ACCOUNT: &str = "a:";
const CALLER: &str = "c:";
/// Longer names share an index with others that begin so; their records are told apart when they are read.
const NAME_BYTES_MAX: usize = 96;
const READERS: u32 = role::AUDITOR | role::DEVELOPER | role::OPERATOR | role::ADMIN;

#[derive(Body)]
pub struct Asked {
    /// Only what was about this account
    #[body(name, max_chars = 64)]
    pub account: Option<String>,
    /// Only what this caller asked for
    #[body(max_chars = 256)]
    pub caller: Option<String>,
    /// Not before this moment: RFC 3339, or a date
    #[body(max_chars = 40)]
    pub from: Option<String>,
    /// Before this moment
    #[body(max_chars = 40)]
    pub to: Option<String>,
    /// Continue behind an earlier page: its `next_cursor`
    #[body(max_chars = 64)]
    pub cursor: Option<String>,
    /// At most this many, 1 to 1000; default 100
    #[body(max_chars = 4)]
    pub limit: Option<String>,
}

#[derive(Body)]
pub struct Page {
    /// Newest first
    pub items: Vec<Value>,
    /// Absent on the last page
    pub next_cursor: Option<String>,
}

#[derive(Queries)]
pub enum Query {
    /// Who asked what, which module decided, and what came of it
    #[query(path = "audit/trail", response = Page)]
    Trail(Asked),
}

/// An outcome.
#[derive(BorshSerialize, BorshDeserialize)]
pub struct Record {
    pub time: i64,
    pub position: String,
    pub command: String,
    pub id: [u8; 16],
    pub caller: String,
    pub request_id: String,
    pub module: [u8; 32],
    pub entities: Vec<String>,
    /// The types of the events.
    pub events: Vec<String>,
    /// Code and detail.
    pub rejection: Option<(String, String)>,
}

/// A record and its place.
pub struct Decided {
    key: TimeKey,
    record: Record,
}

impl FromDecision for Decided {
    fn read(decision: &Decision) -> Vec<Self> {
        if !decision.part.is_outcome() {
            return Vec::new();
        }
        let kind = |value: &Value| value.find("type").and_then(Value::as_text).unwrap_or_default().to_string();
        let rejection = decision.rejection.as_ref();
        let record = Record {
            time: decision.time,
            position: decision.position(0),
            command: decision.command.clone(),
            id: decision.id,
            caller: decision.caller.clone(),
            request_id: decision.request_id.clone(),
            module: decision.module,
            entities: decision.entities.clone(),
            events: decision.events.iter().map(|event| kind(&event.value)).collect(),
            rejection: rejection.map(|rejection| (rejection.code.clone(), rejection.detail.clone())),
        };
        vec![Self { key: TimeKey::of(decision, 0), record }]
    }
}

pub struct AuditTrail;

impl Projection for AuditTrail {
    const NAME: &'static str = "audit_trail";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SOURCE: &'static str = "wallet";
    const SCHEMA: u32 = 1;

    type Event = Decided;
    type Query = Query;

    fn project(Decided { key, record }: &Decided, tx: &mut ViewTx<'_>) -> Result<(), Pending> {
        let key = key.suffix(b"");
        tx.write(TRAIL, &key, record);
        tx.put(index(CALLER, &record.caller), &key, Vec::new());
        for entity in &record.entities {
            tx.put(index(ACCOUNT, entity), &key, Vec::new());
        }
        Ok(())
    }

    fn query(Query::Trail(asked): &Query, reader: &Reader<'_>) -> Result<Value, QueryStop> {
        if !reader.has_role(READERS) {
            let detail = "only an auditor, developer, operator or admin reads the audit trail";
            return Err(QueryStop::refused(403, "forbidden", detail));
        }
        trail(asked, reader)
    }
}

statehouse_projection::export!(AuditTrail);

/// A name as the entity of an index.
fn index(kind: &str, name: &str) -> Vec<u8> {
    let name = &name.as_bytes()[..name.len().min(NAME_BYTES_MAX)];
    [kind.as_bytes(), name].concat()
}

fn trail(asked: &Asked, reader: &Reader<'_>) -> Result<Value, QueryStop> {
    let (from, to) = (params::moment("from", asked.from.as_deref())?, params::moment("to", asked.to.as_deref())?);
    let limit = params::number("limit", asked.limit.as_deref(), 100, 1000)?;
    let cursor = params::cursor(asked.cursor.as_deref())?;
    let behind = cursor.unwrap_or(TimeKey::begin(to.unwrap_or(i64::MAX))).suffix(b"");
    let entity = match (&asked.account, &asked.caller) {
        (Some(account), _) => index(ACCOUNT, account),
        (None, Some(caller)) => index(CALLER, caller),
        (None, None) => TRAIL.as_bytes().to_vec(),
    };
    let page = reader.scan(&Range {
        partition: None,
        entity: &entity,
        prefix: b"",
        after: Some(&behind),
        limit,
        order: Order::Falling,
    })?;
    let begin = TimeKey::begin(from.unwrap_or(i64::MIN)).suffix(b"");
    let keys: Vec<(u32, &[u8])> = page.rows().map(|(partition, suffix, _)| (partition, suffix)).collect();
    let wanted: Vec<(u32, &[u8])> = keys.iter().copied().filter(|(_, suffix)| begin.as_slice() <= *suffix).collect();
    let ranges: Vec<Range<'_>> = wanted
        .iter()
        .map(|(partition, suffix)| Range {
            partition: Some(*partition),
            entity: TRAIL.as_bytes(),
            prefix: suffix,
            after: None,
            limit: 1,
            order: Order::Rising,
        })
        .collect();
    let found = reader.scans(&ranges)?;
    let records = found.iter().flat_map(|page| page.rows().collect::<Vec<_>>());
    let records =
        records.map(|(_, _, row)| borsh::from_slice::<Record>(row).expect("a record is one that this view wrote"));
    let is_wanted = |record: &Record| {
        asked.account.as_ref().is_none_or(|account| record.entities.contains(account))
            && asked.caller.as_ref().is_none_or(|caller| record.caller == *caller)
    };
    let items = records.filter(is_wanted).map(|record| shown(&record)).collect();
    let is_over = !page.has_more() || wanted.len() < keys.len();
    let last = wanted.last().filter(|_| !is_over).and_then(|(_, suffix)| TimeKey::parse(b"", suffix));
    Ok(Page { items, next_cursor: last.map(|last| last.to_string()) }.to_value())
}

fn shown(record: &Record) -> Value {
    let hex: String = record.module.iter().map(|byte| format!("{byte:02x}")).collect();
    let texts = |texts: &[String]| Value::Array(texts.iter().map(Value::text).collect());
    let mut members = vec![
        ("time", Value::Int(record.time.into())),
        ("position", Value::text(&record.position)),
        ("command", Value::text(&record.command)),
        ("id", Value::Text(Uuid(record.id).to_string())),
        ("caller", Value::text(&record.caller)),
        ("request_id", Value::text(&record.request_id)),
        ("module", Value::Text(hex)),
        ("accounts", texts(&record.entities)),
        ("outcome", Value::text(if record.rejection.is_some() { "rejected" } else { "accepted" })),
    ];
    match &record.rejection {
        Some((code, detail)) => members.extend([("code", Value::text(code)), ("detail", Value::text(detail))]),
        None => members.push(("events", texts(&record.events))),
    }
    Value::map(members)
}
