//! What can be asked: an account at a moment, and its statement between two.
//!
//! An ordinary account lives in one partition; a settlement account in all, and its balance is the sum of its parts. It does not know where
//! rows lie.

use std::collections::BTreeMap;

use statehouse_guest::{Body, FieldValue, Queries, QueryStop, Value};
use statehouse_projection::{Decimal, Order, Range, Reader, TimeKey, params, time};

use crate::event::text;
use crate::rows::{HEAD, LINE, Line, State};

const LINES_DEFAULT: u32 = 100;

#[derive(Body)]
pub struct AccountName {
    #[body(name, max_chars = 64)]
    pub account: String,
}

#[derive(Body)]
pub struct Period {
    #[body(name, max_chars = 64)]
    pub account: String,
    /// The first moment, RFC 3339 or a date (its first moment in UTC); without it the beginning
    #[body(max_chars = 40)]
    pub from: Option<String>,
    /// The moment before which it ends; without it the newest
    #[body(max_chars = 40)]
    pub to: Option<String>,
    /// ISO 4217 code: postings of this currency alone
    #[body(currency)]
    pub currency: Option<String>,
    /// Continue behind the postings of an earlier page: its `next_cursor`
    #[body(max_chars = 64)]
    pub cursor: Option<String>,
    /// At most this many postings, 1 to 1000; default 100
    #[body(max_chars = 4)]
    pub limit: Option<String>,
}

#[derive(Body)]
pub struct Newest {
    #[body(name, max_chars = 64)]
    pub account: String,
    /// Continue behind this position: the `next_cursor` of a page
    #[body(max_chars = 64)]
    pub cursor: Option<String>,
    /// At most this many items, 1 to 1000; default 100
    #[body(max_chars = 4)]
    pub limit: Option<String>,
}

#[derive(Body)]
pub struct AccountState {
    pub account: String,
    /// `open`, `frozen` or `closed`
    pub status: String,
    /// How many events had changed the account; absent for a settlement account
    pub version: Option<u64>,
    /// Currency and balance
    pub balances: Value,
}

#[derive(Body)]
pub struct Statement {
    pub account: String,
    pub from: Option<String>,
    pub to: Option<String>,
    /// Currency and balance, at the beginning of the period
    pub opening: Value,
    /// In their order, each with the balance after it and its position
    pub postings: Vec<Value>,
    /// Currency and balance, at the end of the period
    pub closing: Value,
    /// Absent on the last page
    pub next_cursor: Option<String>,
}

#[derive(Queries)]
pub enum Query {
    /// Status and balances of an account at a moment
    #[query(path = "accounts/{account}", entity = "account", response = AccountState)]
    Account(AccountName),
    /// What happened to an account, newest first
    #[query(path = "accounts/{account}/history", entity = "account")]
    History(Newest),
    /// What was posted to an account in a period, with opening and closing balances
    #[query(path = "accounts/{account}/statement", entity = "account", response = Statement)]
    Statement(Period),
}

pub fn query(query: &Query, reader: &Reader<'_>) -> Result<Value, QueryStop> {
    match query {
        Query::Account(AccountName { account }) => state(account, reader),
        Query::History(newest) => history(newest, reader),
        Query::Statement(period) => statement(period, reader),
    }
}

fn is_settlement(account: &str) -> bool {
    account.starts_with('@')
}

/// Where an account has rows.
fn partitions(account: &str, reader: &Reader<'_>) -> Vec<u32> {
    match reader.home().filter(|_| !is_settlement(account)) {
        Some(home) => vec![home],
        None => reader.partitions().iter().map(|followed| followed.partition).collect(),
    }
}

fn state(account: &str, reader: &Reader<'_>) -> Result<Value, QueryStop> {
    let partitions = partitions(account, reader);
    let mut position = None;
    let states = match reader.at() {
        Some(at) => {
            let lines = lines_before(
                account,
                partitions.into_iter().map(|id| (id, TimeKey::begin(at.saturating_add(1)).suffix(LINE))),
                reader,
            )?;
            position = lines.first().map(|line| line.position.clone());
            lines.into_iter().map(|line| line.after).collect()
        }
        None => {
            let mut states = Vec::new();
            for partition in partitions {
                states.extend(reader.read::<State>(partition, account, HEAD)?);
            }
            states
        }
    };
    if states.iter().any(|state| !state.is_known) {
        return Err(QueryStop::refused(
            422,
            "not_answered_here",
            "something happened to it that this view does not know",
        ));
    }
    let balances = shown(&sum(&states));
    let account = account.to_string();
    if is_settlement(&account) {
        return Ok(AccountState { account, status: "open".into(), version: None, balances }.to_value());
    }
    let Some(State { status, version, .. }) = states.into_iter().next() else {
        return Err(not_found(&account));
    };
    let value = AccountState { account, status, version: Some(version), balances }.to_value();
    Ok(with(value, "position", position.map(Value::Text)))
}

/// With the members that the wallet's own history has. The host says of which time the cursor's entry is.
fn history(newest: &Newest, reader: &Reader<'_>) -> Result<Value, QueryStop> {
    let limit = params::number("limit", newest.limit.as_deref(), LINES_DEFAULT, 1000)?;
    let Some(home) = reader.home().filter(|_| !is_settlement(&newest.account)) else {
        let detail = "a settlement account has no history of its own: ask for its statement";
        return Err(QueryStop::refused(422, "not_answered_here", detail));
    };
    let behind = match (&newest.cursor, reader.at()) {
        (None, _) => TimeKey::begin(i64::MAX),
        (Some(cursor), Some(time)) => {
            let n = cursor.split(['.', '~']).nth(2).and_then(|n| n.parse().ok());
            let refuse = || QueryStop::refused(400, "malformed_cursor", "cursor must be the next_cursor of a page");
            TimeKey { time, n: n.ok_or_else(refuse)?, partition: 0 }
        }
        (Some(_), None) => return Err(QueryStop::refused(422, "not_answered_here", "the cursor's entry is not here")),
    };
    let page = reader.scan(&Range {
        partition: Some(home),
        entity: newest.account.as_bytes(),
        prefix: LINE,
        after: Some(&behind.suffix(LINE)),
        limit,
        order: Order::Falling,
    })?;
    let lines: Vec<Line> = page.rows().map(|(_, _, row)| decode(row)).collect();
    let next = lines.last().filter(|_| page.has_more()).map(|line| Value::text(line.position.as_str()));
    let items = Value::Array(lines.iter().map(Line::shown).collect());
    Ok(Value::map([("items", items), ("next_cursor", next.unwrap_or(Value::Null))]))
}

fn not_found(account: &str) -> QueryStop {
    QueryStop::not_found("account_not_found", format!("there is no account {account}"))
}

/// In each partition, the newest line before a key, where there is one.
fn lines_before(
    account: &str,
    bounds: impl Iterator<Item = (u32, Vec<u8>)>,
    reader: &Reader<'_>,
) -> Result<Vec<Line>, QueryStop> {
    let bounds: Vec<(u32, Vec<u8>)> = bounds.collect();
    let ranges: Vec<Range<'_>> = bounds
        .iter()
        .map(|(partition, before)| Range {
            partition: Some(*partition),
            entity: account.as_bytes(),
            prefix: LINE,
            after: Some(before),
            limit: 1,
            order: Order::Falling,
        })
        .collect();
    let pages = reader.scans(&ranges)?;
    let rows = pages.iter().flat_map(|page| page.rows().collect::<Vec<_>>());
    Ok(rows.map(|(_, _, row)| decode(row)).collect())
}

fn decode(row: &[u8]) -> Line {
    borsh::from_slice(row).expect("a line is one that this view wrote")
}

type Balances = BTreeMap<String, Decimal>;

fn sum(states: &[State]) -> Balances {
    let mut sums = Balances::new();
    for (currency, _) in states.iter().flat_map(|state| &state.balances) {
        let add = |sum: Decimal, state: &State| {
            sum.checked_add(state.balance(currency).unwrap_or_default()).expect("balances add up to what fits")
        };
        sums.insert(currency.clone(), states.iter().fold(Decimal::default(), add));
    }
    sums
}

fn shown(balances: &Balances) -> Value {
    Value::map(balances.iter().map(|(currency, balance)| (currency.clone(), Value::Text(balance.to_string()))))
}

fn with(value: Value, name: &str, member: Option<Value>) -> Value {
    match (value, member) {
        (Value::Map(pairs), Some(member)) => Value::map(pairs.into_iter().chain([(name.to_string(), member)])),
        (value, _) => value,
    }
}

/// The first key of a partition that is behind a cursor.
fn behind(cursor: TimeKey) -> Vec<u8> {
    let mut key = cursor.suffix(LINE);
    key.push(0);
    key
}

fn statement(period: &Period, reader: &Reader<'_>) -> Result<Value, QueryStop> {
    let Period { account, currency, .. } = period;
    let (from, to) = (params::moment("from", period.from.as_deref())?, params::moment("to", period.to.as_deref())?);
    if from.zip(to).is_some_and(|(from, to)| to < from) {
        return Err(QueryStop::refused(400, "malformed_period", "to lies before from: turn them round"));
    }
    let cursor = params::cursor(period.cursor.as_deref())?;
    let limit = params::number("limit", period.limit.as_deref(), LINES_DEFAULT, 1000)?;
    let ids = partitions(account, reader);
    let (begin, end) = (from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX));
    let begin_key = TimeKey::begin(begin).suffix(LINE);
    let at = |key: &[u8]| lines_before(account, ids.iter().map(|id| (*id, key.to_vec())), reader);
    let states = |lines: Vec<Line>| lines.into_iter().map(|line| line.after).collect::<Vec<State>>();
    // Asked for before any is waited for, so that all come in one round.
    let (opening, closing) = (at(&begin_key), at(&TimeKey::begin(end).suffix(LINE)));
    let before = cursor.map(|cursor| at(&behind(cursor)));
    // A key that is a beginning of another one lies before it, so that a line at the very beginning of the period is not left out.
    let after = cursor.map_or_else(|| begin_key[..LINE.len() + 8].to_vec(), |cursor| cursor.suffix(LINE));
    let page = reader.scan(&Range {
        partition: reader.home().filter(|_| !is_settlement(account)),
        entity: account.as_bytes(),
        prefix: LINE,
        after: Some(&after),
        limit,
        order: Order::Rising,
    });
    let (opening, closing, page) = (sum(&states(opening?)), sum(&states(closing?)), page?);
    let running = match before {
        Some(before) => sum(&states(before?)),
        None => opening.clone(),
    };
    if opening.is_empty() && closing.is_empty() && !is_settlement(account) && reader.home().is_some() {
        let head = reader.row(reader.home().unwrap_or_default(), account, HEAD)?;
        if head.is_none() {
            return Err(not_found(account));
        }
    }
    let is_of = |code: &str| currency.as_deref().is_none_or(|wanted| wanted == code);
    let only = |balances: Balances| shown(&balances.into_iter().filter(|(code, _)| is_of(code)).collect());
    let mut postings = Postings { running, shown: Vec::new() };
    let (mut last, mut is_over) = (None, !page.has_more());
    for (_, suffix, row) in page.rows() {
        let Some(key) = TimeKey::parse(LINE, suffix).filter(|key| key.time < end) else {
            is_over = true;
            break;
        };
        last = Some(key.to_string());
        postings.add(&decode(row), is_of);
    }
    Ok(Statement {
        account: account.clone(),
        from: from.map(time::print),
        to: to.map(time::print),
        opening: only(opening),
        postings: postings.shown,
        closing: only(closing),
        next_cursor: last.filter(|_| !is_over),
    }
    .to_value())
}

/// The postings of a page, and the balances after the last one.
struct Postings {
    running: Balances,
    shown: Vec<Value>,
}

impl Postings {
    fn add(&mut self, line: &Line, is_wanted: impl Fn(&str) -> bool) {
        let shown = line.shown();
        let (Some(currency), Some(amount)) =
            (text(&shown, "currency"), text(&shown, "amount").and_then(Decimal::parse))
        else {
            return;
        };
        let running = self.running.entry(currency.to_string()).or_default();
        *running = running.checked_add(amount).expect("balances add up to what fits");
        if is_wanted(currency) {
            let balance = Value::Text(running.to_string());
            let posting = with(shown, "balance", Some(balance));
            self.shown.push(with(posting, "position", Some(Value::text(line.position.as_str()))));
        }
    }
}
