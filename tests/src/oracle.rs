//! Judges what a host has after a run: everything acknowledged is there, nothing is there twice, Σ = 0, and the audit
//! agrees.
//!
//! In: what clients asked and were told. Out: a panic that names the first breach. It recomputes balances from the
//! recorded outcomes on its own, and does not know how the host computes them.

pub mod model;
pub mod history;
pub mod judge;

use std::path::Path;

use crate::http::Client;
use crate::process::{CommandOutput, argument, cli};
use crate::wallet::{self, TransactionRecord};
use crate::workload::{Transfer, TransferOutcome};

/// The accounts of a run, each opened with the same amount.
pub struct Ledger {
    pub accounts: Vec<String>,
    /// The minor units that each account began with.
    pub opening: i128,
}

impl Ledger {
    /// Opens `count` accounts and pays `opening` into each.
    pub async fn open(client: &mut Client, count: usize, opening: i128) -> Self {
        let accounts: Vec<String> = (0..count).map(|number| format!("account-{number}")).collect();
        for account in &accounts {
            wallet::open(client, account).await;
            wallet::deposit(client, account, opening).await;
        }
        Self { accounts, opening }
    }

    /// Asserts that the host's record agrees with what clients were told, and its balances with the record.
    /// Returns how many transfers succeeded.
    pub async fn check(&self, client: &mut Client, attempts: &[(Transfer, TransferOutcome)]) -> usize {
        let mut expected = vec![self.opening; self.accounts.len()];
        let mut success_count = 0;
        for (transfer, told) in attempts {
            let recorded = wallet::recorded(client, transfer.id).await;
            assert!(agrees(told, &recorded), "told {told:?}, recorded {recorded:?}: {transfer:?}");
            if recorded == TransactionRecord::Success {
                success_count += 1;
                expected[transfer.from] -= transfer.amount;
                expected[transfer.to] += transfer.amount;
            }
        }
        let mut sum = wallet::balance(client, wallet::BANK).await;
        for (account, expected) in self.accounts.iter().zip(expected) {
            let found = wallet::balance(client, account).await;
            assert_eq!(found, expected, "{account}: some transfer was applied not exactly once");
            assert!(0 <= found, "{account} is below zero: {found}");
            sum += found;
        }
        assert_eq!(sum, 0, "the books do not balance");
        success_count
    }
}

/// Asserts that the auditor's command finds nothing wrong in the folder of a live or stopped host.
pub fn check_audit(data: &Path) {
    let CommandOutput { code, stdout, stderr } = cli(["audit", "verify", "--data", argument(data)]);
    assert_eq!(code, Some(0), "audit verify found something:\n{stdout}\n{stderr}");
}

fn agrees(told: &TransferOutcome, recorded: &TransactionRecord) -> bool {
    match told {
        TransferOutcome::Done => *recorded == TransactionRecord::Success,
        TransferOutcome::Rejected(code) => *recorded == TransactionRecord::Rejected(code.clone()),
        TransferOutcome::NotAccepted => *recorded == TransactionRecord::Absent,
        TransferOutcome::Unknown => true,
    }
}

#[test]
fn what_was_acknowledged_must_be_recorded_as_it_was() {
    let rejected = |code: &str| TransactionRecord::Rejected(code.to_owned());
    let funds = TransferOutcome::Rejected("insufficient_funds".to_owned());
    assert!(
        agrees(&TransferOutcome::Done, &TransactionRecord::Success)
            && !agrees(&TransferOutcome::Done, &TransactionRecord::Absent)
    );
    assert!(agrees(&funds, &rejected("insufficient_funds")) && !agrees(&funds, &rejected("account_frozen")));
    assert!(
        agrees(&TransferOutcome::NotAccepted, &TransactionRecord::Absent)
            && !agrees(&TransferOutcome::NotAccepted, &TransactionRecord::Success)
    );
    assert!(
        agrees(&TransferOutcome::Unknown, &TransactionRecord::Success)
            && agrees(&TransferOutcome::Unknown, &TransactionRecord::Absent)
    );
}
