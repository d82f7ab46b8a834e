//! The bodies of commands and queries and of their answers, and the set of commands.
//!
//! Amounts and currencies are text here; `plan.rs` makes money of them. It does not know what a command does.

use statehouse_guest::{Body, Commands, Uuid, Value};

#[derive(Body)]
pub struct BalanceTransfer {
    /// The account that pays; a settlement account (`@…`) needs the role `treasury`
    #[body(name, max_chars = 64)]
    pub from_account: String,
    /// The account that receives
    #[body(name, max_chars = 64)]
    pub to_account: String,
    /// Decimal, greater than 0, no more decimals than the currency has
    #[body(decimal)]
    pub amount: String,
    /// ISO 4217 code, upper case
    #[body(currency)]
    pub currency: String,
    /// Chosen by the client; the same id is never carried out twice
    pub transaction_id: Uuid,
    /// `saga` (default) or `tcc`: how two partitions are coordinated
    #[body(max_chars = 16)]
    pub coordination: Option<String>,
}

#[derive(Body)]
pub struct Deposit {
    /// The account that receives
    #[body(name, max_chars = 64)]
    pub account: String,
    /// Decimal, greater than 0, no more decimals than the currency has
    #[body(decimal)]
    pub amount: String,
    /// ISO 4217 code, upper case
    #[body(currency)]
    pub currency: String,
    /// Chosen by the client; the same id is never carried out twice
    pub transaction_id: Uuid,
    /// The settlement account that pays, `@bank` by default
    #[body(name, max_chars = 64)]
    pub settlement: Option<String>,
}

#[derive(Body)]
pub struct Withdraw {
    /// The account that pays
    #[body(name, max_chars = 64)]
    pub account: String,
    /// Decimal, greater than 0, no more decimals than the currency has
    #[body(decimal)]
    pub amount: String,
    /// ISO 4217 code, upper case
    #[body(currency)]
    pub currency: String,
    /// Chosen by the client; the same id is never carried out twice
    pub transaction_id: Uuid,
    /// The settlement account that receives, `@bank` by default
    #[body(name, max_chars = 64)]
    pub settlement: Option<String>,
}

#[derive(Body)]
pub struct Open {
    /// 1 to 64 of letters, digits, `.`, `_`, `:` and `-`
    #[body(name, max_chars = 64)]
    pub account: String,
    /// ISO 4217 code, upper case
    #[body(currency)]
    pub currency: String,
}

#[derive(Body)]
pub struct SetDailyLimit {
    #[body(name, max_chars = 64)]
    pub account: String,
    /// ISO 4217 code, upper case
    #[body(currency)]
    pub currency: String,
    /// Decimal, greater than 0, no more decimals than the currency has; without it everything may leave
    #[body(decimal)]
    pub limit: Option<String>,
}

#[derive(Body)]
pub struct AccountName {
    #[body(name, max_chars = 64)]
    pub account: String,
}

#[derive(Body)]
pub struct TransactionId {
    pub transaction_id: Uuid,
}

#[derive(Body)]
pub struct MoneyAnswer {
    /// Always `success`
    #[body(rename = "Status")]
    pub status: String,
    #[body(rename = "Transaction_id")]
    pub transaction_id: Uuid,
    /// Account, currency, balance afterwards; settlement accounts are left out
    pub balances: Value,
}

#[derive(Body)]
pub struct LifecycleAnswer {
    pub account: String,
    /// `open`, `frozen` or `closed`
    pub status: String,
    /// The currency that was opened
    pub currency: Option<String>,
}

#[derive(Body)]
pub struct LimitAnswer {
    pub account: String,
    pub currency: String,
    /// Absent when everything may leave
    pub limit: Option<String>,
}

#[derive(Body)]
pub struct AccountState {
    pub account: String,
    /// `open`, `frozen` or `closed`
    pub status: String,
    /// How many events have changed the account; absent for a settlement account
    pub version: Option<u64>,
    /// Currency and balance
    pub balances: Value,
    /// Currency, and what may leave on one UTC day: `limit`, and `left` of it today; absent where there is no limit
    pub daily_limits: Option<Value>,
}

#[derive(Commands)]
pub enum Command {
    /// Moves an amount from one account to another: both sides happen, or neither
    #[command(path = "balance_transfer", id = "transaction_id", response = MoneyAnswer)]
    BalanceTransfer(BalanceTransfer),
    /// Moves an amount from a settlement account to an account; needs the role `treasury`
    #[command(path = "deposit", id = "transaction_id", response = MoneyAnswer)]
    Deposit(Deposit),
    /// Moves an amount from an account to a settlement account
    #[command(path = "withdraw", id = "transaction_id", response = MoneyAnswer)]
    Withdraw(Withdraw),
    /// Opens an account, or another currency of an account
    #[command(path = "accounts", success = 201, response = LifecycleAnswer)]
    Open(Open),
    /// Lets an account neither pay nor receive
    #[command(path = "accounts/{account}/freeze", response = LifecycleAnswer)]
    Freeze(AccountName),
    /// Opens a frozen account again
    #[command(path = "accounts/{account}/unfreeze", response = LifecycleAnswer)]
    Unfreeze(AccountName),
    /// Closes an account that holds nothing, for good
    #[command(path = "accounts/{account}/close", response = LifecycleAnswer)]
    Close(AccountName),
    /// Sets how much may leave an account on one UTC day, or lets everything leave
    #[command(path = "accounts/{account}/daily_limit", response = LimitAnswer)]
    SetDailyLimit(SetDailyLimit),
}
