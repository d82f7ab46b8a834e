//! The wallet again, with as little as possible: what one thread decides about commands in the order of the journal.
//!
//! In: commands. Out: outcomes, and every state that each account ever had. It shares no code with the module or the
//! host, so that it does not share their mistakes. It knows the commands that the kit sends, and one currency.

use std::collections::BTreeMap;

/// How a move between two partitions is coordinated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    #[default]
    Saga,
    /// Try-Confirm/Cancel.
    Phases,
}

/// A command, reduced to what a decision depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
        by: Protocol,
    },
    /// The payer's side of a move to another partition.
    Pay {
        from: String,
        amount: i128,
    },
    /// The payee's side.
    Receive {
        to: String,
        amount: i128,
    },
    /// The payee makes sure that it can receive, and moves nothing.
    Reserve {
        to: String,
    },
    /// The payee need not receive any more.
    Release {
        to: String,
    },
    /// The payer gets back what the payee could not receive.
    Refund {
        from: String,
        amount: i128,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// With the code of the rejection.
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
    /// What left for other partitions and was not returned, less what arrived from them.
    transit: i128,
}

impl Wallet {
    /// Decides a command, and carries it out when nothing speaks against it.
    pub fn decide(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Open { account } if self.accounts.contains_key(account) => rejected("account_exists"),
            Command::Open { account } => {
                self.accounts.insert(account.clone(), Account { version: 1, balance: 0 });
                Outcome::Success
            }
            Command::Move { from, to, amount, .. } => match self.payer(from, *amount).or_else(|| self.payee(to)) {
                Some(code) => rejected(code),
                None => {
                    self.post(from, -amount);
                    self.post(to, *amount);
                    Outcome::Success
                }
            },
            Command::Pay { from, amount } => {
                let objection = self.payer(from, *amount);
                self.post_unless(objection, from, -amount)
            }
            Command::Receive { to, amount } | Command::Refund { from: to, amount } => {
                let objection = self.payee(to);
                self.post_unless(objection, to, *amount)
            }
            Command::Reserve { to } => self.payee(to).map_or(Outcome::Success, rejected),
            Command::Release { .. } => Outcome::Success,
        }
    }

    /// What speaks against the payer, who is asked first, because money leaves before it arrives.
    fn payer(&self, from: &str, amount: i128) -> Option<&'static str> {
        match self.accounts.get(from) {
            _ if is_settlement(from) => None,
            None => Some("account_not_found"),
            Some(payer) if payer.balance < amount => Some("insufficient_funds"),
            Some(_) => None,
        }
    }

    fn payee(&self, to: &str) -> Option<&'static str> {
        (!is_settlement(to) && !self.accounts.contains_key(to)).then_some("account_not_found")
    }

    /// Posts one side of a move; the other side is in transit.
    fn post_unless(&mut self, objection: Option<&str>, name: &str, amount: i128) -> Outcome {
        if let Some(code) = objection {
            return rejected(code);
        }
        self.post(name, amount);
        self.transit -= amount;
        Outcome::Success
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

    /// The sum of everything: any difference from 0 came from nowhere or went nowhere.
    pub fn sum(&self) -> i128 {
        let balances = self.accounts.values().map(|account| account.balance);
        balances.chain(self.settlements.values().copied()).sum::<i128>() + self.transit
    }

    /// What is on its way from this partition, less what arrived.
    pub fn transit(&self) -> i128 {
        self.transit
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
    let send = |from: &str, to: &str, amount| {
        let (from, to, by) = (from.to_owned(), to.to_owned(), Protocol::Saga);
        Command::Move { from, to, amount, by }
    };
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
    let script = [
        (Command::Pay { from: "a".to_owned(), amount: 4 }, rejected("insufficient_funds")),
        (Command::Pay { from: "a".to_owned(), amount: 2 }, Outcome::Success),
        (Command::Receive { to: "c".to_owned(), amount: 1 }, rejected("account_not_found")),
        (Command::Reserve { to: "c".to_owned() }, rejected("account_not_found")),
        (Command::Reserve { to: "b".to_owned() }, Outcome::Success),
        (Command::Release { to: "b".to_owned() }, Outcome::Success),
        (Command::Receive { to: "b".to_owned(), amount: 1 }, Outcome::Success),
        (Command::Refund { from: "a".to_owned(), amount: 2 }, Outcome::Success),
    ];
    for (command, expected) in script {
        assert_eq!(wallet.decide(&command), expected, "{command:?}");
    }
    assert_eq!((wallet.transit(), wallet.sum()), (-1, 0));
}
