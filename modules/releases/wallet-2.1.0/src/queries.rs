//! What can be asked: an account's state from rows; history and outcomes, which the host answers by rendering events.
//!
//! A settlement account is the sum of its shares: the host gives the `@local` rows of every partition, so a share of one
//! currency may come several times. It does not know the position it reads at.

use std::collections::BTreeMap;

use statehouse_guest::{FieldValue, LOCAL, Queries, QueryStop, Reader, Value};

use crate::account::Account;
use crate::amount::format_amount;
use crate::commands::{AccountName, AccountState, TransactionId};
use crate::currency::Currency;
use crate::ledger::{LocalRow, parse_balance, parse_key, settlement_prefix};
use crate::limit::DailyLimit;
use crate::op::ACCOUNT;
use crate::plan::is_settlement;

/// More currencies than ISO 4217 has.
const SHARES_MAX: u32 = 1_000;

#[derive(Queries)]
pub enum Query {
    /// Status and balances of an account
    #[query(path = "accounts/{account}", entity = "account", response = AccountState)]
    Account(AccountName),
    /// What happened to an account, newest first
    #[query(path = "accounts/{account}/history", entity = "account", source = History)]
    History(AccountName),
    /// The outcome of a command
    #[query(path = "transactions/{transaction_id}", entity = "transaction_id", source = Command)]
    Transaction(TransactionId),
}

pub fn query(query: &Query, reader: &Reader<'_>) -> Result<Value, QueryStop> {
    match query {
        Query::Account(AccountName { account }) if is_settlement(account) => settlement(account, reader),
        Query::Account(AccountName { account }) => match reader.row(account, ACCOUNT)? {
            Some(row) => {
                let parsed = Account::parse(row).expect("an account's row is one that apply wrote");
                Ok(state(account, &parsed, |limit| ("left", limit.left_at(reader.time()))))
            }
            None => Err(QueryStop::not_found("account_not_found", format!("there is no account {account}"))),
        },
        Query::History(_) | Query::Transaction(_) => {
            Err(QueryStop::refused(400, "not_from_rows", "this is answered from the log, not from rows"))
        }
    }
}

/// An account as it is shown; `counted` is what is shown beside a daily limit, in minor units.
pub fn state(name: &str, account: &Account<'_>, counted: impl Fn(&DailyLimit) -> (&'static str, u64)) -> Value {
    let limits = account.limits().map(|(currency, limit)| {
        let (name, minor) = counted(&limit);
        let [limit, counted] = [limit.limit, minor].map(|minor| Value::Text(format_amount(minor.into(), currency)));
        (currency.to_string(), Value::map([("limit", limit), (name, counted)]))
    });
    AccountState {
        account: name.into(),
        status: account.status().name().into(),
        version: Some(account.version()),
        balances: balances(account.holdings()),
        daily_limits: (account.limits().next().is_some()).then(|| Value::map(limits)),
    }
    .to_value()
}

fn settlement(account: &str, reader: &Reader<'_>) -> Result<Value, QueryStop> {
    let page = reader.scan(LOCAL, settlement_prefix(account), None, SHARES_MAX)?;
    let mut sums: BTreeMap<Currency, i128> = BTreeMap::new();
    for (suffix, row) in page.rows() {
        let (Some(LocalRow::Settlement(_, currency)), Some(share)) = (parse_key(suffix), parse_balance(row)) else {
            panic!("the share {} is malformed", suffix.escape_ascii());
        };
        let sum = sums.entry(currency).or_default();
        *sum = sum.checked_add(share).expect("the sum of all shares fits as long as all accounts' sum does");
    }
    let balances = balances(sums.into_iter());
    Ok(AccountState { account: account.into(), status: "open".into(), version: None, balances, daily_limits: None }
        .to_value())
}

/// Currency codes with balances in their canonical spelling.
fn balances(holdings: impl Iterator<Item = (Currency, i128)>) -> Value {
    Value::map(holdings.map(|(currency, balance)| {
        let balance = format_amount(balance, currency);
        (currency.to_string(), Value::Text(balance))
    }))
}
