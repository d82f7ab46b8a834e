//! Rows that nobody could have written, and the invariant that finds each.
//!
//! In: rows of one partition. Out: names of violated invariants. Rows in chunks of one, so that the tally crosses chunks.

use statehouse_guest::LOCAL;
use statehouse_guest::abi::cold::{CheckIn, CheckOut, Row};
use statehouse_guest::abi::key::key;
use statehouse_guest::native::{self, Export};
use wallet::{Account, Currency, Status, WalletModule, reserved_key, transit_key};

const USD: Currency = Currency(*b"USD");

fn check(rows: &[(&[u8], &[u8], Vec<u8>)], expected: &[&str]) {
    let (mut accumulator, mut found) = (Vec::new(), Vec::new());
    for at in 0..=rows.len() {
        let row = rows.get(at).map(|(entity, suffix, row)| Row { key: key(entity, suffix), row: Some(row.clone()) });
        let input = CheckIn { accumulator, rows: row.into_iter().collect(), is_last: at == rows.len() };
        let input = minicbor::to_vec(&input).expect("a vector takes all bytes");
        let output: CheckOut =
            minicbor::decode(&native::call::<WalletModule>(Export::Check, &input)).expect("it is CBOR");
        accumulator = output.accumulator;
        found.extend(output.violations.into_iter().map(|violation| violation.invariant));
    }
    assert_eq!(found, expected, "{rows:?}");
}

fn account(status: Status, balance: i128) -> Vec<u8> {
    let mut row = Account::opened(USD);
    Account::set_balance(&mut row, USD, balance);
    Account::set_status(&mut row, status);
    row
}

fn minor(amount: i128) -> Vec<u8> {
    amount.to_le_bytes().to_vec()
}

#[test]
fn a_reservation_is_a_promise_that_can_be_kept() {
    let (reserved, euros) = (reserved_key(USD), reserved_key(Currency(*b"EUR")));
    for (status, amount, expected) in [
        (Status::Open, 1, None),
        (Status::Frozen, 1, None),
        (Status::Closed, 1, Some("receivable")),
        (Status::Open, 0, Some("receivable")),
        (Status::Open, -1, Some("receivable")),
    ] {
        let rows = [(&b"a"[..], &b""[..], account(status, 0)), (b"a", &reserved, minor(amount))];
        check(&rows, expected.as_slice());
    }
    check(&[(b"a", b"", account(Status::Open, 0)), (b"a", &euros, minor(1))], &["receivable"]);
    check(&[(b"a", b"", account(Status::Open, 0)), (b"b", &reserved, minor(1))], &["receivable"]);
    check(&[(b"a", &reserved, minor(1))], &["receivable"]);
    check(&[(b"a", b"", account(Status::Open, 0)), (b"a", &reserved, vec![1])], &["well_formed"]);
    check(&[(b"a", b"", account(Status::Open, 0)), (b"a", b"reserved/", minor(1))], &["well_formed"]);
}

#[test]
fn what_is_reserved_is_no_money() {
    let (reserved, transit) = (reserved_key(USD), transit_key(USD));
    let payee = || [(&b"a"[..], &b""[..], account(Status::Open, 0)), (b"a", &reserved, minor(5))];
    check(&payee(), &[]);
    let [account, reserved] = payee();
    check(&[account, reserved, (LOCAL, &transit, minor(5))], &["balanced"]);
    check(&[(b"a", b"", self::account(Status::Open, -5)), (LOCAL, &transit, minor(5))], &["no_overdraft"]);
}
