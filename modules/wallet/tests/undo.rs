//! Compensations, and rows at their limits: groups made by hand, because no command leads to such rows.
//!
//! Each case is one op on rows that are given, executed and applied, and the rows that change.

use statehouse_guest::LOCAL;
use statehouse_guest::abi::call::{Context, ExecuteOut, write_apply_in, write_execute_in};
use statehouse_guest::abi::cold::Rejection;
use statehouse_guest::abi::key::key;
use statehouse_guest::abi::ops::{OpRole, OpsBlock, OpsWriter};
use statehouse_guest::abi::outcome::{GroupOutcome, OutcomeBlock};
use statehouse_guest::abi::rows::{RowsWriter, WritesBlock};
use statehouse_guest::borsh;
use statehouse_guest::native::{self, Export};
use wallet::{
    ACCOUNT, Account, Currency, Event, Money, Op, Posting, RESERVED_BALANCE_MAX, Status, WalletModule, reserved_key,
    settlement_key, transit_key,
};

const USD: Currency = Currency(*b"USD");

fn account(status: Status, balance: i128) -> Vec<u8> {
    let mut row = Account::opened(USD);
    Account::set_balance(&mut row, USD, balance);
    Account::set_status(&mut row, status);
    row
}

/// The event, or the code of the rejection; and the account's row and the local row afterwards.
fn play(
    op: &Op,
    role: OpRole,
    account: Option<Vec<u8>>,
    local: i128,
) -> (Result<Event, String>, Option<Vec<u8>>, Option<i128>) {
    play_reserved(op, role, account, local, None)
}

/// The same where this much is reserved already.
fn play_reserved(
    op: &Op,
    role: OpRole,
    account: Option<Vec<u8>>,
    local: i128,
    reserved: Option<i128>,
) -> (Result<Event, String>, Option<Vec<u8>>, Option<i128>) {
    let local_key = match op {
        Op::Deposit { settlement, .. } | Op::Withdraw { settlement, .. } => settlement_key(settlement, USD),
        _ => transit_key(USD).to_vec(),
    };
    let mut ops = OpsWriter::default();
    ops.group(0);
    let keys = [(&b"alice"[..], ACCOUNT), (LOCAL, &local_key), (b"alice", &reserved_key(USD))];
    let keys = keys.map(|(entity, suffix)| ops.key(&key(entity, suffix)));
    ops.op(b"alice", &borsh::to_vec(op).expect("a vector takes all bytes"), keys, role);
    let ops = ops.finish(Vec::new());
    let mut rows = RowsWriter::default();
    rows.row(account.as_deref());
    rows.row(Some(&local.to_le_bytes()));
    rows.row(reserved.map(i128::to_le_bytes).as_ref().map(<[u8; 16]>::as_slice));
    let rows = rows.finish(Vec::new());
    let context = Context { time: 1, seed: [0; 32] };
    let output = native::call::<WalletModule>(Export::Execute, &write_execute_in(Vec::new(), context, &ops, &rows));
    let output = ExecuteOut::parse(&output).expect("execute gives an EXECUTE_OUT block");
    let applied = write_apply_in(Vec::new(), context, &ops, &rows, output.outcome);
    assert_eq!(native::call::<WalletModule>(Export::Apply, &applied), output.writes);
    let writes = WritesBlock::parse(output.writes, 3).expect("writes are of the three keys");
    let written = |index| writes.writes().find(|(key, _)| *key == index).and_then(|(_, row)| row.map(<[u8]>::to_vec));
    let parsed = OpsBlock::parse(&ops).expect("the block is well-formed");
    let outcome = OutcomeBlock::parse(output.outcome, &parsed).expect("the outcome fits the ops");
    let decided = match outcome.group(0) {
        GroupOutcome::Events { first, .. } => {
            Ok(borsh::from_slice(outcome.event(first as usize).payload).expect("the event is one of the module's"))
        }
        GroupOutcome::Rejected(rejection) => {
            let rejection: Rejection = minicbor::decode(rejection).expect("a rejection is CBOR");
            Err(rejection.code)
        }
        GroupOutcome::NeedsKeys => panic!("all keys are declared"),
    };
    let local = written(1).map(|row| i128::from_le_bytes(row.try_into().expect("a balance has 16 bytes")));
    (decided, written(0), local)
}

fn money(amount: u64) -> Money {
    Money { currency: USD, amount }
}

fn reversal(amount: u64, balance: i128) -> Posting {
    Posting { money: money(amount), balance, is_reversal: true }
}

#[test]
fn a_debit_is_given_back_whatever_the_account_became() {
    for (before, after) in
        [(Status::Open, Status::Open), (Status::Frozen, Status::Frozen), (Status::Closed, Status::Frozen)]
    {
        let (event, row, transit) = play(&Op::Credit(money(7)), OpRole::Undo, Some(account(before, 0)), 7);
        assert_eq!(event, Ok(Event::Credited(reversal(7, 7))));
        let row = row.expect("the account changed");
        let account = Account::parse(&row).expect("the row is well-formed");
        assert_eq!((account.status(), account.balance(USD), account.version()), (after, Some(7), 4));
        assert_eq!(transit, Some(0));
    }
}

#[test]
fn a_credit_is_taken_back_but_never_below_zero() {
    let undo = Op::Debit(money(7));
    let (event, _, transit) = play(&undo, OpRole::Undo, Some(account(Status::Frozen, 9)), -7);
    assert_eq!((event, transit), (Ok(Event::Debited(reversal(7, 2))), Some(0)));
    let (event, row, transit) = play(&undo, OpRole::Undo, Some(account(Status::Open, 6)), -7);
    assert_eq!((event, row, transit), (Err("insufficient_funds".into()), None, None));
}

#[test]
fn deposits_and_withdrawals_can_be_undone() {
    let settlement = "@bank".to_string();
    let undo = Op::Withdraw { money: money(7), settlement: settlement.clone() };
    let (event, _, share) = play(&undo, OpRole::Undo, Some(account(Status::Frozen, 7)), -7);
    let withdrawn = Event::Withdrawn { posting: reversal(7, 0), settlement: settlement.clone() };
    assert_eq!((event, share), (Ok(withdrawn), Some(0)));
    let undo = Op::Deposit { money: money(7), settlement: settlement.clone() };
    let (event, _, share) = play(&undo, OpRole::Undo, Some(account(Status::Closed, 0)), 7);
    assert_eq!((event, share), (Ok(Event::Deposited { posting: reversal(7, 7), settlement }), Some(0)));
}

#[test]
fn a_balance_at_its_limit_takes_no_more() {
    let full = Some(account(Status::Open, i128::MAX - 6));
    let (event, row, transit) = play(&Op::Credit(money(7)), OpRole::Step, full.clone(), 7);
    assert_eq!((event, row, transit), (Err("balance_overflow".into()), None, None));
    let (event, ..) = play(&Op::Credit(money(6)), OpRole::Step, full, 7);
    assert_eq!(event, Ok(Event::Credited(Posting { money: money(6), balance: i128::MAX, is_reversal: false })));
}

#[test]
fn a_reservation_leaves_room_for_all_that_may_come_before_it_is_settled() {
    let open = |balance| Some(account(Status::Open, balance));
    let reserve =
        |balance, reserved| play_reserved(&Op::Reserve(money(7)), OpRole::Step, open(balance), 0, Some(reserved)).0;
    let most = Ok(Event::Reserved { money: money(7), reserved: RESERVED_BALANCE_MAX - 5 });
    assert_eq!(reserve(5, RESERVED_BALANCE_MAX - 12), most);
    assert_eq!(reserve(6, RESERVED_BALANCE_MAX - 12), Err("balance_overflow".into()));
    assert_eq!(reserve(i128::MAX, 1), Err("balance_overflow".into()));
    assert_eq!(reserve(0, i128::MAX), Err("balance_overflow".into()));
    let settle = Op::Settle(money(7));
    let (event, row, transit) = play_reserved(&settle, OpRole::Step, open(i128::MAX - 7), -7, Some(9));
    let posting = Posting { money: money(7), balance: i128::MAX, is_reversal: false };
    assert_eq!((event, transit), (Ok(Event::Settled { posting, reserved: 2 }), Some(-14)));
    assert_eq!(row.as_deref().and_then(Account::parse).and_then(|account| account.balance(USD)), Some(i128::MAX));
}

#[test]
fn bytes_of_ops_and_events_stay() {
    let op = borsh::to_vec(&Op::Debit(money(0x0102))).expect("a vector takes all bytes");
    assert_eq!(op, [&[0][..], b"USD", &[2, 1, 0, 0, 0, 0, 0, 0]].concat());
    let event = borsh::to_vec(&Event::Credited(reversal(1, 2))).expect("a vector takes all bytes");
    let balance = 2i128.to_le_bytes();
    assert_eq!(event, [&[1][..], b"USD", &[1, 0, 0, 0, 0, 0, 0, 0], &balance, &[1]].concat());
    for (op, tag) in [(Op::Reserve(money(1)), 8), (Op::Release(money(1)), 9), (Op::Settle(money(1)), 10)] {
        let op = borsh::to_vec(&op).expect("a vector takes all bytes");
        assert_eq!(op, [&[tag][..], b"USD", &[1, 0, 0, 0, 0, 0, 0, 0]].concat());
    }
    let money = money(1);
    for (event, tag) in [(Event::Reserved { money, reserved: 2 }, 8), (Event::Released { money, reserved: 2 }, 9)] {
        let event = borsh::to_vec(&event).expect("a vector takes all bytes");
        assert_eq!(event, [&[tag][..], b"USD", &[1, 0, 0, 0, 0, 0, 0, 0], &balance].concat());
    }
    let settled = Event::Settled { posting: Posting { is_reversal: false, ..reversal(1, 2) }, reserved: 2 };
    let settled = borsh::to_vec(&settled).expect("a vector takes all bytes");
    assert_eq!(settled, [&[10][..], b"USD", &[1, 0, 0, 0, 0, 0, 0, 0], &balance, &[0], &balance].concat());
    assert_eq!(account(Status::Frozen, 5), [&[1, 3, 0, 0, 0, 0, 0, 0, 0][..], b"USD", &5i128.to_le_bytes()].concat());
}
