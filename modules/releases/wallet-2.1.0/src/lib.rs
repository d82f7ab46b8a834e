//! The wallet: accounts that hold balances in ISO 4217 currencies, and the one operation that moves money between them.
//!
//! ```text
//! body ──plan──▶ steps on accounts ──decide──▶ postings ──apply──▶ account rows and the partition's own rows
//! ```
//!
//! In: the commands of `commands.rs`. Out: the events of `event.rs`, the rows of `account.rs`, `reservation.rs` and
//! `ledger.rs`.
//! It does not know partitions, HTTP, or how two accounts in different places are coordinated; no amount is a float.

mod commands;
mod currency;
mod amount;
mod money;
mod op;
mod event;
mod rejection;
mod limit;
mod account;
mod ledger;
mod reservation;
mod plan;
mod decide;
mod apply;
mod queries;
mod render;
mod check;
mod migrate;

use statehouse_guest::*;

pub use account::{Account, Status};
pub use amount::{format_amount, parse_amount};
pub use check::Tally;
pub use commands::{
    AccountName, AccountState, BalanceTransfer, Command, Deposit, LifecycleAnswer, LimitAnswer, MoneyAnswer, Open,
    SetDailyLimit, TransactionId, Withdraw,
};
pub use currency::Currency;
pub use event::{Event, Posting};
pub use ledger::{BALANCE_SIZE, settlement_key, transit_key};
pub use limit::DailyLimit;
pub use money::Money;
pub use op::{ACCOUNT, Op, SUSPENSE};
pub use queries::Query;
pub use rejection::{Rejection, Side};
pub use reservation::{RESERVED_BALANCE_MAX, reserved_key};

pub struct WalletModule;

#[module]
impl Module for WalletModule {
    const NAME: &'static str = "wallet";
    /// 2 added reservations to ops, events and rows. 3 added daily limits, and to the row of an account the number of its
    /// currencies. No op and no event of an earlier schema has changed; 2.1.0 added an op and an event, and no row.
    const SCHEMA: u32 = 3;
    const ACCEPTS: &'static [u32] = &[1, 2];
    const EVENTS: &'static [Named] = event::EVENTS;
    const INVARIANTS: &'static [Named] = check::INVARIANTS;

    type Command = Command;
    type Query = Query;
    type Op = Op;
    type Event = Event;
    type Rejection = Rejection;
    type Tally = Tally;

    fn plan(command: &Command, caller: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
        plan::plan(command, caller, planner)
    }

    fn validate(op: &Op, view: &View<'_>, events: &mut Events<'_, Event>) -> Result<(), Rejection> {
        events.emit(decide::decide(op, view)?);
        Ok(())
    }

    fn last_resort(op: &Op) -> Option<Op> {
        op.last_resort()
    }

    fn apply(event: &Event, tx: &mut Tx<'_>) {
        apply::apply(event, tx);
    }

    fn query(query: &Query, reader: &Reader<'_>) -> Result<Value, QueryStop> {
        queries::query(query, reader)
    }

    fn render_response(done: &Done<'_, Self>) -> Value {
        render::response(done)
    }

    fn render_rejected(done: &Done<'_, Self>) -> Value {
        render::rejected(done)
    }

    fn render_status(done: &Done<'_, Self>) -> Value {
        render::status(done)
    }

    fn render_event(event: &Event, context: &EventContext<'_, Self>) -> Value {
        render::event(event, context)
    }

    fn render_row(entity: &[u8], suffix: &[u8], row: &[u8]) -> Value {
        render::row(entity, suffix, row)
    }

    fn check_row(tally: &mut Tally, entity: &[u8], suffix: &[u8], row: &[u8], violations: &mut Violations) {
        check::row(tally, entity, suffix, row, violations);
    }

    fn check_end(tally: &Tally, violations: &mut Violations) {
        check::end(tally, violations);
    }

    fn migrate(from_schema: u32, entity: &[u8], rows: &[Row]) -> Result<Vec<Row>, String> {
        migrate::migrate(from_schema, entity, rows)
    }
}
