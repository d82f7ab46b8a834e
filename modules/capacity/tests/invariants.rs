//! Rows that nobody could have written, and the invariant that finds each; and the bytes of rows, ops and events.
//!
//! In: rows of one partition. Out: names of violated invariants. Rows in chunks of one, so that the tally crosses chunks.

use capacity::{
    CapacityModule, Event, Level, Line, Op, Order, OrderId, OrderStatus, POOL, Pool, PoolStatus, Taken, order_key,
};
use statehouse_guest::LOCAL;
use statehouse_guest::abi::cold::{CheckIn, CheckOut, Row};
use statehouse_guest::abi::key::key;
use statehouse_guest::borsh;
use statehouse_guest::native::{self, Export};

fn check(rows: &[(&[u8], &[u8], Vec<u8>)], expected: &[&str]) {
    let (mut accumulator, mut found) = (Vec::new(), Vec::new());
    for at in 0..=rows.len() {
        let row = rows.get(at).map(|(entity, suffix, row)| Row { key: key(entity, suffix), row: Some(row.clone()) });
        let input = CheckIn { accumulator, rows: row.into_iter().collect(), is_last: at == rows.len() };
        let input = minicbor::to_vec(&input).expect("a vector takes all bytes");
        let output = native::call::<CapacityModule>(Export::Check, &input);
        let output: CheckOut = minicbor::decode(&output).expect("it is CBOR");
        accumulator = output.accumulator;
        found.extend(output.violations.into_iter().map(|violation| violation.invariant));
    }
    assert_eq!(found, expected, "{rows:?}");
}

fn bytes(value: &impl borsh::BorshSerialize) -> Vec<u8> {
    borsh::to_vec(value).expect("a vector takes all bytes")
}

fn level(name: &str, capacity: u32, ordered: u32) -> Level {
    Level { capacity_type: name.into(), capacity, ordered }
}

fn pool(levels: Vec<Level>) -> Vec<u8> {
    bytes(&Pool { status: PoolStatus::Open, version: 1, levels })
}

fn line(name: &str, quantity: u32) -> Line {
    Line { capacity_type: name.into(), quantity }
}

fn order(status: OrderStatus, lines: Vec<Line>) -> Vec<u8> {
    bytes(&Order { status, time: 7, lines })
}

#[test]
fn nothing_is_overbooked_and_sums_are_those_of_the_orders() {
    let (first, second) = (order_key(OrderId([1; 16])), order_key(OrderId([2; 16])));
    let of = |ordered, first_quantity, second_status| {
        [
            (&b"a"[..], POOL, pool(vec![level("meal", 9, 0), level("table", 5, ordered)])),
            (b"a", &first, order(OrderStatus::Placed, vec![line("table", first_quantity)])),
            (b"a", &second, order(second_status, vec![line("table", 2)])),
            (b"b", POOL, pool(vec![level("table", 1, 0)])),
        ]
    };
    check(&of(5, 3, OrderStatus::Pending), &[]);
    check(&of(3, 3, OrderStatus::Cancelled), &[]);
    check(&of(5, 3, OrderStatus::Cancelled), &["ordered"]);
    check(&of(3, 3, OrderStatus::Placed), &["ordered"]);
    check(&of(6, 4, OrderStatus::Placed), &["not_overbooked"]);
    check(&[(b"a", POOL, pool(vec![level("table", 5, 1)]))], &["ordered"]);
}

#[test]
fn rows_are_well_formed() {
    let key = order_key(OrderId([1; 16]));
    let empty = || (&b"a"[..], POOL, pool(vec![level("table", 5, 0)]));
    let placed = |lines| order(OrderStatus::Placed, lines);
    check(&[empty(), (b"a", &key, vec![9])], &["well_formed"]);
    check(&[empty(), (b"a", &key, placed(vec![]))], &["well_formed"]);
    check(&[empty(), (b"a", &key, placed(vec![line("table", 0)]))], &["well_formed"]);
    check(&[empty(), (b"a", &key, placed(vec![line("terrace", 1)]))], &["well_formed"]);
    check(&[empty(), (b"b", &key, placed(vec![line("table", 1)]))], &["well_formed"]);
    check(&[(b"a", &key, placed(vec![line("table", 1)]))], &["well_formed"]);
    check(&[empty(), (b"a", b"order/", placed(vec![line("table", 1)]))], &["well_formed"]);
    check(&[(b"a", POOL, vec![])], &["well_formed"]);
    check(&[(b"a", POOL, pool(vec![level("table", 1, 0), level("meal", 1, 0)]))], &["well_formed"]);
    check(&[(LOCAL, POOL, pool(vec![level("table", 1, 0)]))], &["well_formed"]);
}

#[test]
fn bytes_stay() {
    let table = [&[5, 0, 0, 0][..], b"table"].concat();
    let count = |number: u8| [number, 0, 0, 0];
    let id = OrderId([7; 16]);
    let expected = [&[1][..], &[3, 0, 0, 0, 0, 0, 0, 0], &count(1), &table, &count(9), &count(4)].concat();
    assert_eq!(bytes(&Pool { status: PoolStatus::Closed, version: 3, levels: vec![level("table", 9, 4)] }), expected);
    let expected = [&[2][..], &[7, 0, 0, 0, 0, 0, 0, 0], &count(1), &table, &count(4)].concat();
    assert_eq!(order(OrderStatus::Cancelled, vec![line("table", 4)]), expected);
    assert_eq!(order_key(id), *b"order/\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07");
    for (op, tag) in [(Op::Cancel { order: id }, 4), (Op::Confirm { order: id }, 6), (Op::Release { order: id }, 7)] {
        assert_eq!(bytes(&op), [&[tag][..], &[7; 16]].concat());
    }
    let op = Op::Reserve { order: id, lines: vec![line("table", 4)] };
    assert_eq!(bytes(&op), [&[5][..], &[7; 16], &count(1), &table, &count(4)].concat());
    let taken = Taken { capacity_type: "table".into(), quantity: 4, ordered: 6, left: 3 };
    let event = Event::OrderReleased { order: id, lines: vec![taken] };
    assert_eq!(bytes(&event), [&[7][..], &[7; 16], &count(1), &table, &count(4), &count(6), &count(3)].concat());
}
