//! The disk fills up: writes are refused as certainly not accepted, reads continue, and service resumes automatically.
//!
//! It needs a small file system of its own and is skipped, with the reason printed, where mounting is not permitted.

use statehouse_tests::disk::Disk;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::Host;
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::skipped::skipped;
use statehouse_tests::wallet;
use statehouse_tests::workload::Workload;

const CLIENTS: usize = 16;
const ACCOUNTS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_serves_reads_and_resumes_by_itself() {
    let disk = match Disk::mount() {
        Ok(disk) => disk,
        Err(reason) => return skipped(&format!("no file system of its own can be mounted here: {reason}")),
    };
    let data = disk.path().join("data");
    let host = Host::start(&data).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, ACCOUNTS, 1_000_000).await;
    let workload = Workload::start(host.address(), &ledger.accounts, CLIENTS, 1);

    disk.fill();
    eventually("writes are refused", async || (0 < workload.not_accepted_count()).then_some(())).await;
    for account in &ledger.accounts {
        let balance = wallet::balance(&mut client, account).await;
        assert!(0 <= balance, "reads go on: {account} has {balance}");
    }

    disk.free();
    let enough = workload.done_count() + CLIENTS;
    eventually("service resumes", async || (enough <= workload.done_count()).then_some(())).await;
    let attempts = workload.stop().await;
    ledger.check(&mut client, &attempts).await;
    host.kill();
    check_audit(&data);
    let host = Host::start(&data).await;
    ledger.check(&mut host.client(), &attempts).await;
}
