//! The wallet again, as little as possible of it: what one thread decides about commands in the order of the journal.
//!
//! In: commands. Out: outcomes, and every state that each account ever had. It shares no code with the module or with the
//! host, so that a mistake of theirs is not its own. It knows the commands that the kit sends, and one currency.

use std::collections::BTreeMap;

/// A command as far as it decides anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Open {
        account: String,
    },
    /// Either side may be a settlement account, but not both.
    Move {
        from: String,
        to: String,
        /// Minor units.
        amount: i128,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// With the code.
    Rejected(String),
}

/// An account after `version` events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub version: u64,
    pub balance: i128,
}

/// The accounts of one partition.
#[derive(Clone, Debug, Default)]
pub struct Wallet {
    accounts: BTreeMap<String, Account>,
    /// Settlement accounts, which may be below zero.
    settlements: BTreeMap<String, i128>,
}

impl Wallet {
    /// Decides about a command, and carries it out when nothing is against it.
    pub fn decide(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Open { account } if self.accounts.contains_key(account) => rejected("account_exists"),
            Command::Open { account } => {
                self.accounts.insert(account.clone(), Account { version: 1, balance: 0 });
                Outcome::Success
            }
            Command::Move { from, to, amount } => match self.objection(from, to, *amount) {
                Some(code) => rejected(code),
                None => {
                    self.post(from, -amount);
                    self.post(to, *amount);
                    Outcome::Success
                }
            },
        }
    }

    /// The payer is asked first, as money leaves before it arrives.
    fn objection(&self, from: &str, to: &str, amount: i128) -> Option<&'static str> {
        if !is_settlement(from) {
            match self.accounts.get(from) {
                None => return Some("account_not_found"),
                Some(payer) if payer.balance < amount => return Some("insufficient_funds"),
                Some(_) => {}
            }
        }
        (!is_settlement(to) && !self.accounts.contains_key(to)).then_some("account_not_found")
    }

    fn post(&mut self, name: &str, amount: i128) {
        if is_settlement(name) {
            *self.settlements.entry(name.to_owned()).or_default() += amount;
            return;
        }
        let account = self.accounts.get_mut(name).expect("whoever objects to a missing account was asked");
        account.version += 1;
        account.balance += amount;
    }

    pub fn accounts(&self) -> &BTreeMap<String, Account> {
        &self.accounts
    }

    /// Everything together: what came from nowhere or went there.
    pub fn sum(&self) -> i128 {
        self.accounts.values().map(|account| account.balance).chain(self.settlements.values().copied()).sum()
    }
}

fn is_settlement(name: &str) -> bool {
    name.starts_with('@')
}

fn rejected(code: &str) -> Outcome {
    Outcome::Rejected(code.to_owned())
}

#[test]
fn money_moves_once_and_only_where_it_is() {
    let mut wallet = Wallet::default();
    let open = |account: &str| Command::Open { account: account.to_owned() };
    let send = |from: &str, to: &str, amount| Command::Move { from: from.to_owned(), to: to.to_owned(), amount };
    let script = [
        (open("a"), Outcome::Success),
        (open("a"), rejected("account_exists")),
        (send("@bank", "a", 10), Outcome::Success),
        (send("@bank", "b", 10), rejected("account_not_found")),
        (open("b"), Outcome::Success),
        (send("a", "b", 7), Outcome::Success),
        (send("a", "b", 4), rejected("insufficient_funds")),
        (send("c", "b", 4), rejected("account_not_found")),
        (send("b", "@bank", 2), Outcome::Success),
    ];
    for (command, expected) in script {
        assert_eq!(wallet.decide(&command), expected, "{command:?}");
    }
    assert_eq!(wallet.accounts["a"], Account { version: 3, balance: 3 });
    assert_eq!(wallet.accounts["b"], Account { version: 3, balance: 5 });
    assert_eq!(wallet.sum(), 0);
}
