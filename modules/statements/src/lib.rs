//! The view `statements`: every account of the wallet as it was at any moment, and what was posted to it between two.
//!
//! ```text
//! decisions ──read──▶ AccountEvent ──project──▶ line (what happened, and the account after it) ──query──▶ state, statement
//! ```
//!
//! Balances are taken from the events as the wallet shows them; only those of settlement accounts are added up here, because the wallet
//! shows the other side alone. Each partition has its own part of a settlement account: what is asked about one is the sum.

mod event;
mod rows;
mod queries;

use statehouse_guest::{QueryStop, Value};
use statehouse_projection::{Keys, Pending, Projection, Reader, ViewTx};

pub use event::AccountEvent;
pub use queries::Query;

pub struct Statements;

impl Projection for Statements {
    const NAME: &'static str = "statements";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SOURCE: &'static str = "wallet";
    const SCHEMA: u32 = 1;

    type Event = AccountEvent;
    type Query = Query;

    fn keys(event: &AccountEvent, keys: &mut Keys) {
        keys.key(&event.account, rows::HEAD);
    }

    fn project(event: &AccountEvent, tx: &mut ViewTx<'_>) -> Result<(), Pending> {
        rows::add_line(event, tx)
    }

    fn query(query: &Query, reader: &Reader<'_>) -> Result<Value, QueryStop> {
        queries::query(query, reader)
    }
}

statehouse_projection::export!(Statements);
