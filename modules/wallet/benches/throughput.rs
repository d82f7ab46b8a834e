//! Transfers a second through `execute` and `apply`, natively: 1,000,000 accounts, batches of 8,192.
//!
//! All blocks are built beforehand, so the host's work is not counted. Processor time, not the clock's. Run: `cargo bench -p wallet --bench throughput`.

use std::collections::BTreeMap;
use std::time::Duration;

use statehouse_guest::LOCAL;
use statehouse_guest::abi::call::{Context, ExecuteOut, write_apply_in, write_execute_in};
use statehouse_guest::abi::key::key;
use statehouse_guest::abi::ops::{OpRole, OpsWriter};
use statehouse_guest::abi::outcome::OutcomeBlock;
use statehouse_guest::abi::rows::RowsWriter;
use statehouse_guest::borsh;
use statehouse_guest::native::{self, Export};
use wallet::{ACCOUNT, Account, BALANCE_SIZE, Currency, Money, Op, WalletModule, transit_key};

const ACCOUNTS: u64 = 1_000_000;
const BATCHES: u64 = 16;
const TRANSFERS: u64 = 8_192;
const ROUNDS: u32 = 32;
const USD: Currency = Currency(*b"USD");

fn main() {
    let mut chance = 0x9e37_79b9_7f4a_7c15;
    let (mut execute, mut apply, mut ops_size) = (Duration::ZERO, Duration::ZERO, 0);
    for _ in 0..BATCHES {
        let batch = batch(&mut chance);
        let output = native::call::<WalletModule>(Export::Execute, &batch.execute_in);
        let output = ExecuteOut::parse(&output).expect("execute gives an EXECUTE_OUT block");
        let outcome = OutcomeBlock::parse_trusted(output.outcome).expect("the outcome is a block");
        assert_eq!(outcome.event_count() as u64, 2 * TRANSFERS, "every transfer has two events");
        let apply_in = write_apply_in(Vec::new(), context(), &batch.ops, &batch.rows, output.outcome);
        let writes = native::call::<WalletModule>(Export::Apply, &apply_in);
        assert!(writes == output.writes, "execute and apply write the same rows");
        execute += average(|| native::call::<WalletModule>(Export::Execute, &batch.execute_in));
        apply += average(|| native::call::<WalletModule>(Export::Apply, &apply_in));
        ops_size += batch.ops.len() as u64;
    }
    report("execute", execute);
    report("apply", apply);
    report("both", execute + apply);
    println!("ops block  {:>4} bytes a transfer", ops_size / (BATCHES * TRANSFERS));
}

/// Processor time of one call, on average: other work on the machine does not count, as it would on a clock.
fn average(call: impl Fn() -> Vec<u8>) -> Duration {
    let start = processor_time();
    for _ in 0..ROUNDS {
        std::hint::black_box(call());
    }
    (processor_time() - start) / ROUNDS
}

/// What the kernel says this thread has run for.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux keeps it");
    let nanoseconds = stat.split_whitespace().next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.expect("the first field is nanoseconds"))
}

fn report(what: &str, time: Duration) {
    let transfers = u128::from(BATCHES * TRANSFERS);
    let per_second = transfers * 1_000_000_000 / time.as_nanos();
    println!("{what:<8} {per_second:>10} transfers/s  {:>5} ns a transfer", time.as_nanos() / transfers);
}

struct Batch {
    ops: Vec<u8>,
    rows: Vec<u8>,
    execute_in: Vec<u8>,
}

fn context() -> Context {
    Context { time: 1, seed: [0; 32] }
}

/// Transfers between accounts chosen by chance, each with the keys that `plan` declares.
fn batch(chance: &mut u64) -> Batch {
    let (mut ops, mut rows) = (OpsWriter::default(), RowsWriter::default());
    let mut account_row = Account::opened(USD);
    Account::set_balance(&mut account_row, USD, 1_000_000_000);
    let transit = ops.key(&key(LOCAL, &transit_key(USD)));
    rows.row(Some(&[0; BALANCE_SIZE]));
    let mut known = BTreeMap::new();
    for transfer in 0..TRANSFERS {
        ops.group(transfer as u32);
        let money = Money { currency: USD, amount: 1 + next(chance) % 1_000 };
        let payer = next(chance) % ACCOUNTS;
        let payee = (payer + 1 + next(chance) % (ACCOUNTS - 1)) % ACCOUNTS;
        for (op, account) in [(Op::Debit(money), payer), (Op::Credit(money), payee)] {
            let name = format!("account-{account:07}");
            let key = *known.entry(account).or_insert_with(|| {
                rows.row(Some(&account_row));
                ops.key(&key(name.as_bytes(), ACCOUNT))
            });
            let payload = borsh::to_vec(&op).expect("a vector takes all bytes");
            ops.op(name.as_bytes(), &payload, [key, transit], OpRole::Step);
        }
    }
    let (ops, rows) = (ops.finish(Vec::new()), rows.finish(Vec::new()));
    let execute_in = write_execute_in(Vec::new(), context(), &ops, &rows);
    Batch { ops, rows, execute_in }
}

/// xorshift: chance enough for account numbers, and the same in every run.
fn next(chance: &mut u64) -> u64 {
    *chance ^= *chance << 13;
    *chance ^= *chance >> 7;
    *chance ^= *chance << 17;
    *chance
}
