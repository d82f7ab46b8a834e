//! The invariants, over all rows of a partition: the books balance, nobody is overdrawn, what is reserved can be received,
//! every row can be read.
//!
//! In: rows in order of key. Out: violations, in words. It does not know which event broke a row.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::{LOCAL, Named, Violations};

use crate::account::{Account, Status};
use crate::amount::format_amount;
use crate::currency::Currency;
use crate::ledger::{LocalRow, parse_balance, parse_key};
use crate::reservation::parse_reserved_key;

const BALANCED: &str = "balanced";
const NO_OVERDRAFT: &str = "no_overdraft";
const RECEIVABLE: &str = "receivable";
const WELL_FORMED: &str = "well_formed";

pub(crate) const INVARIANTS: &[Named] = &[
    Named { name: BALANCED, summary: "Accounts, settlement shares and transit of every currency add up to 0" },
    Named { name: NO_OVERDRAFT, summary: "No account is below 0 in any currency" },
    Named {
        name: RECEIVABLE,
        summary: "Every reservation is greater than 0, of an account that is not closed, in a currency it holds",
    },
    Named { name: WELL_FORMED, summary: "Every row is one that this module could have written" },
];

#[derive(Default, BorshSerialize, BorshDeserialize)]
pub struct Tally {
    /// The sum of all balances by currency, minor units. Reservations are not in it: they are no money.
    sums: BTreeMap<Currency, i128>,
    /// The account whose row came last: those of its reservations come behind it.
    account: Vec<u8>,
    account_row: Vec<u8>,
}

pub fn row(tally: &mut Tally, entity: &[u8], suffix: &[u8], row: &[u8], violations: &mut Violations) {
    if entity == LOCAL {
        match (parse_key(suffix), parse_balance(row)) {
            (Some(LocalRow::Transit(currency) | LocalRow::Settlement(_, currency)), Some(balance)) => {
                add(tally, currency, balance, violations);
            }
            _ => malformed(entity, suffix, violations),
        }
        return;
    }
    if !suffix.is_empty() {
        return reserved(tally, entity, suffix, row, violations);
    }
    let Some(account) = Account::parse(row).filter(is_in_order) else {
        return malformed(entity, suffix, violations);
    };
    for (to, from) in [(&mut tally.account, entity), (&mut tally.account_row, row)] {
        to.clear();
        to.extend_from_slice(from);
    }
    for (currency, balance) in account.holdings() {
        add(tally, currency, balance, violations);
        if balance < 0 {
            let balance = format_amount(balance, currency);
            violations.report(NO_OVERDRAFT, format!("{} stands at {balance} {currency}", entity.escape_ascii()));
        }
    }
}

fn reserved(tally: &Tally, entity: &[u8], suffix: &[u8], row: &[u8], violations: &mut Violations) {
    let (Some(currency), Some(reserved)) = (parse_reserved_key(suffix), parse_balance(row)) else {
        return malformed(entity, suffix, violations);
    };
    let account = Account::parse(&tally.account_row).filter(|_| tally.account == entity);
    let can_receive =
        account.is_some_and(|account| account.status() != Status::Closed && account.balance(currency).is_some());
    if reserved <= 0 || !can_receive {
        let reserved = format_amount(reserved, currency);
        let entity = entity.escape_ascii();
        violations.report(RECEIVABLE, format!("{reserved} {currency} are reserved for {entity}"));
    }
}

pub fn end(tally: &Tally, violations: &mut Violations) {
    for (currency, sum) in &tally.sums {
        if *sum != 0 {
            let sum = format_amount(*sum, *currency);
            violations.report(BALANCED, format!("all balances in {currency} add up to {sum}"));
        }
    }
}

fn is_in_order(account: &Account<'_>) -> bool {
    let limits_are_good =
        account.limits().all(|(currency, limit)| 0 < limit.limit && account.balance(currency).is_some());
    limits_are_good
        && account.holdings().zip(account.holdings().skip(1)).all(|((before, _), (after, _))| before < after)
        && account.limits().zip(account.limits().skip(1)).all(|((before, _), (after, _))| before < after)
}

fn add(tally: &mut Tally, currency: Currency, balance: i128, violations: &mut Violations) {
    let sum = tally.sums.entry(currency).or_default();
    match sum.checked_add(balance) {
        Some(added) => *sum = added,
        None => violations.report(BALANCED, format!("the sum of all balances in {currency} overflows")),
    }
}

fn malformed(entity: &[u8], suffix: &[u8], violations: &mut Violations) {
    let (entity, suffix) = (entity.escape_ascii(), suffix.escape_ascii());
    violations.report(WELL_FORMED, format!("the row {suffix:?} of {entity} is malformed", suffix = suffix.to_string()));
}
